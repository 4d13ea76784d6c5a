/* test_tensor.cu - tests of tensor.c: every form of mma.sync and of wgmma against a plain triple loop, and bugs planted
 * around wgmma.
 *
 * Forms are too many to compile, so the tests of values write PTX and give it to the machine (with PRINT_PTX in the
 * environment it is printed, for ptxas). Layouts come from a second description of them: fragments of mma from the tables of the PTX ISA, shared
 * memory from its canonical layouts in CuTe's notation. Planted bugs are CUDA kernels, compiled by nvcc. */
#include <stdarg.h>
#define _Noreturn [[noreturn]]
#define _Static_assert static_assert
extern "C" {
#include "machine.h"
}
#include "fa_test.h"

/* ---- numbers -------------------------------------------------------------------------------------------------------- */

struct Number {
    const char *name;
    int bits, exponent, mantissa; /* exponent 0: integer, mantissa 1: signed */
};
static const Number F16 = {"f16", 16, 5, 10}, BF16 = {"bf16", 16, 8, 7}, TF32 = {"tf32", 32, 8, 10}, F32 = {"f32", 32, 8, 23},
                    E4M3 = {"e4m3", 8, 4, 3}, E5M2 = {"e5m2", 8, 5, 2}, S8 = {"s8", 8, 0, 1}, U8 = {"u8", 8, 0, 0},
                    S32 = {"s32", 32, 0, 1};

static bool same(const Number &a, const Number &b) { return !strcmp(a.name, b.name); }

static double value_of(const Number &t, u32 x) {
    if (!t.exponent) return t.mantissa ? (double)((s32)(x << (32 - t.bits)) >> (32 - t.bits)) : (double)x;
    if (same(t, TF32)) x >>= 13;
    int bits = 1 + t.exponent + t.mantissa, bias = (1 << (t.exponent - 1)) - 1;
    int e = x >> t.mantissa & ((1 << t.exponent) - 1), m = x & ((1 << t.mantissa) - 1);
    double v = e ? ldexp(1 + ldexp(m, -t.mantissa), e - bias) : ldexp(m, 1 - bias - t.mantissa);
    return x >> (bits - 1) & 1 ? -v : v;
}

/* The bits of v, which the type holds exactly. */
static u32 bits_of(const Number &t, double v) {
    if (!t.exponent) return (u32)(s64)v & (t.bits == 32 ? ~0u : (1u << t.bits) - 1);
    int total = 1 + t.exponent + t.mantissa, bias = (1 << (t.exponent - 1)) - 1, e;
    u32 sign = signbit(v) ? 1u << (total - 1) : 0;
    if (v == 0) return sign;
    double f = frexp(fabs(v), &e); /* in [1/2, 1) */
    u32 x = sign | (u32)(e - 1 + bias) << t.mantissa | (u32)ldexp(2 * f - 1, t.mantissa);
    return same(t, TF32) ? x << 13 : x;
}

/* Small integers, so that all sums are exact; or anything of about that size. */
static u32 random_bits(const Number &t, u64 *seed, bool exact) {
    u32 x = (u32)fat_next(seed);
    if (!t.exponent) return x & ((1u << t.bits) - 1);
    if (exact) x = bits_of(t, (int)(x % 9) - 4);
    else {
        int bias = (1 << (t.exponent - 1)) - 1, top = same(t, TF32) ? 13 : 0;
        u32 e = (u32)(bias - 3 + (int)(x >> 20) % 5), sign = x >> 31;
        x = ((sign << t.exponent | e) << t.mantissa | (x & ((1u << t.mantissa) - 1))) << top;
        if (fat_below(seed, 16) == 0) x &= ((1u << t.mantissa) - 1) << top; /* subnormal or zero */
    }
    return same(t, TF32) ? x | ((u32)fat_next(seed) & 0x1fff) : x; /* ignored bits */
}

/* ---- writing PTX ------------------------------------------------------------------------------------------------------ */

static char *text;
static size_t text_length, text_room;

static void say(const char *format, ...) {
    va_list ap;
    va_start(ap, format);
    if (text_room - text_length < 4096) text = (char *)realloc(text, text_room += 1 << 16);
    text_length += (size_t)vsnprintf(text + text_length, text_room - text_length, format, ap);
    va_end(ap);
}
static void say_registers(const char *prefix, int count) {
    for (int i = 0; i < count; i++) say("%s%s%d%s", i ? ", " : "{", prefix, i, i == count - 1 ? "}" : "");
}

/* Ends the text and makes a kernel of it. */
static Kernel *finish(void) {
    if (getenv("PRINT_PTX")) printf("%s//----\n", text);
    Module *module = ptx_module_from_text(text, text_length);
    text = NULL, text_length = text_room = 0; /* it belongs to the module */
    return ptx_kernel(module, "k");
}

static int launch(Kernel *k, int threads, u32 shared, void **args) {
    LaunchShape shape = {};
    for (int i = 0; i < 3; i++) shape.grid[i] = shape.block[i] = 1;
    shape.block[0] = (u32)threads, shape.dynamic_shared = shared;
    int error = ptx_launch(k, &shape, args);
    int flushed = ptx_flush();
    return error ? error : flushed;
}

/* Memory that the tests and the kernels share. */
template <class T> static T *managed(size_t n) {
    T *p = NULL;
    if (cudaMallocManaged(&p, n * sizeof(T)) || cudaMemset(p, 0, n * sizeof(T))) abort();
    return p;
}

/* ---- mma.sync ------------------------------------------------------------------------------------------------------------ */

struct Fragment { /* offsets of row and k of the registers of A, and of k of those of B */
    const char *shape;
    int bits, m, k, na, nb;
    int a[8][2], b[4];
};
/* PTX ISA, "Matrix Fragments for mma.m16n8k...": rows g or g + 8; per register `32 / bits` neighbours in k from t times that */
static const Fragment fragments[] = {
    {"m16n8k8", 16, 16, 8, 2, 1, {{0, 0}, {8, 0}}, {0}},
    {"m16n8k16", 16, 16, 16, 4, 2, {{0, 0}, {8, 0}, {0, 8}, {8, 8}}, {0, 8}},
    {"m16n8k4", 32, 16, 4, 2, 1, {{0, 0}, {8, 0}}, {0}},
    {"m16n8k8", 32, 16, 8, 4, 2, {{0, 0}, {8, 0}, {0, 4}, {8, 4}}, {0, 4}},
    {"m8n8k16", 8, 8, 16, 1, 1, {{0, 0}}, {0}},
    {"m16n8k16", 8, 16, 16, 2, 1, {{0, 0}, {8, 0}}, {0}},
    {"m16n8k32", 8, 16, 32, 4, 2, {{0, 0}, {8, 0}, {0, 16}, {8, 16}}, {0, 16}},
    {"m8n8k4", 64, 8, 4, 1, 1, {{0, 0}}, {0}},
    {"m16n8k4", 64, 16, 4, 2, 1, {{0, 0}, {8, 0}}, {0}},
    {"m16n8k8", 64, 16, 8, 4, 2, {{0, 0}, {8, 0}, {0, 4}, {8, 4}}, {0, 4}},
    {"m16n8k16", 64, 16, 16, 8, 4, {{0, 0}, {8, 0}, {0, 4}, {8, 4}, {0, 8}, {8, 8}, {0, 12}, {8, 12}}, {0, 4, 8, 12}},
};

