/*  gemm.h - products of matrices in f32, for everything in this model that is not attention

    C (m, n) = A (m, k) B (k, n), or C += A B. B is packed first, into panels of GEMM_COLUMNS columns, so that the inner
    loop reads it in one stream; weights are packed once for all steps of inference. A tile of C, GEMM_ROWS rows of a
    panel, stays in registers while k runs. The same bits for any number of threads. */

#ifndef GPT_GEMM_H
#define GPT_GEMM_H

#include <stdint.h>
#include <string.h>

#if !defined(_OPENMP)
#pragma GCC diagnostic ignored "-Wunknown-pragmas" /* one thread, then */
#endif

#if defined(__AVX512F__)
#include <immintrin.h>
#define GEMM_LANES 16 /* floats in a vector */
#define GEMM_ROWS \
    8 /* 8 x 2 vectors of C, 2 of B: 18 of 32 registers, and 16 chains hide the latency of fma, 4 cycles */
#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#define GEMM_LANES 8
#define GEMM_ROWS 6 /* 6 x 2 of C, 2 of B, 1 of A: 15 of 16 registers */
#elif defined(__aarch64__)
#include <arm_neon.h>
#define GEMM_LANES 4
#define GEMM_ROWS 8
#else
#define GEMM_LANES 4
#define GEMM_ROWS 4
#endif
#define GEMM_COLUMNS (2 * GEMM_LANES)
#define GEMM_DEPTH 256 /* rows of a panel at a time: at most 32 KiB, which L1 keeps for all tiles */
#define GEMM_TASK 64   /* rows of C in a task */

typedef float gemm_vector __attribute__((vector_size(4 * GEMM_LANES), aligned(4), may_alias));

static inline gemm_vector gemm_fma(float x, gemm_vector b, gemm_vector c) { /* x b + c */
#if GEMM_LANES == 16
    return (gemm_vector)_mm512_fmadd_ps(_mm512_set1_ps(x), (__m512)b, (__m512)c);
#elif GEMM_LANES == 8
    return (gemm_vector)_mm256_fmadd_ps(_mm256_set1_ps(x), (__m256)b, (__m256)c);
#elif defined(__aarch64__)
    return (gemm_vector)vfmaq_n_f32((float32x4_t)c, (float32x4_t)b, x);
#else
    return x * b + c;
#endif
}

static inline int64_t gemm_panels(int64_t n) { return (n + GEMM_COLUMNS - 1) / GEMM_COLUMNS; }

/* Floats of a packed (k, n). */
static inline size_t gemm_packed(int64_t k, int64_t n) { return (size_t)(gemm_panels(n) * GEMM_COLUMNS * k); }

/* packed (panel, k, GEMM_COLUMNS), zeros behind column n; element (p, j) of B is b[p*row + j*column]. */
static inline void gemm_pack(int64_t k, int64_t n, const float *b, int64_t row, int64_t column,
                             float *packed) {
#pragma omp parallel for schedule(static)
    for (int64_t panel = 0; panel < gemm_panels(n); panel++)
        for (int64_t p = 0; p < k; p++) {
            float *to = packed + (panel * k + p) * GEMM_COLUMNS;
            const float *from = b + p * row + panel * GEMM_COLUMNS * column;
            const int64_t there = n - panel * GEMM_COLUMNS,
                          columns = there < GEMM_COLUMNS ? there : GEMM_COLUMNS;
            for (int64_t j = 0; j < columns; j++) to[j] = from[j * column];
            for (int64_t j = columns; j < GEMM_COLUMNS; j++) to[j] = 0;
        }
}

