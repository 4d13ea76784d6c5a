/* test_parser.cu - what nvcc's PTX looks like, run through the machine: names and scopes, variables of all spaces with
 * their initialisers, parameters, calls of printf and assert, source positions, refusals. */
#include "ptx_test.h"

#include <assert.h>
#include <unistd.h>

#define FA_CUDA(call) FA_EXPECT_MSG((call) == cudaSuccess, "%s", cudaGetErrorString(cudaGetLastError()))
#define FA_SYNC() \
    do { \
        FA_CUDA(cudaGetLastError()); \
        FA_CUDA(cudaDeviceSynchronize()); \
    } while (0)

enum { THREADS = 64 };

template <class T> struct Buffer {
    T *at;
    int n;
    explicit Buffer(int count) : n(count) {
        FA_CUDA(cudaMalloc((void **)&at, count * sizeof(T)));
        FA_CUDA(cudaMemset(at, 0, count * sizeof(T)));
    }
    ~Buffer() { FA_CUDA(cudaFree(at)); }
    T *host() { /* the caller's until the next call */
        static T copy[4096];
        FA_CUDA(cudaMemcpy(copy, at, n * sizeof(T), cudaMemcpyDeviceToHost));
        return copy;
    }
};

/* ---- variables with initialisers ------------------------------------------------------------------------------------ */

struct Row {
    const int *p;
    short s[3];
    char text[9];
    double d;
    const Row *next;
};
__device__ int numbers[4] = {1, -2, 0x7fffffff, -2147483647 - 1};
__device__ unsigned char bytes[5] = {0, 1, 127, 128, 255};
__device__ short shorts[3] = {-1, 32767, -32768};
__device__ float floats[2][3] = {{1.5f, -0.0f, 3e38f}, {1e-40f, INFINITY}};
__device__ double doubles[2] = {0.1, -1e300};
__device__ unsigned long long longs[2] = {0x123456789abcdef0u, ~0ull};
__device__ const char *strings[3] = {"one", "", "three \"quoted\" // no comment"};
__device__ Row row_1 = {numbers, {-4, 5}, "row 1", -0.0, nullptr};
__device__ Row rows[1] = {{&numbers[1], {1, -2, 3}, "row // 0", 2.5, &row_1}};
__device__ int *pointer = numbers + 3, **pointer_pointer = &pointer;
struct __attribute__((packed)) Packed {
    char c;
    const int *p;
    short s;
};
__device__ Packed packed[2] = {{1, numbers + 2, -3}, {4, nullptr, 5}};
__device__ int zeros[300];
__constant__ int constants[6] = {10, 20, 30};
__constant__ Row constant_row = {numbers + 2, {7}, "const", 1e-3, &rows[0]};
static __device__ int hidden = 42;
namespace {
__device__ int hidden_too = 43;
}
__managed__ int managed = 5;

__device__ int length(const char *s) {
    int n = 0;
    while (s[n]) n++;
    return n;
}

__global__ void read_variables(double *out, int i) { /* i is 0: nothing is folded */
    int n = 0;
    for (int k = 0; k < 4; k++) out[n++] = numbers[k + i];
    for (int k = 0; k < 5; k++) out[n++] = bytes[k + i];
    for (int k = 0; k < 3; k++) out[n++] = shorts[k + i];
    for (int k = 0; k < 6; k++) out[n++] = floats[k / 3 + i][k % 3];
    for (int k = 0; k < 2; k++) out[n++] = doubles[k + i];
    for (int k = 0; k < 2; k++) out[n++] = (double)(longs[k + i] >> 11);
    for (int k = 0; k < 3; k++) out[n++] = length(strings[k + i]);
    for (const Row *r = rows + i; r; r = r->next) {
        out[n++] = *r->p;
        for (int k = 0; k < 3; k++) out[n++] = r->s[k];
        out[n++] = length(r->text);
        out[n++] = r->text[4];
        out[n++] = r->d;
    }
    out[n++] = *pointer;
    out[n++] = **pointer_pointer;
    for (int k = 0; k < 2; k++) {
        out[n++] = packed[k + i].c;
        unsigned long long p = 0; /* misaligned: byte by byte */
        for (int b = 0; b < 8; b++) p |= (unsigned long long)((const unsigned char *)&packed[k + i].p)[b] << 8 * b;
        out[n++] = p ? *(const int *)p : 0;
    }
    for (int k = 0; k < 300; k++) out[n] += zeros[k + i];
    n++;
    for (int k = 0; k < 6; k++) out[n++] = constants[k + i];
    out[n++] = *constant_row.p;
    out[n++] = constant_row.s[0];
    out[n++] = constant_row.text[4];
    out[n++] = constant_row.d;
    out[n++] = constant_row.next->s[1];
    out[n++] = hidden + hidden_too + managed;
    out[n++] = -12345;
}

