/* test_combine.c - fa_combine: results over disjoint keys add up to the result over all of them. */
#include "fa_test.h"

#include "flashattn.h"

#include "fa_problem.h"

#define FA_NAME f32_32
#define FA_HEAD_DIM 32
#define FA_FEATURES FA_ALL_FEATURES
#include "flashattn.h"

enum { B = 2, H = 3, S = 5, MOST_PARTS = 7, MOST_DIM = 300, ROOM = B * H * S * (MOST_DIM + 8) };

typedef struct sum { /* parts at random, and what they add up to */
    int dim, parts;
    float o[MOST_PARTS][ROOM],
        lse[MOST_PARTS][B * H * S]; /* as rounded to the dtype; (row, dim), row = (b, s, h) */
    double want[ROOM], want_lse[B * H * S];
} sum;
static sum x;
static char memory[MOST_PARTS + 1][2][4 * 2 * ROOM]; /* where the parts and the result lie: o, lse */

static float rounded(float value, fa_dtype dtype) {
    float code[1];
    fa_store(code, 0, dtype, value);
    return fa_load(code, 0, dtype);
}

/* gone: a part in three is -inf, with o of NaN; the first row everywhere. */
static void make(int dim, int parts, fa_dtype dtype, int gone, uint64_t *rng) {
    x.dim = dim, x.parts = parts;
    for (int r = 0; r < B * S * H; r++) {
        double max = -INFINITY, total = 0;
        for (int n = 0; n < parts; n++) {
            const int away = gone && (r == 0 || fat_below(rng, 3) == 0);
            x.lse[n][r] = away ? -INFINITY : (float)(20 * fat_normal(rng));
            max = fmax(max, (double)x.lse[n][r]);
            for (int d = 0; d < dim; d++)
                x.o[n][r * dim + d] = away ? NAN : rounded((float)fat_normal(rng), dtype);
        }
        for (int n = 0; n < parts; n++)
            if (x.lse[n][r] > -INFINITY) total += exp((double)x.lse[n][r] - max);
        x.want_lse[r] = total > 0 ? max + log(total) : -INFINITY;
        for (int d = 0; d < dim; d++) x.want[r * dim + d] = 0;
        for (int n = 0; n < parts; n++)
            for (int d = 0; d < dim && x.lse[n][r] > -INFINITY; d++)
                x.want[r * dim + d] += exp((double)x.lse[n][r] - x.want_lse[r]) * (double)x.o[n][r * dim + d];
    }
}

/* Strides of o (lse: dim 1), packed or not: heads outside rows, with gaps. */
static fa_tensor place(char *data, int dim, int loose, int lse) {
    fa_tensor t = {data, 0, 0, 0};
    if (loose) t.stride_s = dim + 1, t.stride_h = S * t.stride_s + 2, t.stride_b = H * t.stride_h + 3;
    if (!loose && lse) t.stride_b = H * S, t.stride_h = S, t.stride_s = 1; /* what packed means */
    if (!loose && !lse) t.stride_b = H * S * dim, t.stride_s = H * dim, t.stride_h = dim;
    return t;
}

/* in_place: the result replaces the last part. */
static void check(fa_dtype dtype, fa_dtype out, int loose, int in_place) {
    fa_combine_args a;
    fa_part parts[MOST_PARTS];
    fa_tensor to = {NULL, 0, 0, 0}, to_lse = to;
    const int last = in_place ? x.parts - 1 : x.parts;
    memset(&a, 0, sizeof a), memset(parts, 0, sizeof parts), memset(memory, 0xff, sizeof memory);
    for (int n = 0; n <= x.parts; n++) {
        const fa_tensor o = place(memory[n][0], x.dim, loose, 0), lse = place(memory[n][1], 1, loose, 1);
        if (n == last) to = o, to_lse = lse;
        if (n == x.parts) break;
        for (int r = 0; r < B * S * H; r++) {
            const int h = r % H, s = r / H % S, b = r / H / S;
            for (int d = 0; d < x.dim; d++)
                fa_store(memory[n][0], b * o.stride_b + s * o.stride_s + h * o.stride_h + d, dtype,
                         x.o[n][r * x.dim + d]);
            fa_store(memory[n][1], b * lse.stride_b + s * lse.stride_s + h * lse.stride_h, FA_F32,
                     x.lse[n][r]);
        }
        parts[n].o = o, parts[n].lse = lse, parts[n].dtype = dtype == FA_F32 ? 0 : dtype;
        if (!loose)
            memset(&parts[n].o.stride_b, 0, 3 * sizeof(int64_t)),
                memset(&parts[n].lse.stride_b, 0, 3 * sizeof(int64_t));
    }
    a.batch = B, a.num_heads = H, a.seqlen_q = S, a.head_dim_v = x.dim, a.num_parts = x.parts,
    a.parts = parts;
    a.o.data = memory[last][0], a.lse.data = memory[last][1], a.o_dtype = out;
    if (loose) a.o.stride_b = to.stride_b, a.o.stride_s = to.stride_s, a.o.stride_h = to.stride_h;
    if (loose)
        a.lse.stride_b = to_lse.stride_b, a.lse.stride_s = to_lse.stride_s, a.lse.stride_h = to_lse.stride_h;
    FA_REQUIRE(fa_combine(&a) == FA_OK);
    for (int r = 0; r < B * S * H; r++) {
        const int h = r % H, s = r / H % S, b = r / H / S;
        const double eps = out == FA_F32 ? 1e-6 : out == FA_F16 ? 1e-3 : 8e-3;
        for (int d = 0; d < x.dim; d++) {
            const double got = (double)fa_load(memory[last][0],
                                               b * to.stride_b + s * to.stride_s + h * to.stride_h + d, out);
            FA_EXPECT_NEAR(got, x.want[r * x.dim + d],
                           eps * (fabs(x.want[r * x.dim + d]) + 1e-3 + (out == FA_F32)));
        }
        FA_EXPECT_NEAR((double)fa_load(memory[last][1],
                                       b * to_lse.stride_b + s * to_lse.stride_s + h * to_lse.stride_h,
                                       FA_F32),
                       x.want_lse[r], 2e-7 * fabs(x.want_lse[r]) + 1e-6);
    }
}

