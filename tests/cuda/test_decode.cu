/* test_decode.cu - the CUDA decode pass against the fp64 reference, with the judge of fa_problem.h; the same bits
 * however the work is shared out; fa_combine_cuda against fa_combine. */
#include "cuda_test.h"

#define FA_CUDA_COMBINE

/* ---- instances: all features, then those of the cases ------------------------------------- */

#define FA_NAME f16_64
#define FA_HEAD_DIM 64
#define FA_DTYPE FA_F16
#define FA_PASSES FA_DECODE
#define FA_FEATURES FA_ALL_FEATURES
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_e4m3_64
#define FA_HEAD_DIM 64
#define FA_KV_DTYPE FA_E4M3
#define FA_PASSES FA_DECODE
#define FA_FEATURES FA_ALL_FEATURES
#include "flashattn_cuda.cuh"

static const fa_cuda_info *const full[] = {&f16_64_cuda_info, &bf16_e4m3_64_cuda_info};

#define FA_NAME bf16_128
#define FA_HEAD_DIM 128
#define FA_PASSES FA_DECODE
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_96_48
#define FA_HEAD_DIM 96
#define FA_HEAD_DIM_V 48
#define FA_PASSES FA_DECODE
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_256
#define FA_HEAD_DIM 256
#define FA_PASSES FA_DECODE
#include "flashattn_cuda.cuh"

#define FA_NAME f16_e4m3_128
#define FA_HEAD_DIM 128
#define FA_DTYPE FA_F16
#define FA_O_DTYPE FA_F32
#define FA_KV_DTYPE FA_E4M3
#define FA_PASSES FA_DECODE
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_i8_128
#define FA_HEAD_DIM 128
#define FA_KV_DTYPE FA_I8
#define FA_PASSES FA_DECODE
#include "flashattn_cuda.cuh"

#define FA_NAME f16_i8_96_32
#define FA_HEAD_DIM 96
#define FA_HEAD_DIM_V 32
#define FA_DTYPE FA_F16
#define FA_O_DTYPE FA_F32
#define FA_KV_DTYPE FA_I8
#define FA_PASSES FA_DECODE
#include "flashattn_cuda.cuh"

static const fa_cuda_info *const instances[] = {
    &f16_64_cuda_info,       &bf16_e4m3_64_cuda_info, &bf16_128_cuda_info,    &bf16_96_48_cuda_info,
    &bf16_256_cuda_info, &f16_e4m3_128_cuda_info, &bf16_i8_128_cuda_info, &f16_i8_96_32_cuda_info};

/* ---- head dims --------------------------------------------------------------------------- */

#define FA_NAME bf16_16_256
#define FA_HEAD_DIM 16
#define FA_HEAD_DIM_V 256
#define FA_PASSES FA_DECODE
#define FA_FEATURES FA_CAUSAL
#include "flashattn_cuda.cuh"

#define FA_NAME f16_80_16
#define FA_HEAD_DIM 80
#define FA_HEAD_DIM_V 16
#define FA_DTYPE FA_F16
#define FA_PASSES FA_DECODE
#define FA_FEATURES FA_CAUSAL
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_176
#define FA_HEAD_DIM 176
#define FA_PASSES FA_DECODE
#define FA_FEATURES FA_CAUSAL
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_192_128
#define FA_HEAD_DIM 192
#define FA_HEAD_DIM_V 128
#define FA_PASSES FA_DECODE
#define FA_FEATURES FA_CAUSAL
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_i8_256
#define FA_HEAD_DIM 256
#define FA_KV_DTYPE FA_I8
#define FA_PASSES FA_DECODE
#define FA_FEATURES FA_CAUSAL
#include "flashattn_cuda.cuh"

#define FA_NAME f16_e4m3_32_224
#define FA_HEAD_DIM 32
#define FA_HEAD_DIM_V 224
#define FA_DTYPE FA_F16
#define FA_KV_DTYPE FA_E4M3
#define FA_PASSES FA_DECODE
#define FA_FEATURES FA_CAUSAL
#include "flashattn_cuda.cuh"

static const fa_cuda_info *const dims[] = {&bf16_16_256_cuda_info,  &f16_80_16_cuda_info,
                                           &bf16_176_cuda_info,     &bf16_192_128_cuda_info,
                                           &bf16_i8_256_cuda_info,  &f16_e4m3_32_224_cuda_info};

/* ---- hooks ------------------------------------------------------------------------------- */

#define FA_NAME bf16_64_hooks
#define FA_HEAD_DIM 64
#define FA_PASSES FA_DECODE
#define FA_SCORE_MOD HOOK_SCORE
#define FA_MASK_MOD HOOK_MASK
#include "flashattn_cuda.cuh"

#include "decode.h"

static int due(void) { return due_every(6); }

