/* test_decode.c - the decode pass: layouts, dtypes, features, splits; the same bits whoever does the work. */
#include "fa_test.h"

#include <pthread.h>

#define INSTANCES_DIMS
#define INSTANCES_DTYPES
#define INSTANCES_HOOKS
#define FA_DEFAULT_PASSES (FA_FORWARD | FA_DECODE)
#include "instances.h"

static const fa_info *const most[] = {CORE, &bf16_i8_64_info};

static int decode_case(const fa_info *info, const char *format, ...) {
    char line[512];
    va_list list;
    va_start(list, format), vsnprintf(line, sizeof line, format, list), va_end(list);
    return fap_check_decode(info, line);
}

/* Runs p with a workspace of NaN; its outputs are as before. */
static int run_decode(fap_problem *p, const fa_info *info) {
    size_t bytes = info->decode_workspace(&p->args);
    void *workspace = malloc(bytes);
    fa_status status;
    if (!workspace) abort();
    status = info->decode(&p->args, memset(workspace, 0xff, bytes), bytes);
    free(workspace);
    if (status) printf("# %s: %s\n", info->name, fa_strerror(status));
    return status == FA_OK;
}

/* ---- shapes ------------------------------------------------------------------------------ */

static const char *const layouts[] = {"",       "layout=bhsd",           "layout=padded",     "page=1",
                                      "page=3", "page=16 layout=padded", "page=256 descale=4"};

FA_TEST(layouts_and_dtypes) {
    for (int t = 0; t < COUNT(dtypes); t++)
        for (int l = 0; l < COUNT(layouts); l++)
            for (int rows = 1; rows <= 4; rows += 3)
                if (due())
                    FA_EXPECT(decode_case(
                        dtypes[t], "b=2 hq=4 hk=2 sq=%d sk=%d causal=1 descale=%d threads=%d seed=%d %s",
                        rows, 700 + 61 * l, (t + l) % 5, 1 + l % 3, t, layouts[l]));
}

FA_TEST(head_dims) {
    for (int t = 0; t < COUNT(dims); t++)
        for (int rows = 1; rows <= 9; rows += 4)
            if (due()) FA_EXPECT(decode_case(dims[t], "hq=3 hk=1 sq=%d sk=291 causal=1", rows));
}

/* One below and one above every edge: chunks of 32 keys, vectors of 4, 8 or 16, 1 to 8 rows at a time, panels of 32. */
FA_TEST(edges) {
    static const int keys[] = {0,  1,  2,  3,  7,  8,  15, 16, 17,  31,  32,
                               33, 47, 63, 64, 65, 95, 96, 97, 191, 192, 193};
    static const int rows[] = {1,  2,  3,  4,  5,  6,  7,  8,  9,  11, 12, 13, 15,
                               16, 17, 20, 24, 25, 31, 32, 33, 40, 48, 49, 63, 64};
    for (int r = 0; r < COUNT(rows); r++)
        for (int k = 0; k < COUNT(keys); k++)
            for (int t = (r + k) % 3; t < COUNT(core); t += 3)
                if (due())
                    FA_EXPECT(decode_case(core[t], "sq=%d sk=%d causal=%d split=%d seed=%d", rows[r], keys[k],
                                          (r + k) % 2, k % 3 == 2 ? 64 : 0, r));
}

FA_TEST(groups) {
    static const int heads[][2] = {{1, 1}, {2, 1}, {3, 1},  {4, 1},  {5, 1},  {6, 1},
                                   {7, 1}, {8, 1}, {14, 2}, {12, 4}, {71, 1}, {130, 2}};
    for (int n = 0; n < COUNT(heads); n++)
        for (int rows = 1; rows <= 9; rows += 2)
            for (int t = (n + rows) % 2; t < COUNT(core); t += 2)
                if (due())
                    FA_EXPECT(decode_case(core[t], "b=2 hq=%d hk=%d sq=%d sk=%d causal=1 split=%d seed=%d",
                                          heads[n][0], heads[n][1], rows, 130 + 9 * n, n % 2 ? 64 : 0, n));
}

