/* test_async.cu - cp.async, mbarriers, bulk and tensor copies of the PTX machine, every form against a plain
 * model on the host; and every misuse, found at the right line.
 *
 *     make build/ptx/test_async && FA_PTX_SCHEDULE=lazy build/ptx/test_async
 */
#include "ptx_test.h"
#include <algorithm>
#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cudaTypedefs.h>
#include <cuda_runtime.h>
#include <string>
#include <unistd.h>
#include <vector>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

static bool same_bytes(const std::vector<u8> &got, const std::vector<u8> &want, const char *what) {
    for (size_t i = 0; i < want.size(); i++)
        if (got[i] != want[i])
            return FA_EXPECT_MSG(false, "%s: byte %zu is %02x, want %02x", what, i, got[i], want[i]);
    return FA_EXPECT(got.size() == want.size());
}

#define DEV static __device__ __forceinline__
DEV u32 smem(const void *p) { return (u32)__cvta_generic_to_shared(p); }

/* Launches with clusters. */
template <class K, class... A>
static void launch(K k, int ctas, int threads, int cluster, size_t shared, A... args) {
    cudaLaunchConfig_t c = {};
    cudaLaunchAttribute a = {};
    a.id = cudaLaunchAttributeClusterDimension;
    a.val.clusterDim.x = (unsigned)cluster, a.val.clusterDim.y = a.val.clusterDim.z = 1;
    c.gridDim = dim3((unsigned)ctas), c.blockDim = dim3((unsigned)threads), c.dynamicSmemBytes = shared;
    c.attrs = &a, c.numAttrs = cluster > 1;
    cudaFuncSetAttribute((const void *)k, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
    cudaError_t e = cudaLaunchKernelEx(&c, k, args...);
    FA_EXPECT_MSG(e == cudaSuccess || e == cudaErrorLaunchFailure, "%s", cudaGetErrorString(e));
}

#if HAS_90
#define TRY_WAIT "try_wait"
#else
#define TRY_WAIT "test_wait"
#endif

#define TX ".mbarrier::complete_tx::bytes"

/* The instructions that most tests need. */
DEV void mbar_init(u32 b, u32 n) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(b), "r"(n) : "memory");
}
DEV void mbar_arrive(u32 b) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(b) : "memory"); }
DEV void mbar_wait(u32 b, u32 parity) {
    asm volatile("{\n.reg .pred p;\nAGAIN:\nmbarrier." TRY_WAIT
                 ".parity.shared::cta.b64 p, [%0], %1;\n@!p bra AGAIN;\n}" ::"r"(b),
                 "r"(parity)
                 : "memory");
}
#if HAS_90
DEV void mbar_inval(u32 b) { asm volatile("mbarrier.inval.shared::cta.b64 [%0];" ::"r"(b) : "memory"); }
DEV void fence_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
DEV void fence_async() { asm volatile("fence.proxy.async;" ::: "memory"); }
DEV void mbar_expect(u32 b, u32 n) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(b), "r"(n) : "memory");
}
DEV u32 mapa(u32 a, u32 rank) {
    u32 r;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(rank));
    return r;
}
DEV u32 cluster_rank() {
    u32 r;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
    return r;
}
DEV void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::
                     : "memory");
}
DEV void bulk_load(u32 to, const void *from, u32 bytes, u32 b) {
    asm volatile("cp.async.bulk.shared::cluster.global" TX " [%0], [%1], %2, [%3];" ::"r"(to), "l"(from),
                 "r"(bytes), "r"(b)
                 : "memory");
}
DEV void bulk_store(void *to, u32 from, u32 bytes) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(from),
                 "r"(bytes)
                 : "memory");
}
DEV void bulk_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
template <int N> DEV void bulk_wait() { asm volatile("cp.async.bulk.wait_group %0;" ::"n"(N) : "memory"); }
template <int N> DEV void bulk_wait_read() {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory");
}
#endif
DEV void cp_async16(u32 to, const void *from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
DEV void cp_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> DEV void cp_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

/* ---- cp.async ------------------------------------------------------------------------------------------ */

/* X(bytes, text): operands are destination, source, size of the source, a predicate register p, a cache
 * policy */
/* clang-format off */
#define CP_FORMS(X) \
    X(4, "cp.async.ca.shared.global [%0], [%1], 4;") \
    X(8, "cp.async.ca.shared::cta.global [%0], [%1], 8;") \
    X(16, "cp.async.ca.shared.global [%0], [%1], 16;") \
    X(16, "cp.async.cg.shared.global [%0], [%1], 16;") \
    X(16, "cp.async.cg.shared.global.L2::64B [%0], [%1], 16;") \
    X(16, "cp.async.cg.shared.global.L2::128B [%0], [%1], 16;") \
    X(8, "cp.async.ca.shared.global.L2::256B [%0], [%1], 8;") \
    X(16, "cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %4;") \
    X(16, "cp.async.cg.shared::cta.global.L2::cache_hint.L2::128B [%0], [%1], 16, %4;")
#define CP_SIZED_FORMS(X) \
    X(4, "cp.async.ca.shared.global [%0], [%1], 4, %2;") \
    X(8, "cp.async.ca.shared.global [%0], [%1], 8, %2;") \
    X(16, "cp.async.ca.shared.global.L2::128B [%0], [%1], 16, %2;") \
    X(16, "cp.async.cg.shared.global [%0], [%1], 16, %2;") \
    X(16, "cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %4;") \
    X(8, "cp.async.ca.shared::cta.global.L2::cache_hint.L2::256B [%0], [%1], 8, %2, %4;")
#define CP_IGNORE_FORMS(X) \
    X(4, "cp.async.ca.shared.global [%0], [%1], 4, p;") \
    X(16, "cp.async.cg.shared.global [%0], [%1], 16, p;") \
    X(16, "cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, p, %4;")
/* clang-format on */

/* Each thread copies with every form into a slot of 16 bytes of its own. */
enum { CP_THREADS = 96 };
__global__ void cp_forms(const u8 *in, u8 *out, u32 per_thread) {
    extern __shared__ __align__(1024) u8 tile[];
    u32 t = threadIdx.x, slot = 0;
    u64 policy;
    asm("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
    for (u32 i = 0; i < per_thread; i++) tile[t * per_thread + i] = 0xee;
#define CP(bytes, text, take, ignore) \
    asm volatile("{ .reg .pred p; setp.ne.u32 p, %3, 0;\n" text \
                 "}" ::"r"(smem(tile + t * per_thread + slot)), \
                 "l"(in + t * per_thread + slot), "r"(take), "r"((u32)(ignore)), "l"(policy) \
                 : "memory"); \
    slot += 16;
#define X(bytes, text) CP(bytes, text, bytes, false)
    CP_FORMS(X)
#undef X
#define X(bytes, text) CP(bytes, text, t % (bytes + 1), false)
    CP_SIZED_FORMS(X)
#undef X
#define X(bytes, text) CP(bytes, text, bytes, t % 3 == 0)
    CP_IGNORE_FORMS(X)
#undef X
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncthreads();
    for (u32 i = t; i < CP_THREADS * per_thread; i += CP_THREADS) out[i] = tile[i];
}

FA_TEST(cp_async_forms) {
    struct Form {
        u32 bytes;
        int kind;
    };
    std::vector<Form> forms;
#define X(bytes, text) forms.push_back({bytes, 0});
    CP_FORMS(X)
#undef X
#define X(bytes, text) forms.push_back({bytes, 1});
    CP_SIZED_FORMS(X)
#undef X
#define X(bytes, text) forms.push_back({bytes, 2});
    CP_IGNORE_FORMS(X)
#undef X
    u32 per_thread = (u32)forms.size() * 16;
    std::vector<u8> data = random_bytes(CP_THREADS * per_thread), want(data.size(), 0xee);
    for (u32 t = 0; t < CP_THREADS; t++)
        for (u32 f = 0; f < forms.size(); f++) {
            u32 take = forms[f].kind == 1                 ? t % (forms[f].bytes + 1)
                       : forms[f].kind == 2 && t % 3 == 0 ? 0
                                                          : forms[f].bytes;
            for (u32 i = 0; i < forms[f].bytes; i++) {
                size_t at = t * per_thread + 16 * f + i;
                want[at] = i < take ? data[at] : 0;
            }
        }
    Device<u8> in(data), out(data.size());
    launch(cp_forms, 1, CP_THREADS, 1, CP_THREADS * per_thread, (const u8 *)in.p, out.p, per_thread);
    if (finished()) same_bytes(out.host(), want, "cp.async");
}

/* A ring of cp.async groups: `DEPTH` in flight, each thread reads what it has copied itself: no barrier is
 * needed. */
template <int DEPTH> __global__ void cp_ring(const u32 *in, u32 *out, int tiles) {
    __shared__ __align__(16) u32 ring[DEPTH + 1][64][4];
    u32 t = threadIdx.x;
    for (int i = 0; i < DEPTH; i++) {
        if (i < tiles) cp_async16(smem(ring[i][t]), in + ((size_t)i * 64 + t) * 4);
        cp_commit();
    }
    u32 sum = 0;
    for (int i = 0; i < tiles; i++) {
        int next = i + DEPTH;
        if (next < tiles) cp_async16(smem(ring[next % (DEPTH + 1)][t]), in + ((size_t)next * 64 + t) * 4);
        cp_commit();
        cp_wait<DEPTH>();
        for (int j = 0; j < 4; j++) sum = sum * 31 + ring[i % (DEPTH + 1)][t][j];
    }
    cp_wait<0>();
    out[t] = sum;
}
template <int DEPTH> static void check_cp_ring(int tiles) {
    std::vector<u32> data((size_t)std::max(tiles, 1) * 256), want(64);
    for (size_t i = 0; i < data.size(); i++) data[i] = (u32)mix(i + fat_seed);
    for (int t = 0; t < 64; t++)
        for (int i = 0; i < tiles; i++)
            for (int j = 0; j < 4; j++) want[t] = want[t] * 31 + data[((size_t)i * 64 + t) * 4 + j];
    Device<u32> in(data), out(64);
    cp_ring<DEPTH><<<1, 64>>>(in.p, out.p, tiles);
    if (finished()) FA_EXPECT_MSG(out.host() == want, "depth %d, %d tiles", DEPTH, tiles);
}
FA_TEST(cp_async_groups) {
    for (int tiles : {0, 1, 2, 5, 9, 33})
        check_cp_ring<1>(tiles), check_cp_ring<2>(tiles), check_cp_ring<4>(tiles);
}

/* Lanes with different numbers of groups, and half of a warp waiting on its own. */
__global__ void cp_divergent(const u32 *in, u32 *out) {
    __shared__ __align__(16) u32 tile[4][32][4];
    u32 t = threadIdx.x, n = 1 + t % 4, sum = 0;
    for (u32 i = 0; i < n; i++) {
        cp_async16(smem(tile[i][t]), in + (i * 32 + t) * 4);
        cp_commit();
    }
    if (t < 16) {
        cp_wait<1>();
        for (u32 i = 0; i + 1 < n; i++) sum = sum * 31 + tile[i][t][1];
        cp_wait<0>();
    } else
        asm volatile("cp.async.wait_all;" ::: "memory");
    sum = sum * 31 + tile[n - 1][t][2];
    out[t] = sum;
}
FA_TEST(cp_async_divergent) {
    std::vector<u32> data(4 * 32 * 4), want(32);
    for (size_t i = 0; i < data.size(); i++) data[i] = (u32)mix(i + fat_seed);
    for (u32 t = 0; t < 32; t++) {
        u32 n = 1 + t % 4;
        for (u32 i = 0; i + 1 < n && t < 16; i++) want[t] = want[t] * 31 + data[(i * 32 + t) * 4 + 1];
        want[t] = want[t] * 31 + data[((n - 1) * 32 + t) * 4 + 2];
    }
    Device<u32> in(data), out(32);
    cp_divergent<<<1, 32>>>(in.p, out.p);
    if (finished()) FA_EXPECT(out.host() == want);
}

/* cp.async.mbarrier.arrive: the waiters see the copies of all threads. X(text, constraint, address,
 * arrivals of a thread) */
/* clang-format off */
#define CP_ARRIVE_FORMS(X) \
    X("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];", "r", smem(&full[s]), 1) \
    X("cp.async.mbarrier.arrive.noinc.b64 [%0];", "l", &full[s], 1) \
    X("cp.async.mbarrier.arrive.shared.b64 [%0];", "r", smem(&full[s]), 0) \
    X("cp.async.mbarrier.arrive.b64 [%0];", "l", &full[s], 0)
/* clang-format on */
template <int FORM> __global__ void cp_arrive(const u32 *in, u32 *out, int tiles) {
    __shared__ __align__(16) u32 tile[2][64][4];
    __shared__ __align__(8) u64 full[2], empty[2];
    u32 t = threadIdx.x;
    if (t == 0)
        for (int s = 0; s < 2; s++) mbar_init(smem(&full[s]), 64), mbar_init(smem(&empty[s]), 64);
    __syncthreads();
    if (t < 64) {
        for (int i = 0; i < tiles; i++) {
            int s = i % 2;
            mbar_wait(smem(&empty[s]), (u32)(i / 2 + 1) & 1);
            cp_async16(smem(tile[s][t]), in + ((size_t)i * 64 + t) * 4);
            enum { base = __COUNTER__ + 1 };
#define X(text, c, address, arrivals) \
    if (FORM == __COUNTER__ - base) { \
        asm volatile(text ::c(address) : "memory"); \
        if (!arrivals) mbar_arrive(smem(&full[s])); \
    }
            CP_ARRIVE_FORMS(X)
#undef X
        }
    } else {
        u32 sum = 0;
        for (int i = 0; i < tiles; i++) {
            int s = i % 2;
            mbar_wait(smem(&full[s]), (u32)(i / 2) & 1);
            for (int j = 0; j < 4; j++) sum = sum * 31 + tile[s][(t * 7 + 5) % 64][j];
            mbar_arrive(smem(&empty[s]));
        }
        out[t - 64] = sum;
    }
}
template <int FORM> static void check_cp_arrive(int tiles) {
    std::vector<u32> data((size_t)tiles * 256), want(64);
    for (size_t i = 0; i < data.size(); i++) data[i] = (u32)mix(i + fat_seed);
    for (u32 t = 0; t < 64; t++)
        for (int i = 0; i < tiles; i++)
            for (u32 j = 0; j < 4; j++)
                want[t] = want[t] * 31 + data[((size_t)i * 64 + ((t + 64) * 7 + 5) % 64) * 4 + j];
    Device<u32> in(data), out(64);
    cp_arrive<FORM><<<1, 128>>>(in.p, out.p, tiles);
    if (finished()) FA_EXPECT_MSG(out.host() == want, "form %d, %d tiles", FORM, tiles);
}
FA_TEST(cp_async_mbarrier_arrive) {
    for (int tiles : {1, 2, 5, 12}) {
        check_cp_arrive<0>(tiles), check_cp_arrive<1>(tiles);
        check_cp_arrive<2>(tiles), check_cp_arrive<3>(tiles);
    }
}

/* Many threads, several lanes at once, several mbarriers in one instruction; the last arrival of each
 * phase is anybody's. */
__global__ void mbar_crowd(u32 *out, int phases) {
    __shared__ __align__(8) u64 bar[2];
    __shared__ u32 sum[2];
    u32 t = threadIdx.x, which = t & 1;
    if (t == 0) mbar_init(smem(&bar[0]), 48), mbar_init(smem(&bar[1]), 48), sum[0] = sum[1] = 0;
    __syncthreads();
    for (int i = 0; i < phases; i++) {
        atomicAdd(&sum[which], t + (u32)i);
        mbar_arrive(smem(&bar[which]));
        mbar_wait(smem(&bar[which]), (u32)i & 1);
    }
    __syncthreads();
    if (t < 2) out[t] = sum[t];
}
FA_TEST(mbarrier_of_many_threads) {
    const u32 phases = 7;
    Device<u32> out(2);
    mbar_crowd<<<1, 96>>>(out.p, phases);
    if (!finished()) return;
    u32 want[2] = {0, 0};
    for (u32 t = 0; t < 96; t++)
        for (u32 i = 0; i < phases; i++) want[t & 1] += t + i;
    FA_EXPECT(out.host()[0] == want[0] && out.host()[1] == want[1]);
}

#if HAS_90

/* ---- mbarriers: a random program of one thread against a model ----------------------------------------- */

/* X(kind, text): operands are state, 32-bit address, generic address, value; the result of a wait is r. A:
 * arrive n; D: arrive_drop n; N: noComplete; E: expect_tx; C: complete_tx; AE, DE: with expect_tx; TP, TS:
 * test_wait by parity, by state; WP, WS: try_wait; P: pending_count. A small letter: no state result. */
/* clang-format off */
#define MBAR_FORMS(X) \
    X(A1, "mbarrier.arrive.shared::cta.b64 %0, [%2];") \
    X(A1, "mbarrier.arrive.shared.b64 %0, [%2];") \
    X(A1, "mbarrier.arrive.b64 %0, [%3];") \
    X(A1, "mbarrier.arrive.release.cta.shared::cta.b64 %0, [%2];") \
    X(A1, "mbarrier.arrive.relaxed.cluster.b64 %0, [%3];") \
    X(A, "mbarrier.arrive.shared::cta.b64 %0, [%2], %4;") \
    X(A, "mbarrier.arrive.release.cluster.shared::cta.b64 %0, [%2], %4;") \
    X(a, "mbarrier.arrive.b64 _, [%3], %4;") \
    X(a1, "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%2];") \
    X(a, "mbarrier.arrive.relaxed.cta.shared::cluster.b64 _, [%2], %4;") \
    X(AE, "mbarrier.arrive.expect_tx.shared::cta.b64 %0, [%2], %4;") \
    X(AE, "mbarrier.arrive.expect_tx.relaxed.cta.shared::cta.b64 %0, [%2], %4;") \
    X(AE, "mbarrier.arrive.expect_tx.b64 %0, [%3], %4;") \
    X(aE, "mbarrier.arrive.expect_tx.release.cluster.shared::cluster.b64 _, [%2], %4;") \
    X(N, "mbarrier.arrive.noComplete.shared::cta.b64 %0, [%2], %4;") \
    X(N, "mbarrier.arrive.noComplete.release.cta.b64 %0, [%3], %4;") \
    X(D1, "mbarrier.arrive_drop.shared::cta.b64 %0, [%2];") \
    X(D, "mbarrier.arrive_drop.b64 %0, [%3], %4;") \
    X(D, "mbarrier.arrive_drop.release.cluster.shared.b64 %0, [%2], %4;") \
    X(d1, "mbarrier.arrive_drop.relaxed.cluster.shared::cluster.b64 _, [%2];") \
    X(DE, "mbarrier.arrive_drop.expect_tx.shared::cta.b64 %0, [%2], %4;") \
    X(dE, "mbarrier.arrive_drop.expect_tx.shared::cluster.b64 _, [%2], %4;") \
    X(DN, "mbarrier.arrive_drop.noComplete.shared::cta.b64 %0, [%2], %4;") \
    X(E, "mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%2], %4;") \
    X(E, "mbarrier.expect_tx.shared::cluster.b64 [%2], %4;") \
    X(E, "mbarrier.expect_tx.relaxed.cluster.b64 [%3], %4;") \
    X(C, "mbarrier.complete_tx.shared::cta.b64 [%2], %4;") \
    X(C, "mbarrier.complete_tx.relaxed.cluster.shared::cluster.b64 [%2], %4;") \
    X(C, "mbarrier.complete_tx.b64 [%3], %4;") \
    X(TP, "mbarrier.test_wait.parity.shared::cta.b64 p, [%2], %4;") \
    X(TP, "mbarrier.test_wait.parity.b64 p, [%3], %4;") \
    X(TP, "mbarrier.test_wait.parity.acquire.cluster.shared.b64 p, [%2], %4;") \
    X(TS, "mbarrier.test_wait.shared::cta.b64 p, [%2], %0;") \
    X(TS, "mbarrier.test_wait.acquire.cta.b64 p, [%3], %0;") \
    X(TS, "mbarrier.test_wait.relaxed.cluster.shared::cta.b64 p, [%2], %0;") \
    X(WP, "mbarrier.try_wait.parity.shared::cta.b64 p, [%2], %4;") \
    X(WP, "mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 p, [%2], %4, 100;") \
    X(WP, "mbarrier.try_wait.parity.relaxed.cluster.b64 p, [%3], %4;") \
    X(WS, "mbarrier.try_wait.shared::cta.b64 p, [%2], %0;") \
    X(WS, "mbarrier.try_wait.b64 p, [%3], %0, 7;") \
    X(WS, "mbarrier.try_wait.acquire.cluster.shared::cta.b64 p, [%2], %0;") \
    X(P, "mbarrier.pending_count.b64 %1, %0;")
/* clang-format on */
enum Kind { A1, A, a1, a, AE, aE, N, D1, D, d1, DE, dE, DN, E, C, TP, TS, WP, WS, P };

struct Step {
    u32 form, value, state; /* state: slot that is written or read */
};

__global__ void mbar_program(const Step *step, int n, u32 count, u32 *result) {
    __shared__ __align__(8) u64 bar;
    u64 state[4] = {0, 0, 0, 0};
    mbar_init(smem(&bar), count);
    for (int i = 0; i < n; i++) {
        u32 r = 0, form = step[i].form, value = step[i].value, slot = step[i].state;
        u64 s = slot == 0 ? state[0] : slot == 1 ? state[1] : slot == 2 ? state[2] : state[3];
        enum { base = __COUNTER__ + 1 };
#define X(kind, text) \
    if (form == __COUNTER__ - base) { \
        do \
            asm volatile("{ .reg .pred p; setp.ne.u32 p, 0, 0;\n" text "\n@p mov.u32 %1, 1; }" \
                         : "+l"(s), "+r"(r) \
                         : "r"(smem(&bar)), "l"(&bar), "r"(value) \
                         : "memory"); \
        while ((kind == WP || kind == WS) && !r); \
    }
        MBAR_FORMS(X)
#undef X
        result[i] = r;
        if (slot == 0) state[0] = s;
        if (slot == 1) state[1] = s;
        if (slot == 2) state[2] = s;
        if (slot == 3) state[3] = s;
    }
    mbar_inval(smem(&bar));
}

static const Kind mbar_kind[] = {
#define X(kind, text) kind,
    MBAR_FORMS(X)
#undef X
};
static const char *const mbar_text[] = {
#define X(kind, text) text,
    MBAR_FORMS(X)
#undef X
};
static bool acquires(u32 form) { return !strstr(mbar_text[form], "relaxed"); }
enum { MBAR_KINDS = sizeof mbar_kind / sizeof *mbar_kind };

FA_TEST(mbarrier_random_programs) {
    u64 rng = fat_seed;
    int used[MBAR_KINDS] = {0};
    for (int trial = 0; trial < 12; trial++) {
        u32 count = trial == 0 ? 1 : trial == 1 ? (1 << 20) - 1 : 1 + (u32)fat_below(&rng, 40);
        u32 expected = count, pending = count, phase = 0,
            waited = 0, known = 0; /* phases that a wait has seen to end; that one has which acquires */
        int tx = 0;
        struct State {
            u32 phase, pending;
            bool valid;
        } state[4] = {};
        std::vector<Step> steps;
        std::vector<u32> want;
        auto settle = [&] {
            if (!pending && !tx) phase++, pending = expected;
        };
        while (steps.size() < 400) {
            Step s = {(u32)fat_below(&rng, MBAR_KINDS), 0, (u32)fat_below(&rng, 4)};
            Kind k = mbar_kind[s.form];
            State before = {phase, pending, true};
            u32 r = 0;
            if (k <= dE || k == N || k == DN) { /* arrivals: not before a wait for the phase that is over */
                if (waited < phase) continue;
                bool expects = k == AE || k == aE || k == DE || k == dE,
                     one = expects || k == A1 || k == a1 || k == D1 || k == d1;
                bool drops = k == D1 || k == D || k == d1 || k == DE || k == dE || k == DN,
                     holds = k == N || k == DN;
                u32 n =
                    one ? 1 : 1 + (fat_below(&rng, 3) ? (u32)fat_below(&rng, (int)std::max(pending, 1u)) : 0);
                if (pending >= 1000 && !one) n = pending - (u32)holds;
                if (n > pending - (u32)(holds && pending) || n == 0 || (drops && n >= expected)) continue;
                u32 bytes = expects ? (u32)fat_below(&rng, 3) * 16 * (1 + (u32)fat_below(&rng, 100)) : 0;
                if (tx + (int)bytes >= 1 << 20) continue;
                s.value = expects ? bytes : n;
                tx += (int)bytes, pending -= n, expected -= drops ? n : 0;
                bool silent = k == a1 || k == a || k == aE || k == d1 || k == dE;
                if (!silent) state[s.state] = before;
                settle();
            } else if (k == E || k == C) {
                u32 bytes = 16 * (u32)fat_below(&rng, 1000);
                if (k == C && fat_below(&rng, 2)) bytes = tx > 0 ? (u32)tx : 0;
                if (k == E && tx < 0) bytes = (u32)-tx;
                int next = tx + (k == E ? (int)bytes : -(int)bytes);
                if (next >= 1 << 20 || next <= -(1 << 20)) continue;
                s.value = bytes, tx = next;
                settle();
            } else if (k == P) {
                if (!state[s.state].valid) continue;
                r = state[s.state].pending;
            } else if (k == TP || k == WP) {
                s.value = (u32)fat_below(&rng, 2);
                r = (phase & 1) != s.value;
                if (!r && (k == WP || ((known & 1) == s.value && phase >= known + 2))) continue;
                if (r) waited = phase;
                if (r && acquires(s.form)) known = phase;
            } else { /* by state */
                const State &at = state[s.state];
                if (!at.valid || phase - at.phase > 1) continue;
                r = phase > at.phase;
                if (!r && k == WS) continue;
                if (r) waited = phase;
                if (r && acquires(s.form)) known = phase;
            }
            used[s.form]++;
            steps.push_back(s), want.push_back(r);
        }
        if (tx) { /* nothing may be outstanding at the end */
            u32 form = (u32)(std::find(mbar_kind, mbar_kind + MBAR_KINDS, tx > 0 ? C : E) - mbar_kind);
            steps.push_back({form, (u32)abs(tx), 0}), want.push_back(0);
        }
        Device<Step> program(steps);
        Device<u32> result(steps.size());
        mbar_program<<<1, 1>>>(program.p, (int)steps.size(), count, result.p);
        if (!finished()) return;
        std::vector<u32> got = result.host();
        for (size_t i = 0; i < want.size(); i++)
            FA_EXPECT_MSG(got[i] == want[i], "trial %d, step %zu (form %u, value %u): %u, want %u", trial, i,
                          steps[i].form, steps[i].value, got[i], want[i]);
    }
    for (int i = 0; i < MBAR_KINDS; i++) FA_EXPECT_MSG(used[i] > 0, "form %d was never used", i);
}

DEV void relaxed_wait(u32 b, u32 parity) {
    asm volatile("{\n.reg .pred p;\nAGAIN:\nmbarrier.try_wait.parity.relaxed.cta.shared::cta.b64 p, [%0], "
                 "%1;\n@!p bra AGAIN;\n}" ::"r"(b),
                 "r"(parity)
                 : "memory");
}
DEV void relaxed_arrive(u32 b) {
    asm volatile("mbarrier.arrive.relaxed.cta.shared::cta.b64 _, [%0];" ::"r"(b) : "memory");
}

/* Who acquires a phase knows what was released in the phases before it, by whomever. */
__global__ void mbar_chain(u32 *out) {
    extern __shared__ __align__(1024) u8 tile[];
    __shared__ __align__(8) u64 bar_;
    u32 bar = smem(&bar_), t = threadIdx.x;
    if (t == 0) mbar_init(bar, 2);
    __syncthreads();
    if (t == 32) tile[0] = 5, mbar_arrive(bar);
    if (t == 64) relaxed_wait(bar, 0), tile[100] = 7, mbar_arrive(bar);
    if (t == 0) {
        relaxed_arrive(bar), relaxed_wait(bar, 0);
        relaxed_arrive(bar), mbar_wait(bar, 1);
        out[0] = tile[0], out[1] = tile[100];
    }
}
FA_TEST(mbarrier_phases_are_cumulative) {
    Device<u32> out(2);
    launch(mbar_chain, 1, 96, 1, 256, out.p);
    if (finished()) FA_EXPECT((out.host() == std::vector<u32>{5, 7}));
}

/* ---- 1-D bulk copies ----------------------------------------------------------------------------------- */

/* X(text): to, from, bytes, mbarrier, policy, mask of the own CTA */
/* clang-format off */
#define BULK_LOADS(X) \
    X("cp.async.bulk.shared::cluster.global" TX " [%0], [%1], %2, [%3];") \
    X("cp.async.bulk.shared::cta.global" TX " [%0], [%1], %2, [%3];") \
    X("cp.async.bulk.shared::cluster.global" TX ".L2::cache_hint [%0], [%1], %2, [%3], %4;") \
    X("cp.async.bulk.shared::cta.global" TX ".L2::cache_hint [%0], [%1], %2, [%3], %4;") \
    X("cp.async.bulk.shared::cluster.global" TX ".multicast::cluster [%0], [%1], %2, [%3], %5;") \
    X("cp.async.bulk.shared::cluster.global" TX ".multicast::cluster.L2::cache_hint " \
      "[%0], [%1], %2, [%3], %5, %4;")
/* clang-format on */
enum { BULK_LOAD_FORMS = 6 };

/* in -> shared -> out: once by each form of load, twice by each form of store */
__global__ void bulk_round_trip(const u8 *in, u8 *out, u32 bytes, u32 stride) {
    extern __shared__ __align__(1024) u8 tile[];
    __shared__ __align__(8) u64 bar;
    u64 policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    if (threadIdx.x == 0) {
        mbar_init(smem(&bar), 1);
        fence_init();
        u32 i = 0;
        u16 own = 1;
        asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(in), "r"(bytes));
        asm volatile("cp.async.bulk.prefetch.L2.global.L2::cache_hint [%0], %1, %2;" ::"l"(in), "r"(bytes),
                     "l"(policy));
        mbar_expect(smem(&bar), bytes * BULK_LOAD_FORMS);
#define X(text) \
    asm volatile(text ::"r"(smem(tile + i * stride)), "l"(in + i * stride), "r"(bytes), "r"(smem(&bar)), \
                 "l"(policy), "h"(own) \
                 : "memory"); \
    i++;
        BULK_LOADS(X)
#undef X
    }
    __syncthreads();
    mbar_wait(smem(&bar), 0);
    if (threadIdx.x == 0)
        for (u32 i = 0; i < BULK_LOAD_FORMS; i++) {
            bulk_store(out + i * stride, smem(tile + i * stride), bytes);
            asm volatile(
                "cp.async.bulk.global.shared::cta.bulk_group.L2::cache_hint [%0], [%1], %2, %3;" ::"l"(
                    out + (i + BULK_LOAD_FORMS) * stride),
                "r"(smem(tile + i * stride)), "r"(bytes), "l"(policy)
                : "memory");
            bulk_commit();
        }
    bulk_wait<2>();
    bulk_wait_read<1>();
    bulk_wait<0>();
}
FA_TEST(bulk_copies) {
    for (u32 bytes : {16u, 32u, 48u, 240u, 2032u, 2048u, 2064u, 6160u}) {
        u32 stride = bytes + 32;
        std::vector<u8> data = random_bytes((size_t)stride * BULK_LOAD_FORMS), want(2 * data.size());
        for (size_t i = 0; i < want.size(); i++) want[i] = i % stride < bytes ? data[i % data.size()] : 0;
        Device<u8> in(data), out(2 * data.size());
        launch(bulk_round_trip, 1, 32, 1, stride * BULK_LOAD_FORMS, (const u8 *)in.p, out.p, bytes, stride);
        if (!finished() || !same_bytes(out.host(), want, "bulk copy")) return;
        FA_EXPECT(ptx_counter("tma_load_bytes") == (u64)bytes * BULK_LOAD_FORMS);
        FA_EXPECT(ptx_counter("tma_store_bytes") == 2ull * bytes * BULK_LOAD_FORMS);
    }
}

/* Every CTA of a cluster loads a part and multicasts it to a mask; then sends a part to its right
 * neighbour. */
__global__ void bulk_cluster(const u8 *in, u8 *out, u32 bytes, u32 mask) {
    extern __shared__ __align__(1024) u8 tile[];
    __shared__ __align__(8) u64 bar, sent;
    u32 rank = cluster_rank(), n = gridDim.x, mine = mask | 1u << rank;
    u8 *received = tile + n * bytes;
    u32 expected = 0;
    for (u32 i = 0; i < n; i++) expected += ((mask | 1u << i) >> rank & 1) * bytes;
    if (threadIdx.x == 0) {
        mbar_init(smem(&bar), 1), mbar_init(smem(&sent), 1);
        fence_init();
        mbar_expect(smem(&bar), expected), mbar_expect(smem(&sent), bytes);
    }
    for (u32 i = threadIdx.x; i < n * bytes; i += blockDim.x) tile[i] = 0x11;
    fence_async();
    cluster_sync();
    if (threadIdx.x == 0)
        asm volatile("cp.async.bulk.shared::cluster.global" TX
                     ".multicast::cluster [%0], [%1], %2, [%3], %4;" ::"r"(smem(tile + rank * bytes)),
                     "l"(in + rank * bytes), "r"(bytes), "r"(smem(&bar)), "h"((u16)mine)
                     : "memory");
    mbar_wait(smem(&bar), 0);
    cluster_sync();
    if (threadIdx.x == 0) {
        u32 to = (rank + 1) % n;
        asm volatile("cp.async.bulk.shared::cluster.shared::cta" TX
                     " [%0], [%1], %2, [%3];" ::"r"(mapa(smem(received), to)),
                     "r"(smem(tile + rank * bytes)), "r"(bytes), "r"(mapa(smem(&sent), to))
                     : "memory");
    }
    mbar_wait(smem(&sent), 0);
    for (u32 i = threadIdx.x; i < (n + 1) * bytes; i += blockDim.x) out[rank * (n + 1) * bytes + i] = tile[i];
    cluster_sync();
}
FA_TEST(bulk_multicast_and_shared_to_shared) {
    for (u32 n : {2u, 4u})
        for (u32 bytes : {16u, 3088u})
            for (u32 mask : {0u, 1u, (1u << n) - 1, 2u}) {
                std::vector<u8> data = random_bytes(n * bytes), want((size_t)n * (n + 1) * bytes);
                for (u32 r = 0; r < n; r++)
                    for (u32 i = 0; i < (n + 1) * bytes; i++) {
                        u32 part = i / bytes, from = (r + n - 1) % n;
                        bool here = part < n && ((mask | 1u << part) >> r & 1);
                        want[(size_t)r * (n + 1) * bytes + i] = part == n ? data[from * bytes + i % bytes]
                                                                : here    ? data[i]
                                                                          : 0x11;
                    }
                Device<u8> in(data), out(want.size());
                launch(bulk_cluster, (int)n, 64, (int)n, (n + 1) * bytes, (const u8 *)in.p, out.p, bytes,
                       mask);
                if (!finished() || !same_bytes(out.host(), want, "multicast")) return;
                FA_EXPECT(ptx_counter("tma_load_bytes") ==
                          (u64)n * bytes); /* multicast reads device memory once */
            }
}

/* Two buffers that are filled again as soon as the store before the last has been read. */
__global__ void store_ring(u32 *out, u32 tiles) {
    __shared__ __align__(128) u32 tile[2][64];
    for (u32 i = 0; i < tiles; i++) {
        if (threadIdx.x == 0) bulk_wait_read<1>();
        __syncthreads();
        tile[i % 2][threadIdx.x] = i * 1000 + threadIdx.x;
        fence_async();
        __syncthreads();
        if (threadIdx.x == 0) {
            bulk_store(out + i * 64, smem(tile[i % 2]), 256);
            bulk_commit();
        }
    }
    if (threadIdx.x == 0) {
        bulk_wait<0>();
        for (u32 i = 0; i < tiles; i++) out[tiles * 64 + i] = out[i * 64 + 5]; /* what it stored is there */
    }
}
FA_TEST(bulk_store_ring) {
    for (u32 tiles : {1u, 2u, 3u, 8u}) {
        Device<u32> out(tiles * 65);
        store_ring<<<1, 64>>>(out.p, tiles);
        if (!finished()) return;
        std::vector<u32> got = out.host();
        for (u32 i = 0; i < tiles * 65; i++) {
            u32 want = i < tiles * 64 ? i / 64 * 1000 + i % 64 : (i - tiles * 64) * 1000 + 5;
            FA_EXPECT_MSG(got[i] == want, "word %u: %u, want %u", i, got[i], want);
        }
    }
}

/* ---- reductions ---------------------------------------------------------------------------------------- */

enum Op { ADD, MIN, MAX, INC, DEC, AND, OR, XOR };
enum Element { U32, S32, U64, S64, B32, B64, F16, BF16, F32, F64 };
static u32 element_bytes(Element e) {
    return e == F16 || e == BF16 ? 2 : e == U64 || e == S64 || e == B64 || e == F64 ? 8 : 4;
}

template <class T> static T reduced(T a, T b, Op op) {
    switch (op) {
    case ADD: return (T)(a + b);
    case MIN: return a < b ? a : b;
    case MAX: return a > b ? a : b;
    default: return b;
    }
}
template <class T> static T reduced_bits(T a, T b, Op op) {
    switch (op) {
    case INC: return a >= b ? 0 : a + 1;
    case DEC: return a == 0 || a > b ? b : a - 1;
    case AND: return a & b;
    case OR: return a | b;
    case XOR: return a ^ b;
    default: return reduced(a, b, op);
    }
}
template <class T, class F> static void each(std::vector<u8> &old, const u8 *value, F f) {
    for (size_t i = 0; i < old.size(); i += sizeof(T)) {
        T a, b;
        memcpy(&a, &old[i], sizeof a), memcpy(&b, value + i, sizeof b);
        a = f(a, b);
        memcpy(&old[i], &a, sizeof a);
    }
}
/* What reducing `value` into `old` gives. */
static void reduce_model(std::vector<u8> &old, const u8 *value, Element e, Op op) {
    switch (e) {
    case U32:
    case B32: return each<u32>(old, value, [&](u32 a, u32 b) { return reduced_bits(a, b, op); });
    case U64:
    case B64: return each<u64>(old, value, [&](u64 a, u64 b) { return reduced_bits(a, b, op); });
    case S32:
        return each<int32_t>(old, value, [&](int32_t a, int32_t b) {
            return op == ADD   ? (int32_t)((u32)a + (u32)b)
                   : op >= AND ? (int32_t)reduced_bits((u32)a, (u32)b, op)
                               : reduced(a, b, op);
        });
    case S64:
        return each<int64_t>(old, value, [&](int64_t a, int64_t b) {
            return op >= AND ? (int64_t)reduced_bits((u64)a, (u64)b, op) : reduced(a, b, op);
        });
    case F32: return each<float>(old, value, [&](float a, float b) { return reduced(a, b, op); });
    case F64: return each<double>(old, value, [&](double a, double b) { return reduced(a, b, op); });
    case F16:
        return each<__half>(old, value, [&](__half a, __half b) {
            return __float2half_rn(reduced(__half2float(a), __half2float(b), op));
        });
    case BF16:
        return each<__nv_bfloat16>(old, value, [&](__nv_bfloat16 a, __nv_bfloat16 b) {
            return __float2bfloat16_rn(reduced(__bfloat162float(a), __bfloat162float(b), op));
        });
    }
}
/* Random elements: floats without NaN, integers that are close together now and then (inc and dec wrap). */
static std::vector<u8> random_elements(size_t bytes, Element e, u64 salt) {
    std::vector<u8> v = random_bytes(bytes, salt);
    u32 size = element_bytes(e);
    for (size_t i = 0; i < bytes; i += size) {
        u64 x = mix(i * 7 + salt + fat_seed);
        float f = (float)((int)(x % 20001) - 10000) / 64;
        __half h = __float2half_rn(f);
        __nv_bfloat16 b = __float2bfloat16_rn(f);
        double d = f * 1e10;
        if (e == F32) memcpy(&v[i], &f, 4);
        if (e == F64) memcpy(&v[i], &d, 8);
        if (e == F16) memcpy(&v[i], &h, 2);
        if (e == BF16) memcpy(&v[i], &b, 2);
        if (e < F16 && x >> 40 & 1) memset(&v[i] + 1, 0, size - 1), v[i] = (u8)(x >> 50 & 3);
    }
    return v;
}

/* clang-format off */
#define GLOBAL_REDUCTIONS(X) \
    X(ADD, U32, "add.u32") X(ADD, S32, "add.s32") X(ADD, U64, "add.u64") X(ADD, F32, "add.f32") \
    X(ADD, F64, "add.f64") X(ADD, F16, "add.noftz.f16") X(ADD, BF16, "add.noftz.bf16") \
    X(MIN, U32, "min.u32") X(MIN, S32, "min.s32") X(MIN, U64, "min.u64") X(MIN, S64, "min.s64") \
    X(MIN, F16, "min.f16") X(MIN, BF16, "min.bf16") X(MAX, U32, "max.u32") X(MAX, S32, "max.s32") \
    X(MAX, U64, "max.u64") X(MAX, S64, "max.s64") X(MAX, F16, "max.f16") X(MAX, BF16, "max.bf16") \
    X(INC, U32, "inc.u32") X(DEC, U32, "dec.u32") X(AND, B32, "and.b32") X(AND, B64, "and.b64") \
    X(OR, B32, "or.b32") X(OR, B64, "or.b64") X(XOR, B32, "xor.b32") X(XOR, B64, "xor.b64")
#define CLUSTER_REDUCTIONS(X) \
    X(ADD, U32, "add.u32") X(ADD, S32, "add.s32") X(ADD, U64, "add.u64") X(MIN, U32, "min.u32") \
    X(MIN, S32, "min.s32") X(MAX, U32, "max.u32") X(MAX, S32, "max.s32") X(INC, U32, "inc.u32") \
    X(DEC, U32, "dec.u32") X(AND, B32, "and.b32") X(OR, B32, "or.b32") X(XOR, B32, "xor.b32")
/* clang-format on */

/* Reduction number `form` of value, from shared memory, into `to`: in device memory or in the other CTA of
 * the cluster. */
__global__ void bulk_reduce(const u8 *value, u8 *to, u32 bytes, u32 form, bool hint) {
    extern __shared__ __align__(1024) u8 tile[];
    for (u32 i = threadIdx.x; i < bytes; i += blockDim.x) tile[i] = value[i];
    fence_async();
    __syncthreads();
    if (threadIdx.x == 0) {
        u64 policy;
        asm("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
        enum { base = __COUNTER__ + 1 };
#define X(op, element, text) \
    if (form == __COUNTER__ - base) { \
        if (hint) \
            asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.L2::cache_hint." text \
                         " [%0], [%1], %2, %3;" ::"l"(to), \
                         "r"(smem(tile)), "r"(bytes), "l"(policy) \
                         : "memory"); \
        else \
            asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group." text \
                         " [%0], [%1], %2;" ::"l"(to), \
                         "r"(smem(tile)), "r"(bytes) \
                         : "memory"); \
    }
        GLOBAL_REDUCTIONS(X)
#undef X
        bulk_commit();
        bulk_wait<0>();
    }
}
__global__ void cluster_reduce(const u8 *value, u8 *to, u32 bytes, u32 form) {
    extern __shared__ __align__(1024) u8 tile[]; /* value, then what is reduced into */
    __shared__ __align__(8) u64 bar;
    u32 rank = cluster_rank();
    for (u32 i = threadIdx.x; i < bytes; i += blockDim.x)
        tile[i] = value[rank * bytes + i], tile[bytes + i] = to[rank * bytes + i];
    if (threadIdx.x == 0) mbar_init(smem(&bar), 1), mbar_expect(smem(&bar), bytes);
    fence_init();
    fence_async();
    cluster_sync();
    if (threadIdx.x == 0) {
        u32 there = mapa(smem(tile + bytes), rank ^ 1), bar_there = mapa(smem(&bar), rank ^ 1);
        enum { base = __COUNTER__ + 1 };
#define X(op, element, text) \
    if (form == __COUNTER__ - base) \
        asm volatile("cp.reduce.async.bulk.shared::cluster.shared::cta" TX "." text \
                     " [%0], [%1], %2, [%3];" ::"r"(there), \
                     "r"(smem(tile)), "r"(bytes), "r"(bar_there) \
                     : "memory");
        CLUSTER_REDUCTIONS(X)
#undef X
    }
    mbar_wait(smem(&bar), 0);
    for (u32 i = threadIdx.x; i < bytes; i += blockDim.x) to[rank * bytes + i] = tile[bytes + i];
    cluster_sync();
}

struct ReduceForm {
    Op op;
    Element e;
    const char *text;
};
static const ReduceForm global_forms[] = {
#define X(op, element, text) {op, element, text},
    GLOBAL_REDUCTIONS(X)
#undef X
};
static const ReduceForm cluster_forms[] = {
#define X(op, element, text) {op, element, text},
    CLUSTER_REDUCTIONS(X)
#undef X
};

FA_TEST(bulk_reductions_into_device_memory) {
    for (u32 f = 0; f < sizeof global_forms / sizeof *global_forms; f++)
        for (u32 bytes : {16u, 1008u}) {
            const ReduceForm &r = global_forms[f];
            std::vector<u8> value = random_elements(bytes, r.e, f),
                            old = random_elements(bytes, r.e, f + 1000), want = old;
            for (int ctas = 0; ctas < 3; ctas++) reduce_model(want, value.data(), r.e, r.op);
            Device<u8> v(value), to(old);
            launch(bulk_reduce, 3, 32, 1, bytes, (const u8 *)v.p, to.p, bytes, f, bytes == 16);
            if (!finished() || !same_bytes(to.host(), want, r.text)) break;
        }
}
FA_TEST(bulk_reductions_into_the_cluster) {
    for (u32 f = 0; f < sizeof cluster_forms / sizeof *cluster_forms; f++) {
        const u32 bytes = 528;
        const ReduceForm &r = cluster_forms[f];
        std::vector<u8> value = random_elements(2 * bytes, r.e, f),
                        old = random_elements(2 * bytes, r.e, f + 1000), swapped(value), want = old;
        std::rotate(swapped.begin(), swapped.begin() + bytes, swapped.end());
        reduce_model(want, swapped.data(), r.e, r.op);
        Device<u8> v(value), to(old);
        launch(cluster_reduce, 2, 64, 2, 2 * bytes, (const u8 *)v.p, to.p, bytes, f);
        if (!finished() || !same_bytes(to.host(), want, r.text)) break;
    }
}

/* ---- st.async, red.async ------------------------------------------------------------------------------- */

/* clang-format off */
#define RED_ASYNC(X) \
    X(ADD, U32, u32, "r", "add.u32") X(ADD, S32, u32, "r", "add.s32") X(ADD, U64, u64, "l", "add.u64") \
    X(ADD, S64, u64, "l", "add.s64") X(MIN, U32, u32, "r", "min.u32") X(MIN, S32, u32, "r", "min.s32") \
    X(MAX, U32, u32, "r", "max.u32") X(MAX, S32, u32, "r", "max.s32") X(INC, U32, u32, "r", "inc.u32") \
    X(DEC, U32, u32, "r", "dec.u32") X(AND, B32, u32, "r", "and.b32") X(OR, B32, u32, "r", "or.b32") \
    X(XOR, B32, u32, "r", "xor.b32")
/* clang-format on */

/* Every thread stores to the other CTA, in all widths, and reduces a word there of `size` bytes. 64 bytes
 * a thread. */
__global__ void store_async(const u64 *value, u64 *out, u32 form, u32 size) {
    __shared__ __align__(64) u64 tile[32][8];
    __shared__ __align__(8) u64 bar;
    u32 t = threadIdx.x, there = cluster_rank() ^ 1;
    const u64 *v = value + ((size_t)cluster_rank() * 32 + t) * 8;
    if (t == 0) mbar_init(smem(&bar), 1), mbar_expect(smem(&bar), 32 * (56 + size));
    tile[t][7] = v[7] >> 3;
    cluster_sync();
    u32 to = mapa(smem(tile[t]), there), b = mapa(smem(&bar), there);
    u64 generic_to, generic_b;
    asm volatile("mapa.u64 %0, %1, %2;" : "=l"(generic_to) : "l"(tile[t]), "r"(there));
    asm volatile("mapa.u64 %0, %1, %2;" : "=l"(generic_b) : "l"(&bar), "r"(there));
    asm volatile("st.async.weak.shared::cluster" TX ".v4.b32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(to),
                 "r"((u32)v[0]), "r"((u32)(v[0] >> 32)), "r"((u32)v[1]), "r"((u32)(v[1] >> 32)), "r"(b)
                 : "memory");
    asm volatile("st.async.shared::cluster" TX ".v2.u64 [%0], {%1, %2}, [%3];" ::"r"(to + 16), "l"(v[2]),
                 "l"(v[3]), "r"(b)
                 : "memory");
    asm volatile("st.async.weak.shared::cluster" TX ".v2.f32 [%0], {%1, %2}, [%3];" ::"r"(to + 32),
                 "f"(__uint_as_float((u32)v[4])), "f"(__uint_as_float((u32)(v[4] >> 32))), "r"(b)
                 : "memory");
    asm volatile("st.async.shared::cluster" TX ".f64 [%0], %1, [%2];" ::"r"(to + 40),
                 "d"(__longlong_as_double((long long)v[5])), "r"(b)
                 : "memory");
    asm volatile("st.async.shared::cluster" TX ".s32 [%0], %1, [%2];" ::"r"(to + 48), "r"((u32)v[6]), "r"(b)
                 : "memory");
    asm volatile("st.async" TX ".b32 [%0], %1, [%2];" ::"l"(generic_to + 52), "r"((u32)(v[6] >> 32)),
                 "l"(generic_b)
                 : "memory");
    enum { base = __COUNTER__ + 1 };
#define X(op, element, T, c, text) \
    if (form == __COUNTER__ - base) \
        asm volatile("red.async.relaxed.cluster.shared::cluster" TX "." text \
                     " [%0], %1, [%2];" ::"r"(to + 56), \
                     c((T)v[7]), "r"(b) \
                     : "memory");
    RED_ASYNC(X)
#undef X
    mbar_wait(smem(&bar), 0);
    for (int i = 0; i < 8; i++) out[((size_t)cluster_rank() * 32 + t) * 8 + i] = tile[t][i];
    cluster_sync();
}
FA_TEST(store_and_reduce_async) {
    static const ReduceForm forms[] = {
#define X(op, element, T, c, text) {op, element, text},
        RED_ASYNC(X)
#undef X
    };
    for (u32 f = 0; f < sizeof forms / sizeof *forms; f++) {
        u32 size = element_bytes(forms[f].e);
        std::vector<u64> value(2 * 32 * 8), want(value.size());
        for (size_t i = 0; i < value.size(); i++) value[i] = mix(i + fat_seed * 31 + f) >> (i % 3 ? 0 : 29);
        for (size_t i = 0; i < value.size(); i++) {
            size_t from = (i + 256) % 512; /* the other CTA's thread sent it */
            want[i] = value[from];
            if (i % 8 != 7) continue;
            u64 old = value[i] >> 3, v = value[from];
            std::vector<u8> bytes((u8 *)&old, (u8 *)&old + size);
            reduce_model(bytes, (const u8 *)&v, forms[f].e, forms[f].op);
            want[i] = old;
            memcpy(&want[i], bytes.data(), size);
        }
        Device<u64> in(value), out(value.size());
        launch(store_async, 2, 32, 2, 0, (const u64 *)in.p, out.p, f, size);
        if (!finished()) return;
        std::vector<u64> got = out.host();
        for (size_t i = 0; i < want.size(); i++)
            if (!FA_EXPECT_MSG(got[i] == want[i], "%s: word %zu: %llx, want %llx", forms[f].text, i,
                               (unsigned long long)got[i], (unsigned long long)want[i]))
                return;
    }
}

/* ---- tensor maps: the rules of the driver -------------------------------------------------------------- */

static PFN_cuTensorMapEncodeTiled_v12000 encode_tiled(void) {
    static PFN_cuTensorMapEncodeTiled_v12000 f;
    cudaDriverEntryPointQueryResult found;
    if (!f)
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", (void **)&f, 12000, cudaEnableDefault,
                                         &found);
    return f;
}

