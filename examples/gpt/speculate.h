/*  speculate.h - ways to write the same text in fewer steps of the model

    A step: guess a tree of tokens behind the last one, run the model on all its nodes at once, keep what it would have
    written itself, and one token more. Greedily that gives the text of plain decoding, with sampling its law. The ways
    differ in where the guesses come from:

        plain       nowhere: a step a token
        n-gram      what followed earlier places that end like the text
        chain       a small model, one token after the other
        expansion   the same, several tokens at each place, in a fixed shape
        merged      the chains of two small models that were boosted, in one tree
        Sequoia     the small model, in the shape that suits its acceptance and the costs of this machine
        Medusa      heads on the model's last hidden state, no second model */

#ifndef GPT_SPECULATE_H
#define GPT_SPECULATE_H

#include "decode.h"
#include "train.h"

enum { MAX_NODES = STEP_ROWS, RANKS = 8, LEVELS = 8 };

typedef enum { PLAIN, NGRAM, CHAIN, EXPANSION, MERGED, SEQUOIA, MEDUSA, METHODS } method;
static const char *const method_name[METHODS] = {"plain",  "n-gram",  "chain", "expansion",
                                                 "merged", "Sequoia", "Medusa"};

typedef struct sampling {
    float temperature; /* 0: greedy */
    int32_t top_k;     /* 0: all */
    float top_p;       /* 0: all */
    uint64_t seed;
} sampling;

/* All that guesses of a method need to know beforehand, and what is known of them. */
typedef struct plan {
    method way;
    fa_tree shape; /* of ranks; not of NGRAM and MERGED */
    int32_t parent[MAX_NODES], rank[MAX_NODES];
    fa_cost cost; /* of this machine; base: seconds of guessing and of the verdict, in a step */
    double acceptance[LEVELS][RANKS]; /* chance that a child of this rank is taken, where its parent was */
} plan;

typedef struct writer {
    decoder *model, *draft[DRAFTS];
    const guessers *heads;
    sampling how;
    uint64_t offset;             /* of the coins: the steps so far */
    int32_t *token, count, room; /* the text; the cache of the model holds all of it but the last token */
    fa_tree tree;                /* of the step */
    int32_t node_token[MAX_NODES], node_parent[MAX_NODES], node_rank[MAX_NODES];
    float guess[MAX_NODES][VOCAB]; /* logits that the children of a node were drawn from */
    float hidden[1 << 12]; /* the model's state that the last token was drawn from: what heads look at */
    int hidden_known;
    void *workspace; /* of the heads */
    size_t workspace_bytes;
} writer;

static inline writer *writer_new(const gpt *g, const guessers *s, int32_t room) {
    writer *w = (writer *)allocate(1, sizeof *w);
    if (g->config.dim > (int32_t)(sizeof w->hidden / sizeof *w->hidden)) fail("dim is at most 4096");
    w->model = decoder_new(g), w->heads = s;
    for (int d = 0; s && d < DRAFTS; d++) w->draft[d] = decoder_new(s->draft[d]);
    w->room = room, w->token = (int32_t *)allocate((size_t)room, sizeof *w->token);
    const fa_tree tree = {MAX_NODES, 0, w->node_parent, w->node_token, w->node_rank};
    w->tree = tree;
    return w;
}

static inline void writer_free(writer *w) {
    if (!w) return;
    decoder_free(w->model);
    for (int d = 0; d < DRAFTS; d++) decoder_free(w->draft[d]);
    free(w->token), free(w->workspace), free(w);
}

/* What heads look at: the state of a row of the model's last step. */
static inline void remember(writer *w, int32_t row) {
    const int32_t dim = w->model->g->config.dim;
    memcpy(w->hidden, w->model->hidden + row * dim, (size_t)dim * sizeof(float));
}

/* A text to go on with; its last token is read in the first step. */
static inline void writer_begin(writer *w, const uint8_t *prompt, int32_t count, const sampling *how) {
    if (count < 1 || count > w->room) fail("a prompt has 1 .. %d bytes, this one %d", w->room, count);
    for (int32_t i = 0; i < count; i++) w->token[i] = prompt[i];
    w->how = *how, w->offset = 0, w->count = count, w->model->length = 0, w->hidden_known = count > 1;
    for (int d = 0; d < DRAFTS && w->heads; d++) w->draft[d]->length = 0;
    const int32_t last = decoder_read(w->model, w->token, count - 1);
    remember(w, last);
}

/* Back to the first `count` tokens, with other coins; hidden: what w->hidden was there. */
static inline void writer_rewind(writer *w, int32_t count, const float *hidden, uint64_t seed) {
    w->count = count, w->how.seed = seed, w->offset = 0, w->model->length = count - 1;
    for (int d = 0; d < DRAFTS && w->heads; d++)
        if (w->draft[d]->length > count - 1) w->draft[d]->length = count - 1;
    memcpy(w->hidden, hidden, (size_t)w->model->g->config.dim * sizeof(float));
}

