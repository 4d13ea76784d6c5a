/* test_forward.c - shapes and sizes: edges of tiles, head dims, grouped heads, threads, tasks, workspace. */
#include "fa_test.h"

#include <pthread.h>

#define INSTANCES_DIMS
#define FA_DEFAULT_PASSES FA_FORWARD
#include "instances.h"

/* ---- shapes ------------------------------------------------------------------------------ */

/* One below and one above every edge: MR = 4 or 8 keys, VL = 4, 8 or 16 lanes, 32 rows of a panel, tiles of 64, 128
 * (pairs) and 192; up to VL / 2 rows are a path of their own. */
static const int edges_q[] = {1,  2,  3,  4,  5,  7,  8,  9,  15, 16, 17,  24,  25,
                              31, 32, 33, 40, 41, 63, 64, 65, 72, 73, 127, 128, 129};
static const int edges_k[] = {0,  1,  2,  3,  4,  5,   7,   8,   9,   15,  16,  17,  31,  32,
                              33, 63, 64, 65, 66, 127, 128, 129, 191, 192, 193, 255, 256, 257};

static void check_edges(const fa_info *info, const char *more) {
    for (int q = 0; q < COUNT(edges_q); q++)
        for (int k = 0; k < COUNT(edges_k); k++)
            if (due()) FA_EXPECT(check_case(info, "sq=%d sk=%d seed=%d %s", edges_q[q], edges_k[k], 100 * q + k, more));
}

FA_TEST(edges_of_tiles) { check_edges(&f32_32_info, ""); }
FA_TEST(edges_of_tiles_causal) { check_edges(&f32_32_info, "causal=1"); }
FA_TEST(edges_of_tiles_bf16) { check_edges(&bf16_64_info, ""); }
FA_TEST(edges_of_tiles_bf16_causal) { check_edges(&bf16_64_info, "causal=1"); }
FA_TEST(edges_of_default_tiles) {
    static const int keys[] = {191, 192, 193, 383, 384, 385, 767, 769};
    for (int q = 0; q < COUNT(edges_q); q++)
        for (int k = 0; k < COUNT(keys); k++)
            if (due()) FA_EXPECT(check_case(&f32_64_info, "sq=%d sk=%d causal=%d", edges_q[q], keys[k], q % 2));
}

/* The pairs of lengths of FlashAttention's own tests, and more of their kind. */
static const int pairs[][2] = {{1, 1},     {64, 128},   {128, 192},  {113, 203}, {239, 1},    {799, 3},    {1, 4096},
                               {128, 217}, {113, 211},  {108, 256},  {256, 512}, {384, 256},  {640, 128},  {3, 799},
                               {512, 256}, {1024, 128}, {257, 1023}, {2, 2048},  {1023, 1024}, {1024, 1023}};

static void check_pairs(const fa_info *info, const char *heads) {
    for (int n = 0; n < COUNT(pairs); n++)
        for (int causal = 0; causal <= 1; causal++)
            if (due())
                FA_EXPECT(check_case(info, "sq=%d sk=%d causal=%d seed=%d %s", pairs[n][0], pairs[n][1],
                                     causal, n, heads));
}

FA_TEST(awkward_lengths_f32) { check_pairs(&f32_64_info, ""); }
FA_TEST(awkward_lengths_f16) { check_pairs(&f16_64_info, ""); }
FA_TEST(awkward_lengths_bf16) { check_pairs(&bf16_64_info, ""); }

/* Every instance: head dims 16 .. 256, unequal ones, other tiles. */
FA_TEST(every_head_dim) {
    static const char *const shapes[] = {
        "sq=113 sk=203 causal=1",    "sq=113 sk=203", "hq=3 sq=35 sk=66 causal=1",
        "b=2 hq=4 hk=2 sq=8 sk=131", "sq=1 sk=300",   "b=3 hq=6 hk=1 sq=70 sk=40 causal=1"};
    for (int n = 0; n < COUNT(dims); n++)
        for (int s = 0; s < COUNT(shapes); s++)
            if (!quick() || s == n % COUNT(shapes)) FA_EXPECT(check_case(dims[n], "%s", shapes[s]));
}

/* Heads of a group share K and V: row r of a task is query r / group of head r % group. */
FA_TEST(grouped_heads) {
    static const int heads[][2] = {{1, 1}, {2, 2}, {4, 2}, {4, 1}, {8, 2}, {10, 2}, {5, 1}, {6, 3}, {33, 1}, {71, 1}};
    static const int lengths[] = {1, 2, 7, 13, 32, 33, 70};
    for (int n = 0; n < COUNT(heads); n++)
        for (int s = 0; s < COUNT(lengths); s++)
            for (int causal = 0; causal <= 1; causal++)
                for (int t = (n + s + causal) % 2; t < COUNT(core); t += 2)
                    if (due())
                        FA_EXPECT(check_case(core[t], "b=2 hq=%d hk=%d sq=%d sk=%d causal=%d seed=%d", heads[n][0],
                                             heads[n][1], lengths[s], 20 + 9 * s, causal, n));
}

