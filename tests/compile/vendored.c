/* A user's program beside a copy of the one file, or above it (HEADER="sub/flashattn.h"). */
#ifndef HEADER
#define HEADER "flashattn.h"
#endif
#define FA_NAME attn64
#define FA_HEAD_DIM 64
#include HEADER

/* One query, two equal keys, values 1 and 3: the output is their mean. */
int main(void) {
    static float q[64], k[2 * 64], v[2 * 64], o[64];
    static char workspace[1 << 24];
    fa_args args;
    int d;
    memset(&args, 0, sizeof args);
    for (d = 0; d < 64; d++) v[d] = 1, v[64 + d] = 3;
    args.batch = args.num_heads = args.seqlen_q = args.num_threads = 1;
    args.seqlen_k = 2;
    args.q.data = q, args.k.data = k, args.v.data = v, args.o.data = o;
    if (attn64_forward_workspace(&args) > sizeof workspace) return 2;
    if (attn64_forward(&args, workspace, sizeof workspace)) return 3;
    for (d = 0; d < 64; d++)
        if (!(fabsf(o[d] - 2) < 1e-6f)) return 4;
    return 0;
}
