/* Weights, sampling parameters, coins and draws against plain double or exhaustive references. */
#include "fa_test.h"

#include "flashattn_spec.h"

enum { V = 300 };

/* ---- integers ---- */

FA_TEST(wide_integers) {
    uint64_t state = fat_seed;
    for (int n = 0; n < 20000; n++) {
        uint64_t a = fat_next(&state) >> fat_below(&state, 64), b = fat_next(&state) >> fat_below(&state, 64);
        if (n % 100 == 0) a = UINT64_MAX, b = n % 200 ? UINT64_MAX : 1;
        FA_EXPECT(fai_mulhi(a, b) == fai_mulhi_portable(a, b));
        const uint64_t d = b | 1, hi = a % d;
        FA_EXPECT(fai_div(hi, a, d) == fai_div_portable(hi, a, d));
        FA_EXPECT(a == 0 || (a >> (fai_bit_length(a) - 1)) == 1);
    }
    FA_EXPECT(fai_bit_length(0) == 0 && fai_bit_length(1) == 1 && fai_bit_length(UINT64_MAX) == 64);
    const fai_sum s = {3, UINT64_MAX}, next = fai_sum_add(s, 1), share = fai_sum_share(next, 1 << 23);
    FA_EXPECT(next.hi == 4 && next.lo == 0 && share.hi == 2 && share.lo == 0);
}

FA_TEST(scaling_to_one) {
    uint64_t state = fat_seed;
    const fai_sum one = {0, FAI_ONE}, none = {0, 0}, unit = {0, 1};
    const fai_scale same = fai_scale_to_one(one);
    FA_EXPECT(fai_scaled(fai_scale_to_one(none), 0) == 0 && fai_scaled(fai_scale_to_one(unit), 1) == FAI_ONE);
    for (int n = 0; n < 20000; n++) {
        const uint64_t x = fat_next(&state) >> (11 + fat_below(&state, 53));
        FA_EXPECT(x > FAI_ONE || fai_scaled(same, x) == x);
        fai_sum total = {n % 3 ? 0 : fat_next(&state) >> (44 + fat_below(&state, 20)),
                         fat_next(&state) >> fat_below(&state, 64)};
        if (!total.hi && total.lo < x) total.lo = x;
        if (!total.hi && !total.lo) continue;
        const double want = (double)x / ((double)total.hi * 0x1p64 + (double)total.lo) * 0x1p52;
        const double got = (double)fai_scaled(fai_scale_to_one(total), x);
        FA_EXPECT_MSG(got <= want * (1 + 1e-15) && got >= want * (1 - 1e-15) - 2, "%.17g, want %.17g", got,
                      want);
        FA_EXPECT(got <= 0x1p52);
    }
}

FA_TEST(exp2_and_log2) {
    uint64_t state = fat_seed;
    double worst = 0, worst_log = 0;
    FA_EXPECT(fai_exp2_neg(0) == FAI_ONE && fai_exp2_neg((uint64_t)1 << 40) == FAI_ONE / 2);
    FA_EXPECT(fai_exp2_neg((uint64_t)52 << 40) == 1 && fai_exp2_neg((uint64_t)53 << 40) == 0 &&
              fai_exp2_neg((uint64_t)1 << 46) == 0);
    FA_EXPECT(fai_log2(1) == 0 && fai_log2(FAI_ONE) == (uint64_t)52 << 31);
    for (int n = 0; n < 200000; n++) {
        const uint64_t y = fat_next(&state) >> (64 - 44),
                       x = (fat_next(&state) >> fat_below(&state, 63)) | 1; /* y < 16 */
        worst = fmax(worst, fabs((double)fai_exp2_neg(y) / (exp2(-(double)y * 0x1p-40) * 0x1p52) - 1));
        worst_log = fmax(worst_log, fabs((double)fai_log2(x) * 0x1p-31 - log2((double)x)));
    }
    FA_EXPECT_MSG(worst <= 0x1p-29 * 1.01, "2^%.2f", log2(worst));
    FA_EXPECT_MSG(worst_log <= 0x1p-22, "2^%.2f", log2(worst_log));
}

/* ---- rows ---- */

static fa_rows rows_of(const void *data, fa_dtype dtype, int32_t kind) {
    const fa_rows r = {data, 0, dtype, kind};
    return r;
}

