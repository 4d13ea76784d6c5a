/* test_hopper_fp8.cu - the fp8 forward pass on sm_90a, with V transposed as fa_quantize writes it: tiles, head dims, factors,
 * sequences, rounding in two levels, what is refused; and quantised attention from end to end. */
#include <stdarg.h>

#include "fa_test.h"

#define FA_CUDA_CACHE

/* ---- instances: three types of O, every head dim, sums in two levels ---- */

#define FA_NAME e4m3_64
#define FA_HEAD_DIM 64
#define FA_DTYPE FA_E4M3
#include "flashattn_cuda.cuh"

#define FA_NAME e4m3_128
#define FA_HEAD_DIM 128
#define FA_DTYPE FA_E4M3
#include "flashattn_cuda.cuh"

#define FA_NAME e4m3_256
#define FA_HEAD_DIM 256
#define FA_DTYPE FA_E4M3
#include "flashattn_cuda.cuh"

#define FA_NAME e4m3_128_promote
#define FA_HEAD_DIM 128
#define FA_DTYPE FA_E4M3
#define FA_O_DTYPE FA_F32
#define FA_PROMOTE 1
#include "flashattn_cuda.cuh"

#if !defined(FA_TEST_CORE) /* the others; mutants.sh compiles often */
#define FA_NAME e4m3_64_promote
#define FA_HEAD_DIM 64
#define FA_DTYPE FA_E4M3
#define FA_O_DTYPE FA_F16
#define FA_PROMOTE 4
#include "flashattn_cuda.cuh"

#define FA_NAME e4m3_96
#define FA_HEAD_DIM 96
#define FA_DTYPE FA_E4M3
#define FA_O_DTYPE FA_F16
#define FA_FEATURES (FA_CAUSAL | FA_SINK)
#include "flashattn_cuda.cuh"

#define FA_NAME e4m3_160
#define FA_HEAD_DIM 160
#define FA_DTYPE FA_E4M3
#define FA_FEATURES FA_CAUSAL
#include "flashattn_cuda.cuh"

#define FA_NAME e4m3_192
#define FA_HEAD_DIM 192
#define FA_DTYPE FA_E4M3
#define FA_FEATURES FA_CAUSAL
#include "flashattn_cuda.cuh"

#define FA_NAME e4m3_224
#define FA_HEAD_DIM 224
#define FA_DTYPE FA_E4M3
#define FA_O_DTYPE FA_F32
#define FA_FEATURES FA_CAUSAL
#include "flashattn_cuda.cuh"

#define FA_NAME e4m3_192_128
#define FA_HEAD_DIM 192
#define FA_HEAD_DIM_V 128
#define FA_DTYPE FA_E4M3
#define FA_FEATURES FA_CAUSAL
#define FA_PROMOTE 2
#include "flashattn_cuda.cuh"

#define FA_NAME e4m3_64_256
#define FA_HEAD_DIM 64
#define FA_HEAD_DIM_V 256
#define FA_DTYPE FA_E4M3
#define FA_FEATURES FA_CAUSAL
#include "flashattn_cuda.cuh"

#define FA_NAME e4m3_80 /* not a multiple of 32: only the kernel of all GPUs */
#define FA_HEAD_DIM 80
#define FA_DTYPE FA_E4M3
#define FA_FEATURES FA_CAUSAL
#include "flashattn_cuda.cuh"
#endif

