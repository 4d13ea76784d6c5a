/* test_features.c - what changes scores, hides keys and moves data: alone, in pairs, and in random combinations.
 *
 * A failure prints the case as one line.  To run it alone, on every instance that it fits:
 *     FA_CASE="hq=4 sq=37 sk=83 d=32 causal=1 seed=9" test_features --filter one_case */
#include "fa_test.h"

#define INSTANCES_DTYPES
#define INSTANCES_HOOKS
#define FA_DEFAULT_PASSES FA_FORWARD
#include "instances.h"

/* ---- alone and in pairs -------------------------------------------------------------------- */

typedef struct option {
    uint32_t feature; /* 0: a layout and the like, which every instance has */
    const char *text;
} option;

static const option options[] = {
    {0, ""},
    {FA_CAUSAL, "causal=1"},
    {FA_WINDOW, "wl=29"},
    {FA_WINDOW, "wr=17"},
    {FA_WINDOW, "wl=9 wr=3"},
    {FA_VARLEN, "varlen=1"},
    {FA_VARLEN, "used=1"},
    {FA_VARLEN, "used=2"},
    {FA_PAGED, "page=1"},
    {FA_PAGED, "page=3"},
    {FA_PAGED, "page=16"},
    {FA_PAGED, "page=256"},
    {FA_SOFTCAP, "softcap=20"},
    {FA_ALIBI, "alibi=1"},
    {FA_ALIBI, "alibi=2"},
    {FA_BIAS, "bias=1"},
    {FA_BIAS, "bias=2"},
    {FA_BIAS, "bias=3"},
    {FA_BIAS, "bias=4"},
    {FA_DROPOUT, "drop=0.3"},
    {FA_SINK, "sink=1"},
    {FA_BLOCK_MASK, "bm=1"},
    {FA_BLOCK_MASK, "bm=7"},
    {FA_BLOCK_MASK, "bm=64"},
    {FA_TREE_MASK, "tree=1"},
    {FA_TREE_MASK, "tree=2"},
    {0, "layout=bhsd"},
    {0, "layout=padded"},
    {0, "layout=qkv"},
    {0, "layout=bcast"},
    {0, "descale=1"},
    {0, "descale=2"},
    {0, "descale=3"},
    {0, "scale=0.4"},
    {0, "scale=-0.2"},
    {0, "lse=0"},
    {0, "nan=1"},
};

/* Does the instance have both, and do they not exclude each other? */
static int possible(const fa_info *info, const option *x, const option *y) {
    if ((x->feature | y->feature) & ~info->features) return 0;
    return x == y || !x->feature || x->feature != y->feature;
}

/* On all instances, each with a part of the shapes. */
FA_TEST(each_alone) {
    static const char *const shapes[] = {"b=3 hq=4 hk=2 sq=70 sk=150", "b=2 hq=1 sq=1 sk=203", "b=2 hq=3 sq=37 sk=83",
                                         "b=1 hq=8 hk=1 sq=3 sk=129", "b=2 hq=2 sq=129 sk=131"};
    for (int t = 0; t < COUNT(dtypes); t++)
        for (int x = 0; x < COUNT(options); x++)
            for (int s = 0; s < COUNT(shapes); s++)
                if (possible(dtypes[t], &options[x], &options[x]) && (t + x + s) % 3 == 0 && due())
                    FA_EXPECT(check_case(dtypes[t], "%s %s", shapes[s], options[x].text));
}

/* All pairs, each on half of the core; panels, and few rows. */
FA_TEST(all_pairs) {
    for (int t = 0; t < COUNT(core); t++)
        for (int x = 0; x < COUNT(options); x++)
            for (int y = 0; y < x; y++)
                if (possible(core[t], &options[x], &options[y]) && (t + x + y) % 2 == 0 && due())
                    FA_EXPECT(check_case(core[t], "b=2 hq=4 hk=2 sq=%d sk=83 %s %s seed=%d", (x + y) % 3 ? 37 : 3,
                                         options[x].text, options[y].text, 100 * x + y));
}

/* ---- in random combinations ---------------------------------------------------------------- */

