/* test_hopper.cu - the forward pass on sm_90a: TMA, wgmma, warps that load and warps that compute. Features are
 * in test_forward.cu; here: tiles and stages of this kernel, every head dim, and that it is the one to run. */
#include "cuda_test.h"

/* ---- instances: every head dim; with and without the features that have code of their own ---- */

#define FA_NAME bf16_64
#define FA_HEAD_DIM 64
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_128
#define FA_HEAD_DIM 128
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_256
#define FA_HEAD_DIM 256
#include "flashattn_cuda.cuh"

#define FA_NAME f16_128_blocks /* tiles of a block mask that nobody sees are left out */
#define FA_HEAD_DIM 128
#define FA_DTYPE FA_F16
#define FA_FEATURES (FA_CAUSAL | FA_VARLEN | FA_BLOCK_MASK | FA_SINK)
#include "flashattn_cuda.cuh"

#if !defined(FA_TEST_CORE) /* the others; mutants.sh compiles often */
#define FA_NAME f16_64
#define FA_HEAD_DIM 64
#define FA_DTYPE FA_F16
#define FA_FEATURES FA_CAUSAL
#include "flashattn_cuda.cuh"

#include "head_dims.h"

#define FA_NAME f16_128
#define FA_HEAD_DIM 128
#define FA_DTYPE FA_F16
#define FA_FEATURES 0
#include "flashattn_cuda.cuh"

#define FA_NAME f16_176
#define FA_HEAD_DIM 176
#define FA_DTYPE FA_F16
#define FA_FEATURES FA_CAUSAL
#include "flashattn_cuda.cuh"

#define FA_NAME f16_192_128
#define FA_HEAD_DIM 192
#define FA_HEAD_DIM_V 128
#define FA_DTYPE FA_F16
#define FA_FEATURES (FA_CAUSAL | FA_SINK)
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_64_256
#define FA_HEAD_DIM 64
#define FA_HEAD_DIM_V 256
#define FA_FEATURES FA_CAUSAL
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_80_scores /* the tiles of kernels with more work for each score */
#define FA_HEAD_DIM 80
#define FA_FEATURES (FA_DEFAULT_FEATURES | FA_ALIBI | FA_SOFTCAP)
#include "flashattn_cuda.cuh"

#endif

#include "hopper.h"

#if defined(FA_TEST_CORE)
static const instance instances[] = {INSTANCE(bf16_64), INSTANCE(bf16_128), INSTANCE(bf16_256)};
#else
static const instance instances[] = {INSTANCE(bf16_64),     INSTANCE(f16_64),      INSTANCE(bf16_80),
                                     INSTANCE(f16_96),      INSTANCE(bf16_112),    INSTANCE(bf16_128),
                                     INSTANCE(f16_128),     INSTANCE(f16_144),     INSTANCE(bf16_160),
                                     INSTANCE(f16_176),     INSTANCE(bf16_192),    INSTANCE(f16_208),
                                     INSTANCE(bf16_224),    INSTANCE(bf16_240),    INSTANCE(bf16_256),
                                     INSTANCE(f16_192_128), INSTANCE(bf16_64_256), INSTANCE(bf16_80_scores)};
#endif
static const instance whole[] = {INSTANCE(bf16_64), INSTANCE(bf16_128),
                                 INSTANCE(bf16_256)}; /* default features */

static int build_case(fap_problem *p, const instance *i, const char *line) {
    fap_unit = 8;
    return fap_build(p, line, &i->cuda->info);
}
/* Which kernel would run p? */
static int runs_hopper(const instance *i, const fap_problem *p, fa_cuda_launch *launch) {
    device_copy c;
    const int ok = device_upload(p, &c) && i->launch(&c.args, launch) == FA_OK && is_hopper(launch);
    device_free(&c);
    return ok;
}

/* Has K or V no boxes that TMA can copy: pages that are no whole groups of 8 rows of a tile, or a stride of 0? */
static int needs_rows(const fap_problem *p, const fa_cuda_launch *launch) {
    const fa_args *const a = &p->args;
    const fa_tensor *const kv[2] = {&a->k, &a->v};
    for (int n = 0; n < 2; n++)
        if (kv[n]->stride_b == FA_BROADCAST || kv[n]->stride_s == FA_BROADCAST || kv[n]->stride_h == FA_BROADCAST)
            return 1;
    return a->block_table && (a->page_size % 8 != 0 || launch->block_n % 8 != 0);
}

