/* test_hopper_fp8.cu - the fp8 forward pass on sm_90a, with V transposed as fa_quantize writes it: tiles, head dims, factors,
 * sequences, rounding in two levels, what is refused; and quantised attention from end to end. */
#include "cuda_test.h"

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
#define FA_PROMOTE 2
#include "flashattn_cuda.cuh"

#if !defined(FA_TEST_CORE) /* the others; mutants.sh compiles often */
#define FA_NAME e4m3_64_promote
#define FA_HEAD_DIM 64
#define FA_DTYPE FA_E4M3
#define FA_O_DTYPE FA_F16
#define FA_PROMOTE 1
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
#define FA_PROMOTE 4
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

#include "hopper.h"

static const instance instances[] = {INSTANCE(e4m3_64),  INSTANCE(e4m3_128),        INSTANCE(e4m3_256), INSTANCE(e4m3_128_promote),
#if !defined(FA_TEST_CORE)
                                     INSTANCE(e4m3_96),  INSTANCE(e4m3_160),        INSTANCE(e4m3_192), INSTANCE(e4m3_224),
                                     INSTANCE(e4m3_192_128), INSTANCE(e4m3_64_256), INSTANCE(e4m3_64_promote)
#endif
};
static const instance whole[] = {INSTANCE(e4m3_64), INSTANCE(e4m3_128), INSTANCE(e4m3_256),
                                 INSTANCE(e4m3_128_promote)}; /* default features */

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

/* The copy of p with a transposed V. */
static int upload(fap_problem *p, device_copy *c) {
    fa_tensor v;
    transpose(p, &v);
    if (!device_upload(p, c)) return 0;
    c->args.v = v, c->args.v.data = device_address(p, c, v.data), c->args.v_transposed = 1;
    return 1;
}

static int forward(const instance *i, fap_problem *p, fa_cuda_launch *launch) {
    device_copy c;
    const int ok = upload(p, &c) && i->launch(&c.args, launch) == FA_OK && is_hopper(launch) &&
                   device_done(i->cuda, &c, i->cuda->forward(&c.args, NULL, 0, 0)) && device_download(p, &c);
    device_free(&c);
    return ok;
}

