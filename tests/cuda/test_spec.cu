/* test_spec.cu - fa_verify_chain, fa_verify_tree and fa_sample on the device: the tokens, node numbers and flags of
 * the CPU, on copies of all memory: so a byte that should not be touched (0xff before) is compared as well. */
#include "flashattn_spec.h" /* without kernels, and again with them */
#define FA_CUDA_SPEC
#include "flashattn_spec.h"

#include "blocks.h"

static int due(void) { return due_every(6); }

/* ---- problems ------------------------------------------------------------------------------ */

/* Rows of any kind, with what should not be in them now and then; what is behind vocab is NaN. */
static fa_rows make_rows(int32_t count, int32_t vocab, int kind, fa_dtype dtype, const fa_rows *like,
                         uint64_t *s) {
    fa_rows r;
    memset(&r, 0, sizeof r);
    const int64_t stride = vocab + fat_below(s, 4);
    if (stride != vocab || fat_below(s, 2)) r.stride = stride;
    r.kind = kind == FA_LOGITS && fat_below(s, 2) ? 0 : kind,
    r.dtype = dtype == FA_F32 && fat_below(s, 2) ? (fa_dtype)0 : dtype;
    void *data = take((size_t)(count * stride) * fa_sizeof(dtype), 0);
    r.data = data;
    for (int32_t n = 0; n < count; n++) {
        /* one entry has all: at the ends of the row, of a block of sums, of a part of its statistics */
        const int32_t ends[] = {0, 511, 512, vocab - 1, vocab / 2, 4543, 4544}, end = ends[fat_below(s, 7)],
                      hot = end < vocab ? end : vocab - 1;
        const int odd = fat_below(s, 12), ties = fat_below(s, 3) == 0,
                  copy = like && like->kind == r.kind && fat_below(s, 2);
        const double spread = fat_below(s, 2) ? 1 : 6;
        double sum = 0;
        float *x = (float *)malloc((size_t)vocab * 4);
        for (int32_t id = 0; id < vocab; id++) {
            double v = fat_normal(s) * spread;
            if (copy) {
                const float l = fa_load(like->data, n * (like->stride ? like->stride : vocab) + id,
                                        like->dtype ? like->dtype : FA_F32);
                v = kind == FA_LOGITS ? l + 0.3 * v : log(fabs((double)l) + 1e-9) + 0.3 * v;
            }
            if (ties) v = floor(v);
            if (kind != FA_LOGITS) v = fat_below(s, 3) ? exp(v) : 0, sum += v;
            x[id] = (float)v;
        }
        for (int32_t id = 0; id < vocab; id++) {
            if (kind == FA_PROBS && sum > 0) x[id] = (float)(x[id] / sum);
            if (odd == 0 && fat_below(s, 40) == 0) x[id] = NAN;
            if (odd == 1 && fat_below(s, 40) == 0) x[id] = kind == FA_LOGITS ? INFINITY : -x[id];
            if (odd == 2) x[id] = kind == FA_LOGITS ? -INFINITY : -0.0f;
            if (odd == 3) x[id] = NAN;
            if (odd == 4 && fat_below(s, 2)) x[id] = kind == FA_LOGITS ? -INFINITY : x[id] * 3;
            if (odd >= 5 && odd < 7) x[id] = id == hot ? 1.0f : kind == FA_LOGITS ? -100.0f : 0;
            fa_store(data, n * stride + id, dtype, x[id]);
        }
        free(x);
    }
    return r;
}

static fa_sampling make_sampling(int32_t batch, int logits, int cuts, uint64_t *s) {
    fa_sampling p;
    memset(&p, 0, sizeof p);
    float *t = (float *)take((size_t)batch * 4, 0), *top = (float *)take((size_t)batch * 4, 0),
          *least = (float *)take((size_t)batch * 4, 0);
    int32_t *k = (int32_t *)take((size_t)batch * 4, 0);
    for (int32_t b = 0; b < batch; b++) {
        t[b] = fat_below(s, 5) == 0 ? 0 : logits ? (float)(0.3 + 2 * fat_uniform(s)) : 1;
        k[b] = fat_below(s, 3) ? 1 + fat_below(s, fat_below(s, 2) ? 6 : 400) : 0;
        top[b] = fat_below(s, 3) ? (float)fat_uniform(s) : (float)fat_below(s, 2);
        least[b] = fat_below(s, 3) ? (float)(0.4 * fat_uniform(s)) : (float)fat_below(s, 2);
    }
    if (fat_below(s, 2)) p.temperature = t;
    if (cuts && fat_below(s, 2)) p.top_k = k;
    if (cuts && fat_below(s, 2)) p.top_p = top;
    if (cuts && fat_below(s, 3) == 0) p.min_p = least;
    return p;
}
static fa_coins make_coins(int32_t batch, int64_t rows, uint64_t *s) {
    fa_coins c;
    memset(&c, 0, sizeof c);
    uint64_t *coins = (uint64_t *)take((size_t)rows * 8, 0), *seed = (uint64_t *)take((size_t)batch * 8, 0),
             *offset = (uint64_t *)take((size_t)batch * 8, 0);
    for (int64_t n = 0; n < rows; n++)
        coins[n] = fat_below(s, 12) ? fat_next(s) : fat_below(s, 2) ? 0 : UINT64_MAX;
    for (int32_t b = 0; b < batch; b++) seed[b] = fat_next(s), offset[b] = fat_next(s);
    if (fat_below(s, 2)) {
        c.coins = coins;
    } else {
        if (fat_below(s, 4)) c.seed = seed;
        if (fat_below(s, 2)) c.offset = offset;
    }
    return c;
}
static fa_sampling sampling_there(fa_sampling p) {
    MOVE(const float, p.temperature)
    MOVE(const int32_t, p.top_k)
    MOVE(const float, p.top_p)
    MOVE(const float, p.min_p)
    return p;
}
static fa_coins coins_there(fa_coins c) {
    MOVE(const uint64_t, c.coins)
    MOVE(const uint64_t, c.seed)
    MOVE(const uint64_t, c.offset)
    return c;
}
static int32_t largest(const fa_rows *r, int64_t row, int32_t vocab) {
    int32_t best = 0;
    for (int32_t id = 0; id < vocab; id++) {
        const fa_dtype dtype = r->dtype ? r->dtype : FA_F32;
        const int64_t at = row * (r->stride ? r->stride : vocab);
        if (fa_load(r->data, at + id, dtype) > fa_load(r->data, at + best, dtype)) best = id;
    }
    return best;
}

