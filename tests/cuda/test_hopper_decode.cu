/* test_hopper_decode.cu - the decode pass on sm_90a, 17 rows and more: K and V by TMA, products by wgmma. That it is the
 * kernel to run, and when it is not; its tiles, rows, pages and features. What it shares with the others is in
 * test_decode.cu. */
#include "cuda_test.h"

/* ---- instances --------------------------------------------------------------------------- */

#define FA_NAME f16_64_all
#define FA_HEAD_DIM 64
#define FA_DTYPE FA_F16
#define FA_PASSES FA_DECODE
#define FA_FEATURES FA_ALL_FEATURES
#include "flashattn_cuda.cuh"

#if !defined(FA_TEST_CORE) /* the others; mutants.sh compiles often */
#define FA_NAME bf16_64
#define FA_HEAD_DIM 64
#define FA_PASSES FA_DECODE
#include "flashattn_cuda.cuh"

#define FA_NAME f16_128
#define FA_HEAD_DIM 128
#define FA_DTYPE FA_F16
#define FA_PASSES FA_DECODE
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_256 /* one block an SM */
#define FA_HEAD_DIM 256
#define FA_PASSES FA_DECODE
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_80
#define FA_HEAD_DIM 80
#define FA_PASSES FA_DECODE
#define FA_FEATURES FA_CAUSAL
#include "flashattn_cuda.cuh"

#define FA_NAME f16_112_96
#define FA_HEAD_DIM 112
#define FA_HEAD_DIM_V 96
#define FA_DTYPE FA_F16
#define FA_O_DTYPE FA_F32
#define FA_PASSES FA_DECODE
#define FA_FEATURES FA_CAUSAL
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_144
#define FA_HEAD_DIM 144
#define FA_PASSES FA_DECODE
#define FA_FEATURES FA_CAUSAL
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_160_176
#define FA_HEAD_DIM 160
#define FA_HEAD_DIM_V 176
#define FA_PASSES FA_DECODE
#define FA_FEATURES FA_CAUSAL
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_192_128
#define FA_HEAD_DIM 192
#define FA_HEAD_DIM_V 128
#define FA_PASSES FA_DECODE
#define FA_FEATURES FA_CAUSAL
#include "flashattn_cuda.cuh"

#define FA_NAME f16_208_224
#define FA_HEAD_DIM 208
#define FA_HEAD_DIM_V 224
#define FA_DTYPE FA_F16
#define FA_PASSES FA_DECODE
#define FA_FEATURES FA_CAUSAL
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_240_64
#define FA_HEAD_DIM 240
#define FA_HEAD_DIM_V 64
#define FA_PASSES FA_DECODE
#define FA_FEATURES FA_CAUSAL
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_64_hooks
#define FA_HEAD_DIM 64
#define FA_PASSES FA_DECODE
#define FA_SCORE_MOD HOOK_SCORE
#define FA_MASK_MOD HOOK_MASK
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_48 /* what the other kernels keep */
#define FA_HEAD_DIM 48
#define FA_PASSES FA_DECODE
#define FA_FEATURES FA_CAUSAL
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_e4m3_64
#define FA_HEAD_DIM 64
#define FA_KV_DTYPE FA_E4M3
#define FA_PASSES FA_DECODE
#define FA_FEATURES FA_CAUSAL
#include "flashattn_cuda.cuh"
#endif

