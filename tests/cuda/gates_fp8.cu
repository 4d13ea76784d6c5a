/* gates_fp8.cu - fp8; mma is QMMA on sm_89 and 120, on sm_90 HMMA. require: LDSM,LDGSTS,F2FP archs: 89 90 120 */
#define FA_NAME e4m3_64_all
#define FA_HEAD_DIM 64
#define FA_DTYPE FA_E4M3
#define FA_FEATURES FA_ALL_FEATURES
#include "flashattn_cuda.cuh"

#define FA_NAME e4m3_128
#define FA_HEAD_DIM 128
#define FA_DTYPE FA_E4M3
#include "flashattn_cuda.cuh"

#define FA_NAME e4m3_128_all
#define FA_HEAD_DIM 128
#define FA_DTYPE FA_E4M3
#define FA_FEATURES FA_ALL_FEATURES
#include "flashattn_cuda.cuh"

#define FA_NAME e4m3_192_all
#define FA_HEAD_DIM 192
#define FA_DTYPE FA_E4M3
#define FA_FEATURES FA_ALL_FEATURES
#include "flashattn_cuda.cuh"

#define FA_NAME e4m3_256_all
#define FA_HEAD_DIM 256
#define FA_DTYPE FA_E4M3
#define FA_FEATURES FA_ALL_FEATURES
#include "flashattn_cuda.cuh"

#define FA_NAME e5m2_256
#define FA_HEAD_DIM 256
#define FA_DTYPE FA_E5M2
#include "flashattn_cuda.cuh"
