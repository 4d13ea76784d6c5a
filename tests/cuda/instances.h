/* instances.h - the instances of the CUDA tests. */
#ifndef TESTS_CUDA_INSTANCES_H
#define TESTS_CUDA_INSTANCES_H

/* ---- all features ------------------------------------------------------------------------ */

#define FA_NAME bf16_64
#define FA_HEAD_DIM 64
#define FA_FEATURES FA_ALL_FEATURES
#if defined(FA_TEST_CORE) /* compiles in half the time: for mutants.sh */
#define FA_BLOCK_M 64
#define FA_BLOCK_N 32
#define FA_WARPS 2
#endif
#include "flashattn_cuda.cuh"

#define FA_NAME f16_128
#define FA_HEAD_DIM 128
#define FA_DTYPE FA_F16
#define FA_FEATURES FA_ALL_FEATURES
#if defined(FA_TEST_CORE)
#define FA_BLOCK_M 32
#define FA_BLOCK_N 16
#define FA_WARPS 1
#endif
#include "flashattn_cuda.cuh"

#define FA_NAME f16_48 /* small tiles, one stage, 16 rows a warp */
#define FA_HEAD_DIM 48
#define FA_DTYPE FA_F16
#define FA_FEATURES FA_ALL_FEATURES
#define FA_BLOCK_M 32
#define FA_BLOCK_N 16
#define FA_WARPS 2
#define FA_STAGES 1
#include "flashattn_cuda.cuh"

static const fa_cuda_info *const full[] = {&bf16_64_cuda_info, &f16_128_cuda_info, &f16_48_cuda_info};

/* ---- the default features, and head dims ------------------------------------------------- */

#define FA_NAME bf16_128
#define FA_HEAD_DIM 128
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_256
#define FA_HEAD_DIM 256
#include "flashattn_cuda.cuh"

#define FA_NAME f16_64
#define FA_HEAD_DIM 64
#define FA_DTYPE FA_F16
#define FA_FEATURES FA_CAUSAL
#include "flashattn_cuda.cuh"

#define FA_NAME f16_256
#define FA_HEAD_DIM 256
#define FA_DTYPE FA_F16
#define FA_FEATURES 0
#include "flashattn_cuda.cuh"

#if !defined(FA_TEST_CORE)
#define FA_NAME bf16_16
#define FA_HEAD_DIM 16
#define FA_FEATURES FA_CAUSAL
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_32
#define FA_HEAD_DIM 32
#define FA_FEATURES FA_CAUSAL
#include "flashattn_cuda.cuh"

#include "head_dims.h"

#define FA_NAME bf16_176
#define FA_HEAD_DIM 176
#define FA_FEATURES FA_CAUSAL
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_192_128
#define FA_HEAD_DIM 192
#define FA_HEAD_DIM_V 128
#define FA_FEATURES FA_CAUSAL
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_64_128
#define FA_HEAD_DIM 64
#define FA_HEAD_DIM_V 128
#define FA_FEATURES FA_CAUSAL
#include "flashattn_cuda.cuh"

#define FA_NAME f16_16_256
#define FA_HEAD_DIM 16
#define FA_HEAD_DIM_V 256
#define FA_DTYPE FA_F16
#define FA_FEATURES FA_CAUSAL
#include "flashattn_cuda.cuh"

#endif

static const fa_cuda_info *const dims[] = {
    &bf16_64_cuda_info,     &f16_128_cuda_info,    &f16_48_cuda_info,   &bf16_128_cuda_info, &bf16_256_cuda_info,
    &f16_64_cuda_info,      &f16_256_cuda_info,
#if !defined(FA_TEST_CORE)
    &bf16_16_cuda_info,     &bf16_32_cuda_info,    &bf16_80_cuda_info,  &f16_96_cuda_info,   &bf16_112_cuda_info,
    &f16_144_cuda_info,     &bf16_160_cuda_info,   &bf16_176_cuda_info, &bf16_192_cuda_info, &f16_208_cuda_info,
    &bf16_224_cuda_info,    &bf16_240_cuda_info,   &bf16_192_128_cuda_info,
    &bf16_64_128_cuda_info, &f16_16_256_cuda_info,
#endif
};

/* ---- hooks ------------------------------------------------------------------------------- */

#define FA_NAME bf16_64_both
#define FA_HEAD_DIM 64
#define FA_SCORE_MOD HOOK_SCORE
#define FA_MASK_MOD HOOK_MASK
#include "flashattn_cuda.cuh"

#endif
