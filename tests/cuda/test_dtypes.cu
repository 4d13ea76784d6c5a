/* test_dtypes.cu - the CUDA forward pass in f32 and fp8, and with O in another dtype than Q, against the fp64 reference. */
#include "cuda_test.h"

/* ---- all features ------------------------------------------------------------------------ */

#define FA_NAME f32_64
#define FA_HEAD_DIM 64
#define FA_DTYPE FA_F32
#define FA_FEATURES FA_ALL_FEATURES
#include "flashattn_cuda.cuh"

#define FA_NAME f32_48 /* small tiles, 16 rows a warp, 2 stages */
#define FA_HEAD_DIM 48
#define FA_HEAD_DIM_V 80
#define FA_DTYPE FA_F32
#define FA_FEATURES FA_ALL_FEATURES
#define FA_BLOCK_M 32
#define FA_BLOCK_N 16
#define FA_WARPS 2
#define FA_STAGES 2
#include "flashattn_cuda.cuh"

#define FA_NAME e4m3_64
#define FA_HEAD_DIM 64
#define FA_DTYPE FA_E4M3
#define FA_FEATURES FA_ALL_FEATURES
#include "flashattn_cuda.cuh"

#define FA_NAME e4m3_48 /* rows of odd multiples of 16 bytes, small tiles, one stage */
#define FA_HEAD_DIM 48
#define FA_HEAD_DIM_V 80
#define FA_DTYPE FA_E4M3
#define FA_O_DTYPE FA_F32
#define FA_FEATURES FA_ALL_FEATURES
#define FA_BLOCK_M 32
#define FA_BLOCK_N 32
#define FA_WARPS 2
#define FA_STAGES 1
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_f32_64
#define FA_HEAD_DIM 64
#define FA_O_DTYPE FA_F32
#define FA_FEATURES FA_ALL_FEATURES
#include "flashattn_cuda.cuh"

static const fa_cuda_info *const full[] = {&f32_64_cuda_info, &f32_48_cuda_info, &bf16_f32_64_cuda_info,
                                           &e4m3_64_cuda_info, &e4m3_48_cuda_info};

/* ---- causal alone, and head dims --------------------------------------------------------- */

#define FA_FEATURES FA_CAUSAL
#define FA_NAME f32_16_256
#define FA_HEAD_DIM 16
#define FA_HEAD_DIM_V 256
#define FA_DTYPE FA_F32
#include "flashattn_cuda.cuh"

#define FA_FEATURES FA_CAUSAL
#define FA_NAME f32_112
#define FA_HEAD_DIM 112
#define FA_DTYPE FA_F32
#include "flashattn_cuda.cuh"

#define FA_FEATURES FA_CAUSAL
#define FA_NAME f32_192_128
#define FA_HEAD_DIM 192
#define FA_HEAD_DIM_V 128
#define FA_DTYPE FA_F32
#define FA_O_DTYPE FA_BF16
#include "flashattn_cuda.cuh"

#define FA_FEATURES FA_CAUSAL
#define FA_NAME f32_256
#define FA_HEAD_DIM 256
#define FA_DTYPE FA_F32
#define FA_O_DTYPE FA_F16
#include "flashattn_cuda.cuh"

#define FA_FEATURES FA_CAUSAL
#define FA_NAME f16_bf16_128
#define FA_HEAD_DIM 128
#define FA_DTYPE FA_F16
#define FA_O_DTYPE FA_BF16
#include "flashattn_cuda.cuh"

#define FA_FEATURES FA_CAUSAL
#define FA_NAME bf16_f16_80
#define FA_HEAD_DIM 80
#define FA_O_DTYPE FA_F16
#include "flashattn_cuda.cuh"

#define FA_FEATURES FA_CAUSAL
#define FA_NAME f16_f32_256
#define FA_HEAD_DIM 256
#define FA_DTYPE FA_F16
#define FA_O_DTYPE FA_F32
#include "flashattn_cuda.cuh"

