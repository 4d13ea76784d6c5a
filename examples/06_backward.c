/*  Attention that learns: queries and keys are trained by gradient descent until every position copies the value
    three places before it.
        cc -O2 -march=native -fopenmp -I.. 06_backward.c -lm && ./a.out

    backward needs what forward read and wrote (Q, K, V, O, LSE) and the gradient of O; P is computed again, so nothing of
    size N^2 is ever stored.  The same gradients come out bit for bit whatever the number of threads. */

#define FA_NAME attn32
#define FA_HEAD_DIM 32
#define FA_PASSES (FA_FORWARD | FA_BACKWARD)
#define FA_FEATURES FA_CAUSAL
#include "flashattn.h"

#include <stdlib.h>

enum { SEQ = 128, HEADS = 2, D = 32, N = SEQ * HEADS * D, STEPS = 200, BACK = 3 };

static float q[N], k[N], v[N], o[N], d_o[N], dq[N], dk[N], lse[HEADS * SEQ]; /* (seq, head, dim) */

int main(void) {
    uint32_t seed = 1;
    float *const inputs[] = {q, k, v};
    for (int t = 0; t < 3; t++)
        for (int x = 0; x < N; x++) {
            seed = seed * 1664525u + 1013904223u; /* a number in -1 .. 1 */
            inputs[t][x] = (float)(seed >> 8) / 8388608 - 1;
        }
    fa_args args = {0};
    args.batch = 1, args.num_heads = HEADS, args.seqlen_q = args.seqlen_k = SEQ, args.causal = 1;
    args.q.data = q, args.k.data = k, args.v.data = v, args.o.data = o, args.lse.data = lse;
    args.d_o.data = d_o, args.dq.data = dq, args.dk.data = dk; /* dv.data NULL: that gradient is not wanted */

    const size_t forward_bytes = attn32_forward_workspace(&args), backward_bytes = attn32_backward_workspace(&args);
    const size_t bytes = forward_bytes > backward_bytes ? forward_bytes : backward_bytes;
    void *workspace = malloc(bytes);
    double first = 0, loss = 0;
    for (int step = 0; step < STEPS; step++) {
        fa_status status = attn32_forward(&args, workspace, bytes);
        loss = 0; /* half the mean square of o - target, and its gradient */
        for (int x = 0; x < N; x++) {
            const float target = x >= BACK * HEADS * D ? v[x - BACK * HEADS * D] : 0, miss = o[x] - target;
            loss += (double)(miss * miss) / 2 / SEQ, d_o[x] = miss;
        }
        if (status == FA_OK) status = attn32_backward(&args, workspace, bytes);
        if (status != FA_OK) return fprintf(stderr, "%s\n", fa_strerror(status)), 1;
        for (int x = 0; x < N; x++) q[x] -= dq[x], k[x] -= dk[x]; /* plain gradient descent, rate 1 */
        if (step == 0) first = loss;
        if (step % 40 == 0) printf("step %3d  loss %.4f\n", step, loss);
    }
    printf("step %3d  loss %.4f\n", STEPS, loss);
    free(workspace);
    return loss < first / 4 ? 0 : 1;
}