FA_TEST(trees) {
    static const int rows[] = {2, 3, 7, 8, 9, 16, 31, 32, 33, 63, 64};
    for (int r = 0; r < COUNT(rows); r++)
        for (int t = 0; t < COUNT(most); t++)
            if (due())
                FA_EXPECT(decode_case(most[t],
                                      "b=2 hq=4 hk=2 sq=%d sk=%d tree=%d used=2 page=%d split=%d threads=2",
                                      rows[r], 130 + rows[r], 1 + r % 2, r % 3 ? 16 : 0, t % 2 ? 64 : 0));
}

/* ---- splits ------------------------------------------------------------------------------ */

/* 1, 2, 3, 17 and 133 splits; the planner's own for 1 .. 9 threads. */
FA_TEST(splits) {
    static const int counts[] = {1, 2, 3, 17, 133};
    for (int t = 0; t < COUNT(most); t++)
        for (int n = 0; n < COUNT(counts); n++)
            for (int more = -1; more <= 1; more++)
                if (due()) {
                    const int length = 64 * counts[n] + more - (more > 0);
                    FA_EXPECT(decode_case(most[t], "b=2 hq=6 hk=2 sq=%d sk=%d split=%d causal=1 threads=2",
                                          1 + n, length, 64));
                    FA_EXPECT(decode_case(most[t], "b=2 hq=2 hk=2 sq=3 sk=%d split=%d sink=1 wl=%d", length,
                                          65 + 30 * n, length / 2));
                }
}

static int64_t count_splits(const fa_args *args) { /* of all heads */
    return f32_32_decode_num_tasks(args, 0);
}

FA_TEST(the_planner) {
    fap_problem p;
    FA_REQUIRE(build_case(&p, &f32_32_info, "b=2 hq=8 hk=4 sk=4096 layout=bhsd"));
    for (int threads = 1; threads <= 64; threads++) {
        p.args.num_threads = threads;
        const int64_t n = count_splits(&p.args), rounds = (n + threads - 1) / threads;
        FA_EXPECT_MSG(n % 8 == 0 && n <= 8 * 8, "%d threads: %d tasks", threads,
                      (int)n); /* at least 512 keys each */
        if (threads <= 8)
            FA_EXPECT_MSG((double)n / (double)(rounds * threads) > 0.9, "%d threads: %d tasks", threads,
                          (int)n);
        if (8 % threads == 0) FA_EXPECT(n == 8 && f32_32_decode_num_tasks(&p.args, 1) == 0); /* none needed */
    }
    p.args.split_keys = 100, p.args.num_threads = 3;
    FA_EXPECT(count_splits(&p.args) == 8 * 41 && f32_32_decode_num_tasks(&p.args, 1) == 8);
    p.args.window_left = 250; /* keys 3846 .. 4095: splits 38 .. 40 */
    FA_EXPECT(count_splits(&p.args) == 8 * 3);
    fap_free(&p);
    FA_REQUIRE(
        build_case(&p, &f32_32_info, "b=2 hq=8 hk=4 sk=4096")); /* heads side by side are read together */
    FA_EXPECT(count_splits(&p.args) == 2);
    for (int threads = 1; threads <= 16; threads++) {
        p.args.num_threads = threads;
        const int64_t n = count_splits(&p.args), rounds = (n + threads - 1) / threads;
        FA_EXPECT_MSG((double)n / (double)(rounds * threads) > 0.85, "%d threads: %d tasks", threads, (int)n);
    }
    fap_free(&p);
    for (int threads = 1; threads <= 9; threads++)
        FA_EXPECT(decode_case(&f32_32_info, "b=3 hq=4 hk=2 sq=2 sk=5000 varlen=1 used=1 causal=1 threads=%d",
                              threads));
}

/* Sequences without queries or keys among others. */
FA_TEST(empty_sequences) {
    for (int t = 0; t < COUNT(most); t++)
        for (int seed = 0; seed < 12; seed++)
            if (due())
                FA_EXPECT(decode_case(most[t], "b=6 hq=2 sq=3 sk=150 %s causal=%d split=%d threads=2 seed=%d",
                                      seed % 2 ? "varlen=1" : "used=1 page=16", seed % 3 == 0,
                                      seed % 4 ? 64 : 0, seed));
}

/* ---- features ---------------------------------------------------------------------------- */

