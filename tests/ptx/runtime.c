/* runtime.c - the heart of the CUDA runtime API: the program's kernels and variables, launches, and how
 * the process ends. allocation.c has memory and copies, device.c answers questions about the card,
 * streams.c orders and records the work.
 */
#define _GNU_SOURCE
#include "runtime.h"
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

/* ---- calls --------------------------------------------------------------------------------------------- */

static pthread_mutex_t lock =
    PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP; /* host functions may call the API again */
static _Thread_local cudaError_t last_error;
static cudaError_t sticky; /* of a failed launch: everything fails until cudaDeviceReset */

cudaError_t ptx_enter(bool flush) {
    pthread_mutex_lock(&lock);
    cudaError_t e = flush ? (cudaError_t)ptx_flush() : cudaSuccess;
    return sticky ? sticky : e;
}

cudaError_t ptx_leave(cudaError_t e) {
    if (e) last_error = e;
    pthread_mutex_unlock(&lock);
    return e;
}

cudaError_t ptx_fail(cudaError_t e, const char *format, ...) {
    va_list args;
    va_start(args, format);
    fprintf(stderr, "PTX machine: ");
    vfprintf(stderr, format, args);
    fprintf(stderr, " (%s)\n", cudaGetErrorName(e));
    va_end(args);
    return e;
}

cudaError_t cudaPeekAtLastError(void) { return sticky ? sticky : last_error; }
cudaError_t cudaGetLastError(void) {
    cudaError_t e = cudaPeekAtLastError();
    last_error = cudaSuccess;
    return e;
}
cudaError_t cudaDeviceSynchronize(void) { return API(ptx_no_capture("cudaDeviceSynchronize")); }

/* ---- the program's kernels and variables --------------------------------------------------------------- */

typedef struct Binary { /* one fat binary: the kernels and variables of one source file */
    const void *fatbin;
    Module *module; /* NULL until first needed */
    struct Binary *next;
} Binary;

typedef struct {
    Binary *binary;
    const void *host; /* what stands for it in host code */
    void **managed;   /* or the host's pointer to it */
    const char *name;
    size_t bytes;
} HostVariable;

static Binary *binaries;
static Function **functions;
static HostVariable *variables;
static int nfunctions, nvariables;

void **__cudaRegisterFatBinary(void *fatbin) {
    Binary *b = calloc(1, sizeof *b);
    b->fatbin = fatbin, b->next = binaries, binaries = b;
    return (void **)b;
}
void __cudaRegisterFatBinaryEnd(void **handle) { (void)handle; }
void __cudaUnregisterFatBinary(void **handle) {
    (void)handle;
} /* at exit, when a launch may still be held back */

static void add_variable(HostVariable v) {
    variables = realloc(variables, (size_t)(nvariables + 1) * sizeof *variables);
    variables[nvariables++] = v;
}

void __cudaRegisterVar(void **handle, char *host, char *device, const char *name, int ext, size_t size,
                       int constant, int global) {
    (void)device, (void)ext, (void)constant, (void)global;
    add_variable((HostVariable){(Binary *)handle, host, NULL, name, size});
}
void __cudaRegisterManagedVar(void **handle, void **host, char *device, const char *name, int ext,
                              size_t size, int constant, int global) {
    (void)device, (void)ext, (void)constant, (void)global;
    add_variable((HostVariable){(Binary *)handle, host, host, name, size});
}

static void reset_function(Function *f) {
    f->kernel = NULL, f->carveout = -1, f->cluster_policy = 0,
    f->large_clusters = f->cluster_required = false;
    f->max_dynamic_shared = -1;
}

void __cudaRegisterFunction(void **handle, const char *host, char *device, const char *name, int thread_limit,
                            uint3 *tid, uint3 *bid, dim3 *block, dim3 *grid, int *warp_size) {
    (void)device, (void)thread_limit, (void)tid, (void)bid, (void)block, (void)grid, (void)warp_size;
    Function *f = calloc(1, sizeof *f);
    f->binary = (Binary *)handle, f->host = host, f->name = name;
    reset_function(f);
    functions = realloc(functions, (size_t)(nfunctions + 1) * sizeof *functions);
    functions[nfunctions++] = f;
}

