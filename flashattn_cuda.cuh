/*  flashattn_cuda.cuh - v0.1.0 - attention kernels as CUDA templates - MIT licence, see end of flashattn.h

    WHAT      The forward and backward passes of flashattn.h on NVIDIA GPUs with tensor cores (sm_80 and up), in
              f16 and bf16: the same fa_args, with pointers to device memory; the same features, masks and
              dropped elements.

    DO THIS   copy this file and flashattn.h next to yours; compile with  nvcc -O3 -arch=native hello.cu

        #define FA_NAME     attn128          // prefix of everything generated
        #define FA_HEAD_DIM 128
        #include "flashattn_cuda.cuh"        // -> attn128_forward_cuda(), attn128_cuda_info, ...

    DOES NOT  allocate, print, synchronise, keep state, or change the device: a call launches one kernel,
              backward up to four, on the stream that it is given, and may be captured in a graph. Bad arguments
              return a status; nothing is launched unless it is FA_OK.

    CONTENTS  search for:  >>maps  >>vocabulary  >>launch-once  >>tiles  >>loads  >>scores  >>products
                           >>kernel  >>backward  >>launch

    PARAMETERS  those of flashattn.h, defined before an include and undefined by it. Different here:

        FA_DTYPE             FA_BF16        FA_F16 or FA_BF16
        FA_KV_DTYPE, FA_O_DTYPE   FA_DTYPE  nothing else
        FA_PASSES            FA_FORWARD     FA_FORWARD, FA_BACKWARD, or both, combined with |
        FA_BLOCK_M           see >>tiles    query rows of a thread block: 16 or 32 for each warp
        FA_BLOCK_N           see >>tiles    keys of a tile: 16, 32 .. 128
        FA_WARPS             see >>tiles    warps of a thread block: 1 .. 16
        FA_STAGES            see >>tiles    1 or 2 tiles of K and V in shared memory
                                            (these four: of the forward pass)

    YOU GET, for FA_NAME = attn128 (all static, no external symbol)

        const fa_cuda_info attn128_cuda_info;
        size_t    attn128_forward_cuda_workspace(const fa_args *args);
        fa_status attn128_forward_cuda(const fa_args *args, void *workspace, size_t bytes, cudaStream_t stream);
        fa_status attn128_forward_cuda_launch(const fa_args *args, fa_cuda_launch *launch);
        size_t    attn128_backward_cuda_workspace(const fa_args *args);
        fa_status attn128_backward_cuda(const fa_args *args, void *workspace, size_t bytes, cudaStream_t stream);
        fa_status attn128_backward_cuda_launch(const fa_args *args, fa_cuda_launch launch[4]);

    DATA      Rows of q, k, v, o and their gradients start at multiples of 16 bytes: data, and strides in bytes. cu_seqlens,
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

#if !defined(FAI_MAPS_ONLY) /* tests of the maps want no more, and no nvcc */

#if !defined(__CUDACC__)
#error "flashattn_cuda.cuh: compile with nvcc (a .cu file, or -x cu); flashattn.h has the CPU kernels"
#endif
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
FAI_ATOM uint32_t fai_ld_shared_b32(uint32_t address) {
    uint32_t x;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(x) : "r"(address) : "memory");
    return x;
}
FAI_ATOM uint2 fai_ld_shared_v2_b32(uint32_t address) {
    uint2 x;
    asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];" : "=r"(x.x), "=r"(x.y) : "r"(address) : "memory");
    return x;
}
FAI_ATOM void fai_st_shared_v4_b32(uint32_t address, uint4 x) {
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(x.x), "r"(x.y), "r"(x.z),
                 "r"(x.w)
                 : "memory");
}

FAI_ATOM void fai_red_global_add_f32(float *to, float x) {
    asm volatile("red.relaxed.gpu.global.add.f32 [%0], %1;" ::"l"(to), "f"(x) : "memory");
}
#if FAI_ARCH >= 900
FAI_ATOM void fai_red_global_add_v4_f32(float *to, const float x[4]) {
    asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to), "f"(x[0]), "f"(x[1]),
                 "f"(x[2]), "f"(x[3])
                 : "memory");
}
#endif
FAI_ATOM uint32_t fai_atom_global_add_u32(uint32_t *at, uint32_t x) {
    uint32_t before;
    asm volatile("atom.relaxed.gpu.global.add.u32 %0, [%1], %2;" : "=r"(before) : "l"(at), "r"(x) : "memory");
    return before;
}
FAI_ATOM uint32_t fai_ld_acquire_gpu_b32(const uint32_t *from) {
    uint32_t x;
    asm volatile("ld.acquire.gpu.global.b32 %0, [%1];" : "=r"(x) : "l"(from) : "memory");
    return x;
}
FAI_ATOM void fai_st_release_gpu_b32(uint32_t *to, uint32_t x) {
    asm volatile("st.release.gpu.global.b32 [%0], %1;" ::"l"(to), "r"(x) : "memory");
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
FAI_ATOM float fai_cvt_f32_f16(uint16_t x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
    return y;
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
FAI_ATOM uint32_t fai_shfl_sync_idx_b32(uint32_t x, int lane) { return __shfl_sync(~0u, x, lane); }
/* x, of which the compiler knows nothing: what a loop computes from it is computed in the loop, not kept in
 * registers across it */
FAI_ATOM uint32_t fai_unknown(uint32_t x) {
    asm volatile("" : "+r"(x));
    return x;
}

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

/* Lets the kernel have its shared memory. */
static inline fa_status fai_cuda_allow_shared(const fa_args *args, const fa_cuda_launch *launch) {
    const cudaError_t e =
        cudaFuncSetAttribute(launch->kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)launch->shared);
    if (e == cudaSuccess) return FA_OK;
    (void)cudaGetLastError(); /* this call answers for it */
    int device = 0, most = 0;
    if (cudaGetDevice(&device) == cudaSuccess &&
        cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) == cudaSuccess &&
        (size_t)most < launch->shared)
        return fai_fail(args, FA_ERR_CUDA_SHARED, "shared memory", -1, (double)launch->shared, 0, most);
    return fai_cuda_status(args, e);
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
#if (FA_PASSES) & ~(FA_FORWARD | FA_BACKWARD)
#error "flashattn_cuda.cuh: FA_PASSES must be FA_FORWARD, FA_BACKWARD, or both"
#endif

#if FA_HEAD_DIM > FA_HEAD_DIM_V
#define FAI_DIM FA_HEAD_DIM
#else
#define FAI_DIM FA_HEAD_DIM_V
#endif

#define FAI_KV_BYTES (FA_KV_DTYPE == FA_DTYPE ? 2 : 1)
#define FAI_UNITS(elements) ((elements) * FAI_KV_BYTES / 2) /* of K and V, in 16 bits */
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
        /* in registers: 32 of them, too many next to those that features take */ \
        Q_STAYS = FAI_MT * FAI_DIM <= 128 && !FAI_HEAVY \
    };
FA_STATIC_ASSERT(FAI_TILE_M(FAI_ARCH) == FAI_MT * 16 * FAI_TILE_WARPS(FAI_ARCH) &&
                     (FAI_MT == 1 || FAI_MT == 2) && FAI_THREADS <= 512,
                 "flashattn_cuda.cuh: FA_BLOCK_M must be 16 or 32 times FA_WARPS, and FA_WARPS 1..16");
FA_STATIC_ASSERT(FAI_BN >= 16 && FAI_BN <= 128 && FAI_BN % 16 == 0,
                 "flashattn_cuda.cuh: FA_BLOCK_N must be a multiple of 16 in 16..128");
FA_STATIC_ASSERT(FAI_TILE_STAGES(FAI_ARCH) == 1 || FAI_TILE_STAGES(FAI_ARCH) == 2,
                 "flashattn_cuda.cuh: FA_STAGES must be 1 or 2");

#define FAI_ISA cuda
#if FA_DTYPE == FA_BF16
#define FAI_MMA fai_mma_m16n8k16_f32_bf16
#define FAI_PACK fai_cvt_rn_bf16x2_f32
#define FAI_FMA2 fai_fma_rn_bf16x2
#define FAI_EXPONENT 0x7f80u
#define FAI_UNPACK(x) __uint_as_float((uint32_t)(x) << 16)
#else
#define FAI_MMA fai_mma_m16n8k16_f32_f16
#define FAI_PACK fai_cvt_rn_f16x2_f32
#define FAI_FMA2 fai_fma_rn_f16x2
#define FAI_EXPONENT 0x7c00u
#define FAI_UNPACK(x) fai_cvt_f32_f16((uint16_t)(x))
#endif

