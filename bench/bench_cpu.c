/* bench_cpu.c - times the CPU forward kernels next to other libraries, in one run on one machine.
 *
 *     make bench-cpu                       builds everything (bench/run_cpu.sh), runs it for 1 and for all threads
 *     bench_cpu [--threads N] [--quick] [--filter TEXT] [--csv FILE] [--peer NAME=COMMAND] [--missing NAME=REMEDY]
 *
 * HOW IT MEASURES
 *   One cell (dtype, head dims, lengths, mask) at a time.  Every program first computes it once and is compared with
 *   attention in double on sampled rows: a wrong kernel is reported and not timed.  Then the programs take turns: one
 *   repetition (>= 20 ms of calls) each, nine rounds, so that all of them see the same weather.  Before and after each
 *   the FMA rate of the moment is measured (registers only, 2-3 ms): clocks drift by tens of percent with the load of
 *   the neighbours, so "share of peak" is the number to compare between runs.
 *   1 thread: process CPU time, pinned to one core.  More: wall time, and the heads of the problem are as many as the
 *   threads, so that every thread has the work of the 1-thread run ("one-head" lines do not do that).
 *   A repetition counts when CPU time / wall time / threads is within 3% of undisturbed.  Others are done again, up to
 *   nine times, unless the run is behind schedule; the note of a line says when too few were undisturbed.
 *   What is reported is the median of nine, with quartiles.
 *
 *   Decode lines (few queries, a long cache) take turns with a plain read of the same K and V by as many threads: their
 *   notes say GB/s, that of the read, and the share.  Cells are larger than the caches where memory allows it.
 *
 * UNITS
 *   GF/s = 2 (d + d_v) x visible scores / time; with a causal mask only the unmasked part counts.  Peak is f32 FMA;
 *   for bf16 the larger of that and vdpbf16ps, which has twice the FMA rate on some CPUs and half of it on others.
 *
 * TRAPS
 *   OpenBLAS without OPENBLAS_CORETYPE may not know the CPU and use SSE or AVX2 kernels (run_cpu.sh sets it and
 *   measures both); its pthread build next to OpenMP is slower than one thread; OMP_PROC_BIND makes it see one CPU.
 *   Idle OpenMP threads spin for milliseconds in the next program's turn: run_cpu.sh makes them sleep early.
 */
#include "bench.h"

#include "../flashattn.h"

#define FA_NAME i8_d128
#define FA_HEAD_DIM 128
#define FA_DTYPE FA_BF16
#define FA_KV_DTYPE FA_I8
#include "../flashattn.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#ifndef BENCH_FLAGS
#define BENCH_FLAGS "unknown"
#endif

enum { WANTED = 9, ATTEMPTS = 18, MAX_PROGRAMS = 8, MAX_CELLS = 256 };

static const double MIN_SECONDS =
    0.020;                        /* of one repetition: well above the 4 ms of a scheduler's time slice */
static const double CLEAN = 0.97; /* least CPU time / wall time of a repetition that counts */
static const double LONG_SECONDS = 1.5; /* a peer's repetition beyond this is repeated only three times */

extern const fa_info *const bench_kernels_f32[], *const bench_kernels_f16[], *const bench_kernels_bf16[],
                                                                                 *const bench_kernels_e4m3[];

/* ---- the FMA rate of this moment ---- */

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

#if defined(__AVX512F__)
typedef __m512 peak_vector;
enum { PEAK_LANES = 16 };
#define PEAK_SPLAT(x) _mm512_set1_ps(x)
#define PEAK_FMA(acc, x, y) _mm512_fmadd_ps(acc, x, y)
#elif defined(__AVX2__) && defined(__FMA__)
typedef __m256 peak_vector;
enum { PEAK_LANES = 8 };
#define PEAK_SPLAT(x) _mm256_set1_ps(x)
#define PEAK_FMA(acc, x, y) _mm256_fmadd_ps(acc, x, y)
#elif defined(__aarch64__)
typedef float32x4_t peak_vector;
enum { PEAK_LANES = 4 };
#define PEAK_SPLAT(x) vdupq_n_f32(x)
#define PEAK_FMA(acc, x, y) vfmaq_f32(y, acc, x)
#else
typedef float peak_vector;
enum { PEAK_LANES = 1 };
#define PEAK_SPLAT(x) (x)
#define PEAK_FMA(acc, x, y) ((acc) * (x) + (y))
#endif

enum {
    PEAK_CHAINS = 12,
    PEAK_LOOPS = 400000
}; /* 12 independent sums: latency 4 x 2 ports, and some to spare */
static volatile float peak_sink;

/* Stops the compiler from computing the loop's result in a shorter way. */
static inline void peak_keep(peak_vector *x) {
#if defined(__x86_64__)
    __asm__ volatile("" : "+x"(*x));
#elif defined(__aarch64__)
    __asm__ volatile("" : "+w"(*x));
#else
    (void)x;
#endif
}

static double peak_fma_loop(void) { /* floating-point operations done */
    peak_vector acc[PEAK_CHAINS], x = PEAK_SPLAT(0.5f), y = PEAK_SPLAT(1.0f + peak_sink * 1e-30f);
    UNROLL for (int i = 0; i < PEAK_CHAINS; i++) acc[i] = y;
    for (int r = 0; r < PEAK_LOOPS; r++) {
        UNROLL for (int i = 0; i < PEAK_CHAINS; i++) {
            acc[i] = PEAK_FMA(acc[i], x, y);
            peak_keep(&acc[i]);
        }
    }
    float out[PEAK_CHAINS][PEAK_LANES];
    memcpy(out, acc, sizeof out);
    peak_sink = out[PEAK_CHAINS - 1][0];
    return 2.0 * PEAK_LANES * PEAK_CHAINS * PEAK_LOOPS;
}

