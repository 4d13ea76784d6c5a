/* Verification of drafts: the exact law of every rule, its tables, boundaries and batches. */
#include "fa_test.h"

#include "flashattn_spec.h"

#include "spec_law.h"

static law_model model;
static law_problem problem;

static void chain(int drafts, int rule, int length) {
    memset(&problem, 0, sizeof problem);
    problem.model = &model, problem.nodes = drafts + 1, problem.chain = 1, problem.rule = rule, problem.length = length;
    problem.verify = law_real;
}
static void tree(const int *parent, int nodes, int rule, int drafting, int length) {
    memset(&problem, 0, sizeof problem);
    memcpy(problem.parent, parent, sizeof *parent * (size_t)nodes);
    problem.model = &model, problem.nodes = nodes, problem.rule = rule, problem.drafting = drafting, problem.length = length;
    problem.verify = law_real;
}

/* Trees of depth <= 3: siblings only; two levels; depth first; a chain with brothers; three levels. */
static const struct {
    int nodes, vocab, length, parent[LAW_NODES];
} SHAPES[] = {{3, 5, 2, {-1, 0, 0}},
              {4, 5, 2, {-1, 0, 0, 0}},
              {5, 4, 2, {-1, 0, 0, 0, 0}},
              {6, 3, 3, {-1, 0, 0, 0, 1, 1}},
              {6, 3, 3, {-1, 0, 1, 1, 0, 4}},
              {6, 3, 4, {-1, 0, 1, 2, 2, 1}},
              {7, 2, 4, {-1, 0, 0, 1, 1, 3, 3}}};
enum { NUM_SHAPES = sizeof SHAPES / sizeof *SHAPES };

static void lossless_trees(int rule, int drafting, int rounds) {
    uint64_t state = fat_seed * 1000 + (uint64_t)rule;
    for (int shape = 0; shape < NUM_SHAPES; shape++)
        for (int round = 0; round < rounds; round++) {
            law_random(&model, SHAPES[shape].vocab, &state);
            tree(SHAPES[shape].parent, SHAPES[shape].nodes, rule, drafting, SHAPES[shape].length);
            const double worst = law_run(&problem);
            FA_EXPECT_MSG(worst <= 1e-12, "rule %d, shape %d, round %d: %.3g", rule, shape, round, worst);
            FA_EXPECT_NEAR(problem.mass, 1, 1e-12);
        }
}

FA_TEST(chains_are_lossless) {
    static const int rules[] = {FA_VERIFY_TOKEN, FA_VERIFY_BLOCK, FA_VERIFY_TARGET_ONLY};
    uint64_t state = fat_seed;
    for (int vocab = 1; vocab <= 5; vocab++)
        for (int drafts = 0; drafts <= (vocab > 3 ? 2 : 3); drafts++)
            for (int round = 0; round < 6; round++) {
                law_random(&model, vocab, &state);
                for (int r = 0; r < 3; r++) {
                    chain(drafts, rules[r], drafts + 1);
                    const double worst = law_run(&problem);
                    FA_EXPECT_MSG(worst <= 1e-12, "rule %d, vocab %d, %d drafts, round %d: %.3g", rules[r], vocab, drafts, round, worst);
                }
            }
}
FA_TEST(target_only_is_lossless_for_top_k) { lossless_trees(FA_VERIFY_TARGET_ONLY, LAW_TOP, 4); }
FA_TEST(target_only_is_lossless_for_draws) { lossless_trees(FA_VERIFY_TARGET_ONLY, LAW_DRAWN, 1); }
FA_TEST(with_replacement_is_lossless) { lossless_trees(FA_VERIFY_WITH_REPLACEMENT, LAW_DRAWN, 2); }
FA_TEST(without_replacement_is_lossless) { lossless_trees(FA_VERIFY_WITHOUT_REPLACEMENT, LAW_WITHOUT, 2); }

