/* Two units with an instance of the same name but different parameters: each has its own (cuda_b.cu). */
#define FA_NAME attn
#define FA_HEAD_DIM 64
#define FA_FEATURES 0
#define FA_PASSES FA_FORWARD
#include "flashattn_cuda.cuh"

int unit_b_head_dim(void);

int main() {
    const int a = attn_cuda_info.info.head_dim, b = unit_b_head_dim();
    if (a != 64 || b != 128) printf("head dims are %d and %d instead of 64 and 128\n", a, b);
    return a != 64 || b != 128 || attn_forward_cuda(NULL, NULL, 0, 0) != FA_ERR_ARGS_NULL;
}
