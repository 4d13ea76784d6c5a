/* instances.h - the instances that the tests run, and the few lines that run them.
 *
 *     #define INSTANCES_DIMS      every head dim, pairs of head dims, tile sizes
 *     #define INSTANCES_DTYPES    every dtype of q, of k and v, of o
 *     #define INSTANCES_HOOKS     FA_SCORE_MOD and FA_MASK_MOD
 *     #include "instances.h"      these and the core: const fa_info *const core[], dims[], dtypes[], hooks[]
 *
 * Small tiles (64 x 64) reach the edges of tiles with small problems.  With FA_TEST_CORE all groups are the core, as they
 * are where an instance takes long to compile: with FA_DISPATCH (three or four bodies) and sanitizers.  Environment
 * FA_TEST_SCALE=quick runs every tenth case, for other builds of the same kernels, =least every fortieth, for emulators,
 * from case FA_TEST_PART on, so that others are the tenth elsewhere; =long runs random tests for minutes. */
#ifndef INSTANCES_H
#define INSTANCES_H

#include <stdarg.h>

#include "fa_test.h"

#include "flashattn.h"

#include "fa_problem.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FA_TEST_CORE
#endif
#endif
#if (defined(FA_DISPATCH) || defined(__SANITIZE_ADDRESS__)) && !defined(FA_TEST_CORE)
#define FA_TEST_CORE
#endif

/* ---- core: all features ------------------------------------------------------------------ */

#define FA_NAME f32_64 /* the default tiles */
#define FA_HEAD_DIM 64
#define FA_FEATURES FA_ALL_FEATURES
#include "flashattn.h"

#define FA_NAME f32_32
#define FA_HEAD_DIM 32
#include "small_tiles.h"

#define FA_NAME f16_64
#define FA_HEAD_DIM 64
#define FA_DTYPE FA_F16
#include "small_tiles.h"

#define FA_NAME bf16_64
#define FA_HEAD_DIM 64
#define FA_DTYPE FA_BF16
#include "small_tiles.h"

#define FA_NAME e4m3_96
#define FA_HEAD_DIM 96
#define FA_DTYPE FA_E4M3
#include "small_tiles.h"

#define CORE &f32_64_info, &f32_32_info, &f16_64_info, &bf16_64_info, &e4m3_96_info
static const fa_info *const core[] = {CORE};

/* ---- dims -------------------------------------------------------------------------------- */

#if defined(INSTANCES_DIMS) && !defined(FA_TEST_CORE)
#define FA_NAME f32_16
#define FA_HEAD_DIM 16
#define FA_FEATURES FA_CAUSAL
#include "small_tiles.h"

#define FA_NAME f32_48
#define FA_HEAD_DIM 48
#define FA_FEATURES FA_CAUSAL | FA_WINDOW /* without parentheses: the header has them */
#include "small_tiles.h"

#define FA_NAME f32_80
#define FA_HEAD_DIM 80
#define FA_FEATURES FA_CAUSAL
#include "small_tiles.h"

#define FA_NAME f32_96
#define FA_HEAD_DIM 96
#define FA_FEATURES FA_CAUSAL
#include "small_tiles.h"

#define FA_NAME f32_112
#define FA_HEAD_DIM 112
#define FA_FEATURES FA_CAUSAL
#include "small_tiles.h"

#define FA_NAME f32_128
#define FA_HEAD_DIM 128
#define FA_FEATURES FA_CAUSAL
#include "small_tiles.h"

#define FA_NAME f32_144
#define FA_HEAD_DIM 144
#define FA_FEATURES FA_CAUSAL
#include "small_tiles.h"

#define FA_NAME f32_160
#define FA_HEAD_DIM 160
#define FA_FEATURES FA_CAUSAL
#include "small_tiles.h"

#define FA_NAME f32_176
#define FA_HEAD_DIM 176
#define FA_FEATURES FA_CAUSAL
#include "small_tiles.h"

#define FA_NAME f32_192
#define FA_HEAD_DIM 192
#define FA_FEATURES FA_CAUSAL
#include "small_tiles.h"

#define FA_NAME f32_208
#define FA_HEAD_DIM 208
#define FA_FEATURES FA_CAUSAL
#include "small_tiles.h"

#define FA_NAME f32_224
#define FA_HEAD_DIM 224
#define FA_FEATURES FA_CAUSAL
#include "small_tiles.h"

#define FA_NAME f32_240
#define FA_HEAD_DIM 240
#define FA_FEATURES FA_CAUSAL
#include "small_tiles.h"

#define FA_NAME f32_256
#define FA_HEAD_DIM 256
#define FA_FEATURES FA_CAUSAL
#include "small_tiles.h"

#define FA_NAME f32_192_128
#define FA_HEAD_DIM 192
#define FA_HEAD_DIM_V 128
#define FA_FEATURES FA_CAUSAL
#include "flashattn.h"

