/* test_spec_medusa.c - Medusa's heads against a plain double reference: logits, loss, and gradients, which
 * are the finite differences of the reference's loss; threads; and a training run. */
#include "fa_test.h"

#include "flashattn_spec.h"

enum { MOST_ROWS = 1030, MOST_DIM = 1030, MOST_VOCAB = 9000, MOST_HEADS = 4 };

/* A problem, and its parameters once more in double. */
typedef struct problem {
    fa_medusa_args a;
    int count[5]; /* of x, weight, bias, projection */
    float *value[4], *gradient[4];
    double *exact[4];
    int32_t target[MOST_ROWS], cu[6];
    float lambda[MOST_HEADS];
    double loss, head_loss[MOST_HEADS];
    void *workspace;
    size_t bytes;
} problem;

enum { X, WEIGHT, BIAS, PROJECTION };

static void make(problem *m, int rows, int dim, int vocab, int heads, int kind, uint64_t *rng) {
    memset(m, 0, sizeof *m);
    fa_medusa_args *a = &m->a;
    a->rows = rows, a->dim = dim, a->vocab = vocab, a->heads = heads;
    a->shared = kind % 2, a->stride_x = kind / 2 % 2 ? dim + 3 : 0;
    m->count[X] = rows * (a->stride_x ? dim + 3 : dim), m->count[WEIGHT] = heads * dim * dim,
    m->count[BIAS] = heads * dim;
    m->count[PROJECTION] = (a->shared ? 1 : heads) * vocab * dim;
    const double spread =
        dim <= 40 ? 0.7 : 3 / sqrt(dim); /* h and logits have errors like those of small dims */
    for (int p = 0; p < 4; p++) {
        const size_t n = (size_t)m->count[p];
        m->value[p] = (float *)malloc(n * 4), m->gradient[p] = (float *)malloc(n * 4);
        m->exact[p] = (double *)malloc(n * 8);
        for (size_t i = 0; i < n; i++) {
            m->value[p][i] = (float)(fat_normal(rng) * (p == X ? 1 : spread));
            m->exact[p][i] = (double)m->value[p][i], m->gradient[p][i] = NAN;
        }
    }
    a->x = m->value[X], a->weight = m->value[WEIGHT], a->projection = m->value[PROJECTION];
    if (kind / 4 % 2)
        a->bias = m->value[BIAS];
    else
        memset(m->exact[BIAS], 0, (size_t)m->count[BIAS] * 8);
    for (int t = 0; t < rows; t++) m->target[t] = fat_below(rng, 6) ? fat_below(rng, vocab) : -100;
    a->target = m->target;
    if (kind / 8 % 2) {
        a->batch = 4, a->cu_seqlens = m->cu;
        for (int b = 1; b < 4; b++) m->cu[b] = m->cu[b - 1] + fat_below(rng, (rows - m->cu[b - 1]) / 2 + 1);
        m->cu[4] = rows - (rows > 3 ? 1 : 0);
    }
    if (kind / 16 % 2) {
        for (int k = 0; k < heads; k++) m->lambda[k] = (float)(0.5 + fat_uniform(rng));
        a->lambda = m->lambda, a->shift = 1 + kind / 32 % 3;
    }
    m->bytes = fa_medusa_workspace(a), m->workspace = malloc(m->bytes);
    a->loss = &m->loss, a->head_loss = m->head_loss;
    a->d_x = m->gradient[X], a->d_weight = m->gradient[WEIGHT], a->d_bias = m->gradient[BIAS];
    a->d_projection = m->gradient[PROJECTION];
}
static void unmake(problem *m) {
    for (int p = 0; p < 4; p++) free(m->value[p]), free(m->gradient[p]), free(m->exact[p]);
    free(m->workspace);
}

