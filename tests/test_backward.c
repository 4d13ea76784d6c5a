/* test_backward.c - dQ, dK, dV, dbias, dsink against fa_reference_backward, central differences, and themselves. */
#include "fa_test.h"

#include <pthread.h>

#define INSTANCES_DIMS
#define INSTANCES_DTYPES
#define FA_DEFAULT_PASSES (FA_FORWARD | FA_BACKWARD)
#include "instances.h"

#include "fa_gradient.h"

#define GRAD_SCORE(s, b, h, i, j) ((s) * ((h) % 2 ? 0.5f : 2.0f) + 0.015625f * (s) * (s) - ((i) > (j) ? 0.25f : 0.0f))
#define GRAD_SLOPE(s, b, h, i, j) (((h) % 2 ? 0.5f : 2.0f) + 0.03125f * (s))
#define GRAD_MASK(b, h, i, j) (((i) + 2 * (j) + (h) + (b)) % 3 != 0)

#define FA_NAME f32_32_hooks
#define FA_HEAD_DIM 32
#define FA_FEATURES FA_ALL_FEATURES
#define FA_SCORE_MOD GRAD_SCORE
#define FA_SCORE_MOD_GRAD GRAD_SLOPE
#define FA_MASK_MOD GRAD_MASK
#include "flashattn.h"

#define FA_NAME f32_32_no_slope
#define FA_HEAD_DIM 32
#define FA_SCORE_MOD GRAD_SCORE
#include "flashattn.h"

/* The instances that have a backward pass. */
static const fa_info *const grads[] = {&f32_64_info, &f32_32_info, &f16_64_info, &bf16_64_info};
enum { ALL = 31 };

/* ---- shapes ------------------------------------------------------------------------------ */

/* One below and one above every edge: MR = 4, 6 or 8 rows, panels of 8, 16 or 32 keys, tiles of 126 or 128 rows and of
 * 256 keys; a second and a third split. */
static const int edges_q[] = {1, 2, 5, 6, 7, 8, 9, 16, 17, 31, 33, 125, 126, 127, 128, 129, 255, 257};
static const int edges_k[] = {0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 255, 256, 257, 511, 513};

static void check_edges(const fa_info *info, const char *more) {
    for (int q = 0; q < COUNT(edges_q); q++)
        for (int k = 0; k < COUNT(edges_k); k++)
            if (due()) FA_EXPECT(fag_check(info, "sq=%d sk=%d seed=%d %s", edges_q[q], edges_k[k], 100 * q + k, more));
}
FA_TEST(edges_of_tiles) { check_edges(&f32_32_info, ""); }
FA_TEST(edges_of_tiles_causal) { check_edges(&f32_32_info, "causal=1"); }
FA_TEST(edges_of_tiles_bf16) { check_edges(&bf16_64_info, "causal=1"); }

FA_TEST(awkward_lengths) {
    static const int pairs[][2] = {{64, 128}, {113, 203}, {239, 1}, {799, 3}, {1, 2000}, {128, 217}, {113, 211},
                                   {108, 256}, {256, 512}, {384, 256}, {640, 128}, {3, 799}, {257, 1023}, {1023, 1024}};
    for (int n = 0; n < COUNT(pairs); n++)
        for (int t = 0; t < COUNT(grads); t++)
            if (due())
                FA_EXPECT(fag_check(grads[t], "sq=%d sk=%d causal=%d seed=%d", pairs[n][0], pairs[n][1],
                                    (n + t) % 2, n));
}

FA_TEST(every_head_dim_and_dtype) {
    static const char *const shapes[] = {"sq=113 sk=203 causal=1", "sq=70 sk=300",
                                         "b=2 hq=4 hk=2 sq=20 sk=131 causal=1"};
    for (int n = 0; n < COUNT(dims) + COUNT(dtypes); n++) {
        const fa_info *info = n < COUNT(dims) ? dims[n] : dtypes[n - COUNT(dims)];
        for (int s = 0; s < COUNT(shapes) && info->backward; s++)
            if (!quick() || s == n % COUNT(shapes)) FA_EXPECT(fag_check(info, "%s", shapes[s]));
    }
}

FA_TEST(grouped_heads) {
    static const int heads[][2] = {{2, 2}, {4, 2}, {4, 1}, {8, 2}, {10, 2}, {5, 1}, {6, 3}, {33, 1}};
    static const int lengths[] = {1, 2, 13, 33, 70};
    for (int n = 0; n < COUNT(heads); n++)
        for (int s = 0; s < COUNT(lengths); s++)
            if (due())
                FA_EXPECT(fag_check(grads[(n + s) % COUNT(grads)],
                                    "b=2 hq=%d hk=%d sq=%d sk=%d causal=%d seed=%d", heads[n][0], heads[n][1],
                                    lengths[s], 20 + 9 * s, (n + s) % 2, n));
}

