/* device.c - the simulated card: what the environment asks for, properties and attributes, occupancy, and
 * the names of errors. Nothing here runs anything.
 */
#include "runtime.h"
#include <stdlib.h>

Device ptx_device;

/* The cards, and what their data sheets and the table "Technical Specifications per Compute Capability" of
 * the CUDA programming guide say. Clocks in kHz. */
typedef struct {
    const char *name;
    int major, minor;
    bool arch_specific;
    int sms, shared_kib, sm_shared_kib, threads, blocks;
    int clock, memory_clock, bus_bits, l2_mib, memory_gib, fp64_ratio;
} Card;
static const Card cards[] = {
    {"sm_80", 8, 0, false, 108, 163, 164, 2048, 32, 1410000, 1593000, 5120, 40, 80, 2}, /* A100 SXM 80 GB */
    {"sm_86", 8, 6, false, 82, 99, 100, 1536, 16, 1695000, 9751000, 384, 6, 24, 64},    /* RTX 3090 */
    {"sm_89", 8, 9, false, 128, 99, 100, 1536, 24, 2520000, 10501000, 384, 72, 24, 64}, /* RTX 4090 */
    {"sm_90a", 9, 0, true, 132, 227, 228, 2048, 32, 1980000, 2619000, 5120, 50, 80, 2}, /* H100 SXM */
};
static const Card *card;

static _Noreturn void bad_variable(const char *name, const char *value, const char *allowed) {
    fprintf(stderr, "PTX machine: %s=%s, allowed: %s\n", name, value, allowed);
    exit(2);
}

/* A number from the environment; `otherwise` if the variable is not set or empty. */
static u64 number(const char *name, u64 otherwise, u64 low, u64 high) {
    const char *text = getenv(name);
    char *end, allowed[80];
    if (!text || !*text) return otherwise;
    double value = strtod(text, &end);
    if (*end || !(value >= (double)low && value <= (double)high)) {
        snprintf(allowed, sizeof allowed, "%llu to %llu", (unsigned long long)low, (unsigned long long)high);
        bad_variable(name, text, allowed);
    }
    return (u64)value;
}

__attribute__((constructor(101))) static void read_environment(void) {
    const char *name = getenv("FA_PTX_DEVICE"), *schedule = getenv("FA_PTX_SCHEDULE");
    if (!name || !*name) name = "sm_90a";
    for (size_t i = 0; i < sizeof cards / sizeof *cards; i++)
        if (!strcmp(cards[i].name, name)) card = &cards[i];
    if (!card) bad_variable("FA_PTX_DEVICE", name, "sm_80, sm_86, sm_89, sm_90a");
    int shared = card->shared_kib << 10;
    Device d = {card->major,
                card->minor,
                card->arch_specific,
                .shared_reserved = 1024,
                .registers_per_sm = 65536,
                .threads_per_sm = card->threads,
                .blocks_per_sm = card->blocks,
                .shared_per_sm = card->sm_shared_kib << 10};
    d.sms = (int)number("FA_PTX_SMS", (u64)card->sms, 1, 1024);
    d.shared_per_block = (int)number("FA_PTX_SHARED", (u64)shared, 48 << 10, (u64)shared);
    d.checks = number("FA_PTX_CHECKS", 1, 0, 1) == 1;
    d.limit = number("FA_PTX_LIMIT", 100000000000, 1, (u64)1 << 62);
    d.max_findings = (int)number("FA_PTX_FINDINGS", 8, 1, 1000000);
    if (!schedule || !*schedule || !strcmp(schedule, "order"))
        d.schedule = IN_ORDER;
    else if (!strcmp(schedule, "lazy"))
        d.schedule = LAZY;
    else {
        char *end;
        d.schedule = RANDOM, d.seed = strtoull(schedule, &end, 10);
        if (*end || !d.seed || *schedule == '-')
            bad_variable("FA_PTX_SCHEDULE", schedule,
                         "order, lazy, or a number above 0 (seed of a random schedule)");
    }
    ptx_device = d;
}

/* ---- properties ---------------------------------------------------------------------------------------- */

static cudaError_t check_device(int device) {
    return device == 0 ? cudaSuccess
                       : ptx_fail(cudaErrorInvalidDevice, "device %d: there is only device 0", device);
}

