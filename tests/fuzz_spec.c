/* fuzz_spec.c - verification and sampling of random trees, chains, rows and parameters, legal and not:
 * nothing is read or written out of bounds (AddressSanitizer; every array has just the size it needs), what
 * is refused writes nothing, and what is accepted gives ids of the vocabulary along a path of the tree, twice
 * the same.
 *
 *     fuzz_spec [runs] [seed]     or  --seconds n [seed];  prints progress and "1 passed, 0 failed, 0
 *     skipped" */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "flashattn_spec.h"

static long runs, accepted, drafts;
static uint64_t run_seed = 1, state = 1;

static void fail(const char *what) {
    fprintf(stderr, "fuzz_spec: run %ld, seed %llu: %s\n", runs, (unsigned long long)run_seed, what);
    abort();
}

static uint64_t next(void) { /* splitmix64 */
    uint64_t z = (state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
static int below(int n) { return (int)(next() % (uint64_t)n); }
static int rarely(void) { return below(150) == 0; }

/* Memory of exactly `bytes`, freed by drop_all. */
static void *blocks[64];
static int num_blocks;
static void *take(size_t bytes) {
    void *p = malloc(bytes ? bytes : 1);
    if (!p || num_blocks == 64) exit(2);
    blocks[num_blocks++] = p;
    for (size_t i = 0; i < bytes; i++) ((unsigned char *)p)[i] = 0xa5;
    return p;
}
static void drop_all(void) {
    while (num_blocks) free(blocks[--num_blocks]);
}

static int32_t value(int lo, int hi) { /* lo .. hi, now and then anything */
    static const int32_t odd[] = {-1, -2, 0, 1, INT32_MAX, INT32_MIN, 1024, 1025, 1 << 30};
    return rarely() ? odd[below(9)] : lo + below(hi - lo + 1);
}
static float real(int kind) {
    static const float odd[] = {NAN, INFINITY, -INFINITY, -1, 3e38f, 1e-45f, -0.0f, 2, 1.0000001f, 1e-38f};
    const float u = (float)(next() >> 40) * 0x1p-24f;
    if (below(40) == 0) return odd[below(10)];
    if (below(4) == 0) return 0;
    return kind <= FA_LOGITS ? (u - 0.5f) * 30 : u * u * u * 0.2f;
}

static fa_rows rows(int64_t count, int32_t vocab, int bad_rows) {
    fa_rows r;
    r.kind = value(0, 3), r.dtype = rarely() ? value(0, 6) : below(4),
    r.stride = below(3) ? 0 : vocab + below(3);
    if (rarely()) r.stride = value(-3, 3);
    const fa_dtype dtype = r.dtype >= FA_F32 && r.dtype <= FA_BF16 ? r.dtype : FA_F32;
    const int64_t stride = r.stride < vocab || r.stride > vocab + 3 ? vocab : r.stride,
                  n = count ? (count - 1) * stride + vocab : 0;
    void *data = take((size_t)n * fa_sizeof(dtype));
    for (int64_t i = 0; i < n; i++) {
        const float x = real(r.kind);
        fa_store(data, i, dtype, bad_rows || x == x ? x : 0);
    }
    r.data = rarely() ? NULL : data;
    return r;
}
static void sampling(fa_sampling *s, int32_t batch, int logits) {
    float *t = (float *)take(4 * (size_t)batch), *p = (float *)take(4 * (size_t)batch),
          *m = (float *)take(4 * (size_t)batch);
    int32_t *k = (int32_t *)take(4 * (size_t)batch);
    for (int32_t b = 0; b < batch; b++) {
        t[b] = logits ? (below(5) ? 0.3f + (float)below(20) / 10 : 0) : (float)below(2), k[b] = value(0, 9);
        p[b] = (float)below(11) / 10, m[b] = (float)below(5) / 20;
        if (rarely()) t[b] = real(0), p[b] = real(0), m[b] = real(0);
    }
    memset(s, 0, sizeof *s);
    if (below(2)) s->temperature = t;
    if (below(3) == 0) s->top_k = k;
    if (below(3) == 0) s->top_p = p;
    if (below(3) == 0) s->min_p = m;
}
static void coins(fa_coins *c, int64_t count, int32_t batch) {
    uint64_t *x = (uint64_t *)take(8 * (size_t)count), *seed = (uint64_t *)take(8 * (size_t)batch),
             *offset = (uint64_t *)take(8 * (size_t)batch);
    memset(c, 0, sizeof *c);
    for (int64_t i = 0; i < count; i++) x[i] = below(5) ? next() : below(2) ? UINT64_MAX : 0;
    for (int32_t b = 0; b < batch; b++) seed[b] = next(), offset[b] = next();
    if (below(2)) c->coins = x;
    if (below(2)) c->seed = seed;
    if (below(2)) c->offset = offset;
}

/* Do the outputs of request b make sense? */
static void judge(const fa_verify_args *a, int64_t b, int32_t max_out, int32_t nodes, const int32_t *parent,
                  const int32_t *token) {
    const int32_t *out = a->tokens + b * max_out, *path = a->accepted + b * max_out, num = a->num_out[b];
    if (num < 1 || num > nodes || num > max_out || path[0] != 0) fail("num_out");
    for (int32_t n = 0; n < max_out; n++) {
        if (n < num ? out[n] < 0 || out[n] >= a->vocab : out[n] != -1) fail("a token");
        if (n < num ? path[n] < 0 || path[n] >= nodes : path[n] != -1) fail("a node");
        if (n == 0 || n >= num) continue;
        if ((parent ? parent[path[n]] : path[n] - 1) != path[n - 1]) fail("not a path");
        if (token[path[n]] != out[n - 1]) fail("another token than the node's");
    }
    drafts += num - 1;
}

static void verify(int chain) {
    enum { MOST = 12 };
    fa_verify_args a;
    const int32_t batch = 1 + below(4), most = chain ? below(MOST) : 1 + below(MOST), ragged = below(3),
                  roots = !chain;
    memset(&a, 0, sizeof a);
    a.vocab = 1 + below(below(4) ? 70 : 2000), a.rule = value(1, 7);
    int32_t *indptr = (int32_t *)take(4 * (size_t)(batch + 1)), *lengths = (int32_t *)take(4 * (size_t)batch);
    indptr[0] = 0;
    for (int32_t b = 0; b < batch; b++) {
        lengths[b] = most ? roots + below(most + 1 - roots) : 0;
        indptr[b + 1] = indptr[b] + lengths[b];
    }
    const int32_t total = ragged == 1 ? indptr[batch] : batch * most;
    if (rarely()) indptr[below(batch + 1)] = below(total + 4) - 3 < total ? below(total + 1) - 1 : 0;
    int32_t *parent = (int32_t *)take(4 * (size_t)total), *token = (int32_t *)take(4 * (size_t)total),
            *map = (int32_t *)take(4 * (size_t)total);
    for (int32_t i = 0; i < total; i++)
        token[i] = rarely() ? value(-1, a.vocab) : below(a.vocab), map[i] = below(total), parent[i] = -1;
    for (int32_t b = 0; b < batch && !chain; b++) {
        const int32_t first = ragged == 1 ? indptr[b] : b * most, nodes = ragged == 1 ? lengths[b] : most;
        for (int32_t n = 0; n < nodes && first >= 0 && first + n < total; n++)
            parent[first + n] = below(4000) == 0 ? value(-2, most) : n ? below(n) : -1;
    }
    if (rarely() && total) map[below(total)] = value(-1, total);
    const int64_t target = total + (chain ? batch : 0);
    const int bad_rows = below(3) == 0;
    a.target = rows(target, a.vocab, bad_rows), a.draft = rows(total, a.vocab, bad_rows);
    fa_sampling other;
    sampling(&a.sampling, batch, a.target.kind <= 1), sampling(&other, batch, a.draft.kind <= 1);
    if (below(4) == 0) a.draft_sampling = &other;
    coins(&a.coins, target, batch);
    a.chains.batch = a.trees.batch = rarely() ? -below(2) : batch, a.chains.token = a.trees.token = token,
    a.trees.parent = parent;
    a.chains.num_tokens = a.trees.num_nodes = most;
    if (ragged == 1) a.chains.indptr = a.trees.indptr = indptr;
    if (ragged == 2 && chain) a.chains.lengths = lengths;
    if (rarely() && ragged == 2) lengths[0] = most + 1;
    if (below(2)) a.draft_row = map, a.num_draft_rows = total;
    a.typical_epsilon = rarely() ? real(0) : (float)below(4) / 10,
    a.typical_delta = rarely() ? real(0) : (float)below(4) / 10;
    const int32_t columns = most + chain + below(3);
    a.max_out = below(2) ? columns : 0;
    const int32_t max_out = a.max_out ? a.max_out : most + chain;
    const size_t out_bytes = 4 * (size_t)batch * (size_t)max_out;
    fa_error error;
    a.tokens = (int32_t *)take(out_bytes), a.accepted = (int32_t *)take(out_bytes);
    a.num_out = (int32_t *)take(4 * (size_t)batch), a.flags = (uint32_t *)take(4 * (size_t)batch),
    a.error = &error;
    if (rarely()) a.max_out = 1 + below(3) < max_out ? 1 : a.max_out;
    const size_t bytes = chain ? 0 : fa_verify_tree_workspace(&a);
    void *workspace = take(bytes), *copy = take(out_bytes);
    const fa_status status = chain ? fa_verify_chain(&a) : fa_verify_tree(&a, workspace, bytes);
    if (status != error.status) fail("fa_error says something else");
    if (status != FA_OK) {
        for (size_t i = 0; i < out_bytes; i++)
            if (((unsigned char *)a.tokens)[i] != 0xa5 || ((unsigned char *)a.accepted)[i] != 0xa5)
                fail("refused, but written");
        return;
    }
    accepted++;
    memcpy(copy, a.tokens, out_bytes);
    for (int32_t b = 0; b < batch; b++) {
        const int64_t first = ragged == 1 ? indptr[b] : (int64_t)b * most;
        const int32_t n = ragged == 1 ? indptr[b + 1] - indptr[b] : ragged == 2 && chain ? lengths[b] : most;
        if (chain) { /* node n + 1 is token n */
            int32_t *shifted = (int32_t *)malloc(4 * (size_t)(n + 1));
            if (n) memcpy(shifted + 1, token + first, 4 * (size_t)n);
            judge(&a, b, a.max_out ? a.max_out : max_out, n + 1, NULL, shifted);
            free(shifted);
        } else {
            judge(&a, b, a.max_out ? a.max_out : max_out, n, parent + first, token + first);
        }
    }
    memset(a.tokens, 0x5a, out_bytes);
    for (size_t i = 0; i < bytes; i++) ((unsigned char *)workspace)[i] = (unsigned char)next();
    if ((chain ? fa_verify_chain(&a) : fa_verify_tree(&a, workspace, bytes)) != FA_OK)
        fail("refused the second time");
    if (a.max_out != 1 && memcmp(copy, a.tokens, out_bytes)) fail("other tokens the second time");
}

static void sample(void) {
    fa_sample_args a;
    memset(&a, 0, sizeof a);
    a.batch = 1 + below(4), a.vocab = 1 + below(below(4) ? 70 : 2000),
    a.num_rows = below(2) ? 0 : 1 + below(6);
    const int32_t num_rows = a.num_rows ? a.num_rows : a.batch, k = below(6);
    int32_t *request = (int32_t *)take(4 * (size_t)num_rows), *node = (int32_t *)take(4 * (size_t)num_rows);
    for (int32_t r = 0; r < num_rows; r++)
        request[r] = rarely() ? value(-1, a.batch) : below(a.batch), node[r] = value(0, 99);
    if (a.num_rows || below(2)) a.request = request;
    if (below(2)) a.node = node;
    a.rows = rows(num_rows, a.vocab, 1), a.num_samples = k, a.without_replacement = rarely() ? 2 : below(2),
    a.purpose = rarely() ? 1 : 0;
    sampling(&a.sampling, a.batch, a.rows.kind <= 1),
        coins(&a.coins, (int64_t)num_rows * (k ? k : 1), a.batch);
    a.tokens = (int32_t *)take(4 * (size_t)num_rows * (size_t)(k ? k : 1)),
    a.flags = (uint32_t *)take(4 * (size_t)num_rows);
    if (fa_sample(&a) != FA_OK) return;
    accepted++;
    for (int32_t r = 0; r < num_rows; r++)
        for (int32_t n = 0; n < (k ? k : 1); n++) {
            const int32_t x = a.tokens[r * (k ? k : 1) + n];
            if (x < (n && a.without_replacement ? -1 : 0) || x >= a.vocab) fail("a sample");
            for (int32_t m = 0; m < n && a.without_replacement && x >= 0; m++)
                if (a.tokens[r * (k ? k : 1) + m] == x) fail("the same sample twice");
        }
}

int main(int argc, char **argv) {
    const int timed = argc > 2 && !strcmp(argv[1], "--seconds"), seed_at = 2 + timed;
    const double seconds = timed ? atof(argv[2]) : 0;
    const long most = timed ? 0 : argc > 1 ? atol(argv[1]) : 20000;
    const time_t began = time(NULL);
    run_seed = state = argc > seed_at ? strtoull(argv[seed_at], NULL, 0) : 1;
    for (runs = 0; timed ? difftime(time(NULL), began) < seconds : runs < most; runs++) {
        if (runs % 4 == 3)
            sample();
        else
            verify((int)(runs % 2));
        drop_all();
    }
    printf("# %ld runs, %ld accepted, %ld drafts\n", runs, accepted, drafts);
    puts("1 passed, 0 failed, 0 skipped");
    return 0;
}