typedef struct instance {
    const fa_cuda_info *cuda;
    fa_status (*launch)(const fa_args *args, fa_cuda_decode_launch *launch);
} instance;
#define INSTANCE(name) \
    { &name##_cuda_info, name##_decode_cuda_launch }

#if defined(FA_TEST_CORE)
static const instance whole[] = {INSTANCE(f16_64_all)};
#else
static const instance whole[] = {INSTANCE(f16_64_all), INSTANCE(bf16_64), INSTANCE(f16_128),
                                 INSTANCE(bf16_256)}; /* all features, or the default ones */
static const instance dims[] = {INSTANCE(bf16_80),      INSTANCE(f16_112_96),  INSTANCE(bf16_144),
                                INSTANCE(bf16_160_176), INSTANCE(bf16_192_128), INSTANCE(f16_208_224),
                                INSTANCE(bf16_240_64)};
#endif

#include "decode.h"

/* of few instances every case */
static int due(void) { return COUNT(whole) == 1 || due_every(5); }

static int build_case(fap_problem *p, const instance *i, const char *line) { return build_decode(p, i->cuda, line); }

/* The launch of p: 1 if it is of the kernel for sm_90a, which has a warp more than the others. */
static int runs_hopper(const instance *i, fap_problem *p, fa_cuda_decode_launch *launch) {
    device_copy c;
    const int ok = device_upload(p, &c) && i->launch(&c.args, launch) == FA_OK && launch->first.block == 160;
    device_free(&c);
    return ok;
}

static int judge_case(const instance *i, fap_problem *p, const char *line) {
    fa_cuda_decode_launch launch;
    const int ours = FA_EXPECT_MSG(runs_hopper(i, p, &launch), "another kernel runs %s", line);
    return judge_decode(i->cuda, p, line) && ours;
}

static int check(const instance *i, const char *format, ...) {
    char line[512];
    va_list list;
    fap_problem p;
    if (!due()) return 1;
    va_start(list, format), vsnprintf(line, sizeof line, format, list), va_end(list);
    return build_case(&p, i, line) && judge_case(i, &p, line);
}

/* ---- shapes ------------------------------------------------------------------------------ */

/* Tiles have 64 rows and 64 keys; warps 16 rows. */
FA_TEST(edges) {
    static const int rows[] = {17, 31, 32, 33, 48, 49, 63, 64, 65, 129};
    static const int keys[] = {1, 15, 63, 64, 65, 127, 128, 129, 191, 300};
    NEEDS_HOPPER;
    for (int r = 0; r < COUNT(rows); r++)
        for (int k = r % 2; k < COUNT(keys); k += 2)
            FA_EXPECT(check(&whole[(r + k / 2) % COUNT(whole)], "sq=%d sk=%d causal=%d seed=%d", rows[r], keys[k],
                            (r + k / 2) % 2, r));
}

#if !defined(FA_TEST_CORE)
FA_TEST(every_head_dim) {
    NEEDS_HOPPER;
    for (int n = 0; n < COUNT(dims); n++)
        for (int r = 0; r < 2; r++)
            FA_EXPECT(check(&dims[n], "hq=2 sq=%d sk=%d causal=%d threads=%d", 20 + 44 * r, 780 + 51 * n, r % 2,
                            1 + 6 * r));
}
#endif

/* Long enough for slots to be filled again and again; splits that end inside sequences of other lengths. */
FA_TEST(rings_and_splits) {
    static const int threads[] = {1, 2, 9, 500};
    NEEDS_HOPPER;
    for (int n = 0; n < COUNT(threads); n++)
        for (int w = 0; w < COUNT(whole); w++) {
            FA_EXPECT(check(&whole[w], "hq=2 sq=40 sk=%d causal=1 threads=%d", 1500 + 33 * n, threads[n]));
            FA_EXPECT(check(&whole[w], "b=3 hq=8 hk=1 sq=5 sk=%d used=1 causal=1 threads=%d", 1000 + 77 * n,
                            threads[n]));
        }
}

FA_TEST(groups) {
    static const int heads[][2] = {{17, 1}, {20, 1}, {40, 2}, {12, 4}, {71, 1}, {128, 1}};
    NEEDS_HOPPER;
    for (int n = 0; n < COUNT(heads); n++)
        for (int queries = 9 - 8 * (n != 3); queries <= 9; queries += 4)
            FA_EXPECT(check(&whole[(n + queries / 4) % COUNT(whole)], "b=2 hq=%d hk=%d sq=%d sk=%d causal=1 seed=%d",
                            heads[n][0], heads[n][1], queries, 130 + 90 * n, n));
}

FA_TEST(layouts) {
    static const char *const layouts[] = {"layout=bhsd", "layout=padded", "layout=qkv", "varlen=1",
                                          "varlen=1 layout=padded", "used=1", "used=2 layout=bhsd"};
    NEEDS_HOPPER;
    for (int n = 0; n < COUNT(layouts); n++)
        for (int w = n % 2 % COUNT(whole); w < COUNT(whole); w += 2)
            FA_EXPECT(check(&whole[w], "b=3 hq=4 hk=2 sq=30 sk=%d causal=%d seed=%d %s", 200 + 41 * n, w / 2, n,
                            layouts[n]));
}

FA_TEST(pages) {
    static const int sizes[] = {8, 16, 24, 48, 64, 128, 256};
    NEEDS_HOPPER;
    for (int n = 0; n < COUNT(sizes); n++)
        for (int w = n % 2 % COUNT(whole); w < COUNT(whole); w += 2) {
            FA_EXPECT(check(&whole[w], "b=2 hq=4 hk=2 sq=9 sk=390 page=%d causal=%d", sizes[n], w / 2));
            FA_EXPECT(check(&whole[w], "b=3 sq=30 sk=590 page=%d varlen=1 wl=100 threads=4 seed=%d", sizes[n], n));
        }
}

FA_TEST(empty_sequences) {
    NEEDS_HOPPER;
    for (int seed = 0; seed < 8; seed++)
        FA_EXPECT(check(&whole[seed % COUNT(whole)], "b=6 hq=2 sq=30 sk=150 %s causal=%d threads=3 seed=%d",
                        seed % 2 ? "varlen=1" : "used=1 page=16", seed % 3 == 0, seed));
}

/* ---- features ---------------------------------------------------------------------------- */

FA_TEST(each_feature) {
    static const char *const features[] = {
        "",         "wl=70",    "wr=3 wl=90", "softcap=5",   "alibi=1", "alibi=2",        "bias=1",
        "bias=2",   "bias=3",   "bias=4",     "drop=0.3",    "sink=1",  "bm=16",          "bm=64",
        "tree=1",   "tree=2",   "used=1",     "scale=-0.3",  "nan=1",   "nan=1 causal=1", "lse=0",
        "drop=0.2 tree=1 page=16", "sink=1 causal=1 wl=40", "softcap=9 alibi=1 bias=2 scale=0.2"};
    const instance all = INSTANCE(f16_64_all);
    NEEDS_HOPPER;
    for (int n = 0; n < COUNT(features); n++)
        for (int queries = 9; queries <= 33; queries += 24)
            FA_EXPECT(check(&all, "b=2 hq=2 hk=1 sq=%d sk=413 threads=%d %s seed=%d", queries, queries / 9,
                            features[n], n));
#if !defined(FA_TEST_CORE)
    const instance hooks = INSTANCE(bf16_64_hooks);
    FA_EXPECT(check(&hooks, "b=2 hq=4 hk=2 sq=15 sk=240"));
    FA_EXPECT(check(&hooks, "b=2 hq=4 hk=2 sq=25 sk=140 causal=1 page=64"));
#endif
}

FA_TEST(infinite_values) {
    static const char *const lines[] = {"hq=2 sq=20 sk=190 causal=1", "hq=4 hk=2 sq=9 sk=290 wl=150 wr=9 page=16",
                                        "sq=40 sk=90 bm=16",          "sq=30 sk=150",
                                        "hq=2 sq=24 sk=150 drop=0.5", "hq=2 sq=20 sk=90 tree=1"};
    const instance all = INSTANCE(f16_64_all);
    NEEDS_HOPPER;
    for (int n = 0; n < COUNT(lines); n++) {
        fap_problem p;
        if (!due()) continue;
        FA_REQUIRE(build_case(&p, &all, lines[n]));
        put_infinite_values(&p, NAN);
        FA_EXPECT(judge_case(&all, &p, lines[n]));
    }
}

FA_TEST(random_mixtures) {
    uint64_t rng = fat_seed;
    NEEDS_HOPPER;
    for (int n = 0; n < 40; n++) {
        char line[512];
        const instance *const i = &whole[n % COUNT(whole)];
        fap_problem p;
        fap_random(line, &rng, i->cuda->info.features, 60, 500);
        if (!due()) continue;
        FA_REQUIRE(build_case(&p, i, line)); /* whichever kernel it is for */
        FA_EXPECT_MSG(device_decode(i->cuda, &p, &workspace) && fap_judge(&p, "random"), "%s", line);
        fap_free(&p);
    }
}

/* ---- launches ---------------------------------------------------------------------------- */

/* The rule that the head of flashattn_cuda.cuh gives under HOPPER. */
FA_TEST(other_kernels) {
    static const char *const lines[] = {"sq=16 sk=100",        "hq=8 hk=4 sq=8 sk=100",      "sq=30 sk=0",
                                        "sq=30 sk=100 page=7", "sq=30 sk=100 page=20",       "sq=30 sk=100 split=64",
                                        "sq=70 sk=300 split=128 causal=1", "sq=30 sk=100 layout=bcast b=2"};
    fa_cuda_decode_launch launch;
    NEEDS_HOPPER;
    for (int n = 0; n < COUNT(lines) * 2; n++) {
        const instance *const i = &whole[n % 2 % COUNT(whole)];
        const char *const line = lines[n / 2];
        fap_problem p;
        FA_REQUIRE(build_case(&p, i, line));
        FA_EXPECT_MSG(!runs_hopper(i, &p, &launch), "%s", line);
        FA_EXPECT_MSG(device_decode(i->cuda, &p, &workspace) && fap_judge(&p, "other"), "%s", line);
        fap_free(&p);
    }
#if !defined(FA_TEST_CORE)
    static const instance others[] = {INSTANCE(bf16_48), INSTANCE(bf16_e4m3_64)};
    for (int n = 0; n < COUNT(others); n++) {
        fap_problem p;
        FA_REQUIRE(build_case(&p, &others[n], "sq=40 sk=130"));
        FA_EXPECT(!runs_hopper(&others[n], &p, &launch));
        FA_EXPECT(device_decode(others[n].cuda, &p, &workspace) && fap_judge(&p, "other"));
        fap_free(&p);
    }
#endif
}

#if !defined(FA_TEST_CORE)
/* As many splits as keep the blocks busy that the SMs have room for: 3, 2, 1 of them each. */
FA_TEST(plans) {
    static const int blocks[] = {3, 2, 1};
    NEEDS_HOPPER;
    for (int w = 0; w < COUNT(blocks); w++)
        for (int sms = 1; sms <= 4; sms += 3) {
            char line[64];
            fap_problem p;
            fa_cuda_decode_launch launch;
            sprintf(line, "sq=20 sk=%d threads=%d", sms * 1536, sms);
            FA_REQUIRE(build_case(&p, &whole[w + 1], line) && runs_hopper(&whole[w + 1], &p, &launch));
            FA_EXPECT_MSG(launch.plan.splits == blocks[w] * sms && launch.plan.rows == 64 && !launch.plan.combine,
                          "%s: %d splits", whole[w + 1].cuda->info.name, launch.plan.splits);
            fap_free(&p);
        }
}
#endif

/* K and V by TMA, once, whatever the splits, 64 rows of Q for each split; products of whole tiles. */
FA_TEST(bytes_and_products) {
    NEEDS_HOPPER;
    if (!ptx_counter) FA_SKIP("only the PTX machine counts bytes");
    for (int w = 0; w < COUNT(whole); w++)
        for (int n = 0; n < 4; n++) {
            const fa_info *const info = &whole[w].cuda->info;
            const int sk = 640 + 37 * n, rows = 18 + 46 * (n % 2), page = n == 3 ? 16 : 0, threads = 1 + n / 2;
            fa_cuda_decode_launch launch;
            char line[128];
            fap_problem p;
            sprintf(line, "hq=2 hk=1 sq=%d sk=%d page=%d threads=%d", rows / 2, sk, page, threads);
            if (!due()) continue;
            FA_REQUIRE(build_case(&p, &whole[w], line) && runs_hopper(&whole[w], &p, &launch));
            FA_EXPECT(judge_case(&whole[w], &p, line));
            const int splits = launch.plan.splits, d = info->head_dim;
            /* pages end with whole boxes of 16 keys, of which TMA makes no zeros; and those behind the last key are
             * copies of its box */
            const int keys = page ? (sk + 63) / 64 * 64 : sk;
            FA_EXPECT_MSG(ptx_counter("tma_load_bytes") == (uint64_t)keys * d * 4, "%s: %s: %.0f bytes by TMA",
                          info->name, line, (double)ptx_counter("tma_load_bytes"));
            const uint64_t part = (uint64_t)(splits > 1) * splits * rows * (d + 2) * 4;
            if (splits == 1 && !page) FA_EXPECT(ptx_counter("load_bytes") == (uint64_t)64 * d * 2);
            FA_EXPECT(ptx_counter("store_bytes") == (uint64_t)rows * (d * 2 + 4) + part);
            FA_EXPECT(ptx_counter("mac_wgmma") == (uint64_t)64 * ((sk + 63) / 64 * 64) * d * 2);
            FA_EXPECT(ptx_counter("mac_mma") == 0);
            /* 8 more a block: nvcc stores the first two words of O apart; 1 %: lanes that a schedule parts */
            FA_EXPECT(few_wavefronts(line, 1.01, 8 * splits));
        }
}

/* Captured once, replayed on memory of garbage: the maps are part of the launch. */
FA_TEST(graph) {
    NEEDS_HOPPER;
    FA_EXPECT(graph_of_decode(&f16_64_all_cuda_info, "hq=4 hk=1 sq=30 sk=900 causal=1"));
}

FA_TEST_MAIN