static fa_sampling draft_sampling, draft_sampling_there;
static fa_verify_args there_args(const fa_verify_args *a) {
    fa_verify_args d = *a;
    MOVE(const int32_t, d.chains.indptr)
    MOVE(const int32_t, d.chains.lengths)
    MOVE(const int32_t, d.chains.token)
    MOVE(const int32_t, d.trees.indptr)
    MOVE(const int32_t, d.trees.parent)
    MOVE(const int32_t, d.trees.token)
    MOVE(const void, d.target.data)
    MOVE(const void, d.draft.data)
    MOVE(const int32_t, d.draft_row)
    d.sampling = sampling_there(d.sampling), d.coins = coins_there(d.coins);
    if (d.draft_sampling)
        draft_sampling_there = sampling_there(draft_sampling), d.draft_sampling = &draft_sampling_there;
    MOVE(int32_t, d.tokens)
    MOVE(int32_t, d.num_out)
    MOVE(int32_t, d.accepted)
    MOVE(uint32_t, d.flags)
    return d;
}

static fa_dtype any_dtype(uint64_t *s) {
    return fat_below(s, 2) ? FA_F32 : fat_below(s, 2) ? FA_F16 : FA_BF16;
}

/* What chains and trees have in common: rows, parameters, coins, outputs. Plain: kernels have no rows to prepare. */
static void make_common(fa_verify_args *a, int32_t batch, int32_t rows, int32_t draft_rows, int plain,
                        int32_t most, uint64_t *s) {
    const int kind = plain ? FA_PROBS : 1 + fat_below(s, 3),
              draft_kind = fat_below(s, 3) || plain ? kind : 1 + fat_below(s, 3);
    a->target = make_rows(rows, a->vocab, kind, plain ? FA_F32 : any_dtype(s), NULL, s);
    a->draft = make_rows(draft_rows > rows ? rows : draft_rows, a->vocab, draft_kind,
                         plain ? FA_F32 : any_dtype(s), &a->target, s);
    if (!plain) {
        const int cuts = fat_below(s, 2);
        a->sampling = make_sampling(batch, kind == FA_LOGITS, cuts, s);
        if (fat_below(s, 3) == 0)
            draft_sampling = make_sampling(batch, draft_kind == FA_LOGITS, cuts, s),
            a->draft_sampling = &draft_sampling;
    }
    a->coins = make_coins(batch, rows, s);
    if (fat_below(s, 2))
        a->typical_epsilon = (float)(0.5 * fat_uniform(s)), a->typical_delta = (float)fat_uniform(s);
    if (fat_below(s, 2)) a->max_out = most + fat_below(s, 3);
    const size_t bytes = (size_t)batch * (size_t)(a->max_out ? a->max_out : most) * 4;
    a->tokens = (int32_t *)take(bytes, 0);
    if (fat_below(s, 4)) a->accepted = (int32_t *)take(bytes, 0);
    if (fat_below(s, 4)) a->num_out = (int32_t *)take((size_t)batch * 4, 0);
    a->flags = (uint32_t *)take((size_t)batch * 4, 0);
}

static void make_chain(fa_verify_args *a, int rule, int32_t vocab, int plain, uint64_t *s) {
    const int32_t batch = 1 + fat_below(s, 4), most = fat_below(s, 6), layout = fat_below(s, 3);
    int32_t *indptr = (int32_t *)take((size_t)(batch + 1) * 4, 0), *lengths = (int32_t *)take((size_t)batch * 4, 0);
    memset(a, 0, sizeof *a);
    a->vocab = vocab, a->rule = rule, a->chains.batch = batch, a->chains.num_tokens = most;
    indptr[0] = 0;
    for (int32_t b = 0; b < batch; b++)
        lengths[b] = fat_below(s, most + 1), indptr[b + 1] = indptr[b] + fat_below(s, most + 1);
    if (layout == 1) a->chains.indptr = indptr;
    if (layout == 2) a->chains.lengths = lengths;
    const int32_t drafts = layout == 1 ? indptr[batch] : batch * most;
    make_common(a, batch, drafts + batch, drafts, plain, most + 1, s);
    int32_t *token = (int32_t *)take((size_t)drafts * 4, 0);
    for (int32_t b = 0; b < batch; b++)
        for (int64_t i = fai_chain_first(&a->chains, b), n = 0;
             n < (layout == 1 ? fai_chain_tokens(&a->chains, b) : most); n++)
            token[i + n] = fat_below(s, 3) ? largest(fat_below(s, 2) ? &a->target : &a->draft, i + n, vocab)
                                           : fat_below(s, vocab);
    for (int32_t b = 0; b < batch; b++)
        for (int64_t i = fai_chain_first(&a->chains, b), n = 0; n < fai_chain_tokens(&a->chains, b); n++)
            if (fat_below(s, 2)) token[i + n] = largest(&a->target, i + b + n, vocab);
    a->chains.token = token;
}

