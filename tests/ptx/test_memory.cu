/* test_memory.cu - loads, stores, atomics, address conversions, cluster memory and fences of the PTX machine,
 * every form against a plain model on the host; and the findings that accesses can cause.
 *
 *     make build/ptx/test_memory && FA_PTX_SCHEDULE=1 build/ptx/test_memory
 */
#include "ptx_test.h"
#include <algorithm>
#include <cooperative_groups.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <string>
#include <vector>

__device__ static uint64_t bits(uint16_t x) { return x; }
__device__ static uint64_t bits(uint32_t x) { return x; }
__device__ static uint64_t bits(uint64_t x) { return x; }
__device__ static uint64_t bits(float x) { return __float_as_uint(x); }
__device__ static uint64_t bits(double x) { return (uint64_t)__double_as_longlong(x); }

/* ---- ld, st: every type, register width, vector length and space -------------------------------------- */

/* X(arguments passed on, type, asm constraint, register, memory): what a load leaves is
 * (register)(memory)bytes */
#define UP_TO_32(X, ...) \
    X(__VA_ARGS__, "u8", "h", uint16_t, uint8_t) \
    X(__VA_ARGS__, "u8", "r", uint32_t, uint8_t) X(__VA_ARGS__, "u8", "l", uint64_t, uint8_t) \
        X(__VA_ARGS__, "s8", "h", uint16_t, int8_t) X(__VA_ARGS__, "s8", "r", uint32_t, int8_t) \
            X(__VA_ARGS__, "s8", "l", uint64_t, int8_t) X(__VA_ARGS__, "b8", "r", uint32_t, uint8_t) \
                X(__VA_ARGS__, "u16", "h", uint16_t, uint16_t) \
                    X(__VA_ARGS__, "u16", "r", uint32_t, uint16_t) \
                        X(__VA_ARGS__, "u16", "l", uint64_t, uint16_t) \
                            X(__VA_ARGS__, "s16", "h", uint16_t, int16_t) \
                                X(__VA_ARGS__, "s16", "r", uint32_t, int16_t) \
                                    X(__VA_ARGS__, "s16", "l", uint64_t, int16_t) \
                                        X(__VA_ARGS__, "b16", "h", uint16_t, uint16_t) \
                                            X(__VA_ARGS__, "u32", "r", uint32_t, uint32_t) \
                                                X(__VA_ARGS__, "u32", "l", uint64_t, uint32_t) \
                                                    X(__VA_ARGS__, "s32", "r", uint32_t, int32_t) \
                                                        X(__VA_ARGS__, "s32", "l", uint64_t, int32_t) \
                                                            X(__VA_ARGS__, "b32", "r", uint32_t, uint32_t) \
                                                                X(__VA_ARGS__, "f32", "f", float, uint32_t)
#define OF_64(X, ...) \
    X(__VA_ARGS__, "u64", "l", uint64_t, uint64_t) \
    X(__VA_ARGS__, "s64", "l", uint64_t, int64_t) X(__VA_ARGS__, "b64", "l", uint64_t, uint64_t) \
        X(__VA_ARGS__, "f64", "d", double, uint64_t)

enum { STRIDE = 16, WINDOW = 34 * STRIDE, MAX_FORMS = 24 * 3 + 20 * 4, POISON = 0xaa };
#define SLOT(l) (((l)*7 + 3) & 31) /* lanes go to their slots in a mixed order */

/* [address + 16], so that the constant takes part */
#define LD1(space, c, type, rc, R, M) \
    { \
        R r; \
        asm volatile("ld" space "." type " %0, [%1+16];" : "=" rc(r) : c(a) : "memory"); \
        out[k++ * 32 + lane] = bits(r); \
    }
#define LD2(space, c, type, rc, R, M) \
    { \
        R r0, r1; \
        asm volatile("ld" space ".v2." type " {%0, %1}, [%2+16];" \
                     : "=" rc(r0), "=" rc(r1) \
                     : c(a) \
                     : "memory"); \
        out[k++ * 32 + lane] = bits(r0), out[k++ * 32 + lane] = bits(r1); \
    }
#define LD4(space, c, type, rc, R, M) \
    { \
        R r0, r1, r2, r3; \
        asm volatile("ld" space ".v4." type " {%0, %1, %2, %3}, [%4+16];" \
                     : "=" rc(r0), "=" rc(r1), "=" rc(r2), "=" rc(r3) \
                     : c(a) \
                     : "memory"); \
        out[k++ * 32 + lane] = bits(r0), out[k++ * 32 + lane] = bits(r1); \
        out[k++ * 32 + lane] = bits(r2), out[k++ * 32 + lane] = bits(r3); \
    }
#define LOADS(space, c) \
    UP_TO_32(LD1, space, c) \
    OF_64(LD1, space, c) UP_TO_32(LD2, space, c) OF_64(LD2, space, c) UP_TO_32(LD4, space, c)

struct Block {
    alignas(16) uint8_t byte[WINDOW];
};
__constant__ Block const_block;

/* setup makes `a`, the address of slot SLOT(lane), out of `in` (device memory) or `block` (a parameter) */
#define LOAD_KERNEL(name, space, c, setup) \
    __global__ void name(const uint8_t *in, const __grid_constant__ Block block, uint64_t *out, \
                         uint32_t lanes) { \
        int lane = threadIdx.x, k = 0, slot = SLOT(lane) * STRIDE; \
        setup; \
        if (lanes >> lane & 1) { \
            LOADS(space, c) \
        } \
    }
#define IN_SHARED \
    __shared__ alignas(16) uint8_t s[WINDOW]; \
    _Pragma("unroll 1") for (int i = lane; i < WINDOW; i += 32) s[i] = in[i]; \
    __syncwarp();
#define IN_LOCAL \
    alignas(16) uint8_t local[WINDOW]; \
    _Pragma("unroll 1") for (int i = 0; i < WINDOW; i++) local[i] = in[i];
LOAD_KERNEL(ld_global, ".global", "l", const uint8_t *a = in + slot)
LOAD_KERNEL(ld_generic, "", "l", const uint8_t *a = in + slot)
LOAD_KERNEL(ld_nc, ".global.nc", "l", const uint8_t *a = in + slot)
LOAD_KERNEL(ld_shared, ".shared", "r", IN_SHARED uint32_t a = (uint32_t)__cvta_generic_to_shared(s) + slot)
LOAD_KERNEL(ld_shared_64, ".shared::cta", "l", IN_SHARED size_t a = __cvta_generic_to_shared(s) + slot)
LOAD_KERNEL(ld_shared_generic, "", "l", IN_SHARED const uint8_t *a = s + slot)
LOAD_KERNEL(ld_local, ".local", "l", IN_LOCAL size_t a = __cvta_generic_to_local(local) + slot)
LOAD_KERNEL(ld_local_generic, "", "l", IN_LOCAL const uint8_t *a = local + slot)
LOAD_KERNEL(ld_const, ".const", "l", size_t a = __cvta_generic_to_constant(const_block.byte) + slot)
LOAD_KERNEL(ld_const_generic, "", "l", const uint8_t *a = const_block.byte + slot)
LOAD_KERNEL(ld_param, ".param", "l", size_t a = __cvta_generic_to_grid_constant(block.byte) + slot)
LOAD_KERNEL(ld_param_generic, "", "l", const uint8_t *a = block.byte + slot)
LOAD_KERNEL(ld_any_generic, "", "l", IN_SHARED IN_LOCAL; /* each lane in another space */
            const uint8_t *a = (lane % 4 == 0   ? in
                                : lane % 4 == 1 ? s
                                : lane % 4 == 2 ? local
                                                : const_block.byte) +
                               slot)
#if HAS_90
LOAD_KERNEL(ld_cluster, ".shared::cluster", "r",
            IN_SHARED uint32_t a = (uint32_t)__cvta_generic_to_shared(s) + slot)
#endif

template <class R, class M>
static void model_load(std::vector<uint64_t> &want, const uint8_t *in, uint32_t lanes, int n) {
    for (int i = 0; i < n; i++)
        for (int l = 0; l < 32; l++) {
            M x;
            memcpy(&x, in + SLOT(l) * STRIDE + 16 + i * sizeof x, sizeof x);
            uint64_t poison = 0;
            memset(&poison, POISON, sizeof poison);
            want.push_back(lanes >> l & 1 ? (uint64_t)(R)x : poison);
        }
}
#define MODEL_LD(n, name, rc, R, M) \
    model_load<std::conditional<std::is_floating_point<R>::value, M, R>::type, M>(want, in, lanes, n);

