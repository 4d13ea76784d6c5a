/*  flashattn_spec.h - v0.1.0 - speculative decoding, lossless - MIT licence, see end of flashattn.h

    WHAT      Draft tokens in, tokens of the target distribution out: verification of chains and trees, building of trees,
              sampling, Medusa heads, ensembles of drafts, planning. Plain C on the CPU; the same as CUDA kernels when
              nvcc compiles it.

    DO THIS   per step: draw drafts, run the target on them, verify. One request, 3 drafts, logits of both models:

        fa_sample_args s = {0};         // once for each draft i; zero is the default everywhere
        s.batch = 1, s.vocab = vocab, s.rows.data = draft_logits + i * vocab;
        s.sampling.temperature = &temperature, s.coins.seed = &seed, s.coins.offset = &step;
        s.node = &node, s.tokens = drafts + i; // node = i + 1
        fa_sample(&s);

        fa_verify_args v = {0};         // target_logits: 4 rows, of what follows the last token and each draft
        v.vocab = vocab, v.rule = FA_VERIFY_TOKEN, v.sampling = s.sampling, v.coins = s.coins;
        v.chains.batch = 1, v.chains.num_tokens = 3, v.chains.token = drafts;
        v.target.data = target_logits, v.draft.data = draft_logits;
        v.tokens = tokens, v.num_out = &count;
        fa_verify_chain(&v), step++;    // tokens[0 .. count-1] have the law of the target alone

    CONFIGURE  FA_CUDA_SPEC, with nvcc, sticky, before any include, the first one or a later one: the calls for
              device memory, with the tokens of the CPU (needs flashattn_cuda.cuh beside this file)

        fa_status fa_sample_cuda(const fa_sample_args *args, cudaStream_t stream);
        size_t    fa_verify_chain_cuda_workspace(const fa_verify_args *args);
        fa_status fa_verify_chain_cuda(const fa_verify_args *args, void *workspace, size_t bytes,
                                       cudaStream_t stream);
        size_t    fa_verify_tree_cuda_workspace(const fa_verify_args *args);
        fa_status fa_verify_tree_cuda(const fa_verify_args *args, void *workspace, size_t bytes,
                                      cudaStream_t stream);

    CONTENTS  search for:  >>weights  >>sampling  >>trees  >>chains  >>verify  >>builders  >>medusa  >>ensembles
                           >>planning  >>cuda

    REFERENCES (numbers are of arXiv)
        [LEV]   Leviathan et al. 2023, Fast inference from transformers via speculative decoding, 2211.17192
        [SI]    Miao et al. 2024, SpecInfer, 2305.09781
        [MD]    Cai et al. 2024, Medusa, 2401.10774
        [LA]    Fu et al. 2024, Lookahead decoding, 2402.02057
        [SQ]    Chen et al. 2024, Sequoia, 2402.12374
        [BV]    Sun et al. 2024, Block verification accelerates speculative decoding, 2403.10444
        [EA2]   Li et al. 2024, EAGLE-2, 2406.16858
        [PLD]   Saxena 2023, Prompt lookup decoding
        [SAMME] Zhu et al. 2009, Multi-class AdaBoost
        [OS]    see flashattn.h
*/

#ifndef FA_FLASHATTN_SPEC_H
#define FA_FLASHATTN_SPEC_H

#include "flashattn.h"

#define FA_TREE_MAX_NODES 1024 /* root included */

/* ======================================================================================== */
/* >>weights  probabilities as integers: sums that do not depend on their order              */
/* ======================================================================================== */

/* Everything that decides about a token is integer arithmetic, so the CPU and the GPU, any compiler flags and
 * any split of the vocabulary give the same tokens.  A probability is a weight: a multiple of 2^-52.  Sums of
 * weights are exact, hence the same in any order.
 *
 *   FA_PROBS    f32: p, its multiples of 2^-52 rounded to nearest.  The row is taken at its word that it adds
 *               up to 1; if it adds up to 1 + d, the law of the output is off by d.  f16 and bf16, which
 *               cannot keep that word, are FA_WEIGHTS.
 *   FA_WEIGHTS  numbers >= 0 with any sum: probabilities up to a factor.
 *   FA_LOGITS   2^-y with y = (max - x) log2(e) / temperature in fixed point, relative error <= 2^-28.
 *
 * Rows of the last two, and all rows that top-k, top-p or min-p cut, are scaled to a sum of 2^52; as each
 * weight is rounded down then, what is missing is at most the size of the vocabulary, in units of 2^-52.
 *
 * A row should not hold NaN, infinity (logits: -inf is fine) or negative probabilities.  Such entries count
 * as 0 and raise a flag.  Logits of +inf: the first of them has all weight.  A row without any weight, or
 * FA_PROBS with an entry or a sum of 2 and more: all weight is with its largest entry, the first of equals,
 * and a flag is raised. */

#define FA_LOGITS 1
#define FA_PROBS 2
#define FA_WEIGHTS 3

#define FAI_ONE ((uint64_t)1 << 52)

/* (rows, vocab), the columns adjacent. */
typedef struct fa_rows {
    const void *data;
    int64_t stride; /* elements from row to row, >= vocab; 0 = vocab.  Padded ids are never read */
    fa_dtype dtype; /* FA_F32 (also 0), FA_F16 or FA_BF16 */
    int32_t kind;   /* FA_LOGITS (also 0), FA_PROBS or FA_WEIGHTS */
} fa_rows;

/* How rows become distributions: temperature first, then top-k, then top-p of what is left, then min-p.
 * Arrays of one value for each request; NULL = off.  Of equal entries those with smaller ids go first. */
typedef struct fa_sampling {
    const float *temperature; /* 0: the largest entry; else 2^-20 .. 2^20, and 1 unless rows are logits */
    const int32_t *top_k;     /* keep the k largest; 0 = all */
    const float *top_p;       /* keep the largest until they have this share, 0 .. 1; 0 and 1 = all */
    const float *min_p;       /* keep those with this share of the largest one, 0 .. 1; 0 = all */
} fa_sampling;

/* What was odd about a request; bits. */
#define FA_SPEC_BAD_TARGET 1u /* the target's rows have entries that count as 0, or no weight: see above */
#define FA_SPEC_BAD_DRAFT 2u  /* the draft's rows, likewise */
#define FA_SPEC_FALLBACK 4u   /* all was rejected, and rounding has left nothing: the largest entry of p */

/* ---- 64 x 64 and 128 / 64 bits ---- */

FAI_HD static inline uint64_t fai_mulhi_portable(uint64_t a, uint64_t b) {
    const uint64_t al = (uint32_t)a, ah = a >> 32, bl = (uint32_t)b, bh = b >> 32;
    const uint64_t low = al * bl, mid = ah * bl + (low >> 32), mid2 = al * bh + (uint32_t)mid;
    return ah * bh + (mid >> 32) + (mid2 >> 32);
}

/* (hi 2^64 + lo) / d, rounded down, for hi < d */
FAI_HD static inline uint64_t fai_div_portable(uint64_t hi, uint64_t lo, uint64_t d) {
    uint64_t q = 0;
    for (int bit = 63; bit >= 0; bit--) {
        const uint64_t carry = hi >> 63;
        hi = hi << 1 | (lo >> bit & 1);
        if (carry || hi >= d) hi -= d, q |= (uint64_t)1 << bit;
    }
    return q;
}

#if defined(__SIZEOF_INT128__) && !defined(__CUDA_ARCH__)
__extension__ typedef unsigned __int128 fai_wide;
#endif

/* The upper 64 bits of a * b. */
FAI_HD static inline uint64_t fai_mulhi(uint64_t a, uint64_t b) {
#if defined(__CUDA_ARCH__)
    return __umul64hi(a, b);
#elif defined(__SIZEOF_INT128__)
    return (uint64_t)((fai_wide)a * b >> 64);
#else
    return fai_mulhi_portable(a, b);
#endif
}

FAI_HD static inline uint64_t fai_div(uint64_t hi, uint64_t lo, uint64_t d) {
#if defined(__SIZEOF_INT128__) && !defined(__CUDA_ARCH__)
    return (uint64_t)(((fai_wide)hi << 64 | lo) / d);
#else
    return fai_div_portable(hi, lo, d);
#endif
}

/* A sum of more than 64 bits. */
typedef struct fai_sum {
    uint64_t hi, lo;
} fai_sum;

FAI_HD static inline fai_sum fai_sum_add(fai_sum s, uint64_t x) {
    s.lo += x, s.hi += s.lo < x;
    return s;
}
FAI_HD static inline int fai_sum_less(fai_sum a, fai_sum b) {
    return a.hi != b.hi ? a.hi < b.hi : a.lo < b.lo;
}
/* s * m / 2^24, rounded down, for s < 2^100 */
FAI_HD static inline fai_sum fai_sum_share(fai_sum s, uint32_t m) {
    const uint64_t lo = s.lo * m, hi = s.hi * m + fai_mulhi(s.lo, m);
    const fai_sum r = {hi >> 24, hi << 40 | lo >> 24};
    return r;
}

/* Bits up to the highest that is set; 0 for 0. */
FAI_HD static inline int fai_bit_length(uint64_t x) {
    int n = 0;
    for (int step = 32; step; step >>= 1)
        if (x >> step) x >>= step, n += step;
    return n + (x != 0);
}

/* x -> x 2^52 / total, rounded down, for x <= total, x < 2^53.  A total of 2^52 changes nothing. */
typedef struct fai_scale {
    uint64_t factor; /* 2^126 / (total, shifted to 64 bits), rounded up: total becomes 2^52, and what adds
                        up to it no more; 0: every x becomes 0 */
    int32_t before, after;
} fai_scale;

FAI_HD static inline fai_scale fai_scale_to_one(fai_sum total) {
    const int length = total.hi ? 64 + fai_bit_length(total.hi) : fai_bit_length(total.lo);
    fai_scale s = {0, 0, 0};
    uint64_t top;
    if (length == 0) return s;
    if (length > 64)
        top = total.hi << (128 - length) | total.lo >> (length - 64);
    else
        top = total.lo << (64 - length);
    s.factor = top == (uint64_t)1 << 63 ? top : fai_div((uint64_t)1 << 62, 0, top) + 1;
    s.before = length < 53 ? 64 - length : 11;
    s.after = s.before + length - 54;
    return s;
}
FAI_HD static inline uint64_t fai_scaled(fai_scale s, uint64_t x) {
    return fai_mulhi(x << s.before, s.factor) >> s.after;
}

/* ---- 2^-y and log2 ---- */

/* 2^-y 2^52 for y in units of 2^-40; relative error 2^-29 of a result >= 2^23, and always < 1 unit more. */
FAI_HD static inline uint64_t fai_exp2_neg(uint64_t y) {
    const uint32_t f = (uint32_t)(y >> 8);
    uint32_t t = 0xbda6u; /* 2^-f = 1 - f (c1 - f (c2 - ..)), interpolated at Chebyshev's points */
    if (y >> 40 > 52) return 0;
    t = 0x9c200u - (uint32_t)((uint64_t)f * t >> 32);
    t = 0x5728b0u - (uint32_t)((uint64_t)f * t >> 32);
    t = 0x27641a9u - (uint32_t)((uint64_t)f * t >> 32);
    t = 0xe358127u - (uint32_t)((uint64_t)f * t >> 32);
    t = 0x3d7f7bcbu - (uint32_t)((uint64_t)f * t >> 32);
    t = 0xb17217f7u - (uint32_t)((uint64_t)f * t >> 32);
    return ((((uint64_t)1 << 32) - ((uint64_t)f * t >> 32)) << 20) >> (y >> 40);
}

/* log2(x) in units of 2^-31, error < 2^-22, for x > 0 */
FAI_HD static inline uint64_t fai_log2(uint64_t x) {
    const int length = fai_bit_length(x);
    const uint64_t top = x << (64 - length);
    const uint32_t f = (uint32_t)(top >> 31);
    const uint32_t c[10] = {0xb8aa3b19u, 0x5c551097u, 0x3d8c5d47u, 0x2e13af4bu, 0x244fa966u,
                            0x1c329e22u, 0x13786ac6u, 0xa6904eau,  0x39bdba3u,  0x96254au};
    uint32_t t = c[9]; /* log2(1 + f) = f (c0 - f (c1 - ..)), interpolated likewise */
    for (int n = 8; n >= 0; n--) t = c[n] - (uint32_t)((uint64_t)f * t >> 32);
    return ((uint64_t)(length - 1) << 31) + ((uint64_t)f * t >> 32);
}

/* ---- rows ---- */

