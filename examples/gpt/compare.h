/*  compare.h - every way of speculate.h on the same prompts: how many tokens a step, as the law says? how much faster?
    And is it the same text, or the same law? */

#ifndef GPT_COMPARE_H
#define GPT_COMPARE_H

#include "speculate.h"

enum {
    PROMPT = 96, /* bytes of a prompt */
    LEARN = 4,   /* prompts from which acceptance is estimated */
    TRY = 4,     /* prompts that are measured then */
    ROUNDS = 5,  /* of which the median counts */
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
    int same;                    /* text, as plain decoding writes it */
    char note[32];               /* its shape */
} outcome;

static inline const uint8_t *prompt_of(const comparison *c,
                                       int n) { /* spread over the second part of the text */
    return c->text->valid + (c->text->num_valid - PROMPT) / (LEARN + TRY) * (size_t)n;
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

/* Seconds of a step with 1, 2, 4 .. rows behind a text of usual length. */
static inline void measure_steps(decoder *d, int32_t length, int32_t *rows, double *seconds, int32_t count) {
    enum { TIMES = 15 };
    int32_t token[STEP_ROWS] = {0};
    for (int32_t n = 0; n < count; n++) {
        double each[TIMES];
        rows[n] = 1 << n, d->length = length;
        for (int i = 0; i < TIMES; i++) {
            const double start = now();
            decoder_step(d, rows[n], token, NULL, NULL);
            each[i] = now() - start;
        }
        seconds[n] = median(each, TIMES);
    }
}

/* acceptance of all levels, from what an estimator saw */
static inline void put_acceptance(plan *p, const fa_rank_estimator *e) {
    for (int l = 0; l < LEVELS; l++) fa_rank_acceptance(e, p->acceptance[l]);
}

/* Acceptance of a way's guesses, by trying it on the first prompts. */
static inline void learn_acceptance(const comparison *c, plan *p, const sampling *how) {
    double prior[RANKS] = {0.5}, hits[RANKS] = {0}, tried[RANKS] = {0};
    fa_rank_estimator e = {RANKS, prior, 1, 1, hits, tried};
    for (int n = 0; n < LEARN; n++) write_text(c, n, p, how, NULL, &e);
    put_acceptance(p, &e);
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

/* Plans of all ways, each as good as what is known of it allows. */
static inline void make_plans(const comparison *c, const sampling *how, const fa_cost *machine, double heads,
                              plan plans[METHODS], outcome *out) {
    static const int32_t ones[LEVELS] = {1, 1, 1, 1, 1, 1, 1, 1}, fixed[] = {3, 2, 1, 1}, wide[] = {6, 2, 1};
    fa_error error;
    for (int m = 0; m < METHODS; m++) {
        memset(&plans[m], 0, sizeof plans[m]);
        plans[m].way = (method)m, plans[m].cost = *machine, point_shape(&plans[m]);
    }
    plan *p = &plans[NGRAM]; /* nothing to decide: what repeats goes on for long */
    p->cost.draft = 0;
    check_status(fa_tree_expand(ones, 7, &p->shape, &error), &error);
    learn_acceptance(c, p, how);
    snprintf(out[NGRAM].note, sizeof out->note, "up to %d", p->shape.num_nodes - 1);

    plan *seen = &plans[SEQUOIA]; /* a wide tree shows what children of each rank are worth */
    check_status(fa_tree_expand(wide, 3, &seen->shape, &error), &error);
    learn_acceptance(c, seen, how);

    int32_t gamma = 0;
    p = &plans[CHAIN], memcpy(p->acceptance, seen->acceptance, sizeof p->acceptance);
    check_status(fa_choose_gamma(seen->acceptance[0][0], machine, 1, LEVELS - 1, &gamma, NULL, &error),
                 &error);
    p->steps = gamma ? gamma : 1;
    check_status(fa_tree_expand(ones, p->steps, &p->shape, &error), &error);
    snprintf(out[CHAIN].note, sizeof out->note, "%d", p->steps);

    p = &plans[EXPANSION], memcpy(p->acceptance, seen->acceptance, sizeof p->acceptance), p->steps = 4;
    check_status(fa_tree_expand(fixed, 4, &p->shape, &error), &error);
    snprintf(out[EXPANSION].note, sizeof out->note, "<3,2,1,1>");

    p = &plans[MERGED], p->steps = DRAFTS * 3;
    check_status(fa_tree_expand(ones, 3, &p->shape, &error), &error);
    learn_acceptance(c, p, how);
    snprintf(out[MERGED].note, sizeof out->note, "2 chains of 3");

    p = seen;
    int32_t nodes = 0, depth = 0;
    fa_sequoia_args a = {0};
    a.acceptance = p->acceptance[0], a.ranks = RANKS, a.max_nodes = MAX_NODES, a.max_depth = LEVELS - 1,
    a.error = &error;
    const size_t bytes = fa_sequoia_workspace(&a);
    void *workspace = allocate(bytes, 1);
    check_status(fa_sequoia(&a, workspace, bytes), &error);
    check_status(fa_choose_tree(&a, workspace, bytes, machine, 1, &nodes, &depth, NULL), &error);
    if (nodes < 2) nodes = 2, depth = 1; /* no tree pays here: the smallest, to show it */
    check_status(fa_sequoia_tree(&a, workspace, bytes, nodes, depth, &p->shape), &error);
    p->steps = depth;
    snprintf(out[SEQUOIA].note, sizeof out->note, "%d nodes, depth %d", p->shape.num_nodes, depth);
    free(workspace);

    double accuracy[GUESSES][RANKS], value = 0, most = 0, likely[MAX_NODES];
    p = &plans[MEDUSA], p->cost.draft = heads, p->steps = 1;
    learn_heads(c, p, &plans[PLAIN], how, accuracy);
    check_status(fa_tree_greedy(accuracy[0], GUESSES, RANKS, &p->shape, &value, &error), &error);
    int32_t level[MAX_NODES] = {0};
    likely[0] = 1;
    for (int32_t i = 1; i < p->shape.num_nodes; i++) {
        level[i] = level[p->parent[i]] + 1;
        likely[i] = likely[p->parent[i]] * p->acceptance[level[i] - 1][p->rank[i]];
    }
    check_status(fa_choose_nodes(likely, p->shape.num_nodes, &p->cost, 1, &nodes, &most, &error), &error);
    p->shape.num_nodes = nodes < 2 ? 2 : nodes;
    snprintf(out[MEDUSA].note, sizeof out->note, "%d nodes of %d heads", p->shape.num_nodes, GUESSES);
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
static inline int by_count(const void *a, const void *b) {
    const drawn *x = (const drawn *)a, *y = (const drawn *)b;
    const uint32_t n = x->count[0] + x->count[1], m = y->count[0] + y->count[1];
    return (n < m) - (n > m) ? (n < m) - (n > m) : by_text(a, b);
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

/* ---- the table ---- */

/* One half of it. Not 0: a way wrote another text than plain decoding, or had another law. */
static inline int compare_ways(const comparison *c, const sampling *how) {
    enum { COSTS = 7 };
    static plan plans[METHODS];
    outcome out[METHODS];
    int32_t rows[COSTS];
    double steps[COSTS], draft[1], heads = 0, times[METHODS][ROUNDS];
    const int greedy = how->temperature == 0;
    int32_t *plain = (int32_t *)allocate((size_t)(TRY * c->length), sizeof *plain);
    int wrong = 0;
    memset(out, 0, sizeof out);
    writer_begin(c->w, prompt_of(c, 0), PROMPT, how);
    measure_steps(c->w->draft[0], PROMPT + c->length / 2, rows, draft, 1);
    measure_steps(c->w->model, PROMPT + c->length / 2, rows, steps, COSTS);
    const fa_cost machine = {COSTS, rows, steps, draft[0], 0};
    plan one;
    memset(&one, 0, sizeof one), one.way = MEDUSA, point_shape(&one);
    fa_tree_expand((const int32_t[]){1}, 1, &one.shape, NULL);
    for (int i = 0; i < ROUNDS; i++) {
        const double start = now();
        guess_heads(c->w, &one.shape);
        times[0][i] = now() - start;
    }
    heads = median(times[0], ROUNDS);
    make_plans(c, how, &machine, heads, plans, out);

    for (int round = 0; round < ROUNDS; round++) /* one after the other, so that all meet the same machine */
        for (int m = 0; m < METHODS; m++) {
            times[m][round] = 0;
            out[m].same = 1;
            for (int n = 0; n < TRY; n++) {
                times[m][round] += write_text(c, LEARN + n, &plans[m], how, round ? NULL : &out[m].t, NULL);
                if (m == PLAIN)
                    memcpy(plain + n * c->length, c->w->token + PROMPT, (size_t)c->length * sizeof *plain);
                else if (memcmp(plain + n * c->length, c->w->token + PROMPT,
                                (size_t)c->length * sizeof *plain) != 0)
                    out[m].same = 0;
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
        printf("greedy: every way writes the same text\n");
    else
        printf("temperature %g, top-k %d, top-p %g: every way draws from the same law (chi-square of %d "
               "texts of %d bytes)\n",
               (double)how->temperature, how->top_k, (double)how->top_p, c->draws, TRIGRAMS);
    printf("  %-10s %-19s  tokens a step  law    accepted  speedup  law    %s\n", "way", "shape",
           greedy ? "same text" : "chi-square (degrees)  chance");
    for (int m = 0; m < METHODS; m++) {
        const outcome *o = &out[m];
        const double count = (double)o->t.steps, tried = (double)(o->t.tokens - o->t.steps + o->t.refused);
        const double law = steps[0] * o->t.law / o->t.cost;
        printf("  %-10s %-19s  %8.2f     %6.2f ", method_name[m], out[m].note, (double)o->t.tokens / count,
               o->t.law / count);
        if (tried > 0)
            printf(" %6.1f %% ", 100 * (double)(o->t.tokens - o->t.steps) / tried);
        else
            printf("        -  ");
        printf("  %6.2f %6.2f    ", out[PLAIN].seconds / o->seconds * (double)c->length / (double)c->length,
               law);
        if (m == PLAIN)
            printf("-\n");
        else if (greedy)
            printf("%s\n", o->same ? "yes" : "NO");
        else if (c->draws)
            printf("%10.1f (%.0f) %13.3f\n", o->chi, o->degrees, o->chance);
        else
            printf("-\n");
        /* one in a million: some are small by chance, and a wrong law gives far smaller ones */
        if (m != PLAIN && (greedy ? !o->same : c->draws && !(o->chance > 1e-6))) wrong++;
    }
    printf("  a step of the model takes %.0f us for 1 token, %.0f us for 8, %.0f us for %d; of a draft %.0f "
           "us; heads %.0f us\n\n",
           1e6 * steps[0], 1e6 * steps[3], 1e6 * steps[COSTS - 1], rows[COSTS - 1], 1e6 * draft[0],
           1e6 * heads);
    free(plain);
    return wrong;
}

#endif