static void reference_logits(const problem *m, int row, int k, double *logits) {
    const fa_medusa_args *a = &m->a;
    const double *x = m->exact[X] + row * (a->stride_x ? a->stride_x : a->dim);
    double h[MOST_DIM];
    for (int i = 0; i < a->dim; i++) {
        double u = m->exact[BIAS][k * a->dim + i];
        for (int j = 0; j < a->dim; j++) u += m->exact[WEIGHT][(k * a->dim + i) * a->dim + j] * x[j];
        h[i] = x[i] + u / (1 + exp(-u));
    }
    for (int v = 0; v < a->vocab; v++) {
        logits[v] = 0;
        for (int i = 0; i < a->dim; i++)
            logits[v] += m->exact[PROJECTION][((a->shared ? 0 : k * a->vocab) + v) * a->dim + i] * h[i];
    }
}
static double log_sum(const double *logits, int n) {
    double max = -INFINITY, sum = 0;
    for (int v = 0; v < n; v++) max = fmax(max, logits[v]);
    for (int v = 0; v < n; v++) sum += exp(logits[v] - max);
    return max + log(sum);
}
static int label_of(const problem *m, int row, int k) {
    int end = m->a.rows, at = row + (m->a.shift ? m->a.shift : 2) + k;
    for (int b = 0; m->a.cu_seqlens && b < 4; b++)
        if (row >= m->cu[b] && row < m->cu[b + 1]) end = m->cu[b + 1];
    if (m->a.cu_seqlens && row >= m->cu[4]) return -1; /* of no sequence */
    return at < end ? m->target[at] : -1;
}
static double reference_loss(const problem *m, double *head) {
    double loss = 0, logits[MOST_VOCAB], lambda = 1;
    for (int k = 0; k < m->a.heads; k++) {
        double sum = 0;
        int count = 0;
        lambda *= 0.8;
        for (int row = 0; row < m->a.rows; row++) {
            const int label = label_of(m, row, k);
            if (label < 0) continue;
            reference_logits(m, row, k, logits);
            sum += log_sum(logits, m->a.vocab) - logits[label], count++;
        }
        if (head) head[k] = count ? sum / count : 0;
        if (count) loss += (m->a.lambda ? (double)m->lambda[k] : lambda) * sum / count;
    }
    return loss;
}

static void check_loss(problem *m) {
    double head[MOST_HEADS];
    const double want = reference_loss(m, head);
    FA_REQUIRE(fa_medusa_loss(&m->a, m->workspace, m->bytes) == FA_OK);
    FA_EXPECT_NEAR(m->loss, want, 2e-6 * (1 + want));
    for (int k = 0; k < m->a.heads; k++) FA_EXPECT_NEAR(m->head_loss[k], head[k], 2e-6 * (1 + head[k]));
}

/* Every gradient of small problems, some of each in larger ones. */
static void check_gradients(problem *m, int most, uint64_t *rng) {
    const double step = 1e-4;
    for (int p = 0; p < 4; p++) {
        const int stride = m->a.stride_x ? (int)m->a.stride_x : m->a.dim;
        if (p == BIAS && !m->a.bias)
            memset(m->exact[BIAS], 0, (size_t)m->count[BIAS] * 8); /* still has a gradient */
        for (int n = 0; n < most; n++) {
            int i = fat_below(rng, m->count[p]), at = i;
            if (p == X) {
                const int row = fat_below(rng, m->a.rows), d = fat_below(rng, m->a.dim);
                i = row * stride + d, at = row * m->a.dim + d;
            }
            const double before = m->exact[p][i];
            m->exact[p][i] = before + step;
            const double up = reference_loss(m, NULL);
            m->exact[p][i] = before - step;
            const double down = reference_loss(m, NULL);
            m->exact[p][i] = before;
            const double want = (up - down) / (2 * step);
            FA_EXPECT_MSG(fat_close((double)m->gradient[p][at], want, 3e-6 + 3e-5 * fabs(want)),
                          "parameter %d, %d: got %g, want %g", p, at, (double)m->gradient[p][at], want);
        }
    }
}

FA_TEST(loss_and_gradients) {
    uint64_t rng = fat_seed;
    static const int rows[] = {1, 3, 7, 8, 9, 63, 64, 65, 130}, dims[] = {1, 2, 7, 16, 33, 40},
                     vocabs[] = {1, 2, 5, 63, 64, 65, 130};
    for (int kind = 0; kind < 96; kind++) {
        problem m;
        make(&m, rows[kind % 9], dims[kind % 6], vocabs[kind / 2 % 7], 1 + kind % MOST_HEADS, kind, &rng);
        check_loss(&m);
        check_gradients(&m, m.a.rows * m.a.vocab * m.a.dim < 30000 ? 12 : 2, &rng);
        unmake(&m);
    }
}