static int by_wgmma(void) { return !ptx_counter || (ptx_counter("mac_wgmma") > 0 && ptx_counter("mac_mma") == 0); }

static int forward(const instance *i, fap_problem *p, fa_cuda_launch *launch) {
    return runs_hopper(i, p, launch) && (launch->maps.page_rows == 0) == needs_rows(p, launch) &&
           device_forward(i->cuda, p) && (by_wgmma() || p->spec.sk == 0);
}

/* ---- tiles ------------------------------------------------------------------------------- */

/* Tiles have 128 or 192 rows, and 80, 112 or 128 keys. */
FA_TEST(edges_of_tiles) {
    static const int rows[] = {1, 63, 64, 65, 127, 128, 129, 191, 192, 193, 257};
    static const int keys[] = {1, 79, 80, 81, 127, 128, 129, 160, 255, 256, 257};
    NEEDS_HOPPER;
    for (int q = 0; q < COUNT(rows); q++)
        for (int k = q % 2; k < COUNT(keys); k += 2)
            FA_EXPECT(check(&whole[(q + k) % COUNT(whole)], spare, "sq=%d sk=%d causal=%d seed=%d", rows[q],
                            keys[k], (q + k) / 2 % 2, q));
}

FA_TEST(every_head_dim) {
    NEEDS_HOPPER;
    for (int n = 0; n < COUNT(instances); n++) {
        FA_EXPECT(check(&instances[n], spare, "hq=2 sq=150 sk=530"));
        if (instances[n].cuda->info.features & FA_CAUSAL)
            FA_EXPECT(check(&instances[n], spare, "b=2 hq=4 hk=2 sq=200 sk=410 causal=1"));
    }
}

/* Groups of heads that fill a box, and others, whose heads go alone. */
FA_TEST(grouped_heads) {
    static const int heads[][2] = {{2, 2}, {4, 2}, {8, 1}, {64, 1}, {6, 2}, {10, 2}, {65, 1}, {128, 1}};
    NEEDS_HOPPER;
    for (int n = 0; n < COUNT(heads); n++)
        for (int w = 0; w < COUNT(whole); w++)
            FA_EXPECT(check(&whole[w], spare, "b=2 hq=%d hk=%d sq=%d sk=%d causal=%d", heads[n][0],
                            heads[n][1], 5 + 40 / heads[n][0] * w, 90 + 70 * w, n % 2));
}

FA_TEST(rows_without_keys) {
    NEEDS_HOPPER;
    for (int w = 0; w < COUNT(whole); w++)
        for (int sk = 1; sk < 300; sk += 127)
            FA_EXPECT(check(&whole[w], spare, "b=2 sq=300 sk=%d causal=1", sk));
}

/* ---- sequences, pages, windows ----------------------------------------------------------- */

FA_TEST(varlen) {
    static const char *const layouts[] = {"bshd", "padded", "qkv"};
    NEEDS_HOPPER;
    for (int n = 0; n < 4 * COUNT(whole); n++)
        FA_EXPECT(check(&whole[n % COUNT(whole)], spare,
                        "b=4 hq=4 hk=2 sq=170 sk=390 causal=%d varlen=%d used=%d seed=%d layout=%s", n % 2,
                        n % 4 != 2, n % 3, n, layouts[n % COUNT(layouts)]));
}

/* seqused_q without cu_seqlens_q: rows behind the last are in the tensor, and must stay as they are. */
FA_TEST(rows_that_are_not_used) {
    NEEDS_HOPPER;
    for (int n = 0; n < 12; n++)
        FA_EXPECT(check(&whole[n % COUNT(whole)], spare,
                        "b=3 hq=4 hk=2 sq=170 sk=190 used=1 causal=%d seed=%d", n / 3 % 2, n));
}

