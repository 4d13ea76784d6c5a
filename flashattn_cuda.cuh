/*  flashattn_cuda.cuh - v0.1.0 - attention kernels as CUDA templates - MIT licence, see end of flashattn.h

    WHAT      The forward pass of flashattn.h on NVIDIA GPUs with tensor cores (sm_80 and up), in f16 and bf16:
              the same fa_args, with pointers to device memory; the same features, masks and dropped elements.

    DO THIS   copy this file and flashattn.h next to yours; compile with  nvcc -O3 -arch=native hello.cu

        #define FA_NAME     attn128          // prefix of everything generated
        #define FA_HEAD_DIM 128
        #include "flashattn_cuda.cuh"        // -> attn128_forward_cuda(), attn128_cuda_info, ...

    DOES NOT  allocate, print, synchronise, keep state, or change the device: a call launches one kernel on the
              stream that it is given, and may be captured in a graph. Bad arguments return a status; nothing is
              launched unless it is FA_OK.

    CONTENTS  search for:  >>maps  >>vocabulary  >>launch-once  >>tiles  >>loads  >>scores  >>products
                           >>kernel  >>launch

    PARAMETERS  those of flashattn.h, defined before an include and undefined by it. Different here:

        FA_DTYPE             FA_BF16        FA_F16 or FA_BF16
        FA_KV_DTYPE, FA_O_DTYPE   FA_DTYPE  nothing else
        FA_PASSES            FA_FORWARD     nothing else
        FA_BLOCK_M           see >>tiles    query rows of a thread block: 16 or 32 for each warp
        FA_BLOCK_N           see >>tiles    keys of a tile: 16, 32 .. 128
        FA_WARPS             see >>tiles    warps of a thread block: 1 .. 16
        FA_STAGES            see >>tiles    1 or 2 tiles of K and V in shared memory

    YOU GET, for FA_NAME = attn128 (all static, no external symbol)

        const fa_cuda_info attn128_cuda_info;
        size_t    attn128_forward_cuda_workspace(const fa_args *args);
        fa_status attn128_forward_cuda(const fa_args *args, void *workspace, size_t bytes, cudaStream_t stream);
        fa_status attn128_forward_cuda_launch(const fa_args *args, fa_cuda_launch *launch);

    DATA      Rows of q, k, v and o start at multiples of 16 bytes: data, and strides in bytes. cu_seqlens,
              seqused, block_table and all other arrays are in device memory, so their contents are not checked:
              lengths must not exceed seqlen_q and seqlen_k, page numbers must be below num_pages, and a tree mask
              needs len_k >= len_q. args itself and args->error are in host memory. num_threads and split_keys
              mean nothing here.

    NOTATION  as in flashattn.h. BM query rows and BN keys make a tile; fragment: a thread's part of a matrix that
              an mma multiplies, a plain array whose shape is said where it is declared; MT: 16-row matrices of a
              warp; chunk: 8 elements, 16 bytes; gX, sX, rX: X in global memory, in shared memory (a 32-bit
              address), in registers.

    REFERENCES  those of flashattn.h                                                                             */

#ifndef FAI_MAPS
#define FAI_MAPS
/* ======================================================================================== */
/* >>maps     where elements are: tiles in shared memory, fragments in registers             */
/* ======================================================================================== */

/*  A tile in shared memory: rows of dim elements, dim / 8 chunks of 16 bytes, without padding. ldmatrix reads 8
 *  rows of one chunk column at once, which must lie in 8 different groups of 4 banks, so chunks change places by
 *  row. Rows of 64 n elements all begin in the same bank: 8 chunks are permuted, by an xor with row % 8. Rows of
 *  64 n + 32 begin in two
 *  places: 4 chunks, row / 2 % 4. Rows of 32 n + 16 begin in four: 2 chunks, row / 4 % 2.
 *
 *      dim 64      chunk 0 1 2 3 4 5 6 7        dim 16      chunk 0 1
 *      row 0             0 1 2 3 4 5 6 7        rows 0 - 3        0 1
 *      row 1             1 0 3 2 5 4 7 6        rows 4 - 7        1 0
 *      row 2             2 3 0 1 6 7 4 5                                                                  */
#define FAI_GROUP(dim) \
    ((dim) / 8 % 8 == 0 ? 8 : (dim) / 8 % 4 == 0 ? 4 : 2) /* chunks that are permuted together */
#define FAI_SWIZZLE(dim, row) ((row) / (8 / FAI_GROUP(dim)) % FAI_GROUP(dim))
#define FAI_AT(dim, row, chunk) ((row) * (dim) * 2 + ((chunk) ^ FAI_SWIZZLE(dim, row)) * 16)
/* From base = tile + FAI_AT(dim, row, chunk), chunk 0 or 1, to the same place 8 n rows and 2 m chunks on:
 * constants if n and m are, as swz(c + 2m) == swz(c) ^ 2m for c < 2, and 8 rows on the permutation is the
 * same. tile: a multiple of 128. */
#define FAI_MOVE(dim, base, rows, chunks) \
    (((base) ^ (chunks) % FAI_GROUP(dim) * 16) + (chunks) / FAI_GROUP(dim) * FAI_GROUP(dim) * 16 + \
     (rows) * (dim) * 2)

/*  Fragments of m16n8k16. Lane l holds rows g and g + 8, columns 2t, 2t + 1 of the accumulator, where g = l / 4,
 *  t = l % 4
 *               t=0     t=1     t=2     t=3
 *      row g    c0 c1   c0 c1   c0 c1   c0 c1
 *      row g+8  c2 c3   c2 c3   c2 c3   c2 c3
 *  The accumulators of two neighbours, rounded, are an A fragment: P needs no other lane. */
#define FAI_C_ROW(lane, v) ((lane) / 4 + (v) / 2 * 8)
#define FAI_C_COL(lane, v) ((lane) % 4 * 2 + (v) % 2)
/* The row and the chunk whose address a lane gives to ldmatrix.x4: for A (16 rows, 2 chunks of k); for V,
 * transposed, two B (16 rows of k, 2 chunks of n); for K, two B (16 rows of n, 2 chunks of k). */
#define FAI_LDMATRIX_A_ROW(lane) ((lane) % 16)
#define FAI_LDMATRIX_A_CHUNK(lane) ((lane) / 16)
#define FAI_LDMATRIX_B_ROW(lane) ((lane) % 8 + (lane) / 16 * 8)
#define FAI_LDMATRIX_B_CHUNK(lane) ((lane) / 8 % 2)

#endif /* maps */

#if defined(FAI_MAPS_ONLY) /* tests of the maps want no more, and no nvcc */
#elif !defined(__CUDACC__)
#error "flashattn_cuda.cuh: compile with nvcc (a .cu file, or -x cu); flashattn.h has the CPU kernels"
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#error "flashattn_cuda.cuh: needs sm_80 or later: nvcc -arch=native for this machine's GPU, or -arch=sm_80 .."
#else
#define FAI_CUDA
#include "flashattn.h" /* the contract, and the parameters if there is a FA_NAME */

#ifndef FA_FLASHATTN_CUDA_CUH
#define FA_FLASHATTN_CUDA_CUH

#if FA_VERSION_NUMBER != 100
#error \
    "flashattn_cuda.cuh: flashattn.h beside it is of another version: copy both files from the same release"
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
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(x.x), "r"(x.y), "r"(x.z),
                 "r"(x.w)
                 : "memory");
}