static struct cudaDeviceProp properties(void) {
    const Device *d = &ptx_device;
    struct cudaDeviceProp p = {.totalGlobalMem = (size_t)card->memory_gib << 30,
                               .sharedMemPerBlock = 48 << 10,
                               .regsPerBlock = d->registers_per_sm,
                               .warpSize = LANES,
                               .memPitch = 0x7fffffff,
                               .maxThreadsPerBlock = 1024,
                               .maxThreadsDim = {1024, 1024, 64},
                               .maxGridSize = {0x7fffffff, 65535, 65535},
                               .totalConstMem = 64 << 10,
                               .major = d->major,
                               .minor = d->minor,
                               .textureAlignment = 512,
                               .texturePitchAlignment = 32,
                               .multiProcessorCount = d->sms,
                               .canMapHostMemory = 1,
                               .surfaceAlignment = 512,
                               .concurrentKernels = 1,
                               .asyncEngineCount = 3,
                               .unifiedAddressing = 1,
                               .memoryBusWidth = card->bus_bits,
                               .l2CacheSize = card->l2_mib << 20,
                               .persistingL2CacheMaxSize = (card->l2_mib << 20) / 8 * 5,
                               .maxThreadsPerMultiProcessor = d->threads_per_sm,
                               .streamPrioritiesSupported = 1,
                               .globalL1CacheSupported = 1,
                               .localL1CacheSupported = 1,
                               .sharedMemPerMultiprocessor = (size_t)d->shared_per_sm,
                               .regsPerMultiprocessor = d->registers_per_sm,
                               .managedMemory = 1,
                               .concurrentManagedAccess = 1,
                               .computePreemptionSupported = 1,
                               .canUseHostPointerForRegisteredMem = 1,
                               .cooperativeLaunch = 1,
                               .sharedMemPerBlockOptin = (size_t)d->shared_per_block,
                               .maxBlocksPerMultiProcessor = d->blocks_per_sm,
                               .accessPolicyMaxWindowSize = 128 << 20,
                               .reservedSharedMemPerBlock = (size_t)d->shared_reserved,
                               .hostRegisterSupported = 1,
                               .memoryPoolsSupported = 1,
                               .clusterLaunch = d->major >= 9,
                               .deviceNumaId = -1,
                               .hostNumaId = -1};
    snprintf(p.name, sizeof p.name, "PTX machine (%s)", card->name);
    memcpy(p.uuid.bytes, "PTX machine", 11);
    return p;
}

static cudaError_t get_properties(struct cudaDeviceProp *p, int device) {
    if (!p) return cudaErrorInvalidValue;
    cudaError_t e = check_device(device);
    if (!e) *p = properties();
    return e;
}

