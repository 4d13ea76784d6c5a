/*  The smallest program: causal attention of 500 tokens with 8 heads, checked against fp64.
        cc -O2 -march=native -fopenmp -I.. 01_hello.c -lm && ./a.out */

#define FA_NAME attn64
#define FA_HEAD_DIM 64
#include "flashattn.h"

#include <stdlib.h>

enum { SEQ = 500, HEADS = 8, SIZE = SEQ * HEADS * 64 };
static float q[SIZE], k[SIZE], v[SIZE], o[SIZE]; /* (seq, head, dim) */
static double exact[SIZE], scratch[SEQ + 2 * 64];

int main(void) {
    for (int x = 0; x < SIZE; x++)
        q[x] = sinf((float)x), k[x] = cosf(3 * (float)x), v[x] = sinf(7 * (float)x);

    fa_args args = {0}; /* zero is the default, everywhere */
    args.batch = 1, args.num_heads = HEADS, args.seqlen_q = args.seqlen_k = SEQ, args.causal = 1;
    args.q.data = q, args.k.data = k, args.v.data = v, args.o.data = o;
    const size_t bytes = attn64_forward_workspace(&args);
    void *workspace = malloc(bytes);
    fa_status status = attn64_forward(&args, workspace, bytes);
    free(workspace);

    if (status == FA_OK) status = fa_reference_forward(&attn64_info, &args, exact, NULL, scratch);
    int wrong = 0;
    for (int x = 0; x < SIZE; x++) wrong += !(fabs((double)o[x] - exact[x]) <= 1e-5); /* NaN is wrong too */
    printf("%s; %d of %d numbers wrong\n", fa_strerror(status), wrong, SIZE);
    return status == FA_OK && wrong == 0 ? 0 : 1;
}
