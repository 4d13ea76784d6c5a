/* test_roundtrip.cu - TMA and wgmma must agree about where a matrix lies in shared memory.
 *
 * Row-major matrices in device memory are loaded by cp.async.bulk.tensor in each swizzle mode, wgmma reads
 * them back through matrix descriptors of that mode, and D must be the plain product of small integers: every
 * type, every N, both majors where the type has them. Nothing but TMA writes the shared memory, and no
 * swizzled address is computed here: a mode that means one thing to tensor maps and another to descriptors
 * cannot pass.
 *
 * As in real kernels, A and B are tiles of 128 bytes of K, loaded box by box where a row is longer than the
 * swizzle span, and four wgmmas walk through K by advancing the start address of the descriptors. One kernel
 * per type, N and majors: what depends on the swizzle mode (tensor map, boxes, descriptors) is a parameter.
 * The kernels are written as PTX (printed with PRINT_PTX in the environment, for ptxas); some are CUDA,
 * compiled by nvcc. */
#include <stdarg.h>
#include <cuda.h>
#define _Noreturn [[noreturn]]
#define _Static_assert static_assert
extern "C" {
#include "machine.h"
}
#include "fa_test.h"

/* ---- types --------------------------------------------------------------------------------------------- */

struct Number {
    const char *name, *sum;
    int bits, exponent, mantissa; /* exponent 0: integer */
    int least;                    /* of nine integers, which the tests use */
    CUtensorMapDataType map;
};
static const Number F16 = {"f16", "f32", 16, 5, 10, -4, CU_TENSOR_MAP_DATA_TYPE_FLOAT16},
                    BF16 = {"bf16", "f32", 16, 8, 7, -4, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16},
                    TF32 = {"tf32", "f32", 32, 8, 23, -4, CU_TENSOR_MAP_DATA_TYPE_FLOAT32},
                    E4M3 = {"e4m3", "f32", 8, 4, 3, -4, CU_TENSOR_MAP_DATA_TYPE_UINT8},
                    E5M2 = {"e5m2", "f32", 8, 5, 2, -4, CU_TENSOR_MAP_DATA_TYPE_UINT8},
                    S8 = {"s8", "s32", 8, 0, 0, -4, CU_TENSOR_MAP_DATA_TYPE_UINT8},
                    U8 = {"u8", "s32", 8, 0, 0, 0, CU_TENSOR_MAP_DATA_TYPE_UINT8};

static u32 bits_of(const Number &t, int v) {
    if (!t.exponent || v == 0) return (u32)v;
    int e = 31 - __builtin_clz((u32)abs(v)), bias = (1 << (t.exponent - 1)) - 1;
    u32 fraction = ((u32)abs(v) << t.mantissa >> e) - (1u << t.mantissa); /* exact: |v| <= 4 */
    return (v < 0 ? 1u << (t.bits - 1) : 0) | (u32)(e + bias) << t.mantissa | fraction;
}

/* ---- tiles --------------------------------------------------------------------------------------------- */

enum { K_MAJOR, MN_MAJOR };
enum { M = 64, MOST_N = 256, TILE_K = 128 /* bytes */, STEPS = TILE_K / 32 };
enum { X0 = 8, Y0 = 3 }; /* where the tile begins in its tensor */
enum { A_AT = 0, B_AT = M * TILE_K, BARRIER_AT = B_AT + MOST_N * TILE_K }; /* in shared memory */

/* What a kernel gets to know of A or B. */
struct Tile {
    CUtensorMap map;
    u64 descriptor[STEPS];   /* for a tile at shared address 0 */
    u32 boxes, width, bytes; /* box i: at X0 + i width, Y0; i `bytes` into the tile */
};

struct Matrix {
    const Number *type;
    int major, rows, depth;    /* rows of A, columns of B; K in elements */
    s32 value[TILE_K][MOST_N]; /* [k][row] */
    int inner, outer;          /* the same in memory: elements of a line, lines */
    u64 pitch;
    u8 *memory;
};

/* Memory that the tests and the kernels share. */
static void *managed(size_t n) {
    void *p = NULL;
    if (cudaMallocManaged(&p, n) || cudaMemset(p, 0, n)) abort();
    return p;
}