FA_TEST(pages) {
    static const int sizes[] = {8, 16, 24, 48, 64, 128, 256};
    NEEDS_HOPPER;
    for (int n = 0; n < COUNT(sizes); n++)
        for (int w = 0; w < COUNT(whole); w++) {
            FA_EXPECT(
                check(&whole[w], spare, "b=2 hq=4 hk=2 sq=90 sk=390 page=%d causal=%d", sizes[n], n % 2));
            FA_EXPECT(
                check(&whole[w], spare, "b=3 sq=90 sk=390 page=%d varlen=1 wl=100 seed=%d", sizes[n], n));
        }
}

/* ---- K and V row by row ------------------------------------------------------------------ */

/* Pages of which TMA makes no boxes, and one of which it does, if they are larger than a tile. */
FA_TEST(pages_of_few_rows) {
    static const int sizes[] = {1, 2, 4, 12, 7, 20, 100, 300};
    NEEDS_HOPPER;
    for (int w = 0; w < COUNT(whole); w++)
        for (int n = 0; n < COUNT(sizes); n++) {
            FA_EXPECT(check(&whole[w], spare, "b=2 hq=4 hk=2 sq=150 sk=390 page=%d causal=%d", sizes[n], n % 2));
            FA_EXPECT(check(&whole[w], spare, "b=3 sq=90 sk=390 page=%d varlen=1 wl=100 seed=%d layout=padded", sizes[n], n));
        }
}

/* Entries of the table for keys that no row sees need not be numbers of pages; the reference wants them to be. */
FA_TEST(pages_that_do_not_exist) {
    static const int sizes[] = {1, 12, 4, 16};
    NEEDS_HOPPER;
    for (int n = 0; n < 6 * COUNT(whole); n++) {
        const instance *const i = &whole[n % COUNT(whole)];
        char line[128];
        fap_problem p;
        fa_cuda_launch launch;
        if (!due()) continue;
        snprintf(line, sizeof line, "hq=2 sq=%d sk=%d wl=%d page=%d causal=1", 30 + 7 * n, 400 + 9 * n, 40 + n,
                 sizes[n / 3 % COUNT(sizes)]);
        FA_REQUIRE(build_case(&p, i, line));
        int32_t *const table = (int32_t *)(uintptr_t)p.args.block_table;
        const int absent = (p.spec.sk - p.spec.sq + 1 - p.spec.wl) / p.spec.page;
        for (int k = 0; k < absent; k++) table[k] = 0x7ffffff0;
        FA_EXPECT_MSG(runs_hopper(i, &p, &launch) && device_forward(i->cuda, &p) && by_wgmma(), "%s", line);
        for (int k = 0; k < absent; k++) table[k] = p.pages[k];
        FA_EXPECT_MSG(fap_judge(&p, i->cuda->info.name), "%s", line);
        fap_free(&p);
    }
}

/* Sequences, heads or keys that share memory */
static void one_head(fap_problem *p) {
    p->k.sh = p->v.sh = 0, p->args.k.stride_h = p->args.v.stride_h = FA_BROADCAST;
}
static void one_head_of_v(fap_problem *p) { p->v.sh = 0, p->args.v.stride_h = FA_BROADCAST; }
static void one_key(fap_problem *p) { p->k.ss = 0, p->args.k.stride_s = FA_BROADCAST; }
static void few_blocks(fap_problem *p) { /* so that tiles are skipped */
    uint8_t *const blocks = (uint8_t *)(uintptr_t)p->args.block_mask.data;
    for (int n = 0; n < (p->spec.sq + 63) / 64 * ((p->spec.sk + 63) / 64); n++) blocks[n] = n % 6 == 0;
}

