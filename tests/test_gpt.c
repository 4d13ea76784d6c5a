/* test_gpt.c - examples/gpt from the inside: its parts, products and gradients against fp64, decoding in every order,
 * writing in every way, and the law of what is drawn. tests/gpt.sh runs the program itself.
 *
 * attention_step, _keep and the verifications go through wrappers that can do something wrong: what checks the text and
 * its law must notice. */

#define _POSIX_C_SOURCE 200809L

#include "fa_test.h"

#define attention_step right_step
#define attention_keep right_keep
#define attention_verify_chain right_verify_chain
#define attention_verify_tree right_verify_tree
#include "../examples/gpt/attention.c"
#undef attention_step
#undef attention_keep
#undef attention_verify_chain
#undef attention_verify_tree
void attention_step(attention_cache *cache, int32_t layer, int32_t length, int32_t rows, const float *qkv,
                    const uint32_t *mask, float *o);
void attention_keep(attention_cache *cache, int32_t length, const int32_t *rows, int32_t count);
fa_status attention_verify_chain(const fa_verify_args *args);
fa_status attention_verify_tree(const fa_verify_args *args);

#include "../examples/gpt/compare.h"

#if defined(_OPENMP)
#include <omp.h>
#endif

enum { RIGHT, NO_MASK, LOST_KEEP, OFF_BY_ONE, ALL_ACCEPTED, WRONG_DRAFT_ROWS, OTHER_TEMPERATURE };
static int fault = RIGHT;

void attention_step(attention_cache *cache, int32_t layer, int32_t length, int32_t rows, const float *qkv,
                    const uint32_t *mask, float *o) {
    right_step(cache, layer, fault == OFF_BY_ONE && mask ? length - 1 : length, rows, qkv,
               fault == NO_MASK ? NULL : mask, o);
}

void attention_keep(attention_cache *cache, int32_t length, const int32_t *rows, int32_t count) {
    if (fault != LOST_KEEP) right_keep(cache, length, rows, count);
}

static fa_verify_args faulty(const fa_verify_args *args, float *temperature) {
    fa_verify_args a = *args;
    if (fault == ALL_ACCEPTED && a.rule != FA_VERIFY_GREEDY)
        a.rule = FA_VERIFY_TYPICAL, a.typical_epsilon = 0.01f, a.typical_delta = 0.01f;
    if (fault == WRONG_DRAFT_ROWS && a.draft.data) a.draft.data = a.target.data;
    *temperature = args->sampling.temperature[0];
    if (fault == OTHER_TEMPERATURE && *temperature > 0)
        *temperature *= 0.5f, a.sampling.temperature = temperature;
    return a;
}
fa_status attention_verify_chain(const fa_verify_args *args) {
    float temperature;
    const fa_verify_args a = faulty(args, &temperature);
    return right_verify_chain(&a);
}
fa_status attention_verify_tree(const fa_verify_args *args) {
    float temperature;
    const fa_verify_args a = faulty(args, &temperature);
    return right_verify_tree(&a);
}

/* ---- helpers ---- */

static int quick(void) {
    const char *scale = getenv("FA_TEST_SCALE");
    return scale && strcmp(scale, "quick") == 0;
}

static void threads(int n) {
#if defined(_OPENMP)
    omp_set_num_threads(n);
#else
    (void)n;
#endif
}
/* Teams are slow where other programs run, and these models are small: tests of threads ask for 2 and go back. */
__attribute__((constructor)) static void one_thread(void) { threads(1); }

/* In memory of exactly that size, so that the sanitizer sees what is read behind it. */
static float *normals(size_t count, double deviation, uint64_t *state) {
    float *x = floats(count);
    for (size_t i = 0; i < count; i++) x[i] = (float)(deviation * fat_normal(state));
    return x;
}

static double *doubles(size_t count) { return (double *)allocate(count, sizeof(double)); }

static double largest_difference(const float *x, const float *y, size_t count) {
    double most = 0;
    for (size_t i = 0; i < count; i++) {
        const double d = fabs((double)x[i] - (double)y[i]);
        if (!(d <= most)) most = d; /* NaN stays */
    }
    return most;
}

static void some_text(uint8_t *text, size_t count, uint64_t seed) {
    for (size_t i = 0; i < count; i++) text[i] = (uint8_t)fat_next(&seed);
}

/* Words of a small language, in which much repeats and something is left to chance. */
static void language(uint8_t *text, size_t count, uint64_t seed) {
    static const char *const words[] = {"the ",  "cat ",  "sat ", "on ",    "a ",        "mat.\n",
                                        "for (", "int i", " = 0", "; i < ", "n; i++)\n", "return "};
    for (size_t i = 0; i < count;) {
        const char *word = words[fat_below(&seed, (int)(sizeof words / sizeof *words))];
        for (; *word && i < count; word++) text[i++] = (uint8_t)*word;
    }
}

/* ---- numbers drawn ---- */

FA_TEST(random_numbers) {
    enum { COUNT = 1 << 16 };
    static uint64_t seen[COUNT];
    int ones[64] = {0}, equal = 0;
    for (uint64_t i = 0; i < COUNT; i++) {
        seen[i] = random_at(7, i);
        FA_EXPECT(seen[i] == random_at(7, i));
        equal += random_at(8, i) == seen[i];
        for (int b = 0; b < 64; b++) ones[b] += (int)(seen[i] >> b & 1);
    }
    FA_EXPECT(equal == 0);
    for (int b = 0; b < 64; b++) /* standard deviation 128: five of them */
        FA_EXPECT_MSG(abs(ones[b] - COUNT / 2) < 640, "bit %d: %d of %d", b, ones[b], COUNT);
    for (uint64_t i = 0; i + 1 < COUNT; i++) FA_EXPECT(seen[i] != seen[i + 1]);

    float *x = floats(COUNT);
    double sum = 0, square = 0, most = 0;
    fill_random(x, COUNT, 0.5, 3);
    for (size_t i = 0; i < COUNT; i++) {
        sum += (double)x[i], square += (double)x[i] * (double)x[i];
        if (fabs((double)x[i]) > most) most = fabs((double)x[i]);
    }
    FA_EXPECT_NEAR(sum / COUNT, 0, 5 * 0.5 / 256);
    FA_EXPECT_NEAR(sqrt(square / COUNT), 0.5, 0.01);
    FA_EXPECT(most <= 0.5 * sqrt(12) + 1e-6 &&
              most > 1.5); /* four uniform numbers end at 2 sqrt(3) deviations */
    free(x);
}

FA_TEST(batches) {
    enum { SIZE = 40, SEQLEN = 8, BATCH = 3, PLACES = SIZE - SEQLEN };
    uint8_t *text = (uint8_t *)allocate(SIZE, 1), token[BATCH * SEQLEN], target[BATCH * SEQLEN],
            again[BATCH * SEQLEN];
    const corpus x = {text, NULL, SIZE, 0, 1};
    int hits[PLACES] = {0}, different = 0;
    for (int i = 0; i < SIZE; i++) text[i] = (uint8_t)i;
    for (uint64_t step = 0; step < 2000; step++) {
        draw_batch(&x, 5, step, BATCH, SEQLEN, token, target);
        draw_batch(&x, 6, step, BATCH, SEQLEN, again, target);
        different += memcmp(token, again, sizeof token) != 0;
        draw_batch(&x, 5, step, BATCH, SEQLEN, again, target);
        FA_EXPECT(memcmp(token, again, sizeof token) == 0);
        for (int b = 0; b < BATCH; b++) {
            FA_REQUIRE(token[b * SEQLEN] < PLACES);
            hits[token[b * SEQLEN]]++;
            for (int i = 0; i < SEQLEN; i++) {
                FA_EXPECT(token[b * SEQLEN + i] == token[b * SEQLEN] + i);
                FA_EXPECT(target[b * SEQLEN + i] == token[b * SEQLEN + i] + 1);
            }
        }
    }
    FA_EXPECT(different > 1900);
    for (int i = 0; i < PLACES; i++) /* mean 187, standard deviation 13.5 */
        FA_EXPECT_MSG(hits[i] > 110 && hits[i] < 265, "place %d: %d", i, hits[i]);
    free(text);
}

FA_TEST(learning_rate) {
    FA_EXPECT_NEAR(rate_at(0.3, 0, 0), 0.01, 1e-12);
    FA_EXPECT_NEAR(rate_at(0.3, 14, 0.01), 0.15, 1e-12);
    FA_EXPECT_NEAR(rate_at(0.3, 29, 0.1), 0.3, 1e-12);
    FA_EXPECT_NEAR(rate_at(0.3, 1000, 0.3), 0.3, 1e-12);
    FA_EXPECT_NEAR(rate_at(0.3, 1000, 0.65), 0.15, 1e-12);
    FA_EXPECT(rate_at(0.3, 1000, 1) == 0);
    for (int i = 0; i < 100; i++)
        FA_EXPECT(rate_at(1, 30 + i, i / 100.0) >= rate_at(1, 31 + i, (i + 1) / 100.0));
}

/* ---- text ---- */

static void write_file(const char *path, const void *data, size_t bytes) {
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(data, 1, bytes, file) != bytes || fclose(file) != 0) abort();
}

static void new_path(char path[32]) {
    strcpy(path, "/tmp/test_gpt_XXXXXX");
    const int file = mkstemp(path);
    if (file < 0 || close(file) != 0) abort();
}