/* More queries than keys under a causal mask: the first rows see nothing; windows that leave holes between splits. */
FA_TEST(rows_and_keys_that_meet_nobody) {
    for (int t = 0; t < COUNT(grads); t++)
        for (int sk = 0; sk <= 140; sk += 35) FA_EXPECT(fag_check(grads[t], "b=2 hq=2 sq=171 sk=%d causal=1", sk));
    FA_EXPECT(fag_check(&f32_32_info, "sq=1500 sk=1500 causal=1 wl=20"));
    FA_EXPECT(fag_check(&f32_32_info, "sq=1100 sk=1500 wl=5 wr=9"));
    FA_EXPECT(fag_check(&f32_32_info, "sq=40 sk=2100 wl=100 wr=1"));
    FA_EXPECT(fag_check(&f32_32_info, "sq=2100 sk=40 wl=7 wr=9"));
    FA_EXPECT(fag_check(&f32_32_info, "sq=700 sk=2000 bm=128"));
}

/* ---- features ---------------------------------------------------------------------------- */

static const char *const features[] = {
    "causal=1",       "wl=30",         "wr=9",          "wl=40 wr=12", "varlen=1",    "used=1", "used=2",
    "page=16",        "page=3 used=2", "softcap=4",     "alibi=1",     "alibi=2",     "bias=1", "bias=2",
    "bias=3",         "bias=4",        "drop=0.3",      "sink=1",      "bm=16",       "bm=64",  "scale=-0.2",
    "nan=1 causal=1", "layout=bhsd",   "layout=padded", "layout=qkv",  "layout=bcast"};

FA_TEST(each_feature) {
    for (int n = 0; n < COUNT(features); n++)
        for (int t = 0; t < COUNT(grads); t++)
            if (!quick() || (n + t) % 2) {
                FA_EXPECT(fag_check(grads[t], "b=2 hq=4 hk=2 sq=77 sk=133 seed=%d %s", n, features[n]));
                FA_EXPECT(fag_check(grads[t], "b=2 hq=3 hk=1 sq=150 sk=300 seed=%d causal=1 %s", n, features[n]));
            }
    for (int t = 0; t < COUNT(grads); t++)
        for (int n = 1; n <= 70; n += 23) FA_EXPECT(fag_check(grads[t], "b=2 hq=4 hk=2 sq=%d sk=%d tree=1", n, n + 60));
}

FA_TEST(mixtures_of_features) {
    uint64_t rng = fat_seed;
    char line[512];
    for (int n = 0; n < scaled(400); n++) {
        const fa_info *info = grads[n % COUNT(grads)];
        FA_EXPECT(fag_check(info, "%s", fap_random(line, &rng, FA_ALL_FEATURES, 160, 300)));
    }
}

FA_TEST(hooks) {
    uint64_t rng = fat_seed + 1;
    char line[512];
    FA_EXPECT(fag_check(&f32_32_hooks_info, "hq=3 hk=1 sq=40 sk=70"));
    FA_EXPECT(fag_check(&f32_32_hooks_info, "b=2 hq=2 sq=140 sk=290 causal=1 softcap=3 bias=1"));
    for (int n = 0; n < scaled(60); n++)
        FA_EXPECT(fag_check(&f32_32_hooks_info, "%s", fap_random(line, &rng, FA_ALL_FEATURES & ~FA_SOFTCAP, 100, 200)));
}

FA_TEST(hook_without_its_derivative_is_refused) {
    fag_problem g;
    fa_error error;
    FA_REQUIRE(fag_build(&g, "sq=4 sk=4", &f32_32_no_slope_info, ALL));
    g.p.args.error = &error;
    FA_EXPECT(f32_32_no_slope_backward_workspace(&g.p.args) == 0);
    FA_EXPECT(f32_32_no_slope_backward(&g.p.args, NULL, 0) == FA_ERR_NO_SCORE_MOD_GRAD);
    FA_EXPECT(error.status == FA_ERR_NO_SCORE_MOD_GRAD && !strcmp(error.field, "score_mod_grad"));
    fag_free(&g);
}