static int ran; /* the last case */
static int decode_case(const fa_cuda_info *instance, const char *format, ...) {
    char line[512];
    va_list list;
    fap_problem p;
    if (!(ran = due())) return 1;
    va_start(list, format), vsnprintf(line, sizeof line, format, list), va_end(list);
    return build_decode(&p, instance, line) && judge_decode(instance, &p, line);
}

/* ---- shapes ------------------------------------------------------------------------------ */

/* One below and one above every edge: tiles of 16, 32 and 64 keys, rows of 16, 32 and 64, splits. */
FA_TEST(edges) {
    static const int keys[] = {0, 1, 15, 16, 17, 63, 64, 65, 127, 129, 200};
    static const int rows[] = {1, 2, 15, 16, 17, 32, 33, 64, 65};
    for (int r = 0; r < COUNT(rows); r++)
        for (int k = r % 2; k < COUNT(keys); k += 2)
            FA_EXPECT(decode_case(instances[(r + k / 2) % COUNT(instances)],
                                  "sq=%d sk=%d causal=%d split=%d seed=%d", rows[r], keys[k], (r + k / 2) % 2,
                                  k % 3 == 2 ? 64 : 0, r));
}

FA_TEST(every_head_dim) {
    static const int rows[] = {3, 20, 50};
    for (int n = 0; n < COUNT(dims); n++)
        for (int r = 0; r < COUNT(rows); r++)
            FA_EXPECT(decode_case(dims[n], "hq=2 sq=%d sk=203 causal=%d split=%d descale=%d", rows[r], r % 2,
                                  r == 2 ? 64 : 0, r));
}

FA_TEST(layouts_and_dtypes) {
    static const char *const layouts[] = {"",       "layout=bhsd",           "layout=padded",     "page=1",
                                          "page=3", "page=16 layout=padded", "page=256 descale=4", "varlen=1"};
    for (int t = 0; t < COUNT(instances); t++)
        for (int l = t % 2; l < COUNT(layouts); l += 2)
            FA_EXPECT(decode_case(instances[t], "b=2 hq=4 hk=2 sq=%d sk=%d causal=1 descale=%d seed=%d %s",
                                  1 + (t + l) % 4, 200 + 31 * l, (t + l) % 5, t, layouts[l]));
}

FA_TEST(groups) {
    static const int heads[][2] = {{1, 1}, {3, 1}, {7, 1}, {8, 1}, {14, 2}, {12, 4}, {71, 1}};
    for (int n = 0; n < COUNT(heads); n++)
        for (int queries = 1; queries <= 9; queries += 4)
            FA_EXPECT(decode_case(instances[(n + queries / 4) % COUNT(instances)],
                                  "b=2 hq=%d hk=%d sq=%d sk=%d causal=1 split=%d seed=%d", heads[n][0],
                                  heads[n][1], queries, 130 + 9 * n, n % 2 ? 64 : 0, n));
}

/* One key below and above whole splits, and more splits than one sequence of a batch has keys. */
FA_TEST(splits) {
    static const int counts[] = {1, 2, 3, 17};
    for (int n = 0; n < COUNT(counts); n++)
        for (int more = -1; more <= 1; more++) {
            const fa_cuda_info *instance = instances[(3 * n + more + 1) % COUNT(instances)];
            const int length = 64 * counts[n] + more;
            FA_EXPECT(decode_case(instance, "b=2 hq=6 hk=2 sq=%d sk=%d split=64 causal=1 used=2", 1 + n,
                                  length));
            FA_EXPECT(decode_case(instance, "hq=2 sq=3 sk=%d split=%d wl=%d", length, 65 + 30 * n,
                                  length / 2 + 1));
            FA_EXPECT(decode_case(instance, "b=3 hq=2 hk=1 sq=2 sk=%d used=1 threads=%d", 4 * length,
                                  20 * n + 1));
        }
}

/* More tiles of rows than there are counters: a second launch adds up the splits. */
FA_TEST(two_launches) {
    FA_EXPECT(decode_case(&f16_64_cuda_info, "b=%d hq=1 sk=65 split=64", FA_CUDA_COUNTER_BYTES / 4));
}

FA_TEST(empty_sequences) {
    for (int seed = 0; seed < 12; seed++)
        FA_EXPECT(decode_case(instances[seed % COUNT(instances)],
                              "b=6 hq=2 sq=3 sk=150 %s causal=%d split=%d seed=%d",
                              seed % 2 ? "varlen=1" : "used=1 page=16", seed % 3 == 0, seed % 4 ? 64 : 0,
                              seed));
}

/* ---- features ---------------------------------------------------------------------------- */

