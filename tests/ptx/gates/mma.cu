// mma.sync: HMMA in every SASS since sm_80, where a Hopper kernel should have HGMMA.
#include <cuda_runtime.h>

__global__ void product(const unsigned *in, float *out) {
    const unsigned *a = in + threadIdx.x * 6, *b = a + 4;
    float d[4] = {};
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    for (int i = 0; i < 4; i++) out[threadIdx.x * 4 + i] = d[i];
}