/* ---- guesses ---- */

/* `count` tokens for the children of a node, the first of which is node `first`: the best ones, or drawn one after the
 * other without replacement. */
static inline void draw_children(writer *w, const float *logits, int32_t first, int32_t count,
                                 int32_t *token) {
    if (w->how.temperature == 0) {
        for (int32_t n = 0; n < count; n++) {
            int32_t best = -1;
            for (int32_t k = 0; k < VOCAB; k++) {
                int taken = 0;
                for (int32_t i = 0; i < n; i++) taken |= token[i] == k;
                if (!taken && (best < 0 || logits[k] > logits[best])) best = k;
            }
            token[n] = best;
        }
        return;
    }
    fa_error error;
    fa_sample_args a = {0};
    a.batch = 1, a.vocab = VOCAB, a.rows.data = logits, a.sampling.temperature = &w->how.temperature;
    a.coins.seed = &w->how.seed, a.coins.offset = &w->offset, a.node = &first;
    a.num_samples = count, a.without_replacement = 1, a.tokens = token, a.error = &error;
    check_status(fa_sample(&a), &error);
    for (int32_t n = 0; n < count; n++)
        if (token[n] < 0) token[n] = 0; /* nothing was left to draw: what q cannot have drawn is rejected */
}

/* Runs a decoder on the first `count` nodes of a tree. */
static inline void run_nodes(decoder *d, const fa_tree *tree, int32_t count) {
    uint32_t mask[2 * MAX_NODES];
    int32_t positions[MAX_NODES];
    fa_error error;
    fa_trees view = fa_tree_view(tree);
    view.num_nodes = count;
    memset(mask, 0, sizeof mask);
    check_status(fa_tree_mask_bits(&view, mask, 2 * MAX_NODES, 2, &error), &error);
    check_status(fa_tree_positions(&view, &d->length, positions, &error), &error);
    decoder_step(d, count, tree->token, positions, mask);
}

/* A tree of that shape from a small model, level by level. The shape is breadth first. */
static inline void guess_tree(writer *w, decoder *d, const fa_tree *shape, fa_tree *tree) {
    if (w->count - d->length > STEP_ROWS) decoder_read(d, w->token, w->count - 1);
    const int32_t behind = w->count - 1 - d->length; /* tokens since the last time; they go with the root */
    tree->num_nodes = shape->num_nodes, tree->token[0] = w->token[w->count - 1];
    memcpy(tree->parent, shape->parent, (size_t)shape->num_nodes * sizeof *tree->parent);
    memcpy(tree->rank, shape->rank, (size_t)shape->num_nodes * sizeof *tree->rank);
    decoder_step(d, behind + 1, w->token + d->length, NULL, NULL);
    decoder_keep(d, NULL, behind);
    for (int32_t begin = 0, end = 1;
         end < shape->num_nodes;) { /* nodes begin .. end-1: the last level with tokens */
        int32_t child = end;
        if (begin) run_nodes(d, tree, end);
        for (int32_t node = begin; node < end; node++) {
            int32_t count = 0;
            while (child + count < shape->num_nodes && shape->parent[child + count] == node) count++;
            memcpy(w->guess[node], d->logits + (begin ? node : behind) * VOCAB, sizeof w->guess[node]);
            if (count) draw_children(w, w->guess[node], child, count, tree->token + child);
            child += count;
        }
        begin = end, end = child;
    }
}

/* The chains of both small models, merged. */
static inline void guess_merged(writer *w, const fa_tree *shape) {
    int32_t token[DRAFTS * MAX_NODES], parent[DRAFTS * MAX_NODES], rank[MAX_NODES];
    const int32_t nodes = shape->num_nodes;
    fa_error error;
    for (int d = 0; d < DRAFTS; d++) {
        fa_tree one = {MAX_NODES, 0, parent + d * nodes, token + d * nodes, rank};
        guess_tree(w, w->draft[d], shape, &one);
    }
    const fa_trees chains = {DRAFTS, nodes, NULL, parent, token};
    check_status(fa_tree_merge(&chains, &w->tree, NULL, NULL, &error), &error);
}

static inline void guess_heads(writer *w, const fa_tree *shape) {
    int32_t top[GUESSES * RANKS];
    fa_error error;
    fa_medusa_args a = {0};
    a.rows = 1, a.dim = w->heads->dim, a.vocab = VOCAB, a.heads = GUESSES, a.x = w->hidden;
    a.weight = w->heads->weight, a.bias = w->heads->bias, a.projection = w->heads->projection;
    a.top_token = top, a.top_k = RANKS, a.error = &error;
    const size_t bytes = fa_medusa_workspace(&a);
    if (bytes > w->workspace_bytes) {
        free(w->workspace);
        w->workspace = allocate(bytes, 1), w->workspace_bytes = bytes;
    }
    check_status(fa_medusa_forward(&a, w->workspace, w->workspace_bytes), &error);
    memcpy(w->tree.parent, shape->parent, (size_t)shape->num_nodes * sizeof *w->tree.parent);
    memcpy(w->tree.rank, shape->rank, (size_t)shape->num_nodes * sizeof *w->tree.rank);
    w->tree.num_nodes = shape->num_nodes;
    check_status(fa_tree_fill(shape, w->token[w->count - 1], top, GUESSES, RANKS, w->tree.token, &error),
                 &error);
}

