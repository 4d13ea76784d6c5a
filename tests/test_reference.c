/* The fp64 reference against closed forms and central differences, the I/O model against enumeration,
 * and the judge of the other tests (fa_problem.h) against results that it must accept and mutants that
 * it must reject. */
#include "flashattn.h"
#include "fa_test.h"
#include "fa_problem.h"

/* -------------------------------------------------------------------------------------------- */
/* Helpers */

/* WITH(p, line) { body }: builds p for the body. */
#define WITH(p, line) \
    for (int with_##p = FA_EXPECT(fap_build(&p, line, NULL)); with_##p; with_##p = (fap_free(&p), 0))

/* Row i of tensor q, j of k or v, as numbers; set writes them. */
static void set_q(fap_problem *p, int b, int h, int i, int d, double x) {
    fa_store(p->q.data, fap_at_q(p, &p->q, b, i, h) + d, p->q.dtype, (float)x);
}
static void set_k(fap_problem *p, int b, int hk, int j, int d, double x) {
    fa_store(p->k.data, fap_at_k(p, &p->k, b, j, hk) + d, p->k.dtype, (float)x);
}
static void set_v(fap_problem *p, int b, int hk, int j, int d, double x) {
    fa_store(p->v.data, fap_at_k(p, &p->v, b, j, hk) + d, p->v.dtype, (float)x);
}
static double get_o(const fap_problem *p, int b, int h, int i, int d) {
    return p->o_ref[(fap_row(p, b, i) * p->spec.hq + h) * p->spec.dv + d];
}
static double get_lse(const fap_problem *p, int b, int h, int i) {
    return p->lse_ref[fap_lse_index(p, b, h, i)];
}

/* k = 0, so that scores are what masks and biases make them. */
static void zero_keys(fap_problem *p) {
    for (int b = 0; b < p->spec.b; b++)
        for (int hk = 0; hk < p->spec.hk; hk++)
            for (int j = 0; j < p->len_k[b]; j++)
                for (int d = 0; d < p->spec.d; d++) set_k(p, b, hk, j, d, 0);
}

/* The reference for x, a copy of p with other args or info; p owns the memory. */
static void variant(fap_problem *x, fap_problem *p) {
    memcpy(x->blocks, p->blocks, sizeof p->blocks);
    x->num_blocks = p->num_blocks, x->o_ref = NULL;
    fap_expect(x);
    memcpy(p->blocks, x->blocks, sizeof p->blocks);
    p->num_blocks = x->num_blocks;
}

/* Largest difference of the results of two problems that have the same rows; infinite if one is NaN alone. */
static double difference(const fap_problem *x, const fap_problem *y) {
    double worst = 0;
    for (int b = 0; b < x->spec.b; b++)
        for (int h = 0; h < x->spec.hq; h++)
            for (int i = 0; i < x->len_q[b]; i++) {
                double lx = get_lse(x, b, h, i), ly = get_lse(y, b, h, i);
                if (fap_bad(lx, ly)) return INFINITY;
                worst = fmax(worst, fap_difference(lx, ly));
                for (int d = 0; d < x->spec.dv; d++) {
                    double ox = get_o(x, b, h, i, d), oy = get_o(y, b, h, i, d);
                    if (fap_bad(ox, oy)) return INFINITY;
                    worst = fmax(worst, fap_difference(ox, oy));
                }
            }
    return worst;
}

/* Two lines whose results must be the same, bit for bit if tolerance is 0. */
static void expect_same(const char *one, const char *other, double tolerance) {
    fap_problem x, y;
    FA_REQUIRE(fap_build(&x, one, NULL));
    if (FA_EXPECT(fap_build(&y, other, NULL))) {
        fap_expect(&x), fap_expect(&y);
        double e = difference(&x, &y);
        FA_EXPECT_MSG(e <= tolerance, "%g apart: %s | %s", e, one, other);
        fap_free(&y);
    }
    fap_free(&x);
}

/* -------------------------------------------------------------------------------------------- */
/* Closed forms */

FA_TEST(one_key_is_its_value) {
    fap_problem p;
    WITH(p, "b=2 hq=4 hk=2 sq=1 sk=1 d=32 dv=16") {
        fap_expect(&p);
        for (int b = 0; b < 2; b++)
            for (int h = 0; h < 4; h++) {
                double s = 0;
                for (int d = 0; d < 32; d++)
                    s += (double)fa_load(p.q.data, (b * 4 + h) * 32 + d, FA_F32) *
                         (double)fa_load(p.k.data, (b * 2 + h / 2) * 32 + d, FA_F32);
                FA_EXPECT_NEAR(get_lse(&p, b, h, 0), s / sqrt(32), 1e-14);
                for (int d = 0; d < 16; d++)
                    FA_EXPECT(get_o(&p, b, h, 0, d) ==
                              (double)fa_load(p.v.data, (b * 2 + h / 2) * 16 + d, FA_F32));
            }
    }
}

/* Rows of P sum to 1: equal values come out as they are, whatever the weights. */
FA_TEST(uniform_values) {
    static const char *const lines[] = {
        "b=2 hq=4 hk=2 sq=20 sk=33 d=16",
        "b=2 hq=4 hk=2 sq=20 sk=33 d=16 causal=1 softcap=5 alibi=2 bias=4 layout=padded",
        "b=3 hq=2 sq=33 sk=20 d=16 wl=3 wr=3 bm=4 varlen=1 used=1 page=3"};
    for (int n = 0; n < 3; n++) {
        fap_problem p;
        WITH(p, lines[n]) {
            int empty = 0, rows = 0;
            for (int b = 0; b < p.spec.b; b++)
                for (int hk = 0; hk < p.spec.hk; hk++)
                    for (int j = 0; j < p.len_k[b]; j++)
                        for (int d = 0; d < 16; d++) set_v(&p, b, hk, j, d, d - 3.5);
            fap_expect(&p);
            for (int b = 0; b < p.spec.b; b++)
                for (int h = 0; h < p.spec.hq; h++)
                    for (int i = 0; i < p.len_q[b]; i++) {
                        int nothing = get_lse(&p, b, h, i) == -INFINITY;
                        empty += nothing, rows++;
                        for (int d = 0; d < 16; d++)
                            FA_EXPECT_NEAR(get_o(&p, b, h, i, d), nothing ? 0 : d - 3.5, 1e-13);
                    }
            FA_EXPECT(rows > 0 && empty < rows && (n == 2) == (empty > 0));
        }
    }
}

/* k_j = e_j and q_i = e_(7i mod 32) with a large scale: row i of P is one-hot. */
FA_TEST(one_hot_rows) {
    fap_problem p;
    WITH(p, "hq=1 sq=16 sk=32 d=32 dv=16 scale=1000") {
        for (int j = 0; j < 32; j++)
            for (int d = 0; d < 32; d++) {
                set_k(&p, 0, 0, j, d, d == j);
                if (j < 16) set_q(&p, 0, 0, j, d, d == 7 * j % 32);
            }
        fap_expect(&p);
        for (int i = 0; i < 16; i++) {
            FA_EXPECT_NEAR(get_lse(&p, 0, 0, i), 1000, 0);
            for (int d = 0; d < 16; d++)
                FA_EXPECT(get_o(&p, 0, 0, i, d) == (double)fa_load(p.v.data, 7 * i % 32 * 16 + d, FA_F32));
        }
    }
}

/* Equal scores: O is the mean of the visible values and lse the log of their number.  v_j = j, so that
 * the mean tells which; visibility by the words of the contract, for every mask, with fewer, as many and
 * more keys than queries. */
FA_TEST(masks_count_keys) {
    static const int lengths[][2] = {{1, 1}, {7, 7}, {5, 12}, {12, 5}, {9, 0}, {1, 9}};
    for (int n = 0; n < 6; n++)
        for (int mask = 0; mask < 2 * 5 * 5; mask++) {
            static const int windows[] = {0, 1, 2, 4, 100};
            int causal = mask % 2, wl = windows[mask / 2 % 5], wr = windows[mask / 10];
            char line[128];
            fap_problem p;
            sprintf(line, "hq=1 sq=%d sk=%d d=16 causal=%d wl=%d wr=%d", lengths[n][0], lengths[n][1], causal,
                    wl, wr);
            WITH(p, line) {
                zero_keys(&p);
                for (int j = 0; j < p.spec.sk; j++)
                    for (int d = 0; d < 16; d++) set_v(&p, 0, 0, j, d, j);
                fap_expect(&p);
                for (int i = 0; i < p.spec.sq; i++) {
                    int pos = i + p.spec.sk - p.spec.sq, count = 0, sum = 0;
                    for (int j = 0; j < p.spec.sk; j++)
                        if (!(causal && j > pos) && !(wl && pos - j >= wl) && !(wr && j - pos >= wr))
                            count++, sum += j;
                    FA_EXPECT_NEAR(get_lse(&p, 0, 0, i), count ? log(count) : -INFINITY, 1e-14);
                    FA_EXPECT_NEAR(get_o(&p, 0, 0, i, 3), count ? (double)sum / count : 0, 1e-13);
                }
            }
        }
}

/* Causal, equal keys, slope m, position t: lse = log sum_{u=0..t} e^(-mu), and with v_j = e^(-mj) every
 * product is e^(-mt).  Slope of head 0 of 4: 2^-2. */
FA_TEST(alibi_closed_form) {
    fap_problem p;
    WITH(p, "hq=4 sq=10 sk=25 d=16 causal=1 alibi=1") {
        const double m = 0.25;
        zero_keys(&p);
        for (int j = 0; j < 25; j++) set_v(&p, 0, 0, j, 0, exp(-m * j));
        fap_expect(&p);
        for (int i = 0; i < 10; i++) {
            int t = i + 15;
            double sum = (1 - exp(-m * (t + 1))) / (1 - exp(-m));
            FA_EXPECT_NEAR(get_lse(&p, 0, 0, i), log(sum), 1e-13);
            FA_EXPECT_NEAR(get_o(&p, 0, 0, i, 0), (t + 1) * exp(-m * t) / sum, 1e-7);
        }
    }
    WITH(p, "b=2 hq=2 sq=1 sk=2 d=16 alibi=2") { /* distances 1 and 0; slopes halve with b */
        zero_keys(&p);
        fap_expect(&p);
        for (int b = 0; b < 2; b++)
            for (int h = 0; h < 2; h++)
                FA_EXPECT_NEAR(get_lse(&p, b, h, 0), log(1 + exp(-exp2(-4 * (h + 1) - b))), 1e-14);
    }
    WITH(p, "hq=1 sq=2 sk=1 d=16 alibi=1") { /* position -1 is at distance 1 from key 0 */
        zero_keys(&p);
        fap_expect(&p);
        FA_EXPECT_NEAR(get_lse(&p, 0, 0, 0), -0x1p-8, 1e-14);
        FA_EXPECT_NEAR(get_lse(&p, 0, 0, 1), 0, 1e-14);
    }
}

FA_TEST(sink_closed_form) {
    fap_problem p;
    WITH(p, "b=2 hq=2 sq=6 sk=4 d=16 causal=1 sink=1") { /* queries 0 and 1 see nothing */
        zero_keys(&p);
        for (int b = 0; b < 2; b++)
            for (int h = 0; h < 2; h++)
                for (int j = 0; j < 4; j++) set_v(&p, b, h, j, 0, 1);
        fap_expect(&p);
        for (int b = 0; b < 2; b++)
            for (int h = 0; h < 2; h++)
                for (int i = 0; i < 6; i++) {
                    double sink = (double)p.args.sink[h], n = i < 2 ? 0 : i - 1;
                    FA_EXPECT_NEAR(get_lse(&p, b, h, i), log(n + exp(sink)), 1e-14);
                    FA_EXPECT_NEAR(get_o(&p, b, h, i, 0), n / (n + exp(sink)), 1e-14);
                }
    }
}

/* Scores far beyond the cap become +-cap; scores far below it stay. */
FA_TEST(softcap_saturates) {
    fap_problem p;
    WITH(p, "hq=1 sq=1 sk=7 d=16 softcap=3 scale=1000") {
        for (int d = 0; d < 16; d++) set_q(&p, 0, 0, 0, d, d == 0);
        for (int j = 0; j < 7; j++) {
            for (int d = 0; d < 16; d++) set_k(&p, 0, 0, j, d, d == 0 ? (j < 3 ? 1 : -1) : 0);
            set_v(&p, 0, 0, j, 0, j < 3);
        }
        fap_expect(&p);
        FA_EXPECT_NEAR(get_lse(&p, 0, 0, 0), log(3 * exp(3) + 4 * exp(-3)), 1e-14);
        FA_EXPECT_NEAR(get_o(&p, 0, 0, 0, 0), 3 * exp(3) / (3 * exp(3) + 4 * exp(-3)), 1e-14);
    }
    WITH(p, "hq=2 sq=9 sk=9 d=16") { /* |s| < 10: s^3 / (3 cap^2) is below 1e-9 */
        fap_problem x = p;
        fap_expect(&p);
        x.args.softcap = 1e6f;
        variant(&x, &p);
        FA_EXPECT(difference(&p, &x) <= 1e-9);
    }
}

/* -------------------------------------------------------------------------------------------- */
/* One thing said in two ways */

FA_TEST(gqa_is_repeated_heads) {
    fap_problem x, y;
    WITH(x, "b=2 hq=6 hk=2 sq=9 sk=14 d=16 causal=1") WITH(y, "b=2 hq=6 hk=6 sq=9 sk=14 d=16 causal=1") {
        for (int b = 0; b < 2; b++)
            for (int h = 0; h < 6; h++)
                for (int i = 0; i < 14; i++)
                    for (int d = 0; d < 16; d++) {
                        set_k(&y, b, h, i, d,
                              (double)fa_load(x.k.data, fap_at_k(&x, &x.k, b, i, h / 3) + d, FA_F32));
                        set_v(&y, b, h, i, d,
                              (double)fa_load(x.v.data, fap_at_k(&x, &x.v, b, i, h / 3) + d, FA_F32));
                        if (i < 9)
                            set_q(&y, b, h, i, d,
                                  (double)fa_load(x.q.data, fap_at_q(&x, &x.q, b, i, h) + d, FA_F32));
                    }
        fap_expect(&x), fap_expect(&y);
        FA_EXPECT(difference(&x, &y) == 0);
    }
}

/* The place of a tensor in memory does not matter. */
FA_TEST(layouts_and_pages) {
    static const char *const sizes[] = {
        "b=3 hq=4 hk=2 sq=13 sk=29 d=32 dv=16 causal=1 seed=3",
        "b=3 hq=4 hk=2 sq=13 sk=29 d=16 dtype=bf16 kv=e4m3 descale=3 used=1 seed=4",
        "b=1 hq=6 hk=1 sq=13 sk=29 d=16 dtype=f16 bm=4 tree=1 bias=2 used=2 seed=5"};
    static const char *const places[] = {
        "layout=bhsd",       "layout=padded",       "layout=qkv",          "page=1",
        "page=7 layout=qkv", "page=64 layout=bhsd", "page=4 layout=padded"};
    for (int s = 0; s < 3; s++)
        for (int l = 0; l < 7; l++) {
            char line[200];
            sprintf(line, "%s %s", sizes[s], places[l]);
            expect_same(sizes[s], line, 0);
        }
    /* broadcast over the batch: as a batch of copies */
    fap_problem p, q;
    WITH(p, "b=3 hq=4 hk=2 sq=7 sk=9 d=16 layout=bcast") WITH(q, "b=3 hq=4 hk=2 sq=7 sk=9 d=16") {
        for (int b = 0; b < 3; b++)
            for (int h = 0; h < 4; h++)
                for (int i = 0; i < 9; i++)
                    for (int d = 0; d < 16; d++) {
                        if (i < 7)
                            set_q(&q, b, h, i, d,
                                  (double)fa_load(p.q.data, fap_at_q(&p, &p.q, b, i, h) + d, FA_F32));
                        set_k(&q, b, h / 2, i, d,
                              (double)fa_load(p.k.data, fap_at_k(&p, &p.k, 0, i, h / 2) + d, FA_F32));
                        set_v(&q, b, h / 2, i, d,
                              (double)fa_load(p.v.data, fap_at_k(&p, &p.v, 0, i, h / 2) + d, FA_F32));
                    }
        fap_expect(&p), fap_expect(&q);
        FA_EXPECT(difference(&p, &q) == 0);
    }
}

/* Each sequence of a varlen batch, alone, by pointers to its first rows. */
FA_TEST(varlen_is_separate_calls) {
    static const char *const lines[] = {
        "b=6 hq=4 hk=2 sq=11 sk=17 d=16 varlen=1 causal=1 seed=9",
        "b=6 hq=4 hk=2 sq=11 sk=17 d=16 varlen=1 used=1 wl=5 alibi=1 layout=padded seed=8",
        "b=6 hq=4 hk=2 sq=11 sk=17 d=16 used=1 wl=5 wr=2 layout=bhsd seed=7"};
    for (int n = 0; n < 3; n++) {
        fap_problem p;
        WITH(p, lines[n]) {
            double o[4 * 17 * 16], lse[4 * 17], row[17 + 512];
            fap_expect(&p);
            for (int b = 0; b < 6; b++) {
                fa_args a = p.args;
                if (!p.len_q[b]) continue;
                a.batch = 1, a.seqlen_q = p.len_q[b], a.seqlen_k = p.len_k[b];
                a.cu_seqlens_q = a.cu_seqlens_k = a.seqused_q = a.seqused_k = NULL;
                a.q.data = p.q.data + 4 * fap_at_q(&p, &p.q, b, 0, 0), a.q.stride_s = p.q.ss,
                a.q.stride_h = p.q.sh;
                a.k.data = p.k.data + 4 * fap_at_k(&p, &p.k, b, 0, 0), a.k.stride_s = p.k.ss,
                a.k.stride_h = p.k.sh;
                a.v.data = p.v.data + 4 * fap_at_k(&p, &p.v, b, 0, 0), a.v.stride_s = p.v.ss,
                a.v.stride_h = p.v.sh;
                if (a.alibi_slopes) a.alibi_slopes += b * a.alibi_stride_b;
                FA_EXPECT(fa_reference_forward(&p.info, &a, o, lse, row) == FA_OK);
                for (int h = 0; h < 4; h++)
                    for (int i = 0; i < p.len_q[b]; i++) {
                        FA_EXPECT(lse[h * p.len_q[b] + i] == get_lse(&p, b, h, i));
                        for (int d = 0; d < 16; d++)
                            FA_EXPECT(o[(i * 4 + h) * 16 + d] == get_o(&p, b, h, i, d));
                    }
            }
        }
    }
}

static double add_mod(double s, int b, int h, int i, int j) {
    return s + 0.25 * b - h * 0.5 + 0.125 * (i - j);
}
static int diagonal_mod(int b, int h, int i, int j) { return (void)b, (void)h, j <= i + 4 && i + 4 - j < 6; }
static int even_tiles_mod(int b, int h, int i, int j) { return ((b + h + i / 4 + j / 4) & 1) == 0; }

FA_TEST(masks_said_twice) {
    expect_same("b=2 hq=2 sq=40 sk=50 d=16 tree=2", "b=2 hq=2 sq=40 sk=50 d=16 causal=1", 0);
    expect_same("b=4 hq=2 sq=40 sk=50 d=16 varlen=1 tree=2",
                "b=4 hq=2 sq=40 sk=50 d=16 varlen=1 tree=2 causal=1", 0);
    expect_same("hq=2 sq=8 sk=12 d=16 causal=1 wl=3", "hq=2 sq=8 sk=12 d=16 wl=3 wr=1", 0);
    fap_problem p;
    WITH(p, "b=2 hq=2 sq=8 sk=12 d=16") {
        fap_problem x = p, y = p;
        unsigned char tiles[2 * 2 * 2 * 3];
        x.args.causal = 1, x.args.window_left = 6, y.info.mask_mod = diagonal_mod; /* position i + 4 */
        fap_expect(&p), variant(&x, &p), variant(&y, &p);
        FA_EXPECT(difference(&x, &y) == 0 && difference(&p, &x) > 0);

        memset(tiles, 255, sizeof tiles); /* 4 x 4 tiles that all exist: no mask at all */
        x = y = p;
        x.args.block_mask.data = tiles, x.args.block_mask.block_q = x.args.block_mask.block_k = 4;
        variant(&x, &p);
        FA_EXPECT(difference(&x, &p) == 0);
        for (int n = 0; n < 24; n++) tiles[n] = ((n / 12 + n / 6 % 2 + n / 3 % 2 + n % 3) & 1) == 0;
        y.info.mask_mod = even_tiles_mod;
        variant(&x, &p), variant(&y, &p);
        FA_EXPECT(difference(&x, &y) == 0 && difference(&p, &x) > 0);
    }
}

FA_TEST(bias_is_a_score_mod) {
    fap_problem p;
    WITH(p, "b=2 hq=2 sq=8 sk=12 d=16 bias=1") {
        for (int n = 0; n < 2 * 2 * 8 * 12; n++)
            ((float *)(uintptr_t)p.args.bias.data)[n] =
                (float)add_mod(0, n / 192, n / 96 % 2, n / 12 % 8, n % 12); /* exact */
        fap_problem x = p;
        x.args.bias.data = NULL, x.info.score_mod = add_mod;
        fap_expect(&p), variant(&x, &p);
        FA_EXPECT(difference(&p, &x) <= 1e-14);
    }
    WITH(p, "hq=1 sq=3 sk=5 d=16 bias=1") { /* a bias of -inf weighs nothing; a row of them is empty */
        for (int n = 0; n < 15; n++)
            ((float *)(uintptr_t)p.args.bias.data)[n] = n < 5 || n % 5 == 2 ? -INFINITY : 0;
        zero_keys(&p);
        fap_expect(&p);
        FA_EXPECT(get_lse(&p, 0, 0, 0) == -INFINITY && get_o(&p, 0, 0, 0, 0) == 0);
        FA_EXPECT_NEAR(get_lse(&p, 0, 0, 1), log(4), 1e-14);
    }
}

/* Codes times factors, in f32, are the same problem (the products are exact: factors of few bits). */
FA_TEST(descale_multiplies) {
    static const char *const lines[] = {"b=2 hq=4 hk=2 sq=70 sk=130 d=16 dtype=e4m3 descale=1",
                                        "b=2 hq=4 hk=2 sq=70 sk=130 d=16 dtype=e5m2 descale=2",
                                        "b=2 hq=4 hk=2 sq=70 sk=130 d=16 dtype=e4m3 descale=3"};
    for (int n = 0; n < 3; n++) {
        fap_problem p, f;
        WITH(p, lines[n]) WITH(f, "b=2 hq=4 hk=2 sq=70 sk=130 d=16") {
            fa_descale *all[3] = {&p.args.q_descale, &p.args.k_descale, &p.args.v_descale};
            for (int t = 0; t < 3; t++)
                for (int x = 0; x < 2 * (t ? 2 : 4) * (n < 2 ? 1 : t ? 4 : 3); x++) {
                    float *factor = (float *)(uintptr_t)all[t]->data + x;
                    *factor = floorf(*factor * 16) / 16;
                }
            for (int b = 0; b < 2; b++)
                for (int h = 0; h < 4; h++)
                    for (int i = 0; i < 130; i++)
                        for (int d = 0; d < 16; d++) {
                            fa_dtype e = p.spec.dtype;
                            int block = n == 2 ? i / 64 : 0, hk = h / 2;
                            int at_q = n == 0 ? 0 : n == 1 ? b * 4 + h : (b * 4 + h) * 3 + block;
                            int at_k = n == 0 ? 0 : n == 1 ? b * 2 + hk : (b * 2 + hk) * 4 + block;
                            float x = fa_load(p.k.data, ((b * 130 + i) * 2 + hk) * 16 + d, e);
                            float y = fa_load(p.v.data, ((b * 130 + i) * 2 + hk) * 16 + d, e);
                            set_k(&f, b, hk, i, d, (double)(x * p.args.k_descale.data[at_k]));
                            set_v(&f, b, hk, i, d, (double)(y * p.args.v_descale.data[at_k]));
                            if (i >= 70) continue;
                            x = fa_load(p.q.data, ((b * 70 + i) * 4 + h) * 16 + d, e);
                            set_q(&f, b, h, i, d, (double)(x * p.args.q_descale.data[at_q]));
                        }
            fap_expect(&p), fap_expect(&f);
            FA_EXPECT_NEAR(difference(&p, &f), 0, 1e-12);
        }
    }
}

/* v = identity makes O the matrix Z P.  Z as the contract words it, lse and P as without dropout. */
FA_TEST(dropout_recomputed) {
    fap_problem x, y;
    WITH(x, "b=2 hq=2 sq=40 sk=64 d=16 dv=64") WITH(y, "b=2 hq=2 sq=40 sk=64 d=16 dv=64 drop=0.3") {
        int dropped = 0;
        uint64_t seed = y.args.dropout_seed;
        for (int n = 0; n < 2 * 2 * 64 * 64; n++) {
            set_v(&x, n / 8192, n / 4096 % 2, n / 64 % 64, n % 64, n / 64 % 64 == n % 64);
            set_v(&y, n / 8192, n / 4096 % 2, n / 64 % 64, n % 64, n / 64 % 64 == n % 64);
        }
        fap_expect(&x), fap_expect(&y);
        for (int n = 0; n < 2 * 2 * 40 * 64; n++) {
            int b = n / 5120, h = n / 2560 % 2, i = n / 64 % 40, j = n % 64, drop;
            uint32_t counter[4] = {(uint32_t)j >> 3, (uint32_t)i, (uint32_t)(b * 2 + h),
                                   y.args.dropout_offset};
            uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)}, word[4];
            fa_philox4x32_10(counter, key, word);
            drop = (word[(j & 7) >> 1] >> 16 * (j & 1) & 0xffff) < 19661; /* round(0.3 * 65536) */
            dropped += drop;
            FA_EXPECT_NEAR(get_o(&y, b, h, i, j), drop ? 0 : get_o(&x, b, h, i, j) / (1 - 19661 / 65536.0),
                           1e-7);
            FA_EXPECT(get_lse(&y, b, h, i) == get_lse(&x, b, h, i));
        }
        FA_EXPECT_NEAR(dropped / 10240.0, 0.3, 0.02); /* 4.4 standard deviations */
    }
}