/* A valid call, of which tests change single arguments. */
struct Encode {
    CUtensorMap map[2];
    CUtensorMapDataType type = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    u32 rank = 3, box[5] = {64, 4, 2, 1, 1}, step[5] = {1, 1, 1, 1, 1};
    u64 dim[5] = {64, 8, 4, 1, 1}, stride[4] = {128, 1024, 4096, 4096};
    CUtensorMapInterleave interleave = CU_TENSOR_MAP_INTERLEAVE_NONE;
    CUtensorMapSwizzle swizzle = CU_TENSOR_MAP_SWIZZLE_128B;
    CUtensorMapL2promotion promotion = CU_TENSOR_MAP_L2_PROMOTION_L2_256B;
    CUtensorMapFloatOOBfill fill = CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE;
    CUresult operator()(void *address, size_t map_offset = 0) {
        return encode_tiled()((CUtensorMap *)((char *)map + map_offset), type, rank, address, dim, stride,
                              box, step, interleave, swizzle, promotion, fill);
    }
};

/* What f prints to stderr. */
template <class F> static CUresult with_stderr(std::string *said, F f) {
    char text[512];
    FILE *file = tmpfile();
    fflush(stderr);
    int old = dup(2);
    dup2(fileno(file), 2);
    CUresult result = f();
    fflush(stderr);
    dup2(old, 2);
    close(old);
    rewind(file);
    size_t n = fread(text, 1, sizeof text, file);
    fclose(file);
    said->assign(text, n);
    return result;
}

