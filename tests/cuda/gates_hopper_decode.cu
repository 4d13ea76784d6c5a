/* gates_hopper_decode.cu - decode by TMA and wgmma at the limits of registers: 3, 2 and 1 blocks an SM.
 * require: hopper_decode:HGMMA,UTMALDG,SYNCS archs: 90a */
#define FA_NAME bf16_64
#define FA_HEAD_DIM 64
#define FA_PASSES FA_DECODE
#include "flashattn_cuda.cuh"

#define FA_NAME f16_64_all
#define FA_HEAD_DIM 64
#define FA_DTYPE FA_F16
#define FA_PASSES FA_DECODE
#define FA_FEATURES FA_ALL_FEATURES
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_128_all
#define FA_HEAD_DIM 128
#define FA_PASSES FA_DECODE
#define FA_FEATURES FA_ALL_FEATURES
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_192
#define FA_HEAD_DIM 192
#define FA_PASSES FA_DECODE
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_192_all
#define FA_HEAD_DIM 192
#define FA_PASSES FA_DECODE
#define FA_FEATURES FA_ALL_FEATURES
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_64_256_all
#define FA_HEAD_DIM 64
#define FA_HEAD_DIM_V 256
#define FA_PASSES FA_DECODE
#define FA_FEATURES FA_ALL_FEATURES
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_256_all
#define FA_HEAD_DIM 256
#define FA_PASSES FA_DECODE
#define FA_FEATURES FA_ALL_FEATURES
#include "flashattn_cuda.cuh"