#if defined(FA_SCORE_MOD)
static inline double FA_(cuda_score_mod)(double s, int b, int h, int i, int j) {
    (void)b, (void)h, (void)i, (void)j;
    return (double)(FA_SCORE_MOD(s, b, h, i, j));
}
#endif
#if defined(FA_SCORE_MOD_GRAD)
static inline double FA_(cuda_score_mod_grad)(double s, int b, int h, int i, int j) {
    (void)s, (void)b, (void)h, (void)i, (void)j;
    return (double)(FA_SCORE_MOD_GRAD(s, b, h, i, j));
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

/* Tile `n` of the launch, of `most` rows; 0 if its sequence has no such rows. */
FAI_ATOM int FAI_(begin)(const fa_args *a, FAI_(tile) *t, uint32_t n, const int most) {
    const uint32_t tiles = (uint32_t)FAI_(tiles)(a, most), heads_k = (uint32_t)fai_num_heads_k(a);
    const uint32_t number = n % tiles, head = n / tiles;
    const fa_sequence seq = FAI_(sequence)(a, (int32_t)(head / heads_k));
    const int32_t group = a->num_heads / (int32_t)heads_k, head_k = (int32_t)(head % heads_k);
    const int64_t row0 = (int64_t)number * most, rest = (int64_t)seq.len_q * group - row0;
    if (rest <= 0) return 0;
    const int32_t rows = rest < most ? (int32_t)rest : most,
                  own = (int32_t)threadIdx.x < rows ? (int32_t)threadIdx.x : rows - 1;
    const int32_t first = (int32_t)(row0 / group),
                  shift = (int32_t)(row0 % group); /* row 0: query and head */
    if ((int)threadIdx.x < most)
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

/* A pass of `threads` threads copies threads / GROUP rows of GROUP chunks: then each next step is a constant
 * away, but for the permutation if it is less than 8 rows on: a step is a power of 2, so that
 * swz(row + r) == swz(row) ^ swz(r) for multiples r of it. */

FAI_ATOM void FAI_(load_q)(const fa_args *a, const FAI_(tile) *t, uint32_t to, const int most,
                           const int threads) {
    enum { D = FA_HEAD_DIM, GROUP = FAI_GROUP(D) };
    const int step = threads / GROUP;
    const fai_strides st = fai_strides_q(a, D);
    const fa_sequence seq = FAI_(sequence)(a, t->b);
    const int row0 = (int)threadIdx.x / GROUP, chunk = (int)threadIdx.x % GROUP;
    to += FAI_AT(D, row0, chunk);
#pragma unroll
    for (int r = 0; r < most; r += step) {
        if (most % step && row0 + r >= most) continue;
        const FAI_(row) row = FAI_(find)(t, row0 + r);
        const uint16_t *from = (const uint16_t *)a->q.data + fai_offset_q(&seq, st, row.i, row.h) + chunk * 8;
#pragma unroll
        for (int c = 0; c < D / 8; c += GROUP)
            fai_cp_async_cg_16((to ^ FAI_SWIZZLE(D, r) * 16) + r * D * 2 + c * 16, from + c * 8,
                               row0 + r < t->rows ? 16 : 0);
    }
}

/* What is done to the chunks that a thread has copied, before the others may read them. */
/* clang-format off */
#define FAI_EACH_CHUNK(dim, rows, tile, thread, threads) \
    _Pragma("unroll 1") \
    for (int r = (thread) / FAI_GROUP(dim); r < (rows); r += (threads) / FAI_GROUP(dim)) \
        for (uint32_t at = (tile) + FAI_AT(dim, r, (thread) % FAI_GROUP(dim)), \
                      end = (tile) + (r + 1) * (dim) * 2; \
             at < end; at += FAI_GROUP(dim) * 16)
/* clang-format on */

/* -Q, for a negative scale */
FAI_ATOM void FAI_(negate_q)(uint32_t sq) {
    FAI_SIZES
    FAI_EACH_CHUNK(D, BM, sq, (int)threadIdx.x, THREADS) {
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

/* What is not finite in the thread's chunks of a tile becomes 0, as 0 times it is not. 1 if there was such an
 * element. */
FAI_ATOM int FAI_(make_rows_finite)(uint32_t tile, const int dim, int thread, const int threads,
                                    const int number) {
    int found = 0;
    FAI_EACH_CHUNK(dim, number, tile, thread, threads) {
        uint4 x = fai_ld_shared_v4_b32(at);
        const uint32_t zero = /* or NaN */
            FAI_FMA2(x.w, 0, FAI_FMA2(x.z, 0, FAI_FMA2(x.y, 0, FAI_FMA2(x.x, 0, 0))));
        if ((zero & 0x7fff7fff) == 0) continue;
        x.x = FAI_(finite)(x.x), x.y = FAI_(finite)(x.y), x.z = FAI_(finite)(x.z), x.w = FAI_(finite)(x.w);
        fai_st_shared_v4_b32(at, x), found = 1;
    }
    return found;
}
FAI_ATOM int FAI_(make_finite)(uint32_t sv, int thread, const int threads, const int number) {
    return FAI_(make_rows_finite)(sv, FA_HEAD_DIM_V, thread, threads, number);
}
#undef FAI_EACH_CHUNK

/* Where a thread copies K or V from: its chunk of row 0 of the sequence (of page 0 if paged). Distances count
 * 16 bits, as the shapes of tiles do: two elements of 8. */
typedef struct FAI_(source) {
    const uint16_t *from;
    int64_t row; /* stride */
} FAI_(source);

FAI_ATOM FAI_(source) FAI_(open)(const fa_args *a, const FAI_(tile) *t, const fa_tensor *x, int thread,
                                 const int dim) {
    const fai_strides st = fai_strides_kv(a, x, dim);
    const fa_sequence seq = FAI_(sequence)(a, t->b);
    const int64_t before = FAI_HAS(FA_PAGED) && a->block_table ? 0 : seq.b_k * st.b + seq.row_k * st.s;
    const int chunk = thread % FAI_GROUP(FAI_UNITS(dim));
    const FAI_(source) s = {(const uint16_t *)x->data + FAI_UNITS(before + t->head_k * st.h) + chunk * 8,
                            FAI_UNITS(st.s)};
    return s;
}

/* From page 0 to key j, x: k or v. */
FAI_ATOM int64_t FAI_(paged)(const fa_args *a, const FAI_(tile) *t, const fa_tensor *x, FAI_(source) s,
                             uint32_t j, const int dim) {
    /* not 0 where nothing is paged: the compiler may divide before it knows that */
    const uint32_t size = a->page_size > 0 ? (uint32_t)a->page_size : 1,
                   width = ((uint32_t)a->seqlen_k + size - 1) / size;
    const int64_t stride = a->block_table_stride ? a->block_table_stride : width;
    return a->block_table[t->b * stride + j / size] * FAI_UNITS(fai_strides_kv(a, x, dim).b) +
           j % size * s.row;
}

/* `number` keys from first on, by `threads` threads, to the tile at `to`. Those that no row of the tile sees
 * become zeros, whatever is there. */
FAI_ATOM void FAI_(load_keys)(const fa_args *a, const FAI_(tile) *t, const fa_tensor *x, FAI_(source) s,
                              int32_t first, uint32_t to, int thread, const int threads, const int number,
                              const int dim) {
    const int units = FAI_UNITS(dim), group = FAI_GROUP(units), step = threads / group, row = thread / group;
    to += FAI_AT(units, row, thread % group);
    const uint16_t *next = s.from + (first + row) * s.row;
#pragma unroll
    for (int r = 0; r < number; r += step, next += step * s.row) {
        const int32_t j = first + row + r, inside = j >= t->any.lo && j < t->any.hi;
        const uint16_t *from = inside ? next : s.from; /* an address that exists */
        if (FAI_HAS(FA_PAGED) && a->block_table && inside)
            from = s.from + FAI_(paged)(a, t, x, s, (uint32_t)j, dim);
        if (number % step && row + r >= number) continue;
#pragma unroll
        for (int c = 0; c < units / 8; c += group)
            fai_cp_async_cg_16((to ^ FAI_SWIZZLE(units, r) * 16) + r * units * 2 + c * 16, from + c * 8,
                               inside ? 16 : 0);
    }
}
FAI_ATOM void FAI_(load_kv)(const fa_args *a, const FAI_(tile) *t, const fa_tensor *x, FAI_(source) s,
                            int32_t first, uint32_t to, const int dim) {
    FAI_(load_keys)(a, t, x, s, first, to, (int)threadIdx.x, FAI_THREADS, FAI_BN, dim);
}

/* ======================================================================================== */
/* >>scores   masks, softmax                                                                 */
/* ======================================================================================== */

/* What softcap, ALiBi, bias and FA_SCORE_MOD make of score y, in natural units, of key j; exists: j is a key.
 * alibi: slope of the head; bias: where that of the row begins; by_y, by_bias: derivatives, if not NULL. */
FAI_ATOM float FAI_(change)(const fa_args *a, const fa_sequence *seq, FAI_(row) at, int32_t j, int exists,
                            float alibi, int64_t bias, float y, float *by_y, float *by_bias) {
    float slope = 1;
    if (FAI_HAS(FA_SOFTCAP) && a->softcap > 0) { /* cap tanh(y / cap) */
        const float rest = 2 / (1 + fai_ex2_approx_ftz_f32(2 * FAI_LOG2E * y / a->softcap)); /* 1 - tanh */
        y = a->softcap - a->softcap * rest, slope = rest * (2 - rest);
    }
    if (FAI_HAS(FA_ALIBI) && a->alibi_slopes)
        y -= alibi * fabsf((float)(at.i + seq->len_k - seq->len_q - j));
    if (FAI_HAS(FA_BIAS) && a->bias.data && exists)
        y += fa_load(a->bias.data, bias + j, a->bias.dtype ? a->bias.dtype : FA_F32);
    if (by_bias) *by_bias = 1;
#if defined(FA_SCORE_MOD_GRAD)
    if (by_bias) *by_bias = (float)(FA_SCORE_MOD_GRAD(y, seq->b, at.h, at.i, j));
#endif
    if (by_y) *by_y = slope * *by_bias;
#if defined(FA_SCORE_MOD)
    y = (float)(FA_SCORE_MOD(y, seq->b, at.h, at.i, j));
#endif
    return y;
}
FAI_ATOM float FAI_(alibi)(const fa_args *a, int32_t b, int32_t h) {
    return FAI_HAS(FA_ALIBI) && a->alibi_slopes ? a->alibi_slopes[b * a->alibi_stride_b + h] : 0;
}

/* These functions take S, P: (mt, number/8, C4), of mt * 16 rows and `number` keys from `first` on. row: the
 * first of the thread's rows in the tile. */

/* Softcap, ALiBi, bias and FA_SCORE_MOD: S in log2 units. scale: softmax_scale. */
FAI_ATOM void FAI_(modify)(const fa_args *a, const FAI_(tile) *t, float (*s)[4], int32_t first, int row,
                           float scale, const int mt, const int number) {
    const int32_t column = first + FAI_C_COL((int)threadIdx.x % 32, 0);
    const fa_sequence seq = {t->b, t->len_q, t->len_k, 0, 0, 0, 0};
    const fai_strides sb = fai_strides_bias(a);
#pragma unroll
    for (int n = 0; n < mt * 2; n++) { /* rows of a thread */
        const FAI_(row) at = FAI_(find)(t, row + n * 8);
        const int64_t bias = t->b * sb.b + at.h * sb.h + at.i * sb.s;
        const float alibi = FAI_(alibi)(a, t->b, at.h);
#pragma unroll
        for (int c = 0; c < number / 4; c++) {
            float *const x = &s[n / 2 * (number / 8) + c / 2][n % 2 * 2 + c % 2];
            const int32_t j = column + c / 2 * 8 + c % 2;
            *x = FAI_(change)(a, &seq, at, j, j < t->any.hi, alibi, bias, *x * scale, NULL, NULL) * FAI_LOG2E;
        }
    }
}

/* Does query at see key j, one in its range? */
FAI_ATOM int FAI_(sees)(const fa_args *a, const fa_sequence *seq, FAI_(row) at, int32_t j) {
    (void)seq, (void)at, (void)j;
    if (FAI_HAS(FA_BLOCK_MASK) && a->block_mask.data && !fa_block_visible(a, seq, at.h, at.i, j)) return 0;
    if (FAI_HAS(FA_TREE_MASK) && a->tree_mask.data && !fa_tree_visible(a, seq, at.i, j)) return 0;
#if defined(FA_MASK_MOD)
    return (FA_MASK_MOD(seq->b, at.h, at.i, j)) != 0;
#else
    return 1;
#endif
}
FAI_ATOM int FAI_(visible)(const fa_args *a, const FAI_(tile) *t, FAI_(row) at, int32_t j) {
    const fa_sequence seq = {t->b, t->len_q, t->len_k, 0, 0, 0, 0};
    return FAI_(sees)(a, &seq, at, j);
}

/* x[n] without an index, which would need a stack */
FAI_ATOM uint32_t FAI_(pick)(const uint32_t x[4], uint32_t n) {
    const uint32_t low = n & 1 ? x[1] : x[0], high = n & 1 ? x[3] : x[2];
    return n & 2 ? high : low;
}

/* fa_dropout_keep */
FAI_ATOM int FAI_(kept)(const fa_args *a, const FAI_(tile) *t, FAI_(row) at, int32_t j) {
    uint32_t bits[4];
    fai_dropout_bits(a, t->b, at.h, at.i, j / 8, bits);
    const uint32_t word = FAI_(pick)(bits, (uint32_t)j % 8 / 2);
    return (word >> j % 2 * 16 & 0xffff) >= fa_dropout_threshold(a->dropout_p);
}

/* Does a row see key j, and keep it? */
FAI_ATOM int FAI_(counts)(const fa_args *a, const FAI_(tile) *t, FAI_(row) at, int32_t j) {
    const fa_range keys = FAI_(keys)(a, t, at.i);
    return j >= keys.lo && j < keys.hi && FAI_(visible)(a, t, at, j) &&
           (!FAI_HAS(FA_DROPOUT) || FAI_(kept)(a, t, at, j));
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

/* S: what a row does not see becomes -inf. */
FAI_ATOM void FAI_(mask)(const fa_args *a, const FAI_(tile) *t, float (*s)[4], int32_t first, int row,
                         const int mt, const int number) {
    const int32_t column = first + FAI_C_COL((int)threadIdx.x % 32, 0);
#pragma unroll
    for (int n = 0; n < mt * 2; n++) { /* rows of a thread */
        const FAI_(row) at = FAI_(find)(t, row + n * 8);
        const fa_range keys = fai_cut(FAI_(keys)(a, t, at.i), t->any);
        const int32_t lo = keys.lo - column, hi = keys.hi - column;
#pragma unroll
        for (int c = 0; c < number / 4; c++) {
            const int32_t j = c / 2 * 8 + c % 2;
            if (!(j >= lo && j < hi && FAI_(visible)(a, t, at, column + j)))
                s[n / 2 * (number / 8) + c / 2][n % 2 * 2 + c % 2] = -INFINITY;
        }
    }
}

/* P: what is dropped becomes 0. A lane of a quad has 2 of 8 adjacent keys, whose
 * bits are one word of four that Philox makes at once: each lane makes those of another 8 keys, then they
 * change words. */
FAI_ATOM void FAI_(dropout)(const fa_args *a, const FAI_(tile) *t, float (*p)[4], int32_t first, int row,
                            const int mt, const int number) {
    const uint32_t below = fa_dropout_threshold(a->dropout_p), quad = threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < mt * 2; n++) {
        const FAI_(row) at = FAI_(find)(t, row + n * 8);
#pragma unroll
        for (int c = 0; c < number / 8; c += 4) {
            uint32_t made[4]; /* the words of keys 8 (c + quad) and on */
            uint32_t got[4];  /* word `quad` of keys 8 (c + (quad ^ x)) and on */
            fai_dropout_bits(a, t->b, at.h, at.i, first / 8 + c + (int32_t)quad, made);
#pragma unroll
            for (int x = 0; x < 4; x++) got[x] = fai_shfl_sync_bfly_b32(FAI_(pick)(made, quad ^ x), x);
#pragma unroll
            for (int x = 0; x < 4 && c + x < number / 8; x++) {
                const uint32_t word = FAI_(pick)(got, quad ^ x);
                float *const pair = &p[n / 2 * (number / 8) + c + x][n % 2 * 2];
                if ((word & 0xffff) < below) pair[0] = 0;
                if (word >> 16 < below) pair[1] = 0;
            }
        }
    }
}

/* P = exp2(scale S - m) in place. m, log2 units, need not be the maximum: it moves only when that is 2^8
 * above it, so P and the sums stay below 2^8 times their size, and O, (mt, dv/8, C4), is seldom rescaled
 * [FA4]. l: the thread's part of the row sums. */
FAI_ATOM void FAI_(softmax)(float (*s)[4], float (*o)[4], float *m, float *l, float scale, const int mt,
                            const int number, const int dv) {
    float top[4]; /* mt * 2 */
    int moves = 0;
#pragma unroll
    for (int n = 0; n < mt * 2; n++) {
        float x = -INFINITY; /* max ignores NaN, which then reaches the sum through P */
#pragma unroll
        for (int c = n / 2 * (number / 8); c < (n / 2 + 1) * (number / 8); c++)
            x = fmaxf(x, fmaxf(s[c][n % 2 * 2], s[c][n % 2 * 2 + 1]));
        x = fmaxf(x, fai_shfl_sync_bfly_f32(x, 1));
        x = fmaxf(x, fai_shfl_sync_bfly_f32(x, 2));
        top[n] = x * scale;
        moves |= top[n] > m[n] + 8;
    }
    if (__any_sync(~0u, moves)) {
#pragma unroll
        for (int n = 0; n < mt * 2; n++) {
            const float factor =
                top[n] > m[n] + 8 ? fai_ex2_approx_ftz_f32(m[n] - top[n]) : 1; /* 0 the first time */
            m[n] = top[n] > m[n] + 8 ? top[n] : m[n];
            l[n] *= factor;
#pragma unroll
            for (int c = n / 2 * (dv / 8); c < (n / 2 + 1) * (dv / 8); c++)
                o[c][n % 2 * 2] *= factor, o[c][n % 2 * 2 + 1] *= factor;
        }
    }
#pragma unroll
    for (int n = 0; n < mt * 2; n++) {
        const float base =
            m[n] == -INFINITY ? 0 : m[n]; /* nothing seen yet: exp2(-inf - 0), not -inf - -inf */
#pragma unroll
        for (int c = n / 2 * (number / 8); c < (n / 2 + 1) * (number / 8); c++) {
#pragma unroll
            for (int e = n % 2 * 2; e < n % 2 * 2 + 2; e++) {
                s[c][e] = fai_ex2_approx_ftz_f32(fmaf(s[c][e], scale, -base));
                l[n] += s[c][e];
            }
        }
    }
}

/* ======================================================================================== */
/* >>products  fragments and mma                                                             */
/* ======================================================================================== */

/* rq (mt, D/16, A4) <- Q */
FAI_ATOM void FAI_(fragments_q)(uint32_t (*rq)[4], uint32_t sq, const int mt) {
    enum { D = FA_HEAD_DIM };
#pragma unroll
    for (int n = 0; n < mt * D / 16; n++)
        fai_ldmatrix_x4(rq[n], FAI_MOVE(D, sq, n / (D / 16) * 16, n % (D / 16) * 2));
}

/* S = Q K^T: s (mt, number/8, C4), rq (mt, D/16, A4), which stays in registers or is loaded. sq, sk: the
 * lane's addresses of the first fragment of Q and of K */
FAI_ATOM void FAI_(gemm_qk)(float (*s)[4], uint32_t (*rq)[4], uint32_t sq, uint32_t sk, const int mt,
                            const int number, const int stays) {
    enum { D = FA_HEAD_DIM };
#pragma unroll
    for (int n = 0; n < mt * number / 8 * 4; n++) s[n / 4][n % 4] = 0;
#pragma unroll
    for (int c = 0; c < D / 16; c++) {
#pragma unroll
        for (int a = 0; a < mt && !stays; a++)
            fai_ldmatrix_x4(rq[a * (D / 16) + c], FAI_MOVE(D, sq, a * 16, c * 2));
#pragma unroll
        for (int j = 0; j < number / 16; j++) {
            uint32_t rk[4]; /* (2, B2) */
            fai_ldmatrix_x4(rk, FAI_MOVE(D, sk, j * 16, c * 2));
#pragma unroll
            for (int a = 0; a < mt; a++) {
                float (*const to)[4] = s + a * (number / 8) + 2 * j;
                FAI_MMA(to[0], rq[a * (D / 16) + c], rk), FAI_MMA(to[1], rq[a * (D / 16) + c], rk + 2);
            }
        }
    }
}

/* rp (A4) <- P of 16 keys, p (2, C4) */
FAI_ATOM void FAI_(fragment_p)(uint32_t rp[4], float (*p)[4]) {
#pragma unroll
    for (int e = 0; e < 4; e++) rp[e] = FAI_PACK(p[e / 2][e % 2 * 2 + 1], p[e / 2][e % 2 * 2]);
}

/* O += P V: o (mt, DV/8, C4), p (mt, number/8, C4). sv: the lane's address of the first fragment of V */
FAI_ATOM void FAI_(gemm_pv)(float (*o)[4], float (*p)[4], uint32_t sv, const int mt, const int number) {
    enum { DV = FA_HEAD_DIM_V };
#pragma unroll
    for (int c = 0; c < number / 16; c++) {
        uint32_t rp[2][4]; /* (mt, A4) */
#pragma unroll
        for (int a = 0; a < mt; a++) FAI_(fragment_p)(rp[a], p + a * (number / 8) + 2 * c);
#pragma unroll
        for (int j = 0; j < DV / 16; j++) {
            uint32_t rv[4]; /* (2, B2) */
            fai_ldmatrix_x4_trans(rv, FAI_MOVE(DV, sv, c * 16, j * 2));
#pragma unroll
            for (int a = 0; a < mt; a++) {
                float (*const to)[4] = o + a * (DV / 8) + 2 * j;
                FAI_MMA(to[0], rp[a], rv), FAI_MMA(to[1], rp[a], rv + 2);
            }
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
    FAI_(source) gv = FAI_(open)(a, t, &a->v, (int)threadIdx.x, DV);
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
                if (!FAI_(counts)(a, t, at, j)) continue;
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
    /* the last tile goes first: under a causal mask it is the longest */
    if (!FAI_(begin)(&args, t, gridDim.x - 1 - blockIdx.x, BM)) return;

    const uint32_t shared = fai_cvta_to_shared(fai_shared);
    const int lane = (int)threadIdx.x % 32, warp_row = (int)threadIdx.x / 32 * MT * 16;
    const int row = warp_row + FAI_C_ROW(lane, 0); /* the thread's rows: row, row + 8 .. */
    const uint32_t sq =
        shared + SQ + FAI_AT(D, warp_row + FAI_LDMATRIX_A_ROW(lane), FAI_LDMATRIX_A_CHUNK(lane));
    const uint32_t sk = shared + SK + FAI_AT(D, FAI_LDMATRIX_B_ROW(lane), FAI_LDMATRIX_B_CHUNK(lane));
    const uint32_t sv = shared + SV + FAI_AT(DV, FAI_LDMATRIX_A_ROW(lane), FAI_LDMATRIX_A_CHUNK(lane));
    const FAI_(source) gk = FAI_(open)(&args, t, &args.k, (int)threadIdx.x, D),
                       gv = FAI_(open)(&args, t, &args.v, (int)threadIdx.x, DV);
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
        FAI_(load_q)(&args, t, shared + SQ, BM, THREADS);
        FAI_(load_kv)(&args, t, &args.k, gk, last, shared + SK, D);
        if (STAGES == 2) FAI_(load_kv)(&args, t, &args.v, gv, last, shared + SV, DV);
    }
    /* right to left: the tiles to mask are the first and the last, if any */
    for (int32_t first = last, next; first >= end; first = next) {
        next = FAI_(next)(&args, t, first, end);
        const int mask = masked || first < t->all.lo || first + BN > t->all.hi;
        fai_cp_async_wait_all();
        if (first == last && args.softmax_scale < 0) FAI_(negate_q)(shared + SQ);
        if (STAGES == 2 && (mask || drops)) infinite |= FAI_(make_finite)(shared + SV + stage, (int)threadIdx.x, THREADS, BN);
        __syncthreads(); /* K is there (V too, in 2 stages), for all; nobody reads the other stage (V) any more */
        if (first == last && Q_STAYS) FAI_(fragments_q)(rq[0], sq, MT);
        if (STAGES == 1) FAI_(load_kv)(&args, t, &args.v, gv, first, shared + SV, DV);
        if (STAGES == 2 && next >= end) {
            FAI_(load_kv)(&args, t, &args.k, gk, next, shared + SK + (STAGE - stage), D);
            FAI_(load_kv)(&args, t, &args.v, gv, next, shared + SV + (STAGE - stage), DV);
        }

        float s[MT][BN / 8][4]; /* (MT, BN/8, C4) */
        FAI_(gemm_qk)(s[0], rq[0], sq, sk + stage, MT, BN, Q_STAYS);
        if (FAI_SCORES && modified) FAI_(modify)(&args, t, s[0], first, row, scale, MT, BN);
        if (mask) FAI_(mask)(&args, t, s[0], first, row, MT, BN);
        FAI_(softmax)(s[0], o[0], m, l, modified ? 1 : scale * FAI_LOG2E, MT, BN, DV);
        if (drops) FAI_(dropout)(&args, t, s[0], first, row, MT, BN);

        if (STAGES == 1) {
            fai_cp_async_wait_all();
            if (mask || drops) infinite |= FAI_(make_finite)(shared + SV, (int)threadIdx.x, THREADS, BN);
            __syncthreads(); /* V is there, for all; nobody reads K any more */
            if (next >= end) FAI_(load_kv)(&args, t, &args.k, gk, next, shared + SK, D);
        }
        FAI_(gemm_pv)(o[0], s[0], sv + stage, MT, BN);
        if (STAGES == 2) stage = STAGE - stage;
    }
    infinite = __syncthreads_or(infinite); /* nobody reads shared memory any more: it is free for O */
    FAI_(epilogue)(&args, t, o, m, l, shared, row);
    if (infinite) FAI_(add_infinite)(&args, t, masked || drops);
}
#endif /* FA_FORWARD */

/* ======================================================================================== */
/* >>backward [FA2] Alg. 2: dQ, dK, dV from Q, K, V, dO, LSE and D = rowsum(dO o O)           */
/* ======================================================================================== */

/*  prepare   LSE and D of each query into the workspace; zeros for the sums of dQ and for dbias
 *  main      a block has BN keys; it walks over the queries that see some of them, BM at a time, and over the
 *            heads that share the keys, whose sums are in its registers. Scores are transposed, as dK and dV want
 *            them:
 *                S^T = K Q^T     dP^T = V dO^T     P = exp2(S - LSE)     dS = P o (dP - D)
 *                dV += P^T dO    dK += dS^T Q      dQ += dS K     (f32, in the workspace: other blocks add, too)
 *  convert   dQ to the dtype of Q
 *  sink      dsink = -sum exp(sink - LSE) D
 *
 *  P and dS pass through shared memory, so that a warp can have 32 keys and a part of the queries or dims: then a
 *  fragment read from there serves two mma, or four, and shared memory is as fast as the tensor cores.
 *      warp w    S^T, dP^T   keys 16 KT (w % KEYS) .., queries CS 8 (w / KEYS) ..        KEYS = BN / 16 KT
 *                dV, dK      the same keys, every PARTS-th 16 dims from w / KEYS on
 *                dQ          queries 16 QT (w % QUERIES) .., every PARTS_Q-th 16 dims    QUERIES = BM / 16 QT
 *
 *  What is not finite: a query with such a dO has LSE = NaN in the workspace, one with such a q, or that sees such
 *  a key, has it anyway, so all that it sees becomes NaN; its rows, and such elements of K, are 0 in shared memory,
 *  for 0 NaN is not 0. */
#if (FA_PASSES) & FA_BACKWARD

/* Tiles by (arch, larger head dim), as in >>tiles. K V, the stages of Q and dO, P and dS are in shared memory; a
 * thread has its part of dK and dV all the time, and of S and dP, or of dQ. One block an SM. */
#if FAI_DIM <= 64
/* 162 KB and 192 accumulators a thread, or 97 KB and 128 */
#define FAI_GRAD_M(arch) (FAI_LITTLE_SHARED(arch) ? 64 : 128)
#define FAI_GRAD_N(arch) 128
#define FAI_GRAD_WARPS(arch) 8
#define FAI_GRAD_STAGES(arch) 2
#elif FAI_DIM <= 128
/* 161 KB and 192 accumulators, or 96 KB and 160 */
#define FAI_GRAD_M(arch) (FAI_LITTLE_SHARED(arch) ? 32 : 64)
#define FAI_GRAD_N(arch) 128
#define FAI_GRAD_WARPS(arch) 8
#define FAI_GRAD_STAGES(arch) (FAI_LITTLE_SHARED(arch) ? 1 : 2)
#elif FAI_DIM <= 192
/* 161 KB and 128 accumulators, or 80 KB and 112 */
#define FAI_GRAD_M(arch) (FAI_LITTLE_SHARED(arch) ? 32 : 64)
#define FAI_GRAD_N(arch) 64
#define FAI_GRAD_WARPS(arch) 8
#define FAI_GRAD_STAGES(arch) (FAI_LITTLE_SHARED(arch) ? 1 : 2)
#else
/* 145 KB on sm_80, 209 KB from sm_90, and 160 accumulators; elsewhere 69 KB and 144 */
#define FAI_GRAD_M(arch) (FAI_LITTLE_SHARED(arch) ? 32 : 64)
#define FAI_GRAD_N(arch) (FAI_LITTLE_SHARED(arch) ? 32 : 64)
#define FAI_GRAD_WARPS(arch) (FAI_LITTLE_SHARED(arch) ? 4 : 8)
#define FAI_GRAD_STAGES(arch) ((arch) < 900 || FAI_LITTLE_SHARED(arch) ? 1 : 2)
#endif
/* 16-row matrices of a warp: of keys, and of queries in dQ; fewer where n8 columns must come in pairs */
#define FAI_GRAD_KT(arch) (FAI_GRAD_M(arch) * FAI_GRAD_N(arch) >= 64 * 64 ? 2 : 1)
#define FAI_GRAD_QT(arch) (FAI_GRAD_M(arch) >= 64 ? 2 : 1)
#define FAI_GRAD_PARTS(arch) (FAI_GRAD_WARPS(arch) * 16 * FAI_GRAD_KT(arch) / FAI_GRAD_N(arch))
#define FAI_GRAD_PARTS_Q(arch) (FAI_GRAD_WARPS(arch) * 16 * FAI_GRAD_QT(arch) / FAI_GRAD_M(arch))
/* K V; the stages of Q, dO, LSE and D; dS, P. dK and dV take the place of K and V at the end. Then what the
 * threads have in common */
#define FAI_GRAD_STAGE(arch) (FAI_GRAD_M(arch) * (FA_HEAD_DIM + FA_HEAD_DIM_V) * 2 + FAI_GRAD_M(arch) * 8)
#define FAI_GRAD_BYTES(arch) \
    (FAI_GRAD_N(arch) * (FA_HEAD_DIM + FA_HEAD_DIM_V) * 2 + FAI_GRAD_STAGES(arch) * FAI_GRAD_STAGE(arch) + \
     2 * FAI_GRAD_N(arch) * FAI_GRAD_M(arch) * 2)
#define FAI_GRAD_SHARED(arch) (FAI_GRAD_BYTES(arch) + sizeof(FAI_(grad)))
#define FAI_GRAD_THREADS (FAI_GRAD_WARPS(FAI_ARCH) * 32)

/* n8 columns of a warp: of S and dP; of those at a time, as features take registers; of dK, dV and dQ */
#define FAI_GRAD_CS (FAI_GRAD_M(FAI_ARCH) / 8 / FAI_GRAD_PARTS(FAI_ARCH))
#define FAI_GRAD_FEW (FAI_DIM <= 64 ? 4 : 2)
#define FAI_GRAD_CH (FAI_HEAVY && FAI_GRAD_CS > FAI_GRAD_FEW ? FAI_GRAD_FEW : FAI_GRAD_CS)
#define FAI_GRAD_COLUMNS(dim, parts) (((dim) / 16 + (parts)-1) / (parts)*2)
#define FAI_GRAD_SIZES \
    enum { \
        D = FA_HEAD_DIM, \
        DV = FA_HEAD_DIM_V, \
        BM = FAI_GRAD_M(FAI_ARCH), \
        BN = FAI_GRAD_N(FAI_ARCH), \
        STAGES = FAI_GRAD_STAGES(FAI_ARCH), \
        THREADS = FAI_GRAD_THREADS, \
        KT = FAI_GRAD_KT(FAI_ARCH), \
        QT = FAI_GRAD_QT(FAI_ARCH), \
        PARTS = FAI_GRAD_PARTS(FAI_ARCH), \
        PARTS_Q = FAI_GRAD_PARTS_Q(FAI_ARCH), \
        CS = FAI_GRAD_CS, \
        CH = FAI_GRAD_CH, \
        CK = FAI_GRAD_COLUMNS(FA_HEAD_DIM, FAI_GRAD_PARTS(FAI_ARCH)), \
        CV = FAI_GRAD_COLUMNS(FA_HEAD_DIM_V, FAI_GRAD_PARTS(FAI_ARCH)), \
        CQ = FAI_GRAD_COLUMNS(FA_HEAD_DIM, FAI_GRAD_PARTS_Q(FAI_ARCH)) \
    };
FA_STATIC_ASSERT(FAI_GRAD_CS >= 2 && (FAI_GRAD_CS & (FAI_GRAD_CS - 1)) == 0 && FAI_GRAD_CS % FAI_GRAD_CH == 0,
                 "flashattn_cuda.cuh: the table of tiles of the backward pass is wrong");

/* The workspace: for each (batch, head) rows of queries, whole blocks of 16: LSE in log2 units and D of each; then
 * the sums of dQ in f32, by blocks of 16 rows and 8 dims, in the order in which an accumulator fragment is added
 * best: 16 bytes of a lane at once where red can do that, all lanes next to each other where it cannot. For
 * `deterministic`, a counter for each tile of queries (room for one for each 16), whose turn it is, and one from
 * which blocks take their numbers. */
#define FAI_GRAD_ROWS(args) (((int64_t)(args)->seqlen_q + 15) / 16 * 16)
#if FAI_ARCH >= 900
#define FAI_GRAD_DQ_AT(lane, v) ((lane)*4 + (v))
#else
#define FAI_GRAD_DQ_AT(lane, v) ((v)*32 + (lane))
#endif
typedef struct FAI_(grad_workspace) {
    float *lse, *sum; /* sum: D */
    float *dq;
    uint32_t *turn;
    uint32_t *ticket; /* of all */
} FAI_(grad_workspace);

/* row: of all (batch, head, rows), a multiple of 16 */
FAI_ATOM FAI_(grad_workspace) FAI_(grad_open)(const fa_args *a, float *workspace, int64_t row) {
    const int64_t all = (int64_t)a->batch * a->num_heads * FAI_GRAD_ROWS(a);
    uint32_t *const counters = (uint32_t *)(void *)(workspace + all * (2 + FA_HEAD_DIM));
    FAI_(grad_workspace)
    w = {workspace + row, workspace + all + row, workspace + all * 2 + row * FA_HEAD_DIM, counters + row / 16,
         counters + all / 16};
    return w;
}

FAI_ATOM fai_strides FAI_(strides_d_o)(const fa_args *a) {
    return fai_resolve(a->d_o.stride_b, a->d_o.stride_s, a->d_o.stride_h, a->seqlen_q, a->num_heads,
                       FA_HEAD_DIM_V);
}

/* What the threads of a block have in common, in shared memory: registers are dear in the loop. */
typedef struct FAI_(grad) {
    fa_sequence seq;
    int32_t head_k, group, key, tile; /* key: the first of the block; tile: its number in the sequence */
    fa_range any, all;                /* queries that see some of its keys, that see all BN */
    const uint16_t *q, *d_o;          /* of the first query and head */
    fai_strides stride_q, stride_d_o;
    FAI_(grad_workspace) workspace;
} FAI_(grad);

/* Queries that length, causal mask and window leave to key j: fa_row_range the other way round. */
FAI_ATOM fa_range FAI_(queries)(const fa_args *a, const FAI_(grad) *g, int32_t j) {
    const int64_t p = (int64_t)j + g->seq.len_q - g->seq.len_k; /* the query at the position of key j */
    int64_t lo = 0, hi = j < g->seq.len_k ? g->seq.len_q : 0;
    if (FAI_HAS(FA_CAUSAL) && a->causal && p > lo) lo = p;
    if (FAI_HAS(FA_WINDOW) && a->window_right && p - a->window_right + 1 > lo) lo = p - a->window_right + 1;
    if (FAI_HAS(FA_WINDOW) && a->window_left && p + a->window_left < hi) hi = p + a->window_left;
    if (hi < 0) hi = 0;
    if (lo > hi) lo = hi;
    const fa_range r = {(int32_t)lo, (int32_t)hi};
    return r;
}

/* The keys of this block; 0 if its sequence has none. The first go first: under a causal mask most queries see
 * them. Blocks that wait for each other are numbered as they start: those before have all started, too. */
FAI_ATOM int FAI_(grad_begin)(const fa_args *a, FAI_(grad) *g, float *workspace) {
    FAI_GRAD_SIZES
    if (threadIdx.x == 0) {
        const uint32_t tiles = (uint32_t)((a->seqlen_k + BN - 1) / BN), heads_k = (uint32_t)fai_num_heads_k(a);
        const uint32_t number = a->deterministic
                                    ? fai_atom_global_add_u32(FAI_(grad_open)(a, workspace, 0).ticket, 1)
                                    : blockIdx.x;
        const uint32_t head = number / tiles;
        g->seq = FAI_(sequence)(a, (int32_t)(head / heads_k));
        g->head_k = (int32_t)(head % heads_k), g->group = a->num_heads / (int32_t)heads_k;
        g->tile = (int32_t)(number % tiles), g->key = g->tile * BN;
        const int32_t last = g->key + BN < g->seq.len_k ? g->key + BN - 1 : g->seq.len_k - 1;
        const fa_range left = FAI_(queries)(a, g, g->key), right = FAI_(queries)(a, g, last);
        g->any.lo = left.lo, g->any.hi = right.hi;
        g->all.lo = right.lo, g->all.hi = last < g->key + BN - 1 ? 0 : left.hi;

        const int32_t head_q = g->head_k * g->group;
        g->stride_q = fai_strides_q(a, D), g->stride_d_o = FAI_(strides_d_o)(a);
        g->q = (const uint16_t *)a->q.data + fai_offset_q(&g->seq, g->stride_q, 0, head_q);
        g->d_o = (const uint16_t *)a->d_o.data + fai_offset_q(&g->seq, g->stride_d_o, 0, head_q);
        g->workspace = FAI_(grad_open)(a, workspace,
                                       ((int64_t)g->seq.b * a->num_heads + head_q) * FAI_GRAD_ROWS(a));
    }
    __syncthreads(); /* *g is written */
    return g->key < g->seq.len_k;
}

/* ---- loads ---------------------------------------------------------------------------------- */

/* The block's rows of K or V. Keys that no query sees become zeros, whatever is there. */
FAI_ATOM void FAI_(grad_load_keys)(const fa_args *a, const FAI_(grad) *g, const fa_tensor *x, uint32_t to,
                                   const int dim) {
    FAI_GRAD_SIZES
    const int group = FAI_GROUP(dim);
    const fai_strides st = fai_strides_kv(a, x, dim);
    for (int r = (int)threadIdx.x / group; r < BN; r += THREADS / group) {
        const fa_range seen = FAI_(queries)(a, g, g->key + r);
        const int32_t j = seen.lo < seen.hi ? g->key + r : g->key;
        const int64_t offset = FAI_HAS(FA_PAGED) ? fai_offset_k(a, &g->seq, st, j, g->head_k)
                                                 : g->seq.b_k * st.b + (g->seq.row_k + j) * st.s + g->head_k * st.h;
        for (int c = (int)threadIdx.x % group; c < dim / 8; c += group)
            fai_cp_async_cg_16(to + FAI_AT(dim, r, c), (const uint16_t *)x->data + offset + c * 8,
                               seen.lo < seen.hi ? 16 : 0);
    }
}

/* BM rows of Q or dO, the first `rows` of which exist. */
FAI_ATOM void FAI_(grad_load_rows)(const uint16_t *from, int64_t stride, int32_t rows, uint32_t to,
                                   const int dim) {
    FAI_GRAD_SIZES
    const int thread = (int)fai_unknown(threadIdx.x);
    const int group = FAI_GROUP(dim), step = THREADS / group, row = thread / group, chunk = thread % group;
    to += FAI_AT(dim, row, chunk);
#pragma unroll
    for (int r = 0; r < BM; r += step) {
        const uint16_t *near = from + (row + r < rows ? row + r : 0) * stride + chunk * 8;
        if (BM % step && row + r >= BM) continue;
#pragma unroll
        for (int c = 0; c < dim / 8; c += group)
            fai_cp_async_cg_16(to + r * dim * 2 + c * 16, near + c * 8, row + r < rows ? 16 : 0);
    }
}

/* Q, dO, LSE and D of queries from first on, of a head of the group, to the stage at `to`. Returns the LSE of query
 * first + threadIdx.x. */
FAI_ATOM float FAI_(grad_load)(const fa_args *a, const FAI_(grad) *g, int32_t head, int32_t first, uint32_t to) {
    FAI_GRAD_SIZES
    const fai_strides sq = g->stride_q, so = g->stride_d_o;
    const int32_t n = (int32_t)fai_unknown(threadIdx.x), rows = g->seq.len_q - first;
    const int64_t row = head * FAI_GRAD_ROWS(a) + first;
    const float *const lse = g->workspace.lse + row;
    FAI_(grad_load_rows)(g->q + head * sq.h + first * sq.s, sq.s, rows, to, D);
    FAI_(grad_load_rows)(g->d_o + head * so.h + first * so.s, so.s, rows, to + BM * D * 2, DV);
    if (n < BM / 2) { /* half of the threads LSE, half D */
        const int32_t i = n % (BM / 4) * 4;
        fai_cp_async_cg_16(to + BM * (D + DV) * 2 + n * 16,
                           (n < BM / 4 ? lse : g->workspace.sum + row) + (i < rows ? i : 0), i < rows ? 16 : 0);
    }
    return n < BM && n < rows ? lse[n] : 0;
}

/* Rows of Q and dO become 0 where LSE is not finite: nothing was seen, or NaN. */
FAI_ATOM void FAI_(grad_finite_rows)(uint32_t stage) {
    FAI_GRAD_SIZES
    enum { Q4 = BM * D / 8, ALL = BM * (D + DV) / 8 };
    const uint4 zero = {0, 0, 0, 0};
    for (int c = (int)fai_unknown(threadIdx.x); c < ALL; c += THREADS) {
        const int row = c < Q4 ? c / (D / 8) : (c - Q4) / (DV / 8);
        const float lse = __uint_as_float(fai_ld_shared_b32(stage + BM * (D + DV) * 2 + row * 4));
        if (!(fabsf(lse) < INFINITY)) fai_st_shared_v4_b32(stage + c * 16, zero);
    }
}

/* ---- products ------------------------------------------------------------------------------- */

/* x (KT, CH, C4) = A B^T over dim: S^T = K Q^T, dP^T = V dO^T. sa, sb: the lane's addresses of the first
 * fragments */
FAI_ATOM void FAI_(gemm_scores)(float x[FAI_GRAD_KT(FAI_ARCH)][FAI_GRAD_CH][4], uint32_t sa, uint32_t sb,
                                const int dim) {
    FAI_GRAD_SIZES
#pragma unroll
    for (int n = 0; n < KT * CH * 4; n++) x[n / 4 / CH][n / 4 % CH][n % 4] = 0;
#pragma unroll
    for (int c = 0; c < dim / 16; c++) {
        uint32_t ra[KT][4]; /* (KT, A4) */
#pragma unroll
        for (int a = 0; a < KT; a++) fai_ldmatrix_x4(ra[a], FAI_MOVE(dim, sa, a * 16, c * 2));
#pragma unroll
        for (int j = 0; j < CH / 2; j++) {
            uint32_t rb[4]; /* (2, B2) */
            fai_ldmatrix_x4(rb, FAI_MOVE(dim, sb, j * 16, c * 2));
#pragma unroll
            for (int a = 0; a < KT; a++) FAI_MMA(x[a][2 * j], ra[a], rb), FAI_MMA(x[a][2 * j + 1], ra[a], rb + 2);
        }
    }
}

/* x (tiles, columns, C4) += A B for one k16, A (tiles, A4), of those 16 columns of B that are a warp's. sb: the
 * lane's address of the first of them */
FAI_ATOM void FAI_(mma_part)(float (*x)[4], const int columns, uint32_t (*ra)[4], const int tiles, uint32_t sb,
                             const int dim, const int parts, int part) {
#pragma unroll
    for (int n = 0; n < dim / 16; n += parts) {
        float(*const to)[4] = x + n / parts * 2;
        uint32_t rb[4]; /* (2, B2) */
        if (n + parts > dim / 16 && n + part >= dim / 16) continue;
        fai_ldmatrix_x4_trans(rb, FAI_MOVE(dim, sb, 0, n * 2));
#pragma unroll
        for (int a = 0; a < tiles; a++)
            FAI_MMA(to[a * columns], ra[a], rb), FAI_MMA(to[a * columns + 1], ra[a], rb + 2);
    }
}

/* dV += P^T dO, dK += dS^T Q: x (KT, columns, C4). sa: the lane's address of P^T or dS^T, (BN, BM) */
FAI_ATOM void FAI_(gemm_keys)(float (*x)[4], uint32_t sa, uint32_t sb, const int dim, int part) {
    FAI_GRAD_SIZES
#pragma unroll
    for (int c = 0; c < BM / 16; c++) {
        uint32_t ra[KT][4]; /* (KT, A4) */
#pragma unroll
        for (int a = 0; a < KT; a++) fai_ldmatrix_x4(ra[a], FAI_MOVE(BM, sa, a * 16, c * 2));
        FAI_(mma_part)(x, FAI_GRAD_COLUMNS(dim, PARTS), ra, KT, FAI_MOVE(dim, sb, c * 16, 0), dim, PARTS, part);
    }
}

/* dQ = dS K: x (QT, CQ, C4). sa: of dS^T */
FAI_ATOM void FAI_(gemm_queries)(float (*x)[4], uint32_t sa, uint32_t sb, int part) {
    FAI_GRAD_SIZES
#pragma unroll
    for (int n = 0; n < QT * CQ * 4; n++) x[n / 4][n % 4] = 0;
#pragma unroll
    for (int c = 0; c < BN / 16; c++) {
        uint32_t ra[QT][4]; /* (QT, A4) */
#pragma unroll
        for (int a = 0; a < QT; a++) fai_ldmatrix_x4_trans(ra[a], FAI_MOVE(BM, sa, c * 16, a * 2));
        FAI_(mma_part)(x, CQ, ra, QT, FAI_MOVE(D, sb, c * 16, 0), D, PARTS_Q, part);
    }
}

/* ---- P and dS ------------------------------------------------------------------------------- */

/* Where a thread's scores are: head of all; first query and key. Score (a, c, v) is that of query
 * query + c 8 + v % 2 and key + a 16 + v / 2 8. */
typedef struct FAI_(place) {
    int32_t head, query, key;
} FAI_(place);
#define FAI_SCORE_QUERY(at, c, v) ((at).query + (c)*8 + (v) % 2)
#define FAI_SCORE_KEY(at, a, v) ((at).key + (a)*16 + (v) / 2 * 8)

/* S in log2 units with all that changes scores; slope: its derivatives by the scores, and by the bias. */
FAI_ATOM void FAI_(grad_modify)(const fa_args *args, const FAI_(grad) *g,
                                float s[FAI_GRAD_KT(FAI_ARCH)][FAI_GRAD_CH][4],
                                float slope[2][FAI_GRAD_KT(FAI_ARCH)][FAI_GRAD_CH][4], FAI_(place) at,
                                float scale) {
    FAI_GRAD_SIZES
    const fai_strides sb = fai_strides_bias(args);
    const float alibi = FAI_(alibi)(args, g->seq.b, at.head);
#pragma unroll
    for (int n = 0; n < CH * 2; n++) { /* queries of a thread */
        const FAI_(row) row = {FAI_SCORE_QUERY(at, n / 2, n % 2), at.head};
        const int64_t bias = g->seq.b * sb.b + row.h * sb.h + row.i * sb.s;
#pragma unroll
        for (int k = 0; k < KT * 2; k++) { /* keys */
            const int c = n / 2, v = k % 2 * 2 + n % 2, a = k / 2;
            const int32_t j = FAI_SCORE_KEY(at, a, v), exists = row.i < g->seq.len_q && j < g->seq.len_k;
            s[a][c][v] = FAI_(change)(args, &g->seq, row, j, exists, alibi, bias, s[a][c][v] * scale,
                                      &slope[0][a][c][v], &slope[1][a][c][v]) *
                         FAI_LOG2E;
        }
    }
}

/* S becomes P = exp2(scale S - LSE). slse: address of the LSE of the thread's first query */
FAI_ATOM void FAI_(probabilities)(float s[FAI_GRAD_KT(FAI_ARCH)][FAI_GRAD_CH][4], uint32_t slse, float scale) {
    FAI_GRAD_SIZES
#pragma unroll
    for (int c = 0; c < CH; c++) {
        const uint2 x = fai_ld_shared_v2_b32(slse + c * 32);
        const float lse[2] = {__uint_as_float(x.x), __uint_as_float(x.y)};
#pragma unroll
        for (int n = 0; n < KT * 4; n++)
            s[n / 4][c][n % 4] = fai_ex2_approx_ftz_f32(fmaf(s[n / 4][c][n % 4], scale, -lse[n % 2]));
    }
}

/* P becomes 0 where the query does not see the key. */
FAI_ATOM void FAI_(hide)(const fa_args *args, const FAI_(grad) *g,
                         float p[FAI_GRAD_KT(FAI_ARCH)][FAI_GRAD_CH][4], FAI_(place) at, int masked) {
    FAI_GRAD_SIZES
#pragma unroll
    for (int k = 0; k < KT * 2; k++) { /* keys of a thread */
        const int32_t j = FAI_SCORE_KEY(at, k / 2, k % 2 * 2);
        const fa_range seen = FAI_(queries)(args, g, j);
        const int32_t lo = seen.lo - at.query, hi = seen.hi - at.query;
#pragma unroll
        for (int n = 0; n < CH * 2; n++) { /* queries */
            const int32_t i = n / 2 * 8 + n % 2;
            const FAI_(row) row = {at.query + i, at.head};
            if (i < lo || i >= hi || (FAI_MASKS && masked && !FAI_(sees)(args, &g->seq, row, j)))
                p[k / 2][n / 2][k % 2 * 2 + n % 2] = 0;
        }
    }
}

/* Bits of the thread's scores, 1: kept by dropout. Philox makes the bits of 8 keys of a query at once, and a lane has
 * one key of 8: each of the 8 lanes that have the same queries makes those of another query and 8 keys, one byte for
 * each two columns, then they read each other's. */
#define FAI_KEPT(kept, a, c, v) ((kept) >> (((a)*CH + (c)) / 2 * 8 + (c) % 2 * 4 + (v) % 2 * 2 + (v) / 2) & 1)
FAI_ATOM uint32_t FAI_(kept)(const fa_args *args, const FAI_(grad) *g, FAI_(place) at) {
    FAI_GRAD_SIZES
    const uint32_t below = fa_dropout_threshold(args->dropout_p);
    const int lane = (int)threadIdx.x % 32, own = lane / 4, key0 = at.key - own;
    uint32_t made = 0, kept = 0;
    FA_STATIC_ASSERT(!FAI_HAS(FA_DROPOUT) || KT * CH <= 8, "flashattn_cuda.cuh: a bit for each score");
#pragma unroll
    for (int n = 0; n < KT * CH / 2; n++) { /* two columns of 16 keys */
        uint32_t words[4];
        fai_dropout_bits(args, g->seq.b, at.head, FAI_SCORE_QUERY(at, n * 2 % CH + own / 4, own / 2 % 2),
                         (key0 + n * 2 / CH * 16 + own % 2 * 8) / 8, words);
#pragma unroll
        for (int k = 0; k < 8; k++)
            made |= (uint32_t)((words[k / 2] >> k % 2 * 16 & 0xffff) >= below) << (n * 8 + k);
    }
#pragma unroll
    for (int x = 0; x < 8; x++)
        kept |= (fai_shfl_sync_idx_b32(made, x * 4 + lane % 4) >> own & 0x01010101u) << x;
    return kept;
}

/* dP becomes dS = P (dP - D), before it is multiplied with a slope. */
FAI_ATOM void FAI_(slopes)(float dp[FAI_GRAD_KT(FAI_ARCH)][FAI_GRAD_CH][4],
                           float p[FAI_GRAD_KT(FAI_ARCH)][FAI_GRAD_CH][4], uint32_t ssum) {
    FAI_GRAD_SIZES
#pragma unroll
    for (int c = 0; c < CH; c++) {
        const uint2 x = fai_ld_shared_v2_b32(ssum + c * 32);
        const float sum[2] = {__uint_as_float(x.x), __uint_as_float(x.y)};
#pragma unroll
        for (int n = 0; n < KT * 4; n++)
            dp[n / 4][c][n % 4] = p[n / 4][c][n % 4] * (dp[n / 4][c][n % 4] - sum[n % 2]);
    }
}

/* dbias += dS, of what is seen */
FAI_ATOM void FAI_(add_bias)(const fa_args *args, const FAI_(grad) *g,
                             float ds[FAI_GRAD_KT(FAI_ARCH)][FAI_GRAD_CH][4],
                             float slope[FAI_GRAD_KT(FAI_ARCH)][FAI_GRAD_CH][4],
                             float p[FAI_GRAD_KT(FAI_ARCH)][FAI_GRAD_CH][4], FAI_(place) at) {
    FAI_GRAD_SIZES
    const fai_strides st = fai_strides_dbias(args);
#pragma unroll
    for (int n = 0; n < CH * 2; n++) { /* queries of a thread */
        float *to = args->dbias.data + g->seq.b * st.b + at.head * st.h +
                    FAI_SCORE_QUERY(at, n / 2, n % 2) * st.s + at.key;
#pragma unroll
        for (int k = 0; k < KT * 2; k++) { /* keys */
            const int c = n / 2, v = k % 2 * 2 + n % 2, a = k / 2;
            if (p[a][c][v] != 0) fai_red_global_add_f32(to + k * 8, ds[a][c][v] * slope[a][c][v]);
        }
    }
}

/* x (KT, CH, C4) to shared memory, (BN, BM). to: the thread's address of the first pair. Columns change places by an
 * xor: CS is a power of two, and the first column of a warp a multiple of it. */
FAI_ATOM void FAI_(put_scores)(float x[FAI_GRAD_KT(FAI_ARCH)][FAI_GRAD_CH][4], uint32_t to) {
    FAI_GRAD_SIZES
#pragma unroll
    for (int c = 0; c < CH; c++) {
#pragma unroll
        for (int k = 0; k < KT * 2; k++)
            fai_st_shared_b32(FAI_MOVE(BM, to, k * 8, c),
                              FAI_PACK(x[k / 2][c][k % 2 * 2 + 1], x[k / 2][c][k % 2 * 2]));
    }
}

/* ---- what leaves ---------------------------------------------------------------------------- */

/* Adds dQ (QT, CQ, C4) to the sums of the warp's queries, of which `rows` exist. */
FAI_ATOM void FAI_(add_queries)(float *to, float (*x)[4], int32_t rows, int part) {
    FAI_GRAD_SIZES
    const int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < QT * CQ; n++) {
        const int a = n / CQ, c = (n % CQ / 2 * PARTS_Q + part) * 2 + n % 2;
        if (c >= D / 8 || a * 16 >= rows) continue;
#if FAI_ARCH >= 900 /* there red adds 16 bytes */
        fai_red_global_add_v4_f32(to + a * 16 * D + c * 128 + FAI_GRAD_DQ_AT(lane, 0), x[n]);
#else
#pragma unroll
        for (int v = 0; v < 4; v++)
            fai_red_global_add_f32(to + a * 16 * D + c * 128 + FAI_GRAD_DQ_AT(lane, v), x[n][v]);
#endif
    }
}

/* Tiles of keys add to a tile of dQ one after the other, from the first that it sees on. */
FAI_ATOM void FAI_(wait_turn)(const uint32_t *turn, int32_t tile) {
    if (threadIdx.x == 0)
        while (fai_ld_acquire_gpu_b32(turn) != (uint32_t)tile) {}
    __syncthreads(); /* what the blocks before have added is there, for all */
}
FAI_ATOM void FAI_(end_turn)(uint32_t *turn, int32_t tile) {
    __syncthreads(); /* all have added */
    if (threadIdx.x == 0) fai_st_release_gpu_b32(turn, (uint32_t)tile + 1);
}

/* dK or dV (KT, columns, C4), times factor, to shared memory, (BN, dim). */
FAI_ATOM void FAI_(put_keys)(float (*x)[4], float factor, uint32_t to, const int dim, int row, int part) {
    FAI_GRAD_SIZES
    const int columns = FAI_GRAD_COLUMNS(dim, PARTS);
#pragma unroll
    for (int n = 0; n < KT * columns; n++) {
        const int a = n / columns, c = (n % columns / 2 * PARTS + part) * 2 + n % 2;
        if (c >= dim / 8) continue;
#pragma unroll
        for (int e = 0; e < 2; e++)
            fai_st_shared_b32(to + FAI_AT(dim, row + a * 16 + e * 8, c) + (int)threadIdx.x % 4 * 4,
                              FAI_PACK(x[n][e * 2 + 1] * factor, x[n][e * 2] * factor));
    }
}

/* The block's rows of dK or dV from there. */
FAI_ATOM void FAI_(store_keys)(const fa_args *a, const FAI_(grad) *g, const fa_tensor_out *x, uint32_t from,
                               const int dim) {
    FAI_GRAD_SIZES
    const int group = FAI_GROUP(dim);
    const fai_strides st = fai_strides_dkv(a, x, dim);
    if (!x->data) return;
    for (int r = (int)threadIdx.x / group; r < BN && g->key + r < g->seq.len_k; r += THREADS / group) {
        uint16_t *to = (uint16_t *)x->data + g->seq.b_k * st.b + (g->seq.row_k + g->key + r) * st.s +
                       g->head_k * st.h;
        for (int c = (int)threadIdx.x % group; c < dim / 8; c += group)
            *(uint4 *)(void *)(to + c * 8) = fai_ld_shared_v4_b32(from + FAI_AT(dim, r, c));
    }
}

/* ---- kernels -------------------------------------------------------------------------------- */

static __global__ void __launch_bounds__(FAI_GRAD_THREADS)
    FAI_(backward_kernel)(const __grid_constant__ fa_args args, float *workspace) {
    FAI_GRAD_SIZES
    extern __shared__ __align__(128) unsigned char fai_shared[];
    enum { SK = 0, SV = BN * D * 2, SQ = SV + BN * DV * 2, STAGE = FAI_GRAD_STAGE(FAI_ARCH) };
    enum { DO = BM * D * 2, LSE = DO + BM * DV * 2, SDS = SQ + STAGES * STAGE, SP = SDS + BN * BM * 2 };
    FAI_(grad) *const g = (FAI_(grad) *)(void *)(fai_shared + FAI_GRAD_BYTES(FAI_ARCH));
    if (!FAI_(grad_begin)(&args, g, workspace)) return;

    const uint32_t shared = fai_cvta_to_shared(fai_shared);
    const float scale = args.softmax_scale != 0 ? args.softmax_scale : rsqrtf((float)D);
    const int drops = FAI_HAS(FA_DROPOUT) && args.dropout_p > 0;
    /* what P is multiplied with before it is rounded, the rest in the end: in f16 it shall be neither small nor
     * infinite */
    const float factor = FAI_HAS(FA_DROPOUT) ? fa_dropout_scale(args.dropout_p) : 1, early = fminf(factor, 1 << 14);

    float dk[KT * CK][4], dv[KT * CV][4]; /* (KT, CK, C4), (KT, CV, C4) */
#pragma unroll
    for (int n = 0; n < KT * CK * 4; n++) dk[n / 4][n % 4] = 0;
#pragma unroll
    for (int n = 0; n < KT * CV * 4; n++) dv[n / 4][n % 4] = 0;

    /* load K and V, and Q and dO of the first queries that see one of the keys */
    const int32_t begin = g->any.lo / BM * BM, end = g->any.lo < g->any.hi ? g->any.hi : begin;
    const int32_t heads = begin < end ? g->group : 0;
    int32_t first = begin, head = 0;
    uint32_t stage = 0;
    float lse = 0;
    if (begin < end) {
        FAI_(grad_load_keys)(&args, g, &args.k, shared + SK, D);
        FAI_(grad_load_keys)(&args, g, &args.v, shared + SV, DV);
        lse = FAI_(grad_load)(&args, g, head, first, shared + SQ);
        fai_cp_async_wait_all();
        FAI_(make_rows_finite)(shared + SK, D, (int)threadIdx.x, THREADS, BN);
    }
    while (head < heads) {
        const int32_t next = first + BM < end ? first + BM : begin, next_head = next == begin ? head + 1 : head;
        const int infinite = !(fabsf(lse) < INFINITY);
        fai_cp_async_wait_all();
        /* Q and dO are there, for all; nobody reads the other stage, P or dS any more */
        if (__syncthreads_or(infinite)) FAI_(grad_finite_rows)(shared + SQ + stage), __syncthreads();
        if (STAGES == 2 && next_head < heads)
            lse = FAI_(grad_load)(&args, g, next_head, next, shared + SQ + (STAGE - stage));

        /* the thread's addresses: computed anew each time, as there are no registers to keep them in */
        const int thread = (int)fai_unknown(threadIdx.x), lane = thread % 32, warp = thread / 32;
        const int key = warp % (BN / 16 / KT) * 16 * KT, part = warp / (BN / 16 / KT);       /* but for dQ */
        const int query = warp % (BM / 16 / QT) * 16 * QT, part_q = warp / (BM / 16 / QT); /* of dQ */
        const int row = key + FAI_C_ROW(lane, 0), column = part * CS; /* the thread's first key; n8 of queries */
        const int a_row = FAI_LDMATRIX_A_ROW(lane), a_chunk = FAI_LDMATRIX_A_CHUNK(lane);
        const int b_row = FAI_LDMATRIX_B_ROW(lane), b_chunk = FAI_LDMATRIX_B_CHUNK(lane);
        const uint32_t sk = shared + SK + FAI_AT(D, key + a_row, a_chunk);
        const uint32_t sv = shared + SV + FAI_AT(DV, key + a_row, a_chunk);
        const uint32_t sq = shared + SQ + stage + FAI_AT(D, column * 8 + b_row, b_chunk);
        const uint32_t sdo = shared + SQ + DO + stage + FAI_AT(DV, column * 8 + b_row, b_chunk);
        const uint32_t sp_t = shared + SP + FAI_AT(BM, key + a_row, a_chunk);
        const uint32_t sds_t = shared + SDS + FAI_AT(BM, key + a_row, a_chunk);
        const uint32_t sq_t = shared + SQ + stage + FAI_AT(D, a_row, part * 2 + a_chunk);
        const uint32_t sdo_t = shared + SQ + DO + stage + FAI_AT(DV, a_row, part * 2 + a_chunk);
        const uint32_t sds = shared + SDS + FAI_AT(BM, b_row, query / 8 + b_chunk);
        const uint32_t sk_t = shared + SK + FAI_AT(D, a_row, part_q * 2 + a_chunk);
        const uint32_t pair = FAI_AT(BM, row, column) + lane % 4 * 4; /* of P, dS */
        const uint32_t slse = shared + SQ + LSE + stage + (column * 8 + FAI_C_COL(lane, 0)) * 4;

        const int modified = FAI_(is_modified)(&args), masked = FAI_(is_masked)(&args);
        const int ends = first + BM > g->seq.len_q; /* rows that do not exist: scores of 0, but for what changes them */
        const int partly = masked || first < g->all.lo || (ends ? g->seq.len_q : first + BM) > g->all.hi ||
                           (modified && ends);
        FAI_(place) at = {g->head_k * g->group + head, first + column * 8 + FAI_C_COL(lane, 0), g->key + row};
#pragma unroll 1
        for (int c = 0; c < CS; c += CH, at.query += CH * 8) {
            float s[KT][CH][4], ds[KT][CH][4]; /* transposed: (KT, CH, C4) */
            float slope[2][KT][CH][4];
#pragma unroll
            for (int n = 0; n < 2 * KT * CH * 4; n++)
                slope[n / 4 / CH / KT][n / 4 / CH % KT][n / 4 % CH][n % 4] = 1;
            FAI_(gemm_scores)(s, sk, sq + c * 8 * D * 2, D);
            if (FAI_SCORES && modified) FAI_(grad_modify)(&args, g, s, slope, at, scale);
            FAI_(probabilities)(s, slse + c * 32, modified ? 1 : scale * FAI_LOG2E);
            if (partly) FAI_(hide)(&args, g, s, at, masked);
            const uint32_t kept = drops ? FAI_(kept)(&args, g, at) : ~0u;
            if (drops) {
#pragma unroll
                for (int n = 0; n < KT * CH * 4; n++)
                    ds[n / 4 / CH][n / 4 % CH][n % 4] =
                        FAI_KEPT(kept, n / 4 / CH, n / 4 % CH, n % 4) ? s[n / 4 / CH][n / 4 % CH][n % 4] * early : 0;
                FAI_(put_scores)(ds, FAI_MOVE(BM, shared + SP + pair, 0, c));
            } else {
                FAI_(put_scores)(s, FAI_MOVE(BM, shared + SP + pair, 0, c));
            }

            FAI_(gemm_scores)(ds, sv, sdo + c * 8 * DV * 2, DV);
            if (drops) {
#pragma unroll
                for (int n = 0; n < KT * CH * 4; n++) {
                    float *const x = &ds[n / 4 / CH][n / 4 % CH][n % 4];
                    *x = FAI_KEPT(kept, n / 4 / CH, n / 4 % CH, n % 4) ? *x * factor : 0;
                }
            }
            FAI_(slopes)(ds, s, slse + BM * 4 + c * 32);
            if (FAI_HAS(FA_BIAS) && modified && args.dbias.data) FAI_(add_bias)(&args, g, ds, slope[1], s, at);
            if (partly || (FAI_SCORES && modified)) {
#pragma unroll
                for (int n = 0; n < KT * CH * 4; n++) {
                    float *const x = &ds[n / 4 / CH][n / 4 % CH][n % 4];
                    if (FAI_SCORES) *x *= slope[0][n / 4 / CH][n / 4 % CH][n % 4];
                    /* V and the slope may be anything where nothing is seen */
                    if (s[n / 4 / CH][n / 4 % CH][n % 4] == 0) *x = 0;
                }
            }
            FAI_(put_scores)(ds, FAI_MOVE(BM, shared + SDS + pair, 0, c));
        }
        __syncthreads(); /* P and dS are there, for all */
        if (args.dv.data) FAI_(gemm_keys)(dv, sp_t, sdo_t, DV, part);
        if (args.dk.data) FAI_(gemm_keys)(dk, sds_t, sq_t, D, part);
        if (STAGES == 1) {
            __syncthreads(); /* nobody reads Q and dO any more */
            if (next_head < heads) lse = FAI_(grad_load)(&args, g, next_head, next, shared + SQ);
        }
        if (args.dq.data) {
            float dq[QT * CQ][4]; /* (QT, CQ, C4) */
            const int64_t at_row = head * FAI_GRAD_ROWS(&args) + first;
            FAI_(gemm_queries)(dq, sds, sk_t, part_q);
            if (args.deterministic) FAI_(wait_turn)(g->workspace.turn + at_row / 16, g->tile);
            FAI_(add_queries)(g->workspace.dq + (at_row + query) * D, dq, g->seq.len_q - first - query, part_q);
            if (args.deterministic) FAI_(end_turn)(g->workspace.turn + at_row / 16, g->tile);
        }
        first = next, head = next_head;
        if (STAGES == 2) stage = STAGE - stage;
    }
    __syncthreads(); /* nobody reads shared memory any more: it is free for dK and dV */
    const int warp = (int)threadIdx.x / 32, part = warp / (BN / 16 / KT);
    const int row = warp % (BN / 16 / KT) * 16 * KT + FAI_C_ROW((int)threadIdx.x % 32, 0);
    FAI_(put_keys)(dk, scale, shared + SK, D, row, part);
    FAI_(put_keys)(dv, factor / early, shared + SV, DV, row, part);
    __syncthreads(); /* dK and dV are there, for all */
    FAI_(store_keys)(&args, g, &args.dk, shared + SK, D);
    FAI_(store_keys)(&args, g, &args.dv, shared + SV, DV);
}

/* Before and after it: a block has 16 queries of a head, 8 threads a query. */
enum { FAI_(grad_threads) = 128 };
typedef struct FAI_(grad_rows) {
    fa_sequence seq;
    int32_t head, first, i; /* first query of the block; that of the thread */
    FAI_(grad_workspace) workspace;
} FAI_(grad_rows);
FAI_ATOM FAI_(grad_rows) FAI_(grad_find)(const fa_args *a, float *workspace) {
    const uint32_t tiles = (uint32_t)(FAI_GRAD_ROWS(a) / 16), number = blockIdx.x / tiles;
    FAI_(grad_rows) r;
    r.seq = FAI_(sequence)(a, (int32_t)(number / (uint32_t)a->num_heads));
    r.head = (int32_t)(number % (uint32_t)a->num_heads), r.first = (int32_t)(blockIdx.x % tiles) * 16;
    r.i = r.first + (int32_t)threadIdx.x / 8;
    r.workspace = FAI_(grad_open)(a, workspace, (int64_t)blockIdx.x * 16);
    return r;
}

/* Zeros for the block's rows of dbias, where it is not another's sum that they are added to. */
FAI_ATOM void FAI_(clear_bias)(const fa_args *a, const FAI_(grad_rows) *r) {
    const fai_strides st = fai_strides_dbias(a);
    if ((st.b == 0 && r->seq.b) || (st.h == 0 && r->head)) return;
    for (int32_t i = r->first; i < r->first + 16 && i < (st.s == 0 ? 1 : a->seqlen_q); i++)
        for (int32_t j = (int32_t)threadIdx.x; j < a->seqlen_k; j += FAI_(grad_threads))
            a->dbias.data[r->seq.b * st.b + r->head * st.h + i * st.s + j] = 0;
}

static __global__ void __launch_bounds__(FAI_(grad_threads))
    FAI_(prepare_kernel)(const __grid_constant__ fa_args args, float *workspace) {
    enum { D = FA_HEAD_DIM, DV = FA_HEAD_DIM_V };
    const FAI_(grad_rows) r = FAI_(grad_find)(&args, workspace);
    if (FAI_HAS(FA_BIAS) && args.dbias.data) FAI_(clear_bias)(&args, &r);
    if (args.deterministic && threadIdx.x == 0) { /* the first tile of keys that the queries see begins */
        const fa_range keys = fa_row_range(&args, r.seq.len_q, r.seq.len_k, r.first);
        *r.workspace.turn = (uint32_t)(keys.lo / FAI_GRAD_N(FAI_ARCH));
        if (blockIdx.x == 0) *r.workspace.ticket = 0;
    }
    if (r.first >= r.seq.len_q) return;
    float sum = 0, bad = 0;
    if (r.i < r.seq.len_q) {
        const fai_strides so = fai_strides_o(&args, DV);
        const int64_t at = fai_offset_q(&r.seq, so, r.i, r.head);
        const int64_t at_d_o = fai_offset_q(&r.seq, FAI_(strides_d_o)(&args), r.i, r.head);
        const uint4 *o = (const uint4 *)(const void *)((const uint16_t *)args.o.data + at);
        const uint4 *d_o = (const uint4 *)(const void *)((const uint16_t *)args.d_o.data + at_d_o);
        for (int c = (int)threadIdx.x % 8; c < DV / 8; c += 8) {
            const uint4 x = o[c], y = d_o[c];
            const uint32_t ox[4] = {x.x, x.y, x.z, x.w}, dy[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
            for (int n = 0; n < 4; n++) {
                const float low = FAI_UNPACK(dy[n] & 0xffff), high = FAI_UNPACK(dy[n] >> 16);
                sum = fmaf(FAI_UNPACK(ox[n] & 0xffff), low, sum), sum = fmaf(FAI_UNPACK(ox[n] >> 16), high, sum);
                bad += (low - low) + (high - high); /* 0 or NaN */
            }
        }
    }
#pragma unroll
    for (int n = 4; n > 0; n /= 2)
        sum += fai_shfl_sync_bfly_f32(sum, n), bad += fai_shfl_sync_bfly_f32(bad, n);
    if (threadIdx.x % 8 == 0) {
        const fai_strides sl = fai_strides_lse(&args);
        float lse = 0; /* of rows that do not exist */
        if (r.i < r.seq.len_q)
            lse = ((const float *)args.lse.data)[fai_offset_q(&r.seq, sl, r.i, r.head)] * FAI_LOG2E;
        if (fabsf(lse) == INFINITY) lse = lse < 0 ? INFINITY : NAN; /* P of a row that sees nothing is 0 */
        r.workspace.lse[threadIdx.x / 8] = lse + bad, r.workspace.sum[threadIdx.x / 8] = sum;
    }
    const float4 zero = {0, 0, 0, 0};
    for (int n = (int)threadIdx.x; args.dq.data && n < 16 * D / 4; n += FAI_(grad_threads))
        ((float4 *)(void *)r.workspace.dq)[n] = zero;
}

static __global__ void __launch_bounds__(FAI_(grad_threads))
    FAI_(convert_kernel)(const __grid_constant__ fa_args args, float *workspace) {
    enum { D = FA_HEAD_DIM };
    const FAI_(grad_rows) r = FAI_(grad_find)(&args, workspace);
    if (r.i >= r.seq.len_q) return;
    const fai_strides st =
        fai_resolve(args.dq.stride_b, args.dq.stride_s, args.dq.stride_h, args.seqlen_q, args.num_heads, D);
    const float scale = args.softmax_scale != 0 ? args.softmax_scale : rsqrtf((float)D);
    uint16_t *to = (uint16_t *)args.dq.data + fai_offset_q(&r.seq, st, r.i, r.head);
    for (int c = (int)threadIdx.x % 8; c < D / 8; c += 8) {
        const float *from = r.workspace.dq + c * 128;
        uint32_t x[4];
#pragma unroll
        for (int n = 0; n < 4; n++) { /* columns 2n, 2n + 1 of the block of 8 */
            const int lane = (int)threadIdx.x / 8 % 8 * 4 + n, v = (int)threadIdx.x / 64 * 2;
            x[n] = FAI_PACK(from[FAI_GRAD_DQ_AT(lane, v + 1)] * scale, from[FAI_GRAD_DQ_AT(lane, v)] * scale);
        }
        const uint4 chunk = {x[0], x[1], x[2], x[3]};
        ((uint4 *)(void *)to)[c] = chunk;
    }
}

/* The head of this block. */
static __global__ void __launch_bounds__(FAI_(grad_threads))
    FAI_(sink_kernel)(const __grid_constant__ fa_args args, float *workspace) {
    __shared__ float sums[FAI_(grad_threads) / 32];
    const int32_t head = (int32_t)blockIdx.x;
    float sum = 0;
    for (int32_t b = 0; b < args.batch; b++) {
        const fa_sequence seq = FAI_(sequence)(&args, b);
        const int64_t row = ((int64_t)b * args.num_heads + head) * FAI_GRAD_ROWS(&args);
        const FAI_(grad_workspace) w = FAI_(grad_open)(&args, workspace, row);
        for (int32_t i = (int32_t)threadIdx.x; i < seq.len_q; i += FAI_(grad_threads))
            if (w.sum[i] != 0) sum -= fai_ex2_approx_ftz_f32(args.sink[head] * FAI_LOG2E - w.lse[i]) * w.sum[i];
    }
#pragma unroll
    for (int n = 16; n > 0; n /= 2) sum += fai_shfl_sync_bfly_f32(sum, n);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
    __syncthreads(); /* the sums of the warps are there */
    if (threadIdx.x == 0) args.dsink[head] = sums[0] + sums[1] + sums[2] + sums[3];
}
#endif /* FA_BACKWARD */

/* ======================================================================================== */
/* >>launch   what users call                                                                */
/* ======================================================================================== */

#if (FA_PASSES) & FA_FORWARD
static inline size_t FA_(forward_cuda_workspace)(const fa_args *args);
static inline fa_status FA_(forward_cuda)(const fa_args *args, void *workspace, size_t bytes,
                                          cudaStream_t stream);
#endif
#if (FA_PASSES) & FA_BACKWARD
static inline size_t FA_(backward_cuda_workspace)(const fa_args *args);
static inline fa_status FA_(backward_cuda)(const fa_args *args, void *workspace, size_t bytes,
                                           cudaStream_t stream);
#endif

static const fa_cuda_info FA_(cuda_info) = {{FAI_STRING(FA_NAME), FA_HEAD_DIM, FA_HEAD_DIM_V, FA_DTYPE,
                                             FA_KV_DTYPE, FA_O_DTYPE, FAI_TILE_M(800), FAI_TILE_N(800),
                                             (FA_FEATURES), (FA_PASSES),
#if defined(FA_SCORE_MOD)
                                             FA_(cuda_score_mod),
#else
                                             NULL,
#endif
#if defined(FA_SCORE_MOD_GRAD)
                                             FA_(cuda_score_mod_grad),
#else
                                             NULL,
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
#if (FA_PASSES) & FA_BACKWARD
                                            FA_(backward_cuda_workspace),
                                            FA_(backward_cuda),
#else
                                            NULL,
                                            NULL,
#endif
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
        return fai_fail(args, FA_ERR_CUDA_GRID, "tiles", -1, (double)tiles * heads, 1, INT32_MAX);
    launch->kernel = kernel, launch->arch = arch;
    launch->grid = (unsigned)(tiles * heads), launch->block = FAI_TILE_WARPS(arch) * 32;
    launch->shared = FAI_TILE_SHARED(arch);
    return fai_cuda_allow_shared(args, launch);
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

#if (FA_PASSES) & FA_BACKWARD
#define FAI_GRAD_ALIGN 128 /* of the workspace, which may come at any address */

/* Bytes of device memory that the call needs, 8 + 4 head_dim a query and head and some; 0 if args are not valid. */
static inline size_t FA_(backward_cuda_workspace)(const fa_args *args) {
    if (fa_check_pass_cuda(&FA_(cuda_info).info, args, FA_BACKWARD)) return 0;
    const int64_t rows = fai_mul((int64_t)args->batch * args->num_heads, FAI_GRAD_ROWS(args));
    const int64_t words = fai_add(fai_mul(rows, FA_HEAD_DIM + 2), rows / 16 + 1); /* with the counters */
    return (size_t)(words < INT64_MAX / 16 ? words : INT64_MAX / 16) * 4 + FAI_GRAD_ALIGN;
}

/* The launches that the current device needs for args, which have passed the check, one after the other; no blocks:
 * that one is not needed. Their arguments are {args, address of the workspace rounded up to 128}. */
static inline fa_status FA_(backward_cuda_launch)(const fa_args *args, fa_cuda_launch launch[4]) {
    static const void *const kernel[4] = {
        (const void *)FAI_(prepare_kernel), (const void *)FAI_(backward_kernel),
        (const void *)FAI_(convert_kernel), (const void *)FAI_(sink_kernel)};
    struct cudaFuncAttributes attributes;
    const cudaError_t e = cudaFuncGetAttributes(&attributes, kernel[1]);
    if (e != cudaSuccess) return fai_cuda_status(args, e);
    const int arch = attributes.ptxVersion * 10;
    const int64_t heads = (int64_t)args->batch * args->num_heads;
    const int64_t queries = fai_mul(FAI_GRAD_ROWS(args) / 16, heads);
    const int64_t tiles = ((int64_t)args->seqlen_k + FAI_GRAD_N(arch) - 1) / FAI_GRAD_N(arch);
    const int64_t keys = fai_mul(tiles, (int64_t)args->batch * fai_num_heads_k(args));
    const int64_t blocks[4] = {queries, keys, args->dq.data ? queries : 0, args->dsink ? args->num_heads : 0};
    if (args->deterministic && args->dbias.data && args->bias.data) {
        const fai_strides st = fai_strides_dbias(args);
        if ((st.b == 0 && args->batch > 1) || (st.h == 0 && args->num_heads > 1) || (st.s == 0 && args->seqlen_q > 1))
            return fai_fail(args, FA_ERR_DETERMINISTIC, "deterministic", -1, 1, 0, 0);
    }
    for (int n = 0; n < 4; n++) {
        if (blocks[n] > INT32_MAX)
            return fai_fail(args, FA_ERR_CUDA_GRID, "tiles", -1, (double)blocks[n], 1, INT32_MAX);
        launch[n].kernel = kernel[n], launch[n].arch = arch, launch[n].grid = (unsigned)blocks[n];
        launch[n].block = FAI_(grad_threads), launch[n].shared = 0;
    }
    launch[1].block = FAI_GRAD_WARPS(arch) * 32, launch[1].shared = FAI_GRAD_SHARED(arch);
    return fai_cuda_allow_shared(args, &launch[1]);
}

/* The gradients that args has room for, on the stream. Nothing is launched unless the result is FA_OK. Without
 * args->deterministic dQ, and a dbias that is summed, are added up in an order that differs from call to call, and so
 * may their last bits. */
static inline fa_status FA_(backward_cuda)(const fa_args *args, void *workspace, size_t bytes,
                                           cudaStream_t stream) {
    fa_cuda_launch launch[4];
    fa_status status = fa_check_pass_cuda(&FA_(cuda_info).info, args, FA_BACKWARD);
    if (status == FA_OK)
        status = fai_cuda_check_workspace(args, workspace, bytes, FA_(backward_cuda_workspace)(args));
    if (status == FA_OK) status = FA_(backward_cuda_launch)(args, launch);
    float *aligned = (float *)(((uintptr_t)workspace + FAI_GRAD_ALIGN - 1) / FAI_GRAD_ALIGN * FAI_GRAD_ALIGN);
    void *parameters[2] = {(void *)args, &aligned};
    for (int n = 0; n < 4 && status == FA_OK; n++)
        if (launch[n].grid)
            status = fai_cuda_status(args,
                                     cudaLaunchKernel(launch[n].kernel, dim3(launch[n].grid),
                                                      dim3(launch[n].block), parameters, launch[n].shared, stream));
    return status;
}

#undef FAI_GRAD_ALIGN
#undef FAI_KEPT
#undef FAI_SCORE_KEY
#undef FAI_SCORE_QUERY
#undef FAI_GRAD_DQ_AT
#undef FAI_GRAD_ROWS
#undef FAI_GRAD_SIZES
#undef FAI_GRAD_COLUMNS
#undef FAI_GRAD_CH
#undef FAI_GRAD_FEW
#undef FAI_GRAD_CS
#undef FAI_GRAD_THREADS
#undef FAI_GRAD_SHARED
#undef FAI_GRAD_BYTES
#undef FAI_GRAD_STAGE
#undef FAI_GRAD_PARTS_Q
#undef FAI_GRAD_PARTS
#undef FAI_GRAD_QT
#undef FAI_GRAD_KT
#undef FAI_GRAD_STAGES
#undef FAI_GRAD_WARPS
#undef FAI_GRAD_N
#undef FAI_GRAD_M
#endif /* FA_BACKWARD */

#undef FAI_UNPACK
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
#undef FAI_UNITS
#undef FAI_KV_BYTES
#undef FAI_DIM
#undef FA_STAGES
#undef FA_WARPS
#define FAI_FORGET
#include "flashattn.h" /* forgets the parameters */
#undef FAI_FORGET
#endif /* instance */
#undef FAI_CUDA
#endif /* not FAI_MAPS_ONLY */