FA_TEST(tensor_map_rules) {
    Device<u8> memory(4096);
    FA_REQUIRE(encode_tiled() != NULL);
    FA_EXPECT(Encode()(memory.p) == CUDA_SUCCESS);
    struct Rule {
        void (*breaks)(Encode &);
        CUresult want;
        const char *says; /* nothing, if it is valid */
    };
    const CUresult bad = CUDA_ERROR_INVALID_VALUE, not_here = CUDA_ERROR_NOT_SUPPORTED;
    const Rule rules[] = {
        {[](Encode &e) { e.rank = 0; }, bad, "tensorRank 0"},
        {[](Encode &e) { e.rank = 6; }, bad, "tensorRank 6"},
        {[](Encode &e) { e.type = (CUtensorMapDataType)16; }, bad, "tensorDataType"},
        {[](Encode &e) { e.dim[1] = 0; }, bad, "globalDim[1]"},
        {[](Encode &e) { e.dim[2] = (1ull << 32) + 1; }, bad, "globalDim[2]"},
        {[](Encode &e) { e.stride[0] = 136; }, bad, "globalStrides[0]"},
        {[](Encode &e) { e.stride[1] = 1ull << 40; }, bad, "globalStrides[1]"},
        {[](Encode &e) { e.box[1] = 0; }, bad, "boxDim[1]"},
        {[](Encode &e) { e.box[2] = 257; }, bad, "boxDim[2]"},
        {[](Encode &e) { e.box[0] = 65; }, bad, "boxDim[0]"},
        {[](Encode &e) { e.box[0] = 72; }, bad, "boxDim[0]"},
        {[](Encode &e) { e.swizzle = CU_TENSOR_MAP_SWIZZLE_64B; }, bad, "boxDim[0]"},
        {[](Encode &e) { e.swizzle = CU_TENSOR_MAP_SWIZZLE_32B; }, bad, "boxDim[0]"},
        {[](Encode &e) { e.swizzle = (CUtensorMapSwizzle)7; }, bad, "swizzle 7"},
        {[](Encode &e) { e.step[1] = 0; }, bad, "elementStrides[1]"},
        {[](Encode &e) { e.step[1] = 9; }, bad, "elementStrides[1]"},
        {[](Encode &e) { e.interleave = (CUtensorMapInterleave)3; }, bad, "interleave 3"},
        {[](Encode &e) { e.rank = 2, e.interleave = CU_TENSOR_MAP_INTERLEAVE_16B; }, bad, "tensorRank 2"},
        {[](Encode &e) { e.promotion = (CUtensorMapL2promotion)4; }, bad, "l2Promotion"},
        {[](Encode &e) { e.fill = (CUtensorMapFloatOOBfill)2; }, bad, "oobFill 2"},
        {[](Encode &e) {
             e.type = CU_TENSOR_MAP_DATA_TYPE_UINT16,
             e.fill = CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA;
         },
         bad, "UINT16"},
        {[](Encode &e) { e.step[2] = 2; }, not_here, "elementStrides[2]"},
        {[](Encode &e) { e.interleave = CU_TENSOR_MAP_INTERLEAVE_16B; }, not_here, "interleave 1"},
        {[](Encode &e) { e.type = CU_TENSOR_MAP_DATA_TYPE_TFLOAT32; }, not_here, "TFLOAT32"},
        {[](Encode &e) { e.swizzle = CU_TENSOR_MAP_SWIZZLE_128B_ATOM_32B; }, not_here, "swizzle 4"},
        {[](Encode &e) { e.step[0] = 5; }, CUDA_SUCCESS, ""}, /* ignored */
        {[](Encode &e) { e.box[0] = 32; }, CUDA_SUCCESS, ""},
        {[](Encode &e) { e.rank = 1; }, CUDA_SUCCESS, ""},
        {[](Encode &e) { e.dim[2] = 1ull << 32; }, CUDA_SUCCESS, ""},
        {[](Encode &e) { e.fill = CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA; }, CUDA_SUCCESS, ""},
    };
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        Encode e;
        rules[i].breaks(e);
        std::string said;
        CUresult got = with_stderr(&said, [&] { return e(memory.p); });
        FA_EXPECT_MSG(got == rules[i].want, "rule %zu: %d, want %d", i, (int)got, (int)rules[i].want);
        FA_EXPECT_MSG(*rules[i].says ? said.find(rules[i].says) != std::string::npos : said.empty(),
                      "rule %zu: \"%s\"", i, said.c_str());
    }
    Encode e;
    std::string said;
    FA_EXPECT(with_stderr(&said, [&] { return e(memory.p + 8); }) == bad &&
              said.find("globalAddress") != std::string::npos);
    FA_EXPECT(with_stderr(&said, [&] { return e(NULL); }) == bad &&
              said.find("globalAddress") != std::string::npos);
    FA_EXPECT(with_stderr(&said, [&] { return e(&e); }) == bad &&
              said.find("device memory") != std::string::npos);
    FA_EXPECT(with_stderr(&said, [&] { return e(memory.p, 32); }) == bad &&
              said.find("tensorMap") != std::string::npos);
    FA_EXPECT(e(memory.p, 64) == CUDA_SUCCESS);
}

