/*  recall - predicts the next byte of a text by causal attention alone, without any training

        cc -O3 -march=native -fopenmp -I.. recall.c -o recall -lm
        ./recall [--positions N] [--threads T] [--no-naive] file...

    Row i of the attention has read bytes 0 .. i and asks: where did the text look like this before?

        Q_i = phi(bytes .. i)        what was just read
        K_j = phi(bytes .. j-1)      what stood before byte j: Q_{j-1};  K_0 = 0
        V_j = one_hot(byte j)        what came then

    Under the ordinary causal mask (j <= i), O_i = sum_j softmax_j(Q_i . K_j) V_j is a distribution
    for byte i+1: every place whose context resembled ours votes for the byte that followed it.

    phi adds up random signs, one set for each of the last 1, 2 .. 6 bytes taken as a whole.  Two
    contexts that end in the same m bytes score about WEIGHT[1] + .. + WEIGHT[m], others about 0, and
    exp() makes long matches outvote short ones.  The softmax is the language model.

    Exit status: 0 fine; 1 attention disagrees with fp64, or does not beat order 0 although it had
    1024 bytes or more to learn from; 2 bad usage. */

#define _POSIX_C_SOURCE 200809L /* popen, fileno, isatty */

#define FA_NAME recall
#define FA_HEAD_DIM 128
#define FA_HEAD_DIM_V 256
#define FA_DTYPE FA_F32
#define FA_FEATURES FA_CAUSAL
#include "flashattn.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#if defined(_OPENMP)
#include <omp.h>
#define PARALLEL_FOR _Pragma("omp parallel for schedule(dynamic, 16)")
#define SIMD_SUM _Pragma("omp simd reduction(+ : sum)")
#else
#define PARALLEL_FOR
#define SIMD_SUM
#endif

enum {
    D = 128,    /* head_dim: signs in a feature */
    DV = 256,   /* head_dim_v: one column for each value of a byte */
    ORDERS = 6, /* the longest context, in bytes */
    MIN_POSITIONS = 256,
    MAX_POSITIONS = 1 << 20,
    DEFAULT_POSITIONS = 32768,
    NAIVE_POSITIONS = 16384 /* at most; its matrix is then 1 GiB */
};

/* WEIGHT[k]: what the k-th last byte adds to the score when it agrees as well.  The sum, 11, is a
 * bit above ln N, so that one full match outweighs N strangers of score 0. */
static const double WEIGHT[ORDERS + 1] = {0, 3, 3, 2, 1, 1, 1};
static const double IMAGINED = 16; /* keys that stand for what the text has not shown yet */

typedef struct problem {
    int n;               /* positions = bytes of text */
    const uint8_t *text; /* (n) */
    const float *q, *k;  /* (n, D): k is q, one row earlier */
    const float *v;      /* (n, DV) */
    float *o, *lse;      /* (n, DV), (n) */
    int threads;         /* 0 = all */
    void *workspace;
    size_t workspace_bytes;
} problem;