/* A NaN key makes NaN of the rows that see it, and of no other; with the whole batch of NaN around it. */
FA_TEST(masked_nan_is_not_looked_at) {
    fap_problem p;
    WITH(p, "b=3 hq=2 sq=9 sk=20 d=16 causal=1 varlen=1 nan=1 layout=padded seed=12") {
        int seen = 0, clean = 0;
        fap_expect(&p);
        for (int b = 0; b < 3; b++)
            for (int i = 0; i < p.len_q[b]; i++) {
                int sees = p.len_k[b] && i == p.len_q[b] - 1; /* the last query alone */
                FA_EXPECT(isnan(get_lse(&p, b, 1, i)) == sees && isnan(get_o(&p, b, 1, i, 5)) == sees);
                seen += sees, clean += !sees;
            }
        FA_EXPECT(seen && clean);
    }
    WITH(p, "hq=1 sq=1 sk=1 d=16 nan=1") { /* NaN is not nothing */
        fap_expect(&p);
        FA_EXPECT(isnan(get_lse(&p, 0, 0, 0)) && isnan(get_o(&p, 0, 0, 0, 0)));
    }
}

FA_TEST(reference_checks_its_arguments) {
    fap_problem p;
    WITH(p, "hq=2 sq=3 sk=5 d=16") {
        double row[5 + 512], grads_row[10 + 1024], lse[6];
        fa_reference_grads none = {NULL, NULL, NULL, NULL, NULL};
        fa_tensor d_o = {p.q.data, 0, 0, 0};
        FA_EXPECT(fa_reference_forward(&p.info, &p.args, NULL, NULL, row) == FA_OK);
        FA_EXPECT(fa_reference_forward(&p.info, &p.args, NULL, lse, row) == FA_OK && isfinite(lse[5]));
        FA_EXPECT(fa_reference_backward(&p.info, &p.args, d_o, &none, grads_row) == FA_OK);
        p.args.num_heads_k = 3;
        FA_EXPECT(fa_reference_forward(&p.info, &p.args, NULL, lse, row) == FA_ERR_NUM_HEADS_K);
        FA_EXPECT(fa_reference_backward(&p.info, &p.args, d_o, &none, grads_row) == FA_ERR_NUM_HEADS_K);
    }
}

