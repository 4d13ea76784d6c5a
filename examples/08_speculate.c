/*  Speculative decoding, the whole loop, with toy models: the target model and the draft are tables of probabilities, what
    follows depends on the last token alone. Chains of drafts, then the tree that suits the costs of a machine.
        cc -O2 -march=native -I.. 08_speculate.c -lm && ./a.out

    Each step: the draft draws children for the nodes of a tree, the target model gives a row for every node at once (here
    it is copied from its table), fa_verify_tree says which drafts stay and what comes next. The text has the law of the
    target model alone, whatever the draft is worth; that decides the speed, and how fast is known beforehand. */

#include "flashattn_spec.h"

enum { V = 16, NODES = 64, DEPTH = 8, RANKS = 8, STEPS = 30000 };

static float p[V][V], q[V][V];    /* (last token, next token) of the target model and of the draft */
static double seen[V][V];         /* how often that followed that */
static double workspace[1 << 14]; /* of the planner */
static char scratch[1 << 12];     /* of the verifier */

/* Rows are the same numbers in another order each, so acceptance does not depend on the context. */
static void make_models(void) {
    double sum_p = 0, sum_q = 0;
    for (int x = 0; x < V; x++) sum_p += exp(-0.4 * x), sum_q += exp(-0.4 * x + 0.7 * sin(5.0 * x));
    for (int s = 0; s < V; s++)
        for (int x = 0; x < V; x++) {
            const int to = (5 * s + x) % V;
            p[s][to] = (float)(exp(-0.4 * x) / sum_p),
            q[s][to] = (float)(exp(-0.4 * x + 0.7 * sin(5.0 * x)) / sum_q);
        }
}

/* Draws the tokens of a tree from the draft, children without replacement; rows: what each node's were drawn from. */
static fa_status draw_tree(fa_tree *t, float rows[NODES][V], const uint64_t *seed, const uint64_t *offset) {
    int32_t first[NODES], next[NODES];
    const fa_trees view = fa_tree_view(t);
    fa_status status = fa_tree_links(&view, first, next, NULL);
    for (int32_t node = 0; node < t->num_nodes && status == FA_OK; node++) {
        int32_t children = 0;
        memcpy(rows[node], q[t->token[node]], sizeof rows[node]);
        for (int32_t child = first[node]; child >= 0; child = next[child]) children++;
        if (!children) continue;
        fa_sample_args a = {0}; /* children follow each other in trees that are built breadth first */
        a.batch = 1, a.vocab = V, a.rows.data = rows[node], a.rows.kind = FA_PROBS, a.without_replacement = 1;
        a.coins.seed = seed, a.coins.offset = offset, a.node = &first[node];
        a.num_samples = children, a.tokens = &t->token[first[node]];
        status = fa_sample(&a);
    }
    return status;
}

/* STEPS steps with trees of that shape: tokens a step. What is accepted goes into the estimator, if there is one. */
static double run(fa_tree *t, fa_rank_estimator *estimator, fa_status *status) {
    static float target[NODES][V], draft[NODES][V];
    static uint64_t offset = 0; /* one for each step, and the same for drawing and for verifying */
    const uint64_t seed = 1234;
    int32_t last = 0, out[NODES], count = 0, accepted[NODES];
    double tokens = 0;
    for (int step = 0; step < STEPS && *status == FA_OK; step++, offset++) {
        t->token[0] = last;
        *status = draw_tree(t, draft, &seed, &offset);
        for (int32_t node = 0; node < t->num_nodes; node++)
            memcpy(target[node], p[t->token[node]], sizeof target[node]);
        fa_verify_args a = {0};
        a.vocab = V, a.rule = FA_VERIFY_WITHOUT_REPLACEMENT, a.trees = fa_tree_view(t);
        a.target.data = target, a.draft.data = draft, a.target.kind = a.draft.kind = FA_PROBS;
        a.coins.seed = &seed, a.coins.offset = &offset;
        a.tokens = out, a.num_out = &count, a.accepted = accepted;
        if (*status == FA_OK) *status = fa_verify_tree(&a, scratch, sizeof scratch);
        if (*status == FA_OK && estimator)
            *status = fa_rank_update(estimator, t, accepted + 1, count - 1, NULL);
        for (int32_t i = 0; i < count && *status == FA_OK; i++) seen[last][out[i]]++, last = out[i];
        tokens += count;
    }
    return tokens / STEPS;
}