static struct Global *find_global(const HostVariable *v) {
    Module *m = v->binary->module;
    for (int i = 0; m && i < m->nglobals; i++)
        if (!strcmp(m->global[i].name, v->name)) return &m->global[i];
    return NULL;
}

/* Work that may end in ptx_refuse: what the parser does not know has been reported then, and fails the
 * call. */
#define DECODE(work) \
    do { \
        jmp_buf outer; \
        memcpy(&outer, &ptx_launch_exit, sizeof outer); \
        bool refused = setjmp(ptx_launch_exit) != 0; \
        if (!refused) work; \
        memcpy(&ptx_launch_exit, &outer, sizeof outer); \
        if (refused) return cudaErrorInvalidPtx; \
    } while (0)

/* Reads the PTX of a fat binary when it is first needed, and tells the host where managed variables are. */
static cudaError_t load(Binary *b) {
    if (b->module) return cudaSuccess;
    char why[512];
    DECODE(b->module = ptx_module_from_fatbin(b->fatbin, why, sizeof why));
    if (!b->module) return ptx_fail(cudaErrorNoKernelImageForDevice, "%s", why);
    for (int i = 0; i < nvariables; i++) {
        struct Global *g =
            variables[i].managed && variables[i].binary == b ? find_global(&variables[i]) : NULL;
        if (g) *variables[i].managed = g->memory;
    }
    return cudaSuccess;
}

char __cudaInitModule(void **handle) { return API(load((Binary *)handle)) == cudaSuccess; }

cudaError_t ptx_function(const void *host, Function **f) {
    *f = NULL;
    for (int i = 0; i < nfunctions && !*f; i++)
        if (functions[i]->host == host || functions[i] == host) *f = functions[i];
    if (!*f)
        return ptx_fail(cudaErrorInvalidDeviceFunction, "%p is not a __global__ function of this program",
                        host);
    cudaError_t e = (*f)->kernel ? cudaSuccess : load((*f)->binary);
    if (e || (*f)->kernel) return e;
    DECODE((*f)->kernel = ptx_kernel((*f)->binary->module, (*f)->name));
    if (!(*f)->kernel)
        return ptx_fail(cudaErrorInvalidDeviceFunction, "the PTX has no kernel %s", (*f)->name);
    return cudaSuccess;
}

/* The device memory of a variable; bytes at offset have to lie inside. */
cudaError_t ptx_symbol(const void *host, size_t offset, size_t bytes, u8 **memory, size_t *size) {
    for (int i = 0; i < nvariables; i++) {
        const HostVariable *v = &variables[i];
        if (v->host != host && !(v->managed && *v->managed == host)) continue;
        cudaError_t e = load(v->binary);
        if (e) return e;
        struct Global *g = find_global(v);
        if (!g) return ptx_fail(cudaErrorInvalidSymbol, "the PTX has no variable %s", v->name);
        if (offset > v->bytes || bytes > v->bytes - offset)
            return ptx_fail(cudaErrorInvalidValue, "%zu bytes at offset %zu of %s, which has %zu", bytes,
                            offset, v->name, v->bytes);
        if (memory) *memory = g->memory + offset;
        if (size) *size = v->bytes;
        return cudaSuccess;
    }
    return cudaErrorInvalidSymbol;
}

cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *host) {
    for (int i = 0; i < nfunctions; i++) {
        if (functions[i]->host != host) continue;
        *kernel = (cudaKernel_t)(void *)functions[i];
        return cudaSuccess;
    }
    return cudaErrorInvalidDeviceFunction;
}
cudaError_t cudaGetKernel(cudaKernel_t *kernel, const void *host) {
    return LOOK(__cudaGetKernel(kernel, host));
}
cudaError_t cudaGetFuncBySymbol(cudaFunction_t *function, const void *host) {
    return LOOK(__cudaGetKernel((cudaKernel_t *)function, host));
}