/* D += A B: d (16,8), a (16,16) by rows, b (16,8) by columns; who holds what: >>maps */
#define FAI_MMA_M16N8K16(type, d, a, b) \
    asm("mma.sync.aligned.m16n8k16.row.col.f32." type "." type \
        ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, " \
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
/* d = a b + c in both halves */
FAI_ATOM uint32_t fai_fma_rn_bf16x2(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}
FAI_ATOM uint32_t fai_fma_rn_f16x2(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
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
FAI_ATOM uint32_t fai_shfl_sync_bfly_b32(uint32_t x, int mask) { return __shfl_xor_sync(~0u, x, mask); }

/* ======================================================================================== */
/* >>launch-once  what all instances share on the host                                       */
/* ======================================================================================== */

/* What an instance is. The first member is what fa_select takes; its own functions, of the CPU, are NULL. */
typedef struct fa_cuda_info {
    fa_info info;
    size_t (*forward_workspace)(const fa_args *args);
    fa_status (*forward)(const fa_args *args, void *workspace, size_t bytes, cudaStream_t stream);
    size_t (*backward_workspace)(const fa_args *args); /* NULL in passes that are not compiled in */
    fa_status (*backward)(const fa_args *args, void *workspace, size_t bytes, cudaStream_t stream);
    size_t (*decode_workspace)(const fa_args *args);
    fa_status (*decode)(const fa_args *args, void *workspace, size_t bytes, cudaStream_t stream);
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

/* An error of CUDA as a status; args->error->got is the cudaError_t. It stays what cudaGetLastError
 * returns, too. */
static inline fa_status fai_cuda_status(const fa_args *args, cudaError_t e) {
    return e == cudaSuccess ? FA_OK : fai_fail(args, FA_ERR_CUDA, "cudaError_t", -1, (double)e, 0, 0);
}

/* Rows of a tensor must start at multiples of 16 bytes. */
static inline fa_status fai_cuda_check_rows(const fa_args *args, fa_dtype dtype, const void *data, int64_t b,
                                            int64_t s, int64_t h, fa_status bad, const char *const field[4]) {
    const int64_t stride[3] = {b, s, h}, chunk = 16 / (int64_t)fa_sizeof(dtype);
    if ((uintptr_t)data % 16) return fai_fail(args, bad, field[0], -1, (double)((uintptr_t)data % 16), 0, 0);
    for (int n = 0; n < 3; n++)
        if (stride[n] > 0 && stride[n] % chunk)
            return fai_fail(args, bad, field[n + 1], -1, (double)stride[n], 1, 0);
    return FA_OK;
}

/* Can the GPU read and write at x? Memory of malloc only where the system shares it with the GPU. */
static inline fa_status fai_cuda_check_pointer(const fa_args *args, const void *x, const char *field) {
    struct cudaPointerAttributes attributes;
    int device = 0, shares = 0;
    if (!x) return FA_OK;
    cudaError_t e = cudaPointerGetAttributes(&attributes, x);
    if (e != cudaSuccess) return fai_cuda_status(args, e);
    if (attributes.type != cudaMemoryTypeUnregistered) return FA_OK;
    e = cudaGetDevice(&device);
    if (e == cudaSuccess) e = cudaDeviceGetAttribute(&shares, cudaDevAttrPageableMemoryAccess, device);
    if (e != cudaSuccess) return fai_cuda_status(args, e);
    return shares ? FA_OK : fai_fail(args, FA_ERR_CUDA_POINTER, field, -1, NAN, 1, 0);
}

#define FAI_CHECK_ROWS(t, T, type) \
    if (status == FA_OK) { \
        static const char *const field[4] = {#t ".data", #t ".stride_b", #t ".stride_s", #t ".stride_h"}; \
        status = fai_cuda_check_rows(args, info->type, args->t.data, args->t.stride_b, args->t.stride_s, \
                                     args->t.stride_h, FA_ERR_##T##_ALIGN, field); \
    }
#define FAI_CHECK_POINTER(x) \
    if (status == FA_OK) status = fai_cuda_check_pointer(args, args->x, #x);
/* fa_check_pass for device memory. */
FAI_NOINLINE fa_status fa_check_pass_cuda(const fa_info *info, const fa_args *args, uint32_t pass) {
    fa_status status = fa_check_pass(info, args, pass | FAI_DEVICE_LISTS);
    FAI_CHECK_ROWS(q, Q, dtype)
    FAI_CHECK_ROWS(k, K, kv_dtype)
    FAI_CHECK_ROWS(v, V, kv_dtype)
    FAI_CHECK_ROWS(o, O, o_dtype)
    FAI_CHECK_POINTER(q.data)
    FAI_CHECK_POINTER(k.data)
    FAI_CHECK_POINTER(v.data)
    FAI_CHECK_POINTER(o.data)
    FAI_CHECK_POINTER(lse.data)
    FAI_CHECK_POINTER(cu_seqlens_q)
    FAI_CHECK_POINTER(cu_seqlens_k)
    FAI_CHECK_POINTER(seqused_q)
    FAI_CHECK_POINTER(seqused_k)
    FAI_CHECK_POINTER(block_table)
    FAI_CHECK_POINTER(alibi_slopes)
    FAI_CHECK_POINTER(bias.data)
    FAI_CHECK_POINTER(sink)
    FAI_CHECK_POINTER(block_mask.data)
    FAI_CHECK_POINTER(tree_mask.data)
    FAI_CHECK_POINTER(q_descale.data)
    FAI_CHECK_POINTER(k_descale.data)
    FAI_CHECK_POINTER(v_descale.data)
    if (pass & FA_BACKWARD) {
        FAI_CHECK_ROWS(d_o, DO, o_dtype)
        FAI_CHECK_ROWS(dq, DQ, dtype)
        FAI_CHECK_ROWS(dk, DK, kv_dtype)
        FAI_CHECK_ROWS(dv, DV, kv_dtype)
        FAI_CHECK_POINTER(d_o.data)
        FAI_CHECK_POINTER(dq.data)
        FAI_CHECK_POINTER(dk.data)
        FAI_CHECK_POINTER(dv.data)
        FAI_CHECK_POINTER(dbias.data)
        FAI_CHECK_POINTER(dsink)
    }
    return status;
}
#undef FAI_CHECK_POINTER
#undef FAI_CHECK_ROWS

/* Is the workspace enough, and the GPU's? */
static inline fa_status fai_cuda_check_workspace(const fa_args *args, const void *workspace, size_t bytes,
                                                 size_t needed) {
    if (!needed) return FA_OK;
    if (!workspace) return fai_fail(args, FA_ERR_WORKSPACE_NULL, "workspace", -1, 0, 0, 0);
    if (bytes < needed)
        return fai_fail(args, FA_ERR_WORKSPACE_SIZE, "workspace", -1, (double)bytes, (double)needed,
                        INFINITY);
    return fai_cuda_check_pointer(args, workspace, "workspace");
}

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

#define FAI_HAS(features) (((FA_FEATURES) & (features)) != 0)
/* what is compiled in besides the plain kernel */
#if defined(FA_SCORE_MOD)
#define FAI_SCORES 1
#else
#define FAI_SCORES FAI_HAS(FA_SOFTCAP | FA_ALIBI | FA_BIAS)
#endif
#if defined(FA_MASK_MOD)
#define FAI_MASKS 1
#else
#define FAI_MASKS FAI_HAS(FA_BLOCK_MASK | FA_TREE_MASK)
#endif
#define FAI_HEAVY (FAI_SCORES || FAI_MASKS || FAI_HAS(FA_DROPOUT)) /* takes registers */

/* Tiles by (arch = __CUDA_ARCH__, larger head dim). Two m16 matrices of a warp share each B fragment,
 * which halves what is read of K and V from shared memory, at one accumulator register a thread for every
 * 16 elements; up to 128 dims that fits, beyond it a warp has 16 rows. sm_86, 89 and 120 have 99 KB of
 * shared memory a block, sm_80 163, sm_90 and 100 227. */
#define FAI_LITTLE_SHARED(arch) ((arch) == 860 || (arch) == 890 || (arch) >= 1200)
#if FAI_DIM <= 64
/* 48 KB and about 200 registers: two blocks an SM everywhere, and Q stays in registers */
#define FAI_TABLE_M(arch) 128
#define FAI_TABLE_N(arch) 64
#define FAI_TABLE_WARPS(arch) 4
#define FAI_TABLE_STAGES(arch) 2
#elif FAI_DIM <= 128
/* two blocks an SM, of 64 KB, or 48 KB where 99 is all there is; 64 keys would spill. One barrier for 32
 * keys is as much as two for 64 in one stage */
#define FAI_TABLE_M(arch) 128
#define FAI_TABLE_N(arch) 32
#define FAI_TABLE_WARPS(arch) 4
#define FAI_TABLE_STAGES(arch) (FAI_LITTLE_SHARED(arch) ? 1 : 2)
#elif FAI_DIM <= 192
/* one block of 8 warps, 96 KB at most: fits everywhere */
#define FAI_TABLE_M(arch) 128
#define FAI_TABLE_N(arch) 64
#define FAI_TABLE_WARPS(arch) 8
#define FAI_TABLE_STAGES(arch) 1
#else
/* sm_80: one block of 8 warps, 128 KB; elsewhere 96 KB: from sm_90 twice an SM, and all that sm_86, 89 and
 * 120 have. 32 keys where 64 would spill */
#define FAI_TABLE_M(arch) ((arch) == 800 ? 128 : 64)
#define FAI_TABLE_N(arch) (FAI_HEAVY ? 32 : 64)
#define FAI_TABLE_WARPS(arch) ((arch) == 800 ? 8 : 4)
#define FAI_TABLE_STAGES(arch) 1
#endif

#if defined(FA_WARPS) && ((FA_WARPS) < 1 || (FA_WARPS) > 16)
#error "flashattn_cuda.cuh: FA_WARPS must be in 1..16"
#endif
#if defined(FA_BLOCK_M) && ((FA_BLOCK_M) < 16 || (FA_BLOCK_M) > 512 || (FA_BLOCK_M) % 16)
#error "flashattn_cuda.cuh: FA_BLOCK_M must be 16 or 32 times FA_WARPS"
#endif
#if defined(FA_BLOCK_N) && ((FA_BLOCK_N) < 16 || (FA_BLOCK_N) > 128 || (FA_BLOCK_N) % 16)
#error "flashattn_cuda.cuh: FA_BLOCK_N must be a multiple of 16 in 16..128"
#endif
#if defined(FA_STAGES) && (FA_STAGES) != 1 && (FA_STAGES) != 2
#error "flashattn_cuda.cuh: FA_STAGES must be 1 or 2"
#endif

#ifdef FA_BLOCK_M
#define FAI_TILE_M(arch) (FA_BLOCK_M)
#else
#define FAI_TILE_M(arch) FAI_TABLE_M(arch)
#endif
#ifdef FA_BLOCK_N
#define FAI_TILE_N(arch) (FA_BLOCK_N)
#else
#define FAI_TILE_N(arch) FAI_TABLE_N(arch)
#endif
#ifdef FA_WARPS
#define FAI_TILE_WARPS(arch) (FA_WARPS)
#else
#define FAI_TILE_WARPS(arch) FAI_TABLE_WARPS(arch)
#endif
#ifdef FA_STAGES
#define FAI_TILE_STAGES(arch) (FA_STAGES)
#else
#define FAI_TILE_STAGES(arch) FAI_TABLE_STAGES(arch)
#endif

/* Q, then the stages of K and V, [K V] [K V], whose place O takes at the end; then what the threads have
 * in common */
#define FAI_TILE_SHARED(arch) (FAI_TILE_BYTES(arch) + offsetof(FAI_(tile), row) + FAI_TILE_M(arch) * 4)
#define FAI_TILE_BYTES(arch) \
    (2 * (FAI_TILE_M(arch) * FA_HEAD_DIM_V > \
                  FAI_TILE_M(arch) * FA_HEAD_DIM + \
                      FAI_TILE_STAGES(arch) * FAI_TILE_N(arch) * (FA_HEAD_DIM + FA_HEAD_DIM_V) \
              ? FAI_TILE_M(arch) * FA_HEAD_DIM_V \
              : FAI_TILE_M(arch) * FA_HEAD_DIM + \
                    FAI_TILE_STAGES(arch) * FAI_TILE_N(arch) * (FA_HEAD_DIM + FA_HEAD_DIM_V)))

/* the sizes of this compilation, as constants of a function */
#define FAI_THREADS (FAI_TILE_WARPS(FAI_ARCH) * 32)
#define FAI_BN FAI_TILE_N(FAI_ARCH)
/* 32 rows a warp or 16; what is neither is an error below */
#define FAI_MT (FAI_TILE_M(FAI_ARCH) / FAI_TILE_WARPS(FAI_ARCH) == 32 ? 2 : 1)
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
        /* in registers: 32 of them, too many next to those that features take */ \
        Q_STAYS = FAI_MT * FAI_DIM <= 128 && !FAI_HEAVY \
    };
FA_STATIC_ASSERT(FAI_TILE_M(FAI_ARCH) == FAI_MT * 16 * FAI_TILE_WARPS(FAI_ARCH),
                 "flashattn_cuda.cuh: FA_BLOCK_M must be 16 or 32 times FA_WARPS");

#define FAI_ISA cuda
#if FA_DTYPE == FA_BF16
#define FAI_MMA fai_mma_m16n8k16_f32_bf16
#define FAI_PACK fai_cvt_rn_bf16x2_f32
#define FAI_FMA2 fai_fma_rn_bf16x2
#define FAI_EXPONENT 0x7f80u
#else
#define FAI_MMA fai_mma_m16n8k16_f32_f16
#define FAI_PACK fai_cvt_rn_f16x2_f32
#define FAI_FMA2 fai_fma_rn_f16x2
#define FAI_EXPONENT 0x7c00u
#endif

#if defined(FA_SCORE_MOD)
static inline double FA_(cuda_score_mod)(double s, int b, int h, int i, int j) {
    (void)b, (void)h, (void)i, (void)j;
    return (double)(FA_SCORE_MOD(s, b, h, i, j));
}
#endif
#if defined(FA_MASK_MOD)
static inline int FA_(cuda_mask_mod)(int b, int h, int i, int j) {
    (void)b, (void)h, (void)i, (void)j;
    return (FA_MASK_MOD(b, h, i, j)) != 0;
}
#endif

/* What the threads of a block have in common, in shared memory. Its rows are those of one key/value head:
 * row r is query r / group of head r % group, so the heads of a group share K and V, and few queries fill
 * a tile. */
typedef struct FAI_(tile) {
    int32_t b, len_q, len_k, head_k;
    int32_t first, first_h;             /* query and head where the rows begin to count */
    int32_t rows;                       /* that exist; behind them the last is repeated */
    fa_range any, all;                  /* keys that some row sees, that all rows see */
    uint32_t row[FAI_TILE_M(FAI_ARCH)]; /* query - first, and (head - first_h) << 10 */
} FAI_(tile);

/* Query and head of a row. */
typedef struct FAI_(row) {
    int32_t i, h;
} FAI_(row);

FAI_ATOM FAI_(row) FAI_(find)(const FAI_(tile) *t, int row) {
    const uint32_t packed = t->row[row];
    const FAI_(row) r = {t->first + (int32_t)(packed & 1023), t->first_h + (int32_t)(packed >> 10)};
    return r;
}

/* Keys that length, causal mask and window leave to query i. */
FAI_ATOM fa_range FAI_(keys)(const fa_args *a, const FAI_(tile) *t, int32_t i) {
    if (FAI_HAS(FA_CAUSAL | FA_WINDOW)) return fa_row_range(a, t->len_q, t->len_k, i);
    fa_range all = {0, t->len_k};
    return all;
}

/* Asked again where it is needed: it is cheaper than registers. */
FAI_ATOM fa_sequence FAI_(sequence)(const fa_args *a, int32_t b) {
    if (FAI_HAS(FA_VARLEN)) return fa_get_sequence(a, b);
    fa_sequence whole = {b, a->seqlen_q, a->seqlen_k, 0, 0, b, b};
    return whole;
}

/* tiles of one key/value head of the longest sequence */
FAI_HD static inline int64_t FAI_(tiles)(const fa_args *a, int rows) {
    return ((int64_t)a->seqlen_q * (a->num_heads / fai_num_heads_k(a)) + rows - 1) / rows;
}

/* The tile of this block; 0 if its sequence has no such rows. The last tile goes first: under a causal
 * mask it is the longest. */
FAI_ATOM int FAI_(begin)(const fa_args *a, FAI_(tile) *t) {
    FAI_SIZES
    const uint32_t tiles = (uint32_t)FAI_(tiles)(a, BM), heads_k = (uint32_t)fai_num_heads_k(a);
    const uint32_t block = gridDim.x - 1 - blockIdx.x, number = block % tiles, head = block / tiles;
    const fa_sequence seq = FAI_(sequence)(a, (int32_t)(head / heads_k));
    const int32_t group = a->num_heads / (int32_t)heads_k, head_k = (int32_t)(head % heads_k);
    const int64_t row0 = (int64_t)number * BM, rest = (int64_t)seq.len_q * group - row0;
    if (rest <= 0) return 0;
    const int32_t rows = rest < BM ? (int32_t)rest : BM,
                  own = (int32_t)threadIdx.x < rows ? (int32_t)threadIdx.x : rows - 1;
    const int32_t first = (int32_t)(row0 / group),
                  shift = (int32_t)(row0 % group); /* row 0: query and head */
    if (threadIdx.x < BM)
        t->row[threadIdx.x] = (uint32_t)((shift + own) / group | (shift + own) % group << 10);
    if (threadIdx.x == 0) {
        t->b = seq.b, t->len_q = seq.len_q, t->len_k = seq.len_k, t->head_k = head_k;
        t->first = first, t->first_h = head_k * group, t->rows = rows;
        const fa_range top = FAI_(keys)(a, t, first),
                       bottom = FAI_(keys)(a, t, first + (shift + rows - 1) / group);
        t->any.lo = top.lo, t->any.hi = bottom.hi, t->all.lo = bottom.lo, t->all.hi = top.hi;
    }
    __syncthreads(); /* *t is written */
    return 1;
}

/* ======================================================================================== */
/* >>loads    rows of Q, K and V to shared memory                                            */
/* ======================================================================================== */

/* A pass of the block copies THREADS / GROUP rows of GROUP chunks: then each next step is a constant away. */

FAI_ATOM void FAI_(load_q)(const fa_args *a, const FAI_(tile) *t, uint32_t to) {
    FAI_SIZES
    enum { GROUP = FAI_GROUP(D), STEP = THREADS / GROUP };
    const fai_strides st = fai_strides_q(a, D);
    const fa_sequence seq = FAI_(sequence)(a, t->b);
    const int row0 = (int)threadIdx.x / GROUP, chunk = (int)threadIdx.x % GROUP;
    to += FAI_AT(D, row0, chunk);
#pragma unroll
    for (int r = 0; r < BM; r += STEP) {
        if (BM % STEP && row0 + r >= BM) continue;
        const FAI_(row) row = FAI_(find)(t, row0 + r);
        const uint16_t *from = (const uint16_t *)a->q.data + fai_offset_q(&seq, st, row.i, row.h) + chunk * 8;
#pragma unroll
        for (int c = 0; c < D / 8; c += GROUP)
            fai_cp_async_cg_16(to + r * D * 2 + c * 16, from + c * 8, row0 + r < t->rows ? 16 : 0);
    }
}

/* What is done to the chunks that a thread has copied, before the others may read them. */
/* clang-format off */
#define FAI_EACH_CHUNK(dim, rows, tile) \
    _Pragma("unroll 1") \
    for (int r = (int)threadIdx.x / FAI_GROUP(dim); r < (rows); r += FAI_THREADS / FAI_GROUP(dim)) \
        for (uint32_t at = (tile) + FAI_AT(dim, r, (int)threadIdx.x % FAI_GROUP(dim)), \
                      end = (tile) + (r + 1) * (dim) * 2; \
             at < end; at += FAI_GROUP(dim) * 16)
/* clang-format on */

/* -Q, for a negative scale */
FAI_ATOM void FAI_(negate_q)(uint32_t sq) {
    FAI_SIZES
    FAI_EACH_CHUNK(D, BM, sq) {
        uint4 x = fai_ld_shared_v4_b32(at);
        x.x ^= 0x80008000u, x.y ^= 0x80008000u, x.z ^= 0x80008000u, x.w ^= 0x80008000u;
        fai_st_shared_v4_b32(at, x);
    }
}

/* x with 0 for each half that is infinite or NaN */
FAI_ATOM uint32_t FAI_(finite)(uint32_t x) {
    return ((x & FAI_EXPONENT) == FAI_EXPONENT ? 0 : x & 0xffffu) |
           ((x >> 16 & FAI_EXPONENT) == FAI_EXPONENT ? 0 : x & 0xffff0000u);
}

/* What is not finite in the thread's chunks of V becomes 0, as 0 times it is not. 1 if there was such an
 * element. */
FAI_ATOM int FAI_(make_finite)(uint32_t sv) {
    FAI_SIZES
    int found = 0;
    FAI_EACH_CHUNK(DV, BN, sv) {
        uint4 x = fai_ld_shared_v4_b32(at);
        const uint32_t zero = /* or NaN */
            FAI_FMA2(x.w, 0, FAI_FMA2(x.z, 0, FAI_FMA2(x.y, 0, FAI_FMA2(x.x, 0, 0))));
        if ((zero & 0x7fff7fff) == 0) continue;
        x.x = FAI_(finite)(x.x), x.y = FAI_(finite)(x.y), x.z = FAI_(finite)(x.z), x.w = FAI_(finite)(x.w);
        fai_st_shared_v4_b32(at, x), found = 1;
    }
    return found;
}
#undef FAI_EACH_CHUNK

/* Where a thread copies K or V from: chunk threadIdx.x % GROUP of row 0 of the sequence (of page 0 if
 * paged). */
typedef struct FAI_(source) {
    const uint16_t *from;
    int64_t row; /* stride */
} FAI_(source);

FAI_ATOM FAI_(source) FAI_(open)(const fa_args *a, const FAI_(tile) *t, const fa_tensor *x, const int dim) {
    const fai_strides st = fai_strides_kv(a, x, dim);
    const fa_sequence seq = FAI_(sequence)(a, t->b);
    const int64_t before = FAI_HAS(FA_PAGED) && a->block_table ? 0 : seq.b_k * st.b + seq.row_k * st.s;
    const int chunk = (int)threadIdx.x % FAI_GROUP(dim);
    const FAI_(source) s = {(const uint16_t *)x->data + before + t->head_k * st.h + chunk * 8, st.s};
    return s;
}

/* Elements from page 0 to key j, x: k or v. */
FAI_ATOM int64_t FAI_(paged)(const fa_args *a, const FAI_(tile) *t, const fa_tensor *x, FAI_(source) s,
                             uint32_t j, const int dim) {
    /* not 0 where nothing is paged: the compiler may divide before it knows that */
    const uint32_t size = a->page_size > 0 ? (uint32_t)a->page_size : 1,
                   width = ((uint32_t)a->seqlen_k + size - 1) / size;
    const int64_t stride = a->block_table_stride ? a->block_table_stride : width;
    return a->block_table[t->b * stride + j / size] * fai_strides_kv(a, x, dim).b + j % size * s.row;
}

/* Keys from first on to the tile at `to`. Those that no row of the tile sees become zeros, whatever is
 * there. */
FAI_ATOM void FAI_(load_kv)(const fa_args *a, const FAI_(tile) *t, const fa_tensor *x, FAI_(source) s,
                            int32_t first, uint32_t to, const int dim) {
    FAI_SIZES
    const int group = FAI_GROUP(dim), step = THREADS / group, row = (int)threadIdx.x / group;
    to += FAI_AT(dim, row, (int)threadIdx.x % group);
    const uint16_t *next = s.from + (first + row) * s.row;
#pragma unroll
    for (int r = 0; r < BN; r += step, next += step * s.row) {
        const int32_t j = first + row + r, inside = j >= t->any.lo && j < t->any.hi;
        const uint16_t *from = inside ? next : s.from; /* an address that exists */
        if (FAI_HAS(FA_PAGED) && a->block_table && inside)
            from = s.from + FAI_(paged)(a, t, x, s, (uint32_t)j, dim);
        if (BN % step && row + r >= BN) continue;
#pragma unroll
        for (int c = 0; c < dim / 8; c += group)
            fai_cp_async_cg_16(to + r * dim * 2 + c * 16, from + c * 8, inside ? 16 : 0);
    }
}

/* ======================================================================================== */
/* >>scores   masks, softmax                                                                 */
/* ======================================================================================== */

/* fa_load for the dtypes of a bias */
FAI_ATOM float FAI_(load_bias)(const fa_args *a, int64_t index) {
    if (a->bias.dtype == FA_BF16) return fa_bf16_to_f32(((const fai_code16 *)a->bias.data)[index]);
    if (a->bias.dtype == FA_F16) return fa_f16_to_f32(((const fai_code16 *)a->bias.data)[index]);
    return ((const float *)a->bias.data)[index];
}

/* Softcap, ALiBi, bias and FA_SCORE_MOD: S in log2 units, of keys from `first` on. scale: softmax_scale.
 * row: the first of the thread's rows in the tile. */
FAI_ATOM void FAI_(modify)(const fa_args *a, const FAI_(tile) *t, float s[FAI_MT][FAI_BN / 8][4],
                           int32_t first, int row, float scale) {
    FAI_SIZES
    const int32_t column = first + FAI_C_COL((int)threadIdx.x % 32, 0);
    const fai_strides sb = fai_strides_bias(a);
#pragma unroll
    for (int n = 0; n < MT * 2; n++) { /* rows of a thread */
        const FAI_(row) at = FAI_(find)(t, row + n * 8);
        const int32_t position = at.i + t->len_k - t->len_q;
        const int64_t bias = t->b * sb.b + at.h * sb.h + at.i * sb.s;
        const float slope =
            FAI_HAS(FA_ALIBI) && a->alibi_slopes ? a->alibi_slopes[t->b * a->alibi_stride_b + at.h] : 0;
#pragma unroll
        for (int c = 0; c < BN / 4; c++) {
            float *const x = &s[n / 2][c / 2][n % 2 * 2 + c % 2], y = *x * scale;
            const int32_t j = column + c / 2 * 8 + c % 2;
            if (FAI_HAS(FA_SOFTCAP) && a->softcap > 0) /* cap tanh(y / cap) */
                y = a->softcap -
                    2 * a->softcap / (1 + fai_ex2_approx_ftz_f32(2 * FAI_LOG2E * y / a->softcap));
            if (FAI_HAS(FA_ALIBI) && a->alibi_slopes) y -= slope * fabsf((float)(position - j));
            if (FAI_HAS(FA_BIAS) && a->bias.data && j < t->any.hi)
                y += FAI_(load_bias)(a, bias + j);
#if defined(FA_SCORE_MOD)
            y = (float)(FA_SCORE_MOD(y, t->b, at.h, at.i, j));
#endif
            *x = y * FAI_LOG2E;
        }
    }
}

/* Does a row see key j, one in its range? */
FAI_ATOM int FAI_(visible)(const fa_args *a, const FAI_(tile) *t, FAI_(row) at, int32_t j) {
    const fa_sequence seq = {t->b, t->len_q, t->len_k, 0, 0, 0, 0};
    (void)seq, (void)at, (void)j;
    if (FAI_HAS(FA_BLOCK_MASK) && a->block_mask.data && !fa_block_visible(a, &seq, at.h, at.i, j)) return 0;
    if (FAI_HAS(FA_TREE_MASK) && a->tree_mask.data && !fa_tree_visible(a, &seq, at.i, j)) return 0;
#if defined(FA_MASK_MOD)
    return (FA_MASK_MOD(t->b, at.h, at.i, j)) != 0;
#else
    return 1;
#endif
}

/* The tile to the left of `first` in which some row sees a key; less than end if there is none. All
 * threads ask. */
FAI_ATOM int32_t FAI_(next)(const fa_args *a, const FAI_(tile) *t, int32_t first, int32_t end) {
    FAI_SIZES
    first -= BN;
    if (!FAI_HAS(FA_BLOCK_MASK) || !a->block_mask.data) return first;
    const fa_sequence seq = {t->b, t->len_q, t->len_k, 0, 0, 0, 0};
    const FAI_(row) at = FAI_(find)(t, threadIdx.x % BM);
    for (; first >= end; first -= BN) {
        const int32_t stop = first + BN < t->any.hi ? first + BN : t->any.hi;
        int visible = 0;
        for (int32_t j = first; j < stop && !visible;
             j = (j / a->block_mask.block_k + 1) * a->block_mask.block_k)
            visible = fa_block_visible(a, &seq, at.h, at.i, j);
        if (__syncthreads_or(visible)) break;
    }
    return first;
}

/* S of keys from `first` on: what a row does not see becomes -inf. */
FAI_ATOM void FAI_(mask)(const fa_args *a, const FAI_(tile) *t, float s[FAI_MT][FAI_BN / 8][4],
                         int32_t first, int row) {
    FAI_SIZES
    const int32_t column = first + FAI_C_COL((int)threadIdx.x % 32, 0);
#pragma unroll
    for (int n = 0; n < MT * 2; n++) { /* rows of a thread */
        const FAI_(row) at = FAI_(find)(t, row + n * 8);
        const fa_range keys = FAI_(keys)(a, t, at.i);
        const int32_t lo = keys.lo - column, hi = keys.hi - column;
        uint32_t seen = 0; /* bit c: of key c / 2 * 8 + c % 2 */
        if (FAI_MASKS) {
#pragma unroll 1 /* 32 times these divisions would be most of the kernel's code */
            for (int c = 0; c < BN / 4; c++) {
                const int32_t j = c / 2 * 8 + c % 2;
                if (j >= lo && j < hi && FAI_(visible)(a, t, at, column + j)) seen |= 1u << c;
            }
        }
#pragma unroll
        for (int c = 0; c < BN / 4; c++) {
            const int32_t j = c / 2 * 8 + c % 2;
            if (!(FAI_MASKS ? seen >> c & 1 : j >= lo && j < hi)) s[n / 2][c / 2][n % 2 * 2 + c % 2] = -INFINITY;
        }
    }
}

/* x[n] without an index, which would need a stack */
FAI_ATOM uint32_t FAI_(pick)(const uint32_t x[4], uint32_t n) {
    const uint32_t low = n & 1 ? x[1] : x[0], high = n & 1 ? x[3] : x[2];
    return n & 2 ? high : low;
}

/* P of keys from `first` on: what is dropped becomes 0. A lane of a quad has 2 of 8 adjacent keys, whose
 * bits are one word of four that Philox makes at once: each lane makes those of another 8 keys, then they
 * change words. */
FAI_ATOM void FAI_(dropout)(const fa_args *a, const FAI_(tile) *t, float p[FAI_MT][FAI_BN / 8][4],
                            int32_t first, int row) {
    FAI_SIZES
    const uint32_t below = fa_dropout_threshold(a->dropout_p), quad = threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < MT * 2; n++) {
        const FAI_(row) at = FAI_(find)(t, row + n * 8);
#pragma unroll
        for (int c = 0; c < BN / 8; c += 4) {
            uint32_t made[4]; /* the words of keys 8 (c + quad) and on */
            uint32_t got[4];  /* word `quad` of keys 8 (c + (quad ^ x)) and on */
            fai_dropout_bits(a, t->b, at.h, at.i, first / 8 + c + (int32_t)quad, made);
#pragma unroll
            for (int x = 0; x < 4; x++) got[x] = fai_shfl_sync_bfly_b32(FAI_(pick)(made, quad ^ x), x);
#pragma unroll
            for (int x = 0; x < 4 && c + x < BN / 8; x++) {
                const uint32_t word = FAI_(pick)(got, quad ^ x);
                if ((word & 0xffff) < below) p[n / 2][c + x][n % 2 * 2] = 0;
                if (word >> 16 < below) p[n / 2][c + x][n % 2 * 2 + 1] = 0;
            }
        }
    }
}

/* P = exp2(scale S - m) in place. m, log2 units, need not be the maximum: it moves only when that is 2^8
 * above it, so P and the sums stay below 2^8 times their size, and O is seldom rescaled [FA4]. l: the
 * thread's part of the row sums. */
FAI_ATOM void FAI_(softmax)(float s[FAI_MT][FAI_BN / 8][4], float o[FAI_MT][FA_HEAD_DIM_V / 8][4],
                            float m[FAI_MT * 2], float l[FAI_MT * 2], float scale) {
    FAI_SIZES
    float top[MT * 2];
    int moves = 0;
#pragma unroll
    for (int n = 0; n < MT * 2; n++) {
        float x = -INFINITY; /* max ignores NaN, which then reaches the sum through P */
#pragma unroll
        for (int c = 0; c < BN / 8; c++)
            x = fmaxf(x, fmaxf(s[n / 2][c][n % 2 * 2], s[n / 2][c][n % 2 * 2 + 1]));
        x = fmaxf(x, fai_shfl_sync_bfly_f32(x, 1));
        x = fmaxf(x, fai_shfl_sync_bfly_f32(x, 2));
        top[n] = x * scale;
        moves |= top[n] > m[n] + 8;
    }
    if (__any_sync(~0u, moves)) {
#pragma unroll
        for (int n = 0; n < MT * 2; n++) {
            const float factor =
                top[n] > m[n] + 8 ? fai_ex2_approx_ftz_f32(m[n] - top[n]) : 1; /* 0 the first time */
            m[n] = top[n] > m[n] + 8 ? top[n] : m[n];
            l[n] *= factor;
#pragma unroll
            for (int c = 0; c < DV / 8; c++)
                o[n / 2][c][n % 2 * 2] *= factor, o[n / 2][c][n % 2 * 2 + 1] *= factor;
        }
    }
#pragma unroll
    for (int n = 0; n < MT * 2; n++) {
        const float base =
            m[n] == -INFINITY ? 0 : m[n]; /* nothing seen yet: exp2(-inf - 0), not -inf - -inf */
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
FAI_ATOM void FAI_(gemm_qk)(float s[FAI_MT][FAI_BN / 8][4], uint32_t rq[FAI_MT][FA_HEAD_DIM / 16][4],
                            uint32_t sq, uint32_t sk) {
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
            for (int a = 0; a < MT; a++)
                FAI_MMA(s[a][2 * j], rq[a][c], rk), FAI_MMA(s[a][2 * j + 1], rq[a][c], rk + 2);
        }
    }
}

/* O += P V: o (MT, DV/8, C4), p (MT, BN/8, C4). sv: the lane's address of the first fragment of V */
FAI_ATOM void FAI_(gemm_pv)(float o[FAI_MT][FA_HEAD_DIM_V / 8][4], float p[FAI_MT][FAI_BN / 8][4],
                            uint32_t sv) {
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
            for (int a = 0; a < MT; a++)
                FAI_MMA(o[a][2 * j], rp[a], rv), FAI_MMA(o[a][2 * j + 1], rp[a], rv + 2);
        }
    }
}

/* ======================================================================================== */
/* >>kernel   [FA2] Alg. 1: one block, BM rows of Q, all the keys that they see              */
/* ======================================================================================== */

/* Does args ask for what changes scores, or for masks besides ranges of keys? */
FAI_ATOM int FAI_(is_modified)(const fa_args *a) {
#if defined(FA_SCORE_MOD)
    return 1;
#else
    return (FAI_HAS(FA_SOFTCAP) && a->softcap > 0) || (FAI_HAS(FA_ALIBI) && a->alibi_slopes) ||
           (FAI_HAS(FA_BIAS) && a->bias.data);
#endif
}
FAI_ATOM int FAI_(is_masked)(const fa_args *a) {
#if defined(FA_MASK_MOD)
    return 1;
#else
    return (FAI_HAS(FA_BLOCK_MASK) && a->block_mask.data) || (FAI_HAS(FA_TREE_MASK) && a->tree_mask.data);
#endif
}

/* O = 0, m = -inf, l = 0; a sink is a key that has been seen, without a value. */
FAI_ATOM void FAI_(clear)(const fa_args *a, const FAI_(tile) *t, float o[FAI_MT][FA_HEAD_DIM_V / 8][4],
                          float m[FAI_MT * 2], float l[FAI_MT * 2], int row) {
    FAI_SIZES
#pragma unroll
    for (int n = 0; n < MT * DV / 8 * 4; n++) o[n / 4 / (DV / 8)][n / 4 % (DV / 8)][n % 4] = 0;
#pragma unroll
    for (int n = 0; n < MT * 2; n++) {
        m[n] = FAI_HAS(FA_SINK) && a->sink ? a->sink[FAI_(find)(t, row + n * 8).h] * FAI_LOG2E : -INFINITY;
        l[n] = m[n] != -INFINITY && threadIdx.x % 4 == 0; /* the lanes of a quad add theirs up at the end */
    }
}

/* O / l and LSE; O through shared memory, each warp its own rows, so that rows are written whole. row: the
 * first of the thread's rows. */
FAI_ATOM void FAI_(epilogue)(const fa_args *a, const FAI_(tile) *t, float o[FAI_MT][FA_HEAD_DIM_V / 8][4],
                             const float m[FAI_MT * 2], float l[FAI_MT * 2], uint32_t shared, int row) {
    FAI_SIZES
    enum { GROUP = FAI_GROUP(DV), STEP = 32 / GROUP };
    const int lane = (int)threadIdx.x % 32, warp_row = (int)threadIdx.x / 32 * MT * 16;
    const fai_strides so = fai_strides_o(a, DV), sl = fai_strides_lse(a);
    const fa_sequence seq = FAI_(sequence)(a, t->b);
#pragma unroll
    for (int n = 0; n < MT * 2; n++) {
        l[n] += fai_shfl_sync_bfly_f32(l[n], 1);
        l[n] += fai_shfl_sync_bfly_f32(l[n], 2);
        const float kept = FAI_HAS(FA_DROPOUT) ? fa_dropout_scale(a->dropout_p) : 1;
        const float factor = l[n] == 0 ? 0 : kept / l[n]; /* an empty row is 0 */
        const int r = row + n * 8;
        if (a->lse.data && lane % 4 == 0 && r < t->rows)
            ((float *)a->lse.data)[fai_offset_q(&seq, sl, FAI_(find)(t, r).i, FAI_(find)(t, r).h)] =
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
        uint16_t *to = (uint16_t *)a->o.data +
                       fai_offset_q(&seq, so, FAI_(find)(t, own).i, FAI_(find)(t, own).h) + lane % GROUP * 8;
#pragma unroll
        for (int c = 0; c < DV / 8; c += GROUP)
            *(uint4 *)(void *)(to + c * 8) = fai_ld_shared_v4_b32(shared + FAI_AT(DV, own, c + lane % GROUP));
    }
}

/* Adds the elements of V that the kernel has taken for 0 to the rows that see them: in tiles that are masked
 * in part, or everywhere. A thread has its own columns. */
FAI_ATOM void FAI_(add_infinite)(const fa_args *a, const FAI_(tile) *t, int everywhere) {
    FAI_SIZES
    const fai_strides so = fai_strides_o(a, DV);
    const fa_sequence seq = FAI_(sequence)(a, t->b);
    FAI_(source) gv = FAI_(open)(a, t, &a->v, DV);
    gv.from -= threadIdx.x % FAI_GROUP(DV) * 8;
    __syncthreads(); /* O is written */
    for (int32_t j = t->any.lo; j < t->any.hi; j++) {
        const int32_t first = j / BN * BN;
        if (!everywhere && first >= t->all.lo && first + BN <= t->all.hi)
            continue; /* whole tiles are right already */
        const uint16_t *from =
            gv.from + (FAI_HAS(FA_PAGED) && a->block_table ? FAI_(paged)(a, t, &a->v, gv, (uint32_t)j, DV)
                                                           : j * gv.row);
        for (int d = (int)threadIdx.x; d < DV; d += THREADS) {
            if ((from[d] & FAI_EXPONENT) != FAI_EXPONENT) continue;
            for (int r = 0; r < t->rows; r++) {
                const FAI_(row) at = FAI_(find)(t, r);
                const fa_range keys = FAI_(keys)(a, t, at.i);
                if (j < keys.lo || j >= keys.hi || !FAI_(visible)(a, t, at, j)) continue;
                if (FAI_HAS(FA_DROPOUT)) {
                    uint32_t bits[4];
                    fai_dropout_bits(a, t->b, at.h, at.i, j / 8, bits);
                    const uint32_t word = FAI_(pick)(bits, (uint32_t)j % 8 / 2);
                    if ((word >> j % 2 * 16 & 0xffff) < fa_dropout_threshold(a->dropout_p)) continue;
                }
                const int64_t o = fai_offset_q(&seq, so, at.i, at.h) + d;
                fa_store(a->o.data, o, FA_DTYPE,
                         fa_load(a->o.data, o, FA_DTYPE) + fa_load(from, d, FA_DTYPE));
            }
        }
    }
}

#if (FA_PASSES) & FA_FORWARD
static __global__ void __launch_bounds__(FAI_THREADS)
    FAI_(forward_kernel)(const __grid_constant__ fa_args args) {
    FAI_SIZES
    extern __shared__ __align__(128) unsigned char fai_shared[];
    enum { SQ = 0, SK = BM * D * 2, SV = SK + BN * D * 2, STAGE = BN * (D + DV) * 2 };
    enum { TILE = FAI_TILE_BYTES(FAI_ARCH) };
    FAI_(tile) *const t = (FAI_(tile) *)(void *)(fai_shared + TILE);
    if (!FAI_(begin)(&args, t)) return;

    const uint32_t shared = fai_cvta_to_shared(fai_shared);
    const int lane = (int)threadIdx.x % 32, warp_row = (int)threadIdx.x / 32 * MT * 16;
    const int row = warp_row + FAI_C_ROW(lane, 0); /* the thread's rows: row, row + 8 .. */
    const uint32_t sq =
        shared + SQ + FAI_AT(D, warp_row + FAI_LDMATRIX_A_ROW(lane), FAI_LDMATRIX_A_CHUNK(lane));
    const uint32_t sk = shared + SK + FAI_AT(D, FAI_LDMATRIX_B_ROW(lane), FAI_LDMATRIX_B_CHUNK(lane));
    const uint32_t sv = shared + SV + FAI_AT(DV, FAI_LDMATRIX_A_ROW(lane), FAI_LDMATRIX_A_CHUNK(lane));
    const FAI_(source) gk = FAI_(open)(&args, t, &args.k, D), gv = FAI_(open)(&args, t, &args.v, DV);
    const int modified = FAI_(is_modified)(&args), masked = FAI_(is_masked)(&args);
    const int drops = FAI_HAS(FA_DROPOUT) && args.dropout_p > 0;
    const float scale = fmaxf(args.softmax_scale != 0 ? fabsf(args.softmax_scale) : rsqrtf((float)D), 1e-37f);

    uint32_t rq[MT][D / 16][4];                   /* (MT, D/16, A4) */
    float o[MT][DV / 8][4], m[MT * 2], l[MT * 2]; /* (MT, DV/8, C4); of the thread's rows */
    FAI_(clear)(&args, t, o, m, l, row);

    /* load Q, and K (V) of the last tile that has a visible key */
    const int32_t end = t->any.lo / BN * BN;
    const int32_t last =
        t->any.lo < t->any.hi ? FAI_(next)(&args, t, (t->any.hi - 1) / BN * BN + BN, end) : end - BN;
    uint32_t stage = 0;
    int infinite = 0;
    if (last >= end) {
        FAI_(load_q)(&args, t, shared + SQ);
        FAI_(load_kv)(&args, t, &args.k, gk, last, shared + SK, D);
        if (STAGES == 2) FAI_(load_kv)(&args, t, &args.v, gv, last, shared + SV, DV);
    }
    /* right to left: the tiles to mask are the first and the last, if any */
    for (int32_t first = last, next; first >= end; first = next) {
        next = FAI_(next)(&args, t, first, end);
        const int mask = masked || first < t->all.lo || first + BN > t->all.hi;
        fai_cp_async_wait_all();
        if (first == last && args.softmax_scale < 0) FAI_(negate_q)(shared + SQ);
        if (STAGES == 2 && (mask || drops)) infinite |= FAI_(make_finite)(shared + SV + stage);
        __syncthreads(); /* K is there (V too, in 2 stages), for all; nobody reads the other stage (V) any more */
        if (first == last && Q_STAYS) FAI_(fragments_q)(rq, sq);
        if (STAGES == 1) FAI_(load_kv)(&args, t, &args.v, gv, first, shared + SV, DV);
        if (STAGES == 2 && next >= end) {
            FAI_(load_kv)(&args, t, &args.k, gk, next, shared + SK + (STAGE - stage), D);
            FAI_(load_kv)(&args, t, &args.v, gv, next, shared + SV + (STAGE - stage), DV);
        }

        float s[MT][BN / 8][4]; /* (MT, BN/8, C4) */
        FAI_(gemm_qk)(s, rq, sq, sk + stage);
        if (FAI_SCORES && modified) FAI_(modify)(&args, t, s, first, row, scale);
        if (mask) FAI_(mask)(&args, t, s, first, row);
        FAI_(softmax)(s, o, m, l, modified ? 1 : scale * FAI_LOG2E);
        if (drops) FAI_(dropout)(&args, t, s, first, row);

        if (STAGES == 1) {
            fai_cp_async_wait_all();
            if (mask || drops) infinite |= FAI_(make_finite)(shared + SV);
            __syncthreads(); /* V is there, for all; nobody reads K any more */
            if (next >= end) FAI_(load_kv)(&args, t, &args.k, gk, next, shared + SK, D);
        }
        FAI_(gemm_pv)(o, s, sv + stage);
        if (STAGES == 2) stage = STAGE - stage;
    }
    infinite = __syncthreads_or(infinite); /* nobody reads shared memory any more: it is free for O */
    FAI_(epilogue)(&args, t, o, m, l, shared, row);
    if (infinite) FAI_(add_infinite)(&args, t, masked || drops);
}
#endif /* FA_FORWARD */

/* ======================================================================================== */
/* >>launch   what users call                                                                */
/* ======================================================================================== */

#if (FA_PASSES) & FA_FORWARD
static inline size_t FA_(forward_cuda_workspace)(const fa_args *args);
static inline fa_status FA_(forward_cuda)(const fa_args *args, void *workspace, size_t bytes,
                                          cudaStream_t stream);
#endif

static const fa_cuda_info FA_(cuda_info) = {{FAI_STRING(FA_NAME), FA_HEAD_DIM, FA_HEAD_DIM_V, FA_DTYPE,
                                             FA_KV_DTYPE, FA_O_DTYPE, FAI_TILE_M(800), FAI_TILE_N(800),
                                             (FA_FEATURES), (FA_PASSES),
#if defined(FA_SCORE_MOD)
                                             FA_(cuda_score_mod), NULL,
#else
                                             NULL, NULL,
#endif
#if defined(FA_MASK_MOD)
                                             FA_(cuda_mask_mod),
#else
                                             NULL,
#endif
                                             NULL, NULL, NULL, NULL, NULL, NULL},
#if (FA_PASSES) & FA_FORWARD
                                            FA_(forward_cuda_workspace),
                                            FA_(forward_cuda),
#else
                                            NULL,
                                            NULL,
#endif
                                            NULL,
                                            NULL,
                                            NULL,
                                            NULL};

#if (FA_PASSES) & FA_FORWARD
/* The launch that the current device needs for args, which have passed the check: users may do it
 * themselves. */
static inline fa_status FA_(forward_cuda_launch)(const fa_args *args, fa_cuda_launch *launch) {
    struct cudaFuncAttributes attributes;
    const void *kernel = (const void *)FAI_(forward_kernel);
    cudaError_t e = cudaFuncGetAttributes(&attributes, kernel);
    if (e != cudaSuccess) return fai_cuda_status(args, e);
    const int arch = attributes.ptxVersion * 10;
    const int64_t tiles = FAI_(tiles)(args, FAI_TILE_M(arch)),
                  heads = (int64_t)args->batch * fai_num_heads_k(args);
    const int64_t group = args->num_heads / fai_num_heads_k(args);
    if (group >= 1 << 22)
        return fai_fail(args, FA_ERR_CUDA_GRID, "num_heads", -1, args->num_heads, 1, (1 << 22) - 1);
    if (tiles > INT32_MAX / heads)
        return fai_fail(args, FA_ERR_CUDA_GRID, "tiles", -1, (double)tiles * (double)heads, 1, INT32_MAX);
    launch->kernel = kernel, launch->arch = arch;
    launch->grid = (unsigned)(tiles * heads), launch->block = FAI_TILE_WARPS(arch) * 32;
    launch->shared = FAI_TILE_SHARED(arch);
    e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)launch->shared);
    if (e == cudaSuccess) return FA_OK;
    (void)cudaGetLastError(); /* this call answers for it */
    int device = 0, most = 0;
    if (cudaGetDevice(&device) == cudaSuccess &&
        cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) == cudaSuccess &&
        (size_t)most < launch->shared)
        return fai_fail(args, FA_ERR_CUDA_SHARED, "shared memory", -1, (double)launch->shared, 0, most);
    return fai_cuda_status(args, e);
}