/* A dO that is NaN or infinite in one row reaches the keys that the row sees, and nothing else. */
FA_TEST(a_bad_row_of_d_o_stays_in_its_lane) {
    static const float bad[] = {NAN, INFINITY};
    for (int n = 0; n < 2; n++)
        for (int t = 0; t < 2; t++) {
            enum { N = 300, ROW = 140 };
            const fa_info *info = grads[t];
            fag_problem g;
            FA_REQUIRE(fag_build(&g, "sq=300 sk=300 causal=1", info, ALL));
            fa_store(g.d_o.data, fap_at_q(&g.p, &g.d_o, 0, ROW, 0) + 3, FA_F32, bad[n]);
            FA_EXPECT(fag_forward(&g, info) && fag_backward(&g, info));
            for (int i = 0; i < N; i++) {
                const float dq = ((const float *)(void *)g.out[FAG_DQ].place.data)[i * info->head_dim];
                const float dk = ((const float *)(void *)g.out[FAG_DK].place.data)[i * info->head_dim];
                const float dv = ((const float *)(void *)g.out[FAG_DV].place.data)[i * info->head_dim + 3];
                FA_EXPECT(isfinite(dq) == (i != ROW) && isfinite(dk) == (i > ROW) && isfinite(dv) == (i > ROW));
            }
            fag_free(&g);
        }
}

/* ---- central differences ------------------------------------------------------------------- */

/* sum dO o O in double */
static double loss(const fag_problem *g, double *o, double *scratch) {
    const fap_spec *s = &g->p.spec;
    double sum = 0;
    if (fa_reference_forward(&g->p.info, &g->p.args, o, NULL, scratch) != FA_OK) return (double)NAN;
    for (int b = 0; b < s->b; b++)
        for (int h = 0; h < s->hq; h++)
            for (int i = 0; i < g->p.len_q[b]; i++)
                for (int c = 0; c < s->dv; c++)
                    sum += o[(fap_row(&g->p, b, i) * s->hq + h) * s->dv + c] *
                           (double)fa_load(g->d_o.data, fap_at_q(&g->p, &g->d_o, b, i, h) + c, s->out);
    return sum;
}

/* (L(x + e) - L(x - e)) / 2e, x an f32 of an input */
static void expect_slope(fag_problem *g, const float *input, float got, double *o, double *scratch, const char *what) {
    float *x = (float *)(uintptr_t)input;
    const float kept = *x, up = kept + 0x1p-7f, down = kept - 0x1p-7f;
    double above, below, slope;
    *x = up, above = loss(g, o, scratch);
    *x = down, below = loss(g, o, scratch);
    *x = kept;
    slope = (above - below) / ((double)up - (double)down);
    FA_EXPECT_MSG(fat_close((double)got, slope, 1e-3 * (1 + fabs(slope))), "%s: got %g, difference %g", what,
                  (double)got, slope);
}

FA_TEST(central_differences) {
    static const char *const lines[] = {"sq=9 sk=11", "hq=2 hk=1 sq=9 sk=11 causal=1 bias=1 sink=1",
                                        "sq=9 sk=11 softcap=3 alibi=1", "hq=2 sq=7 sk=9 drop=0.25 wl=4",
                                        "hq=2 hk=1 sq=7 sk=9 bias=4 sink=1"};
    const fa_info *const infos[] = {&f32_32_info, &f32_32_hooks_info};
    for (int n = 0; n < 2 * COUNT(lines); n++) {
        fag_problem g;
        uint64_t rng = fat_seed;
        const fa_info *info = infos[n % 2];
        FA_REQUIRE(fag_build(&g, lines[n / 2], info, ALL));
        double *o = (double *)malloc(65536 * sizeof *o), *scratch = (double *)malloc(65536 * sizeof *scratch);
        FA_REQUIRE(o && scratch && fag_forward(&g, info) && fag_backward(&g, info));
        const fap_spec *s = &g.p.spec;
        for (int r = 0; r < 25; r++) {
            const int h = fat_below(&rng, s->hq), hk = fat_below(&rng, s->hk), c = fat_below(&rng, 32);
            const int i = fat_below(&rng, s->sq), j = fat_below(&rng, s->sk);
            const float *q = (const float *)(void *)g.p.q.data, *k = (const float *)(void *)g.p.k.data;
            const int64_t at_q = fap_at_q(&g.p, &g.p.q, 0, i, h) + c, at_k = fap_at_k(&g.p, &g.p.k, 0, j, hk) + c;
            if (isfinite(k[at_k])) { /* not a key that nobody sees */
                expect_slope(&g, q + at_q, ((const float *)g.p.args.dq.data)[at_q], o, scratch, "dq");
                expect_slope(&g, k + at_k, ((const float *)g.p.args.dk.data)[at_k], o, scratch, "dk");
                expect_slope(&g, (const float *)(void *)g.p.v.data + at_k,
                             ((const float *)g.p.args.dv.data)[at_k], o, scratch, "dv");
            }
            if (s->sink) expect_slope(&g, g.p.args.sink + h, g.p.args.dsink[h], o, scratch, "dsink");
            if (s->bias && fap_visible(&g.p, 0, h, i, j)) {
                const int64_t at = fag_at_bias(&g, 0, h, i, j);
                expect_slope(&g, (const float *)g.p.args.bias.data + at, g.p.args.dbias.data[at], o, scratch, "dbias");
            }
        }
        free(o), free(scratch), fag_free(&g);
    }
}

