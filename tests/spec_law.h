/* spec_law.h - the exact law of what verification emits: test_spec_verify.c.  Include flashattn_spec.h and
 * fa_test.h first.
 *
 * A model gives each context (the tokens so far) a target row p and a draft row q, of weights that are small
 * integers.  All drafts are enumerated with their probability under q.  The coins are integrated: a coin's
 * outcome changes at few places, which bisection of the real function finds to the last of 64 bits.  Tokens
 * behind the emitted ones come from p.  The result is the joint law of the first `length` tokens; lossless
 * means that it is the product of the p. */
#ifndef FA_SPEC_LAW_H
#define FA_SPEC_LAW_H

enum { LAW_V = 5, LAW_NODES = 8, LAW_LENGTH = 4, LAW_CONTEXTS = 1 + 5 + 25 + 125 + 625 };

typedef struct law_model {
    int vocab;
    float p[LAW_CONTEXTS][LAW_V], q[LAW_CONTEXTS][LAW_V];
    fa_sampling sampling; /* of p */
} law_model;

/* How a context is numbered: the empty one 0, then all of one token, of two .. */
static inline int law_next(int vocab, int context, int token) { return context * vocab + 1 + token; }

enum { LAW_DRAWN, LAW_WITHOUT, LAW_TOP }; /* siblings: independent, without replacement, the largest of q */

/* The verification under test: like fa_verify_chain and fa_verify_tree, for batch 1. */
typedef void law_rule(const fa_verify_args *args);

typedef struct law_problem {
    const law_model *model;
    int nodes, parent[LAW_NODES]; /* the tree; a chain is one where every parent is the node before */
    int chain, rule, drafting, length;
    law_rule *verify;
    int kind; /* of rows */
    /* at work */
    int32_t parents[LAW_NODES], tokens[LAW_NODES], contexts[LAW_NODES];
    float target[LAW_NODES][LAW_V], draft[LAW_NODES][LAW_V];
    uint64_t coins[LAW_NODES];
    int32_t out[LAW_NODES], accepted[LAW_NODES], num_out;
    double law[625], tokens_out, mass; /* law of sequences, mean of num_out */
    long calls;
} law_problem;

static inline void law_call(law_problem *l) {
    fa_verify_args a;
    memset(&a, 0, sizeof a);
    a.vocab = l->model->vocab, a.rule = l->rule, a.sampling = l->model->sampling;
    a.target.data = l->target, a.draft.data = l->draft, a.target.stride = a.draft.stride = LAW_V;
    a.target.kind = a.draft.kind = l->kind;
    if (l->chain) {
        a.chains.batch = 1, a.chains.num_tokens = l->nodes - 1, a.chains.token = l->tokens + 1;
    } else {
        a.trees.batch = 1, a.trees.num_nodes = l->nodes, a.trees.parent = l->parents,
        a.trees.token = l->tokens;
    }
    a.coins.coins = l->coins, a.tokens = l->out, a.accepted = l->accepted, a.num_out = &l->num_out;
    l->calls++;
    l->verify(&a);
}

typedef struct law_outcome {
    int32_t out[LAW_NODES], accepted[LAW_NODES];
} law_outcome;
static inline law_outcome law_try(law_problem *l, int node, uint64_t coin) {
    law_outcome o;
    l->coins[node] = coin;
    law_call(l);
    memset(&o, 0, sizeof o);
    memcpy(o.out, l->out, sizeof *o.out * (size_t)l->nodes);
    memcpy(o.accepted, l->accepted, sizeof *o.accepted * (size_t)l->nodes);
    return o;
}

/* Weights of p in a context, as probabilities. */
static inline void law_row(const law_model *m, const float *row, int kind, const fa_sampling *s,
                           double *out) {
    uint64_t w[LAW_V];
    double sum = 0;
    const fa_rows rows = {row, LAW_V, FA_F32, kind};
    fa_row_weights(&rows, 0, m->vocab, s, 0, w);
    for (int i = 0; i < m->vocab; i++) sum += (double)w[i];
    for (int i = 0; i < m->vocab; i++) out[i] = (double)w[i] / sum;
}

