/* test_spec_planning.c - formulas against published tables, definitions and enumeration; estimators
 * against the law they watch; choices against trying everything; boosting of drafts. */
#include "fa_test.h"

#include "flashattn_spec.h"

/* ---- formulas ---------------------------------------------------------------------------- */

FA_TEST(leviathan_tables) {
    static const int gammas[7] = {1, 2, 3, 4, 5, 7, 10};
    static const double alphas[5] = {0.5, 0.6, 0.7, 0.8, 0.9},
                        want[5][7] = {{1.500, 1.750, 1.875, 1.938, 1.969, 1.992, 1.999},
                                      {1.600, 1.960, 2.176, 2.306, 2.383, 2.458, 2.491},
                                      {1.700, 2.190, 2.533, 2.773, 2.941, 3.141, 3.267},
                                      {1.800, 2.440, 2.952, 3.362, 3.689, 4.161, 4.571},
                                      {1.900, 2.710, 3.439, 4.095, 4.686, 5.695, 6.862}};
    static const double costs[5] = {0.01, 0.02, 0.05, 0.1, 0.2}, picked[3] = {0.6, 0.8, 0.9};
    static const int best[3][5] = {{7, 6, 4, 3, 2}, {14, 11, 8, 6, 4}, {24, 19, 13, 10, 7}};
    static const double speedup[3][5] = {
        {2.30, 2.17, 1.92, 1.67, 1.40}, {4.23, 3.82, 3.09, 2.47, 1.87}, {7.49, 6.37, 4.67, 3.43, 2.37}};
    for (int a = 0; a < 5; a++)
        for (int g = 0; g < 7; g++)
            FA_EXPECT_NEAR(fa_expected_tokens(alphas[a], gammas[g]), want[a][g], 5.1e-4);
    for (int a = 0; a < 3; a++)
        for (int c = 0; c < 5; c++) {
            double x = 0;
            FA_EXPECT(fa_optimal_gamma(picked[a], costs[c], 100, &x) == best[a][c]);
            FA_EXPECT_NEAR(x, speedup[a][c], 5.1e-3);
        }
    uint64_t rng = fat_seed;
    for (int n = 0; n < 200; n++) { /* the closed forms of the paper */
        const double alpha = 0.99 * fat_uniform(&rng), c = fat_uniform(&rng);
        const int gamma = fat_below(&rng, 40);
        const double tokens = (1 - pow(alpha, gamma + 1)) / (1 - alpha);
        FA_EXPECT_NEAR(fa_expected_tokens(alpha, gamma), tokens, 1e-11 * tokens);
        FA_EXPECT_NEAR(fa_speedup(alpha, gamma, c), tokens / (gamma * c + 1), 1e-11 * tokens);
        FA_EXPECT_NEAR(fa_operations(alpha, gamma, c),
                       (1 - alpha) * (gamma * c + gamma + 1) / (1 - pow(alpha, gamma + 1)), 1e-9);
    }
    double x = 0;
    FA_EXPECT(fa_expected_tokens(1, 5) == 6 && fa_expected_tokens(0, 5) == 1 &&
              fa_expected_tokens(0.3, 0) == 1);
    FA_EXPECT(fa_expected_tokens(0.5, 1 << 30) == 2 && fa_speedup(0, 0, 0) == 1 &&
              fa_operations(0, 0, 0) == 1);
    FA_EXPECT(isnan(fa_expected_tokens(-0.1, 5)) && isnan(fa_expected_tokens(1.1, 5)) &&
              isnan(fa_expected_tokens(NAN, 5)));
    FA_EXPECT(isnan(fa_expected_tokens(0.5, -1)) && isnan(fa_speedup(0.5, 2, -1)) &&
              isnan(fa_operations(0.5, 2, NAN)));
    FA_EXPECT(fa_optimal_gamma(0.5, 0.6, 9, &x) == 0 && x == 1); /* c > alpha: do not draft */
    FA_EXPECT(fa_optimal_gamma(NAN, 0.1, 9, &x) == -1 && isnan(x) &&
              fa_optimal_gamma(0.5, 0.1, -1, NULL) == -1);
}

/* p, q: rows of every prefix. plain: the rows do not depend on it. */
static void make_rows(double *p, int rows, int vocab, int plain, uint64_t *rng) {
    for (int n = 0; n < rows; n++) {
        double sum = 0;
        for (int x = 0; x < vocab; x++)
            p[n * vocab + x] = fat_below(rng, 5) ? fat_uniform(rng) : 0, sum += p[n * vocab + x];
        for (int x = 0; x < vocab; x++) p[n * vocab + x] = sum > 0 ? p[n * vocab + x] / sum : x == 0;
        if (plain && n) memcpy(p + n * vocab, p, (size_t)vocab * sizeof *p);
    }
}

