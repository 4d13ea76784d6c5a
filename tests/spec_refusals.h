/* spec_refusals.h - what fa_sample, fa_verify_chain and fa_verify_tree refuse: status, field, numbers and
 * index of fa_error, and that nothing is written.  test_spec_verify.c runs it; test_status.c counts the
 * codes.  Include flashattn_spec.h and fa_test.h first. */
#ifndef FA_SPEC_REFUSALS_H
#define FA_SPEC_REFUSALS_H

enum { SR_B = 2, SR_V = 5, SR_N = 4 };

static struct sr_memory {
    float target[SR_B * SR_N * SR_V + 8], draft[SR_B * SR_N * SR_V + 8], temperature[SR_B], top_p[SR_B],
        min_p[SR_B];
    int32_t top_k[SR_B], parent[SR_B * SR_N], token[SR_B * SR_N], indptr[SR_B + 1], lengths[SR_B],
        map[SR_B * SR_N];
    int32_t request[SR_B], node[SR_B], out[64], num[SR_B], accepted[64];
    uint32_t flags[SR_B];
    uint64_t coins[SR_B * SR_N + 1], workspace[2 * SR_V + 1];
} sr, sr_before;
static fa_error sr_error;

static inline fa_verify_args sr_verify(int32_t rule) {
    static const int32_t parent[] = {-1, 0, 0, 1, -1, 0, 1, 1}, token[] = {-1, 2, 4, 0, -1, 1, 1, 3};
    fa_verify_args a;
    memset(&a, 0, sizeof a), memset(&sr, 0, sizeof sr), memset(sr.out, 7, sizeof sr.out);
    for (int i = 0; i < SR_B * SR_N * SR_V; i++) sr.target[i] = sr.draft[i] = 0.2f;
    memcpy(sr.parent, parent, sizeof parent), memcpy(sr.token, token, sizeof token);
    for (int b = 0; b < SR_B; b++)
        sr.temperature[b] = 1, sr.top_p[b] = 0.5f, sr.min_p[b] = 0.1f, sr.top_k[b] = 2, sr.lengths[b] = b + 2,
        sr.request[b] = b;
    a.vocab = SR_V, a.rule = rule, a.target.data = sr.target, a.draft.data = sr.draft;
    a.target.kind = a.draft.kind = FA_PROBS, a.coins.coins = sr.coins;
    a.tokens = sr.out, a.num_out = sr.num, a.accepted = sr.accepted, a.flags = sr.flags, a.error = &sr_error;
    return a;
}
static inline fa_verify_args sr_chain(void) {
    fa_verify_args a = sr_verify(FA_VERIFY_TOKEN);
    for (int i = 0; i < SR_B * SR_N; i++) sr.token[i] = i % SR_V;
    a.chains.batch = SR_B, a.chains.num_tokens = SR_N - 1, a.chains.token = sr.token;
    return a;
}
static inline fa_verify_args sr_tree(void) {
    fa_verify_args a = sr_verify(FA_VERIFY_WITHOUT_REPLACEMENT);
    a.trees.batch = SR_B, a.trees.num_nodes = SR_N, a.trees.parent = sr.parent, a.trees.token = sr.token;
    return a;
}
static inline fa_verify_args sr_tree_ragged(void) {
    fa_verify_args a = sr_tree();
    sr.indptr[1] = 4, sr.indptr[2] = 8, a.trees.indptr = sr.indptr;
    return a;
}
static inline fa_verify_args sr_tree_mapped(void) {
    fa_verify_args a = sr_tree();
    static const int32_t map[] = {0, 1, -1, -1, 2, 3, -1, -1};
    memcpy(sr.map, map, sizeof map);
    a.draft_row = sr.map, a.num_draft_rows = 4;
    return a;
}
static inline fa_sample_args sr_sample(void) {
    fa_sample_args a;
    sr_verify(0);
    memset(&a, 0, sizeof a);
    a.batch = SR_B, a.vocab = SR_V, a.rows.data = sr.target, a.tokens = sr.out, a.flags = sr.flags,
    a.error = &sr_error;
    return a;
}

/* index -1: the field is not an array; min > max: no range. */
static inline void sr_expect(const char *what, fa_status got, fa_status quiet, fa_status want, int *seen,
                             const char *field, int64_t index) {
    char text[400];
    seen[got] = 1;
    fa_error_message(&sr_error, text, sizeof text);
    FA_EXPECT_MSG(got == want && quiet == want, "%s: got %s", what, fa_strerror(got));
    FA_EXPECT_MSG(sr_error.status == want && !strcmp(sr_error.field, field) && sr_error.index == index,
                  "%s: %s", what, text);
    FA_EXPECT_MSG(!memcmp(&sr, &sr_before, sizeof sr), "%s: something was written", what);
}

