/* test_numerics.c - numbers at their limits: huge, tiny, infinite, NaN, rising, equal, and where NaN must not leak. */
#include "fa_test.h"

#define FA_DEFAULT_PASSES FA_FORWARD
#include "instances.h"

/* ---- data ---------------------------------------------------------------------------------- */

/* Where a problem keeps an element; the row is i or j of sequence b. */
static void put_q(fap_problem *p, int b, int h, int i, int d, double x) {
    fa_store(p->q.data, fap_at_q(p, &p->q, b, i, h) + d, p->spec.dtype, (float)x);
}
static void put_k(fap_problem *p, int b, int hk, int j, int d, double x) {
    fa_store(p->k.data, fap_at_k(p, &p->k, b, j, hk) + d, p->spec.kv, (float)x);
}
static void put_v(fap_problem *p, int b, int hk, int j, int d, double x) {
    fa_store(p->v.data, fap_at_k(p, &p->v, b, j, hk) + d, p->spec.kv, (float)x);
}
static float get_o(const fap_problem *p, int b, int h, int i, int d) {
    return fa_load(p->o.place.data, fap_at_q(p, &p->o.place, b, i, h) + d, p->spec.out);
}
static float get_lse(const fap_problem *p, int b, int h, int i) {
    return fa_load(p->lse.place.data, fap_at_q(p, &p->lse.place, b, i, h), FA_F32);
}

/* All of q is 1 in dim 0 and 0 elsewhere, and key j is score(j) in dim 0: with scale 1 the score of key j for every
 * query is score(j), rounded to the dtype. */
static void set_scores(fap_problem *p, double (*score)(int j)) {
    p->args.softmax_scale = 1;
    for (int b = 0; b < p->spec.b; b++) {
        for (int h = 0; h < p->spec.hq; h++)
            for (int i = 0; i < p->spec.sq; i++)
                for (int d = 0; d < p->spec.d; d++) put_q(p, b, h, i, d, d == 0);
        for (int hk = 0; hk < p->spec.hk; hk++)
            for (int j = 0; j < p->spec.sk; j++)
                for (int d = 0; d < p->spec.d; d++) put_k(p, b, hk, j, d, d == 0 ? score(j) : 0);
    }
}
static void multiply(const fap_place *t, int64_t n, double factor) { /* of a packed tensor */
    for (int64_t i = 0; i < n; i++)
        fa_store(t->data, i, t->dtype, (float)(factor * (double)fa_load(t->data, i, t->dtype)));
}
static void multiply_q(fap_problem *p, double x) {
    multiply(&p->q, (int64_t)p->spec.b * p->spec.sq * p->spec.hq * p->spec.d, x);
}
static void multiply_k(fap_problem *p, double x) {
    multiply(&p->k, (int64_t)p->spec.b * p->spec.sk * p->spec.hk * p->spec.d, x);
}
static void multiply_v(fap_problem *p, double x) {
    multiply(&p->v, (int64_t)p->spec.b * p->spec.sk * p->spec.hk * p->spec.dv, x);
}

/* LSE against fp64. */
static void check_lse(fap_problem *p, const char *name) {
    fap_expect(p);
    for (int b = 0; b < p->spec.b; b++)
        for (int h = 0; h < p->spec.hq; h++)
            for (int i = 0; i < p->spec.sq; i++) {
                double want = p->lse_ref[fap_lse_index(p, b, h, i)], got = (double)get_lse(p, b, h, i);
                FA_EXPECT_MSG(fat_close(got, want, 1e-5 * (1 + fabs(want))), "%s: lse %.9g, not %.9g, row %d",
                              name, got, want, i);
            }
}
/* Runs it and compares with fp64 by the rules of fa_problem.h. */
static void check_problem(fap_problem *p, const fa_info *info, const char *what) {
    FA_EXPECT(run_case(p, info));
    FA_EXPECT_MSG(fap_judge(p, info->name), "%s", what);
    check_lse(p, info->name);
}

/* Like the judge of fa_problem.h, but by one absolute bound, for values of about 1: NaN and infinity where fp64 has
 * them, and only there. */