static cudaError_t get_attribute(int *value, enum cudaDeviceAttr attribute, int device) {
    if (!value) return cudaErrorInvalidValue;
    cudaError_t e = check_device(device);
    if (e) return e;
    struct cudaDeviceProp p = properties();
    switch ((int)attribute) {
#define IS(name, v) \
    case cudaDevAttr##name: *value = (int)(v); return cudaSuccess
        IS(MaxThreadsPerBlock, p.maxThreadsPerBlock);
        IS(MaxBlockDimX, p.maxThreadsDim[0]);
        IS(MaxBlockDimY, p.maxThreadsDim[1]);
        IS(MaxBlockDimZ, p.maxThreadsDim[2]);
        IS(MaxGridDimX, p.maxGridSize[0]);
        IS(MaxGridDimY, p.maxGridSize[1]);
        IS(MaxGridDimZ, p.maxGridSize[2]);
        IS(MaxSharedMemoryPerBlock, p.sharedMemPerBlock);
        IS(MaxSharedMemoryPerBlockOptin, p.sharedMemPerBlockOptin);
        IS(MaxSharedMemoryPerMultiprocessor, p.sharedMemPerMultiprocessor);
        IS(ReservedSharedMemoryPerBlock, p.reservedSharedMemPerBlock);
        IS(TotalConstantMemory, p.totalConstMem);
        IS(WarpSize, p.warpSize);
        IS(MaxPitch, p.memPitch);
        IS(MaxRegistersPerBlock, p.regsPerBlock);
        IS(MaxRegistersPerMultiprocessor, p.regsPerMultiprocessor);
        IS(ClockRate, card->clock);
        IS(MemoryClockRate, card->memory_clock);
        IS(GlobalMemoryBusWidth, p.memoryBusWidth);
        IS(L2CacheSize, p.l2CacheSize);
        IS(MaxPersistingL2CacheSize, p.persistingL2CacheMaxSize);
        IS(MaxAccessPolicyWindowSize, p.accessPolicyMaxWindowSize);
        IS(TextureAlignment, p.textureAlignment);
        IS(TexturePitchAlignment, p.texturePitchAlignment);
        IS(SurfaceAlignment, p.surfaceAlignment);
        IS(GpuOverlap, p.asyncEngineCount > 0);
        IS(AsyncEngineCount, p.asyncEngineCount);
        IS(MultiProcessorCount, p.multiProcessorCount);
        IS(MaxThreadsPerMultiProcessor, p.maxThreadsPerMultiProcessor);
        IS(MaxBlocksPerMultiprocessor, p.maxBlocksPerMultiProcessor);
        IS(KernelExecTimeout, 0);
        IS(Integrated, p.integrated);
        IS(CanMapHostMemory, p.canMapHostMemory);
        IS(ComputeMode, cudaComputeModeDefault);
        IS(ConcurrentKernels, p.concurrentKernels);
        IS(EccEnabled, p.ECCEnabled);
        IS(PciBusId, p.pciBusID);
        IS(PciDeviceId, p.pciDeviceID);
        IS(PciDomainId, p.pciDomainID);
        IS(TccDriver, p.tccDriver);
        IS(UnifiedAddressing, p.unifiedAddressing);
        IS(ComputeCapabilityMajor, p.major);
        IS(ComputeCapabilityMinor, p.minor);
        IS(StreamPrioritiesSupported, p.streamPrioritiesSupported);
        IS(GlobalL1CacheSupported, p.globalL1CacheSupported);
        IS(LocalL1CacheSupported, p.localL1CacheSupported);
        IS(ManagedMemory, p.managedMemory);
        IS(IsMultiGpuBoard, p.isMultiGpuBoard);
        IS(MultiGpuBoardGroupID, p.multiGpuBoardGroupID);
        IS(HostNativeAtomicSupported, p.hostNativeAtomicSupported);
        IS(SingleToDoublePrecisionPerfRatio, card->fp64_ratio);
        IS(PageableMemoryAccess, p.pageableMemoryAccess);
        IS(PageableMemoryAccessUsesHostPageTables, p.pageableMemoryAccessUsesHostPageTables);
        IS(DirectManagedMemAccessFromHost, p.directManagedMemAccessFromHost);
        IS(ConcurrentManagedAccess, p.concurrentManagedAccess);
        IS(ComputePreemptionSupported, p.computePreemptionSupported);
        IS(CanUseHostPointerForRegisteredMem, p.canUseHostPointerForRegisteredMem);
        IS(CooperativeLaunch, p.cooperativeLaunch);
        IS(HostRegisterSupported, p.hostRegisterSupported);
        IS(HostRegisterReadOnlySupported, p.hostRegisterReadOnlySupported);
        IS(SparseCudaArraySupported, p.sparseCudaArraySupported);
        IS(MemoryPoolsSupported, p.memoryPoolsSupported);
        IS(MemoryPoolSupportedHandleTypes, p.memoryPoolSupportedHandleTypes);
        IS(GPUDirectRDMASupported, p.gpuDirectRDMASupported);
        IS(ClusterLaunch, p.clusterLaunch);
        IS(IpcEventSupport, p.ipcEventSupported);
        IS(MemSyncDomainCount, p.major >= 9 ? 4 : 1);
        IS(NumaConfig, p.deviceNumaConfig);
        IS(NumaId, p.deviceNumaId);
        IS(HostNumaId, p.hostNumaId);
        IS(MpsEnabled, p.mpsEnabled);
#undef IS
    }
    return ptx_fail(cudaErrorInvalidValue, "cudaDeviceGetAttribute: attribute %d is not modelled",
                    (int)attribute);
}

static cudaError_t set(int *to, int value) {
    if (!to) return cudaErrorInvalidValue;
    *to = value;
    return cudaSuccess;
}

static u64 limits[] = {1024, 1 << 20, 8 << 20, 2, 2048, 128, 0}; /* by cudaLimit */
static cudaError_t limit(enum cudaLimit which, size_t *get, const size_t *put) {
    if ((size_t)which >= sizeof limits / sizeof *limits) return cudaErrorUnsupportedLimit;
    if (!get && !put) return cudaErrorInvalidValue;
    if (put) limits[which] = *put;
    if (get) *get = limits[which];
    return cudaSuccess;
}

