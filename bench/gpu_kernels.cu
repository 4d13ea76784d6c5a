/* gpu_kernels.cu - the CUDA kernels that are timed, as a shared library for bench/gpu.py:
 *
 *     nvcc -O3 -arch=native -I. -shared -Xcompiler -fPIC -Xlinker -Bsymbolic -DBENCH_DIM=64 -o libbench64.so bench/gpu_kernels.cu
 *
 * -Bsymbolic: with its own CUDA runtime, not the one that PyTorch has loaded. BENCH_DIM: the head dim; without it, all.
 * bf16, causal mask and nothing else compiled in. Tensors are
 * (batch, heads, seq, dim), packed; device memory. */
#ifndef BENCH_PASSES
#define BENCH_PASSES (FA_FORWARD | FA_BACKWARD | FA_DECODE)
#endif

#if !defined(BENCH_DIM) || BENCH_DIM == 64
#define FA_NAME bench64
#define FA_HEAD_DIM 64
#define FA_FEATURES FA_CAUSAL
#define FA_PASSES BENCH_PASSES
#include "flashattn_cuda.cuh"
#endif

#if !defined(BENCH_DIM) || BENCH_DIM == 128
#define FA_NAME bench128
#define FA_HEAD_DIM 128
#define FA_FEATURES FA_CAUSAL
#define FA_PASSES BENCH_PASSES
#include "flashattn_cuda.cuh"
#endif

#if !defined(BENCH_DIM) || BENCH_DIM == 256
#define FA_NAME bench256
#define FA_HEAD_DIM 256
#define FA_FEATURES FA_CAUSAL
#define FA_PASSES BENCH_PASSES
#include "flashattn_cuda.cuh"
#endif

static const fa_cuda_info *const bench_instances[] = {
#if !defined(BENCH_DIM) || BENCH_DIM == 64
    &bench64_cuda_info,
#endif
#if !defined(BENCH_DIM) || BENCH_DIM == 128
    &bench128_cuda_info,
#endif
#if !defined(BENCH_DIM) || BENCH_DIM == 256
    &bench256_cuda_info,
#endif
};

/* Also a ctypes.Structure of bench/gpu.py. */
typedef struct bench_problem {
    int32_t head_dim, pass; /* FA_FORWARD, FA_BACKWARD, FA_DECODE */
    int32_t batch, heads, heads_k, seqlen_q, seqlen_k, causal;
    const void *q, *k, *v, *d_o; /* d_o, dq, dk, dv: backward, which also reads o and lse */
    void *o, *lse, *dq, *dk, *dv;
    void *workspace;
    uint64_t bytes;
    cudaStream_t stream;
} bench_problem;

static const fa_cuda_info *bench_instance(int head_dim) {
    for (size_t n = 0; n < sizeof bench_instances / sizeof *bench_instances; n++)
        if (bench_instances[n]->info.head_dim == head_dim) return bench_instances[n];
    return NULL;
}

static fa_args bench_args(const bench_problem *p) {
    fa_args a = {};
    const int64_t row = p->head_dim, head_q = p->seqlen_q * row, head_k = p->seqlen_k * row;
    const int64_t batch_q = p->heads * head_q, batch_k = p->heads_k * head_k;
    a.batch = p->batch, a.num_heads = p->heads, a.num_heads_k = p->heads_k;
    a.seqlen_q = p->seqlen_q, a.seqlen_k = p->seqlen_k, a.causal = p->causal;
    a.q.data = p->q, a.q.stride_b = batch_q, a.q.stride_h = head_q, a.q.stride_s = row;
    a.k.data = p->k, a.k.stride_b = batch_k, a.k.stride_h = head_k, a.k.stride_s = row;
    a.v = a.k, a.v.data = p->v;
    a.o.data = p->o, a.o.stride_b = batch_q, a.o.stride_h = head_q, a.o.stride_s = row;
    a.lse.data = p->lse;
    a.d_o = a.q, a.d_o.data = p->d_o;
    a.dq = a.o, a.dq.data = p->dq;
    a.dk.data = p->dk, a.dk.stride_b = batch_k, a.dk.stride_h = head_k, a.dk.stride_s = row;
    a.dv = a.dk, a.dv.data = p->dv;
    return a;
}

#define BENCH_EXPORT extern "C" __attribute__((visibility("default")))

/* Is there a kernel for it in this library? */
BENCH_EXPORT int bench_has(int head_dim, int pass) {
    const fa_cuda_info *const i = bench_instance(head_dim);
    return i && (pass == FA_FORWARD ? i->forward : pass == FA_BACKWARD ? i->backward : i->decode) != NULL;
}

BENCH_EXPORT uint64_t bench_workspace(const bench_problem *p) {
    const fa_cuda_info *const i = bench_instance(p->head_dim);
    const fa_args a = bench_args(p);
    return p->pass == FA_FORWARD    ? i->forward_workspace(&a)
           : p->pass == FA_BACKWARD ? i->backward_workspace(&a)
                                    : i->decode_workspace(&a);
}

/* Launches it on p->stream; the status, and what is wrong in message. */
BENCH_EXPORT int bench_run(const bench_problem *p, char *message, uint64_t room) {
    if (!bench_has(p->head_dim, p->pass)) return snprintf(message, room, "not compiled in"), -1;
    const fa_cuda_info *const i = bench_instance(p->head_dim);
    fa_error error;
    fa_args a = bench_args(p);
    a.error = &error;
    const fa_status status = p->pass == FA_FORWARD    ? i->forward(&a, p->workspace, p->bytes, p->stream)
                             : p->pass == FA_BACKWARD ? i->backward(&a, p->workspace, p->bytes, p->stream)
                                                      : i->decode(&a, p->workspace, p->bytes, p->stream);
    if (status != FA_OK) fa_error_message(&error, message, room);
    return (int)status;
}