/* Rows of any sum, and p cut and heated: the law is that of the weights. */
FA_TEST(normalised_rows_are_lossless) {
    static const float temperature[] = {0.7f}, one[] = {1}, top_p[] = {0.8f}, min_p[] = {0.15f};
    static const int32_t top_k[] = {3};
    uint64_t state = fat_seed;
    for (int round = 0; round < 12; round++) {
        law_random(&model, 4, &state);
        for (int c = 0; c < LAW_CONTEXTS; c++)
            for (int t = 0; t < 4; t++) {
                model.p[c][t] = model.p[c][t] * 3.7f + 0.01f, model.q[c][t] = model.q[c][t] * 0.3f + 0.001f * (float)t;
                if (round % 2) model.p[c][t] = 3 * (float)fat_normal(&state), model.q[c][t] = 2 * (float)fat_normal(&state);
            }
        model.sampling.temperature = round % 2 ? temperature : one;
        if (round % 3 == 1) model.sampling.top_k = top_k;
        if (round % 4 == 2) model.sampling.top_p = top_p;
        if (round % 5 == 3) model.sampling.min_p = min_p;
        for (int rule = FA_VERIFY_TOKEN; rule <= FA_VERIFY_BLOCK; rule++) {
            static const fa_sampling plain;
            chain(2, rule, 3);
            problem.kind = round % 2 ? FA_LOGITS : FA_WEIGHTS;
            (void)plain;
            const fa_sampling cut = model.sampling;
            if (round % 2) memset(&model.sampling, 0, sizeof model.sampling); /* q is logits too: the same parameters */
            const double worst = law_run(&problem);
            FA_EXPECT_MSG(worst <= 1e-12, "rule %d, round %d: %.3g", rule, round, worst);
            model.sampling = cut;
        }
        for (int rule = FA_VERIFY_WITH_REPLACEMENT; rule <= FA_VERIFY_WITHOUT_REPLACEMENT; rule++) {
            tree(SHAPES[1].parent, 4, rule, rule == FA_VERIFY_WITH_REPLACEMENT ? LAW_DRAWN : LAW_WITHOUT, 2);
            problem.kind = FA_WEIGHTS;
            if (round % 2) continue;
            const double worst = law_run(&problem);
            FA_EXPECT_MSG(worst <= 1e-12, "rule %d, round %d: %.3g", rule, round, worst);
        }
    }
}

/* ---- rules that are not lossless: the integration must see it ---- */

static void weights(float *row, float a, float b, float c, float d) { row[0] = a, row[1] = b, row[2] = c, row[3] = d; }
static void one_place(void) { /* p = .1 .2 .3 .4, q = .4 .3 .2 .1 everywhere */
    memset(&model, 0, sizeof model);
    model.vocab = 4;
    for (int c = 0; c < LAW_CONTEXTS; c++) weights(model.p[c], 1, 2, 3, 4), weights(model.q[c], 4, 3, 2, 1);
}

/* Every sibling is tested with the original p / q, and max(p - q, 0) is taken once (TensorRT-LLM's dynamic trees). */
static void no_residual_update(const fa_verify_args *a) {
    const float *p = (const float *)a->target.data, *q = (const float *)a->draft.data;
    const int n = a->trees.num_nodes;
    double residual[LAW_V], sum = 0, at = 0;
    memset(a->tokens, -1, sizeof *a->tokens * (size_t)n), memset(a->accepted, -1, sizeof *a->accepted * (size_t)n);
    a->accepted[0] = 0, *a->num_out = 1;
    for (int node = 1; node < n; node++) {
        const int t = a->trees.token[node];
        if ((double)a->coins.coins[node] * 0x1p-64 * (double)q[t] < (double)p[t]) {
            a->tokens[0] = t, a->accepted[1] = node, a->tokens[1] = 0, *a->num_out = 2; /* of the leaf, whatever */
            return;
        }
    }
    for (int t = 0; t < a->vocab; t++) residual[t] = p[t] > q[t] ? (double)p[t] - (double)q[t] : 0, sum += residual[t];
    for (int t = 0; t < a->vocab; t++) {
        at += residual[t];
        a->tokens[0] = t;
        if ((double)a->coins.coins[0] * 0x1p-64 * sum < at) return;
    }
}

FA_TEST(biased_rules_are_detected) {
    static const double top[] = {.3125, .45, .45}, without[] = {0, .166, .205}, with[] = {0, .14, .196};
    one_place();
    for (int k = 1; k <= 3; k++)
        for (int drafting = LAW_DRAWN; drafting <= LAW_TOP; drafting++) {
            const double *want = drafting == LAW_TOP ? top : drafting == LAW_WITHOUT ? without : with;
            tree(SHAPES[2].parent, k + 1, FA_VERIFY_WITH_REPLACEMENT, drafting, 1);
            problem.verify = no_residual_update, problem.kind = FA_WEIGHTS;
            law_run(&problem);
            FA_EXPECT_NEAR(law_first_tv(&problem), want[k - 1], 6e-4);
        }
    chain(1, FA_VERIFY_TOKEN, 1); /* the real rule, but the draft is q's largest entry, not drawn from q */
    problem.drafting = LAW_TOP, problem.kind = FA_WEIGHTS;
    FA_EXPECT(law_run(&problem) > 0.1);
    FA_EXPECT_NEAR(law_first_tv(&problem), .3125, 1e-6);
    FA_EXPECT_NEAR(problem.law[0], .25, 1e-6);
    FA_EXPECT_NEAR(problem.law[1], 0, 1e-6);
    FA_EXPECT_NEAR(problem.law[2], .1875, 1e-6);
    FA_EXPECT_NEAR(problem.law[3], .5625, 1e-6);
    /* and each tree rule with the other's drafts */
    tree(SHAPES[0].parent, 3, FA_VERIFY_WITH_REPLACEMENT, LAW_WITHOUT, 1), problem.kind = FA_WEIGHTS;
    FA_EXPECT(law_run(&problem) > 0.01);
    tree(SHAPES[0].parent, 3, FA_VERIFY_WITHOUT_REPLACEMENT, LAW_DRAWN, 1), problem.kind = FA_WEIGHTS;
    FA_EXPECT(law_run(&problem) > 0.01);
}