static cudaError_t peers(int *can, int device, int peer) {
    cudaError_t e = check_device(device) ?: check_device(peer);
    return e ?: set(can, 0);
}

static cudaError_t pci_bus_id(char *text, int bytes, int device) {
    if (!text || bytes < 13) return cudaErrorInvalidValue;
    cudaError_t e = check_device(device);
    if (!e) snprintf(text, (size_t)bytes, "0000:00:00.0");
    return e;
}

static unsigned device_flags;

cudaError_t cudaGetDeviceCount(int *count) { return LOOK(set(count, 1)); }
cudaError_t cudaGetDevice(int *device) { return LOOK(set(device, 0)); }
cudaError_t cudaSetDevice(int device) { return LOOK(check_device(device)); }
cudaError_t cudaInitDevice(int device, unsigned how, unsigned flags) {
    (void)how, (void)flags;
    return LOOK(check_device(device));
}
cudaError_t cudaSetDeviceFlags(unsigned flags) { return LOOK((device_flags = flags, cudaSuccess)); }
cudaError_t cudaGetDeviceFlags(unsigned *flags) { return LOOK(set((int *)flags, (int)device_flags)); }
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device) {
    return LOOK(get_properties(p, device));
}
cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr a, int device) {
    return LOOK(get_attribute(value, a, device));
}
cudaError_t cudaChooseDevice(int *device, const struct cudaDeviceProp *p) {
    return LOOK(p ? set(device, 0) : cudaErrorInvalidValue);
}
cudaError_t cudaDeviceSetLimit(enum cudaLimit which, size_t value) {
    return LOOK(limit(which, NULL, &value));
}
cudaError_t cudaDeviceGetLimit(size_t *value, enum cudaLimit which) {
    return LOOK(limit(which, value, NULL));
}
cudaError_t cudaDeviceSetCacheConfig(enum cudaFuncCache config) {
    return LOOK((unsigned)config <= 3 ? cudaSuccess : cudaErrorInvalidValue);
}
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    return LOOK((least ? set(least, 0) : cudaSuccess) ?: greatest ? set(greatest, -5) : cudaSuccess);
}
cudaError_t cudaDeviceGetPCIBusId(char *text, int bytes, int device) {
    return LOOK(pci_bus_id(text, bytes, device));
}
cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer) { return LOOK(peers(can, device, peer)); }
cudaError_t cudaProfilerStart(void) { return LOOK(cudaSuccess); }
cudaError_t cudaProfilerStop(void) { return LOOK(cudaSuccess); }
cudaError_t cudaDriverGetVersion(int *version) { return LOOK(set(version, CUDART_VERSION)); }
cudaError_t cudaRuntimeGetVersion(int *version) { return LOOK(set(version, CUDART_VERSION)); }

static cudaError_t driver_entry_point(const char *name, void **f,
                                      enum cudaDriverEntryPointQueryResult *result) {
    if (!name || !f) return cudaErrorInvalidValue;
    *f = ptx_driver_entry_point(name);
    if (result) *result = *f ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
    return *f || result ? cudaSuccess : cudaErrorSymbolNotFound;
}
cudaError_t cudaGetDriverEntryPoint(const char *name, void **f, unsigned long long flags,
                                    enum cudaDriverEntryPointQueryResult *result) {
    (void)flags;
    return LOOK(driver_entry_point(name, f, result));
}
cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **f, unsigned version,
                                             unsigned long long flags,
                                             enum cudaDriverEntryPointQueryResult *result) {
    (void)version, (void)flags;
    return LOOK(driver_entry_point(name, f, result));
}
PER_THREAD(cudaGetDriverEntryPoint, ptsz);
PER_THREAD(cudaGetDriverEntryPointByVersion, ptsz);

/* ---- occupancy ----------------------------------------------------------------------------------------- */

int ptx_thread_bound(const Kernel *k) {
    int n = 1;
    for (int i = 0; i < 3; i++) n *= k->max_threads[i] ? k->max_threads[i] : 1;
    return k->max_threads[0] ? n : 0;
}

int ptx_registers(const Kernel *k, int threads) {
    int bound = ptx_thread_bound(k), blocks = k->min_blocks ? k->min_blocks : 1;
    if (k->max_registers) return k->max_registers;
    int n = ptx_device.registers_per_sm / (((bound ? bound : threads) + LANES - 1) / LANES * LANES * blocks) /
            8 * 8;
    return n > 255 ? 255 : n < 8 ? 8 : n;
}

