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

    CONTENTS  search for:  >>weights  >>sampling  >>trees  >>chains  >>verify  >>builders  >>medusa  >>ensembles
                           >>planning  >>cuda
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
    uint64_t slope;      /* log2(e) / temperature = slope 2^(slope_exponent - 63), slope >= 2^63 */
    int32_t slope_exponent;
    uint32_t cut_key; /* entries before (cut_key, cut_id) are cut; least: so are units below it */
    int32_t cut_id;
    uint64_t least;
    fai_scale scale;
} fai_row;

/* Does entry x of a FA_PROBS or FA_WEIGHTS row count as 0 although it is not?  limit: bits of the first
 * number that is too large. */
FAI_HD static inline int fai_bad_weight(uint32_t bits, uint32_t limit) {
    return bits >= limit && bits != 0x80000000u;
}

/* Order of a row's entries: what counts as 0 is a zero. */
FAI_HD static inline uint32_t fai_row_key(const fai_row *row, int32_t id) {
    const float x = fa_load(row->data, id, row->dtype);
    return row->kind != FA_LOGITS && fai_bits_of(x) >= 0x7f800000u ? 0x80000000u : fai_key(x);
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
    const float x = fa_load(row->data, id, row->dtype);
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

/* The largest entry, the first of equals; NaN is less than anything. */
static inline int32_t fai_argmax(const fai_row *row) {
    int32_t best = 0;
    uint32_t top = 0;
    for (int32_t id = 0; id < row->vocab; id++) {
        const uint32_t key = fai_row_key(row, id);
        if (key > top) top = key, best = id;
    }
    return best;
}

/* Cuts the row behind its first k entries, or behind the first that have `share` (in 2^-24) of `total` units,
 * in descending order: a radix search for the last key that stays, 8 bits at a time, then for the last id of
 * that key. */
static inline void fai_row_cut(fai_row *row, int64_t k, uint32_t share, fai_sum total) {
    const fai_sum wanted = fai_sum_share(total, share);
    fai_sum sums[256], units = {0, 0}; /* units, count: of entries before the current range of keys */
    int64_t counts[256], count = 0;
    uint32_t prefix = 0;
    uint64_t equal = 0;
    const uint32_t old_key = row->cut_key;
    const int32_t old_id = row->cut_id;
    for (int shift = 24; shift >= 0; shift -= 8) {
        memset(sums, 0, sizeof sums), memset(counts, 0, sizeof counts);
        for (int32_t id = 0; id < row->vocab; id++) {
            const uint32_t key = fai_row_key(row, id), digit = key >> shift & 255;
            if (shift < 24 && key >> (shift + 8) != prefix) continue;
            if (key < old_key || (key == old_key && id > old_id)) continue;
            equal = fai_unit(row, id);
            sums[digit] = fai_sum_add(sums[digit], equal), counts[digit]++;
        }
        int digit = 255;
        for (; digit > 0; digit--) {
            fai_sum next = fai_sum_add(units, sums[digit].lo);
            next.hi += sums[digit].hi;
            if (k ? count + counts[digit] >= k : counts[digit] && !fai_sum_less(next, wanted)) break;
            units = next, count += counts[digit];
        }
        prefix = prefix << 8 | (uint32_t)digit;
    }
    row->cut_key = prefix;
    row->cut_id = row->vocab - 1;
    for (int32_t id = 0; id < row->vocab; id++) { /* equal keys have equal units */
        if (fai_row_key(row, id) != prefix || (prefix == old_key && id > old_id)) continue;
        equal = fai_unit(row, id), units = fai_sum_add(units, equal), count++;
        row->cut_id = id;
        if (k ? count >= k : !fai_sum_less(units, wanted)) break;
    }
}

/* Gives the row its weight to scale with, for parameters that may be 0 = off. */
static inline void fai_row_prepare(fai_row *row, float temperature, int32_t top_k, float top_p, float min_p) {
    enum { PLUS_INF = 0, MINUS_INF = 1, ZERO = 2 };
    const uint32_t keys[3] = {0xff800000u, 0x007fffffu, 0x80000000u};
    uint32_t top = 0;
    int32_t best = 0;
    fai_sum total = {0, 0};
    if (row->kind == FA_PROBS) row->kind = FA_WEIGHTS;
    for (int32_t id = 0; id < row->vocab; id++) {
        const uint32_t bits = fai_bits_of(fa_load(row->data, id, row->dtype)), key = fai_row_key(row, id);
        if (row->kind == FA_LOGITS ? key == 0 || key == keys[PLUS_INF] : fai_bad_weight(bits, 0x7f800000u))
            row->bad = 1;
        if (key > top) top = key, best = id;
    }
    row->top = fa_load(row->data, best, row->dtype);
    if (top <= keys[row->kind == FA_LOGITS ? MINUS_INF : ZERO])
        row->bad = 1, row->only = best;
    else if (temperature == 0 || (row->kind == FA_LOGITS && top == keys[PLUS_INF]))
        row->only = best;
    if (row->only >= 0) return;
    row->exponent = (int32_t)(fai_bits_of(row->top) >> 23) - 127;
    if (row->exponent < -126) row->exponent = -126;
    if (row->kind == FA_LOGITS) fai_row_temperature(row, temperature);
    row->cut_id = row->vocab - 1;
    if (top_k > 0 && top_k < row->vocab) fai_row_cut(row, top_k, 0, total);
    const int nucleus = top_p > 0 && top_p < 1;
    for (int pass = !nucleus; pass < 2; pass++) {
        total.hi = total.lo = 0;
        if (pass && min_p > 0) {
            const uint64_t largest = fai_unit(row, best);
            row->least =
                min_p >= 1 ? largest : fai_mulhi(largest << 6, fai_fixed(fai_bits_of(min_p), 0) << 6);
        }
        for (int32_t id = 0; id < row->vocab; id++) {
            const uint64_t unit = fai_unit(row, id);
            if (unit && fai_kept(row, id, fai_row_key(row, id), unit)) total = fai_sum_add(total, unit);
        }
        if (!pass) fai_row_cut(row, 0, (uint32_t)(fai_fixed(fai_bits_of(top_p), 0) >> 28), total);
    }
    row->scale = fai_scale_to_one(total);
}

/* Row `index` of rows for request b. */
static inline fai_row fai_row_open(const fa_rows *rows, int64_t index, int32_t vocab,
                                   const fa_sampling *sampling, int64_t b) {
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
    if (row.kind != FA_PROBS || cut) fai_row_prepare(&row, temperature, top_k, top_p, min_p);
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

/* 1 + x: for x in [0, 1) its bits are those of 1, and the weight of x, rounded as fai_fixed does. */
FAI_INLINE fai_spec_doubles fai_spec_load(const float *x) {
#if defined(__AVX512F__)
    return (fai_spec_doubles)_mm512_maskz_cvtps_pd(255, _mm256_loadu_ps(x)) + 1.0;
#elif defined(__AVX2__)
    return (fai_spec_doubles)_mm256_cvtps_pd(_mm_loadu_ps(x)) + 1.0;
#else
    const fai_spec_floats loaded = *(const fai_spec_floats *)x;
    return __builtin_convertvector(loaded, fai_spec_doubles) + 1.0;
#endif
}

/* The sum of max(p - q, 0), or of p without q, over 16 n <= 1024 entries; -1 if one is not in [0, 1). */
FAI_INLINE int64_t fai_spec_sum(const float *p, const float *q, int32_t count) {
    enum { L = FAI_SPEC_LANES };
    const fai_spec_longs zero = {0}, one = zero + 0x3ff0000000000000;
    fai_spec_longs sum0 = zero, sum1 = zero, bad0 = zero, bad1 = zero;
    for (int32_t id = 0; id < count; id += 2 * L) {
        /* For rows out of memory: 1.1 instead of 1.4 times the time of reading them. */
        __builtin_prefetch((const void *)((uintptr_t)(p + id) + 2048));
        if (q) __builtin_prefetch((const void *)((uintptr_t)(q + id) + 2048));
        const fai_spec_doubles p0 = fai_spec_load(p + id), p1 = fai_spec_load(p + id + L);
        bad0 |= (fai_spec_longs)p0 ^ one, bad1 |= (fai_spec_longs)p1 ^ one;
        if (!q) {
            sum0 += (fai_spec_longs)p0 - one, sum1 += (fai_spec_longs)p1 - one;
            continue;
        }
        const fai_spec_doubles q0 = fai_spec_load(q + id), q1 = fai_spec_load(q + id + L);
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
    for (int32_t id = from; id < to; id++) {
        sum += fai_mass_at(m, id);
        if (sum >> 62) sum = (uint64_t)1 << 62;
    }
    return sum;
}

static inline void fai_mass_sums(fai_mass *m, fai_sums *s) {
    const int32_t each = (int32_t)(((int64_t)m->vocab + 255) / 256);
    s->block = each < 512 ? 512 : each > (1 << 30) ? 1 << 30 : (each + 63) / 64 * 64;
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
    uint64_t unit = fai_mulhi(coin, s->total);
    int32_t n = 0;
    for (; unit >= s->sum[n]; n++) unit -= s->sum[n];
    for (int32_t id = n * s->block;; id++) {
        if (m->num_skip && fai_skips(m, id)) continue;
        const uint64_t weight = fai_mass_at(m, id);
        if (unit < weight) return id;
        unit -= weight;
    }
}

/* A draw; where there is nothing to draw from, the largest entry of p. */
static inline int32_t fai_draw_from(const fai_mass *m, const fai_sums *s, uint64_t coin, fai_row *p,
                                    uint32_t *flags) {
    if (s->total && !(s->total >> 53)) return fai_mass_draw(m, s, coin);
    if (s->total) p->bad = 1;
    if (m->q || m->weights || m->num_skip)
        *flags |= FA_SPEC_FALLBACK;
    else
        p->bad = 1;
    return p->only >= 0 ? p->only : fai_argmax(p);
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
static inline void fai_check_rows(fai_spec_call *c, fa_status status, const fa_rows *rows, int32_t vocab,
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
    for (int32_t b = 0; b < batch && c->status == FA_OK; b++) {
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
static inline uint64_t fai_coin_of(const fa_coins *coins, int64_t b, uint32_t purpose, int32_t node) {
    return fa_coin(coins->seed ? coins->seed[b] : 0, coins->offset ? coins->offset[b] : 0, purpose,
                   (uint32_t)node);
}

/* Draws num_samples tokens from each row. */
static inline fa_status fa_sample(const fa_sample_args *a) {
    static const char *const fields[4] = {"rows.data", "rows.stride", "rows.dtype", "rows.kind"};
    fai_spec_call c = {FA_OK, a ? a->error : NULL};
    if (!a) return FA_ERR_ARGS_NULL;
    if (a->first_canary || a->last_canary) {
        c.error = NULL; /* it need not be a pointer */
        fai_spec_bad(&c, FA_ERR_NOT_ZEROED, "first_canary", -1, 0, 1, 0);
        return c.status;
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
    if (c.status == FA_OK) fai_check_rows(&c, FA_ERR_SPEC_ROWS, &a->rows, a->vocab, num_rows, fields);
    if (c.status == FA_OK) fai_check_sampling(&c, &a->sampling, a->batch, a->rows.kind <= FA_LOGITS);
    fai_check_coins(&c, &a->coins);
    fai_spec_pointer(&c, FA_ERR_SPEC_OUT, "tokens", a->tokens, 4, 1);
    fai_spec_pointer(&c, FA_ERR_SPEC_OUT, "flags", a->flags, 4, 0);
    for (int32_t r = 0; r < num_rows && c.status == FA_OK; r++) {
        if (a->request) fai_spec_range(&c, FA_ERR_SPEC_SAMPLE, "request", r, a->request[r], 0, a->batch - 1);
        if (a->node)
            fai_spec_range(&c, FA_ERR_SPEC_SAMPLE, "node", r, a->node[r], 0, INT32_MAX - FA_TREE_MAX_NODES);
    }
    if (c.status != FA_OK) return c.status;
    for (int32_t r = 0; r < num_rows; r++) {
        const int64_t b = a->request ? a->request[r] : r, at = (int64_t)r * num_samples;
        fai_row row = fai_row_open(&a->rows, r, a->vocab, &a->sampling, b);
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
                token = n && a->without_replacement ? -1 : fai_argmax(&row);
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
    const fai_row r = fai_row_open(rows, row, vocab, sampling, b);
    for (int32_t id = 0; id < vocab; id++) weights[id] = fai_weight(&r, id);
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
FAI_HD static inline int64_t fai_tree_first(const fa_trees *t, int64_t b) {
    return t->indptr ? t->indptr[b] : b * t->num_nodes;
}
FAI_HD static inline int32_t fai_tree_nodes(const fa_trees *t, int64_t b) {
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
    if (t->indptr && c->status == FA_OK) {
        fai_spec_range(c, FA_ERR_TREE_NODES, "trees.indptr", 0, t->indptr[0], 0, INT32_MAX);
        for (int32_t b = 0; b < t->batch && c->status == FA_OK; b++) {
            const double last = t->indptr[b];
            fai_spec_range(c, FA_ERR_TREE_NODES, "trees.indptr", b + 1, t->indptr[b + 1], last + 1,
                           last + t->num_nodes);
        }
    }
    for (int32_t b = 0; b < t->batch && c->status == FA_OK; b++) {
        const int64_t first = fai_tree_first(t, b);
        const int32_t nodes = fai_tree_nodes(t, b);
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

static inline uint64_t fai_request_coin(const fai_request *r, uint32_t purpose, int32_t node) {
    const fa_coins *coins = &r->a->coins;
    if (coins->coins) return coins->coins[r->first + (purpose == FA_COIN_ACCEPT ? node : 0)];
    return fai_coin_of(coins, r->b, purpose, node);
}

static inline fai_row fai_target_row(const fai_request *r, int32_t node) {
    return fai_row_open(&r->a->target, r->first + node, r->vocab, &r->a->sampling, r->b);
}

/* The row that the children of a node were drawn from. */
static inline fai_row fai_draft_row(const fai_request *r, int32_t node) {
    const fa_verify_args *a = r->a;
    const fa_sampling *sampling = a->draft_sampling            ? a->draft_sampling
                                  : a->draft.kind <= FA_LOGITS ? &a->sampling
                                                               : NULL;
    int64_t index = r->parent ? r->first + node : r->first_draft + node;
    if (r->parent && a->draft_row) index = a->draft_row[r->first + node];
    return fai_row_open(&a->draft, index, r->vocab, sampling, r->b);
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
    const fai_row p = fai_row_open(&r->a->target, r->first + node, r->vocab, NULL, r->b);
    const int32_t best = p.only >= 0 ? p.only : fai_argmax(&p);
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

/* r->p = max(p - q, 0) and r->q = q, after the first of several siblings was rejected. */
static inline void fai_rejected_first(fai_request *r, fai_row *p, fai_row *q, fai_sum total[2]) {
    memset(total, 0, 2 * sizeof *total);
    fai_row_judge(p, 0, r->vocab), fai_row_judge(q, 0, r->vocab);
    for (int32_t id = 0; id < r->vocab; id++) {
        r->q[id] = fai_weight(q, id), r->p[id] = fai_residual(fai_weight(p, id), r->q[id]);
        total[0] = fai_sum_add(total[0], r->p[id]), total[1] = fai_sum_add(total[1], r->q[id]);
    }
}

/* The same after another one: both rows are scaled to 1 before. */
static inline void fai_rejected_next(fai_request *r, fai_scale scale_p, fai_scale scale_q, int without,
                                     fai_sum total[2]) {
    memset(total, 0, 2 * sizeof *total);
    for (int32_t id = 0; id < r->vocab; id++) {
        if (without) r->q[id] = fai_scaled(scale_q, r->q[id]);
        r->p[id] = fai_residual(fai_scaled(scale_p, r->p[id]), r->q[id]);
        total[0] = fai_sum_add(total[0], r->p[id]), total[1] = fai_sum_add(total[1], r->q[id]);
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
        for (int32_t id = 0; id < r->vocab; id++) entropy += fai_entropy(fai_weight(&p, id));
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
    uint64_t a[FA_TREE_MAX_NODES];
    int32_t end = r->nodes - 1;
    a[0] = one;
    for (int32_t n = 0; n < end; n++) {
        const int32_t token = fai_token_of(r, n + 1);
        fai_row p = fai_target_row(r, n), q = fai_draft_row(r, n);
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
        fai_row p = fai_target_row(r, end), q = fai_draft_row(r, end);
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

static inline int fai_rule_needs_draft(int32_t rule) {
    return rule == FA_VERIFY_TOKEN || rule == FA_VERIFY_BLOCK || rule == FA_VERIFY_WITH_REPLACEMENT ||
           rule == FA_VERIFY_WITHOUT_REPLACEMENT;
}

/* What chains and trees have in common; rows: of target; draft_rows: of draft; longest: tokens that may come
 * out. */
static inline void fai_check_verify(fai_spec_call *c, const fa_verify_args *a, int32_t batch, int64_t rows,
                                    int64_t draft_rows, int32_t longest) {
    static const char *const target[4] = {"target.data", "target.stride", "target.dtype", "target.kind"};
    static const char *const draft[4] = {"draft.data", "draft.stride", "draft.dtype", "draft.kind"};
    if (c->status == FA_OK) fai_check_rows(c, FA_ERR_SPEC_TARGET, &a->target, a->vocab, rows, target);
    if (c->status == FA_OK) fai_check_sampling(c, &a->sampling, batch, a->target.kind <= FA_LOGITS);
    if (fai_rule_needs_draft(a->rule) && draft_rows && c->status == FA_OK) {
        fai_check_rows(c, FA_ERR_SPEC_DRAFT, &a->draft, a->vocab, draft_rows, draft);
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
static inline fai_spec_call fai_verify_begin(const fa_verify_args *a) {
    fai_spec_call c = {FA_OK, NULL};
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

/* Verifies chains of drafts: which prefix of each is accepted, and the token behind it.  Rules: GREEDY,
 * TARGET_ONLY, TOKEN, BLOCK, TYPICAL.  Requests are independent: alone or in any batch, each gives the same.
 * All outputs are written whole. */
static inline fa_status fa_verify_chain(const fa_verify_args *a) {
    fai_spec_call c = fai_verify_begin(a);
    if (c.status != FA_OK) return c.status;
    const fa_chains *t = &a->chains;
    if (a->rule < FA_VERIFY_GREEDY || a->rule > FA_VERIFY_TYPICAL || a->rule == FA_VERIFY_WITH_REPLACEMENT ||
        a->rule == FA_VERIFY_WITHOUT_REPLACEMENT)
        fai_spec_bad(&c, FA_ERR_SPEC_RULE, "rule", -1, a->rule, 1, 0);
    fai_check_chains(&c, t, a->vocab);
    if (c.status == FA_OK) {
        const int64_t drafts = t->indptr ? t->indptr[t->batch] : (int64_t)t->batch * t->num_tokens;
        fai_check_verify(&c, a, t->batch, drafts + t->batch, drafts, t->num_tokens + 1);
    }
    if (c.status != FA_OK) return c.status;
    for (int64_t b = 0; b < t->batch; b++) {
        fai_request r;
        memset(&r, 0, sizeof r);
        r.a = a, r.b = b, r.vocab = a->vocab, r.nodes = fai_chain_tokens(t, b) + 1;
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

/* Verifies trees of drafts: which path from the root is accepted, and the token behind it.  Rules: GREEDY,
 * TARGET_ONLY, WITH_REPLACEMENT, WITHOUT_REPLACEMENT, TYPICAL.  Siblings are tried in the order of their
 * nodes.  Requests are independent: alone or in any batch, each gives the same.  All outputs are written
 * whole. */
static inline fa_status fa_verify_tree(const fa_verify_args *a, void *workspace, size_t bytes) {
    fai_spec_call c = fai_verify_begin(a);
    int32_t deepest = 0;
    if (c.status != FA_OK) return c.status;
    const fa_trees *t = &a->trees;
    const size_t needed = fa_verify_tree_workspace(a);
    if (a->rule < FA_VERIFY_GREEDY || a->rule > FA_VERIFY_TYPICAL || a->rule == FA_VERIFY_TOKEN ||
        a->rule == FA_VERIFY_BLOCK)
        fai_spec_bad(&c, FA_ERR_SPEC_RULE, "rule", -1, a->rule, 1, 0);
    if (c.status == FA_OK) fai_check_trees(&c, t, a->vocab, &deepest);
    if (c.status == FA_OK) {
        const int64_t nodes = fai_tree_first(t, t->batch);
        const int mapped = a->draft_row && fai_rule_needs_draft(a->rule);
        if (mapped) {
            fai_spec_pointer(&c, FA_ERR_SPEC_DRAFT_ROW, "draft_row", a->draft_row, 4, 1);
            fai_spec_range(&c, FA_ERR_SPEC_DRAFT_ROW, "num_draft_rows", -1, a->num_draft_rows, 0, INT32_MAX);
            for (int64_t b = 0; b < t->batch; b++)
                for (int64_t first = fai_tree_first(t, b), n = 1;
                     n < fai_tree_nodes(t, b) && c.status == FA_OK; n++) {
                    const int64_t parent = first + t->parent[first + n];
                    fai_spec_range(&c, FA_ERR_SPEC_DRAFT_ROW, "draft_row", parent, a->draft_row[parent], 0,
                                   a->num_draft_rows - 1);
                }
        }
        fai_check_verify(&c, a, t->batch, nodes, mapped ? a->num_draft_rows : nodes, deepest);
    }
    if (c.status == FA_OK && needed) {
        if (!workspace) fai_spec_bad(&c, FA_ERR_WORKSPACE_NULL, "workspace", -1, 0, 1, 0);
        fai_spec_range(&c, FA_ERR_WORKSPACE_SIZE, "workspace", -1, (double)bytes, (double)needed, INFINITY);
    }
    if (c.status != FA_OK) return c.status;
    for (int64_t b = 0; b < t->batch; b++) {
        fai_request r;
        memset(&r, 0, sizeof r);
        r.a = a, r.b = b, r.vocab = a->vocab, r.nodes = fai_tree_nodes(t, b), r.first = fai_tree_first(t, b);
        r.parent = t->parent + r.first, r.token = t->token + r.first + 1;
        if (needed) r.p = (uint64_t *)(((uintptr_t)workspace + 7) & ~(uintptr_t)7), r.q = r.p + r.vocab;
        fai_run_request(&r, a->max_out ? a->max_out : t->num_nodes);
    }
    return fai_spec_end(&c);
}

/* ======================================================================================== */
/* >>builders trees from paths, expansions, merges, scores, n-grams; masks and positions     */
/* ======================================================================================== */

/* ======================================================================================== */
/* >>medusa   heads: forward, backward, loss; candidates                                     */
/* ======================================================================================== */

/* ======================================================================================== */
/* >>ensembles boosting of several drafts                                                    */
/* ======================================================================================== */

/* ======================================================================================== */
/* >>planning acceptance, expected tokens, speedup; adaptive draft lengths and trees         */
/* ======================================================================================== */

/* ======================================================================================== */
/* >>cuda     the same on the GPU                                                            */
/* ======================================================================================== */

#endif