FA_TEST(acceptance) {
    uint64_t rng = fat_seed;
    float p[4] = {0.1f, 0.2f, 0.3f, 0.4f}, q[4] = {0.4f, 0.3f, 0.2f, 0.1f};
    FA_EXPECT_NEAR(fa_acceptance(p, q, 4), 0.6, 1e-7);
    FA_EXPECT_NEAR(fa_acceptance(p, p, 4), 1, 1e-7);
    q[1] = NAN, q[2] = -1;
    FA_EXPECT_NEAR(fa_acceptance(p, q, 4), 0.2, 1e-7);
    FA_EXPECT_NEAR(fa_acceptance(q, p, 4), 0.2, 1e-7);
    for (int round = 0; round < 50;
         round++) { /* rows that do not depend on the prefix: the law of the formula */
        enum { V = 3, GAMMA = 4, ROWS = 1 + 3 + 9 + 27 };
        double rows[2][ROWS * V], alpha = 0;
        float single[2][V];
        make_rows(rows[0], ROWS, V, 1, &rng), make_rows(rows[1], ROWS, V, 1, &rng);
        for (int i = 0; i < 2 * V; i++) single[i / V][i % V] = (float)rows[i / V][i % V];
        for (int x = 0; x < V; x++) alpha += fmin(rows[0][x], rows[1][x]);
        FA_EXPECT_NEAR(fa_acceptance(single[0], single[1], V), alpha, 1e-6);
        for (int gamma = 0; gamma <= GAMMA; gamma++)
            FA_EXPECT_NEAR(1 + fa_chain_expected(rows[0], rows[1], V, gamma, 0),
                           fa_expected_tokens(alpha, gamma), 1e-12);
    }
}

/* The law of both rules, sequence by sequence and forwards. */
static double chain_law(const double *p, const double *q, int vocab, int gamma, int block) {
    double expected = 0;
    int sequences = 1;
    for (int i = 0; i < gamma; i++) sequences *= vocab;
    for (int s = 0; s < sequences; s++) {
        double drawn = 1, kept[8] = {1}, h[8] = {1}, none = 1;
        for (int i = 0, row = 0, rest = s; i <= gamma; i++) {
            double z = 0;
            for (int x = 0; x < vocab && i < gamma; x++)
                z += fmax(kept[i] * p[row * vocab + x] - q[row * vocab + x], 0);
            h[i] = i == gamma ? kept[i] : z + 1 - kept[i] > 0 ? z / (z + 1 - kept[i]) : 1;
            if (i == gamma) break;
            const int x = rest % vocab;
            const double ratio = q[row * vocab + x] > 0 ? p[row * vocab + x] / q[row * vocab + x] : 0;
            drawn *= q[row * vocab + x], kept[i + 1] = fmin(kept[i] * ratio, 1);
            rest /= vocab, row = row * vocab + 1 + x;
        }
        if (block) {
            for (int i = gamma; i > 0; i--) expected += drawn * none * h[i] * i, none *= 1 - h[i];
        } else {
            double one = 1;
            for (int i = 0, row = 0, rest = s; i < gamma; i++) {
                const int x = rest % vocab;
                if (q[row * vocab + x] > 0) one *= fmin(p[row * vocab + x] / q[row * vocab + x], 1);
                expected += drawn * one;
                rest /= vocab, row = row * vocab + 1 + x;
            }
        }
    }
    return expected;
}

FA_TEST(block_verification) {
    uint64_t rng = fat_seed;
    double p[1 + 2][2], q[1 + 2][2];
    for (int n = 0; n < 3; n++) p[n][0] = q[n][1] = 1.0 / 3, p[n][1] = q[n][0] = 2.0 / 3;
    FA_EXPECT_NEAR(fa_chain_expected(&p[0][0], &q[0][0], 2, 2, 0), 10.0 / 9, 1e-14);
    FA_EXPECT_NEAR(fa_chain_expected(&p[0][0], &q[0][0], 2, 2, 1), 11.0 / 9, 1e-14);
    int better = 0;
    for (int round = 0; round < 200; round++) {
        double rows[2][40 * 3]; /* 1 + 3 + 9 + 27 */
        const int vocab = 1 + fat_below(&rng, 3), gamma = fat_below(&rng, 5);
        make_rows(rows[0], 40, vocab, 0, &rng), make_rows(rows[1], 40, vocab, 0, &rng);
        const double token = fa_chain_expected(rows[0], rows[1], vocab, gamma, 0);
        const double block = fa_chain_expected(rows[0], rows[1], vocab, gamma, 1);
        FA_EXPECT_NEAR(token, chain_law(rows[0], rows[1], vocab, gamma, 0), 1e-12);
        FA_EXPECT_NEAR(block, chain_law(rows[0], rows[1], vocab, gamma, 1), 1e-12);
        FA_EXPECT(block >= token - 1e-12 && block <= gamma + 1e-12);
        better += block > token + 1e-6;
        FA_EXPECT_NEAR(fa_chain_expected(rows[0], rows[0], vocab, gamma, 1), gamma,
                       1e-12); /* p = q: all of them */
    }
    FA_EXPECT_MSG(better > 30, "%d", better);
    FA_EXPECT(isnan(fa_chain_expected(NULL, &q[0][0], 2, 2, 0)) &&
              isnan(fa_chain_expected(&p[0][0], &q[0][0], 2, -1, 0)));
    FA_EXPECT(isnan(fa_chain_expected(&p[0][0], &q[0][0], 0, 2, 0)) &&
              isnan(fa_chain_expected(&p[0][0], &q[0][0], 2000, 3, 0)));
}