FA_TEST(strides_of_0) {
    static void (*const changes[])(fap_problem *) = {one_head, one_head_of_v, one_key};
    static const char few[] = "b=2 hq=2 sq=40 sk=100 layout=bcast"; /* for which the other shape would do */
    fap_problem p;
    fa_cuda_launch launch;
    NEEDS_HOPPER;
    FA_REQUIRE(build_case(&p, &whole[0], few));
    FA_EXPECT(device_judge(whole[0].cuda, &p, few, forward(&whole[0], &p, &launch)));
    for (int n = 0; n < COUNT(instances); n++) {
        const int causal = (instances[n].cuda->info.features & FA_CAUSAL) != 0;
        FA_EXPECT(check(&instances[n], spare, "b=2 hq=2 sq=%d sk=%d causal=%d layout=bcast", 150 + n, 330 + n, causal));
        FA_EXPECT(check(&instances[n], changes[n % COUNT(changes)], "b=2 hq=2 sq=150 sk=390 layout=padded causal=%d", causal));
    }
    for (int n = 0; n < 6; n++)
        FA_EXPECT(check(&whole[n % COUNT(whole)], changes[n / 3], "b=3 hq=4 hk=2 sq=150 sk=390 varlen=1 layout=padded seed=%d", n));
    const instance i = INSTANCE(f16_128_blocks);
    for (int n = 0; n < 6; n++)
        FA_EXPECT(check(&i, few_blocks, "b=2 hq=2 sq=170 sk=%d bm=64 causal=%d layout=bcast seed=%d", 390 + n, n % 2, n));
}

/* Device memory: rows of K and V that some row of a tile sees, and their entries of the table, for each such tile. */
FA_TEST(bytes_of_rows) {
    static const int shapes[][4] = {{200, 300, 1, 0}, {128, 390, 0, 0}, {130, 410, 1, 90}, {384, 512, 1, 0}};
    NEEDS_HOPPER;
    if (!ptx_counter) FA_SKIP("only the PTX machine counts bytes");
    for (int n = 0; n < COUNT(shapes) * COUNT(whole); n++) {
        const instance *const i = &whole[n % COUNT(whole)];
        const int *const s = shapes[n / COUNT(whole)], d = i->cuda->info.head_dim;
        char line[128];
        fap_problem p;
        fa_cuda_launch launch;
        snprintf(line, sizeof line, "hq=2 sq=%d sk=%d causal=%d wl=%d page=1", s[0], s[1], s[2], s[3]);
        FA_REQUIRE(build_case(&p, i, line));
        FA_EXPECT(runs_hopper(i, &p, &launch) && launch.maps.page_rows == 0 && device_forward(i->cuda, &p) && by_wgmma());
        double wanted = 2 * s[0] * (2 * d * 2 + 4.0); /* Q, O, LSE */
        for (int first = 0; first < s[0]; first += launch.block_m) {
            const int last = (first + launch.block_m < s[0] ? first + launch.block_m : s[0]) - 1;
            const int left = first + s[1] - s[0] + 1 - s[3], lo = s[3] && left > 0 ? left : 0;
            wanted += 2.0 * (2 * d * 2 + 8) * ((s[2] ? last + s[1] - s[0] + 1 : s[1]) - lo);
        }
        const double bytes = (double)(ptx_counter("load_bytes") + ptx_counter("copy_bytes") + ptx_counter("store_bytes") +
                                      ptx_counter("tma_load_bytes") + ptx_counter("tma_store_bytes"));
        FA_EXPECT_MSG(bytes == wanted, "%s %s: %.0f bytes, wanted %.0f", i->cuda->info.name, line, bytes, wanted);
        const double got = (double)ptx_counter("shared_wavefronts"),
                     ideal = (double)ptx_counter("shared_wavefronts_ideal");
        FA_EXPECT_MSG(got == ideal, "%s: %.0f wavefronts, %.0f without conflicts", i->cuda->info.name, got, ideal);
        fap_free(&p);
    }
}

/* ---- windows ----------------------------------------------------------------------------- */

FA_TEST(windows) {
    static const char *const windows[] = {"wl=9",   "wr=20",         "wl=130 wr=5",
                                          "wl=200", "wl=300 wr=100", "wl=1 wr=1"};
    NEEDS_HOPPER;
    for (int n = 0; n < COUNT(windows); n++)
        for (int w = 0; w < COUNT(whole); w++) {
            FA_EXPECT(check(&whole[w], spare, "sq=300 sk=450 %s", windows[n]));
            FA_EXPECT(check(&whole[w], spare, "hq=4 hk=1 sq=150 sk=700 causal=1 %s", windows[n]));
        }
}

/* ---- blocks ------------------------------------------------------------------------------ */