/* -------------------------------------------------------------------------------------------- */
/* Backward */

typedef struct gradients {
    fa_reference_grads g;
    fa_tensor d_o;
    int64_t rows_k;
} gradients;

static double *doubles(fap_problem *p, int64_t n) { return (double *)(void *)fap_alloc(p, (n + 1) * 8); }

/* Gradients of L = sum dO O, for a dO of normal numbers that lies as o does (NaN around it). */
static gradients backward(fap_problem *p) {
    fap_spec *s = &p->spec;
    gradients r;
    uint64_t rng = 99;
    char *copy = fap_alloc(p, (int64_t)p->o.size);
    double *row = doubles(p, 2 * s->sk + 4 * 256);
    fap_place t = p->o.place;
    t.data = copy + (p->o.place.data - (char *)p->o.bytes);
    for (int b = 0; b < s->b; b++)
        for (int h = 0; h < s->hq; h++)
            for (int i = 0; i < p->len_q[b]; i++)
                fap_fill_row(&t, fap_at_q(p, &t, b, i, h), s->dv, 1, &rng, 0);
    r.d_o.data = t.data;
    r.d_o.stride_b = p->args.o.stride_b, r.d_o.stride_s = p->args.o.stride_s,
    r.d_o.stride_h = p->args.o.stride_h;
    r.rows_k = p->args.cu_seqlens_k ? p->args.cu_seqlens_k[s->b] : (int64_t)s->b * s->sk;
    r.g.dq = doubles(p, p->rows * s->hq * s->d);
    r.g.dk = doubles(p, r.rows_k * s->hk * s->d), r.g.dv = doubles(p, r.rows_k * s->hk * s->dv);
    r.g.dbias = doubles(p, (int64_t)s->b * s->hq * s->sq * s->sk), r.g.dsink = doubles(p, s->hq);
    FA_EXPECT(fa_reference_backward(&p->info, &p->args, r.d_o, &r.g, row) == FA_OK);
    return r;
}