static double peak_bf16_loop(void) {
#if defined(__AVX512BF16__)
    __m512 acc[PEAK_CHAINS], x = _mm512_set1_ps(0.5f);
    UNROLL for (int i = 0; i < PEAK_CHAINS; i++) acc[i] = x;
    for (int r = 0; r < PEAK_LOOPS / 2; r++) {
        UNROLL for (int i = 0; i < PEAK_CHAINS; i++) {
            acc[i] = _mm512_dpbf16_ps(acc[i], (__m512bh)x, (__m512bh)x);
            peak_keep(&acc[i]);
        }
    }
    peak_sink = _mm512_reduce_add_ps(acc[0]) * 1e-30f;
    return 4.0 * PEAK_LANES * PEAK_CHAINS * (PEAK_LOOPS / 2);
#else
    return 0;
#endif
}

/* GF/s of all threads together, each by its own CPU time; 0 where the instruction does not exist. */
static double peak_rate(double (*loop)(void), int threads) {
    double rate = 0;
#ifdef _OPENMP
#pragma omp parallel num_threads(threads) reduction(+ : rate)
#else
    (void)threads;
#endif
    {
        double start = bench_clock(CLOCK_THREAD_CPUTIME_ID), flops = loop();
        rate += flops / (bench_clock(CLOCK_THREAD_CPUTIME_ID) - start) * 1e-9;
    }
    return rate;
}

/* The rate that a kernel of this type could have. */
static double peak_now(int is_bf16, int threads) {
    double fma = peak_rate(peak_fma_loop, threads);
    return is_bf16 ? fmax(fma, peak_rate(peak_bf16_loop, threads)) : fma;
}

/* GB/s of reading memory in order, prefetching 4 KB ahead: each thread its part. */
static double read_rate(const char *data, size_t bytes, int threads) {
    uint64_t all = 0;
    double start = threads == 1 ? bench_cpu_time() : bench_wall(), end;
#ifdef _OPENMP
#pragma omp parallel num_threads(threads) reduction(^ : all)
#endif
    {
#ifdef _OPENMP
        const size_t n = (size_t)omp_get_num_threads(), i = (size_t)omp_get_thread_num();
#else
        const size_t n = 1, i = 0;
#endif
        typedef uint64_t line __attribute__((vector_size(64), may_alias));
        line a = {0}, b = {0}, c = {0}, d = {0};
        for (const char *p = data + bytes / 256 * i / n * 256, *stop = data + bytes / 256 * (i + 1) / n * 256;
             p < stop; p += 256) {
            for (int x = 0; x < 256; x += 64) __builtin_prefetch(p + 4096 + x);
            a ^= *(const line *)(const void *)p, b ^= *(const line *)(const void *)(p + 64);
            c ^= *(const line *)(const void *)(p + 128), d ^= *(const line *)(const void *)(p + 192);
        }
        a ^= b ^ c ^ d, all ^= a[0] ^ a[1] ^ a[2] ^ a[3] ^ a[4] ^ a[5] ^ a[6] ^ a[7];
    }
    end = threads == 1 ? bench_cpu_time() : bench_wall();
    peak_sink = (float)(all & 1);
    return (double)bytes / (end - start) * 1e-9;
}

/* ---- programs: ours in this process, each peer in its own ---- */

typedef struct program {
    char name[32], hello[160];
    FILE *in, *out; /* of a peer: what it reads, what it says; NULL for ours */
    int off;        /* died, or was not there */

    /* the cell at hand */
    char note[200];
    int calls, count;                                         /* calls a repetition; repetitions so far */
    double seconds[ATTEMPTS], busy[ATTEMPTS], peak[ATTEMPTS]; /* a call; CPU/wall/threads; GF/s around it */
    double share[ATTEMPTS], read; /* decode: of a plain read, whose last GB/s are `read` */
    double median, q1, q3, median_peak, gflops, error;        /* ms, GF/s; gflops 0: not measured */
    double read_share;                                        /* decode: median of share */
} program;

typedef struct result {
    bench_cell cell;
    double gflops, peak, ms, best_peer; /* ours; best_peer in GF/s, 0 = none */
    const char *best_name;
    int noisy; /* too few undisturbed repetitions */
    double read_share; /* decode: of a plain read */
} result;

static program programs[MAX_PROGRAMS];
static int num_programs = 1, num_threads = 1, quick, wrong;
static const char *filter = "", *csv_path;
static FILE *csv;

/* ours: the problem at hand */
static struct {
    fa_args args;
    const fa_info *info;
    void *memory[9], *workspace; /* as allocated: q k v o bias, then factors of k and v and the block table, or d_o dq dk dv */
    float *lse;
    int decode, backward;
    size_t read_bytes; /* of the smaller of K and V */
    double kv_bytes;   /* with the factors */
    size_t bytes;
} ours;

static fa_dtype dtype_of(const char *name) {
    if (strcmp(name, "f32") == 0) return FA_F32;
    if (strcmp(name, "f16") == 0) return FA_F16;
    return strcmp(name, "bf16") == 0 ? FA_BF16 : FA_E4M3;
}

static const fa_info *instance_of(const bench_cell *c) {
    const fa_dtype dtype = dtype_of(c->dtype);
    if (strcmp(c->dtype, "i8") == 0) return &i8_d128_info;
    const fa_info *const *list = dtype == FA_F32    ? bench_kernels_f32
                                 : dtype == FA_F16  ? bench_kernels_f16
                                 : dtype == FA_BF16 ? bench_kernels_bf16
                                                    : bench_kernels_e4m3;
    uint32_t features = bench_is(c, "features") ? FA_ALL_FEATURES
                        : bench_is(c, "bias")   ? FA_DEFAULT_FEATURES | FA_BIAS
                                                : FA_DEFAULT_FEATURES;
    for (; *list; list++)
        if ((*list)->head_dim == c->d && (*list)->head_dim_v == c->dv && (*list)->features == features)
            return *list;
    return NULL;
}

