/* head_dims.h - instances of head dims between the powers of two, with a causal mask alone. */
#ifndef TESTS_CUDA_HEAD_DIMS_H
#define TESTS_CUDA_HEAD_DIMS_H

#define FA_NAME bf16_80
#define FA_HEAD_DIM 80
#define FA_FEATURES FA_CAUSAL
#include "flashattn_cuda.cuh"

#define FA_NAME f16_96
#define FA_HEAD_DIM 96
#define FA_DTYPE FA_F16
#define FA_FEATURES FA_CAUSAL
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_112
#define FA_HEAD_DIM 112
#define FA_FEATURES FA_CAUSAL
#include "flashattn_cuda.cuh"

#define FA_NAME f16_144
#define FA_HEAD_DIM 144
#define FA_DTYPE FA_F16
#define FA_FEATURES FA_CAUSAL
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_160
#define FA_HEAD_DIM 160
#define FA_FEATURES FA_CAUSAL
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_192
#define FA_HEAD_DIM 192
#define FA_FEATURES FA_CAUSAL
#include "flashattn_cuda.cuh"

#define FA_NAME f16_208
#define FA_HEAD_DIM 208
#define FA_DTYPE FA_F16
#define FA_FEATURES FA_CAUSAL
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_224
#define FA_HEAD_DIM 224
#define FA_FEATURES FA_CAUSAL
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_240
#define FA_HEAD_DIM 240
#define FA_FEATURES FA_CAUSAL
#include "flashattn_cuda.cuh"

#endif
