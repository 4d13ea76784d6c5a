/* bench_spec.c - times the verification of chains next to the mere reading of the rows that it must read.
 *
 *     cc -std=c11 -O2 -march=native -I. bench/bench_spec.c -o build/bench/bench_spec -lm
 *     bench_spec [--quick] [--csv FILE]        exit status 1 if cold rows take more than 1.5 times as long
 *
 * HOW IT MEASURES
 *   A batch of chains, gamma = 5, vocabulary 128,256, f32 probabilities.  Chain b is rejected at place b mod
 *   6, 5 being none: token verification must read the target's and the draft's row there, or the target's
 *   last row.  Reading is a loop of vector additions over just these rows.  Both take turns, on the same
 *   memory, many rounds; the fastest round of each is compared.  cold: all rows were flushed from the caches;
 *   warm: one chain again and again, its rows in the cache. */
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
    if (file) fclose(file);
    return slow;
}