/* Bits of a float in an order that integers understand: NaN first, the two zeros equal. */
FAI_HD static inline uint32_t fai_key(float x) {
    const uint32_t bits = fai_bits_of(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0;
    if (!(bits & 0x7fffffffu)) return 0x80000000u;
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

/* One row as a distribution. */
typedef struct fai_row {
    const void *data; /* of the first entry */
    fa_dtype dtype;
    int32_t vocab, kind; /* kind: FA_PROBS only if the weights are not to be scaled */
    uint32_t bad;        /* 1: entries count as 0, or nothing had weight.  FA_PROBS: as far as it was read */
    int32_t only;        /* >= 0: the id that has all weight */
    int32_t exponent;    /* FA_WEIGHTS: of the largest entry, as a power of two */
    float top;           /* FA_LOGITS: the largest entry */
    int32_t slope_exponent;
    uint64_t slope;   /* log2(e) / temperature = slope 2^(slope_exponent - 63), slope >= 2^63 */
    uint32_t cut_key; /* entries before (cut_key, cut_id) are cut; least: so are units below it */
    int32_t cut_id;
    uint64_t least;
    fai_scale scale;
    const uint64_t *units; /* on the CPU, of small rows: the weights before scaling, 0 where cut; or NULL */
} fai_row;

/* Does entry x of a FA_PROBS or FA_WEIGHTS row count as 0 although it is not?  limit: bits of the first
 * number that is too large. */
FAI_HD static inline int fai_bad_weight(uint32_t bits, uint32_t limit) {
    return bits >= limit && bits != 0x80000000u;
}

/* Entry id; three cases instead of all dtypes make kernels a third of the size. */
FAI_HD static inline float fai_row_load(const fai_row *row, int64_t id) {
    return row->dtype == FA_F32   ? fa_load(row->data, id, FA_F32)
           : row->dtype == FA_F16 ? fa_load(row->data, id, FA_F16)
                                  : fa_load(row->data, id, FA_BF16);
}

/* Order of a row's entries: what counts as 0 is a zero. */
FAI_HD static inline uint32_t fai_key_of(int32_t kind, float x) {
    return kind != FA_LOGITS && fai_bits_of(x) >= 0x7f800000u ? 0x80000000u : fai_key(x);
}
FAI_HD static inline uint32_t fai_row_key(const fai_row *row, int32_t id) {
    return fai_key_of(row->kind, fai_row_load(row, id));
}

/* x 2^(52 - exponent), rounded to nearest, ties to even, for 0 <= x < 2^(exponent + 1) */
FAI_HD static inline uint64_t fai_fixed(uint32_t bits, int32_t exponent) {
    const int32_t e = (int32_t)(bits >> 23), shift = (e ? e : 1) - 98 - exponent;
    const uint64_t mantissa = e ? (bits & 0x7fffffu) | 0x800000u : bits;
    if (shift >= 0) return mantissa << shift;
    if (shift < -24) return 0;
    return (mantissa + ((uint64_t)1 << (-shift - 1)) - 1 + (mantissa >> -shift & 1)) >> -shift;
}

/* Weight of id before scaling, as if nothing was cut. */
FAI_HD static inline uint64_t fai_unit(const fai_row *row, int32_t id) {
    const float x = fai_row_load(row, id);
    const uint32_t bits = fai_bits_of(x);
    if (row->kind != FA_LOGITS) {
        const uint32_t limit = row->kind == FA_PROBS ? 0x40000000u : 0x7f800000u;
        return bits >= limit ? 0 : fai_fixed(bits, row->exponent);
    } else {
        /* A difference of floats times a power of two: no flag of any compiler can change its bits. */
        const double unit = (double)((uint64_t)1 << (41 + row->slope_exponent)),
                     d = ((double)row->top - (double)x) * unit;
        if ((bits & 0x7f800000u) == 0x7f800000u || d >= 0x1p47) return 0; /* 2^-64 and less */
        return fai_exp2_neg(fai_mulhi((uint64_t)d, row->slope));
    }
}

/* Is an id left by top-k, top-p and min-p? */
FAI_HD static inline int fai_kept(const fai_row *row, int32_t id, uint32_t key, uint64_t unit) {
    return (key > row->cut_key || (key == row->cut_key && id <= row->cut_id)) && unit >= row->least;
}

/* The weight of id: p 2^52. */
FAI_HD static inline uint64_t fai_weight(const fai_row *row, int32_t id) {
    if (row->only >= 0) return id == row->only ? FAI_ONE : 0;
#if !defined(__CUDA_ARCH__)
    if (row->units) return fai_scaled(row->scale, row->units[id]);
#endif
    const uint64_t unit = fai_unit(row, id);
    if (row->kind == FA_PROBS) return unit;
    if ((row->cut_key || row->least) && !fai_kept(row, id, fai_row_key(row, id), unit)) return 0;
    return fai_scaled(row->scale, unit);
}

/* slope and slope_exponent for a temperature: log2(e) 2^63 / temperature, normalised. */
FAI_HD static inline void fai_row_temperature(fai_row *row, float temperature) {
    const uint64_t log2e = 0xb8aa3b295c17f0bbu;
    const uint32_t bits = fai_bits_of(temperature);
    const uint64_t t = ((bits & 0x7fffffu) | 0x800000u) * ((uint64_t)1 << 40);
    const int32_t exponent = (int32_t)(bits >> 23) - 150;
    if (log2e < t)
        row->slope = fai_div(log2e, 0, t), row->slope_exponent = -24 - exponent;
    else
        row->slope = fai_div(log2e >> 1, log2e << 63, t), row->slope_exponent = -23 - exponent;
}

/* ---- many entries at once ---- */

/* The same bits as the functions above give; a draw from logits is seven times as fast (bench_spec).  maskz with a
 * full mask is the plain instruction; without it g++ 12 takes the undefined register of its own header for a fault. */

#define FAI_SPEC_CHUNK 64  /* entries */
#define FAI_SMALL 512 /* a row of so many entries keeps its units */

#if (defined(__SSE2_MATH__) || defined(__aarch64__)) && defined(__GNUC__) && !defined(__CUDACC__) && \
    !defined(FA_SPEC_SCALAR)
#if defined(__AVX512F__)
#define FAI_SPEC_LANES 8
#elif defined(__AVX2__)
#define FAI_SPEC_LANES 4
#else
#define FAI_SPEC_LANES 2
#endif
typedef float fai_spec_floats __attribute__((vector_size(4 * FAI_SPEC_LANES), aligned(4), may_alias));
typedef uint64_t fai_spec_longs __attribute__((vector_size(8 * FAI_SPEC_LANES)));
typedef double fai_spec_doubles __attribute__((vector_size(8 * FAI_SPEC_LANES)));

FAI_INLINE fai_spec_doubles fai_spec_wide(const float *x) {
#if defined(__AVX512F__)
    return (fai_spec_doubles)_mm512_maskz_cvtps_pd(255, _mm256_loadu_ps(x));
#elif defined(__AVX2__)
    return (fai_spec_doubles)_mm256_cvtps_pd(_mm_loadu_ps(x));
#else
    const fai_spec_floats loaded = *(const fai_spec_floats *)x;
    return __builtin_convertvector(loaded, fai_spec_doubles);
#endif
}

/* 1 + x: for x in [0, 1) its bits are those of 1, and the weight of x, rounded as fai_fixed does. */
FAI_INLINE fai_spec_doubles fai_spec_one_plus(const float *x) { return fai_spec_wide(x) + 1.0; }
#endif

/* SSE2 cannot shift lane by lane */
#if defined(FAI_SPEC_LANES) && (defined(__AVX2__) || defined(__aarch64__))
#define FAI_SPEC_LOGITS
typedef uint64_t fai_spec_words __attribute__((vector_size(8 * FAI_SPEC_LANES), aligned(8), may_alias));
typedef int64_t fai_spec_signed __attribute__((vector_size(8 * FAI_SPEC_LANES)));
typedef int32_t fai_spec_ints __attribute__((vector_size(8 * FAI_SPEC_LANES)));
typedef int32_t fai_spec_bits __attribute__((vector_size(8 * FAI_SPEC_LANES), aligned(4), may_alias));

/* The product of the lower halves. */
FAI_INLINE fai_spec_longs fai_spec_mul(fai_spec_longs a, fai_spec_longs b) {
#if defined(__AVX512F__)
    return (fai_spec_longs)_mm512_maskz_mul_epu32(0xff, (__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (fai_spec_longs)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#else
    return (fai_spec_longs)vmull_u32(vmovn_u64((uint64x2_t)a), vmovn_u64((uint64x2_t)b));
#endif
}
/* fai_mulhi_portable */
FAI_INLINE fai_spec_longs fai_spec_mulhi(fai_spec_longs a, fai_spec_longs b) {
    const fai_spec_longs ah = a >> 32, bh = b >> 32, mid = fai_spec_mul(ah, b) + (fai_spec_mul(a, b) >> 32),
                         mid2 = fai_spec_mul(a, bh) + (mid & 0xffffffffu);
    return fai_spec_mul(ah, bh) + (mid >> 32) + (mid2 >> 32);
}
/* x >> n, 0 for n >= 64 */
FAI_INLINE fai_spec_longs fai_spec_shift(fai_spec_longs x, fai_spec_longs n) {
#if defined(__AVX512F__)
    return (fai_spec_longs)_mm512_maskz_srlv_epi64(0xff, (__m512i)x, (__m512i)n);
#elif defined(__AVX2__)
    return (fai_spec_longs)_mm256_srlv_epi64((__m256i)x, (__m256i)n);
#else
    const fai_spec_longs many = (fai_spec_longs)(n > 63);
    return (fai_spec_longs)vshlq_u64((uint64x2_t)x, vnegq_s64((int64x2_t)((n & ~many) | (many & 64))));
#endif
}
/* x rounded down, plus 2^52, for 0 <= x < 2^52: its bits are those of 2^52, and of the integer. */
FAI_INLINE fai_spec_doubles fai_spec_floor(fai_spec_doubles x) {
#if defined(__AVX512F__)
    return (fai_spec_doubles)_mm512_maskz_add_round_pd(0xff, (__m512d)x, _mm512_set1_pd(0x1p52),
                                                       _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
#elif defined(__AVX2__)
    return (fai_spec_doubles)_mm256_floor_pd((__m256d)x) + 0x1p52;
#else
    return (fai_spec_doubles)vrndmq_f64((float64x2_t)x) + 0x1p52;
#endif
}
FAI_INLINE fai_spec_ints fai_spec_max(fai_spec_ints a, fai_spec_ints b) {
#if defined(__AVX512F__)
    return (fai_spec_ints)_mm512_maskz_max_epi32(0xffff, (__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (fai_spec_ints)_mm256_max_epi32((__m256i)a, (__m256i)b);
#else
    return (fai_spec_ints)vmaxq_s32((int32x4_t)a, (int32x4_t)b);
#endif
}
/* Bit l: lane l is -1, not 0. */
FAI_INLINE uint64_t fai_spec_mask(fai_spec_ints x) {
#if defined(__AVX512F__)
    return _mm512_test_epi32_mask((__m512i)x, (__m512i)x);
#elif defined(__AVX2__)
    return (uint32_t)_mm256_movemask_ps((__m256)x);
#else
    uint64_t mask = 0;
    for (int l = 0; l < 4; l++) mask |= (uint64_t)(x[l] & 1) << l;
    return mask;
#endif
}

/* fai_unit of logits.  What the tests there are for needs none here: NaN, infinity and numbers beyond 2^47
 * leave bits from 2^47 on, so n is at least 64. */
FAI_INLINE fai_spec_longs fai_spec_unit(const fai_row *row, double unit, const float *x) {
    const fai_spec_longs zero = {0}, one = zero + ((uint64_t)1 << 32), slope = zero + row->slope;
    const fai_spec_doubles d = ((double)row->top - fai_spec_wide(x)) * unit;
    const fai_spec_longs whole = (fai_spec_longs)fai_spec_floor(d) ^ (zero + 0x4330000000000000),
                         y = fai_spec_mulhi(whole, slope), f = y >> 8; /* fai_exp2_neg */
    fai_spec_longs t = zero + 0xbda6u;
    t = 0x9c200u - (fai_spec_mul(f, t) >> 32);
    t = 0x5728b0u - (fai_spec_mul(f, t) >> 32);
    t = 0x27641a9u - (fai_spec_mul(f, t) >> 32);
    t = 0xe358127u - (fai_spec_mul(f, t) >> 32);
    t = 0x3d7f7bcbu - (fai_spec_mul(f, t) >> 32);
    t = 0xb17217f7u - (fai_spec_mul(f, t) >> 32);
    return fai_spec_shift((one - (fai_spec_mul(f, t) >> 32)) << 20, y >> 40);
}
#endif

/* Entries from .. from+count-1 as f32; room is for FAI_SPEC_CHUNK of them. */
static inline const float *fai_row_floats(const fai_row *row, int32_t from, int32_t count, float *room) {
    if (row->dtype == FA_F32) return (const float *)row->data + from;
    int32_t n = 0;
#if defined(FAI_SPEC_LOGITS) && defined(__F16C__)
    for (; n + 8 <= count; n += 8) {
        const __m128i codes = _mm_loadu_si128((const __m128i *)((const uint16_t *)row->data + from + n));
        const __m256i high = _mm256_slli_epi32(_mm256_cvtepu16_epi32(codes), 16);
        _mm256_storeu_ps(room + n, row->dtype == FA_F16 ? _mm256_cvtph_ps(codes) : _mm256_castsi256_ps(high));
    }
#endif
    for (; n < count; n++) room[n] = fai_row_load(row, (int64_t)from + n);
    return room;
}

/* Largest key of entries from .. from+count-1, count <= FAI_SPEC_CHUNK;
 * *bad = 1 if one of them counts as 0. */
static inline uint32_t fai_chunk_key(const fai_row *row, int32_t from, int32_t count, uint32_t *bad) {
    uint32_t top = 0;
    float room[FAI_SPEC_CHUNK];
    const float *x = fai_row_floats(row, from, count, room);
#if defined(FAI_SPEC_LOGITS)
    enum { L = 2 * FAI_SPEC_LANES };
    if (count >= L) { /* bits in the order of signed integers: -0 before 0, NaN at both ends */
        const int32_t least = row->kind == FA_LOGITS ? -0x7f800001 : 0; /* that of -inf */
        const fai_spec_ints zero = {0};
        fai_spec_ints high = zero - 0x7fffffff, low = high; /* low: of the complement */
        for (int32_t n = 0; n < count; n += L) {            /* the last vector ends with the last entry */
            fai_spec_ints bits = *(const fai_spec_bits *)(x + (n + L <= count ? n : count - L));
            bits ^= bits >> 31 & 0x7fffffff;
            high = fai_spec_max(high, bits), low = fai_spec_max(low, ~bits);
        }
        int32_t most = high[0], other = low[0];
        for (int n = 1; n < L; n++)
            most = high[n] > most ? high[n] : most, other = low[n] > other ? low[n] : other;
        if (most < 0x7f800000 && ~other >= least) return (uint32_t)(most == -1 ? 0 : most) + 0x80000000u;
    }
#endif
    for (int32_t n = 0; n < count; n++) {
        const uint32_t key = fai_key_of(row->kind, x[n]);
        if (row->kind == FA_LOGITS ? key == 0 || key == 0xff800000u
                                   : fai_bad_weight(fai_bits_of(x[n]), 0x7f800000u))
            *bad = 1;
        if (key > top) top = key;
    }
    return top;
}

/* Which of entries from .. from+count-1, count <= FAI_SPEC_CHUNK, have keys low .. high?  Bit n: entry
 * from+n. */
static inline uint64_t fai_chunk_find(const fai_row *row, int32_t from, int32_t count, uint32_t low,
                                      uint32_t high) {
    uint64_t found = 0;
    int32_t n = 0;
    float room[FAI_SPEC_CHUNK];
    const float *x = fai_row_floats(row, from, count, room);
#if defined(FAI_SPEC_LOGITS)
    const int32_t least = (int32_t)(low ^ 0x80000000u), most = (int32_t)(high ^ 0x80000000u);
    enum { L = 2 * FAI_SPEC_LANES };
    for (; n + L <= count; n += L) {
        const fai_spec_ints bits = *(const fai_spec_bits *)(x + n), size = bits & 0x7fffffff;
        fai_spec_ints key; /* fai_key_of, but for the highest bit */
        if (row->kind == FA_LOGITS) {
            const fai_spec_ints nan = size > 0x7f800000, minus_zero = bits == -0x7fffffff - 1;
            key = ((bits ^ (bits >> 31 & 0x7fffffff)) & ~nan & ~minus_zero) | (nan & (-0x7fffffff - 1));
        } else {
            key = bits & (bits >= 0) & (bits < 0x7f800000);
        }
        found |= fai_spec_mask((key >= least) & (key <= most)) << n;
    }
#endif
    for (; n < count; n++) {
        const uint32_t key = fai_key_of(row->kind, x[n]);
        found |= (uint64_t)(key >= low && key <= high) << n;
    }
    return found;
}

/* The largest entry, the first of equals; NaN is less than anything. */
static inline int32_t fai_argmax(const fai_row *row, uint32_t *bad) {
    uint32_t top = 0;
    int32_t best = 0;
    for (int32_t from = 0; from < row->vocab; from += FAI_SPEC_CHUNK) {
        const int32_t left = row->vocab - from;
        const uint32_t key = fai_chunk_key(row, from, left < FAI_SPEC_CHUNK ? left : FAI_SPEC_CHUNK, bad);
        if (key > top) top = key, best = from;
    }
    while (top && fai_row_key(row, best) != top) best++;
    return best;
}

/* fai_unit of entries from .. from+count-1, count <= FAI_SPEC_CHUNK. */
static inline void fai_units(const fai_row *row, int32_t from, int32_t count, uint64_t *unit) {
    int32_t n = 0;
#if defined(FAI_SPEC_LOGITS)
    if (row->kind == FA_LOGITS) {
        const double scale = (double)((uint64_t)1 << (41 + row->slope_exponent));
        float room[FAI_SPEC_CHUNK];
        const float *x = fai_row_floats(row, from, count, room);
        for (; n + FAI_SPEC_LANES <= count; n += FAI_SPEC_LANES)
            *(fai_spec_words *)(unit + n) = fai_spec_unit(row, scale, x + n);
    }
#endif
    for (; n < count; n++) unit[n] = fai_unit(row, from + n);
}

/* The same, 0 for those that top-k, top-p and min-p have cut; have: units are there already. */
static inline void fai_units_left(const fai_row *row, int32_t from, int32_t count, int have, uint64_t *unit) {
    uint64_t left = UINT64_MAX;
    if (row->cut_key) left = fai_chunk_find(row, from, count, row->cut_key, UINT32_MAX);
    if (row->cut_key && from + count - 1 > row->cut_id) /* equal keys behind cut_id */
        left &= ~(fai_chunk_find(row, from, count, row->cut_key, row->cut_key) &
                  (row->cut_id < from ? UINT64_MAX : UINT64_MAX << (row->cut_id - from) << 1));
    if (left && !have) fai_units(row, from, count, unit);
    if (!row->cut_key && !row->least) return;
    for (int32_t n = 0; n < count; n++)
        if (!(left >> n & 1) || unit[n] < row->least) unit[n] = 0;
}

static inline uint64_t fai_add_up(const uint64_t *w, int32_t count) {
    uint64_t sum = 0;
    int32_t n = 0;
#if defined(FAI_SPEC_LOGITS)
    fai_spec_longs sums = {0};
    for (; n + FAI_SPEC_LANES <= count; n += FAI_SPEC_LANES) sums += *(const fai_spec_words *)(w + n);
    for (int l = 0; l < FAI_SPEC_LANES; l++) sum += sums[l];
#endif
    for (; n < count; n++) sum += w[n];
    return sum;
}

/* w = fai_scaled(s, w) */
static inline void fai_scale_all(fai_scale s, uint64_t *w, int32_t count) {
    int32_t n = 0;
#if defined(FAI_SPEC_LOGITS)
    const fai_spec_longs zero = {0}, factor = zero + s.factor;
    for (; n + FAI_SPEC_LANES <= count; n += FAI_SPEC_LANES)
        *(fai_spec_words *)(w + n) =
            fai_spec_mulhi(*(fai_spec_words *)(w + n) << s.before, factor) >> s.after;
#endif
    for (; n < count; n++) w[n] = fai_scaled(s, w[n]);
}

/* w = max(w - q, 0), for numbers below 2^63 */
static inline void fai_subtract(uint64_t *w, const uint64_t *q, int32_t count) {
    int32_t n = 0;
#if defined(FAI_SPEC_LOGITS)
    for (; n + FAI_SPEC_LANES <= count; n += FAI_SPEC_LANES) {
        const fai_spec_signed more =
            (fai_spec_signed)(*(fai_spec_words *)(w + n) - *(const fai_spec_words *)(q + n));
        *(fai_spec_words *)(w + n) = (fai_spec_longs)(more & (more > 0));
    }
#endif
    for (; n < count; n++) w[n] = w[n] > q[n] ? w[n] - q[n] : 0;
}

/* fai_weight of entries from .. from+count-1, count <= FAI_SPEC_CHUNK. */
static inline void fai_weights(const fai_row *row, int32_t from, int32_t count, uint64_t *w) {
    if (row->only >= 0 || row->kind == FA_PROBS) {
        for (int32_t n = 0; n < count; n++) w[n] = fai_weight(row, from + n);
    } else if (row->units) {
        memcpy(w, row->units + from, (size_t)count * sizeof *w);
        fai_scale_all(row->scale, w, count);
    } else {
        fai_units_left(row, from, count, 0, w);
        fai_scale_all(row->scale, w, count);
    }
}

/* ---- rows made ready ---- */

/* Cuts the row behind its first k entries, or behind the first that have `share` (in 2^-24) of `total` units,
 * in descending order: a radix search for the last key that stays, 8 bits at a time, then for the last id of
 * that key.  kept: the units of all entries, or NULL. */
static inline void fai_row_cut(fai_row *row, const uint64_t *kept, int64_t k, uint32_t share, fai_sum total) {
    const fai_sum wanted = fai_sum_share(total, share);
    fai_sum sums[256], units = {0, 0}; /* units, count: of entries before the current range of keys */
    int64_t counts[256], count = 0;
    uint32_t prefix = 0;
    const uint32_t old_key = row->cut_key;
    const int32_t old_id = row->cut_id;
    memset(sums, 0, sizeof sums);
    for (int shift = 24; shift >= 0; shift -= 8) {
        const uint32_t ones = shift < 24 ? ((uint32_t)1 << (shift + 8)) - 1 : UINT32_MAX,
                       first = shift < 24 ? prefix << (shift + 8) : 0,
                       least = first > old_key ? first : old_key;
        if (!k) memset(sums, 0, sizeof sums);
        memset(counts, 0, sizeof counts);
        for (int32_t from = 0; from < row->vocab; from += FAI_SPEC_CHUNK) {
            const int32_t left = row->vocab - from, n = left < FAI_SPEC_CHUNK ? left : FAI_SPEC_CHUNK;
            const uint64_t found = fai_chunk_find(row, from, n, least, first | ones);
            const int all = !k && !kept && shift > 8; /* later, few are looked at */
            uint64_t chunk[FAI_SPEC_CHUNK];
            if (!found) continue;
            if (all) fai_units(row, from, n, chunk);
            for (int32_t id = from; id < from + n; id++) {
                if (!(found >> (id - from) & 1)) continue;
                const uint32_t key = fai_row_key(row, id), digit = key >> shift & 255;
                if (key == old_key && id > old_id) continue;
                counts[digit]++;
                if (k) continue;
                sums[digit] = fai_sum_add(sums[digit], kept  ? kept[id]
                                                       : all ? chunk[id - from]
                                                             : fai_unit(row, id));
            }
        }
        int digit = 255;
        for (; digit > 0; digit--) {
            if (!counts[digit]) continue;
            fai_sum next = fai_sum_add(units, sums[digit].lo);
            next.hi += sums[digit].hi;
            if (k ? count + counts[digit] >= k : !fai_sum_less(next, wanted)) break;
            units = next, count += counts[digit];
        }
        prefix = prefix << 8 | (uint32_t)digit;
    }
    row->cut_key = prefix;
    row->cut_id = row->vocab - 1;
    for (int32_t from = 0; from < row->vocab; from += FAI_SPEC_CHUNK) { /* equal keys have equal units */
        const int32_t left = row->vocab - from;
        const int32_t most = left < FAI_SPEC_CHUNK ? left : FAI_SPEC_CHUNK;
        uint64_t found = fai_chunk_find(row, from, most, prefix, prefix);
        for (int32_t id = from; found; id++, found >>= 1) {
            if (!(found & 1) || (prefix == old_key && id > old_id)) continue;
            units = fai_sum_add(units, fai_unit(row, id)), count++;
            row->cut_id = id;
            if (k ? count >= k : !fai_sum_less(units, wanted)) return;
        }
    }
}

/* Gives the row its weight to scale with, for parameters that may be 0 = off.  room: NULL, or for FAI_SMALL
 * units, which small rows keep there. */
static inline void fai_row_prepare(fai_row *row, float temperature, int32_t top_k, float top_p, float min_p,
                                   uint64_t *room) {
    fai_sum total = {0, 0};
    if (row->kind == FA_PROBS) row->kind = FA_WEIGHTS;
    const int32_t best = fai_argmax(row, &row->bad);
    const uint32_t top = fai_row_key(row, best);
    row->top = fai_row_load(row, best);
    if (top <= (row->kind == FA_LOGITS ? 0x007fffffu : 0x80000000u)) /* -inf, 0 */
        row->bad = 1, row->only = best;
    else if (temperature == 0 || (row->kind == FA_LOGITS && top == 0xff800000u)) /* inf */
        row->only = best;
    if (row->only >= 0) return;
    row->exponent = (int32_t)(fai_bits_of(row->top) >> 23) - 127;
    if (row->exponent < -126) row->exponent = -126;
    if (row->kind == FA_LOGITS) fai_row_temperature(row, temperature);
    row->cut_id = row->vocab - 1;
    if (top_k > 0 && top_k < row->vocab) fai_row_cut(row, NULL, top_k, 0, total);
    if (row->vocab > FAI_SMALL) room = NULL;
    const int nucleus = top_p > 0 && top_p < 1;
    for (int pass = !nucleus; pass < 2; pass++) {
        total.hi = total.lo = 0;
        if (pass && min_p > 0) {
            const uint64_t largest = fai_unit(row, best);
            row->least =
                min_p >= 1 ? largest : fai_mulhi(largest << 6, fai_fixed(fai_bits_of(min_p), 0) << 6);
        }
        for (int32_t from = 0; from < row->vocab; from += FAI_SPEC_CHUNK) {
            const int32_t left = row->vocab - from, n = left < FAI_SPEC_CHUNK ? left : FAI_SPEC_CHUNK;
            uint64_t chunk[FAI_SPEC_CHUNK], *const unit = room ? room + from : chunk;
            fai_units_left(row, from, n, room && pass && nucleus, unit);
            total = fai_sum_add(total, fai_add_up(unit, n));
        }
        if (!pass) fai_row_cut(row, room, 0, (uint32_t)(fai_fixed(fai_bits_of(top_p), 0) >> 28), total);
    }
    row->scale = fai_scale_to_one(total);
    row->units = room;
}

/* Row `index` of rows for request b; room: see fai_row_prepare. */
static inline fai_row fai_row_open(const fa_rows *rows, int64_t index, int32_t vocab,
                                   const fa_sampling *sampling, int64_t b, uint64_t *room) {
    const fa_dtype dtype = rows->dtype ? rows->dtype : FA_F32;
    const int64_t stride = rows->stride ? rows->stride : vocab;
    fai_row row;
    memset(&row, 0, sizeof row);
    row.data = (const char *)rows->data + index * stride * (int64_t)fa_sizeof(dtype);
    row.dtype = dtype, row.vocab = vocab, row.only = -1, row.kind = rows->kind ? rows->kind : FA_LOGITS;
    if (row.kind == FA_PROBS && dtype != FA_F32) row.kind = FA_WEIGHTS;
    const float temperature = sampling && sampling->temperature ? sampling->temperature[b] : 1;
    const int32_t top_k = sampling && sampling->top_k ? sampling->top_k[b] : 0;
    const float top_p = sampling && sampling->top_p ? sampling->top_p[b] : 0;
    const float min_p = sampling && sampling->min_p ? sampling->min_p[b] : 0;
    const int cut = top_k > 0 || (top_p > 0 && top_p < 1) || min_p > 0 || temperature == 0;
    if (row.kind != FA_PROBS || cut) fai_row_prepare(&row, temperature, top_k, top_p, min_p, room);
    return row;
}

/* ======================================================================================== */
/* >>sampling coins, temperature, top-k, top-p, min-p                                        */
/* ======================================================================================== */

/* ---- coins ---- */

/* A coin is 64 random bits c: the number u = c 2^-64 in [0, 1).  Either they come from Philox, without any
 * state: counter (offset[b], node, purpose), key seed[b].  Purposes are part of the counter, so a draft's
 * coins, the acceptance tests and the two final draws never share one; and a step of a request, whatever it
 * accepts, uses one offset: add 1 for the next. Or the caller brings them. */
#define FA_COIN_DRAFT 0u    /* the draw of a draft token */
#define FA_COIN_ACCEPT 1u   /* u q < p */
#define FA_COIN_RESAMPLE 2u /* the draw from what is left of p after rejections */
#define FA_COIN_BONUS 3u    /* the draw behind the last draft, all of them accepted */
#define FA_COIN_TARGET 4u   /* a draw without any draft */

typedef struct fa_coins {
    const uint64_t *coins;         /* each call says in which order; NULL: Philox */
    const uint64_t *seed, *offset; /* (batch), NULL = 0: without seeds, requests share their coins */
} fa_coins;

FAI_HD static inline uint64_t fa_coin(uint64_t seed, uint64_t offset, uint32_t purpose, uint32_t node) {
    const uint32_t counter[4] = {(uint32_t)offset, (uint32_t)(offset >> 32), node, purpose};
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    uint32_t out[4];
    fa_philox4x32_10(counter, key, out);
    return (uint64_t)out[1] << 32 | out[0];
}

/* u < p / q: acceptance of a token that was drawn with weight q.  What q cannot have drawn is rejected. */
FAI_HD static inline int fai_accept(uint64_t coin, uint64_t q, uint64_t p) {
    return q && fai_mulhi(coin, q) < p;
}

/* ---- draws ---- */

/* A row of weights that need not add up to anything: p, or max(p - q, 0), or an array. */
typedef struct fai_mass {
    fai_row *p, *q;          /* q NULL: p alone */
    uint64_t ratio;          /* p counts ratio 2^-63 times: block verification.  0 = once */
    const uint64_t *weights; /* instead of p and q */
    const int32_t *skip;     /* ids without weight, all different; p must be what else is given */
    int32_t num_skip, vocab;
} fai_mass;

/* Sums of at most 256 blocks, so that one pass over the row and a second over one block make a draw. */
typedef struct fai_sums {
    int32_t block;
    uint64_t total, sum[256]; /* total >= 2^53: no distribution */
} fai_sums;

FAI_HD static inline uint64_t fai_p_times(uint64_t p, uint64_t ratio) {
    return ratio ? fai_mulhi(p << 1, ratio) : p;
}

FAI_HD static inline uint64_t fai_residual(uint64_t p, uint64_t q) { return p > q ? p - q : 0; }

/* Weight of id; skip is not looked at. */
FAI_HD static inline uint64_t fai_mass_at(const fai_mass *m, int32_t id) {
    if (m->weights) return m->weights[id];
    const uint64_t p = fai_p_times(fai_weight(m->p, id), m->ratio);
    return m->q ? fai_residual(p, fai_weight(m->q, id)) : p;
}
/* The same of ids from .. from+count-1, count <= FAI_SPEC_CHUNK. */
static inline void fai_masses(const fai_mass *m, int32_t from, int32_t count, uint64_t *w) {
    uint64_t q[FAI_SPEC_CHUNK];
    if (m->weights) {
        memcpy(w, m->weights + from, (size_t)count * sizeof *w);
        return;
    }
    fai_weights(m->p, from, count, w);
    for (int32_t n = 0; n < count && m->ratio; n++) w[n] = fai_p_times(w[n], m->ratio);
    if (!m->q) return;
    fai_weights(m->q, from, count, q);
    fai_subtract(w, q, count);
}
FAI_HD static inline int fai_skips(const fai_mass *m, int32_t id) {
    for (int32_t n = 0; n < m->num_skip; n++)
        if (m->skip[n] == id) return 1;
    return 0;
}

/* FA_PROBS rows were not read before: do entries from .. to-1 count as 0 that are not? */
static inline void fai_row_judge(fai_row *row, int32_t from, int32_t to) {
    if (row->kind != FA_PROBS || row->bad) return;
    for (int32_t id = from; id < to; id++)
        if (fai_bad_weight(fai_bits_of(((const float *)row->data)[id]), 0x40000000u)) row->bad = 1;
}

#if defined(FAI_SPEC_LANES)
/* The sum of max(p - q, 0), or of p without q, over 16 n <= 1024 entries; -1 if one is not in [0, 1). */
FAI_INLINE int64_t fai_spec_sum(const float *p, const float *q, int32_t count) {
    enum { L = FAI_SPEC_LANES };
    const fai_spec_longs zero = {0}, one = zero + 0x3ff0000000000000;
    fai_spec_longs sum0 = zero, sum1 = zero, bad0 = zero, bad1 = zero;
    for (int32_t id = 0; id < count; id += 2 * L) {
        /* For rows out of memory: 1.1 instead of 1.4 times the time of reading them. */
        __builtin_prefetch((const void *)((uintptr_t)(p + id) + 2048));
        if (q) __builtin_prefetch((const void *)((uintptr_t)(q + id) + 2048));
        const fai_spec_doubles p0 = fai_spec_one_plus(p + id), p1 = fai_spec_one_plus(p + id + L);
        bad0 |= (fai_spec_longs)p0 ^ one, bad1 |= (fai_spec_longs)p1 ^ one;
        if (!q) {
            sum0 += (fai_spec_longs)p0 - one, sum1 += (fai_spec_longs)p1 - one;
            continue;
        }
        const fai_spec_doubles q0 = fai_spec_one_plus(q + id), q1 = fai_spec_one_plus(q + id + L);
        bad0 |= (fai_spec_longs)q0 ^ one, bad1 |= (fai_spec_longs)q1 ^ one;
        sum0 += ((fai_spec_longs)p0 - (fai_spec_longs)q0) & (fai_spec_longs)(p0 > q0);
        sum1 += ((fai_spec_longs)p1 - (fai_spec_longs)q1) & (fai_spec_longs)(p1 > q1);
    }
    sum0 += sum1, bad0 |= bad1;
    uint64_t total = 0, all = 0;
    for (int n = 0; n < L; n++) total += sum0[n], all |= bad0[n];
    return all >> 52 ? -1 : (int64_t)total;
}
#endif

/* The sum of ids from .. to-1; beyond 2^62 it stays there. */
static inline uint64_t fai_mass_sum(fai_mass *m, int32_t from, int32_t to) {
    uint64_t sum = 0;
#if defined(FAI_SPEC_LANES)
    if (!m->weights && !m->ratio && m->p->kind == FA_PROBS && (!m->q || m->q->kind == FA_PROBS))
        while (to - from >= 16) {
            const int32_t count = to - from < 1024 ? (to - from) / 16 * 16 : 1024;
            const float *p = (const float *)m->p->data + from,
                        *q = m->q ? (const float *)m->q->data + from : NULL;
            const int64_t part = q ? fai_spec_sum(p, q, count) : fai_spec_sum(p, NULL, count);
            if (part < 0) break; /* one by one */
            from += count, sum += (uint64_t)part;
            if (sum >> 62) sum = (uint64_t)1 << 62;
        }
#endif
    if (!m->weights) fai_row_judge(m->p, from, to);
    if (!m->weights && m->q) fai_row_judge(m->q, from, to);
    for (int32_t n; from < to; from += n) {
        uint64_t w[FAI_SPEC_CHUNK];
        n = to - from < FAI_SPEC_CHUNK ? to - from : FAI_SPEC_CHUNK;
        fai_masses(m, from, n, w);
        sum += fai_add_up(w, n);
        if (sum >> 62) sum = (uint64_t)1 << 62;
    }
    return sum;
}

/* Ids of a block: there are at most 256 of them. */
FAI_HD static inline int32_t fai_sums_block(int32_t vocab) {
    const int32_t each = (int32_t)(((int64_t)vocab + 255) / 256);
    return each < 512 ? 512 : (each + 63) / 64 * 64;
}

static inline void fai_mass_sums(fai_mass *m, fai_sums *s) {
    s->block = fai_sums_block(m->vocab);
    s->total = 0;
    for (int64_t from = 0, n = 0; from < m->vocab; from += s->block, n++) {
        const int64_t to = from + s->block < m->vocab ? from + s->block : m->vocab;
        s->sum[n] = fai_mass_sum(m, (int32_t)from, (int32_t)to);
        s->total += s->sum[n];
        if (s->total >> 62) s->total = (uint64_t)1 << 62;
    }
}

/* Takes id out of the sums. */
static inline void fai_sums_drop(const fai_mass *m, fai_sums *s, int32_t id) {
    const uint64_t weight = fai_mass_at(m, id);
    s->sum[id / s->block] -= weight, s->total -= weight;
}

/* The id that holds unit floor(u total) of the mass; total must not be 0. */
static inline int32_t fai_mass_draw(const fai_mass *m, const fai_sums *s, uint64_t coin) {
    const int32_t last = (m->vocab - 1) / s->block;
    uint64_t unit = fai_mulhi(coin, s->total);
    int32_t n = 0;
    for (; n < last && unit >= s->sum[n]; n++) unit -= s->sum[n];
    for (int32_t from = n * s->block;; from += FAI_SPEC_CHUNK) {
        uint64_t w[FAI_SPEC_CHUNK];
        const int32_t count = m->vocab - from < FAI_SPEC_CHUNK ? m->vocab - from : FAI_SPEC_CHUNK;
        fai_masses(m, from, count, w);
        for (int32_t i = 0; i < m->num_skip; i++)
            if (m->skip[i] >= from && m->skip[i] - from < count) w[m->skip[i] - from] = 0;
        const uint64_t sum = fai_add_up(w, count);
        if (unit >= sum) {
            unit -= sum;
            continue;
        }
        for (int32_t i = 0;; i++) {
            if (unit < w[i]) return from + i;
            unit -= w[i];
        }
    }
}

/* A draw; where there is nothing to draw from, the largest entry of p. */
static inline int32_t fai_draw_from(const fai_mass *m, const fai_sums *s, uint64_t coin, fai_row *p,
                                    uint32_t *flags) {
    uint32_t bad;
    if (s->total && !(s->total >> 53)) return fai_mass_draw(m, s, coin);
    if (s->total) p->bad = 1;
    if (m->q || m->weights || m->num_skip)
        *flags |= FA_SPEC_FALLBACK;
    else
        p->bad = 1;
    return p->only >= 0 ? p->only : fai_argmax(p, &bad);
}

static inline int32_t fai_draw(fai_mass *m, uint64_t coin, fai_row *p, uint32_t *flags) {
    fai_sums s;
    fai_mass_sums(m, &s);
    for (int32_t n = 0; n < m->num_skip; n++) fai_sums_drop(m, &s, m->skip[n]);
    return fai_draw_from(m, &s, coin, p, flags);
}

/* Tokens from rows, for instance the drafts that verification is about.  Zero-initialise it. */
typedef struct fa_sample_args {
    uint32_t first_canary;
    int32_t batch;          /* requests */
    int32_t vocab;          /* ids are 0 .. vocab-1 */
    int32_t num_rows;       /* 0 = batch */
    fa_rows rows;           /* (num_rows, vocab) */
    const int32_t *request; /* (num_rows): whose parameters and coins; NULL: row r is of request r */
    fa_sampling sampling;   /* arrays: (batch) */
    fa_coins coins;         /* coins: (num_rows, num_samples) */
    uint32_t purpose;       /* FA_COIN_DRAFT (0) or FA_COIN_TARGET */
    const int32_t *node;    /* (num_rows): sample n of the row takes the coin of node node[r] + n.  Children
                               that follow each other in their tree: the first; token i (0 ..) of a chain:
                               i + 1; NULL: 1 */
    int32_t num_samples;    /* of each row; 0 = 1 */
    int32_t without_replacement; /* 1: each is drawn from what those before it have left */
    int32_t *tokens;             /* out (num_rows, num_samples); -1: nothing is left */
    uint32_t *flags;             /* out (num_rows), or NULL: FA_SPEC_BAD_DRAFT */
    fa_error *error;             /* optional: filled in when the call fails */
    uint32_t last_canary;
} fa_sample_args;

/* ---- checks ---- */

/* The first failure of a call; error may be NULL. */
typedef struct fai_spec_call {
    fa_status status;
    fa_error *error;
    int device; /* arrays are in device memory: what they hold is not looked at */
} fai_spec_call;

static inline void fai_spec_bad(fai_spec_call *c, fa_status status, const char *field, int64_t index,
                                double got, double min, double max) {
    if (c->status != FA_OK) return;
    const fa_error e = {status, field, got, min, max, index};
    c->status = status;
    if (c->error) *c->error = e;
}
static inline fa_status fai_spec_end(fai_spec_call *c) {
    const fa_error e = {FA_OK, "", 0, 0, 0, -1};
    if (c->status == FA_OK && c->error) *c->error = e;
    return c->status;
}
static inline void fai_spec_range(fai_spec_call *c, fa_status status, const char *field, int64_t index,
                                  double got, double min, double max) {
    if (!(got >= min && got <= max)) fai_spec_bad(c, status, field, index, got, min, max);
}
static inline void fai_spec_pointer(fai_spec_call *c, fa_status status, const char *field, const void *data,
                                    size_t align, int needed) {
    if ((needed && !data) || (uintptr_t)data % align)
        fai_spec_bad(c, status, field, -1, (double)((uintptr_t)data % align), 1, 0);
}

/* fields: names of data, stride, dtype, kind */
static inline void fai_check_spec_rows(fai_spec_call *c, fa_status status, const fa_rows *rows, int32_t vocab,
                                       int64_t count, const char *const fields[4]) {
    const fa_dtype dtype = rows->dtype ? rows->dtype : FA_F32;
    fai_spec_range(c, status, fields[2], -1, rows->dtype, 0, FA_BF16);
    fai_spec_range(c, status, fields[3], -1, rows->kind, 0, FA_WEIGHTS);
    if (rows->stride) fai_spec_range(c, status, fields[1], -1, (double)rows->stride, vocab, 0x1p61);
    if (c->status != FA_OK) return;
    fai_spec_pointer(c, status, fields[0], rows->data, fa_sizeof(dtype), 1);
    if (fai_mul(fai_mul(count, rows->stride ? rows->stride : vocab), (int64_t)fa_sizeof(dtype)) == INT64_MAX)
        fai_spec_bad(c, status, fields[1], -1, (double)rows->stride, 1, 0);
}

static inline void fai_check_sampling(fai_spec_call *c, const fa_sampling *s, int32_t batch, int logits) {
    fai_spec_pointer(c, FA_ERR_SPEC_SAMPLING, "temperature", s->temperature, 4, 0);
    fai_spec_pointer(c, FA_ERR_SPEC_SAMPLING, "top_k", s->top_k, 4, 0);
    fai_spec_pointer(c, FA_ERR_SPEC_SAMPLING, "top_p", s->top_p, 4, 0);
    fai_spec_pointer(c, FA_ERR_SPEC_SAMPLING, "min_p", s->min_p, 4, 0);
    for (int32_t b = 0; b < batch && c->status == FA_OK && !c->device; b++) {
        const float t = s->temperature ? s->temperature[b] : 1;
        if (!logits && t != 0) fai_spec_range(c, FA_ERR_SPEC_SAMPLING, "temperature", b, t, 1, 1);
        if (t != 0) fai_spec_range(c, FA_ERR_SPEC_SAMPLING, "temperature", b, t, 0x1p-20, 0x1p20);
        if (s->top_k) fai_spec_range(c, FA_ERR_SPEC_SAMPLING, "top_k", b, s->top_k[b], 0, INT32_MAX);
        if (s->top_p) fai_spec_range(c, FA_ERR_SPEC_SAMPLING, "top_p", b, s->top_p[b], 0, 1);
        if (s->min_p) fai_spec_range(c, FA_ERR_SPEC_SAMPLING, "min_p", b, s->min_p[b], 0, 1);
    }
}
static inline void fai_check_coins(fai_spec_call *c, const fa_coins *coins) {
    fai_spec_pointer(c, FA_ERR_SPEC_COINS, "coins.coins", coins->coins, 8, 0);
    fai_spec_pointer(c, FA_ERR_SPEC_COINS, "coins.seed", coins->seed, 8, 0);
    fai_spec_pointer(c, FA_ERR_SPEC_COINS, "coins.offset", coins->offset, 8, 0);
}
FAI_HD static inline uint64_t fai_coin_of(const fa_coins *coins, int64_t b, uint32_t purpose, int32_t node) {
    return fa_coin(coins->seed ? coins->seed[b] : 0, coins->offset ? coins->offset[b] : 0, purpose,
                   (uint32_t)node);
}

static inline fai_spec_call fai_check_sample(const fa_sample_args *a, int device) {
    static const char *const fields[4] = {"rows.data", "rows.stride", "rows.dtype", "rows.kind"};
    fai_spec_call c = {FA_OK, a ? a->error : NULL, device};
    if (!a) {
        c.status = FA_ERR_ARGS_NULL;
        return c;
    }
    if (a->first_canary || a->last_canary) {
        c.error = NULL; /* it need not be a pointer */
        fai_spec_bad(&c, FA_ERR_NOT_ZEROED, "first_canary", -1, 0, 1, 0);
        return c;
    }
    const int32_t num_rows = a->num_rows ? a->num_rows : a->batch,
                  num_samples = a->num_samples ? a->num_samples : 1;
    fai_spec_range(&c, FA_ERR_BATCH, "batch", -1, a->batch, 1, INT32_MAX);
    fai_spec_range(&c, FA_ERR_SPEC_VOCAB, "vocab", -1, a->vocab, 1, INT32_MAX);
    fai_spec_range(&c, FA_ERR_SPEC_SAMPLE, "num_rows", -1, num_rows, 1, a->request ? INT32_MAX : a->batch);
    fai_spec_range(&c, FA_ERR_SPEC_SAMPLE, "num_samples", -1, num_samples, 1, FA_TREE_MAX_NODES);
    fai_spec_range(&c, FA_ERR_SPEC_SAMPLE, "without_replacement", -1, a->without_replacement, 0, 1);
    if (a->purpose != FA_COIN_DRAFT && a->purpose != FA_COIN_TARGET)
        fai_spec_bad(&c, FA_ERR_SPEC_SAMPLE, "purpose", -1, a->purpose, 1, 0);
    fai_spec_pointer(&c, FA_ERR_SPEC_SAMPLE, "request", a->request, 4, 0);
    fai_spec_pointer(&c, FA_ERR_SPEC_SAMPLE, "node", a->node, 4, 0);
    if (c.status == FA_OK) fai_check_spec_rows(&c, FA_ERR_SPEC_ROWS, &a->rows, a->vocab, num_rows, fields);
    if (c.status == FA_OK) fai_check_sampling(&c, &a->sampling, a->batch, a->rows.kind <= FA_LOGITS);
    fai_check_coins(&c, &a->coins);
    fai_spec_pointer(&c, FA_ERR_SPEC_OUT, "tokens", a->tokens, 4, 1);
    fai_spec_pointer(&c, FA_ERR_SPEC_OUT, "flags", a->flags, 4, 0);
    for (int32_t r = 0; r < num_rows && c.status == FA_OK && !device; r++) {
        if (a->request) fai_spec_range(&c, FA_ERR_SPEC_SAMPLE, "request", r, a->request[r], 0, a->batch - 1);
        if (a->node)
            fai_spec_range(&c, FA_ERR_SPEC_SAMPLE, "node", r, a->node[r], 0, INT32_MAX - FA_TREE_MAX_NODES);
    }
    return c;
}

/* Draws num_samples tokens from each row. */
static inline fa_status fa_sample(const fa_sample_args *a) {
    fai_spec_call c = fai_check_sample(a, 0);
    if (c.status != FA_OK) return c.status;
    const int32_t num_rows = a->num_rows ? a->num_rows : a->batch,
                  num_samples = a->num_samples ? a->num_samples : 1;
    uint64_t room[FAI_SMALL];
    for (int32_t r = 0; r < num_rows; r++) {
        const int64_t b = a->request ? a->request[r] : r, at = (int64_t)r * num_samples;
        fai_row row = fai_row_open(&a->rows, r, a->vocab, &a->sampling, b, room);
        fai_mass m = {&row, NULL, 0, NULL, NULL, 0, a->vocab};
        fai_sums s;
        fai_mass_sums(&m, &s);
        const int dead = !s.total || s.total >> 53;
        if (dead) row.bad = 1;
        if (a->without_replacement) m.skip = a->tokens + at;
        for (int32_t n = 0; n < num_samples; n++) {
            const uint64_t coin = a->coins.coins
                                      ? a->coins.coins[at + n]
                                      : fai_coin_of(&a->coins, b, a->purpose, (a->node ? a->node[r] : 1) + n);
            int32_t token = -1;
            if (dead)
                token = n && a->without_replacement ? -1 : fai_argmax(&row, &row.bad);
            else if (s.total)
                token = fai_mass_draw(&m, &s, coin);
            a->tokens[at + n] = token;
            if (a->without_replacement && token >= 0 && !dead) fai_sums_drop(&m, &s, token), m.num_skip++;
        }
        if (a->flags) a->flags[r] = row.bad ? FA_SPEC_BAD_DRAFT : 0;
    }
    return fai_spec_end(&c);
}

/* What rows mean: weights[i] = probability of id i times 2^52, as verification sees row `row` with the
 * parameters of request b (sampling may be NULL).  For tests and for curiosity; rows are not checked. */
static inline void fa_row_weights(const fa_rows *rows, int64_t row, int32_t vocab,
                                  const fa_sampling *sampling, int64_t b, uint64_t *weights) {
    const fai_row r = fai_row_open(rows, row, vocab, sampling, b, NULL);
    for (int32_t id = 0; id < vocab; id += FAI_SPEC_CHUNK)
        fai_weights(&r, id, vocab - id < FAI_SPEC_CHUNK ? vocab - id : FAI_SPEC_CHUNK, weights + id);
}

/* ======================================================================================== */
/* >>trees    the data model                                                                 */
/* ======================================================================================== */

/* A batch of token trees. Node 0 of each is its root: the last token that is certain, not yet in the KV
 * cache. Nodes are in topological order; siblings are in the order of their indices. */
typedef struct fa_trees {
    int32_t batch;
    int32_t num_nodes;     /* of each tree, 1 .. FA_TREE_MAX_NODES; with indptr: the most that one has */
    const int32_t *indptr; /* (batch + 1): tree b is nodes indptr[b] .. indptr[b+1]-1; NULL: num_nodes each */
    const int32_t *parent; /* (total): node of the same tree, less than the node's own; -1 for a root */
    const int32_t *token;  /* (total) */
} fa_trees;

/* Nodes of tree b: the first one's place in the arrays, and their number. */
FAI_HD static inline int64_t fa_tree_begin(const fa_trees *t, int64_t b) {
    return t->indptr ? t->indptr[b] : b * t->num_nodes;
}
FAI_HD static inline int32_t fa_tree_count(const fa_trees *t, int64_t b) {
    return t->indptr ? t->indptr[b + 1] - t->indptr[b] : t->num_nodes;
}

/* Sizes, parents before children, one root at node 0, tokens 0 .. vocab-1 (not the root's, which nobody looks
 * up; vocab 0: tokens are not checked).  *deepest: tokens on the longest path, root included. */
static inline void fai_check_trees(fai_spec_call *c, const fa_trees *t, int32_t vocab, int32_t *deepest) {
    int32_t depth[FA_TREE_MAX_NODES];
    *deepest = 0;
    fai_spec_range(c, FA_ERR_BATCH, "trees.batch", -1, t->batch, 1, INT32_MAX);
    fai_spec_range(c, FA_ERR_TREE_NODES, "trees.num_nodes", -1, t->num_nodes, 1, FA_TREE_MAX_NODES);
    fai_spec_pointer(c, FA_ERR_TREE_NODES, "trees.indptr", t->indptr, 4, 0);
    fai_spec_pointer(c, FA_ERR_TREE_PARENT, "trees.parent", t->parent, 4, 1);
    fai_spec_pointer(c, FA_ERR_TREE_TOKEN, "trees.token", t->token, 4, vocab > 0);
    if (t->indptr && c->status == FA_OK && !c->device) {
        fai_spec_range(c, FA_ERR_TREE_NODES, "trees.indptr", 0, t->indptr[0], 0, INT32_MAX);
        for (int32_t b = 0; b < t->batch && c->status == FA_OK; b++) {
            const double last = t->indptr[b];
            fai_spec_range(c, FA_ERR_TREE_NODES, "trees.indptr", b + 1, t->indptr[b + 1], last + 1,
                           last + t->num_nodes);
        }
    }
    for (int32_t b = 0; b < t->batch && c->status == FA_OK && !c->device; b++) {
        const int64_t first = fa_tree_begin(t, b);
        const int32_t nodes = fa_tree_count(t, b);
        for (int32_t n = 0; n < nodes && c->status == FA_OK; n++) {
            const int32_t parent = t->parent[first + n];
            fai_spec_range(c, FA_ERR_TREE_PARENT, "trees.parent", first + n, parent, n ? 0 : -1, n - 1);
            if (c->status != FA_OK) return;
            if (n && vocab > 0)
                fai_spec_range(c, FA_ERR_TREE_TOKEN, "trees.token", first + n, t->token[first + n], 0,
                               vocab - 1);
            depth[n] = n ? depth[parent] + 1 : 1;
            if (depth[n] > *deepest) *deepest = depth[n];
        }
    }
}

/* Functions of the chapters >>trees .. >>planning that can fail take an optional fa_error last (or in
 * their argument struct), and write nothing else unless the status is FA_OK. Node numbers count inside a
 * tree. Scratch is on the stack where no workspace is asked for: up to 40 KiB. */

/* The first thing that is wrong with a call. */
typedef struct fai_verdict {
    fa_status status;
    fa_error *error;
} fai_verdict;

static inline void fai_refuse(fai_verdict *v, fa_status status, const char *field, int64_t index, double got,
                              double min, double max) {
    const fa_error e = {status, field, got, min, max, index};
    if (v->status != FA_OK) return;
    v->status = status;
    if (v->error) *v->error = e;
}
static inline void fai_want(fai_verdict *v, fa_status status, const char *field, double got, double min,
                            double max) {
    if (!(got >= min && got <= max)) fai_refuse(v, status, field, -1, got, min, max); /* NaN is outside */
}
/* An array: given, and aligned to its element size. */
static inline void fai_want_array(fai_verdict *v, fa_status status, const char *field, const void *data,
                                  size_t element) {
    if (!data || (uintptr_t)data % element)
        fai_refuse(v, status, field, -1, (double)((uintptr_t)data % element), 1, 0);
}

/* Are these trees? vocab > 0: tokens are looked at too, and must be 0 .. vocab-1. */
static inline fa_status fa_trees_check(const fa_trees *t, int32_t vocab, fa_error *error) {
    fai_spec_call c = {FA_OK, error, 0};
    int32_t deepest;
    if (!t) return FA_ERR_ARGS_NULL;
    fai_check_trees(&c, t, vocab, &deepest);
    return c.status;
}

/* One tree of n nodes: its children as lists, -1 where there is none. */
FAI_HD static inline void fai_tree_links(const int32_t *parent, int32_t n, int32_t *first_child,
                                         int32_t *next_sibling) {
    for (int32_t i = 0; i < n; i++) first_child[i] = next_sibling[i] = -1;
    for (int32_t i = n - 1; i > 0; i--) next_sibling[i] = first_child[parent[i]], first_child[parent[i]] = i;
}

/* What follows from parent, for each node of all trees.
 *   fa_tree_links      first_child, next_sibling (total): siblings in the order of their indices, -1 for none
 *   fa_tree_positions  positions (total) = start[b] + depth, for fa_rope.positions per_row; start NULL: 0.
 *                      The root has depth 0, so start[b] is the rows in the cache before the tree
 *   fa_tree_mask_bits  the data of fa_args.tree_mask: bit t of row i says that node t is i or above it. Row i
 *                      of tree b is the words mask + b*stride_b + i*stride_q; both zero: packed, that is
 *                      ceil(num_nodes/32) words a row and num_nodes rows a tree. Rows that a tree of a ragged
 *                      batch does not use become 0. */
static inline fa_status fa_tree_links(const fa_trees *t, int32_t *first_child, int32_t *next_sibling,
                                      fa_error *error) {
    fai_verdict v = {fa_trees_check(t, 0, error), error};
    fai_want_array(&v, FA_ERR_TREE_OUTPUT, "first_child", first_child, 4);
    fai_want_array(&v, FA_ERR_TREE_OUTPUT, "next_sibling", next_sibling, 4);
    for (int32_t b = 0; v.status == FA_OK && b < t->batch; b++) {
        const int64_t at = fa_tree_begin(t, b);
        fai_tree_links(t->parent + at, fa_tree_count(t, b), first_child + at, next_sibling + at);
    }
    return v.status;
}

static inline fa_status fa_tree_positions(const fa_trees *t, const int32_t *start, int32_t *positions,
                                          fa_error *error) {
    fai_verdict v = {fa_trees_check(t, 0, error), error};
    if (start) fai_want_array(&v, FA_ERR_POSITIONS, "start", start, 4);
    fai_want_array(&v, FA_ERR_TREE_OUTPUT, "positions", positions, 4);
    for (int32_t b = 0; v.status == FA_OK && start && b < t->batch; b++)
        if (start[b] < 0 || start[b] > FA_MAX_SEQLEN)
            fai_refuse(&v, FA_ERR_POSITIONS, "start", b, start[b], 0, FA_MAX_SEQLEN);
    for (int32_t b = 0; v.status == FA_OK && b < t->batch; b++) {
        const int64_t at = fa_tree_begin(t, b);
        positions[at] = start ? start[b] : 0;
        for (int32_t i = 1; i < fa_tree_count(t, b); i++)
            positions[at + i] = positions[at + t->parent[at + i]] + 1;
    }
    return v.status;
}

static inline fa_status fa_tree_mask_bits(const fa_trees *t, uint32_t *mask, int64_t stride_b,
                                          int64_t stride_q, fa_error *error) {
    fai_verdict v = {fa_trees_check(t, 0, error), error};
    if (v.status != FA_OK) return v.status;
    const int64_t words = (t->num_nodes + 31) / 32;
    if (!stride_b && !stride_q) stride_q = words, stride_b = words * t->num_nodes;
    fai_want_array(&v, FA_ERR_TREE_OUTPUT, "mask", mask, 4);
    fai_want(&v, FA_ERR_TREE_MASK_STRIDE, "stride_q", (double)stride_q, (double)words, 0x1p40);
    if (t->batch > 1)
        fai_want(&v, FA_ERR_TREE_MASK_STRIDE, "stride_b", (double)stride_b, (double)words, 0x1p60 / t->batch);
    for (int32_t b = 0; v.status == FA_OK && b < t->batch; b++) {
        const int32_t *parent = t->parent + fa_tree_begin(t, b);
        for (int32_t i = 0; i < t->num_nodes; i++) {
            uint32_t *row = mask + b * stride_b + i * stride_q;
            if (i > 0 && i < fa_tree_count(t, b))
                memcpy(row, row - (i - parent[i]) * stride_q, (size_t)words * 4);
            else
                memset(row, 0, (size_t)words * 4);
            if (i < fa_tree_count(t, b)) row[i / 32] |= 1u << i % 32;
        }
    }
    return v.status;
}

/* The nodes from the root to each leaf of tree b, leaves in the order of their indices: paths (max_paths,
 * length), filled up with -1 [MD, retrieve_indices]. *num_paths and *longest (nodes of the longest path)
 * are written, if not NULL, even if paths is NULL or has no room for them. */
static inline fa_status fa_tree_paths(const fa_trees *t, int32_t b, int32_t *paths, int32_t max_paths,
                                      int32_t length, int32_t *num_paths, int32_t *longest, fa_error *error) {
    fai_verdict v = {fa_trees_check(t, 0, error), error};
    int32_t depth[FA_TREE_MAX_NODES], leaf[FA_TREE_MAX_NODES], count = 0, most = 0;
    if (v.status == FA_OK) fai_want(&v, FA_ERR_TREE_NODES, "b", b, 0, t->batch - 1);
    if (v.status != FA_OK) return v.status;
    const int32_t *parent = t->parent + fa_tree_begin(t, b), n = fa_tree_count(t, b);
    for (int32_t i = 0; i < n; i++) {
        depth[i] = i ? depth[parent[i]] + 1 : 0, leaf[i] = 1;
        if (i) leaf[parent[i]] = 0;
        most = depth[i] > most ? depth[i] : most;
    }
    for (int32_t i = 0; i < n; i++) count += leaf[i];
    if (num_paths) *num_paths = count;
    if (longest) *longest = most + 1;
    if (!paths) return FA_OK;
    fai_want(&v, FA_ERR_TREE_CAPACITY, "max_paths", max_paths, count, INT32_MAX);
    fai_want(&v, FA_ERR_TREE_CAPACITY, "length", length, most + 1, INT32_MAX);
    for (int32_t i = 0; v.status == FA_OK && i < n; i++) {
        if (!leaf[i]) continue;
        for (int32_t d = depth[i] + 1; d < length; d++) paths[d] = -1;
        for (int32_t at = i; at >= 0; at = parent[at]) paths[depth[at]] = at;
        paths += length;
    }
    return v.status;
}

/* ======================================================================================== */
/* >>chains   verification of gamma drafts in a row                                          */
/* ======================================================================================== */

/* Rules.  x is a draft token with weights p and q of target and draft at its place, u a fresh number in [0,
 * 1). Exact: whatever the drafts, the output has the law of the target alone.
 *
 *   FA_VERIFY_GREEDY       accept the target's largest entry; end with it.  Exact at temperature 0.
 *   FA_VERIFY_TARGET_ONLY  accept x with probability p(x): q is not needed.  Exact for drafts that are not
 *                          drawn (n-gram lookup, top-k children), and drafts of any law.  [SGLang's tree rule
 *                          with thresholds 1]
 *   FA_VERIFY_TOKEN        accept if u q < p; else end with a draw from max(p - q, 0).  Exact if x was drawn
 *                          from q. Chains.  [Leviathan et al. 2023, arXiv 2211.17192; Chen et al. 2023,
 *                          2302.01318]
 *   FA_VERIFY_BLOCK        chains: the tests of all positions are coupled, which accepts more.  Exact if each
 *                          x was drawn from q.  [Sun et al. 2024, arXiv 2403.10444]
 *   FA_VERIFY_WITH_REPLACEMENT     trees: siblings one after the other; for a rejected one, p becomes max(p -
 *                          q, 0), scaled to 1.  Exact if siblings were drawn independently from q.
 *                          [SpecInfer, arXiv 2305.09781]
 *   FA_VERIFY_WITHOUT_REPLACEMENT  trees: the same, and q loses the rejected token and is scaled to 1 again.
 *                          Exact if siblings were drawn from q without replacement, in the order of their
 *                          nodes. [Sequoia, arXiv 2402.12374; Yang et al. 2024, 2401.06706]
 *   FA_VERIFY_TYPICAL      accept x if p(x) > min(epsilon, delta exp(-H(p))); the longest path, of equals the
 *                          likeliest. Not exact: it changes the law on purpose.  [Medusa, arXiv 2401.10774]
 *
 * Behind the accepted drafts there is always one token more: from what is left of p if drafts were rejected,
 * else from p.  A token that q cannot have drawn (q(x) = 0) is rejected. */
#define FA_VERIFY_GREEDY 1
#define FA_VERIFY_TARGET_ONLY 2
#define FA_VERIFY_TOKEN 3
#define FA_VERIFY_BLOCK 4
#define FA_VERIFY_WITH_REPLACEMENT 5
#define FA_VERIFY_WITHOUT_REPLACEMENT 6
#define FA_VERIFY_TYPICAL 7

/* A batch of drafted token sequences. */
typedef struct fa_chains {
    int32_t batch;
    int32_t num_tokens;     /* of each chain (gamma), >= 0; with indptr or lengths: the most that one has */
    const int32_t *indptr;  /* (batch + 1): chain b is tokens indptr[b] .. indptr[b+1]-1; NULL: num_tokens */
    const int32_t *lengths; /* (batch): only the first tokens of each count; not with indptr */
    const int32_t *token;   /* (batch, num_tokens), with indptr (total) */
} fa_chains;

/* Verification of chains or of trees; what says "chains" or "trees" is read by fa_verify_chain or
 * fa_verify_tree alone. Zero-initialise it.  Token i of a chain (0 ..) is node i + 1, its place node 0: a
 * chain as a tree gives the same. */
typedef struct fa_verify_args {
    uint32_t first_canary;
    int32_t vocab; /* ids are 0 .. vocab-1 */
    int32_t rule;  /* FA_VERIFY_.. */

    fa_chains chains;
    fa_trees trees;

    /* target: one row for each node, the law of what follows it.  Chains: (batch, num_tokens + 1), with
     * indptr chain b begins at row indptr[b] + b.  draft: what drafts were drawn from, exactly.  Chains: a
     * row for each token.  Trees: for each node that has children, row draft_row[node].  GREEDY, TARGET_ONLY
     * and TYPICAL do without. */
    fa_rows target, draft;
    const int32_t *draft_row; /* trees (total nodes); not read for leaves; NULL: row n is of node n */
    int32_t num_draft_rows;   /* trees: rows that draft has, if draft_row is given */

    /* Of target rows, and of draft rows that are logits.  draft_sampling: of draft rows, should they differ;
     * without it, a draft of FA_PROBS or FA_WEIGHTS is taken as it is. */
    fa_sampling sampling;
    const fa_sampling *draft_sampling;
    fa_coins coins;        /* coins: laid out as target rows.  Node 0: the last draw; node n: its test */
    float typical_epsilon; /* 0 = 0.3; 0 .. 1 */
    float typical_delta;   /* 0 = 0.09; 0 .. 1 */

    int32_t max_out;   /* columns of tokens and accepted; 0 = num_tokens + 1, or trees.num_nodes */
    int32_t *tokens;   /* out (batch, max_out): accepted drafts, one token more, then -1 */
    int32_t *num_out;  /* out (batch): tokens, 1 ..; NULL: not written */
    int32_t *accepted; /* out (batch, max_out): node 0 and the accepted ones, as many as tokens, rising, then
                          -1: rows of the KV cache to keep, see fa_compact_args; NULL: not written */
    uint32_t *flags;   /* out (batch): FA_SPEC_ bits; NULL: not written */
    fa_error *error;   /* optional: filled in when the call fails */
    uint32_t last_canary;
} fa_verify_args;

/* ---- one request ---- */

/* A chain or a tree at work. */
typedef struct fai_request {
    const fa_verify_args *a;
    int64_t b, first;      /* first: of its target rows and coins */
    int64_t first_draft;   /* chains: of its draft rows */
    int32_t nodes, vocab;  /* nodes: root included */
    const int32_t *parent; /* NULL: a chain */
    const int32_t *token;  /* of node 1; node n has token[n - 1] */
    uint64_t *p, *q;       /* scratch rows; NULL if no node has two children that matter */
    uint64_t *room;        /* (2, FAI_SMALL): units of rows of target and draft */
    uint32_t flags;
    int32_t *out, *accepted, count; /* accepted may be NULL; count: drafts so far */
} fai_request;

FAI_HD static inline int32_t fai_token_of(const fai_request *r, int32_t node) { return r->token[node - 1]; }

/* The next child of a node behind `after` (the node itself for the first one), or -1. */
FAI_HD static inline int32_t fai_next_child(const fai_request *r, int32_t node, int32_t after) {
    if (!r->parent) return after == node && node + 1 < r->nodes ? node + 1 : -1;
    for (int32_t n = after + 1; n < r->nodes; n++)
        if (r->parent[n] == node) return n;
    return -1;
}

FAI_HD static inline uint64_t fai_request_coin(const fai_request *r, uint32_t purpose, int32_t node) {
    const fa_coins *coins = &r->a->coins;
    if (coins->coins) return coins->coins[r->first + (purpose == FA_COIN_ACCEPT ? node : 0)];
    return fai_coin_of(coins, r->b, purpose, node);
}

static inline fai_row fai_target_row(const fai_request *r, int32_t node) {
    return fai_row_open(&r->a->target, r->first + node, r->vocab, &r->a->sampling, r->b, r->room);
}

/* The row that the children of a node were drawn from. */
static inline fai_row fai_draft_row(const fai_request *r, int32_t node) {
    const fa_verify_args *a = r->a;
    const fa_sampling *sampling = a->draft_sampling            ? a->draft_sampling
                                  : a->draft.kind <= FA_LOGITS ? &a->sampling
                                                               : NULL;
    int64_t index = r->parent ? r->first + node : r->first_draft + node;
    if (r->parent && a->draft_row) index = a->draft_row[r->first + node];
    return fai_row_open(&a->draft, index, r->vocab, sampling, r->b, r->room + FAI_SMALL);
}

static inline void fai_request_accept(fai_request *r, int32_t node) {
    r->out[r->count++] = fai_token_of(r, node);
    if (r->accepted) r->accepted[r->count] = node;
}

static inline void fai_request_bad(fai_request *r, const fai_row *p, const fai_row *q) {
    if (p && p->bad) r->flags |= FA_SPEC_BAD_TARGET;
    if (q && q->bad) r->flags |= FA_SPEC_BAD_DRAFT;
}

/* The last token, of mass m, which is p or made from it. */
static inline void fai_request_end(fai_request *r, fai_mass *m, fai_row *p, uint32_t purpose, int32_t node) {
    r->out[r->count] = fai_draw(m, fai_request_coin(r, purpose, node), p, &r->flags);
}

/* The bonus token. */
static inline void fai_request_bonus(fai_request *r, fai_row *p, int32_t node) {
    fai_mass m = {p, NULL, 0, NULL, NULL, 0, r->vocab};
    fai_request_end(r, &m, p, FA_COIN_BONUS, node);
    fai_request_bad(r, p, NULL);
}

/* Accepts a child of `node` whose token is the largest entry: returns it, or -1 after the last token. */
static inline int32_t fai_step_greedy(fai_request *r, int32_t node) {
    const float zero = 0;
    const fa_sampling largest = {&zero, NULL, NULL, NULL};
    const int probs = r->a->target.kind == FA_PROBS; /* these are not judged */
    const fai_row p =
        fai_row_open(&r->a->target, r->first + node, r->vocab, probs ? NULL : &largest, 0, r->room);
    uint32_t bad;
    const int32_t best = p.only >= 0 ? p.only : fai_argmax(&p, &bad);
    fai_request_bad(r, &p, NULL);
    for (int32_t child = fai_next_child(r, node, node); child >= 0; child = fai_next_child(r, node, child))
        if (fai_token_of(r, child) == best) return child;
    r->out[r->count] = best;
    return -1;
}

/* One-hot drafts: a rejected child takes its token's weight out of p. */
static inline int32_t fai_step_target_only(fai_request *r, int32_t node) {
    int32_t rejected[FA_TREE_MAX_NODES];
    uint64_t total = FAI_ONE;
    fai_row p = fai_target_row(r, node);
    fai_mass m = {&p, NULL, 0, NULL, rejected, 0, r->vocab};
    int32_t child = fai_next_child(r, node, node);
    if (child < 0) return fai_request_bonus(r, &p, node), -1;
    for (; child >= 0; child = fai_next_child(r, node, child)) {
        const int32_t token = fai_token_of(r, child);
        const uint64_t weight = fai_skips(&m, token) ? 0 : fai_weight(&p, token);
        fai_row_judge(&p, token, token + 1);
        if (fai_mulhi(fai_request_coin(r, FA_COIN_ACCEPT, child), total) < weight) break;
        total = fai_residual(total, weight);
        if (!fai_skips(&m, token)) rejected[m.num_skip++] = token;
    }
    if (child < 0) fai_request_end(r, &m, &p, FA_COIN_RESAMPLE, node);
    fai_request_bad(r, &p, NULL);
    return child;
}

/* r->p = max(r->p - r->q, 0), and sums of both */
static inline void fai_rejected_chunk(fai_request *r, int32_t from, int32_t count, fai_sum total[2]) {
    fai_subtract(r->p + from, r->q + from, count);
    total[0] = fai_sum_add(total[0], fai_add_up(r->p + from, count));
    total[1] = fai_sum_add(total[1], fai_add_up(r->q + from, count));
}

/* r->p = max(p - q, 0) and r->q = q, after the first of several siblings was rejected. */
static inline void fai_rejected_first(fai_request *r, fai_row *p, fai_row *q, fai_sum total[2]) {
    memset(total, 0, 2 * sizeof *total);
    fai_row_judge(p, 0, r->vocab), fai_row_judge(q, 0, r->vocab);
    for (int32_t id = 0; id < r->vocab; id += FAI_SPEC_CHUNK) {
        const int32_t n = r->vocab - id < FAI_SPEC_CHUNK ? r->vocab - id : FAI_SPEC_CHUNK;
        fai_weights(p, id, n, r->p + id), fai_weights(q, id, n, r->q + id);
        fai_rejected_chunk(r, id, n, total);
    }
}

/* The same after another one: both rows are scaled to 1 before. */
static inline void fai_rejected_next(fai_request *r, fai_scale scale_p, fai_scale scale_q, int without,
                                     fai_sum total[2]) {
    memset(total, 0, 2 * sizeof *total);
    for (int32_t id = 0; id < r->vocab; id += FAI_SPEC_CHUNK) {
        const int32_t n = r->vocab - id < FAI_SPEC_CHUNK ? r->vocab - id : FAI_SPEC_CHUNK;
        if (without) fai_scale_all(scale_q, r->q + id, n);
        fai_scale_all(scale_p, r->p + id, n);
        fai_rejected_chunk(r, id, n, total);
    }
}

/* Children that were drawn from q, with or without replacement. */
static inline int32_t fai_step_drawn(fai_request *r, int32_t node, int without) {
    int32_t child = fai_next_child(r, node, node), next, rejections = 0;
    fai_row p = fai_target_row(r, node);
    if (child < 0) return fai_request_bonus(r, &p, node), -1;
    fai_row q = fai_draft_row(r, node);
    fai_mass m = {&p, &q, 0, NULL, NULL, 0, r->vocab};
    fai_scale scale_p = {0, 0, 0}, scale_q = {0, 0, 0};
    fai_sum total[2];
    for (;; child = next, rejections++) {
        const int32_t token = fai_token_of(r, child);
        const uint64_t coin = fai_request_coin(r, FA_COIN_ACCEPT, child);
        if (!rejections) {
            fai_row_judge(&p, token, token + 1), fai_row_judge(&q, token, token + 1);
            if (fai_accept(coin, fai_weight(&q, token), fai_weight(&p, token))) break;
        } else {
            scale_p = fai_scale_to_one(total[0]);
            if (without) scale_q = fai_scale_to_one(total[1]);
            if (fai_accept(coin, without ? fai_scaled(scale_q, r->q[token]) : r->q[token],
                           fai_scaled(scale_p, r->p[token])))
                break;
        }
        next = fai_next_child(r, node, child);
        if (!rejections && next < 0) { /* nobody needs the rows */
            child = -1;
            break;
        }
        if (!rejections)
            fai_rejected_first(r, &p, &q, total), m.weights = r->p;
        else
            fai_rejected_next(r, scale_p, scale_q, without, total);
        if (without) { /* total - q[token] */
            total[1].hi -= total[1].lo < r->q[token], total[1].lo -= r->q[token];
            r->q[token] = 0;
        }
        if (next < 0) {
            child = -1;
            break;
        }
    }
    if (child < 0) fai_request_end(r, &m, &p, FA_COIN_RESAMPLE, node);
    fai_request_bad(r, &p, &q);
    return child;
}

/* -p log2(p) of one weight, times 2^56: the entropy of a row is the sum, at most 2^61. */
FAI_HD static inline uint64_t fai_entropy(uint64_t w) {
    return w && w < FAI_ONE ? fai_mulhi(w << 11, (((uint64_t)52 << 31) - fai_log2(w)) << 26) : 0;
}

/* min(epsilon, delta exp(-H)) 2^52; weights above it are accepted. */
FAI_HD static inline uint64_t fai_typical_threshold(uint64_t entropy, float epsilon, float delta) {
    const uint64_t e = fai_mulhi(fai_exp2_neg(entropy >> 16) << 6, fai_fixed(fai_bits_of(delta), 0) << 6);
    const uint64_t most = fai_fixed(fai_bits_of(epsilon), 0);
    return e < most ? e : most;
}

/* All paths of which each node is likely enough; the longest, of equals the one with the largest product of
 * p. */
static inline void fai_run_typical(fai_request *r) {
    int32_t depth[FA_TREE_MAX_NODES], path[FA_TREE_MAX_NODES], best = 0; /* depth 0: not accepted */
    uint64_t score[FA_TREE_MAX_NODES]; /* log2 of the product, times 2^31, and 52 more for each node */
    const float epsilon = r->a->typical_epsilon > 0 ? r->a->typical_epsilon : 0.3f;
    const float delta = r->a->typical_delta > 0 ? r->a->typical_delta : 0.09f;
    memset(depth, 0, sizeof depth), memset(score, 0, sizeof score);
    depth[0] = 1;
    for (int32_t node = 0; node < r->nodes; node++) {
        int32_t child = depth[node] ? fai_next_child(r, node, node) : -1;
        if (depth[node] > depth[best] || (depth[node] == depth[best] && score[node] > score[best]))
            best = node;
        if (child < 0) continue;
        fai_row p = fai_target_row(r, node);
        fai_row_judge(&p, 0, r->vocab);
        uint64_t entropy = 0;
        for (int32_t id = 0; id < r->vocab; id += FAI_SPEC_CHUNK) {
            uint64_t w[FAI_SPEC_CHUNK];
            const int32_t n = r->vocab - id < FAI_SPEC_CHUNK ? r->vocab - id : FAI_SPEC_CHUNK;
            fai_weights(&p, id, n, w);
            for (int32_t i = 0; i < n; i++) entropy += fai_entropy(w[i]);
        }
        const uint64_t threshold = fai_typical_threshold(entropy, epsilon, delta);
        for (; child >= 0; child = fai_next_child(r, node, child)) {
            const uint64_t weight = fai_weight(&p, fai_token_of(r, child));
            if (weight > threshold)
                depth[child] = depth[node] + 1, score[child] = score[node] + fai_log2(weight);
        }
        fai_request_bad(r, &p, NULL);
    }
    for (int32_t node = best, n = depth[best] - 1; n > 0; n--)
        path[n] = node, node = r->parent ? r->parent[node] : node - 1;
    for (int32_t n = 1; n < depth[best]; n++) fai_request_accept(r, path[n]);
    fai_row p = fai_target_row(r, best);
    fai_request_bonus(r, &p, best);
}

/* a p / q, at most 1; a in units of 2^-63 */
FAI_HD static inline uint64_t fai_block_ratio(uint64_t a, uint64_t p, uint64_t q) {
    const uint64_t one = (uint64_t)1 << 63, hi = fai_mulhi(a, p);
    if (!q) return 0;
    if (hi >= q) return one;
    a = fai_div(hi, a * p, q);
    return a < one ? a : one;
}

/* Block verification: a_i = min(a_{i-1} p/q, 1), a_0 = 1; Z_i = sum max(a_i p - q, 0) at place i.  The last i
 * with u_i < h_i counts, where h_i = Z_i / (Z_i + 1 - a_i), at the end h = a, and 0 always; then a draw from
 * max(a_i p - q, 0).  Z is looked at from the end, so that most rows need not be read. */
static inline void fai_run_block(fai_request *r) {
    const uint64_t one = (uint64_t)1 << 63;
    enum { OPEN = 16 }; /* rows of so many places are not made ready twice */
    uint64_t a[FA_TREE_MAX_NODES];
    fai_row rows[OPEN][2];
    int32_t end = r->nodes - 1;
    a[0] = one;
    for (int32_t n = 0; n < end; n++) {
        const int32_t token = fai_token_of(r, n + 1);
        fai_row p = fai_target_row(r, n), q = fai_draft_row(r, n);
        if (n < OPEN) rows[n][0] = p, rows[n][1] = q, rows[n][0].units = rows[n][1].units = NULL;
        fai_row_judge(&p, token, token + 1), fai_row_judge(&q, token, token + 1);
        a[n + 1] = fai_block_ratio(a[n], fai_weight(&p, token), fai_weight(&q, token));
        fai_request_bad(r, &p, &q);
    }
    if (end == 0 || fai_mulhi(fai_request_coin(r, FA_COIN_ACCEPT, end), one) < a[end]) {
        fai_row p = fai_target_row(r, end);
        for (int32_t n = 1; n <= end; n++) fai_request_accept(r, n);
        fai_request_bonus(r, &p, end);
        return;
    }
    while (end--) {
        fai_row p = end < OPEN ? rows[end][0] : fai_target_row(r, end),
                q = end < OPEN ? rows[end][1] : fai_draft_row(r, end);
        fai_mass m = {&p, &q, a[end] < one ? a[end] : 0, NULL, NULL, 0, r->vocab};
        fai_sums s;
        if (end && !a[end]) continue; /* Z = 0 */
        fai_mass_sums(&m, &s);
        fai_request_bad(r, &p, &q);
        const uint64_t whole = s.total + FAI_ONE - (a[end] >> 11);
        if (end && whole && fai_mulhi(fai_request_coin(r, FA_COIN_ACCEPT, end), whole) >= s.total) continue;
        for (int32_t n = 1; n <= end; n++) fai_request_accept(r, n);
        r->out[r->count] = fai_draw_from(&m, &s, fai_request_coin(r, FA_COIN_RESAMPLE, end), &p, &r->flags);
        fai_request_bad(r, &p, NULL);
        return;
    }
}

/* ---- chains ---- */

/* A request with tokens -1 in its outputs. */
static inline void fai_run_request(fai_request *r, int32_t max_out) {
    const fa_verify_args *a = r->a;
    r->out = a->tokens + r->b * max_out, r->accepted = a->accepted ? a->accepted + r->b * max_out : NULL;
    for (int32_t n = 0; n < max_out; n++) r->out[n] = -1;
    for (int32_t n = 0; r->accepted && n < max_out; n++) r->accepted[n] = -1;
    r->count = 0, r->flags = 0;
    if (r->accepted) r->accepted[0] = 0;
    if (a->rule == FA_VERIFY_TYPICAL)
        fai_run_typical(r);
    else if (a->rule == FA_VERIFY_BLOCK)
        fai_run_block(r);
    else
        for (int32_t node = 0; node >= 0;) {
            if (a->rule == FA_VERIFY_GREEDY)
                node = fai_step_greedy(r, node);
            else if (a->rule == FA_VERIFY_TARGET_ONLY)
                node = fai_step_target_only(r, node);
            else
                node = fai_step_drawn(r, node, a->rule == FA_VERIFY_WITHOUT_REPLACEMENT);
            if (node >= 0) fai_request_accept(r, node);
        }
    if (a->num_out) a->num_out[r->b] = r->count + 1;
    if (a->flags) a->flags[r->b] = r->flags;
}

FAI_HD static inline int fai_rule_needs_draft(int32_t rule) {
    return rule == FA_VERIFY_TOKEN || rule == FA_VERIFY_BLOCK || rule == FA_VERIFY_WITH_REPLACEMENT ||
           rule == FA_VERIFY_WITHOUT_REPLACEMENT;
}

/* What chains and trees have in common; rows: of target; draft_rows: of draft; longest: tokens that may come
 * out. */
static inline void fai_check_verify(fai_spec_call *c, const fa_verify_args *a, int32_t batch, int64_t rows,
                                    int64_t draft_rows, int32_t longest) {
    static const char *const target[4] = {"target.data", "target.stride", "target.dtype", "target.kind"};
    static const char *const draft[4] = {"draft.data", "draft.stride", "draft.dtype", "draft.kind"};
    if (c->status == FA_OK) fai_check_spec_rows(c, FA_ERR_SPEC_TARGET, &a->target, a->vocab, rows, target);
    if (c->status == FA_OK) fai_check_sampling(c, &a->sampling, batch, a->target.kind <= FA_LOGITS);
    if (fai_rule_needs_draft(a->rule) && draft_rows && c->status == FA_OK) {
        fai_check_spec_rows(c, FA_ERR_SPEC_DRAFT, &a->draft, a->vocab, draft_rows, draft);
        if (a->draft_sampling && c->status == FA_OK)
            fai_check_sampling(c, a->draft_sampling, batch, a->draft.kind <= FA_LOGITS);
    }
    fai_check_coins(c, &a->coins);
    fai_spec_range(c, FA_ERR_SPEC_TYPICAL, "typical_epsilon", -1, a->typical_epsilon, 0, 1);
    fai_spec_range(c, FA_ERR_SPEC_TYPICAL, "typical_delta", -1, a->typical_delta, 0, 1);
    if (a->max_out) fai_spec_range(c, FA_ERR_SPEC_OUT, "max_out", -1, a->max_out, longest, INT32_MAX);
    fai_spec_pointer(c, FA_ERR_SPEC_OUT, "tokens", a->tokens, 4, 1);
    fai_spec_pointer(c, FA_ERR_SPEC_OUT, "num_out", a->num_out, 4, 0);
    fai_spec_pointer(c, FA_ERR_SPEC_OUT, "accepted", a->accepted, 4, 0);
    fai_spec_pointer(c, FA_ERR_SPEC_OUT, "flags", a->flags, 4, 0);
}

/* First draft of a chain among all, and their number. */
FAI_HD static inline int64_t fai_chain_first(const fa_chains *t, int64_t b) {
    return t->indptr ? t->indptr[b] : b * t->num_tokens;
}
FAI_HD static inline int32_t fai_chain_tokens(const fa_chains *t, int64_t b) {
    return t->indptr ? t->indptr[b + 1] - t->indptr[b] : t->lengths ? t->lengths[b] : t->num_tokens;
}

static inline void fai_check_chains(fai_spec_call *c, const fa_chains *t, int32_t vocab) {
    fai_spec_range(c, FA_ERR_BATCH, "chains.batch", -1, t->batch, 1, INT32_MAX);
    fai_spec_range(c, FA_ERR_SPEC_CHAIN, "chains.num_tokens", -1, t->num_tokens, 0, FA_TREE_MAX_NODES - 1);
    fai_spec_pointer(c, FA_ERR_SPEC_CHAIN, "chains.indptr", t->indptr, 4, 0);
    fai_spec_pointer(c, FA_ERR_SPEC_CHAIN, "chains.lengths", t->lengths, 4, 0);
    fai_spec_pointer(c, FA_ERR_SPEC_CHAIN, "chains.token", t->token, 4, t->num_tokens > 0);
    if (t->indptr && t->lengths) fai_spec_bad(c, FA_ERR_SPEC_CHAIN, "chains.lengths", -1, (double)NAN, 1, 0);
    if (c->device) return;
    if (t->indptr && c->status == FA_OK)
        fai_spec_range(c, FA_ERR_SPEC_CHAIN, "chains.indptr", 0, t->indptr[0], 0, INT32_MAX);
    for (int32_t b = 0; b < t->batch && c->status == FA_OK; b++) {
        const double last = t->indptr ? t->indptr[b] : 0;
        if (t->indptr)
            fai_spec_range(c, FA_ERR_SPEC_CHAIN, "chains.indptr", b + 1, t->indptr[b + 1], last,
                           last + t->num_tokens);
        if (t->lengths)
            fai_spec_range(c, FA_ERR_SPEC_CHAIN, "chains.lengths", b, t->lengths[b], 0, t->num_tokens);
        if (c->status != FA_OK) return;
        const int64_t first = fai_chain_first(t, b);
        for (int32_t n = 0; n < fai_chain_tokens(t, b); n++)
            fai_spec_range(c, FA_ERR_TREE_TOKEN, "chains.token", first + n, t->token[first + n], 0,
                           vocab - 1);
    }
}

/* Is the struct there, zeroed, with a vocabulary? */
static inline fai_spec_call fai_verify_begin(const fa_verify_args *a, int device) {
    fai_spec_call c = {FA_OK, NULL, device};
    if (!a) {
        c.status = FA_ERR_ARGS_NULL;
    } else if (a->first_canary || a->last_canary) {
        c.status = FA_ERR_NOT_ZEROED; /* error need not be a pointer */
    } else {
        c.error = a->error;
        fai_spec_range(&c, FA_ERR_SPEC_VOCAB, "vocab", -1, a->vocab, 1, INT32_MAX);
    }
    return c;
}

static inline fai_spec_call fai_check_verify_chain(const fa_verify_args *a, int device) {
    fai_spec_call c = fai_verify_begin(a, device);
    if (c.status != FA_OK) return c;
    const fa_chains *t = &a->chains;
    if (a->rule < FA_VERIFY_GREEDY || a->rule > FA_VERIFY_TYPICAL || a->rule == FA_VERIFY_WITH_REPLACEMENT ||
        a->rule == FA_VERIFY_WITHOUT_REPLACEMENT)
        fai_spec_bad(&c, FA_ERR_SPEC_RULE, "rule", -1, a->rule, 1, 0);
    fai_check_chains(&c, t, a->vocab);
    if (c.status == FA_OK) {
        const int64_t drafts = t->indptr && !device ? t->indptr[t->batch] : (int64_t)t->batch * t->num_tokens;
        fai_check_verify(&c, a, t->batch, drafts + t->batch, drafts, t->num_tokens + 1);
    }
    return c;
}

/* Verifies chains of drafts: which prefix of each is accepted, and the token behind it.  Rules: GREEDY,
 * TARGET_ONLY, TOKEN, BLOCK, TYPICAL.  Requests are independent: alone or in any batch, each gives the same.
 * All outputs are written whole. */
static inline fa_status fa_verify_chain(const fa_verify_args *a) {
    fai_spec_call c = fai_check_verify_chain(a, 0);
    if (c.status != FA_OK) return c.status;
    const fa_chains *t = &a->chains;
    uint64_t room[2 * FAI_SMALL];
    for (int64_t b = 0; b < t->batch; b++) {
        fai_request r;
        memset(&r, 0, sizeof r);
        r.a = a, r.b = b, r.room = room, r.vocab = a->vocab, r.nodes = fai_chain_tokens(t, b) + 1;
        r.first_draft = fai_chain_first(t, b), r.first = r.first_draft + b;
        r.token = r.nodes > 1 ? t->token + r.first_draft : NULL;
        fai_run_request(&r, a->max_out ? a->max_out : t->num_tokens + 1);
    }
    return fai_spec_end(&c);
}

/* ======================================================================================== */
/* >>verify   verification of trees                                                          */
/* ======================================================================================== */

/* Bytes that fa_verify_tree needs: two rows of 64-bit weights for the rules that draw siblings from q, 0 for
 * the others. */
static inline size_t fa_verify_tree_workspace(const fa_verify_args *a) {
    if (!a || a->vocab < 1) return 0;
    if (a->rule != FA_VERIFY_WITH_REPLACEMENT && a->rule != FA_VERIFY_WITHOUT_REPLACEMENT) return 0;
    return 2 * (size_t)a->vocab * sizeof(uint64_t) + sizeof(uint64_t);
}

static inline fai_spec_call fai_check_verify_tree(const fa_verify_args *a, int device) {
    fai_spec_call c = fai_verify_begin(a, device);
    int32_t deepest = 0;
    if (c.status != FA_OK) return c;
    const fa_trees *t = &a->trees;
    if (a->rule < FA_VERIFY_GREEDY || a->rule > FA_VERIFY_TYPICAL || a->rule == FA_VERIFY_TOKEN ||
        a->rule == FA_VERIFY_BLOCK)
        fai_spec_bad(&c, FA_ERR_SPEC_RULE, "rule", -1, a->rule, 1, 0);
    if (c.status == FA_OK) fai_check_trees(&c, t, a->vocab, &deepest);
    if (c.status == FA_OK) {
        const int64_t nodes = device ? (int64_t)t->batch * t->num_nodes : fa_tree_begin(t, t->batch);
        const int mapped = a->draft_row && fai_rule_needs_draft(a->rule);
        if (mapped) {
            fai_spec_pointer(&c, FA_ERR_SPEC_DRAFT_ROW, "draft_row", a->draft_row, 4, 1);
            fai_spec_range(&c, FA_ERR_SPEC_DRAFT_ROW, "num_draft_rows", -1, a->num_draft_rows, 0, INT32_MAX);
            for (int64_t b = 0; b < t->batch && !device; b++)
                for (int64_t first = fa_tree_begin(t, b), n = 1; n < fa_tree_count(t, b) && c.status == FA_OK;
                     n++) {
                    const int64_t parent = first + t->parent[first + n];
                    fai_spec_range(&c, FA_ERR_SPEC_DRAFT_ROW, "draft_row", parent, a->draft_row[parent], 0,
                                   a->num_draft_rows - 1);
                }
        }
        fai_check_verify(&c, a, t->batch, nodes, mapped ? a->num_draft_rows : nodes, deepest);
    }
    return c;
}

/* Verifies trees of drafts: which path from the root is accepted, and the token behind it.  Rules: GREEDY,
 * TARGET_ONLY, WITH_REPLACEMENT, WITHOUT_REPLACEMENT, TYPICAL.  Siblings are tried in the order of their
 * nodes.  Requests are independent: alone or in any batch, each gives the same.  All outputs are written
 * whole. */
static inline fa_status fa_verify_tree(const fa_verify_args *a, void *workspace, size_t bytes) {
    fai_spec_call c = fai_check_verify_tree(a, 0);
    if (c.status != FA_OK) return c.status;
    const fa_trees *t = &a->trees;
    const size_t needed = fa_verify_tree_workspace(a);
    if (needed) {
        if (!workspace) fai_spec_bad(&c, FA_ERR_WORKSPACE_NULL, "workspace", -1, 0, 1, 0);
        fai_spec_range(&c, FA_ERR_WORKSPACE_SIZE, "workspace", -1, (double)bytes, (double)needed, INFINITY);
    }
    if (c.status != FA_OK) return c.status;
    uint64_t room[2 * FAI_SMALL];
    for (int64_t b = 0; b < t->batch; b++) {
        fai_request r;
        memset(&r, 0, sizeof r);
        r.a = a, r.b = b, r.room = room, r.vocab = a->vocab, r.nodes = fa_tree_count(t, b),
        r.first = fa_tree_begin(t, b);
        r.parent = t->parent + r.first, r.token = t->token + r.first + 1;
        if (needed) r.p = (uint64_t *)(((uintptr_t)workspace + 7) & ~(uintptr_t)7), r.q = r.p + r.vocab;
        fai_run_request(&r, a->max_out ? a->max_out : t->num_nodes);
    }
    return fai_spec_end(&c);
}

/* ======================================================================================== */
/* >>builders trees from paths, expansions, merges, scores, n-grams; masks and positions     */
/* ======================================================================================== */

/* One tree that is built. Its nodes come out breadth first, so in topological order, but where it is said
 * otherwise. */
typedef struct fa_tree {
    int32_t capacity;  /* room in the arrays, root included: 1 .. FA_TREE_MAX_NODES */
    int32_t num_nodes; /* written */
    int32_t *parent;   /* (capacity) */
    int32_t *token;    /* (capacity); not touched by builders of shapes, which may leave it NULL */
    int32_t *rank;     /* (capacity): which of its parent's candidates a node is; 0: the first, and the root.
                          NULL: not wanted. A shape is a tree of ranks: fa_tree_fill turns them into tokens */
} fa_tree;

/* It, as a batch of one. */
static inline fa_trees fa_tree_view(const fa_tree *t) {
    const fa_trees view = {1, t->num_nodes, NULL, t->parent, t->token};
    return view;
}

static inline void fai_want_tree(fai_verdict *v, const fa_tree *t, int tokens) {
    if (!t) {
        if (v->status == FA_OK) v->status = FA_ERR_ARGS_NULL;
        return;
    }
    fai_want(v, FA_ERR_TREE_CAPACITY, "tree.capacity", t->capacity, 1, FA_TREE_MAX_NODES);
    fai_want_array(v, FA_ERR_TREE_OUTPUT, "tree.parent", t->parent, 4);
    if (tokens) fai_want_array(v, FA_ERR_TREE_OUTPUT, "tree.token", t->token, 4);
    if (t->rank) fai_want_array(v, FA_ERR_TREE_OUTPUT, "tree.rank", t->rank, 4);
}

static inline void fai_want_room(fai_verdict *v, const fa_tree *t, double nodes) {
    fai_want(v, FA_ERR_TREE_CAPACITY, "tree.capacity", t->capacity, nodes, FA_TREE_MAX_NODES);
}

/* A trie on the stack. Children of a node differ in key; they are in the order of insertion, or of their
 * keys. */
typedef struct fai_trie {
    int32_t count, sorted;
    int32_t parent[FA_TREE_MAX_NODES], key[FA_TREE_MAX_NODES], first[FA_TREE_MAX_NODES],
        next[FA_TREE_MAX_NODES];
} fai_trie;

static inline void fai_trie_begin(fai_trie *t, int32_t key, int sorted) {
    t->count = 1, t->sorted = sorted, t->parent[0] = t->first[0] = t->next[0] = -1, t->key[0] = key;
}

/* The child of node with that key, which is made if need be; -1 if there are limit nodes already. */
static inline int32_t fai_trie_child(fai_trie *t, int32_t node, int32_t key, int32_t limit) {
    int32_t *link = &t->first[node];
    while (*link >= 0 && t->key[*link] != key && !(t->sorted && t->key[*link] > key)) link = &t->next[*link];
    if (*link >= 0 && t->key[*link] == key) return *link;
    if (t->count == limit) return -1;
    const int32_t child = t->count++;
    t->parent[child] = node, t->key[child] = key, t->first[child] = -1, t->next[child] = *link;
    *link = child;
    return child;
}

/* Writes t breadth first; its keys are tokens, or else ranks. to (NULL: not wanted): where each node of t
 * went. */
static inline void fai_trie_emit(const fai_trie *t, fa_tree *tree, int tokens,
                                 int32_t to[FA_TREE_MAX_NODES]) {
    int32_t from[FA_TREE_MAX_NODES], count = 1;
    from[0] = 0, tree->parent[0] = -1;
    for (int32_t i = 0; i < count; i++) { /* from is the queue, too */
        int32_t rank = 0;
        if (to) to[from[i]] = i;
        if (tokens) tree->token[i] = t->key[from[i]];
        if (i == 0 && tree->rank) tree->rank[0] = 0;
        for (int32_t child = t->first[from[i]]; child >= 0; child = t->next[child], rank++) {
            tree->parent[count] = i;
            if (tree->rank) tree->rank[count] = tokens ? rank : t->key[child];
            from[count++] = child;
        }
    }
    tree->num_nodes = count;
}

/* ---- shapes ---- */

/* A shape from paths of ranks, (num_paths, length), filled up with -1: {0}, {0, 0}, {1} .. [MD,
 * medusa_choices]. Nodes above the end of a path are there whether a path of their own names them or not;
 * siblings are in the order of their ranks. */
static inline fa_status fa_tree_from_paths(const int32_t *paths, int32_t num_paths, int32_t length,
                                           fa_tree *tree, fa_error *error) {
    fai_verdict v = {FA_OK, error};
    fai_trie trie;
    fai_want_tree(&v, tree, 0);
    fai_want(&v, FA_ERR_TREE_SHAPE, "num_paths", num_paths, 0, INT32_MAX);
    fai_want(&v, FA_ERR_TREE_SHAPE, "length", length, 0, INT32_MAX);
    if (num_paths && length) fai_want_array(&v, FA_ERR_TREE_SHAPE, "paths", paths, 4);
    fai_trie_begin(&trie, 0, 1);
    for (int64_t i = 0; v.status == FA_OK && i < num_paths; i++) {
        int32_t node = 0;
        for (int64_t d = 0; v.status == FA_OK && d < length && paths[i * length + d] != -1; d++) {
            const int32_t rank = paths[i * length + d];
            if (rank < 0)
                fai_refuse(&v, FA_ERR_TREE_SHAPE, "paths", i * length + d, rank, -1, INT32_MAX);
            else
                node = fai_trie_child(&trie, node, rank, tree->capacity);
            if (node < 0) fai_want_room(&v, tree, tree->capacity + 1.0);
        }
    }
    if (v.status == FA_OK) fai_trie_emit(&trie, tree, 0, NULL);
    return v.status;
}

/* A shape in which every node of depth d has width[d] children: the expansion <k1, k2, ...> of [SI], depth
 * levels. */
static inline fa_status fa_tree_expand(const int32_t *width, int32_t depth, fa_tree *tree, fa_error *error) {
    fai_verdict v = {FA_OK, error};
    double total = 1, level = 1;
    int32_t begin = 0, end = 1;
    fai_want_tree(&v, tree, 0);
    fai_want(&v, FA_ERR_TREE_SHAPE, "depth", depth, 0, FA_TREE_MAX_NODES - 1);
    if (depth > 0) fai_want_array(&v, FA_ERR_TREE_SHAPE, "width", width, 4);
    for (int32_t d = 0; v.status == FA_OK && d < depth; d++) {
        if (width[d] < 1 || width[d] > FA_TREE_MAX_NODES)
            fai_refuse(&v, FA_ERR_TREE_SHAPE, "width", d, width[d], 1, FA_TREE_MAX_NODES);
        level *= width[d], total += level;
        fai_want_room(&v, tree, total);
    }
    if (v.status != FA_OK) return v.status;
    tree->parent[0] = -1;
    if (tree->rank) tree->rank[0] = 0;
    for (int32_t d = 0; d < depth; d++) {
        const int32_t next = end;
        for (int32_t i = begin; i < next; i++)
            for (int32_t k = 0; k < width[d]; k++, end++) {
                tree->parent[end] = i;
                if (tree->rank) tree->rank[end] = k;
            }
        begin = next;
    }
    tree->num_nodes = end;
    return FA_OK;
}

/* Tokens for a shape: the node of depth d and rank r gets candidate[(d - 1)*stride + r], as Medusa's heads
 * give them, one row of candidates a level; the root gets token. Shapes stay as they are, so one serves
 * all requests. tokens (num_nodes). */
static inline fa_status fa_tree_fill(const fa_tree *shape, int32_t token, const int32_t *candidate,
                                     int32_t levels, int32_t stride, int32_t *tokens, fa_error *error) {
    fai_verdict v = {FA_OK, error};
    int32_t depth[FA_TREE_MAX_NODES];
    fai_want_tree(&v, shape, 0);
    if (v.status != FA_OK) return v.status;
    const fa_trees view = fa_tree_view(shape);
    v.status = fa_trees_check(&view, 0, error);
    fai_want_array(&v, FA_ERR_TREE_RANK, "rank", shape->rank, 4);
    fai_want_array(&v, FA_ERR_TREE_OUTPUT, "tokens", tokens, 4);
    fai_want(&v, FA_ERR_TREE_RANK, "stride", stride, 1, INT32_MAX);
    if (shape->num_nodes > 1) fai_want_array(&v, FA_ERR_TREE_RANK, "candidate", candidate, 4);
    for (int32_t i = depth[0] = 0; v.status == FA_OK && i < shape->num_nodes; i++) {
        if (i) depth[i] = depth[shape->parent[i]] + 1;
        if (depth[i] > levels)
            fai_refuse(&v, FA_ERR_TREE_RANK, "levels", -1, levels, depth[i], INT32_MAX);
        else if (i && (shape->rank[i] < 0 || shape->rank[i] >= stride))
            fai_refuse(&v, FA_ERR_TREE_RANK, "rank", i, shape->rank[i], 0, stride - 1);
    }
    for (int32_t i = 0; v.status == FA_OK && i < shape->num_nodes; i++)
        tokens[i] = i ? candidate[(int64_t)(depth[i] - 1) * stride + shape->rank[i]] : token;
    return v.status;
}

typedef struct fai_branch { /* a node that could be added */
    double value;
    int32_t parent, depth, rank, order;
} fai_branch;

static inline int fai_branch_before(const fai_branch *x, const fai_branch *y) {
    return x->value != y->value ? x->value > y->value : x->order < y->order;
}

/* What rank r of a head adds to its accuracy; accuracy (ranks): that of its best 1, 2 .. guesses together. */
static inline double fai_increment(const double *accuracy, int32_t r) {
    const double more = accuracy[r] - (r ? accuracy[r - 1] : 0);
    return more > 0 ? more : 0;
}

/* The rank with the largest increment but for those up to r, and r itself, in that order; -1 for r: the
 * first of all. */
static inline int32_t fai_next_rank(const double *accuracy, int32_t ranks, int32_t r) {
    int32_t best = -1;
    for (int32_t i = 0; i < ranks; i++) {
        const double x = fai_increment(accuracy, i), last = r < 0 ? 2 : fai_increment(accuracy, r);
        if ((x < last || (x == last && i > r)) && (best < 0 || x > fai_increment(accuracy, best))) best = i;
    }
    return best;
}

/* The shape of tree->capacity nodes with the greatest expected length, when the head of depth d is right
 * with its first r+1 guesses in accuracy[(d-1)*ranks + r] of all cases, whatever the other heads do [MD,
 * 2.3.3]: nodes in descending order of value, the product of increments along their path, ties by which
 * could have been added first. Any first m of them are the best shape of m nodes. *value (optional):
 * tokens a step, the root's one included. Fewer nodes if heads and ranks have no more. */
static inline fa_status fa_tree_greedy(const double *accuracy, int32_t heads, int32_t ranks, fa_tree *tree,
                                       double *value, fa_error *error) {
    fai_verdict v = {FA_OK, error};
    fai_branch heap[FA_TREE_MAX_NODES +
                    1]; /* each node that is taken offers two: its first child and its next sibling */
    int32_t size = 0, order = 0;
    double product[FA_TREE_MAX_NODES], sum = 1;
    fai_want_tree(&v, tree, 0);
    fai_want(&v, FA_ERR_TREE_SHAPE, "heads", heads, 1, FA_TREE_MAX_NODES);
    fai_want(&v, FA_ERR_TREE_SHAPE, "ranks", ranks, 1, FA_TREE_MAX_NODES);
    fai_want_array(&v, FA_ERR_TREE_SHAPE, "accuracy", accuracy, sizeof *accuracy);
    for (int64_t i = 0; v.status == FA_OK && i < (int64_t)heads * ranks; i++)
        if (!(accuracy[i] >= 0 && accuracy[i] <= 1))
            fai_refuse(&v, FA_ERR_PROBABILITY, "accuracy", i, accuracy[i], 0, 1);
    if (v.status != FA_OK) return v.status;
    tree->parent[0] = -1, tree->num_nodes = 1, product[0] = 1;
    if (tree->rank) tree->rank[0] = 0;
    fai_branch offer[2] = {{0, 0, 0, -1, 0}, {0, -1, 0, -1, 0}};
    while (tree->num_nodes < tree->capacity) {
        for (int side = 0; side < 2; side++) { /* rank: the last one that is in the tree already */
            fai_branch x = offer[side];
            const double *row = accuracy + (int64_t)x.depth * ranks;
            if (x.parent < 0 || x.depth >= heads || (x.rank = fai_next_rank(row, ranks, x.rank)) < 0)
                continue;
            x.value = product[x.parent] * fai_increment(row, x.rank), x.order = order++;
            int32_t at = size++;
            for (; at > 0 && fai_branch_before(&x, &heap[(at - 1) / 2]); at = (at - 1) / 2)
                heap[at] = heap[(at - 1) / 2];
            heap[at] = x;
        }
        if (size == 0) break;
        const fai_branch best = heap[0], last = heap[--size];
        int32_t at = 0;
        for (int32_t child; (child = 2 * at + 1) < size; at = child) {
            if (child + 1 < size && fai_branch_before(&heap[child + 1], &heap[child])) child++;
            if (fai_branch_before(&last, &heap[child])) break;
            heap[at] = heap[child];
        }
        heap[at] = last;
        const int32_t node = tree->num_nodes++;
        const fai_branch child = {0, node, best.depth + 1, -1, 0};
        tree->parent[node] = best.parent, product[node] = best.value, sum += best.value;
        if (tree->rank) tree->rank[node] = best.rank;
        offer[0] = child, offer[1] = best;
    }
    if (value) *value = sum;
    return FA_OK;
}

/* ---- several drafts ---- */

/* The merged tree of several drafts' trees (or chains), one a batch entry, 1 .. 64 [SI, tree merge]: each
 * sequence that one of them has, once. Siblings are in the order in which the drafts name them. Roots must
 * have the same token. source (capacity), optional: bit d is set if draft d proposed the node. node
 * (total), optional: where each node of the drafts went. */
static inline fa_status fa_tree_merge(const fa_trees *drafts, fa_tree *tree, uint64_t *source, int32_t *node,
                                      fa_error *error) {
    fai_verdict v = {fa_trees_check(drafts, INT32_MAX, error), error};
    fai_trie trie;
    int32_t to[FA_TREE_MAX_NODES], in_trie[FA_TREE_MAX_NODES];
    uint64_t bits[FA_TREE_MAX_NODES];
    fai_want_tree(&v, tree, 1);
    if (v.status == FA_OK) fai_want(&v, FA_ERR_TREE_MERGE, "batch", drafts->batch, 1, 64);
    if (source) fai_want_array(&v, FA_ERR_TREE_OUTPUT, "source", source, 8);
    if (node) fai_want_array(&v, FA_ERR_TREE_OUTPUT, "node", node, 4);
    if (v.status != FA_OK) return v.status;
    fai_trie_begin(&trie, drafts->token[fa_tree_begin(drafts, 0)], 0);
    for (int pass = 0; pass < 2; pass++) { /* the first one finds out whether there is room */
        for (int32_t d = 0; d < drafts->batch; d++) {
            const int64_t at = fa_tree_begin(drafts, d);
            const int32_t *parent = drafts->parent + at, *token = drafts->token + at;
            if (token[0] != trie.key[0])
                fai_refuse(&v, FA_ERR_TREE_MERGE, "token", at, token[0], trie.key[0], trie.key[0]);
            in_trie[0] = 0;
            for (int32_t i = 0; v.status == FA_OK && i < fa_tree_count(drafts, d); i++) {
                const int32_t had = trie.count;
                if (i) in_trie[i] = fai_trie_child(&trie, in_trie[parent[i]], token[i], tree->capacity);
                if (in_trie[i] < 0) {
                    fai_want_room(&v, tree, tree->capacity + 1.0);
                    break;
                }
                if (trie.count > had || (!pass && !d && !i)) bits[in_trie[i]] = 0;
                bits[in_trie[i]] |= (uint64_t)1 << d;
                if (pass && node) node[at + i] = to[in_trie[i]];
            }
        }
        if (v.status != FA_OK) return v.status;
        if (!pass) fai_trie_emit(&trie, tree, 1, to);
    }
    for (int32_t i = 0; source && i < trie.count; i++) source[to[i]] = bits[i];
    return FA_OK;
}

/* ---- dynamic trees ---- */

/* Candidates of a tree that grows with the draft's confidence [EA2]: level by level, children of the best
 * `beam` nodes of the last level; in the end the best of all of them are the tree.
 *     fa_dynamic_begin(&d, token)
 *     for each level: fa_dynamic_beam(&d, width, beam, &n)   first the root; the draft runs on these ..
 *                     fa_dynamic_grow(&d, beam, n, tokens, logprob, k)    .. and has these k tokens each
 *     fa_dynamic_finish(&d, nodes, &tree, candidate)
 * Scores are float sums of log-probabilities, at most that of the parent, in this order: the same on every
 * machine. */
typedef struct fa_dynamic {
    int32_t capacity; /* 1 + k + (levels - 1) * width * k, for k candidates a node and beams of width nodes */
    int32_t count;    /* candidates so far, the root included */
    int32_t level;    /* the first of the last level */
    int32_t *parent;  /* (capacity), as is each of these */
    int32_t *token;
    float *score; /* logarithm of the probability of the path, as the draft sees it; -inf: never a node */
} fa_dynamic;

static inline void fai_want_dynamic(fai_verdict *v, const fa_dynamic *d) {
    if (!d) {
        if (v->status == FA_OK) v->status = FA_ERR_ARGS_NULL;
        return;
    }
    fai_want(v, FA_ERR_DYNAMIC, "capacity", d->capacity, 1, FA_MAX_SEQLEN);
    fai_want_array(v, FA_ERR_DYNAMIC, "parent", d->parent, 4);
    fai_want_array(v, FA_ERR_DYNAMIC, "token", d->token, 4);
    fai_want_array(v, FA_ERR_DYNAMIC, "score", d->score, 4);
}
static inline void fai_want_dynamic_begun(fai_verdict *v, const fa_dynamic *d) {
    fai_want_dynamic(v, d);
    if (v->status == FA_OK) fai_want(v, FA_ERR_DYNAMIC, "count", d->count, 1, d->capacity);
    if (v->status == FA_OK) fai_want(v, FA_ERR_DYNAMIC, "level", d->level, 0, d->count - 1);
}

static inline fa_status fa_dynamic_begin(fa_dynamic *d, int32_t token, fa_error *error) {
    fai_verdict v = {FA_OK, error};
    fai_want_dynamic(&v, d);
    if (v.status != FA_OK) return v.status;
    d->count = 1, d->level = 0, d->parent[0] = -1, d->token[0] = token, d->score[0] = 0;
    return FA_OK;
}

/* A number that is larger for a better candidate: by score, then the one with the lower index. */
FAI_HD static inline uint64_t fai_score_key(float score, int32_t index) {
    const uint32_t bits = fai_bits_of(score + 0.0f); /* no -0 */
    return (uint64_t)(bits >> 31 ? ~bits : bits | 0x80000000u) << 32 | ~(uint32_t)index;
}

FAI_HD static inline float fai_key_score(uint64_t key) {
    const uint32_t order = (uint32_t)(key >> 32);
    return fai_float_of(order >> 31 ? order ^ 0x80000000u : ~order);
}

/* heap[at], and what is below it in a heap of n with the least on top */
FAI_HD static inline void fai_sift(uint64_t *heap, int32_t n, int32_t at) {
    const uint64_t x = heap[at];
    for (int32_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= x) break;
        heap[at] = heap[child];
    }
    heap[at] = x;
}
/* The k largest of the keys that are offered; n of them so far. */
FAI_HD static inline void fai_offer(uint64_t *heap, int32_t *n, int32_t k, uint64_t key) {
    if (*n < k) {
        heap[(*n)++] = key;
        if (*n == k)
            for (int32_t at = k / 2; at-- > 0;) fai_sift(heap, k, at);
    } else if (k > 0 && key > heap[0]) {
        heap[0] = key, fai_sift(heap, k, 0);
    }
}
/* In descending order. */
FAI_HD static inline void fai_sort(uint64_t *key, int32_t n) {
    for (int32_t at = n / 2; at-- > 0;) fai_sift(key, n, at);
    for (int32_t end = n - 1; end > 0; end--) {
        const uint64_t least = key[0];
        key[0] = key[end], key[end] = least;
        fai_sift(key, end, 0);
    }
}

/* The best `width` candidates of the last level, best first, ties by index: beam (width). *num: how many
 * there are. */
static inline fa_status fa_dynamic_beam(const fa_dynamic *d, int32_t width, int32_t *beam, int32_t *num,
                                        fa_error *error) {
    fai_verdict v = {FA_OK, error};
    uint64_t heap[FA_TREE_MAX_NODES];
    int32_t n = 0;
    fai_want_dynamic_begun(&v, d);
    fai_want(&v, FA_ERR_DYNAMIC, "width", width, 1, FA_TREE_MAX_NODES);
    fai_want_array(&v, FA_ERR_TREE_OUTPUT, "beam", beam, 4);
    fai_want_array(&v, FA_ERR_TREE_OUTPUT, "num", num, 4);
    if (v.status != FA_OK) return v.status;
    for (int32_t i = d->level; i < d->count; i++)
        if (d->score[i] > -INFINITY) fai_offer(heap, &n, width, fai_score_key(d->score[i], i));
    fai_sort(heap, n);
    for (int32_t i = 0; i < n; i++) beam[i] = (int32_t) ~(uint32_t)heap[i];
    *num = n;
    return FA_OK;
}

/* Children of these nodes of the last level, k each: tokens and logprob (num, k), natural logarithms of
 * the draft's probabilities; what is above 0 counts as 0, NaN as -inf. */
static inline fa_status fa_dynamic_grow(fa_dynamic *d, const int32_t *beam, int32_t num,
                                        const int32_t *tokens, const float *logprob, int32_t k,
                                        fa_error *error) {
    fai_verdict v = {FA_OK, error};
    fai_want_dynamic_begun(&v, d);
    fai_want(&v, FA_ERR_DYNAMIC, "num", num, 1, FA_TREE_MAX_NODES);
    fai_want(&v, FA_ERR_DYNAMIC, "k", k, 1, FA_MAX_SEQLEN);
    fai_want_array(&v, FA_ERR_DYNAMIC, "beam", beam, 4);
    fai_want_array(&v, FA_ERR_DYNAMIC, "tokens", tokens, 4);
    fai_want_array(&v, FA_ERR_DYNAMIC, "logprob", logprob, 4);
    if (v.status == FA_OK)
        fai_want(&v, FA_ERR_DYNAMIC, "capacity", d->capacity, d->count + (double)num * k, FA_MAX_SEQLEN);
    for (int32_t i = 0; v.status == FA_OK && i < num; i++)
        if (beam[i] < d->level || beam[i] >= d->count)
            fai_refuse(&v, FA_ERR_DYNAMIC, "beam", i, beam[i], d->level, d->count - 1);
    if (v.status != FA_OK) return v.status;
    d->level = d->count;
    for (int32_t i = 0; i < num; i++)
        for (int32_t r = 0; r < k; r++, d->count++) {
            const float x = logprob[(int64_t)i * k + r];
            d->parent[d->count] = beam[i], d->token[d->count] = tokens[(int64_t)i * k + r];
            d->score[d->count] = d->score[beam[i]] + (x <= 0 ? x : x > 0 ? 0 : -INFINITY);
        }
    return FA_OK;
}

/* The tree: the root and the best nodes-1 candidates of all levels, ties by index, in the order of their
 * indices. As no child scores higher than its parent, or comes before it, parents are there and come
 * first. candidate (nodes), optional: which candidate each node is, for the draft's rows and its cache.
 * rank (tree.rank): among its siblings in the tree. Fewer nodes if there are no more candidates above
 * -inf. */
static inline fa_status fa_dynamic_finish(const fa_dynamic *d, int32_t nodes, fa_tree *tree,
                                          int32_t *candidate, fa_error *error) {
    fai_verdict v = {FA_OK, error};
    uint64_t heap[FA_TREE_MAX_NODES];
    int32_t n = 0, chosen[FA_TREE_MAX_NODES], children[FA_TREE_MAX_NODES];
    fai_want_dynamic_begun(&v, d);
    fai_want_tree(&v, tree, 1);
    if (candidate) fai_want_array(&v, FA_ERR_TREE_OUTPUT, "candidate", candidate, 4);
    if (v.status == FA_OK) fai_want(&v, FA_ERR_TREE_CAPACITY, "nodes", nodes, 1, tree->capacity);
    if (v.status != FA_OK) return v.status;
    for (int32_t i = 1; i < d->count; i++)
        if (d->score[i] > -INFINITY) fai_offer(heap, &n, nodes - 1, fai_score_key(d->score[i], i));
    for (int32_t i = 0; i < n; i++) heap[i] &= 0xffffffffu; /* ~index: descending is ascending */
    fai_sort(heap, n);
    chosen[0] = children[0] = 0;
    for (int32_t i = 1; i <= n; i++) chosen[i] = (int32_t) ~(uint32_t)heap[i - 1], children[i] = 0;
    for (int32_t i = 0; i <= n; i++) {
        const int32_t above = d->parent[chosen[i]];
        int32_t lo = 0;
        for (int32_t hi = i; above >= 0 && lo < hi;) { /* the node that is candidate `above` */
            const int32_t mid = (lo + hi) / 2;
            if (chosen[mid] < above)
                lo = mid + 1;
            else
                hi = mid;
        }
        tree->parent[i] = above < 0 ? -1 : lo, tree->token[i] = d->token[chosen[i]];
        if (tree->rank) tree->rank[i] = above < 0 ? 0 : children[lo]++;
        if (candidate) candidate[i] = chosen[i];
    }
    tree->num_nodes = n + 1;
    return FA_OK;
}

/* ---- Sequoia ---- */

/* Best trees by dynamic programming [SQ]. acceptance[r] (ranks): chance that the child of rank r is
 * accepted, and none before it, at any node that is; so the value of a tree, tokens a step with the root's
 * one, is the sum over nodes of the product of acceptance along their path. A node's children have the
 * ranks 0, 1 .. without a gap.
 *     T[d][n] = max over b: G[d][b][n]
 *     G[d][b][n] = max over m: G[d][b-1][n-m] + acceptance[b-1] T[d-1][m] */
typedef struct fa_sequoia_args {
    uint32_t first_canary;
    const double *acceptance; /* (ranks): 0 .. 1 */
    int32_t ranks;
    int32_t max_nodes;  /* root included, 1 .. FA_TREE_MAX_NODES */
    int32_t max_depth;  /* edges from the root to a leaf = steps of the draft; 1 .. FA_TREE_MAX_NODES - 1 */
    int32_t max_branch; /* children of a node; 0 = ranks */
    fa_error *error;
    uint32_t last_canary;
} fa_sequoia_args;

/* The workspace: tables that fa_sequoia fills. */
typedef struct fai_sequoia {
    int64_t row;      /* max_nodes + 1 */
    int32_t branches; /* most children of a node */
    double *value;    /* (max_depth + 1, row): T, 0 where there is no such tree */
    double *partial;  /* (2, row): G of b - 1 and of b children */
    int16_t *branch;  /* (max_depth + 1, row): children of the root of that tree */
    int16_t *last;    /* (max_depth + 1, branches, row): nodes below its last child */
    size_t bytes;
} fai_sequoia;

static inline fai_sequoia fai_sequoia_layout(const fa_sequoia_args *a, void *workspace) {
    fai_sequoia s;
    s.row = a->max_nodes + 1;
    s.branches = a->max_branch && a->max_branch < a->ranks ? a->max_branch : a->ranks;
    if (s.branches > a->max_nodes) s.branches = a->max_nodes;
    const int64_t tables = (a->max_depth + 1) * s.row;
    s.value = s.partial = NULL, s.branch = s.last = NULL;
    if (workspace) {
        s.value = (double *)workspace, s.partial = s.value + tables;
        s.branch = (int16_t *)(void *)(s.partial + 2 * s.row), s.last = s.branch + tables;
    }
    s.bytes = (size_t)(tables + 2 * s.row) * 8 + (size_t)(tables * (1 + s.branches)) * 2;
    return s;
}

static inline fa_status fai_sequoia_check(const fa_sequoia_args *a) {
    fai_verdict v = {FA_OK, a ? a->error : NULL};
    if (!a) return FA_ERR_ARGS_NULL;
    if (a->first_canary || a->last_canary) return FA_ERR_NOT_ZEROED;
    fai_want(&v, FA_ERR_TREE_SHAPE, "max_nodes", a->max_nodes, 1, FA_TREE_MAX_NODES);
    fai_want(&v, FA_ERR_TREE_SHAPE, "max_depth", a->max_depth, 1, FA_TREE_MAX_NODES - 1);
    fai_want(&v, FA_ERR_TREE_SHAPE, "max_branch", a->max_branch, 0, INT32_MAX);
    fai_want(&v, FA_ERR_TREE_SHAPE, "ranks", a->ranks, 1, INT32_MAX);
    fai_want_array(&v, FA_ERR_TREE_SHAPE, "acceptance", a->acceptance, sizeof *a->acceptance);
    for (int32_t r = 0; v.status == FA_OK && r < a->ranks; r++)
        if (!(a->acceptance[r] >= 0 && a->acceptance[r] <= 1))
            fai_refuse(&v, FA_ERR_PROBABILITY, "acceptance", r, a->acceptance[r], 0, 1);
    return v.status;
}

/* Bytes that fa_sequoia needs, aligned to 8; 0 if args is not valid. */
static inline size_t fa_sequoia_workspace(const fa_sequoia_args *args) {
    return fai_sequoia_check(args) == FA_OK ? fai_sequoia_layout(args, NULL).bytes : 0;
}

static inline fa_status fai_sequoia_memory(const fa_sequoia_args *a, const void *workspace, size_t bytes) {
    fai_verdict v = {fai_sequoia_check(a), a ? a->error : NULL};
    if (v.status != FA_OK) return v.status;
    fai_want_array(&v, FA_ERR_WORKSPACE_NULL, "workspace", workspace, 8);
    fai_want(&v, FA_ERR_WORKSPACE_SIZE, "bytes", (double)bytes, (double)fai_sequoia_layout(a, NULL).bytes,
             0x1p62);
    return v.status;
}

/* Trees of one depth more than those of `below`, T[d-1]. */
static inline void fai_sequoia_level(const fa_sequoia_args *a, const fai_sequoia *s, int32_t d) {
    double *best = s->value + d * s->row, *g = s->partial, *more = s->partial + s->row;
    const double *below = best - s->row;
    int16_t *branch = s->branch + d * s->row;
    for (int32_t n = 0; n < s->row; n++) best[n] = g[n] = n == 1, branch[n] = 0;
    for (int32_t b = 1; b <= s->branches; b++) {
        int16_t *last = s->last + (d * s->branches + b - 1) * s->row;
        const double p = a->acceptance[b - 1];
        for (int32_t n = 0; n < s->row; n++) {
            more[n] = 0, last[n] = 0;
            for (int32_t m = 1; m < n; m++) {
                const double x = g[n - m] + p * below[m];
                if (g[n - m] > 0 && below[m] > 0 && x > more[n]) more[n] = x, last[n] = (int16_t)m;
            }
            if (more[n] > best[n]) best[n] = more[n], branch[n] = (int16_t)b;
        }
        double *swap = g;
        g = more, more = swap;
    }
}

/* Fills workspace: O(max_depth * branches * max_nodes^2) steps. */
static inline fa_status fa_sequoia(const fa_sequoia_args *args, void *workspace, size_t bytes) {
    const fa_status status = fai_sequoia_memory(args, workspace, bytes);
    if (status != FA_OK) return status;
    const fai_sequoia s = fai_sequoia_layout(args, workspace);
    for (int32_t n = 0; n < s.row; n++) s.value[n] = n == 1, s.branch[n] = 0;
    for (int32_t d = 1; d <= args->max_depth; d++) fai_sequoia_level(args, &s, d);
    return FA_OK;
}

/* Tokens a step of the best tree of exactly `nodes` nodes and at most that depth; 0 if there is none, or
 * fa_sequoia has not filled workspace for these args. */
static inline double fa_sequoia_value(const fa_sequoia_args *args, const void *workspace, int32_t nodes,
                                      int32_t depth) {
    if (!args || !workspace || nodes < 1 || nodes > args->max_nodes || depth < 0 || depth > args->max_depth)
        return 0;
    return ((const double *)workspace)[(int64_t)depth * (args->max_nodes + 1) + nodes];
}

/* That tree, a shape, from the workspace that fa_sequoia filled for the same args. Fewer nodes where depth
 * and branches do not allow as many. */
static inline fa_status fa_sequoia_tree(const fa_sequoia_args *args, const void *workspace, size_t bytes,
                                        int32_t nodes, int32_t depth, fa_tree *tree) {
    fai_verdict v = {fai_sequoia_memory(args, workspace, bytes), args ? args->error : NULL};
    int32_t size[FA_TREE_MAX_NODES], left[FA_TREE_MAX_NODES], end = 1; /* nodes and depth from here down */
    fai_want_tree(&v, tree, 0);
    if (v.status != FA_OK) return v.status;
    fai_want(&v, FA_ERR_TREE_SHAPE, "nodes", nodes, 1, args->max_nodes);
    fai_want(&v, FA_ERR_TREE_SHAPE, "depth", depth, 0, args->max_depth);
    fai_want_room(&v, tree, nodes);
    if (v.status != FA_OK) return v.status;
    const fai_sequoia s = fai_sequoia_layout(args, (void *)(uintptr_t)workspace);
    while (s.value[depth * s.row + nodes] <= 0) nodes--;
    size[0] = nodes, left[0] = depth, tree->parent[0] = -1;
    if (tree->rank) tree->rank[0] = 0;
    for (int32_t i = 0; i < end; i++) {
        const int32_t begin = end, branches = s.branch[left[i] * s.row + size[i]];
        int32_t rest = size[i];
        for (int32_t b = branches; b > 0; b--) { /* the last child first */
            const int32_t child = begin + b - 1, m = s.last[(left[i] * s.branches + b - 1) * s.row + rest];
            tree->parent[child] = i, size[child] = m, left[child] = left[i] - 1, rest -= m;
            if (tree->rank) tree->rank[child] = b - 1;
        }
        end = begin + branches;
    }
    tree->num_nodes = end;
    return FA_OK;
}

/* ---- n-grams ---- */

/* Drafts copied from the text: what followed earlier places that end like the text does (prompt lookup
 * [PLD]). Longer matches first, then later ones. A draft that reaches the end of the text goes on as if it
 * had been appended, so what repeats is repeated. */
typedef struct fa_ngram_args {
    uint32_t first_canary;
    const int32_t *tokens; /* (num_tokens): the text; its last token becomes the root */
    int32_t num_tokens;
    int32_t min_match; /* tokens that an earlier place must share with the end of the text, at least; 0 = 1 */
    int32_t max_match; /* tokens that are compared, at most; 0 = 8 */
    int32_t max_depth; /* tokens of a draft; >= 1 */
    int32_t max_matches; /* drafts, 1 .. 64; 0 = 1: a chain.  Where they differ the tree branches */
    fa_error *error;
    uint32_t last_canary;
} fa_ngram_args;

/* tree gets at most its capacity of nodes: the rest of the drafts is dropped. *longest (optional): tokens
 * of the longest match, 0 if there is none; then the tree is its root. O(num_tokens * max_match) steps at
 * worst. */
static inline fa_status fa_ngram(const fa_ngram_args *args, fa_tree *tree, int32_t *longest) {
    fai_verdict v = {FA_OK, args ? args->error : NULL};
    fai_trie trie;
    uint64_t match[64]; /* length << 32 | place of its last token */
    int32_t count = 0;
    if (!args) return FA_ERR_ARGS_NULL;
    if (args->first_canary || args->last_canary) return FA_ERR_NOT_ZEROED;
    const int32_t least = args->min_match ? args->min_match : 1, most = args->max_match ? args->max_match : 8;
    const int32_t *tokens = args->tokens, last = args->num_tokens - 1;
    fai_want_tree(&v, tree, 1);
    fai_want_array(&v, FA_ERR_NGRAM, "tokens", tokens, 4);
    fai_want(&v, FA_ERR_NGRAM, "num_tokens", args->num_tokens, 1, FA_MAX_SEQLEN);
    fai_want(&v, FA_ERR_NGRAM, "max_match", most, 1, FA_MAX_SEQLEN);
    fai_want(&v, FA_ERR_NGRAM, "min_match", least, 1, most);
    fai_want(&v, FA_ERR_NGRAM, "max_depth", args->max_depth, 1, FA_TREE_MAX_NODES);
    fai_want(&v, FA_ERR_NGRAM, "max_matches", args->max_matches, 0, 64);
    if (v.status != FA_OK) return v.status;
    for (int32_t end = 0; end < last; end++) {
        int32_t length = 0;
        while (length < most && length <= end && tokens[end - length] == tokens[last - length]) length++;
        if (length >= least)
            fai_offer(match, &count, args->max_matches ? args->max_matches : 1,
                      (uint64_t)length << 32 | (uint32_t)end);
    }
    fai_sort(match, count);
    fai_trie_begin(&trie, tokens[last], 0);
    for (int32_t i = 0; i < count; i++) {
        const int32_t begin = (int32_t)(match[i] & 0xffffffffu) + 1, period = last + 1 - begin;
        int32_t node = 0;
        for (int32_t d = 0; d < args->max_depth && node >= 0; d++)
            node = fai_trie_child(&trie, node, tokens[begin + d % period], tree->capacity);
    }
    fai_trie_emit(&trie, tree, 1, NULL);
    if (longest) *longest = count ? (int32_t)(match[0] >> 32) : 0;
    return FA_OK;
}

/* A pool of n-grams [LA]: for each first token (key), the last few different continuations that came by,
 * the most recent first. Memory is the caller's and fixed: a key that finds no room in its bucket of 8
 * takes the place of the one there that was not inserted into for the longest time. */
typedef struct fa_pool {
    int32_t keys;    /* first tokens that there is room for: a multiple of 8, 8 .. 2^24 */
    int32_t guesses; /* continuations of each, 1 .. FA_TREE_MAX_NODES - 1 */
    int32_t length;  /* tokens of a continuation: n - 1, 1 .. FA_TREE_MAX_NODES - 1 */
    uint32_t clock;  /* insertions */
    int32_t *memory; /* fa_pool_bytes(); all zero: empty. Of each key: token, time, count, continuations */
} fa_pool;

FAI_HD static inline int64_t fai_pool_slot(const fa_pool *p) { return 3 + (int64_t)p->guesses * p->length; }

static inline void fai_want_pool(fai_verdict *v, const fa_pool *p) {
    if (!p) {
        if (v->status == FA_OK) v->status = FA_ERR_ARGS_NULL;
        return;
    }
    fai_want(v, FA_ERR_POOL, "keys", p->keys, 8, 1 << 24);
    if (p->keys % 8) fai_refuse(v, FA_ERR_POOL, "keys", -1, p->keys, 8, 1 << 24);
    fai_want(v, FA_ERR_POOL, "guesses", p->guesses, 1, FA_TREE_MAX_NODES - 1);
    fai_want(v, FA_ERR_POOL, "length", p->length, 1, FA_TREE_MAX_NODES - 1);
}

/* Bytes of its memory, aligned to 4; 0 if its sizes are not valid. */
static inline size_t fa_pool_bytes(const fa_pool *pool) {
    fai_verdict v = {FA_OK, NULL};
    fai_want_pool(&v, pool);
    return v.status == FA_OK ? (size_t)(pool->keys * fai_pool_slot(pool)) * 4 : 0;
}

/* The slot of a key; NULL if it has none. make: the slot it gets then. */
static inline int32_t *fai_pool_find(const fa_pool *p, int32_t key, int make) {
    const uint32_t bucket =
        (uint32_t)key * 0x9e3779b1u % (uint32_t)(p->keys / 8); /* 2^32 / golden ratio: spreads runs of ids */
    int32_t *slot = p->memory + (int64_t)bucket * 8 * fai_pool_slot(p), *oldest = NULL;
    for (int way = 0; way < 8; way++, slot += fai_pool_slot(p)) {
        if (slot[2] > 0 && slot[0] == key) return slot;
        if (!oldest || (oldest[2] > 0 &&
                        (slot[2] <= 0 || p->clock - (uint32_t)slot[1] > p->clock - (uint32_t)oldest[1])))
            oldest = slot;
    }
    if (!make) return NULL;
    oldest[0] = key, oldest[2] = 0;
    return oldest;
}

/* Every n-gram of tokens (num_tokens), in order; none if there are fewer than n = length + 1. */
static inline fa_status fa_pool_insert(fa_pool *pool, const int32_t *tokens, int32_t num_tokens,
                                       fa_error *error) {
    fai_verdict v = {FA_OK, error};
    fai_want_pool(&v, pool);
    if (v.status == FA_OK) fai_want_array(&v, FA_ERR_POOL, "memory", pool->memory, 4);
    fai_want(&v, FA_ERR_POOL, "num_tokens", num_tokens, 0, INT32_MAX);
    if (num_tokens > 0) fai_want_array(&v, FA_ERR_POOL, "tokens", tokens, 4);
    for (int64_t i = 0; v.status == FA_OK && i + pool->length < num_tokens; i++) {
        const size_t one = (size_t)pool->length * sizeof(int32_t);
        int32_t *slot = fai_pool_find(pool, tokens[i], 1), *list = slot + 3, n = 0;
        if (slot[2] > pool->guesses) slot[2] = pool->guesses; /* whatever the memory held */
        while (n < slot[2] && memcmp(list + (int64_t)n * pool->length, tokens + i + 1, one)) n++;
        if (n == slot[2] && n < pool->guesses) slot[2]++;
        if (n == pool->guesses) n--; /* the last one goes */
        memmove(list + pool->length, list, (size_t)n * one);
        memcpy(list, tokens + i + 1, one);
        slot[1] = (int32_t)pool->clock++;
    }
    return v.status;
}

/* A tree of the continuations of token, the most recent first; the root alone if there is none. At most
 * tree->capacity nodes: the rest is dropped. */
static inline fa_status fa_pool_tree(const fa_pool *pool, int32_t token, fa_tree *tree, fa_error *error) {
    fai_verdict v = {FA_OK, error};
    fai_trie trie;
    fai_want_pool(&v, pool);
    if (v.status == FA_OK) fai_want_array(&v, FA_ERR_POOL, "memory", pool->memory, 4);
    fai_want_tree(&v, tree, 1);
    if (v.status != FA_OK) return v.status;
    const int32_t *slot = fai_pool_find(pool, token, 0);
    fai_trie_begin(&trie, token, 0);
    for (int32_t n = 0; slot && n < slot[2] && n < pool->guesses; n++)
        for (int32_t d = 0, node = 0; d < pool->length && node >= 0; d++)
            node = fai_trie_child(&trie, node, slot[3 + (int64_t)n * pool->length + d], tree->capacity);
    fai_trie_emit(&trie, tree, 1, NULL);
    return FA_OK;
}

/* ======================================================================================== */
/* >>medusa   heads: forward, backward, loss; candidates                                     */
/* ======================================================================================== */

/* Medusa's heads [MD, 2.1, 2.2.1]: head k = 0, 1 .. of the last hidden state x of position t guesses token
 * t + 2 + k,
 *     h = x + SiLU(W_k x + b_k)   logits = P_k h   loss = sum_k lambda_k mean_t CE(logits, token[t + 2 + k])
 * All f32; sums over the vocabulary in double. With W_k = 0 and b_k = 0 a head starts as P_k itself. What
 * is done for the vocabulary is done for FAI_VOCAB of its tokens at a time, twice for gradients if it has
 * more: there are no logits of all of it, but where the caller asks for them.
 *     num_threads threads of OpenMP share the work; the bits are the same for any number of them.
 * fa_medusa_forward reads W and P once for 64 rows, or with a shared P, for 64 rows of all heads together:
 * few rows of large weights cost what the weights cost to read. */
typedef struct fa_medusa_args {
    uint32_t first_canary;
    int32_t rows, dim, vocab, heads;
    const float *x;          /* (rows, dim) */
    int64_t stride_x;        /* floats from row to row; 0 = dim */
    const float *weight;     /* W (heads, dim, dim): row i makes element i */
    const float *bias;       /* b (heads, dim); NULL = 0 */
    const float *projection; /* P (heads, vocab, dim) */
    int32_t shared;          /* 1: one P (vocab, dim) for all heads, say the model's own */
    int32_t num_threads;     /* 0 = all that OpenMP has when compiled with it, else 1 */

    /* fa_medusa_forward: outputs that are not NULL */
    float *logits;      /* (rows, heads, vocab) */
    int32_t *top_token; /* (rows, heads, top_k): best first, ties by id; each row goes to fa_tree_fill */
    float *top_logprob; /* (rows, heads, top_k): natural logarithms of their probabilities */
    int32_t top_k;      /* 1 .. 64 with top_token or top_logprob */

    /* fa_medusa_loss: outputs that are not NULL; gradients are those of the loss */
    const int32_t *target;     /* (rows): the token at each position; < 0: as a label, it does not count */
    const int32_t *cu_seqlens; /* (batch + 1): sequence b is rows cu[b] .. cu[b+1]-1; NULL: one sequence */
    int32_t batch;             /* sequences, if cu_seqlens is given */
    int32_t shift; /* head k guesses token t + shift + k; 0 = 2, as the model's own head guesses t + 1 */
    const float *lambda;      /* (heads); NULL: 0.8^(k+1) */
    double *loss;             /* (1) */
    double *head_loss;        /* (heads): mean CE; 0 where nothing counts */
    float *d_x;               /* (rows, dim) */
    float *d_weight, *d_bias; /* as weight and bias */
    float *d_projection;      /* as projection */
    int32_t accumulate;       /* 1: add to the gradients that are there; 0: write */
    fa_error *error;
    uint32_t last_canary;
} fa_medusa_args;

/* ---- f32 matrix products ---- */

static inline int64_t fai_least(int64_t x, int64_t y) { return x < y ? x : y; }

/* FAI_GL: floats of a vector. Tiles in registers: FAI_GM rows x 2 vectors, or FAI_GD sums of vectors, enough
 * to hide the latency of a multiply-add; the shapes of >>vector, for the same reasons. */
#if defined(__GNUC__) && !defined(__CUDACC__)
#if defined(__AVX512F__)
#define FAI_GL 16
#define FAI_GM 8
#define FAI_GD 16
#elif defined(__AVX2__) && defined(__FMA__)
#define FAI_GL 8
#define FAI_GM 6
#define FAI_GD 8
#else
#define FAI_GL 4
#define FAI_GM 4
#define FAI_GD 8
#endif
typedef float fai_gvec __attribute__((vector_size(4 * FAI_GL), aligned(4), may_alias));
typedef int32_t fai_gint __attribute__((vector_size(4 * FAI_GL), aligned(4), may_alias));
#else /* one float is a vector, too */
#define FAI_GL 1
#define FAI_GM 4
#define FAI_GD 4
typedef float fai_gvec;
#endif
#if !defined(FAI_EACH)
#define FAI_EACH(i, from, to) for (int i = (from); i < (to); i++)
#endif

FAI_INLINE fai_gvec fai_gsplat(float x) {
#if FAI_GL == 1
    return x;
#else
    const fai_gvec zero = {0};
    return x - zero; /* a broadcast: x - 0 is x */
#endif
}

FAI_INLINE fai_gvec fai_gfma(fai_gvec a, fai_gvec b, fai_gvec c) {
#if FAI_GL == 16
    return (fai_gvec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif FAI_GL == 8
    return (fai_gvec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif FAI_GL == 4 && defined(__aarch64__)
    return (fai_gvec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

/* exp(x) for x <= 0: relative error 2e-7; 0 below -87.3; NaN for NaN */
FAI_INLINE fai_gvec fai_gexp(fai_gvec x) {
#if FAI_GL == 1
    return expf(x);
#else
    static const float c[6] = {1.3888889e-3f, 8.3333333e-3f, 4.1666667e-2f, 0.16666667f, 0.5f, 1.0f};
    const fai_gvec zero = {0}, magic = zero + 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    const fai_gvec t = fai_gfma(x, zero + 1.44269504f, magic), n = t - magic;
    const fai_gvec r =
        fai_gfma(n, zero - 1.42860677e-6f, fai_gfma(n, zero - 0.693145752f, x)); /* ln 2 in two parts */
    fai_gvec p = zero + 1.9841270e-4f;
    FAI_EACH (i, 0, 6) p = fai_gfma(p, r, zero + c[i]);
    p = fai_gfma(p, r, zero + 1.0f);
    const fai_gint scale = ((fai_gint)t - 0x4b400000 + 127) << 23, tiny = x < zero - 87.3f;
    return (fai_gvec)((fai_gint)(p * (fai_gvec)scale) & ~tiny);
#endif
}

/* 1 / (1 + exp(-u)) */
FAI_INLINE fai_gvec fai_gsigmoid(fai_gvec u) {
#if FAI_GL == 1
    return 1 / (1 + expf(-u));
#else
    const fai_gvec zero = {0}, one = zero + 1.0f,
                   e = fai_gexp((fai_gvec)((fai_gint)u | INT32_MIN)); /* of -|u| */
    const fai_gint minus = u < zero;
    return (fai_gvec)(((fai_gint)e & minus) | ((fai_gint)one & ~minus)) / (one + e);
#endif
}

/* max(x, y), NaN of y left out */
FAI_INLINE fai_gvec fai_gmax(fai_gvec x, fai_gvec y) {
#if FAI_GL == 1
    return y > x ? y : x;
#else
    const fai_gint more = y > x;
    return (fai_gvec)(((fai_gint)y & more) | ((fai_gint)x & ~more));
#endif
}

/* A vector of which n floats are there, the others being fill; n may be more than a vector has. */
FAI_INLINE fai_gvec fai_gload(const float *p, int64_t n, float fill) {
    fai_gvec x = fai_gsplat(fill);
    if (n >= FAI_GL) return *(const fai_gvec *)p;
    memcpy(&x, p, (size_t)n * sizeof(float));
    return x;
}
FAI_INLINE void fai_gstore(float *p, int64_t n, fai_gvec x) {
    if (n >= FAI_GL)
        *(fai_gvec *)p = x;
    else
        memcpy(p, &x, (size_t)n * sizeof(float));
}

/* a[l] + a[l + h] in lanes l without the bit h; b[l - h] + b[l] in those with it. */
FAI_INLINE fai_gvec fai_gfold(const int h, fai_gvec a, fai_gvec b) {
#if FAI_GL == 1
    return (void)h, (void)b, a;
#elif defined(__clang__)
    fai_gvec low = a, high = b;
    FAI_EACH (l, 0, FAI_GL)
        if (l & h)
            low[l] = b[l - h];
        else
            high[l] = a[l + h];
    return low + high;
#else
    fai_gint low = {0};
    FAI_EACH (l, 0, FAI_GL) low[l] = l & h ? FAI_GL + l - h : l;
    return __builtin_shuffle(a, b, low) + __builtin_shuffle(a, b, low + h);
#endif
}

/* rows, cols: constants, of which FAI_GD is a multiple: c[j*ldc + i] += sum_p a[i*lda + p] b[j*ldb + p]. */
FAI_INLINE void fai_dot_tile(const int rows, const int cols, int64_t depth, const float *a, int64_t lda,
                             const float *b, int64_t ldb, float *c, int64_t ldc) {
    const int64_t whole = depth - depth % FAI_GL;
    fai_gvec acc[FAI_GD], x[4];
    float y[FAI_GD];
    FAI_EACH (i, 0, FAI_GD) acc[i] = fai_gsplat(0);
    for (int64_t p = 0; p < whole; p += FAI_GL) {
        FAI_EACH (j, 0, cols) x[j] = *(const fai_gvec *)(b + j * ldb + p);
        FAI_EACH (i, 0, rows) {
            const fai_gvec w = *(const fai_gvec *)(a + i * lda + p);
            FAI_EACH (j, 0, cols) acc[j * rows + i] = fai_gfma(w, x[j], acc[j * rows + i]);
        }
    }
    FAI_EACH (g, 0, FAI_GD / FAI_GL) {
        fai_gvec *v = acc + g * FAI_GL;
        FAI_EACH (step, 1, 5) /* lane l of v[0] becomes the sum of v[l] */
            FAI_EACH (l, 0, FAI_GL / 2)
                if (l < FAI_GL >> step) v[l] = fai_gfold(FAI_GL >> step, v[l], v[l + (FAI_GL >> step)]);
        *(fai_gvec *)(y + g * FAI_GL) = v[0];
    }
    FAI_EACH (j, 0, cols)
        FAI_EACH (i, 0, rows) c[j * ldc + i] += y[j * rows + i];
    for (int64_t p = whole; p < depth; p++)
        for (int j = 0; j < cols; j++)
            for (int i = 0; i < rows; i++) c[j * ldc + i] += a[i * lda + p] * b[j * ldb + p];
}

/* The same for FAI_GD rows of A */
FAI_INLINE void fai_dot_strip(const int cols, int64_t depth, const float *a, int64_t lda, const float *b,
                              int64_t ldb, float *c, int64_t ldc) {
    for (int i = 0; i < FAI_GD; i += FAI_GD / cols)
        fai_dot_tile(FAI_GD / cols, cols, depth, a + i * lda, lda, b, ldb, c + i, ldc);
}

/* C (n, m; ldc) += B (n, k; ldb) A (m, k; lda)^T. A is read once for 16 KiB of B, 8 rows or more, which stay
 * in cache. */
FAI_NOINLINE void fai_dots(int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
                           int64_t ldb, float *c, int64_t ldc) {
    int64_t most = 8, end;
    while (most / 2 >= n) most /= 2;
    for (int64_t p = 0, depth; p < k; p += depth) {
        depth = fai_least(k - p, 4096 / most);
        for (int64_t first = 0; first < n; first = end) {
            end = n - first < 4096 / depth ? n : first + 4096 / depth;
            for (int64_t i = 0; i < m; i += FAI_GD)
                for (int64_t j = first, cols; j < end; j += cols) {
                    const float *at = a + i * lda + p, *bt = b + j * ldb + p;
                    float *ct = c + j * ldc + i;
                    cols = m - i < FAI_GD || end - j < 2 ? 1 : end - j < 4 ? 2 : 4;
                    if (m - i < FAI_GD)
                        for (int64_t r = 0; r < m - i; r++)
                            fai_dot_tile(1, 1, depth, at + r * lda, lda, bt, ldb, ct + r, ldc);
                    else if (cols == 1)
                        fai_dot_strip(1, depth, at, lda, bt, ldb, ct, ldc);
                    else if (cols == 2)
                        fai_dot_strip(2, depth, at, lda, bt, ldb, ct, ldc);
                    else
                        fai_dot_strip(4, depth, at, lda, bt, ldb, ct, ldc);
                }
        }
    }
}

/* rows: a constant, 1 .. FAI_GM; b: 2 vectors for each step */
FAI_INLINE void fai_gemm_tile(const int rows, int64_t depth, const float *a, int64_t ra, int64_t ca,
                              const float *b, float *c, int64_t ldc) {
    fai_gvec acc[FAI_GM][2];
    FAI_EACH (i, 0, rows)
        FAI_EACH (n, 0, 2) acc[i][n] = *(const fai_gvec *)(c + i * ldc + n * FAI_GL);
    for (int64_t p = 0; p < depth; p++) {
        const fai_gvec b0 = *(const fai_gvec *)(b + p * 2 * FAI_GL),
                       b1 = *(const fai_gvec *)(b + (p * 2 + 1) * FAI_GL);
        FAI_EACH (i, 0, rows) {
            const fai_gvec x = fai_gsplat(a[i * ra + p * ca]);
            acc[i][0] = fai_gfma(x, b0, acc[i][0]), acc[i][1] = fai_gfma(x, b1, acc[i][1]);
        }
    }
    FAI_EACH (i, 0, rows)
        FAI_EACH (n, 0, 2) *(fai_gvec *)(c + i * ldc + n * FAI_GL) = acc[i][n];
}

/* C (m, n; ldc) += A (m, k) B (k, n; ldb): element (i, p) of A is a[i*ra + p*ca], rows of B and C are
 * contiguous. */
FAI_NOINLINE void fai_gemm(int64_t m, int64_t n, int64_t k, const float *a, int64_t ra, int64_t ca,
                           const float *b, int64_t ldb, float *c, int64_t ldc) {
    enum { WIDTH = 2 * FAI_GL, MOST = 256 };
    float strip[MOST * WIDTH]; /* of B: 32 KiB or less, in cache for all of m whatever ldb is */
    const int64_t whole = n - n % WIDTH;
    for (int64_t p = 0; p < k; p += MOST) {
        const int64_t depth = fai_least(k - p, MOST);
        for (int64_t j = 0; j < whole; j += WIDTH) {
            const float *at = a + p * ca;
            int64_t i = 0;
            for (int64_t q = 0; q < depth; q++)
                memcpy(strip + q * WIDTH, b + (p + q) * ldb + j, WIDTH * sizeof(float));
            for (; i + FAI_GM <= m; i += FAI_GM)
                fai_gemm_tile(FAI_GM, depth, at + i * ra, ra, ca, strip, c + i * ldc + j, ldc);
            for (; i < m; i++) fai_gemm_tile(1, depth, at + i * ra, ra, ca, strip, c + i * ldc + j, ldc);
        }
        for (int64_t i = 0; whole < n && i < m; i++) /* the columns that are left */
            for (int64_t q = p; q < p + depth; q++)
                for (int64_t j = whole; j < n; j++) c[i * ldc + j] += a[i * ra + q * ca] * b[q * ldb + j];
    }
}

/* ---- the heads ---- */

enum {
    FAI_LINES = 64,   /* rows of x that share what is read of W and P */
    FAI_PANEL = 1024, /* rows that share what is read of the gradients of W and P */
    FAI_VOCAB = 256,  /* tokens of the vocabulary at a time, or fewer if their logits would not fit into .. */
    FAI_LOGITS = 4096, /* 16 KiB of them, on the stack */
    FAI_PIECE = 64     /* elements of h, or FAI_VOCAB tokens, that are worth a thread */
};

/* The statistics of a row and head, of a part of the vocabulary or all of it. */
typedef struct fai_medusa_line {
    double sum; /* of exp(logit - max) */
    float max, lse, at_label, scale;
    int32_t label; /* < 0: does not count */
    int32_t held;  /* of the best tokens */
} fai_medusa_line;

/* A call: what its tasks share. */
typedef struct fai_medusa {
    const fa_medusa_args *a;
    int64_t stride;        /* of x */
    int64_t row, rows;     /* of a step: up to FAI_LINES forward, FAI_PANEL for the loss */
    fai_medusa_line *line; /* forward: (groups, pieces, lines); loss: (rows) */
    uint64_t *key;         /* forward: the best tokens of each of these lines, top of them at most */
    float *h;              /* forward: (heads, rows, dim); loss: (rows, dim) */
    int32_t threads, top;

    /* forward: lines that share a P, and how many P there are; of a row and head of h: row + rows * head */
    int64_t lines, groups;

    /* loss */
    float *u, *d_h; /* (rows, dim): W x + b, and at the end its gradient; the gradient of h */
    float *logits;  /* (rows, FAI_VOCAB): of the tokens v .. v + width - 1, then their gradient */
    int64_t v, width;
    int32_t k; /* head */
} fai_medusa;

static inline fa_status fai_medusa_check(const fa_medusa_args *a, int loss) {
    fai_verdict v = {FA_OK, a ? a->error : NULL};
    const float *const floats[] = {a ? a->bias : NULL, a ? a->lambda : NULL};
    if (!a) return FA_ERR_ARGS_NULL;
    if (a->first_canary || a->last_canary) return FA_ERR_NOT_ZEROED;
    fai_want(&v, FA_ERR_MEDUSA_SIZE, "rows", a->rows, 1, INT32_MAX);
    fai_want(&v, FA_ERR_MEDUSA_SIZE, "dim", a->dim, 1, 1 << 20);
    fai_want(&v, FA_ERR_MEDUSA_SIZE, "vocab", a->vocab, 1, INT32_MAX);
    fai_want(&v, FA_ERR_MEDUSA_SIZE, "heads", a->heads, 1, 64);
    fai_want(&v, FA_ERR_MEDUSA_SIZE, "shared", a->shared, 0, 1);
    fai_want(&v, FA_ERR_NUM_THREADS, "num_threads", a->num_threads, 0, 65536);
    if (a->stride_x)
        fai_want(&v, FA_ERR_MEDUSA_SIZE, "stride_x", (double)a->stride_x, a->dim, 0x1p62 / INT32_MAX);
    fai_want_array(&v, FA_ERR_MEDUSA_NULL, "x", a->x, 4);
    fai_want_array(&v, FA_ERR_MEDUSA_NULL, "weight", a->weight, 4);
    fai_want_array(&v, FA_ERR_MEDUSA_NULL, "projection", a->projection, 4);
    for (int i = 0; i < 2; i++)
        if (floats[i]) fai_want_array(&v, FA_ERR_MEDUSA_NULL, i ? "lambda" : "bias", floats[i], 4);
    if (v.status != FA_OK) return v.status;
    if (!loss) {
        if (a->logits) fai_want_array(&v, FA_ERR_MEDUSA_NULL, "logits", a->logits, 4);
        if (a->top_token) fai_want_array(&v, FA_ERR_MEDUSA_NULL, "top_token", a->top_token, 4);
        if (a->top_logprob) fai_want_array(&v, FA_ERR_MEDUSA_NULL, "top_logprob", a->top_logprob, 4);
        if (a->top_token || a->top_logprob)
            fai_want(&v, FA_ERR_MEDUSA_SIZE, "top_k", a->top_k, 1, a->vocab < 64 ? a->vocab : 64);
        return v.status;
    }
    fai_want_array(&v, FA_ERR_MEDUSA_NULL, "target", a->target, 4);
    fai_want(&v, FA_ERR_MEDUSA_SIZE, "shift", a->shift, 0, INT32_MAX - 64);
    fai_want(&v, FA_ERR_MEDUSA_SIZE, "accumulate", a->accumulate, 0, 1);
    if (a->cu_seqlens) {
        fai_want_array(&v, FA_ERR_MEDUSA_TARGET, "cu_seqlens", a->cu_seqlens, 4);
        fai_want(&v, FA_ERR_MEDUSA_TARGET, "batch", a->batch, 1, INT32_MAX);
        for (int64_t b = 0; v.status == FA_OK && b <= a->batch; b++) {
            const int32_t least = b ? a->cu_seqlens[b - 1] : 0, most = b ? a->rows : 0;
            if (a->cu_seqlens[b] < least || a->cu_seqlens[b] > most)
                fai_refuse(&v, FA_ERR_MEDUSA_TARGET, "cu_seqlens", b, a->cu_seqlens[b], least, most);
        }
    }
    for (int64_t t = 0; v.status == FA_OK && t < a->rows; t++)
        if (a->target[t] >= a->vocab)
            fai_refuse(&v, FA_ERR_MEDUSA_TARGET, "target", t, a->target[t], 0, a->vocab - 1);
    for (int32_t k = 0; v.status == FA_OK && a->lambda && k < a->heads; k++)
        if (!(fabsf(a->lambda[k]) <= 3e38f))
            fai_refuse(&v, FA_ERR_MEDUSA_TARGET, "lambda", k, (double)a->lambda[k], -3e38, 3e38);
    return v.status;
}

/* A stage shares out n things as up to 32 pieces of so many, a multiple of unit, whatever num_threads is. */
static inline int64_t fai_medusa_piece(int64_t n, int64_t unit) {
    return (n + 32 * unit - 1) / (32 * unit) * unit;
}
static inline int64_t fai_medusa_pieces(int64_t n, int64_t unit) {
    return (n - 1) / fai_medusa_piece(n, unit) + 1;
}

/* The memory of either call at base, which is aligned to 64; returns how many bytes it has. */
static inline uintptr_t fai_medusa_lay_out(fai_medusa *t, const fa_medusa_args *a, uintptr_t base, int loss) {
    const int64_t most = a->shared ? FAI_LINES / a->heads : FAI_LINES;
    const int64_t rows = fai_least(a->rows, loss ? (int64_t)FAI_PANEL : most);
    const int64_t lines = loss ? rows : a->heads * rows * fai_medusa_pieces(a->vocab, FAI_VOCAB);
    const uintptr_t h =
        (uintptr_t)rows * (uintptr_t)a->dim * (loss ? 1 : (uintptr_t)a->heads) * sizeof(float);
    uintptr_t at = base;
    t->a = a, t->rows = rows, t->stride = a->stride_x ? a->stride_x : a->dim;
    t->groups = a->shared ? 1 : a->heads;
    t->width = fai_least(a->vocab, FAI_VOCAB), t->threads = a->num_threads ? a->num_threads : 1;
#if defined(_OPENMP)
    if (!a->num_threads) t->threads = omp_get_max_threads();
#endif
    t->line = (fai_medusa_line *)at, at += (uintptr_t)lines * sizeof *t->line;
    t->key = (uint64_t *)at, at += loss ? 0 : (uintptr_t)(lines * fai_least(a->vocab, 64)) * sizeof *t->key;
    t->h = (float *)at, at += h, t->u = (float *)at, at += h, t->d_h = (float *)at, at += h;
    t->logits = (float *)at, at += (uintptr_t)(rows * t->width) * sizeof(float);
    return (loss ? at : (uintptr_t)t->u) - base;
}

/* Bytes that either call needs, at any alignment; 0 if args is not valid. About 16 (dim + 64) times rows, of
 * which up to 1024 count, or 256 dim times heads, if that is more. */
static inline size_t fa_medusa_workspace(const fa_medusa_args *args) {
    fai_medusa t;
    if (fai_medusa_check(args, 0) != FA_OK) return 0;
    const size_t forward = fai_medusa_lay_out(&t, args, 0, 0), loss = fai_medusa_lay_out(&t, args, 0, 1);
    return (forward > loss ? forward : loss) + 64;
}

static inline fa_status fai_medusa_begin(fai_medusa *t, const fa_medusa_args *a, void *workspace,
                                         size_t bytes, int loss) {
    fai_verdict v = {fai_medusa_check(a, loss), a ? a->error : NULL};
    if (v.status != FA_OK) return v.status;
    if (!workspace) fai_refuse(&v, FA_ERR_WORKSPACE_NULL, "workspace", -1, 0, 1, 0);
    fai_want(&v, FA_ERR_WORKSPACE_SIZE, "bytes", (double)bytes, (double)fa_medusa_workspace(a), 0x1p62);
    if (v.status == FA_OK) fai_medusa_lay_out(t, a, ((uintptr_t)workspace + 63) & ~(uintptr_t)63, loss);
    return v.status;
}

/* All tasks of a stage. Each writes what no other one touches, with sums in an order of its own. */
static inline void fai_medusa_run(fai_medusa *t, void (*stage)(const fai_medusa *, int64_t), int64_t tasks) {
#if defined(_OPENMP)
#pragma omp parallel for schedule(dynamic, 1) num_threads(t->threads)
#endif
    for (int64_t task = 0; task < tasks; task++) stage(t, task);
}

/* Elements i .. end-1 of u = W x + b and h = x + SiLU(u) of head k: `rows` of them, (rows, dim), from a row
 * on.
 * u may be h. */
static inline void fai_medusa_hidden(const fai_medusa *t, int32_t k, int64_t row, int64_t rows, int64_t i,
                                     int64_t end, float *u, float *h) {
    const int64_t dim = t->a->dim;
    const float *x = t->a->x + row * t->stride, *bias = t->a->bias ? t->a->bias + k * dim : NULL;
    for (int64_t r = 0; r < rows; r++)
        if (bias)
            memcpy(u + r * dim + i, bias + i, (size_t)(end - i) * sizeof *u);
        else
            memset(u + r * dim + i, 0, (size_t)(end - i) * sizeof *u);
    fai_dots(end - i, rows, dim, t->a->weight + (k * dim + i) * dim, dim, x, t->stride, u + i, dim);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t n = i; n < end; n += FAI_GL) {
            const fai_gvec y = fai_gload(u + r * dim + n, end - n, 0);
            fai_gstore(h + r * dim + n, end - n,
                       fai_gload(x + r * t->stride + n, end - n, 0) + y * fai_gsigmoid(y));
        }
}

/* Logits (rows, width; ld) of `count` tokens from v on. */
static inline void fai_medusa_logits(const fai_medusa *t, int64_t group, const float *h, int64_t rows,
                                     int64_t v, int64_t count, float *logits, int64_t ld) {
    const int64_t dim = t->a->dim;
    for (int64_t r = 0; r < rows; r++) memset(logits + r * ld, 0, (size_t)count * sizeof *logits);
    fai_dots(count, rows, dim, t->a->projection + (group * t->a->vocab + v) * dim, dim, h, dim, logits, ld);
}

/* A maximum and a sum more [OS]. A sum starts again at each maximum that is new: one that is not finite ends
 * as NaN. */
static inline void fai_medusa_add(fai_medusa_line *line, float max, double sum) {
    const float top = max > line->max ? max : line->max;
    if (line->max < top) line->sum *= line->sum > 0 ? exp((double)(line->max - top)) : 0;
    line->sum += max < top ? sum * exp((double)(max - top)) : sum;
    line->max = top;
}
static inline void fai_medusa_sum(fai_medusa_line *line, const float *logits, int64_t count) {
    fai_gvec top = fai_gsplat(line->max), part = fai_gsplat(0);
    float lane[FAI_GL], max = line->max;
    double sum = 0;
    for (int64_t i = 0; i < count; i += FAI_GL)
        top = fai_gmax(top, fai_gload(logits + i, count - i, -INFINITY));
    memcpy(lane, &top, sizeof lane);
    for (int l = 0; l < FAI_GL; l++) max = lane[l] > max ? lane[l] : max;
    for (int64_t i = 0; i < count; i += FAI_GL)
        part += fai_gexp(fai_gload(logits + i, count - i, -INFINITY) - fai_gsplat(max));
    memcpy(lane, &part, sizeof lane);
    for (int l = 0; l < FAI_GL; l++) sum += (double)lane[l];
    fai_medusa_add(line, max, sum);
}

/* ---- forward: stages of the rows that share what is read ---- */

static inline void fai_medusa_forward_hidden(const fai_medusa *t, int64_t task) {
    const int64_t dim = t->a->dim, each = fai_medusa_piece(dim, FAI_PIECE),
                  k = task / fai_medusa_pieces(dim, FAI_PIECE);
    const int64_t i = task % fai_medusa_pieces(dim, FAI_PIECE) * each;
    float *h = t->h + k * t->rows * dim;
    fai_medusa_hidden(t, (int32_t)k, t->row, t->rows, i, fai_least(i + each, dim), h, h);
}

/* A piece of a vocabulary, for all lines of a group: maxima, sums, the best tokens; logits, if wanted. */
static inline void fai_medusa_forward_logits(const fai_medusa *t, int64_t task) {
    const fa_medusa_args *a = t->a;
    const int64_t vocab = a->vocab, each = fai_medusa_piece(vocab, FAI_VOCAB),
                  group = task / fai_medusa_pieces(vocab, FAI_VOCAB);
    const int64_t first = task % fai_medusa_pieces(vocab, FAI_VOCAB) * each,
                  end = fai_least(first + each, vocab);
    const int64_t ld = fai_least(FAI_VOCAB, FAI_LOGITS / t->lines);
    float logits[FAI_LOGITS]; /* (lines, ld) */
    fai_medusa_line *line = t->line + task * t->lines;
    uint64_t *key = t->key + task * t->lines * t->top;
    for (int64_t l = 0; l < t->lines; l++) line[l].max = -INFINITY, line[l].sum = 0, line[l].held = 0;
    for (int64_t v = first; v < end; v += ld) {
        const int64_t count = fai_least(ld, end - v);
        fai_medusa_logits(t, group, t->h + group * t->lines * a->dim, t->lines, v, count, logits, ld);
        for (int64_t l = 0; l < t->lines; l++) {
            const int64_t k = group + l / t->rows, r = t->row + l % t->rows;
            const float *x = logits + l * ld;
            uint64_t *best = key + l * t->top;
            fai_medusa_sum(line + l, x, count);
            if (a->logits) memcpy(a->logits + (r * a->heads + k) * vocab + v, x, (size_t)count * sizeof *x);
            for (int64_t i = 0; i < (t->top ? count : 0); i++) {
                if (line[l].held == t->top && !(x[i] > fai_key_score(best[0]))) continue;
                fai_offer(best, &line[l].held, t->top,
                          fai_score_key(x[i] >= -INFINITY ? x[i] : -INFINITY, (int32_t)(v + i)));
            }
        }
    }
}

/* The pieces of a row and head together. */
static inline void fai_medusa_forward_best(const fai_medusa *t, int64_t task) {
    const fa_medusa_args *a = t->a;
    const int64_t pieces = fai_medusa_pieces(a->vocab, FAI_VOCAB), group = task / t->lines,
                  l = task % t->lines;
    const int64_t k = group + l / t->rows, at = ((t->row + l % t->rows) * a->heads + k) * t->top;
    const int64_t first = group * pieces * t->lines + l;
    fai_medusa_line *line = t->line + first;
    uint64_t *key = t->key + first * t->top;
    for (int64_t n = 1; n < pieces; n++) {
        const fai_medusa_line *more = line + n * t->lines;
        fai_medusa_add(line, more->max, more->sum);
        for (int32_t i = 0; i < more->held; i++)
            fai_offer(key, &line->held, t->top, key[n * t->lines * t->top + i]);
    }
    line->lse = (float)((double)line->max + log(line->sum));
    fai_sort(key, t->top);
    for (int32_t n = 0; n < t->top; n++) {
        if (a->top_token) a->top_token[at + n] = (int32_t) ~(uint32_t)key[n];
        if (a->top_logprob) a->top_logprob[at + n] = fai_key_score(key[n]) - line->lse;
    }
}

/* Logits, or the best top_k tokens, of every row and head. A NaN counts as the least for these; the
 * log-probabilities of its row are NaN. */
static inline fa_status fa_medusa_forward(const fa_medusa_args *args, void *workspace, size_t bytes) {
    fai_medusa t;
    const fa_status status = fai_medusa_begin(&t, args, workspace, bytes, 0);
    if (status != FA_OK) return status;
    t.top = args->top_token || args->top_logprob ? args->top_k : 0;
    const int64_t most = t.rows;
    for (t.row = 0; t.row < args->rows; t.row += most) {
        t.rows = fai_least(args->rows - t.row, most);
        t.lines = args->heads / t.groups * t.rows;
        fai_medusa_run(&t, fai_medusa_forward_hidden, args->heads * fai_medusa_pieces(args->dim, FAI_PIECE));
        fai_medusa_run(&t, fai_medusa_forward_logits, t.groups * fai_medusa_pieces(args->vocab, FAI_VOCAB));
        if (t.top) fai_medusa_run(&t, fai_medusa_forward_best, t.groups * t.lines);
    }
    return FA_OK;
}

/* What head k should guess at a row; < 0: nothing that counts. */
static inline int32_t fai_medusa_label(const fa_medusa_args *a, int64_t row, int32_t k) {
    const int64_t at = row + (a->shift ? a->shift : 2) + k;
    int64_t end = a->rows;
    if (a->cu_seqlens) { /* the first end behind row */
        int32_t lo = 1, hi = a->batch;
        while (lo < hi) {
            const int32_t mid = lo + (hi - lo) / 2;
            if (a->cu_seqlens[mid] > row)
                hi = mid;
            else
                lo = mid + 1;
        }
        end = a->cu_seqlens[lo];
    }
    return at < end ? a->target[at] : -1;
}

/* ---- loss: stages of the rows of a panel, for a head ---- */

/* The rows of a task: their first, in the panel, and *rows of them. */
static inline int64_t fai_medusa_task_rows(const fai_medusa *t, int64_t task, int64_t *rows) {
    *rows = fai_least(t->rows - task * FAI_LINES, FAI_LINES);
    return task * FAI_LINES;
}

/* u, h, and over the whole vocabulary lse and the logit of the label. The last logits stay. */
static inline void fai_medusa_loss_rows(const fai_medusa *t, int64_t task) {
    const int64_t dim = t->a->dim, vocab = t->a->vocab, group = t->a->shared ? 0 : t->k;
    int64_t rows;
    const int64_t first = fai_medusa_task_rows(t, task, &rows);
    float *h = t->h + first * dim, *logits = t->logits + first * t->width;
    fai_medusa_line *line = t->line + first;
    fai_medusa_hidden(t, t->k, t->row + first, rows, 0, dim, t->u + first * dim, h);
    memset(t->d_h + first * dim, 0, (size_t)(rows * dim) * sizeof *h);
    for (int64_t r = 0; r < rows; r++) line[r].max = -INFINITY, line[r].sum = 0, line[r].at_label = 0;
    for (int64_t v = 0; v < vocab; v += t->width) {
        const int64_t count = fai_least(vocab - v, t->width);
        fai_medusa_logits(t, group, h, rows, v, count, logits, t->width);
        for (int64_t r = 0; r < rows; r++) {
            fai_medusa_sum(line + r, logits + r * t->width, count);
            if (line[r].label >= v && line[r].label < v + count)
                line[r].at_label = logits[r * t->width + line[r].label - v];
        }
    }
    for (int64_t r = 0; r < rows; r++) line[r].lse = (float)((double)line[r].max + log(line[r].sum));
}

/* The gradient of the logits from v on, scale (softmax - one-hot), and what it adds to d_h. */
static inline void fai_medusa_loss_logits(const fai_medusa *t, int64_t task) {
    const int64_t dim = t->a->dim, vocab = t->a->vocab, group = t->a->shared ? 0 : t->k;
    int64_t rows;
    const int64_t first = fai_medusa_task_rows(t, task, &rows), count = fai_least(vocab - t->v, t->width);
    float *logits = t->logits + first * t->width;
    if (vocab > t->width)
        fai_medusa_logits(t, group, t->h + first * dim, rows, t->v, count, logits, t->width);
    for (int64_t r = 0; r < rows; r++) {
        const fai_medusa_line *line = t->line + first + r;
        float *x = logits + r * t->width;
        for (int64_t i = 0; i < count; i += FAI_GL)
            fai_gstore(x + i, count - i,
                       fai_gexp(fai_gload(x + i, count - i, 0) - fai_gsplat(line->lse)) *
                           fai_gsplat(line->scale));
        if (line->label >= t->v && line->label < t->v + count) x[line->label - t->v] -= line->scale;
    }
    fai_gemm(rows, dim, count, logits, t->width, 1, t->a->projection + (group * vocab + t->v) * dim, dim,
             t->d_h + first * dim, dim);
}

/* d_P of FAI_PIECE tokens and FAI_PIECE elements of each. */
static inline void fai_medusa_loss_projection(const fai_medusa *t, int64_t task) {
    const int64_t dim = t->a->dim, across = (dim + FAI_PIECE - 1) / FAI_PIECE;
    const int64_t i = task / across * FAI_PIECE, j = task % across * FAI_PIECE,
                  group = t->a->shared ? 0 : t->k;
    fai_gemm(fai_least(fai_least(t->a->vocab - t->v, t->width) - i, FAI_PIECE), fai_least(dim - j, FAI_PIECE),
             t->rows, t->logits + i, 1, t->width, t->h + j, dim,
             t->a->d_projection + (group * t->a->vocab + t->v + i) * dim + j, dim);
}

/* From d_h through the residual block: d_u replaces u; d_x is added to. */
static inline void fai_medusa_loss_block(const fai_medusa *t, int64_t task) {
    const int64_t dim = t->a->dim;
    int64_t rows;
    const int64_t first = fai_medusa_task_rows(t, task, &rows), count = rows * dim;
    float *u = t->u + first * dim, *d_h = t->d_h + first * dim;
    for (int64_t i = 0; i < count; i += FAI_GL) {
        const fai_gvec x = fai_gload(u + i, count - i, 0), s = fai_gsigmoid(x);
        fai_gstore(u + i, count - i, fai_gload(d_h + i, count - i, 0) * s * (1 + x * (1 - s)));
    }
    if (!t->a->d_x) return;
    float *d_x = t->a->d_x + (t->row + first) * dim;
    for (int64_t i = 0; i < count; i++) d_x[i] += d_h[i];
    fai_gemm(rows, dim, dim, u, dim, 1, t->a->weight + t->k * dim * dim, dim, d_x, dim);
}

/* d_W of FAI_PIECE rows and columns, and d_b with the first of these. */
static inline void fai_medusa_loss_weight(const fai_medusa *t, int64_t task) {
    const int64_t dim = t->a->dim, across = (dim + FAI_PIECE - 1) / FAI_PIECE;
    const int64_t i = task / across * FAI_PIECE, j = task % across * FAI_PIECE,
                  rows = fai_least(dim - i, FAI_PIECE);
    for (int64_t r = 0; t->a->d_bias && j == 0 && r < t->rows; r++)
        for (int64_t n = i; n < i + rows; n++) t->a->d_bias[t->k * dim + n] += t->u[r * dim + n];
    if (t->a->d_weight)
        fai_gemm(rows, fai_least(dim - j, FAI_PIECE), t->rows, t->u + i, 1, dim,
                 t->a->x + t->row * t->stride + j, t->stride, t->a->d_weight + (t->k * dim + i) * dim + j,
                 dim);
}

/* The loss and its gradients. A head without a label that counts has neither. */
static inline fa_status fa_medusa_loss(const fa_medusa_args *args, void *workspace, size_t bytes) {
    fai_medusa t;
    double sum[64] = {0}, total = 0, weight[64];
    int64_t count[64] = {0};
    const fa_medusa_args *a = args;
    const fa_status status = fai_medusa_begin(&t, a, workspace, bytes, 1);
    if (status != FA_OK) return status;
    const int64_t dim = a->dim, heads = a->heads, vocab = a->vocab,
                  across = (dim + FAI_PIECE - 1) / FAI_PIECE;
    if (!a->accumulate) {
        if (a->d_x) memset(a->d_x, 0, (size_t)(a->rows * dim) * sizeof(float));
        if (a->d_weight) memset(a->d_weight, 0, (size_t)(heads * dim * dim) * sizeof(float));
        if (a->d_bias) memset(a->d_bias, 0, (size_t)(heads * dim) * sizeof(float));
        if (a->d_projection)
            memset(a->d_projection, 0, (size_t)((a->shared ? 1 : heads) * vocab * dim) * sizeof(float));
    }
    for (int32_t k = 0; k < heads; k++) {
        for (int64_t row = 0; row < a->rows; row++) count[k] += fai_medusa_label(a, row, k) >= 0;
        weight[k] = a->lambda ? (double)a->lambda[k] : k ? weight[k - 1] * 0.8 : 0.8;
    }
    for (t.row = 0; t.row < a->rows; t.row += FAI_PANEL) {
        t.rows = fai_least(a->rows - t.row, FAI_PANEL);
        const int64_t tasks = (t.rows + FAI_LINES - 1) / FAI_LINES;
        for (t.k = 0; t.k < heads; t.k++) {
            for (int64_t r = 0; r < t.rows; r++) {
                const int32_t label = t.line[r].label = fai_medusa_label(a, t.row + r, t.k);
                t.line[r].scale = label >= 0 ? (float)(weight[t.k] / (double)count[t.k]) : 0;
            }
            fai_medusa_run(&t, fai_medusa_loss_rows, tasks);
            for (int64_t r = 0; r < t.rows; r++)
                if (t.line[r].label >= 0) sum[t.k] += (double)t.line[r].lse - (double)t.line[r].at_label;
            if (!a->d_x && !a->d_weight && !a->d_bias && !a->d_projection) continue;
            for (t.v = 0; t.v < vocab; t.v += t.width) {
                fai_medusa_run(&t, fai_medusa_loss_logits, tasks);
                if (a->d_projection)
                    fai_medusa_run(&t, fai_medusa_loss_projection,
                                   across * ((fai_least(vocab - t.v, t.width) + FAI_PIECE - 1) / FAI_PIECE));
            }
            fai_medusa_run(&t, fai_medusa_loss_block, tasks);
            if (a->d_weight || a->d_bias) fai_medusa_run(&t, fai_medusa_loss_weight, across * across);
        }
    }
    for (int32_t k = 0; k < heads; k++) {
        const double mean = count[k] ? sum[k] / (double)count[k] : 0;
        if (a->head_loss) a->head_loss[k] = mean;
        total += weight[k] * mean;
    }
    if (a->loss) *a->loss = total;
    return FA_OK;
}

/* How often the label is among the first 1, 2 .. top_k tokens of a head: accuracy (heads, top_k), what
 * fa_tree_greedy takes. top_token is that which fa_medusa_forward wrote for args. Heads without a label
 * that counts: 0. */
static inline fa_status fa_medusa_accuracy(const fa_medusa_args *args, double *accuracy) {
    fai_verdict v = {fai_medusa_check(args, 1), args ? args->error : NULL};
    if (v.status == FA_OK) v.status = fai_medusa_check(args, 0);
    if (v.status != FA_OK) return v.status;
    const int32_t top = args->top_k;
    fai_want_array(&v, FA_ERR_MEDUSA_NULL, "top_token", args->top_token, 4);
    fai_want_array(&v, FA_ERR_MEDUSA_NULL, "accuracy", accuracy, sizeof *accuracy);
    for (int32_t k = 0; v.status == FA_OK && k < args->heads; k++) {
        int64_t count = 0, hits[64] = {0}, sum = 0;
        for (int64_t row = 0; row < args->rows; row++) {
            const int32_t label = fai_medusa_label(args, row, k),
                          *token = args->top_token + (row * args->heads + k) * top;
            count += label >= 0;
            for (int32_t n = 0; label >= 0 && n < top; n++) hits[n] += token[n] == label;
        }
        for (int32_t n = 0; n < top; n++)
            sum += hits[n], accuracy[k * top + n] = count ? (double)sum / (double)count : 0;
    }
    return v.status;
}

/* ======================================================================================== */
/* >>ensembles boosting of several drafts                                                    */
/* ======================================================================================== */

/* Several small drafts, trained one after the other, each on what those before it get wrong [SI,
 * boost-tuning]. In rounds: the caller trains draft d on the samples with their weights, runs it on all of
 * them, and marks what it gets wrong (fa_boost_wrong). Then either
 *   fa_boost_covered  weights for drafts whose trees are merged: a sample is right if any draft gets it
 *                     right, so those that all of them miss share the weight. This is SpecInfer's filter;
 *   fa_boost_round    multi-class AdaBoost [SAMME]: weights grow where the draft is wrong, and it gets a
 *                     vote, for fa_boost_vote. Two classes: AdaBoost itself. */

/* A sample is `length` tokens in a row, (samples, length): wrong unless all of them are as the target
 * model's. */
static inline fa_status fa_boost_wrong(const int32_t *draft, const int32_t *target, int64_t samples,
                                       int64_t length, uint8_t *wrong, fa_error *error) {
    fai_verdict v = {FA_OK, error};
    fai_want(&v, FA_ERR_BOOST, "samples", (double)samples, 1, INT32_MAX);
    fai_want(&v, FA_ERR_BOOST, "length", (double)length, 1, INT32_MAX);
    fai_want_array(&v, FA_ERR_BOOST, "draft", draft, 4);
    fai_want_array(&v, FA_ERR_BOOST, "target", target, 4);
    fai_want_array(&v, FA_ERR_BOOST, "wrong", wrong, 1);
    for (int64_t i = 0; v.status == FA_OK && i < samples; i++)
        wrong[i] = memcmp(draft + i * length, target + i * length, (size_t)length * sizeof *draft) != 0;
    return v.status;
}

/* wrong (drafts, samples): weight (samples) becomes 1/m for each of the m samples that every draft gets
 * wrong, else 0. *covered, optional: the share of the others. All 0 when nothing is left. */
static inline fa_status fa_boost_covered(const uint8_t *wrong, int64_t drafts, int64_t samples,
                                         double *weight, double *covered, fa_error *error) {
    fai_verdict v = {FA_OK, error};
    int64_t missed = 0;
    fai_want(&v, FA_ERR_BOOST, "drafts", (double)drafts, 1, INT32_MAX);
    fai_want(&v, FA_ERR_BOOST, "samples", (double)samples, 1, INT32_MAX);
    fai_want_array(&v, FA_ERR_BOOST, "wrong", wrong, 1);
    fai_want_array(&v, FA_ERR_BOOST, "weight", weight, sizeof *weight);
    if (v.status != FA_OK) return v.status;
    for (int64_t i = 0; i < samples; i++) {
        int all = 1;
        for (int64_t d = 0; d < drafts; d++) all &= wrong[d * samples + i] != 0;
        weight[i] = all, missed += all;
    }
    for (int64_t i = 0; i < samples && missed; i++) weight[i] /= (double)missed;
    if (covered) *covered = 1 - (double)missed / (double)samples;
    return FA_OK;
}

/* One round of boosting: from weight (samples), all equal at first, to those for the next draft; their sum
 * is 1.
 *     e = weight of the wrong samples
 *     vote = log((1 - e) / e) + log(classes - 1)
 *     weight *= exp(vote) where wrong
 * classes: of the answers, 2 .. the vocabulary. A draft that is no better than a guess, e >= 1 -
 * 1/classes, gets vote 0 and changes no weight; e below 1e-9 counts as 1e-9. */
static inline fa_status fa_boost_round(double *weight, const uint8_t *wrong, int64_t samples, int64_t classes,
                                       double *vote, fa_error *error) {
    fai_verdict v = {FA_OK, error};
    double sum = 0, e = 0, total = 0;
    fai_want(&v, FA_ERR_BOOST, "samples", (double)samples, 1, INT32_MAX);
    fai_want(&v, FA_ERR_BOOST, "classes", (double)classes, 2, INT32_MAX);
    fai_want_array(&v, FA_ERR_BOOST, "weight", weight, sizeof *weight);
    fai_want_array(&v, FA_ERR_BOOST, "wrong", wrong, 1);
    fai_want_array(&v, FA_ERR_BOOST, "vote", vote, sizeof *vote);
    for (int64_t i = 0; v.status == FA_OK && i < samples; i++) {
        if (!(weight[i] >= 0 && weight[i] <= 1e300))
            fai_refuse(&v, FA_ERR_BOOST, "weight", i, weight[i], 0, 1e300);
        sum += weight[i], e += wrong[i] ? weight[i] : 0;
    }
    fai_want(&v, FA_ERR_BOOST, "weight", sum, 1e-300, 1e300);
    if (v.status != FA_OK) return v.status;
    e /= sum;
    e = e < 1e-9 ? 1e-9 : e;
    const double odds = (1 - e) / e * (double)(classes - 1); /* exp(vote) */
    *vote = odds > 1 ? log(odds) : 0;
    for (int64_t i = 0; i < samples; i++)
        weight[i] = weight[i] / sum * (wrong[i] && odds > 1 ? odds : 1), total += weight[i];
    for (int64_t i = 0; i < samples; i++) weight[i] /= total;
    return FA_OK;
}

/* What the drafts say together: answer (samples), for each sample the one of answers (drafts, samples)
 * with the most votes, ties for the draft that comes first. drafts: 1 .. 64. */
static inline fa_status fa_boost_vote(const int32_t *answers, const double *vote, int64_t drafts,
                                      int64_t samples, int32_t *answer, fa_error *error) {
    fai_verdict v = {FA_OK, error};
    fai_want(&v, FA_ERR_BOOST, "drafts", (double)drafts, 1, 64);
    fai_want(&v, FA_ERR_BOOST, "samples", (double)samples, 1, INT32_MAX);
    fai_want_array(&v, FA_ERR_BOOST, "answers", answers, 4);
    fai_want_array(&v, FA_ERR_BOOST, "vote", vote, sizeof *vote);
    fai_want_array(&v, FA_ERR_BOOST, "answer", answer, 4);
    for (int64_t i = 0; v.status == FA_OK && i < samples; i++) {
        double most = -INFINITY;
        int32_t best = answers[i];
        for (int64_t d = 0; d < drafts; d++) {
            double sum = 0;
            for (int64_t other = 0; other < drafts; other++)
                if (answers[other * samples + i] == answers[d * samples + i]) sum += vote[other];
            if (sum > most) most = sum, best = answers[d * samples + i];
        }
        answer[i] = best;
    }
    return v.status;
}

/* ======================================================================================== */
/* >>planning acceptance, expected tokens, speedup; adaptive draft lengths and trees         */
/* ======================================================================================== */

/* Formulas. Arguments outside their range give NaN. alpha: acceptance of a draft token, 0 .. 1; gamma:
 * draft tokens; c: time of a step of the draft over that of the target model. */

/* The chance that a token drawn from q is accepted: sum of min(p, q) [LEV, corollary 3.6]. What is
 * negative or NaN counts as 0. */
static inline double fa_acceptance(const float *p, const float *q, int64_t vocab) {
    double sum = 0;
    for (int64_t v = 0; v < vocab; v++) {
        const double least = (double)(p[v] < q[v] ? p[v] : q[v]);
        sum += p[v] > 0 && q[v] > 0 ? least : 0;
    }
    return sum;
}

/* Tokens a step, the target model's own one included: 1 + alpha + .. + alpha^gamma [LEV, (1)]. */
static inline double fa_expected_tokens(double alpha, int32_t gamma) {
    double sum = 1;
    if (!(alpha >= 0 && alpha <= 1) || gamma < 0) return (double)NAN;
    for (int32_t i = 0; i < gamma && sum < 1e300; i++) {
        const double more = 1 + alpha * sum;
        if (more == sum) break; /* and so it stays */
        sum = more;
    }
    return sum;
}

/* Wall-clock time of plain decoding over that of speculative decoding [LEV, theorem 3.8]. */
static inline double fa_speedup(double alpha, int32_t gamma, double c) {
    return c >= 0 ? fa_expected_tokens(alpha, gamma) / (gamma * c + 1) : (double)NAN;
}

/* Operations of speculative decoding over those of plain decoding [LEV, theorem 3.11]; c_hat: operations
 * of a step of the draft over those of the target model for one token. */
static inline double fa_operations(double alpha, int32_t gamma, double c_hat) {
    return c_hat >= 0 ? (gamma * c_hat + gamma + 1) / fa_expected_tokens(alpha, gamma) : (double)NAN;
}

/* The gamma 0 .. max_gamma with the greatest speedup; ties: the lower one. -1 for arguments out of range. */
static inline int32_t fa_optimal_gamma(double alpha, double c, int32_t max_gamma, double *speedup) {
    int32_t best = -1;
    double most = 0;
    for (int32_t gamma = 0; gamma <= max_gamma; gamma++) {
        const double x = fa_speedup(alpha, gamma, c);
        if (x > most) most = x, best = gamma;
    }
    if (speedup) *speedup = best < 0 ? (double)NAN : most;
    return best;
}

/* Tokens a step of a shape: the sum over its nodes of the product of acceptance[(depth-1)*stride + rank]
 * along their path [SQ]; stride 0: the same vector (ranks) for all levels, else levels of them. What is
 * beyond counts 0. NaN for what is no tree of ranks. */
static inline double fa_tree_value(const fa_tree *shape, const double *acceptance, int32_t ranks,
                                   int32_t levels, int64_t stride) {
    double value[FA_TREE_MAX_NODES], sum = 0;
    int32_t depth[FA_TREE_MAX_NODES];
    fai_verdict v = {FA_OK, NULL};
    fai_want_tree(&v, shape, 0);
    if (v.status != FA_OK || !shape->rank || !acceptance) return (double)NAN;
    const fa_trees view = fa_tree_view(shape);
    if (fa_trees_check(&view, 0, NULL) != FA_OK) return (double)NAN;
    for (int32_t i = 0; i < shape->num_nodes; i++) {
        const int32_t up = shape->parent[i], rank = shape->rank[i];
        depth[i] = i ? depth[up] + 1 : 0, value[i] = 1;
        if (i)
            value[i] = rank >= 0 && rank < ranks && (!stride || depth[i] <= levels)
                           ? value[up] * acceptance[(depth[i] - 1) * stride + rank]
                           : 0;
        sum += value[i];
    }
    return sum;
}

/* What no tree whose nodes have at most k children can exceed: 1 / (1 - P), P = acceptance[0] + .. +
 * acceptance[k-1]; a chain is k = 1 [SQ]. INFINITY if P is 1 or more. */
static inline double fa_tree_limit(const double *acceptance, int32_t k) {
    double rest = 1;
    for (int32_t r = 0; r < k; r++) rest -= acceptance[r];
    return rest > 0 ? 1 / rest : (double)INFINITY;
}

/* Draft tokens accepted, on average, of gamma that were drawn from q: by enumeration, for small
 * vocabularies. Rows of p and q (., vocab) are numbered by what comes before: 0 for nothing, and row n
 * followed by token x is row n*vocab + 1 + x; those of fewer than gamma tokens are there. block 0: one
 * token after the other [LEV]; 1: block verification [BV]. NaN beyond 2^24 sequences. */
typedef struct fai_law {
    const double *p, *q;
    int64_t vocab;
    int32_t gamma, block;
} fai_law;

/* From row n, which depth tokens lead to, on: expected number of the last one accepted among them, if any
 * is; *none: the chance that none is. kept: p_i of [BV], the share of the target's probability that may
 * still be accepted. */
static inline double fai_law_block(const fai_law *l, int64_t n, int32_t depth, double kept, double *none) {
    double h = kept, sum = 0;
    *none = 1;
    if (depth < l->gamma) {
        const double *p = l->p + n * l->vocab, *q = l->q + n * l->vocab;
        double residual = 0;
        *none = 0;
        for (int64_t x = 0; x < l->vocab; x++) {
            const double more = kept * p[x] - q[x], next = q[x] > 0 ? kept * p[x] / q[x] : 0;
            double rest = 0;
            residual += more > 0 ? more : 0;
            if (!(q[x] > 0)) continue;
            sum += q[x] * fai_law_block(l, n * l->vocab + 1 + x, depth + 1, next < 1 ? next : 1, &rest);
            *none += q[x] * rest;
        }
        h = residual + 1 - kept > 0 ? residual / (residual + 1 - kept) : 1;
    }
    sum += *none * h * depth;
    *none *= 1 - h;
    return sum;
}
static inline double fai_law_tokens(const fai_law *l, int64_t n, int32_t depth) {
    const double *p = l->p + n * l->vocab, *q = l->q + n * l->vocab;
    double sum = 0;
    if (depth == l->gamma) return 0;
    for (int64_t x = 0; x < l->vocab; x++) {
        const double both = p[x] < q[x] ? p[x] : q[x];
        if (both > 0) sum += both * (1 + fai_law_tokens(l, n * l->vocab + 1 + x, depth + 1));
    }
    return sum;
}
static inline double fa_chain_expected(const double *p, const double *q, int32_t vocab, int32_t gamma,
                                       int block) {
    const fai_law l = {p, q, vocab, gamma, block};
    double none, sequences = 1;
    if (!p || !q || vocab < 1 || gamma < 0 || gamma > 24) return (double)NAN;
    for (int32_t i = 0; i < gamma; i++) sequences *= vocab;
    if (sequences > 0x1p24) return (double)NAN;
    return block ? fai_law_block(&l, 0, 0, 1, &none) : fai_law_tokens(&l, 0, 0);
}

/* ---- acceptance, as it is observed ---- */

/* Of one request: an average in which older steps count less, and which begins as a prior. */
typedef struct fa_estimator {
    double prior, count;    /* acceptance before anything is known, and how many tokens that is worth; > 0 */
    double keep;            /* what the past is worth after a step, 0 .. 1; 1: nothing is forgotten */
    double accepted, tried; /* 0 at first */
} fa_estimator;

/* After a step of `drafted` tokens in a row, the first `accepted` of which were: these, and one that was
 * rejected, were tried; what comes behind it tells nothing. */
static inline fa_status fa_estimator_update(fa_estimator *e, int32_t drafted, int32_t accepted,
                                            fa_error *error) {
    fai_verdict v = {FA_OK, error};
    if (!e) return FA_ERR_ARGS_NULL;
    fai_want(&v, FA_ERR_PROBABILITY, "keep", e->keep, 0, 1);
    fai_want(&v, FA_ERR_PLAN, "drafted", drafted, 0, INT32_MAX);
    fai_want(&v, FA_ERR_PLAN, "accepted", accepted, 0, drafted);
    if (v.status != FA_OK) return v.status;
    e->accepted = e->keep * e->accepted + accepted;
    e->tried = e->keep * e->tried + accepted + (accepted < drafted);
    return FA_OK;
}
static inline double fa_estimator_alpha(const fa_estimator *e) {
    return (e->prior * e->count + e->accepted) / (e->count + e->tried);
}

/* The same for trees: how often the child of each rank is the one that is accepted, which is the
 * `acceptance` of fa_sequoia. */
typedef struct fa_rank_estimator {
    int32_t ranks;
    const double *prior; /* (ranks) */
    double count, keep;  /* as above, in nodes */
    double *hits;        /* (ranks): 0 at first, as is tried */
    double *tried;       /* (ranks): nodes that had a child of this rank */
} fa_rank_estimator;

/* After a step that accepted these nodes of the tree, in a row from a child of the root on (the root not
 * among them). Ranks are by the order of siblings. */
static inline fa_status fa_rank_update(fa_rank_estimator *e, const fa_tree *tree, const int32_t *accepted,
                                       int32_t num, fa_error *error) {
    fai_verdict v = {FA_OK, error};
    if (!e) return FA_ERR_ARGS_NULL;
    fai_want_tree(&v, tree, 0);
    if (v.status != FA_OK) return v.status;
    const fa_trees view = fa_tree_view(tree);
    v.status = fa_trees_check(&view, 0, error);
    fai_want(&v, FA_ERR_PROBABILITY, "keep", e->keep, 0, 1);
    fai_want(&v, FA_ERR_PLAN, "ranks", e->ranks, 1, INT32_MAX);
    fai_want_array(&v, FA_ERR_PLAN, "hits", e->hits, sizeof *e->hits);
    fai_want_array(&v, FA_ERR_PLAN, "tried", e->tried, sizeof *e->tried);
    fai_want(&v, FA_ERR_PLAN, "num", num, 0, FA_TREE_MAX_NODES - 1);
    if (num > 0) fai_want_array(&v, FA_ERR_PLAN, "accepted", accepted, 4);
    for (int32_t i = 0; v.status == FA_OK && i < num; i++)
        if (accepted[i] < 1 || accepted[i] >= tree->num_nodes ||
            tree->parent[accepted[i]] != (i ? accepted[i - 1] : 0))
            fai_refuse(&v, FA_ERR_PLAN, "accepted", i, accepted[i], 1, tree->num_nodes - 1);
    if (v.status != FA_OK) return v.status;
    for (int32_t r = 0; r < e->ranks; r++) e->hits[r] *= e->keep, e->tried[r] *= e->keep;
    for (int32_t i = 0; i <= num; i++) {
        const int32_t node = i ? accepted[i - 1] : 0;
        int32_t rank = 0;
        for (int32_t child = node + 1; child < tree->num_nodes && rank < e->ranks; child++) {
            if (tree->parent[child] != node) continue;
            e->tried[rank] += 1, e->hits[rank] += i < num && child == accepted[i], rank++;
        }
    }
    return FA_OK;
}
static inline void fa_rank_acceptance(const fa_rank_estimator *e, double *acceptance) {
    for (int32_t r = 0; r < e->ranks; r++)
        acceptance[r] = (e->prior[r] * e->count + e->hits[r]) / (e->count + e->tried[r]);
}

/* ---- choices by measured costs ---- */

/* Times of one machine, in any unit. */
typedef struct fa_cost {
    int32_t count;
    const int32_t *tokens; /* (count): tokens in one run of the target model, of all requests; rising, >= 1 */
    const double *seconds; /* (count): of that run. Straight lines between them; before the first: the first;
                              behind the last: on with the last slope, if that is not below 0 */
    double draft;          /* one step of the draft, for all requests together */
    double base;           /* whatever else a step takes */
} fa_cost;

static inline fa_status fa_cost_check(const fa_cost *c, fa_error *error) {
    fai_verdict v = {FA_OK, error};
    if (!c) return FA_ERR_ARGS_NULL;
    fai_want(&v, FA_ERR_COST, "count", c->count, 1, INT32_MAX);
    fai_want_array(&v, FA_ERR_COST, "tokens", c->tokens, 4);
    fai_want_array(&v, FA_ERR_COST, "seconds", c->seconds, sizeof *c->seconds);
    fai_want(&v, FA_ERR_COST, "draft", c->draft, 0, 1e300);
    fai_want(&v, FA_ERR_COST, "base", c->base, 0, 1e300);
    for (int32_t i = 0; v.status == FA_OK && i < c->count; i++) {
        if (c->tokens[i] < 1 || (i && c->tokens[i] <= c->tokens[i - 1]))
            fai_refuse(&v, FA_ERR_COST, "tokens", i, c->tokens[i], i ? c->tokens[i - 1] + 1.0 : 1, INT32_MAX);
        else if (!(c->seconds[i] > 0 && c->seconds[i] <= 1e300))
            fai_refuse(&v, FA_ERR_COST, "seconds", i, c->seconds[i], 0, 1e300);
    }
    return v.status;
}

/* A run of the target model. */
static inline double fa_cost_target(const fa_cost *c, double tokens) {
    int32_t i = 1;
    if (c->count == 1 || tokens <= c->tokens[0]) return c->seconds[0];
    while (i < c->count - 1 && tokens > c->tokens[i]) i++;
    double slope = (c->seconds[i] - c->seconds[i - 1]) / ((double)c->tokens[i] - c->tokens[i - 1]);
    if (tokens > c->tokens[i] && slope < 0) slope = 0;
    return c->seconds[i] + slope * (tokens - c->tokens[i]);
}

/* A step that verifies so many tokens after so many steps of the draft. */
static inline double fa_cost_step(const fa_cost *c, double tokens, int32_t steps) {
    return fa_cost_target(c, tokens) + steps * c->draft + c->base;
}

/* The same gamma, 0 .. max_gamma, for all requests of a batch: the most tokens per time; ties: the lower
 * one. *rate, optional: that many. */
static inline fa_status fa_choose_gamma(double alpha, const fa_cost *cost, int32_t batch, int32_t max_gamma,
                                        int32_t *gamma, double *rate, fa_error *error) {
    fai_verdict v = {fa_cost_check(cost, error), error};
    double most = 0;
    fai_want(&v, FA_ERR_PROBABILITY, "alpha", alpha, 0, 1);
    fai_want(&v, FA_ERR_PLAN, "batch", batch, 1, INT32_MAX);
    fai_want(&v, FA_ERR_PLAN, "max_gamma", max_gamma, 0, FA_TREE_MAX_NODES - 1);
    fai_want_array(&v, FA_ERR_PLAN, "gamma", gamma, 4);
    for (int32_t n = 0; v.status == FA_OK && n <= max_gamma; n++) {
        const double x =
            batch * fa_expected_tokens(alpha, n) / fa_cost_step(cost, (double)batch * (n + 1), n);
        if (x > most) most = x, *gamma = n;
    }
    if (rate && v.status == FA_OK) *rate = most;
    return v.status;
}

/* Bytes for fa_choose_gammas, aligned to 8. */
static inline size_t fa_choose_gammas_workspace(int32_t batch, int32_t max_gamma) {
    return batch > 0 && max_gamma > 0 ? (size_t)batch * (size_t)max_gamma * sizeof(uint64_t) : 0;
}

/* A gamma for each request by its own alpha (batch), the most tokens per time of all together: those
 * tokens are drafted that are the likeliest to be accepted, and as many of them as pay. The draft takes as
 * many steps as the largest gamma. Ties are broken for fewer tokens, then for requests that come first;
 * likelihoods are compared as floats. */
static inline fa_status fa_choose_gammas(const double *alpha, int32_t batch, const fa_cost *cost,
                                         int32_t max_gamma, int32_t *gamma, double *rate, void *workspace,
                                         size_t bytes, fa_error *error) {
    fai_verdict v = {fa_cost_check(cost, error), error};
    uint64_t *key = (uint64_t *)workspace;
    int32_t n = 0, best_steps = 0, best_count = 0;
    fai_want(&v, FA_ERR_PLAN, "batch", batch, 1, INT32_MAX);
    fai_want(&v, FA_ERR_PLAN, "max_gamma", max_gamma, 0, FA_TREE_MAX_NODES - 1);
    fai_want(&v, FA_ERR_PLAN, "batch * max_gamma", (double)batch * max_gamma, 0, INT32_MAX);
    fai_want_array(&v, FA_ERR_PLAN, "alpha", alpha, sizeof *alpha);
    fai_want_array(&v, FA_ERR_PLAN, "gamma", gamma, 4);
    for (int32_t b = 0; v.status == FA_OK && b < batch; b++)
        if (!(alpha[b] >= 0 && alpha[b] <= 1)) fai_refuse(&v, FA_ERR_PROBABILITY, "alpha", b, alpha[b], 0, 1);
    if (v.status == FA_OK && max_gamma) {
        fai_want_array(&v, FA_ERR_WORKSPACE_NULL, "workspace", workspace, 8);
        fai_want(&v, FA_ERR_WORKSPACE_SIZE, "bytes", (double)bytes,
                 (double)fa_choose_gammas_workspace(batch, max_gamma), 0x1p62);
    }
    if (v.status != FA_OK) return v.status;
    for (int32_t b = 0; b < batch; b++) {
        double likely = 1;
        for (int32_t i = 0; i < max_gamma; i++)
            likely *= alpha[b], key[n++] = fai_score_key((float)likely, i * batch + b);
    }
    fai_sort(key, n);
    double most = batch / fa_cost_step(cost, batch, 0);
    for (int32_t steps = 1; steps <= max_gamma; steps++) { /* tokens up to that place of their request */
        double expected = batch;
        for (int32_t i = 0, count = 0; i < n; i++) {
            if ((int32_t)(~(uint32_t)key[i] / (uint32_t)batch) >= steps) continue;
            expected += (double)fai_key_score(key[i]), count++;
            const double x = expected / fa_cost_step(cost, (double)batch + count, steps);
            if (x > most) most = x, best_steps = steps, best_count = count;
        }
    }
    for (int32_t b = 0; b < batch; b++) gamma[b] = 0;
    for (int32_t i = 0; best_count > 0; i++) {
        const uint32_t index = ~(uint32_t)key[i];
        if ((int32_t)(index / (uint32_t)batch) < best_steps) gamma[index % (uint32_t)batch]++, best_count--;
    }
    if (rate) *rate = most;
    return FA_OK;
}

/* Nodes and depth of the tree of fa_sequoia (its args and workspace) with the most tokens per time, when
 * each of batch requests gets such a tree; ties: the shallower, then the smaller one. One node: do not
 * draft. */
static inline fa_status fa_choose_tree(const fa_sequoia_args *args, const void *workspace, size_t bytes,
                                       const fa_cost *cost, int32_t batch, int32_t *nodes, int32_t *depth,
                                       double *rate) {
    fai_verdict v = {fai_sequoia_memory(args, workspace, bytes), args ? args->error : NULL};
    double most = 0;
    if (v.status == FA_OK) v.status = fa_cost_check(cost, v.error);
    fai_want(&v, FA_ERR_PLAN, "batch", batch, 1, INT32_MAX);
    fai_want_array(&v, FA_ERR_PLAN, "nodes", nodes, 4);
    fai_want_array(&v, FA_ERR_PLAN, "depth", depth, 4);
    if (v.status != FA_OK) return v.status;
    for (int32_t d = 0; d <= args->max_depth; d++)
        for (int32_t n = 1; n <= args->max_nodes; n++) {
            const double x =
                batch * fa_sequoia_value(args, workspace, n, d) / fa_cost_step(cost, (double)batch * n, d);
            if (x > most) most = x, *nodes = n, *depth = d;
        }
    if (rate) *rate = most;
    return FA_OK;
}

/* How many of the first nodes of a tree to verify that is there already, for each of batch requests:
 * likely (count), the chance of each node to be accepted, 1 for the root: exp(score) of fa_dynamic,
 * products of fa_tree_greedy. Any first nodes must be a tree. The draft's time is spent and does not
 * count. */
static inline fa_status fa_choose_nodes(const double *likely, int32_t count, const fa_cost *cost,
                                        int32_t batch, int32_t *nodes, double *rate, fa_error *error) {
    fai_verdict v = {fa_cost_check(cost, error), error};
    double sum = 0, most = 0;
    fai_want(&v, FA_ERR_PLAN, "count", count, 1, FA_TREE_MAX_NODES);
    fai_want(&v, FA_ERR_PLAN, "batch", batch, 1, INT32_MAX);
    fai_want_array(&v, FA_ERR_PLAN, "likely", likely, sizeof *likely);
    fai_want_array(&v, FA_ERR_PLAN, "nodes", nodes, 4);
    for (int32_t i = 0; v.status == FA_OK && i < count; i++)
        if (!(likely[i] >= 0 && likely[i] <= 1))
            fai_refuse(&v, FA_ERR_PROBABILITY, "likely", i, likely[i], 0, 1);
    for (int32_t i = 0; v.status == FA_OK && i < count; i++) {
        sum += likely[i];
        const double x = batch * sum / fa_cost_step(cost, (double)batch * (i + 1), 0);
        if (x > most) most = x, *nodes = i + 1;
    }
    if (rate && v.status == FA_OK) *rate = most;
    return v.status;
}

#endif /* FA_FLASHATTN_SPEC_H */

#if defined(FA_CUDA_SPEC) && !defined(FAI_CUDA_SPEC)
#define FAI_CUDA_SPEC
/* ======================================================================================== */
/* >>cuda     the same on the GPU                                                            */
/* ======================================================================================== */

/*  Compiled by nvcc if FA_CUDA_SPEC is defined before an include, the first one or a later one. What is said
 *  above holds: the same structs, with pointers to device memory, and the same tokens, flags and coins.
 *
 *      fa_sample_cuda           one launch, a thread block for each row
 *      fa_verify_chain_cuda     vocabularies of up to 4096: one launch, a thread block for each request.
 *      fa_verify_tree_cuda      Others: max and sum, of rows that need statistics (all but f32 FA_PROBS
 *                               without sampling parameters; all for GREEDY and TYPICAL); cut, if there are
 *                               top_k, top_p or min_p, or for TYPICAL; walk, which decides; draw (not for
 *                               GREEDY)
 *
 *  max and sum split each row among up to 32 thread blocks, draw that of the last token likewise. walk is one
 *  warp for each request. One thread block works alone on a row that is cut, on the entropy of TYPICAL, and,
 *  in walk, on Z of BLOCK and on what is left after a second sibling.
 *
 *  Reads.  FA_VERIFY_TOKEN of f32 FA_PROBS: single entries of p and q for each draft, the two rows at the
 *  place of rejection (or the last row of p) once, and 1/251 of them, or 512 entries, again. Rows with
 *  statistics are read twice for them, all rows of a request, whatever is accepted. Nothing is filled with
 *  zeros.
 *
 *  No call allocates, synchronises or keeps state, and each may be captured in a graph. Arrays are in device
 *  memory, hence what they hold is not checked: sizes, parents, request numbers and parameters must be what
 *  the calls of the CPU accept; a token that is no token is rejected. args, error and draft_sampling are in
 *  host memory, and may change when the call is back. The workspace is device memory of any content; calls
 *  that may run at the same time need their own. .._launch: the launches of a call in their order, for
 *  information; kernel NULL for what it does without. */

#if !defined(__CUDACC__)
#error "flashattn_spec.h: FA_CUDA_SPEC needs nvcc (a .cu file, or -x cu)"
#endif
#include "flashattn_cuda.cuh"

#define FA_SPEC_LAUNCHES 5 /* of a verification, at most */
#define FAI_SPEC_THREADS 256
#define FAI_SPEC_WARPS (FAI_SPEC_THREADS / 32)
#define FAI_SPEC_PARTS 32         /* of a row, at most: a warp adds them up */
#define FAI_SPEC_ONE_LAUNCH 4096  /* ids that a thread block reads in about the time of a launch */
#define FAI_SPEC_PART_LENGTH 8192 /* ids of a part, at least: 32 for each thread */

/* Statistics of a row that is to be prepared. */
typedef struct fai_record {
    fai_row row;
    int32_t best, parts; /* parts: sums that scale is still to be made from; 0: it is there */
    uint64_t entropy;    /* FA_VERIFY_TYPICAL */
} fai_record;

/* What the last token is drawn from, besides rows p and q; a fai_mass by value. */
typedef struct fai_last_draw {
    int32_t active, has_q, num_skip, slot; /* slot: column of tokens */
    uint64_t ratio, coin;
    const uint64_t *weights;
} fai_last_draw;

typedef struct fai_spec_job {
    fa_verify_args a;
    fa_sampling sampling[2];             /* of target, of draft */
    int32_t tree, batch, nodes, max_out; /* nodes: the most of a request, root included */
    int32_t one_launch, parts;
    int32_t prepare[2]; /* target, draft: do rows have statistics? */
    /* workspace; a row is number (side * batch + b) * nodes + node */
    fai_record *records; /* (rows) */
    uint64_t *tops;      /* (rows, parts) */
    fai_sum *sums;       /* (rows, parts) */
    uint32_t *bads;      /* (rows, parts) */
    uint32_t *counters;  /* (batch): thread blocks that are done with draw */
    uint32_t *draw_bads; /* (batch) */
    fai_last_draw *draws;
    fai_row *draw_rows;  /* (batch, 2) */
    uint64_t *draw_sums; /* (batch, 256) */
    int32_t *skips;      /* (batch, nodes) */
    uint64_t *weights;   /* (batch, 2, vocab) */
} fai_spec_job;

/* A thread block at work on a request or on a row. */
typedef struct fai_team {
    fai_row row[2];     /* p, q */
    int32_t best, last; /* last: is this the last thread block? */
    uint64_t entropy;
    fai_sum warp[32];
    fai_last_draw draw;
    int32_t skip[FA_TREE_MAX_NODES];
    uint64_t sum[256];            /* of a fai_sums */
    uint64_t low[256], high[256]; /* sums by digit: of the lower 32 bits of units, and of the rest */
    uint32_t count[256];
    fai_sum units; /* before the digit */
    int64_t before;
    int32_t digit;
    int32_t depth[FA_TREE_MAX_NODES];
    uint64_t score[FA_TREE_MAX_NODES]; /* FA_VERIFY_TYPICAL; FA_VERIFY_BLOCK: its a */
} fai_team;

typedef struct fai_filter {
    float temperature, top_p, min_p;
    int32_t top_k;
} fai_filter;

/* Compilers read rows ahead of the condition that says whether they are there. A barrier must follow. */
FAI_ATOM void fai_team_clear(fai_team *t) {
    const fai_row row = {NULL, FA_F32, 1, FA_PROBS, 0, -1, 0, 0, 0, 0, 0, 0, 0, {0, 0, 0}, NULL};
    const fai_last_draw draw = {0, 0, 0, 0, 0, 0, NULL};
    if (threadIdx.x == 0) t->row[0] = t->row[1] = row, t->draw = draw;
}

/* ---- sums and maxima of a team ---- */

FAI_ATOM fai_sum fai_sum_plus(fai_sum a, fai_sum b) {
    a.lo += b.lo, a.hi += b.hi + (a.lo < b.lo);
    return a;
}
FAI_ATOM fai_sum fai_warp_add(fai_sum x) {
#pragma unroll
    for (int step = 16; step; step >>= 1) {
        const fai_sum y = {__shfl_xor_sync(~0u, x.hi, step), __shfl_xor_sync(~0u, x.lo, step)};
        x = fai_sum_plus(x, y);
    }
    return x;
}
FAI_ATOM uint64_t fai_warp_max(uint64_t x) {
#pragma unroll
    for (int step = 16; step; step >>= 1) {
        const uint64_t y = __shfl_xor_sync(~0u, x, step);
        if (y > x) x = y;
    }
    return x;
}
/* Both also are a barrier: what threads wrote before, all see after. */
FAI_ATOM fai_sum fai_team_add(fai_team *t, fai_sum x) {
    x = fai_warp_add(x);
    __syncthreads(); /* warp[] is free */
    if (threadIdx.x % 32 == 0) t->warp[threadIdx.x / 32] = x;
    __syncthreads(); /* warp[] is there */
    fai_sum r = t->warp[0];
    for (unsigned w = 1; w < blockDim.x / 32; w++) r = fai_sum_plus(r, t->warp[w]);
    return r;
}
FAI_ATOM uint64_t fai_team_max(fai_team *t, uint64_t x) {
    x = fai_warp_max(x);
    __syncthreads(); /* warp[] is free */
    if (threadIdx.x % 32 == 0) t->warp[threadIdx.x / 32].lo = x;
    __syncthreads(); /* warp[] is there */
    uint64_t r = t->warp[0].lo;
    for (unsigned w = 1; w < blockDim.x / 32; w++)
        if (t->warp[w].lo > r) r = t->warp[w].lo;
    return r;
}
FAI_ATOM uint64_t fai_cap(fai_sum x) { return x.hi || x.lo >> 62 ? (uint64_t)1 << 62 : x.lo; }

/* ---- rows ---- */

FAI_ATOM fai_filter fai_filter_of(const fa_sampling *s, int64_t b) {
    const fai_filter f = {s->temperature ? s->temperature[b] : 1, s->top_p ? s->top_p[b] : 0,
                          s->min_p ? s->min_p[b] : 0, s->top_k ? s->top_k[b] : 0};
    return f;
}
FAI_ATOM int fai_filter_cuts(const fai_filter *f) {
    return f->top_k > 0 || (f->top_p > 0 && f->top_p < 1) || f->min_p > 0;
}

/* fai_row_open; kind is FA_PROBS if there is nothing to prepare. */
FAI_ATOM fai_row fai_row_begin(const fa_rows *rows, int64_t index, int32_t vocab, const fai_filter *f) {
    const fa_dtype dtype = rows->dtype ? rows->dtype : FA_F32;
    const int64_t stride = rows->stride ? rows->stride : vocab;
    fai_row row;
    memset(&row, 0, sizeof row);
    row.data = (const char *)rows->data + index * stride * (dtype == FA_F32 ? 4 : 2);
    row.dtype = dtype, row.vocab = vocab, row.only = -1, row.kind = rows->kind ? rows->kind : FA_LOGITS;
    if (row.kind == FA_PROBS && (dtype != FA_F32 || fai_filter_cuts(f) || f->temperature == 0))
        row.kind = FA_WEIGHTS;
    return row;
}

/* The largest of entries from .. to-1 as key and ~id: the first of equals is the largest number.  bad: does
 * an entry count as 0? */
static __device__ uint64_t fai_team_top(fai_team *t, const fai_row *row, int32_t from, int32_t to, int *bad) {
    uint32_t top = 0;
    int64_t best = threadIdx.x + (int64_t)from;
    int odd = 0;
#pragma unroll 4
    for (int64_t id = best; id < to; id += blockDim.x) {
        const float x = fai_row_load(row, id);
        const uint32_t key = fai_key_of(row->kind, x);
        odd |= row->kind == FA_LOGITS ? key == 0 || key == 0xff800000u
                                      : fai_bad_weight(fai_bits_of(x), 0x7f800000u);
        if (key > top) top = key, best = id;
    }
    *bad = __syncthreads_or(odd);
    return fai_team_max(t, best < to ? (uint64_t)top << 32 | ~(uint32_t)best : 0);
}
FAI_ATOM int32_t fai_top_id(uint64_t top) { return (int32_t) ~(uint32_t)top; }

/* The part of fai_row_prepare that needs the largest entry alone. */
FAI_ATOM void fai_row_rate(fai_row *row, uint64_t top, int bad, const fai_filter *f) {
    const uint32_t key = (uint32_t)(top >> 32);
    const int32_t best = fai_top_id(top);
    row->top = fai_row_load(row, best);
    if (bad) row->bad = 1;
    if (key <= (row->kind == FA_LOGITS ? 0x007fffffu : 0x80000000u))
        row->bad = 1, row->only = best;
    else if (f->temperature == 0 || (row->kind == FA_LOGITS && key == 0xff800000u))
        row->only = best;
    if (row->only >= 0) return;
    row->exponent = (int32_t)(fai_bits_of(row->top) >> 23) - 127;
    if (row->exponent < -126) row->exponent = -126;
    if (row->kind == FA_LOGITS) fai_row_temperature(row, f->temperature);
    row->cut_id = row->vocab - 1;
}

/* Units of what is left among ids from .. to-1. */
static __device__ fai_sum fai_team_units(fai_team *t, const fai_row *row, int32_t from, int32_t to) {
    const int cut = row->cut_key || row->least;
    fai_sum total = {0, 0};
#pragma unroll 2
    for (int64_t id = from + (int32_t)threadIdx.x; id < to; id += blockDim.x) {
        const uint64_t unit = fai_unit(row, (int32_t)id);
        if (!cut || fai_kept(row, (int32_t)id, fai_row_key(row, (int32_t)id), unit))
            total = fai_sum_add(total, unit);
    }
    return fai_team_add(t, total);
}

/* fai_row_cut: bins in shared memory, whose sums do not depend on the order of additions. */
static __device__ void fai_team_cut(fai_team *t, fai_row *row, int64_t k, uint32_t share, fai_sum total) {
    const fai_sum wanted = fai_sum_share(total, share);
    const uint32_t old_key = row->cut_key;
    const int32_t old_id = row->cut_id, block = fai_sums_block(row->vocab);
    const int thread = (int)threadIdx.x, threads = (int)blockDim.x, lane = thread % 32;
    uint32_t prefix = 0;
    if (thread == 0) t->units.hi = t->units.lo = 0, t->before = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        for (int n = thread; n < 256; n += threads) t->low[n] = t->high[n] = 0, t->count[n] = 0;
        __syncthreads(); /* bins are empty */
#pragma unroll 1
        for (int64_t id = thread; id < row->vocab; id += threads) {
            const uint32_t key = fai_row_key(row, (int32_t)id), digit = key >> shift & 255;
            if (shift < 24 && key >> (shift + 8) != prefix) continue;
            if (key < old_key || (key == old_key && id > old_id)) continue;
            const uint64_t unit = fai_unit(row, (int32_t)id);
            atomicAdd((unsigned long long *)&t->low[digit], (unsigned long long)(uint32_t)unit);
            atomicAdd((unsigned long long *)&t->high[digit], (unsigned long long)(unit >> 32));
            atomicAdd(&t->count[digit], 1u);
        }
        __syncthreads(); /* bins are full */
        if (thread == 0) {
            fai_sum units = t->units;
            int64_t before = t->before;
            int digit = 255;
            for (; digit > 0; digit--) {
                const fai_sum high = {t->high[digit] >> 32, t->high[digit] << 32},
                              next = fai_sum_plus(units, fai_sum_add(high, t->low[digit]));
                if (k ? before + t->count[digit] >= k : t->count[digit] && !fai_sum_less(next, wanted)) break;
                units = next, before += t->count[digit];
            }
            t->units = units, t->before = before, t->digit = digit;
        }
        __syncthreads(); /* the digit is known, the bins are free */
        prefix = prefix << 8 | (uint32_t)t->digit;
    }
    /* Which of the ids that have this key is the last? Number m (1 ..), or the last one at all. */
    const int32_t blocks = (int32_t)((row->vocab - 1) / block + 1);
    uint64_t equal = 0;
    for (int32_t n = thread / 32; n < blocks; n += threads / 32) {
        uint32_t count = 0;
        for (int64_t id = (int64_t)n * block + lane; id < row->vocab && id < ((int64_t)n + 1) * block;
             id += 32)
            if (fai_row_key(row, (int32_t)id) == prefix && (prefix != old_key || id <= old_id))
                count++, equal = fai_unit(row, (int32_t)id);
        count = __reduce_add_sync(~0u, count);
        if (lane == 0) t->count[n] = count;
    }
    equal = fai_team_max(t, equal); /* and counts are there */
    if (thread < 32) {
        int64_t all = 0, m = 1;
        for (int32_t n = 0; n < blocks; n++) all += t->count[n];
        if (k) {
            m = k - t->before;
        } else { /* the least m with units + m equal >= wanted */
            int64_t most = all > 0 ? all : 1;
            while (m < most) {
                const int64_t middle = (m + most) / 2;
                const fai_sum x = {fai_mulhi(equal, (uint64_t)middle), equal * (uint64_t)middle};
                if (fai_sum_less(fai_sum_plus(t->units, x), wanted))
                    m = middle + 1;
                else
                    most = middle;
            }
        }
        if (m > all) m = all;
        int32_t n = 0, last = row->vocab - 1;
        if (all > 0) {
            for (; m > t->count[n]; n++) m -= t->count[n];
            for (int64_t base = (int64_t)n * block;; base += 32) {
                const int64_t id = base + lane;
                const int is = id < row->vocab && fai_row_key(row, (int32_t)id) == prefix &&
                               (prefix != old_key || id <= old_id);
                uint32_t found = __ballot_sync(~0u, is);
                if (m > __popc(found)) {
                    m -= __popc(found);
                    continue;
                }
                for (; m > 1; m--) found &= found - 1;
                last = (int32_t)base + __ffs((int)found) - 1;
                break;
            }
        }
        __syncwarp();
        if (thread == 0) row->cut_key = prefix, row->cut_id = last;
    }
    __syncthreads(); /* the row is cut */
}

/* The rest of fai_row_prepare, of a row that is not `only`: top-k, top-p, min-p. */
static __device__ void fai_team_prepare(fai_team *t, fai_row *row, int32_t best, const fai_filter *f) {
    fai_sum total = {0, 0};
#pragma unroll 1 /* the code of each pass once */
    for (int pass = 0; pass < 3; pass++) {
        if (pass == 0 && !(f->top_k > 0 && f->top_k < row->vocab)) continue;
        if (pass == 1 && !(f->top_p > 0 && f->top_p < 1)) continue;
        if (pass == 2 && f->min_p > 0) {
            if (threadIdx.x == 0) {
                const uint64_t largest = fai_unit(row, best);
                row->least = f->min_p >= 1
                                 ? largest
                                 : fai_mulhi(largest << 6, fai_fixed(fai_bits_of(f->min_p), 0) << 6);
            }
            __syncthreads(); /* least is there */
        }
        if (pass) total = fai_team_units(t, row, 0, row->vocab);
        if (pass < 2)
            fai_team_cut(t, row, pass ? 0 : f->top_k,
                         pass ? (uint32_t)(fai_fixed(fai_bits_of(f->top_p), 0) >> 28) : 0, total);
    }
    if (threadIdx.x == 0) row->scale = fai_scale_to_one(total);
    __syncthreads(); /* the row is a distribution */
}

/* A row by the team alone; its largest entry, if anybody wants it. */
static __device__ int32_t fai_team_open(fai_team *t, fai_row *row, const fa_rows *rows, int64_t index,
                                        int32_t vocab, const fai_filter *f, int32_t rule) {
    int bad;
    __syncthreads(); /* nobody looks at *row any more */
    if (threadIdx.x == 0) *row = fai_row_begin(rows, index, vocab, f);
    __syncthreads(); /* the row has begun */
    const int plain = row->kind == FA_PROBS;
    if (plain && rule != FA_VERIFY_GREEDY) return -1;
    const uint64_t top = fai_team_top(t, row, 0, vocab, &bad);
    if (threadIdx.x == 0 && !plain) fai_row_rate(row, top, bad, f);
    __syncthreads(); /* the row has a unit */
    if (row->only < 0 && rule != FA_VERIFY_GREEDY) fai_team_prepare(t, row, fai_top_id(top), f);
    return fai_top_id(top);
}

static __device__ int32_t fai_team_argmax(fai_team *t, const fai_row *row) {
    int bad;
    return fai_top_id(fai_team_top(t, row, 0, row->vocab, &bad));
}

/* fai_weight, and does the entry count as 0 that is not? */
FAI_ATOM uint64_t fai_weight_judged(const fai_row *row, int32_t id, int *bad) {
    if (row->kind != FA_PROBS) return fai_weight(row, id);
    const float x = ((const float *)row->data)[id];
    const uint32_t bits = fai_bits_of(x);
    *bad |= fai_bad_weight(bits, 0x40000000u);
    return bits >= 0x40000000u ? 0 : __float2ull_rn(x * 0x1p52f); /* fai_fixed: the product is exact */
}
/* Of a token that may be anything. */
FAI_ATOM uint64_t fai_weight_of_token(const fai_row *row, int32_t token, int *bad) {
    return token >= 0 && token < row->vocab ? fai_weight_judged(row, token, bad) : 0;
}

/* Sum of fai_entropy over a row; it is judged then. */
static __device__ uint64_t fai_team_entropy(fai_team *t, fai_row *row) {
    fai_sum entropy = {0, 0};
    int bad = 0;
    for (int64_t id = threadIdx.x; id < row->vocab; id += blockDim.x)
        entropy = fai_sum_add(entropy, fai_entropy(fai_weight_judged(row, (int32_t)id, &bad)));
    bad = __syncthreads_or(bad);
    if (threadIdx.x == 0 && bad) row->bad = 1;
    return fai_team_add(t, entropy).lo;
}

/* ---- draws ---- */

FAI_ATOM fai_mass fai_team_mass(fai_team *t) {
    const fai_mass m = {&t->row[0],     t->draw.has_q ? &t->row[1] : NULL,
                        t->draw.ratio,  t->draw.weights,
                        t->skip,        t->draw.num_skip,
                        t->row[0].vocab};
    return m;
}

/* Sums of blocks from .. to-1 of the mass, skipped ids included; 1: p has entries that count as 0, 2: q. */
static __device__ uint32_t fai_team_sums(fai_team *t, int32_t from, int32_t to) {
    const fai_mass m = fai_team_mass(t);
    const int32_t block = fai_sums_block(m.vocab);
    const int lane = threadIdx.x % 32;
    int bad_p = 0, bad_q = 0;
    for (int32_t n = from + (int32_t)threadIdx.x / 32; n < to; n += (int32_t)blockDim.x / 32) {
        const int64_t end = (n + 1) * (int64_t)block < m.vocab ? (n + 1) * (int64_t)block : m.vocab;
        fai_sum sum = {0, 0};
#pragma unroll 2
        for (int64_t id = (int64_t)n * block + lane; id < end; id += 32) {
            uint64_t weight;
            if (m.weights) {
                weight = m.weights[id];
            } else {
                weight = fai_p_times(fai_weight_judged(m.p, (int32_t)id, &bad_p), m.ratio);
                if (m.q) weight = fai_residual(weight, fai_weight_judged(m.q, (int32_t)id, &bad_q));
            }
            sum = fai_sum_add(sum, weight);
        }
        sum = fai_warp_add(sum);
        if (lane == 0) t->sum[n] = fai_cap(sum);
    }
    bad_p = __syncthreads_or(bad_p), bad_q = __syncthreads_or(bad_q); /* sums are there */
    return (uint32_t) !!bad_p | (uint32_t) !!bad_q << 1;
}

/* Their total. */
static __device__ uint64_t fai_team_total(fai_team *t, int32_t blocks) {
    fai_sum total = {0, 0};
    for (int32_t n = (int32_t)threadIdx.x; n < blocks; n += (int32_t)blockDim.x)
        total = fai_sum_add(total, t->sum[n]);
    return fai_cap(fai_team_add(t, total));
}
FAI_ATOM int32_t fai_team_blocks(const fai_team *t) {
    return (t->row[0].vocab - 1) / fai_sums_block(t->row[0].vocab) + 1;
}

/* The lane whose weight holds the unit, which then counts from its beginning; -1: none does, and the unit
 * counts from behind them. */
FAI_ATOM int fai_warp_find(uint64_t weight, uint64_t *unit) {
    const int lane = threadIdx.x % 32;
    uint64_t end = weight;
#pragma unroll
    for (int step = 1; step < 32; step <<= 1) {
        const uint64_t before = __shfl_up_sync(~0u, end, step);
        if (lane >= step) end += before;
    }
    const uint32_t found = __ballot_sync(~0u, *unit < end);
    const int at = found ? __ffs((int)found) - 1 : -1;
    *unit -= __shfl_sync(~0u, found ? end - weight : end, found ? at : 31);
    return at;
}

/* fai_mass_draw by a warp. */
static __device__ int32_t fai_warp_draw(const fai_mass *m, const uint64_t *sum, int32_t blocks,
                                        uint64_t unit) {
    const int lane = threadIdx.x % 32;
    const int32_t block = fai_sums_block(m->vocab);
    int at = -1;
    int64_t base = 0;
    for (; at < 0 && base < blocks; base += 32)
        at = fai_warp_find(base + lane < blocks ? sum[base + lane] : 0, &unit);
    base = (base - 32 + at) * block;
    for (at = -1; at < 0 && base < m->vocab; base += 32) {
        const int64_t id = base + lane;
        at = fai_warp_find(
            id < m->vocab && !(m->num_skip && fai_skips(m, (int32_t)id)) ? fai_mass_at(m, (int32_t)id) : 0,
            &unit);
    }
    return (int32_t)(base - 32 + at);
}

/* fai_draw_from, into the outputs of request b; sums are there. */
static __device__ void fai_team_finish(const fai_spec_job *job, fai_team *t, int64_t b, uint32_t bad) {
    const fai_mass m = fai_team_mass(t);
    const int32_t blocks = fai_team_blocks(t), block = fai_sums_block(m.vocab);
    uint64_t total = fai_team_total(t, blocks); /* and everybody has read the sums */
    uint32_t flags = (bad & 1) || t->row[0].bad ? FA_SPEC_BAD_TARGET : 0;
    int32_t token;
    if (m.num_skip) {
        fai_sum dropped = {0, 0};
        for (int32_t n = (int32_t)threadIdx.x; n < m.num_skip; n += (int32_t)blockDim.x) {
            const uint64_t weight = fai_mass_at(&m, m.skip[n]);
            atomicAdd((unsigned long long *)&t->sum[m.skip[n] / block], (unsigned long long)(0 - weight));
            dropped = fai_sum_add(dropped, weight);
        }
        total -= fai_team_add(t, dropped).lo; /* and the sums are without them */
    }
    if (m.q && ((bad & 2) || m.q->bad)) flags |= FA_SPEC_BAD_DRAFT;
    if (total && !(total >> 53)) {
        if (threadIdx.x >= 32) return;
        token = fai_warp_draw(&m, t->sum, blocks, fai_mulhi(t->draw.coin, total));
    } else {
        if (total || !(m.q || m.weights || m.num_skip)) flags |= FA_SPEC_BAD_TARGET;
        if (m.q || m.weights || m.num_skip) flags |= FA_SPEC_FALLBACK;
        token = m.p->only >= 0 ? m.p->only : fai_team_argmax(t, m.p);
    }
    if (threadIdx.x) return;
    if (t->draw.slot < job->max_out) job->a.tokens[b * job->max_out + t->draw.slot] = token;
    if (job->a.flags) job->a.flags[b] |= flags;
}

/* ---- a request ---- */

FAI_ATOM fai_request fai_request_begin(const fai_spec_job *job, int64_t b) {
    fai_request r;
    memset(&r, 0, sizeof r);
    r.a = &job->a, r.b = b, r.vocab = job->a.vocab;
    if (job->tree) {
        const fa_trees *const trees = &job->a.trees;
        r.nodes = fa_tree_count(trees, b), r.first = fa_tree_begin(trees, b);
        r.parent = trees->parent + r.first, r.token = trees->token + r.first + 1;
    } else {
        const fa_chains *const chains = &job->a.chains;
        r.nodes = fai_chain_tokens(chains, b) + 1, r.first_draft = fai_chain_first(chains, b);
        r.first = r.first_draft + b, r.token = chains->token + r.first_draft;
    }
    if (r.nodes > job->nodes) r.nodes = job->nodes;
    if (job->weights) r.p = job->weights + 2 * b * (int64_t)r.vocab, r.q = r.p + r.vocab;
    return r;
}

/* fai_next_child by each warp. */
FAI_ATOM int32_t fai_warp_next_child(const fai_request *r, int32_t node, int32_t after) {
    if (!r->parent) return fai_next_child(r, node, after);
    for (int32_t n = after + 1; n < r->nodes; n += 32) {
        const int32_t at = n + (int32_t)threadIdx.x % 32;
        const uint32_t found = __ballot_sync(~0u, at < r->nodes && r->parent[at] == node);
        if (found) return n + __ffs((int)found) - 1;
    }
    return -1;
}

/* Row of a node: side 0 target, 1 draft. */
FAI_ATOM int64_t fai_row_index(const fai_request *r, int side, int32_t node) {
    if (side == 0) return r->first + node;
    if (!r->parent) return r->first_draft + node;
    return r->a->draft_row ? r->a->draft_row[r->first + node] : r->first + node;
}
FAI_ATOM int64_t fai_row_number(const fai_spec_job *job, int side, int64_t b, int32_t node) {
    return ((int64_t)side * job->batch + b) * job->nodes + node;
}

FAI_ATOM fai_filter fai_job_filter(const fai_spec_job *job, int side, int64_t b) {
    const fai_filter none = {1, 0, 0, 0};
    return job->a.rule == FA_VERIFY_GREEDY ? none : fai_filter_of(&job->sampling[side], b);
}

/* The row of a node into t->row, with best and entropy of a target row. */
static __device__ void fai_team_fetch(const fai_spec_job *job, fai_team *t, const fai_request *r, int side,
                                      int32_t node) {
    fai_row *const row = &t->row[side];
    const fa_rows *const rows = side ? &job->a.draft : &job->a.target;
    const int32_t rule = job->a.rule;
    if (job->prepare[side] && !job->one_launch) {
        const int64_t number = fai_row_number(job, side, r->b, node);
        const fai_record *const record = job->records + number;
        __syncthreads(); /* nobody looks at the old row any more */
        if (threadIdx.x < 32) {
            const int lane = (int)threadIdx.x;
            const int32_t parts = record->parts;
            fai_sum total = {0, 0};
            if (lane < parts) total = job->sums[number * job->parts + lane];
            if (parts) total = fai_warp_add(total);
            if (lane == 0) {
                *row = record->row;
                if (parts) row->scale = fai_scale_to_one(total);
                if (side == 0) t->best = record->best, t->entropy = record->entropy;
            }
        }
        __syncthreads(); /* the row is there */
        return;
    }
    const fai_filter f = fai_job_filter(job, side, r->b);
    const int32_t best = fai_team_open(t, row, rows, fai_row_index(r, side, node), r->vocab, &f, rule);
    if (side == 0 && threadIdx.x == 0) t->best = best;
    if (side == 0 && rule == FA_VERIFY_TYPICAL) {
        const uint64_t entropy = fai_team_entropy(t, row);
        if (threadIdx.x == 0) t->entropy = entropy;
    }
    __syncthreads(); /* best and entropy are there */
}

FAI_ATOM void fai_team_accept(const fai_spec_job *job, fai_request *r, int32_t node) {
    if (threadIdx.x == 0) {
        if (r->count < job->max_out) r->out[r->count] = fai_token_of(r, node);
        if (r->accepted && r->count + 1 < job->max_out) r->accepted[r->count + 1] = node;
    }
    r->count++;
}
FAI_ATOM void fai_team_flag(fai_request *r, int bad_p, int bad_q) {
    if (bad_p) r->flags |= FA_SPEC_BAD_TARGET;
    if (bad_q) r->flags |= FA_SPEC_BAD_DRAFT;
}

/* What the last token is drawn from; skip is in t already. */
FAI_ATOM void fai_team_last(fai_team *t, const fai_request *r, int has_q, uint64_t ratio,
                            const uint64_t *weights, int32_t num_skip, uint32_t purpose, int32_t node) {
    const fai_last_draw draw = {1,      has_q, num_skip, r->count, ratio, fai_request_coin(r, purpose, node),
                                weights};
    __syncthreads(); /* nobody looks at the old one any more */
    if (threadIdx.x == 0) t->draw = draw;
    __syncthreads(); /* it is there */
}
/* ---- the steps of >>chains, by all threads alike, p and q of the node fetched ---- */

static __device__ int32_t fai_team_step_greedy(const fai_spec_job *job, fai_team *t, fai_request *r,
                                               int32_t node) {
    const int32_t best = t->best;
    fai_team_flag(r, t->row[0].bad, 0);
    for (int32_t child = fai_warp_next_child(r, node, node); child >= 0;
         child = fai_warp_next_child(r, node, child))
        if (fai_token_of(r, child) == best) return child;
    if (threadIdx.x == 0 && r->count < job->max_out) r->out[r->count] = best;
    return -1;
}

static __device__ int32_t fai_team_step_target_only(fai_team *t, fai_request *r, int32_t node,
                                                    int32_t child) {
    uint64_t total = FAI_ONE;
    int32_t num_skip = 0;
    int bad = 0;
    for (; child >= 0; child = fai_warp_next_child(r, node, child)) {
        const int32_t token = fai_token_of(r, child);
        int known = 0;
        for (int32_t n = (int32_t)threadIdx.x % 32; n < num_skip; n += 32) known |= t->skip[n] == token;
        known = __any_sync(~0u, known);
        const uint64_t any = fai_weight_of_token(&t->row[0], token, &bad), weight = known ? 0 : any;
        if (fai_mulhi(fai_request_coin(r, FA_COIN_ACCEPT, child), total) < weight) break;
        total = fai_residual(total, weight);
        if (known || token < 0 || token >= r->vocab) continue;
        __syncthreads(); /* nobody looks through skip */
        if (threadIdx.x == 0) t->skip[num_skip] = token;
        num_skip++;
        __syncthreads(); /* it is longer by one */
    }
    fai_team_flag(r, t->row[0].bad || bad, 0);
    if (child < 0) fai_team_last(t, r, 0, 0, NULL, num_skip, FA_COIN_RESAMPLE, node);
    return child;
}

static __device__ int32_t fai_team_step_drawn(fai_team *t, fai_request *r, int32_t node, int32_t child,
                                              int without) {
    const fai_row *const p = &t->row[0], *const q = &t->row[1];
    fai_scale scale_p = {0, 0, 0}, scale_q = {0, 0, 0};
    fai_sum total_p = {0, 0}, total_q = {0, 0};
    int32_t next;
    int bad_p = 0, bad_q = 0, updated = 0;
#pragma unroll 1
    for (;; child = next) {
        const int32_t token = fai_token_of(r, child);
        const int inside = token >= 0 && token < r->vocab;
        uint64_t wp = 0, wq = 0;
        if (!updated) {
            wp = fai_weight_of_token(p, token, &bad_p), wq = fai_weight_of_token(q, token, &bad_q);
        } else {
            scale_p = fai_scale_to_one(total_p), wp = inside ? fai_scaled(scale_p, r->p[token]) : 0;
            if (without) scale_q = fai_scale_to_one(total_q);
            wq = !inside ? 0 : without ? fai_scaled(scale_q, r->q[token]) : r->q[token];
        }
        if (fai_accept(fai_request_coin(r, FA_COIN_ACCEPT, child), wq, wp)) break;
        next = fai_warp_next_child(r, node, child);
        if (!updated && next < 0) { /* nobody needs the rows */
            child = -1;
            break;
        }
        total_p.hi = total_p.lo = total_q.hi = total_q.lo = 0;
        __syncthreads(); /* everybody has read the weights of the token */
#pragma unroll 1
        for (int64_t id = threadIdx.x; id < r->vocab; id += blockDim.x) {
            if (!updated) {
                wq = fai_weight_judged(q, (int32_t)id, &bad_q);
                wp = fai_weight_judged(p, (int32_t)id, &bad_p);
            } else {
                wq = without ? fai_scaled(scale_q, r->q[id]) : r->q[id];
                wp = fai_scaled(scale_p, r->p[id]);
            }
            wp = fai_residual(wp, wq);
            r->p[id] = wp, total_p = fai_sum_add(total_p, wp);
            r->q[id] = wq, total_q = fai_sum_add(total_q, wq);
        }
        if (!updated) bad_p = __syncthreads_or(bad_p), bad_q = __syncthreads_or(bad_q);
        updated = 1;
        total_p = fai_team_add(t, total_p), total_q = fai_team_add(t, total_q); /* rows are written */
        if (without && inside) {
            const uint64_t gone = r->q[token];
            total_q.hi -= total_q.lo < gone, total_q.lo -= gone;
            __syncthreads(); /* everybody has read it */
            if (threadIdx.x == 0) r->q[token] = 0;
            __syncthreads(); /* it is 0 */
        }
        if (next < 0) {
            child = -1;
            break;
        }
    }
    fai_team_flag(r, p->bad || bad_p, q->bad || bad_q);
    if (child < 0) fai_team_last(t, r, 1, 0, updated ? r->p : NULL, 0, FA_COIN_RESAMPLE, node);
    return child;
}

/* Children of an accepted node. */
static __device__ void fai_team_step_typical(fai_team *t, fai_request *r, int32_t node, int32_t child) {
    const float epsilon = r->a->typical_epsilon > 0 ? r->a->typical_epsilon : 0.3f;
    const float delta = r->a->typical_delta > 0 ? r->a->typical_delta : 0.09f;
    const uint64_t threshold = fai_typical_threshold(t->entropy, epsilon, delta);
    int bad = 0;
    for (; child >= 0; child = fai_warp_next_child(r, node, child)) {
        const uint64_t weight = fai_weight_of_token(&t->row[0], fai_token_of(r, child), &bad);
        if (weight > threshold && threadIdx.x == 0)
            t->depth[child] = t->depth[node] + 1, t->score[child] = t->score[node] + fai_log2(weight);
    }
    fai_team_flag(r, t->row[0].bad, 0);
    __syncthreads(); /* children are judged */
}

/* fai_run_request, its last draw maybe left to the next launch. One loop for all rules, so that the code
 * which fetches rows is there once: node is what to fetch, and
 *     GREEDY, TARGET_ONLY, TOKEN, .._REPLACEMENT  where the path has come to
 *     TYPICAL  each node that is accepted and has children; at last the best
 *     BLOCK    all places for their a, forward; then those for their Z, backward, or the end */
static __device__ void fai_team_walk(const fai_spec_job *job, fai_team *t, int64_t b) {
    enum { FORWARD, BACKWARD, BONUS };
    const uint64_t one = (uint64_t)1 << 63;
    fai_request r = fai_request_begin(job, b);
    const int32_t rule = job->a.rule, end = r.nodes - 1;
    const int draft = fai_rule_needs_draft(rule);
    int32_t node = 0, best = 0; /* best: TYPICAL */
    int state = rule == FA_VERIFY_BLOCK && end == 0 ? BONUS : FORWARD, summed = 0;
    uint64_t a = one; /* BLOCK */
    uint32_t bad = 0;
    r.out = job->a.tokens + b * job->max_out;
    r.accepted = job->a.accepted ? job->a.accepted + b * job->max_out : NULL;
    for (int32_t n = (int32_t)threadIdx.x; n < job->max_out; n += (int32_t)blockDim.x) {
        r.out[n] = -1;
        if (r.accepted) r.accepted[n] = n ? -1 : 0;
    }
    for (int32_t n = (int32_t)threadIdx.x; rule == FA_VERIFY_TYPICAL && n < r.nodes; n += (int32_t)blockDim.x)
        t->depth[n] = n == 0, t->score[n] = 0;
    fai_team_clear(t);
    __syncthreads(); /* outputs are -1, and only the root is accepted */
#pragma unroll 1
    for (;;) {
        const int32_t child = fai_warp_next_child(&r, node, node);
        if (rule == FA_VERIFY_TYPICAL && state == FORWARD) {
            const int32_t depth = t->depth[node], deepest = t->depth[best];
            if (depth > deepest || (depth == deepest && t->score[node] > t->score[best])) best = node;
            if (depth == 0 || child < 0) {
                if (++node < r.nodes) continue;
                const int32_t count = t->depth[best] - 1;
                for (int32_t at = best, n = count; n > 0; n--) {
                    r.count = n - 1, fai_team_accept(job, &r, at);
                    at = r.parent ? r.parent[at] : at - 1;
                }
                r.count = count, node = best, state = BONUS;
            }
        }
        if (state == BACKWARD) a = t->score[node];
        if (state == BACKWARD && node && !a) { /* Z = 0 */
            node--;
            continue;
        }
#pragma unroll 1 /* the code once */
        for (int side = 0; side < (draft && child >= 0 ? 2 : 1); side++)
            fai_team_fetch(job, t, &r, side, node);
        if (rule == FA_VERIFY_GREEDY) {
            node = fai_team_step_greedy(job, t, &r, node);
        } else if (state == BONUS || child < 0) {
            fai_team_flag(&r, t->row[0].bad, 0);
            fai_team_last(t, &r, 0, 0, NULL, 0, FA_COIN_BONUS, node);
            node = -1;
        } else if (rule == FA_VERIFY_TARGET_ONLY) {
            node = fai_team_step_target_only(t, &r, node, child);
        } else if (rule == FA_VERIFY_TYPICAL) {
            fai_team_step_typical(t, &r, node, child);
            if (node + 1 < r.nodes) node++; /* a node with children is not the last */
            continue;
        } else if (rule != FA_VERIFY_BLOCK) {
            node = fai_team_step_drawn(t, &r, node, child, rule == FA_VERIFY_WITHOUT_REPLACEMENT);
        } else if (state == FORWARD) {
            const int32_t token = fai_token_of(&r, node + 1);
            int bad_p = 0, bad_q = 0;
            const uint64_t wp = fai_weight_of_token(&t->row[0], token, &bad_p),
                           wq = fai_weight_of_token(&t->row[1], token, &bad_q);
            if (threadIdx.x == 0) t->score[node] = a;
            a = fai_block_ratio(a, wp, wq);
            fai_team_flag(&r, t->row[0].bad || bad_p, t->row[1].bad || bad_q);
            if (++node < end) continue;
            if (fai_mulhi(fai_request_coin(&r, FA_COIN_ACCEPT, end), one) < a) {
                for (int32_t n = 1; n <= end; n++) fai_team_accept(job, &r, n);
                state = BONUS;
            } else {
                node--, state = BACKWARD;
                __syncthreads(); /* all a are there */
            }
            continue;
        } else {
            r.count = node;
            fai_team_last(t, &r, 1, a < one ? a : 0, NULL, 0, FA_COIN_RESAMPLE, node);
        }
        if (node >= 0 && state != BACKWARD) {
            fai_team_accept(job, &r, node);
            continue;
        }
        if (rule == FA_VERIFY_GREEDY || (!job->one_launch && state != BACKWARD)) break;
        summed = 1, bad = fai_team_sums(t, 0, fai_team_blocks(t));
        if (state != BACKWARD) break;
        const uint64_t total = fai_team_total(t, fai_team_blocks(t)), whole = total + FAI_ONE - (a >> 11);
        fai_team_flag(&r, t->row[0].bad || (bad & 1), t->row[1].bad || (bad & 2));
        if (node && whole && fai_mulhi(fai_request_coin(&r, FA_COIN_ACCEPT, node), whole) >= total) {
            node--;
            continue;
        }
        r.count = 0;
        for (int32_t n = 1; n <= node; n++) fai_team_accept(job, &r, n);
        break; /* the sums are those of the draw */
    }
    if (threadIdx.x == 0) {
        if (job->a.num_out) job->a.num_out[b] = r.count + 1;
        if (job->a.flags) job->a.flags[b] = r.flags;
    }
    if (rule == FA_VERIFY_GREEDY) return;
    if (!job->one_launch) { /* before a draw here takes threads away */
        for (int32_t n = (int32_t)threadIdx.x; n < t->draw.num_skip; n += (int32_t)blockDim.x)
            job->skips[b * job->nodes + n] = t->skip[n];
        if (threadIdx.x == 0) {
            job->draws[b] = t->draw, job->draws[b].active = !summed;
            job->draw_rows[2 * b] = t->row[0];
            if (t->draw.has_q) job->draw_rows[2 * b + 1] = t->row[1];
            job->counters[b] = 0, job->draw_bads[b] = 0;
        }
    }
    if (summed) fai_team_finish(job, t, b, bad);
}

/* ---- kernels ---- */

FAI_ATOM int32_t fai_part_length(const fai_spec_job *job) {
    return ((job->a.vocab - 1) / job->parts + 64) / 64 * 64;
}

/* Row `number` of those that are prepared; 0: there is no such row. */
FAI_ATOM int fai_find_row(const fai_spec_job *job, int64_t number, fai_request *r, int *side, int32_t *node) {
    const int64_t b = number / job->nodes;
    *node = (int32_t)(number % job->nodes);
    *side = (int)(b / job->batch) + !job->prepare[0];
    *r = fai_request_begin(job, b % job->batch);
    if (*side == 0) return *node < r->nodes;
    return *node < r->nodes && fai_warp_next_child(r, *node, *node) >= 0;
}
/* The same for a thread block, and its part. */
FAI_ATOM int fai_find_part(const fai_spec_job *job, fai_request *r, int *side, int32_t *node, int32_t *part) {
    *part = (int32_t)(blockIdx.x % (unsigned)job->parts);
    return fai_find_row(job, blockIdx.x / (unsigned)job->parts, r, side, node);
}

/* Is this the last of `all` thread blocks to come here? What all of them wrote before, it sees after. */
FAI_ATOM int fai_team_is_last(fai_team *t, uint32_t *counter, uint32_t all) {
    __threadfence(); /* what this thread wrote is before the count */
    __syncthreads();
    if (threadIdx.x == 0) t->last = fai_atom_global_inc_u32(counter, all - 1) == all - 1;
    __syncthreads(); /* last is there */
    __threadfence(); /* what the others wrote is after it */
    return t->last;
}

/* The largest entry of every part of every row. */
static __global__ void __launch_bounds__(FAI_SPEC_THREADS)
    fai_spec_max_kernel(const __grid_constant__ fai_spec_job job) {
    __shared__ fai_team team;
    fai_request r;
    int side, bad;
    int32_t node, part;
    if (!fai_find_part(&job, &r, &side, &node, &part)) return;
    const fai_filter f = fai_job_filter(&job, side, r.b);
    const int64_t at = fai_row_number(&job, side, r.b, node) * job.parts + part;
    const int32_t length = fai_part_length(&job), from = part * length;
    if (threadIdx.x == 0)
        team.row[0] =
            fai_row_begin(side ? &job.a.draft : &job.a.target, fai_row_index(&r, side, node), r.vocab, &f);
    __syncthreads(); /* the row is there */
    if (team.row[0].kind == FA_PROBS && job.a.rule != FA_VERIFY_GREEDY) return;
    const uint64_t top =
        fai_team_top(&team, &team.row[0], from, r.vocab - from > length ? from + length : r.vocab, &bad);
    if (threadIdx.x == 0) job.tops[at] = top, job.bads[at] = bad != 0;
}

/* A row whose parts have their largest entries: its unit; returns the largest entry. */
FAI_ATOM int32_t fai_team_rate(const fai_spec_job *job, fai_team *t, const fai_request *r, int side,
                               int32_t node, const fai_filter *f) {
    const int64_t at = fai_row_number(job, side, r->b, node) * job->parts;
    const int lane = threadIdx.x % 32, greedy = job->a.rule == FA_VERIFY_GREEDY;
    if (threadIdx.x < 32) {
        fai_row row =
            fai_row_begin(side ? &job->a.draft : &job->a.target, fai_row_index(r, side, node), r->vocab, f);
        uint64_t top = 0;
        int bad = 0;
        if (lane < job->parts && (row.kind != FA_PROBS || greedy))
            top = job->tops[at + lane], bad = job->bads[at + lane] != 0;
        top = fai_warp_max(top), bad = __any_sync(~0u, bad);
        if (row.kind != FA_PROBS) fai_row_rate(&row, top, bad, f);
        if (lane == 0) t->row[0] = row, t->best = fai_top_id(top);
    }
    __syncthreads(); /* the row is there */
    return t->best;
}
FAI_ATOM void fai_record_write(const fai_spec_job *job, const fai_team *t, const fai_request *r, int side,
                               int32_t node, int32_t parts, uint64_t entropy) {
    const fai_record record = {t->row[0], t->best, parts, entropy};
    if (threadIdx.x == 0) job->records[fai_row_number(job, side, r->b, node)] = record;
}
/* Units of every part of every row. */
static __global__ void __launch_bounds__(FAI_SPEC_THREADS)
    fai_spec_sum_kernel(const __grid_constant__ fai_spec_job job) {
    __shared__ fai_team team;
    fai_request r;
    int side;
    int32_t node, part, parts = 0;
    if (!fai_find_part(&job, &r, &side, &node, &part)) return;
    const fai_filter f = fai_job_filter(&job, side, r.b);
    if (fai_filter_cuts(&f) || (side == 0 && job.a.rule == FA_VERIFY_TYPICAL))
        return; /* of the next launch */
    fai_team_rate(&job, &team, &r, side, node, &f);
    const fai_row *const row = &team.row[0];
    const int32_t length = fai_part_length(&job), from = part * length;
    if (row->kind != FA_PROBS && row->only < 0 && job.a.rule != FA_VERIFY_GREEDY) {
        const fai_sum sum =
            fai_team_units(&team, row, from, r.vocab - from > length ? from + length : r.vocab);
        if (threadIdx.x == 0) job.sums[fai_row_number(&job, side, r.b, node) * job.parts + part] = sum;
        parts = job.parts;
    }
    if (part == 0) fai_record_write(&job, &team, &r, side, node, parts, 0);
}

/* Rows that are cut, and the entropy of FA_VERIFY_TYPICAL: a thread block for each. */
static __global__ void __launch_bounds__(FAI_SPEC_THREADS, 1)
    fai_spec_cut_kernel(const __grid_constant__ fai_spec_job job) {
    __shared__ fai_team team;
    fai_request r;
    int side;
    int32_t node;
    if (!fai_find_row(&job, blockIdx.x, &r, &side, &node)) return;
    const fai_filter f = fai_job_filter(&job, side, r.b);
    const int typical = side == 0 && job.a.rule == FA_VERIFY_TYPICAL;
    uint64_t entropy = 0;
    if (!fai_filter_cuts(&f) && !typical) return;
    const int32_t best = fai_team_rate(&job, &team, &r, side, node, &f);
    if (team.row[0].kind != FA_PROBS && team.row[0].only < 0) fai_team_prepare(&team, &team.row[0], best, &f);
    if (typical) entropy = fai_team_entropy(&team, &team.row[0]);
    fai_record_write(&job, &team, &r, side, node, 0, entropy);
}

/* A thread block, or a warp, for each request. */
static __global__ void __launch_bounds__(FAI_SPEC_THREADS, 1)
    fai_spec_walk_kernel(const __grid_constant__ fai_spec_job job) {
    __shared__ fai_team team;
    fai_team_walk(&job, &team, blockIdx.x);
}

/* The last token: FAI_SPEC_WARPS blocks of sums for each thread block. */
static __global__ void __launch_bounds__(FAI_SPEC_THREADS, 1)
    fai_spec_draw_kernel(const __grid_constant__ fai_spec_job job) {
    __shared__ fai_team team;
    fai_team *const t = &team;
    const int64_t b = blockIdx.x % (unsigned)job.batch;
    const int32_t part = (int32_t)(blockIdx.x / (unsigned)job.batch);
    if (!job.draws[b].active) return;
    fai_team_clear(t);
    if (threadIdx.x == 0) {
        t->draw = job.draws[b], t->row[0] = job.draw_rows[2 * b];
        if (t->draw.has_q) t->row[1] = job.draw_rows[2 * b + 1];
    }
    __syncthreads(); /* the draw is there */
    for (int32_t n = (int32_t)threadIdx.x; n < t->draw.num_skip; n += FAI_SPEC_THREADS)
        t->skip[n] = job.skips[b * job.nodes + n];
    const int32_t blocks = fai_team_blocks(t), from = part * FAI_SPEC_WARPS,
                  to = from + FAI_SPEC_WARPS < blocks ? from + FAI_SPEC_WARPS : blocks;
    uint64_t *const sums = job.draw_sums + b * 256;
    uint32_t bad = fai_team_sums(t, from, to); /* and skip is there */
    if (from + (int32_t)threadIdx.x < to) sums[from + threadIdx.x] = t->sum[from + threadIdx.x];
    if (threadIdx.x == 0 && bad) atomicOr(job.draw_bads + b, bad);
    if (!fai_team_is_last(t, job.counters + b, gridDim.x / (unsigned)job.batch)) return;
    for (int32_t n = (int32_t)threadIdx.x; n < blocks; n += FAI_SPEC_THREADS) t->sum[n] = sums[n];
    bad = job.draw_bads[b];
    __syncthreads(); /* all sums are there */
    fai_team_finish(&job, t, b, bad);
}

/* A thread block for each row. */
static __global__ void __launch_bounds__(FAI_SPEC_THREADS, 1)
    fai_spec_sample_kernel(const __grid_constant__ fa_sample_args a) {
    __shared__ fai_team team;
    fai_team *const t = &team;
    const int32_t num_samples = a.num_samples ? a.num_samples : 1;
    const int64_t row = blockIdx.x, b = a.request ? a.request[row] : row, at = row * num_samples;
    const int lane = threadIdx.x % 32;
    fai_team_clear(t);
    const fai_filter f = fai_filter_of(&a.sampling, b);
    fai_team_open(t, &t->row[0], &a.rows, row, a.vocab, &f, 0);
    const int32_t blocks = fai_team_blocks(t), block = fai_sums_block(a.vocab);
    const uint32_t bad = fai_team_sums(t, 0, blocks);
    uint64_t total = fai_team_total(t, blocks);
    const int dead = !total || total >> 53;
    int32_t best = 0;
    if (dead) best = fai_team_argmax(t, &t->row[0]);
    if (threadIdx.x >= 32) return;
    if (lane == 0 && a.flags) a.flags[row] = t->row[0].bad || bad || dead ? FA_SPEC_BAD_DRAFT : 0;
    fai_mass m = fai_team_mass(t);
    for (int32_t n = 0; n < num_samples; n++) {
        int32_t token = -1;
        if (dead) {
            token = n && a.without_replacement ? -1 : best;
        } else if (total) {
            const uint64_t coin = a.coins.coins
                                      ? a.coins.coins[at + n]
                                      : fai_coin_of(&a.coins, b, a.purpose, (a.node ? a.node[row] : 1) + n);
            token = fai_warp_draw(&m, t->sum, blocks, fai_mulhi(coin, total));
        }
        if (lane == 0) a.tokens[at + n] = token;
        if (!a.without_replacement || token < 0 || dead) continue;
        const uint64_t weight = fai_mass_at(&m, token);
        __syncwarp(); /* everybody is done with the sums */
        if (lane == 0) t->sum[token / block] -= weight, t->skip[m.num_skip] = token;
        __syncwarp(); /* the token is gone */
        total -= weight, m.num_skip++;
    }
}

/* ---- calls ---- */

/* A place of `count` elements in the workspace. */
static inline void *fai_spec_take(char *base, int64_t *used, int64_t count, size_t size) {
    void *const at = base ? base + *used : NULL;
    const int64_t bytes = fai_mul(count, (int64_t)size);
    *used = bytes > INT64_MAX - 64 - *used ? INT64_MAX : *used + (bytes + 15) / 16 * 16;
    return at;
}

/* The whole plan; base NULL: only how much workspace it needs. */
static inline int64_t fai_spec_plan(fai_spec_job *job, const fa_verify_args *a, int tree, char *base) {
    int64_t used = 0;
    memset(job, 0, sizeof *job);
    job->a = *a, job->tree = tree, job->batch = tree ? a->trees.batch : a->chains.batch;
    job->nodes = tree ? a->trees.num_nodes : a->chains.num_tokens + 1;
    job->max_out = a->max_out ? a->max_out : job->nodes;
    job->sampling[0] = a->sampling;
    if (a->draft_sampling)
        job->sampling[1] = *a->draft_sampling;
    else if (a->draft.kind <= FA_LOGITS)
        job->sampling[1] = a->sampling;
    const int draft = fai_rule_needs_draft(a->rule) && job->nodes > 1;
    for (int side = 0; side < 2; side++) {
        const fa_rows *const rows = side ? &a->draft : &a->target;
        const fa_sampling *const s = &job->sampling[side];
        job->prepare[side] = rows->kind != FA_PROBS || (rows->dtype && rows->dtype != FA_F32) ||
                             s->temperature || s->top_k || s->top_p || s->min_p;
    }
    if (a->rule == FA_VERIFY_GREEDY || a->rule == FA_VERIFY_TYPICAL) job->prepare[0] = 1;
    if (!draft) job->prepare[1] = 0;
    job->one_launch = a->vocab <= FAI_SPEC_ONE_LAUNCH;
    job->parts = (a->vocab - 1) / FAI_SPEC_PART_LENGTH + 1;
    if (job->parts > FAI_SPEC_PARTS) job->parts = FAI_SPEC_PARTS;
    if (base) base = (char *)(((uintptr_t)base + 15) & ~(uintptr_t)15);
    if (a->rule == FA_VERIFY_WITH_REPLACEMENT || a->rule == FA_VERIFY_WITHOUT_REPLACEMENT)
        job->weights = (uint64_t *)fai_spec_take(base, &used, fai_mul((int64_t)job->batch * 2, a->vocab),
                                                 sizeof(uint64_t));
    if (job->one_launch) return used ? used + 15 : 0;
    const int64_t rows = 2 * (int64_t)job->batch * job->nodes, parts = rows * job->parts;
    if (job->prepare[0] || job->prepare[1]) {
        job->records = (fai_record *)fai_spec_take(base, &used, rows, sizeof(fai_record));
        job->tops = (uint64_t *)fai_spec_take(base, &used, parts, sizeof(uint64_t));
        job->sums = (fai_sum *)fai_spec_take(base, &used, parts, sizeof(fai_sum));
        job->bads = (uint32_t *)fai_spec_take(base, &used, parts, sizeof(uint32_t));
    }
    job->counters = (uint32_t *)fai_spec_take(base, &used, job->batch, sizeof(uint32_t));
    job->draw_bads = (uint32_t *)fai_spec_take(base, &used, job->batch, sizeof(uint32_t));
    job->draws = (fai_last_draw *)fai_spec_take(base, &used, job->batch, sizeof(fai_last_draw));
    job->draw_rows = (fai_row *)fai_spec_take(base, &used, 2 * (int64_t)job->batch, sizeof(fai_row));
    job->draw_sums = (uint64_t *)fai_spec_take(base, &used, 256 * (int64_t)job->batch, sizeof(uint64_t));
    job->skips = (int32_t *)fai_spec_take(base, &used, (int64_t)job->batch * job->nodes, sizeof(int32_t));
    return used + 15;
}

/* max, sum, cut, walk, draw */
static inline void fai_spec_launches(const fai_spec_job *job, fa_cuda_launch launch[FA_SPEC_LAUNCHES],
                                     double grid[FA_SPEC_LAUNCHES]) {
    enum { MAX, SUM, CUT, WALK, DRAW };
    const int prepared = !job->one_launch && (job->prepare[0] || job->prepare[1]),
              vectors = job->one_launch || job->a.rule == FA_VERIFY_BLOCK || job->weights;
    const double rows = (double)job->batch * job->nodes * (job->prepare[0] + job->prepare[1]);
    const int32_t blocks = (job->a.vocab - 1) / fai_sums_block(job->a.vocab) + 1;
    int cuts = job->a.rule == FA_VERIFY_TYPICAL;
    for (int side = 0; side < 2 && job->a.rule != FA_VERIFY_GREEDY; side++)
        if (job->prepare[side])
            cuts |= job->sampling[side].top_k || job->sampling[side].top_p || job->sampling[side].min_p;
    memset(launch, 0, FA_SPEC_LAUNCHES * sizeof *launch), memset(grid, 0, FA_SPEC_LAUNCHES * sizeof *grid);
    if (prepared) {
        launch[MAX].kernel = (const void *)fai_spec_max_kernel, grid[MAX] = rows * job->parts;
        launch[SUM].kernel = (const void *)fai_spec_sum_kernel, grid[SUM] = rows * job->parts;
        if (cuts) launch[CUT].kernel = (const void *)fai_spec_cut_kernel, grid[CUT] = rows;
    }
    launch[WALK].kernel = (const void *)fai_spec_walk_kernel, grid[WALK] = job->batch;
    if (!job->one_launch && job->a.rule != FA_VERIFY_GREEDY)
        launch[DRAW].kernel = (const void *)fai_spec_draw_kernel,
        grid[DRAW] = (double)job->batch * ((blocks - 1) / FAI_SPEC_WARPS + 1);
    for (int n = 0; n < FA_SPEC_LAUNCHES; n++)
        if (launch[n].kernel)
            launch[n].block = n == WALK && !vectors ? 32 : FAI_SPEC_THREADS,
            launch[n].grid = grid[n] <= INT32_MAX ? (unsigned)grid[n] : 0;
}

typedef struct fai_spec_pointer_of {
    const void *data;
    const char *field;
} fai_spec_pointer_of;

static inline fa_status fai_spec_on_device(const fa_args *errors, const fai_spec_pointer_of *list,
                                           size_t count) {
    fa_status status = FA_OK;
    for (size_t n = 0; n < count && status == FA_OK; n++)
        status = fai_cuda_check_pointer(errors, list[n].data, list[n].field);
    return status;
}
static inline fa_status fai_sampling_on_device(const fa_args *errors, const fa_sampling *s) {
    const fai_spec_pointer_of list[] = {
        {s->temperature, "temperature"}, {s->top_k, "top_k"}, {s->top_p, "top_p"}, {s->min_p, "min_p"}};
    return fai_spec_on_device(errors, list, 4);
}
static inline fa_status fai_coins_on_device(const fa_args *errors, const fa_coins *coins) {
    const fai_spec_pointer_of list[] = {
        {coins->coins, "coins.coins"}, {coins->seed, "coins.seed"}, {coins->offset, "coins.offset"}};
    return fai_spec_on_device(errors, list, 3);
}

/* Checks everything, and says what is to be launched. */
static inline fa_status fai_spec_ready(const fa_verify_args *a, int tree, void *workspace, size_t bytes,
                                       fai_spec_job *job, fa_cuda_launch launch[FA_SPEC_LAUNCHES], int dry) {
    double grid[FA_SPEC_LAUNCHES];
    fa_args errors;
    fai_spec_call c = tree ? fai_check_verify_tree(a, 1) : fai_check_verify_chain(a, 1);
    if (c.status != FA_OK) return c.status;
    const fai_spec_pointer_of shared[] = {
        {a->target.data, "target.data"}, {fai_rule_needs_draft(a->rule) ? a->draft.data : NULL, "draft.data"},
        {a->tokens, "tokens"},           {a->num_out, "num_out"},
        {a->accepted, "accepted"},       {a->flags, "flags"}};
    const fai_spec_pointer_of chains[] = {{a->chains.indptr, "chains.indptr"},
                                          {a->chains.lengths, "chains.lengths"},
                                          {a->chains.token, "chains.token"}};
    const fai_spec_pointer_of trees[] = {{a->trees.indptr, "trees.indptr"},
                                         {a->trees.parent, "trees.parent"},
                                         {a->trees.token, "trees.token"},
                                         {a->draft_row, "draft_row"}};
    memset(&errors, 0, sizeof errors), errors.error = a->error;
    fa_status status = fai_spec_on_device(&errors, shared, 6);
    if (status == FA_OK)
        status = tree ? fai_spec_on_device(&errors, trees, 4) : fai_spec_on_device(&errors, chains, 3);
    if (status == FA_OK) status = fai_sampling_on_device(&errors, &a->sampling);
    if (status == FA_OK && a->draft_sampling) status = fai_sampling_on_device(&errors, a->draft_sampling);
    if (status == FA_OK) status = fai_coins_on_device(&errors, &a->coins);
    const size_t needed = (size_t)fai_spec_plan(job, a, tree, (char *)workspace);
    if (status == FA_OK && !dry) status = fai_cuda_check_workspace(&errors, workspace, bytes, needed);
    if (status != FA_OK) return status;
    fai_spec_launches(job, launch, grid);
    for (int n = 0; n < FA_SPEC_LAUNCHES && status == FA_OK; n++)
        if (grid[n] > INT32_MAX)
            status = fai_fail(&errors, FA_ERR_CUDA_GRID, "batch * nodes", -1, grid[n], 1, INT32_MAX);
    for (int n = 0; n < FA_SPEC_LAUNCHES && status == FA_OK; n++)
        if (launch[n].kernel) status = fai_cuda_prepare(&errors, &launch[n], launch[n].kernel);
    return status;
}

static inline fa_status fai_verify_cuda(const fa_verify_args *a, int tree, void *workspace, size_t bytes,
                                        cudaStream_t stream) {
    fai_spec_job job;
    fa_cuda_launch launch[FA_SPEC_LAUNCHES];
    fa_args errors;
    fa_status status = fai_spec_ready(a, tree, workspace, bytes, &job, launch, 0);
    if (status != FA_OK) return status;
    memset(&errors, 0, sizeof errors), errors.error = a->error;
    for (int n = 0; n < FA_SPEC_LAUNCHES && status == FA_OK; n++) {
        void *parameters[1] = {&job};
        if (launch[n].kernel) status = fai_cuda_start(&errors, &launch[n], parameters, stream);
    }
    return status;
}

/* Bytes of device memory that a call needs, from sizes, rule, and kinds and dtypes of rows. */
static inline size_t fa_verify_chain_cuda_workspace(const fa_verify_args *args) {
    fai_spec_job job;
    if (!args || args->vocab < 1 || args->chains.batch < 1 || args->chains.num_tokens < 0 ||
        args->chains.num_tokens >= FA_TREE_MAX_NODES)
        return 0;
    return (size_t)fai_spec_plan(&job, args, 0, NULL);
}
static inline size_t fa_verify_tree_cuda_workspace(const fa_verify_args *args) {
    fai_spec_job job;
    if (!args || args->vocab < 1 || args->trees.batch < 1 || args->trees.num_nodes < 1 ||
        args->trees.num_nodes > FA_TREE_MAX_NODES)
        return 0;
    return (size_t)fai_spec_plan(&job, args, 1, NULL);
}

/* fa_verify_chain and fa_verify_tree on the stream: the same outputs. max_out may not be less than the
 * longest output: what is beyond it is not written. */
static inline fa_status fa_verify_chain_cuda(const fa_verify_args *args, void *workspace, size_t bytes,
                                             cudaStream_t stream) {
    return fai_verify_cuda(args, 0, workspace, bytes, stream);
}
static inline fa_status fa_verify_tree_cuda(const fa_verify_args *args, void *workspace, size_t bytes,
                                            cudaStream_t stream) {
    return fai_verify_cuda(args, 1, workspace, bytes, stream);
}
static inline fa_status fa_verify_chain_cuda_launch(const fa_verify_args *args,
                                                    fa_cuda_launch launch[FA_SPEC_LAUNCHES]) {
    fai_spec_job job;
    return fai_spec_ready(args, 0, NULL, 0, &job, launch, 1);
}
static inline fa_status fa_verify_tree_cuda_launch(const fa_verify_args *args,
                                                   fa_cuda_launch launch[FA_SPEC_LAUNCHES]) {
    fai_spec_job job;
    return fai_spec_ready(args, 1, NULL, 0, &job, launch, 1);
}

/* fa_sample on the stream: the same tokens. No workspace. */
static inline fa_status fa_sample_cuda(const fa_sample_args *args, cudaStream_t stream) {
    fai_spec_call c = fai_check_sample(args, 1);
    fa_args errors;
    if (c.status != FA_OK) return c.status;
    const fai_spec_pointer_of list[] = {{args->rows.data, "rows.data"},
                                        {args->request, "request"},
                                        {args->node, "node"},
                                        {args->tokens, "tokens"},
                                        {args->flags, "flags"}};
    memset(&errors, 0, sizeof errors), errors.error = args->error;
    fa_status status = fai_spec_on_device(&errors, list, 5);
    if (status == FA_OK) status = fai_sampling_on_device(&errors, &args->sampling);
    if (status == FA_OK) status = fai_coins_on_device(&errors, &args->coins);
    if (status != FA_OK) return status;
    fa_sample_args copy = *args;
    void *parameters[1] = {&copy};
    fa_cuda_launch launch;
    memset(&launch, 0, sizeof launch);
    launch.kernel = (const void *)fai_spec_sample_kernel, launch.block = FAI_SPEC_THREADS;
    launch.grid = (unsigned)(args->num_rows ? args->num_rows : args->batch);
    return fai_cuda_start(&errors, &launch, parameters, stream);
}
#endif /* FA_CUDA_SPEC */