static const char *const features[] = {
    "",       "causal=1", "wl=70",      "wr=3 wl=90", "softcap=5", "alibi=1",    "alibi=2",     "bias=1",
    "bias=2", "bias=3",   "bias=4",     "drop=0.3",   "sink=1",    "bm=16",      "bm=64",       "tree=1",
    "used=1", "varlen=1", "scale=-0.3", "nan=1",      "lse=0",     "layout=qkv", "layout=bcast"};

FA_TEST(features_one_by_one) {
    for (int t = 0; t < COUNT(most); t++)
        for (int n = 0; n < COUNT(features); n++)
            for (int rows = 1; rows <= 41; rows += rows < 5 ? 4 : 36)
                for (int split = 0; split <= 64; split += 64)
                    if (due() && !(!strcmp(features[n], "nan=1") &&
                                   most[t]->kv_dtype == FA_I8)) /* bytes have no NaN */
                        FA_EXPECT(decode_case(most[t], "b=2 hq=4 hk=2 sq=%d sk=213 %s split=%d seed=%d", rows,
                                              features[n], split, n));
}

FA_TEST(hooks_in_decode) {
    for (int t = 0; t < COUNT(hooks); t++)
        for (int rows = 1; rows <= 37; rows += 9)
            FA_EXPECT(decode_case(hooks[t], "b=2 hq=6 hk=2 sq=%d sk=333 causal=1 split=%d", rows,
                                  rows % 2 ? 64 : 0));
}

FA_TEST(random_mixtures) {
    uint64_t rng = fat_seed;
    for (int n = 0; n < scaled(900); n++) {
        char line[512], more[64];
        const fa_info *info = n % 8 == 7 ? hooks[n / 8 % COUNT(hooks)] : dtypes[n % COUNT(dtypes)];
        fap_random(line, &rng, info->features, 64, 700);
        sprintf(more, " split=%d threads=%d%s", fat_below(&rng, 2) ? 64 + fat_below(&rng, 200) : 0,
                1 + fat_below(&rng, 4), n % 5 == 0 ? " descale=4" : "");
        FA_EXPECT(fap_check_decode(info, strcat(line, more)));
    }
}

/* ---- the same bits ----------------------------------------------------------------------- */

/* split_keys: for any number of threads. */
FA_TEST(any_number_of_threads) {
    static const int threads[] = {1, 2, 3, 7, 33};
    for (int t = 0; t < COUNT(most); t++) {
        fap_problem p, q;
        FA_REQUIRE(build_case(&p, most[t], "b=3 hq=6 hk=2 sq=5 sk=700 causal=1 used=2 split=100 threads=1"));
        FA_REQUIRE(build_case(&q, most[t], "b=3 hq=6 hk=2 sq=5 sk=700 causal=1 used=2 split=100 threads=1"));
        FA_EXPECT(run_decode(&p, most[t]) && fap_judge(&p, "threads"));
        for (int n = 0; n < COUNT(threads); n++) {
            q.args.num_threads = threads[n];
            fap_reset(&q);
            FA_EXPECT(run_decode(&q, most[t]));
            FA_EXPECT_MSG(count_differences(&p, &q) == 0, "%s: %d threads", most[t]->name, threads[n]);
        }
        fap_free(&p), fap_free(&q);
    }
}

/* Bits of the row at x.o and of its lse against those at y. */
static int same_row(const fap_problem *p, int b, int h, int i, const float *o, const float *lse) {
    int same = 1;
    int64_t at = fap_at_q(p, &p->o.place, b, i, h), l = fap_at_q(p, &p->lse.place, b, i, h);
    for (int d = 0; d < p->spec.dv; d++)
        same &= fai_bits_of(fa_load(p->o.place.data, at + d, p->spec.out)) == fai_bits_of(o[d]);
    return same && fai_bits_of(fa_load(p->lse.place.data, l, FA_F32)) == fai_bits_of(*lse);
}