FA_TEST(each_feature) {
    static const char *const features[] = {
        "",       "causal=1",   "wl=70",   "wr=3 wl=90", "softcap=5",      "alibi=1",    "alibi=2",
        "bias=1", "bias=2",     "bias=3",  "bias=4",     "drop=0.3",       "sink=1",     "bm=16",
        "bm=64",  "tree=1",     "tree=2",  "used=1",     "varlen=1",       "scale=-0.3", "nan=1",
        "lse=0",  "layout=qkv", "page=16", "descale=4",  "nan=1 causal=1", "layout=bcast"};
    for (int n = 0; n < COUNT(features); n++)
        for (int queries = 1; queries <= 33; queries += 16)
            FA_EXPECT(decode_case(full[(n + queries / 16) % 2], "b=2 hq=2 hk=1 sq=%d sk=213 %s split=%d seed=%d",
                                  queries, features[n], queries == 17 ? 64 : 0, n));
}

FA_TEST(hooks) {
    FA_EXPECT(decode_case(&bf16_64_hooks_cuda_info, "b=2 hq=4 hk=2 sq=5 sk=240 split=64"));
    FA_EXPECT(decode_case(&bf16_64_hooks_cuda_info, "b=2 hq=4 hk=2 sq=25 sk=140 causal=1 page=64"));
}

FA_TEST(infinite_values) {
    static const char *const lines[] = {
        "hq=2 sq=20 sk=190 causal=1", "hq=4 hk=2 sq=3 sk=290 wl=150 wr=9 page=16 split=64", "sq=40 sk=90 bm=16",
        "sq=2 sk=90",                 "hq=2 sq=4 sk=150 causal=1 drop=0.5",                 "hq=2 sq=20 sk=90 tree=1"};
    for (int n = 0; n < 2 * COUNT(lines); n++) {
        const fa_cuda_info *const instance = full[n % 2];
        fap_problem p;
        if (!due()) continue;
        FA_REQUIRE(build_decode(&p, instance, lines[n / 2]));
        put_infinite_values(&p, NAN);
        FA_EXPECT(judge_decode(instance, &p, lines[n / 2]));
    }
}

/* Factors of V that P of 16 bits times them has no room for, large and small ones together. */
FA_TEST(sizes_of_factors) {
    static const float sizes[][2] = {{1e5f, 1e5f}, {1e-6f, 1e-6f}, {1e4f, 1e-4f}, {0, 3e4f}};
    static const fa_cuda_info *const of_8_bits[] = {&bf16_e4m3_64_cuda_info, &f16_e4m3_128_cuda_info,
                                                    &bf16_i8_128_cuda_info, &f16_i8_96_32_cuda_info};
    for (int n = 0; n < 4 * COUNT(of_8_bits); n++)
        for (int kind = 1 + n % 2; kind <= 4; kind += 2) { /* of factors */
            const fa_cuda_info *const instance = of_8_bits[n / 4];
            char line[64];
            fap_problem p;
            if (!due()) continue;
            sprintf(line, "b=2 hq=4 hk=2 sq=%d sk=200 causal=1 descale=%d", 1 + 4 * kind, kind);
            FA_REQUIRE(build_decode(&p, instance, line));
            for (int b = 0; b < 2; b++)
                for (int h = 0; h < 2; h++)
                    for (int j = 0; j < 200; j++) /* of some factors the last key decides */
                        *(float *)fai_descale_at(&p.args, &p.args.v_descale, b, h, j) =
                            sizes[n % 4][j % 2] * (1 + (float)(j % 7) / 8);
            FA_EXPECT_MSG(judge_decode(instance, &p, line), "factors of %g and %g", (double)sizes[n % 4][0],
                          (double)sizes[n % 4][1]);
        }
}

/* Rows of Q of all sizes: f16 has no room for those of bf16. */
FA_TEST(sizes_of_queries) {
    static const fa_cuda_info *const of_8_bits[] = {&bf16_e4m3_64_cuda_info, &bf16_i8_128_cuda_info,
                                                    &bf16_i8_256_cuda_info};
    for (int n = 0; n < COUNT(of_8_bits); n++) {
        fap_problem p;
        FA_REQUIRE(build_decode(&p, of_8_bits[n], "hq=8 hk=1 sq=5 sk=100 causal=1"));
        for (int i = 0; i < 5; i++)
            for (int h = 0; h < 8; h++)
                for (int d = 0; d < p.spec.d; d++) {
                    const int64_t at = fap_at_q(&p, &p.q, 0, i, h) + d;
                    static const float sizes[] = {1, 1e-30f, 1e-39f, 1e3f, 0, 3e-5f, 100, 1e-10f};
                    fa_store((void *)p.q.data, at, FA_BF16, fa_load(p.q.data, at, FA_BF16) * sizes[h]);
                }
        FA_EXPECT(judge_decode(of_8_bits[n], &p, "rows of all sizes"));
    }
}

