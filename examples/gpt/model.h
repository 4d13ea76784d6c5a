/*  model.h - a transformer over bytes: RMSNorm, rotary positions, grouped-query attention, SwiGLU

        x = embed[byte]
        each layer:  x += attention(norm(x) Wqkv) Wo      x += (SiLU(h Wgate) * (h Wup)) Wdown,  h = norm(x)
        logits = norm(x) Whead

    Forward for training, backward, AdamW, and the step of inference. Attention is attention.h, products are gemm.h; the
    rest is here, in f32. Matrices are (in, out), rows follow each other. The same bits for any number of threads. */

#ifndef GPT_MODEL_H
#define GPT_MODEL_H

#include "attention.h"
#include "gemm.h"

#include <stdarg.h>
#include <stdlib.h>

enum { VOCAB = 256, MAX_LAYERS = 16 };

static inline _Noreturn void fail(const char *format, ...) {
    va_list list;
    va_start(list, format);
    fprintf(stderr, "gpt: ");
    vfprintf(stderr, format, list);
    fprintf(stderr, "\n");
    va_end(list);
    exit(1);
}

static inline void check_status(fa_status status, const fa_error *error) {
    char text[300];
    if (status == FA_OK) return;
    if (error) fa_error_message(error, text, sizeof text);
    fail("%s", error ? text : fa_strerror(status));
}

static inline void *allocate(size_t count, size_t size) { /* zeroed */
    void *p = calloc(count ? count : 1, size);
    if (!p) fail("no memory for %zu x %zu bytes", count, size);
    return p;
}

static inline float *floats(size_t count) { return (float *)allocate(count, sizeof(float)); }

/* ---- shape and parameters ---- */

typedef struct gpt_config {
    int32_t dim, layers, heads, heads_k; /* dim: any; heads of HEAD_DIM */
    int32_t hidden;                      /* of SwiGLU */
    int32_t context;                     /* positions */
} gpt_config;

static inline int32_t gpt_columns(const gpt_config *c) {
    return (c->heads + 2 * c->heads_k) * HEAD_DIM;
} /* of qkv */

/* Where the parameters are in one array, or their gradients in another. */
typedef struct gpt_layer {
    float *norm1, *qkv, *out; /* (dim), (dim, columns), (heads * HEAD_DIM, dim) */
    float *norm2, *up, *down; /* (dim), (dim, 2 hidden): gate, then up; (hidden, dim) */
} gpt_layer;
typedef struct gpt_params {
    float *embed, *norm, *head; /* (VOCAB, dim), (dim), (dim, VOCAB) */
    gpt_layer layer[MAX_LAYERS];
} gpt_params;

/* Points p into base; the number of floats. base may be NULL, to count. */
static inline size_t gpt_map(const gpt_config *c, float *base, gpt_params *p) {
    const size_t dim = (size_t)c->dim, hidden = (size_t)c->hidden, inner = (size_t)c->heads * HEAD_DIM;
    size_t used = 0;
#define TAKE(field, count) (p->field = base ? base + used : NULL, used += (count))
    TAKE(embed, VOCAB * dim), TAKE(norm, dim), TAKE(head, dim * VOCAB);
    for (int32_t l = 0; l < c->layers; l++) {
        TAKE(layer[l].norm1, dim), TAKE(layer[l].qkv, dim * (size_t)gpt_columns(c)),
            TAKE(layer[l].out, inner * dim);
        TAKE(layer[l].norm2, dim), TAKE(layer[l].up, dim * 2 * hidden), TAKE(layer[l].down, hidden * dim);
    }
#undef TAKE
    return used;
}