/* Each row of a batch once more, as a call of its own: one sequence, one query, one head. */
FA_TEST(rows_alone_and_in_company) {
    static const char *const lines[] = {
        "b=3 hq=10 hk=2 sq=7 sk=400 causal=1 used=2 split=100 threads=3",
        "b=2 hq=6 hk=1 sq=9 sk=517 causal=1 wl=150 split=64 layout=padded threads=2",
        "b=2 hq=3 hk=1 sq=31 sk=300 causal=1 page=16 split=133 descale=4",
        "b=2 hq=4 hk=2 sq=3 sk=200 split=1000 sink=1",
        "b=2 hq=8 hk=4 sq=2 sk=300 causal=1 page=16 split=100 descale=4"};
    for (int t = 0; t < COUNT(dtypes); t++)
        for (int n = 0; n < COUNT(lines); n++) {
            const fa_info *info = dtypes[t];
            fap_problem p;
            if (!due()) continue;
            FA_REQUIRE(build_case(&p, info, "%s", lines[n]));
            FA_EXPECT(run_decode(&p, info) && fap_judge(&p, "company"));
            for (int b = 0; b < p.spec.b; b++)
                for (int h = 0; h < p.spec.hq; h++)
                    for (int i = 0; i < p.len_q[b]; i++) {
                        const int hk = h / (p.spec.hq / p.spec.hk);
                        const fa_sequence seq = fa_get_sequence(&p.args, b);
                        float o[64], lse;
                        double out[96];
                        fa_args a = p.args;
                        int32_t seen = seq.len_k;
                        if (a.causal)
                            seen =
                                fa_row_range(&a, seq.len_q, seq.len_k, i).hi; /* and it is the last query */
                        a.batch = a.num_heads = a.seqlen_q = 1, a.num_heads_k = 0, a.seqused_q = NULL;
                        a.seqused_k = a.block_table ? &seen : NULL, a.num_threads = 1 + (b + h + i) % 2;
                        if (!a.block_table)
                            a.seqlen_k = seen;
                        else
                            a.block_table_stride = (p.spec.sk + a.page_size - 1) / a.page_size,
                            a.block_table += b * a.block_table_stride;
                        a.q.data = (const char *)a.q.data +
                                   fap_at_q(&p, &p.q, b, i, h) * (int64_t)fa_sizeof(info->dtype);
                        if (!a.block_table) {
                            a.k.data = (const char *)a.k.data +
                                       (b * p.k.sb + hk * p.k.sh) * (int64_t)fa_sizeof(info->kv_dtype);
                            a.v.data = (const char *)a.v.data +
                                       (b * p.v.sb + hk * p.v.sh) * (int64_t)fa_sizeof(info->kv_dtype);
                        } else {
                            a.k.data =
                                (const char *)a.k.data + hk * p.k.sh * (int64_t)fa_sizeof(info->kv_dtype);
                            a.v.data =
                                (const char *)a.v.data + hk * p.v.sh * (int64_t)fa_sizeof(info->kv_dtype);
                        }
                        a.k.stride_b = p.k.sb, a.k.stride_s = p.k.ss, a.k.stride_h = p.k.sh;
                        a.v.stride_b = p.v.sb, a.v.stride_s = p.v.ss, a.v.stride_h = p.v.sh;
                        if (a.sink) a.sink += h;
                        if (a.q_descale.data)
                            a.q_descale.data = fai_descale_at(&p.args, &p.args.q_descale, b, h, i);
                        fa_descale *kv[2] = {&a.k_descale, &a.v_descale};
                        for (int x = 0; x < 2; x++)
                            if (kv[x]->data)
                                kv[x]->data +=
                                    (kv[x]->paged ? 0 : b * kv[x]->stride_b) + hk * kv[x]->stride_h;
                        memset(&a.o, 0, sizeof a.o), memset(&a.lse, 0, sizeof a.lse);
                        a.o.data = out, a.lse.data = &lse;
                        const size_t bytes = info->decode_workspace(&a);
                        void *workspace = malloc(bytes);
                        FA_REQUIRE(bytes && workspace && info->decode(&a, workspace, bytes) == FA_OK);
                        free(workspace);
                        for (int d = 0; d < info->head_dim_v && d < 64; d++)
                            o[d] = fa_load(out, d, info->o_dtype);
                        if (info->head_dim_v <= 64)
                            FA_EXPECT_MSG(same_row(&p, b, h, i, o, &lse), "%s: %s: b %d h %d i %d",
                                          info->name, lines[n], b, h, i);
                    }
            fap_free(&p);
        }
}

