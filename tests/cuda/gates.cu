/* gates.cu - instances at the limits of registers: the largest tiles, with the default and with all features.
 * require: HMMA,LDSM,LDGSTS archs: 80 86 89 90 120 */
#include "gates_16_bits.h"

#define FA_NAME bf16_64_all
#define FA_HEAD_DIM 64
#define FA_FEATURES FA_ALL_FEATURES
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_256_all
#define FA_HEAD_DIM 256
#define FA_FEATURES FA_ALL_FEATURES
#include "flashattn_cuda.cuh"
