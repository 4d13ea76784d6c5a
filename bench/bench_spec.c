/* bench_spec.c - times the verification of chains next to the mere reading of the rows that it must read, and
 * sampling and verification of logits.
 *
 *     cc -std=c11 -O2 -march=native -I. bench/bench_spec.c -o build/bench/bench_spec -lm
 *     bench_spec [--quick] [--csv FILE]        exit status 1 if cold rows take more than 1.5 times as long
 *
 * HOW IT MEASURES
 *   A batch of chains, gamma = 5, vocabulary 128,256, f32 probabilities.  Chain b is rejected at place b mod
 *   6, 5 being none: token verification must read the target's and the draft's row there, or the target's
 *   last row.  Reading is a loop of vector additions over just these rows.  Both take turns, on the same
 *   memory, many rounds; the fastest round of each is compared.  cold: all rows were flushed from the caches;
 *   warm: one chain again and again, its rows in the cache.
 *
 *   Logits: f32, temperature 0.8, vocabularies 256 and 128,256, warm; drafts are drawn from their rows,
 *   which are the target's with noise.  The fastest of several rounds over 16 offsets of the coins. */
#include "bench.h"

#include "flashattn_spec.h"

enum { GAMMA = 5, VOCAB = 128256 };

typedef struct batch {
    int count;
    float *target, *draft; /* (count, GAMMA + 1, VOCAB), (count, GAMMA, VOCAB) */
    int32_t *drafts, *tokens, *num_out;
    uint64_t *coins;
    fa_verify_args args;
} batch;

/* A peaked distribution: its largest entry has about a third. */
static void fill(float *row, uint64_t *seed) {
    double sum = 0;
    for (int i = 0; i < VOCAB; i++) {
        *seed = *seed * 6364136223846793005u + 1442695040888963407u;
        const float u = (float)(*seed >> 40) * 0x1p-24f, v = u * u, w = v * v;
        row[i] = w * w * w * w * 1e-3f + 1e-9f, sum += (double)row[i];
    }
    row[*seed >> 33 & 0xffff] += (float)sum, sum *= 2;
    for (int i = 0; i < VOCAB; i++) row[i] = (float)((double)row[i] / sum);
}

static batch make(int count) {
    batch x;
    uint64_t seed = 1;
    const size_t n = (size_t)count;
    memset(&x, 0, sizeof x);
    x.count = count;
    x.target = (float *)bench_alloc(n * (GAMMA + 1) * VOCAB * sizeof(float));
    x.draft = (float *)bench_alloc(n * GAMMA * VOCAB * sizeof(float));
    x.drafts = (int32_t *)bench_alloc(n * GAMMA * sizeof(int32_t));
    x.tokens = (int32_t *)bench_alloc(n * (GAMMA + 1) * sizeof(int32_t));
    x.num_out = (int32_t *)bench_alloc(n * sizeof(int32_t));
    x.coins = (uint64_t *)bench_alloc(n * (GAMMA + 1) * sizeof(uint64_t));
    for (int b = 0; b < count; b++) {
        const size_t at = (size_t)b;
        for (size_t r = 0; r < GAMMA + 1; r++) fill(x.target + (at * (GAMMA + 1) + r) * VOCAB, &seed);
        for (size_t r = 0; r < GAMMA; r++) {
            const float *p = x.target + (at * (GAMMA + 1) + r) * VOCAB,
                        *q = x.draft + (at * GAMMA + r) * VOCAB;
            fill(x.draft + (at * GAMMA + r) * VOCAB, &seed);
            int32_t token = 0;
            while (token < VOCAB - 1 && q[token] <= 2 * p[token]) token++;
            x.drafts[at * GAMMA + r] = token;
            x.coins[at * (GAMMA + 1) + r + 1] =
                (int)r == b % (GAMMA + 1) ? UINT64_MAX : 0; /* rejects, accepts */
        }
        x.coins[at * (GAMMA + 1)] = (uint64_t)(b * 2 + 1) << 57;
    }
    x.args.vocab = VOCAB, x.args.rule = FA_VERIFY_TOKEN, x.args.target.data = x.target,
    x.args.draft.data = x.draft;
    x.args.target.kind = x.args.draft.kind = FA_PROBS, x.args.coins.coins = x.coins;
    x.args.chains.batch = count, x.args.chains.num_tokens = GAMMA, x.args.chains.token = x.drafts;
    x.args.tokens = x.tokens, x.args.num_out = x.num_out;
    return x;
}

/* Calls f with each row that must be read. */
static int each_row(const batch *x, float (*f)(const float *), float *sum) {
    int rows = 0;
    for (int b = 0; b < x->count; b++) {
        const size_t at = (size_t)b, place = at % (GAMMA + 1);
        *sum += f(x->target + (at * (GAMMA + 1) + place) * VOCAB), rows++;
        if (place < GAMMA) *sum += f(x->draft + (at * GAMMA + place) * VOCAB), rows++;
    }
    return rows;
}