FA_TEST(initialisers) {
    static const double want[] = {
        1, -2, 2147483647, -2147483648.0, 0, 1, 127, 128, 255, -1, 32767, -32768, 1.5f, -0.0, 3e38f, 1e-40f, INFINITY, 0,
        0.1, -1e300, (double)(0x123456789abcdef0u >> 11), (double)(~0ull >> 11), 3, 0, 28,
        -2, 1, -2, 3, 8, '/', 2.5, 1, -4, 5, 0, 5, '1', -0.0,
        -2147483648.0, -2147483648.0, 1, 2147483647, 4, 0, 0,
        10, 20, 30, 0, 0, 0, 2147483647, 7, 't', 1e-3, -2, 42 + 43 + 5, -12345};
    const int n = sizeof want / sizeof *want;
    Buffer<double> out(n);
    read_variables<<<1, 1>>>(out.at, 0);
    FA_SYNC();
    const double *got = out.host();
    for (int i = 0; i < n; i++) FA_EXPECT_MSG(got[i] == want[i], "value %d: got %g, want %g", i, got[i], want[i]);
}

__global__ void use_symbols(int *out) {
    out[0] = constants[threadIdx.x + 1];
    out[1] = numbers[threadIdx.x + 2];
    zeros[threadIdx.x + 7] = 77;
    managed++;
}

FA_TEST(symbols) {
    int value = -5, back = 0;
    size_t size = 0;
    void *address = NULL;
    Buffer<int> out(2);
    FA_CUDA(cudaMemcpyToSymbol(constants, &value, 4, 4));
    FA_CUDA(cudaMemcpyToSymbol(numbers, &value, 4, 8));
    managed = 8;
    use_symbols<<<1, 1>>>(out.at);
    FA_SYNC();
    const int *got = out.host();
    FA_EXPECT(got[0] == -5 && got[1] == -5 && managed == 9);
    FA_CUDA(cudaMemcpyFromSymbol(&back, zeros, 4, 28));
    FA_EXPECT(back == 77);
    FA_CUDA(cudaGetSymbolSize(&size, zeros));
    FA_EXPECT(size == sizeof(int) * 300);
    FA_CUDA(cudaGetSymbolAddress(&address, zeros));
    FA_CUDA(cudaMemcpy(&back, (int *)address + 8, 4, cudaMemcpyDeviceToHost));
    FA_EXPECT(back == 0);
    value = 20; /* as it was, for other tests in any order */
    FA_CUDA(cudaMemcpyToSymbol(constants, &value, 4, 4));
    value = 0x7fffffff;
    FA_CUDA(cudaMemcpyToSymbol(numbers, &value, 4, 8));
    value = 0;
    FA_CUDA(cudaMemcpyToSymbol(zeros, &value, 4, 28));
    managed = 5;
}

/* ---- parameters ------------------------------------------------------------------------------------------------------ */

struct alignas(64) Map {
    unsigned char opaque[128];
};
struct Inner {
    char c;
    short s;
};
struct Shape {
    char tag;
    double scale;
    int n[3];
    Inner inner[2];
    const float *p;
    bool flag;
};

__global__ void many(double *out, bool a, signed char b, unsigned char c, short d, unsigned short e, int f, unsigned g,
                     long long h, unsigned long long i, float j, double k, Shape s, const Map m, char3 three, int4 four,
                     const float *__restrict__ p, Shape t, unsigned char last) {
    int n = 0;
    if (threadIdx.x) return;
    out[n++] = a, out[n++] = b, out[n++] = c, out[n++] = d, out[n++] = e, out[n++] = f, out[n++] = g;
    out[n++] = (double)h, out[n++] = (double)i, out[n++] = j, out[n++] = k;
    for (const Shape *q = &s;; q = &t) {
        out[n++] = q->tag, out[n++] = q->scale, out[n++] = q->n[0] + 10 * q->n[1] + 100 * q->n[2];
        out[n++] = q->inner[0].c + q->inner[1].s, out[n++] = q->p[1], out[n++] = q->flag;
        if (q == &t) break;
    }
    for (int z = 0; z < 128; z += 31) out[n++] = m.opaque[z];
    out[n++] = three.x + 10 * three.y + 100 * three.z;
    out[n++] = four.x + 10 * four.y + 100 * four.z + 1000 * four.w;
    out[n++] = p[0], out[n++] = last, out[n++] = (unsigned long long)&m % 64;
}