static Kernel *mma_kernel(const char *target, const Fragment &f, const char *d, const char *a, const char *b, bool saturate) {
    bool f64 = f.bits == 64, half = !strcmp(d, "f16");
    const char *type = f64 ? "f64" : !strcmp(d, "f32") ? "f32" : "b32";
    int sums = f.m / 8 * (half ? 1 : 2), bytes = f64 ? 8 : 4;
    say(".version 8.7\n.target %s\n.address_size 64\n.visible .entry k(.param .u64 pa, .param .u64 pb, .param .u64 pc)\n{\n", target);
    say(".reg .%s %%a<8>, %%b<4>;\n.reg .%s %%c<4>;\n.reg .b32 %%t;\n.reg .b64 %%p<4>;\n", f64 ? "f64" : "b32", type);
    say("mov.u32 %%t, %%tid.x;\nmul.wide.u32 %%p3, %%t, %d;\n", bytes);
    for (int i = 0; i < 3; i++) {
        int n = i == 0 ? f.na : i == 1 ? f.nb : sums;
        say("ld.param.u64 %%p%d, [p%c];\nadd.s64 %%p%d, %%p%d, %%p3;\n", i, 'a' + i, i, i);
        for (int j = 0; j < n; j++) say("ld.global.%s %%%c%d, [%%p%d+%d];\n", i == 2 ? type : f64 ? "f64" : "b32", 'a' + i, j, i, j * 32 * bytes);
    }
    say("mma.sync.aligned.%s.row.col%s.%s.%s.%s.%s ", f.shape, saturate ? ".satfinite" : "", d, a, b, d);
    say_registers("%c", sums), say(", "), say_registers("%a", f.na), say(", "), say_registers("%b", f.nb), say(", ");
    say_registers("%c", sums), say(";\n");
    for (int j = 0; j < sums; j++) say("st.global.%s [%%p2+%d], %%c%d;\n", type, j * 32 * bytes, j);
    say("ret;\n}\n");
    return finish();
}

/* acc + sum, as an integer instruction leaves it */
static double wrap(double v, bool saturate) {
    if (saturate) return v < INT32_MIN ? INT32_MIN : v > INT32_MAX ? INT32_MAX : v;
    return (double)(s32)(u32)(s64)v;
}

/* The accumulator before: integers near both ends too. */
static double random_sum(const Number &t, u64 *seed) {
    if (same(t, S32)) return (double)(s32)(fat_below(seed, 4) ? (u32)fat_next(seed) : 0x7fffff00u + (u32)fat_below(seed, 512));
    return fat_below(seed, 401) - 200;
}

static void expect_sums(const char *what, const Number &t, u32 got, double want, double scale, int row, int col) {
    double v = value_of(t, got), tolerance = !t.exponent || scale == 0 ? 0 : scale * 1e-6 + (t.bits == 16 ? fabs(want) / 1024 : 0);
    FA_EXPECT_MSG(fat_close(v, want, tolerance), "%s: row %d column %d: got %.9g, want %.9g", what, row, col, v, want);
}

static void try_mma(const Fragment &f, const Number &d, const Number &a, const Number &b, bool saturate, bool exact) {
    static u32 *pa = managed<u32>(32 * 8), *pb = managed<u32>(32 * 4), *pc = managed<u32>(32 * 4);
    u64 seed = fat_seed;
    Kernel *kernel = mma_kernel(a.bits == 8 && a.exponent ? "sm_89" : "sm_80", f, d.name, a.name, b.name, saturate);
    int per = 32 / f.bits, sums = f.m / 8 * 2;
    double A[16][32], B[32][8], C[16][8];
    char what[96];
    snprintf(what, sizeof what, "mma.%s.%s.%s.%s", f.shape, d.name, a.name, b.name);
    memset(pa, 0, 32 * 8 * 4), memset(pb, 0, 32 * 4 * 4), memset(pc, 0, 32 * 4 * 4);
    for (int l = 0; l < 32; l++) {
        int g = l >> 2, t = l & 3;
        for (int e = 0; e < per; e++) {
            for (int i = 0; i < f.na; i++) {
                u32 x = random_bits(a, &seed, exact);
                A[g + f.a[i][0]][per * t + e + f.a[i][1]] = value_of(a, x);
                pa[i * 32 + l] |= x << e * f.bits % 32;
            }
            for (int i = 0; i < f.nb; i++) {
                u32 x = random_bits(b, &seed, exact);
                B[per * t + e + f.b[i]][g] = value_of(b, x);
                pb[i * 32 + l] |= x << e * f.bits % 32;
            }
        }
        for (int i = 0; i < sums; i++) {
            double c = C[i < 2 ? g : g + 8][2 * t + (i & 1)] = random_sum(d, &seed);
            if (d.bits == 16) pc[i / 2 * 32 + l] |= bits_of(d, c) << 16 * (i & 1);
            else pc[i * 32 + l] = bits_of(d, c);
        }
    }
    void *args[] = {&pa, &pb, &pc};
    FA_REQUIRE(launch(kernel, 32, 0, args) == 0);
    for (int l = 0; l < 32; l++)
        for (int i = 0; i < sums; i++) {
            int row = (i < 2 ? 0 : 8) + (l >> 2), col = 2 * (l & 3) + (i & 1);
            double want = C[row][col], scale = fabs(want);
            for (int k = 0; k < f.k; k++) want += A[row][k] * B[k][col], scale += fabs(A[row][k] * B[k][col]);
            if (!d.exponent) want = wrap(want, saturate);
            u32 got = d.bits == 16 ? pc[i / 2 * 32 + l] >> 16 * (i & 1) & 0xffff : pc[i * 32 + l];
            expect_sums(what, d, got, want, exact ? 0 : scale, row, col);
        }
}

static void all_mma(bool exact) {
    const Number *integers[] = {&S8, &U8}, *bytes[] = {&E4M3, &E5M2};
    for (const Fragment &f : fragments) {
        if (f.bits == 16) try_mma(f, F32, F16, F16, false, exact), try_mma(f, F16, F16, F16, false, exact), try_mma(f, F32, BF16, BF16, false, exact);
        if (f.bits == 32) try_mma(f, F32, TF32, TF32, false, exact);
        if (f.bits == 8)
            for (int i = 0; i < 4; i++) {
                if (exact) try_mma(f, S32, *integers[i / 2], *integers[i % 2], false, true), try_mma(f, S32, *integers[i / 2], *integers[i % 2], true, true);
                if (f.m == 16) try_mma(f, F32, *bytes[i / 2], *bytes[i % 2], false, exact), try_mma(f, F16, *bytes[i / 2], *bytes[i % 2], false, exact);
            }
    }
}
FA_TEST(mma_exact) { all_mma(true); }
FA_TEST(mma_rounded) { all_mma(false); }

