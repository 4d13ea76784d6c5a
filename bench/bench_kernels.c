/* bench_kernels.c - the instances that the CPU benchmark times, for one dtype:
 *
 *     cc -DBENCH_DTYPE=FA_BF16 -DBENCH_LIST=bench_kernels_bf16 -c bench_kernels.c
 */
#include "../flashattn.h"

#define FA_NAME d64
#define FA_HEAD_DIM 64
#define FA_DTYPE BENCH_DTYPE
#include "../flashattn.h"

#define FA_NAME d80
#define FA_HEAD_DIM 80
#define FA_DTYPE BENCH_DTYPE
#include "../flashattn.h"

#define FA_NAME d96
#define FA_HEAD_DIM 96
#define FA_DTYPE BENCH_DTYPE
#include "../flashattn.h"

#define FA_NAME d112
#define FA_HEAD_DIM 112
#define FA_DTYPE BENCH_DTYPE
#include "../flashattn.h"

#define FA_NAME d128
#define FA_HEAD_DIM 128
#define FA_DTYPE BENCH_DTYPE
#include "../flashattn.h"

#define FA_NAME d192
#define FA_HEAD_DIM 192
#define FA_DTYPE BENCH_DTYPE
#include "../flashattn.h"

#define FA_NAME d192_128
#define FA_HEAD_DIM 192
#define FA_HEAD_DIM_V 128
#define FA_DTYPE BENCH_DTYPE
#include "../flashattn.h"

#define FA_NAME d256
#define FA_HEAD_DIM 256
#define FA_DTYPE BENCH_DTYPE
#include "../flashattn.h"

/* what a feature costs: compiled in and not asked for, or asked for */
#define FA_NAME d128_all
#define FA_HEAD_DIM 128
#define FA_DTYPE BENCH_DTYPE
#define FA_FEATURES FA_ALL_FEATURES
#include "../flashattn.h"

#define FA_NAME d128_bias
#define FA_HEAD_DIM 128
#define FA_DTYPE BENCH_DTYPE
#define FA_FEATURES (FA_DEFAULT_FEATURES | FA_BIAS)
#include "../flashattn.h"

extern const fa_info *const BENCH_LIST[]; /* ends with NULL */
const fa_info *const BENCH_LIST[] = {&d64_info,  &d80_info,      &d96_info,  &d112_info,     &d128_info,
                                     &d192_info, &d192_128_info, &d256_info, &d128_all_info, &d128_bias_info,
                                     NULL};