static void make_tree(fa_verify_args *a, int rule, int32_t vocab, int plain, uint64_t *s) {
    const int32_t batch = 1 + fat_below(s, 3), most = fat_below(s, 6) ? 1 + fat_below(s, 9) : 40,
                  ragged = fat_below(s, 2);
    const int bushy = fat_below(s, 2);
    int32_t *indptr = (int32_t *)take((size_t)(batch + 1) * 4, 0);
    memset(a, 0, sizeof *a);
    a->vocab = vocab, a->rule = rule, a->trees.batch = batch, a->trees.num_nodes = most;
    indptr[0] = 0;
    for (int32_t b = 0; b < batch; b++) indptr[b + 1] = indptr[b] + (ragged ? 1 + fat_below(s, most) : most);
    if (ragged) a->trees.indptr = indptr;
    const int32_t rows = indptr[batch];
    int32_t *parent = (int32_t *)take((size_t)rows * 4, 0), *token = (int32_t *)take((size_t)rows * 4, 0),
            *draft_row = (int32_t *)take((size_t)rows * 4, 0);
    make_common(a, batch, rows, rows, plain, most, s);
    for (int32_t b = 0; b < batch; b++)
        for (int32_t n = 0; n < indptr[b + 1] - indptr[b]; n++) {
            const int32_t at = indptr[b] + n, above = n ? fat_below(s, bushy && n > 3 ? 3 : n) : -1;
            parent[at] = above, draft_row[at] = fat_below(s, rows), token[at] = fat_below(s, vocab);
            if (n && fat_below(s, 2)) token[at] = largest(&a->target, indptr[b] + above, vocab);
        }
    a->trees.parent = parent, a->trees.token = token;
    if (fat_below(s, 2)) a->draft_row = draft_row, a->num_draft_rows = rows;
}

static int32_t num_accepted, num_problems; /* of a test */

static int check(const fa_verify_args *a, int tree, const char *what) {
    fa_error error;
    memset(&error, 0, sizeof error);
    void *host = malloc(fa_verify_tree_workspace(a) + 8), *workspace = NULL;
    upload();
    fa_verify_args h = *a, d = there_args(a);
    h.error = d.error = &error;
    const fa_status want = tree ? fa_verify_tree(&h, host, fa_verify_tree_workspace(a)) : fa_verify_chain(&h);
    int ok = FA_EXPECT_MSG(want == FA_OK, "%s: status %d, %s", what, (int)want, error.field);
    free(host);
    const size_t bytes = tree ? fa_verify_tree_cuda_workspace(&d) : fa_verify_chain_cuda_workspace(&d);
    if (bytes) ok = ok && FA_EXPECT(cudaMalloc(&workspace, bytes) == cudaSuccess);
    if (ok)
        ok = launched(tree ? fa_verify_tree_cuda(&d, workspace, bytes, 0)
                           : fa_verify_chain_cuda(&d, workspace, bytes, 0),
                      &error);
    ok = ok && FA_EXPECT_MSG(same(), "%s", what);
    for (int32_t b = 0; ok && a->num_out && b < (tree ? a->trees.batch : a->chains.batch); b++)
        num_accepted += a->num_out[b] - 1;
    num_problems++;
    cudaFree(workspace);
    return ok;
}

static void run(int tree, const int *rules, int num_rules, const int32_t *vocabs, int num_vocabs,
                int rounds) {
    char what[200];
    num_accepted = num_problems = 0;
    for (int r = 0; r < num_rules; r++)
        for (int v = 0; v < num_vocabs; v++)
            for (int round = 0; round < rounds; round++) {
                uint64_t s =
                    fat_seed * 1000003 + (uint64_t)(((tree * 10 + rules[r]) * 100 + v) * 1000 + round);
                fa_verify_args a;
                if (!due()) continue;
                (tree ? make_tree : make_chain)(&a, rules[r], vocabs[v], round % 3 == 0, &s);
                snprintf(what, sizeof what, "%s rule %d, vocab %d, round %d, kinds %d %d",
                         tree ? "tree" : "chain", rules[r], vocabs[v], round, a.target.kind, a.draft.kind);
                const int ok = check(&a, tree, what);
                drop_all();
                if (!ok) return;
            }
    printf("# %d problems, %d drafts accepted\n", num_problems, num_accepted);
    FA_EXPECT(num_problems > 0 && num_accepted > 0);
}

static const int chain_rules[] = {FA_VERIFY_GREEDY, FA_VERIFY_TARGET_ONLY, FA_VERIFY_TOKEN, FA_VERIFY_BLOCK,
                                  FA_VERIFY_TYPICAL};
