/* test_decode.cu - the CUDA decode pass against the fp64 reference, with the judge of fa_problem.h; the same bits however the
 * work is shared out. */
#include <stdarg.h>

#include "fa_test.h"

#define FA_NAME bf16_128
#define FA_HEAD_DIM 128
#define FA_PASSES FA_DECODE
#include "flashattn_cuda.cuh"

#define FA_NAME f16_64 /* everything */
#define FA_HEAD_DIM 64
#define FA_DTYPE FA_F16
#define FA_PASSES FA_DECODE
#define FA_FEATURES FA_ALL_FEATURES
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

#define FA_NAME bf16_e4m3_64
#define FA_HEAD_DIM 64
#define FA_KV_DTYPE FA_E4M3
#define FA_PASSES FA_DECODE
#define FA_FEATURES FA_ALL_FEATURES
#include "flashattn_cuda.cuh"

#define FA_NAME f16_e4m3_128
#define FA_HEAD_DIM 128
#define FA_DTYPE FA_F16
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
#define FA_KV_DTYPE FA_I8
#define FA_PASSES FA_DECODE
#include "flashattn_cuda.cuh"

#include "fa_problem.h"

#include "device.h"

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

static const fa_cuda_info *const instances[] = {&bf16_128_cuda_info, &f16_64_cuda_info, &bf16_96_48_cuda_info, &bf16_e4m3_64_cuda_info, &bf16_256_cuda_info,
                                                &f16_e4m3_128_cuda_info, &bf16_i8_128_cuda_info, &f16_i8_96_32_cuda_info};
static const fa_cuda_info *const featured[] = {&f16_64_cuda_info, &bf16_e4m3_64_cuda_info};
static device_workspace workspace;

/* The problem of a line; fap_build checks it for the forward pass. */
static int build_case(fap_problem *p, const fa_cuda_info *instance, const char *line) {
    fa_info info = instance->info;
    info.passes |= FA_FORWARD;
    fap_unit = 16;
    return fap_build(p, line, &info);
}

static int decode_case(const fa_cuda_info *instance, const char *format, ...) {
    char line[512];
    va_list list;
    fap_problem p;
    int ok;
    va_start(list, format), vsnprintf(line, sizeof line, format, list), va_end(list);
    if (!build_case(&p, instance, line)) return 0;
    ok = device_decode(instance, &p, &workspace) && fap_judge(&p, instance->info.name);
    if (!ok) printf("#     case: %s: %s\n", instance->info.name, line);
    if (!ok) cudaDeviceReset(), workspace.data = NULL, workspace.bytes = 0; /* a broken context is of no use */
    fap_free(&p);
    return ok;
}

/* One below and one above every edge: tiles of 16, 32 and 64 keys, rows of 16, 32 and 64, splits. */
FA_TEST(edges) {
    static const int keys[] = {0, 1, 15, 16, 17, 63, 64, 65, 127, 129, 200};
    static const int rows[] = {1, 2, 15, 16, 17, 32, 33, 64, 65};
    for (int r = 0; r < COUNT(rows); r++)
        for (int k = 0; k < COUNT(keys); k++)
            FA_EXPECT(decode_case(instances[(r + k) % COUNT(instances)], "sq=%d sk=%d causal=%d split=%d seed=%d", rows[r], keys[k],
                                  (r + k) % 2, k % 3 == 2 ? 64 : 0, r));
}

static const char *const layouts[] = {"",       "layout=bhsd",           "layout=padded",     "page=1",
                                      "page=3", "page=16 layout=padded", "page=256 descale=4", "varlen=1"};

FA_TEST(layouts_and_dtypes) {
    for (int t = 0; t < COUNT(instances); t++)
        for (int l = 0; l < COUNT(layouts); l++)
            FA_EXPECT(decode_case(instances[t], "b=2 hq=4 hk=2 sq=%d sk=%d causal=1 descale=%d seed=%d %s", 1 + (t + l) % 4,
                                  200 + 31 * l, (t + l) % 5, t, layouts[l]));
}