FA_TEST(corpus_split) {
    char path[3][32], *paths[3];
    for (int i = 0; i < 3; i++) new_path(path[i]), paths[i] = path[i];
    write_file(path[0], "0123456789abcdefghijklmno", 25); /* 18 and 7 */
    write_file(path[1], "", 0);
    write_file(path[2], "ABCDEFGHIJ", 10); /* 9 and 1 */
    corpus x = corpus_load(paths, 3);
    FA_EXPECT(x.files == 3 && x.num_train == 27 && x.num_valid == 8);
    FA_EXPECT(memcmp(x.train, "0123456789abcdefghABCDEFGHI", 27) == 0);
    FA_EXPECT(memcmp(x.valid, "ijklmnoJ", 8) == 0);
    corpus_free(&x);

    const size_t large = 300001; /* read in pieces */
    uint8_t *text = (uint8_t *)allocate(large, 1);
    some_text(text, large, 4);
    write_file(path[1], text, large);
    x = corpus_load(paths + 1, 1);
    FA_EXPECT(x.num_train == 270000 && x.num_valid == 30001);
    FA_EXPECT(memcmp(x.train, text, 270000) == 0 && memcmp(x.valid, text + 270000, 30001) == 0);
    corpus_free(&x), free(text);
    for (int i = 0; i < 3; i++) remove(path[i]);
}

static double trigram_of(const char *train, const char *valid, size_t num_valid) {
    const corpus x = {(uint8_t *)(uintptr_t)train, (uint8_t *)(uintptr_t)valid, strlen(train), num_valid, 1};
    return corpus_trigram(&x);
}

FA_TEST(trigram) {
    /* "aab", then b behind aa: of 3 bytes 2 kinds, b once; behind a: a, b; behind aa: b */
    const double none = (1 + 2 / 256.0) / 5, one = (1 + 2 * none) / 4, two = (1 + one) / 2;
    FA_EXPECT_NEAR(trigram_of("aab", "aab", 3), -log2(two), 1e-12);
    /* z was never seen: 2 / 256 behind nothing, then shares of it */
    const double z = 2 / 256.0 / 5;
    FA_EXPECT_NEAR(trigram_of("aab", "aaz", 3), -log2(2 * z / 4 / 2), 1e-12);
    FA_EXPECT_NEAR(trigram_of("aab", "zzz", 3), -log2(z), 1e-12);     /* a context never seen */
    FA_EXPECT_NEAR(trigram_of("aab", "zaz", 3), -log2(z / 2), 1e-12); /* of which the last byte was */
    FA_EXPECT_NEAR(trigram_of("", "xyz", 3), 8, 1e-12);
    FA_EXPECT(trigram_of("abc", "ab", 2) == 0);
    FA_EXPECT_NEAR(trigram_of("aab", "aabaab", 6),
                   (-2 * log2(two) - log2((2 + 2 * (1 / 256.0)) / 5) /* ab: a: nothing seen behind b */
                    - log2((1 + 2 * ((2 + 2 / 256.0) / 5)) / 4)) /
                       4,
                   1e-12); /* ba: a: behind a */
    double sum = 0;
    for (int last = 0; last < 256; last++) {
        const char valid[3] = {'a', 'b', (char)last};
        sum += exp2(-trigram_of("abracadabra abracadabra", valid, 3));
    }
    FA_EXPECT_NEAR(sum, 1, 1e-12);
}

/* ---- the parts ---- */

FA_TEST(exponentials) {
    double most = 0;
    for (double x = -86.99; x < 87; x += 1.37e-4) {
        const float at = (float)x;
        const double error = fabs((double)quick_exp(at) / exp((double)at) - 1);
        if (!(error <= most)) most = error;
    }
    FA_EXPECT_MSG(most <= 3e-7, "relative error %.3g", most);
    FA_EXPECT(quick_exp(0) == 1);
    for (double x = -300; x < 300; x += 0.0173) {
        const float at = (float)x;
        const double want = 1 / (1 + exp(-(double)at < 80 ? -(double)at : 80));
        FA_EXPECT_NEAR((double)sigmoid(at), want, 5e-7 * want);
    }
}

/* logits of some rows: usual ones, equal ones, some far apart */
static float *some_logits(int64_t rows, uint64_t *state) {
    float *x = normals((size_t)rows * VOCAB, 3, state);
    for (int k = 0; k < VOCAB; k++) {
        x[k] = 5;
        if (rows > 1) x[VOCAB + k] = k == 9 ? 300 : -300.0f + (float)k;
        if (rows > 2) x[2 * VOCAB + k] = k == 200 ? 60.5f : (float)k / 8;
    }
    return x;
}

static double exact_softmax(const float *x, double p[VOCAB]) { /* log of the sum */
    double max = (double)x[0], sum = 0;
    for (int k = 0; k < VOCAB; k++) max = fmax(max, (double)x[k]);
    for (int k = 0; k < VOCAB; k++) sum += p[k] = exp((double)x[k] - max);
    for (int k = 0; k < VOCAB; k++) p[k] /= sum;
    return max + log(sum);
}

FA_TEST(losses) {
    static const int64_t sizes[] = {1, 2, 16, 17, 40};
    uint64_t state = fat_seed;
    double p[VOCAB];
    for (size_t n = 0; n < sizeof sizes / sizeof *sizes; n++) {
        const int64_t rows = sizes[n];
        const size_t count = (size_t)rows * VOCAB;
        float *x = some_logits(rows, &state), *y = floats(count), *log_sum = floats((size_t)rows);
        float *teacher = normals(count, 2, &state);
        double *weight = doubles((size_t)rows), loss = 0;
        uint8_t *target = (uint8_t *)allocate((size_t)rows, 1);
        memcpy(y, x, count * sizeof *y), softmax(rows, y, log_sum), softmax(rows, teacher, NULL);
        for (int64_t i = 0; i < rows; i++) {
            const double want = exact_softmax(x + i * VOCAB, p);
            float alone[VOCAB];
            FA_EXPECT_NEAR((double)log_sum[i], want, 1e-6 * (1 + fabs(want)));
            for (int k = 0; k < VOCAB; k++)
                FA_EXPECT_NEAR((double)y[i * VOCAB + k], p[k], 2e-6 * p[k] + 1e-34);
            memcpy(alone, x + i * VOCAB, sizeof alone), softmax(1, alone, NULL);
            FA_EXPECT(memcmp(alone, y + i * VOCAB, sizeof alone) == 0);
            target[i] = (uint8_t)fat_next(&state), weight[i] = i % 5 == 3 ? 0 : fat_uniform(&state);
            loss += (want - (double)x[i * VOCAB + target[i]]) / (double)rows;
        }
        memcpy(y, x, count * sizeof *y);
        FA_EXPECT_NEAR(cross_entropy(rows, y, target), loss, 2e-6 * (1 + loss));
        for (int64_t i = 0; i < rows; i++) {
            exact_softmax(x + i * VOCAB, p);
            for (int k = 0; k < VOCAB; k++)
                FA_EXPECT_NEAR((double)y[i * VOCAB + k], (p[k] - (k == target[i])) / (double)rows,
                               2e-6 / (double)rows);
        }
        memcpy(y, x, count * sizeof *y), distill(rows, y, teacher, weight);
        for (int64_t i = 0; i < rows; i++) {
            exact_softmax(x + i * VOCAB, p);
            for (int k = 0; k < VOCAB; k++)
                FA_EXPECT_NEAR((double)y[i * VOCAB + k], weight[i] * (p[k] - (double)teacher[i * VOCAB + k]),
                               2e-6);
        }
        free(x), free(y), free(log_sum), free(teacher), free(weight), free(target);
    }
}

/* The loss of norm and swiglu here: the sum of dy * y, in fp64. */
static double norm_loss(int64_t rows, int64_t dim, const double *x, const double *gain, const float *dy,
                        double *y) {
    double loss = 0;
    for (int64_t i = 0; i < rows; i++) {
        double square = 0;
        for (int64_t k = 0; k < dim; k++) square += x[i * dim + k] * x[i * dim + k];
        const double scale = 1 / sqrt(square / (double)dim + 1e-5);
        for (int64_t k = 0; k < dim; k++) {
            y[i * dim + k] = x[i * dim + k] * scale * gain[k];
            loss += (double)dy[i * dim + k] * y[i * dim + k];
        }
    }
    return loss;
}