/* ---- launches ------------------------------------------------------------------------------------------ */

static Grid *held;               /* a launch that may begin after the next one, see ptx_launch */
static cudaStream_t last_stream; /* of the last launch */

static u64 product(const u32 *n) { return (u64)n[0] * n[1] * n[2]; }

/* Says why a kernel is not launched as asked. */
static cudaError_t __attribute__((format(printf, 3, 4)))
refuse(const Kernel *k, cudaError_t e, const char *format, ...) {
    char name[256], text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    ptx_demangle(k->name, name, sizeof name);
    return ptx_fail(e, "%s: %s", name, text);
}

cudaError_t ptx_check_shape(const Kernel *k, const LaunchShape *s) {
    static const u32 grid_limit[] = {0x7fffffff, 65535, 65535}, block_limit[] = {1024, 1024, 64};
    const Device *d = &ptx_device;
    for (int i = 0; i < 3; i++) {
        if (s->grid[i] - 1 >= grid_limit[i])
            return refuse(k, cudaErrorInvalidConfiguration, "gridDim.%c = %u, allowed: 1 to %u", 'x' + i,
                          s->grid[i], grid_limit[i]);
        if (s->block[i] - 1 >= block_limit[i])
            return refuse(k, cudaErrorInvalidConfiguration, "blockDim.%c = %u, allowed: 1 to %u", 'x' + i,
                          s->block[i], block_limit[i]);
    }
    u64 all = product(s->block);
    if (all > 1024)
        return refuse(k, cudaErrorInvalidConfiguration, "%llu threads a block, at most 1024",
                      (unsigned long long)all);
    int threads = (int)all, bound = ptx_thread_bound(k), registers = ptx_registers(k, threads);
    if (bound && threads > bound)
        return refuse(k, cudaErrorInvalidValue, "%d threads a block, its __launch_bounds__ allow %d", threads,
                      bound);
    if (registers * threads > d->registers_per_sm)
        return refuse(k, cudaErrorLaunchOutOfResources, "%d registers a thread x %d threads, the SM has %d",
                      registers, threads, d->registers_per_sm);
    if (k->shared_bytes > 48 << 10)
        return refuse(k, cudaErrorInvalidValue, "%u bytes of static shared memory, at most 49152",
                      k->shared_bytes);
    if ((u64)k->shared_bytes + s->dynamic_shared > (u64)d->shared_per_block)
        return refuse(k, cudaErrorInvalidValue, "%u static + %u dynamic bytes of shared memory, at most %d",
                      k->shared_bytes, s->dynamic_shared, d->shared_per_block);

    u32 cluster[3];
    for (int i = 0; i < 3; i++) {
        u32 own = k->cluster[i] ? (u32)k->cluster[i] : 1;
        cluster[i] = s->cluster[i] ? s->cluster[i] : own;
        if (k->cluster[0] && cluster[i] != own)
            return refuse(k, cudaErrorInvalidClusterSize,
                          "cluster dimension %c = %u, its __cluster_dims__ says %u", 'x' + i, cluster[i],
                          own);
        if (s->grid[i] % cluster[i])
            return refuse(k, cudaErrorInvalidClusterSize,
                          "gridDim.%c = %u is no multiple of the cluster's %u", 'x' + i, s->grid[i],
                          cluster[i]);
    }
    if (product(cluster) > 1 && d->major < 9)
        return refuse(k, cudaErrorInvalidClusterSize, "clusters need sm_90");
    if (product(cluster) > 16)
        return refuse(k, cudaErrorInvalidClusterSize, "%llu blocks a cluster, at most 16",
                      (unsigned long long)product(cluster));
    int resident = ptx_blocks_per_sm(k, threads, s->dynamic_shared) * d->sms;
    if (s->cooperative && product(s->grid) > (u64)resident)
        return refuse(k, cudaErrorCooperativeLaunchTooLarge,
                      "%llu blocks in a cooperative launch, %d fit on the device",
                      (unsigned long long)product(s->grid), resident);
    return cudaSuccess;
}

