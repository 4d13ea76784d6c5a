/* streams.c - streams, events, stream capture and graphs.
 *
 * Work runs when it is submitted, so streams order nothing that is not ordered already. What is left of
 * them is what a program can see: handles, flags, times of events, and capture, where the work is recorded
 * into a graph in the order of submission and runs, in that order, with each launch of the graph.
 */
#include "runtime.h"
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

struct CUgraph_st {
    Op *op;
    int n, room;
};
struct CUgraphExec_st {
    struct CUgraph_st graph;
};

typedef struct Capture {
    struct CUgraph_st *graph;
    struct CUstream_st *origin;
    enum cudaStreamCaptureMode mode;
    pthread_t thread;
    bool failed;
    u64 id;
    struct Capture *next;
} Capture;

struct CUstream_st {
    unsigned flags;
    int priority;
    u64 id;
    Capture *capture;
    bool unjoined; /* captures work that the capture's origin has not waited for */
    struct CUstream_st *next;
};

struct CUevent_st {
    unsigned flags;
    bool recorded;
    double milliseconds;
    Capture *capture; /* recorded in it */
    struct CUstream_st *source;
    struct CUevent_st *next;
};

static struct CUstream_st legacy, per_thread = {.id = 2};
static struct CUstream_st *streams;
static struct CUevent_st *events;
static Capture *captures;
static _Thread_local enum cudaStreamCaptureMode thread_mode = cudaStreamCaptureModeGlobal;

static struct CUstream_st *find_stream(cudaStream_t s) {
    if (!s || s == cudaStreamLegacy) return &legacy;
    if (s == cudaStreamPerThread) return &per_thread;
    for (struct CUstream_st *i = streams; i; i = i->next)
        if (i == s) return i;
    return NULL;
}

static struct CUevent_st *find_event(cudaEvent_t e) {
    for (struct CUevent_st *i = events; i; i = i->next)
        if (i == e) return i;
    return NULL;
}

/* ---- recording ----------------------------------------------------------------------------------------- */

/* The parameters are copied: a graph runs them long after the caller's variables are gone. */
static Op copy_op(Op op) {
    if (op.what != OP_KERNEL) return op;
    const Kernel *k = op.function->kernel;
    size_t n = (size_t)k->nparams;
    void **args = malloc(n * sizeof *args + k->param_bytes + 1);
    u8 *data = (u8 *)(args + n);
    for (size_t i = 0; i < n; i++) {
        args[i] = data + k->param[i].offset;
        memcpy(args[i], op.args[i], k->param[i].size);
    }
    op.args = args;
    return op;
}

static void append(struct CUgraph_st *g, Op op) {
    if (g->n == g->room) g->op = realloc(g->op, (size_t)(g->room = 2 * g->room + 8) * sizeof *g->op);
    g->op[g->n++] = copy_op(op);
}

static void clear(struct CUgraph_st *g) {
    for (int i = 0; i < g->n; i++)
        if (g->op[i].what == OP_KERNEL) free(g->op[i].args);
    free(g->op);
}

cudaError_t ptx_no_capture(const char *what) {
    for (Capture *c = captures; c; c = c->next) {
        if (c->mode == cudaStreamCaptureModeRelaxed || thread_mode == cudaStreamCaptureModeRelaxed) continue;
        if (c->mode == cudaStreamCaptureModeThreadLocal && !pthread_equal(c->thread, pthread_self()))
            continue;
        c->failed = true;
        return ptx_fail(cudaErrorStreamCaptureUnsupported, "%s while a stream captures", what);
    }
    return cudaSuccess;
}

/* The stream that work goes to; an error if it may not get any now. */
static cudaError_t target(cudaStream_t stream, struct CUstream_st **s) {
    *s = find_stream(stream);
    if (!*s) return ptx_fail(cudaErrorInvalidResourceHandle, "%p is not a stream", (void *)stream);
    if ((*s)->capture && (*s)->capture->failed) return cudaErrorStreamCaptureInvalidated;
    for (Capture *c = captures; *s == &legacy && c; c = c->next) {
        if (c->origin->flags & cudaStreamNonBlocking) continue;
        c->failed = true; /* the legacy stream would have to wait for the captured work */
        return ptx_fail(cudaErrorStreamCaptureImplicit,
                        "work in the legacy stream while a blocking stream captures");
    }
    return cudaSuccess;
}