static inline void guess_root(writer *w) {
    w->tree.num_nodes = 1, w->tree.parent[0] = -1, w->tree.rank[0] = 0,
    w->tree.token[0] = w->token[w->count - 1];
}

static inline void guess_ngram(writer *w, int32_t depth) {
    fa_error error;
    fa_ngram_args a = {0};
    a.tokens = w->token, a.num_tokens = w->count, a.min_match = 3, a.max_match = 12, a.max_depth = depth;
    a.error = &error;
    check_status(fa_ngram(&a, &w->tree, NULL), &error);
}

static inline void guess(writer *w, const plan *p) {
    switch (p->way) {
    case NGRAM: guess_ngram(w, p->shape.num_nodes - 1); break;
    case CHAIN:
    case EXPANSION:
    case SEQUOIA: guess_tree(w, w->draft[0], &p->shape, &w->tree); break;
    case MERGED: guess_merged(w, &p->shape); break;
    case MEDUSA:
        if (w->hidden_known)
            guess_heads(w, &p->shape);
        else
            guess_root(w);
        break;
    case PLAIN:
    case METHODS: guess_root(w); break;
    }
}

/* Drafts that were drawn from q can be tested against p / q; of the others only p knows. */
static inline int32_t rule_of(method way, int greedy) {
    if (greedy) return FA_VERIFY_GREEDY;
    return way == CHAIN                         ? FA_VERIFY_BLOCK
           : way == EXPANSION || way == SEQUOIA ? FA_VERIFY_WITHOUT_REPLACEMENT
                                                : FA_VERIFY_TARGET_ONLY;
}

/* ---- a step ---- */

/* What happened in a row of steps. */
typedef struct tally {
    int64_t steps, tokens, refused; /* tokens written; steps that ended because no guess was right */
    double law;                     /* tokens that the plan's acceptance predicts */
    double cost;                    /* seconds that the plan's costs predict */
    double aside;                   /* seconds of guessing and of verdicts */
} tally;

/* Writes 1 or more tokens behind the text, room permitting; how many. */
static inline int32_t write_step(writer *w, const plan *p, tally *t, fa_rank_estimator *estimator) {
    int32_t token[MAX_NODES], accepted[MAX_NODES], count = 0;
    const int greedy = w->how.temperature == 0;
    decoder *m = w->model;
    fa_error error;
    const double start = now();
    guess(w, p);
    const double guessed = now();
    const int32_t nodes = w->tree.num_nodes;
    run_nodes(m, &w->tree, nodes);
    const double run = now();

    fa_sampling plain = {0}; /* of the drafts */
    plain.temperature = &w->how.temperature;
    fa_verify_args a = {0};
    a.vocab = VOCAB, a.rule = rule_of(p->way, greedy), a.target.data = m->logits, a.draft.data = w->guess;
    a.sampling.temperature = &w->how.temperature, a.sampling.top_k = &w->how.top_k,
    a.sampling.top_p = &w->how.top_p;
    a.draft_sampling = &plain, a.coins.seed = &w->how.seed, a.coins.offset = &w->offset;
    a.tokens = token, a.num_out = &count, a.accepted = accepted, a.max_out = MAX_NODES, a.error = &error;
    if (p->way == CHAIN) {
        a.chains.batch = 1, a.chains.num_tokens = nodes - 1, a.chains.token = w->tree.token + 1;
        check_status(attention_verify_chain(&a), &error);
    } else {
        a.trees = fa_tree_view(&w->tree);
        check_status(attention_verify_tree(&a), &error);
    }

    const int32_t last = accepted[count - 1]; /* its row of the step is what the last token was drawn from */
    remember(w, last), w->hidden_known = 1;
    if (last == count - 1) /* rows 0 .. count-1: they lie where they belong */
        decoder_keep(m, NULL, count);
    else
        decoder_keep(m, accepted, count);
    if (t) {
        t->aside += now() - run + guessed - start;
        int32_t children = 0;
        for (int32_t i = last + 1; i < nodes; i++) children += w->tree.parent[i] == last;
        t->steps++, t->tokens += count, t->refused += children > 0;
        t->law += fa_tree_value(&w->tree, p->acceptance[0], RANKS, LEVELS, RANKS);
        t->cost += fa_cost_step(&p->cost, nodes, 0);
    }
    if (estimator) check_status(fa_rank_update(estimator, &w->tree, accepted + 1, count - 1, &error), &error);
    w->offset++;
    for (int32_t i = 0; i < count && w->count < w->room; i++) w->token[w->count++] = token[i];
    return count;
}

#endif