FA_TEST(random_mixtures) {
    uint64_t rng = fat_seed;
    for (int n = 0; n < 40; n++) {
        char line[512], more[64];
        const fa_cuda_info *instance = instances[n % COUNT(instances)];
        fap_random(line, &rng, instance->info.features, 40, 400);
        sprintf(more, " split=%d%s", fat_below(&rng, 2) ? 64 + fat_below(&rng, 200) : 0,
                n % 5 == 0 ? " descale=4" : "");
        FA_EXPECT(decode_case(instance, "%s%s", line, more));
    }
}

/* ---- the same bits, the bytes that are read ---------------------------------------------- */

/* With split_keys: each row once more, as a call of its own with one sequence, one query, one head. */
FA_TEST(rows_alone_and_in_company) {
    static const char *const lines[] = {"b=2 hq=10 hk=2 sq=7 sk=400 causal=1 used=2 split=100 threads=1",
                                        "b=2 hq=6 hk=1 sq=9 sk=317 causal=1 wl=150 split=64 layout=padded",
                                        "b=2 hq=3 hk=1 sq=4 sk=150 split=1000 threads=500",
                                        "b=2 hq=6 hk=1 sq=9 sk=317 causal=1 wl=150 split=64 descale=3"};
    for (int n = 0; n < COUNT(lines); n++) {
        const fa_cuda_info *instance = n == 3 ? &bf16_i8_128_cuda_info : n == 1 ? full[0] : &bf16_128_cuda_info;
        fap_problem p;
        device_copy c;
        int different = 0;
        FA_REQUIRE(build_decode(&p, instance, lines[n]));
        FA_EXPECT(device_decode(instance, &p, &workspace) && fap_judge(&p, "company"));
        FA_REQUIRE(device_upload(&p, &c));
        char *result; /* a row of o, and its lse */
        FA_REQUIRE(device_ok(cudaMalloc((void **)&result, 1024), "cudaMalloc"));
        const int step = getenv("FA_TEST_SCALE") ? 5 : 2;
        for (int b = 0; b < p.spec.b; b++)
            for (int h = 0; h < p.spec.hq; h++)
                for (int i = 0; i < p.len_q[b]; i += step + h % 2) {
                    const int hk = h / (p.spec.hq / p.spec.hk), bytes = p.spec.dv * 2;
                    const int64_t element = (int64_t)fa_sizeof(p.spec.kv);
                    const fa_sequence seq = fa_get_sequence(&p.args, b);
                    char alone[1024];
                    fa_args a = c.args;
                    a.seqlen_k = a.causal ? fa_row_range(&p.args, seq.len_q, seq.len_k, i).hi : seq.len_k;
                    a.batch = a.num_heads = a.seqlen_q = 1, a.num_heads_k = 0, a.seqused_q = a.seqused_k = NULL;
                    a.q.data = (const char *)a.q.data + fap_at_q(&p, &p.q, b, i, h) * 2;
                    a.k.data = (const char *)a.k.data + (b * p.k.sb + hk * p.k.sh) * element;
                    a.v.data = (const char *)a.v.data + (b * p.v.sb + hk * p.v.sh) * element;
                    a.k.stride_b = p.k.sb, a.k.stride_s = p.k.ss, a.k.stride_h = p.k.sh;
                    a.v.stride_b = p.v.sb, a.v.stride_s = p.v.ss, a.v.stride_h = p.v.sh;
                    if (a.k_descale.data) a.k_descale.data += b * a.k_descale.stride_b + hk * a.k_descale.stride_h;
                    if (a.v_descale.data) a.v_descale.data += b * a.v_descale.stride_b + hk * a.v_descale.stride_h;
                    memset(&a.o, 0, sizeof a.o), memset(&a.lse, 0, sizeof a.lse);
                    a.o.data = result, a.lse.data = result + 512;
                    const size_t size = instance->decode_workspace(&a);
                    FA_REQUIRE(size <= workspace.bytes &&
                               instance->decode(&a, workspace.data, size, 0) == FA_OK);
                    FA_REQUIRE(device_ok(cudaMemcpy(alone, result, 1024, cudaMemcpyDeviceToHost), "row"));
                    const char *const row = (const char *)p.o.place.data + fap_at_q(&p, &p.o.place, b, i, h) * 2;
                    different += memcmp(alone, row, (size_t)bytes) != 0;
                    different += memcmp(alone + 512, (const char *)p.lse.place.data +
                                                         fap_at_q(&p, &p.lse.place, b, i, h) * 4, 4) != 0;
                }
        FA_EXPECT_MSG(different == 0, "%s: %d rows differ", lines[n], different);
        cudaFree(result), device_free(&c), fap_free(&p);
    }
}