/* L, by the forward reference. */
static double loss(const fap_problem *p, const gradients *g, double *o, double *row) {
    const fap_spec *s = &p->spec;
    double sum = 0;
    if (fa_reference_forward(&p->info, &p->args, o, NULL, row)) return NAN;
    for (int b = 0; b < s->b; b++)
        for (int h = 0; h < s->hq; h++)
            for (int i = 0; i < p->len_q[b]; i++)
                for (int d = 0; d < s->dv; d++)
                    sum += o[(fap_row(p, b, i) * s->hq + h) * s->dv + d] *
                           (double)fa_load(g->d_o.data, fap_at_q(p, &p->o.place, b, i, h) + d, s->out);
    return sum;
}

/* dL/dx by central differences with steps 2^-6 and 2^-7 and one extrapolation: error of order step^4.  x is a
 * multiple of 2^-12, so that x + step is exact. */
static double slope(const fap_problem *p, const gradients *g, float *x, double *o, double *row) {
    double slopes[2];
    float keep = *x;
    for (int n = 0; n < 2; n++) {
        float step = n ? 0x1p-7f : 0x1p-6f;
        *x = keep + step, slopes[n] = loss(p, g, o, row);
        *x = keep - step, slopes[n] = (slopes[n] - loss(p, g, o, row)) / (2 * (double)step);
    }
    *x = keep;
    return (4 * slopes[1] - slopes[0]) / 3;
}