#define FA_FEATURES FA_CAUSAL
#define FA_NAME e4m3_16_256
#define FA_HEAD_DIM 16
#define FA_HEAD_DIM_V 256
#define FA_DTYPE FA_E4M3
#include "flashattn_cuda.cuh"

#define FA_FEATURES FA_CAUSAL
#define FA_NAME e4m3_112
#define FA_HEAD_DIM 112
#define FA_DTYPE FA_E4M3
#define FA_O_DTYPE FA_F16
#include "flashattn_cuda.cuh"

#define FA_FEATURES FA_CAUSAL
#define FA_NAME e4m3_128
#define FA_HEAD_DIM 128
#define FA_DTYPE FA_E4M3
#include "flashattn_cuda.cuh"

#define FA_FEATURES FA_CAUSAL
#define FA_NAME e4m3_192_144
#define FA_HEAD_DIM 192
#define FA_HEAD_DIM_V 144
#define FA_DTYPE FA_E4M3
#include "flashattn_cuda.cuh"

#define FA_FEATURES FA_CAUSAL
#define FA_NAME e4m3_256_16
#define FA_HEAD_DIM 256
#define FA_HEAD_DIM_V 16
#define FA_DTYPE FA_E4M3
#include "flashattn_cuda.cuh"

#define FA_FEATURES FA_CAUSAL
#define FA_NAME e5m2_96
#define FA_HEAD_DIM 96
#define FA_DTYPE FA_E5M2
#include "flashattn_cuda.cuh"

static const fa_cuda_info *const dims[] = {
    &f32_64_cuda_info,       &f32_48_cuda_info,      &f32_16_256_cuda_info,  &f32_112_cuda_info,
    &f32_192_128_cuda_info,  &f32_256_cuda_info,     &bf16_f32_64_cuda_info, &f16_bf16_128_cuda_info,
    &bf16_f16_80_cuda_info,  &f16_f32_256_cuda_info, &e4m3_64_cuda_info,     &e4m3_48_cuda_info,
    &e4m3_16_256_cuda_info,  &e4m3_112_cuda_info,    &e4m3_128_cuda_info,    &e4m3_192_144_cuda_info,
    &e4m3_256_16_cuda_info,  &e5m2_96_cuda_info};

/* ---- hooks ------------------------------------------------------------------------------- */

#define FA_NAME f32_32_hooks
#define FA_HEAD_DIM 32
#define FA_DTYPE FA_F32
#define FA_FEATURES FA_CAUSAL
#define FA_SCORE_MOD HOOK_SCORE
#define FA_MASK_MOD HOOK_MASK
#include "flashattn_cuda.cuh"

#define FA_NAME e4m3_32_hooks
#define FA_HEAD_DIM 32
#define FA_DTYPE FA_E4M3
#define FA_FEATURES FA_CAUSAL
#define FA_SCORE_MOD HOOK_SCORE
#define FA_MASK_MOD HOOK_MASK
#include "flashattn_cuda.cuh"

/* ---- the CPU kernels of the same names: their functions do not meet ---------------------- */

#define FA_NAME f32_64
#define FA_HEAD_DIM 64
#define FA_DTYPE FA_F32
#define FA_PASSES FA_FORWARD
#define FA_FEATURES FA_ALL_FEATURES
#include "flashattn.h"

#define FA_NAME e4m3_64
#define FA_HEAD_DIM 64
#define FA_DTYPE FA_E4M3
#define FA_PASSES FA_FORWARD
#define FA_FEATURES FA_ALL_FEATURES
#include "flashattn.h"

#include "forward.h"

static int is_fp8(const fa_cuda_info *instance) { return instance->info.dtype >= FA_E4M3; }