/* K and V once, whatever the splits; Q by each of them; parts, and O and LSE, once. */
FA_TEST(bytes) {
    static const int queries[] = {1, 4, 8, 13};
    if (!ptx_counter) FA_SKIP("only the PTX machine counts bytes");
    for (int t = 0; t < COUNT(instances); t++)
        for (int n = 0; n < COUNT(queries); n++)
            for (int split = 0; split <= 256; split += 256) {
                const fa_info *info = &instances[t]->info;
                const uint64_t keys = 640, rows = (uint64_t)queries[n] * 4, splits = split ? 3 : 1;
                if (split && rows > 16) continue; /* fixed splits are of 16 rows: K and V for each of them */
                if (on_hopper() && rows > 16 && info->kv_dtype == info->dtype && info->head_dim_v >= 64)
                    continue; /* test_hopper_decode.cu */
                FA_REQUIRE(decode_case(instances[t], "b=2 hq=8 hk=2 sq=%d sk=%d split=%d threads=1", queries[n],
                                       (int)keys, split));
                if (!ran) continue;
                const uint64_t d = (uint64_t)info->head_dim, dv = (uint64_t)info->head_dim_v;
                const uint64_t kv = 4 * keys * (d + dv) * fa_sizeof(info->kv_dtype), q = 4 * rows * d * 2;
                const uint64_t o = 4 * rows * (dv * fa_sizeof(info->o_dtype) + 4), part = 4 * rows * (dv + 2) * 4;
                const double copied = (double)ptx_counter("copy_bytes"), stored = (double)ptx_counter("store_bytes");
                FA_EXPECT_MSG(copied == (double)(kv + splits * q), "%s: %.0f bytes copied, not %.0f", info->name,
                              copied, (double)(kv + splits * q));
                FA_EXPECT_MSG(stored == (double)(o + (split ? splits * part : 0)), "%s: %.0f bytes stored, not %.0f",
                              info->name, stored, (double)(o + (split ? splits * part : 0)));
                if (split || info->kv_dtype != info->dtype || info->o_dtype != info->dtype) continue;
                const double all = copied + stored + (double)ptx_counter("load_bytes");
                const fa_io io = fa_io_model(2, 2, (int64_t)rows, (int64_t)keys, info->head_dim,
                                             info->head_dim_v, 2, 0, 64, 64, 1, 0);
                FA_EXPECT_MSG(all == io.bytes_flash, "%s: %.0f bytes, the model says %.0f", info->name, all,
                              io.bytes_flash);
            }
}

FA_TEST(no_bank_conflicts) {
    static const fa_cuda_info *const of_16_bits[] = {&f16_64_cuda_info, &bf16_128_cuda_info,
                                                     &bf16_256_cuda_info, &bf16_192_128_cuda_info};
    if (!ptx_counter) FA_SKIP("only the PTX machine counts wavefronts");
    for (int n = 0; n < COUNT(of_16_bits); n++)
        for (int rows = 16; rows <= 64; rows *= 2) {
            FA_REQUIRE(decode_case(of_16_bits[n], "sq=%d sk=300", rows));
            if (!ran) continue;
            /* 16 more: nvcc stores the first two words of O apart */
            FA_EXPECT(few_wavefronts(of_16_bits[n]->info.name, 1.01, 16));
        }
}

/* ---- calls ------------------------------------------------------------------------------- */