/* More queries than keys under a causal mask: the first rows see nothing. */
FA_TEST(rows_without_keys) {
    for (int t = 0; t < COUNT(core); t++)
        for (int sk = 0; sk <= 70; sk += 7)
            if (due()) FA_EXPECT(check_case(core[t], "b=2 hq=2 sq=131 sk=%d causal=1", sk));
}

FA_TEST(no_keys_at_all) {
    float q[3 * 32], o[3 * 32], lse[3];
    char workspace[1 << 17];
    fa_args args;
    memset(&args, 0, sizeof args);
    for (int d = 0; d < 3 * 32; d++) q[d] = 1, o[d] = NAN;
    args.batch = args.num_heads = args.num_threads = 1, args.seqlen_q = 3; /* k.data and v.data stay NULL */
    args.q.data = q, args.o.data = o, args.lse.data = lse;
    FA_REQUIRE(f32_32_forward_workspace(&args) <= sizeof workspace);
    FA_REQUIRE(f32_32_forward(&args, workspace, sizeof workspace) == FA_OK);
    for (int d = 0; d < 3 * 32; d++) FA_EXPECT(o[d] == 0);
    for (int i = 0; i < 3; i++) FA_EXPECT(lse[i] == -INFINITY);
}

/* ---- tiles: they must not matter but for rounding ---------------------------------------- */

FA_TEST(tile_sizes_agree) {
    const fa_info *const tiled[] = {&f32_32_info, dims[COUNT(dims) - 2], dims[COUNT(dims) - 1]};
    for (int n = 0; n < 6; n++)
        for (int t = 0; t < COUNT(tiled); t++)
            if (due())
                FA_EXPECT(check_case(tiled[t], "hq=3 hk=1 sq=%d sk=%d causal=%d wl=%d seed=%d", 190 + 61 * n,
                                     300 + 83 * n, n % 2, n % 3 ? 100 * n : 0, n));
}

/* ---- who computes what --------------------------------------------------------------------- */

static const char several_tasks[] = "b=3 hq=6 hk=2 sq=150 sk=170 causal=1 used=1";

FA_TEST(any_number_of_threads_same_bits) {
    static const int threads[] = {2, 3, 7, 64, 0};
    for (int t = 0; t < COUNT(core); t++) {
        fap_problem p, q;
        FA_REQUIRE(build_case(&p, core[t], "%s", several_tasks));
        FA_EXPECT(run_case(&p, core[t]));
        FA_EXPECT(fap_judge(&p, core[t]->name));
        for (int n = 0; n < COUNT(threads); n++) {
            FA_REQUIRE(build_case(&q, core[t], "%s threads=%d", several_tasks, threads[n]));
            FA_EXPECT(run_case(&q, core[t]));
            FA_EXPECT_MSG(count_differences(&p, &q) == 0, "%s: %d threads", core[t]->name, threads[n]);
            fap_free(&q);
        }
        fap_free(&p);
    }
}

/* Tasks in any order, all with one dirty workspace. */
FA_TEST(tasks_in_random_order_same_bits) {
    fap_problem p, q;
    uint64_t rng = fat_seed;
    FA_REQUIRE(build_case(&p, &f32_32_info, "%s", several_tasks));
    FA_REQUIRE(build_case(&q, &f32_32_info, "%s", several_tasks));
    FA_EXPECT(run_case(&p, &f32_32_info));
    for (int repeat = 0; repeat < 5; repeat++) {
        enum { MOST = 256 };
        int64_t order[MOST], n = f32_32_forward_num_tasks(&q.args);
        void *workspace = malloc(f32_32_forward_workspace(&q.args));
        FA_REQUIRE(n > 6 && n <= MOST && workspace);
        for (int64_t i = 0; i < n; i++) {
            int64_t at = fat_below(&rng, (int)i + 1);
            order[i] = order[at], order[at] = i;
        }
        fap_reset(&q);
        for (int64_t i = 0; i < n; i++) f32_32_forward_run_task(&q.args, order[i], workspace);
        FA_EXPECT(count_differences(&p, &q) == 0);
        FA_EXPECT(fap_judge(&q, "tasks"));
        free(workspace);
    }
    fap_free(&p), fap_free(&q);
}

/* Every task on its own by more threads than processors, several at once. */
enum { WORKERS = 5 };
typedef struct worker {
    pthread_t thread;
    const fa_args *args;
    int number;
} worker;

static void *work(void *context) {
    const worker *w = (const worker *)context;
    void *workspace = malloc(bf16_64_forward_workspace(w->args));
    for (int64_t task = w->number; workspace && task < bf16_64_forward_num_tasks(w->args); task += WORKERS)
        bf16_64_forward_run_task(w->args, task, workspace);
    free(workspace);
    return NULL;
}

