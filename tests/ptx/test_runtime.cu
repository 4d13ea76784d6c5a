// test_runtime.cu - the CUDA runtime API as an ordinary program sees it: memory, variables, launches and
// their errors, streams, graphs, clusters, programmatic dependent launch, and how a process with errors ends.
// Programs that have to fail are this one again, started as a child with --child NAME.
#include "fa_test.h"

#include <atomic>
#include <cooperative_groups.h>
#include <cuda_runtime.h>
#include <sys/wait.h>
#include <thread>
#include <vector>

namespace cg = cooperative_groups;

#define OK(call) FA_EXPECT_MSG((call) == cudaSuccess, #call)
#define FAILS(call, error)                                                                                  \
    do {                                                                                                    \
        cudaError_t got_ = (call);                                                                          \
        FA_EXPECT_MSG(got_ == (error), "%s: %s, wanted %s", #call, cudaGetErrorName(got_), #error);         \
        cudaGetLastError();                                                                                 \
    } while (0)

__device__ int counter[4] = {10, 20, 30, 40};
__constant__ float table[8];
__managed__ int managed_value = 5;

struct Arguments {
    int *out;
    int n, step;
    double scale;
    char tag;
};

__global__ void fill(int *p, int n, int value) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) p[i] = value + i;
}
__global__ void add(int *p, int n, int value) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) p[i] += value;
}
__global__ void by_value(Arguments a) {
    if (threadIdx.x < a.n) a.out[threadIdx.x] = (int)(threadIdx.x * a.step * a.scale) + a.tag;
}
__global__ void use_variables(float *out) {
    out[threadIdx.x] = table[threadIdx.x] + counter[threadIdx.x % 4] + managed_value;
    __syncthreads();
    if (threadIdx.x == 0) managed_value++;
}
__global__ void __launch_bounds__(128, 2) bounded(int *p) { p[threadIdx.x] = blockDim.x; }
__global__ void dynamic_shared(int *p, int n) {
    extern __shared__ int s[];
    for (int i = threadIdx.x; i < n; i += blockDim.x) s[i] = i;
    __syncthreads();
    if (threadIdx.x == 0) p[0] = s[n - 1];
}
__global__ void static_shared(int *p) {
    __shared__ int s[1024];
    s[threadIdx.x] = p[threadIdx.x];
    __syncthreads();
    p[threadIdx.x] = s[blockDim.x - 1 - threadIdx.x];
}
__global__ void grid_barrier(int *p, int *sum) {
    cg::grid_group grid = cg::this_grid();
    p[grid.thread_rank()] = 1;
    grid.sync();
    int n = 0;
    for (int i = 0; i < (int)grid.size(); i++) n += p[i];
    sum[grid.thread_rank()] = n;
}
/* Hopper's: empty for earlier targets, where the tests skip them. */
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define SM_90(...) __VA_ARGS__
#else
#define SM_90(...)
#endif
__global__ void in_cluster(int *p) {
    SM_90(cg::cluster_group cluster = cg::this_cluster();
          __shared__ int s;
          if (threadIdx.x == 0) s = blockIdx.x;
          cluster.sync();
          int next = (cluster.block_rank() + 1) % cluster.num_blocks();
          if (threadIdx.x == 0)
              p[blockIdx.x] = *cluster.map_shared_rank(&s, next) * 100 + cluster.num_blocks();
          cluster.sync();)
}
__global__ void SM_90(__cluster_dims__(2, 1, 1)) cluster_of_two(int *p) {
    SM_90(if (threadIdx.x == 0) p[blockIdx.x] = cg::this_cluster().num_blocks();)
}
__global__ void primary(int *p, int n) {
    SM_90(asm volatile("griddepcontrol.launch_dependents;" ::: "memory");)
    for (int i = threadIdx.x; i < n; i += blockDim.x) p[i] = 3 * i;
}
__global__ void secondary(const int *p, int *q, int *early, int n) {
    if (threadIdx.x == 0) *early = 1; /* this much may run before the primary */
    SM_90(asm volatile("griddepcontrol.wait;" ::: "memory");)
    for (int i = threadIdx.x; i < n; i += blockDim.x) q[i] = p[i] + 1;
}

/* Each takes a ticket: who was first? */
__global__ void first_ticket(int *counter, int *tickets) { tickets[0] = atomicAdd(counter, 1); }
__global__ void second_ticket(int *counter, int *tickets) {
    tickets[1] = atomicAdd(counter, 1);
    SM_90(asm volatile("griddepcontrol.wait;" ::: "memory");)
}
__global__ void __maxnreg__(128) many_registers(int *p) { p[threadIdx.x] = 0; }

static bool on_machine() {
    cudaDeviceProp p;
    return cudaGetDeviceProperties(&p, 0) == cudaSuccess && !strncmp(p.name, "PTX machine", 11);
}
/* Of the PTX that runs, which may be for an earlier target than the device. */
static bool for_sm_90() {
    cudaFuncAttributes a;
    OK(cudaFuncGetAttributes(&a, in_cluster));
    return a.ptxVersion >= 90;
}
template <class T> static T *device(size_t n) {
    T *p = nullptr;
    OK(cudaMalloc(&p, n * sizeof(T)));
    return p;
}
template <class T> static std::vector<T> host(const T *p, size_t n) {
    std::vector<T> v(n);
    OK(cudaMemcpy(v.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost));
    return v;
}

/* ---- device ---------------------------------------------------------------------------------------- */