/* Is there code for this GPU? */
static int has_fp8(void) {
    static int known = -1;
    struct cudaFuncAttributes attributes;
    if (known < 0)
        known = cudaFuncGetAttributes(&attributes, (const void *)fai_e4m3_64_forward_kernel_cuda) == cudaSuccess &&
                attributes.ptxVersion >= 89;
    return known;
}

static int due(const fa_cuda_info *instance) { return (!is_fp8(instance) || has_fp8()) && due_every(6); }

/* ---- shapes ------------------------------------------------------------------------------ */

static const int edges[] = {1, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129};

FA_TEST(edges_of_tiles) {
    for (int q = 0; q < COUNT(edges); q++)
        for (int k = q % 3; k < COUNT(edges); k += 3)
            FA_EXPECT(check_case(full[(q + k) % COUNT(full)], "sq=%d sk=%d seed=%d causal=%d", edges[q],
                                 edges[k], q, k / 2 % 2));
}

FA_TEST(every_head_dim) {
    for (int n = 0; n < COUNT(dims); n++) {
        FA_EXPECT(check_case(dims[n], "sq=113 sk=203 descale=%d", n % 4));
        FA_EXPECT(check_case(dims[n], "hq=2 sq=140 sk=130 causal=1"));
    }
}

FA_TEST(grouped_heads) {
    static const int heads[][2] = {{1, 1}, {4, 2}, {8, 1}, {33, 1}};
    static const int lengths[] = {1, 7, 33};
    for (int n = 0; n < COUNT(heads); n++)
        for (int s = 0; s < COUNT(lengths); s++)
            for (int i = (n + s) % 2; i < COUNT(full); i += 2)
                FA_EXPECT(check_case(full[i], "b=2 hq=%d hk=%d sq=%d sk=%d causal=%d seed=%d descale=2",
                                     heads[n][0], heads[n][1], lengths[s], 20 + 9 * s, (n + s) % 2, n));
}

FA_TEST(rows_without_keys) { check_rows_without_keys(); }

FA_TEST(layouts) { check_layouts(); }

FA_TEST(varlen) { check_varlen(); }

/* ---- features ---------------------------------------------------------------------------- */

FA_TEST(each_feature) {
    static const char *const features[] = {
        "wl=9",           "wr=20",   "wl=33 wr=5",
        "page=16",        "page=7",  "softcap=5",
        "alibi=1",        "alibi=2", "bias=1",
        "bias=2",         "bias=4",  "softcap=30",
        "drop=0.3",       "sink=1",  "bm=16",
        "bm=33",          "nan=1",   "scale=-0.2",
        "drop=0.9 nan=1", "lse=0",   "sink=1 softcap=20 alibi=1 bias=4 drop=0.1 bm=8 page=9"};
    for (int n = 0; n < COUNT(full); n++)
        for (int f = 0; f < COUNT(features); f++) {
            FA_EXPECT(check_case(full[n], "hq=2 sq=67 sk=133 causal=%d seed=%d %s", f % 2, f, features[f]));
            FA_EXPECT(check_case(full[n],
                                 "b=3 hq=4 hk=2 sq=40 sk=75 varlen=1 used=2 causal=%d seed=%d descale=%d %s",
                                 (f + 1) % 2, f, f % 5, features[f]));
        }
}

