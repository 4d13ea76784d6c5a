/*  compare.h - every way of speculate.h on the same prompts: how many tokens a step, as the law says? how much faster?
    And is it the same text, or the same law? */

#ifndef GPT_COMPARE_H
#define GPT_COMPARE_H

#include "speculate.h"

enum {
    PROMPT = 64, /* bytes of a prompt */
    LEARN = 12,  /* prompts from which acceptance is estimated */
    TRY = 12,    /* prompts that are measured then */
    ROUNDS = 3,  /* of which the median counts */
    TRIGRAMS = 3 /* tokens that the chi-square test looks at */
};

typedef struct comparison {
    const corpus *text;
    int32_t length; /* bytes to write behind each prompt */
    int32_t draws;  /* texts of TRIGRAMS bytes for the chi-square test; 0: none */
    writer *w;
} comparison;

typedef struct outcome { /* of a way */
    tally t;
    double seconds;              /* for the whole, the median of ROUNDS */
    double chi, degrees, chance; /* of the test against plain sampling */
    int same;                    /* text, as plain decoding writes it; 2: but for a tie */
    char note[32];               /* its shape */
} outcome;

/* Spread over the second part of the text; those to learn from and those to try take turns. */
static inline const uint8_t *prompt_of(const comparison *c, int n) {
    const size_t place = (size_t)(n < LEARN ? 2 * n : 2 * (n - LEARN) + 1);
    return c->text->valid + (c->text->num_valid - PROMPT) / (LEARN + TRY) * place;
}