/* ---- tensor copies ------------------------------------------------------------------------------------- */

struct Coordinates {
    int c[5];
};
/* clang-format off */
#define AT1 "{%2}"
#define AT2 "{%2, %3}"
#define AT3 "{%2, %3, %4}"
#define AT4 "{%2, %3, %4, %5}"
#define AT5 "{%2, %3, %4, %5, %6}"
/* One tensor instruction of rank R; operands: shared address, map, 5 coordinates, mbarrier, policy, mask */
#define TENSOR(R, before, middle, after) \
    if (RANK == R) \
    asm volatile(before #R "d" middle AT##R after ::"r"(shared), "l"(&map), "r"(at.c[0]), "r"(at.c[1]), \
                 "r"(at.c[2]), "r"(at.c[3]), "r"(at.c[4]), "r"(bar), "l"(policy), "h"(own) \
                 : "memory")
#define ALL_RANKS(before, middle, after) \
    TENSOR(1, before, middle, after); \
    TENSOR(2, before, middle, after); \
    TENSOR(3, before, middle, after); \
    TENSOR(4, before, middle, after); \
    TENSOR(5, before, middle, after)
enum { LOAD_FORMS = 6, STORE_FORMS = 3, REDUCE_FORMS = 8 };
#define LOAD_BOX(to, hints, tail) \
    ALL_RANKS("cp.async.bulk.tensor.", to TX hints " [%0], [%1, ", "], [%7]" tail ";")