FA_TEST(mma_f64) {
    double *pa = managed<double>(32 * 8), *pb = managed<double>(32 * 4), *pc = managed<double>(32 * 4), A[16][16], B[16][8], C[16][8];
    u64 seed = fat_seed;
    for (const Fragment &f : fragments) {
        if (f.bits != 64) continue;
        Kernel *kernel = mma_kernel("sm_90", f, "f64", "f64", "f64", false);
        for (int l = 0; l < 32; l++) {
            for (int i = 0; i < f.na; i++) pa[i * 32 + l] = A[(l >> 2) + f.a[i][0]][(l & 3) + f.a[i][1]] = fat_below(&seed, 1 << 20);
            for (int i = 0; i < f.nb; i++) pb[i * 32 + l] = B[(l & 3) + f.b[i]][l >> 2] = fat_below(&seed, 1 << 20) - 500000;
            for (int i = 0; i < f.m / 4; i++) pc[i * 32 + l] = C[(l >> 2) + i / 2 * 8][2 * (l & 3) + i % 2] = fat_below(&seed, 1 << 30);
        }
        void *args[] = {&pa, &pb, &pc};
        FA_REQUIRE(launch(kernel, 32, 0, args) == 0);
        for (int l = 0; l < 32; l++)
            for (int i = 0; i < f.m / 4; i++) {
                int row = (l >> 2) + i / 2 * 8, col = 2 * (l & 3) + i % 2;
                double want = C[row][col];
                for (int k = 0; k < f.k; k++) want += A[row][k] * B[k][col];
                FA_EXPECT_MSG(pc[i * 32 + l] == want, "%s: got %.17g, want %.17g", f.shape, pc[i * 32 + l], want);
            }
    }
    cudaFree(pa), cudaFree(pb), cudaFree(pc);
}

/* ---- wgmma: shared memory --------------------------------------------------------------------------------------------- */

enum { K_MAJOR, MN_MAJOR };

/* A layout in CuTe's sense: each coordinate is taken apart from the left, the last part takes what is left. */
struct Part {
    int size, stride; /* elements */
};
struct Layout {
    Part mn[3], k[2];
    int swizzle; /* B of Swizzle<B,4,3> on the byte address: 0..3 for none, 32, 64, 128 bytes */
};

static int offset_of(const Part *part, int parts, int x) {
    int at = 0;
    for (int i = 0; i < parts - 1; i++) at += x % part[i].size * part[i].stride, x /= part[i].size;
    at += x * part[parts - 1].stride;
    return at;
}
static u32 address_of(const Layout &l, u32 start, int bytes, int mn, int k) {
    u32 a = start + (u32)((offset_of(l.mn, 3, mn) + offset_of(l.k, 2, k)) * bytes);
    return a ^ ((a & ((1u << l.swizzle) - 1) << 7) >> 3);
}

/* PTX ISA, "Shared Memory Matrix Layout", canonical layouts; T elements are 16 bytes, LBO and SBO in elements. */
static Layout canonical(int major, int swizzle, int T, int LBO, int SBO) {
    int wide = 1 << swizzle; /* a swizzled row has 2, 4, 8 times T elements */
    if (major == K_MAJOR && !swizzle) return {{{8, T}, {1, 0}, {0, SBO}}, {{T, 1}, {0, LBO}}, 0};
    if (major == K_MAJOR) return {{{8, wide * T}, {1, 0}, {0, SBO}}, {{T, 1}, {0, T}}, swizzle};
    if (!swizzle) return {{{T, 1}, {1, T}, {0, SBO}}, {{8, T}, {0, LBO}}, 0};
    return {{{T, 1}, {wide, T}, {0, LBO}}, {{8, wide * T}, {0, SBO}}, swizzle};
}

static u64 descriptor_of(u32 start, int lead, int stride, int swizzle) {
    return (u64)(start >> 4) | (u64)(lead >> 4) << 16 | (u64)(stride >> 4) << 32 | (u64)(swizzle ? 4 - swizzle : 0) << 62;
}

/* Strides that the canonical layout allows, start and padding at random. Returns the first byte after the matrix. */
static u32 choose(u64 *seed, int major, int swizzle, int rows, int bytes, u32 start, Layout *layout, u64 *descriptor, u32 *begin) {
    int groups = rows / 8, span = 16 << swizzle, atom = 8 * span, lead, stride, pad = 16 * fat_below(seed, 3);
    if (!swizzle) { /* a core matrix has 128 bytes; halves of k next to one another, or far apart */
        if (fat_below(seed, 2)) lead = 128, stride = 256 + pad;
        else stride = 128 + pad, lead = groups * stride + 16 * fat_below(seed, 3);
        start += (u32)(16 * fat_below(seed, 4));
    } else if (major == K_MAJOR) {
        lead = 16 * (1 + fat_below(seed, 100)), stride = atom; /* LBO is not used */
        start += (u32)(32 * fat_below(seed, span / 32)); /* a step in k within the swizzled row */
    } else {
        int blocks = (rows * bytes + span - 1) / span;
        if (fat_below(seed, 2)) stride = atom, lead = 2 * atom;
        else lead = atom, stride = blocks * atom;
    }
    *layout = canonical(major, swizzle, 16 / bytes, lead / bytes, stride / bytes);
    *descriptor = descriptor_of(start, lead, stride, swizzle);
    *begin = start;
    u32 end = 0;
    for (int r = 0; r < rows; r++)
        for (int k = 0; k < 32 / bytes; k++) {
            u32 at = address_of(*layout, start, bytes, r, k) + (u32)bytes;
            end = at > end ? at : end;
        }
    return end;
}

/* ---- wgmma: values ---------------------------------------------------------------------------------------------------- */

enum { IMAGE = 80 << 10, SCALE_BY_PREDICATE = 2 };

struct Form {
    const Number *d, *a, *b;
    int n;
    bool registers, saturate;
    int major_a, major_b, scale_a, scale_b, scale_d; /* scale_d: 0, 1 or SCALE_BY_PREDICATE */
};

static void say_wgmma(const Form &f, const char *accumulators, const char *a, const char *b, const char *scale_d) {
    int sums = f.n / (f.d->bits == 16 ? 4 : 2);
    say("wgmma.mma_async.sync.aligned.m64n%dk%d%s.%s.%s.%s ", f.n, 256 / f.a->bits, f.saturate ? ".satfinite" : "", f.d->name, f.a->name, f.b->name);
    say_registers(accumulators, sums), say(", ");
    if (f.registers) say_registers("%a", 4);
    else say("%s", a);
    say(", %s, %s", b, scale_d);
    if (f.a->exponent) say(", %d, %d", f.scale_a, f.scale_b);
    if (f.a->bits == 16) say(f.registers ? ", %d" : ", %d, %d", f.registers ? f.major_b : f.major_a, f.major_b);
    say(";\n");
}