static const int tree_rules[] = {FA_VERIFY_GREEDY, FA_VERIFY_TARGET_ONLY, FA_VERIFY_WITH_REPLACEMENT,
                                 FA_VERIFY_WITHOUT_REPLACEMENT, FA_VERIFY_TYPICAL};
static const int32_t small[] = {1, 2, 5, 33, 700}, large[] = {4097, 9000};

FA_TEST(chains_in_one_launch) { run(0, chain_rules, 5, small, 5, 24); }
FA_TEST(chains_in_three) { run(0, chain_rules, 5, large, 2, 10); }
FA_TEST(trees_in_one_launch) { run(1, tree_rules, 5, small, 5, 24); }
FA_TEST(trees_in_three) { run(1, tree_rules, 5, large, 2, 7); }

/* One entry has all, or is none: at the ends of the parts into which statistics split a row. */
FA_TEST(ends_of_parts) {
    enum { V = 9000, LENGTH = 4544 };
    static const int32_t at[] = {0, LENGTH - 1, LENGTH, V - 1};
    for (int n = 0; n < 4; n++)
        for (int kind = FA_LOGITS; kind <= FA_WEIGHTS; kind++)
            for (int odd = 0; odd < 2; odd++) {
                const float other = odd ? 1.0f / V : kind == FA_LOGITS ? -100.0f : 0;
                fa_verify_args a;
                memset(&a, 0, sizeof a);
                float *rows = (float *)take(3 * V * 4, 0);
                int32_t *token = (int32_t *)take(4, 0);
                for (int i = 0; i < 3 * V; i++) rows[i] = i % V != at[n] ? other : odd ? NAN : 1.0f;
                a.vocab = V, a.rule = FA_VERIFY_TOKEN, a.chains.batch = a.chains.num_tokens = 1;
                token[0] = at[n], a.chains.token = token;
                a.target.data = rows, a.draft.data = rows + 2 * V, a.target.kind = a.draft.kind = kind;
                a.tokens = (int32_t *)take(8, 0), a.num_out = (int32_t *)take(4, 0), a.flags = (uint32_t *)take(4, 0);
                check(&a, 0, "ends of parts");
                FA_EXPECT(a.num_out[0] == 2 - odd);
                FA_EXPECT(a.flags[0] ==
                          (odd ? FA_SPEC_BAD_TARGET | FA_SPEC_BAD_DRAFT | FA_SPEC_FALLBACK : 0u));
                drop_all();
            }
}

/* Ten siblings, most of them rejected: the residual is updated many times. */
FA_TEST(many_siblings) {
    enum { V = 24, NODES = 11 };
    num_accepted = 0;
    for (int round = 0; round < 60; round++) {
        uint64_t s = fat_seed * 31 + (uint64_t)round;
        fa_verify_args a;
        memset(&a, 0, sizeof a);
        float *p = (float *)take(NODES * V * 4, 0), *q = (float *)take(V * 4, 0);
        int32_t *parent = (int32_t *)take(NODES * 4, 0), *token = (int32_t *)take(NODES * 4, 0),
                *row = (int32_t *)take(NODES * 4, 0);
        uint64_t *coins = (uint64_t *)take(NODES * 8, 0);
        for (int i = 0; i < NODES * V; i++) p[i] = (float)((i % V < NODES ? 0.3 : 1) * fat_uniform(&s));
        for (int i = 0; i < V; i++) q[i] = (float)fat_uniform(&s);
        for (int n = 0; n < NODES; n++) {
            parent[n] = n ? 0 : -1, token[n] = (n * 7 + round) % NODES, row[n] = 0;
            coins[n] = UINT64_MAX - (fat_next(&s) >> (1 + n % 3));
        }
        a.vocab = V, a.rule = FA_VERIFY_WITH_REPLACEMENT + round % 2;
        a.trees.batch = 1, a.trees.num_nodes = NODES, a.trees.parent = parent, a.trees.token = token;
        a.target.data = p, a.draft.data = q, a.target.kind = a.draft.kind = FA_WEIGHTS;
        a.draft_row = row, a.num_draft_rows = 1, a.coins.coins = coins;
        a.tokens = (int32_t *)take(NODES * 4, 0), a.num_out = (int32_t *)take(4, 0);
        a.accepted = (int32_t *)take(NODES * 4, 0);
        const int ok = check(&a, 1, "many siblings");
        drop_all();
        if (!ok) return;
    }
    FA_EXPECT(num_accepted > 5 && num_accepted < 55);
}

/* Entries that count as 0 far from the token, in rows that nobody has prepared: only the draw sees them. */
FA_TEST(draws_judge_rows) {
    enum { V = 9000 };
    for (int side = 0; side < 2; side++) {
        fa_verify_args a;
        memset(&a, 0, sizeof a);
        float *rows = (float *)take(3 * V * 4, 0);
        int32_t *token = (int32_t *)take(4, 0);
        for (int i = 0; i < 3 * V; i++) rows[i] = (i % 2 == i / (2 * V)) * 2.0f / V;
        rows[side ? 2 * V + 5000 : 5001] = NAN;
        token[0] = 1, a.chains.token = token;
        a.vocab = V, a.rule = FA_VERIFY_TOKEN, a.chains.batch = a.chains.num_tokens = 1;
        a.target.data = rows, a.draft.data = rows + 2 * V, a.target.kind = a.draft.kind = FA_PROBS;
        a.tokens = (int32_t *)take(8, 0), a.num_out = (int32_t *)take(4, 0), a.flags = (uint32_t *)take(4, 0);
        check(&a, 0, "draws judge rows");
        FA_EXPECT(a.num_out[0] == 1 && a.flags[0] == (side ? FA_SPEC_BAD_DRAFT : FA_SPEC_BAD_TARGET));
        drop_all();
    }
}