#define FA_NAME f32_64_128
#define FA_HEAD_DIM 64
#define FA_HEAD_DIM_V 128
#define FA_FEATURES FA_CAUSAL
#include "flashattn.h"

#define FA_NAME f32_16_256
#define FA_HEAD_DIM 16
#define FA_HEAD_DIM_V 256
#define FA_FEATURES FA_CAUSAL
#include "flashattn.h"

#define FA_NAME bf16_128_64
#define FA_HEAD_DIM 128
#define FA_HEAD_DIM_V 64
#define FA_DTYPE FA_BF16
#define FA_FEATURES FA_CAUSAL
#include "flashattn.h"

#define FA_NAME bf16_16
#define FA_HEAD_DIM 16
#define FA_DTYPE FA_BF16
#define FA_FEATURES FA_CAUSAL
#include "small_tiles.h"

#define FA_NAME bf16_80
#define FA_HEAD_DIM 80
#define FA_DTYPE FA_BF16
#define FA_FEATURES FA_CAUSAL
#include "flashattn.h"

#define FA_NAME f16_240
#define FA_HEAD_DIM 240
#define FA_DTYPE FA_F16
#define FA_FEATURES FA_CAUSAL
#include "flashattn.h"

#define FA_NAME f32_32_m256 /* one task of many panels, and tiles of many runs */
#define FA_HEAD_DIM 32
#define FA_FEATURES FA_ALL_FEATURES
#define FA_BLOCK_M 256
#define FA_BLOCK_N 64
#include "flashattn.h"

#define FA_NAME f32_32_n512
#define FA_HEAD_DIM 32
#define FA_FEATURES FA_ALL_FEATURES
#define FA_BLOCK_M 64
#define FA_BLOCK_N 512
#include "flashattn.h"

static const fa_info *const dims[] = {
    CORE,          &f32_16_info,  &f32_48_info,  &f32_80_info,      &f32_96_info,      &f32_112_info,
    &f32_128_info, &f32_144_info, &f32_160_info, &f32_176_info,     &f32_192_info,     &f32_208_info,
    &f32_224_info, &f32_240_info, &f32_256_info, &f32_192_128_info, &f32_64_128_info,  &f32_16_256_info,
    &bf16_16_info, &bf16_80_info, &f16_240_info, &bf16_128_64_info, &f32_32_m256_info, &f32_32_n512_info};
#elif defined(INSTANCES_DIMS)
static const fa_info *const dims[] = {CORE};
#endif

/* ---- dtypes ------------------------------------------------------------------------------ */

#if defined(INSTANCES_DTYPES)
#define FA_NAME bf16_i8_64
#define FA_HEAD_DIM 64
#define FA_DTYPE FA_BF16
#define FA_KV_DTYPE FA_I8
#include "small_tiles.h"
#endif

#if defined(INSTANCES_DTYPES) && !defined(FA_TEST_CORE)
#define FA_NAME e5m2_32
#define FA_HEAD_DIM 32
#define FA_DTYPE FA_E5M2
#include "small_tiles.h"

#define FA_NAME f32_f16_32
#define FA_HEAD_DIM 32
#define FA_KV_DTYPE FA_F16
#include "small_tiles.h"

#define FA_NAME f32_bf16_32
#define FA_HEAD_DIM 32
#define FA_KV_DTYPE FA_BF16
#define FA_O_DTYPE FA_BF16
#include "small_tiles.h"

#define FA_NAME f32_e4m3_32
#define FA_HEAD_DIM 32
#define FA_KV_DTYPE FA_E4M3
#include "small_tiles.h"

#define FA_NAME bf16_e4m3_64
#define FA_HEAD_DIM 64
#define FA_DTYPE FA_BF16
#define FA_KV_DTYPE FA_E4M3
#define FA_O_DTYPE FA_F32
#include "small_tiles.h"

#define FA_NAME f16_e5m2_32
#define FA_HEAD_DIM 32
#define FA_DTYPE FA_F16
#define FA_KV_DTYPE FA_E5M2
#define FA_O_DTYPE FA_F32
#include "small_tiles.h"

#define FA_NAME e4m3_f16_32 /* f16 out */
#define FA_HEAD_DIM 32
#define FA_DTYPE FA_E4M3
#define FA_O_DTYPE FA_F16
#define FA_FEATURES FA_ALL_FEATURES
#include "flashattn.h"

#define FA_NAME f32_i8_32
#define FA_HEAD_DIM 32
#define FA_KV_DTYPE FA_I8
#include "small_tiles.h"

#define FA_NAME f16_i8_48
#define FA_HEAD_DIM 48
#define FA_DTYPE FA_F16
#define FA_KV_DTYPE FA_I8
#include "small_tiles.h"

