/* gpu_kernels.cu - the CUDA kernels that are timed, as a shared library for bench/gpu.py:
 *
 *     nvcc -O3 -arch=native -I. -shared -Xcompiler -fPIC -Xlinker -Bsymbolic -DBENCH_DIM=64 -o libbench64.so bench/gpu_kernels.cu
 *
 * -Bsymbolic: with its own CUDA runtime, not the one that PyTorch has loaded. BENCH_DIM: the head dim; without it, all.
 * bf16: forward, backward, decode; e4m3: forward. Causal mask and nothing else compiled in. Tensors are
 * (batch, heads, seq, dim), packed; device memory. */
#define FA_CUDA_CACHE
#define BENCH_PASSES (FA_FORWARD | FA_BACKWARD | FA_DECODE)

#if !defined(BENCH_DIM) || BENCH_DIM == 64
#define FA_NAME bench64
#define FA_HEAD_DIM 64
#define FA_FEATURES FA_CAUSAL
#define FA_PASSES BENCH_PASSES
#include "flashattn_cuda.cuh"

#define FA_NAME bench64_e4m3
#define FA_HEAD_DIM 64
#define FA_DTYPE FA_E4M3
#define FA_FEATURES FA_CAUSAL
#define FA_PASSES FA_FORWARD
#include "flashattn_cuda.cuh"
#endif

#if !defined(BENCH_DIM) || BENCH_DIM == 128
#define FA_NAME bench128
#define FA_HEAD_DIM 128
#define FA_FEATURES FA_CAUSAL
#define FA_PASSES BENCH_PASSES
#include "flashattn_cuda.cuh"

#define FA_NAME bench128_e4m3
#define FA_HEAD_DIM 128
#define FA_DTYPE FA_E4M3
#define FA_FEATURES FA_CAUSAL
#define FA_PASSES FA_FORWARD
#include "flashattn_cuda.cuh"
#endif

#if !defined(BENCH_DIM) || BENCH_DIM == 256
#define FA_NAME bench256
#define FA_HEAD_DIM 256
#define FA_FEATURES FA_CAUSAL
#define FA_PASSES BENCH_PASSES
#include "flashattn_cuda.cuh"

#define FA_NAME bench256_e4m3
#define FA_HEAD_DIM 256
#define FA_DTYPE FA_E4M3
#define FA_FEATURES FA_CAUSAL
#define FA_PASSES FA_FORWARD
#include "flashattn_cuda.cuh"
#endif

static const fa_cuda_info *const bench_instances[][2] = { /* bf16, e4m3 */
#if !defined(BENCH_DIM) || BENCH_DIM == 64
    {&bench64_cuda_info, &bench64_e4m3_cuda_info},
#endif
#if !defined(BENCH_DIM) || BENCH_DIM == 128
    {&bench128_cuda_info, &bench128_e4m3_cuda_info},
#endif
#if !defined(BENCH_DIM) || BENCH_DIM == 256
    {&bench256_cuda_info, &bench256_e4m3_cuda_info},
#endif
};

/* Also a ctypes.Structure of bench/gpu.py. */
typedef struct bench_problem {
    int32_t head_dim, fp8, pass; /* FA_FORWARD, FA_BACKWARD, FA_DECODE */
    int32_t batch, heads, heads_k, seqlen_q, seqlen_k, causal;
    const void *q, *k, *v, *d_o; /* bf16; d_o, dq, dk, dv: backward, which also reads o and lse */
    void *o, *lse, *dq, *dk, *dv;
    uint8_t *codes[3];           /* fp8: Q, K, V in e4m3, as large as q, k, v have elements */
    float *factors[3];           /* fp8: (batch, heads), (batch, heads_k), (batch, heads_k) */
    void *workspace;
    uint64_t bytes;
    cudaStream_t stream;
} bench_problem;

/* (batch, heads, seqlen, head_dim) */
static fa_tensor bench_tensor(const bench_problem *p, const void *data, int32_t heads, int32_t seqlen) {
    const int64_t head = (int64_t)seqlen * p->head_dim;
    const fa_tensor x = {data, heads * head, p->head_dim, head};
    return x;
}
static fa_tensor_out bench_out(const bench_problem *p, void *data, int32_t heads, int32_t seqlen) {
    const fa_tensor in = bench_tensor(p, NULL, heads, seqlen);
    const fa_tensor_out x = {data, in.stride_b, in.stride_s, in.stride_h};
    return x;
}
static fa_descale bench_factors(const float *data, int32_t heads) {
    fa_descale x = {};
    x.data = data, x.stride_b = heads, x.stride_h = 1;
    return x;
}

/* sm_90 has another kernel for fp8, which takes V by columns. */
static int bench_transposes(void) {
    int device = 0, major = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    return major == 9;
}

