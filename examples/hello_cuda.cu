/*  The smallest CUDA program: causal attention of 200 tokens with 4 heads in bf16, every output of which is known.
        nvcc -O3 -arch=native -I.. hello_cuda.cu && ./a.out      (H100, H200: -arch=sm_90a) */
#define FA_NAME attn64
#define FA_HEAD_DIM 64
#include "flashattn_cuda.cuh"

int main() {
    enum { SEQ = 200, HEADS = 4, SIZE = SEQ * HEADS * 64 };
    uint16_t *q, *k, *v, *o; /* (seq, head, dim), for the CPU and the GPU */
    cudaError_t e = cudaMallocManaged(&q, 4 * SIZE * sizeof *q);
    if (e != cudaSuccess) return puts(cudaGetErrorString(e)), 1;
    k = q + SIZE, v = k + SIZE, o = v + SIZE;
    for (int i = 0; i < SIZE; i++)
        q[i] = 0, k[i] = fa_f32_to_bf16(sinf((float)i)), v[i] = fa_f32_to_bf16((float)(i / (HEADS * 64))); /* row j: j */

    fa_args args = {}; /* zero is the default, everywhere */
    args.batch = 1, args.num_heads = HEADS, args.seqlen_q = args.seqlen_k = SEQ, args.causal = 1;
    args.q.data = q, args.k.data = k, args.v.data = v, args.o.data = o;
    const fa_status status = attn64_forward_cuda(&args, NULL, 0, 0); /* no workspace; the default stream */
    e = cudaDeviceSynchronize();

    int wrong = 0;
    for (int i = 0; i < SIZE; i++) /* equal scores: row n is the mean of 0 .. n */
        wrong += !(fa_bf16_to_f32(o[i]) == (float)(i / (HEADS * 64)) / 2);
    printf("%s; %s; %d of %d numbers wrong\n", fa_strerror(status), cudaGetErrorString(e), wrong, SIZE);
    cudaFree(q);
    return status != FA_OK || e != cudaSuccess || wrong;
}