static int count_wrong(fap_problem *p, double tolerance) {
    int wrong = 0;
    fap_expect(p);
    for (int b = 0; b < p->spec.b; b++)
        for (int h = 0; h < p->spec.hq; h++)
            for (int i = 0; i < p->spec.sq; i++) {
                const double *want = p->o_ref + (fap_row(p, b, i) * p->spec.hq + h) * p->spec.dv;
                double lse = p->lse_ref[fap_lse_index(p, b, h, i)], got = (double)get_lse(p, b, h, i);
                wrong += fap_bad(got, lse) || fap_difference(got, lse) > 1e-5 * (1 + fabs(lse));
                for (int d = 0; d < p->spec.dv; d++) {
                    got = (double)get_o(p, b, h, i, d);
                    wrong += fap_bad(got, want[d]) || fap_difference(got, want[d]) > tolerance;
                }
            }
    return wrong;
}
static double loose(const fa_info *info) { return info->dtype == FA_F32 ? 1e-5 : info->dtype == FA_E4M3 ? 0.2 : 0.04; }

/* Rows for each path: 37 a panel and a vector of the next, 3 few rows, 70 several panels. */
static const char *const shapes[] = {"hq=2 sq=37 sk=150", "hq=4 hk=2 sq=3 sk=203", "sq=70 sk=131 causal=1"};

/* ---- scores -------------------------------------------------------------------------------- */

static double zero(int j) { return (void)j, 0; }
static double rising(int j) { return 1.5 * j; }     /* 8 keys: 12, more than LAZY = 2^8 allows */
static double leaping(int j) { return 25.0 * j; }   /* every key its own one-hot */
static double falling(int j) { return -1.5 * j; }
static double alternating(int j) { return j % 2 ? 60 : -60; }
static double steps_up(int j) { return 8.0 * (j / 64); } /* every tile */
static double last_is_hot(int j) { return j % 150 == 149 ? 100 : 0; }
static double ten_thousand(int j) { return j % 3 ? -1e4 : 1e4 - j; }
static double minus_ten_thousand(int j) { return -1e4 - 0.25 * (j % 16); }
static double from_far_below(int j) { return j < 8 ? -1e6 : j % 5 * 0.7; } /* a block of keys that are all but hidden */
static double around_lazy(int j) { return 5.5 * (j % 2) + 0.01 * j; } /* 2^8 = exp 5.545 */

typedef struct pattern {
    const char *name;
    double (*score)(int j);
} pattern;
static const pattern patterns[] = {
    {"equal", zero},           {"rising", rising},     {"leaping", leaping},        {"falling", falling},
    {"alternating", alternating}, {"steps up", steps_up}, {"last is hot", last_is_hot}, {"1e4", ten_thousand},
    {"-1e4", minus_ten_thousand}, {"around lazy", around_lazy}, {"from far below", from_far_below}};

FA_TEST(patterns_of_scores) {
    for (int t = 0; t < COUNT(core); t++)
        for (int n = 0; n < COUNT(patterns); n++)
            for (int s = 0; s < COUNT(shapes); s++) {
                fap_problem p;
                FA_REQUIRE(build_case(&p, core[t], "%s", shapes[s]));
                set_scores(&p, patterns[n].score);
                check_problem(&p, core[t], patterns[n].name);
                fap_free(&p);
            }
}

/* V = 1: the probabilities of a row add up to 1. */
FA_TEST(probabilities_add_up_to_one) {
    for (int t = 0; t < COUNT(core); t++)
        for (int s = 0; s < COUNT(shapes); s++)
            for (int n = 0; n < COUNT(patterns); n++) {
                fap_problem p;
                double worst = 0;
                FA_REQUIRE(build_case(&p, core[t], "%s", shapes[s]));
                if (n) set_scores(&p, patterns[n].score);
                multiply_v(&p, 0);
                for (int hk = 0; hk < p.spec.hk; hk++)
                    for (int j = 0; j < p.spec.sk; j++)
                        for (int d = 0; d < p.spec.dv; d++) put_v(&p, 0, hk, j, d, 1);
                FA_EXPECT(run_case(&p, core[t]));
                for (int h = 0; h < p.spec.hq; h++)
                    for (int i = 0; i < p.spec.sq; i++)
                        for (int d = 0; d < p.spec.dv; d++)
                            worst = fmax(worst, fabs((double)get_o(&p, 0, h, i, d) - 1));
                /* f32: sums of 200 terms; else one rounding of P and O: 2^-9 of bf16 each */
                FA_EXPECT_MSG(worst <= (p.spec.dtype == FA_F32 ? 2e-6 : 2 * fap_epsilon(p.spec.out)),
                              "%s, %s: off by %g", core[t]->name, patterns[n].name, worst);
                fap_free(&p);
            }
}

