/* bench.h - what the CPU benchmark and its peers share: clocks, data, one cell of the table, the check against double,
 * and the protocol between them.
 *
 * Every peer is a process of its own, because the OpenMP runtimes of different libraries disturb each other inside one.
 * It reads lines from stdin and answers on stdout, so the driver can let all of them run in turns:
 *
 *     driver                        peer
 *                                   hello <library, version, kernels chosen>
 *     cell <BENCH_CELL_FORMAT>      ready <max abs error>      or      skip <reason>
 *     run <calls>                   time <wall seconds> <cpu seconds>
 */
#ifndef BENCH_H
#define BENCH_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifdef _OPENMP
#include <omp.h>
#endif

/* ---- one cell: a problem to time ---- */

typedef struct bench_cell {
    char dtype[8]; /* f32 f16 bf16 e4m3, i8: bf16 queries, int8 keys and values */
    int d, dv;     /* head dims of Q, K and of V, O */
    int hq, hk;    /* query and key/value heads; batch is 1 */
    int sq, sk;    /* query rows, keys */
    int causal;
    char feature[16]; /* plain features bias gqa rows unaligned head-major token-major one-head decode[-token|-paged]
                         backward[-one] */
} bench_cell;

#define BENCH_CELL_FORMAT "%s %d %d %d %d %d %d %d %s"
#define BENCH_CELL_SCAN "%7s %d %d %d %d %d %d %d %15s"
#define BENCH_CELL_VALUES(c) \
    (c)->dtype, (c)->d, (c)->dv, (c)->hq, (c)->hk, (c)->sq, (c)->sk, (c)->causal, (c)->feature

static inline int bench_is(const bench_cell *c, const char *feature) {
    return strcmp(c->feature, feature) == 0;
}

static inline int bench_is_decode(const bench_cell *c) { return strncmp(c->feature, "decode", 6) == 0; }

/* Scores that are not masked; causal is aligned bottom-right. */
static inline double bench_pairs(const bench_cell *c) {
    double pairs = 0;
    if (!c->causal) return (double)c->hq * c->sq * c->sk;
    for (int i = 0; i < c->sq; i++) {
        int seen = i + 1 + c->sk - c->sq;
        pairs += seen < 0 ? 0 : seen;
    }
    return c->hq * pairs;
}

/* 1: a line of the backward pass, O and LSE being there. */
static inline int bench_is_backward(const bench_cell *c) { return !strncmp(c->feature, "backward", 8); }

/* Useful operations: a multiplication and an addition per score and dimension, for Q K^T and for P V; backward for Q K^T,
 * dO V^T, P^T dO, dS^T Q and dS K. */
static inline double bench_flops(const bench_cell *c) {
    return 2.0 * bench_pairs(c) * (bench_is_backward(c) ? 3.0 * c->d + 2.0 * c->dv : c->d + c->dv);
}

/* Element (head h, row i, dim c) is data[h*head + i*row + c].  Head-major, but for the token-major line. */
typedef struct bench_layout {
    size_t row, head;
} bench_layout;

static inline bench_layout bench_layout_of(const bench_cell *c, int heads, int rows, int dim) {
    bench_layout head_major = {(size_t)dim, (size_t)rows * (size_t)dim};
    bench_layout token_major = {(size_t)heads * (size_t)dim, (size_t)dim};
    return bench_is(c, "token-major") || bench_is(c, "decode-token") || bench_is(c, "decode-paged") ? token_major : head_major;
}

/* ---- clocks and memory ---- */