FA_TEST(parameters) {
    Buffer<float> in(2);
    const float two[2] = {3.5f, -7.25f};
    FA_CUDA(cudaMemcpy(in.at, two, sizeof two, cudaMemcpyHostToDevice));
    Map map;
    for (int i = 0; i < 128; i++) map.opaque[i] = (unsigned char)(i ^ 0xa5);
    Shape s = {'s', 2.5, {1, 2, 3}, {{4, 5}, {6, -700}}, in.at, true};
    Shape t = {'t', -2.5, {3, 2, 1}, {{-4, 5}, {6, 700}}, in.at, false};
    Buffer<double> out(33);
    many<<<1, 32>>>(out.at, true, -128, 255, -32768, 65535, -2147483647 - 1, 4294967295u, -(1ll << 52), 1ull << 63, 0.1f,
                    0.1, s, map, make_char3(1, 2, 3), make_int4(4, 3, 2, 1), in.at, t, 254);
    FA_SYNC();
    const double want[] = {1, -128, 255, -32768, 65535, -2147483648.0, 4294967295.0, -0x1p52, 0x1p63, 0.1f, 0.1,
                           's', 2.5, 321, -696, -7.25, 1, 't', -2.5, 123, 696, -7.25, 0,
                           0 ^ 0xa5, 31 ^ 0xa5, 62 ^ 0xa5, 93 ^ 0xa5, 124 ^ 0xa5, 321, 1234, 3.5, 254, 0};
    const double *got = out.host();
    for (int i = 0; i < 33; i++) FA_EXPECT_MSG(got[i] == want[i], "value %d: got %g, want %g", i, got[i], want[i]);
}

struct Big {
    int v[900];
};
__global__ void big_parameter(int *out, Big b, int i) { out[threadIdx.x] = b.v[threadIdx.x * 14 + i]; }

FA_TEST(a_parameter_of_many_bytes) {
    static Big b;
    for (int i = 0; i < 900; i++) b.v[i] = i * i - 7;
    Buffer<int> out(THREADS);
    big_parameter<<<1, THREADS>>>(out.at, b, 3);
    FA_SYNC();
    const int *got = out.host();
    for (int i = 0; i < THREADS; i++) FA_EXPECT(got[i] == b.v[14 * i + 3]);
}

/* ---- shared and local memory ------------------------------------------------------------------------------------------- */

extern __shared__ float dynamic_floats[];
extern __shared__ unsigned char dynamic_bytes[];
__shared__ int module_level[THREADS]; /* used by two kernels: nvcc leaves it outside of both */

__device__ unsigned shared_address(const void *p) { return (unsigned)__cvta_generic_to_shared(p); }

__global__ void shared_kinds(unsigned *out) {
    __shared__ unsigned char one;
    __shared__ double eight[THREADS];
    __shared__ __align__(128) int four[THREADS];
    int t = threadIdx.x;
    if (t == 0) one = 9;
    eight[t] = t * 0.5;
    four[t] = 3 * t;
    module_level[t] = -t;
    dynamic_floats[t] = (float)t + 0.25f;
    __syncthreads();
    int u = t ^ 5;
    out[t] = one + (eight[u] == u * 0.5) + (four[u] == 3 * u) + (module_level[u] == -u) +
             (*(float *)(dynamic_bytes + 4 * u) == u + 0.25f);
    if (t == 0) {
        out[THREADS] = shared_address(four) % 128 + shared_address(eight) % 8;
        out[THREADS + 1] = shared_address(dynamic_bytes) % 1024;
        out[THREADS + 2] = shared_address(dynamic_bytes) - shared_address(dynamic_floats);
    }
}
template <int N> __global__ void shared_again(int *out) {
    __shared__ int own[N];
    int t = threadIdx.x;
    module_level[t] = t * N;
    for (int i = t; i < N; i += THREADS) own[i] = i;
    __syncthreads();
    out[t] = module_level[THREADS - 1 - t] + own[(t * 7) % N];
}