static inline void law_extend(law_problem *l, int have, int context, int sequence, double weight) {
    double p[LAW_V];
    if (have == l->length) {
        l->law[sequence] += weight;
        return;
    }
    law_row(l->model, l->model->p[context], l->kind, &l->model->sampling, p);
    for (int t = 0; t < l->model->vocab; t++)
        if (p[t] > 0)
            law_extend(l, have + 1, law_next(l->model->vocab, context, t), sequence * l->model->vocab + t,
                       weight * p[t]);
}

static inline void law_emit(law_problem *l, double weight) {
    int context = 0, sequence = 0, have = 0;
    l->tokens_out += weight * l->num_out, l->mass += weight;
    for (; have < l->num_out && have < l->length; have++) {
        context = law_next(l->model->vocab, context, l->out[have]);
        sequence = sequence * l->model->vocab + l->out[have];
    }
    law_extend(l, have, context, sequence, weight);
}

static void law_coins(law_problem *l, int step, double weight);

/* The coin that rules look at in step 0, 1 ..: of node 1, 2 .. (block verification: from the end), then of
 * the last draw. */
static inline int law_coin_at(const law_problem *l, int step) {
    if (step == l->nodes - 1) return 0;
    return l->chain && l->rule == FA_VERIFY_BLOCK ? l->nodes - 1 - step : step + 1;
}

/* Coins lo .. hi of `node`, whose outcomes are a and b: splits until they are equal, then goes on with the
 * next coin. */
static inline void law_split(law_problem *l, int step, int node, uint64_t lo, uint64_t hi, law_outcome a,
                             law_outcome b, double weight) {
    uint64_t begin = lo;
    while (memcmp(&a, &b, sizeof a) != 0) { /* the first place where the outcome is no longer a */
        uint64_t left = begin, right = hi;
        law_outcome at_right = b;
        while (right - left > 1) {
            const uint64_t mid = left + (right - left) / 2;
            const law_outcome o = law_try(l, node, mid);
            if (memcmp(&o, &a, sizeof o) == 0)
                left = mid;
            else
                right = mid, at_right = o;
        }
        l->coins[node] = begin;
        law_coins(l, step + 1, weight * (double)(right - begin) * 0x1p-64);
        begin = right, a = at_right;
        for (int s = step + 1; s < l->nodes; s++) l->coins[law_coin_at(l, s)] = 0;
    }
    l->coins[node] = begin;
    law_coins(l, step + 1, weight * ((double)(hi - begin) + 1) * 0x1p-64);
}

/* Integrates the coins of a draft one by one; those to come are 0 meanwhile. */
static void law_coins(law_problem *l, int step, double weight) {
    if (step == l->nodes) {
        law_call(l);
        law_emit(l, weight);
        return;
    }
    const int node = law_coin_at(l, step);
    for (int s = step; s < l->nodes; s++) l->coins[law_coin_at(l, s)] = 0;
    const law_outcome a = law_try(l, node, 0), b = law_try(l, node, UINT64_MAX);
    law_split(l, step, node, 0, UINT64_MAX, a, b, weight);
}

/* Tokens of node n and those behind it. */
static inline void law_drafts(law_problem *l, int node, double weight) {
    const law_model *m = l->model;
    if (node == l->nodes) {
        law_coins(l, 0, weight);
        return;
    }
    const int parent = l->parents[node], context = l->contexts[parent];
    double q[LAW_V], left = 1;
    int rank = 0;
    law_row(m, m->q[context], l->kind, NULL, q);
    for (int n = 1; n < node; n++)
        if (l->parents[n] == parent) {
            rank++;
            if (l->drafting == LAW_WITHOUT) left -= q[l->tokens[n]], q[l->tokens[n]] = 0;
        }
    if (l->drafting == LAW_WITHOUT) {
        left = 0;
        for (int t = 0; t < m->vocab; t++) left += q[t];
    }
    for (int t = 0; t < m->vocab; t++) {
        double chance = left > 0 ? q[t] / left : t == 0; /* nothing left: any token will do */
        if (l->drafting == LAW_TOP) {
            int before = 0;
            for (int s = 0; s < m->vocab; s++) before += q[s] > q[t] || (q[s] == q[t] && s < t);
            chance = before == rank;
        }
        if (!(chance > 0)) continue;
        l->tokens[node] = t, l->contexts[node] = law_next(m->vocab, context, t);
        memcpy(l->target[node], m->p[l->contexts[node]], sizeof l->target[node]);
        memcpy(l->draft[node], m->q[l->contexts[node]], sizeof l->draft[node]);
        law_drafts(l, node + 1, weight * chance);
    }
}