FA_TEST(device_properties) {
    int n = 0, device = -1, value = 0;
    OK(cudaGetDeviceCount(&n));
    FA_EXPECT(n >= 1);
    OK(cudaSetDevice(0));
    OK(cudaGetDevice(&device));
    FA_EXPECT(device == 0);
    FAILS(cudaSetDevice(n), cudaErrorInvalidDevice);
    cudaDeviceProp p;
    OK(cudaGetDeviceProperties(&p, 0));
    FA_EXPECT(p.warpSize == 32 && p.maxThreadsPerBlock == 1024 && p.regsPerBlock == 65536);
    FA_EXPECT(p.sharedMemPerBlock == 49152 && p.sharedMemPerBlockOptin > p.sharedMemPerBlock);
    FA_EXPECT(p.sharedMemPerBlockOptin + p.reservedSharedMemPerBlock == p.sharedMemPerMultiprocessor);
    const struct {
        cudaDeviceAttr attribute;
        int want;
    } same[] = {{cudaDevAttrComputeCapabilityMajor, p.major},
                {cudaDevAttrComputeCapabilityMinor, p.minor},
                {cudaDevAttrMultiProcessorCount, p.multiProcessorCount},
                {cudaDevAttrMaxSharedMemoryPerBlockOptin, (int)p.sharedMemPerBlockOptin},
                {cudaDevAttrMaxSharedMemoryPerMultiprocessor, (int)p.sharedMemPerMultiprocessor},
                {cudaDevAttrMaxThreadsPerMultiProcessor, p.maxThreadsPerMultiProcessor},
                {cudaDevAttrMaxBlocksPerMultiprocessor, p.maxBlocksPerMultiProcessor},
                {cudaDevAttrL2CacheSize, p.l2CacheSize},
                {cudaDevAttrClusterLaunch, p.major >= 9},
                {cudaDevAttrCooperativeLaunch, 1},
                {cudaDevAttrMaxGridDimX, 0x7fffffff},
                {cudaDevAttrWarpSize, 32}};
    for (auto &s : same) {
        OK(cudaDeviceGetAttribute(&value, s.attribute, 0));
        FA_EXPECT_MSG(value == s.want, "attribute %d: %d, wanted %d", s.attribute, value, s.want);
    }
    FAILS(cudaDeviceGetAttribute(&value, cudaDevAttrWarpSize, 99), cudaErrorInvalidDevice);
    FAILS(cudaDeviceGetAttribute(nullptr, cudaDevAttrWarpSize, 0), cudaErrorInvalidValue);
    int version = 0;
    OK(cudaRuntimeGetVersion(&version));
    FA_EXPECT(version == CUDART_VERSION);
    size_t limit = 0;
    OK(cudaDeviceSetLimit(cudaLimitStackSize, 4096));
    OK(cudaDeviceGetLimit(&limit, cudaLimitStackSize));
    FA_EXPECT(limit >= 4096);
}

FA_TEST(error_names) {
    FA_EXPECT(!strcmp(cudaGetErrorName(cudaErrorInvalidValue), "cudaErrorInvalidValue"));
    FA_EXPECT(!strcmp(cudaGetErrorString(cudaErrorInvalidValue), "invalid argument"));
    FA_EXPECT(!strcmp(cudaGetErrorString(cudaErrorLaunchFailure), "unspecified launch failure"));
    FA_EXPECT(!strcmp(cudaGetErrorString((cudaError_t)12345), "unrecognized error code"));
}

FA_TEST(driver_entry_point) {
    void *f = nullptr;
    cudaDriverEntryPointQueryResult result;
    OK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000, cudaEnableDefault, &result));
    FA_EXPECT(f != nullptr && result == cudaDriverEntryPointSuccess);
    OK(cudaGetDriverEntryPointByVersion("cuNoSuchFunction", &f, 12000, cudaEnableDefault, &result));
    FA_EXPECT(f == nullptr && result == cudaDriverEntryPointSymbolNotFound);
}

/* ---- memory ---------------------------------------------------------------------------------------- */

FA_TEST(allocation) {
    size_t before, total, now;
    OK(cudaMemGetInfo(&before, &total));
    FA_EXPECT(before <= total && total > (size_t)1 << 30);
    char *p[3];
    for (auto &x : p) {
        OK(cudaMalloc(&x, 1000));
        FA_EXPECT((uintptr_t)x % 256 == 0 && x != nullptr);
    }
    FA_EXPECT(p[0] != p[1] && p[1] != p[2]);
    void *none = (void *)1;
    OK(cudaMalloc(&none, 0));
    FA_EXPECT(none == nullptr);
    OK(cudaFree(nullptr));
    FAILS(cudaMalloc(&none, (size_t)1 << 50), cudaErrorMemoryAllocation);
    FAILS(cudaMalloc((void **)nullptr, 4), cudaErrorInvalidValue);
    FAILS(cudaFree(p[0] + 4), cudaErrorInvalidValue);
    int on_stack;
    FAILS(cudaFree(&on_stack), cudaErrorInvalidValue);
    for (auto &x : p) OK(cudaFree(x));
    FAILS(cudaFree(p[1]), cudaErrorInvalidValue);
    OK(cudaMemGetInfo(&now, &total));
    FA_EXPECT(!on_machine() || now == before);
    OK(cudaMallocAsync(&none, 64, 0));
    OK(cudaFreeAsync(none, 0));
}

FA_TEST(new_memory_is_nan) {
    if (!on_machine()) FA_SKIP("a rule of the machine");
    float *p = device<float>(100);
    for (float x : host(p, 100)) FA_EXPECT(isnan(x));
    OK(cudaFree(p));
}