enum { WORKSPACE = 64 }; /* bytes; cooperative groups use the second word */

static Grid *new_grid(Kernel *k, const LaunchShape *s, void **args) {
    static u64 launches;
    Grid *g = calloc(1, sizeof *g);
    g->kernel = k, g->dynamic_shared = s->dynamic_shared, g->overlaps = s->overlaps, g->serial = ++launches;
    for (int i = 0; i < 3; i++) {
        g->dim[i] = s->grid[i], g->block[i] = s->block[i];
        u32 own = k->cluster[i] ? (u32)k->cluster[i] : 1;
        g->cluster_dim[i] = s->cluster[i] ? s->cluster[i] : own;
    }
    if (s->cooperative) {
        g->workspace = calloc(1, WORKSPACE);
        ptx_add_allocation(g->workspace, WORKSPACE, "barrier of the grid");
    }
    if (!k->param_bytes) return g;
    size_t bytes = (k->param_bytes + 127) / 128 * 128;
    g->params = aligned_alloc(128, bytes);
    memset(g->params, 0xff, bytes);
    for (int i = 0; i < k->nparams; i++) memcpy(g->params + k->param[i].offset, args[i], k->param[i].size);
    ptx_name_allocations(k, g->params);
    ptx_add_allocation(g->params, k->param_bytes, "parameters")->read_only = true;
    return g;
}

static void free_grid(Grid *g) {
    if (g->params) ptx_remove_allocation(g->params);
    if (g->workspace) ptx_remove_allocation(g->workspace);
    free(g->params), free(g->workspace);
    free(g);
}

/* Runs a grid, and the one before it if that was left to it. What was found fails this call, and all that
 * follow unless a test expected it. */
static int run(Grid *g) {
    u64 before = ptx_findings();
    Grid *primary = g->primary;
    ptx_open_memory(NULL, true);
    bool ok = ptx_run(g);
    ptx_open_memory(NULL, false);
    if (primary) free_grid(primary);
    free_grid(g);
    if (ptx_findings() > before) sticky = cudaErrorLaunchFailure;
    return ok ? 0 : cudaErrorLaunchFailure;
}

int ptx_flush(void) {
    Grid *g = held;
    held = NULL;
    int failed = g ? run(g) : 0;
    ptx_checks_host_waited();
    return failed;
}

/* A launch with programmatic stream serialisation may run before the one in front of it has ended, up to
 * griddepcontrol.wait. To try that, the schedules other than IN_ORDER hold every launch back until the
 * next call shows whether such a launch follows; it gets the held one as its primary. */
int ptx_launch(Kernel *k, const LaunchShape *s, void **args) {
    cudaError_t e = ptx_check_shape(k, s);
    if (e) return (int)e;
    int failed = held && !s->overlaps ? ptx_flush() : 0;
    if (failed) return failed;
    Grid *g = new_grid(k, s, args);
    k->launches++;
    if (held) {
        g->primary = held, held = NULL;
        return run(g);
    }
    if (ptx_device.schedule == IN_ORDER) return run(g);
    held = g;
    return 0;
}

int ptx_max_dynamic(const Function *f) {
    return f->max_dynamic_shared >= 0 ? f->max_dynamic_shared : (48 << 10) - (int)f->kernel->shared_bytes;
}