#define SR_BAD(maker, call, want, where, at, change) \
    { \
        a = maker(); \
        change; \
        sr_before = sr, memset(&sr_error, 0, sizeof sr_error), sr_error.field = ""; \
        const fa_status first = call; \
        a.error = NULL; \
        const fa_status second = call; \
        sr_expect(#change, first, second, want, seen, where, at); \
    }
#define SR_CHAIN(want, where, at, change) \
    SR_BAD(sr_chain, fa_verify_chain(&a), FA_ERR_##want, where, at, change)
#define SR_TREE(which, want, where, at, change) \
    SR_BAD(sr_tree##which, fa_verify_tree(&a, sr.workspace, sizeof sr.workspace), FA_ERR_##want, where, at, \
           change)
#define SR_SAMPLE(want, where, at, change) SR_BAD(sr_sample, fa_sample(&a), FA_ERR_##want, where, at, change)

static inline void sr_refuse_chains(int *seen) {
    fa_verify_args a = sr_chain();
    FA_EXPECT(fa_verify_chain(&a) == FA_OK && sr_error.status == FA_OK);
    FA_EXPECT(fa_verify_chain(NULL) == FA_ERR_ARGS_NULL);
    a.first_canary = 1, a.error = (fa_error *)(uintptr_t)3;
    FA_EXPECT(fa_verify_chain(&a) == FA_ERR_NOT_ZEROED);
    a.first_canary = 0, a.last_canary = 1;
    FA_EXPECT(fa_verify_chain(&a) == FA_ERR_NOT_ZEROED);
    SR_CHAIN(SPEC_VOCAB, "vocab", -1, a.vocab = 0)
    SR_CHAIN(SPEC_VOCAB, "vocab", -1, a.vocab = -5)
    SR_CHAIN(SPEC_RULE, "rule", -1, a.rule = 0)
    SR_CHAIN(SPEC_RULE, "rule", -1, a.rule = FA_VERIFY_WITH_REPLACEMENT)
    SR_CHAIN(SPEC_RULE, "rule", -1, a.rule = FA_VERIFY_WITHOUT_REPLACEMENT)
    SR_CHAIN(SPEC_RULE, "rule", -1, a.rule = 8)
    SR_CHAIN(BATCH, "chains.batch", -1, a.chains.batch = 0)
    SR_CHAIN(SPEC_CHAIN, "chains.num_tokens", -1, a.chains.num_tokens = -1)
    SR_CHAIN(SPEC_CHAIN, "chains.num_tokens", -1, a.chains.num_tokens = 1024)
    SR_CHAIN(SPEC_CHAIN, "chains.token", -1, a.chains.token = NULL)
    SR_CHAIN(SPEC_CHAIN, "chains.lengths", 1, a.chains.lengths = sr.lengths; sr.lengths[1] = 4)
    SR_CHAIN(SPEC_CHAIN, "chains.lengths", 0, a.chains.lengths = sr.lengths; sr.lengths[0] = -1)
    SR_CHAIN(SPEC_CHAIN, "chains.lengths", -1, a.chains.lengths = sr.lengths; a.chains.indptr = sr.indptr)
    SR_CHAIN(SPEC_CHAIN, "chains.indptr", 0, a.chains.indptr = sr.indptr; sr.indptr[0] = -1)
    SR_CHAIN(SPEC_CHAIN, "chains.indptr", 2, a.chains.indptr = sr.indptr; sr.indptr[1] = 3; sr.indptr[2] = 7)
    SR_CHAIN(SPEC_CHAIN, "chains.indptr", 2, a.chains.indptr = sr.indptr; sr.indptr[1] = 3; sr.indptr[2] = 2)
    SR_CHAIN(TREE_TOKEN, "chains.token", 4, sr.token[4] = SR_V)
    SR_CHAIN(TREE_TOKEN, "chains.token", 0, sr.token[0] = -1)
    SR_CHAIN(SPEC_TARGET, "target.data", -1, a.target.data = NULL)
    SR_CHAIN(SPEC_TARGET, "target.data", -1, a.target.data = (char *)sr.target + 2)
    SR_CHAIN(SPEC_TARGET, "target.dtype", -1, a.target.dtype = FA_E4M3)
    SR_CHAIN(SPEC_TARGET, "target.kind", -1, a.target.kind = 4)
    SR_CHAIN(SPEC_TARGET, "target.stride", -1, a.target.stride = SR_V - 1)
    SR_CHAIN(SPEC_TARGET, "target.stride", -1, a.target.stride = (int64_t)1 << 61)
    SR_CHAIN(SPEC_DRAFT, "draft.data", -1, a.draft.data = NULL)
    SR_CHAIN(SPEC_DRAFT, "draft.dtype", -1, a.draft.dtype = -1)
    SR_CHAIN(SPEC_DRAFT, "draft.kind", -1, a.draft.kind = -1)
    SR_CHAIN(SPEC_DRAFT, "draft.stride", -1, a.draft.stride = -9)
    SR_CHAIN(SPEC_SAMPLING, "temperature", 1, a.sampling.temperature = sr.temperature;
             sr.temperature[1] = 0.5f) /* probabilities */
    SR_CHAIN(SPEC_SAMPLING, "temperature", 0, a.target.kind = 0; a.sampling.temperature = sr.temperature;
             sr.temperature[0] = -1)
    SR_CHAIN(SPEC_SAMPLING, "temperature", 0, a.target.kind = 0; a.sampling.temperature = sr.temperature;
             sr.temperature[0] = NAN)
    SR_CHAIN(SPEC_SAMPLING, "temperature", 0, a.target.kind = 0; a.sampling.temperature = sr.temperature;
             sr.temperature[0] = 1e-7f)
    SR_CHAIN(SPEC_SAMPLING, "top_k", 0, a.sampling.top_k = sr.top_k; sr.top_k[0] = -1)
    SR_CHAIN(SPEC_SAMPLING, "top_p", 1, a.sampling.top_p = sr.top_p; sr.top_p[1] = 1.5f)
    SR_CHAIN(SPEC_SAMPLING, "min_p", 1, a.sampling.min_p = sr.min_p; sr.min_p[1] = NAN)
    SR_CHAIN(SPEC_SAMPLING, "top_p", -1, a.sampling.top_p = (float *)((char *)sr.top_p + 1))
    SR_CHAIN(SPEC_COINS, "coins.coins", -1, a.coins.coins = (uint64_t *)((char *)sr.coins + 4))
    SR_CHAIN(SPEC_COINS, "coins.seed", -1, a.coins.seed = (uint64_t *)((char *)sr.coins + 4))
    SR_CHAIN(SPEC_COINS, "coins.offset", -1, a.coins.offset = (uint64_t *)((char *)sr.coins + 4))
    SR_CHAIN(SPEC_TYPICAL, "typical_epsilon", -1, a.typical_epsilon = 2)
    SR_CHAIN(SPEC_TYPICAL, "typical_delta", -1, a.typical_delta = -0.1f)
    SR_CHAIN(SPEC_OUT, "max_out", -1, a.max_out = SR_N - 1)
    SR_CHAIN(SPEC_OUT, "tokens", -1, a.tokens = NULL)
    SR_CHAIN(SPEC_OUT, "num_out", -1, a.num_out = (int32_t *)((char *)sr.num + 2))
    SR_CHAIN(SPEC_OUT, "accepted", -1, a.accepted = (int32_t *)((char *)sr.num + 2))
    SR_CHAIN(SPEC_OUT, "flags", -1, a.flags = (uint32_t *)((char *)sr.flags + 2))
}

static inline void sr_refuse_trees(int *seen) {
    fa_verify_args a = sr_tree();
    FA_EXPECT(fa_verify_tree_workspace(&a) <= sizeof sr.workspace);
    FA_EXPECT(fa_verify_tree(&a, sr.workspace, fa_verify_tree_workspace(&a)) == FA_OK &&
              sr_error.status == FA_OK);
    FA_EXPECT(fa_verify_tree(NULL, NULL, 0) == FA_ERR_ARGS_NULL);
    SR_TREE(, SPEC_RULE, "rule", -1, a.rule = FA_VERIFY_TOKEN)
    SR_TREE(, SPEC_RULE, "rule", -1, a.rule = FA_VERIFY_BLOCK)
    SR_TREE(, BATCH, "trees.batch", -1, a.trees.batch = -1)
    SR_TREE(, TREE_NODES, "trees.num_nodes", -1, a.trees.num_nodes = 0) /* empty */
    SR_TREE(, TREE_NODES, "trees.num_nodes", -1, a.trees.num_nodes = 1025)
    SR_TREE(_ragged, TREE_NODES, "trees.indptr", 2, sr.indptr[2] = 4) /* empty */
    SR_TREE(_ragged, TREE_NODES, "trees.indptr", 1, sr.indptr[1] = 5)
    SR_TREE(_ragged, TREE_NODES, "trees.indptr", 0, sr.indptr[0] = -1)
    SR_TREE(, TREE_PARENT, "trees.parent", -1, a.trees.parent = NULL)
    SR_TREE(, TREE_PARENT, "trees.parent", 0, sr.parent[0] = 0)  /* no root */
    SR_TREE(, TREE_PARENT, "trees.parent", 2, sr.parent[2] = -1) /* two roots */
    SR_TREE(, TREE_PARENT, "trees.parent", 3, sr.parent[3] = 3)  /* a cycle */
    SR_TREE(, TREE_PARENT, "trees.parent", 5, sr.parent[5] = 2;
            sr.parent[6] = 1) /* the parent after its child */
    SR_TREE(, TREE_PARENT, "trees.parent", 7, sr.parent[7] = 100)
    SR_TREE(, TREE_TOKEN, "trees.token", -1, a.trees.token = NULL)
    SR_TREE(, TREE_TOKEN, "trees.token", 3, sr.token[3] = -1)
    SR_TREE(, TREE_TOKEN, "trees.token", 7, sr.token[7] = SR_V)
    SR_TREE(_mapped, SPEC_DRAFT_ROW, "draft_row", 1, sr.map[1] = -1)
    SR_TREE(_mapped, SPEC_DRAFT_ROW, "draft_row", 4, sr.map[4] = 4)
    SR_TREE(_mapped, SPEC_DRAFT_ROW, "num_draft_rows", -1, a.num_draft_rows = -1)
    SR_TREE(, SPEC_OUT, "max_out", -1, a.max_out = 2)
    a = sr_tree(), sr_before = sr;
    FA_EXPECT(fa_verify_tree(&a, NULL, 1000) == FA_ERR_WORKSPACE_NULL &&
              sr_error.status == FA_ERR_WORKSPACE_NULL);
    FA_EXPECT(fa_verify_tree(&a, sr.workspace, fa_verify_tree_workspace(&a) - 1) == FA_ERR_WORKSPACE_SIZE);
    FA_EXPECT(!memcmp(&sr, &sr_before, sizeof sr));
    a = sr_tree_mapped();
    FA_EXPECT(fa_verify_tree(&a, sr.workspace, sizeof sr.workspace) == FA_OK);
}

static inline void sr_refuse_samples(int *seen) {
    fa_sample_args a = sr_sample();
    FA_EXPECT(fa_sample(&a) == FA_OK && sr_error.status == FA_OK);
    FA_EXPECT(fa_sample(NULL) == FA_ERR_ARGS_NULL);
    a.last_canary = 1, a.error = (fa_error *)(uintptr_t)3;
    FA_EXPECT(fa_sample(&a) == FA_ERR_NOT_ZEROED);
    SR_SAMPLE(BATCH, "batch", -1, a.batch = 0)
    SR_SAMPLE(SPEC_VOCAB, "vocab", -1, a.vocab = 0)
    SR_SAMPLE(SPEC_SAMPLE, "num_rows", -1, a.num_rows = SR_B + 1)
    SR_SAMPLE(SPEC_SAMPLE, "num_rows", -1, a.num_rows = -1)
    SR_SAMPLE(SPEC_SAMPLE, "request", 1, a.request = sr.request; sr.request[1] = SR_B)
    SR_SAMPLE(SPEC_SAMPLE, "node", 0, a.node = sr.node; sr.node[0] = -1)
    SR_SAMPLE(SPEC_SAMPLE, "num_samples", -1, a.num_samples = -1)
    SR_SAMPLE(SPEC_SAMPLE, "num_samples", -1, a.num_samples = 1025)
    SR_SAMPLE(SPEC_SAMPLE, "without_replacement", -1, a.without_replacement = 2)
    SR_SAMPLE(SPEC_SAMPLE, "purpose", -1, a.purpose = FA_COIN_ACCEPT)
    SR_SAMPLE(SPEC_ROWS, "rows.data", -1, a.rows.data = NULL)
    SR_SAMPLE(SPEC_ROWS, "rows.stride", -1, a.rows.stride = 1)
    SR_SAMPLE(SPEC_ROWS, "rows.dtype", -1, a.rows.dtype = FA_I8)
    SR_SAMPLE(SPEC_ROWS, "rows.kind", -1, a.rows.kind = 9)
    SR_SAMPLE(SPEC_SAMPLING, "top_k", 1, a.sampling.top_k = sr.top_k; sr.top_k[1] = INT32_MIN)
    SR_SAMPLE(SPEC_COINS, "coins.coins", -1, a.coins.coins = (uint64_t *)((char *)sr.coins + 1))
    SR_SAMPLE(SPEC_OUT, "tokens", -1, a.tokens = NULL)
    SR_SAMPLE(SPEC_OUT, "flags", -1, a.flags = (uint32_t *)((char *)sr.flags + 1))
}

static inline void spec_refusals(int *seen) {
    sr_refuse_chains(seen), sr_refuse_trees(seen), sr_refuse_samples(seen);
}
#endif
