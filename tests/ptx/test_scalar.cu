/* test_scalar.cu - every register-to-register instruction of the PTX machine against a model.
 *
 * A case is one line: the types of the result and of the sources, the PTX, and what the result should be. Its
 * kernel runs the PTX on all pairs of edge values and on random ones (on all values where the only source has
 * 16 bits); results are compared bit by bit, or within a relative error for the approximations.
 *
 * The model of rounding shares nothing with the machine: round_to() looks for the neighbours of the exact
 * value by bisection over the format's numbers, with comparisons in 113 bits that are exact.
 */
#include <map>
#include <vector>
#include <cstring>
#include <cmath>
#include "fa_test.h"

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int8_t s8;
typedef int16_t s16;
typedef int32_t s32;
typedef int64_t s64;
typedef float f32;
typedef double f64;
typedef __int128 s128;
typedef unsigned __int128 u128;
typedef __float128 quad;

extern "C" {
void ptx_expect_findings(bool expect);
const char *ptx_last_findings(void);
}

/* ---- values -------------------------------------------------------------------------------------------- */

template <class To, class From> To as(From x) {
    To y;
    static_assert(sizeof x == sizeof y, "");
    memcpy(&y, &x, sizeof y);
    return y;
}
static u32 bits(f32 x) { return as<u32>(x); }
static f32 F(u32 x) { return as<f32>(x); }

static const u64 edge16[] = {
    0, 1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 0x7f, 0x80, 0xff, 0x100, 0x3ff, 0x400, 0x7bff, 0x7c00, 0x7c01,
    0x7e00, 0x7fff, 0x8000, 0x8001, 0x83ff, 0x8400, 0xbc00, 0x3c00, 0x3c01, 0x3bff, 0x3f80, 0xbf80, 0x7f7f,
    0x7f80, 0x7f81, 0xff80, 0xfbff, 0xfc00, 0xfe00, 0xfffe, 0xffff,
};
static const u64 edge32[] = {
    0, 1, 2, 3, 8, 15, 16, 24, 31, 32, 33, 63, 64, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x10000, 0x7fffff,
    0x800000, 0x800001, 0xffffff, 0x1000000, 0x3f800000, 0x3f800001, 0x3f7fffff, 0xbf800000, 0x3f000000,
    0x40200000, 0x4b000001, 0x4f000000, 0x5f000000, 0x7f7fffff, 0x7f800000, 0x7f800001, 0x7fc00000,
    0x7fffffff, 0x80000000, 0x80000001, 0x807fffff, 0x80800000, 0xcf000000, 0xff7fffff, 0xff800000,
    0xffc00000, 0xfffffffe, 0xffffffff, 0x12345678, 0x89abcdef,
};
static const u64 edge64[] = {
    0, 1, 2, 3, 31, 32, 33, 63, 64, 65, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000, 0xfffffffffffff,
    0x10000000000000, 0x10000000000001, 0x3ff0000000000000, 0x3ff0000000000001, 0x3fefffffffffffff,
    0xbff0000000000000, 0x4004000000000000, 0x3fe0000000000000, 0x41dfffffffc00000, 0x43e0000000000000,
    0x43f0000000000000, 0xc3e0000000000000, 0x47efffffe0000000, 0x47effffff0000000, 0x3690000000000000,
    0x3e50000000000001, 0x40effc0000000000, 0x7fefffffffffffff, 0x7ff0000000000000, 0x7ff8000000000000,
    0x7fffffffffffffff, 0x8000000000000000, 0x8000000000000001, 0x800fffffffffffff, 0xffefffffffffffff,
    0xfff0000000000000, 0xfff8000000000000, 0xfffffffffffffffe, 0xffffffffffffffff, 0x0123456789abcdef,
};
/* Values are handled as bits of a u64, `size` bytes of them. */
template <class T> T from_bits(u64 x) {
    T y;
    memcpy(&y, &x, sizeof y); /* little endian */
    return y;
}
template <class T> u64 to_bits(T x) {
    u64 y = 0;
    memcpy(&y, &x, sizeof x);
    return y;
}
/* A random value: any bits, a small integer, or a float of moderate size whose low bits are near a tie. */
static u64 random_value(size_t size, u64 *rng) {
    static const u64 low[] = {0,      1,      0x7fff, 0x8000, 0x8001, 0xffff,
                              0x0fff, 0x1000, 0x1001, 0x2000, 0x3000, 0x5000};
    u64 x = fat_next(rng);
    switch (x >> 60 & 3) {
    case 0: return x & 63;
    case 1: return x;
    case 2: return size == 4 ? (x & 0x80ff0000) | (100 + (x >> 40 & 31)) << 23 | low[(x >> 50) % 12] : x;
    default:
        if (size == 8)
            return (x & 0x800fffff00000000) | (1000 + (x >> 52 & 31)) << 52 | (x << 20 & 0xf0000000);
        return size == 4 ? (x & 0x807fffff) | (120 + (x >> 40 & 15)) << 23 : x;
    }
}
/* Operand number `which` of element i. */
static u64 value(int which, size_t i, size_t all, size_t size, u64 *rng) {
    const u64 *edge = size == 2 ? edge16 : size == 4 ? edge32 : edge64;
    size_t n = (size == 2 ? sizeof edge16 : size == 4 ? sizeof edge32 : sizeof edge64) / sizeof *edge;
    u64 mask = ~(u64)0 >> (64 - 8 * size);
    if (all == 65536 && size == 2) return i;
    if (i < n * n) return edge[which == 0 ? i % n : which == 1 ? i / n : (i * 7 + i / n) % n] & mask;
    return random_value(size, rng) & mask;
}

/* ---- cases --------------------------------------------------------------------------------------------- */

typedef void (*Kernel)(const u64 *a, const u64 *b, const u64 *c, u64 *d, int n);
struct Case {
    const char *group, *text;
    int sources, count;       /* count: elements, if not all values of 16 bits */
    double tolerance;
    size_t size[4];           /* of d, a, b, c */
    bool is_float;            /* d */
    Kernel kernel;
    u64 (*want)(u64 a, u64 b, u64 c);
};
static std::vector<Case> &cases() {
    static std::vector<Case> all;
    return all;
}
template <class X> __global__ void run_case(const u64 *a, const u64 *b, const u64 *c, u64 *d, int n) {
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= n) return;
    typename X::A x;
    typename X::B y;
    typename X::C z;
    memcpy(&x, &a[i], sizeof x), memcpy(&y, &b[i], sizeof y), memcpy(&z, &c[i], sizeof z);
    typename X::D r = X::run(x, y, z);
    u64 out = 0;
    memcpy(&out, &r, sizeof r);
    d[i] = out;
}
template <class X> u64 want_bits(u64 a, u64 b, u64 c) {
    return to_bits(
        X::want(from_bits<typename X::A>(a), from_bits<typename X::B>(b), from_bits<typename X::C>(c)));
}
template <class X> struct Register {
    Register(const char *group, const char *text, int sources, int count, double tolerance) {
        typename X::D d = 0;
        cases().push_back({group, text, sources, count, tolerance,
                           {sizeof d, sizeof(typename X::A), sizeof(typename X::B), sizeof(typename X::C)},
                           (typename X::D)0.5 != 0, run_case<X>, want_bits<X>});
    }
};
template <class T> T *to_device(const std::vector<T> &x) {
    T *p = NULL;
    cudaMalloc((void **)&p, x.size() * sizeof(T));
    cudaMemcpy(p, x.data(), x.size() * sizeof(T), cudaMemcpyHostToDevice);
    return p;
}
/* Zeros and infinities are exact even with a tolerance. PTX leaves the payload of f64 NaNs open. */
static bool same(const Case &c, u64 got, u64 want) {
    if (got == want) return true;
    if (!c.is_float) return false;
    double x = c.size[0] == 4 ? (double)F((u32)got) : as<f64>(got),
           y = c.size[0] == 4 ? (double)F((u32)want) : as<f64>(want);
    if (c.size[0] == 8 && y != y) return x != x;
    return y != 0 && !std::isinf(y) && fabs(x - y) <= c.tolerance * fabs(y);
}
static void run(const Case &c) {
    size_t n = c.sources == 1 && c.size[1] == 2 ? 65536 : (size_t)c.count;
    u64 rng = fat_seed, *on_device[4];
    std::vector<u64> x[4];
    for (auto &v : x) v.resize(n);
    for (size_t i = 0; i < n; i++) {
        for (int k = 1; k < 4; k++) x[k][i] = value(k - 1, i, n, c.size[k], &rng);
        if (i % 16 == 15 && c.size[1] == c.size[2]) x[2][i] = x[1][i];
    }
    for (int k = 0; k < 4; k++) on_device[k] = to_device(x[k]);
    c.kernel<<<(unsigned)((n + 255) / 256), 256>>>(on_device[1], on_device[2], on_device[3], on_device[0],
                                                   (int)n);
    if (!FA_EXPECT_MSG(cudaDeviceSynchronize() == cudaSuccess, "%s", c.text)) return;
    cudaMemcpy(x[0].data(), on_device[0], n * sizeof(u64), cudaMemcpyDeviceToHost);
    for (size_t i = 0; i < n; i++) {
        u64 want = c.want(x[1][i], x[2][i], x[3][i]);
        if (same(c, x[0][i], want)) continue;
        FA_EXPECT_MSG(false, "%s: of %llx %llx %llx: got %llx, want %llx", c.text,
                      (unsigned long long)x[1][i], (unsigned long long)x[2][i], (unsigned long long)x[3][i],
                      (unsigned long long)x[0][i], (unsigned long long)want);
        break;
    }
    for (u64 *p : on_device) cudaFree(p);
}
static void run_group(const char *group) {
    int n = 0;
    for (const Case &c : cases())
        if (!strcmp(c.group, group)) run(c), n++;
    FA_EXPECT(n > 0);
}