/* One below, one above and of several of each block: of rows in a panel, of dim in a product, of vocab. */
FA_TEST(loss_of_several_blocks) {
    uint64_t rng = fat_seed;
    static const int size[][3] = {{FAI_PANEL - 1, 3, 5},       {FAI_PANEL, 3, 5},  {FAI_PANEL + 1, 5, 9},
                                  {66, 6, FAI_VOCAB - 1},      {9, 65, FAI_VOCAB}, {7, 90, FAI_VOCAB + 1},
                                  {9, 257, 2 * FAI_VOCAB + 3}, {9, 520, 20},      {3, 1030, 10}};
    for (int n = 0; n < 9; n++) {
        problem m;
        make(&m, size[n][0], size[n][1], size[n][2], 1 + n % 2, 4 + 11 * n, &rng);
        check_loss(&m);
        check_gradients(&m, 6, &rng);
        unmake(&m);
    }
}

FA_TEST(accumulates_and_leaves_out) {
    uint64_t rng = fat_seed;
    problem m;
    make(&m, 20, 8, 70, 2, 4, &rng);
    FA_REQUIRE(fa_medusa_loss(&m.a, m.workspace, m.bytes) == FA_OK);
    float *once[4];
    for (int p = 0; p < 4; p++) {
        once[p] = (float *)malloc((size_t)m.count[p] * 4);
        memcpy(once[p], m.gradient[p], (size_t)m.count[p] * 4);
    }
    m.a.accumulate = 1;
    FA_REQUIRE(fa_medusa_loss(&m.a, m.workspace, m.bytes) == FA_OK);
    for (int p = 0; p < 4; p++)
        for (int i = 0; i < m.count[p]; i++) {
            FA_EXPECT_NEAR((double)m.gradient[p][i], 2 * (double)once[p][i],
                           1e-6 + 1e-5 * fabs((double)once[p][i]));
            m.gradient[p][i] = 77;
        }
    /* each gradient alone is what it is with the others, bit for bit, and nothing else is written */
    m.a.accumulate = 0;
    for (int alone = 0; alone < 4; alone++) {
        m.a.d_x = alone == X ? m.gradient[X] : NULL,
        m.a.d_weight = alone == WEIGHT ? m.gradient[WEIGHT] : NULL;
        m.a.d_bias = alone == BIAS ? m.gradient[BIAS] : NULL;
        m.a.d_projection = alone == PROJECTION ? m.gradient[PROJECTION] : NULL;
        FA_REQUIRE(fa_medusa_loss(&m.a, m.workspace, m.bytes) == FA_OK);
        for (int p = alone + 1; p < 4; p++)
            for (int i = 0; i < m.count[p]; i++) FA_EXPECT(m.gradient[p][i] == 77);
        FA_EXPECT(!memcmp(m.gradient[alone], once[alone], (size_t)m.count[alone] * 4));
    }
    /* nothing counts: no loss, no gradient */
    for (int t = 0; t < m.a.rows; t++) m.target[t] = -1;
    FA_REQUIRE(fa_medusa_loss(&m.a, m.workspace, m.bytes) == FA_OK && m.loss == 0 && m.head_loss[1] == 0);
    for (int i = 0; i < m.count[PROJECTION]; i++) FA_EXPECT(m.gradient[PROJECTION][i] == 0);
    for (int p = 0; p < 4; p++) free(once[p]);
    unmake(&m);
}

