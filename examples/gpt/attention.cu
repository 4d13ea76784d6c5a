/*  attention.cu - attention.h on a GPU: rows come as f32, are rounded there, bf16 to learn and f16 to decode, and what
    goes back is f32 again. A cache stays there. From the folder above examples:
        nvcc -O3 -arch=native -Xcompiler -march=native,-fopenmp -I. examples/gpt/gpt.c examples/gpt/attention.cu -o gpt */

#define FA_CUDA_CACHE
#define FA_CUDA_SPEC

#define FA_NAME train64
#define FA_HEAD_DIM 64
#define FA_DTYPE FA_BF16 /* gradients have any size */
#define FA_PASSES (FA_FORWARD | FA_BACKWARD)
#define FA_FEATURES FA_CAUSAL
#include "flashattn_cuda.cuh"

#define FA_NAME decode64
#define FA_HEAD_DIM 64
#define FA_DTYPE FA_F16
#define FA_O_DTYPE FA_F32
#define FA_PASSES FA_DECODE
#define FA_FEATURES (FA_CAUSAL | FA_VARLEN | FA_TREE_MASK)
#include "flashattn_cuda.cuh"

#include "attention.h"

#include <stdlib.h>

const char attention_device[] = "CUDA";
const float attention_noise = 0x1p-8f; /* a cache in f16: a last bit of f32 may change one of 11 */

/* ---- errors: what fails while a kernel runs is reported by the copy that waits for it ---- */

static const char *launched = "none"; /* the last call that launches kernels */

static void check(cudaError_t e, const char *call) {
    if (e == cudaSuccess) return;
    fprintf(stderr, "gpt: %s (last launch: %s): %s\n", call, launched, cudaGetErrorString(e));
    exit(1);
}

static void check_launch(fa_status status, const fa_error *error, const char *call) {
    char text[300];
    launched = call;
    if (status == FA_OK) return;
    fa_error_message(error, text, sizeof text);
    fprintf(stderr, "gpt: %s: %s\n", call, text);
    exit(1);
}

/* ---- memory of the device ---- */

typedef struct buffer {
    void *data;
    size_t bytes;
} buffer;

static void *reserve(buffer *b, size_t bytes) { /* zeroed when it grows */
    if (bytes > b->bytes || !b->data) {
        if (b->data) check(cudaFree(b->data), "cudaFree");
        b->data = NULL, b->bytes = bytes + bytes / 2 + 64;
        check(cudaMalloc(&b->data, b->bytes), "cudaMalloc");
        check(cudaMemset(b->data, 0, b->bytes), "cudaMemset");
    }
    return b->data;
}

/* Of each call, which begins with taken = 0: the n-th that it takes was the n-th of the call before, too. */
static buffer buffers[32];
static int taken;

template <typename T> static T *take(size_t count) {
    return (T *)reserve(&buffers[taken++], count * sizeof(T));
}

