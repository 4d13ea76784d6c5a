#define FA_NAME attn
#define FA_HEAD_DIM 128
#define FA_FEATURES 0
#define FA_PASSES FA_FORWARD
#include "flashattn_cuda.cuh"

int unit_b_head_dim(void);
int unit_b_head_dim(void) {
    return attn_forward_cuda(NULL, NULL, 0, 0) == FA_ERR_ARGS_NULL ? attn_cuda_info.info.head_dim : 0;
}