/* Runs p by `blocks` blocks that take turns, or 0: as forward does with a counter, which has to be 0 again. */
static int run_by_blocks(const instance *i, fap_problem *p, unsigned blocks) {
    device_copy c;
    device_workspace w = {NULL, 0};
    fa_cuda_launch launch;
    uint32_t counter = 1;
    int ok = device_upload(p, &c) && i->launch(&c.args, &launch) == FA_OK && is_hopper(&launch) &&
             device_reserve(&w, FA_CUDA_COUNTER_BYTES);
    if (ok && blocks) {
        void *parameters[2] = {&c.args, &launch.maps};
        launch.maps.section = blocks; /* heads */
        const unsigned grid = launch.block == 128 || blocks > launch.maps.total ? launch.maps.total : blocks;
        ok = device_ok(cudaLaunchKernel(launch.kernel, dim3(grid), dim3(launch.block), parameters,
                                        launch.shared, 0),
                       "launch");
    } else if (ok)
        ok = i->cuda->forward_workspace(&c.args) == (launch.maps.total > launch.maps.slots ? FA_CUDA_COUNTER_BYTES : 0) &&
             i->cuda->forward(&c.args, w.data, w.bytes, 0) == FA_OK;
    ok = ok && device_ok(cudaDeviceSynchronize(), "kernel") && device_download(p, &c) &&
         device_ok(cudaMemcpy(&counter, w.data, 4, cudaMemcpyDeviceToHost), "counter") && counter == 0;
    cudaFree(w.data), device_free(&c);
    return ok && fap_judge(p, "blocks");
}

/* Any number of blocks, in turns and by a counter; tiles without rows and without keys among them. */
FA_TEST(blocks_share_tiles) {
    static const char *const lines[] = {"hq=3 sq=390 sk=200", "b=2 hq=2 sq=400 sk=390 causal=1",
                                        "b=6 hq=2 hk=1 sq=200 sk=150 varlen=1 causal=1",
                                        "b=5 sq=200 sk=100 used=1", "b=2 hq=2 sq=400 sk=90 causal=1",
                                        "b=2 hq=2 sq=400 sk=390 page=1 causal=1"};
    static const unsigned blocks[] = {1, 3, 0};
    NEEDS_HOPPER;
    for (int n = 0; n < COUNT(lines) * COUNT(whole) * COUNT(blocks); n++) {
        const int l = n % COUNT(lines), w = n / COUNT(lines) % COUNT(whole), k = n / COUNT(lines) / COUNT(whole);
        fap_problem p;
        if (!due() && !(l % 4 == 1 && w == 1 && blocks[k] == 0)) continue; /* one with a counter, always */
        FA_REQUIRE(build_case(&p, &whole[w], lines[l]));
        FA_EXPECT_MSG(run_by_blocks(&whole[w], &p, blocks[k]), "%s: %s, %u blocks", whole[w].cuda->info.name, lines[l],
                      blocks[k]);
        fap_free(&p);
    }
}

/* Sections of heads: no ragged last one, and no more heads than L2 has room for, or a quarter of the SMs. */
FA_TEST(sections) {
    int sms = 0;
    void *memory = NULL;
    NEEDS_HOPPER;
    FA_REQUIRE(cudaMalloc(&memory, 1 << 20) == cudaSuccess &&
               cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, 0) == cudaSuccess);
    for (int heads = 1; heads < 70; heads += 1 + heads / 5)
        for (int seqlen = 512; seqlen <= 65536; seqlen *= 2) {
            fa_args a;
            fa_cuda_launch launch;
            memset(&a, 0, sizeof a);
            a.batch = 1, a.num_heads = heads, a.seqlen_q = a.seqlen_k = seqlen, a.causal = 1;
            a.q.data = a.k.data = a.v.data = a.o.data = memory; /* nobody will look */
            FA_REQUIRE(whole[1].launch(&a, &launch) == FA_OK && is_hopper(&launch));
            const int section = (int)launch.maps.section, number = (heads - 1) / section + 1;
            FA_EXPECT_MSG(heads - (number - 1) * section > section - number, "%d heads in sections of %d", heads, section);
            FA_EXPECT(section == 1 || section <= sms / 4 || (int64_t)section * seqlen * 512 <= 32 << 20);
        }
    cudaFree(memory);
}