FA_TEST(groups) {
    static const int heads[][2] = {{1, 1}, {3, 1}, {7, 1}, {8, 1}, {14, 2}, {12, 4}, {71, 1}};
    for (int n = 0; n < COUNT(heads); n++)
        for (int queries = 1; queries <= 9; queries += 4)
            FA_EXPECT(decode_case(instances[(n + queries / 4) % COUNT(instances)],
                                  "b=2 hq=%d hk=%d sq=%d sk=%d causal=1 split=%d seed=%d", heads[n][0], heads[n][1], queries,
                                  130 + 9 * n, n % 2 ? 64 : 0, n));
}

/* One key below and above whole splits, and more splits than one sequence of a batch has keys. */
FA_TEST(splits) {
    static const int counts[] = {1, 2, 3, 17};
    for (int n = 0; n < COUNT(counts); n++)
        for (int more = -1; more <= 1; more++) {
            const fa_cuda_info *instance = instances[(3 * n + more + 1) % COUNT(instances)];
            const int length = 64 * counts[n] + more;
            FA_EXPECT(decode_case(instance, "b=2 hq=6 hk=2 sq=%d sk=%d split=64 causal=1 used=2", 1 + n, length));
            FA_EXPECT(decode_case(instance, "hq=2 sq=3 sk=%d split=%d wl=%d", length, 65 + 30 * n, length / 2 + 1));
            FA_EXPECT(decode_case(instance, "b=3 hq=2 hk=1 sq=2 sk=%d used=1 threads=%d", 4 * length, 20 * n + 1));
        }
}

/* More tiles of rows than there are counters: a second launch adds up the splits. */
FA_TEST(two_launches) {
    FA_EXPECT(decode_case(&f16_64_cuda_info, "b=%d hq=1 sk=65 split=64", FA_CUDA_COUNTER_BYTES / 4));
}

FA_TEST(empty_sequences) {
    for (int seed = 0; seed < 12; seed++)
        FA_EXPECT(decode_case(instances[seed % COUNT(instances)], "b=6 hq=2 sq=3 sk=150 %s causal=%d split=%d seed=%d",
                              seed % 2 ? "varlen=1" : "used=1 page=16", seed % 3 == 0, seed % 4 ? 64 : 0, seed));
}

static const char *const features[] = {
    "",       "causal=1", "wl=70",      "wr=3 wl=90", "softcap=5", "alibi=1",    "alibi=2",     "bias=1",
    "bias=2", "bias=3",   "bias=4",     "drop=0.3",   "sink=1",    "bm=16",      "bm=64",       "tree=1",
    "tree=2", "used=1",   "varlen=1",   "scale=-0.3", "nan=1",     "nan=1 causal=1", "lse=0", "layout=qkv", "layout=bcast"};

FA_TEST(features_one_by_one) {
    for (int n = 0; n < COUNT(features); n++)
        for (int queries = 1; queries <= 33; queries += 16)
            FA_EXPECT(decode_case(featured[(n + queries / 16) % 2], "b=2 hq=2 hk=1 sq=%d sk=213 %s split=%d seed=%d", queries,
                                  features[n], queries == 17 ? 64 : 0, n));
}

FA_TEST(random_mixtures) {
    uint64_t rng = fat_seed;
    for (int n = 0; n < 60; n++) {
        char line[512], more[64];
        const fa_cuda_info *instance = instances[n % COUNT(instances)];
        fap_random(line, &rng, instance->info.features, 40, 400);
        sprintf(more, " split=%d%s", fat_below(&rng, 2) ? 64 + fat_below(&rng, 200) : 0, n % 5 == 0 ? " descale=4" : "");
        FA_EXPECT(decode_case(instance, "%s%s", line, more));
    }
}

/* ---- the same bits, the bytes that are read -------------------------------------------------------------------------------- */

