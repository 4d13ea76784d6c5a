// test_findings.cu - does the machine report what is wrong, at the right lines, and nothing else?
//
// Each kernel has a template parameter BUG. With BUG = 0 it is right and must be silent; with another number one thing is
// missing, and the finding must be of the right kind and name both lines. Lines are marked in this file by comments
// "@name", and the program carries its own source to look them up.
//
// Accesses are plain ones: volatile would make them strong, and strong accesses do not race with one another.
#include "ptx_test.h"
#include <cooperative_groups.h>
#include <cuda_runtime.h>
#include <initializer_list>
#include <string>


#define HOPPER (__CUDA_ARCH_LIST__ >= 900)

#ifndef __CUDA_ARCH__
asm(".pushsection .rodata\nptx_findings_source:\n.incbin \"" __FILE__ "\"\n.byte 0\n.popsection");
#endif
extern "C" const char ptx_findings_source[];

// "test_findings.cu:N" of the line that ends in the mark.
static std::string place(const char *mark) {
    std::string tail = std::string("// @") + mark + "\n";
    const char *at = strstr(ptx_findings_source, tail.c_str());
    if (!at) return std::string("no line is marked @") + mark;
    int line = 1;
    for (const char *c = ptx_findings_source; c < at; c++) line += *c == '\n';
    return "test_findings.cu:" + std::to_string(line);
}

// Has one finding of the text the kind and all the marked places?
static bool finding(const std::string &text, const char *kind, std::initializer_list<const char *> marks) {
    for (size_t at = text.find("ptx: "); at != std::string::npos;) {
        size_t end = text.find("ptx: ", at + 1);
        std::string one = text.substr(at, end == std::string::npos ? end : end - at);
        bool all = one.find(kind) != std::string::npos;
        for (const char *mark : marks) {
            std::string p = place(mark);
            size_t found = one.find(p);
            all = all && found != std::string::npos && !isdigit((unsigned char)one[found + p.size()]);
        }
        if (all) return true;
        at = end;
    }
    return false;
}

static cudaError_t last_error;

template <class Launch> static std::string findings_of(Launch launch) {
    ptx_expect_findings(true);
    launch();
    last_error = cudaGetLastError();
    cudaError_t waited = cudaDeviceSynchronize();
    if (last_error == cudaSuccess) last_error = waited;
    std::string text = ptx_last_findings();
    ptx_expect_findings(false);
    cudaGetLastError();
    return text;
}

static void silent(const std::string &text) {
    FA_EXPECT_MSG(text.empty() && last_error == cudaSuccess, "%s (%s)", text.c_str(), cudaGetErrorString(last_error));
}
static void finds(const std::string &text, const char *kind, std::initializer_list<const char *> marks) {
    FA_EXPECT_MSG(finding(text, kind, marks), "no \"%s\" at %s%s%s in: %s", kind,
                  marks.size() ? place(*marks.begin()).c_str() : "", marks.size() > 1 ? " and " : "",
                  marks.size() > 1 ? place(marks.begin()[1]).c_str() : "", text.c_str());
    FA_EXPECT(last_error != cudaSuccess);
}

#define RUN(grid, block, shared, kernel, ...) \
    findings_of([&] { kernel<<<grid, block, shared>>>(__VA_ARGS__); })

static int *ints(size_t n) {
    int *p = NULL;
    cudaMalloc(&p, n * sizeof *p);
    cudaMemset(p, 0, n * sizeof *p);
    return p;
}

__device__ static unsigned shared_address(const void *p) { return (unsigned)__cvta_generic_to_shared(p); }

// ---- barriers of a CTA -----------------------------------------------------------------------------------------------

template <int BUG> __global__ void barrier_raw(int *out) {
    __shared__ int buf[64];
    int t = threadIdx.x;
    buf[t] = 0;
    __syncthreads();
    buf[t] = t; // @barrier_raw.write
    if (!BUG) __syncthreads();
    out[t] = buf[63 - t]; // @barrier_raw.read
}
template <int BUG> __global__ void barrier_war(int *out) {
    __shared__ int buf[64];
    int t = threadIdx.x;
    buf[t] = t;
    __syncthreads();
    int v = buf[63 - t]; // @barrier_war.read
    if (!BUG) __syncthreads();
    buf[t] = v + 1; // @barrier_war.write
    __syncthreads();
    out[t] = buf[t];
}
template <int BUG> __global__ void barrier_waw(int *out) {
    __shared__ int buf[32];
    int t = threadIdx.x;
    if (t < 32) buf[t] = 1; // @barrier_waw.first
    if (!BUG) __syncthreads();
    if (t >= 32) buf[t - 32] = 2; // @barrier_waw.second
    __syncthreads();
    out[t] = buf[t & 31];
}
FA_TEST(missing_syncthreads) {
    int *out = ints(64);
    silent(RUN(1, 64, 0, barrier_raw<0>, out));
    finds(RUN(1, 64, 0, barrier_raw<1>, out), "race (", {"barrier_raw.write", "barrier_raw.read"});
    silent(RUN(1, 64, 0, barrier_war<0>, out));
    finds(RUN(1, 64, 0, barrier_war<1>, out), "race (", {"barrier_war.read", "barrier_war.write"});
    silent(RUN(1, 64, 0, barrier_waw<0>, out));
    finds(RUN(1, 64, 0, barrier_waw<1>, out), "race (write after write)", {"barrier_waw.first", "barrier_waw.second"});
    cudaFree(out);
}

// Warps 0 and 1 meet at barrier 1; the store of warp 2 is in nobody's past.
template <int BUG> __global__ void named(int *out) {
    __shared__ int buf[96];
    int t = threadIdx.x;
    buf[t] = t;                                               // @named.write
    if (t < 64) asm volatile("bar.sync 1, 64;" ::: "memory"); //
    if (!BUG) __syncthreads();
    if (t < 32) out[t] = buf[t + 64]; // @named.read
}
FA_TEST(named_barrier_of_the_wrong_warps) {
    int *out = ints(96);
    silent(RUN(1, 96, 0, named<0>, out));
    finds(RUN(1, 96, 0, named<1>, out), "", {"named.write", "named.read"});
    cudaFree(out);
}

// Producers arrive, consumers wait; the buffer comes back by a second barrier.
template <int BUG> __global__ void arrive(int *out) {
    __shared__ int buf[32];
    int t = threadIdx.x;
    for (int i = 0; i < 3; i++) {
        if (t < 32) {
            if (i && BUG != 2) asm volatile("bar.sync 2, 64;" ::: "memory");
            buf[t] = i + t; // @arrive.write
            if (BUG != 1) asm volatile("bar.arrive 1, 64;" ::: "memory");
        } else {
            if (BUG != 1) asm volatile("bar.sync 1, 64;" ::: "memory");
            out[i * 32 + t - 32] = buf[63 - t]; // @arrive.read
            if (i < 2 && BUG != 2) asm volatile("bar.arrive 2, 64;" ::: "memory");
        }
    }
}
FA_TEST(barriers_with_arrive) {
    int *out = ints(96);
    silent(RUN(1, 64, 0, arrive<0>, out));
    finds(RUN(1, 64, 0, arrive<1>, out), "", {"arrive.write", "arrive.read"});
    finds(RUN(1, 64, 0, arrive<2>, out), "", {});
    cudaFree(out);
}

// Warps 1 and 2 read; the writer meets only one of them.
template <int BUG> __global__ void two_readers(int *out) {
    __shared__ int buf[32];
    int warp = threadIdx.x / 32, t = threadIdx.x & 31;
    if (warp == 0) buf[t] = t;
    __syncthreads();
    for (int i = 0; i < warp; i++) {
        out[threadIdx.x] += buf[t]; // @two_readers.read
        __syncwarp();
    }
    if (warp == 1 && BUG != 1) asm volatile("bar.arrive 1, %0;" ::"r"(BUG ? 64 : 96) : "memory");
    if (warp == 2 && BUG != 2) asm volatile("bar.arrive 1, %0;" ::"r"(BUG ? 64 : 96) : "memory");
    if (warp == 0) {
        asm volatile("bar.sync 1, %0;" ::"r"(BUG ? 64 : 96) : "memory");
        buf[t] = 0; // @two_readers.write
    }
}
FA_TEST(readers_that_the_writer_does_not_know) {
    int *out = ints(96);
    silent(RUN(1, 96, 0, two_readers<0>, out));
    finds(RUN(1, 96, 0, two_readers<1>, out), "race (", {"two_readers.read", "two_readers.write"});
    finds(RUN(1, 96, 0, two_readers<2>, out), "race (", {"two_readers.read", "two_readers.write"});
    cudaFree(out);
}