template <typename T> static T *send(const T *host, size_t count) { /* NULL stays NULL */
    if (!host) return NULL;
    T *const there = take<T>(count);
    check(cudaMemcpy(there, host, count * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy to the device");
    return there;
}

template <typename T> static void fetch(T *host, const T *there, size_t count) {
    if (host)
        check(cudaMemcpy(host, there, count * sizeof(T), cudaMemcpyDeviceToHost), "cudaMemcpy to the host");
}

/* (heads, HEAD_DIM) in another dtype */
static void convert(const void *from, fa_dtype dtype, void *to, fa_dtype to_dtype, size_t heads) {
    fa_error error;
    fa_quantize_args args = {};
    args.batch = args.num_heads = 1, args.seqlen_q = (int32_t)heads, args.head_dim = HEAD_DIM;
    args.q.data = from, args.dtype = dtype, args.o.data = to, args.o_dtype = to_dtype, args.error = &error;
    check_launch(fa_quantize_cuda(&args, 0), &error, "fa_quantize_cuda");
}

static uint16_t *send_rounded(const float *host, fa_dtype dtype, size_t heads) {
    uint16_t *const there = take<uint16_t>(heads * HEAD_DIM);
    convert(send(host, heads * HEAD_DIM), FA_F32, there, dtype, heads);
    return there;
}

static void fetch_bf16(float *host, const uint16_t *there, size_t heads) {
    float *const wide = take<float>(heads * HEAD_DIM);
    convert(there, FA_BF16, wide, FA_F32, heads);
    fetch(host, wide, heads * HEAD_DIM);
}

/* ---- training ---- */

/* (batch, seqlen, heads, HEAD_DIM) among the heads of rows that have `all` of them */
static fa_tensor_out columns(uint16_t *data, int32_t seqlen, int32_t all) {
    const fa_tensor_out t = {data, (int64_t)seqlen * all * HEAD_DIM, all * HEAD_DIM, HEAD_DIM};
    return t;
}
static fa_tensor columns_in(const uint16_t *data, int32_t seqlen, int32_t all) {
    const fa_tensor t = {data, (int64_t)seqlen * all * HEAD_DIM, all * HEAD_DIM, HEAD_DIM};
    return t;
}

static fa_args training_args(const attention_rows *r, fa_error *error) {
    const int32_t all = r->heads + 2 * r->heads_k;
    const uint16_t *const qkv = send_rounded(r->qkv, FA_BF16, (size_t)r->batch * r->seqlen * all);
    fa_args args = {};
    args.batch = r->batch, args.num_heads = r->heads, args.num_heads_k = r->heads_k;
    args.seqlen_q = args.seqlen_k = r->seqlen, args.causal = 1;
    args.q = columns_in(qkv, r->seqlen, all);
    args.k = columns_in(qkv + r->heads * HEAD_DIM, r->seqlen, all);
    args.v = columns_in(qkv + (r->heads + r->heads_k) * HEAD_DIM, r->seqlen, all);
    args.error = error;
    return args;
}

void attention_forward(const attention_rows *r) {
    taken = 0;
    const size_t heads = (size_t)r->batch * r->seqlen * r->heads;
    fa_error error;
    fa_args args = training_args(r, &error);
    uint16_t *const o = take<uint16_t>(heads * HEAD_DIM);
    float *const lse = take<float>(heads);
    args.o.data = o, args.lse.data = lse;
    check_launch(train64_forward_cuda(&args, NULL, 0, 0), &error, "train64_forward_cuda");
    fetch_bf16(r->o, o, heads);
    fetch(r->lse, lse, heads);
}

void attention_backward(const attention_rows *r, const float *d_o, float *d_qkv) {
    taken = 0;
    const int32_t all = r->heads + 2 * r->heads_k;
    const size_t rows = (size_t)r->batch * r->seqlen, heads = rows * r->heads;
    fa_error error;
    fa_args args = training_args(r, &error);
    args.o.data = send_rounded(r->o, FA_BF16, heads); /* it was bf16 */
    args.d_o.data = send_rounded(d_o, FA_BF16, heads);
    args.lse.data = send(r->lse, heads);
    uint16_t *const grad = take<uint16_t>(rows * all * HEAD_DIM);
    args.dq = columns(grad, r->seqlen, all);
    args.dk = columns(grad + r->heads * HEAD_DIM, r->seqlen, all);
    args.dv = columns(grad + (r->heads + r->heads_k) * HEAD_DIM, r->seqlen, all);
    args.deterministic = 1; /* the same training every time */
    const size_t bytes = train64_backward_cuda_workspace(&args);
    check_launch(train64_backward_cuda(&args, take<char>(bytes), bytes, 0), &error, "train64_backward_cuda");
    fetch_bf16(d_qkv, grad, rows * all);
}

/* ---- inference ---- */

struct attention_cache {
    int32_t layers, heads, heads_k, room;
    buffer memory;
    uint16_t *k, *v; /* (layers, room, heads_k, HEAD_DIM) f16 */
};

attention_cache *attention_cache_new(int32_t layers, int32_t heads, int32_t heads_k, int32_t room) {
    attention_cache *const c = (attention_cache *)calloc(1, sizeof *c);
    const size_t count = (size_t)layers * room * heads_k * HEAD_DIM;
    if (!c) {
        fprintf(stderr, "gpt: no memory for a cache\n");
        exit(1);
    }
    c->layers = layers, c->heads = heads, c->heads_k = heads_k, c->room = room;
    c->k = (uint16_t *)reserve(&c->memory, 2 * count * sizeof *c->k), c->v = c->k + count;
    return c;
}

void attention_cache_free(attention_cache *c) {
    if (c) check(cudaFree(c->memory.data), "cudaFree");
    free(c);
}

static fa_cache layer_of(const attention_cache *c, int32_t layer) {
    const int64_t first = (int64_t)layer * c->room * c->heads_k * HEAD_DIM;
    fa_cache cache = {};
    cache.batch = 1, cache.num_heads_k = c->heads_k, cache.seqlen_k = c->room;
    cache.head_dim = cache.head_dim_v = HEAD_DIM, cache.dtype = FA_F16;
    cache.k.data = c->k + first, cache.v.data = c->v + first;
    return cache;
}

void attention_step(attention_cache *c, int32_t layer, int32_t length, int32_t rows, const float *qkv,
                    const uint32_t *mask, float *o) {
    static buffer workspace; /* its counters are the kernels' own from call to call */
    taken = 0;
    const int32_t all = c->heads + 2 * c->heads_k, lengths[2] = {length, length + rows};
    const size_t heads = (size_t)rows * c->heads;
    const int32_t *const lengths_there = send(lengths, 2);
    const uint16_t *const there = send_rounded(qkv, FA_F16, (size_t)rows * all);
    fa_error error;
    fa_append_args add = {};
    add.cache = layer_of(c, layer), add.dtype = FA_F16, add.seqlen_new = rows, add.positions = lengths_there;
    add.k = columns_in(there + c->heads * HEAD_DIM, rows, all);
    add.v = columns_in(there + (c->heads + c->heads_k) * HEAD_DIM, rows, all);
    add.error = &error;
    check_launch(fa_append_cuda(&add, 0), &error, "fa_append_cuda");

    float *const out = take<float>(heads * HEAD_DIM);
    fa_args args = {};
    fa_use_cache(&args, &add.cache);
    args.num_heads = c->heads, args.seqlen_q = rows, args.seqused_k = lengths_there + 1;
    args.q = columns_in(there, rows, all), args.o.data = out;
    args.causal = !mask, args.tree_mask.stride_q = mask ? 2 : 0;
    args.tree_mask.data = send(mask, 2 * (size_t)rows);
    args.split_keys = 512; /* as attention.c: a row's bits are the same, alone or with others */
    args.error = &error;
    const size_t bytes = decode64_decode_cuda_workspace(&args);
    check_launch(decode64_decode_cuda(&args, reserve(&workspace, bytes), bytes, 0), &error,
                 "decode64_decode_cuda");
    fetch(o, out, heads * HEAD_DIM);
}

void attention_keep(attention_cache *c, int32_t length, const int32_t *rows, int32_t count) {
    taken = 0;
    fa_error error;
    fa_compact_args args = {};
    args.max_accepted = count, args.accepted = send(rows, (size_t)count), args.positions = send(&length, 1);
    args.error = &error;
    for (int32_t layer = 0; layer < c->layers; layer++) {
        args.cache = layer_of(c, layer);
        check_launch(fa_compact_cuda(&args, 0), &error, "fa_compact_cuda");
    }
}

/* ---- verification: all that the arguments point at goes there, and what it decides comes back ---- */

static fa_rows send_rows(fa_rows r, size_t count, int32_t vocab) {
    const size_t size = fa_sizeof(r.dtype ? r.dtype : FA_F32), stride = r.stride ? (size_t)r.stride : vocab;
    r.data = send((const char *)r.data, count ? ((count - 1) * stride + vocab) * size : 0);
    return r;
}

static fa_sampling send_sampling(const fa_sampling *s, size_t batch) {
    const fa_sampling there = {send(s->temperature, batch), send(s->top_k, batch), send(s->top_p, batch),
                               send(s->min_p, batch)};
    return there;
}

static fa_status verify(const fa_verify_args *a, int tree) {
    taken = 0;
    const int32_t batch = tree ? a->trees.batch : a->chains.batch,
                  most = tree ? a->trees.num_nodes : a->chains.num_tokens,
                  *const indptr = tree ? a->trees.indptr : a->chains.indptr;
    const size_t total = indptr ? indptr[batch] : (size_t)batch * most, nodes = tree ? total : total + batch;
    const size_t drafts = tree && a->draft_row ? a->num_draft_rows : total;
    const size_t count = (size_t)batch * (a->max_out ? a->max_out : tree ? most : most + 1);
    fa_verify_args d = *a;
    if (tree) {
        d.trees.indptr = send(indptr, batch + 1), d.trees.parent = send(a->trees.parent, total);
        d.trees.token = send(a->trees.token, total), d.draft_row = send(a->draft_row, total);
    } else {
        d.chains.indptr = send(indptr, batch + 1), d.chains.lengths = send(a->chains.lengths, batch);
        d.chains.token = send(a->chains.token, total);
    }
    d.target = send_rows(a->target, nodes, a->vocab);
    const int drawn =
        a->rule != FA_VERIFY_GREEDY && a->rule != FA_VERIFY_TARGET_ONLY && a->rule != FA_VERIFY_TYPICAL;
    if (drawn)
        d.draft = send_rows(a->draft, drafts, a->vocab); /* of all nodes, leaves too; others do without */
    d.sampling = send_sampling(&a->sampling, batch);
    const fa_sampling draft_sampling =
        send_sampling(a->draft_sampling ? a->draft_sampling : &a->sampling, batch);
    if (a->draft_sampling) d.draft_sampling = &draft_sampling;
    d.coins.coins = send(a->coins.coins, nodes);
    d.coins.seed = send(a->coins.seed, batch), d.coins.offset = send(a->coins.offset, batch);
    d.tokens = a->tokens ? take<int32_t>(count) : NULL, d.num_out = a->num_out ? take<int32_t>(batch) : NULL;
    d.accepted = a->accepted ? take<int32_t>(count) : NULL, d.flags = a->flags ? take<uint32_t>(batch) : NULL;

    const size_t bytes = tree ? fa_verify_tree_cuda_workspace(&d) : fa_verify_chain_cuda_workspace(&d);
    void *const workspace = take<char>(bytes);
    const fa_status status =
        tree ? fa_verify_tree_cuda(&d, workspace, bytes, 0) : fa_verify_chain_cuda(&d, workspace, bytes, 0);
    launched = tree ? "fa_verify_tree_cuda" : "fa_verify_chain_cuda";
    if (status != FA_OK) return status;
    fetch(a->tokens, d.tokens, count), fetch(a->num_out, d.num_out, batch);
    fetch(a->accepted, d.accepted, count), fetch(a->flags, d.flags, batch);
    return FA_OK;
}

fa_status attention_verify_chain(const fa_verify_args *args) { return verify(args, 0); }

fa_status attention_verify_tree(const fa_verify_args *args) { return verify(args, 1); }