/* One key far above the rest: O is its value, but for the rounding of P and 1/l. */
FA_TEST(one_hot_softmax) {
    for (int t = 0; t < COUNT(core); t++)
        for (int hot = 0; hot < 150; hot += quick() ? 37 : 1) {
            fap_problem p;
            int wrong = 0;
            FA_REQUIRE(build_case(&p, core[t], "sq=%d sk=150", hot % 2 ? 40 : 2));
            set_scores(&p, zero);
            put_k(&p, 0, 0, hot, 0, 400);
            FA_EXPECT(run_case(&p, core[t]));
            for (int i = 0; i < p.spec.sq; i++)
                for (int d = 0; d < p.spec.dv; d++) {
                    double want = (double)fa_load(p.v.data, fap_at_k(&p, &p.v, 0, hot, 0) + d, p.spec.kv);
                    wrong += !fat_close((double)get_o(&p, 0, 0, i, d), want, 3 * fap_epsilon(p.spec.out) * fabs(want));
                }
            FA_EXPECT_MSG(wrong == 0, "%s: hot key %d, %d elements", core[t]->name, hot, wrong);
            fap_free(&p);
        }
}

/* Scores of +-1e30, where neighbouring floats are 1e23 apart: finite, and the largest key wins. */
FA_TEST(scores_of_1e30) {
    static const fa_info *const wide[] = {&f32_64_info, &f32_32_info, &bf16_64_info};
    for (int t = 0; t < COUNT(wide); t++)
        for (int s = 0; s < COUNT(shapes); s++)
            for (int sign = -1; sign <= 1; sign += 2) {
                fap_problem p;
                FA_REQUIRE(build_case(&p, wide[t], "%s", shapes[s]));
                multiply_q(&p, sign * 1e15), multiply_k(&p, 1e15);
                check_problem(&p, wide[t], "1e30");
                fap_free(&p);
            }
}

FA_TEST(softmax_scales) {
    static const double scales[] = {1e-30, 1e-6, 3, 100, 1e4, -1e-30, -1, -50};
    for (int t = 0; t < COUNT(core); t++)
        for (int n = 0; n < COUNT(scales); n++)
            for (int s = 0; s < COUNT(shapes); s++) {
                fap_problem p;
                FA_REQUIRE(build_case(&p, core[t], "%s scale=%g", shapes[s], scales[n]));
                check_problem(&p, core[t], "scale");
                fap_free(&p);
            }
}

/* ---- tiny and huge ------------------------------------------------------------------------- */

FA_TEST(denormal_inputs) {
    for (int t = 0; t < COUNT(core); t++)
        for (int s = 0; s < COUNT(shapes); s++)
            for (int n = 1; n < 8; n++) {
                const double tiny = core[t]->dtype == FA_F16 ? 1e-5 : core[t]->dtype == FA_E4M3 ? 4e-3 : 2e-39;
                /* vdpbf16ps takes denormals for zero */
                const double flushed = core[t]->dtype == FA_BF16 ? 0x1p-126 : fap_tiny(core[t]->o_dtype);
                fap_problem p;
                FA_REQUIRE(build_case(&p, core[t], "%s", shapes[s]));
                if (n & 1) multiply_q(&p, tiny);
                if (n & 2) multiply_k(&p, tiny);
                if (n & 4) multiply_v(&p, tiny);
                FA_EXPECT(run_case(&p, core[t]));
                check_lse(&p, core[t]->name);
                for (int h = 0; h < p.spec.hq; h++)
                    for (int i = 0; i < p.spec.sq; i++)
                        for (int d = 0; d < p.spec.dv; d++) {
                            double want = p.o_ref[(i * p.spec.hq + h) * p.spec.dv + d],
                                   got = (double)get_o(&p, 0, h, i, d);
                            FA_EXPECT_NEAR(got, want, 0.02 * fabs(want) + 0.05 * (n & 4 ? tiny : 1) + flushed);
                        }
                fap_free(&p);
            }
}

/* Values near the largest float times P or sums of P may be infinite where O is not.  All is exact under a power of 2. */
FA_TEST(huge_values) {
    static const fa_info *const wide[] = {&f32_64_info, &f32_32_info, &bf16_64_info};
    for (int t = 0; t < COUNT(wide); t++)
        for (int s = 0; s < COUNT(shapes); s++)
            for (int n = 0; n < COUNT(patterns); n++) {
                fap_problem p, q;
                double worst = 0;
                FA_REQUIRE(build_case(&p, wide[t], "%s", shapes[s]));
                FA_REQUIRE(build_case(&q, wide[t], "%s", shapes[s]));
                set_scores(&p, patterns[n].score), set_scores(&q, patterns[n].score);
                multiply_v(&p, 0x1p124); /* 2e37 */
                FA_EXPECT(run_case(&p, wide[t]) && run_case(&q, wide[t]));
                for (int h = 0; h < p.spec.hq; h++)
                    for (int i = 0; i < p.spec.sq; i++)
                        for (int d = 0; d < p.spec.dv; d++) {
                            double e = fabs((double)get_o(&p, 0, h, i, d) * 0x1p-124 - (double)get_o(&q, 0, h, i, d));
                            worst = e <= worst ? worst : e; /* NaN stays */
                        }
                FA_EXPECT_MSG(worst <= 4 * loose(wide[t]), "%s, %s: off by %g times 2^124", wide[t]->name,
                              patterns[n].name, worst);
                fap_free(&p), fap_free(&q);
            }
}

