/*  Attention on your own threads: the work is a row of independent tasks, and you decide who does what.
        cc -O2 -march=native -I.. 03_own_threads.c -lm -pthread && ./a.out

    Any order, any thread, each task once; each thread needs a workspace of its own.  The result does
    not depend on who did what: it is the same, bit for bit, as that of the plain call. */

#define FA_NAME attn80
#define FA_HEAD_DIM 80
#include "flashattn.h"

#include <pthread.h>
#include <stdlib.h>

enum { BATCH = 2, SEQ = 600, HEADS = 4, D = 80, SIZE = BATCH * SEQ * HEADS * D, THREADS = 4 };
static float q[SIZE], k[SIZE], v[SIZE], o[SIZE], plain[SIZE]; /* (batch, seq, head, dim) */
static double exact[SIZE], scratch[SEQ + 2 * D];

static fa_args args; /* all zero */
static int64_t tasks, next_task;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of next_task */

typedef struct worker {
    pthread_t thread;
    void *workspace;
    int64_t done;
} worker;

static void *work(void *self) {
    worker *w = (worker *)self;
    for (;;) {
        pthread_mutex_lock(&lock);
        const int64_t task = next_task++;
        pthread_mutex_unlock(&lock);
        if (task >= tasks) return NULL;
        attn80_forward_run_task(&args, task, w->workspace);
        w->done++;
    }
}

int main(void) {
    for (int x = 0; x < SIZE; x++)
        q[x] = sinf((float)x), k[x] = cosf(3 * (float)x), v[x] = sinf(7 * (float)x);

    args.batch = BATCH, args.num_heads = HEADS, args.seqlen_q = args.seqlen_k = SEQ, args.causal = 1;
    args.q.data = q, args.k.data = k, args.v.data = v, args.o.data = o;
    args.num_threads = 1; /* so that _workspace() speaks of one thread */

    fa_status status = attn80_check(&args); /* here, for _run_task does not check */
    if (status) return fprintf(stderr, "%s\n", fa_strerror(status)), 1;
    const size_t bytes = attn80_forward_workspace(&args);
    tasks = attn80_forward_num_tasks(&args);

    worker workers[THREADS] = {0};
    pthread_mutex_lock(&lock); /* nobody takes a task before all threads are there */
    for (int t = 0; t < THREADS; t++) {
        workers[t].workspace = malloc(bytes);
        if (!workers[t].workspace || pthread_create(&workers[t].thread, NULL, work, &workers[t])) return 1;
    }
    pthread_mutex_unlock(&lock);
    for (int t = 0; t < THREADS; t++) {
        pthread_join(workers[t].thread, NULL);
        printf("thread %d did %d of %d tasks\n", t, (int)workers[t].done, (int)tasks);
    }

    args.o.data = plain;
    status = attn80_forward(&args, workers[0].workspace, bytes);
    if (status == FA_OK) status = fa_reference_forward(&attn80_info, &args, exact, NULL, scratch);
    if (status) return fprintf(stderr, "%s\n", fa_strerror(status)), 1;
    int wrong = 0;
    for (int x = 0; x < SIZE; x++) wrong += !(fabs((double)o[x] - exact[x]) <= 1e-5);
    const int same = memcmp(o, plain, sizeof o) == 0;
    printf("%d of %d numbers wrong; %s bits as the plain call\n", wrong, SIZE,
           same ? "the same" : "NOT the same");
    for (int t = 0; t < THREADS; t++) free(workers[t].workspace);
    return same && wrong == 0 ? 0 : 1;
}