/* rows: a constant. c has GEMM_COLUMNS columns, or they go through a copy (gemm_task). */
static inline __attribute__((always_inline)) void gemm_tile(const int rows, int64_t depth, const float *a,
                                                            int64_t row, int64_t column, const float *b,
                                                            float *c, int64_t ldc, int add) {
    gemm_vector acc[GEMM_ROWS][2];
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
        for (int n = 0; n < 2; n++) {
            const gemm_vector zero = {0};
            acc[i][n] = add ? *(const gemm_vector *)(c + i * ldc + n * GEMM_LANES) : zero;
        }
    for (int64_t p = 0; p < depth; p++, b += GEMM_COLUMNS, a += column) {
        const gemm_vector b0 = *(const gemm_vector *)b, b1 = *(const gemm_vector *)(b + GEMM_LANES);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            const float x = a[i * row];
            acc[i][0] = gemm_fma(x, b0, acc[i][0]), acc[i][1] = gemm_fma(x, b1, acc[i][1]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
        for (int n = 0; n < 2; n++) *(gemm_vector *)(c + i * ldc + n * GEMM_LANES) = acc[i][n];
}

/* rows 0 .. m-1 of one panel; columns of C that exist */
static inline void gemm_panel(int64_t m, int64_t columns, int64_t depth, const float *a, int64_t row,
                              int64_t column, int64_t tile, const float *b, float *c, int64_t ldc, int add) {
    float copy[GEMM_ROWS * GEMM_COLUMNS];
    for (int64_t i = 0; i < m; i += GEMM_ROWS, a += tile) {
        const int64_t rows = m - i < GEMM_ROWS ? m - i : GEMM_ROWS;
        const int narrow = columns < GEMM_COLUMNS;
        float *to = narrow ? copy : c + i * ldc;
        const int64_t ld = narrow ? GEMM_COLUMNS : ldc;
        if (narrow && add)
            for (int64_t r = 0; r < rows; r++)
                memcpy(copy + r * GEMM_COLUMNS, c + (i + r) * ldc, (size_t)columns * sizeof *c);
        switch (rows) { /* constants, so that the tile is in registers */
#define GEMM_CASE(r) \
    case r: gemm_tile(r, depth, a, row, column, b, to, ld, add); break;
            GEMM_CASE(1)
            GEMM_CASE(2)
            GEMM_CASE(3)
            GEMM_CASE(4)
#if GEMM_ROWS > 4
            GEMM_CASE(5)
            GEMM_CASE(6)
#endif
#if GEMM_ROWS > 6
            GEMM_CASE(7) GEMM_CASE(8)
#endif
#undef GEMM_CASE
        }
        if (narrow)
            for (int64_t r = 0; r < rows; r++)
                memcpy(c + (i + r) * ldc, copy + r * GEMM_COLUMNS, (size_t)columns * sizeof *c);
    }
}

/* rows x depth of A, by columns of GEMM_ROWS rows: what a tile reads at once lies together */
static inline void gemm_pack_rows(int64_t rows, int64_t depth, const float *a, int64_t row, int64_t column,
                                  float *packed) {
    for (int64_t i = 0; i < rows; i += GEMM_ROWS)
        for (int64_t p = 0; p < depth; p++, packed += GEMM_ROWS)
            for (int64_t r = 0; r < GEMM_ROWS && i + r < rows; r++) packed[r] = a[(i + r) * row + p * column];
}

typedef struct gemm_job {
    int64_t m, n, k;
    const float *a;
    int64_t row, column;
    const float *b;
    float *c;
    int64_t ldc;
    int add;
    int64_t panels, share; /* panels of B, and how many of them a task has */
} gemm_job;

/* GEMM_TASK rows of C by the panels of a task */
static inline void gemm_task(const gemm_job *g, int64_t task) {
    float copy[(GEMM_TASK + GEMM_ROWS - 1) / GEMM_ROWS * GEMM_ROWS * GEMM_DEPTH]; /* whole tiles */
    const int64_t parts = g->panels / g->share, i = task / parts * GEMM_TASK, first = task % parts * g->share;
    const int64_t rows = g->m - i < GEMM_TASK ? g->m - i : GEMM_TASK;
    const int pack =
        g->column != 1 && g->m > GEMM_TASK; /* rows of A lie far apart: a copy is cheaper than the way */
    for (int64_t p = 0; p < g->k; p += GEMM_DEPTH) {
        const int64_t depth = g->k - p < GEMM_DEPTH ? g->k - p : GEMM_DEPTH;
        const float *from = g->a + i * g->row + p * g->column;
        if (pack) gemm_pack_rows(rows, depth, from, g->row, g->column, copy);
        for (int64_t j = first; j < first + g->share; j++) {
            const int64_t there = g->n - j * GEMM_COLUMNS,
                          columns = there < GEMM_COLUMNS ? there : GEMM_COLUMNS;
            const float *panel = g->b + (j * g->k + p) * GEMM_COLUMNS;
            float *to = g->c + i * g->ldc + j * GEMM_COLUMNS;
            if (pack)
                gemm_panel(rows, columns, depth, copy, 1, GEMM_ROWS, GEMM_ROWS * depth, panel, to, g->ldc,
                           g->add || p);
            else
                gemm_panel(rows, columns, depth, from, g->row, g->column, GEMM_ROWS * g->row, panel, to,
                           g->ldc, g->add || p);
        }
    }
}

/* C (m, n; ldc) = A B, or += with add; element (i, p) of A is a[i*row + p*column], b is packed. */
static inline void gemm(int64_t m, int64_t n, int64_t k, const float *a, int64_t row, int64_t column,
                        const float *b, float *c, int64_t ldc, int add) {
    const int64_t panels = gemm_panels(n), blocks = (m + GEMM_TASK - 1) / GEMM_TASK;
    const int64_t share = blocks == 1 ? 1 : panels; /* few rows are split by columns */
    const int64_t tasks = blocks * (panels / share);
    const gemm_job job = {m, n, k, a, row, column, b, c, ldc, add, panels, share};
    if (m * n * k <= 1 << 16) { /* less than what waking threads costs */
        for (int64_t task = 0; task < tasks; task++) gemm_task(&job, task);
        return;
    }
    if (blocks == 1) { /* short tasks: each thread takes its share at once */
#pragma omp parallel for schedule(static)
        for (int64_t task = 0; task < tasks; task++) gemm_task(&job, task);
    } else {
#pragma omp parallel for schedule(dynamic)
        for (int64_t task = 0; task < tasks; task++) gemm_task(&job, task);
    }
}

#endif