FA_TEST(weights_of_logits) {
    static const float temperatures[] = {1, 0.7f, 1.3f, 0.05f, 20, 0x1p-20f, 0x1p20f};
    static float x[V];
    static uint64_t w[V];
    uint64_t state = fat_seed;
    for (int round = 0; round < 60; round++) {
        const float t = temperatures[round % 7], spread = t < 1e-3f ? 1e-5f : t > 100 ? 1e5f : 3;
        double top = -1e300, sum = 0, total = 0;
        for (int i = 0; i < V; i++)
            x[i] = (float)fat_normal(&state) * spread + (round % 3 ? 0 : 100 * spread),
            top = fmax(top, (double)x[i]);
        for (int i = 0; i < V; i++) sum += exp(((double)x[i] - top) / (double)t);
        const fa_sampling s = {&t, NULL, NULL, NULL};
        const fa_rows rows = rows_of(x, 0, 0);
        fa_row_weights(&rows, 0, V, &s, 0, w);
        for (int i = 0; i < V; i++) {
            const double want = exp(((double)x[i] - top) / (double)t) / sum;
            total += (double)w[i];
            FA_EXPECT_MSG(fabs((double)w[i] * 0x1p-52 - want) <= want * 0x1p-28 + 0x2.1p-52,
                          "round %d: %.12g, want %.12g", round, (double)w[i] * 0x1p-52, want);
        }
        FA_EXPECT_MSG(total <= 0x1p52 && total >= 0x1p52 - V, "%.17g", total);
    }
}

FA_TEST(weights_of_probabilities) {
    static const float p[] = {0.25f,    0,          -0.0f,     1,    1.0000001f,     0x1p-52f,
                              0x1p-53f, 0x1.8p-52f, 0x1p-149f, 0.1f, 0x1.fffffep-40f};
    enum { N = sizeof p / sizeof *p };
    uint64_t w[N];
    const fa_rows rows = rows_of(p, FA_F32, FA_PROBS);
    fa_row_weights(&rows, 0, N, NULL, 0, w);
    for (int i = 0; i < N; i++)
        FA_EXPECT_MSG((double)w[i] == nearbyint(ldexp((double)p[i], 52)), "%d: %.17g", i, (double)w[i]);
    uint64_t state = fat_seed; /* numbers of any size are scaled */
    for (int round = 0; round < 40; round++) {
        static float x[V];
        static uint64_t scaled[V];
        double sum = 0;
        for (int i = 0; i < V; i++)
            x[i] = ldexpf((float)fat_uniform(&state), round * 6 - 140), sum += (double)x[i];
        const fa_rows any = rows_of(x, FA_F32, FA_WEIGHTS);
        fa_row_weights(&any, 0, V, NULL, 0, scaled);
        for (int i = 0; i < V; i++) FA_EXPECT_NEAR((double)scaled[i], (double)x[i] / sum * 0x1p52, 4);
    }
}

FA_TEST(sixteen_bits_are_their_f32) {
    static float f[2][V];
    static uint16_t h[2][V];
    static uint64_t w[V], w16[V];
    uint64_t state = fat_seed;
    for (int kind = FA_LOGITS; kind <= FA_WEIGHTS; kind++)
        for (int b = 0; b < 2; b++) {
            const fa_dtype dtype = b ? FA_BF16 : FA_F16;
            for (int i = 0; i < V; i++) {
                const float x =
                    kind == FA_LOGITS ? 3 * (float)fat_normal(&state) : (float)fat_uniform(&state) / V;
                h[b][i] = b ? fa_f32_to_bf16(x) : fa_f32_to_f16(x), f[b][i] = fa_load(h[b], i, dtype);
            }
            const fa_rows wide = rows_of(f[b], FA_F32, kind == FA_PROBS ? FA_WEIGHTS : kind),
                          narrow = rows_of(h[b], dtype, kind);
            fa_row_weights(&wide, 0, V, NULL, 0, w), fa_row_weights(&narrow, 0, V, NULL, 0, w16);
            FA_EXPECT(!memcmp(w, w16, sizeof w));
        }
}

