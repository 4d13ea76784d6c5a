/*  why_flash - time, memory and traffic of attention, with and without its N x N matrix
        cc -O2 -march=native -fopenmp -I.. why_flash.c -o why_flash -lm
        ./why_flash [--quick] [--seconds S] [file.svg]

    One head in f32, no causal mask, N = 256 .. 65,536 queries and keys, head dim 64 and 128, forward, and
    forward + backward. Prints tables and plots them (build/why_flash.svg). --quick: N up to 2,048, a second.

    standard   S = Q K^T, P = softmax(S), O = P V [FA1 Alg. 0], each over all of the matrix: the products of
               gpt/gemm.h, a vectorised softmax in place, all threads. Backward [FA1 Alg. 3] from P, which was
               kept, with a second matrix for dP.
    flash      the instances of flashattn.h below. What the two compute is compared.
    memory     all tensors and workspaces of a call, counted.
    traffic    to and from the memory behind ON_CHIP bytes, as fa_io_model() counts it, with tiles of M / 4d
               rows (M: elements that fit there) [FA1 Alg. 1]; no other cache is counted.

    What is marked with * was not measured: standard attention where its matrices would take more than half of
    the memory that is free, or more than 2 GiB, and whatever --seconds (52) leaves no time for. Its time is
    that of the longest sequence measured, times the square of the ratio of lengths.

    Exit status: 0 fine; 1 the two differ by more than 1e-4; 2 bad usage, no memory, or a file that cannot be
    written: then there is none.

    [FA1] Dao et al. 2022, FlashAttention, arXiv 2205.14135 */

#define _POSIX_C_SOURCE 200809L /* isatty, sysconf */

#define FA_DEFAULT_PASSES (FA_FORWARD | FA_BACKWARD)
#define FA_NAME flash64
#define FA_HEAD_DIM 64
#define FA_FEATURES 0
#include "flashattn.h"
#define FA_NAME flash128
#define FA_HEAD_DIM 128
#define FA_FEATURES 0
#include "flashattn.h"

#include "gpt/gemm.h"
#include "plot.h"

#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#if defined(_OPENMP)
#define PARALLEL_FOR _Pragma("omp parallel for schedule(static)")
#define SIMD _Pragma("omp simd")
#define SIMD_MAX _Pragma("omp simd reduction(max : max)")
#define SIMD_SUM _Pragma("omp simd reduction(+ : sum)")
#else
#define PARALLEL_FOR
#define SIMD
#define SIMD_MAX
#define SIMD_SUM
#endif

enum { FORWARD, BOTH, PASSES }; /* BOTH: forward + backward */
enum { STANDARD, FLASH, METHODS };
enum { DIMS = 2, LENGTHS = 9, QUICK_LENGTHS = 4, FIRST = 256, ON_CHIP = 512 << 10, A100_ON_CHIP = 192 << 10 };

static const fa_info *const INSTANCE[DIMS] = {&flash64_info, &flash128_info};
static const char *const PASS_NAME[PASSES] = {"forward", "forward + backward"};

typedef struct tensors { /* (n, d); lse (n) */
    float *q, *k, *v, *o, *lse, *d_o, *dq, *dk, *dv;
} tensors;

typedef struct cell { /* what one call costs */
    double seconds, bytes, traffic;
    int measured;
} cell;

static struct {
    cell cells[PASSES][DIMS][METHODS][LENGTHS];
    int lengths;           /* measured and shown: FIRST << 0 .. FIRST << lengths-1 */
    double matrix_limit;   /* bytes */
    double start, seconds; /* when it began; how long it may take */
    double work, done;     /* flops: all that is to be measured; measured */
    double difference;     /* the largest so far */
    float *matrices;       /* of standard attention: for the longest sequence whose matrices fit */
} all;