FA_TEST(bad_arguments) {
    static float on_host[1 << 14];
    fap_problem p;
    device_copy c;
    fa_error error;
    fa_args a;
    FA_REQUIRE(build_decode(&p, &bf16_i8_128_cuda_info, "b=2 hq=4 hk=2 sq=2 sk=200 layout=padded split=64"));
    FA_REQUIRE(device_upload(&p, &c));
    const size_t bytes = bf16_i8_128_decode_cuda_workspace(&c.args);
    FA_EXPECT(bytes > FA_CUDA_COUNTER_BYTES);
    FA_REQUIRE(device_reserve(&workspace, bytes));
    size_t size;
    void *memory;
#define REFUSED(expected, change) \
    a = c.args, a.error = &error, size = bytes, memory = workspace.data; \
    change; \
    FA_EXPECT_MSG(bf16_i8_128_decode_cuda(&a, memory, size, 0) == expected && error.status == expected, "%s", \
                  fa_strerror(bf16_i8_128_decode_cuda(&a, memory, size, 0)));
    FA_EXPECT(bf16_i8_128_decode_cuda(&c.args, workspace.data, bytes, 0) == FA_OK);
    FA_EXPECT(bf16_i8_128_decode_cuda(NULL, workspace.data, bytes, 0) == FA_ERR_ARGS_NULL);
    FA_EXPECT(bf16_i8_128_decode_cuda_workspace(NULL) == 0);
    REFUSED(FA_ERR_BATCH, a.batch = 0)
    REFUSED(FA_ERR_Q_NULL, a.q.data = NULL)
    REFUSED(FA_ERR_Q_ALIGN, a.q.data = (const char *)a.q.data + 2)
    REFUSED(FA_ERR_K_ALIGN, a.k.data = (const char *)a.k.data + 8)
    REFUSED(FA_ERR_K_ALIGN, a.k.stride_s += 8)
    FA_EXPECT(!strcmp(error.field, "k.stride_s") && error.got == (double)a.k.stride_s);
    REFUSED(FA_ERR_V_ALIGN, a.v.stride_h += 1)
    REFUSED(FA_ERR_O_ALIGN, a.o.stride_b += 2)
    REFUSED(FA_ERR_O_OVERLAP, a.o.data = (void *)a.q.data)
    REFUSED(FA_ERR_SPLIT_KEYS, a.split_keys = 63)
    REFUSED(FA_ERR_NUM_THREADS, a.num_threads = -1)
    REFUSED(FA_ERR_DESCALE_K, a.k_descale.block = -1)
    REFUSED(FA_ERR_NEEDS_SOFTCAP, a.softcap = 3)
    REFUSED(FA_ERR_CUDA_POINTER, a.k.data = on_host)
    FA_EXPECT(!strcmp(error.field, "k.data"));
    REFUSED(FA_ERR_CUDA_POINTER, a.v_descale.data = on_host)
    REFUSED(FA_ERR_WORKSPACE_NULL, memory = NULL)
    REFUSED(FA_ERR_WORKSPACE_SIZE, size = bytes - 1)
    FA_EXPECT(error.got == (double)(bytes - 1) && error.min == (double)bytes);
    REFUSED(FA_ERR_CUDA_POINTER, memory = on_host)
    FA_EXPECT(!strcmp(error.field, "workspace"));
#undef REFUSED
    fa_cuda_decode_launch launch;
    a = c.args, a.batch = 1 << 20, a.seqlen_q = 1 << 20;
    FA_EXPECT(bf16_i8_128_decode_cuda_launch(&a, &launch) == FA_ERR_CUDA_GRID);
    a = c.args, a.split_keys = 0, a.batch = 1, a.seqlen_k = 64; /* one split needs none */
    FA_EXPECT(bf16_i8_128_decode_cuda_workspace(&a) == 0);
    FA_EXPECT(bf16_i8_128_decode_cuda(&a, NULL, 0, 0) == FA_OK);
    FA_EXPECT(device_ok(cudaDeviceSynchronize(), "kernels"));
    device_free(&c), fap_free(&p);
}

/* Captured once, replayed on memory of garbage: a call does nothing but launch, and leaves the counters as they
 * were. */
FA_TEST(graph) {
    static const char *const lines[] = {"b=2 hq=4 hk=2 sq=3 sk=390 causal=1 split=64", "hq=4 hk=1 sq=30 sk=900"};
    for (int n = 0; n < COUNT(lines); n++) FA_EXPECT(graph_of_decode(&bf16_128_cuda_info, lines[n]));
}

/* ---- fa_combine_cuda --------------------------------------------------------------------- */

/* Parts, and the sum of them, in one block of host memory, and a copy of it on the device. */
enum { MOST_PARTS = 80 };
typedef struct sum_case {
    size_t bytes, used;
    char *host, *device;
    fa_part parts[MOST_PARTS], on_device[MOST_PARTS];
    fa_combine_args args; /* of the host */
} sum_case;

static void *sum_place(sum_case *c, int64_t elements, fa_dtype dtype) {
    void *const x = c->host + c->used;
    c->used += (size_t)elements * fa_sizeof(dtype) + 64, c->used &= ~(size_t)15;
    return x;
}
static void *sum_move(const sum_case *c, const void *x) {
    return x ? c->device + ((const char *)x - c->host) : NULL;
}

/* num parts of (b, sq, h, dv): rows of o padded by `pad` elements, every ninth lse -inf with NaN in o. in_place: of
 * part 1. */