/* Quantises x to `dtype`, in place and into new memory (*owner) that starts `shift` elements in. */
static void *quantise(float *x, size_t count, fa_dtype dtype, size_t shift, void **owner) {
    size_t size = fa_sizeof(dtype);
    char *p = (char *)(*owner = bench_alloc((count + shift) * size)) + shift * size;
    for (size_t i = 0; i < count; i++) {
        fa_store(p, (int64_t)i, dtype, x[i]);
        x[i] = fa_load(p, (int64_t)i, dtype);
    }
    return p;
}

/* What an honest kernel may be off by: rounding of O, and of P where it is stored in the input's type. */
static double tolerance(const bench_cell *c) {
    return strcmp(c->dtype, "f32") == 0 ? 2e-5 : strcmp(c->dtype, "f16") == 0 ? 4e-3 : 3e-2;
}

static void ours_run(int calls) {
    for (int i = 0; i < calls; i++)
        (ours.backward ? ours.info->backward
         : ours.decode ? ours.info->decode
                       : ours.info->forward)(&ours.args, ours.workspace, ours.bytes);
}

/* The backward pass of ours.args, whose forward pass has run: memory, one call, and its error.  x: q k v o as floats. */
static double ours_prepare_backward(const bench_cell *c, float *q, float *k, float *v, float *o) {
    const fa_dtype dtype = ours.info->dtype;
    const size_t n = (size_t)c->hq * (size_t)c->sq * (size_t)c->d;
    float *x[9] = {q, k, v, o, bench_random(n, 6), ours.lse, bench_alloc(n * 4), bench_alloc(n * 4), bench_alloc(n * 4)};
    fa_args *a = &ours.args;
    void *to[4];
    double worst = -1;
    for (int i = 0; i < 4; i++) to[i] = quantise(x[i ? 5 + i : 4], n, dtype, 0, &ours.memory[5 + i]);
    a->d_o = a->q, a->d_o.data = to[0];
    a->dq.data = to[1], a->dk.data = to[2], a->dv.data = to[3];
    a->dq.stride_s = a->dk.stride_s = a->dv.stride_s = a->q.stride_s;
    a->dq.stride_h = a->dk.stride_h = a->dv.stride_h = a->q.stride_h;
    free(ours.workspace);
    ours.bytes = ours.info->backward_workspace(a), ours.workspace = bench_alloc(ours.bytes);
    if (ours.info->backward(a, ours.workspace, ours.bytes) == FA_OK) {
        for (int t = 0; t < 3; t++)
            for (size_t i = 0; i < n; i++) x[6 + t][i] = fa_load(to[1 + t], (int64_t)i, dtype);
        worst = bench_gradient_error(c, x); /* of the first head */
    }
    free(x[4]), free(x[6]), free(x[7]), free(x[8]);
    return worst;
}

