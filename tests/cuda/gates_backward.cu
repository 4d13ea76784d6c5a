/* gates_backward.cu - the backward pass at the limits of registers, with the default and with all features.
 * require: backward_kernel:HMMA,LDSM,LDGSTS,RED archs: 80 86 89 90 120 */
#define FA_NAME bf16_64
#define FA_HEAD_DIM 64
#define FA_PASSES FA_BACKWARD
#include "flashattn_cuda.cuh"

#define FA_NAME f16_64_all
#define FA_HEAD_DIM 64
#define FA_DTYPE FA_F16
#define FA_FEATURES FA_ALL_FEATURES
#define FA_PASSES FA_BACKWARD
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_128
#define FA_HEAD_DIM 128
#define FA_PASSES FA_BACKWARD
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_128_all
#define FA_HEAD_DIM 128
#define FA_FEATURES FA_ALL_FEATURES
#define FA_PASSES FA_BACKWARD
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_192
#define FA_HEAD_DIM 192
#define FA_PASSES FA_BACKWARD
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_192_all
#define FA_HEAD_DIM 192
#define FA_FEATURES FA_ALL_FEATURES
#define FA_PASSES FA_BACKWARD
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_256
#define FA_HEAD_DIM 256
#define FA_PASSES FA_BACKWARD
#include "flashattn_cuda.cuh"

#define FA_NAME f16_256_all
#define FA_HEAD_DIM 256
#define FA_DTYPE FA_F16
#define FA_FEATURES FA_ALL_FEATURES
#define FA_PASSES FA_BACKWARD
#include "flashattn_cuda.cuh"