FA_TEST(shared_variables) {
    Buffer<unsigned> out(THREADS + 3);
    shared_kinds<<<1, THREADS, THREADS * sizeof(float)>>>(out.at);
    FA_SYNC();
    const unsigned *got = out.host();
    for (int i = 0; i < THREADS; i++) FA_EXPECT_MSG(got[i] == 13, "thread %d: %u", i, got[i]);
    for (int i = 0; i < 3; i++) FA_EXPECT(got[THREADS + i] == 0);
    cudaFuncAttributes a;
    FA_CUDA(cudaFuncGetAttributes(&a, shared_again<100>));
    FA_EXPECT_MSG(a.sharedSizeBytes == 4 * (100 + THREADS), "%zu", a.sharedSizeBytes);
    FA_CUDA(cudaFuncGetAttributes(&a, shared_kinds));
    FA_EXPECT_MSG(a.sharedSizeBytes >= 1 + 3 * 4 * THREADS && a.sharedSizeBytes < 2048, "%zu", a.sharedSizeBytes);
    Buffer<int> second(THREADS);
    shared_again<100><<<1, THREADS>>>(second.at);
    FA_SYNC();
    const int *s = second.host();
    for (int i = 0; i < THREADS; i++) FA_EXPECT(s[i] == (THREADS - 1 - i) * 100 + (i * 7) % 100);
    shared_again<7><<<1, THREADS>>>(second.at);
    FA_SYNC();
    s = second.host();
    for (int i = 0; i < THREADS; i++) FA_EXPECT(s[i] == (THREADS - 1 - i) * 7 + (i * 7) % 7);
}

__global__ void local_arrays(int *out, const int *order) {
    int t = threadIdx.x;
    unsigned char bytes_of[24];
    Shape s[3];
    for (int i = 0; i < 24; i++) bytes_of[i] = (unsigned char)(i * t);
    for (int i = 0; i < 3; i++) s[i].n[1] = t + i, s[i].scale = i * 0.5, s[i].inner[1].s = (short)-i;
    int k = order[t % 8];
    const Shape *p = &s[k % 3];
    out[t] = bytes_of[k + 16] + p->n[1] * 1000 + (int)(p->scale * 2) * 1000000 - p->inner[1].s;
}

FA_TEST(local_variables) {
    Buffer<int> out(THREADS), order(8);
    const int perm[8] = {3, 1, 7, 0, 5, 2, 6, 4};
    FA_CUDA(cudaMemcpy(order.at, perm, sizeof perm, cudaMemcpyHostToDevice));
    local_arrays<<<1, THREADS>>>(out.at, order.at);
    FA_SYNC();
    const int *got = out.host();
    for (int t = 0; t < THREADS; t++) {
        int k = perm[t % 8], q = k % 3;
        FA_EXPECT(got[t] == (unsigned char)((k + 16) * t) + (t + q) * 1000 + q * 1000000 + q);
    }
    cudaFuncAttributes a;
    FA_CUDA(cudaFuncGetAttributes(&a, local_arrays));
    FA_EXPECT_MSG(a.localSizeBytes >= 24 + 3 * sizeof(Shape), "%zu", a.localSizeBytes);
}

/* ---- names, scopes, operands ------------------------------------------------------------------------------------------- */

/* An instance per unrolled iteration: its label and its register exist many times in one function. */
__device__ __forceinline__ int spin(int n) {
    int r;
    asm volatile("{\n\t.reg .pred P1;\n\t.reg .b32 left;\n\tmov.u32 left, %1;\n\tmov.u32 %0, 0;\n"
                 "LAB_WAIT:\n\tsetp.eq.s32 P1, left, 0;\n\t@P1 bra DONE;\n\tadd.s32 %0, %0, 3;\n\tsub.s32 left, left, 1;\n\t"
                 "bra.uni LAB_WAIT;\nDONE:\n}"
                 : "=&r"(r)
                 : "r"(n));
    return r;
}
__global__ void scopes(int *out) {
    int t = threadIdx.x, sum = 0;
#pragma unroll
    for (int i = 0; i < 16; i++) sum += spin((t + i) % 4);
    out[t] = sum;
    /* an inner scope hides registers, ranges, predicates and labels of the outer ones, and ends */
    int a, b, c, d;
    asm volatile("{\n"
                 " .reg .pred p, q; .reg .b32 x, y, %%r<4>, t$1, _u; /* a comment;\n over lines */\n"
                 " mov.u32 x, %4;  mov.u32 y, 5; // two statements; and a comment\n"
                 " mov.u32 %%r3, 100;\n"
                 " setp.lt.u32 p|q, x, 32;\n"
                 " {\n"
                 "  .reg .b32 x, %%r<2>; .reg .pred p;\n"
                 "  mov.u32 x, 7; mov.u32 %%r1, 20;\n"
                 "  setp.eq.u32 p, x, 8;\n"
                 "  @!p bra OUT;\n" /* the OUT of this scope, further down, not the one after it */
                 "  mov.u32 y, 1000000;\n"
                 " OUT:\n"
                 "  add.u32 y, y, x; add.u32 y, y, %%r1; add.u32 y, y, %%r3;\n"
                 " }\n"
                 " @q bra OUT;\n"
                 " add.u32 y, y, 1000;\n"
                 " OUT: mov.u32 %0, y;\n"
                 " mov.u32 t$1, x; add.u32 _u, t$1, 0x10; mov.u32 %1, _u;\n"
                 " mov.u32 %2, WARP_SZ; mad.lo.s32 %2, %2, -2, 0b101;\n"
                 " mov.u32 %3, (1 << 4) + 3 * (2 - 7) - 017; add.u32 %3, %3, 0xFFFFFFFFU;\n"
                 "}"
                 : "=r"(a), "=r"(b), "=r"(c), "=r"(d)
                 : "r"(t));
    out[THREADS + t] = a;
    out[2 * THREADS + t] = b;
    out[3 * THREADS + t] = c;
    out[4 * THREADS + t] = d;
}

