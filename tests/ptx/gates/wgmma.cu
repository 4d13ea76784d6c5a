// A chain of wgmma instructions, right (CASE 0) and in the ways that ptxas repairs at the cost of speed. The
// CASE is the number of the message that it prints.
#include <cuda_runtime.h>

typedef unsigned long long u64;

__device__ __forceinline__ void fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wait() { asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory"); }

#if CASE == 7510
__device__ __noinline__
#else
__device__ __forceinline__
#endif
void multiply(float (&d)[4], u64 a, u64 b) { // d[64][8] += a[64][16] * b[16][8]
    asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 "
                 "{%0, %1, %2, %3}, %4, %5, 1, 1, 1, 0, 0;"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "l"(a), "l"(b));
}

__global__ void __launch_bounds__(128) chain(float *out, u64 a, u64 b, int n) {
    float d[4] = {};
#if CASE != 7519
    fence();
#endif
#if CASE == 7514
    float next[4] = {};
#pragma unroll 1
    for (int i = 0; i < n; i++) { // not unrolled: the swap copies registers of a product in flight
        fence();
        multiply(next, a, b + i);
        commit();
        asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
        for (int j = 0; j < 4; j++) {
            float swap = d[j];
            d[j] = next[j], next[j] = swap * 0.5f;
        }
    }
#else
#pragma unroll
    for (int i = 0; i < 4; i++) {
        multiply(d, a, b + i);
#if CASE == 7511
        d[0] += n;
#endif
    }
#endif
    commit();
#if CASE != 7517
    wait();
#endif
    for (int i = 0; i < 4; i++) out[threadIdx.x * 4 + i] = d[i];
}