/* Chi-square of what followed what; its expectation is V * (V - 1), its standard deviation sqrt(2 V (V - 1)). */
static double chi_square(void) {
    double sum = 0;
    for (int s = 0; s < V; s++) {
        double n = 0;
        for (int x = 0; x < V; x++) n += seen[s][x];
        for (int x = 0; x < V; x++) {
            const double want = n * (double)p[s][x];
            sum += (seen[s][x] - want) * (seen[s][x] - want) / want;
        }
    }
    return sum;
}

int main(void) {
    static int32_t parent[NODES], token[NODES], rank[NODES];
    static const int32_t batch[] = {1, 16, 64}, ones[DEPTH] = {1, 1, 1, 1, 1, 1, 1, 1}, wide[2] = {RANKS, 1};
    static const double seconds[] = {1, 1.02,
                                     1.2}; /* of the target model, for so many tokens: bound by memory */
    const fa_cost cost = {3, batch, seconds, 0.06, 0};
    fa_tree t = {NODES, 0, parent, token, rank};
    fa_status status = FA_OK;
    int wrong = 0;
    make_models();

    const double alpha = fa_acceptance(p[0], q[0], V);
    printf("chains: a draft is accepted with probability %.3f\n gamma  tokens a step    law  speedup\n",
           alpha);
    for (int gamma = 1; gamma <= DEPTH && status == FA_OK; gamma *= 2) {
        status = fa_tree_expand(ones, gamma, &t, NULL);
        const double tokens = run(&t, NULL, &status), law = fa_expected_tokens(alpha, gamma);
        printf("%6d %14.3f %6.3f %8.2f\n", gamma, tokens, law,
               tokens * seconds[0] / fa_cost_step(&cost, gamma + 1, gamma));
        wrong += !(fabs(tokens - law) < 0.02 * law);
    }
    int32_t gamma = 0, nodes = 0, depth = 0;
    double rate = 0;
    if (status == FA_OK) status = fa_choose_gamma(alpha, &cost, 1, DEPTH, &gamma, &rate, NULL);
    printf("best gamma %d: speedup %.2f\n", gamma, rate * seconds[0]);

    /* Which of several children is accepted? A wide tree finds out, and a better one is planned with it. */
    double prior[RANKS] = {0}, hits[RANKS] = {0}, tried[RANKS] = {0}, acceptance[RANKS];
    fa_rank_estimator estimator = {RANKS, prior, 1, 1, hits, tried};
    if (status == FA_OK) status = fa_tree_expand(wide, 2, &t, NULL);
    run(&t, &estimator, &status);
    fa_rank_acceptance(&estimator, acceptance);
    fa_sequoia_args plan = {0};
    plan.acceptance = acceptance, plan.ranks = RANKS, plan.max_nodes = NODES, plan.max_depth = DEPTH;
    if (status == FA_OK) status = fa_sequoia(&plan, workspace, sizeof workspace);
    if (status == FA_OK)
        status = fa_choose_tree(&plan, workspace, sizeof workspace, &cost, 1, &nodes, &depth, &rate);
    if (status == FA_OK) status = fa_sequoia_tree(&plan, workspace, sizeof workspace, nodes, depth, &t);
    const double law = fa_sequoia_value(&plan, workspace, nodes, depth), tokens = run(&t, NULL, &status);
    printf("trees: first children are accepted with probability %.3f, second ones %.3f, third ones %.3f ..\n",
           acceptance[0], acceptance[1], acceptance[2]);
    printf("best tree %d nodes, depth %d: tokens a step %.3f, law %.3f, speedup %.2f\n", nodes, depth, tokens,
           law, tokens * seconds[0] / fa_cost_step(&cost, nodes, depth));
    wrong += !(fabs(tokens - law) < 0.02 * law);

    const double chi = chi_square(), expected = V * (V - 1);
    printf("law of the text: chi-square %.0f, expected %.0f +- %.0f\n", chi, expected, sqrt(2 * expected));
    wrong += !(fabs(chi - expected) < 5 * sqrt(2 * expected));
    printf("%s; %d wrong\n", fa_strerror(status), wrong);
    return status == FA_OK && wrong == 0 ? 0 : 1;
}