static Kernel *wgmma_kernel(const Form &f) {
    int sums = f.n / (f.d->bits == 16 ? 4 : 2);
    const char *type = same(*f.d, F32) ? "f32" : "b32";
    say(".version 8.0\n.target sm_90a\n.address_size 64\n.extern .shared .align 1024 .b8 s[];\n"
        ".visible .entry k(.param .u64 image, .param .u32 bytes, .param .u64 pd, .param .u64 pa, .param .u64 da, .param .u64 db, .param .u32 keep)\n"
        ".maxntid 128, 1, 1\n{\n.reg .b32 %%t, %%r<8>, %%a<4>;\n.reg .%s %%d<%d>;\n.reg .b64 %%x<8>;\n.reg .pred %%p<3>;\n",
        type, sums);
    say("mov.u32 %%t, %%tid.x;\nshl.b32 %%r0, %%t, 4;\nld.param.u64 %%x0, [image];\nld.param.u32 %%r1, [bytes];\n"
        "cvt.u64.u32 %%x1, %%r0;\nadd.s64 %%x0, %%x0, %%x1;\nmov.u32 %%r2, s;\nadd.s32 %%r2, %%r2, %%r0;\n"
        "COPY:\nsetp.ge.u32 %%p0, %%r0, %%r1;\n@%%p0 bra COPIED;\nld.global.v4.u32 {%%r3, %%r4, %%r5, %%r6}, [%%x0];\n"
        "st.shared.v4.u32 [%%r2], {%%r3, %%r4, %%r5, %%r6};\nadd.s64 %%x0, %%x0, 2048;\nadd.s32 %%r2, %%r2, 2048;\n"
        "add.s32 %%r0, %%r0, 2048;\nbra COPY;\nCOPIED:\nfence.proxy.async.shared::cta;\nbar.sync 0;\n"
        "mul.wide.u32 %%x1, %%t, 4;\nld.param.u64 %%x2, [pd];\nadd.s64 %%x2, %%x2, %%x1;\nld.param.u64 %%x3, [pa];\nadd.s64 %%x3, %%x3, %%x1;\n"
        "ld.param.u64 %%x4, [da];\nld.param.u64 %%x5, [db];\nld.param.u32 %%r7, [keep];\nsetp.ne.u32 %%p1, %%r7, 0;\n");
    if (f.scale_d) say(f.scale_d == SCALE_BY_PREDICATE ? "@!%%p1 bra LOADED;\n" : "");
    for (int i = 0; f.scale_d && i < sums; i++) say("ld.global.%s %%d%d, [%%x2+%d];\n", type, i, i * 512);
    say("LOADED:\n");
    for (int i = 0; f.registers && i < 4; i++) say("ld.global.b32 %%a%d, [%%x3+%d];\n", i, i * 512);
    say("wgmma.fence.sync.aligned;\n");
    say_wgmma(f, "%d", "%x4", "%x5", f.scale_d == 0 ? "0" : f.scale_d == 1 ? "1" : "%p1");
    say("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n");
    for (int i = 0; i < sums; i++) say("st.global.%s [%%x2+%d], %%d%d;\n", type, i * 512, i);
    say("ret;\n}\n");
    return finish();
}

/* Runs the kernel of a form once, with these swizzles. */
static void try_wgmma(Kernel *kernel, const Form &f, const Layout *fixed, u64 fixed_descriptor, int swizzle_a, int swizzle_b, bool exact, u64 *seed) {
    static u8 *image = managed<u8>(IMAGE);
    static u32 *pd = managed<u32>(128 * 128), *pa = managed<u32>(128 * 4);
    static double A[64][32], B[256][32], C[64][256];
    int bytes = f.a->bits / 8, depth = 32 / bytes, sums = f.n / 2, per = 4 / bytes;
    u32 keep = (u32)(f.scale_d == SCALE_BY_PREDICATE ? fat_below(seed, 2) : f.scale_d), begin_a = 0, begin_b = 0, used = 0;
    u64 da = 0, db = 0;
    Layout la, lb;
    char what[160];
    snprintf(what, sizeof what, "m64n%dk%d%s.%s.%s.%s %s major %d %d swizzle %d %d scale %d %d %u", f.n, depth, f.saturate ? ".satfinite" : "", f.d->name,
             f.a->name, f.b->name, f.registers ? "RS" : "SS", f.major_a, f.major_b, swizzle_a, swizzle_b, f.scale_a, f.scale_b, keep);
    for (int i = 0; i < IMAGE; i += 8) *(u64 *)(void *)(image + i) = fat_next(seed);
    memset(pa, 0, 128 * 4 * 4), memset(pd, 0, 128 * 128 * 4);
    if (!f.registers) used = choose(seed, f.major_a, swizzle_a, 64, bytes, 0, &la, &da, &begin_a);
    if (fixed) lb = *fixed, begin_b = 32 << 10, db = fixed_descriptor + (begin_b >> 4), used = 64 << 10;
    else used = choose(seed, f.major_b, swizzle_b, f.n, bytes, (used + 1023) / 1024 * 1024, &lb, &db, &begin_b);
    used = (used + 15) / 16 * 16;
    FA_REQUIRE(used <= IMAGE);
    for (int r = 0; r < 64; r++)
        for (int k = 0; k < depth; k++) {
            u32 x = random_bits(*f.a, seed, exact);
            A[r][k] = value_of(*f.a, x);
            if (f.registers) { /* as mma m16n8k16 and its like: register 2 (k half) + (row half) */
                int w = r / 16, half = k / (depth / 2), t = k % (depth / 2) / per, e = k % per;
                pa[(2 * half + r % 16 / 8) * 128 + w * 32 + r % 8 * 4 + t] |= x << e * f.a->bits % 32;
            } else memcpy(image + address_of(la, begin_a, bytes, r, k), &x, (size_t)bytes);
        }
    for (int c = 0; c < f.n; c++)
        for (int k = 0; k < depth; k++) {
            u32 x = random_bits(*f.b, seed, exact);
            B[c][k] = value_of(*f.b, x);
            memcpy(image + address_of(lb, begin_b, bytes, c, k), &x, (size_t)bytes);
        }
    for (int th = 0; th < 128; th++)
        for (int i = 0; i < sums; i++) {
            int row = th / 32 * 16 + th % 32 / 4 + 8 * (i >> 1 & 1), col = 8 * (i >> 2) + 2 * (th % 4) + (i & 1);
            double c = C[row][col] = random_sum(*f.d, seed);
            if (f.d->bits == 16) pd[i / 2 * 128 + th] |= bits_of(*f.d, c) << 16 * (i & 1);
            else pd[i * 128 + th] = bits_of(*f.d, c);
        }
    void *args[] = {&image, &used, &pd, &pa, &da, &db, &keep};
    FA_REQUIRE(launch(kernel, 128, used, args) == 0);
    for (int th = 0; th < 128; th++)
        for (int i = 0; i < sums; i++) {
            int row = th / 32 * 16 + th % 32 / 4 + 8 * (i >> 1 & 1), col = 8 * (i >> 2) + 2 * (th % 4) + (i & 1);
            double want = keep ? C[row][col] : 0, scale = fabs(want);
            for (int k = 0; k < depth; k++) want += f.scale_a * f.scale_b * A[row][k] * B[col][k], scale += fabs(A[row][k] * B[col][k]);
            if (!f.d->exponent) want = wrap(want, f.saturate);
            u32 got = f.d->bits == 16 ? pd[i / 2 * 128 + th] >> 16 * (i & 1) & 0xffff : pd[i * 128 + th];
            expect_sums(what, *f.d, got, want, exact ? 0 : scale, row, col);
        }
}

/* All layouts of one combination of types: majors, A in registers or not; B in all swizzles, A in each in turn. */
static void all_layouts(const Number &d, const Number &a, const Number &b, int n, bool saturate, bool exact) {
    u64 seed = fat_seed + (u64)n;
    int majors = a.bits == 16 ? 2 : 1, turn = fat_below(&seed, 4);
    for (int registers = 0; registers < 2; registers++)
        for (int major_a = 0; major_a < (registers ? 1 : majors); major_a++)
            for (int major_b = 0; major_b < majors; major_b++, turn++) {
                Form f = {&d, &a, &b, n, registers != 0, saturate, major_a, major_b, 1, 1, fat_below(&seed, 4)};
                if (f.scale_d == 3) f.scale_d = SCALE_BY_PREDICATE;
                if (a.exponent) f.scale_a = 1 - 2 * fat_below(&seed, 2), f.scale_b = 1 - 2 * fat_below(&seed, 2);
                Kernel *kernel = wgmma_kernel(f);
                for (int swizzle = 0; swizzle < 4; swizzle++) try_wgmma(kernel, f, NULL, 0, (swizzle + turn) % 4, swizzle, exact, &seed);
            }
}