static const double DEMO[8] = {.63418, .10795, .05697, .02249, .01949, .01499, .0045, .003}; /* of Sequoia */
static const double DEMO16[16] = {.63418, .10795, .05697, .02249, .01949, .01499, .0045, .003,
                                  .01199, .0045,  .0075,  .0045,  .006,   .003,   .0015, .003};

FA_TEST(tree_values) {
    static const int chains[5] = {4, 5, 8, 16, 8}, length[5] = {8, 8, 8, 8, 16};
    static const double halves[2] = {0.5, 0.5}, want[5] = {3.187, 3.239, 3.299, 3.411, 3.359};
    static int32_t paths[16][16], parent[FA_TREE_MAX_NODES], rank[FA_TREE_MAX_NODES];
    fa_tree t = {FA_TREE_MAX_NODES, 0, parent, NULL, rank};
    for (int n = 0; n < 5; n++) { /* k chains of its own for each child of the root */
        memset(paths, 0xff, sizeof paths);
        for (int c = 0; c < chains[n]; c++)
            for (int d = 0; d < length[n]; d++) paths[c][d] = d ? 0 : c;
        FA_REQUIRE(fa_tree_from_paths(&paths[0][0], chains[n], 16, &t, NULL) == FA_OK);
        FA_EXPECT(t.num_nodes == 1 + chains[n] * length[n]);
        FA_EXPECT_NEAR(fa_tree_value(&t, DEMO16, 16, 0, 0), want[n], 5.1e-4);
    }
    FA_EXPECT_NEAR(fa_tree_limit(DEMO, 1), 2.734, 5.1e-4);
    FA_EXPECT_NEAR(fa_tree_limit(DEMO, 2), 1 / (1 - .63418 - .10795), 1e-12);
    FA_EXPECT(fa_tree_limit(DEMO, 0) == 1 && fa_tree_limit(halves, 2) == INFINITY);
    const int32_t width[3] = {2, 1, 2};
    const double levels[3][2] = {{0.5, 0.25}, {0.8, 0.1}, {0.6, 0.3}};
    FA_REQUIRE(fa_tree_expand(width, 3, &t, NULL) == FA_OK);
    FA_EXPECT_NEAR(fa_tree_value(&t, &levels[0][0], 2, 3, 2), 1 + 0.75 + 0.75 * 0.8 + 0.75 * 0.8 * 0.9,
                   1e-12);
    FA_EXPECT_NEAR(fa_tree_value(&t, &levels[0][0], 2, 2, 2), 1 + 0.75 + 0.75 * 0.8, 1e-12);
    FA_EXPECT_NEAR(fa_tree_value(&t, &levels[0][0], 1, 3, 2), 1 + 0.5 + 0.5 * 0.8 + 0.5 * 0.8 * 0.6, 1e-12);
    t.rank = NULL;
    FA_EXPECT(isnan(fa_tree_value(&t, DEMO, 8, 0, 0)));
    t.rank = rank, parent[2] = 7;
    FA_EXPECT(isnan(fa_tree_value(&t, DEMO, 8, 0, 0)) && isnan(fa_tree_value(NULL, DEMO, 8, 0, 0)));
}

/* Deep trees of a few children come close to their limit, and stay below. */
FA_TEST(limits) {
    static double workspace[1 << 17];
    fa_sequoia_args a;
    memset(&a, 0, sizeof a);
    a.acceptance = DEMO, a.ranks = 8, a.max_nodes = 256, a.max_depth = 40;
    for (int k = 1; k <= 3; k++) {
        a.max_branch = k;
        FA_REQUIRE(fa_sequoia_workspace(&a) <= sizeof workspace);
        FA_REQUIRE(fa_sequoia(&a, workspace, sizeof workspace) == FA_OK);
        const double value = fa_sequoia_value(&a, workspace, k > 1 ? 256 : 41, 40),
                     limit = fa_tree_limit(DEMO, k);
        FA_EXPECT_MSG(value < limit + 1e-9 && value > 0.8 * limit, "%d: %g of %g", k, value, limit);
    }
}

/* ---- estimators -------------------------------------------------------------------------- */