#define R_u16 "h"
#define R_s16 "h"
#define R_u32 "r"
#define R_s32 "r"
#define R_u64 "l"
#define R_s64 "l"
#define R_f32 "f"
#define R_f64 "d"
#define PASTE_(a, b, c) a##b##_##c
#define PASTE(a, b, c) PASTE_(a, b, c)
#define NAME(tag) PASTE(case_, __LINE__, tag)
#define OPERANDS1(TA, TB, TC) R_##TA(a)
#define OPERANDS2(TA, TB, TC) R_##TA(a), R_##TB(b)
#define OPERANDS3(TA, TB, TC) R_##TA(a), R_##TB(b), R_##TC(c)
/* tag makes the name unique on the line; `before` may change a, b, c first */
#define CASE(tag, N, TD, TA, TB, TC, COUNT, TOLERANCE, before, text, expression) \
    struct NAME(tag) { \
        typedef TD D; \
        typedef TA A; \
        typedef TB B; \
        typedef TC C; \
        static __device__ D run(A a, B b, C c) { \
            D d; \
            before; \
            asm volatile(text : "=" R_##TD(d) : OPERANDS##N(TA, TB, TC)); \
            return d; \
        } \
        static D want(A a, B b, C c) { \
            before; \
            return (D)(expression); \
        } \
    }; \
    static Register<NAME(tag)> PASTE(register_, __LINE__, tag)(GROUP, text, N, COUNT, TOLERANCE);

#define CASE1(TD, TA, text, expression) CASE(_, 1, TD, TA, TA, TA, 4000, 0, , text, expression)
#define CASE2(TD, TA, TB, text, expression) CASE(_, 2, TD, TA, TB, TB, 4000, 0, , text, expression)
#define CASE3(TD, TA, TB, TC, text, expression) CASE(_, 3, TD, TA, TB, TC, 6000, 0, , text, expression)
#define APPROX1(TD, TA, tolerance, text, expression) \
    CASE(_, 1, TD, TA, TA, TA, 8000, tolerance, , text, expression)

/* the same for several types: the text is opcode ".type operands" */
#define UNARY_T(T, op, expression) CASE(T, 1, T, T, T, T, 4000, 0, , op "." #T " %0, %1;", expression)
#define BINARY_T(T, op, expression) CASE(T, 2, T, T, T, T, 4000, 0, , op "." #T " %0, %1, %2;", expression)
#define TERNARY_T(T, op, expression) \
    CASE(T, 3, T, T, T, T, 6000, 0, , op "." #T " %0, %1, %2, %3;", expression)
#define NONZERO_T(T, op, expression) \
    CASE(T, 2, T, T, T, T, 4000, 0, if (b == 0) b = 1, op "." #T " %0, %1, %2;", expression)
#define SIGNED(M, ...) M(s16, __VA_ARGS__) M(s32, __VA_ARGS__) M(s64, __VA_ARGS__)
#define UNSIGNED(M, ...) M(u16, __VA_ARGS__) M(u32, __VA_ARGS__) M(u64, __VA_ARGS__)
#define INTEGERS(M, ...) SIGNED(M, __VA_ARGS__) UNSIGNED(M, __VA_ARGS__)
#define WIDE(M, ...) M(s32, __VA_ARGS__) M(u32, __VA_ARGS__) M(s64, __VA_ARGS__) M(u64, __VA_ARGS__)

/* ---- integers ------------------------------------------------------------------------------------------ */

#define GROUP "integers"
INTEGERS(BINARY_T, "add", (s128)a + b)
INTEGERS(BINARY_T, "sub", (s128)a - b)
INTEGERS(BINARY_T, "mul.lo", (u128)a *(u128)b)
INTEGERS(BINARY_T, "mul.hi", ((u128)(s128)a * (u128)(s128)b) >> 8 * sizeof(a))
INTEGERS(TERNARY_T, "mad.lo", (u128)a *(u128)b + (u128)c)
INTEGERS(TERNARY_T, "mad.hi", (((u128)(s128)a * (u128)(s128)b) >> 8 * sizeof(a)) + (u128)c)
INTEGERS(TERNARY_T, "sad", (a < b ? (s128)b - a : (s128)a - b) + c)
INTEGERS(BINARY_T, "min", a < b ? a : b)
INTEGERS(BINARY_T, "max", a > b ? a : b)
INTEGERS(NONZERO_T, "div", (s128)a / b)
INTEGERS(NONZERO_T, "rem", (s128)a % b)
SIGNED(UNARY_T, "abs", a < 0 ? -(s128)a : a)
SIGNED(UNARY_T, "neg", -(s128)a)
CASE2(u32, u16, u16, "mul.wide.u16 %0, %1, %2;", (u32)a *b)
CASE2(s32, s16, s16, "mul.wide.s16 %0, %1, %2;", (s32)a *b)
CASE2(u64, u32, u32, "mul.wide.u32 %0, %1, %2;", (u64)a *b)
CASE2(s64, s32, s32, "mul.wide.s32 %0, %1, %2;", (s64)a *b)
CASE3(u32, u16, u16, u32, "mad.wide.u16 %0, %1, %2, %3;", (u32)a *b + c)
CASE3(s32, s16, s16, s32, "mad.wide.s16 %0, %1, %2, %3;", (s64)a *b + c)
CASE3(u64, u32, u32, u64, "mad.wide.u32 %0, %1, %2, %3;", (u64)a *b + c)
CASE3(s64, s32, s32, s64, "mad.wide.s32 %0, %1, %2, %3;", (s128)a *b + c)
static s64 sat32(s64 x) { return x > 0x7fffffff ? 0x7fffffff : x < -0x80000000ll ? -0x80000000ll : x; }
CASE2(s32, s32, s32, "add.sat.s32 %0, %1, %2;", sat32((s64)a + b))
CASE2(s32, s32, s32, "sub.sat.s32 %0, %1, %2;", sat32((s64)a - b))
CASE3(s32, s32, s32, s32, "mad.hi.sat.s32 %0, %1, %2, %3;", sat32(((s64)a * b >> 32) + c))
static s64 s24(u32 x) { return (s64)(x & 0x7fffff) - (x & 0x800000); }
static u64 u24(u32 x) { return x & 0xffffff; }
CASE2(u32, u32, u32, "mul24.lo.u32 %0, %1, %2;", u24(a) * u24(b))
CASE2(u32, u32, u32, "mul24.hi.u32 %0, %1, %2;", u24(a) * u24(b) >> 16)
CASE2(u32, u32, u32, "mul24.lo.s32 %0, %1, %2;", s24(a) * s24(b))
CASE2(u32, u32, u32, "mul24.hi.s32 %0, %1, %2;", s24(a) * s24(b) >> 16)
CASE3(u32, u32, u32, u32, "mad24.lo.u32 %0, %1, %2, %3;", u24(a) * u24(b) + c)
CASE3(u32, u32, u32, u32, "mad24.hi.u32 %0, %1, %2, %3;", (u24(a) * u24(b) >> 16) + c)
CASE3(u32, u32, u32, u32, "mad24.lo.s32 %0, %1, %2, %3;", s24(a) * s24(b) + c)
CASE3(u32, u32, u32, u32, "mad24.hi.s32 %0, %1, %2, %3;", (s24(a) * s24(b) >> 16) + c)
CASE3(u32, u32, u32, s32, "mad24.hi.sat.s32 %0, %1, %2, %3;", sat32((s24(a) * s24(b) >> 16) + c))
CASE2(u32, u32, u32, "add.u16x2 %0, %1, %2;", ((a + b) & 0xffff) | ((a >> 16) + (b >> 16)) << 16)
CASE2(u32, u32, u32, "add.s16x2 %0, %1, %2;", ((a + b) & 0xffff) | ((a >> 16) + (b >> 16)) << 16)
template <class T> u32 pairs(u32 a, u32 b, bool max, bool relu) {
    u32 d = 0;
    for (int i = 0; i < 32; i += 16) {
        T x = (T)(a >> i), y = (T)(b >> i), r = (x < y) != max ? x : y;
        if (relu && (s32)r < 0) r = 0;
        d |= (u32)(u16)r << i;
    }
    return d;
}
CASE2(u32, u32, u32, "min.u16x2 %0, %1, %2;", pairs<u16>(a, b, false, false))
CASE2(u32, u32, u32, "max.u16x2 %0, %1, %2;", pairs<u16>(a, b, true, false))
CASE2(u32, u32, u32, "min.s16x2 %0, %1, %2;", pairs<s16>(a, b, false, false))
CASE2(u32, u32, u32, "max.s16x2 %0, %1, %2;", pairs<s16>(a, b, true, false))
CASE2(u32, u32, u32, "min.relu.s16x2 %0, %1, %2;", pairs<s16>(a, b, false, true))
CASE2(u32, u32, u32, "max.relu.s16x2 %0, %1, %2;", pairs<s16>(a, b, true, true))
CASE2(s32, s32, s32, "min.relu.s32 %0, %1, %2;", (a < b ? a : b) < 0 ? 0 : (a < b ? a : b))
CASE2(s32, s32, s32, "max.relu.s32 %0, %1, %2;", (a > b ? a : b) < 0 ? 0 : (a > b ? a : b))
template <class TA, class TB> u32 dot4(u32 a, u32 b, u32 c) {
    s64 sum = c;
    for (int i = 0; i < 32; i += 8) sum += (s64)(TA)(a >> i) * (TB)(b >> i);
    return (u32)sum;
}
template <class TA, class TB> u32 dot2(u32 a, u32 b, u32 c) {
    return (u32)((s64)c + (s64)(TA)a * (TB)b + (s64)(TA)(a >> 16) * (TB)(b >> 8));
}
CASE3(u32, u32, u32, u32, "dp4a.u32.u32 %0, %1, %2, %3;", (dot4<u8, u8>(a, b, c)))
CASE3(u32, u32, u32, u32, "dp4a.u32.s32 %0, %1, %2, %3;", (dot4<u8, s8>(a, b, c)))
CASE3(u32, u32, u32, u32, "dp4a.s32.u32 %0, %1, %2, %3;", (dot4<s8, u8>(a, b, c)))
CASE3(u32, u32, u32, u32, "dp4a.s32.s32 %0, %1, %2, %3;", (dot4<s8, s8>(a, b, c)))
CASE3(u32, u32, u32, u32, "dp2a.lo.u32.u32 %0, %1, %2, %3;", (dot2<u16, u8>(a, b, c)))
CASE3(u32, u32, u32, u32, "dp2a.lo.u32.s32 %0, %1, %2, %3;", (dot2<u16, s8>(a, b, c)))
CASE3(u32, u32, u32, u32, "dp2a.lo.s32.u32 %0, %1, %2, %3;", (dot2<s16, u8>(a, b, c)))
CASE3(u32, u32, u32, u32, "dp2a.lo.s32.s32 %0, %1, %2, %3;", (dot2<s16, s8>(a, b, c)))
CASE3(u32, u32, u32, u32, "dp2a.hi.u32.u32 %0, %1, %2, %3;", (dot2<u16, u8>(a, b >> 16, c)))
CASE3(u32, u32, u32, u32, "dp2a.hi.u32.s32 %0, %1, %2, %3;", (dot2<u16, s8>(a, b >> 16, c)))
CASE3(u32, u32, u32, u32, "dp2a.hi.s32.u32 %0, %1, %2, %3;", (dot2<s16, u8>(a, b >> 16, c)))
CASE3(u32, u32, u32, u32, "dp2a.hi.s32.s32 %0, %1, %2, %3;", (dot2<s16, s8>(a, b >> 16, c)))
#undef GROUP
FA_TEST(integers) { run_group("integers"); }

#define GROUP "bits"
#define BITS1_T(T, op, b, expression) CASE(T, 1, T, T, T, T, 4000, 0, , op "." #b " %0, %1;", expression)
#define BITS2_T(T, op, b, expression) CASE(T, 2, T, T, T, T, 4000, 0, , op "." #b " %0, %1, %2;", expression)
#define BITS(M, op, expression) \
    M(u16, op, b16, expression) M(u32, op, b32, expression) M(u64, op, b64, expression)
BITS(BITS2_T, "and", a &b)
BITS(BITS2_T, "or", a | b)
BITS(BITS2_T, "xor", a ^ b)
BITS(BITS1_T, "not", ~a)
BITS(BITS1_T, "cnot", a == 0)
#define SHIFT_T(T, op, b, expression) \
    CASE(T, 2, T, T, u32, u32, 4000, 0, , op "." #b " %0, %1, %2;", expression)
template <class T> T shifted_right(T a, u32 b) { /* one bit at a time: C leaves big shifts undefined */
    for (u32 i = 0; i < b && i < 64; i++) a = (T)(a >> 1);
    return a;
}
template <class T> T shifted_left(T a, u32 b) {
    for (u32 i = 0; i < b && i < 64; i++) a = (T)(a << 1);
    return a;
}
BITS(SHIFT_T, "shl", shifted_left(a, b))
BITS(SHIFT_T, "shr", shifted_right(a, b))
SHIFT_T(u16, "shr", u16, shifted_right(a, b))
SHIFT_T(u32, "shr", u32, shifted_right(a, b))
SHIFT_T(u64, "shr", u64, shifted_right(a, b))
SHIFT_T(s16, "shr", s16, shifted_right(a, b))
SHIFT_T(s32, "shr", s32, shifted_right(a, b))
SHIFT_T(s64, "shr", s64, shifted_right(a, b))
static u32 funnel(u32 a, u32 b, u32 n, bool left) {
    for (u32 i = 0; i < n; i++) {
        if (left) b = b << 1 | a >> 31, a <<= 1;
        else a = a >> 1 | b << 31, b >>= 1;
    }
    return left ? b : a;
}
CASE3(u32, u32, u32, u32, "shf.l.wrap.b32 %0, %1, %2, %3;", funnel(a, b, c & 31, true))
CASE3(u32, u32, u32, u32, "shf.r.wrap.b32 %0, %1, %2, %3;", funnel(a, b, c & 31, false))
CASE3(u32, u32, u32, u32, "shf.l.clamp.b32 %0, %1, %2, %3;", funnel(a, b, c < 32 ? c : 32, true))
CASE3(u32, u32, u32, u32, "shf.r.clamp.b32 %0, %1, %2, %3;", funnel(a, b, c < 32 ? c : 32, false))
static u32 ones(u64 a) {
    u32 n = 0;
    for (int i = 0; i < 64; i++) n += (u32)(a >> i & 1);
    return n;
}
static int top(u64 a) {
    int i = 63;
    while (i >= 0 && !(a >> i & 1)) i--;
    return i;
}
static u64 mirrored(u64 a, int n) {
    u64 d = 0;
    for (int i = 0; i < n; i++) d |= (a >> i & 1) << (n - 1 - i);
    return d;
}
CASE1(u32, u32, "popc.b32 %0, %1;", ones(a))
CASE1(u32, u64, "popc.b64 %0, %1;", ones(a))
CASE1(u32, u32, "clz.b32 %0, %1;", 31 - top(a))
CASE1(u32, u64, "clz.b64 %0, %1;", 63 - top(a))
CASE1(u32, u32, "brev.b32 %0, %1;", mirrored(a, 32))
CASE1(u64, u64, "brev.b64 %0, %1;", mirrored(a, 64))
CASE1(u32, u32, "bfind.u32 %0, %1;", top(a))
CASE1(u32, s32, "bfind.s32 %0, %1;", top(a < 0 ? (u32)~a : (u32)a))
CASE1(u32, u64, "bfind.u64 %0, %1;", top(a))
CASE1(u32, s64, "bfind.s64 %0, %1;", top((u64)(a < 0 ? ~a : a)))
static u32 distance(int t, int msb) { return t < 0 ? ~0u : (u32)(msb - t); }
CASE1(u32, u32, "bfind.shiftamt.u32 %0, %1;", distance(top(a), 31))
CASE1(u32, s32, "bfind.shiftamt.s32 %0, %1;", distance(top(a < 0 ? (u32)~a : (u32)a), 31))
CASE1(u32, u64, "bfind.shiftamt.u64 %0, %1;", distance(top(a), 63))
CASE1(u32, s64, "bfind.shiftamt.s64 %0, %1;", distance(top((u64)(a < 0 ? ~a : a)), 63))
/* after the pseudo-code of the PTX ISA */
static u64 bfe(u64 a, u32 b, u32 c, int msb, bool is_signed) {
    int pos = (int)(b & 0xff), len = (int)(c & 0xff);
    u64 sbit = !is_signed || len == 0 ? 0 : a >> (pos + len - 1 < msb ? pos + len - 1 : msb) & 1, d = 0;
    for (int i = 0; i <= msb; i++) d |= (i < len && pos + i <= msb ? a >> (pos + i) & 1 : sbit) << i;
    return d;
}
static u64 bfi(u64 a, u64 b, u32 c, u32 n, int msb) {
    int pos = (int)(c & 0xff), len = (int)(n & 0xff);
    for (int i = 0; i < len && pos + i <= msb; i++)
        b = (b & ~(1ull << (pos + i))) | (a >> i & 1) << (pos + i);
    return b;
}
CASE3(u32, u32, u32, u32, "bfe.u32 %0, %1, %2, %3;", bfe(a, b, c, 31, false))
CASE3(u32, u32, u32, u32, "bfe.s32 %0, %1, %2, %3;", bfe(a, b, c, 31, true))
CASE3(u64, u64, u32, u32, "bfe.u64 %0, %1, %2, %3;", bfe(a, b, c, 63, false))
CASE3(u64, u64, u32, u32, "bfe.s64 %0, %1, %2, %3;", bfe(a, b, c, 63, true))
CASE3(u32, u32, u32, u32, "bfi.b32 %0, %1, %2, %3, 5;", bfi(a, b, c, 5, 31))
CASE3(u32, u32, u32, u32, "bfi.b32 %0, %1, %2, 3, %3;", bfi(a, b, 3, c, 31))
CASE3(u64, u64, u64, u32, "bfi.b64 %0, %1, %2, %3, 40;", bfi(a, b, c, 40, 63))
CASE3(u64, u64, u64, u32, "bfi.b64 %0, %1, %2, 30, %3;", bfi(a, b, 30, c, 63))
static u32 szext(u32 a, u32 b, bool is_signed, bool clamp) {
    if (clamp && b >= 32) return a;
    u32 n = b & 31, d = 0;
    for (u32 i = 0; i < 32; i++) d |= (i < n ? a >> i & 1 : is_signed && n ? a >> (n - 1) & 1 : 0) << i;
    return d;
}
CASE2(u32, u32, u32, "szext.wrap.u32 %0, %1, %2;", szext(a, b, false, false))
CASE2(u32, u32, u32, "szext.wrap.s32 %0, %1, %2;", szext(a, b, true, false))
CASE2(u32, u32, u32, "szext.clamp.u32 %0, %1, %2;", szext(a, b, false, true))
CASE2(u32, u32, u32, "szext.clamp.s32 %0, %1, %2;", szext(a, b, true, true))
static u32 bmsk(u32 a, u32 b, bool clamp) { /* b ones from bit a on */
    u32 d = 0;
    if (!clamp) a &= 31, b &= 31;
    for (u64 i = 0; i < 32; i++)
        if (i >= a && i < (u64)a + b) d |= 1u << i;
    return d;
}
CASE2(u32, u32, u32, "bmsk.wrap.b32 %0, %1, %2;", bmsk(a, b, false))
CASE2(u32, u32, u32, "bmsk.clamp.b32 %0, %1, %2;", bmsk(a, b, true))
static u32 prmt(u32 a, u32 b, u32 s) {
    u8 byte[8];
    memcpy(byte, &a, 4), memcpy(byte + 4, &b, 4);
    u32 d = 0;
    for (int i = 0; i < 4; i++) {
        u8 x = byte[s >> 4 * i & 7];
        if (s >> 4 * i & 8) x = (u8)((s8)x >> 7);
        d |= (u32)x << 8 * i;
    }
    return d;
}
/* the table of the PTX ISA, by mode and c & 3, most significant byte first */
static const u32 prmt_mode[6][4] = {{0x3210, 0x4321, 0x5432, 0x6543}, {0x5670, 0x6701, 0x7012, 0x0123},
                                    {0x0000, 0x1111, 0x2222, 0x3333}, {0x3210, 0x3211, 0x3222, 0x3333},
                                    {0x0000, 0x1110, 0x2210, 0x3210}, {0x1010, 0x3232, 0x1010, 0x3232}};
CASE3(u32, u32, u32, u32, "prmt.b32 %0, %1, %2, %3;", prmt(a, b, c))
CASE3(u32, u32, u32, u32, "prmt.b32.f4e %0, %1, %2, %3;", prmt(a, b, prmt_mode[0][c & 3]))
CASE3(u32, u32, u32, u32, "prmt.b32.b4e %0, %1, %2, %3;", prmt(a, b, prmt_mode[1][c & 3]))
CASE3(u32, u32, u32, u32, "prmt.b32.rc8 %0, %1, %2, %3;", prmt(a, b, prmt_mode[2][c & 3]))
CASE3(u32, u32, u32, u32, "prmt.b32.ecl %0, %1, %2, %3;", prmt(a, b, prmt_mode[3][c & 3]))
CASE3(u32, u32, u32, u32, "prmt.b32.ecr %0, %1, %2, %3;", prmt(a, b, prmt_mode[4][c & 3]))
CASE3(u32, u32, u32, u32, "prmt.b32.rc16 %0, %1, %2, %3;", prmt(a, b, prmt_mode[5][c & 3]))
static u32 lop3(u32 a, u32 b, u32 c, u32 lut) {
    u32 d = 0;
    for (int i = 0; i < 32; i++) d |= (lut >> ((a >> i & 1) * 4 + (b >> i & 1) * 2 + (c >> i & 1)) & 1) << i;
    return d;
}
CASE3(u32, u32, u32, u32, "lop3.b32 %0, %1, %2, %3, 0x96;", a ^ b ^ c)
CASE3(u32, u32, u32, u32, "lop3.b32 %0, %1, %2, %3, 0xe8;", (a & b) | (a & c) | (b & c))
CASE3(u32, u32, u32, u32, "lop3.b32 %0, %1, %2, %3, 0x1b;", lop3(a, b, c, 0x1b))
CASE3(u32, u32, u32, u32, "lop3.b32 %0, %1, %2, %3, 0xca;", (a & b) | (~a & c))
CASE3(u32, u32, u32, u32, "lop3.b32 %0, %1, %2, %3, 0x35;", lop3(a, b, c, 0x35))
#define LOP3_PREDICATE(op) \
    "{.reg .pred p, q; .reg .b32 x; setp.lt.u32 q, %1, %2;" op " x|p, %1, %2, %3, 0x80, q;" \
    "selp.b32 x, 1, 0, p; mov.b32 %0, x;}"
CASE3(u32, u32, u32, u32, LOP3_PREDICATE("lop3.or.b32"), (a & b & c) != 0 || a < b)
CASE3(u32, u32, u32, u32, LOP3_PREDICATE("lop3.and.b32"), (a & b & c) != 0 && a < b)
CASE3(
    u32, u32, u32, u32,
    "{.reg .pred p, q; setp.lt.u32 q, %1, %2; lop3.or.b32 _|p, %1, %2, %3, 0x80, !q; selp.b32 %0, 1, 0, p;}",
    (a & b & c) != 0 || a >= b)
#undef GROUP
FA_TEST(bits) { run_group("bits"); }

/* ---- carry --------------------------------------------------------------------------------------------- */

#define GROUP "carry"
/* low and high words of two-word arithmetic; c supplies the high words */
#define HIGH_OF(first, second) "{.reg .b32 x;" first ".u32 x, %1, %2;" second ".u32 %0, %3, 7;}"
CASE3(u32, u32, u32, u32, HIGH_OF("add.cc", "addc"), ((u64)a + b >> 32) + c + 7)
CASE3(u32, u32, u32, u32, HIGH_OF("sub.cc", "subc"), c - 7 - (a < b))
CASE3(u32, s32, s32, s32, "{.reg .b32 x; add.cc.s32 x, %1, %2; addc.s32 %0, %3, -1;}",
      ((u64)(u32)a + (u32)b >> 32) + c - 1)
CASE3(u32, u32, u32, u32, "{.reg .b32 x; add.cc.u32 x, %1, %2; addc.cc.u32 x, %3, %1; addc.u32 %0, 0, 0;}",
      (((u64)a + b >> 32) + c + a) >> 32)
CASE3(u32, u32, u32, u32, "{.reg .b32 x; sub.cc.u32 x, %1, %2; subc.cc.u32 x, %3, %1; subc.u32 %0, 0, 0;}",
      (u64)c < (u64)a + (a < b) ? ~0u : 0)
CASE3(u64, u64, u64, u64, "{.reg .b64 x; add.cc.u64 x, %1, %2; addc.u64 %0, %3, 7;}",
      ((u128)a + b >> 64) + c + 7)
CASE3(u64, u64, u64, u64, "{.reg .b64 x; sub.cc.s64 x, %1, %2; subc.s64 %0, %3, 7;}", c - 7 - (a < b))
CASE3(u32, u32, u32, u32, "{.reg .b32 x; mad.lo.cc.u32 x, %1, %2, %3; madc.hi.u32 %0, %1, %2, 5;}",
      (((u64)a * b + c) >> 32) + 5)
CASE3(u32, s32, s32, u32, "{.reg .b32 x; mad.lo.cc.s32 x, %1, %2, %3; madc.hi.s32 %0, %1, %2, 0;}",
      (u64)((s64)a * b + (s64)c) >> 32)
CASE3(u32, u32, u32, u32,
      "{.reg .b32 x; mad.hi.cc.u32 x, %1, %2, %3; madc.lo.cc.u32 x, %1, %2, %3; addc.u32 %0, 0, 0;}",
      ((u64)(u32)((u64)a * b) + c + (((u64)a * b >> 32) + c >> 32)) >> 32)
CASE3(u64, u64, u64, u64, "{.reg .b64 x; mad.lo.cc.u64 x, %1, %2, %3; madc.hi.u64 %0, %1, %2, 5;}",
      (((u128)a * b + c) >> 64) + 5)
#undef GROUP
FA_TEST(carry) { run_group("carry"); }

/* ---- the model of rounding ----------------------------------------------------------------------------- */

enum Round { RN, RNA, RZ, RM, RP };

/* A format: mantissa bits stored, exponent bias, greatest finite magnitude as bits. */
struct Format {
    int p, bias;
    u64 greatest;
    quad decode(u64 magnitude) const {
        u64 e = magnitude >> p, m = magnitude & (((u64)1 << p) - 1);
        int k = (int)(e ? e : 1) - bias - p;
        if (e) m |= (u64)1 << p;
        if (bias <= 127) return ldexp((double)m, k); /* exact */
        quad x = m;
        while (k != 0) { /* times 2^k */
            int step = k > 60 ? 60 : k < -60 ? -60 : k;
            x *= step > 0 ? (quad)((u64)1 << step) : 1 / (quad)((u64)1 << -step);
            k -= step;
        }
        return x;
    }
};
static const Format F16 = {10, 15, 0x7bff}, BF16 = {7, 127, 0x7f7f}, F32 = {23, 127, 0x7f7fffff},
                    F64 = {52, 1023, 0x7fefffffffffffff}, E4M3 = {3, 7, 0x7e}, E5M2 = {2, 15, 0x7b};

/* The magnitude bits of v rounded: above(x) is the sign of |v| - x, exactly. The number after the greatest
 * one stands for infinity. */
template <class Above> u64 round_to(const Format &f, Round round, bool minus, Above above) {
    u64 low = 0, high = f.greatest + 1; /* |v| >= low, |v| < high */
    if (above(f.decode(high)) >= 0)
        return round == RN || round == RNA || round == (minus ? RM : RP) ? high : f.greatest;
    while (high - low > 1) {
        u64 middle = low + (high - low) / 2;
        if (above(f.decode(middle)) >= 0) low = middle;
        else high = middle;
    }
    if (above(f.decode(low)) == 0 || round == RZ) return low;
    if (round == RM || round == RP) return minus == (round == RM) ? high : low;
    int s = above((f.decode(low) + f.decode(high)) / 2);
    return s > 0 || (s == 0 && (round == RNA || low & 1)) ? high : low;
}
static int sign(quad x) { return (x > 0) - (x < 0); }
/* The sign of a + b + c: two exact sums with their errors, then what cannot change it any more. */
static int sign_of_sum(quad a, quad b, quad c) {
    quad s = a + b, t = s - a, e = (a - (s - t)) + (b - t);
    quad u = s + c, v = u - s, g = (s - (u - v)) + (c - v);
    return sign(u + (g + e));
}

enum Op { ADD, SUB, MUL, FMA, DIV, SQRT, RCP };
/* a op b op c in a format that is exact in T; the result as bits without NaN rules */
template <class T> u64 arithmetic(const Format &f, Op op, Round round, T a, T b, T c, bool *is_nan) {
    u64 top_bit = (u64)1 << (f.greatest > 0xffffffffu ? 63 : f.greatest > 0xffff ? 31 : 15);
    if (op == SUB) b = -b, op = ADD;
    if (op == RCP) b = a, a = 1, op = DIV;
    if (op == ADD) c = b, b = 1, op = FMA;
    bool product_minus = std::signbit(a) != std::signbit(b), minus = product_minus;
    double x = (double)a, y = (double)b,
           z = (double)c; /* what infinities and NaNs give does not depend on rounding */
    double special = op == FMA ? x * y + z : op == MUL ? x * y : op == DIV ? x / y : sqrt(x);
    *is_nan = false;
    if (!std::isfinite(x) || (op != SQRT && !std::isfinite(y)) || (op == FMA && !std::isfinite(z)) ||
        (op == DIV && y == 0) || (op == SQRT && x < 0)) {
        if (op == FMA && std::isfinite(x) && std::isfinite(y))
            special = z; /* x * y may be too great for a double */
        *is_nan = special != special;
        return (std::signbit(special) ? top_bit : 0) | (std::isinf(special) ? f.greatest + 1 : 0);
    }
    quad p = (quad)a * (quad)b;
    int s = op == FMA    ? sign_of_sum(p, (quad)c, 0)
            : op == SQRT ? sign((quad)a)
                         : sign((quad)a) * sign((quad)b);
    if (s == 0) {
        if (op == SQRT) minus = std::signbit(a);
        if (op == FMA)
            minus = product_minus == std::signbit(c) && (p == 0 || sign(p) == sign((quad)c)) ? product_minus
                                                                                             : round == RM;
        return minus ? top_bit : 0;
    }
    minus = s < 0;
    u64 r = round_to(f, round, minus, [&](quad m) {
        quad signed_m = minus ? -m : m;
        int d;
        if (op == FMA) d = sign_of_sum(p, (quad)c, -signed_m);
        else if (op == MUL) d = sign(p - signed_m);
        else if (op == DIV) d = sign((quad)a - signed_m * (quad)b) * (b < 0 ? -1 : 1);
        else d = sign((quad)a - m * m);
        return minus ? -d : d;
    });
    return (minus ? top_bit : 0) | r;
}
enum { FTZ = 1, SAT = 2, RELU = 4 };
static f32 flushed(f32 x) { return fabsf(x) < 0x1p-126f ? copysignf(0, x) : x; }
static f32 finished(f32 x, int flags) { /* canonical NaN, then the modifiers */
    if (x != x) return flags & SAT ? 0 : F(0x7fffffff);
    if (flags & FTZ) x = flushed(x);
    if (flags & SAT) x = x <= 0 ? 0 : x > 1 ? 1 : x;
    return x;
}
static f32 model(Op op, Round round, int flags, f32 a, f32 b = 0, f32 c = 0) {
    bool is_nan;
    if (flags & FTZ) a = flushed(a), b = flushed(b), c = flushed(c);
    u64 r = arithmetic(F32, op, round, a, b, c, &is_nan);
    return finished(is_nan ? NAN : F((u32)r), flags);
}
static f64 model(Op op, Round round, f64 a, f64 b = 0, f64 c = 0) {
    bool is_nan;
    u64 r = arithmetic(F64, op, round, a, b, c, &is_nan);
    return is_nan ? NAN : as<f64>(r);
}

/* ---- f32 and f64 --------------------------------------------------------------------------------------- */

#define GROUP "f32"
#define FLOAT1(op, O, round, R, mods, flags) \
    CASE(round, 1, f32, f32, f32, f32, 800, 0, , op "." #round mods ".f32 %0, %1;", model(O, R, flags, a))
#define FLOAT2(op, O, round, R, mods, flags) \
    CASE(round, 2, f32, f32, f32, f32, 2800, 0, , op "." #round mods ".f32 %0, %1, %2;", \
         model(O, R, flags, a, b))
#define FLOAT3(op, O, round, R, mods, flags) \
    CASE(round, 3, f32, f32, f32, f32, 3400, 0, , op "." #round mods ".f32 %0, %1, %2, %3;", \
         model(O, R, flags, a, b, c))
#define ROUNDS(M, op, O, mods, flags) \
    M(op, O, rn, RN, mods, flags) \
    M(op, O, rz, RZ, mods, flags) M(op, O, rm, RM, mods, flags) M(op, O, rp, RP, mods, flags)
ROUNDS(FLOAT2, "add", ADD, "", 0)
ROUNDS(FLOAT2, "add", ADD, ".ftz", FTZ)
ROUNDS(FLOAT2, "add", ADD, ".sat", SAT)
ROUNDS(FLOAT2, "add", ADD, ".ftz.sat", FTZ | SAT)
ROUNDS(FLOAT2, "sub", SUB, "", 0)
ROUNDS(FLOAT2, "sub", SUB, ".ftz", FTZ)
ROUNDS(FLOAT2, "sub", SUB, ".sat", SAT)
ROUNDS(FLOAT2, "mul", MUL, "", 0)
ROUNDS(FLOAT2, "mul", MUL, ".ftz", FTZ)
ROUNDS(FLOAT2, "mul", MUL, ".ftz.sat", FTZ | SAT)
ROUNDS(FLOAT3, "fma", FMA, "", 0)
ROUNDS(FLOAT3, "fma", FMA, ".ftz", FTZ)
ROUNDS(FLOAT3, "fma", FMA, ".sat", SAT)
ROUNDS(FLOAT3, "mad", FMA, "", 0)
ROUNDS(FLOAT2, "div", DIV, "", 0)
ROUNDS(FLOAT2, "div", DIV, ".ftz", FTZ)
ROUNDS(FLOAT1, "sqrt", SQRT, "", 0)
ROUNDS(FLOAT1, "sqrt", SQRT, ".ftz", FTZ)
ROUNDS(FLOAT1, "rcp", RCP, "", 0)
ROUNDS(FLOAT1, "rcp", RCP, ".ftz", FTZ)
CASE2(f32, f32, f32, "add.f32 %0, %1, %2;", model(ADD, RN, 0, a, b))
CASE2(f32, f32, f32, "sub.ftz.f32 %0, %1, %2;", model(SUB, RN, FTZ, a, b))
CASE2(f32, f32, f32, "mul.sat.f32 %0, %1, %2;", model(MUL, RN, SAT, a, b))
/* min and max: -0 < +0; a NaN loses, or wins with .NaN; .xorsign.abs: magnitudes, and the product's sign */
enum { GREATER = 8, WITH_NAN = 16, XORSIGN = 32 };
static f32 extreme(f32 a, f32 b, int flags) {
    if (flags & FTZ) a = flushed(a), b = flushed(b);
    f32 s = std::signbit(a) != std::signbit(b) ? -1.f : 1.f;
    if (flags & XORSIGN) a = fabsf(a), b = fabsf(b);
    f32 r;
    if (a != a || b != b) r = flags & WITH_NAN || (a != a && b != b) ? NAN : a != a ? b : a;
    else if (a == b) r = (std::signbit(a) != 0) == !(flags & GREATER) ? a : b;
    else r = (a < b) == !(flags & GREATER) ? a : b;
    if (r != r) return F(0x7fffffff);
    return flags & XORSIGN ? copysignf(r, s) : r;
}
CASE2(f32, f32, f32, "min.f32 %0, %1, %2;", extreme(a, b, 0))
CASE2(f32, f32, f32, "max.f32 %0, %1, %2;", extreme(a, b, GREATER))
CASE2(f32, f32, f32, "min.ftz.f32 %0, %1, %2;", extreme(a, b, FTZ))
CASE2(f32, f32, f32, "max.ftz.f32 %0, %1, %2;", extreme(a, b, GREATER | FTZ))
CASE2(f32, f32, f32, "min.NaN.f32 %0, %1, %2;", extreme(a, b, WITH_NAN))
CASE2(f32, f32, f32, "max.ftz.NaN.f32 %0, %1, %2;", extreme(a, b, GREATER | WITH_NAN | FTZ))
CASE2(f32, f32, f32, "min.xorsign.abs.f32 %0, %1, %2;", extreme(a, b, XORSIGN))
CASE2(f32, f32, f32, "max.NaN.xorsign.abs.f32 %0, %1, %2;", extreme(a, b, GREATER | XORSIGN | WITH_NAN))
CASE1(u32, u32, "{.reg .f32 x; mov.b32 x, %1; neg.f32 x, x; mov.b32 %0, x;}", a ^ 0x80000000)
CASE1(u32, u32, "{.reg .f32 x; mov.b32 x, %1; abs.f32 x, x; mov.b32 %0, x;}", a & 0x7fffffff)
CASE1(f32, f32, "neg.ftz.f32 %0, %1;", a != a ? F(bits(a) ^ 0x80000000) : -flushed(a))
CASE1(f32, f32, "abs.ftz.f32 %0, %1;", a != a ? F(bits(a) & 0x7fffffff) : fabsf(flushed(a)))
CASE2(f32, f32, f32, "copysign.f32 %0, %1, %2;", F((bits(b) & 0x7fffffff) | (bits(a) & 0x80000000)))
#undef GROUP
FA_TEST(f32) { run_group("f32"); }

/* The bounds of the PTX ISA; where it gives an absolute one, of the range that has a relative one. */
#define GROUP "approximations"
static f32 in(f32 x, int flags) { return flags & FTZ ? flushed(x) : x; }
#define APPROX(op, tolerance, expression) \
    CASE(plain, 1, f32, f32, f32, f32, 8000, tolerance, , op ".approx.f32 %0, %1;", \
         finished(f32_of(expression), 0)) \
    CASE(ftz, 1, f32, f32, f32, f32, 8000, tolerance, , op ".approx.ftz.f32 %0, %1;", \
         finished(f32_of((a = flushed(a), expression)), FTZ))
static f32 f32_of(double x) { return (f32)x; }
APPROX("rcp", 0x1p-23, 1 / (double)a)
APPROX("sqrt", 0x1p-23, sqrt((double)a))
APPROX("rsqrt", 0x1p-22, 1 / sqrt((double)a))
APPROX("ex2", 0x1p-22, exp2((double)a))
APPROX("lg2", 0x1p-22, log2((double)a))
APPROX("sin", 0x1p-22, sin((double)a))
APPROX("cos", 0x1p-22, cos((double)a))
APPROX1(f32, f32, 0x1p-11, "tanh.approx.f32 %0, %1;", finished((f32)tanh((double)a), 0))
/* 2^x of integers is exact */
CASE(_, 1, f32, s32, s32, s32, 4000, 0, a = a % 250 - 120,
     "{.reg .f32 x; cvt.rn.f32.s32 x, %1; ex2.approx.f32 %0, x;}", exp2((double)a))
static f32 div_approx(f32 a, f32 b, int flags) {
    a = in(a, flags), b = in(b, flags);
    f32 r = a / b;
    if (fabsf(b) > 0x1p126f && !std::isinf(b) && b == b && a == a) r = std::isinf(a) ? NAN : copysignf(0, r);
    return finished(r, flags);
}
CASE(_, 2, f32, f32, f32, f32, 6000, 0x1p-22, , "div.approx.f32 %0, %1, %2;", div_approx(a, b, 0))
CASE(_, 2, f32, f32, f32, f32, 6000, 0x1p-22, , "div.approx.ftz.f32 %0, %1, %2;", div_approx(a, b, FTZ))
CASE(_, 2, f32, f32, f32, f32, 6000, 0x1p-22, , "div.full.f32 %0, %1, %2;", finished(a / b, 0))
CASE(_, 2, f32, f32, f32, f32, 6000, 0x1p-22, , "div.full.ftz.f32 %0, %1, %2;",
     finished(flushed(a) / flushed(b), FTZ))
#undef GROUP
FA_TEST(approximations) { run_group("approximations"); }

#define GROUP "f64"
#define DOUBLE1(op, O, round, R, mods, flags) \
    CASE(round, 1, f64, f64, f64, f64, 600, 0, , op "." #round ".f64 %0, %1;", model(O, R, a))
#define DOUBLE2(op, O, round, R, mods, flags) \
    CASE(round, 2, f64, f64, f64, f64, 2300, 0, , op "." #round ".f64 %0, %1, %2;", model(O, R, a, b))
#define DOUBLE3(op, O, round, R, mods, flags) \
    CASE(round, 3, f64, f64, f64, f64, 2300, 0, , op "." #round ".f64 %0, %1, %2, %3;", model(O, R, a, b, c))
ROUNDS(DOUBLE2, "add", ADD, "", 0)
ROUNDS(DOUBLE2, "sub", SUB, "", 0)
ROUNDS(DOUBLE2, "mul", MUL, "", 0)
ROUNDS(DOUBLE3, "fma", FMA, "", 0)
ROUNDS(DOUBLE3, "mad", FMA, "", 0)
ROUNDS(DOUBLE2, "div", DIV, "", 0)
ROUNDS(DOUBLE1, "sqrt", SQRT, "", 0)
ROUNDS(DOUBLE1, "rcp", RCP, "", 0)
static f64 extreme64(f64 a, f64 b, bool greater) {
    if (a != a || b != b) return a != a ? b : a;
    if (a == b) return std::signbit(a) != greater ? a : b;
    return (a < b) != greater ? a : b;
}
CASE2(f64, f64, f64, "min.f64 %0, %1, %2;", extreme64(a, b, false))
CASE2(f64, f64, f64, "max.f64 %0, %1, %2;", extreme64(a, b, true))
CASE1(f64, f64, "neg.f64 %0, %1;", -a)
CASE1(f64, f64, "abs.f64 %0, %1;", fabs(a))
CASE2(f64, f64, f64, "copysign.f64 %0, %1, %2;", copysign(b, a))
APPROX1(f64, f64, 0x1p-22, "rsqrt.approx.f64 %0, %1;", 1 / sqrt(a))
#undef GROUP
FA_TEST(f64) { run_group("f64"); }

/* ---- f16 and bf16 -------------------------------------------------------------------------------------- */

static f32 decoded(const Format &f, u32 h) {
    u32 top_bit = f.greatest > 0xff ? 0x8000 : 0x80, m = h & (top_bit - 1);
    f32 x = m > f.greatest ? (m == f.greatest + 1 && &f != &E4M3 ? INFINITY : NAN) : (f32)f.decode(m);
    return h & top_bit ? -x : x;
}
static f32 widened(const Format &f, u32 h) { /* of 16 or 8 bits */
    static std::map<const Format *, std::vector<f32>> tables;
    std::vector<f32> &table = tables[&f];
    while (table.size() < (f.greatest > 0xff ? 65536 : 256)) table.push_back(decoded(f, (u32)table.size()));
    return table[h];
}
/* v, which a float, a double or an integer holds exactly, rounded to f16, bf16, e4m3 or e5m2 */
enum { SATFINITE = 64 };
template <class T> u32 narrowed(const Format &f, Round round, int flags, T v) {
    u32 top_bit = f.greatest > 0xff ? 0x8000 : 0x80;
    bool minus = std::signbit((double)v);
    if (v != v) return flags & SAT ? 0 : top_bit - 1;
    if (flags & RELU && minus) return 0;
    if (flags & SAT && v >= 1) v = 1;
    if (flags & SAT && minus) return 0;
    bool infinite = std::isinf((double)v);
    quad x = infinite ? 0 : (quad)v;
    u64 r = infinite ? f.greatest + 1
                     : round_to(f, round, minus, [&](quad m) { return sign((x < 0 ? -x : x) - m); });
    if (flags & SATFINITE && r > f.greatest) r = f.greatest;
    if (flags & FTZ && r >> f.p == 0) r = 0;
    return (u32)r | (minus ? top_bit : 0);
}
static u32 half_flushed(const Format &f, u32 h) { return (h & 0x7fff) >> f.p ? h : h & 0x8000; }
static u32 half(const Format &f, Op op, int flags, u32 a, u32 b = 0, u32 c = 0) {
    bool is_nan;
    if (flags & FTZ) a = half_flushed(f, a), b = half_flushed(f, b), c = half_flushed(f, c);
    u32 r = (u32)arithmetic(f, op, RN, widened(f, a), widened(f, b), widened(f, c), &is_nan);
    if (is_nan) return flags & SAT ? 0 : 0x7fff;
    u32 one = 127 == f.bias ? 0x3f80 : 0x3c00;
    if (flags & (SAT | RELU) && r & 0x8000) return 0;
    if (flags & SAT && r > one) return one;
    return flags & FTZ ? half_flushed(f, r) : r;
}
static u32 half_extreme(const Format &f, int flags, u32 a, u32 b) {
    if (flags & FTZ) a = half_flushed(f, a), b = half_flushed(f, b);
    f32 r = extreme(widened(f, a), widened(f, b), flags & ~FTZ);
    return narrowed(f, RN, 0, r);
}
template <class G> u32 both(G g, u32 a, u32 b = 0, u32 c = 0) {
    return g(a & 0xffff, b & 0xffff, c & 0xffff) | g(a >> 16, b >> 16, c >> 16) << 16;
}

#define GROUP "half"
#define HALF1(text, type, f, ...) \
    CASE(one, 1, u16, u16, u16, u16, 0, 0, , text "." #type " %0, %1;", __VA_ARGS__) \
    CASE(two, 1, u32, u32, u32, u32, 4000, 0, , text "." #type "x2 %0, %1;", \
         both([](u32 a, u32, u32) { return __VA_ARGS__; }, a))
#define HALF2(text, type, f, ...) \
    CASE(one, 2, u16, u16, u16, u16, 6000, 0, , text "." #type " %0, %1, %2;", __VA_ARGS__) \
    CASE(two, 2, u32, u32, u32, u32, 4000, 0, , text "." #type "x2 %0, %1, %2;", \
         both([](u32 a, u32 b, u32) { return __VA_ARGS__; }, a, b))
#define HALF3(text, type, f, ...) \
    CASE(one, 3, u16, u16, u16, u16, 8000, 0, , text "." #type " %0, %1, %2, %3;", __VA_ARGS__) \
    CASE(two, 3, u32, u32, u32, u32, 4000, 0, , text "." #type "x2 %0, %1, %2, %3;", \
         both([](u32 a, u32 b, u32 c) { return __VA_ARGS__; }, a, b, c))
HALF2("add", f16, F16, half(F16, ADD, 0, a, b))
HALF2("add.rn", f16, F16, half(F16, ADD, 0, a, b))
HALF2("add.ftz", f16, F16, half(F16, ADD, FTZ, a, b))
HALF2("add.sat", f16, F16, half(F16, ADD, SAT, a, b))
HALF2("add.ftz.sat", f16, F16, half(F16, ADD, FTZ | SAT, a, b))
HALF2("sub", f16, F16, half(F16, SUB, 0, a, b))
HALF2("sub.rn.ftz", f16, F16, half(F16, SUB, FTZ, a, b))
HALF2("mul", f16, F16, half(F16, MUL, 0, a, b))
HALF2("mul.ftz.sat", f16, F16, half(F16, MUL, FTZ | SAT, a, b))
HALF3("fma.rn", f16, F16, half(F16, FMA, 0, a, b, c))
HALF3("fma.rn.ftz", f16, F16, half(F16, FMA, FTZ, a, b, c))
HALF3("fma.rn.sat", f16, F16, half(F16, FMA, SAT, a, b, c))
HALF3("fma.rn.relu", f16, F16, half(F16, FMA, RELU, a, b, c))
HALF3("fma.rn.ftz.relu", f16, F16, half(F16, FMA, FTZ | RELU, a, b, c))
HALF2("add", bf16, BF16, half(BF16, ADD, 0, a, b))
HALF2("add.rn", bf16, BF16, half(BF16, ADD, 0, a, b))
HALF2("sub.rn", bf16, BF16, half(BF16, SUB, 0, a, b))
HALF2("mul.rn", bf16, BF16, half(BF16, MUL, 0, a, b))
HALF3("fma.rn", bf16, BF16, half(BF16, FMA, 0, a, b, c))
HALF3("fma.rn.relu", bf16, BF16, half(BF16, FMA, RELU, a, b, c))
HALF1("neg", f16, F16, a ^ 0x8000)
HALF1("neg.ftz", f16, F16, ((a & 0x7fff) > 0x7c00 ? a : half_flushed(F16, a)) ^ 0x8000)
HALF1("abs", f16, F16, a & 0x7fff)
HALF1("abs.ftz", f16, F16, ((a & 0x7fff) > 0x7c00 ? a : half_flushed(F16, a)) & 0x7fff)
HALF1("neg", bf16, BF16, a ^ 0x8000)
HALF1("abs", bf16, BF16, a & 0x7fff)
HALF2("min", f16, F16, half_extreme(F16, 0, a, b))
HALF2("max", f16, F16, half_extreme(F16, GREATER, a, b))
HALF2("min.ftz", f16, F16, half_extreme(F16, FTZ, a, b))
HALF2("max.ftz.NaN", f16, F16, half_extreme(F16, FTZ | GREATER | WITH_NAN, a, b))
HALF2("min.NaN.xorsign.abs", f16, F16, half_extreme(F16, WITH_NAN | XORSIGN, a, b))
HALF2("max.xorsign.abs", f16, F16, half_extreme(F16, GREATER | XORSIGN, a, b))
HALF2("min", bf16, BF16, half_extreme(BF16, 0, a, b))
HALF2("max.NaN", bf16, BF16, half_extreme(BF16, GREATER | WITH_NAN, a, b))
HALF2("max.xorsign.abs", bf16, BF16, half_extreme(BF16, GREATER | XORSIGN, a, b))
#undef GROUP
FA_TEST(half) { run_group("half"); }

/* ex2 and tanh of halves: within the bound of the PTX ISA, so neighbours of the nearest number pass. */
static bool half_near(const Format &f, u32 got, double want, double absolute, double relative) {
    f32 x = widened(f, got);
    if (want != want) return got == 0x7fff;
    if (std::isinf(want) || want > (double)widened(f, (u32)f.greatest)) return std::isinf(x) && x > 0;
    return fabs((double)x - want) <= absolute + relative * fabs(want);
}
template <class X> __global__ void all_halves(u16 *one, u32 *two) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    one[i] = X::one((u16)i);
    two[i] = X::two(i | ((i * 40503 + 7) & 0xffff) << 16);
}
template <class X>
void check_halves(const Format &f, double (*g)(double), double absolute, double relative, bool ftz) {
    std::vector<u16> one(65536);
    std::vector<u32> two(65536);
    u16 *d1 = to_device(one);
    u32 *d2 = to_device(two);
    all_halves<X><<<256, 256>>>(d1, d2);
    FA_REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
    cudaMemcpy(one.data(), d1, 65536 * 2, cudaMemcpyDeviceToHost);
    cudaMemcpy(two.data(), d2, 65536 * 4, cudaMemcpyDeviceToHost);
    for (u32 i = 0; i < 65536; i++) {
        u32 high = (i * 40503 + 7) & 0xffff;
        double want = g((double)widened(f, ftz ? half_flushed(f, i) : i)),
               want_high = g((double)widened(f, ftz ? half_flushed(f, high) : high));
        FA_EXPECT_MSG(half_near(f, one[i], want, absolute, relative), "%x: got %x, want %g", i, one[i], want);
        FA_EXPECT_MSG(half_near(f, two[i] & 0xffff, want, absolute, relative), "%x: got %x, want %g", i,
                      two[i], want);
        FA_EXPECT_MSG(half_near(f, two[i] >> 16, want_high, absolute, relative), "%x: got %x, want %g", high,
                      two[i], want_high);
    }
    cudaFree(d1), cudaFree(d2);
}
#define HALVES(name, op, type) \
    struct name { \
        static __device__ u16 one(u16 a) { \
            u16 d; \
            asm volatile(op "." #type " %0, %1;" : "=h"(d) : "h"(a)); \
            return d; \
        } \
        static __device__ u32 two(u32 a) { \
            u32 d; \
            asm volatile(op "." #type "x2 %0, %1;" : "=r"(d) : "r"(a)); \
            return d; \
        } \
    };
HALVES(Ex2F16, "ex2.approx", f16)
HALVES(Ex2Bf16, "ex2.approx.ftz", bf16)
HALVES(TanhF16, "tanh.approx", f16)
HALVES(TanhBf16, "tanh.approx", bf16)
FA_TEST(half_approximations) {
    check_halves<Ex2F16>(F16, exp2, 0x1p-25, 0x1p-9, false); /* subnormals: half a step */
    check_halves<Ex2Bf16>(BF16, exp2, 0x1p-126, 0x1p-7, true);
    check_halves<TanhF16>(F16, tanh, 0x1p-25, 0x1p-10, false);
    check_halves<TanhBf16>(BF16, tanh, 0, 0x1p-8, false);
}

/* ---- comparisons and selections ------------------------------------------------------------------------ */

#define GROUP "compare"
/* setp p|q, a, b with a third operand c: bit 0 p, bit 1 q. */
#define SETP(T, op, r) \
    "{.reg .pred p, q; .reg .b32 x, y; setp." op "." #T \
    " p|q, %1, %2; selp.b32 x, 1, 0, p; selp.b32 y, 2, 0, q; or.b32 %0, x, y;}"
#define COMPARE_T(T, op, expression) CASE(T, 2, u32, T, T, T, 2600, 0, , SETP(T, op, ), (expression) ? 1 : 2)
INTEGERS(COMPARE_T, "eq", a == b)
INTEGERS(COMPARE_T, "ne", a != b)
INTEGERS(COMPARE_T, "lt", a < b)
INTEGERS(COMPARE_T, "le", a <= b)
INTEGERS(COMPARE_T, "gt", a > b)
INTEGERS(COMPARE_T, "ge", a >= b)
UNSIGNED(COMPARE_T, "lo", a < b)
UNSIGNED(COMPARE_T, "ls", a <= b)
UNSIGNED(COMPARE_T, "hi", a > b)
UNSIGNED(COMPARE_T, "hs", a >= b)
#define FLOATS(M, ...) M(f32, __VA_ARGS__) M(f64, __VA_ARGS__)
#define UNORDERED (a != a || b != b)
FLOATS(COMPARE_T, "eq", a == b)
FLOATS(COMPARE_T, "ne", a < b || a > b)
FLOATS(COMPARE_T, "lt", a < b)
FLOATS(COMPARE_T, "le", a <= b)
FLOATS(COMPARE_T, "gt", a > b)
FLOATS(COMPARE_T, "ge", a >= b)
FLOATS(COMPARE_T, "equ", a == b || UNORDERED)
FLOATS(COMPARE_T, "neu", a != b)
FLOATS(COMPARE_T, "ltu", !(a >= b))
FLOATS(COMPARE_T, "leu", !(a > b))
FLOATS(COMPARE_T, "gtu", !(a <= b))
FLOATS(COMPARE_T, "geu", !(a < b))
FLOATS(COMPARE_T, "num", !UNORDERED)
FLOATS(COMPARE_T, "nan", UNORDERED)
CASE2(u32, f32, f32, SETP(f32, "lt.ftz", ), flushed(a) < flushed(b) ? 1 : 2)
CASE2(u32, f32, f32, SETP(f32, "geu.ftz", ), flushed(a) < flushed(b) ? 2 : 1)
/* with a predicate: bit 0 p = (a < b) op c, bit 1 q = !(a < b) op c */
#define WITH_C(op, not_) \
    "{.reg .pred p, q, r; .reg .b32 x, y; setp.ne.s32 r, %3, 0; setp.lt." op ".s32 p|q, %1, %2, " not_ "r;" \
    "selp.b32 x, 1, 0, p; selp.b32 y, 2, 0, q; or.b32 %0, x, y;}"
#define TWO_BITS(p, q) ((p) ? 1 : 0) | ((q) ? 2 : 0)
#define CASE_C(text, p, q) CASE(_, 3, u32, s32, s32, s32, 4000, 0, c &= 1, text, TWO_BITS(p, q))
CASE_C(WITH_C("and", ""), a < b && c, a >= b && c)
CASE_C(WITH_C("or", ""), a < b || c, a >= b || c)
CASE_C(WITH_C("xor", ""), (a < b) != (c != 0), (a >= b) != (c != 0))
CASE_C(WITH_C("and", "!"), a < b && !c, a >= b && !c)
CASE_C(WITH_C("or", "!"), a < b || !c, a >= b || !c)
CASE_C("{.reg .pred p, r; setp.ne.s32 r, %3, 0; setp.gt.or.s32 p, %1, %2, r; selp.b32 %0, 1, 0, p;}",
       a > b || c, 0)
CASE_C("{.reg .pred p; setp.gt.s32 _|p, %1, %2; selp.b32 %0, 1, 0, p;}", a <= b, 0)
/* halves */
#define HALF_SETP(T, op) \
    "{.reg .pred p; .reg .b32 x; setp." op "." #T " p, %1, %2; selp.b32 %0, 1, 0, p;}"
#define HALF_SETP2(T, op) \
    "{.reg .pred p, q; .reg .b32 x, y; setp." op "." #T \
    "x2 p|q, %1, %2; selp.b32 x, 1, 0, p; selp.b32 y, 2, 0, q; or.b32 %0, x, y;}"
template <class G> u32 compared(const Format &f, u32 a, u32 b, int flags, G g) {
    if (flags & FTZ) a = half_flushed(f, a), b = half_flushed(f, b);
    return g(widened(f, a), widened(f, b));
}
template <class G> u32 compared2(const Format &f, u32 a, u32 b, int flags, G g) {
    return compared(f, a & 0xffff, b & 0xffff, flags, g) | compared(f, a >> 16, b >> 16, flags, g) << 1;
}
#define HALF_COMPARE(T, f, flags, op, expression) \
    CASE(T, 2, u32, u16, u16, u16, 3000, 0, , HALF_SETP(T, op), \
         compared(f, a, b, flags, [](f32 a, f32 b) { return (u32)(expression); })) \
    CASE(T##x2, 2, u32, u32, u32, u32, 4000, 0, , HALF_SETP2(T, op), \
         compared2(f, a, b, flags, [](f32 a, f32 b) { return (u32)(expression); }))
#define HALF_COMPARES(op, expression) \
    HALF_COMPARE(f16, F16, 0, op, expression) HALF_COMPARE(bf16, BF16, 0, op, expression)
HALF_COMPARES("eq", a == b)
HALF_COMPARES("ne", a < b || a > b)
HALF_COMPARES("lt", a < b)
HALF_COMPARES("le", a <= b)
HALF_COMPARES("gt", a > b)
HALF_COMPARES("ge", a >= b)
HALF_COMPARES("neu", a != b)
HALF_COMPARES("ltu", !(a >= b))
HALF_COMPARES("num", !UNORDERED)
HALF_COMPARES("nan", UNORDERED)
HALF_COMPARE(f16, F16, FTZ, "lt.ftz", a < b)
/* set */
CASE2(u32, s32, s32, "set.lt.u32.s32 %0, %1, %2;", a < b ? ~0u : 0)
CASE2(s32, u32, u32, "set.hi.s32.u32 %0, %1, %2;", a > b ? -1 : 0)
CASE2(f32, u32, u32, "set.ne.f32.u32 %0, %1, %2;", a != b)
CASE2(u32, f32, f32, "set.geu.ftz.u32.f32 %0, %1, %2;", flushed(a) < flushed(b) ? 0 : ~0u)
CASE2(f32, f64, f64, "set.lt.f32.f64 %0, %1, %2;", a < b)
CASE2(u32, u64, u64, "set.le.u32.u64 %0, %1, %2;", a <= b ? ~0u : 0)
#define SET_C(op) "{.reg .pred r; setp.ne.s32 r, %3, 0; set.lt." op ".u32.s32 %0, %1, %2, r;}"
CASE(_, 3, u32, s32, s32, s32, 4000, 0, c &= 1, SET_C("and"), a < b && c ? ~0u : 0)
CASE(_, 3, u32, s32, s32, s32, 4000, 0, c &= 1, SET_C("xor"), (a < b) != c ? ~0u : 0)
#define HALF_SET(to, T) "set.lt." #to "." #T " %0, %1, %2;"
CASE2(u16, u16, u16, HALF_SET(f16, f16), widened(F16, a) < widened(F16, b) ? 0x3c00 : 0)
CASE2(u16, u16, u16, HALF_SET(bf16, bf16), widened(BF16, a) < widened(BF16, b) ? 0x3f80 : 0)
CASE2(u32, u16, u16, HALF_SET(u32, f16), widened(F16, a) < widened(F16, b) ? ~0u : 0)
CASE2(u32, u16, u16, HALF_SET(u32, bf16), widened(BF16, a) < widened(BF16, b) ? ~0u : 0)
CASE2(u32, u32, u32, HALF_SET(f16x2, f16x2),
      both([](u32 x, u32 y, u32) { return widened(F16, x) < widened(F16, y) ? 0x3c00u : 0; }, a, b))
CASE2(u32, u32, u32, HALF_SET(bf16x2, bf16x2),
      both([](u32 x, u32 y, u32) { return widened(BF16, x) < widened(BF16, y) ? 0x3f80u : 0; }, a, b))
CASE2(u32, u32, u32, HALF_SET(u32, f16x2),
      both([](u32 x, u32 y, u32) { return widened(F16, x) < widened(F16, y) ? 0xffffu : 0; }, a, b))
/* testp, selp, slct */
#define TESTP(T, what, expression) \
    CASE(_, 1, u32, T, T, T, 4000, 0, , \
         "{.reg .pred p; testp." what "." #T " p, %1; selp.b32 %0, 1, 0, p;}", expression)
TESTP(f32, "finite", std::isfinite(a))
TESTP(f32, "infinite", std::isinf(a))
TESTP(f32, "number", a == a)
TESTP(f32, "notanumber", a != a)
TESTP(f32, "normal", std::isnormal(a))
TESTP(f32, "subnormal", a != 0 && fabsf(a) < 0x1p-126f)
TESTP(f64, "finite", std::isfinite(a))
TESTP(f64, "infinite", std::isinf(a))
TESTP(f64, "number", a == a)
TESTP(f64, "notanumber", a != a)
TESTP(f64, "normal", std::isnormal(a))
TESTP(f64, "subnormal", a != 0 && fabs(a) < 0x1p-1022)
#define SELP(T, b) "{.reg .pred p; setp.lt.s32 p, %3, 5; selp." #b " %0, %1, %2, p;}"
CASE3(u16, u16, u16, s32, SELP(u16, b16), c < 5 ? a : b)
CASE3(u32, u32, u32, s32, SELP(u32, u32), c < 5 ? a : b)
CASE3(u64, u64, u64, s32, SELP(u64, s64), c < 5 ? a : b)
CASE3(f32, f32, f32, s32, "{.reg .pred p; setp.lt.s32 p, %3, 5; selp.f32 %0, %1, %2, !p;}", c < 5 ? b : a)
CASE3(f64, f64, f64, s32, SELP(f64, f64), c < 5 ? a : b)
CASE3(u32, u32, u32, s32, "slct.u32.s32 %0, %1, %2, %3;", c >= 0 ? a : b)
CASE3(u16, u16, u16, s32, "slct.b16.s32 %0, %1, %2, %3;", c >= 0 ? a : b)
CASE3(u64, u64, u64, s32, "slct.b64.s32 %0, %1, %2, %3;", c >= 0 ? a : b)
CASE3(u32, u32, u32, f32, "slct.u32.f32 %0, %1, %2, %3;", c >= 0 ? a : b)
CASE3(f32, f32, f32, f32, "slct.ftz.f32.f32 %0, %1, %2, %3;", flushed(c) >= 0 ? a : b)
CASE3(u64, u64, u64, f32, "slct.u64.f32 %0, %1, %2, %3;", c >= 0 ? a : b)
/* logic on predicates */
#define PREDICATES(op) \
    "{.reg .pred p, q, r; setp.lt.s32 p, %1, %2; setp.lt.s32 q, %2, %3; " op \
    ".pred r, p, q; selp.b32 %0, 1, 0, r;}"
CASE3(u32, s32, s32, s32, PREDICATES("and"), a < b && b < c)
CASE3(u32, s32, s32, s32, PREDICATES("or"), a < b || b < c)
CASE3(u32, s32, s32, s32, PREDICATES("xor"), (a < b) != (b < c))
CASE2(u32, s32, s32, "{.reg .pred p, q; setp.lt.s32 p, %1, %2; not.pred q, p; selp.b32 %0, 1, 0, q;}",
      !(a < b))
CASE2(u32, s32, s32, "{.reg .pred p, q; setp.lt.s32 p, %1, %2; mov.pred q, p; selp.b32 %0, 1, 0, q;}", a < b)
#undef GROUP
FA_TEST(compare) { run_group("compare"); }

/* ---- mov ----------------------------------------------------------------------------------------------- */

#define GROUP "mov"
CASE1(u16, u16, "mov.u16 %0, %1;", a)
CASE1(u16, u16, "mov.b16 %0, %1;", a)
CASE1(u32, u32, "mov.b32 %0, %1;", a)
CASE1(s32, s32, "mov.s32 %0, %1;", a)
CASE1(u64, u64, "mov.b64 %0, %1;", a)
CASE1(u32, u32, "{.reg .f32 x; mov.b32 x, %1; mov.f32 x, x; mov.b32 %0, x;}", a)
CASE1(u64, u64, "{.reg .f64 x; mov.b64 x, %1; mov.f64 x, x; mov.b64 %0, x;}", a)
CASE1(u32, u32, "mov.u32 %0, 0xfffffff5;", 0xfffffff5)
CASE1(s16, u32, "mov.s16 %0, -3;", -3)
CASE1(u64, u32, "mov.s64 %0, -3;", -3)
CASE1(f32, u32, "mov.f32 %0, 0f40490FDB;", F(0x40490fdb))
CASE1(f64, u32, "mov.f64 %0, 0d400921FB54442D18;", 3.141592653589793)
CASE2(u32, u16, u16, "mov.b32 %0, {%1, %2};", a | (u32)b << 16)
CASE2(u64, u32, u32, "mov.b64 %0, {%1, %2};", a | (u64)b << 32)
CASE3(u64, u16, u16, u16, "mov.b64 %0, {%1, %2, %3, %1};", a | (u64)b << 16 | (u64)c << 32 | (u64)a << 48)
CASE1(u32, u32, "{.reg .b16 x, y; mov.b32 {x, y}, %1; mov.b32 %0, {y, x};}", a << 16 | a >> 16)
CASE1(u32, u64, "{.reg .b32 x; mov.b64 {x, %0}, %1;}", a >> 32)
CASE1(u32, u64, "mov.b64 {%0, _}, %1;", a)
CASE1(u32, u64, "mov.b64 {_, %0}, %1;", a >> 32)
CASE1(u64, u64, "{.reg .b16 x, y, z, u; mov.b64 {x, y, z, u}, %1; mov.b64 %0, {u, z, y, x};}",
      a << 48 | (a << 16 & 0xffff00000000) | (a >> 16 & 0xffff0000) | a >> 48)
CASE1(u32, u32, "{.reg .b8 x, y, z, u; mov.b32 {x, y, z, u}, %1; mov.b32 %0, {u, z, y, x};}",
      __builtin_bswap32(a))
CASE1(u16, u16, "{.reg .b8 x, y; mov.b16 {x, y}, %1; mov.b16 %0, {y, x};}", a << 8 | a >> 8)
#undef GROUP
FA_TEST(mov) { run_group("mov"); }

__global__ void read_clocks(u64 *d) {
    u32 a, b, c;
    u64 x, y, z;
    asm volatile("mov.u32 %0, %%clock; mov.u64 %1, %%clock64; mov.u32 %2, %%clock_hi;"
                 : "=r"(a), "=l"(x), "=r"(b));
    asm volatile("mov.u64 %0, %%globaltimer; mov.u32 %1, %%globaltimer_lo; mov.u64 %2, %%clock64;"
                 : "=l"(y), "=r"(c), "=l"(z));
    d[0] = a, d[1] = x, d[2] = b, d[3] = y, d[4] = c, d[5] = z;
}
FA_TEST(clocks) {
    u64 *d, x[6];
    cudaMalloc((void **)&d, sizeof x);
    read_clocks<<<1, 1>>>(d);
    cudaMemcpy(x, d, sizeof x, cudaMemcpyDeviceToHost);
    FA_EXPECT(x[0] > 0 && x[1] > x[0] && x[2] == 0);
    FA_EXPECT(x[3] > x[1] && x[4] > x[3] && x[5] > x[4]);
    cudaFree(d);
}

/* ---- cvt ----------------------------------------------------------------------------------------------- */

#define GROUP "cvt"
/* integer to integer; 8-bit types live in 16-bit registers, with the sign or zeros above */
template <class T> T saturate(s128 x, int bits, bool is_signed) {
    s128 least = is_signed ? -((s128)1 << (bits - 1)) : 0, greatest = ((s128)1 << (bits - is_signed)) - 1;
    return (T)(x < least ? least : x > greatest ? greatest : x);
}
#define WRAP(TD, d, n, s, TA, a_, read) \
    CASE(d##a_, 1, TD, TA, TA, TA, 2500, 0, , "cvt." #d "." #a_ " %0, %1;", (cut<n, s>(read)))
#define CLAMP(TD, d, n, s, TA, a_, read) \
    CASE(d##a_##sat, 1, TD, TA, TA, TA, 2500, 0, , "cvt.sat." #d "." #a_ " %0, %1;", saturate<TD>(read, n, s))
template <int n, bool is_signed> s128 cut(s128 x) {
    u64 u = n == 64 ? (u64)x : (u64)x & (((u64)1 << n % 64) - 1);
    return is_signed ? (s128)((s64)(u << (64 - n)) >> (64 - n)) : (s128)u;
}
#define FROM_u8(M, TD, d, n, s) M(TD, d, n, s, u16, u8, (u8)a)
#define FROM_s8(M, TD, d, n, s) M(TD, d, n, s, u16, s8, (s8)a)
#define FROM_16(M, TD, d, n, s) M(TD, d, n, s, u16, u16, a) M(TD, d, n, s, s16, s16, a)
#define FROM_32(M, TD, d, n, s) M(TD, d, n, s, u32, u32, a) M(TD, d, n, s, s32, s32, a)
#define FROM_64(M, TD, d, n, s) M(TD, d, n, s, u64, u64, a) M(TD, d, n, s, s64, s64, a)
#define WRAP_ALL(TD, d, n, s) \
    FROM_u8(WRAP, TD, d, n, s) FROM_s8(WRAP, TD, d, n, s) FROM_16(WRAP, TD, d, n, s) \
        FROM_32(WRAP, TD, d, n, s) FROM_64(WRAP, TD, d, n, s)
WRAP_ALL(u16, u8, 8, false)
WRAP_ALL(s16, s8, 8, true)
WRAP_ALL(u16, u16, 16, false)
WRAP_ALL(s16, s16, 16, true)
WRAP_ALL(u32, u32, 32, false)
WRAP_ALL(s32, s32, 32, true)
WRAP_ALL(u64, u64, 64, false)
WRAP_ALL(s64, s64, 64, true)
/* .sat is allowed where it can do something */
#define CLAMP_FROM_32_64(TD, d, n, s) FROM_32(CLAMP, TD, d, n, s) FROM_64(CLAMP, TD, d, n, s)
FROM_s8(CLAMP, u16, u8, 8, false) FROM_16(CLAMP, u16, u8, 8, false) CLAMP_FROM_32_64(u16, u8, 8, false)
FROM_u8(CLAMP, s16, s8, 8, true) FROM_16(CLAMP, s16, s8, 8, true) CLAMP_FROM_32_64(s16, s8, 8, true)
FROM_s8(CLAMP, u16, u16, 16, false) CLAMP(u16, u16, 16, false, s16, s16, a)
CLAMP_FROM_32_64(u16, u16, 16, false)
CLAMP(s16, s16, 16, true, u16, u16, a) CLAMP_FROM_32_64(s16, s16, 16, true)
FROM_s8(CLAMP, u32, u32, 32, false) CLAMP(u32, u32, 32, false, s16, s16, a)
CLAMP(u32, u32, 32, false, s32, s32, a) FROM_64(CLAMP, u32, u32, 32, false)
CLAMP(s32, s32, 32, true, u32, u32, a) FROM_64(CLAMP, s32, s32, 32, true)
FROM_s8(CLAMP, u64, u64, 64, false) CLAMP(u64, u64, 64, false, s16, s16, a)
CLAMP(u64, u64, 64, false, s32, s32, a) CLAMP(u64, u64, 64, false, s64, s64, a)
CLAMP(s64, s64, 64, true, u64, u64, a)
/* registers wider than the types */
CASE1(u32, u32, "cvt.s8.s32 %0, %1;", (s8)a)
CASE1(u32, u32, "cvt.s16.s32 %0, %1;", (s16)a)
CASE1(u32, u64, "cvt.u16.u64 %0, %1;", (u16)a)
CASE1(u64, u32, "cvt.s16.u32 %0, %1;", (s16)a)
CASE1(s32, u32, "cvt.s32.s8 %0, %1;", (s8)a)
CASE1(s64, u64, "cvt.s64.s16 %0, %1;", (s16)a)

/* integer to float */
#define FROM_INT(TA) \
    CASE(rn, 1, f32, TA, TA, TA, 3000, 0, , "cvt.rn.f32." #TA " %0, %1;", of_integer(F32, RN, a)) \
    CASE(rz, 1, f32, TA, TA, TA, 3000, 0, , "cvt.rz.f32." #TA " %0, %1;", of_integer(F32, RZ, a)) \
    CASE(rm, 1, f32, TA, TA, TA, 3000, 0, , "cvt.rm.f32." #TA " %0, %1;", of_integer(F32, RM, a)) \
    CASE(rp, 1, f32, TA, TA, TA, 3000, 0, , "cvt.rp.f32." #TA " %0, %1;", of_integer(F32, RP, a)) \
    CASE(drn, 1, f64, TA, TA, TA, 2000, 0, , "cvt.rn.f64." #TA " %0, %1;", of_integer64(RN, a)) \
    CASE(drm, 1, f64, TA, TA, TA, 2000, 0, , "cvt.rm.f64." #TA " %0, %1;", of_integer64(RM, a)) \
    CASE(hrn, 1, u16, TA, TA, TA, 3000, 0, , "cvt.rn.f16." #TA " %0, %1;", narrowed(F16, RN, 0, a)) \
    CASE(hrz, 1, u16, TA, TA, TA, 3000, 0, , "cvt.rz.f16." #TA " %0, %1;", narrowed(F16, RZ, 0, a)) \
    CASE(brn, 1, u16, TA, TA, TA, 3000, 0, , "cvt.rn.bf16." #TA " %0, %1;", narrowed(BF16, RN, 0, a)) \
    CASE(brp, 1, u16, TA, TA, TA, 3000, 0, , "cvt.rp.bf16." #TA " %0, %1;", narrowed(BF16, RP, 0, a))
template <class T> bool below_zero(T a) { return (s128)a < 0; }
template <class T> quad magnitude(T a) { return below_zero(a) ? -(quad)a : (quad)a; }
template <class T> f32 of_integer(const Format &f, Round round, T a) {
    u64 r = round_to(f, round, below_zero(a), [&](quad m) { return sign(magnitude(a) - m); });
    return F((u32)r | (below_zero(a) ? 0x80000000 : 0));
}
template <class T> f64 of_integer64(Round round, T a) {
    u64 r = round_to(F64, round, below_zero(a), [&](quad m) { return sign(magnitude(a) - m); });
    return as<f64>(r | (u64)below_zero(a) << 63);
}
FROM_INT(u16)
FROM_INT(s16)
FROM_INT(u32)
FROM_INT(s32)
FROM_INT(u64)
FROM_INT(s64)
CASE1(f32, u16, "cvt.rn.f32.u8 %0, %1;", (u8)a)
CASE1(f32, s16, "cvt.rn.f32.s8 %0, %1;", (s8)a)

/* float to integer: rounded, saturated; NaN is 0, or the top bit where f64 or a 64-bit type takes part */
template <class T> T to_integer(long double x, int n, bool is_signed, bool wide, Round round) {
    if (x != x) return (T)(!wide && n != 64 ? 0 : is_signed ? -((s128)1 << (n - 1)) : (s128)1 << (n - 1));
    x = round == RN ? rintl(x) : round == RZ ? truncl(x) : round == RM ? floorl(x) : ceill(x);
    long double limit = 1e30L; /* beyond all types, within an s128 */
    return saturate<T>((s128)(x > limit ? limit : x < -limit ? -limit : x), n, is_signed);
}
#define TO_INT4(TD, d, n, s, TA, a_, read, wide) \
    CASE(d##a_##rni, 1, TD, TA, TA, TA, 3000, 0, , "cvt.rni." #d "." #a_ " %0, %1;", \
         to_integer<TD>(read, n, s, wide, RN)) \
    CASE(d##a_##rzi, 1, TD, TA, TA, TA, 3000, 0, , "cvt.rzi." #d "." #a_ " %0, %1;", \
         to_integer<TD>(read, n, s, wide, RZ)) \
    CASE(d##a_##rmi, 1, TD, TA, TA, TA, 3000, 0, , "cvt.rmi." #d "." #a_ " %0, %1;", \
         to_integer<TD>(read, n, s, wide, RM)) \
    CASE(d##a_##rpi, 1, TD, TA, TA, TA, 3000, 0, , "cvt.rpi." #d "." #a_ " %0, %1;", \
         to_integer<TD>(read, n, s, wide, RP))
#define TO_INT(TD, d, n, s) \
    TO_INT4(TD, d, n, s, f32, f32, a, false) \
    TO_INT4(TD, d, n, s, f64, f64, a, true) \
    TO_INT4(TD, d, n, s, u16, f16, widened(F16, a), false)
#define FROM_BF16(TD, d, n, s) TO_INT4(TD, d, n, s, u16, bf16, widened(BF16, a), false)
TO_INT(u16, u8, 8, false)
TO_INT(s16, s8, 8, true)
TO_INT(u16, u16, 16, false)
TO_INT(s16, s16, 16, true)
TO_INT(u32, u32, 32, false)
TO_INT(s32, s32, 32, true)
TO_INT(u64, u64, 64, false)
TO_INT(s64, s64, 64, true)
FROM_BF16(u16, u16, 16, false)
FROM_BF16(s16, s16, 16, true)
FROM_BF16(u32, u32, 32, false)
FROM_BF16(s32, s32, 32, true)
FROM_BF16(u64, u64, 64, false)
FROM_BF16(s64, s64, 64, true)
CASE1(s32, f32, "cvt.rzi.ftz.s32.f32 %0, %1;", to_integer<s32>(a, 32, true, false, RZ))
CASE1(s32, f32, "cvt.rpi.ftz.s32.f32 %0, %1;", to_integer<s32>(flushed(a), 32, true, false, RP))
CASE1(s32, f32, "cvt.rmi.sat.s32.f32 %0, %1;", to_integer<s32>(a, 32, true, false, RM))

/* float to float */
static f32 of_double(Round round, int flags, f64 a) {
    if (a != a) return flags & SAT ? 0 : F(0x7fffffff);
    u32 minus = std::signbit(a) ? 0x80000000 : 0;
    quad x = (quad)fabs(a);
    f32 r = F(
        (std::isinf(a) ? 0x7f800000 : (u32)round_to(F32, round, minus, [&](quad m) { return sign(x - m); })) |
        minus);
    return finished(r, flags);
}
CASE1(f64, f32, "cvt.f64.f32 %0, %1;", a)
CASE1(f64, f32, "cvt.ftz.f64.f32 %0, %1;", flushed(a))
CASE1(f32, f64, "cvt.rn.f32.f64 %0, %1;", of_double(RN, 0, a))
CASE1(f32, f64, "cvt.rz.f32.f64 %0, %1;", of_double(RZ, 0, a))
CASE1(f32, f64, "cvt.rm.f32.f64 %0, %1;", of_double(RM, 0, a))
CASE1(f32, f64, "cvt.rp.ftz.f32.f64 %0, %1;", of_double(RP, FTZ, a))
CASE1(f32, f64, "cvt.rn.sat.f32.f64 %0, %1;", of_double(RN, SAT, a))
CASE1(f32, f32, "cvt.sat.f32.f32 %0, %1;", finished(a, SAT))
CASE1(f32, f32, "cvt.ftz.f32.f32 %0, %1;", finished(flushed(a), 0))
CASE1(f32, f32, "cvt.rni.f32.f32 %0, %1;", finished(rintf(a), 0))
CASE1(f32, f32, "cvt.rzi.f32.f32 %0, %1;", finished(truncf(a), 0))
CASE1(f32, f32, "cvt.rmi.ftz.f32.f32 %0, %1;", finished(floorf(flushed(a)), 0))
CASE1(f32, f32, "cvt.rpi.f32.f32 %0, %1;", finished(ceilf(a), 0))
CASE1(f64, f64, "cvt.rni.f64.f64 %0, %1;", rint(a))
CASE1(f64, f64, "cvt.rmi.f64.f64 %0, %1;", floor(a))
CASE1(u16, u16, "cvt.rni.f16.f16 %0, %1;", narrowed(F16, RN, 0, rintf(widened(F16, a))))
CASE1(u16, u16, "cvt.rpi.bf16.bf16 %0, %1;", narrowed(BF16, RN, 0, ceilf(widened(BF16, a))))
CASE1(f32, u16, "cvt.f32.f16 %0, %1;", finished(widened(F16, a), 0))
CASE1(f32, u16, "cvt.f32.bf16 %0, %1;", finished(widened(BF16, a), 0))
CASE1(f32, u16, "cvt.sat.f32.f16 %0, %1;", finished(widened(F16, a), SAT))
CASE1(f64, u16, "cvt.f64.f16 %0, %1;", widened(F16, a))
CASE1(f64, u16, "cvt.f64.bf16 %0, %1;", widened(BF16, a))
CASE1(u16, u16, "cvt.rn.bf16.f16 %0, %1;", narrowed(BF16, RN, 0, widened(F16, a)))
CASE1(u16, u16, "cvt.rz.f16.bf16 %0, %1;", narrowed(F16, RZ, 0, widened(BF16, a)))
CASE1(u16, f64, "cvt.rn.f16.f64 %0, %1;", narrowed(F16, RN, 0, a))
CASE1(u16, f64, "cvt.rm.f16.f64 %0, %1;", narrowed(F16, RM, 0, a))
CASE1(u16, f64, "cvt.rn.bf16.f64 %0, %1;", narrowed(BF16, RN, 0, a))
#define NARROW(type, f, mods, round, flags) \
    CASE(_, 1, u16, f32, f32, f32, 8000, 0, , "cvt." mods "." #type ".f32 %0, %1;", \
         narrowed(f, round, flags, a))
NARROW(f16, F16, "rn", RN, 0)
NARROW(f16, F16, "rz", RZ, 0)
NARROW(f16, F16, "rm", RM, 0)
NARROW(f16, F16, "rp", RP, 0)
NARROW(f16, F16, "rn.sat", RN, SAT)
NARROW(f16, F16, "rn.relu", RN, RELU)
NARROW(f16, F16, "rz.satfinite", RZ, SATFINITE)
NARROW(f16, F16, "rn.relu.satfinite", RN, RELU | SATFINITE)
NARROW(bf16, BF16, "rn", RN, 0)
NARROW(bf16, BF16, "rz", RZ, 0)
NARROW(bf16, BF16, "rm", RM, 0)
NARROW(bf16, BF16, "rp", RP, 0)
NARROW(bf16, BF16, "rn.relu", RN, RELU)
NARROW(bf16, BF16, "rn.satfinite", RN, SATFINITE)
NARROW(bf16, BF16, "rz.relu.satfinite", RZ, RELU | SATFINITE)
static u32 tf32(Round round, int flags, f32 a) {
    const Format TF32 = {10, 127, 0x3fbff};
    u32 minus = bits(a) & 0x80000000;
    if (a != a) return 0x7fffffff;
    if (flags & RELU && minus) return 0;
    quad x = std::isinf(a) ? 0 : (quad)fabsf(a);
    u32 r = std::isinf(a) ? 0x3fc00 : (u32)round_to(TF32, round, minus, [&](quad m) { return sign(x - m); });
    if (flags & SATFINITE && r > 0x3fbff) r = 0x3fbff;
    return r << 13 | minus;
}
CASE1(u32, f32, "cvt.rna.tf32.f32 %0, %1;", tf32(RNA, 0, a))
CASE1(u32, f32, "cvt.rn.tf32.f32 %0, %1;", tf32(RN, 0, a))
CASE1(u32, f32, "cvt.rz.tf32.f32 %0, %1;", tf32(RZ, 0, a))
CASE1(u32, f32, "cvt.rn.relu.tf32.f32 %0, %1;", tf32(RN, RELU, a))

/* pairs: a is the upper element */
#define PAIR(TD, type, f, shift, mods, round, flags) \
    CASE(_, 2, TD, f32, f32, f32, 6000, 0, , "cvt." mods "." #type ".f32 %0, %1, %2;", \
         narrowed(f, round, flags, a) << shift | narrowed(f, round, flags, b))
PAIR(u32, bf16x2, BF16, 16, "rn", RN, 0)
PAIR(u32, bf16x2, BF16, 16, "rz", RZ, 0)
PAIR(u32, bf16x2, BF16, 16, "rn.relu", RN, RELU)
PAIR(u32, bf16x2, BF16, 16, "rn.satfinite", RN, SATFINITE)
PAIR(u32, bf16x2, BF16, 16, "rz.relu.satfinite", RZ, RELU | SATFINITE)
PAIR(u32, f16x2, F16, 16, "rn", RN, 0)
PAIR(u32, f16x2, F16, 16, "rz", RZ, 0)
PAIR(u32, f16x2, F16, 16, "rz.relu", RZ, RELU)
PAIR(u32, f16x2, F16, 16, "rn.relu.satfinite", RN, RELU | SATFINITE)
PAIR(u16, e4m3x2, E4M3, 8, "rn.satfinite", RN, SATFINITE)
PAIR(u16, e4m3x2, E4M3, 8, "rn.satfinite.relu", RN, SATFINITE | RELU)
PAIR(u16, e5m2x2, E5M2, 8, "rn.satfinite", RN, SATFINITE)
PAIR(u16, e5m2x2, E5M2, 8, "rn.satfinite.relu", RN, SATFINITE | RELU)
/* all f16 values in the lower half, with all in the upper one in another order; all fp8 pairs */
#define TO_FP8(type, f, mods, flags) \
    CASE(_, 1, u16, u16, u16, u16, 0, 0, , \
         "{.reg .b32 x; .reg .b16 y; mul.lo.u16 y, %1, 40503; mov.b32 x, {%1, y}; cvt.rn.satfinite" mods \
         "." #type ".f16x2 %0, x;}", \
         narrowed(f, RN, SATFINITE | flags, widened(F16, (u16)(a * 40503))) << 8 | \
             narrowed(f, RN, SATFINITE | flags, widened(F16, a)))
TO_FP8(e4m3x2, E4M3, "", 0)
TO_FP8(e5m2x2, E5M2, "", 0)
TO_FP8(e4m3x2, E4M3, ".relu", RELU)
TO_FP8(e5m2x2, E5M2, ".relu", RELU)
#define FROM_FP8(type, f, mods, flags) \
    CASE(_, 1, u32, u16, u16, u16, 0, 0, , "cvt.rn" mods ".f16x2." #type " %0, %1;", \
         narrowed(F16, RN, flags, widened(f, a >> 8)) << 16 | narrowed(F16, RN, flags, widened(f, a & 0xff)))
FROM_FP8(e4m3x2, E4M3, "", 0)
FROM_FP8(e5m2x2, E5M2, "", 0)
FROM_FP8(e4m3x2, E4M3, ".relu", RELU)
FROM_FP8(e5m2x2, E5M2, ".relu", RELU)
/* cvt.pack: a is the upper part; c moves up */
CASE2(u32, s32, s32, "cvt.pack.sat.u16.s32 %0, %1, %2;",
      saturate<u32>(a, 16, false) << 16 | saturate<u32>(b, 16, false))
CASE2(u32, s32, s32, "cvt.pack.sat.s16.s32 %0, %1, %2;",
      saturate<u32>(a, 16, true) << 16 | (saturate<u32>(b, 16, true) & 0xffff))
#define PACK(type, n, is_signed) \
    CASE3(u32, s32, s32, u32, "cvt.pack.sat." #type ".s32.b32 %0, %1, %2, %3;", \
          c << 2 * n | (saturate<u32>(a, n, is_signed) & ((1u << n) - 1)) << n | \
              (saturate<u32>(b, n, is_signed) & ((1u << n) - 1)))
PACK(u8, 8, false)
PACK(s8, 8, true)
PACK(u4, 4, false)
PACK(s4, 4, true)
PACK(u2, 2, false)
PACK(s2, 2, true)
#undef GROUP
FA_TEST(cvt) { run_group("cvt"); }

/* ---- findings ------------------------------------------------------------------------------------------ */

__global__ void divide(s32 *d, s32 b) {
    s32 x, y;
    asm volatile("div.s32 %0, 7, %2; rem.s32 %1, 7, %2;" : "=r"(x), "=r"(y) : "r"(b));
    d[0] = x, d[1] = y;
}
/* selp hands on what it chooses: nothing, here, if choose is 0 */
__global__ void choose_nothing(u32 *d, int choose, int store) {
    u32 x;
    asm volatile("{.reg .pred p; .reg .b32 never; setp.ne.s32 p, %1, 0; selp.b32 %0, %1, never, p;}"
                 : "=r"(x)
                 : "r"(choose));
    if (store) d[0] = x;
}
__global__ void choose_by_nothing(u32 *d) {
    u32 x;
    asm volatile("{.reg .pred never; selp.b32 %0, 1, 2, never;}" : "=r"(x));
    d[0] = x;
}
static const char *findings_of(cudaError_t *error) {
    *error = cudaDeviceSynchronize();
    return ptx_last_findings();
}
FA_TEST(findings) {
    u32 *d;
    cudaError_t error;
    cudaMalloc((void **)&d, 8);
    ptx_expect_findings(true);
    divide<<<1, 1>>>((s32 *)d, 0);
    FA_EXPECT_MSG(strstr(findings_of(&error), "integer division by zero"), "%s", ptx_last_findings());
    ptx_expect_findings(true);
    choose_nothing<<<1, 1>>>(d, 1, 1);
    FA_EXPECT_MSG(!*findings_of(&error), "%s", ptx_last_findings());
    ptx_expect_findings(true);
    choose_nothing<<<1, 1>>>(d, 0, 0);
    FA_EXPECT_MSG(!*findings_of(&error), "%s", ptx_last_findings());
    ptx_expect_findings(true);
    choose_nothing<<<1, 1>>>(d, 0, 1);
    FA_EXPECT(*findings_of(&error));
    ptx_expect_findings(true);
    choose_by_nothing<<<1, 1>>>(d);
    FA_EXPECT_MSG(strstr(findings_of(&error), "predicate"), "%s", ptx_last_findings());
    ptx_expect_findings(false);
}

FA_TEST_MAIN