static const int columns[] = {8, 16, 24, 64, 80, 96, 128, 176, 192, 256};

FA_TEST(wgmma_bf16) {
    for (int n = 8; n <= 256; n += 8) all_layouts(F32, BF16, BF16, n, false, true);
}
FA_TEST(wgmma_f16) {
    for (int n : columns) all_layouts(F32, F16, F16, n, false, true), all_layouts(F16, F16, F16, n, false, true);
}
FA_TEST(wgmma_tf32) {
    for (int n : columns) all_layouts(F32, TF32, TF32, n, false, true);
}
FA_TEST(wgmma_fp8) {
    const Number *type[] = {&E4M3, &E5M2};
    for (int n : columns)
        for (int i = 0; i < 4; i++) all_layouts(F32, *type[i / 2], *type[i % 2], n, false, true), all_layouts(F16, *type[i / 2], *type[i % 2], n, false, true);
}
FA_TEST(wgmma_int8) {
    const Number *type[] = {&S8, &U8};
    for (int n : columns)
        for (int i = 0; i < 4; i++) all_layouts(S32, *type[i / 2], *type[i % 2], n, i == n / 16 % 4, true);
}
FA_TEST(wgmma_rounded) {
    all_layouts(F32, BF16, BF16, 64, false, false), all_layouts(F32, F16, F16, 72, false, false), all_layouts(F16, F16, F16, 40, false, false);
    all_layouts(F32, TF32, TF32, 64, false, false), all_layouts(F32, E4M3, E5M2, 64, false, false), all_layouts(F16, E5M2, E4M3, 64, false, false);
}

/* The examples of the PTX ISA, in its own numbers. */
FA_TEST(wgmma_layouts_of_the_isa) {
    static const struct {
        const Number *type;
        int n, major, lead, stride; /* elements */
        Layout layout;
    } example[] = {
        {&TF32, 16, K_MAJOR, 64, 32, {{{8, 4}, {1, 0}, {2, 32}}, {{4, 1}, {4, 64}}, 0}},
        {&BF16, 16, MN_MAJOR, 128, 64, {{{8, 1}, {1, 8}, {2, 64}}, {{8, 8}, {2, 128}}, 0}},
        {&BF16, 32, MN_MAJOR, 128, 256, {{{8, 1}, {2, 8}, {2, 128}}, {{8, 16}, {2, 256}}, 1}},
        {&BF16, 64, MN_MAJOR, 256, 512, {{{8, 1}, {4, 8}, {2, 256}}, {{8, 32}, {2, 512}}, 2}},
    };
    u64 seed = fat_seed;
    for (const auto &e : example) {
        Form f = {&F32, e.type, e.type, e.n, false, false, K_MAJOR, e.major, 1, 1, 0};
        int bytes = e.type->bits / 8;
        try_wgmma(wgmma_kernel(f), f, &e.layout, descriptor_of(0, e.lead * bytes, e.stride * bytes, e.layout.swizzle), 0, e.layout.swizzle, true, &seed);
    }
}

/* ---- wgmma: the queue, in kernels compiled by nvcc ------------------------------------------------------------------ */

#define FENCE asm volatile("wgmma.fence.sync.aligned;" ::: "memory")
#define COMMIT asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory")
#define WAIT_GROUP(n) asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(n) : "memory")
#define PROXY_FENCE asm volatile("fence.proxy.async.shared::cta;" ::: "memory")
#define MMA(types, d, a, b, tail) \
    asm volatile("wgmma.mma_async.sync.aligned.m64n8" types " {%0, %1, %2, %3}, %4, %5, 1, 1, 1" tail ";" \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) \
                 : "l"(a), "l"(b) \
                 : "memory")
#define MMA8(d, a, b) MMA("k16.f32.bf16.bf16", d, a, b, ", 0, 0")
#define MMA8_REGISTERS(d, a, b) \
    asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, {%4, %5, %6, %7}, %8, 1, 1, 1, 0;" \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b) \
                 : "memory")
#define PIN(x) asm volatile("" : "+f"(x)::"memory") /* the compiler may not compute it later */
#define MMA8_IF(d, a, b, scale_d) \
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %6, 0; " \
                 "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, %4, %5, p, 1, 1, 0, 0; }" \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) \
                 : "l"(a), "l"(b), "r"((int)(scale_d)) \
                 : "memory")
#define TOUCH(x, y) asm volatile("add.f32 %0, %1, 0f3F800000;" : "=f"(x) : "f"(y) : "memory") /* x = y + 1 */

/* Shared memory: A of 64 x 16 and B of 8 x 16 bf16, without swizzle. */
enum { B_AT = 2048, C_AT = B_AT + 256, SHARED_BYTES = C_AT + 256 };
#define DESCRIPTOR(at) ((u64)((at) >> 4) | (u64)(128 >> 4) << 16 | (u64)(256 >> 4) << 32)
enum { BF16_ONES = 0x3f803f80 };

static __device__ __forceinline__ u32 fill(char *s) {
    for (u32 i = threadIdx.x; i < SHARED_BYTES / 4; i += blockDim.x) ((u32 *)s)[i] = BF16_ONES;
    return (u32)__cvta_generic_to_shared(s);
}

/* Accumulators carried through groups in flight, with a wait in between that leaves one; A from registers and from
 * shared memory; B overwritten after it is free. The result is 1 + 16 (steps * (1 + 2) + 1) everywhere. */
__global__ void pipeline(float *out, int steps) {
    __shared__ alignas(1024) char s[SHARED_BYTES];
    u32 at = fill(s), a[4] = {BF16_ONES, BF16_ONES, BF16_ONES, BF16_ONES};
    float d[4] = {1, 1, 1, 1}, e[4] = {0, 0, 0, 0};
    PROXY_FENCE;
    __syncthreads();
    FENCE;
    for (int i = 0; i < steps; i++) {
        MMA8(d, DESCRIPTOR(at), DESCRIPTOR(at + B_AT));
        COMMIT;
        MMA8(e, DESCRIPTOR(at), DESCRIPTOR(at + C_AT));
        MMA8(e, DESCRIPTOR(at), DESCRIPTOR(at + C_AT));
        COMMIT;
        WAIT_GROUP(1);
    }
    WAIT_GROUP(0);
    __syncthreads();
    if (threadIdx.x < 64) ((u32 *)(s + B_AT))[threadIdx.x] = 0x40004000; /* 2; the A in registers stands for half of it */
    for (int i = 0; i < 4; i++) a[i] = 0x3f003f00;
    PROXY_FENCE;
    __syncthreads();
    FENCE;
    MMA8_REGISTERS(d, a, DESCRIPTOR(at + B_AT));
    COMMIT;
    WAIT_GROUP(0);
    for (int i = 0; i < 4; i++) out[threadIdx.x * 4 + i] = d[i] + e[i];
}

FA_TEST(groups_in_flight) {
    float *out = managed<float>(256 * 4);
    for (int steps = 0; steps < 5; steps++) {
        pipeline<<<1, 256>>>(out, steps);
        FA_REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
        for (int i = 0; i < 256 * 4; i++) FA_EXPECT_NEAR(out[i], 1 + 16 * (steps * 3 + 1), 0);
    }
    cudaFree(out);
}

