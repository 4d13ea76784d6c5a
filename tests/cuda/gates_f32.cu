/* gates_f32.cu - f32, and O of another dtype. require: FFMA,LDS,LDGSTS archs: 80 86 89 90 120 */
#define FA_NAME f32_64_all
#define FA_HEAD_DIM 64
#define FA_DTYPE FA_F32
#define FA_FEATURES FA_ALL_FEATURES
#include "flashattn_cuda.cuh"

#define FA_NAME f32_128_all
#define FA_HEAD_DIM 128
#define FA_DTYPE FA_F32
#define FA_FEATURES FA_ALL_FEATURES
#include "flashattn_cuda.cuh"

#define FA_NAME f32_192
#define FA_HEAD_DIM 192
#define FA_DTYPE FA_F32
#include "flashattn_cuda.cuh"

#define FA_NAME f32_256_all
#define FA_HEAD_DIM 256
#define FA_DTYPE FA_F32
#define FA_FEATURES FA_ALL_FEATURES
#include "flashattn_cuda.cuh"