cudaError_t ptx_submit(Op op, cudaStream_t stream) {
    struct CUstream_st *s;
    cudaError_t e = target(stream, &s) ?: ptx_check_op(&op);
    if (e || !s->capture) return e ?: ptx_run_op(&op, stream);
    append(s->capture->graph, op);
    return cudaSuccess;
}

static cudaError_t host_function(cudaStream_t stream, cudaHostFn_t call, void *data) {
    return call ? ptx_submit((Op){.what = OP_HOST, .call = call, .data = data}, stream)
                : cudaErrorInvalidValue;
}

static cudaError_t callback(cudaStream_t stream, cudaStreamCallback_t call, void *data, unsigned flags) {
    struct CUstream_st *s;
    if (!call || flags) return cudaErrorInvalidValue;
    cudaError_t e = target(stream, &s);
    if (e || s->capture) return e ?: cudaErrorStreamCaptureUnsupported;
    call(stream, cudaSuccess, data);
    return cudaSuccess;
}

/* ---- capture ------------------------------------------------------------------------------------------- */

static cudaError_t begin_capture(cudaStream_t stream, enum cudaStreamCaptureMode mode) {
    static u64 id;
    struct CUstream_st *s = find_stream(stream);
    if (!s || (unsigned)mode > cudaStreamCaptureModeRelaxed) return cudaErrorInvalidValue;
    if (s == &legacy) return ptx_fail(cudaErrorStreamCaptureUnsupported, "the legacy stream cannot capture");
    if (s->capture) return cudaErrorIllegalState;
    Capture *c = calloc(1, sizeof *c);
    *c = (Capture){calloc(1, sizeof *c->graph), s, mode, pthread_self(), false, ++id, captures};
    captures = s->capture = c;
    return cudaSuccess;
}

static cudaError_t end_capture(cudaStream_t stream, cudaGraph_t *graph) {
    struct CUstream_st *s = find_stream(stream);
    if (!s || !graph) return cudaErrorInvalidValue;
    Capture *c = s->capture;
    *graph = NULL;
    if (!c) return cudaErrorIllegalState;
    if (c->origin != s) return cudaErrorStreamCaptureUnmatched;
    if (c->mode != cudaStreamCaptureModeRelaxed && !pthread_equal(c->thread, pthread_self()))
        return cudaErrorStreamCaptureWrongThread;
    cudaError_t e = c->failed ? cudaErrorStreamCaptureInvalidated : cudaSuccess;
    per_thread.next = streams; /* not in the list, but it may capture too */
    for (struct CUstream_st *i = &per_thread; i; i = i->next) {
        if (i->capture != c) continue;
        if (i->unjoined && !e) e = cudaErrorStreamCaptureUnjoined;
        i->capture = NULL, i->unjoined = false;
    }
    for (struct CUevent_st *i = events; i; i = i->next)
        if (i->capture == c) i->capture = NULL, i->recorded = false;
    for (Capture **i = &captures; *i; i = &(*i)->next) {
        if (*i != c) continue;
        *i = c->next;
        break;
    }
    if (e)
        clear(c->graph), free(c->graph);
    else
        *graph = c->graph;
    free(c);
    return e;
}

static cudaError_t capture_info(cudaStream_t stream, enum cudaStreamCaptureStatus *status,
                                unsigned long long *id) {
    struct CUstream_st *s = find_stream(stream);
    if (!s || !status) return cudaErrorInvalidValue;
    if (s == &legacy && captures && !(captures->origin->flags & cudaStreamNonBlocking))
        return cudaErrorStreamCaptureImplicit;
    *status = !s->capture          ? cudaStreamCaptureStatusNone
              : s->capture->failed ? cudaStreamCaptureStatusInvalidated
                                   : cudaStreamCaptureStatusActive;
    if (id && s->capture) *id = s->capture->id;
    return cudaSuccess;
}

