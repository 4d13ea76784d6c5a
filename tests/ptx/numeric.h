/* numeric.h - number formats of the PTX machine: conversions with exact IEEE behaviour, and ex2.approx.
 *
 * A narrow format is (p, bias): p stored mantissa bits, exponent bias. Everything rounds in one place,
 * ptx_narrow(), from the bits of a float. What is wider than a float first goes to a float by rounding to odd
 * (truncate, and set the last bit if anything was lost): a second rounding to a format with at least two bits
 * less then gives what a single rounding would have given.
 *
 * NaNs: results are the canonical NaN of the format, as PTX ISA says of cvt and of arithmetic: 0x7fffffff
 * (f32, tf32), 0x7fff (f16, bf16), 0x7f (e4m3, e5m2).
 */
#ifndef PTX_NUMERIC_H
#define PTX_NUMERIC_H

#include <math.h>
#include "machine.h"

/* Nearest even, nearest away, towards zero, down, up. */
typedef enum { ROUND_RN, ROUND_RNA, ROUND_RZ, ROUND_RM, ROUND_RP } Round;

enum {
    F16_INF = 0x7c00,
    BF16_INF = 0x7f80,
    HALF_NAN = 0x7fff,
    E4M3_MAX = 0x7e,
    E5M2_INF = 0x7c,
    FP8_NAN = 0x7f
};
#define F32_INF 0x7f800000u
#define F32_NAN 0x7fffffffu

union Bits32 {
    float f;
    u32 u;
};
union Bits64 {
    double d;
    u64 u;
};
static inline u32 ptx_bits(float f) { return (union Bits32){.f = f}.u; }
static inline float ptx_float(u32 u) { return (union Bits32){.u = u}.f; }
static inline u64 ptx_bits64(double d) { return (union Bits64){.d = d}.u; }
static inline double ptx_double(u64 u) { return (union Bits64){.u = u}.d; }

static inline bool ptx_is_nan(u32 bits) { return (bits & 0x7fffffffu) > F32_INF; }
static inline u32 ptx_canonical(u32 bits) { return ptx_is_nan(bits) ? F32_NAN : bits; }
static inline u32 ptx_ftz(u32 bits) { return bits & F32_INF ? bits : bits & 0x80000000u; } /* .ftz */

/* Magnitude bits of |x| in the format (p, bias), sign and specials apart: a value too big comes out above the
 * format's greatest number (its exponent as in a wider field), never wrapped. Not for ROUND_RNA. */
static inline u32 ptx_narrow(u32 x, u32 p, u32 bias, Round round) {
    u32 exponent = x >> 23 & 0xff, mantissa = (x & 0x7fffffu) | (exponent ? 0x800000u : 0);
    u32 least = 128 - bias; /* float exponent field of the least normal number */
    exponent = exponent ? exponent : 1;
    u32 field = exponent > least ? exponent : least, shift = 23 - p + field - exponent;
    shift = shift < 31 ? shift : 31;
    u32 kept = mantissa >> shift, lost = mantissa & ((1u << shift) - 1), half = 1u << shift >> 1;
    bool minus = x >> 31;
    bool up = round == ROUND_RN   ? lost + (kept & 1) > half
              : round == ROUND_RM ? minus && lost
              : round == ROUND_RP ? !minus && lost
                                  : false;
    return ((field - least) << p) + kept + up;
}

/* A 16-bit IEEE format with infinity `inf`: overflow by rounding mode, or to the greatest (satfinite). */
static inline u16 ptx_narrow16(u32 x, u32 p, u32 bias, u32 inf, Round round, bool satfinite) {
    u32 r = ptx_narrow(x, p, bias, round), sign = x >> 16 & 0x8000u;
    bool to_max = satfinite ||
                  ((x & F32_INF) != F32_INF && (round == ROUND_RZ || round == (sign ? ROUND_RP : ROUND_RM)));
    r = r >= inf ? (to_max ? inf - 1 : inf) : r;
    return (u16)(ptx_is_nan(x) ? (u32)HALF_NAN : sign | r);
}
static inline u16 ptx_f32_to_f16_as(float f, Round round, bool satfinite) {
    return ptx_narrow16(ptx_bits(f), 10, 15, F16_INF, round, satfinite);
}
static inline u16 ptx_f32_to_bf16_as(float f, Round round, bool satfinite) {
    return ptx_narrow16(ptx_bits(f), 7, 127, BF16_INF, round, satfinite);
}
static inline u16 ptx_f32_to_f16(float f) { return ptx_f32_to_f16_as(f, ROUND_RN, false); }
static inline u16 ptx_f32_to_bf16(float f) { return ptx_f32_to_bf16_as(f, ROUND_RN, false); }