/* Bytes of device memory that the call needs: none. */
static inline size_t FA_(forward_cuda_workspace)(const fa_args *args) {
    (void)args;
    return 0;
}

/* O and LSE, on the stream. Nothing is launched unless the result is FA_OK. */
static inline fa_status FA_(forward_cuda)(const fa_args *args, void *workspace, size_t bytes,
                                          cudaStream_t stream) {
    fa_cuda_launch launch;
    fa_status status = fa_check_pass_cuda(&FA_(cuda_info).info, args, FA_FORWARD);
    (void)workspace, (void)bytes;
    if (status == FA_OK) status = FA_(forward_cuda_launch)(args, &launch);
    if (status != FA_OK) return status;
    void *parameters[1] = {(void *)args};
    return fai_cuda_status(args, cudaLaunchKernel(launch.kernel, dim3(launch.grid), dim3(launch.block),
                                                  parameters, launch.shared, stream));
}
#endif /* FA_FORWARD */

#undef FAI_EXPONENT
#undef FAI_FMA2
#undef FAI_PACK
#undef FAI_MMA
#undef FAI_ISA
#undef FAI_SIZES
#undef FAI_MT
#undef FAI_BN
#undef FAI_THREADS
#undef FAI_TILE_BYTES
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
#undef FAI_HEAVY
#undef FAI_MASKS
#undef FAI_SCORES
#undef FAI_HAS
#undef FAI_DIM
#undef FA_STAGES
#undef FA_WARPS
#define FAI_FORGET
#include "flashattn.h" /* forgets the parameters */
#undef FAI_FORGET
#endif /* instance */
#undef FAI_CUDA
#endif /* nvcc */