static cudaError_t exchange_mode(enum cudaStreamCaptureMode *mode) {
    enum cudaStreamCaptureMode old = thread_mode;
    if (!mode || (unsigned)*mode > cudaStreamCaptureModeRelaxed) return cudaErrorInvalidValue;
    thread_mode = *mode, *mode = old;
    return cudaSuccess;
}

/* ---- streams ------------------------------------------------------------------------------------------- */

static cudaError_t create_stream(cudaStream_t *stream, unsigned flags, int priority) {
    static u64 id = 2;
    if (!stream || flags > cudaStreamNonBlocking) return cudaErrorInvalidValue;
    struct CUstream_st *s = calloc(1, sizeof *s);
    s->flags = flags, s->priority = priority > 0 ? 0 : priority < -5 ? -5 : priority, s->id = ++id;
    s->next = streams;
    *stream = streams = s;
    return cudaSuccess;
}

static cudaError_t destroy_stream(cudaStream_t stream) {
    struct CUstream_st *s = find_stream(stream);
    if (!s || s == &legacy || s == &per_thread) return cudaErrorInvalidResourceHandle;
    if (s->capture) s->capture->failed = true;
    for (struct CUstream_st **i = &streams; *i; i = &(*i)->next) {
        if (*i != s) continue;
        *i = s->next;
        break;
    }
    for (Capture *c = captures; c; c = c->next)
        if (c->origin == s) c->origin = &per_thread;
    free(s);
    return cudaSuccess;
}

/* Waiting for a stream: nothing is left to wait for, but it is an error while it captures. */
static cudaError_t wait_stream(cudaStream_t stream, const char *what) {
    struct CUstream_st *s;
    cudaError_t e = target(stream, &s);
    if (e || !s->capture) return e;
    s->capture->failed = true;
    return ptx_fail(cudaErrorStreamCaptureUnsupported, "%s of a stream that captures", what);
}

static cudaError_t stream_number(cudaStream_t stream, void *to, size_t bytes, size_t offset) {
    struct CUstream_st *s = find_stream(stream);
    if (!s) return cudaErrorInvalidResourceHandle;
    if (!to) return cudaErrorInvalidValue;
    memcpy(to, (u8 *)s + offset, bytes);
    return cudaSuccess;
}

/* ---- events -------------------------------------------------------------------------------------------- */

static cudaError_t create_event(cudaEvent_t *event, unsigned flags) {
    if (!event || flags & ~7u) return cudaErrorInvalidValue;
    struct CUevent_st *e = calloc(1, sizeof *e);
    e->flags = flags, e->next = events;
    *event = events = e;
    return cudaSuccess;
}

static cudaError_t destroy_event(cudaEvent_t event) {
    if (!find_event(event)) return cudaErrorInvalidResourceHandle;
    for (struct CUevent_st **i = &events; *i; i = &(*i)->next) {
        if (*i != event) continue;
        *i = event->next;
        break;
    }
    free(event);
    return cudaSuccess;
}

static cudaError_t record_event(cudaEvent_t event, cudaStream_t stream) {
    struct CUstream_st *s;
    if (!find_event(event)) return cudaErrorInvalidResourceHandle;
    cudaError_t e = target(stream, &s);
    if (e) return e;
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    event->milliseconds = 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
    event->recorded = true, event->capture = s->capture, event->source = s;
    return cudaSuccess;
}

/* An event of a capture takes the stream that waits for it into the capture, or the waiting stream has
 * joined it. */
