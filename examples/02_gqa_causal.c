/*  A prompt read in two chunks, as inference engines do: bf16, 8 query heads on 2 key/value heads,
    Q, K and V side by side in one buffer, as one matrix product leaves them.
        cc -O2 -march=native -fopenmp -I.. 02_gqa_causal.c -lm && ./a.out

    The causal mask is aligned at the last query and the last key.  So the second chunk needs no
    offset: its queries are the last rows, and it sees all keys so far. */

#define FA_NAME attn128
#define FA_HEAD_DIM 128
#define FA_DTYPE FA_BF16
#define FA_FEATURES FA_CAUSAL /* nothing else is compiled in */
#include "flashattn.h"

#include <stdlib.h>

enum { SEQ = 300, CHUNK = 200, D = 128, HEADS = 8, HEADS_K = 2, ROW = (HEADS + 2 * HEADS_K) * D };

static uint16_t qkv[SEQ * ROW]; /* (seq, 8 heads of q + 2 of k + 2 of v, dim) */
static uint16_t o[SEQ * HEADS * D];
static float lse[HEADS * SEQ];
static double exact[SEQ * HEADS * D], scratch[SEQ + 2 * D];

/* Rows from .. to-1 of the prompt, after all rows before them. */
static fa_args chunk(int from, int to) {
    fa_args args = {0};
    args.batch = 1;
    args.num_heads = HEADS, args.num_heads_k = HEADS_K; /* query head h uses k, v head h / 4 */
    args.seqlen_q = to - from, args.seqlen_k = to;
    args.causal = 1;

    const fa_tensor heads = {NULL, 0, ROW, D}; /* strides in elements: of batch (just one), seq, head */
    args.q = args.k = args.v = heads;
    args.q.data = qkv + (size_t)from * ROW;
    args.k.data = qkv + HEADS * D;
    args.v.data = qkv + (HEADS + HEADS_K) * D;
    args.o.data = o + (size_t)from * HEADS * D; /* no strides: packed (seq, head, dim) */
    args.lse.data = lse + from;
    args.lse.stride_s = 1, args.lse.stride_h = SEQ;
    return args;
}

int main(void) {
    const int starts[] = {0, CHUNK, SEQ};
    uint32_t seed = 1;
    for (size_t x = 0; x < sizeof qkv / sizeof *qkv; x++) {
        seed = seed * 1664525u + 1013904223u; /* a number in -2 .. 2 */
        qkv[x] = fa_f32_to_bf16((float)(seed >> 8) / 4194304 - 2);
    }
    for (int part = 0; part < 2; part++) {
        fa_args args = chunk(starts[part], starts[part + 1]);
        fa_error wrong;
        args.error = &wrong; /* optional: which field, what was given, what is legal */
        const size_t bytes = attn128_forward_workspace(&args);
        void *workspace = malloc(bytes);
        const fa_status status = attn128_forward(&args, workspace, bytes);
        free(workspace);
        if (status) {
            char text[300];
            fa_error_message(&wrong, text, sizeof text);
            fprintf(stderr, "%s\n", text);
            return 1;
        }
        printf("rows %d .. %d: done\n", starts[part], starts[part + 1] - 1);
    }

    /* The same prompt at once, in fp64.  The kernel rounds o, and p where the processor multiplies bf16,
     * to 8 bits: each time an error of at most 2^-8 of |v| <= 2. */
    const fa_args all = chunk(0, SEQ);
    const fa_status status = fa_reference_forward(&attn128_info, &all, exact, NULL, scratch);
    int wrong = 0;
    for (int x = 0; x < SEQ * HEADS * D; x++)
        wrong += !(fabs((double)fa_bf16_to_f32(o[x]) - exact[x]) <= 4.0 / 256);
    printf("%s; %d of %d numbers wrong; lse of the last row is %.4f\n", fa_strerror(status), wrong,
           SEQ * HEADS * D, (double)lse[SEQ - 1]);
    return status == FA_OK && wrong == 0 ? 0 : 1;
}