/* A number for a place of a random sequence: splitmix64. */
static inline uint64_t random_at(uint64_t seed, uint64_t n) {
    uint64_t z = seed * 0xd1342543de82ef95u + (n + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u, z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* Near enough to normal, mean 0: the sum of four uniform numbers. */
static inline void fill_random(float *x, size_t count, double deviation, uint64_t seed) {
    for (size_t i = 0; i < count; i++) {
        const uint64_t r = random_at(seed, i);
        const int64_t sum = (int64_t)(r & 0xffff) + (int64_t)(r >> 16 & 0xffff) +
                            (int64_t)(r >> 32 & 0xffff) + (int64_t)(r >> 48) - 2 * 65535;
        x[i] = (float)(deviation * sqrt(3) / 65536 * (double)sum);
    }
}

typedef struct gpt {
    gpt_config config;
    size_t count;
    float *data; /* (count): the parameters */
    gpt_params p;
    float *cos, *sin, *minus; /* (context, HEAD_DIM / 2); minus sin: rotates back */
} gpt;

/* A model with random parameters in data (gpt_map(c, NULL, ..) floats), which stays the caller's. */
static inline gpt *gpt_new(const gpt_config *c, uint64_t seed, float *data) {
    gpt *g = (gpt *)allocate(1, sizeof *g);
    g->config = *c, g->data = data, g->count = gpt_map(c, data, &g->p);
    const size_t dim = (size_t)c->dim, inner = (size_t)c->heads * HEAD_DIM,
                 table = (size_t)c->context * HEAD_DIM / 2;
    const double each = 1 / sqrt((double)c->dim),
                 last = 1 / sqrt(2.0 * c->layers); /* as GPT-2: the sum keeps its size */
    fill_random(g->p.embed, VOCAB * dim, 0.5, seed++), fill_random(g->p.head, dim * VOCAB, each / 4, seed++);
    for (size_t i = 0; i < dim; i++) g->p.norm[i] = 1;
    for (int32_t l = 0; l < c->layers; l++) {
        gpt_layer *w = &g->p.layer[l];
        for (size_t i = 0; i < dim; i++) w->norm1[i] = w->norm2[i] = 1;
        fill_random(w->qkv, dim * (size_t)gpt_columns(c), each, seed++);
        fill_random(w->out, inner * dim, last / sqrt((double)inner), seed++);
        fill_random(w->up, dim * 2 * (size_t)c->hidden, each, seed++);
        fill_random(w->down, (size_t)c->hidden * dim, last / sqrt((double)c->hidden), seed++);
    }
    g->cos = floats(3 * table), g->sin = g->cos + table, g->minus = g->sin + table;
    if (fa_rotary_table(g->cos, g->sin, c->context, HEAD_DIM, 10000, 0) != FA_OK)
        fail("context must be 1 .. 2^30");
    for (size_t i = 0; i < table; i++) g->minus[i] = -g->sin[i];
    return g;
}

static inline void gpt_free(gpt *g) {
    if (g) free(g->cos);
    free(g);
}

/* ---- the parts ---- */

/* exp, relative error 3e-7, for loops that a compiler vectorises: |x| < 87 */
static inline float quick_exp(float x) {
    const float t = x * 1.44269504f + 12582912.0f,
                n = t - 12582912.0f; /* 1.5 2^23: adding it rounds to an integer */
    const float r = (x - n * 0.693145752f) - n * 1.42860677e-6f; /* ln 2 in two parts */
    const float p =
        1 + r * (1 + r * (0.5f +
                          r * (0.16666667f + r * (0.041666667f + r * (8.3333333e-3f + r * 1.3888889e-3f)))));
    union {
        float f;
        int32_t i;
    } bits = {t};
    bits.i = (bits.i - 0x4b400000 + 127) << 23;
    return p * bits.f;
}

static inline float sigmoid(float x) {
    const float y = x < -80 ? -80 : x > 80 ? 80 : x;
    return 1 / (1 + quick_exp(-y));
}

/* y (rows, out) = x (rows, in) w, w packed */
static inline void linear(int64_t rows, int64_t in, int64_t out, const float *x, const float *packed,
                          float *y, int add) {
    gemm(rows, out, in, x, in, 1, packed, y, out, add);
}

/* A team of threads costs microseconds, even a team of one: loops over few rows do without. ROW: what such a loop calls.
 * It is compiled once, so that the bits of a row do not depend on how many there are. */
#define ROW static __attribute__((noinline))
#define FOR_ROWS(i, rows, few, call) \
    do { \
        if ((rows) <= (few)) { \
            for (int64_t i = 0; i < (rows); i++) call; \
        } else { \
            _Pragma("omp parallel for schedule(static)") for (int64_t i = 0; i < (rows); i++) call; \
        } \
    } while (0)

ROW void norm_row(int64_t dim, const float *x, const float *gain, float *y, float *scale) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t d = 0; d < dim; d++) sum += x[d] * x[d];
    const float s = 1 / sqrtf(sum / (float)dim + 1e-5f);
#pragma omp simd
    for (int64_t d = 0; d < dim; d++) y[d] = x[d] * s * gain[d];
    if (scale) *scale = s;
}