/* 8-bit formats: PTX has them with .rn.satfinite only. */
static inline u8 ptx_f32_to_e4m3(float f) {
    u32 x = ptx_bits(f), r = ptx_narrow(x, 3, 7, ROUND_RN);
    r = r > E4M3_MAX ? (u32)E4M3_MAX : r;
    return (u8)(ptx_is_nan(x) ? (u32)FP8_NAN : (x >> 24 & 0x80) | r);
}
static inline u8 ptx_f32_to_e5m2(float f) {
    u32 x = ptx_bits(f), r = ptx_narrow(x, 2, 15, ROUND_RN);
    r = r >= E5M2_INF ? (u32)E5M2_INF - 1 : r;
    return (u8)(ptx_is_nan(x) ? (u32)FP8_NAN : (x >> 24 & 0x80) | r);
}

/* The result is a float whose last 13 mantissa bits are zero. */
static inline float ptx_f32_to_tf32(float f, Round round) {
    u32 x = ptx_bits(f), low = (1u << 13) - 1, half = 1u << 12;
    u32 add = round == ROUND_RN ? half - 1 + (x >> 13 & 1) : round == ROUND_RNA ? half : 0;
    return ptx_float(ptx_is_nan(x) ? F32_NAN : (x + add) & ~low);
}

/* Widening is exact. */
static inline float ptx_bf16_to_f32(u16 h) { return ptx_float((u32)h << 16); }
static inline float ptx_f16_to_f32(u16 h) {
    u32 magnitude = h & 0x7fffu, sign = (u32)(h & 0x8000u) << 16;
    u32 normal = (magnitude << 13) + (112u << 23);
    u32 subnormal = ptx_bits((float)(s32)magnitude * 0x1p-24f);
    u32 x = magnitude < 0x400 ? subnormal : magnitude < F16_INF ? normal : F32_INF;
    return ptx_float(magnitude > F16_INF ? F32_NAN : sign | x);
}
static inline float ptx_e5m2_to_f32(u8 e) { return ptx_f16_to_f32((u16)(e << 8)); }
static inline float ptx_e4m3_to_f32(u8 e) {
    u32 magnitude = e & 0x7fu, sign = (u32)(e & 0x80u) << 24;
    u32 normal = (magnitude << 20) + (120u << 23);
    u32 subnormal = ptx_bits((float)(s32)magnitude * 0x1p-9f);
    return ptx_float(magnitude == FP8_NAN ? F32_NAN : sign | (magnitude < 8 ? subnormal : normal));
}

/* The exact value `rounded + error`, rounded to odd; of `error` only the sign counts. */
static inline double ptx_odd(double rounded, double error) {
    u64 x = ptx_bits64(rounded);
    if (error == 0 || x & 1 || !isfinite(rounded) || rounded == 0) return rounded;
    return ptx_double((rounded > 0) == (error > 0) ? x + 1 : x - 1);
}
/* Double to float, rounded to odd. */
static inline float ptx_f64_to_f32_odd(double d) {
    float f = (float)d;
    u32 x = ptx_bits(f);
    if (isnan(d) || (double)f == d) return f;
    if (fabs((double)f) > fabs(d)) x--; /* now truncated */
    return ptx_float(x | 1);
}
static inline u16 ptx_f64_to_f16(double d) { return ptx_f32_to_f16(ptx_f64_to_f32_odd(d)); }
static inline u16 ptx_f64_to_bf16(double d) { return ptx_f32_to_bf16(ptx_f64_to_f32_odd(d)); }

/* a * b + c of bf16 or f16 values, rounded to odd: the product is exact in a double, the sum not always. */
static inline float ptx_half_fma_odd(float a, float b, float c) {
    double p = (double)a * b, q = c, s = p + q, t = s - p;
    return ptx_f64_to_f32_odd(ptx_odd(s, (p - (s - t)) + (q - t))); /* two-sum */
}

/* 2^x, within the relative error of 2^-22 that PTX ISA gives for ex2.approx: 2^n times the Taylor series of
 * 2^f, |f| <= 1/2; exact for integers. Subnormal results are rounded, not flushed. */
static inline float ptx_ex2(float x) {
    float in = x < -160 ? -160 : x > 160 ? 160 : x == x ? x : 0;
    float n = (in + 0x1.8p23f) - 0x1.8p23f, f = in - n;
    float p = 1.52527338e-5f;
    p = p * f + 1.54035304e-4f;
    p = p * f + 1.33335581e-3f;
    p = p * f + 9.61812911e-3f;
    p = p * f + 5.55041087e-2f;
    p = p * f + 2.40226507e-1f;
    p = p * f + 6.93147181e-1f;
    p = p * f + 1;
    s32 e = (s32)n, e0 = e >> 1, e1 = e - e0;
    float r = p * ptx_float((u32)(e0 + 127) << 23) * ptx_float((u32)(e1 + 127) << 23);
    return x == x ? r : ptx_float(F32_NAN);
}

#endif