static cudaError_t wait_event(cudaStream_t stream, cudaEvent_t event) {
    struct CUstream_st *s;
    if (!find_event(event)) return cudaErrorInvalidResourceHandle;
    cudaError_t e = target(stream, &s);
    if (e) return e;
    if (event->capture && !s->capture) {
        if (s == &legacy) return cudaErrorStreamCaptureImplicit;
        s->capture = event->capture, s->unjoined = true;
        return cudaSuccess;
    }
    if (!event->capture && s->capture && event->recorded) {
        s->capture->failed = true;
        return cudaErrorStreamCaptureIsolation;
    }
    if (event->capture != s->capture) return s->capture->failed = true, cudaErrorStreamCaptureMerge;
    if (event->capture && event->source != s) event->source->unjoined = false;
    return cudaSuccess;
}

static cudaError_t query_event(cudaEvent_t event) {
    if (!find_event(event)) return cudaErrorInvalidResourceHandle;
    if (!event->capture) return cudaSuccess;
    event->capture->failed = true;
    return cudaErrorCapturedEvent;
}

static cudaError_t elapsed(float *milliseconds, cudaEvent_t from, cudaEvent_t to) {
    if (!milliseconds) return cudaErrorInvalidValue;
    if (!find_event(from) || !find_event(to)) return cudaErrorInvalidResourceHandle;
    if (!from->recorded || !to->recorded || (from->flags | to->flags) & cudaEventDisableTiming)
        return cudaErrorInvalidResourceHandle;
    *milliseconds = (float)(to->milliseconds - from->milliseconds);
    return cudaSuccess;
}

/* ---- graphs -------------------------------------------------------------------------------------------- */

static cudaError_t instantiate(cudaGraphExec_t *exec, cudaGraph_t graph) {
    if (!exec || !graph) return cudaErrorInvalidValue;
    *exec = calloc(1, sizeof **exec);
    for (int i = 0; i < graph->n; i++) append(&(*exec)->graph, graph->op[i]);
    return cudaSuccess;
}

static cudaError_t launch_graph(cudaGraphExec_t exec, cudaStream_t stream) {
    if (!exec) return cudaErrorInvalidValue;
    cudaError_t e = cudaSuccess;
    for (int i = 0; i < exec->graph.n && !e; i++) e = ptx_submit(exec->graph.op[i], stream);
    return e;
}

static cudaError_t graph_nodes(cudaGraph_t graph, const cudaGraphNode_t *nodes, size_t *n) {
    if (!graph || !n) return cudaErrorInvalidValue;
    if (nodes) return ptx_fail(cudaErrorNotSupported, "cudaGraphGetNodes: only the number of nodes");
    *n = (size_t)graph->n;
    return cudaSuccess;
}

static cudaError_t destroy_graph(cudaGraph_t graph) {
    if (!graph) return cudaErrorInvalidValue;
    clear(graph);
    free(graph);
    return cudaSuccess;
}

static cudaError_t destroy_exec(cudaGraphExec_t exec) {
    if (!exec) return cudaErrorInvalidValue;
    clear(&exec->graph);
    free(exec);
    return cudaSuccess;
}

void ptx_reset_streams(void) {
    while (captures) {
        cudaGraph_t graph;
        captures->failed = true, captures->mode = cudaStreamCaptureModeRelaxed;
        end_capture(captures->origin, &graph);
    }
    while (streams) destroy_stream(streams);
    while (events) destroy_event(events);
}

/* ---- API ----------------------------------------------------------------------------------------------- */