/* y = x / rms(x) * gain; scale (rows), NULL: not wanted: 1 / rms. */
static inline void norm(int64_t rows, int64_t dim, const float *x, const float *gain, float *y,
                        float *scale) {
    FOR_ROWS(i, rows, 16, norm_row(dim, x + i * dim, gain, y + i * dim, scale ? scale + i : NULL));
}

/* dx (rows, dim) += the gradient of norm, d_gain += that of the gain */
static inline void norm_backward(int64_t rows, int64_t dim, const float *x, const float *gain,
                                 const float *scale, const float *dy, float *dx, float *d_gain) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; i++) {
        const float *from = x + i * dim, *d = dy + i * dim, s = scale[i];
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t k = 0; k < dim; k++) sum += d[k] * gain[k] * from[k];
        const float mean = sum * s * s / (float)dim;
#pragma omp simd
        for (int64_t k = 0; k < dim; k++) dx[i * dim + k] += s * (d[k] * gain[k] - from[k] * mean);
    }
    enum { STRIP = 16 }; /* columns of a thread: a cache line, and sums in the order of rows */
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < dim; first += STRIP)
        for (int64_t i = 0; i < rows; i++)
            for (int64_t k = first; k < first + STRIP && k < dim; k++)
                d_gain[k] += dy[i * dim + k] * x[i * dim + k] * scale[i];
}

ROW void swiglu_row(int64_t hidden, const float *gate, const float *up, float *act) {
#pragma omp simd
    for (int64_t k = 0; k < hidden; k++) act[k] = gate[k] * sigmoid(gate[k]) * up[k];
}

/* act (rows, hidden) = SiLU(gate) * up */
static inline void swiglu(int64_t rows, int64_t hidden, const float *gate_up, float *act) {
    FOR_ROWS(i, rows, 8,
             swiglu_row(hidden, gate_up + i * 2 * hidden, gate_up + (i * 2 + 1) * hidden, act + i * hidden));
}

static inline void swiglu_backward(int64_t rows, int64_t hidden, const float *gate_up, const float *d_act,
                                   float *d_gate_up) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; i++) {
        const float *gate = gate_up + i * 2 * hidden, *up = gate + hidden, *d = d_act + i * hidden;
        float *d_gate = d_gate_up + i * 2 * hidden, *d_up = d_gate + hidden;
#pragma omp simd
        for (int64_t k = 0; k < hidden; k++) {
            const float s = sigmoid(gate[k]), silu = gate[k] * s;
            d_up[k] = d[k] * silu;
            d_gate[k] = d[k] * up[k] * (s + silu * (1 - s));
        }
    }
}

/* Rotates q and k of rows that hold qkv; positions (rows), or NULL: 0, 1 .. in each of batch sequences. */
static inline void rotate(const gpt *g, const float *sin, int32_t batch, int32_t seqlen,
                          const int32_t *positions, float *qkv) {
    const int32_t all = gpt_columns(&g->config);
    fa_rotary_args args = {0};
    args.batch = batch, args.num_heads = g->config.heads + g->config.heads_k, args.seqlen_q = seqlen;
    args.head_dim = HEAD_DIM, args.dtype = FA_F32;
    args.q.data = qkv, args.q.stride_b = (int64_t)seqlen * all, args.q.stride_s = all,
    args.q.stride_h = HEAD_DIM;
    args.o.data = qkv, args.o.stride_b = args.q.stride_b, args.o.stride_s = all, args.o.stride_h = HEAD_DIM;
    args.rotary.cos = g->cos, args.rotary.sin = sin, args.rotary.count = g->config.context;
    args.rotary.dim = HEAD_DIM, args.rotary.per_row = positions != NULL, args.rotary.positions = positions;
    if (fa_rotary(&args) != FA_OK)
        fail("%d positions are too many for a context of %d", seqlen, g->config.context);
}