static void to_grid(float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] = floorf(x[i] * 4096 + 0.5f) / 4096;
}
static void row_to_grid(const fap_place *t, int64_t at, int n) { to_grid((float *)(void *)t->data + at, n); }

static double worse(double worst, double error) {
    return fabs(error) <= worst ? worst : isnan(error) ? INFINITY : fabs(error);
}

/* Worst difference between the reference's gradients and central differences, of every third element. */
static double backward_error(const char *line, double (*mod)(double, int, int, int, int),
                             double (*mod_grad)(double, int, int, int, int)) {
    fap_problem p;
    double worst = 0;
    WITH(p, line) {
        fap_spec *s = &p.spec;
        double *o, *row;
        gradients g;
        p.info.score_mod = mod, p.info.score_mod_grad = mod_grad;
        for (int b = 0; b < s->b; b++)
            for (int h = 0; h < s->hq; h++) {
                for (int i = 0; i < p.len_q[b]; i++) row_to_grid(&p.q, fap_at_q(&p, &p.q, b, i, h), s->d);
                for (int j = 0; j < p.len_k[b] && h < s->hk; j++) {
                    row_to_grid(&p.k, fap_at_k(&p, &p.k, b, j, h), s->d);
                    row_to_grid(&p.v, fap_at_k(&p, &p.v, b, j, h), s->dv);
                }
            }
        if (p.args.sink) to_grid((float *)(uintptr_t)p.args.sink, s->hq);
        if (s->bias == 1) to_grid((float *)(uintptr_t)p.args.bias.data, s->b * s->hq * s->sq * s->sk);
        g = backward(&p);
        o = doubles(&p, p.rows * s->hq * s->dv), row = doubles(&p, s->sk + 512);
#define CHECK(at, got) worst = worse(worst, slope(&p, &g, (float *)(void *)(at), o, row) - (got))
        for (int b = 0; b < s->b; b++)
            for (int h = 0; h < s->hq; h++) {
                for (int i = 0; i < p.len_q[b]; i++)
                    for (int d = (i + h) % 3; d < s->d; d += 3)
                        CHECK(p.q.data + 4 * (fap_at_q(&p, &p.q, b, i, h) + d),
                              g.g.dq[(fap_row(&p, b, i) * s->hq + h) * s->d + d]);
                for (int j = 0; j < p.len_k[b] && h < s->hk; j++) {
                    int64_t at = ((p.args.cu_seqlens_k ? p.row_k[b] : b * s->sk) + j) * s->hk + h;
                    if (isnan(fa_load(p.k.data, fap_at_k(&p, &p.k, b, j, h), FA_F32)))
                        continue; /* nobody sees it */
                    for (int d = (j + h) % 3; d < s->d; d += 3)
                        CHECK(p.k.data + 4 * (fap_at_k(&p, &p.k, b, j, h) + d), g.g.dk[at * s->d + d]);
                    for (int d = (j + h) % 3; d < s->dv; d += 3)
                        CHECK(p.v.data + 4 * (fap_at_k(&p, &p.v, b, j, h) + d), g.g.dv[at * s->dv + d]);
                }
                if (p.args.sink && b == 0) CHECK((uintptr_t)(p.args.sink + h), g.g.dsink[h]);
            }
        for (int n = 0; n < s->b * s->hq * s->sq * s->sk && s->bias == 1; n++) {
            float *x = (float *)(uintptr_t)p.args.bias.data + n;
            if (isnan(*x))
                FA_EXPECT(g.g.dbias[n] == 0);
            else
                CHECK(x, g.g.dbias[n]);
        }
#undef CHECK
    }
    return worst;
}

static double tanh_mod(double s, int b, int h, int i, int j) {
    return tanh(s) * (1 + 0.5 * h) + 0.1 * ((b + i + j) % 3);
}
static double tanh_mod_grad(double s, int b, int h, int i, int j) {
    (void)b, (void)i, (void)j;
    return (1 - tanh(s) * tanh(s)) * (1 + 0.5 * h);
}

FA_TEST(backward_is_the_derivative) {
    static const char *const features[] = {
        "",
        "hk=1",
        "causal=1",
        "wl=3 wr=2",
        "varlen=1 b=4",
        "used=1 b=4",
        "page=2",
        "softcap=2",
        "alibi=1",
        "bias=1",
        "drop=0.4",
        "sink=1",
        "bm=2",
        "tree=1 sq=4 sk=7",
        "scale=0.7",
        "layout=padded",
        "layout=qkv",
        "sq=7 sk=4 causal=1 sink=1",
        "b=3 hk=1 varlen=1 page=2 causal=1 wl=4 softcap=3 alibi=2 bias=1 drop=0.2 sink=1 layout=padded",
        "b=3 used=1 bm=2 tree=1 bias=1 softcap=3 drop=0.2 sink=1 layout=bhsd sq=3"};
    for (int n = 0; n < 20; n++) {
        char line[200];
        sprintf(line, "b=2 hq=2 hk=2 sq=5 sk=7 d=16 dv=16 %s", features[n]);
        double e = backward_error(line, NULL, NULL);
        FA_EXPECT_MSG(e < 2e-7, "error %g: %s", e, line);
        e = n % 4 == 1 ? backward_error(line, tanh_mod, tanh_mod_grad) : 0;
        FA_EXPECT_MSG(e < 2e-7, "error %g with score_mod: %s", e, line);
    }
    double wrong =
        backward_error("hq=2 sq=5 sk=7 d=16", tanh_mod, NULL); /* a missing derivative must not pass */
    FA_EXPECT(wrong == INFINITY);
}