static fa_args bench_args(const bench_problem *p) {
    fa_args a = {};
    a.batch = p->batch, a.num_heads = p->heads, a.num_heads_k = p->heads_k;
    a.seqlen_q = p->seqlen_q, a.seqlen_k = p->seqlen_k, a.causal = p->causal;
    a.q = bench_tensor(p, p->fp8 ? p->codes[0] : p->q, p->heads, p->seqlen_q);
    a.k = bench_tensor(p, p->fp8 ? p->codes[1] : p->k, p->heads_k, p->seqlen_k);
    a.v = bench_tensor(p, p->v, p->heads_k, p->seqlen_k);
    a.o = bench_out(p, p->o, p->heads, p->seqlen_q);
    a.lse.data = p->lse;
    if (p->pass == FA_BACKWARD) {
        a.d_o = bench_tensor(p, p->d_o, p->heads, p->seqlen_q);
        a.dq = bench_out(p, p->dq, p->heads, p->seqlen_q);
        a.dk = bench_out(p, p->dk, p->heads_k, p->seqlen_k);
        a.dv = bench_out(p, p->dv, p->heads_k, p->seqlen_k);
    }
    if (p->fp8) {
        const fa_tensor packed = {p->codes[2], 0, 0, 0};
        a.v_transposed = bench_transposes();
        a.v = a.v_transposed ? packed : bench_tensor(p, p->codes[2], p->heads_k, p->seqlen_k);
        a.q_descale = bench_factors(p->factors[0], p->heads);
        a.k_descale = bench_factors(p->factors[1], p->heads_k);
        a.v_descale = bench_factors(p->factors[2], p->heads_k);
    }
    return a;
}

#define BENCH_EXPORT extern "C" __attribute__((visibility("default")))

static const fa_cuda_info *bench_instance(const bench_problem *p) {
    for (size_t n = 0; n < sizeof bench_instances / sizeof *bench_instances; n++)
        if (bench_instances[n][0]->info.head_dim == p->head_dim) return bench_instances[n][p->fp8 != 0];
    return NULL;
}

BENCH_EXPORT uint64_t bench_workspace(const bench_problem *p) {
    const fa_cuda_info *const i = bench_instance(p);
    const fa_args a = bench_args(p);
    return p->pass == FA_FORWARD    ? i->forward_workspace(&a)
           : p->pass == FA_BACKWARD ? i->backward_workspace(&a)
                                    : i->decode_workspace(&a);
}

static int bench_status(fa_status status, const fa_error *error, char *message, uint64_t room) {
    if (status != FA_OK) fa_error_message(error, message, room);
    return (int)status;
}

/* fp8: Q, K and V to codes and factors, one a head. */
BENCH_EXPORT int bench_quantize(const bench_problem *p, char *message, uint64_t room) {
    const void *const from[3] = {p->q, p->k, p->v};
    fa_error error;
    fa_status status = FA_OK;
    for (int n = 0; n < 3 && status == FA_OK; n++) {
        const int32_t heads = n ? p->heads_k : p->heads, seqlen = n ? p->seqlen_k : p->seqlen_q;
        const fa_tensor_out packed = {p->codes[n], 0, 0, 0};
        const int transposed = n == 2 && bench_transposes();
        fa_quantize_args z = {};
        z.batch = p->batch, z.num_heads = heads, z.seqlen_q = seqlen, z.head_dim = p->head_dim;
        z.dtype = FA_BF16, z.o_dtype = FA_E4M3, z.transposed = transposed, z.error = &error;
        z.q = bench_tensor(p, from[n], heads, seqlen);
        z.o = transposed ? packed : bench_out(p, p->codes[n], heads, seqlen);
        z.descale.data = p->factors[n], z.descale.stride_b = heads, z.descale.stride_h = 1;
        status = fa_quantize_cuda(&z, p->stream);
    }
    return bench_status(status, &error, message, room);
}

/* Launches it on p->stream; the status, and what is wrong in message. */
BENCH_EXPORT int bench_run(const bench_problem *p, char *message, uint64_t room) {
    const fa_cuda_info *const i = bench_instance(p);
    fa_error error;
    fa_args a = bench_args(p);
    a.error = &error;
    const fa_status status = p->pass == FA_FORWARD    ? i->forward(&a, p->workspace, p->bytes, p->stream)
                             : p->pass == FA_BACKWARD ? i->backward(&a, p->workspace, p->bytes, p->stream)
                                                      : i->decode(&a, p->workspace, p->bytes, p->stream);
    return bench_status(status, &error, message, room);
}

/* Memory of the host as memory of the device, where the PTX machine is the device. */
BENCH_EXPORT int bench_register(void *data, uint64_t bytes) { return (int)cudaHostRegister(data, bytes, 0); }