/* ---- who computes what --------------------------------------------------------------------- */

static const char several_tasks[] = "b=2 hq=4 hk=2 sq=150 sk=1100 causal=1 used=1 bias=4 sink=1";

/* The gradients of g, all of their memory, next to each other in a buffer of size_of(g) bytes. */
static size_t size_of(const fag_problem *g) {
    size_t n = 0;
    for (int t = 0; t < FAG_COUNT; t++) n += g->out[t].size;
    return n;
}
static unsigned char *copy_of(const fag_problem *g) {
    unsigned char *copy = (unsigned char *)malloc(size_of(g)), *at = copy;
    for (int t = 0; t < FAG_COUNT; t++) memcpy(at, g->out[t].bytes, g->out[t].size), at += g->out[t].size;
    return copy;
}
static int same_bits(const fag_problem *g, const unsigned char *copy) {
    for (int t = 0; t < FAG_COUNT; t++) {
        if (memcmp(copy, g->out[t].bytes, g->out[t].size)) return 0;
        copy += g->out[t].size;
    }
    return 1;
}

FA_TEST(any_number_of_threads_same_bits_250_times) {
    static const int threads[] = {1, 2, 7};
    for (int t = 0; t < COUNT(grads); t++) {
        fag_problem g;
        FA_REQUIRE(fag_build(&g, several_tasks, grads[t], ALL));
        FA_REQUIRE(fag_forward(&g, grads[t]) && fag_backward(&g, grads[t]) && fag_judge(&g));
        unsigned char *copy = copy_of(&g);
        for (int n = 0; n < (quick() ? 9 : t ? 60 : 750); n++) {
            g.p.args.num_threads = threads[n % 3];
            FA_EXPECT(fag_backward(&g, grads[t]));
            FA_EXPECT_MSG(same_bits(&g, copy), "%s: %d threads, repeat %d", grads[t]->name, threads[n % 3], n);
        }
        free(copy), fag_free(&g);
    }
}

/* Tasks of a stage in any order, in dirty scratch areas of several threads. */
FA_TEST(tasks_in_random_order_same_bits) {
    uint64_t rng = fat_seed;
    fag_problem g;
    FA_REQUIRE(fag_build(&g, several_tasks, &f32_32_info, ALL));
    FA_REQUIRE(fag_forward(&g, &f32_32_info) && fag_backward(&g, &f32_32_info));
    unsigned char *copy = copy_of(&g);
    g.p.args.num_threads = 3;
    const size_t bytes = f32_32_backward_workspace(&g.p.args);
    void *workspace = malloc(bytes);
    FA_REQUIRE(workspace && bytes);
    for (int repeat = 0; repeat < 5; repeat++) {
        for (int n = 0; n < FAG_COUNT; n++) memset(g.out[n].bytes, 0xff, g.out[n].size);
        memset(workspace, 0xff, bytes);
        for (int stage = 0; stage < 3; stage++) {
            enum { MOST = 256 };
            int64_t order[MOST], n = f32_32_backward_num_tasks(&g.p.args, stage);
            FA_REQUIRE(n > 1 && n <= MOST);
            for (int64_t i = 0; i < n; i++) {
                int64_t at = fat_below(&rng, (int)i + 1);
                order[i] = order[at], order[at] = i;
            }
            for (int64_t i = 0; i < n; i++)
                f32_32_backward_run_task(&g.p.args, stage, order[i], (int32_t)fat_below(&rng, 3), workspace);
        }
        FA_EXPECT(same_bits(&g, copy));
    }
    free(workspace), free(copy), fag_free(&g);
}