/* With split_keys: each row once more, as a call of its own with one sequence, one query, one head. */
FA_TEST(rows_alone_and_in_company) {
    static const char *const lines[] = {"b=2 hq=10 hk=2 sq=7 sk=400 causal=1 used=2 split=100",
                                        "b=2 hq=6 hk=1 sq=9 sk=317 causal=1 wl=150 split=64 layout=padded",
                                        "b=2 hq=3 hk=1 sq=4 sk=150 split=1000"};
    for (int n = 0; n < COUNT(lines); n++) {
        const fa_cuda_info *instance = instances[n % 2];
        fap_problem p;
        device_copy c;
        int different = 0;
        FA_REQUIRE(build_case(&p, instance, lines[n]));
        FA_EXPECT(device_decode(instance, &p, &workspace) && fap_judge(&p, "company"));
        FA_REQUIRE(device_upload(&p, &c));
        char *result; /* a row of o, and its lse */
        FA_REQUIRE(device_ok(cudaMalloc((void **)&result, 1024), "cudaMalloc"));
        for (int b = 0; b < p.spec.b; b++)
            for (int h = 0; h < p.spec.hq; h++)
                for (int i = 0; i < p.len_q[b]; i += 1 + h % 2) {
                    const int hk = h / (p.spec.hq / p.spec.hk), bytes = p.spec.dv * 2;
                    const fa_sequence seq = fa_get_sequence(&p.args, b);
                    char alone[1024];
                    fa_args a = c.args;
                    a.seqlen_k = a.causal ? fa_row_range(&p.args, seq.len_q, seq.len_k, i).hi : seq.len_k;
                    a.batch = a.num_heads = a.seqlen_q = 1, a.num_heads_k = 0, a.seqused_q = a.seqused_k = NULL;
                    a.q.data = (const char *)a.q.data + fap_at_q(&p, &p.q, b, i, h) * 2;
                    a.k.data = (const char *)a.k.data + (b * p.k.sb + hk * p.k.sh) * 2;
                    a.v.data = (const char *)a.v.data + (b * p.v.sb + hk * p.v.sh) * 2;
                    a.k.stride_b = p.k.sb, a.k.stride_s = p.k.ss, a.k.stride_h = p.k.sh;
                    a.v.stride_b = p.v.sb, a.v.stride_s = p.v.ss, a.v.stride_h = p.v.sh;
                    memset(&a.o, 0, sizeof a.o), memset(&a.lse, 0, sizeof a.lse);
                    a.o.data = result, a.lse.data = result + 512;
                    const size_t size = instance->decode_workspace(&a);
                    FA_REQUIRE(size <= workspace.bytes && instance->decode(&a, workspace.data, size, 0) == FA_OK);
                    FA_REQUIRE(device_ok(cudaMemcpy(alone, result, 1024, cudaMemcpyDeviceToHost), "row"));
                    different += memcmp(alone, p.o.place.data + fap_at_q(&p, &p.o.place, b, i, h) * 2, (size_t)bytes) != 0;
                    different += memcmp(alone + 512, p.lse.place.data + fap_at_q(&p, &p.lse.place, b, i, h) * 4, 4) != 0;
                }
        FA_EXPECT_MSG(different == 0, "%s: %d rows differ", lines[n], different);
        cudaFree(result), device_free(&c), fap_free(&p);
    }
}

#if defined(PTX_MACHINE)
extern "C" uint64_t ptx_counter(const char *name);

/* K and V are read once, whatever the splits: and Q by each of them. */
FA_TEST(bytes_read) {
    static const int queries[] = {1, 5, 16};
    for (int t = 0; t < COUNT(instances); t++)
        for (int n = 0; n < COUNT(queries); n++)
            for (int split = 0; split <= 128; split += 128) {
                const fa_info *info = &instances[t]->info;
                const uint64_t keys = 700, rows = (uint64_t)queries[n] * 4, tiles = split ? (rows + 15) / 16 : 1,
                               splits = split ? 6 : 1;
                if (tiles > 1) continue; /* fixed splits are of 16 rows */
                FA_EXPECT(decode_case(instances[t], "b=2 hq=8 hk=2 sq=%d sk=%d split=%d threads=%d", queries[n], (int)keys,
                                      split, 1));
                const uint64_t kv = 4 * keys * (uint64_t)(info->head_dim + info->head_dim_v) * fa_sizeof(info->kv_dtype);
                const uint64_t q = 4 * rows * (uint64_t)info->head_dim * 2 * splits;
                if (split) FA_EXPECT_MSG(ptx_counter("copy_bytes") == kv + q, "%s: %g bytes, not %g + %g", info->name,
                                         (double)ptx_counter("copy_bytes"), (double)kv, (double)q);
                else FA_EXPECT_MSG(ptx_counter("copy_bytes") >= kv + q && ptx_counter("copy_bytes") <= kv + 12 * q,
                                   "%s: %g bytes, not %g + %g", info->name, (double)ptx_counter("copy_bytes"), (double)kv,
                                   (double)q);
            }
}
#endif

FA_TEST_MAIN