static void walk(const fa_info *const *infos, int count, int steps, int most_q, int most_k, uint64_t rng) {
    for (int n = 0; n < steps; n++) {
        const fa_info *info = infos[fat_below(&rng, count)];
        char line[512];
        fap_random(line, &rng, info->features, most_q, most_k);
        FA_EXPECT_MSG(check_case(info, "%s", line), "step %d", n);
    }
}
FA_TEST(random_walk) { walk(dtypes, COUNT(dtypes), scaled(300), 150, 260, fat_seed); }
FA_TEST(random_walk_of_few_rows) { walk(dtypes, COUNT(dtypes), scaled(400), 8, 400, fat_seed + 1); }
FA_TEST(random_walk_with_hooks) { walk(hooks, COUNT(hooks), scaled(150), 100, 200, fat_seed + 2); }

FA_TEST(one_case) {
    const char *line = getenv("FA_CASE") ? getenv("FA_CASE") : "hq=4 hk=2 sq=37 sk=83 d=32 causal=1 seed=9";
    int ran = 0;
    fap_spec want;
    FA_REQUIRE(fap_parse(&want, line));
    for (int t = 0; t < COUNT(dtypes) + COUNT(hooks); t++) {
        const fa_info *info = t < COUNT(dtypes) ? dtypes[t] : hooks[t - COUNT(dtypes)];
        if (want.d != info->head_dim || want.dtype != info->dtype || (want.kv && want.kv != info->kv_dtype) ||
            (want.out && want.out != info->o_dtype))
            continue;
        printf("# %s\n", info->name), ran++;
        FA_EXPECT(check_case(info, "%s", line));
    }
    FA_EXPECT_MSG(ran > 0, "no instance of these dtypes and head dims");
}

/* ---- layouts and pages do not matter ------------------------------------------------------- */

FA_TEST(layouts_same_bits) {
    static const char *const moved[] = {"layout=bhsd", "layout=padded", "layout=qkv", "page=1", "page=3", "page=16",
                                        "page=256",    "page=7 layout=padded", "page=32 layout=bhsd"};
    static const char *const shapes[] = {"b=2 hq=4 hk=2 sq=45 sk=150", "b=2 hq=3 sq=5 sk=90 causal=1",
                                         "b=1 hq=2 sq=131 sk=203 wl=50 alibi=1"};
    for (int t = 0; t < COUNT(dtypes); t++)
        for (int s = 0; s < COUNT(shapes); s++)
            for (int m = 0; m < COUNT(moved); m++) {
                fap_problem p, q;
                if (!due()) continue;
                FA_REQUIRE(build_case(&p, dtypes[t], "%s", shapes[s]));
                FA_REQUIRE(build_case(&q, dtypes[t], "%s %s", shapes[s], moved[m]));
                FA_EXPECT(run_case(&p, dtypes[t]) && run_case(&q, dtypes[t]));
                FA_EXPECT_MSG(count_differences(&p, &q) == 0, "%s: %s %s", dtypes[t]->name, shapes[s], moved[m]);
                fap_free(&p), fap_free(&q);
            }
}

/* ---- dropout ------------------------------------------------------------------------------- */

/* With V = a column each for 32 keys from `first` on, O is P of these keys, and 0 exactly where an element is dropped. */
static void one_hot_values(fap_problem *p, int first) {
    int dv = p->spec.dv;
    for (int b = 0; b < p->spec.b; b++)
        for (int hk = 0; hk < p->spec.hk; hk++)
            for (int j = 0; j < p->spec.sk; j++)
                for (int d = 0; d < dv; d++)
                    fa_store(p->v.data, fap_at_k(p, &p->v, b, j, hk) + d, p->spec.kv, j == first + d ? 1.0f : 0.0f);
}

/* Counts the elements that the instance drops but should not, or the other way; adds up what it keeps. */
static int wrong_elements(const fa_info *info, int sq, double *kept, double *all) {
    enum { KEYS = 200 };
    int wrong = 0;
    for (int first = 0; first < KEYS; first += info->head_dim_v) {
        fap_problem p;
        if (!build_case(&p, info, "b=2 hq=4 hk=2 sq=%d sk=%d drop=0.3 scale=0.05", sq, KEYS)) return 1;
        one_hot_values(&p, first);
        wrong += !run_case(&p, info);
        for (int b = 0; b < p.spec.b; b++)
            for (int h = 0; h < p.spec.hq; h++)
                for (int i = 0; i < sq; i++)
                    for (int d = 0; d < p.spec.dv && first + d < KEYS; d++) {
                        float o = fa_load(p.o.place.data, fap_at_q(&p, &p.o.place, b, i, h) + d, p.spec.out);
                        wrong += (o > 0) != (fa_dropout_keep(&p.args, b, h, i, first + d) != 0) || !(o >= 0);
                        *kept += o > 0, *all += 1;
                    }
        fap_free(&p);
    }
    return wrong;
}

