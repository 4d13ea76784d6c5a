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

/*  sm_90a: panels of 64 columns, whose rows of 128 bytes hold 8 chunks permuted by row % 8: what TMA and wgmma call
 *  a 128-byte swizzle. The last panel is filled up with zeros. tile: a multiple of 1024. */
#define FAI_PANELS(dim) (((dim) + 63) / 64)
#define FAI_PANEL_AT(rows, row, chunk) \
    ((chunk) / 8 * ((rows) * 128) + (row) * 128 + ((chunk) % 8 ^ (row) % 8) * 16)
/* Its accumulator: element i of thread l of a warpgroup, whose warps have 16 rows each. */
#define FAI_WGMMA_ROW(thread, i) ((thread) / 32 * 16 + FAI_C_ROW((thread) % 32, (i) % 4))
#define FAI_WGMMA_COL(thread, i) ((i) / 4 * 8 + FAI_C_COL((thread) % 32, (i) % 4))

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
FAI_ATOM void fai_fence_proxy_async(void) { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

/* A box of a tensor to shared memory, or back: at column c, head h and where x, y, z say (>>hopper) */
FAI_ATOM void fai_cp_async_bulk_tensor_5d_load(uint32_t to, const void *map, uint32_t bar, int c, int h, int x,
                                               int y, int z) {
    asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], "
                 "[%1, {%3, %4, %5, %6, %7}], [%2];" ::"r"(to),
                 "l"(map), "r"(bar), "r"(c), "r"(h), "r"(x), "r"(y), "r"(z)
                 : "memory");
}
FAI_ATOM void fai_cp_async_bulk_tensor_5d_store(const void *map, uint32_t from, int c, int h, int x, int y,
                                                int z) {
    asm volatile("cp.async.bulk.tensor.5d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5, %6}], [%1];" ::"l"(map),
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

FAI_ATOM void fai_bar_sync(int id, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
FAI_ATOM void fai_bar_arrive(int id, int threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
/* bar.sync; 1 if x is not 0 in one of the threads */
FAI_ATOM int fai_bar_red_or(int id, int threads, int x) {
    int r;
    asm volatile("{\n.reg .pred p, q;\nsetp.ne.b32 p, %3, 0;\nbar.red.or.pred q, %1, %2, p;\nselp.b32 %0, 1, 0, q;\n}"
                 : "=r"(r)
                 : "r"(id), "r"(threads), "r"(x)
                 : "memory");
    return r;
}
/* registers of each thread of the warpgroup from here on */
#define fai_setmaxnreg_dec(n) asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(n))
#define fai_setmaxnreg_inc(n) asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(n))

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
    int32_t page_rows; /* rows of a box of K or V */
} fa_cuda_maps;

/* A launch that only wants doing: cudaLaunchKernel(kernel, grid, block, {args, &maps}, shared, stream). */
typedef struct fa_cuda_launch {
    const void *kernel;
    unsigned grid, block; /* thread blocks, threads of each */
    size_t shared;        /* bytes, allowed by cudaFuncSetAttribute already */
    int arch;             /* 800, 860 ..: of the kernel that this GPU runs, which fixes the tile */
    int block_m, block_n; /* the tile */
    fa_cuda_maps maps;    /* written for kernels that read it */
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

/* ---- tensor maps, for sm_90a ------------------------------------------------------------- */

/*  The dimensions of a map: column, head, x, y, z. Row i of a sequence is at x + i of
 *      one of a batch (page)   x = 0, y = its number, z = 0; rows behind the last are zeros, and not written
 *      cu_seqlens              x = FAI_RAGGED - length, y = end of the sequence, z = FAI_RAGGED
 *  The second so that what is cut off lies behind this sequence, not the last one, of which the host knows nothing:
 *  x ends at FAI_RAGGED, and z FAI_RAGGED takes the address back, as FAI_RAGGED (stride x + stride z) = 2^64. */
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

/* A matrix in shared memory for wgmma, in panels; leading: bytes from a panel to the next, where n is innermost.
 * The lower word goes through a shuffle: ptxas keeps what has come from there in uniform registers, and would
 * else compute descriptors anew in each step. */
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
    cudaError_t e = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000, cudaEnableDefault, &found);
#else
    cudaError_t e = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &f, cudaEnableDefault, &found);
#endif
    return e == cudaSuccess && found == cudaDriverEntryPointSuccess ? (fai_encode)f : NULL;
#endif
}

/* The map of a tensor of `many` sequences or pages, or ragged; boxes of one panel, box_heads heads, box_rows rows.
 * 0 if there is none, as for heads or rows that share an address. */
static inline int fai_cuda_map(CUtensorMap *map, fa_dtype dtype, const void *data, int dim, int64_t heads, int64_t rows,
                               int64_t many, fai_strides st, int ragged, int box_heads, int box_rows) {
    const cuuint64_t most = 0x7fff0000, around = (cuuint64_t)1 << 34; /* FAI_RAGGED around = 2^64 */
    cuuint64_t size[5] = {(cuuint64_t)dim, (cuuint64_t)heads, (cuuint64_t)rows, (cuuint64_t)many, 1};
    cuuint64_t stride[4] = {(cuuint64_t)st.h * 2, (cuuint64_t)st.s * 2, (cuuint64_t)st.b * 2, 16};
    const cuuint32_t box[5] = {64, (cuuint32_t)box_heads, (cuuint32_t)box_rows, 1, 1}, ones[5] = {1, 1, 1, 1, 1};
    if (ragged) size[2] = FAI_RAGGED, size[3] = size[4] = most, stride[2] = stride[1], stride[3] = around - stride[1];
    for (int n = 0; n < 4; n++) {
        if (size[n + 1] == 1) stride[n] = 16; /* any */
        if (!stride[n] || stride[n] >= around || size[n + 1] > most) return 0;
    }
    const fai_encode encode = fai_cuda_encoder();
    return encode && encode(map,
                            dtype == FA_BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
                            5, (void *)(uintptr_t)data, size, stride, box, ones, CU_TENSOR_MAP_INTERLEAVE_NONE,
                            CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                            CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

static inline int fai_cuda_gcd(int a, int b) {
    while (b) {
        const int c = a % b;
        a = b, b = c;
    }
    return a;
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

/* sm_90a: warpgroups of 64 rows, keys of a tile, registers of a thread that computes and of one that loads: all
 * that an SM has. FAI_HOPPER: this instance has a kernel for it. */
#define FAI_HOPPER \
    (((FA_PASSES) & FA_FORWARD) && FA_HEAD_DIM >= 64 && FA_HEAD_DIM_V >= 64 && \
     FAI_DIM <= (FAI_HEAVY ? 192 : 256)) /* beyond that it would spill */
#if FAI_DIM <= 64 && !FAI_HEAVY
#define FAI_HOPPER_WGS 3 /* tensor cores and exponentials take the same time: two would not hide it */
#define FAI_HOPPER_N 128
#else
#define FAI_HOPPER_WGS 2
/* as many keys as registers or, beyond 128 dims, shared memory allow */
#if FAI_HEAVY
#define FAI_HOPPER_N (FAI_DIM <= 64 ? 128 : FAI_DIM <= 128 ? 96 : 80)
#else
#define FAI_HOPPER_N (FAI_DIM <= 128 ? 128 : FAI_DIM <= 192 ? 112 : 80)
#endif
#endif
#define FAI_HOPPER_HIGH (FAI_HOPPER_WGS == 3 ? 160 : 232)
#define FAI_HOPPER_LOW (FAI_HOPPER_WGS == 3 ? 32 : 40)

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
#define FAI_WGMMA_SS fai_wgmma_f32_bf16_ss
#define FAI_WGMMA_RS fai_wgmma_f32_bf16_rs
#define FAI_EXPONENT 0x7f80u
#else
#define FAI_MMA fai_mma_m16n8k16_f32_f16
#define FAI_PACK fai_cvt_rn_f16x2_f32
#define FAI_FMA2 fai_fma_rn_f16x2
#define FAI_WGMMA_SS fai_wgmma_f32_f16_ss
#define FAI_WGMMA_RS fai_wgmma_f32_f16_rs
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

#define FAI_ROWS (FAI_TILE_M(FAI_ARCH) > 192 ? FAI_TILE_M(FAI_ARCH) : 192) /* of the larger kernel */
/* What the threads of a block have in common, in shared memory. Its rows are those of one key/value head:
 * row r is query r / group of head r % group, so the heads of a group share K and V, and few queries fill
 * a tile. */
typedef struct FAI_(tile) {
    int32_t b, len_q, len_k, head_k;
    int32_t first, first_h;             /* query and head where the rows begin to count */
    int32_t rows;                       /* that exist; behind them the last is repeated */
    int32_t infinite;                   /* >>hopper: V had elements that are not finite */
    fai_spot keys;                      /* >>hopper: where TMA finds K and V */
    fa_range any, all;                  /* keys that some row sees, that all rows see */
    uint32_t row[FAI_ROWS];             /* query - first, and (head - first_h) << 10 */
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

/* Tile `number`, of bm rows, of `group` heads that share K and V; head: where these are, counted in groups through
 * the batch. 0 if the sequence has no such rows. */
FAI_ATOM int FAI_(set_tile)(const fa_args *a, FAI_(tile) *t, const int bm, int32_t group, uint32_t number,
                            uint32_t head) {
    const uint32_t heads = (uint32_t)(a->num_heads / group);
    const fa_sequence seq = FAI_(sequence)(a, (int32_t)(head / heads));
    const int32_t first_h = (int32_t)(head % heads) * group;
    const int64_t row0 = (int64_t)number * bm, rest = (int64_t)seq.len_q * group - row0;
    if (rest <= 0) return 0;
    const int32_t rows = rest < bm ? (int32_t)rest : bm,
                  own = (int32_t)threadIdx.x < rows ? (int32_t)threadIdx.x : rows - 1;
    const int32_t first = (int32_t)(row0 / group),
                  shift = (int32_t)(row0 % group); /* row 0: query and head */
    if (threadIdx.x < bm)
        t->row[threadIdx.x] = (uint32_t)((shift + own) / group | (shift + own) % group << 10);
    if (threadIdx.x == 0) {
        t->b = seq.b, t->len_q = seq.len_q, t->len_k = seq.len_k;
        t->head_k = first_h / (a->num_heads / fai_num_heads_k(a));
        t->first = first, t->first_h = first_h, t->rows = rows, t->infinite = 0;
        const fa_range top = FAI_(keys)(a, t, first),
                       bottom = FAI_(keys)(a, t, first + (shift + rows - 1) / group);
        t->any.lo = top.lo, t->any.hi = bottom.hi, t->all.lo = bottom.lo, t->all.hi = top.hi;
    }
    __syncthreads(); /* *t is written */
    return 1;
}

/* The tile of this block. The last tile goes first: under a causal mask it is the longest. */
FAI_ATOM int FAI_(begin)(const fa_args *a, FAI_(tile) *t) {
    FAI_SIZES
    const uint32_t tiles = (uint32_t)FAI_(tiles)(a, BM), block = gridDim.x - 1 - blockIdx.x;
    return FAI_(set_tile)(a, t, BM, a->num_heads / fai_num_heads_k(a), block % tiles, block / tiles);
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

/* What is not finite in the 8 elements at `at` becomes 0, as 0 times it is not. 1 if there was such an element. */
FAI_ATOM int FAI_(make_chunk_finite)(uint32_t at) {
    uint4 x = fai_ld_shared_v4_b32(at);
    const uint32_t zero = /* or NaN */
        FAI_FMA2(x.w, 0, FAI_FMA2(x.z, 0, FAI_FMA2(x.y, 0, FAI_FMA2(x.x, 0, 0))));
    if ((zero & 0x7fff7fff) == 0) return 0;
    x.x = FAI_(finite)(x.x), x.y = FAI_(finite)(x.y), x.z = FAI_(finite)(x.z), x.w = FAI_(finite)(x.w);
    fai_st_shared_v4_b32(at, x);
    return 1;
}

/* In the thread's chunks of V */
FAI_ATOM int FAI_(make_finite)(uint32_t sv) {
    FAI_SIZES
    int found = 0;
    FAI_EACH_CHUNK(DV, BN, sv) found |= FAI_(make_chunk_finite)(at);
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

/* Softcap, ALiBi, bias and FA_SCORE_MOD: S in log2 units, of keys from `first` on. scale: softmax_scale.
 * row: the first of the thread's rows in the tile. Here and below _n: of s (mt, bn/8, C4), constants. */
FAI_ATOM void FAI_(modify_n)(const fa_args *a, const FAI_(tile) *t, float *s, const int mt, const int bn,
                             int32_t first, int row, float scale) {
    const int32_t column = first + FAI_C_COL((int)threadIdx.x % 32, 0);
    const fai_strides sb = fai_strides_bias(a);
#pragma unroll
    for (int n = 0; n < mt * 2; n++) { /* rows of a thread */
        const FAI_(row) at = FAI_(find)(t, row + n * 8);
        const int32_t position = at.i + t->len_k - t->len_q;
        const int64_t bias = t->b * sb.b + at.h * sb.h + at.i * sb.s;
        const float slope =
            FAI_HAS(FA_ALIBI) && a->alibi_slopes ? a->alibi_slopes[t->b * a->alibi_stride_b + at.h] : 0;
#pragma unroll
        for (int c = 0; c < bn / 4; c++) {
            float *const x = &s[(n / 2 * (bn / 8) + c / 2) * 4 + n % 2 * 2 + c % 2], y = *x * scale;
            const int32_t j = column + c / 2 * 8 + c % 2;
            if (FAI_HAS(FA_SOFTCAP) && a->softcap > 0) /* cap tanh(y / cap) */
                y = a->softcap -
                    2 * a->softcap / (1 + fai_ex2_approx_ftz_f32(2 * FAI_LOG2E * y / a->softcap));
            if (FAI_HAS(FA_ALIBI) && a->alibi_slopes) y -= slope * fabsf((float)(position - j));
            if (FAI_HAS(FA_BIAS) && a->bias.data && j < t->any.hi)
                y += fa_load(a->bias.data, bias + j, a->bias.dtype ? a->bias.dtype : FA_F32);
#if defined(FA_SCORE_MOD)
            y = (float)(FA_SCORE_MOD(y, t->b, at.h, at.i, j));
#endif
            *x = y * FAI_LOG2E;
        }
    }
}
FAI_ATOM void FAI_(modify)(const fa_args *a, const FAI_(tile) *t, float s[FAI_MT][FAI_BN / 8][4],
                           int32_t first, int row, float scale) {
    FAI_(modify_n)(a, t, &s[0][0][0], FAI_MT, FAI_BN, first, row, scale);
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
FAI_ATOM void FAI_(mask_n)(const fa_args *a, const FAI_(tile) *t, float *s, const int mt, const int bn,
                           int32_t first, int row) {
    const int32_t column = first + FAI_C_COL((int)threadIdx.x % 32, 0);
#pragma unroll
    for (int n = 0; n < mt * 2; n++) { /* rows of a thread */
        const FAI_(row) at = FAI_(find)(t, row + n * 8);
        const fa_range keys = FAI_(keys)(a, t, at.i);
        const int32_t lo = keys.lo - column, hi = keys.hi - column;
#pragma unroll
        for (int c = 0; c < bn / 4; c++) {
            const int32_t j = c / 2 * 8 + c % 2;
            if (!(j >= lo && j < hi && FAI_(visible)(a, t, at, column + j)))
                s[(n / 2 * (bn / 8) + c / 2) * 4 + n % 2 * 2 + c % 2] = -INFINITY;
        }
    }
}
FAI_ATOM void FAI_(mask)(const fa_args *a, const FAI_(tile) *t, float s[FAI_MT][FAI_BN / 8][4],
                         int32_t first, int row) {
    FAI_(mask_n)(a, t, &s[0][0][0], FAI_MT, FAI_BN, first, row);
}

/* x[n] without an index, which would need a stack */
FAI_ATOM uint32_t FAI_(pick)(const uint32_t x[4], uint32_t n) {
    const uint32_t low = n & 1 ? x[1] : x[0], high = n & 1 ? x[3] : x[2];
    return n & 2 ? high : low;
}

/* P of keys from `first` on: what is dropped becomes 0. A lane of a quad has 2 of 8 adjacent keys, whose
 * bits are one word of four that Philox makes at once: each lane makes those of another 8 keys, then they
 * change words. */
FAI_ATOM void FAI_(dropout_n)(const fa_args *a, const FAI_(tile) *t, float *p, const int mt, const int bn,
                              int32_t first, int row) {
    const uint32_t below = fa_dropout_threshold(a->dropout_p), quad = threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < mt * 2; n++) {
        const FAI_(row) at = FAI_(find)(t, row + n * 8);
#pragma unroll
        for (int c = 0; c < bn / 8; c += 4) {
            uint32_t made[4]; /* the words of keys 8 (c + quad) and on */
            uint32_t got[4];  /* word `quad` of keys 8 (c + (quad ^ x)) and on */
            fai_dropout_bits(a, t->b, at.h, at.i, first / 8 + c + (int32_t)quad, made);
#pragma unroll
            for (int x = 0; x < 4; x++) got[x] = fai_shfl_sync_bfly_b32(FAI_(pick)(made, quad ^ x), x);
#pragma unroll
            for (int x = 0; x < 4 && c + x < bn / 8; x++) {
                const uint32_t word = FAI_(pick)(got, quad ^ x);
                float *const pair = &p[(n / 2 * (bn / 8) + c + x) * 4 + n % 2 * 2];
                if ((word & 0xffff) < below) pair[0] = 0;
                if (word >> 16 < below) pair[1] = 0;
            }
        }
    }
}
FAI_ATOM void FAI_(dropout)(const fa_args *a, const FAI_(tile) *t, float p[FAI_MT][FAI_BN / 8][4],
                            int32_t first, int row) {
    FAI_(dropout_n)(a, t, &p[0][0][0], FAI_MT, FAI_BN, first, row);
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

/* Adds the elements of V that the kernel has taken for 0 to the rows that see them: in tiles (of bn keys) that are
 * masked in part, or everywhere. A thread of `threads` has its own columns. O is written. */
FAI_ATOM void FAI_(add_infinite)(const fa_args *a, const FAI_(tile) *t, int everywhere, const int bn,
                                 const int threads) {
    enum { DV = FA_HEAD_DIM_V };
    const fai_strides so = fai_strides_o(a, DV);
    const fa_sequence seq = FAI_(sequence)(a, t->b);
    FAI_(source) gv = FAI_(open)(a, t, &a->v, DV);
    gv.from -= threadIdx.x % FAI_GROUP(DV) * 8;
    for (int32_t j = t->any.lo; j < t->any.hi; j++) {
        const int32_t first = j / bn * bn;
        if (!everywhere && first >= t->all.lo && first + bn <= t->all.hi)
            continue; /* whole tiles are right already */
        const uint16_t *from =
            gv.from + (FAI_HAS(FA_PAGED) && a->block_table ? FAI_(paged)(a, t, &a->v, gv, (uint32_t)j, DV)
                                                           : j * gv.row);
        for (int d = (int)threadIdx.x; d < DV; d += threads) {
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
    if (infinite) {
        __syncthreads(); /* O is written */
        FAI_(add_infinite)(&args, t, masked || drops, BN, THREADS);
    }
}
#endif /* FA_FORWARD */

#if FAI_HOPPER
/* ======================================================================================== */
/* >>hopper   [FA3] the same for sm_90a: TMA, wgmma, warps that load and warps that compute  */
/* ======================================================================================== */

/*  Warpgroups 0 .. WGS - 1 compute 64 rows each. Of the last one, a thread copies by TMA, three warps mend V.
 *  K and V are rings of two stages, so that the product Q K of the next tile runs during a softmax:
 *
 *      copies     Q K0 K1 V0 K2 V1 ..
 *      products   S0 = Q K0 | S1 = Q K1, O += P0 V0 | S2 = Q K2, O += P1 V1 | .. | O += Pn Vn
 *      softmax              P0                      P1                      ..  Pn
 *
 *  One warpgroup issues its products while the others are in their softmax: they take turns.
 *  Shared memory: Q (later O) by warpgroup, K and V, in panels of 64 columns; barriers; the tile. */
#define FAI_HOPPER_THREADS (FAI_HOPPER_WGS * 128 + 128)
#define FAI_HOPPER_SIZES \
    enum { \
        D = FA_HEAD_DIM, \
        DV = FA_HEAD_DIM_V, \
        WGS = FAI_HOPPER_WGS, \
        BM = WGS * 64, \
        BN = FAI_HOPPER_N, \
        Q_PANEL = 64 * 128, \
        PANEL = BN * 128, \
        Q_BYTES = FAI_PANELS(FAI_DIM) * Q_PANEL, \
        K_BYTES = FAI_PANELS(D) * PANEL, \
        V_BYTES = FAI_PANELS(DV) * PANEL, \
        SQ = 0, \
        SK = WGS * Q_BYTES, \
        SV = SK + 2 * K_BYTES, \
        BARS = SV + 2 * V_BYTES, \
        TILE = BARS + 128 \
    };
/* mbarriers, from BARS on; those of stage 1 are 8 behind those of stage 0 */
#define FAI_Q_FULL 0
#define FAI_K_FULL 8
#define FAI_K_EMPTY 24
#define FAI_V_FULL 40
#define FAI_V_EMPTY 56
#define FAI_V_RAW 72 /* V is there, but has to be mended */
/* named barriers; 0 is __syncthreads */
#define FAI_BAR_TURN 1                      /* + warpgroup: it may issue products */
#define FAI_BAR_WG (1 + FAI_HOPPER_WGS)     /* + warpgroup: its threads */
#define FAI_BAR_MEND (1 + 2 * FAI_HOPPER_WGS) /* the threads that mend V */
#define FAI_BAR_ALL (2 + 2 * FAI_HOPPER_WGS)  /* all that compute */

FAI_ATOM int FAI_(drops)(const fa_args *a) { return FAI_HAS(FA_DROPOUT) && a->dropout_p > 0; }
FAI_ATOM float FAI_(scale)(const fa_args *a) {
    return fmaxf(a->softmax_scale != 0 ? a->softmax_scale : rsqrtf((float)FA_HEAD_DIM), 1e-37f);
}

/* Keys of the tiles, right to left: first = last, last - BN .. end; none if last < end. */
typedef struct FAI_(walk) {
    int32_t last, end;
} FAI_(walk);

FAI_ATOM FAI_(walk) FAI_(walk_of)(const FAI_(tile) *t) {
    FAI_HOPPER_SIZES
    const int32_t lo = t->any.lo, hi = t->any.hi;
    FAI_(walk) w = {(hi - 1) / BN * BN, lo / BN * BN};
    if (lo >= hi) w.last = w.end - BN;
    return w;
}

/* ---- the warps that load ----------------------------------------------------------------- */

/* The tile of K or V from key `first` on, whose barrier is told; pages: by boxes that lie in one. */
FAI_ATOM void FAI_(copy_kv)(const fa_args *a, const FAI_(tile) *t, const fa_cuda_maps *m, const CUtensorMap *map,
                            int32_t first, uint32_t to, uint32_t bar, const int dim) {
    FAI_HOPPER_SIZES
    const int32_t head = t->head_k;
    fai_mbarrier_arrive_expect_tx(bar, FAI_PANELS(dim) * PANEL);
    if (FAI_HAS(FA_PAGED) && a->block_table) {
        const int32_t rows = m->page_rows, size = a->page_size;
        const int32_t *const table = a->block_table + t->b * fai_table_stride(a);
#pragma unroll 1
        for (const uint32_t end = to + PANEL; to < end; to += rows * 128, first += rows) {
            /* pages that no row sees may not exist: a neighbour instead, which will be masked */
            int32_t j = first < t->any.hi ? first : t->any.hi - 1;
            j = j + rows > t->any.lo ? j : t->any.lo;
            const int32_t number = j / size, x = (j - number * size) / rows * rows, page = table[number];
#pragma unroll
            for (int p = 0; p < FAI_PANELS(dim); p++)
                fai_cp_async_bulk_tensor_5d_load(to + p * PANEL, map, bar, p * 64, head, x, page, 0);
        }
        return;
    }
#pragma unroll
    for (int p = 0; p < FAI_PANELS(dim); p++)
        fai_cp_async_bulk_tensor_5d_load(to + p * PANEL, map, bar, p * 64, head,
                                         t->keys.x + first, t->keys.y, t->keys.z);
}

/* Must V of this tile be mended? The same for all warpgroups. */
FAI_ATOM int FAI_(is_mended)(const fa_args *a, const FAI_(tile) *t, int32_t first) {
    FAI_HOPPER_SIZES
    return FAI_(is_masked)(a) || FAI_(drops)(a) || first < t->all.lo || first + BN > t->all.hi;
}

/* One thread copies Q and all the tiles of K and, one behind, of V. */
FAI_ATOM void FAI_(produce)(const fa_args *a, FAI_(tile) *t, const fa_cuda_maps *m, uint32_t shared) {
    FAI_HOPPER_SIZES
    const FAI_(walk) walk = FAI_(walk_of)(t);
    const uint32_t bars = shared + BARS;
    if (walk.last < walk.end) return;
    const fa_sequence seq = FAI_(sequence)(a, t->b);
    const fai_spot q = fai_spot_q(a, &seq);
    t->keys = fai_spot_k(a, &seq); /* registers are few here */
    fai_mbarrier_arrive_expect_tx(bars + FAI_Q_FULL, WGS * FAI_PANELS(D) * Q_PANEL);
#pragma unroll 1
    for (int n = 0; n < WGS; n++)
#pragma unroll
        for (int p = 0; p < FAI_PANELS(D); p++)
            fai_cp_async_bulk_tensor_5d_load(shared + SQ + n * Q_BYTES + p * Q_PANEL, &m->q, bars + FAI_Q_FULL,
                                             p * 64, t->first_h, q.x + t->first + n * (64 / m->group), q.y, q.z);
    uint32_t stage = 0, empty = 1; /* of the tile of K; parity of "it may be filled", which it may at first */
#pragma unroll 1
    for (int32_t first = walk.last; first >= walk.end - BN; first -= BN) {
        if (first >= walk.end) {
            fai_mbarrier_try_wait_parity(bars + FAI_K_EMPTY + 8 * stage, empty);
            FAI_(copy_kv)(a, t, m, &m->k, first, shared + SK + stage * K_BYTES, bars + FAI_K_FULL + 8 * stage, D);
        }
        stage ^= 1;
        if (first < walk.last) {
            const uint32_t full = FAI_(is_mended)(a, t, first + BN) ? FAI_V_RAW : FAI_V_FULL;
            fai_mbarrier_try_wait_parity(bars + FAI_V_EMPTY + 8 * stage, stage ? empty ^ 1 : empty);
            FAI_(copy_kv)(a, t, m, &m->v, first + BN, shared + SV + stage * V_BYTES, bars + full + 8 * stage, DV);
        }
        empty ^= stage ^ 1;
    }
}

/* Three warps make rows of V that no row of the tile sees zeros, and what is not finite, too, as in
 * make_finite: in tiles that are masked, before they may be used. */
FAI_ATOM void FAI_(mend)(const fa_args *a, FAI_(tile) *t, uint32_t shared) {
    FAI_HOPPER_SIZES
    const FAI_(walk) walk = FAI_(walk_of)(t);
    const uint32_t bars = shared + BARS, thread = threadIdx.x % 128 - 32;
    uint32_t stage = 0, raw = 0; /* raw: bit n: parity of V_RAW of stage n */
#pragma unroll 1
    for (int32_t first = walk.last; first >= walk.end; first -= BN, stage ^= 1) {
        if (!FAI_(is_mended)(a, t, first)) continue;
        fai_mbarrier_try_wait_parity(bars + FAI_V_RAW + 8 * stage, raw >> stage & 1); /* V may be read */
        raw ^= 1u << stage;
        int found = 0;
#pragma unroll 1
        for (uint32_t c = thread; c < V_BYTES / 16; c += 96) {
            const uint32_t at = shared + SV + stage * V_BYTES + c * 16;
            const int32_t j = first + (int32_t)(c / 8 % BN);
            if (j < t->any.lo || j >= t->any.hi) fai_st_shared_v4_b32(at, make_uint4(0, 0, 0, 0));
            else found |= FAI_(make_chunk_finite)(at);
        }
        fai_fence_proxy_async(); /* what is written here is what wgmma will read */
        found = fai_bar_red_or(FAI_BAR_MEND, 96, found);
        if (thread == 0) {
            if (found) t->infinite = 1;
            fai_mbarrier_arrive(bars + FAI_V_FULL + 8 * stage);
        }
    }
}

/* ---- the warpgroups that compute --------------------------------------------------------- */

/* What a warpgroup needs in every step. */
typedef struct FAI_(group) {
    uint64_t dq, dk, dv;      /* descriptors, of stage 0 */
    uint32_t bars;            /* mbarriers */
    int32_t turn, next, wg;   /* named barriers: its turn, that of the next warpgroup; its number */
    int32_t leads;            /* this thread speaks for all */
    int32_t row;              /* first of the thread's rows */
    int32_t lo, hi;           /* keys that all its rows see */
    float scale_log2;         /* of S to log2 units */
} FAI_(group);

/* A stage, and how to get from one to the other without a multiplication. */
typedef struct FAI_(stage) {
    uint32_t bars;   /* mbarriers + 8 stage */
    uint32_t k, v;   /* 16-byte units from stage 0 */
    uint32_t parity; /* bit 31 */
} FAI_(stage);

FAI_ATOM FAI_(stage) FAI_(next_stage)(const FAI_(group) *g, FAI_(stage) s) {
    FAI_HOPPER_SIZES
    FAI_(stage) n = {2 * g->bars + 8 - s.bars, K_BYTES / 16 - s.k, V_BYTES / 16 - s.v, s.parity + (1u << 30)};
    if (K_BYTES == V_BYTES) n.v = n.k;
    return n;
}

FAI_ATOM void FAI_(wait)(uint32_t bar, FAI_(stage) s) { fai_mbarrier_try_wait_parity(s.bars + bar, s.parity >> 31); }

/* S = Q K^T, issued: s (BN/8, C4) */
FAI_ATOM void FAI_(issue_qk)(float s[FAI_HOPPER_N / 2], uint64_t dq, uint64_t dk) {
    FAI_HOPPER_SIZES
    fai_wgmma_fence(); /* registers of S are free */
#pragma unroll
    for (int c = 0; c < D / 16; c++)
        FAI_WGMMA_SS(BN, s, dq + (c / 4 * Q_PANEL + c % 4 * 32) / 16, dk + (c / 4 * PANEL + c % 4 * 32) / 16,
                     c != 0);
    fai_wgmma_commit_group();
}

/* O += P V, issued: o (DV/8, C4), p (BN/16, A4) */
FAI_ATOM void FAI_(issue_pv)(float o[FA_HEAD_DIM_V / 2], const uint32_t p[FAI_HOPPER_N / 4], uint64_t dv) {
    FAI_HOPPER_SIZES
    fai_wgmma_fence(); /* P and O are written */
#pragma unroll
    for (int c = 0; c < BN / 16; c++) FAI_WGMMA_RS(DV, o, p + 4 * c, dv + c * 16 * 128 / 16);
    fai_wgmma_commit_group();
}

/* Element i of an accumulator is one of row i / 2 % 2 * 8 of the thread. */
FAI_ATOM void FAI_(scale_o)(float o[FA_HEAD_DIM_V / 2], const float factor[2]) {
#pragma unroll
    for (int i = 0; i < FA_HEAD_DIM_V / 2; i++) o[i] *= factor[i / 2 % 2];
}

/* P from S - reference, in place, and its sums */
FAI_ATOM void FAI_(exponentials)(float s[FAI_HOPPER_N / 2], float l[2]) {
#pragma unroll
    for (int i = 0; i < FAI_HOPPER_N / 2; i += 2) {
        s[i] = fai_ex2_approx_ftz_f32(s[i]), s[i + 1] = fai_ex2_approx_ftz_f32(s[i + 1]);
        l[i / 2 % 2] += s[i] + s[i + 1];
    }
}

/* The largest of a row; NaN is ignored, and reaches the sum through P. h: row h * 8 */
FAI_ATOM float FAI_(row_maximum)(const float s[FAI_HOPPER_N / 2], const int h) {
    float x = -INFINITY;
#pragma unroll
    for (int i = 2 * h; i < FAI_HOPPER_N / 2; i += 4) x = fmaxf(x, fmaxf(s[i], s[i + 1]));
    x = fmaxf(x, fai_shfl_sync_bfly_f32(x, 1));
    return fmaxf(x, fai_shfl_sync_bfly_f32(x, 2));
}

/*  P = exp2(scale S - reference). The reference lies FAI_HEAD log2 units above the largest score that its row had
 *  when it was last moved, which it only is when a score reaches it: results do not depend on it. As long as none
 *  does, no maximum is computed: an `and` of the sign bits of S - reference tells, half the work of a maximum,
 *  and O needs no scaling. P is below 1: f16, whose small numbers are less exact, keeps it nearer to that.
 *  m: -reference, FAI_UNSEEN as long as a row has not seen a key. */
#if FA_DTYPE == FA_F16
#define FAI_HEAD 4.0f
#else
#define FAI_HEAD 8.0f
#endif
#define FAI_UNSEEN 1e30f

/* With a maximum: for tiles that are masked, and as long as a row may have seen nothing. factor: for O */
FAI_ATOM void FAI_(softmax_exact)(float s[FAI_HOPPER_N / 2], float m[2], float l[2], float factor[2], float scale) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const float x = fminf(m[h], -FAI_HEAD - FAI_(row_maximum)(s, h) * scale); /* as before if that is -inf */
        factor[h] = fai_ex2_approx_ftz_f32(x - m[h]);                              /* 0 the first time */
        m[h] = x, l[h] *= factor[h];
    }
#pragma unroll
    for (int i = 0; i < FAI_HOPPER_N / 2; i++) s[i] = fmaf(s[i], scale, m[i / 2 % 2]);
    FAI_(exponentials)(s, l);
}

/* Without, all rows having seen a key. 1 if a reference of the warp has moved. */
FAI_ATOM int FAI_(softmax_lazy)(float s[FAI_HOPPER_N / 2], float m[2], float l[2], float factor[2], float scale) {
    int below = -1; /* bit 31: all are */
#pragma unroll
    for (int i = 0; i < FAI_HOPPER_N / 2; i++) {
        s[i] = fmaf(s[i], scale, m[i / 2 % 2]);
        below &= __float_as_int(s[i]);
    }
    const int moves = __any_sync(~0u, below >= 0);
    if (moves) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float x = fminf(0, -FAI_HEAD - FAI_(row_maximum)(s, h));
            factor[h] = fai_ex2_approx_ftz_f32(x);
            m[h] += x, l[h] *= factor[h];
#pragma unroll
            for (int i = 2 * h; i < FAI_HOPPER_N / 2; i += 4) s[i] += x, s[i + 1] += x;
        }
    }
    FAI_(exponentials)(s, l);
    return moves;
}

/* P of a tile from S, whatever the features are */
FAI_ATOM void FAI_(probabilities)(const fa_args *a, const FAI_(tile) *t, const FAI_(group) *g,
                                  float s[FAI_HOPPER_N / 2], float m[2], float l[2], float factor[2],
                                  int32_t first) {
    FAI_HOPPER_SIZES
    if (FAI_(is_modified)(a)) FAI_(modify_n)(a, t, s, 1, BN, first, g->row, FAI_(scale)(a));
    if (FAI_(is_masked)(a) || first < g->lo || first + BN > g->hi) FAI_(mask_n)(a, t, s, 1, BN, first, g->row);
    FAI_(softmax_exact)(s, m, l, factor, FAI_(is_modified)(a) ? 1 : g->scale_log2);
    if (FAI_(drops)(a)) FAI_(dropout_n)(a, t, s, 1, BN, first, g->row);
}

/* p (BN/16, A4) <- P */
FAI_ATOM void FAI_(pack)(uint32_t p[FAI_HOPPER_N / 4], const float s[FAI_HOPPER_N / 2]) {
#pragma unroll
    for (int i = 0; i < FAI_HOPPER_N / 4; i++) p[i] = FAI_PACK(s[2 * i + 1], s[2 * i]);
}

FAI_ATOM void FAI_(take_turn)(const FAI_(group) *g) {
    if (FAI_HOPPER_WGS > 1) fai_bar_sync(g->turn, 256);
}
FAI_ATOM void FAI_(pass_turn)(const FAI_(group) *g) {
    if (FAI_HOPPER_WGS > 1) fai_bar_arrive(g->next, 256);
}

/* A tile: S = Q K^T of it and, at the same time, O += P V of the one before; then its P. */
FAI_ATOM void FAI_(step)(const fa_args *a, const FAI_(tile) *t, const FAI_(group) *g, FAI_(stage) *before,
                         float o[FA_HEAD_DIM_V / 2], uint32_t p[FAI_HOPPER_N / 4], float m[2], float l[2],
                         int32_t first, const int exact) {
    const FAI_(stage) now = FAI_(next_stage)(g, *before);
    float s[FAI_HOPPER_N / 2], factor[2]; /* (BN/8, C4) */
    int moves = 1;
    FAI_(wait)(FAI_K_FULL, now);
    FAI_(take_turn)(g);
    FAI_(issue_qk)(s, g->dq, g->dk + now.k);
    FAI_(wait)(FAI_V_FULL, *before);
    FAI_(issue_pv)(o, p, g->dv + before->v);
    FAI_(pass_turn)(g);
    fai_wgmma_wait_group_1();                                     /* S is there, K no longer needed */
    if (g->leads) fai_mbarrier_arrive(now.bars + FAI_K_EMPTY);
    if (exact) FAI_(probabilities)(a, t, g, s, m, l, factor, first);
    else moves = FAI_(softmax_lazy)(s, m, l, factor, g->scale_log2);
    fai_wgmma_wait_group_0();                                     /* O is there, P and V no longer needed */
    if (g->leads) fai_mbarrier_arrive(before->bars + FAI_V_EMPTY);
    FAI_(pack)(p, s);
    if (moves) FAI_(scale_o)(o, factor);
    *before = now;
}

/* O / l and LSE. O through the shared memory of this warpgroup's Q, then by TMA where its box has only rows that
 * exist or can be cut off, and O will not be read again here. */
FAI_ATOM void FAI_(hopper_epilogue)(const fa_args *a, const FAI_(tile) *t, const fa_cuda_maps *maps,
                                    const FAI_(group) *g, float o[FA_HEAD_DIM_V / 2], const float m[2], float l[2],
                                    uint32_t sq) {
    FAI_HOPPER_SIZES
    const int lane = (int)threadIdx.x % 32, warp_row = g->row - FAI_C_ROW(lane, 0);
    const fa_sequence seq = FAI_(sequence)(a, t->b);
    const fai_strides sl = fai_strides_lse(a), so = fai_strides_o(a, DV);
    float factor[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        l[h] += fai_shfl_sync_bfly_f32(l[h], 1);
        l[h] += fai_shfl_sync_bfly_f32(l[h], 2);
        const float kept = FAI_HAS(FA_DROPOUT) ? fa_dropout_scale(a->dropout_p) : 1;
        factor[h] = l[h] == 0 ? 0 : kept / l[h]; /* an empty row is 0 */
        const int r = g->row + h * 8;
        if (a->lse.data && lane % 4 == 0 && r < t->rows)
            ((float *)a->lse.data)[fai_offset_q(&seq, sl, FAI_(find)(t, r).i, FAI_(find)(t, r).h)] =
                (fai_lg2_approx_f32(l[h]) - m[h]) * FAI_LN2; /* -inf if empty */
    }
    FAI_(scale_o)(o, factor);
    const int own = warp_row % 64 + lane % 16;
#pragma unroll
    for (int c = 0; c < DV / 8; c += 2) /* two chunks of 16 rows */
        fai_stmatrix_x4(sq + FAI_PANEL_AT(64, own, c + lane / 16), FAI_PACK(o[4 * c + 1], o[4 * c]),
                        FAI_PACK(o[4 * c + 3], o[4 * c + 2]), FAI_PACK(o[4 * c + 5], o[4 * c + 4]),
                        FAI_PACK(o[4 * c + 7], o[4 * c + 6]));
    if ((a->cu_seqlens_q || !a->seqused_q || t->rows == BM) && !t->infinite) {
        fai_fence_proxy_async();                 /* what is written here is what TMA will read */
        fai_bar_sync(FAI_BAR_WG + g->wg, 128);   /* all have written */
        if (!g->leads) return;
        const fai_spot at = fai_spot_q(a, &seq);
        for (int p = 0; p < FAI_PANELS(DV); p++)
            fai_cp_async_bulk_tensor_5d_store(&maps->o, sq + p * Q_PANEL, p * 64, t->first_h,
                                              at.x + t->first + g->wg * (64 / maps->group), at.y, at.z);
        fai_cp_async_bulk_commit_group();
        fai_cp_async_bulk_wait_group_read_0(); /* shared memory outlives its reader */
        return;
    }
    __syncwarp(); /* all lanes have written: rows of the warp may be read */
    for (int r = lane / 8; r < 16; r += 4) {
        if (warp_row + r >= t->rows) continue;
        const FAI_(row) at = FAI_(find)(t, warp_row + r);
        uint16_t *const to = (uint16_t *)a->o.data + fai_offset_q(&seq, so, at.i, at.h);
        for (int c = lane % 8; c < DV / 8; c += 8)
            *(uint4 *)(void *)(to + c * 8) = fai_ld_shared_v4_b32(sq + FAI_PANEL_AT(64, warp_row % 64 + r, c));
    }
}

/* Has a row of the warpgroup not seen a key? The vote lets ptxas know that the loop is the same for all lanes. */
FAI_ATOM int FAI_(any_unseen)(const FAI_(group) *g, const float m[2]) {
    const int unseen = m[0] == FAI_UNSEEN || m[1] == FAI_UNSEEN;
    return __any_sync(~0u, fai_bar_red_or(FAI_BAR_WG + g->wg, 128, unseen));
}

/* 64 rows and all the keys that the tile sees */
FAI_ATOM void FAI_(consume)(const fa_args *a, FAI_(tile) *t, const fa_cuda_maps *maps, uint32_t shared,
                            int wg) {
    FAI_HOPPER_SIZES
    FAI_(walk) walk = FAI_(walk_of)(t);
    walk.last = __shfl_sync(~0u, walk.last, 0), walk.end = __shfl_sync(~0u, walk.end, 0);
    const int lane = (int)threadIdx.x % 32;
    const fa_range top = FAI_(keys)(a, t, FAI_(find)(t, wg * 64).i),
                   bottom = FAI_(keys)(a, t, FAI_(find)(t, wg * 64 + 63).i);
    FAI_(group) g;
    g.dq = fai_descriptor(shared + SQ + wg * Q_BYTES, 16), g.dk = fai_descriptor(shared + SK, 16);
    g.dv = fai_descriptor(shared + SV, PANEL), g.bars = shared + BARS;
    g.wg = wg, g.turn = FAI_BAR_TURN + wg, g.next = FAI_BAR_TURN + (wg + 1 == WGS ? 0 : wg + 1);
    g.leads = threadIdx.x % 128 == 0, g.row = (int)threadIdx.x / 32 * 16 + FAI_C_ROW(lane, 0);
    g.lo = __shfl_sync(~0u, bottom.lo, 0), g.hi = __shfl_sync(~0u, top.hi, 0);
    g.scale_log2 = FAI_(scale)(a) * FAI_LOG2E;
    const int plain = !FAI_(is_modified)(a) && !FAI_(is_masked)(a) && !FAI_(drops)(a);

    float o[DV / 2], m[2], l[2], factor[2]; /* (DV/8, C4); of the thread's rows */
    uint32_t p[BN / 4];                     /* (BN/16, A4) */
#pragma unroll
    for (int i = 0; i < DV / 2; i++) o[i] = 0;
#pragma unroll
    for (int h = 0; h < 2; h++) { /* a sink is a key that has been seen, without a value */
        const float sink = FAI_HAS(FA_SINK) && a->sink ? a->sink[FAI_(find)(t, g.row + h * 8).h] : -INFINITY;
        m[h] = sink == -INFINITY ? FAI_UNSEEN : -FAI_HEAD - sink * FAI_LOG2E;
        l[h] = sink == -INFINITY || lane % 4 ? 0 : fai_ex2_approx_ftz_f32(-FAI_HEAD);
    }

    if (walk.last >= walk.end) {
        FAI_(stage) stage = {g.bars, 0, 0, 0};
        int32_t first = walk.last;
        if (wg == WGS - 1) FAI_(pass_turn)(&g); /* the first turn is warpgroup 0's */
        fai_mbarrier_try_wait_parity(g.bars + FAI_Q_FULL, 0);
        FAI_(wait)(FAI_K_FULL, stage);
        {
            float s[BN / 2];
            FAI_(issue_qk)(s, g.dq, g.dk);
            fai_wgmma_wait_group_0(); /* S is there, K no longer needed */
            if (g.leads) fai_mbarrier_arrive(g.bars + FAI_K_EMPTY);
            FAI_(probabilities)(a, t, &g, s, m, l, factor, first);
            FAI_(pack)(p, s);
        }
        first -= BN;
        do {
#pragma unroll 1
            for (; first >= walk.end &&
                   (!plain || first < g.lo || first + BN > g.hi ||
                    FAI_(any_unseen)(&g, m));
                 first -= BN)
                FAI_(step)(a, t, &g, &stage, o, p, m, l, first, 1);
            const int32_t stop = walk.end > g.lo ? walk.end : g.lo;
#pragma unroll 1
            for (; first >= stop; first -= BN) FAI_(step)(a, t, &g, &stage, o, p, m, l, first, 0);
        } while (first >= walk.end);
        FAI_(wait)(FAI_V_FULL, stage);
        FAI_(issue_pv)(o, p, g.dv + stage.v);
        fai_wgmma_wait_group_0(); /* O is there */
        if (wg == 0) FAI_(take_turn)(&g); /* the turn that nobody needs any more */
    }
    FAI_(hopper_epilogue)(a, t, maps, &g, o, m, l, shared + SQ + wg * Q_BYTES);
    if (t->infinite) {
        fai_bar_sync(FAI_BAR_ALL, WGS * 128); /* O is written */
        FAI_(add_infinite)(a, t, FAI_(is_masked)(a) || FAI_(drops)(a), BN, WGS * 128);
    }
}

/* The tile of this block. Those of `section` heads, whose K and V fit in L2, are interleaved; the last tile of each
 * head goes first: under a causal mask it is the longest. */
FAI_ATOM int FAI_(hopper_begin)(const fa_args *a, FAI_(tile) *t, const fa_cuda_maps *maps) {
    FAI_HOPPER_SIZES
    const uint32_t heads = (uint32_t)(a->num_heads / maps->group) * (uint32_t)a->batch, tiles = gridDim.x / heads;
    const uint32_t section = blockIdx.x / (maps->section * tiles), rest = blockIdx.x % (maps->section * tiles);
    const uint32_t left = heads - section * maps->section, wide = left < maps->section ? left : maps->section;
    return FAI_(set_tile)(a, t, BM, maps->group, tiles - 1 - rest / wide, section * maps->section + rest % wide);
}

/* one block an SM; the bound of 32 threads tells the launch that this binary has no code for it */
static __global__ void __launch_bounds__(FAI_SM90A ? FAI_HOPPER_THREADS : 32, 1)
    FAI_(hopper_kernel)(const __grid_constant__ fa_args args, const __grid_constant__ fa_cuda_maps maps) {
#if FAI_SM90A
    FAI_HOPPER_SIZES
    extern __shared__ __align__(1024) unsigned char fai_shared_1024[];
    FAI_(tile) *const t = (FAI_(tile) *)(void *)(fai_shared_1024 + TILE);
    const uint32_t shared = __shfl_sync(~0u, fai_cvta_to_shared(fai_shared_1024), 0), bars = shared + BARS;
    if (threadIdx.x == 0) {
        fai_mbarrier_init(bars + FAI_Q_FULL, 1);
        for (uint32_t stage = 0; stage < 2; stage++) {
            fai_mbarrier_init(bars + FAI_K_FULL + 8 * stage, 1);
            fai_mbarrier_init(bars + FAI_V_FULL + 8 * stage, 1);
            fai_mbarrier_init(bars + FAI_V_RAW + 8 * stage, 1);
            fai_mbarrier_init(bars + FAI_K_EMPTY + 8 * stage, WGS);
            fai_mbarrier_init(bars + FAI_V_EMPTY + 8 * stage, WGS);
        }
        fai_fence_mbarrier_init();
    }
    if (!FAI_(hopper_begin)(&args, t, &maps)) return; /* its barrier: all see t and the mbarriers */
    const int wg = __shfl_sync(~0u, (int)threadIdx.x / 128, 0);
    if (wg == WGS) {
        fai_setmaxnreg_dec(FAI_HOPPER_LOW);
        if (threadIdx.x % 128 == 0) FAI_(produce)(&args, t, &maps, shared);
        else if (threadIdx.x % 128 >= 32) FAI_(mend)(&args, t, shared);
    } else {
        fai_setmaxnreg_inc(FAI_HOPPER_HIGH);
        FAI_(consume)(&args, t, &maps, shared, wg);
    }
#endif
}

/* Fills in the launch of this kernel; 0 if this binary has none for this GPU, or args want what it does not do:
 * a negative scale, a block mask, no keys, heads or rows at the same address, pages whose boxes (as many rows as
 * divide both page and tile) would not be whole groups of 8 rows. */
static inline int FAI_(hopper_launch)(const fa_args *a, fa_cuda_launch *launch) {
    FAI_HOPPER_SIZES
    struct cudaFuncAttributes attributes;
    const void *kernel = (const void *)FAI_(hopper_kernel);
    const fai_strides sq = fai_strides_q(a, D), so = fai_strides_o(a, DV);
    const fai_strides sk = fai_strides_kv(a, &a->k, D), sv = fai_strides_kv(a, &a->v, DV);
    const int heads_k = fai_num_heads_k(a), shared_by = a->num_heads / heads_k, paged = a->block_table != NULL;
    const int group = 64 % shared_by == 0 ? shared_by : 1; /* heads that share K and V, if a box can have them */
    fa_cuda_maps *const m = &launch->maps;
    if (cudaFuncGetAttributes(&attributes, kernel) != cudaSuccess ||
        attributes.maxThreadsPerBlock < FAI_HOPPER_THREADS) {
        (void)cudaGetLastError();
        return 0;
    }
    if (a->softmax_scale < 0 || (FAI_HAS(FA_BLOCK_MASK) && a->block_mask.data) || a->seqlen_k == 0) return 0;
    m->page_rows = paged ? fai_cuda_gcd(BN, a->page_size) : BN;
    if (m->page_rows % 8) return 0;
    const int64_t rows_k = paged ? a->page_size : a->seqlen_k, many_k = paged ? a->num_pages : a->batch;
    const int ragged_q = a->cu_seqlens_q != NULL, ragged_k = a->cu_seqlens_k != NULL && !paged;
    const uint32_t rows = 64 / (uint32_t)group;
    if (!fai_cuda_map(&m->q, FA_DTYPE, a->q.data, D, a->num_heads, a->seqlen_q, a->batch, sq, ragged_q, group, rows) ||
        !fai_cuda_map(&m->o, FA_DTYPE, a->o.data, DV, a->num_heads, a->seqlen_q, a->batch, so, ragged_q, group, rows) ||
        !fai_cuda_map(&m->k, FA_DTYPE, a->k.data, D, heads_k, rows_k, many_k, sk, ragged_k, 1, m->page_rows) ||
        !fai_cuda_map(&m->v, FA_DTYPE, a->v.data, DV, heads_k, rows_k, many_k, sv, ragged_k, 1, m->page_rows))
        return 0;
    const int64_t tiles = ((int64_t)a->seqlen_q * group + BM - 1) / BM, heads = (int64_t)a->batch * a->num_heads / group;
    const int64_t bytes = (int64_t)a->seqlen_k * (D + DV) * 2, fit = (32 << 20) / bytes; /* of 50 or 60 MB of L2 */
    if (tiles > INT32_MAX / heads) return 0;
    m->group = group, m->section = (uint32_t)(fit < 1 ? 1 : fit < heads ? fit : heads);
    if (m->section > INT32_MAX / tiles) m->section = 1;
    launch->kernel = kernel, launch->arch = 900, launch->block_m = BM, launch->block_n = BN;
    launch->grid = (unsigned)(tiles * heads), launch->block = FAI_HOPPER_THREADS;
    launch->shared = TILE + offsetof(FAI_(tile), row) + BM * 4;
    if (cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)launch->shared) == cudaSuccess)
        return 1;
    (void)cudaGetLastError();
    return 0;
}
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
#undef FAI_Q_FULL
#undef FAI_HOPPER_SIZES
#undef FAI_HOPPER_THREADS
#endif /* FAI_HOPPER */

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
#if FAI_HOPPER
    if (FAI_(hopper_launch)(args, launch)) return FA_OK;
#endif
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
    launch->block_m = FAI_TILE_M(arch), launch->block_n = FAI_TILE_N(arch);
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
    void *parameters[2] = {(void *)args, &launch.maps};
    return fai_cuda_status(args, cudaLaunchKernel(launch.kernel, dim3(launch.grid), dim3(launch.block),
                                                  parameters, launch.shared, stream));
}
#endif /* FA_FORWARD */

#undef FAI_EXPONENT
#undef FAI_WGMMA_RS
#undef FAI_WGMMA_SS
#undef FAI_FMA2
#undef FAI_PACK
#undef FAI_MMA
#undef FAI_ISA
#undef FAI_SIZES
#undef FAI_MT
#undef FAI_BN
#undef FAI_THREADS
#undef FAI_ROWS
#undef FAI_HOPPER_LOW
#undef FAI_HOPPER_HIGH
#undef FAI_HOPPER_N
#undef FAI_HOPPER_WGS
#undef FAI_HOPPER
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
#endif /* not FAI_MAPS_ONLY */
