/* Defines that flashattn_cuda.cuh must not compile with: as in fail.c, but the error may come from either header.
 * flags: what nvcc is called with in addition; tool: what is called instead of nvcc. */

#define FA_NAME attn
#define FA_HEAD_DIM 64

#if CASE == 0 /* compiles: */
#elif CASE == 1 /* flashattn.h: .*FA_HEAD_DIM .*16 */
#undef FA_HEAD_DIM
#elif CASE == 2 /* flashattn.h: FA_HEAD_DIM .*multiple of 16.*16.*256 */
#undef FA_HEAD_DIM
#define FA_HEAD_DIM 72
#elif CASE == 3 /* flashattn.h: FA_HEAD_DIM_V .*multiple of 16.*16.*256 */
#define FA_HEAD_DIM_V 512
#elif CASE == 4 /* flashattn_cuda.cuh: FA_DTYPE must be .*FA_F16.* FA_BF16 */
#define FA_DTYPE FA_F32
#define FA_PASSES FA_BACKWARD
#elif CASE == 5 /* flashattn_cuda.cuh: .*FA_KV_DTYPE */
#define FA_KV_DTYPE FA_F32
#elif CASE == 6 /* flashattn_cuda.cuh: .*FA_O_DTYPE */
#define FA_PASSES FA_BACKWARD
#define FA_O_DTYPE FA_F16
#elif CASE == 7 /* flashattn.h: FA_PASSES .*FA_FORWARD.*FA_BACKWARD.*FA_DECODE */
#define FA_PASSES 16
#elif CASE == 8 /* flashattn.h: FA_FEATURES .*FA_ */
#define FA_FEATURES 0x80000000u
#elif CASE == 9 /* flashattn.h: FA_SCORE_MOD_GRAD .*FA_SCORE_MOD */
#define FA_SCORE_MOD_GRAD(s, b, h, i, j) 1
#elif CASE == 10 /* flashattn_cuda.cuh: FA_BLOCK_M must be 16 or 32 times FA_WARPS */
#define FA_BLOCK_M 100
#elif CASE == 11 /* flashattn_cuda.cuh: FA_BLOCK_M must be 16 or 32 times FA_WARPS */
#define FA_BLOCK_M 256
#define FA_WARPS 4
#elif CASE == 12 /* flashattn_cuda.cuh: FA_BLOCK_M must be 16 or 32 times FA_WARPS */
#define FA_BLOCK_M 0
#elif CASE == 13 /* flashattn_cuda.cuh: FA_BLOCK_M must be 16 or 32 times FA_WARPS */
#define FA_BLOCK_M 16
#elif CASE == 14 /* flashattn_cuda.cuh: FA_BLOCK_N .*multiple of 16.*16.*128 */
#define FA_BLOCK_N 24
#elif CASE == 15 /* flashattn_cuda.cuh: FA_BLOCK_N .*multiple of 16.*16.*128 */
#define FA_BLOCK_N (-16)
#elif CASE == 16 /* flashattn_cuda.cuh: FA_BLOCK_N .*multiple of 16.*16.*128 */
#define FA_BLOCK_N 144
#elif CASE == 17 /* flashattn_cuda.cuh: FA_WARPS .*1..16 */
#define FA_WARPS 0
#elif CASE == 18 /* flashattn_cuda.cuh: FA_WARPS .*1..16 */
#define FA_WARPS 17
#elif CASE == 19 /* flashattn_cuda.cuh: FA_STAGES must be 1 or 2 */
#define FA_STAGES 3
#elif CASE == 20 /* flashattn_cuda.cuh: FA_STAGES must be 1 or 2 */
#define FA_STAGES 0
#elif CASE == 21 /* flashattn.h: .*FA_NAME */
#undef FA_NAME
#elif CASE == 22 /* flashattn.h: .*FA_NAME */
#undef FA_NAME
#undef FA_HEAD_DIM
#define FA_WARPS 4
#elif CASE == 23 /* flags: -arch=sm_75; flashattn_cuda.cuh: .*sm_80 .*nvcc -arch=native */
#elif CASE == 24 /* flags: -Ibuild/fail/other; flashattn_cuda.cuh: .*another version.*same release */
#elif CASE == 25 /* tool: cc; flashattn_cuda.cuh: .*nvcc.*flashattn.h has the CPU kernels */
#elif CASE == 26 /* tool: c++; flashattn_cuda.cuh: .*nvcc.*flashattn.h has the CPU kernels */
#elif CASE == 27 /* flashattn_cuda.cuh: FA_PROMOTE must be in 0..64 */
#define FA_PROMOTE 65
#elif CASE == 28 /* flashattn_cuda.cuh: FA_PROMOTE needs FA_DTYPE FA_E4M3 and FA_HEAD_DIM_V of 128 */
#define FA_PROMOTE 1
#endif

#include "flashattn_cuda.cuh"