FA_TEST(copies) {
    int a[64], b[64];
    for (int i = 0; i < 64; i++) a[i] = i * i, b[i] = 0;
    int *p = device<int>(64), *q = device<int>(64);
    OK(cudaMemcpy(p, a, sizeof a, cudaMemcpyHostToDevice));
    OK(cudaMemcpy(q, p, sizeof a, cudaMemcpyDeviceToDevice));
    OK(cudaMemcpy(b, q, sizeof a, cudaMemcpyDefault));
    FA_EXPECT(!memcmp(a, b, sizeof a));
    OK(cudaMemset(q + 8, 0x11, 32));
    OK(cudaMemcpyAsync(b, q, sizeof a, cudaMemcpyDeviceToHost, 0));
    OK(cudaStreamSynchronize(0));
    for (int i = 0; i < 64; i++) FA_EXPECT(b[i] == (i >= 8 && i < 16 ? 0x11111111 : a[i]));
    OK(cudaMemcpy(p, a, 0, cudaMemcpyHostToDevice));
    FAILS(cudaMemcpy(p, a, sizeof a, (cudaMemcpyKind)9), cudaErrorInvalidMemcpyDirection);
    FAILS(cudaMemcpy(p + 1, a, sizeof a, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    FAILS(cudaMemcpy(b, p + 63, 8, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
    FAILS(cudaMemcpy(nullptr, p, 8, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
    FAILS(cudaMemset(p, 0, sizeof a + 1), cudaErrorInvalidValue);
    if (on_machine()) { /* the machine takes the direction at its word */
        FAILS(cudaMemcpy(a, b, sizeof a, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
        FAILS(cudaMemcpy(p, q, sizeof a, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
        FAILS(cudaMemset(b, 0, sizeof b), cudaErrorInvalidValue);
    }
    OK(cudaFree(p));
    FAILS(cudaMemcpy(p, a, sizeof a, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    OK(cudaFree(q));
}

FA_TEST(copies_2d) {
    enum { W = 40, H = 5 };
    char a[H][64], b[H][50];
    size_t pitch;
    char *p;
    for (int i = 0; i < H; i++)
        for (int j = 0; j < 64; j++) a[i][j] = (char)(i * 64 + j);
    memset(b, 7, sizeof b);
    OK(cudaMallocPitch(&p, &pitch, W, H));
    FA_EXPECT(pitch >= W && pitch % 32 == 0);
    OK(cudaMemcpy2D(p, pitch, a, 64, W, H, cudaMemcpyHostToDevice));
    OK(cudaMemset2D(p + 4, pitch, 1, 2, H - 1));
    OK(cudaMemcpy2D(b, 50, p, pitch, W, H, cudaMemcpyDeviceToHost));
    for (int i = 0; i < H; i++)
        for (int j = 0; j < 50; j++)
            FA_EXPECT(b[i][j] == (j >= W ? 7 : (j == 4 || j == 5) && i < H - 1 ? 1 : a[i][j]));
    FAILS(cudaMemcpy2D(p, W - 1, a, 64, W, H, cudaMemcpyHostToDevice), cudaErrorInvalidPitchValue);
    OK(cudaFree(p));
}

FA_TEST(host_memory) {
    int *pinned, *managed, *mapped, pageable[256];
    OK(cudaMallocHost(&pinned, 1024));
    OK(cudaMallocManaged(&managed, 1024));
    OK(cudaHostRegister(pageable, sizeof pageable, cudaHostRegisterMapped));
    FAILS(cudaHostRegister(pageable, sizeof pageable, 0), cudaErrorHostMemoryAlreadyRegistered);
    OK(cudaHostGetDevicePointer((void **)&mapped, pageable, 0));
    fill<<<1, 256>>>(pinned, 256, 1);
    fill<<<1, 256>>>(managed, 256, 2);
    fill<<<1, 256>>>(mapped, 256, 3);
    OK(cudaDeviceSynchronize());
    for (int i = 0; i < 256; i++)
        FA_EXPECT(pinned[i] == 1 + i && managed[i] == 2 + i && pageable[i] == 3 + i);
    struct {
        void *p;
        cudaMemoryType type;
    } known[] = {{pinned, cudaMemoryTypeHost},
                 {managed, cudaMemoryTypeManaged},
                 {device<char>(4), cudaMemoryTypeDevice},
                 {&known, cudaMemoryTypeUnregistered}};
    for (auto &k : known) {
        cudaPointerAttributes a;
        OK(cudaPointerGetAttributes(&a, k.p));
        FA_EXPECT_MSG(a.type == k.type, "type %d, wanted %d", a.type, k.type);
        FA_EXPECT((a.devicePointer == k.p) == (k.type != cudaMemoryTypeUnregistered));
        FA_EXPECT((a.hostPointer == k.p) == (k.type != cudaMemoryTypeDevice));
    }
    cudaMemLocation here = {};
    here.type = cudaMemLocationTypeDevice, here.id = 0;
    OK(cudaMemAdvise(managed, 1024, cudaMemAdviseSetReadMostly, here));
    OK(cudaMemPrefetchAsync(managed, 1024, here, 0, 0));
    FAILS(cudaMemPrefetchAsync(pageable, 1024, here, 0, 0), cudaErrorInvalidValue);
    OK(cudaFree(known[2].p));
    OK(cudaHostUnregister(pageable));
    FAILS(cudaHostUnregister(pageable), cudaErrorHostMemoryNotRegistered);
    FAILS(cudaFree(pinned), cudaErrorInvalidValue);
    OK(cudaFreeHost(pinned));
    OK(cudaFree(managed));
}

FA_TEST(large_allocation) { /* offsets beyond 32 bits; only what is touched takes space */
    size_t n = (size_t)5 << 30;
    char *p;
    if (cudaMalloc(&p, n) != cudaSuccess) {
        cudaGetLastError();
        FA_SKIP("no room");
    }
    int *last = (int *)(p + n) - 16;
    fill<<<1, 16>>>(last, 16, 9);
    auto v = host(last, 16);
    for (int i = 0; i < 16; i++) FA_EXPECT(v[i] == 9 + i);
    FAILS(cudaMemcpy(p + n, v.data(), 4, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    OK(cudaFree(p));
}

FA_TEST(variables) {
    float values[8], got[8];
    int *address, ints[4];
    size_t size = 0;
    for (int i = 0; i < 8; i++) values[i] = 0.5f * i;
    OK(cudaMemcpyToSymbol(table, values, sizeof values));
    OK(cudaGetSymbolSize(&size, counter));
    FA_EXPECT(size == sizeof counter);
    OK(cudaGetSymbolAddress((void **)&address, counter));
    OK(cudaMemcpyFromSymbol(ints, counter, sizeof ints));
    FA_EXPECT(ints[0] == 10 && ints[3] == 40);
    ints[0] = 99;
    OK(cudaMemcpyToSymbol(counter, ints, sizeof(int), 2 * sizeof(int)));
    FA_EXPECT(host(address, 4)[2] == 99 && host(address, 4)[1] == 20);
    FAILS(cudaMemcpyToSymbol(counter, ints, sizeof ints, 4), cudaErrorInvalidValue);
    FAILS(cudaMemcpyToSymbol(values, ints, 4), cudaErrorInvalidSymbol);
    int before = managed_value;
    float *p = device<float>(8);
    use_variables<<<1, 8>>>(p);
    auto v = host(p, 8);
    const int want[] = {10, 20, 99, 40};
    for (int i = 0; i < 8; i++) got[i] = values[i] + want[i % 4] + before;
    for (int i = 0; i < 8; i++) FA_EXPECT_NEAR(v[i], got[i], 0);
    FA_EXPECT(managed_value == before + 1);
    ints[0] = 30;
    OK(cudaMemcpyToSymbol(counter, ints, sizeof(int), 2 * sizeof(int)));
    OK(cudaFree(p));
}

/* ---- launches -------------------------------------------------------------------------------------- */

FA_TEST(launch_errors) {
    int *p = device<int>(1024);
    cudaDeviceProp d;
    OK(cudaGetDeviceProperties(&d, 0));
    int optin = (int)d.sharedMemPerBlockOptin;
#define LAUNCH_FAILS(error, kernel, ...)                                                                    \
    do {                                                                                                    \
        kernel<<<__VA_ARGS__;                                                                               \
        FA_EXPECT_MSG(cudaPeekAtLastError() == error, "%s: %s", #__VA_ARGS__,                               \
                      cudaGetErrorName(cudaPeekAtLastError()));                                             \
        FA_EXPECT(cudaGetLastError() == error && cudaGetLastError() == cudaSuccess);                        \
    } while (0)
    LAUNCH_FAILS(cudaErrorInvalidConfiguration, fill, 1, 1025>>>(p, 0, 0));
    LAUNCH_FAILS(cudaErrorInvalidConfiguration, fill, 0, 32>>>(p, 0, 0));
    LAUNCH_FAILS(cudaErrorInvalidConfiguration, fill, 1, 0>>>(p, 0, 0));
    LAUNCH_FAILS(cudaErrorInvalidConfiguration, fill, dim3(1, 65536), 32>>>(p, 0, 0));
    LAUNCH_FAILS(cudaErrorInvalidConfiguration, fill, 1, dim3(1, 1, 65)>>>(p, 0, 0));
    LAUNCH_FAILS(cudaErrorInvalidConfiguration, fill, 1, dim3(64, 32)>>>(p, 0, 0));
    LAUNCH_FAILS(cudaErrorInvalidValue, bounded, 1, 129>>>(p));
    LAUNCH_FAILS(cudaErrorInvalidValue, dynamic_shared, 1, 32, 49156>>>(p, 1));
    if (on_machine()) /* a GPU goes by the registers that are used, the machine by what may be used */
        LAUNCH_FAILS(cudaErrorLaunchOutOfResources, many_registers, 1, 1024>>>(p));
    LAUNCH_FAILS(cudaSuccess, many_registers, 1, 512>>>(p));
    LAUNCH_FAILS(cudaSuccess, fill, 1, dim3(16, 32, 2)>>>(p, 0, 0));
    LAUNCH_FAILS(cudaSuccess, bounded, 1, 128>>>(p));
    LAUNCH_FAILS(cudaSuccess, dynamic_shared, 1, 32, 49152>>>(p, 49152 / 4));
    FAILS(cudaFuncSetAttribute(dynamic_shared, cudaFuncAttributeMaxDynamicSharedMemorySize, optin + 1),
          cudaErrorInvalidValue);
    OK(cudaFuncSetAttribute(dynamic_shared, cudaFuncAttributeMaxDynamicSharedMemorySize, optin));
    LAUNCH_FAILS(cudaSuccess, dynamic_shared, 1, 32, optin>>>(p, optin / 4));
    FA_EXPECT(host(p, 1)[0] == optin / 4 - 1);
    OK(cudaFuncSetAttribute(dynamic_shared, cudaFuncAttributeMaxDynamicSharedMemorySize, 49152));
    cudaLaunchAttribute event;
    event.id = cudaLaunchAttributeProgrammaticEvent;
    cudaLaunchConfig_t config = {};
    config.gridDim = config.blockDim = 1, config.attrs = &event, config.numAttrs = 1;
    if (on_machine()) FAILS(cudaLaunchKernelEx(&config, fill, p, 0, 0), cudaErrorNotSupported);
    FAILS(cudaLaunchKernel((const void *)&optin, dim3(1), dim3(1), nullptr, 0, 0),
          cudaErrorInvalidDeviceFunction);
    OK(cudaFree(p));
}

FA_TEST(parameters) {
    int *p = device<int>(32);
    Arguments a = {p, 32, 3, 0.5, 'x'};
    OK(cudaMemset(p, 0, 128));
    by_value<<<1, 32>>>(a);
    a.n = 0; /* the launch has its own copy */
    auto v = host(p, 32);
    for (int i = 0; i < 32; i++) FA_EXPECT(v[i] == (int)(i * 3 * 0.5) + 'x');
    size_t offset, size;
    OK(cudaFuncGetParamInfo((const void *)fill, 2, &offset, &size));
    FA_EXPECT(offset == 12 && size == 4);
    FAILS(cudaFuncGetParamInfo((const void *)fill, 3, &offset, &size), cudaErrorInvalidValue);
    OK(cudaFree(p));
}

static int launch_fill(int *p, int n, int value) {
    fill<<<1, n>>>(p, n, value);
    return value;
}
FA_TEST(launch_in_the_arguments_of_a_launch) {
    int *p = device<int>(64);
    fill<<<1, 32>>>(p + 32, 32, launch_fill(p, 32, 7));
    auto v = host(p, 64);
    for (int i = 0; i < 64; i++) FA_EXPECT(v[i] == 7 + i % 32);
    OK(cudaFree(p));
}

FA_TEST(kernel_attributes) {
    cudaFuncAttributes a;
    OK(cudaFuncGetAttributes(&a, bounded));
    FA_EXPECT(a.maxThreadsPerBlock == 128 && a.sharedSizeBytes == 0 && a.numRegs > 0 && a.numRegs <= 255);
    OK(cudaFuncGetAttributes(&a, static_shared));
    FA_EXPECT(a.sharedSizeBytes == 4096 && a.maxDynamicSharedSizeBytes == 49152 - 4096);
    FA_EXPECT(a.maxThreadsPerBlock == 1024);
    FAILS(cudaFuncGetAttributes(&a, (const void *)&a), cudaErrorInvalidDeviceFunction);
    const char *name;
    OK(cudaFuncGetName(&name, (const void *)bounded));
    FA_EXPECT(strstr(name, "bounded") != nullptr);
    OK(cudaFuncSetCacheConfig(bounded, cudaFuncCachePreferShared));
}

FA_TEST(occupancy) {
    int some, fewer, sms, threads, blocks;
    OK(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, 0));
    OK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&some, bounded, 128, 0));
    FA_EXPECT(some >= 2 && some <= 32);
    OK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&fewer, dynamic_shared, 128, 40000));
    FA_EXPECT(fewer >= 1 && fewer <= 5);
    OK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&fewer, dynamic_shared, 128, 60000));
    FA_EXPECT(fewer == 0);
    FAILS(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&fewer, bounded, 0, 0), cudaErrorInvalidValue);
    OK(cudaOccupancyMaxPotentialBlockSize(&blocks, &threads, static_shared));
    FA_EXPECT(threads >= 32 && threads <= 1024 && threads % 32 == 0 && blocks >= sms);
    size_t bytes;
    OK(cudaOccupancyAvailableDynamicSMemPerBlock(&bytes, static_shared, 1, 128));
    cudaDeviceProp d;
    OK(cudaGetDeviceProperties(&d, 0));
    FA_EXPECT(bytes == d.sharedMemPerBlockOptin - 4096);
}

FA_TEST(cooperative) {
    int sms, per_sm;
    OK(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, 0));
    OK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_sm, grid_barrier, 64, 0));
    int most = sms * per_sm, blocks = most < 40 ? most : 40, n = blocks * 64;
    int *p = device<int>(n), *sum = device<int>(n);
    OK(cudaMemset(p, 0, n * sizeof *p));
    void *args[] = {&p, &sum};
    OK(cudaLaunchCooperativeKernel(grid_barrier, dim3(blocks), dim3(64), args, 0, 0));
    for (int x : host(sum, n)) FA_EXPECT(x == n);
    FAILS(cudaLaunchCooperativeKernel(grid_barrier, dim3(most + 1), dim3(64), args, 0, 0),
          cudaErrorCooperativeLaunchTooLarge);
    OK(cudaFree(p));
    OK(cudaFree(sum));
}

static cudaError_t launch_cluster(int *p, int blocks, int cluster) {
    cudaLaunchAttribute attribute[2];
    attribute[0].id = cudaLaunchAttributeClusterDimension;
    attribute[0].val.clusterDim.x = cluster;
    attribute[0].val.clusterDim.y = attribute[0].val.clusterDim.z = 1;
    attribute[1].id = cudaLaunchAttributePriority;
    attribute[1].val.priority = 0;
    cudaLaunchConfig_t config = {};
    config.gridDim = blocks, config.blockDim = 64, config.attrs = attribute, config.numAttrs = 2;
    return cudaLaunchKernelEx(&config, in_cluster, p);
}

FA_TEST(clusters) {
    int *p = device<int>(48);
    int supported;
    OK(cudaDeviceGetAttribute(&supported, cudaDevAttrClusterLaunch, 0));
    if (!supported) FAILS(launch_cluster(p, 48, 2), cudaErrorInvalidClusterSize);
    if (!for_sm_90()) {
        OK(cudaFree(p));
        FA_SKIP("clusters are sm_90");
    }
    for (int size : {1, 2, 3, 4, 8}) {
        OK(launch_cluster(p, 48 / size * size, size));
        auto v = host(p, 48);
        for (int i = 0; i < 48 / size * size; i++)
            FA_EXPECT(v[i] == (i / size * size + (i % size + 1) % size) * 100 + size);
    }
    FAILS(launch_cluster(p, 47, 2), cudaErrorInvalidClusterSize);
    FAILS(launch_cluster(p, 48, 16), cudaErrorInvalidClusterSize);
    OK(cudaFuncSetAttribute(in_cluster, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
    OK(launch_cluster(p, 48, 16));
    FA_EXPECT(host(p, 48)[17] == 18 * 100 + 16);
    cluster_of_two<<<4, 32>>>(p);
    OK(cudaGetLastError());
    for (int x : host(p, 4)) FA_EXPECT(x == 2);
    cluster_of_two<<<3, 32>>>(p);
    FAILS(cudaGetLastError(), cudaErrorInvalidClusterSize);
    cudaFuncAttributes a;
    OK(cudaFuncGetAttributes(&a, cluster_of_two));
    FA_EXPECT(a.requiredClusterWidth == 2);
    OK(cudaFree(p));
}

/* with programmatic stream serialisation */
template <class... T, class... U>
static cudaError_t launch_dependent(cudaStream_t stream, int threads, void (*kernel)(T...), U... arguments) {
    cudaLaunchAttribute attribute;
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = 1, config.blockDim = threads, config.stream = stream;
    config.attrs = &attribute, config.numAttrs = 1;
    return cudaLaunchKernelEx(&config, kernel, arguments...);
}

FA_TEST(programmatic_dependent_launch) {
    if (!for_sm_90()) FA_SKIP("griddepcontrol is sm_90");
    enum { N = 500 };
    int *p = device<int>(N), *q = device<int>(N), *early = device<int>(2);
    cudaStream_t s[2];
    for (auto &x : s) OK(cudaStreamCreate(&x));
    for (int round = 0; round < 4; round++) {
        OK(cudaMemset(p, 0, N * sizeof *p));
        OK(cudaMemset(q, 0, N * sizeof *q));
        primary<<<1, 128, 0, s[0]>>>(p, N);
        if (round == 1) OK(cudaEventQuery([] {
            cudaEvent_t e;
            cudaEventCreate(&e);
            return e;
        }()));
        OK(launch_dependent(s[round == 2], 128, secondary, p, q, early, N));
        if (round == 3) OK(launch_dependent(s[0], 128, secondary, q, p, early + 1, N)); /* three */
        OK(cudaDeviceSynchronize());
        auto v = host(round == 3 ? p : q, N);
        for (int i = 0; i < N; i++) FA_EXPECT(v[i] == 3 * i + 1 + (round == 3));
    }
    for (auto &x : s) OK(cudaStreamDestroy(x));
    OK(cudaFree(p));
    OK(cudaFree(q));
    OK(cudaFree(early));
}

FA_TEST(dependent_launch_may_come_first) {
    const char *schedule = getenv("FA_PTX_SCHEDULE");
    if (!on_machine() || !schedule || !strcmp(schedule, "order"))
        FA_SKIP("with FA_PTX_SCHEDULE=lazy or a seed");
    if (!for_sm_90()) FA_SKIP("griddepcontrol is sm_90");
    int *counter = device<int>(1), *tickets = device<int>(2), sooner = 0;
    for (int round = 0; round < 8; round++) {
        OK(cudaMemset(counter, 0, sizeof *counter));
        first_ticket<<<1, 1>>>(counter, tickets);
        OK(launch_dependent(nullptr, 1, second_ticket, counter, tickets));
        auto v = host(tickets, 2);
        FA_EXPECT(v[0] + v[1] == 1);
        sooner += v[1] == 0;
        OK(cudaMemset(counter, 0, sizeof *counter));
        first_ticket<<<1, 1>>>(counter, tickets);
        second_ticket<<<1, 1>>>(counter, tickets); /* without the attribute: in order */
        FA_EXPECT(host(tickets, 2)[0] == 0);
    }
    FA_EXPECT(sooner > 0);
    OK(cudaFree(counter));
    OK(cudaFree(tickets));
}

/* ---- streams, events, graphs ----------------------------------------------------------------------- */

static void CUDART_CB append_digit(void *data) { *(int *)data = *(int *)data * 10 + 1; }

FA_TEST(streams_and_events) {
    cudaStream_t s;
    cudaEvent_t a, b, untimed;
    unsigned flags = 0;
    int priority = 1, digits = 0, *p = device<int>(32);
    OK(cudaStreamCreateWithPriority(&s, cudaStreamNonBlocking, -1));
    OK(cudaStreamGetFlags(s, &flags));
    OK(cudaStreamGetPriority(s, &priority));
    FA_EXPECT(flags == cudaStreamNonBlocking && priority == -1);
    OK(cudaEventCreate(&a));
    OK(cudaEventCreate(&b));
    OK(cudaEventCreateWithFlags(&untimed, cudaEventDisableTiming));
    float ms = -1;
    FAILS(cudaEventElapsedTime(&ms, a, b), cudaErrorInvalidResourceHandle);
    OK(cudaEventRecord(a, s));
    fill<<<1, 32, 0, s>>>(p, 32, 1);
    OK(cudaLaunchHostFunc(s, append_digit, &digits));
    OK(cudaEventRecord(b, s));
    OK(cudaEventRecord(untimed, s));
    OK(cudaStreamWaitEvent(0, b, 0));
    OK(cudaEventSynchronize(b));
    OK(cudaEventQuery(b));
    OK(cudaStreamQuery(s));
    OK(cudaEventElapsedTime(&ms, a, b));
    FA_EXPECT(ms >= 0 && ms < 60000 && digits == 1);
    FAILS(cudaEventElapsedTime(&ms, a, untimed), cudaErrorInvalidResourceHandle);
    FA_EXPECT(host(p, 32)[31] == 32);
    OK(cudaStreamDestroy(s));
    if (on_machine()) FAILS(cudaStreamSynchronize(s), cudaErrorInvalidResourceHandle);
    OK(cudaEventDestroy(a));
    OK(cudaEventDestroy(b));
    OK(cudaEventDestroy(untimed));
    OK(cudaFree(p));
}

FA_TEST(graphs) {
    enum { N = 64 };
    cudaStream_t s, t;
    cudaEvent_t fork, join;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaStreamCaptureStatus status;
    int *p = device<int>(N), *q = device<int>(N), calls = 0, value = 5;
    std::vector<int> out(N, 0);
    size_t nodes = 0;
    OK(cudaStreamCreate(&s));
    OK(cudaStreamCreate(&t));
    OK(cudaEventCreate(&fork));
    OK(cudaEventCreate(&join));
    OK(cudaMemset(p, 0, N * sizeof *p));
    OK(cudaStreamIsCapturing(s, &status));
    FA_EXPECT(status == cudaStreamCaptureStatusNone);
    OK(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
    OK(cudaStreamIsCapturing(s, &status));
    FA_EXPECT(status == cudaStreamCaptureStatusActive);
    add<<<1, N, 0, s>>>(p, N, value);
    value = 1000; /* the graph has the value of then */
    OK(cudaEventRecord(fork, s));
    OK(cudaStreamWaitEvent(t, fork, 0));
    OK(cudaMemcpyAsync(q, p, N * sizeof *p, cudaMemcpyDeviceToDevice, t));
    OK(cudaEventRecord(join, t));
    OK(cudaStreamWaitEvent(s, join, 0));
    OK(cudaMemsetAsync(q, 0, sizeof *q, s));
    OK(cudaMemcpyAsync(out.data(), q, N * sizeof *q, cudaMemcpyDeviceToHost, s));
    OK(cudaLaunchHostFunc(s, append_digit, &calls));
    OK(cudaStreamEndCapture(s, &graph));
    OK(cudaGraphGetNodes(graph, nullptr, &nodes));
    FA_EXPECT(nodes == 5);
    FA_EXPECT(host(p, N)[1] == 0 && calls == 0); /* nothing has run yet */
    OK(cudaGraphInstantiate(&exec, graph, 0));
    OK(cudaGraphDestroy(graph));
    for (int i = 1; i <= 3; i++) {
        OK(cudaGraphLaunch(exec, s));
        OK(cudaStreamSynchronize(s));
        FA_EXPECT(out[0] == 0 && out[1] == 5 * i && out[N - 1] == 5 * i);
    }
    FA_EXPECT(calls == 111);
    OK(cudaGraphExecDestroy(exec));
    OK(cudaStreamDestroy(s));
    OK(cudaStreamDestroy(t));
    OK(cudaEventDestroy(fork));
    OK(cudaEventDestroy(join));
    OK(cudaFree(p));
    OK(cudaFree(q));
}

FA_TEST(capture_errors) {
    cudaStream_t s, t;
    cudaEvent_t e;
    cudaGraph_t graph;
    int *p = device<int>(32), *q;
    OK(cudaStreamCreate(&s));
    OK(cudaStreamCreate(&t));
    OK(cudaEventCreate(&e));
    FAILS(cudaStreamBeginCapture(0, cudaStreamCaptureModeGlobal), cudaErrorStreamCaptureUnsupported);
    FAILS(cudaStreamEndCapture(s, &graph), cudaErrorIllegalState);

    OK(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
    FAILS(cudaMalloc(&q, 4), cudaErrorStreamCaptureUnsupported);
    FAILS(cudaStreamEndCapture(s, &graph), cudaErrorStreamCaptureInvalidated);

    OK(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
    FAILS(cudaStreamSynchronize(s), cudaErrorStreamCaptureUnsupported);
    FAILS(cudaStreamEndCapture(s, &graph), cudaErrorStreamCaptureInvalidated);

    OK(cudaStreamBeginCapture(s, cudaStreamCaptureModeRelaxed));
    OK(cudaMalloc(&q, 4));
    fill<<<1, 32>>>(p, 32, 0); /* the legacy stream waits for s, which captures */
    FAILS(cudaGetLastError(), cudaErrorStreamCaptureImplicit);
    FAILS(cudaStreamEndCapture(s, &graph), cudaErrorStreamCaptureInvalidated);

    OK(cudaStreamBeginCapture(s, cudaStreamCaptureModeRelaxed));
    OK(cudaEventRecord(e, s));
    OK(cudaStreamWaitEvent(t, e, 0));
    fill<<<1, 32, 0, t>>>(p, 32, 0);
    OK(cudaGetLastError());
    FAILS(cudaStreamEndCapture(t, &graph), cudaErrorStreamCaptureUnmatched);
    FAILS(cudaStreamEndCapture(s, &graph), cudaErrorStreamCaptureUnjoined);

    OK(cudaStreamBeginCapture(s, cudaStreamCaptureModeRelaxed));
    OK(cudaStreamEndCapture(s, &graph)); /* and s works again */
    OK(cudaGraphDestroy(graph));
    fill<<<1, 32, 0, s>>>(p, 32, 4);
    OK(cudaStreamSynchronize(s));
    FA_EXPECT(host(p, 32)[0] == 4);
    OK(cudaFree(p));
    OK(cudaFree(q));
    OK(cudaEventDestroy(e));
    OK(cudaStreamDestroy(s));
    OK(cudaStreamDestroy(t));
}

FA_TEST(host_threads) {
    enum { THREADS = 4, N = 256 };
    bool right[THREADS] = {};
    std::atomic<int> ready{0};
    std::vector<std::thread> threads;
    FA_EXPECT(cudaMalloc((void **)nullptr, 1) == cudaErrorInvalidValue); /* errors are per thread */
    for (int t = 0; t < THREADS; t++)
        threads.emplace_back([t, &right, &ready] {
            int *p;
            bool ok = cudaGetLastError() == cudaSuccess && cudaMalloc(&p, N * sizeof *p) == cudaSuccess;
            for (ready++; ready < THREADS;) std::this_thread::yield();
            for (int i = 0; i < 1000; i++) {
                std::vector<int> v(N);
                fill<<<N / 64, 64>>>(p, N, t * 1000 + i);
                ok = ok && cudaMemcpy(v.data(), p, N * sizeof *p, cudaMemcpyDeviceToHost) == cudaSuccess;
                for (int j = 0; j < N; j++) ok = ok && v[j] == t * 1000 + i + j;
            }
            right[t] = ok && cudaFree(p) == cudaSuccess;
        });
    for (auto &t : threads) t.join();
    for (bool r : right) FA_EXPECT(r);
    FA_EXPECT(cudaGetLastError() == cudaErrorInvalidValue);
}

/* ---- processes that fail --------------------------------------------------------------------------- */

static int child_main(const char *what) {
    int *p;
    if (cudaMalloc(&p, 100) != cudaSuccess) return 1;
    if (!strcmp(what, "clean")) return cudaDeviceSynchronize() != cudaSuccess;
    if (!strcmp(what, "properties")) {
        cudaDeviceProp d;
        cudaGetDeviceProperties(&d, 0);
        printf("%d.%d %d %zu", d.major, d.minor, d.multiProcessorCount, d.sharedMemPerBlockOptin);
        return 0;
    }
    if (!strcmp(what, "dereference")) return p[24]; /* device memory from host code */
    if (!strcmp(what, "messages")) {
        fill<<<1, 1025>>>(p, 1, 1);
        bounded<<<1, 129>>>(p);
        dynamic_shared<<<1, 32, 50000>>>(p, 1);
        cudaMemcpy(p + 20, &what, 24, cudaMemcpyHostToDevice);
        cudaFree(p);
        cudaFree(p);
        cudaMemset(p + 1, 0, 4);
        return 0;
    }
    fill<<<1, 32>>>(p, 32, 1); /* writes 128 bytes */
    if (!strcmp(what, "unnoticed")) return 0;
    if (!strcmp(what, "status")) return 3;
    if (cudaDeviceSynchronize() != cudaErrorLaunchFailure) return 10;
    if (cudaMalloc(&p, 4) != cudaErrorLaunchFailure) return 11; /* nothing works any more */
    for (int i = 0; i < 2; i++)
        if (cudaGetLastError() != cudaErrorLaunchFailure) return 12;
    fill<<<1, 1>>>(p, 1, 1);
    if (cudaPeekAtLastError() != cudaErrorLaunchFailure) return 13;
    if (cudaDeviceReset() != cudaSuccess || cudaGetLastError() != cudaSuccess) return 14;
    int value = 0;
    if (cudaMalloc(&p, 100) != cudaSuccess) return 15;
    fill<<<1, 25>>>(p, 25, 8);
    if (cudaMemcpy(&value, p, 4, cudaMemcpyDeviceToHost) != cudaSuccess || value != 8) return 16;
    return 0;
}

static const char *self;
/* What the child prints; on stderr too where its messages are the matter. */
static int run_child(const char *environment, const char *what, char *output, size_t bytes) {
    char command[4096];
    snprintf(command, sizeof command, "%s '%s' --child %s 2>%s", environment, self, what,
             strcmp(what, "messages") && strcmp(what, "dereference") ? "/dev/null" : "&1");
    FILE *f = popen(command, "r");
    if (!f) return -1;
    size_t n = fread(output, 1, bytes - 1, f);
    output[n] = 0;
    int status = pclose(f);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

FA_TEST(exit_status) {
    if (!on_machine()) FA_SKIP("rules of the machine");
    static const struct {
        const char *environment, *what;
        int want;
    } cases[] = {{"", "clean", 0},
                 {"", "sticky", 86},
                 {"FA_PTX_SCHEDULE=lazy", "sticky", 86},
                 {"", "unnoticed", 86},
                 {"FA_PTX_SCHEDULE=1", "unnoticed", 86},
                 {"", "status", 3},
                 {"FA_PTX_SCHEDULE=", "clean", 0},
                 {"FA_PTX_SCHEDULE=5", "clean", 0},
                 {"FA_PTX_SCHEDULE=0", "clean", 2},
                 {"FA_PTX_SCHEDULE=2x", "clean", 2},
                 {"FA_PTX_SCHEDULE=eager", "clean", 2},
                 {"FA_PTX_DEVICE=sm_91", "clean", 2},
                 {"FA_PTX_SMS=0", "clean", 2},
                 {"FA_PTX_SMS=many", "clean", 2},
                 {"FA_PTX_SHARED=1000000", "clean", 2},
                 {"FA_PTX_CHECKS=2", "clean", 2},
                 {"FA_PTX_LIMIT=0", "clean", 2},
                 {"FA_PTX_FINDINGS=-1", "clean", 2}};
    char output[256];
    for (auto &c : cases) {
        int got = run_child(c.environment, c.what, output, sizeof output);
        FA_EXPECT_MSG(got == c.want, "%s %s: exit status %d, wanted %d", c.environment, c.what, got, c.want);
    }
}

FA_TEST(messages) {
    if (!on_machine()) FA_SKIP("rules of the machine");
    char output[4096];
    int status = run_child("", "messages", output, sizeof output);
    FA_EXPECT(status == 0);
    static const char *const parts[] = {"blockDim.x = 1025, allowed: 1 to 1024",
                                        "129 threads a block, its __launch_bounds__ allow 128",
                                        "50000 bytes of dynamic shared memory, allowed: 49152",
                                        "24 bytes at offset 80 of cudaMalloc #1, which has 100",
                                        "is cudaMalloc #1, freed already",
                                        "is in no allocation (cudaMalloc #1, freed"};
    for (auto &p : parts) FA_EXPECT_MSG(strstr(output, p), "no \"%s\" in\n%s", p, output);
    status = run_child("", "dereference", output, sizeof output);
    FA_EXPECT_MSG(status != 0 && strstr(output, "host code touches device memory"), "%d %s", status, output);
}

FA_TEST(devices) {
    if (!on_machine()) FA_SKIP("rules of the machine");
    static const char *const cases[][2] = {
        {"FA_PTX_DEVICE=sm_80 FA_PTX_SMS= FA_PTX_SHARED=", "8.0 108 166912"},
        {"FA_PTX_DEVICE=sm_86 FA_PTX_SMS= FA_PTX_SHARED=", "8.6 82 101376"},
        {"FA_PTX_DEVICE=sm_89 FA_PTX_SMS= FA_PTX_SHARED=", "8.9 128 101376"},
        {"FA_PTX_DEVICE=sm_90a FA_PTX_SMS= FA_PTX_SHARED=", "9.0 132 232448"},
        {"FA_PTX_DEVICE= FA_PTX_SMS=2 FA_PTX_SHARED=65536", "9.0 2 65536"}};
    char output[256];
    for (auto &c : cases) {
        run_child(c[0], "properties", output, sizeof output);
        FA_EXPECT_MSG(!strcmp(output, c[1]), "%s: %s, wanted %s", c[0], output, c[1]);
    }
}

int main(int argc, char **argv) {
    if (argc == 3 && !strcmp(argv[1], "--child")) return child_main(argv[2]);
    self = argv[0];
    return fat_main(argc, argv);
}