static double now(void) { /* seconds */
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *allocate(size_t count, size_t size) { /* zeroed */
    void *p = calloc(count, size);
    if (!p) {
        fprintf(stderr, "recall: no memory for %zu x %zu bytes\n", count, size);
        exit(2);
    }
    return p;
}

/* The larger of two errors; NaN is the largest. */
static double worse(double worst, double error) {
    return error <= worst ? worst : error > worst ? error : INFINITY;
}

/* ---------------------------------------------------------------------------------------- */
/* the features                                                                              */

static uint64_t mix(uint64_t x) { /* the finaliser of splitmix64 */
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* phi(bytes .. i) = sum over k = 1 .. 6 of sqrt(WEIGHT[k] / D) * signs(hash of the last k bytes) */
static void add_feature(float *phi, const uint8_t *text, int i) {
    uint64_t hash = 0;
    for (int k = 1; k <= ORDERS && k <= i + 1; k++) {
        const float a = (float)sqrt(WEIGHT[k] / D);
        const uint64_t byte = text[i + 1 - k];
        hash = mix(hash ^ ((byte + 1) * 0x9e3779b97f4a7c15u + (uint64_t)k));
        for (int w = 0; w < D / 64; w++) {
            const uint64_t signs = mix(hash + (uint64_t)w * 0xd1b54a32d192ed03u);
            for (int d = 0; d < 64; d++) phi[64 * w + d] += signs >> d & 1 ? a : -a;
        }
    }
}

/* ---------------------------------------------------------------------------------------- */
/* attention, and the distribution that it means                                             */

/* Queries i0 <= i < i1.  The causal mask is bottom-right aligned: with seqlen_k = i1 the last query
 * sees all i1 keys, the one before it all but one, and so on. */
static fa_args queries(const problem *p, int i0, int i1) {
    fa_args args = {0};
    args.batch = args.num_heads = 1;
    args.seqlen_q = i1 - i0;
    args.seqlen_k = i1;
    args.q.data = p->q + (int64_t)i0 * D;
    args.k.data = p->k;
    args.v.data = p->v;
    args.o.data = p->o + (int64_t)i0 * DV;
    args.lse.data = p->lse + i0;
    args.softmax_scale = 1; /* the scale is in WEIGHT already */
    args.causal = 1;
    args.num_threads = p->threads;
    return args;
}

static void attend(const problem *p, int i0, int i1) {
    const fa_args args = queries(p, i0, i1);
    const fa_status status = recall_forward(&args, p->workspace, p->workspace_bytes);
    if (status) {
        fprintf(stderr, "recall: %s\n", fa_strerror(status));
        exit(1);
    }
}

/* P(byte i+1 = c).  The imagined keys have score 0 and vote for all bytes alike; exp(lse) is
 * the weight of all real keys beside them. */
static double probability(const problem *p, int i, int c) {
    const double z = exp((double)p->lse[i]);
    return (z * (double)p->o[(int64_t)i * DV + c] + IMAGINED / DV) / (z + IMAGINED);
}

static int best_guess(const problem *p, int i) { /* the most probable byte i+1 */
    const float *o = p->o + (int64_t)i * DV;
    int best = 0;
    for (int c = 1; c < DV; c++) best = o[c] > o[best] ? c : best;
    return best;
}

/* A bar on a terminal, else a line every five seconds. */
static void show_progress(int done, int n, double bits, double seconds, double *last_line) {
    const double part = (double)done / n * done / n; /* row i looks at i+1 keys */
    const double left = seconds / part - seconds;
    if (isatty(fileno(stderr))) {
        char bar[31] = "..............................";
        for (int i = 0; i < 30 * part; i++) bar[i] = '#';
        fprintf(stderr, "\r  [%s] %3.0f %%  %.3f bits per byte, %.0f s left  ", bar, 100 * part, bits / done,
                left);
        if (done == n) fprintf(stderr, "\r%79s\r", "");
    } else if (seconds - *last_line >= 5) {
        fprintf(stderr, "  %d of %d positions, %.3f bits per byte so far, %.0f s left\n", done, n,
                bits / done, left);
        *last_line = seconds;
    }
}

/* All rows, chunk by chunk.  Returns the bits that the text costs, and the seconds of attention. */
static double predict(const problem *p, int chunk, double *seconds) {
    double bits = 8, last_line = 0; /* nothing predicts byte 0 */
    *seconds = 0;
    for (int i0 = 0; i0 < p->n; i0 += chunk) {
        const int i1 = p->n - i0 < chunk ? p->n : i0 + chunk;
        const double start = now();
        attend(p, i0, i1);
        *seconds += now() - start;
        for (int i = i0; i < i1 && i + 1 < p->n; i++) bits -= log2(probability(p, i, p->text[i + 1]));
        show_progress(i1, p->n, bits, *seconds, &last_line);
    }
    return bits;
}

/* ---------------------------------------------------------------------------------------- */
/* what it is compared with: counts and gzip                                                 */

/* Order 0: the same votes without context.  With phi = 0 every key would score 0 and weigh 1. */
static double order0_bits(const problem *p) {
    double count[DV] = {0}, bits = 0;
    for (int i = 0; i < p->n; i++) {
        bits -= log2((count[p->text[i]] + IMAGINED / DV) / (i + IMAGINED));
        count[p->text[i]]++;
    }
    return bits;
}

/* count[k]: how often each byte came so far after the last k bytes.
 * Interpolated Witten-Bell: P_k = (count_k + distinct_k * P_{k-1}) / (total_k + distinct_k), from
 * P_{-1} = 1/256. */
static double witten_bell(uint32_t *const count[3], int c) {
    double p = 1.0 / DV;
    for (int k = 0; k < 3; k++) {
        double total = 0, distinct = 0;
        for (int b = 0; b < DV; b++) total += count[k][b], distinct += count[k][b] > 0;
        if (total > 0) p = (count[k][c] + distinct * p) / (total + distinct);
    }
    return p;
}

/* PPM-C: longest context first; escape to the next shorter one with probability
 * distinct / (total + distinct), and count no byte again that was refused on the way. */
static double ppm_c(uint32_t *const count[3], int c) {
    uint8_t refused[DV] = {0};
    double p = 1, candidates = DV;
    for (int k = 2; k >= 0; k--) {
        double total = 0, distinct = 0;
        for (int b = 0; b < DV; b++)
            if (count[k][b] && !refused[b]) total += count[k][b], distinct++, refused[b] = 1;
        if (count[k][c]) return p * count[k][c] / (total + distinct);
        if (distinct > 0) p *= distinct / (total + distinct);
        candidates -= distinct;
    }
    return p / candidates;
}

/* The better of the two, as they learn along the text. */
static double trigram_bits(const problem *p) {
    uint32_t *table[3]; /* [k]: (256^k contexts, 256) */
    double bits_wb = 0, bits_ppm = 0;
    for (int k = 0; k < 3; k++) table[k] = (uint32_t *)allocate((size_t)DV << 8 * k, sizeof(uint32_t));
    for (int i = 0; i < p->n; i++) {
        const int c = p->text[i], c1 = i > 0 ? p->text[i - 1] : 0, c2 = i > 1 ? p->text[i - 2] : 0;
        uint32_t *const count[3] = {table[0], table[1] + DV * c1, table[2] + DV * (DV * c2 + c1)};
        bits_wb -= log2(witten_bell(count, c));
        bits_ppm -= log2(ppm_c(count, c));
        for (int k = 0; k < 3; k++) count[k][c]++;
    }
    for (int k = 0; k < 3; k++) free(table[k]);
    return bits_wb < bits_ppm ? bits_wb : bits_ppm;
}

/* gzip -9, its header and checksum included; 0 = there is none here. */
static double gzip_bits(const problem *p) {
    char command[80];
    long bytes = 0;
    FILE *file = tmpfile(), *pipe = NULL; /* the shell inherits the file as a descriptor */
    if (!file) return 0;
    if (fwrite(p->text, 1, (size_t)p->n, file) == (size_t)p->n && fflush(file) == 0) {
        rewind(file);
        snprintf(command, sizeof command, "{ gzip -9 -c <&%d | wc -c; } 2>/dev/null", fileno(file));
        pipe = popen(command, "r");
    }
    if (pipe) {
        if (fscanf(pipe, "%ld", &bytes) != 1) bytes = 0;
        pclose(pipe);
    }
    fclose(file);
    return 8.0 * (double)bytes;
}

/* The end of the text; under it the most probable byte at each place; ^ where that was right. */
static void show_guesses(const problem *p) {
    enum { WIDTH = 64, LINES = 3 }; /* fewer bytes than MIN_POSITIONS */
    int right = 0;
    for (int i = 1; i < p->n; i++) right += best_guess(p, i - 1) == p->text[i];
    printf("\nThe byte that attention holds most probable is the right one at %.1f %% of the positions.\n"
           "At the end of the text (~ stands for line ends and the like):\n",
           100.0 * right / (p->n - 1));
    for (int line = LINES; line > 0; line--) {
        char text[WIDTH + 1] = "", guess[WIDTH + 1] = "", mark[WIDTH + 1] = "";
        for (int x = 0; x < WIDTH; x++) {
            const int i = p->n - line * WIDTH + x, c = p->text[i], g = best_guess(p, i - 1);
            text[x] = (char)(c >= 32 && c < 127 ? c : '~');
            guess[x] = (char)(g >= 32 && g < 127 ? g : '~');
            mark[x] = c == g ? '^' : ' ';
        }
        printf("\n  text   %s\n  guess  %s\n         %s\n", text, guess, mark);
    }
}

/* ---------------------------------------------------------------------------------------- */
/* is it right, and what does it save                                                        */

/* Sixteen rows from the definition, in fp64.  Returns the largest error of O and LSE. */
static double check_rows(const problem *p) {
    double worst = 0, *s = (double *)allocate((size_t)p->n, sizeof *s);
    for (int r = 0; r < 16; r++) {
        const int i = (int)((int64_t)(p->n - 1) * r / 15);
        const float *q = p->q + (int64_t)i * D, *k = p->k, *out = p->o + (int64_t)i * DV;
        double o[DV] = {0}, max = -INFINITY, sum = 0;
        for (int j = 0; j <= i; j++, k += D) {
            for (int d = 0; d < D; d++) s[j] += (double)q[d] * (double)k[d];
            if (s[j] > max) max = s[j];
        }
        for (int j = 0; j <= i; j++) {
            s[j] = exp(s[j] - max);
            sum += s[j];
            o[p->text[j]] += s[j]; /* V is one-hot */
            s[j] = 0;
        }
        for (int c = 0; c < DV; c++) worst = worse(worst, fabs((double)out[c] - o[c] / sum));
        worst = worse(worst, fabs((double)p->lse[i] - (max + log(sum))));
    }
    free(s);
    return worst;
}

static float dot(const float *a, const float *b) {
    float sum = 0;
    SIMD_SUM
    for (int d = 0; d < D; d++) sum += a[d] * b[d];
    return sum;
}

/* Attention as in the textbook: S = Q K^T, P = softmax(S), O = P V, the whole matrix in memory.
 * It has the same threads, vectors where OpenMP can ask for them, and leaves out the masked half too. */
static void naive_attention(const problem *p, int n, float *matrix, float *o) { /* (n, n), (n, DV) */
    PARALLEL_FOR
    for (int i = 0; i < n; i++) {
        float *row = matrix + (int64_t)i * n;
        for (int j = 0; j <= i; j++) row[j] = dot(p->q + (int64_t)i * D, p->k + (int64_t)j * D);
        for (int j = i + 1; j < n; j++) row[j] = -INFINITY;
    }
    PARALLEL_FOR
    for (int i = 0; i < n; i++) {
        float *row = matrix + (int64_t)i * n, max = row[0], sum = 0;
        for (int j = 0; j <= i; j++) max = row[j] > max ? row[j] : max;
        for (int j = 0; j <= i; j++) row[j] = expf(row[j] - max), sum += row[j];
        for (int j = 0; j <= i; j++) row[j] /= sum;
        for (int j = i + 1; j < n; j++) row[j] = 0;
    }
    PARALLEL_FOR
    for (int i = 0; i < n; i++) {
        const float *row = matrix + (int64_t)i * n, *v = p->v;
        float sum[DV] = {0};
        for (int j = 0; j <= i; j++, v += DV)
            for (int c = 0; c < DV; c++) sum[c] += row[j] * v[c];
        memcpy(o + (int64_t)i * DV, sum, sizeof sum);
    }
}

/* One line of the table.  Flops: a multiplication and an addition for each visible pair and column. */
static void print_speed(const char *name, int n, double seconds, size_t bytes) {
    const double flops = 2.0 * (D + DV) * n * (n + 1) / 2;
    printf("%-10s %7d positions %7.2f s %8.1f GFLOP/s %9.2f MiB beside Q, K, V, O\n", name, n, seconds,
           flops / seconds * 1e-9, (double)bytes / (1 << 20));
}

/* What attention keeps beside Q, K, V and O: workspace and LSE. */
static size_t state_bytes(const problem *p, int n) { return p->workspace_bytes + (size_t)n * sizeof *p->lse; }

/* Naive and flash attention on the same first positions: 1024, doubled while naive has the time.
 * Returns the largest difference of their outputs. */
static double race(const problem *p) {
    const int most = p->n < NAIVE_POSITIONS ? p->n : NAIVE_POSITIONS;
    float *matrix = (float *)malloc((size_t)most * (size_t)most * sizeof *matrix);
    float *o = (float *)allocate((size_t)most * DV, sizeof *o);
    double start, naive, flash, difference = 0;
    if (!matrix) {
        printf("naive      no memory for its matrix of %d x %d floats\n", most, most);
        free(o);
        return 0;
    }
    int n = most < 1024 ? most : 1024;
    for (;;) {
        memset(matrix, 0, (size_t)n * (size_t)n * sizeof *matrix); /* page faults before the clock */
        start = now();
        naive_attention(p, n, matrix, o);
        naive = now() - start;
        if (n == most || naive > 2) break; /* the next one takes four or five times as long */
        n = 2 * n < most ? 2 * n : most;
    }
    start = now();
    attend(p, 0, n);
    flash = now() - start;
    for (int64_t x = 0; x < (int64_t)n * DV; x++)
        difference = worse(difference, fabs((double)o[x] - (double)p->o[x]));

    const size_t naive_bytes = (size_t)n * (size_t)n * sizeof *matrix;
    print_speed("attention", n, flash, state_bytes(p, n));
    print_speed("naive", n, naive, naive_bytes);
    printf("naive takes %.3g times the time and %.3g times the memory.\n", naive / flash,
           (double)naive_bytes / (double)state_bytes(p, n));
    free(matrix), free(o);
    return difference;
}

/* ---------------------------------------------------------------------------------------- */
/* main                                                                                      */

static void fail(const char *what, const char *which) {
    fprintf(stderr, "recall: %s%s\nusage: recall [--positions N] [--threads T] [--no-naive] file...\n", what,
            which);
    exit(2);
}

static int number(const char *option, const char *text, int min, int max) {
    char *end = NULL;
    const long x = text ? strtol(text, &end, 10) : 0;
    if (!text || end == text || *end || x < min || x > max) {
        fprintf(stderr, "recall: %s needs a number, %d .. %d\n", option, min, max);
        exit(2);
    }
    return (int)x;
}

/* At most room bytes of a file.  Returns how many. */
static int read_file(const char *path, uint8_t *text, int room) {
    FILE *file = fopen(path, "rb");
    const size_t bytes = file ? fread(text, 1, (size_t)room, file) : 0;
    if (!file || ferror(file)) { /* a directory can be opened, but not read */
        fprintf(stderr, "recall: cannot read %s: %s\n", path, strerror(errno));
        exit(2);
    }
    fclose(file);
    return (int)bytes;
}

int main(int argc, char **argv) {
    problem p = {0};
    int positions = 0, naive = 1, arg = 1, threads = 1;
    for (; arg < argc && strncmp(argv[arg], "--", 2) == 0; arg++) {
        const char *option = argv[arg]; /* argv[argc] is NULL */
        if (!strcmp(option, "--no-naive"))
            naive = 0;
        else if (!strcmp(option, "--threads"))
            p.threads = number(option, argv[++arg], 1, 65536);
        else if (!strcmp(option, "--positions"))
            positions = number(option, argv[++arg], MIN_POSITIONS, MAX_POSITIONS);
        else
            fail("unknown option ", option);
    }
    if (arg >= argc) fail("no file", "");
#if defined(_OPENMP)
    if (p.threads) omp_set_num_threads(p.threads); /* naive attention listens to this */
    threads = omp_get_max_threads();
#endif

    const int room = positions ? positions : DEFAULT_POSITIONS;
    const int needed = positions ? positions : MIN_POSITIONS;
    uint8_t *text = (uint8_t *)allocate((size_t)room, 1);
    for (; arg < argc; arg++) p.n += read_file(argv[arg], text + p.n, room - p.n);
    if (p.n < needed) {
        fprintf(stderr, "recall: %d bytes of text, but %d are needed\n", p.n, needed);
        return 2;
    }

    /* (n+1, D): row 0 is zero, row i+1 is phi(bytes .. i).  K is rows 0 .. n-1, Q is rows 1 .. n. */
    const size_t n = (size_t)p.n;
    float *features = (float *)allocate((n + 1) * D, sizeof *features);
    float *v = (float *)allocate(n * DV, sizeof *v);
    for (int i = 0; i < p.n; i++) {
        add_feature(features + (int64_t)(i + 1) * D, text, i);
        v[(int64_t)i * DV + text[i]] = 1;
    }
    p.text = text, p.k = features, p.q = features + D, p.v = v;
    p.o = (float *)allocate(n * DV, sizeof *p.o);
    p.lse = (float *)allocate(n, sizeof *p.lse);
    const fa_args args = queries(&p, 0, p.n);
    p.workspace_bytes = recall_forward_workspace(&args);
    p.workspace = allocate(p.workspace_bytes + 1, 1);

    printf("recall: %d bytes of text, no training, %d thread%s\n", p.n, threads, threads > 1 ? "s" : "");
    fflush(stdout);
    double seconds;
    const int chunk = 8 * recall_info.block_m * threads; /* enough blocks to keep every thread busy */
    const double bits = predict(&p, chunk, &seconds), order0 = order0_bits(&p), gzip = gzip_bits(&p);
    printf("\nbits per byte\n  attention  %.3f\n", bits / p.n);
    printf("  trigram    %.3f  the better of Witten-Bell and PPM-C\n", trigram_bits(&p) / p.n);
    if (gzip > 0)
        printf("  gzip -9    %.3f\n", gzip / p.n);
    else
        printf("  gzip -9    gzip not found\n");
    printf("  order 0    %.3f  the same votes, without context\n", order0 / p.n);
    show_guesses(&p);

    printf("\n");
    print_speed("attention", p.n, seconds, state_bytes(&p, p.n));
    fflush(stdout);
    const double error = check_rows(&p), difference = naive ? race(&p) : 0;
    printf("\nlargest error %.1e in 16 rows, against fp64", error);
    if (naive) printf("; %.1e in all rows, against naive", difference);
    const int close = error <= 1e-4 && difference <= 1e-4, learns = bits < order0 || p.n < 1024;
    printf("\n%s", close ? "" : "WRONG: the error is more than 1e-4\n");
    printf("%s", learns ? "" : "WRONG: attention does not beat order 0\n");
    free(text), free(features), free(v), free(p.o), free(p.lse), free(p.workspace);
    return close && learns ? 0 : 1;
}