static void fill(Matrix &m, const Number &type, int major, int rows, u64 *seed) {
    enum { ROOM = 128 << 10 };
    if (!m.memory) m.memory = (u8 *)managed(ROOM);
    int size = type.bits / 8, depth = TILE_K / size;
    m.type = &type, m.major = major, m.rows = rows, m.depth = depth;
    m.inner = major == K_MAJOR ? depth : rows, m.outer = major == K_MAJOR ? rows : depth;
    m.pitch = (u64)((X0 + m.inner) * size + 15) / 16 * 16 + 16 * (u64)fat_below(seed, 3);
    u64 used = (u64)(Y0 + m.outer) * m.pitch;
    if (used > ROOM) abort();
    for (u64 i = 0; i < used; i += 8) *(u64 *)(void *)(m.memory + i) = fat_next(seed); /* around the tile */
    for (int k = 0; k < depth; k++)
        for (int r = 0; r < rows; r++) {
            int x = major == K_MAJOR ? k : r, y = major == K_MAJOR ? r : k;
            u32 bits = bits_of(type, m.value[k][r] = type.least + fat_below(seed, 9));
            memcpy(m.memory + (u64)(Y0 + y) * m.pitch + (u64)((X0 + x) * size), &bits, (size_t)size);
        }
}

/* Swizzle modes: 0 none, 1 32B, 2 64B, 3 128B, as tensor maps count; 0 has lines of 16 bytes. */
static int span_of(int mode) { return 16 << mode; }

static void load_by(Tile &t, const Matrix &m, int mode) {
    static CUresult (*encode)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *,
                              const cuuint64_t *, const cuuint32_t *, const cuuint32_t *,
                              CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion,
                              CUtensorMapFloatOOBfill);
    cudaDriverEntryPointQueryResult found;
    if (!encode && (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", (void **)&encode, 12000,
                                                     cudaEnableDefault, &found) != cudaSuccess ||
                    found != cudaDriverEntryPointSuccess))
        abort();
    int size = m.type->bits / 8;
    t.width = (u32)(span_of(mode) / size), t.bytes = (u32)(span_of(mode) * m.outer);
    t.boxes = ((u32)m.inner + t.width - 1) / t.width;
    cuuint64_t dim[] = {(cuuint64_t)(X0 + m.inner), (cuuint64_t)(Y0 + m.outer)}, stride[] = {m.pitch};
    cuuint32_t box[] = {t.width, (cuuint32_t)m.outer}, step[] = {1, 1};
    CUresult result = encode(&t.map, m.type->map, 2, m.memory, dim, stride, box, step,
                             CU_TENSOR_MAP_INTERLEAVE_NONE, (CUtensorMapSwizzle)mode,
                             CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    FA_EXPECT_MSG(result == CUDA_SUCCESS, "cuTensorMapEncodeTiled: %d", (int)result);
}

/* PTX ISA, "Matrix Descriptor Format" and "Strides": lines of a box are next to one another, eight of them a
 * core matrix or the height of a swizzle atom; boxes follow one another. A step is 32 bytes of K if that is
 * within a line, else that share of the lines. Descriptors count the swizzled modes backwards. */
static void read_by(Tile &t, const Matrix &m, int mode) {
    int span = span_of(mode), box = span * m.outer, atom = 8 * span, lead, stride;
    if (m.major == K_MAJOR)
        lead = mode ? 16 /* not used */ : box, stride = atom;
    else if (mode)
        lead = box, stride = atom;
    else
        lead = atom, stride = box;
    for (int s = 0; s < STEPS; s++) {
        int at = m.major == K_MAJOR ? 32 * s / span * box + 32 * s % span : m.depth / STEPS * s * span;
        t.descriptor[s] =
            (u64)(at >> 4) | (u64)(lead >> 4) << 16 | (u64)(stride >> 4) << 32 | (u64)(-mode & 3) << 62;
    }
}

/* ---- the kernels as PTX -------------------------------------------------------------------------------- */

static char *text;
static size_t text_length, text_room;

static void say(const char *format, ...) {
    va_list ap;
    va_start(ap, format);
    if (text_room - text_length < 4096) text = (char *)realloc(text, text_room += 1 << 14);
    text_length += (size_t)vsnprintf(text + text_length, text_room - text_length, format, ap);
    va_end(ap);
}