FA_TEST(names_and_scopes) {
    Buffer<int> out(5 * THREADS);
    scopes<<<1, THREADS>>>(out.at);
    FA_SYNC();
    const int *got = out.host();
    for (int t = 0; t < THREADS; t++) {
        FA_EXPECT_MSG(got[t] == 3 * 4 * (0 + 1 + 2 + 3), "thread %d: %d", t, got[t]);
        FA_EXPECT_MSG(got[THREADS + t] == 132 + (t < 32 ? 1000 : 0), "thread %d: %d", t, got[THREADS + t]);
        FA_EXPECT(got[2 * THREADS + t] == t + 16 && got[3 * THREADS + t] == -59 && got[4 * THREADS + t] == -15);
    }
}

__global__ void operands(unsigned *out, unsigned *data) {
    unsigned r[8], s[4];
    double d;
    float f[4];
    asm volatile("{ .reg .b64 at; .reg .b16 h, l; .reg .pred p0, p1;\n"
                 "  add.u64 at, %7, 16;\n"
                 "  ld.global.v2.u32 {%0, %1}, [at + -8];\n"
                 "  ld.global.u32 %2, [at+-16];\n"
                 "  ld.global.u32 %3, [ at ] ;\n"
                 "  st.global.v4.u32 [at+16], {%0, 7, -1, 0xabcdU};\n"
                 "  mov.b32 {l, h}, 0x12345678; cvt.u32.u16 %4, h; mov.b32 %5, {h, l};\n"
                 "  mov.b32 {l, h}, %4; mov.b16 l, -2; mov.b32 %4, {l, h};\n"
                 "  setp.lt.s32 p0|p1, 5, -3; @!p0 mov.u32 %6, -0x80000000; @ p0 mov.u32 %6, 1; @!p1 trap;\n"
                 "}"
                 : "=&r"(r[0]), "=&r"(r[1]), "=&r"(r[2]), "=&r"(r[3]), "=&r"(r[4]), "=&r"(r[5]), "=&r"(r[6])
                 : "l"((unsigned long long)data)
                 : "memory");
    asm("mov.f32 %0, 0f40490FDB; mov.f32 %1, 1.5; mov.f32 %2, -2.25e2; mov.f64 %3, 0dC004000000000000;\n"
        "{ .reg .f64 t; mov.f64 t, 0.25; add.f64 %3, %3, t; } mov.f32 %4, 0F3F800000;"
        : "=f"(f[0]), "=f"(f[1]), "=f"(f[2]), "=d"(d), "=f"(f[3]));
    /* variables of an inner scope: shared and local memory by name, with offsets */
    asm volatile("{ .shared .align 8 .b8 box[16], lid; .local .align 16 .b32 own[4];\n"
                 "  .reg .u64 p; .reg .u32 q;\n"
                 "  mov.u32 q, box; st.shared.u32 [box + 4], %4; st.shared.v2.b32 [q+8], {%4, 6};\n"
                 "  ld.shared.u64 p, [box+8]; cvt.u32.u64 %0, p; ld.shared.u32 %1, [q+4];\n"
                 "  st.local.u32 [own+8], %4; mov.u64 p, own; ld.local.u32 %2, [p+8];\n"
                 "  cvta.local.u64 p, p; ld.u32 %3, [p + 8];\n"
                 "}"
                 : "=&r"(s[0]), "=&r"(s[1]), "=&r"(s[2]), "=&r"(s[3])
                 : "r"(data[1])
                 : "memory");
    for (int i = 0; i < 7; i++) out[i] = r[i];
    for (int i = 0; i < 4; i++) out[7 + i] = __float_as_uint(f[i]);
    out[11] = (unsigned)(__double_as_longlong(d) >> 32);
    for (int i = 0; i < 4; i++) out[12 + i] = s[i];
}

