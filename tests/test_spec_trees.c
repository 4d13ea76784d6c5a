/* test_spec_trees.c - token trees: what follows from parent[] against its definition, the mask through
 * attention, every builder against a plain model, brute force or published figures, and random garbage. */
#include "fa_test.h"

#include "flashattn_spec.h"

#define FA_NAME st32
#define FA_HEAD_DIM 32
#define FA_PASSES FA_FORWARD
#define FA_FEATURES (FA_CAUSAL | FA_VARLEN | FA_TREE_MASK)
#include "flashattn.h"

enum { MOST = FA_TREE_MAX_NODES };

/* ---- random trees ------------------------------------------------------------------------ */

typedef struct forest {
    int32_t parent[4 * MOST], token[4 * MOST], indptr[5];
    fa_trees t;
} forest;

/* bias: deeper trees; ragged ones begin at a gap. */
static void make_forest(forest *f, int batch, int nodes, int ragged, uint64_t *rng) {
    int32_t at = ragged ? 3 : 0;
    memset(f, 0, sizeof *f);
    f->t.batch = batch, f->t.num_nodes = nodes, f->t.parent = f->parent, f->t.token = f->token;
    if (ragged) f->t.indptr = f->indptr;
    const int bias = fat_below(rng, 3);
    for (int b = 0; b < batch; b++) {
        const int n = ragged ? 1 + fat_below(rng, nodes) : nodes;
        f->indptr[b] = at;
        for (int i = 0; i < n; i++) {
            f->parent[at + i] = i ? (bias == 0   ? fat_below(rng, i)
                                     : bias == 1 ? i - 1 - fat_below(rng, i < 3 ? i : 3)
                                                 : 0)
                                  : -1;
            f->token[at + i] = fat_below(rng, 5);
        }
        at += n;
    }
    f->indptr[batch] = at;
}

static int above(const int32_t *parent, int node, int t) { /* is t the node, or above it? */
    for (; node >= 0; node = parent[node])
        if (node == t) return 1;
    return 0;
}
static int depth_of(const int32_t *parent, int node) {
    int depth = 0;
    while (parent[node] >= 0) node = parent[node], depth++;
    return depth;
}

FA_TEST(links_positions_mask_paths) {
    static forest f;
    static int32_t first[4 * MOST], next[4 * MOST], positions[4 * MOST], paths[200 * 200];
    static uint32_t mask[2][4 * 200 * 40];
    uint64_t rng = fat_seed;
    for (int round = 0; round < 300; round++) {
        const int batch = 1 + fat_below(&rng, 4), nodes = 1 + fat_below(&rng, round % 3 ? 40 : 150),
                  ragged = round % 2;
        const int64_t words = (nodes + 31) / 32, stride_q = round % 5 ? 0 : words + 2,
                      stride_b = stride_q * nodes;
        int32_t start[4];
        make_forest(&f, batch, nodes, ragged, &rng);
        for (int b = 0; b < 4; b++) start[b] = fat_below(&rng, 1000);
        memset(mask, 0xee, sizeof mask);
        FA_REQUIRE(fa_trees_check(&f.t, 5, NULL) == FA_OK);
        FA_REQUIRE(fa_tree_links(&f.t, first, next, NULL) == FA_OK);
        FA_REQUIRE(fa_tree_positions(&f.t, round % 7 ? start : NULL, positions, NULL) == FA_OK);
        FA_REQUIRE(fa_tree_mask_bits(&f.t, mask[0], stride_b, stride_q, NULL) == FA_OK);
        for (int b = 0; b < batch; b++) {
            const int64_t at = fa_tree_begin(&f.t, b);
            const int n = fa_tree_count(&f.t, b);
            const int32_t *parent = f.parent + at;
            int leaves = 0, longest = 0;
            FA_EXPECT(at == (ragged ? f.indptr[b] : b * nodes) && n == f.indptr[b + 1] - f.indptr[b]);
            for (int i = 0; i < n; i++) {
                int child = -1, sibling = -1, depth = depth_of(parent, i);
                for (int k = n - 1; k > i; k--) {
                    if (parent[k] == i) child = k;
                    if (i && parent[k] == parent[i]) sibling = k;
                }
                FA_EXPECT(first[at + i] == child && next[at + i] == sibling);
                FA_EXPECT(positions[at + i] == depth + (round % 7 ? start[b] : 0));
                leaves += child<0, longest = depth + 1> longest ? depth + 1 : longest;
            }
            for (int i = 0; i < nodes; i++)
                for (int t = 0; t < words * 32; t++) {
                    const uint32_t *row =
                        mask[0] + (stride_q ? b * stride_b + i * stride_q : (b * (int64_t)nodes + i) * words);
                    FA_EXPECT((row[t / 32] >> t % 32 & 1) ==
                              (uint32_t)(i < n && t < n && above(parent, i, t)));
                }
            int32_t count = -1, length = -1;
            FA_EXPECT(fa_tree_paths(&f.t, b, NULL, 0, 0, &count, &length, NULL) == FA_OK);
            FA_EXPECT(count == leaves && length == longest);
            FA_EXPECT(fa_tree_paths(&f.t, b, paths, count, length - 1, &count, NULL, NULL) ==
                      FA_ERR_TREE_CAPACITY);
            FA_EXPECT(fa_tree_paths(&f.t, b, paths, count - 1, length, NULL, NULL, NULL) ==
                      FA_ERR_TREE_CAPACITY);
            FA_REQUIRE(fa_tree_paths(&f.t, b, paths, count, length, &count, &length, NULL) == FA_OK);
            for (int l = 0, leaf = 0; l < leaves; l++, leaf++) {
                while (first[at + leaf] >= 0) leaf++;
                for (int d = 0; d < length; d++) {
                    const int node = paths[l * length + d];
                    if (d <= depth_of(parent, leaf))
                        FA_EXPECT(depth_of(parent, node) == d && above(parent, leaf, node));
                    else
                        FA_EXPECT(node == -1);
                }
            }
        }
    }
}

/* A tree through attention, with the mask, is every path of it as a chain of its own. */
FA_TEST(mask_through_attention) {
    enum { D = 32, H = 2, PREFIX = 21, NODES = 70, ROWS = PREFIX + NODES };
    static forest f;
    static float q[3 * NODES][H][D], k[3][ROWS][1][D], v[3][ROWS][1][D], o[3 * NODES][H][D];
    static float path_q[NODES][H][D], path_k[ROWS][1][D], path_v[ROWS][1][D], path_o[NODES][H][D];
    static uint32_t mask[3 * NODES * 3];
    static char workspace[1 << 22];
    uint64_t rng = fat_seed;
    for (int round = 0; round < 6; round++) {
        const int nodes = round < 2 ? 9 : round < 4 ? 33 : NODES;
        int32_t cu[4] = {0}, used[3];
        fa_args a;
        make_forest(&f, 3, nodes, 1, &rng);
        const int32_t gap = f.indptr[0]; /* queries are packed: without it */
        for (int b = 0; b < 3; b++)
            cu[b + 1] = f.indptr[b + 1] - gap, used[b] = PREFIX - b + cu[b + 1] - cu[b];
        for (size_t i = 0; i < sizeof q / 4; i++) (&q[0][0][0])[i] = (float)fat_normal(&rng);
        for (size_t i = 0; i < sizeof k / 4; i++)
            (&k[0][0][0][0])[i] = (float)fat_normal(&rng), (&v[0][0][0][0])[i] = (float)fat_normal(&rng);
        FA_REQUIRE(fa_tree_mask_bits(&f.t, mask, 0, 0, NULL) == FA_OK);
        memset(&a, 0, sizeof a);
        a.batch = 3, a.num_heads = H, a.num_heads_k = 1, a.seqlen_q = nodes, a.seqlen_k = ROWS;
        a.q.data = q, a.k.data = k, a.v.data = v, a.o.data = o, a.cu_seqlens_q = cu, a.seqused_k = used;
        a.tree_mask.data = mask;
        FA_REQUIRE(st32_forward_workspace(&a) <= sizeof workspace);
        FA_REQUIRE(st32_forward(&a, workspace, sizeof workspace) == FA_OK);
        for (int b = 0; b < 3; b++)
            for (int node = 0; node < cu[b + 1] - cu[b]; node++) {
                const int32_t *parent = f.parent + f.indptr[b];
                const int depth = depth_of(parent, node), prefix = PREFIX - b;
                fa_args c;
                memcpy(path_k, k[b], (size_t)prefix * sizeof k[b][0]),
                    memcpy(path_v, v[b], (size_t)prefix * sizeof v[b][0]);
                for (int at = node, d = depth; at >= 0; at = parent[at], d--) {
                    memcpy(path_q[d], q[cu[b] + at], sizeof q[0]);
                    memcpy(path_k[prefix + d], k[b][prefix + at], sizeof k[b][0]);
                    memcpy(path_v[prefix + d], v[b][prefix + at], sizeof v[b][0]);
                }
                memset(&c, 0, sizeof c);
                c.batch = 1, c.num_heads = H, c.num_heads_k = 1, c.seqlen_q = depth + 1,
                c.seqlen_k = prefix + depth + 1;
                c.q.data = path_q, c.k.data = path_k, c.v.data = path_v, c.o.data = path_o, c.causal = 1;
                FA_REQUIRE(st32_forward(&c, workspace, sizeof workspace) == FA_OK);
                for (int i = 0; i < H * D; i++)
                    FA_EXPECT_NEAR((&o[cu[b] + node][0][0])[i], (&path_o[depth][0][0])[i], 2e-6);
            }
    }
}

