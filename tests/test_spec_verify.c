/* Verification of drafts: the exact law of every rule, its tables, boundaries and batches. */
#include "fa_test.h"

#include "flashattn_spec.h"

#include "spec_law.h"
#include "spec_refusals.h"

static law_model model;
static law_problem problem;

/* FA_TEST_SCALE=quick: fewer samples and random models. */
static int quick(void) {
    const char *scale = getenv("FA_TEST_SCALE");
    return scale && !strcmp(scale, "quick");
}

static void chain(int drafts, int rule, int length) {
    memset(&problem, 0, sizeof problem);
    problem.model = &model, problem.nodes = drafts + 1, problem.chain = 1, problem.rule = rule,
    problem.length = length;
    problem.verify = law_real;
}
static void tree(const int *parent, int nodes, int rule, int drafting, int length) {
    memset(&problem, 0, sizeof problem);
    memcpy(problem.parent, parent, sizeof *parent * (size_t)nodes);
    problem.model = &model, problem.nodes = nodes, problem.rule = rule, problem.drafting = drafting,
    problem.length = length;
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
    if (quick()) rounds = 1;
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
                    FA_EXPECT_MSG(worst <= 1e-12, "rule %d, vocab %d, %d drafts, round %d: %.3g", rules[r],
                                  vocab, drafts, round, worst);
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
                model.p[c][t] = model.p[c][t] * 3.7f + 0.01f,
                model.q[c][t] = model.q[c][t] * 0.3f + 0.001f * (float)t;
                if (round % 2)
                    model.p[c][t] = 3 * (float)fat_normal(&state),
                    model.q[c][t] = 2 * (float)fat_normal(&state);
            }
        model.sampling.temperature = round % 2 ? temperature : one;
        if (round % 3 == 1) model.sampling.top_k = top_k;
        if (round % 4 == 2) model.sampling.top_p = top_p;
        if (round % 5 == 3) model.sampling.min_p = min_p;
        for (int rule = FA_VERIFY_TOKEN; rule <= FA_VERIFY_BLOCK; rule++) {
            chain(2, rule, 3);
            problem.kind = round % 2 ? FA_LOGITS : FA_WEIGHTS;
            const fa_sampling cut = model.sampling;
            if (round % 2)
                memset(&model.sampling, 0, sizeof model.sampling); /* q is logits too: the same parameters */
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

static void weights(float *row, float a, float b, float c, float d) {
    row[0] = a, row[1] = b, row[2] = c, row[3] = d;
}
static void one_place(void) { /* p = .1 .2 .3 .4, q = .4 .3 .2 .1 everywhere */
    memset(&model, 0, sizeof model);
    model.vocab = 4;
    for (int c = 0; c < LAW_CONTEXTS; c++) weights(model.p[c], 1, 2, 3, 4), weights(model.q[c], 4, 3, 2, 1);
}

/* Every sibling is tested with the original p / q, and max(p - q, 0) is taken once (TensorRT-LLM's dynamic
 * trees). */
static void no_residual_update(const fa_verify_args *a) {
    const float *p = (const float *)a->target.data, *q = (const float *)a->draft.data;
    const int n = a->trees.num_nodes;
    double residual[LAW_V], sum = 0, at = 0;
    memset(a->tokens, -1, sizeof *a->tokens * (size_t)n),
        memset(a->accepted, -1, sizeof *a->accepted * (size_t)n);
    a->accepted[0] = 0, *a->num_out = 1;
    for (int node = 1; node < n; node++) {
        const int t = a->trees.token[node];
        if ((double)a->coins.coins[node] * 0x1p-64 * (double)q[t] < (double)p[t]) {
            a->tokens[0] = t, a->accepted[1] = node, a->tokens[1] = 0,
            *a->num_out = 2; /* of the leaf, whatever */
            return;
        }
    }
    for (int t = 0; t < a->vocab; t++)
        residual[t] = p[t] > q[t] ? (double)p[t] - (double)q[t] : 0, sum += residual[t];
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
                        uint64_t coins[2] = {shared ? draft_coin
                                                    : (uint64_t)f * (UINT64_MAX / 25) + UINT64_MAX / 50,
                                             (uint64_t)u * (UINT64_MAX / 64) + UINT64_MAX / 128};
                        float target[6];
                        int32_t token, out[2];
                        fa_sample_args s;
                        fa_verify_args a;
                        memset(&s, 0, sizeof s), memset(&a, 0, sizeof a);
                        if (!shared && g % 25) continue; /* 160 coins are enough */
                        s.batch = 1, s.vocab = 3, s.rows.data = q[pair], s.rows.kind = FA_PROBS,
                        s.coins.coins = &draft_coin;
                        s.tokens = &token;
                        fa_sample(&s);
                        memcpy(target, p, sizeof p), memcpy(target + 3, p, sizeof p);
                        a.vocab = 3, a.rule = FA_VERIFY_TOKEN, a.chains.batch = a.chains.num_tokens = 1,
                        a.chains.token = &token;
                        a.target.data = target, a.draft.data = q[pair],
                        a.target.kind = a.draft.kind = FA_PROBS;
                        a.coins.coins = coins, a.tokens = out;
                        FA_REQUIRE(fa_verify_chain(&a) == FA_OK);
                        law[out[0]] += 1 / (shared ? GRID * 64.0 : GRID / 25 * 64.0 * 25);
                    }
            for (int t = 0; t < 3; t++) tv += fabs(law[t] - (double)p[t]) / 2;
            if (shared)
                FA_EXPECT_MSG(pair == 0 ? tv > 0.05 : tv < 0.02,
                              /* the second pair does not show it */ "pair %d: %.3g", pair, tv);
            else
                FA_EXPECT_MSG(tv < 0.02, "pair %d: %.3g", pair, tv);
        }
}

/* ---- tables ---- */

FA_TEST(leviathan_expected_tokens) {
    static const double table[5][4] = {{1.500, 1.750, 1.875, 1.938},
                                       {1.600, 1.960, 2.176, 2.306},
                                       {1.700, 2.190, 2.533, 2.773},
                                       {1.800, 2.440, 2.952, 3.362},
                                       {1.900, 2.710, 3.439, 4.095}};
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
    for (int c = 0; c < LAW_CONTEXTS; c++)
        model.p[c][0] = 1, model.p[c][1] = 2, model.q[c][0] = 2, model.q[c][1] = 1;
    chain(2, FA_VERIFY_TOKEN, 3), problem.kind = FA_WEIGHTS;
    FA_EXPECT(law_run(&problem) <= 1e-12);
    FA_EXPECT_NEAR(problem.tokens_out, 1 + 10 / 9.0, 1e-9);
    chain(2, FA_VERIFY_BLOCK, 3), problem.kind = FA_WEIGHTS;
    FA_EXPECT(law_run(&problem) <= 1e-12);
    FA_EXPECT_NEAR(problem.tokens_out, 1 + 11 / 9.0, 1e-9);
}