FA_TEST(operand_syntax) {
    Buffer<unsigned> out(16), data(12);
    const unsigned numbers_in[8] = {11, 22, 33, 44, 55, 66, 77, 88};
    FA_CUDA(cudaMemcpy(data.at, numbers_in, sizeof numbers_in, cudaMemcpyHostToDevice));
    operands<<<1, 1>>>(out.at, data.at);
    FA_SYNC();
    const unsigned want[16] = {33, 44, 11, 55, 0xfffe, 0x56781234, 0x80000000u, 0x40490fdb, 0x3fc00000, 0xc3610000,
                               0x3f800000, 0xc0020000, 22, 22, 22, 22};
    const unsigned *got = out.host();
    for (int i = 0; i < 16; i++) FA_EXPECT_MSG(got[i] == want[i], "value %d: got %#x, want %#x", i, got[i], want[i]);
    got = data.host();
    FA_EXPECT(got[8] == 33 && got[9] == 7 && got[10] == 0xffffffffu && got[11] == 0xabcd);
}

__global__ void special_registers(unsigned *out) {
    unsigned v[14];
    asm volatile("mov.u32 %0, %%tid.x; mov.u32 %1, %%tid.y; mov.u32 %2, %%ntid.x; mov.u32 %3, %%ntid.z;\n"
                 "mov.u32 %4, %%ctaid.x; mov.u32 %5, %%nctaid.y; mov.u32 %6, %%laneid; mov.u32 %7, %%warpid;\n"
                 "mov.u32 %8, %%lanemask_lt; mov.u32 %9, %%lanemask_ge; mov.u32 %10, %%dynamic_smem_size;\n"
                 "mov.u32 %11, %%nctaid.x; mov.u32 %12, %%nwarpid; mov.u32 %13, %%lanemask_eq;"
                 : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3]), "=r"(v[4]), "=r"(v[5]), "=r"(v[6]), "=r"(v[7]),
                   "=r"(v[8]), "=r"(v[9]), "=r"(v[10]), "=r"(v[11]), "=r"(v[12]), "=r"(v[13]));
    unsigned thread = threadIdx.x + blockDim.x * threadIdx.y + THREADS * blockIdx.x;
    for (int i = 0; i < 14 && blockIdx.y == 0; i++) out[thread * 14 + i] = v[i];
}

FA_TEST(special_register_names) {
    Buffer<unsigned> out(2 * THREADS * 14);
    special_registers<<<dim3(2, 3), dim3(THREADS / 4, 4), 100>>>(out.at);
    FA_SYNC();
    const unsigned *got = out.host();
    for (unsigned i = 0; i < 2 * THREADS; i++, got += 14) {
        unsigned t = i % THREADS, x = t % (THREADS / 4), l = t % 32, bit = 1u << l;
        const unsigned want[14] = {x, t / (THREADS / 4), THREADS / 4, 1, i / THREADS, 3, l, t / 32, bit - 1,
                                   ~(bit - 1), 100, 2, THREADS / 32, bit};
        for (int j = 0; j < 14; j++)
            if (j != 7 && j != 12) /* %warpid and %nwarpid may be virtual */
                FA_EXPECT_MSG(got[j] == want[j], "thread %u, register %d: got %#x", i, j, got[j]);
    }
}

/* ---- templates, control flow -------------------------------------------------------------------------------------------- */

template <class T, int N> __global__ void instance(T *out) {
    T sum = 0;
    for (int i = 0; i <= threadIdx.x % N; i++) sum = sum * 2 + (T)i;
    out[threadIdx.x] = sum;
}
template <class T, int N> void check_instance() {
    Buffer<T> out(THREADS);
    instance<T, N><<<1, THREADS>>>(out.at);
    FA_SYNC();
    const T *got = out.host();
    for (int t = 0; t < THREADS; t++) {
        T sum = 0;
        for (int i = 0; i <= t % N; i++) sum = sum * 2 + (T)i;
        FA_EXPECT(got[t] == sum);
    }
}
FA_TEST(templates) {
    check_instance<int, 3>();
    check_instance<int, 20>();
    check_instance<unsigned char, 12>();
    check_instance<float, 9>();
    check_instance<double, 40>();
    check_instance<long long, 33>();
}