#if defined(FAI_SPEC_LANES)
enum { L = 2 * FAI_SPEC_LANES }; /* floats of the widest vector */
#else
enum { L = 4 };
#endif
typedef float floats __attribute__((vector_size(4 * L), aligned(4)));
static float read_row(const float *row) {
    floats sum0 = {0}, sum1 = {0}, sum2 = {0}, sum3 = {0};
    float total = 0;
    for (int i = 0; i < VOCAB; i += 4 * L) {
        sum0 += *(const floats *)(row + i), sum1 += *(const floats *)(row + i + L);
        sum2 += *(const floats *)(row + i + 2 * L), sum3 += *(const floats *)(row + i + 3 * L);
    }
    sum0 += sum1 + sum2 + sum3;
    for (int n = 0; n < L; n++) total += sum0[n];
    return total;
}
static float flush_row(const float *row) {
#if defined(__x86_64__)
    for (int i = 0; i < VOCAB; i += 16) __builtin_ia32_clflush(row + i);
    __builtin_ia32_mfence();
#endif
    return row == NULL;
}

/* ---- logits ---- */

enum { NODES = 22, CALLS = 16 }; /* a tree of 3, 3, 1 children; chains take the first rows */

typedef struct logits {
    int32_t vocab, parent[NODES], token[NODES], out[NODES];
    float *target, *draft; /* (NODES, vocab) */
    uint64_t *workspace, seed, offset;
    fa_sample_args sample;
    fa_verify_args verify;
    int chain;
} logits;

static int sample_logits(logits *x) { return fa_sample(&x->sample) != FA_OK; }
static int verify_logits(logits *x) {
    return x->chain ? fa_verify_chain(&x->verify) != FA_OK
                    : fa_verify_tree(&x->verify, x->workspace, (2 * (size_t)x->vocab + 1) * 8) != FA_OK;
}

/* Microseconds of a call. */
static double time_logits(logits *x, int (*f)(logits *), int quick) {
    double best = 1e9;
    for (int round = 0; round < (quick ? 5 : 30); round++) {
        const double t = bench_wall();
        int failed = 0;
        for (x->offset = 0; x->offset < CALLS; x->offset++) failed |= f(x);
        best = fmin(best, bench_wall() - t);
        if (failed) return (double)NAN;
    }
    return best / CALLS * 1e6;
}

static void report(FILE *file, const logits *x, const char *what, double us) {
    printf("  %-38s %9.2f us, %6.2f ns an entry\n", what, us, us * 1e3 / x->vocab);
    if (file) fprintf(file, "\"%s\",,%d,logits,1,,%.3f,,\n", what, x->vocab, us);
}