static double now(void) { /* seconds */
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void fail(const char *what, const char *which) {
    fprintf(stderr, "why_flash: %s%s\n", what, which);
    exit(2);
}

static float *floats(
    int64_t count) { /* random, of mean 0 and variance 1, so that their pages exist; NULL: no memory */
    float *x = count > 0 && (uint64_t)count <= SIZE_MAX / sizeof *x
                   ? (float *)malloc((size_t)count * sizeof *x)
                   : NULL;
    static uint32_t seed = 1;
    for (int64_t i = 0; x && i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = ((float)(seed >> 8) / 8388608 - 1) * 1.7320508f;
    }
    return x;
}

/* ---------------------------------------------------------------------------------------- */
/* standard attention                                                                        */

/* e^x for x <= 0, to 2e-7: 2^n 2^f with |f| <= 1/2. */
static inline float exp_nonpositive(float x) {
    const float t = (x < -87 ? -87 : x) * 1.44269504f,
                magic = 12582912; /* 1.5 * 2^23: a sum with it is rounded to n */
    const float n = t + magic, f = t - (n - magic);
    float y = 1.54035304e-4f;
    y = y * f + 1.33335581e-3f, y = y * f + 9.61812911e-3f, y = y * f + 5.55041087e-2f;
    y = y * f + 2.40226507e-1f, y = y * f + 6.93147181e-1f, y = y * f + 1;
    int32_t bits, exponent;
    memcpy(&bits, &y, sizeof bits), memcpy(&exponent, &n, sizeof exponent);
    bits += (int32_t)((uint32_t)exponent << 23);
    memcpy(&y, &bits, sizeof y);
    return y;
}

static void softmax_rows(int64_t n, float scale, float *s) { /* (n, n) */
    PARALLEL_FOR
    for (int64_t i = 0; i < n; i++) {
        float *row = s + i * n, max = row[0], sum = 0;
        SIMD_MAX
        for (int64_t j = 0; j < n; j++) max = row[j] > max ? row[j] : max;
        SIMD_SUM
        for (int64_t j = 0; j < n; j++) {
            const float p = exp_nonpositive(scale * (row[j] - max));
            row[j] = p, sum += p;
        }
        const float inverse = 1 / sum;
        SIMD for (int64_t j = 0; j < n; j++) row[j] *= inverse;
    }
}

/* dP -> dS = scale P o (dP - D), D = rowsum(dO o O) */
static void softmax_gradient(int64_t n, int64_t d, float scale, const tensors *t, const float *p, float *dp) {
    PARALLEL_FOR
    for (int64_t i = 0; i < n; i++) {
        float sum = 0, *to = dp + i * n;
        const float *from = p + i * n;
        for (int64_t c = 0; c < d; c++) sum += t->d_o[i * d + c] * t->o[i * d + c];
        SIMD for (int64_t j = 0; j < n; j++) to[j] = scale * from[j] * (to[j] - sum);
    }
}

static size_t packed_floats(int64_t n, int64_t d) { /* (d, n) or (n, d) */
    return gemm_packed(d, n) > gemm_packed(n, d) ? gemm_packed(d, n) : gemm_packed(n, d);
}

/* p (n, n), dp (n, n), which the backward pass alone needs; packed (packed_floats). */
static void standard(int pass, int64_t n, int64_t d, const tensors *t, float *p, float *dp, float *packed) {
    const float scale = 1 / sqrtf((float)d);
    gemm_pack(d, n, t->k, 1, d, packed); /* K^T */
    gemm(n, n, d, t->q, d, 1, packed, p, n, 0);
    softmax_rows(n, scale, p);
    gemm_pack(n, d, t->v, d, 1, packed);
    gemm(n, d, n, p, n, 1, packed, t->o, d, 0);
    if (pass == FORWARD) return;
    gemm_pack(n, d, t->d_o, d, 1, packed);
    gemm(n, d, n, p, 1, n, packed, t->dv, d, 0); /* P^T dO */
    gemm_pack(d, n, t->v, 1, d, packed);
    gemm(n, n, d, t->d_o, d, 1, packed, dp, n, 0); /* dO V^T */
    softmax_gradient(n, d, scale, t, p, dp);
    gemm_pack(n, d, t->k, d, 1, packed);
    gemm(n, d, n, dp, n, 1, packed, t->dq, d, 0); /* dS K */
    gemm_pack(n, d, t->q, d, 1, packed);
    gemm(n, d, n, dp, 1, n, packed, t->dk, d, 0); /* dS^T Q */
}

/* ---------------------------------------------------------------------------------------- */
/* what a call costs                                                                         */

static fa_args arguments(int64_t n, const tensors *t) {
    fa_args args = {0};
    args.batch = args.num_heads = 1, args.seqlen_q = args.seqlen_k = (int32_t)n;
    args.q.data = t->q, args.k.data = t->k, args.v.data = t->v, args.o.data = t->o, args.lse.data = t->lse;
    args.d_o.data = t->d_o, args.dq.data = t->dq, args.dk.data = t->dk, args.dv.data = t->dv;
    return args;
}

static size_t flash_workspace(int pass, const fa_info *info, const fa_args *args) {
    const size_t forward = info->forward_workspace(args), back = pass ? info->backward_workspace(args) : 0;
    return forward > back ? forward : back;
}

static double matrix_bytes(int pass, int64_t n) {
    return (pass == BOTH ? 2. : 1.) * 4. * (double)n * (double)n;
}

static double memory(int pass, int method, const fa_info *info, int64_t n, const tensors *t) {
    const double rows =
        4. * (double)n * info->head_dim * (pass == BOTH ? 8 : 4); /* Q, K, V, O and their gradients */
    if (method == STANDARD)
        return rows + matrix_bytes(pass, n) + 4. * (double)packed_floats(n, info->head_dim);
    const fa_args args = arguments(n, t);
    return rows + 4. * (double)n + (double)flash_workspace(pass, info, &args);
}

/* Tiles of M / 4d rows; of the other side, which passes by, no more than d rows [FA1 Alg. 1]. */
static fa_io model(int64_t heads, int64_t n, int64_t d, int64_t element_bytes, int64_t on_chip,
                   int backward) {
    const int64_t held = on_chip / element_bytes / (4 * d), passing = held < d ? held : d;
    return fa_io_model(1, heads, n, n, d, d, element_bytes, 0, backward ? passing : held,
                       backward ? held : passing, on_chip, backward);
}

static double traffic(int pass, int method, int64_t n, int64_t d) {
    double bytes = 0;
    for (int backward = 0; backward <= (pass == BOTH); backward++) {
        const fa_io io = model(1, n, d, 4, ON_CHIP, backward);
        bytes += method == STANDARD ? io.bytes_standard : io.bytes_flash;
    }
    return bytes;
}

static double flops(int pass, int64_t n, int64_t d) {
    return (pass == BOTH ? 14. : 4.) * (double)n * (double)n * (double)d;
}

/* The time of cell i, from the longest one measured before it; 0: there is none. */
static double by_law(const cell *series, int i) {
    int last = i - 1;
    while (last >= 0 && !series[last].measured) last--;
    return last < 0 ? 0 : series[last].seconds * (double)(1 << 2 * (i - last));
}

/* ---------------------------------------------------------------------------------------- */
/* measuring                                                                                 */

static void show_progress(int pass, int method, int64_t n, int d) {
    if (!isatty(fileno(stderr))) return;
    const double gone = now() - all.start, rest = all.seconds - gone > 0 ? all.seconds - gone : 0;
    const double guess = all.done > 0 ? gone * (all.work - all.done) / all.done : rest;
    fprintf(stderr, "\r  %3.0f %%  %-8s d = %-3d  N = %-5d  %-18s  %.0f s left  ", 100 * all.done / all.work,
            method == STANDARD ? "standard" : "flash", d, (int)n, PASS_NAME[pass],
            guess < rest ? guess : rest);
}

static void clear_progress(void) {
    if (isatty(fileno(stderr))) fprintf(stderr, "\r%79s\r", "");
}

/* The best of 20 runs, or of those that fit into 0.15 s. Returns 0: no memory. */
static double measure(int pass, int method, const fa_info *info, int64_t n, const tensors *t) {
    const fa_args args = arguments(n, t);
    const size_t bytes = method == FLASH ? flash_workspace(pass, info, &args) : 0;
    void *workspace = method == FLASH ? calloc(bytes + 1, 1) : NULL;
    float *packed = method == STANDARD ? floats((int64_t)packed_floats(n, info->head_dim)) : NULL;
    double best = INFINITY, spent = 0;
    for (int run = 0; (workspace || packed) && run < 20 && (run == 0 || spent + best < 0.15); run++) {
        const double start = now();
        fa_status status = FA_OK;
        if (method == STANDARD) {
            standard(pass, n, info->head_dim, t, all.matrices, all.matrices + n * n, packed);
        } else {
            status = info->forward(&args, workspace, bytes);
            if (status == FA_OK && pass == BOTH) status = info->backward(&args, workspace, bytes);
        }
        const double seconds = now() - start;
        if (status != FA_OK) fail("flash attention: ", fa_strerror(status));
        spent += seconds, best = seconds < best ? seconds : best;
    }
    const int done = workspace || packed;
    free(packed), free(workspace);
    return done ? best : 0;
}

/* The largest difference of (n, d), relative to the largest number; NaN makes it infinite. */
static double compare(int64_t count, const float *x, const float *y) {
    double difference = 0, largest = 0;
    for (int64_t i = 0; i < count; i++) {
        const double e = fabs((double)x[i] - (double)y[i]), m = fabs((double)x[i]);
        difference = e <= difference ? difference : e > difference ? e : INFINITY;
        largest = m > largest ? m : largest;
    }
    return largest > 0 ? difference / largest : INFINITY;
}

static int allocate(tensors *t, int64_t count, const tensors *inputs) {
    if (inputs)
        *t = *inputs;
    else
        t->q = floats(count), t->k = floats(count), t->v = floats(count), t->d_o = floats(count);
    t->o = floats(count), t->dq = floats(count), t->dk = floats(count), t->dv = floats(count);
    t->lse = floats(count / 128);
    return t->q && t->k && t->v && t->d_o && t->o && t->dq && t->dk && t->dv && t->lse;
}

static int fits(int pass, int method, int64_t n) {
    return method == FLASH || matrix_bytes(pass, n) <= all.matrix_limit;
}

static void measure_length(int pass, int dim, int i, const tensors *outputs) {
    const fa_info *info = INSTANCE[dim];
    const int64_t n = FIRST << i, d = info->head_dim;
    for (int method = 0; method < METHODS; method++) {
        cell *series = all.cells[pass][dim][method], *c = &series[i];
        const double expected = by_law(series, i);
        const int in_time = i == 0 || now() - all.start + 1.5 * expected < all.seconds;
        c->bytes = memory(pass, method, info, n, &outputs[method]);
        c->traffic = traffic(pass, method, n, d);
        show_progress(pass, method, n, (int)d);
        if (fits(pass, method, n) && in_time) c->seconds = measure(pass, method, info, n, &outputs[method]);
        c->measured = c->seconds > 0;
        if (fits(pass, method, n)) all.done += flops(pass, n, d);
        if (!c->measured && i == 0) clear_progress(), fail("no memory for the shortest sequences", "");
        if (!c->measured) c->seconds = expected;
    }
    const cell(*both)[LENGTHS] = all.cells[pass][dim];
    if (!both[STANDARD][i].measured || !both[FLASH][i].measured) return;
    const tensors *x = &outputs[STANDARD], *y = &outputs[FLASH];
    const float *const pairs[4][2] = {{x->o, y->o}, {x->dq, y->dq}, {x->dk, y->dk}, {x->dv, y->dv}};
    for (int p = 0; p < (pass == BOTH ? 4 : 1); p++) {
        const double e = compare(n * d, pairs[p][0], pairs[p][1]);
        all.difference = e > all.difference ? e : all.difference;
    }
}

/* Their pages are touched here, not when the clock runs; not with zeros, which compilers make calloc of. */
static void allocate_matrices(void) {
    for (; !all.matrices; all.matrix_limit /= 2) {
        double bytes = 0;
        for (int pass = 0; pass < PASSES; pass++)
            for (int i = 0; i < all.lengths; i++)
                if (fits(pass, STANDARD, FIRST << i)) bytes = fmax(bytes, matrix_bytes(pass, FIRST << i));
        if (!fits(BOTH, STANDARD, FIRST)) fail("no memory for the shortest sequences", "");
        all.matrices = bytes < (double)SIZE_MAX ? (float *)malloc((size_t)bytes) : NULL;
        if (!all.matrices) continue;
        memset(all.matrices, 1, (size_t)bytes);
        return;
    }
}

static void measure_all(void) {
    const int64_t count = (int64_t)(FIRST << (all.lengths - 1)) * INSTANCE[DIMS - 1]->head_dim;
    tensors outputs[METHODS] = {{0}};
    const int enough =
        allocate(&outputs[STANDARD], count, NULL) && allocate(&outputs[FLASH], count, &outputs[STANDARD]);
    if (!enough) fail("no memory for the tensors of the longest sequence", "");
    allocate_matrices();
    for (int pass = 0; pass < PASSES; pass++)
        for (int dim = 0; dim < DIMS; dim++)
            for (int i = 0; i < all.lengths; i++)
                for (int method = 0; method < METHODS; method++)
                    if (fits(pass, method, FIRST << i))
                        all.work += flops(pass, FIRST << i, INSTANCE[dim]->head_dim);
    for (int pass = 0; pass < PASSES; pass++)
        for (int i = 0; i < all.lengths; i++)
            for (int dim = 0; dim < DIMS; dim++) measure_length(pass, dim, i, outputs);
    clear_progress();
    free(all.matrices);
    for (int method = 0; method < METHODS; method++) {
        const tensors *t = &outputs[method];
        free(t->o), free(t->dq), free(t->dk), free(t->dv), free(t->lse);
    }
    free(outputs[0].q), free(outputs[0].k), free(outputs[0].v), free(outputs[0].d_o);
}

/* ---------------------------------------------------------------------------------------- */
/* showing                                                                                   */

static void print_quantity(double value, const char *unit, int binary, int measured) {
    static const char *const names[] = {"n", "u", "m", "", "k", "M", "G", "T"};
    const double base = binary ? 1024 : 1000;
    int p = 3;
    while (p < 7 && value >= 0.9995 * base) value /= base, p++;
    while (p > 0 && value < 0.9995) value *= base, p--;
    const int decimals = value < 9.995 ? 2 : value < 99.95 ? 1 : 0; /* three digits */
    const char *prefix = p == 4 && binary ? "K" : names[p];
    char text[40];
    snprintf(text, sizeof text, "%.*f %s%s%s", decimals, value, prefix, binary && p > 3 ? "i" : "", unit);
    printf(" %9s%s", text, measured ? " " : "*");
}

static void print_ratio(double x, double y) {
    const double ratio = x / y;
    printf(" %5.*f", ratio < 0.95 ? 2 : ratio < 9.95 ? 1 : 0, ratio);
}

static void print_table(int pass, int dim) {
    const cell(*c)[LENGTHS] = all.cells[pass][dim];
    printf("\nd = %d, %s\n", INSTANCE[dim]->head_dim, PASS_NAME[pass]);
    printf("%7s%16s%13s%17s%12s%23s\n%6s", "", "time", "", "memory", "", "modelled traffic", "N");
    for (int i = 0; i < 3; i++) printf("  %9s  %9s  ratio", "standard", "flash");
    printf("\n");
    for (int i = 0; i < all.lengths; i++) {
        const cell *s = &c[STANDARD][i], *f = &c[FLASH][i];
        printf("%6d ", FIRST << i);
        print_quantity(s->seconds, "s", 0, s->measured), print_quantity(f->seconds, "s", 0, f->measured);
        print_ratio(s->seconds, f->seconds), printf(" ");
        print_quantity(s->bytes, "B", 1, s->measured), print_quantity(f->bytes, "B", 1, f->measured);
        print_ratio(s->bytes, f->bytes), printf(" ");
        print_quantity(s->traffic, "B", 1, 1), print_quantity(f->traffic, "B", 1, 1);
        print_ratio(s->traffic, f->traffic);
        printf("\n");
    }
}

/* FlashAttention [FA1], Figure 2, left: attention of GPT-2 medium, forward + backward on an A100. */
static void print_gpt2(void) {
    enum { N = 1024, D = 64, HEADS = 64 * 16, BYTES = 2 };
    const fa_io forward = model(HEADS, N, D, BYTES, A100_ON_CHIP, 0),
                back = model(HEADS, N, D, BYTES, A100_ON_CHIP, 1);
    const double product = 2. * HEADS * N * N * D * 1e-9, matrix = (double)HEADS * N * N * BYTES * 1e-9;
    const double flash_flops = (forward.flops + back.flops) * 1e-9, standard_flops = flash_flops - product;
    const double standard_bytes = (forward.bytes_standard + back.bytes_standard) * 1e-9;
    const double flash_bytes = (forward.bytes_flash + back.bytes_flash) * 1e-9;
    const double once = (forward.bytes_minimum + back.bytes_minimum) * 1e-9;
    printf("\nAttention of a layer of GPT-2 medium: N = 1024, d = 64, 16 heads, batch 64, f16, forward + "
           "backward\n"
           "                         standard            flash\n"
           "                      paper   model      paper   model\n");
    printf("GFLOP                 %5.1f  %6.1f      %5.1f  %6.1f\n", 66.6, standard_flops, 75.2, flash_flops);
    printf("GB to and from HBM    %5.1f  %6.1f      %5.1f  %6.1f\n", 40.3, standard_bytes, 4.4, flash_bytes);
    printf("ms                    %5.1f       -      %5.1f       -\n", 41.7, 7.3);
    printf("Paper: FlashAttention (arXiv 2205.14135), Figure 2, left, measured on an A100.\n"
           "Model: products of matrices alone; fa_io_model() with an A100's %d KiB on chip.\n"
           "What lies between the two:\n",
           A100_ON_CHIP >> 10);
    printf("- GFLOP: the model counts %.0f and %.0f products of %.1f for the 64 x 16 heads. The paper's\n"
           "  figures are about a twelfth, and %.1f apart, which is a product for 64 heads: as if\n"
           "  one head in 16 were counted. Bytes and times are of all: %.1f GB in %.1f ms is\n"
           "  %.2f TB/s, of an A100's 1.5 to 2.\n",
           standard_flops / product, flash_flops / product, product, 75.2 - 66.6, 40.3, 41.7, 40.3 / 41.7);
    printf("- GB, standard: the model goes %.0f times over a matrix of %.2f GB, the paper's figure\n"
           "  %.0f times. A mask would add 2 and dropout 5, in kernels of their own; the model has\n"
           "  neither.\n",
           (standard_bytes - once) / matrix, matrix, (40.3 - once) / matrix);
    printf("- GB, flash: each tensor once would be %.1f; the model counts no cache, and an A100 has\n"
           "  one behind its multiprocessors.\n",
           once);
}

static int plot_all(const char *path) {
    static const char *const names[PASSES][METHODS] = {{"standard", "flash"},
                                                       {"standard, fwd + bwd", "flash, fwd + bwd"}};
    static const char *const quantity[3] = {"time", "memory", "modelled traffic"};
    static double x[LENGTHS], y[3][PASSES][DIMS][METHODS][LENGTHS];
    static char titles[DIMS][3][60];
    plot_series series[DIMS][3][PASSES * METHODS] = {{{{0}}}};
    plot panels[DIMS][3] = {{{0}}};
    for (int dim = 0; dim < DIMS; dim++)
        for (int what = 0; what < 3; what++) {
            plot *panel = &panels[dim][what];
            snprintf(titles[dim][what], sizeof titles[dim][what], "%s, d = %d", quantity[what],
                     INSTANCE[dim]->head_dim);
            panel->title = titles[dim][what];
            panel->x.title = "N", panel->x.log_base = 2;
            panel->y.unit = what ? "B" : "s", panel->y.log_base = what ? 2 : 10;
            panel->series = series[dim][what], panel->num_series = PASSES * METHODS;
            panel->width = 400, panel->height = 350;
            for (int p = 0; p < PASSES * METHODS; p++) {
                const int pass = p / METHODS, method = p % METHODS;
                plot_series *s = &series[dim][what][p];
                s->name = names[pass][method], s->count = all.lengths, s->x = x,
                s->y = y[what][pass][dim][method];
                for (int i = 0; i < all.lengths; i++) {
                    const cell *c = &all.cells[pass][dim][method][i];
                    x[i] = FIRST << i;
                    y[what][pass][dim][method][i] = what == 0   ? c->seconds
                                                    : what == 1 ? c->bytes
                                                                : c->traffic;
                    s->modelled += what == 2 || !c->measured;
                }
            }
        }
    return plot_write(path, panels[0], DIMS * 3, 3);
}

/* ---------------------------------------------------------------------------------------- */
/* main                                                                                      */

static double free_memory(void) { /* bytes; 4 GiB where nobody says */
#if defined(_SC_AVPHYS_PAGES)
    const long pages = sysconf(_SC_AVPHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    if (pages > 0 && size > 0) return (double)pages * (double)size;
#endif
    return 4. * (1 << 30);
}

/* Better now than after a minute. */
static void check_writable(const char *path) {
    char beside[4096];
    if ((size_t)snprintf(beside, sizeof beside, "%s.tmp", path) >= sizeof beside)
        fail("path too long: ", path);
    FILE *file = fopen(beside, "w");
    if (!file) fprintf(stderr, "why_flash: cannot write %s: %s\n", path, strerror(errno)), exit(2);
    fclose(file);
    remove(beside);
}

int main(int argc, char **argv) {
    const char *path = NULL;
    all.lengths = LENGTHS, all.seconds = 52, all.start = now();
    all.matrix_limit = fmin(free_memory() / 2, 2. * (1 << 30));
    for (int i = 1; i < argc; i++) {
        char *end = argv[i];
        if (!strcmp(argv[i], "--quick")) {
            all.lengths = QUICK_LENGTHS;
            all.matrix_limit = fmin(all.matrix_limit, 8 << 20); /* so that there is something to model */
        } else if (!strcmp(argv[i], "--seconds") && i + 1 < argc) {
            all.seconds = strtod(argv[++i], &end);
            if (end == argv[i] || *end || !(all.seconds > 0))
                fail("--seconds needs a positive number, not ", argv[i]);
        } else if (argv[i][0] == '-' || path) {
            fail("usage: why_flash [--quick] [--seconds S] [file.svg], not ", argv[i]);
        } else {
            path = argv[i];
        }
    }
    if (!path) mkdir("build", 0777), path = "build/why_flash.svg"; /* it may exist; check_writable() tells */
    check_writable(path);
    int threads = 1;
#if defined(_OPENMP)
    threads = omp_get_max_threads();
#endif
    printf("One head, f32, no causal mask, %d thread%s; traffic is modelled for %d KiB on chip.\n", threads,
           threads > 1 ? "s" : "", ON_CHIP >> 10);
    printf("* not measured: the time by the square law from the longest sequence that was.\n");
    fflush(stdout);
    measure_all();
    for (int pass = 0; pass < PASSES; pass++)
        for (int dim = 0; dim < DIMS; dim++) print_table(pass, dim);
    print_gpt2();
    const int close = all.difference <= 1e-4;
    printf("\nlargest difference of standard and flash, relative to the largest number: %.1e%s\n",
           all.difference, close ? "" : "  WRONG: more than 1e-4");
    const int error = plot_all(path);
    if (error)
        fprintf(stderr, "why_flash: cannot write %s: %s\n", path, strerror(error));
    else
        printf("%s, %.1f s\n", path, now() - all.start);
    return error ? 2 : close ? 0 : 1;
}