/* The largest distance of the law to that of the target. */
static inline double law_run(law_problem *l) {
    double want[625] = {0}, worst = 0;
    int sequences = 1;
    memset(l->law, 0, sizeof l->law), l->tokens_out = l->mass = 0;
    for (int n = 0; n < l->nodes; n++) l->parents[n] = l->chain ? n - 1 : n ? l->parent[n] : -1;
    if (!l->kind) l->kind = FA_PROBS;
    memcpy(l->target[0], l->model->p[0], sizeof l->target[0]),
        memcpy(l->draft[0], l->model->q[0], sizeof l->draft[0]);
    l->contexts[0] = 0;
    law_drafts(l, 1, 1);
    law_problem *truth = (law_problem *)malloc(sizeof *truth);
    *truth = *l;
    memset(truth->law, 0, sizeof truth->law);
    law_extend(truth, 0, 0, 0, 1);
    memcpy(want, truth->law, sizeof want);
    free(truth);
    for (int n = 0; n < l->length; n++) sequences *= l->model->vocab;
    for (int s = 0; s < sequences; s++) {
        const double d = fabs(l->law[s] - want[s]);
        if (!(d <= worst)) worst = d;
    }
    return worst;
}

/* Total variation of the first token's law to p of the empty context. */
static inline double law_first_tv(const law_problem *l) {
    double p[LAW_V], sum = 0;
    int each = 1;
    for (int n = 1; n < l->length; n++) each *= l->model->vocab;
    law_row(l->model, l->model->p[0], l->kind, &l->model->sampling, p);
    for (int t = 0; t < l->model->vocab; t++) {
        double got = 0;
        for (int s = 0; s < each; s++) got += l->law[t * each + s];
        sum += fabs(got - p[t]);
    }
    return sum / 2;
}

static inline void law_real(const fa_verify_args *a) {
    static uint64_t workspace[4 * LAW_V];
    const fa_status s = a->chains.batch ? fa_verify_chain(a) : fa_verify_tree(a, workspace, sizeof workspace);
    if (s != FA_OK) fprintf(stderr, "spec_law.h: %s\n", fa_strerror(s)), exit(2);
}

/* Rows whose entries are multiples of 2^-10 with sum 1: some are one-hot, some have zeros, some are equal in
 * p and q. */
static inline void law_random_row(uint64_t *state, int vocab, float *row) {
    const int kind = fat_below(state, 8);
    int left = 1024, count[LAW_V] = {0};
    if (kind == 0) {
        count[fat_below(state, vocab)] = 1024;
    } else {
        for (; left > 0; left--) {
            const int t = fat_below(state, vocab);
            if (kind > 2 || t % 2 == 0 || vocab < 3)
                count[kind == 3 && t ? fat_below(state, t + 1) : t]++;
            else
                count[0]++;
        }
        for (int n = 0; kind > 4 && n < 1000; n++) { /* less even */
            const int from = fat_below(state, vocab), to = fat_below(state, vocab);
            if (count[from] > 0 && fat_below(state, 1024) < 300 && from > to) count[from]--, count[to]++;
        }
    }
    for (int t = 0; t < LAW_V; t++)
        row[t] = t < vocab ? (float)count[t] / 1024 : NAN; /* padded ids are not read */
}
static inline void law_random(law_model *m, int vocab, uint64_t *state) {
    memset(m, 0, sizeof *m);
    m->vocab = vocab;
    for (int c = 0; c < LAW_CONTEXTS; c++) {
        law_random_row(state, vocab, m->p[c]), law_random_row(state, vocab, m->q[c]);
        if (fat_below(state, 10) == 0) memcpy(m->q[c], m->p[c], sizeof m->q[c]);
    }
}
#endif