/* Top-k, top-p and min-p by sorting. */
static int by_value(const void *a, const void *b, const float *x) {
    const int i = *(const int *)a, j = *(const int *)b;
    return x[i] != x[j] ? (x[i] < x[j] ? 1 : -1) : (i > j) - (i < j);
}
static void sort_ids(int *ids, int n, const float *x) {
    for (int i = 1; i < n; i++)
        for (int j = i; j > 0 && by_value(&ids[j - 1], &ids[j], x) > 0; j--) {
            const int t = ids[j];
            ids[j] = ids[j - 1], ids[j - 1] = t;
        }
}
FA_TEST(cuts_against_sorting) {
    enum { N = 60 };
    uint64_t state = fat_seed, whole[N], w[N];
    float x[N];
    int ids[N];
    for (int round = 0; round < 600; round++) {
        const int kind = round % 2 ? FA_LOGITS : FA_WEIGHTS, n = 1 + fat_below(&state, N);
        for (int i = 0; i < n; i++) {
            x[i] = (float)fat_below(&state, round % 3 ? 1000 : 5) / 100; /* ties */
            if (kind == FA_LOGITS && fat_below(&state, 9) == 0) x[i] = -x[i];
            ids[i] = i;
        }
        x[fat_below(&state, n)] = 7;
        const float t = 0.9f;
        const int32_t k = round % 4 == 1 ? 0 : 1 + fat_below(&state, n + 2);
        const float top_p = round % 5 == 2 ? 0 : (float)fat_uniform(&state),
                    min_p = round % 3 == 1 ? 0 : (float)fat_uniform(&state) / 4;
        fa_sampling s = {kind == FA_LOGITS ? &t : NULL, NULL, NULL, NULL};
        const fa_rows rows = rows_of(x, FA_F32, kind);
        fa_row_weights(&rows, 0, n, &s, 0, whole);
        s.top_k = &k, s.top_p = &top_p, s.min_p = &min_p;
        fa_row_weights(&rows, 0, n, &s, 0, w);
        sort_ids(ids, n, x);
        int keep = k && k < n ? k : n, close = 0;
        double sum = 0, before = 0, kept = 0;
        for (int i = 0; i < keep; i++) sum += (double)whole[ids[i]];
        for (int i = 0; i < keep && top_p > 0;
             i++) { /* kept while those before it have less than the share */
            const double share = before / sum - (double)top_p;
            if (fabs(share) < 1e-6) close = 1;
            if (i && share >= 0) {
                keep = i;
                break;
            }
            before += (double)whole[ids[i]];
        }
        while (keep > 1 && (double)whole[ids[keep - 1]] < (double)min_p * (double)whole[ids[0]]) keep--;
        if (close) continue; /* too close to say in double */
        for (int i = 0; i < keep; i++) kept += (double)whole[ids[i]];
        for (int i = 0; i < n; i++) {
            const double want = i < keep ? (double)whole[ids[i]] / kept * 0x1p52 : 0;
            FA_EXPECT_MSG(fabs((double)w[ids[i]] - want) <= 1e-12 * want + 2 * N,
                          "round %d, n %d, k %d, p %g, min %g, rank %d: %.6g, want %.6g", round, n, k,
                          (double)top_p, (double)min_p, i, (double)w[ids[i]], want);
        }
    }
}

FA_TEST(temperature_zero) {
    const float x[] = {1, 5, -2, 5, NAN}, zero = 0;
    uint64_t w[5];
    const fa_sampling s = {&zero, NULL, NULL, NULL};
    for (int kind = FA_LOGITS; kind <= FA_WEIGHTS; kind++) {
        const fa_rows rows = rows_of(x, FA_F32, kind);
        fa_row_weights(&rows, 0, 5, &s, 0, w);
        FA_EXPECT(w[1] == FAI_ONE && w[0] + w[2] + w[3] + w[4] == 0);
    }
}