FA_TEST(dropout_of_the_same_elements_for_all_tiles_and_dtypes) {
    static const int rows[] = {1, 3, 8, 33, 70};
    double kept = 0, all = 0;
    for (int t = 0; t < COUNT(dtypes); t++)
        for (int r = 0; r < COUNT(rows); r++) {
            int wrong;
            if (!due() && (t > 0 || rows[r] < 70)) continue; /* one of many elements, always */
            wrong = wrong_elements(dtypes[t], rows[r], &kept, &all);
            FA_EXPECT_MSG(wrong == 0, "%s, %d rows: %d elements", dtypes[t]->name, rows[r], wrong);
        }
    FA_EXPECT_NEAR(kept / all, 0.7, 0.01);
}

/* Seed and offset choose the elements; LSE does not notice. */
FA_TEST(dropout_seed_and_offset) {
    static const char line[] = "hq=2 sq=37 sk=83 drop=0.5";
    fap_problem p, q;
    FA_REQUIRE(build_case(&p, &f32_32_info, "%s", line));
    FA_REQUIRE(build_case(&q, &f32_32_info, "%s", line));
    FA_EXPECT(run_case(&p, &f32_32_info));
    for (int change = 0; change < 4; change++) {
        fa_args args = q.args;
        if (change == 1) q.args.dropout_seed ^= 1;
        if (change == 2) q.args.dropout_seed ^= (uint64_t)1 << 63;
        if (change == 3) q.args.dropout_offset++;
        fap_reset(&q), q.o_ref = NULL;
        FA_EXPECT(run_case(&q, &f32_32_info));
        FA_EXPECT(fap_judge(&q, "dropout"));
        FA_EXPECT_MSG((count_differences(&p, &q) > 1000) == (change != 0), "change %d", change);
        FA_EXPECT(memcmp(p.lse.bytes, q.lse.bytes, p.lse.size) == 0);
        q.args = args;
    }
    fap_free(&p), fap_free(&q);
}

/* ---- masks --------------------------------------------------------------------------------- */

/* Blocks of any shape, and of each head; one byte of 0 hides, any other shows. */
FA_TEST(block_masks_of_odd_sizes) {
    static const int sizes[][2] = {{1, 1},   {1, 5},    {3, 2},   {7, 13},     {13, 8},
                                   {64, 48}, {50, 100}, {128, 3}, {1000, 1000}};
    static const char *const shapes[] = {"b=2 hq=4 hk=2 sq=70 sk=150", "hq=2 sq=5 sk=203 causal=1",
                                         "sq=130 sk=66 wl=40"};
    uint64_t rng = fat_seed;
    for (int t = 0; t < COUNT(core); t++)
        for (int n = 0; n < COUNT(sizes); n++)
            for (int s = 0; s < COUNT(shapes); s++) {
                fap_problem p;
                unsigned char *mask;
                int rows, cols, heads;
                if (!due()) continue;
                FA_REQUIRE(build_case(&p, core[t], "%s", shapes[s]));
                rows = (p.spec.sq + sizes[n][0] - 1) / sizes[n][0], cols = (p.spec.sk + sizes[n][1] - 1) / sizes[n][1];
                heads = p.spec.b * p.spec.hq;
                mask = (unsigned char *)fap_alloc(&p, (int64_t)heads * rows * cols);
                for (int i = 0; i < heads * rows * cols; i++)
                    mask[i] = (unsigned char)(fat_below(&rng, 3) ? 1 << fat_below(&rng, 8) : 0);
                p.args.block_mask.data = mask;
                p.args.block_mask.block_q = sizes[n][0], p.args.block_mask.block_k = sizes[n][1];
                FA_EXPECT(run_case(&p, core[t]));
                FA_EXPECT_MSG(fap_judge(&p, core[t]->name), "blocks of %d x %d", sizes[n][0], sizes[n][1]);
                fap_free(&p);
            }
}