template <int BUG> __global__ void divergent(int *out) {
    int t = threadIdx.x;
    if (BUG && t == 5) {
        out[1] = 1;
        __syncthreads(); // @divergent.one
        out[2] = 1;
    } else {
        out[3] = 1;
        __syncthreads(); // @divergent.others
    }
    if (t == 0) out[0] = 1;
}
template <int BUG> __global__ void mismatch(int *out) {
    if (threadIdx.x < 32) {
        asm volatile("bar.sync 1, 64;"); // @mismatch.first
    } else if (BUG) {
        asm volatile("bar.sync 1, 96;"); // @mismatch.second
    } else {
        asm volatile("bar.sync 1, 64;");
    }
    out[threadIdx.x] = 1;
}
template <int BUG> __global__ void deadlock(int *out) {
    if (threadIdx.x < 32 || !BUG) asm volatile("bar.sync 1, 64;"); // @deadlock.wait
    if (threadIdx.x >= 32) asm volatile("bar.sync 2, 32;");
    out[threadIdx.x] = 1;
}
FA_TEST(barriers_that_do_not_meet) {
    int *out = ints(128);
    silent(RUN(1, 32, 0, divergent<0>, out));
    finds(RUN(1, 32, 0, divergent<1>, out), "", {"divergent.one"});
    silent(RUN(1, 64, 0, mismatch<0>, out));
    finds(RUN(1, 96, 0, mismatch<1>, out), "barrier 1", {"mismatch.first", "mismatch.second"});
    silent(RUN(1, 64, 0, deadlock<0>, out));
    finds(RUN(1, 64, 0, deadlock<1>, out), "deadlock", {"deadlock.wait"});
    cudaFree(out);
}

// ---- lanes of a warp -------------------------------------------------------------------------------------------------

template <int BUG> __global__ void lanes_raw(int *out) {
    __shared__ int buf[32];
    int t = threadIdx.x;
    buf[t] = t; // @lanes_raw.write
    if (!BUG) __syncwarp();
    out[t] = buf[31 - t]; // @lanes_raw.read
}
template <int BUG> __global__ void lanes_war(int *out) {
    __shared__ int buf[32];
    int t = threadIdx.x;
    buf[t] = t;
    __syncwarp();
    int v = buf[31 - t]; // @lanes_war.read
    if (!BUG) __syncwarp();
    buf[t] = v + 1; // @lanes_war.write
    __syncwarp();
    out[t] = buf[t];
}
template <int BUG> __global__ void lanes_same_word(int *out) {
    __shared__ int buf[1];
    int t = threadIdx.x;
    buf[0] = BUG ? t : 7; // @lanes_same_word.write
    __syncwarp();
    out[t] = buf[0];
}
// bytes and halves of one word belong to different lanes
__global__ void lanes_share_words(short *out) {
    __shared__ short half[64];
    __shared__ char byte[64];
    int t = threadIdx.x;
    half[t] = (short)t, byte[t] = (char)t;
    half[t] += byte[t];
    __syncthreads();
    half[t] += byte[63 - t];
    out[t] = half[t];
}
// halves of a warp that go their own ways and meet by __syncwarp(mask)
template <int BUG> __global__ void lanes_halves(int *out) {
    __shared__ int buf[32];
    int t = threadIdx.x;
    buf[t] = t; // @lanes_halves.write
    if (t < 16) {
        __syncwarp(0xffff);
        out[t] = buf[15 - t];
    } else {
        __syncwarp(0xffff0000);
        out[t] = buf[BUG ? 31 - t : 47 - t]; // @lanes_halves.read
    }
}
// ldmatrix reads rows that other lanes have written; stores after it come after all lanes' reads.
template <int BUG> __global__ void lanes_matrix(int *out) {
    __shared__ alignas(128) int buf[64];
    int t = threadIdx.x, a, b;
    buf[t] = t, buf[t + 32] = -t; // @lanes_matrix.write
    if (!BUG) __syncwarp();
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];" : "=r"(a), "=r"(b) : "r"(shared_address(buf + t % 16 * 4)) : "memory"); // @lanes_matrix.read
    buf[t] = a + b;
    __syncwarp();
    out[t] = buf[31 - t];
}
FA_TEST(missing_syncwarp) {
    int *out = ints(64);
    silent(RUN(1, 32, 0, lanes_raw<0>, out));
    finds(RUN(1, 32, 0, lanes_raw<1>, out), "__syncwarp()", {"lanes_raw.write", "lanes_raw.read"});
    silent(RUN(1, 32, 0, lanes_war<0>, out));
    finds(RUN(1, 32, 0, lanes_war<1>, out), "__syncwarp()", {"lanes_war.write", "lanes_war.read"});
    silent(RUN(1, 32, 0, lanes_same_word<0>, out));
    finds(RUN(1, 32, 0, lanes_same_word<1>, out), "race of lanes (write after write)", {"lanes_same_word.write"});
    silent(RUN(1, 64, 0, lanes_share_words, (short *)out));
    silent(RUN(1, 32, 0, lanes_halves<0>, out));
    finds(RUN(1, 32, 0, lanes_halves<1>, out), "__syncwarp()", {"lanes_halves.write", "lanes_halves.read"});
    silent(RUN(1, 32, 0, lanes_matrix<0>, out));
    finds(RUN(1, 32, 0, lanes_matrix<1>, out), "__syncwarp()", {"lanes_matrix.write", "lanes_matrix.read"});
    cudaFree(out);
}

// ---- clusters --------------------------------------------------------------------------------------------------------