/* One tile without keys after the other: a warp that comes late to such a tile finds the barrier of Q two phases on,
 * unless the others wait for it. In a random schedule some warp does. */
FA_TEST(many_tiles_without_keys) {
    NEEDS_HOPPER;
    for (int w = 0; w < 2; w++) { /* where O has shared memory of its own */
        fap_problem p;
        FA_REQUIRE(build_case(&p, &whole[w], "hq=2 sq=1600 sk=20 causal=1"));
        FA_EXPECT(run_by_blocks(&whole[w], &p, 1));
        fap_free(&p);
    }
}

/* Two shapes of a kernel; 176 keys: for many that all rows see. */
FA_TEST(shapes) {
    NEEDS_HOPPER;
    for (int n = 0; n < 8; n++)
        FA_EXPECT(check(&whole[1], spare, "b=%d hq=2 sq=%d sk=%d seed=%d", 1 + n % 2, 100 + 40 * n, 340 + n * 2, n));
    for (int n = 0; n < 8; n++)
        FA_EXPECT(check(&whole[0], spare, "b=%d hq=2 hk=1 sq=%d sk=%d causal=%d", 1 + n % 2, 33 + 57 * n, 100 + 90 * n, n / 2 % 2));
}

FA_TEST(negative_scales_and_no_keys) {
    NEEDS_HOPPER;
    for (int w = 0; w < COUNT(whole); w++) {
        FA_EXPECT(check(&whole[w], spare, "b=2 sq=200 sk=400 scale=-0.5 causal=%d", w % 2));
        FA_EXPECT(check(&whole[w], spare, "sq=100 sk=300 scale=-20")); /* no reference but the largest score will do */
        FA_EXPECT(check(&whole[w], spare, "b=2 hq=2 sq=200 sk=0"));
    }
}

/* ---- softmax ----------------------------------------------------------------------------- */

/* a key whose scores are infinite, where some row sees no other key of its first tile */
static void infinite_key(fap_problem *p) {
    fa_store(p->k.data, fap_at_k(p, &p->k, 0, p->spec.sk - 128, 0), p->spec.kv, -INFINITY);
}

FA_TEST(scores_that_drift) {
    static void (*const changes[])(fap_problem *) = {rising, falling};
    NEEDS_HOPPER;
    for (int n = 0; n < COUNT(instances); n++)
        for (int c = 0; c < COUNT(changes); c++)
            FA_EXPECT(check(&instances[n], changes[c], "sq=70 sk=700 seed=%d causal=%d", n,
                            (instances[n].cuda->info.features & FA_CAUSAL) != 0));
}

/* The first tile of a row has one key, or none: the step after it must still compute a maximum. */
FA_TEST(rows_that_have_seen_nothing) {
    NEEDS_HOPPER;
    for (int w = 0; w < COUNT(whole); w++)
        for (int sq = 120; sq <= 136; sq++) {
            FA_EXPECT(check(&whole[w], spare, "sq=%d sk=640 causal=1 scale=2 seed=%d", sq, sq));
            FA_EXPECT(check(&whole[w], spare, "sq=%d sk=560 causal=1 scale=2 seed=%d", sq, sq));
        }
    for (int w = 0; w < COUNT(whole); w++)
        FA_EXPECT(check(&whole[w], infinite_key, "sq=128 sk=512 causal=1"));
}

/* A row with a sink has seen a key before its first tile, so that only its boundary tells that a tile is to be masked. */
FA_TEST(sinks) {
    const instance i = INSTANCE(f16_128_blocks);
    NEEDS_HOPPER;
    for (int n = 0; n < 12; n++)
        FA_EXPECT(check(&i, spare, "hq=2 sq=%d sk=%d causal=1 sink=1 seed=%d", 128 + 64 * (n % 3), 230 + 30 * n, n));
}

#if !defined(FA_TEST_CORE)
FA_TEST(scores) {
    static const char *const lines[] = {"softcap=5", "alibi=1", "softcap=20 alibi=2 page=16",
                                        "page=48 causal=1", "softcap=20 alibi=2 page=2", "page=1 causal=1"};
    const instance i = INSTANCE(bf16_80_scores);
    NEEDS_HOPPER;
    for (int n = 0; n < COUNT(lines); n++)
        FA_EXPECT(check(&i, spare, "b=2 hq=4 hk=2 sq=90 sk=300 %s", lines[n]));
    const instance sink = INSTANCE(f16_192_128);
    FA_EXPECT(check(&sink, spare, "b=2 hq=4 hk=2 sq=90 sk=300 sink=1 causal=1"));
}
#endif

