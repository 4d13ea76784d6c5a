/* each_kernel.cu - launches each kernel that bench/gpu.py times once, on one small problem, and checks the result:
 *
 *     each_kernel [--seqlen N] [--keys N] [--causal] [--dim D] [--no-decode]
 *
 * For compute-sanitizer on a GPU (bench/run_gpu.sh), and for the costs that the PTX machine predicts (make cuda-model).
 * One batch and one head; decode has one query for N keys, 8 query heads and one of keys. Checked: O, LSE and gradients
 * of a few rows against double. */
#include "gpu_kernels.cu"

static int failures;

static uint64_t random_state = 1;
static float random_number(void) { /* about normal */
    double x = -6;
    for (int i = 0; i < 12; i++) {
        random_state = random_state * 6364136223846793005u + 1442695040888963407u;
        x += (double)(random_state >> 33) * 0x1p-31;
    }
    return (float)x;
}

typedef struct matrix {
    int rows, dim;
    uint16_t *code; /* on the host */
    void *device;
} matrix;

static void must(cudaError_t e, const char *what) {
    if (e != cudaSuccess) fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(e)), exit(1);
}

static matrix matrix_new(int rows, int dim, int random) {
    matrix m = {rows, dim, (uint16_t *)malloc((size_t)rows * (size_t)dim * 2), NULL};
    for (int i = 0; i < rows * dim; i++) m.code[i] = random ? fa_f32_to_bf16(random_number()) : 0x7fc0; /* NaN */
    must(cudaMalloc(&m.device, (size_t)rows * (size_t)dim * 2), "cudaMalloc");
    must(cudaMemcpy(m.device, m.code, (size_t)rows * (size_t)dim * 2, cudaMemcpyHostToDevice), "cudaMemcpy");
    return m;
}
static void matrix_free(matrix *m) { cudaFree(m->device), free(m->code); }
static double at(const matrix *m, int row, int d) { return (double)fa_bf16_to_f32(m->code[row * m->dim + d]); }
static double dot(const matrix *a, int i, const matrix *b, int j) {
    double sum = 0;
    for (int d = 0; d < a->dim; d++) sum += at(a, i, d) * at(b, j, d);
    return sum;
}

/* || got - want || / || want || of rows; NaN is 1e30 */
typedef struct difference {
    double square, of;
} difference;
static void difference_add(difference *x, double got, double want) {
    x->square += (got - want) * (got - want), x->of += want * want;
}
static void difference_judge(const difference *x, const char *name, int dim, const char *pass) {
    const double error = x->of > 0 ? sqrt(x->square / x->of) : 1e30;
    if (error <= 0.01) return; /* bf16 alone: 0.002 to 0.005 */
    printf("head dim %d, %s: the relative error of %s is %.3g\n", dim, pass, name, error);
    failures++;
}

/* The last key that query i sees, and 1. */
static int visible(const bench_problem *p, int i) {
    return p->causal ? i + 1 + p->seqlen_k - p->seqlen_q : p->seqlen_k;
}

/* P of row i of q, and its LSE */
static double probabilities(const bench_problem *p, const matrix *q, const matrix *k, int row, int i, double *w) {
    double top = -1e300, sum = 0;
    for (int j = 0; j < visible(p, i); j++) {
        w[j] = dot(q, row, k, j) / sqrt((double)q->dim);
        top = fmax(top, w[j]);
    }
    for (int j = 0; j < visible(p, i); j++) sum += exp(w[j] - top);
    const double lse = top + log(sum);
    for (int j = 0; j < p->seqlen_k; j++) w[j] = j < visible(p, i) ? exp(w[j] - lse) : 0;
    return lse;
}

static void check_forward(const bench_problem *p, const matrix *q, const matrix *k, const matrix *v, const matrix *o,
                          const float *lse, const char *pass) {
    double *const w = (double *)malloc((size_t)p->seqlen_k * sizeof *w);
    difference x = {0, 0};
    for (int n = 0; n < 12; n++) {
        const int row = n * (q->rows - 1) / 11, i = row % p->seqlen_q;
        const double want = probabilities(p, q, k, row, i, w);
        if (!(fabs((double)lse[row] - want) <= 1e-3)) {
            printf("head dim %d, %s: LSE of row %d is %g, not %g\n", q->dim, pass, row, (double)lse[row], want);
            failures++;
        }
        for (int d = 0; d < v->dim; d++) {
            double sum = 0;
            for (int j = 0; j < visible(p, i); j++) sum += w[j] * at(v, j, d);
            difference_add(&x, at(o, row, d), sum);
        }
    }
    difference_judge(&x, "o", q->dim, pass);
    free(w);
}