FA_TEST(norm_and_gradient) {
    static const int64_t shapes[][2] = {{1, 1}, {2, 5}, {3, 16}, {17, 33}, {40, 64}, {4, 100}};
    uint64_t state = fat_seed;
    for (size_t n = 0; n < sizeof shapes / sizeof *shapes; n++) {
        const int64_t rows = shapes[n][0], dim = shapes[n][1];
        const size_t count = (size_t)(rows * dim);
        float *x = normals(count, 2, &state), *gain = normals((size_t)dim, 1, &state),
              *dy = normals(count, 1, &state);
        float *y = floats(count), *scale = floats((size_t)rows), *alone = floats((size_t)dim);
        float *dx = normals(count, 1, &state), *d_gain = normals((size_t)dim, 1, &state),
              *dx0 = floats(count), *d_gain0 = floats((size_t)dim);
        double *xd = doubles(count), *gd = doubles((size_t)dim), *yd = doubles(count);
        if (rows > 1) memset(x, 0, (size_t)dim * sizeof *x); /* a row of zeros */
        memcpy(dx0, dx, count * sizeof *dx), memcpy(d_gain0, d_gain, (size_t)dim * sizeof *dx);
        for (size_t i = 0; i < count; i++) xd[i] = (double)x[i];
        for (int64_t k = 0; k < dim; k++) gd[k] = (double)gain[k];
        norm(rows, dim, x, gain, y, scale);
        norm_loss(rows, dim, xd, gd, dy, yd);
        for (size_t i = 0; i < count; i++) FA_EXPECT_NEAR((double)y[i], yd[i], 1e-6 * (1 + fabs(yd[i])));
        for (int64_t i = 0; i < rows; i++) {
            norm(1, dim, x + i * dim, gain, alone, NULL);
            FA_EXPECT(memcmp(alone, y + i * dim, (size_t)dim * sizeof *y) == 0);
        }
        norm_backward(rows, dim, x, gain, scale, dy, dx, d_gain);
        for (size_t i = 0; i < count + (size_t)dim; i++) { /* added to what was there */
            double *at = i < count ? &xd[i] : &gd[i - count];
            const double here = *at, h = 1e-5;
            *at = here + h;
            double want = norm_loss(rows, dim, xd, gd, dy, yd);
            *at = here - h, want -= norm_loss(rows, dim, xd, gd, dy, yd), *at = here, want /= 2 * h;
            const double got = i < count ? (double)dx[i] - (double)dx0[i]
                                         : (double)d_gain[i - count] - (double)d_gain0[i - count];
            FA_EXPECT_NEAR(got, want, (double)(rows + dim) * 2e-7 * (10 + fabs(want)));
        }
        free(x), free(gain), free(dy), free(y), free(scale), free(alone), free(dx), free(d_gain), free(dx0);
        free(d_gain0), free(xd), free(gd), free(yd);
    }
}

FA_TEST(swiglu_and_gradient) {
    enum { ROWS = 7, HIDDEN = 21 };
    uint64_t state = fat_seed;
    float *x = normals(ROWS * 2 * HIDDEN, 3, &state), *d = normals(ROWS * HIDDEN, 1, &state);
    float *y = floats(ROWS * HIDDEN), *dx = floats(ROWS * 2 * HIDDEN), alone[HIDDEN];
    x[0] = 200, x[1] = -200, x[2] = 0, x[3] = 88, x[4] = -88;
    swiglu(ROWS, HIDDEN, x, y), swiglu_backward(ROWS, HIDDEN, x, d, dx);
    for (int i = 0; i < ROWS; i++) {
        swiglu(1, HIDDEN, x + i * 2 * HIDDEN, alone);
        FA_EXPECT(memcmp(alone, y + i * HIDDEN, sizeof alone) == 0);
        for (int k = 0; k < HIDDEN; k++) {
            const double gate = (double)x[i * 2 * HIDDEN + k], up = (double)x[i * 2 * HIDDEN + HIDDEN + k];
            const double s = 1 / (1 + exp(-gate)), dy = (double)d[i * HIDDEN + k];
            FA_EXPECT_NEAR((double)y[i * HIDDEN + k], gate * s * up, 2e-6 * fabs(gate * s * up) + 1e-30);
            FA_EXPECT_NEAR((double)dx[i * 2 * HIDDEN + HIDDEN + k], dy * gate * s,
                           2e-6 * (fabs(dy * gate * s) + 1e-3));
            const double slope = s + gate * s * (1 - s);
            FA_EXPECT_NEAR((double)dx[i * 2 * HIDDEN + k], dy * up * slope, 3e-6 * (fabs(dy * up) + 1e-3));
        }
    }
    free(x), free(d), free(y), free(dx);
}

/* ---- products ---- */

typedef struct product {
    int64_t m, n, k;
    int transposed, add;
} product;

static void test_product(const product *q, uint64_t *state) {
    const int64_t m = q->m, n = q->n, k = q->k, row = q->transposed ? 1 : k + 3,
                  column = q->transposed ? m + 2 : 1;
    const int64_t ldc = n + 5;
    float *a = normals((size_t)((m - 1) * row + (k - 1) * column + 1), 1, state);
    float *b = normals((size_t)(k * n), 1, state), *c0 = normals((size_t)(m * ldc), 1, state);
    float *packed = floats(gemm_packed(k, n)), *c = floats((size_t)(m * ldc)), *alone = floats((size_t)n);
    gemm_pack(k, n, b, n, 1, packed);
    memcpy(c, c0, (size_t)(m * ldc) * sizeof *c);
    for (int64_t i = 0; i < m && !q->add; i++) /* must not be read */
        for (int64_t j = 0; j < n; j++) c[i * ldc + j] = NAN;
    gemm(m, n, k, a, row, column, packed, c, ldc, q->add);
    for (int64_t i = 0; i < m; i++) {
        for (int64_t j = 0; j < n; j++) {
            double want = q->add ? (double)c0[i * ldc + j] : 0, size = fabs(want);
            for (int64_t p = 0; p < k; p++) {
                const double x = (double)a[i * row + p * column] * (double)b[p * n + j];
                want += x, size += fabs(x);
            }
            FA_EXPECT_MSG(fat_close((double)c[i * ldc + j], want, (double)(k + 1) * 0x1p-24 * size),
                          "%d x %d x %d, transposed %d, add %d: c[%d][%d]", (int)m, (int)n, (int)k,
                          q->transposed, q->add, (int)i, (int)j);
        }
        FA_EXPECT(memcmp(c + i * ldc + n, c0 + i * ldc + n, (size_t)(ldc - n) * sizeof *c) == 0);
        memcpy(alone, c0 + i * ldc, (size_t)n * sizeof *c);
        gemm(1, n, k, a + i * row, row, column, packed, alone, n, q->add);
        FA_EXPECT_MSG(memcmp(alone, c + i * ldc, (size_t)n * sizeof *c) == 0, "row %d of %d alone", (int)i,
                      (int)m);
    }
    free(a), free(b), free(c0), free(packed), free(c), free(alone);
}

FA_TEST(gemm_edges) {
    static const int64_t rows[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 63, 65}, depths[] = {1, 255, 256, 257};
    const int64_t columns[] = {
        1, GEMM_LANES, GEMM_COLUMNS - 1, GEMM_COLUMNS, GEMM_COLUMNS + 1, 2 * GEMM_COLUMNS + 3};
    uint64_t state = fat_seed;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (size_t j = 0; j < sizeof columns / sizeof *columns; j++)
            for (size_t k = 0; k < sizeof depths / sizeof *depths; k++)
                for (int way = 0; way < 4; way++) {
                    const product q = {rows[i], columns[j], depths[k], way & 1, way >> 1};
                    if (!quick() || (i + j + k) % 3 == 0) test_product(&q, &state);
                }
    const product large[] = {
        {130, 70, 513, 0, 0}, {130, 70, 513, 1, 1}, {200, 33, 40, 1, 0}, {8, 300, 90, 0, 1}};
    for (int i = 0; i < 4; i++) test_product(&large[i], &state);
}

FA_TEST(gemm_threads) {
    static const int64_t shapes[][3] = {
        {1, 512, 384}, {7, 700, 100}, {64, 300, 300}, {65, 200, 257}, {300, 130, 64}};
    uint64_t state = fat_seed;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int transposed = 0; transposed < 2; transposed++) {
            const int64_t m = shapes[s][0], n = shapes[s][1], k = shapes[s][2];
            float *a = normals((size_t)(m * k), 1, &state), *b = normals((size_t)(k * n), 1, &state);
            float *packed = floats(gemm_packed(k, n)), *again = floats(gemm_packed(k, n));
            float *c[2] = {floats((size_t)(m * n)), floats((size_t)(m * n))};
            for (int t = 0; t < 2; t++) {
                threads(t + 1);
                gemm_pack(k, n, b, transposed ? 1 : n, transposed ? k : 1, t ? again : packed);
                gemm(m, n, k, a, transposed ? 1 : k, transposed ? m : 1, packed, c[t], n, 0);
            }
            FA_EXPECT(memcmp(packed, again, gemm_packed(k, n) * sizeof *b) == 0);
            FA_EXPECT(memcmp(c[0], c[1], (size_t)(m * n) * sizeof *b) == 0);
            free(a), free(b), free(packed), free(again), free(c[0]), free(c[1]);
        }
    threads(1);
}

/* ---- AdamW ---- */

FA_TEST(adamw_scalar) {
    static const size_t sizes[] = {1, 5, 4096, 4097, 9000};
    uint64_t state = fat_seed;
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        const size_t count = sizes[s];
        float *x[2], *m[2], *v[2], *grad[2];
        double *xd = doubles(count), *md = doubles(count), *vd = doubles(count);
        for (int t = 0; t < 2; t++) m[t] = floats(count), v[t] = floats(count), grad[t] = floats(count);
        x[0] = normals(count, 1, &state), x[1] = floats(count);
        memcpy(x[1], x[0], count * sizeof *x[0]);
        for (size_t i = 0; i < count; i++) xd[i] = (double)x[0][i];
        for (int64_t step = 1; step <= 6; step++) {
            const double rate = 0.01 * (double)step, decay = 0.1,
                         size = step % 2 ? 3 : 1e-3; /* clipped and not */
            double square = 0;
            for (size_t i = 0; i < count; i++) {
                grad[0][i] = grad[1][i] = (float)(size * fat_normal(&state) / sqrt((double)count));
                square += (double)grad[0][i] * (double)grad[0][i];
            }
            const double clip = square > 1 ? 1 / sqrt(square) : 1;
            for (size_t i = 0; i < count; i++) {
                const double g = (double)grad[0][i] * clip;
                md[i] = 0.9 * md[i] + 0.1 * g, vd[i] = 0.95 * vd[i] + 0.05 * g * g;
                const double mean = md[i] / (1 - pow(0.9, (double)step)),
                             var = vd[i] / (1 - pow(0.95, (double)step));
                xd[i] -= rate * (mean / (sqrt(var) + 1e-8) + decay * xd[i]);
            }
            for (int t = 0; t < 2; t++)
                threads(t + 1), adamw(count, x[t], grad[t], m[t], v[t], step, rate, decay);
        }
        for (size_t i = 0; i < count; i++) {
            FA_EXPECT_NEAR((double)x[0][i], xd[i], 2e-5); /* sums of six steps of up to 0.06, in f32 */
            FA_EXPECT_NEAR((double)m[0][i], md[i], 1e-6 + 1e-5 * fabs(md[i]));
            FA_EXPECT(grad[0][i] == 0);
        }
        for (int t = 0; t < 2; t++) FA_EXPECT(memcmp(x[0], x[t], count * sizeof *x[0]) == 0);
        for (int t = 0; t < 2; t++) free(x[t]), free(m[t]), free(v[t]), free(grad[t]);
        free(xd), free(md), free(vd);
    }
    threads(1);
}

