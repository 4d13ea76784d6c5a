/* bench_medusa.c - times Medusa's heads: few rows next to the mere reading of the weights, training next to
 * the multiply-adds that the cores can do.
 *
 *     cc -std=c11 -O2 -march=native -fopenmp -I. bench/bench_medusa.c -o build/bench/bench_medusa -lm
 *     OMP_NUM_THREADS=1 bench_medusa [--small]                     --small: not the model of dim 4096
 *
 * HOW IT MEASURES
 *   forward   logits and the best 10 tokens of each head.  Reading is a loop of vector additions over W and
 *             P, in equal parts by the same threads.  Both take turns, the fastest round of each is compared.
 *   loss      the loss and all its gradients, 7 products of 2 rows heads dim^2 operations where dim is vocab.
 *             The peak is a loop of multiply-adds of registers.  Both take turns, the fastest rounds are
 *             compared. */
#include "bench.h"

#include "flashattn_spec.h"

#define LANES FAI_GL
typedef float floats __attribute__((vector_size(4 * LANES), aligned(4)));

static int num_threads(void) {
#if defined(_OPENMP)
    return omp_get_max_threads();
#else
    return 1;
#endif
}

static float *uniform(size_t count, float scale) {
    float *x = (float *)bench_alloc(count * sizeof *x);
    uint64_t seed = count;
    for (size_t i = 0; i < count; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        x[i] = scale * ((float)(seed >> 40) * 0x1p-23f - 1);
    }
    return x;
}

static double read_part(const float *x, size_t count) {
    floats sum[8] = {{0}};
    double total = 0;
    for (size_t i = 0; i + 8 * LANES <= count; i += 8 * LANES)
        for (int n = 0; n < 8; n++) sum[n] += *(const floats *)(x + i + (size_t)n * LANES);
    for (int n = 0; n < 8; n++)
        for (int l = 0; l < LANES; l++) total += (double)sum[n][l];
    return total;
}
static double read_all(const float *x, size_t count) {
    const int parts = num_threads();
    double total = 0;
#if defined(_OPENMP)
#pragma omp parallel for schedule(static) reduction(+ : total)
#endif
    for (int n = 0; n < parts; n++) {
        const size_t first = count / (size_t)parts * (size_t)n;
        total += read_part(x + first, n + 1 < parts ? count / (size_t)parts : count - first);
    }
    return total;
}

/* Multiply-adds of all threads: operations in a second. */
static double peak(void) {
    enum { STEPS = 200000, CHAINS = 12 };
    const int parts = num_threads();
    double total = 0;
    const double t = bench_wall();
#if defined(_OPENMP)
#pragma omp parallel for schedule(static) reduction(+ : total)
#endif
    for (int n = 0; n < parts; n++) {
        fai_gvec x[CHAINS], a = fai_gsplat(0.5f), b = fai_gsplat((float)n);
        FAI_EACH (c, 0, CHAINS) x[c] = fai_gsplat((float)c);
        for (int s = 0; s < STEPS; s++)
            FAI_EACH (c, 0, CHAINS) x[c] = fai_gfma(x[c], a, b);
        FAI_EACH (c, 0, CHAINS) total += (double)((const float *)&x[c])[0];
    }
    return total < -1 ? 0 : 2.0 * STEPS * CHAINS * LANES * parts / (bench_wall() - t);
}

typedef struct model {
    int dim, vocab, heads;
    size_t w, p;
    float *weights, *x, *out; /* W and P one after the other, inputs, logits or gradients */
} model;

enum { MOST = 1024, TOP = 10 };

static void call(const model *m, int rows, int loss, int rounds) {
    static int32_t token[MOST * 4 * TOP], target[MOST];
    const size_t r = (size_t)rows, dim = (size_t)m->dim;
    fa_medusa_args a;
    double best = 1e9, read = 1e9, most = 0, value = 0;
    memset(&a, 0, sizeof a);
    a.rows = rows, a.dim = m->dim, a.vocab = m->vocab, a.heads = m->heads, a.x = m->x;
    a.weight = m->weights, a.projection = m->weights + m->w;
    if (loss) {
        for (int t = 0; t < rows; t++) target[t] = t * 7919 % m->vocab;
        a.target = target, a.loss = &value;
        a.d_x = m->out, a.d_weight = a.d_x + r * dim, a.d_projection = a.d_weight + m->w;
    } else {
        a.logits = m->out, a.top_token = token, a.top_k = TOP;
    }
    const size_t bytes = fa_medusa_workspace(&a);
    void *workspace = bench_alloc(bytes);
    for (int round = 0; round < rounds; round++) {
        if (loss)
            most = fmax(most, peak());
        else {
            const double t = bench_wall();
            value += read_all(m->weights, m->w + m->p);
            read = fmin(read, bench_wall() - t);
        }
        const double t = bench_wall();
        if ((loss ? fa_medusa_loss : fa_medusa_forward)(&a, workspace, bytes) != FA_OK)
            puts("failed"), exit(2);
        best = fmin(best, bench_wall() - t);
    }
    printf("  dim %4d vocab %5d heads %d  rows %4d  %s %9.1f us", m->dim, m->vocab, m->heads, rows,
           loss ? "loss   " : "forward", best * 1e6);
    const double flops = 2.0 * rows * ((loss ? 3.0 : 1.0) * (double)m->w + (loss ? 4.0 : 1.0) * (double)m->p);
    if (loss)
        printf("  %6.1f GFLOP/s, %2.0f %% of %.1f%s\n", flops / best * 1e-9, 100 * flops / best / most,
               most * 1e-9, isfinite(value) ? "" : " !");
    else
        printf("  reading %9.1f us (%.1f GB/s): %.2f times as long%s\n", read * 1e6,
               (double)(m->w + m->p) * 4e-9 / read, best / read, isfinite(value) ? "" : " !");
    free(workspace);
}

static model make(int dim, int vocab, int heads) {
    model m = {dim, vocab, heads, 0, 0, NULL, NULL, NULL};
    m.w = (size_t)heads * (size_t)dim * (size_t)dim, m.p = (size_t)heads * (size_t)vocab * (size_t)dim;
    m.weights = uniform(m.w + m.p, 1 / sqrtf((float)dim)), m.x = uniform((size_t)MOST * (size_t)dim, 1);
    m.out = uniform((size_t)(dim > 1024 ? 64 : MOST) * (size_t)(dim > heads * vocab ? dim : heads * vocab) +
                        m.w + m.p,
                    0);
    return m;
}

int main(int argc, char **argv) {
    static const int rows[] = {1, 2, 3, 4, 5, 7, 8, 9, 16, 32, 63, 64, 65, 256};
    const int small = argc == 2 && !strcmp(argv[1], "--small");
    if (argc > 1 && !small) return fprintf(stderr, "usage: bench_medusa [--small]\n"), 2;
    printf("Medusa's heads, f32, %d threads\n", num_threads());
    model m = make(256, 256, 4);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) call(&m, rows[i], 0, 300);
    call(&m, 64, 1, 30), call(&m, 1000, 1, 10), call(&m, 1024, 1, 10);
    free(m.weights), free(m.x), free(m.out);
    if (small) return 0;
    m = make(4096, 32000, 1);
    for (size_t i = 0; i < sizeof rows / sizeof *rows - 2; i++)
        if (rows[i] < 10 || rows[i] == 64) call(&m, rows[i], 0, 3);
    free(m.weights), free(m.x), free(m.out);
    return 0;
}