cudaError_t ptx_check_op(const Op *op) {
    if (op->what != OP_KERNEL) return cudaSuccess;
    const Function *f = op->function;
    const LaunchShape *s = &op->shape;
    if (s->dynamic_shared > (u32)ptx_max_dynamic(f))
        return refuse(
            f->kernel, cudaErrorInvalidValue,
            "%u bytes of dynamic shared memory, allowed: %d (cudaFuncAttributeMaxDynamicSharedMemorySize)",
            s->dynamic_shared, ptx_max_dynamic(f));
    if (!f->large_clusters && s->cluster[0] && product(s->cluster) > 8)
        return refuse(
            f->kernel, cudaErrorInvalidClusterSize,
            "%llu blocks a cluster, more than 8 need cudaFuncAttributeNonPortableClusterSizeAllowed",
            (unsigned long long)product(s->cluster));
    return ptx_check_shape(f->kernel, s);
}

cudaError_t ptx_run_op(const Op *op, cudaStream_t stream) {
    int failed = 0;
    if (op->what == OP_KERNEL) {
        if (stream != last_stream)
            failed = ptx_flush(); /* it overlaps only with the launch before it in its stream */
        last_stream = stream;
        return failed ? (cudaError_t)failed
                      : (cudaError_t)ptx_launch(op->function->kernel, &op->shape, op->args);
    }
    failed = ptx_flush();
    if (failed) return (cudaError_t)failed;
    if (op->what == OP_HOST) {
        op->call(op->data);
        return cudaSuccess;
    }
    ptx_open_memory(op->dst, true);
    if (op->src) ptx_open_memory(op->src, true);
    for (size_t i = 0; i < op->height; i++) {
        if (op->what == OP_FILL)
            memset(op->dst + i * op->dst_pitch, op->value, op->width);
        else
            memmove(op->dst + i * op->dst_pitch, op->src + i * op->src_pitch, op->width);
    }
    ptx_open_memory(op->dst, false);
    if (op->src) ptx_open_memory(op->src, false);
    return cudaSuccess;
}

static cudaError_t launch(const void *func, LaunchShape shape, void **args, cudaStream_t stream) {
    Op op = {.what = OP_KERNEL, .shape = shape, .args = args};
    cudaError_t e = ptx_function(func, &op.function);
    return e ?: ptx_submit(op, stream);
}

static LaunchShape shape_of(dim3 grid, dim3 block, size_t shared) {
    u32 bytes = shared > UINT32_MAX ? UINT32_MAX : (u32)shared;
    return (LaunchShape){
        .grid = {grid.x, grid.y, grid.z}, .block = {block.x, block.y, block.z}, .dynamic_shared = bytes};
}

cudaError_t ptx_shape_of(const cudaLaunchConfig_t *c, LaunchShape *s) {
    *s = shape_of(c->gridDim, c->blockDim, c->dynamicSmemBytes);
    if (c->numAttrs && !c->attrs) return cudaErrorInvalidValue;
    for (unsigned i = 0; i < c->numAttrs; i++) {
        const cudaLaunchAttributeValue *v = &c->attrs[i].val;
        switch ((int)c->attrs[i].id) {
        case cudaLaunchAttributeIgnore: /* and hints that change no result */
        case cudaLaunchAttributeAccessPolicyWindow:
        case cudaLaunchAttributeClusterSchedulingPolicyPreference:
        case cudaLaunchAttributePriority:
        case cudaLaunchAttributeMemSyncDomainMap:
        case cudaLaunchAttributeMemSyncDomain:
        case cudaLaunchAttributePreferredSharedMemoryCarveout: break;
        case cudaLaunchAttributeCooperative: s->cooperative = v->cooperative != 0; break;
        case cudaLaunchAttributeProgrammaticStreamSerialization:
            s->overlaps = v->programmaticStreamSerializationAllowed != 0;
            break;
        case cudaLaunchAttributeClusterDimension:
            s->cluster[0] = v->clusterDim.x, s->cluster[1] = v->clusterDim.y, s->cluster[2] = v->clusterDim.z;
            if (!product(s->cluster))
                return ptx_fail(cudaErrorInvalidClusterSize, "cluster dimension %u x %u x %u", s->cluster[0],
                                s->cluster[1], s->cluster[2]);
            break;
        default:
            return ptx_fail(cudaErrorNotSupported, "launch attribute %d is not supported",
                            (int)c->attrs[i].id);
        }
    }
    return cudaSuccess;
}

