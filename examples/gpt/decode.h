/*  decode.h - the step of inference: some tokens in, a row of logits for each of them out

    A decoder keeps a text's keys and values and its length. A step puts rows behind that length, each attending to what
    is before it: a token that comes next, a prompt, a chain of drafts, or a tree of them under its mask. Which of the rows
    stay is then for the caller to say. */

#ifndef GPT_DECODE_H
#define GPT_DECODE_H

#include "model.h"

typedef struct decoder {
    const gpt *g;
    attention_cache *cache;
    int32_t length; /* tokens of the text that the cache holds */
    float *memory;  /* of everything below */
    float *packed_head, *packed_qkv[MAX_LAYERS], *packed_out[MAX_LAYERS], *packed_up[MAX_LAYERS];
    float *packed_down[MAX_LAYERS];              /* weights in panels: gemm.h */
    float *x, *normed, *qkv, *o, *gate_up, *act; /* (STEP_ROWS, ..) */
    float *hidden, *logits;                      /* of the last step: (STEP_ROWS, dim), (STEP_ROWS, VOCAB) */
} decoder;

static inline size_t decoder_map(decoder *d, float *base) {
    const gpt_config *c = &d->g->config;
    const size_t dim = (size_t)c->dim, hidden = (size_t)c->hidden, columns = (size_t)gpt_columns(c);
    const size_t inner = (size_t)c->heads * HEAD_DIM;
    size_t used = 0;
#define TAKE(field, count) (d->field = base ? base + used : NULL, used += ((count) + 15) / 16 * 16)
    TAKE(packed_head, gemm_packed(c->dim, VOCAB));
    for (int32_t l = 0; l < c->layers; l++) {
        TAKE(packed_qkv[l], gemm_packed(c->dim, gpt_columns(c)));
        TAKE(packed_out[l], gemm_packed(c->heads * HEAD_DIM, c->dim));
        TAKE(packed_up[l], gemm_packed(c->dim, 2 * c->hidden)),
            TAKE(packed_down[l], gemm_packed(c->hidden, c->dim));
    }
    TAKE(x, STEP_ROWS * dim), TAKE(normed, STEP_ROWS * dim), TAKE(qkv, STEP_ROWS * columns);
    TAKE(o, STEP_ROWS * inner), TAKE(gate_up, STEP_ROWS * 2 * hidden), TAKE(act, STEP_ROWS * hidden);
    TAKE(hidden, STEP_ROWS * dim), TAKE(logits, STEP_ROWS * VOCAB);
#undef TAKE
    return used;
}

/* The weights of g as they are; the cache has room for all its positions and a step more. */
static inline decoder *decoder_new(const gpt *g) {
    decoder *d = (decoder *)allocate(1, sizeof *d);
    const gpt_config *c = &g->config;
    d->g = g;
    d->memory = floats(decoder_map(d, NULL)), decoder_map(d, d->memory);
    d->cache = attention_cache_new(c->layers, c->heads, c->heads_k, c->context + STEP_ROWS);
    gemm_pack(c->dim, VOCAB, g->p.head, VOCAB, 1, d->packed_head);
    for (int32_t l = 0; l < c->layers; l++) {
        const gpt_layer *w = &g->p.layer[l];
        gemm_pack(c->dim, gpt_columns(c), w->qkv, gpt_columns(c), 1, d->packed_qkv[l]);
        gemm_pack(c->heads * HEAD_DIM, c->dim, w->out, c->dim, 1, d->packed_out[l]);
        gemm_pack(c->dim, 2 * c->hidden, w->up, 2 * c->hidden, 1, d->packed_up[l]);
        gemm_pack(c->hidden, c->dim, w->down, c->dim, 1, d->packed_down[l]);
    }
    return d;
}

static inline void decoder_free(decoder *d) {
    if (d) attention_cache_free(d->cache), free(d->memory);
    free(d);
}

/* Fills d->hidden and d->logits for 1 .. STEP_ROWS tokens behind the text. positions (rows), NULL: one after the other;
 * mask as in attention_step. */
static inline void decoder_step(decoder *d, int32_t rows, const int32_t *token, const int32_t *positions,
                                const uint32_t *mask) {
    const gpt_config *c = &d->g->config;
    const int64_t dim = c->dim, hidden = c->hidden, inner = c->heads * HEAD_DIM, columns = gpt_columns(c);
    int32_t follow[STEP_ROWS];
    for (int32_t i = 0; i < rows; i++) {
        follow[i] = positions ? positions[i] : d->length + i;
        memcpy(d->x + i * dim, d->g->p.embed + token[i] * dim, (size_t)dim * sizeof(float));
    }
    for (int32_t l = 0; l < c->layers; l++) {
        const gpt_layer *w = &d->g->p.layer[l];
        norm(rows, dim, d->x, w->norm1, d->normed, NULL);
        linear(rows, dim, columns, d->normed, d->packed_qkv[l], d->qkv, 0);
        rotate(d->g, d->g->sin, 1, rows, follow, d->qkv);
        attention_step(d->cache, l, d->length, rows, d->qkv, mask, d->o);
        linear(rows, inner, dim, d->o, d->packed_out[l], d->x, 1);
        norm(rows, dim, d->x, w->norm2, d->normed, NULL);
        linear(rows, dim, 2 * hidden, d->normed, d->packed_up[l], d->gate_up, 0);
        swiglu(rows, hidden, d->gate_up, d->act);
        linear(rows, hidden, dim, d->act, d->packed_down[l], d->x, 1);
    }
    norm(rows, dim, d->x, d->g->p.norm, d->hidden, NULL);
    linear(rows, dim, VOCAB, d->hidden, d->packed_head, d->logits, 0);
}

/* These rows of the last step (rising) belong to the text. NULL: the first `count`, which lie where they belong. */
static inline void decoder_keep(decoder *d, const int32_t *rows, int32_t count) {
    if (rows) attention_keep(d->cache, d->length, rows, count);
    d->length += count;
}

/* Brings the cache up to the first `length` tokens of a text; what it holds already must be of that text. The logits of
 * the last step are those of its last row: row (length - 1 - the text's length before) % STEP_ROWS, which is returned. */
static inline int32_t decoder_read(decoder *d, const int32_t *token, int32_t length) {
    int32_t last = 0;
    while (d->length < length) {
        const int32_t rows = length - d->length < STEP_ROWS ? length - d->length : STEP_ROWS;
        decoder_step(d, rows, token + d->length, NULL, NULL);
        decoder_keep(d, NULL, rows);
        last = rows - 1;
    }
    return last;
}

#endif