static const fa_info *const dtypes[] = {CORE, &e5m2_32_info, &f32_f16_32_info, &f32_bf16_32_info,
                                        &f32_e4m3_32_info, &bf16_e4m3_64_info, &f16_e5m2_32_info,
                                        &e4m3_f16_32_info, &f32_i8_32_info, &f16_i8_48_info, &bf16_i8_64_info};
#elif defined(INSTANCES_DTYPES)
static const fa_info *const dtypes[] = {CORE, &bf16_i8_64_info};
#endif

/* ---- hooks ------------------------------------------------------------------------------- */

#if defined(INSTANCES_HOOKS)
#define HOOK_SCORE(s, b, h, i, j) \
    ((s) * ((h) % 2 ? 0.5f : 2.0f) + ((i) > (j) ? 0.25f : 0.0f) - ((b) == 1 ? 1.0f : 0.0f) * ((j) % 3 == 1))
#define HOOK_MASK(b, h, i, j) (((i) + 2 * (j) + (h) + (b)) % 3 != 0 ? 4 : 0) /* any nonzero number means visible */

#define FA_NAME f32_32_score
#define FA_HEAD_DIM 32
#define FA_SCORE_MOD HOOK_SCORE
#include "small_tiles.h"

#define FA_NAME bf16_64_both
#define FA_HEAD_DIM 64
#define FA_DTYPE FA_BF16
#define FA_FEATURES FA_DEFAULT_FEATURES
#define FA_SCORE_MOD HOOK_SCORE
#define FA_MASK_MOD HOOK_MASK
#include "flashattn.h"

#define FA_NAME f32_32_mask
#define FA_HEAD_DIM 32
#define FA_FEATURES FA_DEFAULT_FEATURES
#define FA_MASK_MOD HOOK_MASK
#include "small_tiles.h"

static const fa_info *const hooks[] = {&f32_32_score_info, &bf16_64_both_info, &f32_32_mask_info};
#endif

/* ---- running them ------------------------------------------------------------------------ */

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

static inline int has_scale(const char *name) {
    const char *scale = getenv("FA_TEST_SCALE");
    return scale && !strcmp(scale, name);
}
/* One of how many cases of a long list runs; fewer cases of other things, too, if not all. */
static inline int one_of(void) { return has_scale("quick") ? 10 : has_scale("least") ? 40 : 1; }
static inline int quick(void) { return one_of() > 1; }
static inline int scaled(int n) { return has_scale("long") ? n * 30 : n / one_of(); } /* of random cases */
/* 1 for the cases to run of a long list: all, or those that FA_TEST_PART begins with. */
static inline int due(void) {
    static int n;
    const char *part = getenv("FA_TEST_PART");
    return (n++ + one_of() - (part ? atoi(part) % one_of() : 0)) % one_of() == 0;
}

/* Runs the case that a printf format describes (fa_problem.h); a failure prints its line. */
static inline int check_case(const fa_info *info, const char *format, ...) {
    char line[512];
    va_list list;
    va_start(list, format), vsnprintf(line, sizeof line, format, list), va_end(list);
    return fap_check_forward(info, line);
}

/* p as the line says, not yet computed. */
static inline int build_case(fap_problem *p, const fa_info *info, const char *format, ...) {
    char line[512];
    va_list list;
    va_start(list, format), vsnprintf(line, sizeof line, format, list), va_end(list);
    return fap_build(p, line, info);
}

/* Runs p with a workspace of NaN; its outputs are as before. */
static inline int run_case(fap_problem *p, const fa_info *info) {
    size_t bytes = info->forward_workspace(&p->args);
    void *workspace = malloc(bytes);
    fa_status status;
    if (!workspace) abort();
    status = info->forward(&p->args, memset(workspace, 0xff, bytes), bytes);
    free(workspace);
    if (status) printf("# %s: %s\n", info->name, fa_strerror(status));
    return status == FA_OK;
}

/* Elements of o and lse where p and q, of the same shape in any layout, differ in a bit. */
static inline int count_differences(const fap_problem *p, const fap_problem *q) {
    int n = 0;
    for (int b = 0; b < p->spec.b; b++)
        for (int h = 0; h < p->spec.hq; h++)
            for (int i = 0; i < p->len_q[b]; i++) {
                int64_t x = fap_at_q(p, &p->o.place, b, i, h), y = fap_at_q(q, &q->o.place, b, i, h);
                for (int d = 0; d < p->spec.dv; d++)
                    n += fai_bits_of(fa_load(p->o.place.data, x + d, p->spec.out)) !=
                         fai_bits_of(fa_load(q->o.place.data, y + d, q->spec.out));
                x = fap_at_q(p, &p->lse.place, b, i, h), y = fap_at_q(q, &q->lse.place, b, i, h);
                n += fai_bits_of(fa_load(p->lse.place.data, x, FA_F32)) != fai_bits_of(fa_load(q->lse.place.data, y, FA_F32));
            }
    return n;
}

#endif