static void check_forward(problem *m, uint64_t *rng) {
    const size_t lines = (size_t)m->a.rows * (size_t)m->a.heads;
    float *logits = (float *)malloc(lines * (size_t)m->a.vocab * 4),
          *logprob = (float *)malloc(lines * 64 * 4);
    int32_t *token = (int32_t *)malloc(lines * 64 * 4);
    m->a.logits = logits, m->a.top_token = token, m->a.top_logprob = logprob;
    m->a.top_k = 1 + fat_below(rng, m->a.vocab < 64 ? m->a.vocab : 64);

    FA_REQUIRE(fa_medusa_forward(&m->a, m->workspace, m->bytes) == FA_OK);
    for (int row = 0; row < m->a.rows; row++)
        for (int k = 0; k < m->a.heads; k++) {
            double want[MOST_VOCAB];
            const float *got = logits + (row * m->a.heads + k) * m->a.vocab;
            const int top = (row * m->a.heads + k) * m->a.top_k;
            int used[MOST_VOCAB] = {0};
            reference_logits(m, row, k, want);
            for (int v = 0; v < m->a.vocab; v++)
                FA_EXPECT_NEAR((double)got[v], want[v], 2e-5 * (1 + fabs(want[v])));
            for (int n = 0; n < m->a.top_k; n++) {
                int best = -1;
                for (int v = 0; v < m->a.vocab; v++)
                    if (!used[v] && (best < 0 || got[v] > got[best])) best = v;
                used[best] = 1;
                FA_EXPECT(token[top + n] == best);
                FA_EXPECT_NEAR((double)logprob[top + n], (double)got[best] - log_sum(want, m->a.vocab), 1e-4);
            }
        }
    if (m->a.rows == 5) { /* a NaN: its row alone, and never among the best while there is another */
        m->value[X][2 * (m->a.stride_x ? m->a.stride_x : m->a.dim)] = NAN;
        FA_REQUIRE(fa_medusa_forward(&m->a, m->workspace, m->bytes) == FA_OK);
        for (int n = 0; n < m->a.heads * m->a.top_k; n++) {
            FA_EXPECT(isnan(logprob[2 * m->a.heads * m->a.top_k + n]) &&
                      !isnan(logprob[m->a.heads * m->a.top_k + n]));
            FA_EXPECT(token[2 * m->a.heads * m->a.top_k + n] >= 0 &&
                      token[2 * m->a.heads * m->a.top_k + n] < m->a.vocab);
        }
    }
    free(logits), free(logprob), free(token);
}

FA_TEST(forward) {
    uint64_t rng = fat_seed;
    static const int rows[] = {1, 2, 3, 4, 5, 7, 8, 9, 63, 64, 65, 130}, dims[] = {1, 7, 16, 33, 40},
                     vocabs[] = {1, 5, 64, 65, 130};
    for (int kind = 0; kind < 96; kind++) {
        problem m;
        make(&m, rows[kind % 12], dims[kind / 2 % 5], vocabs[kind / 3 % 5], 1 + kind % MOST_HEADS, kind,
             &rng);
        check_forward(&m, &rng);
        unmake(&m);
    }
}

/* Several pieces of h and of the vocabulary, and depths at which a product begins again. */
FA_TEST(forward_of_several_pieces) {
    uint64_t rng = fat_seed;
    static const int size[][3] = {{1, 65, 255}, {1, 5, 256},   {2, 6, 257},   {8, 130, 513}, {5, 3, 8192},
                                  {3, 4, 8193}, {65, 5, 9000}, {9, 520, 300}, {4, 1030, 20}, {8, 1030, 20}};
    for (int n = 0; n < 20; n++) {
        problem m;
        make(&m, size[n / 2][0], size[n / 2][1], size[n / 2][2], 1 + n % 3, 4 + n % 2, &rng);
        check_forward(&m, &rng);
        unmake(&m);
    }
}

/* The same bits for any number of threads: all outputs of one call after the other. */
static size_t all_outputs(problem *m, int threads, float *out) {
    const size_t lines = (size_t)m->a.rows * (size_t)m->a.heads, top = lines * (size_t)m->a.top_k;
    float *at = out;
    m->a.num_threads = threads;
    free(m->workspace), m->bytes = fa_medusa_workspace(&m->a), m->workspace = malloc(m->bytes);
    m->a.logits = at, at += lines * (size_t)m->a.vocab;
    m->a.top_logprob = at, at += top;
    m->a.top_token = (int32_t *)(void *)at, at += top;
    FA_EXPECT(fa_medusa_forward(&m->a, m->workspace, m->bytes) == FA_OK);
    FA_EXPECT(fa_medusa_loss(&m->a, m->workspace, m->bytes) == FA_OK);
    for (int p = 0; p < 4; p++)
        if (p != X) memcpy(at, m->gradient[p], (size_t)m->count[p] * 4), at += m->count[p];
    memcpy(at, m->gradient[X], (size_t)m->a.rows * (size_t)m->a.dim * 4), at += m->a.rows * m->a.dim;
    for (int k = 0; k < m->a.heads; k++) *at++ = (float)(m->head_loss[k] - (double)(float)m->head_loss[k]);
    return (size_t)(at - out);
}
FA_TEST(threads) {
    uint64_t rng = fat_seed;
    static const int rows[] = {1, 7, 65, 130}, threads[] = {2, 3, 7};
    static float once[1 << 20], more[1 << 20];
    for (int kind = 0; kind < 8; kind++) {
        problem m;
        make(&m, rows[kind / 2], 70, 520, 3, 4 + kind % 2, &rng);
        m.a.top_k = 9;
        const size_t count = all_outputs(&m, 1, once);
        FA_REQUIRE(count <= 1 << 20);
        for (int n = 0; n < 3; n++)
            FA_EXPECT(all_outputs(&m, threads[n], more) == count && !memcmp(once, more, count * 4));
        unmake(&m);
    }
}