#if HOPPER
template <int BUG> __global__ void __cluster_dims__(2) remote(int *out) {
    __shared__ int buf[32];
    auto cluster = cooperative_groups::this_cluster();
    int t = threadIdx.x;
    buf[t] = 0;
    cluster.sync();
    buf[t] = t; // @remote.write
    if (!BUG) cluster.sync();
    int v = cluster.map_shared_rank(buf, cluster.block_rank() ^ 1)[t]; // @remote.read
    cluster.sync();
    out[blockIdx.x * 32 + t] = v;
}
// CTA 1 writes into CTA 0 and arrives at its mbarrier. BUG 1: the arrival is relaxed and orders nothing.
template <int BUG> __global__ void __cluster_dims__(2) remote_arrive(int *out) {
    __shared__ int buf[32];
    __shared__ unsigned long long full;
    auto cluster = cooperative_groups::this_cluster();
    int t = threadIdx.x;
    if (t == 0) asm volatile("mbarrier.init.shared::cta.b64 [%0], 32;" ::"r"(shared_address(&full)) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    cluster.sync();
    if (cluster.block_rank() == 1) {
        cluster.map_shared_rank(buf, 0)[t] = t; // @remote_arrive.write
        if (BUG) {
            asm volatile("{ .reg .b32 a; mapa.shared::cluster.u32 a, %0, 0; mbarrier.arrive.relaxed.cluster.shared::cluster.b64 _, [a]; }" ::"r"(shared_address(&full)) : "memory");
        } else {
            asm volatile("{ .reg .b32 a; mapa.shared::cluster.u32 a, %0, 0; mbarrier.arrive.release.cluster.shared::cluster.b64 _, [a]; }" ::"r"(shared_address(&full)) : "memory");
        }
    } else {
        asm volatile("{ .reg .pred p; AGAIN: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%0], 0; @!p bra AGAIN; }" ::"r"(shared_address(&full)) : "memory");
        out[t] = buf[31 - t]; // @remote_arrive.read
    }
    cluster.sync();
}
FA_TEST(missing_cluster_barrier) {
    int *out = ints(64);
    silent(RUN(2, 32, 0, remote<0>, out));
    finds(RUN(2, 32, 0, remote<1>, out), "race (", {"remote.write", "remote.read"});
    silent(RUN(2, 32, 0, remote_arrive<0>, out));
    finds(RUN(2, 32, 0, remote_arrive<1>, out), "", {"remote_arrive.write", "remote_arrive.read"});
    cudaFree(out);
}
#endif

// ---- device memory ---------------------------------------------------------------------------------------------------

template <int BUG> __global__ void same_word(int *out) {
    if (threadIdx.x == 0) out[BUG ? 0 : blockIdx.x] = (int)blockIdx.x; // @same_word.write
}
template <int BUG> __global__ void in_place(int *data) {
    int i = (int)(blockIdx.x * 32 + threadIdx.x);
    int left = BUG ? data[(i + 127) % 128] : data[i]; // @in_place.read
    data[i] = left + 1;                               // @in_place.write
}
__global__ void all_atomic(int *out) {
    atomicAdd(&out[threadIdx.x & 3], 1);
    atomicMax(&out[4], (int)threadIdx.x);
    __shared__ int sum;
    if (threadIdx.x == 0) sum = 0;
    __syncthreads();
    atomicAdd(&sum, 1);
    __syncthreads();
    if (threadIdx.x == 0) atomicAdd(&out[5], sum);
}
FA_TEST(races_of_ctas) {
    int *out = ints(128);
    silent(RUN(4, 32, 0, same_word<0>, out));
    finds(RUN(4, 32, 0, same_word<1>, out), "race (write after write)", {"same_word.write"});
    silent(RUN(4, 32, 0, in_place<0>, out));
    finds(RUN(4, 32, 0, in_place<1>, out), "race (", {"in_place.read", "in_place.write"});
    silent(RUN(4, 64, 0, all_atomic, out));
    silent(RUN(1, 32, 0, in_place<0>, out)); // grids of a stream are in order
    cudaFree(out);
}

// Atomics of one CTA and a plain read of another one.
template <int BUG> __global__ void mixed(int *count, int *out) {
    if (blockIdx.x == 0)
        atomicAdd(count, 1); // @mixed.atomic
    else
        *out = BUG ? *count : atomicAdd(count, 0); // @mixed.read
}
FA_TEST(atomic_and_plain_access) {
    int *p = ints(64);
    silent(RUN(2, 1, 0, mixed<0>, p, p + 32));
    std::string text = RUN(2, 1, 0, mixed<1>, p, p + 32);
    finds(text, "one of the two is a plain access", {"mixed.atomic", "mixed.read"});
    cudaFree(p);
}

// The last CTA to finish sums what all have written. BUG 1: nothing releases the sums, BUG 2: nothing acquires them.
template <int BUG> __global__ void last_cta(int *sums, int *count, int *out) {
    __shared__ bool last;
    if (threadIdx.x == 0) {
        sums[blockIdx.x] = (int)blockIdx.x; // @last_cta.write
        if (BUG != 1) __threadfence();
        last = atomicAdd(count, 1) == (int)gridDim.x - 1;
        if (BUG != 2) __threadfence();
    }
    __syncthreads();
    if (last && threadIdx.x < gridDim.x) atomicAdd(out, sums[threadIdx.x]); // @last_cta.read
}
// All threads write and fence, the barrier is between the fence and the atomic; and the same in reverse.
__global__ void last_cta_all_fence(int *sums, int *count, int *out) {
    __shared__ bool last;
    sums[blockIdx.x * 64 + threadIdx.x] = 1;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last = atomicAdd(count, 1) == (int)gridDim.x - 1;
    __syncthreads();
    if (!last) return;
    __threadfence();
    int sum = 0;
    for (unsigned i = 0; i < gridDim.x; i++) sum += sums[i * 64 + 63 - threadIdx.x];
    atomicAdd(out, sum);
}
FA_TEST(last_cta_done) {
    int *p = ints(1024), result[2] = {0};
    silent(RUN(4, 64, 0, last_cta<0>, p + 8, p, p + 1));
    cudaMemcpy(result, p, sizeof result, cudaMemcpyDefault);
    FA_EXPECT_MSG(result[0] == 4 && result[1] == 6, "%d %d", result[0], result[1]);
    cudaMemset(p, 0, 4096);
    finds(RUN(4, 64, 0, last_cta<1>, p + 8, p, p + 1), "race (read after write)", {"last_cta.write", "last_cta.read"});
    cudaMemset(p, 0, 4096);
    finds(RUN(4, 64, 0, last_cta<2>, p + 8, p, p + 1), "race (read after write)", {"last_cta.write", "last_cta.read"});
    cudaMemset(p, 0, 4096);
    silent(RUN(4, 64, 0, last_cta_all_fence, p + 8, p, p + 1));
    cudaMemcpy(result, p, sizeof result, cudaMemcpyDefault);
    FA_EXPECT_MSG(result[1] == 256, "%d", result[1]);
    cudaFree(p);
}

// A counter for each tile; warps run ahead to the next tile while thread 0 still counts this one.
template <int BUG> __global__ void tile_counters(int *tiles, int *count, int *out) {
    __shared__ int last;
    for (int tile = 0; tile < 4; tile++) {
        tiles[(tile * gridDim.x + blockIdx.x) * 64 + threadIdx.x] = tile; // @tile_counters.write
        if (!BUG || threadIdx.x == 0) __threadfence();
        if (!BUG) __syncthreads();
        if (threadIdx.x == 0) atomicAdd(count + tile, 1);
    }
    if (blockIdx.x) return;
    for (int tile = 0; tile < 4; tile++) {
        if (threadIdx.x == 0) {
            while (atomicAdd(count + tile, 0) < (int)gridDim.x) {
            }
            __threadfence();
            last = tile;
        }
        __syncthreads();
        for (unsigned i = 0; i < gridDim.x; i++)
            out[threadIdx.x] += tiles[(tile * gridDim.x + i) * 64 + 63 - threadIdx.x] + last; // @tile_counters.read
        __syncthreads();
    }
}
// All lanes store and fence, but nothing orders them before the lane that counts.
template <int BUG> __global__ void lane_counts(int *data, int *count, int *out) {
    if (blockIdx.x == 0) {
        data[threadIdx.x] = 1; // @lane_counts.write
        __threadfence();
        if (!BUG) __syncwarp();
        if (threadIdx.x == 0) atomicExch(count, 1);
    } else {
        while (atomicAdd(count, 0) == 0) {
        }
        __threadfence();
        out[threadIdx.x] = data[31 - threadIdx.x]; // @lane_counts.read
    }
}
// CTA 2 needs the data of both others, and one of these counts at two addresses.
template <int BUG> __global__ void two_counters(int *data, int *count, int *out) {
    if (blockIdx.x < 2) {
        data[blockIdx.x] = 1; // @two_counters.write
        if (!BUG || blockIdx.x) __threadfence();
        if (blockIdx.x) atomicAdd(count + 1, 1);
        atomicAdd(count, 1);
    } else {
        while (atomicAdd(count, 0) < 2) {
        }
        __threadfence();
        *out = data[0] + data[1]; // @two_counters.read
    }
}
// A lock. BUG 1: no fence when it is taken, 2: none before it is given back.
template <int BUG> __global__ void lock(int *word, int *value) {
    value[1 + blockIdx.x * blockDim.x + threadIdx.x] = 1;
    if (threadIdx.x % 32 == 0) {
        while (atomicCAS(word, 0, 1) != 0) {
        }
        if (BUG != 1) __threadfence();
        *value += 1; // @lock.use
        if (BUG != 2) __threadfence();
        atomicExch(word, 0);
    }
}
FA_TEST(fences_and_atomics) {
    int *p = ints(4096);
    silent(RUN(3, 64, 0, tile_counters<0>, p + 1024, p, p + 512));
    cudaMemset(p, 0, 16384);
    finds(RUN(3, 64, 0, tile_counters<1>, p + 1024, p, p + 512), "race (", {"tile_counters.write", "tile_counters.read"});
    cudaMemset(p, 0, 16384);
    silent(RUN(2, 32, 0, lane_counts<0>, p + 1024, p, p + 512));
    cudaMemset(p, 0, 16384);
    std::string text = RUN(2, 32, 0, lane_counts<1>, p + 1024, p, p + 512);
    finds(text, "race (", {"lane_counts.write", "lane_counts.read"});
    cudaMemset(p, 0, 16384);
    for (int ctas = 1; ctas <= 3; ctas++) {
        silent(RUN(ctas, 128, 0, lock<0>, p, p + 512));
        finds(RUN(ctas, 128, 0, lock<1>, p, p + 512), "race (", {"lock.use"});
        finds(RUN(ctas, 128, 0, lock<2>, p, p + 512), "race (", {"lock.use"});
    }
    cudaMemset(p, 0, 16384);
    silent(RUN(3, 1, 0, two_counters<0>, p + 1024, p, p + 512));
    cudaMemset(p, 0, 16384);
    finds(RUN(3, 1, 0, two_counters<1>, p + 1024, p, p + 512), "race (", {"two_counters.write", "two_counters.read"});
    cudaFree(p);
}

// ld.global.nc reads what the same thread (BUG 1) or, behind a barrier, another one (BUG 2) has written; or an earlier grid.
template <int BUG> __global__ void not_coherent(int *data, int *out) {
    int t = threadIdx.x, v;
    if (BUG) data[t] = t; // @not_coherent.write
    __syncthreads();
    asm volatile("ld.global.nc.u32 %0, [%1];" : "=r"(v) : "l"(data + (BUG == 2 ? 63 - t : t)) : "memory"); // @not_coherent.read
    out[t] = v;
}
// It may be written when it has been read.
__global__ void read_then_written(int *data, int *out) {
    int t = threadIdx.x;
    out[t] = __ldg(data + t);
    data[t] = 1;
}
FA_TEST(data_that_are_not_constant) {
    int *p = ints(128);
    finds(RUN(1, 64, 0, not_coherent<1>, p, p + 64), "not constant (read after write)",
          {"not_coherent.write", "not_coherent.read"});
    finds(RUN(1, 64, 0, not_coherent<2>, p, p + 64), "not constant (read after write)",
          {"not_coherent.write", "not_coherent.read"});
    silent(RUN(1, 64, 0, not_coherent<0>, p, p + 64));
    silent(RUN(1, 64, 0, read_then_written, p, p + 64));
    cudaFree(p);
}

// CTA 0 tells CTA 1 by a flag. BUG 1: plain accesses of the flag; BUG 2: strong, but relaxed.
template <int BUG> __global__ void message(int *data, int *flag, int *out) {
    if (blockIdx.x == 0) {
        *data = 42; // @message.write
        if (BUG == 1) asm volatile("st.global.u32 [%0], 1;" ::"l"(flag) : "memory"); // @message.flag
        if (BUG == 2) asm volatile("st.relaxed.gpu.global.u32 [%0], 1;" ::"l"(flag) : "memory");
        if (BUG == 0) asm volatile("st.release.gpu.global.u32 [%0], 1;" ::"l"(flag) : "memory");
        return;
    }
    int seen = 0;
    while (!seen) {
        if (BUG == 1) asm volatile("ld.global.u32 %0, [%1];" : "=r"(seen) : "l"(flag) : "memory"); // @message.poll
        if (BUG == 2) asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(flag) : "memory");
        if (BUG == 0) asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(flag) : "memory");
    }
    *out = *data; // @message.read
}
FA_TEST(message_by_a_flag) {
    int *p = ints(64);
    silent(RUN(2, 1, 0, message<0>, p, p + 16, p + 32));
    cudaMemset(p, 0, 256);
    std::string text = RUN(2, 1, 0, message<1>, p, p + 16, p + 32);
    finds(text, "race (", {"message.flag", "message.poll"});
    finds(text, "race (", {"message.write", "message.read"});
    cudaMemset(p, 0, 256);
    finds(RUN(2, 1, 0, message<2>, p, p + 16, p + 32), "race (", {"message.write", "message.read"});
    cudaFree(p);
}

