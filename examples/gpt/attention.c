/*  attention.c - attention.h on the CPU: two instances of flashattn.h, one to learn with and one to decode with */

#define FA_NAME train64
#define FA_HEAD_DIM 64
#define FA_PASSES (FA_FORWARD | FA_BACKWARD)
#define FA_FEATURES FA_CAUSAL
#include "flashattn.h"

#define FA_NAME decode64
#define FA_HEAD_DIM 64
#define FA_PASSES FA_DECODE
#define FA_FEATURES (FA_CAUSAL | FA_VARLEN | FA_TREE_MASK)
#include "flashattn.h"

#include "attention.h"

#include <stdlib.h>

const char attention_device[] = "CPU";
const float attention_noise = 0x1p-14f; /* all in f32 */

static void check(fa_status status, const fa_error *error) {
    char text[300];
    if (status == FA_OK) return;
    fa_error_message(error, text, sizeof text);
    fprintf(stderr, "gpt: attention: %s\n", text);
    exit(1);
}

static void *workspace(size_t bytes) { /* one for all calls, which follow each other */
    static void *memory = NULL;
    static size_t size = 0;
    if (bytes > size) {
        free(memory);
        memory = malloc(size = bytes);
        if (!memory) {
            fprintf(stderr, "gpt: no memory for %zu bytes of workspace\n", bytes);
            exit(1);
        }
    }
    return memory;
}

/* (batch, seqlen, heads, HEAD_DIM) among the heads of rows that have `all` of them */
static fa_tensor_out columns(float *data, int32_t seqlen, int32_t all) {
    const fa_tensor_out t = {data, (int64_t)seqlen * all * HEAD_DIM, all * HEAD_DIM, HEAD_DIM};
    return t;
}
static fa_tensor columns_in(const float *data, int32_t seqlen, int32_t all) {
    const fa_tensor t = {data, (int64_t)seqlen * all * HEAD_DIM, all * HEAD_DIM, HEAD_DIM};
    return t;
}

static fa_args training_args(const attention_rows *r, fa_error *error) {
    const int32_t all = r->heads + 2 * r->heads_k;
    fa_args args = {0};
    args.batch = r->batch, args.num_heads = r->heads, args.num_heads_k = r->heads_k;
    args.seqlen_q = args.seqlen_k = r->seqlen, args.causal = 1;
    args.q = columns_in(r->qkv, r->seqlen, all);
    args.k = columns_in(r->qkv + r->heads * HEAD_DIM, r->seqlen, all);
    args.v = columns_in(r->qkv + (r->heads + r->heads_k) * HEAD_DIM, r->seqlen, all);
    args.o.data = r->o, args.lse.data = r->lse, args.error = error;
    return args;
}

void attention_forward(const attention_rows *r) {
    fa_error error;
    const fa_args args = training_args(r, &error);
    const size_t bytes = train64_forward_workspace(&args);
    check(train64_forward(&args, workspace(bytes), bytes), &error);
}

void attention_backward(const attention_rows *r, const float *d_o, float *d_qkv) {
    const int32_t all = r->heads + 2 * r->heads_k;
    fa_error error;
    fa_args args = training_args(r, &error);
    args.d_o.data = d_o;
    args.dq = columns(d_qkv, r->seqlen, all);
    args.dk = columns(d_qkv + r->heads * HEAD_DIM, r->seqlen, all);
    args.dv = columns(d_qkv + (r->heads + r->heads_k) * HEAD_DIM, r->seqlen, all);
    const size_t bytes = train64_backward_workspace(&args);
    check(train64_backward(&args, workspace(bytes), bytes), &error);
}

struct attention_cache {
    int32_t layers, heads, heads_k, room;
    float *k, *v; /* (layers, room, heads_k, HEAD_DIM) */
};

attention_cache *attention_cache_new(int32_t layers, int32_t heads, int32_t heads_k, int32_t room) {
    attention_cache *c = malloc(sizeof *c);
    const size_t rows = (size_t)layers * (size_t)room * (size_t)heads_k;
    float *memory = calloc(2 * rows * HEAD_DIM, sizeof *memory);
    if (!c || !memory) {
        fprintf(stderr, "gpt: no memory for a cache of %d rows\n", room);
        exit(1);
    }
    c->layers = layers, c->heads = heads, c->heads_k = heads_k, c->room = room;
    c->k = memory, c->v = memory + rows * HEAD_DIM;
    return c;
}

void attention_cache_free(attention_cache *c) {
    if (c) free(c->k);
    free(c);
}

static fa_cache layer_of(const attention_cache *c, int32_t layer) {
    const int64_t first = (int64_t)layer * c->room * c->heads_k * HEAD_DIM;
    fa_cache cache = {0};
    cache.batch = 1, cache.num_heads_k = c->heads_k, cache.seqlen_k = c->room;
    cache.head_dim = cache.head_dim_v = HEAD_DIM, cache.dtype = FA_F32;
    cache.k.data = c->k + first, cache.v.data = c->v + first;
    return cache;
}

void attention_step(attention_cache *c, int32_t layer, int32_t length, int32_t rows, const float *qkv,
                    const uint32_t *mask, float *o) {
    const int32_t all = c->heads + 2 * c->heads_k, end = length + rows;
    fa_error error;
    fa_append_args add = {0};
    add.cache = layer_of(c, layer), add.dtype = FA_F32, add.seqlen_new = rows, add.positions = &length;
    add.k = columns_in(qkv + c->heads * HEAD_DIM, rows, all);
    add.v = columns_in(qkv + (c->heads + c->heads_k) * HEAD_DIM, rows, all);
    add.error = &error;
    check(fa_append(&add), &error);

    fa_args args = {0};
    fa_use_cache(&args, &add.cache);
    args.num_heads = c->heads, args.seqlen_q = rows, args.seqused_k = &end;
    args.q = columns_in(qkv, rows, all), args.o.data = o;
    args.causal = !mask, args.tree_mask.data = mask, args.tree_mask.stride_q = mask ? 2 : 0;
    args.split_keys =
        512; /* a row's bits are the same, alone or with others: all ways of decoding write one text */
    args.error = &error;
    const size_t bytes = decode64_decode_workspace(&args);
    check(decode64_decode(&args, workspace(bytes), bytes), &error);
}

void attention_keep(attention_cache *c, int32_t length, const int32_t *rows, int32_t count) {
    for (int32_t layer = 0; layer < c->layers; layer++) {
        fa_error error;
        fa_compact_args args = {0};
        args.cache = layer_of(c, layer), args.max_accepted = count, args.accepted = rows,
        args.positions = &length;
        args.error = &error;
        check(fa_compact(&args), &error);
    }
}

fa_status attention_verify_chain(const fa_verify_args *args) { return fa_verify_chain(args); }

fa_status attention_verify_tree(const fa_verify_args *args) {
    const size_t bytes = fa_verify_tree_workspace(args);
    return fa_verify_tree(args, workspace(bytes), bytes);
}
