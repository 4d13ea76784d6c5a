/* test_convert.c - element types, Philox and dropout.
 * Every code of every format is decoded, encoded and rounded to, against formulas in double. */
#include "fa_test.h"

#include "flashattn.h"

/* A format as its standard describes it; the library's functions are reached through fa_load and
 * fa_store, so those are tested too. */
typedef struct format {
    fa_dtype dtype;
    int exponent_bits, mantissa_bits, bias;
    uint32_t max;    /* code of the largest number */
    uint32_t beyond; /* code of what is too large: Inf, or max when the format saturates */
} format;

static const format formats[] = {
    {FA_F16, 5, 10, 15, 0x7bff, 0x7c00},
    {FA_BF16, 8, 7, 127, 0x7f7f, 0x7f80},
    {FA_E4M3, 4, 3, 7, 0x7e, 0x7e},
    {FA_E5M2, 5, 2, 15, 0x7b, 0x7b},
};
enum { NUM_FORMATS = (int)(sizeof formats / sizeof *formats) };

static uint32_t sign_bit(const format *f) { return 1u << (f->exponent_bits + f->mantissa_bits); }

typedef union element {
    float f32; /* room and alignment for every format */
    uint16_t c16;
    uint8_t c8;
} element;

static float decode(const format *f, uint32_t code) {
    element e = {0};
    if (fa_sizeof(f->dtype) == 2) e.c16 = (uint16_t)code;
    else e.c8 = (uint8_t)code;
    return fa_load(&e, 0, f->dtype);
}
static uint32_t encode(const format *f, float x) {
    element e = {0};
    fa_store(&e, 0, f->dtype, x);
    return fa_sizeof(f->dtype) == 2 ? e.c16 : e.c8;
}

/* Value of a positive finite code, by the definition of the format. */
static double value(const format *f, uint32_t code) {
    int e = (int)(code >> f->mantissa_bits), m = (int)(code & ((1u << f->mantissa_bits) - 1));
    if (e == 0) return ldexp(m, 1 - f->bias - f->mantissa_bits);
    return ldexp(m + (1 << f->mantissa_bits), e - f->bias - f->mantissa_bits);
}

/* What x (not NaN, positive) is rounded to, computed in double: nearbyint rounds ties to even. */
static double rounded(const format *f, double x) {
    int e = x > 0 ? ilogb(x) : 0;
    double unit, max = value(f, f->max);
    if (e < 1 - f->bias) e = 1 - f->bias;
    unit = ldexp(1, e - f->mantissa_bits);
    x = isinf(x) ? x : nearbyint(x / unit) * unit;
    if (x <= max) return x;
    return f->beyond == f->max ? max : (double)INFINITY;
}

static float from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

FA_TEST(sizes_and_names) {
    FA_EXPECT(fa_sizeof(FA_F32) == 4 && fa_sizeof(FA_F16) == 2 && fa_sizeof(FA_BF16) == 2);
    FA_EXPECT(fa_sizeof(FA_E4M3) == 1 && fa_sizeof(FA_E5M2) == 1);
    FA_EXPECT(fa_sizeof(0) == 0 && fa_sizeof(-1) == 0 && fa_sizeof(99) == 0);
    FA_EXPECT(!strcmp(fa_dtype_name(FA_F32), "f32") && !strcmp(fa_dtype_name(FA_F16), "f16"));
    FA_EXPECT(!strcmp(fa_dtype_name(FA_BF16), "bf16") && !strcmp(fa_dtype_name(FA_E4M3), "e4m3"));
    FA_EXPECT(!strcmp(fa_dtype_name(FA_E5M2), "e5m2") && !strcmp(fa_dtype_name(0), "unknown"));
}