/* mma.sync gives what wgmma gives, bit for bit: both sum in the same order. */
__global__ void both(const u32 *a, const u32 *b, float *out) {
    __shared__ alignas(1024) u32 s[64];
    int l = threadIdx.x % 32;
    u32 x[4], y0 = b[l], y1 = b[32 + l];
    float d[4], e[4];
    for (int i = 0; i < 4; i++) x[i] = a[i * 128 + threadIdx.x], d[i] = e[i] = 0.1f * (float)(threadIdx.x + i);
    if (threadIdx.x < 32) s[l / 4 * 4 + l % 4] = y0, s[32 + l / 4 * 4 + l % 4] = y1;
    PROXY_FENCE;
    __syncthreads();
    u32 at = (u32)__cvta_generic_to_shared(s);
    FENCE;
    MMA8_REGISTERS(d, x, DESCRIPTOR(at));
    COMMIT;
    WAIT_GROUP(0);
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(e[0]), "+f"(e[1]), "+f"(e[2]), "+f"(e[3])
                 : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(y0), "r"(y1));
    for (int i = 0; i < 4; i++) out[i * 128 + threadIdx.x] = d[i], out[(4 + i) * 128 + threadIdx.x] = e[i];
}

FA_TEST(mma_and_wgmma_agree) {
    u32 *a = managed<u32>(512), *b = managed<u32>(64);
    float *out = managed<float>(1024);
    u64 seed = fat_seed;
    for (int i = 0; i < 512; i++) a[i] = random_bits(BF16, &seed, false) | random_bits(BF16, &seed, false) << 16;
    for (int i = 0; i < 64; i++) b[i] = random_bits(BF16, &seed, false) | random_bits(BF16, &seed, false) << 16;
    both<<<1, 128>>>(a, b, out);
    FA_REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
    for (int i = 0; i < 512; i++) FA_EXPECT_MSG(out[i] == out[512 + i], "%d: wgmma %.9g, mma %.9g", i, out[i], out[512 + i]);
    cudaFree(a), cudaFree(b), cudaFree(out);
}

FA_TEST(counters) {
    float *out = managed<float>(128 * 4);
    pipeline<<<1, 128>>>(out, 2);
    FA_REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
    FA_EXPECT_MSG(ptx_count.mac_wgmma == 7 * 64 * 8 * 16, "%llu", (unsigned long long)ptx_count.mac_wgmma);
    FA_EXPECT_MSG(ptx_count.wgmma_shared_bytes == 7 * 256 + 6 * 2048, "%llu", (unsigned long long)ptx_count.wgmma_shared_bytes);
    cudaFree(out);
}

/* Moves of registers in flight, as a compiler may place them: e = d before the wait, and A of the second wgmma in the
 * registers that the first still reads. d = 1 + A B, e = 1 + A B + 2 A B, where A is 1 and then 2, B is 1. */
static int moves_in_flight(u32 *out, bool too_early) {
    Form f = {&F32, &BF16, &BF16, 8, true, false, K_MAJOR, K_MAJOR, 1, 1, 1};
    say(".version 8.0\n.target sm_90a\n.address_size 64\n.visible .entry k(.param .u64 out)\n{\n"
        ".shared .align 1024 .b8 s[256];\n.reg .b32 %%t, %%r<4>, %%a<4>;\n.reg .f32 %%d<4>, %%e<4>, %%g;\n.reg .b64 %%x<4>;\n"
        "mov.u32 %%t, %%tid.x;\nld.param.u64 %%x0, [out];\nmul.wide.u32 %%x1, %%t, 4;\nadd.s64 %%x0, %%x0, %%x1;\n"
        "shl.b32 %%r0, %%t, 2;\nand.b32 %%r0, %%r0, 255;\nmov.u32 %%r1, s;\nadd.u32 %%r0, %%r0, %%r1;\nmov.b32 %%r2, %d;\n"
        "st.volatile.shared.b32 [%%r0], %%r2;\nfence.proxy.async.shared::cta;\nbar.sync 0;\nshr.u32 %%r1, %%r1, 4;\n"
        "cvt.u64.u32 %%x2, %%r1;\nor.b64 %%x2, %%x2, %llu;\nmov.b32 %%r3, %d;\n",
        BF16_ONES, (unsigned long long)DESCRIPTOR(0), 0x40004000);
    for (int i = 0; i < 4; i++) say("mov.b32 %%a%d, %%r2;\nmov.f32 %%d%d, 0f3F800000;\n", i, i);
    say("wgmma.fence.sync.aligned;\n");
    say_wgmma(f, "%d", "", "%x2", "1");
    say("wgmma.commit_group.sync.aligned;\n");
    say("mov.b32 %%r0, %%a0;\nadd.u32 %%r0, %%r0, 1;\n"); /* A may be copied while it is read */
    for (int i = 0; i < 4; i++) say("mov.b32 %%a%d, %%r3;\nmov.f32 %%e%d, %%d%d;\n", i, i, i);
    say("mov.b32 %%r3, 0;\nwgmma.fence.sync.aligned;\n");
    say_wgmma(f, "%e", "", "%x2", "1");
    say("wgmma.commit_group.sync.aligned;\nmov.f32 %%%s, %%e0;\nwgmma.wait_group.sync.aligned 1;\n", too_early ? "d3" : "g");
    for (int i = 0; i < 4; i++) say("st.global.f32 [%%x0+%d], %%d%d;\n", i * 512, i);
    say("wgmma.wait_group.sync.aligned 0;\n");
    for (int i = 0; i < 4; i++) say("st.global.f32 [%%x0+%d], %%e%d;\n", (4 + i) * 512, i);
    say("st.global.b32 [%%x0+4096], %%a1;\nst.global.b32 [%%x0+4608], %%r0;\nret;\n}\n");
    void *args[] = {&out};
    return launch(finish(), 128, 0, args);
}

FA_TEST(moves_in_flight) {
    u32 *out = managed<u32>(10 * 128);
    ptx_expect_findings(true);
    moves_in_flight(out, true);
    FA_EXPECT(strstr(ptx_last_findings(), "reads a register of a wgmma in flight") != NULL);
    ptx_expect_findings(false);
    FA_REQUIRE(moves_in_flight(out, false) == 0);
    for (int i = 0; i < 1024; i++) FA_EXPECT_NEAR(value_of(F32, out[i]), i < 512 ? 1 + 16 : 1 + 16 + 32, 0);
    for (int i = 1024; i < 1152; i++) FA_EXPECT(out[i] == 0x40004000 && out[128 + i] == BF16_ONES + 1);
    cudaFree(out);
}

/* ---- what is refused ------------------------------------------------------------------------------------------------------ */

static void expect_refused(const char *target, const char *instruction) {
    say(".version 8.7\n.target %s\n.address_size 64\n.visible .entry k()\n{\n.reg .b32 %%r<16>;\n.reg .f32 %%f<16>;\n.reg .b64 %%x<4>;\n"
        ".reg .pred %%p<2>;\n%s\nret;\n}\n",
        target, instruction);
    ptx_expect_findings(true);
    bool refused = setjmp(ptx_launch_exit) != 0;
    if (!refused) finish();
    FA_EXPECT_MSG(refused && *ptx_last_findings(), "%s is not refused", instruction);
    ptx_expect_findings(false);
}