FA_TEST(exponential) {
    double worst = 0, worst_sigmoid = 0;
    for (int n = 0; n < 200000; n++) {
        float x[FAI_GL], y[FAI_GL];
        fai_gvec v;
        for (int l = 0; l < FAI_GL; l++)
            x[l] = l || n > 1 ? (float)(-87.2 * n / 200000 - 0.0001 * l) : n ? NAN : -INFINITY;
        memcpy(&v, x, sizeof v);
        v = fai_gexp(v);
        memcpy(y, &v, sizeof y);
        if (n == 0) FA_EXPECT(y[0] == 0);
        if (n == 1) FA_EXPECT(isnan(y[0]));
        for (int l = 0; l < FAI_GL; l++)
            if (l || n > 1) worst = fmax(worst, fabs((double)y[l] / exp((double)x[l]) - 1));
        for (int l = 0; l < FAI_GL; l++) x[l] = (float)(174.0 * n / 200000 - 87 + 0.0001 * l);
        if (n == 1) x[0] = NAN;
        memcpy(&v, x, sizeof v);
        v = fai_gsigmoid(v);
        memcpy(y, &v, sizeof y);
        if (n == 1) FA_EXPECT(isnan(y[0]));
        for (int l = 0; l < FAI_GL; l++)
            if (l || n != 1)
                worst_sigmoid = fmax(worst_sigmoid, fabs((double)y[l] * (1 + exp(-(double)x[l])) - 1));
    }
    FA_EXPECT_MSG(worst < 2e-7, "relative error %g", worst);
    FA_EXPECT_MSG(worst_sigmoid < 4e-7, "relative error %g", worst_sigmoid);
}

/* Equal logits: lower ids first, also across blocks of the vocabulary. */
FA_TEST(ties) {
    enum { V = 130 };
    float x[1] = {1}, w[1] = {0}, p[V], workspace[1 << 13];
    int32_t token[64];
    fa_medusa_args a;
    memset(&a, 0, sizeof a);
    for (int v = 0; v < V; v++) p[v] = (float)(v % 3);
    a.rows = a.dim = a.heads = 1, a.vocab = V, a.x = x, a.weight = w, a.projection = p, a.top_k = 60,
    a.top_token = token;
    FA_REQUIRE(fa_medusa_forward(&a, workspace, sizeof workspace) == FA_OK);
    for (int n = 0; n < 60; n++) FA_EXPECT(token[n] == (n < 43 ? 2 + 3 * n : 1 + 3 * (n - 43)));
}