/* Builds the problem, runs it and checks it; the error, or -1 with a note. */
static double ours_prepare(const bench_cell *c, char *note, size_t note_size) {
    const size_t shift =
        bench_is(c, "unaligned") ? 1 : 0; /* elements: aligned to the element size and no more */
    const size_t nq = (size_t)c->hq * (size_t)c->sq * (size_t)c->d,
                 nk = (size_t)c->hk * (size_t)c->sk * (size_t)c->d;
    const size_t nv = (size_t)c->hk * (size_t)c->sk * (size_t)c->dv,
                 no = (size_t)c->hq * (size_t)c->sq * (size_t)c->dv;
    const size_t nb = bench_is(c, "bias") ? (size_t)c->sq * (size_t)c->sk : 0;
    bench_layout lq = bench_layout_of(c, c->hq, c->sq, c->d), lo = bench_layout_of(c, c->hq, c->sq, c->dv);
    bench_layout lk = bench_layout_of(c, c->hk, c->sk, c->d), lv = bench_layout_of(c, c->hk, c->sk, c->dv);
    fa_error error = {0};
    for (int i = 0; i < 9; i++) free(ours.memory[i]), ours.memory[i] = NULL;
    free(ours.workspace), ours.workspace = NULL, free(ours.lse), ours.lse = NULL;
    ours.backward = bench_is_backward(c);
    ours.info = instance_of(c);
    if (!ours.info) return snprintf(note, note_size, "no instance"), -1;

    float *q = bench_random(nq, 1), *k = bench_random(nk, 2), *v = bench_random(nv, 3),
          *o = bench_random(no, 4);
    float *bias = nb ? bench_random(nb, 5) : NULL;
    fa_dtype bias_dtype =
        ours.info->dtype == FA_BF16 || ours.info->dtype == FA_F16 ? ours.info->dtype : FA_F32;
    const int i8 = ours.info->kv_dtype == FA_I8;
    for (size_t i = 0; i8 && i < nk; i++) k[i] *= 32; /* codes of a useful size; factors of 1/32, one a row */
    for (size_t i = 0; i8 && i < nv; i++) v[i] *= 32;
    fa_args a = {0};
    a.batch = 1, a.num_heads = c->hq, a.num_heads_k = c->hk, a.seqlen_q = c->sq, a.seqlen_k = c->sk;
    a.causal = c->causal, a.num_threads = num_threads, a.error = &error;
    a.q = (fa_tensor){quantise(q, nq, ours.info->dtype, shift, &ours.memory[0]), 0, (int64_t)lq.row,
                      (int64_t)lq.head};
    a.k = (fa_tensor){quantise(k, nk, ours.info->kv_dtype, shift, &ours.memory[1]), 0, (int64_t)lk.row,
                      (int64_t)lk.head};
    a.v = (fa_tensor){quantise(v, nv, ours.info->kv_dtype, shift, &ours.memory[2]), 0, (int64_t)lv.row,
                      (int64_t)lv.head};
    a.o = (fa_tensor_out){quantise(o, no, ours.info->o_dtype, shift, &ours.memory[3]), 0, (int64_t)lo.row,
                          (int64_t)lo.head};
    for (int t = 0; i8 && t < 2; t++) {
        const size_t rows = (size_t)c->hk * (size_t)c->sk;
        float *factor = (float *)(ours.memory[5 + t] = bench_alloc(rows * sizeof(float)));
        for (size_t i = 0; i < rows; i++) factor[i] = 1.0f / 32;
        fa_descale d = {factor, 0, (int64_t)lk.head / c->d, (int64_t)lk.row / c->d,
                        1,      0}; /* laid out as the rows are */
        *(t ? &a.v_descale : &a.k_descale) = d;
    }
    for (size_t i = 0; i8 && i < nk; i++) k[i] /= 32;
    for (size_t i = 0; i8 && i < nv; i++) v[i] /= 32;
    if (bench_is(c, "decode-paged")) { /* pages in their order; the kernel does not know */
        int32_t *table = (int32_t *)(ours.memory[7] = bench_alloc((size_t)c->sk / 16 * sizeof *table));
        for (int i = 0; i < c->sk / 16; i++) table[i] = i;
        a.block_table = table, a.page_size = 16, a.num_pages = c->sk / 16;
        a.k.stride_b = 16 * a.k.stride_s, a.v.stride_b = 16 * a.v.stride_s;
        a.k_descale.paged = a.v_descale.paged = i8;
        a.k_descale.stride_b = a.v_descale.stride_b = 16 * a.k_descale.stride_block;
    }
    if (nb) {
        a.bias.data = quantise(bias, nb, bias_dtype, 0, &ours.memory[4]), a.bias.dtype = bias_dtype;
        a.bias.stride_q = c->sk, a.bias.stride_b = a.bias.stride_h = FA_BROADCAST;
    }
    if (ours.backward) a.lse.data = ours.lse = bench_alloc((size_t)c->hq * (size_t)c->sq * sizeof *ours.lse);
    ours.args = a, ours.decode = bench_is_decode(c);
    ours.read_bytes = (nk < nv ? nk : nv) * fa_sizeof(ours.info->kv_dtype);
    ours.kv_bytes = (double)((nk + nv) * fa_sizeof(ours.info->kv_dtype)) + (i8 ? 8.0 * c->hk * c->sk : 0);
    ours.bytes = (ours.decode ? ours.info->decode_workspace : ours.info->forward_workspace)(&a);
    ours.workspace = bench_alloc(ours.bytes);
    fa_status status =
        (ours.decode ? ours.info->decode : ours.info->forward)(&ours.args, ours.workspace, ours.bytes);
    double worst = -1;
    if (status != FA_OK)
        snprintf(note, note_size, "%s", fa_strerror(status));
    else {
        for (size_t i = 0; i < no; i++) o[i] = fa_load(a.o.data, (int64_t)i, ours.info->o_dtype);
        worst = bench_error(c, q, k, v, bias, o);
        if (ours.backward && worst <= tolerance(c)) worst = ours_prepare_backward(c, q, k, v, o);
    }
    ours.args.error = NULL;
    free(q), free(k), free(v), free(o), free(bias);
    return worst;
}

/* The next line from a peer, without its end; NULL, and the peer is off, if it died. */
static char *peer_line(program *p, char *line, size_t size) {
    if (p->off || !fgets(line, (int)size, p->out)) {
        p->off = 1;
        return NULL;
    }
    line[strcspn(line, "\n")] = 0;
    return line;
}

static void peer_start(const char *name, const char *command) {
    program *p = &programs[num_programs];
    int to[2], from[2];
    char line[256];
    if (num_programs == MAX_PROGRAMS || pipe(to) || pipe(from)) return;
    num_programs++;
    fcntl(to[1], F_SETFD, FD_CLOEXEC),
        fcntl(from[0], F_SETFD, FD_CLOEXEC); /* not for the next peers to hold */
    snprintf(p->name, sizeof p->name, "%s", name);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        dup2(to[0], 0), dup2(from[1], 1);
        close(to[0]), close(to[1]), close(from[0]), close(from[1]);
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    close(to[0]), close(from[1]);
    p->in = fdopen(to[1], "w"), p->out = fdopen(from[0], "r"), p->off = child < 0;
    if (!peer_line(p, line, sizeof line) || sscanf(line, "hello %159[^\n]", p->hello) != 1) {
        p->off = 1;
        snprintf(p->hello, sizeof p->hello, "does not start: %s", command);
    }
}

static double program_prepare(program *p, const bench_cell *c) {
    char line[256];
    double error = -1;
    p->note[0] = 0;
    if (p->off) return snprintf(p->note, sizeof p->note, "not running"), -1;
    if (!p->in) return ours_prepare(c, p->note, sizeof p->note);
    fprintf(p->in, "cell " BENCH_CELL_FORMAT "\n", BENCH_CELL_VALUES(c)), fflush(p->in);
    if (!peer_line(p, line, sizeof line))
        snprintf(p->note, sizeof p->note, "died");
    else if (sscanf(line, "ready %lf", &error) != 1)
        snprintf(p->note, sizeof p->note, "%.199s", line);
    return error;
}