__global__ void branches(int *out, const int *in) {
    int t = threadIdx.x, r = in[t];
    switch (in[t]) {
    case 0: r = in[(t + 1) % THREADS] * 3; break;
    case 1: r = t / 3; break;
    case 2: out[t + THREADS] = 1; r = 9; break;
    case 3: for (int i = 0; i < t; i++) r += in[i] ^ i; break;
    case 4: r = t % 5 - 2; [[fallthrough]];
    case 5: r = ~r; break;
    case 6: if (t & 1) return; r = 66; break;
    case 7: while (r < 1000) r = r * 3 + (t & 1); break;
    default: r = -1;
    }
    out[t] = r;
}
FA_TEST(control_flow) {
    int in[THREADS];
    uint64_t state = fat_seed;
    for (int i = 0; i < THREADS; i++) in[i] = fat_below(&state, 10);
    Buffer<int> data(THREADS), out(2 * THREADS);
    FA_CUDA(cudaMemcpy(data.at, in, sizeof in, cudaMemcpyHostToDevice));
    branches<<<1, THREADS>>>(out.at, data.at);
    FA_SYNC();
    const int *got = out.host();
    for (int t = 0; t < THREADS; t++) {
        int r = -1, mark = 0;
        switch (in[t]) {
        case 0: r = in[(t + 1) % THREADS] * 3; break;
        case 1: r = t / 3; break;
        case 2: mark = 1, r = 9; break;
        case 3: r = 3; for (int i = 0; i < t; i++) r += in[i] ^ i; break;
        case 4: r = ~(t % 5 - 2); break;
        case 5: r = ~5; break;
        case 6: r = t & 1 ? 0 : 66; break;
        case 7: for (r = 7; r < 1000;) r = r * 3 + (t & 1); break;
        }
        FA_EXPECT_MSG(got[t] == r && got[THREADS + t] == mark, "thread %d, case %d: %d", t, in[t], got[t]);
    }
}

__global__ void __launch_bounds__(96, 3) bounded(int *out) { out[threadIdx.x] = 1; }
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define CLUSTER __cluster_dims__(2, 1, 1)
#define RANK "mov.u32 %0, %%cluster_ctarank;"
#else
#define CLUSTER
#define RANK "mov.u32 %0, 0;"
#endif
__global__ void CLUSTER clustered(int *out) {
    unsigned rank;
    asm(RANK : "=r"(rank));
    out[blockIdx.x] = (int)rank;
}
FA_TEST(kernel_directives) {
    cudaFuncAttributes a;
    FA_CUDA(cudaFuncGetAttributes(&a, bounded));
    FA_EXPECT_MSG(a.maxThreadsPerBlock == 96, "%d", a.maxThreadsPerBlock);
    Buffer<int> out(96);
    bounded<<<1, 97>>>(out.at);
    FA_EXPECT(cudaGetLastError() != cudaSuccess);
    bounded<<<1, 96>>>(out.at);
    FA_SYNC();
    FA_CUDA(cudaFuncGetAttributes(&a, clustered));
    if (!a.requiredClusterWidth) FA_SKIP("no clusters before sm_90");
    FA_EXPECT(a.requiredClusterWidth == 2);
    clustered<<<6, 1>>>(out.at);
    FA_SYNC();
    const int *got = out.host();
    for (int i = 0; i < 6; i++) FA_EXPECT(got[i] == i % 2);
}

/* ---- printf, assert, positions, refusals -------------------------------------------------------------------------------- */

__global__ void prints(int i, const char *s) {
    printf("plain\n");
    printf("%d %5.2f|%-4s|%lld %c%% %s %#x %u\n", i, 2.5 * i, "ab", 1ll << 40, 'z', s, 255u, 4000000000u);
    int n = printf("%e %03d\n", 1e10, -7);
    if (n < 0) __trap();
}