// All CTAs meet twice in the middle of a grid.
__global__ void grid_barrier(int *data, int *count) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
    for (unsigned round = 1; round <= 2; round++) {
        int v = data[(i + 33) % n];
        for (int half = 0; half < 2; half++) {
            __syncthreads();
            if (threadIdx.x == 0) {
                __threadfence();
                atomicAdd(count, 1);
                int want = (int)((2 * round - 1 + (unsigned)half) * gridDim.x);
                while (*(volatile int *)count < want) {
                }
                __threadfence();
            }
            __syncthreads();
            if (half == 0) data[i] = v + 1;
        }
    }
}
FA_TEST(barrier_of_a_grid) {
    int *p = ints(256);
    silent(RUN(3, 64, 0, grid_barrier, p + 16, p));
    cudaFree(p);
}

// ---- dependent grids -------------------------------------------------------------------------------------------------

#if HOPPER
__global__ void primary(int *data) {
    data[threadIdx.x] = (int)threadIdx.x + 1; // @primary.write
}
template <int BUG> __global__ void dependent(const int *data, int *out) {
    if (!BUG) asm volatile("griddepcontrol.wait;" ::: "memory");
    out[threadIdx.x] = data[threadIdx.x]; // @dependent.read
}
template <int BUG> __global__ void reader(const int *data, int *out) {
    out[threadIdx.x] = data[threadIdx.x] + BUG; // @reader.read
}
template <int BUG> __global__ void overwriter(const int *, int *data) {
    if (!BUG) asm volatile("griddepcontrol.wait;" ::: "memory");
    data[threadIdx.x] = 7; // @overwriter.write
}
// One thread waits, and tells the others by a barrier.
__global__ void one_waits(const int *data, int *out) {
    if (threadIdx.x == 0) asm volatile("griddepcontrol.wait;" ::: "memory");
    __syncthreads();
    out[threadIdx.x] = data[31 - threadIdx.x];
}
template <class Kernel> static void launch_dependent(Kernel kernel, const int *data, int *out) {
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = 1, config.blockDim = 32, config.attrs = &attribute, config.numAttrs = 1;
    cudaLaunchKernelEx(&config, kernel, data, out);
}
FA_TEST(missing_griddepcontrol_wait) {
    int *p = ints(64), result = 0;
    silent(findings_of([&] { primary<<<1, 32>>>(p), launch_dependent(dependent<0>, p, p + 32); }));
    cudaMemcpy(&result, p + 63, sizeof result, cudaMemcpyDefault);
    FA_EXPECT_MSG(result == 32, "%d", result);
    finds(findings_of([&] { primary<<<1, 32>>>(p), launch_dependent(dependent<1>, p, p + 32); }), "griddepcontrol.wait",
          {"primary.write", "dependent.read"});
    silent(findings_of([&] { primary<<<1, 32>>>(p), launch_dependent(one_waits, p, p + 32); }));
    silent(findings_of([&] { reader<0><<<1, 32>>>(p, p + 32), launch_dependent(overwriter<0>, p, p); }));
    finds(findings_of([&] { reader<0><<<1, 32>>>(p, p + 32), launch_dependent(overwriter<1>, p, p); }),
          "griddepcontrol.wait", {"reader.read", "overwriter.write"});
    silent(findings_of([&] { // the host has waited: there is nothing to overlap with
        primary<<<1, 32>>>(p);
        cudaDeviceSynchronize();
        launch_dependent(dependent<1>, p, p + 32);
    }));
    cudaFree(p);
}
#endif

// ---- values that nobody has written ----------------------------------------------------------------------------------

template <int BUG> __global__ void shared_value(int *out) {
    __shared__ int filler[4], buf[32];
    int t = threadIdx.x;
    if (t < 4) filler[t] = t;
    if (t < 31 || !BUG) buf[t] = t;
    __syncthreads();
    out[t] = buf[t] + filler[t & 3]; // @shared_value.read
}
template <int BUG> __global__ void register_value(int *out) {
    int v, t = threadIdx.x;
    if (BUG)
        asm volatile("{ .reg .u32 x; .reg .pred p; setp.lt.u32 p, %1, 7; @p mov.u32 x, 1; add.u32 %0, x, 1; }" : "=r"(v) : "r"(t)); // @register_value.use
    else
        asm volatile("{ .reg .u32 x; mov.u32 x, 1; add.u32 %0, x, 1; }" : "=r"(v));
    out[t] = v;
}
__global__ void guard_value(int *out) {
    int v = 0, t = threadIdx.x;
    asm volatile("{ .reg .u32 x; .reg .pred p, q; setp.lt.u32 p, %1, 7; @p setp.lt.u32 q, %1, 3; @p mov.u32 x, 1; @q add.u32 %0, x, 1; }" : "+r"(v) : "r"(t)); // @guard_value.use
    out[t] = v;
}
FA_TEST(uninitialised) {
    int *out = ints(32);
    silent(RUN(1, 32, 0, shared_value<0>, out));
    std::string text = RUN(1, 32, 0, shared_value<1>, out);
    finds(text, "uninitialised", {"shared_value.read"});
    finds(text, "+124", {"shared_value.read"});
    finds(text, "thread 31", {"shared_value.read"});
    silent(RUN(1, 32, 0, register_value<0>, out));
    text = RUN(1, 32, 0, register_value<1>, out);
    finds(text, "uninitialised", {"register_value.use"});
    finds(text, "lanes ffffff80", {"register_value.use"});
    text = RUN(1, 32, 0, guard_value, out);
    finds(text, "the guard predicate of add.u32", {"guard_value.use"});
    FA_EXPECT(text.find("ptx: ", 1) == std::string::npos); // nothing about x in lanes that do not add
    cudaFree(out);
}