FA_TEST(infinite_values) {
    static const char *const lines[] = {"hq=2 sq=60 sk=90 causal=1",
                                        "hq=4 hk=2 sq=60 sk=90 causal=1 page=16 descale=3",
                                        "hq=2 sq=60 sk=150 wl=30 wr=9 descale=4",
                                        "sq=60 sk=90 bm=16",
                                        "sq=60 sk=90 descale=1",
                                        "hq=2 sq=60 sk=150 causal=1 drop=0.5",
                                        "hq=2 sq=20 sk=90 tree=1"};
    static const fa_cuda_info *const instances[] = {&f32_64_cuda_info,  &f32_48_cuda_info, &bf16_f32_64_cuda_info,
                                                    &e4m3_64_cuda_info, &e4m3_48_cuda_info, &e5m2_96_cuda_info};
    for (int n = 0; n < COUNT(instances) * COUNT(lines); n++) {
        const fa_cuda_info *const instance = instances[n % COUNT(instances)];
        const char *const line = lines[n / COUNT(instances)];
        fap_problem p;
        if (is_fp8(instance) && !has_fp8()) continue;
        if (instance == &e5m2_96_cuda_info && n / COUNT(instances)) continue; /* causal alone */
        set_unit(instance);
        FA_REQUIRE(fap_build(&p, line, &instance->info));
        put_infinite_values(&p, is_fp8(instance) ? -NAN : -INFINITY);
        if (instance->info.dtype == FA_E5M2) { /* fa_store makes large numbers of infinities */
            ((uint8_t *)p.v.data)[fap_at_k(&p, &p.v, 0, 50, 0) + 9] = 0x7c;
            ((uint8_t *)p.v.data)[fap_at_k(&p, &p.v, 0, p.spec.sk - 1, 0) + p.spec.dv - 1] = 0xfc;
        }
        FA_EXPECT(device_judge(instance, &p, line, device_forward(instance, &p)));
    }
}

FA_TEST(trees) { check_trees(); }

FA_TEST(hooks) {
    FA_EXPECT(check_case(&f32_32_hooks_cuda_info, "b=2 hq=2 sq=70 sk=140"));
    FA_EXPECT(check_case(&e4m3_32_hooks_cuda_info, "b=2 hq=4 hk=2 sq=70 sk=140 causal=1 descale=2"));
}

FA_TEST(random_problems) { check_random_problems(100); }

/* ---- fp8 --------------------------------------------------------------------------------- */

/* Factors of a tensor, of (batch, head), of blocks, of rows; of pages. */
FA_TEST(factors) {
    for (int n = 3; n < COUNT(full); n++)
        for (int d = 1; d <= 4; d++) {
            FA_EXPECT(check_case(full[n], "b=2 hq=2 sq=70 sk=300 descale=%d seed=%d", d, d));
            FA_EXPECT(check_case(full[n], "b=2 hq=6 hk=2 sq=70 sk=140 causal=1 descale=%d seed=%d", d, d));
            FA_EXPECT(check_case(full[n], "b=2 hq=4 hk=2 sq=40 sk=140 page=%d descale=%d alibi=1 scale=-0.3",
                                 7 << d, d));
        }
}

/* Factors of V from 2^-40 to 2^40, among them 0, and one for each page. */
FA_TEST(factors_of_all_sizes) {
    if (!has_fp8()) FA_SKIP("fp8 needs sm_89");
    for (int n = 3; n < COUNT(full); n++)
        for (int rising = 0; rising < 3; rising++) {
            fap_problem p;
            set_unit(full[n]);
            FA_REQUIRE(fap_build(
                &p, rising == 2 ? "hq=2 sq=70 sk=200 page=16 descale=4" : "hq=2 sq=70 sk=200 descale=4",
                &full[n]->info));
            float *const v = (float *)p.args.v_descale.data;
            if (rising == 2) {
                p.args.v_descale.block = p.args.k_descale.block = 0;
                p.args.v_descale.stride_b = p.args.k_descale.stride_b = 1;
                p.args.v_descale.stride_h = p.args.k_descale.stride_h = 0;
                for (int i = 0; i < p.args.num_pages; i++)
                    v[i] = exp2f((float)(i % 7 - 3)), ((float *)p.args.k_descale.data)[i] = 1 + i % 3;
            } else {
                for (int i = 0; i < 2 * 200; i++) {
                    const int step = i % 200 / 10;
                    v[i] = i % 11 == 3 ? 0 : exp2f((float)(4 * (rising ? step : 19 - step) - 40));
                }
            }
            FA_EXPECT(device_judge(full[n], &p, "factors", device_forward(full[n], &p)));
        }
}