struct Form {
    const Number *type;
    int n, major_a, major_b;
};

static void say_load(char tile, int at) {
    say("ld.param.u32 %%left, [%c+%zu];\nld.param.u32 %%width, [%c+%zu];\nld.param.u32 %%bytes, [%c+%zu];\n",
        tile, offsetof(Tile, boxes), tile, offsetof(Tile, width), tile, offsetof(Tile, bytes));
    say("add.u32 %%to, %%s, %d;\nmov.u32 %%x, %d;\nmov.u32 %%y, %d;\n", at, X0, Y0);
    say("mov.b64 %%map, %c;\ncvta.param.u64 %%map, %%map;\nmul.lo.u32 %%total, %%left, %%bytes;\n", tile);
    say("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%%barrier], %%total;\nLOAD_%c:\n", tile);
    say("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
        " [%%to], [%%map, {%%x, %%y}], [%%barrier];\n"
        "add.u32 %%to, %%to, %%bytes;\nadd.u32 %%x, %%x, %%width;\nsub.u32 %%left, %%left, 1;\n"
        "setp.ne.u32 %%p, %%left, 0;\n@%%p bra LOAD_%c;\n",
        tile);
}

static Kernel *kernel_of(const Form &f) {
    const char *sum = f.type->exponent ? "f32" : "b32";
    say(".version 8.0\n.target sm_90a\n.address_size 64\n.visible .entry k(.param .align %zu .b8 a[%zu], "
        ".param .align %zu .b8 b[%zu], .param .u64 out)\n.maxntid 128, 1, 1\n{\n",
        alignof(Tile), sizeof(Tile), alignof(Tile), sizeof(Tile));
    say(".shared .align 1024 .b8 memory[%d];\n.reg .pred %%p;\n.reg .b64 %%map, %%base, %%q<3>;\n"
        ".reg .%s %%d<%d>;\n"
        ".reg .b32 %%t, %%s, %%barrier, %%left, %%width, %%bytes, %%total, %%to, %%x, %%y;\n",
        BARRIER_AT + 8, sum, f.n / 2);
    say("mov.u32 %%t, %%tid.x;\nmov.u32 %%s, memory;\nadd.u32 %%barrier, %%s, %d;\nsetp.ne.u32 %%p, %%t, 0;\n"
        "@%%p bra LOADING;\nmbarrier.init.shared::cta.b64 [%%barrier], 1;\n"
        "fence.mbarrier_init.release.cluster;\n",
        BARRIER_AT);
    say_load('a', A_AT), say_load('b', B_AT);
    say("mbarrier.arrive.shared::cta.b64 _, [%%barrier];\nLOADING:\nbar.sync 0;\n"
        "WAIT:\nmbarrier.try_wait.parity.shared::cta.b64 %%p, [%%barrier], 0;\n@!%%p bra WAIT;\n"
        "shr.u32 %%to, %%s, 4;\ncvt.u64.u32 %%base, %%to;\nwgmma.fence.sync.aligned;\n");
    for (int s = 0; s < STEPS; s++) {
        for (int i = 0; i < 2; i++)
            say("ld.param.u64 %%q%d, [%c+%zu];\nadd.u64 %%q%d, %%q%d, %%base;\n", i, 'a' + i,
                offsetof(Tile, descriptor) + 8 * (size_t)s, i, i);
        say("add.u64 %%q1, %%q1, %d;\nwgmma.mma_async.sync.aligned.m64n%dk%d.%s.%s.%s {%%d0", B_AT >> 4, f.n,
            256 / f.type->bits, f.type->sum, f.type->name, f.type->name);
        for (int i = 1; i < f.n / 2; i++) say(", %%d%d", i);
        say("}, %%q0, %%q1, %d%s", s > 0, f.type->exponent ? ", 1, 1" : "");
        if (f.type->bits == 16) say(", %d, %d", f.major_a, f.major_b);
        say(";\n");
    }
    say("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n"
        "ld.param.u64 %%q2, [out];\nmul.wide.u32 %%q0, %%t, 4;\nadd.u64 %%q2, %%q2, %%q0;\n");
    for (int i = 0; i < f.n / 2; i++) say("st.global.%s [%%q2+%d], %%d%d;\n", sum, i * 512, i);
    say("ret;\n}\n");
    if (getenv("PRINT_PTX")) printf("%s//----\n", text);
    Module *module = ptx_module_from_text(text, text_length);
    text = NULL, text_length = text_room = 0; /* it belongs to the module */
    return ptx_kernel(module, "k");
}

