/* peer_gemm.c - f32 attention out of a library's SGEMM, two ways:
 *
 *     peer_... naive    S = Q K^T, softmax, O = P V for a whole head, with an N x N matrix: what one writes with a BLAS
 *     peer_... block    PyTorch's CPU design: query tile 256 (64, 32 when there are few rows) x key tile 512, online
 *                       softmax, one SGEMM a tile, tiles shared out to threads
 *
 * Compiled twice: -DBENCH_ONEDNN takes dnnl_sgemm, else cblas_sgemm.  Softmax is a degree 5 polynomial that the
 * compiler vectorises (build with -O3 -ffast-math for the target).
 */
#include "bench.h"

#ifdef BENCH_ONEDNN
#include <oneapi/dnnl/dnnl.h>
#else
#include <cblas.h>
extern char *openblas_get_corename(void), *openblas_get_config(void);
extern int openblas_get_parallel(void);
#endif

/* C (m, n) = beta C + A (m, k) B (k, n), row-major; trans: B is stored (n, k). */
static void gemm(int trans, int m, int n, int k, const float *a, size_t lda, const float *b, size_t ldb,
                 float beta, float *c, size_t ldc) {
#ifdef BENCH_ONEDNN
    dnnl_sgemm('N', trans ? 'T' : 'N', m, n, k, 1.0f, a, (dnnl_dim_t)lda, b, (dnnl_dim_t)ldb, beta, c,
               (dnnl_dim_t)ldc);
#else
    cblas_sgemm(CblasRowMajor, CblasNoTrans, trans ? CblasTrans : CblasNoTrans, m, n, k, 1.0f, a, (int)lda, b,
                (int)ldb, beta, c, (int)ldc);
#endif
}

enum { BLOCK_K = 512 };
static bench_cell cell;
static float *q, *k, *v, *o, *scores;
static int naive;

static int num_threads(void) {
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 1;
#endif
}

/* 2^x for x <= 0: minimax polynomial of degree 5 on [0, 1), the integer part goes into the exponent. */
static inline float exp2_negative(float x) {
    x = x < -126.0f ? -126.0f : x;
    int n = (int)x - 1; /* below x, so that the rest is in (0, 1] */
    float f = x - (float)n, p = 1.8775767e-3f;
    p = p * f + 8.9893397e-3f, p = p * f + 5.5826318e-2f, p = p * f + 2.4015361e-1f;
    p = p * f + 6.9315308e-1f, p = p * f + 9.9999994e-1f;
    union {
        int32_t i;
        float f;
    } two_n = {(n + 127 > 0 ? n + 127 : 0) << 23};
    return p * two_n.f;
}

/* row[j] = 2^(scale row[j] - m) with m >= max; returns the sum. */
static float softmax_row(float *row, int n, float scale, float *m) {
    float top = -1e30f, sum = 0, max;
    for (int j = 0; j < n; j++) top = row[j] > top ? row[j] : top;
    max = top * scale > *m ? top * scale : *m;
    for (int j = 0; j < n; j++) row[j] = exp2_negative(row[j] * scale - max), sum += row[j];
    *m = max;
    return sum;
}

static void run_naive(void) {
    const float scale = 1.44269504f / sqrtf((float)cell.d);
    bench_layout lq = bench_layout_of(&cell, cell.hq, cell.sq, cell.d),
                 lo = bench_layout_of(&cell, cell.hq, cell.sq, cell.dv);
    bench_layout lk = bench_layout_of(&cell, cell.hk, cell.sk, cell.d),
                 lv = bench_layout_of(&cell, cell.hk, cell.sk, cell.dv);
    for (int h = 0; h < cell.hq; h++) {
        size_t hk = (size_t)(h / (cell.hq / cell.hk)), n = (size_t)cell.sk;
        gemm(1, cell.sq, cell.sk, cell.d, q + (size_t)h * lq.head, lq.row, k + hk * lk.head, lk.row, 0,
             scores, n);
#pragma omp parallel for schedule(static)
        for (int i = 0; i < cell.sq; i++) {
            float *row = scores + (size_t)i * n, m = -1e30f;
            int seen = cell.causal ? i + 1 + cell.sk - cell.sq : cell.sk;
            float inverse = 1.0f / softmax_row(row, seen, scale, &m);
            for (int j = 0; j < seen; j++) row[j] *= inverse;
            memset(row + seen, 0, (n - (size_t)seen) * sizeof *row);
        }
        gemm(0, cell.sq, cell.dv, cell.sk, scores, n, v + hk * lv.head, lv.row, 0, o + (size_t)h * lo.head,
             lo.row);
    }
}