/* A chain of draft tokens is a causal mask. */
FA_TEST(tree_of_one_chain_is_causal) {
    static const int lengths[][2] = {{1, 1}, {5, 5}, {8, 40}, {33, 33}, {40, 203}, {70, 131}};
    for (int t = 0; t < COUNT(core); t++)
        for (int n = 0; n < COUNT(lengths); n++) {
            fap_problem p, q;
            FA_REQUIRE(build_case(&p, core[t], "hq=3 sq=%d sk=%d tree=2", lengths[n][0], lengths[n][1]));
            FA_REQUIRE(build_case(&q, core[t], "hq=3 sq=%d sk=%d causal=1", lengths[n][0], lengths[n][1]));
            FA_EXPECT(run_case(&p, core[t]) && run_case(&q, core[t]));
            FA_EXPECT(fap_judge(&p, "tree") && fap_judge(&q, "causal"));
            FA_EXPECT(memcmp(p.lse_ref, q.lse_ref, sizeof(double) * 3 * (size_t)lengths[n][0]) == 0);
            fap_free(&p), fap_free(&q);
        }
}

/* Windows that hide nothing change no bit, and causal is a window to the right of one key. */
FA_TEST(windows_as_wide_as_the_keys) {
    static const char *const same[][2] = {{"", "wl=203"},
                                          {"", "wr=203"},
                                          {"", "wl=2147483647 wr=2147483647"},
                                          {"causal=1", "wr=1"},
                                          {"causal=1", "causal=1 wr=9"},
                                          {"causal=1 wl=30", "wl=30 wr=1"}};
    for (int t = 0; t < COUNT(core); t++)
        for (int n = 0; n < COUNT(same); n++) {
            fap_problem p, q;
            FA_REQUIRE(build_case(&p, core[t], "hq=2 sq=117 sk=203 %s", same[n][0]));
            FA_REQUIRE(build_case(&q, core[t], "hq=2 sq=117 sk=203 %s", same[n][1]));
            FA_EXPECT(run_case(&p, core[t]) && run_case(&q, core[t]));
            FA_EXPECT_MSG(count_differences(&p, &q) == 0, "%s: '%s' and '%s'", core[t]->name, same[n][0], same[n][1]);
            fap_free(&p), fap_free(&q);
        }
}

/* Every window at every edge, and every page size and tile. */
FA_TEST(windows_at_every_edge) {
    for (int wl = 0; wl <= 70; wl += wl < 10 ? 1 : 9)
        for (int wr = 0; wr <= 70; wr += wr < 3 ? 1 : 13)
            for (int t = 0; t < COUNT(core); t++)
                if (due()) FA_EXPECT(check_case(core[t], "hq=2 sq=75 sk=140 wl=%d wr=%d", wl, wr));
}

/* Sequences of no queries, of no keys, of neither. */
FA_TEST(empty_sequences) {
    static const int32_t cu_q[] = {0, 0, 5, 5, 38, 38}, cu_k[] = {0, 7, 7, 7, 60, 60};
    for (int t = 0; t < COUNT(core); t++)
        for (int causal = 0; causal <= 1; causal++) {
            fap_problem p; /* rows of the one sequence of the problem become five sequences */
            double lse[2 * 38], *o, *scratch;
            FA_REQUIRE(build_case(&p, core[t], "hq=2 sq=38 sk=60"));
            p.args.batch = 5, p.args.causal = causal, p.args.cu_seqlens_q = cu_q, p.args.cu_seqlens_k = cu_k;
            o = (double *)malloc(38 * 2 * 256 * sizeof *o), scratch = (double *)malloc((60 + 512) * sizeof *scratch);
            FA_REQUIRE(o && scratch && fa_reference_forward(core[t], &p.args, o, lse, scratch) == FA_OK);
            FA_EXPECT(run_case(&p, core[t]));
            for (int n = 0; n < 2 * 38; n++) {
                FA_EXPECT_NEAR((double)fa_load(p.lse.place.data, n, FA_F32), lse[n], 1e-4);
                for (int d = 0; d < p.spec.dv; d++)
                    FA_EXPECT_NEAR((double)fa_load(p.o.place.data, n * p.spec.dv + d, p.spec.out),
                                   o[n * p.spec.dv + d], 0.05);
            }
            free(o), free(scratch), fap_free(&p);
        }
}

FA_TEST_MAIN