/* ---- terms --------------------------------------------------------------------------------- */

/* Biases that hide keys by a large number, as frameworks do: the other scores keep their precision. */
FA_TEST(bias_of_minus_1e9) {
    static const float large[] = {-1e4f, -1e9f, -1e30f, -3.4028235e38f};
    for (int t = 0; t < COUNT(core); t++)
        for (int s = 0; s < COUNT(shapes); s++)
            for (int n = 0; n < COUNT(large); n++)
                for (int hidden = 8; hidden <= 130; hidden += 61) {
                    fap_problem p;
                    float *bias;
                    FA_REQUIRE(build_case(&p, core[t], "%s bias=1", shapes[s]));
                    p.args.causal = 0, bias = (float *)(void *)(uintptr_t)p.args.bias.data;
                    for (int64_t i = 0; i < (int64_t)p.spec.hq * p.spec.sq * p.spec.sk; i++)
                        bias[i] = i % p.spec.sk < hidden ? large[n] : 0;
                    for (int hk = 0; hk < p.spec.hk; hk++) /* some of it were NaN under a causal mask */
                        for (int j = 0; j < p.spec.sk; j++)
                            for (int d = 0; d < p.spec.d; d++)
                                put_k(&p, 0, hk, j, d, cos(j + d)), put_v(&p, 0, hk, j, d, sin(j * d));
                    FA_EXPECT(run_case(&p, core[t]));
                    FA_EXPECT_MSG(fap_judge(&p, core[t]->name), "%d keys of %g", hidden, (double)large[n]);
                    check_lse(&p, core[t]->name);
                    fap_free(&p);
                }
}

/* A bias of -inf hides a key; a row of them is a row without keys.  Its V does not count, even if NaN. */
FA_TEST(bias_of_minus_infinity) {
    for (int t = 0; t < COUNT(core); t++)
        for (int s = 0; s < COUNT(shapes); s++) {
            fap_problem p;
            float *bias;
            FA_REQUIRE(build_case(&p, core[t], "%s bias=1", shapes[s]));
            bias = (float *)(void *)(uintptr_t)p.args.bias.data;
            for (int h = 0; h < p.spec.hq; h++)
                for (int i = 0; i < p.spec.sq; i++)
                    for (int j = 0; j < p.spec.sk; j++)
                        if (i % 5 == 1 || (i + j) % 3 == 0 || j == 77)
                            bias[((int64_t)h * p.spec.sq + i) * p.spec.sk + j] = -INFINITY;
            for (int hk = 0; hk < p.spec.hk; hk++) put_v(&p, 0, hk, 77, 3, (double)NAN);
            check_problem(&p, core[t], "bias");
            FA_EXPECT(get_o(&p, 0, 0, 1, 0) == 0 && get_lse(&p, 0, 0, 1) == -INFINITY);
            fap_free(&p);
        }
}

FA_TEST(sinks_of_any_size) {
    static const float sinks[] = {-INFINITY, -1e30f, -80, 0, 12, 80, 1e4f, 1e30f};
    for (int t = 0; t < COUNT(core); t++)
        for (int s = 0; s < COUNT(shapes); s++)
            for (int n = 0; n < COUNT(sinks); n++) {
                float sink[4] = {sinks[n], sinks[n], sinks[n], sinks[n]};
                fap_problem p;
                FA_REQUIRE(build_case(&p, core[t], "%s", shapes[s]));
                p.args.sink = sink;
                check_problem(&p, core[t], "sink");
                fap_free(&p);
            }
}

FA_TEST(softcap_of_any_size) {
    static const float caps[] = {1e-6f, 0.5f, 1e5f, 1e30f};
    for (int t = 0; t < COUNT(core); t++)
        for (int s = 0; s < COUNT(shapes); s++)
            for (int n = 0; n < COUNT(caps); n++)
                for (int large = 0; large <= 1; large++) {
                    fap_problem p;
                    FA_REQUIRE(build_case(&p, core[t], "%s", shapes[s]));
                    if (large) multiply_q(&p, 64);
                    p.spec.softcap = (double)(p.args.softcap = caps[n]);
                    check_problem(&p, core[t], "softcap");
                    fap_free(&p);
                }
}