static inline int by_size(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static inline double median(double *x, int count) {
    qsort(x, (size_t)count, sizeof *x, by_size);
    return x[count / 2];
}

/* Writes the text of a prompt; seconds it took, without the prompt itself. */
static inline double write_text(const comparison *c, int prompt, const plan *p, const sampling *how, tally *t,
                                fa_rank_estimator *estimator) {
    writer_begin(c->w, prompt_of(c, prompt), PROMPT, how);
    const double start = now();
    while (c->w->count < PROMPT + c->length) write_step(c->w, p, t, estimator);
    return now() - start;
}

/* ---- what is known beforehand ---- */

/* Seconds of a step of the model with 1, 2, 4 .. rows, behind a text of usual length. */
static inline void measure_steps(decoder *d, int32_t length, int32_t *rows, double *seconds, int32_t count) {
    enum { TIMES = 15 };
    const int32_t token[STEP_ROWS] = {0};
    for (int32_t n = 0; n < count; n++) {
        double each[TIMES];
        const int32_t last = d->g->config.context - (1 << n);
        rows[n] = 1 << n, d->length = length < last ? length : last;
        for (int i = 0; i < TIMES; i++) {
            const double start = now();
            decoder_step(d, rows[n], token, NULL, NULL);
            each[i] = now() - start;
        }
        seconds[n] = median(each, TIMES);
    }
}

/* What a way's guesses cost, and with acceptance 1 how often they are taken: by trying it on the first prompts. */
static inline void learn(const comparison *c, plan *p, const sampling *how, int acceptance) {
    double prior[RANKS] = {0.5}, hits[RANKS] = {0}, tried[RANKS] = {0};
    fa_rank_estimator e = {RANKS, prior, 1, 1, hits, tried};
    tally t;
    memset(&t, 0, sizeof t);
    for (int n = 0; n < LEARN; n++) write_text(c, n, p, how, &t, &e);
    p->cost.base = t.aside / (double)t.steps;
    for (int l = 0; l < LEVELS && acceptance; l++) fa_rank_acceptance(&e, p->acceptance[l]);
}

/* How often a head's first, second .. guess is what plain decoding writes: accuracy (GUESSES, RANKS), of the best 1, 2 ..
 * together, and in p->acceptance that of each. */
static inline void learn_heads(const comparison *c, plan *p, const plan *plain, const sampling *how,
                               double accuracy[GUESSES][RANKS]) {
    const writer *w = c->w;
    const int32_t dim = w->heads->dim, each = PROMPT + c->length, rows = LEARN * each;
    float *hidden = floats((size_t)rows * (size_t)dim);
    int32_t *token = (int32_t *)allocate((size_t)rows * (GUESSES * RANKS + 1), sizeof *token),
            *top = token + rows;
    int32_t begin[LEARN + 1];
    for (int32_t n = 0; n < LEARN; n++) {
        write_text(c, n, plain, how, NULL, NULL);
        begin[n] = n * each;
        memcpy(token + begin[n], w->token, (size_t)each * sizeof *token);
        w->model->length = 0;
        for (int32_t at = 0; at < each;) { /* the states once more, of all of it */
            const int32_t count = each - at < STEP_ROWS ? each - at : STEP_ROWS;
            decoder_read(w->model, w->token, at + count);
            memcpy(hidden + (begin[n] + at) * dim, w->model->hidden, (size_t)(count * dim) * sizeof(float));
            at += count;
        }
        for (int32_t i = 0; i < PROMPT; i++)
            token[begin[n] + i] = -1 - token[begin[n] + i]; /* does not count */
    }
    begin[LEARN] = rows;
    fa_error error;
    fa_medusa_args a = {0};
    a.rows = rows, a.dim = dim, a.vocab = VOCAB, a.heads = GUESSES, a.x = hidden;
    a.weight = w->heads->weight, a.bias = w->heads->bias, a.projection = w->heads->projection;
    a.target = token, a.cu_seqlens = begin, a.batch = LEARN;
    a.top_token = top, a.top_k = RANKS, a.error = &error;
    const size_t bytes = fa_medusa_workspace(&a);
    void *workspace = allocate(bytes, 1);
    check_status(fa_medusa_forward(&a, workspace, bytes), &error);
    check_status(fa_medusa_accuracy(&a, accuracy[0]), &error);
    for (int l = 0; l < LEVELS; l++)
        for (int r = 0; r < RANKS; r++)
            p->acceptance[l][r] = l < GUESSES ? accuracy[l][r] - (r ? accuracy[l][r - 1] : 0) : 0;
    free(workspace), free(token), free(hidden);
}

static inline void point_shape(plan *p) {
    const fa_tree shape = {MAX_NODES, 0, p->parent, NULL, p->rank};
    p->shape = shape;
}

/* Plans of all ways, each as good as what is known of it allows. steps: what the model's cost. */
static inline void make_plans(const comparison *c, const sampling *how, const fa_cost *steps,
                              plan plans[METHODS], outcome *out) {
    static const int32_t ones[LEVELS] = {1, 1, 1, 1, 1, 1, 1, 1}, fixed[] = {2, 1, 1}, wide[] = {6, 2, 1};
    fa_error error;
    for (int m = 0; m < METHODS; m++) {
        memset(&plans[m], 0, sizeof plans[m]);
        plans[m].way = (method)m, plans[m].cost = *steps, point_shape(&plans[m]);
    }
    learn(c, &plans[PLAIN], how, 0);

    plan *p = &plans[NGRAM]; /* nothing to decide: what repeats goes on for long */
    check_status(fa_tree_expand(ones, LEVELS - 1, &p->shape, &error), &error);
    learn(c, p, how, 1);
    snprintf(out[NGRAM].note, sizeof out->note, "up to %d", LEVELS - 1);

    plan *seen =
        &plans[SEQUOIA]; /* a wide tree of 3 levels shows what children of each rank are worth, and cost */
    check_status(fa_tree_expand(wide, 3, &seen->shape, &error), &error);
    learn(c, seen, how, 1);
    fa_cost draft = *steps;
    draft.draft = seen->cost.base / 3;

    int32_t gamma = 0;
    p = &plans[CHAIN], memcpy(p->acceptance, seen->acceptance, sizeof p->acceptance);
    check_status(fa_choose_gamma(seen->acceptance[0][0], &draft, 1, LEVELS - 1, &gamma, NULL, &error),
                 &error);
    if (!gamma) gamma = 1; /* no draft pays here: the shortest, to show it */
    check_status(fa_tree_expand(ones, gamma, &p->shape, &error), &error);
    learn(c, p, how, 0);
    snprintf(out[CHAIN].note, sizeof out->note, "%d", gamma);

    p = &plans[EXPANSION], memcpy(p->acceptance, seen->acceptance, sizeof p->acceptance);
    check_status(fa_tree_expand(fixed, 3, &p->shape, &error), &error);
    learn(c, p, how, 0);
    snprintf(out[EXPANSION].note, sizeof out->note, "<2,1,1>");

    p = &plans[MERGED];
    check_status(fa_tree_expand(ones, 2, &p->shape, &error), &error);
    learn(c, p, how, 1);
    snprintf(out[MERGED].note, sizeof out->note, "2 chains of 2");

    int32_t nodes = 0, depth = 0;
    fa_sequoia_args a = {0};
    a.acceptance = seen->acceptance[0], a.ranks = RANKS, a.max_nodes = MAX_NODES, a.max_depth = LEVELS - 1;
    a.error = &error;
    const size_t bytes = fa_sequoia_workspace(&a);
    void *workspace = allocate(bytes, 1);
    check_status(fa_sequoia(&a, workspace, bytes), &error);
    check_status(fa_choose_tree(&a, workspace, bytes, &draft, 1, &nodes, &depth, NULL), &error);
    if (nodes < 2) nodes = 2, depth = 1;
    check_status(fa_sequoia_tree(&a, workspace, bytes, nodes, depth, &seen->shape), &error);
    free(workspace);
    learn(c, seen, how, 0);
    snprintf(out[SEQUOIA].note, sizeof out->note, "%d nodes, depth %d", seen->shape.num_nodes, depth);

    double accuracy[GUESSES][RANKS], likely[MAX_NODES] = {1};
    int32_t level[MAX_NODES] = {0};
    p = &plans[MEDUSA];
    learn_heads(c, p, &plans[PLAIN], how, accuracy);
    check_status(fa_tree_greedy(accuracy[0], GUESSES, RANKS, &p->shape, NULL, &error), &error);
    for (int32_t i = 1; i < p->shape.num_nodes; i++) { /* likeliest first: the first nodes are the best few */
        level[i] = level[p->parent[i]] + 1;
        likely[i] = likely[p->parent[i]] * p->acceptance[level[i] - 1][p->rank[i]];
    }
    check_status(fa_choose_nodes(likely, p->shape.num_nodes, steps, 1, &nodes, NULL, &error), &error);
    p->shape.num_nodes = nodes < 2 ? 2 : nodes;
    learn(c, p, how, 0);
    snprintf(out[MEDUSA].note, sizeof out->note, "%d nodes, %d heads", p->shape.num_nodes, GUESSES);
}

/* ---- is it the same law? ---- */

/* The chance that a chi-square of so many degrees of freedom is this large or larger [Wilson, Hilferty 1931]. */
static inline double chi_square_chance(double chi, double degrees) {
    const double z = (cbrt(chi / degrees) - (1 - 2 / (9 * degrees))) / sqrt(2 / (9 * degrees));
    return 0.5 * erfc(z / sqrt(2));
}

typedef struct drawn {
    uint32_t text; /* TRIGRAMS tokens */
    uint32_t count[2];
} drawn;

static inline int by_text(const void *a, const void *b) {
    const drawn *x = (const drawn *)a, *y = (const drawn *)b;
    return (x->text > y->text) - (x->text < y->text);
}
static inline int by_count(const void *a, const void *b) { /* the most frequent first */
    const drawn *x = (const drawn *)a, *y = (const drawn *)b;
    const uint32_t n = x->count[0] + x->count[1], m = y->count[0] + y->count[1];
    return n != m ? (n < m) - (n > m) : by_text(a, b);
}

/* Draws that many short texts behind the first prompt, as entries with count[which] 1. */
static inline void draw_texts(const comparison *c, const plan *p, const sampling *how, int which, drawn *to) {
    writer *w = c->w;
    writer_begin(w, prompt_of(c, 0), PROMPT, how);
    float *hidden = floats((size_t)w->model->g->config.dim);
    memcpy(hidden, w->hidden, (size_t)w->model->g->config.dim * sizeof(float));
    for (int32_t n = 0; n < c->draws; n++) {
        writer_rewind(w, PROMPT, hidden, how->seed + (uint64_t)(n * METHODS) + p->way);
        while (w->count < PROMPT + TRIGRAMS) write_step(w, p, NULL, NULL);
        memset(&to[n], 0, sizeof to[n]);
        for (int i = 0; i < TRIGRAMS; i++) to[n].text = to[n].text << 8 | (uint32_t)w->token[PROMPT + i];
        to[n].count[which] = 1;
    }
    free(hidden);
}

/* Two samples of the same size: chi-square over texts that were drawn 10 times or more, and all others together. */
static inline void compare_laws(drawn *d, int32_t count, outcome *o) {
    int32_t kinds = 0;
    double rest[2] = {0, 0};
    qsort(d, (size_t)count, sizeof *d, by_text);
    for (int32_t i = 0; i < count; i++) {
        if (kinds && d[kinds - 1].text == d[i].text)
            d[kinds - 1].count[0] += d[i].count[0], d[kinds - 1].count[1] += d[i].count[1];
        else
            d[kinds++] = d[i];
    }
    qsort(d, (size_t)kinds, sizeof *d, by_count);
    o->chi = 0, o->degrees = -1;
    for (int32_t i = 0; i < kinds; i++) {
        const double a = d[i].count[0], b = d[i].count[1];
        if (a + b >= 10)
            o->chi += (a - b) * (a - b) / (a + b), o->degrees++;
        else
            rest[0] += a, rest[1] += b;
    }
    if (rest[0] + rest[1] >= 10)
        o->chi += (rest[0] - rest[1]) * (rest[0] - rest[1]) / (rest[0] + rest[1]), o->degrees++;
    o->chance = o->degrees > 0 ? chi_square_chance(o->chi, o->degrees) : 1;
}

/* ---- is it the same text? ---- */

/* 1: it is; 2: up to a place where two bytes are equally good but for rounding, which depends on where in a tree a token
 * stood; 0: no. plain: what plain decoding has written behind the prompt. */
static inline int same_text(const comparison *c, const int32_t *plain) {
    writer *w = c->w;
    int32_t at = 0;
    while (at < c->length && w->token[PROMPT + at] == plain[at]) at++;
    if (at == c->length) return 1;
    w->model->length = 0;
    const int32_t row = decoder_read(w->model, w->token, PROMPT + at);
    const float *x = w->model->logits + row * VOCAB;
    return fabsf(x[plain[at]] - x[w->token[PROMPT + at]]) < attention_noise ? 2 : 0;
}

/* ---- the table ---- */

/* One half of it. Not 0: a way wrote another text than plain decoding, or had another law. */
static inline int compare_ways(const comparison *c, const sampling *how) {
    enum { COSTS = 7 };
    static plan plans[METHODS];
    outcome out[METHODS];
    int32_t rows[COSTS];
    double steps[COSTS], times[METHODS][ROUNDS];
    const int greedy = how->temperature == 0;
    int32_t *plain = (int32_t *)allocate((size_t)(TRY * c->length), sizeof *plain);
    int wrong = 0;
    memset(out, 0, sizeof out);
    writer_begin(c->w, prompt_of(c, 0), PROMPT, how);
    const int32_t usual = PROMPT + c->length / 2, most = c->w->model->g->config.context - STEP_ROWS;
    measure_steps(c->w->model, usual < most ? usual : most, rows, steps, COSTS);
    const fa_cost machine = {COSTS, rows, steps, 0, 0};
    make_plans(c, how, &machine, plans, out);

    for (int round = 0; round < ROUNDS; round++) /* one after the other, so that all meet the same machine */
        for (int m = 0; m < METHODS; m++) {
            times[m][round] = 0;
            if (!round) out[m].same = 1;
            for (int n = 0; n < TRY; n++) {
                times[m][round] += write_text(c, LEARN + n, &plans[m], how, round ? NULL : &out[m].t, NULL);
                if (m == PLAIN)
                    memcpy(plain + n * c->length, c->w->token + PROMPT, (size_t)c->length * sizeof *plain);
                else if (greedy && !round) {
                    const int same = same_text(c, plain + n * c->length);
                    out[m].same = !same ? 0 : same == 2 && out[m].same ? 2 : out[m].same;
                }
            }
        }
    for (int m = 0; m < METHODS; m++) out[m].seconds = median(times[m], ROUNDS);
    if (!greedy && c->draws) {
        drawn *d = (drawn *)allocate(3 * (size_t)c->draws, sizeof *d), *both = d + c->draws;
        progress bar = progress_begin("law", 0);
        draw_texts(c, &plans[PLAIN], how, 0, d);
        for (int m = 1; m < METHODS; m++) {
            memcpy(both, d, (size_t)c->draws * sizeof *d);
            draw_texts(c, &plans[m], how, 1, both + c->draws);
            compare_laws(both, 2 * c->draws, &out[m]);
            progress_show(&bar, m / (METHODS - 1.0), m * c->draws / (now() - bar.start), "texts",
                          "chi-square tests");
        }
        free(d);
    }

    if (greedy)
        printf("greedy: every way has to write the same text\n");
    else
        printf("temperature %g, top-k %d, top-p %g: every way has to draw from the same law (chi-square of "
               "%d texts of %d "
               "bytes)\n",
               (double)how->temperature, how->top_k, (double)how->top_p, c->draws, TRIGRAMS);
    printf("  %-10s %-18s tokens a step (law)  accepted  speedup (law)  %s\n", "way", "guesses",
           greedy ? "same text" : "chi-square (degrees)   chance");
    for (int m = 0; m < METHODS; m++) {
        const outcome *o = &out[m];
        const double count = (double)o->t.steps, tried = (double)(o->t.tokens - o->t.steps + o->t.refused);
        char accepted[16] = "-";
        if (tried > 0)
            snprintf(accepted, sizeof accepted, "%.0f %%", 100 * (double)(o->t.tokens - o->t.steps) / tried);
        printf("  %-10s %-18s   %6.2f (%4.2f)      %8s   %5.2f (%4.2f)    ", method_name[m],
               m ? out[m].note : "none", (double)o->t.tokens / count, o->t.law / count, accepted,
               out[PLAIN].seconds / o->seconds,
               fa_cost_step(&plans[PLAIN].cost, 1, 0) * o->t.law / o->t.cost);
        if (m == PLAIN)
            printf("-\n");
        else if (greedy)
            printf("%s\n", o->same == 1 ? "yes" : o->same ? "but for a tie" : "NO");
        else if (c->draws)
            printf("%8.1f (%.0f) %15.3f\n", o->chi, o->degrees, o->chance);
        else
            printf("-\n");
        /* one in a million: some are small by chance, and a wrong law gives far smaller ones */
        if (m != PLAIN && (greedy ? !o->same : c->draws && !(o->chance > 1e-6))) wrong++;
    }
    printf("  a step of the model takes %.0f us with 1 token, %.0f us with 8, %.0f us with %d\n\n",
           1e6 * steps[0], 1e6 * steps[3], 1e6 * steps[COSTS - 1], rows[COSTS - 1]);
    free(plain);
    return wrong;
}

#endif
