/* test_gpt.cu - examples/gpt/attention.cu next to attention.c: the same functions on the same input. What attention.cu
 * rounds on the device is rounded here for attention.c, so what is left is what the kernels round: P and, for bf16, O
 * and dS. A rounding is off by 2^-8 (bf16) or 2^-11 (f16) of the number at most; rows are held to twice that of their
 * norm. */
#include "examples/gpt/attention.cu"

#include "cuda_test.h"

extern "C" {
void cpu_forward(const attention_rows *rows);
void cpu_backward(const attention_rows *rows, const float *d_o, float *d_qkv);
attention_cache *cpu_cache_new(int32_t layers, int32_t heads, int32_t heads_k, int32_t room);
void cpu_cache_free(attention_cache *cache);
void cpu_step(attention_cache *cache, int32_t layer, int32_t length, int32_t rows, const float *qkv,
              const uint32_t *mask, float *o);
void cpu_keep(attention_cache *cache, int32_t length, const int32_t *rows, int32_t count);
fa_status cpu_verify_chain(const fa_verify_args *args);
fa_status cpu_verify_tree(const fa_verify_args *args);
}

static float *random_floats(size_t count, double deviation, uint64_t *s) {
    float *x = (float *)malloc(count * sizeof *x);
    for (size_t i = 0; i < count; i++) x[i] = (float)(deviation * fat_normal(s));
    return x;
}
static float *rounded(const float *x, size_t count, fa_dtype dtype) {
    float *y = (float *)malloc(count * sizeof *y);
    for (size_t i = 0; i < count; i++)
        y[i] = dtype == FA_F16 ? fa_f16_to_f32(fa_f32_to_f16(x[i])) : fa_bf16_to_f32(fa_f32_to_bf16(x[i]));
    return y;
}
static float *unwritten(size_t count) {
    float *x = (float *)malloc(count * sizeof *x);
    memset(x, 0xff, count * sizeof *x);
    return x;
}

static double worst; /* of the errors of a test, in units of their tolerance */

/* Is each row of got as near to want as factor times its norm, and floor, and all of them as factor times theirs? */
static int near_rows(const float *got, const float *want, size_t rows, double factor, double floor,
                     const char *what) {
    double all_off = 0, all_size = 0;
    for (size_t r = 0; r < rows; r++) {
        double off = 0, size = 0;
        for (size_t i = r * HEAD_DIM; i < (r + 1) * HEAD_DIM; i++)
            off += pow((double)got[i] - want[i], 2), size += pow((double)want[i], 2);
        const double ratio = sqrt(off) / (factor * sqrt(size) + floor);
        if (!FA_EXPECT_MSG(ratio <= 1, "%s, row %zu: off by %.3g of %.3g", what, r, sqrt(off), sqrt(size)))
            return 0;
        worst = ratio > worst ? ratio : worst, all_off += off, all_size += size;
    }
    return FA_EXPECT_MSG(sqrt(all_off) <= factor * sqrt(all_size), "%s: off by %.3g of %.3g", what,
                         sqrt(all_off), sqrt(all_size));
}

/* ---- training ------------------------------------------------------------------------------ */

static const double D_O = 1e-4; /* what gradients may be like */

static void train(int32_t batch, int32_t seqlen, int32_t heads, int32_t heads_k) {
    uint64_t s = fat_seed * 1000003 + (uint64_t)seqlen;
    char what[100];
    const size_t all = (size_t)(heads + 2 * heads_k), rows = (size_t)(batch * seqlen),
                 count = rows * all * HEAD_DIM, inner = rows * (size_t)heads;
    float *qkv = random_floats(count, 1, &s), *same = rounded(qkv, count, FA_BF16);
    float *d_o = random_floats(inner * HEAD_DIM, D_O, &s),
          *same_d_o = rounded(d_o, inner * HEAD_DIM, FA_BF16);
    attention_rows got = {batch, seqlen, heads, heads_k, qkv, NULL, NULL}, want = got;
    want.qkv = same;
    got.o = unwritten(inner * HEAD_DIM), got.lse = unwritten(inner);
    want.o = unwritten(inner * HEAD_DIM), want.lse = unwritten(inner);
    attention_forward(&got), cpu_forward(&want);
    snprintf(what, sizeof what, "%d x %d rows, %d heads of %d", (int)batch, (int)seqlen, (int)heads,
             (int)heads_k);
    near_rows(got.o, want.o, inner, 0x1p-7, 0, what);
    for (size_t i = 0; i < inner; i++) FA_EXPECT_NEAR(got.lse[i], want.lse[i], 1e-5);

    float *grad = unwritten(count), *again = unwritten(count), *right = unwritten(count);
    attention_backward(&got, d_o, grad), attention_backward(&got, d_o, again);
    cpu_backward(&want, same_d_o, right);
    /* D is off by what O is: 2^-9 times the norm of a row of dO in the mean, also where dP - D cancels */
    near_rows(grad, right, rows * all, 0x1p-7, 0x1p-7 * D_O * sqrt((double)HEAD_DIM), what);
    FA_EXPECT(!memcmp(grad, again, count * sizeof *grad));
    free(qkv), free(same), free(d_o), free(same_d_o);
    free(got.o), free(got.lse), free(want.o), free(want.lse), free(grad), free(again), free(right);
}