/* The coin of the draft used again for the last draw, as when both come from one counter. */
FA_TEST(shared_noise_is_detected) {
    static const float p[3] = {.25f, .375f, .375f}, q[2][3] = {{.75f, .125f, .125f}, {.375f, .25f, .375f}};
    for (int pair = 0; pair < 2; pair++)
        for (int shared = 0; shared < 2; shared++) {
            enum { GRID = 4000 };
            double law[3] = {0}, tv = 0;
            for (int g = 0; g < GRID; g++) /* the draft's coin */
                for (int u = 0; u < 64; u++)
                    for (int f = 0; f < (shared ? 1 : 25); f++) {
                        const uint64_t step = UINT64_MAX / GRID, draft_coin = (uint64_t)g * step + step / 2;
                        uint64_t coins[2] = {shared ? draft_coin : (uint64_t)f * (UINT64_MAX / 25) + UINT64_MAX / 50,
                                             (uint64_t)u * (UINT64_MAX / 64) + UINT64_MAX / 128};
                        float target[6];
                        int32_t token, out[2];
                        fa_sample_args s;
                        fa_verify_args a;
                        memset(&s, 0, sizeof s), memset(&a, 0, sizeof a);
                        if (!shared && g % 25) continue; /* 160 coins are enough */
                        s.batch = 1, s.vocab = 3, s.rows.data = q[pair], s.rows.kind = FA_PROBS, s.coins.coins = &draft_coin;
                        s.tokens = &token;
                        fa_sample(&s);
                        memcpy(target, p, sizeof p), memcpy(target + 3, p, sizeof p);
                        a.vocab = 3, a.rule = FA_VERIFY_TOKEN, a.chains.batch = a.chains.num_tokens = 1, a.chains.token = &token;
                        a.target.data = target, a.draft.data = q[pair], a.target.kind = a.draft.kind = FA_PROBS;
                        a.coins.coins = coins, a.tokens = out;
                        FA_REQUIRE(fa_verify_chain(&a) == FA_OK);
                        law[out[0]] += 1 / (shared ? GRID * 64.0 : GRID / 25 * 64.0 * 25);
                    }
            for (int t = 0; t < 3; t++) tv += fabs(law[t] - (double)p[t]) / 2;
            if (shared) FA_EXPECT_MSG(pair == 0 ? tv > 0.05 : tv < 0.02, /* the second pair does not show it */ "pair %d: %.3g", pair, tv);
            else FA_EXPECT_MSG(tv < 0.02, "pair %d: %.3g", pair, tv);
        }
}

/* ---- tables ---- */

FA_TEST(leviathan_expected_tokens) {
    static const double table[5][4] = {{1.500, 1.750, 1.875, 1.938}, {1.600, 1.960, 2.176, 2.306}, {1.700, 2.190, 2.533, 2.773},
                                       {1.800, 2.440, 2.952, 3.362}, {1.900, 2.710, 3.439, 4.095}};
    for (int a = 0; a < 5; a++) {
        const double alpha = 0.5 + 0.1 * a;
        memset(&model, 0, sizeof model);
        model.vocab = 2; /* p = (1, 0), q = (alpha, 1 - alpha): sum min(p, q) = alpha */
        for (int c = 0; c < LAW_CONTEXTS; c++)
            model.p[c][0] = 1, model.q[c][0] = 5 + (float)a, model.q[c][1] = 5 - (float)a;
        for (int gamma = 1; gamma <= 4; gamma++) {
            chain(gamma, FA_VERIFY_TOKEN, 1), problem.kind = FA_WEIGHTS;
            law_run(&problem);
            FA_EXPECT_NEAR(problem.tokens_out, (1 - pow(alpha, gamma + 1)) / (1 - alpha), 1e-9);
            FA_EXPECT_NEAR(problem.tokens_out, table[a][gamma - 1], 6e-4);
        }
    }
}