/* All of dK and dV, and dQ, from the definition. */
static void check_backward(const bench_problem *p, const matrix *q, const matrix *k, const matrix *v, const matrix *o,
                           const matrix *d_o, const matrix *const gradients[3]) {
    const int dim = q->dim, keys = p->seqlen_k;
    double *const w = (double *)malloc((size_t)keys * sizeof *w);
    double *const dk = (double *)calloc((size_t)(keys * dim) * 2, sizeof *dk), *const dv = dk + keys * dim;
    difference x[3] = {{0, 0}, {0, 0}, {0, 0}};
    for (int i = 0; i < q->rows; i++) {
        double dq[256] = {0};
        const double sum = dot(d_o, i, o, i);
        probabilities(p, q, k, i, i, w);
        for (int j = 0; j < visible(p, i); j++) {
            const double ds = w[j] * (dot(d_o, i, v, j) - sum) / sqrt((double)dim);
            for (int d = 0; d < dim; d++) {
                dq[d] += ds * at(k, j, d);
                dk[j * dim + d] += ds * at(q, i, d), dv[j * dim + d] += w[j] * at(d_o, i, d);
            }
        }
        for (int d = 0; d < dim; d++) difference_add(&x[0], at(gradients[0], i, d), dq[d]);
    }
    for (int j = 0; j < keys * dim; j++)
        difference_add(&x[1], at(gradients[1], j / dim, j % dim), dk[j]),
            difference_add(&x[2], at(gradients[2], j / dim, j % dim), dv[j]);
    static const char *const name[3] = {"dq", "dk", "dv"};
    for (int n = 0; n < 3; n++) difference_judge(&x[n], name[n], dim, "backward");
    free(w), free(dk);
}

static void call(bench_problem *p, int pass) {
    char text[300];
    p->pass = pass, p->bytes = bench_workspace(p), p->workspace = NULL;
    if (p->bytes) must(cudaMalloc(&p->workspace, p->bytes), "cudaMalloc");
    if (p->bytes) must(cudaMemset(p->workspace, 0, p->bytes), "cudaMemset");
    if (bench_run(p, text, sizeof text) != FA_OK) fprintf(stderr, "%s\n", text), exit(1);
    must(cudaDeviceSynchronize(), "kernel");
    if (p->workspace) cudaFree(p->workspace);
}
static void fetch(matrix *m) {
    must(cudaMemcpy(m->code, m->device, (size_t)m->rows * (size_t)m->dim * 2, cudaMemcpyDeviceToHost), "cudaMemcpy");
}

/* The passes of one head dim. */
static void run(int dim, int queries, int keys, int causal, int decode) {
    bench_problem p = {};
    p.head_dim = dim, p.batch = 1, p.heads = decode ? 8 : 1, p.heads_k = 1;
    p.seqlen_q = queries, p.seqlen_k = keys, p.causal = causal;
    matrix q = matrix_new(p.heads * queries, dim, 1), k = matrix_new(keys, dim, 1), v = matrix_new(keys, dim, 1);
    matrix o = matrix_new(p.heads * queries, dim, 0);
    float *const lse = (float *)malloc((size_t)q.rows * sizeof *lse);
    p.q = q.device, p.k = k.device, p.v = v.device, p.o = o.device;
    must(cudaMalloc(&p.lse, (size_t)q.rows * sizeof *lse), "cudaMalloc");
    const int pass = decode ? FA_DECODE : FA_FORWARD;
    call(&p, pass);
    must(cudaMemcpy(lse, p.lse, (size_t)q.rows * sizeof *lse, cudaMemcpyDeviceToHost), "cudaMemcpy");
    fetch(&o), check_forward(&p, &q, &k, &v, &o, lse, decode ? "decode" : "forward");
    printf("head dim %d, %s: %d x %d %s\n", dim, decode ? "decode" : "forward", queries, keys, causal ? "causal" : "full");
    if (!decode) {
        matrix d_o = matrix_new(queries, dim, 1), gradients[3];
        const matrix *const all[3] = {&gradients[0], &gradients[1], &gradients[2]};
        for (int n = 0; n < 3; n++) gradients[n] = matrix_new(n ? keys : queries, dim, 0);
        p.d_o = d_o.device, p.dq = gradients[0].device, p.dk = gradients[1].device, p.dv = gradients[2].device;
        call(&p, FA_BACKWARD);
        for (int n = 0; n < 3; n++) fetch(&gradients[n]);
        check_backward(&p, &q, &k, &v, &o, &d_o, all);
        printf("head dim %d, backward: %d x %d %s\n", dim, queries, keys, causal ? "causal" : "full");
        for (int n = 0; n < 3; n++) matrix_free(&gradients[n]);
        matrix_free(&d_o);
    }
    cudaFree(p.lse), free(lse);
    matrix_free(&q), matrix_free(&k), matrix_free(&v), matrix_free(&o);
}

int main(int argc, char **argv) {
    int seqlen = 200, keys = 0, causal = 0, dim = 0, decode = 1;
    for (int i = 1; i < argc; i++) {
        const int more = i + 1 < argc;
        if (!strcmp(argv[i], "--causal")) causal = 1;
        else if (!strcmp(argv[i], "--no-decode")) decode = 0;
        else if (!strcmp(argv[i], "--seqlen") && more) seqlen = atoi(argv[++i]);
        else if (!strcmp(argv[i], "--keys") && more) keys = atoi(argv[++i]);
        else if (!strcmp(argv[i], "--dim") && more) dim = atoi(argv[++i]);
        else return fprintf(stderr, "usage: %s [--seqlen N] [--keys N] [--causal] [--dim D] [--no-decode]\n", argv[0]), 2;
    }
    for (size_t n = 0; n < sizeof bench_instances / sizeof *bench_instances; n++) {
        const int d = bench_instances[n][0]->info.head_dim;
        if (dim && d != dim) continue;
        run(d, seqlen, keys ? keys : seqlen, causal, 0);
        if (decode) run(d, 1, keys ? keys : 4 * seqlen, 0, 1);
    }
    puts(failures ? "wrong" : "right");
    return failures != 0;
}
