/* gates_hopper_fp8.cu - the fp8 kernels for sm_90a at the limits of registers and of shared memory.
 * require: hopper:QGMMA,UTMALDG,UTMASTG,STSM,MUFU.HIDDEN>=64 archs: 90a */
#define FA_NAME e4m3_64
#define FA_HEAD_DIM 64
#define FA_DTYPE FA_E4M3
#include "flashattn_cuda.cuh"

#define FA_NAME e4m3_64_promote
#define FA_HEAD_DIM 64
#define FA_DTYPE FA_E4M3
#define FA_PROMOTE 1
#include "flashattn_cuda.cuh"

#define FA_NAME e4m3_128
#define FA_HEAD_DIM 128
#define FA_DTYPE FA_E4M3
#include "flashattn_cuda.cuh"

#define FA_NAME e4m3_128_promote_1
#define FA_HEAD_DIM 128
#define FA_DTYPE FA_E4M3
#define FA_FEATURES (FA_DEFAULT_FEATURES | FA_SINK)
#define FA_PROMOTE 1
#include "flashattn_cuda.cuh"

#define FA_NAME e4m3_128_promote_4
#define FA_HEAD_DIM 128
#define FA_DTYPE FA_E4M3
#define FA_O_DTYPE FA_F16
#define FA_PROMOTE 4
#include "flashattn_cuda.cuh"

#define FA_NAME e4m3_192
#define FA_HEAD_DIM 192
#define FA_DTYPE FA_E4M3
#include "flashattn_cuda.cuh"

#define FA_NAME e4m3_256
#define FA_HEAD_DIM 256
#define FA_DTYPE FA_E4M3
#include "flashattn_cuda.cuh"