FA_TEST(every_code_both_ways) {
    for (int n = 0; n < NUM_FORMATS; n++) {
        const format *f = &formats[n];
        uint32_t sign = sign_bit(f);
        for (uint32_t code = 0; code < 2 * sign; code++) {
            uint32_t mag = code & (sign - 1);
            float x = decode(f, code);
            uint32_t back = encode(f, x);
            FA_EXPECT_MSG(!signbit(x) == !(code & sign), "%s %#x", fa_dtype_name(f->dtype), code);
            if (mag <= f->max) {
                double want = code & sign ? -value(f, mag) : value(f, mag);
                FA_EXPECT_MSG(x == want && back == code, "%s code %#x: %.9g, want %.9g, back %#x",
                              fa_dtype_name(f->dtype), code, (double)x, want, back);
            } else if (mag == f->max + 1 && f->dtype != FA_E4M3) {
                uint32_t want = (code & sign) | f->beyond; /* Inf */
                FA_EXPECT_MSG(isinf(x) && back == want, "%s code %#x: %.9g, back %#x",
                              fa_dtype_name(f->dtype), code, (double)x, back);
            } else {
                /* 16 bits: the same NaN with its top mantissa bit, quiet; fp8 has one NaN */
                uint32_t want = code | 1u << (f->mantissa_bits - 1);
                if (fa_sizeof(f->dtype) == 1) want = (code & sign) | 0x7f;
                FA_EXPECT_MSG(isnan(x) && back == want, "%s code %#x: %.9g, back %#x",
                              fa_dtype_name(f->dtype), code, (double)x, back);
            }
        }
    }
}

/* Between every two neighbours: below the midpoint down, above it up, on it to the even code. */
FA_TEST(every_midpoint) {
    for (int n = 0; n < NUM_FORMATS; n++) {
        const format *f = &formats[n];
        for (uint32_t code = 0; code < f->max; code++) {
            float mid = (float)((value(f, code) + value(f, code + 1)) / 2);
            uint32_t even = code + (code & 1);
            for (int negative = 0; negative < 2; negative++) {
                float s = negative ? -1.0f : 1.0f;
                uint32_t sign = negative ? sign_bit(f) : 0;
                int ok = encode(f, s * nextafterf(mid, 0)) == (sign | code) &&
                         encode(f, s * mid) == (sign | even) &&
                         encode(f, s * nextafterf(mid, INFINITY)) == (sign | (code + 1));
                FA_EXPECT_MSG(ok, "%s above code %#x", fa_dtype_name(f->dtype), sign | code);
            }
        }
    }
}

FA_TEST(beyond_the_largest) {
    for (int n = 0; n < NUM_FORMATS; n++) {
        const format *f = &formats[n];
        double max = value(f, f->max), mid = max + (max - value(f, f->max - 1)) / 2;
        float half = (float)mid; /* a tie: the next code, Inf in f16 and bf16, is even */
        float large[] = {half, nextafterf(half, INFINITY), 3.4028234e38f, INFINITY};
        for (int negative = 0; negative < 2; negative++) {
            float s = negative ? -1.0f : 1.0f;
            uint32_t sign = negative ? sign_bit(f) : 0;
            FA_EXPECT(encode(f, s * (float)max) == (sign | f->max));
            FA_EXPECT(encode(f, s * nextafterf(half, 0)) == (sign | f->max));
            for (int i = 0; i < 4; i++)
                FA_EXPECT_MSG(encode(f, s * large[i]) == (sign | f->beyond), "%s of %.9g",
                              fa_dtype_name(f->dtype), (double)(s * large[i]));
            FA_EXPECT(encode(f, s * 0.0f) == sign);
            FA_EXPECT(encode(f, s * from_bits(1)) == sign); /* the smallest f32 */
        }
        for (int i = 0; i < 4; i++) {
            static const uint32_t nans[] = {0x7f800001, 0x7fffffff, 0xff800001, 0xffffffff};
            uint32_t code = encode(f, from_bits(nans[i]));
            FA_EXPECT(isnan(decode(f, code)) && !(code & sign_bit(f)) == (i < 2));
        }
    }
}

/* Numbers of all sizes, spread evenly over the bit patterns. */
FA_TEST(many_floats_round_as_in_double) {
    uint64_t state = fat_seed;
    for (int i = 0; i < 1 << 19; i++) {
        float x = from_bits((uint32_t)fat_next(&state));
        if (isnan(x)) continue;
        for (int n = 0; n < NUM_FORMATS; n++) {
            double got = (double)decode(&formats[n], encode(&formats[n], x));
            double want = copysign(rounded(&formats[n], fabs((double)x)), (double)x);
            int ok = got == want && !signbit(got) == !signbit(want);
            FA_EXPECT_MSG(ok, "%s of %.9g: %.9g, want %.9g", fa_dtype_name(formats[n].dtype),
                          (double)x, got, want);
        }
    }
}