/* ---- the model in fp64 ---- */

static void multiply(int64_t rows, int64_t in, int64_t out, const double *x, const double *w, double *y,
                     int add) {
    for (int64_t i = 0; i < rows; i++) {
        if (!add) memset(y + i * out, 0, (size_t)out * sizeof *y);
        for (int64_t p = 0; p < in; p++)
            for (int64_t j = 0; j < out; j++) y[i * out + j] += x[i * in + p] * w[p * out + j];
    }
}

static void exact_norm(int64_t rows, int64_t dim, const double *x, const double *gain, double *y) {
    for (int64_t i = 0; i < rows; i++) {
        double square = 0;
        for (int64_t k = 0; k < dim; k++) square += x[i * dim + k] * x[i * dim + k];
        for (int64_t k = 0; k < dim; k++)
            y[i * dim + k] = x[i * dim + k] / sqrt(square / (double)dim + 1e-5) * gain[k];
    }
}

/* Rotates q and k of a sequence, and what attention makes of them. */
static void exact_attention(const gpt_config *c, int64_t seqlen, double *qkv, double *o) {
    const int64_t all = gpt_columns(c), inner = c->heads * HEAD_DIM, group = c->heads / c->heads_k;
    double *score = doubles((size_t)seqlen);
    for (int64_t i = 0; i < seqlen; i++) {
        for (int64_t h = 0; h < c->heads + c->heads_k; h++)
            for (int64_t d = 0; d < HEAD_DIM / 2; d++) {
                double *pair = qkv + i * all + h * HEAD_DIM + d;
                const double x = pair[0], y = pair[HEAD_DIM / 2];
                const double angle = (double)i * pow(10000, -2.0 * (double)d / HEAD_DIM);
                pair[0] = x * cos(angle) - y * sin(angle),
                pair[HEAD_DIM / 2] = y * cos(angle) + x * sin(angle);
            }
        for (int64_t h = 0; h < c->heads; h++) {
            const double *q = qkv + i * all + h * HEAD_DIM;
            const int64_t k = (c->heads + h / group) * HEAD_DIM, v = k + c->heads_k * HEAD_DIM;
            double *to = o + i * inner + h * HEAD_DIM, max = -INFINITY, sum = 0;
            for (int64_t j = 0; j <= i; j++) {
                score[j] = 0;
                for (int d = 0; d < HEAD_DIM; d++)
                    score[j] += q[d] * qkv[j * all + k + d] / 8; /* sqrt(HEAD_DIM) */
                max = fmax(max, score[j]);
            }
            memset(to, 0, HEAD_DIM * sizeof *to);
            for (int64_t j = 0; j <= i; j++) sum += score[j] = exp(score[j] - max);
            for (int64_t j = 0; j <= i; j++)
                for (int d = 0; d < HEAD_DIM; d++) to[d] += score[j] / sum * qkv[j * all + v + d];
        }
    }
    free(score);
}

/* logits (batch * seqlen, VOCAB) of g with parameters p, which lie as g->data does */
static void exact_logits(const gpt *g, const double *p, int64_t batch, int64_t seqlen, const uint8_t *token,
                         double *logits) {
    const gpt_config *c = &g->config;
    const int64_t dim = c->dim, hidden = c->hidden, all = gpt_columns(c), inner = c->heads * HEAD_DIM;
    const int64_t rows = batch * seqlen;
    double *x = doubles((size_t)(rows * dim)), *y = doubles((size_t)(rows * dim)),
           *o = doubles((size_t)(rows * inner));
    double *qkv = doubles((size_t)(rows * all)), *up = doubles((size_t)(rows * 2 * hidden));
    double *act = doubles((size_t)(rows * hidden));
#define AT(field) (p + (g->p.field - g->data))
    for (int64_t i = 0; i < rows; i++)
        memcpy(x + i * dim, AT(embed) + token[i] * dim, (size_t)dim * sizeof *x);
    for (int32_t l = 0; l < c->layers; l++) {
        exact_norm(rows, dim, x, AT(layer[l].norm1), y);
        multiply(rows, dim, all, y, AT(layer[l].qkv), qkv, 0);
        for (int64_t b = 0; b < batch; b++)
            exact_attention(c, seqlen, qkv + b * seqlen * all, o + b * seqlen * inner);
        multiply(rows, inner, dim, o, AT(layer[l].out), x, 1);
        exact_norm(rows, dim, x, AT(layer[l].norm2), y);
        multiply(rows, dim, 2 * hidden, y, AT(layer[l].up), up, 0);
        for (int64_t i = 0; i < rows; i++)
            for (int64_t k = 0; k < hidden; k++) {
                const double gate = up[i * 2 * hidden + k];
                act[i * hidden + k] = gate / (1 + exp(-gate)) * up[i * 2 * hidden + hidden + k];
            }
        multiply(rows, hidden, dim, act, AT(layer[l].down), x, 1);
    }
    exact_norm(rows, dim, x, AT(norm), y);
    multiply(rows, dim, VOCAB, y, AT(head), logits, 0);
#undef AT
    free(x), free(y), free(o), free(qkv), free(up), free(act);
}

static double exact_loss(const gpt *g, const double *p, int64_t batch, int64_t seqlen, const uint8_t *token,
                         const uint8_t *target, double *logits) {
    const int64_t rows = batch * seqlen;
    double loss = 0;
    exact_logits(g, p, batch, seqlen, token, logits);
    for (int64_t i = 0; i < rows; i++) {
        const double *x = logits + i * VOCAB;
        double sum = 0;
        for (int k = 0; k < VOCAB; k++) sum += exp(x[k] - x[target[i]]);
        loss += log(sum) / (double)rows;
    }
    return loss;
}

static gpt *random_model(const gpt_config *c, uint64_t seed, double gain) {
    gpt_params unused;
    gpt *g = gpt_new(c, seed, floats(gpt_map(c, NULL, &unused)));
    for (int32_t k = 0; k < c->dim; k++) {
        g->p.norm[k] += (float)(gain * fat_normal(&seed));
        for (int32_t l = 0; l < c->layers; l++) {
            g->p.layer[l].norm1[k] += (float)(gain * fat_normal(&seed));
            g->p.layer[l].norm2[k] += (float)(gain * fat_normal(&seed));
        }
    }
    return g;
}

static void free_model(gpt *g) { free(g->data), gpt_free(g); }

static double *exact_params(const gpt *g) {
    double *p = doubles(g->count);
    for (size_t i = 0; i < g->count; i++) p[i] = (double)g->data[i];
    return p;
}

typedef struct tensor {
    const char *name;
    size_t first, count;
} tensor;