/* No code for fp8: a status that says so, and nothing is launched. */
FA_TEST(fp8_needs_sm_89) {
    fap_problem p;
    device_copy c;
    char text[512];
    if (has_fp8()) FA_SKIP("there is code for fp8");
    set_unit(&e4m3_64_cuda_info);
    FA_REQUIRE(fap_build(&p, "sq=20 sk=30", &e4m3_64_cuda_info.info));
    FA_REQUIRE(device_upload(&p, &c));
    FA_EXPECT(e4m3_64_forward_cuda(&c.args, NULL, 0, 0) == FA_ERR_CUDA_ARCH);
    FA_EXPECT(c.error.status == FA_ERR_CUDA_ARCH && c.error.got == 80 && c.error.min == 89);
    fa_error_message(&c.error, text, sizeof text);
    FA_EXPECT_MSG(strstr(text, "8.9") && strstr(text, "FA_BF16"), "%s", text);
    FA_EXPECT(device_ok(cudaDeviceSynchronize(), "nothing") && device_download(&p, &c));
    for (size_t n = 0; n < p.o.size; n++) FA_REQUIRE(p.o.bytes[n] == 0xff);
    device_free(&c), fap_free(&p);
}

/* ---- bytes, banks ------------------------------------------------------------------------ */

/* Device memory as fa_io_model says: Q, O and LSE once, K and V once for each tile of queries that sees them. */
FA_TEST(bytes_are_those_of_the_model) {
    static const int shapes[][3] = {{128, 128, 0}, {256, 512, 1}, {200, 203, 0}};
    if (!ptx_counter) FA_SKIP("only the PTX machine counts bytes");
    for (int n = 0; n < COUNT(shapes) * COUNT(dims); n++) {
        const fa_info *const info = &dims[n % COUNT(dims)]->info;
        const int *const s = shapes[n / COUNT(dims)];
        if (info->features != FA_CAUSAL || info == &f16_f32_256_cuda_info.info) continue; /* tiles of sm_80 */
        FA_REQUIRE(check_case(dims[n % COUNT(dims)], "b=2 hq=2 sq=%d sk=%d causal=%d", s[0], s[1], s[2]));
        if (!ran) continue;
        const double bytes = counted_bytes();
        const int64_t size = (int64_t)fa_sizeof(info->dtype), size_o = (int64_t)fa_sizeof(info->o_dtype);
        const fa_io io = fa_io_model(2, 2, s[0], s[1], info->head_dim, info->head_dim_v, size, s[2],
                                     info->block_m, info->block_n, 1, 0);
        const double want = io.bytes_flash + 4.0 * s[0] * info->head_dim_v * (double)(size_o - size);
        FA_EXPECT_MSG(bytes == want, "%s %d x %d: %.0f bytes, the model says %.0f", info->name, s[0], s[1],
                      bytes, want);
    }
}

FA_TEST(no_bank_conflicts) { check_banks(); }

/* ---- calls ------------------------------------------------------------------------------- */

/* The same elements are dropped as by the CPU kernels: with few keys one more or less is much of a row. */
static void same_drops(const fa_cuda_info *instance, const fa_info *cpu, double limit) {
    static const char *const line = "b=2 hq=4 hk=2 sq=70 sk=150 drop=0.4 causal=1 seed=3 descale=2";
    fap_problem p, q;
    double worst = 0;
    if (is_fp8(instance) && !has_fp8()) return;
    set_unit(instance);
    FA_REQUIRE(fap_build(&p, line, &instance->info) && fap_build(&q, line, cpu));
    const size_t bytes = cpu->forward_workspace(&q.args);
    FA_EXPECT(cpu->forward(&q.args, fap_alloc(&q, (int64_t)bytes), bytes) == FA_OK);
    FA_EXPECT(device_forward(instance, &p));
    for (int64_t n = 0; n < (int64_t)((p.o.size - 512) / fa_sizeof(cpu->o_dtype)); n++)
        worst = fmax(worst, fabs((double)fa_load(p.o.place.data, n, cpu->o_dtype) -
                                 (double)fa_load(q.o.place.data, n, cpu->o_dtype)));
    FA_EXPECT_MSG(worst < limit, "%s differs by %g", cpu->name, worst);
    fap_free(&p), fap_free(&q);
}
FA_TEST(drops_what_the_cpu_drops) {
    same_drops(&f32_64_cuda_info, &f32_64_info, 1e-5);
    same_drops(&e4m3_64_cuda_info, &e4m3_64_info, 0.3); /* of values around 2 */
}

