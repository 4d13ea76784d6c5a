// Exponentials between a wait that leaves a product in flight and the wait for all. CASE 0: where they are written,
// as a branch needs them; 1: ptxas moves the second wait in front of them.
#include <cuda_runtime.h>

typedef unsigned long long u64;

__device__ __forceinline__ void multiply(float (&d)[4], u64 a, u64 b) { // d[64][8] += a[64][16] * b[16][8]
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
    asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 "
                 "{%0, %1, %2, %3}, %4, %5, 1, 1, 1, 0, 0;\n\t"
                 "wgmma.commit_group.sync.aligned;"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "l"(a), "l"(b)
                 : "memory");
}

__global__ void __launch_bounds__(128) softmax(float *out, u64 a, u64 b, int n) {
    float o[4] = {}, sum = 0;
#pragma unroll 1
    for (int i = 0; i < n; i++) {
        float s[4] = {};
        multiply(s, a, b + i);
        multiply(o, a, b - i);
        asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
        for (int j = 0; j < 4; j++) asm volatile("ex2.approx.ftz.f32 %0, %0;" : "+f"(s[j]));
        sum += s[0] + s[1] + s[2] + s[3];
#if CASE == 0
        if (__any_sync(~0u, sum < 0)) __nanosleep(0);
#endif
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    }
    for (int j = 0; j < 4; j++) out[threadIdx.x * 4 + j] = o[j] + sum;
}
