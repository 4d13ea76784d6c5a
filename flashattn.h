/*  flashattn.h - v0.1.0 - attention kernels as C templates - MIT licence, see end of file

    WHAT      softmax(scale Q K^T + masks) V, exact, in O(N) memory, compiled for your head dimension and dtype.
              This file: the contract, an fp64 reference, KV-cache operations, and CPU kernels (AVX-512, AVX2, NEON,
              portable): forward, backward by recomputation, split-KV decode.

    DO THIS   copy this file next to yours; compile with  cc -O2 -march=native hello.c -lm

        #define FA_NAME     attn64           // prefix of everything generated
        #define FA_HEAD_DIM 64
        #include "flashattn.h"               // -> attn64_forward(), attn64_info, ...
        #include <stdlib.h>

        int main(void) {
            static float q[512][8][64], k[512][8][64], v[512][8][64], o[512][8][64]; // [seq][head][dim]
            for (int s = 0; s < 512; s++) q[s][0][s % 64] = k[s][0][s % 64] = v[s][0][s % 64] = 1;
            fa_args args = {0};              // zero is the default everywhere
            args.batch = 1, args.num_heads = 8, args.seqlen_q = 512, args.seqlen_k = 512;
            args.q.data = q, args.k.data = k, args.v.data = v, args.o.data = o;
            args.causal = 1;
            size_t bytes = attn64_forward_workspace(&args);
            void *workspace = malloc(bytes); // the library itself never allocates
            fa_status status = attn64_forward(&args, workspace, bytes);
            printf("%s, o[0][0][0] = %g\n", fa_strerror(status), o[0][0][0]);
            free(workspace);
            return status != FA_OK;
        }

    DOES NOT  allocate, print, exit, keep state, or start threads of its own (-fopenmp makes the plain call use OpenMP;
              _num_tasks and _run_task let any thread pool do the work). Bad arguments return a status; nothing is
              written unless it is FA_OK.

    CONTENTS  search for:  >>config  >>types  >>convert  >>layout  >>check  >>plan  >>combine  >>reference  >>iomodel
                           >>cache  >>template  >>vector  >>forward  >>backward  >>launch  >>licence

    PARAMETERS, defined before an include that makes an instance, and undefined by it. Any number of instances.

        FA_NAME              required       prefix of every generated name
        FA_HEAD_DIM          required       of Q and K: 16, 32, 48 .. 256
        FA_HEAD_DIM_V        FA_HEAD_DIM    of V and O: 16, 32, 48 .. 256
        FA_DTYPE             FA_F32         of Q, K, V: FA_F32 FA_F16 FA_BF16 FA_E4M3 FA_E5M2
        FA_KV_DTYPE          FA_DTYPE       of K and V, should it differ: also FA_I8
        FA_O_DTYPE           FA_DTYPE       of O: FA_F32 FA_F16 FA_BF16; FA_BF16 for fp8
        FA_PASSES            all            FA_FORWARD | FA_BACKWARD | FA_DECODE; fp8 and int8 have no backward
        FA_FEATURES          FA_DEFAULT_FEATURES   what calls may ask for, combined with |; see FA_FEATURE_LIST.
                                            What is not compiled in costs nothing and is refused by name.
        FA_BLOCK_M           512 or 256     query rows of a task, at most: 64, 128 .. 1024
        FA_BLOCK_N           192            keys of a tile: 64, 128 .. 1024
        FA_SCORE_MOD(s,b,h,i,j)   none      an expression that replaces score s of batch b, query head h, query i, key j
        FA_SCORE_MOD_GRAD(s,b,h,i,j)  none  its derivative by s
        FA_MASK_MOD(b,h,i,j)      none      an expression: is key j visible to query i?

    CONFIGURE, sticky, before the first include

        FA_DISPATCH    x86-64, gcc and clang: compile AVX2 and AVX-512 bodies whatever the flags say, pick at run time
        FA_SELF        with FA_DISPATCH the file includes itself: its name, if you have renamed it
        FA_BF16_DOT    1 or 0: use vdpbf16ps where it exists; default 1, and 0 when compiling for an Intel core

        FA_DEFAULT_PASSES   of instances that do not say FA_PASSES

    YOU GET, for FA_NAME = attn64 (all static, no external symbol)

        const fa_info attn64_info;
        fa_status attn64_check(const fa_args *args);
        size_t    attn64_forward_workspace(const fa_args *args);
        fa_status attn64_forward(const fa_args *args, void *workspace, size_t bytes);
        int64_t   attn64_forward_num_tasks(const fa_args *args);
        void      attn64_forward_run_task(const fa_args *args, int64_t task, void *workspace);
        size_t    attn64_decode_workspace(const fa_args *args);
        fa_status attn64_decode(const fa_args *args, void *workspace, size_t bytes);
        int64_t   attn64_decode_num_tasks(const fa_args *args, int stage);
        void      attn64_decode_run_task(const fa_args *args, int stage, int64_t task, int thread, void *workspace);

        size_t    attn64_backward_workspace(const fa_args *args);
        fa_status attn64_backward(const fa_args *args, void *workspace, size_t bytes);
        int64_t   attn64_backward_num_tasks(const fa_args *args, int stage);
        void      attn64_backward_run_task(const fa_args *args, int stage, int64_t task, int thread, void *workspace);

              decode is forward for few queries (1 .. 64) and a long cache: O and LSE the same, keys split among threads.
              backward reads O, LSE and d_o, and writes dq, dk, dv, dbias, dsink: those that are not NULL.
              fa_combine adds up results over disjoint keys: of other machines, of a prefix that sequences share.

    AND ONCE, for the KV cache that these calls read: fa_append() writes new rows of K and V into it (paged, quantised,
              rotated), fa_compact() keeps the accepted rows of a draft, fa_rotary() rotates Q, fa_use_cache() points
              fa_args at it, fa_quantize() makes fp8 or int8 of a tensor. See >>cache.

    DATA      Tensors are (batch, seq, head, dim): data and strides in elements, dim contiguous, all strides zero =
              packed. For query i of head h and key j of head h / (num_heads / num_heads_k):
                  s_ij = softmax_scale q_i.k_j,  then softcap, ALiBi, bias, FA_SCORE_MOD, masks, in this order
                  lse_i = log(sum_j exp s_ij [+ exp sink_h])    o_i = sum_j dropout(exp(s_ij - lse_i)) v_j
              A query that sees no key: o = 0, lse = -inf. A masked key has no influence, even if it holds NaN.
              Causal and window count from the end: query i stands at key i + seqlen_k - seqlen_q.
              Products accumulate in f32. exp is exact to 2e-7. Where vdpbf16ps serves, P is rounded to bf16 like the
              inputs; elsewhere everything between load and store is f32.
              Everything is re-entrant. The same call gives the same bits for any number of threads; decode splits the
              keys as num_threads asks for, and only split_keys fixes that: then a row's bits depend on nothing else.
              Backward: a q or d_o that is not finite makes NaN of dq in its row and of dk, dv of all keys that it sees.

    NOTATION  batch b, query i < seqlen_q, key j < seqlen_k, query head h, key/value head hk, d head_dim, dv head_dim_v
              group = num_heads / num_heads_k; m, l: reference and sum of a softmax row; S, P: scores, probabilities
              tile: keys that stay in cache; panel: query rows that lie in vector lanes; word: f32 or a pair of bf16

    REFERENCES
        [OS]   Milakov, Gimelshein 2018, Online normalizer calculation for softmax, arXiv 1805.02867
        [FA1]  Dao et al. 2022, FlashAttention, arXiv 2205.14135
        [FA2]  Dao 2023, FlashAttention-2, arXiv 2307.08691
        [FA4]  Zadouri et al. 2026, FlashAttention-4, arXiv 2603.05451
        [PHX]  Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3                                        */

#ifndef FA_FLASHATTN_H
#define FA_FLASHATTN_H

#define FA_VERSION_MAJOR 0
#define FA_VERSION_MINOR 1
#define FA_VERSION_PATCH 0
#define FA_VERSION_NUMBER 100 /* major * 10000 + minor * 100 + patch; partner headers compare it */
#define FA_VERSION_STRING "0.1.0"

/* ======================================================================================== */
/* >>config   compilers, function attributes, static assertions                              */
/* ======================================================================================== */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h> /* snprintf, for fa_error_message alone */
#include <string.h>

#if defined(__cplusplus) || defined(__CUDACC__)
#define FA_STATIC_ASSERT(cond, sentence) static_assert(cond, sentence)
#else
#define FA_STATIC_ASSERT(cond, sentence) _Static_assert(cond, sentence)
#endif

#if (defined(__x86_64__) || defined(__i386__)) && defined(__GNUC__) && !defined(__CUDACC__)
#include <immintrin.h>
#elif defined(__aarch64__) && defined(__ARM_NEON) && !defined(__CUDACC__)
#include <arm_neon.h>
#endif
#if defined(_OPENMP)
#include <omp.h>
#endif

#if defined(__CUDACC__)
#define FAI_HD __host__ __device__ /* callable in kernels too */
#else
#define FAI_HD
#endif

#if defined(__GNUC__) || defined(__clang__)
#define FAI_INLINE static inline __attribute__((always_inline))
#define FAI_NOINLINE static __attribute__((noinline, unused))
#define FAI_UNLIKELY(cond) __builtin_expect(!!(cond), 0)
#define FAI_LITTLE_ENDIAN (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__)
/* Before a for.  FULL: unroll it whole, arrays stay in registers only then; clang must hear "full", as it applies a
 * count after it has given up on them.  SOME: by 4 (head dim 256: +4 % over no unrolling; 8 is no better). */
#if defined(__CUDACC__)
#define FAI_FULL
#define FAI_SOME
#elif defined(__clang__)
#define FAI_FULL _Pragma("clang loop unroll(full)")
#define FAI_SOME _Pragma("clang loop unroll_count(4)")
#else
#define FAI_FULL _Pragma("GCC unroll 16")
#define FAI_SOME _Pragma("GCC unroll 4")
#endif
#define FAI_EACH(i, from, to) \
    FAI_FULL \
    for (int i = (from); i < (to); i++)
#else
#define FAI_INLINE static inline
#define FAI_NOINLINE static
#define FAI_UNLIKELY(cond) (cond)
#endif

/* ======================================================================================== */
/* >>types    dtypes, tensors, features, the argument struct, status codes                   */
/* ======================================================================================== */

/* Element types. Codes start at 1, so that a misspelt FA_DTYPE (0 in #if) is an error. */
#define FA_F32 1
#define FA_F16 2  /* IEEE binary16 */
#define FA_BF16 3 /* upper half of an f32 */
#define FA_E4M3 4 /* OCP fp8 "fn": max 448, no infinity, NaN = 0x7f and 0xff */
#define FA_E5M2 5 /* OCP fp8: max 57344, infinities and NaN as in IEEE */
#define FA_I8 6   /* signed bytes, of a quantised cache: K and V only */
typedef int32_t fa_dtype;

#define FA_MAX_SEQLEN (1 << 30) /* sums of two positions stay within int32 */

/* Any stride may be FA_BROADCAST, which is stride 0 said aloud: all strides zero means packed. */
#define FA_BROADCAST (-1)

/* (batch, seq, head, dim): element (b, s, h, d) is data[b*stride_b + s*stride_s + h*stride_h + d].
 * Strides count elements.  All three zero: packed (batch, seq, head, dim).  With cu_seqlens the rows
 * of all sequences follow each other in seq and stride_b is not used. */
typedef struct fa_tensor {
    const void *data;
    int64_t stride_b, stride_s, stride_h;
} fa_tensor;

typedef struct fa_tensor_out {
    void *data;
    int64_t stride_b, stride_s, stride_h;
} fa_tensor_out;

/* Additive bias (batch, head, seqlen_q, seqlen_k), natural units, key stride 1.  All strides zero:
 * packed.  dtype: FA_F32 (also 0), FA_F16 or FA_BF16. */
typedef struct fa_bias {
    const void *data;
    int64_t stride_b, stride_h, stride_q;
    fa_dtype dtype;
} fa_bias;

/* Gradient of a bias: f32, summed over an axis whose stride is FA_BROADCAST.  All strides zero: packed. */
typedef struct fa_bias_out {
    float *data;
    int64_t stride_b, stride_h, stride_q;
} fa_bias_out;

/* Dequantisation factors of an fp8 or int8 tensor: value = code * data[b*stride_b + h*stride_h +
 * (s/block)*stride_block], s counted inside the sequence.  Zero strides are literal here: one factor
 * for the tensor.  block 0: no factor per block; block 1: one for each row.  data NULL: 1.
 * paged 1: the factors lie in pages as the rows do, b is the page and s counts inside it. */
typedef struct fa_descale {
    const float *data;
    int64_t stride_b, stride_h, stride_block;
    int32_t block, paged;
} fa_descale;

/* Which tiles of block_q x block_k scores exist: byte (b, h, i/block_q, j/block_k), 0 = skip.
 * Row-major in the last two; strides in bytes, both zero: packed (batch, head, ., .). */
typedef struct fa_block_mask {
    const uint8_t *data;
    int64_t stride_b, stride_h;
    int32_t block_q, block_k;
} fa_block_mask;

/* Token tree over the last seqlen_q keys (speculative decoding): query i sees draft key t iff bit t%32
 * of word data[b*stride_b + i*stride_q + t/32] is set; all keys before them are visible.
 * Strides in words, both zero: packed, ceil(seqlen_q/32) words a row. */
typedef struct fa_tree_mask {
    const uint32_t *data;
    int64_t stride_b, stride_q;
} fa_tree_mask;

/* Features: X(NAME, bit, field of fa_args that asks for it).  One list for the instances (FA_FEATURES),
 * the status codes, the checks and the tests. */
#define FA_FEATURE_LIST(X) \
    X(CAUSAL, 0x001u, "causal") \
    X(WINDOW, 0x002u, "window_left or window_right") \
    X(VARLEN, 0x004u, "cu_seqlens_q, cu_seqlens_k, seqused_q or seqused_k") \
    X(PAGED, 0x008u, "block_table") \
    X(SOFTCAP, 0x010u, "softcap") \
    X(ALIBI, 0x020u, "alibi_slopes") \
    X(BIAS, 0x040u, "bias.data") \
    X(DROPOUT, 0x080u, "dropout_p") \
    X(SINK, 0x100u, "sink") \
    X(BLOCK_MASK, 0x200u, "block_mask.data") \
    X(TREE_MASK, 0x400u, "tree_mask.data")

#define FA_CAUSAL 0x001u     /* query i sees keys <= i + seqlen_k - seqlen_q (bottom-right aligned) */
#define FA_WINDOW 0x002u     /* sliding window */
#define FA_VARLEN 0x004u     /* sequences of different lengths */
#define FA_PAGED 0x008u      /* K and V in pages, found through a block table */
#define FA_SOFTCAP 0x010u    /* s = cap * tanh(s / cap) */
#define FA_ALIBI 0x020u      /* s -= slope * |i + seqlen_k - seqlen_q - j| */
#define FA_BIAS 0x040u       /* s += bias[b][h][i][j] */
#define FA_DROPOUT 0x080u    /* Philox; the same elements for the same seed on every device */
#define FA_SINK 0x100u       /* one more logit per head in the softmax, without a value */
#define FA_BLOCK_MASK 0x200u /* block-sparse attention */
#define FA_TREE_MASK 0x400u  /* token trees */
#define FA_ALL_FEATURES 0x7ffu

#define FAI_SAME_BIT(name, bit, field) \
    FA_STATIC_ASSERT(FA_##name == bit, "FA_" #name " differs from FA_FEATURE_LIST");
FA_FEATURE_LIST(FAI_SAME_BIT)
#undef FAI_SAME_BIT

/* What an instance can do (FA_PASSES). */
#define FA_FORWARD 1u  /* O and LSE */
#define FA_BACKWARD 2u /* dQ, dK, dV, and gradients of bias and sink, from O, LSE and dO */
#define FA_DECODE 4u   /* O and LSE of few queries against a long cache */
#define FAI_APPEND 8u  /* not of an instance: what fa_append and fa_compact tell the checks */
#define FAI_DEVICE_LISTS 16u /* nor this: with a pass, what arrays hold lies in device memory, see fa_check_pass */

#ifndef FA_DEFAULT_PASSES /* of instances that do not say FA_PASSES */
#define FA_DEFAULT_PASSES (FA_FORWARD | FA_BACKWARD | FA_DECODE)
#endif

#define FA_DEFAULT_FEATURES (FA_CAUSAL | FA_WINDOW | FA_VARLEN | FA_PAGED)

/* clang-format off */

/* Status codes: X(NAME, sentence).  fa_strerror(FA_ERR_##NAME) is the sentence; it names the field and
 * what is legal.  Codes are appended, never renumbered. */
#define FA_STATUS_LIST(X) \
    X(ARGS_NULL, "args is NULL: pass a zero-initialised fa_args") \
    X(NOT_ZEROED, "fa_args was not zero-initialised: declare it as  fa_args args = {0};  ({} in C++)") \
    X(BATCH, "batch must be 1 .. 2^31-1") \
    X(NUM_HEADS, "num_heads must be 1 .. 2^31-1") \
    X(NUM_HEADS_K, "num_heads_k must be 0 (= num_heads) or a positive divisor of num_heads") \
    X(SEQLEN_Q, "seqlen_q must be 1 .. 2^30 (the longest sequence when lengths vary)") \
    X(SEQLEN_K, "seqlen_k must be 0 .. 2^30 (the longest sequence when lengths vary)") \
    X(Q_NULL, "q.data is NULL: point it at the queries") \
    X(K_NULL, "k.data is NULL: point it at the keys (only seqlen_k = 0 does without)") \
    X(V_NULL, "v.data is NULL: point it at the values (only seqlen_k = 0 does without)") \
    X(O_NULL, "o.data is NULL: point it at the output") \
    X(Q_ALIGN, "q.data must be aligned to its element size; on a GPU, data and strides to 16 bytes") \
    X(K_ALIGN, "k.data must be aligned to its element size; on a GPU, data and strides to 16 bytes") \
    X(V_ALIGN, "v.data must be aligned to its element size; on a GPU, data and strides to 16 bytes") \
    X(O_ALIGN, "o.data must be aligned to its element size; on a GPU, data and strides to 16 bytes") \
    X(LSE_ALIGN, "lse.data must be aligned to 4 bytes") \
    X(Q_STRIDE, "strides of q must be >= 0 or FA_BROADCAST, and its extent must fit in 63 bits") \
    X(K_STRIDE, "strides of k must be >= 0 or FA_BROADCAST, and its extent must fit in 63 bits") \
    X(V_STRIDE, "strides of v must be >= 0 or FA_BROADCAST, and its extent must fit in 63 bits") \
    X(O_STRIDE, "strides of o must be >= 0, give every element its own place, and fit in 63 bits") \
    X(LSE_STRIDE, "strides of lse must be >= 0, give every element its own place, and fit in 63 bits") \
    X(O_OVERLAP, "o overlaps an input: give it memory, or columns of common records, of its own") \
    X(LSE_OVERLAP, "lse overlaps o or an input: give it memory, or columns of common records, of its own") \
    X(SCALE, "softmax_scale must be finite (0 = 1/sqrt(head_dim))") \
    X(SOFTCAP, "softcap must be finite and >= 0 (0 = off)") \
    X(CAUSAL, "causal must be 0 or 1") \
    X(WINDOW_LEFT, "window_left must be 0 (unlimited) or the number of keys seen, own position included") \
    X(WINDOW_RIGHT, "window_right must be 0 (unlimited) or the number of keys seen, own position included") \
    X(CU_SEQLENS_Q, "cu_seqlens_q must be aligned to 4 bytes, start at >= 0 and rise by 0 .. seqlen_q each") \
    X(CU_SEQLENS_K, "cu_seqlens_k must be aligned to 4 bytes, start at >= 0 and rise by 0 .. seqlen_k each") \
    X(SEQUSED_Q, "seqused_q must be aligned to 4 bytes and be 0 .. the length that the sequence has room for") \
    X(SEQUSED_K, "seqused_k must be aligned to 4 bytes and be 0 .. the length that the sequence has room for") \
    X(PAGE_SIZE, "page_size must be 1 .. 2^31-1 when block_table is given, and 0 when it is not") \
    X(NUM_PAGES, "num_pages must be 1 .. 2^31-1 when block_table is given: the pages that k and v hold") \
    X(BLOCK_TABLE, "block_table must be aligned to 4 bytes and hold page numbers 0 .. num_pages-1 for every key in use") \
    X(BLOCK_TABLE_STRIDE, "block_table_stride must be >= the pages of the longest sequence (0 = exactly that)") \
    X(PAGED_CU_SEQLENS, "block_table and cu_seqlens_k exclude each other: lengths of paged K go in seqused_k") \
    X(ALIBI, "alibi_slopes must be aligned to 4 bytes and alibi_stride_b >= 0") \
    X(BIAS_DTYPE, "bias.dtype must be 0 (= FA_F32), FA_F32, FA_F16 or FA_BF16") \
    X(BIAS_ALIGN, "bias.data must be aligned to its element size") \
    X(BIAS_STRIDE, "strides of bias must be >= 0 or FA_BROADCAST, and its extent must fit in 63 bits") \
    X(DROPOUT_P, "dropout_p must be 0 <= p < 1") \
    X(SINK, "sink must be aligned to 4 bytes: one float a head") \
    X(BLOCK_MASK_SIZE, "block_mask.block_q and block_mask.block_k must be 1 .. 2^31-1") \
    X(BLOCK_MASK_STRIDE, "strides of block_mask must be >= 0 or FA_BROADCAST, and its extent must fit in 63 bits") \
    X(TREE_MASK_ALIGN, "tree_mask.data must be aligned to 4 bytes") \
    X(TREE_MASK_STRIDE, "strides of tree_mask must be >= 0 or FA_BROADCAST, and its extent must fit in 63 bits") \
    X(TREE_MASK_LENGTH, "tree_mask needs seqlen_k >= seqlen_q in every sequence: the tree is the last seqlen_q keys") \
    X(DESCALE_Q, "q_descale needs an fp8 q, finite factors >= 0 (aligned to 4 bytes), strides >= 0 and block >= 0") \
    X(DESCALE_K, "k_descale needs an fp8 or int8 k, finite factors >= 0 (aligned to 4 bytes), strides and block >= 0, paged 0 or 1 and 0 without block_table") \
    X(DESCALE_V, "v_descale needs an fp8 or int8 v, finite factors >= 0 (aligned to 4 bytes), strides and block >= 0, paged 0 or 1 and 0 without block_table") \
    X(NUM_THREADS, "num_threads must be 0 (= all that OpenMP has, or 1) .. 65536") \
    X(SIZE_OVERFLOW, "batch * num_heads * seqlen_q, and seqlen * num_heads * head_dim of q, k, v and o, must be at most 2^62") \
    X(WORKSPACE_NULL, "workspace is NULL: pass as many bytes as the _workspace function says") \
    X(WORKSPACE_SIZE, "workspace is too small: pass as many bytes as the _workspace function says") \
    X(NO_INSTANCE, "no instance in the list has this head_dim, head_dim_v and dtype: add one with FA_HEAD_DIM, " \
                   "FA_HEAD_DIM_V and FA_DTYPE") \
    X(NO_PASS, "the instance was compiled without this pass: add FA_FORWARD, FA_BACKWARD or FA_DECODE to FA_PASSES") \
    X(NO_SCORE_MOD_GRAD, "the backward pass of an instance with FA_SCORE_MOD needs its derivative: define FA_SCORE_MOD_GRAD") \
    X(LSE_NULL, "lse.data is NULL: the backward pass reads the lse that the forward pass wrote") \
    X(DO_NULL, "d_o.data is NULL: point it at the gradient of o") \
    X(DO_ALIGN, "d_o.data must be aligned to its element size; on a GPU, data and strides to 16 bytes") \
    X(DO_STRIDE, "strides of d_o must be >= 0 or FA_BROADCAST, and its extent must fit in 63 bits") \
    X(DQ_ALIGN, "dq.data must be aligned to its element size; on a GPU, data and strides to 16 bytes") \
    X(DQ_STRIDE, "strides of dq must be >= 0, give every element its own place, and fit in 63 bits") \
    X(DQ_OVERLAP, "dq overlaps an input or another gradient: give it memory, or columns of common records, of its own") \
    X(DK_ALIGN, "dk.data must be aligned to its element size; on a GPU, data and strides to 16 bytes") \
    X(DK_STRIDE, "strides of dk must be >= 0, give every element its own place, and fit in 63 bits") \
    X(DK_OVERLAP, "dk overlaps an input or another gradient: give it memory, or columns of common records, of its own") \
    X(DV_ALIGN, "dv.data must be aligned to its element size; on a GPU, data and strides to 16 bytes") \
    X(DV_STRIDE, "strides of dv must be >= 0, give every element its own place, and fit in 63 bits") \
    X(DV_OVERLAP, "dv overlaps an input or another gradient: give it memory, or columns of common records, of its own") \
    X(DBIAS_BIAS, "dbias needs a bias: set bias.data, or leave dbias.data NULL") \
    X(DBIAS_ALIGN, "dbias.data must be aligned to 4 bytes") \
    X(DBIAS_STRIDE, "strides of dbias must be >= 0, or FA_BROADCAST to sum over that axis, and fit in 63 bits") \
    X(DBIAS_OVERLAP, "dbias overlaps an input or another gradient: give it memory of its own") \
    X(DSINK_SINK, "dsink needs a sink: set sink, or leave dsink NULL") \
    X(DSINK_ALIGN, "dsink must be aligned to 4 bytes: one float a head") \
    X(DSINK_OVERLAP, "dsink overlaps an input or another gradient: give it memory of its own") \
    X(SPLIT_KEYS, "split_keys must be 0 (= the planner chooses) or >= 64: keys of a split") \
    X(CACHE_SIZE, "cache: batch and num_heads_k must be 1 .. 2^31-1, seqlen_k 1 .. 2^30, head_dim and head_dim_v 1 .. 256") \
    X(CACHE_DTYPE, "cache.dtype must be FA_F32, FA_F16, FA_BF16, FA_E4M3, FA_E5M2 or FA_I8: of cache.k.data and cache.v.data") \
    X(CACHE_NULL, "k.data and v.data may not both be NULL, and one that is given needs its cache.k.data or cache.v.data") \
    X(CACHE_ALIGN, "cache.k.data and cache.v.data must be aligned to their element size") \
    X(CACHE_STRIDE, "strides of cache.k and cache.v must be >= 0, give every element its own place, and fit in 63 bits; likewise batch * seqlen_k") \
    X(CACHE_DESCALE, "factors that are written (k_descale or v_descale with block >= 1) need strides that give each (batch or page, head, block) its own place") \
    X(CACHE_OVERLAP, "cache.k.data, cache.v.data or factors that are written overlap another tensor or array: give them memory, or columns of common records, of their own") \
    X(CACHE_PAGE, "block_table has a page twice among those that are written: give each sequence a page of its own, a copy of the shared one") \
    X(NEW_DTYPE, "dtype must be FA_F32, FA_F16 or FA_BF16: of k.data and v.data that are appended, of q.data that is rotated or quantised") \
    X(SEQLEN_NEW, "seqlen_new must be 1 .. 2^30 (the most rows that a sequence gets when counts vary)") \
    X(CU_SEQLENS_NEW, "cu_seqlens_new must be aligned to 4 bytes, start at >= 0 and rise by 0 .. seqlen_new each") \
    X(SEQUSED_NEW, "seqused_new must be aligned to 4 bytes and be 0 .. the rows that k and v have for the sequence (seqlen_new)") \
    X(POSITIONS, "positions must be aligned to 4 bytes, >= 0, and leave room for the new rows before seqlen_k") \
    X(ROTARY, "head_dim must be 2 .. 256, rotary.dim even and 2 .. head_dim, rotary.interleaved and rotary.per_row 0 or 1") \
    X(ROTARY_TABLE, "rotary.cos and rotary.sin must be given, aligned to 4 bytes, with rotary.count (1 .. 2^30) rows of head_dim/2 or fewer floats") \
    X(ROTARY_POSITIONS, "rotary.positions must be aligned to 4 bytes, and every position of the batch be 0 .. rotary.count-1") \
    X(MAX_ACCEPTED, "max_accepted must be 1 .. 2^30, and num_accepted aligned to 4 bytes and 0 .. max_accepted for each of the batch") \
    X(ACCEPTED, "accepted must be given, aligned to 4 bytes, and rise in each sequence of the batch, within the rows before seqlen_k") \
    X(NUM_PARTS, "num_parts must be 1 .. 2^31-1, and parts point at as many results") \
    X(PART_NULL, "o.data or lse.data of a part is NULL: point them at its result") \
    X(PART_DTYPE, "dtype of a part must be 0 (= FA_F32), FA_F32, FA_F16 or FA_BF16") \
    X(PART_ALIGN, "o.data and lse.data of a part must be aligned to their element size") \
    X(PART_STRIDE, "strides of a part must be >= 0 or FA_BROADCAST, and its extent must fit in 63 bits") \
    X(COMBINE_DIM, "head_dim_v of fa_combine must be 1 .. 65536") \
    X(COMBINE_DTYPE, "o_dtype of fa_combine must be 0 (= FA_F32), FA_F32, FA_F16 or FA_BF16") \
    X(CUDA, "a call of CUDA failed: error->got is its cudaError_t") \
    X(CUDA_GRID, "batch * num_heads_k * tiles of queries must be at most 2^31-1 in one launch, and heads of a group less than 2^22: split the batch") \
    X(CUDA_SHARED, "this GPU has too little shared memory for the kernel's tile: compile for its architecture, or lower FA_BLOCK_N") \
    X(CUDA_POINTER, "the pointer is to host memory, which the GPU cannot reach: copy it to memory of cudaMalloc, or use cudaMallocManaged or cudaHostRegister") \
    X(QUANTIZE_DIM, "fa_quantize: head_dim must be 1 .. 256, hadamard 0 or 1, and 1 needs a head_dim of 2, 4, 8 .. 256") \
    X(QUANTIZE_DTYPE, "o_dtype must be FA_F32, FA_F16, FA_BF16, FA_E4M3, FA_E5M2 or FA_I8") \
    X(QUANTIZE_DESCALE, "descale of fa_quantize needs an fp8 or int8 o_dtype, memory aligned to 4 bytes, block >= 0, paged 0, and strides that are 0 (shared) or give each factor its own place") \
    X(DETERMINISTIC, "deterministic must be 0 or 1; on a GPU, 1 goes with no dbias that is summed over an axis") \
    X(CUDA_ARCH, "fp8 kernels need a GPU of compute capability 8.9 or later, and code for it: compile with -arch=native or " \
                 "-gencode arch=compute_89,code=sm_89; older GPUs have FA_F16 and FA_BF16") \
    X(SPEC_VOCAB, "vocab must be 1 .. 2^31-1: the ids are 0 .. vocab-1, padded ones not counted") \
    X(SPEC_RULE, "rule must be an FA_VERIFY_ constant that the call has: TOKEN and BLOCK are for chains, WITH_REPLACEMENT and WITHOUT_REPLACEMENT for trees") \
    X(SPEC_ROWS, "rows: data must be given and aligned, dtype FA_F32 (0), FA_F16 or FA_BF16, kind FA_LOGITS (0), FA_PROBS or FA_WEIGHTS, stride 0 or >= vocab") \
    X(SPEC_TARGET, "target: data must be given and aligned, dtype FA_F32 (0), FA_F16 or FA_BF16, kind FA_LOGITS (0), FA_PROBS or FA_WEIGHTS, stride 0 or >= vocab") \
    X(SPEC_DRAFT, "draft: data must be given and aligned, dtype FA_F32 (0), FA_F16 or FA_BF16, kind FA_LOGITS (0), FA_PROBS or FA_WEIGHTS, stride 0 or >= vocab") \
    X(SPEC_DRAFT_ROW, "draft_row must be aligned to 4 bytes and be 0 .. num_draft_rows-1 for each node that has children") \
    X(SPEC_SAMPLING, "sampling: arrays aligned to 4 bytes; temperature 0 or 2^-20 .. 2^20, only 0 and 1 for probabilities; top_k >= 0; top_p and min_p 0 .. 1") \
    X(SPEC_COINS, "coins: coins.coins, coins.seed and coins.offset must be aligned to 8 bytes") \
    X(SPEC_TYPICAL, "typical_epsilon and typical_delta must be 0 (= 0.3 and 0.09) .. 1") \
    X(SPEC_SAMPLE, "num_rows 1 .. batch, more with request (0 .. batch-1 each), num_samples 1 .. 1024, node >= 0, without_replacement 0 or 1, purpose FA_COIN_DRAFT or FA_COIN_TARGET") \
    X(SPEC_OUT, "tokens must be given; it, num_out, accepted and flags aligned to 4 bytes; max_out 0 or the tokens of the longest path and one more") \
    X(SPEC_CHAIN, "chains: num_tokens 0 .. 1023; token given; indptr rising by 0 .. num_tokens each, or lengths 0 .. num_tokens; not both; aligned to 4 bytes") \
    X(TREE_NODES, "trees: num_nodes must be 1 .. 1024, and indptr, if given, aligned to 4 bytes and rise by 1 .. num_nodes each") \
    X(TREE_PARENT, "trees.parent must be given: -1 for node 0 of a tree, for node n one of 0 .. n-1, its parent") \
    X(TREE_TOKEN, "token must be given, aligned to 4 bytes, and be 0 .. vocab-1 for each draft") \
    X(TREE_MERGE, "trees to be merged: drafts.batch must be 1 .. 64, and node 0 of each have the same token") \
    X(TREE_RANK, "rank must be given, aligned to 4 bytes, and candidate have a row for each level and 1 .. 2^31-1 columns, more than any rank") \
    X(TREE_OUTPUT, "an output array of a tree is NULL or not aligned to its element size: error->field names it") \
    X(TREE_CAPACITY, "tree.capacity must be 1 .. 1024 and no less than the nodes that the tree gets; likewise max_paths and length") \
    X(TREE_SHAPE, "shape of a tree: paths must hold ranks >= 0 and -1, width 1 .. 1024, accuracy and acceptance be given; nodes 1 .. 1024, depth less than that") \
    X(DYNAMIC, "fa_dynamic: parent, token and score need capacity >= count + num * k candidates, beam nodes of the last level; call fa_dynamic_begin first") \
    X(NGRAM, "n-grams: tokens must be given and num_tokens be 1 .. 2^30, 1 <= min_match <= max_match, max_depth 1 .. 1024, max_matches 0 .. 64") \
    X(POOL, "fa_pool: keys must be a multiple of 8, 8 .. 2^24, guesses and length 1 .. 1023, memory and tokens given and aligned to 4 bytes") \
    X(PROBABILITY, "acceptance, accuracy and other probabilities must be 0 .. 1") \
    X(MEDUSA_SIZE, "medusa: rows and vocab must be 1 .. 2^31-1, dim 1 .. 2^20, heads 1 .. 64, top_k 0 .. 64 and at most vocab, strides >= their rows") \
    X(MEDUSA_NULL, "medusa: x, weight and projection must be given, target for the loss; all arrays aligned to 4 bytes; error->field names the one") \
    X(MEDUSA_TARGET, "target must be 0 .. vocab-1, or negative for rows that do not count; cu_seqlens rise from 0 to rows; lambda finite") \
    X(BOOST, "boosting: samples, drafts and classes must be 1 .. 2^31-1 (drafts of a vote 1 .. 64), weights finite, >= 0 and not all 0, arrays given") \
    X(COST, "fa_cost: count must be 1 or more, tokens rise from >= 1, seconds be finite and > 0, draft and base finite and >= 0") \
    X(PLAN, "planning: arrays must be given, max_gamma be 0 .. 1023, count, nodes and batch 1 .. 2^31-1") \
    X(V_TRANSPOSED, "v_transposed must be 0 or 1; 1 is for the fp8 forward kernel of sm_90a (HOPPER in flashattn_cuda.cuh), " \
                    "v not paged, with cu_seqlens_k strides given: pass V as rows to other kernels") \
    X(QUANTIZE_TRANSPOSED, "transposed must be 0 or 1; 1 needs o_dtype FA_E4M3, hadamard 0, and with cu_seqlens_q strides of o")

#define FAI_STATUS_ENUM(name, sentence) FA_ERR_##name,
#define FAI_FEATURE_ENUM(name, bit, field) FA_ERR_NEEDS_##name,
typedef enum fa_status {
    FA_OK = 0,
    /* args asks for a feature that the instance was compiled without */
    FA_FEATURE_LIST(FAI_FEATURE_ENUM)
    FAI_STATUS_BASE = 63, /* room for features, so that codes keep their numbers */
    FA_STATUS_LIST(FAI_STATUS_ENUM)
    FA_NUM_STATUS
} fa_status;

/* One sentence for a status: the field and what is legal. */
static inline const char *fa_strerror(fa_status status) {
#define FAI_STATUS_CASE(name, sentence) case FA_ERR_##name: return sentence;
#define FAI_FEATURE_CASE(name, bit, field) \
    case FA_ERR_NEEDS_##name: return field " is set but this instance was compiled without it: add FA_" #name " to FA_FEATURES";
    switch ((int)status) {
    case FA_OK: return "ok";
    FA_FEATURE_LIST(FAI_FEATURE_CASE)
    FA_STATUS_LIST(FAI_STATUS_CASE)
    default: return "not a status of flashattn";
    }
#undef FAI_STATUS_CASE
#undef FAI_FEATURE_CASE
}
#undef FAI_STATUS_ENUM
#undef FAI_FEATURE_ENUM

/* clang-format on */

/* What was wrong, in numbers.  min > max: there is no legal range; got is NaN: there is no number either.  For an overlap,
 * field names the tensor that is in the way.  Strings are constants of the library. */
typedef struct fa_error {
    fa_status status;
    const char *field; /* "seqlen_k", "q.stride_s", "block_table" ... */
    double got, min, max;
    int64_t index; /* of the offending element where field is an array, else -1 */
} fa_error;

/* The one argument of every call.  Zero-initialise it; zero is the default everywhere. */
typedef struct fa_args {
    uint32_t first_canary; /* stays 0, as does last_canary: finds a struct that was not zeroed */

    int32_t batch, num_heads;
    int32_t num_heads_k; /* key/value heads, a divisor of num_heads; 0 = num_heads */
    int32_t seqlen_q, seqlen_k;

    fa_tensor q;       /* (batch, seqlen_q, num_heads, head_dim) */
    fa_tensor k;       /* (batch, seqlen_k, num_heads_k, head_dim); paged: (num_pages, page_size, ..) */
    fa_tensor v;       /* (batch, seqlen_k, num_heads_k, head_dim_v); paged: as k */
    fa_tensor_out o;   /* (batch, seqlen_q, num_heads, head_dim_v) */
    fa_tensor_out lse; /* f32, natural log; packed means (batch, num_heads, seqlen_q), with cu_seqlens_q
                          (num_heads, total_q); data NULL: not written */

    float softmax_scale; /* 0 = 1/sqrt(head_dim) */
    float softcap;       /* 0 = off */
    int32_t causal;
    int32_t window_left, window_right; /* n = n keys on that side, own position included; 0 = unlimited */

    const int32_t *cu_seqlens_q, *cu_seqlens_k; /* (batch + 1): sequence b is rows cu[b] .. cu[b+1]-1 */
    const int32_t *seqused_q, *seqused_k;       /* (batch): only the first rows of each sequence count */

    const int32_t *block_table; /* (batch, block_table_stride): page of keys p*page_size .. */
    int64_t block_table_stride; /* 0 = ceil(seqlen_k / page_size) */
    int32_t page_size, num_pages;

    const float *alibi_slopes; /* (num_heads), or (batch, num_heads) with alibi_stride_b */
    int64_t alibi_stride_b;
    fa_bias bias;
    float dropout_p; /* rounded to a multiple of 2^-16; what is kept is scaled by 1/(1-p) */
    uint32_t dropout_offset;
    uint64_t dropout_seed;
    const float *sink; /* (num_heads): logits, counted in lse */
    fa_block_mask block_mask;
    fa_tree_mask tree_mask;
    fa_descale q_descale, k_descale, v_descale; /* fp8 and int8 only */
    int32_t v_transposed; /* fp8 on sm_90a only: 1 = v is (batch, num_heads_k, head_dim_v, keys), see
                             fa_transposed_column; fa_quantize writes it so */

    /* backward: reads o and lse, in the layouts above, as the forward pass wrote them.  Gradients are
     * written, not added to; NULL: not wanted.  Rows beyond seqused are not touched. */
    fa_tensor d_o;     /* shape of o, in its dtype */
    fa_tensor_out dq;  /* shape and dtype of q */
    fa_tensor_out dk;  /* (batch, seqlen_k, num_heads_k, head_dim) in the dtype of k, also when k is paged: a page may
                          belong to several sequences; with cu_seqlens_k (total_k, ..) */
    fa_tensor_out dv;  /* the same with head_dim_v */
    fa_bias_out dbias; /* whole, 0 where nothing is visible */
    float *dsink;      /* (num_heads) */

    int32_t split_keys;  /* decode: 0 = enough splits for num_threads; n = splits end at multiples of n keys and rows
                            are computed alone, so their bits do not depend on batch, threads or other rows */
    int32_t deterministic; /* backward on a GPU: 1 = the same call gives the same bits, and takes longer; on a CPU it always
                              does */
    int32_t num_threads; /* 0 = all that OpenMP has when compiled with it, else 1 */
    fa_error *error;     /* optional: filled in when a call fails */
    uint32_t last_canary;
} fa_args;

/* What an instance is.  Each FA_NAME exports one as NAME_info. */
typedef struct fa_info {
    const char *name;
    int32_t head_dim, head_dim_v;
    fa_dtype dtype, kv_dtype, o_dtype;
    int32_t block_m, block_n;
    uint32_t features, passes;
    /* FA_SCORE_MOD, its derivative and FA_MASK_MOD as functions, for the reference; NULL = none */
    double (*score_mod)(double s, int b, int h, int i, int j);
    double (*score_mod_grad)(double s, int b, int h, int i, int j);
    int (*mask_mod)(int b, int h, int i, int j);
    /* NULL where the pass is not compiled in */
    size_t (*forward_workspace)(const fa_args *args);
    fa_status (*forward)(const fa_args *args, void *workspace, size_t bytes);
    size_t (*backward_workspace)(const fa_args *args);
    fa_status (*backward)(const fa_args *args, void *workspace, size_t bytes);
    size_t (*decode_workspace)(const fa_args *args);
    fa_status (*decode)(const fa_args *args, void *workspace, size_t bytes);
} fa_info;

/* ======================================================================================== */
/* >>convert  element types to and from f32, Philox, dropout                                 */
/* ======================================================================================== */

/* Integer arithmetic on the bits: one result on every compiler and device, whatever the rounding or
 * flush-to-zero mode.  Encoders round to nearest, ties to even; NaN stays NaN, made quiet. */

/* 16-bit elements, which the user may have declared as __half, _Float16, __nv_bfloat16 ... */
#if defined(__GNUC__) || defined(__clang__)
typedef uint16_t __attribute__((may_alias)) fai_code16;
#else
typedef uint16_t fai_code16;
#endif

/* Bytes of one element; 0 for a code that is no dtype. */
FAI_HD static inline size_t fa_sizeof(fa_dtype dtype) {
    switch (dtype) {
    case FA_F32: return 4;
    case FA_F16:
    case FA_BF16: return 2;
    case FA_E4M3:
    case FA_E5M2:
    case FA_I8: return 1;
    default: return 0;
    }
}

FAI_HD static inline const char *fa_dtype_name(fa_dtype dtype) {
    switch (dtype) {
    case FA_F32: return "f32";
    case FA_F16: return "f16";
    case FA_BF16: return "bf16";
    case FA_E4M3: return "e4m3";
    case FA_E5M2: return "e5m2";
    case FA_I8: return "i8";
    default: return "unknown";
    }
}

FAI_HD static inline uint32_t fai_bits_of(float x) {
    uint32_t bits;
    return memcpy(&bits, &x, sizeof bits), bits;
}
FAI_HD static inline float fai_float_of(uint32_t bits) {
    float x;
    return memcpy(&x, &bits, sizeof x), x;
}

/* Value of a code without sign, not Inf or NaN, in a format of `mant` mantissa bits:
 * 1.m * 2^(e-bias), or below the normal numbers m * 2^(1-bias-mant). */
FAI_HD static inline uint32_t fai_widen(uint32_t code, int mant, int bias) {
    uint32_t normal = (code << (23 - mant)) + ((uint32_t)(127 - bias) << 23);
    uint32_t below = fai_bits_of((float)(int32_t)code * fai_float_of((uint32_t)(128 - bias - mant) << 23)); /* exact */
    return below ^ ((below ^ normal) & (0u - (code >> mant != 0))); /* a choice without a branch: it is vectorised */
}

/* Code of the f32 with bits `mag` (no sign, no NaN), rounded.  Beyond the format's largest number
 * codes go on as if it had more exponents: the caller caps them. */
FAI_HD static inline uint32_t fai_narrow(uint32_t mag, int mant, int bias) {
    int below = 128 - bias - (int)(mag >> 23); /* powers of 2 below the normal numbers */
    int shift = 23 - mant + (below > 0 ? below : 0);
    if (shift > 24) return 0; /* less than half of the smallest number */
    mag = below > 0 ? (mag & 0x7fffffu) | 0x800000u : mag - ((uint32_t)(127 - bias) << 23);
    /* a half, less one unit if the code is even; a carry into the exponent is right as it is */
    return (mag + (1u << (shift - 1)) - 1 + (mag >> shift & 1)) >> shift;
}

/* binary16: 5 exponent bits (bias 15), 10 mantissa bits; Inf from 65520 on */
FAI_HD static inline float fa_f16_to_f32(uint16_t code) {
    uint32_t sign = (code & 0x8000u) << 16, mag = code & 0x7fffu, finite = fai_widen(mag, 10, 15);
    return fai_float_of(sign | (finite + ((uint32_t)(mag >= 0x7c00) * 112u << 23))); /* Inf, NaN: exponent 255 */
}
FAI_HD static inline uint16_t fa_f32_to_f16(float x) {
    uint32_t bits = fai_bits_of(x), sign = bits >> 16 & 0x8000u, mag = bits & 0x7fffffffu, code;
    if (mag > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | (mag >> 13 & 0x3ffu));
    code = fai_narrow(mag, 10, 15);
    return (uint16_t)(sign | (code < 0x7c00u ? code : 0x7c00u));
}

/* bfloat16: the upper half of an f32 */
FAI_HD static inline float fa_bf16_to_f32(uint16_t x) { return fai_float_of((uint32_t)x << 16); }
FAI_HD static inline uint16_t fa_f32_to_bf16(float x) {
    uint32_t bits = fai_bits_of(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

/* The fp8 encoders are CUDA's satfinite conversions: what is too large, Inf included, becomes the
 * largest number.  max: its code. */
FAI_HD static inline uint32_t fai_f32_to_fp8(float x, int mant, int bias, uint32_t max) {
    uint32_t bits = fai_bits_of(x), sign = bits >> 24 & 0x80u, mag = bits & 0x7fffffffu, code;
    if (mag > 0x7f800000u) return sign | 0x7fu;
    code = fai_narrow(mag, mant, bias);
    return sign | (code < max ? code : max);
}
/* e4m3: 4 exponent bits (bias 7), 3 mantissa bits, no Inf; up to 448 */
FAI_HD static inline float fa_e4m3_to_f32(uint8_t code) {
    uint32_t sign = (code & 0x80u) << 24, mag = code & 0x7fu, finite = fai_widen(mag, 3, 7);
    return fai_float_of(sign | (finite + (mag == 0x7fu) * (0x7fc00000u - 0x43f00000u))); /* 480 would be NaN */
}
FAI_HD static inline uint8_t fa_f32_to_e4m3(float x) { return (uint8_t)fai_f32_to_fp8(x, 3, 7, 0x7eu); }

/* e5m2: the upper half of a binary16; up to 57344 */
FAI_HD static inline float fa_e5m2_to_f32(uint8_t x) { return fa_f16_to_f32((uint16_t)(x << 8)); }
FAI_HD static inline uint8_t fa_f32_to_e5m2(float x) { return (uint8_t)fai_f32_to_fp8(x, 2, 15, 0x7bu); }

/* int8: nearest integer, ties to even, -127 .. 127; NaN becomes 0 */
FAI_HD static inline int32_t fai_f32_to_i8(float x) {
    const float magic = 12582912.0f; /* 1.5 * 2^23: the addition rounds */
    int32_t code = (int32_t)(fai_bits_of(x + magic) & 0x7fffffu) - 0x400000;
    code = x > 127 ? 127 : code;
    code = x < -127 ? -127 : code;
    return x == x ? code : 0;
}
FAI_HD static inline int8_t fa_f32_to_i8(float x) { return (int8_t)fai_f32_to_i8(x); }

/* Element `index` of data, which holds elements of the given dtype. */
FAI_HD static inline float fa_load(const void *data, int64_t index, fa_dtype dtype) {
    switch (dtype) {
    case FA_F32: return ((const float *)data)[index];
    case FA_F16: return fa_f16_to_f32(((const fai_code16 *)data)[index]);
    case FA_BF16: return fa_bf16_to_f32(((const fai_code16 *)data)[index]);
    case FA_E4M3: return fa_e4m3_to_f32(((const uint8_t *)data)[index]);
    case FA_E5M2: return fa_e5m2_to_f32(((const uint8_t *)data)[index]);
    case FA_I8: return (float)((const int8_t *)data)[index];
    default: return fai_float_of(0x7fc00000u); /* not a dtype: NaN */
    }
}
FAI_HD static inline void fa_store(void *data, int64_t index, fa_dtype dtype, float x) {
    switch (dtype) {
    case FA_F32: ((float *)data)[index] = x; break;
    case FA_F16: ((fai_code16 *)data)[index] = fa_f32_to_f16(x); break;
    case FA_BF16: ((fai_code16 *)data)[index] = fa_f32_to_bf16(x); break;
    case FA_E4M3: ((uint8_t *)data)[index] = fa_f32_to_e4m3(x); break;
    case FA_E5M2: ((uint8_t *)data)[index] = fa_f32_to_e5m2(x); break;
    case FA_I8: ((int8_t *)data)[index] = fa_f32_to_i8(x); break;
    default: break;
    }
}

/* Philox4x32-10: 128 random bits that are a function of counter and key alone [Salmon et al. 2011,
 * "Parallel random numbers: as easy as 1, 2, 3"].  out may be counter. */
FAI_HD static inline void fa_philox4x32_10(const uint32_t counter[4], const uint32_t key[2],
                                           uint32_t out[4]) {
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xd2511f53u * c0, p1 = (uint64_t)0xcd9e8d57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1, c3 = (uint32_t)p0;
        k0 += 0x9e3779b9u, k1 += 0xbb67ae85u; /* 2^32 times the golden ratio - 1, and sqrt(3) - 1 */
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

/* Dropout probability in units of 2^-16, rounded: an element is dropped when its 16 random bits are
 * below it.  0 .. 65535; 0 for p that is no probability. */
FAI_HD static inline uint32_t fa_dropout_threshold(float p) {
    float x = p * 65536;
    if (!(x > 0)) return 0;
    if (x >= 65535) return 65535; /* something is always kept: the scale stays finite */
    uint32_t whole = (uint32_t)x;
    return whole + (x - (float)whole >= 0.5f);
}

/* Random bits of the 8 keys of a block = j>>3: key j has (out[(j&7)>>1] >> 16*(j&1)) & 0xffff. */
FAI_HD static inline void fai_dropout_bits(const fa_args *args, int32_t b, int32_t h, int32_t i,
                                           int32_t block, uint32_t out[4]) {
    uint32_t head = (uint32_t)b * (uint32_t)args->num_heads + (uint32_t)h;
    uint32_t counter[4] = {(uint32_t)block, (uint32_t)i, head, args->dropout_offset};
    uint32_t key[2] = {(uint32_t)args->dropout_seed, (uint32_t)(args->dropout_seed >> 32)};
    fa_philox4x32_10(counter, key, out);
}

/* 1 if element (b, h, i, j) is kept; i and j count inside the sequence, h is the query head. */
FAI_HD static inline int fa_dropout_keep(const fa_args *args, int32_t b, int32_t h, int32_t i, int32_t j) {
    uint32_t words[4];
    fai_dropout_bits(args, b, h, i, j >> 3, words);
    return (words[(j & 7) >> 1] >> 16 * (j & 1) & 0xffffu) >= fa_dropout_threshold(args->dropout_p);
}

/* What kept elements are multiplied with, so that the expectation stays: 1/(1-p), p as rounded. */
FAI_HD static inline float fa_dropout_scale(float p) {
    return 65536 / (float)(65536 - fa_dropout_threshold(p));
}

/* ======================================================================================== */
/* >>layout   strides, sequences, visible keys: shared by reference, CPU and CUDA            */
/* ======================================================================================== */

/* Strides of one tensor after defaults: element (b, s, h, d) is data[b*b_ + s*s_ + h*h_ + d]. */
typedef struct fai_strides {
    int64_t b, s, h;
} fai_strides;

/* rows: rows of one sequence (all rows when sequences are concatenated). */
FAI_HD static inline fai_strides fai_resolve(int64_t b, int64_t s, int64_t h, int64_t rows, int64_t heads,
                                             int64_t dim) {
    fai_strides r = {b == FA_BROADCAST ? 0 : b, s == FA_BROADCAST ? 0 : s, h == FA_BROADCAST ? 0 : h};
    if (b == 0 && s == 0 && h == 0) r.b = rows * heads * dim, r.s = heads * dim, r.h = dim;
    return r;
}

FAI_HD static inline int32_t fai_num_heads_k(const fa_args *a) {
    return a->num_heads_k ? a->num_heads_k : a->num_heads;
}

FAI_HD static inline fai_strides fai_strides_q(const fa_args *a, int head_dim) {
    return fai_resolve(a->q.stride_b, a->q.stride_s, a->q.stride_h, a->seqlen_q, a->num_heads, head_dim);
}
FAI_HD static inline fai_strides fai_strides_o(const fa_args *a, int head_dim_v) {
    return fai_resolve(a->o.stride_b, a->o.stride_s, a->o.stride_h, a->seqlen_q, a->num_heads, head_dim_v);
}
/* k or v; for a paged cache stride_b is the distance of two pages */
FAI_HD static inline fai_strides fai_strides_kv(const fa_args *a, const fa_tensor *t, int dim) {
    return fai_resolve(t->stride_b, t->stride_s, t->stride_h, a->block_table ? a->page_size : a->seqlen_k,
                       fai_num_heads_k(a), dim);
}

/*  V for fp8 wgmma, which wants the keys of a column next to each other: element (b, j, h, d) of a transposed tensor is
 *  data[b*stride_b + h*stride_h + d*stride_s + fa_transposed_column(..)]; all strides zero: packed (batch, heads, dim,
 *  columns).  Keys of 16 change places, so that the probabilities that a thread computes are those that it multiplies:
 *
 *      place  0 1 2 3  4 5  6  7  8 9 10 11 12 13 14 15
 *      key    0 1 8 9  2 3 10 11  4 5 12 13  6  7 14 15
 *
 *  With cu_seqlens sequence b begins at column (cu[b] + 15 b) / 16 * 16, and stride_b is not used.  A row has as many
 *  columns as the smallest stride that is not 0. */
FAI_HD static inline int64_t fa_transposed_column(int64_t row0, int64_t b, int64_t j) { /* without cu: row0 and b 0 */
    return (row0 + 15 * b) / 16 * 16 + j / 16 * 16 + j / 2 % 4 * 4 + j / 8 % 2 * 2 + j % 2;
}
/* Columns that `rows` keys need, of so many sequences that are concatenated, or of one. */
FAI_HD static inline int64_t fa_transposed_columns(int64_t rows, int64_t sequences) {
    return (rows + 15 * sequences) / 16 * 16;
}
/* s: the distance of two of its rows, which are columns d */
FAI_HD static inline fai_strides fai_resolve_transposed(int64_t b, int64_t s, int64_t h, int64_t seqlen, int64_t heads,
                                                        int64_t dim) {
    fai_strides r = {b == FA_BROADCAST ? 0 : b, s == FA_BROADCAST ? 0 : s, h == FA_BROADCAST ? 0 : h};
    if (b == 0 && s == 0 && h == 0)
        r.s = fa_transposed_columns(seqlen, 1), r.h = dim * r.s, r.b = heads * r.h;
    return r;
}
FAI_HD static inline fai_strides fai_strides_transposed(const fa_args *a, int dim) {
    return fai_resolve_transposed(a->v.stride_b, a->v.stride_s, a->v.stride_h, a->seqlen_k, fai_num_heads_k(a), dim);
}

/* dk or dv */
FAI_HD static inline fai_strides fai_strides_dkv(const fa_args *a, const fa_tensor_out *t, int dim) {
    return fai_resolve(t->stride_b, t->stride_s, t->stride_h, a->seqlen_k, fai_num_heads_k(a), dim);
}
/* packed lse is (batch, head, seq): seq is the fast axis */
FAI_HD static inline fai_strides fai_strides_lse(const fa_args *a) {
    fai_strides r = {a->lse.stride_b, a->lse.stride_s, a->lse.stride_h};
    if (r.b == 0 && r.s == 0 && r.h == 0) {
        r.s = 1, r.h = a->cu_seqlens_q ? a->cu_seqlens_q[a->batch] : a->seqlen_q;
        r.b = r.h * a->num_heads;
    }
    return r;
}
/* bias or dbias: s is the query stride */
FAI_HD static inline fai_strides fai_resolve_bias(const fa_args *a, const void *data, int64_t b, int64_t h,
                                                 int64_t q) {
    fai_strides r = {b == FA_BROADCAST ? 0 : b, q == FA_BROADCAST ? 0 : q, h == FA_BROADCAST ? 0 : h};
    if (data && b == 0 && h == 0 && q == 0) {
        r.s = a->seqlen_k, r.h = (int64_t)a->seqlen_q * r.s, r.b = r.h * a->num_heads;
    }
    return r;
}
FAI_HD static inline fai_strides fai_strides_bias(const fa_args *a) {
    return fai_resolve_bias(a, a->bias.data, a->bias.stride_b, a->bias.stride_h, a->bias.stride_q);
}
FAI_HD static inline fai_strides fai_strides_dbias(const fa_args *a) {
    return fai_resolve_bias(a, a->dbias.data, a->dbias.stride_b, a->dbias.stride_h, a->dbias.stride_q);
}

/* Sequence b of the batch. */
typedef struct fa_sequence {
    int32_t b, len_q, len_k;
    int64_t row_q, row_k; /* concatenated rows before it (0 without cu_seqlens) */
    int64_t b_q, b_k;     /* index to multiply stride_b with (0 with cu_seqlens) */
} fa_sequence;

FAI_HD static inline fa_sequence fa_get_sequence(const fa_args *a, int32_t b) {
    fa_sequence s = {b, a->seqlen_q, a->seqlen_k, 0, 0, b, b};
    if (a->cu_seqlens_q)
        s.row_q = a->cu_seqlens_q[b], s.len_q = a->cu_seqlens_q[b + 1] - a->cu_seqlens_q[b], s.b_q = 0;
    if (a->cu_seqlens_k)
        s.row_k = a->cu_seqlens_k[b], s.len_k = a->cu_seqlens_k[b + 1] - a->cu_seqlens_k[b], s.b_k = 0;
    if (a->seqused_q) s.len_q = a->seqused_q[b];
    if (a->seqused_k) s.len_k = a->seqused_k[b];
    return s;
}

/* Element offset of row i, head h in q (or o, lse) and of row j, kv head hk in k (or v). */
FAI_HD static inline int64_t fai_offset_q(const fa_sequence *s, fai_strides st, int64_t i, int64_t h) {
    return s->b_q * st.b + (s->row_q + i) * st.s + h * st.h;
}
FAI_HD static inline int64_t fai_table_stride(const fa_args *a) {
    return a->block_table_stride ? a->block_table_stride
                                 : ((int64_t)a->seqlen_k + a->page_size - 1) / a->page_size;
}
/* Page that holds row j of sequence b. */
FAI_HD static inline int32_t fai_page(const fa_args *a, int64_t b, int64_t j) {
    return a->block_table[b * fai_table_stride(a) + j / a->page_size];
}
FAI_HD static inline int64_t fai_offset_k(const fa_args *a, const fa_sequence *s, fai_strides st, int64_t j,
                                          int64_t hk) {
    if (a->block_table) return fai_page(a, s->b, j) * st.b + j % a->page_size * st.s + hk * st.h;
    return s->b_k * st.b + (s->row_k + j) * st.s + hk * st.h;
}

/* Keys lo <= j < hi; empty when lo >= hi. */
typedef struct fa_range {
    int32_t lo, hi;
} fa_range;

/* Keys that length, causal mask and window leave to query i.  Both ends rise with i. */
FAI_HD static inline fa_range fa_row_range(const fa_args *a, int32_t len_q, int32_t len_k, int32_t i) {
    int64_t p = (int64_t)i + len_k - len_q, lo = 0, hi = len_k; /* p: position of query i among the keys */
    fa_range r;
    if (a->window_left && p - a->window_left + 1 > lo) lo = p - a->window_left + 1;
    if (a->window_right && p + a->window_right < hi) hi = p + a->window_right;
    if (a->causal && p + 1 < hi) hi = p + 1;
    if (hi < 0) hi = 0;
    if (lo > hi) lo = hi;
    r.lo = (int32_t)lo, r.hi = (int32_t)hi;
    return r;
}

/* For queries i0 <= i < i1: the keys that any of them sees, and those that all of them see. */
FAI_HD static inline fa_range fa_any_range(const fa_args *a, int32_t len_q, int32_t len_k, int32_t i0,
                                           int32_t i1) {
    fa_range r = {fa_row_range(a, len_q, len_k, i0).lo, fa_row_range(a, len_q, len_k, i1 - 1).hi};
    return r;
}
FAI_HD static inline fa_range fa_all_range(const fa_args *a, int32_t len_q, int32_t len_k, int32_t i0,
                                           int32_t i1) {
    fa_range r = {fa_row_range(a, len_q, len_k, i1 - 1).lo, fa_row_range(a, len_q, len_k, i0).hi};
    if (r.lo > r.hi) r.lo = r.hi;
    return r;
}

/* Queries lo <= i < hi that see a key of k0 <= j < k1, and perhaps some that see none. */
FAI_HD static inline fa_range fa_query_range(const fa_args *a, int32_t len_q, int32_t len_k, int32_t k0,
                                             int32_t k1) {
    fa_range r = {0, len_q};
    for (int32_t n = len_q; n > 0;) { /* the first that reaches k0 */
        const int32_t half = n / 2;
        if (fa_row_range(a, len_q, len_k, r.lo + half).hi > k0) n = half;
        else r.lo += half + 1, n -= half + 1;
    }
    r.hi = r.lo;
    for (int32_t n = len_q - r.lo; n > 0;) { /* the first that begins behind k1 */
        const int32_t half = n / 2;
        if (fa_row_range(a, len_q, len_k, r.hi + half).lo >= k1) n = half;
        else r.hi += half + 1, n -= half + 1;
    }
    return r;
}

FAI_HD static inline int fa_block_visible(const fa_args *a, const fa_sequence *s, int32_t h, int32_t i,
                                          int32_t j) {
    const fa_block_mask *m = &a->block_mask;
    int64_t rows = ((int64_t)a->seqlen_q + m->block_q - 1) / m->block_q;
    int64_t cols = ((int64_t)a->seqlen_k + m->block_k - 1) / m->block_k;
    int64_t sb = m->stride_b, sh = m->stride_h;
    if (sb == 0 && sh == 0) sh = rows * cols, sb = sh * a->num_heads;
    if (sb == FA_BROADCAST) sb = 0;
    if (sh == FA_BROADCAST) sh = 0;
    return m->data[s->b * sb + h * sh + i / m->block_q * cols + j / m->block_k] != 0;
}

FAI_HD static inline int fa_tree_visible(const fa_args *a, const fa_sequence *s, int32_t i, int32_t j) {
    int64_t t = (int64_t)j - (s->len_k - s->len_q); /* draft key number */
    int64_t sq = a->tree_mask.stride_q, sb = a->tree_mask.stride_b;
    if (t < 0) return 1;
    if (sb == 0 && sq == 0) sq = ((int64_t)a->seqlen_q + 31) / 32, sb = sq * a->seqlen_q;
    if (sb == FA_BROADCAST) sb = 0;
    if (sq == FA_BROADCAST) sq = 0;
    return (int)(a->tree_mask.data[s->b * sb + i * sq + t / 32] >> (t % 32) & 1);
}

/* Factor of row s of sequence b, head h, and where it is. */
FAI_HD static inline const float *fai_descale_at(const fa_args *a, const fa_descale *d, int64_t b, int64_t h,
                                                int64_t s) {
    if (d->paged) b = fai_page(a, b, s), s %= a->page_size;
    return d->data + b * d->stride_b + h * d->stride_h + (d->block ? s / d->block * d->stride_block : 0);
}
FAI_HD static inline float fai_descale(const fa_args *a, const fa_descale *d, int64_t b, int64_t h, int64_t s) {
    return d->data ? *fai_descale_at(a, d, b, h, s) : 1;
}

/* ======================================================================================== */
/* >>check    is a problem valid? which field is not? which instance fits?                   */
/* ======================================================================================== */

/* Tells args->error (if any) about a failure and returns status.  min > max: no range to tell
 * (pointers, instances); got NaN: no number either.  index -1: the field is not an array. */
static inline fa_status fai_fail(const fa_args *args, fa_status status, const char *field, int64_t index,
                                 double got, double min, double max) {
    if (args->error) {
        fa_error e = {status, field, got, min, max, index};
        *args->error = e;
    }
    return status;
}

/* The features that args asks for: FA_ bits. */
static inline uint32_t fa_features_used(const fa_args *args) {
    uint32_t used = 0;
    if (args->causal) used |= FA_CAUSAL;
    if (args->window_left || args->window_right) used |= FA_WINDOW;
    if (args->cu_seqlens_q || args->cu_seqlens_k) used |= FA_VARLEN;
    if (args->seqused_q || args->seqused_k) used |= FA_VARLEN;
    if (args->block_table) used |= FA_PAGED;
    if (args->softcap != 0) used |= FA_SOFTCAP;
    if (args->alibi_slopes) used |= FA_ALIBI;
    if (args->bias.data) used |= FA_BIAS;
    if (args->dropout_p != 0) used |= FA_DROPOUT;
    if (args->sink) used |= FA_SINK;
    if (args->block_mask.data) used |= FA_BLOCK_MASK;
    if (args->tree_mask.data) used |= FA_TREE_MASK;
    return used;
}

/* FA_ERR_NEEDS_x for the first bit of missing, FA_OK for none. */
static inline fa_status fai_need(const fa_args *args, uint32_t missing) {
#define FAI_NEED(name, bit, field) \
    if (missing & bit) return fai_fail(args, FA_ERR_NEEDS_##name, field, -1, (double)NAN, 1, 0);
    FA_FEATURE_LIST(FAI_NEED)
#undef FAI_NEED
    return FA_OK;
}

/* a * b and a + b for a, b >= 0; INT64_MAX stands for all that does not fit. */
static inline int64_t fai_mul(int64_t a, int64_t b) {
#if defined(__GNUC__) || defined(__clang__)
    int64_t c;
    return __builtin_mul_overflow(a, b, &c) ? INT64_MAX : c;
#else
    return b && a > INT64_MAX / b ? INT64_MAX : a * b;
#endif
}
static inline int64_t fai_add(int64_t a, int64_t b) { return a > INT64_MAX - b ? INT64_MAX : a + b; }

/* How strides are read.  FAI_INPUT: all zero is packed, FA_BROADCAST is 0.  FAI_OUTPUT: all zero is
 * packed, and each element has its own place.  FAI_SUM: the same, but for axes of FA_BROADCAST.
 * FAI_LITERAL: zero is zero. */
typedef enum fai_kind { FAI_INPUT, FAI_OUTPUT, FAI_SUM, FAI_LITERAL } fai_kind;

/* The memory of one field: rows of `row` adjacent elements at data + sum_n i_n * stride[n],
 * 0 <= i_n < size[n], outermost first.  Strides count elements for fai_add_span, bytes after it. */
typedef struct fai_span {
    const void *data;
    const char *field[4]; /* names of data and of the strides */
    fa_status bad_align, bad_stride;
    fai_kind kind;
    int64_t element, row, size[3], stride[3];
    int64_t extent; /* bytes from data to the end of the last row; 0 if there is no row */
} fai_span;

/* fa_check at work.  status is the first failure; after it, nothing else is checked. */
typedef struct fai_problem {
    const fa_info *info;
    const fa_args *args;
    fa_status status;
    uint32_t pass;             /* FA_FORWARD, FA_BACKWARD or FA_DECODE, with FAI_DEVICE_LISTS or without */
    int64_t batch[2], rows[2]; /* of q and k tensors: 1 batch of all rows when concatenated, or pages */
    int count;                 /* spans so far */
    fai_span span[28];
} fai_problem;

static inline void fai_bad(fai_problem *p, fa_status status, const char *field, int64_t index, double got,
                           double min, double max) {
    if (p->status == FA_OK) p->status = fai_fail(p->args, status, field, index, got, min, max);
}

/* NaN is outside every range. */
static inline void fai_range(fai_problem *p, fa_status status, const char *field, double got, double min,
                             double max) {
    if (!(got >= min && got <= max)) fai_bad(p, status, field, -1, got, min, max);
}

/* Each element has its own place if each stride steps over all that the smaller ones reach. */
static inline void fai_check_places(fai_problem *p, const fai_span *s) {
    for (int n = 2; n >= 0; n--) {
        int64_t reach = s->row * s->element;
        for (int m = 0; m < 3; m++)
            if (m != n && s->stride[m] <= s->stride[n]) reach += (s->size[m] - 1) * s->stride[m];
        if (s->size[n] > 1 && s->stride[n] < reach)
            fai_bad(p, s->bad_stride, s->field[n + 1], -1, (double)(s->stride[n] / s->element),
                    (double)(reach / s->element), (double)INT64_MAX);
    }
}

/* Checks alignment, strides and extent of s, and notes it for the overlap check.  NULL is absent. */
static inline void fai_add_span(fai_problem *p, fai_span s) {
    const int64_t address = (int64_t)(uintptr_t)s.data;
    const int64_t least = s.kind == FAI_INPUT || s.kind == FAI_SUM ? FA_BROADCAST : 0;
    int64_t *size = s.size, *stride = s.stride;
    if (p->status != FA_OK || !s.data) return;
    if (address & (s.element - 1))
        fai_bad(p, s.bad_align, s.field[0], -1, (double)(address & (s.element - 1)), 0, 0);
    for (int n = 0; n < 3; n++)
        if (stride[n] < least)
            fai_bad(p, s.bad_stride, s.field[n + 1], -1, (double)stride[n], (double)least, (double)INT64_MAX);
    if (p->status != FA_OK) return;
    if (s.kind != FAI_LITERAL && !stride[0] && !stride[1] && !stride[2]) {
        stride[2] = s.row;
        stride[1] = fai_mul(size[2], stride[2]);
        stride[0] = fai_mul(size[1], stride[1]);
    }
    s.extent = size[0] && size[1] && size[2] ? fai_mul(s.row, s.element) : 0;
    for (int n = 2; n >= 0; n--) {
        const int64_t elements = stride[n] == FA_BROADCAST ? 0 : stride[n], before = s.extent;
        if (s.kind == FAI_SUM && stride[n] == FA_BROADCAST) size[n] = size[n] != 0;
        stride[n] = fai_mul(elements, s.element);
        if (before) s.extent = fai_add(before, fai_mul(size[n] - 1, stride[n]));
        if (s.extent >= PTRDIFF_MAX)
            fai_bad(p, s.bad_stride, s.field[size[n] > 1 ? n + 1 : 0], -1, (double)elements, 0,
                    (double)(PTRDIFF_MAX - before) / (double)size[n] / (double)s.element);
    }
    if ((uintptr_t)s.data > UINTPTR_MAX - (uintptr_t)s.extent) /* the end wraps around */
        fai_bad(p, s.bad_stride, s.field[0], -1, (double)s.extent, 0,
                (double)(UINTPTR_MAX - (uintptr_t)s.data));
    if (p->status == FA_OK && (s.kind == FAI_OUTPUT || s.kind == FAI_SUM) && s.extent) fai_check_places(p, &s);
    p->span[p->count++] = s;
}

/* n adjacent elements of 4 bytes */
static inline void fai_add_array(fai_problem *p, const void *data, const char *field, fa_status bad,
                                 int64_t n) {
    fai_span s = {data, {field, NULL, NULL, NULL}, bad, bad, FAI_LITERAL, 4, n, {1, 1, 1}, {0, 0, 0}, 0};
    fai_add_span(p, s);
}

/* Bytes that s occupies in a circle of `period` bytes: steps by multiples of it do not count. */
static inline int64_t fai_footprint(const fai_span *s, int64_t period) {
    int64_t bytes = s->row * s->element;
    for (int n = 0; n < 3; n++)
        if (s->stride[n] % period) bytes += (s->size[n] - 1) * s->stride[n];
    return bytes;
}

/* 1 if x and y may share a byte.  Ranges that intersect are fine when the tensors are columns of the
 * same records (q, k, v and o of one activation matrix): then some stride is the size of the record,
 * and in a circle of that size their footprints are disjoint. */
static inline int fai_overlap(const fai_span *x, const fai_span *y) {
    uint64_t ax = (uintptr_t)x->data, ay = (uintptr_t)y->data;
    if (!x->extent || !y->extent) return 0;
    if (ax + (uint64_t)x->extent <= ay || ay + (uint64_t)y->extent <= ax) return 0;
    for (int n = 0; n < 6; n++) {
        int64_t period = n < 3 ? x->stride[n] : y->stride[n - 3], ahead; /* of y before x */
        if (!period) continue;
        ahead = (int64_t)(ay % (uint64_t)period) - (int64_t)(ax % (uint64_t)period);
        if (ahead < 0) ahead += period;
        if (fai_footprint(x, period) <= ahead && fai_footprint(y, period) <= period - ahead) return 0;
    }
    return 1;
}

/* What it is called when the pass writes s over something else; FA_OK: the pass only reads s. */
static inline fa_status fai_overlap_status(uint32_t pass, const fai_span *s) {
    switch ((int)s->bad_stride) {
    case FA_ERR_O_STRIDE: return (pass & ~FAI_DEVICE_LISTS) == FA_BACKWARD ? FA_OK : FA_ERR_O_OVERLAP;
    case FA_ERR_LSE_STRIDE: return (pass & ~FAI_DEVICE_LISTS) == FA_BACKWARD ? FA_OK : FA_ERR_LSE_OVERLAP;
    case FA_ERR_DQ_STRIDE: return FA_ERR_DQ_OVERLAP;
    case FA_ERR_DK_STRIDE: return FA_ERR_DK_OVERLAP;
    case FA_ERR_DV_STRIDE: return FA_ERR_DV_OVERLAP;
    case FA_ERR_DBIAS_STRIDE: return FA_ERR_DBIAS_OVERLAP;
    case FA_ERR_DSINK_ALIGN: return FA_ERR_DSINK_OVERLAP;
    default: return FA_OK;
    }
}

static inline void fai_check_overlaps(fai_problem *p) {
    for (int i = 0; i < p->count; i++) {
        const fa_status bad = fai_overlap_status(p->pass, &p->span[i]);
        for (int n = 0; bad != FA_OK && n < p->count; n++) { /* two outputs: the later one is blamed */
            const fai_span *s = &p->span[n];
            if (n == i || (n > i && fai_overlap_status(p->pass, s) != FA_OK)) continue;
            if (fai_overlap(&p->span[i], s)) fai_bad(p, bad, s->field[0], -1, NAN, 1, 0);
        }
    }
}

/* The last two keep every product of the layout section inside 64 bits. */
static inline void fai_check_sizes(fai_problem *p) {
    const fa_args *a = p->args;
    const double most = INT32_MAX, heads = a->num_heads;
    double rows = a->seqlen_q > a->seqlen_k ? a->seqlen_q : a->seqlen_k;
    double dim = p->info->head_dim > p->info->head_dim_v ? p->info->head_dim : p->info->head_dim_v;
    if (a->block_table && a->page_size > rows) rows = a->page_size;
    fai_range(p, FA_ERR_BATCH, "batch", a->batch, 1, most);
    fai_range(p, FA_ERR_NUM_HEADS, "num_heads", heads, 1, most);
    fai_range(p, FA_ERR_NUM_HEADS_K, "num_heads_k", a->num_heads_k, 0, heads);
    if (p->status == FA_OK && a->num_heads % fai_num_heads_k(a))
        fai_bad(p, FA_ERR_NUM_HEADS_K, "num_heads_k", -1, a->num_heads_k, 0, heads);
    fai_range(p, FA_ERR_SEQLEN_Q, "seqlen_q", a->seqlen_q, 1, FA_MAX_SEQLEN);
    fai_range(p, FA_ERR_SEQLEN_K, "seqlen_k", a->seqlen_k, 0, FA_MAX_SEQLEN);
    fai_range(p, FA_ERR_SIZE_OVERFLOW, "batch * num_heads * seqlen_q", a->batch * heads * a->seqlen_q, 1,
              0x1p62);
    fai_range(p, FA_ERR_SIZE_OVERFLOW, "seqlen * num_heads * head_dim", rows * heads * dim, 1, 0x1p62);
    if (p->status == FA_OK) p->status = fai_need(a, fa_features_used(a) & ~p->info->features);
}

static inline void fai_check_scalars(fai_problem *p) {
    const fa_args *a = p->args;
    const double most = INT32_MAX, big = 3.4028234663852886e38; /* FLT_MAX */
    fai_range(p, FA_ERR_SCALE, "softmax_scale", (double)a->softmax_scale, -big, big);
    fai_range(p, FA_ERR_SOFTCAP, "softcap", (double)a->softcap, 0, big);
    fai_range(p, FA_ERR_CAUSAL, "causal", a->causal, 0, 1);
    fai_range(p, FA_ERR_WINDOW_LEFT, "window_left", a->window_left, 0, most);
    fai_range(p, FA_ERR_WINDOW_RIGHT, "window_right", a->window_right, 0, most);
    fai_range(p, FA_ERR_DROPOUT_P, "dropout_p", (double)a->dropout_p, 0, 1 - 0x1p-24);
    fai_range(p, FA_ERR_DETERMINISTIC, "deterministic", a->deterministic, 0, 1);
    const int may_transpose = p->pass == (FA_FORWARD | FAI_DEVICE_LISTS) && p->info->kv_dtype == FA_E4M3 && !a->block_table;
    fai_range(p, FA_ERR_V_TRANSPOSED, "v_transposed", a->v_transposed, 0, may_transpose);
}

/* ALiBi, bias, sink, block mask and tree mask. */
static inline void fai_check_terms(fai_problem *p) {
    const fa_args *a = p->args;
    const fa_bias *bias = &a->bias;
    const fa_block_mask *m = &a->block_mask;
    const fa_tree_mask *tree = &a->tree_mask;
    if (a->alibi_slopes) {
        fai_span s = {a->alibi_slopes,
                      {"alibi_slopes", "alibi_stride_b", NULL, NULL},
                      FA_ERR_ALIBI,
                      FA_ERR_ALIBI,
                      FAI_LITERAL,
                      4,
                      a->num_heads,
                      {a->batch, 1, 1},
                      {a->alibi_stride_b, 0, 0},
                      0};
        fai_add_span(p, s);
    }
    if (bias->data) {
        const fa_dtype dtype = bias->dtype ? bias->dtype : FA_F32;
        fai_span s = {bias->data,
                      {"bias.data", "bias.stride_b", "bias.stride_h", "bias.stride_q"},
                      FA_ERR_BIAS_ALIGN,
                      FA_ERR_BIAS_STRIDE,
                      FAI_INPUT,
                      (int64_t)fa_sizeof(dtype),
                      a->seqlen_k,
                      {a->batch, a->num_heads, a->seqlen_q},
                      {bias->stride_b, bias->stride_h, bias->stride_q},
                      0};
        fai_range(p, FA_ERR_BIAS_DTYPE, "bias.dtype", dtype, 0, FA_BF16);
        fai_add_span(p, s);
    }
    fai_add_array(p, a->sink, "sink", FA_ERR_SINK, a->num_heads);
    if (m->data) {
        fai_range(p, FA_ERR_BLOCK_MASK_SIZE, "block_mask.block_q", m->block_q, 1, INT32_MAX);
        fai_range(p, FA_ERR_BLOCK_MASK_SIZE, "block_mask.block_k", m->block_k, 1, INT32_MAX);
        if (p->status != FA_OK) return;
        int64_t tiles_q = ((int64_t)a->seqlen_q + m->block_q - 1) / m->block_q;
        int64_t tiles_k = ((int64_t)a->seqlen_k + m->block_k - 1) / m->block_k;
        fai_span s = {m->data,
                      {"block_mask.data", NULL, "block_mask.stride_b", "block_mask.stride_h"},
                      FA_ERR_BLOCK_MASK_STRIDE,
                      FA_ERR_BLOCK_MASK_STRIDE,
                      FAI_INPUT,
                      1,
                      tiles_q * tiles_k,
                      {1, a->batch, a->num_heads},
                      {0, m->stride_b, m->stride_h},
                      0};
        fai_add_span(p, s);
    }
    if (tree->data) {
        fai_span s = {tree->data,
                      {"tree_mask.data", NULL, "tree_mask.stride_b", "tree_mask.stride_q"},
                      FA_ERR_TREE_MASK_ALIGN,
                      FA_ERR_TREE_MASK_STRIDE,
                      FAI_INPUT,
                      4,
                      ((int64_t)a->seqlen_q + 31) / 32,
                      {1, a->batch, a->seqlen_q},
                      {0, tree->stride_b, tree->stride_q},
                      0};
        fai_add_span(p, s);
    }
}

/* cu_seqlens (batch + 1) and seqused (batch) of the q side (0) or the k side (1). */
static inline void fai_check_lengths(fai_problem *p, int side) {
    const fa_args *a = p->args;
    const int32_t *cu = side ? a->cu_seqlens_k : a->cu_seqlens_q;
    const int32_t *used = side ? a->seqused_k : a->seqused_q;
    const int fresh = (p->pass & FAI_APPEND) != 0; /* the q side are new rows */
    const char *cu_field = side ? "cu_seqlens_k" : fresh ? "cu_seqlens_new" : "cu_seqlens_q";
    const char *used_field = side ? "seqused_k" : fresh ? "seqused_new" : "seqused_q";
    const fa_status bad_cu = side ? FA_ERR_CU_SEQLENS_K : fresh ? FA_ERR_CU_SEQLENS_NEW : FA_ERR_CU_SEQLENS_Q;
    const fa_status bad_used = side ? FA_ERR_SEQUSED_K : fresh ? FA_ERR_SEQUSED_NEW : FA_ERR_SEQUSED_Q;
    const int32_t seqlen = side ? a->seqlen_k : a->seqlen_q;
    fai_add_array(p, cu, cu_field, bad_cu, (int64_t)a->batch + 1);
    fai_add_array(p, used, used_field, bad_used, a->batch);
    p->batch[side] = a->batch, p->rows[side] = seqlen;
    if (p->status != FA_OK) return;
    if (p->pass & FAI_DEVICE_LISTS) { /* one row is the least that there is */
        if (cu) p->batch[side] = p->rows[side] = 1;
        return;
    }
    if (cu && cu[0] < 0) fai_bad(p, bad_cu, cu_field, 0, cu[0], 0, INT32_MAX);
    for (int64_t b = 0; (cu || used) && b < a->batch && p->status == FA_OK; b++) {
        const int64_t room = cu ? (int64_t)cu[b + 1] - cu[b] : seqlen;
        if (room < 0 || room > seqlen)
            fai_bad(p, bad_cu, cu_field, b + 1, cu[b + 1], cu[b], (double)cu[b] + seqlen);
        if (used && (used[b] < 0 || used[b] > room))
            fai_bad(p, bad_used, used_field, b, used[b], 0, (double)room);
    }
    if (cu) p->batch[side] = 1, p->rows[side] = cu[a->batch];
}

/* The block table, but for the page numbers. */
static inline void fai_check_table(fai_problem *p) {
    const fa_args *a = p->args;
    if (p->status != FA_OK) return;
    if (!a->block_table) {
        fai_range(p, FA_ERR_PAGE_SIZE, "page_size", a->page_size, 0, 0);
        return;
    }
    if (a->cu_seqlens_k) fai_bad(p, FA_ERR_PAGED_CU_SEQLENS, "cu_seqlens_k", -1, NAN, 1, 0);
    fai_range(p, FA_ERR_PAGE_SIZE, "page_size", a->page_size, 1, INT32_MAX);
    fai_range(p, FA_ERR_NUM_PAGES, "num_pages", a->num_pages, 1, INT32_MAX);
    if (p->status != FA_OK) return;
    p->batch[1] = a->num_pages, p->rows[1] = a->page_size;

    const int64_t pages = ((int64_t)a->seqlen_k + a->page_size - 1) / a->page_size;
    const int64_t stride = fai_table_stride(a);
    fai_span s = {a->block_table,
                  {"block_table", "block_table_stride", NULL, NULL},
                  FA_ERR_BLOCK_TABLE,
                  FA_ERR_BLOCK_TABLE_STRIDE,
                  FAI_LITERAL,
                  4,
                  pages,
                  {a->batch, 1, 1},
                  {stride, 0, 0},
                  0};
    if (stride < pages)
        fai_bad(p, FA_ERR_BLOCK_TABLE_STRIDE, "block_table_stride", -1, (double)stride, (double)pages,
                (double)INT64_MAX);
    fai_add_span(p, s);
}

/* The block table, and page numbers for every key in use. */
static inline void fai_check_pages(fai_problem *p) {
    const fa_args *a = p->args;
    fai_check_table(p);
    if (p->pass & FAI_DEVICE_LISTS) return;
    for (int32_t b = 0; a->block_table && a->seqlen_k && b < a->batch && p->status == FA_OK; b++) {
        const int32_t len_k = fa_get_sequence(a, b).len_k;
        int64_t i = b * fai_table_stride(a);
        for (int64_t j = 0; j < len_k; j += a->page_size, i++)
            if (a->block_table[i] < 0 || a->block_table[i] >= a->num_pages)
                fai_bad(p, FA_ERR_BLOCK_TABLE, "block_table", i, a->block_table[i], 0, a->num_pages - 1);
    }
}

/* Sequences that may differ in length: the first one stands for all when there is no array of lengths. */
static inline int32_t fai_num_lengths(const fa_args *a) {
    return fa_features_used(a) & FA_VARLEN ? a->batch : 1;
}

/* All that is counted per sequence. */
static inline void fai_check_sequences(fai_problem *p) {
    const fa_args *a = p->args;
    const char *len_k = a->seqused_k ? "seqused_k" : a->cu_seqlens_k ? "cu_seqlens_k" : "seqlen_k";
    fai_check_lengths(p, 0);
    fai_check_lengths(p, 1);
    const int hidden = p->pass & FAI_DEVICE_LISTS && fa_features_used(a) & FA_VARLEN; /* lengths */
    for (int32_t b = 0; a->tree_mask.data && !hidden && b < fai_num_lengths(a) && p->status == FA_OK; b++) {
        fa_sequence s = fa_get_sequence(a, b);
        if (s.len_k < s.len_q) fai_bad(p, FA_ERR_TREE_MASK_LENGTH, len_k, b, s.len_k, s.len_q, a->seqlen_k);
    }
    fai_check_pages(p);
}

/* A transposed tensor: dim rows of keys.  with cu_seqlens only the device knows how many. */
static inline fai_span fai_transposed_span(fai_span s, int64_t seqlen, int ragged) {
    const int64_t batch = s.size[0], heads = s.size[2], dim = s.row;
    const fai_strides st = fai_resolve_transposed(s.stride[0], s.stride[1], s.stride[2], seqlen, heads, dim);
    s.size[0] = batch, s.size[1] = dim, s.row = ragged ? 16 : fa_transposed_columns(seqlen, 1);
    if (s.stride[0] >= 0 && s.stride[1] >= 0 && s.stride[2] >= 0) s.stride[0] = st.b, s.stride[1] = st.s, s.stride[2] = st.h;
    return s;
}

static inline void fai_check_tensors(fai_problem *p) {
    const fa_args *a = p->args;
    const fa_info *info = p->info;
    const int64_t heads_k = fai_num_heads_k(a);
    if (p->status != FA_OK) return;
#define FAI_TENSOR(t, T, kind, dtype, dim, batch, rows, heads) \
    {a->t.data, \
     {#t ".data", #t ".stride_b", #t ".stride_s", #t ".stride_h"}, \
     FA_ERR_##T##_ALIGN, \
     FA_ERR_##T##_STRIDE, \
     kind, \
     (int64_t)fa_sizeof(dtype), \
     dim, \
     {batch, rows, heads}, \
     {a->t.stride_b, a->t.stride_s, a->t.stride_h}, \
     0}
#define FAI_TENSOR_Q(t, T, kind, dtype, dim) \
    FAI_TENSOR(t, T, kind, dtype, dim, p->batch[0], p->rows[0], a->num_heads)
#define FAI_TENSOR_K(t, T, dim) \
    FAI_TENSOR(t, T, FAI_INPUT, info->kv_dtype, dim, p->batch[1], p->rows[1], heads_k)
#define FAI_TENSOR_DK(t, T, dim) \
    FAI_TENSOR(t, T, FAI_OUTPUT, info->kv_dtype, dim, a->cu_seqlens_k ? 1 : a->batch, \
               a->cu_seqlens_k ? p->rows[1] : a->seqlen_k, heads_k)
    fai_span q = FAI_TENSOR_Q(q, Q, FAI_INPUT, info->dtype, info->head_dim);
    fai_span k = FAI_TENSOR_K(k, K, info->head_dim);
    fai_span v = FAI_TENSOR_K(v, V, info->head_dim_v);
    if (a->v_transposed) {
        if (a->cu_seqlens_k && !v.stride[1]) fai_bad(p, FA_ERR_V_TRANSPOSED, "v.stride_s", -1, 0, 16, (double)INT64_MAX);
        v = fai_transposed_span(v, a->seqlen_k, a->cu_seqlens_k != NULL);
    }
    fai_span o = FAI_TENSOR_Q(o, O, FAI_OUTPUT, info->o_dtype, info->head_dim_v);
    fai_span lse = {a->lse.data,
                    {"lse.data", "lse.stride_b", "lse.stride_h", "lse.stride_s"},
                    FA_ERR_LSE_ALIGN,
                    FA_ERR_LSE_STRIDE,
                    FAI_OUTPUT,
                    4,
                    1,
                    {p->batch[0], a->num_heads, p->rows[0]},
                    {a->lse.stride_b, a->lse.stride_h, a->lse.stride_s},
                    0};
    if (!q.data) fai_bad(p, FA_ERR_Q_NULL, "q.data", -1, 0, 1, 0);
    if (!k.data && a->seqlen_k) fai_bad(p, FA_ERR_K_NULL, "k.data", -1, 0, 1, 0);
    if (!v.data && a->seqlen_k) fai_bad(p, FA_ERR_V_NULL, "v.data", -1, 0, 1, 0);
    if (!o.data) fai_bad(p, FA_ERR_O_NULL, "o.data", -1, 0, 1, 0);
    fai_add_span(p, q);
    fai_add_span(p, k);
    fai_add_span(p, v);
    fai_add_span(p, o);
    fai_add_span(p, lse);
    if ((p->pass & ~FAI_DEVICE_LISTS) == FA_BACKWARD) {
        fai_span d_o = FAI_TENSOR_Q(d_o, DO, FAI_INPUT, info->o_dtype, info->head_dim_v);
        fai_span dq = FAI_TENSOR_Q(dq, DQ, FAI_OUTPUT, info->dtype, info->head_dim);
        fai_span dk = FAI_TENSOR_DK(dk, DK, info->head_dim);
        fai_span dv = FAI_TENSOR_DK(dv, DV, info->head_dim_v);
        fai_span dbias = {a->dbias.data,
                          {"dbias.data", "dbias.stride_b", "dbias.stride_h", "dbias.stride_q"},
                          FA_ERR_DBIAS_ALIGN,
                          FA_ERR_DBIAS_STRIDE,
                          FAI_SUM,
                          4,
                          a->seqlen_k,
                          {a->batch, a->num_heads, a->seqlen_q},
                          {a->dbias.stride_b, a->dbias.stride_h, a->dbias.stride_q},
                          0};
        fai_span dsink = {a->dsink,           {"dsink", NULL, NULL, NULL}, FA_ERR_DSINK_ALIGN, FA_ERR_DSINK_ALIGN, FAI_OUTPUT, 4,
                          a->num_heads, {1, 1, 1},                   {0, 0, 0},          0};
        if (!lse.data) fai_bad(p, FA_ERR_LSE_NULL, "lse.data", -1, 0, 1, 0);
        if (!d_o.data) fai_bad(p, FA_ERR_DO_NULL, "d_o.data", -1, 0, 1, 0);
        if (dbias.data && !a->bias.data) fai_bad(p, FA_ERR_DBIAS_BIAS, "dbias.data", -1, NAN, 1, 0);
        if (dsink.data && !a->sink) fai_bad(p, FA_ERR_DSINK_SINK, "dsink", -1, NAN, 1, 0);
        fai_add_span(p, d_o);
        fai_add_span(p, dq);
        fai_add_span(p, dk);
        fai_add_span(p, dv);
        fai_add_span(p, dbias);
        fai_add_span(p, dsink);
    }
#undef FAI_TENSOR_DK
#undef FAI_TENSOR_K
#undef FAI_TENSOR_Q
#undef FAI_TENSOR
}

/* 1 if n adjacent factors are finite and not negative, by their bits and several at a time: an int8 cache has
 * one for each row, and one by one they took a third of a decode call. */
static inline int fai_good_factors(const float *x, int64_t n) {
    uint32_t bad = 0;
    int64_t i = 0;
#if (defined(__GNUC__) || defined(__clang__)) && !defined(__CUDACC__)
    typedef uint32_t eight __attribute__((vector_size(32)));
    eight w = {0}, all = {0};
    for (; i + 8 <= n; i += 8) {
        memcpy(&w, x + i, sizeof w);
        all |= w | ((w & 0x7fffffffu) + 0x00800000u); /* exponent 255 carries into the sign */
    }
    for (int l = 0; l < 8; l++) bad |= all[l];
#endif
    for (; i < n; i++) bad |= fai_bits_of(x[i]) | ((fai_bits_of(x[i]) & 0x7fffffffu) + 0x00800000u);
    return !(bad & 0x80000000u);
}

/* Where the factors of one fp8 or int8 tensor are. */
static inline void fai_add_descale(fai_problem *p, const fa_descale *d, int side, fa_status bad,
                                   const char *const field[5]) {
    const fa_args *a = p->args;
    const fa_dtype dtype = side ? p->info->kv_dtype : p->info->dtype;
    const int64_t heads = side ? fai_num_heads_k(a) : a->num_heads;
    const int64_t seqlen = d->paged ? a->page_size : side ? a->seqlen_k : a->seqlen_q;
    const int64_t blocks = d->block > 0 ? (seqlen + d->block - 1) / d->block : 1;
    fai_span s = {d->data,
                  {field[0], field[1], field[2], field[3]},
                  bad,
                  bad,
                  FAI_LITERAL,
                  4,
                  1,
                  {d->paged ? a->num_pages : a->batch, heads, blocks},
                  {d->stride_b, d->stride_h, d->stride_block},
                  0};
    if (!d->data || p->status != FA_OK) return;
    fai_range(p, bad, field[0], dtype, FA_E4M3, FA_I8);
    fai_range(p, bad, "paged", d->paged, 0, side && a->block_table ? 1 : 0);
    fai_range(p, bad, field[4], d->block, 0, INT32_MAX);
    fai_add_span(p, s);
}

/* A factor must be a finite number >= 0. */
static inline void fai_check_factor(fai_problem *p, const fa_descale *d, const float *x, fa_status bad,
                                    const char *field) {
    if (!(*x >= 0 && *x <= 3.4028235e38f)) /* NaN and infinity fail */
        fai_bad(p, bad, field, x - d->data, (double)*x, 0, 3.4028234663852886e38);
}

/* The factors of one fp8 or int8 tensor, all that the problem uses. */
static inline void fai_check_descale(fai_problem *p, const fa_descale *d, int side, fa_status bad,
                                     const char *const field[5]) {
    const fa_args *a = p->args;
    const int64_t heads = side ? fai_num_heads_k(a) : a->num_heads;
    fai_add_descale(p, d, side, bad, field);
    if (!d->data || p->status != FA_OK || p->pass & FAI_DEVICE_LISTS) return;
    const int32_t batch = d->stride_b ? a->batch : fai_num_lengths(a); /* without repetitions */
    const int tokens = d->block == 1 && d->stride_h == 1 && d->stride_block == heads; /* (row, head) */
    for (int32_t b = 0; b < batch && p->status == FA_OK; b++) {
        const fa_sequence seq = fa_get_sequence(a, b);
        const int64_t len = side ? seq.len_k : seq.len_q;
        int64_t good = 0; /* rows */
        for (int64_t n; tokens && good < len; good += n) {
            n = d->paged && a->page_size < len - good ? a->page_size : len - good;
            if (!fai_good_factors(fai_descale_at(a, d, b, 0, good), n * heads)) break;
        }
        if (tokens && good == len) continue;
        const int64_t step = d->block && d->stride_block ? d->block : d->paged ? a->page_size : len;
        for (int64_t h = 0; h < (d->stride_h ? heads : 1); h++)
            for (int64_t row = 0, next; row < len && p->status == FA_OK; row = next) {
                const float *x = fai_descale_at(a, d, b, h, row);
                const int64_t room = d->paged ? a->page_size - row % a->page_size : len,
                              run = room < len - row ? room : len - row;
                if (d->block == 1 && d->stride_block == 1 && run > 1 && fai_good_factors(x, run)) {
                    next = row + run;
                    continue;
                }
                fai_check_factor(p, d, x, bad, field[0]);
                next = row + step;
                if (d->paged && row / a->page_size != next / a->page_size) /* blocks begin anew with each page */
                    next = (row / a->page_size + 1) * a->page_size;
            }
    }
}

static inline void fai_check_descales(fai_problem *p) {
#define FAI_FIELDS(t) \
    { t ".data", t ".stride_b", t ".stride_h", t ".stride_block", t ".block" }
    static const char *const q[5] = FAI_FIELDS("q_descale");
    static const char *const k[5] = FAI_FIELDS("k_descale");
    static const char *const v[5] = FAI_FIELDS("v_descale");
#undef FAI_FIELDS
    fai_check_descale(p, &p->args->q_descale, 0, FA_ERR_DESCALE_Q, q);
    fai_check_descale(p, &p->args->k_descale, 1, FA_ERR_DESCALE_K, k);
    fai_check_descale(p, &p->args->v_descale, 1, FA_ERR_DESCALE_V, v);
}

/* Is args a problem that the instance can do in this pass: FA_FORWARD, FA_BACKWARD or FA_DECODE?  Returns
 * the first failure, and its numbers in args->error.  Reads the length arrays, the block table and the
 * descale factors, no other data; writes nothing but args->error.
 * With FAI_DEVICE_LISTS it reads none of them either: lengths, page numbers and factors are not checked, and of
 * concatenated sequences only the first row is in the extents that may not overlap. */
FAI_NOINLINE fa_status fa_check_pass(const fa_info *info, const fa_args *args, uint32_t pass) {
    fai_problem p;
    if (!args) return FA_ERR_ARGS_NULL;
    if (args->first_canary || args->last_canary) return FA_ERR_NOT_ZEROED; /* error may be garbage */
    if (!info) return fai_fail(args, FA_ERR_NO_INSTANCE, "info", -1, 0, 1, 0);
    p.info = info, p.args = args, p.pass = pass, p.status = FA_OK, p.count = 0;
    if (!(info->passes & pass)) fai_bad(&p, FA_ERR_NO_PASS, "passes", -1, NAN, 1, 0);
    if ((pass & ~FAI_DEVICE_LISTS) == FA_BACKWARD && info->score_mod && !info->score_mod_grad)
        fai_bad(&p, FA_ERR_NO_SCORE_MOD_GRAD, "score_mod_grad", -1, NAN, 1, 0);
    fai_check_sizes(&p);
    fai_check_scalars(&p);
    if (p.status == FA_OK) fai_check_terms(&p);
    if (p.status == FA_OK) fai_check_sequences(&p);
    fai_check_tensors(&p);
    fai_check_descales(&p);
    if (p.status == FA_OK) fai_check_overlaps(&p);
    fai_range(&p, FA_ERR_NUM_THREADS, "num_threads", args->num_threads, 0, 65536);
    if (args->split_keys) fai_range(&p, FA_ERR_SPLIT_KEYS, "split_keys", args->split_keys, 64, INT32_MAX);
    return p.status == FA_OK ? fai_fail(args, FA_OK, "", -1, 0, 0, 0) : p.status;
}
static inline fa_status fa_check(const fa_info *info, const fa_args *args) {
    return fa_check_pass(info, args, FA_FORWARD);
}

/* *chosen = the first of infos[0 .. count-1] with these dims and dtype and all that args asks for, else
 * NULL.  If only a feature is missing the status names it; else fa_error has what no info has. */
static inline fa_status fa_select(const fa_info *const *infos, int count, int head_dim, int head_dim_v,
                                  fa_dtype dtype, const fa_args *args, const fa_info **chosen) {
    const fa_info *fits = NULL; /* but for the features */
    int with_dim = 0, with_dim_v = 0;
    *chosen = NULL;
    if (!args) return FA_ERR_ARGS_NULL;
    if (args->first_canary || args->last_canary) return FA_ERR_NOT_ZEROED;
    const uint32_t used = fa_features_used(args);
    for (int n = 0; n < count; n++) {
        const fa_info *info = infos[n];
        if (info->head_dim != head_dim) continue;
        with_dim = 1;
        if (info->head_dim_v != head_dim_v) continue;
        with_dim_v = 1;
        if (info->dtype != dtype) continue;
        if (!fits) fits = info;
        if (used & ~info->features) continue;
        *chosen = info;
        return fai_fail(args, FA_OK, "", -1, 0, 0, 0);
    }
    if (fits) return fai_need(args, used & ~fits->features);
    if (!with_dim) return fai_fail(args, FA_ERR_NO_INSTANCE, "head_dim", -1, head_dim, 1, 0);
    if (!with_dim_v) return fai_fail(args, FA_ERR_NO_INSTANCE, "head_dim_v", -1, head_dim_v, 1, 0);
    return fai_fail(args, FA_ERR_NO_INSTANCE, "dtype", -1, dtype, 1, 0);
}

/* "seqlen_k = -3, legal 0 .. 1073741824: seqlen_k must be ...".  As snprintf: writes at most size bytes,
 * the final 0 included, and returns the full length. */
static inline int fa_error_message(const fa_error *error, char *text, size_t size) {
    char index[32] = "", got[40] = "", range[80] = "";
    if (!text) size = 0;
    if (!error || error->status == FA_OK || !error->field || !error->field[0])
        return snprintf(text, size, "%s", fa_strerror(error ? error->status : FA_OK));
    if (error->index >= 0) snprintf(index, sizeof index, "[%lld]", (long long)error->index);
    if (error->got == error->got) snprintf(got, sizeof got, " = %.10g", error->got);
    if (error->min <= error->max)
        snprintf(range, sizeof range, ", legal %.10g .. %.10g", error->min, error->max);
    return snprintf(text, size, "%s%s%s%s: %s", error->field, index, got, range, fa_strerror(error->status));
}

/* ======================================================================================== */
/* >>plan     how the backward pass shares out its work                                      */
/* ======================================================================================== */

/* How the backward pass shares out its work, a function of the problem alone, so that no number of threads changes a
 * bit: each task owns tiles of FAI_GRAD_TILE keys of a key/value head, sums their dK and dV, and sums its part of dQ
 * into f32 rows of its own (`split`); at the end the parts are added in the order of the splits.  FAI_GRAD_TASKS in all
 * are wanted, so few heads are split more, if each split has at least two tiles.  This costs rows * head_dim floats of
 * workspace a split and, a part being written first and not added to, little time: one head, 4 splits at N 2048 or 16 at N
 * 8192 against one: 1 to 2 %.
 * Row r of a sequence is query r / group of head head_k * group + r % group. */
#define FAI_GRAD_TILE 256 /* keys; K^T, V^T, K, dK^T, dV^T of a tile are 640 KB at head dim 128 */
#define FAI_GRAD_TASKS 16
#define FAI_GRAD_PAD 128 /* spare rows behind a sequence, so that tiles of rows may pass its end */

typedef struct fai_grad_plan {
    int32_t group, heads_k, splits;
    int64_t rows;     /* of one head_k: all sequences with their pads */
    float *lse, *sum; /* (head_k, rows): lse in log2 units, NaN where q_i or dO_i is not finite; D = rowsum(dO o O) */
    float *dq;        /* (split, head_k, rows, head_dim) */
    int64_t *touched; /* (split, head_k, batch, 2): first row that the split has written, and the one behind the last */
    char *scratch;    /* one for each thread */
} fai_grad_plan;

static inline fai_grad_plan fai_plan_backward(const fa_args *a, int head_dim, void *workspace) {
    const int64_t tiles = ((int64_t)a->seqlen_k + FAI_GRAD_TILE - 1) / FAI_GRAD_TILE;
    const int64_t heads = (int64_t)a->batch * fai_num_heads_k(a), wanted = (FAI_GRAD_TASKS + heads - 1) / heads;
    const int64_t queries = a->cu_seqlens_q ? (int64_t)a->cu_seqlens_q[a->batch] - a->cu_seqlens_q[0]
                                            : (int64_t)a->batch * a->seqlen_q;
    uintptr_t at = ((uintptr_t)workspace + 63) & ~(uintptr_t)63;
    fai_grad_plan p;
    int64_t floats, most;
    p.heads_k = fai_num_heads_k(a), p.group = a->num_heads / p.heads_k;
    most = tiles >= 4 ? tiles / 2 : tiles > 1 ? tiles : 1;
    p.splits = (int32_t)(wanted < most ? wanted : most);
    p.rows = queries * p.group + (int64_t)a->batch * FAI_GRAD_PAD;
    floats = fai_mul(fai_mul(p.rows, p.heads_k), (int64_t)p.splits * head_dim);
    if (floats > INT64_MAX / 16) floats = INT64_MAX / 16; /* nobody has that much: the workspace is refused */
    p.dq = (float *)at, at += (size_t)floats * sizeof(float);
    p.lse = (float *)at, at += (size_t)(floats / head_dim / p.splits) * sizeof(float);
    p.sum = (float *)at, at += (size_t)(floats / head_dim / p.splits) * sizeof(float);
    at = (at + 63) & ~(uintptr_t)63;
    p.touched = (int64_t *)at, at += (size_t)p.splits * (size_t)heads * 2 * sizeof(int64_t);
    p.scratch = (char *)((at + 63) & ~(uintptr_t)63);
    return p;
}
/* First row of sequence b in the arrays above, for head_k 0. */
static inline int64_t fai_plan_row(const fai_grad_plan *p, const fa_args *a, int64_t b) {
    const int64_t queries = a->cu_seqlens_q ? (int64_t)a->cu_seqlens_q[b] - a->cu_seqlens_q[0] : b * a->seqlen_q;
    return queries * p->group + b * FAI_GRAD_PAD;
}
static inline int64_t *fai_plan_touched(const fai_grad_plan *p, const fa_args *a, int32_t split, int32_t head_k, int64_t b) {
    return p->touched + (((int64_t)split * p->heads_k + head_k) * a->batch + b) * 2;
}
/* The n-th tile of a split: there and back, so that under a causal mask all splits have as much to do. */
static inline int64_t fai_plan_tile(const fai_grad_plan *p, int32_t split, int64_t n) {
    return n * p->splits + (n % 2 ? p->splits - 1 - split : split);
}

/* ======================================================================================== */
/* >>combine  splits of the keys: who gets which, and the sum of partial results              */
/* ======================================================================================== */

FAI_HD static inline fa_range fai_cut(fa_range r, fa_range by) {
    if (r.lo < by.lo) r.lo = by.lo;
    if (r.hi > by.hi) r.hi = by.hi;
    if (r.lo > r.hi) r.lo = r.hi;
    return r;
}

/* Floats of the partial result of a row: O, then m, l and l as rounded; whole cache lines. */
#define FAI_PART(head_dim_v) ((head_dim_v) + 16)

/* One of the splits of a key/value head of a sequence. */
typedef struct fai_split {
    fa_range keys;
    int32_t number, count;
    int32_t heads; /* key/value heads from the task's on */
    int32_t alone; /* no row has a part in the rounding of another: no panels, chunks from keys.lo on */
    float *parts;  /* (head, row, split, FAI_PART); NULL if there is one split: it writes O */
} fai_split;

/* How a decode call is cut into tasks (batch, key/value head, block of rows, split). */
typedef struct fai_plan {
    int32_t unit;  /* most keys of a split */
    int32_t fixed; /* splits end at multiples of unit; else those of a sequence are equal */
    int32_t most;  /* splits of the longest sequence */
    int32_t rows;  /* of a task */
    int32_t heads; /* key/value heads of a task: several if a token's lie side by side, to read in order */
    int64_t blocks; /* of rows, of the longest sequence */
} fai_plan;

/* Keys that some query of the sequence sees. */
static inline fa_range fai_keys(const fa_args *a, const fa_sequence *s) {
    const fa_range none = {0, 0};
    return s->len_q ? fa_any_range(a, s->len_q, s->len_k, 0, s->len_q) : none;
}

/* Splits that are not fixed begin at multiples of this: of a chunk, and of a tile of 192 keys. */
#define FAI_GRAIN 192
/* Merging costs a row as much as 2 to 4 keys do, so with this many it is below 1 %. */
#define FAI_LEAST_KEYS 512
#define FAI_TEAM 4096 /* scores (row, key) below which a second thread costs more than it takes off */

static inline int32_t fai_count_splits(const fa_args *a, const fai_plan *p, const fa_sequence *s) {
    const fa_range r = fai_keys(a, s);
    if (r.lo >= r.hi) return 1;
    if (p->fixed) return (r.hi - 1) / p->unit - r.lo / p->unit + 1;
    return (r.hi - r.lo / FAI_GRAIN * FAI_GRAIN - 1) / p->unit + 1;
}

static inline fa_range fai_split_keys(const fa_args *a, const fai_plan *p, const fa_sequence *s,
                                      int32_t number, int32_t count) {
    fa_range r = fai_keys(a, s);
    int64_t begin = r.lo / FAI_GRAIN * FAI_GRAIN, each = p->unit, lo, hi;
    if (p->fixed)
        begin = r.lo / p->unit * (int64_t)p->unit;
    else
        each = ((r.hi - begin + count - 1) / count + FAI_GRAIN - 1) / FAI_GRAIN * FAI_GRAIN;
    lo = begin + number * each, hi = lo + each < r.hi ? lo + each : r.hi;
    r.hi = (int32_t)hi, r.lo = (int32_t)(lo < hi ? lo : hi);
    return r;
}

/* Few rows of as many heads as they may be together, if enough tasks are left. */
static inline int32_t fai_heads_together(const fa_args *a, int32_t threads, int64_t rows, int head_dim) {
    const fai_strides k = fai_strides_kv(a, &a->k, head_dim);
    const int64_t heads_k = fai_num_heads_k(a), splits = a->seqlen_k / (4 * FAI_LEAST_KEYS) + 1;
    int32_t heads = 64;
    if (k.h >= k.s || rows > 16) return 1;
    while (heads > 1 && (heads_k % heads || heads * rows > 64 ||
                         (threads > 1 && heads_k / heads * a->batch * splits < threads)))
        heads--;
    return heads;
}

/* args->split_keys, or splits that give each of `threads` threads the same number of keys.  block_m, spare: rows of a
 * forward task, and how many more it takes rather than leave them. */
static inline fai_plan fai_make_plan(const fa_args *a, int32_t threads, int32_t block_m, int32_t spare,
                                     int head_dim) {
    const int64_t group = a->num_heads / fai_num_heads_k(a), rows = a->seqlen_q * group;
    const int32_t sequences = fai_num_lengths(a);
    fai_plan p = {
        FA_MAX_SEQLEN, a->split_keys > 0, 1, block_m, fai_heads_together(a, threads, rows, head_dim), 1};
    int64_t tasks, keys = 0;
    if (p.fixed) p.unit = a->split_keys, p.rows = 64, spare = 0;
    p.blocks = rows <= p.rows + spare ? 1 : (rows - spare + p.rows - 1) / p.rows;
    tasks = (int64_t)a->batch * fai_num_heads_k(a) / p.heads * p.blocks;
    if (!p.fixed && threads > 1 && sequences == 1) { /* fewest splits that keep all busy 31/32 of the time */
        const fa_sequence s = fa_get_sequence(a, 0);
        const fa_range r = fai_keys(a, &s);
        const int64_t length = r.hi - r.lo / FAI_GRAIN * FAI_GRAIN;
        int64_t best = 1, best_idle = INT64_MAX; /* in 2^-20 of the time */
        for (int64_t n = 1; n == 1 || (n <= length / FAI_LEAST_KEYS && n * tasks <= 64 * (int64_t)threads);
             n++) {
            const int64_t rounds = (n * tasks + threads - 1) / threads;
            const int64_t idle = (int64_t)((1 - (double)(n * tasks) / ((double)rounds * threads)) * 1048576);
            if (idle < best_idle) best = n, best_idle = idle;
            if (best_idle <= 1048576 / 32) break;
        }
        if (best > 1) p.unit = (int32_t)((length + best - 1) / best);
    } else if (!p.fixed && threads > 1) { /* 8 tasks a thread, were they equal */
        for (int32_t b = 0; b < a->batch; b++) {
            const fa_sequence s = fa_get_sequence(a, b);
            const fa_range r = fai_keys(a, &s);
            keys += (int64_t)(r.hi - r.lo) * fai_num_heads_k(a) / p.heads * p.blocks;
        }
        keys = keys / threads / 8 + 1;
        if (keys < FA_MAX_SEQLEN) p.unit = keys > FAI_LEAST_KEYS ? (int32_t)keys : FAI_LEAST_KEYS;
    }
    for (int32_t b = 0; b < sequences; b++) {
        const fa_sequence s = fa_get_sequence(a, b);
        const int32_t count = fai_count_splits(a, &p, &s);
        if (count > p.most) p.most = count;
    }
    tasks = (int64_t)a->batch * fai_num_heads_k(a) / p.heads * p.most;
    if (p.fixed && tasks < threads && rows * a->seqlen_k >= FAI_TEAM) { /* rows are alone anyway: share them, too */
        p.rows = (int32_t)(((rows < p.rows ? rows : p.rows) * tasks + threads - 1) / threads);
        p.blocks = (rows + p.rows - 1) / p.rows;
    }
    return p;
}

/* Partial rows of the sequences before b; a sequence of one split has none. */
static inline int64_t fai_parts_before(const fa_args *a, const fai_plan *p, int32_t b) {
    const int32_t repeat = fai_num_lengths(a) == 1 ? b : 1, sequences = fai_num_lengths(a) == 1 ? b > 0 : b;
    int64_t n = 0;
    for (int32_t x = 0; p->most > 1 && x < sequences; x++) {
        const fa_sequence s = fa_get_sequence(a, x);
        const int32_t count = fai_count_splits(a, p, &s);
        if (count > 1) n = fai_add(n, fai_mul(fai_mul((int64_t)s.len_q * a->num_heads, count), repeat));
    }
    return n;
}

/* One of the results that fa_combine adds up: of the same queries over other keys. */
typedef struct fa_part {
    fa_tensor o; /* (batch, seqlen_q, num_heads, head_dim_v) */
    fa_tensor lse; /* f32; packed means (batch, num_heads, seqlen_q); -inf: no key seen, o is not read */
    fa_dtype dtype; /* of o: FA_F32 (also 0), FA_F16 or FA_BF16 */
} fa_part;

/* Zero-initialise it.  o and lse may be those of one of the parts, with the same strides and dtype: in place. */
typedef struct fa_combine_args {
    uint32_t first_canary;
    int32_t batch, num_heads, seqlen_q, head_dim_v;
    int32_t num_parts;
    fa_dtype o_dtype; /* FA_F32 (also 0), FA_F16 or FA_BF16 */
    const fa_part *parts;
    fa_tensor_out o, lse; /* lse.data NULL: not written */
    fa_error *error;      /* index: the part */
    uint32_t last_canary;
} fa_combine_args;

static inline fai_span fai_combine_span(const fa_combine_args *a, const void *data, int64_t b, int64_t s,
                                        int64_t h, int lse, fa_dtype dtype, fai_kind kind) {
    const int part = kind == FAI_INPUT;
    fai_span r = {data,
                  {"o.data", "o.stride_b", "o.stride_s", "o.stride_h"},
                  part ? FA_ERR_PART_ALIGN : FA_ERR_O_ALIGN,
                  part ? FA_ERR_PART_STRIDE : FA_ERR_O_STRIDE,
                  kind,
                  (int64_t)fa_sizeof(dtype),
                  a->head_dim_v,
                  {a->batch, a->seqlen_q, a->num_heads},
                  {b, s, h},
                  0};
    if (lse) { /* packed: seq is the fast axis */
        r.field[0] = "lse.data", r.field[1] = "lse.stride_b", r.field[2] = "lse.stride_h",
        r.field[3] = "lse.stride_s";
        r.size[1] = a->num_heads, r.size[2] = a->seqlen_q, r.stride[1] = h, r.stride[2] = s, r.row = 1;
        if (!part) r.bad_align = FA_ERR_LSE_ALIGN, r.bad_stride = FA_ERR_LSE_STRIDE;
    }
    return r;
}

/* 1 if x and y are the same elements in the same places. */
static inline int fai_same_span(const fai_span *x, const fai_span *y) {
    int same = x->data == y->data && x->element == y->element && x->row == y->row;
    for (int n = 0; n < 3; n++) same &= x->size[n] <= 1 || x->stride[n] == y->stride[n];
    return same;
}

/* Is args a sum that fa_combine can do?  Reads the array of parts, none of their data. */
FAI_NOINLINE fa_status fa_combine_check(const fa_combine_args *args) {
    fai_problem p;
    fa_args dummy;
    if (!args) return FA_ERR_ARGS_NULL;
    if (args->first_canary || args->last_canary) return FA_ERR_NOT_ZEROED;
    memset(&dummy, 0, sizeof dummy), memset(&p, 0, sizeof p);
    dummy.error = args->error, p.args = &dummy, p.pass = FA_FORWARD;
    fai_range(&p, FA_ERR_BATCH, "batch", args->batch, 1, INT32_MAX);
    fai_range(&p, FA_ERR_NUM_HEADS, "num_heads", args->num_heads, 1, INT32_MAX);
    fai_range(&p, FA_ERR_SEQLEN_Q, "seqlen_q", args->seqlen_q, 1, FA_MAX_SEQLEN);
    fai_range(&p, FA_ERR_COMBINE_DIM, "head_dim_v", args->head_dim_v, 1, 65536);
    fai_range(&p, FA_ERR_SIZE_OVERFLOW, "batch * num_heads * seqlen_q",
              (double)args->batch * args->num_heads * args->seqlen_q, 1, 0x1p62);
    fai_range(&p, FA_ERR_COMBINE_DTYPE, "o_dtype", args->o_dtype, 0, FA_BF16);
    fai_range(&p, FA_ERR_NUM_PARTS, "num_parts", args->num_parts, 1, INT32_MAX);
    if (p.status == FA_OK && !args->parts) fai_bad(&p, FA_ERR_NUM_PARTS, "parts", -1, 0, 1, 0);
    if (p.status == FA_OK && !args->o.data) fai_bad(&p, FA_ERR_O_NULL, "o.data", -1, 0, 1, 0);
    if (p.status != FA_OK) return p.status;
    const fa_dtype o_dtype = args->o_dtype ? args->o_dtype : FA_F32;
    fai_add_span(&p, fai_combine_span(args, args->o.data, args->o.stride_b, args->o.stride_s,
                                      args->o.stride_h, 0, o_dtype, FAI_OUTPUT));
    fai_add_span(&p, fai_combine_span(args, args->lse.data, args->lse.stride_b, args->lse.stride_s,
                                      args->lse.stride_h, 1, FA_F32, FAI_OUTPUT));
    const int outputs = p.count;
    if (p.status == FA_OK && outputs > 1 && fai_overlap(&p.span[0], &p.span[1]))
        fai_bad(&p, FA_ERR_LSE_OVERLAP, "o.data", -1, NAN, 1, 0);
    for (int32_t n = 0; n < args->num_parts && p.status == FA_OK; n++) {
        const fa_part *part = &args->parts[n];
        const fa_dtype dtype = part->dtype ? part->dtype : FA_F32;
        p.count = outputs;
        if (!part->o.data || !part->lse.data)
            fai_bad(&p, FA_ERR_PART_NULL, part->o.data ? "lse.data" : "o.data", n, 0, 1, 0);
        if (!(dtype >= FA_F32 && dtype <= FA_BF16))
            fai_bad(&p, FA_ERR_PART_DTYPE, "dtype", n, dtype, 0, FA_BF16);
        fai_add_span(&p, fai_combine_span(args, part->o.data, part->o.stride_b, part->o.stride_s,
                                          part->o.stride_h, 0, dtype, FAI_INPUT));
        fai_add_span(&p, fai_combine_span(args, part->lse.data, part->lse.stride_b, part->lse.stride_s,
                                          part->lse.stride_h, 1, FA_F32, FAI_INPUT));
        if (p.status != FA_OK && args->error) args->error->index = n;
        for (int i = 0; i < outputs && p.status == FA_OK; i++)
            for (int x = outputs; x < p.count && p.status == FA_OK; x++)
                if (fai_overlap(&p.span[i], &p.span[x]) && !fai_same_span(&p.span[i], &p.span[x]))
                    fai_bad(&p, i ? FA_ERR_LSE_OVERLAP : FA_ERR_O_OVERLAP, p.span[x].field[0], n, NAN, 1, 0);
    }
    return p.status == FA_OK ? fai_fail(&dummy, FA_OK, "", -1, 0, 0, 0) : p.status;
}

/* x[0 .. n) += weight * data[at ..] */
static inline void fai_combine_add(float *x, float weight, const void *data, int64_t at, fa_dtype dtype,
                                   int32_t n) {
    switch (dtype) { /* fa_load of a constant dtype is a few instructions */
    case FA_F16:
        for (int32_t d = 0; d < n; d++) x[d] += weight * fa_load(data, at + d, FA_F16);
        break;
    case FA_BF16:
        for (int32_t d = 0; d < n; d++) x[d] += weight * fa_load(data, at + d, FA_BF16);
        break;
    default:
        for (int32_t d = 0; d < n; d++) x[d] += weight * fa_load(data, at + d, FA_F32);
    }
}

/* The result over all keys from results over disjoint sets of them (ring attention, shared prefixes, splits of one's own):
 *     lse = log(sum_n exp lse_n)      o = sum_n exp(lse_n - lse) o_n
 * A part whose lse is -inf adds nothing, even if its o is NaN; if all are, o = 0 and lse = -inf.  A sink belongs in one of
 * the parts alone.  Nothing is written unless the result is FA_OK.  Re-entrant. */
FAI_NOINLINE fa_status fa_combine(const fa_combine_args *args) {
    enum { PIECE = 256 }; /* dims at a time: in place, all parts are read before they are written */
    const fa_status status = fa_combine_check(args);
    const fa_combine_args *a = args;
    if (status != FA_OK) return status;
    const fa_dtype o_dtype = a->o_dtype ? a->o_dtype : FA_F32;
    const fai_strides so =
        fai_resolve(a->o.stride_b, a->o.stride_s, a->o.stride_h, a->seqlen_q, a->num_heads, a->head_dim_v);
    /* as (batch, head, seq): a row of lse is a head */
    const fai_strides sl =
        fai_resolve(a->lse.stride_b, a->lse.stride_h, a->lse.stride_s, a->num_heads, a->seqlen_q, 1);
    for (int64_t row = 0; row < (int64_t)a->batch * a->num_heads * a->seqlen_q; row++) {
        const int64_t i = row % a->seqlen_q, h = row / a->seqlen_q % a->num_heads,
                      b = row / a->seqlen_q / a->num_heads;
        double max = -(double)INFINITY, sum = 0, lse;
        for (int pass = 0; pass < 2; pass++)
            for (int32_t n = 0; n < a->num_parts; n++) {
                const fa_tensor *t = &a->parts[n].lse;
                const fai_strides s =
                    fai_resolve(t->stride_b, t->stride_h, t->stride_s, a->num_heads, a->seqlen_q, 1);
                const double x = (double)((const float *)t->data)[b * s.b + h * s.s + i * s.h];
                if (pass)
                    sum += x > -(double)INFINITY || x != x ? exp(x - max) : 0;
                else if (x > max)
                    max = x;
            }
        lse = sum > 0 || sum != sum ? max + log(sum) : -(double)INFINITY;
        for (int32_t d = 0; d < a->head_dim_v; d += PIECE) {
            const int32_t dims = a->head_dim_v - d < PIECE ? a->head_dim_v - d : PIECE;
            float o[PIECE] = {0};
            for (int32_t n = 0; n < a->num_parts; n++) {
                const fa_part *t = &a->parts[n];
                const fai_strides sp = fai_resolve(t->lse.stride_b, t->lse.stride_h, t->lse.stride_s,
                                                   a->num_heads, a->seqlen_q, 1);
                const fai_strides s = fai_resolve(t->o.stride_b, t->o.stride_s, t->o.stride_h, a->seqlen_q,
                                                  a->num_heads, a->head_dim_v);
                const double x = (double)((const float *)t->lse.data)[b * sp.b + h * sp.s + i * sp.h];
                if (x > -(double)INFINITY || x != x)
                    fai_combine_add(o, (float)exp(x - lse), t->o.data, b * s.b + i * s.s + h * s.h + d,
                                    t->dtype, dims);
            }
            for (int32_t e = 0; e < dims; e++)
                fa_store(a->o.data, b * so.b + i * so.s + h * so.h + d + e, o_dtype, o[e]);
        }
        if (a->lse.data) ((float *)a->lse.data)[b * sl.b + h * sl.s + i * sl.h] = (float)lse;
    }
    return FA_OK;
}

/* ======================================================================================== */
/* >>reference  attention as the paper writes it, in double: what every kernel must agree with */
/* ======================================================================================== */

/* Standard attention [FA1 Alg. 0], one row of S at a time: no tiles, no online softmax.  For
 * sequence b, query head h, query i, and the visible keys j of kv head
 * hk = h / (num_heads / num_heads_k):
 *
 *     S_ij  = score(softmax_scale q_i.k_j)          softcap, ALiBi, bias, score_mod, in this order
 *     lse_i = log(sum_j exp S_ij  [+ exp sink_h])   natural log
 *     P_ij  = exp(S_ij - lse_i)
 *     O_i   = sum_j Z_ij P_ij v_j                   Z: dropout, 0 or 1/(1-p)
 *
 * and from dO [FA1 Alg. 3, FA2 section 2.3]
 *
 *     dP_ij = Z_ij dO_i.v_j              dV_j     = sum_i Z_ij P_ij dO_i
 *     D_i   = sum_j P_ij dP_ij           dsink_h  = -sum_i exp(sink_h - lse_i) D_i
 *     dS_ij = P_ij (dP_ij - D_i)         dbias_ij = dS_ij score_mod'
 *     dQ_i  = sum_j dS_ij S'_ij k_j      dK_j     = sum_i dS_ij S'_ij q_i
 *
 * where S'_ij is the slope of S_ij in q_i.k_j.  q, k, v: the stored elements times their descale
 * factors.  A masked key is not looked at, nor is the value of a key with P_ij = 0 or Z_ij = 0.
 * For tests, and to read. */

#define FAI_ANY_PASS (FA_FORWARD | FA_BACKWARD | FA_DECODE)

/* x[0 .. n) = data[at .. at + n) */
static inline void fai_load_row(double *x, const void *data, int64_t at, fa_dtype dtype, int32_t n) {
    switch (dtype) { /* fa_load of a constant dtype is a few instructions */
    case FA_F32:
        for (int32_t d = 0; d < n; d++) x[d] = (double)fa_load(data, at + d, FA_F32);
        break;
    case FA_F16:
        for (int32_t d = 0; d < n; d++) x[d] = (double)fa_load(data, at + d, FA_F16);
        break;
    case FA_BF16:
        for (int32_t d = 0; d < n; d++) x[d] = (double)fa_load(data, at + d, FA_BF16);
        break;
    case FA_E4M3:
        for (int32_t d = 0; d < n; d++) x[d] = (double)fa_load(data, at + d, FA_E4M3);
        break;
    default:
        for (int32_t d = 0; d < n; d++) x[d] = (double)fa_load(data, at + d, dtype);
    }
}

/* x.y; n is a multiple of 4.  Four sums: one would be a chain of additions, each waiting. */
static inline double fai_dot(const double *x, const double *y, int32_t n) {
    double a = 0, b = 0, c = 0, d = 0;
    for (int32_t i = 0; i < n; i += 4) {
        a += x[i] * y[i], b += x[i + 1] * y[i + 1];
        c += x[i + 2] * y[i + 2], d += x[i + 3] * y[i + 3];
    }
    return (a + b) + (c + d);
}

/* y += a x */
static inline void fai_axpy(double *y, double a, const double *x, int32_t n) {
    for (int32_t d = 0; d < n; d++) y[d] += a * x[d];
}

/* Masks that are no range of keys (those: fa_row_range). */
static inline int fa_reference_visible(const fa_info *info, const fa_args *args, const fa_sequence *seq,
                                       int32_t h, int32_t i, int32_t j) {
    if (args->block_mask.data && !fa_block_visible(args, seq, h, i, j)) return 0;
    if (args->tree_mask.data && !fa_tree_visible(args, seq, i, j)) return 0;
    return !info->mask_mod || info->mask_mod(seq->b, h, i, j);
}

/* S_ij from s = softmax_scale q_i.k_j.  Also its derivatives by s and by the bias, unless NULL; they
 * are NaN if there is a score_mod without score_mod_grad. */
static inline double fa_reference_score(const fa_info *info, const fa_args *args, const fa_sequence *seq,
                                        int32_t h, int32_t i, int32_t j, double s, double *by_s,
                                        double *by_bias) {
    double slope = 1, slope_mod = 1;
    if (args->softcap > 0) {
        double t = tanh(s / (double)args->softcap);
        s = (double)args->softcap * t, slope = 1 - t * t;
    }
    if (args->alibi_slopes) {
        double distance = fabs((double)i + seq->len_k - seq->len_q - j);
        s -= (double)args->alibi_slopes[seq->b * args->alibi_stride_b + h] * distance;
    }
    if (args->bias.data) {
        fai_strides st = fai_strides_bias(args);
        fa_dtype dtype = args->bias.dtype ? args->bias.dtype : FA_F32;
        s += (double)fa_load(args->bias.data, seq->b * st.b + h * st.h + i * st.s + j, dtype);
    }
    if (info->score_mod) {
        if (by_s || by_bias) slope_mod = (double)NAN;
        if (info->score_mod_grad) slope_mod = info->score_mod_grad(s, seq->b, h, i, j);
        s = info->score_mod(s, seq->b, h, i, j);
    }
    if (by_s) *by_s = slope_mod * slope;
    if (by_bias) *by_bias = slope_mod;
    return s;
}

/* One head of one sequence, and where its rows are. */
typedef struct fai_reference_head {
    const fa_info *info;
    const fa_args *args;
    fa_sequence seq;
    int32_t h, hk;
    fai_strides st_q, st_k, st_v;
    double scale; /* softmax_scale */
} fai_reference_head;

static inline fai_reference_head fai_reference_begin(const fa_info *info, const fa_args *args, int32_t b,
                                                     int32_t h) {
    fai_reference_head r;
    r.info = info, r.args = args, r.seq = fa_get_sequence(args, b);
    r.h = h, r.hk = h / (args->num_heads / fai_num_heads_k(args));
    r.st_q = fai_strides_q(args, info->head_dim);
    r.st_k = fai_strides_kv(args, &args->k, info->head_dim);
    r.st_v = fai_strides_kv(args, &args->v, info->head_dim_v);
    r.scale = (double)args->softmax_scale;
    if (r.scale == 0) r.scale = 1 / sqrt((double)info->head_dim);
    return r;
}

/* stored elements of q_i, k_j, v_j */
static inline void fai_reference_q(const fai_reference_head *r, int32_t i, double *q) {
    int64_t at = fai_offset_q(&r->seq, r->st_q, i, r->h);
    fai_load_row(q, r->args->q.data, at, r->info->dtype, r->info->head_dim);
}
static inline void fai_reference_k(const fai_reference_head *r, int32_t j, double *k) {
    int64_t at = fai_offset_k(r->args, &r->seq, r->st_k, j, r->hk);
    fai_load_row(k, r->args->k.data, at, r->info->kv_dtype, r->info->head_dim);
}
static inline void fai_reference_v(const fai_reference_head *r, int32_t j, double *v) {
    int64_t at = fai_offset_k(r->args, &r->seq, r->st_v, j, r->hk);
    fai_load_row(v, r->args->v.data, at, r->info->kv_dtype, r->info->head_dim_v);
}
/* softmax_scale with the factors of q_i and k_j; the factor of v_j */
static inline double fai_reference_scale(const fai_reference_head *r, int32_t i, int32_t j) {
    return r->scale * (double)fai_descale(r->args, &r->args->q_descale, r->seq.b, r->h, i) *
           (double)fai_descale(r->args, &r->args->k_descale, r->seq.b, r->hk, j);
}
static inline double fai_reference_scale_v(const fai_reference_head *r, int32_t j) {
    return (double)fai_descale(r->args, &r->args->v_descale, r->seq.b, r->hk, j);
}
/* Z_ij */
static inline double fai_reference_dropout(const fai_reference_head *r, int32_t i, int32_t j) {
    if (!(r->args->dropout_p > 0)) return 1;
    if (!fa_dropout_keep(r->args, r->seq.b, r->h, i, j)) return 0;
    return (double)fa_dropout_scale(r->args->dropout_p);
}

/* p[j] = P_ij for the keys in range, 0 where masked; the rest of p is not touched.  Returns lse_i.
 * q: row of query i.  k: room for a row. */
static inline double fai_reference_softmax(const fai_reference_head *r, int32_t i, fa_range keys,
                                           const double *q, double *k, double *p) {
    double max = r->args->sink ? (double)r->args->sink[r->h] : -(double)INFINITY, sum;
    for (int32_t j = keys.lo; j < keys.hi; j++) {
        p[j] = -(double)INFINITY;
        if (!fa_reference_visible(r->info, r->args, &r->seq, r->h, i, j)) continue;
        fai_reference_k(r, j, k);
        p[j] = fai_reference_scale(r, i, j) * fai_dot(q, k, r->info->head_dim);
        p[j] = fa_reference_score(r->info, r->args, &r->seq, r->h, i, j, p[j], NULL, NULL);
        if (!(p[j] <= max) && !isnan(max)) max = p[j]; /* NaN is the largest */
    }
    if (isinf(max) && max < 0) { /* nothing visible: exp(-inf - -inf) would be NaN */
        for (int32_t j = keys.lo; j < keys.hi; j++) p[j] = 0;
        return max;
    }
    sum = r->args->sink ? exp((double)r->args->sink[r->h] - max) : 0;
    for (int32_t j = keys.lo; j < keys.hi; j++) /* not of what is masked if max is NaN */
        sum += p[j] = isinf(p[j]) && p[j] < 0 ? 0 : exp(p[j] - max);
    for (int32_t j = keys.lo; j < keys.hi; j++) p[j] = p[j] == 0 ? 0 : p[j] / sum;
    return max + log(sum);
}

/* Row of query i (of key j) in a packed (batch, seqlen, ..) or (total, ..) tensor. */
FAI_HD static inline int64_t fai_packed_q(const fa_args *args, const fa_sequence *seq, int64_t i) {
    return seq->b_q * args->seqlen_q + seq->row_q + i;
}
static inline int64_t fai_packed_k(const fa_args *args, const fa_sequence *seq, int64_t j) {
    return seq->b_k * args->seqlen_k + seq->row_k + j;
}

/* o:   (batch, seqlen_q, num_heads, head_dim_v), with cu_seqlens_q (total_q, num_heads, head_dim_v)
 * lse: (batch, num_heads, seqlen_q),             with cu_seqlens_q (num_heads, total_q)
 * row: scratch of seqlen_k + 2 * max(head_dim, head_dim_v) doubles: seqlen_k + 2*256 always do
 * o or lse may be NULL.  args->o and args->lse are not written, nor are rows from seqused_q on. */
FAI_NOINLINE fa_status fa_reference_forward(const fa_info *info, const fa_args *args, double *o, double *lse,
                                            double *row) {
    fa_status status = fa_check_pass(info, args, FAI_ANY_PASS);
    if (status) return status;
    int32_t dim_v = info->head_dim_v, heads = args->num_heads;
    int64_t length = args->cu_seqlens_q ? args->cu_seqlens_q[args->batch] : args->seqlen_q;
    double *p = row, *q = p + args->seqlen_k, *kv = q + info->head_dim;
    for (int64_t head = 0; head < (int64_t)args->batch * heads; head++) {
        int32_t b = (int32_t)(head / heads), h = (int32_t)(head % heads);
        fai_reference_head r = fai_reference_begin(info, args, b, h);
        for (int32_t i = 0; i < r.seq.len_q; i++) {
            fa_range keys = fa_row_range(args, r.seq.len_q, r.seq.len_k, i);
            fai_reference_q(&r, i, q);
            double lse_i = fai_reference_softmax(&r, i, keys, q, kv, p);
            if (lse) lse[(r.seq.b_q * heads + h) * length + r.seq.row_q + i] = lse_i;
            if (!o) continue;
            double *o_i = o + (fai_packed_q(args, &r.seq, i) * heads + h) * dim_v;
            for (int32_t d = 0; d < dim_v; d++) o_i[d] = 0;
            for (int32_t j = keys.lo; j < keys.hi; j++) { /* O_i += Z_ij P_ij v_j */
                double zp = p[j] == 0 ? 0 : p[j] * fai_reference_dropout(&r, i, j);
                if (zp == 0) continue;
                fai_reference_v(&r, j, kv);
                fai_axpy(o_i, zp * fai_reference_scale_v(&r, j), kv, dim_v);
            }
        }
    }
    return FA_OK;
}

/* Where gradients go; any may be NULL.  All are packed, written whole, and 0 where nothing flows.
 * With respect to the stored elements: for fp8 the gradient of the value times the descale factor. */
typedef struct fa_reference_grads {
    double *dq;    /* (batch, seqlen_q, num_heads, head_dim), with cu_seqlens_q (total_q, ..) */
    double *dk;    /* (batch, seqlen_k, num_heads_k, head_dim), with cu_seqlens_k (total_k, ..); */
    double *dv;    /* the same with head_dim_v; paged: by position in the sequence, not by page */
    double *dbias; /* (batch, num_heads, seqlen_q, seqlen_k); sum it over what the bias broadcasts */
    double *dsink; /* (num_heads) */
} fa_reference_grads;

static inline void fai_reference_clear(double *x, int64_t n) {
    for (int64_t i = 0; x && i < n; i++) x[i] = 0;
}

/* Adds what query i contributes.  d_o: dO_i.  p, dp: room for seqlen_k.  q, k, v: room for a row. */
static inline void fai_reference_backward_row(const fai_reference_head *r, int32_t i, const double *d_o,
                                              const fa_reference_grads *g, double *p, double *dp, double *q,
                                              double *k, double *v) {
    const fa_args *args = r->args;
    const fa_sequence *seq = &r->seq;
    int32_t h = r->h, dim = r->info->head_dim, dim_v = r->info->head_dim_v;
    int64_t head_q = fai_packed_q(args, seq, i) * args->num_heads + h; /* row of dq */
    int64_t heads_k = fai_num_heads_k(args);
    double *dbias = g->dbias, lse, d_i = 0;
    fa_range keys = fa_row_range(args, seq->len_q, seq->len_k, i);
    if (dbias) dbias += (((int64_t)seq->b * args->num_heads + h) * args->seqlen_q + i) * args->seqlen_k;
    fai_reference_q(r, i, q);
    lse = fai_reference_softmax(r, i, keys, q, k, p);
    for (int32_t j = keys.lo; j < keys.hi; j++) { /* dP_ij, D_i, dV_j */
        double z = p[j] == 0 ? 0 : fai_reference_dropout(r, i, j);
        dp[j] = 0;
        if (z == 0) continue;
        z *= fai_reference_scale_v(r, j);
        fai_reference_v(r, j, v);
        dp[j] = z * fai_dot(d_o, v, dim_v);
        d_i += p[j] * dp[j];
        if (g->dv) {
            int64_t head_k = fai_packed_k(args, seq, j) * heads_k + r->hk;
            fai_axpy(g->dv + head_k * dim_v, z * p[j], d_o, dim_v);
        }
    }
    if (g->dsink && args->sink && d_i != 0) g->dsink[h] -= exp((double)args->sink[h] - lse) * d_i;
    for (int32_t j = keys.lo; j < keys.hi; j++) { /* dS_ij, dQ_i, dK_j */
        double ds = p[j] * (dp[j] - d_i), slope, slope_bias, scale = fai_reference_scale(r, i, j);
        int64_t head_k = fai_packed_k(args, seq, j) * heads_k + r->hk; /* row of dk */
        if (p[j] == 0) continue;
        fai_reference_k(r, j, k);
        fa_reference_score(r->info, args, seq, h, i, j, scale * fai_dot(q, k, dim), &slope, &slope_bias);
        if (dbias) dbias[j] = ds * slope_bias;
        if (g->dq) fai_axpy(g->dq + head_q * dim, ds * slope * scale, k, dim);
        if (g->dk) fai_axpy(g->dk + head_k * dim, ds * slope * scale, q, dim);
    }
}

/* d_o: shape and strides as o, in info->o_dtype.  S, P and D are computed again, not read.
 * row: scratch of 2 * (seqlen_k + head_dim + head_dim_v) doubles: 2*seqlen_k + 4*256 always do */
FAI_NOINLINE fa_status fa_reference_backward(const fa_info *info, const fa_args *args, fa_tensor d_o,
                                             const fa_reference_grads *grads, double *row) {
    fa_status status = fa_check_pass(info, args, FAI_ANY_PASS);
    if (status) return status;
    int32_t dim = info->head_dim, dim_v = info->head_dim_v, heads = args->num_heads;
    int64_t n = args->batch, heads_k = fai_num_heads_k(args);
    int64_t rows_q = args->cu_seqlens_q ? args->cu_seqlens_q[n] : n * args->seqlen_q;
    int64_t rows_k = args->cu_seqlens_k ? args->cu_seqlens_k[n] : n * args->seqlen_k;
    double *p = row, *dp = p + args->seqlen_k;
    double *q = dp + args->seqlen_k, *k = q + dim, *v = k + dim, *d_row = v + dim_v;
    fai_strides st = fai_resolve(d_o.stride_b, d_o.stride_s, d_o.stride_h, args->seqlen_q, heads, dim_v);
    fai_reference_clear(grads->dq, rows_q * heads * dim);
    fai_reference_clear(grads->dk, rows_k * heads_k * dim);
    fai_reference_clear(grads->dv, rows_k * heads_k * dim_v);
    fai_reference_clear(grads->dbias, n * heads * args->seqlen_q * args->seqlen_k);
    fai_reference_clear(grads->dsink, heads);
    for (int64_t head = 0; head < n * heads; head++) {
        int32_t b = (int32_t)(head / heads), h = (int32_t)(head % heads);
        fai_reference_head r = fai_reference_begin(info, args, b, h);
        for (int32_t i = 0; i < r.seq.len_q; i++) {
            fai_load_row(d_row, d_o.data, fai_offset_q(&r.seq, st, i, h), info->o_dtype, dim_v);
            fai_reference_backward_row(&r, i, d_row, grads, p, dp, q, k, v);
        }
    }
    return FA_OK;
}

/* ======================================================================================== */
/* >>iomodel  bytes to and from device memory, of standard attention and of FlashAttention    */
/* ======================================================================================== */

/* Bytes of one head: e bytes an element, M elements of on-chip memory, N queries (Nq) and keys (Nk).
 * No cache is counted: one that keeps K and V leaves something between bytes_minimum and bytes_flash.
 *
 *   standard, forward   [FA1 Alg. 0]  Q K -> S;  S -> P;  P V -> O
 *       e ((Nq + Nk) (d + dv) + 4 Nq Nk)
 *   standard, backward  [FA1 Alg. 3]  P dO -> dV;  dO V -> dP;  P dP -> dS;  dS K -> dQ;  dS Q -> dK
 *       e (2 (Nq + Nk) (d + dv) + 7 Nq Nk)
 *   flash, forward      [FA2 Alg. 1]  Q, O and LSE once; K and V again for each tile of queries
 *       e Nq (d + dv) + 4 Nq + sum over query tiles: e (d + dv) keys in the tiles it visits
 *   flash, backward     [FA2 Alg. 2]  D = rowsum(dO O);  K, V, dK, dV once;  for each tile visited, its
 *       rows of Q, dO, LSE, D and dQ; dQ is summed in f32, cleared before and converted after
 *       2e Nq dv + 4 Nq + 2e Nk (d + dv) + (8 + e) Nq d + sum over tiles: rows (e (d + dv) + 8 + 8 d)
 *
 * [FA1] Theorem 2: standard attention makes Theta(N d + N^2) accesses, FlashAttention
 * Theta(N^2 d^2 / M), for d <= M <= N d.  A tile is skipped if the causal mask (bottom-right) leaves
 * nothing of it. */
typedef struct fa_io {
    double flops; /* each visible score costs 2 (d + dv), in the backward pass 6 d + 4 dv */
    double bytes_standard, bytes_flash;
    double bytes_minimum;               /* every tensor once */
    double order_standard, order_flash; /* elements: N d + N^2 and N^2 d^2 / M */
    int64_t tiles_full;                 /* of one head: every score of it is visible */
    int64_t tiles_partial;              /* cut by the causal line or the end of the keys: needs a mask */
    int64_t tiles_skipped;
} fa_io;

/* how many of n keys a query at position p sees */
static inline int64_t fai_io_keys(int causal, int64_t p, int64_t n) {
    if (!causal) return n;
    return p < 0 ? 0 : p < n ? p + 1 : n;
}

static inline fa_io fa_io_model(int64_t batch, int64_t heads, int64_t seqlen_q, int64_t seqlen_k,
                                int64_t head_dim, int64_t head_dim_v, int64_t element_bytes, int causal,
                                int64_t block_m, int64_t block_n, int64_t sram_bytes, int backward) {
    fa_io io = {0, 0, 0, 0, 0, 0, 0, 0, 0};
    double n = (double)(batch * heads), e = (double)element_bytes;
    double d = (double)head_dim, dv = (double)head_dim_v, nq = (double)seqlen_q, nk = (double)seqlen_k;
    double scores = 0, keys = 0, rows = 0; /* visible; keys and rows of the tiles visited */
    int64_t tiles_n = (seqlen_k + block_n - 1) / block_n, shift = seqlen_k - seqlen_q;
    for (int64_t i = 0; i < seqlen_q; i += block_m) { /* tiles of queries i .. end-1 */
        int64_t end = i + block_m < seqlen_q ? i + block_m : seqlen_q;
        int64_t last = fai_io_keys(causal, end - 1 + shift, seqlen_k);
        int64_t visited = (last + block_n - 1) / block_n;
        int64_t full = fai_io_keys(causal, i + shift, seqlen_k) / block_n;
        io.tiles_full += full, io.tiles_partial += visited - full;
        io.tiles_skipped += tiles_n - visited;
        keys += visited < tiles_n ? (double)(visited * block_n) : nk;
        rows += (double)(visited * (end - i));
        for (int64_t r = i; r < end; r++) scores += (double)fai_io_keys(causal, r + shift, seqlen_k);
    }
    io.order_standard = n * (nq * d + nq * nk);
    io.order_flash = n * nq * nk * d * d * e / (double)sram_bytes;
    if (!backward) {
        io.flops = n * scores * 2 * (d + dv);
        io.bytes_minimum = n * (e * (nq + nk) * (d + dv) + 4 * nq);
        io.bytes_standard = n * e * ((nq + nk) * (d + dv) + 4 * nq * nk);
        io.bytes_flash = n * (e * (nq + keys) * (d + dv) + 4 * nq);
    } else {
        io.flops = n * scores * (6 * d + 4 * dv);
        io.bytes_minimum = n * (2 * e * (nq + nk) * (d + dv) + 4 * nq);
        io.bytes_standard = n * e * (2 * (nq + nk) * (d + dv) + 7 * nq * nk);
        io.bytes_flash = n * (2 * e * nq * dv + 4 * nq + 2 * e * nk * (d + dv) + (8 + e) * nq * d +
                              rows * (e * (d + dv) + 8 + 8 * d));
    }
    return io;
}

/* ======================================================================================== */
/* >>cache    rows into a KV cache, rotary embedding, keeping the accepted rows of a draft    */
/* ======================================================================================== */

/* The calls of this section work on the cache that attention reads through fa_args.  They run in the
 * calling thread, memory-bound; calls on different sequences may run side by side.  Argument structs
 * are zero-initialised like fa_args; nothing is written unless the status is FA_OK, but for *error.
 *
 * Quantised caches (fp8, int8): value = code * factor, codes are rounded to nearest even and saturate.
 *   block 0    factors are the caller's, and read.
 *   block 1    each row and head has a factor of its own, written with the row: absmax / 127 for int8,
 *              / 448 for e4m3, / 57344 for e5m2.  A row of zeros has factor 0.
 *   block n    n rows share a factor.  Their first row starts it afresh, as above.  A later row that
 *              needs a larger one makes it grow, and the codes of the rows before it in the block are
 *              rounded again to the new factor: each growth adds up to half a step to their error.
 *              It never shrinks.  Rows behind the last one appended are void.
 * Rows are taken one after the other: the same rows give the same bits in one call or in many.
 * Infinite elements become the largest code, and count as FLT_MAX for the factor.  NaN does not count
 * for the factor and becomes NaN in fp8, 0 in int8. */

/* Factors of a cache: layout as in fa_descale.  Written if block >= 1, else read. */
typedef struct fa_descale_out {
    float *data;
    int64_t stride_b, stride_h, stride_block;
    int32_t block, paged;
} fa_descale_out;

/* A KV cache: what fa_args says about K and V, writable. */
typedef struct fa_cache {
    int32_t batch, num_heads_k;
    int32_t seqlen_k;             /* rows that each sequence has room for */
    int32_t head_dim, head_dim_v; /* 1 .. 256 */
    fa_dtype dtype;
    fa_tensor_out k;            /* (batch, seqlen_k, num_heads_k, head_dim); paged: (num_pages, page_size, ..) */
    fa_tensor_out v;            /* the same with head_dim_v.  Either may be absent (data NULL) */
    const int32_t *block_table; /* (batch, block_table_stride), as in fa_args; pages without rows in use are not read */
    int64_t block_table_stride; /* 0 = ceil(seqlen_k / page_size) */
    int32_t page_size, num_pages;
    fa_descale_out k_descale, v_descale;
} fa_cache;

/* Rotary embedding [Su et al. 2021, RoFormer, arXiv 2104.09864] of the first `dim` elements of a row at
 * position p:  (x, y) -> (x cos - y sin, y cos + x sin)  with cos[p][i], sin[p][i] for pair i.
 * Products are exact in double, their sum is rounded to double, then to f32, then to the dtype: the same
 * bits on every compiler that has IEEE doubles, with or without fused multiply-add. */
typedef struct fa_rope {
    const float *cos, *sin;   /* (count, dim/2): see fa_rotary_table */
    int32_t count;            /* positions in the tables */
    int32_t dim;              /* even, 2 .. head_dim; 0 with cos and sin NULL: no rotation */
    int32_t interleaved;      /* 0: pair i is elements i and i + dim/2 (NeoX);  1: 2i and 2i + 1 (GPT-J) */
    int32_t per_row;          /* 1: positions has one for each row */
    const int32_t *positions; /* (batch): of the first row of each sequence; per_row (token trees): (batch, seqlen),
                                 with cu_seqlens (total); NULL: the row in the cache for K, 0 for the first query */
} fa_rope;

/* New rows for a cache.  Zero-initialise it. */
typedef struct fa_append_args {
    uint32_t first_canary;
    fa_cache cache;
    fa_dtype dtype;                 /* of k and v: FA_F32, FA_F16 or FA_BF16 */
    int32_t seqlen_new;             /* rows of a sequence, at most */
    fa_tensor k;                    /* (batch, seqlen_new, num_heads_k, head_dim); data NULL: K is left alone */
    fa_tensor v;                    /* (batch, seqlen_new, num_heads_k, head_dim_v); data NULL: V is left alone */
    const int32_t *cu_seqlens_new;  /* (batch + 1): sequence b is rows cu[b] .. cu[b+1]-1 of k and v */
    const int32_t *seqused_new;     /* (batch): only the first rows of each sequence count */
    const int32_t *positions;       /* (batch): row of the cache where the first one goes; NULL = 0 */
    fa_rope rotary;                 /* of K, before it is converted */
    fa_error *error;                /* optional: filled in when the call fails */
    uint32_t last_canary;
} fa_append_args;

/* Rows positions[b] + accepted[b][n] of sequence b become rows positions[b] + n.  Zero-initialise it. */
typedef struct fa_compact_args {
    uint32_t first_canary;
    fa_cache cache;
    int32_t max_accepted;        /* columns of accepted */
    const int32_t *accepted;     /* (batch, max_accepted): rises in each sequence */
    const int32_t *num_accepted; /* (batch): columns in use; NULL = max_accepted */
    const int32_t *positions;    /* (batch): row of the cache where the draft begins; NULL = 0 */
    fa_error *error;
    uint32_t last_canary;
} fa_compact_args;

/* Rows to rotate, usually Q.  Zero-initialise it. */
typedef struct fa_rotary_args {
    uint32_t first_canary;
    int32_t batch, num_heads, seqlen_q, head_dim; /* head_dim: 1 .. 256 */
    fa_dtype dtype;                               /* of q and o: FA_F32, FA_F16 or FA_BF16 */
    fa_tensor q;                                  /* (batch, seqlen_q, num_heads, head_dim) */
    fa_tensor_out o;                              /* the same; may be q: same data and strides */
    const int32_t *cu_seqlens_q, *seqused_q;      /* as in fa_args */
    fa_rope rotary;
    fa_error *error;
    uint32_t last_canary;
} fa_rotary_args;

/* Rows to quantise or to rotate: Q, K or V.  Zero-initialise it. */
typedef struct fa_quantize_args {
    uint32_t first_canary;
    int32_t batch, num_heads, seqlen_q, head_dim; /* head_dim: 1 .. 256 */
    fa_dtype dtype;                               /* of q: FA_F32, FA_F16 or FA_BF16 */
    fa_dtype o_dtype;                             /* of o: any */
    fa_tensor q;                                  /* (batch, seqlen_q, num_heads, head_dim) */
    fa_tensor_out o;                              /* the same; may be q if the dtype is: same data and strides */
    fa_descale_out descale;                       /* factors of an fp8 or int8 o, as fa_descale reads them: block n for
                                                     n rows; axes with stride 0 share one.  data NULL: all are 1 */
    const int32_t *cu_seqlens_q, *seqused_q;      /* as in fa_args */
    int32_t hadamard;                             /* 1: rows are multiplied with random signs and a Hadamard matrix
                                                     / sqrt(head_dim) first; head_dim must be a power of two */
    uint64_t seed;                                /* of the signs */
    int32_t transposed;                           /* 1: o, of FA_E4M3, is (batch, num_heads, head_dim, rows): V as fa_args
                                                     with v_transposed reads it, see fa_transposed_column */
    fa_error *error;
    uint32_t last_canary;
} fa_quantize_args;

/* Lets attention read the cache: sets what args says about K and V, and batch.  seqused_k is the
 * caller's: rows in use, the appended ones included. */
static inline void fa_use_cache(fa_args *args, const fa_cache *cache) {
    const fa_descale_out *dk = &cache->k_descale, *dv = &cache->v_descale;
    const fa_tensor k = {cache->k.data, cache->k.stride_b, cache->k.stride_s, cache->k.stride_h};
    const fa_tensor v = {cache->v.data, cache->v.stride_b, cache->v.stride_s, cache->v.stride_h};
    const fa_descale k_descale = {dk->data, dk->stride_b, dk->stride_h, dk->stride_block, dk->block, dk->paged};
    const fa_descale v_descale = {dv->data, dv->stride_b, dv->stride_h, dv->stride_block, dv->block, dv->paged};
    args->batch = cache->batch, args->num_heads_k = cache->num_heads_k, args->seqlen_k = cache->seqlen_k;
    args->k = k, args->v = v, args->k_descale = k_descale, args->v_descale = v_descale;
    args->block_table = cache->block_table, args->block_table_stride = cache->block_table_stride;
    args->page_size = cache->page_size, args->num_pages = cache->num_pages;
}

/* Fills cos and sin, both (count, dim/2):  angle of pair i at position p = p / scaling * base^(-2i/dim),
 * in double.  scaling: linear position interpolation, 0 = 1.  As exact as pow, cos and sin of the C library. */
static inline fa_status fa_rotary_table(float *cos_out, float *sin_out, int32_t count, int32_t dim, double base,
                                        double scaling) {
    if (dim < 2 || dim > 256 || dim % 2) return FA_ERR_ROTARY;
    if (!cos_out || !sin_out || count < 1 || count > FA_MAX_SEQLEN || !(base > 0) || !(scaling >= 0))
        return FA_ERR_ROTARY_TABLE;
    for (int32_t i = 0; i < dim / 2; i++) {
        const double speed = pow(base, -2.0 * i / dim) / (scaling > 0 ? scaling : 1);
        for (int64_t p = 0; p < count; p++) {
            cos_out[p * (dim / 2) + i] = (float)cos((double)p * speed);
            sin_out[p * (dim / 2) + i] = (float)sin((double)p * speed);
        }
    }
    return FA_OK;
}

/* ---- checks ---- */

/* A call on a cache.  The checks and the layout functions see an attention problem: the cache as K and V,
 * new rows as Q. */
typedef struct fai_cache_call {
    fai_problem p;
    fa_info info;
    fa_args a;
    const int32_t *positions, *accepted, *num_accepted; /* accepted NULL: append */
    int32_t max_accepted;
} fai_cache_call;

/* lists: 0, or FAI_DEVICE_LISTS if what arrays hold is out of reach and not checked */
static inline void fai_cache_begin(fai_cache_call *c, const fa_cache *cache, fa_error *error, uint32_t lists) {
    memset(c, 0, sizeof *c);
    if (cache) {
        fa_use_cache(&c->a, cache);
        c->a.num_heads = cache->num_heads_k;
        c->info.head_dim = cache->head_dim, c->info.head_dim_v = cache->head_dim_v;
        c->info.kv_dtype = cache->dtype;
    }
    c->a.error = error, c->info.features = FA_ALL_FEATURES;
    c->p.info = &c->info, c->p.args = &c->a, c->p.status = FA_OK, c->p.pass = FAI_APPEND | lists;
}

/* Row of the cache that is row 0 of the call, and rows that the call has for sequence b: new or accepted. */
static inline int32_t fai_cache_position(const fai_cache_call *c, int32_t b) {
    return c->positions ? c->positions[b] : 0;
}
static inline int32_t fai_cache_count(const fai_cache_call *c, int32_t b) {
    if (!c->accepted) return fa_get_sequence(&c->a, b).len_q;
    return c->num_accepted ? c->num_accepted[b] : c->max_accepted;
}

/* Do arrays tell which rows they are? */
static inline int fai_cache_hides(const fai_cache_call *c) {
    return c->positions || c->accepted || c->a.cu_seqlens_q || c->a.seqused_q;
}

/* Rows of sequence b that the call reads or writes; their number is 0 or begins at the position, if not
 * before it, with a block of factors that may grow. */
static inline fa_range fai_cache_range(const fai_cache_call *c, int32_t b) {
    const fa_descale *d[2] = {&c->a.k_descale, &c->a.v_descale};
    const int32_t n = fai_cache_count(c, b), at = fai_cache_position(c, b);
    fa_range r = {at, at + n};
    if (c->accepted && n) r.hi = at + c->accepted[(int64_t)b * c->max_accepted + n - 1] + 1;
    for (int side = 0; side < 2 && n; side++)
        if (d[side]->data && d[side]->block && !d[side]->paged && at - at % d[side]->block < r.lo)
            r.lo = at - at % d[side]->block;
    return r;
}

/* Page numbers of all rows in use, and that none of them is there twice: bits of a window of pages, for there is
 * no memory to allocate. */
static inline void fai_check_cache_pages(fai_cache_call *c) {
    enum { WINDOW = 1 << 15 };
    const fa_args *a = &c->a;
    uint32_t seen[WINDOW / 32];
    int64_t lowest = INT32_MAX, highest = -1, next = 0; /* 0: only the numbers */
    fai_check_table(&c->p);
    if (!a->block_table || c->p.pass & FAI_DEVICE_LISTS) return;
    for (int64_t first = -1; c->p.status == FA_OK && first <= highest; first = next) {
        if (first >= 0) memset(seen, 0, sizeof seen);
        for (int32_t b = 0; b < a->batch && c->p.status == FA_OK; b++) {
            const fa_range rows = fai_cache_range(c, b);
            const int64_t table = b * fai_table_stride(a);
            if (rows.lo >= rows.hi) continue;
            for (int64_t t = table + rows.lo / a->page_size; t <= table + (rows.hi - 1) / a->page_size; t++) {
                const int64_t page = a->block_table[t], bit = page - first;
                if (first < 0) {
                    if (page < 0 || page >= a->num_pages)
                        fai_bad(&c->p, FA_ERR_BLOCK_TABLE, "block_table", t, (double)page, 0, a->num_pages - 1);
                    if (page < lowest) lowest = page;
                    if (page > highest) highest = page;
                } else if (bit >= 0 && bit < WINDOW) {
                    if (seen[bit / 32] >> bit % 32 & 1)
                        fai_bad(&c->p, FA_ERR_CACHE_PAGE, "block_table", t, (double)page, 1, 0);
                    seen[bit / 32] |= 1u << bit % 32;
                }
            }
        }
        next = first < 0 ? lowest : first + WINDOW;
    }
}

/* Factors: where they are, and the values of those that the call reads. */
static inline void fai_check_cache_descale(fai_cache_call *c, const fa_descale *d, fa_status bad,
                                           const char *const field[5]) {
    const fa_args *a = &c->a;
    fai_add_descale(&c->p, d, 1, d->block ? FA_ERR_CACHE_DESCALE : bad, field);
    if (!d->data || c->p.status != FA_OK) return;
    if (d->block) {
        fai_check_places(&c->p, &c->p.span[c->p.count - 1]);
        c->p.span[c->p.count - 1].kind = FAI_OUTPUT;
    }
    if (c->p.pass & FAI_DEVICE_LISTS) return;
    const int32_t step = d->paged ? a->page_size : FA_MAX_SEQLEN;
    for (int32_t b = 0; b < a->batch && c->p.status == FA_OK; b++) {
        fa_range rows = {fai_cache_position(c, b), fai_cache_range(c, b).hi};
        if (d->block) { /* only that of a block which goes on; compaction moves blocks which append wrote */
            if ((d->paged ? rows.lo % a->page_size : rows.lo) % d->block == 0) continue;
            if (rows.hi > rows.lo) rows.hi = rows.lo + 1;
        }
        for (int64_t j = rows.lo; j < rows.hi; j += step - (d->paged ? j % step : 0))
            for (int64_t h = 0; h < (d->stride_h ? a->num_heads_k : 1); h++)
                fai_check_factor(&c->p, d, fai_descale_at(a, d, b, h, j), bad, field[0]);
    }
}

/* Sizes and memory of the cache.  k, v: is that side used? */
static inline void fai_check_cache(fai_cache_call *c, const fa_cache *cache, int k, int v) {
    fai_problem *p = &c->p;
    const double most = INT32_MAX;
    double rows;
    if (!k && !v) fai_bad(p, FA_ERR_CACHE_NULL, "k.data", -1, 0, 1, 0);
    if (k && !cache->k.data) fai_bad(p, FA_ERR_CACHE_NULL, "cache.k.data", -1, 0, 1, 0);
    if (v && !cache->v.data) fai_bad(p, FA_ERR_CACHE_NULL, "cache.v.data", -1, 0, 1, 0);
    fai_range(p, FA_ERR_CACHE_SIZE, "cache.batch", cache->batch, 1, most);
    fai_range(p, FA_ERR_CACHE_SIZE, "cache.num_heads_k", cache->num_heads_k, 1, most);
    fai_range(p, FA_ERR_CACHE_SIZE, "cache.seqlen_k", cache->seqlen_k, 1, FA_MAX_SEQLEN);
    if (k) fai_range(p, FA_ERR_CACHE_SIZE, "cache.head_dim", cache->head_dim, 1, 256);
    if (v) fai_range(p, FA_ERR_CACHE_SIZE, "cache.head_dim_v", cache->head_dim_v, 1, 256);
    fai_range(p, FA_ERR_CACHE_DTYPE, "cache.dtype", cache->dtype, FA_F32, FA_I8);
    rows = cache->seqlen_k > c->a.seqlen_q ? cache->seqlen_k : c->a.seqlen_q;
    if (cache->block_table && cache->page_size > rows) rows = cache->page_size;
    fai_range(p, FA_ERR_SIZE_OVERFLOW, "seqlen * num_heads * head_dim", rows * cache->num_heads_k * 256, 1, 0x1p62);
    if (!k) c->a.k.data = NULL, c->a.k_descale.data = NULL;
    if (!v) c->a.v.data = NULL, c->a.v_descale.data = NULL;
}

#define FAI_CACHE_SPAN(t, T, kind, size, dim, n, rows, heads) \
    {t.data, {#t ".data", #t ".stride_b", #t ".stride_s", #t ".stride_h"}, FA_ERR_##T##_ALIGN, FA_ERR_##T##_STRIDE, \
     kind, (int64_t)(size), dim, {n, rows, heads}, {t.stride_b, t.stride_s, t.stride_h}, 0}

/* Tensors of the cache and their factors, once it is known which rows are in use. */
static inline void fai_check_cache_memory(fai_cache_call *c, fa_cache cache) {
    static const char *const names[2][5] = {
        {"cache.k_descale.data", "cache.k_descale.stride_b", "cache.k_descale.stride_h", "cache.k_descale.stride_block",
         "cache.k_descale.block"},
        {"cache.v_descale.data", "cache.v_descale.stride_b", "cache.v_descale.stride_h", "cache.v_descale.stride_block",
         "cache.v_descale.block"}};
    const int64_t n = cache.block_table ? cache.num_pages : cache.batch;
    const int64_t rows = cache.block_table ? cache.page_size : cache.seqlen_k;
    const size_t size = fa_sizeof(cache.dtype);
    if (c->p.status == FA_OK) fai_check_cache_pages(c);
    cache.k.data = c->a.k.data ? cache.k.data : NULL, cache.v.data = c->a.v.data ? cache.v.data : NULL;
    fai_span k = FAI_CACHE_SPAN(cache.k, CACHE, FAI_OUTPUT, size, cache.head_dim, n, rows, cache.num_heads_k);
    fai_span v = FAI_CACHE_SPAN(cache.v, CACHE, FAI_OUTPUT, size, cache.head_dim_v, n, rows, cache.num_heads_k);
    fai_add_span(&c->p, k);
    fai_add_span(&c->p, v);
    fai_check_cache_descale(c, &c->a.k_descale, FA_ERR_DESCALE_K, names[0]);
    fai_check_cache_descale(c, &c->a.v_descale, FA_ERR_DESCALE_V, names[1]);
}

/* Whatever is written shares no byte with anything else. */
static inline void fai_check_written(fai_problem *p, fa_status bad) {
    for (int i = 0; i < p->count; i++)
        for (int n = 0; p->span[i].kind == FAI_OUTPUT && n < p->count; n++)
            if (n != i && fai_overlap(&p->span[i], &p->span[n]))
                fai_bad(p, bad, p->span[n].field[0], -1, (double)NAN, 1, 0);
}

/* Position of row i of a sequence in the tables.  first: row of the cache that is its row 0. */
FAI_HD static inline int64_t fai_rope_position(const fa_args *a, const fa_rope *r, const fa_sequence *seq, int64_t first,
                                               int64_t i) {
    if (!r->positions) return first + i;
    return r->per_row ? r->positions[fai_packed_q(a, seq, i)] : r->positions[seq->b] + i;
}

FAI_HD static inline int fai_rotates(const fa_rope *r) { return r->cos || r->sin || r->dim; }

static inline void fai_check_rope(fai_cache_call *c, const fa_rope *r) {
    fai_problem *p = &c->p;
    const fa_args *a = &c->a;
    if (p->status != FA_OK || !fai_rotates(r)) return;
    fai_range(p, FA_ERR_ROTARY, "rotary.dim", r->dim, 2, c->info.head_dim);
    if (r->dim % 2) fai_bad(p, FA_ERR_ROTARY, "rotary.dim", -1, r->dim, 2, c->info.head_dim);
    fai_range(p, FA_ERR_ROTARY, "rotary.interleaved", r->interleaved, 0, 1);
    fai_range(p, FA_ERR_ROTARY, "rotary.per_row", r->per_row, 0, r->positions ? 1 : 0);
    fai_range(p, FA_ERR_ROTARY_TABLE, "rotary.count", r->count, 1, FA_MAX_SEQLEN);
    if (!r->cos || !r->sin) fai_bad(p, FA_ERR_ROTARY_TABLE, r->cos ? "rotary.sin" : "rotary.cos", -1, 0, 1, 0);
    fai_add_array(p, r->cos, "rotary.cos", FA_ERR_ROTARY_TABLE, (int64_t)r->count * (r->dim / 2));
    fai_add_array(p, r->sin, "rotary.sin", FA_ERR_ROTARY_TABLE, (int64_t)r->count * (r->dim / 2));
    fai_add_array(p, r->positions, "rotary.positions", FA_ERR_ROTARY_POSITIONS,
                  r->per_row ? p->batch[0] * p->rows[0] : a->batch);
    if (p->pass & FAI_DEVICE_LISTS && (r->positions || fai_cache_hides(c))) return;
    for (int32_t b = 0; b < a->batch && p->status == FA_OK; b++) {
        const fa_sequence seq = fa_get_sequence(a, b);
        /* without per_row the first and the last row tell all */
        const int64_t step = r->per_row || seq.len_q < 3 ? 1 : seq.len_q - 1;
        for (int64_t i = 0; i < seq.len_q && p->status == FA_OK; i += step) {
            const int64_t at = fai_rope_position(a, r, &seq, fai_cache_position(c, b), i);
            if (at >= 0 && at < r->count) continue;
            if (!r->positions)
                fai_bad(p, FA_ERR_ROTARY_POSITIONS, "rotary.count", -1, r->count, (double)at + 1, FA_MAX_SEQLEN);
            else if (r->per_row)
                fai_bad(p, FA_ERR_ROTARY_POSITIONS, "rotary.positions", fai_packed_q(a, &seq, i), (double)at, 0,
                        r->count - 1);
            else
                fai_bad(p, FA_ERR_ROTARY_POSITIONS, "rotary.positions", b, r->positions[b], 0, r->count - seq.len_q);
        }
    }
}

/* ---- rows ---- */

/* Rows lie on the stack as 256 floats, of which those behind the last, to a multiple of 16, may be computed with: loops
 * over a constant number of elements of arrays of their own are what compilers vectorise, at -O2 as well. */
#define FAI_EACH16(d, n) \
    for (int32_t chunk = 0; chunk < (n); chunk += 16) \
        for (int32_t d = chunk; d < chunk + 16; d++)

/* x[0 .. n) = elements of dtype at src, n <= 256, and 0 to the next multiple of 16. */
static inline void fai_decode_row(float *x, const void *src, fa_dtype dtype, int32_t n) {
    uint16_t wide[256];
    uint8_t code[256];
    const size_t size = fa_sizeof(dtype);
    unsigned char *to = size == 4 ? (unsigned char *)x : size == 2 ? (unsigned char *)wide : code;
    memcpy(to, src, (size_t)n * size);
    memset(to + (size_t)n * size, 0, (size_t)(-n & 31) * size); /* 16 pairs */
    switch (dtype) {
    case FA_F32: break;
    case FA_F16:
        FAI_EACH16(d, n) x[d] = fa_f16_to_f32(wide[d]);
        break;
    case FA_BF16:
        FAI_EACH16(d, n) x[d] = fa_bf16_to_f32(wide[d]);
        break;
    case FA_E4M3:
        FAI_EACH16(d, n) x[d] = fa_e4m3_to_f32(code[d]);
        break;
    case FA_E5M2:
        FAI_EACH16(d, n) x[d] = fa_e5m2_to_f32(code[d]);
        break;
    default:
        FAI_EACH16(d, n) x[d] = (float)(int8_t)code[d];
    }
}
/* and back; fp8 and int8 in words first, or the width of a byte would decide how many elements a vector has */
static inline void fai_encode_row(void *dst, const float *x, fa_dtype dtype, int32_t n) {
    uint32_t word[256];
    uint16_t wide[256];
    uint8_t code[256];
    const size_t size = fa_sizeof(dtype);
    const void *from = size == 4 ? (const void *)x : size == 2 ? (const void *)wide : code;
    switch (dtype) {
    case FA_F32: break;
    case FA_F16:
        FAI_EACH16(d, n) wide[d] = fa_f32_to_f16(x[d]);
        break;
    case FA_BF16:
        FAI_EACH16(d, n) wide[d] = fa_f32_to_bf16(x[d]);
        break;
    case FA_E4M3:
        FAI_EACH16(d, n) word[d] = fai_f32_to_fp8(x[d], 3, 7, 0x7eu);
        break;
    case FA_E5M2:
        FAI_EACH16(d, n) word[d] = fai_f32_to_fp8(x[d], 2, 15, 0x7bu);
        break;
    default:
        FAI_EACH16(d, n) word[d] = (uint32_t)fai_f32_to_i8(x[d]);
    }
    if (size == 1) {
        FAI_EACH16(d, n) code[d] = (uint8_t)word[d];
    }
    memcpy(dst, from, (size_t)n * size);
}

/* cos and sin of one position */
typedef struct fai_angles {
    float c[128], s[128];
} fai_angles;

static inline void fai_get_angles(fai_angles *t, const fa_rope *r, int64_t position) {
    const int32_t half = r->dim / 2;
    fai_decode_row(t->c, r->cos + position * half, FA_F32, half);
    fai_decode_row(t->s, r->sin + position * half, FA_F32, half);
}

/* One row of one head, in place. */
static inline void fai_rotate_row(float *x, const fai_angles *t, const fa_rope *r) {
    float re[128], im[128];
    const int32_t half = r->dim / 2;
    if (r->interleaved) {
        FAI_EACH16(i, half) re[i] = x[2 * i], im[i] = x[2 * i + 1];
    } else {
        fai_decode_row(re, x, FA_F32, half), fai_decode_row(im, x + half, FA_F32, half);
    }
    FAI_EACH16(i, half) {
        const double a = (double)re[i], b = (double)im[i], c = (double)t->c[i], s = (double)t->s[i];
        re[i] = (float)(a * c - b * s), im[i] = (float)(b * c + a * s);
    }
    if (r->interleaved)
        for (int32_t i = 0; i < half; i++) x[2 * i] = re[i], x[2 * i + 1] = im[i];
    else memcpy(x, re, (size_t)half * 4), memcpy(x + half, im, (size_t)half * 4);
}

/* codes = x / factor; x is spoilt.  Factor 0 is that of zeros. */
static inline void fai_quantise_row(void *dst, float *x, float factor, fa_dtype dtype, int32_t n) {
    if (factor > 0) {
        FAI_EACH16(d, n) x[d] /= factor;
    } else {
        memset(x, 0, 256 * sizeof *x);
    }
    fai_encode_row(dst, x, dtype, n);
}

/* The factor that x needs. */
static inline float fai_row_factor(const float *x, fa_dtype dtype, int32_t n) {
    uint32_t most[16] = {0}, max = 0; /* magnitudes are ordered like their bits */
    for (int32_t d = 0; d < n; d += 16)
        for (int32_t l = 0; l < 16; l++) {
            const uint32_t mag = fai_bits_of(x[d + l]) & 0x7fffffffu, old = most[l];
            most[l] = old ^ ((old ^ mag) & (0u - ((mag > old) & (mag <= 0x7f800000u)))); /* a choice without a branch */
        }
    for (int l = 0; l < 16; l++) max = most[l] > max ? most[l] : max;
    if (max == 0x7f800000u) max = 0x7f7fffffu;
    return fai_float_of(max) / (dtype == FA_I8 ? 127.0f : dtype == FA_E4M3 ? 448.0f : 57344.0f);
}

/* K or V of a cache. */
typedef struct fai_cache_side {
    const fa_args *a;
    const fa_descale *descale;
    char *data;
    float *factors;
    int64_t step, factor_step; /* from head to head: bytes, factors */
    fai_strides st;
    fa_dtype dtype;
    int32_t dim;
} fai_cache_side;

/* v: 0 for K, 1 for V */
FAI_HD static inline fai_cache_side fai_get_side(const fa_args *a, const fa_cache *cache, int v) {
    fai_cache_side s;
    s.a = a, s.descale = v ? &a->v_descale : &a->k_descale;
    s.data = (char *)(v ? cache->v.data : cache->k.data);
    s.factors = v ? cache->v_descale.data : cache->k_descale.data;
    s.dim = v ? cache->head_dim_v : cache->head_dim, s.dtype = cache->dtype;
    s.st = fai_strides_kv(a, v ? &a->v : &a->k, s.dim);
    s.step = s.st.h * (int64_t)fa_sizeof(s.dtype), s.factor_step = s.descale->stride_h;
    return s;
}

/* Row j of sequence b, and its factor (NULL: none), of head 0. */
typedef struct fai_place {
    int32_t b;
    int64_t j;
    char *row;
    float *factor;
} fai_place;

static inline fai_place fai_get_place(const fai_cache_side *s, int32_t b, int64_t j) {
    const fa_sequence seq = fa_get_sequence(s->a, b);
    fai_place p = {b, j, s->data + fai_offset_k(s->a, &seq, s->st, j, 0) * (int64_t)fa_sizeof(s->dtype), NULL};
    if (s->descale->data) p.factor = s->factors + (fai_descale_at(s->a, s->descale, b, 0, j) - s->descale->data);
    return p;
}

/* The row at p, head h becomes x, which is spoilt. */
static inline void fai_put_row(const fai_cache_side *s, const fai_place *p, int64_t h, float *x) {
    const fa_descale *d = s->descale;
    char *row = p->row + h * s->step;
    if (!p->factor) {
        fai_encode_row(row, x, s->dtype, s->dim);
        return;
    }
    float *factor = p->factor + h * s->factor_step;
    if (d->block) {
        const int64_t before = (d->paged ? p->j % s->a->page_size : p->j) % d->block; /* rows of its block */
        const float need = fai_row_factor(x, s->dtype, s->dim), old = *factor;
        if (!before || need > old) *factor = need;
        for (int64_t n = before; n > 0 && need > old; n--) {
            float y[256];
            char *other = fai_get_place(s, p->b, p->j - n).row + h * s->step;
            fai_decode_row(y, other, s->dtype, s->dim);
            FAI_EACH16(e, s->dim) y[e] *= old;
            fai_quantise_row(other, y, need, s->dtype, s->dim);
        }
    }
    fai_quantise_row(row, x, *factor, s->dtype, s->dim);
}

/* ---- calls ---- */

/* New rows of K (V: v = 1) go into the cache.  t: where they are; rotary NULL: as they are. */
static inline void fai_append_side(const fai_cache_call *c, const fa_cache *cache, int v, const fa_tensor *t,
                                   fa_dtype dtype, const fa_rope *rotary) {
    const fa_args *a = &c->a;
    const fai_cache_side side = fai_get_side(a, cache, v), *s = &side;
    const fai_strides st = fai_resolve(t->stride_b, t->stride_s, t->stride_h, a->seqlen_q, a->num_heads_k, s->dim);
    const size_t row = (size_t)s->dim * fa_sizeof(dtype);
    const int copy = !rotary && s->dtype == dtype, together = st.h == s->dim && s->st.h == s->dim;
    fai_angles angles;
    for (int32_t b = 0; b < a->batch; b++) {
        const fa_sequence seq = fa_get_sequence(a, b);
        for (int32_t i = 0; i < seq.len_q; i++) {
            const fai_place place = fai_get_place(s, b, (int64_t)fai_cache_position(c, b) + i);
            const char *src = (const char *)t->data + fai_offset_q(&seq, st, i, 0) * (int64_t)fa_sizeof(dtype);
            if (copy && together) {
                memcpy(place.row, src, row * (size_t)a->num_heads_k);
                continue;
            }
            if (rotary) fai_get_angles(&angles, rotary, fai_rope_position(a, rotary, &seq, fai_cache_position(c, b), i));
            for (int64_t h = 0; h < a->num_heads_k; h++, src += st.h * (int64_t)fa_sizeof(dtype)) {
                float x[256];
                if (copy) {
                    memcpy(place.row + h * s->step, src, row);
                    continue;
                }
                fai_decode_row(x, src, dtype, s->dim);
                if (rotary) fai_rotate_row(x, &angles, rotary);
                fai_put_row(s, &place, h, x);
            }
        }
    }
}

/* Is it a call that can be done?  *c is what the call knows afterwards. */
static inline fa_status fai_check_append(fai_cache_call *c, const fa_append_args *args, uint32_t lists) {
    fai_problem *p = &c->p;
    if (!args) return FA_ERR_ARGS_NULL;
    if (args->first_canary || args->last_canary) return FA_ERR_NOT_ZEROED; /* error may be garbage */
    const fa_cache *cache = &args->cache;
    const fa_tensor k = args->k, v = args->v;
    fai_cache_begin(c, cache, args->error, lists);
    c->positions = args->positions;
    c->a.seqlen_q = args->seqlen_new, c->a.cu_seqlens_q = args->cu_seqlens_new, c->a.seqused_q = args->seqused_new;
    fai_check_cache(c, cache, k.data != NULL, v.data != NULL);
    fai_range(p, FA_ERR_NEW_DTYPE, "dtype", args->dtype, FA_F32, FA_BF16);
    fai_range(p, FA_ERR_SEQLEN_NEW, "seqlen_new", args->seqlen_new, 1, FA_MAX_SEQLEN);
    if (p->status == FA_OK) fai_check_lengths(p, 0);
    fai_add_array(p, args->positions, "positions", FA_ERR_POSITIONS, cache->batch);
    for (int32_t b = 0; !(lists && fai_cache_hides(c)) && b < cache->batch && p->status == FA_OK; b++) {
        const int32_t at = fai_cache_position(c, b), room = cache->seqlen_k - fai_cache_count(c, b);
        if (at < 0 || at > room) fai_bad(p, FA_ERR_POSITIONS, "positions", b, at, 0, room);
    }
    fai_check_cache_memory(c, *cache);
    if (p->status == FA_OK) {
        const size_t size = fa_sizeof(args->dtype);
        const int64_t n = p->batch[0], rows = p->rows[0], heads = cache->num_heads_k;
        const fai_span span_k = FAI_CACHE_SPAN(k, K, FAI_INPUT, size, cache->head_dim, n, rows, heads);
        const fai_span span_v = FAI_CACHE_SPAN(v, V, FAI_INPUT, size, cache->head_dim_v, n, rows, heads);
        fai_add_span(p, span_k);
        fai_add_span(p, span_v);
        if (k.data) fai_check_rope(c, &args->rotary);
    }
    fai_check_written(p, FA_ERR_CACHE_OVERLAP);
    return p->status == FA_OK ? fai_fail(&c->a, FA_OK, "", -1, 0, 0, 0) : p->status;
}

/* Appends rows of K and V to a cache: row i of sequence b becomes row positions[b] + i of the cache, rotated and
 * converted.  Other rows keep their bits, but see the quantised caches above.  Rows of different sequences
 * must lie in different pages (FA_ERR_CACHE_PAGE); that nobody else reads a page which is written is the
 * caller's business: copy shared pages before.  Values are not looked at before they are written: NaN and
 * infinity are no errors.  Failures: FA_ERR_ of the field at fault; see FA_STATUS_LIST. */
FAI_NOINLINE fa_status fa_append(const fa_append_args *args) {
    fai_cache_call c;
    const fa_status status = fai_check_append(&c, args, 0);
    if (status != FA_OK) return status;
    const fa_rope *rotary = fai_rotates(&args->rotary) ? &args->rotary : NULL;
    if (args->k.data) fai_append_side(&c, &args->cache, 0, &args->k, args->dtype, rotary);
    if (args->v.data) fai_append_side(&c, &args->cache, 1, &args->v, args->dtype, NULL);
    return FA_OK;
}

/* Row `from` of sequence b becomes row `to`, before it. */
static inline void fai_move_row(const fai_cache_side *s, int32_t b, int64_t from, int64_t to) {
    const fai_place source = fai_get_place(s, b, from), target = fai_get_place(s, b, to);
    for (int64_t h = 0; h < s->a->num_heads_k; h++) {
        const char *src = source.row + h * s->step;
        if (source.factor == target.factor || s->descale->block == 1) {
            memcpy(target.row + h * s->step, src, (size_t)s->dim * fa_sizeof(s->dtype));
            if (source.factor != target.factor) target.factor[h * s->factor_step] = source.factor[h * s->factor_step];
        } else { /* no row that is still to be moved lies in the block of `to`: they come after `from` */
            float x[256];
            fai_decode_row(x, src, s->dtype, s->dim);
            FAI_EACH16(d, s->dim) x[d] *= source.factor[h * s->factor_step];
            fai_put_row(s, &target, h, x);
        }
    }
}

static inline fa_status fai_check_compact(fai_cache_call *c, const fa_compact_args *args, uint32_t lists) {
    fai_problem *p = &c->p;
    if (!args) return FA_ERR_ARGS_NULL;
    if (args->first_canary || args->last_canary) return FA_ERR_NOT_ZEROED;
    const fa_cache *cache = &args->cache;
    const int32_t columns = args->max_accepted;
    fai_cache_begin(c, cache, args->error, lists);
    c->positions = args->positions, c->accepted = args->accepted, c->num_accepted = args->num_accepted;
    c->max_accepted = columns;
    fai_check_cache(c, cache, cache->k.data || !cache->v.data, cache->v.data != NULL);
    fai_range(p, FA_ERR_MAX_ACCEPTED, "max_accepted", columns, 1, FA_MAX_SEQLEN);
    if (!args->accepted) fai_bad(p, FA_ERR_ACCEPTED, "accepted", -1, 0, 1, 0);
    fai_add_array(p, args->accepted, "accepted", FA_ERR_ACCEPTED, (int64_t)cache->batch * columns);
    fai_add_array(p, args->num_accepted, "num_accepted", FA_ERR_MAX_ACCEPTED, cache->batch);
    fai_add_array(p, args->positions, "positions", FA_ERR_POSITIONS, cache->batch);
    for (int32_t b = 0; !lists && b < cache->batch && p->status == FA_OK; b++) {
        const int32_t at = fai_cache_position(c, b), n = fai_cache_count(c, b);
        if (n < 0 || n > columns) fai_bad(p, FA_ERR_MAX_ACCEPTED, "num_accepted", b, n, 0, columns);
        if (at < 0 || at > cache->seqlen_k) fai_bad(p, FA_ERR_POSITIONS, "positions", b, at, 0, cache->seqlen_k);
        int64_t least = 0;
        for (int64_t i = (int64_t)b * columns, end = i + n; i < end && p->status == FA_OK; i++) {
            const int64_t row = args->accepted[i];
            if (row < least || row >= cache->seqlen_k - at)
                fai_bad(p, FA_ERR_ACCEPTED, "accepted", i, (double)row, (double)least, cache->seqlen_k - at - 1);
            least = row + 1; /* rows rise, so none is before its new place */
        }
    }
    fai_check_cache_memory(c, *cache);
    fai_check_written(p, FA_ERR_CACHE_OVERLAP);
    return p->status == FA_OK ? fai_fail(&c->a, FA_OK, "", -1, 0, 0, 0) : p->status;
}

/* After a verification step, keeps the accepted rows of a draft: of K, V or both, whichever the cache has.  The new
 * length of sequence b is positions[b] + num_accepted[b].  What was behind it is void.  Exact, unless rows go to
 * another factor that is not their own (block > 1, or block 0 with a factor for each page): they are
 * quantised again, as if appended.  A row that stays in place keeps its bits, until its block's factor grows. */
FAI_NOINLINE fa_status fa_compact(const fa_compact_args *args) {
    fai_cache_call c;
    const fa_status status = fai_check_compact(&c, args, 0);
    if (status != FA_OK) return status;
    const fa_cache *cache = &args->cache;
    for (int v = 0; v < 2; v++) {
        if (v ? !cache->v.data : !cache->k.data) continue;
        const fai_cache_side side = fai_get_side(&c.a, cache, v);
        for (int32_t b = 0; b < cache->batch; b++)
            for (int32_t n = 0; n < fai_cache_count(&c, b); n++) {
                const int64_t at = fai_cache_position(&c, b), from = args->accepted[(int64_t)b * c.max_accepted + n];
                if (from != n) fai_move_row(&side, b, at + from, at + n);
            }
    }
    return FA_OK;
}

/* Rows in, rows out: o is q in another dtype, or q itself. */
static inline void fai_rows_begin(fai_cache_call *c, const int32_t size[4], const int32_t *cu, const int32_t *used,
                                  fa_error *error, uint32_t lists) {
    fai_cache_begin(c, NULL, error, lists);
    c->a.batch = size[0], c->a.num_heads = size[1], c->a.seqlen_q = size[2];
    c->a.cu_seqlens_q = cu, c->a.seqused_q = used;
    c->info.head_dim = size[3], c->p.pass = FA_FORWARD | lists;
}
static inline void fai_check_rows(fai_cache_call *c, fa_tensor q, fa_tensor_out o, fa_dtype dtype, fa_dtype o_dtype,
                                  int transposed) {
    fai_problem *p = &c->p;
    const int64_t heads = c->a.num_heads, dim = c->info.head_dim;
    const int in_place = q.data == o.data && q.stride_b == o.stride_b && q.stride_s == o.stride_s &&
                         q.stride_h == o.stride_h && dtype == o_dtype;
    fai_range(p, FA_ERR_NEW_DTYPE, "dtype", dtype, FA_F32, FA_BF16);
    if (!q.data) fai_bad(p, FA_ERR_Q_NULL, "q.data", -1, 0, 1, 0);
    if (!o.data) fai_bad(p, FA_ERR_O_NULL, "o.data", -1, 0, 1, 0);
    fai_check_sizes(p);
    if (p->status == FA_OK) fai_check_lengths(p, 0);
    fai_span span_o = FAI_CACHE_SPAN(o, O, FAI_OUTPUT, fa_sizeof(o_dtype), dim, p->batch[0], p->rows[0], heads);
    if (transposed && p->status == FA_OK) span_o = fai_transposed_span(span_o, c->a.seqlen_q, c->a.cu_seqlens_q != NULL);
    fai_add_span(p, span_o);
    if (in_place) q.data = NULL;
    const fai_span span_q = FAI_CACHE_SPAN(q, Q, FAI_INPUT, fa_sizeof(dtype), dim, p->batch[0], p->rows[0], heads);
    fai_add_span(p, span_q);
}

static inline fa_status fai_check_rotary(fai_cache_call *c, const fa_rotary_args *args, uint32_t lists) {
    fai_problem *p = &c->p;
    if (!args) return FA_ERR_ARGS_NULL;
    if (args->first_canary || args->last_canary) return FA_ERR_NOT_ZEROED;
    const int32_t size[4] = {args->batch, args->num_heads, args->seqlen_q, args->head_dim};
    fai_rows_begin(c, size, args->cu_seqlens_q, args->seqused_q, args->error, lists);
    fai_range(p, FA_ERR_ROTARY, "head_dim", args->head_dim, 2, 256);
    if (!fai_rotates(&args->rotary)) fai_bad(p, FA_ERR_ROTARY, "rotary.dim", -1, 0, 2, args->head_dim);
    fai_check_rows(c, args->q, args->o, args->dtype, args->dtype, 0);
    fai_check_rope(c, &args->rotary);
    fai_check_written(p, FA_ERR_O_OVERLAP);
    return p->status == FA_OK ? fai_fail(&c->a, FA_OK, "", -1, 0, 0, 0) : p->status;
}

/* o = q, rotated: row i of sequence b by the position rotary.positions[b] + i.  Queries of a decoding step, the last of
 * their sequence, have the positions of the rows that fa_append writes. */
FAI_NOINLINE fa_status fa_rotary(const fa_rotary_args *args) {
    fai_cache_call c;
    const fa_status status = fai_check_rotary(&c, args, 0);
    if (status != FA_OK) return status;
    const fa_tensor *q = &args->q;
    const fa_tensor_out *o = &args->o;
    const fa_rope *rotary = &args->rotary;
    const int64_t heads = args->num_heads, dim = args->head_dim, size = (int64_t)fa_sizeof(args->dtype);
    const fai_strides st_q = fai_resolve(q->stride_b, q->stride_s, q->stride_h, args->seqlen_q, heads, dim);
    const fai_strides st_o = fai_resolve(o->stride_b, o->stride_s, o->stride_h, args->seqlen_q, heads, dim);
    fai_angles angles;
    for (int32_t b = 0; b < args->batch; b++) {
        const fa_sequence seq = fa_get_sequence(&c.a, b);
        for (int32_t i = 0; i < seq.len_q; i++) {
            fai_get_angles(&angles, rotary, fai_rope_position(&c.a, rotary, &seq, 0, i));
            for (int32_t h = 0; h < args->num_heads; h++) {
                float x[256];
                fai_decode_row(x, (const char *)q->data + fai_offset_q(&seq, st_q, i, h) * size, args->dtype,
                               args->head_dim);
                fai_rotate_row(x, &angles, rotary);
                fai_encode_row((char *)o->data + fai_offset_q(&seq, st_o, i, h) * size, x, args->dtype,
                               args->head_dim);
            }
        }
    }
    return FA_OK;
}

/* Sign of element d in the rotation of fa_quantize: the sign bit of a float, or 0.  Bit d % 128 of Philox(d / 128; seed). */
FAI_HD static inline uint32_t fai_hadamard_sign(const uint32_t bits[4], int32_t d) {
    const int32_t n = d % 128 / 32;
    const uint32_t word = n == 0 ? bits[0] : n == 1 ? bits[1] : n == 2 ? bits[2] : bits[3];
    return word >> d % 32 << 31;
}
FAI_HD static inline void fai_hadamard_bits(uint64_t seed, int32_t d, uint32_t bits[4]) {
    const uint32_t counter[4] = {(uint32_t)d / 128, 0, 0, 0}, key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    fa_philox4x32_10(counter, key, bits);
}
/* 1 / sqrt(n), n a power of two, rounded */
FAI_HD static inline float fai_hadamard_scale(int32_t n) {
    float x = 1;
    for (; n >= 4; n /= 4) x *= 0.5f;
    return n == 2 ? x * 0.70710678118654752f : x;
}

/* x = H x / sqrt(n) with signs changed before: element d of the result is the sum over e of (-1)^popcount(d & e) x_e. */
static inline void fai_hadamard_row(float *x, int32_t n, uint64_t seed) {
    const float scale = fai_hadamard_scale(n);
    uint32_t bits[4] = {0, 0, 0, 0};
    for (int32_t d = 0; d < n; d++) {
        if (d % 128 == 0) fai_hadamard_bits(seed, d, bits);
        x[d] = fai_float_of(fai_bits_of(x[d]) ^ fai_hadamard_sign(bits, d));
    }
    for (int32_t step = 1; step < n; step *= 2)
        for (int32_t d = 0; d < n; d += 2 * step)
            for (int32_t e = d; e < d + step; e++) {
                const float a = x[e], b = x[e + step];
                x[e] = a + b, x[e + step] = a - b;
            }
    for (int32_t d = 0; d < n; d++) x[d] *= scale;
}

static inline fa_status fai_check_quantize(fai_cache_call *c, const fa_quantize_args *args, uint32_t lists) {
    static const char *const field[5] = {"descale.data", "descale.stride_b", "descale.stride_h", "descale.stride_block",
                                         "descale.block"};
    fai_problem *p = &c->p;
    if (!args) return FA_ERR_ARGS_NULL;
    if (args->first_canary || args->last_canary) return FA_ERR_NOT_ZEROED;
    const int32_t size[4] = {args->batch, args->num_heads, args->seqlen_q, args->head_dim}, dim = args->head_dim;
    const fa_descale_out *d = &args->descale;
    const fa_descale descale = {d->data, d->stride_b, d->stride_h, d->stride_block, d->block, d->paged};
    fai_rows_begin(c, size, args->cu_seqlens_q, args->seqused_q, args->error, lists);
    c->info.dtype = args->o_dtype, c->a.q_descale = descale;
    fai_range(p, FA_ERR_QUANTIZE_DIM, "head_dim", dim, 1, 256);
    fai_range(p, FA_ERR_QUANTIZE_DIM, "hadamard", args->hadamard, 0, 1);
    if (args->hadamard && (dim < 2 || dim & (dim - 1)))
        fai_bad(p, FA_ERR_QUANTIZE_DIM, "head_dim", -1, dim, 2, 256);
    fai_range(p, FA_ERR_QUANTIZE_DTYPE, "o_dtype", args->o_dtype, FA_F32, FA_I8);
    fai_range(p, FA_ERR_QUANTIZE_TRANSPOSED, "transposed", args->transposed, 0, !args->hadamard && args->o_dtype == FA_E4M3);
    if (args->transposed && args->cu_seqlens_q && !args->o.stride_s)
        fai_bad(p, FA_ERR_QUANTIZE_TRANSPOSED, "o.stride_s", -1, 0, 16, (double)INT64_MAX);
    fai_check_rows(c, args->q, args->o, args->dtype, args->o_dtype, args->transposed);
    if (d->data) {
        fai_add_descale(p, &descale, 0, FA_ERR_QUANTIZE_DESCALE, field);
        if (p->status == FA_OK) { /* a stride of 0 says that a factor is shared */
            fai_span places = p->span[p->count - 1];
            for (int n = 0; n < 3; n++)
                if (!places.stride[n]) places.size[n] = 1;
            fai_check_places(p, &places);
            p->span[p->count - 1].kind = FAI_OUTPUT;
        }
    }
    fai_check_written(p, FA_ERR_O_OVERLAP);
    return p->status == FA_OK ? fai_fail(&c->a, FA_OK, "", -1, 0, 0, 0) : p->status;
}

/* Factors of each axis: 1 where its rows share one. */
typedef struct fai_factors {
    int64_t b, h, blocks;
} fai_factors;
FAI_HD static inline fai_factors fai_count_factors(const fa_args *a) {
    const fa_descale *d = &a->q_descale;
    const fai_factors n = {d->stride_b ? a->batch : 1, d->stride_h ? a->num_heads : 1,
                           d->block && d->stride_block ? ((int64_t)a->seqlen_q + d->block - 1) / d->block : 1};
    return n;
}

/* Row i of sequence seq becomes a column of a transposed tensor; behind the last row, to the end of its 16, zeros. */
static inline void fai_transpose_row(void *data, fai_strides st, const fa_sequence *seq, int32_t h, int32_t i, const char *code,
                                     int32_t dim) {
    char *to = (char *)data + seq->b_q * st.b + h * st.h;
    const int32_t end = i + 1 < seq->len_q ? i + 1 : (i / 16 + 1) * 16;
    for (int32_t j = i; j < end; j++, code = NULL)
        for (int32_t d = 0; d < dim; d++) to[d * st.s + fa_transposed_column(seq->row_q, seq->b - seq->b_q, j)] = code ? code[d] : 0;
}

/* o = q in another dtype, rotated or not; with descale: codes and their factors, absmax / 448 (e4m3), / 57344 (e5m2) or
 * / 127 (int8) of the rows that share one; what is rounded how: see the quantised caches above.  All factors are written,
 * 0 where there are no rows.  Rotation makes outliers small [Shah et al. 2024, FlashAttention-3, arXiv 2407.08608]; rotate
 * Q and K with the same seed: their products stay.  Sums are those of f32, level after level: the same bits everywhere. */
FAI_NOINLINE fa_status fa_quantize(const fa_quantize_args *args) {
    fai_cache_call c;
    const fa_status status = fai_check_quantize(&c, args, 0);
    if (status != FA_OK) return status;
    const fa_tensor *q = &args->q;
    const fa_tensor_out *o = &args->o;
    const fa_descale *d = &c.a.q_descale;
    const int64_t heads = args->num_heads, dim = args->head_dim;
    const fai_strides st_q = fai_resolve(q->stride_b, q->stride_s, q->stride_h, args->seqlen_q, heads, dim);
    const fai_strides st_o = args->transposed
                                 ? fai_resolve_transposed(o->stride_b, o->stride_s, o->stride_h, args->seqlen_q, heads, dim)
                                 : fai_resolve(o->stride_b, o->stride_s, o->stride_h, args->seqlen_q, heads, dim);
    const fai_factors count = fai_count_factors(&c.a);
    for (int64_t b = 0; d->data && b < count.b; b++)
        for (int64_t h = 0; h < count.h; h++)
            for (int64_t n = 0; n < count.blocks; n++)
                args->descale.data[b * d->stride_b + h * d->stride_h + n * d->stride_block] = 0;
    for (int codes = !d->data; codes < 2; codes++) /* the factors, then the codes */
        for (int32_t b = 0; b < args->batch; b++) {
            const fa_sequence seq = fa_get_sequence(&c.a, b);
            for (int32_t i = 0; i < seq.len_q; i++)
                for (int32_t h = 0; h < args->num_heads; h++) {
                    float x[256];
                    float *factor = args->descale.data;
                    fai_decode_row(x, (const char *)q->data + fai_offset_q(&seq, st_q, i, h) * (int64_t)fa_sizeof(args->dtype),
                                   args->dtype, args->head_dim);
                    if (args->hadamard) fai_hadamard_row(x, args->head_dim, args->seed);
                    if (factor) factor += fai_descale_at(&c.a, d, b, h, i) - d->data;
                    if (!codes) {
                        const float need = fai_row_factor(x, args->o_dtype, args->head_dim);
                        if (need > *factor) *factor = need;
                        continue;
                    }
                    char code[256];
                    char *row = args->transposed
                                    ? code
                                    : (char *)o->data + fai_offset_q(&seq, st_o, i, h) * (int64_t)fa_sizeof(args->o_dtype);
                    if (factor) fai_quantise_row(row, x, *factor, args->o_dtype, args->head_dim);
                    else fai_encode_row(row, x, args->o_dtype, args->head_dim);
                    if (args->transposed) fai_transpose_row(o->data, st_o, &seq, h, i, code, args->head_dim);
                }
        }
    return FA_OK;
}
#undef FAI_CACHE_SPAN
#undef FAI_EACH16

#endif /* FA_FLASHATTN_H */

/* clang-format off: generated names are macro calls, and it takes them for expressions */

/* ======================================================================================== */
/* >>template   one more instance: parameters, their defaults and limits                     */
/* ======================================================================================== */

#if !defined(FA_NAME) && \
    (defined(FA_HEAD_DIM) || defined(FA_HEAD_DIM_V) || defined(FA_DTYPE) || defined(FA_KV_DTYPE) || \
     defined(FA_O_DTYPE) || defined(FA_PASSES) || defined(FA_FEATURES) || defined(FA_BLOCK_M) || defined(FA_BLOCK_N) || \
     defined(FA_SCORE_MOD) || defined(FA_SCORE_MOD_GRAD) || defined(FA_MASK_MOD) || defined(FA_WARPS) || \
     defined(FA_STAGES) || defined(FA_PROMOTE))
#error \
    "flashattn.h: parameters without FA_NAME: define FA_NAME, the prefix of what is generated, before including"
#endif

/* flashattn_cuda.cuh defines FAI_CUDA and includes this file twice for each of its instances: for the parameters, which
 * stay defined, and, with FAI_FORGET, to forget them. */
#if defined(FA_NAME) && !defined(FAI_BODY) && !defined(FAI_FORGET)

#if !defined(__GNUC__) && !defined(__clang__)
#error \
    "flashattn.h: kernels need gcc or clang (vector extensions); this compiler can use the types and the reference only"
#endif

/* Each check replaces a bad value by a legal one, so that its message is the only one. */
#ifndef FA_HEAD_DIM
#error "flashattn.h: define FA_HEAD_DIM (a multiple of 16 in 16..256) before including"
#define FA_HEAD_DIM 64
#elif FA_HEAD_DIM < 16 || FA_HEAD_DIM > 256 || FA_HEAD_DIM % 16 != 0
#error \
    "flashattn.h: FA_HEAD_DIM must be a multiple of 16 in 16..256; pad the rows of q and k with zeros to the next one"
#undef FA_HEAD_DIM
#define FA_HEAD_DIM 64
#endif

#ifndef FA_HEAD_DIM_V
#define FA_HEAD_DIM_V FA_HEAD_DIM
#elif FA_HEAD_DIM_V < 16 || FA_HEAD_DIM_V > 256 || FA_HEAD_DIM_V % 16 != 0
#error \
    "flashattn.h: FA_HEAD_DIM_V must be a multiple of 16 in 16..256; columns of v are independent, so split or pad it"
#undef FA_HEAD_DIM_V
#define FA_HEAD_DIM_V 64
#endif

#if !defined(FA_DTYPE) && defined(FAI_CUDA)
#define FA_DTYPE FA_BF16
#elif !defined(FA_DTYPE)
#define FA_DTYPE FA_F32
#elif FA_DTYPE < FA_F32 || FA_DTYPE > FA_E5M2
#error "flashattn.h: FA_DTYPE must be FA_F32, FA_F16, FA_BF16, FA_E4M3 or FA_E5M2"
#undef FA_DTYPE
#define FA_DTYPE FA_F32
#endif

#ifndef FA_KV_DTYPE
#define FA_KV_DTYPE FA_DTYPE
#elif FA_KV_DTYPE < FA_F32 || FA_KV_DTYPE > FA_I8
#error "flashattn.h: FA_KV_DTYPE must be FA_F32, FA_F16, FA_BF16, FA_E4M3, FA_E5M2 or FA_I8"
#undef FA_KV_DTYPE
#define FA_KV_DTYPE FA_F32
#endif

#ifndef FA_O_DTYPE
#if FA_DTYPE >= FA_E4M3
#define FA_O_DTYPE FA_BF16
#else
#define FA_O_DTYPE FA_DTYPE
#endif
#elif FA_O_DTYPE < FA_F32 || FA_O_DTYPE > FA_BF16
#error "flashattn.h: FA_O_DTYPE must be FA_F32, FA_F16 or FA_BF16"
#undef FA_O_DTYPE
#define FA_O_DTYPE FA_F32
#endif

#if !defined(FA_PASSES) && defined(FAI_CUDA)
#define FA_PASSES FA_FORWARD
#elif !defined(FA_PASSES)
#if FA_DTYPE <= FA_BF16 && FA_KV_DTYPE <= FA_BF16
#define FA_PASSES (FA_DEFAULT_PASSES)
#else
#define FA_PASSES ((FA_DEFAULT_PASSES) & ~FA_BACKWARD)
#endif
#elif !(FA_PASSES) || (FA_PASSES) & ~7u
#error "flashattn.h: FA_PASSES must be one or more of FA_FORWARD, FA_BACKWARD and FA_DECODE, combined with |"
#undef FA_PASSES
#define FA_PASSES FA_FORWARD
#elif ((FA_PASSES) & FA_BACKWARD) && (FA_DTYPE > FA_BF16 || FA_KV_DTYPE > FA_BF16)
#error "flashattn.h: fp8 and int8 have no backward pass: leave FA_BACKWARD out of FA_PASSES, or train in FA_BF16"
#undef FA_PASSES
#define FA_PASSES FA_FORWARD
#endif

#ifndef FA_FEATURES
#define FA_FEATURES FA_DEFAULT_FEATURES
#elif (FA_FEATURES) & ~FA_ALL_FEATURES
#error \
    "flashattn.h: FA_FEATURES has unknown bits: combine FA_CAUSAL, FA_WINDOW, ... of FA_FEATURE_LIST with |"
#undef FA_FEATURES
#define FA_FEATURES FA_DEFAULT_FEATURES
#endif

#if !defined(FAI_CUDA) /* there the tiles depend on the GPU, too */
/* Most query rows of a task.  They share each staged K/V tile, so more rows mean fewer readings of K and V: with 8 heads
 * side by side (d 128, N 1024, f32) 128 / 256 / 512 rows gave 125 / 136 / 143 GFLOP/s; one head alone does not care.
 * Q^T and O^T of 512 rows at head dim 128 are 512 KB of L2, and 256 rows above that. */
#ifndef FA_BLOCK_M
#if FA_HEAD_DIM + FA_HEAD_DIM_V <= 256
#define FA_BLOCK_M 512
#else
#define FA_BLOCK_M 256
#endif
#elif FA_BLOCK_M < 64 || FA_BLOCK_M > 1024 || FA_BLOCK_M % 64 != 0
#error "flashattn.h: FA_BLOCK_M must be a multiple of 64 in 64..1024"
#undef FA_BLOCK_M
#define FA_BLOCK_M 128
#endif

/* Keys of a tile.  192 keys of K and V at head dim 256 are 384 KB, and P^T of a panel stays in L1. */
#ifndef FA_BLOCK_N
#define FA_BLOCK_N 192
#elif FA_BLOCK_N < 64 || FA_BLOCK_N > 1024 || FA_BLOCK_N % 64 != 0
#error "flashattn.h: FA_BLOCK_N must be a multiple of 64 in 64..1024"
#undef FA_BLOCK_N
#define FA_BLOCK_N 192
#endif
#endif

#if defined(FA_SCORE_MOD_GRAD) && !defined(FA_SCORE_MOD)
#error "flashattn.h: FA_SCORE_MOD_GRAD without FA_SCORE_MOD: define the function whose derivative it is"
#undef FA_SCORE_MOD_GRAD
#endif

#define FAI_CAT2(a, b) a##_##b
#define FAI_CAT(a, b) FAI_CAT2(a, b)
#define FA_(x) FAI_CAT(FA_NAME, x) /* attn64_x */
#define FAI_IN2(name, x, isa) fai_##name##_##x##_##isa
#define FAI_IN1(name, x, isa) FAI_IN2(name, x, isa)
#define FAI_IN(x, isa) FAI_IN1(FA_NAME, x, isa)
#define FAI_(x) FAI_IN(x, FAI_ISA) /* fai_attn64_x_avx512 */
#define FAI_STRING2(x) #x
#define FAI_STRING(x) FAI_STRING2(x)

#if !defined(FAI_CUDA) /* to the end of the chapter */
/* The hooks as functions: in float for the kernel, in double for the reference. */
#if defined(FA_SCORE_MOD)
static inline float FA_(score_mod_f)(float s, int b, int h, int i, int j) {
    (void)b, (void)h, (void)i, (void)j;
    return (float)(FA_SCORE_MOD(s, b, h, i, j));
}
static inline double FA_(score_mod)(double s, int b, int h, int i, int j) {
    (void)b, (void)h, (void)i, (void)j;
    return (double)(FA_SCORE_MOD(s, b, h, i, j));
}
#endif
#if defined(FA_SCORE_MOD_GRAD)
static inline float FA_(score_mod_grad_f)(float s, int b, int h, int i, int j) {
    (void)s, (void)b, (void)h, (void)i, (void)j;
    return (float)(FA_SCORE_MOD_GRAD(s, b, h, i, j));
}
static inline double FA_(score_mod_grad)(double s, int b, int h, int i, int j) {
    (void)s, (void)b, (void)h, (void)i, (void)j;
    return (double)(FA_SCORE_MOD_GRAD(s, b, h, i, j));
}
#endif
#if defined(FA_MASK_MOD)
static inline int FA_(mask_mod)(int b, int h, int i, int j) {
    (void)b, (void)h, (void)i, (void)j;
    return (FA_MASK_MOD(b, h, i, j)) != 0;
}
#endif

#if (FA_PASSES) & FA_FORWARD
static inline size_t FA_(forward_workspace)(const fa_args *args);
static inline fa_status FA_(forward)(const fa_args *args, void *workspace, size_t bytes);
#endif
#if (FA_PASSES) & FA_BACKWARD
static inline size_t FA_(backward_workspace)(const fa_args *args);
static inline fa_status FA_(backward)(const fa_args *args, void *workspace, size_t bytes);
#endif
#if (FA_PASSES) & FA_DECODE
static inline size_t FA_(decode_workspace)(const fa_args *args);
static inline fa_status FA_(decode)(const fa_args *args, void *workspace, size_t bytes);
#endif

static const fa_info FA_(info) = {FAI_STRING(FA_NAME),
                                  FA_HEAD_DIM,
                                  FA_HEAD_DIM_V,
                                  FA_DTYPE,
                                  FA_KV_DTYPE,
                                  FA_O_DTYPE,
                                  FA_BLOCK_M,
                                  FA_BLOCK_N,
                                  (FA_FEATURES),
                                  (FA_PASSES),
#if defined(FA_SCORE_MOD)
                                  FA_(score_mod),
#else
                                   NULL,
#endif
#if defined(FA_SCORE_MOD_GRAD)
                                  FA_(score_mod_grad),
#else
                                   NULL,
#endif
#if defined(FA_MASK_MOD)
                                  FA_(mask_mod),
#else
                                   NULL,
#endif
#if (FA_PASSES) & FA_FORWARD
                                  FA_(forward_workspace),
                                  FA_(forward),
#else
                                   NULL, NULL,
#endif
#if (FA_PASSES) & FA_BACKWARD
                                  FA_(backward_workspace),
                                  FA_(backward),
#else
                                   NULL, NULL,
#endif
#if (FA_PASSES) & FA_DECODE
                                  FA_(decode_workspace),
                                  FA_(decode)
#else
                                   NULL, NULL
#endif
};

/* Products of bf16 values may go through vdpbf16ps, two multiply-adds in each lane.  fp8 and int8 values are exact in bf16. */
#define FAI_IS_BF16(dtype) ((dtype) >= FA_BF16 && (dtype) <= FA_I8)
#define FAI_PAIRS_WANTED \
    (FAI_IS_BF16(FA_DTYPE) && FAI_IS_BF16(FA_KV_DTYPE) && FA_HEAD_DIM % 32 == 0) /* whole vectors */

/* Instruction sets in rising order. */
#define FAI_PORTABLE 1
#define FAI_NEON 2
#define FAI_AVX2 3
#define FAI_AVX512 4
#define FAI_AVX512_BF16 5

/* FA_BF16_DOT (sticky): 1 = use vdpbf16ps where the target has it.  It doubles the rate of f32 FMA on AMD Zen 4 and 5.
 * Intel cores run it at half the f32 rate (measured: 87 against 180 GFLOP/s on a Xeon of
 * family 6 model 207), so there bf16 is widened to f32. */
#ifndef FA_BF16_DOT
#if defined(__cooperlake__) || defined(__sapphirerapids__) || defined(__graniterapids__) || \
    defined(__corei7__)
#define FA_BF16_DOT 0
#else
#define FA_BF16_DOT 1
#endif
#endif

#if defined(FA_DISPATCH) && defined(__x86_64__) && !defined(__CUDACC__)
#define FAI_DISPATCH /* several bodies: this file includes itself, once for each instruction set */
#ifndef FA_SELF      /* (sticky) the name of this file, should yours differ */
#define FA_SELF "flashattn.h"
#endif
#define FAI_BODY
#define FAI_ISA portable
#define FAI_ISA_CODE FAI_PORTABLE
#include FA_SELF
#undef FAI_ISA_CODE
#undef FAI_ISA
#define FAI_ISA avx2
#define FAI_ISA_CODE FAI_AVX2
#include FA_SELF
#undef FAI_ISA_CODE
#undef FAI_ISA
#define FAI_ISA avx512
#define FAI_ISA_CODE FAI_AVX512
#include FA_SELF
#undef FAI_ISA_CODE
#undef FAI_ISA
#if FAI_PAIRS_WANTED && FA_BF16_DOT
#define FAI_ISA avx512_bf16
#define FAI_ISA_CODE FAI_AVX512_BF16
#include FA_SELF
#undef FAI_ISA_CODE
#undef FAI_ISA
#endif
#undef FAI_BODY

#elif defined(__CUDACC__)
#define FAI_ISA portable
#define FAI_ISA_CODE FAI_PORTABLE
#elif defined(__AVX512BF16__) && defined(__AVX512DQ__) && defined(__AVX512BW__) && FAI_PAIRS_WANTED && \
    FA_BF16_DOT
#define FAI_ISA avx512_bf16
#define FAI_ISA_CODE FAI_AVX512_BF16
#elif defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define FAI_ISA avx512
#define FAI_ISA_CODE FAI_AVX512
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define FAI_ISA avx2
#define FAI_ISA_CODE FAI_AVX2
#elif defined(__ARM_NEON) && defined(__aarch64__)
#define FAI_ISA neon
#define FAI_ISA_CODE FAI_NEON
#else
#define FAI_ISA portable
#define FAI_ISA_CODE FAI_PORTABLE
#endif

#endif /* not CUDA */
#endif /* parameters */

/* ======================================================================================== */
/* >>vector   one vector of FAI_VL floats: the only code that knows the instruction set      */
/* ======================================================================================== */

#if defined(FA_NAME) && !defined(FAI_CUDA) && (!defined(FAI_DISPATCH) || defined(FAI_BODY))

#if defined(FAI_DISPATCH) /* this body is compiled for its own instruction set, whatever the flags */
#if defined(__clang__) && FAI_ISA_CODE == FAI_AVX512_BF16
#pragma clang attribute push(__attribute__((target("avx512bf16,avx512f,avx512bw,avx512vl,avx512dq,f16c"))), \
                             apply_to = function)
#elif defined(__clang__) && FAI_ISA_CODE == FAI_AVX512
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,f16c"))), \
                             apply_to = function)
#elif defined(__clang__) && FAI_ISA_CODE == FAI_AVX2
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#elif !defined(__clang__)
#pragma GCC push_options
#if FAI_ISA_CODE == FAI_AVX512_BF16
#pragma GCC target("avx512bf16,avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")
#elif FAI_ISA_CODE == FAI_AVX512
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")
#elif FAI_ISA_CODE == FAI_AVX2
#pragma GCC target("avx2,fma,f16c")
#endif
#endif
#endif

#if defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__) && defined(__cplusplus)
#pragma GCC diagnostic push /* g++ takes _mm512_undefined_ps of its own intrinsics for a mistake */
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

/* Shape of the microkernel: FAI_MR keys x FAI_NV vectors of FAI_VL queries, all in registers.
 *   AVX-512: 8 x 2 of 16 = 16 accumulators, enough for 2 FMA a cycle of latency 4; 12 x 2 and 8 x 3 measured no faster
 *   AVX2:    6 x 2 of 8  = 12 accumulators + 2 + 1 of 16 registers; 4 x 2 is 8 to 13 % slower
 *   NEON:    8 x 2 of 4 of 32 registers;  portable: 4 x 2 of 4, for 16 registers as of SSE2 */
#if FAI_ISA_CODE >= FAI_AVX512
#define FAI_VL 16
#define FAI_MR 8
#elif FAI_ISA_CODE == FAI_AVX2
#define FAI_VL 8
#define FAI_MR 6
#elif FAI_ISA_CODE == FAI_NEON
#define FAI_VL 4
#define FAI_MR 8
#else
#define FAI_VL 4
#define FAI_MR 4
#endif
#define FAI_NV 2
#define FAI_PW (FAI_VL * FAI_NV) /* queries of a panel */

/* One copy of the layer for each instruction set in a translation unit: fai_exp2 is fai_exp2_avx512, ... */
#define FAI_PASTE2(x, isa) fai_##x##_##isa
#define FAI_PASTE(x, isa) FAI_PASTE2(x, isa)
#define FAI_V(x) FAI_PASTE(x, FAI_ISA)
#define fai_vec FAI_V(vec)     /* FAI_VL floats */
#define fai_ivec FAI_V(ivec)   /* FAI_VL int32, also masks: 0 or -1 */
#define fai_uvec FAI_V(uvec)   /* FAI_VL uint32 */
#define fai_vec_u FAI_V(vec_u) /* fai_vec anywhere in memory */
#define fai_splat FAI_V(splat)
#define fai_isplat FAI_V(isplat)
#define fai_max FAI_V(max)
#define fai_select FAI_V(select)
#define fai_any FAI_V(any)
#define fai_fma FAI_V(fma)
#define fai_mac FAI_V(mac)
#define fai_exp2 FAI_V(exp2)
#define fai_exp2_cut FAI_V(exp2_cut)
#define fai_tanh FAI_V(tanh)
#define fai_mulhilo FAI_V(mulhilo)
#define fai_zip FAI_V(zip)
#define fai_transpose FAI_V(transpose)
#define fai_load FAI_V(load)
#define fai_load2 FAI_V(load2)
#define fai_pair FAI_V(pair)
#define fai_ceil FAI_V(ceil)
#define fai_store FAI_V(store)

#if (FAI_ISA_CODE == FAI_AVX512_BF16 && !defined(FAI_HAVE_AVX512_BF16)) || \
    (FAI_ISA_CODE == FAI_AVX512 && !defined(FAI_HAVE_AVX512)) || \
    (FAI_ISA_CODE == FAI_AVX2 && !defined(FAI_HAVE_AVX2)) || \
    (FAI_ISA_CODE == FAI_NEON && !defined(FAI_HAVE_NEON)) || \
    (FAI_ISA_CODE == FAI_PORTABLE && !defined(FAI_HAVE_PORTABLE))
#if FAI_ISA_CODE == FAI_AVX512_BF16
#define FAI_HAVE_AVX512_BF16
#elif FAI_ISA_CODE == FAI_AVX512
#define FAI_HAVE_AVX512
#elif FAI_ISA_CODE == FAI_AVX2
#define FAI_HAVE_AVX2
#elif FAI_ISA_CODE == FAI_NEON
#define FAI_HAVE_NEON
#else
#define FAI_HAVE_PORTABLE
#endif

typedef float fai_vec __attribute__((vector_size(4 * FAI_VL)));
typedef int32_t fai_ivec __attribute__((vector_size(4 * FAI_VL)));
typedef uint32_t fai_uvec __attribute__((vector_size(4 * FAI_VL)));
typedef float fai_vec_u __attribute__((vector_size(4 * FAI_VL), aligned(1), may_alias));

/* x - 0 is x for every x, -0 and NaN included, so this is the broadcast alone */
FAI_INLINE fai_vec fai_splat(float x) {
    const fai_vec zero = {0};
    return x - zero;
}
FAI_INLINE fai_ivec fai_isplat(int32_t x) {
    const fai_ivec zero = {0};
    return x - zero;
}
FAI_INLINE fai_vec fai_select(fai_ivec mask, fai_vec yes, fai_vec no) {
    return (fai_vec)(((fai_ivec)yes & mask) | ((fai_ivec)no & ~mask));
}

FAI_INLINE fai_vec fai_max(fai_vec a, fai_vec b) {
#if FAI_ISA_CODE >= FAI_AVX512
    return (fai_vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif FAI_ISA_CODE == FAI_AVX2
    return (fai_vec)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return fai_select(a > b, a, b);
#endif
}

FAI_INLINE int fai_any(fai_ivec mask) {
#if FAI_ISA_CODE >= FAI_AVX512
    return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#elif FAI_ISA_CODE == FAI_AVX2
    return _mm256_movemask_ps((__m256)mask) != 0;
#else
    int32_t any = 0;
    FAI_EACH (l, 0, FAI_VL) any |= mask[l];
    return any != 0;
#endif
}

/* a * b + c */
FAI_INLINE fai_vec fai_fma(fai_vec a, fai_vec b, fai_vec c) {
#if FAI_ISA_CODE >= FAI_AVX512
    return (fai_vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif FAI_ISA_CODE == FAI_AVX2
    return (fai_vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif FAI_ISA_CODE == FAI_NEON
    return (fai_vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

/* a * b + c, or with bf16 pairs in each 32-bit word a.lo * b.lo + a.hi * b.hi + c */
FAI_INLINE fai_vec fai_mac(const int pairs, fai_vec a, fai_vec b, fai_vec c) {
#if FAI_ISA_CODE == FAI_AVX512_BF16
    if (pairs) return (fai_vec)_mm512_dpbf16_ps((__m512)c, (__m512bh)a, (__m512bh)b);
#else
    (void)pairs;
#endif
    return fai_fma(a, b, c);
}

/* 2^x, 0 below 2^-126, infinity from 2^128.  2^n times a minimax polynomial in f = x - n with constant term 1 (exact at
 * integers); relative error of the degrees 5 and 4: 1.7e-7 and 3.0e-6 in all.  Degree 4 serves where P becomes bf16. */
FAI_INLINE fai_vec fai_exp2(const int degree, fai_vec x) {
#if FAI_ISA_CODE >= FAI_AVX512
    /* f = x - floor(x) in [0, 1): vreduceps and vscalefps do the splitting, infinities and NaN included */
    const float c4[] = {1.34266844e-2f, 5.22424739e-2f, 2.41280205e-1f, 6.93044845e-1f, 1};
    const float c5[] = {1.86713009e-3f, 9.01703028e-3f, 5.57999132e-2f, 2.4016445e-1f, 6.93151312e-1f, 1};
    fai_vec f = (fai_vec)_mm512_reduce_ps((__m512)x, 9), p = fai_splat(degree == 4 ? c4[0] : c5[0]);
    if (degree == 4) {
        FAI_EACH (i, 1, 5) p = fai_fma(p, f, fai_splat(c4[i]));
    } else {
        FAI_EACH (i, 1, 6) p = fai_fma(p, f, fai_splat(c5[i]));
    }
    return (fai_vec)_mm512_scalef_ps((__m512)p, (__m512)x);
#else
    /* n = round(x) by adding 1.5 * 2^23, f in [-0.5, 0.5]; n goes into the exponent by an integer add */
    const float c[] = {1.32647271e-3f, 9.67151265e-3f, 5.55073374e-2f, 2.40222421e-1f, 6.93146978e-1f, 1};
    fai_vec magic = fai_splat(12582912.0f), t, f, p = fai_splat(c[0]);
    (void)degree;
    x = fai_select(x > fai_splat(128), fai_splat(128), x); /* 2^128 comes out as infinity */
    t = x + magic, f = x - (t - magic);
    FAI_EACH (i, 1, 6) p = fai_fma(p, f, fai_splat(c[i]));
    p = (fai_vec)((fai_uvec)p + ((fai_uvec)t << 23));
    p = (fai_vec)((fai_ivec)p & (x >= fai_splat(-126.0f)));
    return fai_select(x == x, p, x);
#endif
}

/* The same, but 0 below 2^-100.  Where scores spread widely (ALiBi) many P are near the smallest float, and products with
 * subnormal operands or results take 100 cycles and more: backward 84 -> 137 GFLOP/s. */
FAI_INLINE fai_vec fai_exp2_cut(const int degree, fai_vec x) {
    return (fai_vec)((fai_ivec)fai_exp2(degree, x) & ~(x < fai_splat(-100))); /* NaN stays */
}

/* High and low words of x * m. */
FAI_INLINE void fai_mulhilo(fai_uvec x, uint32_t m, fai_uvec *hi, fai_uvec *lo) {
#if FAI_ISA_CODE >= FAI_AVX512
    __m512i mm = _mm512_set1_epi64(m), even = _mm512_mul_epu32((__m512i)x, mm);
    __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64((__m512i)x, 32), mm);
    *hi = (fai_uvec)_mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd);
    *lo = (fai_uvec)_mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32));
#else
    FAI_EACH (l, 0, FAI_VL) {
        uint64_t product = (uint64_t)x[l] * m;
        (*hi)[l] = (uint32_t)(product >> 32), (*lo)[l] = (uint32_t)product;
    }
#endif
}

/* lo = a0 b0 a1 b1 ..., hi = the same of the upper halves */
FAI_INLINE void fai_zip(fai_vec a, fai_vec b, fai_vec *lo, fai_vec *hi) {
#if defined(__CUDACC__)
    for (int l = 0; l < FAI_VL / 2; l++) {
        (*lo)[2 * l] = a[l], (*lo)[2 * l + 1] = b[l];
        (*hi)[2 * l] = a[l + FAI_VL / 2], (*hi)[2 * l + 1] = b[l + FAI_VL / 2];
    }
#else
#if FAI_VL == 16
#define FAI_ZIP_LO 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define FAI_ZIP_HI 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif FAI_VL == 8
#define FAI_ZIP_LO 0, 8, 1, 9, 2, 10, 3, 11
#define FAI_ZIP_HI 4, 12, 5, 13, 6, 14, 7, 15
#else
#define FAI_ZIP_LO 0, 4, 1, 5
#define FAI_ZIP_HI 2, 6, 3, 7
#endif
#if defined(__clang__)
    *lo = __builtin_shufflevector(a, b, FAI_ZIP_LO), *hi = __builtin_shufflevector(a, b, FAI_ZIP_HI);
#else
    const fai_ivec order_lo = {FAI_ZIP_LO}, order_hi = {FAI_ZIP_HI};
    *lo = __builtin_shuffle(a, b, order_lo), *hi = __builtin_shuffle(a, b, order_hi);
#endif
#undef FAI_ZIP_LO
#undef FAI_ZIP_HI
#endif
}

/* r[i][j] <-> r[j][i], FAI_VL x FAI_VL words: log2(FAI_VL) rounds of perfect shuffles */
FAI_INLINE void fai_transpose(fai_vec r[FAI_VL]) {
    FAI_FULL
    for (int round = 1; round < FAI_VL; round *= 2) {
        fai_vec t[FAI_VL];
        FAI_EACH (i, 0, FAI_VL / 2) fai_zip(r[i], r[i + FAI_VL / 2], &t[2 * i], &t[2 * i + 1]);
        FAI_EACH (i, 0, FAI_VL) r[i] = t[i];
    }
}

/* FAI_VL elements of a dtype as f32 */
FAI_INLINE fai_vec fai_load(const int dtype, const void *data, int64_t index) {
    fai_vec r = {0};
    if (dtype == FA_F32) return *(const fai_vec_u *)((const float *)data + index);
    if (dtype == FA_BF16) {
        uint16_t h[FAI_VL];
        fai_uvec u = {0};
        memcpy(h, (const uint16_t *)data + index, sizeof h);
#if FAI_ISA_CODE >= FAI_AVX512
        u = (fai_uvec)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)h));
#elif FAI_ISA_CODE == FAI_AVX2
        u = (fai_uvec)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)h));
#else
        FAI_EACH (l, 0, FAI_VL) u[l] = h[l];
#endif
        return (fai_vec)(u << 16);
    }
    if (dtype == FA_F16) {
#if FAI_ISA_CODE >= FAI_AVX512
        return (fai_vec)_mm512_cvtph_ps(
            _mm256_loadu_si256((const __m256i *)(const void *)((const uint16_t *)data + index)));
#elif FAI_ISA_CODE == FAI_AVX2
        return (fai_vec)_mm256_cvtph_ps(
            _mm_loadu_si128((const __m128i *)(const void *)((const uint16_t *)data + index)));
#elif FAI_ISA_CODE == FAI_NEON
        float16x4_t h;
        memcpy(&h, (const uint16_t *)data + index, sizeof h);
        return (fai_vec)vcvt_f32_f16(h);
#endif
    }
#if FAI_ISA_CODE >= FAI_AVX2
    /* fp8 by way of binary16, 2 to 3 times as fast as below: e5m2 is its upper half; e4m3 has 4 exponent bits where it has
     * 5, which makes it 2^8 smaller, subnormals included, and only its NaN has to be put right. */
    if (dtype == FA_E4M3 || dtype == FA_E5M2) {
        const uint8_t *code = (const uint8_t *)data + index;
#if FAI_ISA_CODE >= FAI_AVX512
        __m256i h = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)code)), nan;
        if (dtype == FA_E5M2) return (fai_vec)_mm512_cvtph_ps(_mm256_slli_epi16(h, 8));
        h = _mm256_and_si256(_mm256_slli_epi16(h, 7), _mm256_set1_epi16((short)0xbf80));
        nan = _mm256_cmpeq_epi16(_mm256_and_si256(h, _mm256_set1_epi16(0x7fff)), _mm256_set1_epi16(0x3f80));
        return (fai_vec)_mm512_cvtph_ps(_mm256_or_si256(h, _mm256_and_si256(nan, _mm256_set1_epi16(0x7c00)))) * 256.0f;
#else
        __m128i h = _mm_cvtepi8_epi16(_mm_loadl_epi64((const __m128i *)(const void *)code)), nan;
        if (dtype == FA_E5M2) return (fai_vec)_mm256_cvtph_ps(_mm_slli_epi16(h, 8));
        h = _mm_and_si128(_mm_slli_epi16(h, 7), _mm_set1_epi16((short)0xbf80));
        nan = _mm_cmpeq_epi16(_mm_and_si128(h, _mm_set1_epi16(0x7fff)), _mm_set1_epi16(0x3f80));
        return (fai_vec)_mm256_cvtph_ps(_mm_or_si128(h, _mm_and_si128(nan, _mm_set1_epi16(0x7c00)))) * 256.0f;
#endif
    }
#endif
    if (dtype == FA_E4M3 || dtype == FA_E5M2) {
        const uint8_t *code = (const uint8_t *)data + index;
        fai_ivec c = {0}, magnitude, e5m2 = fai_isplat(dtype == FA_E5M2 ? -1 : 0);
        FAI_EACH (l, 0, FAI_VL) c[l] = code[l];
        /* Exponent and mantissa move into place and the bias is made up (e4m3: 127 - 7 = 120, e5m2: 127 - 15 = 112).
         * Exponent 0 is a subnormal: set the exponent of the smallest normal number and subtract that number. */
        magnitude = c & 0x7f;
        {
            const int shift = dtype == FA_E4M3 ? 20 : 21, bias = dtype == FA_E4M3 ? 120 : 112;
            fai_ivec bits = magnitude << shift, smallest = fai_isplat((bias + 1) << 23);
            fai_vec normal = (fai_vec)(bits + (bias << 23));
            fai_vec subnormal = (fai_vec)(bits | smallest) - (fai_vec)smallest;
            r = fai_select(bits < fai_isplat(1 << 23), subnormal, normal);
        }
        {
            fai_ivec special = dtype == FA_E4M3 ? magnitude == 0x7f : magnitude >= 0x7c;
            fai_ivec value = 0x7f800000 | ((magnitude & ~e5m2) << 16) | ((magnitude & 3 & e5m2) << 21);
            r = fai_select(special, (fai_vec)value, r);
        }
        return (fai_vec)((fai_ivec)r | (c & 0x80) << 24);
    }
    if (dtype == FA_I8) {
        const int8_t *code = (const int8_t *)data + index;
#if FAI_ISA_CODE >= FAI_AVX512
        return (fai_vec)_mm512_cvtepi32_ps(
            _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)code)));
#elif FAI_ISA_CODE == FAI_AVX2
        return (fai_vec)_mm256_cvtepi32_ps(
            _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)code)));
#else
        FAI_EACH (l, 0, FAI_VL) r[l] = (float)code[l];
        return r;
#endif
    }
    FAI_EACH (l, 0, FAI_VL) r[l] = fa_load(data, index + l, dtype);
    return r;
}

/* 2 VL consecutive elements as f32.  bf16: the even ones and the odd ones, which are one instruction each; else in order. */
FAI_INLINE void fai_load2(const int dtype, const void *data, fai_vec *a, fai_vec *b) {
    if (dtype == FA_BF16 && FAI_LITTLE_ENDIAN) {
        fai_uvec u;
        memcpy(&u, data, sizeof u);
        *a = (fai_vec)(u << 16), *b = (fai_vec)(u & 0xffff0000u);
#if FAI_ISA_CODE >= FAI_AVX512
    } else if (dtype == FA_E4M3 || dtype == FA_E5M2) { /* as in fai_load, twice as wide */
        const float scale = dtype == FA_E4M3 ? 256 : 1;
        __m512i h = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)data));
        if (dtype == FA_E5M2) {
            h = _mm512_slli_epi16(h, 8);
        } else {
            h = _mm512_and_si512(_mm512_slli_epi16(h, 7), _mm512_set1_epi16((short)0xbf80));
            h = _mm512_mask_mov_epi16(h, _mm512_cmpeq_epi16_mask(_mm512_and_si512(h, _mm512_set1_epi16(0x7fff)), _mm512_set1_epi16(0x3f80)),
                                      _mm512_set1_epi16(0x7e00));
        }
        *a = (fai_vec)_mm512_cvtph_ps(_mm512_castsi512_si256(h)) * scale;
        *b = (fai_vec)_mm512_cvtph_ps(_mm512_extracti64x4_epi64(h, 1)) * scale;
#endif
    } else {
        *a = fai_load(dtype, data, 0), *b = fai_load(dtype, data, FAI_VL);
    }
}

/* bf16 pairs: lane l holds (lo[l], hi[l]) */
FAI_INLINE fai_vec fai_pair(fai_vec lo, fai_vec hi) {
#if FAI_ISA_CODE == FAI_AVX512_BF16
    __m512i l = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)lo));
    __m512i h = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)hi));
    return (fai_vec)_mm512_or_si512(l, _mm512_slli_epi32(h, 16));
#else
    (void)hi;
    return lo;
#endif
}

/* f32 as FAI_VL elements of FA_F32, FA_F16 or FA_BF16, rounded to nearest even */
FAI_INLINE void fai_store(const int dtype, void *data, int64_t index, fai_vec x) {
    if (dtype == FA_F32) {
        *(fai_vec_u *)((float *)data + index) = x;
#if FAI_ISA_CODE >= FAI_AVX512
    } else if (dtype == FA_F16) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-conversion" /* inside the macro that gcc -O0 makes of it */
        _mm256_storeu_si256((__m256i *)(void *)((uint16_t *)data + index), _mm512_cvtps_ph((__m512)x, 8));
#pragma GCC diagnostic pop
#elif FAI_ISA_CODE == FAI_AVX2
    } else if (dtype == FA_F16) {
        _mm_storeu_si128((__m128i *)(void *)((uint16_t *)data + index), _mm256_cvtps_ph((__m256)x, 8));
#endif
    } else if (dtype == FA_BF16) {
        fai_uvec u = (fai_uvec)x, rounded = u + (0x7fff + (u >> 16 & 1)), quiet = u | 0x400000;
        u = (fai_uvec)fai_select(x == x, (fai_vec)rounded, (fai_vec)quiet) >> 16;
#if FAI_ISA_CODE >= FAI_AVX512
        _mm256_storeu_si256((__m256i *)(void *)((uint16_t *)data + index), _mm512_cvtepi32_epi16((__m512i)u));
#else
        FAI_EACH (l, 0, FAI_VL) ((uint16_t *)data)[index + l] = (uint16_t)u[l];
#endif
    } else {
        FAI_EACH (l, 0, FAI_VL) fa_store(data, index + l, dtype, x[l]);
    }
}

FAI_INLINE fai_vec fai_ceil(fai_vec x) {
#if FAI_ISA_CODE >= FAI_AVX512
    return (fai_vec)_mm512_ceil_ps((__m512)x);
#elif FAI_ISA_CODE == FAI_AVX2
    return (fai_vec)_mm256_ceil_ps((__m256)x);
#else
    FAI_EACH (l, 0, FAI_VL) x[l] = ceilf(x[l]);
    return x;
#endif
}

/* tanh x = e / (e + 2), e = exp(2x) - 1 = 2^n (q + 1) - 1 with q = exp(f) - 1, |f| <= ln2/2.  Error 2.6 ulp, |tanh| <= 1 and
 * tiny x exact; NaN stays.  (A rational function of f32 coefficients does not get below 5 ulp near 1.) */
FAI_INLINE fai_vec fai_tanh(fai_vec x) {
    const fai_vec magic = fai_splat(12582912.0f); /* rounds to integers */
    fai_vec t, n, f, p, s, e;
    x = fai_select(x > fai_splat(10), fai_splat(10), x);
    x = fai_select(x < fai_splat(-10), fai_splat(-10), x);
    t = fai_fma(x, fai_splat(2.88539008f), magic), n = t - magic;
    f = fai_fma(n, fai_splat(-0.693147182f), x + x);
    p = fai_fma(fai_splat(0.00138706574f), f, fai_splat(0.00836626161f));
    p = fai_fma(p, f, fai_splat(0.0416674353f));
    p = fai_fma(p, f, fai_splat(0.166665465f));
    p = fai_fma(p, f, fai_splat(0.49999997f));
    s = (fai_vec)((fai_uvec)fai_splat(1) + ((fai_uvec)t << 23));
    e = fai_fma(s, fai_fma(f * f, p, f), s - 1.0f);
    return e / (e + 2.0f);
}
#endif /* first use of this instruction set */

/* ======================================================================================== */
/* >>forward  the kernel: queries in the lanes, K and V broadcast from their rows            */
/* ======================================================================================== */

/*     S^T[key][query] = K Q^T        P^T = exp2(S^T - m)        O^T[dim][query] = V^T P^T
 *
 * A task is up to FA_BLOCK_M query rows of one key/value head.  With GQA, row r is query r / group of head r % group, so all
 * heads of a group share each read of K and V.  Rows go in panels of FAI_PW; all panels of a task visit a tile of BN
 * keys while it is in L2.  Queries in the lanes: the softmax has no horizontal step, and m, l and the rescale factor
 * are plain vectors.  "Word": 32 bits, one f32, or a pair of bf16 (consecutive dims of Q and K, consecutive keys of
 * P and V) where vdpbf16ps does the products. */

#if FAI_ISA_CODE == FAI_AVX512_BF16
#define FAI_PAIRS 1
#else
#define FAI_PAIRS 0
#endif
#define FAI_W (FA_HEAD_DIM / (1 + FAI_PAIRS)) /* words of a row of Q or K */
/* Keys of a tile: a multiple of MR, VL and CHUNK.  Pairs halve the bytes, so a tile holds twice the keys. */
#define FAI_BN (FAI_MR == 6 ? (FA_BLOCK_N + 95) / 96 * 96 : FA_BLOCK_N * (1 + FAI_PAIRS))
#define FAI_NP (FA_BLOCK_M / FAI_PW + 1) /* panels of a task, SPARE rows included */
/* Keys of a chunk, for rows without a panel: K and V of it stay in L1 (f32, head dim 128: 32 KB; 64 keys are 20 % slower,
 * and no faster in f16 and int8).  Divides BN, so that chunks lie alike in every tile. */
#define FAI_CHUNK 32
#define FAI_KV_SIZE ((int)(FA_KV_DTYPE == FA_F32 ? 4 : FA_KV_DTYPE <= FA_BF16 ? 2 : 1))
#define FAI_EVEN_ODD (FA_KV_DTYPE == FA_BF16 && FAI_LITTLE_ENDIAN) /* what fai_load2 does */
/* Rows that share each load of K and V; vectors of O in registers; keys side by side in the product with K. */
#if FAI_VL == 16
#define FAI_RMAX 8
#define FAI_ACC 16
#define FAI_ONCE(rows) ((rows) == 2 || (rows) == 4 ? 4 : 2)
#else
#define FAI_RMAX 4
#define FAI_ACC 8
#define FAI_ONCE(rows) 2
#endif
/* Up to FEW rows need no panel, nor do up to LEFT that full panels leave over.  f16, head dim 128, GFLOP/s of rows / a panel:
 * 12 rows 92 / 62, 16 rows 97 / 83, 20 rows 97 / 75, 24 rows 98 / 90, 32 rows 98 / 120; behind a full panel, whose tile they
 * share, 8 rows are 2 to 5 % faster than a panel, 10 to 12 equal, 16 12 % slower. */
#define FAI_FEW (FAI_VL * 3 / 2)
#define FAI_LEFT (FAI_VL * 5 / 8)

#ifndef FAI_HAVE_WORD
#define FAI_HAVE_WORD
typedef float fai_word __attribute__((may_alias));

/* The reference m of a row need not be its maximum: it moves only when MR probabilities add up to more than LAZY
 * (conditional rescaling as in [FA4], where the threshold is 2^8 for one), so P, l and O stay below 2^8 times their size. */
#define FAI_LAZY 256.0f
#define FAI_SPARE 8 /* rows that a block takes beyond its share, so that they need not read K and V once more */
#define FAI_LOG2E 1.4426950408889634f
#define FAI_LN2 0.6931471805599453f
#define FAI_ROWS 64 /* that a task computes at most without panels */
#define FAI_LOWEST (-3.402823466e38f)
#define FAI_ONES ((fai_vec)fai_isplat(0x3f803f80)) /* a pair of bf16 1.0 in each lane */
#endif

/* What all rows of a task have in common. */
typedef struct FAI_(task) {
    const fa_args *args;
    fa_sequence seq;
    int32_t head_k, group; /* group: query heads of this key/value head */
    int64_t row0;          /* of len_q * group rows */
    int32_t rows;
    uint32_t used;              /* features that the call uses, of those compiled in */
    int32_t plain;              /* no feature but a bias changes scores or P */
    int32_t k_direct, v_direct; /* f32 rows, packed: read in place */
    fai_strides sq, sk, sv, so, sl, sb;
    const fai_split *split; /* decode: the part of the keys that is the task's; NULL: all */
    int32_t where;          /* few rows fetch K and V ahead: 1 to L1, 2 to L2; 0 they are in cache */
    float scale;      /* |softmax_scale| * log2(e) */
    float drop_scale; /* 1 / (1 - p) */
    uint32_t drop_below;
    fai_vec *qt, *ot;           /* [NP][W][NV], [NP][DV][NV] */
    fai_vec *pt;                /* [BN / (1 + PAIRS)][NV] */
    fai_vec *bt;                /* [BN][NV]: bias of the panel at hand, log2 units */
    fai_word *ks, *vs;          /* staged tile: [BN][W], [BN / (1 + PAIRS)][DV] */
    float *k_factor;            /* [BN], fp8 in pairs only */
    int32_t tile;               /* first key of the tile */
    int32_t fetch, fetch_end; /* rows of K and V on their way to L2 while the tile before them is computed */
    int32_t fetch_step;       /* that many at a time */
} FAI_(task);

/* What the lanes of one vector of scores stand for. */
typedef struct FAI_(lanes) {
    fai_ivec lo, hi;              /* keys that length, causal mask and window leave: lo <= j < hi */
    fai_ivec pos;                 /* i + len_k - len_q, the query's position among the keys */
    fai_ivec live;                /* -1: visible in the column of the block mask looked up last */
    fai_vec slope;                /* ALiBi, log2 units */
    int32_t i[FAI_VL], h[FAI_VL]; /* query and head */
} FAI_(lanes);

/* One panel: FAI_PW rows, a query in each lane.  The arrays are indexed [vector]. */
typedef struct FAI_(panel) {
    fai_vec m[FAI_NV], limit[FAI_NV], l[FAI_NV]; /* reference, LAZY or -1 while there is none, row sum */
    fai_vec rounded[FAI_NV];                     /* pairs: row sum of P as rounded to bf16, for O; l is for lse */
    fai_vec q_factor[FAI_NV];                    /* pairs: what multiplies the raw score */
    FAI_(lanes) lanes[FAI_NV];
    int32_t rows, column; /* rows in use; column of the block mask in lanes.live */
    int32_t live;         /* 0 nobody, 1 some, 3 all rows see that column */
    int32_t hi0;          /* keys from here on: nobody in vector 0 sees them */
    fa_range any, all;    /* keys that some row sees, that all rows see */
} FAI_(panel);

/* Where the keys of a chunk are, and their factors.  From count on the last one is repeated. */
typedef struct FAI_(chunk) {
    int32_t begin, count;
    const char *k[FAI_CHUNK], *v[FAI_CHUNK];
    float k_factor[FAI_CHUNK], v_factor[FAI_CHUNK]; /* fp8 and int8 only */
} FAI_(chunk);

/* Rows without a panel: keys in the lanes.  The arrays are indexed [row]. */
typedef struct FAI_(few) {
    fai_vec l[FAI_ROWS];                                /* parts of the row sums */
    float m[FAI_ROWS], limit[FAI_ROWS], slope[FAI_ROWS]; /* as in a panel and its lanes */
    int32_t i[FAI_ROWS], h[FAI_ROWS];
    fa_range keys[FAI_ROWS]; /* that the row sees, those of the split */
    int32_t rows, heads; /* of each key/value head; heads from the task's on, one after the other in the arrays */
    float *q, *o, *s;    /* [rows][D], [rows][DV], [rows][CHUNK]: scores, then P */
    FAI_(chunk) chunk[2];
} FAI_(few);

/* ---- rows in: any dtype to words ------------------------------------------------------------ */

/* dst[0 .. dim) words or pairs = row * factor.  Pairs: bf16 and fp8 are exact, factor is not applied. */
FAI_INLINE void FAI_(row)(fai_word *dst, const void *src, int64_t offset, const int dtype, const int dim,
                          float factor) {
    if (FAI_PAIRS) {
        uint16_t *half = (uint16_t *)(void *)dst;
        if (dtype == FA_BF16) {
            memcpy(dst, (const uint16_t *)src + offset, sizeof(uint16_t) * (size_t)dim);
        } else {
            for (int c = 0; c < dim; c += FAI_VL) {
                fai_uvec u = (fai_uvec)fai_load(dtype, src, offset + c) >> 16;
                FAI_EACH (l, 0, FAI_VL) half[c + l] = (uint16_t)u[l];
            }
        }
    } else {
        fai_vec f = fai_splat(factor);
        for (int c = 0; c < dim; c += FAI_VL)
            *(fai_vec_u *)(dst + c) =
                (dtype == FA_F32 ? fai_load(FA_F32, src, offset + c) : fai_load(dtype, src, offset + c)) * f;
    }
}

/* The next rows of K and V to L2, a few with each block of keys, instead of waiting for all of them when the tile comes.
 * Head dim 128 / 256, N 8192, f32 in place: 154 -> 162 / 149 -> 160 GFLOP/s; within L2 it costs nothing. */
FAI_INLINE void FAI_(fetch_key)(const FAI_(task) *t, int32_t j) {
    const fa_args *a = t->args;
    const size_t size = FA_KV_DTYPE == FA_F32 ? 4 : FA_KV_DTYPE <= FA_BF16 ? 2 : 1;
    const char *k = (const char *)a->k.data + fai_offset_k(a, &t->seq, t->sk, j, t->head_k) * (int64_t)size;
    const char *v = (const char *)a->v.data + fai_offset_k(a, &t->seq, t->sv, j, t->head_k) * (int64_t)size;
    for (size_t c = 0; c < FA_HEAD_DIM * size; c += 64) __builtin_prefetch(k + c, 0, 2);
    for (size_t c = 0; c < FA_HEAD_DIM_V * size; c += 64) __builtin_prefetch(v + c, 0, 2);
}
FAI_INLINE void FAI_(fetch_rows)(FAI_(task) *t, int32_t step) {
    for (; step > 0 && t->fetch < t->fetch_end; step--, t->fetch++) FAI_(fetch_key)(t, t->fetch);
}

/* Keys [tile, end) of K into ks, zero rows up to a multiple of MR. */
FAI_NOINLINE void FAI_(stage_k)(FAI_(task) *t, int32_t begin, int32_t end) {
    const fa_args *a = t->args;
    fai_word *dst = t->ks + (int64_t)(begin - t->tile) * FAI_W;
    int32_t j = begin;
    for (; j < end; j++, dst += FAI_W) {
        float factor = FA_KV_DTYPE >= FA_E4M3 ? fai_descale(a, &a->k_descale, t->seq.b, t->head_k, j) : 1;
        FAI_(row)(dst, a->k.data, fai_offset_k(a, &t->seq, t->sk, j, t->head_k), FA_KV_DTYPE, FA_HEAD_DIM, factor);
        if (FAI_PAIRS && FA_KV_DTYPE >= FA_E4M3) t->k_factor[j - t->tile] = factor;
    }
    for (; (j - t->tile) % FAI_MR; j++, dst += FAI_W) {
        memset(dst, 0, sizeof(fai_word) * FAI_W);
        if (FAI_PAIRS && FA_KV_DTYPE >= FA_E4M3) t->k_factor[j - t->tile] = 0;
    }
}

/* Keys [tile, end) of V into vs; pairs: dim c of keys 2x, 2x+1 side by side, a missing last key is zero. */
FAI_NOINLINE void FAI_(stage_v)(FAI_(task) *t, int32_t end) {
    const fa_args *a = t->args;
    for (int32_t j = t->tile; j < end; j++) {
        int64_t n = j - t->tile, offset = fai_offset_k(a, &t->seq, t->sv, j, t->head_k);
        float factor = FA_KV_DTYPE >= FA_E4M3 ? fai_descale(a, &a->v_descale, t->seq.b, t->head_k, j) : 1;
        if (!FAI_PAIRS) {
            FAI_(row)(t->vs + n * FA_HEAD_DIM_V, a->v.data, offset, FA_KV_DTYPE, FA_HEAD_DIM_V, factor);
        } else {
            int64_t next = j + 1 < end ? fai_offset_k(a, &t->seq, t->sv, j + 1, t->head_k) : -1;
            float factor2 = FA_KV_DTYPE >= FA_E4M3 && next >= 0 ? fai_descale(a, &a->v_descale, t->seq.b, t->head_k, j + 1) : 1;
            if (n % 2) continue;
            for (int c = 0; c < FA_HEAD_DIM_V; c += FAI_VL) { /* exact but for fp8 with a factor that is no power of 2 */
                fai_vec lo = fai_load(FA_KV_DTYPE, a->v.data, offset + c), hi = fai_splat(0);
                if (next >= 0) hi = fai_load(FA_KV_DTYPE, a->v.data, next + c);
                *(fai_vec_u *)(t->vs + n / 2 * FA_HEAD_DIM_V + c) = fai_pair(lo * factor, hi * factor2);
            }
        }
    }
}

/* Row of query i, head h, as words, scaled; pairs take the sign of the scale alone and *factor has the rest. */
FAI_NOINLINE void FAI_(row_q)(const FAI_(task) *t, fai_word *dst, int32_t i, int32_t h, float *factor) {
    const fa_args *a = t->args;
    *factor = t->scale * (FA_DTYPE >= FA_E4M3 ? fai_descale(a, &a->q_descale, t->seq.b, h, i) : 1);
    FAI_(row)(dst, a->q.data, fai_offset_q(&t->seq, t->sq, i, h), FA_DTYPE, FA_HEAD_DIM,
     a->softmax_scale < 0 ? -*factor : *factor);
    if (FAI_PAIRS && a->softmax_scale < 0)
        for (int c = 0; c < FA_HEAD_DIM; c++) ((uint16_t *)(void *)dst)[c] ^= 0x8000;
}

/* qt[w][query] = word w of the query's row */
FAI_NOINLINE void FAI_(pack_q)(FAI_(task) *t, FAI_(panel) *p, fai_vec *qt) {
    fai_word *rows = t->ks; /* (PW, W): not in use yet */
    float factor[FAI_PW] = {0};
    for (int r = 0; r < FAI_PW; r++) {
        const FAI_(lanes) *lanes = &p->lanes[r / FAI_VL];
        if (r < p->rows)
            FAI_(row_q)(t, rows + r * FAI_W, lanes->i[r % FAI_VL], lanes->h[r % FAI_VL], &factor[r]);
        else
            memset(rows + r * FAI_W, 0, sizeof(fai_word) * FAI_W);
    }
    for (int v = 0; v < FAI_NV; v++) {
        p->q_factor[v] = *(const fai_vec_u *)(factor + v * FAI_VL);
        for (int w = 0; w < FAI_W; w += FAI_VL) {
            fai_vec x[FAI_VL];
            FAI_EACH (l, 0, FAI_VL) x[l] = *(const fai_vec_u *)(rows + (v * FAI_VL + l) * FAI_W + w);
            fai_transpose(x);
            FAI_EACH (l, 0, FAI_VL) qt[(w + l) * FAI_NV + v] = x[l];
        }
    }
}

/* Bias of query i, head h, for n <= VL keys from j on, log2 units; zero beyond. */
FAI_INLINE fai_vec FAI_(bias)(const FAI_(task) *t, int32_t i, int32_t h, int32_t j, int32_t n) {
    const void *data = t->args->bias.data;
    const fa_dtype dtype = t->args->bias.dtype;
    const int64_t offset = t->seq.b * t->sb.b + i * t->sb.s + h * t->sb.h + j;
    fai_vec x = {0};
    if (n < FAI_VL)
        for (int32_t e = 0; e < n; e++) x[e] = fa_load(data, offset + e, dtype ? dtype : FA_F32);
    else if (dtype == FA_F16)
        x = fai_load(FA_F16, data, offset);
    else if (dtype == FA_BF16)
        x = fai_load(FA_BF16, data, offset);
    else
        x = fai_load(FA_F32, data, offset);
    return x * FAI_LOG2E;
}

/* Bias of the panel for keys begin .. end of the tile, transposed: bt[j - tile][query], log2 units. */
FAI_INLINE void FAI_(pack_bias_as)(const int dtype, FAI_(task) *t, const FAI_(panel) *p, int32_t begin,
                                   int32_t end) {
    const void *data = t->args->bias.data;
    for (int v = 0; v < FAI_NV; v++) {
        const FAI_(lanes) *lanes = &p->lanes[v];
        int64_t row[FAI_VL];
        for (int l = 0; l < FAI_VL; l++)
            row[l] = t->seq.b * t->sb.b + lanes->i[l] * t->sb.s + lanes->h[l] * t->sb.h;
        for (int32_t j = begin; j < end; j += FAI_VL) {
            fai_vec x[FAI_VL], *bt = t->bt + (int64_t)(j - t->tile) * FAI_NV + v;
            if (end - j >= FAI_VL) {
                FAI_EACH (l, 0, FAI_VL) { /* and fetch the rows of the next tile: bias is N^2 bytes */
                    x[l] = fai_load(dtype, data, row[l] + j) * FAI_LOG2E;
                    __builtin_prefetch((const char *)data + (row[l] + j + FAI_BN) * (dtype == FA_F32 ? 4 : 2),
                                       0, 2);
                }
            } else {
                for (int l = 0; l < FAI_VL; l++) x[l] = FAI_(bias)(t, lanes->i[l], lanes->h[l], j, end - j);
            }
            fai_transpose(x);
            FAI_EACH (e, 0, FAI_VL) bt[e * FAI_NV] = x[e]; /* BN is a multiple of VL: there is room */
        }
    }
}
FAI_NOINLINE void FAI_(pack_bias)(FAI_(task) *t, const FAI_(panel) *p, int32_t begin, int32_t end) {
    if (t->args->bias.dtype == FA_F16)
        FAI_(pack_bias_as)(FA_F16, t, p, begin, end);
    else if (t->args->bias.dtype == FA_BF16)
        FAI_(pack_bias_as)(FA_BF16, t, p, begin, end);
    else
        FAI_(pack_bias_as)(FA_F32, t, p, begin, end);
}

/* ---- what changes scores: softcap, ALiBi, bias, hooks, masks --------------------------------- */

/* One vector of scores s (log2 units) of keys j; masked becomes -inf.  slope, unless NULL: the derivatives by s [0] and
 * by the bias [1]. */
FAI_INLINE fai_vec FAI_(change)(const FAI_(task) *t, const FAI_(lanes) *lanes, fai_vec s, fai_ivec j,
                                fai_vec bias, fai_vec *slope) {
    enum { F = FA_FEATURES };
    const fa_args *a = t->args;
    fai_ivec seen = (lanes->lo <= j) & (lanes->hi > j);
    if (slope) slope[0] = slope[1] = fai_splat(1);
    if ((F & FA_SOFTCAP) && (t->used & FA_SOFTCAP)) {
        const float cap = a->softcap * FAI_LOG2E;
        const fai_vec x = fai_tanh(s / cap);
        if (slope) slope[0] = 1.0f - x * x;
        s = x * cap;
    }
    if ((F & FA_ALIBI) && (t->used & FA_ALIBI)) {
        fai_vec distance = __builtin_convertvector(lanes->pos - j, fai_vec);
        s -= lanes->slope * fai_max(distance, -distance);
    }
    if ((F & FA_BIAS) && (t->used & FA_BIAS)) s += bias;
#if defined(FA_SCORE_MOD)
    for (int l = 0; l < FAI_VL; l++) { /* never for a key that does not exist: the hook may index an array with it */
        if (!seen[l]) continue;
#if defined(FA_SCORE_MOD_GRAD)
        if (slope) slope[1][l] = FA_(score_mod_grad_f)(s[l] * FAI_LN2, t->seq.b, lanes->h[l], lanes->i[l], j[l]);
#endif
        s[l] = FA_(score_mod_f)(s[l] * FAI_LN2, t->seq.b, lanes->h[l], lanes->i[l], j[l]) * FAI_LOG2E;
    }
    if (slope) slope[0] *= slope[1];
#endif
    if ((F & FA_BLOCK_MASK) && (t->used & FA_BLOCK_MASK)) seen &= lanes->live;
    if ((F & FA_TREE_MASK) && (t->used & FA_TREE_MASK) &&
        fai_any(j >= fai_isplat(t->seq.len_k - t->seq.len_q)))
        for (int l = 0; l < FAI_VL; l++)
            if (seen[l] && !fa_tree_visible(a, &t->seq, lanes->i[l], j[l])) seen[l] = 0;
#if defined(FA_MASK_MOD)
    for (int l = 0; l < FAI_VL; l++)
        if (seen[l] && !FA_(mask_mod)(t->seq.b, lanes->h[l], lanes->i[l], j[l])) seen[l] = 0;
#endif
    (void)a, (void)bias;
    return fai_select(seen, s, fai_splat(-INFINITY));
}

/* Block mask of column j / block_k for the lanes; returns 0 none, 1 some, 3 all of them see it. */
FAI_NOINLINE int FAI_(look_up)(const FAI_(task) *t, FAI_(lanes) *lanes, int32_t j, int rows) {
    int any = 0, all = 1;
    for (int l = 0; l < FAI_VL; l++) {
        const int seen = l < rows && fa_block_visible(t->args, &t->seq, lanes->h[l], lanes->i[l], j);
        lanes->live[l] = -seen, any |= seen, all &= seen || l >= rows;
    }
    return any + 2 * (any && all);
}

/* The same for the panel: 0 nobody, 1 some, 3 everybody.  A column is looked up once. */
FAI_INLINE int FAI_(live)(const FAI_(task) *t, FAI_(panel) *p, int32_t j) {
    const int32_t column = j / t->args->block_mask.block_k;
    if (column != p->column) {
        int any = 0, all = 2;
        for (int v = 0; v < FAI_NV && v * FAI_VL < p->rows; v++) {
            const int live = FAI_(look_up)(t, &p->lanes[v], j, p->rows - v * FAI_VL);
            any |= live & 1, all &= live;
        }
        p->column = column, p->live = any | (any ? all : 0);
    }
    return p->live;
}

/* s[r][v]: score of key j0 + r for the queries of vector v */
FAI_NOINLINE void FAI_(modify)(const FAI_(task) *t, FAI_(panel) *p, fai_vec *s, int32_t j0) {
    const fai_vec *bias = t->bt + (int64_t)(j0 - t->tile) * FAI_NV;
    const int biased = ((FA_FEATURES) & FA_BIAS) && (t->used & FA_BIAS);
    for (int r = 0; r < FAI_MR; r++) {
        if (((FA_FEATURES) & FA_BLOCK_MASK) && (t->used & FA_BLOCK_MASK) && j0 + r < t->seq.len_k)
            FAI_(live)(t, p, j0 + r);
        for (int v = 0; v < FAI_NV; v++)
            s[r * FAI_NV + v] = FAI_(change)(t, &p->lanes[v], s[r * FAI_NV + v], fai_isplat(j0 + r),
                                             biased ? bias[r * FAI_NV + v] : fai_splat(0), NULL);
    }
}

/* c = Philox4x32-10 of the lanes' counters for 8 keys from j on (each lane its own j). */
FAI_INLINE void FAI_(philox)(const FAI_(task) *t, const FAI_(lanes) *lanes, fai_ivec j, fai_uvec c[4]) {
    const fa_args *a = t->args;
    uint32_t k0 = (uint32_t)a->dropout_seed, k1 = (uint32_t)(a->dropout_seed >> 32);
    c[0] = (fai_uvec)j >> 3;
    for (int l = 0; l < FAI_VL; l++) {
        c[1][l] = (uint32_t)lanes->i[l], c[3][l] = a->dropout_offset;
        c[2][l] = (uint32_t)t->seq.b * (uint32_t)a->num_heads + (uint32_t)lanes->h[l];
    }
    for (int round = 0; round < 10; round++, k0 += 0x9e3779b9u, k1 += 0xbb67ae85u) {
        fai_uvec hi0 = {0}, lo0 = {0}, hi1 = {0}, lo1 = {0};
        fai_mulhilo(c[0], 0xd2511f53u, &hi0, &lo0), fai_mulhilo(c[2], 0xcd9e8d57u, &hi1, &lo1);
        c[0] = hi1 ^ c[1] ^ k0, c[1] = lo1, c[2] = hi0 ^ c[3] ^ k1, c[3] = lo0;
    }
}

/* P of the panel times keep / (1 - p_drop): one counter serves 8 consecutive keys of a query. */
FAI_NOINLINE void FAI_(dropout)(const FAI_(task) *t, const FAI_(panel) *p, fai_vec *pt, int32_t j0) {
    for (int v = 0; v < FAI_NV; v++) {
        fai_uvec c[4];
        for (int r = 0; r < FAI_MR; r++) {
            const int n = (j0 + r) & 7;
            if (r == 0 || n == 0) FAI_(philox)(t, &p->lanes[v], fai_isplat(j0 + r), c);
            const fai_uvec bits = n & 1 ? c[n >> 1] >> 16 : c[n >> 1] & 0xffff;
            pt[r * FAI_NV + v] = fai_select((fai_ivec)(bits >= t->drop_below),
                                            pt[r * FAI_NV + v] * t->drop_scale, fai_splat(0));
        }
    }
}

/* The same for consecutive keys in the lanes. */
FAI_NOINLINE fai_vec FAI_(dropout_keys)(const FAI_(task) *t, const FAI_(lanes) *lanes, fai_vec p,
                                        fai_ivec j) {
    fai_uvec c[4], bits = {0};
    FAI_(philox)(t, lanes, j, c);
    for (int l = 0; l < FAI_VL; l++) bits[l] = c[(j[l] & 7) >> 1][l] >> (j[l] & 1 ? 16 : 0) & 0xffff;
    return fai_select((fai_ivec)(bits >= t->drop_below), p * t->drop_scale, fai_splat(0));
}

/* ---- the two products ------------------------------------------------------------------------ */

/* Rare path: scores left the range of the reference m, or there is no reference yet.  x[i][v]: scores, not relative to
 * m (which may be so far away that their digits would be lost); they become P.  References are integers, so every factor
 * is a power of two and the rescale exact.  done: rows of P^T of this tile written before. */
FAI_NOINLINE void FAI_(rescale)(const FAI_(task) *t, FAI_(panel) *p, fai_vec *x, fai_vec *sum, fai_vec *ot,
                                int done) {
    enum { MR = FAI_MR, NV = FAI_NV, DV = FA_HEAD_DIM_V };
    for (int v = 0; v < NV; v++) {
        const fai_ivec fresh = p->limit[v] < fai_splat(0);
        fai_vec highest = fai_select(fresh, fai_splat(FAI_LOWEST), p->m[v]), m, factor;
        fai_ivec seen;
        for (int i = 0; i < MR; i++) highest = fai_max(x[i * NV + v], highest);
        seen = highest > fai_splat(FAI_LOWEST);
        m = fai_select(seen, fai_ceil(highest), p->m[v]);
        factor = fai_exp2(5, fai_select(fresh, fai_splat(0), p->m[v] - m));
        p->m[v] = m, p->l[v] *= factor;
        if (FAI_PAIRS) p->rounded[v] *= factor;
        p->limit[v] = fai_select(seen, fai_splat(FAI_LAZY), p->limit[v]);
        for (int c = 0; c < DV; c++) ot[c * NV + v] *= factor;
        for (int r = 0; r < done; r++) {
            fai_vec *pt = &t->pt[r * NV + v];
            if (FAI_PAIRS) { /* apart, or a subnormal high half would leak into the low one */
                fai_ivec w = (fai_ivec)*pt;
                fai_vec lo = (fai_vec)(w << 16) * factor, hi = (fai_vec)(w & -65536) * factor;
                *pt = (fai_vec)(((fai_ivec)hi & -65536) | (fai_ivec)((fai_uvec)lo >> 16));
            } else {
                *pt *= factor;
            }
        }
        sum[v] = fai_splat(0);
        for (int i = 0; i < MR; i++) {
            x[i * NV + v] = fai_exp2(5, x[i * NV + v] - m);
            sum[v] += x[i * NV + v];
        }
    }
}

/* What happens to scores between the product and exp2; a constant, so each has code of its own. */
#ifndef FAI_PLAIN
#define FAI_PLAIN 0   /* nothing: every query of the panel sees every key, and no feature is in use */
#define FAI_BIASED 1  /* the bias, which the sums start from */
#define FAI_MASKED 2  /* keys outside lo .. hi become -inf: the edges of length, causal mask and window */
#define FAI_CHANGED 3 /* all that the instance can do */
#endif

FAI_NOINLINE void FAI_(scores_edge)(const int mode, const FAI_(task) *t, FAI_(panel) *p, const fai_word *k,
                                    const fai_vec *qt, fai_vec *ot, int32_t j0, int first, int last);

/* MR keys from j0 on x the queries of vectors J0 <= v < J1: scores, masks, exp2, row sums; writes MR rows of P^T.
 * k: the rows of the keys. */
FAI_INLINE void FAI_(scores)(const int J0, const int J1, const int MODE, const FAI_(task) *t,
                             FAI_(panel) *p, const fai_word *k, const fai_vec *qt, fai_vec *ot, int32_t j0) {
    enum { MR = FAI_MR, NV = FAI_NV, W = FAI_W, KEY_FACTOR = FAI_PAIRS && FA_KV_DTYPE >= FA_E4M3 };
    const int32_t row = j0 - t->tile;
    const fai_vec *bias = t->bt + (int64_t)row * NV;
    fai_vec acc[MR][NV], s[MR * NV], x[MR * NV], sum[NV],
        *pt = t->pt + (row >> FAI_PAIRS) * NV; /* (key, query) */
    fai_ivec over = fai_isplat(0);

    /* S^T - m = K Q^T + (bias - m); pairs and changed scores start from 0, as something comes in between */
    FAI_EACH (i, 0, MR)
        FAI_EACH (v, J0, J1)
            acc[i][v] = MODE == FAI_CHANGED || FAI_PAIRS ? fai_splat(0)
                        : MODE == FAI_BIASED             ? bias[i * NV + v] - p->m[v]
                                                         : -p->m[v];
    FAI_SOME
    for (int w = 0; w < W; w++) {
        FAI_EACH (i, 0, MR) {
            fai_vec a = fai_splat(k[i * W + w]);
            FAI_EACH (v, J0, J1) acc[i][v] = fai_mac(FAI_PAIRS, a, qt[w * NV + v], acc[i][v]);
        }
    }
    if (KEY_FACTOR) {
        FAI_EACH (i, 0, MR)
            FAI_EACH (v, J0, J1) acc[i][v] *= t->k_factor[row + i];
    }
    if (MODE == FAI_CHANGED) {
        FAI_EACH (i, 0, MR)
            FAI_EACH (v, 0, NV)
                s[i * NV + v] = v < J0 || v >= J1 ? fai_splat(0)
                                : FAI_PAIRS       ? acc[i][v] * p->q_factor[v]
                                                  : acc[i][v];
        FAI_(modify)(t, p, s, j0);
    }
    FAI_EACH (v, J0, J1)
        FAI_EACH (i, 0, MR) {
            if (MODE == FAI_CHANGED)
                acc[i][v] = s[i * NV + v] - p->m[v];
            else if (FAI_PAIRS)
                acc[i][v] = fai_fma(acc[i][v], p->q_factor[v],
                                    MODE == FAI_BIASED ? bias[i * NV + v] - p->m[v] : -p->m[v]);
            if (MODE == FAI_MASKED)
                acc[i][v] = fai_select((p->lanes[v].lo <= j0 + i) & (p->lanes[v].hi > j0 + i), acc[i][v],
                                       fai_splat(-INFINITY));
        }

    /* P^T = exp2(S^T - m), l += rowsum(P).  A row sum above LAZY is the sign that m must move: no maximum is needed */
    FAI_EACH (v, 0, NV) sum[v] = fai_splat(0);
    FAI_EACH (v, J0, J1) {
        FAI_EACH (i, 0, MR) {
            x[i * NV + v] = MODE == FAI_CHANGED ? fai_exp2_cut(FAI_PAIRS ? 4 : 5, acc[i][v])
                                                : fai_exp2(FAI_PAIRS ? 4 : 5, acc[i][v]);
            sum[v] += x[i * NV + v];
        }
        over |= sum[v] > p->limit[v];
    }
    if (FAI_UNLIKELY(fai_any(over))) {
        fai_vec y[MR * NV];
        if (MODE != FAI_CHANGED && fai_any((p->m[0] != fai_splat(0)) | (p->m[1] != fai_splat(0)))) {
            /* far from m, S - m has lost digits of S, and the new m comes from S: compute that, once more */
            FAI_(scores_edge)(FAI_CHANGED, t, p, k, qt, ot, j0, J0, J1);
            return;
        }
        FAI_EACH (i, 0, MR)
            FAI_EACH (v, 0, NV)
                y[i * NV + v] = v < J0 || v >= J1     ? fai_splat(-INFINITY)
                                : MODE == FAI_CHANGED ? s[i * NV + v]
                                                      : acc[i][v];
        FAI_(rescale)(t, p, y, sum, ot, row >> FAI_PAIRS);
        FAI_EACH (i, 0, MR * NV) x[i] = y[i];
    }
    const int dropped = ((FA_FEATURES) & FA_DROPOUT) && MODE == FAI_CHANGED && (t->used & FA_DROPOUT);
    if (dropped) FAI_(dropout)(t, p, x, j0);
    FAI_EACH (v, J0, J1) {
        p->l[v] += sum[v];
        if (FAI_PAIRS) { /* O is divided by the sum of what P is rounded to: the rounding of a lone key cancels */
            if (!dropped) sum[v] = fai_splat(0);
            FAI_EACH (i, 0, MR / 2) {
                pt[i * NV + v] = fai_pair(x[2 * i * NV + v], x[(2 * i + 1) * NV + v]);
                if (!dropped) sum[v] = fai_mac(1, pt[i * NV + v], FAI_ONES, sum[v]);
            }
            p->rounded[v] += sum[v];
        } else {
            FAI_EACH (i, 0, MR) pt[i * NV + v] = x[i * NV + v];
        }
    }
}

/* R dims of O^T += V^T P^T for vectors J0 <= v < J1 over `steps` rows of V (pairs: pairs of rows). */
FAI_INLINE void FAI_(output_dims)(const int R, const int J0, const int J1, const fai_word *v,
                                  const fai_vec *pt, int steps, fai_vec *ot) {
    enum { NV = FAI_NV, DV = FA_HEAD_DIM_V };
    fai_vec acc[FAI_MR][NV];
    FAI_EACH (i, 0, R)
        FAI_EACH (x, J0, J1) acc[i][x] = ot[i * NV + x];
    FAI_SOME
    for (int s = 0; s < steps; s++) {
        FAI_EACH (i, 0, R) {
            fai_vec a = fai_splat(v[(int64_t)s * DV + i]);
            FAI_EACH (x, J0, J1) acc[i][x] = fai_mac(FAI_PAIRS, a, pt[s * NV + x], acc[i][x]);
        }
    }
    FAI_EACH (i, 0, R)
        FAI_EACH (x, J0, J1) ot[i * NV + x] = acc[i][x];
}
FAI_INLINE void FAI_(output)(const int J0, const int J1, const fai_word *v, const fai_vec *pt, int steps,
                             fai_vec *ot) {
    enum { MR = FAI_MR, NV = FAI_NV, DV = FA_HEAD_DIM_V };
    int c = 0;
    for (; c + MR <= DV; c += MR) FAI_(output_dims)(MR, J0, J1, v + c, pt, steps, ot + c * NV);
    if (DV % MR) FAI_(output_dims)(DV % MR, J0, J1, v + c, pt, steps, ot + c * NV);
}

/* The variants of scores that are not inlined into the panel's loop. */
FAI_NOINLINE void FAI_(scores_edge)(const int mode, const FAI_(task) *t, FAI_(panel) *p, const fai_word *k,
                                    const fai_vec *qt, fai_vec *ot, int32_t j0, int first, int last) {
    if (mode == FAI_BIASED)
        FAI_(scores)(0, FAI_NV, FAI_BIASED, t, p, k, qt, ot, j0);
    else if (mode == FAI_PLAIN)
        FAI_(scores)(0, 1, FAI_PLAIN, t, p, k, qt, ot, j0);
    else if (mode == FAI_MASKED && first)
        FAI_(scores)(1, FAI_NV, FAI_MASKED, t, p, k, qt, ot, j0);
    else if (mode == FAI_MASKED && last == FAI_NV)
        FAI_(scores)(0, FAI_NV, FAI_MASKED, t, p, k, qt, ot, j0);
    else if (first)
        FAI_(scores)(1, FAI_NV, FAI_CHANGED, t, p, k, qt, ot, j0);
    else if (last == 1)
        FAI_(scores)(0, 1, FAI_CHANGED, t, p, k, qt, ot, j0);
    else
        FAI_(scores)(0, FAI_NV, FAI_CHANGED, t, p, k, qt, ot, j0);
}
FAI_NOINLINE void FAI_(output_run)(const fai_word *v, const fai_vec *pt, int steps, fai_vec *ot, int first,
                                   int last) {
    if (first)
        FAI_(output)(1, FAI_NV, v, pt, steps, ot);
    else if (last == 1)
        FAI_(output)(0, 1, v, pt, steps, ot);
    else
        FAI_(output)(0, FAI_NV, v, pt, steps, ot);
}

/* The panel visits a tile.  Runs of keys that the same vectors see: scores for all of the run, then its product. */
FAI_NOINLINE void FAI_(visit)(FAI_(task) *t, FAI_(panel) *p, const fai_vec *qt, fai_vec *ot,
                              const fai_word *k, const fai_word *v, int32_t tile_end) {
    enum { MR = FAI_MR, F = FA_FEATURES };
    const int32_t tile = t->tile, end = p->any.hi < tile_end ? p->any.hi : tile_end;
    int32_t j = p->any.lo > tile ? p->any.lo : tile, run;
    const int biased = (F & FA_BIAS) && (t->used & FA_BIAS), last = p->rows <= FAI_VL ? 1 : FAI_NV;
    int first = 0, skip = 0;
    j = run = tile + (j - tile) / MR * MR;
    if (biased && j < end) FAI_(pack_bias)(t, p, j, end);
    for (;; j += MR) {
        const int now_first = j >= p->hi0 && last == FAI_NV;
        int all = t->plain && j >= p->all.lo && j + MR <= p->all.hi, now_skip = 0;
        if ((F & FA_BLOCK_MASK) && (t->used & FA_BLOCK_MASK) && j < end) {
            const int live = FAI_(live)(t, p, j);
            const int whole = (j + MR - 1) / t->args->block_mask.block_k == p->column;
            now_skip = whole && live == 0, all = all && whole && live == 3;
        }
        if (j >= end || now_first != first || now_skip != skip) { /* the run ends: O^T += V^T P^T */
            const int32_t stop = j < tile_end ? j : tile_end, row = (run - tile) >> FAI_PAIRS;
            if (!skip && stop > run)
                FAI_(output_run)(v + (int64_t)row * FA_HEAD_DIM_V, t->pt + row * FAI_NV,
                 (stop - run + FAI_PAIRS) >> FAI_PAIRS, ot, first, last);
            run = j, first = now_first, skip = now_skip;
            if (j >= end) return;
        }
        if (!skip) {
            const fai_word *rows =
                (t->k_direct && j + MR <= tile_end ? k : t->ks) + (int64_t)(j - tile) * FAI_W;
            int mode = FAI_CHANGED;
            if (all && !biased) mode = FAI_PLAIN;
            else if (all && last == FAI_NV) mode = FAI_BIASED;
            else if (t->plain && !biased && !(t->used & (FA_BLOCK_MASK | FA_TREE_MASK))) mode = FAI_MASKED;
            if (mode == FAI_PLAIN && last == FAI_NV)
                FAI_(scores)(0, FAI_NV, FAI_PLAIN, t, p, rows, qt, ot, j);
            else
                FAI_(scores_edge)(mode, t, p, rows, qt, ot, j, first, last);
            FAI_(fetch_rows)(t, t->fetch_step);
        }
    }
}

/* ---- rows out -------------------------------------------------------------------------------- */

/* A row in double by the definition itself.  Only for rows that are not finite although their row sum is: then V has an
 * infinity or NaN, perhaps at a masked key, where 0 * NaN must not count, or P V was too large for f32 before the division. */
FAI_NOINLINE void FAI_(exact_row)(const FAI_(task) *t, int32_t i, int32_t h) {
    const fa_args *a = t->args;
    const fai_reference_head r = fai_reference_begin(&FA_(info), a, t->seq.b, h);
    const fa_range keys = fa_row_range(a, r.seq.len_q, r.seq.len_k, i);
    double q[FA_HEAD_DIM], x[FA_HEAD_DIM > FA_HEAD_DIM_V ? FA_HEAD_DIM : FA_HEAD_DIM_V],
        acc[FA_HEAD_DIM_V] = {0};
    double m = a->sink ? (double)a->sink[h] : -(double)INFINITY, sum = a->sink ? 1 : 0;
    fai_reference_q(&r, i, q);
    for (int32_t j = keys.lo; j < keys.hi; j++) {
        double s, top, factor;
        if (!fa_reference_visible(&FA_(info), a, &r.seq, h, i, j)) continue;
        fai_reference_k(&r, j, x);
        s = fai_reference_scale(&r, i, j) * fai_dot(q, x, FA_HEAD_DIM);
        s = fa_reference_score(&FA_(info), a, &r.seq, h, i, j, s, NULL, NULL);
        if (isinf(s) && s < 0) continue;
        top = s > m ? s : m, factor = sum > 0 ? exp(m - top) : 0, m = top;
        s = exp(s - m), sum = sum * factor + s;
        for (int d = 0; d < FA_HEAD_DIM_V; d++) acc[d] *= factor;
        s *= fai_reference_dropout(&r, i, j) * fai_reference_scale_v(&r, j);
        if (!(s > 0)) continue;
        fai_reference_v(&r, j, x);
        for (int d = 0; d < FA_HEAD_DIM_V; d++) acc[d] += s * x[d];
    }
    for (int d = 0; d < FA_HEAD_DIM_V; d++)
        fa_store(a->o.data, fai_offset_q(&t->seq, t->so, i, h) + d, FA_O_DTYPE,
                 sum > 0 ? (float)(acc[d] / sum) : 0);
}

/* The end of a row with reference m and sum l (rounded: of P as rounded): writes its LSE, returns what O is multiplied
 * with. */
FAI_NOINLINE float FAI_(close_row)(const FAI_(task) *t, int32_t i, int32_t h, double m, double l, double rounded) {
    const fa_args *a = t->args;
    const double difference = FAI_PAIRS ? rounded - l : 0;
    double factor = 1;
    if (((FA_FEATURES) & FA_SINK) && (t->used & FA_SINK)) { /* exp(sink) joins the row sum */
        const double sink = (double)a->sink[h] * 1.4426950408889634, top = l > 0 && m > sink ? m : sink;
        factor = l > 0 ? exp2(m - top) : l, l = l > 0 ? l * factor + exp2(sink - top) : l + 1, m = top;
    }
    if (a->lse.data) /* l is NaN: so is the row */
        ((float *)a->lse.data)[fai_offset_q(&t->seq, t->sl, i, h)] =
            (float)(l > 0    ? (m + (double)log2f((float)l)) * 0.6931471805599453
                    : l == l ? -(double)INFINITY
                             : l);
    return (float)(l > 0 ? factor / (l + difference * factor) : l);
}

/* Where the row's part of O goes, with m, l and `rounded` behind it, if there are other splits; else NULL. */
FAI_INLINE float *FAI_(part)(const FAI_(task) *t, int32_t i, int32_t h) {
    const int64_t row = ((int64_t)(h / t->group - t->head_k) * t->seq.len_q + i) * t->group + h % t->group;
    if (!t->split || !t->split->parts) return NULL;
    return t->split->parts + (row * t->split->count + t->split->number) * FAI_PART(FA_HEAD_DIM_V);
}

FAI_NOINLINE void FAI_(finish_part)(const FAI_(task) *t, const FAI_(panel) *p, const fai_vec *ot) {
    enum { DV = FA_HEAD_DIM_V };
    for (int v = 0; v < FAI_NV && v * FAI_VL < p->rows; v++) {
        const int rows = p->rows - v * FAI_VL < FAI_VL ? p->rows - v * FAI_VL : FAI_VL;
        const FAI_(lanes) *lanes = &p->lanes[v];
        for (int r = 0; r < rows; r++) {
            float *part = FAI_(part)(t, lanes->i[r], lanes->h[r]);
            for (int c = 0; c < DV; c++) part[c] = ot[c * FAI_NV + v][r];
            part[DV] = p->m[v][r], part[DV + 1] = p->l[v][r];
            part[DV + 2] = FAI_PAIRS ? p->rounded[v][r] : p->l[v][r];
        }
    }
}

/* O = O^T / l and LSE = m + log l of the panel. */
FAI_NOINLINE void FAI_(finish)(const FAI_(task) *t, const FAI_(panel) *p, const fai_vec *ot) {
    enum { DV = FA_HEAD_DIM_V };
    if (t->split && t->split->parts) {
        FAI_(finish_part)(t, p, ot);
        return;
    }
    for (int v = 0; v < FAI_NV && v * FAI_VL < p->rows; v++) {
        const int rows = p->rows - v * FAI_VL < FAI_VL ? p->rows - v * FAI_VL : FAI_VL;
        const FAI_(lanes) *lanes = &p->lanes[v];
        fai_vec inverse = fai_splat(0);
        fai_ivec bad = fai_isplat(0);
        int64_t offset[FAI_VL];
        for (int r = 0; r < rows; r++) {
            inverse[r] = FAI_(close_row)(t, lanes->i[r], lanes->h[r], (double)p->m[v][r], (double)p->l[v][r],
                                         (double)p->rounded[v][r]);
            offset[r] = fai_offset_q(&t->seq, t->so, lanes->i[r], lanes->h[r]);
        }
        for (int c = 0; c < DV; c += FAI_VL) {
            fai_vec x[FAI_VL];
            FAI_EACH (l, 0, FAI_VL) {
                x[l] = ot[(c + l) * FAI_NV + v] * inverse;
                bad |= x[l] - x[l] != fai_splat(0);
            }
            fai_transpose(x);
            for (int r = 0; r < rows; r++) fai_store(FA_O_DTYPE, t->args->o.data, offset[r] + c, x[r]);
        }
        if (FAI_UNLIKELY(fai_any(bad & (inverse == inverse))))
            for (int r = 0; r < rows; r++)
                if (bad[r] && inverse[r] == inverse[r]) FAI_(exact_row)(t, lanes->i[r], lanes->h[r]);
    }
}

/* ---- the task -------------------------------------------------------------------------------- */

/* Lane `lane` stands for row r of the task's sequence. */
FAI_INLINE fa_range FAI_(set_lane)(const FAI_(task) *t, FAI_(lanes) *lanes, int lane, int64_t r) {
    const fa_args *a = t->args;
    const int32_t i = (int32_t)(r / t->group), h = t->head_k * t->group + (int32_t)(r % t->group);
    fa_range keys = fa_row_range(a, t->seq.len_q, t->seq.len_k, i);
    if (t->split) keys = fai_cut(keys, t->split->keys);
    lanes->i[lane] = i, lanes->h[lane] = h;
    lanes->lo[lane] = keys.lo, lanes->hi[lane] = keys.hi, lanes->pos[lane] = i + t->seq.len_k - t->seq.len_q;
    lanes->live[lane] = -1;
    if (((FA_FEATURES) & FA_ALIBI) && (t->used & FA_ALIBI))
        lanes->slope[lane] = a->alibi_slopes[t->seq.b * a->alibi_stride_b + h] * FAI_LOG2E;
    return keys;
}

/* Rows row0 .. row0 + rows; the lanes beyond repeat the last one, with a query of zeros. */
FAI_NOINLINE void FAI_(open_panel)(FAI_(task) *t, FAI_(panel) *p, int64_t row0, int32_t rows, fai_vec *qt,
                                   fai_vec *ot) {
    const int32_t i0 = (int32_t)(row0 / t->group), i1 = (int32_t)((row0 + rows - 1) / t->group + 1);
    p->rows = rows, p->column = -1, p->hi0 = 0;
    for (int lane = 0; lane < FAI_PW; lane++) {
        const fa_range keys = FAI_(set_lane)(t, &p->lanes[lane / FAI_VL], lane % FAI_VL,
                                             row0 + (lane < rows ? lane : rows - 1));
        if (lane < FAI_VL && keys.hi > p->hi0) p->hi0 = keys.hi;
    }
    p->any = fa_any_range(t->args, t->seq.len_q, t->seq.len_k, i0, i1);
    p->all = fa_all_range(t->args, t->seq.len_q, t->seq.len_k, i0, i1);
    if (t->split) p->any = fai_cut(p->any, t->split->keys), p->all = fai_cut(p->all, t->split->keys);
    if (((FA_FEATURES) & FA_TREE_MASK) && (t->used & FA_TREE_MASK) && p->all.hi > t->seq.len_k - t->seq.len_q)
        p->all.hi = t->seq.len_k - t->seq.len_q;
    for (int v = 0; v < FAI_NV; v++) p->m[v] = p->l[v] = p->rounded[v] = fai_splat(0), p->limit[v] = fai_splat(-1);
    FAI_(pack_q)(t, p, qt);
    memset(ot, 0, sizeof(fai_vec) * FA_HEAD_DIM_V * FAI_NV);
}

/* ---- few rows: keys in the lanes --------------------------------------------------------------- */

/* A decode step, or what a block leaves over its panels.  Rows read K and V where they lie, in their dtype, whatever the
 * strides; up to RMAX rows share each load.  What is computed for a row, in which order, does not depend on how many
 * rows share it: sums over dims go through the same tree, keys join O one after the other. */

/* Rows go through the dims in pairs of vectors; bf16 has the even dims in the first and the odd ones in the second. */
FAI_INLINE void FAI_(even_odd)(float *to, const float *from, const int dim) {
    int c = 0;
    for (; FAI_EVEN_ODD && c + 2 * FAI_VL <= dim; c += 2 * FAI_VL)
        for (int x = 0; x < FAI_VL; x++) to[c + x] = from[c + 2 * x], to[c + FAI_VL + x] = from[c + 2 * x + 1];
    for (; c < dim; c++) to[c] = from[c];
}

FAI_NOINLINE void FAI_(open_few)(const FAI_(task) *t, FAI_(few) *f, int64_t row0, int32_t rows, int32_t heads) {
    const fa_args *a = t->args;
    f->rows = rows, f->heads = heads;
    for (int r = 0; r < rows * heads; r++) {
        FAI_(task) head = *t;
        FAI_(lanes) lanes;
        float q[FA_HEAD_DIM], factor;
        memset(&lanes, 0, sizeof lanes); /* one element of a vector is set by reading the rest */
        head.head_k += r / rows;
        f->keys[r] = FAI_(set_lane)(&head, &lanes, 0, row0 + r % rows);
        f->i[r] = lanes.i[0], f->h[r] = lanes.h[0];
        f->slope[r] = ((FA_FEATURES) & FA_ALIBI) && (t->used & FA_ALIBI) ? lanes.slope[0] : 0;
        factor = t->scale * (FA_DTYPE >= FA_E4M3 ? fai_descale(a, &a->q_descale, t->seq.b, f->h[r], f->i[r]) : 1);
        if (a->softmax_scale < 0) factor = -factor;
        for (int c = 0; c < FA_HEAD_DIM; c += FAI_VL)
            *(fai_vec_u *)(q + c) =
                fai_load(FA_DTYPE, a->q.data, fai_offset_q(&t->seq, t->sq, f->i[r], f->h[r]) + c) * factor;
        FAI_(even_odd)(f->q + r * FA_HEAD_DIM, q, FA_HEAD_DIM);
        f->m[r] = 0, f->limit[r] = -1, f->l[r] = fai_splat(0);
    }
    memset(f->o, 0, sizeof(float) * (size_t)(rows * heads * FA_HEAD_DIM_V));
}

/* x[0 .. count): factors of keys from j on, all of them in one page. */
FAI_INLINE void FAI_(factors)(const FAI_(task) *t, const fa_descale *d, int32_t head_k, int32_t j, int32_t count, float *x) {
    if (!d->data) {
        for (int32_t n = 0; n < count; n++) x[n] = 1;
    } else if (d->block <= 1) {
        const float *from = fai_descale_at(t->args, d, t->seq.b, head_k, j);
        const int64_t stride = d->block ? d->stride_block : 0;
        if (stride == 1) memcpy(x, from, sizeof *x * (size_t)count);
        else for (int32_t n = 0; n < count; n++) x[n] = from[n * stride];
    } else {
        for (int32_t n = 0; n < count; n++) x[n] = *fai_descale_at(t->args, d, t->seq.b, head_k, j + n);
    }
}

/* Where keys j .. j + count of a head are. */
FAI_NOINLINE void FAI_(locate)(const FAI_(task) *t, FAI_(chunk) *c, int32_t head_k, int32_t j, int32_t count) {
    const fa_args *a = t->args;
    const int64_t size = FAI_KV_SIZE;
    int32_t n = 0, first = a->block_table ? j % a->page_size : 0; /* in its page */
    c->begin = j, c->count = count;
    for (; n < count; first = 0) {
        const int32_t room = a->block_table ? a->page_size - first : count, run = room < count - n ? room : count - n;
        const char *k = (const char *)a->k.data + fai_offset_k(a, &t->seq, t->sk, j + n, head_k) * size;
        const char *v = (const char *)a->v.data + fai_offset_k(a, &t->seq, t->sv, j + n, head_k) * size;
        if (run == FAI_CHUNK) { /* compilers use vectors */
            for (int32_t x = 0; x < FAI_CHUNK; x++) c->k[x] = k + x * t->sk.s * size;
            for (int32_t x = 0; x < FAI_CHUNK; x++) c->v[x] = v + x * t->sv.s * size;
        } else {
            for (int32_t x = 0; x < run; x++) c->k[n + x] = k + x * t->sk.s * size, c->v[n + x] = v + x * t->sv.s * size;
        }
        if (FA_KV_DTYPE >= FA_E4M3) {
            FAI_(factors)(t, &a->k_descale, head_k, j + n, run, c->k_factor + n);
            FAI_(factors)(t, &a->v_descale, head_k, j + n, run, c->v_factor + n);
        }
        n += run;
    }
    for (; n < FAI_CHUNK; n++) { /* scores are computed for whole vectors of keys, and a longer chunk may fetch this one */
        c->k[n] = c->k[count - 1], c->v[n] = c->v[count - 1];
        if (FA_KV_DTYPE >= FA_E4M3) c->k_factor[n] = c->v_factor[n] = 0;
    }
}

/* Lane l of the result: the sum of the lanes of x[l], VL vectors. */
FAI_INLINE fai_vec FAI_(sum_lanes)(fai_vec *x) {
    FAI_FULL
    for (int half = FAI_VL / 2; half >= 1; half /= 2)
        FAI_EACH (i, 0, half) {
            fai_vec lo, hi;
            fai_zip(x[i], x[i + half], &lo, &hi);
            x[i] = lo + hi;
        }
    return x[0];
}

/* A row on its way: to L1 (1) or L2 (2). */
FAI_INLINE void FAI_(fetch)(const int bytes, int where, const char *row) {
    if (where == 1) {
        FAI_EACH (c, 0, (bytes + 63) / 64) __builtin_prefetch(row + c * 64, 0, 3);
    } else if (where) {
        FAI_EACH (c, 0, (bytes + 63) / 64) __builtin_prefetch(row + c * 64, 0, 2);
    }
}

/* s[x][..]: raw scores of the chunk's keys for ROWS rows.  Brings its rows of V. */
FAI_INLINE void FAI_(few_scores)(const int ROWS, const float *q, const FAI_(chunk) *c, float *s, int where) {
    enum { VL = FAI_VL, HD = FA_HEAD_DIM };
    const int KEYS = VL / ROWS, ONCE = FAI_ONCE(ROWS) < KEYS ? FAI_ONCE(ROWS) : KEYS; /* of a vector; side by side */
    for (int j = 0; j < c->count; j += KEYS) {
        fai_vec x[VL], sum; /* (row, key) */
        for (int i = 0; i < KEYS; i += ONCE) {
            fai_vec acc[FAI_RMAX][4];
            FAI_EACH (y, 0, ONCE) {
                FAI_(fetch)(FA_HEAD_DIM_V * FAI_KV_SIZE, where, c->v[j + i + y]);
                FAI_EACH (r, 0, ROWS) acc[r][y] = fai_splat(0);
            }
            FAI_EACH (w, 0, HD / (2 * VL)) {
                FAI_EACH (y, 0, ONCE) {
                    fai_vec a, b;
                    fai_load2(FA_KV_DTYPE, c->k[j + i + y] + 2 * VL * FAI_KV_SIZE * w, &a, &b);
                    FAI_EACH (r, 0, ROWS) {
                        acc[r][y] = fai_fma(*(const fai_vec_u *)(q + r * HD + 2 * VL * w), a, acc[r][y]);
                        acc[r][y] = fai_fma(*(const fai_vec_u *)(q + r * HD + 2 * VL * w + VL), b, acc[r][y]);
                    }
                }
            }
            if (HD % (2 * VL)) {
                FAI_EACH (y, 0, ONCE) {
                    const fai_vec a = fai_load(FA_KV_DTYPE, c->k[j + i + y], HD - VL);
                    FAI_EACH (r, 0, ROWS) acc[r][y] = fai_fma(*(const fai_vec_u *)(q + r * HD + HD - VL), a, acc[r][y]);
                }
            }
            FAI_EACH (y, 0, ONCE)
                FAI_EACH (r, 0, ROWS) x[r * KEYS + i + y] = acc[r][y];
        }
        sum = FAI_(sum_lanes)(x);
        FAI_EACH (r, 0, ROWS) memcpy(s + r * FAI_CHUNK + j, (const float *)&sum + r * KEYS, sizeof(float) * (size_t)KEYS);
    }
}
FAI_NOINLINE void FAI_(few_scores_of)(int rows, const float *q, const FAI_(chunk) *c, float *s, int where) {
    if (rows == 1) FAI_(few_scores)(1, q, c, s, where);
    else if (rows == 2) FAI_(few_scores)(2, q, c, s, where);
    else if (rows == 4) FAI_(few_scores)(4, q, c, s, where);
#if FAI_RMAX == 8
    else FAI_(few_scores)(8, q, c, s, where);
#endif
}

/* o[x][0 .. N vectors) += P V over keys from .. to of the chunk for ROWS rows.  v: of the vectors in a row of V.
 * Brings the rows of the next chunk's K. */
FAI_INLINE void FAI_(few_output)(const int ROWS, const int N, const FAI_(chunk) *c, int from, int to, int v, const float *p,
                                 float *o, const char *const *ahead, int where) {
    enum { VL = FAI_VL, DV = FA_HEAD_DIM_V };
    fai_vec acc[FAI_RMAX][8];
    FAI_EACH (r, 0, ROWS)
        FAI_EACH (i, 0, N) acc[r][i] = *(const fai_vec_u *)(o + r * DV + i * VL);
    for (int n = from; n < to; n++) {
        const char *row = c->v[n] + v * VL * FAI_KV_SIZE;
        fai_vec w[FAI_RMAX];
        FAI_(fetch)(FA_HEAD_DIM * FAI_KV_SIZE, where, ahead[n]);
        FAI_EACH (r, 0, ROWS) w[r] = fai_splat(p[r * FAI_CHUNK + n]);
        FAI_EACH (i, 0, N / 2) {
            fai_vec a, b;
            fai_load2(FA_KV_DTYPE, row + 2 * VL * FAI_KV_SIZE * i, &a, &b);
            FAI_EACH (r, 0, ROWS) {
                acc[r][2 * i] = fai_fma(w[r], a, acc[r][2 * i]);
                acc[r][2 * i + 1] = fai_fma(w[r], b, acc[r][2 * i + 1]);
            }
        }
        if (N % 2) {
            const fai_vec a = fai_load(FA_KV_DTYPE, row, (N - 1) * VL);
            FAI_EACH (r, 0, ROWS) acc[r][N - 1] = fai_fma(w[r], a, acc[r][N - 1]);
        }
    }
    FAI_EACH (r, 0, ROWS)
        FAI_EACH (i, 0, N) *(fai_vec_u *)(o + r * DV + i * VL) = acc[r][i];
}
FAI_INLINE void FAI_(few_outputs)(const int ROWS, const FAI_(chunk) *c, int from, int to, const float *p, float *o,
                                  const char *const *ahead, int where) {
    enum { VECTORS = FA_HEAD_DIM_V / FAI_VL };
    const int N = FAI_ACC / ROWS < 8 ? FAI_ACC / ROWS : 8;
    int v = 0;
    for (; v + N <= VECTORS; v += N) {
        FAI_(few_output)(ROWS, N, c, from, to, v, p, o + v * FAI_VL, ahead, where);
        where = 0;
    }
    if (VECTORS % N) FAI_(few_output)(ROWS, VECTORS % N, c, from, to, v, p, o + v * FAI_VL, ahead, where);
}
FAI_NOINLINE void FAI_(few_output_of)(int rows, const FAI_(chunk) *c, int from, int to, const float *p, float *o,
                                      const char *const *ahead, int where) {
    if (rows == 1) FAI_(few_outputs)(1, c, from, to, p, o, ahead, where);
    else if (rows == 2) FAI_(few_outputs)(2, c, from, to, p, o, ahead, where);
    else if (rows == 4) FAI_(few_outputs)(4, c, from, to, p, o, ahead, where);
#if FAI_RMAX == 8
    else FAI_(few_outputs)(8, c, from, to, p, o, ahead, where);
#endif
}

/* Scores of row r, keys `key`, n of which exist: what the features make of them. */
FAI_NOINLINE fai_vec FAI_(few_change)(const FAI_(task) *t, const FAI_(few) *f, int r, fai_vec s, fai_ivec key, int32_t n) {
    FAI_(lanes) lanes;
    fai_vec bias = fai_splat(0);
    lanes.lo = fai_isplat(f->keys[r].lo), lanes.hi = fai_isplat(f->keys[r].hi), lanes.live = fai_isplat(-1);
    lanes.pos = fai_isplat(f->i[r] + t->seq.len_k - t->seq.len_q), lanes.slope = fai_splat(f->slope[r]);
    for (int l = 0; l < FAI_VL; l++) lanes.i[l] = f->i[r], lanes.h[l] = f->h[r];
    if (((FA_FEATURES) & FA_BIAS) && (t->used & FA_BIAS)) bias = FAI_(bias)(t, f->i[r], f->h[r], key[0], n);
    if (((FA_FEATURES) & FA_BLOCK_MASK) && (t->used & FA_BLOCK_MASK))
        for (int l = 0; l < n; l++) lanes.live[l] = -fa_block_visible(t->args, &t->seq, f->h[r], f->i[r], key[l]);
    return FAI_(change)(t, &lanes, s, key, bias, NULL);
}
FAI_NOINLINE fai_vec FAI_(few_dropout)(const FAI_(task) *t, const FAI_(few) *f, int r, fai_vec p, fai_ivec key) {
    FAI_(lanes) lanes;
    for (int l = 0; l < FAI_VL; l++) lanes.i[l] = f->i[r], lanes.h[l] = f->h[r];
    return FAI_(dropout_keys)(t, &lanes, p, key);
}

/* s[0 .. count): scores of row r for the keys of a chunk become P in place. */
FAI_NOINLINE void FAI_(few_softmax)(const FAI_(task) *t, FAI_(few) *f, int r, const FAI_(chunk) *c, float *s) {
    enum { F = FA_FEATURES, DV = FA_HEAD_DIM_V, N = FAI_CHUNK / FAI_VL };
    const int n = (c->count + FAI_VL - 1) / FAI_VL;
    const int changed = !t->plain || (t->used & (FA_BIAS | FA_BLOCK_MASK | FA_TREE_MASK));
    fai_vec x[N], p[N], sum = fai_splat(0);
    fai_ivec lane = fai_isplat(c->begin);
    for (int l = 0; l < FAI_VL; l++) lane[l] += l;
    for (int i = 0; i < n; i++) {
        const int32_t at = c->begin + i * FAI_VL;
        x[i] = *(const fai_vec_u *)(s + i * FAI_VL);
        if (FA_KV_DTYPE >= FA_E4M3) x[i] *= *(const fai_vec_u *)(c->k_factor + i * FAI_VL);
        if (changed || at < f->keys[r].lo || at + FAI_VL > f->keys[r].hi) {
            const int32_t rest = c->count - i * FAI_VL;
            x[i] = FAI_(few_change)(t, f, r, x[i], lane + i * FAI_VL, rest < FAI_VL ? rest : FAI_VL);
        }
        p[i] = fai_exp2(5, x[i] - f->m[r]), sum += p[i];
    }
    if (FAI_UNLIKELY(fai_any(sum > fai_splat(f->limit[r])))) { /* as in rescale */
        const int fresh = f->limit[r] < 0;
        float m = fresh ? FAI_LOWEST : f->m[r], factor;
        for (int i = 0; i < n; i++)
            for (int l = 0; l < FAI_VL; l++) m = x[i][l] > m ? x[i][l] : m;
        if (m > FAI_LOWEST) {
            m = ceilf(m), factor = fresh ? 1 : exp2f(f->m[r] - m);
            f->m[r] = m, f->limit[r] = FAI_LAZY, f->l[r] *= factor, sum = fai_splat(0);
            for (int d = 0; d < DV; d += FAI_VL) *(fai_vec_u *)(f->o + r * DV + d) *= factor;
            for (int i = 0; i < n; i++) p[i] = fai_exp2(5, x[i] - m), sum += p[i];
        }
    }
    f->l[r] += sum;
    for (int i = 0; i < n; i++) {
        if ((F & FA_DROPOUT) && (t->used & FA_DROPOUT)) p[i] = FAI_(few_dropout)(t, f, r, p[i], lane + i * FAI_VL);
        if (FA_KV_DTYPE >= FA_E4M3) p[i] *= *(const fai_vec_u *)(c->v_factor + i * FAI_VL);
        *(fai_vec_u *)(s + i * FAI_VL) = p[i];
    }
}

/* Rows that share each load of K and V: 8, 4, 2 or 1 of those left. */
FAI_INLINE int FAI_(together)(int left) {
    return left >= 8 && FAI_RMAX == 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
}

/* The rows of a head, number `first` and so on, pass over the K of a chunk, then over its V. */
FAI_NOINLINE void FAI_(few_chunk)(const FAI_(task) *t, FAI_(few) *f, int first, const FAI_(chunk) *c, const FAI_(chunk) *next) {
    enum { DV = FA_HEAD_DIM_V };
    const int32_t begin = c->begin, end = c->begin + c->count;
    int last = first + f->rows; /* those that see some of it: both ends of keys[] rise */
    while (first < last && f->keys[first].hi <= begin) first++;
    while (first < last && f->keys[last - 1].lo >= end) last--;
    for (int r = first, n; r < last; r += n) { /* S = Q K^T */
        n = FAI_(together)(last - r);
        FAI_(few_scores_of)(n, f->q + r * FA_HEAD_DIM, c, f->s + r * FAI_CHUNK, r == first ? t->where : 0);
    }
    for (int r = first; r < last; r++) FAI_(few_softmax)(t, f, r, c, f->s + r * FAI_CHUNK);
    for (int r = first, n; r < last; r += n) { /* O += P V, over the keys that a row sees: V may be NaN elsewhere */
        const int where = r == first && next->count ? t->where : 0;
        int32_t lo = begin, hi = end;
        n = FAI_(together)(last - r);
        for (int x = r; x < r + n; x++)
            lo = f->keys[x].lo > lo ? f->keys[x].lo : lo, hi = f->keys[x].hi < hi ? f->keys[x].hi : hi;
        if (lo > hi) lo = hi = lo < end ? lo : end;
        for (int x = r; x < r + n && lo > begin; x++)
            if (f->keys[x].lo < lo)
                FAI_(few_output_of)(1, c, (f->keys[x].lo > begin ? f->keys[x].lo : begin) - begin,
                                    (f->keys[x].hi < lo ? f->keys[x].hi : lo) - begin, f->s + x * FAI_CHUNK,
                                    f->o + x * DV, c->k, 0);
        FAI_(few_output_of)(n, c, lo - begin, hi - begin, f->s + r * FAI_CHUNK, f->o + r * DV, next->k, where);
        for (int x = r; x < r + n && hi < end; x++)
            if (f->keys[x].hi > hi)
                FAI_(few_output_of)(1, c, (f->keys[x].lo > hi ? f->keys[x].lo : hi) - begin,
                                    (f->keys[x].hi < end ? f->keys[x].hi : end) - begin, f->s + x * FAI_CHUNK,
                                    f->o + x * DV, c->k, 0);
    }
}

/* The rows visit keys from .. end in chunks, which stay in L1 while all rows pass over them.  `from` is a multiple of CHUNK
 * keys from where the task begins, whatever the tile is, so that a row's bits do not depend on what else is in its task. */
FAI_NOINLINE void FAI_(visit_few)(const FAI_(task) *t, FAI_(few) *f, int32_t from, int32_t end) {
    FAI_(chunk) *c = &f->chunk[0], *next = &f->chunk[1];
    const int32_t lo = f->keys[0].lo > from ? f->keys[0].lo : from;
    const int32_t hi = f->keys[f->rows - 1].hi < end ? f->keys[f->rows - 1].hi : end;
    int32_t j = from + (lo - from) / FAI_CHUNK * FAI_CHUNK, head = 0;
    if (lo >= hi) return;
    FAI_(locate)(t, c, t->head_k, j, hi - j < FAI_CHUNK ? hi - j : FAI_CHUNK);
    while (c->count) {
        FAI_(chunk) *const done = c;
        const int32_t first = head * f->rows;
        if (++head == f->heads) head = 0, j += FAI_CHUNK;
        next->count = 0;
        if (j < hi) FAI_(locate)(t, next, t->head_k + head, j, hi - j < FAI_CHUNK ? hi - j : FAI_CHUNK);
        else memcpy(next->k, c->k, sizeof c->k); /* not fetched, but not garbage either */
        FAI_(few_chunk)(t, f, first, c, next);
        c = next, next = done;
    }
}

/* Ends a row: LSE, and O from its sum. */
FAI_NOINLINE void FAI_(close_o)(const FAI_(task) *t, int32_t i, int32_t h, const float *o, double m, double l,
                                double rounded) {
    const float inverse = FAI_(close_row)(t, i, h, m, l, rounded);
    const int64_t offset = fai_offset_q(&t->seq, t->so, i, h);
    fai_ivec bad = fai_isplat(0);
    for (int c = 0; c < FA_HEAD_DIM_V; c += FAI_VL) {
        const fai_vec x = *(const fai_vec_u *)(o + c) * inverse;
        bad |= x - x != fai_splat(0);
        fai_store(FA_O_DTYPE, t->args->o.data, offset + c, x);
    }
    if (FAI_UNLIKELY(inverse == inverse && fai_any(bad))) FAI_(exact_row)(t, i, h);
}

FAI_NOINLINE void FAI_(finish_few)(const FAI_(task) *t, const FAI_(few) *f) {
    enum { VL = FAI_VL, DV = FA_HEAD_DIM_V };
    for (int r = 0; r < f->rows * f->heads; r++) {
        float l = 0, o[DV], *part;
        int c = 0;
        for (int x = 0; x < VL; x++) l += f->l[r][x];
        for (; FAI_EVEN_ODD && c + 2 * VL <= DV; c += 2 * VL) {
            fai_vec lo, hi;
            fai_zip(*(const fai_vec_u *)(f->o + r * DV + c), *(const fai_vec_u *)(f->o + r * DV + c + VL), &lo, &hi);
            *(fai_vec_u *)(o + c) = lo, *(fai_vec_u *)(o + c + VL) = hi;
        }
        memcpy(o + c, f->o + r * DV + c, sizeof(float) * (size_t)(DV - c));
        part = FAI_(part)(t, f->i[r], f->h[r]);
        if (part)
            memcpy(part, o, sizeof o), part[DV] = f->m[r], part[DV + 1] = part[DV + 2] = l;
        else
            FAI_(close_o)(t, f->i[r], f->h[r], o, (double)f->m[r], (double)l, (double)l);
    }
}

/* ---- the block ---------------------------------------------------------------------------------- */

/* Bytes of the arrays of one worker, each a multiple of 64. */
#define FAI_BYTES_QT ((size_t)4 * FAI_NP * FAI_PW * FAI_W)
#define FAI_BYTES_OT ((size_t)4 * FAI_NP * FAI_PW * FA_HEAD_DIM_V)
#define FAI_BYTES_PT ((size_t)4 * (FAI_BN >> FAI_PAIRS) * FAI_PW)
#define FAI_BYTES_BT ((FA_FEATURES)&FA_BIAS ? (size_t)4 * FAI_BN * FAI_PW : 0)
#define FAI_BYTES_KS ((size_t)4 * FAI_BN * FAI_W)
#define FAI_BYTES_VS ((size_t)4 * (FAI_BN >> FAI_PAIRS) * FA_HEAD_DIM_V)
#define FAI_BYTES_FACTOR ((size_t)4 * FAI_BN)
#define FAI_BYTES_FEW ((size_t)4 * FAI_ROWS * (FA_HEAD_DIM + FA_HEAD_DIM_V + FAI_CHUNK))

FAI_NOINLINE size_t FAI_(worker_bytes)(void) {
    return FAI_BYTES_QT + FAI_BYTES_OT + FAI_BYTES_PT + FAI_BYTES_BT + FAI_BYTES_KS + FAI_BYTES_VS +
           FAI_BYTES_FACTOR + FAI_BYTES_FEW + sizeof(FAI_(panel)) * FAI_NP + sizeof(FAI_(few)) + 64;
}

/* What does not depend on the rows. */
FAI_NOINLINE void FAI_(open_task)(FAI_(task) *t, const fa_args *a, int32_t b, int32_t head_k) {
    memset(t, 0, sizeof *t);
    t->args = a, t->seq = fa_get_sequence(a, b), t->head_k = head_k;
    t->group = a->num_heads / fai_num_heads_k(a);
    t->used = fa_features_used(a) & (FA_FEATURES);
    t->plain = !(t->used & (FA_SOFTCAP | FA_ALIBI | FA_DROPOUT));
#if defined(FA_SCORE_MOD) || defined(FA_MASK_MOD)
    t->plain = 0;
#endif
    t->sq = fai_strides_q(a, FA_HEAD_DIM), t->so = fai_strides_o(a, FA_HEAD_DIM_V);
    t->sk = fai_strides_kv(a, &a->k, FA_HEAD_DIM), t->sv = fai_strides_kv(a, &a->v, FA_HEAD_DIM_V);
    t->sl = fai_strides_lse(a), t->sb = fai_strides_bias(a);
    t->scale = FAI_LOG2E * (a->softmax_scale < 0   ? -a->softmax_scale
                            : a->softmax_scale > 0 ? a->softmax_scale
                                                   : 1 / sqrtf((float)FA_HEAD_DIM));
    t->drop_below = fa_dropout_threshold(a->dropout_p), t->drop_scale = fa_dropout_scale(a->dropout_p);
    t->k_direct = !FAI_PAIRS && FA_KV_DTYPE == FA_F32 && !a->block_table && t->sk.s == FA_HEAD_DIM;
    t->v_direct = !FAI_PAIRS && FA_KV_DTYPE == FA_F32 && !a->block_table && t->sv.s == FA_HEAD_DIM_V;
}

/* Rows row0 .. row0 + rows of key/value head head_k of sequence b; to the end if no more than SPARE would be left.  split:
 * the keys that count, and where the result goes then; NULL: all keys, and O. */
FAI_NOINLINE void FAI_(block_of)(const fa_args *a, int32_t b, int32_t head_k, int64_t row0, int32_t rows,
                                 const fai_split *split, void *workspace) {
    const int alone = split && split->alone, spare = alone ? 0 : FAI_SPARE, heads = split ? split->heads : 1;
    FAI_(task) task, *t = &task;
    FAI_(panel) *panels;
    FAI_(few) *few;
    char *at = (char *)(((uintptr_t)workspace + 63) & ~(uintptr_t)63);
    int panel_count = 0;
    int32_t origin = split ? split->keys.lo : 0;
    int64_t left;
    fa_range any;
    FAI_(open_task)(t, a, b, head_k);
    t->split = split;
    left = (int64_t)t->seq.len_q * t->group - row0;
    if (left <= (row0 > 0 ? spare : 0)) return; /* nothing here, or the block before has it */
    t->row0 = row0, t->rows = left <= rows + spare ? (int32_t)left : rows;
    t->qt = (fai_vec *)(void *)at, at += FAI_BYTES_QT;
    t->ot = (fai_vec *)(void *)at, at += FAI_BYTES_OT;
    t->pt = (fai_vec *)(void *)at, at += FAI_BYTES_PT;
    t->bt = (fai_vec *)(void *)at, at += FAI_BYTES_BT;
    t->ks = (fai_word *)(void *)at, at += FAI_BYTES_KS;
    t->vs = (fai_word *)(void *)at, at += FAI_BYTES_VS;
    t->k_factor = (float *)(void *)at, at += FAI_BYTES_FACTOR;
    panels = (FAI_(panel) *)(void *)at, at += sizeof *panels * FAI_NP;
    few = (FAI_(few) *)(void *)at, at += sizeof *few;
    few->q = (float *)(void *)at, few->o = few->q + FAI_ROWS * FA_HEAD_DIM, few->s = few->o + FAI_ROWS * FA_HEAD_DIM_V;

    few->rows = t->rows;
    if (!alone && heads == 1 && t->rows > FAI_FEW) {
        panel_count = t->rows / FAI_PW, few->rows = t->rows % FAI_PW;
        if (few->rows > FAI_LEFT) panel_count++, few->rows = 0;
    }
    for (int n = 0; n < panel_count; n++) {
        const int32_t count = t->rows - n * FAI_PW;
        FAI_(open_panel)(t, &panels[n], t->row0 + n * FAI_PW, count < FAI_PW ? count : FAI_PW, t->qt + n * FAI_W * FAI_NV,
         t->ot + n * FA_HEAD_DIM_V * FAI_NV);
    }
    if (few->rows) FAI_(open_few)(t, few, t->row0 + panel_count * FAI_PW, few->rows, heads);

    any = fa_any_range(a, t->seq.len_q, t->seq.len_k, (int32_t)(t->row0 / t->group),
                       (int32_t)((t->row0 + t->rows - 1) / t->group + 1));
    if (split) any = fai_cut(any, split->keys);
    t->fetch = any.lo, t->fetch_end = any.hi,
    t->fetch_step = panel_count ? (FAI_MR + panel_count - 1) / panel_count : 0;
    if (!panel_count) { /* rows that lie apart share a few sets of L1 */
        t->where = FAI_KV_SIZE == 1 && t->sk.s == FA_HEAD_DIM ? 1 : 2;
        FAI_(visit_few)(t, few, origin, any.hi);
    }
    for (t->tile = origin + (any.lo - origin) / FAI_BN * FAI_BN; panel_count && t->tile < any.hi; t->tile += FAI_BN) {
        const int32_t end = any.hi - t->tile < FAI_BN ? any.hi : t->tile + FAI_BN;
        const fai_word *k = t->ks, *v = t->vs;
        if (t->k_direct) {
            k = (const fai_word *)a->k.data + fai_offset_k(a, &t->seq, t->sk, t->tile, head_k);
            FAI_(stage_k)(t, t->tile + (end - t->tile) / FAI_MR * FAI_MR, end);
        } else {
            FAI_(stage_k)(t, t->tile, end);
        }
        if (t->v_direct)
            v = (const fai_word *)a->v.data + fai_offset_k(a, &t->seq, t->sv, t->tile, head_k);
        else
            FAI_(stage_v)(t, end);
        if (t->fetch_step) t->fetch = end, t->fetch_end = any.hi - end < FAI_BN ? any.hi : end + FAI_BN;
        for (int n = 0; n < panel_count; n++)
            FAI_(visit)(t, &panels[n], t->qt + n * FAI_W * FAI_NV, t->ot + n * FA_HEAD_DIM_V * FAI_NV, k, v, end);
        if (few->rows) FAI_(visit_few)(t, few, t->tile, end);
    }
    for (int n = 0; n < panel_count; n++) FAI_(finish)(t, &panels[n], t->ot + n * FA_HEAD_DIM_V * FAI_NV);
    if (few->rows) FAI_(finish_few)(t, few);
}
FAI_NOINLINE void FAI_(block)(const fa_args *a, int32_t b, int32_t head_k, int64_t row0, int32_t rows, void *workspace) {
    FAI_(block_of)(a, b, head_k, row0, rows, NULL, workspace);
}

/* O and LSE of rows row0 .. end from what the splits made of them, in the order of the keys.  References are integers, so
 * every factor is a power of two. */
FAI_NOINLINE void FAI_(merge)(const fa_args *a, int32_t b, int32_t head_k, int64_t row0, int64_t end, const fai_split *split) {
    enum { DV = FA_HEAD_DIM_V, PART = FAI_PART(FA_HEAD_DIM_V) };
    FAI_(task) t;
    FAI_(open_task)(&t, a, b, head_k);
    for (int64_t row = row0; row < end; row++) {
        const float *parts = split->parts + row * split->count * PART; /* (split, PART) */
        float o[DV] = {0}, m = FAI_LOWEST;
        double l = 0, rounded = 0;
        for (int32_t n = 0; n < split->count; n++)
            if (parts[n * (int64_t)PART + DV + 1] > 0 && parts[n * (int64_t)PART + DV] > m) m = parts[n * (int64_t)PART + DV];
        for (int32_t n = 0; n < split->count; n++) {
            const float *part = parts + n * (int64_t)PART, factor = exp2f(part[DV] - m);
            if (part[DV + 1] == 0) continue; /* its keys are all masked */
            l += (double)(part[DV + 1] * factor), rounded += (double)(part[DV + 2] * factor);
            for (int c = 0; c < DV; c += FAI_VL)
                *(fai_vec_u *)(o + c) = fai_fma(*(const fai_vec_u *)(part + c), fai_splat(factor), *(const fai_vec_u *)(o + c));
        }
        FAI_(close_o)(&t, (int32_t)(row / t.group), head_k * t.group + (int32_t)(row % t.group), o, (double)m, l, rounded);
    }
}

#undef FAI_BYTES_FEW
/* ======================================================================================== */
/* >>backward  dQ, dK, dV from Q, K, V, dO, LSE and D = rowsum(dO o O)                        */
/* ======================================================================================== */

/*     S[query][key]  = Q K^T       dP[query][key] = dO V^T     broadcast rows of Q, dO; K, V transposed
 *     P = exp2(S - lse)            dS = P o (dP - D)           on the accumulators, never transposed
 *     dV^T[dim][key] += dO^T P     dK^T[dim][key] += Q^T dS    broadcast rows of dO, Q; P, dS as they were written
 *     dQ[query][dim] += dS K                                   broadcast dS as it was written; K in panels of PW dims
 *
 * P is computed again from LSE, tile by tile [FA1 Alg. 4, FA2 Alg. 2].  Keys in the lanes: P and dS come out as
 * (query, key) and serve every later product as they are.  Key tiles outside, row tiles inside: dK and dV of a tile stay
 * in L2 until they are done, and dQ accumulates in memory.  All five products are MR x NV kernels.  Pairs: as in the
 * forward pass; dK and dV contract over pairs of rows, dQ over pairs of keys, and P and dS are rounded to bf16.
 * Nothing is scaled before the end: dQ and dK are multiplied by softmax_scale as they leave. */

#if (FA_PASSES) & FA_BACKWARD
#define FAI_WV ((FA_HEAD_DIM_V / (1 + FAI_PAIRS) + FAI_VL - 1) / FAI_VL * FAI_VL) /* words of a row of V, whole vectors */
#define FAI_TK FAI_GRAD_TILE
#define FAI_TQ (128 / FAI_MR * FAI_MR) /* rows of a tile; at most GRAD_PAD */
/* Rows of Q, dO and dS in a tile lie a few lines more than a power of two apart, or they would share few sets of L1. */
#define FAI_LDQ (FAI_W + 16)
#define FAI_LDO (FAI_WV + 16)
#define FAI_LDS (FAI_TK / (1 + FAI_PAIRS) + 16)

/* A task's state. S = 1 + PAIRS. */
typedef struct FAI_(grad) {
    FAI_(task) t;              /* args, seq, head_k, group, used, scale, dropout; tile: first key of the tile */
    const fai_grad_plan *plan;
    fai_strides sdo, sdk, sdv, sdb;
    int64_t row;               /* of the sequence in the plan's arrays */
    int32_t keys;              /* of the tile */
    int64_t row0;              /* of the tile of rows */
    int32_t rows;
    int32_t changed, biased;   /* more than a range of keys and the block mask changes scores; dbias is wanted */
    fai_vec *kt, *vt;          /* (key panel, word, NV): K^T and V^T */
    fai_vec *dkt, *dvt;        /* (key panel, dim, NV) */
    fai_word *kp;              /* (dim panel, TK / S, PW): K */
    fai_word *q, *d_o;         /* (TQ, LDQ), (TQ, LDO): rows, zero where they are not finite */
    fai_word *q2, *do2;        /* pairs: (TQ / 2, LDQ2), (TQ / 2, LDO2), what dK and dV read; else q and d_o */
    fai_vec *p, *ds2;          /* (TQ / S, NV) of a panel; ds2 in pairs only: dS as dK reads it */
    fai_word *ds;              /* (TQ, LDS): dS as dQ reads it, and without pairs dK */
    float *dq;                 /* (rows, head_dim): this split's part for the sequence */
    float lse[FAI_TQ], sum[FAI_TQ];
    int32_t lo[FAI_TQ], hi[FAI_TQ]; /* keys that the row sees */
} FAI_(grad);

#define FAI_LDQ2 (FAI_PAIRS ? FA_HEAD_DIM + 16 : FAI_LDQ)
#define FAI_LDO2 (FAI_PAIRS ? FA_HEAD_DIM_V + 16 : FAI_LDO)
#define FAI_BYTES_KT ((size_t)4 * FAI_TK * FAI_W)
#define FAI_BYTES_VT ((size_t)4 * FAI_TK * FAI_WV)
#define FAI_BYTES_DKT ((size_t)4 * FAI_TK * FA_HEAD_DIM)
#define FAI_BYTES_DVT ((size_t)4 * FAI_TK * FA_HEAD_DIM_V)
#define FAI_BYTES_KP ((size_t)4 * FAI_TK / (1 + FAI_PAIRS) * ((FA_HEAD_DIM + FAI_PW - 1) / FAI_PW * FAI_PW))
#define FAI_BYTES_ROWS ((size_t)4 * FAI_TQ * (FAI_LDQ + FAI_LDO)) /* K and V pass through here as well */
#define FAI_BYTES_ROWS2 (FAI_PAIRS ? (size_t)4 * FAI_TQ / 2 * (FAI_LDQ2 + FAI_LDO2) : 0)
#define FAI_BYTES_P ((size_t)4 * FAI_TQ * FAI_PW)
#define FAI_BYTES_DS ((size_t)4 * FAI_TQ * FAI_LDS)

FAI_NOINLINE size_t FAI_(grad_bytes)(void) {
    return FAI_BYTES_KT + FAI_BYTES_VT + FAI_BYTES_DKT + FAI_BYTES_DVT + FAI_BYTES_KP + FAI_BYTES_ROWS + FAI_BYTES_ROWS2 +
           2 * FAI_BYTES_P + FAI_BYTES_DS + 128;
}

/* dst[0 .. words) = a row of q or dO, 0 where it is not finite: its lse is NaN then (grad_prepare). */
FAI_INLINE void FAI_(row_finite)(fai_word *dst, const void *src, int64_t offset, const int dtype, const int dim,
                                const int words) {
    for (int c = 0; c < dim; c += FAI_VL) {
        const fai_vec x = fai_load(dtype, src, offset + c);
        const fai_ivec finite = x - x == fai_splat(0);
        fai_store(FAI_PAIRS ? FA_BF16 : FA_F32, dst, c, fai_select(finite, x, fai_splat(0)));
    }
    for (int w = dim / (1 + FAI_PAIRS); w < words; w++) dst[w] = 0;
}

/* ---- key tiles ------------------------------------------------------------------------------- */

/* to[w][key] = from[key][w] for a panel; from: (PW, ld) */
FAI_INLINE void FAI_(to_panel)(fai_vec *to, const fai_word *from, const int ld, const int words) {
    for (int v = 0; v < FAI_NV; v++)
        for (int w = 0; w < words; w += FAI_VL) {
            fai_vec x[FAI_VL];
            FAI_EACH (l, 0, FAI_VL) x[l] = *(const fai_vec_u *)(from + (v * FAI_VL + l) * ld + w);
            fai_transpose(x);
            FAI_EACH (l, 0, FAI_VL) to[(w + l) * FAI_NV + v] = x[l];
        }
}

/* K in panels of PW dims, from the rows of one panel of keys.  What is not finite becomes 0: there P is NaN in the rows
 * that see the key, and the others must not meet it. */
FAI_INLINE void FAI_(k_panels)(FAI_(grad) *g, int32_t key0, const fai_word *rows) {
    enum { HD = FA_HEAD_DIM, S = 1 + FAI_PAIRS };
    for (int i = 0; i < FAI_PW; i += S)
        for (int c = 0; c < HD; c += FAI_VL) {
            fai_vec x[2];
            FAI_EACH (n, 0, S) {
                x[n] = fai_load(FAI_PAIRS ? FA_BF16 : FA_F32, rows + (i + n) * FAI_LDQ, c);
                x[n] = fai_select(x[n] - x[n] == fai_splat(0), x[n], fai_splat(0));
            }
            *(fai_vec_u *)(g->kp + ((int64_t)(c / FAI_PW) * (FAI_TK / S) + (key0 + i) / S) * FAI_PW + c % FAI_PW) =
                FAI_PAIRS ? fai_pair(x[0], x[1]) : x[0];
        }
}

/* Keys k0 .. k0 + keys of K and V, transposed; the last panel is filled up with zeros. */
FAI_NOINLINE void FAI_(open_keys)(FAI_(grad) *g) {
    const fa_args *a = g->t.args;
    fai_word *k = g->q, *v = g->d_o; /* (PW, LDQ), (PW, LDO): not in use yet */
    for (int32_t j0 = 0; j0 < g->keys; j0 += FAI_PW) {
        for (int32_t i = 0; i < FAI_PW; i++) {
            const int32_t j = g->t.tile + j0 + i;
            if (FAI_WV > FA_HEAD_DIM_V / (1 + FAI_PAIRS) || j0 + i >= g->keys) memset(v + i * FAI_LDO, 0, sizeof(fai_word) * FAI_WV);
            if (j0 + i + FAI_PW < g->keys) FAI_(fetch_key)(&g->t, j + FAI_PW);
            if (j0 + i < g->keys) {
                FAI_(row)(k + i * FAI_LDQ, a->k.data, fai_offset_k(a, &g->t.seq, g->t.sk, j, g->t.head_k), FA_KV_DTYPE,
                 FA_HEAD_DIM, 1);
                FAI_(row)(v + i * FAI_LDO, a->v.data, fai_offset_k(a, &g->t.seq, g->t.sv, j, g->t.head_k), FA_KV_DTYPE,
                 FA_HEAD_DIM_V, 1);
            } else {
                memset(k + i * FAI_LDQ, 0, sizeof(fai_word) * FAI_W);
            }
        }
        FAI_(to_panel)(g->kt + j0 / FAI_VL * FAI_W, k, FAI_LDQ, FAI_W);
        FAI_(to_panel)(g->vt + j0 / FAI_VL * FAI_WV, v, FAI_LDO, FAI_WV);
        FAI_(k_panels)(g, j0, k);
    }
    memset(g->dkt, 0, FAI_BYTES_DKT);
    memset(g->dvt, 0, FAI_BYTES_DVT);
}

/* Rows of dK or dV of the tile, from (key panel, dim, NV), times factor. */
FAI_INLINE void FAI_(from_panels)(const FAI_(grad) *g, void *to, fai_strides st, const int dim, const fai_vec *from,
                                  float factor) {
    const fa_sequence *s = &g->t.seq;
    for (int32_t j0 = 0; j0 < g->keys; j0 += FAI_VL) {
        const fai_vec *panel = from + (int64_t)(j0 / FAI_PW) * dim * FAI_NV + j0 % FAI_PW / FAI_VL;
        for (int c = 0; c < dim; c += FAI_VL) {
            fai_vec x[FAI_VL];
            FAI_EACH (l, 0, FAI_VL) x[l] = panel[(c + l) * FAI_NV] * factor;
            fai_transpose(x);
            for (int l = 0; l < FAI_VL && j0 + l < g->keys; l++)
                fai_store(FA_KV_DTYPE, to,
                          s->b_k * st.b + (s->row_k + g->t.tile + j0 + l) * st.s + g->t.head_k * st.h + c, x[l]);
        }
    }
}

/* ---- row tiles --------------------------------------------------------------------------------- */

/* Rows first .. first + MR of the tile, just before they are used for the first time; behind the last one follow rows
 * without an effect: 2^(0 - inf) = 0. */
FAI_NOINLINE void FAI_(open_rows)(FAI_(grad) *g, int32_t first) {
    const fa_args *a = g->t.args;
    const fa_sequence *s = &g->t.seq;
    const int64_t row0 = g->row0;
    const int32_t rows = g->rows, h0 = g->t.head_k * g->t.group, h1 = h0 + g->t.group;
    int32_t i = (int32_t)((row0 + first) / g->t.group), h = h0 + (int32_t)((row0 + first) % g->t.group);
    for (int32_t r = first; r < first + FAI_MR; r++, i += ++h == h1, h = h == h1 ? h0 : h) {
        fai_word *q = g->q + r * FAI_LDQ, *d_o = g->d_o + r * FAI_LDO;
        if (r < rows) {
            const fa_range keys = fa_row_range(a, s->len_q, s->len_k, i);
            FAI_(row_finite)(q, a->q.data, fai_offset_q(s, g->t.sq, i, h), FA_DTYPE, FA_HEAD_DIM, FAI_W);
            FAI_(row_finite)(d_o, a->d_o.data, fai_offset_q(s, g->sdo, i, h), FA_O_DTYPE, FA_HEAD_DIM_V, FAI_WV);
            g->lo[r] = keys.lo, g->hi[r] = keys.hi;
            g->lse[r] = g->plan->lse[g->row + row0 + r], g->sum[r] = g->plan->sum[g->row + row0 + r];
        } else {
            memset(q, 0, sizeof(fai_word) * FAI_W), memset(d_o, 0, sizeof(fai_word) * FAI_WV);
            g->lo[r] = g->lo[r - 1], g->hi[r] = g->hi[r - 1];
            g->lse[r] = INFINITY, g->sum[r] = 0;
        }
        if (FAI_PAIRS && r % 2) { /* what dK and dV contract over: pairs of rows */
            for (int c = 0; c < FA_HEAD_DIM; c += FAI_VL)
                *(fai_vec_u *)(g->q2 + r / 2 * FAI_LDQ2 + c) =
                    fai_pair(fai_load(FA_BF16, q - FAI_LDQ, c), fai_load(FA_BF16, q, c));
            for (int c = 0; c < FA_HEAD_DIM_V; c += FAI_VL)
                *(fai_vec_u *)(g->do2 + r / 2 * FAI_LDO2 + c) =
                    fai_pair(fai_load(FA_BF16, d_o - FAI_LDO, c), fai_load(FA_BF16, d_o, c));
        }
    }
}

/* MR rows of Q and dO from row r on to L2, before their tile comes. */
FAI_INLINE void FAI_(fetch_queries)(const FAI_(grad) *g, int64_t r) {
    const int size = (int)fa_sizeof(FA_DTYPE), size_o = (int)fa_sizeof(FA_O_DTYPE);
    const fa_args *a = g->t.args;
    const int32_t h0 = g->t.head_k * g->t.group, h1 = h0 + g->t.group;
    int64_t i = r / g->t.group, h = h0 + r % g->t.group;
    for (int n = 0; n < FAI_MR && i < g->t.seq.len_q; n++) {
        const char *q = (const char *)a->q.data + fai_offset_q(&g->t.seq, g->t.sq, i, h) * size;
        const char *d_o = (const char *)a->d_o.data + fai_offset_q(&g->t.seq, g->sdo, i, h) * size_o;
        for (int c = 0; c < FA_HEAD_DIM * size; c += 64) __builtin_prefetch(q + c, 0, 2);
        for (int c = 0; c < FA_HEAD_DIM_V * size_o; c += 64) __builtin_prefetch(d_o + c, 0, 2);
        if (++h == h1) h = h0, i++;
    }
}

/* ---- S, P, dP, dS ------------------------------------------------------------------------------ */

/* z[i][v] = 0 where dropout takes the element of row r + i, key j0 + lane, else 1 / (1 - p).  Philox gives 8 keys of a
 * row at once: its lanes are rows x blocks of 8 keys. */
FAI_NOINLINE void FAI_(grad_dropout)(const FAI_(grad) *g, int32_t r, int32_t j0, fai_vec *z) {
    enum { BLOCKS = FAI_VL >= 8 ? FAI_VL / 8 : 1, ROWS = FAI_VL / BLOCKS };
    for (int v = 0; v < FAI_NV; v++)
        for (int i0 = 0; i0 < FAI_MR; i0 += ROWS) {
            FAI_(lanes) lanes;
            fai_uvec c[4];
            fai_ivec j = fai_isplat(j0 + v * FAI_VL);
            uint16_t bits[FAI_VL][8]; /* (row, block), key */
            for (int l = 0; l < FAI_VL; l++) {
                const int64_t row = g->row0 + r + i0 + l / BLOCKS;
                j[l] += l % BLOCKS * 8;
                lanes.i[l] = (int32_t)(row / g->t.group);
                lanes.h[l] = g->t.head_k * g->t.group + (int32_t)(row % g->t.group);
            }
            FAI_(philox)(&g->t, &lanes, j, c);
            for (int l = 0; l < FAI_VL; l++)
                for (int n = 0; n < 8; n++) bits[l][n] = (uint16_t)(c[n >> 1][l] >> (n & 1 ? 16 : 0));
            for (int i = i0; i < i0 + ROWS && i < FAI_MR; i++) {
                const uint16_t *row = bits[(i - i0) * BLOCKS] + ((j0 + v * FAI_VL) & 7);
                fai_uvec x = {0};
                for (int l = 0; l < FAI_VL; l++) x[l] = row[l];
                z[i * FAI_NV + v] = fai_select((fai_ivec)(x >= g->t.drop_below), fai_splat(g->t.drop_scale), fai_splat(0));
            }
        }
}

/* s[i][v]: scores of row r + i and keys j0 + v VL + lane, log2 units, become those after all that changes them; slope[i][v]:
 * their derivative by the score, [MR + i][v] by the bias. */
FAI_NOINLINE void FAI_(grad_modify)(const FAI_(grad) *g, int32_t r, int32_t j0, fai_vec *s, fai_vec *slope) {
    const FAI_(task) *t = &g->t;
    fai_ivec lane = fai_isplat(j0);
    for (int l = 0; l < FAI_VL; l++) lane[l] += l;
    for (int i = 0; i < FAI_MR; i++) {
        const int64_t row = g->row0 + (r + i < g->rows ? r + i : g->rows - 1);
        const int32_t query = (int32_t)(row / t->group), head = t->head_k * t->group + (int32_t)(row % t->group);
        FAI_(lanes) lanes;
        lanes.lo = fai_isplat(g->lo[r + i]), lanes.hi = fai_isplat(g->hi[r + i]), lanes.live = fai_isplat(-1);
        lanes.pos = fai_isplat(query + t->seq.len_k - t->seq.len_q);
        lanes.slope = fai_splat(((FA_FEATURES) & FA_ALIBI) && (t->used & FA_ALIBI)
                                    ? t->args->alibi_slopes[t->seq.b * t->args->alibi_stride_b + head] * FAI_LOG2E
                                    : 0);
        for (int l = 0; l < FAI_VL; l++) lanes.i[l] = query, lanes.h[l] = head;
        for (int v = 0; v < FAI_NV; v++) {
            const int32_t j = j0 + v * FAI_VL, rest = t->seq.len_k - j;
            fai_vec bias = fai_splat(0), both[2];
            if (((FA_FEATURES) & FA_BIAS) && (t->used & FA_BIAS))
                bias = FAI_(bias)(t, lanes.i[0], lanes.h[0], j, rest < FAI_VL ? rest : FAI_VL);
            if (((FA_FEATURES) & FA_BLOCK_MASK) && (t->used & FA_BLOCK_MASK)) {
                const int32_t bk = t->args->block_mask.block_k;
                for (int l = 0; l < FAI_VL && l < rest; l++)
                    lanes.live[l] = l && (j + l) % bk ? lanes.live[l - 1]
                                                      : -fa_block_visible(t->args, &t->seq, head, query, j + l);
            }
            s[i * FAI_NV + v] = FAI_(change)(t, &lanes, s[i * FAI_NV + v], lane + v * FAI_VL, bias, both);
            slope[i * FAI_NV + v] = both[0], slope[(FAI_MR + i) * FAI_NV + v] = both[1];
        }
    }
}

/* dbias += x: rows r .. r + MR, keys from j0 on */
FAI_NOINLINE void FAI_(grad_bias)(const FAI_(grad) *g, int32_t r, int32_t j0, const fai_vec *x) {
    const FAI_(task) *t = &g->t;
    for (int i = 0; i < FAI_MR && r + i < g->rows; i++) {
        const int64_t row = g->row0 + r + i, h = t->head_k * t->group + row % t->group;
        float *to = t->args->dbias.data + t->seq.b * g->sdb.b + h * g->sdb.h + row / t->group * g->sdb.s + j0;
        for (int l = 0; l < FAI_PW && j0 + l < t->seq.len_k; l++) to[l] += x[i * FAI_NV + l / FAI_VL][l % FAI_VL];
    }
}

/* acc[i][v] = sum over words w of x[i][w] * panel[w][v] */
#define FAI_GRAD_PRODUCT(x, ld, panel, words) \
    FAI_EACH (i, 0, MR) \
        FAI_EACH (v, 0, J1) acc[i][v] = fai_splat(0); \
    FAI_SOME \
    for (int w = 0; w < (words); w++) { \
        FAI_EACH (i, 0, MR) { \
            const fai_vec one = fai_splat((x)[i * (ld) + w]); \
            FAI_EACH (v, 0, J1) acc[i][v] = fai_mac(FAI_PAIRS, one, (panel)[w * NV + v], acc[i][v]); \
        } \
    }

/* MR rows from r on x the keys of vectors v < J1 of a panel that starts at key j0 of the sequence: writes P and dS. */
FAI_INLINE void FAI_(grad_scores)(const int J1, const int MODE, const FAI_(grad) *g, int32_t r, int32_t j0) {
    enum { MR = FAI_MR, NV = FAI_NV, F = FA_FEATURES };
    const int32_t key = j0 - g->t.tile; /* in the tile */
    const fai_word *q = g->q + r * FAI_LDQ, *d_o = g->d_o + r * FAI_LDO;
    const fai_vec *kt = g->kt + key / FAI_VL * FAI_W, *vt = g->vt + key / FAI_VL * FAI_WV;
    const int dropped = (F & FA_DROPOUT) && MODE == FAI_CHANGED && (g->t.used & FA_DROPOUT);
    fai_vec acc[MR][NV], p[MR * NV], slope[2 * MR * NV], z[MR * NV];
    fai_ivec lane = fai_isplat(j0);
    FAI_EACH (l, 0, FAI_VL) lane[l] += l;

    /* P = exp2(scale Q K^T - lse) */
    FAI_GRAD_PRODUCT(q, FAI_LDQ, kt, FAI_W)
    if (MODE == FAI_CHANGED) {
        FAI_EACH (i, 0, MR)
            FAI_EACH (v, 0, NV) p[i * NV + v] = v < J1 ? acc[i][v] * g->t.scale : fai_splat(0);
        FAI_(grad_modify)(g, r, j0, p, slope);
    }
    FAI_EACH (i, 0, MR)
        FAI_EACH (v, 0, J1) {
            const fai_vec lse = fai_splat(g->lse[r + i]);
            if (MODE == FAI_CHANGED) {
                const fai_vec s = p[i * NV + v]; /* 2^(-inf - lse) may be NaN */
                p[i * NV + v] = fai_select(s == fai_splat(-INFINITY), fai_splat(0), fai_exp2_cut(FAI_PAIRS ? 4 : 5, s - lse));
            } else {
                p[i * NV + v] = fai_exp2(FAI_PAIRS ? 4 : 5, fai_fma(acc[i][v], fai_splat(g->t.scale), -lse));
            }
            if (MODE == FAI_MASKED) {
                const fai_ivec j = lane + v * FAI_VL;
                p[i * NV + v] = fai_select((j >= g->lo[r + i]) & (j < g->hi[r + i]), p[i * NV + v], fai_splat(0));
            }
        }
    if (dropped) FAI_(grad_dropout)(g, r, j0, z);

    /* dS = P o (dP - D), dP = Z o (dO V^T) */
    FAI_GRAD_PRODUCT(d_o, FAI_LDO, vt, FAI_WV)
    FAI_EACH (i, 0, MR)
        FAI_EACH (v, 0, J1) {
            if (dropped) acc[i][v] *= z[i * NV + v];
            acc[i][v] = (acc[i][v] - g->sum[r + i]) * p[i * NV + v];
        }
    if ((F & FA_BIAS) && MODE == FAI_CHANGED && g->biased) {
        fai_vec d_bias[MR * NV];
        FAI_EACH (i, 0, MR)
            FAI_EACH (v, 0, NV)
                d_bias[i * NV + v] = fai_select(p[i * NV + v] == fai_splat(0), fai_splat(0), acc[i][v] * slope[(MR + i) * NV + v]);
        FAI_(grad_bias)(g, r, j0, d_bias);
    }
    FAI_EACH (i, 0, MR)
        FAI_EACH (v, 0, J1) {
            if (MODE == FAI_CHANGED) acc[i][v] *= slope[i * NV + v];
            if (MODE != FAI_PLAIN) /* V and the slope may be anything where nothing is visible */
                acc[i][v] = fai_select(p[i * NV + v] == fai_splat(0), fai_splat(0), acc[i][v]);
            if (dropped) p[i * NV + v] *= z[i * NV + v];
        }

    FAI_EACH (i, 0, MR)
        FAI_EACH (v, 0, J1) {
            if (!FAI_PAIRS) {
                g->p[(r + i) * NV + v] = p[i * NV + v];
                *(fai_vec_u *)(g->ds + (r + i) * FAI_LDS + key + v * FAI_VL) = acc[i][v];
            } else {
                fai_store(FA_BF16, g->ds + (r + i) * FAI_LDS, key + v * FAI_VL, acc[i][v]);
                if (i % 2) {
                    g->p[(r + i) / 2 * NV + v] = fai_pair(p[(i - 1) * NV + v], p[i * NV + v]);
                    g->ds2[(r + i) / 2 * NV + v] = fai_pair(acc[i - 1][v], acc[i][v]);
                }
            }
        }
}
#undef FAI_GRAD_PRODUCT

/* The variants, one function each. */
FAI_NOINLINE void FAI_(grad_plain)(const FAI_(grad) *g, int32_t r, int32_t j0) {
    FAI_(grad_scores)(FAI_NV, FAI_PLAIN, g, r, j0);
}
FAI_NOINLINE void FAI_(grad_masked)(const FAI_(grad) *g, int32_t r, int32_t j0, int narrow) {
    if (narrow)
        FAI_(grad_scores)(1, FAI_MASKED, g, r, j0);
    else
        FAI_(grad_scores)(FAI_NV, FAI_MASKED, g, r, j0);
}
FAI_NOINLINE void FAI_(grad_changed)(const FAI_(grad) *g, int32_t r, int32_t j0) {
    FAI_(grad_scores)(FAI_NV, FAI_CHANGED, g, r, j0);
}

/* ---- dV, dK, dQ ---------------------------------------------------------------------------------- */

/* R dims of out^T[dim][vectors < J1] += x^T y over `steps` rows (pairs: pairs of rows) of x and y */
FAI_INLINE void FAI_(grad_keys_dims)(const int R, const int J1, const fai_word *x, const int ldx, const fai_word *y,
                                     const int ldy, int steps, fai_vec *out) {
    fai_vec acc[FAI_MR][FAI_NV];
    FAI_EACH (i, 0, R)
        FAI_EACH (v, 0, J1) acc[i][v] = out[i * FAI_NV + v];
    FAI_SOME
    for (int s = 0; s < steps; s++) {
        fai_vec one[FAI_NV];
        FAI_EACH (v, 0, J1) one[v] = *(const fai_vec_u *)(y + (int64_t)s * ldy + v * FAI_VL);
        FAI_EACH (i, 0, R) {
            const fai_vec a = fai_splat(x[(int64_t)s * ldx + i]);
            FAI_EACH (v, 0, J1) acc[i][v] = fai_mac(FAI_PAIRS, a, one[v], acc[i][v]);
        }
    }
    FAI_EACH (i, 0, R)
        FAI_EACH (v, 0, J1) out[i * FAI_NV + v] = acc[i][v];
}
FAI_INLINE void FAI_(grad_keys)(const int J1, const int dim, const fai_word *x, const int ldx, const fai_word *y,
                                const int ldy, int steps, fai_vec *out) {
    int c = 0;
    for (; c + FAI_MR <= dim; c += FAI_MR) FAI_(grad_keys_dims)(FAI_MR, J1, x + c, ldx, y, ldy, steps, out + c * FAI_NV);
    if (dim % FAI_MR) FAI_(grad_keys_dims)(dim % FAI_MR, J1, x + c, ldx, y, ldy, steps, out + c * FAI_NV);
}

/* dV^T and dK^T of a panel from rows first .. last, both multiples of MR */
FAI_INLINE void FAI_(grad_panel)(const int J1, const FAI_(grad) *g, int32_t key, int32_t first, int32_t last) {
    enum { S = 1 + FAI_PAIRS };
    const int32_t panel = key / FAI_PW, steps = (last - first) / S;
    const fai_word *ds = FAI_PAIRS ? (const fai_word *)(g->ds2 + first / S * FAI_NV) : g->ds + first * FAI_LDS + key;
    if (g->t.args->dv.data)
        FAI_(grad_keys)(J1, FA_HEAD_DIM_V, g->do2 + first / S * FAI_LDO2, FAI_LDO2,
         (const fai_word *)(g->p + first / S * FAI_NV), FAI_PW, steps, g->dvt + (int64_t)panel * FA_HEAD_DIM_V * FAI_NV);
    if (g->t.args->dk.data)
        FAI_(grad_keys)(J1, FA_HEAD_DIM, g->q2 + first / S * FAI_LDQ2, FAI_LDQ2, ds, FAI_PAIRS ? FAI_PW : FAI_LDS, steps,
         g->dkt + (int64_t)panel * FA_HEAD_DIM * FAI_NV);
}
FAI_NOINLINE void FAI_(grad_panel_run)(const FAI_(grad) *g, int32_t key, int32_t first, int32_t cut, int32_t last) {
    if (cut > first) FAI_(grad_panel)(1, g, key, first, cut);
    if (last > cut) FAI_(grad_panel)(FAI_NV, g, key, cut, last);
}

/* dq[MR rows][vectors < J1] += ds kp; fresh: = */
FAI_INLINE void FAI_(grad_rows)(const int J1, const fai_word *ds, const fai_word *kp, int steps, float *dq, int fresh) {
    fai_vec acc[FAI_MR][FAI_NV];
    FAI_EACH (i, 0, FAI_MR)
        FAI_EACH (v, 0, J1) acc[i][v] = fai_splat(0);
    if (!fresh) {
        FAI_EACH (i, 0, FAI_MR)
            FAI_EACH (v, 0, J1) acc[i][v] = *(const fai_vec_u *)(dq + i * FA_HEAD_DIM + v * FAI_VL);
    }
    FAI_SOME
    for (int s = 0; s < steps; s++) {
        fai_vec one[FAI_NV];
        FAI_EACH (v, 0, J1) one[v] = *(const fai_vec_u *)(kp + (int64_t)s * FAI_PW + v * FAI_VL);
        FAI_EACH (i, 0, FAI_MR) {
            const fai_vec a = fai_splat(ds[i * FAI_LDS + s]);
            FAI_EACH (v, 0, J1) acc[i][v] = fai_mac(FAI_PAIRS, a, one[v], acc[i][v]);
        }
    }
    FAI_EACH (i, 0, FAI_MR)
        FAI_EACH (v, 0, J1) *(fai_vec_u *)(dq + i * FA_HEAD_DIM + v * FAI_VL) = acc[i][v];
}

/* dQ of the tile of rows. */
FAI_NOINLINE void FAI_(grad_tile_rows)(const FAI_(grad) *g, int fresh) {
    enum { S = 1 + FAI_PAIRS, HD = FA_HEAD_DIM, LEFT = HD % FAI_PW / FAI_VL };
    const int32_t tile = g->t.tile;
    for (int c = 0; c < HD; c += FAI_PW)
        for (int32_t r = 0; r < g->rows; r += FAI_MR) {
            const int32_t lo = g->lo[r] > tile ? g->lo[r] - tile : 0, last = g->hi[r + FAI_MR - 1] - tile;
            const int32_t hi = last < g->keys ? last : g->keys, s0 = lo / S, steps = hi > lo ? (hi + S - 1) / S - s0 : 0;
            const fai_word *ds = g->ds + r * FAI_LDS + s0, *kp = g->kp + ((int64_t)c / FAI_PW * (FAI_TK / S) + s0) * FAI_PW;
            float *dq = g->dq + (int64_t)(g->row0 + r) * HD + c;
            if (steps == 0 && !fresh) continue;
            if (!fresh) /* the next rows, out of L2 or further away */
                for (int i = 0; i < FAI_MR; i++)
                    for (int n = 0; n < FAI_PW && c + n < HD; n += 16) __builtin_prefetch(dq + (FAI_MR + i) * HD + n, 1, 3);
            if (c + FAI_PW <= HD)
                FAI_(grad_rows)(FAI_NV, ds, kp, steps, dq, fresh);
            else
                FAI_(grad_rows)(LEFT ? LEFT : 1, ds, kp, steps, dq, fresh);
        }
}

/* ---- the three stages ------------------------------------------------------------------------ */

/* Is all of the tile of keys x tile of rows outside the block mask? */
FAI_NOINLINE int FAI_(grad_dead)(const FAI_(grad) *g, int64_t row0, int32_t rows) {
    const fa_args *a = g->t.args;
    const int32_t bq = a->block_mask.block_q, bk = a->block_mask.block_k;
    for (int64_t i = row0 / g->t.group / bq * bq; i <= (row0 + rows - 1) / g->t.group; i += bq)
        for (int32_t j = g->t.tile / bk * bk; j < g->t.tile + g->keys; j += bk)
            for (int32_t h = 0; h < g->t.group; h++)
                if (fa_block_visible(a, &g->t.seq, g->t.head_k * g->t.group + h, (int32_t)i, j)) return 0;
    return 1;
}

/* Rows r .. r + MR and a panel of keys from j0 on in the block mask: 0 = all hidden, 1 = some seen, 3 = all of them. */
FAI_NOINLINE int FAI_(grad_live)(const FAI_(grad) *g, int32_t r, int32_t j0) {
    const FAI_(task) *t = &g->t;
    const fa_args *a = t->args;
    const int32_t last = (r + FAI_MR < g->rows ? r + FAI_MR : g->rows) - 1, bk = a->block_mask.block_k;
    const int32_t end = j0 + FAI_PW < t->seq.len_k ? j0 + FAI_PW : t->seq.len_k, bq = a->block_mask.block_q;
    const int64_t i0 = (g->row0 + r) / t->group, i1 = (g->row0 + last) / t->group;
    const int same = t->group == 1 && i0 / bq == i1 / bq; /* one row stands for all */
    int any = 0, all = 1;
    for (int32_t n = r; n <= (same ? r : last); n++) {
        const int64_t row = g->row0 + n;
        const int32_t i = (int32_t)(row / t->group), h = t->head_k * t->group + (int32_t)(row % t->group);
        for (int32_t j = j0 / bk * bk; j < end; j += bk) {
            const int seen = fa_block_visible(a, &t->seq, h, i, j);
            any |= seen, all &= seen;
        }
    }
    return any ? any + 2 * all : 0;
}

/* P = dS = 0 there. */
FAI_NOINLINE void FAI_(grad_hidden)(const FAI_(grad) *g, int32_t r, int32_t key) {
    enum { S = 1 + FAI_PAIRS };
    memset(g->p + r / S * FAI_NV, 0, sizeof(fai_vec) * FAI_MR / S * FAI_NV);
    memset(g->ds2 + r / S * FAI_NV, 0, sizeof(fai_vec) * FAI_MR / S * FAI_NV);
    for (int i = 0; i < FAI_MR; i++) memset(g->ds + (r + i) * FAI_LDS + key / S, 0, sizeof(fai_word) * FAI_PW / S);
}

/* A tile of rows meets the tile of keys. */
FAI_NOINLINE void FAI_(grad_meet)(FAI_(grad) *g, int64_t row0, int32_t rows, int fresh) {
    enum { MR = FAI_MR, PW = FAI_PW };
    g->row0 = row0, g->rows = rows;
    const int32_t end = (rows + MR - 1) / MR * MR;
    for (int32_t key = 0; key < g->keys; key += PW) {
        const int32_t j0 = g->t.tile + key;
        int32_t first = end, cut = 0, last = 0; /* rows that see the panel; up to cut only its first vector */
        for (int32_t r = 0; r < end; r += MR) {
            if (key == 0) { /* and fetch Q and dO of the tile to come */
                FAI_(open_rows)(g, r);
                FAI_(fetch_queries)(g, row0 + FAI_TQ + r);
            }
            const int32_t hi = g->hi[r + MR - 1];
            if (hi <= j0 || g->lo[r] >= j0 + PW) continue;
            if (first == end) first = cut = r;
            last = r + MR;
            const int live = ((FA_FEATURES) & FA_BLOCK_MASK) && (g->t.used & FA_BLOCK_MASK) ? FAI_(grad_live)(g, r, j0) : 3;
            if (live == 0) {
                FAI_(grad_hidden)(g, r, key);
            } else if (g->changed || live != 3) {
                FAI_(grad_changed)(g, r, j0);
            } else if (hi <= j0 + FAI_VL) {
                FAI_(grad_masked)(g, r, j0, 1);
                cut = r + MR;
            } else if (g->lo[r + MR - 1] > j0 || g->hi[r] < j0 + PW) {
                FAI_(grad_masked)(g, r, j0, 0);
            } else {
                FAI_(grad_plain)(g, r, j0);
            }
        }
        if (last > first) FAI_(grad_panel_run)(g, key, first, cut, last);
    }
    if (g->t.args->dq.data) FAI_(grad_tile_rows)(g, fresh);
}

/* One head_k of one sequence, the key tiles of one split. */
FAI_NOINLINE void FAI_(grad_head)(FAI_(grad) *g, int32_t split) {
    const fa_args *a = g->t.args;
    const fa_sequence *s = &g->t.seq;
    const int64_t all = (int64_t)s->len_q * g->t.group;
    int64_t *touched = fai_plan_touched(g->plan, a, split, g->t.head_k, s->b), begin = -1, end = 0;
    g->dq = g->plan->dq + (((int64_t)split * g->plan->heads_k + g->t.head_k) * g->plan->rows + fai_plan_row(g->plan, a, s->b)) * FA_HEAD_DIM;
    g->row = g->t.head_k * g->plan->rows + fai_plan_row(g->plan, a, s->b);
    for (int64_t n = 0; fai_plan_tile(g->plan, split, n) * FAI_TK < s->len_k; n++) {
        g->t.tile = (int32_t)(fai_plan_tile(g->plan, split, n) * FAI_TK);
        g->keys = s->len_k - g->t.tile < FAI_TK ? s->len_k - g->t.tile : FAI_TK;
        const fa_range queries = fa_query_range(a, s->len_q, s->len_k, g->t.tile, g->t.tile + g->keys);
        const int64_t to = (int64_t)queries.hi * g->t.group;
        int64_t row = (int64_t)queries.lo * g->t.group / FAI_TQ * FAI_TQ;
        FAI_(open_keys)(g);
        if (begin < 0) begin = end = row;
        for (; end < row; end++) memset(g->dq + end * FA_HEAD_DIM, 0, sizeof(float) * FA_HEAD_DIM);
        for (; row < to; row += FAI_TQ) {
            const int32_t rows = all - row < FAI_TQ ? (int32_t)(all - row) : FAI_TQ;
            if (((FA_FEATURES) & FA_BLOCK_MASK) && (g->t.used & FA_BLOCK_MASK) && FAI_(grad_dead)(g, row, rows)) {
                if (row >= end) memset(g->dq + row * FA_HEAD_DIM, 0, sizeof(float) * FA_HEAD_DIM * (size_t)rows);
            } else {
                FAI_(grad_meet)(g, row, rows, row >= end);
            }
            if (row + rows > end) end = row + rows;
        }
        if (a->dk.data) FAI_(from_panels)(g, a->dk.data, g->sdk, FA_HEAD_DIM, g->dkt, g->t.scale * FAI_LN2);
        if (a->dv.data) FAI_(from_panels)(g, a->dv.data, g->sdv, FA_HEAD_DIM_V, g->dvt, 1);
    }
    touched[0] = begin < 0 ? 0 : begin, touched[1] = end;
}

/* Stage 1: the key tiles of one split for sequences b0 .. b1 and heads h0 .. h1, which share their dbias if they are
 * several. */
FAI_NOINLINE void FAI_(grad_task)(const fa_args *a, const fai_grad_plan *plan, int32_t b0, int32_t b1, int32_t h0,
                                  int32_t h1, int32_t split, void *scratch) {
    FAI_(grad) grad, *g = &grad;
    char *at = (char *)(((uintptr_t)scratch + 63) & ~(uintptr_t)63);
    FAI_(open_task)(&g->t, a, b0, h0);
    g->plan = plan;
    g->t.scale = a->softmax_scale < 0 ? -g->t.scale : g->t.scale; /* rows of q are not scaled, so the sign is here */
    g->changed = !g->t.plain || (g->t.used & (FA_BIAS | FA_TREE_MASK));
    g->biased = a->dbias.data != NULL;
    g->sdo = fai_resolve(a->d_o.stride_b, a->d_o.stride_s, a->d_o.stride_h, a->seqlen_q, a->num_heads, FA_HEAD_DIM_V);
    g->sdk = fai_strides_dkv(a, &a->dk, FA_HEAD_DIM), g->sdv = fai_strides_dkv(a, &a->dv, FA_HEAD_DIM_V);
    g->sdb = fai_strides_dbias(a);
    g->kt = (fai_vec *)(void *)at, at += FAI_BYTES_KT;
    g->vt = (fai_vec *)(void *)at, at += FAI_BYTES_VT;
    g->dkt = (fai_vec *)(void *)at, at += FAI_BYTES_DKT;
    g->dvt = (fai_vec *)(void *)at, at += FAI_BYTES_DVT;
    g->p = (fai_vec *)(void *)at, at += FAI_BYTES_P;
    g->ds2 = (fai_vec *)(void *)at, at += FAI_BYTES_P;
    g->kp = (fai_word *)(void *)at, at += FAI_BYTES_KP;
    g->q = (fai_word *)(void *)at, g->d_o = g->q + FAI_TQ * FAI_LDQ, at += FAI_BYTES_ROWS;
    g->q2 = FAI_PAIRS ? (fai_word *)(void *)at : g->q, g->do2 = FAI_PAIRS ? g->q2 + FAI_TQ / 2 * FAI_LDQ2 : g->d_o;
    at += FAI_BYTES_ROWS2;
    g->ds = (fai_word *)(void *)at;

    for (int32_t b = b0; g->biased && b < b1; b++) /* this split's columns of dbias */
        for (int32_t h = h0 * plan->group; h < h1 * plan->group; h++)
            for (int64_t n = 0; fai_plan_tile(plan, split, n) * FAI_TK < a->seqlen_k; n++)
                for (int32_t i = 0; i < a->seqlen_q; i++) {
                    const int64_t j = fai_plan_tile(plan, split, n) * FAI_TK, rest = a->seqlen_k - j;
                    memset(a->dbias.data + b * g->sdb.b + h * g->sdb.h + i * g->sdb.s + j, 0,
                           sizeof(float) * (size_t)(rest < FAI_TK ? rest : FAI_TK));
                }
    for (int32_t b = b0; b < b1; b++)
        for (int32_t h = h0; h < h1; h++) {
            g->t.seq = fa_get_sequence(a, b), g->t.head_k = h;
            FAI_(grad_head)(g, split);
        }
}

/* Stage 0: D and lse for all heads of queries i0 .. i1 of sequence b. */
FAI_NOINLINE void FAI_(grad_prepare)(const fa_args *a, const fai_grad_plan *plan, int32_t b, int32_t i0, int32_t i1) {
    const fa_sequence s = fa_get_sequence(a, b);
    const fai_strides so = fai_strides_o(a, FA_HEAD_DIM_V), sl = fai_strides_lse(a), sq = fai_strides_q(a, FA_HEAD_DIM);
    const fai_strides sdo =
        fai_resolve(a->d_o.stride_b, a->d_o.stride_s, a->d_o.stride_h, a->seqlen_q, a->num_heads, FA_HEAD_DIM_V);
    for (int32_t i = i0; i < i1 && i < s.len_q; i++)
        for (int32_t h = 0; h < a->num_heads; h++) {
            const int64_t q = fai_offset_q(&s, sq, i, h), o = fai_offset_q(&s, so, i, h), d_o = fai_offset_q(&s, sdo, i, h);
            const int64_t row = h / plan->group * plan->rows + fai_plan_row(plan, a, b) + (int64_t)i * plan->group + h % plan->group;
            fai_vec sum = fai_splat(0), bad = fai_splat(0);
            float total = 0, poison = 0;
            for (int c = 0; c < FA_HEAD_DIM_V; c += FAI_VL) {
                const fai_vec x = fai_load(FA_O_DTYPE, a->d_o.data, d_o + c);
                sum = fai_fma(x, fai_load(FA_O_DTYPE, a->o.data, o + c), sum), bad += x - x;
            }
            for (int c = 0; c < FA_HEAD_DIM; c += FAI_VL) {
                const fai_vec x = fai_load(FA_DTYPE, a->q.data, q + c);
                bad += x - x;
            }
            for (int l = 0; l < FAI_VL; l++) total += sum[l], poison += bad[l];
            plan->sum[row] = total;
            plan->lse[row] = ((const float *)a->lse.data)[fai_offset_q(&s, sl, i, h)] * FAI_LOG2E + poison;
        }
}

/* Stage 2: dQ of queries i0 .. i1 of sequence b: the splits' parts, added in their order. */
FAI_NOINLINE void FAI_(grad_finish)(const fa_args *a, const fai_grad_plan *plan, int32_t b, int32_t i0, int32_t i1) {
    enum { HD = FA_HEAD_DIM };
    const fa_sequence s = fa_get_sequence(a, b);
    const fai_strides st = fai_resolve(a->dq.stride_b, a->dq.stride_s, a->dq.stride_h, a->seqlen_q, a->num_heads, HD);
    const float scale = a->softmax_scale != 0 ? a->softmax_scale : 1 / sqrtf((float)HD);
    for (int32_t h = 0; h < a->num_heads; h++) {
        const int32_t head_k = h / plan->group;
        for (int32_t i = i0; i < i1 && i < s.len_q; i++) {
            const int64_t to = fai_offset_q(&s, st, i, h), r = (int64_t)i * plan->group + h % plan->group;
            fai_vec x[HD / FAI_VL];
            FAI_EACH (c, 0, HD / FAI_VL) x[c] = fai_splat(0);
            for (int32_t n = 0; n < plan->splits; n++) {
                const int64_t *touched = fai_plan_touched(plan, a, n, head_k, b);
                const float *part = plan->dq + (((int64_t)n * plan->heads_k + head_k) * plan->rows + fai_plan_row(plan, a, b) + r) * HD;
                if (r < touched[0] || r >= touched[1]) continue;
                FAI_EACH (c, 0, HD / FAI_VL) x[c] += *(const fai_vec_u *)(part + c * FAI_VL);
            }
            FAI_EACH (c, 0, HD / FAI_VL) fai_store(FA_DTYPE, a->dq.data, to + c * FAI_VL, x[c] * scale);
        }
    }
}

#undef FAI_BYTES_DS
#undef FAI_BYTES_P
#undef FAI_BYTES_ROWS2
#undef FAI_BYTES_ROWS
#undef FAI_BYTES_KP
#undef FAI_BYTES_DVT
#undef FAI_BYTES_DKT
#undef FAI_BYTES_VT
#undef FAI_BYTES_KT
#undef FAI_LDO2
#undef FAI_LDQ2
#undef FAI_LDS
#undef FAI_LDO
#undef FAI_LDQ
#undef FAI_TQ
#undef FAI_TK
#undef FAI_WV
#endif /* FA_BACKWARD */

#undef FAI_BYTES_FACTOR
#undef FAI_BYTES_VS
#undef FAI_BYTES_KS
#undef FAI_BYTES_BT
#undef FAI_BYTES_PT
#undef FAI_BYTES_OT
#undef FAI_BYTES_QT
#undef FAI_LEFT
#undef FAI_FEW
#undef FAI_ONCE
#undef FAI_ACC
#undef FAI_RMAX
#undef FAI_EVEN_ODD
#undef FAI_KV_SIZE
#undef FAI_CHUNK
#undef FAI_NP
#undef FAI_BN
#undef FAI_W
#undef FAI_PAIRS
#undef fai_store
#undef fai_ceil
#undef fai_pair
#undef fai_load2
#undef fai_load
#undef fai_transpose
#undef fai_zip
#undef fai_mulhilo
#undef fai_tanh
#undef fai_exp2_cut
#undef fai_exp2
#undef fai_mac
#undef fai_fma
#undef fai_any
#undef fai_select
#undef fai_max
#undef fai_isplat
#undef fai_splat
#undef fai_vec_u
#undef fai_uvec
#undef fai_ivec
#undef fai_vec
#undef FAI_V
#undef FAI_PASTE
#undef FAI_PASTE2
#undef FAI_PW
#undef FAI_NV
#undef FAI_MR
#undef FAI_VL
#if defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__) && defined(__cplusplus)
#pragma GCC diagnostic pop
#endif
#if defined(FAI_DISPATCH) && !defined(__clang__)
#pragma GCC pop_options
#elif defined(FAI_DISPATCH) && FAI_ISA_CODE != FAI_PORTABLE
#pragma clang attribute pop
#endif
#endif /* body */

/* ======================================================================================== */
/* >>launch   what users call                                                                */
/* ======================================================================================== */

#if defined(FA_NAME) && !defined(FAI_BODY) && !defined(FAI_CUDA)

/* FAI_BEST(x) is function x of the best body that this processor has. */
#if !defined(FAI_DISPATCH)
#define FAI_BEST(x) FAI_(x)
#else
#if FAI_PAIRS_WANTED && FA_BF16_DOT
#define FAI_BEST_PAIRS(x, otherwise) FA_(isa)() == FAI_AVX512_BF16 ? FAI_IN(x, avx512_bf16) : (otherwise)
#else
#define FAI_BEST_PAIRS(x, otherwise) (otherwise)
#endif
#define FAI_BEST(x) \
    (FAI_BEST_PAIRS(x, FA_(isa)() == FAI_AVX512 ? FAI_IN(x, avx512) \
                       : FA_(isa)() == FAI_AVX2 ? FAI_IN(x, avx2) \
                                                : FAI_IN(x, portable)))
FAI_NOINLINE int FA_(isa)(void) {
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
#if FAI_PAIRS_WANTED && FA_BF16_DOT
        if (__builtin_cpu_supports("avx512bf16") && !__builtin_cpu_is("intel")) return FAI_AVX512_BF16;
#endif
        return FAI_AVX512;
    }
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? FAI_AVX2 : FAI_PORTABLE;
}
#endif

/* Is args a problem that this instance can solve?  The calls below check by themselves. */
static inline fa_status FA_(check)(const fa_args *args) {
    return fa_check_pass(&FA_(info), args, (FA_PASSES) & FA_FORWARD ? FA_FORWARD : FA_PASSES);
}

FAI_INLINE int32_t FA_(num_threads)(const fa_args *args) {
    if (args->num_threads > 0) return args->num_threads;
#if defined(_OPENMP)
    return omp_get_max_threads();
#else
    return 1;
#endif
}

#if (FA_PASSES) & FA_FORWARD
/* Bytes that the call needs for args->num_threads threads, at any alignment; 0 if args are not valid. */
static inline size_t FA_(forward_workspace)(const fa_args *args) {
    return fa_check(&FA_(info), args) ? 0 : FAI_BEST(worker_bytes)() * (size_t)FA_(num_threads)(args);
}

/* Rows of a task: FA_BLOCK_M, or less if that leaves some of the threads without work.  A row's bits do not depend on it. */
FAI_INLINE int32_t FA_(task_rows)(const fa_args *args) {
    const int64_t rows = (int64_t)args->seqlen_q * (args->num_heads / fai_num_heads_k(args));
    const int64_t heads = (int64_t)args->batch * fai_num_heads_k(args), threads = FA_(num_threads)(args),
                  wanted = threads > 1 ? 4 * threads : 1;
    int32_t each = FA_BLOCK_M;
    while (each % 128 == 0 && heads < wanted && (rows + each - 1) / each * heads < wanted) each /= 2;
    return each;
}
FAI_INLINE int64_t FA_(blocks)(const fa_args *args) { /* of one key/value head of the longest sequence */
    const int32_t each = FA_(task_rows)(args);
    const int64_t rows = (int64_t)args->seqlen_q * (args->num_heads / fai_num_heads_k(args));
    return rows <= each + FAI_SPARE ? 1 : (rows - FAI_SPARE + each - 1) / each;
}

/* Independent pieces of work, each of up to FA_BLOCK_M query rows.  args must have passed the check. */
static inline int64_t FA_(forward_num_tasks)(const fa_args *args) {
    return FA_(blocks)(args) * args->batch * fai_num_heads_k(args);
}

/* Does one of them, 0 <= task < _num_tasks, in any order and on any thread: it writes rows of o and lse that no other
 * task touches.  workspace: as many bytes as _forward_workspace says for num_threads = 1, one for each thread. */
static inline void FA_(forward_run_task)(const fa_args *args, int64_t task, void *workspace) {
    const int64_t blocks = FA_(blocks)(args), heads = fai_num_heads_k(args);
    const int32_t b = (int32_t)(task / blocks / heads), head_k = (int32_t)(task / blocks % heads);
    const int32_t rows = FA_(task_rows)(args);
    const int64_t row0 = (blocks - 1 - task % blocks) * rows; /* the longest first under a causal mask */
    FAI_BEST(block)(args, b, head_k, row0, rows, workspace);
}

/* O and LSE.  Nothing is written unless the result is FA_OK.  Re-entrant. */
static inline fa_status FA_(forward)(const fa_args *args, void *workspace, size_t bytes) {
    const fa_status status = fa_check(&FA_(info), args);
    if (status != FA_OK) return status;
    const size_t each = FAI_BEST(worker_bytes)();
    const int32_t threads = FA_(num_threads)(args);
    const int64_t tasks = FA_(forward_num_tasks)(args);
    if (!workspace) return fai_fail(args, FA_ERR_WORKSPACE_NULL, "workspace", -1, 0, 0, 0);
    if (bytes / (size_t)threads < each)
        return fai_fail(args, FA_ERR_WORKSPACE_SIZE, "workspace", -1, (double)bytes, (double)each * threads,
                        INFINITY);
#if defined(_OPENMP)
    if (threads > 1 && tasks > 1) { /* a team costs microseconds, even one of one */
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
        for (int64_t task = 0; task < tasks; task++)
            FA_(forward_run_task)(args, task, (char *)workspace + each * (size_t)omp_get_thread_num());
        return FA_OK;
    }
#endif
    for (int64_t task = 0; task < tasks; task++) FA_(forward_run_task)(args, task, workspace);
    return FA_OK;
}
#endif /* FA_FORWARD */

#if (FA_PASSES) & FA_DECODE
FAI_INLINE size_t FA_(decode_scratch)(const fa_args *args) { /* of all threads, to a cache line */
    return (FAI_BEST(worker_bytes)() * (size_t)FA_(num_threads)(args) + 63) & ~(size_t)63;
}

FAI_INLINE size_t FA_(decode_bytes)(const fa_args *args, const fai_plan *plan) {
    const int64_t parts = fai_mul(fai_parts_before(args, plan, args->batch), FAI_PART(FA_HEAD_DIM_V) * (int64_t)sizeof(float));
    return (size_t)fai_add(fai_add(parts, (int64_t)FA_(decode_scratch)(args)), 64);
}

/* Bytes that the call needs, at any alignment: scratch of args->num_threads threads, and the partial results of the splits.
 * 0 if args are not valid. */
static inline size_t FA_(decode_workspace)(const fa_args *args) {
    if (fa_check_pass(&FA_(info), args, FA_DECODE)) return 0;
    const fai_plan plan = fai_make_plan(args, FA_(num_threads)(args), FA_BLOCK_M, FAI_SPARE, FA_HEAD_DIM);
    return FA_(decode_bytes)(args, &plan);
}

FAI_INLINE int64_t FA_(decode_count)(const fa_args *args, const fai_plan *plan, int stage) {
    const int64_t blocks = plan->blocks * args->batch * fai_num_heads_k(args);
    return stage == 0 ? blocks / plan->heads * plan->most : plan->most > 1 ? blocks : 0;
}

FAI_NOINLINE void FA_(decode_task)(const fa_args *args, const fai_plan *plan, int stage, int64_t task, int thread, void *workspace) {
    const int32_t together = stage == 0 ? plan->heads : 1, splits = stage == 0 ? plan->most : 1;
    const int64_t heads = fai_num_heads_k(args), groups = heads / together, block = task / splits % plan->blocks;
    const int32_t b = (int32_t)(task / splits / plan->blocks / groups);
    const int32_t head_k = (int32_t)(task / splits / plan->blocks % groups) * together;
    const fa_sequence seq = fa_get_sequence(args, b);
    const int64_t rows = seq.len_q * (args->num_heads / heads), row0 = block * plan->rows;
    char *base = (char *)(((uintptr_t)workspace + 63) & ~(uintptr_t)63);
    void *scratch = base + FAI_BEST(worker_bytes)() * (size_t)thread;
    fai_split split = {{0, 0}, (int32_t)(task % splits), fai_count_splits(args, plan, &seq), together, plan->fixed, NULL};
    if (row0 >= rows || (stage == 0 ? split.number >= split.count : split.count == 1)) return;
    split.keys = fai_split_keys(args, plan, &seq, split.number, split.count);
    if (split.count > 1)
        split.parts = (float *)(void *)(base + FA_(decode_scratch)(args)) +
                      (fai_parts_before(args, plan, b) + head_k * rows * split.count) * FAI_PART(FA_HEAD_DIM_V);
    const int64_t end = row0 + plan->rows < rows && block + 1 < plan->blocks ? row0 + plan->rows : rows;
    if (stage == 0)
        FAI_BEST(block_of)(args, b, head_k, row0, plan->rows, &split, scratch);
    else
        FAI_BEST(merge)(args, b, head_k, row0, end, &split);
}

/* Tasks of stage 0, the splits, and of stage 1, which merges them and begins when all of stage 0 are done; 0 if there is
 * nothing to merge.  args must have passed the check. */
static inline int64_t FA_(decode_num_tasks)(const fa_args *args, int stage) {
    const fai_plan plan = fai_make_plan(args, FA_(num_threads)(args), FA_BLOCK_M, FAI_SPARE, FA_HEAD_DIM);
    return FA_(decode_count)(args, &plan, stage);
}

/* Does one of them, in any order inside its stage.  workspace: all of it, the same for all tasks; thread: 0 .. num_threads - 1,
 * different for tasks that run at the same time. */
static inline void FA_(decode_run_task)(const fa_args *args, int stage, int64_t task, int thread, void *workspace) {
    const fai_plan plan = fai_make_plan(args, FA_(num_threads)(args), FA_BLOCK_M, FAI_SPARE, FA_HEAD_DIM);
    FA_(decode_task)(args, &plan, stage, task, thread, workspace);
}

/* The same as forward, for few queries and a long cache: the keys of a head are split among threads.  Nothing is written
 * unless the result is FA_OK.  Re-entrant. */
static inline fa_status FA_(decode)(const fa_args *args, void *workspace, size_t bytes) {
    const fa_status status = fa_check_pass(&FA_(info), args, FA_DECODE);
    if (status != FA_OK) return status;
    const int32_t threads = FA_(num_threads)(args);
    const fai_plan plan = fai_make_plan(args, threads, FA_BLOCK_M, FAI_SPARE, FA_HEAD_DIM);
    const size_t needed = FA_(decode_bytes)(args, &plan);
    if (!workspace) return fai_fail(args, FA_ERR_WORKSPACE_NULL, "workspace", -1, 0, 0, 0);
    if (bytes < needed)
        return fai_fail(args, FA_ERR_WORKSPACE_SIZE, "workspace", -1, (double)bytes, (double)needed, INFINITY);
    for (int stage = 0; stage < 2; stage++) {
        const int64_t tasks = FA_(decode_count)(args, &plan, stage);
#if defined(_OPENMP)
        if (threads > 1 && tasks > 1) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
            for (int64_t task = 0; task < tasks; task++)
                FA_(decode_task)(args, &plan, stage, task, omp_get_thread_num(), workspace);
            continue;
        }
#endif
        for (int64_t task = 0; task < tasks; task++) FA_(decode_task)(args, &plan, stage, task, 0, workspace);
    }
    return FA_OK;
}
#endif /* FA_DECODE */

/* ---- backward ---- */

#if (FA_PASSES) & FA_BACKWARD
#define FAI_GRAD_QUERIES 64 /* of a task of the stages 0 and 2 */

/* Bytes that the call needs for args->num_threads threads, at any alignment; 0 if args are not valid. */
static inline size_t FA_(backward_workspace)(const fa_args *args) {
    if (fa_check_pass(&FA_(info), args, FA_BACKWARD)) return 0;
    const fai_grad_plan plan = fai_plan_backward(args, FA_HEAD_DIM, NULL);
    return (size_t)(uintptr_t)plan.scratch + 64 + FAI_BEST(grad_bytes)() * (size_t)FA_(num_threads)(args);
}

/* Independent tasks of stage 0, 1 or 2; a stage begins when all tasks of the one before are done.  args must have passed
 * the check. */
static inline int64_t FA_(backward_num_tasks)(const fa_args *args, int stage) {
    const int64_t heads_k = fai_num_heads_k(args), parts = ((int64_t)args->seqlen_q + FAI_GRAD_QUERIES - 1) / FAI_GRAD_QUERIES;
    if (stage == 0) return args->batch * parts;
    if (stage == 2) return (args->dq.data ? args->batch * parts : 0) + (args->dsink ? heads_k : 0);
    /* sums over an axis of dbias have an order: one task does them */
    const int64_t batch = args->dbias.data && args->dbias.stride_b == FA_BROADCAST ? 1 : args->batch;
    const int64_t heads = args->dbias.data && args->dbias.stride_h == FA_BROADCAST ? 1 : heads_k;
    return batch * heads * fai_plan_backward(args, FA_HEAD_DIM, NULL).splits;
}

/* dsink_h = -sum exp(sink_h - lse) D, over the batch and the queries of the heads of one head_k */
FAI_NOINLINE void FA_(backward_sink)(const fa_args *args, const fai_grad_plan *plan, int32_t head_k) {
    for (int32_t g = 0; g < plan->group; g++) {
        const int32_t h = head_k * plan->group + g;
        double sum = 0;
        for (int32_t b = 0; b < args->batch; b++) {
            const int64_t row = head_k * plan->rows + fai_plan_row(plan, args, b) + g;
            for (int64_t i = 0; i < fa_get_sequence(args, b).len_q; i++) {
                const double d = (double)plan->sum[row + i * plan->group], lse = (double)plan->lse[row + i * plan->group];
                if (d != 0) sum -= exp2((double)args->sink[h] * 1.4426950408889634 - lse) * d;
            }
        }
        args->dsink[h] = (float)sum;
    }
}

/* Does one of them, 0 <= task < _num_tasks, in any order and on any thread.  workspace: all of what _backward_workspace
 * asks for; thread: which of the num_threads scratch areas in it to use, one running task each. */
static inline void FA_(backward_run_task)(const fa_args *args, int stage, int64_t task, int32_t thread, void *workspace) {
    const fai_grad_plan plan = fai_plan_backward(args, FA_HEAD_DIM, workspace);
    const int64_t parts = ((int64_t)args->seqlen_q + FAI_GRAD_QUERIES - 1) / FAI_GRAD_QUERIES;
    if (stage == 1) {
        const int32_t one_b = args->dbias.data && args->dbias.stride_b == FA_BROADCAST;
        const int32_t one_h = args->dbias.data && args->dbias.stride_h == FA_BROADCAST;
        const int64_t heads = one_h ? 1 : plan.heads_k, rest = task % (heads * plan.splits);
        const int32_t b = (int32_t)(task / (heads * plan.splits)), h = (int32_t)(rest / plan.splits);
        FAI_BEST(grad_task)(args, &plan, b, one_b ? args->batch : b + 1, h, one_h ? plan.heads_k : h + 1,
                            (int32_t)(rest % plan.splits), plan.scratch + FAI_BEST(grad_bytes)() * (size_t)thread);
    } else if (stage == 2 && task >= (args->dq.data ? args->batch * parts : 0)) {
        FA_(backward_sink)(args, &plan, (int32_t)(task - (args->dq.data ? args->batch * parts : 0)));
    } else {
        const int32_t b = (int32_t)(task / parts);
        const int64_t i0 = task % parts * FAI_GRAD_QUERIES, i1 = i0 + FAI_GRAD_QUERIES;
        if (stage == 0)
            FAI_BEST(grad_prepare)(args, &plan, b, (int32_t)i0, (int32_t)i1);
        else
            FAI_BEST(grad_finish)(args, &plan, b, (int32_t)i0, (int32_t)i1);
    }
}

/* The gradients that args has room for.  Nothing is written unless the result is FA_OK.  Re-entrant; the same bits for
 * any number of threads. */
static inline fa_status FA_(backward)(const fa_args *args, void *workspace, size_t bytes) {
    const size_t needed = FA_(backward_workspace)(args);
    const int32_t threads = needed ? FA_(num_threads)(args) : 0;
    if (!needed) return fa_check_pass(&FA_(info), args, FA_BACKWARD);
    if (!workspace) return fai_fail(args, FA_ERR_WORKSPACE_NULL, "workspace", -1, 0, 0, 0);
    if (bytes < needed)
        return fai_fail(args, FA_ERR_WORKSPACE_SIZE, "workspace", -1, (double)bytes, (double)needed, INFINITY);
    for (int stage = 0; stage < 3; stage++) {
        const int64_t tasks = FA_(backward_num_tasks)(args, stage);
#if defined(_OPENMP)
        if (threads > 1 && tasks > 1) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
            for (int64_t task = 0; task < tasks; task++)
                FA_(backward_run_task)(args, stage, task, omp_get_thread_num(), workspace);
            continue;
        }
#endif
        (void)threads;
        for (int64_t task = 0; task < tasks; task++) FA_(backward_run_task)(args, stage, task, 0, workspace);
    }
    return FA_OK;
}
#undef FAI_GRAD_QUERIES
#endif /* FA_BACKWARD */

#undef FAI_BEST
#undef FAI_BEST_PAIRS
#if defined(FAI_DISPATCH)
#undef FAI_DISPATCH
#else
#undef FAI_ISA_CODE
#undef FAI_ISA
#endif
#undef FAI_AVX512_BF16
#undef FAI_AVX512
#undef FAI_AVX2
#undef FAI_NEON
#undef FAI_PORTABLE
#undef FAI_PAIRS_WANTED
#undef FAI_IS_BF16
#endif /* launch */

#if defined(FA_NAME) && !defined(FAI_BODY) && (!defined(FAI_CUDA) || defined(FAI_FORGET))
#undef FAI_STRING
#undef FAI_STRING2
#undef FAI_
#undef FAI_IN
#undef FAI_IN1
#undef FAI_IN2
#undef FA_
#undef FAI_CAT
#undef FAI_CAT2
#undef FA_MASK_MOD
#undef FA_SCORE_MOD_GRAD
#undef FA_SCORE_MOD
#undef FA_BLOCK_N
#undef FA_BLOCK_M
#undef FA_FEATURES
#undef FA_PASSES
#undef FA_O_DTYPE
#undef FA_KV_DTYPE
#undef FA_DTYPE
#undef FA_HEAD_DIM_V
#undef FA_HEAD_DIM
#undef FA_NAME
#endif /* forgotten */

/* >>licence

    MIT License

    Copyright (c) flashattn authors

    Permission is hereby granted, free of charge, to any person obtaining a copy
    of this software and associated documentation files (the "Software"), to deal
    in the Software without restriction, including without limitation the rights
    to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
    copies of the Software, and to permit persons to whom the Software is
    furnished to do so, subject to the following conditions:

    The above copyright notice and this permission notice shall be included in all
    copies or substantial portions of the Software.

    THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
    IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
    FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
    AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
    LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
    OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
    SOFTWARE.
*/