/* descale=3: a factor for whole tiles of keys; where head dims are too large for that, one for each head */
static int build_case(fap_problem *p, const instance *i, const char *text) {
    char line[512];
    snprintf(line, sizeof line, "%s", text);
    char *const blocked = strstr(line, "descale=3");
    if (blocked && (i->cuda->info.head_dim > 192 || i->cuda->info.head_dim_v > 192)) blocked[8] = '2';
    fap_unit = 16;
    if (!fap_build(p, line, &i->cuda->info)) return 0;
    if (p->spec.descale == 3) p->args.k_descale.block = 128, p->args.v_descale.block = 256;
    return 1;
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
    if (p->spec.descale != 3) return;
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

/* ---- launches ---------------------------------------------------------------------------- */

/* What is refused: status, and by which field. */
static int refused(const instance *i, const char *line, void change(fa_args *), fa_status want, const char *field) {
    fap_problem p;
    device_copy c;
    fap_unit = 16;
    if (!fap_build(&p, line, &i->cuda->info)) return 0;
    int ok = p.args.block_table ? device_upload(&p, &c) : upload(&p, &c);
    c.args.v_transposed = 1, change(&c.args);
    const fa_status status = i->cuda->forward(&c.args, NULL, 0, 0);
    ok = ok && status == want && (!field || !strcmp(c.error.field, field)) && cudaDeviceSynchronize() == cudaSuccess;
    if (!ok) printf("# %s: %s, %s\n", line, fa_strerror(status), status ? c.error.field : "");
    device_free(&c), fap_free(&p);
    return ok;
}
static void as_it_is(fa_args *a) { (void)a; }
static void twice(fa_args *a) { a->v_transposed = 2; }
static void packed(fa_args *a) { a->v.stride_b = a->v.stride_s = a->v.stride_h = 0; }
static void odd_rows(fa_args *a) { a->v.stride_s += 8; }
static void small_blocks(fa_args *a) { a->v_descale.block = 64; }

FA_TEST(refusals) {
    const instance e = INSTANCE(e4m3_128);
    NEEDS_HOPPER;
    FA_EXPECT(refused(&e, "sq=70 sk=100 causal=1", as_it_is, FA_OK, NULL));
    FA_EXPECT(refused(&e, "sq=70 sk=128 causal=1", packed, FA_OK, NULL));
    FA_EXPECT(refused(&e, "sq=70 sk=100 causal=1", twice, FA_ERR_V_TRANSPOSED, "v_transposed"));
    FA_EXPECT(refused(&e, "sq=70 sk=100 page=16", as_it_is, FA_ERR_V_TRANSPOSED, "v_transposed"));
    FA_EXPECT(refused(&e, "sq=70 sk=100 scale=-0.5", as_it_is, FA_ERR_V_TRANSPOSED, "v_transposed"));
    FA_EXPECT(refused(&e, "b=2 sq=70 sk=100 varlen=1", packed, FA_ERR_V_TRANSPOSED, "v.stride_s"));
    FA_EXPECT(refused(&e, "sq=70 sk=100", odd_rows, FA_ERR_V_ALIGN, "v.stride_s"));
    FA_EXPECT(refused(&e, "sq=70 sk=300 descale=3", small_blocks, FA_ERR_V_TRANSPOSED, "v_transposed"));
#if !defined(FA_TEST_CORE)
    const instance wide = INSTANCE(e4m3_256), odd = INSTANCE(e4m3_80);
    FA_EXPECT(refused(&wide, "sq=70 sk=300 descale=3", as_it_is, FA_ERR_V_TRANSPOSED, "v_transposed"));
    FA_EXPECT(refused(&odd, "sq=70 sk=100", as_it_is, FA_ERR_V_TRANSPOSED, "v_transposed"));
#endif
}

/* V as rows is left to the kernel of all GPUs. */
FA_TEST(other_kernel) {
    fap_problem p;
    device_copy c;
    fa_cuda_launch launch;
    NEEDS_HOPPER;
    FA_REQUIRE(build_case(&p, &whole[1], "sq=70 sk=100 causal=1") && device_upload(&p, &c));
    FA_EXPECT(whole[1].launch(&c.args, &launch) == FA_OK && !is_hopper(&launch));
    device_free(&c), fap_free(&p);
}

/* Q, O and LSE once, K and V once for each tile of queries that sees them; products of tiles; no bank conflicts. */
FA_TEST(bytes_are_those_of_the_model) {
    static const int shapes[][3] = {{128, 128, 0}, {384, 512, 0}, {256, 512, 1}, {200, 203, 0}};
    NEEDS_HOPPER;
    if (!ptx_counter) FA_SKIP("only the PTX machine counts bytes");
    for (int n = 0; n < COUNT(instances) * COUNT(shapes); n++) {
        const instance *const i = &instances[n % COUNT(instances)];
        const fa_info *const info = &i->cuda->info;
        const int *const s = shapes[n / COUNT(instances)], sq = s[0], sk = s[1], d = info->head_dim, dv = info->head_dim_v;
        char line[128];
        fap_problem p;
        fa_cuda_launch launch;
        if (!due()) continue;
        snprintf(line, sizeof line, "hq=2 sq=%d sk=%d causal=%d", sq, sk, s[2]);
        FA_REQUIRE(build_case(&p, i, line));
        FA_EXPECT(forward(i, &p, &launch));
        fap_free(&p);
        double wanted = 2.0 * sq * (d + 4 + dv * (double)fa_sizeof(info->o_dtype));
        for (int first = 0; first < sq; first += launch.block_m) {
            const int end = first + launch.block_m < sq ? first + launch.block_m : sq;
            const int keys = ((s[2] && end + sk - sq < sk ? end + sk - sq : sk) + 127) / 128 * 128;
            const int columns = (sk + 15) / 16 * 16;
            wanted += 2.0 * ((keys < sk ? keys : sk) * d + (keys < columns ? keys : columns) * dv);
        }
        const double bytes = counted_bytes(), got = (double)ptx_counter("mac_wgmma_8bit"),
                     macs = 2 * visible_macs(info, &launch, sq, sk, s[2]);
        FA_EXPECT_MSG(bytes == wanted, "%s %d x %d: %.0f bytes, wanted %.0f", info->name, sq, sk, bytes, wanted);
        FA_EXPECT_MSG(got == macs, "%s %d x %d: %.0f products, wanted %.0f", info->name, sq, sk, got, macs);
        FA_EXPECT(ptx_counter("mac_mma") == 0 && ptx_counter("mac_wgmma") == 0);
        FA_EXPECT(few_wavefronts(info->name, 1, 0));
    }
}

/* ---- from end to end --------------------------------------------------------------------- */

/* O of Q, K and V in bf16 with outliers, quantised on the device with a factor for each tensor, or with one for 128 rows
 * and rotated Q and K: the second is nearer to attention in double. tests/test_quantized.c does this with more rows. */
FA_TEST(quantised_attention) {
    enum { H = 2, N = 384, D = 128, SIZE = N * H * D };
    static uint16_t x[3][SIZE];
    static float o[SIZE];
    static double want[SIZE], s[N];
    uint64_t seed = fat_seed;
    double rms[2] = {0, 0};
    uint16_t *in;
    uint8_t *code[3];
    float *factor[3], *out;
    NEEDS_HOPPER;
    for (int n = 0; n < 3 * SIZE; n++)
        x[n / SIZE][n % SIZE] = fa_f32_to_bf16((float)(fat_normal(&seed) + (fat_below(&seed, 1000) ? 0 : 10 * fat_normal(&seed))));
    for (int h = 0; h < H; h++)
        for (int i = 0; i < N; i++) {
            double most = -INFINITY, sum = 0, *const row = want + (i * H + h) * D;
            for (int j = 0; j < N; j++) {
                s[j] = 0;
                for (int d = 0; d < D; d++)
                    s[j] += (double)fa_bf16_to_f32(x[0][(i * H + h) * D + d]) * (double)fa_bf16_to_f32(x[1][(j * H + h) * D + d]);
                s[j] /= sqrt((double)D), most = fmax(most, s[j]);
            }
            for (int j = 0; j < N; j++) sum += s[j] = exp(s[j] - most);
            for (int j = 0; j < N; j++)
                for (int d = 0; d < D; d++) row[d] += s[j] / sum * (double)fa_bf16_to_f32(x[2][(j * H + h) * D + d]);
        }
    FA_REQUIRE(cudaMalloc((void **)&in, SIZE * 2) == cudaSuccess && cudaMalloc((void **)&out, SIZE * 4) == cudaSuccess);
    for (int n = 0; n < 3; n++)
        FA_REQUIRE(cudaMalloc((void **)&code[n], SIZE) == cudaSuccess && cudaMalloc((void **)&factor[n], 64) == cudaSuccess);
    for (int rotated = 0; rotated < 2; rotated++) {
        fa_args a;
        memset(&a, 0, sizeof a);
        fa_descale *const descale[3] = {&a.q_descale, &a.k_descale, &a.v_descale};
        for (int n = 0; n < 3; n++) {
            fa_quantize_args z;
            memset(&z, 0, sizeof z);
            FA_REQUIRE(cudaMemcpy(in, x[n], SIZE * 2, cudaMemcpyHostToDevice) == cudaSuccess);
            z.batch = 1, z.num_heads = H, z.seqlen_q = N, z.head_dim = D, z.dtype = FA_BF16, z.o_dtype = FA_E4M3;
            z.q.data = in, z.o.data = code[n], z.descale.data = factor[n], z.hadamard = rotated && n < 2, z.transposed = n == 2;
            if (rotated) z.descale.block = 128, z.descale.stride_block = 1, z.descale.stride_h = N / 128;
            descale[n]->data = factor[n], descale[n]->block = z.descale.block;
            descale[n]->stride_block = z.descale.stride_block, descale[n]->stride_h = z.descale.stride_h;
            FA_REQUIRE(fa_quantize_cuda(&z, 0) == FA_OK && cudaDeviceSynchronize() == cudaSuccess);
        }
        a.batch = 1, a.num_heads = H, a.seqlen_q = a.seqlen_k = N, a.v_transposed = 1;
        a.q.data = code[0], a.k.data = code[1], a.v.data = code[2], a.o.data = out;
        FA_REQUIRE(e4m3_128_promote_forward_cuda(&a, NULL, 0, 0) == FA_OK && cudaDeviceSynchronize() == cudaSuccess);
        FA_REQUIRE(cudaMemcpy(o, out, SIZE * 4, cudaMemcpyDeviceToHost) == cudaSuccess);
        for (int n = 0; n < SIZE; n++) rms[rotated] += pow((double)o[n] - want[n], 2) / SIZE;
    }
    FA_EXPECT_MSG(sqrt(rms[0]) < 0.08 && rms[1] < rms[0], "RMSE %.3g with one factor, %.3g with blocks and rotation",
                  sqrt(rms[0]), sqrt(rms[1]));
    for (int n = 0; n < 3; n++) cudaFree(code[n]), cudaFree(factor[n]);
    cudaFree(in), cudaFree(out);
}

FA_TEST_MAIN