// ---- addresses -------------------------------------------------------------------------------------------------------

__global__ void static_bounds(int *out, int last) {
    __shared__ int buf[64];
    for (int i = 0; i <= last; i++) buf[i] = i; // @static_bounds.write
    out[0] = buf[out[1]];
}
__global__ void dynamic_bounds(int *out, int last) {
    extern __shared__ int dynamic[];
    dynamic[last] = 1;                     // @dynamic_bounds.write
    out[0] = dynamic[last + out[1] + out[2]]; // @dynamic_bounds.read
}
__global__ void global_bounds(int *out, int i, int j) {
    out[i] = 1;        // @global_bounds.write
    out[0] += out[j]; // @global_bounds.read
}
__global__ void alignment(int *out, int i) {
    *(int2 *)(out + i) = make_int2(1, 2); // @alignment.write
}
__constant__ int table[4];
__global__ void constants(int *p) {
    p[0] = 1; // @constants.write
}
__global__ void parameters(const __grid_constant__ int4 p, int *out) {
    asm volatile("st.u32 [%0], %1;" ::"l"(&p), "r"(1) : "memory"); // @parameters.write
    out[0] = p.x;
}
FA_TEST(addresses) {
    int *out = ints(64);
    silent(RUN(1, 1, 0, static_bounds, out, 63));
    finds(RUN(1, 1, 0, static_bounds, out, 64), "out of bounds", {"static_bounds.write"});
    cudaMemset(out, 0, 256);
    silent(RUN(1, 1, 256, dynamic_bounds, out, 63));
    finds(RUN(1, 1, 256, dynamic_bounds, out, 64), "out of bounds", {"dynamic_bounds.write"});
    int one = 1;
    cudaMemcpy(out + 1, &one, sizeof one, cudaMemcpyDefault);
    finds(RUN(1, 1, 256, dynamic_bounds, out, 63), "out of bounds", {"dynamic_bounds.read"});
    silent(RUN(1, 1, 0, global_bounds, out, 63, 63));
    finds(RUN(1, 1, 0, global_bounds, out, 64, 0), "0 bytes behind the end", {"global_bounds.write"});
    finds(RUN(1, 1, 0, global_bounds, out, 0, -1), "4 bytes before", {"global_bounds.read"});
    finds(RUN(1, 1, 0, global_bounds, (int *)NULL, 1, 0), "null pointer", {"global_bounds.write"});
    silent(RUN(1, 1, 0, alignment, out, 2));
    finds(RUN(1, 1, 0, alignment, out, 1), "misaligned", {"alignment.write"});
    int *constant = NULL;
    cudaGetSymbolAddress((void **)&constant, table);
    silent(RUN(1, 1, 0, constants, out));
    finds(RUN(1, 1, 0, constants, constant), "read-only", {"constants.write"});
    finds(RUN(1, 1, 0, parameters, make_int4(1, 2, 3, 4), out), "read-only", {"parameters.write"});
    cudaFree(out);
    finds(RUN(1, 1, 0, global_bounds, out, 1, 1), "freed", {"global_bounds.write"});
}

// ---- the async proxy and asynchronous copies ---------------------------------------------------------------------------

// cp.async is waited for by its own thread; the others need a barrier. BUG 1: no wait, BUG 2: no barrier.
template <int BUG> __global__ void copy_async(const int *in, int *out) {
    __shared__ alignas(16) int buf[64];
    int t = threadIdx.x;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared_address(buf + t)), "l"(in + t) : "memory"); // @copy_async.copy
    asm volatile("cp.async.commit_group;" ::: "memory");
    if (BUG != 1) asm volatile("cp.async.wait_group 0;" ::: "memory");
    if (BUG != 2) __syncthreads();
    out[t] = buf[63 - t]; // @copy_async.read
}
FA_TEST(cp_async) {
    int *p = ints(128);
    silent(RUN(1, 64, 0, copy_async<0>, p, p + 64));
    finds(RUN(1, 64, 0, copy_async<1>, p, p + 64), "", {"copy_async.copy", "copy_async.read"});
    finds(RUN(1, 64, 0, copy_async<2>, p, p + 64), "", {"copy_async.copy", "copy_async.read"});
    cudaFree(p);
}

#if HOPPER

__device__ static void fence_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
__device__ static void mbarrier_init(unsigned long long *b, int n) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(n) : "memory");
}
__device__ static void mbarrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ static void mbarrier_arrive(unsigned long long *b) {
    asm volatile("{ .reg .b64 s; mbarrier.arrive.shared::cta.b64 s, [%0]; }" ::"r"(shared_address(b)) : "memory");
}
__device__ static void mbarrier_expect(unsigned long long *b, int bytes) {
    asm volatile("{ .reg .b64 s; mbarrier.arrive.expect_tx.shared::cta.b64 s, [%0], %1; }" ::"r"(shared_address(b)),
                 "r"(bytes)
                 : "memory");
}
__device__ static void mbarrier_wait(unsigned long long *b, int parity) {
    asm volatile("{ .reg .pred p; AGAIN: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1; @!p bra AGAIN; }" ::"r"(
                     shared_address(b)),
                 "r"(parity)
                 : "memory");
}

// What threads have stored leaves by a bulk copy. BUG 1: no proxy fence, 2: no barrier, 3: the buffer is reused too early,
// 4: a store after the fence, 5: a fence of device memory.
template <int BUG> __global__ void bulk_store(int *out) {
    __shared__ alignas(128) int buf[64];
    int t = threadIdx.x;
    buf[t] = t; // @bulk_store.write
    if (BUG != 1 && BUG != 5) fence_proxy();
    if (BUG == 5) asm volatile("fence.proxy.async.global;" ::: "memory");
    if (BUG == 4) buf[t] = t; // @bulk_store.late
    if (BUG != 2) __syncthreads();
    if (t == 0) {
        asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], 256;" ::"l"(out), "r"(shared_address(buf)) : "memory"); // @bulk_store.copy
        asm volatile("cp.async.bulk.commit_group;" ::: "memory");
        if (BUG != 3) asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
    }
    __syncthreads();
    buf[t] = 0; // @bulk_store.again
    if (t == 0) asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}
// A fence by the thread that starts the copy, after the barrier, is as good (PTX ISA chapter 8, causality order).
__global__ void bulk_store_late_fence(int *out) {
    __shared__ alignas(128) int buf[64];
    int t = threadIdx.x;
    buf[t] = t;
    __syncthreads();
    if (t == 0) {
        fence_proxy();
        asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], 256;" ::"l"(out), "r"(shared_address(buf))
                     : "memory");
        asm volatile("cp.async.bulk.commit_group;" ::: "memory");
        asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
    }
}
FA_TEST(bulk_store_of_generic_data) {
    int *out = ints(128);
    silent(RUN(1, 64, 0, bulk_store<0>, out));
    finds(RUN(1, 64, 0, bulk_store<1>, out), "missing fence.proxy.async", {"bulk_store.write", "bulk_store.copy"});
    finds(RUN(1, 64, 0, bulk_store<2>, out), "race (", {"bulk_store.write", "bulk_store.copy"});
    finds(RUN(1, 64, 0, bulk_store<3>, out), "race (", {"bulk_store.copy", "bulk_store.again"});
    finds(RUN(1, 64, 0, bulk_store<4>, out), "missing fence.proxy.async", {"bulk_store.late", "bulk_store.copy"});
    finds(RUN(1, 64, 0, bulk_store<5>, out), "missing fence.proxy.async", {"bulk_store.write", "bulk_store.copy"});
    silent(RUN(1, 64, 0, bulk_store_late_fence, out));
    cudaFree(out);
}