typedef void (*LoadKernel)(const uint8_t *, Block, uint64_t *, uint32_t);
static void check_loads(const char *name, LoadKernel kernel) {
    for (int round = 0; round < 3; round++) {
        uint32_t lanes = round == 0 ? 0xffffffffu : round == 1 ? 0x80000001u : (uint32_t)mix(fat_seed + 5);
        std::vector<uint8_t> bytes = random_bytes(WINDOW);
        const uint8_t *in = bytes.data();
        std::vector<uint64_t> want;
        UP_TO_32(MODEL_LD, 1)
        OF_64(MODEL_LD, 1) UP_TO_32(MODEL_LD, 2) OF_64(MODEL_LD, 2) UP_TO_32(MODEL_LD, 4) Block block;
        memcpy(block.byte, in, sizeof block);
        cudaMemcpyToSymbol(const_block, in, sizeof block);
        std::vector<uint64_t> poison(want.size());
        memset(poison.data(), POISON, 8 * poison.size());
        Device<uint8_t> device_in(bytes);
        Device<uint64_t> out(poison);
        kernel<<<1, 32>>>(device_in.p, block, out.p, lanes);
        if (!finished()) return;
        std::vector<uint64_t> got = out.host();
        for (size_t i = 0; i < want.size(); i++)
            FA_EXPECT_MSG(got[i] == want[i], "%s: value %zu, lane %zu, lanes %08x: got %llx, want %llx", name,
                          i / 32, i % 32, lanes, (unsigned long long)got[i], (unsigned long long)want[i]);
    }
}
#define TEST_LOADS(name) \
    FA_TEST(name) { check_loads(#name, name); }
TEST_LOADS(ld_global)
TEST_LOADS(ld_generic)
TEST_LOADS(ld_nc)
TEST_LOADS(ld_shared)
TEST_LOADS(ld_shared_64)
TEST_LOADS(ld_shared_generic)
TEST_LOADS(ld_local)
TEST_LOADS(ld_local_generic)
TEST_LOADS(ld_const)
TEST_LOADS(ld_const_generic)
TEST_LOADS(ld_param)
TEST_LOADS(ld_param_generic)
TEST_LOADS(ld_any_generic)
#if HAS_90
TEST_LOADS(ld_cluster)
#endif

__device__ static void from_bits(uint64_t x, uint16_t &r) { r = (uint16_t)x; }
__device__ static void from_bits(uint64_t x, uint32_t &r) { r = (uint32_t)x; }
__device__ static void from_bits(uint64_t x, uint64_t &r) { r = x; }
__device__ static void from_bits(uint64_t x, float &r) { r = __uint_as_float((uint32_t)x); }
__device__ static void from_bits(uint64_t x, double &r) { r = __longlong_as_double((long long)x); }

/* form k of a store puts mix(k * 1000 + i * 100 + lane) into element i */
#define STORED(k, i, lane) mix((uint64_t)(k)*1000 + (i)*100 + (lane))
#define ST_VALUES(R, n) \
    R r[n]; \
    for (int i = 0; i < n; i++) from_bits(STORED(k, i, lane), r[i]);
#define ST_FORM(n, R, code) \
    { \
        ST_VALUES(R, n) \
        begin(); \
        if (lanes >> lane & 1) code; \
        end(k++); \
    }
#define ST1(space, c, type, rc, R, M) \
    ST_FORM(1, R, asm volatile("st" space "." type " [%0+16], %1;" ::c(a), rc(r[0]) : "memory"))
#define ST2(space, c, type, rc, R, M) \
    ST_FORM(2, R, \
            asm volatile("st" space ".v2." type " [%0+16], {%1, %2};" ::c(a), rc(r[0]), rc(r[1]) \
                         : "memory"))
#define ST4(space, c, type, rc, R, M) \
    ST_FORM(4, R, \
            asm volatile("st" space ".v4." type " [%0+16], {%1, %2, %3, %4};" ::c(a), rc(r[0]), rc(r[1]), \
                         rc(r[2]), rc(r[3]) \
                         : "memory"))

/* begin() fills the memory with poison, end(k) copies it to out[k]: WINDOW bytes for each form */
#define STORE_KERNEL(name, space, c, setup, memory, first, step) \
    __global__ void name(uint8_t *scratch, uint8_t *out, uint32_t lanes) { \
        int lane = threadIdx.x, k = 0, slot = SLOT(lane) * STRIDE; \
        setup; \
        auto begin = [&]() { \
            _Pragma("unroll 1") for (int i = first; i < WINDOW; i += step) memory[i] = POISON; \
            __syncwarp(); \
        }; \
        auto end = [&](int form) { \
            __syncwarp(); \
            _Pragma("unroll 1") for (int i = first; i < WINDOW; \
                                     i += step) if (step == 32 || i / STRIDE == SLOT(lane) + 1) \
                out[form * WINDOW + i] = memory[i]; \
            __syncwarp(); \
        }; \
        UP_TO_32(ST1, space, c) \
        OF_64(ST1, space, c) UP_TO_32(ST2, space, c) OF_64(ST2, space, c) UP_TO_32(ST4, space, c) \
    }
#define SHARED_BYTES __shared__ alignas(16) uint8_t s[WINDOW];
#define LOCAL_BYTES alignas(16) uint8_t local[WINDOW];
STORE_KERNEL(st_global, ".global", "l", uint8_t *a = scratch + slot, scratch, lane, 32)
STORE_KERNEL(st_generic, "", "l", uint8_t *a = scratch + slot, scratch, lane, 32)
STORE_KERNEL(st_shared, ".shared", "r",
             SHARED_BYTES uint32_t a = (uint32_t)__cvta_generic_to_shared(s) + slot, s, lane, 32)
STORE_KERNEL(st_shared_generic, "", "l", SHARED_BYTES uint8_t *a = s + slot, s, lane, 32)
STORE_KERNEL(st_local, ".local", "l", LOCAL_BYTES size_t a = __cvta_generic_to_local(local) + slot, local, 0,
             1)
STORE_KERNEL(st_local_generic, "", "l", LOCAL_BYTES uint8_t *a = local + slot, local, 0, 1)
#if HAS_90
STORE_KERNEL(st_cluster, ".shared::cluster", "r",
             SHARED_BYTES uint32_t a = (uint32_t)__cvta_generic_to_shared(s) + slot, s, lane, 32)
#endif

typedef void (*StoreKernel)(uint8_t *, uint8_t *, uint32_t);
static void check_stores(const char *name, StoreKernel kernel) {
    std::vector<int> count, size; /* of each form */
#define MODEL_ST(n, type, rc, R, M) count.push_back(n), size.push_back((int)sizeof(M));
    UP_TO_32(MODEL_ST, 1)
    OF_64(MODEL_ST, 1) UP_TO_32(MODEL_ST, 2) OF_64(MODEL_ST, 2)
        UP_TO_32(MODEL_ST, 4) for (int round = 0; round < 2; round++) {
        uint32_t lanes = round ? (uint32_t)mix(fat_seed + 9) : 0xffffffffu;
        Device<uint8_t> scratch(std::vector<uint8_t>(WINDOW, 0)),
            out(std::vector<uint8_t>(count.size() * WINDOW, POISON));
        kernel<<<1, 32>>>(scratch.p, out.p, lanes);
        if (!finished()) return;
        std::vector<uint8_t> got = out.host(), want(got.size(), POISON);
        for (size_t k = 0; k < count.size(); k++)
            for (int l = 0; l < 32; l++)
                for (int i = 0; i < count[k] && (lanes >> l & 1); i++) {
                    uint64_t x = STORED(k, i, l);
                    memcpy(&want[k * WINDOW + SLOT(l) * STRIDE + 16 + i * size[k]], &x, size[k]);
                }
        for (size_t i = 0; i < want.size(); i++)
            FA_EXPECT_MSG(got[i] == want[i], "%s: form %zu, byte %zu: got %02x, want %02x", name, i / WINDOW,
                          i % WINDOW, got[i], want[i]);
    }
}
#define TEST_STORES(name) \
    FA_TEST(name) { check_stores(#name, name); }
TEST_STORES(st_global)
TEST_STORES(st_generic)
TEST_STORES(st_shared)
TEST_STORES(st_shared_generic)
TEST_STORES(st_local)
TEST_STORES(st_local_generic)
#if HAS_90
TEST_STORES(st_cluster)
#endif

/* ---- modifiers that change nothing here --------------------------------------------------------------- */

#define LOAD_MODIFIERS(X) \
    X(".weak.global") \
    X(".global.ca") X(".global.cg") X(".global.cs") X(".global.lu") X(".global.cv") \
        X(".global.nc.L1::no_allocate") X(".global.L1::evict_normal") X(".global.L1::evict_unchanged") \
            X(".global.L1::evict_first") X(".global.L1::evict_last.L2::128B") \
                X(".global.L1::no_allocate.L2::256B") X(".global.L2::64B") X(".volatile.global") \
                    X(".volatile") X(".relaxed.cta.global") X(".relaxed.gpu.global") X(".relaxed.sys") \
                        X(".acquire.cta.global") X(".acquire.gpu") X(".acquire.sys.global.L1::evict_last")
#define STORE_MODIFIERS(X) \
    X(".weak.global") \
    X(".global.wb") X(".global.cg") X(".global.cs") X(".global.wt") X(".global.L1::no_allocate") \
        X(".global.L1::evict_first") X(".volatile.global") X(".volatile") X(".relaxed.cta.global") \
            X(".relaxed.gpu") X(".relaxed.sys.global") X(".release.cta.global") X(".release.gpu") \
                X(".release.sys.global.L1::evict_last")
#define LDM(modifiers) \
    asm volatile("ld" modifiers ".u32 %0, [%1];" : "=r"(x) : "l"(in + lane) : "memory"); \
    *o = x, o += 32;
#define STM(modifiers) \
    asm volatile("st" modifiers ".u32 [%0], %1;" ::"l"(o), "r"(in[lane] + 1) : "memory"); \
    o += 32;
__global__ void modifiers(const uint32_t *in, uint32_t *out) {
    uint32_t lane = threadIdx.x, x, y, *o = out + lane;
    uint64_t policy;
    LOAD_MODIFIERS(LDM)
    asm volatile("ldu.global.u32 %0, [%1];" : "=r"(x) : "l"(in + lane) : "memory");
    *o = x, o += 32;
    asm volatile("createpolicy.fractional.L2::evict_last.b64 %0, 0.5;" : "=l"(policy));
    asm volatile("ld.global.L2::cache_hint.u32 %0, [%1], %2;"
                 : "=r"(x)
                 : "l"(in + lane), "l"(policy)
                 : "memory");
    *o = x, o += 32;
    asm volatile("createpolicy.range.global.L2::evict_last.L2::evict_first.b64 %0, [%1], 4096, 8192;"
                 : "=l"(policy)
                 : "l"(in));
    asm volatile("ld.global.nc.L1::no_allocate.L2::cache_hint.L2::128B.v2.u32 {%0, %1}, [%2], %3;"
                 : "=r"(x), "=r"(y)
                 : "l"(in + (lane & ~1u)), "l"(policy)
                 : "memory");
    *o = lane & 1 ? y : x, o += 32;
    asm volatile("{ .reg .b32 %unused; ld.global.v2.u32 {_, %0}, [%1]; }"
                 : "=r"(y)
                 : "l"(in + (lane | 1u) - 1)
                 : "memory");
    *o = y, o += 32;
    STORE_MODIFIERS(STM)
    asm volatile("createpolicy.cvt.L2.b64 %0, 0x10000000;" : "=l"(policy));
    asm volatile("st.global.L2::cache_hint.u32 [%0], %1, %2;" ::"l"(o), "r"(in[lane] + 1), "l"(policy)
                 : "memory");
    o += 32;
    asm volatile("prefetch.global.L1 [%0]; prefetch.global.L2 [%0]; prefetch.L2 [%0];" ::"l"(in) : "memory");
    asm volatile("prefetch.global.L2::evict_last [%0]; prefetchu.L1 [%0];" ::"l"(in + 1000000)
                 : "memory"); /* not mapped */
    asm volatile("applypriority.global.L2::evict_normal [%0], 128;" ::"l"(in) : "memory");
}
#define ONE(x) +1
FA_TEST(modifiers) {
    enum { LOADED = LOAD_MODIFIERS(ONE) + 4, STORES = STORE_MODIFIERS(ONE) + 1 };
    std::vector<uint32_t> in(32);
    for (int l = 0; l < 32; l++) in[l] = (uint32_t)mix(fat_seed * 100 + l);
    Device<uint32_t> device_in(in), out(std::vector<uint32_t>((LOADED + STORES) * 32, 0));
    modifiers<<<1, 32>>>(device_in.p, out.p);
    FA_REQUIRE(finished());
    std::vector<uint32_t> got = out.host();
    for (int i = 0; i < LOADED + STORES; i++)
        for (int l = 0; l < 32; l++) {
            uint32_t want = i >= LOADED ? in[l] + 1 : i == LOADED - 1 ? in[l | 1] : in[l];
            FA_EXPECT_MSG(got[i * 32 + l] == want, "form %d, lane %d: got %x, want %x", i, l, got[i * 32 + l],
                          want);
        }
}

/* Addresses in two parts, immediates as values, sinks, 16-bit results of stores. */
__device__ uint32_t table[64];
__global__ void operands(uint32_t *out) {
    __shared__ uint32_t s[32];
    uint32_t lane = threadIdx.x, x;
    asm volatile("st.global.u32 [table+12], 77;" ::: "memory");
    asm volatile("st.global.v2.f32 [table+16], {0f3f800000, 2.5};" ::: "memory");
    asm volatile("st.global.u64 [table+24], 0x123456789abcdef0;" ::: "memory");
    asm volatile("st.global.u8 [table+32], -1;" ::: "memory");
    s[lane] = lane * 3;
    __syncwarp();
    asm volatile("ld.shared.u32 %0, [%1+-4];"
                 : "=r"(x)
                 : "r"((uint32_t)__cvta_generic_to_shared(s + lane) + (lane ? 0 : 4))
                 : "memory");
    out[lane] = x;
    uint32_t local[32];
    for (int i = 0; i < 32; i++) local[i] = lane * 100 + i;
    asm volatile("ld.local.u32 %0, [%1];" : "=r"(x) : "l"(__cvta_generic_to_local(local + lane)) : "memory");
    out[33 + lane] = x; /* side by side, but each in a memory of its own */
    if (lane) return;
    asm volatile(
        "{ .reg .b16 h; st.global.u8 [table+200], 0x80; ld.global.s8 h, [table+200]; mov.b32 %0, {h, h}; }"
        : "=r"(x)::"memory");
    out[32] = x; /* 16 bits are extended, not more */
}
FA_TEST(operands) {
    Device<uint32_t> out(std::vector<uint32_t>(65, 0));
    uint32_t got[64] = {0}, want[64] = {0};
    cudaMemcpyToSymbol(table, got, sizeof got);
    operands<<<1, 32>>>(out.p);
    FA_REQUIRE(finished());
    cudaMemcpyFromSymbol(got, table, sizeof got);
    want[3] = 77, want[4] = 0x3f800000, want[5] = 0x40200000, want[6] = 0x9abcdef0, want[7] = 0x12345678,
    want[8] = 0xff;
    want[50] = 0x80;
    for (int i = 0; i < 64; i++)
        FA_EXPECT_MSG(got[i] == want[i], "word %d: got %x, want %x", i, got[i], want[i]);
    std::vector<uint32_t> shifted = out.host();
    for (uint32_t l = 0; l < 32; l++) FA_EXPECT(shifted[l] == (l ? l - 1 : 0) * 3);
    for (uint32_t l = 0; l < 32; l++) FA_EXPECT(shifted[33 + l] == l * 101);
    FA_EXPECT(shifted[32] == 0xff80ff80);
}

/* ---- atom, red ---------------------------------------------------------------------------------------- */

/* 64 threads work on 4 words or vectors. Whatever the order, each update takes a word from one value to the
 * next: the values before all updates and the last one are, as a multiset, the first one and the values
 * after all updates. */
enum { THREADS = 64, WORDS = 4, PLACES = 5 };

#if HAS_90
#define CLUSTER ".shared::cluster"
#else
#define CLUSTER ".shared"
#endif
#define AT_PLACES(X, ...) \
    switch (place) { \
    case 0: X(".global", "l", words + i, __VA_ARGS__); break; \
    case 1: X("", "l", words + i, __VA_ARGS__); break; \
    case 2: X(".shared", "r", (uint32_t)__cvta_generic_to_shared(s + i), __VA_ARGS__); break; \
    case 3: X("", "l", s + i, __VA_ARGS__); break; \
    case 4: X(CLUSTER, "r", (uint32_t)__cvta_generic_to_shared(s + i), __VA_ARGS__); break; \
    }
#define ATOM(space, c, a, op, rc) \
    asm volatile("atom" space "." op " %0, [%1], %2;" : "=" rc(old) : c(a), rc(y) : "memory")
#define CAS(space, c, a, op, rc) \
    asm volatile("atom" space "." op " %0, [%1], %2, %3;" : "=" rc(old) : c(a), rc(y), rc(z) : "memory")
#define RED(space, c, a, op, rc) asm volatile("red" space "." op " [%0], %1;" ::c(a), rc(y) : "memory")
#define ATOMIC_KERNEL(name, X, op, rc, T) \
    __global__ void name(int place, T *words, const T *ys, T *olds) { \
        __shared__ T s[WORDS]; \
        int t = threadIdx.x, i = t % WORDS; \
        T y = ys[t], old = y; \
        [[maybe_unused]] T z = ys[t ^ 1]; \
        if (t < WORDS) s[t] = words[t]; \
        __syncthreads(); \
        AT_PLACES(X, op, rc) \
        olds[t] = old; \
        __syncthreads(); \
        if (t < WORDS && place >= 2) words[t] = s[t]; \
    }

static uint16_t add_f16(uint16_t x, uint16_t y) {
    __half_raw a, b;
    a.x = x, b.x = y;
    return ((__half_raw)__float2half_rn(__half2float(__half(a)) + __half2float(__half(b)))).x;
}
static uint16_t add_bf16(uint16_t x, uint16_t y) {
    __nv_bfloat16_raw a, b;
    a.x = x, b.x = y;
    return ((__nv_bfloat16_raw)__float2bfloat16_rn(__bfloat162float(__nv_bfloat16(a)) +
                                                   __bfloat162float(__nv_bfloat16(b))))
        .x;
}
static uint32_t pair(uint32_t x, uint32_t y, uint16_t (*f)(uint16_t, uint16_t)) {
    return (uint32_t)f((uint16_t)x, (uint16_t)y) | (uint32_t)f((uint16_t)(x >> 16), (uint16_t)(y >> 16))
                                                       << 16;
}
/* X(name, operation and type, register, C type, operand of thread t, new value); the last value of a word
 * does not depend on the order of the updates */
#define ANY ((T)mix(t * 3 + 1))
#define SMALL ((T)(mix(t) % 7))
#define ORDERLESS(X) \
    X(add_u32, "add.u32", "r", uint32_t, ANY, x + y) \
    X(add_s32, "add.s32", "r", uint32_t, ANY, x + y) X(add_u64, "add.u64", "l", uint64_t, ANY, x + y) X( \
        and_b32, "and.b32", "r", uint32_t, ANY | SMALL << 9, \
        x & y) X(and_b64, "and.b64", "l", uint64_t, ANY | SMALL << 39, \
                 x & y) X(or_b32, "or.b32", "r", uint32_t, ANY &ANY >> 3, \
                          x | y) X(or_b64, "or.b64", "l", uint64_t, ANY &ANY >> 3, x | y) \
        X(xor_b32, "xor.b32", "r", uint32_t, ANY, x ^ y) X(xor_b64, "xor.b64", "l", uint64_t, ANY, x ^ y) \
            X(inc_u32, "inc.u32", "r", uint32_t, 5, x >= y ? 0 : x + 1) \
                X(dec_u32, "dec.u32", "r", uint32_t, 5, x == 0 || x > y ? y : x - 1) \
                    X(min_u32, "min.u32", "r", uint32_t, ANY, x < y ? x : y) \
                        X(max_u32, "max.u32", "r", uint32_t, ANY, x > y ? x : y) \
                            X(min_s32, "min.s32", "r", uint32_t, ANY, (int32_t)x < (int32_t)y ? x : y) \
                                X(max_s32, "max.s32", "r", uint32_t, ANY, (int32_t)x > (int32_t)y ? x : y) \
                                    X(min_u64, "min.u64", "l", uint64_t, ANY, x < y ? x : y) \
                                        X(max_u64, "max.u64", "l", uint64_t, ANY, x > y ? x : y) \
                                            X(min_s64, "min.s64", "l", uint64_t, ANY, \
                                              (int64_t)x < (int64_t)y ? x : y) \
                                                X(max_s64, "max.s64", "l", uint64_t, ANY, \
                                                  (int64_t)x > (int64_t)y ? x : y) \
                                                    X(add_f32, "add.f32", "f", float, SMALL / 2, x + y) \
                                                        X(add_f64, "add.f64", "d", double, SMALL / 2, x + y)
/* the last value depends on the order */
#define ORDERED(X) \
    X(exch_b32, "exch.b32", "r", uint32_t, ANY, y) \
    X(exch_b64, "exch.b64", "l", uint64_t, ANY, y) \
        X(add_f16, "add.noftz.f16", "h", uint16_t, ANY, add_f16(x, y)) \
            X(add_bf16, "add.noftz.bf16", "h", uint16_t, ANY, add_bf16(x, y)) \
                X(add_f16x2, "add.noftz.f16x2", "r", uint32_t, ANY, pair(x, y, add_f16)) \
                    X(add_bf16x2, "add.noftz.bf16x2", "r", uint32_t, ANY, pair(x, y, add_bf16))
#define COMPARES(X) \
    X(cas_b16, "cas.b16", "h", uint16_t, SMALL, x == y ? z : x) \
    X(cas_b32, "cas.b32", "r", uint32_t, SMALL, x == y ? z : x) \
        X(cas_b64, "cas.b64", "l", uint64_t, SMALL, x == y ? z : x)

#define DEFINE_BOTH(name, op, rc, T, y, model) \
    ATOMIC_KERNEL(atom_##name, ATOM, op, rc, T) ATOMIC_KERNEL(red_##name, RED, op, rc, T)
#define DEFINE_ATOM(name, op, rc, T, y, model) ATOMIC_KERNEL(atom_##name, ATOM, op, rc, T)
#define DEFINE_CAS(name, op, rc, T, y, model) ATOMIC_KERNEL(atom_##name, CAS, op, rc, T)
ORDERLESS(DEFINE_BOTH)
ORDERED(DEFINE_ATOM)
COMPARES(DEFINE_CAS)

/* vector elements per word: n. ordered: the last value is not known. */
template <class T, class Y, class F>
static void check_atomic(const char *name, void (*kernel)(int, T *, const T *, T *), int place, int n,
                         bool returns, bool ordered, Y operand, F model) {
    std::vector<T> first(WORDS * n), y(THREADS * n);
    for (size_t i = 0; i < first.size(); i++)
        first[i] = operand((int)(i + 1000 + fat_seed)) + (T)(n == 1 ? 4 * i : 0);
    for (size_t i = 0; i < y.size(); i++) y[i] = operand((int)(i + fat_seed * 10000));
    Device<T> words(first), ys(y), olds(y);
    kernel<<<1, THREADS>>>(place, words.p, ys.p, olds.p);
    if (!finished()) return;
    std::vector<T> last = words.host(), old = olds.host();
    for (int i = 0; i < WORDS * n; i++) {
        T fold = first[i];
        std::vector<T> before, after;
        before.push_back(last[i]), after.push_back(first[i]);
        for (int t = i / n; t < THREADS; t += WORDS) {
            T x = old[t * n + i % n], yt = y[t * n + i % n], zt = y[(t ^ 1) * n + i % n];
            before.push_back(x), after.push_back((T)model(x, yt, zt));
            fold = (T)model(fold, yt, zt);
        }
        std::sort(before.begin(), before.end()), std::sort(after.begin(), after.end());
        if (returns)
            FA_EXPECT_MSG(before == after, "%s, place %d, word %d: the returned values do not fit", name,
                          place, i);
        if (!ordered) FA_EXPECT_MSG(last[i] == fold, "%s, place %d, word %d: wrong result", name, place, i);
    }
}
#define MODEL(T, y_, model) \
    [](int t) -> T { return (void)t, (T)(y_); }, \
        [](T x, T y, T z) -> T { return (void)x, (void)y, (void)z, model; }
#define CHECK_BOTH(name, op, rc, T_, y_, model) \
    { \
        typedef T_ T; \
        check_atomic<T>("atom " op, atom_##name, place, 1, true, false, MODEL(T, y_, model)); \
        check_atomic<T>("red " op, red_##name, place, 1, false, false, MODEL(T, y_, model)); \
    }
#define CHECK_ATOM(name, op, rc, T_, y_, model) \
    { \
        typedef T_ T; \
        check_atomic<T>("atom " op, atom_##name, place, 1, true, true, MODEL(T, y_, model)); \
    }
FA_TEST(atomics) {
    for (int place = 0; place < PLACES; place++) {
        ORDERLESS(CHECK_BOTH)
        ORDERED(CHECK_ATOM)
        COMPARES(CHECK_ATOM)
    }
}

/* Vectors, in device memory alone. */
#if HAS_90
/* Integers that order halves as their values are ordered (-0 before +0). */
static int half_rank(uint16_t x) { return x & 0x8000 ? -1 - (x & 0x7fff) : x; }
static uint16_t min_half(uint16_t x, uint16_t y, int inf) {
    if ((x & 0x7fff) > inf && (y & 0x7fff) > inf) return 0x7fff;
    if ((x & 0x7fff) > inf) return y;
    return (y & 0x7fff) > inf || half_rank(x) < half_rank(y) ? x : y;
}
static uint16_t max_half(uint16_t x, uint16_t y, int inf) {
    if ((x & 0x7fff) > inf && (y & 0x7fff) > inf) return 0x7fff;
    if ((x & 0x7fff) > inf) return y;
    return (y & 0x7fff) > inf || half_rank(x) > half_rank(y) ? x : y;
}
static uint16_t min_f16(uint16_t x, uint16_t y) { return min_half(x, y, 0x7c00); }
static uint16_t max_f16(uint16_t x, uint16_t y) { return max_half(x, y, 0x7c00); }
static uint16_t min_bf16(uint16_t x, uint16_t y) { return min_half(x, y, 0x7f80); }
static uint16_t max_bf16(uint16_t x, uint16_t y) { return max_half(x, y, 0x7f80); }
static uint32_t add_f32(uint32_t x, uint32_t y) {
    float a, b;
    memcpy(&a, &x, 4), memcpy(&b, &y, 4);
    a += b;
    memcpy(&x, &a, 4);
    return x;
}
#define VECTOR_KERNEL(name, op, rc, T, n, list_d, list_y, list_red, outs, ins) \
    __global__ void atom_##name(int place, T *words, const T *ys, T *olds) { \
        int t = threadIdx.x; \
        T y[n], old[n], *at = words + t % WORDS * n; \
        for (int i = 0; i < n; i++) y[i] = ys[t * n + i]; \
        if (place) \
            asm volatile("atom." op " " list_d ", [%" #n "], " list_y ";" \
                         : outs(rc) \
                         : "l"(at), ins(rc) \
                         : "memory"); \
        else \
            asm volatile("atom.global." op " " list_d ", [%" #n "], " list_y ";" \
                         : outs(rc) \
                         : "l"(at), ins(rc) \
                         : "memory"); \
        for (int i = 0; i < n; i++) olds[t * n + i] = old[i]; \
    } \
    __global__ void red_##name(int place, T *words, const T *ys, T *olds) { \
        int t = threadIdx.x; \
        T y[n], *at = words + t % WORDS * n; \
        for (int i = 0; i < n; i++) y[i] = ys[t * n + i]; \
        if (place) \
            asm volatile("red." op " [%0], " list_red ";" ::"l"(at), ins(rc) : "memory"); \
        else \
            asm volatile("red.relaxed.gpu.global." op " [%0], " list_red ";" ::"l"(at), ins(rc) : "memory"); \
    }
#define OUT2(rc) "=" rc(old[0]), "=" rc(old[1])
#define OUT4(rc) OUT2(rc), "=" rc(old[2]), "=" rc(old[3])
#define OUT8(rc) OUT4(rc), "=" rc(old[4]), "=" rc(old[5]), "=" rc(old[6]), "=" rc(old[7])
#define IN2(rc) rc(y[0]), rc(y[1])
#define IN4(rc) IN2(rc), rc(y[2]), rc(y[3])
#define IN8(rc) IN4(rc), rc(y[4]), rc(y[5]), rc(y[6]), rc(y[7])
#define DEFINE_2(name, op, type, rc, T, n, model) \
    VECTOR_KERNEL(name, op ".v2." type, rc, T, 2, "{%0, %1}", "{%3, %4}", "{%1, %2}", OUT2, IN2)
#define DEFINE_4(name, op, type, rc, T, n, model) \
    VECTOR_KERNEL(name, op ".v4." type, rc, T, 4, "{%0, %1, %2, %3}", "{%5, %6, %7, %8}", \
                  "{%1, %2, %3, %4}", OUT4, IN4)
#define DEFINE_8(name, op, type, rc, T, n, model) \
    VECTOR_KERNEL(name, op ".v8." type, rc, T, 8, "{%0, %1, %2, %3, %4, %5, %6, %7}", \
                  "{%9, %10, %11, %12, %13, %14, %15, %16}", "{%1, %2, %3, %4, %5, %6, %7, %8}", OUT8, IN8)
#define HALVES(X, n) \
    X(add_v##n##_f16, "add.noftz", "f16", "h", uint16_t, n, add_f16(x, y)) \
    X(add_v##n##_bf16, "add.noftz", "bf16", "h", uint16_t, n, add_bf16(x, y)) \
    X(min_v##n##_f16, "min.noftz", "f16", "h", uint16_t, n, min_f16(x, y)) \
    X(max_v##n##_f16, "max.noftz", "f16", "h", uint16_t, n, max_f16(x, y)) \
    X(min_v##n##_bf16, "min.noftz", "bf16", "h", uint16_t, n, min_bf16(x, y)) \
    X(max_v##n##_bf16, "max.noftz", "bf16", "h", uint16_t, n, max_bf16(x, y))
#define PAIRS(X, n) \
    X(add_v##n##_f16x2, "add.noftz", "f16x2", "r", uint32_t, n, pair(x, y, add_f16)) \
    X(add_v##n##_bf16x2, "add.noftz", "bf16x2", "r", uint32_t, n, pair(x, y, add_bf16)) \
    X(min_v##n##_f16x2, "min.noftz", "f16x2", "r", uint32_t, n, pair(x, y, min_f16)) \
    X(max_v##n##_f16x2, "max.noftz", "f16x2", "r", uint32_t, n, pair(x, y, max_f16)) \
    X(min_v##n##_bf16x2, "min.noftz", "bf16x2", "r", uint32_t, n, pair(x, y, min_bf16)) \
    X(max_v##n##_bf16x2, "max.noftz", "bf16x2", "r", uint32_t, n, pair(x, y, max_bf16))
#define FLOATS(X, n) X(add_v##n##_f32, "add", "f32", "r", uint32_t, n, add_f32(x, y))
FLOATS(DEFINE_2, 2)
FLOATS(DEFINE_4, 4) HALVES(DEFINE_2, 2) HALVES(DEFINE_4, 4) HALVES(DEFINE_8, 8) PAIRS(DEFINE_2, 2)
    PAIRS(DEFINE_4, 4)

    /* Of sums: small whole numbers, exact in every order. Else anything: NaNs, both zeros. */
    static uint64_t half_operand(int t, const char *op, const char *type, int place) {
    static const uint64_t zeros[2][4] = {{0, 0x80008000, 0x00010001, 0x7fff7fff},
                                         {0, 0x80008000, 0x80018001, 0xffffffff}};
    if (op[0] == 'm')
        return place ? mix((uint64_t)t) | (mix((uint64_t)t + 1) % 2 ? 0x7f817f81 : 0)
                     : zeros[t & 1][mix((uint64_t)t) % 4];
    float f = (float)(mix((uint64_t)t) % 9) - 4;
    uint32_t u;
    memcpy(&u, &f, 4);
    if (!strcmp(type, "f32")) return u;
    uint32_t half = type[0] == 'b' ? u >> 16 : ((__half_raw)__float2half_rn(f)).x;
    return strstr(type, "x2") ? half | (half ^ (half & 0x7fff ? 0x8000u : 0)) << 16 : half;
}
#define CHECK_VECTOR(name, op, type, rc, T_, n, model) \
    { \
        typedef T_ T; \
        auto y = [place](int t) -> T { return (T)half_operand(t, op, type, place); }; \
        auto f = [](T x, T y, T) -> T { return model; }; \
        check_atomic<T>("atom " op " " type, atom_##name, place, n, true, false, y, f); \
        check_atomic<T>("red " op " " type, red_##name, place, n, false, false, y, f); \
    }
FA_TEST(vector_atomics) {
    for (int place = 0; place < 2; place++) {
        FLOATS(CHECK_VECTOR, 2)
        FLOATS(CHECK_VECTOR, 4) HALVES(CHECK_VECTOR, 2) HALVES(CHECK_VECTOR, 4) HALVES(CHECK_VECTOR, 8)
            PAIRS(CHECK_VECTOR, 2) PAIRS(CHECK_VECTOR, 4)
    }
}
#endif

/* In device memory add.f32 flushes subnormals to zero, in shared memory it does not (PTX ISA, atom). */
__global__ void subnormal(float *words, float *olds, const float *ys) {
    __shared__ float s[4];
    int t = threadIdx.x;
    s[t] = words[t];
    __syncwarp(0xf);
    asm volatile("atom.global.add.f32 %0, [%1], %2;" : "=f"(olds[t]) : "l"(words + t), "f"(ys[t]) : "memory");
    asm volatile("atom.shared.add.f32 %0, [%1], %2;"
                 : "=f"(olds[t + 4])
                 : "r"((uint32_t)__cvta_generic_to_shared(s + t)), "f"(ys[t])
                 : "memory");
    words[t + 4] = s[t];
}
FA_TEST(subnormal_sums) {
    float tiny = 0x1p-140f, least = 0x1p-126f;
    std::vector<float> first = {tiny, 1, -tiny, least, 0, 0, 0, 0}, y = {tiny, tiny, -tiny, -0x1.8p-126f};
    Device<float> words(first), olds(first), ys(y);
    subnormal<<<1, 4>>>(words.p, olds.p, ys.p);
    FA_REQUIRE(finished());
    std::vector<float> got = words.host();
    float want[] = {0, 1, -0.f, -0.f, 2 * tiny, 1, -2 * tiny, -0x1p-127f};
    for (int i = 0; i < 8; i++)
        FA_EXPECT_MSG(!memcmp(&got[i], &want[i], 4), "word %d: got %a, want %a", i, got[i], want[i]);
}

/* Lanes of an atomic come in any order; the machine takes them in turn, and in a random order where the
 * schedule is random. */
__global__ void last_lane(uint32_t *word) { atomicExch(word, threadIdx.x); }
FA_TEST(order_of_lanes) {
    const char *schedule = getenv("FA_PTX_SCHEDULE");
    Device<uint32_t> word(std::vector<uint32_t>(1, 0));
    int others = 0;
    for (int i = 0; i < 20; i++) {
        last_lane<<<1, 32>>>(word.p);
        FA_REQUIRE(finished());
        others += word.host()[0] != 31;
    }
    FA_EXPECT(schedule && atoi(schedule) > 0 ? others > 0 : others == 0);
}

__global__ void atomic_modifiers(uint32_t *word, uint32_t *out) {
    uint32_t x, sum = 0;
    uint64_t policy = 0;
#define PLAIN_ATOM(modifiers) \
    asm volatile("atom" modifiers ".add.u32 %0, [%1], 1;" : "=r"(x) : "l"(word) : "memory"); \
    sum += x;
#define PLAIN_RED(modifiers) asm volatile("red" modifiers ".add.u32 [%0], 1;" ::"l"(word) : "memory");
    PLAIN_ATOM(".relaxed.cta.global")
    PLAIN_ATOM(".relaxed.sys") PLAIN_ATOM(".acquire.gpu.global") PLAIN_ATOM(".release.sys.global")
        PLAIN_ATOM(".acq_rel.gpu") PLAIN_ATOM(".gpu.global") PLAIN_ATOM(".cta")
            PLAIN_RED(".relaxed.cta.global") PLAIN_RED(".release.gpu") PLAIN_RED(".sys.global") asm volatile(
                "atom.acq_rel.cta.global.add.L2::cache_hint.u32 %0, [%1], 1, %2;"
                : "=r"(x)
                : "l"(word), "l"(policy)
                : "memory");
    asm volatile("red.gpu.global.add.L2::cache_hint.u32 [%0], 1, %1;" ::"l"(word), "l"(policy) : "memory");
    atomicAdd(out, sum + x);
}
FA_TEST(atomic_modifiers) {
    Device<uint32_t> word(std::vector<uint32_t>(1, 0)), out(std::vector<uint32_t>(1, 0));
    atomic_modifiers<<<1, 1>>>(word.p, out.p);
    FA_REQUIRE(finished());
    FA_EXPECT(word.host()[0] == 12);
    FA_EXPECT(out.host()[0] == 0 + 1 + 2 + 3 + 4 + 5 + 6 + 10);
    atomic_modifiers<<<5, 96>>>(word.p, out.p);
    FA_REQUIRE(finished());
    FA_EXPECT(word.host()[0] == 12 * (1 + 5 * 96));
}

/* ---- address conversions ------------------------------------------------------------------------------ */

#define IS(space, i) \
    asm("{ .reg .pred p; isspacep." space " p, %1; selp.b32 %0, 1, 0, p; }" : "=r"(x) : "l"(pointer)); \
    mask |= x << i;
enum { GLOBAL_BIT, SHARED_BIT, LOCAL_BIT, CONST_BIT, PARAM_BIT, CTA_BIT };
__device__ static uint32_t spaces_of(const void *pointer) {
    uint32_t x, mask = 0;
    IS("global", GLOBAL_BIT)
    IS("shared", SHARED_BIT) IS("local", LOCAL_BIT) IS("const", CONST_BIT) IS("param", PARAM_BIT)
        IS("shared::cta", CTA_BIT) return mask;
}
__global__ void addresses(const uint8_t *in, const __grid_constant__ Block block, uint64_t *out) {
    __shared__ uint32_t s[8];
    uint32_t local[8], x;
    uint64_t y;
    for (int i = 0; i < 8; i++) local[i] = in[i], s[i] = in[i];
    out[0] = spaces_of(in), out[1] = spaces_of(s), out[2] = spaces_of(local),
    out[3] = spaces_of(const_block.byte);
    out[4] = spaces_of(block.byte), out[5] = spaces_of(nullptr);
    /* there and back */
    asm volatile("cvta.to.shared.u64 %0, %1; cvta.shared.u64 %0, %0;" : "=l"(y) : "l"(s + 3));
    out[6] = y - (uint64_t)s;
    asm volatile("cvta.to.local.u64 %0, %1; cvta.local.u64 %0, %0;" : "=l"(y) : "l"(local + 3));
    out[7] = y - (uint64_t)local;
    asm volatile("cvta.to.global.u64 %0, %1; cvta.global.u64 %0, %0;" : "=l"(y) : "l"(in + 5));
    out[8] = y - (uint64_t)in;
    asm volatile("cvta.to.const.u64 %0, %1; cvta.const.u64 %0, %0;" : "=l"(y) : "l"(const_block.byte + 5));
    out[9] = y - (uint64_t)const_block.byte;
    asm volatile("cvta.to.param.u64 %0, %1; cvta.param.u64 %0, %0;" : "=l"(y) : "l"(block.byte + 7));
    out[10] = y - (uint64_t)block.byte;
    asm volatile("{ .reg .b64 a; .shared .align 8 .b8 buffer[16]; cvta.shared.u64 a, buffer+8; st.u32 [a], "
                 "5; ld.shared.u32 %0, [buffer+8]; }"
                 : "=r"(x)::"memory");
    out[11] = x;
    out[12] = local[in[0] & 7];
}
FA_TEST(addresses) {
    std::vector<uint8_t> in = random_bytes(64);
    Device<uint8_t> device_in(in);
    Device<uint64_t> out(std::vector<uint64_t>(13, 99));
    addresses<<<1, 1>>>(device_in.p, Block(), out.p);
    FA_REQUIRE(finished());
    uint64_t want[] = {1 << GLOBAL_BIT,
                       1 << SHARED_BIT | 1 << CTA_BIT,
                       1 << LOCAL_BIT,
                       1 << GLOBAL_BIT | 1 << CONST_BIT,
                       1 << GLOBAL_BIT | 1 << PARAM_BIT,
                       1 << GLOBAL_BIT,
                       12,
                       12,
                       5,
                       5,
                       7,
                       5,
                       in[in[0] & 7]};
    std::vector<uint64_t> got = out.host();
    for (int i = 0; i < 13; i++)
        FA_EXPECT_MSG(got[i] == want[i], "%d: got %llx, want %llx", i, (unsigned long long)got[i],
                      (unsigned long long)want[i]);
}

/* ---- clusters: distributed shared memory -------------------------------------------------------------- */

#if HAS_90
namespace cg = cooperative_groups;
/* All CTAs read from and write to all others, in every way to name them. out: [cta][rank][thread][4] */
__device__ static void cluster_body(uint32_t *out, int size) {
    __shared__ alignas(16) uint32_t mine[4 * 32], inbox[4][32];
    __shared__ uint32_t counter[2];
    cg::cluster_group cluster = cg::this_cluster();
    uint32_t t = threadIdx.x, me = cluster.block_rank(), rank_at;
    for (int i = 0; i < 4; i++) mine[t * 4 + i] = blockIdx.x * 1000 + t * 4 + i;
    if (t < 2) counter[t] = 0;
    cluster.sync();
    for (uint32_t r = 0; r < (uint32_t)size; r++) {
        uint32_t *o = out + ((blockIdx.x * size + r) * 32 + t) * 4,
                 a = (uint32_t)__cvta_generic_to_shared(mine + t * 4), b, x[4];
        uint64_t generic;
        asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(b) : "r"(a), "r"(r));
        asm volatile("mapa.u64 %0, %1, %2;" : "=l"(generic) : "l"(mine + t * 4), "r"(r));
        asm volatile("ld.shared::cluster.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                     : "r"(b)
                     : "memory");
        o[0] = x[0] + x[1] + x[2] + x[3];
        asm volatile("ld.v2.u32 {%0, %1}, [%2+8];" : "=r"(x[0]), "=r"(x[1]) : "l"(generic) : "memory");
        o[1] = x[1];
        o[2] = cluster.map_shared_rank(mine, r)[t * 4 + 1];
        asm volatile("getctarank.shared::cluster.u32 %0, %1;" : "=r"(x[0]) : "r"(b));
        asm volatile("getctarank.u64 %0, %1;" : "=r"(x[1]) : "l"(generic));
        asm volatile("getctarank.u64 %0, %1;" : "=r"(rank_at) : "l"(mine));
        asm volatile("{ .reg .pred p; isspacep.shared::cluster p, %1; selp.b32 %0, 1, 0, p; }"
                     : "=r"(x[2])
                     : "l"(generic));
        asm volatile("{ .reg .pred p; isspacep.shared::cta p, %1; @p add.u32 %0, %0, 2; }"
                     : "+r"(x[2])
                     : "l"(generic));
        o[3] = x[0] | x[1] << 8 | rank_at << 16 | x[2] << 24;
        /* my word in the inbox of r; two counters there */
        asm volatile("mapa.shared::cluster.u32 %0, %1, %2;"
                     : "=r"(b)
                     : "r"((uint32_t)__cvta_generic_to_shared(&inbox[me][t])), "r"(r));
        asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(b), "r"(me * 100 + t + 7 * r) : "memory");
        asm volatile("mapa.shared::cluster.u32 %0, %1, %2;"
                     : "=r"(b)
                     : "r"((uint32_t)__cvta_generic_to_shared(counter)), "r"(r));
        asm volatile("red.shared::cluster.add.u32 [%0], %1;" ::"r"(b), "r"(t) : "memory");
        asm volatile("atom.shared::cluster.max.u32 %0, [%1+4], %2;"
                     : "=r"(x[0])
                     : "r"(b), "r"(me * 32 + t)
                     : "memory");
        atomicAdd(cluster.map_shared_rank(counter, r), 1000);
    }
    cluster.sync();
    for (int r = 0; r < size; r++) out[((blockIdx.x * size + r) * 32 + t) * 4] += inbox[r][t] << 16;
    if (t == 0)
        out[blockIdx.x * size * 128 + 1] += counter[0] << 12,
            out[blockIdx.x * size * 128 + 2] += counter[1] << 16;
}
__global__ void __cluster_dims__(2) cluster_of_2(uint32_t *out) { cluster_body(out, 2); }
__global__ void __cluster_dims__(4) cluster_of_4(uint32_t *out) { cluster_body(out, 4); }
FA_TEST(cluster_memory) {
    for (uint32_t size = 2; size <= 4; size += 2) {
        uint32_t blocks = 2 * size;
        Device<uint32_t> out(std::vector<uint32_t>(blocks * size * 128, 0));
        if (size == 2)
            cluster_of_2<<<blocks, 32>>>(out.p);
        else
            cluster_of_4<<<blocks, 32>>>(out.p);
        FA_REQUIRE(finished());
        std::vector<uint32_t> got = out.host();
        for (uint32_t b = 0; b < blocks; b++)
            for (uint32_t r = 0; r < size; r++)
                for (uint32_t t = 0; t < 32; t++) {
                    uint32_t me = b % size, from = (b - me + r) * 1000 + t * 4,
                             *g = &got[((b * size + r) * 32 + t) * 4];
                    uint32_t want[] = {4 * from + 6 + ((r * 100 + t + 7 * me) << 16), from + 3, from + 1,
                                       r | r << 8 | me << 16 | 1 << 24};
                    if (t == 0 && r == 0)
                        want[1] += size * (31 * 16 + 32 * 1000) << 12, want[2] += (size * 32 - 1) << 16;
                    for (int i = 0; i < 4; i++)
                        FA_EXPECT_MSG(g[i] == want[i],
                                      "cluster of %u, block %u, rank %u, thread %u, word %d: got %x, want %x",
                                      size, b, r, t, i, g[i], want[i]);
                }
    }
}

/* Data and a flag that another CTA writes; one word has one name, whoever uses it. */
__global__ void __cluster_dims__(2) cluster_handover(uint32_t *out) {
    __shared__ uint32_t data[32], flag;
    cg::cluster_group cluster = cg::this_cluster();
    uint32_t t = threadIdx.x, a, seen = 0;
    if (t == 0) flag = 0;
    cluster.sync();
    if (cluster.block_rank() == 1) {
        cluster.map_shared_rank(data, 0)[t] = 50 + t;
        __syncwarp();
        asm volatile("mapa.shared::cluster.u32 %0, %1, 0;"
                     : "=r"(a)
                     : "r"((uint32_t)__cvta_generic_to_shared(&flag)));
        if (t == 0) asm volatile("st.release.cluster.shared::cluster.u32 [%0], 1;" ::"r"(a) : "memory");
    } else {
        while (!seen) asm volatile("ld.acquire.cluster.u32 %0, [%1];" : "=r"(seen) : "l"(&flag) : "memory");
        out[t] = data[t];
    }
    cluster.sync();
}
FA_TEST(cluster_handovers) {
    Device<uint32_t> out(std::vector<uint32_t>(32, 0));
    cluster_handover<<<2, 32>>>(out.p);
    FA_REQUIRE(finished());
    for (uint32_t i = 0; i < 32; i++) FA_EXPECT(out.host()[i] == 50 + i);
}
#endif

/* ---- order between CTAs: every pattern that PTX allows must pass without a finding -------------------- */

#define LOAD_FLAG(modifiers) asm volatile("ld" modifiers ".u32 %0, [%1];" : "=r"(seen) : "l"(flag) : "memory")
#define STORE_FLAG(modifiers) asm volatile("st" modifiers ".u32 [%0], 1;" ::"l"(flag) : "memory")
__global__ void handover(int pattern, uint32_t *flag, uint32_t *data, uint32_t *out) {
    uint32_t seen = 0;
    if (blockIdx.x == 1) {
        data[threadIdx.x] = 100 + threadIdx.x;
        __syncthreads();
        if (threadIdx.x == 0) switch (pattern) {
            case 0: STORE_FLAG(".release.gpu.global"); break;
            case 1:
                asm volatile("fence.acq_rel.gpu;" ::: "memory");
                STORE_FLAG(".relaxed.gpu.global");
                break;
            case 2:
                __threadfence();
                STORE_FLAG(".volatile.global");
                break;
            case 3:
                asm volatile("atom.release.gpu.global.exch.b32 %0, [%1], 1;"
                             : "=r"(seen)
                             : "l"(flag)
                             : "memory");
                break;
            case 4:
                asm volatile("fence.sc.sys;" ::: "memory");
                atomicAdd(flag, 1);
                break;
            case 5: asm volatile("red.release.gpu.add.u32 [%0], 1;" ::"l"(flag) : "memory"); break;
            }
    } else {
        if (threadIdx.x == 0) {
            while (!seen) switch (pattern) {
                case 0: LOAD_FLAG(".acquire.gpu.global"); break;
                case 1: LOAD_FLAG(".relaxed.gpu.global"); break;
                case 2: LOAD_FLAG(".volatile.global"); break;
                case 3:
                    asm volatile("atom.acquire.gpu.global.add.u32 %0, [%1], 0;"
                                 : "=r"(seen)
                                 : "l"(flag)
                                 : "memory");
                    break;
                case 4: seen = atomicAdd(flag, 0); break;
                case 5: LOAD_FLAG(".acquire.sys"); break;
                }
            if (pattern == 1) asm volatile("fence.acq_rel.gpu;" ::: "memory");
            if (pattern == 2 || pattern == 4) __threadfence();
        }
        /* thread 0 alone knows already that it may read the data */
        asm volatile("ld.global.u32 %0, [%1];"
                     : "=r"(seen)
                     : "l"(threadIdx.x ? out + threadIdx.x : data + 33)
                     : "memory");
        __syncthreads();
        out[threadIdx.x] = data[threadIdx.x] + (threadIdx.x ? seen : seen - 133);
    }
}
FA_TEST(handovers) {
    for (int pattern = 0; pattern < 6; pattern++) {
        Device<uint32_t> flag(std::vector<uint32_t>(1, 0)), data(std::vector<uint32_t>(64, 0)),
            out(std::vector<uint32_t>(64, 0));
        handover<<<2, 64>>>(pattern, flag.p, data.p, out.p);
        if (!finished()) return;
        std::vector<uint32_t> got = out.host();
        for (uint32_t i = 0; i < 64; i++)
            FA_EXPECT_MSG(got[i] == 100 + i, "pattern %d, word %u: got %u", pattern, i, got[i]);
    }
}

__global__ void all_fences(uint32_t *out) {
    asm volatile("fence.acq_rel.cta; fence.acq_rel.sys; fence.sc.cta; fence.sc.gpu; membar.cta; membar.gl; "
                 "membar.sys;" ::
                     : "memory");
#if HAS_90
    asm volatile("fence.acq_rel.cluster; fence.sc.cluster; fence.proxy.async; fence.proxy.async.global;" ::
                     : "memory");
    asm volatile("fence.proxy.async.shared::cta; fence.proxy.async.shared::cluster; "
                 "fence.mbarrier_init.release.cluster;" ::
                     : "memory");
#endif
    out[threadIdx.x] = threadIdx.x;
}
__global__ void discards(uint32_t *line) {
    asm volatile("discard.global.L2 [%0], 128;" ::"l"(line + threadIdx.x * 32) : "memory");
}
FA_TEST(fences_and_discard) {
    Device<uint32_t> out(std::vector<uint32_t>(96, 5));
    all_fences<<<1, 32>>>(out.p);
    FA_REQUIRE(finished());
    discards<<<1, 2>>>(out.p + 32);
    FA_REQUIRE(finished());
    std::vector<uint32_t> got = out.host();
    for (uint32_t i = 0; i < 96; i++)
        FA_EXPECT_MSG(i < 32 ? got[i] == i : got[i] != 5, "word %u: %u", i, got[i]);
}

/* ---- counters ----------------------------------------------------------------------------------------- */

__global__ void copy_vectors(const uint4 *in, uint4 *out, int stride) {
    __shared__ uint4 s[32 * 8];
    s[threadIdx.x * stride] = in[threadIdx.x];
    __syncwarp();
    out[threadIdx.x * 8] = s[(threadIdx.x ^ 1) * stride];
}
FA_TEST(counters) {
    Device<uint4> in(std::vector<uint4>(32)), out(std::vector<uint4>(256));
    for (int stride = 1; stride <= 8; stride *= 8) {
        copy_vectors<<<1, 32>>>(in.p, out.p, stride);
        FA_REQUIRE(finished());
        FA_EXPECT(ptx_counter("load_bytes") == 512 && ptx_counter("load_sectors") == 16);
        FA_EXPECT(ptx_counter("store_bytes") == 512 && ptx_counter("store_sectors") == 32);
        FA_EXPECT(ptx_counter("shared_wavefronts_ideal") == 8);
        FA_EXPECT(ptx_counter("shared_wavefronts") == (stride == 1 ? 8 : 64));
    }
}

/* ---- findings: each mistake is found, and said where it is -------------------------------------------- */

/* A kernel on one line of this file, whose number the message must have. */
#define BAD_KERNEL(name, ...) \
    enum { LINE_##name = __LINE__ }; \
    __global__ void name(uint8_t *p) { __VA_ARGS__ }
#define PTX_LD(type, rc, address) asm volatile("ld." type " %0, [%1];" : "=" rc(x) : "l"(address) : "memory")
#define PTX_ST(type, rc, address) asm volatile("st." type " [%0], %1;" ::"l"(address), rc(x) : "memory")
#define IN_CTA(offset) ((uint64_t)__cvta_generic_to_shared(s) + (offset))
#define SHARED_64 \
    __shared__ alignas(16) uint32_t s[16]; \
    s[threadIdx.x % 16] = 0; \
    __syncwarp();

BAD_KERNEL(load_misaligned, uint32_t x;
           PTX_LD("global.u32", "r", p + threadIdx.x * 4 + (threadIdx.x == 5 ? 2 : 0)); p[0] = x;)
BAD_KERNEL(vector_misaligned, float x = 1;
           asm volatile("st.global.v4.f32 [%0], {%1, %1, %1, %1};" ::"l"(p + 8), "f"(x)
                        : "memory");)
BAD_KERNEL(shared_misaligned, SHARED_64 uint32_t x; PTX_LD("shared.u16", "r", IN_CTA(3)); p[0] = x;)
BAD_KERNEL(atomic_misaligned, asm volatile("red.global.add.u64 [%0], 1;" ::"l"(p + 4) : "memory");)
BAD_KERNEL(local_misaligned, uint64_t x; alignas(8) uint8_t l[16]; for (int i = 0; i < 16; i++) l[i] = p[i];
           PTX_LD("u64", "l", l + 4 + (p[0] & 0)); p[0] = x;)
BAD_KERNEL(global_behind, uint32_t x; PTX_LD("global.u32", "r", p + 128 * 4); p[0] = x;)
BAD_KERNEL(global_before, uint32_t x = 0; PTX_ST("global.u32", "r", p - 4);)
BAD_KERNEL(global_last_lane, uint32_t x = 0; PTX_ST("global.u32", "r", p + 97 * 4 + threadIdx.x * 4);)
BAD_KERNEL(global_vector_half,
           asm volatile("{ .reg .b32 r<4>; ld.v4.u32 {r0, r1, r2, r3}, [%0]; }" ::"l"(p + 126 * 4)
                        : "memory");)
BAD_KERNEL(global_atomic, atomicAdd((unsigned *)p + 128, 1u);)
BAD_KERNEL(null_pointer, uint32_t x; PTX_LD("u32", "r", p - (uint64_t)p); p[0] = x;)
BAD_KERNEL(wild_pointer, uint32_t x = 1; PTX_ST("u32", "r", (uint64_t)0x1234567812345678);)
BAD_KERNEL(freed_memory, uint32_t x; PTX_LD("global.u32", "r", p); asm volatile("" ::"r"(x));)
BAD_KERNEL(shared_behind, SHARED_64 uint32_t x = 0; PTX_ST("shared.u32", "r", IN_CTA(64));)
BAD_KERNEL(shared_before, SHARED_64 uint32_t x; PTX_LD("shared.u32", "r", IN_CTA(0) - 4); p[0] = x;)
BAD_KERNEL(shared_before_32, SHARED_64 uint32_t x; asm volatile("ld.shared.u32 %0, [%1+-4];"
                                                                : "=r"(x)
                                                                : "r"((uint32_t)IN_CTA(0))
                                                                : "memory");
           p[0] = x;)
BAD_KERNEL(shared_generic_behind, SHARED_64 uint32_t x = 0; PTX_ST("u32", "r", s + 16 + (p[0] & 0));)
BAD_KERNEL(shared_generic_before, SHARED_64 uint32_t x = 0; PTX_ST("u32", "r", (uint64_t)s - 4);)
BAD_KERNEL(shared_of_global, SHARED_64 uint32_t x = s[0];
           PTX_ST("shared.u32", "r", __cvta_generic_to_shared(p));)
BAD_KERNEL(local_behind, uint32_t x; uint32_t l[4] = {1, 2, 3, p[0]};
           PTX_LD("local.u32", "r", __cvta_generic_to_local(l) + 16); p[0] = x;)
BAD_KERNEL(local_before, uint32_t x; uint32_t l[4] = {1, 2, 3, p[0]}; PTX_LD("u32", "r", (uint64_t)l - 4);
           p[0] = x;)
BAD_KERNEL(local_uninitialised, uint32_t x; uint32_t l[4]; l[threadIdx.x % 4] = 1;
           PTX_LD("u32", "r", l + (p[0] & 0)); p[0] = x;)
BAD_KERNEL(param_behind, uint32_t x;
           asm volatile("{ .reg .b64 a; cvta.to.param.u64 a, %1; ld.param.u32 %0, [a+8]; }"
                        : "=r"(x)
                        : "l"((uint64_t)0));
           p[0] = x;)
BAD_KERNEL(write_to_constant, uint32_t x = 0; PTX_ST("u32", "r", const_block.byte);)
BAD_KERNEL(refused_fence, asm volatile("fence.proxy.alias;" ::: "memory"); p[0] = 1;)
BAD_KERNEL(refused_load, uint32_t x; PTX_LD("mmio.relaxed.sys.global.u32", "r", p); p[0] = x;)
#if HAS_90
BAD_KERNEL(no_tensor_map, asm volatile("prefetch.tensormap [%0];" ::"l"(p) : "memory");)
BAD_KERNEL(no_such_rank, SHARED_64 uint32_t x; asm volatile("mapa.shared::cluster.u32 %0, %1, 1;"
                                                            : "=r"(x)
                                                            : "r"((uint32_t)IN_CTA(0)));
           asm volatile("st.shared::cluster.u32 [%0], 1;" ::"r"(x)
                        : "memory");)
BAD_KERNEL(mapa_of_global, uint64_t x; asm volatile("mapa.u64 %0, %1, 0;" : "=l"(x) : "l"(p)); p[0] = x;)
/* The CTA of rank 1 has no barrier after which it could still be read. */
// clang-format off
enum { LINE_exited_cta = __LINE__ + 8 };
__global__ void __cluster_dims__(2) exited_cta(uint8_t *p) {
    SHARED_64 uint32_t x, y = 0;
    volatile uint8_t *wait = p;
    if (blockIdx.x) { *wait = 1; return; }
    while (!*wait || y++ < 20000) {}
    asm volatile("mapa.shared::cluster.u32 %0, %1, 1;" : "=r"(x) : "r"((uint32_t)IN_CTA(0)));
    /* the read: */
    asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(y) : "r"(x) : "memory");
    *wait = y;
}
// clang-format on
#endif

static void expect_finding(const char *name, int line, const char *what, void (*kernel)(uint8_t *),
                           uint8_t *p, int blocks = 1) {
    expect_finding_at(name, __FILE__, line, what, [&] { kernel<<<blocks, 32>>>(p); });
}
#define EXPECT_FINDING(name, what) expect_finding(#name, LINE_##name, what, name, memory.p)
FA_TEST(findings) {
    Device<uint8_t> memory(std::vector<uint8_t>(512, 0));
    uint8_t *freed;
    EXPECT_FINDING(load_misaligned, "misaligned");
    EXPECT_FINDING(load_misaligned, "lane 5");
    EXPECT_FINDING(vector_misaligned, "multiple of 16");
    EXPECT_FINDING(shared_misaligned, "multiple of 2");
    EXPECT_FINDING(atomic_misaligned, "multiple of 8");
    EXPECT_FINDING(local_misaligned, "multiple of 8");
    EXPECT_FINDING(global_behind, "out of bounds");
    EXPECT_FINDING(global_before, "out of bounds");
    EXPECT_FINDING(global_last_lane, "out of bounds");
    EXPECT_FINDING(global_vector_half, "misaligned");
    EXPECT_FINDING(global_atomic, "out of bounds");
    EXPECT_FINDING(null_pointer, "out of bounds");
    EXPECT_FINDING(wild_pointer, "out of bounds");
    EXPECT_FINDING(shared_behind, "out of bounds");
    EXPECT_FINDING(shared_before, "out of bounds");
    EXPECT_FINDING(shared_before_32, "out of bounds");
    EXPECT_FINDING(shared_generic_behind, "out of bounds");
    EXPECT_FINDING(shared_generic_before, "out of bounds");
    EXPECT_FINDING(shared_of_global, "out of bounds");
    EXPECT_FINDING(local_behind, "out of bounds");
    EXPECT_FINDING(local_before, "out of bounds");
    const char *checks = getenv("FA_PTX_CHECKS");
    if (!checks || strcmp(checks, "0")) EXPECT_FINDING(local_uninitialised, "uninitialised local");
    EXPECT_FINDING(param_behind, "out of bounds");
    EXPECT_FINDING(write_to_constant, "read-only");
    EXPECT_FINDING(refused_fence, "fence.proxy.alias");
    EXPECT_FINDING(refused_load, "ld.mmio.relaxed.sys.global.u32");
    cudaMalloc((void **)&freed, 64);
    cudaFree(freed);
    expect_finding("freed_memory", LINE_freed_memory, "out of bounds", freed_memory, freed);
#if HAS_90
    EXPECT_FINDING(no_tensor_map, "no tensor map");
    EXPECT_FINDING(no_such_rank, "none of rank 1");
    EXPECT_FINDING(mapa_of_global, "not in shared memory");
    expect_finding("exited_cta", LINE_exited_cta, "has exited", exited_cta, memory.p, 2);
#endif
}

#if HAS_90
/* fence.mbarrier_init releases what a relaxed arrival at the cluster barrier then hands on: a neighbour may arrive at
 * the mbarrier. Without the fence nothing orders its init before that. */
__device__ static uint32_t shared_address(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }
template <int FENCE> __global__ void __cluster_dims__(2) relaxed_arrival(uint8_t *out) {
    __shared__ uint64_t bar;
    uint32_t rank, remote;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    if (threadIdx.x == 0) {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(&bar)) : "memory");
        if (FENCE) asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    asm volatile("barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(shared_address(&bar)), "r"(rank ^ 1));
    if (threadIdx.x == 0) {
        asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(remote) : "memory");
        out[rank] = 1;
    }
    asm volatile("{\n.reg .pred p;\nAGAIN:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], 0;\n@!p bra AGAIN;\n}" ::"r"(
                     shared_address(&bar))
                 : "memory");
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}
FA_TEST(relaxed_cluster_arrival) {
    Device<uint8_t> out(std::vector<uint8_t>(2, 0));
    relaxed_arrival<1><<<2, 64>>>(out.p);
    finished();
    FA_EXPECT(out.host() == std::vector<uint8_t>(2, 1));
    const char *checks = getenv("FA_PTX_CHECKS");
    if (checks && !strcmp(checks, "0")) return;
    ptx_expect_findings(true);
    relaxed_arrival<0><<<2, 64>>>(out.p);
    cudaDeviceSynchronize();
    cudaGetLastError();
    FA_EXPECT_MSG(strstr(ptx_last_findings(), "without being ordered after its mbarrier.init"), "%s",
                  ptx_last_findings());
    ptx_expect_findings(false);
}
#endif

FA_TEST_MAIN