FA_TEST(training) {
    static const int32_t seqlens[] = {1, 2, 17, 65, 200};
    worst = 0;
    for (int n = 0; n < (quick() ? 4 : 5); n++) train(1 + n % 2, seqlens[n], n % 3 ? 4 : 2, n % 3 ? 2 : 1);
    printf("# errors: up to %.2f of the tolerance\n", worst);
}

/* ---- inference ----------------------------------------------------------------------------- */

enum { HEADS = 4, HEADS_K = 2, ALL = HEADS + 2 * HEADS_K, ROOM = 700, LAYERS = 2 };

/* A text in both caches. */
typedef struct text {
    attention_cache *gpu, *cpu;
    int32_t length;
    uint64_t seed;
} text;

static text text_new(uint64_t seed) {
    const text t = {attention_cache_new(LAYERS, HEADS, HEADS_K, ROOM),
                    cpu_cache_new(LAYERS, HEADS, HEADS_K, ROOM), 0, seed};
    return t;
}
static void text_free(text *t) { attention_cache_free(t->gpu), cpu_cache_free(t->cpu); }

/* Rows in both caches, in all layers, and what they see; length stays. */
static void step(text *t, int32_t rows, const uint32_t *mask, const char *what) {
    const size_t count = (size_t)rows * ALL * HEAD_DIM, inner = (size_t)rows * HEADS;
    for (int32_t layer = 0; layer < LAYERS; layer++) {
        float *qkv = random_floats(count, 1, &t->seed), *same = rounded(qkv, count, FA_F16);
        float *got = unwritten(inner * HEAD_DIM), *want = unwritten(inner * HEAD_DIM);
        attention_step(t->gpu, layer, t->length, rows, qkv, mask, got);
        cpu_step(t->cpu, layer, t->length, rows, same, mask, want);
        near_rows(got, want, inner, 0x1p-10, 0, what);
        free(qkv), free(same), free(got), free(want);
    }
}

FA_TEST(steps) {
    text t = text_new(fat_seed * 77);
    worst = 0;
    for (int n = 0; t.length < (quick() ? 150 : 600); n++) {
        const int32_t rows = n % 3 == 0 ? 1 : n % 3 == 1 ? 2 + fat_below(&t.seed, 30) : STEP_ROWS;
        char what[100];
        snprintf(what, sizeof what, "%d rows behind %d", (int)rows, (int)t.length);
        step(&t, rows, NULL, what);
        t.length += rows;
    }
    printf("# errors: up to %.2f of the tolerance\n", worst);
    text_free(&t);
}

/* One after the other or together: the same bits. */
FA_TEST(rows_do_not_depend_on_company) {
    enum { ROWS = 5, COUNT = ROWS * HEADS * HEAD_DIM };
    uint64_t s = fat_seed * 5;
    attention_cache *a = attention_cache_new(1, HEADS, HEADS_K, ROOM),
                    *b = attention_cache_new(1, HEADS, HEADS_K, ROOM);
    float *const before = random_floats(40 * ALL * HEAD_DIM, 1, &s);
    float *const qkv = random_floats(ROWS * ALL * HEAD_DIM, 1, &s);
    float together[COUNT], alone[COUNT], ignored[40 * HEADS * HEAD_DIM];
    attention_step(a, 0, 0, 40, before, NULL, ignored), attention_step(b, 0, 0, 40, before, NULL, ignored);
    attention_step(a, 0, 40, ROWS, qkv, NULL, together);
    for (int n = 0; n < ROWS; n++)
        attention_step(b, 0, 40 + n, 1, qkv + n * ALL * HEAD_DIM, NULL, alone + n * HEADS * HEAD_DIM);
    FA_EXPECT(!memcmp(together, alone, sizeof alone));
    attention_cache_free(a), attention_cache_free(b), free(before), free(qkv);
}