/* All parameters of a model, by name. */
static int tensors_of(const gpt *g, tensor *to) {
    const gpt_config *c = &g->config;
    const size_t dim = (size_t)c->dim, hidden = (size_t)c->hidden, inner = (size_t)c->heads * HEAD_DIM;
    int n = 0;
#define PUT(field, size) \
    (to[n].name = #field, to[n].first = (size_t)(g->p.field - g->data), to[n++].count = (size))
    PUT(embed, VOCAB * dim), PUT(norm, dim), PUT(head, dim * VOCAB);
    for (int32_t l = 0; l < c->layers; l++) {
        PUT(layer[l].norm1, dim), PUT(layer[l].qkv, dim * (size_t)gpt_columns(c)),
            PUT(layer[l].out, inner * dim);
        PUT(layer[l].norm2, dim), PUT(layer[l].up, dim * 2 * hidden), PUT(layer[l].down, hidden * dim);
    }
#undef PUT
    return n;
}

/* Gradients against central differences of the loss in fp64: of single parameters, and of all of a kind in two random
 * directions, which no wrong parameter leaves alone. */
static void test_gradients(const gpt_config *c, int32_t batch, int32_t seqlen, uint64_t seed) {
    gpt *g = random_model(c, seed, 0.3);
    gpt_trainer *t = gpt_trainer_new(g, batch, seqlen);
    const size_t rows = (size_t)t->rows;
    uint8_t *token = (uint8_t *)allocate(rows, 1), *target = (uint8_t *)allocate(rows, 1);
    double *p = exact_params(g), *moved = doubles(g->count), *logits = doubles(rows * VOCAB);
    some_text(token, rows, seed + 1), some_text(target, rows, seed + 2);
    token[1] = token[0], token[rows - 1] = token[0]; /* a byte more than once: its embedding gets a sum */
    const double loss = exact_loss(g, p, batch, seqlen, token, target, logits);
    gpt_forward(t, token);
    for (size_t i = 0; i < rows * VOCAB; i++)
        FA_EXPECT_NEAR((double)t->logits[i], logits[i], 2e-6 * sqrt((double)c->dim) * (1 + fabs(logits[i])));
    FA_EXPECT_NEAR(cross_entropy(t->rows, t->logits, target), loss, 2e-6 * loss);
    gpt_backward(t, token);

    tensor part[3 + 6 * MAX_LAYERS];
    const int parts = tensors_of(g, part);
    size_t total = 0;
    for (int n = 0; n < parts; n++) {
        const tensor *q = &part[n];
        const float *grad = t->grad + q->first;
        double most = 0, length = 0;
        size_t largest = 0;
        for (size_t i = 0; i < q->count; i++) {
            length += (double)grad[i] * (double)grad[i];
            if (fabs((double)grad[i]) > most) most = fabs((double)grad[i]), largest = i;
        }
        FA_EXPECT_MSG(most > 1e-7, "%s has no gradient", q->name);
        total += q->count;
        for (int way = 0; way < (quick() ? 3 : 7);
             way++) { /* 0, 1: directions; 2: the largest; others: any */
            const double h = way < 2 ? 1e-4 / sqrt((double)q->count) : 1e-4;
            const size_t at = way == 2 ? largest : (size_t)(fat_next(&seed) % q->count);
            const uint64_t from = seed;
            double got = 0, want = 0;
            for (int sign = 1; sign >= -1; sign -= 2) {
                memcpy(moved, p, g->count * sizeof *p);
                seed = from;
                for (size_t i = way < 2 ? 0 : at; i < (way < 2 ? q->count : at + 1); i++) {
                    const double u = way < 2 ? fat_normal(&seed) : 1;
                    moved[q->first + i] += sign * h * u, got += sign > 0 ? u * (double)grad[i] : 0;
                }
                want += sign * exact_loss(g, moved, batch, seqlen, token, target, logits) / (2 * h);
            }
            const double tolerance = way < 2 ? 1e-5 * sqrt(length) : 1e-5 * most;
            FA_EXPECT_MSG(fat_close(got, want, tolerance + 1e-9),
                          "layer's %s, way %d: got %.9g, want %.9g, tolerance %.3g", q->name, way, got, want,
                          tolerance);
        }
    }
    FA_EXPECT(total == g->count);

    float *once = floats(g->count); /* gradients are added up */
    memcpy(once, t->grad, g->count * sizeof *once);
    gpt_forward(t, token), cross_entropy(t->rows, t->logits, target), gpt_backward(t, token);
    for (size_t i = 0; i < g->count; i++)
        FA_EXPECT_NEAR((double)t->grad[i], 2 * (double)once[i], 1e-6 * (1 + fabs((double)once[i])));
    free(once), free(token), free(target), free(p), free(moved), free(logits);
    gpt_trainer_free(t), free_model(g);
}

FA_TEST(gradients_gqa) {
    const gpt_config c = {24, 2, 4, 2, 20, 32};
    test_gradients(&c, 2, 7, fat_seed);
}
FA_TEST(gradients_one_head) {
    const gpt_config c = {33, 1, 1, 1, 50, 17};
    test_gradients(&c, 1, 17, fat_seed + 1);
}
FA_TEST(gradients_three_on_one) {
    const gpt_config c = {16, 1, 3, 1, 9, 8};
    test_gradients(&c, 3, 5, fat_seed + 2);
}

FA_TEST(training_threads) { /* the same parameters for 1 and 2 */
    const gpt_config c = {40, 2, 4, 2, 56, 70};
    enum { BATCH = 2, SEQLEN = 65, SIZE = 3000 };
    uint8_t text[SIZE], token[BATCH * SEQLEN], target[BATCH * SEQLEN];
    language(text, SIZE, 1);
    const corpus x = {text, NULL, SIZE, 0, 1};
    gpt *g[2];
    double loss[2] = {0, 0}, first = 0;
    for (int n = 0; n < 2; n++) {
        threads(n + 1);
        g[n] = random_model(&c, 3, 0);
        gpt_trainer *t = gpt_trainer_new(g[n], BATCH, SEQLEN);
        float *m = floats(2 * g[n]->count);
        for (uint64_t step = 0; step < 12; step++) {
            draw_batch(&x, 1, step, BATCH, SEQLEN, token, target);
            gpt_forward(t, token), loss[n] = cross_entropy(t->rows, t->logits, target),
                                   gpt_backward(t, token);
            adamw(g[n]->count, g[n]->data, t->grad, m, m + g[n]->count, (int64_t)step + 1, 0.01, 0.1);
            if (!step) first = loss[n];
        }
        free(m), gpt_trainer_free(t);
    }
    FA_EXPECT(loss[0] == loss[1] && memcmp(g[0]->data, g[1]->data, g[0]->count * sizeof(float)) == 0);
    FA_EXPECT_MSG(first > 5 && loss[0] < first - 1.5, "the loss went from %g to %g", first, loss[0]);
    free_model(g[0]), free_model(g[1]);
    threads(1);
}

FA_TEST(validation_windows) { /* windows of full batches once, against the loss of each */
    const gpt_config c = {16, 1, 1, 1, 16, 32};
    enum { SEQLEN = 20, SIZE = 6 * SEQLEN + 1 };
    uint8_t text[SIZE];
    gpt *g = random_model(&c, 3, 0);
    gpt_trainer *t = gpt_trainer_new(g, 2, SEQLEN), *one = gpt_trainer_new(g, 1, SEQLEN);
    gpt_trainer *four = gpt_trainer_new(g, 4, SEQLEN);
    some_text(text, SIZE, 3);
    const corpus x = {NULL, text, 0, SIZE, 1};
    double loss = 0, first = 0; /* first: of four windows, as many as a full batch of four has */
    for (int n = 0; n < 6; n++) {
        gpt_forward(one, text + n * SEQLEN);
        const double each = cross_entropy(SEQLEN, one->logits, text + n * SEQLEN + 1);
        loss += each / 6, first += n < 4 ? each / 4 : 0;
    }
    FA_EXPECT_NEAR(validate(four, &x, 0), first / log(2), 1e-6);
    gpt_trainer_free(four);
    FA_EXPECT_NEAR(validate(t, &x, 0), loss / log(2), 1e-6);
    FA_EXPECT_NEAR(validate(one, &x, 0), loss / log(2), 1e-6);
    FA_EXPECT_NEAR(validate(t, &x, 100), loss / log(2), 1e-6);
    FA_EXPECT(validate(t, &x, 1) > 7); /* an untrained model: 8 bits, about */
    gpt_trainer_free(t), gpt_trainer_free(one), free_model(g);
}

/* ---- heads ---- */

FA_TEST(heads_learn) {
    const gpt_config c = {32, 1, 2, 1, 32, 64};
    enum { BATCH = 2, SEQLEN = 40, SIZE = 4000 };
    static uint8_t text[SIZE], token[BATCH * SEQLEN], target[BATCH * SEQLEN];
    language(text, SIZE, 1);
    const corpus x = {text, NULL, SIZE, 0, 1};
    gpt *g = random_model(&c, 3, 0.3);
    gpt_trainer *t = gpt_trainer_new(g, BATCH, SEQLEN);
    guessers s = guessers_new(g, &c, 5);
    float *grad = floats(3 * s.count), *m = grad + s.count, *v = m + s.count, *keep = floats(s.heads);
    draw_batch(&x, 1, 0, BATCH, SEQLEN, token, target);
    gpt_forward(t, token);

    int32_t own[BATCH * SEQLEN], top[BATCH * SEQLEN * GUESSES]; /* a head begins as the model's own */
    fa_medusa_args a = {0};
    a.rows = BATCH * SEQLEN, a.dim = c.dim, a.vocab = VOCAB, a.heads = GUESSES, a.x = t->normed,
    a.weight = s.weight;
    a.bias = s.bias, a.projection = s.projection, a.top_token = top, a.top_k = 1;
    const size_t bytes = fa_medusa_workspace(&a);
    void *memory = allocate(bytes, 1);
    FA_EXPECT(fa_medusa_forward(&a, memory, bytes) == FA_OK);
    best_tokens(t->rows, t->logits, own);
    for (int i = 0; i < BATCH * SEQLEN * GUESSES; i++) FA_EXPECT(top[i] == own[i / GUESSES]);
    free(memory);

    fill_random(s.data, (size_t)(s.projection - s.data), 0.1, 9); /* weights and biases that are not 0 */
    heads_gradient(&s, t, token, grad);
    const size_t begin[] = {0, (size_t)(s.bias - s.data), (size_t)(s.projection - s.data), s.heads};
    for (int kind = 0; kind < 3; kind++) { /* f32 inside: a wide step, and a tolerance to match */
        double length = 0, loss[2], slope = 0;
        for (size_t i = begin[kind]; i < begin[kind + 1]; i++) length += (double)grad[i] * (double)grad[i];
        memcpy(keep, s.data, s.heads * sizeof *keep);
        for (int sign = 0; sign < 2; sign++) { /* along the gradient, and some other way */
            for (size_t i = begin[kind]; i < begin[kind + 1]; i++)
                s.data[i] = keep[i] + (float)((sign ? -0.01 : 0.01) * (double)grad[i] / sqrt(length));
            float *unused = floats(s.count);
            loss[sign] = heads_gradient(&s, t, token, unused), free(unused);
        }
        memcpy(s.data, keep, s.heads * sizeof *keep);
        slope = (loss[0] - loss[1]) / 0.02;
        FA_EXPECT_MSG(fat_close(slope, sqrt(length), 0.02 * sqrt(length)), "kind %d: %g, %g", kind, slope,
                      sqrt(length));
    }
    memset(grad, 0, s.count * sizeof *grad);
    double first = 0, last = 0;
    for (int step = 0; step < 30; step++) {
        last = heads_gradient(&s, t, token, grad);
        if (!step) first = last;
        adamw(s.heads, s.data, grad, m, v, step + 1, 0.01, 0);
    }
    FA_EXPECT_MSG(last < first - 0.5, "the loss of the heads went from %g to %g", first, last);
    free(grad), free(keep), guessers_free(&s), gpt_trainer_free(t), free_model(g);
}

/* ---- decoding ---- */

/* What f32 leaves of a logit of some units here: the same sums in another order. */
#define DECODE_TOLERANCE 2e-5

static const gpt_config decode_config = {48, 2, 4, 2, 64, 640};

/* A model whose logits are some units apart, and a text with the fp64 logits of all its places. */
typedef struct decode_problem {
    gpt *g;
    int32_t count, token[600];
    double *want; /* (count, VOCAB) */
} decode_problem;

static decode_problem *decode_problem_new(void) {
    static decode_problem q;
    if (q.g) return &q;
    uint8_t text[600];
    q.g = random_model(&decode_config, 11, 0.3), q.count = 600;
    for (size_t i = 0; i < (size_t)decode_config.dim * VOCAB; i++)
        q.g->p.head[i] *= 4; /* logits of about 1 */
    some_text(text, 600, 12);
    for (int i = 0; i < 600; i++) q.token[i] = text[i];
    double *p = exact_params(q.g);
    q.want = doubles(600 * VOCAB), exact_logits(q.g, p, 1, 600, text, q.want), free(p);
    return &q;
}

static double off(const float *got, const double *want) {
    double most = 0;
    for (int k = 0; k < VOCAB; k++) {
        const double d = fabs((double)got[k] - want[k]);
        if (!(d <= most)) most = d;
    }
    return most;
}

/* Reads the text in pieces of `each` tokens; logits (count, VOCAB). */
static void read_pieces(const decode_problem *q, int32_t each, const uint32_t *mask, float *logits) {
    decoder *d = decoder_new(q->g);
    for (int32_t at = 0; at < q->count;) {
        const int32_t rows = q->count - at < each ? q->count - at : each;
        decoder_step(d, rows, q->token + at, NULL, mask), decoder_keep(d, NULL, rows);
        memcpy(logits + at * VOCAB, d->logits, (size_t)(rows * VOCAB) * sizeof *logits), at += rows;
    }
    decoder_free(d);
}

FA_TEST(decode_pieces) {
    static const int32_t pieces[] = {64, 33, 7, 2, 1};
    const decode_problem *q = decode_problem_new();
    float *first = floats((size_t)q->count * VOCAB), *logits = floats((size_t)q->count * VOCAB);
    uint32_t chain[2 * STEP_ROWS] = {0};
    for (int i = 0; i < STEP_ROWS; i++)
        for (int j = 0; j <= i; j++) chain[2 * i + j / 32] |= 1u << j % 32;
    read_pieces(q, 64, NULL, first);
    double most = 0;
    for (int32_t i = 0; i < q->count; i++) most = fmax(most, off(first + i * VOCAB, q->want + i * VOCAB));
    FA_EXPECT_MSG(most <= DECODE_TOLERANCE, "%g off fp64", most);
    for (int n = 1; n < 5; n++) { /* a row's bits are the same, alone or with others */
        if (quick() && n > 2) continue;
        read_pieces(q, pieces[n], NULL, logits);
        FA_EXPECT_MSG(memcmp(first, logits, (size_t)q->count * VOCAB * sizeof *first) == 0,
                      "in pieces of %d: %g off", pieces[n],
                      largest_difference(first, logits, (size_t)q->count * VOCAB));
    }
    for (int t = 1; t <= (quick() ? 1 : 2); t++) {
        threads(t), read_pieces(q, 64, chain, logits);
        FA_EXPECT_MSG(memcmp(first, logits, (size_t)q->count * VOCAB * sizeof *first) == 0,
                      "under a mask: %g off", largest_difference(first, logits, (size_t)q->count * VOCAB));
    }
    threads(1);
    gpt_trainer *t = gpt_trainer_new(q->g, 1, q->count); /* as training sees the text */
    uint8_t text[600];
    for (int i = 0; i < q->count; i++) text[i] = (uint8_t)q->token[i];
    gpt_forward(t, text);
    FA_EXPECT_NEAR(largest_difference(first, t->logits, (size_t)q->count * VOCAB), 0, DECODE_TOLERANCE);
    free(first), free(logits), gpt_trainer_free(t);
}

/* A random tree whose node 0 is the token at place `length` of the text. */
static void random_tree(fa_tree *tree, int32_t nodes, int32_t root, uint64_t *state) {
    tree->num_nodes = nodes, tree->parent[0] = -1, tree->token[0] = root;
    for (int32_t i = 1; i < nodes; i++) {
        tree->parent[i] = fat_below(state, 3) ? fat_below(state, i) : i - 1;
        tree->token[i] = fat_below(state, VOCAB);
    }
}

/* Rows of the path to a node, rising; how many. */
static int32_t path_to(const fa_tree *tree, int32_t node, int32_t *rows) {
    int32_t count = 0, depth = 1;
    for (int32_t i = node; tree->parent[i] >= 0; i = tree->parent[i]) depth++;
    for (int32_t i = node; i >= 0; i = tree->parent[i]) rows[depth - 1 - count++] = i;
    return depth;
}

/* Logits of all nodes of a tree behind `length` tokens, next to those of each path read as a text; then the path to the
 * last node is kept, and the text goes on. Returns how far off the worst is: before and after keeping. */
static void read_tree(const decode_problem *q, int32_t length, int32_t nodes, uint64_t seed,
                      double worst[2]) {
    decoder *d = decoder_new(q->g), *plain = decoder_new(q->g);
    int32_t parent[MAX_NODES], token[MAX_NODES], rank[MAX_NODES], rows[MAX_NODES], path[MAX_NODES];
    float *logits = floats(MAX_NODES * VOCAB);
    fa_tree tree = {MAX_NODES, 0, parent, token, rank};
    const int was = fault;
    worst[0] = worst[1] = 0;
    random_tree(&tree, nodes, q->token[length], &seed);
    fault = RIGHT;
    decoder_read(d, q->token, length), decoder_read(plain, q->token, length);
    fault = was, run_nodes(d, &tree, nodes);
    memcpy(logits, d->logits, (size_t)(nodes * VOCAB) * sizeof *logits);
    for (int32_t node = 0; node < nodes; node++) {
        const int32_t depth = path_to(&tree, node, rows);
        for (int32_t i = 0; i < depth; i++) path[i] = token[rows[i]];
        plain->length = length, decoder_step(plain, depth, path, NULL, NULL);
        worst[0] = fmax(
            worst[0], largest_difference(logits + node * VOCAB, plain->logits + (depth - 1) * VOCAB, VOCAB));
    }
    const int32_t depth = path_to(&tree, nodes - 1, rows);
    decoder_keep(d, rows, depth), decoder_keep(plain, NULL, depth);
    fault = RIGHT;
    decoder_step(d, 9, q->token, NULL, NULL), decoder_step(plain, 9, q->token, NULL, NULL);
    worst[1] = largest_difference(d->logits, plain->logits, 9 * VOCAB);
    fault = was;
    free(logits), decoder_free(d), decoder_free(plain);
}

FA_TEST(decode_trees) {
    static const int32_t lengths[] = {0, 1, 5, 62, 130, 500, 511, 512, 530};
    const decode_problem *q = decode_problem_new();
    uint64_t state = fat_seed;
    double worst[2];
    for (size_t n = 0; n < sizeof lengths / sizeof *lengths; n += quick() ? 3 : 1)
        for (int32_t nodes = 2; nodes <= 64; nodes = nodes * 3 + 1 + fat_below(&state, 3)) {
            read_tree(q, lengths[n], nodes, fat_next(&state), worst);
            FA_EXPECT_MSG(worst[0] <= DECODE_TOLERANCE && worst[1] <= DECODE_TOLERANCE,
                          "length %d, %d nodes: %g off, kept: %g off", lengths[n], nodes, worst[0], worst[1]);
        }
    fault = NO_MASK, read_tree(q, 40, 20, 1, worst);
    FA_EXPECT_MSG(worst[0] > 20 * DECODE_TOLERANCE, "without a mask: %g", worst[0]);
    fault = OFF_BY_ONE, read_tree(q, 40, 20, 1, worst);
    FA_EXPECT_MSG(worst[0] > 20 * DECODE_TOLERANCE, "in the wrong place: %g", worst[0]);
    fault = LOST_KEEP, read_tree(q, 40, 20, 1, worst);
    FA_EXPECT_MSG(worst[0] <= DECODE_TOLERANCE && worst[1] > 20 * DECODE_TOLERANCE, "not kept: %g", worst[1]);
    fault = RIGHT;
}

FA_TEST(decode_positions) { /* the same tokens elsewhere have other logits, in the right place the same */
    const decode_problem *q = decode_problem_new();
    decoder *d = decoder_new(q->g);
    float *logits = floats(5 * VOCAB);
    for (int shift = -1; shift <= 1; shift++) {
        const int32_t positions[5] = {50, 51, 52 + shift, 53, 54};
        d->length = 0, decoder_read(d, q->token, 50);
        if (!shift)
            decoder_step(d, 5, q->token + 50, NULL, NULL),
                memcpy(logits, d->logits, 5 * VOCAB * sizeof(float));
        decoder_step(d, 5, q->token + 50, positions, NULL);
        double most = 0;
        for (int i = 0; i < 5; i++) most = fmax(most, off(d->logits + i * VOCAB, q->want + (50 + i) * VOCAB));
        if (shift)
            FA_EXPECT_MSG(most > 20 * DECODE_TOLERANCE, "%g", most);
        else
            FA_EXPECT(memcmp(logits, d->logits, 5 * VOCAB * sizeof(float)) == 0);
    }
    free(logits), decoder_free(d);
}

/* ---- writing ---- */

typedef struct fixture {
    gpt *g;
    guessers s;
    corpus text;
} fixture;

/* untrained, or trained on language() for a moment, with heads and drafts */
static fixture *fixture_new(int trained) {
    static fixture all[2];
    static const gpt_config model = {32, 2, 2, 1, 48, 640}, draft = {24, 1, 1, 1, 24, 640};
    enum { SIZE = 20000 };
    fixture *f = &all[trained];
    if (f->g) return f;
    f->text.train = (uint8_t *)allocate(SIZE, 1), f->text.valid = (uint8_t *)allocate(SIZE, 1);
    f->text.num_train = f->text.num_valid = SIZE, f->text.files = 1;
    language(f->text.train, SIZE, 1), language(f->text.valid, SIZE, 2);
    if (!trained) {
        f->g = random_model(&model, 21, 0.3), f->s = guessers_new(f->g, &draft, 22);
        for (size_t i = 0; i < (size_t)model.dim * VOCAB; i++) f->g->p.head[i] *= 8;
        fill_random(f->s.weight, (size_t)(f->s.projection - f->s.weight), 0.05, 23);
        return f;
    }
    char path[32];
    static float curve[3 * CURVE_ROOM];
    checkpoint h;
    training o = {NULL, 1, 0, 1e9, 2, 64, 0.01, 0.1, 1, 1};
    new_path(path), o.path = path, o.steps = quick() ? 100 : 200;
    f->g = train_model(&model, &f->text, &o, &h, curve);
    o.steps = quick() ? 60 : 120;
    f->s = train_guessers(f->g, &draft, &f->text, &o);
    remove(path);
    return f;
}

/* Shapes that say something about each way; nothing of them was measured. */
static void some_plans(plan p[METHODS]) {
    static const int32_t ones[] = {1, 1, 1, 1, 1, 1, 1}, fixed[] = {3, 2, 1, 1}, heads[] = {4, 2, 1, 1};
    static const int32_t parent[] = {-1, 0, 0, 0, 1, 1, 2, 4, 4, 5, 7},
                         rank[] = {0, 0, 1, 2, 0, 1, 0, 0, 1, 0, 0};
    static const int32_t rows[] = {1, 64};
    static const double seconds[] = {1, 2};
    const fa_cost cost = {2, rows, seconds, 0.1, 0};
    for (int m = 0; m < METHODS; m++) {
        memset(&p[m], 0, sizeof p[m]), p[m].way = (method)m, p[m].cost = cost;
        point_shape(&p[m]);
    }
    fa_tree_expand(ones, 7, &p[NGRAM].shape, NULL), fa_tree_expand(ones, 5, &p[CHAIN].shape, NULL);
    fa_tree_expand(fixed, 4, &p[EXPANSION].shape, NULL), fa_tree_expand(ones, 3, &p[MERGED].shape, NULL);
    fa_tree_expand(heads, 4, &p[MEDUSA].shape, NULL);
    memcpy(p[SEQUOIA].parent, parent, sizeof parent), memcpy(p[SEQUOIA].rank, rank, sizeof rank);
    p[SEQUOIA].shape.num_nodes = sizeof parent / sizeof *parent;
}

/* Writes up to `room` tokens in a way; where they first differ from those of `plain` (then not by rounding: the two
 * tokens are not equals for the model), or -1. */
static int32_t write_and_compare(writer *w, const fixture *f, const plan *p, int32_t prompt,
                                 const int32_t *plain, int32_t room, tally *t) {
    const sampling greedy = {0, 0, 0, 1};
    w->room = room;
    writer_begin(w, f->text.valid + 100, prompt, &greedy);
    while (w->count < room) write_step(w, p, t, NULL);
    for (int32_t i = prompt; i < room; i++) {
        if (w->token[i] == plain[i]) continue;
        const int was = fault;
        fault = RIGHT;
        decoder *d = decoder_new(f->g);
        const float *x = d->logits + decoder_read(d, plain, i) * VOCAB;
        const double gap = fabs((double)x[w->token[i]] - (double)x[plain[i]]);
        decoder_free(d), fault = was;
        return gap > 4 * DECODE_TOLERANCE ? i : -1;
    }
    return -1;
}

static void write_plain(writer *w, const fixture *f, int32_t prompt, int32_t *plain, int32_t room) {
    const sampling greedy = {0, 0, 0, 1};
    plan p;
    memset(&p, 0, sizeof p), w->room = room;
    writer_begin(w, f->text.valid + 100, prompt, &greedy);
    while (w->count < room) FA_EXPECT(write_step(w, &p, NULL, NULL) == 1);
    memcpy(plain, w->token, (size_t)room * sizeof *plain);
}

static void test_greedy(int trained) {
    static const int32_t prompts[] = {1, 2, 40, 480};
    enum { ROOM = 560 };
    const fixture *f = fixture_new(trained);
    static plan plans[METHODS];
    static int32_t plain[ROOM];
    tally t[METHODS];
    writer *w = writer_new(f->g, &f->s, ROOM);
    some_plans(plans), memset(t, 0, sizeof t);
    for (int n = 0; n < 4; n += quick() ? 3 : 1) {
        const int32_t room = prompts[n] + 80; /* 480: over the border of two parts of the keys */
        write_plain(w, f, prompts[n], plain, room);
        if (prompts[n] == 40) { /* what plain decoding writes is what the model says */
            uint8_t text[ROOM];
            for (int i = 0; i < room; i++) text[i] = (uint8_t)plain[i];
            double *p = exact_params(f->g), *want = doubles((size_t)room * VOCAB);
            exact_logits(f->g, p, 1, room, text, want);
            for (int32_t i = prompts[n]; i < room; i++)
                for (int k = 0; k < VOCAB; k++)
                    FA_EXPECT(want[(i - 1) * VOCAB + k] <=
                              want[(i - 1) * VOCAB + plain[i]] + 4 * DECODE_TOLERANCE);
            free(p), free(want);
        }
        for (int m = 0; m < METHODS; m++) {
            const int32_t at = write_and_compare(w, f, &plans[m], prompts[n], plain, room, &t[m]);
            FA_EXPECT_MSG(at < 0, "%s behind %d bytes: another text from byte %d on", method_name[m],
                          prompts[n], at);
        }
    }
    for (int m = 1; m < METHODS && trained; m++) /* nothing is shown if no guess is ever right */
        FA_EXPECT_MSG((double)t[m].tokens > 1.15 * (double)t[m].steps, "%s: %d tokens in %d steps",
                      method_name[m], (int)t[m].tokens, (int)t[m].steps);
    FA_EXPECT(t[PLAIN].tokens == t[PLAIN].steps);
    writer_free(w);
}

FA_TEST(greedy_untrained) { test_greedy(0); }
FA_TEST(greedy_trained) { test_greedy(1); }

FA_TEST(greedy_faults) { /* what is wrong must change a text */
    static const struct {
        int fault, trained;
        method way;
    } faults[] = {{NO_MASK, 1, EXPANSION}, {NO_MASK, 1, MEDUSA},      {OFF_BY_ONE, 0, PLAIN},
                  {OFF_BY_ONE, 0, CHAIN},  {LOST_KEEP, 1, EXPANSION}, {LOST_KEEP, 1, MERGED}};
    static plan plans[METHODS];
    int32_t plain[160];
    some_plans(plans);
    for (size_t n = 0; n < sizeof faults / sizeof *faults; n++) {
        const fixture *f = fixture_new(faults[n].trained);
        writer *w = writer_new(f->g, &f->s, 160);
        write_plain(w, f, 40, plain, 160);
        fault = faults[n].fault;
        const int32_t at = write_and_compare(w, f, &plans[faults[n].way], 40, plain, 160, NULL);
        FA_EXPECT_MSG(at >= 0, "fault %d of %s changes nothing", fault, method_name[faults[n].way]);
        fault = RIGHT, writer_free(w);
    }
}

/* ---- the law ---- */

enum { LAW = 3, KINDS = 4, OUTCOMES = KINDS * KINDS * KINDS }; /* tokens; of which top-k leaves so many */

/* What a row of logits becomes under a sampling with top_k of KINDS or less: tokens and probabilities; how many. */
static int exact_row(const float *logits, const sampling *how, int32_t *token, double *p) {
    int count = 0;
    double sum = 0, share = 0;
    for (; count < how->top_k; count++) {
        token[count] = -1;
        for (int32_t k = 0; k < VOCAB; k++) {
            int taken = 0;
            for (int i = 0; i < count; i++) taken |= token[i] == k;
            if (!taken && (token[count] < 0 || logits[k] > logits[token[count]])) token[count] = k;
        }
        p[count] = exp(((double)logits[token[count]] - (double)logits[token[0]]) / (double)how->temperature);
        sum += p[count];
    }
    if (how->top_p > 0) {
        int n = 0;
        for (double seen = 0; n < count && seen < (double)how->top_p * sum;) seen += p[n++];
        count = n;
    }
    for (int i = 0; i < count; i++) share += p[i];
    for (int i = 0; i < count; i++) p[i] /= share;
    return count;
}

typedef struct law {
    int count;
    uint32_t text[OUTCOMES];
    double p[OUTCOMES];
} law;

/* All texts of LAW tokens behind those that the decoder has read, with their probabilities. */
static void enumerate(decoder *d, const float *logits, const sampling *how, int left, uint32_t text, double p,
                      law *to) {
    int32_t token[KINDS];
    double each[KINDS];
    const int count = exact_row(logits, how, token, each);
    for (int i = 0; i < count; i++) {
        const uint32_t longer = text << 8 | (uint32_t)token[i];
        if (left == 1) {
            to->text[to->count] = longer, to->p[to->count++] = p * each[i];
            continue;
        }
        decoder_step(d, 1, &token[i], NULL, NULL), d->length++;
        enumerate(d, d->logits, how, left - 1, longer, p * each[i], to), d->length--;
    }
}

/* Chance of the texts that a way has drawn, under the law; 0 if the law does not know one of them. */
static double draw_and_test(writer *w, const fixture *f, const plan *p, const sampling *how, const law *l,
                            int draws) {
    enum { BEGIN = 40 };
    double count[OUTCOMES] = {0}, chi = 0, degrees = -1, rest = 0, rest_want = 0;
    static float hidden[64];
    w->room = BEGIN + LAW + 2;
    writer_begin(w, f->text.valid + 100, BEGIN, how);
    memcpy(hidden, w->hidden, (size_t)f->g->config.dim * sizeof *hidden);
    for (int n = 0; n < draws; n++) {
        writer_rewind(w, BEGIN, hidden, how->seed + (uint64_t)n);
        while (w->count < BEGIN + LAW) write_step(w, p, NULL, NULL);
        uint32_t text = 0;
        for (int i = 0; i < LAW; i++) text = text << 8 | (uint32_t)w->token[BEGIN + i];
        int i = 0;
        while (i < l->count && l->text[i] != text) i++;
        if (i == l->count) return 0;
        count[i]++;
    }
    for (int i = 0; i < l->count; i++) {
        const double want = l->p[i] * draws;
        if (want >= 5)
            chi += (count[i] - want) * (count[i] - want) / want, degrees++;
        else
            rest += count[i], rest_want += want;
    }
    if (rest_want >= 5) chi += (rest - rest_want) * (rest - rest_want) / rest_want, degrees++;
    return degrees > 0 ? chi_square_chance(chi, degrees) : 1;
}

static const sampling law_ways[] = {{1, 3, 0, 100}, {1.5f, 4, 0.85f, 70000}};

static void exact_law(const fixture *f, const sampling *how, law *l) {
    int32_t token[40];
    for (int i = 0; i < 40; i++) token[i] = f->text.valid[100 + i];
    decoder *d = decoder_new(f->g);
    const int32_t last = decoder_read(d, token, 40);
    float first[VOCAB];
    memcpy(first, d->logits + last * VOCAB, sizeof first);
    l->count = 0, enumerate(d, first, how, LAW, 0, 1, l);
    decoder_free(d);
}

FA_TEST(sampled_law) {
    const int draws = quick() ? 200 : 1200;
    static plan plans[METHODS];
    some_plans(plans);
    for (int trained = quick(); trained < 2; trained++)
        for (size_t n = 0; n < sizeof law_ways / sizeof *law_ways; n++) {
            const fixture *f = fixture_new(trained);
            writer *w = writer_new(f->g, &f->s, 64);
            law l;
            exact_law(f, &law_ways[n], &l);
            double sum = 0;
            for (int i = 0; i < l.count; i++) sum += l.p[i];
            FA_EXPECT_NEAR(sum, 1, 1e-12);
            FA_EXPECT(l.count > 4);
            for (int m = 0; m < METHODS; m++) {
                const double chance = draw_and_test(w, f, &plans[m], &law_ways[n], &l, draws);
                FA_EXPECT_MSG(chance > 1e-5, "trained %d, %s, sampling %d: chance %.3g", trained,
                              method_name[m], (int)n, chance);
            }
            writer_free(w);
        }
}

FA_TEST(sampled_law_faults) {
    static const struct {
        int fault;
        method way;
    } faults[] = {{ALL_ACCEPTED, CHAIN},         {ALL_ACCEPTED, MEDUSA},       {WRONG_DRAFT_ROWS, CHAIN},
                  {WRONG_DRAFT_ROWS, EXPANSION}, {OTHER_TEMPERATURE, SEQUOIA}, {OTHER_TEMPERATURE, NGRAM}};
    const fixture *f = fixture_new(1);
    static plan plans[METHODS];
    some_plans(plans);
    for (size_t n = 0; n < sizeof faults / sizeof *faults; n += quick() ? 3 : 1) {
        writer *w = writer_new(f->g, &f->s, 64);
        law l;
        exact_law(f, &law_ways[0], &l);
        fault = faults[n].fault;
        const double chance = draw_and_test(w, f, &plans[faults[n].way], &law_ways[0], &l, 1200);
        fault = RIGHT;
        FA_EXPECT_MSG(chance < 1e-6, "fault %d of %s: chance %.3g", faults[n].fault,
                      method_name[faults[n].way], chance);
        writer_free(w);
    }
}

/* ---- the test of compare.h ---- */

FA_TEST(chi_square) {
    static const double table[][3] = {/* degrees, chi-square, chance */
                                      {1, 3.841, 0.05},      {1, 10.828, 0.001},  {2, 5.991, 0.05},
                                      {10, 18.307, 0.05},    {10, 29.588, 0.001}, {30, 59.703, 0.001},
                                      {100, 149.449, 0.001}, {10, 9.342, 0.5}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        FA_EXPECT_NEAR(chi_square_chance(table[i][1], table[i][0]), table[i][2],
                       0.2 * table[i][2]); /* an approximation */

    drawn d[100]; /* text 1: 30 and 20; 2: 12 and 20; others, 3 each: 8 and 10 */
    memset(d, 0, sizeof d);
    for (int i = 0; i < 100; i++) {
        const int which = i >= 50, n = i % 50, split = which ? 20 : 30, next = which ? 40 : 42;
        d[i].text = n < split ? 1 : n < next ? 2 : 3 + (uint32_t)n / 3, d[i].count[which] = 1;
    }
    outcome o;
    memset(&o, 0, sizeof o), compare_laws(d, 100, &o);
    FA_EXPECT_NEAR(o.chi, 100.0 / 50 + 64.0 / 32 + 4.0 / 18, 1e-12);
    FA_EXPECT(o.degrees == 2);
    FA_EXPECT_NEAR(o.chance, chi_square_chance(o.chi, 2), 1e-12);

    enum { DRAWS = 2000 };
    drawn *both = (drawn *)allocate(2 * DRAWS, sizeof *both);
    uint64_t state = fat_seed;
    for (int other = 0; other < 2;
         other++) { /* the same law, and one with a share moved from one text to another */
        for (int i = 0; i < 2 * DRAWS; i++) {
            const double u = fat_uniform(&state);
            memset(&both[i], 0, sizeof both[i]);
            both[i].text = (uint32_t)(20 * u * u), both[i].count[i >= DRAWS] = 1;
            if (other && i >= DRAWS && both[i].text == 0 && fat_below(&state, 2)) both[i].text = 7;
        }
        compare_laws(both, 2 * DRAWS, &o);
        FA_EXPECT_MSG(other ? o.chance < 1e-6 : o.chance > 1e-4, "chance %g", o.chance);
    }
    free(both);
}

/* ---- checkpoints ---- */

FA_TEST(checkpoint_round_trip) {
    const gpt_config c = {16, 1, 1, 1, 8, 32};
    char path[32];
    gpt *g = random_model(&c, 1, 0.1);
    float *other = normals(2 * g->count, 1, &fat_seed), *got = floats(3 * g->count),
          curve[6] = {1, 2, 3, 4, 5, 6}, got_curve[3 * CURVE_ROOM];
    checkpoint h, back;
    FILE *file;
    memset(&h, 0, sizeof h);
    h.kind = KIND_MODEL, h.config = c, h.curve = 2, h.count = g->count, h.step = 77, h.seed = 5, h.text = 9;
    h.elapsed = 1.5, h.done = 0.25, h.smooth = 2, h.valid = 3;
    new_path(path);
    const checkpoint_data from = {g->data, other, other + g->count, curve};
    const checkpoint_data to = {got, got + g->count, got + 2 * g->count, got_curve};
    for (int i = 0; i < 2; i++) checkpoint_save(path, &h, &from), h.step++; /* over the one before it */
    h.step--;
    FA_REQUIRE(checkpoint_open(path, KIND_MODEL, &back, &file));
    checkpoint_read(path, &back, file, &to);
    FA_EXPECT(memcmp(&h, &back, sizeof h) == 0 && memcmp(curve, got_curve, sizeof curve) == 0);
    FA_EXPECT(memcmp(got, g->data, g->count * sizeof *got) == 0);
    FA_EXPECT(memcmp(got + g->count, other, 2 * g->count * sizeof *got) == 0);
    remove(path);
    FA_EXPECT(!checkpoint_open(path, KIND_MODEL, &back, &file));
    free(other), free(got), free_model(g);
}

FA_TEST_MAIN
