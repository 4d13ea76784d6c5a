/*  flashattn_cuda.cuh - v0.1.0 - attention kernels as CUDA templates - MIT licence, see end of flashattn.h

    WHAT      The forward pass of flashattn.h on NVIDIA GPUs with tensor cores (sm_80 and up), in f16 and bf16: the same
              fa_args, now with pointers to device memory, the same features, the same masks, the same dropped elements.

    DO THIS   copy this file and flashattn.h next to yours; compile with  nvcc -O3 -arch=native hello.cu

        #define FA_NAME     attn128          // prefix of everything generated
        #define FA_HEAD_DIM 128
        #include "flashattn_cuda.cuh"        // -> attn128_forward_cuda(), attn128_cuda_info, ...

    DOES NOT  allocate, print, synchronise, keep state, or change the device: a call launches one kernel on the stream that it
              is given, and may be captured in a graph. Bad arguments return a status; nothing is launched unless it is FA_OK.

    CONTENTS  search for:  >>vocabulary  >>maps  >>launch-once  >>tiles  >>loads  >>scores  >>products  >>kernel  >>launch

    PARAMETERS  those of flashattn.h, defined before an include and undefined by it. Different here:

        FA_DTYPE             FA_BF16        FA_F16 or FA_BF16
        FA_KV_DTYPE, FA_O_DTYPE   FA_DTYPE  nothing else
        FA_PASSES            FA_FORWARD     nothing else
        FA_BLOCK_M           see >>tiles    query rows of a thread block: a multiple of 16 FA_WARPS, 16 or 32 rows a warp
        FA_BLOCK_N           see >>tiles    keys of a tile: 16, 32 ..
        FA_WARPS             see >>tiles    warps of a thread block
        FA_STAGES            see >>tiles    1 or 2 tiles of K and V in shared memory

    YOU GET, for FA_NAME = attn128 (all static, no external symbol)

        const fa_cuda_info attn128_cuda_info;
        size_t    attn128_forward_cuda_workspace(const fa_args *args);
        fa_status attn128_forward_cuda(const fa_args *args, void *workspace, size_t bytes, cudaStream_t stream);
        fa_status attn128_forward_cuda_launch(const fa_args *args, fa_cuda_launch *launch);

    DATA      Rows of q, k, v and o start at multiples of 16 bytes: data, and strides in bytes. cu_seqlens, seqused,
              block_table and all other arrays are in device memory, so their contents are not checked: lengths must not
              exceed seqlen_q and seqlen_k, page numbers must be below num_pages, and a tree mask needs len_k >= len_q.
              args itself and args->error are in host memory. num_threads and split_keys mean nothing here.

    NOTATION  as in flashattn.h. BM query rows and BN keys make a tile; fragment: a thread's part of a matrix that an mma
              multiplies, a plain array whose shape is said where it is declared, MT = 16-row matrices of a warp; chunk: 8
              elements, 16 bytes; gX, sX, rX: X in global memory, in shared memory (a 32-bit address), in registers.  */

#if !defined(__CUDACC__)
#error "flashattn_cuda.cuh: compile with nvcc (a .cu file, or -x cu); flashattn.h has the CPU kernels"
#endif
#define FAI_CUDA
#include "flashattn.h" /* the contract, and the parameters if there is a FA_NAME */

#ifndef FA_FLASHATTN_CUDA_CUH
#define FA_FLASHATTN_CUDA_CUH

#if FA_VERSION_NUMBER != 100
#error "flashattn_cuda.cuh: flashattn.h beside it is of another version: copy both files from the same release"
#endif

#include <cuda_runtime.h>

#define FAI_ATOM static __device__ __forceinline__

#if defined(__CUDA_ARCH__)
#define FAI_ARCH __CUDA_ARCH__
#else
#define FAI_ARCH 800 /* the host pass: any */
#endif

/* ======================================================================================== */
/* >>vocabulary  one PTX instruction a function; names and operands in the order of PTX      */
/* ======================================================================================== */

FAI_ATOM uint32_t fai_cvta_to_shared(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }

/* 16 bytes, the first `valid` of them from memory, the rest zeros */
FAI_ATOM void fai_cp_async_cg_16(uint32_t to, const void *from, int valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid) : "memory");
}
FAI_ATOM void fai_cp_async_wait_all(void) { asm volatile("cp.async.wait_all;" ::: "memory"); }

FAI_ATOM void fai_ldmatrix_x4(uint32_t r[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}
FAI_ATOM void fai_ldmatrix_x4_trans(uint32_t r[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}
FAI_ATOM void fai_st_shared_b32(uint32_t address, uint32_t x) {
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(address), "r"(x) : "memory");
}
FAI_ATOM uint4 fai_ld_shared_v4_b32(uint32_t address) {
    uint4 x;
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                 : "r"(address)
                 : "memory");
    return x;
}
FAI_ATOM void fai_st_shared_v4_b32(uint32_t address, uint4 x) {
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w)
                 : "memory");
}

/* D += A B: d (16,8), a (16,16) by rows, b (16,8) by columns; who holds what: >>maps */
#define FAI_MMA_M16N8K16(type, d, a, b) \
    asm("mma.sync.aligned.m16n8k16.row.col.f32." type "." type ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, " \
        "{%0, %1, %2, %3};" \
        : "+f"((d)[0]), "+f"((d)[1]), "+f"((d)[2]), "+f"((d)[3]) \
        : "r"((a)[0]), "r"((a)[1]), "r"((a)[2]), "r"((a)[3]), "r"((b)[0]), "r"((b)[1]))
FAI_ATOM void fai_mma_m16n8k16_f32_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    FAI_MMA_M16N8K16("bf16", d, a, b);
}
FAI_ATOM void fai_mma_m16n8k16_f32_f16(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    FAI_MMA_M16N8K16("f16", d, a, b);
}
#undef FAI_MMA_M16N8K16

