/* runtime.h - what the files of the CUDA runtime API share.
 *
 *     device.c      the simulated card: environment, properties, attributes, occupancy, error names
 *     allocation.c  device memory, copies
 *     runtime.c     program registration, launches, exit status
 *     streams.c     streams, events, capture, graphs: decides whether an operation runs or is recorded
 *
 * Operations run when they are submitted, on the caller's thread, under one lock.
 */
#ifndef PTX_RUNTIME_H
#define PTX_RUNTIME_H

#include "machine.h"

/* The headers declare the real prototypes; what they declare is all that the library exports. */
#pragma GCC visibility push(default)
#define CUDA_ENABLE_DEPRECATED
#include <cuda_runtime_api.h>
#include <cuda_profiler_api.h>

void **__cudaRegisterFatBinary(void *fatbin);
void __cudaRegisterFatBinaryEnd(void **handle);
void __cudaUnregisterFatBinary(void **handle);
void __cudaRegisterFunction(void **handle, const char *host, char *device, const char *name, int thread_limit,
                            uint3 *tid, uint3 *bid, dim3 *block, dim3 *grid, int *warp_size);
void __cudaRegisterVar(void **handle, char *host, char *device, const char *name, int ext, size_t size,
                       int constant, int global);
void __cudaRegisterManagedVar(void **handle, void **host, char *device, const char *name, int ext,
                              size_t size, int constant, int global);
char __cudaInitModule(void **handle);
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, struct CUstream_st *stream);
cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream);
cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *host);
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void **args, size_t shared,
                               cudaStream_t stream);
/* With --default-stream per-thread nvcc calls name_ptsz or name_ptds. Nothing here runs beside anything
 * else, so these are the same functions. */
#define PER_THREAD(name, suffix) \
    extern __typeof__(name) name##_##suffix __attribute__((alias(#name), visibility("default")))
#pragma GCC visibility pop

/* ---- calls (runtime.c) --------------------------------------------------------------------------------- */

/* Every API function is API(work) or, where a launch held back for programmatic dependent launch stays held
 * back, LOOK(work): takes the lock, refuses after a sticky error, records the error that work returns. */
cudaError_t ptx_enter(bool flush);
cudaError_t ptx_leave(cudaError_t e);
#define API(work) ptx_leave(ptx_enter(true) ?: (work))
#define LOOK(work) ptx_leave(ptx_enter(false) ?: (work))

/* Says on stderr why a call fails, and returns e. */
cudaError_t ptx_fail(cudaError_t e, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- kernels (runtime.c) ------------------------------------------------------------------------------- */

typedef struct Function { /* one __global__ function of the program; a cudaKernel_t points to it */
    struct Binary *binary;
    const void *host; /* the host function that launches it: the program's name for it */
    const char *name;
    Kernel *kernel;         /* NULL until first needed */
    int max_dynamic_shared; /* as set, or -1 */
    int carveout, cluster_policy;
    bool large_clusters; /* cudaFuncAttributeNonPortableClusterSizeAllowed */
    bool cluster_required;
} Function;

cudaError_t ptx_function(const void *host, Function **f); /* with f->kernel */
int ptx_max_dynamic(const Function *f);
int ptx_thread_bound(const Kernel *k); /* of __launch_bounds__, 0: none (device.c) */
cudaError_t ptx_check_shape(const Kernel *k, const LaunchShape *shape);
cudaError_t ptx_shape_of(const cudaLaunchConfig_t *config, LaunchShape *shape);

/* The device memory of a variable of the program; bytes at offset have to lie inside. */
cudaError_t ptx_symbol(const void *host, size_t offset, size_t bytes, u8 **memory, size_t *size);

/* ---- operations in a stream (runtime.c runs them, streams.c records them) ------------------------------ */

typedef struct Op {
    enum { OP_KERNEL, OP_COPY, OP_FILL, OP_HOST } what;
    Function *function;
    LaunchShape shape;
    void **args;
    u8 *dst;
    const u8 *src;
    size_t dst_pitch, src_pitch, width, height;
    int value; /* memset */
    cudaHostFn_t call;
    void *data;
} Op;

cudaError_t ptx_submit(Op op, cudaStream_t stream); /* checks, then runs or records */
cudaError_t ptx_check_op(const Op *op);
cudaError_t ptx_run_op(const Op *op, cudaStream_t stream);
/* An error for calls that wait or allocate, while any stream captures (cudaStreamCaptureModeRelaxed allows
 * them). */
cudaError_t ptx_no_capture(const char *what);
void ptx_reset_streams(void);
void ptx_open_memory(const void *p, bool open);               /* allocation.c */
void ptx_free_all(void);                                      /* allocation.c */
void ptx_name_allocations(const Kernel *k, const u8 *params); /* allocation.c */

#endif
