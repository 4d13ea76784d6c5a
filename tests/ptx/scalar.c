/* scalar.c - the register-to-register instructions of the PTX machine: arithmetic of integers, f16, bf16, f32
 * and f64, comparisons, logic, moves and conversions.
 *
 *     lanes         macros that make a handler from one expression
 *     integers      handlers, and `forms`: opcode -> handler where the whole opcode says what to do
 *     carry, lop3, prmt, ...   integer instructions with state or modes
 *     floats        f32, f64 (add ... sqrt, min, max, approximations), f16 and bf16
 *     compare       setp, set, testp, selp, slct
 *     mov, cvt
 *
 * Section numbers are those of the chapter "Instructions" of the PTX ISA 9.0.
 */
#include <fenv.h>
#include <math.h>
#include "machine.h"
#include "numeric.h"

/* ---- lanes --------------------------------------------------------------------------------------------- */

static inline void *row(Warp *w, const Ins *in, int i) { return ptx_r32(w, &in->op[i]); }

/* Of a type: ROW_ what a lane of its row is, OUT_ what a result is cut to (upper bits are zero). */
#define ROW_u16 u32
#define ROW_s16 u32
#define ROW_u32 u32
#define ROW_s32 u32
#define ROW_u64 u64
#define ROW_s64 u64
#define ROW_double double
#define OUT_u16 u16
#define OUT_s16 u16
#define OUT_u32 u32
#define OUT_s32 u32
#define OUT_u64 u64
#define OUT_s64 u64
#define OUT_double double