FAI_ATOM uint32_t fai_cvt_rn_bf16x2_f32(float high, float low) {
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}
FAI_ATOM uint32_t fai_cvt_rn_f16x2_f32(float high, float low) {
    uint32_t r;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}
FAI_ATOM float fai_ex2_approx_ftz_f32(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
FAI_ATOM float fai_lg2_approx_f32(float x) {
    float y;
    asm("lg2.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
FAI_ATOM float fai_shfl_sync_bfly_f32(float x, int mask) { return __shfl_xor_sync(~0u, x, mask); }

/* ======================================================================================== */
/* >>maps     where elements are: tiles in shared memory, fragments in registers             */
/* ======================================================================================== */

/*  A tile in shared memory: rows of dim elements, dim / 8 chunks of 16 bytes, without padding. ldmatrix reads 8 rows of one
 *  chunk column at once, which must lie in 8 different groups of 4 banks, so chunks change places by row. Rows of 64 n
 *  elements all begin in the same bank: 8 chunks are permuted, by an xor with row % 8. Rows of 64 n + 32 begin in two
 *  places: 4 chunks, row / 2 % 4. Rows of 32 n + 16 begin in four: 2 chunks, row / 4 % 2.
 *
 *      dim 64      chunk 0 1 2 3 4 5 6 7        dim 16      chunk 0 1
 *      row 0             0 1 2 3 4 5 6 7        rows 0 - 3        0 1
 *      row 1             1 0 3 2 5 4 7 6        rows 4 - 7        1 0
 *      row 2             2 3 0 1 6 7 4 5                                                                  */
#define FAI_GROUP(dim) ((dim) / 8 % 8 == 0 ? 8 : (dim) / 8 % 4 == 0 ? 4 : 2) /* chunks that are permuted together */
#define FAI_SWIZZLE(dim, row) ((row) / (8 / FAI_GROUP(dim)) % FAI_GROUP(dim))
#define FAI_AT(dim, row, chunk) ((row) * (dim) * 2 + ((chunk) ^ FAI_SWIZZLE(dim, row)) * 16)
/* From base = tile + FAI_AT(dim, row, chunk), chunk 0 or 1, to the same place 8 n rows and 2 m chunks on: constants if n and
 * m are, as swz(c + 2m) == swz(c) ^ 2m for c < 2, and 8 rows on the permutation is the same. tile: a multiple of 128. */
#define FAI_MOVE(dim, base, rows, chunks) \
    (((base) ^ (chunks) % FAI_GROUP(dim) * 16) + (chunks) / FAI_GROUP(dim) * FAI_GROUP(dim) * 16 + (rows) * (dim) * 2)

/*  Fragments of m16n8k16. Lane l holds rows g and g + 8, columns 2t, 2t + 1 of the accumulator:   g = l / 4, t = l % 4
 *               t=0     t=1     t=2     t=3
 *      row g    c0 c1   c0 c1   c0 c1   c0 c1
 *      row g+8  c2 c3   c2 c3   c2 c3   c2 c3
 *  The accumulators of two neighbours, rounded, are an A fragment: P needs no other lane. */
#define FAI_C_ROW(lane, v) ((lane) / 4 + (v) / 2 * 8)
#define FAI_C_COL(lane, v) ((lane) % 4 * 2 + (v) % 2)
/* The row and the chunk whose address a lane gives to ldmatrix.x4: for A (16 rows, 2 chunks of k); for V, transposed, two B
 * (16 rows of k, 2 chunks of n); for K, two B (16 rows of n, 2 chunks of k). */
#define FAI_LDMATRIX_A_ROW(lane) ((lane) % 16)
#define FAI_LDMATRIX_A_CHUNK(lane) ((lane) / 16)
#define FAI_LDMATRIX_B_ROW(lane) ((lane) % 8 + (lane) / 16 * 8)
#define FAI_LDMATRIX_B_CHUNK(lane) ((lane) / 8 % 2)

/* ======================================================================================== */
/* >>launch-once  what all instances share on the host                                       */
/* ======================================================================================== */

/* What an instance is. The first member is what fa_select takes; its own functions, of the CPU, are NULL. */
typedef struct fa_cuda_info {
    fa_info info;
    size_t (*forward_workspace)(const fa_args *args);
    fa_status (*forward)(const fa_args *args, void *workspace, size_t bytes, cudaStream_t stream);
} fa_cuda_info;

/* A launch that only wants doing: cudaLaunchKernel(kernel, grid, block, {args}, shared, stream). */
typedef struct fa_cuda_launch {
    const void *kernel;
    unsigned grid, block; /* thread blocks, threads of each */
    size_t shared;        /* bytes, allowed by cudaFuncSetAttribute already */
    int arch;             /* 800, 860 ..: of the kernel that this GPU runs, which fixes the tile */
} fa_cuda_launch;

#define FAI_LOG2E 1.4426950408889634f
#define FAI_LN2 0.6931471805599453f

/* An error of CUDA as a status; args->error->got is the cudaError_t. */
static inline fa_status fai_cuda_status(const fa_args *args, cudaError_t e) {
    return e == cudaSuccess ? FA_OK : fai_fail(args, FA_ERR_CUDA, "cudaError_t", -1, (double)e, 0, 0);
}

/* Rows of a 16-bit tensor must start at multiples of 16 bytes. */
static inline fa_status fai_cuda_check_rows(const fa_args *args, const void *data, int64_t b, int64_t s, int64_t h, fa_status bad,
                                            const char *const field[4]) {
    const int64_t stride[3] = {b, s, h};
    if ((uintptr_t)data % 16) return fai_fail(args, bad, field[0], -1, (double)((uintptr_t)data % 16), 0, 0);
    for (int n = 0; n < 3; n++)
        if (stride[n] > 0 && stride[n] % 8) return fai_fail(args, bad, field[n + 1], -1, (double)stride[n], 1, 0);
    return FA_OK;
}
#define FAI_CHECK_ROWS(t, T) \
    if (status == FA_OK) { \
        static const char *const field[4] = {#t ".data", #t ".stride_b", #t ".stride_s", #t ".stride_h"}; \
        status = fai_cuda_check_rows(args, args->t.data, args->t.stride_b, args->t.stride_s, args->t.stride_h, \
                                     FA_ERR_##T##_ALIGN, field); \
    }
/* fa_check_pass for device memory. */
FAI_NOINLINE fa_status fa_check_pass_cuda(const fa_info *info, const fa_args *args, uint32_t pass) {
    fa_status status = fa_check_pass(info, args, pass | FAI_DEVICE_LISTS);
    FAI_CHECK_ROWS(q, Q)
    FAI_CHECK_ROWS(k, K)
    FAI_CHECK_ROWS(v, V)
    FAI_CHECK_ROWS(o, O)
    return status;
}
#undef FAI_CHECK_ROWS

#endif /* once */

#if defined(FA_NAME)

/* ======================================================================================== */
/* >>tiles    one more instance: what this file has kernels for, and how large their tiles are */
/* ======================================================================================== */

#if FA_DTYPE != FA_F16 && FA_DTYPE != FA_BF16
#error "flashattn_cuda.cuh: FA_DTYPE must be FA_F16 or FA_BF16"
#undef FA_DTYPE
#define FA_DTYPE FA_BF16
#endif
#if FA_KV_DTYPE != FA_DTYPE || FA_O_DTYPE != FA_DTYPE
#error "flashattn_cuda.cuh: FA_KV_DTYPE and FA_O_DTYPE must be FA_DTYPE"
#endif
#if (FA_PASSES) != FA_FORWARD
#error "flashattn_cuda.cuh: FA_PASSES must be FA_FORWARD"
#endif

#if FA_HEAD_DIM > FA_HEAD_DIM_V
#define FAI_DIM FA_HEAD_DIM
#else
#define FAI_DIM FA_HEAD_DIM_V
#endif

/* Tiles by (arch = __CUDA_ARCH__, larger head dim). Two m16 matrices of a warp share each B fragment, which halves what is
 * read of K and V from shared memory, at one accumulator register a thread for every 16 elements; up to 128 dims that fits,
 * beyond it a warp has 16 rows. sm_86, 89 and 120 have 99 KB of shared memory a block, sm_80 163, sm_90 and 100 227. */
#define FAI_LITTLE_SHARED(arch) ((arch) == 860 || (arch) == 890 || (arch) >= 1200)
#if FAI_DIM <= 64
/* 48 KB and about 200 registers: two blocks an SM everywhere, and Q stays in registers */
#define FAI_TABLE_M(arch) 128
#define FAI_TABLE_N(arch) 64
#define FAI_TABLE_WARPS(arch) 4
#define FAI_TABLE_STAGES(arch) 2
#elif FAI_DIM <= 128
/* two blocks an SM: of 64 KB on sm_80, 48 KB (32 keys) where 99 is all there is, 96 KB (2 stages) from sm_90 */
#define FAI_TABLE_M(arch) 128
#define FAI_TABLE_N(arch) (FAI_LITTLE_SHARED(arch) ? 32 : 64)
#define FAI_TABLE_WARPS(arch) 4
#define FAI_TABLE_STAGES(arch) ((arch) >= 900 && !FAI_LITTLE_SHARED(arch) ? 2 : 1)
#elif FAI_DIM <= 192
/* one block of 8 warps, 96 KB at most: fits everywhere */
#define FAI_TABLE_M(arch) 128
#define FAI_TABLE_N(arch) 64
#define FAI_TABLE_WARPS(arch) 8
#define FAI_TABLE_STAGES(arch) 1
#else
/* sm_80: one block of 8 warps, 128 KB; elsewhere 96 KB: from sm_90 twice an SM, and all that sm_86, 89 and 120 have */
#define FAI_TABLE_M(arch) ((arch) == 800 ? 128 : 64)
#define FAI_TABLE_N(arch) 64
#define FAI_TABLE_WARPS(arch) ((arch) == 800 ? 8 : 4)
#define FAI_TABLE_STAGES(arch) 1
#endif

#ifdef FA_BLOCK_M
#define FAI_TILE_M(arch) FA_BLOCK_M
#else
#define FAI_TILE_M(arch) FAI_TABLE_M(arch)
#endif
#ifdef FA_BLOCK_N
#define FAI_TILE_N(arch) FA_BLOCK_N
#else
#define FAI_TILE_N(arch) FAI_TABLE_N(arch)
#endif
#ifdef FA_WARPS
#define FAI_TILE_WARPS(arch) FA_WARPS
#else
#define FAI_TILE_WARPS(arch) FAI_TABLE_WARPS(arch)
#endif
#ifdef FA_STAGES
#define FAI_TILE_STAGES(arch) FA_STAGES
#else
#define FAI_TILE_STAGES(arch) FAI_TABLE_STAGES(arch)
#endif

/* Q, then the stages of K and V, [K V] [K V]; O takes their place at the end */
#define FAI_TILE_SHARED(arch) \
    (2 * (FAI_TILE_M(arch) * FA_HEAD_DIM_V > FAI_TILE_M(arch) * FA_HEAD_DIM + FAI_TILE_STAGES(arch) * FAI_TILE_N(arch) * \
                                                                               (FA_HEAD_DIM + FA_HEAD_DIM_V) \
              ? FAI_TILE_M(arch) * FA_HEAD_DIM_V \
              : FAI_TILE_M(arch) * FA_HEAD_DIM + \
                    FAI_TILE_STAGES(arch) * FAI_TILE_N(arch) * (FA_HEAD_DIM + FA_HEAD_DIM_V)))

/* the sizes of this compilation, as constants of a function */
#define FAI_THREADS (FAI_TILE_WARPS(FAI_ARCH) * 32)
#define FAI_BN FAI_TILE_N(FAI_ARCH)
#define FAI_MT (FAI_TILE_M(FAI_ARCH) / FAI_TILE_WARPS(FAI_ARCH) / 16)
#define FAI_SIZES \
    enum { \
        D = FA_HEAD_DIM, \
        DV = FA_HEAD_DIM_V, \
        BM = FAI_TILE_M(FAI_ARCH), \
        BN = FAI_TILE_N(FAI_ARCH), \
        WARPS = FAI_TILE_WARPS(FAI_ARCH), \
        STAGES = FAI_TILE_STAGES(FAI_ARCH), \
        THREADS = FAI_THREADS, \
        MT = FAI_MT, \
        Q_STAYS = FAI_MT * FA_HEAD_DIM <= 128 /* in registers: 64 of them at most */ \
    };
FA_STATIC_ASSERT(FAI_TILE_M(FAI_ARCH) == FAI_MT * 16 * FAI_TILE_WARPS(FAI_ARCH) && (FAI_MT == 1 || FAI_MT == 2),
                 "flashattn_cuda.cuh: FA_BLOCK_M must be 16 or 32 times FA_WARPS");
FA_STATIC_ASSERT(FAI_BN >= 16 && FAI_BN <= 128 && FAI_BN % 16 == 0,
                 "flashattn_cuda.cuh: FA_BLOCK_N must be a multiple of 16 in 16..128");
FA_STATIC_ASSERT(FAI_TILE_STAGES(FAI_ARCH) == 1 || FAI_TILE_STAGES(FAI_ARCH) == 2,
                 "flashattn_cuda.cuh: FA_STAGES must be 1 or 2");

#define FAI_ISA cuda
#define FAI_HAS(features) (((FA_FEATURES) & (features)) != 0)
#if FA_DTYPE == FA_BF16
#define FAI_MMA fai_mma_m16n8k16_f32_bf16
#define FAI_PACK fai_cvt_rn_bf16x2_f32
#define FAI_SIGNS 0x80008000u
#else
#define FAI_MMA fai_mma_m16n8k16_f32_f16
#define FAI_PACK fai_cvt_rn_f16x2_f32
#define FAI_SIGNS 0x80008000u
#endif

/* What the threads of a block have in common. Its rows are those of one key/value head: row r is query r / group of head
 * r % group, so the heads of a group share K and V, and few queries fill a tile. */
typedef struct FAI_(tile) {
    const fa_args *args;
    fa_sequence seq;
    int32_t head_k, group;
    int32_t first, shift; /* row r of the tile: query first + (shift + r) / group, head (shift + r) % group */
    int32_t rows;         /* of the tile that exist */
    fa_range any, all;    /* keys that some row sees, that all rows see */
} FAI_(tile);

FAI_ATOM int32_t FAI_(query)(const FAI_(tile) *t, int32_t row) {
    return t->first + (int32_t)((uint32_t)(t->shift + row) / (uint32_t)t->group);
}
FAI_ATOM int32_t FAI_(head)(const FAI_(tile) *t, int32_t row) {
    return t->head_k * t->group + (int32_t)((uint32_t)(t->shift + row) % (uint32_t)t->group);
}

/* Keys that length, causal mask and window leave to query i. */
FAI_ATOM fa_range FAI_(keys)(const FAI_(tile) *t, int32_t i) {
    if (FAI_HAS(FA_CAUSAL | FA_WINDOW)) return fa_row_range(t->args, t->seq.len_q, t->seq.len_k, i);
    fa_range all = {0, t->seq.len_k};
    return all;
}

/* tiles of one key/value head of the longest sequence */
FAI_HD static inline int64_t FAI_(tiles)(const fa_args *a, int rows) {
    return ((int64_t)a->seqlen_q * (a->num_heads / fai_num_heads_k(a)) + rows - 1) / rows;
}

/* The tile of this block; 0 if its sequence has no such rows. The last tile goes first: under a causal mask it is the
 * longest. */
FAI_ATOM int FAI_(begin)(FAI_(tile) *t, const fa_args *a) {
    FAI_SIZES
    const uint32_t tiles = (uint32_t)FAI_(tiles)(a, BM), heads_k = (uint32_t)fai_num_heads_k(a);
    const uint32_t block = gridDim.x - 1 - blockIdx.x, number = block % tiles, head = block / tiles;
    const int32_t b = (int32_t)(head / heads_k);
    fa_sequence whole = {b, a->seqlen_q, a->seqlen_k, 0, 0, b, b};
    t->args = a, t->head_k = (int32_t)(head % heads_k), t->group = a->num_heads / (int32_t)heads_k;
    t->seq = FAI_HAS(FA_VARLEN) ? fa_get_sequence(a, b) : whole;
    const int64_t row0 = (int64_t)number * BM, rest = (int64_t)t->seq.len_q * t->group - row0;
    if (rest <= 0) return 0;
    t->first = (int32_t)(row0 / t->group), t->shift = (int32_t)(row0 % t->group);
    t->rows = rest < BM ? (int32_t)rest : BM;
    const fa_range top = FAI_(keys)(t, t->first), bottom = FAI_(keys)(t, FAI_(query)(t, t->rows - 1));
    t->any.lo = top.lo, t->any.hi = bottom.hi, t->all.lo = bottom.lo, t->all.hi = top.hi;
    return 1;
}

/* ======================================================================================== */
/* >>loads    rows of Q, K and V to shared memory                                            */
/* ======================================================================================== */

/* A pass of the block copies THREADS / GROUP rows of GROUP chunks: then each next step is a constant away. */

FAI_ATOM void FAI_(load_q)(const FAI_(tile) *t, uint32_t to) {
    FAI_SIZES
    enum { GROUP = FAI_GROUP(D), STEP = THREADS / GROUP };
    const fai_strides st = fai_strides_q(t->args, D);
    const int row0 = (int)threadIdx.x / GROUP, chunk = (int)threadIdx.x % GROUP;
    to += FAI_AT(D, row0, chunk);
#pragma unroll
    for (int r = 0; r < BM; r += STEP) {
        const int row = row0 + r < t->rows ? row0 + r : 0;
        const uint16_t *from = (const uint16_t *)t->args->q.data +
                               fai_offset_q(&t->seq, st, FAI_(query)(t, row), FAI_(head)(t, row)) + chunk * 8;
        if (BM % STEP && row0 + r >= BM) continue;
#pragma unroll
        for (int c = 0; c < D / 8; c += GROUP)
            fai_cp_async_cg_16(to + r * D * 2 + c * 16, from + c * 8, row0 + r < t->rows ? 16 : 0);
    }
}

/* Where a thread copies K or V from: chunk threadIdx.x % GROUP of row 0 of the sequence (page 0 if paged). */
typedef struct FAI_(source) {
    const uint16_t *from;
    int64_t page, row; /* strides */
} FAI_(source);

FAI_ATOM FAI_(source) FAI_(open)(const FAI_(tile) *t, const fa_tensor *x, const int dim) {
    const fai_strides st = fai_strides_kv(t->args, x, dim);
    const int64_t before = FAI_HAS(FA_PAGED) && t->args->block_table ? 0 : t->seq.b_k * st.b + t->seq.row_k * st.s;
    FAI_(source) s = {(const uint16_t *)x->data + before + t->head_k * st.h + threadIdx.x % FAI_GROUP(dim) * 8, st.b, st.s};
    return s;
}

/* Keys from first on to the tile at `to`. Those that no row of the tile sees become zeros, whatever is there. */
FAI_ATOM void FAI_(load_kv)(const FAI_(tile) *t, FAI_(source) s, int32_t first, uint32_t to, const int dim) {
    FAI_SIZES
    const int group = FAI_GROUP(dim), step = THREADS / group, row = (int)threadIdx.x / group;
    to += FAI_AT(dim, row, (int)threadIdx.x % group);
#pragma unroll
    for (int r = 0; r < BN; r += step) {
        const int32_t j = first + row + r, inside = j >= t->any.lo && j < t->any.hi;
        int32_t near = j < t->any.hi ? j : t->any.hi - 1; /* an address that exists */
        near = near > t->any.lo ? near : t->any.lo;
        const uint16_t *from = s.from + near * s.row;
        if (FAI_HAS(FA_PAGED) && t->args->block_table)
            from = s.from + fai_page(t->args, t->seq.b, near) * s.page + near % t->args->page_size * s.row;
        if (BN % step && row + r >= BN) continue;
#pragma unroll
        for (int c = 0; c < dim / 8; c += group) fai_cp_async_cg_16(to + r * dim * 2 + c * 16, from + c * 8, inside ? 16 : 0);
    }
}

/* ======================================================================================== */
/* >>scores   masks, softmax                                                                 */
/* ======================================================================================== */

/* S of keys from `first` on: what a row does not see becomes -inf. row: the first of the thread's rows in the tile. */
FAI_ATOM void FAI_(mask)(const FAI_(tile) *t, float s[FAI_MT][FAI_BN / 8][4], int32_t first, int row) {
    FAI_SIZES
    const int32_t column = first + FAI_C_COL((int)threadIdx.x % 32, 0);
#pragma unroll
    for (int n = 0; n < MT * 2; n++) { /* rows of a thread */
        const fa_range keys = FAI_(keys)(t, FAI_(query)(t, row + n * 8));
        const int32_t lo = keys.lo - column, hi = keys.hi - column;
#pragma unroll
        for (int c = 0; c < BN; c += 8) {
#pragma unroll
            for (int e = 0; e < 2; e++)
                if (c + e < lo || c + e >= hi) s[n / 2][c / 8][n % 2 * 2 + e] = -INFINITY;
        }
    }
}

/* P = exp2(scale S - m) in place. m, log2 units, need not be the maximum: it moves only when that is 2^8 above it, so P and
 * the sums stay below 2^8 times their size, and O is seldom rescaled [FA4]. l: the thread's part of the row sums. */
FAI_ATOM void FAI_(softmax)(float s[FAI_MT][FAI_BN / 8][4], float o[FAI_MT][FA_HEAD_DIM_V / 8][4], float m[FAI_MT * 2],
                            float l[FAI_MT * 2], float scale) {
    FAI_SIZES
    float top[MT * 2];
    int moves = 0;
#pragma unroll
    for (int n = 0; n < MT * 2; n++) {
        float x = -INFINITY; /* max ignores NaN, which then reaches the sum through P */
#pragma unroll
        for (int c = 0; c < BN / 8; c++) x = fmaxf(x, fmaxf(s[n / 2][c][n % 2 * 2], s[n / 2][c][n % 2 * 2 + 1]));
        x = fmaxf(x, fai_shfl_sync_bfly_f32(x, 1));
        x = fmaxf(x, fai_shfl_sync_bfly_f32(x, 2));
        top[n] = x * scale;
        moves |= top[n] > m[n] + 8;
    }
    if (__any_sync(~0u, moves)) {
#pragma unroll
        for (int n = 0; n < MT * 2; n++) {
            const float factor = top[n] > m[n] + 8 ? fai_ex2_approx_ftz_f32(m[n] - top[n]) : 1; /* 0 the first time */
            m[n] = top[n] > m[n] + 8 ? top[n] : m[n];
            l[n] *= factor;
#pragma unroll
            for (int c = 0; c < DV / 8; c++) o[n / 2][c][n % 2 * 2] *= factor, o[n / 2][c][n % 2 * 2 + 1] *= factor;
        }
    }
#pragma unroll
    for (int n = 0; n < MT * 2; n++) {
        const float base = m[n] == -INFINITY ? 0 : m[n]; /* nothing seen yet: exp2(-inf - 0), not -inf - -inf */
#pragma unroll
        for (int c = 0; c < BN / 8; c++) {
#pragma unroll
            for (int e = n % 2 * 2; e < n % 2 * 2 + 2; e++) {
                s[n / 2][c][e] = fai_ex2_approx_ftz_f32(fmaf(s[n / 2][c][e], scale, -base));
                l[n] += s[n / 2][c][e];
            }
        }
    }
}

/* ======================================================================================== */
/* >>products  fragments and mma                                                             */
/* ======================================================================================== */

/* rq (MT, D/16, A4) <- Q */
FAI_ATOM void FAI_(fragments_q)(uint32_t rq[FAI_MT][FA_HEAD_DIM / 16][4], uint32_t sq) {
    FAI_SIZES
#pragma unroll
    for (int c = 0; c < D / 16; c++) {
#pragma unroll
        for (int a = 0; a < MT; a++) fai_ldmatrix_x4(rq[a][c], FAI_MOVE(D, sq, a * 16, c * 2));
    }
}

/* S = Q K^T: s (MT, BN/8, C4). sq, sk: the lane's addresses of the first fragment of Q and of K */
FAI_ATOM void FAI_(gemm_qk)(float s[FAI_MT][FAI_BN / 8][4], uint32_t rq[FAI_MT][FA_HEAD_DIM / 16][4], uint32_t sq,
                            uint32_t sk) {
    FAI_SIZES
#pragma unroll
    for (int n = 0; n < MT * BN / 8 * 4; n++) s[n / 4 / (BN / 8)][n / 4 % (BN / 8)][n % 4] = 0;
#pragma unroll
    for (int c = 0; c < D / 16; c++) {
#pragma unroll
        for (int a = 0; a < MT && !Q_STAYS; a++) fai_ldmatrix_x4(rq[a][c], FAI_MOVE(D, sq, a * 16, c * 2));
#pragma unroll
        for (int j = 0; j < BN / 16; j++) {
            uint32_t rk[4]; /* (2, B2) */
            fai_ldmatrix_x4(rk, FAI_MOVE(D, sk, j * 16, c * 2));
#pragma unroll
            for (int a = 0; a < MT; a++) FAI_MMA(s[a][2 * j], rq[a][c], rk), FAI_MMA(s[a][2 * j + 1], rq[a][c], rk + 2);
        }
    }
}

/* O += P V: o (MT, DV/8, C4), p (MT, BN/8, C4). sv: the lane's address of the first fragment of V */
FAI_ATOM void FAI_(gemm_pv)(float o[FAI_MT][FA_HEAD_DIM_V / 8][4], float p[FAI_MT][FAI_BN / 8][4], uint32_t sv) {
    FAI_SIZES
#pragma unroll
    for (int c = 0; c < BN / 16; c++) {
        uint32_t rp[MT][4]; /* (MT, A4) */
#pragma unroll
        for (int a = 0; a < MT; a++) {
#pragma unroll
            for (int e = 0; e < 4; e++)
                rp[a][e] = FAI_PACK(p[a][2 * c + e / 2][e % 2 * 2 + 1], p[a][2 * c + e / 2][e % 2 * 2]);
        }
#pragma unroll
        for (int j = 0; j < DV / 16; j++) {
            uint32_t rv[4]; /* (2, B2) */
            fai_ldmatrix_x4_trans(rv, FAI_MOVE(DV, sv, c * 16, j * 2));
#pragma unroll
            for (int a = 0; a < MT; a++) FAI_MMA(o[a][2 * j], rp[a], rv), FAI_MMA(o[a][2 * j + 1], rp[a], rv + 2);
        }
    }
}

/* ======================================================================================== */
/* >>kernel   [FA2] Alg. 1: one block, BM rows of Q, all the keys that they see              */
/* ======================================================================================== */

/* O / l and LSE; O through shared memory, each warp its own rows, so that rows are written whole. row: the first of the
 * thread's rows. */
FAI_ATOM void FAI_(epilogue)(const FAI_(tile) *t, float o[FAI_MT][FA_HEAD_DIM_V / 8][4], const float m[FAI_MT * 2],
                             float l[FAI_MT * 2], uint32_t shared, int row) {
    FAI_SIZES
    enum { GROUP = FAI_GROUP(DV), STEP = 32 / GROUP };
    const fa_args *a = t->args;
    const int lane = (int)threadIdx.x % 32, warp_row = (int)threadIdx.x / 32 * MT * 16;
    const fai_strides so = fai_strides_o(a, DV), sl = fai_strides_lse(a);
#pragma unroll
    for (int n = 0; n < MT * 2; n++) {
        l[n] += fai_shfl_sync_bfly_f32(l[n], 1);
        l[n] += fai_shfl_sync_bfly_f32(l[n], 2);
        const float factor = l[n] == 0 ? 0 : 1 / l[n]; /* an empty row is 0 */
        const int r = row + n * 8;
        if (a->lse.data && lane % 4 == 0 && r < t->rows)
            ((float *)a->lse.data)[fai_offset_q(&t->seq, sl, FAI_(query)(t, r), FAI_(head)(t, r))] =
                (m[n] + fai_lg2_approx_f32(l[n])) * FAI_LN2; /* -inf if empty */
#pragma unroll
        for (int c = 0; c < DV / 8; c++)
            fai_st_shared_b32(shared + FAI_AT(DV, r, c) + lane % 4 * 4,
                              FAI_PACK(o[n / 2][c][n % 2 * 2 + 1] * factor, o[n / 2][c][n % 2 * 2] * factor));
    }
    __syncwarp(); /* all lanes have written: rows of the warp may be read */
#pragma unroll
    for (int r = 0; r < MT * 16; r += STEP) {
        const int own = warp_row + r + lane / GROUP;
        if (own >= t->rows) continue;
        uint16_t *to = (uint16_t *)a->o.data + fai_offset_q(&t->seq, so, FAI_(query)(t, own), FAI_(head)(t, own)) +
                       lane % GROUP * 8;
#pragma unroll
        for (int c = 0; c < DV / 8; c += GROUP)
            *(uint4 *)(void *)(to + c * 8) = fai_ld_shared_v4_b32(shared + FAI_AT(DV, own, c + lane % GROUP));
    }
}

static __global__ void __launch_bounds__(FAI_THREADS) FAI_(forward_kernel)(const __grid_constant__ fa_args args) {
    FAI_SIZES
    extern __shared__ __align__(128) unsigned char fai_shared[];
    FAI_(tile) t;
    if (!FAI_(begin)(&t, &args)) return;

    enum { SQ = 0, SK = BM * D * 2, SV = SK + BN * D * 2, STAGE = BN * (D + DV) * 2 }; /* in shared memory */
    const uint32_t shared = fai_cvta_to_shared(fai_shared);
    const int lane = (int)threadIdx.x % 32, warp_row = (int)threadIdx.x / 32 * MT * 16;
    const int row = warp_row + FAI_C_ROW(lane, 0); /* of the thread's rows row, row + 8 .. */
    const uint32_t sq = shared + SQ + FAI_AT(D, warp_row + FAI_LDMATRIX_A_ROW(lane), FAI_LDMATRIX_A_CHUNK(lane));
    const uint32_t sk = shared + SK + FAI_AT(D, FAI_LDMATRIX_B_ROW(lane), FAI_LDMATRIX_B_CHUNK(lane));
    const uint32_t sv = shared + SV + FAI_AT(DV, FAI_LDMATRIX_A_ROW(lane), FAI_LDMATRIX_A_CHUNK(lane));
    const FAI_(source) gk = FAI_(open)(&t, &args.k, D), gv = FAI_(open)(&t, &args.v, DV);
    const float scale = (args.softmax_scale != 0 ? args.softmax_scale : rsqrtf((float)D)) * FAI_LOG2E;

    uint32_t rq[MT][D / 16][4];                       /* (MT, D/16, A4) */
    float o[MT][DV / 8][4], m[MT * 2], l[MT * 2];     /* (MT, DV/8, C4); of the thread's rows */
#pragma unroll
    for (int n = 0; n < MT * DV / 8 * 4; n++) o[n / 4 / (DV / 8)][n / 4 % (DV / 8)][n % 4] = 0;
#pragma unroll
    for (int n = 0; n < MT * 2; n++) m[n] = -INFINITY, l[n] = 0;

    /* load Q, and K (V) of the last tile that has a visible key */
    const int32_t last = t.any.lo < t.any.hi ? (t.any.hi - 1) / BN * BN : -1, end = t.any.lo / BN * BN;
    uint32_t stage = 0;
    if (last >= end) {
        FAI_(load_q)(&t, shared + SQ);
        FAI_(load_kv)(&t, gk, last, shared + SK, D);
        if (STAGES == 2) FAI_(load_kv)(&t, gv, last, shared + SV, DV);
    }
    for (int32_t first = last; first >= end; first -= BN) { /* right to left: the tiles to mask are the first and the last */
        fai_cp_async_wait_all();
        __syncthreads(); /* K is there (and V, in 2 stages), for all; nobody reads the other stage (V) any more */
        if (first == last && Q_STAYS) FAI_(fragments_q)(rq, sq);
        if (STAGES == 1) FAI_(load_kv)(&t, gv, first, shared + SV, DV);
        if (STAGES == 2 && first > end) {
            FAI_(load_kv)(&t, gk, first - BN, shared + SK + (STAGE - stage), D);
            FAI_(load_kv)(&t, gv, first - BN, shared + SV + (STAGE - stage), DV);
        }

        float s[MT][BN / 8][4]; /* (MT, BN/8, C4) */
        FAI_(gemm_qk)(s, rq, sq, sk + stage);
        if (first < t.all.lo || first + BN > t.all.hi) FAI_(mask)(&t, s, first, row);
        FAI_(softmax)(s, o, m, l, scale);

        if (STAGES == 1) {
            fai_cp_async_wait_all();
            __syncthreads(); /* V is there, for all; nobody reads K any more */
            if (first > end) FAI_(load_kv)(&t, gk, first - BN, shared + SK, D);
        }
        FAI_(gemm_pv)(o, s, sv + stage);
        if (STAGES == 2) stage = STAGE - stage;
    }
    __syncthreads(); /* nobody reads shared memory any more: it is free for O */
    FAI_(epilogue)(&t, o, m, l, shared, row);
}

/* ======================================================================================== */
/* >>launch   what users call                                                                */
/* ======================================================================================== */

static inline size_t FA_(forward_cuda_workspace)(const fa_args *args);
static inline fa_status FA_(forward_cuda)(const fa_args *args, void *workspace, size_t bytes, cudaStream_t stream);

static const fa_cuda_info FA_(cuda_info) = {{FAI_STRING(FA_NAME), FA_HEAD_DIM, FA_HEAD_DIM_V, FA_DTYPE, FA_KV_DTYPE, FA_O_DTYPE,
                                             FAI_TILE_M(800), FAI_TILE_N(800), (FA_FEATURES), (FA_PASSES), NULL, NULL, NULL,
                                             NULL, NULL, NULL, NULL, NULL, NULL},
                                            FA_(forward_cuda_workspace),
                                            FA_(forward_cuda)};

/* The launch that the current device needs for args, which have passed the check: users may do it themselves. */
static inline fa_status FA_(forward_cuda_launch)(const fa_args *args, fa_cuda_launch *launch) {
    struct cudaFuncAttributes attributes;
    const void *kernel = (const void *)FAI_(forward_kernel);
    cudaError_t e = cudaFuncGetAttributes(&attributes, kernel);
    if (e != cudaSuccess) return fai_cuda_status(args, e);
    const int arch = attributes.ptxVersion * 10;
    const int64_t tiles = FAI_(tiles)(args, FAI_TILE_M(arch)), heads = (int64_t)args->batch * fai_num_heads_k(args);
    if (tiles > INT32_MAX / heads) return fai_fail(args, FA_ERR_CUDA_GRID, "tiles", -1, (double)tiles * heads, 1, INT32_MAX);
    launch->kernel = kernel, launch->arch = arch;
    launch->grid = (unsigned)(tiles * heads), launch->block = FAI_TILE_WARPS(arch) * 32;
    launch->shared = FAI_TILE_SHARED(arch);
    return fai_cuda_status(args, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)launch->shared));
}

/* Bytes of device memory that the call needs: none. */
static inline size_t FA_(forward_cuda_workspace)(const fa_args *args) {
    (void)args;
    return 0;
}

/* O and LSE, on the stream. Nothing is launched unless the result is FA_OK. */
static inline fa_status FA_(forward_cuda)(const fa_args *args, void *workspace, size_t bytes, cudaStream_t stream) {
    fa_cuda_launch launch;
    fa_status status = fa_check_pass_cuda(&FA_(cuda_info).info, args, FA_FORWARD);
    (void)workspace, (void)bytes;
    if (status == FA_OK) status = FA_(forward_cuda_launch)(args, &launch);
    if (status != FA_OK) return status;
    void *parameters[1] = {(void *)args};
    return fai_cuda_status(args, cudaLaunchKernel(launch.kernel, dim3(launch.grid), dim3(launch.block), parameters, launch.shared,
                                                  stream));
}

#undef FAI_SIGNS
#undef FAI_PACK
#undef FAI_MMA
#undef FAI_HAS
#undef FAI_ISA
#undef FAI_SIZES
#undef FAI_MT
#undef FAI_BN
#undef FAI_THREADS
#undef FAI_TILE_SHARED
#undef FAI_TILE_STAGES
#undef FAI_TILE_WARPS
#undef FAI_TILE_N
#undef FAI_TILE_M
#undef FAI_TABLE_STAGES
#undef FAI_TABLE_WARPS
#undef FAI_TABLE_N
#undef FAI_TABLE_M
#undef FAI_LITTLE_SHARED
#undef FAI_DIM
#undef FA_STAGES
#undef FA_WARPS
#define FAI_FORGET
#include "flashattn.h" /* forgets the parameters */
#undef FAI_FORGET
#endif /* instance */
#undef FAI_CUDA