/* Wall and CPU seconds of p->calls calls; returns 0 if the peer died. */
static int program_run(program *p, double *wall, double *cpu) {
    char line[256];
    if (!p->in) {
        *wall = bench_wall(), *cpu = bench_cpu_time();
        ours_run(p->calls);
        *cpu = bench_cpu_time() - *cpu, *wall = bench_wall() - *wall;
        return 1;
    }
    fprintf(p->in, "run %d\n", p->calls), fflush(p->in);
    return peer_line(p, line, sizeof line) && sscanf(line, "time %lf %lf", wall, cpu) == 2;
}

/* ---- one cell ---- */

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Repetitions that nothing disturbed, compared with the best one.  Several threads may wait for each other without
 * anybody's fault, but not for long. */
static int count_clean(const program *p) {
    double best = num_threads == 1 ? 1 : 0.85;
    int clean = 0;
    for (int r = 0; r < p->count; r++) best = fmax(best, p->busy[r]);
    for (int r = 0; r < p->count; r++) clean += p->busy[r] >= CLEAN * best;
    return clean;
}

/* Median and quartiles of the `wanted` least disturbed repetitions. */
static void summarise(program *p, int wanted, double flops) {
    double seconds[ATTEMPTS], peaks[ATTEMPTS], limit, busy[ATTEMPTS];
    int n = 0, clean = count_clean(p);
    if (p->count < wanted) wanted = p->count;
    memcpy(busy, p->busy, sizeof busy);
    qsort(busy, (size_t)p->count, sizeof *busy, by_value);
    limit = busy[p->count - (clean > wanted ? clean : wanted)];
    for (int r = 0; r < p->count; r++)
        if (p->busy[r] >= limit) seconds[n] = p->seconds[r], peaks[n++] = p->peak[r];
    qsort(seconds, (size_t)n, sizeof *seconds, by_value);
    qsort(peaks, (size_t)n, sizeof *peaks, by_value);
    p->median = 1e3 * seconds[n / 2], p->q1 = 1e3 * seconds[n / 4], p->q3 = 1e3 * seconds[n - 1 - n / 4];
    p->median_peak = peaks[n / 2], p->gflops = flops / seconds[n / 2] * 1e-9;
    if (ours.decode) {
        double share[ATTEMPTS];
        memcpy(share, p->share, sizeof share);
        qsort(share, (size_t)p->count, sizeof *share, by_value);
        p->read_share = share[p->count / 2];
        snprintf(p->note, sizeof p->note, "%.1f GB/s; read %.1f GB/s; share of read %.2f%s",
                 ours.kv_bytes / seconds[n / 2] * 1e-9, ours.kv_bytes / seconds[n / 2] * 1e-9 / p->read_share,
                 p->read_share, clean < wanted ? "; noisy" : "");
    } else if (clean < wanted)
        snprintf(p->note, sizeof p->note, "noisy: %d of %d undisturbed", clean, wanted);
    else if (n < WANTED)
        snprintf(p->note, sizeof p->note, "%d repetitions", n);
}

/* Checks p and finds how many calls make a repetition; 0: p sits this cell out. */
static int enter(program *p, const bench_cell *c) {
    double wall, cpu, once;
    p->count = 0, p->gflops = 0;
    p->error = program_prepare(p, c);
    if (p->error == -1) return 0;
    if (!(p->error <= tolerance(c))) {
        snprintf(p->note, sizeof p->note, "WRONG: error %.3g, not timed", p->error);
        fprintf(stderr, "\n%s %s d=%d %dx%d %s: %s\n", p->name, c->dtype, c->d, c->sq, c->sk, c->feature,
                p->note);
        wrong += !p->in;
        return 0;
    }
    p->calls = 1;
    if (!program_run(p, &wall, &cpu) || !program_run(p, &wall, &cpu)) return 0; /* warm-up, estimate */
    once = fmax(num_threads == 1 ? cpu : wall, 1e-7);
    if (once < MIN_SECONDS / 4) { /* too short to tell: once more with several calls */
        p->calls = 1 + (int)(MIN_SECONDS / 4 / once);
        if (!program_run(p, &wall, &cpu)) return 0;
        once = fmax(num_threads == 1 ? cpu : wall, 1e-7) / p->calls;
    }
    p->calls = 1 + (int)(MIN_SECONDS / once);
    return 1;
}

static void repeat(program *p, int is_bf16) {
    double wall, cpu, before = peak_now(is_bf16, num_threads), read = 0;
    const size_t half = ours.read_bytes; /* of K and of V */
    int r = p->count;
    if (ours.decode) read = read_rate((const char *)ours.memory[1], half, num_threads);
    if (!program_run(p, &wall, &cpu)) {
        p->off = 1, p->count = 0;
        snprintf(p->note, sizeof p->note, "died");
        return;
    }
    p->seconds[r] = (num_threads == 1 ? cpu : wall) / p->calls;
    p->busy[r] = cpu / wall / num_threads;
    if (ours.decode) {
        read = (read + read_rate((const char *)ours.memory[2], half, num_threads)) / 2;
        p->read = read, p->share[r] = ours.kv_bytes / p->seconds[r] * 1e-9 / read;
    }
    p->peak[r] = (before + peak_now(is_bf16, num_threads)) / 2, p->count++;
}

static void write_row(const program *p, const bench_cell *c, double best_peer);