static int launch(Kernel *k, void **args) {
    LaunchShape shape = {};
    for (int i = 0; i < 3; i++) shape.grid[i] = shape.block[i] = 1;
    shape.block[0] = 128;
    int error = ptx_launch(k, &shape, args), flushed = ptx_flush();
    return error ? error : flushed;
}
static int launch(const void *k, void **args) {
    cudaError_t error = cudaLaunchKernel(k, dim3(1), dim3(128), args, 0, 0), waited = cudaDeviceSynchronize();
    return error ? error : waited;
}

/* ---- round trips --------------------------------------------------------------------------------------- */

static Matrix A, B;
static s32 want[M][MOST_N];
static u32 *sums; /* D: register i of thread t at i * 128 + t */

static void prepare(const Form &f) {
    if (!sums) sums = (u32 *)managed(MOST_N / 2 * 128 * sizeof *sums);
    u64 seed = fat_seed + (u64)f.n;
    fill(A, *f.type, f.major_a, M, &seed), fill(B, *f.type, f.major_b, f.n, &seed);
    memset(want, 0, sizeof want);
    for (int row = 0; row < M; row++)
        for (int k = 0; k < A.depth; k++)
            for (int col = 0; col < f.n; col++) want[row][col] += A.value[k][row] * B.value[k][col];
}

/* Loads A and B in the first pair of modes, reads them in the second: how many elements of D are wrong. */
template <class Code>
static int wrong(Code kernel, const Form &f, const int (&load)[2], const int (&read)[2]) {
    u32 *out = sums;
    Tile a = {}, b = {};
    load_by(a, A, load[0]), load_by(b, B, load[1]);
    read_by(a, A, read[0]), read_by(b, B, read[1]);
    memset(out, 0xff, (size_t)f.n / 2 * 128 * sizeof *out);
    void *args[] = {&a, &b, &out};
    int error = launch(kernel, args), count = 0;
    FA_EXPECT_MSG(error == 0, "launch: error %d", error);
    for (int i = 0; i < f.n / 2; i++)
        for (int t = 0; t < 128; t++) { /* PTX ISA, "Register Fragments for wgmma.mma_async": D */
            int row = t / 32 * 16 + t % 32 / 4 + 8 * (i >> 1 & 1), col = 8 * (i >> 2) + 2 * (t % 4) + (i & 1);
            float v = (float)(s32)out[i * 128 + t];
            if (f.type->exponent) memcpy(&v, &out[i * 128 + t], sizeof v);
            count += !(v == (float)want[row][col]);
        }
    return count;
}

template <class Code> static void round_trip(Code kernel, const Form &f, int mode_a, int mode_b) {
    int modes[] = {mode_a, mode_b}, count = wrong(kernel, f, modes, modes);
    FA_EXPECT_MSG(count == 0, "m64n%d %s, majors %d %d, swizzle modes %d %d: %d of %d elements are wrong",
                  f.n, f.type->name, f.major_a, f.major_b, mode_a, mode_b, count, M * f.n);
}

/* B in all modes, and A in a mode that runs through all of them while N does. */
static void all_shapes(const Number &type) {
    int majors = type.bits == 16 ? 2 : 1;
    for (int n = 8; n <= MOST_N; n += type.exponent || n < 32 ? 8 : 16)
        for (int i = 0; i < majors * majors; i++) {
            Form f = {&type, n, i / 2, i % 2};
            Kernel *kernel = kernel_of(f);
            prepare(f);
            for (int mode = 0; mode < 4; mode++) round_trip(kernel, f, (mode + n / 8) % 4, mode);
        }
}

FA_TEST(f16) { all_shapes(F16); }
FA_TEST(bf16) { all_shapes(BF16); }
FA_TEST(tf32) { all_shapes(TF32); }
FA_TEST(e4m3) { all_shapes(E4M3); }
FA_TEST(e5m2) { all_shapes(E5M2); }
FA_TEST(s8) { all_shapes(S8); }
FA_TEST(u8) { all_shapes(U8); }