/* Trees of random shape, of which a path stays: what comes next sees that path and nothing else. */
FA_TEST(trees_and_what_stays) {
    static const int32_t sizes[] = {2, 7, 33, 64};
    text t = text_new(fat_seed * 99);
    worst = 0;
    step(&t, 20, NULL, "prompt"), t.length = 20;
    for (int n = 0; n < (quick() ? 3 : 4); n++) {
        const int32_t rows = sizes[n];
        int32_t parent[STEP_ROWS], path[STEP_ROWS], count = 0;
        uint32_t mask[2 * STEP_ROWS] = {0};
        for (int32_t i = 0; i < rows; i++) {
            parent[i] = i ? fat_below(&t.seed, i) : -1;
            for (int32_t at = i; at >= 0; at = parent[at]) mask[2 * i + at / 32] |= 1u << at % 32;
        }
        step(&t, rows, mask, "tree");
        for (int32_t i = 0; i < rows; i++) /* the last row and its ancestors */
            if (mask[2 * (rows - 1) + i / 32] >> i % 32 & 1) path[count++] = i;
        attention_keep(t.gpu, t.length, path, count), cpu_keep(t.cpu, t.length, path, count);
        t.length += count;
        step(&t, 3, NULL, "behind a tree"), t.length += 3;
    }
    printf("# errors: up to %.2f of the tolerance\n", worst);
    text_free(&t);
}

/* ---- verification -------------------------------------------------------------------------- */

enum { VOCAB = 256, MOST = 9, BATCH = 2, TOTAL = BATCH * MOST };

typedef struct verdict {
    int32_t tokens[TOTAL + BATCH], accepted[TOTAL + BATCH], num_out[BATCH];
    uint32_t flags[BATCH];
} verdict;