FA_TEST(bad_trees) {
    static forest f;
    uint64_t rng = fat_seed;
    fa_error e;
#define BAD(change, code, name, at) \
    make_forest(&f, 3, 7, 0, &rng); \
    { change; } \
    memset(&e, 0, sizeof e); \
    FA_EXPECT_MSG(fa_trees_check(&f.t, 5, &e) == (code), "%s: %d", #change, e.status); \
    FA_EXPECT_MSG(e.status == (code) && e.index == (at) && !strcmp(e.field, name), "%s: %s[%d]", #change, \
                  e.field, (int)e.index);
    BAD(f.t.batch = 0, FA_ERR_BATCH, "trees.batch", -1)
    BAD(f.t.num_nodes = 0, FA_ERR_TREE_NODES, "trees.num_nodes", -1)
    BAD(f.t.num_nodes = MOST + 1, FA_ERR_TREE_NODES, "trees.num_nodes", -1)
    BAD(f.t.parent = NULL, FA_ERR_TREE_PARENT, "trees.parent", -1)
    BAD(f.t.token = NULL, FA_ERR_TREE_TOKEN, "trees.token", -1)
    BAD(f.t.indptr = (const int32_t *)(const void *)((const char *)f.indptr + 1), FA_ERR_TREE_NODES,
        "trees.indptr", -1)
    BAD(f.t.indptr = f.indptr; f.indptr[0] = -1, FA_ERR_TREE_NODES, "trees.indptr", 0)
    BAD(f.t.indptr = f.indptr; f.indptr[2] = f.indptr[1], FA_ERR_TREE_NODES, "trees.indptr", 2)
    BAD(f.t.indptr = f.indptr; f.indptr[3] = INT32_MAX, FA_ERR_TREE_NODES, "trees.indptr", 3)
    BAD(f.t.indptr = f.indptr; f.indptr[1] = INT32_MIN, FA_ERR_TREE_NODES, "trees.indptr", 1)
    BAD(f.parent[7] = 0, FA_ERR_TREE_PARENT, "trees.parent", 7)
    BAD(f.parent[9] = 2, FA_ERR_TREE_PARENT, "trees.parent", 9)
    BAD(f.parent[9] = 3, FA_ERR_TREE_PARENT, "trees.parent", 9)
    BAD(f.parent[9] = -1, FA_ERR_TREE_PARENT, "trees.parent", 9)
    BAD(f.parent[20] = INT32_MAX, FA_ERR_TREE_PARENT, "trees.parent", 20)
    BAD(f.token[20] = 5, FA_ERR_TREE_TOKEN, "trees.token", 20)
    BAD(f.token[8] = -1, FA_ERR_TREE_TOKEN, "trees.token", 8)
#undef BAD
    int32_t out[32] = {0}, start[3] = {0, -1, 0};
    FA_EXPECT(fa_trees_check(NULL, 0, &e) == FA_ERR_ARGS_NULL);
    make_forest(&f, 3, 7, 0, &rng);
    FA_EXPECT(fa_tree_links(&f.t, NULL, out, &e) == FA_ERR_TREE_OUTPUT && !strcmp(e.field, "first_child"));
    FA_EXPECT(fa_tree_positions(&f.t, start, out, &e) == FA_ERR_POSITIONS && e.index == 1);
    FA_EXPECT(fa_tree_positions(&f.t, NULL, NULL, &e) == FA_ERR_TREE_OUTPUT);
    FA_EXPECT(fa_tree_mask_bits(&f.t, NULL, 0, 0, &e) == FA_ERR_TREE_OUTPUT);
    FA_EXPECT(fa_tree_mask_bits(&f.t, (uint32_t *)out, 7, 0, &e) == FA_ERR_TREE_MASK_STRIDE);
    FA_EXPECT(fa_tree_paths(&f.t, 3, NULL, 0, 0, NULL, NULL, &e) == FA_ERR_TREE_NODES &&
              !strcmp(e.field, "b"));
    for (int i = 0; i < 32; i++) FA_EXPECT(out[i] == 0);
}

/* ---- shapes ------------------------------------------------------------------------------ */

static int32_t parent_of[MOST], token_of[MOST], rank_of[MOST];
static fa_tree room(int32_t capacity) {
    const fa_tree t = {capacity, 0, parent_of, token_of, rank_of};
    return t;
}
static int is_tree(const fa_tree *t) {
    const fa_trees view = fa_tree_view(t);
    return fa_trees_check(&view, 0, NULL) == FA_OK;
}

/* Keys (ranks or tokens) from the root to node, -1 behind them. */
static void path_to(const int32_t *parent, const int32_t *key, int node, int length, int32_t *path) {
    for (int d = 0; d < length; d++) path[d] = -1;
    for (int d = depth_of(parent, node) - 1; d >= 0; d--, node = parent[node]) path[d] = key[node];
}

FA_TEST(paths) {
    enum { PATHS = 40, LENGTH = 4 };
    uint64_t rng = fat_seed;
    fa_error e;
    for (int round = 0; round < 300; round++) {
        int32_t paths[PATHS][LENGTH], set[PATHS * LENGTH + 1][LENGTH] = {{-1, -1, -1, -1}}, want = 1;
        const int count = fat_below(&rng, PATHS + 1);
        for (int i = 0; i < count; i++) {
            const int depth = fat_below(&rng, LENGTH + 1);
            for (int d = 0; d < LENGTH; d++) paths[i][d] = d < depth ? fat_below(&rng, 3) : -1;
            for (int stop = 1; stop <= depth; stop++) { /* all prefixes, each once */
                int32_t prefix[LENGTH] = {-1, -1, -1, -1}, there = 0;
                memcpy(prefix, paths[i], (size_t)stop * 4);
                for (int n = 0; n < want; n++) there |= !memcmp(set[n], prefix, sizeof prefix);
                if (!there) memcpy(set[want++], prefix, sizeof prefix);
            }
        }
        fa_tree t = room(want);
        FA_REQUIRE(fa_tree_from_paths(&paths[0][0], count, LENGTH, &t, NULL) == FA_OK);
        FA_REQUIRE(t.num_nodes == want && is_tree(&t) && t.rank[0] == 0);
        for (int i = 1; i < want; i++) { /* by depth, then in lexicographic order */
            int32_t x[LENGTH], y[LENGTH], there = 0, d = 0;
            const int depth = depth_of(t.parent, i), before = depth_of(t.parent, i - 1);
            path_to(t.parent, t.rank, i, LENGTH, x), path_to(t.parent, t.rank, i - 1, LENGTH, y);
            for (int n = 0; n < want; n++) there |= !memcmp(set[n], x, sizeof x);
            while (d < LENGTH - 1 && x[d] == y[d]) d++;
            FA_EXPECT(there && depth >= before && (depth > before || x[d] > y[d]));
        }
        if (want > 1) {
            t = room(want - 1);
            FA_EXPECT(fa_tree_from_paths(&paths[0][0], count, LENGTH, &t, &e) == FA_ERR_TREE_CAPACITY &&
                      !t.num_nodes);
        }
    }
    const int32_t bad[] = {0, -2};
    fa_tree t = room(MOST);
    FA_EXPECT(fa_tree_from_paths(bad, 1, 2, &t, &e) == FA_ERR_TREE_SHAPE && e.index == 1);
    FA_EXPECT(fa_tree_from_paths(NULL, 1, 2, &t, &e) == FA_ERR_TREE_SHAPE);
    FA_EXPECT(fa_tree_from_paths(bad, -1, 2, &t, &e) == FA_ERR_TREE_SHAPE);
    FA_EXPECT(fa_tree_from_paths(bad, 1, 1, NULL, &e) == FA_ERR_ARGS_NULL);
    t.rank = NULL, t.token = NULL;
    FA_EXPECT(fa_tree_from_paths(bad, 1, 1, &t, &e) == FA_OK && t.num_nodes == 2);
    FA_EXPECT(fa_tree_from_paths(NULL, 0, 0, &t, &e) == FA_OK && t.num_nodes == 1);
    t.capacity = 0;
    FA_EXPECT(fa_tree_from_paths(bad, 1, 1, &t, &e) == FA_ERR_TREE_CAPACITY);
}

FA_TEST(expansion) {
    static const int32_t width[][5] = {
        {1, 1, 3, 1, 1}, {4, 2, 1, 3, 2}, {2, 2, 2, 2, 2}, {1, 1, 1, 1, 1}, {5, 4, 3, 2, 1}};
    for (int n = 0; n < 5; n++)
        for (int depth = 0; depth <= 5; depth++) {
            int total = 1, level = 1;
            for (int d = 0; d < depth; d++) level *= width[n][d], total += level;
            fa_tree t = room(total);
            FA_REQUIRE(fa_tree_expand(width[n], depth, &t, NULL) == FA_OK && t.num_nodes == total &&
                       is_tree(&t));
            for (int i = 0; i < total; i++) {
                const int d = depth_of(t.parent, i);
                int children = 0;
                for (int k = 0; k < total; k++)
                    if (t.parent[k] == i) FA_EXPECT(t.rank[k] == children), children++;
                FA_EXPECT(children == (d < depth ? width[n][d] : 0));
            }
            t.capacity--, t.num_nodes = -7;
            FA_EXPECT(fa_tree_expand(width[n], depth, &t, NULL) == FA_ERR_TREE_CAPACITY && t.num_nodes == -7);
        }
    const int32_t bad[] = {2, 0}, wide[] = {1024, 1024, 1024, 1024};
    fa_tree t = room(MOST);
    FA_EXPECT(fa_tree_expand(bad, 2, &t, NULL) == FA_ERR_TREE_SHAPE);
    FA_EXPECT(fa_tree_expand(wide, 4, &t, NULL) == FA_ERR_TREE_CAPACITY);
    FA_EXPECT(fa_tree_expand(NULL, 2, &t, NULL) == FA_ERR_TREE_SHAPE);
    FA_EXPECT(fa_tree_expand(bad, -1, &t, NULL) == FA_ERR_TREE_SHAPE);
    FA_EXPECT(fa_tree_expand(bad, MOST, &t, NULL) == FA_ERR_TREE_SHAPE);
}

FA_TEST(fill) {
    static const int32_t paths[][2] = {{0, -1}, {1, -1}, {0, 2}, {1, 0}},
                         candidate[2][4] = {{10, 11, 12, 13}, {20, 21, 22, 23}};
    int32_t tokens[5] = {0};
    fa_error e;
    fa_tree t = room(5);
    FA_REQUIRE(fa_tree_from_paths(&paths[0][0], 4, 2, &t, NULL) == FA_OK);
    FA_REQUIRE(fa_tree_fill(&t, 7, &candidate[0][0], 2, 4, tokens, NULL) == FA_OK);
    FA_EXPECT(tokens[0] == 7 && tokens[1] == 10 && tokens[2] == 11 && tokens[3] == 22 && tokens[4] == 20);
    FA_EXPECT(fa_tree_fill(&t, 7, &candidate[0][0], 1, 4, tokens, &e) == FA_ERR_TREE_RANK &&
              !strcmp(e.field, "levels"));
    FA_EXPECT(fa_tree_fill(&t, 7, &candidate[0][0], 2, 2, tokens, &e) == FA_ERR_TREE_RANK && e.index == 3);
    FA_EXPECT(fa_tree_fill(&t, 7, NULL, 2, 4, tokens, &e) == FA_ERR_TREE_RANK);
    t.rank = NULL;
    FA_EXPECT(fa_tree_fill(&t, 7, &candidate[0][0], 2, 4, tokens, &e) == FA_ERR_TREE_RANK);
    FA_EXPECT(fa_tree_fill(NULL, 7, &candidate[0][0], 2, 4, tokens, &e) == FA_ERR_ARGS_NULL);
}

/* Published accuracies of the heads of Medusa (assets/medusa_acc.csv), top 1 .. 5, and values of the best
 * trees. */
static const double MEDUSA[3][5][5] = {{{.560388, .671720, .727137, .759940, .779945},
                                        {.316352, .423583, .485089, .528206, .562500},
                                        {.201044, .287898, .347540, .383449, .416874},
                                        {.147366, .225025, .273733, .310885, .339712},
                                        {.117545, .186630, .234592, .272117, .299826}},
                                       {{.593936, .705268, .757828, .792495, .816103},
                                        {.339712, .439985, .506834, .546471, .580268},
                                        {.216079, .308524, .361208, .402957, .436382},
                                        {.149975, .231735, .287773, .323434, .354125},
                                        {.122266, .195701, .243415, .279076, .307033}},
                                       {{.604585, .716190, .764884, .798294, .822285},
                                        {.355785, .468989, .528701, .569220, .596055},
                                        {.224631, .319709, .378532, .421006, .446241},
                                        {.159588, .248800, .307269, .347965, .375511},
                                        {.137018, .206682, .262129, .298383, .325751}}};

static double value_of(const fa_tree *t, const double *p,
                       int stride) { /* p: increments; stride 0: of every level */
    double sum = 0, value[MOST];
    for (int i = 0; i < t->num_nodes; i++) {
        value[i] = i ? value[t->parent[i]] * p[(depth_of(t->parent, i) - 1) * stride + t->rank[i]] : 1;
        sum += value[i];
    }
    return sum;
}

FA_TEST(greedy_medusa_table) {
    static const double want[3][6] = {{2.035, 2.211, 2.317, 2.384, 2.428, 2.454},
                                      {2.102, 2.292, 2.408, 2.481, 2.530, 2.559},
                                      {2.136, 2.324, 2.446, 2.522, 2.574, 2.605}};
    static const double chain[3] = {1.779, 1.846, 1.876};
    for (int model = 0; model < 3; model++) {
        double increments[5][5], whole[MOST];
        int32_t before[MOST];
        for (int h = 0; h < 5; h++)
            for (int r = 0; r < 5; r++)
                increments[h][r] = MEDUSA[model][h][r] - (r ? MEDUSA[model][h][r - 1] : 0);
        for (int n = 255, i = 5; i >= 0; n /= 2, i--) {
            double value = 0;
            fa_tree t = room(n + 1);
            FA_REQUIRE(fa_tree_greedy(&MEDUSA[model][0][0], 5, 5, &t, &value, NULL) == FA_OK);
            FA_EXPECT(t.num_nodes == n + 1 && is_tree(&t));
            FA_EXPECT_NEAR(value, want[model][i], 5.1e-4);
            FA_EXPECT_NEAR(value, value_of(&t, &increments[0][0], 5), 1e-12);
            if (n == 255)
                memcpy(before, t.parent, sizeof before), memcpy(whole, t.rank, sizeof(int32_t) * 256);
            FA_EXPECT(!memcmp(before, t.parent,
                              sizeof(int32_t) * (size_t)(n + 1))); /* the first nodes of the larger one */
            FA_EXPECT(!memcmp(whole, t.rank, sizeof(int32_t) * (size_t)(n + 1)));
        }
        double value = 0, first[4]; /* one rank a head: chains */
        for (int h = 0; h < 4; h++) first[h] = MEDUSA[model][h][0];
        fa_tree t = room(64);
        FA_REQUIRE(fa_tree_greedy(first, 4, 1, &t, &value, NULL) == FA_OK && t.num_nodes == 5);
        FA_EXPECT_NEAR(value, chain[model], 5.1e-4);
    }
}

/* Against all sets of nodes that hold their parents. */
FA_TEST(greedy_brute_force) {
    enum { HEADS = 3, RANKS = 2, ALL = 2 + 4 + 8 };
    int32_t parent[ALL + 1] = {-1}, rank[ALL + 1] = {0}, level[ALL + 1] = {0};
    uint64_t rng = fat_seed;
    for (int i = 1; i <= ALL; i++)
        parent[i] = (i - 1) / 2, rank[i] = (i - 1) % 2, level[i] = level[(i - 1) / 2] + 1;
    for (int round = 0; round < 20; round++) {
        double p[HEADS][RANKS], accuracy[HEADS][RANKS], best[ALL + 2] = {0};
        for (int h = 0; h < HEADS; h++)
            for (int r = 0; r < RANKS; r++) { /* the second guess may be the better one, or worth nothing */
                p[h][r] = round == 0 ? 0.25 : (r && fat_below(&rng, 5) == 0 ? 0 : fat_uniform(&rng) / 2);
                accuracy[h][r] = p[h][r] + (r ? accuracy[h][0] : 0);
            }
        for (uint32_t set = 0; set < 1u << ALL; set++) {
            double value[ALL + 1] = {1}, sum = 1;
            int n = 1, closed = 1;
            for (int i = 1; i <= ALL && closed; i++) {
                if (!(set >> (i - 1) & 1)) continue;
                closed = parent[i] == 0 || (set >> (parent[i] - 1) & 1);
                value[i] = value[parent[i]] * p[level[i] - 1][rank[i]], sum += value[i], n++;
            }
            if (closed && sum > best[n]) best[n] = sum;
        }
        for (int n = 1; n <= ALL + 1; n++) {
            double value = 0;
            fa_tree t = room(n + (n == ALL + 1 ? 9 : 0)); /* more room than nodes */
            FA_REQUIRE(fa_tree_greedy(&accuracy[0][0], HEADS, RANKS, &t, &value, NULL) == FA_OK &&
                       t.num_nodes == n);
            FA_EXPECT(is_tree(&t));
            FA_EXPECT_NEAR(value, best[n], 1e-12);
            FA_EXPECT_NEAR(value, value_of(&t, &p[0][0], RANKS), 1e-12);
        }
    }
    const double even[4] = {0.5, 1, 0.5, 1}; /* all equal: in the order in which they could be added */
    const int32_t parents[7] = {-1, 0, 0, 1, 2, 1, 2}, ranks[7] = {0, 0, 1, 0, 0, 1, 1};
    double bad[2] = {0.5, NAN};
    fa_error e;
    fa_tree t = room(7);
    FA_EXPECT(fa_tree_greedy(even, 2, 2, &t, NULL, &e) == FA_OK &&
              !memcmp(parent_of, parents, sizeof parents));
    FA_EXPECT(!memcmp(rank_of, ranks, sizeof ranks));
    t = room(8);
    FA_EXPECT(fa_tree_greedy(bad, 1, 2, &t, NULL, &e) == FA_ERR_PROBABILITY && e.index == 1);
    FA_EXPECT(fa_tree_greedy(NULL, 1, 2, &t, NULL, &e) == FA_ERR_TREE_SHAPE);
    FA_EXPECT(fa_tree_greedy(bad, 0, 2, &t, NULL, &e) == FA_ERR_TREE_SHAPE);
    FA_EXPECT(fa_tree_greedy(bad, 1, 0, &t, NULL, &e) == FA_ERR_TREE_SHAPE);
}

/* ---- merged trees ------------------------------------------------------------------------ */

/* The node of the tree with the tokens of that path; -1. */
static int find_path(const int32_t *parent, const int32_t *token, int n, const int32_t *path, int length) {
    int node = 0;
    for (int d = 0; d < length; d++) {
        int next = -1;
        for (int i = 1; i < n; i++)
            if (parent[i] == node && token[i] == path[d]) next = i;
        if (next < 0) return -1;
        node = next;
    }
    return node;
}

FA_TEST(merge) {
    static forest f;
    static uint64_t source[MOST];
    static int32_t node[4 * MOST];
    uint64_t rng = fat_seed;
    fa_error e;
    for (int round = 0; round < 400; round++) {
        const int drafts = 1 + fat_below(&rng, 4), nodes = 1 + fat_below(&rng, 12);
        int32_t path[16], seen[MOST] = {0};
        fa_tree t = room(MOST);
        make_forest(&f, drafts, nodes, round % 2, &rng);
        for (int i = 0; i < f.indptr[drafts]; i++) f.token[i] = f.parent[i] < 0 ? 3 : fat_below(&rng, 3);
        memset(source, 0, sizeof source);
        FA_REQUIRE(fa_tree_merge(&f.t, &t, source, node, NULL) == FA_OK && is_tree(&t) && t.token[0] == 3);
        for (int d = 0; d < drafts; d++) { /* each node of a draft is where its path is, and marked */
            const int64_t at = fa_tree_begin(&f.t, d);
            for (int i = 0; i < fa_tree_count(&f.t, d); i++) {
                const int depth = depth_of(f.parent + at, i), to = node[at + i];
                path_to(f.parent + at, f.token + at, i, depth, path);
                FA_EXPECT(to == find_path(t.parent, t.token, t.num_nodes, path, depth));
                FA_EXPECT(to >= 0 && (source[to] >> d & 1));
                if (to >= 0) seen[to] |= 1 << d;
            }
        }
        for (int i = 0; i < t.num_nodes; i++) { /* nothing else is there, nothing twice */
            FA_EXPECT(seen[i] && source[i] == (uint64_t)seen[i]);
            for (int k = 0; k < i; k++) FA_EXPECT(t.parent[k] != t.parent[i] || t.token[k] != t.token[i]);
            FA_EXPECT(i == 0 || depth_of(t.parent, i - 1) <= depth_of(t.parent, i));
        }
        const int32_t count = t.num_nodes;
        t = room(count), t.num_nodes = -1;
        FA_EXPECT(fa_tree_merge(&f.t, &t, NULL, NULL, NULL) == FA_OK);
        t.capacity = count - 1, t.num_nodes = -1;
        if (count > 1)
            FA_EXPECT(fa_tree_merge(&f.t, &t, NULL, NULL, &e) == FA_ERR_TREE_CAPACITY && t.num_nodes == -1);
    }
    fa_tree t = room(MOST);
    make_forest(&f, 2, 3, 0, &rng);
    f.token[0] = 1, f.token[3] = 2;
    FA_EXPECT(fa_tree_merge(&f.t, &t, NULL, NULL, &e) == FA_ERR_TREE_MERGE && e.index == 3);
    FA_EXPECT(fa_tree_merge(NULL, &t, NULL, NULL, &e) == FA_ERR_ARGS_NULL);
    FA_EXPECT(fa_tree_merge(&f.t, NULL, NULL, NULL, &e) == FA_ERR_ARGS_NULL);
    f.t.batch = 65, f.t.num_nodes = 1;
    for (int i = 0; i < 65; i++) f.parent[i] = -1, f.token[i] = 1;
    FA_EXPECT(fa_tree_merge(&f.t, &t, NULL, NULL, &e) == FA_ERR_TREE_MERGE);
    f.t.batch = 64, f.t.num_nodes = 2;
    for (int d = 0; d < 64; d++)
        f.parent[2 * d] = -1, f.parent[2 * d + 1] = 0, f.token[2 * d] = 7, f.token[2 * d + 1] = 63 - d;
    FA_EXPECT(fa_tree_merge(&f.t, &t, source, NULL, &e) == FA_OK && t.num_nodes == 65 &&
              source[0] == ~(uint64_t)0);
    for (int d = 0; d < 64; d++) FA_EXPECT(source[1 + d] == (uint64_t)1 << d && t.token[1 + d] == 63 - d);
    f.t.token = NULL;
    FA_EXPECT(fa_tree_merge(&f.t, &t, NULL, NULL, &e) == FA_ERR_TREE_TOKEN);
}

/* ---- dynamic trees ----------------------------------------------------------------------- */

/* In `list` (n), the index of the best by score that is not used; ties: the first. */
static int best_of(const float *score, const int *used, int from, int to) {
    int best = -1;
    for (int i = from; i < to; i++)
        if (!used[i] && score[i] > -INFINITY && (best < 0 || score[i] > score[best])) best = i;
    return best;
}

FA_TEST(dynamic) {
    enum { ROOM = 2000 };
    static int32_t parent[ROOM], token[ROOM], beam[MOST], tokens[MOST], candidate[MOST];
    static float score[ROOM], logprob[MOST];
    uint64_t rng = fat_seed;
    for (int round = 0; round < 200; round++) {
        const int k = 1 + fat_below(&rng, 8), width = 1 + fat_below(&rng, 8), levels = 1 + fat_below(&rng, 5);
        const int nodes = 1 + fat_below(&rng, 60), coarse = round % 3 == 0;
        fa_dynamic d = {1 + k + (levels - 1) * width * k, 0, 0, parent, token, score};
        static int used[ROOM];
        int32_t n = 0;
        memset(parent, 0xee, sizeof parent);
        FA_REQUIRE(fa_dynamic_begin(&d, 99, NULL) == FA_OK);
        for (int level = 0; level < levels; level++) {
            memset(used, 0, sizeof used);
            FA_REQUIRE(fa_dynamic_beam(&d, width, beam, &n, NULL) == FA_OK && n <= width);
            for (int i = 0; i < width; i++) { /* the same, one after the other */
                const int best = best_of(d.score, used, d.level, d.count);
                FA_REQUIRE(i < n ? beam[i] == best : best < 0);
                if (best >= 0) used[best] = 1;
            }
            for (int i = 0; i < n * k; i++) {
                tokens[i] = 100 * level + i;
                logprob[i] = coarse ? -(float)fat_below(&rng, 3) : (float)(-4 * fat_uniform(&rng));
                if (fat_below(&rng, 40) == 0)
                    logprob[i] = fat_below(&rng, 2) ? NAN : 0.5f; /* what no draft should say */
                if (fat_below(&rng, 40) == 0) logprob[i] = -INFINITY;
            }
            if (n == 0) break;
            FA_REQUIRE(fa_dynamic_grow(&d, beam, n, tokens, logprob, k, NULL) == FA_OK);
        }
        for (int i = 1; i < d.count; i++) FA_EXPECT(d.score[i] <= d.score[d.parent[i]]);
        fa_tree t = room(nodes);
        FA_REQUIRE(fa_dynamic_finish(&d, nodes, &t, candidate, NULL) == FA_OK);
        FA_EXPECT(is_tree(&t) && candidate[0] == 0 && t.token[0] == 99);
        memset(used, 0, sizeof used);
        int want = 1;
        for (int i = 1; i < nodes; i++) {
            const int best = best_of(d.score, used, 1, d.count);
            if (best >= 0) used[best] = 1, want++;
        }
        FA_EXPECT(t.num_nodes == want);
        for (int i = 1; i < t.num_nodes; i++) {
            int rank = 0;
            for (int s = 1; s < i; s++) rank += t.parent[s] == t.parent[i];
            FA_EXPECT(used[candidate[i]] && candidate[i] > candidate[i - 1] && t.rank[i] == rank);
            FA_EXPECT(t.token[i] == d.token[candidate[i]] &&
                      candidate[t.parent[i]] == d.parent[candidate[i]]);
        }
    }
}

FA_TEST(dynamic_refusals) {
    int32_t parent[8], token[8], beam[4] = {0}, tokens[8] = {0}, n;
    float score[8], logprob[8] = {0};
    fa_error e;
    fa_dynamic d = {8, 0, 0, parent, token, score};
    fa_tree t = room(4);
    FA_EXPECT(fa_dynamic_beam(&d, 2, beam, &n, &e) == FA_ERR_DYNAMIC && !strcmp(e.field, "count"));
    FA_EXPECT(fa_dynamic_begin(&d, 1, &e) == FA_OK);
    FA_EXPECT(fa_dynamic_grow(&d, beam, 1, tokens, logprob, 8, &e) == FA_ERR_DYNAMIC && d.count == 1);
    FA_EXPECT(fa_dynamic_grow(&d, beam, 1, tokens, logprob, 3, &e) == FA_OK && d.count == 4 && d.level == 1);
    FA_EXPECT(fa_dynamic_grow(&d, beam, 1, tokens, logprob, 3, &e) == FA_ERR_DYNAMIC &&
              e.index == 0); /* the root again */
    beam[0] = 4;
    FA_EXPECT(fa_dynamic_grow(&d, beam, 1, tokens, logprob, 3, &e) == FA_ERR_DYNAMIC && e.got == 4);
    FA_EXPECT(fa_dynamic_grow(&d, beam, 1, NULL, logprob, 3, &e) == FA_ERR_DYNAMIC);
    FA_EXPECT(fa_dynamic_beam(&d, 0, beam, &n, &e) == FA_ERR_DYNAMIC);
    FA_EXPECT(fa_dynamic_beam(&d, 2, NULL, &n, &e) == FA_ERR_TREE_OUTPUT);
    FA_EXPECT(fa_dynamic_finish(&d, 5, &t, NULL, &e) == FA_ERR_TREE_CAPACITY);
    FA_EXPECT(fa_dynamic_finish(&d, 0, &t, NULL, &e) == FA_ERR_TREE_CAPACITY);
    FA_EXPECT(fa_dynamic_finish(&d, 4, &t, NULL, &e) == FA_OK && t.num_nodes == 4);
    FA_EXPECT(fa_dynamic_begin(NULL, 1, &e) == FA_ERR_ARGS_NULL);
    d.score = NULL;
    FA_EXPECT(fa_dynamic_begin(&d, 1, &e) == FA_ERR_DYNAMIC && !strcmp(e.field, "score"));
}

/* ---- Sequoia ----------------------------------------------------------------------------- */

/* The acceptance vector that Sequoia ships for its demonstration. */
static const double DEMO[32] = {.63418, .10795, .05697, .02249, .01949, .01499, .0045, .003,
                                .01199, .0045,  .0075,  .0045,  .006,   .003,   .0015, .003,
                                .0015,  .003,   0,      .003,   .003,   .003,   0,     .0015,
                                0,      .0015,  0,      0,      0,      .0015,  .0015, .0015};

static fa_sequoia_args sequoia(const double *p, int ranks, int nodes, int depth, int branch) {
    fa_sequoia_args a;
    memset(&a, 0, sizeof a);
    a.acceptance = p, a.ranks = ranks, a.max_nodes = nodes, a.max_depth = depth, a.max_branch = branch;
    return a;
}

FA_TEST(sequoia_table) {
    /* depth: edges, so one less than the levels of nodes that the table counts */
    static const double want[3][7] = {{1.634, 2.291, 2.732, 3.130, 3.501, 3.855, 4.178},
                                      {1.634, 2.291, 2.732, 3.130, 3.501, 3.852, 4.168},
                                      {1.634, 2.291, 2.732, 3.088, 3.412, 3.698, 3.911}};
    static const double chain[7] = {1.634, 2.291, 2.662, 2.732, 2.734, 2.734, 2.734};
    static const int depth[3] = {11, 9, 5};
    const fa_sequoia_args a = sequoia(DEMO, 32, 128, 11, 8);
    const size_t bytes = fa_sequoia_workspace(&a);
    void *workspace = malloc(bytes);
    FA_REQUIRE(fa_sequoia(&a, workspace, bytes) == FA_OK);
    for (int i = 0; i < 7; i++)
        for (int n = 2 << i, row = 0; row < 3; row++) {
            const double value = fa_sequoia_value(&a, workspace, n, depth[row]);
            fa_tree t = room(n);
            FA_EXPECT_NEAR(value, want[row][i], 5.1e-4);
            FA_REQUIRE(fa_sequoia_tree(&a, workspace, bytes, n, depth[row], &t) == FA_OK &&
                       t.num_nodes == n && is_tree(&t));
            FA_EXPECT_NEAR(value_of(&t, DEMO, 0), value, 1e-12);
            for (int k = 0; k < n; k++) FA_EXPECT(depth_of(t.parent, k) <= depth[row] && t.rank[k] < 8);
        }
    free(workspace);
    const fa_sequoia_args c = sequoia(DEMO, 1, 128, 127, 0);
    const size_t more = fa_sequoia_workspace(&c);
    workspace = malloc(more);
    FA_REQUIRE(fa_sequoia(&c, workspace, more) == FA_OK);
    for (int i = 0; i < 7; i++)
        FA_EXPECT_NEAR(fa_sequoia_value(&c, workspace, 2 << i, 127), chain[i], 5.1e-4);
    free(workspace);
}

/* Against all ordered trees of up to 9 nodes: sequences of depths in preorder. */
FA_TEST(sequoia_brute_force) {
    enum { N = 9, RANKS = 5 };
    static char workspace[1 << 14];
    uint64_t rng = fat_seed;
    for (int round = 0; round < 25; round++) {
        double p[RANKS], best[N + 1][N + 1][N + 1]; /* nodes, depth, branches */
        memset(best, 0, sizeof best);
        for (int r = 0; r < RANKS; r++) p[r] = fat_below(&rng, 6) ? fat_uniform(&rng) : 0; /* in no order */
        for (int n = 1; n <= N; n++) {
            int depth[N] = {0};
            for (int i = 1; i < n; i++) depth[i] = 1;
            for (;;) {
                double value[N] = {1}, sum = 1;
                int children[N] = {0}, last[N + 1] = {0}, deepest = 0, widest = 0;
                for (int i = 1; i < n; i++) {
                    const int parent = last[depth[i] - 1], rank = children[parent]++;
                    last[depth[i]] = i, deepest = depth[i] > deepest ? depth[i] : deepest;
                    widest = rank + 1 > widest ? rank + 1 : widest;
                    value[i] = rank < RANKS ? value[parent] * p[rank] : 0, sum += value[i];
                }
                for (int d = deepest; d <= N && widest <= RANKS; d++)
                    for (int b = widest; b <= N; b++)
                        if (sum > best[n][d][b]) best[n][d][b] = sum;
                int at = n - 1;
                while (at > 0 && depth[at] > depth[at - 1]) at--;
                if (at <= 0) break;
                depth[at]++;
                for (int i = at + 1; i < n; i++) depth[i] = 1;
            }
        }
        for (int b = 1; b <= RANKS; b++) {
            const fa_sequoia_args a = sequoia(p, RANKS, N, N - 1, b);
            FA_REQUIRE(fa_sequoia_workspace(&a) <= sizeof workspace);
            FA_REQUIRE(fa_sequoia(&a, workspace, sizeof workspace) == FA_OK);
            for (int n = 1; n <= N; n++)
                for (int d = 0; d < N; d++) {
                    const double value = fa_sequoia_value(&a, workspace, n, d);
                    fa_tree t = room(n);
                    int deepest = 0;
                    FA_EXPECT_NEAR(value, best[n][d][b], 1e-12);
                    FA_REQUIRE(fa_sequoia_tree(&a, workspace, sizeof workspace, n, d, &t) == FA_OK &&
                               is_tree(&t));
                    for (int i = 0; i < t.num_nodes; i++)
                        deepest = depth_of(t.parent, i) > deepest ? depth_of(t.parent, i) : deepest;
                    FA_EXPECT(deepest <= d && (value > 0) == (t.num_nodes == n));
                    if (value > 0) FA_EXPECT_NEAR(value_of(&t, p, 0), value, 1e-12);
                }
        }
    }
}

FA_TEST(sequoia_refusals) {
    static char workspace[1 << 14];
    double p[2] = {0.5, 0.2};
    fa_error e;
    fa_tree t = room(8);
#define BAD(change, code) \
    { \
        fa_sequoia_args a = sequoia(p, 2, 8, 4, 0); \
        a.error = &e; \
        { change; } \
        FA_EXPECT_MSG(fa_sequoia(&a, workspace, sizeof workspace) == (code), "%s", #change); \
        FA_EXPECT(fa_sequoia_workspace(&a) == 0); \
    }
    BAD(a.max_nodes = 0, FA_ERR_TREE_SHAPE)
    BAD(a.max_nodes = MOST + 1, FA_ERR_TREE_SHAPE)
    BAD(a.max_depth = 0, FA_ERR_TREE_SHAPE)
    BAD(a.max_branch = -1, FA_ERR_TREE_SHAPE)
    BAD(a.ranks = 0, FA_ERR_TREE_SHAPE)
    BAD(a.acceptance = NULL, FA_ERR_TREE_SHAPE)
    BAD(p[1] = 1.5, FA_ERR_PROBABILITY)
    BAD(p[1] = NAN, FA_ERR_PROBABILITY)
    BAD(a.first_canary = 1, FA_ERR_NOT_ZEROED)
#undef BAD
    p[1] = 0.2;
    fa_sequoia_args a = sequoia(p, 2, 8, 4, 0);
    const size_t bytes = fa_sequoia_workspace(&a);
    a.error = &e;
    FA_EXPECT(bytes > 0 && fa_sequoia(&a, workspace, bytes - 1) == FA_ERR_WORKSPACE_SIZE);
    FA_EXPECT(fa_sequoia(&a, NULL, bytes) == FA_ERR_WORKSPACE_NULL);
    FA_EXPECT(fa_sequoia(NULL, workspace, bytes) == FA_ERR_ARGS_NULL);
    FA_EXPECT(fa_sequoia(&a, workspace, bytes) == FA_OK);
    FA_EXPECT(fa_sequoia_tree(&a, workspace, bytes, 9, 4, &t) == FA_ERR_TREE_SHAPE);
    FA_EXPECT(fa_sequoia_tree(&a, workspace, bytes, 8, 5, &t) == FA_ERR_TREE_SHAPE);
    FA_EXPECT(fa_sequoia_tree(&a, workspace, bytes, 8, 4, NULL) == FA_ERR_ARGS_NULL);
    t.capacity = 7;
    FA_EXPECT(fa_sequoia_tree(&a, workspace, bytes, 8, 4, &t) == FA_ERR_TREE_CAPACITY);
    FA_EXPECT(fa_sequoia_value(&a, workspace, 9, 4) == 0 && fa_sequoia_value(&a, NULL, 1, 0) == 0);
}

/* ---- n-grams ----------------------------------------------------------------------------- */

static fa_ngram_args ngram(const int32_t *tokens, int count, int depth, int matches) {
    fa_ngram_args a;
    memset(&a, 0, sizeof a);
    a.tokens = tokens, a.num_tokens = count, a.max_depth = depth, a.max_matches = matches;
    return a;
}

FA_TEST(prompt_lookup) {
    static const int32_t text[] = {1, 2, 3, 4, 5, 2, 3, 9, 9, 1, 2, 3}, again[] = {7, 8, 7, 8, 7};
    int32_t longest = -1;
    fa_ngram_args a = ngram(text, 12, 4, 1);
    fa_tree t = room(16);
    FA_REQUIRE(fa_ngram(&a, &t, &longest) == FA_OK);
    /* 1 2 3 at the beginning is longer than 2 3 later */
    FA_EXPECT(longest == 3 && t.num_nodes == 5 && t.token[0] == 3 && t.token[1] == 4 && t.token[2] == 5 &&
              t.token[3] == 2);
    a.max_match = 2; /* now the later one is as long */
    FA_REQUIRE(fa_ngram(&a, &t, &longest) == FA_OK);
    FA_EXPECT(longest == 2 && t.token[1] == 9 && t.token[2] == 9 && t.token[3] == 1 && t.token[4] == 2);
    a.max_matches = 2; /* both: 3 -> 9 9 1 2 and 3 -> 4 5 2 3 */
    FA_REQUIRE(fa_ngram(&a, &t, &longest) == FA_OK);
    FA_EXPECT(t.num_nodes == 9 && t.parent[1] == 0 && t.parent[2] == 0 && t.token[1] == 9 && t.token[2] == 4);
    a = ngram(again, 5, 6, 1); /* goes on past the end */
    FA_REQUIRE(fa_ngram(&a, &t, &longest) == FA_OK);
    FA_EXPECT(longest == 3 && t.num_nodes == 7);
    for (int i = 1; i < 7; i++) FA_EXPECT(t.parent[i] == i - 1 && t.token[i] == (i % 2 ? 8 : 7));
    t.capacity = 4;
    FA_EXPECT(fa_ngram(&a, &t, &longest) == FA_OK && t.num_nodes == 4);
    a = ngram(text, 8, 4, 1); /* 9 is new */
    FA_EXPECT(fa_ngram(&a, &t, &longest) == FA_OK && longest == 0 && t.num_nodes == 1 && t.token[0] == 9);
    a.num_tokens = 1;
    FA_EXPECT(fa_ngram(&a, &t, NULL) == FA_OK && t.num_nodes == 1);
}

FA_TEST(prompt_lookup_random) {
    uint64_t rng = fat_seed;
    for (int round = 0; round < 500; round++) {
        int32_t text[60 + 8], longest;
        const int count = 1 + fat_below(&rng, 60), depth = 1 + fat_below(&rng, 8),
                  matches = fat_below(&rng, 5);
        for (int i = 0; i < count; i++) text[i] = fat_below(&rng, 4);
        fa_ngram_args a = ngram(text, count, depth, matches);
        fa_tree t = room(MOST);
        if (round % 2) a.max_match = 1 + fat_below(&rng, 5), a.min_match = 1 + fat_below(&rng, a.max_match);
        FA_REQUIRE(fa_ngram(&a, &t, &longest) == FA_OK && is_tree(&t) && t.token[0] == text[count - 1]);
        const int most = a.max_match ? a.max_match : 8, least = a.min_match ? a.min_match : 1;
        int reached[MOST] = {1}, used[64] = {0}, nodes = 1;
        for (int m = 0; m < (matches ? matches : 1); m++) {
            int best = -1, best_length = 0;
            for (int end = 0; end < count - 1; end++) {
                int length = 0;
                while (length < most && length <= end && text[end - length] == text[count - 1 - length])
                    length++;
                if (!used[end] && length >= least && length >= best_length) best = end, best_length = length;
            }
            if (m == 0) FA_EXPECT(longest == best_length);
            if (best < 0) break;
            used[best] = 1;
            int node = 0;
            for (int d = 0; d < depth; d++) { /* the text grows by what is drafted */
                int next = -1;
                text[count + d] = text[best + 1 + d];
                for (int i = 1; i < t.num_nodes; i++)
                    if (t.parent[i] == node && t.token[i] == text[count + d]) next = i;
                FA_REQUIRE(next > 0);
                nodes += !reached[next], reached[next] = 1, node = next;
            }
        }
        FA_EXPECT(nodes == t.num_nodes);
    }
    const int32_t text[] = {1};
    fa_error e;
    fa_tree t = room(4);
#define BAD(change) \
    { \
        fa_ngram_args a = ngram(text, 1, 1, 1); \
        a.error = &e; \
        { change; } \
        FA_EXPECT_MSG(fa_ngram(&a, &t, NULL) == FA_ERR_NGRAM && e.status == FA_ERR_NGRAM, "%s", #change); \
    }
    BAD(a.tokens = NULL)
    BAD(a.num_tokens = 0)
    BAD(a.min_match = 9)
    BAD(a.max_match = -1)
    BAD(a.max_depth = 0)
    BAD(a.max_matches = 65)
    FA_EXPECT(fa_ngram(NULL, &t, NULL) == FA_ERR_ARGS_NULL);
    fa_ngram_args a = ngram(text, 1, 1, 1);
    FA_EXPECT(fa_ngram(&a, NULL, NULL) == FA_ERR_ARGS_NULL);
    a.last_canary = 3;
    FA_EXPECT(fa_ngram(&a, &t, NULL) == FA_ERR_NOT_ZEROED);
#undef BAD
}

/* The model: of each key the list of continuations, most recent first. */
FA_TEST(pool) {
    enum { LENGTH = 2, GUESSES = 3, KEYS = 6, TEXT = 400 };
    static int32_t memory[16 * (3 + GUESSES * LENGTH)];
    int32_t list[KEYS][GUESSES][LENGTH], count[KEYS] = {0}, text[TEXT];
    uint64_t rng = fat_seed;
    fa_pool p = {16, GUESSES, LENGTH, 0, memory};
    FA_REQUIRE(fa_pool_bytes(&p) == sizeof memory);
    memset(memory, 0, sizeof memory);
    for (int round = 0; round < 100; round++) {
        const int n = fat_below(&rng, 8);
        for (int i = 0; i < n; i++) text[i] = fat_below(&rng, KEYS);
        FA_REQUIRE(fa_pool_insert(&p, text, n, NULL) == FA_OK);
        for (int i = 0; i + LENGTH < n; i++) {
            const int key = text[i];
            int at = 0;
            while (at < count[key] && memcmp(list[key][at], text + i + 1, sizeof list[key][at])) at++;
            if (at == count[key] && at < GUESSES) count[key]++;
            if (at == GUESSES) at--;
            for (; at > 0; at--) memcpy(list[key][at], list[key][at - 1], sizeof list[key][at]);
            memcpy(list[key][0], text + i + 1, sizeof list[key][0]);
        }
        for (int key = 0; key < KEYS; key++) {
            int nodes = 1, reached[MOST] = {1}, before = 0;
            fa_tree t = room(MOST);
            FA_REQUIRE(fa_pool_tree(&p, key, &t, NULL) == FA_OK && is_tree(&t) && t.token[0] == key);
            for (int g = 0; g < count[key]; g++) {
                const int node = find_path(t.parent, t.token, t.num_nodes, list[key][g], LENGTH);
                FA_REQUIRE(node > 0);
                for (int at = node; at; at = t.parent[at]) nodes += !reached[at], reached[at] = 1;
                int first = node;
                while (t.parent[first]) first = t.parent[first];
                FA_EXPECT(first >= 1 && (g || first == 1) && (before = first) > 0);
            }
            FA_EXPECT(nodes == t.num_nodes);
        }
    }
    /* more keys than room: memory stays within its bounds, the last key is always there, older ones go */
    int32_t gone = 0;
    for (int i = 0; i < TEXT; i++) text[i] = 1000 + i;
    FA_REQUIRE(fa_pool_insert(&p, text, TEXT, NULL) == FA_OK);
    for (int i = 0; i + LENGTH < TEXT; i++) {
        fa_tree t = room(MOST);
        FA_REQUIRE(fa_pool_tree(&p, 1000 + i, &t, NULL) == FA_OK);
        FA_EXPECT(t.num_nodes == 1 || (t.num_nodes == 3 && t.token[1] == 1001 + i && t.token[2] == 1002 + i));
        gone += t.num_nodes == 1;
        if (i + LENGTH + 1 == TEXT) FA_EXPECT(t.num_nodes == 3);
    }
    FA_EXPECT_MSG(gone == TEXT - LENGTH - 16, "%d", gone); /* both buckets are full of the last ones */
    fa_error e;
    fa_tree t = room(2);
    FA_EXPECT(fa_pool_tree(&p, text[TEXT - 3], &t, &e) == FA_OK && t.num_nodes == 2);
#define BAD(change) \
    { \
        fa_pool x = {16, GUESSES, LENGTH, 0, memory}; \
        { change; } \
        FA_EXPECT_MSG(fa_pool_insert(&x, text, 9, &e) == FA_ERR_POOL && e.status == FA_ERR_POOL, "%s", \
                      #change); \
        if (x.memory) FA_EXPECT(fa_pool_bytes(&x) == 0 && fa_pool_tree(&x, 1, &t, &e) == FA_ERR_POOL); \
    }
    BAD(x.keys = 0)
    BAD(x.keys = 12)
    BAD(x.guesses = 0)
    BAD(x.length = MOST)
    BAD(x.memory = NULL)
#undef BAD
    FA_EXPECT(fa_pool_insert(&p, NULL, 9, &e) == FA_ERR_POOL &&
              fa_pool_insert(&p, text, -1, &e) == FA_ERR_POOL);
    FA_EXPECT(fa_pool_insert(NULL, text, 9, &e) == FA_ERR_ARGS_NULL &&
              fa_pool_tree(NULL, 1, &t, &e) == FA_ERR_ARGS_NULL);
}

/* ---- garbage ----------------------------------------------------------------------------- */

/* Random fields, arrays of random numbers: a status, or a tree. The sanitizers watch. */
FA_TEST(random_garbage) {
    enum { ROOM = 64 };
    static int32_t memory[8 * (3 + 3 * 5)];
    uint64_t rng = fat_seed;
    int fine = 0, refused = 0;
    for (int round = 0; round < 20000; round++) {
        int32_t parent[ROOM], token[ROOM], rank[ROOM], in[ROOM], more[ROOM],
            out[ROOM * 4]; /* 16 x 4, 16 x 16 */
        uint64_t source[ROOM];
        uint32_t mask[ROOM * 4];
        float logprob[ROOM], score[ROOM];
        double p[ROOM];
        const int wild = fat_below(&rng, 3); /* 0: nearly right */
        for (int i = 0; i < ROOM; i++) {
            const int32_t any = (int32_t)fat_next(&rng);
            in[i] = wild == 2 ? any : fat_below(&rng, 4) - (wild ? fat_below(&rng, 2) : 0);
            more[i] = i % 16 ? fat_below(&rng, i % 16) : -1;
            if (wild && fat_below(&rng, 30) == 0) more[i] = any;
            parent[i] = token[i] = rank[i] = any;
            p[i] = wild && fat_below(&rng, 50) == 0 ? fat_normal(&rng) : fat_uniform(&rng);
            logprob[i] = fat_below(&rng, 9) ? (float)-fat_uniform(&rng) : (float)fat_normal(&rng) / 0.0f;
            score[i] = 0;
        }
#define SMALL(n) \
    (fat_below(&rng, 25) ? fat_below(&rng, (n) + 1) : fat_below(&rng, 2) ? -1 : (int32_t)fat_next(&rng))
        fa_tree t = {fat_below(&rng, 9) ? ROOM : fat_below(&rng, ROOM + 1), -1, parent,
                     fat_below(&rng, 9) ? token : NULL, fat_below(&rng, 3) ? rank : NULL};
        const fa_trees trees = {1 + fat_below(&rng, 4), 16, NULL, more, in};
        fa_status s = FA_OK;
        switch (round % 10) {
        case 0: s = fa_tree_from_paths(in, fat_below(&rng, 9), fat_below(&rng, 8), &t, NULL); break;
        case 1: s = fa_tree_expand(in, fat_below(&rng, 8), &t, NULL); break;
        case 2: s = fa_tree_merge(&trees, &t, source, out, NULL); break;
        case 3: {
            fa_tree shape = {16, 16, more, NULL, in};
            const int32_t stride = SMALL(4);
            if (stride > 4) break; /* in has no such rows */
            s = fa_tree_fill(&shape, 7, in, fat_below(&rng, 16), stride, out, NULL);
            t.num_nodes = -1;
            break;
        }
        case 4: s = fa_tree_greedy(p, 1 + fat_below(&rng, 8), 1 + fat_below(&rng, 8), &t, NULL, NULL); break;
        case 5: {
            fa_dynamic d = {ROOM, 0, 0, out, out + ROOM, score};
            int32_t n = 0;
            s = fa_dynamic_begin(&d, 1, NULL);
            for (int level = 0; level < 3 && s == FA_OK; level++) {
                s = fa_dynamic_beam(&d, 4, rank, &n, NULL);
                if (n == 0) break;
                if (s == FA_OK)
                    s = fa_dynamic_grow(&d, wild == 2 ? in : rank, n, in, logprob, 1 + fat_below(&rng, 6),
                                        NULL);
            }
            t.rank = NULL;
            if (s == FA_OK) s = fa_dynamic_finish(&d, SMALL(ROOM), &t, NULL, NULL);
            break;
        }
        case 6: {
            static char workspace[1 << 16];
            fa_sequoia_args a = sequoia(p, 1 + fat_below(&rng, 5), SMALL(20), SMALL(8), SMALL(5));
            const size_t bytes = fa_sequoia_workspace(&a);
            if (bytes > sizeof workspace) break;
            s = fa_sequoia(&a, workspace, bytes);
            if (s == FA_OK) s = fa_sequoia_tree(&a, workspace, bytes, SMALL(20), SMALL(8), &t);
            break;
        }
        case 7: {
            fa_ngram_args a = ngram(in, fat_below(&rng, ROOM + 1), SMALL(8), SMALL(8));
            a.min_match = SMALL(3), a.max_match = SMALL(9);
            s = fa_ngram(&a, &t, NULL);
            break;
        }
        case 8: { /* memory of any content is survived */
            fa_pool pool = {8, 3, 5, (uint32_t)fat_next(&rng), memory};
            for (size_t i = 0; wild == 2 && i < sizeof memory / 4; i++) memory[i] = (int32_t)fat_next(&rng);
            s = fa_pool_insert(&pool, in, fat_below(&rng, ROOM + 1), NULL);
            if (s == FA_OK) s = fa_pool_tree(&pool, in[0], &t, NULL);
            break;
        }
        default:
            s = fa_tree_links(&trees, out, out + 2 * ROOM, NULL);
            if (s == FA_OK) s = fa_tree_positions(&trees, NULL, out, NULL);
            if (s == FA_OK) s = fa_tree_mask_bits(&trees, mask, 0, 0, NULL);
            if (s == FA_OK)
                s = fa_tree_paths(&trees, SMALL(3), out, SMALL(16), fat_below(&rng, 17), NULL, NULL, NULL);
        }
        fine += s == FA_OK, refused += s != FA_OK;
        if (s == FA_OK && t.num_nodes >= 0) FA_EXPECT(t.num_nodes <= t.capacity && is_tree(&t));
        if (s != FA_OK) FA_EXPECT(t.num_nodes == -1);
    }
    FA_EXPECT_MSG(fine > 5000 && refused > 2000, "%d fine, %d refused", fine, refused);
}

FA_TEST_MAIN
