/* gates_dtypes.cu - 16-bit kernels with O in f32. require: HMMA,LDSM,LDGSTS archs: 80 86 89 90 120 */
#define FA_NAME bf16_f32_128_all
#define FA_HEAD_DIM 128
#define FA_O_DTYPE FA_F32
#define FA_FEATURES FA_ALL_FEATURES
#include "flashattn_cuda.cuh"

#define FA_NAME f16_f32_256
#define FA_HEAD_DIM 256
#define FA_DTYPE FA_F16
#define FA_O_DTYPE FA_F32
#include "flashattn_cuda.cuh"
