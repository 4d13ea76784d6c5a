/*  train.h - the loops that learn: a model from text; heads and drafts from what the model says of the text */

#ifndef GPT_TRAIN_H
#define GPT_TRAIN_H

#include "checkpoint.h"

#include <time.h>

static inline double now(void) { /* seconds */
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static inline double bits(double nats) { return nats / log(2); }

/* One line of progress: rewritten on a terminal, every ten seconds elsewhere. */
typedef struct progress {
    const char *what;
    double start, last, done_at_start;
} progress;

static inline progress progress_begin(const char *what, double done) {
    const progress p = {what, now(), 0, done};
    return p;
}

static inline void progress_show(progress *p, double done, double rate, const char *unit, const char *format,
                                 ...) {
    const int terminal = isatty(STDERR_FILENO), end = done >= 1;
    const double t = now(), spent = t - p->start;
    if (!end && t - p->last < (terminal ? 0.2 : 10)) return;
    if (!end && !(p->last > 0) && !terminal) { /* no line for the first moment */
        p->last = t;
        return;
    }
    p->last = t;
    const double left = done > p->done_at_start ? spent * (1 - done) / (done - p->done_at_start) : 0;
    const int width = 24, full = (int)(done * width + 0.5);
    char bar[32], text[200];
    for (int i = 0; i < width; i++) bar[i] = i < full ? '#' : '.';
    bar[width] = 0;
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    fprintf(stderr, "%s%-8s %s %3.0f %%  %s  %.0f %s/s  ", terminal ? "\r\033[K" : "", p->what, bar,
            100 * done, text, rate, unit);
    if (end)
        fprintf(stderr, "%.0f s\n", spent);
    else
        fprintf(stderr, "%d:%02d left%s", (int)left / 60, (int)left % 60, terminal ? "" : "\n");
    fflush(stderr);
}

/* ---- batches ---- */

/* Sequence b of step `step`: a place in the first part of the text that depends on nothing else, so that training goes
 * on after a restart as if there had been none. token, target (batch, seqlen). */
static inline void draw_batch(const corpus *t, uint64_t seed, uint64_t step, int32_t batch, int32_t seqlen,
                              uint8_t *token, uint8_t *target) {
    for (int32_t b = 0; b < batch; b++) {
        const uint64_t places = t->num_train - (size_t)seqlen;
        const size_t at = (size_t)(random_at(seed, step * 1024 + (uint64_t)b) % places);
        memcpy(token + b * seqlen, t->train + at, (size_t)seqlen);
        memcpy(target + b * seqlen, t->train + at + 1, (size_t)seqlen);
    }
}

static inline void want_text(const corpus *t, int32_t seqlen) {
    if (t->num_train < (size_t)seqlen + 1 || t->num_valid < (size_t)seqlen + 1)
        fail("the text is too short: its last tenth must have more than %d bytes", seqlen);
}

/* Bits a byte of the second part, in windows of seqlen bytes, no window twice unless there are fewer than a batch has;
 * at most `batches` batches, spread evenly (0: all that are full). */
static inline double validate(gpt_trainer *t, const corpus *x, int64_t batches) {
    const int64_t windows = ((int64_t)x->num_valid - 1) / t->seqlen,
                  all = windows < t->batch ? 1 : windows / t->batch;
    const int64_t count = batches && batches < all ? batches : all;
    uint8_t *token = (uint8_t *)allocate((size_t)t->rows, 2), *target = token + t->rows;
    double loss = 0;
    for (int64_t n = 0; n < count; n++) {
        for (int64_t b = 0; b < t->batch; b++) {
            const int64_t window = (n * all / count * t->batch + b) % windows;
            memcpy(token + b * t->seqlen, x->valid + window * t->seqlen, (size_t)t->seqlen);
            memcpy(target + b * t->seqlen, x->valid + window * t->seqlen + 1, (size_t)t->seqlen);
        }
        gpt_forward(t, token);
        loss += cross_entropy(t->rows, t->logits, target);
    }
    free(token);
    return bits(loss / (double)count);
}

/* ---- the model ---- */

typedef struct training {
    const char *path; /* of the checkpoint */
    double seconds;   /* learn for so long .. */
    int64_t steps;    /* .. or for so many steps, if not 0: the same parameters every time */
    double save;      /* seconds between checkpoints */
    int32_t batch, seqlen;
    double rate, decay; /* of AdamW */
    uint64_t seed;
    int fresh; /* do not go on from a checkpoint */
} training;

/* The learning rate: up over WARMUP steps, constant, then down to 0 in a straight line. */
static inline double rate_at(double rate, int64_t step, double done) {
    enum { WARMUP = 30 };
    const double from = 0.3, up = step < WARMUP ? (double)(step + 1) / WARMUP : 1;
    return rate * up * (done > from ? (1 - done) / (1 - from) : 1);
}

static inline void put_point(checkpoint *h, float *curve, double done, double train, double valid) {
    if (h->curve == CURVE_ROOM) return;
    float *p = curve + 3 * h->curve++;
    p[0] = (float)done, p[1] = (float)train, p[2] = (float)valid;
}

/* A model trained on x: from the checkpoint at o->path if there is one, and to the end. */
static inline gpt *train_model(const gpt_config *config, const corpus *x, const training *o, checkpoint *h,
                               float *curve) {
    gpt_params unused;
    FILE *file = NULL;
    const uint64_t hash = hash_bytes(hash_bytes(0, x->train, x->num_train), x->valid, x->num_valid);
    want_text(x, o->seqlen);
    memset(h, 0, sizeof *h);
    const int resumed = !o->fresh && checkpoint_open(o->path, KIND_MODEL, h, &file);
    if (!resumed) h->config = *config, h->kind = KIND_MODEL, h->seed = o->seed, h->text = hash;
    const size_t count = gpt_map(&h->config, NULL, &unused);
    if (resumed && h->count != count)
        fail("%s is damaged: its header makes no sense; delete it and train again", o->path);
    float *moments = floats(2 * count);
    gpt *g = gpt_new(&h->config, h->seed, floats(count));
    gpt_trainer *t = gpt_trainer_new(g, o->batch, o->seqlen);
    const checkpoint_data data = {g->data, moments, moments + count, curve};
    if (resumed) {
        checkpoint_read(o->path, h, file, &data);
        printf("%s: %s\n", o->path, h->done >= 1 ? "trained already" : "training goes on from here");
        if (h->text != hash)
            printf("%s has learned from another text: --fresh starts anew with this one\n", o->path);
    }
    h->count = count, h->text = hash;

    uint8_t *token = (uint8_t *)allocate((size_t)t->rows, 2), *target = token + t->rows;
    progress bar = progress_begin("train", h->done);
    double saved = now(), shown = h->curve ? (double)curve[3 * h->curve - 3] : 0, rows = 0;
    while (h->done < 1) {
        const double start = now();
        draw_batch(x, h->seed, h->step, t->batch, t->seqlen, token, target);
        gpt_forward(t, token);
        const double loss = cross_entropy(t->rows, t->logits, target);
        if (!(loss < 100)) fail("the loss is %g at step %" PRIu64 ": lower --rate", loss, h->step);
        gpt_backward(t, token);
        adamw(count, g->data, t->grad, data.m, data.v, (int64_t)h->step + 1,
              rate_at(o->rate, (int64_t)h->step, h->done), o->decay);
        h->step++, h->elapsed += now() - start, rows += (double)t->rows;
        h->done = o->steps ? (double)h->step / (double)o->steps : h->elapsed / o->seconds;
        if (h->done > 1) h->done = 1;
        h->smooth = h->smooth == 0 ? loss : 0.98 * h->smooth + 0.02 * loss;
        if (h->done >= 1 || h->done >= shown + 0.01) {
            const int check = h->done >= 1 || (int)(h->done * 10) > (int)(shown * 10);
            put_point(h, curve, h->done, bits(h->smooth), check ? validate(t, x, 16) : 0);
            shown = (double)(float)h->done; /* as the curve has it: after a restart it goes on the same */
        }
        if (h->done >= 1) h->valid = validate(t, x, 0);
        if (h->done >= 1 || now() - saved > o->save) checkpoint_save(o->path, h, &data), saved = now();
        progress_show(&bar, h->done, rows / (now() - bar.start), "tokens", "loss %.3f bits a byte",
                      bits(h->smooth));
    }
    free(token), free(moments);
    gpt_trainer_free(t);
    return g;
}

/* ---- what guesses ahead ---- */

enum { GUESSES = 4, DRAFTS = 2 }; /* Medusa heads, which guess the tokens 2 .. 5 places on; small models */

/* All parameters are in one array. */
typedef struct guessers {
    int32_t dim;                       /* of the model that they are for */
    float *data;                       /* (count) */
    size_t count, heads;               /* floats of all, of the heads */
    float *weight, *bias, *projection; /* (GUESSES, dim, dim), (GUESSES, dim), (GUESSES, VOCAB, dim) */
    gpt *draft[DRAFTS];
} guessers;

static inline guessers guessers_new(const gpt *g, const gpt_config *draft, uint64_t seed) {
    const size_t dim = (size_t)g->config.dim, each = GUESSES * dim;
    gpt_params unused;
    guessers s = {g->config.dim, NULL, 0, 0, NULL, NULL, NULL, {NULL}};
    const size_t small = gpt_map(draft, NULL, &unused);
    s.heads = each * dim + each + each * VOCAB, s.count = s.heads + DRAFTS * small, s.data = floats(s.count);
    s.weight = s.data, s.bias = s.weight + each * dim, s.projection = s.bias + each;
    for (size_t i = 0; i < each * VOCAB;
         i++) /* a head begins as the model's own, whose matrix lies the other way */
        s.projection[i] = g->p.head[i % dim * VOCAB + i / dim % VOCAB];
    for (size_t d = 0; d < DRAFTS; d++)
        s.draft[d] = gpt_new(draft, seed + 100 * d, s.data + s.heads + d * small);
    return s;
}

static inline void guessers_free(guessers *s) {
    for (int d = 0; d < DRAFTS; d++) gpt_free(s->draft[d]);
    free(s->data);
}

static inline void best_tokens(int64_t rows, const float *x,
                               int32_t *token) { /* the largest of each row of x */
    for (int64_t i = 0; i < rows; i++) {
        token[i] = 0;
        for (int32_t k = 1; k < VOCAB; k++)
            if (x[i * VOCAB + k] > x[i * VOCAB + token[i]]) token[i] = k;
    }
}

/* The gradient of Medusa's objective: head k should guess the token after next, and k more; the model is frozen. */
static inline double heads_gradient(const guessers *s, const gpt_trainer *t, const uint8_t *token,
                                    float *grad) {
    const size_t dim = (size_t)s->dim, each = GUESSES * dim;
    int32_t *at = (int32_t *)allocate((size_t)(t->rows + t->batch + 1), sizeof *at), *begin = at + t->rows;
    double loss = 0;
    for (int64_t i = 0; i < t->rows; i++) at[i] = token[i];
    for (int32_t b = 0; b <= t->batch; b++) begin[b] = b * t->seqlen;
    fa_error error;
    fa_medusa_args a = {0};
    a.rows = (int32_t)t->rows, a.dim = s->dim, a.vocab = VOCAB, a.heads = GUESSES, a.x = t->normed;
    a.weight = s->weight, a.bias = s->bias, a.projection = s->projection;
    a.target = at, a.cu_seqlens = begin, a.batch = t->batch, a.loss = &loss;
    a.d_weight = grad, a.d_bias = grad + each * dim, a.d_projection = a.d_bias + each, a.error = &error;
    const size_t bytes = fa_medusa_workspace(&a);
    void *workspace = allocate(bytes, 1);
    check_status(fa_medusa_loss(&a, workspace, bytes), &error);
    free(workspace), free(at);
    return loss;
}

/* Heads and drafts learn side by side from what the frozen model says of the text: the heads the text itself, the first
 * draft the model's probabilities, and each other draft the same where all before it would say something else than the
 * model [SpecInfer's boost-tuning]. */
static inline guessers train_guessers(const gpt *g, const gpt_config *draft, const corpus *x,
                                      const training *o) {
    FILE *file = NULL;
    checkpoint h;
    guessers s = guessers_new(g, draft, o->seed);
    float *moments = floats(3 * s.count), *m = moments, *v = m + s.count, *grad = v + s.count, curve[3];
    const checkpoint_data data = {s.data, m, v, curve};
    const uint64_t teacher = hash_bytes(0, g->data, g->count * sizeof(float));
    want_text(x, o->seqlen);
    memset(&h, 0, sizeof h);
    if (!o->fresh && checkpoint_open(o->path, KIND_GUESSERS, &h, &file)) {
        if (h.text == teacher && h.count == s.count && memcmp(&h.config, draft, sizeof *draft) == 0) {
            checkpoint_read(o->path, &h, file, &data);
            printf("%s: %s\n", o->path, h.done >= 1 ? "trained already" : "training goes on from here");
        } else {
            memset(&h, 0, sizeof h), fclose(file); /* they were another model's */
        }
    }
    h.kind = KIND_GUESSERS, h.config = *draft, h.heads = GUESSES, h.count = s.count, h.seed = o->seed,
    h.text = teacher;

    gpt_trainer *big = gpt_trainer_new((gpt *)(uintptr_t)g, o->batch, o->seqlen), *small[DRAFTS];
    for (int d = 0; d < DRAFTS; d++) small[d] = gpt_trainer_new(s.draft[d], o->batch, o->seqlen);
    const size_t rows = (size_t)big->rows;
    uint8_t *token = (uint8_t *)allocate(rows, 2), *wrong = (uint8_t *)allocate(rows, DRAFTS);
    int32_t *said = (int32_t *)allocate(rows, 2 * sizeof *said), *guess = said + rows;
    double *weight = (double *)allocate(rows, sizeof *weight), saved = now(), seen = 0;
    progress bar = progress_begin("drafts", h.done);
    while (h.done < 1) {
        const double start = now(), rate = rate_at(2 * o->rate, (int64_t)h.step, h.done);
        draw_batch(x, h.seed + 1, h.step++, big->batch, big->seqlen, token, token + rows);
        gpt_forward(big, token);
        const double loss = heads_gradient(&s, big, token, grad);
        adamw(s.heads, s.data, grad, m, v, (int64_t)h.step, rate, o->decay);
        best_tokens(big->rows, big->logits, said);
        softmax(big->rows, big->logits, NULL);
        for (size_t i = 0; i < rows; i++) weight[i] = 1 / (double)rows;
        for (int d = 0; d < DRAFTS; d++) {
            const size_t at = (size_t)(s.draft[d]->data - s.data);
            gpt_forward(small[d], token);
            best_tokens(big->rows, small[d]->logits, guess);
            distill(big->rows, small[d]->logits, big->logits, weight);
            gpt_backward(small[d], token);
            adamw(s.draft[d]->count, s.draft[d]->data, small[d]->grad, m + at, v + at, (int64_t)h.step, rate,
                  o->decay);
            check_status(fa_boost_wrong(guess, said, (int64_t)rows, 1, wrong + (size_t)d * rows, NULL), NULL);
            check_status(fa_boost_covered(wrong, d + 1, (int64_t)rows, weight, NULL, NULL), NULL);
        }
        h.elapsed += now() - start, seen += (double)rows;
        h.done = o->steps ? (double)h.step / (double)o->steps : h.elapsed / o->seconds;
        if (h.done > 1) h.done = 1;
        h.smooth = h.smooth == 0 ? loss : 0.98 * h.smooth + 0.02 * loss;
        if (h.done >= 1 || now() - saved > o->save) checkpoint_save(o->path, &h, &data), saved = now();
        progress_show(&bar, h.done, seen / (now() - bar.start), "tokens", "loss of the heads %.3f", h.smooth);
    }
    for (int d = 0; d < DRAFTS; d++) gpt_trainer_free(small[d]);
    gpt_trainer_free(big);
    free(token), free(wrong), free(said), free(weight), free(moments);
    return s;
}

#endif