/* retry: disturbed repetitions are done again. */
static result measure(const bench_cell *c, int retry) {
    result out = {.cell = *c};
    int wanted[MAX_PROGRAMS], more = 1, is_bf16 = strcmp(c->dtype, "bf16") == 0;
    for (int i = 0; i < num_programs; i++) {
        program *p = &programs[i];
        /* the BLAS as it comes may be many times slower: one size shows it */
        int here =
            strcmp(p->name, "openblas-default") || (c->d == 128 && c->sq == 2048 && bench_is(c, "plain"));
        wanted[i] = here && enter(p, c) ? WANTED : 0;
        if (!here) snprintf(p->note, sizeof p->note, "d=128 N=2048 only"), p->gflops = 0, p->error = -1;
    }
    for (int round = 0; round < (retry ? ATTEMPTS : WANTED) && more; round++) {
        more = 0;
        for (int i = 0; i < num_programs; i++) {
            program *p = &programs[i];
            if (p->off || !wanted[i] || (p->count >= wanted[i] && count_clean(p) >= wanted[i])) continue;
            repeat(p, is_bf16);
            if (p->in && p->count && p->seconds[0] > LONG_SECONDS) wanted[i] = 3;
            more |= p->count < wanted[i] || count_clean(p) < wanted[i];
        }
    }
    for (int i = 0; i < num_programs; i++) {
        program *p = &programs[i];
        if (p->off || !wanted[i] || p->count == 0) continue;
        summarise(p, wanted[i], bench_flops(c));
        if (p->in && p->gflops > out.best_peer) out.best_peer = p->gflops, out.best_name = p->name;
    }
    for (int i = 0; i < num_programs; i++) write_row(&programs[i], c, out.best_peer);
    out.gflops = programs[0].gflops, out.peak = programs[0].median_peak, out.ms = programs[0].median;
    out.noisy = strstr(programs[0].note, "noisy") != NULL,
    out.read_share = bench_is_decode(c) ? programs[0].read_share : 0;
    return out;
}

/* ---- CSV ---- */

/* Words of the machine, without commas and quotes. */
static const char *cpu_name(void) {
    static char name[128];
    char line[256];
    struct utsname host;
    FILE *f = fopen("/proc/cpuinfo", "r");
    if (name[0]) return name;
    snprintf(name, sizeof name, "%s", uname(&host) < 0 ? "unknown" : host.machine);
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "model name%*[ \t:]%127[^\n,\"]", name) == 1) break;
    if (f) fclose(f);
    return name;
}

static void write_header(void) {
    csv = csv_path ? fopen(csv_path, "a") : NULL;
    if (csv_path && !csv) fprintf(stderr, "cannot write %s: %s\n", csv_path, strerror(errno)), exit(2);
    if (csv && ftell(csv) == 0)
        fprintf(csv, "date,cpu,compiler,flags,version,kernel,dtype,d,dv,heads_q,heads_k,seqlen_q,seqlen_k,"
                     "mask,feature,"
                     "threads,median_ms,q1_ms,q3_ms,gflops,peak_gflops,share_of_peak,ratio_to_best_peer,max_"
                     "err,note\n");
}

static void write_row(const program *p, const bench_cell *c, double best_peer) {
    char date[32], note[200];
    time_t now = time(NULL);
    if (!csv || strncmp(p->note, "skip", 4) == 0 || (p->gflops == 0 && p->error == -1 && p->in)) return;
    snprintf(note, sizeof note, "%s", p->note);
    for (char *comma = note; (comma = strchr(comma, ','));) *comma = ';';
    strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", gmtime(&now));
#ifdef __clang__
    const char *compiler = "clang " __clang_version__;
#else
    const char *compiler = "gcc " __VERSION__;
#endif
    fprintf(csv, "%s,%s,%s,%s,%s,%s,%s,%d,%d,%d,%d,%d,%d,%s,%s,%d,", date, cpu_name(), compiler, BENCH_FLAGS,
            p->in ? p->hello : FA_VERSION_STRING, p->name, c->dtype, c->d, c->dv, c->hq, c->hk, c->sq, c->sk,
            c->causal ? "causal" : "full", c->feature, num_threads);
    if (p->gflops > 0) {
        fprintf(csv, "%.5g,%.5g,%.5g,%.2f,%.2f,%.4f,", p->median, p->q1, p->q3, p->gflops, p->median_peak,
                p->gflops / p->median_peak);
        if (best_peer > 0) fprintf(csv, "%.3f", p->gflops / best_peer);
        fprintf(csv, ",%.3g,%s\n", p->error, note);
    } else
        fprintf(csv, ",,,,,,,,%s\n", note);
    fflush(csv);
}

/* ---- the list of cells ---- */

static bench_cell cells[MAX_CELLS];
static int num_cells;

/* What --filter looks into; the space in front tells " f16" from " bf16". */
static void label(const bench_cell *c, char *text, size_t size) {
    snprintf(text, size, " %.7s d%d %dx%d %s %.15s", c->dtype, c->d, c->sq, c->sk,
             c->causal ? "causal" : "full", c->feature);
}

static void add(const char *dtype, int d, int dv, int hq, int hk, int sq, int sk, int causal,
                const char *feature) {
    bench_cell c = {"", d, dv, hq, hk, sq, sk, causal, ""};
    char text[96];
    snprintf(c.dtype, sizeof c.dtype, "%s", dtype);
    snprintf(c.feature, sizeof c.feature, "%s", feature);
    label(&c, text, sizeof text);
    if (num_cells < MAX_CELLS && strstr(text, filter)) cells[num_cells++] = c;
}

static const char *const DTYPES[] = {"f32", "bf16", "f16", "e4m3", "i8"};