FA_TEST(f16_as_the_compiler_has_it) {
#if defined(__FLT16_MANT_DIG__) && !defined(__cplusplus)
    __extension__ typedef _Float16 half;
    uint64_t state = fat_seed;
    uint16_t bits;
    half h;
    for (uint32_t code = 0; code < 0x10000; code++) {
        float got = fa_f16_to_f32((uint16_t)code);
        bits = (uint16_t)code, memcpy(&h, &bits, 2);
        FA_EXPECT_MSG(got == (float)h || (isnan(got) && isnan((float)h)), "code %#x", code);
    }
    for (int i = 0; i < 1 << 19; i++) {
        float x = from_bits((uint32_t)fat_next(&state));
        /* half of them in the range where f16 has numbers */
        if (i & 1) x = ldexpf(1 + (float)fat_uniform(&state), fat_below(&state, 44) - 27);
        h = (half)x, memcpy(&bits, &h, 2);
        if (!isnan(x)) FA_EXPECT_MSG(fa_f32_to_f16(x) == bits, "%.9g", (double)x);
    }
#else
    FA_SKIP("the compiler has no _Float16")
#endif
}

FA_TEST(load_and_store) {
    for (fa_dtype dtype = FA_F32; dtype <= FA_E5M2; dtype++) {
        union { unsigned char bytes[32]; float align; } memory;
        size_t size = fa_sizeof(dtype);
        for (int i = 0; i < 8; i++) fa_store(memory.bytes, i, dtype, (float)(i - 3) * 0.5f);
        for (int i = 0; i < 8; i++)
            FA_EXPECT(fa_load(memory.bytes, i, dtype) == (float)(i - 3) * 0.5f);
        /* a store writes its own element alone; negative indices are indices */
        memset(memory.bytes, 0xaa, sizeof memory.bytes);
        fa_store(memory.bytes + 4 * size, -1, dtype, 1.0f);
        for (size_t i = 0; i < sizeof memory.bytes; i++)
            FA_EXPECT(i / size == 3 || memory.bytes[i] == 0xaa);
        FA_EXPECT(fa_load(memory.bytes, 3, dtype) == 1.0f);
        memset(memory.bytes, 0xaa, sizeof memory.bytes);
        fa_store(memory.bytes, 0, 0, 1.0f); /* not a dtype: nothing happens */
        FA_EXPECT(memory.bytes[0] == 0xaa && isnan(fa_load(memory.bytes, 0, 0)));
    }
}