ROW void softmax_row(float *x, float *log_sum) {
    float max = x[0], sum = 0;
#pragma omp simd reduction(max : max)
    for (int k = 0; k < VOCAB; k++) max = x[k] > max ? x[k] : max;
#pragma omp simd reduction(+ : sum)
    for (int k = 0; k < VOCAB; k++) {
        const float y = x[k] - max;
        x[k] = quick_exp(y < -80 ? -80 : y);
        sum += x[k];
    }
    const float share = 1 / sum;
#pragma omp simd
    for (int k = 0; k < VOCAB; k++) x[k] *= share;
    if (log_sum) *log_sum = logf(sum) + max;
}

/* logits (rows, VOCAB) become probabilities; log_sum (rows), NULL: not wanted. */
static inline void softmax(int64_t rows, float *logits, float *log_sum) {
    FOR_ROWS(i, rows, 16, softmax_row(logits + i * VOCAB, log_sum ? log_sum + i : NULL));
}

/* The mean over rows of the cross entropy, natural logarithm; logits become its gradient by them: (softmax -
 * one_hot(target)) / rows. */
static inline double cross_entropy(int64_t rows, float *logits, const uint8_t *target) {
    float *loss = floats(2 * (size_t)rows), *log_sum = loss + rows;
    double sum = 0;
    for (int64_t i = 0; i < rows; i++) loss[i] = -logits[i * VOCAB + target[i]];
    softmax(rows, logits, log_sum);
    for (int64_t i = 0; i < rows; i++)
        sum += (double)(loss[i] + log_sum[i]), logits[i * VOCAB + target[i]] -= 1;
    const float share = 1 / (float)rows;
#pragma omp parallel for simd schedule(static)
    for (int64_t i = 0; i < rows * VOCAB; i++) logits[i] *= share;
    free(loss);
    return sum / (double)rows;
}

/* The same against probabilities p (rows, VOCAB), each row with its weight. Without the entropy of p it is the
 * divergence of the two; only the gradient is made here. */
static inline void distill(int64_t rows, float *logits, const float *p, const double *weight) {
    softmax(rows, logits, NULL);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; i++) {
        const float w = (float)weight[i];
#pragma omp simd
        for (int64_t k = i * VOCAB; k < (i + 1) * VOCAB; k++) logits[k] = (logits[k] - p[k]) * w;
    }
}

/* ---- learning: forward with everything kept, backward by the chain rule ---- */

typedef struct gpt_kept {             /* of a layer, for the way back */
    float *x, *scale1, *normed1;      /* (rows, dim), (rows), (rows, dim) */
    float *qkv, *o, *lse;             /* (rows, columns), (rows, inner), (heads * rows) */
    float *middle, *scale2, *normed2; /* as the first three, between the two halves */
    float *gate_up, *act;             /* (rows, 2 hidden), (rows, hidden) */
} gpt_kept;

typedef struct gpt_trainer {
    gpt *g;
    int32_t batch, seqlen;
    int64_t rows;  /* batch * seqlen */
    float *memory; /* of everything below */
    gpt_kept kept[MAX_LAYERS];
    float *x, *scale, *normed, *logits;      /* behind the last layer; logits (rows, VOCAB) */
    float *dx, *d_wide, *d_inner, *d_normed; /* (rows, dim), (rows, widest), (rows, widest), (rows, dim) */
    float *packed;                           /* of one matrix */
    float *grad;                             /* (count) */
    gpt_params d;                            /* in grad */
} gpt_trainer;

static inline size_t gpt_trainer_map(gpt_trainer *t, float *base) {
    const gpt_config *c = &t->g->config;
    const size_t rows = (size_t)t->rows, dim = (size_t)c->dim, hidden = (size_t)c->hidden;
    const size_t columns = (size_t)gpt_columns(c), inner = (size_t)c->heads * HEAD_DIM;
    size_t widest = 2 * hidden, used = 0;
    if (columns > widest) widest = columns;
    if (VOCAB > widest) widest = VOCAB;
    if (dim > widest) widest = dim;
#define TAKE(field, count) (t->field = base ? base + used : NULL, used += ((count) + 15) / 16 * 16)
    for (int32_t l = 0; l < c->layers; l++) {
        TAKE(kept[l].x, rows * dim), TAKE(kept[l].scale1, rows), TAKE(kept[l].normed1, rows * dim);
        TAKE(kept[l].qkv, rows * columns), TAKE(kept[l].o, rows * inner);
        TAKE(kept[l].lse, rows * (size_t)c->heads);
        TAKE(kept[l].middle, rows * dim), TAKE(kept[l].scale2, rows), TAKE(kept[l].normed2, rows * dim);
        TAKE(kept[l].gate_up, rows * 2 * hidden), TAKE(kept[l].act, rows * hidden);
    }
    TAKE(x, rows * dim), TAKE(scale, rows), TAKE(normed, rows * dim), TAKE(logits, rows * VOCAB);
    TAKE(dx, rows * dim), TAKE(d_wide, rows * widest), TAKE(d_inner, rows * widest),
        TAKE(d_normed, rows * dim);
    TAKE(packed, (rows > widest ? rows : widest) * (widest + GEMM_COLUMNS));
    TAKE(grad, t->g->count);
#undef TAKE
    return used;
}

