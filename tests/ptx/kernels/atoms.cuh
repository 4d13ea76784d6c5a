// atoms.cuh - one function per PTX instruction that the kernels in this directory use.
//
// Shared memory is addressed by 32-bit offsets (shared_address). Nothing here knows about attention.
#pragma once
#include <cuda.h>
#include <cuda_bf16.h>
#include <stdint.h>

typedef __nv_bfloat16 bf16;
#define ATOM static __device__ __forceinline__

ATOM uint32_t shared_address(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }

// ---- arithmetic --------------------------------------------------------------------------------------

ATOM float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

ATOM uint32_t pack_bf16(float low, float high) {
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}

ATOM bool elect_one() {
    uint32_t leads;
    asm volatile("{ .reg .pred p; elect.sync _|p, 0xffffffff; selp.b32 %0, 1, 0, p; }" : "=r"(leads));
    return leads != 0;
}

// ---- sm_80: cp.async, ldmatrix, mma ------------------------------------------------------------------

// 16 bytes; zeros if the source is not valid
ATOM void copy_async(uint32_t to, const void *from, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0)
                 : "memory");
}
ATOM void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int PENDING> ATOM void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

ATOM void ldmatrix_x4(uint32_t (&r)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}
ATOM void ldmatrix_x4_trans(uint32_t (&r)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}
ATOM void stmatrix_x4(uint32_t address, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(a),
                 "r"(b), "r"(c), "r"(d)
                 : "memory");
}

ATOM void mma_m16n8k16(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                       uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

// ---- sm_90: mbarriers, bulk copies, TMA --------------------------------------------------------------

ATOM void mbarrier_init(uint32_t bar, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(arrivals) : "memory");
}
ATOM void fence_mbarrier_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
ATOM void mbarrier_arrive(uint32_t bar) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}
ATOM void mbarrier_arrive_expect(uint32_t bar, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}
ATOM void mbarrier_wait(uint32_t bar, uint32_t parity) {
    asm volatile("{\n.reg .pred done;\nAGAIN:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@done bra READY;\nbra AGAIN;\nREADY:\n}" ::"r"(bar),
                 "r"(parity)
                 : "memory");
}

ATOM void fence_proxy_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
ATOM void prefetch_map(const CUtensorMap *map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

ATOM void tma_load(uint32_t to, const CUtensorMap *map, uint32_t bar, int column, int row, int head) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, "
        "%5}], [%2];" ::"r"(to),
        "l"(map), "r"(bar), "r"(column), "r"(row), "r"(head)
        : "memory");
}
ATOM void tma_store(const CUtensorMap *map, uint32_t from, int column, int row, int head) {
    asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(map),
                 "r"(from), "r"(column), "r"(row), "r"(head)
                 : "memory");
}
ATOM void bulk_load(uint32_t to, const void *from, uint32_t bytes, uint32_t bar) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
        "l"(from), "r"(bytes), "r"(bar)
        : "memory");
}
ATOM void bulk_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
ATOM void bulk_wait_read() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }

// ---- sm_90: warpgroups -------------------------------------------------------------------------------

ATOM void barrier_sync(int id, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
template <int N> ATOM void registers_down() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N)); }
template <int N> ATOM void registers_up() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N)); }

ATOM void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
ATOM void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int PENDING> ATOM void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

// A matrix in shared memory, 128-byte swizzle: rows of 128 bytes, `stride` from 8 rows to the next 8 rows,
// `leading` (of a matrix whose rows run along k only) from 64 columns to the next 64.
ATOM uint64_t descriptor(uint32_t address, uint32_t leading, uint32_t stride) {
    return (uint64_t)(address >> 4 & 0x3fff) | (uint64_t)(leading >> 4) << 16 |
           (uint64_t)(stride >> 4) << 32 | (uint64_t)1 << 62;
}

#define REGS_32 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, " \
    "%22, %23, " \
    "%24, %25, %26, %27, %28, %29, %30, %31"
#define REGS_64 \
    REGS_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, " \
            "%50, %51, " \
            "%52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define INOUT_8(d, i) \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
        "+f"(d[i + 6]), "+f"(d[i + 7])
#define INOUT_32(d, i) INOUT_8(d, i), INOUT_8(d, i + 8), INOUT_8(d, i + 16), INOUT_8(d, i + 24)

// D (+)= A B^T, 64 x 128 x 16, both in shared memory with k innermost
ATOM void wgmma_shared(float (&d)[64], uint64_t a, uint64_t b, int accumulate) {
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" REGS_64
                 "}, %64, %65, p, 1, 1, 0, 0; }"
                 : INOUT_32(d, 0), INOUT_32(d, 32)
                 : "l"(a), "l"(b), "r"(accumulate));
}
// D += A B, 64 x N x 16 with N = 128 or 64, A in registers, B in shared memory: BY_ROWS 1 if n is innermost,
// 0 if k is
template <int BY_ROWS> ATOM void wgmma_registers(float (&d)[64], const uint32_t *a, uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" REGS_64
                 "}, {%64, %65, %66, %67}, %68, 1, 1, 1, %69;"
                 : INOUT_32(d, 0), INOUT_32(d, 32)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(BY_ROWS));
}
template <int BY_ROWS> ATOM void wgmma_registers(float (&d)[32], const uint32_t *a, uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" REGS_32
                 "}, {%32, %33, %34, %35}, %36, 1, 1, 1, %37;"
                 : INOUT_32(d, 0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(BY_ROWS));
}

// ---- sm_90: clusters and dependent launches ----------------------------------------------------------

ATOM uint32_t cluster_rank() {
    uint32_t r;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
    return r;
}
ATOM void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::
                     : "memory");
}
// the same variable in the shared memory of another CTA of the cluster
ATOM uint32_t remote_address(uint32_t address, uint32_t rank) {
    uint32_t r;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(r) : "r"(address), "r"(rank));
    return r;
}
ATOM float load_remote(uint32_t address) {
    float x;
    asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(x) : "r"(address) : "memory");
    return x;
}
ATOM void grid_wait() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
ATOM void grid_launch_dependents() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

#endif