FA_TEST(bad_arguments) {
    static float on_host[1 << 14];
    fap_problem p;
    device_copy c;
    fa_error error;
    fa_args a;
    const fa_cuda_info *instance = &f32_64_cuda_info;
#define REFUSED(expected, change) \
    a = c.args, a.error = &error; \
    change; \
    FA_EXPECT_MSG(instance->forward(&a, NULL, 0, 0) == expected && error.status == expected, "%s", \
                  fa_strerror(instance->forward(&a, NULL, 0, 0)));
    set_unit(instance);
    FA_REQUIRE(fap_build(&p, "b=2 hq=4 hk=2 sq=20 sk=30 layout=padded", &instance->info));
    FA_REQUIRE(device_upload(&p, &c));
    FA_EXPECT(instance->forward(&c.args, NULL, 0, 0) == FA_OK);
    REFUSED(FA_ERR_Q_ALIGN, a.q.data = (const char *)a.q.data + 4)
    REFUSED(FA_ERR_K_ALIGN, a.k.stride_s += 2)
    REFUSED(FA_ERR_O_ALIGN, a.o.stride_b += 1)
    REFUSED(FA_ERR_DESCALE_Q, a.q_descale.data = (const float *)a.lse.data)
    device_free(&c), fap_free(&p);

    instance = &bf16_f32_64_cuda_info;
    fap_unit = 8;
    FA_REQUIRE(fap_build(&p, "b=2 hq=4 hk=2 sq=20 sk=30 layout=padded", &instance->info));
    FA_REQUIRE(device_upload(&p, &c));
    REFUSED(FA_ERR_O_ALIGN, a.o.data = (char *)a.o.data + 8)
    REFUSED(FA_ERR_O_ALIGN, a.o.stride_h += 2)
    a = c.args, a.o.stride_h += 4; /* 16 bytes of f32 */
    FA_EXPECT(fa_check_pass_cuda(&instance->info, &a, FA_FORWARD) != FA_ERR_O_ALIGN);
    device_free(&c), fap_free(&p);

    instance = &e4m3_64_cuda_info;
    set_unit(instance);
    FA_REQUIRE(fap_build(&p, "b=2 hq=4 hk=2 sq=20 sk=30 layout=padded descale=4", &instance->info));
    FA_REQUIRE(device_upload(&p, &c));
    REFUSED(FA_ERR_Q_ALIGN, a.q.data = (const char *)a.q.data + 8)
    REFUSED(FA_ERR_V_ALIGN, a.v.stride_h += 8)
    REFUSED(FA_ERR_DESCALE_K, a.k_descale.block = -1)
    REFUSED(FA_ERR_DESCALE_V, a.v_descale.paged = 1)
    REFUSED(FA_ERR_DESCALE_Q, a.q_descale.data = (const float *)((const char *)a.q_descale.data + 2))
    REFUSED(FA_ERR_CUDA_POINTER, a.v_descale.data = on_host)
    FA_EXPECT(!strcmp(error.field, "v_descale.data"));
    device_free(&c), fap_free(&p);
#undef REFUSED
}

FA_TEST_MAIN