/* Threads of our own: several tasks at once (for ThreadSanitizer too). */
typedef struct worker {
    const fa_args *args;
    void *workspace;
    int64_t *next;
    int stage, thread;
} worker;
static void *work(void *data) {
    const worker *w = (const worker *)data;
    const int64_t n = f32_32_backward_num_tasks(w->args, w->stage);
    for (int64_t task; (task = __atomic_fetch_add(w->next, 1, __ATOMIC_RELAXED)) < n;)
        f32_32_backward_run_task(w->args, w->stage, task, w->thread, w->workspace);
    return NULL;
}
FA_TEST(tasks_from_threads) {
    enum { WORKERS = 5 };
    fag_problem g;
    FA_REQUIRE(fag_build(&g, "b=2 hq=4 hk=2 sq=150 sk=1100 causal=1 sink=1", &f32_32_info, ALL));
    FA_REQUIRE(fag_forward(&g, &f32_32_info) && fag_backward(&g, &f32_32_info));
    unsigned char *copy = copy_of(&g);
    g.p.args.num_threads = WORKERS;
    void *workspace = malloc(f32_32_backward_workspace(&g.p.args));
    for (int n = 0; n < FAG_COUNT; n++) memset(g.out[n].bytes, 0xff, g.out[n].size);
    for (int stage = 0; stage < 3; stage++) {
        pthread_t id[WORKERS];
        worker w[WORKERS];
        int64_t next = 0;
        for (int n = 0; n < WORKERS; n++) {
            w[n].args = &g.p.args, w[n].workspace = workspace, w[n].next = &next, w[n].stage = stage, w[n].thread = n;
            FA_REQUIRE(pthread_create(&id[n], NULL, work, &w[n]) == 0);
        }
        for (int n = 0; n < WORKERS; n++) pthread_join(id[n], NULL);
    }
    FA_EXPECT(same_bits(&g, copy));
    free(workspace), free(copy), fag_free(&g);
}

/* What is not wanted is not written, and does not change the rest. */
FA_TEST(any_subset_of_gradients) {
    for (int t = 0; t < COUNT(grads); t++)
        for (int wanted = 0; wanted < 32; wanted++) {
            fag_problem g;
            if (!due()) continue;
            FA_REQUIRE(fag_build(&g, "b=2 hq=2 hk=1 sq=40 sk=300 bias=1 sink=1", grads[t], wanted));
            FA_EXPECT(fag_forward(&g, grads[t]) && fag_backward(&g, grads[t]) && fag_judge(&g));
            fag_free(&g);
        }
}

FA_TEST(workspace) {
    fag_problem g;
    fa_error error;
    FA_REQUIRE(fag_build(&g, "b=2 hq=2 sq=100 sk=300", &f32_32_info, ALL));
    g.p.args.error = &error;
    FA_EXPECT(fag_forward(&g, &f32_32_info));
    const size_t bytes = f32_32_backward_workspace(&g.p.args);
    char *workspace = (char *)malloc(bytes + 64);
    for (int n = 0; n < FAG_COUNT; n++) memset(g.out[n].bytes, 0xff, g.out[n].size);
    FA_EXPECT(f32_32_backward(&g.p.args, NULL, bytes) == FA_ERR_WORKSPACE_NULL);
    FA_EXPECT(f32_32_backward(&g.p.args, workspace, bytes - 1) == FA_ERR_WORKSPACE_SIZE && error.min >= (double)bytes);
    for (int n = 0; n < FAG_COUNT; n++)
        for (size_t i = 0; i < g.out[n].size; i++) FA_EXPECT(g.out[n].bytes[i] == 0xff); /* nothing was written */
    for (int shift = 1; shift < 64; shift += 31) {
        FA_EXPECT(f32_32_backward(&g.p.args, workspace + shift, bytes) == FA_OK && fag_judge(&g));
    }
    free(workspace), fag_free(&g);
}

/* O(N): twice the length, at most twice the workspace. */
FA_TEST(workspace_is_linear) {
    fa_args args;
    static float x, y; /* addresses alone */
    memset(&args, 0, sizeof args);
    args.batch = 1, args.num_heads = 2, args.num_threads = 1;
    args.q.data = args.k.data = args.v.data = args.d_o.data = &x, args.o.data = args.lse.data = &y;
    size_t last = 0;
    for (int n = 4096; n <= 1 << 24; n *= 2) {
        args.seqlen_q = args.seqlen_k = n;
        const size_t bytes = f32_64_backward_workspace(&args);
        FA_EXPECT_MSG(bytes > 0 && (!last || bytes < 2 * last), "%d: %zu bytes", n, bytes);
        last = bytes;
    }
}

FA_TEST_MAIN