/* Queries i0 .. i1-1 of head h; s: BLOCK_K scores a row. */
static void run_tile(int h, int i0, int i1, float *s) {
    const float scale = 1.44269504f / sqrtf((float)cell.d);
    bench_layout lq = bench_layout_of(&cell, cell.hq, cell.sq, cell.d),
                 lo = bench_layout_of(&cell, cell.hq, cell.sq, cell.dv);
    bench_layout lk = bench_layout_of(&cell, cell.hk, cell.sk, cell.d),
                 lv = bench_layout_of(&cell, cell.hk, cell.sk, cell.dv);
    const int rows = i1 - i0, shift = cell.sk - cell.sq, end = cell.causal ? i1 + shift : cell.sk;
    const size_t hk = (size_t)(h / (cell.hq / cell.hk));
    float *ot = o + (size_t)h * lo.head + (size_t)i0 * lo.row, m[256], l[256];
    for (int i = 0; i < rows; i++) m[i] = -1e30f, l[i] = 0;
    for (int j0 = 0; j0 < end; j0 += BLOCK_K) {
        int n = end - j0 < BLOCK_K ? end - j0 : BLOCK_K;
        gemm(1, rows, n, cell.d, q + (size_t)h * lq.head + (size_t)i0 * lq.row, lq.row,
             k + hk * lk.head + (size_t)j0 * lk.row, lk.row, 0, s, BLOCK_K);
        for (int i = 0; i < rows; i++) {
            int seen = cell.causal ? i0 + i + 1 + shift - j0 : n;
            float *row = s + (size_t)i * BLOCK_K, old = m[i], sum;
            seen = seen < 0 ? 0 : seen > n ? n : seen;
            sum = softmax_row(row, seen, scale, &m[i]);
            memset(row + seen, 0, (size_t)(n - seen) * sizeof *row);
            float a = j0 ? exp2_negative(old - m[i]) : 0;
            l[i] = a * l[i] + sum;
            if (j0)
                for (int e = 0; e < cell.dv; e++) ot[(size_t)i * lo.row + (size_t)e] *= a;
        }
        gemm(0, rows, cell.dv, n, s, BLOCK_K, v + hk * lv.head + (size_t)j0 * lv.row, lv.row,
             j0 ? 1.0f : 0.0f, ot, lo.row);
    }
    for (int i = 0; i < rows; i++)
        for (int e = 0; e < cell.dv; e++) ot[(size_t)i * lo.row + (size_t)e] /= l[i];
}

static void run_block(void) {
    const int block_q = cell.sq >= 768 ? 256 : cell.sq >= 192 ? 64 : 32;
    const int tiles = (cell.sq + block_q - 1) / block_q;
#pragma omp parallel for schedule(static)
    for (int t = 0; t < cell.hq * tiles; t++) {
        int i0 = t % tiles * block_q, i1 = i0 + block_q < cell.sq ? i0 + block_q : cell.sq;
#ifdef _OPENMP
        float *s = scores + (size_t)omp_get_thread_num() * 256 * BLOCK_K;
#else
        float *s = scores;
#endif
        run_tile(t / tiles, i0, i1, s);
    }
}

static void run(void) {
    if (naive)
        run_naive();
    else
        run_block();
}

static double prepare(const bench_cell *c, const char **reason) {
    size_t tiles = (size_t)num_threads() * 256 * BLOCK_K, matrix = (size_t)c->sq * (size_t)c->sk;
    free(q), free(k), free(v), free(o), free(scores);
    q = k = v = o = scores = NULL;
    cell = *c;
    if (strcmp(c->dtype, "f32") != 0) return *reason = "f32 only", -1;
    if (bench_is(c, "bias") || bench_is(c, "features") || bench_is(c, "unaligned") || bench_is_decode(c) ||
        bench_is_backward(c))
        return *reason = "not of interest here", -1;
    q = bench_random((size_t)c->hq * (size_t)c->sq * (size_t)c->d, 1);
    k = bench_random((size_t)c->hk * (size_t)c->sk * (size_t)c->d, 2);
    v = bench_random((size_t)c->hk * (size_t)c->sk * (size_t)c->dv, 3);
    o = (float *)bench_alloc((size_t)c->hq * (size_t)c->sq * (size_t)c->dv * sizeof *o);
    scores = (float *)bench_alloc((naive ? matrix : tiles) * sizeof *scores);
    run();
    return bench_error(c, q, k, v, NULL, o);
}

int main(int argc, char **argv) {
    const bench_peer peer = {prepare, run};
    char hello[256];
    naive = argc > 1 && strcmp(argv[1], "naive") == 0;
#ifdef BENCH_ONEDNN
    const dnnl_version_t *version = dnnl_version();
    snprintf(hello, sizeof hello, "oneDNN %d.%d.%d", version->major, version->minor, version->patch);
#else
    const char *parallel[] = {"sequential", "pthreads: slow next to OpenMP", "OpenMP"};
    int p = openblas_get_parallel();
    char version[64] = "?";
    sscanf(openblas_get_config(), "OpenBLAS %63s", version);
    snprintf(hello, sizeof hello, "OpenBLAS %s %s kernels; %s", version, openblas_get_corename(),
             parallel[p < 0 || p > 2 ? 0 : p]);
#endif
    return bench_serve(hello, &peer);
}