/* Gradient descent on heads that are to say what comes two and three tokens later in a text with a period. */
FA_TEST(training) {
    enum { ROWS = 96, DIM = 16, VOCAB = 24, HEADS = 2 };
    static float x[ROWS * DIM], w[HEADS * DIM * DIM], b[HEADS * DIM], p[HEADS * VOCAB * DIM];
    static float dw[HEADS * DIM * DIM], db[HEADS * DIM], dp[HEADS * VOCAB * DIM], embedding[VOCAB * DIM];
    static char workspace[1 << 16];
    int32_t target[ROWS], top[ROWS * HEADS * 3];
    uint64_t rng = fat_seed;
    double loss = 0, first = 0, accuracy[HEADS * 3], value = 0;
    fa_medusa_args a;
    memset(&a, 0, sizeof a);
    for (int i = 0; i < VOCAB * DIM; i++) embedding[i] = (float)fat_normal(&rng);
    for (int i = 0; i < HEADS * VOCAB * DIM; i++) p[i] = embedding[i % (VOCAB * DIM)]; /* the model's own */
    for (int t = 0; t < ROWS; t++) {
        target[t] = t * 7 % VOCAB; /* 7 has no divisor in common with 24: all tokens come by */
        memcpy(x + t * DIM, embedding + target[t] * DIM, sizeof(float) * DIM);
    }
    a.rows = ROWS, a.dim = DIM, a.vocab = VOCAB, a.heads = HEADS, a.x = x, a.weight = w, a.bias = b,
    a.projection = p;
    a.target = target, a.loss = &loss, a.d_weight = dw, a.d_bias = db, a.d_projection = dp;
    FA_REQUIRE(fa_medusa_workspace(&a) <= sizeof workspace);
    for (int step = 0; step < 400; step++) {
        FA_REQUIRE(fa_medusa_loss(&a, workspace, sizeof workspace) == FA_OK);
        if (step == 0) first = loss;
        for (int i = 0; i < HEADS * DIM * DIM; i++) w[i] -= 0.2f * dw[i];
        for (int i = 0; i < HEADS * DIM; i++) b[i] -= 0.2f * db[i];
        for (int i = 0; i < HEADS * VOCAB * DIM; i++) p[i] -= 0.2f * dp[i];
    }
    FA_EXPECT_MSG(loss < 0.02 * first, "%g -> %g", first, loss);
    a.top_k = 3, a.top_token = top;
    FA_REQUIRE(fa_medusa_forward(&a, workspace, sizeof workspace) == FA_OK);
    FA_REQUIRE(fa_medusa_accuracy(&a, accuracy) == FA_OK && accuracy[0] == 1 && accuracy[3] == 1 &&
               accuracy[5] == 1);
    /* candidates of a row along the best tree: first the tokens that come */
    int32_t parent[4], rank[4], tokens[4];
    fa_tree t = {4, 0, parent, NULL, rank};
    FA_REQUIRE(fa_tree_greedy(accuracy, HEADS, 3, &t, &value, NULL) == FA_OK && value == 3);
    FA_REQUIRE(fa_tree_fill(&t, target[1], top, HEADS, 3, tokens, NULL) == FA_OK);
    FA_EXPECT(tokens[1] == target[2] && tokens[2] == target[3] && parent[2] == 1);
}

FA_TEST(accuracy) {
    enum { ROWS = 30, TOP = 4 };
    uint64_t rng = fat_seed;
    problem m;
    int32_t top[ROWS * 2 * TOP];
    double accuracy[2 * TOP];
    make(&m, ROWS, 3, 9, 2, 8, &rng);
    m.a.top_k = TOP, m.a.top_token = top;
    FA_REQUIRE(fa_medusa_forward(&m.a, m.workspace, m.bytes) == FA_OK);
    FA_REQUIRE(fa_medusa_accuracy(&m.a, accuracy) == FA_OK);
    for (int k = 0; k < 2; k++) {
        double hits[TOP] = {0}, count = 0;
        for (int row = 0; row < ROWS; row++) {
            const int label = label_of(&m, row, k);
            count += label >= 0;
            for (int n = 0; n < TOP && label >= 0; n++)
                if (top[(row * 2 + k) * TOP + n] == label)
                    for (int more = n; more < TOP; more++) hits[more]++;
        }
        for (int n = 0; n < TOP; n++) FA_EXPECT_NEAR(accuracy[k * TOP + n], hits[n] / count, 1e-15);
    }
    unmake(&m);
}

