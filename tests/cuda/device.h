/* device.h - problems of fa_problem.h on a GPU: their memory is copied as it is, guards and all, and fa_args points
 * to the copies. An ordinary CUDA program; the PTX machine sees more. */
#ifndef TESTS_CUDA_DEVICE_H
#define TESTS_CUDA_DEVICE_H

typedef struct device_copy {
    void *blocks[FAP_MAX_BLOCKS];
    int count;
    fa_args args; /* of the problem, with pointers to the device */
} device_copy;

static int device_ok(cudaError_t e, const char *what) {
    if (e != cudaSuccess) printf("# %s: %s\n", what, cudaGetErrorString(e));
    return e == cudaSuccess;
}

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
    c->count = p->num_blocks, c->args = p->args;
    for (int n = 0; n < c->count; n++)
        if (!device_ok(cudaMalloc(&c->blocks[n], (size_t)p->sizes[n]), "cudaMalloc") ||
            !device_ok(cudaMemcpy(c->blocks[n], p->blocks[n], (size_t)p->sizes[n], cudaMemcpyHostToDevice),
                       "cudaMemcpy"))
            return 0;
#define MOVE(type, field) c->args.field = (type *)device_address(p, c, p->args.field);
    MOVE(const void, q.data)
    MOVE(const void, k.data) MOVE(const void, v.data) MOVE(void, o.data) MOVE(void, lse.data)
        MOVE(const int32_t, cu_seqlens_q) MOVE(const int32_t, cu_seqlens_k) MOVE(const int32_t, seqused_q)
            MOVE(const int32_t, seqused_k) MOVE(const int32_t, block_table) MOVE(const float, alibi_slopes)
                MOVE(const float, k_descale.data) MOVE(const float, v_descale.data) MOVE(const void, bias.data) MOVE(const float, sink) MOVE(const uint8_t, block_mask.data)
                    MOVE(const uint32_t, tree_mask.data)
#undef MOVE
                        return 1;
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
    fa_error error;
    fa_status status = FA_OK;
    int ok = device_upload(p, &c);
    c.args.error = &error;
    if (ok) status = instance->forward(&c.args, NULL, 0, 0);
    if (ok && status) {
        char text[256];
        fa_error_message(&error, text, sizeof text);
        printf("# %s: %s\n", instance->info.name, text), ok = 0;
    }
    ok = ok && device_ok(cudaDeviceSynchronize(), "kernel") && device_download(p, &c);
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
    fa_error error;
    fa_status status = FA_OK;
    int ok = device_upload(p, &c);
    c.args.error = &error;
    const size_t bytes = ok ? instance->decode_workspace(&c.args) : 0;
    ok = ok && device_reserve(w, bytes);
    if (ok) status = instance->decode(&c.args, w->data, bytes, 0);
    if (ok && status) {
        char text[256];
        fa_error_message(&error, text, sizeof text);
        printf("# %s: %s\n", instance->info.name, text), ok = 0;
    }
    ok = ok && device_ok(cudaDeviceSynchronize(), "kernel") && device_download(p, &c);
    device_free(&c);
    return ok;
}

#endif