template <int RANK>
DEV void tensor_load(int form, const CUtensorMap &map, Coordinates at, u32 shared, u32 bar, u64 policy,
                     u16 own) {
    switch (form) {
    case 0: LOAD_BOX(".shared::cluster.global", "", ""); break;
    case 1: LOAD_BOX(".shared::cta.global.tile", "", ""); break;
    case 2: LOAD_BOX(".shared::cluster.global.tile", ".L2::cache_hint", ", %8"); break;
    case 3: LOAD_BOX(".shared::cta.global", ".L2::cache_hint", ", %8"); break;
    case 4: LOAD_BOX(".shared::cluster.global", ".multicast::cluster", ", %9"); break;
    case 5: LOAD_BOX(".shared::cluster.global", ".multicast::cluster.L2::cache_hint", ", %9, %8"); break;
    }
}
template <int RANK> DEV void tensor_prefetch(const CUtensorMap &map, Coordinates at, u64 policy) {
    u32 shared = 0, bar = 0;
    u16 own = 0;
    asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
    ALL_RANKS("cp.async.bulk.prefetch.tensor.", ".L2.global [%1, ", "];");
    ALL_RANKS("cp.async.bulk.prefetch.tensor.", ".L2.global.tile.L2::cache_hint [%1, ", "], %8;");
}
/* form: a store, or STORE_FORMS + a reduction */
#define STORE_BOX(instruction, kind, hint, tail) \
    ALL_RANKS(instruction ".bulk.tensor.", ".global.shared::cta" kind ".bulk_group" hint " [%1, ", \
              "], [%0]" tail ";")
template <int RANK>
DEV void tensor_store(int form, const CUtensorMap &map, Coordinates at, u32 shared, u64 policy) {
    u32 bar = 0;
    u16 own = 0;
    switch (form) {
    case 0: STORE_BOX("cp.async", "", "", ""); break;
    case 1: STORE_BOX("cp.async", ".tile", "", ""); break;
    case 2: STORE_BOX("cp.async", "", ".L2::cache_hint", ", %8"); break;
    case STORE_FORMS + ADD: STORE_BOX("cp.reduce.async", ".add", "", ""); break;
    case STORE_FORMS + MIN: STORE_BOX("cp.reduce.async", ".min", ".L2::cache_hint", ", %8"); break;
    case STORE_FORMS + MAX: STORE_BOX("cp.reduce.async", ".max.tile", "", ""); break;
    case STORE_FORMS + INC: STORE_BOX("cp.reduce.async", ".inc", "", ""); break;
    case STORE_FORMS + DEC: STORE_BOX("cp.reduce.async", ".dec", "", ""); break;
    case STORE_FORMS + AND: STORE_BOX("cp.reduce.async", ".and", "", ""); break;
    case STORE_FORMS + OR: STORE_BOX("cp.reduce.async", ".or", "", ""); break;
    case STORE_FORMS + XOR: STORE_BOX("cp.reduce.async", ".xor", "", ""); break;
    }
}
/* clang-format on */