static const char *const several = "b=3 hq=6 hk=2 sq=4 sk=900 causal=1 varlen=1 split=90";

FA_TEST(repeats) {
    static const int threads[] = {1, 2, 7};
    for (int t = 0; t < COUNT(most); t++)
        for (int n = 0; n < COUNT(threads); n++) {
            fap_problem p, q;
            FA_REQUIRE(build_case(&p, most[t], "%s threads=%d", several, threads[n]));
            FA_REQUIRE(build_case(&q, most[t], "%s threads=%d", several, threads[n]));
            p.args.split_keys = q.args.split_keys = n % 2 ? 90 : 0;
            FA_EXPECT(run_decode(&p, most[t]) && fap_judge(&p, "repeats"));
            for (int i = 0; i < (quick() ? 10 : 250); i++) {
                fap_reset(&q);
                FA_EXPECT(run_decode(&q, most[t]));
                FA_REQUIRE(count_differences(&p, &q) == 0);
            }
            fap_free(&p), fap_free(&q);
        }
}

static void shuffle(int64_t *order, int64_t n, uint64_t *rng) {
    for (int64_t i = 0; i < n; i++) {
        int64_t at = fat_below(rng, (int)i + 1);
        order[i] = order[at], order[at] = i;
    }
}

/* The tasks of each stage in random order, by any of the threads. */
FA_TEST(tasks_in_random_order) {
    enum { MOST = 1024, THREADS = 5 };
    fap_problem p, q;
    uint64_t rng = fat_seed;
    FA_REQUIRE(build_case(&p, &f32_32_info, "%s threads=%d", several, THREADS));
    FA_REQUIRE(build_case(&q, &f32_32_info, "%s threads=%d", several, THREADS));
    FA_EXPECT(run_decode(&p, &f32_32_info));
    for (int repeat = 0; repeat < 5; repeat++) {
        size_t bytes = f32_32_decode_workspace(&q.args);
        void *workspace = malloc(bytes);
        FA_REQUIRE(workspace != NULL);
        memset(workspace, 0xff, bytes), fap_reset(&q);
        for (int stage = 0; stage < 2; stage++) {
            int64_t order[MOST], n = f32_32_decode_num_tasks(&q.args, stage);
            FA_REQUIRE(n > 5 && n <= MOST);
            shuffle(order, n, &rng);
            for (int64_t i = 0; i < n; i++)
                f32_32_decode_run_task(&q.args, stage, order[i], fat_below(&rng, THREADS), workspace);
        }
        FA_EXPECT(count_differences(&p, &q) == 0 && fap_judge(&q, "tasks"));
        free(workspace);
    }
    fap_free(&p), fap_free(&q);
}

/* A stage's tasks from several threads at once. */
enum { WORKERS = 5 };
typedef struct worker {
    pthread_t thread;
    const fa_args *args;
    void *workspace;
    int number, stage;
} worker;

static void *work(void *context) {
    const worker *w = (const worker *)context;
    for (int64_t task = w->number; task < bf16_64_decode_num_tasks(w->args, w->stage); task += WORKERS)
        bf16_64_decode_run_task(w->args, w->stage, task, w->number, w->workspace);
    return NULL;
}

FA_TEST(tasks_from_threads) {
    fap_problem p, q;
    worker workers[WORKERS];
    FA_REQUIRE(build_case(&p, &bf16_64_info, "%s threads=%d", several, WORKERS));
    FA_REQUIRE(build_case(&q, &bf16_64_info, "%s threads=%d", several, WORKERS));
    FA_EXPECT(run_decode(&p, &bf16_64_info));
    void *workspace = malloc(bf16_64_decode_workspace(&q.args));
    FA_REQUIRE(workspace != NULL);
    for (int stage = 0; stage < 2; stage++) {
        for (int n = 0; n < WORKERS; n++) {
            workers[n].args = &q.args, workers[n].workspace = workspace, workers[n].number = n,
            workers[n].stage = stage;
            FA_REQUIRE(pthread_create(&workers[n].thread, NULL, work, &workers[n]) == 0);
        }
        for (int n = 0; n < WORKERS; n++) pthread_join(workers[n].thread, NULL);
    }
    FA_EXPECT(count_differences(&p, &q) == 0 && fap_judge(&q, "threads"));
    free(workspace), fap_free(&p), fap_free(&q);
}

