/*  attention.h - all that the model asks of the attention library: attention.c answers with flashattn.h on the CPU,
    attention.cu with flashattn_cuda.cuh and the kernels of flashattn_spec.h on a GPU. Link one of them.

    A row holds q, k and v of one token, (heads + 2 heads_k, HEAD_DIM), q and k rotated already. All memory is the
    host's. What goes wrong here is out of memory or a bug: both end the program with a message. */

#ifndef GPT_ATTENTION_H
#define GPT_ATTENTION_H

#include "flashattn_spec.h"

enum { HEAD_DIM = 64, STEP_ROWS = 64 /* rows of one step of decoding, at most */ };

#if defined(__cplusplus)
extern "C" {
#endif

extern const char attention_device[]; /* "CPU" or "CUDA", for the curious */
extern const float attention_noise; /* logits this close are equal: the rest is rounding, in another order */

/* Training: causal attention within each of batch sequences of seqlen rows. */
typedef struct attention_rows {
    int32_t batch, seqlen, heads, heads_k;
    const float *qkv; /* (batch, seqlen, heads + 2 heads_k, HEAD_DIM) */
    float *o;         /* (batch, seqlen, heads, HEAD_DIM) */
    float *lse;       /* (batch, heads, seqlen) */
} attention_rows;
void attention_forward(const attention_rows *rows); /* writes o and lse */
void attention_backward(const attention_rows *rows, const float *d_o,
                        float *d_qkv); /* reads them; d_qkv as qkv */

/* Inference: K and V of one text, for all layers; on the CPU in f32, as the rounding of f16 would turn a last bit that
 * depends on the shape of a tree into an eleventh. Who calls keeps the length. */
typedef struct attention_cache attention_cache;
attention_cache *attention_cache_new(int32_t layers, int32_t heads, int32_t heads_k, int32_t room);
void attention_cache_free(attention_cache *cache);

/* 1 .. STEP_ROWS more rows behind the first `length` of a layer: their k and v go into the cache, each q attends to what
 * is before it and to itself. tree: bit t of mask[2 * i + t / 32] says whether row i sees row t of these (two words a
 * row); NULL: rows follow each other. o (rows, heads, HEAD_DIM). */
void attention_step(attention_cache *cache, int32_t layer, int32_t length, int32_t rows, const float *qkv,
                    const uint32_t *mask, float *o);

/* Of the rows behind `length` those with these numbers (rising) stay, in all layers, next to each other. */
void attention_keep(attention_cache *cache, int32_t length, const int32_t *rows, int32_t count);

/* fa_verify_chain and fa_verify_tree, where the attention runs. */
fa_status attention_verify_chain(const fa_verify_args *args);
fa_status attention_verify_tree(const fa_verify_args *args);

#if defined(__cplusplus)
}
#endif
#endif