FA_TEST(block_verification_accepts_more) {
    memset(&model, 0, sizeof model);
    model.vocab = 2;
    for (int c = 0; c < LAW_CONTEXTS; c++) model.p[c][0] = 1, model.p[c][1] = 2, model.q[c][0] = 2, model.q[c][1] = 1;
    chain(2, FA_VERIFY_TOKEN, 3), problem.kind = FA_WEIGHTS;
    FA_EXPECT(law_run(&problem) <= 1e-12);
    FA_EXPECT_NEAR(problem.tokens_out, 1 + 10 / 9.0, 1e-9);
    chain(2, FA_VERIFY_BLOCK, 3), problem.kind = FA_WEIGHTS;
    FA_EXPECT(law_run(&problem) <= 1e-12);
    FA_EXPECT_NEAR(problem.tokens_out, 1 + 11 / 9.0, 1e-9);
}

FA_TEST(sibling_acceptance_exact) {
    static const double table[3][4] = {{.600, .764, .840, 1}, {.600, .720, .768, .791}, {.1, .3, .6, 1}};
    static const int rules[] = {FA_VERIFY_WITHOUT_REPLACEMENT, FA_VERIFY_WITH_REPLACEMENT, FA_VERIFY_TARGET_ONLY};
    static const int drafting[] = {LAW_WITHOUT, LAW_DRAWN, LAW_TOP};
    one_place();
    for (int r = 0; r < 3; r++)
        for (int k = 1; k <= 4; k++) {
            tree(SHAPES[2].parent, k + 1, rules[r], drafting[r], 1), problem.kind = FA_WEIGHTS;
            FA_EXPECT(law_run(&problem) <= 1e-12);
            FA_EXPECT_NEAR(problem.tokens_out - 1, table[r][k - 1], 6e-4);
        }
}

/* ---- sibling acceptance over a vocabulary of 512, coin by coin as the Python simulation drew them ---- */

static uint32_t mt[624];
static int mt_at;
static double mt_spare;
static void mt_init(void) { /* random.seed(7): init_by_array of one word */
    mt[0] = 19650218;
    for (uint32_t i = 1; i < 624; i++) mt[i] = 1812433253u * (mt[i - 1] ^ mt[i - 1] >> 30) + i;
    uint32_t i = 1;
    for (int k = 0; k < 624; k++) {
        mt[i] = (mt[i] ^ (mt[i - 1] ^ mt[i - 1] >> 30) * 1664525u) + 7;
        if (++i >= 624) mt[0] = mt[623], i = 1;
    }
    for (int k = 0; k < 623; k++) {
        mt[i] = (mt[i] ^ (mt[i - 1] ^ mt[i - 1] >> 30) * 1566083941u) - i;
        if (++i >= 624) mt[0] = mt[623], i = 1;
    }
    mt[0] = 0x80000000u, mt_at = 624, mt_spare = NAN;
}
static uint32_t mt_word(void) {
    if (mt_at == 624) {
        for (int i = 0; i < 624; i++) {
            const uint32_t y = (mt[i] & 0x80000000u) | (mt[(i + 1) % 624] & 0x7fffffffu);
            mt[i] = mt[(i + 397) % 624] ^ y >> 1 ^ (y & 1 ? 0x9908b0dfu : 0);
        }
        mt_at = 0;
    }
    uint32_t y = mt[mt_at++];
    y ^= y >> 11, y ^= y << 7 & 0x9d2c5680u, y ^= y << 15 & 0xefc60000u;
    return y ^ y >> 18;
}
static uint64_t mt_coin(void) { /* random() times 2^64 */
    const uint64_t a = mt_word() >> 5, b = mt_word() >> 6;
    return (a << 26 | b) << 11;
}
static double mt_uniform(void) { return (double)(mt_coin() >> 11) * 0x1p-53; }
static double mt_gauss(void) {
    double z = mt_spare;
    if (z == z) return mt_spare = NAN, z;
    const double angle = mt_uniform() * 2 * 3.141592653589793, radius = sqrt(-2 * log(1 - mt_uniform()));
    z = cos(angle) * radius, mt_spare = sin(angle) * radius;
    return z;
}

enum { SIB_V = 512, SIB_K = 5 };
static float sib_p[(SIB_K + 1) * SIB_V], sib_q[SIB_V];
static uint64_t sib_workspace[2 * SIB_V + 1];

