/* gates_hopper.cu - the sm_90a kernels at the limits of registers and of shared memory. Exponentials run beside
 * products: half a tile of keys of them, at least. require: hopper:HGMMA,UTMALDG,UTMASTG,STSM,MUFU.HIDDEN>=32 archs: 90a */
#define FA_NAME bf16_64
#define FA_HEAD_DIM 64
#include "flashattn_cuda.cuh"

#define FA_NAME f16_64_all
#define FA_HEAD_DIM 64
#define FA_DTYPE FA_F16
#define FA_FEATURES FA_ALL_FEATURES
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_64_128
#define FA_HEAD_DIM 64
#define FA_HEAD_DIM_V 128
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_128
#define FA_HEAD_DIM 128
#include "flashattn_cuda.cuh"

#define FA_NAME f16_128_all
#define FA_HEAD_DIM 128
#define FA_DTYPE FA_F16
#define FA_FEATURES FA_ALL_FEATURES
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_192
#define FA_HEAD_DIM 192
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_192_all
#define FA_HEAD_DIM 192
#define FA_FEATURES FA_ALL_FEATURES
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_256
#define FA_HEAD_DIM 256
#include "flashattn_cuda.cuh"