cudaError_t cudaStreamCreate(cudaStream_t *s) { return LOOK(create_stream(s, 0, 0)); }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags) {
    return LOOK(create_stream(s, flags, 0));
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned flags, int priority) {
    return LOOK(create_stream(s, flags, priority));
}
cudaError_t cudaStreamDestroy(cudaStream_t s) { return API(destroy_stream(s)); }
cudaError_t cudaStreamSynchronize(cudaStream_t s) { return API(wait_stream(s, "cudaStreamSynchronize")); }
cudaError_t cudaStreamQuery(cudaStream_t s) { return API(wait_stream(s, "cudaStreamQuery")); }
cudaError_t cudaStreamGetFlags(cudaStream_t s, unsigned *flags) {
    return LOOK(stream_number(s, flags, sizeof *flags, offsetof(struct CUstream_st, flags)));
}
cudaError_t cudaStreamGetPriority(cudaStream_t s, int *priority) {
    return LOOK(stream_number(s, priority, sizeof *priority, offsetof(struct CUstream_st, priority)));
}
cudaError_t cudaStreamGetId(cudaStream_t s, unsigned long long *id) {
    return LOOK(stream_number(s, id, sizeof *id, offsetof(struct CUstream_st, id)));
}
cudaError_t cudaStreamGetDevice(cudaStream_t s, int *device) {
    return LOOK(find_stream(s) && device ? (*device = 0, cudaSuccess) : cudaErrorInvalidValue);
}
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags) {
    return API(flags > 1 ? cudaErrorInvalidValue : wait_event(s, e));
}
cudaError_t cudaLaunchHostFunc(cudaStream_t s, cudaHostFn_t call, void *data) {
    return API(host_function(s, call, data));
}
cudaError_t cudaStreamAddCallback(cudaStream_t s, cudaStreamCallback_t call, void *data, unsigned flags) {
    return API(callback(s, call, data, flags));
}
cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode mode) {
    return API(begin_capture(s, mode));
}
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *graph) { return API(end_capture(s, graph)); }
cudaError_t cudaStreamIsCapturing(cudaStream_t s, enum cudaStreamCaptureStatus *status) {
    return LOOK(capture_info(s, status, NULL));
}
cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *mode) {
    return LOOK(exchange_mode(mode));
}

cudaError_t cudaEventCreate(cudaEvent_t *e) { return LOOK(create_event(e, 0)); }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags) { return LOOK(create_event(e, flags)); }
cudaError_t cudaEventDestroy(cudaEvent_t e) { return LOOK(destroy_event(e)); }
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) { return API(record_event(e, s)); }
cudaError_t cudaEventRecordWithFlags(cudaEvent_t e, cudaStream_t s, unsigned flags) {
    return API(flags > 1 ? cudaErrorInvalidValue : record_event(e, s));
}
cudaError_t cudaEventQuery(cudaEvent_t e) { return API(query_event(e)); }
cudaError_t cudaEventSynchronize(cudaEvent_t e) { return API(query_event(e)); }
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to) {
    return API(elapsed(ms, from, to));
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags) {
    (void)flags;
    return LOOK(instantiate(exec, graph));
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *exec, cudaGraph_t graph,
                                          unsigned long long flags) {
    return cudaGraphInstantiate(exec, graph, flags);
}
cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t s) {
    return LOOK(exec && find_stream(s) ? cudaSuccess : cudaErrorInvalidValue);
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s) { return API(launch_graph(exec, s)); }
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *n) {
    return LOOK(graph_nodes(graph, nodes, n));
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return LOOK(destroy_graph(graph)); }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) { return LOOK(destroy_exec(exec)); }

PER_THREAD(cudaStreamSynchronize, ptsz);
PER_THREAD(cudaStreamQuery, ptsz);
PER_THREAD(cudaStreamGetFlags, ptsz);
PER_THREAD(cudaStreamGetPriority, ptsz);
PER_THREAD(cudaStreamGetId, ptsz);
PER_THREAD(cudaStreamGetDevice, ptsz);
PER_THREAD(cudaStreamWaitEvent, ptsz);
PER_THREAD(cudaLaunchHostFunc, ptsz);
PER_THREAD(cudaStreamAddCallback, ptsz);
PER_THREAD(cudaStreamBeginCapture, ptsz);
PER_THREAD(cudaStreamEndCapture, ptsz);
PER_THREAD(cudaStreamIsCapturing, ptsz);
PER_THREAD(cudaEventRecord, ptsz);
PER_THREAD(cudaEventRecordWithFlags, ptsz);
PER_THREAD(cudaGraphUpload, ptsz);
PER_THREAD(cudaGraphLaunch, ptsz);