static void infinite_values(fap_problem *p) {
    for (int n = 0; n < 4; n++)
        fa_store(p->v.data, fap_at_k(p, &p->v, 0, p->spec.sk - 1 - n * 37, 0) + 5 * n, p->spec.kv,
                 n % 2 ? INFINITY : NAN);
}
FA_TEST(values_that_are_not_finite) {
    NEEDS_HOPPER;
    for (int w = 0; w < COUNT(whole); w++) {
        FA_EXPECT(check(&whole[w], infinite_values, "sq=140 sk=300 causal=1"));
        FA_EXPECT(check(&whole[w], infinite_values, "hq=2 sq=140 sk=300"));
        FA_EXPECT(check(&whole[w], infinite_values, "hq=2 sq=140 sk=300 page=16 wl=50 wr=3"));
        FA_EXPECT(check(&whole[w], infinite_values, "hq=2 sq=140 sk=300 page=%d wl=50 wr=3", 1 + w));
    }
}

/* A warpgroup that is alone finds them in its last tile, too: nothing but a barrier of its own tells all warps. */
FA_TEST(values_of_the_last_tile) {
    fap_problem p;
    NEEDS_HOPPER;
    FA_REQUIRE(build_case(&p, &whole[0], "sq=140 sk=120"));
    infinite_values(&p);
    FA_EXPECT(run_by_blocks(&whole[0], &p, 1));
    fap_free(&p);
}

FA_TEST(random_problems) {
    uint64_t rng = fat_seed;
    NEEDS_HOPPER;
    for (int n = 0; n < 40; n++) {
        char line[512];
        fap_problem p;
        fap_random(line, &rng, FA_DEFAULT_FEATURES, 300, 400);
        if (!due()) continue;
        FA_REQUIRE(build_case(&p, &whole[n % COUNT(whole)], line)); /* whichever kernel it is for */
        FA_EXPECT_MSG(device_forward(whole[n % COUNT(whole)].cuda, &p) && fap_judge(&p, "random"), "%s",
                      line);
        fap_free(&p);
    }
}

/* ---- launches ---------------------------------------------------------------------------- */

/* What this kernel does not do is left to the other one: heads or rows of Q that share memory. */
static void one_head_of_q(fap_problem *p) { p->q.sh = 0, p->args.q.stride_h = FA_BROADCAST; }
static void one_query(fap_problem *p) { p->q.ss = 0, p->args.q.stride_s = FA_BROADCAST; }
FA_TEST(other_kernel) {
    static void (*const changes[])(fap_problem *) = {one_head_of_q, one_query};
    NEEDS_HOPPER;
    for (int n = 0; n < COUNT(changes); n++) {
        fap_problem p;
        fa_cuda_launch launch;
        FA_REQUIRE(build_case(&p, &whole[1], "hq=2 sq=70 sk=100 causal=1 layout=padded"));
        changes[n](&p);
        FA_EXPECT_MSG(!runs_hopper(&whole[1], &p, &launch), "%d", n);
        FA_EXPECT_MSG(device_forward(&bf16_128_cuda_info, &p) && fap_judge(&p, "other"), "%d", n);
        fap_free(&p);
    }
}

/* Products of the tiles in which some row sees a block of a mask. */
static double block_macs(const fap_problem *p, const fa_info *info, const fa_cuda_launch *tile) {
    const fa_args *const a = &p->args;
    const fa_sequence seq = {0, a->seqlen_q, a->seqlen_k, 0, 0, 0, 0};
    double macs = 0;
    for (int h = 0; h < a->num_heads; h++)
        for (int i0 = 0; i0 < a->seqlen_q; i0 += tile->block_m)
            for (int j0 = 0; j0 < a->seqlen_k; j0 += tile->block_n) {
                int seen = 0;
                for (int i = i0; i < i0 + tile->block_m && i < a->seqlen_q; i++)
                    for (int j = j0; j < j0 + tile->block_n && j < a->seqlen_k; j++)
                        seen |= fa_block_visible(a, &seq, h, i, j) && (!a->causal || j <= i + a->seqlen_k - a->seqlen_q);
                macs += seen * (double)tile->block_m * tile->block_n * (info->head_dim + info->head_dim_v);
            }
    return macs;
}