/* The rank of the child that is accepted, or SIB_K; one coin for the draw of each, and one for its test. */
static int sib_accept(int without) {
    static const int32_t parent[SIB_K + 1] = {-1, 0, 0, 0, 0, 0};
    uint64_t draws[SIB_K], coins[SIB_K + 1] = {0};
    int32_t token[SIB_K + 1] = {0}, out[SIB_K + 1], num_out;
    for (int k = 0; k < SIB_K; k++) {
        fa_sample_args s;
        fa_verify_args a;
        memset(&s, 0, sizeof s), memset(&a, 0, sizeof a);
        draws[k] = mt_coin(), coins[k + 1] = mt_coin();
        s.batch = 1, s.vocab = SIB_V, s.rows.data = sib_q, s.rows.kind = FA_WEIGHTS, s.num_samples = k + 1;
        s.without_replacement = without, s.coins.coins = draws, s.tokens = token + 1;
        if (!FA_EXPECT(fa_sample(&s) == FA_OK)) return 0;
        a.vocab = SIB_V, a.rule = without ? FA_VERIFY_WITHOUT_REPLACEMENT : FA_VERIFY_WITH_REPLACEMENT;
        a.trees.batch = 1, a.trees.num_nodes = k + 2, a.trees.parent = parent, a.trees.token = token;
        a.target.data = sib_p, a.target.kind = a.draft.kind = FA_WEIGHTS, a.draft.data = sib_q;
        a.coins.coins = coins, a.tokens = out, a.num_out = &num_out;
        if (!FA_EXPECT(fa_verify_tree(&a, sib_workspace, sizeof sib_workspace) == FA_OK)) return 0;
        if (num_out == 2) return k;
    }
    return SIB_K;
}

static void sib_table(double spread, const double *sigmas, const double want[3][SIB_K]) {
    enum { PAIRS = 120, TRIALS = 25 };
    mt_init();
    for (int g = 0; g < 2; g++) {
        double got[3][SIB_K] = {{0}}; /* with, without, top-k by target-only */
        for (int pair = 0; pair < PAIRS; pair++) {
            static double base[SIB_V], p[SIB_V], q[SIB_V];
            double sp = 0, sq = 0, mp = -1e9, mq = -1e9;
            for (int i = 0; i < SIB_V; i++) base[i] = mt_gauss() * spread, mp = fmax(mp, base[i]);
            for (int i = 0; i < SIB_V; i++) q[i] = base[i] + mt_gauss() * sigmas[g], mq = fmax(mq, q[i]);
            for (int i = 0; i < SIB_V; i++) p[i] = exp(base[i] - mp), sp += p[i], q[i] = exp(q[i] - mq), sq += q[i];
            for (int i = 0; i < SIB_V; i++) {
                p[i] /= sp, sib_q[i] = (float)(q[i] / sq);
                for (int k = 0; k <= SIB_K; k++) sib_p[k * SIB_V + i] = (float)p[i];
            }
            for (int trial = 0; trial < TRIALS; trial++)
                for (int mode = 1; mode >= 0; mode--) {
                    const int rank = sib_accept(mode);
                    for (int k = rank; k < SIB_K; k++) got[mode][k] += 1.0 / (PAIRS * TRIALS);
                }
            double mass = 0;
            for (int k = 0; k < SIB_K; k++) {
                int best = -1;
                for (int i = 0; i < SIB_V; i++)
                    if (best < 0 || q[i] > q[best]) best = i;
                mass += p[best], q[best] = -1, got[2][k] += mass / PAIRS;
            }
        }
        for (int mode = 0; g == 1 && mode < 3; mode++)
            for (int k = 0; k < SIB_K; k++)
                FA_EXPECT_MSG(fat_close(got[mode][k], want[mode][k], 0.01), "spread %g, mode %d, k %d: got %.3f, want %.3f", spread,
                              mode, k + 1, got[mode][k], want[mode][k]);
    }
}
FA_TEST(sibling_acceptance_simulated) {
    static const double flat[3][SIB_K] = {
        {.638, .729, .777, .807, .833}, {.644, .753, .817, .850, .875}, {.205, .295, .352, .404, .438}};
    static const double peaked[3][SIB_K] = {
        {.645, .710, .741, .763, .779}, {.622, .747, .821, .867, .892}, {.508, .641, .722, .785, .827}};
    static const double flat_sigmas[] = {0.7, 1.0}, peaked_sigmas[] = {1.0, 2.0};
    sib_table(2.6, flat_sigmas, flat), sib_table(6, peaked_sigmas, peaked);
}

FA_TEST_MAIN