/* Odd rows: the weights, and the flag. */
FA_TEST(odd_rows) {
    static const struct {
        int kind, one, bad; /* one: the id with all weight, -1 = a to be looked at */
        float x[4];
    } cases[] = {{FA_LOGITS, 2, 1, {NAN, -INFINITY, 3, -INFINITY}},
                 {FA_LOGITS, 0, 1, {NAN, NAN, NAN, NAN}},
                 {FA_LOGITS, 0, 1, {-INFINITY, -INFINITY, -INFINITY, -INFINITY}},
                 {FA_LOGITS, 1, 1, {NAN, -INFINITY, -INFINITY, NAN}},
                 {FA_LOGITS, 1, 1, {3, INFINITY, NAN, INFINITY}},
                 {FA_LOGITS, 3, 0, {-INFINITY, -INFINITY, -INFINITY, -1e30f}},
                 {FA_LOGITS, 2, 0, {-1e38f, 1e37f, 3e38f, 1e37f}},
                 {FA_WEIGHTS, 2, 1, {NAN, -1, 3, -INFINITY}},
                 {FA_WEIGHTS, 0, 1, {0, 0, 0, 0}},
                 {FA_WEIGHTS, 1, 1, {INFINITY, 2, 0, -0.0f}},
                 {FA_WEIGHTS, 0, 1, {NAN, -1, -2, NAN}},
                 {FA_WEIGHTS, 3, 0, {0, 0, 0, 1e-45f}}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        uint64_t w[4];
        uint32_t flags = 9;
        int32_t token = -9;
        fa_sample_args a;
        const fa_rows rows = rows_of(cases[c].x, FA_F32, cases[c].kind);
        fa_row_weights(&rows, 0, 4, NULL, 0, w);
        for (int i = 0; i < 4; i++)
            FA_EXPECT_MSG((w[i] == FAI_ONE) == (i == cases[c].one), "case %d, id %d: %g", (int)c, i,
                          (double)w[i]);
        memset(&a, 0, sizeof a);
        a.batch = 1, a.vocab = 4, a.rows = rows, a.tokens = &token, a.flags = &flags;
        FA_EXPECT(fa_sample(&a) == FA_OK && token == cases[c].one);
        FA_EXPECT_MSG(flags == (cases[c].bad ? FA_SPEC_BAD_DRAFT : 0), "case %d: flags %u", (int)c, flags);
    }
    static const float probs[5][4] = {
        {NAN, 0, 0, 0}, {0, 0, 0, 0}, {1, 0.9f, 0.2f, 0}, {3, 0, 0, 0}, {-1, 0, 0.5f, 0}};
    static const int32_t want[5] = {0, 0, 0, 0, 2};
    for (int c = 0; c < 5; c++) {
        uint32_t flags = 9;
        int32_t token = -9;
        fa_sample_args a;
        memset(&a, 0, sizeof a);
        a.batch = 1, a.vocab = 4, a.rows = rows_of(probs[c], FA_F32, FA_PROBS), a.tokens = &token,
        a.flags = &flags;
        FA_EXPECT(fa_sample(&a) == FA_OK && token == want[c] && flags == FA_SPEC_BAD_DRAFT);
    }
}

/* ---- sums and draws ---- */

/* The vector loop gives what one element after the other gives: any length, place, sort of entry. */
FA_TEST(vector_sums) {
    enum { N = 5000 };
    static float p[N + 8], q[N + 8];
    uint64_t state = fat_seed;
    for (int round = 0; round < 300; round++) {
        const int shift = fat_below(&state, 8), n = round < 40 ? round : 1 + fat_below(&state, N - 1);
        for (int i = 0; i < N + 8; i++) {
            p[i] = ldexpf((float)fat_uniform(&state), -8 - fat_below(&state, 60)),
            q[i] = ldexpf((float)fat_uniform(&state), -8 - fat_below(&state, 60));
            if (fat_below(&state, 20) == 0) p[i] = q[i];
        }
        if (round % 4 == 1) p[fat_below(&state, N)] = 1, q[fat_below(&state, N)] = -0.0f;
        if (round % 4 == 2)
            p[fat_below(&state, N)] = NAN, q[fat_below(&state, N)] = round % 8 == 2 ? INFINITY : -1;
        if (round % 4 == 3)
            p[fat_below(&state, N)] = 1.5f, q[fat_below(&state, N)] = 2.5f, q[fat_below(&state, N)] = -0.001f;
        const fa_rows pr = rows_of(p + shift, FA_F32, FA_PROBS),
                      qr = rows_of(q + 7 - shift, FA_F32, FA_PROBS);
        fai_row pp = fai_row_open(&pr, 0, n, NULL, 0, NULL), qq = fai_row_open(&qr, 0, n, NULL, 0, NULL);
        for (int both = 0; both < 2; both++) {
            fai_mass m = {&pp, both ? &qq : NULL, 0, NULL, NULL, 0, n};
            uint64_t want = 0;
            int bad = 0;
            pp.bad = qq.bad = 0;
            for (int i = 0; i < n; i++) {
                const float x = p[shift + i], y = q[7 - shift + i];
                want += fai_residual(fai_weight(&pp, i), both ? fai_weight(&qq, i) : 0);
                bad |= !(x >= 0 && x < 2) || (both && !(y >= 0 && y < 2));
            }
            FA_EXPECT_MSG(fai_mass_sum(&m, 0, n) == want, "round %d, %d entries", round, n);
            FA_EXPECT((pp.bad || qq.bad) == (unsigned)bad);
        }
    }
}

