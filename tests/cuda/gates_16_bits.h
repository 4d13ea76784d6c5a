/* gates_16_bits.h - instances at the limits of registers in any 16-bit kernel of the forward pass. */
#define FA_NAME bf16_64
#define FA_HEAD_DIM 64
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

#define FA_NAME bf16_192_all
#define FA_HEAD_DIM 192
#define FA_FEATURES FA_ALL_FEATURES
#include "flashattn_cuda.cuh"