FA_TEST(steep_alibi) {
    for (int t = 0; t < COUNT(core); t++)
        for (int s = 0; s < COUNT(shapes); s++)
            for (int n = 0; n < 3; n++) {
                const float slope = n == 0 ? 1e6f : n == 1 ? -3 : 40, slopes[4] = {slope, slope, slope, slope};
                fap_problem p;
                FA_REQUIRE(build_case(&p, core[t], "%s", shapes[s]));
                p.args.alibi_slopes = slopes;
                check_problem(&p, core[t], "alibi");
                fap_free(&p);
            }
}

/* ---- infinity and NaN ---------------------------------------------------------------------- */

/* A bad number in q spoils its row, in k the rows that see the key, in v one column of these: as in fp64. */
static void poison(const fa_info *info, const char *line, int where, int row, float bad) {
    fap_problem p;
    int wrong;
    FA_REQUIRE(build_case(&p, info, "%s", line));
    for (int h = 0; h < p.spec.hk; h++) {
        if (where == 'q') put_q(&p, 0, h, row, 5, (double)bad);
        if (where == 'k') put_k(&p, 0, h, row, 5, (double)bad);
        if (where == 'v') put_v(&p, 0, h, row, 5, (double)bad);
    }
    FA_EXPECT(run_case(&p, info));
    wrong = count_wrong(&p, loose(info));
    FA_EXPECT_MSG(wrong == 0, "%s: %d wrong with %c[%d] = %g in %s", info->name, wrong, where, row, (double)bad, line);
    fap_free(&p);
}

static const char *const masked[] = {"hq=2 sq=37 sk=100",         "hq=2 sq=37 sk=100 causal=1",
                                     "sq=3 sk=100 causal=1",      "hq=4 hk=2 sq=70 sk=100 wl=20 wr=5",
                                     "hq=2 sq=37 sk=100 bm=7",    "hq=2 sq=5 sk=100 bm=16",
                                     "hq=2 sq=40 sk=100 tree=1",  "sq=4 sk=100 tree=1",
                                     "sq=70 sk=100 bm=1 causal=1", "hq=2 sq=33 sk=100 drop=0.5"};

FA_TEST(nan_and_infinity) {
    static const int keys[] = {0, 7, 30, 63, 64, 69, 90, 98, 99};
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int t = 0; t < COUNT(core); t++)
        for (int m = 0; m < COUNT(masked); m++)
            for (int n = 0; n < COUNT(keys); n++)
                for (int x = 0; x < (core[t]->dtype == FA_E4M3 ? 1 : 3); x++) { /* e4m3 has no infinity */
                    if (!due()) continue;
                    poison(core[t], masked[m], 'k', keys[n], bad[x]);
                    poison(core[t], masked[m], 'v', keys[n], bad[x]);
                    if (n < 3) poison(core[t], masked[m], 'q', n, bad[x]);
                }
}

/* Keys beyond seqused_k and rows beyond seqused_q may hold anything: fa_problem.h fills them with NaN. */
FA_TEST(nan_beyond_the_lengths) {
    for (int t = 0; t < COUNT(core); t++)
        for (int n = 0; n < 20; n++)
            if (due())
                FA_EXPECT(check_case(core[t], "b=4 hq=2 sq=50 sk=150 used=%d page=%d seed=%d", 1 + n % 2,
                                     n % 3 ? 0 : 16, n));
}

/* +inf and -inf in one column make NaN, in one direction infinity. */
FA_TEST(infinite_values) {
    for (int t = 0; t < 4; t++)
        for (int s = 0; s < COUNT(shapes); s++)
            for (int n = 0; n < 3; n++) {
                fap_problem p;
                FA_REQUIRE(build_case(&p, core[t], "%s", shapes[s]));
                for (int hk = 0; hk < p.spec.hk; hk++) {
                    put_v(&p, 0, hk, 20, 3, (double)(n ? INFINITY : -INFINITY));
                    put_v(&p, 0, hk, 40, 3, (double)(n > 1 ? -INFINITY : INFINITY));
                }
                FA_EXPECT(run_case(&p, core[t]));
                FA_EXPECT_MSG(count_wrong(&p, loose(core[t])) == 0, "%s %s", core[t]->name, shapes[s]);
                fap_free(&p);
            }
}

FA_TEST_MAIN