FA_TEST(blocks_that_nobody_sees_are_skipped) {
    const instance i = INSTANCE(f16_128_blocks);
    NEEDS_HOPPER;
    for (int n = 0; n < 12; n++) {
        char line[128];
        fap_problem p;
        fa_cuda_launch launch;
        if (!due()) continue;
        snprintf(line, sizeof line, "hq=2 sq=%d sk=%d bm=%d seed=%d causal=%d", 20 + 40 * n, 500 + n, n % 2 ? 128 : 64, n, n % 3 == 2);
        FA_REQUIRE(build_case(&p, &i, line));
        uint8_t *const blocks = (uint8_t *)(uintptr_t)p.args.block_mask.data;
        const int64_t many = (int64_t)((p.args.seqlen_q - 1) / p.args.block_mask.block_q + 1) *
                             ((p.args.seqlen_k - 1) / p.args.block_mask.block_k + 1) * p.args.num_heads;
        for (int64_t x = 0; x < many; x++) blocks[x] = blocks[x] && x % 3 == 0; /* few */
        FA_EXPECT_MSG(forward(&i, &p, &launch) && fap_judge(&p, "blocks"), "%s", line);
        if (ptx_counter && n % 3 != 2) {
            const double macs = (double)ptx_counter("mac_wgmma"), wanted = block_macs(&p, &i.cuda->info, &launch);
            FA_EXPECT_MSG(macs == wanted, "%s: %.0f products, wanted %.0f", line, macs, wanted);
        }
        FA_EXPECT(check(&i, spare, "b=3 hq=4 hk=2 sq=170 sk=390 varlen=1 bm=32 seed=%d", n));
        fap_free(&p);
    }
}

/* Device memory as fa_io_model says: Q, O and LSE once, K and V once for each tile of queries that sees
 * them. */
FA_TEST(bytes_are_those_of_the_model) {
    static const int shapes[][4] = {
        {128, 128, 0}, {384, 512, 0}, {256, 512, 1}, {384, 384, 1}, {200, 203, 0}};
    NEEDS_HOPPER;
    if (!ptx_counter) FA_SKIP("only the PTX machine counts bytes");
    for (int n = 0; n < COUNT(instances) * COUNT(shapes); n++) {
        const instance *const i = &instances[n % COUNT(instances)];
        const fa_info *const info = &i->cuda->info;
        const int *const s = shapes[n / COUNT(instances)];
        char line[128];
        fap_problem p;
        fa_cuda_launch launch;
        if (!due() || (s[2] && !(info->features & FA_CAUSAL))) continue;
        snprintf(line, sizeof line, "b=1 hq=2 sq=%d sk=%d causal=%d", s[0], s[1], s[2]);
        FA_REQUIRE(build_case(&p, i, line));
        FA_EXPECT(forward(i, &p, &launch));
        fap_free(&p);
        const double bytes = counted_bytes();
        const fa_io io = fa_io_model(1, 2, s[0], s[1], info->head_dim, info->head_dim_v, 2, s[2],
                                     launch.block_m, launch.block_n, 1, 0);
        FA_EXPECT_MSG(bytes == io.bytes_flash, "%s %d x %d: %.0f bytes, the model says %.0f", info->name,
                      s[0], s[1], bytes, io.bytes_flash);
        const double macs = (double)ptx_counter("mac_wgmma"),
                     wanted = 2 * visible_macs(info, &launch, s[0], s[1], s[2]);
        FA_EXPECT_MSG(macs == wanted, "%s %d x %d: %.0f products, wanted %.0f", info->name, s[0], s[1], macs,
                      wanted);
        FA_EXPECT(ptx_counter("mac_mma") == 0);
        FA_EXPECT(few_wavefronts(info->name, 1, 0));
    }
}

FA_TEST_MAIN