static int sum_build(sum_case *c, int b, int sq, int h, int dv, int num, int pad, fa_dtype out, int in_place) {
    uint64_t rng = (uint64_t)(b + 10 * sq + 100 * dv + 1000 * num + pad);
    const int64_t row = dv + pad, rows = (int64_t)b * sq * h;
    memset(c, 0, sizeof *c);
    c->bytes = (size_t)(num + 1) * (size_t)(rows * (row + 1) * 4 + 256);
    c->host = (char *)calloc(1, c->bytes);
    if (!c->host || !device_ok(cudaMalloc((void **)&c->device, c->bytes), "cudaMalloc")) return 0;
    for (int n = 0; n < num; n++) {
        fa_part *const p = &c->parts[n];
        p->dtype = n == 1 && in_place ? out : (fa_dtype)(n % 4); /* 0 is FA_F32 */
        const fa_dtype dtype = p->dtype ? p->dtype : FA_F32;
        void *const o = sum_place(c, rows * row, dtype);
        float *const lse = (float *)sum_place(c, rows, FA_F32);
        p->o.data = o, p->lse.data = lse;
        if (pad) p->o.stride_h = row, p->o.stride_s = row * h, p->o.stride_b = row * h * sq;
        for (int64_t r = 0; r < rows; r++) lse[r] = fat_below(&rng, 9) ? (float)(5 * fat_normal(&rng)) : -INFINITY;
        for (int bi = 0; bi < b; bi++)
            for (int i = 0; i < sq; i++)
                for (int hi = 0; hi < h; hi++)
                    for (int64_t d = 0; d < row; d++) {
                        const float l = lse[((int64_t)bi * h + hi) * sq + i];
                        fa_store(o, ((int64_t)(bi * sq + i) * h + hi) * row + d, dtype,
                                 l == -INFINITY || d >= dv ? NAN : (float)fat_normal(&rng));
                    }
        if (n == 0) lse[rows - 1] = NAN; /* a row that is NaN */
    }
    fa_combine_args *const a = &c->args;
    a->batch = b, a->seqlen_q = sq, a->num_heads = h, a->head_dim_v = dv, a->num_parts = num, a->o_dtype = out;
    a->parts = c->parts;
    if (in_place) {
        a->o.data = (void *)c->parts[1].o.data, a->lse.data = (void *)c->parts[1].lse.data;
        a->o.stride_b = c->parts[1].o.stride_b, a->o.stride_s = c->parts[1].o.stride_s;
        a->o.stride_h = c->parts[1].o.stride_h;
    } else {
        a->o.data = sum_place(c, rows * dv, out ? out : FA_F32);
        a->lse.data = num % 2 ? sum_place(c, rows, FA_F32) : NULL;
    }
    return 1;
}

/* args of the device */
static fa_combine_args sum_args(sum_case *c) {
    fa_combine_args a = c->args;
    for (int n = 0; n < a.num_parts; n++) {
        c->on_device[n] = c->parts[n];
        c->on_device[n].o.data = sum_move(c, c->parts[n].o.data);
        c->on_device[n].lse.data = sum_move(c, c->parts[n].lse.data);
    }
    a.parts = c->on_device, a.o.data = sum_move(c, a.o.data), a.lse.data = sum_move(c, a.lse.data);
    return a;
}

static void sum_free(sum_case *c) { cudaFree(c->device), free(c->host); }

/* Elements that differ by more than rounding, of all the memory. */
static int sum_compare(sum_case *c) {
    char *const got = (char *)malloc(c->bytes);
    const fa_dtype out = c->args.o_dtype ? c->args.o_dtype : FA_F32;
    const double unit = out == FA_F32 ? 4e-6 : out == FA_F16 ? 1e-3 : 8e-3;
    int wrong = !device_ok(cudaMemcpy(got, c->device, c->bytes, cudaMemcpyDeviceToHost), "sum");
    wrong += fa_combine(&c->args) != FA_OK;
    const int64_t rows = (int64_t)c->args.batch * c->args.seqlen_q * c->args.num_heads,
                  stride = c->args.o.stride_h ? c->args.o.stride_h : c->args.head_dim_v;
    const char *const o = got + ((const char *)c->args.o.data - c->host);
    for (int64_t n = 0; n < rows * stride; n++) {
        const double x = (double)fa_load(o, n, out), y = (double)fa_load(c->args.o.data, n, out);
        wrong += !(fabs(x - y) <= unit * (1 + fabs(y)) || (x != x && y != y));
    }
    for (int64_t n = 0; c->args.lse.data && n < rows; n++) {
        const double x = (double)((const float *)(const void *)(got + ((char *)c->args.lse.data - c->host)))[n],
                     y = (double)((const float *)c->args.lse.data)[n];
        wrong += !(x == y || fabs(x - y) <= 4e-6 * (1 + fabs(y)) || (x != x && y != y));
    }
    free(got);
    return wrong;
}

