/*  flashattn_cuda.cuh - v0.1.0 - attention kernels as CUDA templates - MIT licence, see end of flashattn.h

    WHAT      The passes of flashattn.h on NVIDIA GPUs with tensor cores (sm_80 and up): forward and backward in f16
              and bf16, forward also in f32 and fp8, decode with caches of e4m3 and int8, too; combining results,
              filling caches. The same fa_args, with pointers to device memory; the same features, masks and
              dropped elements.

    DO THIS   copy this file and flashattn.h next to yours; compile with  nvcc -O3 -arch=native hello.cu
              (CUDA 12 or later), for H100 and H200 with -arch=sm_90a: `native` leaves out their own kernels

        #define FA_NAME     attn128          // prefix of everything generated
        #define FA_HEAD_DIM 128
        #include "flashattn_cuda.cuh"        // -> attn128_forward_cuda(), attn128_cuda_info, ...

    DOES NOT  allocate, print, synchronise, keep state, or change the device: a call launches kernels (forward
              one, backward up to four, decode one or two) on the stream that it is given, and may be captured in
              a graph. Bad arguments return a status; nothing is launched unless it is FA_OK.

    CONTENTS  search for:  >>maps  >>vocabulary  >>launch-once  >>combine  >>cache  >>tiles  >>loads  >>scores
                           >>products  >>f32  >>kernel  >>hopper  >>decode  >>backward  >>launch

    PARAMETERS  those of flashattn.h, defined before an include and undefined by it. Different here:

        FA_DTYPE             FA_BF16        FA_F16 or FA_BF16; with FA_PASSES FA_FORWARD also FA_F32, and FA_E4M3
                                            and FA_E5M2, which need sm_89: a kernel that was compiled for less is
                                            refused when it is called
        FA_KV_DTYPE          FA_DTYPE       with FA_PASSES FA_DECODE also FA_E4M3 and FA_I8: head dims that are
                                            multiples of 32
        FA_O_DTYPE           FA_DTYPE       FA_BF16 for fp8; with FA_PASSES FA_FORWARD any of FA_F32, FA_F16 and
                                            FA_BF16, with FA_PASSES FA_DECODE also FA_F32
        FA_PASSES            FA_FORWARD     FA_FORWARD, FA_BACKWARD, FA_DECODE, combined with |
        FA_BLOCK_M           see >>tiles    query rows of a thread block: 16 or 32 for each warp
        FA_BLOCK_N           see >>tiles    keys of a tile: 16, 32 .. 128; fp8: 32, 64 ..
        FA_WARPS             see >>tiles    warps of a thread block: 1 .. 16
        FA_STAGES            see >>tiles    1 or 2 tiles of K and V in shared memory
                                            (these four: of the forward pass; with one of them an instance has
                                            no kernel for sm_90a)
        FA_PROMOTE           0              fp8 on sm_90a: P V of so many tiles, 128 keys each, are added to O in f32;
                                            1 .. 64, 0 = none are, tensor cores add up all. FA_HEAD_DIM_V <= 128

    YOU GET, for FA_NAME = attn128 (all static, no external symbol)

        const fa_cuda_info attn128_cuda_info;
        size_t    attn128_forward_cuda_workspace(const fa_args *args);
        fa_status attn128_forward_cuda(const fa_args *args, void *workspace, size_t bytes, cudaStream_t stream);
        fa_status attn128_forward_cuda_launch(const fa_args *args, fa_cuda_launch *launch);
        size_t    attn128_backward_cuda_workspace(const fa_args *args);
        fa_status attn128_backward_cuda(const fa_args *args, void *workspace, size_t bytes, cudaStream_t stream);
        fa_status attn128_backward_cuda_launch(const fa_args *args, fa_cuda_launch launch[4]);

        size_t    attn128_decode_cuda_workspace(const fa_args *args);
        fa_status attn128_decode_cuda(const fa_args *args, void *workspace, size_t bytes, cudaStream_t stream);
        fa_status attn128_decode_cuda_launch(const fa_args *args, fa_cuda_decode_launch *launch);

              decode is forward for few queries (1 .. 64) and a long cache: O and LSE the same, keys split among
              blocks; num_threads: SMs to split for, 0 = those of the device; split_keys as in flashattn.h. Its
              workspace begins with FA_CUDA_COUNTER_BYTES of counters: 0 before its first use, 0 again after every
              call, whatever its args. Calls that may run at the same time need workspaces of their own. One launch,
              or two for splits by split_keys of more than 1024 (batch, key/value head, 16 rows).
              forward needs no workspace: NULL, 0 is right. On sm_90a it makes use of one of
              FA_CUDA_COUNTER_BYTES or more, which begins with the same counters, 0 before its first use, and
              may be that of decode: blocks then take tiles when they are free. The results are the same bits.

    CONFIGURE, sticky, before any include, the first one or a later one. What they compile, once, takes the argument
              structs of flashattn.h, with pointers to device memory.

        FA_CUDA_COMBINE      results over disjoint keys added up; see >>combine
        FA_CUDA_CACHE        the calls of the KV cache, with the bits of the CPU; see >>cache

        size_t    fa_combine_cuda_workspace(const fa_combine_args *args);
        fa_status fa_combine_cuda(const fa_combine_args *args, void *workspace, size_t bytes, cudaStream_t stream);
        fa_status fa_append_cuda(const fa_append_args *args, cudaStream_t stream);
        fa_status fa_compact_cuda(const fa_compact_args *args, cudaStream_t stream);
        fa_status fa_rotary_cuda(const fa_rotary_args *args, cudaStream_t stream);
        fa_status fa_quantize_cuda(const fa_quantize_args *args, cudaStream_t stream);

    DATA      Rows of q, k, v, o and their gradients start at multiples of 16 bytes: data, and strides in bytes.
              cu_seqlens, seqused, block_table and all other arrays are in device memory, so their contents are not
              checked: lengths must not exceed seqlen_q and seqlen_k, page numbers must be below num_pages, and a
              tree mask needs len_k >= len_q. args itself and args->error are in host memory. num_threads and
              split_keys mean nothing to forward and backward.
              f32 is f32 throughout, not TF32. fp8: S and sums are f32, P is 2^8 P in e4m3; a factor of V that each
              key has of its own is rounded with its P, factors of whole tiles and more are not, but for those of
              blocks of keys on sm_90a.
              Rows of the cache calls may start anywhere, but 16-byte starts are faster. New rows must fit before
              seqlen_k, accepted rows rise, factors that are read be numbers >= 0, and no two sequences write to
              one page; what would go to a row or page that does not exist is left out.

    HOPPER    Compiled for sm_90a (-gencode arch=compute_90a,code=sm_90a, alone or next to others), the
              forward pass has a second kernel, by TMA and wgmma, for head dims of 64 to 256; to 192 with
              dropout, masks besides causal and window, or changed scores. A call takes it if the GPU can, and
              leaves to the other kernel strides of 0 of q. Where TMA makes no boxes of K and V that wgmma can
              read, of pages whose size is no multiple of 8 and with strides of 0, they come row by row, by
              cp.async, if a sequence, or all pages, do not span 64 GiB. It has up to two shapes, of which the
              launch takes one by counts (>>hopper, is_other_shape). Tiles in which a block mask shows nothing
              are skipped.
              FA_E4M3 has one, too, of one shape, for head dims of 64, 96 .. 256 without these features: wgmma
              takes V by columns, so a call asks for it by v_transposed, and V is what fa_quantize_cuda or
              fa_quantize with `transposed` make of it. What it leaves out is refused then, by
              FA_ERR_V_TRANSPOSED: pages, a negative scale, seqlen_k 0, and factors of K and V for blocks that
              are no multiples of 128 keys, beyond 192 dims for any.
              It asks the runtime for the driver's cuTensorMapEncodeTiled at every call; who has that
              function may define FA_TENSOR_MAP_ENCODE, sticky, as its address.

    DECODE    has a kernel for sm_90a, too, by TMA and wgmma, for head dims of 64 to 256 and K and V in 16 bits. A
              call takes it if the GPU can, if it has more than 16 rows (queries times heads of a group) and no
              split_keys: then a row's bits must not depend on how many there are. It leaves to the other
              kernels: seqlen_k 0, strides of 0, and pages whose size is no multiple of 8.

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

/*  A tile in shared memory: rows of dim 16-bit elements (two e4m3, half an f32: FAI_WIDTH), dim / 8 chunks of
 *  16 bytes, without padding. ldmatrix reads 8 rows of one chunk column at once, which must lie in 8
 *  different groups of 4 banks, so chunks change places by row. Rows of 64 n elements all begin in the same
 *  bank: 8 chunks are permuted, by an xor with row % 8. Rows of 64 n + 32 begin in two places: 4 chunks,
 *  row / 2 % 4. Rows of 32 n + 16 begin in four: 2 chunks, row / 4 % 2.
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

/*  Fragments of m16n8k16. Lane l holds rows g and g + 8, columns 2t, 2t + 1 of the accumulator, where
 *  g = l / 4, t = l % 4
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

/*  sm_90a: panels of 64 columns, whose rows of 128 bytes hold 8 chunks permuted by row % 8: what TMA and
 *  wgmma call a 128-byte swizzle. The last panel is filled up with zeros. tile: a multiple of 1024. */
#define FAI_PANELS(dim) (((dim) + 63) / 64) /* dim: in 16 bits, as in FAI_AT */
#define FAI_PANEL_AT(rows, row, chunk) \
    ((chunk) / 8 * ((rows) * 128) + (row) * 128 + ((chunk) % 8 ^ (row) % 8) * 16)
/* Its accumulator: element i of thread l of a warpgroup, whose warps have 16 rows each. */
#define FAI_WGMMA_ROW(thread, i) ((thread) / 32 * 16 + FAI_C_ROW((thread) % 32, (i) % 4))
#define FAI_WGMMA_COL(thread, i) ((i) / 4 * 8 + FAI_C_COL((thread) % 32, (i) % 4))

/*  Bytes (m16n8k32) lie in A and B as if two were a 16-bit element, so Q and K need nothing new. P and V: k
 *  may count the keys in any order, if it is the same for both. A lane has P of 2 keys in each of two
 *  accumulators, which together are the 4 that it needs; ldmatrix.trans gives it the same keys of V, of 2
 *  columns that a byte permutation takes apart: one mma does the even columns of 16, one the odd ones, and a
 *  lane gets O of 4 adjacent columns. f32 has O in the same places. */
#define FAI_PAIRED_KEY(k) ((k) / 16 * 16 + (k) / 2 % 2 * 8 + (k) / 4 % 4 * 2 + (k) % 2)
#define FAI_PAIRED_COL(lane, odd, v) ((lane) % 4 * 4 + (v) % 2 * 2 + (odd))
#define FAI_LDMATRIX_BYTES_ROW(lane) (lane) /* 32 rows of k, 1 chunk of n */

#endif /* maps */

#if defined(FAI_MAPS_ONLY) /* tests of the maps want no more, and no nvcc */
#elif !defined(__CUDACC__)
#error "flashattn_cuda.cuh: compile with nvcc (a .cu file, or -x cu); flashattn.h has the CPU kernels"
#elif CUDART_VERSION < 12000
#error "flashattn_cuda.cuh: needs CUDA 12 or later, for its tensor maps"
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

#include <cuda.h> /* types of tensor maps; nothing of the driver is linked */
#include <cuda_runtime.h>

#define FAI_ATOM static __device__ __forceinline__

#if defined(__CUDA_ARCH__)
#define FAI_ARCH __CUDA_ARCH__
#else
#define FAI_ARCH 800 /* the host pass: any */
#endif
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define FAI_SM90A 1 /* this is the code for sm_90a */
#else
#define FAI_SM90A 0
#endif

/* ======================================================================================== */
/* >>vocabulary  one PTX instruction a function; names and operands in the order of PTX      */
/* ======================================================================================== */

FAI_ATOM uint32_t fai_cvta_to_shared(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }

/* 16 bytes, the first `valid` of them from memory, the rest zeros */
FAI_ATOM void fai_cp_async_cg_16(uint32_t to, const void *from, int valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid) : "memory");
}
/* 16 bytes from memory, or zeros: then nothing is read */
FAI_ATOM void fai_cp_async_cg_16_ignore(uint32_t to, const void *from, int ignore) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.s32 p, %2, 0;\ncp.async.cg.shared.global [%0], [%1], 16, p;\n}" ::"r"(to),
        "l"(from), "r"(ignore)
        : "memory");
}
FAI_ATOM void fai_cp_async_ca_4(uint32_t to, const void *from, int valid) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(valid) : "memory");
}
FAI_ATOM void fai_cp_async_wait_all(void) { asm volatile("cp.async.wait_all;" ::: "memory"); }
FAI_ATOM void fai_cp_async_commit_group(void) { asm volatile("cp.async.commit_group;" ::: "memory"); }
/* for all but the last n groups: n, a constant, must be one of the text */
#define FAI_WAIT_GROUP(number) \
    if (n == number) asm volatile("cp.async.wait_group " #number ";" ::: "memory");
FAI_ATOM void fai_cp_async_wait_group(const int n) {
    FAI_WAIT_GROUP(0) FAI_WAIT_GROUP(1) FAI_WAIT_GROUP(2) FAI_WAIT_GROUP(3)
    FAI_WAIT_GROUP(4) FAI_WAIT_GROUP(5) FAI_WAIT_GROUP(6) FAI_WAIT_GROUP(7)
}
#undef FAI_WAIT_GROUP

FAI_ATOM void fai_bar_sync(int barrier, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
FAI_ATOM uint32_t fai_atom_global_inc_u32(uint32_t *at, uint32_t last) { /* x < last ? x + 1 : 0 */
    uint32_t was;
    asm volatile("atom.global.inc.u32 %0, [%1], %2;" : "=r"(was) : "l"(at), "r"(last) : "memory");
    return was;
}

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
FAI_ATOM float fai_ld_shared_f32(uint32_t address) {
    float x;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(x) : "r"(address) : "memory");
    return x;
}
FAI_ATOM float4 fai_ld_shared_v4_f32(uint32_t address) {
    float4 x;
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
                 : "r"(address)
                 : "memory");
    return x;
}
FAI_ATOM uint2 fai_ld_shared_v2_b32(uint32_t address) {
    uint2 x;
    asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];" : "=r"(x.x), "=r"(x.y) : "r"(address) : "memory");
    return x;
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

/* the same with k = 32 bytes; sm_89 */
#define FAI_MMA_M16N8K32(type_a, type_b, d, a, b) \
    asm("mma.sync.aligned.m16n8k32.row.col.f32." type_a "." type_b \
        ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, " \
        "{%0, %1, %2, %3};" \
        : "+f"((d)[0]), "+f"((d)[1]), "+f"((d)[2]), "+f"((d)[3]) \
        : "r"((a)[0]), "r"((a)[1]), "r"((a)[2]), "r"((a)[3]), "r"((b)[0]), "r"((b)[1]))
FAI_ATOM void fai_mma_m16n8k32_f32_e4m3(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    FAI_MMA_M16N8K32("e4m3", "e4m3", d, a, b);
}
FAI_ATOM void fai_mma_m16n8k32_f32_e5m2(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    FAI_MMA_M16N8K32("e5m2", "e5m2", d, a, b);
}
FAI_ATOM void fai_mma_m16n8k32_f32_e4m3_e5m2(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    FAI_MMA_M16N8K32("e4m3", "e5m2", d, a, b);
}
#undef FAI_MMA_M16N8K32

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
/* 0xffff for each pair of halves that are equal, else 0 */
FAI_ATOM uint32_t fai_set_eq_u32_f16x2(uint32_t a, uint32_t b) {
    uint32_t d;
    asm("set.eq.u32.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}
#if FAI_ARCH >= 890
/* of the low and of the high 16 bits */
FAI_ATOM void fai_cvt_rn_f16x2_e4m3x2(uint32_t d[2], uint32_t x) {
    asm("{\n.reg .b16 low, high;\n"
        "mov.b32 {low, high}, %2;\n"
        "cvt.rn.f16x2.e4m3x2 %0, low;\n"
        "cvt.rn.f16x2.e4m3x2 %1, high;\n}"
        : "=r"(d[0]), "=r"(d[1])
        : "r"(x));
}
#endif
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
FAI_ATOM uint32_t fai_prmt_b32(uint32_t a, uint32_t b, uint32_t bytes) { return __byte_perm(a, b, bytes); }
FAI_ATOM float fai_shfl_sync_idx_f32(float x, int lane) { return __shfl_sync(~0u, x, lane); }
/* x of lane `from` of each quad */
FAI_ATOM float fai_shfl_sync_idx_quad_f32(float x, int from) { return __shfl_sync(~0u, x, from, 4); }
FAI_ATOM int64_t fai_shfl_sync_idx_b64(int64_t x, int lane) { /* twice 32 bits */
    return __shfl_sync(~0u, (long long)x, lane);
}
/* x of lane `from` of each 8 lanes */
FAI_ATOM uint32_t fai_shfl_sync_idx_oct_b32(uint32_t x, int from) { return __shfl_sync(~0u, x, from, 8); }
FAI_ATOM float fai_shfl_sync_bfly_f32(float x, int mask) { return __shfl_xor_sync(~0u, x, mask); }
FAI_ATOM uint32_t fai_shfl_sync_bfly_b32(uint32_t x, int mask) { return __shfl_xor_sync(~0u, x, mask); }
FAI_ATOM uint32_t fai_shfl_sync_idx_b32(uint32_t x, int lane) { return __shfl_sync(~0u, x, lane); }
/* x, of which the compiler knows nothing: what a loop computes from it is computed in the loop, not kept in
 * registers across it */
FAI_ATOM uint32_t fai_unknown(uint32_t x) {
    asm volatile("" : "+r"(x));
    return x;
}
FAI_ATOM uint32_t fai_redux_sync_max_u32(uint32_t x) {
    uint32_t d;
    asm volatile("redux.sync.max.u32 %0, %1, 0xffffffff;" : "=r"(d) : "r"(x));
    return d;
}

/* ---- several instructions: what there is none for ---- */

/* Bytes 0 and 2 of x, 1 and 3, to two halves each, exactly. */
FAI_ATOM void fai_widen_s8(uint32_t y[2], uint32_t x) { /* 1024 + (x + 128) has x + 128 in its last bits */
    y[0] = fai_fma_rn_f16x2(fai_prmt_b32(x ^ 0x80808080u, 0x64646464, 0x4240), 0x3c003c00, 0xe480e480);
    y[1] = fai_fma_rn_f16x2(fai_prmt_b32(x ^ 0x80808080u, 0x64646464, 0x4341), 0x3c003c00, 0xe480e480);
}
#if FAI_ARCH >= 890
FAI_ATOM void fai_widen_e4m3(uint32_t y[2], uint32_t x) {
    fai_cvt_rn_f16x2_e4m3x2(y, fai_prmt_b32(x, 0, 0x3120));
}
#else
/* of bytes 1 and 3: as the last bits of an exponent of f16 they are 2^-8 of their value; 480 is NaN */
FAI_ATOM uint32_t fai_widen_odd_e4m3(uint32_t x) {
    const uint32_t y =
        fai_fma_rn_f16x2((x >> 1 & 0x3f803f80u) | (x & 0x80008000u), 0x5c005c00, 0x80008000u);
    return y | fai_set_eq_u32_f16x2(y & 0x7fff7fffu, 0x5f805f80);
}
FAI_ATOM void fai_widen_e4m3(uint32_t y[2], uint32_t x) {
    y[0] = fai_widen_odd_e4m3(x << 8), y[1] = fai_widen_odd_e4m3(x);
}
#endif

/* fp8: `high` goes to the upper byte. Before sm_89 in integers. */
FAI_ATOM uint32_t fai_cvt_rn_satfinite_e4m3x2_f32(float high, float low) {
#if FAI_ARCH >= 890
    uint16_t r;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(r) : "f"(high), "f"(low));
    return r;
#else
    return fa_f32_to_e4m3(low) | (uint32_t)fa_f32_to_e4m3(high) << 8;
#endif
}
FAI_ATOM uint32_t fai_cvt_rn_satfinite_e5m2x2_f32(float high, float low) {
#if FAI_ARCH >= 890
    uint16_t r;
    asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(r) : "f"(high), "f"(low));
    return r;
#else
    return fa_f32_to_e5m2(low) | (uint32_t)fa_f32_to_e5m2(high) << 8;
#endif
}
/* These keep subnormal numbers, and are not fused, whatever nvcc's options say. */
FAI_ATOM float fai_cvt_f32_f16(uint16_t x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
    return y;
}
FAI_ATOM double fai_cvt_f64_f32(float x) {
    double y;
    asm("cvt.f64.f32 %0, %1;" : "=d"(y) : "f"(x));
    return y;
}
FAI_ATOM float fai_cvt_rn_f32_f64(double x) {
    float y;
    asm("cvt.rn.f32.f64 %0, %1;" : "=f"(y) : "d"(x));
    return y;
}
FAI_ATOM float fai_rcp_approx_ftz_f32(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
FAI_ATOM float fai_add_rn_f32(float a, float b) {
    float y;
    asm("add.rn.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
}
FAI_ATOM float fai_mul_rn_f32(float a, float b) {
    float y;
    asm("mul.rn.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
}
FAI_ATOM float fai_div_rn_f32(float a, float b) {
    float y;
    asm("div.rn.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
}
/* the larger magnitude; NaN does not count */
FAI_ATOM float fai_max_abs_f32(float a, float b) {
    float y;
    asm("{.reg .f32 m;\n\tabs.f32 m, %2;\n\tmax.f32 %0, %1, m;}" : "=f"(y) : "f"(a), "f"(b));
    return y;
}
FAI_ATOM uint32_t fai_ld_relaxed_gpu_u32(const void *p) {
    uint32_t x;
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(x) : "l"(p) : "memory");
    return x;
}
FAI_ATOM void fai_red_relaxed_gpu_max_u32(void *p, uint32_t x) {
    asm volatile("red.relaxed.gpu.global.max.u32 [%0], %1;" ::"l"(p), "r"(x) : "memory");
}

/* ---- sm_90a only: what follows is called in code for it alone ---- */

FAI_ATOM void fai_mbarrier_init(uint32_t bar, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(arrivals) : "memory");
}
FAI_ATOM void fai_fence_mbarrier_init(void) {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
FAI_ATOM void fai_mbarrier_arrive(uint32_t bar) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}
FAI_ATOM void fai_mbarrier_arrive_expect_tx(uint32_t bar, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}
/* until the phase of this parity is complete; a loop in asm, as ptxas takes one in C for a real loop */
FAI_ATOM void fai_mbarrier_try_wait_parity(uint32_t bar, uint32_t parity) {
    asm volatile("{\n.reg .pred p;\nagain_%=:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
                 "@p bra.uni done_%=;\nbra.uni again_%=;\ndone_%=:\n}" ::"r"(bar),
                 "r"(parity)
                 : "memory");
}
FAI_ATOM void fai_prefetch_tensormap(const void *map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
FAI_ATOM void fai_fence_proxy_async(void) { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

/* A box of a tensor to shared memory, or back: at column c, head h and where x, y, z say (>>hopper) */
FAI_ATOM void fai_cp_async_bulk_tensor_5d_load(uint32_t to, const void *map, uint32_t bar, int c, int h,
                                               int x, int y, int z) {
    asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], "
                 "[%1, {%3, %4, %5, %6, %7}], [%2];" ::"r"(to),
                 "l"(map), "r"(bar), "r"(c), "r"(h), "r"(x), "r"(y), "r"(z)
                 : "memory");
}
FAI_ATOM void fai_cp_async_bulk_tensor_5d_store(const void *map, uint32_t from, int c, int h, int x, int y,
                                                int z) {
    asm volatile(
        "cp.async.bulk.tensor.5d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5, %6}], [%1];" ::"l"(map),
        "r"(from), "r"(c), "r"(h), "r"(x), "r"(y), "r"(z)
        : "memory");
}
FAI_ATOM void fai_cp_async_bulk_commit_group(void) {
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
FAI_ATOM void fai_cp_async_bulk_wait_group_read_0(void) {
    asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}
FAI_ATOM void fai_stmatrix_x4(uint32_t address, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(a),
                 "r"(b), "r"(c), "r"(d)
                 : "memory");
}

/* threadIdx.x, read anew instead of kept in a register */
FAI_ATOM int fai_tid(void) {
    int x;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(x));
    return x;
}

/* four to e4m3, a in the lowest byte */
FAI_ATOM uint32_t fai_cvt_rn_satfinite_e4m3x4_f32(float a, float b, float c, float d) {
#if FAI_SM90A
    uint32_t r;
    asm("{\n.reg .b16 low, high;\n"
        "cvt.rn.satfinite.e4m3x2.f32 low, %2, %1;\n"
        "cvt.rn.satfinite.e4m3x2.f32 high, %4, %3;\n"
        "mov.b32 %0, {low, high};\n}"
        : "=r"(r)
        : "f"(a), "f"(b), "f"(c), "f"(d));
    return r;
#else
    return fai_cvt_rn_satfinite_e4m3x2_f32(b, a) | fai_cvt_rn_satfinite_e4m3x2_f32(d, c) << 16;
#endif
}

FAI_ATOM void fai_bar_arrive(int id, int threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
/* bar.sync; 1 if x is not 0 in one of the threads */
FAI_ATOM int fai_bar_red_or(int id, int threads, int x) {
    int r;
    asm volatile(
        "{\n.reg .pred p, q;\nsetp.ne.b32 p, %3, 0;\nbar.red.or.pred q, %1, %2, p;\nselp.b32 %0, 1, 0, q;\n}"
        : "=r"(r)
        : "r"(id), "r"(threads), "r"(x)
        : "memory");
    return r;
}
/* registers of each thread of the warpgroup from here on; macros, as n must be a constant for asm */
#define FAI_SETMAXNREG_DEC(n) asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(n))
#define FAI_SETMAXNREG_INC(n) asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(n))

FAI_ATOM void fai_wgmma_fence(void) { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
FAI_ATOM void fai_wgmma_commit_group(void) { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
FAI_ATOM void fai_wgmma_wait_group_0(void) { asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory"); }
FAI_ATOM void fai_wgmma_wait_group_1(void) { asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory"); }

/* D (64, n) = or += A (64, 16) B (16, n) by a warpgroup; d: n / 2 registers of each thread.
 *     _ss  A and B by descriptors, k innermost in both (rows of K); accumulate 0: =
 *     _rs  A in registers; B by a descriptor, n innermost (rows of V)
 * A list of operands for each n, 8 longer than the one before. */
#define FAI_D64 \
    "%0, %1, %2, %3, %4, %5, %6, %7, " \
    "%8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, " \
    "%24, %25, %26, %27, %28, %29, %30, %31"
#define FAI_D80 FAI_D64 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define FAI_D96 FAI_D80 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define FAI_D112 FAI_D96 ", %48, %49, %50, %51, %52, %53, %54, %55"
#define FAI_D128 FAI_D112 ", %56, %57, %58, %59, %60, %61, %62, %63"
#define FAI_D144 FAI_D128 ", %64, %65, %66, %67, %68, %69, %70, %71"
#define FAI_D160 FAI_D144 ", %72, %73, %74, %75, %76, %77, %78, %79"
#define FAI_D176 FAI_D160 ", %80, %81, %82, %83, %84, %85, %86, %87"
#define FAI_D192 FAI_D176 ", %88, %89, %90, %91, %92, %93, %94, %95"
#define FAI_D208 FAI_D192 ", %96, %97, %98, %99, %100, %101, %102, %103"
#define FAI_D224 FAI_D208 ", %104, %105, %106, %107, %108, %109, %110, %111"
#define FAI_D240 FAI_D224 ", %112, %113, %114, %115, %116, %117, %118, %119"
#define FAI_D256 FAI_D240 ", %120, %121, %122, %123, %124, %125, %126, %127"
#define FAI_O8(i) \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
        "+f"(d[i + 6]), "+f"(d[i + 7])
#define FAI_O64 FAI_O8(0), FAI_O8(8), FAI_O8(16), FAI_O8(24)
#define FAI_O80 FAI_O64, FAI_O8(32)
#define FAI_O96 FAI_O80, FAI_O8(40)
#define FAI_O112 FAI_O96, FAI_O8(48)
#define FAI_O128 FAI_O112, FAI_O8(56)
#define FAI_O144 FAI_O128, FAI_O8(64)
#define FAI_O160 FAI_O144, FAI_O8(72)
#define FAI_O176 FAI_O160, FAI_O8(80)
#define FAI_O192 FAI_O176, FAI_O8(88)
#define FAI_O208 FAI_O192, FAI_O8(96)
#define FAI_O224 FAI_O208, FAI_O8(104)
#define FAI_O240 FAI_O224, FAI_O8(112)
#define FAI_O256 FAI_O240, FAI_O8(120)
/* r0 .. r4: the numbers of the operands behind d */
#define FAI_WGMMA_TYPE(n, type, r0, r1, r2, r3, r4) \
    FAI_ATOM void fai_wgmma_m64n##n##k16_f32_##type##_ss(float *d, uint64_t a, uint64_t b, int accumulate) { \
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #r2 ", 0;\n" \
                     "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." #type "." #type " {" FAI_D##n \
                     "}, %" #r0 ", %" #r1 ", p, 1, 1, 0, 0;\n}" \
                     : FAI_O##n \
                     : "l"(a), "l"(b), "r"(accumulate)); \
    } \
    FAI_ATOM void fai_wgmma_m64n##n##k16_f32_##type##_rs(float *d, const uint32_t a[4], uint64_t b) { \
        asm volatile("wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." #type "." #type " {" FAI_D##n \
                     "}, {%" #r0 ", %" #r1 ", %" #r2 ", %" #r3 "}, %" #r4 ", 1, 1, 1, 1;" \
                     : FAI_O##n \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b)); \
    }
#define FAI_WGMMA(n, r0, r1, r2, r3, r4) \
    FAI_WGMMA_TYPE(n, bf16, r0, r1, r2, r3, r4) \
    FAI_WGMMA_TYPE(n, f16, r0, r1, r2, r3, r4)
/* The same of bytes: A (64, 32), B (32, n), k innermost in both; _rs, too, may begin anew */
#define FAI_WGMMA_E4M3(n, r0, r1, r2, r3, r4, r5) \
    FAI_ATOM void fai_wgmma_m64n##n##k32_f32_e4m3_ss(float *d, uint64_t a, uint64_t b, int accumulate) { \
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #r2 ", 0;\n" \
                     "wgmma.mma_async.sync.aligned.m64n" #n "k32.f32.e4m3.e4m3 {" FAI_D##n "}, %" #r0 \
                     ", %" #r1 ", p, 1, 1;\n}" \
                     : FAI_O##n \
                     : "l"(a), "l"(b), "r"(accumulate)); \
    } \
    FAI_ATOM void fai_wgmma_m64n##n##k32_f32_e4m3_rs(float *d, const uint32_t a[4], uint64_t b, \
                                                     int accumulate) { \
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #r5 ", 0;\n" \
                     "wgmma.mma_async.sync.aligned.m64n" #n "k32.f32.e4m3.e4m3 {" FAI_D##n "}, {%" #r0 \
                     ", %" #r1 ", %" #r2 ", %" #r3 "}, %" #r4 ", p, 1, 1;\n}" \
                     : FAI_O##n \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate)); \
    }
FAI_WGMMA_E4M3(64, 32, 33, 34, 35, 36, 37)
FAI_WGMMA_E4M3(96, 48, 49, 50, 51, 52, 53)
FAI_WGMMA_E4M3(128, 64, 65, 66, 67, 68, 69)
FAI_WGMMA_E4M3(160, 80, 81, 82, 83, 84, 85)
FAI_WGMMA_E4M3(192, 96, 97, 98, 99, 100, 101)
FAI_WGMMA_E4M3(224, 112, 113, 114, 115, 116, 117)
FAI_WGMMA_E4M3(256, 128, 129, 130, 131, 132, 133)
#undef FAI_WGMMA_E4M3
FAI_WGMMA(64, 32, 33, 34, 35, 36)
FAI_WGMMA(80, 40, 41, 42, 43, 44)
FAI_WGMMA(96, 48, 49, 50, 51, 52)
FAI_WGMMA(112, 56, 57, 58, 59, 60)
FAI_WGMMA(128, 64, 65, 66, 67, 68)
FAI_WGMMA(144, 72, 73, 74, 75, 76)
FAI_WGMMA(160, 80, 81, 82, 83, 84)
FAI_WGMMA(176, 88, 89, 90, 91, 92)
FAI_WGMMA(192, 96, 97, 98, 99, 100)
FAI_WGMMA(208, 104, 105, 106, 107, 108)
FAI_WGMMA(224, 112, 113, 114, 115, 116)
FAI_WGMMA(240, 120, 121, 122, 123, 124)
FAI_WGMMA(256, 128, 129, 130, 131, 132)
#undef FAI_WGMMA
#undef FAI_WGMMA_TYPE
#undef FAI_O256
#undef FAI_O240
#undef FAI_O224
#undef FAI_O208
#undef FAI_O192
#undef FAI_O176
#undef FAI_O160
#undef FAI_O144
#undef FAI_O128
#undef FAI_O112
#undef FAI_O96
#undef FAI_O80
#undef FAI_O64
#undef FAI_O8
#undef FAI_D256
#undef FAI_D240
#undef FAI_D224
#undef FAI_D208
#undef FAI_D192
#undef FAI_D176
#undef FAI_D160
#undef FAI_D144
#undef FAI_D128
#undef FAI_D112
#undef FAI_D96
#undef FAI_D80
#undef FAI_D64

/* n is a constant */
#define FAI_WGMMA_CASE(n, call) \
    case n: fai_wgmma_m64n##n##k16_f32_##call; break;
#define FAI_WGMMA_CASES(call) \
    switch (n) { \
        FAI_WGMMA_CASE(64, call) FAI_WGMMA_CASE(80, call) FAI_WGMMA_CASE(96, call) FAI_WGMMA_CASE(112, call) \
        FAI_WGMMA_CASE(128, call) FAI_WGMMA_CASE(144, call) FAI_WGMMA_CASE(160, call) \
        FAI_WGMMA_CASE(176, call) FAI_WGMMA_CASE(192, call) FAI_WGMMA_CASE(208, call) \
        FAI_WGMMA_CASE(224, call) FAI_WGMMA_CASE(240, call) FAI_WGMMA_CASE(256, call) \
    }
FAI_ATOM void fai_wgmma_f32_bf16_ss(const int n, float *d, uint64_t a, uint64_t b, int accumulate) {
    FAI_WGMMA_CASES(bf16_ss(d, a, b, accumulate))
}
FAI_ATOM void fai_wgmma_f32_bf16_rs(const int n, float *d, const uint32_t a[4], uint64_t b) {
    FAI_WGMMA_CASES(bf16_rs(d, a, b))
}
FAI_ATOM void fai_wgmma_f32_f16_ss(const int n, float *d, uint64_t a, uint64_t b, int accumulate) {
    FAI_WGMMA_CASES(f16_ss(d, a, b, accumulate))
}
FAI_ATOM void fai_wgmma_f32_f16_rs(const int n, float *d, const uint32_t a[4], uint64_t b) {
    FAI_WGMMA_CASES(f16_rs(d, a, b))
}
#undef FAI_WGMMA_CASES
#undef FAI_WGMMA_CASE
#define FAI_WGMMA_CASE(n, call) \
    case n: fai_wgmma_m64n##n##k32_f32_##call; break;
#define FAI_WGMMA_CASES(call) \
    switch (n) { \
        FAI_WGMMA_CASE(64, call) FAI_WGMMA_CASE(96, call) FAI_WGMMA_CASE(128, call) FAI_WGMMA_CASE(160, call) \
        FAI_WGMMA_CASE(192, call) FAI_WGMMA_CASE(224, call) FAI_WGMMA_CASE(256, call) \
    }
FAI_ATOM void fai_wgmma_f32_e4m3_ss(const int n, float *d, uint64_t a, uint64_t b, int accumulate) {
    FAI_WGMMA_CASES(e4m3_ss(d, a, b, accumulate))
}
FAI_ATOM void fai_wgmma_f32_e4m3_rs(const int n, float *d, const uint32_t a[4], uint64_t b, int accumulate) {
    FAI_WGMMA_CASES(e4m3_rs(d, a, b, accumulate))
}
#undef FAI_WGMMA_CASES
#undef FAI_WGMMA_CASE

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

/* Where TMA finds q, k, v and o; for sm_90a only. */
typedef struct fa_cuda_maps {
    CUtensorMap q, k, v, o;
    int32_t group;     /* heads whose rows make a tile: those that share K and V, or 1 */
    uint32_t section;  /* heads, or groups of them, whose tiles run side by side */
    int32_t page_rows; /* rows of a box of K or V; 0: cp.async copies them, without maps */
    uint32_t tiles;    /* of the queries of a head, or group */
    uint32_t total;    /* of all heads */
    uint32_t slots;    /* blocks that the GPU runs at once */
    uint32_t *counter; /* of tiles that have been taken, 0 between calls; NULL: blocks take turns */
} fa_cuda_maps;

/* A launch that only wants doing: cudaLaunchKernel(kernel, grid, block, {args, &maps}, shared, stream). */
typedef struct fa_cuda_launch {
    const void *kernel;
    unsigned grid, block; /* thread blocks, threads of each */
    size_t shared;        /* bytes, allowed by cudaFuncSetAttribute already */
    int arch;             /* 800, 860 ..: of the kernel that this GPU runs, which fixes the tile */
    int block_m, block_n; /* the tile, of the forward pass */
    fa_cuda_maps maps;    /* for the kernels of sm_90a; others do not read it */
} fa_cuda_launch;

#define FAI_DECODE_COUNTERS 1024 /* more tiles than that keep every GPU busy without splits */
#define FA_CUDA_COUNTER_BYTES (FAI_DECODE_COUNTERS * 4 + 16) /* of a decode workspace: 0 before its first use */

/* How a decode call is cut into blocks: (batch, key/value head, tile of rows, split of the keys). */
typedef struct fai_cuda_plan {
    int32_t unit;    /* most keys of a split */
    int32_t fixed;   /* splits end at multiples of unit; else those of a tile are equal, in multiples of 64 */
    int32_t splits;  /* of the longest sequence */
    int32_t rows;    /* of a tile: 16, 32 or 64 */
    int32_t combine; /* a second launch adds up the parts: there are too few counters */
} fai_cuda_plan;

/* A decode launch: cudaLaunchKernel(first.kernel, .., {args, &plan, &workspace, &first.maps}, ..), and second
 * likewise if plan.combine. */
typedef struct fa_cuda_decode_launch {
    fa_cuda_launch first, second;
    fai_cuda_plan plan;
    size_t bytes; /* of workspace, aligned to 16 */
} fa_cuda_decode_launch;

/* args->split_keys, or splits that keep `slots` blocks busy: the fewest rounds of the longest block, of its
 * 64-key tiles and what it costs to begin and to merge, in tiles. Lengths are in device memory: seqlen_k
 * stands for all. */
static inline fai_cuda_plan fai_make_cuda_plan(const fa_args *a, int64_t slots) {
    const int64_t heads_k = fai_num_heads_k(a), rows = a->seqlen_q * (a->num_heads / heads_k);
    fai_cuda_plan p = {FA_MAX_SEQLEN, a->split_keys > 0, 1, 16, 0};
    /* fixed: a row's bits do not depend on its neighbours, so their number changes nothing */
    if (!p.fixed && rows > 16) p.rows = rows > 32 ? 64 : 32;
    const int64_t tiles = fai_mul((rows - 1) / p.rows + 1, a->batch * heads_k);
    const int64_t right = a->causal ? 1 : a->window_right ? a->window_right : a->seqlen_k;
    const int64_t grain = p.fixed ? a->split_keys : 64;
    int64_t keys = a->seqlen_k; /* that a tile sees, at most, from a multiple of grain on */
    if (a->window_left) {
        const int64_t seen = (int64_t)a->window_left + a->seqlen_q + right - 2 + grain;
        if (seen < keys) keys = seen;
    }
    if (p.fixed) {
        p.unit = a->split_keys, p.splits = keys ? (int32_t)((keys - 1) / p.unit + 1) : 1;
        p.combine = p.splits > 1 && tiles > FAI_DECODE_COUNTERS;
        return p;
    }
    const int64_t length = (keys + 63) / 64; /* in tiles of keys */
    double best = INFINITY;
    int64_t count = 1;
    for (int64_t n = 1; n <= 128 && (n == 1 || (n <= length && n * tiles <= 8 * slots)); n++) {
        const double rounds = (double)((n * tiles + slots - 1) / slots);
        const double cost = rounds * (double)((length + n - 1) / n + 4) + 0.22 * (double)(n - 1);
        if (cost < best) best = cost, count = n;
        if (tiles > FAI_DECODE_COUNTERS) break;
    }
    if (count > 1)
        p.unit = (int32_t)((length + count - 1) / count * 64), p.splits = (int32_t)((keys - 1) / p.unit + 1);
    return p;
}

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

/* ---- tensor maps, for sm_90a ------------------------------------------------------------- */

/*  The dimensions of a map: column, head, x, y, z. Row i of a sequence is at x + i of
 *      one of a batch (page)   x = 0, y = its number, z = 0; rows behind the last are zeros, and not written
 *      cu_seqlens              x = FAI_RAGGED - length, y = end of the sequence, z = FAI_RAGGED
 *  The second so that what is cut off lies behind this sequence, whose end the host does not know: x ends at
 *  FAI_RAGGED, and z takes the address back, as FAI_RAGGED (stride of x + stride of z) = 2^64. */
#define FAI_RAGGED (1 << 30)
typedef struct fai_spot {
    int32_t x, y, z;
} fai_spot;

FAI_ATOM fai_spot fai_spot_of(int ragged, int64_t row, int32_t rows, int64_t b) {
    fai_spot r = {0, (int32_t)b, 0};
    if (ragged) r.x = FAI_RAGGED - rows, r.y = (int32_t)row + rows, r.z = FAI_RAGGED;
    return r;
}
FAI_ATOM fai_spot fai_spot_q(const fa_args *a, const fa_sequence *s) {
    return fai_spot_of(a->cu_seqlens_q != NULL, s->row_q, s->len_q, s->b_q);
}
FAI_ATOM fai_spot fai_spot_k(const fa_args *a, const fa_sequence *s) {
    return fai_spot_of(a->cu_seqlens_k != NULL, s->row_k, s->len_k, s->b_k);
}

/* A matrix in shared memory for wgmma, in panels; leading: bytes from a panel to the next, where n is
 * innermost. The lower word goes through a shuffle: ptxas keeps what has come from there in uniform
 * registers, and would else compute descriptors anew in each step. */
FAI_ATOM uint64_t fai_descriptor(uint32_t address, uint32_t leading) {
    const uint32_t low = __shfl_sync(~0u, (address >> 4 & 0x3fff) | leading >> 4 << 16, 0);
    return (uint64_t)(1u << 30 /* 128-byte swizzle */ | 1024 >> 4 /* bytes of 8 rows */) << 32 | low;
}

typedef CUresult (*fai_encode)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *,
                               const cuuint64_t *, const cuuint32_t *, const cuuint32_t *,
                               CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion,
                               CUtensorMapFloatOOBfill);
/* cuTensorMapEncodeTiled of the driver; FA_TENSOR_MAP_ENCODE, if defined, is taken instead. */
static inline fai_encode fai_cuda_encoder(void) {
#if defined(FA_TENSOR_MAP_ENCODE)
    return FA_TENSOR_MAP_ENCODE;
#else
    void *f = NULL;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
    cudaError_t e =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000, cudaEnableDefault, &found);
#else
    cudaError_t e = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &f, cudaEnableDefault, &found);
#endif
    return e == cudaSuccess && found == cudaDriverEntryPointSuccess ? (fai_encode)f : NULL;
#endif
}

/* The map of a tensor of `many` sequences or pages, or ragged; boxes of one panel, box_heads heads, box_rows
 * rows. 0 if there is none, as for heads or rows that share an address. */
static inline int fai_cuda_map(fai_encode encode, CUtensorMap *map, fa_dtype dtype, const void *data,
                               int64_t dim, int64_t heads, int64_t rows, int64_t many, fai_strides st,
                               int ragged, int box_heads, int box_rows) {
    const cuuint64_t most = 0x7fff0000, around = (cuuint64_t)1 << 34; /* FAI_RAGGED around = 2^64 */
    cuuint64_t size[5] = {(cuuint64_t)dim, (cuuint64_t)heads, (cuuint64_t)rows, (cuuint64_t)many, 1};
    const cuuint64_t bytes = fa_sizeof(dtype);
    cuuint64_t stride[4] = {(cuuint64_t)st.h * bytes, (cuuint64_t)st.s * bytes, (cuuint64_t)st.b * bytes, 16};
    const cuuint32_t box[5] = {128 / (cuuint32_t)bytes, (cuuint32_t)box_heads, (cuuint32_t)box_rows, 1, 1},
                     ones[5] = {1, 1, 1, 1, 1};
    if (ragged)
        size[2] = FAI_RAGGED, size[3] = size[4] = most, stride[2] = stride[1], stride[3] = around - stride[1];
    for (int n = 0; n < 4; n++) {
        if (size[n + 1] == 1) stride[n] = 16; /* any */
        if (!stride[n] || stride[n] >= around || size[n + 1] > most) return 0;
    }
    return encode(map,
                  bytes == 1         ? CU_TENSOR_MAP_DATA_TYPE_UINT8
                  : dtype == FA_BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                     : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
                  5, (void *)(uintptr_t)data, size, stride, box, ones, CU_TENSOR_MAP_INTERLEAVE_NONE,
                  CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

/* The map of a transposed V: boxes of 128 keys, all of a head's columns. Columns take the place of heads,
 * heads that of rows. */
static inline int fai_cuda_map_transposed(fai_encode encode, CUtensorMap *map, const fa_args *a, int dim) {
    const fai_strides st = fai_strides_transposed(a, dim), columns = {st.b, st.h, st.s};
    const int64_t stride[3] = {st.b, st.s, st.h}; /* the smallest is what a row has */
    int64_t keys = fa_transposed_columns(a->seqlen_k, 1), least = FAI_RAGGED;
    for (int n = 0; n < 3; n++)
        if (stride[n] && stride[n] < least) least = stride[n];
    if (a->cu_seqlens_k) keys = least;
    return fai_cuda_map(encode, map, FA_E4M3, a->v.data, keys, dim, fai_num_heads_k(a),
                        a->cu_seqlens_k ? 1 : a->batch, columns, 0, dim, 1);
}

static inline int fai_cuda_gcd(int a, int b) {
    while (b) {
        const int c = a % b;
        a = b, b = c;
    }
    return a;
}

/* A launch of kernel: which arch of it this GPU runs. */
static inline fa_status fai_cuda_prepare(const fa_args *args, fa_cuda_launch *launch, const void *kernel) {
    struct cudaFuncAttributes attributes;
    const cudaError_t e = cudaFuncGetAttributes(&attributes, kernel);
    if (e != cudaSuccess) return fai_cuda_status(args, e);
    launch->kernel = kernel, launch->arch = attributes.ptxVersion * 10;
    return FA_OK;
}

/* Lets the kernel have the launch's shared memory. */
static inline fa_status fai_cuda_allow(const fa_args *args, const fa_cuda_launch *launch) {
    const cudaError_t e = cudaFuncSetAttribute(launch->kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                               (int)launch->shared);
    int device = 0, most = 0;
    if (e == cudaSuccess) return FA_OK;
    (void)cudaGetLastError(); /* this call answers for it */
    if (cudaGetDevice(&device) == cudaSuccess &&
        cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) == cudaSuccess &&
        (size_t)most < launch->shared)
        return fai_fail(args, FA_ERR_CUDA_SHARED, "shared memory", -1, (double)launch->shared, 0, most);
    return fai_cuda_status(args, e);
}

/* Blocks of the sm_90a forward kernel take tiles by a counter, the first of a workspace. */
static inline void fai_cuda_count_tiles(fa_cuda_launch *launch, void *workspace) {
    fa_cuda_maps *const m = &launch->maps;
    if (m->total <= m->slots) return; /* each has one */
    m->counter = (uint32_t *)(((uintptr_t)workspace + 15) & ~(uintptr_t)15);
    launch->grid = m->slots;
}

/* Does this binary have a kernel of so many threads for this GPU? */
static inline int fai_cuda_has_kernel(const void *kernel, int threads) {
    struct cudaFuncAttributes attributes;
    if (cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess && attributes.maxThreadsPerBlock >= threads)
        return 1;
    (void)cudaGetLastError();
    return 0;
}

static inline fa_status fai_cuda_start(const fa_args *args, const fa_cuda_launch *launch, void **parameters,
                                       cudaStream_t stream) {
    return fai_cuda_status(args, cudaLaunchKernel(launch->kernel, dim3(launch->grid), dim3(launch->block),
                                                  parameters, launch->shared, stream));
}

#endif /* once */

#if defined(FA_CUDA_COMBINE) && !defined(FAI_CUDA_COMBINE)
#define FAI_CUDA_COMBINE
/* ======================================================================================== */
/* >>combine  fa_combine on the device: results over disjoint keys                           */
/* ======================================================================================== */

#define FAI_COMBINE_PARTS 32 /* of a launch: 2.3 KB of the 4 that its parameters may have */

/* One launch: up to 32 parts, added to those of the launches before. */
typedef struct fai_combine_call {
    int64_t rows; /* batch * heads * queries */
    int32_t num_heads, seqlen_q, head_dim_v, num_parts;
    fa_part part[FAI_COMBINE_PARTS]; /* strides resolved */
    fa_part out;                     /* likewise; o.data NULL: there are more launches,
                                      * lse.data NULL: not wanted */
    float *state; /* (rows, 2 + head_dim_v): max, sum, and O times the sum, of launches before;
                   * NULL: one launch */
    int32_t first;
} fai_combine_call;

/* Row `row` of o, and its lse. */
FAI_ATOM int64_t fai_combine_at(const fai_combine_call *c, const fa_tensor *x, int64_t row) {
    const int64_t i = row % c->seqlen_q, h = row / c->seqlen_q % c->num_heads,
                  b = row / c->seqlen_q / c->num_heads;
    return b * x->stride_b + i * x->stride_s + h * x->stride_h;
}
FAI_ATOM float fai_combine_lse(const fai_combine_call *c, int n, int64_t row) {
    return ((const float *)c->part[n].lse.data)[fai_combine_at(c, &c->part[n].lse, row)];
}
FAI_ATOM float fai_combine_load(const void *data, int64_t at, fa_dtype dtype) {
    return dtype == FA_F32   ? fa_load(data, at, FA_F32)
           : dtype == FA_F16 ? fa_load(data, at, FA_F16)
                             : fa_load(data, at, FA_BF16);
}

/* A warp adds up a row. It reads every part of an element before it writes that, and lse last: in place. */
static __global__ void __launch_bounds__(128)
    fai_combine_kernel(const __grid_constant__ fai_combine_call call) {
    enum { EACH = 4 }; /* elements of a thread at a time */
    const fai_combine_call *const c = &call;
    const int lane = (int)threadIdx.x % 32;
    for (int64_t row = (int64_t)blockIdx.x * 4 + threadIdx.x / 32; row < c->rows; row += gridDim.x * 4LL) {
        float *const state = c->state ? c->state + row * (2 + c->head_dim_v) : NULL;
        float max = -INFINITY, sum = 0, before = 0; /* before: factor of the state */
        if (!c->first) max = state[0], sum = state[1];
        const float old = max;
        for (int n = 0; n < c->num_parts; n++) max = fmaxf(max, fai_combine_lse(c, n, row));
        if (sum != 0) before = expf(old - max), sum *= before; /* or NaN */
        for (int n = 0; n < c->num_parts; n++) {
            const float lse = fai_combine_lse(c, n, row);
            if (lse != -INFINITY) sum += expf(lse - max);
        }
        const float factor = !c->out.o.data ? 1 : sum == 0 ? 0 : 1 / sum; /* no key seen: 0 */
        for (int32_t d = lane; d < c->head_dim_v; d += EACH * 32) {
            float x[EACH];
#pragma unroll
            for (int e = 0; e < EACH; e++)
                x[e] = before != 0 && d + e * 32 < c->head_dim_v ? before * state[2 + d + e * 32] : 0;
            for (int n = 0; n < c->num_parts; n++) {
                const fa_part *const part = &c->part[n];
                const int64_t at = fai_combine_at(c, &part->o, row) + d;
                const float lse = fai_combine_lse(c, n, row), weight = expf(lse - max);
                if (lse == -INFINITY) continue; /* o is not read */
#pragma unroll
                for (int e = 0; e < EACH; e++)
                    if (d + e * 32 < c->head_dim_v)
                        x[e] = fmaf(weight, fai_combine_load(part->o.data, at + e * 32, part->dtype), x[e]);
            }
#pragma unroll
            for (int e = 0; e < EACH; e++) {
                if (d + e * 32 >= c->head_dim_v) continue;
                if (!c->out.o.data) {
                    state[2 + d + e * 32] = x[e];
                } else {
                    const int64_t to = fai_combine_at(c, &c->out.o, row) + d + e * 32;
                    fa_store((void *)c->out.o.data, to, c->out.dtype, x[e] * factor);
                }
            }
        }
        __syncwarp(); /* all lanes have read max, sum and lse, which may be written */
        if (lane == 0 && !c->out.o.data) state[0] = max, state[1] = sum;
        if (lane == 0 && c->out.lse.data)
            ((float *)c->out.lse.data)[fai_combine_at(c, &c->out.lse, row)] =
                sum == 0 ? -INFINITY : max + logf(sum);
    }
}

/* Strides as numbers. */
static inline fa_part fai_combine_resolve(const fa_combine_args *a, const void *o, int64_t ob, int64_t os,
                                          int64_t oh, const void *lse, int64_t lb, int64_t ls, int64_t lh,
                                          fa_dtype dtype) {
    const fai_strides so = fai_resolve(ob, os, oh, a->seqlen_q, a->num_heads, a->head_dim_v);
    const fai_strides sl = fai_resolve(lb, lh, ls, a->num_heads, a->seqlen_q, 1); /* (batch, head, seq) */
    const fa_part r = {{o, so.b, so.s, so.h}, {lse, sl.b, sl.h, sl.s}, dtype ? dtype : FA_F32};
    return r;
}

/* Bytes of device memory that the call needs: none for up to 32 parts. */
static inline size_t fa_combine_cuda_workspace(const fa_combine_args *args) {
    if (fa_combine_check(args) != FA_OK || args->num_parts <= FAI_COMBINE_PARTS) return 0;
    return (size_t)args->batch * (size_t)args->num_heads * (size_t)args->seqlen_q *
           (size_t)(2 + args->head_dim_v) * 4;
}

/* fa_combine of results in device memory, on the stream: one launch for every 32 parts, whose array is in
 * host memory and may change when the call is back. Nothing is launched unless all is well. workspace: a
 * multiple of 4. */
static inline fa_status fa_combine_cuda(const fa_combine_args *args, void *workspace, size_t bytes,
                                        cudaStream_t stream) {
    fai_combine_call call;
    fa_args errors;
    fa_status status = fa_combine_check(args);
    if (status != FA_OK) return status;
    memset(&errors, 0, sizeof errors), errors.error = args->error;
    status = fai_cuda_check_pointer(&errors, args->o.data, "o.data");
    if (status == FA_OK) status = fai_cuda_check_pointer(&errors, args->lse.data, "lse.data");
    for (int32_t n = 0; n < args->num_parts && status == FA_OK; n++) {
        status = fai_cuda_check_pointer(&errors, args->parts[n].o.data, "o.data");
        if (status == FA_OK) status = fai_cuda_check_pointer(&errors, args->parts[n].lse.data, "lse.data");
        if (status != FA_OK && args->error) args->error->index = n;
    }
    if (status == FA_OK)
        status = fai_cuda_check_workspace(&errors, workspace, bytes, fa_combine_cuda_workspace(args));
    if (status != FA_OK) return status;
    const fa_part out = fai_combine_resolve(args, args->o.data, args->o.stride_b, args->o.stride_s,
                                            args->o.stride_h, args->lse.data, args->lse.stride_b,
                                            args->lse.stride_s, args->lse.stride_h, args->o_dtype);
    call.rows = (int64_t)args->batch * args->num_heads * args->seqlen_q;
    call.num_heads = args->num_heads, call.seqlen_q = args->seqlen_q, call.head_dim_v = args->head_dim_v;
    call.state = args->num_parts > FAI_COMBINE_PARTS ? (float *)workspace : NULL;
    const int64_t blocks = (call.rows + 3) / 4;
    fa_cuda_launch launch = {(const void *)fai_combine_kernel, 0, 128, 0, 0};
    launch.grid = (unsigned)(blocks < INT32_MAX ? blocks : INT32_MAX);
    for (int64_t n = 0; n < args->num_parts && status == FA_OK; n += call.num_parts) {
        const int64_t rest = args->num_parts - n;
        const int last = rest <= FAI_COMBINE_PARTS;
        void *parameters[1] = {&call};
        call.first = n == 0, call.num_parts = last ? (int32_t)rest : FAI_COMBINE_PARTS;
        memset(&call.out, 0, sizeof call.out);
        if (last) call.out = out;
        for (int32_t i = 0; i < call.num_parts; i++) {
            const fa_tensor o = args->parts[n + i].o, lse = args->parts[n + i].lse;
            call.part[i] =
                fai_combine_resolve(args, o.data, o.stride_b, o.stride_s, o.stride_h, lse.data, lse.stride_b,
                                    lse.stride_s, lse.stride_h, args->parts[n + i].dtype);
        }
        status = fai_cuda_start(&errors, &launch, parameters, stream);
    }
    return status;
}
#endif /* FA_CUDA_COMBINE */

#if defined(FA_CUDA_CACHE) && !defined(FAI_CUDA_CACHE)
#define FAI_CUDA_CACHE

/* ======================================================================================== */
/* >>cache    fa_append, fa_compact, fa_rotary and fa_quantize on the device                 */
/* ======================================================================================== */

/* What the calls do is said in flashattn.h; a NaN may become another one here, if its row is not only
 * copied. All are bound by memory. A row of a head belongs to `lanes` threads of one warp, a power of two,
 * with 8 elements (a chunk) each: a group. Its absmax is then a few shuffles away. Groups take rows in
 * steps of the whole grid, so the grid does not depend on lengths, which only the device knows. */
enum { FAI_CACHE_THREADS = 128 };
/* 4 blocks an SM where it is said: ptxas else takes 64 or 72 registers, and spills for more of them. */

/* Rows in memory. wide: chunks are read and written with 16 bytes at once (fp8, int8: 8), else one by one. */
typedef struct fai_rows {
    char *data;
    fai_strides st; /* in elements */
    fa_dtype dtype;
    int32_t size, dim, wide; /* size: of an element */
} fai_rows;

/* The thread's place: lane of its group, the first element of its chunk. */
typedef struct fai_lane {
    int lanes, lane, first;
    uint32_t group, groups;
} fai_lane;
FAI_ATOM fai_lane fai_get_lane(int lanes) {
    const uint32_t n = (uint32_t)lanes, lane = threadIdx.x % n;
    const fai_lane l = {lanes, (int)lane, (int)lane * 8, threadIdx.x / n, FAI_CACHE_THREADS / n};
    return l;
}

/* ---- chunks: 8 elements, as they lie in memory (w) and as floats (x); 0 behind the end of the row ---- */

/* The other element of d's pair, if the pairs are (i, i + half); d itself if it is in none, or half is 0. */
FAI_ATOM int fai_other(int d, int half) { return d < half ? d + half : d < 2 * half ? d - half : d; }

FAI_ATOM void fai_load_chunk(uint32_t w[8], const char *row, int size, int first, int dim, int wide,
                             int half) {
#pragma unroll
    for (int e = 0; e < 8; e++) w[e] = 0;
    if (wide && first < dim) {
        const char *from = row + fai_other(first, half) * size;
        if (size == 1) {
            const uint2 x = *(const uint2 *)(const void *)from;
            w[0] = x.x, w[1] = x.y;
            return;
        }
        const uint4 x = *(const uint4 *)(const void *)from;
        w[0] = x.x, w[1] = x.y, w[2] = x.z, w[3] = x.w;
        if (size == 2) return;
        const uint4 y = ((const uint4 *)(const void *)from)[1];
        w[4] = y.x, w[5] = y.y, w[6] = y.z, w[7] = y.w;
        return;
    }
#pragma unroll
    for (int e = 0; e < 8; e++) {
        if (first + e >= dim) continue;
        const int d = fai_other(first + e, half);
        if (size == 4)
            w[e] = ((const uint32_t *)(const void *)row)[d];
        else if (size == 2)
            w[e / 2] |= (uint32_t)((const uint16_t *)(const void *)row)[d] << e % 2 * 16;
        else
            w[e / 4] |= (uint32_t)((const uint8_t *)(const void *)row)[d] << e % 4 * 8;
    }
}
FAI_ATOM void fai_store_chunk(char *row, const uint32_t w[8], int size, int first, int dim, int wide) {
    if (wide && first < dim) {
        char *to = row + first * size;
        if (size == 1)
            *(uint2 *)(void *)to = make_uint2(w[0], w[1]);
        else
            *(uint4 *)(void *)to = make_uint4(w[0], w[1], w[2], w[3]);
        if (size == 4) ((uint4 *)(void *)to)[1] = make_uint4(w[4], w[5], w[6], w[7]);
        return;
    }
#pragma unroll
    for (int e = 0; e < 8; e++) {
        if (first + e >= dim) continue;
        if (size == 4)
            ((uint32_t *)(void *)row)[first + e] = w[e];
        else if (size == 2)
            ((uint16_t *)(void *)row)[first + e] = (uint16_t)(w[e / 2] >> e % 2 * 16);
        else
            ((uint8_t *)(void *)row)[first + e] = (uint8_t)(w[e / 4] >> e % 4 * 8);
    }
}

FAI_ATOM void fai_decode_chunk(float x[8], const uint32_t w[8], fa_dtype dtype) {
    switch (dtype) {
    case FA_F32:
#pragma unroll
        for (int e = 0; e < 8; e++) x[e] = fai_float_of(w[e]);
        break;
    case FA_F16:
#pragma unroll
        for (int e = 0; e < 8; e++) x[e] = fai_cvt_f32_f16((uint16_t)(w[e / 2] >> e % 2 * 16));
        break;
    case FA_BF16:
#pragma unroll
        for (int e = 0; e < 8; e++) x[e] = fa_bf16_to_f32((uint16_t)(w[e / 2] >> e % 2 * 16));
        break;
    case FA_E4M3:
#pragma unroll
        for (int e = 0; e < 8; e++) x[e] = fa_e4m3_to_f32((uint8_t)(w[e / 4] >> e % 4 * 8));
        break;
    case FA_E5M2:
#pragma unroll
        for (int e = 0; e < 8; e++) x[e] = fai_cvt_f32_f16((uint16_t)(w[e / 4] >> e % 4 * 8 << 8));
        break;
    default:
#pragma unroll
        for (int e = 0; e < 8; e++) x[e] = (float)(int8_t)(w[e / 4] >> e % 4 * 8);
    }
}
FAI_ATOM void fai_encode_chunk(uint32_t w[8], const float x[8], fa_dtype dtype) {
    switch (dtype) {
    case FA_F32:
#pragma unroll
        for (int e = 0; e < 8; e++) w[e] = fai_bits_of(x[e]);
        break;
    case FA_F16:
#pragma unroll
        for (int e = 0; e < 8; e += 2) w[e / 2] = fai_cvt_rn_f16x2_f32(x[e + 1], x[e]);
        break;
    case FA_BF16:
#pragma unroll
        for (int e = 0; e < 8; e += 2) w[e / 2] = fai_cvt_rn_bf16x2_f32(x[e + 1], x[e]);
        break;
    case FA_E4M3:
#pragma unroll
        for (int e = 0; e < 8; e += 4)
            w[e / 4] = fai_cvt_rn_satfinite_e4m3x2_f32(x[e + 1], x[e]) |
                       fai_cvt_rn_satfinite_e4m3x2_f32(x[e + 3], x[e + 2]) << 16;
        break;
    case FA_E5M2:
#pragma unroll
        for (int e = 0; e < 8; e += 4)
            w[e / 4] = fai_cvt_rn_satfinite_e5m2x2_f32(x[e + 1], x[e]) |
                       fai_cvt_rn_satfinite_e5m2x2_f32(x[e + 3], x[e + 2]) << 16;
        break;
    default: w[0] = w[1] = 0;
#pragma unroll
        for (int e = 0; e < 8; e++) w[e / 4] |= (uint32_t)(fai_f32_to_i8(x[e]) & 0xff) << e % 4 * 8;
    }
}

/* ---- factors: not negative, so they are ordered like their bits ---- */

/* The factor that the row of the group needs. All threads of the warp must be here. */
FAI_ATOM float fai_need(const float x[8], fa_dtype dtype, int lanes) {
    float most = 0;
#pragma unroll
    for (int e = 0; e < 8; e++) most = fai_max_abs_f32(most, x[e]); /* NaN does not count */
    for (int mask = 1; mask < lanes; mask *= 2)
        most = fai_max_abs_f32(most, fai_shfl_sync_bfly_f32(most, mask));
    if (fai_bits_of(most) == 0x7f800000u) most = fai_float_of(0x7f7fffffu); /* infinity counts as FLT_MAX */
    return fai_div_rn_f32(most, dtype == FA_I8 ? 127.0f : dtype == FA_E4M3 ? 448.0f : 57344.0f);
}

/* w = codes of x / factor, of 8 bits; factor 0 is that of zeros. The quotient lies between x r (1 - e) and
 * x r (1 + e), r about 1 / factor; rounding keeps the order: where both have the same code, it is that of
 * the quotient. One chunk in some thousands must be divided. */
FAI_ATOM void fai_quantize_chunk(uint32_t w[8], const float x[8], float factor, fa_dtype dtype) {
    const float r = fai_rcp_approx_ftz_f32(factor), below = r * (1 - 0x1p-21f), above = r * (1 + 0x1p-21f);
    const uint32_t bits = fai_bits_of(factor);
    float y[8];
    uint32_t other[8];
    w[0] = w[1] = 0;
    if ((int32_t)bits <= 0) return; /* whatever x is */
#pragma unroll
    for (int e = 0; e < 8; e++) y[e] = x[e] * below;
    fai_encode_chunk(w, y, dtype);
#pragma unroll
    for (int e = 0; e < 8; e++) y[e] = x[e] * above;
    fai_encode_chunk(other, y, dtype);
    /* 2^-100 .. 2^100: r has all its bits, and products that are too small for them have code 0 */
    if (w[0] == other[0] && w[1] == other[1] && bits >= 0x0d800000u && bits < 0x71800000u) return;
#pragma unroll 1
    for (int n = 0; n < 8; n++) { /* one division in the code, not eight: each takes registers */
        float quotient = x[0];
#pragma unroll
        for (int e = 1; e < 8; e++) quotient = e == n ? x[e] : quotient;
        quotient = fai_div_rn_f32(quotient, factor);
#pragma unroll
        for (int e = 0; e < 8; e++) y[e] = e == n ? quotient : y[e];
    }
    fai_encode_chunk(w, y, dtype);
}

/* x = values of the codes of x / factor */
FAI_ATOM void fai_round_chunk(float x[8], float factor, fa_dtype dtype) {
    uint32_t w[8];
    fai_quantize_chunk(w, x, factor, dtype);
    fai_decode_chunk(x, w, dtype);
}

/* ---- rotation ---- */

/* cos and sin of the chunk's elements, sin with the sign with which the other element of the pair is added */
FAI_ATOM void fai_load_angles(double c[8], double s[8], const fa_rope *r, int64_t position, int first,
                              int wide) {
    const int half = r->dim / 2, i0 = first < half ? first : first - half;
    if (position < 0 || position >= r->count) position = 0; /* lists are not checked on the host */
    const float *cos_row = r->cos + position * half, *sin_row = r->sin + position * half;
    uint32_t wc[8], ws[8];
    if (wide && !r->interleaved) {
        fai_load_chunk(wc, (const char *)cos_row, 4, i0, half, 1, 0);
        fai_load_chunk(ws, (const char *)sin_row, 4, i0, half, 1, 0);
    } else {
#pragma unroll
        for (int e = 0; e < 8; e++) {
            const int d = first + e, i = r->interleaved ? d / 2 : d < half ? d : d - half;
            wc[e] = d < r->dim ? fai_bits_of(cos_row[i]) : 0,
            ws[e] = d < r->dim ? fai_bits_of(sin_row[i]) : 0;
        }
    }
#pragma unroll
    for (int e = 0; e < 8; e++) {
        const uint32_t minus = (r->interleaved ? e % 2 == 0 : first + e < half) ? 0x80000000u : 0;
        c[e] = fai_cvt_f64_f32(fai_float_of(wc[e])), s[e] = fai_cvt_f64_f32(fai_float_of(ws[e] ^ minus));
    }
}

/* x: the chunk of a row that lies at `row`, whose other elements are read from there. Products are exact in
 * double: one rounding, fused or not. */
FAI_ATOM void fai_rotate_chunk(float x[8], const fai_rows *in, const char *row, const fa_rope *r,
                               const double c[8], const double s[8], int first, int wide) {
    float y[8];
    if (first >= r->dim) return;
    if (r->interleaved) {
#pragma unroll
        for (int e = 0; e < 8; e++) y[e] = x[e ^ 1];
    } else {
        uint32_t w[8];
        fai_load_chunk(w, row, in->size, first, in->dim, in->wide && wide, r->dim / 2);
        fai_decode_chunk(y, w, in->dtype);
    }
#pragma unroll
    for (int e = 0; e < 8; e++)
        if (first + e < r->dim)
            x[e] = fai_cvt_rn_f32_f64(fai_cvt_f64_f32(x[e]) * c[e] + fai_cvt_f64_f32(y[e]) * s[e]);
}

/* x = H x / sqrt(dim), signs changed before where bit e of signs is set. All threads of the warp must be
 * here. */
FAI_ATOM void fai_hadamard_chunk(float x[8], int dim, uint32_t signs, int first) {
#pragma unroll
    for (int e = 0; e < 8; e++) x[e] = fai_float_of(fai_bits_of(x[e]) ^ (signs << (31 - e) & 0x80000000u));
#pragma unroll
    for (int step = 1; step < 8; step *= 2) {
        if (step >= dim) continue;
#pragma unroll
        for (int e = 0; e < 8; e++) {
            if (e & step) continue;
            const float a = x[e], b = x[e ^ step];
            x[e] = fai_add_rn_f32(a, b), x[e ^ step] = fai_add_rn_f32(a, -b);
        }
    }
    for (int step = 8; step < dim; step *= 2) {
        const uint32_t minus = first & step ? 0x80000000u : 0;
#pragma unroll
        for (int e = 0; e < 8; e++) {
            const float y = fai_shfl_sync_bfly_f32(x[e], step / 8);
            x[e] = fai_add_rn_f32(y, fai_float_of(fai_bits_of(x[e]) ^ minus));
        }
    }
    const float scale = fai_hadamard_scale(dim);
#pragma unroll
    for (int e = 0; e < 8; e++) x[e] = fai_mul_rn_f32(x[e], scale);
}

FAI_ATOM uint32_t fai_hadamard_signs(uint64_t seed, int first) {
    uint32_t bits[4], signs = 0;
    fai_hadamard_bits(seed, first, bits);
#pragma unroll
    for (int e = 0; e < 8; e++) signs |= fai_hadamard_sign(bits, first + e) >> (31 - e);
    return signs;
}

/* ---- rows and their places; counts fit in 31 bits, and a division of 64 costs a call ---- */

FAI_ATOM uint32_t fai_count_rows(const fa_args *a) {
    return a->cu_seqlens_q ? (uint32_t)(a->cu_seqlens_q[a->batch] - a->cu_seqlens_q[0])
                           : (uint32_t)a->batch * (uint32_t)a->seqlen_q;
}

/* Sequence and number in it of a row; 0 if it is not in use. */
FAI_ATOM int fai_find_row(const fa_args *a, uint32_t row, fa_sequence *seq, int32_t *i) {
    int32_t b = 0;
    if (a->cu_seqlens_q) {
        row += (uint32_t)a->cu_seqlens_q[0];
        for (int32_t last = a->batch - 1; b < last;) { /* the last that begins before or at the row */
            const int32_t middle = b + (last - b + 1) / 2;
            if (a->cu_seqlens_q[middle] <= (int32_t)row)
                b = middle;
            else
                last = middle - 1;
        }
        *i = (int32_t)row - a->cu_seqlens_q[b];
    } else
        b = (int32_t)(row / (uint32_t)a->seqlen_q), *i = (int32_t)(row % (uint32_t)a->seqlen_q);
    *seq = fa_get_sequence(a, b);
    return *i < seq->len_q;
}

/* fai_get_place; 0 if there is no such row, or its page is none: what lists hold is not checked on the
 * host. */
FAI_ATOM int fai_find_place(const fai_cache_side *s, int32_t b, int64_t row, fai_place *p) {
    const fa_args *a = s->a;
    const fa_descale *d = s->descale;
    const uint32_t j = (uint32_t)row;
    uint32_t n = (uint32_t)b, in_page = j;
    if (row < 0 || row >= a->seqlen_k) return 0;
    if (a->block_table) {
        const uint32_t size = (uint32_t)a->page_size, slot = j / size;
        n = (uint32_t)a->block_table[b * fai_table_stride(a) + slot], in_page = j - slot * size;
        if (n >= (uint32_t)a->num_pages) return 0;
    }
    p->b = b, p->j = row, p->factor = NULL;
    p->row = s->data + (n * s->st.b + in_page * s->st.s) * (int64_t)fa_sizeof(s->dtype);
    if (!d->data) return 1;
    p->factor = s->factors + (d->paged ? n : (uint32_t)b) * d->stride_b;
    if (d->block) p->factor += (d->paged ? in_page : j) / (uint32_t)d->block * d->stride_block;
    return 1;
}

/* x becomes a row, which has a factor of its own (block 1), a given one (block 0), or none (factor NULL).
 * live: is there such a row? All threads of the warp must be here. */
FAI_ATOM void fai_store_row(const fai_rows *o, char *row, float *factor, int block, float x[8], fai_lane l,
                            int live) {
    uint32_t w[8];
    if (block) {
        const float need = fai_need(x, o->dtype, l.lanes);
        if (live && l.lane == 0) *factor = need;
        fai_quantize_chunk(w, x, need, o->dtype);
    } else if (live && factor)
        fai_quantize_chunk(w, x, *factor, o->dtype);
    else
        fai_encode_chunk(w, x, o->dtype);
    if (live) fai_store_chunk(row, w, o->size, l.first, o->dim, o->wide);
}

/* ---- append ---- */

/* The cache is K and V of a, the new rows are its Q. */
typedef struct fai_cache_task {
    fa_args a;
    fa_cache cache;
    const int32_t *positions, *accepted, *num_accepted;
    int32_t max_accepted;
    fa_rope rope;
    fai_rows in[2];               /* new rows of K and V */
    int32_t wide[2];              /* of the cache */
    int32_t first_side;           /* of the grid's y: 0 for K, 1 for V */
    int32_t lanes, parts, rounds; /* a group takes heads part, part + parts ..: as many as there are rounds */
    uint32_t blocks;              /* of factors that a sequence's new rows may lie in */
    int32_t rope_wide;
} fai_cache_task;

/* Side v of the cache, and its rows. */
FAI_ATOM fai_rows fai_cache_rows(const fai_cache_task *t, const fai_cache_side *s, int v) {
    const fai_rows r = {s->data, s->st, s->dtype, (int32_t)fa_sizeof(s->dtype), s->dim, t->wide[v]};
    return r;
}
FAI_ATOM int64_t fai_task_position(const fai_cache_task *t, int32_t b) {
    return t->positions ? t->positions[b] : 0;
}

/* Blocks of factors of one row, or given factors, or none. */
static __global__ void __launch_bounds__(FAI_CACHE_THREADS)
    fai_append_kernel(const __grid_constant__ fai_cache_task t) {
    const int v = t.first_side + (int)blockIdx.y, heads = t.cache.num_heads_k;
    const fai_lane l = fai_get_lane(t.lanes);
    const fai_cache_side side = fai_get_side(&t.a, &t.cache, v);
    const fai_rows in = t.in[v], out = fai_cache_rows(&t, &side, v);
    const int rotate = v == 0 && fai_rotates(&t.rope), copy = !rotate && in.dtype == out.dtype;
    const uint32_t items = fai_count_rows(&t.a) * (uint32_t)t.parts, parts = (uint32_t)t.parts;
    const int64_t size = in.size;
    const int64_t from_step = t.parts * in.st.h * size, to_step = t.parts * side.step,
                  factor_step = t.parts * side.factor_step;
    double c[8], s[8];
    for (uint32_t item0 = blockIdx.x * l.groups; item0 < items; item0 += gridDim.x * l.groups) {
        const uint32_t item = item0 + l.group;
        fa_sequence seq = {0, 0, 0, 0, 0, 0, 0};
        fai_place place = {0, 0, NULL, NULL};
        int32_t i = 0;
        int64_t at = 0;
        int in_use = item < items && fai_find_row(&t.a, item / parts, &seq, &i);
        if (in_use) at = fai_task_position(&t, seq.b), in_use = fai_find_place(&side, seq.b, at + i, &place);
        if (in_use && rotate)
            fai_load_angles(c, s, &t.rope, fai_rope_position(&t.a, &t.rope, &seq, at, i), l.first,
                            t.rope_wide);
        int h = (int)(item % parts);
        const char *from = in.data + fai_offset_q(&seq, in.st, i, h) * size;
        char *to = place.row + h * side.step;
        float *factor = place.factor ? place.factor + h * side.factor_step : NULL;
        for (int round = 0; round < t.rounds;
             round++, h += t.parts, from += from_step, to += to_step, factor += factor ? factor_step : 0) {
            const int live = in_use && h < heads;
            float x[8] = {0, 0, 0, 0, 0, 0, 0, 0};
            if (live) {
                uint32_t w[8];
                fai_load_chunk(w, from, in.size, l.first, in.dim, in.wide, 0);
                if (copy) {
                    fai_store_chunk(to, w, out.size, l.first, out.dim, out.wide);
                    continue;
                }
                fai_decode_chunk(x, w, in.dtype);
                if (rotate) fai_rotate_chunk(x, &in, from, &t.rope, c, s, l.first, t.rope_wide);
            }
            if (copy) continue;
            fai_store_row(&out, to, factor, side.descale->data && side.descale->block, x, l, live);
        }
    }
}

/* ---- factors of several rows ---- */

/* Rows of a sequence from the start of a block of factors to its end. */
typedef struct fai_block {
    int64_t start, end;
} fai_block;
/* Block n of those that rows from j on lie in. */
FAI_ATOM fai_block fai_get_block(const fai_cache_side *s, uint32_t j, uint32_t n) {
    const uint32_t rows = (uint32_t)s->descale->block;
    const uint32_t page = (uint32_t)(s->descale->paged ? s->a->page_size : s->a->seqlen_k);
    const uint32_t blocks = (page - 1) / rows + 1; /* blocks begin anew with each page */
    const uint32_t number = j / page * blocks + j % page / rows + n, in_page = number % blocks * rows;
    const int64_t first = (int64_t)(number / blocks) * page;
    const fai_block k = {first + in_page, first + (rows < page - in_page ? in_page + rows : page)};
    return k;
}

/* The factor of a block after a row that needs `need`, the first of the block or not. */
FAI_ATOM float fai_grow(float factor, float need, int fresh) {
    return fresh || fai_bits_of(need) > fai_bits_of(factor) ? need : factor;
}

/* Rows j .. j + count - 1 of head h, all in block k, become x: each group has one of them. The codes are
 * those of rows put one after the other: each is rounded to the factor that it finds, then again whenever
 * that grows. `needs`: a float for each group, shared. All threads of the thread block must be here. */
FAI_ATOM void fai_put_rows(const fai_cache_side *s, const fai_rows *out, float *needs, int32_t b, int64_t h,
                           fai_block k, int64_t j, uint32_t count, float x[8], fai_lane l) {
    fai_place first, own;
    uint32_t w[8];
    const float need = fai_need(x, s->dtype, l.lanes);
    if (!fai_find_place(s, b, j, &first)) return; /* for all threads, or for none */
    float *factor = first.factor + h * s->factor_step;
    const float old = *factor;
    float now = old;
    if (l.lane == 0) needs[l.group] = need;
    __syncthreads(); /* all needs are there, and everybody has read the factor: it may be written */
    for (uint32_t r = 0; r < count; r++) {
        const float before = now;
        now = fai_grow(now, needs[r], j + r == k.start);
        if (r == l.group) fai_round_chunk(x, now, s->dtype);
        if (r <= l.group || fai_bits_of(now) == fai_bits_of(before)) continue;
#pragma unroll
        for (int e = 0; e < 8; e++) x[e] = fai_mul_rn_f32(x[e], before);
        fai_round_chunk(x, now, s->dtype);
    }
    if (l.group < count && fai_find_place(s, b, j + l.group, &own)) {
        fai_encode_chunk(w, x, s->dtype);
        fai_store_chunk(own.row + h * s->step, w, out->size, l.first, out->dim, out->wide);
    }
    if (threadIdx.x == 0) *factor = now;
    if (fai_bits_of(now) != fai_bits_of(old)) /* the rows before them in the block, if any */
        for (int64_t row = k.start + l.group; row < j; row += l.groups) {
            if (!fai_find_place(s, b, row, &own)) continue;
            fai_load_chunk(w, own.row + h * s->step, out->size, l.first, out->dim, out->wide, 0);
            fai_decode_chunk(x, w, s->dtype);
            now = old;
            for (uint32_t r = 0; r < count; r++) {
                const float before = now;
                now = fai_grow(now, needs[r], 0);
                if (fai_bits_of(now) == fai_bits_of(before)) continue;
#pragma unroll
                for (int e = 0; e < 8; e++) x[e] = fai_mul_rn_f32(x[e], before);
                fai_round_chunk(x, now, s->dtype);
            }
            fai_encode_chunk(w, x, s->dtype);
            fai_store_chunk(own.row + h * s->step, w, out->size, l.first, out->dim, out->wide);
        }
    __syncthreads(); /* rows and factor are written: they may be read again; nobody reads needs any more */
}

/* Blocks of several rows: a thread block for each block of factors of a head. */
static __global__ void __launch_bounds__(FAI_CACHE_THREADS)
    fai_append_blocks_kernel(const __grid_constant__ fai_cache_task t) {
    __shared__ float needs[FAI_CACHE_THREADS];
    const int v = t.first_side + (int)blockIdx.y;
    const uint32_t heads = (uint32_t)t.cache.num_heads_k;
    const fai_lane l = fai_get_lane(t.lanes);
    const fai_cache_side side = fai_get_side(&t.a, &t.cache, v);
    const fai_rows in = t.in[v], out = fai_cache_rows(&t, &side, v);
    const int rotate = v == 0 && fai_rotates(&t.rope);
    const uint32_t items = (uint32_t)t.a.batch * t.blocks * heads;
    const int64_t size = in.size;
    double c[8], s[8];
    for (uint32_t item = blockIdx.x; item < items; item += gridDim.x) {
        const int32_t h = (int32_t)(item % heads);
        const fa_sequence seq = fa_get_sequence(&t.a, (int32_t)(item / heads / t.blocks));
        const int64_t at = fai_task_position(&t, seq.b), end = at + seq.len_q;
        if (at < 0 || end > t.cache.seqlen_k) continue;
        const fai_block k = fai_get_block(&side, (uint32_t)at, item / heads % t.blocks);
        const int64_t last = end < k.end ? end : k.end;
        for (int64_t j = at > k.start ? at : k.start; j < last; j += l.groups) {
            const uint32_t count = last - j < l.groups ? (uint32_t)(last - j) : l.groups;
            const int64_t i = j - at + l.group;
            float x[8] = {0, 0, 0, 0, 0, 0, 0, 0};
            if (l.group < count) {
                const char *from = in.data + fai_offset_q(&seq, in.st, i, h) * size;
                uint32_t w[8];
                fai_load_chunk(w, from, in.size, l.first, in.dim, in.wide, 0);
                fai_decode_chunk(x, w, in.dtype);
                if (rotate) {
                    const int64_t position = fai_rope_position(&t.a, &t.rope, &seq, at, i);
                    fai_load_angles(c, s, &t.rope, position, l.first, t.rope_wide);
                    fai_rotate_chunk(x, &in, from, &t.rope, c, s, l.first, t.rope_wide);
                }
            }
            fai_put_rows(&side, &out, needs, seq.b, h, k, j, count, x, l);
        }
    }
}

/* ---- compaction ---- */

/* What moves row n of a draft: nothing, a copy (its factor stays, or comes along), or a new rounding. */
enum { FAI_MOVE_NONE, FAI_MOVE_COPY, FAI_MOVE_ROUND };
FAI_ATOM int fai_get_move(const fai_cache_side *s, int32_t b, int64_t at, int64_t from, int64_t to,
                          fai_place *source, fai_place *target) {
    if (from == to || !fai_find_place(s, b, at + from, source) || !fai_find_place(s, b, at + to, target))
        return FAI_MOVE_NONE;
    return source->factor == target->factor || s->descale->block == 1 ? FAI_MOVE_COPY : FAI_MOVE_ROUND;
}

/* A thread block moves the rows of one head, a row for each group at a time. The rows accepted rise, so a
 * row's new place is never behind it: what a step writes lies before all that later steps read, and within
 * a step all are read before any is written. */
static __global__ void __launch_bounds__(FAI_CACHE_THREADS)
    fai_compact_kernel(const __grid_constant__ fai_cache_task t) {
    __shared__ float needs[FAI_CACHE_THREADS];
    const int v = t.first_side + (int)blockIdx.y;
    const uint32_t heads = (uint32_t)t.cache.num_heads_k;
    const fai_lane l = fai_get_lane(t.lanes);
    const fai_cache_side side = fai_get_side(&t.a, &t.cache, v);
    const fai_rows rows = fai_cache_rows(&t, &side, v);
    const int block = side.descale->data ? side.descale->block : 0, mixed = side.descale->data && block != 1;
    for (uint32_t item = blockIdx.x; item < (uint32_t)t.a.batch * heads; item += gridDim.x) {
        const int32_t b = (int32_t)(item / heads), h = (int32_t)(item % heads);
        const int32_t *accepted = t.accepted + (int64_t)b * t.max_accepted;
        const int64_t at = fai_task_position(&t, b);
        const int32_t given = t.num_accepted ? t.num_accepted[b] : t.max_accepted;
        const uint32_t num =
            given > t.max_accepted ? (uint32_t)t.max_accepted : given > 0 ? (uint32_t)given : 0;
        for (uint32_t n = 0, count; n < num; n += count) {
            fai_place source = {0, 0, NULL, NULL}, target = {0, 0, NULL, NULL};
            fai_block k = {0, 0};
            int move = FAI_MOVE_NONE;
            count = num - n < l.groups ? num - n : l.groups;
            /* rows that are moved in the same way, and into the same block of factors */
            for (uint32_t r = 0; mixed && r < count; r++) {
                const int next = fai_get_move(&side, b, at, accepted[n + r], n + r, &source, &target);
                if (r == 0) move = next;
                if (r == 0 && block && move == FAI_MOVE_ROUND) k = fai_get_block(&side, (uint32_t)at + n, 0);
                if (next != move || (move == FAI_MOVE_ROUND && block && at + n + r >= k.end)) count = r;
            }
            const int own = l.group < count ? fai_get_move(&side, b, at, accepted[n + l.group], n + l.group,
                                                           &source, &target)
                                            : FAI_MOVE_NONE;
            uint32_t w[8];
            float x[8] = {0, 0, 0, 0, 0, 0, 0, 0}, factor = 1;
            if (own) {
                fai_load_chunk(w, source.row + h * side.step, rows.size, l.first, rows.dim, rows.wide, 0);
                if (source.factor) factor = source.factor[h * side.factor_step];
            }
            __syncthreads(); /* the rows of this step are read: they may be overwritten */
            if (own == FAI_MOVE_COPY) {
                fai_store_chunk(target.row + h * side.step, w, rows.size, l.first, rows.dim, rows.wide);
                if (block == 1 && l.lane == 0) target.factor[h * side.factor_step] = factor;
            }
            if (move != FAI_MOVE_ROUND) continue;
            if (own) {
                fai_decode_chunk(x, w, side.dtype);
#pragma unroll
                for (int e = 0; e < 8; e++) x[e] = fai_mul_rn_f32(x[e], factor);
            }
            if (block)
                fai_put_rows(&side, &rows, needs, b, h, k, at + n, count, x, l);
            else
                fai_store_row(&rows, target.row + h * side.step,
                              own ? target.factor + h * side.factor_step : NULL, 0, x, l, own != 0);
        }
    }
}

/* ---- rotation, quantisation ---- */

typedef struct fai_rows_task {
    fa_args a; /* q_descale: the factors */
    fai_rows q, o;
    fa_rope rope;
    float *factors;
    uint64_t seed;
    int32_t hadamard, lanes, parts, rounds, rope_wide;
    int32_t measure; /* quantise: only the factors */
} fai_rows_task;

/* A group may write over the row that it reads. */
static __global__ void __launch_bounds__(FAI_CACHE_THREADS)
    fai_rotary_kernel(const __grid_constant__ fai_rows_task t) {
    const fai_lane l = fai_get_lane(t.lanes);
    const uint32_t items = fai_count_rows(&t.a) * (uint32_t)t.parts, parts = (uint32_t)t.parts;
    const int64_t size = t.q.size;
    const int64_t from_step = t.parts * t.q.st.h * size, to_step = t.parts * t.o.st.h * size;
    double c[8], s[8];
    for (uint32_t item0 = blockIdx.x * l.groups; item0 < items; item0 += gridDim.x * l.groups) {
        const uint32_t item = item0 + l.group;
        fa_sequence seq = {0, 0, 0, 0, 0, 0, 0};
        int32_t i = 0;
        const int in_use = item < items && fai_find_row(&t.a, item / parts, &seq, &i);
        if (in_use)
            fai_load_angles(c, s, &t.rope, fai_rope_position(&t.a, &t.rope, &seq, 0, i), l.first,
                            t.rope_wide);
        int h = (int)(item % parts);
        const char *from = t.q.data + fai_offset_q(&seq, t.q.st, i, h) * size;
        char *to = t.o.data + fai_offset_q(&seq, t.o.st, i, h) * size;
        for (int round = 0; round < t.rounds; round++, h += t.parts, from += from_step, to += to_step) {
            const int live = in_use && h < t.a.num_heads;
            float x[8] = {0, 0, 0, 0, 0, 0, 0, 0};
            if (live) {
                uint32_t w[8];
                fai_load_chunk(w, from, t.q.size, l.first, t.q.dim, t.q.wide, 0);
                fai_decode_chunk(x, w, t.q.dtype);
                fai_rotate_chunk(x, &t.q, from, &t.rope, c, s, l.first, t.rope_wide);
            }
            __syncwarp(); /* the group has read its row: it may be overwritten */
            fai_store_row(&t.o, to, NULL, 0, x, l, live);
        }
    }
}

/* The chunk of a row, rotated. All threads of the warp must be here. */
FAI_ATOM void fai_load_row(float x[8], const fai_rows_task *t, const fa_sequence *seq, int64_t i, int64_t h,
                           uint32_t signs, fai_lane l, int live) {
    uint32_t w[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    if (live)
        fai_load_chunk(w, t->q.data + fai_offset_q(seq, t->q.st, i, h) * t->q.size, t->q.size, l.first,
                       t->q.dim, t->q.wide, 0);
    fai_decode_chunk(x, w, t->q.dtype);
    if (t->hadamard) fai_hadamard_chunk(x, t->q.dim, signs, l.first);
}

/* Each row alone. measure: its need goes into its factor, which many share; else its codes are written, by
 * a factor that is there (or none), or by one of its own (block 1, and nobody shares it). */
static __global__ void __launch_bounds__(FAI_CACHE_THREADS, 4)
    fai_quantize_kernel(const __grid_constant__ fai_rows_task t, int own_factors) {
    const fai_lane l = fai_get_lane(t.lanes);
    const fa_descale *d = &t.a.q_descale;
    const uint32_t items = fai_count_rows(&t.a) * (uint32_t)t.parts, parts = (uint32_t)t.parts;
    const int64_t size = t.o.size;
    const uint32_t signs = t.hadamard ? fai_hadamard_signs(t.seed, l.first) : 0;
    for (uint32_t item0 = blockIdx.x * l.groups; item0 < items; item0 += gridDim.x * l.groups) {
        const uint32_t item = item0 + l.group;
        fa_sequence seq = {0, 0, 0, 0, 0, 0, 0};
        int32_t i = 0;
        const int in_use = item < items && fai_find_row(&t.a, item / parts, &seq, &i);
        int h = (int)(item % parts);
        for (int round = 0; round < t.rounds; round++, h += t.parts) {
            const int live = in_use && h < t.a.num_heads;
            float x[8], *factor = NULL;
            fai_load_row(x, &t, &seq, i, h, signs, l, live);
            if (live && d->data) {
                factor = t.factors + (seq.b * d->stride_b + h * d->stride_h);
                if (d->block) factor += (uint32_t)i / (uint32_t)d->block * d->stride_block;
            }
            if (t.measure) {
                const uint32_t need = fai_bits_of(fai_need(x, t.o.dtype, l.lanes));
                if (live && l.lane == 0 && need > fai_ld_relaxed_gpu_u32(factor))
                    fai_red_relaxed_gpu_max_u32(factor, need);
                continue;
            }
            __syncwarp(); /* the group has read its row: it may be overwritten */
            fai_store_row(&t.o, t.o.data + fai_offset_q(&seq, t.o.st, i, h) * size, factor, own_factors, x, l,
                          live);
        }
    }
}

static __global__ void __launch_bounds__(FAI_CACHE_THREADS)
    fai_clear_factors_kernel(const __grid_constant__ fai_rows_task t) {
    const fa_descale *d = &t.a.q_descale;
    const fai_factors count = fai_count_factors(&t.a);
    const uint32_t h = (uint32_t)count.h, blocks = (uint32_t)count.blocks,
                   all = (uint32_t)count.b * h * blocks;
    for (uint32_t n = blockIdx.x * FAI_CACHE_THREADS + threadIdx.x; n < all;
         n += gridDim.x * FAI_CACHE_THREADS)
        t.factors[n / blocks / h * d->stride_b + n / blocks % h * d->stride_h +
                  n % blocks * d->stride_block] = 0;
}

/* A thread block for the rows that share a factor, and few enough that the second time they come from a
 * cache. */
static __global__ void __launch_bounds__(FAI_CACHE_THREADS, 4)
    fai_quantize_blocks_kernel(const __grid_constant__ fai_rows_task t) {
    __shared__ uint32_t most;
    const fai_lane l = fai_get_lane(t.lanes);
    const fa_descale *d = &t.a.q_descale;
    const uint32_t seqlen = (uint32_t)t.a.seqlen_q, heads = (uint32_t)t.a.num_heads;
    const uint32_t rows = d->block ? (uint32_t)d->block : seqlen, blocks = (seqlen - 1) / rows + 1;
    const int64_t size = t.o.size;
    const uint32_t signs = t.hadamard ? fai_hadamard_signs(t.seed, l.first) : 0;
    for (uint32_t item = blockIdx.x; item < (uint32_t)t.a.batch * blocks * heads; item += gridDim.x) {
        const uint32_t h = item % heads, number = item / heads % blocks;
        const int64_t first = (int64_t)number * rows;
        const fa_sequence seq = fa_get_sequence(&t.a, (int32_t)(item / heads / blocks));
        const int64_t last = first + rows < seq.len_q ? first + rows : seq.len_q;
        float x[8], factor = 0;
        if (threadIdx.x == 0) most = 0;
        for (int64_t i = first; i < last; i += l.groups) {
            fai_load_row(x, &t, &seq, i + l.group, h, signs, l, i + l.group < last);
            const float need = fai_need(x, t.o.dtype, l.lanes);
            if (fai_bits_of(need) > fai_bits_of(factor)) factor = need;
        }
        __syncthreads(); /* most is 0 for everybody */
        if (l.lane == 0) atomicMax(&most, fai_bits_of(factor));
        __syncthreads(); /* most is that of all rows */
        factor = fai_float_of(most);
        if (threadIdx.x == 0)
            t.factors[seq.b * d->stride_b + h * d->stride_h + number * d->stride_block] = factor;
        for (int64_t i = first; i < last; i += l.groups) {
            const int live = i + l.group < last;
            fai_load_row(x, &t, &seq, i + l.group, h, signs, l, live);
            fai_store_row(&t.o, t.o.data + fai_offset_q(&seq, t.o.st, i + l.group, h) * size, &factor, 0, x,
                          l, live);
        }
        __syncthreads(); /* everybody has read most: it may be cleared */
    }
}

/* The codes of a transposed o, by factors that are there (or none). A thread block has 64 rows of a head: a
 * thread makes codes of 8 columns of the 4 rows whose codes lie in a word of o, which go through shared
 * memory, so that 64 bytes of a column are written at once. With rows of 17 words there what a warp writes
 * lies in 32 banks; what it reads does not, which is little beside the rows that come from memory. */
enum { FAI_TRANSPOSE_ROWS = 64 };
static __global__ void __launch_bounds__(FAI_CACHE_THREADS)
    fai_quantize_transposed_kernel(const __grid_constant__ fai_rows_task t) {
    __shared__ uint32_t words[256][FAI_TRANSPOSE_ROWS / 4 + 1]; /* (head_dim, place / 4) */
    const fa_descale *d = &t.a.q_descale;
    const uint32_t heads = (uint32_t)t.a.num_heads,
                   tiles = ((uint32_t)t.a.seqlen_q + FAI_TRANSPOSE_ROWS - 1) / FAI_TRANSPOSE_ROWS;
    const uint32_t chunks = (uint32_t)(t.q.dim + 31) / 32 * 4; /* a group of 4 may end behind the row */
    for (uint32_t item = blockIdx.x; item < (uint32_t)t.a.batch * tiles * heads; item += gridDim.x) {
        const uint32_t h = item % heads;
        const fa_sequence seq = fa_get_sequence(&t.a, (int32_t)(item / heads / tiles));
        const int32_t first = (int32_t)(item / heads % tiles) * FAI_TRANSPOSE_ROWS;
        for (uint32_t n = threadIdx.x; n < chunks * 16; n += FAI_CACHE_THREADS) {
            const uint32_t word = n / 4 % 16, chunk = n / 64 * 4 + n % 4;
            uint32_t code[4][8]; /* of a row: 8 bytes */
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int32_t i = first + (int32_t)(word / 4 * 16 + word % 4 * 2) + e % 2 + e / 2 * 8;
                uint32_t w[8];
                float x[8];
                code[e][0] = code[e][1] = 0;
                if (i >= seq.len_q || (int32_t)chunk * 8 >= t.q.dim) continue;
                fai_load_chunk(w, t.q.data + fai_offset_q(&seq, t.q.st, i, h) * t.q.size, t.q.size,
                               (int)chunk * 8, t.q.dim, t.q.wide, 0);
                fai_decode_chunk(x, w, t.q.dtype);
                const uint32_t block = d->block ? (uint32_t)i / (uint32_t)d->block : 0;
                const float *const factor =
                    t.factors + (seq.b * d->stride_b + h * d->stride_h + block * d->stride_block);
                if (d->data)
                    fai_quantize_chunk(code[e], x, *factor, FA_E4M3);
                else
                    fai_encode_chunk(code[e], x, FA_E4M3);
            }
#pragma unroll
            for (uint32_t e = 0; e < 8; e++) { /* byte e % 4 of each row */
                const uint32_t bytes = e % 4 | (e % 4 + 4) << 4;
                words[chunk * 8 + e][word] =
                    fai_prmt_b32(fai_prmt_b32(code[0][e / 4], code[1][e / 4], bytes),
                                 fai_prmt_b32(code[2][e / 4], code[3][e / 4], bytes), 0x5410);
            }
        }
        __syncthreads(); /* words are written */
        for (uint32_t n = threadIdx.x; n < (uint32_t)t.q.dim * 4; n += FAI_CACHE_THREADS) {
            const int32_t j = first + (int32_t)(n % 4) * 16;
            const uint32_t *const from = words[n / 4] + n % 4 * 4;
            char *const to = t.o.data + seq.b_q * t.o.st.b + h * t.o.st.h + n / 4 * t.o.st.s +
                             fa_transposed_column(seq.row_q, seq.b - seq.b_q, j);
            if (j >= seq.len_q) continue;
            if (t.o.wide)
                *(uint4 *)(void *)to = make_uint4(from[0], from[1], from[2], from[3]);
            else
                for (int e = 0; e < 16; e++) to[e] = (char)(from[e / 4] >> e % 4 * 8);
        }
        __syncthreads(); /* everybody has read words: they may be written */
    }
}

/* ---- calls ---- */

/* Rows whose chunks may be read at once? */
static inline fai_rows fai_get_rows(const void *data, fai_strides st, fa_dtype dtype, int32_t dim) {
    const int64_t size = (int64_t)fa_sizeof(dtype), unit = size == 1 ? 8 : 16;
    const int64_t odd = (int64_t)((uintptr_t)data % 16) | st.b * size | st.s * size | st.h * size;
    const fai_rows r = {(char *)data, st, dtype, (int32_t)size, dim, data && dim % 8 == 0 && odd % unit == 0};
    return r;
}
static inline int32_t fai_rope_is_wide(const fa_rope *r) {
    return r->dim % 16 == 0 && ((uintptr_t)r->cos | (uintptr_t)r->sin) % 16 == 0;
}
/* Threads of a row: a power of two. */
static inline int32_t fai_count_lanes(int32_t dim) {
    int32_t lanes = 1;
    while (lanes * 8 < dim) lanes *= 2;
    return lanes;
}
/* Heads of a row that a group takes: it finds the row and its angles once. Not so many that groups get few:
 * a GPU holds some 10000. But items, (row, part of the heads), are counted in 31 bits: rows are, where
 * lists say how many. */
static inline int32_t fai_count_rounds(int64_t rows, int32_t heads) {
    int32_t rounds = 1;
    while (rounds < 8 && rounds < heads && rows * heads / rounds >= 1 << 16) rounds *= 2;
    while (rounds < heads && (heads - 1) / rounds + 1 > INT32_MAX / rows)
        rounds = rounds > heads / 2 ? heads : 2 * rounds;
    return rounds;
}

/* The grid of a kernel whose blocks have `each` items at once and go on to the next ones in steps of the
 * grid: no more blocks than can be at work, 16 an SM. */
static inline fa_status fai_cache_launch(const fa_args *a, const void *kernel, int64_t items, int each,
                                         int sides, void *task, void *more, cudaStream_t stream) {
    int device = 0, sms = 0;
    void *parameters[2] = {task, more};
    int64_t blocks = (items - 1) / each + 1;
    if (items > INT32_MAX)
        return fai_fail(a, FA_ERR_CUDA_GRID, "rows * heads", -1, (double)items, 1, INT32_MAX);
    cudaError_t e = cudaGetDevice(&device);
    if (e == cudaSuccess) e = cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device);
    if (e != cudaSuccess) return fai_cuda_status(a, e);
    if (blocks > (int64_t)sms * (2048 / FAI_CACHE_THREADS))
        blocks = (int64_t)sms * (2048 / FAI_CACHE_THREADS);
    return fai_cuda_status(a, cudaLaunchKernel(kernel, dim3((unsigned)blocks, (unsigned)sides),
                                               dim3(FAI_CACHE_THREADS), parameters, 0, stream));
}
/* The most rows that a call may have; what lists say is counted in 31 bits. */
static inline int64_t fai_most_rows(const fa_args *a) {
    const int64_t rows = (int64_t)a->batch * a->seqlen_q;
    return a->cu_seqlens_q && rows > INT32_MAX ? INT32_MAX : rows;
}
static inline int64_t fai_ceil(int64_t x, int64_t y) { return (x + y - 1) / y; }

/* Pointers that must be the device's, or NULL. */
typedef struct fai_pointer {
    const void *data;
    const char *field;
} fai_pointer;
static inline fa_status fai_cuda_check_list(const fa_args *a, const fai_pointer *list, int count) {
    fa_status status = FA_OK;
    for (int n = 0; n < count && status == FA_OK; n++)
        status = fai_cuda_check_pointer(a, list[n].data, list[n].field);
    return status;
}

/* What append and compaction have in common. */
static inline fa_status fai_cache_begin_cuda(fai_cache_task *t, const fai_cache_call *c,
                                             const fa_cache *cache) {
    const fa_args *a = &c->a;
    const int k = a->k.data != NULL, v = a->v.data != NULL; /* the sides in use */
    const fai_pointer list[] = {{a->k.data, "cache.k.data"},
                                {a->v.data, "cache.v.data"},
                                {a->k_descale.data, "cache.k_descale.data"},
                                {a->v_descale.data, "cache.v_descale.data"},
                                {a->block_table, "cache.block_table"},
                                {c->positions, "positions"},
                                {c->accepted, "accepted"},
                                {c->num_accepted, "num_accepted"}};
    const fai_strides st_k = fai_strides_kv(a, &a->k, cache->head_dim),
                      st_v = fai_strides_kv(a, &a->v, cache->head_dim_v);
    memset(t, 0, sizeof *t);
    t->a = *a, t->cache = *cache;
    t->positions = c->positions, t->accepted = c->accepted, t->num_accepted = c->num_accepted;
    t->max_accepted = c->max_accepted, t->first_side = k ? 0 : 1;
    if (k) t->lanes = fai_count_lanes(cache->head_dim);
    if (v && fai_count_lanes(cache->head_dim_v) > t->lanes) t->lanes = fai_count_lanes(cache->head_dim_v);
    t->wide[0] = fai_get_rows(a->k.data, st_k, cache->dtype, cache->head_dim).wide;
    t->wide[1] = fai_get_rows(a->v.data, st_v, cache->dtype, cache->head_dim_v).wide;
    return fai_cuda_check_list(a, list, (int)(sizeof list / sizeof *list));
}

/* fa_append in device memory. One launch; with factors of blocks of rows (block > 1) on one side only, or
 * of different kinds, two. */
FAI_NOINLINE fa_status fa_append_cuda(const fa_append_args *args, cudaStream_t stream) {
    fai_cache_call c;
    fai_cache_task t;
    fa_status status = fai_check_append(&c, args, FAI_DEVICE_LISTS);
    if (status != FA_OK) return status;
    const fa_cache *cache = &args->cache;
    const fa_rope *rope = &args->rotary;
    const int sides[2] = {args->k.data != NULL, args->v.data != NULL}, turns = sides[0] && fai_rotates(rope);
    const fai_pointer list[] = {{args->k.data, "k.data"},
                                {args->v.data, "v.data"},
                                {args->cu_seqlens_new, "cu_seqlens_new"},
                                {args->seqused_new, "seqused_new"},
                                {turns ? rope->cos : NULL, "rotary.cos"},
                                {turns ? rope->sin : NULL, "rotary.sin"},
                                {turns ? rope->positions : NULL, "rotary.positions"}};
    status = fai_cache_begin_cuda(&t, &c, cache);
    if (status == FA_OK) status = fai_cuda_check_list(&c.a, list, (int)(sizeof list / sizeof *list));
    if (status != FA_OK) return status;
    const int64_t heads = cache->num_heads_k, seqlen = args->seqlen_new;
    if (turns) t.rope = *rope, t.rope_wide = fai_rope_is_wide(rope);
    for (int v = 0; v < 2; v++) {
        const fa_tensor *x = v ? &args->v : &args->k;
        const int32_t dim = v ? cache->head_dim_v : cache->head_dim;
        const fai_strides st = fai_resolve(x->stride_b, x->stride_s, x->stride_h, seqlen, heads, dim);
        t.in[v] = fai_get_rows(x->data, st, args->dtype, dim);
    }
    for (int v = 0; v < 2 && status == FA_OK; v++) {
        const fa_descale *d = v ? &c.a.v_descale : &c.a.k_descale;
        const fa_descale *next = v ? NULL : &c.a.v_descale;
        if (!sides[v]) continue;
        const int several = d->data && d->block > 1, groups = FAI_CACHE_THREADS / t.lanes;
        const int both = next && sides[1] && !several && !(next->data && next->block > 1); /* in one launch */
        t.first_side = v;
        if (several) {
            /* a thread block for each block of factors; at both ends of a page may be a part of one */
            const int64_t page = d->paged ? cache->page_size : cache->seqlen_k;
            const int64_t most = seqlen / d->block + 2 * (fai_ceil(seqlen, page) + 1);
            t.blocks = (uint32_t)(most < seqlen ? most : seqlen);
            status = fai_cache_launch(&c.a, (const void *)fai_append_blocks_kernel,
                                      c.a.batch * heads * t.blocks, 1, 1, &t, NULL, stream);
        } else { /* a group for each row and up to 8 heads; y: K, V */
            const int64_t rows = fai_most_rows(&c.a);
            t.rounds = fai_count_rounds(rows, (int32_t)heads), t.parts = (int32_t)fai_ceil(heads, t.rounds);
            status = fai_cache_launch(&c.a, (const void *)fai_append_kernel, rows * t.parts, groups, 1 + both,
                                      &t, NULL, stream);
            v += both;
        }
    }
    return status;
}

/* fa_compact in device memory: one launch. */
FAI_NOINLINE fa_status fa_compact_cuda(const fa_compact_args *args, cudaStream_t stream) {
    fai_cache_call c;
    fai_cache_task t;
    fa_status status = fai_check_compact(&c, args, FAI_DEVICE_LISTS);
    if (status == FA_OK) status = fai_cache_begin_cuda(&t, &c, &args->cache);
    if (status != FA_OK) return status;
    /* a thread block for each sequence and head; y: K, V */
    return fai_cache_launch(&c.a, (const void *)fai_compact_kernel, (int64_t)c.a.batch * c.a.num_heads_k, 1,
                            c.a.k.data && c.a.v.data ? 2 : 1, &t, NULL, stream);
}

/* What rotation and quantisation have in common: rows of q become rows of o. */
static inline fa_status fai_rows_begin_cuda(fai_rows_task *t, const fai_cache_call *c, fa_tensor q,
                                            fa_tensor_out o, fa_dtype dtype, fa_dtype o_dtype) {
    const fa_args *a = &c->a;
    const int32_t heads = a->num_heads, dim = c->info.head_dim;
    const fai_strides st_q = fai_resolve(q.stride_b, q.stride_s, q.stride_h, a->seqlen_q, heads, dim);
    const fai_strides st_o = fai_resolve(o.stride_b, o.stride_s, o.stride_h, a->seqlen_q, heads, dim);
    const fai_pointer list[] = {{q.data, "q.data"},
                                {o.data, "o.data"},
                                {a->cu_seqlens_q, "cu_seqlens_q"},
                                {a->seqused_q, "seqused_q"}};
    memset(t, 0, sizeof *t);
    t->a = *a, t->lanes = fai_count_lanes(dim);
    t->q = fai_get_rows(q.data, st_q, dtype, dim), t->o = fai_get_rows(o.data, st_o, o_dtype, dim);
    t->rounds = fai_count_rounds(fai_most_rows(a), heads);
    t->parts = (int32_t)fai_ceil(heads, t->rounds);
    return fai_cuda_check_list(a, list, (int)(sizeof list / sizeof *list));
}
/* A kernel with a group for each row and up to 8 heads. */
static inline fa_status fai_rows_launch(const void *kernel, fai_rows_task *t, void *more,
                                        cudaStream_t stream) {
    return fai_cache_launch(&t->a, kernel, fai_most_rows(&t->a) * t->parts, FAI_CACHE_THREADS / t->lanes, 1,
                            t, more, stream);
}

/* fa_rotary in device memory: one launch. */
FAI_NOINLINE fa_status fa_rotary_cuda(const fa_rotary_args *args, cudaStream_t stream) {
    fai_cache_call c;
    fai_rows_task t;
    fa_status status = fai_check_rotary(&c, args, FAI_DEVICE_LISTS);
    if (status != FA_OK) return status;
    const fa_rope *rope = &args->rotary;
    const fai_pointer list[] = {
        {rope->cos, "rotary.cos"}, {rope->sin, "rotary.sin"}, {rope->positions, "rotary.positions"}};
    status = fai_rows_begin_cuda(&t, &c, args->q, args->o, args->dtype, args->dtype);
    if (status == FA_OK) status = fai_cuda_check_list(&c.a, list, 3);
    if (status != FA_OK) return status;
    t.rope = *rope, t.rope_wide = fai_rope_is_wide(rope);
    return fai_rows_launch((const void *)fai_rotary_kernel, &t, NULL, stream);
}

/* fa_quantize in device memory: one launch if a factor is that of one row, or of 64 KB of rows at most;
 * three if more share one, or o is transposed: factors are cleared, then measured, then used. */
FAI_NOINLINE fa_status fa_quantize_cuda(const fa_quantize_args *args, cudaStream_t stream) {
    fai_cache_call c;
    fai_rows_task t;
    fa_status status = fai_check_quantize(&c, args, FAI_DEVICE_LISTS);
    if (status != FA_OK) return status;
    const fa_args *a = &c.a;
    const fa_descale *d = &a->q_descale;
    const fai_factors count = fai_count_factors(a);
    const int64_t rows =
        d->block ? d->block : a->seqlen_q; /* of a factor, if sequences and heads share none */
    const int apart =
        count.b == a->batch && count.h == a->num_heads && count.blocks == fai_ceil(a->seqlen_q, rows);
    status = fai_rows_begin_cuda(&t, &c, args->q, args->o, args->dtype, args->o_dtype);
    if (status == FA_OK) status = fai_cuda_check_pointer(a, d->data, "descale.data");
    if (status != FA_OK) return status;
    const int64_t bytes = rows * args->head_dim * (int64_t)fa_sizeof(args->dtype);
    const int transposed = args->transposed;
    int own = d->data && apart && rows == 1 && !transposed;
    t.factors = args->descale.data, t.hadamard = args->hadamard, t.seed = args->seed;
    if (d->data && apart && !own && !transposed && bytes <= 65536) /* a thread block for each factor */
        return fai_cache_launch(a, (const void *)fai_quantize_blocks_kernel, count.b * count.h * count.blocks,
                                1, 1, &t, NULL, stream);
    if (d->data && (!own || fai_cache_hides(&c))) /* each factor; those without rows stay 0 */
        status = fai_cache_launch(a, (const void *)fai_clear_factors_kernel, count.b * count.h * count.blocks,
                                  FAI_CACHE_THREADS, 1, &t, NULL, stream);
    t.measure = d->data && !own;
    if (status == FA_OK && t.measure)
        status = fai_rows_launch((const void *)fai_quantize_kernel, &t, &own, stream);
    t.measure = 0;
    if (status != FA_OK || !transposed)
        return status != FA_OK ? status
                               : fai_rows_launch((const void *)fai_quantize_kernel, &t, &own, stream);
    const fa_tensor_out *o = &args->o;
    const fai_strides st = fai_resolve_transposed(o->stride_b, o->stride_s, o->stride_h, args->seqlen_q,
                                                  args->num_heads, args->head_dim);
    t.o.st = st, t.o.wide = ((int64_t)(uintptr_t)o->data | st.b | st.s | st.h) % 16 == 0;
    const int64_t tiles = (int64_t)a->batch * a->num_heads * fai_ceil(a->seqlen_q, FAI_TRANSPOSE_ROWS);
    return fai_cache_launch(a, (const void *)fai_quantize_transposed_kernel, tiles, 1, 1, &t, NULL, stream);
}

#endif /* FA_CUDA_CACHE */

#if defined(FA_NAME)

/* ======================================================================================== */
/* >>tiles    one more instance: what this file has kernels for, and how large their tiles are */
/* ======================================================================================== */

#if FA_DTYPE != FA_F16 && FA_DTYPE != FA_BF16 && (FA_PASSES) != FA_FORWARD
#error "flashattn_cuda.cuh: FA_DTYPE must be FA_F16 or FA_BF16, or FA_PASSES FA_FORWARD"
#undef FA_DTYPE
#define FA_DTYPE FA_BF16
#endif
#if FA_O_DTYPE != FA_DTYPE && (FA_PASSES) != FA_FORWARD && ((FA_PASSES) != FA_DECODE || FA_O_DTYPE != FA_F32)
#error "flashattn_cuda.cuh: FA_O_DTYPE must be FA_DTYPE, or FA_F32 with FA_PASSES FA_DECODE, or FA_PASSES FA_FORWARD"
#endif
#if FA_KV_DTYPE != FA_DTYPE && ((FA_PASSES) != FA_DECODE || (FA_KV_DTYPE != FA_E4M3 && FA_KV_DTYPE != FA_I8))
#error "flashattn_cuda.cuh: FA_KV_DTYPE must be FA_DTYPE, or FA_E4M3 or FA_I8 with FA_PASSES FA_DECODE"
#elif FA_KV_DTYPE != FA_DTYPE && (FA_HEAD_DIM % 32 != 0 || FA_HEAD_DIM_V % 32 != 0)
#error "flashattn_cuda.cuh: FA_HEAD_DIM and FA_HEAD_DIM_V must be multiples of 32 with an 8-bit FA_KV_DTYPE"
#endif

#if FA_HEAD_DIM > FA_HEAD_DIM_V
#define FAI_DIM FA_HEAD_DIM
#else
#define FAI_DIM FA_HEAD_DIM_V
#endif

/* bytes of an element of Q; of K and V */
#if FA_DTYPE == FA_F32
#define FAI_BYTES 4
#define FAI_ELEMENT uint32_t
#elif FA_DTYPE <= FA_BF16
#define FAI_BYTES 2
#define FAI_ELEMENT uint16_t
#else
#define FAI_BYTES 1
#define FAI_ELEMENT uint8_t
#endif
#define FAI_KV_BYTES (FA_KV_DTYPE == FA_DTYPE ? FAI_BYTES : 1)
#define FAI_UNITS(elements) ((elements) * FAI_KV_BYTES / 2) /* of K and V, in 16 bits */
/* 16 bits that a row takes in shared memory: a multiple of 32 bytes, filled up with zeros */
#define FAI_WIDTH(dim, bytes) (((dim) * (bytes) + 31) / 32 * 16)
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
#define FAI_UNPACKS(arch) (FAI_BYTES == 1 && (arch) >= 900 && (arch) < 1200)
#if FAI_BYTES == 4
/* FFMA reads all its operands from shared memory: 32 rows and 64 or 32 keys a warp, as above. 96 KB at most,
 * which is everything that sm_86, 89 and 120 have; beyond 128 dims a thread's part of O takes all registers
 * at 16 rows */
#define FAI_TABLE_M(arch) (FAI_DIM <= 128 ? 128 : 64)
#define FAI_TABLE_N(arch) \
    (FAI_DIM <= 64 ? 64 : FAI_DIM <= 128 && FAI_HEAVY ? 16 \
                        : FAI_DIM <= 192 || !FAI_LITTLE_SHARED(arch) ? 32 : 16)
#define FAI_TABLE_WARPS(arch) 4
#define FAI_TABLE_STAGES(arch) 1
#elif FAI_BYTES == 1
/* half the bytes of 16-bit tiles, so two stages fit everywhere: 26, 34, 73 and 97 KB. Registers as there, but
 * for sm_90 and 100, where mma makes f16 of fp8 first: 16 rows a warp then, and 32 keys beyond 128 dims or
 * with many features */
#define FAI_TABLE_M(arch) 128
#define FAI_TABLE_N(arch) \
    (FAI_DIM <= 64    ? (FAI_UNPACKS(arch) && FAI_HEAVY ? 32 : 64) \
     : FAI_DIM <= 128 ? (FAI_UNPACKS(arch) ? 64 : 32) \
     : FAI_UNPACKS(arch) ? 32 \
                         : 64)
#define FAI_TABLE_WARPS(arch) (FAI_DIM <= (FAI_UNPACKS(arch) ? 64 : 128) ? 4 : 8)
#define FAI_TABLE_STAGES(arch) 2
#elif FAI_DIM <= 64
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
#elif defined(FA_BLOCK_N) && FAI_BYTES == 1 && (FA_BLOCK_N) % 32
#error "flashattn_cuda.cuh: FA_BLOCK_N must be a multiple of 32 in 32..128 with an fp8 FA_DTYPE"
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

/* sm_90a: does this instance have a kernel for it? Warpgroups of 64 rows, keys of a tile; registers of a
 * thread that computes and of one that loads, together all that an SM has. */
#ifndef FA_PROMOTE
#define FA_PROMOTE 0
#elif (FA_PROMOTE) < 0 || (FA_PROMOTE) > 64
#error "flashattn_cuda.cuh: FA_PROMOTE must be in 0..64: tiles of keys, 0 = all"
#undef FA_PROMOTE
#define FA_PROMOTE 0
#elif (FA_PROMOTE) > 0 && (FA_DTYPE != FA_E4M3 || FA_HEAD_DIM_V > 128) /* registers of O twice */
#error "flashattn_cuda.cuh: FA_PROMOTE needs FA_DTYPE FA_E4M3 and FA_HEAD_DIM_V of 128 at most"
#undef FA_PROMOTE
#define FA_PROMOTE 0
#endif
#if defined(FA_BLOCK_M) || defined(FA_BLOCK_N) || defined(FA_WARPS) || defined(FA_STAGES)
#define FAI_HOPPER 0
#elif FAI_BYTES == 1 /* products of 32 bytes */
#define FAI_HOPPER \
    (((FA_PASSES) & FA_FORWARD) && FA_DTYPE == FA_E4M3 && FAI_KV_BYTES == 1 && !FAI_HEAVY && \
     FA_HEAD_DIM >= 64 && FA_HEAD_DIM_V >= 64 && FA_HEAD_DIM % 32 == 0 && FA_HEAD_DIM_V % 32 == 0)
#else
#define FAI_HOPPER \
    (((FA_PASSES) & FA_FORWARD) && FAI_BYTES == 2 && FAI_KV_BYTES == 2 && FA_O_DTYPE == FA_DTYPE && \
     FA_HEAD_DIM >= 64 && FA_HEAD_DIM_V >= 64 && \
     FAI_DIM <= (FAI_HEAVY ? 192 : 256)) /* beyond that it would spill */
#endif
#if FAI_DIM <= 64 && !FAI_HEAVY && (FA_PROMOTE) == 0
#define FAI_HOPPER_WGS 3 /* tensor cores and exponentials take the same time: two would not hide it */
#define FAI_HOPPER_N 128
#else
#define FAI_HOPPER_WGS 2
/* as many keys as registers or, beyond 128 dims, shared memory allow; fp8: a panel of V */
#if FAI_BYTES == 1
#define FAI_HOPPER_N 128
#elif FAI_HEAVY
#define FAI_HOPPER_N (FAI_DIM <= 64 ? 128 : FAI_DIM <= 128 ? 96 : 64)
#else
#define FAI_HOPPER_N (FAI_DIM <= 128 ? 128 : FAI_DIM <= 192 ? 112 : 80)
#endif
#endif
/* A second kernel for 16 bits, by shape: launch says when. Up to 64 dims for few queries: three blocks an SM,
 * of one warpgroup, 74 KB and 168 registers a thread. Up to 128 dims for many keys that all rows see: more of
 * them, as no mask needs registers. */
#define FAI_HOPPER_FEW (FAI_BYTES == 2 && FAI_DIM <= 64 && !FAI_HEAVY)
#define FAI_HOPPER_WIDE (FAI_BYTES == 2 && FAI_DIM > 64 && FAI_DIM <= 128 && !FAI_HEAVY)
#define FAI_HOPPER_MOST (FAI_HOPPER_WIDE ? 176 : FAI_HOPPER_N) /* keys of the larger tile */
/* with 160, 232 and 240: what the launch gives to all */
#define FAI_HOPPER_HIGH (FAI_HOPPER_WGS == 3 ? 160 : FAI_BYTES == 1 ? 240 : 232)
#define FAI_HOPPER_LOW (FAI_HOPPER_WGS == 3 ? 32 : FAI_BYTES == 1 ? 24 : 40)
/* where K and V come row by row */
#define FAI_HOPPER_ROWS_HIGH (FAI_HEAVY && FAI_DIM <= 128 ? 224 : FAI_HOPPER_HIGH)
#define FAI_HOPPER_ROWS_LOW (FAI_HEAVY && FAI_DIM <= 128 ? 56 : FAI_HOPPER_LOW)
/* fp8: factors of K and V for blocks of keys; they take registers that O has beyond 192 dims */
#define FAI_HOPPER_BLOCKS(d) (FAI_BYTES == 1 && FAI_DIM <= 192 && (d).data && (d).block)

/* Q, then the stages of K and V, [K V] [K V], each with two factors a key behind it if they have such; O of
 * 16 bits takes their place at the end; then what the threads have in common */
#define FAI_TILE_SHARED(arch) (FAI_TILE_BYTES(arch) + offsetof(FAI_(tile), row) + FAI_TILE_M(arch) * 4)
#define FAI_TILE_STAGE(arch) \
    (FAI_TILE_N(arch) * ((FAI_WIDTH(FA_HEAD_DIM, FAI_BYTES) + FAI_WIDTH(FA_HEAD_DIM_V, FAI_BYTES)) * 2 + \
                         (FAI_BYTES == 1 ? 8 : 0)))
#define FAI_TILE_LOOP(arch) \
    (FAI_TILE_M(arch) * FAI_WIDTH(FA_HEAD_DIM, FAI_BYTES) * 2 + FAI_TILE_STAGES(arch) * FAI_TILE_STAGE(arch))
#define FAI_TILE_BYTES(arch) \
    (FAI_TILE_M(arch) * FA_HEAD_DIM_V * 2 > FAI_TILE_LOOP(arch) ? FAI_TILE_M(arch) * FA_HEAD_DIM_V * 2 \
                                                                : FAI_TILE_LOOP(arch))

/* the sizes of this compilation, as constants of a function */
#define FAI_THREADS (FAI_TILE_WARPS(FAI_ARCH) * 32)
#define FAI_BN FAI_TILE_N(FAI_ARCH)
/* 32 rows a warp or 16; what is neither is an error below */
#define FAI_MT (FAI_TILE_M(FAI_ARCH) / FAI_TILE_WARPS(FAI_ARCH) == 32 ? 2 : 1)
#define FAI_SIZES \
    enum { \
        D = FA_HEAD_DIM, \
        DV = FA_HEAD_DIM_V, \
        WIDTH = FAI_WIDTH(D, FAI_BYTES), \
        WIDTH_V = FAI_WIDTH(DV, FAI_BYTES), \
        BM = FAI_TILE_M(FAI_ARCH), \
        BN = FAI_TILE_N(FAI_ARCH), \
        WARPS = FAI_TILE_WARPS(FAI_ARCH), \
        STAGES = FAI_TILE_STAGES(FAI_ARCH), \
        THREADS = FAI_THREADS, \
        MT = FAI_MT, \
        /* in registers: 32 of them, too many next to those that features take, or factors */ \
        Q_STAYS = FAI_MT * FAI_WIDTH(FAI_DIM, FAI_BYTES) <= \
                      (FAI_BYTES == 2 ? 128 : FAI_BYTES == 1 && !FAI_UNPACKS(FAI_ARCH) ? 64 : 0) && \
                  !FAI_HEAVY \
    };
FA_STATIC_ASSERT(FAI_TILE_M(FAI_ARCH) == FAI_MT * 16 * FAI_TILE_WARPS(FAI_ARCH),
                 "flashattn_cuda.cuh: FA_BLOCK_M must be 16 or 32 times FA_WARPS");

#define FAI_ISA cuda
#if FA_DTYPE == FA_BF16
#define FAI_MMA fai_mma_m16n8k16_f32_bf16
#define FAI_PACK fai_cvt_rn_bf16x2_f32
#define FAI_FMA2 fai_fma_rn_bf16x2
#define FAI_WGMMA_SS fai_wgmma_f32_bf16_ss
#define FAI_WGMMA_RS fai_wgmma_f32_bf16_rs
#define FAI_EXPONENT 0x7f80u
#define FAI_UNPACK(x) __uint_as_float((uint32_t)(x) << 16)
#elif FA_DTYPE == FA_F16
#define FAI_MMA fai_mma_m16n8k16_f32_f16
#define FAI_PACK fai_cvt_rn_f16x2_f32
#define FAI_FMA2 fai_fma_rn_f16x2
#define FAI_WGMMA_SS fai_wgmma_f32_f16_ss
#define FAI_WGMMA_RS fai_wgmma_f32_f16_rs
#define FAI_EXPONENT 0x7c00u
#define FAI_UNPACK(x) fai_cvt_f32_f16((uint16_t)(x))
#elif FA_DTYPE == FA_E4M3
#define FAI_MMA fai_mma_m16n8k32_f32_e4m3
#define FAI_MMA_PV fai_mma_m16n8k32_f32_e4m3
#define FAI_WGMMA_SS fai_wgmma_f32_e4m3_ss
#define FAI_WGMMA_RS fai_wgmma_f32_e4m3_rs
#define FAI_EXPONENT 0x7fu /* NaN; there is no infinity */
#elif FA_DTYPE == FA_E5M2
#define FAI_MMA fai_mma_m16n8k32_f32_e5m2
#define FAI_MMA_PV fai_mma_m16n8k32_f32_e4m3_e5m2 /* P has a bit more, and no use for exponents */
#define FAI_EXPONENT 0x7cu
#else
#define FAI_EXPONENT 0x7f800000u
#endif
#if FA_O_DTYPE == FA_F16
#define FAI_PACK_O fai_cvt_rn_f16x2_f32
#else
#define FAI_PACK_O fai_cvt_rn_bf16x2_f32
#endif
/* Where a lane finds the first fragment of Q, K and V in their tiles: >>maps. f32: its first row of Q, its
 * first two keys of K, its first columns of V. */
#if FAI_BYTES == 4
#define FAI_FIRST_Q(row0, lane) FAI_AT(WIDTH, (row0) + FAI_C_ROW(lane, 0), 0)
#define FAI_FIRST_K(lane) FAI_AT(WIDTH, FAI_C_COL(lane, 0), 0)
#define FAI_FIRST_V(lane) FAI_AT(WIDTH_V, 0, FAI_PAIRED_COL(lane, 0, 0) / 4)
#else
#define FAI_FIRST_Q(row0, lane) \
    FAI_AT(WIDTH, (row0) + FAI_LDMATRIX_A_ROW(lane), FAI_LDMATRIX_A_CHUNK(lane))
#define FAI_FIRST_K(lane) FAI_AT(WIDTH, FAI_LDMATRIX_B_ROW(lane), FAI_LDMATRIX_B_CHUNK(lane))
#if FAI_BYTES == 2
#define FAI_FIRST_V(lane) FAI_AT(WIDTH_V, FAI_LDMATRIX_A_ROW(lane), FAI_LDMATRIX_A_CHUNK(lane))
#else
#define FAI_FIRST_V(lane) FAI_AT(WIDTH_V, FAI_LDMATRIX_BYTES_ROW(lane), 0)
#endif
#endif
/* log2 of the largest P: e4m3 has few small numbers, and 2^8 without an error */
#define FAI_P_LOG2 (FAI_BYTES == 1 ? 8 : 0)

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

#define FAI_TILE_ROWS (FAI_TILE_M(FAI_ARCH) > 192 ? FAI_TILE_M(FAI_ARCH) : 192) /* of the larger kernel */
/* What the threads of a block have in common, in shared memory. Its rows are those of one key/value head:
 * row r is query r / group of head r % group, so the heads of a group share K and V, and few queries fill
 * a tile. */
typedef struct FAI_(tile) {
    int32_t b, len_q, len_k, head_k;
    int32_t first, first_h;             /* query and head where the rows begin to count */
    int32_t rows;                       /* that exist; behind them the last is repeated */
    int32_t infinite;                   /* >>hopper: V had elements that are not finite */
    fai_spot keys;                      /* >>hopper: where TMA finds K and V */
    uint32_t n;                         /* >>hopper: tiles of this block before */
    int32_t last;                       /* >>hopper: first key of the tile that comes first: the last */
    int32_t next_k[2], next_v[2];       /* >>hopper: of the one after that in stage n, if some are skipped */
#if FAI_BYTES == 1
    int32_t column; /* >>hopper: where key 0 is in V */
#endif
    fa_range any, all;                  /* keys of the block that some row sees, that all rows see */
    uint32_t row[FAI_TILE_ROWS];             /* query - first, and (head - first_h) << 10 */
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

/* Tile `number`, of bm rows, of `group` heads that share K and V; head: where these are, counted in groups
 * through the batch. 0 if the sequence has no such rows. Done by threads 0, 1 .. step - 1, which then have
 * to meet. */
FAI_ATOM int FAI_(set_tile)(const fa_args *a, FAI_(tile) *t, const int bm, int32_t group, uint32_t number,
                            uint32_t head, const int32_t thread, const int step) {
    const uint32_t heads = (uint32_t)(a->num_heads / group);
    const fa_sequence seq = FAI_(sequence)(a, (int32_t)(head / heads));
    const int32_t first_h = (int32_t)(head % heads) * group;
    const int64_t row0 = (int64_t)number * bm, rest = (int64_t)seq.len_q * group - row0;
    if (rest <= 0) return 0;
    const int32_t rows = rest < bm ? (int32_t)rest : bm;
    const int32_t first = (int32_t)(row0 / group),
                  shift = (int32_t)(row0 % group); /* row 0: query and head */
#pragma unroll 1
    for (int32_t n = 0; n < bm; n += step) {
        const int32_t r = n + thread, own = r < rows ? r : rows - 1;
        if (r < bm) t->row[r] = (uint32_t)((shift + own) / group | (shift + own) % group << 10);
    }
    if (thread == 0) {
        t->b = seq.b, t->len_q = seq.len_q, t->len_k = seq.len_k;
        t->head_k = first_h / (a->num_heads / fai_num_heads_k(a));
        t->first = first, t->first_h = first_h, t->rows = rows, t->infinite = 0;
        const fa_range top = FAI_(keys)(a, t, first),
                       bottom = FAI_(keys)(a, t, first + (shift + rows - 1) / group);
        t->any.lo = top.lo, t->any.hi = bottom.hi, t->all.lo = bottom.lo, t->all.hi = top.hi;
    }
    return 1;
}

/* Tile `n` of the launch, of `most` rows of the heads that share K and V; 0 if there are no such rows. */
FAI_ATOM int FAI_(begin)(const fa_args *a, FAI_(tile) *t, uint32_t n, const int most) {
    const uint32_t tiles = (uint32_t)FAI_(tiles)(a, most);
    if (!FAI_(set_tile)(a, t, most, a->num_heads / fai_num_heads_k(a), n % tiles, n / tiles,
                        (int32_t)threadIdx.x, most))
        return 0;
    __syncthreads(); /* *t is written */
    return 1;
}

/* ======================================================================================== */
/* >>loads    rows of Q, K and V to shared memory                                            */
/* ======================================================================================== */

/* A pass of `threads` threads copies threads / GROUP rows of GROUP chunks: then each next step is a constant
 * away, but for the permutation if it is less than 8 rows on: a step is a power of 2, so that
 * swz(row + r) == swz(row) ^ swz(r) for multiples r of it. */

/* Chunk c of a row of `bytes` bytes, zeros if it is behind them or does not exist. */
FAI_ATOM void FAI_(copy)(uint32_t to, const uint16_t *from, int c, int exists, const int bytes) {
    if (bytes % 32 == 0 || c < bytes / 16) fai_cp_async_cg_16(to, from, exists ? 16 : 0);
    else fai_st_shared_v4_b32(to, make_uint4(0, 0, 0, 0));
}

FAI_ATOM void FAI_(load_q)(const fa_args *a, const FAI_(tile) *t, uint32_t to, const int most,
                           const int threads) {
    enum { D = FA_HEAD_DIM, WIDTH = FAI_WIDTH(D, FAI_BYTES), GROUP = FAI_GROUP(WIDTH) };
    const int step = threads / GROUP;
    const fai_strides st = fai_strides_q(a, D);
    const fa_sequence seq = FAI_(sequence)(a, t->b);
    const int row0 = (int)threadIdx.x / GROUP, chunk = (int)threadIdx.x % GROUP;
    to += FAI_AT(WIDTH, row0, chunk);
#pragma unroll
    for (int r = 0; r < most; r += step) {
        if (most % step && row0 + r >= most) continue;
        const FAI_(row) row = FAI_(find)(t, row0 + r);
        const uint16_t *from =
            (const uint16_t *)a->q.data + fai_offset_q(&seq, st, row.i, row.h) * FAI_BYTES / 2 + chunk * 8;
#pragma unroll
        for (int c = 0; c < WIDTH / 8; c += GROUP)
            FAI_(copy)((to ^ FAI_SWIZZLE(WIDTH, r) * 16) + r * WIDTH * 2 + c * 16, from + c * 8, chunk + c,
                       row0 + r < t->rows, D * FAI_BYTES);
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
    const uint32_t sign = FAI_BYTES == 4 ? 0x80000000u : FAI_BYTES == 2 ? 0x80008000u : 0x80808080u;
    FAI_EACH_CHUNK(WIDTH, BM, sq, (int)threadIdx.x, THREADS) {
        uint4 x = fai_ld_shared_v4_b32(at);
        x.x ^= sign, x.y ^= sign, x.z ^= sign, x.w ^= sign;
        fai_st_shared_v4_b32(at, x);
    }
}

/* x with 0 for each element that is infinite or NaN; int8 has neither */
FAI_ATOM uint32_t FAI_(finite)(uint32_t x) {
#if FA_KV_DTYPE == FA_E4M3
    return x & ~(((x & 0x7f7f7f7fu) + 0x01010101u >> 7 & 0x01010101u) * 0xffu); /* |NaN| is 0x7f */
#elif FA_KV_DTYPE == FA_E5M2
    return x & ~(((x & 0x7f7f7f7fu) + 0x04040404u >> 7 & 0x01010101u) * 0xffu); /* from 0x7c on */
#elif FA_KV_DTYPE == FA_I8
    return x;
#elif FA_KV_DTYPE == FA_F32
    return (x & FAI_EXPONENT) == FAI_EXPONENT ? 0 : x;
#else
    return ((x & FAI_EXPONENT) == FAI_EXPONENT ? 0 : x & 0xffffu) |
           ((x >> 16 & FAI_EXPONENT) == FAI_EXPONENT ? 0 : x & 0xffff0000u);
#endif
}

#if FAI_KV_BYTES == 2
FAI_ATOM int FAI_(is_finite)(uint4 x) {
    const uint32_t zero = /* or NaN */
        FAI_FMA2(x.w, 0, FAI_FMA2(x.z, 0, FAI_FMA2(x.y, 0, FAI_FMA2(x.x, 0, 0))));
    return (zero & 0x7fff7fff) == 0;
}
#endif
/* What is not finite in the 16 bytes at `at` becomes 0, as 0 times it is not. 1 if there was such a thing. */
FAI_ATOM int FAI_(make_chunk_finite)(uint32_t at) {
    const uint4 x = fai_ld_shared_v4_b32(at);
#if FAI_KV_BYTES == 2
    if (FAI_(is_finite)(x)) return 0;
#endif
    const uint4 y = make_uint4(FAI_(finite)(x.x), FAI_(finite)(x.y), FAI_(finite)(x.z), FAI_(finite)(x.w));
    if (x.x == y.x && x.y == y.y && x.z == y.z && x.w == y.w) return 0;
    fai_st_shared_v4_b32(at, y);
    return 1;
}

/* In the thread's chunks of a tile */
FAI_ATOM int FAI_(make_rows_finite)(uint32_t tile, const int dim, int thread, const int threads,
                                    const int number) {
    int found = 0;
    FAI_EACH_CHUNK(dim, number, tile, thread, threads) found |= FAI_(make_chunk_finite)(at);
    return found;
}
FAI_ATOM int FAI_(make_finite)(uint32_t sv, int thread, const int threads, const int number) {
    return FAI_(make_rows_finite)(sv, FAI_WIDTH(FA_HEAD_DIM_V, FAI_KV_BYTES), thread, threads, number);
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
    const int chunk = thread % FAI_GROUP(FAI_WIDTH(dim, FAI_KV_BYTES));
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
    const int width = FAI_WIDTH(dim, FAI_KV_BYTES), group = FAI_GROUP(width), step = threads / group;
    const int row = thread / group, chunk = thread % group;
    to += FAI_AT(width, row, chunk);
    const int lane = thread % 32, rows = 32 / group; /* of a warp, in a pass */
    int64_t page = 0;
    const uint16_t *next = s.from + (first + row) * s.row;
#pragma unroll
    for (int r = 0; r < number; r += step, next += step * s.row) {
        const int32_t j = first + row + r, inside = j >= t->any.lo && j < t->any.hi;
        /* an address that exists; `next` costs registers, which are short with many features */
        const uint16_t *from = !inside ? s.from : FAI_HEAVY ? s.from + j * s.row : next;
        if (FAI_HAS(FA_PAGED) && FAI_UNPACKS(FAI_ARCH) && FAI_HEAVY) { /* no registers for more */
            if (a->block_table && inside) from = s.from + FAI_(paged)(a, t, x, s, (uint32_t)j, dim);
        } else if (FAI_HAS(FA_PAGED) && a->block_table) {
            const int pass = r / step % group;
            if (pass == 0) { /* the lanes look up the rows of `group` passes */
                const int32_t own = j - lane / group + lane % rows + lane / rows * step;
                if (own >= t->any.lo && own < t->any.hi) page = FAI_(paged)(a, t, x, s, (uint32_t)own, dim);
            }
            const int64_t offset = fai_shfl_sync_idx_b64(page, pass * rows + lane / group);
            if (inside) from = s.from + offset;
        }
        if (number % step && row + r >= number) continue;
#pragma unroll
        for (int c = 0; c < width / 8; c += group)
            FAI_(copy)((to ^ FAI_SWIZZLE(width, r) * 16) + r * width * 2 + c * 16, from + c * 8, chunk + c,
                       inside, dim * FAI_KV_BYTES);
    }
}
FAI_ATOM void FAI_(load_kv)(const fa_args *a, const FAI_(tile) *t, const fa_tensor *x, FAI_(source) s,
                            int32_t first, uint32_t to, const int dim) {
    FAI_(load_keys)(a, t, x, s, first, to, (int)threadIdx.x, FAI_THREADS, FAI_BN, dim);
}

#if FAI_BYTES == 1
/* fai_descale_at by 32-bit divisions. j: query or key */
FAI_ATOM const float *FAI_(factor_at)(const fa_args *a, const FAI_(tile) *t, const fa_descale *d, int32_t h,
                                      uint32_t j) {
    int32_t b = t->b;
    if (FAI_HAS(FA_PAGED) && d->paged) {
        const uint32_t size = a->page_size > 0 ? (uint32_t)a->page_size : 1;
        b = a->block_table[b * fai_table_stride(a) + j / size], j %= size;
    }
    const uint32_t block = d->block > 0 ? j / (uint32_t)d->block : 0;
    return d->data + b * d->stride_b + h * d->stride_h + block * d->stride_block;
}
FAI_ATOM float FAI_(factor)(const fa_args *a, const FAI_(tile) *t, const fa_descale *d, int32_t h,
                            int32_t j) {
    return d->data ? *FAI_(factor_at)(a, t, d, h, (uint32_t)j) : 1;
}

/* Do keys of a sequence and head have different factors? Else there is one. */
FAI_ATOM int FAI_(by_key)(const fa_descale *d) { return d->data && (d->block || d->paged); }

/* Factors of the keys from `first` on, if they differ: BN of K, BN of V, behind their tiles. */
FAI_ATOM void FAI_(load_factors)(const fa_args *a, const FAI_(tile) *t, int32_t first, uint32_t to) {
    FAI_SIZES
    const int32_t j = first + (int32_t)threadIdx.x, inside = j >= t->any.lo && j < t->any.hi;
    if (BN < THREADS && threadIdx.x >= BN) return;
#pragma unroll 1 /* side by side they take registers */
    for (int n = 0; n < 2; n++) {
        const fa_descale *const d = n ? &a->v_descale : &a->k_descale;
        if (FAI_(by_key)(d))
            fai_cp_async_ca_4(to + (n * BN + threadIdx.x) * 4,
                              inside ? FAI_(factor_at)(a, t, d, t->head_k, (uint32_t)j) : d->data,
                              inside ? 4 : 0);
    }
}
#endif

/* ======================================================================================== */
/* >>scores   masks, softmax                                                                 */
/* ======================================================================================== */

/* fa_load for the dtypes of a bias */
FAI_ATOM float FAI_(load_bias)(const fa_args *a, int64_t index) {
    if (a->bias.dtype == FA_BF16) return fa_bf16_to_f32(((const fai_code16 *)a->bias.data)[index]);
    if (a->bias.dtype == FA_F16) return fa_f16_to_f32(((const fai_code16 *)a->bias.data)[index]);
    return ((const float *)a->bias.data)[index];
}

/* What softcap, ALiBi, bias and FA_SCORE_MOD make of score y, in natural units, of key j; exists: j is a key.
 * alibi: slope of the head; bias: where that of the row begins; by_y, by_bias: derivatives, if not NULL. */
FAI_ATOM float FAI_(change)(const fa_args *a, const fa_sequence *seq, FAI_(row) at, int32_t j, int exists,
                            float alibi, int64_t bias, float y, float *by_y, float *by_bias) {
    float slope = 1;
    if (FAI_HAS(FA_SOFTCAP) && a->softcap > 0) { /* cap tanh(y / cap) */
        const float rest = 2 / (1 + fai_ex2_approx_ftz_f32(2 * FAI_LOG2E * y / a->softcap)); /* 1 - tanh */
        y = FAI_BYTES == 4 ? a->softcap * tanhf(y / a->softcap) : a->softcap - a->softcap * rest;
        slope = rest * (2 - rest);
    }
    if (FAI_HAS(FA_ALIBI) && a->alibi_slopes)
        y -= alibi * fabsf((float)(at.i + seq->len_k - seq->len_q - j));
    if (FAI_HAS(FA_BIAS) && a->bias.data && exists)
        y += FAI_(load_bias)(a, bias + j);
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
FAI_ATOM int FAI_(keeps)(const fa_args *a, const FAI_(tile) *t, FAI_(row) at, int32_t j) {
    uint32_t bits[4];
    fai_dropout_bits(a, t->b, at.h, at.i, j / 8, bits);
    const uint32_t word = FAI_(pick)(bits, (uint32_t)j % 8 / 2);
    return (word >> j % 2 * 16 & 0xffff) >= fa_dropout_threshold(a->dropout_p);
}

/* Does a row see key j, and keep it? */
FAI_ATOM int FAI_(counts)(const fa_args *a, const FAI_(tile) *t, FAI_(row) at, int32_t j) {
    const fa_range keys = FAI_(keys)(a, t, at.i);
    return j >= keys.lo && j < keys.hi && FAI_(visible)(a, t, at, j) &&
           (!FAI_HAS(FA_DROPOUT) || FAI_(keeps)(a, t, at, j));
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
        uint32_t seen = 0; /* bit c: of key c / 2 * 8 + c % 2 */
        if (FAI_MASKS) {
#pragma unroll 1 /* 32 times these divisions would be most of the kernel's code */
            for (int c = 0; c < number / 4; c++) {
                const int32_t j = c / 2 * 8 + c % 2;
                if (j >= lo && j < hi && FAI_(visible)(a, t, at, column + j)) seen |= 1u << c;
            }
        }
#pragma unroll
        for (int c = 0; c < number / 4; c++) {
            const int32_t j = c / 2 * 8 + c % 2;
            if (!(FAI_MASKS ? seen >> c & 1 : j >= lo && j < hi))
                s[n / 2 * (number / 8) + c / 2][n % 2 * 2 + c % 2] = -INFINITY;
        }
    }
}

#if FAI_BYTES == 1
/* Do q_descale and k_descale differ within a tile? Else they are part of the scale. */
FAI_ATOM int FAI_(is_scaled)(const fa_args *a) {
    const fa_descale *q = &a->q_descale;
    return FAI_(by_key)(&a->k_descale) ||
           (q->data && (q->block || (q->stride_h && a->num_heads != fai_num_heads_k(a))));
}
FAI_ATOM float FAI_(scale_tile)(const fa_args *a, const FAI_(tile) *t) {
    float scale = 1;
    if (!FAI_(is_scaled)(a)) scale = FAI_(factor)(a, t, &a->q_descale, t->first_h, 0);
    if (!FAI_(by_key)(&a->k_descale)) scale *= FAI_(factor)(a, t, &a->k_descale, t->head_k, 0);
    return scale;
}

/* S times the factors of its rows and keys. factors: of the tile's keys */
FAI_ATOM void FAI_(scale_s)(const fa_args *a, const FAI_(tile) *t, float s[FAI_MT][FAI_BN / 8][4],
                            uint32_t factors, int row) {
    FAI_SIZES
    const int column = FAI_C_COL((int)threadIdx.x % 32, 0);
    float by_row[MT * 2];
#pragma unroll
    for (int n = 0; n < MT * 2; n++) {
        const FAI_(row) at = FAI_(find)(t, row + n * 8);
        by_row[n] = FAI_(factor)(a, t, &a->q_descale, at.h, at.i);
    }
#pragma unroll
    for (int c = 0; c < BN / 4; c++) {
        const float by_key = FAI_(by_key)(&a->k_descale)
                                 ? fai_ld_shared_f32(factors + (column + c / 2 * 8 + c % 2) * 4)
                                 : 1;
#pragma unroll
        for (int n = 0; n < MT * 2; n++) s[n / 2][c / 2][n % 2 * 2 + c % 2] *= by_row[n] * by_key;
    }
}

/* O times a factor */
FAI_ATOM void FAI_(scale_o)(float o[FAI_MT][FA_HEAD_DIM_V / 8][4], float factor) {
    FAI_SIZES
#pragma unroll
    for (int n = 0; n < MT * DV / 8 * 4; n++) o[n / 4 / (DV / 8)][n / 4 % (DV / 8)][n % 4] *= factor;
}

/* P times the factors of V, which P must have before it is rounded: in units of the largest of the tile, so
 * that no element becomes larger, and none changes where all keys have the same. O is in these units, too. */
FAI_ATOM void FAI_(scale_p)(float p[FAI_MT][FAI_BN / 8][4], float o[FAI_MT][FA_HEAD_DIM_V / 8][4],
                            float *unit, uint32_t factors) {
    FAI_SIZES
    const int lane = (int)threadIdx.x % 32, column = FAI_C_COL(lane, 0);
    uint32_t most = 0; /* bits of numbers >= 0 have their order */
#pragma unroll
    for (int j = 0; j < BN; j += 32)
        most = max(most, __float_as_uint(fai_ld_shared_f32(factors + (BN + j + lane) * 4)));
    const float top = __uint_as_float(fai_redux_sync_max_u32(most));
    if (top != *unit && top > *unit * 0x1p-100f) FAI_(scale_o)(o, *unit / top), *unit = top; /* not 0 */
    const float inverse = 1 / *unit;
#pragma unroll
    for (int c = 0; c < BN / 4; c++) {
        const float by_key = fai_ld_shared_f32(factors + (BN + column + c / 2 * 8 + c % 2) * 4) * inverse;
#pragma unroll
        for (int n = 0; n < MT * 2; n++) p[n / 2][c / 2][n % 2 * 2 + c % 2] *= by_key;
    }
}
#endif

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
 * [FA4]. For fp8 it is always 8 below: P is to have its digits, and the largest of a row no error. l: the
 * thread's part of the row sums, of P before it is rounded: LSE is exact then, and errors of rounding have no
 * sign. */
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
            const float base = top[n] - FAI_P_LOG2;
            const float factor =
                top[n] > m[n] + 8 ? fai_ex2_approx_ftz_f32(m[n] - base) : 1; /* 0 the first time */
            m[n] = top[n] > m[n] + 8 ? base : m[n];
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

#if FAI_BYTES != 4 /* f32: the next chapter */

/* rq (mt, WIDTH/16, A4) <- Q */
FAI_ATOM void FAI_(fragments_q)(uint32_t (*rq)[4], uint32_t sq, const int mt) {
    enum { WIDTH = FAI_WIDTH(FA_HEAD_DIM, FAI_BYTES) };
#pragma unroll
    for (int n = 0; n < mt * WIDTH / 16; n++)
        fai_ldmatrix_x4(rq[n], FAI_MOVE(WIDTH, sq, n / (WIDTH / 16) * 16, n % (WIDTH / 16) * 2));
}

/* S = Q K^T: s (mt, number/8, C4), rq (mt, WIDTH/16, A4), which stays in registers or is loaded. sq, sk: the
 * lane's addresses of the first fragment of Q and of K */
FAI_ATOM void FAI_(gemm_qk)(float (*s)[4], uint32_t (*rq)[4], uint32_t sq, uint32_t sk, const int mt,
                            const int number, const int stays) {
    enum {
        WIDTH = FAI_WIDTH(FA_HEAD_DIM, FAI_BYTES),
        /* side by side: all, if registers allow */
        STEPS = FAI_UNPACKS(FAI_ARCH) && FAI_DIM > 128 ? 2 : WIDTH / 16
    };
#pragma unroll
    for (int n = 0; n < mt * number / 8 * 4; n++) s[n / 4][n % 4] = 0;
#pragma unroll STEPS
    for (int c = 0; c < WIDTH / 16; c++) {
#pragma unroll
        for (int a = 0; a < mt && !stays; a++)
            fai_ldmatrix_x4(rq[a * (WIDTH / 16) + c], FAI_MOVE(WIDTH, sq, a * 16, c * 2));
#pragma unroll
        for (int j = 0; j < number / 16; j++) {
            uint32_t rk[4]; /* (2, B2) */
            fai_ldmatrix_x4(rk, FAI_MOVE(WIDTH, sk, j * 16, c * 2));
#pragma unroll
            for (int a = 0; a < mt; a++) {
                float (*const to)[4] = s + a * (number / 8) + 2 * j;
                FAI_MMA(to[0], rq[a * (WIDTH / 16) + c], rk), FAI_MMA(to[1], rq[a * (WIDTH / 16) + c], rk + 2);
            }
        }
    }
}

#if FAI_BYTES == 2
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
#else
/* The same in bytes: o[2j] has the even columns of 16 j .. 16 j + 15, o[2j + 1] the odd ones. */
FAI_ATOM void FAI_(gemm_pv)(float (*o)[4], float (*p)[4], uint32_t sv, const int mt, const int number) {
    enum { DV = FA_HEAD_DIM_V, WIDTH_V = FAI_WIDTH(DV, FAI_BYTES) };
#pragma unroll
    for (int c = 0; c < number / 32; c++) {
        uint32_t rp[2][4]; /* (mt, A4) */
#pragma unroll
        for (int n = 0; n < mt * 4; n++) {
            float (*const x)[4] = p + n / 4 * (number / 8) + 4 * c + n % 4 / 2 * 2; /* (2, C4) */
            const int half = n % 2 * 2;
            rp[n / 4][n % 4] =
                fai_prmt_b32(fai_cvt_rn_satfinite_e4m3x2_f32(x[0][half + 1], x[0][half]),
                             fai_cvt_rn_satfinite_e4m3x2_f32(x[1][half + 1], x[1][half]), 0x5410);
        }
#pragma unroll
        for (int j = 0; j < DV / 16; j++) {
            uint32_t x[4];  /* of keys 0 .. 7, 8 .. 15, 16 .. 23, 24 .. 31: 2 keys, 2 columns of each */
            uint32_t rv[4]; /* (2, B2) */
            if (FAI_UNPACKS(FAI_ARCH) && DV > 128 && j % 2 == 0)
                __syncwarp(); /* ptxas would make f16 of V long before it is needed */
            fai_ldmatrix_x4_trans(x, FAI_MOVE(WIDTH_V, sv, c * 32, j));
            rv[0] = fai_prmt_b32(x[0], x[1], 0x6420), rv[1] = fai_prmt_b32(x[2], x[3], 0x6420);
            rv[2] = fai_prmt_b32(x[0], x[1], 0x7531), rv[3] = fai_prmt_b32(x[2], x[3], 0x7531);
#pragma unroll
            for (int a = 0; a < mt; a++) {
                float (*const to)[4] = o + a * (DV / 8) + 2 * j;
                FAI_MMA_PV(to[0], rp[a], rv), FAI_MMA_PV(to[1], rp[a], rv + 2);
            }
        }
    }
}
#endif

#else /* f32 */

/* ======================================================================================== */
/* >>f32      the same products by FFMA, with S and O where mma would have them               */
/* ======================================================================================== */

/* d += a.b */
FAI_ATOM void FAI_(dot)(float *d, float4 a, float4 b) {
    *d = fmaf(a.x, b.x, *d), *d = fmaf(a.y, b.y, *d), *d = fmaf(a.z, b.z, *d), *d = fmaf(a.w, b.w, *d);
}

/* S = Q K^T: s (mt, number/8, C4). sq, sk: where the thread's first row and its first key are.
 * Q has no fragments. */
FAI_ATOM void FAI_(gemm_qk)(float (*s)[4], uint32_t (*rq)[4], uint32_t sq, uint32_t sk, const int mt,
                            const int number, const int stays) {
    enum { D = FA_HEAD_DIM, WIDTH = FAI_WIDTH(D, 4), GROUP = FAI_GROUP(WIDTH) };
    const uint32_t odd =
        (sk ^ FAI_SWIZZLE(WIDTH, 1) * 16) + WIDTH * 2; /* the key after it, of an even number */
    (void)rq, (void)stays;
#pragma unroll
    for (int n = 0; n < mt * number / 8 * 4; n++) s[n / 4][n % 4] = 0;
#pragma unroll 2 /* more takes registers for addresses */
    for (int c = 0; c < D / 4; c++) {
        const uint32_t at = (uint32_t)(c / GROUP * GROUP * 16), swap = (uint32_t)(c % GROUP * 16);
        float4 q[4]; /* (mt * 2) */
#pragma unroll
        for (int n = 0; n < mt * 2; n++) q[n] = fai_ld_shared_v4_f32((sq ^ swap) + at + n * 8 * WIDTH * 2);
#pragma unroll
        for (int j = 0; j < number / 4; j++) {
            const float4 k =
                fai_ld_shared_v4_f32(((j % 2 ? odd : sk) ^ swap) + at + j / 2 * 8 * WIDTH * 2);
#pragma unroll
            for (int n = 0; n < mt * 2; n++)
                FAI_(dot)(&s[n / 2 * (number / 8) + j / 2][n % 2 * 2 + j % 2], q[n], k);
        }
    }
}

/* O += P V: o (mt, DV/8, C4), p (mt, number/8, C4). A lane has 4 of 16 columns, for which it needs the P that
 * other lanes of its quad have. sv: where its columns of key 0 are */
FAI_ATOM void FAI_(gemm_pv)(float (*o)[4], float (*p)[4], uint32_t sv, const int mt, const int number) {
    enum { DV = FA_HEAD_DIM_V, WIDTH_V = FAI_WIDTH(DV, 4) };
#pragma unroll
    for (int j = 0; j < number; j++) {
        float x[4]; /* (mt * 2) */
#pragma unroll
        for (int n = 0; n < mt * 2; n++)
            x[n] = fai_shfl_sync_idx_quad_f32(p[n / 2 * (number / 8) + j / 8][n % 2 * 2 + j % 2], j % 8 / 2);
#pragma unroll
        for (int c = 0; c < DV / 16; c++) {
            const float4 v =
                fai_ld_shared_v4_f32(FAI_MOVE(WIDTH_V, sv ^ FAI_SWIZZLE(WIDTH_V, j) * 16, j, c * 4));
#pragma unroll
            for (int n = 0; n < mt * 2; n++) {
                float *const even = o[n / 2 * (DV / 8) + c * 2] + n % 2 * 2, *const odd = even + 4;
                even[0] = fmaf(x[n], v.x, even[0]), odd[0] = fmaf(x[n], v.y, odd[0]);
                even[1] = fmaf(x[n], v.z, even[1]), odd[1] = fmaf(x[n], v.w, odd[1]);
            }
        }
    }
}

#endif /* f32 */

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
        m[n] = FAI_HAS(FA_SINK) && a->sink ? a->sink[FAI_(find)(t, row + n * 8).h] * FAI_LOG2E - FAI_P_LOG2
                                           : -INFINITY;
        /* the lanes of a quad add theirs up at the end */
        l[n] = m[n] != -INFINITY && threadIdx.x % 4 == 0 ? 1 << FAI_P_LOG2 : 0;
    }
}

#if FAI_BYTES != 2 || FA_O_DTYPE == FA_F32
/* One of the thread's rows of O (half: of 2 in o) times factor. The 2 or 4 adjacent elements that a lane has
 * are 8 or 16 bytes, and those of a quad whole sectors of 32 bytes. */
FAI_ATOM void FAI_(store_row)(void *to, float o[FA_HEAD_DIM_V / 8][4], int half, float factor) {
    FAI_SIZES
    const int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int c = 0; c < DV / 16; c++) {
        float *const x = o[c * 2] + half * 2, *const y = o[c * 2 + 1] + half * 2;
#if FAI_BYTES == 2
        float2 *const at = (float2 *)((float *)to + c * 16 + FAI_C_COL(lane, 0));
        at[0] = make_float2(x[0] * factor, x[1] * factor), at[4] = make_float2(y[0] * factor, y[1] * factor);
#elif FA_O_DTYPE == FA_F32
        *(float4 *)((float *)to + c * 16 + FAI_PAIRED_COL(lane, 0, 0)) =
            make_float4(x[0] * factor, y[0] * factor, x[1] * factor, y[1] * factor);
#else
        *(uint2 *)(void *)((uint16_t *)to + c * 16 + FAI_PAIRED_COL(lane, 0, 0)) =
            make_uint2(FAI_PACK_O(y[0] * factor, x[0] * factor), FAI_PACK_O(y[1] * factor, x[1] * factor));
#endif
    }
}
#endif

/* O / l and LSE; 16-bit rows of O go through shared memory, each warp its own, so that they are written
 * whole. row: the first of the thread's rows. */
FAI_ATOM void FAI_(epilogue)(const fa_args *a, const FAI_(tile) *t, float o[FAI_MT][FA_HEAD_DIM_V / 8][4],
                             const float m[FAI_MT * 2], float l[FAI_MT * 2], uint32_t shared, int row) {
    FAI_SIZES
    enum { GROUP = FAI_GROUP(DV), STEP = 32 / GROUP };
    const int lane = (int)threadIdx.x % 32, warp_row = (int)threadIdx.x / 32 * MT * 16;
    const fai_strides so = fai_strides_o(a, DV), sl = fai_strides_lse(a);
    const fa_sequence seq = FAI_(sequence)(a, t->b);
    (void)warp_row, (void)shared;
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
#if FAI_BYTES != 2 || FA_O_DTYPE == FA_F32
        const int64_t at = fai_offset_q(&seq, so, FAI_(find)(t, r).i, FAI_(find)(t, r).h);
        if (r < t->rows)
            FAI_(store_row)((char *)a->o.data + at * (FA_O_DTYPE == FA_F32 ? 4 : 2), o[n / 2], n % 2, factor);
#else
#pragma unroll
        for (int c = 0; c < DV / 8; c++)
            fai_st_shared_b32(
                shared + FAI_AT(DV, r, c) + lane % 4 * 4,
                FAI_PACK_O(o[n / 2][c][n % 2 * 2 + 1] * factor, o[n / 2][c][n % 2 * 2] * factor));
#endif
    }
#if FAI_BYTES == 2 && FA_O_DTYPE != FA_F32
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
#endif
}

/* Adds the elements of V that the kernel has taken for 0 to the rows that see them: in tiles, of bn keys,
 * that are masked in part, or everywhere. Each of `threads` has its own columns. O is written. */
FAI_ATOM void FAI_(add_infinite)(const fa_args *a, const FAI_(tile) *t, int everywhere, const int bn,
                                 const int threads, const int transposed) {
    enum { DV = FA_HEAD_DIM_V };
    const fai_strides so = fai_strides_o(a, DV);
    const fa_sequence seq = FAI_(sequence)(a, t->b);
    const FAI_(source) gv = FAI_(open)(a, t, &a->v, 0, DV);
    for (int32_t j = t->any.lo; j < t->any.hi; j++) {
        const int32_t first = j / bn * bn;
        if (!everywhere && first >= t->all.lo && first + bn <= t->all.hi)
            continue; /* whole tiles are right already */
        const FAI_ELEMENT *from =
            (const FAI_ELEMENT *)(gv.from + (FAI_HAS(FA_PAGED) && a->block_table
                                                 ? FAI_(paged)(a, t, &a->v, gv, (uint32_t)j, DV)
                                                 : j * gv.row));
        int64_t step = 1;
        if (transposed) {
            const fai_strides st = fai_strides_transposed(a, DV);
            const int64_t column = fa_transposed_column(seq.row_k, seq.b - seq.b_k, j);
            from = (const FAI_ELEMENT *)a->v.data + seq.b_k * st.b + t->head_k * st.h + column, step = st.s;
        }
        for (int d = (int)threadIdx.x; d < DV; d += threads) {
            if ((from[d * step] & FAI_EXPONENT) != FAI_EXPONENT) continue;
            for (int r = 0; r < t->rows; r++) {
                const FAI_(row) at = FAI_(find)(t, r);
                if (!FAI_(counts)(a, t, at, j)) continue;
                const int64_t o = fai_offset_q(&seq, so, at.i, at.h) + d;
                float v = fa_load(from, d * step, FA_DTYPE);
#if FAI_BYTES == 1
                v *= FAI_(factor)(a, t, &a->v_descale, t->head_k, j);
#endif
                fa_store(a->o.data, o, FA_O_DTYPE, fa_load(a->o.data, o, FA_O_DTYPE) + v);
            }
        }
    }
}

#if (FA_PASSES) & FA_FORWARD
static __global__ void __launch_bounds__(FAI_THREADS)
    FAI_(forward_kernel)(const __grid_constant__ fa_args args) {
#if FAI_BYTES != 1 || FAI_ARCH >= 890 /* else the call is refused */
    FAI_SIZES
    extern __shared__ __align__(128) unsigned char fai_shared[];
    enum { SQ = 0, SK = BM * WIDTH * 2, SV = SK + BN * WIDTH * 2, STAGE = FAI_TILE_STAGE(FAI_ARCH) };
    enum { TILE = FAI_TILE_BYTES(FAI_ARCH) };
    FAI_(tile) *const t = (FAI_(tile) *)(void *)(fai_shared + TILE);
    /* the last tile goes first: under a causal mask it is the longest */
    if (!FAI_(begin)(&args, t, gridDim.x - 1 - blockIdx.x, BM)) return;

    const uint32_t shared = fai_cvta_to_shared(fai_shared);
    const int lane = (int)threadIdx.x % 32, warp_row = (int)threadIdx.x / 32 * MT * 16;
    const int row = warp_row + FAI_C_ROW(lane, 0); /* the thread's rows: row, row + 8 .. */
    const uint32_t sq = shared + SQ + FAI_FIRST_Q(warp_row, lane);
    const uint32_t sk = shared + SK + FAI_FIRST_K(lane), sv = shared + SV + FAI_FIRST_V(lane);
    const FAI_(source) gk = FAI_(open)(&args, t, &args.k, (int)threadIdx.x, D),
                       gv = FAI_(open)(&args, t, &args.v, (int)threadIdx.x, DV);
    const int modified = FAI_(is_modified)(&args), masked = FAI_(is_masked)(&args);
    const int drops = FAI_HAS(FA_DROPOUT) && args.dropout_p > 0;
    float scale = args.softmax_scale != 0 ? fabsf(args.softmax_scale) : rsqrtf((float)D);
#if FAI_BYTES == 1
    enum { SF = SV + BN * WIDTH_V * 2 }; /* factors */
    float unit = 1e-37f;                 /* of O */
    if (!FAI_(by_key)(&args.v_descale)) unit = FAI_(factor)(&args, t, &args.v_descale, t->head_k, 0);
    scale *= FAI_(scale_tile)(&args, t);
#endif
    scale = fmaxf(scale, 1e-37f);

    uint32_t rq[MT][WIDTH / 16][4];               /* (MT, WIDTH/16, A4) */
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
#if FAI_BYTES == 1
        FAI_(load_factors)(&args, t, last, shared + SF);
#endif
    }
    /* right to left: the tiles to mask are the first and the last, if any */
    for (int32_t first = last, next; first >= end; first = next) {
        next = FAI_(next)(&args, t, first, end);
        const int mask = masked || first < t->all.lo || first + BN > t->all.hi;
        fai_cp_async_wait_all();
        if (first == last && args.softmax_scale < 0) FAI_(negate_q)(shared + SQ);
        if (STAGES == 2 && (mask || drops))
            infinite |= FAI_(make_finite)(shared + SV + stage, (int)threadIdx.x, THREADS, BN);
        __syncthreads(); /* K is there (V too, in 2 stages), for all; nobody reads the other stage (V) any more */
#if FAI_BYTES != 4
        if (first == last && Q_STAYS) FAI_(fragments_q)(rq[0], sq, MT);
#endif
        if (STAGES == 1) FAI_(load_kv)(&args, t, &args.v, gv, first, shared + SV, DV);
        if (STAGES == 2 && next >= end) {
            FAI_(load_kv)(&args, t, &args.k, gk, next, shared + SK + (STAGE - stage), D);
            FAI_(load_kv)(&args, t, &args.v, gv, next, shared + SV + (STAGE - stage), DV);
#if FAI_BYTES == 1
            FAI_(load_factors)(&args, t, next, shared + SF + (STAGE - stage));
#endif
        }

        float s[MT][BN / 8][4]; /* (MT, BN/8, C4) */
        FAI_(gemm_qk)(s[0], rq[0], sq, sk + stage, MT, BN, Q_STAYS);
#if FAI_BYTES == 1
        if (FAI_(is_scaled)(&args)) FAI_(scale_s)(&args, t, s, shared + SF + stage, row);
#endif
        if (FAI_SCORES && modified) FAI_(modify)(&args, t, s[0], first, row, scale, MT, BN);
        if (mask) FAI_(mask)(&args, t, s[0], first, row, MT, BN);
        FAI_(softmax)(s[0], o[0], m, l, modified ? 1 : scale * FAI_LOG2E, MT, BN, DV);
        if (drops) FAI_(dropout)(&args, t, s[0], first, row, MT, BN);
#if FAI_BYTES == 1
        if (FAI_(by_key)(&args.v_descale)) FAI_(scale_p)(s, o, &unit, shared + SF + stage);
#endif

        if (STAGES == 1) {
            fai_cp_async_wait_all();
            if (mask || drops) infinite |= FAI_(make_finite)(shared + SV, (int)threadIdx.x, THREADS, BN);
            __syncthreads(); /* V is there, for all; nobody reads K any more, nor factors */
            if (next >= end) FAI_(load_kv)(&args, t, &args.k, gk, next, shared + SK, D);
#if FAI_BYTES == 1
            if (next >= end) FAI_(load_factors)(&args, t, next, shared + SF);
#endif
        }
        FAI_(gemm_pv)(o[0], s[0], sv + stage, MT, BN);
        if (STAGES == 2) stage = STAGE - stage;
    }
    infinite = __syncthreads_or(infinite); /* nobody reads shared memory any more: it is free for O */
#if FAI_BYTES == 1
    FAI_(scale_o)(o, unit);
#endif
    FAI_(epilogue)(&args, t, o, m, l, shared, row);
    if (infinite) {
        __syncthreads(); /* O is written */
        FAI_(add_infinite)(&args, t, masked || drops, BN, THREADS, 0);
    }
#endif
}
#endif /* FA_FORWARD */

#if FAI_HOPPER
/* ======================================================================================== */
/* >>hopper   [FA3] the same for sm_90a: TMA, wgmma, warps that load and warps that compute  */
/* ======================================================================================== */

/*  Warpgroups 0 .. wgs - 1 compute 64 rows each. Of the last one, a warp copies by TMA, one finds the tiles
 *  of queries, two mend V; where TMA cannot, the first gets K and these V by cp.async. K and V are rings of
 *  two stages, so that the product Q K of the next tile of bn keys runs during a softmax:
 *
 *      copies     Q K0 K1 V0 K2 V1 ..
 *      products   S0 = Q K0 | S1 = Q K1, O += P0 V0 | S2 = Q K2, O += P1 V1 | .. | O += Pn Vn
 *      softmax              P0                      P1                      ..  Pn
 *
 *  One warpgroup issues its products while the others are in their softmax: they take turns.
 *  A block computes one tile of queries after the other. What a tile is stands in one of two structs, so that
 *  K0, K1 and V0 of the next, and its Q where O has shared memory of its own, are on their way while O is
 *  stored.
 *  The other shape up to 64 dims is one warpgroup that does everything, for one tile of queries; three blocks
 *  an SM hide what each waits for.
 *  Shared memory: barriers and tile structs; K; V; Q by warpgroup; O, there or where Q was. In panels of 64
 *  columns.
 *
 *  fp8 has the same roles, rings and turns, with bytes where 16 bits are. What differs: V is there by
 *  columns, of 128 keys each, in the order that P has in the threads (FAI_PAIRED_KEY); P takes half the
 *  registers; the softmax has a maximum; factors of Q, K and V are part of the scale and of P
 *  (FAI_(factors)); O in f32 goes to memory from registers.
 *
 *  What a warp issues for 64 queries and 128 keys where no mask cuts the tile, counted in the machine code,
 *  and the clocks of the other parts of an SM by published rates: a model, not measured
 *  (bench/hopper_cost.sh).
 *
 *      tile             issue slots   tensor cores   exp2   shared memory
 *      d64   192 x 128          324            512    512             405
 *      d64    64 x 128          387            512    512             576
 *      d128  128 x 128          333           1024    512             896
 *      d128  128 x 176          321           1024    512             861
 *      d192  128 x 112          374           1536    512            1371
 *      d256  128 x  80          438           2048    512            1946
 *
 *  So tensor cores limit: with them exp2 at 64 dims, and shared memory where a block has 64 rows. A quarter
 *  of the exponentials by a polynomial would take 384 clocks of exp2 and some 110 issue slots more, and
 *  change nothing about the 512 of the tensor cores.
 *  A tile that a mask cuts issues at most 770, 820, 930, 1150 at 64, 128, 192, 256 dims. This is added there
 *  at most, and to all tiles, at 64 dims: ALiBi 370, dropout 850, bias 2080 (its three types, of which one
 *  runs), softcap 2440, FA_SCORE_MOD 50 and what it computes; a sink nothing; block and tree masks ask for
 *  key after key, in a loop. */
#define FAI_HOPPER_THREADS (FAI_HOPPER_WGS * 128 + 128)
#define FAI_HOPPER_SIZES \
    enum { \
        D = FA_HEAD_DIM, \
        DV = FA_HEAD_DIM_V, \
        COLUMNS = 128 / FAI_BYTES, /* of a panel of Q, K and V */ \
        Q_PANEL = 64 * 128 \
    };
#define FAI_HOPPER_PANELS FAI_PANELS(FA_HEAD_DIM *FAI_BYTES / 2) /* of Q and K */
#define FAI_HOPPER_PANELS_O (FA_O_DTYPE == FA_F32 ? 0 : FAI_PANELS(FA_HEAD_DIM_V))
#define FAI_HOPPER_K_BYTES(bn) (FAI_HOPPER_PANELS * (bn)*128) /* of a stage */
#define FAI_HOPPER_V_BYTES(bn) (FAI_BYTES == 1 ? FA_HEAD_DIM_V * 128 : FAI_PANELS(FA_HEAD_DIM_V) * (bn)*128)
#define FAI_HOPPER_TILES 128 /* behind the barriers */
#define FAI_HOPPER_SK 2048
#define FAI_HOPPER_SV(bn) (FAI_HOPPER_SK + 2 * FAI_HOPPER_K_BYTES(bn))
#define FAI_HOPPER_SQ(bn) (FAI_HOPPER_SV(bn) + 2 * FAI_HOPPER_V_BYTES(bn))
/* where O is next to Q, if it fits and the block has more than one tile; what all takes */
#define FAI_HOPPER_SO(wgs, bn) (FAI_HOPPER_SQ(bn) + (wgs)*FAI_HOPPER_PANELS * 64 * 128)
#define FAI_HOPPER_BOTH(wgs, bn) (FAI_HOPPER_SO(wgs, bn) + (wgs)*FAI_HOPPER_PANELS_O * 64 * 128)
#define FAI_HOPPER_OWN_O(wgs, bn) ((wgs) > 1 && FAI_HOPPER_BOTH(wgs, bn) <= 227 * 1024)
#define FAI_HOPPER_Q_BYTES(wgs, bn) /* of a warpgroup */ \
    ((FAI_HOPPER_OWN_O(wgs, bn) || FAI_HOPPER_PANELS > FAI_HOPPER_PANELS_O ? FAI_HOPPER_PANELS \
                                                                           : FAI_HOPPER_PANELS_O) * \
     64 * 128)
#define FAI_HOPPER_SHARED(wgs, bn) \
    (FAI_HOPPER_OWN_O(wgs, bn) ? FAI_HOPPER_BOTH(wgs, bn) \
                               : FAI_HOPPER_SQ(bn) + (wgs)*FAI_HOPPER_Q_BYTES(wgs, bn))
#define FAI_HOPPER_P(bn) ((bn)*FAI_BYTES / 8) /* registers of P */
FA_STATIC_ASSERT(FAI_HOPPER_TILES + 2 * sizeof(FAI_(tile)) <= FAI_HOPPER_SK,
                 "flashattn_cuda.cuh: FAI_HOPPER_SK is too small");
/* mbarriers; those of stage 1, or of the other tile struct, are 8 behind those of stage 0 */
#define FAI_Q_FULL 0
#define FAI_Q_EMPTY 8
#define FAI_TILE_FULL 16
#define FAI_TILE_EMPTY 32
#define FAI_K_FULL 48
#define FAI_K_EMPTY 64
#define FAI_V_FULL 80
#define FAI_V_EMPTY 96
#define FAI_V_RAW 112 /* V is there, but has to be mended */
/* named barriers; 0 is __syncthreads */
#define FAI_BAR_TURN 1                        /* + warpgroup: it may issue products */
#define FAI_BAR_WG (1 + FAI_HOPPER_WGS)       /* + warpgroup: its threads */
#define FAI_BAR_MEND (1 + 2 * FAI_HOPPER_WGS) /* the threads that mend V */
#define FAI_BAR_ALL (2 + 2 * FAI_HOPPER_WGS)  /* all that compute */

FAI_ATOM int FAI_(drops)(const fa_args *a) { return FAI_HAS(FA_DROPOUT) && a->dropout_p > 0; }
FAI_ATOM int FAI_(skips)(const fa_args *a) { return FAI_HAS(FA_BLOCK_MASK) && a->block_mask.data; }
FAI_ATOM float FAI_(scale)(const fa_args *a) {
    const float x = a->softmax_scale != 0 ? a->softmax_scale : rsqrtf((float)FA_HEAD_DIM);
    return copysignf(fmaxf(fabsf(x), 1e-37f), x);
}

/* Keys of the tiles, right to left: t->last .. first_tile; none if t->last is less. */
FAI_ATOM int32_t FAI_(first_tile)(const FAI_(tile) *t, const int bn) { return t->any.lo / bn * bn; }

/* ---- what the warps that load have to find ----------------------------------------------- */

/* The tile of bn keys from `first` on, or the next to the left, in which some row sees a key; less than end
 * if there is none. All lanes of a warp ask. */
FAI_ATOM int32_t FAI_(seen)(const fa_args *a, const FAI_(tile) *t, int32_t first, int32_t end, const int bn) {
    if (!FAI_(skips)(a)) return first;
    const fa_sequence seq = {t->b, t->len_q, t->len_k, 0, 0, 0, 0};
#pragma unroll 1
    for (; first >= end; first -= bn) {
        const int32_t stop = first + bn < t->any.hi ? first + bn : t->any.hi;
        int visible = 0;
#pragma unroll 1
        for (int32_t r = (int32_t)threadIdx.x % 32; r < t->rows && !visible; r += 32) {
            const FAI_(row) at = FAI_(find)(t, r);
            for (int32_t j = first; j < stop && !visible;
                 j = (j / a->block_mask.block_k + 1) * a->block_mask.block_k)
                visible = fa_block_visible(a, &seq, at.h, at.i, j);
        }
        if (__any_sync(~0u, visible)) break;
    }
    return first;
}

/* Tile `number` of all. Those of `section` heads are interleaved, their tiles in order, in every other section
 * backwards: so tiles that follow one another are about equally long, and the last of all are the first of
 * their heads, under a causal mask the shortest. By threads 0 .. step - 1. */
FAI_ATOM int FAI_(hopper_tile)(const fa_args *a, FAI_(tile) *t, const fa_cuda_maps *m, const int bm,
                               uint32_t number, const int32_t thread, const int step) {
    const uint32_t heads = m->total / m->tiles, section = number / (m->section * m->tiles),
                   rest = number % (m->section * m->tiles);
    const uint32_t left = heads - section * m->section, wide = left < m->section ? left : m->section;
    const int backwards = (left - 1) / m->section % 2 == 0; /* the last section is */
    return FAI_(set_tile)(a, t, bm, m->group, backwards ? m->tiles - 1 - rest / wide : rest / wide,
                          section * m->section + rest % wide, thread, step);
}

/* The rest of *t, when all threads have done that: by one warp. */
FAI_ATOM void FAI_(set_keys)(const fa_args *a, FAI_(tile) *t, uint32_t n, const int bn) {
    const int32_t lo = t->any.lo, hi = t->any.hi, end = FAI_(first_tile)(t, bn);
    const int32_t last = lo < hi ? FAI_(seen)(a, t, (hi - 1) / bn * bn, end, bn) : end - bn;
    if (threadIdx.x % 32 == 0) {
        const fa_sequence seq = FAI_(sequence)(a, t->b);
        t->keys = fai_spot_k(a, &seq), t->last = last, t->n = n;
#if FAI_BYTES == 1
        t->column = (int32_t)fa_transposed_column(seq.row_k, seq.b - seq.b_k, 0);
#endif
    }
}

/* The number of the tile after this block's first `round`. With a counter the first block that is free
 * takes the longest tile that is left; that is asked m->total times in all, which brings the counter back
 * to 0. Without, the order of the blocks changes from round to round, so that none always gets the longer
 * one. */
FAI_ATOM uint32_t FAI_(number_of)(const fa_cuda_maps *m, uint32_t round) {
    const uint32_t blocks = gridDim.x, own = blockIdx.x;
    if (m->counter) return blocks + fai_atom_global_inc_u32(m->counter, m->total - 1);
    return round * blocks + (round % 2 ? blocks - 1 - own : own);
}

/* A warp finds the tiles of this block that have rows, and tells the others; rows 0: there is none any
 * more. It asks for a tile when the one before has begun, not earlier: another block may be free sooner. */
FAI_ATOM void FAI_(find_tiles)(const fa_args *a, FAI_(tile) *tiles, const fa_cuda_maps *m, uint32_t shared,
                               const int wgs, const int bn) {
    const int32_t lane = (int32_t)threadIdx.x % 32;
    uint32_t number = blockIdx.x, round = 0;
    int found;
    for (uint32_t n = 0;; n++) {
        FAI_(tile) *const t = tiles + n % 2;
        fai_mbarrier_try_wait_parity(shared + FAI_TILE_EMPTY + n % 2 * 8, n / 2 % 2 ^ 1); /* free */
        for (found = 0; !found && number < m->total; round++) {
            if (round > 0) {
                if (lane == 0) number = FAI_(number_of)(m, round);
                number = __shfl_sync(~0u, number, 0);
            }
            found = number < m->total && FAI_(hopper_tile)(a, t, m, wgs * 64, number, lane, 32);
        }
        __syncwarp(); /* *t is written, but for the keys */
        if (found)
            FAI_(set_keys)(a, t, n, bn);
        else if (lane == 0)
            t->rows = 0;
        if (lane == 0) fai_mbarrier_arrive(shared + FAI_TILE_FULL + n % 2 * 8);
        if (!found) return;
    }
}

/* ---- the warps that load ----------------------------------------------------------------- */

/* Are K and V copied in boxes of pages? The other shapes have no pages, a transposed V neither. */
FAI_ATOM int FAI_(by_pages)(const fa_args *a, const int wgs, const int bn) {
    const int usual = bn == FAI_HOPPER_N && wgs == FAI_HOPPER_WGS && FAI_BYTES == 2;
    return FAI_HAS(FA_PAGED) && usual && a->block_table != NULL;
}

/* The tile of K or V from key `first` on, whose barrier is told. By one thread; of pages by a warp, a box,
 * which lies in one, by each lane: so the places of all are found at once. */
FAI_ATOM void FAI_(copy_kv)(const fa_args *a, const FAI_(tile) *t, const fa_cuda_maps *m,
                            const CUtensorMap *map, int32_t first, uint32_t to, uint32_t bar, const int dim,
                            const int wgs, const int bn) {
    const int32_t head = t->head_k, lane = (int32_t)threadIdx.x % 32;
    FAI_HOPPER_SIZES
    const int panels = FAI_PANELS(dim * FAI_BYTES / 2);
    const uint32_t panel = bn * 128;
    fai_spot from = t->keys;
    from.x += first;
    if (FAI_(by_pages)(a, wgs, bn)) {
        const int32_t rows = m->page_rows, size = a->page_size, place = lane * rows;
        if (lane == 0) fai_mbarrier_arrive_expect_tx(bar, panels * panel); /* some may be there */
        if (place >= bn) return;
        /* pages that no row sees may not exist: a neighbour instead, which will be masked */
        int32_t j = first + place < t->any.hi ? first + place : t->any.hi - 1;
        j = j + rows > t->any.lo ? j : t->any.lo;
        const int32_t number = j / size;
        from.x = (j - number * size) / rows * rows;
        from.y = a->block_table[t->b * fai_table_stride(a) + number], from.z = 0, to += place * 128;
    } else
        fai_mbarrier_arrive_expect_tx(bar, panels * panel);
#pragma unroll
    for (int p = 0; p < panels; p++)
        fai_cp_async_bulk_tensor_5d_load(to + p * panel, map, bar, p * COLUMNS, head, from.x, from.y, from.z);
}

FAI_ATOM void FAI_(copy_q)(const fa_args *a, const FAI_(tile) *t, const fa_cuda_maps *m, uint32_t shared,
                           const int wgs, const int bn) {
    FAI_HOPPER_SIZES
    const fa_sequence seq = FAI_(sequence)(a, t->b);
    const fai_spot q = fai_spot_q(a, &seq);
    fai_mbarrier_arrive_expect_tx(shared + FAI_Q_FULL, wgs * FAI_HOPPER_PANELS * Q_PANEL);
#pragma unroll 1
    for (int n = 0; n < wgs; n++)
#pragma unroll
        for (int p = 0; p < FAI_HOPPER_PANELS; p++)
            fai_cp_async_bulk_tensor_5d_load(
                shared + FAI_HOPPER_SQ(bn) + n * FAI_HOPPER_Q_BYTES(wgs, bn) + p * Q_PANEL, &m->q,
                shared + FAI_Q_FULL, p * COLUMNS, t->first_h, q.x + t->first + n * (64 / m->group), q.y, q.z);
}

FAI_ATOM void FAI_(copy_k)(const fa_args *a, const FAI_(tile) *t, const fa_cuda_maps *m, uint32_t shared,
                           int32_t first, uint32_t stage, const int wgs, const int bn) {
    FAI_(copy_kv)(a, t, m, &m->k, first, shared + FAI_HOPPER_SK + stage * FAI_HOPPER_K_BYTES(bn),
                  shared + FAI_K_FULL + 8 * stage, FA_HEAD_DIM, wgs, bn);
}
/* V; fp8: its columns are rows, of 128 keys */
FAI_ATOM void FAI_(copy_v)(const fa_args *a, const FAI_(tile) *t, const fa_cuda_maps *m, uint32_t shared,
                           int32_t first, uint32_t stage, uint32_t bar, const int wgs, const int bn) {
    const uint32_t to = shared + FAI_HOPPER_SV(bn) + stage * FAI_HOPPER_V_BYTES(bn);
    bar += shared + 8 * stage;
#if FAI_BYTES == 1
    fai_mbarrier_arrive_expect_tx(bar, FAI_HOPPER_V_BYTES(bn));
    fai_cp_async_bulk_tensor_5d_load(to, &m->v, bar, t->column + first, 0, t->head_k,
                                     FAI_HAS(FA_VARLEN) && a->cu_seqlens_k ? 0 : t->b, 0);
#else
    FAI_(copy_kv)(a, t, m, &m->v, first, to, bar, FA_HEAD_DIM_V, wgs, bn);
#endif
}

/* ---- K and V by cp.async, where TMA makes no boxes of them ------------------------------- */

/*  The warp that copies by TMA fetches K, the two that mend V fetch it, too. Each thread waits for its own
 *  copies and fences them off for wgmma; then they arrive where TMA would.
 *
 *  8 threads take a row at a time, of each panel one chunk: thread l always the one at place l % 8, whatever
 *  the swizzle has put there. Where rows begin one lane each looks up, while the tile before is on its way.
 *  At 128 dims a warp issues 7 instructions for 4 rows, counted in the machine code: 224 for a tile of K of 128
 *  keys, and each of two warps 112 for V. Tensor cores compute 2048 clocks with such a tile, for one of which a
 *  stage is being filled while the other is read: so one warp for K will do, and with two stages there is no
 *  second tile to ask for before the first is there (a model, not measured).
 *  A kernel of its own: with both ways in one, the warps that load would have to spill. */

/* From source.from to row l / 8 of pass l % 8 + 8 n of lane l's warp, in 16 bytes: launch sees to it that 32
 * bits will do. FAI_UNSEEN_KEY: no row of queries sees that key; neither it nor its page need exist. */
#define FAI_UNSEEN_KEY 0xffffffffu
typedef struct FAI_(offsets) {
    uint32_t at[(FAI_HOPPER_N + 31) / 32];
} FAI_(offsets);

FAI_ATOM FAI_(offsets) FAI_(look_up)(const fa_args *a, const FAI_(tile) *t, const fa_tensor *x,
                                     FAI_(source) s, int32_t first, const int threads, const int dim,
                                     const int bn) {
    const uint32_t thread = fai_tid() % threads, size = fai_unknown((uint32_t)a->page_size);
    const uint32_t of_row = (uint32_t)(s.row / 8), of_page = (uint32_t)(fai_strides_kv(a, x, dim).b / 8);
    const int32_t own = (int32_t)(thread % 8 * (threads / 8) + thread / 8);
    FAI_(offsets) o;
#pragma unroll
    for (int n = 0; n * threads < bn; n++) {
        const int32_t row = n * threads + own, j = first + row;
        o.at[n] = FAI_UNSEEN_KEY;
        if (row >= bn || j < t->any.lo || j >= t->any.hi) continue;
        o.at[n] = (uint32_t)j * of_row;
        if (FAI_HAS(FA_PAGED) && a->block_table) {
            const uint32_t number = (uint32_t)j / size, width = ((uint32_t)a->seqlen_k + size - 1) / size;
            const int64_t stride = a->block_table_stride ? a->block_table_stride : width;
            const uint32_t page = (uint32_t)a->block_table[t->b * stride + number];
            o.at[n] = page * of_page + ((uint32_t)j - number * size) * of_row;
        }
    }
    return o;
}

/* bn rows to the stage at `to`; zeros for keys that no row sees, and behind the columns. */
FAI_ATOM void FAI_(fetch)(FAI_(source) s, const FAI_(offsets) *o, uint32_t to, const int threads,
                          const int dim, const int bn) {
    const int step = threads / 8; /* rows of a pass */
    const uint32_t thread = fai_tid() % threads;
    to += thread * 16;
#pragma unroll
    for (int r = 0; r < bn; r += step) {
        const uint32_t chunk = thread % 8 ^ (r + thread / 8) % 8;
        const uint32_t at = fai_shfl_sync_idx_oct_b32(o->at[r / step / 8], r / step % 8);
        const char *const from = (const char *)s.from + chunk * 16 + (uint64_t)at * 16;
#pragma unroll
        for (int c = 0; c < FAI_PANELS(dim) * 8; c += 8)
            fai_cp_async_cg_16_ignore(to + c * (bn * 16) + r * 128, from + c * 16,
                                      at == FAI_UNSEEN_KEY || (c + 8 > dim / 8 && c + chunk >= dim / 8));
    }
}

/* Must V of this tile be mended? The same for all warpgroups. */
FAI_ATOM int FAI_(is_mended)(const fa_args *a, const FAI_(tile) *t, int32_t first, const int bn) {
    return FAI_(is_masked)(a) || FAI_(drops)(a) || first < t->all.lo || first + bn > t->all.hi;
}

/* Copies Q and all the tiles of K and, one behind, of V. n: tiles of queries before; ring: tiles of keys
 * before, those of this one included when it returns. */
FAI_ATOM uint32_t FAI_(copy_tile)(const fa_args *a, FAI_(tile) *t, const fa_cuda_maps *m, uint32_t shared,
                                  uint32_t n, uint32_t ring, const int wgs, const int bn) {
    const int32_t end = FAI_(first_tile)(t, bn), leads = threadIdx.x % 32 == 0,
                  copies = leads || FAI_(by_pages)(a, wgs, bn);
    int32_t first = t->last, next = first, before = 0;
    if (first < end) { /* nothing to multiply */
        fai_mbarrier_try_wait_parity(shared + FAI_Q_EMPTY, n % 2 ^ 1);
        if (leads) fai_mbarrier_arrive(shared + FAI_Q_FULL);
        return ring;
    }
#pragma unroll 1
    for (int step = 0;; step++, ring++, before = first, first = next) {
        const uint32_t stage = ring % 2, other = stage ^ 1;
        __syncwarp(); /* the lanes go together: none may come so late that it misses a phase */
        if (first >= end) {
            next = FAI_(seen)(a, t, first - bn, end, bn);
            fai_mbarrier_try_wait_parity(shared + FAI_K_EMPTY + 8 * stage, ring / 2 % 2 ^ 1);
            if (leads && FAI_(skips)(a)) t->next_k[stage] = next;
            if (copies) FAI_(copy_k)(a, t, m, shared, first, stage, wgs, bn);
        }
        if (step) {
            const uint32_t full = FAI_(is_mended)(a, t, before, bn) ? FAI_V_RAW : FAI_V_FULL;
            fai_mbarrier_try_wait_parity(shared + FAI_V_EMPTY + 8 * other, (ring - 1) / 2 % 2 ^ 1);
            if (leads && FAI_(skips)(a)) t->next_v[other] = first;
            if (copies) FAI_(copy_v)(a, t, m, shared, before, other, full, wgs, bn);
        }
        if (step == (n != 0)) { /* it is free later than the stages */
            fai_mbarrier_try_wait_parity(shared + FAI_Q_EMPTY, n % 2 ^ 1);
            if (leads) FAI_(copy_q)(a, t, m, shared, wgs, bn);
        }
        if (first < end) return ring;
    }
}

/* The same of Q and K where K comes by cp.async; others fetch V. */
FAI_ATOM uint32_t FAI_(fetch_tile)(const fa_args *a, FAI_(tile) *t, const fa_cuda_maps *m, uint32_t shared,
                                   uint32_t n, uint32_t ring, const int wgs, const int bn) {
    const int32_t last = t->last, end = FAI_(first_tile)(t, bn);
    const uint32_t lane = fai_tid() % 32u, leads = lane == 0;
    const FAI_(source) k = FAI_(open)(a, t, &a->k, 0, FA_HEAD_DIM);
    FAI_(offsets) rows = FAI_(look_up)(a, t, &a->k, k, last, 32, FA_HEAD_DIM, bn);
#pragma unroll 1
    for (int32_t first = last, next; first >= end; first = next, ring++) {
        const uint32_t stage = ring % 2;
        fai_mbarrier_try_wait_parity(shared + FAI_K_EMPTY + 8 * stage, ring / 2 % 2 ^ 1); /* nobody reads it */
        FAI_(fetch)(k, &rows, shared + FAI_HOPPER_SK + stage * FAI_HOPPER_K_BYTES(bn), 32, FA_HEAD_DIM, bn);
        if (first == last) {
            fai_mbarrier_try_wait_parity(shared + FAI_Q_EMPTY, n % 2 ^ 1); /* Q of the tile before is read */
            if (leads) FAI_(copy_q)(a, t, m, shared, wgs, bn);
        }
        next = FAI_(seen)(a, t, first - bn, end, bn);
        if (leads && FAI_(skips)(a)) t->next_k[stage] = next;
        if (next >= end) rows = FAI_(look_up)(a, t, &a->k, k, next, 32, FA_HEAD_DIM, bn);
        fai_cp_async_wait_all(); /* what this lane has fetched of K is there */
        fai_fence_proxy_async(); /* and what wgmma will read */
        __syncwarp();            /* all lanes have fenced */
        if (leads) fai_mbarrier_arrive(shared + FAI_K_FULL + 8 * stage);
    }
    if (last < end) { /* nothing to multiply */
        fai_mbarrier_try_wait_parity(shared + FAI_Q_EMPTY, n % 2 ^ 1);
        if (leads) fai_mbarrier_arrive(shared + FAI_Q_FULL);
    }
    return ring;
}

/* A warp copies what the others multiply. */
FAI_ATOM void FAI_(produce)(const fa_args *a, FAI_(tile) *tiles, const fa_cuda_maps *m, uint32_t shared,
                            const int by_rows, const int wgs, const int bn) {
    uint32_t ring = 0;
#pragma unroll 1
    for (uint32_t n = 0;; n++) {
        FAI_(tile) *const t = tiles + n % 2;
        fai_mbarrier_try_wait_parity(shared + FAI_TILE_FULL + n % 2 * 8, n / 2 % 2); /* *t may be read */
        if (t->rows == 0) return;
        ring = by_rows ? FAI_(fetch_tile)(a, t, m, shared, n, ring, wgs, bn)
                       : FAI_(copy_tile)(a, t, m, shared, n, ring, wgs, bn);
        __syncwarp(); /* the warp no longer reads *t */
        if (threadIdx.x % 32 == 0) fai_mbarrier_arrive(shared + FAI_TILE_EMPTY + n % 2 * 8);
    }
}

#if FAI_BYTES == 1
/* 0xff for each of 4 places from `place` on of 16 keys that is one of keys lo .. hi - 1 */
FAI_ATOM uint32_t FAI_(seen_places)(const int place, int32_t lo, int32_t hi) {
    uint32_t mask = 0;
#pragma unroll
    for (int e = 0; e < 4; e++) {
        const int key = FAI_PAIRED_KEY(place + e);
        if (key >= lo && key < hi) mask |= 0xffu << 8 * e;
    }
    return mask;
}
/* 16 keys of a column, from key j on: those that no row sees become zeros, and what is NaN, which 1 tells. */
FAI_ATOM int FAI_(mend_keys)(const FAI_(tile) *t, uint32_t at, int32_t j) {
    const int32_t lo = t->any.lo - j, hi = t->any.hi - j;
    if (lo > 0 || hi < 16) {
        uint4 x = fai_ld_shared_v4_b32(at);
        x.x &= FAI_(seen_places)(0, lo, hi), x.y &= FAI_(seen_places)(4, lo, hi);
        x.z &= FAI_(seen_places)(8, lo, hi), x.w &= FAI_(seen_places)(12, lo, hi);
        fai_st_shared_v4_b32(at, x);
    }
    return FAI_(make_chunk_finite)(at);
}
#endif

/* Makes rows of V that no row of the tile sees zeros, and what is not finite, too, as in make_finite: by
 * threads 0 .. step - 1. 1 if this thread found such an element. The first product with a tile under the
 * diagonal waits for this: several chunks are asked for before one is looked at, and mostly there is nothing
 * to do. */
FAI_ATOM int FAI_(mend_stage)(const FAI_(tile) *t, uint32_t sv, int32_t first, uint32_t thread,
                              const int step, const int bn) {
    const int chunks = FAI_HOPPER_V_BYTES(bn) / 16;
    int found = 0;
#if FAI_BYTES == 1
#pragma unroll 1
    for (uint32_t c = thread; c < chunks; c += step)
        found |= FAI_(mend_keys)(t, sv + c * 16, first + (int32_t)(c % 8 ^ c / 8 % 8) * 16);
#else
    const int many = chunks / step % 4 == 0 ? 4 : chunks / step % 2 == 0 ? 2 : 1;
    const int32_t lo = t->any.lo - first, hi = t->any.hi - first;
#pragma unroll 1
    for (uint32_t c = thread; c < chunks; c += many * step) {
        uint4 x[4];
        int ready = 1;
#pragma unroll
        for (int n = 0; n < many; n++) x[n] = fai_ld_shared_v4_b32(sv + (c + n * step) * 16);
#pragma unroll
        for (int n = 0; n < many; n++) {
            const int32_t j = (int32_t)((c + n * step) / 8 % bn);
            ready &= FAI_(is_finite)(x[n]) && j >= lo && j < hi;
        }
        if (ready) continue;
#pragma unroll 1
        for (uint32_t d = c; d < c + many * step; d += step) {
            const int32_t j = (int32_t)(d / 8 % bn);
            if (j < lo || j >= hi)
                fai_st_shared_v4_b32(sv + d * 16, make_uint4(0, 0, 0, 0));
            else
                found |= FAI_(make_chunk_finite)(sv + d * 16);
        }
    }
#endif
    fai_fence_proxy_async(); /* what is written here is what wgmma will read */
    return found;
}

/* Two warps mend V of tiles that are masked, before it may be used; where TMA cannot, they fetch V, too. */
FAI_ATOM void FAI_(mend)(const fa_args *a, FAI_(tile) *tiles, uint32_t shared, const int by_rows,
                         const int bn) {
    const uint32_t thread = fai_tid() % 64u;
    uint32_t ring = 0, raw = 0; /* tiles of keys so far; bit n: parity of V_RAW of stage n */
#pragma unroll 1
    for (uint32_t n = 0;; n++) {
        FAI_(tile) *const t = tiles + n % 2;
        fai_mbarrier_try_wait_parity(shared + FAI_TILE_FULL + n % 2 * 8, n / 2 % 2); /* *t may be read */
        if (t->rows == 0) return;
        const int32_t end = FAI_(first_tile)(t, bn);
        FAI_(source) v;
        FAI_(offsets) rows;
        if (by_rows) {
            v = FAI_(open)(a, t, &a->v, 0, FA_HEAD_DIM_V);
            rows = FAI_(look_up)(a, t, &a->v, v, t->last, 64, FA_HEAD_DIM_V, bn);
        }
#pragma unroll 1
        for (int32_t first = t->last, next; first >= end; first = next, ring++) {
            const uint32_t stage = ring % 2, sv = shared + FAI_HOPPER_SV(bn) + stage * FAI_HOPPER_V_BYTES(bn);
            const int mended = FAI_(is_mended)(a, t, first, bn);
            int found = 0;
            next = first - bn;
            if (by_rows) {
                fai_mbarrier_try_wait_parity(shared + FAI_V_EMPTY + 8 * stage, ring / 2 % 2 ^ 1);
                FAI_(fetch)(v, &rows, sv, 64, FA_HEAD_DIM_V, bn);
                next = FAI_(seen)(a, t, next, end, bn);
                if (next >= end) rows = FAI_(look_up)(a, t, &a->v, v, next, 64, FA_HEAD_DIM_V, bn);
                fai_cp_async_wait_all(); /* what this thread has fetched of V is there */
                fai_fence_proxy_async(); /* and, if nobody mends it, what wgmma will read */
            } else {
                if (!mended) continue;
                fai_mbarrier_try_wait_parity(shared + FAI_V_RAW + 8 * stage, raw >> stage & 1); /* V is there */
                raw ^= 1u << stage;
                if (FAI_(skips)(a)) next = t->next_v[stage];
            }
            if (mended) found = FAI_(mend_stage)(t, sv, first, thread, 64, bn); /* what it has fetched */
            found = fai_bar_red_or(FAI_BAR_MEND, 64, found);                    /* all have fenced */
            if (thread == 0) {
                if (found) t->infinite = 1;
                fai_mbarrier_arrive(shared + FAI_V_FULL + 8 * stage);
            }
        }
        __syncwarp(); /* the warp no longer reads *t */
        if (thread % 32 == 0) fai_mbarrier_arrive(shared + FAI_TILE_EMPTY + n % 2 * 8);
    }
}

/* ---- the warpgroups that compute --------------------------------------------------------- */

/* x, the same in all lanes, where it waits for the end of the loops: a shuffle tells ptxas to take a
 * uniform register. Three warpgroups have these to spare, and tiles with the largest O must, others have
 * registers. */
FAI_ATOM int32_t FAI_(put_by)(int32_t x) {
    return FAI_HOPPER_WGS == 3 || FAI_DIM > 192 || FA_PROMOTE ? __shfl_sync(~0u, x, 0) : x;
}

/* first of the thread's rows */
FAI_ATOM int FAI_(own_row)(int thread) { return thread / 32 * 16 + FAI_C_ROW(thread % 32, 0); }

/* What a warpgroup needs in every step. */
typedef struct FAI_(group) {
    uint64_t dq, dk, dv;     /* descriptors, of stage 0 */
    uint32_t shared;         /* memory */
    int32_t turn, next;      /* named barriers: its turn, that of the next warpgroup */
    int32_t leads;           /* this thread speaks for all */
    int32_t lo, hi;          /* keys that all its rows see */
    float scale[2];          /* of S to log2 units, for each row */
    float unit;              /* fp8: log2 of that of O if factors of V differ */
} FAI_(group);

FAI_ATOM FAI_(group) FAI_(group_of)(const fa_args *a, uint32_t shared, int wg, const int wgs, const int bn) {
    FAI_(group) g;
    g.shared = shared;
    g.dq = fai_descriptor(shared + FAI_HOPPER_SQ(bn) + wg * FAI_HOPPER_Q_BYTES(wgs, bn), 16);
    g.dk = fai_descriptor(shared + FAI_HOPPER_SK, 16);
    g.dv = fai_descriptor(shared + FAI_HOPPER_SV(bn), FAI_BYTES == 1 ? 16 : bn * 128);
    g.turn = FAI_BAR_TURN + wg, g.next = FAI_BAR_TURN + (wg + 1 == wgs ? 0 : wg + 1);
    g.leads = fai_tid() % 128 == 0;
    g.lo = 0, g.hi = 0, g.unit = 1, g.scale[0] = g.scale[1] = FAI_(scale)(a) * FAI_LOG2E;
    return g;
}

/* A stage, and how to get from one to the other without a multiplication. */
typedef struct FAI_(stage) {
    uint32_t bars;   /* mbarriers + 8 stage */
    uint32_t k, v;   /* 16-byte units from stage 0 */
    uint32_t parity; /* bit 31 */
} FAI_(stage);

FAI_ATOM FAI_(stage) FAI_(next_stage)(const FAI_(group) *g, FAI_(stage) s, const int bn) {
    FAI_(stage) n = {2 * g->shared + 8 - s.bars, FAI_HOPPER_K_BYTES(bn) / 16 - s.k,
                     FAI_HOPPER_V_BYTES(bn) / 16 - s.v, s.parity + (1u << 30)};
    if (FAI_HOPPER_K_BYTES(bn) == FAI_HOPPER_V_BYTES(bn)) n.v = n.k;
    return n;
}

/* the stage that the first one comes after */
FAI_ATOM FAI_(stage) FAI_(stage_before)(uint32_t shared, const int bn) {
    const uint32_t k = FAI_HOPPER_K_BYTES(bn) / 16, v = FAI_HOPPER_V_BYTES(bn) / 16;
    FAI_(stage) s = {shared + 8, k, v, 3u << 30};
    return s;
}

FAI_ATOM void FAI_(wait)(uint32_t bar, FAI_(stage) s) {
    fai_mbarrier_try_wait_parity(s.bars + bar, s.parity >> 31);
}

/* First key of the tile after the one whose K is in stage s, and there. */
FAI_ATOM int32_t FAI_(following)(const fa_args *a, const FAI_(tile) *t, const FAI_(group) *g, FAI_(stage) s,
                                 int32_t first, const int bn) {
    return FAI_(skips)(a) ? __shfl_sync(~0u, t->next_k[s.bars != g->shared], 0) : first - bn;
}

/* Does this thread speak for its warpgroup? fp8 has no register for the answer. */
FAI_ATOM int FAI_(speaks)(const FAI_(group) *g) { return FAI_BYTES == 1 ? fai_tid() % 128 == 0 : g->leads; }

/* K, V of the tile from `first` on are no longer needed. A warpgroup that is alone copies, in their place,
 * those of the tile after the next. Of a block mask all warps must have read where the next tile is. */
FAI_ATOM void FAI_(free_k)(const fa_args *a, const FAI_(tile) *t, const fa_cuda_maps *m, const FAI_(group) *g,
                           FAI_(stage) s, int32_t first, const int wgs, const int bn) {
    const int speaks = FAI_HAS(FA_BLOCK_MASK) ? threadIdx.x % 32 == 0 : FAI_(speaks)(g);
    if (FAI_HAS(FA_BLOCK_MASK)) __syncwarp(); /* all lanes have */
    if (wgs > 1 && speaks) fai_mbarrier_arrive(s.bars + FAI_K_EMPTY);
    if (wgs == 1 && speaks && first - 2 * bn >= FAI_(first_tile)(t, bn))
        FAI_(copy_k)(a, t, m, g->shared, first - 2 * bn, s.bars != g->shared, wgs, bn);
}
FAI_ATOM void FAI_(free_v)(const fa_args *a, const FAI_(tile) *t, const fa_cuda_maps *m, const FAI_(group) *g,
                           FAI_(stage) s, int32_t first, const int wgs, const int bn) {
    if (wgs > 1 && FAI_(speaks)(g)) fai_mbarrier_arrive(s.bars + FAI_V_EMPTY);
    if (wgs == 1 && g->leads && first - 2 * bn >= FAI_(first_tile)(t, bn))
        FAI_(copy_v)(a, t, m, g->shared, first - 2 * bn, s.bars != g->shared, FAI_V_FULL, wgs, bn);
}

/* S = Q K^T, issued: s (bn/8, C4) */
FAI_ATOM void FAI_(issue_qk)(float s[FAI_HOPPER_MOST / 2], uint64_t dq, uint64_t dk, const int bn) {
    FAI_HOPPER_SIZES
    fai_wgmma_fence(); /* registers of S are free */
#pragma unroll
    for (int c = 0; c < D * FAI_BYTES / 32; c++)
        FAI_WGMMA_SS(bn, s, dq + (c / 4 * Q_PANEL + c % 4 * 32) / 16,
                     dk + (c / 4 * bn * 128 + c % 4 * 32) / 16, c != 0);
    fai_wgmma_commit_group();
}

/* O += P V, issued: o (DV/8, C4), p (bn/16, A4), fp8: (bn/32, A4); fp8 without keep: O = P V */
FAI_ATOM void FAI_(issue_pv)(float o[FA_HEAD_DIM_V / 2], const uint32_t p[FAI_HOPPER_P(FAI_HOPPER_MOST)],
                             uint64_t dv, int keep, const int bn) {
    FAI_HOPPER_SIZES
    fai_wgmma_fence(); /* P and O are written */
#if FAI_BYTES == 1
#pragma unroll
    for (int c = 0; c < bn / 32; c++) FAI_WGMMA_RS(DV, o, p + 4 * c, dv + c * 32 / 16, c != 0 || keep);
#else
    (void)keep;
#pragma unroll
    for (int c = 0; c < bn / 16; c++) FAI_WGMMA_RS(DV, o, p + 4 * c, dv + c * 16 * 128 / 16);
#endif
    fai_wgmma_commit_group();
}

/* Element i of an accumulator is one of row i / 2 % 2 * 8 of the thread. */
FAI_ATOM void FAI_(rescale)(float o[FA_HEAD_DIM_V / 2], const float factor[2]) {
#pragma unroll
    for (int i = 0; i < FA_HEAD_DIM_V / 2; i++) o[i] *= factor[i / 2 % 2];
}

/* What the factors of a tile's keys do, which are the same for all of them (fits_tiles): K scales S. P V is in
 * units of the largest factor of V so far: P, before it is rounded, gets the rest, by a shift of its exponents,
 * and O follows if the unit grows. Without fp8 there is the scale alone. */
typedef struct FAI_(factors) {
    float scale[2]; /* of S to log2 units, for each row */
    float shift;    /* log2 of the factor of P */
} FAI_(factors);

#if FAI_BYTES == 1
FAI_ATOM float FAI_(tile_factor)(const FAI_(tile) *t, const fa_descale *d, int32_t first) {
    const uint32_t number = (uint32_t)first / (uint32_t)d->block;
    return d->data[t->b * d->stride_b + t->head_k * d->stride_h + number * d->stride_block];
}
/* log2 of the factor of V, of which there are several */
FAI_ATOM float FAI_(tile_exponent)(const fa_args *a, const FAI_(tile) *t, int32_t first) {
    return fai_lg2_approx_f32(FAI_(tile_factor)(t, &a->v_descale, first));
}
#endif
FAI_ATOM FAI_(factors) FAI_(tile_factors)(const fa_args *a, const FAI_(tile) *t, const FAI_(group) *g,
                                          int32_t first) {
    FAI_(factors) f = {{g->scale[0], g->scale[1]}, 0};
    (void)a, (void)t, (void)first;
#if FAI_BYTES == 1
    if (FAI_HOPPER_BLOCKS(a->k_descale)) {
        const float k = FAI_(tile_factor)(t, &a->k_descale, first);
        f.scale[0] = fmaxf(f.scale[0] * k, 1e-37f), f.scale[1] = fmaxf(f.scale[1] * k, 1e-37f);
    }
    if (FAI_HOPPER_BLOCKS(a->v_descale)) {
        const float v = FAI_(tile_exponent)(a, t, first);
        f.shift = fmaxf(v - fmaxf(g->unit, v), -30); /* 2^8 2^-30 is 0 in e4m3; finite for the sums */
    }
#endif
    return f;
}
/* Makes the unit of O that of the tile; 1 if it has grown, and factor is what O is to be multiplied with. Asked
 * for when O is there: the registers of S are free then. */
FAI_ATOM int FAI_(grow)(const fa_args *a, const FAI_(tile) *t, FAI_(group) *g, int32_t first,
                        float factor[2]) {
#if FAI_BYTES == 1
    if (FAI_HOPPER_BLOCKS(a->v_descale)) {
        const float unit = fmaxf(g->unit, FAI_(tile_exponent)(a, t, first));
        const float growth = fai_ex2_approx_ftz_f32(g->unit - unit);
        factor[0] *= growth, factor[1] *= growth, g->unit = unit;
        return growth != 1;
    }
#endif
    (void)a, (void)t, (void)g, (void)first, (void)factor;
    return 0;
}

/* P from S - reference, in place, and its sums, which know no factors of V: here they are in units of P */
FAI_ATOM void FAI_(exponentials)(float s[FAI_HOPPER_MOST / 2], float l[2], const FAI_(factors) *f,
                               const int bn) {
    const float unit = fai_ex2_approx_ftz_f32(f->shift), back = fai_ex2_approx_ftz_f32(-f->shift);
    if (FAI_BYTES == 1) l[0] *= unit, l[1] *= unit;
#pragma unroll
    for (int i = 0; i < bn / 2; i += 2) {
        s[i] = fai_ex2_approx_ftz_f32(s[i]), s[i + 1] = fai_ex2_approx_ftz_f32(s[i + 1]);
        l[i / 2 % 2] += s[i] + s[i + 1];
    }
    if (FAI_BYTES == 1) l[0] *= back, l[1] *= back;
}

/* The largest of a row in this thread; NaN is ignored, and reaches the sum through P. h: row h * 8 */
FAI_ATOM float FAI_(own_maximum)(const float s[FAI_HOPPER_MOST / 2], const int h, const int bn) {
    float x = -INFINITY;
#pragma unroll
    for (int i = 2 * h; i < bn / 2; i += 4) x = fmaxf(x, fmaxf(s[i], s[i + 1]));
    return x;
}
FAI_ATOM float FAI_(quad_maximum)(float x) {
    x = fmaxf(x, fai_shfl_sync_bfly_f32(x, 1));
    return fmaxf(x, fai_shfl_sync_bfly_f32(x, 2));
}
FAI_ATOM float FAI_(row_maximum)(const float s[FAI_HOPPER_MOST / 2], const int h, const int bn) {
    return FAI_(quad_maximum)(FAI_(own_maximum)(s, h, bn));
}

/*  P = exp2(scale S - reference). The reference lies FAI_HEAD log2 units above the largest score that its row
 *  had when it was last moved, which it only is when a score reaches it: results do not depend on it. As long
 *  as none does, no maximum is computed: an `and` of the sign bits of S - reference tells, half the work of a
 *  maximum, and O needs no scaling. P is below 1: f16, whose small numbers are less exact, keeps it nearer to
 *  that. m: -reference, FAI_UNSEEN as long as a row has not seen a key.
 *  fp8: the reference is always 8 below the largest score, so that P has the range of e4m3, up to 2^8, and the
 *  largest of a row no error: the maximum of what a thread has is needed, that of a row when it has grown. */
#if FAI_BYTES == 1
#define FAI_HEAD (-8.0f)
#elif FA_DTYPE == FA_F16
#define FAI_HEAD 4.0f
#else
#define FAI_HEAD 8.0f
#endif
#define FAI_UNSEEN 1e30f
#define FAI_SHIFTED(m, f) (FAI_BYTES == 1 ? (m) + (f)->shift : (m))

/* With a maximum: for tiles that are masked, and as long as a row may have seen nothing. factor: for O;
 * scales > 0; head: FAI_HEAD, or what the reference is above the largest score if no tile goes without */
FAI_ATOM void FAI_(softmax_exact)(float s[FAI_HOPPER_MOST / 2], float m[2], float l[2], float factor[2],
                                  const FAI_(factors) *f, const float head, const int bn) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const float top = FAI_(row_maximum)(s, h, bn) * f->scale[h];
        const float x = fminf(m[h], -head - top); /* m if that is -inf */
        factor[h] = fai_ex2_approx_ftz_f32(x - m[h]); /* 0 the first time */
        m[h] = x, l[h] *= factor[h];
    }
    const float base[2] = {FAI_SHIFTED(m[0], f), FAI_SHIFTED(m[1], f)};
#pragma unroll
    for (int i = 0; i < bn / 2; i++) s[i] = fmaf(s[i], f->scale[i / 2 % 2], base[i / 2 % 2]);
    FAI_(exponentials)(s, l, f, bn);
}

/* Without, all rows having seen a key. 1 if a reference of the warp has moved. */
#if FAI_BYTES == 1
FAI_ATOM int FAI_(softmax_lazy)(float s[FAI_HOPPER_MOST / 2], float m[2], float l[2], float factor[2],
                                const FAI_(factors) *f, const int bn) {
    float top[2];
#pragma unroll
    for (int h = 0; h < 2; h++) top[h] = fmaf(FAI_(own_maximum)(s, h, bn), f->scale[h], m[h]), factor[h] = 1;
    const int moves = __any_sync(~0u, top[0] > -FAI_HEAD || top[1] > -FAI_HEAD);
    if (moves) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float x = fminf(0, -FAI_HEAD - FAI_(quad_maximum)(top[h]));
            factor[h] = fai_ex2_approx_ftz_f32(x);
            m[h] += x, l[h] *= factor[h];
        }
    }
    const float base[2] = {FAI_SHIFTED(m[0], f), FAI_SHIFTED(m[1], f)};
#pragma unroll
    for (int i = 0; i < bn / 2; i++) s[i] = fmaf(s[i], f->scale[i / 2 % 2], base[i / 2 % 2]);
    FAI_(exponentials)(s, l, f, bn);
    return moves;
}
#else
FAI_ATOM int FAI_(softmax_lazy)(float s[FAI_HOPPER_MOST / 2], float m[2], float l[2], float factor[2],
                                const FAI_(factors) *f, const int bn) {
    int below = -1; /* bit 31: all are */
#pragma unroll
    for (int i = 0; i < bn / 2; i++) {
        s[i] = fmaf(s[i], f->scale[0], m[i / 2 % 2]);
        below &= __float_as_int(s[i]);
    }
    const int moves = __any_sync(~0u, below >= 0);
    if (moves) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float x = fminf(0, -FAI_HEAD - FAI_(row_maximum)(s, h, bn));
            factor[h] = fai_ex2_approx_ftz_f32(x);
            m[h] += x, l[h] *= factor[h];
#pragma unroll
            for (int i = 2 * h; i < bn / 2; i += 4) s[i] += x, s[i + 1] += x;
        }
    }
    FAI_(exponentials)(s, l, f, bn);
    return moves;
}
#endif

/* P of a tile from S, whatever the features are */
FAI_ATOM void FAI_(softmax_tile)(const fa_args *a, const FAI_(tile) *t, const FAI_(group) *g,
                                  float s[FAI_HOPPER_MOST / 2], float m[2], float l[2], float factor[2],
                                  FAI_(factors) f, int32_t first, const int bn) {
    float(*const c4)[4] = (float(*)[4])s;
    const int row = FAI_(own_row)(fai_tid());
    if (FAI_(is_modified)(a))
        FAI_(modify)(a, t, c4, first, row, FAI_(scale)(a), 1, bn);
    else if (FAI_BYTES == 2 && g->scale[0] < 0) /* a maximum of S, not a minimum */
#pragma unroll
        for (int i = 0; i < bn / 2; i++) s[i] = -s[i];
    if (FAI_BYTES == 2) f.scale[0] = f.scale[1] = FAI_(is_modified)(a) ? 1 : fabsf(g->scale[0]);
    if (FAI_(is_masked)(a) || first < g->lo || first + bn > g->hi) FAI_(mask)(a, t, c4, first, row, 1, bn);
    /* f16: where the largest P may be dropped, or every tile has a maximum anyway, small ones shall be exact, too */
    const int all_exact = FA_DTYPE == FA_F16 && (FAI_(is_modified)(a) || FAI_(is_masked)(a) || FAI_(drops)(a));
    FAI_(softmax_exact)(s, m, l, factor, &f, all_exact ? -8 : FAI_HEAD, bn);
    if (FAI_(drops)(a)) FAI_(dropout)(a, t, c4, first, row, 1, bn);
}

/* A warpgroup that is alone mends V of a tile itself, which nobody reads before the next step. Votes tell
 * ptxas that all lanes go the same way. */
FAI_ATOM void FAI_(mend_own)(const fa_args *a, FAI_(tile) *t, const FAI_(group) *g, FAI_(stage) s,
                             int32_t first, const int bn) {
    if (__any_sync(~0u, FAI_(is_mended)(a, t, first, bn))) {
        FAI_(wait)(FAI_V_FULL, s);
        const uint32_t sv = g->shared + FAI_HOPPER_SV(bn) + s.v * 16;
        const int found = FAI_(mend_stage)(t, sv, first, fai_tid(), 128, bn);
        if (__any_sync(~0u, fai_bar_red_or(FAI_BAR_WG, 128, found))) { /* all have mended */
            if (g->leads) t->infinite = 1;
            fai_bar_sync(FAI_BAR_WG, 128); /* and know what was found */
        }
    }
}

/* p (bn/16, A4) <- P; fp8: (bn/32, A4), each of keys that two accumulators have, see FAI_PAIRED_KEY */
FAI_ATOM void FAI_(pack)(uint32_t p[FAI_HOPPER_P(FAI_HOPPER_MOST)], const float s[FAI_HOPPER_MOST / 2],
                         const int bn) {
#pragma unroll
    for (int i = 0; i < FAI_HOPPER_P(bn); i++) {
#if FAI_BYTES == 1
        const float *const x = s + i / 2 * 8 + i % 2 * 2; /* of row i % 2 * 8 */
        p[i] = fai_cvt_rn_satfinite_e4m3x4_f32(x[0], x[1], x[4], x[5]);
#else
        p[i] = FAI_PACK(s[2 * i + 1], s[2 * i]);
#endif
    }
}

/* FA_PROMOTE: tensor cores add fp8 products with fewer bits than f32 has. So that errors do not grow with the
 * number of keys, P V of that many tiles has registers of its own, and then is added to O. `since`: tiles that
 * are in them. */
FAI_ATOM void FAI_(promote)(float o[FA_HEAD_DIM_V / 2], const float part[FA_HEAD_DIM_V / 2], int *since,
                            int always) {
    if ((FA_PROMOTE) == 0 || (++*since < (FA_PROMOTE) && !always)) return;
    *since = 0;
#pragma unroll
    for (int i = 0; i < FA_HEAD_DIM_V / 2; i++) o[i] += part[i];
}

FAI_ATOM void FAI_(take_turn)(const FAI_(group) *g, const int wgs) {
    if (wgs > 1) fai_bar_sync(g->turn, 256);
}
FAI_ATOM void FAI_(pass_turn)(const FAI_(group) *g, const int wgs) {
    if (wgs > 1) fai_bar_arrive(g->next, 256);
}

/* ptxas moves a wait for products in front of the exponentials, of which it can see no use before; then the
 * products of this warpgroup would hide nothing. It does not move it over a branch that needs all sums, which
 * are never negative. */
FAI_ATOM void FAI_(have_exponentials)(const float l[2]) {
    if (__any_sync(~0u, l[0] + l[1] < 0)) __nanosleep(0);
}

/* A tile: S = Q K^T of it and, at the same time, O += P V of the one before; then its P. The first key of
 * the next. */
FAI_ATOM int32_t FAI_(step)(const fa_args *a, FAI_(tile) *t, const fa_cuda_maps *maps, FAI_(group) *g,
                            FAI_(stage) *before, float o[FA_HEAD_DIM_V / 2], float part[FA_HEAD_DIM_V / 2],
                            int *since, uint32_t p[FAI_HOPPER_P(FAI_HOPPER_MOST)], float m[2], float l[2],
                            int32_t first, const int exact, const int wgs, const int bn) {
    const FAI_(stage) now = FAI_(next_stage)(g, *before, bn);
    const FAI_(factors) f = FAI_(tile_factors)(a, t, g, first);
    float s[FAI_HOPPER_MOST / 2], factor[2]; /* (bn/8, C4) */
    int moves = 1;
    FAI_(wait)(FAI_K_FULL, now);
    const int32_t next = FAI_(following)(a, t, g, now, first, bn);
    FAI_(take_turn)(g, wgs);
    FAI_(issue_qk)(s, g->dq, g->dk + now.k, bn);
    FAI_(wait)(FAI_V_FULL, *before);
    FAI_(issue_pv)(part, p, g->dv + before->v, (FA_PROMOTE) == 0 || *since, bn);
    FAI_(pass_turn)(g, wgs);
    fai_wgmma_wait_group_1(); /* S is there, K no longer needed */
    FAI_(free_k)(a, t, maps, g, now, first, wgs, bn);
    if (exact)
        FAI_(softmax_tile)(a, t, g, s, m, l, factor, f, first, bn);
    else
        moves = FAI_(softmax_lazy)(s, m, l, factor, &f, bn);
    FAI_(have_exponentials)(l);
    fai_wgmma_wait_group_0(); /* O is there, P and V no longer needed */
    FAI_(free_v)(a, t, maps, g, *before, first + bn, wgs, bn);
    if (wgs == 1 && exact) FAI_(mend_own)(a, t, g, now, first, bn);
    FAI_(pack)(p, s, bn);
    FAI_(promote)(o, part, since, 0);
    moves |= FAI_(grow)(a, t, g, first, factor);
    if (moves) FAI_(rescale)(o, factor);
    if (moves && (FA_PROMOTE) > 1) FAI_(rescale)(part, factor);
    *before = now;
    return next;
}

/* O / l and LSE. O through the shared memory of this warpgroup, then by TMA where its box has only rows
 * that exist or can be cut off, and O will not be read again here. */
FAI_ATOM void FAI_(hopper_epilogue)(const fa_args *a, const FAI_(tile) *t, const fa_cuda_maps *maps,
                                    const FAI_(group) *g, float o[FA_HEAD_DIM_V / 2], const float m[2],
                                    float l[2], const int wgs, const int bn) {
    FAI_HOPPER_SIZES
    const int thread = fai_tid(), lane = thread % 32, warp_row = thread / 32 * 16;
    const int row = FAI_(own_row)(thread);
    const int own = warp_row % 64 + lane % 16;
    const int wg = wgs > 1 ? thread / 128 : 0; /* named barriers by number: of those an SM has few */
    const uint32_t sm = FAI_HOPPER_OWN_O(wgs, bn)
                            ? g->shared + FAI_HOPPER_SO(wgs, bn) + wg * (FAI_PANELS(DV) * Q_PANEL)
                            : g->shared + FAI_HOPPER_SQ(bn) + wg * FAI_HOPPER_Q_BYTES(wgs, bn);
    const fa_sequence seq = FAI_(sequence)(a, t->b);
    const fai_strides sl = fai_strides_lse(a), so = fai_strides_o(a, DV);
    float factor[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        l[h] += fai_shfl_sync_bfly_f32(l[h], 1);
        l[h] += fai_shfl_sync_bfly_f32(l[h], 2);
        const int r = row + h * 8;
        float kept = FAI_HAS(FA_DROPOUT) ? fa_dropout_scale(a->dropout_p) : 1, top = -m[h];
        if (FAI_HAS(FA_SINK) && a->sink) { /* a key more, of which P knows nothing: it may be far above */
            const float sink = a->sink[FAI_(find)(t, r).h] * FAI_LOG2E;
            top = fmaxf(sink, -m[h]);
            const float weight = fai_ex2_approx_ftz_f32(-m[h] - top);
            l[h] = l[h] * weight + (sink == top ? 1 : fai_ex2_approx_ftz_f32(sink - top)), kept *= weight;
        }
        factor[h] = l[h] == 0 ? 0 : kept / l[h]; /* an empty row is 0 */
        if (a->lse.data && lane % 4 == 0 && r < t->rows)
            ((float *)a->lse.data)[fai_offset_q(&seq, sl, FAI_(find)(t, r).i, FAI_(find)(t, r).h)] =
                (fai_lg2_approx_f32(l[h]) + top) * FAI_LN2; /* -inf if empty */
    }
#if FAI_BYTES == 1
    const float unit = FAI_HOPPER_BLOCKS(a->v_descale) ? fai_ex2_approx_ftz_f32(g->unit)
                                                       : FAI_(factor)(a, t, &a->v_descale, t->head_k, 0);
    factor[0] *= unit, factor[1] *= unit;
#endif
    FAI_(rescale)(o, factor);
#if FA_O_DTYPE == FA_F32
    (void)maps, (void)sm, (void)own, (void)wg;
#pragma unroll
    for (int h = 0; h < 2; h++) { /* the lanes of a quad write whole sectors of 32 bytes */
        const FAI_(row) at = FAI_(find)(t, row + h * 8);
        float *const to = (float *)a->o.data + fai_offset_q(&seq, so, at.i, at.h) + FAI_C_COL(lane, 0);
#pragma unroll
        for (int c = 0; c < DV / 8 && row + h * 8 < t->rows; c++)
            *(float2 *)(void *)(to + c * 8) = make_float2(o[4 * c + 2 * h], o[4 * c + 2 * h + 1]);
    }
#else
    if (FAI_HOPPER_OWN_O(wgs, bn)) {
        if (g->leads) fai_cp_async_bulk_wait_group_read_0();
        fai_bar_sync(FAI_BAR_WG + wg, 128); /* O of the tile before has been read */
    }
#pragma unroll
    for (int c = 0; c < DV / 8; c += 2) /* two chunks of 16 rows */
        fai_stmatrix_x4(sm + FAI_PANEL_AT(64, own, c + lane / 16), FAI_PACK_O(o[4 * c + 1], o[4 * c]),
                        FAI_PACK_O(o[4 * c + 3], o[4 * c + 2]), FAI_PACK_O(o[4 * c + 5], o[4 * c + 4]),
                        FAI_PACK_O(o[4 * c + 7], o[4 * c + 6]));
    if ((a->cu_seqlens_q || !a->seqused_q || t->rows == wgs * 64) && !t->infinite) {
        fai_fence_proxy_async();               /* what is written here is what TMA will read */
        fai_bar_sync(FAI_BAR_WG + wg, 128); /* all have written */
        if (!g->leads) return;
        const fai_spot at = fai_spot_q(a, &seq);
        for (int p = 0; p < FAI_PANELS(DV); p++)
            fai_cp_async_bulk_tensor_5d_store(&maps->o, sm + p * Q_PANEL, p * 64, t->first_h,
                                              at.x + t->first + wg * (64 / maps->group), at.y, at.z);
        fai_cp_async_bulk_commit_group();
        if (FAI_HOPPER_OWN_O(wgs, bn)) return;
        fai_cp_async_bulk_wait_group_read_0(); /* Q may be written there */
        if (wgs > 1) fai_mbarrier_arrive(g->shared + FAI_Q_EMPTY);
        return;
    }
    __syncwarp(); /* all lanes have written: rows of the warp may be read */
    for (int r = lane / 8; r < 16; r += 4) {
        if (warp_row + r >= t->rows) continue;
        const FAI_(row) at = FAI_(find)(t, warp_row + r);
        uint16_t *const to = (uint16_t *)a->o.data + fai_offset_q(&seq, so, at.i, at.h);
        for (int c = lane % 8; c < DV / 8; c += 8)
            *(uint4 *)(void *)(to + c * 8) =
                fai_ld_shared_v4_b32(sm + FAI_PANEL_AT(64, warp_row % 64 + r, c));
    }
    if (FAI_HOPPER_OWN_O(wgs, bn) || wgs == 1) return;
    fai_fence_proxy_async();               /* TMA will write Q where O was written and read here */
    fai_bar_sync(FAI_BAR_WG + wg, 128); /* all have read */
    if (g->leads) fai_mbarrier_arrive(g->shared + FAI_Q_EMPTY);
#endif
}

/* Has a row of the warpgroup not seen a key? The vote tells ptxas that the answer is that of all lanes. */
FAI_ATOM int FAI_(any_unseen)(const FAI_(group) *g, const float m[2]) {
    const int unseen = m[0] == FAI_UNSEEN || m[1] == FAI_UNSEEN;
    return __any_sync(~0u, fai_bar_red_or(g->turn - FAI_BAR_TURN + FAI_BAR_WG, 128, unseen));
}

/* fp8: the factors of rows, and those that are the same for all keys */
FAI_ATOM void FAI_(set_factors)(const fa_args *a, const FAI_(tile) *t, FAI_(group) *g) {
    (void)a, (void)t, (void)g;
#if FAI_BYTES == 1
    const int row = FAI_(own_row)(fai_tid());
    g->unit = -126; /* of nothing yet */
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const FAI_(row) at = FAI_(find)(t, row + h * 8);
        g->scale[h] = FAI_(scale)(a) * FAI_LOG2E;
        g->scale[h] *= FAI_(factor)(a, t, &a->q_descale, at.h, at.i);
        if (!FAI_HOPPER_BLOCKS(a->k_descale)) g->scale[h] *= FAI_(factor)(a, t, &a->k_descale, t->head_k, 0);
        g->scale[h] = fmaxf(g->scale[h], 1e-37f); /* infinite scores stay that */
    }
#endif
}

/* The products of a tile of queries, 64 rows of it, and all the keys that it sees. before: the stage of the
 * last tile of keys. */
FAI_ATOM void FAI_(multiply)(const fa_args *a, FAI_(tile) *t, const fa_cuda_maps *maps, FAI_(group) *g,
                             FAI_(stage) *before, int32_t last, int32_t end, float o[FA_HEAD_DIM_V / 2],
                             float m[2], float l[2], const int wgs, const int bn) {
    const int plain = !FAI_(is_modified)(a) && !FAI_(is_masked)(a) && !FAI_(drops)(a);
    FAI_(stage) stage = FAI_(next_stage)(g, *before, bn);
    uint32_t p[FAI_HOPPER_P(FAI_HOPPER_MOST)]; /* (bn/16, A4); fp8: (bn/32, A4) */
    int32_t first = last;
    int since = 0;
#if FA_PROMOTE
    float part[FA_HEAD_DIM_V / 2]; /* (DV/8, C4) */
#else
    float *const part = o;
#endif
    FAI_(wait)(FAI_K_FULL, stage);
    {
        float s[FAI_HOPPER_MOST / 2], factor[2];
        const int32_t next = FAI_(following)(a, t, g, stage, first, bn);
        FAI_(issue_qk)(s, g->dq, g->dk + stage.k, bn);
        fai_wgmma_wait_group_0(); /* S is there, K no longer needed */
        FAI_(free_k)(a, t, maps, g, stage, first, wgs, bn);
        FAI_(softmax_tile)(a, t, g, s, m, l, factor, FAI_(tile_factors)(a, t, g, first), first, bn);
        (void)FAI_(grow)(a, t, g, first, factor); /* O is 0 */
        if (wgs == 1) FAI_(mend_own)(a, t, g, stage, first, bn);
        FAI_(pack)(p, s, bn);
        first = next;
    }
    do {
#pragma unroll 1
        while (first >= end &&
               (!plain || __any_sync(~0u, first < g->lo || first + bn > g->hi) || FAI_(any_unseen)(g, m)))
            first = FAI_(step)(a, t, maps, g, &stage, o, part, &since, p, m, l, first, 1, wgs, bn);
        const int32_t stop = __shfl_sync(~0u, end > g->lo ? end : g->lo, 0);
#pragma unroll 1
        while (first >= stop)
            first = FAI_(step)(a, t, maps, g, &stage, o, part, &since, p, m, l, first, 0, wgs, bn);
    } while (first >= end);
    if (FAI_HOPPER_OWN_O(wgs, bn) && g->leads)
        fai_mbarrier_arrive(g->shared + FAI_Q_EMPTY); /* no product with Q is left */
    FAI_(wait)(FAI_V_FULL, stage);
    FAI_(issue_pv)(part, p, g->dv + stage.v, (FA_PROMOTE) == 0 || since, bn);
    fai_wgmma_wait_group_0(); /* O is there, V no longer needed */
    FAI_(promote)(o, part, &since, 1);
    if (wgs > 1 && g->leads) fai_mbarrier_arrive(stage.bars + FAI_V_EMPTY);
    *before = stage;
}

/* 64 rows of a tile of queries; q: parity of its Q */
FAI_ATOM void FAI_(consume_tile)(const fa_args *a, FAI_(tile) *t, const fa_cuda_maps *maps, FAI_(group) *g,
                                 FAI_(stage) *stage, uint32_t q, const int wgs, const int bn) {
    FAI_HOPPER_SIZES
    const int32_t last = __shfl_sync(~0u, t->last, 0), end = __shfl_sync(~0u, FAI_(first_tile)(t, bn), 0);
    const int row0 = fai_tid() / 128 * 64;
    g->lo = FAI_(put_by)(FAI_(keys)(a, t, FAI_(find)(t, row0 + 63).i).lo);
    g->hi = FAI_(put_by)(FAI_(keys)(a, t, FAI_(find)(t, row0).i).hi);
    FAI_(set_factors)(a, t, g);
    float o[DV / 2], m[2], l[2]; /* (DV/8, C4); of the thread's rows */
#pragma unroll
    for (int i = 0; i < DV / 2; i++) o[i] = 0;
    m[0] = m[1] = FAI_UNSEEN, l[0] = l[1] = 0;
    if (wgs > 1 || last >= end)
        fai_mbarrier_try_wait_parity(g->shared + FAI_Q_FULL, q); /* Q is there, if there are keys */
    if (last >= end)
        FAI_(multiply)(a, t, maps, g, stage, last, end, o, m, l, wgs, bn);
    else if (FAI_HOPPER_OWN_O(wgs, bn)) {
        fai_bar_sync(FAI_BAR_WG + row0 / 64, 128); /* all have seen this phase of Q: it may go on */
        if (g->leads) fai_mbarrier_arrive(g->shared + FAI_Q_EMPTY);
    }
    FAI_(hopper_epilogue)(a, t, maps, g, o, m, l, wgs, bn);
    if (t->infinite) {
        fai_bar_sync(FAI_BAR_ALL, wgs * 128); /* O is written */
        FAI_(add_infinite)(a, t, FAI_(is_masked)(a) || FAI_(drops)(a), bn, wgs * 128, FAI_BYTES == 1);
    }
}

/* Tile after tile, 64 rows of each */
FAI_ATOM void FAI_(consume)(const fa_args *a, FAI_(tile) *tiles, const fa_cuda_maps *maps, uint32_t shared,
                            int wg, const int wgs, const int bn) {
    FAI_(group) g = FAI_(group_of)(a, shared, wg, wgs, bn);
    FAI_(stage) stage = FAI_(stage_before)(shared, bn);
    if (wg == wgs - 1) FAI_(pass_turn)(&g, wgs); /* the first turn is warpgroup 0's */
#pragma unroll 1
    for (uint32_t n = 0;; n++) {
        FAI_(tile) *const t = tiles + n % 2;
        fai_mbarrier_try_wait_parity(shared + FAI_TILE_FULL + n % 2 * 8, n / 2 % 2); /* *t may be read */
        if (__shfl_sync(~0u, t->rows, 0) == 0) break;
        FAI_(consume_tile)(a, t, maps, &g, &stage, n % 2, wgs, bn);
        n = FAI_(put_by)(t->n);
        __syncwarp(); /* the warp no longer reads *t */
        if (fai_tid() % 32 == 0) fai_mbarrier_arrive(shared + FAI_TILE_EMPTY + n % 2 * 8);
    }
    if (FAI_HOPPER_OWN_O(wgs, bn) && g.leads)
        fai_cp_async_bulk_wait_group_read_0(); /* shared memory outlives its reader */
    if (wgs > 1 && wg == 0) fai_bar_sync(FAI_BAR_TURN, 256); /* the turn that nobody needs any more */
}

/* mbarriers before their first use. By one thread. */
FAI_ATOM void FAI_(init_barriers)(uint32_t bars, const int wgs) {
    fai_mbarrier_init(bars + FAI_Q_FULL, 1);
    fai_mbarrier_init(bars + FAI_Q_EMPTY, wgs);
    for (uint32_t stage = 0; stage < 2; stage++) {
        fai_mbarrier_init(bars + FAI_TILE_FULL + 8 * stage, 1);
        fai_mbarrier_init(bars + FAI_TILE_EMPTY + 8 * stage, wgs * 4 + 3); /* warps that read it */
        fai_mbarrier_init(bars + FAI_K_FULL + 8 * stage, 1);
        fai_mbarrier_init(bars + FAI_V_FULL + 8 * stage, 1);
        fai_mbarrier_init(bars + FAI_V_RAW + 8 * stage, 1);
        fai_mbarrier_init(bars + FAI_K_EMPTY + 8 * stage, FAI_HAS(FA_BLOCK_MASK) ? wgs * 4 : wgs);
        fai_mbarrier_init(bars + FAI_V_EMPTY + 8 * stage, wgs);
    }
    fai_fence_mbarrier_init();
}

/* The first copies need not wait for their maps. By one thread. */
FAI_ATOM void FAI_(prefetch_maps)(const fa_args *a, const fa_cuda_maps *m) {
    fai_prefetch_tensormap(&m->q);
    if (a->seqlen_k > 0 && m->page_rows > 0) fai_prefetch_tensormap(&m->k), fai_prefetch_tensormap(&m->v);
    if (FAI_HOPPER_PANELS_O > 0) fai_prefetch_tensormap(&m->o);
}

/* A block whose last warpgroup loads */
FAI_ATOM void FAI_(hopper_block)(const fa_args *a, const fa_cuda_maps *maps, unsigned char *memory,
                                 const int by_rows, const int wgs, const int bn) {
    FAI_(tile) *const tiles = (FAI_(tile) *)(void *)(memory + FAI_HOPPER_TILES);
    const uint32_t shared = __shfl_sync(~0u, fai_cvta_to_shared(memory), 0);
    if (threadIdx.x == 0) FAI_(prefetch_maps)(a, maps), FAI_(init_barriers)(shared, wgs);
    __syncthreads(); /* all see the mbarriers */
    const int wg = __shfl_sync(~0u, (int)threadIdx.x / 128, 0);
    if (wg == wgs) {
        if (by_rows) FAI_SETMAXNREG_DEC(FAI_HOPPER_ROWS_LOW);
        else FAI_SETMAXNREG_DEC(FAI_HOPPER_LOW);
        const int warp = __shfl_sync(~0u, (int)threadIdx.x / 32 % 4, 0);
        if (warp == 0)
            FAI_(produce)(a, tiles, maps, shared, by_rows, wgs, bn);
        else if (warp == 1)
            FAI_(find_tiles)(a, tiles, maps, shared, wgs, bn);
        else
            FAI_(mend)(a, tiles, shared, by_rows, bn);
    } else {
        if (by_rows) FAI_SETMAXNREG_INC(FAI_HOPPER_ROWS_HIGH);
        else FAI_SETMAXNREG_INC(FAI_HOPPER_HIGH);
        FAI_(consume)(a, tiles, maps, shared, wg, wgs, bn);
    }
}

/* one block an SM; the bound of 32 threads tells the launch that this binary has no code for it */
static __global__ void __launch_bounds__(FAI_SM90A ? FAI_HOPPER_THREADS : 32, 1)
    FAI_(hopper_kernel)(const __grid_constant__ fa_args args, const __grid_constant__ fa_cuda_maps maps) {
#if FAI_SM90A
    extern __shared__ __align__(1024) unsigned char fai_shared_1024[];
    FAI_(hopper_block)(&args, &maps, fai_shared_1024, 0, FAI_HOPPER_WGS, FAI_HOPPER_N);
#endif
}

#if FAI_BYTES == 2
/* K and V by cp.async */
static __global__ void __launch_bounds__(FAI_SM90A ? FAI_HOPPER_THREADS : 32, 1)
    FAI_(hopper_rows_kernel)(const __grid_constant__ fa_args args,
                             const __grid_constant__ fa_cuda_maps maps) {
#if FAI_SM90A
    extern __shared__ __align__(1024) unsigned char fai_shared_1024[];
    FAI_(hopper_block)(&args, &maps, fai_shared_1024, 1, FAI_HOPPER_WGS, FAI_HOPPER_N);
#endif
}
#endif

#if FAI_HOPPER_WIDE
static __global__ void __launch_bounds__(FAI_SM90A ? FAI_HOPPER_THREADS : 32, 1)
    FAI_(hopper_wide_kernel)(const __grid_constant__ fa_args args,
                             const __grid_constant__ fa_cuda_maps maps) {
#if FAI_SM90A
    extern __shared__ __align__(1024) unsigned char fai_shared_1024[];
    FAI_(hopper_block)(&args, &maps, fai_shared_1024, 0, FAI_HOPPER_WGS, FAI_HOPPER_MOST);
#endif
}
#endif

#if FAI_HOPPER_FEW
/* three blocks an SM, of one warpgroup and one tile */
static __global__ void __launch_bounds__(FAI_SM90A ? 128 : 32, 3)
    FAI_(hopper_few_kernel)(const __grid_constant__ fa_args args, const __grid_constant__ fa_cuda_maps maps) {
#if FAI_SM90A
    enum { BN = FAI_HOPPER_N };
    extern __shared__ __align__(1024) unsigned char fai_shared_1024[];
    FAI_(tile) *const t = (FAI_(tile) *)(void *)(fai_shared_1024 + FAI_HOPPER_TILES);
    const uint32_t shared = __shfl_sync(~0u, fai_cvta_to_shared(fai_shared_1024), 0);
    const int found = FAI_(hopper_tile)(&args, t, &maps, 64, blockIdx.x, (int32_t)threadIdx.x, 64);
    if (!__any_sync(~0u, found)) return; /* all threads: the vote tells ptxas */
    if (threadIdx.x == 0) FAI_(prefetch_maps)(&args, &maps), FAI_(init_barriers)(shared, 1);
    __syncthreads(); /* all see the mbarriers, and *t so far */
    if (threadIdx.x < 32) FAI_(set_keys)(&args, t, 0, BN);
    __syncthreads(); /* all of *t */
    FAI_(group) g = FAI_(group_of)(&args, shared, 0, 1, BN);
    FAI_(stage) stage = FAI_(stage_before)(shared, BN);
    if (g.leads && t->last >= FAI_(first_tile)(t, BN)) {
        FAI_(copy_q)(&args, t, &maps, shared, 1, BN);
        for (int n = 0; n < 2 && t->last - n * BN >= FAI_(first_tile)(t, BN); n++) {
            FAI_(copy_k)(&args, t, &maps, shared, t->last - n * BN, n, 1, BN);
            FAI_(copy_v)(&args, t, &maps, shared, t->last - n * BN, n, FAI_V_FULL, 1, BN);
        }
    }
    FAI_(consume_tile)(&args, t, &maps, &g, &stage, 0, 1, BN);
#endif
}
#endif

/* Which shape computes args, by counts of what an SM does, in times of the tensor products of 64 x N; none of
 * it has been measured.
 *     FEW   64 rows instead of 192. Its K and V come from L2 three times as often, 9/8 of what shared memory
 *           can do in that time, and one block alone on an SM waits for its own softmax: where 192 rows would
 *           leave more of them, or of the SMs, without work.
 *     WIDE  176 keys instead of 128, 3 % less of all that is done once a tile: unless a mask cuts tiles,
 *           pages make small boxes of them, or the last tile adds more than that. */
static inline int FAI_(is_other_shape)(const fa_args *a, int64_t sms, int64_t heads, int group) {
    const int64_t rows = (int64_t)a->seqlen_q * group;
    const int64_t large = ((rows + FAI_HOPPER_WGS * 64 - 1) / (FAI_HOPPER_WGS * 64) * heads + sms - 1) / sms,
                  small = ((rows + 63) / 64 * heads + sms - 1) / sms;
    const int64_t wide = ((int64_t)a->seqlen_k + FAI_HOPPER_MOST - 1) / FAI_HOPPER_MOST * FAI_HOPPER_MOST,
                  usual = ((int64_t)a->seqlen_k + FAI_HOPPER_N - 1) / FAI_HOPPER_N * FAI_HOPPER_N;
    if (a->block_table) return 0;
    if (FAI_HOPPER_FEW) return (small < 2 ? 16 : 9 * small) < 8 * large * FAI_HOPPER_WGS;
    return FAI_HOPPER_WIDE && !a->causal && !a->window_left && !a->window_right && 32 * wide <= 33 * usual;
}

/* A kernel, its tile and its resources, as the shape wants. */
static inline void FAI_(set_shape)(fa_cuda_launch *launch, int other) {
    const int few = other && FAI_HOPPER_FEW;
    launch->kernel = (const void *)FAI_(hopper_kernel);
    launch->block_m = few ? 64 : FAI_HOPPER_WGS * 64;
    launch->block_n = other ? FAI_HOPPER_MOST : FAI_HOPPER_N;
    launch->block = few ? 128 : FAI_HOPPER_THREADS;
    launch->shared = few     ? FAI_HOPPER_SHARED(1, FAI_HOPPER_N)
                     : other ? FAI_HOPPER_SHARED(FAI_HOPPER_WGS, FAI_HOPPER_MOST)
                             : FAI_HOPPER_SHARED(FAI_HOPPER_WGS, FAI_HOPPER_N);
#if FAI_HOPPER_FEW
    if (other) launch->kernel = (const void *)FAI_(hopper_few_kernel);
#elif FAI_HOPPER_WIDE
    if (other) launch->kernel = (const void *)FAI_(hopper_wide_kernel);
#endif
}

/* The maps of q and o; 0 if there is none for one of them. */
static inline int FAI_(set_maps_q)(fai_encode encode, const fa_args *a, fa_cuda_maps *m) {
    enum { D = FA_HEAD_DIM, DV = FA_HEAD_DIM_V };
    const int ragged = a->cu_seqlens_q != NULL, rows = 64 / m->group;
    return fai_cuda_map(encode, &m->q, FA_DTYPE, a->q.data, D, a->num_heads, a->seqlen_q, a->batch,
                        fai_strides_q(a, D), ragged, m->group, rows) &&
           (FAI_HOPPER_PANELS_O == 0 ||
            fai_cuda_map(encode, &m->o, FA_O_DTYPE, a->o.data, DV, a->num_heads, a->seqlen_q, a->batch,
                         fai_strides_o(a, DV), ragged, m->group, rows));
}

/* Those of k and v: pages come in boxes of as many rows as divide both page and tile, whole groups of 8. */
static inline int FAI_(set_maps_k)(fai_encode encode, const fa_args *a, fa_cuda_maps *m, int bn) {
    enum { D = FA_HEAD_DIM, DV = FA_HEAD_DIM_V };
    const int heads_k = fai_num_heads_k(a), paged = a->block_table != NULL;
    const int ragged_k = a->cu_seqlens_k != NULL && !paged;
    const int64_t rows_k = paged ? a->page_size : a->seqlen_k, many_k = paged ? a->num_pages : a->batch;
    m->page_rows = paged ? fai_cuda_gcd(bn, a->page_size) : bn;
    if (m->page_rows % 8) return 0;
    if (a->seqlen_k == 0) return 1; /* nobody will read k and v */
    if (!fai_cuda_map(encode, &m->k, FA_DTYPE, a->k.data, D, heads_k, rows_k, many_k,
                      fai_strides_kv(a, &a->k, D), ragged_k, 1, m->page_rows))
        return 0;
#if FAI_BYTES == 1
    return fai_cuda_map_transposed(encode, &m->v, a, DV);
#else
    return fai_cuda_map(encode, &m->v, FA_DTYPE, a->v.data, DV, heads_k, rows_k, many_k,
                        fai_strides_kv(a, &a->v, DV), ragged_k, 1, m->page_rows);
#endif
}

/* Does 16 times 32 bits reach from the first row to the last, of a sequence or of all pages? 64 GiB */
static inline int FAI_(fits_offsets)(const fa_args *a, const fa_tensor *x, int dim) {
    const fai_strides st = fai_strides_kv(a, x, dim);
    const int64_t pages = a->block_table ? a->num_pages : 1, rows = a->block_table ? a->page_size : a->seqlen_k;
    return (double)(pages - 1) * (double)st.b + (double)(rows - 1) * (double)st.s < 8.0 * 0xffffffffu;
}

/* The kernel that needs no maps of k and v; 0 if there is none. */
static inline int FAI_(set_rows)(const fa_args *a, fa_cuda_launch *launch) {
#if FAI_BYTES == 2
    if (!FAI_(fits_offsets)(a, &a->k, FA_HEAD_DIM) || !FAI_(fits_offsets)(a, &a->v, FA_HEAD_DIM_V)) return 0;
    FAI_(set_shape)(launch, 0), launch->maps.page_rows = 0;
    launch->kernel = (const void *)FAI_(hopper_rows_kernel);
    return 1;
#else
    (void)a, (void)launch;
    return 0;
#endif
}

/* Do the keys of a tile have the same factor, where there may be several? */
static inline int FAI_(fits_tiles)(const fa_descale *d) {
    return !d->data || !d->block || (FAI_HOPPER_BLOCKS(*d) && d->block % FAI_HOPPER_N == 0);
}

/* fp8: what this kernel does (HOPPER, above) */
static inline int FAI_(fits_bytes)(const fa_args *a) {
    return a->v_transposed && a->softmax_scale >= 0 && a->seqlen_k > 0 && FAI_(fits_tiles)(&a->k_descale) &&
           FAI_(fits_tiles)(&a->v_descale);
}

/* Heads whose tiles run side by side: all, if their K and V fit in L2, or if there are so few that those of
 * a head are read for four blocks at once. Else sections of the same size: a small one at the end would leave
 * SMs without work. Causal 16 x 4096, 128 dims, in sections of 15 and 1 take 1.39 times what the tiles do, in
 * one section 1.00; 64 or 128 dims, 1024 to 16384 keys and 16 heads or more 1.00 to 1.13 (simulated: 132 SMs
 * that each take a time of 1.5 + tiles of keys). */
static inline int64_t FAI_(section_of)(const fa_args *a, int64_t heads, int64_t sms) {
    const int64_t bytes = ((int64_t)a->seqlen_k + 1) * (FA_HEAD_DIM + FA_HEAD_DIM_V) * FAI_BYTES;
    const int64_t fit = (32 << 20) / bytes; /* of 50 MB or more of L2 */
    const int64_t most = fit > sms / 4 ? fit : sms / 4 > 1 ? sms / 4 : 1;
    const int64_t sections = (heads - 1) / most + 1;
    return (heads - 1) / sections + 1;
}

/* Fills in the launch of this kernel; 0 if this binary has none for this GPU, or args want what it does not
 * do (HOPPER, above). Blocks take turns, one an SM, where all tiles are of one length, or get longer tile by
 * tile; else there is one for each tile, unless fai_cuda_count_tiles gives them a counter. */
static inline int FAI_(hopper_launch)(const fa_args *a, fa_cuda_launch *launch) {
    const int shared_by = a->num_heads / fai_num_heads_k(a);
    int device = 0, sms = 0;
    fa_cuda_maps *const m = &launch->maps;
    memset(m, 0, sizeof *m);
    if (FAI_BYTES == 1 && !FAI_(fits_bytes)(a)) return 0;
    if (!fai_cuda_has_kernel((const void *)FAI_(hopper_kernel), FAI_HOPPER_THREADS) ||
        cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device) != cudaSuccess)
        return 0;
    m->group = 64 % shared_by == 0 ? shared_by : 1; /* heads that share K and V, if a box can have them */
    const int64_t heads = (int64_t)a->batch * a->num_heads / m->group;
    FAI_(set_shape)(launch, FAI_(is_other_shape)(a, sms, heads, m->group));
    const fai_encode encode = fai_cuda_encoder();
    if (!encode || !FAI_(set_maps_q)(encode, a, m)) return 0;
    if (!FAI_(set_maps_k)(encode, a, m, launch->block_n) && !FAI_(set_rows)(a, launch)) return 0;
    const int64_t tiles = ((int64_t)a->seqlen_q * m->group + launch->block_m - 1) / launch->block_m;
    if (tiles > INT32_MAX / heads) return 0;
    m->section = (uint32_t)FAI_(section_of)(a, heads, sms);
    const int even =
        !a->cu_seqlens_q && !a->cu_seqlens_k && !a->seqused_q && !a->seqused_k && !a->block_mask.data;
    m->tiles = (uint32_t)tiles, m->total = (uint32_t)(tiles * heads);
    m->slots = launch->block == 128 ? m->total : (uint32_t)sms; /* FEW: one for each tile */
    launch->arch = 900, launch->grid = even && m->slots < m->total ? m->slots : m->total;
    if (cudaFuncSetAttribute(launch->kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             (int)launch->shared) == cudaSuccess)
        return 1;
    (void)cudaGetLastError();
    return 0;
}
#undef FAI_SHIFTED
#undef FAI_UNSEEN_KEY
#undef FAI_UNSEEN
#undef FAI_HEAD
#undef FAI_BAR_ALL
#undef FAI_BAR_MEND
#undef FAI_BAR_WG
#undef FAI_BAR_TURN
#undef FAI_V_RAW
#undef FAI_V_EMPTY
#undef FAI_V_FULL
#undef FAI_K_EMPTY
#undef FAI_K_FULL
#undef FAI_TILE_EMPTY
#undef FAI_TILE_FULL
#undef FAI_Q_EMPTY
#undef FAI_Q_FULL
#undef FAI_HOPPER_P
#undef FAI_HOPPER_SHARED
#undef FAI_HOPPER_Q_BYTES
#undef FAI_HOPPER_OWN_O
#undef FAI_HOPPER_BOTH
#undef FAI_HOPPER_SO
#undef FAI_HOPPER_SQ
#undef FAI_HOPPER_SV
#undef FAI_HOPPER_SK
#undef FAI_HOPPER_TILES
#undef FAI_HOPPER_V_BYTES
#undef FAI_HOPPER_K_BYTES
#undef FAI_HOPPER_PANELS_O
#undef FAI_HOPPER_PANELS
#undef FAI_HOPPER_SIZES
#undef FAI_HOPPER_THREADS
#endif /* FAI_HOPPER */

#if (FA_PASSES) & FA_DECODE
/* ======================================================================================== */
/* >>decode   few rows, many keys: [FD] splits of the keys, a slice of a tile for each warp  */
/* ======================================================================================== */

/*  A block has 4 warps, and 16, 32 or 64 rows of one key/value head: the queries and heads of a group. It
 *  reads each byte of its K and V once, and all its warps are busy with them:
 *
 *      rows   rows of a warp x slices of keys, keys of a slice
 *      16     1 x 4, 16              each warp has all rows and keys of its own: none waits for another
 *      32     2 x 2, 32 or 16        two warps share a slice, and meet before they read it
 *      64     4 x 1, 64, 32 or 16
 *
 *  Shared memory is a ring of slots, each a tile of K or of V, in turn. A slot is free when its readers have
 *  met; then the half tile that is all slots but one ahead is asked for. Each slice has its own O, m and l,
 *  which are added up once, at the end. Split results go to the workspace, and the last block of a tile of
 *  rows to finish adds those up. */

#define FAI_DECODE_THREADS 128
#define FAI_DECODE_Q_STAYS (FA_HEAD_DIM <= 160) /* in registers, 40 of them */
/* 16 keys are the least that mma takes; more mean fewer barriers, as far as registers reach */
#define FAI_DECODE_NUMBER(rows) \
    ((rows) == 16 || FAI_DIM > 192 ? 16 : (rows) == 32 || FAI_DIM > 64 ? 32 : 64) /* keys of a slice */
/* A tile of 64 keys takes a slot, of less if a slice has less. 64 KB of slots for each of 2 blocks an SM,
 * 32 KB where 99 is all there is; but 3 (2) slots of large heads. All slots but one are on their way:
 * 4.8 TB/s for 1 us are 36 KB an SM, and a GPU with 99 KB has a quarter of that bandwidth. */
#define FAI_DECODE_SLOT (64 * FAI_UNITS(FAI_DIM) * 2)
#define FAI_DECODE_LEAST(arch) (FAI_LITTLE_SHARED(arch) ? 2 : 3)
#define FAI_DECODE_RING(arch) \
    ((FAI_LITTLE_SHARED(arch) ? 32768 : 65536) > FAI_DECODE_LEAST(arch) * FAI_DECODE_SLOT \
         ? (FAI_LITTLE_SHARED(arch) ? 32768 : 65536) / FAI_DECODE_SLOT * FAI_DECODE_SLOT \
         : FAI_DECODE_LEAST(arch) * FAI_DECODE_SLOT)
/* The ring and Q; then 64 rows of O in their place, so far apart that the stores of 4 rows, 8 bytes a thread,
 * or of 2, 16 bytes a thread, go to different banks */
#define FAI_DECODE_PITCH (FA_HEAD_DIM_V + 16 / FAI_KV_BYTES)
#define FAI_DECODE_BYTES(arch, rows) \
    (FAI_DECODE_RING(arch) + (rows) * FA_HEAD_DIM * 2 > 64 * 4 * FAI_DECODE_PITCH \
         ? FAI_DECODE_RING(arch) + (rows) * FA_HEAD_DIM * 2 \
         : 64 * 4 * FAI_DECODE_PITCH)
#define FAI_DECODE_SHARED(arch, rows) (FAI_DECODE_BYTES(arch, rows) + sizeof(FAI_(split)))

/* What the threads of a block have in common, in shared memory.
 * tile.any and tile.all are those of the split. */
typedef struct FAI_(split) {
    FAI_(tile) tile;
    int32_t begin;         /* of the first tile of keys, a multiple of 64 */
    int32_t number, count; /* of the splits of the tile of rows */
    uint32_t ticket;       /* blocks that have finished before this one */
    float m[64], l[64];    /* (slices, rows) */
} FAI_(split);

/* The tile of rows and the keys of block n; 0 if there are none. The splits are those of the keys that the
 * rows of the tile see; a row alone has the same ones, or fewer, if they are fixed. */
FAI_ATOM int FAI_(decode_begin)(const fa_args *a, const fai_cuda_plan *p, FAI_(split) *x, uint32_t n,
                                const int rows) {
    FAI_(tile) *const t = &x->tile;
    if (!FAI_(begin)(a, t, n / (uint32_t)p->splits, rows)) return 0;
    if (threadIdx.x == 0) {
        const int32_t grain = p->fixed ? p->unit : 64, begin = t->any.lo / grain * grain;
        const int32_t length = t->any.lo < t->any.hi ? t->any.hi - begin : 0;
        x->number = (int32_t)(n % (uint32_t)p->splits);
        x->count = length > p->unit ? (length - 1) / p->unit + 1 : 1;
        const int32_t each = p->fixed ? p->unit : ((length - 1) / x->count / 64 + 1) * 64;
        const int32_t lo = begin + (x->number < x->count ? x->number : 0) * each;
        const fa_range own = {lo, length - (lo - begin) > each ? lo + each : begin + length};
        t->any = fai_cut(t->any, own), t->all = fai_cut(t->all, own);
        x->begin = t->any.lo < t->any.hi ? t->any.lo / 64 * 64 : t->any.hi;
    }
    __syncthreads(); /* *x is written */
    return x->number < x->count;
}

/* ---- the ring ---- */

/* K or V (half 1) from key `first` on to a slot, by the warps of a slice. */
FAI_ATOM void FAI_(decode_fetch)(const fa_args *a, const FAI_(tile) *t, FAI_(source) gk, FAI_(source) gv,
                                 const int half, int32_t first, uint32_t to, const int rows) {
    const int threads = rows * 2, thread = (int)threadIdx.x % threads, number = FAI_DECODE_NUMBER(rows);
    if (half == 0) FAI_(load_keys)(a, t, &a->k, gk, first, to, thread, threads, number, FA_HEAD_DIM);
    else FAI_(load_keys)(a, t, &a->v, gv, first, to, thread, threads, number, FA_HEAD_DIM_V);
    fai_cp_async_commit_group();
}

/* Before a slice is read, and before its slot is written again: the warps that share it, whose copies are
 * done. */
FAI_ATOM void FAI_(decode_meet)(int slice, const int rows) {
    if (rows == 16) __syncwarp();
    else if (rows == 64) __syncthreads();
    else fai_bar_sync(1 + slice, 64);
}

/* ---- 8-bit K and V, which become f16 where they are multiplied ---- */

#if FAI_KV_BYTES == 1
#if FA_KV_DTYPE == FA_I8
#define FAI_WIDEN fai_widen_s8
#else
#define FAI_WIDEN fai_widen_e4m3
#endif

/* rq (A4) <- k 16 c .. 16 c + 15 of Q, in the order of K: ldmatrix gives a thread the 4 bytes 4t .. 4t + 3 of
 * 16 of a row, which FAI_WIDEN makes 4t, 4t + 2 and 4t + 1, 4t + 3. sq: of row C_ROW(lane, 0), k 4t */
FAI_ATOM void FAI_(decode_fragment_q)(uint32_t rq[4], uint32_t sq, const int c) {
    const uint2 top = fai_ld_shared_v2_b32(FAI_MOVE(FA_HEAD_DIM, sq, 0, c * 2));
    const uint2 bottom = fai_ld_shared_v2_b32(FAI_MOVE(FA_HEAD_DIM, sq, 8, c * 2));
    rq[0] = fai_prmt_b32(top.x, top.y, 0x5410), rq[1] = fai_prmt_b32(bottom.x, bottom.y, 0x5410);
    rq[2] = fai_prmt_b32(top.x, top.y, 0x7632), rq[3] = fai_prmt_b32(bottom.x, bottom.y, 0x7632);
}

/* Q of bf16 as f16, times a power of 2 for each row that brings its largest element to 2^14 .. 2^15: what
 * then is too small for f16 is less than 2^-38 of that. unit: (rows) the reciprocals. */
FAI_ATOM void FAI_(decode_narrow_q)(uint32_t sq, float *unit, const int rows) {
    const int lane = (int)threadIdx.x % 32, has = lane < FA_HEAD_DIM / 8;
    for (int r = (int)threadIdx.x / 32; r < rows; r += FAI_DECODE_THREADS / 32) {
        const uint32_t at = sq + FAI_AT(FA_HEAD_DIM, r, lane);
        const uint4 x = has ? fai_ld_shared_v4_b32(at) : make_uint4(0, 0, 0, 0);
        const uint32_t word[4] = {x.x, x.y, x.z, x.w};
        uint32_t top = 0, y[4];
#pragma unroll
        for (int n = 0; n < 4; n++) top = max(top, max(word[n] & 0x7f80, word[n] >> 16 & 0x7f80));
        /* exponent, 127 too large; 255: infinite or NaN, and stays that */
        top = fai_redux_sync_max_u32(top) >> 7;
        const uint32_t power = top == 255 ? 127 : top < 15 ? 253 : 268 - top;
#pragma unroll
        for (int n = 0; n < 4; n++)
            y[n] = fai_cvt_rn_f16x2_f32(__uint_as_float(word[n] & 0xffff0000u) * __uint_as_float(power << 23),
                                        __uint_as_float(word[n] << 16) * __uint_as_float(power << 23));
        if (has) fai_st_shared_v4_b32(at, make_uint4(y[0], y[1], y[2], y[3]));
        if (lane == 0) unit[r] = __uint_as_float((254 - power) << 23);
    }
}

/* As gemm_qk, of 16 rows. */
FAI_ATOM void FAI_(widen_qk)(float (*s)[4], uint32_t (*rq)[4], uint32_t sq, uint32_t sk, const int number) {
    enum { UNITS = FA_HEAD_DIM / 2 };
#pragma unroll
    for (int n = 0; n < number / 8 * 4; n++) s[n / 4][n % 4] = 0;
#pragma unroll
    for (int c = 0; c < UNITS / 16; c++) {
#pragma unroll
        for (int n = 2 * c; n < 2 * c + 2 && !FAI_DECODE_Q_STAYS; n++) FAI_(decode_fragment_q)(rq[n], sq, n);
#pragma unroll
        for (int j = 0; j < number / 16; j++) {
            uint32_t rk[4]; /* (2 n, 2 k) of 4 bytes */
            fai_ldmatrix_x4(rk, FAI_MOVE(UNITS, sk, j * 16, c * 2));
#pragma unroll
            for (int n = 0; n < 4; n++) {
                uint32_t b[2]; /* (B2) */
                FAI_WIDEN(b, rk[n]);
                fai_mma_m16n8k16_f32_f16(s[2 * j + n / 2], rq[2 * c + n % 2], b);
            }
        }
    }
}

/* As gemm_pv, of 16 rows. ldmatrix transposes pairs of columns, which FAI_WIDEN parts: columns 2n of 16 are
 * in one fragment of O, 2n + 1 in the next. */
FAI_ATOM void FAI_(widen_pv)(float (*o)[4], float (*p)[4], uint32_t sv, const int number) {
    enum { UNITS = FA_HEAD_DIM_V / 2 };
#pragma unroll
    for (int c = 0; c < number / 16; c++) {
        uint32_t rp[4]; /* (A4) */
#pragma unroll
        for (int e = 0; e < 4; e++)
            rp[e] = fai_cvt_rn_f16x2_f32(p[2 * c + e / 2][e % 2 * 2 + 1], p[2 * c + e / 2][e % 2 * 2]);
#pragma unroll
        for (int j = 0; j < UNITS / 16; j++) {
            uint32_t rv[4]; /* (2 n, 2 k) of 2 x 2 bytes */
            fai_ldmatrix_x4_trans(rv, FAI_MOVE(UNITS, sv, c * 16, j * 2));
#pragma unroll
            for (int n = 0; n < 4; n += 2) {
                uint32_t top[2], bottom[2]; /* (2 n, k 2t, 2t + 1) and 8 keys on */
                FAI_WIDEN(top, rv[n]);
                FAI_WIDEN(bottom, rv[n + 1]);
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    const uint32_t b[2] = {top[e], bottom[e]}; /* (B2) */
                    fai_mma_m16n8k16_f32_f16(o[4 * j + n + e], rp, b);
                }
            }
        }
    }
}
#undef FAI_WIDEN
#endif

/* Factors of the thread's keys of a slice: f (number/4), of keys first + FAI_C_COL(lane, 0) + 0, 1, 8, 9 ..
 * Each lane looks one up, or two, and then they are passed round. */
FAI_ATOM void FAI_(decode_factors)(const fa_args *a, const FAI_(tile) *t, const fa_descale *d, float *f,
                                   int32_t first, const int number) {
    const int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < number; n += 32) {
        const int32_t j = first + n + lane;
        const int inside = j >= t->any.lo && j < t->any.hi;
        const float own = inside ? *fai_descale_at(a, d, t->b, t->head_k, j) : 1;
#pragma unroll
        for (int c = n / 4; c < n / 4 + 8 && c < number / 4; c++)
            f[c] = fai_shfl_sync_idx_f32(own, c / 2 * 8 - n + c % 2 + lane % 4 * 2);
    }
}

/* ---- results ---- */

/* 4 elements of O from d on, and LSE if d is 0, of a row: x = sum of exp2(s - m) v, l of exp2(s - m). A sink
 * is one more key, without a value. */
FAI_ATOM void FAI_(decode_finish)(const fa_args *a, const FAI_(tile) *t, int r, int d, float4 x, float m,
                                  float l) {
    const FAI_(row) at = FAI_(find)(t, r);
    const fa_sequence seq = FAI_(sequence)(a, t->b);
    float factor = 1;
    if (FAI_HAS(FA_SINK) && a->sink) {
        const float sink = a->sink[at.h] * FAI_LOG2E, top = fmaxf(m, sink), base = top == -INFINITY ? 0 : top;
        factor = fai_ex2_approx_ftz_f32(m - base);
        l = l * factor + fai_ex2_approx_ftz_f32(sink - base), m = top;
    }
    factor = l == 0 ? 0 : factor / l; /* an empty row is 0 */
    if (FAI_HAS(FA_DROPOUT)) factor *= fa_dropout_scale(a->dropout_p);
    if (FAI_KV_BYTES == 1 && a->v_descale.data && !a->v_descale.block)
        factor *= *fai_descale_at(a, &a->v_descale, t->b, t->head_k, 0);
    if (l == 0) x = make_float4(0, 0, 0, 0);
    x.x *= factor, x.y *= factor, x.z *= factor, x.w *= factor;
    const int64_t to = fai_offset_q(&seq, fai_strides_o(a, FA_HEAD_DIM_V), at.i, at.h) + d;
#if FA_O_DTYPE == FA_F32
    *(float4 *)(void *)((float *)a->o.data + to) = x;
#else
    *(uint2 *)(void *)((uint16_t *)a->o.data + to) = make_uint2(FAI_PACK(x.y, x.x), FAI_PACK(x.w, x.z));
#endif
    if (a->lse.data && d == 0)
        ((float *)a->lse.data)[fai_offset_q(&seq, fai_strides_lse(a), at.i, at.h)] =
            (m + fai_lg2_approx_f32(l)) * FAI_LN2; /* -inf if empty */
}

/* The parts of a tile of rows in the workspace: (splits, rows) of m and l, then (splits, rows, DV) of O. */
typedef struct FAI_(parts) {
    float2 *ml;
    float4 *o;
} FAI_(parts);

FAI_ATOM FAI_(parts) FAI_(decode_parts)(const fai_cuda_plan *p, char *workspace, uint32_t tile) {
    const int64_t rows = (int64_t)p->splits * p->rows;
    FAI_(parts) x;
    x.ml = (float2 *)(void *)(workspace + FAI_DECODE_COUNTERS * 4 + tile * rows * (FA_HEAD_DIM_V + 2) * 4);
    x.o = (float4 *)(void *)(x.ml + rows);
    return x;
}

/* The sum of the parts, which are in memory. In the order of the splits: those that a row does not see change
 * no bit. */
FAI_ATOM void FAI_(decode_reduce)(const fa_args *a, const FAI_(tile) *t, FAI_(parts) parts, int count,
                                  const int rows) {
    enum { QUADS = FA_HEAD_DIM_V / 4 };
    for (int n = (int)threadIdx.x; n < t->rows * QUADS; n += FAI_DECODE_THREADS) {
        const int r = n / QUADS, quad = n % QUADS;
        float top = -INFINITY, l = 0;
        float4 x = make_float4(0, 0, 0, 0);
#pragma unroll 8
        for (int s = 0; s < count; s++) top = fmaxf(top, __ldcg(&parts.ml[s * rows + r]).x);
        const float base = top == -INFINITY ? 0 : top;
#pragma unroll 4
        for (int s = 0; s < count; s++) {
            const float2 ml = __ldcg(&parts.ml[s * rows + r]);
            const float4 y = __ldcg(&parts.o[(s * rows + r) * QUADS + quad]);
            const float w = fai_ex2_approx_ftz_f32(ml.x - base);
            l = fmaf(w, ml.y, l);
            x.x = fmaf(w, y.x, x.x), x.y = fmaf(w, y.y, x.y),
            x.z = fmaf(w, y.z, x.z), x.w = fmaf(w, y.w, x.w);
        }
        FAI_(decode_finish)(a, t, r, quad * 4, x, top, l);
    }
}

/* Adds to x, elements d .. d + 3 of row r, those of V that have been taken for 0, if the row sees them. */
FAI_ATOM float4 FAI_(decode_infinite)(const fa_args *a, const FAI_(tile) *t, int r, int d, float4 x) {
    const fai_strides st = fai_strides_kv(a, &a->v, FA_HEAD_DIM_V);
    const fa_sequence seq = FAI_(sequence)(a, t->b);
    for (int32_t j = t->any.lo; j < t->any.hi; j++) {
        const int64_t at = fai_offset_k(a, &seq, st, j, t->head_k) + d;
        float y[4], bad = 0;
        for (int e = 0; e < 4; e++) y[e] = fa_load(a->v.data, at + e, FA_KV_DTYPE), bad += y[e] * 0;
        if (bad == 0 || !FAI_(counts)(a, t, FAI_(find)(t, r), j)) continue;
        x.x += y[0] * 0 == 0 ? 0 : y[0], x.y += y[1] * 0 == 0 ? 0 : y[1];
        x.z += y[2] * 0 == 0 ? 0 : y[2], x.w += y[3] * 0 == 0 ? 0 : y[3];
    }
    return x;
}

/* The slices' O, m and l, added up: results if there is one split, else a part in the workspace. mo: O holds
 * sums of exp2(s - mo) v. row: the first of the thread's rows. */
FAI_ATOM void FAI_(decode_merge)(const fa_args *a, FAI_(split) *x, FAI_(parts) parts, unsigned char *shared,
                                 float o[FA_HEAD_DIM_V / 8][4], const float m[2], float l[2],
                                 const float mo[2], int slice, int row, int infinite, const int rows) {
    enum { DV = FA_HEAD_DIM_V, QUADS = DV / 4, PITCH = FAI_DECODE_PITCH };
    const FAI_(tile) *const t = &x->tile;
    const int lane = (int)threadIdx.x % 32, slices = 64 / rows;
    float *const so = (float *)(void *)shared; /* (slices, rows, PITCH) */
#pragma unroll
    for (int n = 0; n < 2; n++) {
        l[n] += fai_shfl_sync_bfly_f32(l[n], 1);
        l[n] += fai_shfl_sync_bfly_f32(l[n], 2);
        if (lane % 4 == 0) x->m[slice * rows + row + n * 8] = m[n], x->l[slice * rows + row + n * 8] = l[n];
    }
    infinite = __syncthreads_or(infinite); /* m and l are written; nobody reads the ring any more */
#pragma unroll
    for (int n = 0; n < 2; n++) {
        float top = -INFINITY;
#pragma unroll
        for (int i = 0; i < slices; i++) top = fmaxf(top, x->m[i * rows + row + n * 8]);
        const float factor = mo[n] == -INFINITY ? 0 : fai_ex2_approx_ftz_f32(mo[n] - top);
        float *const to = so + (slice * rows + row + n * 8) * PITCH;
#pragma unroll
        for (int c = 0; c < DV / 8; c += 2) {
            const float x0 = o[c][n * 2] * factor, x1 = o[c][n * 2 + 1] * factor,
                        y0 = o[c + 1][n * 2] * factor, y1 = o[c + 1][n * 2 + 1] * factor;
            if (FAI_KV_BYTES == 2) { /* columns 2t, 2t + 1 of two fragments */
                *(float2 *)(void *)(to + c * 8 + lane % 4 * 2) = make_float2(x0, x1);
                *(float2 *)(void *)(to + c * 8 + 8 + lane % 4 * 2) = make_float2(y0, y1);
            } else { /* of 4t .. 4t + 3 the even ones in one, the odd ones in the other */
                *(float4 *)(void *)(to + c * 8 + lane % 4 * 4) = make_float4(x0, y0, x1, y1);
            }
        }
    }
    __syncthreads(); /* O is written */
    for (int n = (int)threadIdx.x; n < t->rows * QUADS; n += FAI_DECODE_THREADS) {
        const int r = n / QUADS, quad = n % QUADS;
        float top = -INFINITY, sum = 0;
        float4 all = make_float4(0, 0, 0, 0);
        for (int i = 0; i < slices; i++) top = fmaxf(top, x->m[i * rows + r]);
        for (int i = 0; i < slices; i++) {
            const float own = x->m[i * rows + r]; /* if it is -inf, l is 0, or NaN */
            const float4 y = *(const float4 *)(const void *)(so + (i * rows + r) * PITCH + quad * 4);
            sum += x->l[i * rows + r] * (own == -INFINITY ? 1 : fai_ex2_approx_ftz_f32(own - top));
            all.x += y.x, all.y += y.y, all.z += y.z, all.w += y.w;
        }
        if (infinite) all = FAI_(decode_infinite)(a, t, r, quad * 4, all);
        if (x->count == 1) {
            FAI_(decode_finish)(a, t, r, quad * 4, all, top, sum);
        } else {
            parts.o[(x->number * rows + r) * QUADS + quad] = all;
            if (quad == 0) parts.ml[x->number * rows + r] = make_float2(top, sum);
        }
    }
}

/* Results of the block, or its part of them; the last block of a tile of rows to finish adds the parts up.
 * As decode_merge. */
FAI_ATOM void FAI_(decode_end)(const fa_args *a, const fai_cuda_plan *p, FAI_(split) *x, char *workspace,
                               unsigned char *shared, float o[FA_HEAD_DIM_V / 8][4], const float m[2],
                               float l[2], const float mo[2], int slice, int row, int infinite,
                               const int rows) {
    const uint32_t tile = blockIdx.x / (uint32_t)p->splits;
    const FAI_(parts) parts = FAI_(decode_parts)(p, workspace, tile);
    FAI_(decode_merge)(a, x, parts, shared, o, m, l, mo, slice, row, infinite, rows);
    if (x->count == 1 || p->combine) return;
    __threadfence();
    __syncthreads(); /* the part is written, for all to see */
    if (threadIdx.x == 0) /* 0 again after the last */
        x->ticket = fai_atom_global_inc_u32((uint32_t *)(void *)workspace + tile, (uint32_t)x->count - 1);
    __syncthreads(); /* the ticket is written */
    if (x->ticket != (uint32_t)x->count - 1) return;
    __threadfence();
    FAI_(decode_reduce)(a, &x->tile, parts, x->count, rows);
}

/* ---- the kernels ---- */

FAI_ATOM void FAI_(decode_block)(const fa_args *a, const fai_cuda_plan *p, char *workspace, const int rows) {
    enum { D = FA_HEAD_DIM, DV = FA_HEAD_DIM_V };
    extern __shared__ __align__(128) unsigned char fai_shared[];
    FAI_(split) *const x = (FAI_(split) *)(void *)(fai_shared + FAI_DECODE_BYTES(FAI_ARCH, rows));
    const FAI_(tile) *const t = &x->tile;
    if (!FAI_(decode_begin)(a, p, x, blockIdx.x, rows)) return;

    const int number = FAI_DECODE_NUMBER(rows), slices = 64 / rows; /* a tile: slices * number keys */
    const int part = number * FAI_UNITS(FAI_DIM) * 2, size = slices * part; /* bytes of a slice, of a slot */
    const int slots = FAI_DECODE_RING(FAI_ARCH) / size < 8 ? FAI_DECODE_RING(FAI_ARCH) / size : 8;
    const int ahead = slots - 1;
    const int lane = (int)threadIdx.x % 32, slice = (int)threadIdx.x / (rows * 2);
    const int warp_row = (int)threadIdx.x % (rows * 2) / 32 * 16, row = warp_row + FAI_C_ROW(lane, 0);
    const uint32_t own = fai_cvta_to_shared(fai_shared) + slice * part; /* in slot 0 */
    const uint32_t sk = own + FAI_AT(FAI_UNITS(D), FAI_LDMATRIX_B_ROW(lane), FAI_LDMATRIX_B_CHUNK(lane));
    const uint32_t sv = own + FAI_AT(FAI_UNITS(DV), FAI_LDMATRIX_A_ROW(lane), FAI_LDMATRIX_A_CHUNK(lane));
    const uint32_t q = fai_cvta_to_shared(fai_shared) + FAI_DECODE_RING(FAI_ARCH);
#if FAI_KV_BYTES == 2
    const uint32_t sq = q + FAI_AT(D, warp_row + FAI_LDMATRIX_A_ROW(lane), FAI_LDMATRIX_A_CHUNK(lane));
#else
    const uint32_t sq = q + FAI_AT(D, row, lane % 4 / 2) + lane % 2 * 8;
#endif
    const FAI_(source) gk = FAI_(open)(a, t, &a->k, (int)threadIdx.x % (rows * 2), D),
                       gv = FAI_(open)(a, t, &a->v, (int)threadIdx.x % (rows * 2), DV);
    const int k_factors = FAI_KV_BYTES == 1 && a->k_descale.data && a->k_descale.block;
    const int v_factors = FAI_KV_BYTES == 1 && a->v_descale.data && a->v_descale.block;
    const int masked = FAI_(is_masked)(a), drops = FAI_HAS(FA_DROPOUT) && a->dropout_p > 0;
    const int modified = FAI_(is_modified)(a) || a->softmax_scale < 0; /* softmax wants a scale above 0 */
    float scale = a->softmax_scale != 0 ? a->softmax_scale : rsqrtf((float)D);
    if (FAI_KV_BYTES == 1 && a->k_descale.data && !k_factors)
        scale *= *fai_descale_at(a, &a->k_descale, t->b, t->head_k, 0);
    if (!modified) scale = fmaxf(scale, 1e-37f); /* of a key that nobody sees is -inf to stay */

    uint32_t rq[D / 16][4];                              /* (D/16, A4) */
    float o[DV / 8][4], m[2], l[2], mo[2], ignored[2]; /* (DV/8, C4); of the thread's rows */
#pragma unroll
    for (int n = 0; n < DV / 8 * 4; n++) o[n / 4][n % 4] = 0;
#pragma unroll
    for (int n = 0; n < 2; n++) m[n] = mo[n] = -INFINITY, l[n] = ignored[n] = 0;

    /* load Q, and K and V of the first tiles; all slots but one are always on their way, or read */
    const int32_t begin = x->begin + slice * number, end = t->any.hi, step = slices * number;
    FAI_(load_q)(a, t, q, rows, FAI_DECODE_THREADS);
    fai_cp_async_commit_group();
#pragma unroll
    for (int n = 0; n < ahead; n++)
        FAI_(decode_fetch)(a, t, gk, gv, n % 2, begin + n / 2 * step, own + n * size, rows);
    fai_cp_async_wait_group(ahead);
    __syncthreads(); /* Q is there, for all */
#if FAI_KV_BYTES == 2
    if (FAI_DECODE_Q_STAYS) FAI_(fragments_q)(rq, sq, 1);
#else
    float unit[2] = {1, 1}; /* of Q as f16, of the thread's rows */
    if (FA_DTYPE == FA_BF16) {
        FAI_(decode_narrow_q)(q, x->m, rows);
        __syncthreads(); /* Q is f16 */
        unit[0] = x->m[row], unit[1] = x->m[row + 8];
        __syncthreads(); /* nobody reads the units any more: it is the place of m */
    }
#pragma unroll
    for (int c = 0; c < D / 16 && FAI_DECODE_Q_STAYS; c++) FAI_(decode_fragment_q)(rq[c], sq, c);
#endif

    int infinite = 0;
    uint32_t slot = 0, last = ahead * size; /* of this half tile, of the one before, which is free */
    for (int32_t first = begin; first - slice * number < end; first += step) {
        const int mask = masked || first < t->all.lo || first + number > t->all.hi;
        float s[8][4], f[16]; /* S, P: (number/8, C4); factors (number/4) */
        fai_cp_async_wait_group(ahead - 1);
        FAI_(decode_meet)(slice, rows); /* K is there; nobody reads the last V any more */
        FAI_(decode_fetch)(a, t, gk, gv, ahead % 2, first + ahead / 2 * step, own + last, rows);
#if FAI_KV_BYTES == 2
        FAI_(gemm_qk)(s, rq, sq, sk + slot, 1, number, FAI_DECODE_Q_STAYS);
#else
        FAI_(widen_qk)(s, rq, sq, sk + slot, number);
        if (k_factors) {
            FAI_(decode_factors)(a, t, &a->k_descale, f, first, number);
#pragma unroll
            for (int n = 0; n < number / 2; n++) s[n / 4][n % 4] *= f[n / 4 * 2 + n % 2];
        }
#pragma unroll
        for (int n = 0; n < number / 2; n++) s[n / 4][n % 4] *= unit[n % 4 / 2];
#endif
        last = slot, slot = slot == ahead * size ? 0 : slot + size;
        if (modified) FAI_(modify)(a, t, s, first, row, scale, 1, number);
        if (mask) FAI_(mask)(a, t, s, first, row, 1, number);
        if (v_factors) { /* part of the exponent, with a reference of its own: no size is too large for P */
            float y[8][4];
            FAI_(decode_factors)(a, t, &a->v_descale, f, first, number);
#pragma unroll
            for (int n = 0; n < number / 2; n++) {
                y[n / 4][n % 4] = s[n / 4][n % 4];
                s[n / 4][n % 4] = s[n / 4][n % 4] * (modified ? 1 : scale * FAI_LOG2E) +
                                  fai_lg2_approx_f32(f[n / 4 * 2 + n % 2]);
            }
            FAI_(softmax)(y, o, m, l, modified ? 1 : scale * FAI_LOG2E, 1, number, 0);
            FAI_(softmax)(s, o, mo, ignored, 1, 1, number, DV);
        } else {
            FAI_(softmax)(s, o, m, l, modified ? 1 : scale * FAI_LOG2E, 1, number, DV);
        }
        if (drops) FAI_(dropout)(a, t, s, first, row, 1, number);

        fai_cp_async_wait_group(ahead - 1);
        if (mask || drops)
            infinite |= FAI_(make_finite)(own + slot, (int)threadIdx.x % (rows * 2), rows * 2, number);
        FAI_(decode_meet)(slice, rows); /* V is there; nobody reads K any more */
        FAI_(decode_fetch)(a, t, gk, gv, (ahead + 1) % 2, first + (ahead + 1) / 2 * step, own + last, rows);
#if FAI_KV_BYTES == 2
        FAI_(gemm_pv)(o, s, sv + slot, 1, number);
#else
        FAI_(widen_pv)(o, s, sv + slot, number);
#endif
        last = slot, slot = slot == ahead * size ? 0 : slot + size;
    }
    fai_cp_async_wait_all(); /* the tiles behind the end, which are empty */
#pragma unroll
    for (int n = 0; n < 2; n++) mo[n] = v_factors ? mo[n] : m[n];

    FAI_(decode_end)(a, p, x, workspace, fai_shared, o, m, l, mo, slice, row, infinite, rows);
}

#define FAI_DECODE_KERNEL(rows) \
    static __global__ void __launch_bounds__(FAI_DECODE_THREADS, 2) /* 255 registers */ \
        FAI_(decode_kernel_##rows)(const __grid_constant__ fa_args args, \
                                   const __grid_constant__ fai_cuda_plan plan, char *workspace) { \
        FAI_(decode_block)(&args, &plan, workspace, rows); \
    }
FAI_DECODE_KERNEL(16)
FAI_DECODE_KERNEL(32)
FAI_DECODE_KERNEL(64)
#undef FAI_DECODE_KERNEL

/* ---- sm_90a: more than 16 rows by TMA and wgmma ---- */

#define FAI_HOPPER_DECODE \
    (FAI_BYTES == 2 && FAI_KV_BYTES == 2 && FA_HEAD_DIM >= 64 && FA_HEAD_DIM_V >= 64) /* is there a kernel? */
#if FAI_HOPPER_DECODE

/*  A block has 64 rows and a ring of slots, too, each with a tile of 64 keys of K or of V, in panels of 64
 *  columns. One warp copies them by TMA, a warpgroup computes; two mbarriers of a slot say full and empty.
 *
 *  What it is for. HBM is the limit of decode, if nothing else takes as long. What a key costs an SM, next to
 *  the clocks in which its share of 4.8 TB/s brings it (132 SMs at 1.83 GHz; 2 bytes an element): clocks of
 *  shared memory, of the tensor cores, of exponentials, as counted by the PTX machine over published rates
 *  (predicted, not measured), and instructions that ptxas made for each warp of four, for 64 keys:
 *
 *                     rows   dim 64: HBM 13 clocks    dim 128: HBM 26          dim 256: HBM 52
 *                            shared  mma  exp SASS    shared  mma exp SASS     shared  mma exp SASS
 *      mma.sync         16      5.1  1.5    1  276       9.1    3   1  312       21.1    6   1  389
 *                       32      7.1  3.0    2  327      13.1    6   2  385       33.2   12   2  622
 *                       64     11.1  6.0    4  449      21.2   12   4  632       57.5   24   4 1084
 *      this one    17 - 64      5.2  4.0    4  239      10.3    8   4  251       20.3   16   4  278
 *
 *  With mma.sync each warp reads all of K and V for its 16 rows: with 64 rows that takes 82 to 112 % of the
 *  time of HBM, here 40 %. Up to 16 rows mma.sync has less to do in nearly all respects. Warps whose 16 rows
 *  do not exist have no exponentials, and 87 to 126 instructions.
 *
 *  Bytes on their way while a slot is read: 168, 128, 96 and 160 KB an SM at dim 64, 128, 192 and 256, where
 *  36 KB would do (4.8 TB/s for 1 us). So a tile need not hide its latencies: products, softmax and products
 *  one after the other take an estimated 1100 clocks at dim 128, while HBM needs 1650 for its 32 KB, and a
 *  block is seldom alone on its SM. */
#define FAI_HD_THREADS (FAI_DECODE_THREADS + 32)
#define FAI_HD_SLOT (FAI_PANELS(FAI_DIM) * 64 * 128)
/* Blocks an SM. One of five warps gets 128, 168 or 255 registers a thread if it is one of 3, 2 or 1; and
 * beyond 192 dims two have no room for three slots each. */
#define FAI_HD_BLOCKS (FAI_DIM <= 64 && !FAI_HEAVY ? 3 : FAI_DIM <= (FAI_HEAVY ? 128 : 192) ? 2 : 1)
/* for slots: what Q, 2 KB for the rest and 1 KB for the system leave of a block's part of 228 KB */
#define FAI_HD_SHARED (233472 / FAI_HD_BLOCKS - 1024)
#define FAI_HD_ROOM (FAI_HD_SHARED - FAI_PANELS(FA_HEAD_DIM) * 64 * 128 - 2048)
#define FAI_HD_SIZES \
    enum { \
        D = FA_HEAD_DIM, \
        DV = FA_HEAD_DIM_V, \
        BN = 64, \
        PANEL = BN * 128, \
        SLOT = FAI_HD_SLOT, \
        SLOTS = FAI_HD_ROOM / SLOT < 8 ? FAI_HD_ROOM / SLOT : 8, \
        SQ = SLOTS * SLOT, /* the ring is at 0 */ \
        FULL = SQ + FAI_PANELS(D) * PANEL, /* mbarriers, 8 bytes for each slot */ \
        EMPTY = FULL + 8 * SLOTS, \
        SPLIT = EMPTY + 8 * SLOTS \
    };
FA_STATIC_ASSERT(16 * 8 + sizeof(FAI_(split)) <= 2048, "flashattn_cuda.cuh: FAI_HD_ROOM");

/* A slot of the ring, or the next in turn. */
typedef struct FAI_(slot) {
    uint32_t at, bar; /* bytes from slot 0; from its mbarrier */
    uint32_t parity;  /* of the mbarrier of a slot that is full; 1 - that of one that is empty */
} FAI_(slot);

FAI_ATOM FAI_(slot) FAI_(next_slot)(FAI_(slot) x) {
    FAI_HD_SIZES
    const FAI_(slot) next = {x.at + SLOT, x.bar + 8, x.parity}, again = {0, 0, x.parity ^ 1};
    return next.at < SLOTS * SLOT ? next : again;
}

/* One warp copies the tiles of K and V. Pages: by boxes that lie in one; lane n has box n of a tile. */
FAI_ATOM void FAI_(hopper_decode_copy)(const fa_args *a, const FAI_(split) *x, const fa_cuda_maps *maps,
                                       uint32_t shared) {
    FAI_HD_SIZES
    const FAI_(tile) *const t = &x->tile;
    const fa_sequence seq = FAI_(sequence)(a, t->b);
    const int lane = (int)threadIdx.x % 32, paged = FAI_HAS(FA_PAGED) && a->block_table != NULL;
    const int rows = maps->page_rows, active = lane < BN / rows; /* of a box */
    const fai_spot spot = fai_spot_k(a, &seq);
    FAI_(slot) slot = {0, 0, 0};
#pragma unroll 1
    for (int32_t first = x->begin; first < t->any.hi; first += BN) {
        fai_spot from = {spot.x + first, spot.y, spot.z};
        if (paged && active) {
            /* the table ends with the last page; what is copied instead will be masked */
            int32_t j = first + lane * rows;
            j = j < t->any.hi ? j : t->any.hi - 1;
            const int32_t number = j / a->page_size;
            from.x = (j - number * a->page_size) / rows * rows;
            from.y = a->block_table[t->b * fai_table_stride(a) + number], from.z = 0;
        }
#pragma unroll
        for (int half = 0; half < 2; half++) { /* K, V */
            const int panels = half ? FAI_PANELS(DV) : FAI_PANELS(D);
            const uint32_t to = shared + slot.at + lane * rows * 128, full = shared + FULL + slot.bar;
            fai_mbarrier_try_wait_parity(shared + EMPTY + slot.bar, slot.parity ^ 1);
            if (lane == 0) fai_mbarrier_arrive_expect_tx(full, panels * PANEL); /* they may be there */
#pragma unroll
            for (int p = 0; p < panels; p++)
                if (active)
                    fai_cp_async_bulk_tensor_5d_load(to + p * PANEL, half ? &maps->v : &maps->k, full,
                                                     p * 64, t->head_k, from.x, from.y, from.z);
            slot = FAI_(next_slot)(slot);
        }
    }
}

/* Q to panels. Rows that do not exist are copies of the last: without a branch, ptxas knows that the loop over
 * keys is the same for all lanes, and keeps its state in uniform registers. */
FAI_ATOM void FAI_(hopper_decode_load_q)(const fa_args *a, const FAI_(tile) *t, uint32_t to) {
    enum { D = FA_HEAD_DIM, CHUNKS = D / 8 };
    const fai_strides st = fai_strides_q(a, D);
    const fa_sequence seq = FAI_(sequence)(a, t->b);
#pragma unroll 4
    for (int n = (int)threadIdx.x; n < 64 * CHUNKS; n += FAI_DECODE_THREADS) {
        const int r = n / CHUNKS, chunk = n % CHUNKS;
        const FAI_(row) at = FAI_(find)(t, r);
        const int64_t from = fai_offset_q(&seq, st, at.i, at.h) + chunk * 8;
        const uint4 x = *(const uint4 *)(const void *)((const uint16_t *)a->q.data + from);
        fai_st_shared_v4_b32(to + FAI_PANEL_AT(64, r, chunk), x);
    }
}

/* Rows of V that no row of the tile sees become zeros, and what is not finite, too, as in make_finite. */
FAI_ATOM int FAI_(hopper_decode_mend)(const FAI_(tile) *t, int32_t first, uint32_t sv) {
    int found = 0;
#pragma unroll 1
    for (int n = (int)threadIdx.x; n < FAI_PANELS(FA_HEAD_DIM_V) * 64 * 8; n += FAI_DECODE_THREADS) {
        const int32_t j = first + n / 8 % 64;
        if (j < t->any.lo || j >= t->any.hi)
            fai_st_shared_v4_b32(sv + n * 16, make_uint4(0, 0, 0, 0));
        else
            found |= FAI_(make_chunk_finite)(sv + n * 16);
    }
    return found;
}

/* S = Q K^T: s (64/8, C4) */
FAI_ATOM void FAI_(hopper_decode_qk)(float s[32], uint64_t dq, uint64_t dk) {
    FAI_HD_SIZES
    fai_wgmma_fence(); /* registers of S are free */
#pragma unroll
    for (int c = 0; c < D / 16; c++)
        FAI_WGMMA_SS(BN, s, dq + (c / 4 * PANEL + c % 4 * 32) / 16, dk + (c / 4 * PANEL + c % 4 * 32) / 16,
                     c != 0);
    fai_wgmma_commit_group();
    fai_wgmma_wait_group_0(); /* S is there, K no longer needed */
}

/* O += P V: o (DV/8, C4), s (64/8, C4) */
FAI_ATOM void FAI_(hopper_decode_pv)(float o[FA_HEAD_DIM_V / 2], const float s[32], uint64_t dv) {
    FAI_HD_SIZES
    uint32_t p[BN / 4]; /* (64/16, A4) */
#pragma unroll
    for (int i = 0; i < BN / 4; i++) p[i] = FAI_PACK(s[2 * i + 1], s[2 * i]);
    fai_wgmma_fence(); /* P and O are written */
#pragma unroll
    for (int c = 0; c < BN / 16; c++) FAI_WGMMA_RS(DV, o, p + 4 * c, dv + c * 16 * 128 / 16);
    fai_wgmma_commit_group();
    fai_wgmma_wait_group_0(); /* O is there, V no longer needed */
}

/* The warpgroup: 64 rows and the keys of the split */
FAI_ATOM void FAI_(hopper_decode_compute)(const fa_args *a, const fai_cuda_plan *plan, FAI_(split) *x,
                                          char *workspace, unsigned char *memory, uint32_t shared) {
    FAI_HD_SIZES
    const FAI_(tile) *const t = &x->tile;
    const int lane = (int)threadIdx.x % 32, row = (int)threadIdx.x / 32 * 16 + FAI_C_ROW(lane, 0);
    const int masked = FAI_(is_masked)(a), drops = FAI_HAS(FA_DROPOUT) && a->dropout_p > 0;
    const int modified = FAI_(is_modified)(a) || a->softmax_scale < 0; /* softmax wants a scale above 0 */
    float scale = a->softmax_scale != 0 ? a->softmax_scale : rsqrtf((float)D);
    if (!modified) scale = fmaxf(scale, 1e-37f); /* of a key that nobody sees is -inf to stay */

    float o[DV / 2], m[2], l[2]; /* (DV/8, C4); of the thread's rows */
#pragma unroll
    for (int n = 0; n < DV / 2; n++) o[n] = 0;
#pragma unroll
    for (int n = 0; n < 2; n++) m[n] = -INFINITY, l[n] = 0;
    FAI_(hopper_decode_load_q)(a, t, shared + SQ);
    fai_fence_proxy_async();             /* Q is what wgmma will read */
    fai_bar_sync(1, FAI_DECODE_THREADS); /* Q is there, of all threads */

    const uint64_t dq = fai_descriptor(shared + SQ, 16), dk = fai_descriptor(shared, 16),
                   dv = fai_descriptor(shared, PANEL);
    /* does a row of this warp exist? else its P is S, which nobody will read a sum of */
    const int busy = __shfl_sync(~0u, row < t->rows, 0);
    const int32_t end = __shfl_sync(~0u, t->any.hi, 0);
    int infinite = 0;
    FAI_(slot) slot = {0, 0, 0};
#pragma unroll 1
    for (int32_t first = __shfl_sync(~0u, x->begin, 0); first < end; first += BN) {
        const int mask = masked || first < t->all.lo || first + BN > t->all.hi;
        float s[BN / 2]; /* S, P: (BN/8, C4) */
        float(*const c4)[4] = (float(*)[4])s;
        fai_mbarrier_try_wait_parity(shared + FULL + slot.bar, slot.parity); /* K is there */
        FAI_(hopper_decode_qk)(s, dq, dk + slot.at / 16);
        if (threadIdx.x == 0) fai_mbarrier_arrive(shared + EMPTY + slot.bar); /* K is read */
        slot = FAI_(next_slot)(slot);
        if (busy) {
            if (modified) FAI_(modify)(a, t, c4, first, row, scale, 1, BN);
            if (mask) FAI_(mask)(a, t, c4, first, row, 1, BN);
            FAI_(softmax)(c4, (float(*)[4])o, m, l, modified ? 1 : scale * FAI_LOG2E, 1, BN, DV);
            if (drops) FAI_(dropout)(a, t, c4, first, row, 1, BN);
        }
        fai_mbarrier_try_wait_parity(shared + FULL + slot.bar, slot.parity); /* V is there */
        if (mask || drops) {
            infinite |= FAI_(hopper_decode_mend)(t, first, shared + slot.at);
            fai_fence_proxy_async();             /* V is what wgmma will read */
            fai_bar_sync(1, FAI_DECODE_THREADS); /* V is mended, by all threads */
        }
        FAI_(hopper_decode_pv)(o, s, dv + slot.at / 16);
        if (threadIdx.x == 0) fai_mbarrier_arrive(shared + EMPTY + slot.bar); /* V is read */
        slot = FAI_(next_slot)(slot);
    }
    FAI_(decode_end)(a, plan, x, workspace, memory, (float(*)[4])o, m, l, m, 0, row, infinite, 64);
}

/* the bound of 32 threads tells the launch that this binary has no code for it */
static __global__ void __launch_bounds__(FAI_SM90A ? FAI_HD_THREADS : 32, FAI_HD_BLOCKS)
    FAI_(hopper_decode_kernel)(const __grid_constant__ fa_args args,
                               const __grid_constant__ fai_cuda_plan plan, char *workspace,
                               const __grid_constant__ fa_cuda_maps maps) {
#if FAI_SM90A
    FAI_HD_SIZES
    extern __shared__ __align__(1024) unsigned char fai_shared_1024[];
    FAI_(split) *const x = (FAI_(split) *)(void *)(fai_shared_1024 + SPLIT);
    const uint32_t shared = __shfl_sync(~0u, fai_cvta_to_shared(fai_shared_1024), 0);
    if (threadIdx.x == 0) {
        for (int n = 0; n < 2 * SLOTS; n++) fai_mbarrier_init(shared + FULL + 8 * n, 1);
        fai_fence_mbarrier_init();
        fai_prefetch_tensormap(&maps.k), fai_prefetch_tensormap(&maps.v);
    }
    if (!FAI_(decode_begin)(&args, &plan, x, blockIdx.x, 64)) return; /* its barrier: all see *x, mbarriers */
    if (__shfl_sync(~0u, (int)threadIdx.x / 32, 0) == FAI_DECODE_THREADS / 32)
        FAI_(hopper_decode_copy)(&args, x, &maps, shared); /* and ends: no __syncthreads() waits for it */
    else
        FAI_(hopper_decode_compute)(&args, &plan, x, workspace, fai_shared_1024, shared);
#endif
}

/* Fills in kernel, block, shared memory and maps of the launch; 0 if this binary has no such kernel for this
 * GPU, or args want what it does not do (HOPPER, above). */
static inline int FAI_(hopper_decode_launch)(const fa_args *a, fa_cuda_launch *launch) {
    FAI_HD_SIZES
    struct cudaFuncAttributes attributes;
    const void *const kernel = (const void *)FAI_(hopper_decode_kernel);
    const fai_strides sk = fai_strides_kv(a, &a->k, D), sv = fai_strides_kv(a, &a->v, DV);
    const int heads = fai_num_heads_k(a), paged = a->block_table != NULL;
    const int ragged = a->cu_seqlens_k != NULL && !paged;
    const int64_t rows = paged ? a->page_size : a->seqlen_k, many = paged ? a->num_pages : a->batch;
    fa_cuda_maps *const m = &launch->maps;
    if (cudaFuncGetAttributes(&attributes, kernel) != cudaSuccess ||
        attributes.maxThreadsPerBlock < FAI_HD_THREADS) {
        (void)cudaGetLastError();
        return 0;
    }
    m->page_rows = paged ? fai_cuda_gcd(BN, a->page_size) : BN;
    if (m->page_rows % 8 || a->seqlen_k == 0) return 0;
    const fai_encode encode = fai_cuda_encoder();
    if (!encode ||
        !fai_cuda_map(encode, &m->k, FA_DTYPE, a->k.data, D, heads, rows, many, sk, ragged, 1, m->page_rows) ||
        !fai_cuda_map(encode, &m->v, FA_DTYPE, a->v.data, DV, heads, rows, many, sv, ragged, 1, m->page_rows))
        return 0;
    launch->kernel = kernel, launch->arch = 900;
    launch->block = FAI_HD_THREADS, launch->shared = SPLIT + sizeof(FAI_(split));
    return 1;
}
#undef FAI_HD_SIZES
#undef FAI_HD_ROOM
#undef FAI_HD_SHARED
#undef FAI_HD_BLOCKS
#undef FAI_HD_SLOT
#undef FAI_HD_THREADS
#endif /* FAI_HOPPER_DECODE */

/* Adds up the parts of a tile of 16 rows: for launches with more of them than there are counters. */
static __global__ void __launch_bounds__(FAI_DECODE_THREADS)
    FAI_(decode_combine_kernel)(const __grid_constant__ fa_args args,
                                const __grid_constant__ fai_cuda_plan plan, char *workspace) {
    __shared__ FAI_(split) x;
    if (!FAI_(decode_begin)(&args, &plan, &x, blockIdx.x * (uint32_t)plan.splits, 16) || x.count == 1) return;
    FAI_(decode_reduce)(&args, &x.tile, FAI_(decode_parts)(&plan, workspace, blockIdx.x), x.count, 16);
}
#endif /* FA_DECODE */

/* ======================================================================================== */
/* >>backward [FA2] Alg. 2: dQ, dK, dV from Q, K, V, dO, LSE and D = rowsum(dO o O)           */
/* ======================================================================================== */

/*  prepare   LSE and D of each query into the workspace; zeros for the sums of dQ and for dbias
 *  main      a block has BN keys; it walks over the queries that see some of them, BM at a time, and over the
 *            heads that share the keys, whose sums are in its registers. Scores are transposed, as dK and dV
 *            want them:
 *                S^T = K Q^T     dP^T = V dO^T     P = exp2(S - LSE)     dS = P o (dP - D)
 *                dV += P^T dO    dK += dS^T Q      dQ += dS K     (f32, in the workspace: other blocks add, too)
 *  convert   dQ to the dtype of Q
 *  sink      dsink = -sum exp(sink - LSE) D
 *
 *  P and dS pass through shared memory, so that a warp can have 32 keys and a part of the queries or dims:
 *  then a fragment read from there serves two mma, or four, and shared memory is as fast as the tensor cores.
 *      warp w    S^T, dP^T   keys 16 KT (w % KEYS) .., queries CS 8 (w / KEYS) ..        KEYS = BN / 16 KT
 *                dV, dK      the same keys, every PARTS-th 16 dims from w / KEYS on
 *                dQ          queries 16 QT (w % QUERIES) .., every PARTS_Q-th 16 dims    QUERIES = BM / 16 QT
 *
 *  What is not finite: a query with such a dO has LSE = NaN in the workspace, one with such a q, or that sees
 *  such a key, has it anyway, so all that it sees becomes NaN; its rows, and such elements of K, are 0 in
 *  shared memory, for 0 NaN is not 0. */
#if (FA_PASSES) & FA_BACKWARD

/* Tiles by (arch, larger head dim), as in >>tiles. K V, the stages of Q and dO, P and dS are in shared
 * memory; a thread has its part of dK and dV all the time, and of S and dP, or of dQ. One block an SM. */
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

/* The workspace: for each (batch, head) rows of queries, whole blocks of 16: LSE in log2 units and D of each;
 * then the sums of dQ in f32, by blocks of 16 rows and 8 dims, in the order in which an accumulator fragment
 * is added best: 16 bytes of a lane at once where red can do that, all lanes next to each other where it
 * cannot. For `deterministic`, a counter for each tile of queries (room for one for each 16), whose turn it
 * is, and one from which blocks take their numbers. */
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
    int32_t begin, end;               /* queries that see some of its keys, from a multiple of BM on */
    fa_range all;                     /* queries that see all BN */
    int32_t heads;                    /* group, or 0 if no query sees a key */
    float scale;                      /* of scores */
    float early, late;                /* of what dropout keeps: of P, of dV; their product is 1 / (1 - p) */
    const uint16_t *q, *d_o;          /* of the first query and head */
    fai_strides stride_q, stride_d_o, stride_bias, stride_dbias;
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

/* The keys of this block; 0 if its sequence has none. The first go first: under a causal mask most queries
 * see them. Blocks that wait for each other are numbered as they start: those before have all started, too */
FAI_ATOM int FAI_(grad_begin)(const fa_args *a, FAI_(grad) *g, float *workspace) {
    FAI_GRAD_SIZES
    if (threadIdx.x == 0) {
        const uint32_t tiles = (uint32_t)((a->seqlen_k + BN - 1) / BN),
                       heads_k = (uint32_t)fai_num_heads_k(a);
        const uint32_t number = a->deterministic
                                    ? fai_atom_global_add_u32(FAI_(grad_open)(a, workspace, 0).ticket, 1)
                                    : blockIdx.x;
        const uint32_t head = number / tiles;
        g->seq = FAI_(sequence)(a, (int32_t)(head / heads_k));
        g->head_k = (int32_t)(head % heads_k), g->group = a->num_heads / (int32_t)heads_k;
        g->tile = (int32_t)(number % tiles), g->key = g->tile * BN;
        const int32_t last = g->key + BN < g->seq.len_k ? g->key + BN - 1 : g->seq.len_k - 1;
        const fa_range left = FAI_(queries)(a, g, g->key), right = FAI_(queries)(a, g, last);
        g->begin = left.lo / BM * BM, g->end = right.hi, g->heads = left.lo < right.hi ? g->group : 0;
        g->all.lo = right.lo, g->all.hi = last < g->key + BN - 1 ? 0 : left.hi;

        /* P is multiplied before it is rounded, so that in f16 it is neither smaller than without dropout nor
         * infinite */
        const float kept = FAI_HAS(FA_DROPOUT) ? fa_dropout_scale(a->dropout_p) : 1;
        g->scale = a->softmax_scale != 0 ? a->softmax_scale : rsqrtf((float)D);
        g->early = fminf(kept, 1 << 14), g->late = kept / g->early;

        const int32_t head_q = g->head_k * g->group;
        g->stride_q = fai_strides_q(a, D), g->stride_d_o = FAI_(strides_d_o)(a);
        if (FAI_HAS(FA_BIAS)) g->stride_bias = fai_strides_bias(a), g->stride_dbias = fai_strides_dbias(a);
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
        const int64_t offset =
            FAI_HAS(FA_PAGED) ? fai_offset_k(a, &g->seq, st, j, g->head_k)
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

/* Q, dO, LSE and D of queries from first on, of a head of the group, to the stage at `to`. */
FAI_ATOM void FAI_(grad_load)(const fa_args *a, const FAI_(grad) *g, int32_t head, int32_t first,
                              uint32_t to) {
    FAI_GRAD_SIZES
    const fai_strides sq = g->stride_q, so = g->stride_d_o;
    const int32_t n = (int32_t)fai_unknown(threadIdx.x), rows = g->seq.len_q - first;
    const int64_t row = head * FAI_GRAD_ROWS(a) + first;
    FAI_(grad_load_rows)(g->q + head * sq.h + first * sq.s, sq.s, rows, to, D);
    FAI_(grad_load_rows)(g->d_o + head * so.h + first * so.s, so.s, rows, to + BM * D * 2, DV);
    if (n < BM / 2) { /* half of the threads LSE, half D */
        const int32_t i = n % (BM / 4) * 4;
        fai_cp_async_cg_16(to + BM * (D + DV) * 2 + n * 16,
                           (n < BM / 4 ? g->workspace.lse : g->workspace.sum) + row + (i < rows ? i : 0),
                           i < rows ? 16 : 0);
    }
}

/* To the next queries, or the first of the next head. */
FAI_ATOM void FAI_(advance)(const FAI_(grad) *g, int32_t *head, int32_t *first) {
    FAI_GRAD_SIZES
    const int last = *first + BM >= g->end;
    *head += last, *first = last ? g->begin : *first + BM;
}
/* Those that come after these, if any. */
FAI_ATOM void FAI_(grad_load_next)(const fa_args *a, const FAI_(grad) *g, int32_t head, int32_t first,
                                   uint32_t to) {
    FAI_(advance)(g, &head, &first);
    if (head < g->heads) FAI_(grad_load)(a, g, head, first, to);
}

/* Is one of the LSE that the thread has copied not finite? */
FAI_ATOM int FAI_(grad_infinite)(uint32_t stage) {
    FAI_GRAD_SIZES
    const int n = (int)fai_unknown(threadIdx.x);
    if (n >= BM / 4) return 0;
    const uint4 x = fai_ld_shared_v4_b32(stage + BM * (D + DV) * 2 + n * 16);
    const float most = fmaxf(fmaxf(fabsf(__uint_as_float(x.x)), fabsf(__uint_as_float(x.y))),
                             fmaxf(fabsf(__uint_as_float(x.z)), fabsf(__uint_as_float(x.w))));
    const float sum =
        __uint_as_float(x.x) + __uint_as_float(x.y) + __uint_as_float(x.z) + __uint_as_float(x.w);
    return most == INFINITY || sum != sum; /* the largest ignores NaN */
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
            for (int a = 0; a < KT; a++)
                FAI_MMA(x[a][2 * j], ra[a], rb), FAI_MMA(x[a][2 * j + 1], ra[a], rb + 2);
        }
    }
}

/* x (tiles, columns, C4) += A B for one k16, A (tiles, A4), of those 16 columns of B that are a warp's. sb:
 * the lane's address of the first of them */
FAI_ATOM void FAI_(mma_part)(float (*x)[4], const int columns, uint32_t (*ra)[4], const int tiles,
                             uint32_t sb, const int dim, const int parts, int part) {
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
        FAI_(mma_part)(x, FAI_GRAD_COLUMNS(dim, PARTS), ra, KT, FAI_MOVE(dim, sb, c * 16, 0), dim, PARTS,
                       part);
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

/* What the thread's warp has: keys from `key` on, and a part of the queries of S and dP, of the dims of dK
 * and dV; in dQ queries from `query` on, and a part of the dims. */
typedef struct FAI_(share) {
    int lane, key, part, query, part_q;
} FAI_(share);
FAI_ATOM FAI_(share) FAI_(get_share)(void) {
    FAI_GRAD_SIZES
    enum { KEYS = BN / 16 / KT, QUERIES = BM / 16 / QT };
    const int thread = (int)fai_unknown(threadIdx.x), warp = thread / 32;
    const FAI_(share) w = {thread % 32, warp % KEYS * 16 * KT, warp / KEYS, warp % QUERIES * 16 * QT,
                           warp / QUERIES};
    return w;
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
    const fai_strides sb = g->stride_bias;
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
FAI_ATOM void FAI_(probabilities)(float s[FAI_GRAD_KT(FAI_ARCH)][FAI_GRAD_CH][4], uint32_t slse,
                                  float scale) {
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

/* Bits of the thread's scores, 1: kept by dropout. Philox makes the bits of 8 keys of a query at once, and a
 * lane has one key of 8: each of the 8 lanes that have the same queries makes those of another query and 8
 * keys, one byte for each two columns, then they read each other's. */
#define FAI_KEPT(kept, a, c, v) ((kept) >> (((a)*CH + (c)) / 2 * 8 + (c) % 2 * 4 + (v) % 2 * 2 + (v) / 2) & 1)
FAI_ATOM uint32_t FAI_(kept)(const fa_args *args, const FAI_(grad) *g, FAI_(place) at) {
    FAI_GRAD_SIZES
    const uint32_t below = fa_dropout_threshold(args->dropout_p);
    const int lane = (int)threadIdx.x % 32, own = lane / 4, key0 = at.key - own;
    uint32_t made = 0, kept = 0;
    FA_STATIC_ASSERT(!FAI_HAS(FA_DROPOUT) || KT * CH <= 8, "flashattn_cuda.cuh: a bit for each score");
#pragma unroll 1 /* one Philox at a time: they take registers */
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
    const fai_strides st = g->stride_dbias;
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

/* x (KT, CH, C4) to shared memory, (BN, BM). to: the thread's address of the first pair. Columns change
 * places by an xor: CS is a power of two, and the first column of a warp a multiple of it. */
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
    const int drops = FAI_HAS(FA_DROPOUT) && args.dropout_p > 0;

    float dk[KT * CK][4], dv[KT * CV][4]; /* (KT, CK, C4), (KT, CV, C4) */
#pragma unroll
    for (int n = 0; n < KT * CK * 4; n++) dk[n / 4][n % 4] = 0;
#pragma unroll
    for (int n = 0; n < KT * CV * 4; n++) dv[n / 4][n % 4] = 0;

    /* load K and V, and Q and dO of the first queries that see one of the keys */
    int32_t first = g->begin, head = 0;
    uint32_t stage = 0;
    if (g->heads) {
        FAI_(grad_load_keys)(&args, g, &args.k, shared + SK, D);
        FAI_(grad_load_keys)(&args, g, &args.v, shared + SV, DV);
        FAI_(grad_load)(&args, g, head, first, shared + SQ);
        fai_cp_async_wait_all();
        FAI_(make_rows_finite)(shared + SK, D, (int)threadIdx.x, THREADS, BN);
    }
    while (head < g->heads) {
        fai_cp_async_wait_all();
        /* Q and dO are there, for all; nobody reads the other stage, P or dS any more */
        if (__syncthreads_or(FAI_(grad_infinite)(shared + SQ + stage))) {
            FAI_(grad_finite_rows)(shared + SQ + stage);
            __syncthreads(); /* what was not finite is 0 for all */
        }
        if (STAGES == 2) FAI_(grad_load_next)(&args, g, head, first, shared + SQ + (STAGE - stage));

        /* addresses are computed anew each time, as there are no registers to keep them in */
        const FAI_(share) w = FAI_(get_share)();
        const int row = w.key + FAI_C_ROW(w.lane, 0), /* the thread's first key */
                  column = w.part * CS;               /* n8 of queries */
        const int a_row = FAI_LDMATRIX_A_ROW(w.lane), a_chunk = FAI_LDMATRIX_A_CHUNK(w.lane);
        const int b_row = FAI_LDMATRIX_B_ROW(w.lane), b_chunk = FAI_LDMATRIX_B_CHUNK(w.lane);
        const uint32_t sk = shared + SK + FAI_AT(D, w.key + a_row, a_chunk);
        const uint32_t sv = shared + SV + FAI_AT(DV, w.key + a_row, a_chunk);
        const uint32_t sq = shared + SQ + stage + FAI_AT(D, column * 8 + b_row, b_chunk);
        const uint32_t sdo = shared + SQ + DO + stage + FAI_AT(DV, column * 8 + b_row, b_chunk);
        const uint32_t pair = FAI_AT(BM, row, column) + w.lane % 4 * 4; /* of P, dS */
        const uint32_t slse = shared + SQ + LSE + stage + (column * 8 + FAI_C_COL(w.lane, 0)) * 4;

        const int modified = FAI_(is_modified)(&args), masked = FAI_(is_masked)(&args);
        /* rows that do not exist: scores of 0, but for what changes them */
        const int ends = first + BM > g->seq.len_q;
        const int partly = masked || first < g->all.lo || (ends ? g->seq.len_q : first + BM) > g->all.hi ||
                           (modified && ends);
#pragma unroll 1
        for (int c = 0; c < CS; c += CH) {
            const FAI_(place) at = {g->head_k * g->group + head,
                                    first + (column + c) * 8 + FAI_C_COL(w.lane, 0), g->key + row};
            float s[KT][CH][4], ds[KT][CH][4]; /* transposed: (KT, CH, C4) */
            float slope[2][KT][CH][4];
#pragma unroll
            for (int n = 0; n < 2 * KT * CH * 4; n++)
                slope[n / 4 / CH / KT][n / 4 / CH % KT][n / 4 % CH][n % 4] = 1;
            FAI_(gemm_scores)(s, sk, sq + c * 8 * D * 2, D);
            if (FAI_SCORES && modified) FAI_(grad_modify)(&args, g, s, slope, at, g->scale);
            FAI_(probabilities)(s, slse + c * 32, modified ? 1 : g->scale * FAI_LOG2E);
            if (partly) FAI_(hide)(&args, g, s, at, masked);
            const uint32_t kept = drops ? FAI_(kept)(&args, g, at) : ~0u;
            if (drops) {
#pragma unroll
                for (int n = 0; n < KT * CH * 4; n++)
                    ds[n / 4 / CH][n / 4 % CH][n % 4] =
                        FAI_KEPT(kept, n / 4 / CH, n / 4 % CH, n % 4)
                            ? s[n / 4 / CH][n / 4 % CH][n % 4] * g->early
                            : 0;
                FAI_(put_scores)(ds, FAI_MOVE(BM, shared + SP + pair, 0, c));
            } else {
                FAI_(put_scores)(s, FAI_MOVE(BM, shared + SP + pair, 0, c));
            }

            FAI_(gemm_scores)(ds, sv, sdo + c * 8 * DV * 2, DV);
            if (drops) {
#pragma unroll
                for (int n = 0; n < KT * CH * 4; n++) {
                    float *const x = &ds[n / 4 / CH][n / 4 % CH][n % 4];
                    *x = FAI_KEPT(kept, n / 4 / CH, n / 4 % CH, n % 4) ? *x * (g->early * g->late) : 0;
                }
            }
            FAI_(slopes)(ds, s, slse + BM * 4 + c * 32);
            if (FAI_HAS(FA_BIAS) && modified && args.dbias.data)
                FAI_(add_bias)(&args, g, ds, slope[1], s, at);
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
        {
            const FAI_(share) w = FAI_(get_share)();
            const int a_row = FAI_LDMATRIX_A_ROW(w.lane), a_chunk = FAI_LDMATRIX_A_CHUNK(w.lane);
            const uint32_t sp = shared + SP + FAI_AT(BM, w.key + a_row, a_chunk);
            const uint32_t sds = shared + SDS + FAI_AT(BM, w.key + a_row, a_chunk);
            const uint32_t sq = shared + SQ + stage + FAI_AT(D, a_row, w.part * 2 + a_chunk);
            const uint32_t sdo = shared + SQ + DO + stage + FAI_AT(DV, a_row, w.part * 2 + a_chunk);
            if (args.dv.data) FAI_(gemm_keys)(dv, sp, sdo, DV, w.part);
            if (args.dk.data) FAI_(gemm_keys)(dk, sds, sq, D, w.part);
        }
        if (STAGES == 1) {
            __syncthreads(); /* nobody reads Q and dO any more */
            FAI_(grad_load_next)(&args, g, head, first, shared + SQ);
        }
        if (args.dq.data) {
            const FAI_(share) w = FAI_(get_share)();
            const uint32_t sds = shared + SDS + FAI_AT(BM, FAI_LDMATRIX_B_ROW(w.lane),
                                                       w.query / 8 + FAI_LDMATRIX_B_CHUNK(w.lane));
            const uint32_t sk = shared + SK + FAI_AT(D, FAI_LDMATRIX_A_ROW(w.lane),
                                                     w.part_q * 2 + FAI_LDMATRIX_A_CHUNK(w.lane));
            const int64_t at_row = head * FAI_GRAD_ROWS(&args) + first;
            float dq[QT * CQ][4]; /* (QT, CQ, C4) */
            FAI_(gemm_queries)(dq, sds, sk, w.part_q);
            if (args.deterministic) FAI_(wait_turn)(g->workspace.turn + at_row / 16, g->tile);
            FAI_(add_queries)(g->workspace.dq + (at_row + w.query) * D, dq, g->seq.len_q - first - w.query,
                              w.part_q);
            if (args.deterministic) FAI_(end_turn)(g->workspace.turn + at_row / 16, g->tile);
        }
        FAI_(advance)(g, &head, &first);
        if (STAGES == 2) stage = STAGE - stage;
    }
    __syncthreads(); /* nobody reads shared memory any more: it is free for dK and dV */
    const FAI_(share) w = FAI_(get_share)();
    FAI_(put_keys)(dk, g->scale, shared + SK, D, w.key + FAI_C_ROW(w.lane, 0), w.part);
    FAI_(put_keys)(dv, g->late, shared + SV, DV, w.key + FAI_C_ROW(w.lane, 0), w.part);
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
                sum = fmaf(FAI_UNPACK(ox[n] & 0xffff), low, sum),
                sum = fmaf(FAI_UNPACK(ox[n] >> 16), high, sum);
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
            if (w.sum[i] != 0)
                sum -= fai_ex2_approx_ftz_f32(args.sink[head] * FAI_LOG2E - w.lse[i]) * w.sum[i];
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
#if (FA_PASSES) & FA_DECODE
static inline size_t FA_(decode_cuda_workspace)(const fa_args *args);
static inline fa_status FA_(decode_cuda)(const fa_args *args, void *workspace, size_t bytes,
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
#if (FA_PASSES) & FA_DECODE
                                            FA_(decode_cuda_workspace),
                                            FA_(decode_cuda)};
#else
                                            NULL,
                                            NULL};
#endif

#if (FA_PASSES) & FA_FORWARD
/* The launch that the current device needs for args, which have passed the check: users may do it
 * themselves. */
static inline fa_status FA_(forward_cuda_launch)(const fa_args *args, fa_cuda_launch *launch) {
#if FAI_HOPPER
    if (FAI_(hopper_launch)(args, launch)) return FA_OK;
    launch->maps.total = 0; /* another kernel */
#endif
    if (args->v_transposed) return fai_fail(args, FA_ERR_V_TRANSPOSED, "v_transposed", -1, 1, 0, 0);
    fa_status status = fai_cuda_prepare(args, launch, (const void *)FAI_(forward_kernel));
    if (status != FA_OK) return status;
    if (FAI_BYTES == 1 && launch->arch < 890)
        return fai_fail(args, FA_ERR_CUDA_ARCH, "arch", -1, launch->arch / 10, 89, INFINITY);
    const int64_t tiles = FAI_(tiles)(args, FAI_TILE_M(launch->arch)),
                  heads = (int64_t)args->batch * fai_num_heads_k(args);
    const int64_t group = args->num_heads / fai_num_heads_k(args);
    if (group >= 1 << 22)
        return fai_fail(args, FA_ERR_CUDA_GRID, "num_heads", -1, args->num_heads, 1, (1 << 22) - 1);
    if (tiles > INT32_MAX / heads)
        return fai_fail(args, FA_ERR_CUDA_GRID, "tiles", -1, (double)tiles * (double)heads, 1, INT32_MAX);
    launch->block_m = FAI_TILE_M(launch->arch), launch->block_n = FAI_TILE_N(launch->arch);
    launch->grid = (unsigned)(tiles * heads), launch->block = FAI_TILE_WARPS(launch->arch) * 32;
    launch->shared = FAI_TILE_SHARED(launch->arch);
    return fai_cuda_allow(args, launch);
}

/* Bytes of device memory that the call can use, at any alignment, 0 before its first use (above); it
 * needs none. */
static inline size_t FA_(forward_cuda_workspace)(const fa_args *args) {
#if FAI_HOPPER
    fa_cuda_launch launch;
    if (!fa_check_pass_cuda(&FA_(cuda_info).info, args, FA_FORWARD) && FAI_(hopper_launch)(args, &launch) &&
        launch.maps.total > launch.maps.slots)
        return FA_CUDA_COUNTER_BYTES;
#endif
    (void)args;
    return 0;
}

/* O and LSE, on the stream. Nothing is launched unless the result is FA_OK. workspace may be NULL. */
static inline fa_status FA_(forward_cuda)(const fa_args *args, void *workspace, size_t bytes,
                                          cudaStream_t stream) {
    fa_cuda_launch launch;
    fa_status status = fa_check_pass_cuda(&FA_(cuda_info).info, args, FA_FORWARD);
    launch.maps.slots = 0;
    if (status == FA_OK) status = FA_(forward_cuda_launch)(args, &launch);
    if (status == FA_OK && workspace && bytes >= FA_CUDA_COUNTER_BYTES && launch.maps.slots) {
        status = fai_cuda_check_pointer(args, workspace, "workspace");
        fai_cuda_count_tiles(&launch, workspace);
    }
    if (status != FA_OK) return status;
    void *parameters[2] = {(void *)args, &launch.maps};
    return fai_cuda_start(args, &launch, parameters, stream);
}
#endif /* FA_FORWARD */

#if (FA_PASSES) & FA_BACKWARD
#define FAI_GRAD_ALIGN 128 /* of the workspace, which may come at any address */

/* Bytes of device memory that the call needs, 8 + 4 head_dim a query and head and some;
 * 0 if args are not valid. */
static inline size_t FA_(backward_cuda_workspace)(const fa_args *args) {
    if (fa_check_pass_cuda(&FA_(cuda_info).info, args, FA_BACKWARD)) return 0;
    const int64_t rows = fai_mul((int64_t)args->batch * args->num_heads, FAI_GRAD_ROWS(args));
    const int64_t words = fai_add(fai_mul(rows, FA_HEAD_DIM + 2), rows / 16 + 1); /* with the counters */
    return (size_t)(words < INT64_MAX / 16 ? words : INT64_MAX / 16) * 4 + FAI_GRAD_ALIGN;
}

/* The launches that the current device needs for args, which have passed the check, one after the other; no
 * blocks: that one is not needed. Their arguments are {args, address of the workspace rounded up to 128}. */
static inline fa_status FA_(backward_cuda_launch)(const fa_args *args, fa_cuda_launch launch[4]) {
    static const void *const kernel[4] = {
        (const void *)FAI_(prepare_kernel), (const void *)FAI_(backward_kernel),
        (const void *)FAI_(convert_kernel), (const void *)FAI_(sink_kernel)};
    const fa_status status = fai_cuda_prepare(args, &launch[1], kernel[1]);
    if (status != FA_OK) return status;
    const int arch = launch[1].arch;
    const int64_t heads = (int64_t)args->batch * args->num_heads;
    const int64_t queries = fai_mul(FAI_GRAD_ROWS(args) / 16, heads);
    const int64_t tiles = ((int64_t)args->seqlen_k + FAI_GRAD_N(arch) - 1) / FAI_GRAD_N(arch);
    const int64_t keys = fai_mul(tiles, (int64_t)args->batch * fai_num_heads_k(args));
    const int64_t blocks[4] = {queries, keys, args->dq.data ? queries : 0, args->dsink ? args->num_heads : 0};
    if (args->deterministic && args->dbias.data && args->bias.data) {
        const fai_strides st = fai_strides_dbias(args);
        if ((st.b == 0 && args->batch > 1) || (st.h == 0 && args->num_heads > 1) ||
            (st.s == 0 && args->seqlen_q > 1))
            return fai_fail(args, FA_ERR_DETERMINISTIC, "deterministic", -1, 1, 0, 0);
    }
    for (int n = 0; n < 4; n++) {
        if (blocks[n] > INT32_MAX)
            return fai_fail(args, FA_ERR_CUDA_GRID, "tiles", -1, (double)blocks[n], 1, INT32_MAX);
        launch[n].kernel = kernel[n], launch[n].arch = arch, launch[n].grid = (unsigned)blocks[n];
        launch[n].block = FAI_(grad_threads), launch[n].shared = 0;
    }
    launch[1].block = FAI_GRAD_WARPS(arch) * 32, launch[1].shared = FAI_GRAD_SHARED(arch);
    return fai_cuda_allow(args, &launch[1]);
}

/* The gradients that args has room for, on the stream. Nothing is launched unless the result is FA_OK.
 * Without args->deterministic dQ, and a dbias that is summed, are added up in an order that differs from call
 * to call, and so may their last bits. */
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
            status = fai_cuda_start(args, &launch[n], parameters, stream);
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
#if (FA_PASSES) & FA_DECODE
/* Which kernel, how many blocks, and how the keys are split: for args that have passed the check, on the
 * current device. */
static inline fa_status FA_(decode_cuda_launch)(const fa_args *args, fa_cuda_decode_launch *launch) {
    const int64_t heads_k = fai_num_heads_k(args), group = args->num_heads / heads_k;
    int rows = fai_make_cuda_plan(args, 1).rows; /* which do not depend on the GPU */
    fa_cuda_launch *const first = &launch->first, *const second = &launch->second;
    int device = 0, sms = args->num_threads, each = 0;
    if (group >= 1 << 22)
        return fai_fail(args, FA_ERR_CUDA_GRID, "num_heads", -1, args->num_heads, 1, (1 << 22) - 1);
    fa_status status = FA_OK;
#if FAI_HOPPER_DECODE
    const int hopper = rows > 16 && FAI_(hopper_decode_launch)(args, first);
    if (hopper) rows = 64;
#else
    const int hopper = 0;
#endif
    if (!hopper) {
        status = fai_cuda_prepare(args, first,
                                  rows == 16   ? (const void *)FAI_(decode_kernel_16)
                                  : rows == 32 ? (const void *)FAI_(decode_kernel_32)
                                               : (const void *)FAI_(decode_kernel_64));
        if (status != FA_OK) return status;
        first->block = FAI_DECODE_THREADS, first->shared = FAI_DECODE_SHARED(first->arch, rows);
    }
    status = fai_cuda_allow(args, first);
    if (status != FA_OK) return status;
    cudaError_t e = sms ? cudaSuccess : cudaGetDevice(&device);
    if (e == cudaSuccess && !sms) e = cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device);
    if (e == cudaSuccess)
        e = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, first->kernel, (int)first->block,
                                                          first->shared);
    if (e != cudaSuccess) return fai_cuda_status(args, e);
    fai_cuda_plan plan = fai_make_cuda_plan(args, (int64_t)sms * (each ? each : 1));
    plan.rows = rows; /* 64 for 32, which is as many tiles */
    const int64_t tiles = fai_mul(FAI_(tiles)(args, rows), args->batch * heads_k),
                  blocks = fai_mul(tiles, plan.splits);
    if (blocks > INT32_MAX)
        return fai_fail(args, FA_ERR_CUDA_GRID, "blocks", -1, (double)blocks, 1, INT32_MAX);
    launch->plan = plan, first->grid = (unsigned)blocks, *second = *first;
    second->kernel = (const void *)FAI_(decode_combine_kernel);
    second->grid = (unsigned)tiles, second->shared = 0;
    launch->bytes = plan.splits == 1 ? 0
                                     : FAI_DECODE_COUNTERS * 4 + (size_t)blocks * (size_t)rows *
                                                                     (FA_HEAD_DIM_V + 2) * 4;
    return FA_OK;
}

/* Bytes of device memory that the call needs, at any alignment;
 * 0 if there is one split, or args are not valid. */
static inline size_t FA_(decode_cuda_workspace)(const fa_args *args) {
    fa_cuda_decode_launch launch;
    if (fa_check_pass_cuda(&FA_(cuda_info).info, args, FA_DECODE) || FA_(decode_cuda_launch)(args, &launch))
        return 0;
    return launch.bytes ? launch.bytes + 16 : 0;
}

/* O and LSE, for few queries and a long cache, on the stream.
 * Nothing is launched unless the result is FA_OK. */
static inline fa_status FA_(decode_cuda)(const fa_args *args, void *workspace, size_t bytes,
                                         cudaStream_t stream) {
    fa_cuda_decode_launch launch;
    char *aligned = (char *)(((uintptr_t)workspace + 15) & ~(uintptr_t)15);
    fa_status status = fa_check_pass_cuda(&FA_(cuda_info).info, args, FA_DECODE);
    if (status == FA_OK) status = FA_(decode_cuda_launch)(args, &launch);
    if (status == FA_OK)
        status = fai_cuda_check_workspace(args, workspace, bytes, launch.bytes ? launch.bytes + 16 : 0);
    if (status != FA_OK) return status;
    void *parameters[4] = {(void *)args, &launch.plan, &aligned, &launch.first.maps};
    status = fai_cuda_start(args, &launch.first, parameters, stream);
    return status == FA_OK && launch.plan.combine ? fai_cuda_start(args, &launch.second, parameters, stream)
                                                  : status;
}

#undef FAI_HOPPER_DECODE
#undef FAI_DECODE_SHARED
#undef FAI_DECODE_BYTES
#undef FAI_DECODE_PITCH
#undef FAI_DECODE_RING
#undef FAI_DECODE_LEAST
#undef FAI_DECODE_SLOT
#undef FAI_DECODE_NUMBER
#undef FAI_DECODE_Q_STAYS
#undef FAI_DECODE_THREADS
#endif /* FA_DECODE */

#undef FAI_P_LOG2
#undef FAI_FIRST_V
#undef FAI_FIRST_K
#undef FAI_FIRST_Q
#undef FAI_PACK_O
#undef FAI_EXPONENT
#undef FAI_WGMMA_RS
#undef FAI_WGMMA_SS
#undef FAI_FMA2
#undef FAI_PACK
#undef FAI_MMA_PV
#undef FAI_MMA
#undef FAI_ISA
#undef FAI_SIZES
#undef FAI_MT
#undef FAI_BN
#undef FAI_THREADS
#undef FAI_TILE_ROWS
#undef FAI_HOPPER_BLOCKS
#undef FAI_HOPPER_ROWS_LOW
#undef FAI_HOPPER_ROWS_HIGH
#undef FAI_HOPPER_LOW
#undef FAI_HOPPER_HIGH
#undef FAI_HOPPER_MOST
#undef FAI_HOPPER_WIDE
#undef FAI_HOPPER_FEW
#undef FAI_HOPPER_N
#undef FAI_HOPPER_WGS
#undef FAI_HOPPER
#undef FAI_TILE_BYTES
#undef FAI_TILE_LOOP
#undef FAI_TILE_STAGE
#undef FAI_TILE_SHARED
#undef FAI_TILE_STAGES
#undef FAI_TILE_WARPS
#undef FAI_TILE_N
#undef FAI_TILE_M
#undef FAI_TABLE_STAGES
#undef FAI_TABLE_WARPS
#undef FAI_TABLE_N
#undef FAI_TABLE_M
#undef FAI_UNPACKS
#undef FAI_LITTLE_SHARED
#undef FAI_HEAVY
#undef FAI_MASKS
#undef FAI_SCORES
#undef FAI_HAS
#undef FAI_WIDTH
#undef FAI_UNITS
#undef FAI_KV_BYTES
#undef FAI_ELEMENT
#undef FAI_BYTES
#undef FAI_DIM
#undef FA_PROMOTE
#undef FA_STAGES
#undef FA_WARPS
#define FAI_FORGET
#include "flashattn.h" /* forgets the parameters */
#undef FAI_FORGET
#endif /* instance */
#undef FAI_CUDA
#endif /* nvcc */
