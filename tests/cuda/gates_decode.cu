/* gates_decode.cu - decode kernels at the limits of registers. require: decode_kernel_:HMMA,LDSM,LDGSTS archs: 80 86 89 90 120 */
#define FA_NAME bf16_64
#define FA_HEAD_DIM 64
#define FA_PASSES FA_DECODE
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_128
#define FA_HEAD_DIM 128
#define FA_PASSES FA_DECODE
#include "flashattn_cuda.cuh"

#define FA_NAME f16_128_all
#define FA_HEAD_DIM 128
#define FA_DTYPE FA_F16
#define FA_PASSES FA_DECODE
#define FA_FEATURES FA_ALL_FEATURES
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_256_all
#define FA_HEAD_DIM 256
#define FA_PASSES FA_DECODE
#define FA_FEATURES FA_ALL_FEATURES
#include "flashattn_cuda.cuh"

#define FA_NAME e4m3_64_all
#define FA_HEAD_DIM 64
#define FA_KV_DTYPE FA_E4M3
#define FA_PASSES FA_DECODE
#define FA_FEATURES FA_ALL_FEATURES
#include "flashattn_cuda.cuh"

#define FA_NAME e4m3_128
#define FA_HEAD_DIM 128
#define FA_KV_DTYPE FA_E4M3
#define FA_PASSES FA_DECODE
#include "flashattn_cuda.cuh"

#define FA_NAME e4m3_256_all
#define FA_HEAD_DIM 256
#define FA_KV_DTYPE FA_E4M3
#define FA_PASSES FA_DECODE
#define FA_FEATURES FA_ALL_FEATURES
#include "flashattn_cuda.cuh"

#define FA_NAME i8_128_all
#define FA_HEAD_DIM 128
#define FA_KV_DTYPE FA_I8
#define FA_PASSES FA_DECODE
#define FA_FEATURES FA_ALL_FEATURES
#include "flashattn_cuda.cuh"