/* Many entries at once are what one after the other is: any kind, dtype, length, place, sort of entry. */
FA_TEST(chunks_are_their_entries) {
    enum { N = 3 * FAI_SPEC_CHUNK };
    static const float temperatures[] = {1, 0.7f, 0.05f, 20, 0x1p-20f, 0x1p20f};
    static const float odd[] = {NAN, INFINITY, -INFINITY, -0.0f, 0, 0x1p-140f, -1e30f, 1e30f, -NAN, 1, -1};
    static float f[N];
    static uint16_t h[N];
    uint64_t state = fat_seed;
    for (int round = 0; round < 4000; round++) {
        const int n = 1 + fat_below(&state, N), kind = round % 4 ? FA_LOGITS : FA_WEIGHTS,
                  dtype = fat_below(&state, 2)   ? FA_F32
                          : fat_below(&state, 2) ? FA_F16
                                                 : FA_BF16,
                  odds = fat_below(&state, 3), cuts = fat_below(&state, 2);
        const float spread = ldexpf(1, fat_below(&state, 30) - 15), t = temperatures[fat_below(&state, 6)];
        for (int i = 0; i < n; i++) {
            f[i] =
                kind == FA_LOGITS ? (float)fat_normal(&state) * spread : (float)fat_uniform(&state) * spread;
            if (fat_below(&state, 4) == 0) f[i] = f[fat_below(&state, i + 1)];
            if (odds && fat_below(&state, odds == 1 ? 8 : 100) == 0) f[i] = odd[fat_below(&state, 11)];
            if (round % 8 == 1) f[i] = -fabsf(f[i]); /* -0 may be the largest */
            h[i] = dtype == FA_F16 ? fa_f32_to_f16(f[i]) : fa_f32_to_bf16(f[i]);
        }
        const int32_t k = cuts ? fat_below(&state, n + 2) : 0;
        const float top_p = cuts && fat_below(&state, 2) ? (float)fat_uniform(&state) : 0,
                    min_p = cuts && fat_below(&state, 2) ? (float)fat_uniform(&state) / 8 : 0;
        const fa_sampling s = {kind == FA_LOGITS ? &t : NULL, &k, &top_p, &min_p};
        const fa_rows rows = rows_of(dtype == FA_F32 ? (const void *)f : h, (fa_dtype)dtype, kind);
        uint64_t room[FAI_SMALL], unit[FAI_SPEC_CHUNK], w[FAI_SPEC_CHUNK], kept[FAI_SPEC_CHUNK];
        const fai_row row = fai_row_open(&rows, 0, n, &s, 0, NULL),
                      same = fai_row_open(&rows, 0, n, &s, 0, room);
        fai_sum total = {0, 0};
        uint32_t top = 0, found_bad = 0;
        int32_t best = 0;
        int bad = 0;
        for (int i = 0; i < n; i++) {
            const uint32_t key = fai_row_key(&row, i), bits = fai_bits_of(fai_row_load(&row, i));
            bad |= kind == FA_LOGITS ? !key || key == 0xff800000u : fai_bad_weight(bits, 0x7f800000u);
            if (key > top) top = key, best = i;
            if (row.only < 0 && fai_kept(&row, i, key, fai_unit(&row, i)))
                total = fai_sum_add(total, fai_unit(&row, i));
        }
        FA_EXPECT_MSG(fai_argmax(&row, &found_bad) == best && found_bad == (uint32_t)bad, "round %d", round);
        FA_EXPECT((row.only >= 0) == (same.only >= 0) && row.bad == same.bad);
        if (row.only >= 0) continue;
        const fai_scale scale = fai_scale_to_one(total);
        FA_EXPECT_MSG(scale.factor == row.scale.factor && scale.after == row.scale.after, "round %d", round);
        const int from = fat_below(&state, n),
                  count = n - from < FAI_SPEC_CHUNK ? n - from : 1 + fat_below(&state, FAI_SPEC_CHUNK);
        const uint32_t low = fai_row_key(&row, fat_below(&state, n)),
                       high = fai_row_key(&row, fat_below(&state, n));
        const uint64_t found = fai_chunk_find(&row, from, count, low, high);
        uint64_t sum = 0;
        uint32_t most = 0;
        fai_units(&row, from, count, unit), fai_weights(&row, from, count, w),
            fai_weights(&same, from, count, kept);
        for (int i = 0; i < count; i++) {
            const uint32_t key = fai_row_key(&row, from + i);
            most = key > most ? key : most, sum += w[i];
            FA_EXPECT((found >> i & 1) == (key >= low && key <= high));
            FA_EXPECT_MSG(unit[i] == fai_unit(&row, from + i), "round %d, entry %d", round, from + i);
            FA_EXPECT_MSG(w[i] == fai_weight(&row, from + i), "round %d, entry %d", round, from + i);
            FA_EXPECT(kept[i] == w[i] && fai_weight(&same, from + i) == w[i]);
        }
        FA_EXPECT(count == FAI_SPEC_CHUNK || found >> count == 0);
        FA_EXPECT(fai_chunk_key(&row, from, count, &found_bad) == most && fai_add_up(w, count) == sum);
        fai_subtract(kept, unit, count), fai_scale_all(scale, unit, count);
        for (int i = 0; i < count; i++) {
            FA_EXPECT(unit[i] == fai_scaled(scale, fai_unit(&row, from + i)));
            FA_EXPECT(kept[i] == fai_residual(w[i], fai_unit(&row, from + i)));
        }
    }
}