static inline double bench_clock(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
static inline double bench_wall(void) { return bench_clock(CLOCK_MONOTONIC); }
static inline double bench_cpu_time(void) { return bench_clock(CLOCK_PROCESS_CPUTIME_ID); }

static inline void *bench_alloc(size_t bytes) {
    void *p = aligned_alloc(4096, (bytes + 8191) / 4096 * 4096); /* never 0 bytes */
    if (!p) fprintf(stderr, "bench: no memory for %zu bytes\n", bytes), exit(2);
    memset(p, 0, bytes);
    return p;
}

/* ---- data ---- */

/* Standard normal: the sum of 12 uniform numbers of an LCG (Knuth's MMIX constants). */
static inline float bench_normal(uint64_t *seed) {
    double x = -6;
    for (int i = 0; i < 12; i++) {
        *seed = *seed * 6364136223846793005u + 1442695040888963407u;
        x += (double)(*seed >> 33) * 0x1p-31;
    }
    return (float)x;
}

static inline float *bench_random(size_t count, uint64_t seed) {
    float *x = (float *)bench_alloc(count * sizeof *x);
    for (size_t i = 0; i < count; i++) x[i] = bench_normal(&seed);
    return x;
}

/* ---- check ---- */

#define BENCH_WRONG 1e30 /* error of an output that is NaN or infinite */

/* By its bits: also where -ffast-math believes that every float is finite. */
static inline int bench_is_finite(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (bits & 0x7f800000u) != 0x7f800000u;
}

/* Max abs error of o against attention in double, over sampled rows.  bias: (sq, sk) for all heads, or NULL. */
static inline double bench_error(const bench_cell *c, const float *q, const float *k, const float *v,
                                 const float *bias, const float *o) {
    enum { SAMPLES = 24 };
    bench_layout lq = bench_layout_of(c, c->hq, c->sq, c->d), lo = bench_layout_of(c, c->hq, c->sq, c->dv);
    bench_layout lk = bench_layout_of(c, c->hk, c->sk, c->d), lv = bench_layout_of(c, c->hk, c->sk, c->dv);
    double *p = (double *)bench_alloc((size_t)c->sk * sizeof *p);
    double *want = (double *)bench_alloc((size_t)c->dv * sizeof *want), worst = 0;
    for (int x = 0; x < SAMPLES; x++) {
        int h = (int)((int64_t)x * 5 % c->hq),
            i = (int)((int64_t)x * (c->sq - 1) / (SAMPLES - 1)); /* first .. last */
        int seen = c->causal ? i + 1 + c->sk - c->sq : c->sk, hk = h / (c->hq / c->hk);
        const float *qi = q + (size_t)h * lq.head + (size_t)i * lq.row;
        const float *oi = o + (size_t)h * lo.head + (size_t)i * lo.row;
        double m = -1e300, l = 0;
        for (int j = 0; j < seen; j++) {
            const float *kj = k + (size_t)hk * lk.head + (size_t)j * lk.row;
            double s = 0;
            for (int e = 0; e < c->d; e++) s += (double)qi[e] * (double)kj[e];
            p[j] = s / sqrt(c->d) + (bias ? (double)bias[(size_t)i * (size_t)c->sk + (size_t)j] : 0);
            m = fmax(m, p[j]);
        }
        for (int e = 0; e < c->dv; e++) want[e] = 0;
        for (int j = 0; j < seen; j++) {
            const float *vj = v + (size_t)hk * lv.head + (size_t)j * lv.row;
            double w = exp(p[j] - m);
            l += w;
            for (int e = 0; e < c->dv; e++) want[e] += w * (double)vj[e];
        }
        for (int e = 0; e < c->dv; e++) {
            double error = bench_is_finite(oi[e]) ? fabs((double)oi[e] - want[e] / l) : BENCH_WRONG;
            worst = fmax(worst, error);
        }
    }
    free(p), free(want);
    return worst;
}

/* Max error, relative to 1 + absolute value, of sampled rows of dq, dk and dv against double, one head, d = dv; o and lse are
 * taken as they are.  x: q k v o d_o lse dq dk dv. */
static inline double bench_gradient_error(const bench_cell *c, float *const x[9]) {
    enum { SAMPLES = 12 };
    const int d = c->d, n = c->sq;
    const double scale = 1 / sqrt(d);
    double *want = (double *)bench_alloc(2 * (size_t)d * sizeof *want), worst = 0;
    for (int sample = 0; sample < 2 * SAMPLES; sample++) { /* rows of dq, then rows of dk and dv */
        const int keys = sample >= SAMPLES, r = (int)((int64_t)(sample % SAMPLES) * (n - 1) / (SAMPLES - 1));
        memset(want, 0, 2 * (size_t)d * sizeof *want);
        for (int e = keys && c->causal ? r : 0; e < (!keys && c->causal ? r + 1 : n); e++) {
            const size_t i = (size_t)(keys ? e : r) * (size_t)d, j = (size_t)(keys ? r : e) * (size_t)d;
            double s = 0, dp = 0, sum = 0, ds;
            for (int t = 0; t < d; t++) {
                s += (double)x[0][i + t] * (double)x[1][j + t];
                dp += (double)x[4][i + t] * (double)x[2][j + t], sum += (double)x[4][i + t] * (double)x[3][i + t];
            }
            s = exp(s * scale - (double)x[5][keys ? e : r]), ds = s * (dp - sum) * scale;
            for (int t = 0; t < d; t++) {
                want[t] += ds * (double)x[keys ? 0 : 1][(keys ? i : j) + t];
                want[d + t] += s * (double)x[4][i + t];
            }
        }
        for (int t = 0; t < (keys ? 2 * d : d); t++) {
            const float got = x[keys ? 7 + t / d : 6][(size_t)r * (size_t)d + (size_t)(t % d)];
            worst = fmax(worst, bench_is_finite(got) ? fabs((double)got - want[t]) / (1 + fabs(want[t])) : BENCH_WRONG);
        }
    }
    free(want);
    return worst;
}

/* ---- the peer's side of the protocol ---- */

typedef struct bench_peer {
    /* Builds the problem, runs it once; max abs error, or -1 with the reason to skip it. */
    double (*prepare)(const bench_cell *c, const char **reason);
    void (*run)(void);
} bench_peer;

static inline int bench_serve(const char *hello, const bench_peer *peer) {
    char line[256];
    printf("hello %s\n", hello), fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        bench_cell c;
        int calls;
        if (sscanf(line, "cell " BENCH_CELL_SCAN, c.dtype, &c.d, &c.dv, &c.hq, &c.hk, &c.sq, &c.sk, &c.causal,
                   c.feature) == 9) {
            const char *reason = "";
            double error = peer->prepare(&c, &reason);
            if (error == -1)
                printf("skip %s\n", reason);
            else
                printf("ready %.3g\n", error);
        } else if (sscanf(line, "run %d", &calls) == 1) {
            double wall = bench_wall(), cpu = bench_cpu_time();
            for (int i = 0; i < calls; i++) peer->run();
            cpu = bench_cpu_time() - cpu, wall = bench_wall() - wall;
            printf("time %.9f %.9f\n", wall, cpu);
        }
        fflush(stdout);
    }
    return 0;
}

#endif