FA_TEST(tasks_from_threads_same_bits) {
    fap_problem p, q;
    worker workers[WORKERS];
    FA_REQUIRE(build_case(&p, &bf16_64_info, "%s", several_tasks));
    FA_REQUIRE(build_case(&q, &bf16_64_info, "%s", several_tasks));
    FA_EXPECT(run_case(&p, &bf16_64_info));
    for (int n = 0; n < WORKERS; n++) {
        workers[n].args = &q.args, workers[n].number = n;
        FA_REQUIRE(pthread_create(&workers[n].thread, NULL, work, &workers[n]) == 0);
    }
    for (int n = 0; n < WORKERS; n++) pthread_join(workers[n].thread, NULL);
    FA_EXPECT(count_differences(&p, &q) == 0);
    FA_EXPECT(fap_judge(&q, "threads"));
    fap_free(&p), fap_free(&q);
}

FA_TEST(repeats_same_bits) {
    const int repeats = quick() ? 25 : 250;
    for (int t = 0; t < COUNT(core); t++) {
        fap_problem p, q;
        FA_REQUIRE(build_case(&p, core[t], "%s threads=2", several_tasks));
        FA_REQUIRE(build_case(&q, core[t], "%s threads=2", several_tasks));
        FA_EXPECT(run_case(&p, core[t]));
        for (int n = 0; n < repeats; n++) {
            fap_reset(&q);
            FA_EXPECT(run_case(&q, core[t]));
            FA_REQUIRE(count_differences(&p, &q) == 0);
        }
        fap_free(&p), fap_free(&q);
    }
}

/* ---- workspace ----------------------------------------------------------------------------- */

/* Any alignment, any contents; not a byte outside of it is written. */
FA_TEST(workspace_at_any_alignment) {
    enum { GUARD = 128 };
    static const unsigned char fills[] = {0xff, 0x00, 0x7f};
    for (int t = 0; t < COUNT(dims); t++)
        for (int offset = 0; offset < 80; offset += 13) {
            fap_problem p, q;
            size_t bytes;
            unsigned char *memory;
            int dirty = 0;
            if (!due()) continue;
            FA_REQUIRE(build_case(&p, dims[t], "hq=5 hk=1 sq=53 sk=133 causal=1"));
            FA_REQUIRE(build_case(&q, dims[t], "hq=5 hk=1 sq=53 sk=133 causal=1"));
            bytes = dims[t]->forward_workspace(&p.args), memory = (unsigned char *)malloc(bytes + 3 * GUARD);
            FA_REQUIRE(memory != NULL);
            memset(memory, fills[offset % 3], bytes + 3 * GUARD);
            FA_EXPECT(dims[t]->forward(&p.args, memory + GUARD + offset, bytes) == FA_OK);
            for (int n = 0; n < GUARD + offset; n++) dirty += memory[n] != fills[offset % 3];
            for (int n = GUARD + offset; n < 3 * GUARD; n++) dirty += memory[bytes + (size_t)n] != fills[offset % 3];
            FA_EXPECT_MSG(dirty == 0, "%s: %d bytes outside the workspace", dims[t]->name, dirty);
            FA_EXPECT(run_case(&q, dims[t]));
            FA_EXPECT_MSG(count_differences(&p, &q) == 0, "%s: offset %d", dims[t]->name, offset);
            free(memory), fap_free(&p), fap_free(&q);
        }
}

/* 2^20 keys and less than 2 MB of workspace: 16384 keys in pages, each page 64 times.  The softmax of a key that
 * comes 64 times is that of one key with LSE higher by log 64. */
FA_TEST(a_million_keys) {
    enum { PAGE = 16, PAGES = 1024, TIMES = 64, ROWS = 41 };
    fap_problem p;
    double worst_o = 0, worst_lse = 0;
    uint64_t rng = fat_seed;
    int32_t *table = (int32_t *)malloc(PAGES * TIMES * sizeof *table);
    FA_REQUIRE(table && build_case(&p, &f32_32_info, "sq=%d sk=%d page=%d", ROWS, PAGE * PAGES, PAGE));
    fap_expect(&p);
    for (int n = 0; n < PAGES * TIMES; n++) { /* in random order: rounding errors of a periodic sum do not cancel */
        int at = fat_below(&rng, n + 1);
        table[n] = table[at], table[at] = p.pages[n % PAGES];
    }
    p.args.block_table = table, p.args.block_table_stride = 0, p.args.seqlen_k = PAGE * PAGES * TIMES;
    FA_EXPECT(p.args.seqlen_k == 1 << 20);
    FA_EXPECT(f32_32_forward_workspace(&p.args) < 2 << 20);
    FA_EXPECT(run_case(&p, &f32_32_info));
    for (int i = 0; i < ROWS; i++) {
        for (int d = 0; d < 32; d++)
            worst_o = fmax(worst_o, fabs((double)((const float *)(const void *)p.o.place.data)[i * 32 + d] -
                                         p.o_ref[i * 32 + d]));
        worst_lse = fmax(worst_lse, fabs((double)((const float *)(const void *)p.lse.place.data)[i] -
                                         p.lse_ref[i] - log((double)TIMES)));
    }
    /* sums of 2^20 terms in f32, whose rounding repeats with the pages; |o| is about 1/128, lse about 14 */
    FA_EXPECT_MSG(worst_o < 2e-5 && worst_lse < 1.5e-4, "o %g, lse %g", worst_o, worst_lse);
    free(table), fap_free(&p);
}

FA_TEST_MAIN