static inline gpt_trainer *gpt_trainer_new(gpt *g, int32_t batch, int32_t seqlen) {
    gpt_trainer *t = (gpt_trainer *)allocate(1, sizeof *t);
    if (seqlen > g->config.context)
        fail("sequences of %d do not fit a context of %d", seqlen, g->config.context);
    t->g = g, t->batch = batch, t->seqlen = seqlen, t->rows = (int64_t)batch * seqlen;
    t->memory = floats(gpt_trainer_map(t, NULL));
    gpt_trainer_map(t, t->memory), gpt_map(&g->config, t->grad, &t->d);
    return t;
}

static inline void gpt_trainer_free(gpt_trainer *t) {
    if (t) free(t->memory);
    free(t);
}

/* y (rows, out) = x (rows, in) w (in, out), or += with add */
static inline void project(gpt_trainer *t, int64_t in, int64_t out, const float *x, const float *w, float *y,
                           int add) {
    gemm_pack(in, out, w, out, 1, t->packed);
    gemm(t->rows, out, in, x, in, 1, t->packed, y, out, add);
}

/* dw (in, out) += x^T dy; dx (rows, in) = dy w^T, or += with add */
static inline void project_backward(gpt_trainer *t, int64_t in, int64_t out, const float *x, const float *w,
                                    const float *dy, float *dx, float *dw, int add) {
    gemm_pack(t->rows, out, dy, out, 1, t->packed);
    gemm(in, out, t->rows, x, 1, in, t->packed, dw, out, 1);
    gemm_pack(out, in, w, 1, out, t->packed);
    gemm(t->rows, in, out, dy, out, 1, t->packed, dx, in, add);
}

static inline attention_rows gpt_attention(const gpt_trainer *t, const gpt_kept *k) {
    const attention_rows rows = {t->batch, t->seqlen, t->g->config.heads, t->g->config.heads_k, k->qkv,
                                 k->o,     k->lse};
    return rows;
}

/* Fills t->logits and t->normed, the last hidden states; token (batch, seqlen). */
static inline void gpt_forward(gpt_trainer *t, const uint8_t *token) {
    const gpt_config *c = &t->g->config;
    const gpt_params *p = &t->g->p;
    const int64_t dim = c->dim, hidden = c->hidden, inner = c->heads * HEAD_DIM, columns = gpt_columns(c);
    const size_t bytes = (size_t)(t->rows * dim) * sizeof(float);
    float *x = c->layers ? t->kept[0].x : t->x;
    for (int64_t i = 0; i < t->rows; i++)
        memcpy(x + i * dim, p->embed + token[i] * dim, (size_t)dim * sizeof(float));
    for (int32_t l = 0; l < c->layers; l++) {
        const gpt_layer *w = &p->layer[l];
        const gpt_kept *k = &t->kept[l];
        const attention_rows rows = gpt_attention(t, k);
        float *next = l + 1 < c->layers ? t->kept[l + 1].x : t->x;
        norm(t->rows, dim, k->x, w->norm1, k->normed1, k->scale1);
        project(t, dim, columns, k->normed1, w->qkv, k->qkv, 0);
        rotate(t->g, t->g->sin, t->batch, t->seqlen, NULL, k->qkv);
        attention_forward(&rows);
        memcpy(k->middle, k->x, bytes);
        project(t, inner, dim, k->o, w->out, k->middle, 1);
        norm(t->rows, dim, k->middle, w->norm2, k->normed2, k->scale2);
        project(t, dim, 2 * hidden, k->normed2, w->up, k->gate_up, 0);
        swiglu(t->rows, hidden, k->gate_up, k->act);
        memcpy(next, k->middle, bytes);
        project(t, hidden, dim, k->act, w->down, next, 1);
    }
    norm(t->rows, dim, t->x, p->norm, t->normed, t->scale);
    project(t, dim, VOCAB, t->normed, p->head, t->logits, 0);
}