static int least(int a, int b) { return a < b ? a : b; }

int ptx_blocks_per_sm(const Kernel *k, int threads, u32 dynamic_shared) {
    const Device *d = &ptx_device;
    int warps = (threads + LANES - 1) / LANES;
    u32 shared = k->shared_bytes + dynamic_shared;
    if (warps <= 0 || threads > 1024 || shared > (u32)d->shared_per_block) return 0;
    int registers = (ptx_registers(k, threads) + 7) / 8 * 8 * LANES * warps; /* given out by 8 a thread */
    int by_shared = d->shared_per_sm / (int)((shared + 127) / 128 * 128 + (u32)d->shared_reserved);
    int by_registers = registers > d->registers_per_sm ? 0 : d->registers_per_sm / registers;
    return least(least(d->threads_per_sm / (warps * LANES), d->blocks_per_sm),
                 least(by_shared, by_registers));
}

static cudaError_t occupancy(int *blocks, const void *func, int threads, size_t dynamic) {
    Function *f;
    if (!blocks || threads <= 0) return cudaErrorInvalidValue;
    cudaError_t e = ptx_function(func, &f);
    if (e) return e;
    if (threads > 1024 || (ptx_thread_bound(f->kernel) && threads > ptx_thread_bound(f->kernel)))
        *blocks = 0;
    else
        *blocks =
            dynamic > (size_t)ptx_max_dynamic(f) ? 0 : ptx_blocks_per_sm(f->kernel, threads, (u32)dynamic);
    return cudaSuccess;
}

static cudaError_t available_shared(size_t *bytes, const void *func, int blocks, int threads) {
    Function *f;
    if (!bytes || blocks <= 0 || threads <= 0) return cudaErrorInvalidValue;
    cudaError_t e = ptx_function(func, &f);
    if (e) return e;
    if (ptx_blocks_per_sm(f->kernel, threads, 0) < blocks) return cudaErrorInvalidValue;
    s64 room = ptx_device.shared_per_sm / blocks / 128 * 128 - ptx_device.shared_reserved;
    if (room > ptx_device.shared_per_block) room = ptx_device.shared_per_block;
    room -= f->kernel->shared_bytes;
    *bytes = room > 0 ? (size_t)room : 0;
    return cudaSuccess;
}

/* Clusters live in one GPC; the SMs are taken as GPCs of 16 and a rest. */
static cudaError_t active_clusters(int *clusters, const void *func, const cudaLaunchConfig_t *config) {
    enum { GPC = 16 };
    Function *f;
    LaunchShape shape;
    if (!clusters || !config) return cudaErrorInvalidValue;
    cudaError_t e = ptx_function(func, &f) ?: ptx_shape_of(config, &shape);
    if (e) return e;
    int size = 1, blocks = 0;
    for (int i = 0; i < 3; i++) {
        int of_kernel = f->kernel->cluster[i] ? f->kernel->cluster[i] : 1;
        size *= shape.cluster[i] ? (int)shape.cluster[i] : of_kernel;
    }
    if (size > (f->large_clusters ? 16 : 8)) return cudaErrorInvalidClusterSize;
    int threads = (int)(shape.block[0] * shape.block[1] * shape.block[2]);
    e = occupancy(&blocks, func, threads, shape.dynamic_shared);
    *clusters = ptx_device.sms / GPC * (GPC * blocks / size) + ptx_device.sms % GPC * blocks / size;
    return e;
}

static cudaError_t largest_cluster(int *size, const void *func, const cudaLaunchConfig_t *config) {
    Function *f;
    int blocks = 0;
    if (!size || !config) return cudaErrorInvalidValue;
    cudaError_t e = ptx_function(func, &f);
    if (e) return e;
    dim3 b = config->blockDim;
    e = occupancy(&blocks, func, (int)(b.x * b.y * b.z), config->dynamicSmemBytes);
    *size = ptx_device.major < 9 || !blocks ? 0 : f->large_clusters ? 16 : 8;
    return e;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *func, int threads,
                                                          size_t dynamic) {
    return LOOK(occupancy(blocks, func, threads, dynamic));
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *func, int threads,
                                                                   size_t dynamic, unsigned flags) {
    return LOOK(flags > 1 ? cudaErrorInvalidValue : occupancy(blocks, func, threads, dynamic));
}
cudaError_t cudaOccupancyAvailableDynamicSMemPerBlock(size_t *bytes, const void *func, int blocks,
                                                      int threads) {
    return LOOK(available_shared(bytes, func, blocks, threads));
}
cudaError_t cudaOccupancyMaxActiveClusters(int *clusters, const void *func,
                                           const cudaLaunchConfig_t *config) {
    return LOOK(active_clusters(clusters, func, config));
}
cudaError_t cudaOccupancyMaxPotentialClusterSize(int *size, const void *func,
                                                 const cudaLaunchConfig_t *config) {
    return LOOK(largest_cluster(size, func, config));
}