FA_TEST(refused) {
#define D4 "{%f0, %f1, %f2, %f3}, "
#define R4 "{%r0, %r1, %r2, %r3}, "
#define R2 "{%r0, %r1}, "
#define MMA_SYNC(form) "mma.sync.aligned." form " "
#define MMA_ASYNC(form) "wgmma.mma_async.sync.aligned." form " "
    static const char *const wrong[] = {
        MMA_SYNC("m16n8k16.col.row.f32.bf16.bf16.f32") D4 R4 R2 "{%f0, %f1, %f2, %f3};",
        MMA_SYNC("m16n8k16.row.col.f32.bf16.f16.f32") D4 R4 R2 "{%f0, %f1, %f2, %f3};",
        MMA_SYNC("m16n8k16.row.col.bf16.bf16.bf16.bf16") R2 R4 R2 "{%r0, %r1};",
        MMA_SYNC("m16n8k16.row.col.f32.f16.f16.f16") D4 R4 R2 "{%r0, %r1};",
        MMA_SYNC("m16n8k16.row.col.satfinite.f32.f16.f16.f32") D4 R4 R2 "{%f0, %f1, %f2, %f3};",
        MMA_SYNC("m16n8k16.row.col.f32.bf16.bf16.f32") D4 R2 R2 "{%f0, %f1, %f2, %f3};",
        MMA_SYNC("m16n8k32.row.col.s32.s4.s4.s32") R4 R2 "{%r0}, {%r0, %r1, %r2, %r3};",
        MMA_SYNC("m16n8k256.row.col.s32.b1.b1.s32.and.popc") R4 R4 R2 "{%r0, %r1, %r2, %r3};",
        MMA_SYNC("m8n8k4.row.col.f32.f16.f16.f32") "{%f0, %f1, %f2, %f3, %f4, %f5, %f6, %f7}, " R2 R2 "{%f0, %f1, %f2, %f3, %f4, %f5, %f6, %f7};",
        "mma.sp.sync.aligned.m16n8k32.row.col.f32.bf16.bf16.f32 " D4 R4 R4 D4 "%r0, 0;",
        MMA_ASYNC("m64n8k16.f32.bf16.bf16") D4 "%x0, %x1, %p0, 1, 1, 0;",
        MMA_ASYNC("m64n8k16.f32.bf16.bf16") D4 "%x0, %x1, %p0, 1, 2, 0, 0;",
        MMA_ASYNC("m64n8k16.f32.bf16.bf16") D4 "%x0, %x1, %p0, 1, 1, 0, 2;",
        MMA_ASYNC("m64n8k16.f32.bf16.bf16") D4 "%x0, %x1, 2, 1, 1, 0, 0;",
        MMA_ASYNC("m64n8k16.f32.bf16.f16") D4 "%x0, %x1, %p0, 1, 1, 0, 0;",
        MMA_ASYNC("m64n8k8.f32.bf16.bf16") D4 "%x0, %x1, %p0, 1, 1, 0, 0;",
        MMA_ASYNC("m64n8k8.f32.tf32.tf32") D4 "%x0, %x1, %p0, 1, 1, 0, 0;",
        MMA_ASYNC("m64n8k32.s32.s8.s8") R4 "%x0, %x1, %p0, 1, 1;",
        MMA_ASYNC("m64n12k16.f32.bf16.bf16") "{%f0, %f1, %f2, %f3, %f4, %f5}, %x0, %x1, %p0, 1, 1, 0, 0;",
        MMA_ASYNC("m64n8k16.bf16.bf16.bf16") R2 "%x0, %x1, %p0, 1, 1, 0, 0;",
        MMA_ASYNC("m64n8k256.s32.b1.b1.and.popc") R4 "%x0, %x1, %p0;",
        "wgmma.mma_async.sp.sync.aligned.m64n8k32.f32.bf16.bf16 " D4 "%x0, %x1, %r0, 0, %p0, 1, 1, 0, 0;",
        "wgmma.fence.sync;",
        "wgmma.wait_group.sync.aligned;",
    };
    for (const char *instruction : wrong) expect_refused("sm_90a", instruction);
    expect_refused("sm_80", MMA_SYNC("m16n8k32.row.col.f32.e4m3.e4m3.f32") D4 R4 R2 "{%f0, %f1, %f2, %f3};");
    expect_refused("sm_80", MMA_SYNC("m16n8k8.row.col.f64.f64.f64.f64") "{%x0, %x0, %x0, %x0}, {%x0, %x0, %x0, %x0}, {%x0, %x0}, {%x0, %x0, %x0, %x0};");
    expect_refused("sm_90", "wgmma.fence.sync.aligned;");
}

/* ---- wgmma: planted bugs --------------------------------------------------------------------------------------------- */

enum Bug {
    NO_BUG, NO_FENCE, NO_FENCE_AFTER_WRITE, NO_FENCE_AFTER_WRITE_OF_A, OTHER_SHAPE, READ_IN_FLIGHT, WRITTEN_IN_FLIGHT, A_WRITTEN_IN_FLIGHT,
    READ_UNCOMMITTED, NOT_COMMITTED, NOT_WAITED, NO_VALUE, BASE_OFFSET, OFF_PATTERN, CROSSES_ROW, RESERVED_BITS, OUT_OF_BOUNDS, LANES_DIFFER,
    DIVERGENT, WARPS_DIFFER, WARP_MISSING, GROUPS_DIFFER, NO_PROXY_FENCE, NO_BARRIER, OVERWRITTEN, TOO_FEW_WARPS, READ_NEWER_GROUP, B_OUT_OF_BOUNDS,
    OVERWRITES_WAITED, OVERWRITES_NEWER, SCALE_BY_LANE, SCALE_BY_WARP, ONE_MORE
};

/* thread 0 tells the line of what comes next on the line */
#define HERE if (threadIdx.x == 0) *line = __LINE__;