/* ---- samples ------------------------------------------------------------------------------- */

FA_TEST(samples) {
    static const int32_t vocabs[] = {1, 3, 40, 600, 3000};
    for (int round = 0; round < 150; round++) {
        uint64_t s = fat_seed * 7919 + (uint64_t)round;
        fa_sample_args a, d;
        fa_error error;
        char what[100];
        if (!due()) continue;
        memset(&a, 0, sizeof a), memset(&error, 0, sizeof error);
        a.batch = 1 + fat_below(&s, 4), a.vocab = vocabs[round % 5];
        const int kind = 1 + fat_below(&s, 3);
        const int32_t rows = 1 + fat_below(&s, 5);
        int32_t *request = (int32_t *)take((size_t)rows * 4, 0), *node = (int32_t *)take((size_t)rows * 4, 0);
        for (int32_t r = 0; r < rows; r++) request[r] = fat_below(&s, a.batch), node[r] = fat_below(&s, 100);
        if (fat_below(&s, 2) || rows > a.batch) a.request = request;
        if (fat_below(&s, 2)) a.node = node;
        a.num_rows = rows, a.num_samples = fat_below(&s, 6);
        a.without_replacement = fat_below(&s, 2),
        a.purpose = fat_below(&s, 2) ? FA_COIN_TARGET : FA_COIN_DRAFT;
        a.rows = make_rows(rows, a.vocab, kind, any_dtype(&s), NULL, &s);
        if (round % 3) a.sampling = make_sampling(a.batch, kind == FA_LOGITS, 1, &s);
        a.coins = make_coins(a.batch, (int64_t)rows * (a.num_samples ? a.num_samples : 1), &s);
        a.tokens = (int32_t *)take((size_t)(rows * (a.num_samples ? a.num_samples : 1)) * 4, 0);
        if (fat_below(&s, 4)) a.flags = (uint32_t *)take((size_t)rows * 4, 0);
        snprintf(what, sizeof what, "round %d, vocab %d, kind %d", round, a.vocab, kind);
        upload();
        d = a, a.error = d.error = &error;
        MOVE(const void, d.rows.data)
        MOVE(const int32_t, d.request)
        MOVE(const int32_t, d.node)
        MOVE(int32_t, d.tokens)
        MOVE(uint32_t, d.flags)
        d.sampling = sampling_there(d.sampling), d.coins = coins_there(d.coins);
        const fa_status want = fa_sample(&a);
        const int ok = FA_EXPECT_MSG(want == FA_OK, "%s: %s", what, error.field) &&
                       launched(fa_sample_cuda(&d, 0), &error) && FA_EXPECT_MSG(same(), "%s", what);
        drop_all();
        if (!ok) return;
    }
}

/* Of equal entries the first are kept: with the largest coin, the last of them is drawn. */
FA_TEST(cuts_of_equals) {
    enum { V = 2000, ROWS = 14 };
    static const int32_t keep[ROWS] = {1, 2, 3, 31, 32, 33, 34, 511, 512, 513, 514, 1025, 1999, 2000};
    for (int cut = 0; cut < 3; cut++) {
        fa_sample_args a, d;
        fa_error error;
        memset(&a, 0, sizeof a), memset(&error, 0, sizeof error);
        float *x = (float *)take(ROWS * V * 4, 0), *top_p = (float *)take(ROWS * 4, 0);
        int32_t *top_k = (int32_t *)take(ROWS * 4, 0);
        uint64_t *coins = (uint64_t *)take(ROWS * 8, 0);
        for (int r = 0; r < ROWS; r++) {
            coins[r] = UINT64_MAX, top_k[r] = keep[r], top_p[r] = ((float)keep[r] - 0.5f) / V;
            if (cut == 2) top_p[r] = 0.5f; /* of what top-k has left */
            for (int id = 0; id < V; id++) x[r * V + id] = 2;
        }
        a.batch = ROWS, a.vocab = V, a.rows.data = x, a.coins.coins = coins,
        a.tokens = (int32_t *)take(ROWS * 4, 0);
        if (cut != 1) a.sampling.top_k = top_k;
        if (cut != 0) a.sampling.top_p = top_p;
        upload();
        d = a, a.error = d.error = &error;
        MOVE(const void, d.rows.data)
        MOVE(int32_t, d.tokens)
        d.sampling = sampling_there(d.sampling), d.coins = coins_there(d.coins);
        FA_EXPECT(fa_sample(&a) == FA_OK && launched(fa_sample_cuda(&d, 0), &error) && same());
        for (int r = 0; r < ROWS; r++)
            FA_EXPECT_MSG(a.tokens[r] == (cut == 2 ? (keep[r] + 1) / 2 : keep[r]) - 1, "cut %d, %d: %d", cut,
                          keep[r], a.tokens[r]);
        drop_all();
    }
}

/* ---- bytes --------------------------------------------------------------------------------- */