/* Loads a box to `offset` of dynamic shared memory and hands out what is there then. */
template <int RANK>
__global__ void box_load(const __grid_constant__ CUtensorMap map, Coordinates at, u32 offset, u32 bytes,
                         u8 *out, int form) {
    extern __shared__ __align__(1024) u8 tile[];
    __shared__ __align__(8) u64 bar;
    u64 policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    if (threadIdx.x == 0) {
        tensor_prefetch<RANK>(map, at, policy);
        mbar_init(smem(&bar), 1);
        fence_init();
        mbar_expect(smem(&bar), bytes);
        tensor_load<RANK>(form, map, at, smem(tile) + offset, smem(&bar), policy, 1);
    }
    __syncthreads();
    mbar_wait(smem(&bar), 0);
    for (u32 i = threadIdx.x; i < bytes; i += blockDim.x) out[i] = tile[offset + i];
}
/* Puts `in` into shared memory and stores or reduces the box. */
template <int RANK>
__global__ void box_store(const __grid_constant__ CUtensorMap map, Coordinates at, u32 offset, u32 bytes,
                          const u8 *in, int form) {
    extern __shared__ __align__(1024) u8 tile[];
    u64 policy;
    asm("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
    for (u32 i = threadIdx.x; i < bytes; i += blockDim.x) tile[offset + i] = in[i];
    fence_async();
    __syncthreads();
    if (threadIdx.x == 0) {
        tensor_store<RANK>(form, map, at, smem(tile) + offset, policy);
        bulk_commit();
        bulk_wait<0>();
    }
}

static const struct {
    CUtensorMapDataType type;
    Element e;
    u32 bytes;
    bool is_float;
} tensor_types[] = {
    {CU_TENSOR_MAP_DATA_TYPE_UINT8, U32, 1, false},  {CU_TENSOR_MAP_DATA_TYPE_UINT16, U32, 2, false},
    {CU_TENSOR_MAP_DATA_TYPE_UINT32, U32, 4, false}, {CU_TENSOR_MAP_DATA_TYPE_INT32, S32, 4, false},
    {CU_TENSOR_MAP_DATA_TYPE_UINT64, U64, 8, false}, {CU_TENSOR_MAP_DATA_TYPE_INT64, S64, 8, false},
    {CU_TENSOR_MAP_DATA_TYPE_FLOAT16, F16, 2, true}, {CU_TENSOR_MAP_DATA_TYPE_FLOAT32, F32, 4, true},
    {CU_TENSOR_MAP_DATA_TYPE_FLOAT64, F64, 8, true}, {CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, BF16, 2, true},
};
static bool is_nan_of(const u8 *p, u32 size, Element e) {
    u64 x = 0;
    memcpy(&x, p, size);
    u32 mantissa = e == F16 ? 10 : e == BF16 ? 7 : e == F32 ? 23 : 52;
    u64 exponents = ((1ull << (8 * size - 1 - mantissa)) - 1) << mantissa;
    return (x & exponents) == exponents && (x & ((1ull << mantissa) - 1));
}

/* A tensor with a map, and where a box of it lies. */
struct Box : Encode {
    int what;
    u32 size, row_bytes, rows, offset;
    u64 total;
    Coordinates at;
    Box(u64 *rng, int rank_, int type_, int swizzle_, bool nan) {
        what = type_, rank = (u32)rank_, type = tensor_types[what].type, size = tensor_types[what].bytes;
        swizzle = (CUtensorMapSwizzle)swizzle_;
        if (nan && tensor_types[what].is_float) fill = CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA;
        row_bytes = swizzle_ ? 16u << swizzle_ : 16 * (1 + (u32)fat_below(rng, (int)(16 * size)));
        box[0] = row_bytes / size, rows = 1;
        for (int d = 1; d < rank_; d++) {
            box[d] = 1 + (u32)fat_below(rng, rank_ == 2 ? 40 : 5);
            if (rows * box[d] * row_bytes > 65536) box[d] = 1;
            rows *= box[d];
        }
        for (int d = 0; d < rank_; d++) {
            dim[d] = 1 + (u64)fat_below(rng, d ? 12 : 2 * (int)box[0]);
            at.c[d] = fat_below(rng, 3) ? fat_below(rng, (int)dim[d]) - fat_below(rng, 3)
                                        : -(int)box[d] + fat_below(rng, (int)dim[d] + 2 * (int)box[d]);
        }
        total = dim[0] * size;
        for (int d = 0; d + 1 < rank_; d++) {
            stride[d] = (total + 15) / 16 * 16 + 16 * (u64)fat_below(rng, 3);
            total = stride[d] * dim[d + 1];
        }
        offset = (swizzle_ ? 128u << swizzle_ : 128) * (u32)fat_below(rng, 3);
    }
    u32 bytes() const { return rows * row_bytes; }
    /* Calls f(byte in shared memory, from offset; byte in the tensor, -1: outside) for each element. */
    template <class F> void each_element(F f) const {
        for (u32 r = 0; r < rows; r++)
            for (u32 i = 0; i < box[0]; i++) {
                int64_t x = (int64_t)at.c[0] + i, global = x * size;
                bool inside = x >= 0 && x < (int64_t)dim[0];
                u32 left = r;
                for (u32 d = 1; d < rank; d++) {
                    int64_t y = (int64_t)at.c[d] + left % box[d];
                    left /= box[d];
                    inside = inside && y >= 0 && y < (int64_t)dim[d];
                    global += y * (int64_t)stride[d - 1];
                }
                u32 a = offset + r * row_bytes + i * size;
                if (swizzle) a ^= (a >> 7 & ((1u << swizzle) - 1)) << 4;
                f(a - offset, inside ? global : -1);
            }
    }
};
template <class F> static void with_rank(int rank, F f) {
    if (rank == 1) f(std::integral_constant<int, 1>());
    if (rank == 2) f(std::integral_constant<int, 2>());
    if (rank == 3) f(std::integral_constant<int, 3>());
    if (rank == 4) f(std::integral_constant<int, 4>());
    if (rank == 5) f(std::integral_constant<int, 5>());
}

FA_TEST(tensor_loads) {
    u64 rng = fat_seed;
    for (int trial = 0; trial < 240; trial++) {
        Box b(&rng, 1 + trial % 5, trial % 10, trial / 10 % 4, fat_below(&rng, 2));
        std::vector<u8> data = random_bytes(b.total, (u64)trial), want(b.bytes());
        Device<u8> tensor(data), out(b.bytes());
        if (!FA_EXPECT(b(tensor.p) == CUDA_SUCCESS)) return;
        u64 inside = 0;
        std::vector<u32> nans;
        b.each_element([&](u32 at, int64_t from) {
            if (from >= 0)
                memcpy(&want[at], &data[(size_t)from], b.size);
            else if (b.fill)
                nans.push_back(at);
            inside += from >= 0 ? b.size : 0;
        });
        with_rank((int)b.rank, [&](auto r) {
            launch(box_load<r()>, 1, 64, 1, b.offset + b.bytes(), b.map[0], b.at, b.offset, b.bytes(), out.p,
                   trial / 40);
        });
        if (!finished()) return;
        std::vector<u8> got = out.host();
        for (u32 at : nans) {
            FA_EXPECT_MSG(is_nan_of(&got[at], b.size, tensor_types[b.what].e),
                          "trial %d: byte %u is not filled with NaN", trial, at);
            memset(&got[at], 0, b.size);
        }
        if (!same_bytes(got, want, "box")) {
            printf("# trial %d: rank %u, type %d, swizzle %d\n", trial, b.rank, b.what, (int)b.swizzle);
            return;
        }
        FA_EXPECT(ptx_counter("tma_load_bytes") == inside);
    }
}

FA_TEST(tensor_stores) {
    u64 rng = fat_seed;
    for (int trial = 0; trial < 120; trial++) {
        Box b(&rng, 1 + trial % 5, trial % 10, trial / 10 % 4, false);
        std::vector<u8> data = random_bytes(b.total, (u64)trial),
                        tile = random_bytes(b.bytes(), (u64)trial + 500), want = data;
        Device<u8> tensor(data), in(tile);
        if (!FA_EXPECT(b(tensor.p) == CUDA_SUCCESS)) return;
        u64 inside = 0;
        b.each_element([&](u32 at, int64_t to) {
            if (to >= 0) memcpy(&want[(size_t)to], &tile[at], b.size), inside += b.size;
        });
        with_rank((int)b.rank, [&](auto r) {
            launch(box_store<r()>, 1, 64, 1, b.offset + b.bytes(), b.map[0], b.at, b.offset, b.bytes(),
                   (const u8 *)in.p, trial / 5 % STORE_FORMS);
        });
        if (!finished() || !same_bytes(tensor.host(), want, "tensor")) return;
        FA_EXPECT(ptx_counter("tma_store_bytes") == inside);
    }
}

FA_TEST(tensor_reductions) {
    u64 rng = fat_seed;
    for (int op = ADD; op <= XOR; op++)
        for (int what = 2; what < 10; what++) {
            Element e = tensor_types[what].e;
            bool integer = e <= S64;
            bool allowed = op == ADD                ? e != S64 && e != F64
                           : op == MIN || op == MAX ? e != F32 && e != F64
                           : op <= DEC              ? e == U32
                                                    : integer;
            if (!allowed) continue;
            Box b(&rng, 1 + (op + what) % 5, what, (op + what) % 4, false);
            std::vector<u8> data = random_elements((b.total + 7) / 8 * 8, e, (u64)what),
                            tile = random_elements(b.bytes(), e, (u64)op + 77), want = data;
            Device<u8> tensor(data), in(tile);
            if (!FA_EXPECT(b(tensor.p) == CUDA_SUCCESS)) return;
            b.each_element([&](u32 at, int64_t to) {
                if (to < 0) return;
                std::vector<u8> old(&want[(size_t)to], &want[(size_t)to] + b.size);
                reduce_model(old, &tile[at], e, (Op)op);
                memcpy(&want[(size_t)to], old.data(), b.size);
            });
            with_rank((int)b.rank, [&](auto r) {
                launch(box_store<r()>, 1, 64, 1, b.offset + b.bytes(), b.map[0], b.at, b.offset, b.bytes(),
                       (const u8 *)in.p, STORE_FORMS + op);
            });
            if (!finished() || !same_bytes(tensor.host(), want, "reduced tensor")) {
                printf("# op %d, type %d\n", op, what);
                return;
            }
        }
}

/* ---- rings of producers and consumers ------------------------------------------------------------------ */

/* Warp 0 of each CTA produces tiles of 32 rows of 64 bf16 (128-byte swizzling), each CTA its share of the
 * rows, multicast to the whole cluster; two warps consume. Element (r, c) of a stage is at r * 128 + c *
 * 2, its 16-byte chunk xored with r % 8. */
enum { RING_ROWS = 32, RING_STAGE = RING_ROWS * 128 };
template <int STAGES>
__global__ void tensor_ring(const __grid_constant__ CUtensorMap map, int tiles, u32 *out) {
    extern __shared__ __align__(1024) u8 stage[];
    __shared__ __align__(8) u64 full[STAGES], empty[STAGES];
    u32 t = threadIdx.x, warp = t / 32, lane = t % 32, rank = cluster_rank(), ctas, rows;
    asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(ctas));
    rows = RING_ROWS / ctas;
    if (t == 0) {
        for (int s = 0; s < STAGES; s++) mbar_init(smem(&full[s]), 1), mbar_init(smem(&empty[s]), 2 * ctas);
        fence_init();
    }
    cluster_sync();
    if (warp == 0) {
        for (int i = 0; i < tiles && lane == 0; i++) {
            u32 s = (u32)i % STAGES, round = (u32)i / STAGES;
            mbar_wait(smem(&empty[s]), (round + 1) & 1);
            mbar_expect(smem(&full[s]), RING_STAGE);
            asm volatile(
                "cp.async.bulk.tensor.3d.shared::cluster.global" TX ".multicast::cluster [%0], [%1, {%2, %3, "
                "%4}], [%5], %6;" ::"r"(smem(stage) + s * RING_STAGE + rank * rows * 128),
                "l"(&map), "r"(0), "r"(rank * rows), "r"(i), "r"(smem(&full[s])), "h"((u16)((1u << ctas) - 1))
                : "memory");
        }
    } else {
        u32 sum = 0;
        for (int i = 0; i < tiles; i++) {
            u32 s = (u32)i % STAGES;
            mbar_wait(smem(&full[s]), (u32)i / STAGES & 1);
            for (u32 r = warp - 1; r < RING_ROWS; r += 2)
                for (u32 h = 0; h < 2; h++) {
                    u32 c = lane + 32 * h;
                    sum = sum * 31 + *(const u16 *)(stage + s * RING_STAGE + r * 128 +
                                                    ((c / 8) ^ (r % 8)) * 16 + c % 8 * 2);
                }
            fence_async(); /* before the stage is overwritten */
            __syncwarp();
            if (lane < ctas)
                asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(
                                 mapa(smem(&empty[s]), lane))
                             : "memory");
        }
        out[rank * 64 + t - 32] = sum;
    }
    cluster_sync(); /* no CTA may end while others arrive at its mbarriers */
}
template <int STAGES> static void check_ring(int ctas, int tiles) {
    std::vector<u8> data = random_bytes((size_t)std::max(tiles, 1) * RING_STAGE, (u64)tiles);
    std::vector<u32> want((size_t)ctas * 64);
    for (u32 t = 0; t < want.size(); t++)
        for (int i = 0; i < tiles; i++)
            for (u32 r = t % 64 / 32; r < RING_ROWS; r += 2)
                for (u32 h = 0; h < 2; h++) {
                    u16 x;
                    memcpy(&x, &data[(size_t)i * RING_STAGE + r * 128 + (t % 32 + 32 * h) * 2], 2);
                    want[t] = want[t] * 31 + x;
                }
    Device<u8> in(data);
    Device<u32> out(want.size());
    Encode e;
    e.box[1] = RING_ROWS / (u32)ctas, e.box[2] = 1;
    e.dim[1] = RING_ROWS, e.dim[2] = (u64)std::max(tiles, 1), e.stride[1] = RING_STAGE;
    if (!FA_EXPECT(e(in.p) == CUDA_SUCCESS)) return;
    launch(tensor_ring<STAGES>, ctas, 96, ctas, STAGES * RING_STAGE, e.map[0], tiles, out.p);
    if (finished()) FA_EXPECT_MSG(out.host() == want, "%d stages, %d CTAs, %d tiles", STAGES, ctas, tiles);
}
FA_TEST(rings_of_tensor_copies) {
    for (int ctas : {1, 2, 4})
        for (int tiles : {0, 1, 2, 3, 4, 7, 12})
            check_ring<1>(ctas, tiles), check_ring<2>(ctas, tiles), check_ring<3>(ctas, tiles);
}

/* ---- setmaxnreg, griddepcontrol ------------------------------------------------------------------------ */

__global__ __launch_bounds__(384, 1) void register_pool(u32 *out) {
    u32 group = threadIdx.x / 128;
    if (group == 0)
        asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
    else
        asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
    __syncthreads(); /* or the next instruction could take registers that the last one waits for */
    if (group == 0)
        asm volatile("setmaxnreg.inc.sync.aligned.u32 184;"); /* when both others have given back 80 */
    else
        asm volatile("setmaxnreg.dec.sync.aligned.u32 160;");
    atomicAdd(&out[group], 1);
}
FA_TEST(setmaxnreg_moves_registers) {
    Device<u32> out(3);
    register_pool<<<2, 384>>>(out.p);
    if (finished()) FA_EXPECT((out.host() == std::vector<u32>{256, 256, 256}));
}

__global__ void grid_primary(u32 *x) {
    asm volatile("griddepcontrol.launch_dependents;");
    x[threadIdx.x] = threadIdx.x + 1;
}
__global__ void grid_dependent(const u32 *x, u32 *y) {
    u32 before = threadIdx.x * 2;
    asm volatile("griddepcontrol.wait;" ::: "memory");
    y[threadIdx.x] = before + x[threadIdx.x];
}
FA_TEST(griddepcontrol_waits_for_the_primary_grid) {
    Device<u32> x(64), y(64);
    cudaLaunchAttribute a = {};
    a.id = cudaLaunchAttributeProgrammaticStreamSerialization,
    a.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t c = {};
    c.gridDim = dim3(1), c.blockDim = dim3(64), c.attrs = &a, c.numAttrs = 1;
    cudaLaunchKernelEx(&c, grid_primary, x.p);
    cudaLaunchKernelEx(&c, grid_dependent, (const u32 *)x.p, y.p);
    if (!finished()) return;
    std::vector<u32> got = y.host();
    for (u32 i = 0; i < 64; i++) FA_EXPECT_MSG(got[i] == 3 * i + 1, "%u: %u", i, got[i]);
}