/* Sums that vanish or agree whatever the data. */
FA_TEST(backward_identities) {
    static const char *const lines[] = {
        "b=2 hq=4 hk=2 sq=11 sk=19 d=16 dtype=bf16 causal=1 wl=5",
        "b=2 hq=4 hk=2 sq=11 sk=19 d=32 dv=16 dtype=f16 bias=2 alibi=1 drop=0.2 layout=padded",
        "b=4 hq=4 hk=1 sq=11 sk=19 d=16 sink=1 varlen=1 drop=0.2 layout=bhsd"};
    for (int n = 0; n < 3; n++) {
        fap_problem p;
        WITH(p, lines[n]) {
            const fap_spec *s = &p.spec;
            gradients g = backward(&p);
            double qdq = 0, kdk = 0;
            for (int h = 0; h < s->hq; h++) { /* sum_j dS_ij = 0; with a sink the rest is the sink's */
                double head = 0;
                for (int b = 0; b < s->b; b++)
                    for (int i = 0; i < s->sq; i++) {
                        double row = 0;
                        for (int j = 0; j < s->sk; j++)
                            row += g.g.dbias[((int64_t)(b * s->hq + h) * s->sq + i) * s->sk + j];
                        head += row;
                        if (!s->sink) FA_EXPECT_NEAR(row, 0, 1e-13);
                    }
                FA_EXPECT_NEAR(head + g.g.dsink[h], 0, 1e-12);
            }
            for (int b = 0; b < s->b; b++) /* both are sum_ij dS_ij s_ij */
                for (int h = 0; h < s->hq; h++) {
                    for (int i = 0; i < p.len_q[b]; i++)
                        for (int d = 0; d < s->d; d++)
                            qdq += (double)fa_load(p.q.data, fap_at_q(&p, &p.q, b, i, h) + d, s->dtype) *
                                   g.g.dq[(fap_row(&p, b, i) * s->hq + h) * s->d + d];
                    for (int j = 0; j < p.len_k[b] && h < s->hk; j++)
                        for (int d = 0; d < s->d; d++) {
                            int64_t at = (p.args.cu_seqlens_k ? p.row_k[b] : b * s->sk) + j;
                            double k = (double)fa_load(p.k.data, fap_at_k(&p, &p.k, b, j, h) + d, s->kv);
                            if (!isnan(k)) kdk += k * g.g.dk[(at * s->hk + h) * s->d + d];
                        }
                }
            FA_EXPECT_NEAR(qdq, kdk, 1e-11);
            FA_EXPECT(fabs(qdq) > 1e-3);
        }
    }
}

/* For fp8 the gradient is by the code: that of the value, times its factor. */
FA_TEST(backward_descale) {
    fap_problem p, f;
    WITH(p, "hq=2 sq=5 sk=7 d=16 dtype=e4m3 out=f32 descale=2") WITH(f, "hq=2 sq=5 sk=7 d=16") {
        for (int h = 0; h < 2; h++)
            for (int j = 0; j < 7; j++)
                for (int d = 0; d < 16; d++) {
                    float *factors[3] = {(float *)(uintptr_t)p.args.q_descale.data,
                                         (float *)(uintptr_t)p.args.k_descale.data,
                                         (float *)(uintptr_t)p.args.v_descale.data};
                    for (int t = 0; t < 3; t++) factors[t][h] = (float)(1 << t) + (float)h / 2;
                    if (j < 5)
                        set_q(&f, 0, h, j, d,
                              (double)(factors[0][h] * fa_load(p.q.data, (j * 2 + h) * 16 + d, FA_E4M3)));
                    set_k(&f, 0, h, j, d,
                          (double)(factors[1][h] * fa_load(p.k.data, (j * 2 + h) * 16 + d, FA_E4M3)));
                    set_v(&f, 0, h, j, d,
                          (double)(factors[2][h] * fa_load(p.v.data, (j * 2 + h) * 16 + d, FA_E4M3)));
                }
        gradients gp = backward(&p), gf = backward(&f);
        for (int n = 0; n < 7 * 2 * 16; n++) {
            double half = n / 16 % 2 * 0.5;
            if (n < 5 * 2 * 16) FA_EXPECT_NEAR(gp.g.dq[n], (1 + half) * gf.g.dq[n], 1e-12);
            FA_EXPECT_NEAR(gp.g.dk[n], (2 + half) * gf.g.dk[n], 1e-12);
            FA_EXPECT_NEAR(gp.g.dv[n], (4 + half) * gf.g.dv[n], 1e-12);
        }
    }
}

/* -------------------------------------------------------------------------------------------- */
/* I/O model */

static int visible(int causal, int64_t i, int64_t j, int64_t nq, int64_t nk) {
    return !causal || j <= i + nk - nq;
}

FA_TEST(io_model_counts_tiles) {
    static const int sizes[][2] = {{1, 1}, {7, 7}, {5, 12}, {12, 5}, {16, 16}, {1, 30}, {33, 64}};
    static const int blocks[][2] = {{1, 1}, {4, 4}, {3, 5}, {8, 2}, {64, 64}};
    for (int n = 0; n < 7 * 5 * 2; n++) {
        int nq = sizes[n % 7][0], nk = sizes[n % 7][1], bm = blocks[n / 7 % 5][0], bn = blocks[n / 7 % 5][1],
            causal = n / 35;
        int64_t full = 0, partial = 0, skipped = 0, scores = 0;
        double forward = 0, back = 0; /* bytes, tile by tile; d = 16, dv = 8, 2 bytes an element */
        for (int i0 = 0; i0 < nq; i0 += bm) {
            int rows = nq - i0 < bm ? nq - i0 : bm;
            forward += rows * (2 * (16 + 8) + 4);
            back += rows * (2 * 8 + 2 * 8 + 4 + 4 * 16 + (4 + 2) * 16); /* dO, O, D; clear dQ, convert it */
            for (int j0 = 0; j0 < nk; j0 += bn) {
                int cols = nk - j0 < bn ? nk - j0 : bn, seen = 0;
                for (int x = 0; x < rows * cols; x++)
                    seen += visible(causal, i0 + x / cols, j0 + x % cols, nq, nk);
                scores += seen;
                if (!seen)
                    skipped++;
                else if (seen == rows * cols && cols == bn)
                    full++;
                else
                    partial++;
                if (seen)
                    forward += cols * 2 * (16 + 8), back += rows * (2 * 16 + 2 * 8 + 4 + 4 + 4 * 16 * 2);
            }
        }
        back += 2.0 * nk * 2 * (16 + 8);
        fa_io f = fa_io_model(3, 2, nq, nk, 16, 8, 2, causal, bm, bn, 1 << 16, 0);
        fa_io r = fa_io_model(3, 2, nq, nk, 16, 8, 2, causal, bm, bn, 1 << 16, 1);
        FA_EXPECT_MSG(f.tiles_full == full && f.tiles_partial == partial && f.tiles_skipped == skipped,
                      "%dx%d by %dx%d causal %d", nq, nk, bm, bn, causal);
        FA_EXPECT_NEAR(f.flops, 6.0 * (double)scores * 2 * (16 + 8), 0);
        FA_EXPECT_NEAR(r.flops, 6.0 * (double)scores * (6 * 16 + 4 * 8), 0);
        FA_EXPECT_NEAR(f.bytes_flash, 6 * forward, 0);
        FA_EXPECT_NEAR(r.bytes_flash, 6 * back, 0);
        FA_EXPECT_NEAR(f.bytes_standard, 6.0 * 2 * ((nq + nk) * 24 + 4 * nq * nk), 0);
        FA_EXPECT_NEAR(r.bytes_standard, 6.0 * 2 * (2 * (nq + nk) * 24 + 7 * nq * nk), 0);
    }
}