/* Adds to t->grad, from the gradient of the logits in t->logits. */
static inline void gpt_backward(gpt_trainer *t, const uint8_t *token) {
    const gpt_config *c = &t->g->config;
    const gpt_params *p = &t->g->p, *d = &t->d;
    const int64_t dim = c->dim, hidden = c->hidden, inner = c->heads * HEAD_DIM, columns = gpt_columns(c);
    memset(t->dx, 0, (size_t)(t->rows * dim) * sizeof(float));
    project_backward(t, dim, VOCAB, t->normed, p->head, t->logits, t->d_normed, d->head, 0);
    norm_backward(t->rows, dim, t->x, p->norm, t->scale, t->d_normed, t->dx, d->norm);
    for (int32_t l = c->layers - 1; l >= 0;
         l--) { /* dx passes both sums as it is, and gets a branch's share at each */
        const gpt_layer *w = &p->layer[l], *dw = &d->layer[l];
        const gpt_kept *k = &t->kept[l];
        const attention_rows rows = gpt_attention(t, k);
        project_backward(t, hidden, dim, k->act, w->down, t->dx, t->d_inner, dw->down, 0);
        swiglu_backward(t->rows, hidden, k->gate_up, t->d_inner, t->d_wide);
        project_backward(t, dim, 2 * hidden, k->normed2, w->up, t->d_wide, t->d_normed, dw->up, 0);
        norm_backward(t->rows, dim, k->middle, w->norm2, k->scale2, t->d_normed, t->dx, dw->norm2);
        project_backward(t, inner, dim, k->o, w->out, t->dx, t->d_inner, dw->out, 0);
        attention_backward(&rows, t->d_inner, t->d_wide);
        rotate(t->g, t->g->minus, t->batch, t->seqlen, NULL, t->d_wide);
        project_backward(t, dim, columns, k->normed1, w->qkv, t->d_wide, t->d_normed, dw->qkv, 0);
        norm_backward(t->rows, dim, k->x, w->norm1, k->scale1, t->d_normed, t->dx, dw->norm1);
    }
    for (int64_t i = 0; i < t->rows; i++)
        for (int64_t k = 0; k < dim; k++) d->embed[token[i] * dim + k] += t->dx[i * dim + k];
}

/* One step of AdamW [Loshchilov, Hutter 2019, arXiv 1711.05101], gradients clipped to a norm of 1 and zeroed for the next
 * step. step: 1, 2 .. All parameters decay. */
static inline void adamw(size_t count, float *p, float *grad, float *m, float *v, int64_t step, double rate,
                         double decay) {
    enum { CHUNK = 4096 }; /* sums of chunks in order: the same for any number of threads */
    const double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8;
    const int64_t chunks = (int64_t)((count + CHUNK - 1) / CHUNK);
    double *sum = (double *)allocate((size_t)chunks, sizeof *sum), square = 0;
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < chunks; n++)
        for (size_t i = (size_t)n * CHUNK; i < count && i < ((size_t)n + 1) * CHUNK; i++)
            sum[n] += (double)(grad[i] * grad[i]);
    for (int64_t n = 0; n < chunks; n++) square += sum[n];
    free(sum);
    const float clip = square > 1 ? (float)(1 / sqrt(square)) : 1, keep = (float)(1 - rate * decay);
    const float b1 = (float)beta1, b2 = (float)beta2, eps = (float)epsilon;
    const float size = (float)(rate / (1 - pow(beta1, (double)step)));
    const float even = (float)(1 / (1 - pow(beta2, (double)step)));
#pragma omp parallel for simd schedule(static)
    for (size_t i = 0; i < count; i++) {
        const float x = grad[i] * clip;
        m[i] = b1 * m[i] + (1 - b1) * x, v[i] = b2 * v[i] + (1 - b2) * x * x;
        p[i] = keep * p[i] - size * m[i] / (sqrtf(v[i] * even) + eps);
        grad[i] = 0;
    }
}

#endif
