/*  Three instances, and the one that fits is chosen at run time: by head dim, type and features.
        nvcc -O3 -arch=native -I.. select_cuda.cu && ./a.out      (H100, H200: -arch=sm_90a) */
#define FA_NAME small
#define FA_HEAD_DIM 64
#include "flashattn_cuda.cuh"

#define FA_NAME large
#define FA_HEAD_DIM 128
#include "flashattn_cuda.cuh"

#define FA_NAME large_capped
#define FA_HEAD_DIM 128
#define FA_DTYPE FA_F16
#define FA_FEATURES (FA_CAUSAL | FA_SOFTCAP)
#include "flashattn_cuda.cuh"

static const fa_info *const instances[] = {&small_cuda_info.info, &large_cuda_info.info, &large_capped_cuda_info.info};

/* Runs a problem of 150 tokens, and returns how many outputs differ from the reference in double; -1: no instance. */
static int run(int head_dim, fa_dtype dtype, fa_args args) {
    enum { SEQ = 150, HEADS = 4, HEADS_K = 2, MAX = SEQ * HEADS * 128 };
    static double exact[MAX], scratch[SEQ + 2 * 128];
    const fa_info *chosen;
    fa_error error;
    char *memory; /* Q, K, V and O, one after the other, in 16 bits */
    args.batch = 1, args.num_heads = HEADS, args.num_heads_k = HEADS_K, args.seqlen_q = args.seqlen_k = SEQ;
    cudaError_t e = cudaMallocManaged(&memory, 4 * MAX * 2);
    if (e != cudaSuccess) return puts(cudaGetErrorString(e)), -2;
    for (int i = 0; i < 3 * MAX; i++) fa_store(memory, i, dtype, 2 * sinf((float)(i * (i % 7 + 1))));
    args.q.data = memory, args.k.data = memory + MAX * 2, args.v.data = memory + MAX * 4, args.o.data = memory + MAX * 6;
    args.error = &error;

    int wrong = -1;
    fa_status status = fa_select(instances, 3, head_dim, head_dim, dtype, &args, &chosen);
    if (status == FA_OK) {
        const fa_cuda_info *const cuda = (const fa_cuda_info *)chosen; /* fa_info is its first member */
        printf("head dim %d, %s, softcap %g: %s; ", head_dim, dtype == FA_F16 ? "f16" : "bf16", (double)args.softcap,
               chosen->name);
        status = cuda->forward(&args, NULL, 0, 0);
        e = cudaDeviceSynchronize();
        wrong = 0;
        if (status == FA_OK) status = fa_reference_forward(chosen, &args, exact, NULL, scratch);
        for (int i = 0; i < SEQ * HEADS * head_dim; i++)
            wrong += !(fabs((double)fa_load(args.o.data, i, dtype) - exact[i]) <= 0.02); /* NaN is wrong too */
        printf("%s; %s; %d numbers wrong\n", fa_strerror(status), cudaGetErrorString(e), wrong);
    } else {
        printf("head dim %d, %s, softcap %g: none: %s\n", head_dim, dtype == FA_F16 ? "f16" : "bf16",
               (double)args.softcap, fa_strerror(status));
    }
    cudaFree(memory);
    return wrong == 0 && (status != FA_OK || e != cudaSuccess) ? 1 : wrong;
}

int main() {
    fa_args causal = {}, capped = {};
    causal.causal = capped.causal = 1, capped.softcap = 3;
    return !(run(64, FA_BF16, causal) == 0 && run(128, FA_BF16, causal) == 0 && run(128, FA_F16, capped) == 0 &&
             run(64, FA_BF16, capped) == -1 && /* without softcap: refused, not ignored */
             run(96, FA_BF16, causal) == -1);
}
