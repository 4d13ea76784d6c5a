// An array that is indexed at run time lives in local memory.
#include <cuda_runtime.h>

__global__ void stack(const int *in, int *out, int n) {
    int last[32];
    for (int i = 0; i < 32; i++) last[i] = -1;
    for (int i = 0; i < n; i++) last[in[i] & 31] = i;
    for (int i = 0; i < 32; i++) out[threadIdx.x * 32 + i] = last[i];
}