FA_TEST(parts_dtypes_layouts) {
    static const int dims[] = {1, 16, 64, 255, 256, 257, 300};
    uint64_t rng = fat_seed;
    for (int n = 0; n < 7; n++)
        for (fa_dtype dtype = FA_F32; dtype <= FA_BF16; dtype++)
            for (fa_dtype out = FA_F32; out <= FA_BF16; out++)
                for (int kind = 0; kind < 4; kind++) {
                    make(dims[n], 1 + (n + dtype + kind) % MOST_PARTS, dtype, kind % 2, &rng);
                    check(dtype, out, kind / 2, 0);
                    if (dtype == out) check(dtype, out, kind / 2, 1);
                }
}

/* One part: a copy.  A NaN lse makes its row NaN, and no other. */
FA_TEST(copies_and_nan) {
    uint64_t rng = fat_seed;
    fa_part parts[2];
    fa_combine_args a;
    float o[2][2 * 16], lse[2][2] = {{1, 2}, {3, NAN}}, out[2 * 16], out_lse[2];
    for (int n = 0; n < 2 * 32; n++) o[n / 32][n % 32] = (float)fat_normal(&rng);
    memset(&a, 0, sizeof a), memset(parts, 0, sizeof parts);
    a.batch = a.num_heads = 1, a.seqlen_q = 2, a.head_dim_v = 16, a.num_parts = 1, a.parts = parts,
    a.o.data = out, a.lse.data = out_lse;
    for (int n = 0; n < 2; n++) parts[n].o.data = o[n], parts[n].lse.data = lse[n];
    FA_REQUIRE(fa_combine(&a) == FA_OK);
    FA_EXPECT(!memcmp(o[0], out, sizeof out) && !memcmp(lse[0], out_lse, sizeof out_lse));
    a.num_parts = 2;
    FA_REQUIRE(fa_combine(&a) == FA_OK);
    for (int d = 0; d < 16; d++) FA_EXPECT(!isnan(out[d]) && isnan(out[16 + d]));
    FA_EXPECT(!isnan(out_lse[0]) && isnan(out_lse[1]));
    a.lse.data = NULL; /* not wanted */
    FA_EXPECT(fa_combine(&a) == FA_OK);
}

/* A shared prefix and a tail of its own for each sequence, put together: what one call over both gives. */
FA_TEST(prefix_and_tail) {
    enum { KEYS = 300, PREFIX = 170, D = 32 };
    fap_problem p;
    fa_part parts[2];
    fa_combine_args a;
    FA_REQUIRE(fap_build(&p, "b=2 hq=4 hk=2 sq=3 sk=300 causal=1", &f32_32_info));
    static float o[2][2 * 3 * 4 * D], lse[2][2 * 4 * 3];
    memset(&a, 0, sizeof a), memset(parts, 0, sizeof parts);
    for (int n = 0; n < 2; n++) {
        fa_args call = p.args;
        call.causal = n, call.seqlen_k = n ? KEYS - PREFIX : PREFIX;
        call.k.stride_b = call.v.stride_b = KEYS * 2 * D, call.k.stride_s = call.v.stride_s = 2 * D;
        call.k.stride_h = call.v.stride_h = D;
        call.k.data = (const float *)p.args.k.data + (n ? PREFIX * 2 * D : 0);
        call.v.data = (const float *)p.args.v.data + (n ? PREFIX * 2 * D : 0);
        call.o.data = o[n], call.lse.data = lse[n];
        size_t bytes = f32_32_decode_workspace(&call);
        void *workspace = malloc(bytes);
        FA_REQUIRE(workspace && f32_32_decode(&call, workspace, bytes) == FA_OK);
        free(workspace);
        parts[n].o.data = o[n], parts[n].lse.data = lse[n];
    }
    a.batch = 2, a.num_heads = 4, a.seqlen_q = 3, a.head_dim_v = D, a.num_parts = 2, a.parts = parts;
    a.o.data = p.args.o.data, a.lse.data = p.args.lse.data;
    FA_EXPECT(fa_combine(&a) == FA_OK && fap_judge(&p, "prefix and tail"));
    fap_free(&p);
}

FA_TEST_MAIN