// Bulk loads into a buffer that is read by all threads, twice. BUG 1: no proxy fence between the reads and the next load,
// 2: no barrier there, 3: nobody waits for the first load, 4: no fence after mbarrier.init, 5: only warp 0 waits.
template <int BUG> __global__ void bulk_load(const int *in, int *out) {
    __shared__ alignas(128) int buf[64];
    __shared__ unsigned long long full;
    int t = threadIdx.x, sum = 0;
    if (t == 0) {
        mbarrier_init(&full, 1); // @bulk_load.init
        if (BUG != 4) mbarrier_init_fence();
    }
    __syncthreads();
    for (int i = 0; i < 2; i++) {
        if (t == 0) {
            mbarrier_expect(&full, 256);
            asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], 256, [%2];" ::"r"(shared_address(buf)), "l"(in + 64 * i), "r"(shared_address(&full)) : "memory"); // @bulk_load.copy
        }
        if (BUG == 3 ? i : BUG == 5 ? t < 32 : 1) mbarrier_wait(&full, i);
        sum += buf[63 - t]; // @bulk_load.read
        if (BUG != 1) fence_proxy();
        if (BUG != 2) __syncthreads();
    }
    out[t] = sum;
}
FA_TEST(bulk_load_over_generic_reads) {
    int *p = ints(192);
    silent(RUN(1, 64, 0, bulk_load<0>, p, p + 128));
    finds(RUN(1, 64, 0, bulk_load<1>, p, p + 128), "missing fence.proxy.async", {"bulk_load.copy", "bulk_load.read"});
    finds(RUN(1, 64, 0, bulk_load<2>, p, p + 128), "", {"bulk_load.copy", "bulk_load.read"});
    finds(RUN(1, 64, 0, bulk_load<3>, p, p + 128), "", {"bulk_load.copy", "bulk_load.read"});
    finds(RUN(1, 64, 0, bulk_load<4>, p, p + 128), "mbarrier", {"bulk_load.init"});
    finds(RUN(1, 64, 0, bulk_load<5>, p, p + 128), "", {"bulk_load.copy", "bulk_load.read"});
    cudaFree(p);
}

// The same tile by wgmma: A and B are written by all threads. BUG 1: no proxy fence, 2: no barrier, 3: the tile is
// overwritten before wgmma.wait_group.
template <int BUG> __global__ void __launch_bounds__(128) wgmma_tile(float *out) {
    __shared__ alignas(1024) short a[64 * 16], b[8 * 16];
    int t = threadIdx.x;
    for (int i = t; i < 64 * 16; i += 128) a[i] = 0x3f80; // @wgmma_tile.a
    b[t] = 0x3f80;                                        // @wgmma_tile.b
    if (BUG != 1) fence_proxy();
    if (BUG != 2) __syncthreads();
    float d[4] = {0, 0, 0, 0};
    // K-major, no swizzle: LBO 128 bytes between the halves of K, SBO 256 between groups of 8 rows
    unsigned long long strides = 128ull >> 4 << 16 | 256ull >> 4 << 32;
    unsigned long long da = strides | shared_address(a) >> 4, db = strides | shared_address(b) >> 4;
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
    asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, %4, %5, 1, 1, 1, 0, 0;" : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "l"(da), "l"(db)); // @wgmma_tile.mma
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    if (BUG == 3) a[t] = 0; // @wgmma_tile.early
    asm volatile("wgmma.wait_group.sync.aligned 0;" : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])::"memory");
    if (BUG != 3) __syncthreads(), a[t] = 0;
    for (int i = 0; i < 4; i++) out[t * 4 + i] = d[i];
}
FA_TEST(wgmma_of_generic_data) {
    float *out = (float *)ints(512), result = 0;
    silent(RUN(1, 128, 0, wgmma_tile<0>, out));
    cudaMemcpy(&result, out + 511, sizeof result, cudaMemcpyDefault);
    FA_EXPECT_NEAR(result, 16, 0);
    std::string text = RUN(1, 128, 0, wgmma_tile<1>, out);
    finds(text, "missing fence.proxy.async", {"wgmma_tile.a", "wgmma_tile.mma"});
    finds(text, "missing fence.proxy.async", {"wgmma_tile.b", "wgmma_tile.mma"});
    finds(RUN(1, 128, 0, wgmma_tile<2>, out), "race (", {"wgmma_tile.a", "wgmma_tile.mma"});
    finds(RUN(1, 128, 0, wgmma_tile<3>, out), "race (", {"wgmma_tile.mma", "wgmma_tile.early"});
    cudaFree(out);
}

// cp.async writes by the generic proxy, though later: the data leave by a bulk copy. BUG 1: no proxy fence, 2: it comes before
// the wait, 3: one thread fences, which has waited for its own copy only, 4: nobody waits for the copies, 5: the buffer is
// filled again too early. LATE: the thread that starts the bulk copy fences, behind the barrier.
enum { LATE = 100 };
template <int BUG> __global__ void copied_store(const int *in, int *out) {
    __shared__ alignas(128) int buf[64];
    int t = threadIdx.x;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared_address(buf + t)), "l"(in + t) : "memory"); // @copied_store.write
    if (BUG == 2) fence_proxy();
    if (BUG != 4) asm volatile("cp.async.wait_all;" ::: "memory");
    if (BUG == 0 || BUG >= 4 || (BUG == 3 && t == 5)) fence_proxy();
    __syncthreads();
    if (t == 0) {
        if (BUG == LATE) fence_proxy();
        asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], 256;" ::"l"(out), "r"(shared_address(buf)) : "memory"); // @copied_store.copy
        asm volatile("cp.async.bulk.commit_group;" ::: "memory");
        if (BUG != 5) asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
    }
    __syncthreads();
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared_address(buf + t)), "l"(in + t) : "memory"); // @copied_store.again
    asm volatile("cp.async.wait_all;" ::: "memory");
    if (t == 0) asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}
// wgmma reads it, and an mbarrier says when it is there. BUG 1: no proxy fence, 2: it comes before the wait, 3: three of the
// four warps fence, 4: a memory fence instead. LATE: one warp fences, and a barrier follows.
template <int BUG> __global__ void __launch_bounds__(128) copied_wgmma(const short *in, float *out) {
    __shared__ alignas(1024) short a[64 * 16], b[8 * 16];
    __shared__ unsigned long long full;
    int t = threadIdx.x;
    if (t == 0) mbarrier_init(&full, 128);
    __syncthreads();
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(a + 8 * t)), "l"(in + 8 * t) : "memory"); // @copied_wgmma.a
    if (t < 16) asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(b + 8 * t)), "l"(in + 8 * t) : "memory"); // @copied_wgmma.b
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(&full)) : "memory");
    if (BUG == 2) fence_proxy();
    mbarrier_wait(&full, 0);
    if (BUG == 4) __threadfence();
    if (BUG == 0 || (BUG == 3 && t >= 32) || (BUG == LATE && t / 32 == 2)) fence_proxy();
    if (BUG == LATE) __syncthreads();
    float d[4] = {0, 0, 0, 0};
    unsigned long long strides = 128ull >> 4 << 16 | 256ull >> 4 << 32;
    unsigned long long da = strides | shared_address(a) >> 4, db = strides | shared_address(b) >> 4;
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
    asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, %4, %5, 1, 1, 1, 0, 0;" : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "l"(da), "l"(db)); // @copied_wgmma.mma
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    asm volatile("wgmma.wait_group.sync.aligned 0;" : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])::"memory");
    for (int i = 0; i < 4; i++) out[t * 4 + i] = d[i];
}
FA_TEST(fence_behind_cp_async) {
    int *p = ints(1024);
    silent(RUN(1, 64, 0, copied_store<0>, p, p + 64));
    silent(RUN(1, 64, 0, copied_store<LATE>, p, p + 64));
    for (auto kernel : {copied_store<1>, copied_store<2>, copied_store<3>})
        finds(RUN(1, 64, 0, kernel, p, p + 64), "missing fence.proxy.async (read after write)",
              {"copied_store.write", "copied_store.copy"});
    finds(RUN(1, 64, 0, copied_store<4>, p, p + 64), "", {"copied_store.write", "copied_store.copy"});
    finds(RUN(1, 64, 0, copied_store<5>, p, p + 64), "race (", {"copied_store.copy", "copied_store.again"});
    const short *in = (const short *)p;
    float *out = (float *)(p + 512);
    silent(RUN(1, 128, 0, copied_wgmma<0>, in, out));
    silent(RUN(1, 128, 0, copied_wgmma<LATE>, in, out));
    for (auto kernel : {copied_wgmma<1>, copied_wgmma<2>, copied_wgmma<3>, copied_wgmma<4>}) {
        std::string text = RUN(1, 128, 0, kernel, in, out);
        finds(text, "fence.proxy.async after the wait", {"copied_wgmma.a", "copied_wgmma.mma"});
        if (kernel != copied_wgmma<3>) // the warp without a fence reads its rows of A
            finds(text, "missing fence.proxy.async", {"copied_wgmma.b", "copied_wgmma.mma"});
    }
    cudaFree(p);
}