/* ---- calls ------------------------------------------------------------------------------- */

FA_TEST(workspaces) {
    enum { GUARD = 128 };
    for (int t = 0; t < COUNT(most); t++)
        for (int offset = 0; offset < 80; offset += 13) {
            fap_problem p;
            fa_error error = {FA_OK, "", 0, 0, 0, 0};
            unsigned char *memory;
            size_t bytes;
            int dirty = 0;
            FA_REQUIRE(build_case(&p, most[t], "b=2 hq=5 hk=1 sq=%d sk=333 causal=1 split=%d threads=3",
                                  1 + offset, offset % 2 ? 64 : 0));
            p.args.error = &error;
            bytes = most[t]->decode_workspace(&p.args), memory = (unsigned char *)malloc(bytes + 3 * GUARD);
            FA_REQUIRE(memory != NULL);
            memset(memory, 0xff, bytes + 3 * GUARD);
            FA_EXPECT(most[t]->decode(&p.args, NULL, bytes) == FA_ERR_WORKSPACE_NULL);
            FA_EXPECT(most[t]->decode(&p.args, memory, bytes - 1) == FA_ERR_WORKSPACE_SIZE &&
                      error.min == (double)bytes);
            FA_EXPECT(most[t]->decode(&p.args, memory + GUARD + offset, bytes) == FA_OK &&
                      fap_judge(&p, "workspace"));
            for (int n = 0; n < GUARD + offset; n++) dirty += memory[n] != 0xff;
            for (int n = GUARD + offset; n < 3 * GUARD; n++) dirty += memory[bytes + (size_t)n] != 0xff;
            FA_EXPECT_MSG(dirty == 0, "%s: %d bytes outside the workspace", most[t]->name, dirty);
            free(memory), fap_free(&p);
        }
}

FA_TEST(holes_in_the_block_table) {
    fap_problem p;
    int32_t table[8];
    FA_REQUIRE(build_case(&p, &f32_32_info, "sk=100 page=16 used=2 seed=3"));
    FA_REQUIRE(p.len_k[0] > 16);
    memcpy(table, p.args.block_table, sizeof(int32_t) * 7);
    p.args.block_table = table;
    for (int n = (p.len_k[0] + 15) / 16; n < 7; n++) table[n] = -1; /* not in use */
    FA_EXPECT(run_decode(&p, &f32_32_info) && fap_judge(&p, "holes"));
    table[1] = -1;
    FA_EXPECT(f32_32_decode_workspace(&p.args) == 0);
    FA_EXPECT(f32_32_decode(&p.args, table, 1 << 20) == FA_ERR_BLOCK_TABLE);
    fap_free(&p);
}

/* A factor that is none is found wherever it is, in every layout. */
FA_TEST(bad_factors) {
    static const char *const lines[] = {"b=2 hq=3 sk=100 descale=4", "b=2 hq=3 sk=100 descale=4 page=16"};
    static const float bad[] = {-1, NAN, INFINITY, -INFINITY};
    for (int n = 0; n < COUNT(lines); n++)
        for (int j = 0; j < 100; j++) {
            fap_problem p;
            fa_error error = {FA_OK, "", 0, 0, 0, 0};
            FA_REQUIRE(build_case(&p, &bf16_i8_64_info, "%s", lines[n]));
            float *x = (float *)(uintptr_t)fai_descale_at(&p.args, &p.args.v_descale, 1, j % 3, j);
            p.args.error = &error;
            *x = -0.0f; /* is 0 */
            FA_EXPECT(bf16_i8_64_decode_workspace(&p.args) > 0);
            *x = bad[j % 4];
            FA_EXPECT(bf16_i8_64_decode_workspace(&p.args) == 0 && error.status == FA_ERR_DESCALE_V);
            FA_EXPECT(error.index == x - p.args.v_descale.data);
            fap_free(&p);
        }
}

FA_TEST_MAIN