FA_TEST(estimator) {
    uint64_t rng = fat_seed;
    for (int n = 0; n < 5; n++) {
        const double alpha = 0.1 + 0.2 * n;
        fa_estimator e = {0.5, 4, 1, 0, 0};
        FA_EXPECT(fa_estimator_alpha(&e) == 0.5);
        double accepted = 0, steps = 0;
        for (int step = 0; step < 4000; step++) {
            const int drafted = fat_below(&rng, 8);
            int got = 0;
            while (got < drafted && fat_uniform(&rng) < alpha) got++;
            FA_REQUIRE(fa_estimator_update(&e, drafted, got, NULL) == FA_OK);
            accepted += got, steps += got + (got < drafted);
        }
        FA_EXPECT_NEAR(fa_estimator_alpha(&e), (2 + accepted) / (4 + steps), 1e-12);
        FA_EXPECT_NEAR(fa_estimator_alpha(&e), alpha, 5 * sqrt(alpha * (1 - alpha) / steps) + 4 / steps);
        e.keep = 0.95; /* forgets: follows a change */
        for (int step = 0; step < 200; step++) {
            int got = 0;
            while (got < 5 && fat_uniform(&rng) < 1 - alpha) got++;
            FA_REQUIRE(fa_estimator_update(&e, 5, got, NULL) == FA_OK);
        }
        FA_EXPECT_NEAR(fa_estimator_alpha(&e), 1 - alpha, 0.2);
    }
    fa_estimator e = {0.5, 4, 1, 0, 0};
    fa_error error;
    FA_EXPECT(fa_estimator_update(&e, 3, 4, &error) == FA_ERR_PLAN && error.max == 3);
    FA_EXPECT(fa_estimator_update(&e, -1, 0, &error) == FA_ERR_PLAN);
    FA_EXPECT(fa_estimator_update(&e, 3, -1, &error) == FA_ERR_PLAN);
    FA_EXPECT(fa_estimator_update(NULL, 3, 1, &error) == FA_ERR_ARGS_NULL);
    e.keep = NAN;
    FA_EXPECT(fa_estimator_update(&e, 3, 1, &error) == FA_ERR_PROBABILITY && e.tried == 0);
}

FA_TEST(rank_estimator) {
    static int32_t parent[64], rank[64];
    const double prior[4] = {0.25, 0.25, 0.25, 0.25};
    double hits[4] = {0}, tried[4] = {0}, out[4];
    const int32_t width[3] = {4, 2, 3};
    uint64_t rng = fat_seed;
    fa_tree t = {64, 0, parent, NULL, rank};
    fa_rank_estimator e = {4, prior, 2, 1, hits, tried};
    fa_error error;
    FA_REQUIRE(fa_tree_expand(width, 3, &t, NULL) == FA_OK);
    fa_rank_acceptance(&e, out);
    FA_EXPECT(out[0] == 0.25 && out[3] == 0.25);
    for (int step = 0; step < 20000; step++) {
        int32_t path[3], num = 0, node = 0;
        for (int d = 0; d < 3; d++) {
            double u = fat_uniform(&rng);
            int r = 0, child = 1;
            while (r < width[d] && u >= DEMO[r]) u -= DEMO[r], r++;
            if (r == width[d]) break;
            while (parent[child] != node || rank[child] != r) child++;
            path[num++] = child, node = child;
        }
        FA_REQUIRE(fa_rank_update(&e, &t, path, num, NULL) == FA_OK);
    }
    fa_rank_acceptance(&e, out);
    for (int r = 0; r < 4; r++) FA_EXPECT_NEAR(out[r], DEMO[r], 5 * sqrt(DEMO[r] / tried[r]) + 1e-4);
    FA_EXPECT(tried[0] == tried[1] && tried[1] > tried[2] && tried[2] > tried[3] && tried[3] == 20000);
    int32_t path[2] = {1, 7};
    FA_EXPECT(fa_rank_update(&e, &t, path, 2, &error) == FA_ERR_PLAN &&
              error.index == 1); /* 7 is no child of 1 */
    path[0] = 5;
    FA_EXPECT(fa_rank_update(&e, &t, path, 1, &error) == FA_ERR_PLAN && error.index == 0);
    FA_EXPECT(fa_rank_update(&e, &t, NULL, 1, &error) == FA_ERR_PLAN);
    FA_EXPECT(fa_rank_update(NULL, &t, NULL, 0, &error) == FA_ERR_ARGS_NULL);
    e.keep = 0;
    FA_EXPECT(fa_rank_update(&e, &t, NULL, 0, &error) == FA_OK && tried[0] == 1 && hits[0] == 0);
}

/* ---- choices ----------------------------------------------------------------------------- */

static const int32_t POINTS[5] = {1, 8, 32, 64, 256};
static const double FLAT[5] = {1, 1, 1.1, 1.5, 5}; /* memory-bound, then compute-bound */