/* The bytes that a call reads and writes, all its launches. */
static int count_bytes(const fa_verify_args *d, int tree, double *read, double *written) {
    fai_spec_job job;
    fa_cuda_launch launch[FA_SPEC_LAUNCHES];
    void *workspace = NULL, *parameters[1] = {&job};
    const size_t bytes = tree ? fa_verify_tree_cuda_workspace(d) : fa_verify_chain_cuda_workspace(d);
    int ok = FA_EXPECT(cudaMalloc(&workspace, bytes) == cudaSuccess) &&
             FA_EXPECT(fai_spec_ready(d, tree, workspace, bytes, &job, launch, 0) == FA_OK);
    *read = *written = 0;
    for (int n = 0; n < FA_SPEC_LAUNCHES && ok; n++) {
        if (!launch[n].kernel) continue;
        ok = FA_EXPECT(cudaLaunchKernel(launch[n].kernel, dim3(launch[n].grid), dim3(launch[n].block),
                                        parameters, 0, 0) == cudaSuccess &&
                       cudaDeviceSynchronize() == cudaSuccess);
        *read += (double)ptx_counter("load_bytes"), *written += (double)ptx_counter("store_bytes");
    }
    cudaFree(workspace);
    return ok;
}

/* A chain of three drafts: the first `good` of them are accepted, as p and q are the same there. */
FA_TEST(bytes_are_those_of_the_rows) {
    enum { V = 128256, DRAFTS = 3, SMALL = 64 << 10 };
    if (!ptx_counter) FA_SKIP("only the PTX machine counts bytes");
    for (int logits = 0; logits < 2; logits++)
        for (int good = 0; good <= DRAFTS; good += DRAFTS) {
            const int vocab = logits ? V / 4 : V;
            const double row = vocab * 4.0;
            uint64_t s = fat_seed + 77;
            double read, written;
            fa_verify_args a;
            fa_error error;
            memset(&a, 0, sizeof a), memset(&error, 0, sizeof error);
            a.vocab = vocab, a.rule = FA_VERIFY_TOKEN, a.chains.batch = 1, a.chains.num_tokens = DRAFTS;
            float *p = (float *)take((size_t)(DRAFTS + 1) * (size_t)vocab * 4, 0),
                  *q = (float *)take((size_t)DRAFTS * (size_t)vocab * 4, 0);
            int32_t *token = (int32_t *)take(DRAFTS * 4, 0);
            uint64_t *coins = (uint64_t *)take((DRAFTS + 1) * 8, 0);
            for (int i = 0; i < (DRAFTS + 1) * vocab; i++)
                p[i] = logits ? (float)fat_normal(&s) : (float)(fat_uniform(&s) * 2 / vocab);
            for (int i = 0; i < DRAFTS * vocab; i++)
                q[i] = i / vocab < good ? p[i]
                       : logits         ? (float)fat_normal(&s)
                                        : (float)(fat_uniform(&s) * 2 / vocab);
            for (int n = 0; n <= DRAFTS; n++) coins[n] = UINT64_MAX / 5 * 4;
            for (int n = 0; n < DRAFTS; n++) {
                token[n] = 1000 * n + 7;
                if (n >= good) p[n * vocab + token[n]] = logits ? -10.0f : 0;
            }
            a.chains.token = token, a.coins.coins = coins, a.target.data = p, a.draft.data = q;
            a.target.kind = a.draft.kind = logits ? FA_LOGITS : FA_PROBS;
            a.tokens = (int32_t *)take(4 * (DRAFTS + 1), 0), a.num_out = (int32_t *)take(4, 0), a.error = &error;
            upload();
            fa_verify_args d = there_args(&a);
            FA_EXPECT(fa_verify_chain(&a) == FA_OK && a.num_out[0] == good + 1);
            if (count_bytes(&d, 0, &read, &written) && FA_EXPECT(same())) {
                const double drawn = good == DRAFTS ? row : 2 * row,
                             least = drawn + (logits ? 2 * (2 * DRAFTS + 1) * row : 0);
                printf("# %s, %d of %d accepted: %.0f bytes read, rows %.0f, %.0f written\n",
                       logits ? "logits" : "probabilities", good, DRAFTS, read, least, written);
                FA_EXPECT(read >= least && read <= least + drawn / 128 + SMALL && written <= SMALL);
            }
            drop_all();
        }
}

/* ---- calls --------------------------------------------------------------------------------- */