typedef struct instance {
    const fa_cuda_info *cuda;
    fa_status (*launch)(const fa_args *args, fa_cuda_launch *launch);
} instance;
#define INSTANCE(name) \
    { &name##_cuda_info, name##_forward_cuda_launch }

static const instance instances[] = {INSTANCE(e4m3_64),  INSTANCE(e4m3_128),        INSTANCE(e4m3_256), INSTANCE(e4m3_128_promote),
#if !defined(FA_TEST_CORE)
                                     INSTANCE(e4m3_96),  INSTANCE(e4m3_160),        INSTANCE(e4m3_192), INSTANCE(e4m3_224),
                                     INSTANCE(e4m3_192_128), INSTANCE(e4m3_64_256), INSTANCE(e4m3_64_promote)
#endif
};
static const instance whole[] = {INSTANCE(e4m3_64), INSTANCE(e4m3_128), INSTANCE(e4m3_256),
                                 INSTANCE(e4m3_128_promote)}; /* default features */

#include "fa_problem.h"

#include "device.h"

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

static int due(void) { /* FA_TEST_SCALE=quick: every sixth case */
    static int n;
    const char *scale = getenv("FA_TEST_SCALE");
    return !scale || strcmp(scale, "quick") != 0 || n++ % 6 == 0;
}

static int on_hopper(void) {
    struct cudaDeviceProp device;
    return cudaGetDeviceProperties(&device, 0) == cudaSuccess && device.major == 9;
}
#define NEEDS_HOPPER \
    if (!on_hopper()) FA_SKIP("the kernel is for sm_90a")

/* 1 if the kernel for sm_90a runs these arguments: it has a warpgroup more than the others have threads. */
static int is_hopper(const fa_cuda_launch *launch) { return launch->block == (unsigned)launch->block_m * 2 + 128; }

/* V of p as the kernel wants it, by the table of the contract, not by its function; NaN where nothing of it is. */
static void transpose(fap_problem *p, fa_tensor *v) {
    static const int places[16] = {0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15};
    const fap_spec *const s = &p->spec;
    const int32_t *const cu = p->args.cu_seqlens_k;
    const int hk = s->hk ? s->hk : s->hq, dv = p->info.head_dim_v;
    const int64_t columns = cu ? (cu[s->b] + 15 * s->b) / 16 * 16 : (s->sk + 15) / 16 * 16;
    uint8_t *const to = (uint8_t *)fap_alloc(p, columns * dv * hk * (cu ? 1 : s->b));
    for (int b = 0; b < s->b; b++)
        for (int h = 0; h < hk; h++)
            for (int j = 0; j < p->len_k[b]; j++)
                for (int d = 0; d < dv; d++) {
                    const int64_t start = cu ? (cu[b] + 15 * b) / 16 * 16 : 0;
                    const int64_t row = ((int64_t)(cu ? 0 : b) * hk + h) * dv + d;
                    to[row * columns + start + j / 16 * 16 + places[j % 16]] =
                        ((const uint8_t *)p->v.data)[fap_at_k(p, &p->v, b, j, h) + d];
                }
    v->data = to, v->stride_s = columns, v->stride_h = columns * dv, v->stride_b = columns * dv * hk;
}

/* Runs the instance on p with a transposed V, by this kernel; its outputs are in p then. */
static int forward(const instance *i, fap_problem *p) {
    fa_cuda_launch launch;
    device_copy c;
    fa_error error;
    fa_tensor v;
    transpose(p, &v);
    int ok = device_upload(p, &c);
    c.args.v = v, c.args.v.data = device_address(p, &c, v.data), c.args.v_transposed = 1, c.args.error = &error;
    c.args.q_descale.data = (const float *)device_address(p, &c, p->args.q_descale.data);
    fa_status status = i->cuda->forward(&c.args, NULL, 0, 0);
    if (ok && status) {
        char text[256];
        fa_error_message(&error, text, sizeof text);
        printf("# %s: %s\n", i->cuda->info.name, text), ok = 0;
    }
    ok = ok && device_ok(cudaDeviceSynchronize(), "kernel") && device_download(p, &c);
    ok = ok && i->launch(&c.args, &launch) == FA_OK && is_hopper(&launch);
    device_free(&c);
    return ok;
}

static void spare(fap_problem *p) { (void)p; }
/* factors for whole tiles of keys */
static void blocks(fap_problem *p) { p->args.k_descale.block = 128, p->args.v_descale.block = 256; }
static int check(const instance *i, void change(fap_problem *), const char *format, ...) {
    char line[512];
    va_list list;
    fap_problem p;
    if (!due()) return 1;
    va_start(list, format), vsnprintf(line, sizeof line, format, list), va_end(list);
    fap_unit = 16;
    if (!fap_build(&p, line, &i->cuda->info)) return 0;
    change(&p);
    if (p.spec.descale == 3) blocks(&p);
    const int ok = forward(i, &p) && fap_judge(&p, i->cuda->info.name);
    if (!ok) printf("#     %s: %s\n", i->cuda->info.name, line), cudaDeviceReset();
    fap_free(&p);
    return ok;
}

/* ---- tiles, heads, sequences ------------------------------------------------------------- */

/* Tiles have 128 or 192 rows, and 128 keys. */
FA_TEST(edges_of_tiles) {
    static const int rows[] = {1, 64, 65, 127, 128, 129, 191, 192, 193, 257};
    static const int keys[] = {1, 2, 15, 16, 17, 127, 128, 129, 255, 256, 257};
    NEEDS_HOPPER;
    for (int q = 0; q < COUNT(rows); q++)
        for (int k = q % 2; k < COUNT(keys); k += 2)
            FA_EXPECT(check(&whole[(q + k) % COUNT(whole)], spare, "sq=%d sk=%d causal=%d seed=%d descale=%d", rows[q], keys[k],
                            (q + k) / 2 % 2, q, q % 3));
}

FA_TEST(every_head_dim) {
    NEEDS_HOPPER;
    for (int n = 0; n < COUNT(instances); n++) {
        FA_EXPECT(check(&instances[n], spare, "hq=2 sq=150 sk=530"));
        FA_EXPECT(check(&instances[n], spare, "b=2 hq=4 hk=2 sq=200 sk=410 causal=1 descale=2"));
    }
}

FA_TEST(grouped_heads) {
    static const int heads[][2] = {{2, 2}, {4, 2}, {8, 1}, {64, 1}, {6, 2}, {65, 1}};
    NEEDS_HOPPER;
    for (int n = 0; n < COUNT(heads); n++)
        for (int w = 0; w < COUNT(whole); w++)
            FA_EXPECT(check(&whole[w], spare, "b=2 hq=%d hk=%d sq=%d sk=%d causal=%d descale=%d", heads[n][0], heads[n][1],
                            5 + 40 / heads[n][0] * w, 90 + 70 * w, n % 2, w));
}

FA_TEST(varlen) {
    static const char *const layouts[] = {"bshd", "padded", "qkv"};
    NEEDS_HOPPER;
    for (int n = 0; n < 5 * COUNT(whole); n++)
        FA_EXPECT(check(&whole[n % COUNT(whole)], spare,
                        "b=4 hq=4 hk=2 sq=170 sk=390 causal=%d varlen=%d used=%d seed=%d layout=%s descale=%d", n % 2, n % 4 != 2,
                        n % 3, n, layouts[n % COUNT(layouts)], n % 4));
}

FA_TEST(windows) {
    static const char *const windows[] = {"wl=9", "wr=20", "wl=130 wr=5", "wl=200", "wl=300 wr=100"};
    NEEDS_HOPPER;
    for (int n = 0; n < COUNT(windows); n++)
        for (int w = 0; w < COUNT(whole); w++) {
            FA_EXPECT(check(&whole[w], spare, "sq=300 sk=450 %s", windows[n]));
            FA_EXPECT(check(&whole[w], spare, "hq=4 hk=1 sq=150 sk=700 causal=1 %s descale=3", windows[n]));
        }
}

/* ---- factors, softmax -------------------------------------------------------------------- */

static void set_factor(const fa_descale *d, int64_t at, float x) { ((float *)(uintptr_t)d->data)[at] = x; }
/* factors of V that rise by far, then fall; one of them 0 */
static void rising_factors(fap_problem *p) {
    for (int n = 0; n < 3; n++)
        set_factor(&p->args.v_descale, n, n == 1 ? 0 : n == 0 ? 1e3f : 1e-3f), set_factor(&p->args.k_descale, n, n == 2 ? 0.1f : 1);
}
FA_TEST(factors) {
    NEEDS_HOPPER;
    for (int n = 0; n < COUNT(instances); n++) {
        FA_EXPECT(check(&instances[n], spare, "b=2 hq=4 hk=2 sq=150 sk=700 descale=3 seed=%d", n));
        FA_EXPECT(check(&instances[n], rising_factors, "sq=150 sk=700 descale=3 seed=%d causal=1", n));
    }
}

/* Scores that rise or fall along the keys, so that the reference moves in steps without a maximum, too. */
static void scale_keys(fap_problem *p, double left, double right) {
    for (int j = 0; j < p->spec.sk; j++)
        for (int c = 0; c < p->spec.d; c++) {
            const int64_t at = fap_at_k(p, &p->k, 0, j, 0) + c;
            const double x = left + (right - left) * j / p->spec.sk;
            fa_store(p->k.data, at, p->spec.kv, (float)(x * (double)fa_load(p->k.data, at, p->spec.kv)));
        }
}
static void rising(fap_problem *p) { scale_keys(p, 0, 12); }
static void falling(fap_problem *p) { scale_keys(p, 12, 0); }
FA_TEST(scores_that_drift) {
    static void (*const changes[])(fap_problem *) = {rising, falling};
    NEEDS_HOPPER;
    for (int n = 0; n < COUNT(instances); n++)
        for (int c = 0; c < COUNT(changes); c++)
            FA_EXPECT(check(&instances[n], changes[c], "sq=70 sk=700 seed=%d causal=1 scale=0.02", n));
}

/* The first tile of a row has one key, or none: the step after it must still compute a maximum. */
FA_TEST(rows_that_have_seen_nothing) {
    NEEDS_HOPPER;
    for (int w = 0; w < COUNT(whole); w++)
        for (int sq = 120; sq <= 136; sq += 4) {
            FA_EXPECT(check(&whole[w], spare, "sq=%d sk=640 causal=1 seed=%d", sq, sq));
            FA_EXPECT(check(&whole[w], spare, "b=2 sq=%d sk=%d causal=1", sq + 180, sq));
        }
}

#if !defined(FA_TEST_CORE)
FA_TEST(sink) {
    const instance i = INSTANCE(e4m3_96);
    NEEDS_HOPPER;
    for (int n = 0; n < 4; n++) FA_EXPECT(check(&i, spare, "b=2 hq=4 hk=2 sq=90 sk=300 sink=1 causal=%d seed=%d", n % 2, n));
}
#endif

static void nan_values(fap_problem *p) {
    for (int n = 0; n < 4; n++)
        fa_store(p->v.data, fap_at_k(p, &p->v, 0, p->spec.sk - 1 - n * 37, 0) + 5 * n, p->spec.kv, NAN);
}
FA_TEST(values_that_are_not_finite) {
    NEEDS_HOPPER;
    for (int w = 0; w < COUNT(whole); w++) {
        FA_EXPECT(check(&whole[w], nan_values, "sq=140 sk=300 causal=1"));
        FA_EXPECT(check(&whole[w], nan_values, "hq=2 sq=140 sk=300 descale=2"));
        FA_EXPECT(check(&whole[w], nan_values, "hq=2 sq=140 sk=300 wl=50 wr=3"));
    }
}

FA_TEST_MAIN