/* Known answers of Random123, the library of the paper's authors: zeros, ones, digits of pi. */
FA_TEST(philox_known_answers) {
    static const uint32_t known[3][10] = {
        /* counter (4), key (2), result (4) */
        {0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
        {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, /* gives */
         0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
        {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, /* gives */
         0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1},
    };
    for (int n = 0; n < 3; n++) {
        uint32_t out[4], counter[4];
        fa_philox4x32_10(known[n], known[n] + 4, out);
        FA_EXPECT(!memcmp(out, known[n] + 6, sizeof out));
        memcpy(counter, known[n], sizeof counter);
        fa_philox4x32_10(counter, known[n] + 4, counter); /* in place */
        FA_EXPECT(!memcmp(counter, known[n] + 6, sizeof counter));
    }
}

FA_TEST(dropout_threshold_and_scale) {
    for (uint32_t k = 0; k < 65536; k++) {
        float p = (float)k / 65536;
        FA_EXPECT(fa_dropout_threshold(p) == k);
        /* what is kept, times the scale, is all */
        FA_EXPECT_NEAR((double)fa_dropout_scale(p) * (65536 - k) / 65536, 1, 0x1p-24);
    }
    FA_EXPECT(fa_dropout_threshold(nextafterf(1, 0)) == 65535);
    FA_EXPECT(fa_dropout_threshold(1.0f) == 65535 && fa_dropout_threshold(INFINITY) == 65535);
    FA_EXPECT(fa_dropout_threshold(-0.5f) == 0 && fa_dropout_threshold(NAN) == 0);
    FA_EXPECT(fa_dropout_threshold(0x1p-17f) == 1);
    FA_EXPECT(fa_dropout_threshold(nextafterf(0x1p-17f, 0)) == 0);
    FA_EXPECT(fa_dropout_threshold(0.1f) == 6554 && fa_dropout_scale(0) == 1);
}

/* The definition, spelled out: 16 bits a key, from counter {j/8, i, b*num_heads + h, offset}. */
FA_TEST(dropout_is_the_documented_stream) {
    fa_args args = {0};
    args.num_heads = 3, args.dropout_offset = 77;
    args.dropout_seed = 0x0123456789abcdefu;
    for (int n = 0; n < 2 * 3 * 5 * 40; n++) { /* (b, h, i, j) */
        int j = n % 40, i = n / 40 % 5, h = n / 200 % 3, b = n / 600;
        uint32_t counter[4] = {(uint32_t)j / 8, (uint32_t)i, (uint32_t)(b * 3 + h), 77};
        uint32_t key[2] = {0x89abcdef, 0x01234567}, out[4], bits[8];
        fa_philox4x32_10(counter, key, out);
        for (int t = 0; t < 8; t++) bits[t] = t % 2 ? out[t / 2] >> 16 : out[t / 2] & 0xffff;
        args.dropout_p = 0.3f;
        FA_EXPECT(fa_dropout_keep(&args, b, h, i, j) == (bits[j % 8] >= 19661)); /* 0.3 * 2^16 */
        args.dropout_p = (float)bits[j % 8] / 65536; /* the largest p that keeps it */
        FA_EXPECT(fa_dropout_keep(&args, b, h, i, j));
        args.dropout_p += 0x1p-16f;
        if (args.dropout_p < 1) FA_EXPECT(!fa_dropout_keep(&args, b, h, i, j));
    }
}

enum { DROP_H = 3, DROP_I = 32, DROP_J = 128, DROP_N = 2 * DROP_H * DROP_I * DROP_J };

/* keep (2, DROP_H, DROP_I, DROP_J); returns how many are kept */
static int pattern(const fa_args *args, unsigned char *keep) {
    int kept = 0;
    for (int n = 0; n < DROP_N; n++) {
        int j = n % DROP_J, i = n / DROP_J % DROP_I, h = n / (DROP_J * DROP_I) % DROP_H;
        keep[n] = (unsigned char)fa_dropout_keep(args, n / (DROP_J * DROP_I * DROP_H), h, i, j);
        kept += keep[n];
    }
    return kept;
}

/* As many are kept as p says, of all and of each lane j%8, within 5 sigma of independent draws. */
FA_TEST(dropout_fraction) {
    static const float probabilities[] = {0.01f, 0.1f, 0.5f, 0.9f, 0.99f};
    static unsigned char keep[DROP_N];
    for (int n = 0; n < 5; n++) {
        fa_args args = {0};
        float p = probabilities[n];
        double chance = 1 - fa_dropout_threshold(p) / 65536.0, count = DROP_N;
        double sigma = sqrt(chance * (1 - chance) * count), kept;
        args.num_heads = DROP_H, args.dropout_p = p, args.dropout_seed = fat_seed;
        kept = pattern(&args, keep);
        FA_EXPECT_NEAR(kept, chance * count, 5 * sigma);
        /* the same as a user sees it: the mean of scaled elements is 1 */
        FA_EXPECT_NEAR(kept / count * (double)fa_dropout_scale(p), 1, 5 * sigma / (chance * count));
        for (int lane = 0; lane < 8; lane++) {
            int in_lane = 0;
            for (int i = lane; i < DROP_N; i += 8) in_lane += keep[i];
            FA_EXPECT_NEAR(in_lane, chance * count / 8, 5 * sigma / sqrt(8));
        }
    }
}

/* Elements in which a and b, b rotated by `by`, agree: half of them if the two are independent. */
static void expect_unlike(const unsigned char *a, const unsigned char *b, int by) {
    double count = DROP_N;
    int same = 0;
    for (int i = 0; i < DROP_N; i++) same += a[i] == b[(i + by) % DROP_N];
    FA_EXPECT_NEAR(same, count / 2, 5 * sqrt(count / 4));
}

/* Both halves of the seed and the offset each give another pattern; so does every step in j, i, h
 * and b.  p = 0 keeps all. */
FA_TEST(dropout_patterns_differ) {
    static unsigned char first[DROP_N], other[DROP_N];
    for (int change = 0; change < 4; change++) {
        fa_args args = {0};
        args.num_heads = DROP_H, args.dropout_p = 0.5f, args.dropout_seed = fat_seed;
        pattern(&args, first);
        if (change == 0) args.dropout_offset += 1;
        if (change == 1) args.dropout_seed += 1;
        if (change == 2) args.dropout_seed += (uint64_t)1 << 32;
        if (change == 3) args.dropout_p = 0;
        if (change < 3) pattern(&args, other), expect_unlike(first, other, 0);
        else FA_EXPECT(pattern(&args, other) == DROP_N);
    }
    for (int step = 1; step < DROP_N; step *= 2) expect_unlike(first, first, step);
    expect_unlike(first, first, DROP_J * DROP_I); /* the next head */
}

FA_TEST_MAIN