static cudaError_t launch_config(const cudaLaunchConfig_t *config, const void *func, void **args) {
    LaunchShape shape;
    if (!config) return cudaErrorInvalidConfiguration;
    cudaError_t e = ptx_shape_of(config, &shape);
    return e ?: launch(func, shape, args, config->stream);
}

cudaError_t cudaLaunchKernel(const void *func, dim3 grid, dim3 block, void **args, size_t shared,
                             cudaStream_t stream) {
    return LOOK(launch(func, shape_of(grid, block, shared), args, stream));
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void **args, size_t shared,
                               cudaStream_t stream) {
    return LOOK(launch(kernel, shape_of(grid, block, shared), args, stream));
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *func, void **args) {
    return LOOK(launch_config(config, func, args));
}
cudaError_t cudaLaunchCooperativeKernel(const void *func, dim3 grid, dim3 block, void **args, size_t shared,
                                        cudaStream_t stream) {
    LaunchShape shape = shape_of(grid, block, shared);
    shape.cooperative = true;
    return LOOK(launch(func, shape, args, stream));
}
PER_THREAD(cudaLaunchKernel, ptsz);
PER_THREAD(__cudaLaunchKernel, ptsz);
PER_THREAD(cudaLaunchKernelExC, ptsz);
PER_THREAD(cudaLaunchCooperativeKernel, ptsz);

enum { NESTED = 16 }; /* f<<<..>>>(g()), where g launches too */
static _Thread_local struct {
    dim3 grid, block;
    size_t shared;
    cudaStream_t stream;
} configured[NESTED];
static _Thread_local int nconfigured;

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, struct CUstream_st *stream) {
    if (nconfigured == NESTED) return 1;
    configured[nconfigured].grid = grid, configured[nconfigured].block = block;
    configured[nconfigured].shared = shared, configured[nconfigured++].stream = stream;
    return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream) {
    if (!nconfigured) return cudaErrorMissingConfiguration;
    nconfigured--;
    *grid = configured[nconfigured].grid, *block = configured[nconfigured].block;
    *shared = configured[nconfigured].shared, *(cudaStream_t *)stream = configured[nconfigured].stream;
    return cudaSuccess;
}

/* ---- attributes of kernels ----------------------------------------------------------------------------- */

static cudaError_t set_attribute(const void *func, enum cudaFuncAttribute attribute, int value) {
    Function *f;
    cudaError_t e = ptx_function(func, &f);
    if (e) return e;
    int room = ptx_device.shared_per_block - (int)f->kernel->shared_bytes;
    switch ((int)attribute) {
    case cudaFuncAttributeMaxDynamicSharedMemorySize:
        if (value < 0 || value > room)
            return refuse(f->kernel, cudaErrorInvalidValue,
                          "MaxDynamicSharedMemorySize = %d, allowed: 0 to %d", value, room);
        f->max_dynamic_shared = value;
        return cudaSuccess;
    case cudaFuncAttributePreferredSharedMemoryCarveout:
        if (value < -1 || value > 100) return cudaErrorInvalidValue;
        f->carveout = value;
        return cudaSuccess;
    case cudaFuncAttributeNonPortableClusterSizeAllowed: f->large_clusters = value != 0; return cudaSuccess;
    case cudaFuncAttributeClusterSchedulingPolicyPreference: f->cluster_policy = value; return cudaSuccess;
    }
    return ptx_fail(cudaErrorInvalidValue, "cudaFuncSetAttribute: attribute %d is not supported",
                    (int)attribute);
}