FA_TEST(io_model_closed_forms) {
    const int64_t n = 4096, d = 64, tiles = n / 128; /* square, 128 x 128 tiles */
    fa_io all = fa_io_model(1, 1, n, n, d, d, 2, 0, 128, 128, 192 * 1024, 0);
    fa_io causal = fa_io_model(1, 1, n, n, d, d, 2, 1, 128, 128, 192 * 1024, 0);
    fa_io back = fa_io_model(1, 1, n, n, d, d, 2, 0, 128, 128, 192 * 1024, 1);
    FA_EXPECT(all.tiles_full == tiles * tiles && all.tiles_partial == 0 && all.tiles_skipped == 0);
    FA_EXPECT(causal.tiles_partial == tiles && causal.tiles_full == tiles * (tiles - 1) / 2);
    FA_EXPECT(causal.tiles_skipped == causal.tiles_full);
    FA_EXPECT_NEAR(all.flops, 4.0 * (double)(n * n * d), 0);
    FA_EXPECT_NEAR(causal.flops, 2.0 * (double)(n * (n + 1) * d), 0);
    FA_EXPECT_NEAR(back.flops / all.flops, 2.5, 0); /* the field's convention */
    FA_EXPECT_NEAR(all.bytes_standard, 2.0 * (double)(4 * n * d + 4 * n * n), 0);
    FA_EXPECT_NEAR(all.bytes_flash, 2.0 * (double)(2 * n * d + tiles * 2 * n * d) + 4.0 * (double)n, 0);
    FA_EXPECT(all.bytes_minimum < all.bytes_flash && causal.bytes_flash < all.bytes_flash);
    FA_EXPECT(back.bytes_minimum < back.bytes_flash && back.bytes_flash < back.bytes_standard);
    /* the theorem, N^2 d^2 / M accesses: twice N makes four times as many; tiles of 4 times the rows,
     * which need 4 times the memory, a quarter of those of K and V */
    fa_io twice = fa_io_model(1, 1, 2 * n, 2 * n, d, d, 2, 0, 128, 128, 192 * 1024, 0);
    fa_io large = fa_io_model(1, 1, n, n, d, d, 2, 0, 512, 128, 4 * 192 * 1024, 0);
    double once = all.bytes_minimum;
    FA_EXPECT_NEAR((twice.bytes_flash - 2 * once) / (all.bytes_flash - once), 4, 0.15);
    FA_EXPECT_NEAR((all.bytes_flash - once / 2) / (large.bytes_flash - once / 2), 4, 0.05);
    FA_EXPECT_NEAR(twice.order_flash / all.order_flash, 4, 1e-12);
    FA_EXPECT_NEAR(all.order_flash / large.order_flash, 4, 1e-12);
    FA_EXPECT_NEAR(all.order_flash, (double)(n * n * d * d) / (192 * 1024 / 2), 1e-6);
    FA_EXPECT_NEAR(all.order_standard, (double)(n * d + n * n), 0);
}

/* Attention of GPT-2 medium, forward + backward, as [FA1] Figure 2, left, measured it on an A100: N 1024, d 64,
 * 16 heads, batch 64, f16; standard 66.6 GFLOP and 40.3 GB of HBM traffic, flash 75.2 and 4.4. The model has the
 * products alone, of all heads, and no mask, dropout or cache: see examples/why_flash.c. */
FA_TEST(io_model_gpt2) {
    const int64_t b = 64, h = 16, n = 1024, d = 64, sram = 192 * 1024;
    const int64_t held = sram / 2 / (4 * d); /* 384 rows of a tile [FA1 Alg. 1] */
    fa_io f = fa_io_model(b, h, n, n, d, d, 2, 0, held, d, sram, 0);
    fa_io r = fa_io_model(b, h, n, n, d, d, 2, 0, d, held, sram, 1);
    const double matrix = (double)(b * h * n * n), product = 2 * matrix * (double)d;
    const double standard = f.bytes_standard + r.bytes_standard, flash = f.bytes_flash + r.bytes_flash;
    const double once = f.bytes_minimum + r.bytes_minimum;
    FA_EXPECT_NEAR(f.flops + r.flops, 7 * product, 0); /* one of them is Q K^T again */
    FA_EXPECT_NEAR((f.flops + r.flops) * 1e-9, 962.07, 0.01);
    FA_EXPECT_NEAR((75.2 - 66.6) * 1e9 * 16 / product, 1, 0.01); /* as if one head in 16 were counted */
    FA_EXPECT_NEAR(standard, 11 * 2 * matrix + 2 * 12.0 * (double)(b * h * n * d), 0);
    FA_EXPECT_NEAR(standard * 1e-9, 25.23, 0.01);
    FA_EXPECT(standard < 40.3e9 && once < 4.4e9 && 4.4e9 < flash && flash < 1.2 * 4.4e9);
    FA_EXPECT(f.order_flash < f.order_standard / 10);
    /* per key tile, each row: Q, dO, LSE, D and dQ, read and written in f32 */
    const double tiles = 3, rows = (double)(b * h * n);
    FA_EXPECT_NEAR(f.bytes_flash, rows * (2 * 2 * 64 + 4 + tiles * 2 * 2 * 64), 0);
    FA_EXPECT_NEAR(r.bytes_flash, rows * (4 * 64 + 4 + 8 * 64 + 10 * 64 + tiles * (4 * 64 + 8 + 8 * 64)), 0);
}

/* -------------------------------------------------------------------------------------------- */
/* The problem builder and the judge */

FA_TEST(lines_round_trip) {
    uint64_t rng = fat_seed;
    for (int n = 0; n < 200; n++) {
        char line[512], copy[512], *first, *second;
        fap_spec s;
        first = fap_random(line, &rng, FA_ALL_FEATURES, 300, 300);
        FA_REQUIRE(fap_parse(&s, first));
        second = fap_print(&s, copy);
        FA_EXPECT_MSG(!strcmp(first, second), "%s | %s", first, second);
    }
    fap_spec s;
    FA_EXPECT(fap_parse(&s, "dtype=bf16 layout=qkv drop=0.25  seed=7") && s.dtype == FA_BF16 &&
              s.layout == FAP_QKV);
    FA_EXPECT(s.drop == 0.25 && s.seed == 7 && s.b == 1);
}

/* Tiled attention in the precision of the problem: online softmax over tiles of 16 keys, P not
 * normalised before it is rounded.  What kernels do, and what the judge must accept. */
static void tiled(const fap_problem *p, float *o, float *lse) {
    const fap_spec *s = &p->spec;
    const fa_args *a = &p->args;
    float scale = a->softmax_scale != 0 ? a->softmax_scale : 1 / sqrtf((float)s->d), k[256], v[256], q[256],
          acc[256];
    for (int n = 0; n < s->b * s->hq; n++) {
        int b = n / s->hq, h = n % s->hq, hk = h / (s->hq / s->hk);
        fa_sequence seq = fa_get_sequence(a, b);
        for (int i = 0; i < seq.len_q; i++) {
            float max = a->sink ? a->sink[h] : -INFINITY, sum = a->sink ? 1.0f : 0.0f, scores[16];
            memset(acc, 0, sizeof acc);
            for (int d = 0; d < s->d; d++)
                q[d] = fa_load(p->q.data, fap_at_q(p, &p->q, b, i, h) + d, s->dtype) *
                       fai_descale(a, &a->q_descale, b, h, i);
            for (int j0 = 0; j0 < seq.len_k; j0 += 16) {
                float old = max, rescale;
                int end = seq.len_k - j0 < 16 ? seq.len_k - j0 : 16;
                for (int j = 0; j < end; j++) {
                    scores[j] = -INFINITY;
                    if (!fap_visible(p, b, h, i, j0 + j)) continue;
                    for (int d = 0; d < s->d; d++)
                        k[d] = fa_load(p->k.data, fap_at_k(p, &p->k, b, j0 + j, hk) + d, s->kv);
                    scores[j] = fap_dot(q, k, s->d) * fai_descale(a, &a->k_descale, b, hk, j0 + j) * scale;
                    scores[j] = fap_score(p, &seq, h, i, j0 + j, scores[j]);
                    max = fmaxf(max, scores[j]);
                }
                if (max == -INFINITY) continue;
                rescale = expf(old - max), sum *= rescale;
                for (int d = 0; d < s->dv; d++) acc[d] *= rescale;
                for (int j = 0; j < end; j++) {
                    float e = expf(scores[j] - max), w, factor = fai_descale(a, &a->v_descale, b, hk, j0 + j);
                    if (e == 0) continue;
                    sum += e,
                        w = s->dtype >= FA_E4M3 ? fap_round(e * 256, FA_E4M3) / 256 : fap_round(e, s->dtype);
                    if (a->dropout_p > 0)
                        w *= fa_dropout_keep(a, b, h, i, j0 + j) ? fa_dropout_scale(a->dropout_p) : 0;
                    if (w == 0) continue;
                    for (int d = 0; d < s->dv; d++)
                        v[d] = fa_load(p->v.data, fap_at_k(p, &p->v, b, j0 + j, hk) + d, s->kv);
                    for (int d = 0; d < s->dv; d++) acc[d] += w * (v[d] * factor);
                }
            }
            lse[fap_lse_index(p, b, h, i)] = max == -INFINITY ? max : max + logf(sum);
            for (int d = 0; d < s->dv; d++)
                o[(fap_row(p, b, i) * s->hq + h) * s->dv + d] = max == -INFINITY ? 0 : acc[d] / sum;
        }
    }
}