/* A status, nothing launched, nothing written. */
FA_TEST(bad_arguments) {
    static float on_host[64];
    const int32_t *const host_ints = (const int32_t *)(void *)on_host;
    uint64_t s = 5;
    fa_error error;
    fa_verify_args c, t, dc, dt;
    fa_cuda_launch launch[FA_SPEC_LAUNCHES];
    void *workspace;
    make_chain(&c, FA_VERIFY_TOKEN, 5000, 0, &s), make_tree(&t, FA_VERIFY_WITHOUT_REPLACEMENT, 5000, 0, &s);
    float *const one = (float *)take(64, 0);
    upload();
    c.chains.num_tokens = 3, dc = there_args(&c), dt = there_args(&t),
    dt.draft_sampling = dc.draft_sampling = NULL;
    dc.chains.token = (const int32_t *)there(one);
    const size_t bytes_c = fa_verify_chain_cuda_workspace(&dc), bytes_t = fa_verify_tree_cuda_workspace(&dt),
                 bytes = bytes_c > bytes_t ? bytes_c : bytes_t;
    FA_EXPECT(bytes_c > 0 && bytes_t > 0);
    FA_REQUIRE(cudaMalloc(&workspace, bytes) == cudaSuccess);
#define REFUSED(from, call, expected, name, change) \
    { \
        fa_verify_args x = from; \
        x.error = &error; \
        change; \
        const fa_status status = call(&x, workspace, bytes, 0); \
        FA_EXPECT_MSG(status == expected && error.status == expected && !strcmp(error.field, name), \
                      "%s: %d, %s", #change, (int)status, error.field); \
    }
#define CHAIN(expected, name, change) REFUSED(dc, fa_verify_chain_cuda, expected, name, change)
#define TREE(expected, name, change) REFUSED(dt, fa_verify_tree_cuda, expected, name, change)
    FA_EXPECT(fa_verify_chain_cuda(NULL, workspace, bytes, 0) == FA_ERR_ARGS_NULL);
    FA_EXPECT(fa_verify_tree_cuda(NULL, workspace, bytes, 0) == FA_ERR_ARGS_NULL);
    FA_EXPECT(fa_sample_cuda(NULL, 0) == FA_ERR_ARGS_NULL);
    FA_EXPECT(fa_verify_chain_cuda_workspace(NULL) == 0 && fa_verify_tree_cuda_workspace(NULL) == 0);
    CHAIN(FA_ERR_SPEC_VOCAB, "vocab", x.vocab = 0)
    CHAIN(FA_ERR_BATCH, "chains.batch", x.chains.batch = 0)
    CHAIN(FA_ERR_SPEC_RULE, "rule", x.rule = FA_VERIFY_WITH_REPLACEMENT)
    CHAIN(FA_ERR_SPEC_CHAIN, "chains.num_tokens", x.chains.num_tokens = FA_TREE_MAX_NODES)
    CHAIN(FA_ERR_SPEC_CHAIN, "chains.token", x.chains.token = NULL)
    CHAIN(FA_ERR_SPEC_TARGET, "target.data", x.target.data = NULL)
    CHAIN(FA_ERR_SPEC_TARGET, "target.stride", x.target.stride = 4999)
    CHAIN(FA_ERR_SPEC_DRAFT, "draft.kind", x.draft.kind = 4)
    CHAIN(FA_ERR_SPEC_COINS, "coins.coins", x.coins.coins = (const uint64_t *)((const char *)there(one) + 4))
    CHAIN(FA_ERR_SPEC_OUT, "tokens", x.tokens = NULL)
    CHAIN(FA_ERR_SPEC_OUT, "max_out", x.max_out = 3)
    CHAIN(FA_ERR_CUDA_POINTER, "target.data", x.target.data = on_host)
    CHAIN(FA_ERR_CUDA_POINTER, "draft.data", x.draft.data = on_host)
    CHAIN(FA_ERR_CUDA_POINTER, "chains.token", x.chains.token = host_ints)
    CHAIN(FA_ERR_CUDA_POINTER, "chains.lengths", x.chains.indptr = NULL; x.chains.lengths = host_ints)
    CHAIN(FA_ERR_CUDA_POINTER, "chains.indptr", x.chains.lengths = NULL; x.chains.indptr = host_ints)
    CHAIN(FA_ERR_CUDA_POINTER, "temperature", x.sampling.temperature = on_host)
    CHAIN(FA_ERR_CUDA_POINTER, "top_k", x.sampling.top_k = host_ints)
    CHAIN(FA_ERR_CUDA_POINTER, "tokens", x.tokens = (int32_t *)(void *)on_host)
    CHAIN(FA_ERR_CUDA_POINTER, "flags", x.flags = (uint32_t *)(void *)on_host)
    CHAIN(FA_ERR_CUDA_POINTER, "coins.seed",
          x.coins.seed = (const uint64_t *)(((uintptr_t)on_host + 7) / 8 * 8))
    TREE(FA_ERR_SPEC_RULE, "rule", x.rule = FA_VERIFY_BLOCK)
    TREE(FA_ERR_TREE_NODES, "trees.num_nodes", x.trees.num_nodes = 0)
    TREE(FA_ERR_TREE_PARENT, "trees.parent", x.trees.parent = NULL)
    TREE(FA_ERR_TREE_TOKEN, "trees.token", x.trees.token = NULL)
    TREE(FA_ERR_CUDA_POINTER, "trees.parent", x.trees.parent = host_ints)
    TREE(FA_ERR_CUDA_POINTER, "draft_row", x.draft_row = host_ints; x.num_draft_rows = 9)
    TREE(FA_ERR_SPEC_DRAFT_ROW, "num_draft_rows", x.draft_row = (const int32_t *)there(one);
         x.num_draft_rows = -1)
    fa_verify_args x = dc;
    x.error = &error;
    FA_EXPECT(fa_verify_chain_cuda(&x, NULL, bytes, 0) == FA_ERR_WORKSPACE_NULL);
    FA_EXPECT(fa_verify_chain_cuda(&x, workspace, bytes_c - 1, 0) == FA_ERR_WORKSPACE_SIZE);
    FA_EXPECT(fa_verify_chain_cuda(&x, malloc(bytes), bytes, 0) == FA_ERR_CUDA_POINTER);
    x.first_canary = 1;
    FA_EXPECT(fa_verify_chain_cuda(&x, workspace, bytes, 0) == FA_ERR_NOT_ZEROED);
    x = dc, x.error = &error, x.chains.batch = INT32_MAX;
    FA_EXPECT(fa_verify_chain_cuda_launch(&x, launch) == FA_ERR_CUDA_GRID &&
              !strcmp(error.field, "batch * nodes"));
    FA_EXPECT(fa_verify_chain_cuda_launch(&dc, launch) == FA_OK && launch[3].kernel && launch[4].grid > 1);
    FA_EXPECT(fa_verify_tree_cuda_launch(&dt, launch) == FA_OK && launch[3].grid == (unsigned)t.trees.batch);
    FA_EXPECT(cudaDeviceSynchronize() == cudaSuccess && same());
    cudaFree(workspace), drop_all();
}

/* What the CPU would refuse and the device does not see: a token that is no token is rejected, and nothing is read or
 * written that is not there. */
FA_TEST(bad_tokens) {
    for (int rule = FA_VERIFY_GREEDY; rule <= FA_VERIFY_TYPICAL; rule++)
        for (int bad = 0; bad < 2; bad++) {
            const int tree = rule == FA_VERIFY_WITH_REPLACEMENT || rule == FA_VERIFY_WITHOUT_REPLACEMENT;
            uint64_t s = 900 + (uint64_t)rule;
            fa_verify_args a, d;
            fa_error error;
            void *workspace = NULL;
            memset(&error, 0, sizeof error);
            do drop_all(), (tree ? make_tree : make_chain)(&a, rule, 40, 0, &s);
            while (!a.num_out);
            int32_t *token = (int32_t *)(void *)(tree ? a.trees.token : a.chains.token);
            const int32_t batch = tree ? a.trees.batch : a.chains.batch, most = a.max_out ? a.max_out
                                                                                : tree
                                                                                    ? a.trees.num_nodes
                                                                                    : a.chains.num_tokens + 1;
            for (int n = 0; n < num_blocks; n++)
                if (blocks[n].host == (unsigned char *)token)
                    for (size_t i = 0; i < blocks[n].bytes / 4; i++) token[i] = bad ? INT32_MAX : -2;
            upload();
            d = there_args(&a), d.error = &error;
            const size_t bytes =
                tree ? fa_verify_tree_cuda_workspace(&d) : fa_verify_chain_cuda_workspace(&d);
            if (bytes) FA_EXPECT(cudaMalloc(&workspace, bytes) == cudaSuccess);
            if (launched(tree ? fa_verify_tree_cuda(&d, workspace, bytes, 0)
                              : fa_verify_chain_cuda(&d, workspace, bytes, 0),
                         &error)) {
                FA_EXPECT(cudaMemcpy(a.tokens, d.tokens, (size_t)(batch * most) * 4,
                                     cudaMemcpyDeviceToHost) == cudaSuccess &&
                          cudaMemcpy(a.num_out, d.num_out, (size_t)batch * 4, cudaMemcpyDeviceToHost) ==
                              cudaSuccess);
                for (int32_t b = 0; b < batch; b++)
                    FA_EXPECT(a.num_out[b] == 1 && a.tokens[b * most] >= 0 && a.tokens[b * most] < 40);
            }
            cudaFree(workspace), drop_all();
        }
}

/* Captured once, replayed on new rows and in the same workspace: the calls do nothing but launch. */
FA_TEST(graph) {
    uint64_t s = fat_seed + 11;
    fa_verify_args c, t, dc, dt;
    fa_error error;
    device_graph g;
    void *workspace[2];
    do drop_all(), make_chain(&c, FA_VERIFY_TOKEN, 5000, 0, &s);
    while (c.target.kind > FA_LOGITS || c.chains.num_tokens < 2);
    make_tree(&t, FA_VERIFY_WITHOUT_REPLACEMENT, 4500, 1, &s);
    upload();
    dc = there_args(&c), dt = there_args(&t), dc.error = dt.error = c.error = t.error = &error;
    const size_t bytes[2] = {fa_verify_chain_cuda_workspace(&dc), fa_verify_tree_cuda_workspace(&dt)};
    for (int n = 0; n < 2; n++) FA_REQUIRE(cudaMalloc(&workspace[n], bytes[n]) == cudaSuccess);
    FA_REQUIRE(graph_begin(&g));
    FA_EXPECT(fa_verify_chain_cuda(&dc, workspace[0], bytes[0], g.stream) == FA_OK &&
              fa_verify_tree_cuda(&dt, workspace[1], bytes[1], g.stream) == FA_OK);
    FA_REQUIRE(graph_end(&g));
    for (int round = 0; round < 3; round++) {
        for (int n = 0; n < num_blocks; n++) /* coins, if they are given */
            if (blocks[n].host == (const unsigned char *)c.coins.coins ||
                blocks[n].host == (const unsigned char *)t.coins.coins)
                for (size_t i = 0; i < blocks[n].bytes / 8; i++)
                    ((uint64_t *)(void *)blocks[n].host)[i] = fat_next(&s);
        upload();
        void *host = malloc(fa_verify_tree_workspace(&t));
        FA_EXPECT(graph_replay(&g));
        FA_EXPECT(fa_verify_chain(&c) == FA_OK &&
                  fa_verify_tree(&t, host, fa_verify_tree_workspace(&t)) == FA_OK);
        FA_EXPECT(same());
        free(host);
    }
    graph_free(&g);
    for (int n = 0; n < 2; n++) cudaFree(workspace[n]);
    drop_all();
}

FA_TEST_MAIN