/* The token of a coin is where the cumulative sum passes it; both ends of each interval. */
FA_TEST(draws_by_inversion) {
    enum { N = 2000 };
    static float x[N];
    static uint64_t w[N];
    uint64_t state = fat_seed;
    for (int round = 0; round < 30; round++) {
        const int n = round < 5 ? round + 1 : 1 + fat_below(&state, N - 1);
        for (int i = 0; i < n; i++) x[i] = fat_below(&state, 3) ? (float)fat_uniform(&state) : 0;
        x[n / 2] = 1;
        const fa_rows rows = rows_of(x, FA_F32, FA_WEIGHTS);
        fa_row_weights(&rows, 0, n, NULL, 0, w);
        uint64_t total = 0, at = 0;
        for (int i = 0; i < n; i++) total += w[i];
        for (int i = 0; i < n; i++) {
            if (w[i] && (n < 50 || fat_below(&state, 20) == 0))
                for (int end = 0; end < 2; end++) {
                    const uint64_t unit = end ? at + w[i] - 1 : at;
                    uint64_t coin = unit ? fai_div(unit, 0, total) + (end == 0)
                                         : 0; /* the first coin of a unit, or one in it */
                    while (fai_mulhi(coin, total) < unit) coin++;
                    if (fai_mulhi(coin, total) != unit) continue;
                    int32_t token = -1;
                    fa_sample_args a;
                    memset(&a, 0, sizeof a);
                    a.batch = 1, a.vocab = n, a.rows = rows, a.tokens = &token, a.coins.coins = &coin;
                    FA_EXPECT(fa_sample(&a) == FA_OK);
                    FA_EXPECT_MSG(token == i, "round %d: %d, want %d", round, token, i);
                }
            at += w[i];
        }
    }
}