FA_TEST(sibling_acceptance_exact) {
    static const double table[3][4] = {{.600, .764, .840, 1}, {.600, .720, .768, .791}, {.1, .3, .6, 1}};
    static const int rules[] = {FA_VERIFY_WITHOUT_REPLACEMENT, FA_VERIFY_WITH_REPLACEMENT,
                                FA_VERIFY_TARGET_ONLY};
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
            for (int i = 0; i < SIB_V; i++)
                p[i] = exp(base[i] - mp), sp += p[i], q[i] = exp(q[i] - mq), sq += q[i];
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
                FA_EXPECT_MSG(fat_close(got[mode][k], want[mode][k], 0.01),
                              "spread %g, mode %d, k %d: got %.3f, want %.3f", spread, mode, k + 1,
                              got[mode][k], want[mode][k]);
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

/* ---- boundaries and odd inputs ---- */

static int32_t one_draft(const float *p, const float *q, int32_t vocab, int32_t token, uint64_t accept,
                         uint64_t last, int kind, uint32_t *flags, int32_t out[2]) {
    float target[32];
    const uint64_t coins[2] = {last, accept};
    int32_t num_out = -1;
    fa_verify_args a;
    memset(&a, 0, sizeof a);
    memcpy(target, p, sizeof *p * (size_t)vocab), memcpy(target + vocab, p, sizeof *p * (size_t)vocab);
    a.vocab = vocab, a.rule = FA_VERIFY_TOKEN, a.chains.batch = 1, a.chains.num_tokens = 1,
    a.chains.token = &token;
    a.target.data = target, a.draft.data = q, a.target.kind = a.draft.kind = kind;
    a.coins.coins = coins, a.tokens = out, a.num_out = &num_out, a.flags = flags;
    FA_EXPECT(fa_verify_chain(&a) == FA_OK);
    return num_out;
}

FA_TEST(acceptance_boundary) {
    static const float q[] = {0.5f, 0.5f}, p[] = {0.25f, 0.75f};
    const uint64_t half = (uint64_t)1 << 63;
    uint32_t flags;
    int32_t out[2];
    FA_EXPECT(one_draft(p, q, 2, 0, half - 1, 0, FA_PROBS, &flags, out) == 2 &&
              out[0] == 0); /* u q < p, strictly */
    FA_EXPECT(one_draft(p, q, 2, 0, half, 0, FA_PROBS, &flags, out) == 1 && out[0] == 1 && out[1] == -1);
    FA_EXPECT(one_draft(q, q, 2, 0, UINT64_MAX, 0, FA_PROBS, &flags, out) == 2 &&
              flags == 0); /* u is never 1 */
    FA_EXPECT(one_draft(p, q, 2, 1, UINT64_MAX, 0, FA_PROBS, &flags, out) == 2 && out[0] == 1);
    static const float zero[] = {0, 1}, other[] = {1, 0};
    FA_EXPECT(one_draft(zero, q, 2, 0, 0, 0, FA_PROBS, &flags, out) == 1 &&
              out[0] == 1); /* p = 0: also at u = 0 */
    FA_EXPECT(one_draft(q, zero, 2, 0, 0, 0, FA_PROBS, &flags, out) == 1 &&
              out[0] == 0); /* q = 0: nobody drew it */
    FA_EXPECT(one_draft(other, zero, 2, 1, 0, UINT64_MAX, FA_PROBS, &flags, out) == 1 && out[0] == 0 &&
              flags == 0); /* disjoint */
    /* the last draw: 0 < 0.125 <= 1 <= 2 with residual (0, .125, 0, .125) */
    static const float q4[] = {0.5f, 0.25f, 0.25f, 0}, p4[] = {0.25f, 0.375f, 0.25f, 0.125f};
    FA_EXPECT(one_draft(p4, q4, 4, 0, half, half - 1, FA_PROBS, &flags, out) == 1 && out[0] == 1);
    FA_EXPECT(one_draft(p4, q4, 4, 0, half, half, FA_PROBS, &flags, out) == 1 && out[0] == 3);
}

FA_TEST(target_only_boundary) {
    static const float target[3][4] = {{0.25f, 0, 0.25f, 0.5f}, {1, 0, 0, 0}, {1, 0, 0, 0}};
    static const int32_t parent[] = {-1, 0, 0};
    const uint64_t quarter = (uint64_t)1 << 62,
                   third = UINT64_MAX / 3; /* u = 1/3: 0.25 of the 0.75 that are left */
    static const struct {
        int32_t token[2], num;
    } cases[] = {{{0, 2}, 2}, {{0, 2}, 2}, {{0, 2}, 1}, {{1, 0}, 1}};
    for (int c = 0; c < 4; c++) {
        const uint64_t coins[3] = {UINT64_MAX,
                                   c == 0   ? quarter - 1
                                   : c == 3 ? 0
                                            : quarter,
                                   c == 1   ? third
                                   : c == 2 ? third + 2
                                            : UINT64_MAX};
        int32_t token[3] = {0, cases[c].token[0], cases[c].token[1]}, out[3], path[3], num;
        fa_verify_args a;
        memset(&a, 0, sizeof a);
        a.vocab = 4, a.rule = FA_VERIFY_TARGET_ONLY, a.trees.batch = 1, a.trees.num_nodes = 3,
        a.trees.parent = parent;
        a.trees.token = token, a.target.data = target, a.target.kind = FA_PROBS, a.coins.coins = coins;
        a.tokens = out, a.accepted = path, a.num_out = &num;
        FA_EXPECT(fa_verify_tree(&a, NULL, 0) == FA_OK);
        FA_EXPECT_MSG(num == cases[c].num && (num == 1 || path[1] == (c == 0 ? 1 : 2)),
                      "case %d: %d tokens, node %d", c, num, path[1]);
        if (num == 1) FA_EXPECT(out[0] == 3);
    }
}

FA_TEST(odd_rows_have_a_result) {
    uint32_t flags;
    int32_t out[2];
    static const float nan4[] = {NAN, NAN, NAN, NAN}, flat[] = {0.25f, 0.25f, 0.25f, 0.25f},
                       none[] = {0, 0, 0, 0};
    static const float some[] = {NAN, 0.5f, -1, 0.5f}, most[] = {0.125f, 0.5f, 0.25f, 0.125f},
                       huge[] = {9, 8, 0, 0};
    FA_EXPECT(one_draft(nan4, flat, 4, 2, 0, 0, FA_PROBS, &flags, out) == 1 && out[0] == 0);
    FA_EXPECT(flags == (FA_SPEC_BAD_TARGET | FA_SPEC_FALLBACK));
    FA_EXPECT(one_draft(none, flat, 4, 2, 0, 0, FA_PROBS, &flags, out) == 1 && out[0] == 0 &&
              flags == FA_SPEC_FALLBACK);
    FA_EXPECT(one_draft(some, flat, 4, 0, 0, UINT64_MAX, FA_PROBS, &flags, out) == 1 && out[0] == 3 &&
              flags == FA_SPEC_BAD_TARGET);
    FA_EXPECT(one_draft(huge, flat, 4, 3, 0, 0, FA_PROBS, &flags, out) == 1 && out[0] == 0);
    FA_EXPECT(flags == (FA_SPEC_BAD_TARGET | FA_SPEC_FALLBACK));
    for (int id = 0; id < 4; id++) { /* a draft row of NaN: rejected, and the draw is from p itself */
        const uint64_t coin[] = {0, (uint64_t)1 << 61, (uint64_t)5 << 61, (uint64_t)7 << 61};
        FA_EXPECT(one_draft(most, nan4, 4, 2, 0, coin[id], FA_PROBS, &flags, out) == 1 && out[0] == id &&
                  flags == FA_SPEC_BAD_DRAFT);
    }
    static const float below[] = {0.125f, 0.4375f, 0.25f,
                                  0.125f}; /* nothing is left of p, which adds up to less than q */
    FA_EXPECT(one_draft(below, most, 4, 1, UINT64_MAX, 0, FA_PROBS, &flags, out) == 1 && out[0] == 1 &&
              flags == FA_SPEC_FALLBACK);
    for (int kind = FA_LOGITS; kind <= FA_WEIGHTS; kind += FA_WEIGHTS - FA_LOGITS) {
        FA_EXPECT(one_draft(nan4, flat, 4, 2, 0, 0, kind, &flags, out) == 1 && out[0] == 0 &&
                  flags == FA_SPEC_BAD_TARGET);
        FA_EXPECT(one_draft(flat, nan4, 4, 2, 0, 0, kind, &flags, out) == 1 && out[0] >= 0 &&
                  flags == FA_SPEC_BAD_DRAFT);
    }
    static const float single[] = {1}; /* V = 1 */
    for (int kind = FA_LOGITS; kind <= FA_WEIGHTS; kind++)
        FA_EXPECT(one_draft(single, single, 1, 0, UINT64_MAX, UINT64_MAX, kind, &flags, out) == 2 &&
                  !out[0] && !out[1] && !flags);
}

/* ---- random problems: ways of saying the same, and requests alone ---- */

enum { RP_B = 9, RP_V = 40, RP_N = 10 };
static float rp_target[RP_B * RP_N * RP_V], rp_draft[RP_B * RP_N * RP_V];
static int32_t rp_parent[RP_B * RP_N], rp_token[RP_B * RP_N], rp_indptr[RP_B + 1], rp_top_k[RP_B];
static float rp_temperature[RP_B], rp_top_p[RP_B], rp_min_p[RP_B];
static uint64_t rp_seed[RP_B], rp_offset[RP_B], rp_coins[RP_B * RP_N], rp_workspace[2 * RP_V + 1];

/* Trees of 1 .. RP_N nodes, tokens that have a chance, logits. */
static void rp_make(uint64_t *state) {
    int32_t at = 0;
    for (int i = 0; i < RP_B * RP_N * RP_V; i++) {
        rp_target[i] = 3 * (float)fat_normal(state);
        rp_draft[i] = rp_target[i] + (float)fat_normal(state) * 0.7f;
    }
    for (int b = 0; b < RP_B; b++) {
        const int nodes = 1 + fat_below(state, RP_N);
        rp_indptr[b] = at;
        for (int n = 0; n < nodes; n++) {
            const int parent = n ? fat_below(state, n) : -1;
            int32_t best = fat_below(state, RP_V);
            for (int t = 0; t < RP_V && fat_below(state, 3); t++) /* often a likely one */
                if (n && rp_target[(at + parent) * RP_V + t] > rp_target[(at + parent) * RP_V + best])
                    best = t;
            rp_parent[at + n] = parent, rp_token[at + n] = best;
        }
        at += nodes;
        rp_temperature[b] = b % 4 == 3 ? 0 : 0.5f + 0.25f * (float)b, rp_top_k[b] = b % 3 ? 0 : 10 + b;
        rp_top_p[b] = b % 2 ? 0.9f : 0, rp_min_p[b] = b % 5 == 2 ? 0.01f : 0, rp_seed[b] = fat_next(state),
        rp_offset[b] = fat_next(state);
    }
    rp_indptr[RP_B] = at;
    for (int i = 0; i < RP_B * RP_N; i++) rp_coins[i] = fat_next(state);
}

typedef struct rp_result {
    int32_t tokens[RP_N + 1], accepted[RP_N + 1], num;
    uint32_t flags;
} rp_result;

/* Requests `order`[0 .. count-1] as a batch of trees, packed one behind the other. */
static void rp_trees(int rule, const int *order, int count, int mapped, rp_result *result) {
    static float target[RP_B * RP_N * RP_V], draft[RP_B * RP_N * RP_V];
    static int32_t parent[RP_B * RP_N], token[RP_B * RP_N], indptr[RP_B + 1], map[RP_B * RP_N],
        tokens[RP_B * (RP_N + 1)];
    static int32_t accepted[RP_B * (RP_N + 1)], num[RP_B], top_k[RP_B];
    static float temperature[RP_B], top_p[RP_B], min_p[RP_B];
    static uint64_t seed[RP_B], offset[RP_B];
    static uint32_t flags[RP_B];
    fa_verify_args a;
    int32_t at = 0, rows = 0;
    memset(&a, 0, sizeof a);
    for (int n = 0; n < count; n++) {
        const int b = order[n], nodes = rp_indptr[b + 1] - rp_indptr[b];
        const size_t first = (size_t)rp_indptr[b];
        indptr[n] = at;
        memcpy(target + at * RP_V, rp_target + first * RP_V, sizeof(float) * RP_V * (size_t)nodes);
        memcpy(parent + at, rp_parent + first, sizeof *parent * (size_t)nodes);
        memcpy(token + at, rp_token + first, sizeof *token * (size_t)nodes);
        for (int node = 0; node < nodes; node++) {
            int children = 0;
            for (int c = node + 1; c < nodes; c++) children += rp_parent[first + (size_t)c] == node;
            if (mapped && !children) {
                map[at + node] = -7;
                continue;
            }
            map[at + node] = mapped ? rows : at + node;
            memcpy(draft + map[at + node] * RP_V, rp_draft + (first + (size_t)node) * RP_V,
                   sizeof(float) * RP_V);
            rows++;
        }
        temperature[n] = rp_temperature[b], top_k[n] = rp_top_k[b], top_p[n] = rp_top_p[b],
        min_p[n] = rp_min_p[b];
        seed[n] = rp_seed[b], offset[n] = rp_offset[b], at += nodes;
    }
    indptr[count] = at;
    a.vocab = RP_V, a.rule = rule, a.trees.batch = count, a.trees.num_nodes = RP_N, a.trees.indptr = indptr;
    a.trees.parent = parent, a.trees.token = token, a.target.data = target, a.draft.data = draft;
    if (mapped) a.draft_row = map, a.num_draft_rows = rows;
    a.sampling.temperature = temperature, a.sampling.top_k = top_k, a.sampling.top_p = top_p,
    a.sampling.min_p = min_p;
    a.coins.seed = seed, a.coins.offset = offset, a.max_out = RP_N + 1;
    a.tokens = tokens, a.accepted = accepted, a.num_out = num, a.flags = flags;
    const fa_status status = fa_verify_tree(&a, rp_workspace, sizeof rp_workspace);
    FA_EXPECT_MSG(status == FA_OK, "%s", fa_strerror(status));
    for (int n = 0; n < count; n++) {
        rp_result *r = &result[order[n]];
        memcpy(r->tokens, tokens + n * (RP_N + 1), sizeof r->tokens),
            memcpy(r->accepted, accepted + n * (RP_N + 1), sizeof r->accepted);
        r->num = num[n], r->flags = flags[n];
    }
}

FA_TEST(batch_invariance) {
    static const int rules[] = {FA_VERIFY_GREEDY, FA_VERIFY_TARGET_ONLY, FA_VERIFY_WITH_REPLACEMENT,
                                FA_VERIFY_WITHOUT_REPLACEMENT, FA_VERIFY_TYPICAL};
    uint64_t state = fat_seed;
    double drafts = 0;
    for (int round = 0; round < 40; round++) {
        rp_make(&state);
        for (int r = 0; r < 5; r++) {
            rp_result all[RP_B], alone[RP_B], shuffled[RP_B];
            int order[RP_B];
            memset(all, 0, sizeof all), memset(alone, 0, sizeof alone), memset(shuffled, 0, sizeof shuffled);
            for (int b = 0; b < RP_B; b++) order[b] = b;
            rp_trees(rules[r], order, RP_B, 0, all);
            for (int b = 0; b < RP_B; b++) rp_trees(rules[r], &b, 1, 1, alone);
            for (int b = RP_B - 1; b > 0; b--) {
                const int with = fat_below(&state, b + 1), t = order[b];
                order[b] = order[with], order[with] = t;
            }
            rp_trees(rules[r], order, RP_B - 2, 1, shuffled);
            FA_EXPECT(!memcmp(all, alone, sizeof all));
            for (int n = 0; n < RP_B - 2; n++)
                FA_EXPECT(!memcmp(&all[order[n]], &shuffled[order[n]], sizeof *all));
            for (int b = 0; b < RP_B; b++) { /* what comes out is a path and one token more */
                const rp_result *x = &all[b];
                const int32_t first = rp_indptr[b], nodes = rp_indptr[b + 1] - first;
                FA_EXPECT(x->num >= 1 && x->num <= nodes && x->accepted[0] == 0 &&
                          !(x->flags & ~FA_SPEC_FALLBACK)); /* drafts that q cannot have drawn */
                for (int n = 1; n < x->num; n++)
                    FA_EXPECT(rp_parent[first + x->accepted[n]] == x->accepted[n - 1] &&
                              rp_token[first + x->accepted[n]] == x->tokens[n - 1]);
                for (int n = 0; n <= RP_N; n++)
                    FA_EXPECT((x->tokens[n] >= 0) == (n < x->num) && x->tokens[n] < RP_V &&
                              (x->accepted[n] >= 0) == (n < x->num));
                drafts += x->num - 1;
            }
        }
    }
    FA_EXPECT_MSG(drafts > 500, "%g", drafts); /* something was accepted */
}

/* Chains in all layouts, and as trees, with the caller's coins and with Philox. */
FA_TEST(chains_in_all_layouts_and_as_trees) {
    static const int rules[][2] = {
        {FA_VERIFY_GREEDY, FA_VERIFY_GREEDY},          {FA_VERIFY_TARGET_ONLY, FA_VERIFY_TARGET_ONLY},
        {FA_VERIFY_TOKEN, FA_VERIFY_WITH_REPLACEMENT}, {FA_VERIFY_TOKEN, FA_VERIFY_WITHOUT_REPLACEMENT},
        {FA_VERIFY_TYPICAL, FA_VERIFY_TYPICAL},        {FA_VERIFY_BLOCK, 0}};
    enum { B = 5, G = 4 };
    uint64_t state = fat_seed;
    for (int round = 0; round < 60; round++) {
        static float packed_target[B * (G + 1) * RP_V], packed_draft[B * G * RP_V];
        int32_t lengths[B], indptr[B + 1] = {0}, drafts[B * G], packed[B * G], nodes[B + 1] = {0},
                                       parent[B * (G + 1)], token[B * (G + 1)];
        int32_t out[3][B * (G + 1)], num[3][B], acc[3][B * (G + 1)];
        uint64_t coins[B * (G + 1)], packed_coins[B * (G + 1)], seed[B], offset[B];
        rp_make(&state);
        memset(out, 0, sizeof out), memset(acc, 0, sizeof acc);
        for (int b = 0; b < B; b++) {
            lengths[b] = round % 3 ? fat_below(&state, G + 1) : G, seed[b] = fat_next(&state),
            offset[b] = fat_next(&state);
            indptr[b + 1] = indptr[b] + lengths[b], nodes[b + 1] = nodes[b] + lengths[b] + 1;
            for (int n = 0; n <= lengths[b]; n++) {
                const int at = b * (G + 1) + n, to = nodes[b] + n;
                coins[at] = packed_coins[to] = fat_next(&state);
                memcpy(packed_target + to * RP_V, rp_target + at * RP_V, sizeof(float) * RP_V);
                parent[to] = n - 1, token[to] = -1;
                if (n == lengths[b]) continue;
                memcpy(packed_draft + (indptr[b] + n) * RP_V, rp_draft + (b * G + n) * RP_V,
                       sizeof(float) * RP_V);
                int32_t t = fat_below(&state, RP_V);
                for (int i = 0; i < RP_V; i++)
                    if (fat_below(&state, 4) && rp_target[at * RP_V + i] > rp_target[at * RP_V + t]) t = i;
                drafts[b * G + n] = packed[indptr[b] + n] = t;
            }
            for (int n = 1; n <= lengths[b]; n++) token[nodes[b] + n] = packed[indptr[b] + n - 1];
        }
        for (int r = 0; r < 6; r++) {
            fa_verify_args a;
            memset(&a, 0, sizeof a);
            a.vocab = RP_V, a.sampling.temperature = rp_temperature, a.sampling.top_p = rp_top_p;
            if (round % 2) a.coins.seed = seed, a.coins.offset = offset;
            for (int way = 0; way < 3; way++) {
                a.rule = rules[r][way == 2], a.tokens = out[way], a.num_out = num[way], a.accepted = acc[way],
                a.max_out = G + 1;
                if (way == 2 && !a.rule) break;
                memset(&a.chains, 0, sizeof a.chains);
                if (way == 0) {
                    a.chains.batch = B, a.chains.num_tokens = G, a.chains.token = drafts,
                    a.target.data = rp_target, a.draft.data = rp_draft;
                    if (round % 3) a.chains.lengths = lengths;
                } else {
                    a.target.data = packed_target;
                    if (way == 1)
                        a.chains.batch = B, a.chains.num_tokens = G, a.chains.indptr = indptr,
                        a.chains.token = packed, a.draft.data = packed_draft;
                }
                if (!(round % 2)) a.coins.coins = way ? packed_coins : coins;
                if (way == 2) {
                    int32_t map[B * (G + 1)];
                    for (int b = 0; b < B; b++)
                        for (int n = 0; n <= lengths[b]; n++)
                            map[nodes[b] + n] = n < lengths[b] ? indptr[b] + n : -1;
                    a.trees.batch = B, a.trees.num_nodes = G + 1, a.trees.indptr = nodes,
                    a.trees.parent = parent, a.trees.token = token;
                    a.draft_row = map, a.num_draft_rows = B * G;
                    FA_REQUIRE(fa_verify_tree(&a, rp_workspace, sizeof rp_workspace) == FA_OK);
                } else {
                    FA_REQUIRE(fa_verify_chain(&a) == FA_OK);
                }
                FA_EXPECT_MSG(!memcmp(out[0], out[way], sizeof out[0]) &&
                                  !memcmp(num[0], num[way], sizeof num[0]) &&
                                  !memcmp(acc[0], acc[way], sizeof acc[0]),
                              "round %d, rule %d, way %d", round, rules[r][0], way);
            }
        }
    }
}

/* The same tokens from every compiler, any flags, every instruction set: a hash of some thousands. */
FA_TEST(tokens_do_not_depend_on_the_compiler) {
    enum { W = 700, N = 6 };
    static float target[N * W], draft[N * W];
    static uint64_t workspace[2 * W + 1];
    static const int32_t parent[N] = {-1, 0, 0, 1, 1, 3};
    static const float temperature = 0.7f, top_p = 0.95f;
    static const int32_t top_k = 200;
    uint64_t state = 1, hash = 14695981039346656037u; /* not fat_seed */
    for (int round = 0; round < 90; round++) {
        const int kind = 1 + round % 3;
        for (int i = 0; i < N * W; i++) {
            const int x = fat_below(&state, 16384), y = fat_below(&state, 4096);
            target[i] = kind == FA_LOGITS ? (float)x * 0x1p-11f : (float)(x * (x >> 12)) * 0x1p-26f;
            draft[i] =
                kind == FA_LOGITS ? target[i] + (float)y * 0x1p-12f : target[i] * 0.5f + (float)y * 0x1p-22f;
        }
        for (int rule = FA_VERIFY_GREEDY; rule <= FA_VERIFY_TYPICAL; rule++) {
            const int chain = rule == FA_VERIFY_TOKEN || rule == FA_VERIFY_BLOCK;
            const uint64_t seed = (uint64_t)round, offset = (uint64_t)rule << 40;
            int32_t token[N], out[N];
            fa_sample_args s;
            fa_verify_args a;
            memset(&s, 0, sizeof s), memset(&a, 0, sizeof a);
            s.batch = 1, s.vocab = W, s.coins.seed = &seed, s.coins.offset = &offset, s.rows.kind = kind;
            if (kind == FA_LOGITS)
                s.sampling.temperature = &temperature, s.sampling.top_p = &top_p, s.sampling.top_k = &top_k;
            for (int n = 1; n < N; n++) {
                const int32_t node = n;
                s.rows.data = draft + (chain ? n - 1 : parent[n]) * W, s.node = &node, s.tokens = token + n;
                FA_REQUIRE(fa_sample(&s) == FA_OK);
            }
            a.vocab = W, a.rule = rule, a.sampling = s.sampling, a.coins = s.coins, a.target.data = target,
            a.draft.data = draft;
            a.target.kind = a.draft.kind = kind, a.tokens = out, a.max_out = N;
            a.chains.batch = a.trees.batch = 1, a.chains.num_tokens = N - 1, a.chains.token = token + 1;
            a.trees.num_nodes = N, a.trees.parent = parent, a.trees.token = token;
            FA_REQUIRE((chain ? fa_verify_chain(&a) : fa_verify_tree(&a, workspace, sizeof workspace)) ==
                       FA_OK);
            for (int n = 0; n < N; n++) hash = (hash ^ (uint32_t)out[n]) * 1099511628211u;
        }
    }
    FA_EXPECT_MSG(hash == 0xe9a25187a06834e1u, "0x%llx", (unsigned long long)hash);
}

/* The same of problems of all shapes: small and large vocabularies, dtypes, parameters, odd entries; with
 * flags, with accepted nodes, samples with and without replacement.  Vector and scalar code give one hash. */
FA_TEST(decisions_do_not_depend_on_vectors) {
    enum { W = 1100, N = 6 };
    static const int32_t vocabs[] = {1,   7,   15,  16,  17,  63,  64,  65,   127,
                                     129, 256, 256, 511, 512, 513, 520, 1024, W};
    static const float temperatures[] = {1, 0.7f, 1, 0.05f, 20, 0x1p-20f, 1, 0};
    static const int32_t parent[N] = {-1, 0, 0, 0, 1, 3}, first[N] = {1, 4, 0, 5, 0, 0},
                         ranks[N] = {3, 1, 0, 1, 0, 0};
    static const float odd[] = {NAN, INFINITY, -INFINITY, -0.0f, 0x1p-140f, -1e30f, 1e30f, -NAN};
    static float f[2 * N * W];
    static uint16_t h[2 * N * W];
    static uint64_t workspace[2 * W + 1];
    uint64_t state = 1, hash = 14695981039346656037u; /* not fat_seed */
    for (int round = 0; round < 360; round++) {
        const int32_t vocab = vocabs[round % 18],
                      top_k = fat_below(&state, 3) ? 0 : fat_below(&state, vocab + 20);
        const int kind = fat_below(&state, 2) ? FA_LOGITS : 1 + fat_below(&state, 3),
                  ties = fat_below(&state, 3) == 0,
                  dtype = fat_below(&state, 2)   ? FA_F32
                          : fat_below(&state, 2) ? FA_F16
                                                 : FA_BF16,
                  oddities = fat_below(&state, 4) == 0, like = fat_below(&state, 2);
        const float temperature = temperatures[fat_below(&state, kind == FA_LOGITS ? 8 : 1)],
                    top_p = fat_below(&state, 3) ? 0 : (float)fat_below(&state, 1025) / 1024,
                    min_p = fat_below(&state, 4) ? 0 : (float)fat_below(&state, 512) / 1024;
        for (int i = 0; i < 2 * N * vocab; i++) {
            const int x = fat_below(&state, 32768) + fat_below(&state, 32768), y = ties ? x >> 10 << 10 : x;
            f[i] = kind == FA_LOGITS ? (float)(y - 32768) * 0x1p-12f : (float)y * 0x1p-15f / (float)vocab;
            if (like && i >= N * vocab) f[i] = f[i - N * vocab] + (kind == FA_LOGITS ? f[i] : 0) / 8;
            if (oddities && fat_below(&state, 4 * vocab) == 0) f[i] = odd[fat_below(&state, 8)];
            h[i] = dtype == FA_F16 ? fa_f32_to_f16(f[i]) : fa_f32_to_bf16(f[i]);
        }
        const char *const data = dtype == FA_F32 ? (const char *)f : (const char *)h;
        const int64_t row = vocab * (int64_t)fa_sizeof((fa_dtype)dtype);
        const uint64_t seed = (uint64_t)round;
        for (int rule = FA_VERIFY_GREEDY; rule <= FA_VERIFY_TYPICAL; rule++) {
            const int chain = rule == FA_VERIFY_TOKEN || rule == FA_VERIFY_BLOCK;
            int32_t token[N] = {0}, out[N], accepted[N];
            uint32_t flags[2];
            fa_sample_args s;
            fa_verify_args a;
            memset(&s, 0, sizeof s), memset(&a, 0, sizeof a);
            s.batch = 1, s.vocab = vocab, s.coins.seed = &seed, s.rows.kind = kind,
            s.rows.dtype = (fa_dtype)dtype;
            s.without_replacement = rule == FA_VERIFY_WITHOUT_REPLACEMENT, s.flags = flags;
            s.sampling.temperature = &temperature, s.sampling.top_p = &top_p, s.sampling.top_k = &top_k;
            s.sampling.min_p = &min_p;
            for (int n = 0; n < N; n++) {
                s.rows.data = data + (N + n) * row, s.node = first + n, s.num_samples = ranks[n];
                s.tokens = token + first[n];
                const int32_t next = n + 1;
                if (chain) s.node = &next, s.num_samples = 1, s.tokens = token + (n + 1) % N;
                if (!s.num_samples) continue;
                FA_REQUIRE(fa_sample(&s) == FA_OK);
                for (int i = 0; i < s.num_samples; i++) {
                    hash = (hash ^ (uint32_t)s.tokens[i] ^ flags[0] << 20) * 1099511628211u;
                    if (s.tokens[i] < 0) s.tokens[i] = 0;
                }
            }
            a.vocab = vocab, a.rule = rule, a.sampling = s.sampling, a.draft_sampling = &s.sampling,
            a.coins = s.coins;
            a.target = a.draft = s.rows, a.target.data = data, a.draft.data = data + N * row;
            a.tokens = out, a.accepted = accepted, a.flags = flags, a.max_out = N;
            a.chains.batch = a.trees.batch = 1, a.chains.num_tokens = N - 1, a.chains.token = token + 1;
            a.trees.num_nodes = N, a.trees.parent = parent, a.trees.token = token;
            FA_REQUIRE((chain ? fa_verify_chain(&a) : fa_verify_tree(&a, workspace, sizeof workspace)) ==
                       FA_OK);
            for (int n = 0; n < N; n++)
                hash = (hash ^ (uint32_t)out[n] ^ (uint32_t)accepted[n] << 16) * 1099511628211u;
            hash = (hash ^ flags[0]) * 1099511628211u;
        }
    }
    FA_EXPECT_MSG(hash == 0xc36bf814d9d39607u, "0x%llx", (unsigned long long)hash);
}

FA_TEST(no_drafts_and_temperature_zero) {
    uint64_t state = fat_seed;
    for (int round = 0; round < 30; round++) {
        rp_make(&state);
        for (int rule = FA_VERIFY_GREEDY; rule <= FA_VERIFY_TYPICAL; rule++) {
            fa_verify_args a;
            int32_t out[5], greedy[5], num, best = 0, token[4];
            const float zero = 0;
            if (rule == FA_VERIFY_WITH_REPLACEMENT || rule == FA_VERIFY_WITHOUT_REPLACEMENT) continue;
            memset(&a, 0, sizeof a);
            a.vocab = RP_V, a.rule = rule, a.chains.batch = 1, a.target.data = rp_target, a.tokens = out,
            a.num_out = &num;
            a.sampling.temperature = &zero, a.coins.seed = rp_seed, a.draft.data = rp_draft;
            for (int i = 0; i < RP_V; i++)
                if (rp_target[i] > rp_target[best]) best = i;
            FA_EXPECT(fa_verify_chain(&a) == FA_OK && num == 1 && out[0] == best); /* gamma = 0 */
            for (int n = 0; n < 4; n++) { /* drafts of temperature 0: all rules do as the greedy one does */
                int32_t t = 0;
                for (int i = 0; i < RP_V; i++)
                    if (rp_draft[n * RP_V + i] > rp_draft[n * RP_V + t]) t = i;
                token[n] = t;
            }
            a.chains.num_tokens = 4, a.chains.token = token;
            FA_EXPECT(fa_verify_chain(&a) == FA_OK);
            a.rule = FA_VERIFY_GREEDY, a.tokens = greedy, a.sampling.temperature = NULL;
            FA_EXPECT(fa_verify_chain(&a) == FA_OK && !memcmp(out, greedy, sizeof out));
        }
    }
}

/* Typical acceptance in double, on trees. */
FA_TEST(typical_acceptance) {
    uint64_t state = fat_seed;
    int accepted = 0;
    for (int round = 0; round < 300; round++) {
        rp_make(&state);
        const int nodes = rp_indptr[1];
        double p[RP_N][RP_V], threshold[RP_N], score[RP_N], nearest = 1;
        int depth[RP_N] = {1}, best = 0;
        for (int n = 0; n < nodes; n++) {
            double top = -1e9, sum = 0, entropy = 0;
            for (int i = 0; i < RP_V; i++) top = fmax(top, (double)rp_target[n * RP_V + i]);
            for (int i = 0; i < RP_V; i++) sum += p[n][i] = exp((double)rp_target[n * RP_V + i] - top);
            for (int i = 0; i < RP_V; i++) p[n][i] /= sum, entropy -= p[n][i] * log(p[n][i]);
            threshold[n] = fmin(0.3, 0.09 * exp(-entropy)), score[n] = 0;
        }
        for (int n = 1; n < nodes; n++) {
            const int parent = rp_parent[n];
            const double chance = p[parent][rp_token[n]];
            nearest = fmin(nearest, fabs(chance / threshold[parent] - 1));
            depth[n] = depth[parent] && chance > threshold[parent] ? depth[parent] + 1 : 0;
            score[n] = score[parent] + log(chance);
        }
        for (int n = 1; n < nodes; n++)
            if (depth[n] > depth[best] || (depth[n] == depth[best] && score[n] > score[best] + 1e-6))
                best = n;
        if (nearest < 1e-5) continue;
        fa_verify_args a;
        int32_t out[RP_N], path[RP_N], num;
        memset(&a, 0, sizeof a);
        a.vocab = RP_V, a.rule = FA_VERIFY_TYPICAL, a.trees.batch = 1, a.trees.num_nodes = nodes,
        a.trees.parent = rp_parent;
        a.trees.token = rp_token, a.target.data = rp_target, a.tokens = out, a.accepted = path,
        a.num_out = &num;
        FA_REQUIRE(fa_verify_tree(&a, NULL, 0) == FA_OK);
        FA_EXPECT_MSG(num == depth[best], "round %d: %d, want %d", round, num, depth[best]);
        FA_EXPECT(path[num - 1] == best || fabs(score[path[num - 1]] - score[best]) < 1e-6);
        accepted += num - 1;
        a.typical_epsilon = 1, a.typical_delta = 1; /* nothing is that likely */
        FA_EXPECT(fa_verify_tree(&a, NULL, 0) == FA_OK && num <= depth[best]);
    }
    FA_EXPECT(accepted > 100);
}

/* Ids behind the vocabulary are in the rows, but never come out; 16-bit rows do as their f32 does. */
FA_TEST(padded_vocabulary_and_sixteen_bits) {
    enum { W = 32, G = 3 };
    uint64_t state = fat_seed;
    for (int round = 0; round < 200; round++) {
        float target[2][(G + 1) * W], draft[2][G * W];
        uint16_t target16[(G + 1) * W], draft16[G * W];
        int32_t out[2][G + 1], token[G];
        const int vocab = 1 + fat_below(&state, W - 1);
        const fa_dtype dtype = round % 2 ? FA_F16 : FA_BF16;
        for (int i = 0; i < (G + 1) * W; i++) {
            const float x = i % W < vocab ? (float)fat_normal(&state) : fat_below(&state, 2) ? NAN : INFINITY;
            fa_store(target16, i, dtype, x), target[0][i] = fa_load(target16, i, dtype);
            if (i < G * W) fa_store(draft16, i, dtype, x * 0.5f), draft[0][i] = fa_load(draft16, i, dtype);
        }
        for (int n = 0; n < G; n++) token[n] = fat_below(&state, vocab);
        for (int rule = FA_VERIFY_GREEDY; rule <= FA_VERIFY_BLOCK; rule++)
            for (int narrow = 0; narrow < 2; narrow++) {
                uint32_t flags = 9;
                const uint64_t offset = (uint64_t)round;
                fa_verify_args a;
                memset(&a, 0, sizeof a);
                a.vocab = vocab, a.rule = rule, a.chains.batch = 1, a.chains.num_tokens = G,
                a.chains.token = token;
                a.target.data = narrow ? (void *)target16 : (void *)target[0],
                a.draft.data = narrow ? (void *)draft16 : (void *)draft[0];
                a.target.stride = a.draft.stride = W, a.coins.offset = &offset, a.tokens = out[narrow],
                a.flags = &flags;
                a.target.dtype = a.draft.dtype = narrow ? dtype : 0;
                FA_EXPECT(fa_verify_chain(&a) == FA_OK && flags == 0);
                for (int n = 0; n <= G; n++) FA_EXPECT(out[narrow][n] < vocab);
                if (narrow) FA_EXPECT(!memcmp(out[0], out[1], sizeof out[0]));
            }
    }
}

FA_TEST(refusals) {
    static int seen[FA_NUM_STATUS];
    spec_refusals(seen);
}

/* ---- statistics: drafts by fa_sample and verification, both with Philox, over the first two tokens ---- */

enum { CHI_V = 8, CHI_PAIRS = 26, CHI_BATCH = 500, CHI_ROUNDS = 40 };

/* Pair n: rows of the empty context and behind each token, p and q. */
static void chi_rows(int pair, float p[CHI_V + 1][CHI_V], float q[CHI_V + 1][CHI_V], int *vocab) {
    uint64_t state = fat_seed * 77 + (uint64_t)pair;
    *vocab = pair % 4 == 3 ? 5 : pair % 4 == 2 ? 2 : CHI_V; /* the rest is padding */
    for (int c = 0; c <= CHI_V; c++)
        for (int i = 0; i < CHI_V; i++) {
            double x = exp(fat_normal(&state) * (pair % 3)),
                   y = exp(fat_normal(&state) * (pair % 5) * 0.5) * (pair % 2 ? x : 1);
            if (pair == 0) y = x;                                              /* equal */
            if (pair == 1 || pair == 14) x = i % 2 ? x : 0, y = i % 2 ? 0 : y; /* disjoint */
            if (pair == 4) x = i == 1;                                         /* one-hot */
            if (pair == 5) y = i == c % 2;
            if (pair == 8) x = i < 3 ? x : 0; /* zeros */
            if (pair == 9) y = i < 3 ? y : 0;
            if (pair == 12) y = x * (1 + 1e-5 * (i % 2)); /* near ties */
            if (pair == 13) y = 1, x = 1 + 1e-3 * i;
            if (pair == 16) x = i == 0 ? 1000 : 1; /* peaked */
            if (pair == 17) y = i == 0 ? 1000 : 1;
            if (i >= *vocab) x = y = NAN;
            p[c][i] = (float)x, q[c][i] = (float)y;
        }
}

/* An upper tail of chi-square as a normal quantile [Wilson, Hilferty 1931]. */
static double chi_z(double chi, int degrees) {
    const double v = 2 / (9.0 * degrees);
    return degrees ? (cbrt(chi / degrees) - (1 - v)) / sqrt(v) : chi > 0 ? 99 : 0;
}

/* Draws, verifies, counts pairs of tokens.  wrong: 1 = the draft's coins once more for verification. */
static double chi_run(int pair, int rule, int wrong) {
    static float p[CHI_V + 1][CHI_V], q[CHI_V + 1][CHI_V];
    static float target[CHI_BATCH * 5 * CHI_V], draft[CHI_BATCH * 5 * CHI_V], first_rows[CHI_BATCH * CHI_V],
        next_rows[2 * CHI_BATCH * CHI_V];
    static uint64_t seed[CHI_BATCH], offset[CHI_BATCH], coins[CHI_BATCH * 5], workspace[2 * CHI_V + 1];
    static int32_t parent[CHI_BATCH * 5], token[CHI_BATCH * 5], first[CHI_BATCH * 2], second[CHI_BATCH * 2],
        out[CHI_BATCH * 5], num[CHI_BATCH];
    static int32_t request[CHI_BATCH * 2], node[CHI_BATCH * 2], drafts[CHI_BATCH * 2];
    const int chain = rule == FA_VERIFY_TOKEN || rule == FA_VERIFY_BLOCK, siblings = chain ? 1 : 2,
              nodes = chain ? 3 : 5;
    double count[CHI_V][CHI_V] = {{0}}, chi = 0, rest = 0, rest_want = 0, total = 0;
    uint64_t state = fat_seed + (uint64_t)(pair * 10 + rule);
    int vocab, degrees = -1;
    chi_rows(pair, p, q, &vocab);
    for (int b = 0; b < CHI_BATCH; b++)
        memcpy(first_rows + b * CHI_V, q[0], sizeof q[0]), seed[b] = (uint64_t)b + fat_seed * 1000;
    for (int round = 0; round < (quick() ? CHI_ROUNDS / 8 : CHI_ROUNDS); round++) {
        fa_sample_args s;
        fa_verify_args a;
        memset(&s, 0, sizeof s), memset(&a, 0, sizeof a);
        for (int b = 0; b < CHI_BATCH; b++) offset[b] = (uint64_t)(round + 1000 * (pair + 100 * rule));
        s.batch = CHI_BATCH, s.vocab = vocab, s.rows.data = first_rows, s.rows.stride = CHI_V,
        s.rows.kind = FA_WEIGHTS;
        s.num_samples = siblings, s.without_replacement = rule == FA_VERIFY_WITHOUT_REPLACEMENT,
        s.tokens = first;
        s.coins.seed = seed, s.coins.offset = offset;
        if (fa_sample(&s) != FA_OK) return 99;
        for (int n = 0; n < CHI_BATCH * siblings;
             n++) { /* one child behind each; node 0, siblings, children */
            if (first[n] < 0)
                first[n] = 0; /* only one token has a chance: the second sibling may be anything */
            memcpy(next_rows + n * CHI_V, q[1 + first[n]], sizeof q[0]);
            request[n] = n / siblings, node[n] = 1 + siblings + n % siblings;
        }
        s.num_rows = CHI_BATCH * siblings, s.rows.data = next_rows, s.request = request, s.node = node,
        s.num_samples = 1;
        s.tokens = second;
        if (fa_sample(&s) != FA_OK) return 99;
        for (int b = 0; b < CHI_BATCH; b++) {
            const int at = b * nodes;
            memcpy(target + at * CHI_V, p[0], sizeof p[0]),
                memcpy(draft + (chain ? b * 2 : at) * CHI_V, q[0], sizeof q[0]);
            parent[at] = -1, token[at] = 0;
            for (int n = 0; n < siblings; n++) {
                const int x = first[b * siblings + n], y = second[b * siblings + n];
                parent[at + 1 + n] = 0, parent[at + 1 + siblings + n] = 1 + n;
                token[at + 1 + n] = x, token[at + 1 + siblings + n] = y;
                memcpy(target + (at + 1 + n) * CHI_V, p[1 + x], sizeof p[0]);
                memcpy(target + (at + 1 + siblings + n) * CHI_V, p[1 + y],
                       sizeof p[0]); /* any row: third tokens are not looked at */
                memcpy(draft + (chain ? b * 2 + 1 : at + 1 + n) * CHI_V, q[1 + x], sizeof q[0]);
            }
            drafts[b * 2] = token[at + 1], drafts[b * 2 + 1] = token[at + 2];
            for (int n = 0; n < nodes; n++) /* the mistake: coins of the drafts again */
                coins[at + n] = fa_coin(seed[b], offset[b], FA_COIN_DRAFT, n ? (uint32_t)n : 1);
        }
        a.vocab = vocab, a.rule = rule, a.target.data = target, a.draft.data = draft,
        a.target.stride = a.draft.stride = CHI_V;
        a.target.kind = a.draft.kind = FA_WEIGHTS, a.coins.seed = seed, a.coins.offset = offset,
        a.tokens = out, a.num_out = num;
        a.max_out = nodes;
        if (wrong) a.coins.coins = coins;
        a.chains.batch = a.trees.batch = CHI_BATCH, a.chains.num_tokens = 2, a.chains.token = drafts;
        a.trees.num_nodes = nodes, a.trees.parent = parent, a.trees.token = token;
        if ((chain ? fa_verify_chain(&a) : fa_verify_tree(&a, workspace, sizeof workspace)) != FA_OK)
            return 99;
        for (int b = 0; b < CHI_BATCH; b++) {
            const int x = out[b * nodes];
            int y = out[b * nodes + 1];
            if (num[b] == 1) { /* the next step would draw it from p */
                double sum = 0, u;
                for (int i = 0; i < vocab; i++) sum += (double)p[1 + x][i];
                u = fat_uniform(&state) * sum;
                for (y = 0; y < vocab - 1 && (u -= (double)p[1 + x][y]) >= 0;) y++;
            }
            count[x][y]++, total++;
        }
    }
    for (int x = 0; x < vocab; x++)
        for (int y = 0; y < vocab; y++) {
            double sum0 = 0, sum1 = 0;
            for (int i = 0; i < vocab; i++) sum0 += (double)p[0][i], sum1 += (double)p[1 + x][i];
            const double want = total * (double)p[0][x] / sum0 * (double)p[1 + x][y] / sum1;
            if (want == 0 && count[x][y] > 0) return 99;
            if (want < 10)
                rest += count[x][y], rest_want += want; /* rare ones together */
            else
                chi += (count[x][y] - want) * (count[x][y] - want) / want, degrees++;
        }
    if (rest_want > 10) chi += (rest - rest_want) * (rest - rest_want) / rest_want, degrees++;
    return degrees < 1 ? 0 : chi_z(chi, degrees);
}

FA_TEST(two_tokens_chi_square) {
    static const int rules[] = {FA_VERIFY_TOKEN, FA_VERIFY_BLOCK, FA_VERIFY_WITH_REPLACEMENT,
                                FA_VERIFY_WITHOUT_REPLACEMENT, FA_VERIFY_TARGET_ONLY};
    for (int r = 0; r < 5; r++) {
        double worst = -9;
        int seen = 0;
        for (int pair = 0; pair < CHI_PAIRS; pair++) {
            const double z = chi_run(pair, rules[r], 0);
            FA_EXPECT_MSG(z < 5.7, "rule %d, pair %d: %.2f", rules[r], pair, z); /* 1e-6 over 130 tests */
            worst = fmax(worst, z);
        }
        for (int pair = 0; pair < CHI_PAIRS; pair++) seen += chi_run(pair, rules[r], 1) > 5.7;
        FA_EXPECT_MSG(seen >= (quick() ? 3 : 6), "rule %d: reuse of coins is seen in %d pairs only", rules[r],
                      seen);
        (void)worst;
    }
}

FA_TEST_MAIN