/* A handler: d (of type TD) = an expression of a, b, c. */
#define LANES1(name, TD, TA, expression) \
    static Outcome name(Warp *w, const Ins *in, u32 m) { \
        ROW_##TD *d_ = row(w, in, 0); \
        const ROW_##TA *a_ = row(w, in, 1); \
        FOR_LANES(m, d_, ({ \
                      TA a = (TA)a_[l]; \
                      (OUT_##TD)(expression); \
                  })); \
        return RAN; \
    }
#define LANES2(name, TD, TA, TB, expression) \
    static Outcome name(Warp *w, const Ins *in, u32 m) { \
        ROW_##TD *d_ = row(w, in, 0); \
        const ROW_##TA *a_ = row(w, in, 1); \
        const ROW_##TB *b_ = row(w, in, 2); \
        FOR_LANES(m, d_, ({ \
                      TA a = (TA)a_[l]; \
                      TB b = (TB)b_[l]; \
                      (OUT_##TD)(expression); \
                  })); \
        return RAN; \
    }
#define LANES3(name, TD, TA, TB, TC, expression) \
    static Outcome name(Warp *w, const Ins *in, u32 m) { \
        ROW_##TD *d_ = row(w, in, 0); \
        const ROW_##TA *a_ = row(w, in, 1); \
        const ROW_##TB *b_ = row(w, in, 2); \
        const ROW_##TC *c_ = row(w, in, 3); \
        FOR_LANES(m, d_, ({ \
                      TA a = (TA)a_[l]; \
                      TB b = (TB)b_[l]; \
                      TC c = (TC)c_[l]; \
                      (OUT_##TD)(expression); \
                  })); \
        return RAN; \
    }
#define UNARY(name, T, expression) LANES1(name##_##T, T, T, expression)
#define BINARY(name, T, expression) LANES2(name##_##T, T, T, T, expression)
#define UNSIGNED(M) M(u16) M(u32) M(u64)
#define SIGNED(M) M(s16) M(s32) M(s64)
#define INTEGERS(M) UNSIGNED(M) SIGNED(M)

/* ---- integers (9.7.1, 9.7.2, 9.7.8) -------------------------------------------------------------------- */

/* twice the width, for mul.hi and mul.wide */
#define WIDE_u16 u32
#define WIDE_s16 s32
#define WIDE_u32 u64
#define WIDE_s32 s64
#define WIDE_u64 unsigned __int128
#define WIDE_s64 __int128

#define ARITHMETIC(T) \
    BINARY(add, T, (ROW_##T)a + (ROW_##T)b) \
    BINARY(sub, T, (ROW_##T)a - (ROW_##T)b) \
    BINARY(mul_lo, T, (ROW_##T)a *(ROW_##T)b) \
    BINARY(mul_hi, T, (WIDE_##T)a *b >> 8 * sizeof(T)) \
    LANES3(mad_lo_##T, T, T, T, T, (ROW_##T)a *(ROW_##T)b + (ROW_##T)c) \
    LANES3(mad_hi_##T, T, T, T, T, (ROW_##T)((WIDE_##T)a * b >> 8 * sizeof(T)) + (ROW_##T)c) \
    LANES3(sad_##T, T, T, T, T, (a < b ? (ROW_##T)b - (ROW_##T)a : (ROW_##T)a - (ROW_##T)b) + (ROW_##T)c) \
    BINARY(min, T, a < b ? a : b) \
    BINARY(max, T, a > b ? a : b)
INTEGERS(ARITHMETIC)

#define ARITHMETIC_SIGNED(T) \
    UNARY(abs, T, a < 0 ? -(ROW_##T)a : (ROW_##T)a) \
    UNARY(neg, T, -(ROW_##T)a)
SIGNED(ARITHMETIC_SIGNED)

#define LOGIC(T) \
    BINARY(and, T, a &b) \
    BINARY(or, T, a | b) \
    BINARY(xor, T, a ^ b) \
    UNARY(not, T, ~a) \
    UNARY(cnot, T, a == 0) \
    LANES2(shl_##T, T, T, u32, b < 8 * sizeof(T) ? (ROW_##T)a << (b & (8 * sizeof(T) - 1)) : 0) \
    LANES2(shr_##T, T, T, u32, b < 8 * sizeof(T) ? a >> (b & (8 * sizeof(T) - 1)) : 0)
UNSIGNED(LOGIC)
#define SHIFT_SIGNED(T) LANES2(shr_##T, T, T, u32, a >> (b < 8 * sizeof(T) ? b : 8 * sizeof(T) - 1))
SIGNED(SHIFT_SIGNED)

LANES2(mul_wide_u16, u32, u16, u16, (u32)a *b)
LANES2(mul_wide_s16, u32, s16, s16, (s32)a *b)
LANES2(mul_wide_u32, u64, u32, u32, (u64)a *b)
LANES2(mul_wide_s32, u64, s32, s32, (s64)a *b)
LANES3(mad_wide_u16, u32, u16, u16, u32, (u32)a *b + c)
LANES3(mad_wide_s16, u32, s16, s16, u32, (u32)((s32)a *b) + c)
LANES3(mad_wide_u32, u64, u32, u32, u64, (u64)a *b + c)
LANES3(mad_wide_s32, u64, s32, s32, u64, (u64)((s64)a *b) + c)

static inline s32 clamp32(s64 x) { return x > INT32_MAX ? INT32_MAX : x < INT32_MIN ? INT32_MIN : (s32)x; }
BINARY(add_sat, s32, clamp32((s64)a + b))
BINARY(sub_sat, s32, clamp32((s64)a - b))
LANES3(mad_hi_sat_s32, s32, s32, s32, s32, clamp32(((s64)a * b >> 32) + c))

/* 24-bit operands: the low 32 bits of the product, or its bits 47..16 */
static inline s64 product24(s32 a, s32 b) {
    return (s64)((s32)((u32)a << 8) >> 8) * ((s32)((u32)b << 8) >> 8);
}
static inline u64 uproduct24(u32 a, u32 b) { return (u64)(a & 0xffffff) * (b & 0xffffff); }
BINARY(mul24_lo, s32, product24(a, b))
BINARY(mul24_hi, s32, product24(a, b) >> 16)
BINARY(mul24_lo, u32, uproduct24(a, b))
BINARY(mul24_hi, u32, uproduct24(a, b) >> 16)
LANES3(mad24_lo_s32, s32, s32, s32, u32, (u32)product24(a, b) + c)
LANES3(mad24_hi_s32, s32, s32, s32, u32, (u32)(product24(a, b) >> 16) + c)
LANES3(mad24_hi_sat_s32, s32, s32, s32, s32, clamp32((product24(a, b) >> 16) + c))
LANES3(mad24_lo_u32, u32, u32, u32, u32, (u32)uproduct24(a, b) + c)
LANES3(mad24_hi_u32, u32, u32, u32, u32, (u32)(uproduct24(a, b) >> 16) + c)

/* PTX leaves division by zero unspecified; the instruction sequences of the hardware give all ones for both
 * quotient and remainder. Nobody wants either. */
#define DIVISION(name, T, expression) \
    static Outcome name##_##T(Warp *w, const Ins *in, u32 m) { \
        ROW_##T *d = row(w, in, 0); \
        const ROW_##T *a_ = row(w, in, 1), *b_ = row(w, in, 2); \
        u32 zero = 0; \
        EACH_LANE(l, m) { \
            T a = (T)a_[l], b = (T)b_[l]; \
            if (b == 0) zero |= LANE_BIT(l); \
            d[l] = (OUT_##T)(b == 0 ? (T)-1 : expression); \
        } \
        if (zero) ptx_finding(w, in, zero, NULL, "integer division by zero"); \
        return RAN; \
    }
#define DIVISION_UNSIGNED(T) DIVISION(div, T, a / b) DIVISION(rem, T, a % b)
#define DIVISION_SIGNED(T) \
    DIVISION(div, T, b == -1 ? (T) - (ROW_##T)a : a / b) DIVISION(rem, T, b == -1 ? 0 : a % b)
UNSIGNED(DIVISION_UNSIGNED)
SIGNED(DIVISION_SIGNED)

/* Two 16-bit integers in a register. */
#define PAIR(low, high) ((u16)(low) | (u32)(u16)(high) << 16)
#define HIGH(x) ((u32)(x) >> 16)
#define PAIRED(name, T, expression) \
    static inline u16 name##_##T##_one(T a, T b) { return (u16)(expression); } \
    LANES2(name##_##T##x2, u32, u32, u32, \
           PAIR(name##_##T##_one((T)a, (T)b), name##_##T##_one((T)HIGH(a), (T)HIGH(b))))
PAIRED(add, u16, a + b)
PAIRED(min, u16, a < b ? a : b)
PAIRED(max, u16, a > b ? a : b)
PAIRED(min, s16, a < b ? a : b)
PAIRED(max, s16, a > b ? a : b)
static inline s32 relu(s32 x) { return x > 0 ? x : 0; }
PAIRED(min_relu, s16, relu(a < b ? a : b))
PAIRED(max_relu, s16, relu(a > b ? a : b))
BINARY(min_relu, s32, relu(a < b ? a : b))
BINARY(max_relu, s32, relu(a > b ? a : b))

LANES1(popc_u32, u32, u32, __builtin_popcount(a))
LANES1(popc_u64, u32, u64, __builtin_popcountll(a))
LANES1(clz_u32, u32, u32, a ? __builtin_clz(a) : 32)
LANES1(clz_u64, u32, u64, a ? __builtin_clzll(a) : 64)
static inline u32 reversed(u32 x) {
    x = (x >> 1 & 0x55555555) | (x & 0x55555555) << 1;
    x = (x >> 2 & 0x33333333) | (x & 0x33333333) << 2;
    x = (x >> 4 & 0x0f0f0f0f) | (x & 0x0f0f0f0f) << 4;
    return __builtin_bswap32(x);
}
UNARY(brev, u32, reversed(a))
UNARY(brev, u64, (u64)reversed((u32)a) << 32 | reversed((u32)(a >> 32)))
/* position of the most significant bit that is not the sign; all ones if there is none */
static inline u32 top_bit(u64 x, bool minus, u32 bits, bool distance) {
    x = (minus ? ~x : x) & (~(u64)0 >> (64 - bits));
    u32 top = 63 - (x ? (u32)__builtin_clzll(x) : 0);
    return x == 0 ? ~0u : distance ? bits - 1 - top : top;
}
LANES1(bfind_u32, u32, u32, top_bit(a, false, 32, false))
LANES1(bfind_s32, u32, s32, top_bit((u64)(s64)a, a < 0, 32, false))
LANES1(bfind_u64, u32, u64, top_bit(a, false, 64, false))
LANES1(bfind_s64, u32, s64, top_bit((u64)a, a < 0, 64, false))
LANES1(bfind_shiftamt_u32, u32, u32, top_bit(a, false, 32, true))
LANES1(bfind_shiftamt_s32, u32, s32, top_bit((u64)(s64)a, a < 0, 32, true))
LANES1(bfind_shiftamt_u64, u32, u64, top_bit(a, false, 64, true))
LANES1(bfind_shiftamt_s64, u32, s64, top_bit((u64)a, a < 0, 64, true))

/* bit fields: position and length are the low bytes of the operands; past the top come the sign or zeros */
static inline u64 field_mask(u32 length) { return length < 64 ? ((u64)1 << length) - 1 : ~(u64)0; }
static inline u64 extracted(u64 a, u32 position, u32 length, u32 bits, bool is_signed) {
    position &= 0xff, length &= 0xff;
    u64 field = position < bits ? a >> position & field_mask(length) : 0;
    u32 top = position + length - 1 < bits - 1 ? position + length - 1 : bits - 1;
    bool sign = is_signed && length && a >> top & 1;
    u32 present = position >= bits ? 0 : length < bits - position ? length : bits - position;
    return sign ? field | ~field_mask(present) : field;
}
static inline u64 inserted(u64 a, u64 b, u32 position, u32 length, u32 bits) {
    position &= 0xff, length &= 0xff;
    u64 mask = position < bits ? field_mask(length) << position : 0;
    return (b & ~mask) | (position < bits ? a << position & mask : 0);
}
LANES3(bfe_u32, u32, u32, u32, u32, extracted(a, b, c, 32, false))
LANES3(bfe_s32, u32, u32, u32, u32, extracted(a, b, c, 32, true))
LANES3(bfe_u64, u64, u64, u32, u32, extracted(a, b, c, 64, false))
LANES3(bfe_s64, u64, u64, u32, u32, extracted(a, b, c, 64, true))
#define BFI(T, bits) \
    static Outcome bfi_##T(Warp *w, const Ins *in, u32 m) { \
        T *d = row(w, in, 0); \
        const T *a = row(w, in, 1), *b = row(w, in, 2); \
        const u32 *position = row(w, in, 3), *length = row(w, in, 4); \
        FOR_LANES(m, d, (T)inserted(a[l], b[l], position[l], length[l], bits)); \
        return RAN; \
    }
BFI(u32, 32)
BFI(u64, 64)

/* funnel shifts of b:a */
LANES3(shf_l_wrap, u32, u32, u32, u32, ((u64)b << 32 | a) << (c & 31) >> 32)
LANES3(shf_r_wrap, u32, u32, u32, u32, ((u64)b << 32 | a) >> (c & 31))
LANES3(shf_l_clamp, u32, u32, u32, u32, ((u64)b << 32 | a) << (c < 32 ? c : 32) >> 32)
LANES3(shf_r_clamp, u32, u32, u32, u32, ((u64)b << 32 | a) >> (c < 32 ? c : 32))

static inline u32 extended(u32 a, u32 b, bool is_signed, bool clamp) {
    u32 n = b & 31, mask = clamp && b > 31 ? 0 : ~0u << n;
    bool sign = is_signed && n && mask && a >> ((n - 1) & 31) & 1;
    return (a & ~mask) | (sign ? mask : 0);
}
LANES2(szext_wrap_u32, u32, u32, u32, extended(a, b, false, false))
LANES2(szext_wrap_s32, u32, u32, u32, extended(a, b, true, false))
LANES2(szext_clamp_u32, u32, u32, u32, extended(a, b, false, true))
LANES2(szext_clamp_s32, u32, u32, u32, extended(a, b, true, true))
static inline u32 bit_mask(u32 a, u32 b, bool clamp) {
    u32 from = clamp && a > 31 ? 0 : ~0u << (a & 31), sum = (a & 31) + (b & 31);
    u32 to = sum > 31 || (clamp && b > 31) ? 0 : ~0u << sum;
    return from & ~to;
}
LANES2(bmsk_wrap, u32, u32, u32, bit_mask(a, b, false))
LANES2(bmsk_clamp, u32, u32, u32, bit_mask(a, b, true))

/* prmt: byte k of d is byte `selector` of b:a; bit 3 of a selector of the default mode spreads its sign */
static inline u32 permuted(u32 a, u32 b, const u32 selector[4]) {
    u64 both = (u64)b << 32 | a;
    u32 d = 0;
    for (int k = 0; k < 4; k++) {
        u32 byte = (u32)(both >> 8 * (selector[k] & 7)) & 0xff;
        if (selector[k] & 8) byte = byte & 0x80 ? 0xff : 0;
        d |= byte << 8 * k;
    }
    return d;
}
#define PRMT(name, s0, s1, s2, s3) \
    LANES3(prmt##name, u32, u32, u32, u32, permuted(a, b, (u32[]){s0, s1, s2, s3}))
PRMT(, c & 15, c >> 4 & 15, c >> 8 & 15, c >> 12 & 15)
PRMT(_f4e, c & 3, (c & 3) + 1, (c & 3) + 2, (c & 3) + 3)
PRMT(_b4e, c & 3, ((c & 3) + 7) & 7, ((c & 3) + 6) & 7, ((c & 3) + 5) & 7)
PRMT(_rc8, c & 3, c & 3, c & 3, c & 3)
PRMT(_ecl, c & 3, (c & 3) > 1 ? c & 3 : 1, (c & 3) > 2 ? c & 3 : 2, 3)
PRMT(_ecr, 0, (c & 3) < 1 ? c & 3 : 1, (c & 3) < 2 ? c & 3 : 2, c & 3)
PRMT(_rc16, (c & 1) * 2, (c & 1) * 2 + 1, (c & 1) * 2, (c & 1) * 2 + 1)

/* dot products of four bytes, or of two halves and the low or high two bytes */
#define BYTE(T, x, i) ((s32)(T)((x) >> 8 * (i)))
#define DOT(TA, TB, HA) \
    LANES3(dp4a_##TA##_##TB, u32, u32, u32, u32, \
           c + (u32)(BYTE(TA, a, 0) * BYTE(TB, b, 0) + BYTE(TA, a, 1) * BYTE(TB, b, 1) + \
                     BYTE(TA, a, 2) * BYTE(TB, b, 2) + BYTE(TA, a, 3) * BYTE(TB, b, 3))) \
    LANES3(dp2a_lo_##TA##_##TB, u32, u32, u32, u32, \
           c + (u32)((HA)a * BYTE(TB, b, 0) + (HA)(a >> 16) * BYTE(TB, b, 1))) \
    LANES3(dp2a_hi_##TA##_##TB, u32, u32, u32, u32, \
           c + (u32)((HA)a * BYTE(TB, b, 2) + (HA)(a >> 16) * BYTE(TB, b, 3)))
DOT(u8, u8, u16)
DOT(u8, s8, u16)
DOT(s8, u8, s16)
DOT(s8, s8, s16)

/* logic on predicates */
#define PREDICATES(name, expression) \
    static Outcome name##_pred(Warp *w, const Ins *in, u32 m) { \
        u32 a = ptx_pred(w, &in->op[1]), b = ptx_pred(w, &in->op[in->nops - 1]); \
        (void)b; \
        ptx_set_pred(w, &in->op[0], m, expression); \
        return RAN; \
    }
PREDICATES(and, a &b)
PREDICATES(or, a | b)
PREDICATES(xor, a ^ b)
PREDICATES(not, ~a)
PREDICATES(mov, a)

/* Opcodes that say all there is to know. Operands, destination first: r up to 32 bits, d 64, p predicate. */
typedef struct {
    const char *opcode;
    Handler run;
    const char *operands;
} Form;

#define EACH6(op, f, r, d) \
    {op ".u16", f##_u16, r}, {op ".s16", f##_s16, r}, {op ".u32", f##_u32, r}, {op ".s32", f##_s32, r}, \
        {op ".u64", f##_u64, d}, { \
        op ".s64", f##_s64, d \
    }
#define EACH2(op, f, r) \
    {op ".u32", f##_u32, r}, { op ".s32", f##_s32, r }
#define EACH4(op, f, r, d) \
    EACH2(op, f, r), {op ".u64", f##_u64, d}, { op ".s64", f##_s64, d }
#define SIGNED3(op, f) \
    {op ".s16", f##_s16, "rr"}, {op ".s32", f##_s32, "rr"}, { op ".s64", f##_s64, "dd" }
#define BITS3(op, f, r, d) \
    {op ".b16", f##_u16, r}, {op ".b32", f##_u32, r}, { op ".b64", f##_u64, d }
#define WIDE(op, f, r, d) \
    {op ".u16", f##_u16, r}, {op ".s16", f##_s16, r}, {op ".u32", f##_u32, d}, { op ".s32", f##_s32, d }
#define DOTS(op, f) \
    {op ".u32.u32", f##_u8_u8, "rrrr"}, {op ".u32.s32", f##_u8_s8, "rrrr"}, \
        {op ".s32.u32", f##_s8_u8, "rrrr"}, { \
        op ".s32.s32", f##_s8_s8, "rrrr" \
    }

/* clang-format off */
static const Form forms[] = {
    EACH6("add", add, "rrr", "ddd"), EACH6("sub", sub, "rrr", "ddd"),
    EACH6("mul.lo", mul_lo, "rrr", "ddd"), EACH6("mul.hi", mul_hi, "rrr", "ddd"),
    EACH6("mad.lo", mad_lo, "rrrr", "dddd"), EACH6("mad.hi", mad_hi, "rrrr", "dddd"),
    WIDE("mul.wide", mul_wide, "rrr", "drr"), WIDE("mad.wide", mad_wide, "rrrr", "drrd"),
    {"add.sat.s32", add_sat_s32, "rrr"}, {"sub.sat.s32", sub_sat_s32, "rrr"},
    {"mad.hi.sat.s32", mad_hi_sat_s32, "rrrr"}, {"mad24.hi.sat.s32", mad24_hi_sat_s32, "rrrr"},
    EACH2("mul24.lo", mul24_lo, "rrr"), EACH2("mul24.hi", mul24_hi, "rrr"),
    EACH2("mad24.lo", mad24_lo, "rrrr"), EACH2("mad24.hi", mad24_hi, "rrrr"),
    EACH6("sad", sad, "rrrr", "dddd"), EACH6("div", div, "rrr", "ddd"), EACH6("rem", rem, "rrr", "ddd"),
    SIGNED3("abs", abs), SIGNED3("neg", neg),
    EACH6("min", min, "rrr", "ddd"), EACH6("max", max, "rrr", "ddd"),
    {"min.relu.s32", min_relu_s32, "rrr"}, {"max.relu.s32", max_relu_s32, "rrr"},
    {"add.u16x2", add_u16x2, "rrr"}, {"add.s16x2", add_u16x2, "rrr"},
    {"min.u16x2", min_u16x2, "rrr"}, {"max.u16x2", max_u16x2, "rrr"},
    {"min.s16x2", min_s16x2, "rrr"}, {"max.s16x2", max_s16x2, "rrr"},
    {"min.relu.s16x2", min_relu_s16x2, "rrr"}, {"max.relu.s16x2", max_relu_s16x2, "rrr"},
    DOTS("dp4a", dp4a), DOTS("dp2a.lo", dp2a_lo), DOTS("dp2a.hi", dp2a_hi),
    {"popc.b32", popc_u32, "rr"}, {"popc.b64", popc_u64, "rd"},
    {"clz.b32", clz_u32, "rr"}, {"clz.b64", clz_u64, "rd"},
    {"brev.b32", brev_u32, "rr"}, {"brev.b64", brev_u64, "dd"},
    EACH4("bfind", bfind, "rr", "rd"), EACH4("bfind.shiftamt", bfind_shiftamt, "rr", "rd"),
    EACH4("bfe", bfe, "rrrr", "ddrr"), {"bfi.b32", bfi_u32, "rrrrr"}, {"bfi.b64", bfi_u64, "dddrr"},
    {"shf.l.wrap.b32", shf_l_wrap, "rrrr"}, {"shf.l.clamp.b32", shf_l_clamp, "rrrr"},
    {"shf.r.wrap.b32", shf_r_wrap, "rrrr"}, {"shf.r.clamp.b32", shf_r_clamp, "rrrr"},
    EACH2("szext.wrap", szext_wrap, "rrr"), EACH2("szext.clamp", szext_clamp, "rrr"),
    {"bmsk.wrap.b32", bmsk_wrap, "rrr"}, {"bmsk.clamp.b32", bmsk_clamp, "rrr"},
    {"prmt.b32", prmt, "rrrr"}, {"prmt.b32.f4e", prmt_f4e, "rrrr"}, {"prmt.b32.b4e", prmt_b4e, "rrrr"},
    {"prmt.b32.rc8", prmt_rc8, "rrrr"}, {"prmt.b32.rc16", prmt_rc16, "rrrr"},
    {"prmt.b32.ecl", prmt_ecl, "rrrr"}, {"prmt.b32.ecr", prmt_ecr, "rrrr"},
    BITS3("and", and, "rrr", "ddd"), BITS3("or", or, "rrr", "ddd"), BITS3("xor", xor, "rrr", "ddd"),
    BITS3("not", not, "rr", "dd"), BITS3("cnot", cnot, "rr", "dd"),
    BITS3("shl", shl, "rrr", "ddr"), BITS3("shr", shr, "rrr", "ddr"), EACH6("shr", shr, "rrr", "ddr"),
    {"and.pred", and_pred, "ppp"}, {"or.pred", or_pred, "ppp"}, {"xor.pred", xor_pred, "ppp"},
    {"not.pred", not_pred, "pp"},
};
/* clang-format on */

static bool use(Text *t, Ins *in, int i, char what) {
    return what == 'p' ? ptx_use_pred(t, in, i) : what == 'd' ? ptx_use64(t, in, i) : ptx_use32(t, in, i);
}
/* Operands from the first on, as the letters say. */
static bool use_all(Text *t, Ins *in, const char *operands) {
    if (t->nops != (int)strlen(operands)) return false;
    for (int i = 0; i < t->nops; i++)
        if (!use(t, in, i, operands[i])) return false;
    return true;
}
static void take_all(Text *t) {
    for (int i = 0; i < t->nmods; i++) t->used[i] = true;
}
static bool integer(Text *t, Ins *in) {
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        if (strcmp(forms[i].opcode, t->opcode)) continue;
        take_all(t);
        in->run = forms[i].run;
        in->ndst = 1;
        in->unit = UNIT_ALU;
        return use_all(t, in, forms[i].operands);
    }
    return false;
}

/* Extended precision (9.7.2): add.cc, addc, sub.cc, subc, mad.cc, madc. The flag CC.CF is a bit a lane. */
enum { SUBTRACTS = 1, TAKES_CARRY = 2, SETS_CARRY = 4, PRODUCT_LOW = 8, PRODUCT_HIGH = 16, IS_SIGNED = 32 };
#define CARRY(T, U, S, W) \
    static Outcome carry_##T(Warp *w, const Ins *in, u32 m) { \
        T *d = row(w, in, 0); \
        const T *a = row(w, in, 1), *b = row(w, in, 2), *c = row(w, in, in->nops - 1); \
        EACH_LANE(l, m) { \
            W x = a[l]; \
            if (in->mode & PRODUCT_LOW) x = (T)(x * b[l]); \
            if (in->mode & PRODUCT_HIGH) \
                x = (T)((in->mode & IS_SIGNED ? (W)((S)(U)a[l] * (U)b[l]) : x * b[l]) >> 8 * sizeof(T)); \
            W carry = in->mode & TAKES_CARRY ? w->carry >> l & 1 : 0; \
            W sum = in->mode & SUBTRACTS ? x - c[l] - carry : x + c[l] + carry; \
            d[l] = (T)sum; \
            if (in->mode & SETS_CARRY) \
                w->carry = (w->carry & ~LANE_BIT(l)) | ((sum >> 8 * sizeof(T)) & 1 ? LANE_BIT(l) : 0); \
        } \
        return RAN; \
    }
CARRY(u32, s32, s64, u64)
CARRY(u64, s64, __int128, unsigned __int128)

static bool carry(Text *t, Ins *in) {
    const char *name = t->mod[0];
    bool mad = name[0] == 'm';
    in->mode |= name[0] == 's' ? SUBTRACTS : 0;
    in->mode |= name[strlen(name) - 1] == 'c' ? TAKES_CARRY : 0;
    in->mode |= ptx_mod(t, "cc") ? SETS_CARRY : 0;
    if (mad) in->mode |= ptx_mod(t, "lo") ? PRODUCT_LOW : ptx_mod(t, "hi") ? PRODUCT_HIGH : 0;
    if (!(in->mode & (TAKES_CARRY | SETS_CARRY)) || mad != !!(in->mode & (PRODUCT_LOW | PRODUCT_HIGH)))
        return false;
    Type type = ptx_type(t);
    if (type == T_S32 || type == T_S64) in->mode |= IS_SIGNED;
    bool wide = type == T_U64 || type == T_S64;
    if (!wide && type != T_U32 && type != T_S32) return false;
    in->run = wide ? carry_u64 : carry_u32;
    in->ndst = 1;
    in->unit = UNIT_ALU;
    return use_all(t, in, wide ? (mad ? "dddd" : "ddd") : mad ? "rrrr" : "rrr");
}

/* lop3 (9.7.8): bit 4 a + 2 b + c of the table; lop3.or.b32 d|p, a, b, c, table, q: p = (d != 0) or q */
enum { BOOL_NONE, BOOL_AND, BOOL_OR, BOOL_XOR };
static u32 combine(u32 mode, u32 x, u32 y) {
    return mode == BOOL_AND ? x & y : mode == BOOL_OR ? x | y : mode == BOOL_XOR ? x ^ y : x;
}
static int bool_op(Text *t) { return 1 + ptx_mod_of(t, (const char *const[]){"and", "or", "xor", NULL}); }
static Outcome lop3(Warp *w, const Ins *in, u32 m) {
    int n = in->ndst;
    const u32 *a = row(w, in, n), *b = row(w, in, n + 1), *c = row(w, in, n + 2);
    u32 k[8], d[LANES], nonzero = 0;
    for (int i = 0; i < 8; i++) k[i] = in->aux[0] >> i & 1 ? ~0u : 0;
    for (int l = 0; l < LANES; l++) {
        u32 high = (b[l] & ((c[l] & k[7]) | (~c[l] & k[6]))) | (~b[l] & ((c[l] & k[5]) | (~c[l] & k[4])));
        u32 low = (b[l] & ((c[l] & k[3]) | (~c[l] & k[2]))) | (~b[l] & ((c[l] & k[1]) | (~c[l] & k[0])));
        d[l] = (a[l] & high) | (~a[l] & low);
    }
    if (in->op[0].kind != KIND_SINK) {
        u32 *to = row(w, in, 0);
        FOR_LANES(m, to, d[l]);
    }
    if (in->mode) {
        for (int l = 0; l < LANES; l++) nonzero |= (u32)(d[l] != 0) << l;
        ptx_set_pred(w, &in->op[1], m, combine(in->mode, nonzero, ptx_pred(w, &in->op[5])));
    }
    return RAN;
}
static bool decode_lop3(Text *t, Ins *in) {
    s64 table;
    in->mode = (u8)(1 + ptx_mod_of(t, (const char *const[]){"and", "or", NULL}));
    int n = in->mode ? 2 : 1;
    in->run = lop3;
    in->ndst = (u16)n;
    in->unit = UNIT_ALU;
    if (ptx_type(t) != T_B32 || t->nops != (in->mode ? 7 : 5) || !ptx_immediate(t, n + 3, &table))
        return false;
    in->aux[0] = (u32)table & 0xff;
    bool ok = in->mode ? ptx_use_sink(t, in, 0) && ptx_use_pred(t, in, 1) : ptx_use32(t, in, 0);
    for (int i = n; i < n + 3; i++) ok = ok && ptx_use32(t, in, i);
    return ok && (!in->mode || ptx_use_pred(t, in, 6));
}

/* ---- floats (9.7.3, 9.7.4) ----------------------------------------------------------------------------- */

enum { FTZ = 1, SAT = 2, RELU = 4, KEEP_NAN = 8, XORSIGN = 16, SATFINITE = 32 }; /* Ins.mode */

static inline float f32_in(float x, u32 flags) { return flags & FTZ ? ptx_float(ptx_ftz(ptx_bits(x))) : x; }
static inline float f32_out(float x, u32 flags) {
    x = x == x ? x : ptx_float(F32_NAN);
    if (flags & FTZ) x = ptx_float(ptx_ftz(ptx_bits(x)));
    if (flags & SAT) x = x > 0 ? (x < 1 ? x : 1) : 0; /* NaN gives 0 */
    return x;
}

static inline void count_lanes(const Ins *in, u32 m) {
    u64 n = (u64)__builtin_popcount(m);
    if (in->unit == UNIT_FP32) ptx_count.fp32_lanes += n;
    if (in->unit == UNIT_MUFU) ptx_count.mufu_lanes += n * in->vector;
}

/* Three handlers of an f32 instruction: without modifiers, with .ftz, with whatever Ins.mode says. */
#define F32(name, expression) \
    static inline __attribute__((always_inline)) \
    Outcome name##_run(Warp *w, const Ins *in, u32 m, u32 flags) { \
        float *d_ = row(w, in, 0); \
        const float *a_ = row(w, in, 1), *b_ = row(w, in, in->nops > 2 ? 2 : 1), \
                    *c_ = row(w, in, in->nops - 1); \
        FOR_LANES(m, d_, ({ \
                      float a = f32_in(a_[l], flags), b = f32_in(b_[l], flags), c = f32_in(c_[l], flags); \
                      (void)b, (void)c; \
                      f32_out(expression, flags); \
                  })); \
        count_lanes(in, m); \
        return RAN; \
    } \
    static Outcome name##_plain(Warp *w, const Ins *in, u32 m) { return name##_run(w, in, m, 0); } \
    static Outcome name##_ftz(Warp *w, const Ins *in, u32 m) { return name##_run(w, in, m, FTZ); } \
    static Outcome name##_any(Warp *w, const Ins *in, u32 m) { return name##_run(w, in, m, in->mode); }

F32(addf, a + b)
F32(subf, a - b)
F32(mulf, a *b)
F32(fmaf, __builtin_fmaf(a, b, c))
F32(divf, a / b)
F32(sqrtf, sqrtf(a))
F32(rcpf, 1 / a)

/* -0 is less than +0; a NaN loses against a number, or wins with .NaN. */
static inline float smaller(float x, float y, bool greater, u32 flags) {
    s32 a = (s32)ptx_bits(x), b = (s32)ptx_bits(y), sign = (a ^ b) & INT32_MIN;
    if (flags & XORSIGN) a &= INT32_MAX, b &= INT32_MAX;
    s32 ka = a < 0 ? a ^ INT32_MAX : a, kb = b < 0 ? b ^ INT32_MAX : b;
    s32 r = (greater ? ka > kb : ka < kb) ? a : b;
    bool na = ptx_is_nan((u32)a), nb = ptx_is_nan((u32)b);
    r = nb ? a : r;
    r = na ? (flags & KEEP_NAN ? a : b) : r;
    r = flags & KEEP_NAN && nb ? b : r;
    return ptx_float((u32)(flags & XORSIGN ? r | sign : r));
}
F32(minf, smaller(a, b, false, flags))
F32(maxf, smaller(a, b, true, flags))

/* div.approx: PTX ISA gives 0 for |b| > 2^126 (NaN if a is infinite), as a * (1 / b) without subnormals. */
static inline float divided(float a, float b) {
    float r = a / b, least = isinf(a) ? NAN : copysignf(0, r);
    return fabsf(b) > 0x1p126f && fabsf(b) < INFINITY && r == r ? least : r;
}
F32(div_approx, divided(a, b))
F32(div_full, a / b)
F32(rcp_approx, 1 / a)
F32(sqrt_approx, sqrtf(a))
F32(rsqrt_approx, (float)(1 / sqrt((double)a)))
F32(ex2_approx, ptx_ex2(a))
F32(lg2_approx, log2f(a))
F32(sin_approx, sinf(a))
F32(cos_approx, cosf(a))
F32(tanh_approx, tanhf(a))

/* neg and abs touch the sign alone; .ftz flushes. */
LANES1(neg_f32, u32, u32, (in->mode & FTZ ? ptx_ftz(a) : a) ^ 0x80000000u)
LANES1(abs_f32, u32, u32, (in->mode & FTZ ? ptx_ftz(a) : a) & 0x7fffffffu)
LANES2(copysign_f32, u32, u32, u32, (a & 0x80000000u) | (b & 0x7fffffffu))
#define SIGN64 0x8000000000000000u
LANES1(neg_f64, u64, u64, a ^ SIGN64)
LANES1(abs_f64, u64, u64, a & ~SIGN64)
LANES2(copysign_f64, u64, u64, u64, (a & SIGN64) | (b & ~SIGN64))

BINARY(add, double, a + b)
BINARY(sub, double, a - b)
BINARY(mul, double, a *b)
LANES3(fma_double, double, double, double, double, __builtin_fma(a, b, c))
BINARY(div, double, a / b)
UNARY(sqrt, double, sqrt(a))
UNARY(rcp, double, 1 / a)
UNARY(rsqrt, double, 1 / sqrt(a))
static inline double smaller64(double a, double b, bool greater) {
    if (a != a) return b;
    if (b != b) return a;
    if (a == b) return signbit(a) != greater ? a : b;
    return (a < b) != greater ? a : b;
}
BINARY(min, double, smaller64(a, b, false))
BINARY(max, double, smaller64(a, b, true))

/* Rounding .rz, .rm, .rp: the host rounds so while it computes. The volatile operands are read and written
 * between the two calls of fesetround(), so the operation stays there. */
typedef enum { ADD, SUB, MUL, FMA, DIV, SQRT, RCP } Operation;
static int host_round(Round round) {
    return round == ROUND_RZ   ? FE_TOWARDZERO
           : round == ROUND_RM ? FE_DOWNWARD
           : round == ROUND_RP ? FE_UPWARD
                               : FE_TONEAREST;
}
#define DIRECTED(T, fma_, sqrt_, before, after) \
    static T directed_##T(Operation operation, Round round, T x, T y, T z) { \
        volatile T a = x, b = y, c = z, d = 0; \
        fesetround(host_round(round)); \
        switch (operation) { \
        case ADD: d = a + b; break; \
        case SUB: d = a - b; break; \
        case MUL: d = a * b; break; \
        case FMA: d = fma_(a, b, c); break; \
        case DIV: d = a / b; break; \
        case SQRT: d = sqrt_(a); break; \
        case RCP: d = 1 / a; break; \
        } \
        fesetround(FE_TONEAREST); \
        return d; \
    } \
    static Outcome directed_lanes_##T(Warp *w, const Ins *in, u32 m) { \
        T *d = row(w, in, 0); \
        const T *a = row(w, in, 1), *b = row(w, in, in->nops > 2 ? 2 : 1), *c = row(w, in, in->nops - 1); \
        EACH_LANE(l, m) { \
            T x = before(a[l], in->mode), y = before(b[l], in->mode), z = before(c[l], in->mode); \
            d[l] = after(directed_##T(in->n, in->k, x, y, z), in->mode); \
        } \
        count_lanes(in, m); \
        return RAN; \
    }
#define UNCHANGED(x, flags) (x)
DIRECTED(float, __builtin_fmaf, sqrtf, f32_in, f32_out)
DIRECTED(double, __builtin_fma, sqrt, UNCHANGED, UNCHANGED)
/* f16 and bf16: computed in f32 so that one rounding remains (numeric.h). */
typedef enum { H_ADD, H_SUB, H_MUL, H_FMA, H_NEG, H_ABS, H_MIN, H_MAX, H_EX2, H_TANH } HalfOp;
static inline u16 half_flush(u16 h, u32 inf) { return h & inf ? h : h & 0x8000; }
static inline float half_in(u16 h, bool bf16, u32 flags) {
    if (flags & FTZ) h = half_flush(h, bf16 ? BF16_INF : F16_INF);
    return bf16 ? ptx_bf16_to_f32(h) : ptx_f16_to_f32(h);
}
static inline u16 half_out(float x, bool bf16, u32 flags) {
    if (flags & SAT) x = x > 0 ? (x < 1 ? x : 1) : 0;
    if (flags & RELU) x = x <= 0 ? 0 : x;
    u16 h = bf16 ? ptx_f32_to_bf16(x) : ptx_f32_to_f16(x);
    return flags & FTZ ? half_flush(h, bf16 ? BF16_INF : F16_INF) : h;
}
static inline u16 half_op(HalfOp op, bool bf16, u16 a, u16 b, u16 c, u32 flags) {
    float x = half_in(a, bf16, flags), y = half_in(b, bf16, flags), z = half_in(c, bf16, flags);
    switch (op) {
    case H_ADD: return half_out(ptx_half_fma_odd(x, 1, y), bf16, flags);
    case H_SUB: return half_out(ptx_half_fma_odd(x, 1, -y), bf16, flags);
    case H_MUL: return half_out(x * y, bf16, flags); /* x * y is exact unless it is far too small for bf16 */
    case H_FMA: return half_out(ptx_half_fma_odd(x, y, z), bf16, flags);
    case H_NEG: return (u16)((flags & FTZ ? half_flush(a, F16_INF) : a) ^ 0x8000);
    case H_ABS: return (u16)((flags & FTZ ? half_flush(a, F16_INF) : a) & 0x7fff);
    case H_MIN:
    case H_MAX: {
        u16 r = half_out(smaller(x, y, op == H_MAX, flags), bf16, flags);
        /* the signs of NaNs count too, and widening has lost them */
        return flags & XORSIGN && r != HALF_NAN ? (u16)((r & 0x7fff) | ((a ^ b) & 0x8000)) : r;
    }
    case H_EX2: return half_out(ptx_ex2(x), bf16, flags);
    case H_TANH: return half_out(tanhf(x), bf16, flags);
    }
    return 0;
}
#define HALF(name, op, format, bf16) \
    static Outcome name##_##format(Warp *w, const Ins *in, u32 m) { \
        u32 *d = row(w, in, 0); \
        const u32 *a = row(w, in, 1), *b = row(w, in, in->nops > 2 ? 2 : 1), *c = row(w, in, in->nops - 1); \
        if (in->vector == 2) \
            FOR_LANES(m, d, \
                      PAIR(half_op(op, bf16, (u16)a[l], (u16)b[l], (u16)c[l], in->mode), \
                           half_op(op, bf16, (u16)HIGH(a[l]), (u16)HIGH(b[l]), (u16)HIGH(c[l]), in->mode))); \
        else \
            FOR_LANES(m, d, half_op(op, bf16, (u16)a[l], (u16)b[l], (u16)c[l], in->mode)); \
        count_lanes(in, m); \
        return RAN; \
    }
#define HALVES(name, op) HALF(name, op, f16, false) HALF(name, op, bf16, true)
HALVES(addh, H_ADD)
HALVES(subh, H_SUB)
HALVES(mulh, H_MUL)
HALVES(fmah, H_FMA)
HALVES(negh, H_NEG)
HALVES(absh, H_ABS)
HALVES(minh, H_MIN)
HALVES(maxh, H_MAX)
HALVES(ex2h, H_EX2)
HALVES(tanhh, H_TANH)

/* What each floating-point opcode has, by format. `takes`: the modifiers that it may have (`half_takes`: with
 * f16 and bf16). `round`: whether .rn or another mode must or may be there. */
enum { NO_ROUND, MAY_ROUND, MUST_ROUND };
typedef struct {
    const char *name; /* opcode and, of the approximations, its second word */
    int sources;
    u8 round, takes, half_takes, unit, operation;
    Handler plain, ftz, any, f64, f16, bf16;
} FloatForm;
#define F32_OF(f) f##_plain, f##_ftz, f##_any
#define HALF_OF(f) f##_f16, f##_bf16
#define NO_HALF NULL, NULL
#define MINMAX (FTZ | KEEP_NAN | XORSIGN)
/* clang-format off */
static const FloatForm float_forms[] = {
    {"add", 2, MAY_ROUND, FTZ | SAT, FTZ | SAT, UNIT_FP32, ADD, F32_OF(addf), add_double, HALF_OF(addh)},
    {"sub", 2, MAY_ROUND, FTZ | SAT, FTZ | SAT, UNIT_FP32, SUB, F32_OF(subf), sub_double, HALF_OF(subh)},
    {"mul", 2, MAY_ROUND, FTZ | SAT, FTZ | SAT, UNIT_FP32, MUL, F32_OF(mulf), mul_double, HALF_OF(mulh)},
    {"fma", 3, MUST_ROUND, FTZ | SAT, FTZ | SAT | RELU, UNIT_FP32, FMA, F32_OF(fmaf), fma_double,
     HALF_OF(fmah)},
    {"mad", 3, MUST_ROUND, FTZ | SAT, 0, UNIT_FP32, FMA, F32_OF(fmaf), fma_double, NO_HALF},
    {"div", 2, MUST_ROUND, FTZ, 0, UNIT_FP32, DIV, F32_OF(divf), div_double, NO_HALF},
    {"sqrt", 1, MUST_ROUND, FTZ, 0, UNIT_FP32, SQRT, F32_OF(sqrtf), sqrt_double, NO_HALF},
    {"rcp", 1, MUST_ROUND, FTZ, 0, UNIT_FP32, RCP, F32_OF(rcpf), rcp_double, NO_HALF},
    {"min", 2, NO_ROUND, MINMAX, MINMAX, UNIT_ALU, 0, F32_OF(minf), min_double, HALF_OF(minh)},
    {"max", 2, NO_ROUND, MINMAX, MINMAX, UNIT_ALU, 0, F32_OF(maxf), max_double, HALF_OF(maxh)},
    {"neg", 1, NO_ROUND, FTZ, FTZ, UNIT_ALU, 0, neg_f32, neg_f32, neg_f32, neg_f64, HALF_OF(negh)},
    {"abs", 1, NO_ROUND, FTZ, FTZ, UNIT_ALU, 0, abs_f32, abs_f32, abs_f32, abs_f64, HALF_OF(absh)},
    {"copysign", 2, NO_ROUND, 0, 0, UNIT_ALU, 0, copysign_f32, NULL, NULL, copysign_f64, NO_HALF},
    {"div.approx", 2, NO_ROUND, FTZ, 0, UNIT_MUFU, 0, F32_OF(div_approx), NULL, NO_HALF},
    {"div.full", 2, NO_ROUND, FTZ, 0, UNIT_MUFU, 0, F32_OF(div_full), NULL, NO_HALF},
    {"rcp.approx", 1, NO_ROUND, FTZ, 0, UNIT_MUFU, 0, F32_OF(rcp_approx), NULL, NO_HALF},
    {"sqrt.approx", 1, NO_ROUND, FTZ, 0, UNIT_MUFU, 0, F32_OF(sqrt_approx), NULL, NO_HALF},
    {"rsqrt.approx", 1, NO_ROUND, FTZ, 0, UNIT_MUFU, 0, F32_OF(rsqrt_approx), rsqrt_double, NO_HALF},
    {"ex2.approx", 1, NO_ROUND, FTZ, FTZ, UNIT_MUFU, 0, F32_OF(ex2_approx), NULL, HALF_OF(ex2h)},
    {"lg2.approx", 1, NO_ROUND, FTZ, 0, UNIT_MUFU, 0, F32_OF(lg2_approx), NULL, NO_HALF},
    {"sin.approx", 1, NO_ROUND, FTZ, 0, UNIT_MUFU, 0, F32_OF(sin_approx), NULL, NO_HALF},
    {"cos.approx", 1, NO_ROUND, FTZ, 0, UNIT_MUFU, 0, F32_OF(cos_approx), NULL, NO_HALF},
    {"tanh.approx", 1, NO_ROUND, 0, 0, UNIT_MUFU, 0, F32_OF(tanh_approx), NULL, HALF_OF(tanhh)},
};
/* clang-format on */

static int rounding(Text *t) {
    return ptx_mod_of(t, (const char *const[]){"rn", "rna", "rz", "rm", "rp", NULL});
}
static u8 float_flags(Text *t, u32 takes) {
    u32 flags = 0;
    if (takes & FTZ && ptx_mod(t, "ftz")) flags |= FTZ;
    if (takes & SAT && ptx_mod(t, "sat")) flags |= SAT;
    if (takes & RELU && ptx_mod(t, "relu")) flags |= RELU;
    if (takes & KEEP_NAN && ptx_mod(t, "NaN")) flags |= KEEP_NAN;
    if (takes & XORSIGN && ptx_mod(t, "xorsign") && ptx_mod(t, "abs")) flags |= XORSIGN;
    if (takes & SATFINITE && ptx_mod(t, "satfinite")) flags |= SATFINITE;
    return (u8)flags;
}
static bool floating(Text *t, Ins *in) {
    char name[32];
    bool approx = ptx_mod(t, "approx"), full = !approx && ptx_mod(t, "full");
    snprintf(name, sizeof name, "%s%s", t->mod[0], approx ? ".approx" : full ? ".full" : "");
    const FloatForm *f = NULL;
    for (size_t i = 0; i < sizeof float_forms / sizeof *float_forms; i++)
        if (!strcmp(float_forms[i].name, name)) f = &float_forms[i];
    if (!f) return false;
    int round = f->round ? rounding(t) : -1;
    if (round == ROUND_RNA || (f->round == MUST_ROUND && round < 0)) return false;
    Type type = ptx_type(t);
    bool half = type == T_F16 || type == T_F16X2, bf16 = type == T_BF16 || type == T_BF16X2;
    in->mode = float_flags(t, type == T_F64 ? 0 : half || bf16 ? f->half_takes : f->takes);
    in->vector = type == T_F16X2 || type == T_BF16X2 ? 2 : 1;
    in->unit = half || bf16    ? (f->unit == UNIT_FP32 ? UNIT_HALF : f->unit)
               : type == T_F64 ? UNIT_FP64
                               : f->unit;
    in->n = f->operation;
    in->k = (u16)round;
    in->ndst = 1;
    bool directed = round > ROUND_RN;
    if (type == T_F32)
        in->run = directed          ? directed_lanes_float
                  : in->mode == 0   ? f->plain
                  : in->mode == FTZ ? f->ftz
                                    : f->any;
    else if (type == T_F64)
        in->run = directed ? directed_lanes_double : f->f64;
    else if (half && !directed)
        in->run = f->f16;
    else if (bf16 && !directed)
        in->run = f->bf16;
    return in->run && use_all(t, in, &(type == T_F64 ? "dddd" : "rrrr")[3 - f->sources]);
}
static bool number(Text *t, Ins *in) { return integer(t, in) || floating(t, in); }
static bool number_or_carry(Text *t, Ins *in) {
    for (int i = 1; i < t->nmods; i++)
        if (!strcmp(t->mod[i], "cc")) return carry(t, in);
    return number(t, in);
}

/* ---- comparisons (9.7.5) ------------------------------------------------------------------------------- */

/* A comparison is the set of relations that make it true. */
enum { LESS = 1, EQUAL = 2, GREATER = 4, UNORDERED = 8 };
/* clang-format off */
static const struct {
    const char *name;
    u8 accepts;
} comparisons[] = {
    {"eq", EQUAL}, {"ne", LESS | GREATER}, {"lt", LESS}, {"le", LESS | EQUAL}, {"gt", GREATER},
    {"ge", GREATER | EQUAL}, {"lo", LESS}, {"ls", LESS | EQUAL}, {"hi", GREATER}, {"hs", GREATER | EQUAL},
    {"equ", EQUAL | UNORDERED}, {"neu", LESS | GREATER | UNORDERED}, {"ltu", LESS | UNORDERED},
    {"leu", LESS | EQUAL | UNORDERED}, {"gtu", GREATER | UNORDERED}, {"geu", GREATER | EQUAL | UNORDERED},
    {"num", LESS | EQUAL | GREATER}, {"nan", UNORDERED},
};
/* clang-format on */
static int comparison(Text *t) {
    for (size_t i = 0; i < sizeof comparisons / sizeof *comparisons; i++)
        if (ptx_mod(t, comparisons[i].name)) return comparisons[i].accepts;
    return 0;
}

#define COMPARE(name, ROW, T, load) \
    static u32 compare_##name(const void *a_, const void *b_, u32 accepts, u32 flags) { \
        const ROW *ra = a_, *rb = b_; \
        u32 less = accepts & LESS ? ~0u : 0, equal = accepts & EQUAL ? ~0u : 0; \
        u32 greater = accepts & GREATER ? ~0u : 0, unordered = accepts & UNORDERED ? ~0u : 0, mask = 0; \
        (void)flags; \
        for (int l = 0; l < LANES; l++) { \
            ROW r = ra[l]; \
            T a = load; \
            r = rb[l]; \
            T b = load; \
            mask |= (a < b ? less : a == b ? equal : a > b ? greater : unordered) & LANE_BIT(l); \
        } \
        return mask; \
    }
COMPARE(u16, u32, u16, (u16)r)
COMPARE(s16, u32, s16, (s16)r)
COMPARE(u32, u32, u32, r)
COMPARE(s32, s32, s32, r)
COMPARE(u64, u64, u64, r)
COMPARE(s64, s64, s64, r)
COMPARE(f32, float, float, f32_in(r, flags))
COMPARE(f64, double, double, r)
COMPARE(f16, u32, float, half_in((u16)r, false, flags))
COMPARE(bf16, u32, float, half_in((u16)r, true, flags))
COMPARE(f16_high, u32, float, half_in((u16)(r >> 16), false, flags))
COMPARE(bf16_high, u32, float, half_in((u16)(r >> 16), true, flags))

static u32 compare(Type type, const void *a, const void *b, u32 accepts, u32 flags) {
    switch (type) {
    case T_U16:
    case T_B16: return compare_u16(a, b, accepts, flags);
    case T_S16: return compare_s16(a, b, accepts, flags);
    case T_U32:
    case T_B32: return compare_u32(a, b, accepts, flags);
    case T_S32: return compare_s32(a, b, accepts, flags);
    case T_U64:
    case T_B64: return compare_u64(a, b, accepts, flags);
    case T_S64: return compare_s64(a, b, accepts, flags);
    case T_F32: return compare_f32(a, b, accepts, flags);
    case T_F64: return compare_f64(a, b, accepts, flags);
    case T_F16:
    case T_F16X2: return compare_f16(a, b, accepts, flags);
    default: return compare_bf16(a, b, accepts, flags);
    }
}
static u32 compare_high(Type type, const void *a, const void *b, u32 accepts, u32 flags) {
    return type == T_F16X2 ? compare_f16_high(a, b, accepts, flags) : compare_bf16_high(a, b, accepts, flags);
}
static bool comparable(Type type) {
    return (type >= T_U16 && type <= T_S64 && type != T_S8) || (type >= T_B16 && type <= T_B64) ||
           (type >= T_F16 && type <= T_BF16X2) || type == T_F32 || type == T_F64;
}

/* setp: p = (a ? b) BoolOp c, q = !(a ? b) BoolOp c; of pairs p is the low half and q the high one.
 * Ins: n relations, k BoolOp, mode .ftz, type of the operands */
static Outcome setp(Warp *w, const Ins *in, u32 m) {
    const void *a = row(w, in, in->ndst), *b = row(w, in, in->ndst + 1);
    u32 c = in->k ? ptx_pred(w, &in->op[in->nops - 1]) : 0;
    u32 low = compare(in->type, a, b, in->n, in->mode);
    ptx_set_pred(w, &in->op[0], m, combine(in->k, low, c));
    if (in->ndst == 1) return RAN;
    u32 high = in->vector == 2 ? compare_high(in->type, a, b, in->n, in->mode) : ~low;
    ptx_set_pred(w, &in->op[1], m, combine(in->k, high, c));
    return RAN;
}
/* set: all ones or 1.0 of the destination's type (Ins.type2), by halves for pairs */
static Outcome set(Warp *w, const Ins *in, u32 m) {
    u32 *d = row(w, in, 0);
    const void *a = row(w, in, 1), *b = row(w, in, 2);
    u32 c = in->k ? ptx_pred(w, &in->op[3]) : 0;
    u32 low = combine(in->k, compare(in->type, a, b, in->n, in->mode), c), high = 0, one = in->aux[0];
    if (in->vector == 2) high = combine(in->k, compare_high(in->type, a, b, in->n, in->mode), c);
    FOR_LANES(m, d, (low >> l & 1 ? one : 0) | (high >> l & 1 ? one << 16 : 0));
    return RAN;
}
static bool decode_set(Text *t, Ins *in) {
    bool to_pred = !strcmp(t->mod[0], "setp");
    in->n = (u16)comparison(t);
    in->k = (u16)bool_op(t);
    in->mode = float_flags(t, FTZ);
    Type to = to_pred ? T_PRED : ptx_type(t);
    in->type = (u8)ptx_type(t);
    in->vector = in->type == T_F16X2 || in->type == T_BF16X2 ? 2 : 1;
    in->ndst = t->nops > 1 && t->op[1].group == 0 ? 2 : 1;
    bool pair = in->vector == 2, half = in->type >= T_F16 && in->type <= T_BF16X2;
    in->unit = half ? UNIT_HALF : in->type == T_F64 ? UNIT_FP64 : UNIT_ALU;
    in->run = to_pred ? setp : set;
    switch (to) {
    case T_PRED: break;
    case T_U32:
    case T_S32: in->aux[0] = pair ? 0xffff : ~0u; break;
    case T_U16:
    case T_S16: in->aux[0] = 0xffff; break;
    case T_F32: in->aux[0] = 0x3f800000; break;
    case T_F16:
    case T_F16X2: in->aux[0] = 0x3c00; break;
    case T_BF16:
    case T_BF16X2: in->aux[0] = 0x3f80; break;
    default: return false;
    }
    if (!in->n || !comparable(in->type) || (!to_pred && in->ndst != 1)) return false;
    if (t->nops != in->ndst + 2 + (in->k != 0)) return false;
    for (int i = 0; i < in->ndst; i++)
        if (!(!to_pred                     ? ptx_use32(t, in, i)
              : t->op[i].kind == KIND_SINK ? ptx_use_sink(t, in, i)
                                           : ptx_use_pred(t, in, i)))
            return false;
    char operand = ptx_type_bits(in->type) == 64 ? 'd' : 'r';
    return use(t, in, in->ndst, operand) && use(t, in, in->ndst + 1, operand) &&
           (!in->k || use(t, in, in->ndst + 2, 'p'));
}

static Outcome testp(Warp *w, const Ins *in, u32 m) {
    const void *a = row(w, in, 1);
    u32 r = 0;
    EACH_LANE(l, m) {
        int class =
            in->type == T_F32 ? fpclassify(((const float *)a)[l]) : fpclassify(((const double *)a)[l]);
        r |= in->n >> class & 1 ? LANE_BIT(l) : 0;
    }
    ptx_set_pred(w, &in->op[0], m, r);
    return RAN;
}
static bool decode_testp(Text *t, Ins *in) {
    static const char *const names[] = {"finite", "infinite",  "number", "notanumber",
                                        "normal", "subnormal", NULL};
    enum {
        INF = 1 << FP_INFINITE,
        NOT = 1 << FP_NAN,
        NORMAL = 1 << FP_NORMAL,
        SMALL = 1 << FP_SUBNORMAL,
        ZERO = 1 << FP_ZERO
    };
    static const u16 classes[] = {
        NORMAL | SMALL | ZERO, INF, NORMAL | SMALL | ZERO | INF, NOT, NORMAL, SMALL};
    int which = ptx_mod_of(t, names);
    in->type = (u8)ptx_type(t);
    if (which < 0 || (in->type != T_F32 && in->type != T_F64)) return false;
    in->n = classes[which];
    in->run = testp;
    in->ndst = 1;
    in->unit = UNIT_ALU;
    return use_all(t, in, in->type == T_F64 ? "pd" : "pr");
}

/* ---- selections and moves (9.7.5, 9.7.9) --------------------------------------------------------------- */

/* selp d, a, b, p: what is chosen may hold nothing, and then d does; p may not. */
static void check_predicate(Warp *w, const Ins *in, u32 m, const Operand *p) {
    u32 missing = m & ~w->pred_init[p->row];
    if (missing) ptx_finding(w, in, missing, NULL, "reads a predicate that was never written");
}
static void select_init(Warp *w, const Ins *in, u32 m, u32 p) {
    u32 from = (p & w->reg_init[in->op[1].row]) | (~p & w->reg_init[in->op[2].row]);
    u32 *to = &w->reg_init[in->op[0].row];
    *to = (*to & ~m) | (from & m);
}
#define SELP(T) \
    static Outcome selp_##T(Warp *w, const Ins *in, u32 m) { \
        T *d = row(w, in, 0); \
        const T *a = row(w, in, 1), *b = row(w, in, 2); \
        u32 p = ptx_pred(w, &in->op[3]); \
        check_predicate(w, in, m, &in->op[3]); \
        select_init(w, in, m, p); \
        FOR_LANES(m, d, p >> l & 1 ? a[l] : b[l]); \
        return RAN; \
    }
SELP(u32)
SELP(u64)
static bool decode_selp(Text *t, Ins *in) {
    int bits = ptx_type_bits(ptx_type(t));
    if (bits != 16 && bits != 32 && bits != 64) return false;
    in->run = bits == 64 ? selp_u64 : selp_u32;
    in->flags = INS_OWN_INIT | INS_ANY_INPUT;
    in->ndst = 1;
    in->unit = UNIT_ALU;
    return use_all(t, in, bits == 64 ? "dddp" : "rrrp");
}
/* slct d, a, b, c: a if c >= 0 (-0 too, NaN not) */
LANES3(slct_u32_s32, u32, u32, u32, s32, c >= 0 ? a : b)
LANES3(slct_u64_s32, u64, u64, u64, s32, c >= 0 ? a : b)
LANES3(slct_u32_f32, u32, u32, u32, u32, f32_in(ptx_float(c), in->mode) >= 0 ? a : b)
LANES3(slct_u64_f32, u64, u64, u64, u32, f32_in(ptx_float(c), in->mode) >= 0 ? a : b)
static bool decode_slct(Text *t, Ins *in) {
    in->mode = float_flags(t, FTZ);
    int bits = ptx_type_bits(ptx_type(t));
    Type by = ptx_type(t);
    if ((bits != 16 && bits != 32 && bits != 64) || (by != T_S32 && by != T_F32)) return false;
    in->run = by == T_S32  ? (bits == 64 ? slct_u64_s32 : slct_u32_s32)
              : bits == 64 ? slct_u64_f32
                           : slct_u32_f32;
    in->ndst = 1;
    in->unit = UNIT_ALU;
    return use_all(t, in, bits == 64 ? "dddr" : "rrrr");
}

UNARY(mov, u32, a)
UNARY(mov, u64, a)
static u64 lane_of(Warp *w, const Operand *o, u32 l) {
    return o->kind == KIND_R64 ? ptx_r64(w, o)[l] : ptx_r32(w, o)[l];
}
static void set_lane(Warp *w, const Operand *o, u32 l, u64 value) {
    if (o->kind == KIND_R64)
        ptx_r64(w, o)[l] = value;
    else if (o->kind == KIND_R32)
        ptx_r32(w, o)[l] = (u32)value;
}
/* mov.b64 d, {a, b} and mov.b64 {a, b}, d; width: bits of a part */
static Outcome pack(Warp *w, const Ins *in, u32 m) {
    EACH_LANE(l, m) {
        u64 value = 0;
        for (int i = in->nops - 1; i >= 1; i--)
            value = value << in->width | (lane_of(w, &in->op[i], l) & field_mask(in->width));
        set_lane(w, &in->op[0], l, value);
    }
    return RAN;
}
static Outcome unpack(Warp *w, const Ins *in, u32 m) {
    EACH_LANE(l, m) {
        u64 value = lane_of(w, &in->op[in->ndst], l);
        for (int i = 0; i < in->ndst; i++)
            set_lane(w, &in->op[i], l, value >> in->width * i & field_mask(in->width));
    }
    return RAN;
}
/* The clocks tick once a warp instruction of the grid. Ins.n: first bit taken. */
static Outcome clock32(Warp *w, const Ins *in, u32 m) {
    u32 *d = row(w, in, 0), now = (u32)(w->cta->grid->executed >> in->n);
    FOR_LANES(m, d, now);
    return RAN;
}
static Outcome clock64(Warp *w, const Ins *in, u32 m) {
    u64 *d = row(w, in, 0), now = w->cta->grid->executed;
    FOR_LANES(m, d, now);
    return RAN;
}
static bool mov_clock(Text *t, Ins *in, const char *name) {
    static const char *const clocks[] = {"%clock",   "%globaltimer_lo", "%clock_hi", "%globaltimer_hi",
                                         "%clock64", "%globaltimer",    NULL};
    int which = 0;
    while (clocks[which] && strcmp(clocks[which], name)) which++;
    if (!clocks[which]) return false;
    in->n = which == 2 || which == 3 ? 32 : 0;
    in->run = which < 4 ? clock32 : clock64;
    return use(t, in, 0, which < 4 ? 'r' : 'd');
}
static Outcome set_pred(Warp *w, const Ins *in, u32 m) {
    ptx_set_pred(w, &in->op[0], m, in->n ? ALL_LANES : 0);
    return RAN;
}
static bool mov(Text *t, Ins *in) {
    Type type = ptx_type(t);
    int bits = ptx_type_bits(type), ndst = 1;
    in->unit = UNIT_ALU;
    while (ndst < t->nops && t->op[ndst].group == 0) ndst++;
    in->ndst = (u16)ndst;
    if (t->nops - ndst == 1 && ndst == 1 && t->op[1].kind == KIND_LABEL && t->op[1].name[0] == '%')
        return mov_clock(t, in, t->op[1].name);
    in->flags = INS_COPIES;
    s64 value;
    if (type == T_PRED && ptx_immediate(t, 1, &value)) {
        in->run = set_pred;
        in->n = value != 0;
        return use(t, in, 0, 'p');
    }
    if (type == T_PRED) {
        in->run = mov_pred;
        return use_all(t, in, "pp");
    }
    if (bits != 16 && bits != 32 && bits != 64) return false;
    int sources = t->nops - ndst, parts = ndst > sources ? ndst : sources;
    if (parts == 1) {
        in->run = bits == 64 ? mov_u64 : mov_u32;
        return use_all(t, in, bits == 64 ? "dd" : "rr");
    }
    if ((ndst > 1 && sources > 1) || (parts != 2 && parts != 4) || bits / parts < 8) return false;
    in->width = (u8)(bits / parts);
    in->run = ndst > 1 ? unpack : pack;
    for (int i = 0; i < t->nops; i++) {
        int own = (i < ndst ? ndst : sources) > 1 ? in->width : bits;
        if (!(t->op[i].kind == KIND_SINK ? ptx_use_sink(t, in, i) : ptx_use_bits(t, in, i, own)))
            return false;
    }
    return true;
}

/* ---- cvt (9.7.9.21) ------------------------------------------------------------------------------------ */

/* The general form goes through rows of s64 (integer to integer) or double (all others): read, round,
 * saturate, write. Ins: type, type2 destination and source; k rounding of floats, n to an integer. */
enum { NO_INTEGER_ROUND, RNI, RZI, RMI, RPI };
static bool is_integer(Type t) { return t >= T_U8 && t <= T_S64; }
static bool is_signed(Type t) { return t >= T_S8 && t <= T_S64; }

/* Cuts to the type and extends again. */
static void cut(Type type, s64 *x) {
    int unused = 64 - ptx_type_bits(type);
    if (is_signed(type))
        for (int l = 0; l < LANES; l++) x[l] = (s64)((u64)x[l] << unused) >> unused;
    else
        for (int l = 0; l < LANES; l++) x[l] = (s64)((u64)x[l] << unused >> unused);
}
static void read_integers(Warp *w, const Operand *o, Type type, s64 *x) {
    const u32 *r = ptx_r32(w, o);
    const u64 *r64 = ptx_r64(w, o);
    if (o->kind == KIND_R64)
        for (int l = 0; l < LANES; l++) x[l] = (s64)r64[l];
    else
        for (int l = 0; l < LANES; l++) x[l] = (s64)r[l];
    cut(type, x);
}
/* A register that is wider than the type gets the sign or zeros in its upper part. */
static void write_integers(Warp *w, const Operand *o, Type type, s64 *x, u32 m) {
    u64 *d64 = ptx_r64(w, o);
    u32 *d = ptx_r32(w, o), mask = o->bits && o->bits < 32 ? (1u << o->bits) - 1 : ~0u;
    cut(type, x);
    if (o->kind == KIND_R64)
        FOR_LANES(m, d64, (u64)x[l]);
    else
        FOR_LANES(m, d, (u32)x[l] & mask);
}
static s64 least_of(Type t) { return is_signed(t) ? INT64_MIN >> (64 - ptx_type_bits(t)) : 0; }
static s64 greatest_of(Type t) { /* of u64: as far as an s64 goes */
    int bits = ptx_type_bits(t);
    return is_signed(t) ? INT64_MAX >> (64 - bits) : bits == 64 ? INT64_MAX : ((s64)1 << bits) - 1;
}
static Outcome cvt_integers(Warp *w, const Ins *in, u32 m) {
    s64 x[LANES], least = least_of(in->type), greatest = greatest_of(in->type);
    read_integers(w, &in->op[1], in->type2, x);
    if (in->mode & SAT && in->type2 == T_U64) {
        if (in->type != T_U64)
            for (int l = 0; l < LANES; l++) x[l] = (u64)x[l] > (u64)greatest ? greatest : x[l];
    } else if (in->mode & SAT) {
        for (int l = 0; l < LANES; l++) x[l] = x[l] < least ? least : x[l] > greatest ? greatest : x[l];
    }
    write_integers(w, &in->op[0], in->type, x, m);
    return RAN;
}

/* An integer as a double: exact, or rounded to odd (a later rounding to f32 or less does not notice). */
static double odd_from(s64 x, bool is_unsigned) {
    bool minus = !is_unsigned && x < 0;
    u64 magnitude = minus ? -(u64)x : (u64)x;
    if (magnitude >> 53) magnitude = (magnitude & ~(u64)0x7ff) | (magnitude & 0x7ff ? 0x800 : 0);
    return minus ? -(double)magnitude : (double)magnitude;
}
static double directed_from(s64 x, bool is_unsigned, Round round) {
    volatile s64 a = x;
    volatile double d;
    fesetround(host_round(round));
    d = is_unsigned ? (double)(u64)a : (double)a;
    fesetround(FE_TONEAREST);
    return d;
}
static double read_double(Warp *w, const Ins *in, u32 l, const s64 *integers) {
    const Operand *o = &in->op[1];
    switch (in->type2) {
    case T_F64: return ptx_double(ptx_r64(w, o)[l]);
    case T_F32: return (double)f32_in(ptx_rf(w, o)[l], in->mode);
    case T_F16: return (double)ptx_f16_to_f32((u16)ptx_r32(w, o)[l]);
    case T_BF16: return (double)ptx_bf16_to_f32((u16)ptx_r32(w, o)[l]);
    default:
        return in->type == T_F64 ? directed_from(integers[l], in->type2 == T_U64, in->k)
                                 : odd_from(integers[l], in->type2 == T_U64);
    }
}
static float f64_to_f32(double d, Round round) {
    volatile double a = d;
    volatile float f;
    fesetround(host_round(round));
    f = (float)a;
    fesetround(FE_TONEAREST);
    return f;
}
/* The bits of x in a floating-point type. */
static u64 float_bits(double x, Type type, Round round, u32 flags) {
    if (flags & SAT) x = x > 0 ? (x < 1 ? x : 1) : 0;
    if (flags & RELU) x = x <= 0 ? 0 : x;
    float odd = ptx_f64_to_f32_odd(x);
    switch (type) {
    case T_F64: return ptx_bits64(x);
    case T_F32: return ptx_bits(f32_out(f64_to_f32(x, round), flags));
    case T_F16: return ptx_f32_to_f16_as(odd, round, flags & SATFINITE);
    default: return ptx_f32_to_bf16_as(odd, round, flags & SATFINITE);
    }
}
/* Out of range: the nearest integer of the type. NaN: 0, but 1 << (bits - 1) where f64 or a 64-bit integer is
 * involved. */
static s64 saturated(double x, Type type, Type from) {
    int bits = ptx_type_bits(type);
    if (x != x) return from == T_F64 || bits == 64 ? (s64)((u64)1 << (bits - 1)) : 0;
    if (type == T_U64) return x >= 0x1p64 ? -1 : x <= 0 ? 0 : (s64)(u64)x;
    double least = (double)least_of(type), greatest = (double)greatest_of(type);
    return x <= least ? least_of(type) : x >= greatest ? greatest_of(type) : (s64)x;
}
static double rounded(double x, int how) {
    return how == RNI ? rint(x) : how == RZI ? trunc(x) : how == RMI ? floor(x) : how == RPI ? ceil(x) : x;
}
static Outcome cvt_general(Warp *w, const Ins *in, u32 m) {
    s64 integers[LANES];
    const Operand *to = &in->op[0];
    if (is_integer(in->type2)) read_integers(w, &in->op[1], in->type2, integers);
    EACH_LANE(l, m) {
        double x = rounded(read_double(w, in, l, integers), in->n);
        if (is_integer(in->type))
            integers[l] = saturated(x, in->type, in->type2);
        else
            set_lane(w, to, l, float_bits(x, in->type, in->k, in->mode));
    }
    if (is_integer(in->type)) write_integers(w, to, in->type, integers, m);
    return RAN;
}

/* two floats to a pair: a is the upper one */
static u32 f32_to_narrow(float x, Type pair, Round round, u32 flags) {
    if (flags & RELU) x = x <= 0 ? 0 : x;
    switch (pair) {
    case T_F16X2: return ptx_f32_to_f16_as(x, round, flags & SATFINITE);
    case T_BF16X2: return ptx_f32_to_bf16_as(x, round, flags & SATFINITE);
    case T_E4M3X2: return ptx_f32_to_e4m3(x);
    default: return ptx_f32_to_e5m2(x);
    }
}
static inline u32 to_pair(u32 a, u32 b, const Ins *in) {
    u32 bits = in->type == T_F16X2 || in->type == T_BF16X2 ? 16 : 8;
    return f32_to_narrow(ptx_float(a), in->type, in->k, in->mode) << bits |
           f32_to_narrow(ptx_float(b), in->type, in->k, in->mode);
}
LANES2(cvt_pair, u32, u32, u32, to_pair(a, b, in))
LANES2(cvt_pair_bf16, u32, u32, u32, PAIR(ptx_f32_to_bf16(ptx_float(b)), ptx_f32_to_bf16(ptx_float(a))))
LANES2(cvt_pair_e4m3, u32, u32, u32, (u32)ptx_f32_to_e4m3(ptx_float(a)) << 8 | ptx_f32_to_e4m3(ptx_float(b)))
static inline u32 f16_to_fp8(u32 h, const Ins *in) {
    return f32_to_narrow(ptx_f16_to_f32((u16)h), in->type, ROUND_RN, in->mode);
}
LANES1(cvt_f16x2_to_fp8, u32, u32, f16_to_fp8(HIGH(a), in) << 8 | f16_to_fp8(a, in))
static inline u16 fp8_to_f16(u32 e, const Ins *in) {
    return half_out(in->type2 == T_E4M3X2 ? ptx_e4m3_to_f32((u8)e) : ptx_e5m2_to_f32((u8)e), false, in->mode);
}
LANES1(cvt_fp8_to_f16x2, u32, u32, PAIR(fp8_to_f16(a, in), fp8_to_f16(a >> 8, in)))
static inline u32 to_tf32(float x, const Ins *in) {
    u32 r = ptx_bits(ptx_f32_to_tf32(in->mode & RELU && x <= 0 ? 0 : x, in->k));
    return in->mode & SATFINITE && (r & 0x7fffffffu) == F32_INF ? (r & 0x80000000u) | 0x7f7fe000u : r;
}
LANES1(cvt_tf32, u32, u32, to_tf32(ptx_float(a), in))
static bool decode_cvt_narrow(Text *t, Ins *in) {
    Type to = in->type, from = in->type2;
    bool fp8 = to == T_E4M3X2 || to == T_E5M2X2;
    if (in->n || in->mode & (FTZ | SAT)) return false;
    if (to == T_TF32 && from == T_F32) {
        in->run = cvt_tf32;
        return in->k <= ROUND_RZ && use_all(t, in, "rr");
    }
    if (in->k != ROUND_RN && !(in->k == ROUND_RZ && (to == T_F16X2 || to == T_BF16X2))) return false;
    if (to == T_F16X2 && (from == T_E4M3X2 || from == T_E5M2X2)) {
        in->run = cvt_fp8_to_f16x2;
        return !(in->mode & SATFINITE) && use_all(t, in, "rr");
    }
    if (fp8 && !(in->mode & SATFINITE)) return false;
    if (fp8 && from == T_F16X2) {
        in->run = cvt_f16x2_to_fp8;
        return use_all(t, in, "rr");
    }
    if (from != T_F32 || !(fp8 || to == T_F16X2 || to == T_BF16X2)) return false;
    bool plain = !(in->mode & RELU) && in->k == ROUND_RN;
    in->run = plain && to == T_BF16X2 && !in->mode ? cvt_pair_bf16
              : plain && to == T_E4M3X2            ? cvt_pair_e4m3
                                                   : cvt_pair;
    return use_all(t, in, "rrr");
}

/* cvt.pack.sat.u8.s32.b32 d, a, b, c: d = c << 16 | sat(a) << 8 | sat(b); width: bits of a part */
static Outcome cvt_pack(Warp *w, const Ins *in, u32 m) {
    u32 *d = row(w, in, 0), mask = (u32)field_mask(in->width);
    const s32 *a = row(w, in, 1), *b = row(w, in, 2);
    const u32 *c = in->nops > 3 ? row(w, in, 3) : NULL;
    s32 least = in->k ? -(1 << (in->width - 1)) : 0, greatest = (s32)(in->k ? mask >> 1 : mask);
    EACH_LANE(l, m) {
        u32 x = (u32)(a[l] < least ? least : a[l] > greatest ? greatest : a[l]) & mask;
        u32 y = (u32)(b[l] < least ? least : b[l] > greatest ? greatest : b[l]) & mask;
        d[l] = (c ? c[l] << 2 * in->width : 0) | x << in->width | y;
    }
    return RAN;
}
static bool decode_cvt_pack(Text *t, Ins *in) {
    static const char *const names[] = {"u16", "s16", "u8", "s8", "u4", "s4", "u2", "s2", NULL};
    int to = ptx_mod_of(t, names);
    if (to < 0 || !ptx_mod(t, "sat") || !ptx_mod(t, "s32") || ptx_mod(t, "b32") != (to > 1)) return false;
    in->width = (u8)(16 >> to / 2);
    in->k = to & 1;
    in->run = cvt_pack;
    return use_all(t, in, to > 1 ? "rrrr" : "rrr");
}

/* the frequent ones */
LANES1(cvt_s64_s32, u64, s32, (s64)a)
LANES1(cvt_u64_u32, u64, u32, a)
LANES1(cvt_u32_u64, u32, u64, (u32)a)
LANES1(cvt_u16_u32, u16, u32, a)
LANES1(cvt_f32_s32, u32, s32, ptx_bits((float)a))
LANES1(cvt_f32_u32, u32, u32, ptx_bits((float)a))
LANES1(cvt_f32_f16, u32, u32, ptx_bits(ptx_f16_to_f32((u16)a)))
LANES1(cvt_f32_bf16, u32, u32, ptx_canonical(a << 16))
LANES1(cvt_f16_f32, u32, u32, ptx_f32_to_f16(ptx_float(a)))
LANES1(cvt_bf16_f32, u32, u32, ptx_f32_to_bf16(ptx_float(a)))
static const struct {
    u8 to, from;
    u8 to_bits, from_bits; /* registers */
    Round round;
    Handler run;
} frequent[] = {
    {T_S64, T_S32, 64, 32, ROUND_RN, cvt_s64_s32}, {T_U64, T_U32, 64, 32, ROUND_RN, cvt_u64_u32},
    {T_U32, T_U64, 32, 64, ROUND_RN, cvt_u32_u64}, {T_S32, T_S64, 32, 64, ROUND_RN, cvt_u32_u64},
    {T_U32, T_U16, 32, 16, ROUND_RN, cvt_u16_u32}, {T_U16, T_U32, 16, 32, ROUND_RN, cvt_u16_u32},
    {T_F32, T_S32, 32, 32, ROUND_RN, cvt_f32_s32}, {T_F32, T_U32, 32, 32, ROUND_RN, cvt_f32_u32},
    {T_F32, T_F16, 32, 16, ROUND_RN, cvt_f32_f16}, {T_F32, T_BF16, 32, 16, ROUND_RN, cvt_f32_bf16},
    {T_F16, T_F32, 16, 32, ROUND_RN, cvt_f16_f32}, {T_BF16, T_F32, 16, 32, ROUND_RN, cvt_bf16_f32},
};

static bool is_float(Type t) { return t == T_F16 || t == T_BF16 || t == T_F32 || t == T_F64; }
static bool cvt(Text *t, Ins *in) {
    in->ndst = 1;
    in->unit = UNIT_CVT;
    if (ptx_mod(t, "pack")) return decode_cvt_pack(t, in);
    int round = rounding(t);
    in->n = (u16)(1 + ptx_mod_of(t, (const char *const[]){"rni", "rzi", "rmi", "rpi", NULL}));
    in->mode = float_flags(t, FTZ | SAT | RELU | SATFINITE);
    in->k = (u16)(round < 0 ? ROUND_RN : round);
    Type to = ptx_type(t), from = ptx_type(t);
    in->type = (u8)to;
    in->type2 = (u8)from;
    bool to_integer = is_integer(to), to_float = is_float(to), from_integer = is_integer(from);
    if (!(to_integer || to_float)) return round >= 0 && decode_cvt_narrow(t, in);
    if ((!from_integer && !is_float(from)) || (round >= 0 && in->n) || round == ROUND_RNA) return false;
    /* PTX ISA: which conversions need a rounding mode, and that the others may not have one */
    bool to_int_from_float = to_integer && !from_integer, integral = to_float && to == from && in->n;
    bool narrows = to_float && (from_integer || ptx_type_bits(to) < ptx_type_bits(from) ||
                                (to != from && ptx_type_bits(to) == 16));
    if ((in->n != 0) != (to_int_from_float || integral) || (round >= 0) != narrows) return false;
    if (in->mode & (RELU | SATFINITE) && !(from == T_F32 && (to == T_F16 || to == T_BF16))) return false;
    in->run = to_integer && from_integer ? cvt_integers : cvt_general;
    if ((to_integer && from_integer) || (to == T_F32 && from == T_BF16))
        in->unit = UNIT_ALU; /* moves, shifts */
    for (size_t i = 0; i < sizeof frequent / sizeof *frequent; i++)
        if (frequent[i].to == to && frequent[i].from == from && !in->mode && !in->n &&
            in->k == frequent[i].round && t->nops == 2 && t->op[0].bits == frequent[i].to_bits &&
            t->op[1].bits == frequent[i].from_bits)
            in->run = frequent[i].run;
    if (t->nops != 2) return false;
    /* the registers may be wider than the types (9.4.1) */
    for (int i = 0; i < 2; i++) {
        int bits = t->op[i].kind == KIND_R64 ? 64 : ptx_type_bits(i ? from : to);
        if (t->op[i].bits && t->op[i].kind != KIND_IMM && t->op[i].bits < ptx_type_bits(i ? from : to))
            return false;
        if (!ptx_use_bits(t, in, i, bits)) return false;
    }
    return true;
}

/* clang-format off */
const Opcode ptx_scalar_opcodes[] = {
    {"add", number_or_carry}, {"addc", carry}, {"sub", number_or_carry}, {"subc", carry},
    {"mad", number_or_carry}, {"madc", carry}, {"mul", number}, {"mul24", integer}, {"mad24", integer},
    {"fma", floating}, {"sad", integer}, {"div", number}, {"rem", integer}, {"abs", number}, {"neg", number},
    {"min", number}, {"max", number}, {"dp4a", integer}, {"dp2a", integer}, {"popc", integer},
    {"clz", integer}, {"brev", integer}, {"bfind", integer}, {"bfe", integer}, {"bfi", integer},
    {"shf", integer}, {"shl", integer}, {"shr", integer}, {"szext", integer}, {"bmsk", integer},
    {"prmt", integer}, {"and", integer}, {"or", integer}, {"xor", integer}, {"not", integer},
    {"cnot", integer}, {"lop3", decode_lop3}, {"rcp", floating}, {"sqrt", floating}, {"rsqrt", floating},
    {"ex2", floating}, {"lg2", floating}, {"sin", floating}, {"cos", floating}, {"tanh", floating},
    {"copysign", floating}, {"testp", decode_testp}, {"setp", decode_set}, {"set", decode_set},
    {"selp", decode_selp}, {"slct", decode_slct}, {"mov", mov}, {"cvt", cvt}, {NULL, NULL},
};
/* clang-format on */
