/* test_quantized.c - attention of quantised tensors against attention of what they were: the errors of fp8 that [Shah et al.
 * 2024, FlashAttention-3, arXiv 2407.08608] reports, table 3.  Q, K and V are normal(0, 1) with outliers, one of a thousand
 * elements plus normal(0, 10^2); P is rounded to e4m3 as the kernels do. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fa_test.h"

#include "flashattn.h"

enum { HEADS = 4, N = 4096, D = 128, BLOCK = 128, SIZE = HEADS * N * D };

typedef struct tensor {
    float *x; /* (N, HEADS, D), as all here */
    uint8_t *code;
    float *factor; /* (HEADS, N / BLOCK), or one */
    int block;
} tensor;

static float *draw(uint64_t *seed) {
    float *x = (float *)malloc(SIZE * sizeof *x);
    for (int64_t i = 0; i < SIZE; i++)
        x[i] = (float)(fat_normal(seed) + (fat_below(seed, 1000) ? 0 : 10 * fat_normal(seed)));
    return x;
}

/* Codes of t, with one factor, or with those of blocks; rotated or not. */
static void quantize(tensor *t, int block, int hadamard) {
    fa_quantize_args a;
    memset(&a, 0, sizeof a);
    a.batch = 1, a.num_heads = HEADS, a.seqlen_q = N, a.head_dim = D, a.dtype = FA_F32, a.o_dtype = FA_E4M3;
    a.q.data = t->x, a.o.data = t->code, a.descale.data = t->factor, a.hadamard = hadamard, a.seed = 5;
    t->block = a.descale.block = block;
    if (block) a.descale.stride_block = 1, a.descale.stride_h = N / BLOCK;
    FA_EXPECT(fa_quantize(&a) == FA_OK);
}
static double factor(const tensor *t, int h, int row) { return (double)t->factor[t->block ? h * (N / BLOCK) + row / t->block : 0]; }
static double value(const tensor *t, int h, int row, int d) { /* of the code, without its factor */
    return (double)fa_e4m3_to_f32(t->code[((int64_t)row * HEADS + h) * D + d]);
}

/* A row of O from what the tensors were (exact), or from their codes. */
static void attend(double o[D], const tensor *q, const tensor *k, const tensor *v, int h, int i, int exact) {
    static double s[N];
    double row[D], max = -INFINITY, sum = 0, unit = 0;
    for (int d = 0; d < D; d++)
        row[d] = exact ? (double)q->x[((int64_t)i * HEADS + h) * D + d] : value(q, h, i, d) * factor(q, h, i);
    for (int j = 0; j < N; j++) {
        double dot = 0;
        for (int d = 0; d < D; d++) dot += row[d] * (exact ? (double)k->x[((int64_t)j * HEADS + h) * D + d] : value(k, h, j, d));
        s[j] = dot / sqrt(D) * (exact ? 1 : factor(k, h, j));
        if (s[j] > max) max = s[j];
        if (!exact && factor(v, h, j) > unit) unit = factor(v, h, j);
    }
    for (int d = 0; d < D; d++) o[d] = 0;
    for (int j = 0; j < N; j++) {
        double p = exp(s[j] - max);
        sum += p;
        if (!exact) p = (double)fa_e4m3_to_f32(fa_f32_to_e4m3((float)(256 * p * factor(v, h, j) / unit))) / 256 * unit;
        for (int d = 0; d < D; d++) o[d] += p * (exact ? (double)v->x[((int64_t)j * HEADS + h) * D + d] : value(v, h, j, d));
    }
    for (int d = 0; d < D; d++) o[d] /= sum;
}

/* Blocks and rotation against one factor for each tensor: at most half of the error. */
FA_TEST(fp8_with_blocks_and_rotation) {
    const char *scale = getenv("FA_TEST_SCALE");
    const int step = scale && !strcmp(scale, "quick") ? 512 : 64;
    uint64_t seed = fat_seed;
    tensor t[3];
    double error[2] = {0, 0};
    for (int n = 0; n < 3; n++) {
        t[n].x = draw(&seed), t[n].code = (uint8_t *)malloc(SIZE);
        t[n].factor = (float *)malloc(HEADS * (N / BLOCK) * sizeof(float));
    }
    for (int rotated = 0; rotated < 2; rotated++) {
        int64_t count = 0;
        for (int n = 0; n < 3; n++) quantize(&t[n], rotated ? BLOCK : 0, rotated && n < 2);
        for (int h = 0; h < HEADS; h++)
            for (int i = 0; i < N; i += step, count += D) {
                double want[D], got[D];
                attend(want, &t[0], &t[1], &t[2], h, i, 1);
                attend(got, &t[0], &t[1], &t[2], h, i, 0);
                for (int d = 0; d < D; d++) error[rotated] += (got[d] - want[d]) * (got[d] - want[d]);
            }
        error[rotated] = sqrt(error[rotated] / (double)count);
    }
    FA_EXPECT_MSG(error[1] <= 0.5 * error[0], "RMSE %.3g with one factor, %.3g with blocks and rotation", error[0], error[1]);
    if (getenv("FA_TEST_VERBOSE")) printf("# RMSE %.3g with one factor, %.3g with blocks and rotation\n", error[0], error[1]);
    for (int n = 0; n < 3; n++) free(t[n].x), free(t[n].code), free(t[n].factor);
}

FA_TEST_MAIN