FA_TEST(printf_of_a_kernel) {
    char path[] = "/tmp/fa_ptx_printf_XXXXXX", text[512] = "";
    int file = mkstemp(path);
    FA_REQUIRE(file >= 0);
    Buffer<char> word(8);
    FA_CUDA(cudaMemcpy(word.at, "device", 7, cudaMemcpyHostToDevice));
    fflush(stdout);
    int saved = dup(1);
    dup2(file, 1);
    prints<<<1, 1>>>(3, word.at);
    cudaError_t e = cudaDeviceSynchronize();
    fflush(stdout);
    dup2(saved, 1);
    close(saved);
    FA_EXPECT(e == cudaSuccess);
    FA_EXPECT(pread(file, text, sizeof text - 1, 0) > 0);
    close(file);
    unlink(path);
    const char *want = "plain\n3  7.50|ab  |1099511627776 z% device 0xff 4000000000\n1.000000e+10 -07\n";
    FA_EXPECT_MSG(!strcmp(text, want), "got \"%s\"", text);
}

/* Runs a launch that has to be stopped with a message that contains `part`. */
#define EXPECT_STOP(launch, part) \
    do { \
        ptx_expect_findings(true); \
        launch; \
        cudaError_t error_ = cudaGetLastError(); \
        if (error_ == cudaSuccess) error_ = cudaDeviceSynchronize(); \
        char said_[2048]; \
        snprintf(said_, sizeof said_, "%s", ptx_last_findings()); \
        ptx_expect_findings(false); \
        FA_EXPECT(error_ != cudaSuccess); \
        FA_EXPECT_MSG(strstr(said_, part) != NULL, "\"%s\" is not in \"%s\"", part, said_); \
        cudaDeviceReset(); \
    } while (0)

__device__ __noinline__ int called(int x) { return x * x + (x > 3 ? called(x - 1) : 0); }
__global__ void calls(int *out) { out[0] = called(out[1]); }
__global__ void unknown(int *out) {
    asm volatile("pmevent 1;");
    out[0] = 1;
}
enum { INNER_LINE = __LINE__ + 1 };
__device__ __forceinline__ void inner(const int *p) { assert(p[1] == 5 && "five"); }
__device__ __forceinline__ void outer(const int *p) { inner(p + 1); }
enum { OUTER_LINE = __LINE__ - 1, KERNEL_LINE = __LINE__ + 3 };
__global__ void asserts(const int *p) {
    inner(p);
    outer(p);
}

__global__ void store(int *p) { *p = 1; }

FA_TEST(what_is_refused) {
    static int *constant;
    FA_CUDA(cudaGetSymbolAddress((void **)&constant, constants));
    EXPECT_STOP((store<<<1, 1>>>(constant)), "constant constants");
    static int *out;
    FA_CUDA(cudaMalloc((void **)&out, 64));
    FA_CUDA(cudaMemset(out, 0, 64));
    EXPECT_STOP((unknown<<<1, 1>>>(out)), "unsupported opcode pmevent");
    FA_CUDA(cudaMalloc((void **)&out, 64));
    FA_CUDA(cudaMemset(out, 0, 64));
    EXPECT_STOP((calls<<<1, 1>>>(out)), "called");
}

FA_TEST(assertions_name_their_lines) {
    static int *p;
    const int good_then_bad[3] = {0, 5, 6};
    char where[128];
    FA_CUDA(cudaMalloc((void **)&p, sizeof good_then_bad));
    FA_CUDA(cudaMemcpy(p, good_then_bad, sizeof good_then_bad, cudaMemcpyHostToDevice));
    snprintf(where, sizeof where, "test_parser.cu:%d, inlined at test_parser.cu:%d", INNER_LINE, OUTER_LINE);
    EXPECT_STOP((asserts<<<1, 1>>>(p)), where);
    FA_CUDA(cudaMalloc((void **)&p, sizeof good_then_bad));
    FA_CUDA(cudaMemcpy(p, good_then_bad, sizeof good_then_bad, cudaMemcpyHostToDevice));
    snprintf(where, sizeof where, "test_parser.cu:%d", KERNEL_LINE);
    EXPECT_STOP((asserts<<<1, 1>>>(p)), where);
    FA_CUDA(cudaMalloc((void **)&p, sizeof good_then_bad));
    FA_CUDA(cudaMemset(p, 0, sizeof good_then_bad));
    EXPECT_STOP((asserts<<<1, 1>>>(p)), "five");
}

/* The rest of this file has another name, with what would be a comment in it. */
#line 7 "generated/a // of.cu"
__global__ void elsewhere(int *p) { p[blockDim.x] = 1; }

FA_TEST(names_of_files) { EXPECT_STOP((elsewhere<<<1, 1>>>(NULL)), "of.cu:7"); }

FA_TEST_MAIN
