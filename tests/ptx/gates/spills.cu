// More live values than registers: 64 registers a thread, 100 sums that stay live through the loop.
#include <cuda_runtime.h>

__global__ void __launch_bounds__(1024) spills(const float *in, float *out, int n) {
    float sum[100] = {};
    for (int i = 0; i < n; i++)
#pragma unroll
        for (int j = 0; j < 100; j++) sum[j] = sum[j] * in[i] + in[j];
#pragma unroll
    for (int j = 0; j < 100; j++) out[j * 1024 + threadIdx.x] = sum[j];
}