static cudaError_t get_attributes(struct cudaFuncAttributes *a, const void *func) {
    Function *f;
    if (!a) return cudaErrorInvalidValue;
    cudaError_t e = ptx_function(func, &f);
    if (e) return e;
    const Kernel *k = f->kernel;
    int threads = ptx_thread_bound(k) ? ptx_thread_bound(k) : 1024;
    *a = (struct cudaFuncAttributes){.sharedSizeBytes = k->shared_bytes,
                                     .localSizeBytes = k->local_bytes,
                                     .maxThreadsPerBlock = threads,
                                     .numRegs = ptx_registers(k, threads),
                                     .ptxVersion = k->module->target,
                                     .binaryVersion = ptx_device.major * 10 + ptx_device.minor,
                                     .maxDynamicSharedSizeBytes = ptx_max_dynamic(f),
                                     .preferredShmemCarveout = f->carveout,
                                     .clusterDimMustBeSet = k->explicit_cluster && !k->cluster[0],
                                     .requiredClusterWidth = k->cluster[0],
                                     .requiredClusterHeight = k->cluster[1],
                                     .requiredClusterDepth = k->cluster[2],
                                     .clusterSchedulingPolicyPreference = f->cluster_policy,
                                     .nonPortableClusterSizeAllowed = f->large_clusters};
    for (int i = 0; i < k->module->nglobals; i++)
        if (k->module->global[i].constant) a->constSizeBytes += k->module->global[i].bytes;
    return cudaSuccess;
}

static cudaError_t get_name(const char **name, const void *func) {
    Function *f;
    if (!name) return cudaErrorInvalidValue;
    cudaError_t e = ptx_function(func, &f);
    if (!e) *name = f->name;
    return e;
}

static cudaError_t parameter_info(const void *func, size_t i, size_t *offset, size_t *size) {
    Function *f;
    cudaError_t e = ptx_function(func, &f);
    if (e) return e;
    if (!offset || i >= (size_t)f->kernel->nparams) return cudaErrorInvalidValue;
    *offset = f->kernel->param[i].offset;
    if (size) *size = f->kernel->param[i].size;
    return cudaSuccess;
}

static cudaError_t cache_config(const void *func, enum cudaFuncCache config) {
    Function *f;
    return (unsigned)config > 3 ? cudaErrorInvalidValue : ptx_function(func, &f);
}

cudaError_t cudaFuncSetAttribute(const void *func, enum cudaFuncAttribute attribute, int value) {
    return LOOK(set_attribute(func, attribute, value));
}
cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *a, const void *func) {
    return LOOK(get_attributes(a, func));
}
cudaError_t cudaFuncGetName(const char **name, const void *func) { return LOOK(get_name(name, func)); }
cudaError_t cudaFuncGetParamInfo(const void *func, size_t i, size_t *offset, size_t *size) {
    return LOOK(parameter_info(func, i, offset, size));
}
cudaError_t cudaFuncSetCacheConfig(const void *func, enum cudaFuncCache config) {
    return LOOK(cache_config(func, config));
}

/* ---- reset and exit ------------------------------------------------------------------------------------ */

static void reset(void) {
    ptx_flush();
    ptx_reset_streams();
    ptx_free_all();
    for (int i = 0; i < nfunctions; i++) reset_function(functions[i]);
    for (Binary *b = binaries; b; b = b->next) b->module = NULL; /* read again, with variables as they were */
    sticky = cudaSuccess;
}

cudaError_t cudaDeviceReset(void) {
    pthread_mutex_lock(&lock);
    reset();
    return ptx_leave(last_error = cudaSuccess);
}

/* A program that made findings does not end with success. */
static void at_exit(int status, void *nothing) {
    (void)nothing;
    ptx_flush();
    ptx_report_exit();
    u64 n = ptx_findings();
    if (!n) return;
    fflush(NULL);
    fprintf(stderr, "PTX machine: %llu finding%s\n", (unsigned long long)n, n == 1 ? "" : "s");
    if (!status) _exit(86);
}

/* Before everything else, so that it runs after everything else. */
__attribute__((constructor(101))) static void watch_exit(void) { on_exit(at_exit, NULL); }