/* One query, and a few, against a cache. */
static void list_decode(void) {
    static const char *const dtypes[] = {"f32", "bf16", "f16", "i8"};
    for (int t = quick ? 2 : 0; t < 4; t++) {
        const int keys = t == 0 ? 16384 : t == 3 ? 65536 : 32768; /* 134 MB of K and V */
        add(dtypes[t], 128, 128, 8, 8, 1, keys, 0, "decode");
        add(dtypes[t], 128, 128, 32, 8, 1, keys, 0, "decode");
        if (quick) continue;
        add(dtypes[t], 128, 128, 8, 8, 1, keys, 0, "decode-token");
        add(dtypes[t], 128, 128, 32, 8, 1, keys, 0, "decode-token");
        add(dtypes[t], 128, 128, 8, 8, 1, keys, 0, "decode-paged");
    }
    for (int rows = 2; rows <= 32 && !quick; rows *= 2) add("f16", 128, 128, 32, 8, rows, 8192, 0, "decode");
}

static void list_cells(void) {
    const int dims[] = {64, 128, 256}, other_dims[] = {80, 96, 112, 192}, sizes[] = {512, 2048, 8192};
    const int few_rows[] = {64, 1, 2, 63, 65}, T = num_threads;
    for (int t = 0; t < (quick && T > 1 ? 2 : 4); t++) {
        const char *dtype = DTYPES[t];
        const int main_type = t < 2; /* f32 and bf16 get every line */
        for (int i = 0; i < 3; i++)
            for (int n = 0; n < 3; n++)
                for (int causal = 0; causal < 2; causal++) {
                    if (quick && (dims[i] == 256 || sizes[n] != 2048 || (T > 1 && dims[i] == 64))) continue;
                    add(dtype, dims[i], dims[i], T, T, sizes[n], sizes[n], causal, "plain");
                }
        if (T > 1) {
            add(dtype, 128, 128, 1, 1, 2048, 2048, 0, "one-head");
            add(dtype, 128, 128, 1, 1, 2048, 2048, 1, "one-head");
        }
        for (int i = 0; i < 3 && t < 3; i++)
            for (int n = 0; n < 3; n++)
                for (int causal = 0; causal < 2; causal++) {
                    if ((quick || T > 1 || t == 2) && (dims[i] == 256 || sizes[n] != 2048)) continue;
                    add(dtype, dims[i], dims[i], T, T, sizes[n], sizes[n], causal, "backward");
                    if (T > 1) add(dtype, dims[i], dims[i], 1, 1, sizes[n], sizes[n], causal, "backward-one");
                }
        for (int i = 0; i < 4 && !quick && T == 1; i++)
            for (int causal = 0; causal < 2; causal++)
                add(dtype, other_dims[i], other_dims[i], 1, 1, 2048, 2048, causal, "plain");
        if (T == 1 && (main_type || !quick)) add(dtype, 128, 128, 1, 1, 2048, 2048, 0, "features");
        if (!main_type || (quick && t > 0)) continue;
        if (T == 1) {
            add(dtype, 192, 128, 1, 1, 2048, 2048, 1, "plain");
            add(dtype, 128, 128, 1, 1, 2048, 2048, 0, "bias");
            add(dtype, 128, 128, 1, 1, 2048, 2048, 0, "unaligned");
            for (int i = 0; i < 5; i++) add(dtype, 128, 128, 1, 1, few_rows[i], 8192, 0, "rows");
        }
        add(dtype, 128, 128, 8, 8, 1024, 1024, 1, "head-major");
        add(dtype, 128, 128, 8, 8, 1024, 1024, 1, "token-major");
        add(dtype, 128, 128, 32, 8, 1024, 1024, 1, "gqa");
    }
    list_decode();
}

/* Seconds that a cell takes, roughly: the scale is corrected while it runs. */
static double cost(const bench_cell *c) {
    int peers = strcmp(c->dtype, "f32") == 0 ? num_programs : strcmp(c->dtype, "e4m3") == 0 ? 1 : 2;
    double once = bench_flops(c) / 150e9 / num_threads;
    return 0.2 + peers * ((WANTED + 2) * fmax(once, MIN_SECONDS + once / 2) + 0.03);
}

/* ---- the table on the screen ---- */

static void print_value(const result *r) {
    char text[40] = "-", ratio[40] = "";
    if (r && r->gflops > 0) {
        snprintf(text, sizeof text, "%.0f%s (%.0f%%)", r->gflops, r->noisy ? "~" : "",
                 100 * r->gflops / r->peak);
        if (r->best_peer > 0)
            snprintf(ratio, sizeof ratio, "%.2fx %s", r->gflops / r->best_peer, r->best_name);
    }
    printf(" | %11s %-20s", text, ratio);
}

static const result *find(const result *results, const char *dtype, int d, int n, int causal) {
    for (int i = 0; i < num_cells; i++) {
        const bench_cell *c = &results[i].cell;
        if (!strcmp(c->dtype, dtype) && c->d == d && c->dv == d && c->sq == n && c->causal == causal &&
            bench_is(c, "plain"))
            return &results[i];
    }
    return NULL;
}

static void print_grid(const result *results, const char *dtype) {
    const int dims[] = {64, 80, 96, 112, 128, 192, 256}, sizes[] = {512, 2048, 8192};
    int lines = 0;
    for (int i = 0; i < 14; i++) {
        const result *r[3];
        for (int n = 0; n < 3; n++) r[n] = find(results, dtype, dims[i / 2], sizes[n], i % 2);
        if (!r[0] && !r[1] && !r[2]) continue;
        if (lines++ == 0)
            printf("\n%s, %d thread%s: GF/s (%% of peak), ratio to the best peer\n  %3s %-6s | %-32s | %-32s "
                   "| %s\n",
                   dtype, num_threads, num_threads > 1 ? "s" : "", "d", "mask", "N = 512", "N = 2048",
                   "N = 8192");
        printf("  %3d %-6s", dims[i / 2], i % 2 ? "causal" : "full");
        for (int n = 0; n < 3; n++) print_value(r[n]);
        printf("\n");
    }
}