/* ---- planted bugs: each is found, at its line ---------------------------------------------------------- */

/* Notes the line that a finding must name: AT(bug) what_is_wrong(); */
struct Bug {
    u8 *memory; /* 64 KiB */
    int *line;
    CUtensorMap map; /* 3-D, bf16: 64 x 8 x 4, boxes of 64 x 4 x 2, 128-byte swizzling */
};
#define AT_BY(thread, bug) (threadIdx.x == thread ? (void)(*(bug).line = __LINE__) : (void)0),
#define AT(bug) AT_BY(0, bug)
#define ASM(...) [&] { asm volatile(__VA_ARGS__); }()
#define ASM_AT(bug, ...) AT(bug) ASM(__VA_ARGS__)
#define BUG(name) __global__ __launch_bounds__(256, 1) void name(const __grid_constant__ Bug bug)
#define ONE_THREAD if (threadIdx.x == 0)
#define BAR \
    __shared__ __align__(8) u64 bar_[2]; \
    u32 bar = smem(bar_)
#define TILE \
    extern __shared__ __align__(1024) u8 tile[]; \
    u32 at = smem(tile)
DEV void box_to(u32 to, const Bug &bug, u32 b) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global" TX
                 " [%0], [%1, {%2, %2, %2}], [%3];" ::"r"(to),
                 "l"(&bug.map), "r"(0), "r"(b)
                 : "memory");
}
enum { BOX = 64 * 4 * 2 * 2 };