/* A descriptor of another mode than the tensor map's finds another matrix in the same bytes. */
FA_TEST(other_mode) {
    Form f = {&BF16, 64, K_MAJOR, K_MAJOR};
    Kernel *kernel = kernel_of(f);
    prepare(f);
    for (int load = 0; load < 4; load++)
        for (int read = 0; read < 4; read++) {
            int loads[] = {load, load}, reads_a[] = {read, load}, reads_b[] = {load, read};
            int of_a = wrong(kernel, f, loads, reads_a), of_b = wrong(kernel, f, loads, reads_b);
            bool right = load == read ? of_a + of_b == 0 : of_a > 1000 && of_b > 1000;
            FA_EXPECT_MSG(right, "loaded in mode %d, read in %d: %d, %d are wrong", load, read, of_a, of_b);
        }
}

/* ---- the same in CUDA, by way of nvcc ------------------------------------------------------------------ */

static __device__ void load(const Tile &tile, u32 to, u32 barrier) {
    for (u32 i = 0; i < tile.boxes; i++)
        asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
                     " [%0], [%1, {%2, %3}], [%4];" ::"r"(to + i * tile.bytes),
                     "l"(&tile.map), "r"(X0 + i * tile.width), "r"(Y0), "r"(barrier)
                     : "memory");
}

static const Form forms[] = {
    {&BF16, 32, K_MAJOR, MN_MAJOR}, {&TF32, 32, 0, 0}, {&E4M3, 32, 0, 0}, {&S8, 32, 0, 0}};

#define FOUR(c, i) c(d[i]), c(d[i + 1]), c(d[i + 2]), c(d[i + 3])
#define WGMMA(shape, c, tail) \
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %18, 0; wgmma.mma_async.sync.aligned.m64n32" shape \
                 " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}," \
                 " %16, %17, p" tail "; }" \
                 : FOUR(c, 0), FOUR(c, 4), FOUR(c, 8), FOUR(c, 12) \
                 : "l"(x), "l"(y), "r"(s) \
                 : "memory")

template <int FORM, class Sum>
__global__ void __launch_bounds__(128)
    compiled(const __grid_constant__ Tile a, const __grid_constant__ Tile b, Sum *out) {
    __shared__ alignas(1024) u8 memory[BARRIER_AT + 8];
    u32 at = (u32)__cvta_generic_to_shared(memory), barrier = at + BARRIER_AT, done = 0;
    if (threadIdx.x == 0) {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barrier) : "memory");
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier),
                     "r"(a.boxes * a.bytes + b.boxes * b.bytes)
                     : "memory");
        load(a, at + A_AT, barrier), load(b, at + B_AT, barrier);
    }
    __syncthreads();
    while (!done)
        asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], 0;"
                     " selp.u32 %0, 1, 0, p; }"
                     : "=r"(done)
                     : "r"(barrier)
                     : "memory");
    Sum d[16];
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
        u64 x = a.descriptor[s] + ((at + A_AT) >> 4), y = b.descriptor[s] + ((at + B_AT) >> 4);
        if constexpr (FORM == 0) WGMMA("k16.f32.bf16.bf16", "+f", ", 1, 1, 0, 1");
        if constexpr (FORM == 1) WGMMA("k8.f32.tf32.tf32", "+f", ", 1, 1");
        if constexpr (FORM == 2) WGMMA("k32.f32.e4m3.e4m3", "+f", ", 1, 1");
        if constexpr (FORM == 3) WGMMA("k32.s32.s8.s8", "+r", "");
    }
    asm volatile("wgmma.commit_group.sync.aligned;\n\twgmma.wait_group.sync.aligned 0;" ::: "memory");
    for (int i = 0; i < 16; i++) out[i * 128 + threadIdx.x] = d[i];
}

FA_TEST(compiled) {
    const void *kernel[] = {(const void *)compiled<0, float>, (const void *)compiled<1, float>,
                            (const void *)compiled<2, float>, (const void *)compiled<3, s32>};
    for (int i = 0; i < 4; i++) {
        prepare(forms[i]);
        for (int mode = 0; mode < 16; mode++) round_trip(kernel[i], forms[i], mode / 4, mode % 4);
    }
}

FA_TEST_MAIN