FA_TEST(refusals) {
    uint64_t rng = fat_seed;
    problem m;
    make(&m, 6, 4, 5, 2, 12, &rng);
    int32_t top[64];
    fa_error e;
    for (int p = 0; p < 4; p++)
        for (int i = 0; i < m.count[p]; i++) m.gradient[p][i] = 77;
#define BAD(call, change, code, name) \
    { \
        fa_medusa_args a = m.a; \
        a.error = &e; \
        memset(&e, 0, sizeof e); \
        { change; } \
        FA_EXPECT_MSG(call(&a, m.workspace, m.bytes) == (code) && e.status == (code), "%s: %d", #change, \
                      e.status); \
        FA_EXPECT_MSG(e.field && !strcmp(e.field, name), "%s: %s", #change, e.field); \
    }
#define BOTH(change, code, name) \
    BAD(fa_medusa_loss, change, code, name) BAD(fa_medusa_forward, change, code, name)
    BOTH(a.rows = 0, FA_ERR_MEDUSA_SIZE, "rows")
    BOTH(a.dim = 0, FA_ERR_MEDUSA_SIZE, "dim")
    BOTH(a.dim = 1 << 21, FA_ERR_MEDUSA_SIZE, "dim")
    BOTH(a.vocab = -1, FA_ERR_MEDUSA_SIZE, "vocab")
    BOTH(a.heads = 65, FA_ERR_MEDUSA_SIZE, "heads")
    BOTH(a.shared = 2, FA_ERR_MEDUSA_SIZE, "shared")
    BOTH(a.num_threads = -1, FA_ERR_NUM_THREADS, "num_threads")
    BOTH(a.stride_x = 3, FA_ERR_MEDUSA_SIZE, "stride_x")
    BOTH(a.x = NULL, FA_ERR_MEDUSA_NULL, "x")
    BOTH(a.weight = NULL, FA_ERR_MEDUSA_NULL, "weight")
    BOTH(a.projection = (const float *)(const void *)((const char *)a.projection + 1), FA_ERR_MEDUSA_NULL,
         "projection")
    BOTH(a.bias = (const float *)(const void *)((const char *)a.bias + 2), FA_ERR_MEDUSA_NULL, "bias")
    BAD(fa_medusa_loss, a.target = NULL, FA_ERR_MEDUSA_NULL, "target")
    BAD(fa_medusa_loss, m.target[3] = 5, FA_ERR_MEDUSA_TARGET, "target")
    m.target[3] = 0;
    BAD(fa_medusa_loss, m.cu[0] = 1, FA_ERR_MEDUSA_TARGET, "cu_seqlens")
    m.cu[0] = 0;
    BAD(fa_medusa_loss, m.cu[4] = 7, FA_ERR_MEDUSA_TARGET, "cu_seqlens")
    m.cu[4] = 6;
    BAD(fa_medusa_loss, m.cu[1] = -1, FA_ERR_MEDUSA_TARGET, "cu_seqlens")
    m.cu[1] = 0;
    BAD(fa_medusa_loss, a.batch = 0, FA_ERR_MEDUSA_TARGET, "batch")
    BAD(fa_medusa_loss, a.lambda = m.lambda; m.lambda[1] = INFINITY, FA_ERR_MEDUSA_TARGET, "lambda")
    BAD(fa_medusa_loss, a.shift = -1, FA_ERR_MEDUSA_SIZE, "shift")
    BAD(fa_medusa_loss, a.accumulate = 2, FA_ERR_MEDUSA_SIZE, "accumulate")
    BAD(fa_medusa_forward, a.top_token = top; a.top_k = 6, FA_ERR_MEDUSA_SIZE, "top_k")
    BAD(fa_medusa_forward, a.top_token = top, FA_ERR_MEDUSA_SIZE, "top_k")
#undef BOTH
#undef BAD
    m.a.error = &e;
    FA_EXPECT(fa_medusa_loss(&m.a, m.workspace, m.bytes - 1) == FA_ERR_WORKSPACE_SIZE);
    FA_EXPECT(fa_medusa_loss(&m.a, NULL, m.bytes) == FA_ERR_WORKSPACE_NULL);
    FA_EXPECT(fa_medusa_loss(NULL, m.workspace, m.bytes) == FA_ERR_ARGS_NULL &&
              fa_medusa_workspace(NULL) == 0);
    m.a.top_k = 2;
    FA_EXPECT(fa_medusa_accuracy(&m.a, NULL) == FA_ERR_MEDUSA_NULL &&
              fa_medusa_accuracy(NULL, NULL) == FA_ERR_ARGS_NULL);
    m.a.first_canary = 1;
    FA_EXPECT(fa_medusa_loss(&m.a, m.workspace, m.bytes) == FA_ERR_NOT_ZEROED &&
              fa_medusa_workspace(&m.a) == 0);
    for (int p = 0; p < 4; p++)
        for (int i = 0; i < m.count[p]; i++) FA_EXPECT(m.gradient[p][i] == 77);
    unmake(&m);
}

FA_TEST_MAIN
