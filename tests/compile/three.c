/* Three instances that differ in everything, and an include without parameters between them.  Some of what
 * they generate is not used, which must not warn either. */
#define FA_NAME plain
#define FA_HEAD_DIM 64
#include "flashattn.h"

#include "flashattn.h"

#define FA_NAME mixed
#define FA_HEAD_DIM 192
#define FA_HEAD_DIM_V 128
#define FA_DTYPE FA_BF16
#define FA_KV_DTYPE FA_E4M3
#define FA_O_DTYPE FA_F32
#define FA_FEATURES FA_ALL_FEATURES
#define FA_BLOCK_M 64
#define FA_BLOCK_N 64
#include "flashattn.h"

#define FA_NAME modded
#define FA_HEAD_DIM 16
#define FA_DTYPE FA_F16
#define FA_FEATURES 0
#define FA_SCORE_MOD(s, b, h, i, j) ((s) * 2 + (float)((i) - (j)) / (float)((b) + (h) + 1))
#define FA_SCORE_MOD_GRAD(s, b, h, i, j) 2
#define FA_MASK_MOD(b, h, i, j) (((i) ^ (j)) & 1)
#include "flashattn.h"

#if defined(FA_NAME) || defined(FA_HEAD_DIM) || defined(FA_HEAD_DIM_V) || defined(FA_DTYPE) || \
    defined(FA_KV_DTYPE) || defined(FA_O_DTYPE) || defined(FA_FEATURES) || defined(FA_BLOCK_M) || \
    defined(FA_BLOCK_N) || defined(FA_SCORE_MOD) || defined(FA_SCORE_MOD_GRAD) || defined(FA_MASK_MOD)
#error "a parameter outlived its instance"
#endif

int main(void) {
    const fa_info *const infos[] = {&plain_info, &mixed_info, &modded_info};
    static const int want[3][5] = {{64, 64, FA_F32, FA_F32, FA_F32},
                                   {192, 128, FA_BF16, FA_E4M3, FA_F32},
                                   {16, 16, FA_F16, FA_F16, FA_F16}};
    static const char *const names[] = {"plain", "mixed", "modded"};
    int i, wrong = 0;
    for (i = 0; i < 3; i++) {
        const fa_info *n = infos[i];
        wrong += n->head_dim != want[i][0] || n->head_dim_v != want[i][1] || n->dtype != want[i][2];
        wrong += n->kv_dtype != want[i][3] || n->o_dtype != want[i][4] || strcmp(n->name, names[i]) != 0;
    }
    wrong += plain_check(NULL) != FA_ERR_ARGS_NULL || mixed_check(NULL) != FA_ERR_ARGS_NULL;
    wrong += modded_forward(NULL, NULL, 0) != FA_ERR_ARGS_NULL || plain_forward_workspace(NULL) != 0;
    return wrong;
}