// All other instructions that write shared memory by the generic proxy, from the other CTA of a cluster or by the own one;
// then a bulk copy reads it. BUG: no proxy fence.
enum { ST_ASYNC, RED_ASYNC, ST_REMOTE, RED_REMOTE, ATOM_OWN, STMATRIX, WAYS };
template <int WAY, int BUG> __global__ void __cluster_dims__(2) written_by(int *out) {
    __shared__ alignas(128) int buf[128];
    __shared__ unsigned long long full;
    auto cluster = cooperative_groups::this_cluster();
    int t = threadIdx.x;
    buf[t] = buf[t + 32] = buf[t + 64] = buf[t + 96] = 0;
    if (t == 0) {
        mbarrier_init(&full, 1), mbarrier_init_fence();
        mbarrier_expect(&full, WAY <= RED_ASYNC ? 128 : 0);
    }
    fence_proxy();
    cluster.sync();
    unsigned to, bar, rank = cluster.block_rank();
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(to) : "r"(shared_address(buf + t)), "r"(rank ^ 1));
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(bar) : "r"(shared_address(&full)), "r"(rank ^ 1));
    if (WAY == ST_ASYNC) asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(to), "r"(t), "r"(bar) : "memory"); // @written_by.st_async
    if (WAY == RED_ASYNC) asm volatile("red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.add.u32 [%0], %1, [%2];" ::"r"(to), "r"(t), "r"(bar) : "memory"); // @written_by.red_async
    if (WAY == ST_REMOTE) asm volatile("st.shared::cluster.b32 [%0], %1;" ::"r"(to), "r"(t) : "memory"); // @written_by.st_remote
    if (WAY == RED_REMOTE) asm volatile("red.relaxed.cluster.shared::cluster.add.u32 [%0], %1;" ::"r"(to), "r"(t) : "memory"); // @written_by.red_remote
    if (WAY == ATOM_OWN) atomicAdd(buf + t, t); // @written_by.atom_own
    if (WAY == STMATRIX) asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %1, %1, %1};" ::"r"(shared_address(buf + 4 * t)), "r"(t) : "memory"); // @written_by.stmatrix
    mbarrier_wait(&full, 0);
    cluster.sync();
    if (t == 0) {
        if (!BUG) fence_proxy();
        asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], 128;" ::"l"(out + 32 * rank), "r"(shared_address(buf)) : "memory"); // @written_by.copy
        asm volatile("cp.async.bulk.commit_group;" ::: "memory");
        asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
    }
}
template <int WAY> static void check_written_by(int *out, const char *mark) {
    silent(RUN(2, 32, 0, (written_by<WAY, 0>), out));
    finds(RUN(2, 32, 0, (written_by<WAY, 1>), out), "missing fence.proxy.async (read after write)",
          {mark, "written_by.copy"});
}
FA_TEST(fence_behind_generic_writes_of_all_kinds) {
    int *out = ints(64);
    check_written_by<ST_ASYNC>(out, "written_by.st_async");
    check_written_by<RED_ASYNC>(out, "written_by.red_async");
    check_written_by<ST_REMOTE>(out, "written_by.st_remote");
    check_written_by<RED_REMOTE>(out, "written_by.red_remote");
    check_written_by<ATOM_OWN>(out, "written_by.atom_own");
    check_written_by<STMATRIX>(out, "written_by.stmatrix");
    cudaFree(out);
}

// Device memory: threads of CTA 0 store, a bulk copy of the last CTA loads. BUG 1: no proxy fence, 2: one of shared memory
// only, 3: a fence of all spaces, but by the threads of another warp. LATE: the loading thread fences.
template <int BUG> __global__ void stored_and_loaded(int *data, int *flag, int *out) {
    __shared__ alignas(128) int buf[64];
    __shared__ unsigned long long full;
    int t = threadIdx.x;
    if (t == 0) mbarrier_init(&full, 1), mbarrier_init_fence();
    if (blockIdx.x == 0) {
        data[t] = t; // @stored_and_loaded.write
        if (BUG == 0) asm volatile("fence.proxy.async.global;" ::: "memory");
        if (BUG == 2) asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        if (BUG == 3 && t < 32) asm volatile("fence.proxy.async;" ::: "memory");
        __threadfence();
        __syncthreads();
        if (t == 0) atomicExch(flag, 1);
    }
    if (blockIdx.x == gridDim.x - 1 && t == 0) {
        while (atomicAdd(flag, 0) == 0) {
        }
        __threadfence();
        if (BUG == LATE) asm volatile("fence.proxy.async;" ::: "memory");
        mbarrier_expect(&full, 256);
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], 256, [%2];" ::"r"(shared_address(buf)), "l"(data), "r"(shared_address(&full)) : "memory"); // @stored_and_loaded.copy
        mbarrier_wait(&full, 0);
        for (int i = 0; i < 64; i++) out[i] = buf[i];
    }
}
// And overwritten by a bulk copy when all have read it, by ld or (WAY 1) by cp.async. BUG 1: no proxy fence but one of
// shared memory, 2: no barrier.
template <int WAY, int BUG> __global__ void loaded_and_stored(int *data, int *out) {
    __shared__ alignas(128) int buf[64], copied[64];
    int t = threadIdx.x;
    buf[t] = 7, copied[t] = 0;
    if (WAY == 0) out[t] = data[t]; // @loaded_and_stored.ld
    if (WAY == 1) asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared_address(copied + t)), "l"(data + t) : "memory"); // @loaded_and_stored.cp
    asm volatile("cp.async.wait_all;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    if (BUG != 1) asm volatile("fence.proxy.async.global;" ::: "memory");
    if (BUG != 2) __syncthreads();
    if (t == 0) {
        asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], 256;" ::"l"(data), "r"(shared_address(buf)) : "memory"); // @loaded_and_stored.copy
        asm volatile("cp.async.bulk.commit_group;" ::: "memory");
        asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
    }
}
FA_TEST(proxy_fences_of_device_memory) {
    int *p = ints(192);
    auto reset = [&] { cudaMemset(p + 128, 0, 4); };
    for (int ctas = 1; ctas <= 2; ctas++) {
        silent(RUN(ctas, 64, 0, stored_and_loaded<0>, p, p + 128, p + 64));
        reset();
        silent(RUN(ctas, 64, 0, stored_and_loaded<LATE>, p, p + 128, p + 64));
        reset();
        for (auto kernel : {stored_and_loaded<1>, stored_and_loaded<2>, stored_and_loaded<3>}) {
            finds(RUN(ctas, 64, 0, kernel, p, p + 128, p + 64), "fence.proxy.async.global",
                  {"stored_and_loaded.write", "stored_and_loaded.copy"});
            reset();
        }
    }
    silent(RUN(1, 64, 0, (loaded_and_stored<0, 0>), p, p + 64));
    silent(RUN(1, 64, 0, (loaded_and_stored<1, 0>), p, p + 64));
    finds(RUN(1, 64, 0, (loaded_and_stored<0, 1>), p, p + 64), "fence.proxy.async.global",
          {"loaded_and_stored.ld", "loaded_and_stored.copy"});
    finds(RUN(1, 64, 0, (loaded_and_stored<1, 1>), p, p + 64), "fence.proxy.async.global",
          {"loaded_and_stored.cp", "loaded_and_stored.copy"});
    finds(RUN(1, 64, 0, (loaded_and_stored<0, 2>), p, p + 64), "race (",
          {"loaded_and_stored.ld", "loaded_and_stored.copy"});
    finds(RUN(1, 64, 0, (loaded_and_stored<1, 2>), p, p + 64), "race (",
          {"loaded_and_stored.cp", "loaded_and_stored.copy"});
    cudaFree(p);
}