static int bench_logits(int32_t vocab, int quick, FILE *file) {
    static const float temperature = 0.8f, top_p = 0.9f;
    static const int32_t top_k = 40;
    static const char *const rules[4] = {"verify 3 drafts, token", "verify 3 drafts, block",
                                         "verify 22 nodes, with replacement", "verify 22 nodes, without"};
    logits x;
    uint64_t seed = 1;
    memset(&x, 0, sizeof x);
    x.vocab = vocab, x.seed = 5;
    x.target = (float *)bench_alloc((size_t)NODES * (size_t)vocab * sizeof(float));
    x.draft = (float *)bench_alloc((size_t)NODES * (size_t)vocab * sizeof(float));
    x.workspace = (uint64_t *)bench_alloc((2 * (size_t)vocab + 1) * 8);
    for (int64_t i = 0; i < (int64_t)NODES * vocab; i++) {
        float sum[2] = {0, 0}; /* nearly normal, deviations 2.5 and 0.6 */
        for (int n = 0; n < 16; n++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            sum[n & 1] += (float)(seed >> 40) * 0x1p-24f - 0.5f;
        }
        x.target[i] = sum[0] * 3, x.draft[i] = x.target[i] + sum[1] * 0.7f;
    }
    x.sample.batch = 1, x.sample.vocab = vocab, x.sample.rows.data = x.draft, x.sample.tokens = x.out;
    x.sample.sampling.temperature = &temperature, x.sample.coins.seed = &x.seed,
    x.sample.coins.offset = &x.offset;
    printf("logits, vocabulary %d, one thread\n", vocab);
    report(file, &x, "sample", time_logits(&x, sample_logits, quick));
    x.sample.num_samples = 4, x.sample.without_replacement = 1;
    report(file, &x, "sample 4 without replacement", time_logits(&x, sample_logits, quick));
    x.sample.num_samples = 1, x.sample.sampling.top_k = &top_k;
    report(file, &x, "sample, top-k 40", time_logits(&x, sample_logits, quick));
    x.sample.sampling.top_k = NULL, x.sample.sampling.top_p = &top_p;
    report(file, &x, "sample, top-p 0.9", time_logits(&x, sample_logits, quick));
    x.sample.sampling.top_p = NULL;
    x.verify.vocab = vocab, x.verify.target.data = x.target, x.verify.draft.data = x.draft;
    x.verify.sampling = x.sample.sampling, x.verify.coins = x.sample.coins, x.verify.tokens = x.out;
    x.verify.chains.batch = x.verify.trees.batch = 1, x.verify.chains.num_tokens = 3;
    x.verify.chains.token = x.token + 1, x.verify.trees.num_nodes = NODES;
    x.verify.trees.parent = x.parent, x.verify.trees.token = x.token;
    int status = 0;
    for (int r = 0; r < 4; r++) {
        static const int rule[4] = {FA_VERIFY_TOKEN, FA_VERIFY_BLOCK, FA_VERIFY_WITH_REPLACEMENT,
                                    FA_VERIFY_WITHOUT_REPLACEMENT};
        x.verify.rule = rule[r], x.chain = r < 2, x.sample.without_replacement = r == 3, x.offset = 99;
        x.parent[0] = -1;
        for (int32_t n = 0, next = 1; n < (x.chain ? 3 : 13); n++) { /* the children of node n: next .. */
            const int32_t children = x.chain ? 1 : n < 4 ? 3 : 1;
            x.sample.rows.data = x.draft + (int64_t)n * vocab, x.sample.node = &next;
            x.sample.num_samples = children, x.sample.tokens = x.token + next;
            status |= fa_sample(&x.sample) != FA_OK;
            for (int i = 0; i < children; i++) x.parent[next++] = n;
        }
        report(file, &x, rules[r], time_logits(&x, verify_logits, quick));
    }
    free(x.target), free(x.draft), free(x.workspace);
    return status;
}

int main(int argc, char **argv) {
    int quick = 0, slow = 0;
    const char *csv = NULL;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--quick"))
            quick = 1;
        else if (!strcmp(argv[i], "--csv") && i + 1 < argc)
            csv = argv[++i];
        else
            return fprintf(stderr, "usage: bench_spec [--quick] [--csv FILE]\n"), 2;
    }
    FILE *file = csv ? fopen(csv, "w") : NULL;
    if (csv && !file) return perror(csv), 2;
    if (file) fputs("rule,gamma,vocab,rows,chains,read_us,verify_us,ratio,read_gb_s\n", file);
    printf("chain verification, gamma %d, vocabulary %d, f32 probabilities, one thread\n", GAMMA, VOCAB);
    for (int warm = 0; warm < 2; warm++) {
        batch x = make(warm ? 1 : 12);
        double read = 1e9, verify = 1e9;
        float sum = 0;
        int rows = 0;
        const int calls = warm ? 20 : 1;
        for (int round = 0; round < (quick ? 10 : 60); round++) {
            if (!warm) each_row(&x, flush_row, &sum);
            double t = bench_wall();
            for (int c = 0; c < calls; c++) rows = each_row(&x, read_row, &sum);
            read = fmin(read, (bench_wall() - t) / calls);
            if (!warm) each_row(&x, flush_row, &sum);
            t = bench_wall();
            for (int c = 0; c < calls; c++)
                if (fa_verify_chain(&x.args) != FA_OK) return puts("fa_verify_chain failed"), 2;
            verify = fmin(verify, (bench_wall() - t) / calls);
        }
        for (int b = 0; b < x.count; b++)
            if (x.num_out[b] != b % (GAMMA + 1) + 1)
                return printf("chain %d: %d tokens\n", b, x.num_out[b]), 2;
        const double each = 1e6 / x.count, gb = (double)rows * VOCAB * 4 / read * 1e-9;
        printf("  rows %s: reading %.1f us, verification %.1f us a chain: %.2f times as long (read at %.1f "
               "GB/s)%s\n",
               warm ? "warm" : "cold", read * each, verify * each, verify / read, gb,
               isfinite(sum) ? "" : "!");
        if (file)
            fprintf(file, "token,%d,%d,%s,%d,%.2f,%.2f,%.3f,%.2f\n", GAMMA, VOCAB, warm ? "warm" : "cold",
                    x.count, read * each, verify * each, verify / read, gb);
        slow |= !warm && !(verify / read <= 1.5);
        free(x.target), free(x.draft), free(x.drafts), free(x.tokens), free(x.num_out), free(x.coins);
    }
    if (bench_logits(256, quick, file) || bench_logits(VOCAB, quick, file))
        return puts("fa_sample failed"), 2;
    if (file) fclose(file);
    return slow;
}
