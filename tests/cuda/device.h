/* device.h - problems of fa_problem.h on a GPU: their memory is copied as it is, guards and all, and fa_args points
 * to the copies. An ordinary CUDA program; the PTX machine sees more. */
#ifndef TESTS_CUDA_DEVICE_H
#define TESTS_CUDA_DEVICE_H

#include "cuda_test.h"
#include "fa_problem.h"

typedef struct device_copy {
    void *blocks[FAP_MAX_BLOCKS];
    int count;
    fa_args args; /* of the problem, with pointers to the device */
    fa_error error;
} device_copy;

/* Where the device has what the host has at x. */
static void *device_address(const fap_problem *p, const device_copy *c, const void *x) {
    const char *at = (const char *)x;
    for (int n = 0; x && n < c->count; n++) {
        const char *block = (const char *)p->blocks[n];
        if (at >= block && at < block + p->sizes[n]) return (char *)c->blocks[n] + (at - block);
    }
    return NULL;
}

static void device_free(device_copy *c) {
    while (c->count) cudaFree(c->blocks[--c->count]);
}

static int device_upload(const fap_problem *p, device_copy *c) {
    c->args = p->args, c->args.error = &c->error;
    for (c->count = 0; c->count < p->num_blocks; c->count++) {
        void **const block = &c->blocks[c->count];
        const size_t bytes = (size_t)p->sizes[c->count];
        if (!device_ok(cudaMalloc(block, bytes), "cudaMalloc")) return 0;
        if (!device_ok(cudaMemcpy(*block, p->blocks[c->count], bytes, cudaMemcpyHostToDevice), "cudaMemcpy")) return 0;
    }
#define MOVE(type, field) c->args.field = (type *)device_address(p, c, p->args.field)
    MOVE(const void, q.data), MOVE(const void, k.data), MOVE(const void, v.data);
    MOVE(void, o.data), MOVE(void, lse.data);
    MOVE(const int32_t, cu_seqlens_q), MOVE(const int32_t, cu_seqlens_k);
    MOVE(const int32_t, seqused_q), MOVE(const int32_t, seqused_k), MOVE(const int32_t, block_table);
    MOVE(const float, q_descale.data), MOVE(const float, k_descale.data), MOVE(const float, v_descale.data);
    MOVE(const float, alibi_slopes), MOVE(const void, bias.data), MOVE(const float, sink);
    MOVE(const uint8_t, block_mask.data), MOVE(const uint32_t, tree_mask.data);
#undef MOVE
    return 1;
}

/* The call with c->args, whose status this is, has been made: 1 if it was accepted and its kernels are done. */
static int device_done(const fa_cuda_info *instance, device_copy *c, fa_status status) {
    char text[512];
    if (status == FA_OK) return device_ok(cudaDeviceSynchronize(), "kernels");
    fa_error_message(&c->error, text, sizeof text);
    printf("# %s: %s\n", instance->info.name, text);
    return 0;
}

/* What the kernel wrote, and what it should not have, back into the problem. */
static int device_download(const fap_problem *p, const device_copy *c) {
    return device_ok(
               cudaMemcpy(p->o.bytes, device_address(p, c, p->o.bytes), p->o.size, cudaMemcpyDeviceToHost),
               "o") &&
           device_ok(cudaMemcpy(p->lse.bytes, device_address(p, c, p->lse.bytes), p->lse.size,
                                cudaMemcpyDeviceToHost),
                     "lse");
}

/* Runs the instance on problem p; its outputs are in p then. */
static int device_forward(const fa_cuda_info *instance, fap_problem *p) {
    device_copy c;
    const int ok = device_upload(p, &c) && device_done(instance, &c, instance->forward(&c.args, NULL, 0, 0)) &&
                   device_download(p, &c);
    device_free(&c);
    return ok;
}

/* A workspace of garbage, but for its counters, which nobody but the kernels touches from then on. */
typedef struct device_workspace {
    char *data;
    size_t bytes;
} device_workspace;

static int device_reserve(device_workspace *w, size_t bytes) {
    if (bytes <= w->bytes) return 1;
    cudaFree(w->data), w->bytes = bytes;
    return device_ok(cudaMalloc((void **)&w->data, bytes), "cudaMalloc") &&
           device_ok(cudaMemset(w->data, 0xff, bytes), "cudaMemset") &&
           device_ok(cudaMemset(w->data, 0, FA_CUDA_COUNTER_BYTES), "cudaMemset");
}

static int device_decode(const fa_cuda_info *instance, fap_problem *p, device_workspace *w) {
    device_copy c;
    int ok = device_upload(p, &c);
    const size_t bytes = ok ? instance->decode_workspace(&c.args) : 0;
    ok = ok && device_reserve(w, bytes) &&
         device_done(instance, &c, instance->decode(&c.args, w->data, bytes, 0)) && device_download(p, &c);
    device_free(&c);
    return ok;
}

/* The end of a case: was it run, and is its result right? Frees it. */
static int device_judge(const fa_cuda_info *instance, fap_problem *p, const char *line, int ran) {
    const int ok = ran && fap_judge(p, instance->info.name);
    if (!ok) printf("#     case: %s: %s\n", instance->info.name, line), cudaDeviceReset(); /* for the next */
    fap_free(p);
    return ok;
}

/* Replays what was captured of c, twice, on outputs of garbage. */
static int device_replay(fap_problem *p, const device_copy *c, const device_graph *g) {
    int ok = 1;
    for (int n = 0; n < 2; n++)
        ok = ok && device_ok(cudaMemset(device_address(p, c, p->o.bytes), 0xff, p->o.size), "memset") &&
             graph_replay(g) && device_download(p, c) && fap_judge(p, "graph");
    return ok;
}

/* Elements of V that are NaN or infinite, of keys that are finite: rows that see them have them, others do not. The
 * last element of the last key is `last`. */
static void put_infinite_values(fap_problem *p, float last) {
    const fa_dtype kv = (fa_dtype)p->spec.kv;
    void *const v = p->v.data;
    fa_store(v, fap_at_k(p, &p->v, 0, 40, 0) + 3, kv, NAN);
    if (kv != FA_E4M3) { /* which has no infinity */
        fa_store(v, fap_at_k(p, &p->v, 0, 50, 0) + 9, kv, INFINITY);
        fa_store(v, fap_at_k(p, &p->v, 0, 71, 0) + 9, kv, -INFINITY);
    }
    fa_store(v, fap_at_k(p, &p->v, 0, p->spec.sk - 1, 0) + p->spec.dv - 1, kv, last);
}

/* Products of the tiles of a head that some row sees a key of, and of no other. */
static double visible_macs(const fa_info *info, const fa_cuda_launch *tile, int sq, int sk, int causal) {
    double macs = 0;
    for (int first = 0; first < sq; first += tile->block_m) {
        const int end = first + tile->block_m < sq ? first + tile->block_m : sq;
        const int keys = causal && end + sk - sq < sk ? end + sk - sq : sk;
        const int tiles = (keys + tile->block_n - 1) / tile->block_n;
        macs += (double)tile->block_m * (tiles * tile->block_n) * (info->head_dim + info->head_dim_v);
    }
    return macs;
}

#endif