/* ---- errors -------------------------------------------------------------------------------------------- */

#define ERRORS(E) \
    E(cudaSuccess, "no error") \
    E(cudaErrorInvalidValue, "invalid argument") \
    E(cudaErrorMemoryAllocation, "out of memory") \
    E(cudaErrorInitializationError, "initialization error") \
    E(cudaErrorInvalidConfiguration, "invalid configuration argument") \
    E(cudaErrorInvalidPitchValue, "invalid pitch argument") \
    E(cudaErrorInvalidSymbol, "invalid device symbol") \
    E(cudaErrorInvalidDevicePointer, "invalid device pointer") \
    E(cudaErrorInvalidMemcpyDirection, "invalid copy direction for memcpy") \
    E(cudaErrorMissingConfiguration, "__global__ function call is not configured") \
    E(cudaErrorInvalidDeviceFunction, "invalid device function") \
    E(cudaErrorNoDevice, "no CUDA-capable device is detected") \
    E(cudaErrorInvalidDevice, "invalid device ordinal") \
    E(cudaErrorInvalidKernelImage, "device kernel image is invalid") \
    E(cudaErrorNoKernelImageForDevice, "no kernel image is available for execution on the device") \
    E(cudaErrorUnsupportedLimit, "limit is not supported on this architecture") \
    E(cudaErrorInvalidPtx, "a PTX JIT compilation failed") \
    E(cudaErrorInvalidResourceHandle, "invalid resource handle") \
    E(cudaErrorIllegalState, "the operation cannot be performed in the present state") \
    E(cudaErrorSymbolNotFound, "named symbol not found") \
    E(cudaErrorNotReady, "device not ready") \
    E(cudaErrorIllegalAddress, "an illegal memory access was encountered") \
    E(cudaErrorLaunchOutOfResources, "too many resources requested for launch") \
    E(cudaErrorPeerAccessAlreadyEnabled, "peer access is already enabled") \
    E(cudaErrorPeerAccessNotEnabled, "peer access has not been enabled") \
    E(cudaErrorHostMemoryAlreadyRegistered, "part or all of the requested memory range is already mapped") \
    E(cudaErrorHostMemoryNotRegistered, "pointer does not correspond to a registered memory region") \
    E(cudaErrorLaunchFailure, "unspecified launch failure") \
    E(cudaErrorCooperativeLaunchTooLarge, "too many blocks in cooperative launch") \
    E(cudaErrorNotPermitted, "operation not permitted") \
    E(cudaErrorNotSupported, "operation not supported") \
    E(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing") \
    E(cudaErrorStreamCaptureInvalidated, "operation failed due to a previous error during capture") \
    E(cudaErrorStreamCaptureMerge, "operation would result in a merge of separate capture sequences") \
    E(cudaErrorStreamCaptureUnmatched, "capture was not ended in the same stream as it began") \
    E(cudaErrorStreamCaptureUnjoined, "capturing stream has unjoined work") \
    E(cudaErrorStreamCaptureIsolation, "dependency created on uncaptured work in another stream") \
    E(cudaErrorStreamCaptureImplicit, \
      "operation would make the legacy stream depend on a capturing blocking stream") \
    E(cudaErrorCapturedEvent, "operation not permitted on an event last recorded in a capturing stream") \
    E(cudaErrorStreamCaptureWrongThread, \
      "attempt to terminate a thread-local capture sequence from another thread") \
    E(cudaErrorInvalidClusterSize, "a kernel launch error has occurred due to cluster misconfiguration") \
    E(cudaErrorUnknown, "unknown error")

static const struct {
    cudaError_t code;
    const char *name, *text;
} errors[] = {
#define E(code, text) {code, #code, text},
    ERRORS(E)
#undef E
};

const char *cudaGetErrorName(cudaError_t e) {
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (errors[i].code == e) return errors[i].name;
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t e) {
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (errors[i].code == e) return errors[i].text;
    return "unrecognized error code";
}