FA_TEST(sums) {
    static const int shapes[][6] = {/* batch, queries, heads, dv, parts, pad */
                                    {1, 1, 1, 1, 1, 0},   {2, 3, 4, 64, 2, 0},  {3, 2, 2, 128, 5, 8},
                                    {1, 5, 3, 129, 7, 1}, {2, 1, 3, 300, 3, 4}, {2, 4, 2, 40, 32, 0},
                                    {2, 4, 2, 40, 33, 0}, {1, 3, 3, 136, 79, 3}};
    for (int n = 0; n < COUNT(shapes); n++)
        for (int out = 0; out <= FA_BF16; out++)
            for (int in_place = 0; in_place < 2; in_place++) {
                const int *const s = shapes[n];
                sum_case c;
                void *memory = NULL;
                if (!due() || (in_place && s[4] < 2)) continue;
                FA_REQUIRE(sum_build(&c, s[0], s[1], s[2], s[3], s[4], s[5], out, in_place));
                FA_REQUIRE(device_ok(cudaMemcpy(c.device, c.host, c.bytes, cudaMemcpyHostToDevice), "parts"));
                const fa_combine_args a = sum_args(&c);
                const size_t bytes = fa_combine_cuda_workspace(&a);
                FA_EXPECT((bytes != 0) == (s[4] > 32));
                if (bytes) FA_REQUIRE(device_ok(cudaMalloc(&memory, bytes), "cudaMalloc"));
                FA_EXPECT(fa_combine_cuda(&a, memory, bytes, 0) == FA_OK);
                FA_EXPECT(device_ok(cudaDeviceSynchronize(), "sum"));
                const int wrong = sum_compare(&c);
                FA_EXPECT_MSG(wrong == 0, "%d elements of shape %d, out %d, in place %d", wrong, n, out, in_place);
                cudaFree(memory), sum_free(&c);
            }
}

FA_TEST(bad_sums) {
    static float on_host[4096];
    sum_case c;
    fa_error error;
    fa_combine_args a;
    FA_REQUIRE(sum_build(&c, 2, 3, 2, 64, 40, 0, FA_F32, 0));
    const fa_combine_args good = sum_args(&c);
    const size_t bytes = fa_combine_cuda_workspace(&good);
    void *memory, *used;
    size_t size;
    FA_EXPECT(bytes == 12 * 66 * 4);
    FA_REQUIRE(device_ok(cudaMalloc(&memory, bytes), "cudaMalloc"));
#define REFUSED(expected, change) \
    a = good, a.error = &error, size = bytes, used = memory, c.on_device[35] = c.on_device[34]; \
    change; \
    FA_EXPECT_MSG(fa_combine_cuda(&a, used, size, 0) == expected && error.status == expected, "%s", \
                  fa_strerror(fa_combine_cuda(&a, used, size, 0)));
    FA_EXPECT(fa_combine_cuda(NULL, NULL, 0, 0) == FA_ERR_ARGS_NULL);
    REFUSED(FA_ERR_NUM_PARTS, a.num_parts = 0)
    REFUSED(FA_ERR_O_NULL, a.o.data = NULL)
    REFUSED(FA_ERR_COMBINE_DIM, a.head_dim_v = 0)
    REFUSED(FA_ERR_PART_NULL, c.on_device[35].lse.data = NULL)
    REFUSED(FA_ERR_PART_DTYPE, c.on_device[35].dtype = FA_E4M3)
    REFUSED(FA_ERR_O_OVERLAP, a.o.data = (char *)c.on_device[35].o.data + 4)
    REFUSED(FA_ERR_CUDA_POINTER, a.o.data = on_host)
    REFUSED(FA_ERR_CUDA_POINTER, c.on_device[35].o.data = on_host)
    FA_EXPECT(error.index == 35 && !strcmp(error.field, "o.data"));
    REFUSED(FA_ERR_WORKSPACE_NULL, used = NULL)
    REFUSED(FA_ERR_WORKSPACE_SIZE, size = bytes - 1)
    REFUSED(FA_ERR_CUDA_POINTER, used = on_host)
#undef REFUSED
    FA_EXPECT(device_ok(cudaDeviceSynchronize(), "nothing was launched"));
    cudaFree(memory), sum_free(&c);
}

FA_TEST(graph_of_a_sum) {
    sum_case c;
    device_graph g;
    void *memory;
    FA_REQUIRE(sum_build(&c, 2, 3, 2, 64, 41, 0, FA_BF16, 0));
    fa_combine_args a = sum_args(&c);
    const size_t bytes = fa_combine_cuda_workspace(&a);
    FA_REQUIRE(device_ok(cudaMalloc(&memory, bytes), "cudaMalloc") && graph_begin(&g));
    FA_EXPECT(fa_combine_cuda(&a, memory, bytes, g.stream) == FA_OK);
    memset(c.on_device, 0, sizeof c.on_device); /* read by the call alone */
    FA_REQUIRE(graph_end(&g));
    FA_REQUIRE(device_ok(cudaMemcpy(c.device, c.host, c.bytes, cudaMemcpyHostToDevice), "parts"));
    for (int n = 0; n < 2; n++) FA_EXPECT(graph_replay(&g));
    FA_EXPECT(sum_compare(&c) == 0);
    graph_free(&g), cudaFree(memory), sum_free(&c);
}

FA_TEST_MAIN