FA_TEST(costs) {
    fa_cost c = {5, POINTS, FLAT, 0.05, 0.01};
    fa_error e;
    FA_EXPECT(fa_cost_check(&c, NULL) == FA_OK);
    for (int i = 0; i < 5; i++) FA_EXPECT_NEAR(fa_cost_target(&c, POINTS[i]), FLAT[i], 1e-15);
    FA_EXPECT_NEAR(fa_cost_target(&c, 20), 1.05, 1e-15);
    FA_EXPECT_NEAR(fa_cost_target(&c, 160), 3.25, 1e-15);
    FA_EXPECT_NEAR(fa_cost_target(&c, 352), 6.75, 1e-12); /* the last slope */
    FA_EXPECT(fa_cost_target(&c, 0) == 1);
    FA_EXPECT_NEAR(fa_cost_step(&c, 20, 3), 1.05 + 0.15 + 0.01, 1e-15);
    c.count = 1;
    FA_EXPECT(fa_cost_target(&c, 1000) == 1);
    const int32_t two[2] = {1, 2};
    const double falls[2] = {2, 1};
    const fa_cost f = {2, two, falls, 0, 0};
    FA_EXPECT(fa_cost_target(&f, 1.5) == 1.5 && fa_cost_target(&f, 50) == 1);
#define BAD(change) \
    { \
        int32_t tokens[2] = {1, 2}; \
        double seconds[2] = {1, 2}; \
        fa_cost x = {2, tokens, seconds, 0, 0}; \
        { change; } \
        FA_EXPECT_MSG(fa_cost_check(&x, &e) == FA_ERR_COST && e.status == FA_ERR_COST, "%s", #change); \
    }
    BAD(x.count = 0)
    BAD(x.tokens = NULL)
    BAD(x.seconds = NULL)
    BAD(tokens[0] = 0)
    BAD(tokens[1] = 1)
    BAD(seconds[1] = 0)
    BAD(seconds[1] = NAN)
    BAD(seconds[1] = INFINITY)
    BAD(x.draft = -1)
    BAD(x.base = NAN)
#undef BAD
    FA_EXPECT(fa_cost_check(NULL, &e) == FA_ERR_ARGS_NULL);
}

static fa_cost random_cost(double *seconds, uint64_t *rng) {
    fa_cost c = {5, POINTS, seconds, 0.2 * fat_uniform(rng), 0.2 * fat_uniform(rng)};
    seconds[0] = 0.5 + fat_uniform(rng);
    for (int i = 1; i < 5; i++) seconds[i] = seconds[i - 1] + 2 * fat_uniform(rng) * fat_uniform(rng);
    return c;
}

FA_TEST(choose_gamma) {
    uint64_t rng = fat_seed;
    fa_error e;
    for (int round = 0; round < 300; round++) {
        double seconds[5], best = 0, rate = 0;
        const fa_cost c = random_cost(seconds, &rng);
        const int batch = 1 + fat_below(&rng, 40), most = fat_below(&rng, 20);
        const double alpha = round % 10 ? fat_uniform(&rng) : round % 20 ? 1 : 0;
        int want = -1;
        int32_t gamma = -1;
        for (int g = 0; g <= most; g++) {
            double tokens = 0, power = 1;
            for (int i = 0; i <= g; i++) tokens += power, power *= alpha;
            const double x = batch * tokens / (fa_cost_target(&c, batch * (g + 1)) + g * c.draft + c.base);
            if (x > best * (1 + 1e-12)) best = x, want = g;
        }
        FA_REQUIRE(fa_choose_gamma(alpha, &c, batch, most, &gamma, &rate, NULL) == FA_OK);
        FA_EXPECT(gamma == want);
        FA_EXPECT_NEAR(rate, best, 1e-12 * best);
    }
    int32_t gamma = 7;
    const fa_cost c = {5, POINTS, FLAT, 0, 0};
    FA_EXPECT(fa_choose_gamma(1.5, &c, 1, 4, &gamma, NULL, &e) == FA_ERR_PROBABILITY);
    FA_EXPECT(fa_choose_gamma(0.5, &c, 0, 4, &gamma, NULL, &e) == FA_ERR_PLAN);
    FA_EXPECT(fa_choose_gamma(0.5, &c, 1, -1, &gamma, NULL, &e) == FA_ERR_PLAN);
    FA_EXPECT(fa_choose_gamma(0.5, &c, 1, 4, NULL, NULL, &e) == FA_ERR_PLAN);
    FA_EXPECT(fa_choose_gamma(0.5, NULL, 1, 4, &gamma, NULL, &e) == FA_ERR_ARGS_NULL && gamma == 7);
}

/* Against all gammas of all requests. */
FA_TEST(choose_gammas) {
    enum { BATCH = 3, MOST = 5 };
    uint64_t rng = fat_seed, workspace[BATCH * MOST];
    fa_error e;
    int differ = 0;
    FA_EXPECT(fa_choose_gammas_workspace(BATCH, MOST) == sizeof workspace);
    for (int round = 0; round < 200; round++) {
        double seconds[5], alpha[BATCH], best = 0, rate = 0;
        const fa_cost c = random_cost(seconds, &rng);
        int32_t gamma[BATCH], longest = 0, tokens = BATCH;
        for (int b = 0; b < BATCH; b++) alpha[b] = round % 9 ? fat_uniform(&rng) : b % 2;
        for (int all = 0; all < (MOST + 1) * (MOST + 1) * (MOST + 1); all++) {
            double expected = 0;
            int n = BATCH, deepest = 0;
            for (int b = 0, rest = all; b < BATCH; b++, rest /= MOST + 1) {
                const int g = rest % (MOST + 1);
                expected += fa_expected_tokens(alpha[b], g), n += g, deepest = g > deepest ? g : deepest;
            }
            best = fmax(best, expected / fa_cost_step(&c, n, deepest));
        }
        FA_REQUIRE(fa_choose_gammas(alpha, BATCH, &c, MOST, gamma, &rate, workspace, sizeof workspace,
                                    NULL) == FA_OK);
        FA_EXPECT_NEAR(rate, best, 1e-6 * best);
        double expected = 0;
        for (int b = 0; b < BATCH; b++) {
            FA_EXPECT(gamma[b] >= 0 && gamma[b] <= MOST);
            expected += fa_expected_tokens(alpha[b], gamma[b]), tokens += gamma[b];
            longest = gamma[b] > longest ? gamma[b] : longest;
        }
        FA_EXPECT_NEAR(expected / fa_cost_step(&c, tokens, longest), best, 1e-6 * best);
        differ += gamma[0] != gamma[1];
    }
    FA_EXPECT(differ > 50);
    double alpha[BATCH] = {0.5, 0.5, NAN};
    int32_t gamma[BATCH] = {7, 7, 7};
    const fa_cost c = {5, POINTS, FLAT, 0, 0};
    FA_EXPECT(fa_choose_gammas(alpha, 3, &c, MOST, gamma, NULL, workspace, sizeof workspace, &e) ==
                  FA_ERR_PROBABILITY &&
              e.index == 2);
    FA_EXPECT(fa_choose_gammas(alpha, 2, &c, MOST, gamma, NULL, workspace, 8, &e) == FA_ERR_WORKSPACE_SIZE);
    FA_EXPECT(fa_choose_gammas(alpha, 2, &c, MOST, gamma, NULL, NULL, 800, &e) == FA_ERR_WORKSPACE_NULL);
    FA_EXPECT(fa_choose_gammas(alpha, 0, &c, MOST, gamma, NULL, workspace, 800, &e) == FA_ERR_PLAN);
    FA_EXPECT(fa_choose_gammas(alpha, 2, &c, 2000, gamma, NULL, workspace, 800, &e) == FA_ERR_PLAN);
    FA_EXPECT(fa_choose_gammas(NULL, 2, &c, MOST, gamma, NULL, workspace, sizeof workspace, &e) ==
                  FA_ERR_PLAN &&
              gamma[0] == 7);
    FA_EXPECT(fa_choose_gammas(alpha, 2, &c, 0, gamma, NULL, NULL, 0, &e) == FA_OK && gamma[0] == 0 &&
              gamma[2] == 7);
}

FA_TEST(choose_tree) {
    enum { NODES = 64, DEPTH = 10 };
    static double workspace[1 << 15];
    static int32_t parent[NODES], rank[NODES];
    uint64_t rng = fat_seed;
    fa_error e;
    fa_sequoia_args a;
    memset(&a, 0, sizeof a);
    a.acceptance = DEMO, a.ranks = 8, a.max_nodes = NODES, a.max_depth = DEPTH, a.error = &e;
    FA_REQUIRE(fa_sequoia_workspace(&a) <= sizeof workspace &&
               fa_sequoia(&a, workspace, sizeof workspace) == FA_OK);
    for (int round = 0; round < 60; round++) {
        double seconds[5], best = 0, rate = 0;
        const fa_cost c = random_cost(seconds, &rng);
        const int batch = 1 + fat_below(&rng, 20);
        int32_t nodes = 0, depth = -1;
        for (int n = 1; n <= NODES; n++)
            for (int d = 0; d <= DEPTH; d++)
                best = fmax(best, batch * fa_sequoia_value(&a, workspace, n, d) /
                                      fa_cost_step(&c, (double)batch * n, d));
        FA_REQUIRE(fa_choose_tree(&a, workspace, sizeof workspace, &c, batch, &nodes, &depth, &rate) ==
                   FA_OK);
        FA_EXPECT_NEAR(rate, best, 1e-12);
        fa_tree t = {NODES, 0, parent, NULL, rank}; /* the tree itself is worth that */
        FA_REQUIRE(fa_sequoia_tree(&a, workspace, sizeof workspace, nodes, depth, &t) == FA_OK &&
                   t.num_nodes == nodes);
        const double value = fa_tree_value(&t, DEMO, 8, 0, 0);
        FA_EXPECT_NEAR(batch * value / fa_cost_step(&c, (double)batch * nodes, depth), best, 1e-12 * best);
        /* the first nodes of a tree that is there already */
        double likely[NODES], sum = 0;
        for (int i = 0; i < NODES; i++) likely[i] = i ? likely[i - 1] * fat_uniform(&rng) : 1;
        best = 0;
        int32_t want = 0;
        for (int i = 0; i < NODES; i++) {
            sum += likely[i];
            const double x = batch * sum / (fa_cost_target(&c, batch * (i + 1)) + c.base);
            if (x > best) best = x, want = i + 1;
        }
        FA_REQUIRE(fa_choose_nodes(likely, NODES, &c, batch, &nodes, &rate, NULL) == FA_OK && nodes == want);
        FA_EXPECT_NEAR(rate, best, 1e-12 * best);
    }
    int32_t nodes = 7, depth = 7;
    fa_cost c = {5, POINTS, FLAT, 0, 0};
    double likely[2] = {1, -0.5};
    FA_EXPECT(fa_choose_tree(&a, workspace, sizeof workspace, &c, 0, &nodes, &depth, NULL) == FA_ERR_PLAN);
    FA_EXPECT(fa_choose_tree(&a, workspace, 8, &c, 1, &nodes, &depth, NULL) == FA_ERR_WORKSPACE_SIZE);
    FA_EXPECT(fa_choose_tree(&a, workspace, sizeof workspace, &c, 1, NULL, &depth, NULL) == FA_ERR_PLAN);
    FA_EXPECT(fa_choose_tree(NULL, workspace, sizeof workspace, &c, 1, &nodes, &depth, NULL) ==
              FA_ERR_ARGS_NULL);
    FA_EXPECT(fa_choose_nodes(likely, 2, &c, 1, &nodes, NULL, &e) == FA_ERR_PROBABILITY && e.index == 1);
    FA_EXPECT(fa_choose_nodes(likely, 0, &c, 1, &nodes, NULL, &e) == FA_ERR_PLAN);
    FA_EXPECT(fa_choose_nodes(NULL, 1, &c, 1, &nodes, NULL, &e) == FA_ERR_PLAN);
    c.draft = -1;
    FA_EXPECT(fa_choose_tree(&a, workspace, sizeof workspace, &c, 1, &nodes, &depth, NULL) == FA_ERR_COST);
    FA_EXPECT(nodes == 7 && depth == 7);
}

/* A text that is easy to guess, then hard, then easy: gamma follows, and no fixed one is as fast. */
FA_TEST(adaptive_gamma) {
    const fa_cost c = {5, POINTS, FLAT, 0.15, 0};
    uint64_t rng = fat_seed;
    double most = 0, adaptive = 0;
    for (int fixed = -1; fixed <= 8; fixed++) {
        fa_estimator e = {0.6, 5, 0.9, 0, 0};
        double tokens = 0, time = 0;
        for (int step = 0; step < 3000; step++) {
            const double alpha = step / 1000 == 1 ? 0.15 : 0.93;
            int32_t gamma = fixed, got = 0, right = 0;
            if (fixed < 0)
                FA_REQUIRE(fa_choose_gamma(fa_estimator_alpha(&e), &c, 1, 8, &gamma, NULL, NULL) == FA_OK);
            if (fixed < 0 && gamma == 0)
                gamma = 1; /* one goes on being tried, to see whether times have changed */
            while (got < gamma && fat_uniform(&rng) < alpha) got++;
            FA_REQUIRE(fa_estimator_update(&e, gamma, got, NULL) == FA_OK);
            tokens += got + 1, time += fa_cost_step(&c, gamma + 1, gamma);
            right = gamma >= 6 ? alpha > 0.5 : gamma <= 1 ? alpha < 0.5 : 1;
            if (fixed < 0 && step % 1000 > 100 && step % 50 == 0)
                FA_EXPECT_MSG(right, "step %d: %d", step, gamma);
        }
        if (fixed < 0)
            adaptive = tokens / time;
        else
            most = fmax(most, tokens / time);
    }
    FA_EXPECT_MSG(adaptive > most, "%g, fixed %g", adaptive, most);
}

/* ---- boosting ---------------------------------------------------------------------------- */

FA_TEST(boosting) {
    enum { SAMPLES = 600, DRAFTS = 12 };
    static int32_t answers[DRAFTS][SAMPLES], truth[SAMPLES], answer[SAMPLES];
    static uint8_t wrong[DRAFTS][SAMPLES];
    static double weight[SAMPLES];
    uint64_t rng = fat_seed;
    for (int classes = 2; classes <= 50; classes += 24) {
        double vote[DRAFTS];
        int alone = SAMPLES; /* what the best draft misses */
        for (int i = 0; i < SAMPLES; i++) truth[i] = fat_below(&rng, classes), weight[i] = 1;
        for (int d = 0; d < DRAFTS; d++) {
            /* a weak draft, better on samples with a great weight */
            double sum = 0, error = 0, before[SAMPLES], threshold = 0, rest = 0;
            for (int i = 0; i < SAMPLES; i++) sum += weight[i], threshold += weight[i] * weight[i];
            threshold /= sum; /* the weighted mean of weights */
            for (int i = 0; i < SAMPLES; i++) {
                const double chance = weight[i] >= threshold ? 0.75 : 0.5;
                answers[d][i] = fat_uniform(&rng) < chance
                                    ? truth[i]
                                    : (truth[i] + 1 + fat_below(&rng, classes - 1)) % classes;
            }
            FA_REQUIRE(fa_boost_wrong(answers[d], truth, SAMPLES, 1, wrong[d], NULL) == FA_OK);
            memcpy(before, weight, sizeof before);
            for (int i = 0; i < SAMPLES; i++)
                error += wrong[d][i] ? weight[i] / sum : 0,
                    FA_EXPECT(wrong[d][i] == (answers[d][i] != truth[i]));
            FA_REQUIRE(fa_boost_round(weight, wrong[d], SAMPLES, classes, &vote[d], NULL) == FA_OK);
            FA_EXPECT_NEAR(vote[d], fmax(log((1 - error) / error) + log(classes - 1), 0), 1e-9);
            int misses = 0;
            for (int i = 0; i < SAMPLES; i++) misses += wrong[d][i];
            alone = misses < alone ? misses : alone;
            sum = 0;
            for (int i = 0; i < SAMPLES; i++) sum += weight[i], rest += wrong[d][i] ? weight[i] : 0;
            FA_EXPECT_NEAR(sum, 1, 1e-12);
            /* the draft that was boosted against is now as good as a guess: the point of AdaBoost */
            if (vote[d] > 0) FA_EXPECT_NEAR(rest, 1 - 1.0 / classes, 1e-9);
            for (int i = 1; i < SAMPLES; i++)
                if (wrong[d][i] == wrong[d][0])
                    FA_EXPECT_NEAR(weight[i] * before[0], weight[0] * before[i], 1e-12);
        }
        FA_REQUIRE(fa_boost_vote(&answers[0][0], vote, DRAFTS, SAMPLES, answer, NULL) == FA_OK);
        int missed = 0;
        for (int i = 0; i < SAMPLES; i++) {
            double most = -1, score[64] = {0};
            for (int d = 0; d < DRAFTS; d++)
                score[answers[d][i]] += vote[d], most = fmax(most, score[answers[d][i]]);
            FA_EXPECT(score[answer[i]] >= most - 1e-12);
            missed += answer[i] != truth[i];
        }
        FA_EXPECT_MSG(missed < alone * 4 / 5, "%d classes: %d missed, alone %d", classes, missed, alone);
    }
}

FA_TEST(boosting_edges) {
    double weight[4] = {1, 1, 1, 1}, vote = -1, covered = -1;
    uint8_t wrong[3][4] = {{0, 1, 1, 0}, {0, 0, 1, 1}, {0, 0, 0, 0}};
    int32_t a[6] = {1, 2, 3, 4, 5, 6}, b[6] = {1, 2, 3, 9, 5, 6}, answer[2];
    fa_error e;
    FA_EXPECT(fa_boost_covered(&wrong[0][0], 2, 4, weight, &covered, NULL) == FA_OK && covered == 0.75);
    FA_EXPECT(weight[0] == 0 && weight[1] == 0 && weight[2] == 1 && weight[3] == 0);
    FA_EXPECT(fa_boost_covered(&wrong[0][0], 1, 4, weight, NULL, NULL) == FA_OK && weight[1] == 0.5 &&
              weight[2] == 0.5);
    FA_EXPECT(fa_boost_covered(&wrong[0][0], 3, 4, weight, &covered, NULL) == FA_OK && covered == 1 &&
              weight[2] == 0);
    FA_EXPECT(fa_boost_round(weight, wrong[0], 4, 2, &vote, &e) == FA_ERR_BOOST); /* all 0 */
    for (int i = 0; i < 4; i++) weight[i] = 0.5;
    FA_EXPECT(fa_boost_round(weight, wrong[2], 4, 2, &vote, &e) == FA_OK && vote > 20 &&
              weight[0] == 0.25); /* never wrong */
    FA_EXPECT(fa_boost_round(weight, wrong[0], 4, 2, &vote, &e) == FA_OK && vote == 0 &&
              weight[1] == 0.25);  /* a guess */
    wrong[0][0] = wrong[0][3] = 1; /* always wrong */
    FA_EXPECT(fa_boost_round(weight, wrong[0], 4, 9, &vote, &e) == FA_OK && vote == 0 && weight[1] == 0.25);
    FA_EXPECT(fa_boost_round(weight, wrong[0], 4, 1, &vote, &e) == FA_ERR_BOOST);
    FA_EXPECT(fa_boost_round(weight, wrong[0], 0, 2, &vote, &e) == FA_ERR_BOOST);
    FA_EXPECT(fa_boost_round(weight, NULL, 4, 2, &vote, &e) == FA_ERR_BOOST);
    weight[2] = NAN;
    FA_EXPECT(fa_boost_round(weight, wrong[0], 4, 2, &vote, &e) == FA_ERR_BOOST && e.index == 2 &&
              weight[0] == 0.25);
    FA_EXPECT(fa_boost_wrong(a, b, 2, 3, wrong[0], &e) == FA_OK && wrong[0][0] == 0 && wrong[0][1] == 1);
    FA_EXPECT(fa_boost_wrong(a, b, 2, 0, wrong[0], &e) == FA_ERR_BOOST &&
              fa_boost_wrong(a, NULL, 2, 3, wrong[0], &e) == FA_ERR_BOOST);
    const double votes[3] = {1, 1, 1.5};
    const int32_t says[3][2] = {{7, 7}, {8, 7}, {9, 9}};
    FA_EXPECT(fa_boost_vote(&says[0][0], votes, 3, 2, answer, &e) == FA_OK && answer[0] == 9 &&
              answer[1] == 7);
    FA_EXPECT(fa_boost_vote(&says[0][0], votes, 2, 2, answer, &e) == FA_OK &&
              answer[0] == 7); /* a tie: the first */
    FA_EXPECT(fa_boost_vote(&says[0][0], votes, 65, 2, answer, &e) == FA_ERR_BOOST);
    FA_EXPECT(fa_boost_covered(NULL, 1, 4, weight, NULL, &e) == FA_ERR_BOOST);
}

FA_TEST_MAIN
