// Sum, maximum and histogram of an array: shared memory, warp shuffles, cooperative groups, atomics, a constant
// table, streams and events.
#include <cooperative_groups.h>
#include <cstdio>
#include <cstdlib>
#include <cuda_runtime.h>
#include <vector>

namespace cg = cooperative_groups;

#define CHECK(call)                                                                                         \
    do {                                                                                                    \
        cudaError_t err = (call);                                                                           \
        if (err != cudaSuccess) {                                                                           \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(err));         \
            exit(EXIT_FAILURE);                                                                             \
        }                                                                                                   \
    } while (0)

constexpr int kBins = 16;
constexpr int kThreads = 256;
__constant__ unsigned limits[kBins]; // upper end of each bin

template <typename T> __device__ T block_sum(T value) {
    __shared__ T partial[32];
    cg::thread_block block = cg::this_thread_block();
    cg::thread_block_tile<32> warp = cg::tiled_partition<32>(block);
    for (int offset = warp.size() / 2; offset > 0; offset /= 2) value += warp.shfl_down(value, offset);
    if (warp.thread_rank() == 0) partial[warp.meta_group_rank()] = value;
    block.sync();
    value = threadIdx.x < blockDim.x / 32 ? partial[threadIdx.x] : T(0);
    if (warp.meta_group_rank() == 0)
        for (int offset = warp.size() / 2; offset > 0; offset /= 2) value += warp.shfl_down(value, offset);
    return value;
}

__global__ void reduce(const unsigned *data, size_t n, unsigned long long *sum, unsigned *maximum) {
    unsigned long long mine = 0;
    unsigned top = 0;
    size_t step = (size_t)gridDim.x * blockDim.x;
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += step) {
        mine += data[i];
        top = max(top, data[i]);
    }
    mine = block_sum(mine);
    if (threadIdx.x == 0) atomicAdd(sum, mine);
    atomicMax(maximum, top);
}

__global__ void histogram(const unsigned *data, size_t n, unsigned *bins) {
    __shared__ unsigned local[kBins];
    if (threadIdx.x < kBins) local[threadIdx.x] = 0;
    __syncthreads();
    size_t step = (size_t)gridDim.x * blockDim.x;
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += step) {
        int bin = 0;
        while (data[i] > limits[bin]) bin++;
        atomicAdd(&local[bin], 1u);
    }
    __syncthreads();
    if (threadIdx.x < kBins) atomicAdd(&bins[threadIdx.x], local[threadIdx.x]);
}

int main() {
    const size_t n = 100003;
    std::vector<unsigned> data(n);
    for (auto &x : data) x = (unsigned)rand() % 1000000;

    unsigned ends[kBins];
    for (int i = 0; i < kBins; i++) ends[i] = (i + 1) * (1000000 / kBins) - (i + 1 < kBins);
    CHECK(cudaMemcpyToSymbol(limits, ends, sizeof ends));

    unsigned *d_data, *d_maximum, *d_bins;
    unsigned long long *d_sum;
    CHECK(cudaMalloc(&d_data, n * sizeof *d_data));
    CHECK(cudaMalloc(&d_sum, sizeof *d_sum));
    CHECK(cudaMalloc(&d_maximum, sizeof *d_maximum));
    CHECK(cudaMalloc(&d_bins, kBins * sizeof *d_bins));

    cudaStream_t stream;
    cudaEvent_t start, stop;
    CHECK(cudaStreamCreate(&stream));
    CHECK(cudaEventCreate(&start));
    CHECK(cudaEventCreate(&stop));
    CHECK(cudaMemcpyAsync(d_data, data.data(), n * sizeof *d_data, cudaMemcpyHostToDevice, stream));
    CHECK(cudaMemsetAsync(d_sum, 0, sizeof *d_sum, stream));
    CHECK(cudaMemsetAsync(d_maximum, 0, sizeof *d_maximum, stream));
    CHECK(cudaMemsetAsync(d_bins, 0, kBins * sizeof *d_bins, stream));

    int blocks_per_sm, sms;
    CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks_per_sm, reduce, kThreads, 0));
    CHECK(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, 0));
    int blocks = min(blocks_per_sm * sms, (int)((n + kThreads - 1) / kThreads));
    CHECK(cudaEventRecord(start, stream));
    reduce<<<blocks, kThreads, 0, stream>>>(d_data, n, d_sum, d_maximum);
    histogram<<<blocks, kThreads, 0, stream>>>(d_data, n, d_bins);
    CHECK(cudaGetLastError());
    CHECK(cudaEventRecord(stop, stream));

    unsigned long long sum;
    unsigned maximum, bins[kBins];
    CHECK(cudaMemcpyAsync(&sum, d_sum, sizeof sum, cudaMemcpyDeviceToHost, stream));
    CHECK(cudaMemcpyAsync(&maximum, d_maximum, sizeof maximum, cudaMemcpyDeviceToHost, stream));
    CHECK(cudaMemcpyAsync(bins, d_bins, sizeof bins, cudaMemcpyDeviceToHost, stream));
    CHECK(cudaStreamSynchronize(stream));
    float ms;
    CHECK(cudaEventElapsedTime(&ms, start, stop));

    unsigned long long want_sum = 0;
    unsigned want_maximum = 0, want_bins[kBins] = {};
    for (unsigned x : data) {
        want_sum += x;
        want_maximum = max(want_maximum, x);
        int bin = 0;
        while (x > ends[bin]) bin++;
        want_bins[bin]++;
    }
    bool ok = sum == want_sum && maximum == want_maximum;
    for (int i = 0; i < kBins; i++) ok = ok && bins[i] == want_bins[i];
    printf("sum %llu, maximum %u: %s (%d blocks)\n", sum, maximum, ok ? "passed" : "FAILED", blocks);

    CHECK(cudaFree(d_data));
    CHECK(cudaFree(d_sum));
    CHECK(cudaFree(d_maximum));
    CHECK(cudaFree(d_bins));
    CHECK(cudaEventDestroy(start));
    CHECK(cudaEventDestroy(stop));
    CHECK(cudaStreamDestroy(stream));
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