// fence.mbarrier_init is for mbarriers, and for those of the thread itself. BUG 1: it stands in for a fence.proxy.async, 2:
// another lane executes it, 3: it came before the mbarrier was initialised a second time.
template <int BUG> __global__ void init_fence(const int *in, int *out) {
    __shared__ alignas(128) int buf[64];
    __shared__ unsigned long long full;
    int t = threadIdx.x;
    buf[t] = t; // @init_fence.write
    if (BUG != 1) fence_proxy();
    if (BUG == 2) __syncthreads();
    if (BUG == 3 && t == 0) {
        mbarrier_init(&full, 1), mbarrier_init_fence();
        asm volatile("mbarrier.inval.shared::cta.b64 [%0];" ::"r"(shared_address(&full)) : "memory");
    }
    if (t == 0) mbarrier_init(&full, 1); // @init_fence.init
    if (BUG == 2) __syncwarp();
    if (BUG < 2 || (BUG == 2 && t == 1)) mbarrier_init_fence();
    __syncthreads();
    if (t == 0) {
        mbarrier_expect(&full, 256);
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], 256, [%2];" ::"r"(shared_address(buf)), "l"(in), "r"(shared_address(&full)) : "memory"); // @init_fence.copy
    }
    mbarrier_wait(&full, 0);
    out[t] = buf[t];
}
FA_TEST(mbarrier_init_fences) {
    int *p = ints(128);
    silent(RUN(1, 64, 0, init_fence<0>, p, p + 64));
    finds(RUN(1, 64, 0, init_fence<1>, p, p + 64), "missing fence.proxy.async (write after write)",
          {"init_fence.write", "init_fence.copy"});
    for (auto kernel : {init_fence<2>, init_fence<3>})
        finds(RUN(1, 64, 0, kernel, p, p + 64), "missing fence.mbarrier_init",
              {"init_fence.init", "init_fence.copy"});
    cudaFree(p);
}

// Additions of the async proxy are atomic to one another, but not to those of the generic one.
template <int BUG> __global__ void added(int *sum) {
    __shared__ alignas(128) int buf[32];
    int t = threadIdx.x;
    buf[t] = 1;
    fence_proxy();
    __syncwarp();
    if (BUG && blockIdx.x == 1)
        atomicAdd(sum + t, 1); // @added.atom
    else if (t == 0) {
        asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%0], [%1], 128;" ::"l"(sum), "r"(shared_address(buf)) : "memory"); // @added.bulk
        asm volatile("cp.async.bulk.commit_group;" ::: "memory");
        asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
    }
}
FA_TEST(atomics_of_two_proxies) {
    int *sum = ints(32);
    silent(RUN(3, 32, 0, added<0>, sum));
    finds(RUN(3, 32, 0, added<1>, sum), "not atomic to one another", {"added.atom", "added.bulk"});
    cudaFree(sum);
}

// Warp 0 makes, warp 1 uses, by mbarriers. BUG 1: one lane arrives for the warp without __syncwarp(), 2: the maker does not
// wait until the stage is free.
template <int BUG> __global__ void ring(int *out) {
    __shared__ int buf[2][32];
    __shared__ unsigned long long full[2], empty[2];
    int t = threadIdx.x & 31, warp = threadIdx.x / 32;
    if (threadIdx.x == 0)
        for (int s = 0; s < 2; s++) mbarrier_init(&full[s], 1), mbarrier_init(&empty[s], 32);
    mbarrier_init_fence();
    __syncthreads();
    for (int i = 0; i < 8; i++) {
        int s = i & 1, parity = i / 2 & 1;
        if (warp == 0) {
            if (BUG != 2) mbarrier_wait(&empty[s], parity ^ 1);
            buf[s][t] = i * 32 + t; // @ring.write
            if (BUG != 1) __syncwarp();
            if (t == 0) mbarrier_arrive(&full[s]);
        } else {
            mbarrier_wait(&full[s], parity);
            out[i * 32 + t] = buf[s][31 - t]; // @ring.read
            mbarrier_arrive(&empty[s]);
        }
    }
}
// Each half of a warp waits for a barrier of its own.
template <int BUG> __global__ void halves(int *out) {
    __shared__ int buf[64];
    __shared__ unsigned long long full[2];
    int t = threadIdx.x;
    if (t < 2) mbarrier_init(&full[t], 1);
    mbarrier_init_fence();
    __syncthreads();
    if (t >= 32) {
        int half = t / 32 - 1;
        buf[t - 32] = t; // @halves.write
        __syncwarp();
        if (t % 32 == 0) mbarrier_arrive(&full[half]);
    } else if (t < 16) {
        mbarrier_wait(&full[0], 0);
        out[t] = buf[t];
    } else {
        mbarrier_wait(&full[1], 0);
        out[t] = buf[BUG ? t : t + 32]; // @halves.read
    }
}
// Warp 1 stores and fences, warp 0 counts for it; between them an mbarrier.
template <int BUG> __global__ void other_warp_counts(int *data, int *count, int *out) {
    __shared__ unsigned long long stored;
    if (threadIdx.x == 0) mbarrier_init(&stored, 32);
    __syncthreads();
    if (blockIdx.x == 0) {
        if (threadIdx.x >= 32) {
            data[threadIdx.x] = 1; // @other_warp_counts.write
            if (!BUG) __threadfence();
            mbarrier_arrive(&stored);
        } else {
            mbarrier_wait(&stored, 0);
            if (threadIdx.x == 0) atomicExch(count, 1);
        }
    } else if (threadIdx.x < 32) {
        while (atomicAdd(count, 0) == 0) {
        }
        __threadfence();
        out[threadIdx.x] = data[32 + threadIdx.x]; // @other_warp_counts.read
    }
}
// One thread arrives twice. BUG: nobody waits for the first phase, and who waits for the second one, of the same parity as
// the one before the first, does not notice that it is late.
template <int BUG> __global__ void phases(int *out) {
    __shared__ unsigned long long full;
    int t = threadIdx.x;
    if (t == 0) mbarrier_init(&full, 32);
    __syncwarp();
    for (int phase = 0; phase < 3; phase++) {
        mbarrier_arrive(&full); // @phases.arrive
        if (!BUG || phase != 1) mbarrier_wait(&full, phase & 1);
    }
    out[t] = 1;
}
FA_TEST(mbarrier_phases_that_nobody_waits_for) {
    int *out = ints(32);
    silent(RUN(1, 32, 0, phases<0>, out));
    finds(RUN(1, 32, 0, phases<1>, out), "nobody has waited for phase 1", {"phases.arrive"});
    cudaFree(out);
}
FA_TEST(mbarrier_rings) {
    int *out = ints(256);
    silent(RUN(2, 64, 0, other_warp_counts<0>, out + 64, out, out + 128));
    cudaMemset(out, 0, 1024);
    finds(RUN(2, 64, 0, other_warp_counts<1>, out + 64, out, out + 128), "race (",
          {"other_warp_counts.write", "other_warp_counts.read"});
    silent(RUN(1, 64, 0, ring<0>, out));
    finds(RUN(1, 64, 0, ring<1>, out), "race (", {"ring.write", "ring.read"});
    FA_EXPECT(std::string(ptx_last_findings()).find("ptx: ", 1) == std::string::npos); // once for all its copies
    finds(RUN(1, 64, 0, ring<2>, out), "", {}); // a race, or phases that overtake the reader
    silent(RUN(1, 96, 0, halves<0>, out));
    finds(RUN(1, 96, 0, halves<1>, out), "", {"halves.write", "halves.read"});
    cudaFree(out);
}
#endif

// ---- the report itself -----------------------------------------------------------------------------------------------

__device__ __forceinline__ int take(const int *p, int i) {
    return p[i]; // @inlined.read
}
__global__ void inlined(int *out) {
    __shared__ int buf[32];
    if (threadIdx.x > 40) buf[0] = 1;
    out[threadIdx.x] = take(buf, (int)threadIdx.x); // @inlined.call
}
__global__ void many(int *out) {
    __shared__ int a[64];
    int t = threadIdx.x;
    if (t > 64) a[t] = 1;
    int s = a[0];
    s += a[1] * out[0];
    s += a[2] * out[1];
    s += a[3] * out[2];
    s += a[4] * out[3];
    s += a[5] * out[4];
    s += a[6] * out[5];
    s += a[7] * out[6];
    s += a[8] * out[7];
    s += a[9] * out[8];
    out[t] = s;
}
FA_TEST(report) {
    int *out = ints(64);
    std::string text = RUN(1, 32, 0, inlined, out);
    finds(text, "uninitialised", {"inlined.read", "inlined.call"});
    finds(text, "CTA (0,0,0), warp 0", {});
    finds(text, "inlined(int*)", {});
    FA_EXPECT(text.find("ptx: ", 1) == std::string::npos); // 32 lanes, one finding
    text = RUN(1, 1, 0, many, out);
    finds(text, "the launch ends here, with 8 findings", {});
    cudaFree(out);
}

FA_TEST_MAIN