static void verify_both(int tree, int rule, uint64_t seed) {
    uint64_t s = seed;
    const int32_t batch = 1 + fat_below(&s, BATCH), ragged = batch * fat_below(&s, 2),
                  draft_rows = tree && fat_below(&s, 2);
    const int logits = rule == FA_VERIFY_TYPICAL || fat_below(&s, 2);
    int32_t indptr[BATCH + 1] = {0}, lengths[BATCH], token[TOTAL], parent[TOTAL], row[TOTAL], top_k[BATCH];
    float temperature[BATCH], top_p[BATCH], min_p[BATCH];
    uint64_t seeds[BATCH], offsets[BATCH], coins[TOTAL + BATCH];
    for (int32_t b = 0; b < batch; b++) {
        lengths[b] = 1 + fat_below(&s, MOST), indptr[b + 1] = indptr[b] + (ragged ? lengths[b] : MOST);
        temperature[b] = logits ? (float)(0.5 + fat_uniform(&s)) : 1;
        top_k[b] = fat_below(&s, 40), top_p[b] = (float)(1 - 0.2 * fat_uniform(&s)), min_p[b] = 0.01f;
        seeds[b] = fat_next(&s), offsets[b] = fat_next(&s);
    }
    float *const target = random_floats((TOTAL + BATCH) * VOCAB, 2, &s), *const draft = random_floats(
                                                                             TOTAL * VOCAB, 2, &s);
    for (int32_t n = 0; n < TOTAL; n++)
        for (int32_t id = 0; id < VOCAB; id++) /* like the target's row, a bit */
            draft[n * VOCAB + id] = 0.3f * draft[n * VOCAB + id] + target[n * VOCAB + id];
    for (int32_t n = 0; n < (TOTAL + BATCH) * VOCAB && !logits; n++) {
        target[n] = expf(target[n]);
        if (n < TOTAL * VOCAB) draft[n] = expf(draft[n]);
    }
    for (int32_t n = 0; n < TOTAL + BATCH; n++) coins[n] = fat_next(&s);
    for (int32_t b = 0; b < batch; b++)
        for (int32_t n = 0; n < indptr[b + 1] - indptr[b]; n++) {
            const int32_t at = indptr[b] + n, above = parent[at] = n ? fat_below(&s, n < 3 ? n : 3) : -1;
            const int32_t law =
                tree ? indptr[b] + (n ? above : 0) : at + b; /* the row that it should follow */
            row[at] = fat_below(&s, indptr[batch]), token[at] = fat_below(&s, VOCAB);
            for (int32_t id = 0; id < VOCAB && n % 4 != 3; id++) /* the likeliest, often */
                if (target[law * VOCAB + id] > target[law * VOCAB + token[at]]) token[at] = id;
        }

    fa_verify_args a = {};
    const int32_t *const list = ragged ? indptr : NULL;
    a.vocab = VOCAB, a.rule = rule, a.target.data = target, a.draft.data = draft;
    a.target.kind = a.draft.kind = logits ? FA_LOGITS : FA_WEIGHTS;
    a.trees.batch = batch, a.trees.num_nodes = MOST, a.trees.indptr = list;
    a.trees.parent = parent, a.trees.token = token;
    a.chains.batch = batch, a.chains.num_tokens = MOST, a.chains.indptr = list, a.chains.token = token;
    if (!list && fat_below(&s, 2)) a.chains.lengths = lengths;
    if (draft_rows) a.draft_row = row, a.num_draft_rows = indptr[batch];
    if (fat_below(&s, 2)) a.sampling.temperature = temperature;
    if (fat_below(&s, 2)) a.sampling.top_k = top_k;
    if (fat_below(&s, 2)) a.sampling.top_p = top_p;
    if (fat_below(&s, 2)) a.sampling.min_p = min_p;
    const fa_sampling draft_sampling = a.sampling;
    if (fat_below(&s, 2)) a.draft_sampling = &draft_sampling, a.sampling.top_k = NULL;
    if (fat_below(&s, 2))
        a.coins.coins = coins;
    else
        a.coins.seed = seeds, a.coins.offset = offsets;
    verdict got, want;
    memset(&got, 0xff, sizeof got), memset(&want, 0xff, sizeof want);
    fa_error error;
    a.error = &error;
    a.tokens = want.tokens, a.accepted = want.accepted, a.num_out = want.num_out, a.flags = want.flags;
    const fa_status right = tree ? cpu_verify_tree(&a) : cpu_verify_chain(&a);
    a.tokens = got.tokens, a.accepted = got.accepted, a.num_out = got.num_out, a.flags = got.flags;
    const fa_status status = tree ? attention_verify_tree(&a) : attention_verify_chain(&a);
    FA_EXPECT_MSG(right == FA_OK && status == FA_OK, "rule %d: %s, %s", rule, fa_strerror(right),
                  fa_strerror(status));
    FA_EXPECT_MSG(!memcmp(&got, &want, sizeof got), "%s, rule %d, seed %llu: %d tokens, want %d; %d, want %d",
                  tree ? "tree" : "chain", rule, (unsigned long long)seed, (int)got.num_out[0],
                  (int)want.num_out[0], (int)got.tokens[0], (int)want.tokens[0]);
    free(target), free(draft);
}

FA_TEST(chains) {
    static const int rules[] = {FA_VERIFY_GREEDY, FA_VERIFY_TARGET_ONLY, FA_VERIFY_TOKEN, FA_VERIFY_BLOCK,
                                FA_VERIFY_TYPICAL};
    for (int n = 0; n < (quick() ? 5 : 20); n++) verify_both(0, rules[n % 5], fat_seed * 31 + (uint64_t)n);
}
FA_TEST(trees) {
    static const int rules[] = {FA_VERIFY_GREEDY, FA_VERIFY_TARGET_ONLY, FA_VERIFY_WITH_REPLACEMENT,
                                FA_VERIFY_WITHOUT_REPLACEMENT, FA_VERIFY_TYPICAL};
    for (int n = 0; n < (quick() ? 5 : 20); n++) verify_both(1, rules[n % 5], fat_seed * 37 + (uint64_t)n);
}

/* What the CPU refuses is refused here, with the same words. */
FA_TEST(refusals) {
    fa_error error;
    char text[300] = "";
    fa_verify_args a = {};
    a.error = &error;
    FA_EXPECT(attention_verify_chain(&a) == cpu_verify_chain(&a));
    FA_EXPECT(attention_verify_tree(&a) == FA_ERR_SPEC_VOCAB);
    fa_error_message(&error, text, sizeof text);
    FA_EXPECT_MSG(strstr(text, "vocab"), "%s", text);
}

FA_TEST_MAIN