FA_TEST(judge_accepts_tiled_attention) {
    static const char *const types[] = {"dtype=f32", "dtype=f16", "dtype=bf16", "dtype=e4m3",
                                        "dtype=bf16 kv=e5m2"};
    uint64_t rng = fat_seed;
    for (int n = 0; n < 60; n++) {
        char random[512], line[600];
        fap_problem p;
        sprintf(line, "%s d=%d dv=%d %s", fap_random(random, &rng, FA_ALL_FEATURES, 113, 203),
                16 << fat_below(&rng, 4), 16 << fat_below(&rng, 4), types[n % 5]);
        WITH(p, line) {
            float *o = (float *)(void *)fap_alloc(&p, p.rows * p.spec.hq * p.spec.dv * 4);
            float *lse = (float *)(void *)fap_alloc(&p, p.rows * p.spec.hq * 4);
            tiled(&p, o, lse);
            fap_write(&p, o, lse);
            FA_EXPECT(fap_judge(&p, "tiled attention"));
        }
    }
}

static int dropped_key_mod(int b, int h, int i, int j) { return (void)b, (void)h, (void)i, j != 17; }
static int own_key_mod(int b, int h, int i, int j) { return (void)b, (void)h, j != i + 60; }
static int first_rows_mod(int b, int h, int i, int j) { return (void)b, (void)h, i >= 16 || j != 5; }

enum {
    SCALE,
    SEES_NEXT,
    MISSES_OWN,
    DROPPED_KEY,
    DROPPED_IN_16_ROWS,
    SWAPPED_HEADS,
    WRONG_KV_HEAD,
    NO_RESCALE,
    NUM_MUTANTS
};
static const char *const mutant_names[] = {
    "scale 1 % off",  "causal sees the next key",  "causal misses its own key",
    "key 17 dropped", "key 5 dropped for 16 rows", "heads 0 and 1 swapped",
    "kv head h % hk", "one row not normalised"};

/* Same-precision attention with a fault. */
static void mutant(const fap_problem *p, int which, float *o, float *lse) {
    fap_problem m = *p;
    int64_t row = (int64_t)p->spec.hq * p->spec.dv;
    m.args.softmax_scale = which == SCALE ? 1.01f / sqrtf((float)p->spec.d) : 0;
    if (which == SEES_NEXT) m.args.causal = 0, m.args.window_right = 2;
    if (which == MISSES_OWN) m.info.mask_mod = own_key_mod;
    if (which == DROPPED_KEY) m.info.mask_mod = dropped_key_mod;
    if (which == DROPPED_IN_16_ROWS) m.info.mask_mod = first_rows_mod;
    m.noise = NULL;
    fap_naive(&m, o, lse);
    for (int64_t r = 0; r < p->rows && (which == SWAPPED_HEADS || which == WRONG_KV_HEAD); r++)
        for (int d = 0; d < p->spec.dv; d++) { /* (heads 0 1 2 3 of kv heads 0 0 1 1) */
            int x = which == SWAPPED_HEADS ? 0 : p->spec.dv, y = x + p->spec.dv;
            float keep = o[r * row + x + d];
            o[r * row + x + d] = o[r * row + y + d], o[r * row + y + d] = keep;
        }
    for (int i = 0; i < p->spec.sq && which == SWAPPED_HEADS; i++) {
        float keep = lse[i];
        lse[i] = lse[p->spec.sq + i], lse[p->spec.sq + i] = keep;
    }
    if (which == NO_RESCALE)
        for (int d = 0; d < p->spec.dv; d++) o[20 * row + d] *= 1.03f;
}

/* Each mutant must be rejected for O alone, in dtypes in which it is not below rounding, and for lse
 * alone. */
FA_TEST(judge_rejects_mutants) {
    static const char *const types[] = {"dtype=f32", "dtype=f16", "dtype=bf16", "dtype=e4m3"};
    for (int n = 0; n < 4; n++)
        for (int which = 0; which < NUM_MUTANTS; which++) {
            char line[200];
            fap_problem p;
            sprintf(line, "hq=4 hk=2 sq=140 sk=200 d=64 causal=1 %s seed=%d", types[n],
                    (int)(fat_seed % 1000000));
            WITH(p, line) {
                int64_t rows = p.rows * 4;
                float *o = (float *)(void *)fap_alloc(&p, rows * 64 * 4),
                      *lse = (float *)(void *)fap_alloc(&p, rows * 4);
                fap_expect(&p);
                mutant(&p, which, o, lse);
                fap_write(&p, o, p.lse_naive);
                if (n < 3)
                    FA_EXPECT_MSG(!fap_compare(&p).ok, "O passed: %s, %s", mutant_names[which], types[n]);
                fap_write(&p, p.o_naive, lse);
                if (which < WRONG_KV_HEAD)
                    FA_EXPECT_MSG(!fap_compare(&p).ok, "lse passed: %s, %s", mutant_names[which], types[n]);
                fap_write(&p, p.o_naive, p.lse_naive);
                FA_EXPECT(fap_judge(&p, "what the mutants were made of"));
            }
        }
}

/* A byte outside, an element not written, a NaN, an infinity. */
FA_TEST(judge_sees_stray_bytes) {
    fap_problem p;
    WITH(p, "b=2 hq=2 sq=10 sk=20 d=16 dtype=bf16 layout=padded used=1 seed=5") {
        fap_expect(&p);
        fap_write(&p, p.o_naive, p.lse_naive);
        FA_EXPECT(fap_judge(&p, "untouched"));
        for (int n = 0; n < 2; n++) {
            fap_output *out = n ? &p.lse : &p.o;
            for (size_t x = 0; x < out->size; x += 37) {
                if (out->element[x]) continue;
                out->bytes[x] = 0;
                FA_EXPECT(!fap_compare(&p).ok);
                out->bytes[x] = 0xff;
            }
        }
        fap_reset(&p);
        FA_EXPECT(!fap_compare(&p).ok);
        for (int n = 0; n < 3; n++) {
            fap_write(&p, p.o_naive, p.lse_naive);
            fa_store(n == 2 ? p.lse.place.data : p.o.place.data, 0, n == 2 ? FA_F32 : FA_BF16,
                     n ? NAN : INFINITY);
            FA_EXPECT(!fap_compare(&p).ok);
        }
    }
}

FA_TEST_MAIN
