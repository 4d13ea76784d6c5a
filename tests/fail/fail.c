/* Defines that must not compile.  fail.sh compiles each CASE by itself and wants exactly one error, which begins
 * with "flashattn.h:" and matches the words beside the case (an extended regular expression): the define at fault
 * and the remedy. */

#define FA_NAME attn
#define FA_HEAD_DIM 64

#if CASE == 0 /* compiles: */
#elif CASE == 1 /* FA_HEAD_DIM .*16 */
#undef FA_HEAD_DIM
#elif CASE == 2 /* FA_HEAD_DIM .*multiple of 16.*16.*256 */
#undef FA_HEAD_DIM
#define FA_HEAD_DIM 8
#elif CASE == 3 /* FA_HEAD_DIM .*multiple of 16.*16.*256 */
#undef FA_HEAD_DIM
#define FA_HEAD_DIM 72
#elif CASE == 4 /* FA_HEAD_DIM .*multiple of 16.*16.*256 */
#undef FA_HEAD_DIM
#define FA_HEAD_DIM 272
#elif CASE == 5 /* FA_HEAD_DIM .*multiple of 16.*16.*256 */
#undef FA_HEAD_DIM
#define FA_HEAD_DIM 0
#elif CASE == 6 /* FA_HEAD_DIM .*multiple of 16.*16.*256 */
#undef FA_HEAD_DIM
#define FA_HEAD_DIM (-64)
#elif CASE == 7 /* FA_HEAD_DIM_V .*multiple of 16.*16.*256 */
#define FA_HEAD_DIM_V 40
#elif CASE == 8 /* FA_HEAD_DIM_V .*multiple of 16.*16.*256 */
#define FA_HEAD_DIM_V 512
#elif CASE == 9 /* FA_DTYPE .*FA_F32.*FA_F16.*FA_BF16.*FA_E4M3.*FA_E5M2 */
#define FA_DTYPE FA_FP16 /* misspelt: 0 in #if */
#elif CASE == 10 /* FA_DTYPE .*FA_F32.*FA_F16.*FA_BF16.*FA_E4M3.*FA_E5M2 */
#define FA_DTYPE 0
#elif CASE == 11 /* FA_DTYPE .*FA_F32.*FA_F16.*FA_BF16.*FA_E4M3.*FA_E5M2 */
#define FA_DTYPE 99
#elif CASE == 12 /* FA_KV_DTYPE .*FA_ */
#define FA_KV_DTYPE FA_I4
#elif CASE == 13 /* FA_O_DTYPE .*FA_ */
#define FA_O_DTYPE 77
#elif CASE == 14 /* FA_FEATURES .*FA_ */
#define FA_FEATURES 0x80000000u
#elif CASE == 15 /* FA_BLOCK_M .*multiple of 64 */
#define FA_BLOCK_M 100
#elif CASE == 16 /* FA_BLOCK_M .*multiple of 64 */
#define FA_BLOCK_M 0
#elif CASE == 17 /* FA_BLOCK_N .*multiple of 64 */
#define FA_BLOCK_N 32
#elif CASE == 18 /* FA_BLOCK_N .*multiple of 64 */
#define FA_BLOCK_N (-64)
#elif CASE == 19 /* FA_SCORE_MOD_GRAD .*FA_SCORE_MOD */
#define FA_SCORE_MOD_GRAD(s, b, h, i, j) 1
#elif CASE == 20 /* FA_NAME */
#undef FA_NAME
#elif CASE == 21 /* FA_NAME */
#undef FA_NAME
#undef FA_HEAD_DIM
#define FA_FEATURES FA_CAUSAL
#elif CASE == 22 /* FA_PASSES .*FA_FORWARD.*FA_BACKWARD.*FA_DECODE */
#define FA_PASSES 0
#elif CASE == 23 /* FA_PASSES .*FA_FORWARD.*FA_BACKWARD.*FA_DECODE */
#define FA_PASSES (FA_FORWARD | 16u)
#elif CASE == 24 /* fp8 and int8 have no backward .*FA_PASSES */
#define FA_PASSES (FA_FORWARD | FA_BACKWARD)
#define FA_KV_DTYPE FA_I8
#elif CASE == 25 /* FA_DTYPE .*FA_F32.*FA_F16.*FA_BF16.*FA_E4M3.*FA_E5M2 */
#define FA_DTYPE FA_I8 /* K and V only */
#endif

#include "flashattn.h"
