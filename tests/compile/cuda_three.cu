/* Three instances that differ in everything, an include without parameters between them, and CPU kernels of the same
 * name. Some of what they generate is not used, which must not warn either. */
#define FA_NAME plain
#define FA_HEAD_DIM 64
#include "flashattn_cuda.cuh"

#include "flashattn_cuda.cuh"

#ifndef CUDA_ONLY
#define FA_NAME plain
#define FA_HEAD_DIM 64
#define FA_DTYPE FA_BF16
#include "flashattn.h"
#endif

#define FA_NAME tiled
#define FA_HEAD_DIM 192
#define FA_HEAD_DIM_V 128
#define FA_DTYPE FA_F16
#define FA_FEATURES (FA_CAUSAL | FA_DROPOUT)
#define FA_BLOCK_M 32
#define FA_BLOCK_N 16
#define FA_WARPS 2
#define FA_STAGES 1
#include "flashattn_cuda.cuh"

#define FA_NAME modded
#define FA_HEAD_DIM 16
#define FA_FEATURES 0
#define FA_PASSES FA_FORWARD
#define FA_SCORE_MOD(s, b, h, i, j) ((s) * 2 + (float)((i) - (j)) / (float)((b) + (h) + 1))
#define FA_MASK_MOD(b, h, i, j) (((i) ^ (j)) & 1)
#include "flashattn_cuda.cuh"

#if defined(FA_NAME) || defined(FA_HEAD_DIM) || defined(FA_HEAD_DIM_V) || defined(FA_DTYPE) || \
    defined(FA_KV_DTYPE) || defined(FA_O_DTYPE) || defined(FA_FEATURES) || defined(FA_PASSES) || \
    defined(FA_BLOCK_M) || defined(FA_BLOCK_N) || defined(FA_WARPS) || defined(FA_STAGES) || \
    defined(FA_SCORE_MOD) || defined(FA_SCORE_MOD_GRAD) || defined(FA_MASK_MOD)
#error "a parameter outlived its instance"
#endif

int main() {
    const fa_info *const infos[] = {&plain_cuda_info.info, &tiled_cuda_info.info, &modded_cuda_info.info};
    static const int want[3][5] = {{64, 64, FA_BF16, FA_BF16, FA_BF16},
                                   {192, 128, FA_F16, FA_F16, FA_F16},
                                   {16, 16, FA_BF16, FA_BF16, FA_BF16}};
    static const char *const names[] = {"plain", "tiled", "modded"};
    int wrong = 0;
    for (int i = 0; i < 3; i++) {
        const fa_info *n = infos[i];
        wrong += n->head_dim != want[i][0] || n->head_dim_v != want[i][1] || n->dtype != want[i][2];
        wrong += n->kv_dtype != want[i][3] || n->o_dtype != want[i][4] || strcmp(n->name, names[i]) != 0;
    }
    wrong += plain_forward_cuda(NULL, NULL, 0, 0) != FA_ERR_ARGS_NULL;
    wrong += modded_cuda_info.forward(NULL, NULL, 0, 0) != FA_ERR_ARGS_NULL;
    wrong += plain_check(NULL) != FA_ERR_ARGS_NULL || !plain_info.forward || plain_cuda_info.info.forward;
    return wrong;
}