FA_TEST(draws_without_replacement) {
    enum { N = 700, K = 20 };
    static float x[N], left[N];
    uint64_t state = fat_seed, coins[K];
    int32_t tokens[K], one;
    for (int round = 0; round < 50; round++) {
        const int support = round % 2 ? N : 1 + fat_below(&state, K);
        memset(x, 0, sizeof x);
        for (int i = 0; i < support; i++)
            x[(i * 37) % N] = (float)(1 + fat_below(&state, 1 << 20)) * 0x1p-40f;
        for (int k = 0; k < K; k++) coins[k] = fat_next(&state);
        fa_sample_args a;
        memset(&a, 0, sizeof a);
        a.batch = 1, a.vocab = N, a.num_samples = K, a.without_replacement = 1, a.coins.coins = coins,
        a.tokens = tokens;
        a.rows = rows_of(x, FA_F32, FA_PROBS); /* exact multiples of 2^-40: removing an entry is exact */
        FA_EXPECT(fa_sample(&a) == FA_OK);
        memcpy(left, x, sizeof x);
        for (int k = 0; k < K; k++) {
            if (k >= support) {
                FA_EXPECT(tokens[k] == -1);
                continue;
            }
            fa_sample_args single;
            memset(&single, 0, sizeof single);
            single.batch = 1, single.vocab = N, single.coins.coins = &coins[k], single.tokens = &one;
            single.rows = rows_of(left, FA_F32, FA_PROBS);
            FA_EXPECT(fa_sample(&single) == FA_OK);
            FA_EXPECT_MSG(one == tokens[k], "round %d, sample %d: %d, want %d", round, k, tokens[k], one);
            left[one] = 0;
        }
    }
}

/* ---- coins ---- */

FA_TEST(coins_are_philox) {
    const uint32_t counter[4] = {0x89abcdefu, 0x01234567u, 5, FA_COIN_RESAMPLE},
                   key[2] = {0x33221100u, 0x77665544u};
    uint32_t out[4];
    fa_philox4x32_10(counter, key, out);
    FA_EXPECT(fa_coin(0x7766554433221100u, 0x0123456789abcdefu, FA_COIN_RESAMPLE, 5) ==
              ((uint64_t)out[1] << 32 | out[0]));
    /* every purpose, node, offset and seed has coins of its own */
    static uint64_t seen[5 * 20 * 20 * 3];
    int n = 0;
    for (uint32_t purpose = 0; purpose < 5; purpose++)
        for (uint32_t node = 0; node < 20; node++)
            for (uint64_t offset = 0; offset < 20; offset++)
                for (uint64_t seed = 0; seed < 3; seed++) seen[n++] = fa_coin(seed, offset, purpose, node);
    int equal = 0;
    for (int i = 0; i < n; i++)
        for (int j = 0; j < i; j++) equal += seen[i] == seen[j];
    FA_EXPECT_MSG(equal == 0, "%d pairs", equal);
}

FA_TEST(samples_take_the_coins_they_say) {
    static const float x[6] = {0.1f, 0.2f, 0.3f, 0.1f, 0.1f, 0.2f};
    float rows[3][6];
    const uint64_t seed[2] = {7, 9}, offset[2] = {100, 3};
    const int32_t request[3] = {1, 0, 1}, node[3] = {1, 4, 9};
    int32_t tokens[12];
    for (int r = 0; r < 3; r++) memcpy(rows[r], x, sizeof x);
    fa_sample_args a;
    memset(&a, 0, sizeof a);
    a.batch = 2, a.num_rows = 3, a.vocab = 6, a.rows = rows_of(rows, FA_F32, FA_PROBS), a.request = request,
    a.node = node;
    a.num_samples = 4, a.coins.seed = seed, a.coins.offset = offset, a.tokens = tokens;
    for (uint32_t purpose = FA_COIN_DRAFT; purpose <= FA_COIN_TARGET; purpose += FA_COIN_TARGET) {
        a.purpose = purpose;
        FA_REQUIRE(fa_sample(&a) == FA_OK);
        for (int r = 0; r < 3; r++)
            for (int n = 0; n < 4; n++) {
                uint64_t coin =
                    fa_coin(seed[request[r]], offset[request[r]], purpose, (uint32_t)(node[r] + n));
                int32_t one;
                fa_sample_args single;
                memset(&single, 0, sizeof single);
                single.batch = 1, single.vocab = 6, single.rows = rows_of(x, FA_F32, FA_PROBS),
                single.coins.coins = &coin;
                single.tokens = &one;
                FA_EXPECT(fa_sample(&single) == FA_OK && one == tokens[r * 4 + n]);
            }
    }
}

FA_TEST_MAIN
