/* cuda_test.h - what the CUDA test programs have besides fa_test.h: which cases run, on which device, hooks, what
 * the PTX machine counted, calls in a graph. They are ordinary CUDA programs: on a GPU nothing is counted. */
#ifndef TESTS_CUDA_TEST_H
#define TESTS_CUDA_TEST_H

#include <stdarg.h>

#include "fa_test.h"

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

/* FA_TEST_SCALE=quick runs every n-th case, from FA_TEST_PART on, so that several schedules share the cases.
 * case_number = 0: begins anew. */
static int case_number;
static inline int quick(void) {
    const char *scale = getenv("FA_TEST_SCALE");
    return scale && !strcmp(scale, "quick");
}
static inline int due_every(int n) {
    const char *part = getenv("FA_TEST_PART");
    return !quick() || (case_number++ + n - (part ? atoi(part) % n : 0)) % n == 0;
}

static inline int device_ok(cudaError_t e, const char *what) {
    if (e != cudaSuccess) printf("# %s: %s\n", what, cudaGetErrorString(e));
    return e == cudaSuccess;
}

static inline int on_hopper(void) {
    struct cudaDeviceProp device;
    return cudaGetDeviceProperties(&device, 0) == cudaSuccess && device.major == 9;
}
#define NEEDS_HOPPER \
    if (!on_hopper()) FA_SKIP("the kernel is for sm_90a")

/* ---- hooks of instances: a score that depends on everything, a mask that is any nonzero number -- */

#define HOOK_SCORE(s, b, h, i, j) \
    ((s) * ((h) % 2 ? 0.5f : 2.0f) + ((i) > (j) ? 0.25f : 0.0f) - ((b) == 1 ? 1.0f : 0.0f) * ((j) % 3 == 1))
#define HOOK_MASK(b, h, i, j) (((i) + 2 * (j) + (h) + (b)) % 3 != 0 ? 4 : 0)

/* ---- what the last launch did --------------------------------------------------------------- */

extern "C" __attribute__((weak)) uint64_t ptx_counter(const char *name); /* of the PTX machine */

/* Bytes of device memory, in whatever way. */
static inline double counted_bytes(void) {
    return (double)(ptx_counter("copy_bytes") + ptx_counter("load_bytes") + ptx_counter("store_bytes") +
                    ptx_counter("tma_load_bytes") + ptx_counter("tma_store_bytes"));
}

/* Shared memory in no more wavefronts than it takes without bank conflicts, times factor, and `more`. */
static inline int few_wavefronts(const char *what, double factor, double more) {
    const double got = (double)ptx_counter("shared_wavefronts"),
                 ideal = (double)ptx_counter("shared_wavefronts_ideal");
    const int ok = got <= factor * ideal + more;
    if (!ok) printf("# %s: %.0f wavefronts, %.0f without conflicts\n", what, got, ideal);
    return ok;
}

/* ---- graphs: what is called on the stream between begin and end is done by each replay --------- */

typedef struct device_graph {
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
} device_graph;

static inline int graph_begin(device_graph *g) {
    return device_ok(cudaStreamCreate(&g->stream), "stream") &&
           device_ok(cudaStreamBeginCapture(g->stream, cudaStreamCaptureModeGlobal), "begin");
}
static inline int graph_end(device_graph *g) {
    return device_ok(cudaStreamEndCapture(g->stream, &g->graph), "end") &&
           device_ok(cudaGraphInstantiate(&g->exec, g->graph, 0), "instantiate");
}
static inline int graph_replay(const device_graph *g) {
    return device_ok(cudaGraphLaunch(g->exec, g->stream), "launch") &&
           device_ok(cudaStreamSynchronize(g->stream), "graph");
}
static inline void graph_free(device_graph *g) {
    cudaGraphExecDestroy(g->exec), cudaGraphDestroy(g->graph), cudaStreamDestroy(g->stream);
}

#endif