static void print_lines(const result *results, const char *dtype) {
    double row64 = 0;
    int lines = 0;
    for (int i = 0; i < num_cells; i++) {
        const result *r = &results[i];
        const bench_cell *c = &r->cell;
        char text[96];
        if (strcmp(c->dtype, dtype) || (bench_is(c, "plain") && c->d == c->dv)) continue;
        if (lines++ == 0) printf("%s, other lines\n", dtype);
        snprintf(text, sizeof text, "%s d %d/%d heads %d/%d %dx%d %s", c->feature, c->d, c->dv, c->hq, c->hk,
                 c->sq, c->sk, c->causal ? "causal" : "full");
        printf("  %-50s", text);
        print_value(r);
        if (r->read_share > 0) printf(" %3.0f%% of a plain read", 100 * r->read_share);
        if (bench_is(c, "rows") && c->sq == 64) row64 = r->ms / 64;
        if (bench_is(c, "rows") && r->ms > 0 && row64 > 0)
            printf(" %6.2f us a row, %.2f of 64 rows'", 1e3 * r->ms / c->sq, r->ms / c->sq / row64);
        printf("\n");
    }
}

static int any_noisy(const result *results) {
    int noisy = 0;
    for (int i = 0; i < num_cells; i++) noisy |= results[i].noisy;
    return noisy;
}

/* ---- main ---- */

static void pin_to_last_cpu(void) {
#ifdef __linux__
    cpu_set_t allowed, one;
    if (sched_getaffinity(0, sizeof allowed, &allowed)) return;
    for (size_t i = CPU_SETSIZE; i-- > 0;)
        if (CPU_ISSET(i, &allowed)) {
            CPU_ZERO(&one);
            CPU_SET(i, &one);
            sched_setaffinity(0, sizeof one, &one);
            return;
        }
#endif
}

static void set_threads(void) { /* for the peers, which inherit them */
    const char *const names[] = {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"};
    char text[16];
    snprintf(text, sizeof text, "%d", num_threads);
    for (int i = 0; i < 3; i++) setenv(names[i], text, 1);
    unsetenv("OMP_PROC_BIND");
#ifdef _OPENMP
    omp_set_num_threads(num_threads);
#endif
    if (num_threads == 1) pin_to_last_cpu();
}

static int usage(void) {
    fprintf(stderr, "usage: bench_cpu [--threads N] [--quick] [--filter TEXT] [--csv FILE]\n"
                    "                 [--peer NAME=COMMAND]... [--missing NAME=REMEDY]...\n");
    return 2;
}

int main(int argc, char **argv) {
    static result results[MAX_CELLS];
    double total = 0, done = 0, start;
    signal(SIGPIPE, SIG_IGN); /* a peer that dies is reported, not followed */
    snprintf(programs[0].name, sizeof programs[0].name, "flashattn");
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "--quick") == 0)
            quick = 1;
        else if (strcmp(argv[i], "--threads") == 0)
            num_threads = atoi(value), i++;
        else if (strcmp(argv[i], "--filter") == 0)
            filter = value, i++;
        else if (strcmp(argv[i], "--csv") == 0)
            csv_path = value, i++;
        else if ((strcmp(argv[i], "--peer") && strcmp(argv[i], "--missing")) || !strchr(value, '='))
            return usage();
        else
            i++; /* peers start below, when the number of threads is known */
    }
    if (num_threads < 1) return usage();
    set_threads();
    printf("flashattn %s on %s, %d thread%s\n", FA_VERSION_STRING, cpu_name(), num_threads,
           num_threads > 1 ? "s" : "");
    for (int i = 1; i + 1 < argc; i++) {
        char name[32];
        const char *command = strchr(argv[i + 1], '=');
        if (strcmp(argv[i], "--peer") && strcmp(argv[i], "--missing")) continue;
        snprintf(name, sizeof name, "%.*s", (int)(command - argv[i + 1]), argv[i + 1]);
        if (strcmp(argv[i], "--peer") == 0) {
            peer_start(name, command + 1);
            printf("  peer %-17s %s\n", name, programs[num_programs - 1].hello);
        } else
            printf("  peer %-17s skipped: %s\n", name, command + 1);
    }
    write_header();
    list_cells();
    for (int i = 0; i < num_cells; i++) total += cost(&cells[i]);
    fflush(stdout), start = bench_wall();
    for (int i = 0; i < num_cells; i++) {
        char text[96];
        double spent = bench_wall() - start;
        label(&cells[i], text, sizeof text);
        fprintf(stderr, "\r[%d/%d]%-45s %4.0f s left ", i + 1, num_cells, text,
                (total - done) * (spent + 5) / (done + 5)); /* the estimate counts as 5 s of experience */
        results[i] = measure(&cells[i], spent < 1.25 * done + 30); /* on a busy machine, not for ever */
        done += cost(&cells[i]);
    }
    fprintf(stderr, "\r%-72s\r", "");
    for (int t = 0; t < 5; t++) print_grid(results, DTYPES[t]), print_lines(results, DTYPES[t]);
    printf("\n%d cells in %.0f s%s%s\n", num_cells, bench_wall() - start, csv_path ? ", all figures in " : "",
           csv_path ? csv_path : "");
    for (int i = 1; i < num_programs; i++)
        if (programs[i].in) fclose(programs[i].in), fclose(programs[i].out);
    while (wait(NULL) > 0) continue;
    if (any_noisy(results))
        printf("~ the machine was busy: fewer than %d undisturbed repetitions%s\n", WANTED,
               num_threads > 1 ? ", times of several threads are too long" : "");
    if (wrong) printf("%d cells are WRONG and were not timed\n", wrong);
    return wrong != 0;
}