BUG(over_arrival) {
    BAR;
    ONE_THREAD {
        mbar_init(bar, 2), mbar_arrive(bar);
        ASM_AT(bug, "mbarrier.arrive.shared::cta.b64 _, [%0], 2;" ::"r"(bar));
    }
}
BUG(too_many_bytes) {
    BAR;
    ONE_THREAD {
        mbar_init(bar, 4);
        mbar_expect(bar, 1 << 19);
        AT(bug) mbar_expect(bar, 1 << 19);
    }
}
BUG(init_twice) {
    BAR;
    ONE_THREAD {
        mbar_init(bar, 1);
        AT(bug) mbar_init(bar, 1);
    }
}
BUG(count_of_zero) {
    BAR;
    ONE_THREAD { AT(bug) mbar_init(bar, 0); }
}
BUG(never_initialised) {
    BAR;
    ONE_THREAD {
        mbar_init(bar, 1);
        AT(bug) mbar_arrive(bar + 8);
    }
}
BUG(used_after_inval) {
    BAR;
    ONE_THREAD {
        mbar_init(bar, 1), mbar_inval(bar);
        AT(bug) mbar_arrive(bar);
    }
}
BUG(misaligned_mbarrier) {
    BAR;
    ONE_THREAD {
        mbar_init(bar, 1);
        AT(bug) mbar_arrive(bar + 4);
    }
}
BUG(mbarrier_overwritten) {
    BAR;
    ONE_THREAD {
        mbar_init(bar, 1);
        ((volatile u32 *)bar_)[1] = 5;
        AT(bug) mbar_arrive(bar);
    }
}
BUG(remote_wait) {
    BAR;
    ONE_THREAD mbar_init(bar, 1);
    cluster_sync();
    ONE_THREAD { AT(bug) mbar_wait(mapa(bar, cluster_rank() ^ 1), 1); }
    cluster_sync();
}
BUG(inval_with_waiter) {
    BAR;
    ONE_THREAD mbar_init(bar, 2);
    __syncthreads();
    if (threadIdx.x == 32) mbar_wait(bar, 0);
    if (threadIdx.x == 0) {
        for (int i = 0; i < 3000; i++) __nanosleep(10); /* until the other waits */
        AT(bug) mbar_inval(bar);
    }
}
BUG(parity_came_round) {
    BAR;
    ONE_THREAD {
        mbar_init(bar, 1), mbar_arrive(bar), mbar_arrive(bar);
        AT(bug) mbar_wait(bar, 0);
    }
}
BUG(no_complete_completes) {
    BAR;
    ONE_THREAD {
        u64 state;
        mbar_init(bar, 2);
        ASM_AT(bug, "mbarrier.arrive.noComplete.shared::cta.b64 %0, [%1], 2;" : "=l"(state) : "r"(bar));
    }
}
BUG(old_state) {
    BAR;
    ONE_THREAD {
        u64 state;
        mbar_init(bar, 1);
        asm volatile("mbarrier.arrive.shared::cta.b64 %0, [%1];" : "=l"(state) : "r"(bar));
        mbar_arrive(bar);
        ASM_AT(bug, "{ .reg .pred p; mbarrier.test_wait.shared::cta.b64 p, [%1], %0; }" ::"l"(state),
               "r"(bar));
    }
}
BUG(arrival_missing) {
    BAR;
    ONE_THREAD mbar_init(bar, 33);
    __syncthreads();
    if (threadIdx.x < 32) mbar_arrive(bar);
    AT(bug) mbar_wait(bar, 0);
}
BUG(init_without_barrier) {
    BAR;
    if (threadIdx.x == 32) mbar_init(bar, 1);
    if (threadIdx.x == 0) {
        for (int i = 0; i < 3000; i++) __nanosleep(10);
        AT(bug) mbar_arrive(bar);
    }
}
BUG(init_without_fence) {
    BAR;
    TILE;
    ONE_THREAD {
        mbar_init(bar, 1), mbar_expect(bar, BOX);
        AT(bug) box_to(at, bug, bar);
    }
    __syncthreads();
    mbar_wait(bar, 0);
}
BUG(relaxed_arrival_hands_on_nothing) {
    BAR;
    TILE;
    (void)at;
    ONE_THREAD mbar_init(bar, 1);
    __syncthreads();
    if (threadIdx.x == 32) {
        tile[0] = 1;
        asm volatile("mbarrier.arrive.relaxed.cta.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
    }
    if (threadIdx.x == 0) {
        mbar_wait(bar, 0);
        AT(bug) bug.memory[0] = tile[0];
    }
}
BUG(relaxed_wait_learns_nothing) {
    BAR;
    TILE;
    (void)at;
    ONE_THREAD mbar_init(bar, 1);
    __syncthreads();
    if (threadIdx.x == 32) tile[0] = 1, mbar_arrive(bar);
    if (threadIdx.x == 0) {
        relaxed_wait(bar, 0);
        AT(bug) bug.memory[0] = tile[0];
    }
}
BUG(cp_arrival_of_one_lane) {
    BAR;
    TILE;
    ONE_THREAD mbar_init(bar, 1);
    __syncthreads();
    if (threadIdx.x < 32) cp_async16(at + threadIdx.x * 16, bug.memory + threadIdx.x * 16);
    ONE_THREAD asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(bar) : "memory");
    if (threadIdx.x >= 32) mbar_wait(bar, 0);
    if (threadIdx.x == 32) bug.memory[32768] = tile[0]; /* that of thread 0 */
    __syncthreads();
    AT(bug) bug.memory[32768 + threadIdx.x] = tile[threadIdx.x * 8];
    cp_commit(), cp_wait<0>();
}
BUG(bytes_never_expected) {
    BAR;
    TILE;
    ONE_THREAD {
        mbar_init(bar, 1), fence_init();
        mbar_arrive(bar);
        AT(bug) box_to(at, bug, bar);
        mbar_wait(bar, 0);
    }
}
BUG(bytes_never_copied) {
    BAR;
    ONE_THREAD {
        mbar_init(bar, 2);
        AT(bug) mbar_expect(bar, 64);
    }
}
BUG(too_many_bytes_expected) {
    BAR;
    TILE;
    ONE_THREAD {
        mbar_init(bar, 1), fence_init();
        mbar_expect(bar, BOX + 16);
        box_to(at, bug, bar);
    }
    __syncthreads();
    AT(bug) mbar_wait(bar, 0);
}
BUG(copy_nobody_waits_for) {
    BAR;
    TILE;
    ONE_THREAD {
        mbar_init(bar, 1), fence_init();
        mbar_expect(bar, BOX);
        AT(bug) box_to(at, bug, bar);
    }
}
BUG(box_read_too_early) {
    BAR;
    TILE;
    ONE_THREAD {
        mbar_init(bar, 1), fence_init();
        mbar_expect(bar, BOX);
        box_to(at, bug, bar);
        AT(bug) bug.memory[0] = tile[5];
        mbar_wait(bar, 0);
    }
}
BUG(box_overwritten_while_read) {
    BAR;
    TILE;
    ONE_THREAD mbar_init(bar, 1), fence_init();
    __syncthreads();
    ONE_THREAD mbar_expect(bar, BOX), box_to(at, bug, bar);
    mbar_wait(bar, 0);
    bug.memory[threadIdx.x] = tile[threadIdx.x * 4];
    if (threadIdx.x == 0) {
        mbar_expect(bar, BOX);
        AT(bug) box_to(at, bug, bar);
        mbar_wait(bar, 1);
    }
}
BUG(box_over_generic_reads_without_fence) {
    BAR;
    TILE;
    ONE_THREAD mbar_init(bar, 1), fence_init();
    __syncthreads();
    ONE_THREAD mbar_expect(bar, BOX), box_to(at, bug, bar);
    mbar_wait(bar, 0);
    bug.memory[threadIdx.x] = tile[threadIdx.x * 4];
    __syncthreads();
    ONE_THREAD {
        mbar_expect(bar, BOX);
        AT(bug) box_to(at, bug, bar);
        mbar_wait(bar, 1);
    }
}
BUG(box_over_a_box_in_flight) {
    BAR;
    TILE;
    ONE_THREAD {
        mbar_init(bar, 1), fence_init();
        mbar_expect(bar, 2 * BOX);
        box_to(at, bug, bar);
        AT(bug) box_to(at, bug, bar);
        mbar_wait(bar, 0);
    }
}
BUG(box_of_unfenced_global_data) {
    BAR;
    TILE;
    ONE_THREAD {
        mbar_init(bar, 1), fence_init();
        mbar_expect(bar, BOX);
        bug.memory[5] = 1;
        AT(bug) box_to(at, bug, bar);
        mbar_wait(bar, 0);
    }
}
BUG(misaligned_box) {
    BAR;
    TILE;
    ONE_THREAD {
        mbar_init(bar, 1), fence_init(), mbar_expect(bar, BOX);
        AT(bug) box_to(at + 64, bug, bar);
    }
}
BUG(box_off_the_swizzle_atom) {
    BAR;
    TILE;
    ONE_THREAD {
        mbar_init(bar, 1), fence_init(), mbar_expect(bar, BOX);
        AT(bug) box_to(at + 512, bug, bar);
    }
}
BUG(box_beyond_shared_memory) {
    BAR;
    TILE;
    ONE_THREAD {
        mbar_init(bar, 1), fence_init(), mbar_expect(bar, BOX);
        AT(bug) box_to(at + 8192, bug, bar);
    }
}
BUG(wrong_rank) {
    BAR;
    TILE;
    ONE_THREAD {
        mbar_init(bar, 1), fence_init(), mbar_expect(bar, BOX);
        ASM_AT(bug, "cp.async.bulk.tensor.2d.shared::cta.global" TX " [%0], [%1, {%2, %2}], [%3];" ::"r"(at),
               "l"(&bug.map), "r"(0), "r"(bar));
    }
}
BUG(no_tensor_map) {
    BAR;
    TILE;
    ONE_THREAD {
        mbar_init(bar, 1), fence_init(), mbar_expect(bar, BOX);
        ASM_AT(bug, "cp.async.bulk.tensor.1d.shared::cta.global" TX " [%0], [%1, {%2}], [%3];" ::"r"(at),
               "l"(bug.memory), "r"(0), "r"(bar));
    }
}
BUG(odd_bulk_size) {
    BAR;
    TILE;
    ONE_THREAD {
        mbar_init(bar, 1), fence_init(), mbar_expect(bar, 24);
        AT(bug) bulk_load(at, bug.memory, 24, bar);
    }
}
BUG(odd_bulk_address) {
    BAR;
    TILE;
    ONE_THREAD {
        mbar_init(bar, 1), fence_init(), mbar_expect(bar, 32);
        AT(bug) bulk_load(at, bug.memory + 8, 32, bar);
    }
}
BUG(bulk_out_of_bounds) {
    BAR;
    TILE;
    ONE_THREAD {
        mbar_init(bar, 1), fence_init(), mbar_expect(bar, 32);
        AT(bug) bulk_load(at, bug.memory + 65536 - 16, 32, bar);
        mbar_wait(bar, 0);
    }
}
BUG(multicast_to_nobody) {
    BAR;
    TILE;
    ONE_THREAD {
        mbar_init(bar, 1), fence_init(), mbar_expect(bar, 32);
        ASM_AT(bug,
               "cp.async.bulk.shared::cluster.global" TX
               ".multicast::cluster [%0], [%1], 32, [%2], %3;" ::"r"(at),
               "l"(bug.memory), "r"(bar), "h"((u16)4));
    }
    cluster_sync();
}
BUG(store_without_fence) {
    TILE;
    tile[threadIdx.x] = 1;
    __syncthreads();
    ONE_THREAD {
        AT(bug) bulk_store(bug.memory, at, 64);
        bulk_commit(), bulk_wait<0>();
    }
}
BUG(store_source_overwritten) {
    TILE;
    tile[threadIdx.x] = 1;
    fence_async();
    __syncthreads();
    ONE_THREAD {
        bulk_store(bug.memory, at, 64);
        bulk_commit();
        AT(bug) tile[3] = 2;
        bulk_wait<0>();
    }
}
BUG(store_left_behind) {
    TILE;
    tile[threadIdx.x] = 1;
    fence_async();
    __syncthreads();
    ONE_THREAD {
        AT(bug) bulk_store(bug.memory, at, 64);
        bulk_commit();
    }
}
BUG(store_not_committed) {
    TILE;
    tile[threadIdx.x] = 1;
    fence_async();
    __syncthreads();
    ONE_THREAD {
        AT(bug) bulk_store(bug.memory, at, 64);
        bulk_wait<0>();
    }
}
BUG(stored_data_read_after_wait_for_reads) {
    TILE;
    tile[threadIdx.x] = 1;
    fence_async();
    __syncthreads();
    ONE_THREAD {
        bulk_store(bug.memory, at, 64);
        bulk_commit(), bulk_wait_read<0>();
        AT(bug) bug.memory[100] = ((volatile u8 *)bug.memory)[7];
        bulk_wait<0>();
    }
}
BUG(bulk_wait_too_short) {
    TILE;
    tile[threadIdx.x] = 1;
    fence_async();
    __syncthreads();
    ONE_THREAD {
        bulk_store(bug.memory, at, 64), bulk_commit();
        bulk_store(bug.memory + 64, at + 64, 64), bulk_commit();
        bulk_wait_read<1>();
        tile[5] = 1;
        AT(bug) tile[70] = 2;
        bulk_wait<0>();
    }
}
BUG(cp_read_without_wait) {
    TILE;
    cp_async16(at + threadIdx.x * 16, bug.memory + threadIdx.x * 16);
    AT(bug) bug.memory[32768 + threadIdx.x] = tile[threadIdx.x * 16];
    cp_commit(), cp_wait<0>();
}
BUG(cp_wait_too_short) {
    TILE;
    cp_async16(at + threadIdx.x * 16, bug.memory + threadIdx.x * 16), cp_commit();
    cp_async16(at + 4096 + threadIdx.x * 16, bug.memory + threadIdx.x * 16), cp_commit();
    cp_wait<1>();
    bug.memory[32768 + threadIdx.x] = tile[threadIdx.x * 16];
    AT(bug) bug.memory[33768 + threadIdx.x] = tile[4096 + threadIdx.x * 16];
    cp_wait<0>();
}
BUG(cp_read_by_others_without_barrier) {
    TILE;
    cp_async16(at + threadIdx.x * 16, bug.memory + threadIdx.x * 16), cp_commit();
    cp_wait<0>();
    AT(bug) bug.memory[32768 + threadIdx.x] = tile[(threadIdx.x ^ 32) * 16];
}
BUG(cp_waited_for_by_one_lane) {
    TILE;
    cp_async16(at + threadIdx.x * 16, bug.memory + threadIdx.x * 16), cp_commit();
    if (threadIdx.x % 32 == 0) cp_wait<0>();
    __syncwarp();
    AT(bug) bug.memory[32768 + threadIdx.x] = tile[threadIdx.x * 16];
    cp_wait<0>();
}
BUG(cp_never_waited_for) {
    TILE;
    AT(bug) cp_async16(at + threadIdx.x * 16, bug.memory + threadIdx.x * 16);
    cp_commit();
}
BUG(cp_source_overwritten) {
    TILE;
    cp_async16(at + threadIdx.x * 16, bug.memory + threadIdx.x * 16), cp_commit();
    AT(bug) bug.memory[threadIdx.x * 16] = 1;
    cp_wait<0>();
}
BUG(cp_source_size_too_big) {
    TILE;
    u32 size = threadIdx.x == 7 ? 17 : 16;
    ASM_AT(bug, "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at + threadIdx.x * 16), "l"(bug.memory),
           "r"(size));
    cp_wait<0>();
}
BUG(cp_misaligned) {
    TILE;
    AT(bug) cp_async16(at + threadIdx.x * 8, bug.memory);
    cp_wait<0>();
}
BUG(registers_beyond_the_pool) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 232;");
    __syncthreads();
    ASM_AT(bug, "setmaxnreg.inc.sync.aligned.u32 256;");
}
BUG(setmaxnreg_differs) {
    if (threadIdx.x < 32)
        asm volatile("setmaxnreg.dec.sync.aligned.u32 232;");
    else
        AT_BY(32, bug) ASM("setmaxnreg.dec.sync.aligned.u32 224;");
}
BUG(setmaxnreg_twice_without_barrier) {
    if (threadIdx.x >= 32) __nanosleep(10);
    asm volatile("setmaxnreg.dec.sync.aligned.u32 232;");
    ASM_AT(bug, "setmaxnreg.dec.sync.aligned.u32 224;");
    __syncthreads();
}
BUG(setmaxnreg_by_one_warp) {
    if (threadIdx.x < 32) {
        ASM_AT(bug, "setmaxnreg.dec.sync.aligned.u32 232;");
    }
}
__global__ __launch_bounds__(128) void setmaxnreg_without_bounds(const __grid_constant__ Bug bug) {
    ASM_AT(bug, "setmaxnreg.dec.sync.aligned.u32 24;");
}
BUG(remote_arrival_at_an_ended_cta) {
    BAR;
    ONE_THREAD mbar_init(bar, 1);
    cluster_sync();
    if (cluster_rank() == 0) return;
    ONE_THREAD {
        for (int i = 0; i < 3000; i++) __nanosleep(10);
        ASM_AT(bug, "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(mapa(bar, 0)));
    }
}

struct Planted {
    void (*kernel)(const Bug);
    const char *name, *says; /* a|b: b if async work comes as late as possible, else one of them */
    int ctas, threads;
};
#define PLANTED(name, says, ctas, threads) \
    { name, #name, says, ctas, threads }
/* clang-format off */
static const Planted planted[] = {
    PLANTED(over_arrival, "over-arrival", 1, 32),
    PLANTED(too_many_bytes, "2^20-1", 1, 32),
    PLANTED(init_twice, "initialised again", 1, 32),
    PLANTED(count_of_zero, "count 0", 1, 32),
    PLANTED(never_initialised, "mbarrier.init is missing", 1, 32),
    PLANTED(used_after_inval, "it was invalidated", 1, 32),
    PLANTED(misaligned_mbarrier, "not a multiple of 8", 1, 32),
    PLANTED(mbarrier_overwritten, "overwritten", 1, 32),
    PLANTED(remote_wait, "remote CTA", 2, 32),
    PLANTED(inval_with_waiter, "while a warp waits", 1, 64),
    PLANTED(parity_came_round, "come round again", 1, 32),
    PLANTED(no_complete_completes, "noComplete", 1, 32),
    PLANTED(old_state, "not of the current phase", 1, 32),
    PLANTED(arrival_missing, "1 of 33 arrivals pending", 1, 64),
    PLANTED(init_without_barrier, "a barrier is missing", 1, 64),
    PLANTED(init_without_fence, "missing fence.mbarrier_init", 1, 32),
    PLANTED(relaxed_arrival_hands_on_nothing, "race", 1, 64),
    PLANTED(relaxed_wait_learns_nothing, "race", 1, 64),
    PLANTED(cp_arrival_of_one_lane, "asynchronous operation", 1, 64),
    PLANTED(bytes_never_expected, "more have been copied", 1, 32),
    PLANTED(bytes_never_copied, "64 bytes expected have not been copied", 1, 32),
    PLANTED(too_many_bytes_expected, "16 bytes outstanding", 1, 32),
    PLANTED(copy_nobody_waits_for, "nobody waited for phase 0", 1, 32),
    PLANTED(box_read_too_early, "asynchronous operation|read too early", 1, 32),
    PLANTED(box_overwritten_while_read, "read", 1, 64),
    PLANTED(box_over_generic_reads_without_fence, "fence.proxy.async", 1, 64),
    PLANTED(box_over_a_box_in_flight, "race (write after write)", 1, 32),
    PLANTED(box_of_unfenced_global_data, "fence.proxy.async", 1, 32),
    PLANTED(misaligned_box, "multiple of", 1, 32),
    PLANTED(box_off_the_swizzle_atom, "multiple of 1024", 1, 32),
    PLANTED(box_beyond_shared_memory, "out of bounds", 1, 32),
    PLANTED(wrong_rank, "3 dimensions, the instruction 2", 1, 32),
    PLANTED(no_tensor_map, "no tensor map", 1, 32),
    PLANTED(odd_bulk_size, "multiple of 16", 1, 32),
    PLANTED(odd_bulk_address, "multiple of 16", 1, 32),
    PLANTED(bulk_out_of_bounds, "out of bounds", 1, 32),
    PLANTED(multicast_to_nobody, "multicast mask 0x4", 2, 32),
    PLANTED(store_without_fence, "fence.proxy.async", 1, 64),
    PLANTED(store_source_overwritten, "race", 1, 64),
    PLANTED(store_left_behind, "wait_group", 1, 64),
    PLANTED(store_not_committed, "commit_group", 1, 64),
    PLANTED(stored_data_read_after_wait_for_reads, "race", 1, 64),
    PLANTED(bulk_wait_too_short, "race", 1, 128),
    PLANTED(cp_read_without_wait, "asynchronous operation|read too early", 1, 64),
    PLANTED(cp_wait_too_short, "asynchronous operation|read too early", 1, 64),
    PLANTED(cp_read_by_others_without_barrier, "race", 1, 64),
    PLANTED(cp_waited_for_by_one_lane, "asynchronous operation|read too early", 1, 64),
    PLANTED(cp_never_waited_for, "without waiting", 1, 64),
    PLANTED(cp_source_overwritten, "race", 1, 64),
    PLANTED(cp_source_size_too_big, "src-size 17", 1, 32),
    PLANTED(cp_misaligned, "multiple of 16", 1, 32),
    PLANTED(registers_beyond_the_pool, "wants 256", 1, 256),
    PLANTED(setmaxnreg_differs, "different setmaxnreg", 1, 128),
    PLANTED(setmaxnreg_twice_without_barrier, "setmaxnreg again", 1, 128),
    PLANTED(setmaxnreg_by_one_warp, "warps of a warpgroup", 1, 128),
    PLANTED(setmaxnreg_without_bounds, "C7508", 1, 128),
    PLANTED(remote_arrival_at_an_ended_cta, "has ended", 2, 32),
};
/* clang-format on */

FA_TEST(planted_bugs) {
    if (getenv("FA_PTX_CHECKS") && !atoi(getenv("FA_PTX_CHECKS"))) FA_SKIP("checks are off");
    const char *schedule = getenv("FA_PTX_SCHEDULE");
    bool lazy = schedule && !strcmp(schedule, "lazy");
    for (const Planted &p : planted) {
        Device<u8> memory(65536);
        Device<int> line(1);
        Encode e;
        if (!FA_EXPECT(e(memory.p) == CUDA_SUCCESS)) return;
        Bug bug = {memory.p, line.p, e.map[0]};
        ptx_expect_findings(true);
        launch(p.kernel, p.ctas, p.threads, p.ctas, 8192, bug);
        cudaDeviceSynchronize();
        std::string said = ptx_last_findings();
        ptx_expect_findings(false);
        cudaGetLastError();
        char where[64];
        snprintf(where, sizeof where, "test_async.cu:%d", line.host()[0]);
        FA_EXPECT_MSG(said.find(where) != std::string::npos, "%s: nothing found at %s:\n%s", p.name, where,
                      said.c_str());
        std::string says = p.says;
        size_t bar = says.find('|');
        bool first = said.find(says.substr(0, bar)) != std::string::npos;
        bool second = bar != std::string::npos && said.find(says.substr(bar + 1)) != std::string::npos;
        FA_EXPECT_MSG(lazy && bar != std::string::npos ? second : first || second, "%s: \"%s\" not said:\n%s",
                      p.name, p.says, said.c_str());
    }
}

/* ---- what the machine does not know is refused --------------------------------------------------------- */

template <int WHAT> __global__ void not_supported(const __grid_constant__ CUtensorMap map) {
    TILE;
    BAR;
    u16 offset = 0;
    if (WHAT == 0)
        asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.im2col" TX
                     " [%0], [%1, {%2, %2, %2}], [%3], {%4};" ::"r"(at),
                     "l"(&map), "r"(0), "r"(bar), "h"(offset));
    if (WHAT == 1)
        asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.im2col_no_offs.bulk_group [%1, {%2, %2, "
                     "%2}], [%0];" ::"r"(at),
                     "l"(&map), "r"(0));
    if (WHAT == 2)
        asm volatile("cp.async.bulk.prefetch.tensor.3d.L2.global.im2col [%1, {%2, %2, %2}], {%3};" ::"r"(at),
                     "l"(&map), "r"(0), "h"(offset));
}
template <int WHAT> static void check_refused(const char *opcode) {
    ptx_expect_findings(true);
    not_supported<WHAT><<<1, 32>>>(CUtensorMap());
    cudaDeviceSynchronize();
    std::string said = ptx_last_findings();
    ptx_expect_findings(false);
    cudaGetLastError();
    FA_EXPECT_MSG(said.find("unsupported opcode") != std::string::npos &&
                      said.find(opcode) != std::string::npos,
                  "%s: %s", opcode, said.c_str());
}
FA_TEST(refused_forms) {
    check_refused<0>("im2col");
    check_refused<1>("im2col_no_offs");
    check_refused<2>("im2col");
}
#endif /* HAS_90 */

FA_TEST_MAIN