template <int BUG> __global__ void planted(volatile int *line, float *out) {
    __shared__ alignas(1024) char s[SHARED_BYTES];
    u32 at = fill(s), a[4] = {BF16_ONES, BF16_ONES, BF16_ONES, BF16_ONES};
    float d[4], e[4] = {0, 0, 0, 0}, x = 0;
    for (int i = 0; i < 4; i++) d[i] = (float)(threadIdx.x + i);
    for (int i = 0; i < 4; i++) PIN(d[i]);
    int warp = threadIdx.x / 32;
    u64 A = DESCRIPTOR(at), B = DESCRIPTOR(at + B_AT);
    bool again = true;
    if (BUG != NO_PROXY_FENCE) PROXY_FENCE;
    if (BUG != NO_BARRIER) __syncthreads();
    if (BUG == BASE_OFFSET) B |= (u64)1 << 49;
    if (BUG == OFF_PATTERN) B = DESCRIPTOR(at + 128) | (u64)1 << 62;
    if (BUG == CROSSES_ROW) B = DESCRIPTOR(at + 112) | (u64)1 << 62;
    if (BUG == RESERVED_BITS) B |= 1 << 14;
    if (BUG == OUT_OF_BOUNDS) A = DESCRIPTOR(at + 1024); /* rows 48 and up lie behind the array */
    if (BUG == B_OUT_OF_BOUNDS) B = DESCRIPTOR(at + SHARED_BYTES - 128); /* k 8 and up lies behind the array */
    if (BUG == LANES_DIFFER) B += threadIdx.x == 7;
    if (BUG == WARPS_DIFFER && warp == 2) B += 1;
    if (BUG == TOO_FEW_WARPS) { HERE FENCE; }
    else if (BUG != NO_FENCE) FENCE;
    if (BUG == NO_FENCE_AFTER_WRITE) { TOUCH(d[2], d[2]); }
    if (BUG == NO_FENCE_AFTER_WRITE_OF_A) asm volatile("or.b32 %0, %0, 1;" : "+r"(a[3])::"memory");
    if (BUG == NO_VALUE) {
        HERE asm volatile("{ .reg .f32 u<3>; wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, u0, u1, u2}, %1, %2, 1, 1, 1, 0, 0; }" : "+f"(d[0]) : "l"(A), "l"(B) : "memory");
    } else if (BUG == SCALE_BY_LANE) {
        HERE MMA8_IF(d, A, B, threadIdx.x & 1);
    } else if (BUG == SCALE_BY_WARP) {
        MMA8_IF(d, A, B, warp == 2);
    } else if (BUG == DIVERGENT) {
        if (threadIdx.x % 2) { HERE MMA8(d, A, B); }
    } else if (BUG == WARP_MISSING) {
        if (warp != 3) MMA8(d, A, B);
    } else if (BUG == GROUPS_DIFFER) {
        if (warp == 1) COMMIT;
        MMA8(d, A, B);
    } else if (BUG == NO_FENCE_AFTER_WRITE_OF_A || BUG == A_WRITTEN_IN_FLIGHT) {
        HERE MMA8_REGISTERS(d, a, B);
    } else if (BUG == TOO_FEW_WARPS || BUG == ONE_MORE) {
        MMA8(d, A, B);
    } else {
        HERE MMA8(d, A, B);
    }
    if (BUG == OTHER_SHAPE) { HERE MMA("k8.f32.tf32.tf32", d, A, B, ""); }
    if (BUG == ONE_MORE && warp == 3) MMA8(d, A, B);
    if (BUG == READ_UNCOMMITTED) { WAIT_GROUP(0); HERE TOUCH(x, d[0]); }
    if (BUG != NOT_COMMITTED && BUG != WARP_MISSING) COMMIT;
    if (BUG == OVERWRITES_WAITED || BUG == OVERWRITES_NEWER) {
        MMA8(e, A, DESCRIPTOR(at + C_AT));
        COMMIT;
        WAIT_GROUP(1);
        HERE ((volatile u32 *)(s + (BUG == OVERWRITES_NEWER ? C_AT : B_AT)))[threadIdx.x % 64] = 0;
    }
    if (BUG == READ_NEWER_GROUP) {
        MMA8(d, A, B);
        COMMIT;
        WAIT_GROUP(1);
        HERE TOUCH(x, d[0]);
    }
    if (BUG == READ_IN_FLIGHT) { HERE TOUCH(x, d[3]); }
    if (BUG == WRITTEN_IN_FLIGHT) { HERE asm volatile("add.f32 %0, %0, %0;" : "+f"(d[3])::"memory"); }
    if (BUG == A_WRITTEN_IN_FLIGHT) { HERE asm volatile("or.b32 %0, %0, 1;" : "+r"(a[1])::"memory"); }
    if (BUG == OVERWRITTEN) { HERE ((volatile u32 *)s)[threadIdx.x] = 0; }
    if (BUG == NOT_WAITED || BUG == NOT_COMMITTED) return;
    WAIT_GROUP(0);
    for (int i = 0; i < 4; i++) out[threadIdx.x * 4 + i] = d[i] + e[i] + x + (float)(a[i] & again);
}

template <int BUG> static void expect_finding(const char *words, int threads = 128) {
    int *line = managed<int>(1);
    float *out = managed<float>(1024);
    char where[64];
    ptx_expect_findings(true);
    planted<BUG><<<1, threads>>>(line, out);
    cudaError_t error = cudaDeviceSynchronize();
    char *found = strdup(ptx_last_findings());
    ptx_expect_findings(false);
    snprintf(where, sizeof where, "test_tensor.cu:%d", *line);
    if (!words) FA_EXPECT_MSG(error == cudaSuccess && !*found, "error %d, findings: %s", (int)error, found);
    else FA_EXPECT_MSG(strstr(found, words) && (!*line || strstr(found, where)), "bug %d: wanted \"%s\" at %s, found: %s", BUG, words, where, found);
    free(found);
    cudaGetLastError();
    cudaFree(line), cudaFree(out);
}

FA_TEST(planted_bugs) {
    expect_finding<NO_BUG>(NULL);
    expect_finding<NO_BUG>(NULL, 256);
    expect_finding<TOO_FEW_WARPS>("a warpgroup is 4 warps", 64);
    expect_finding<TOO_FEW_WARPS>("a warpgroup is 4 warps", 192);
    expect_finding<TOO_FEW_WARPS>("needs all 32 lanes", 120);
    expect_finding<NO_FENCE>("missing wgmma.fence: none before this");
    expect_finding<NO_FENCE_AFTER_WRITE>("missing wgmma.fence: accumulator register 2 was written after the last one");
    expect_finding<NO_FENCE_AFTER_WRITE_OF_A>("missing wgmma.fence: A register 3 was written after the last one");
    expect_finding<OTHER_SHAPE>("missing wgmma.fence: accumulator register 0 was used by a wgmma of another shape");
    expect_finding<READ_IN_FLIGHT>("reads a register of a wgmma in flight");
    expect_finding<READ_NEWER_GROUP>("reads a register of a wgmma in flight");
    expect_finding<WRITTEN_IN_FLIGHT>("writes a register of a wgmma in flight");
    expect_finding<A_WRITTEN_IN_FLIGHT>("a register of a wgmma in flight");
    expect_finding<READ_UNCOMMITTED>("reads a register of a wgmma in flight");
    expect_finding<NOT_COMMITTED>("it was never committed");
    expect_finding<NOT_WAITED>("it was never waited for");
    expect_finding<NO_VALUE>("accumulator register 1 holds no value (scale-d is true)");
    expect_finding<BASE_OFFSET>("descriptor of B: base offset 1; only 0 is supported");
    expect_finding<OFF_PATTERN>("descriptor of B: start address 0x80 is 128 bytes into its swizzle pattern");
    expect_finding<CROSSES_ROW>("descriptor of B: start address 0x70: 32 bytes cross the swizzled row of 128");
    expect_finding<RESERVED_BITS>("has reserved bits set");
    expect_finding<OUT_OF_BOUNDS>("descriptor of A: row 48, k 0 lies at shared address 0xa00, beyond the 2560 bytes");
    expect_finding<B_OUT_OF_BOUNDS>("descriptor of B: column 0, k 8 lies at shared address 0xa00, beyond the 2560 bytes");
    expect_finding<OVERWRITES_WAITED>(NULL);
    expect_finding<OVERWRITES_NEWER>("race");
    expect_finding<SCALE_BY_LANE>("scale-d differs from lane to lane");
    expect_finding<SCALE_BY_WARP>("warps of a warpgroup disagree: scale-d of this wgmma differs");
    expect_finding<ONE_MORE>("warps of a warpgroup disagree");
    expect_finding<LANES_DIFFER>("descriptor of B differs from lane to lane");
    expect_finding<DIVERGENT>("waits for its lanes 55555555");
    expect_finding<WARPS_DIFFER>("warps of a warpgroup disagree: descriptors of this wgmma differ");
    expect_finding<WARP_MISSING>("warps of a warpgroup disagree");
    expect_finding<GROUPS_DIFFER>("warps of a warpgroup disagree");
    expect_finding<NO_PROXY_FENCE>("fence.proxy.async");
    expect_finding<NO_BARRIER>("race");
    expect_finding<OVERWRITTEN>("race");
}

FA_TEST_MAIN
