/*  Cascade attention: four answers to one prompt.  The prompt's keys and values are stored and read once for all of them,
    each answer's own rows once for itself, and fa_combine adds the two results up.
        cc -O2 -march=native -fopenmp -I.. 07_shared_prefix.c -lm && ./a.out

    The same call merges what ring attention gets from its neighbours, or any other partition of the keys. */

#define FA_NAME attn64
#define FA_HEAD_DIM 64
#define FA_PASSES FA_DECODE
#include "flashattn.h"

#include <stdlib.h>

enum { ANSWERS = 4, PROMPT = 3000, OWN = 100, HEADS = 8, HEADS_K = 2, D = 64 };

static float q[ANSWERS * HEADS * D];                                              /* one new token of each answer */
static float k_prompt[PROMPT * HEADS_K * D], v_prompt[PROMPT * HEADS_K * D];      /* (seq, head, dim) */
static float k_own[ANSWERS * OWN * HEADS_K * D], v_own[ANSWERS * OWN * HEADS_K * D]; /* (answer, seq, head, dim) */
static float o[3][ANSWERS * HEADS * D], lse[3][ANSWERS * HEADS];                  /* of the prompt, their own, both */
static float k_all[(PROMPT + OWN) * HEADS_K * D], v_all[(PROMPT + OWN) * HEADS_K * D];
static double exact[HEADS * D], scratch[PROMPT + OWN + 2 * D];

static void fill(float *x, int n, uint32_t seed) {
    for (int i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u; /* a number in -2 .. 2 */
        x[i] = (float)(seed >> 8) / 4194304 - 2;
    }
}

static fa_status decode(fa_args args, int seqlen_k, const float *k, const float *v, int part) {
    args.num_heads = HEADS, args.num_heads_k = HEADS_K, args.seqlen_k = seqlen_k;
    args.q.data = q, args.k.data = k, args.v.data = v, args.o.data = o[part], args.lse.data = lse[part];
    const size_t bytes = attn64_decode_workspace(&args);
    void *workspace = malloc(bytes);
    const fa_status status = attn64_decode(&args, workspace, bytes);
    free(workspace);
    return status;
}

int main(void) {
    fill(q, ANSWERS * HEADS * D, 1);
    fill(k_prompt, PROMPT * HEADS_K * D, 2), fill(v_prompt, PROMPT * HEADS_K * D, 3);
    fill(k_own, ANSWERS * OWN * HEADS_K * D, 4), fill(v_own, ANSWERS * OWN * HEADS_K * D, 5);

    fa_args shared = {0}, own = {0};
    shared.batch = 1, shared.seqlen_q = ANSWERS; /* the answers' tokens are four queries of one sequence */
    own.batch = ANSWERS, own.seqlen_q = 1;
    fa_status status = decode(shared, PROMPT, k_prompt, v_prompt, 0);
    if (status == FA_OK) status = decode(own, OWN, k_own, v_own, 1);

    fa_part parts[2] = {{{o[0], 0, 0, 0}, {lse[0], 0, 0, 0}, FA_F32}, {{o[1], 0, 0, 0}, {lse[1], 0, 0, 0}, FA_F32}};
    fa_combine_args sum = {0};
    sum.batch = 1, sum.seqlen_q = ANSWERS, sum.num_heads = HEADS, sum.head_dim_v = D;
    parts[1].lse.stride_s = HEADS, parts[1].lse.stride_h = 1; /* that call had the answers as its batch */
    sum.num_parts = 2, sum.parts = parts, sum.o.data = o[2];
    if (status == FA_OK) status = fa_combine(&sum);

    double worst = 0; /* against attention over prompt and answer, in fp64 */
    for (int a = 0; a < ANSWERS && status == FA_OK; a++) {
        const size_t prompt = PROMPT * HEADS_K * D, rest = OWN * HEADS_K * D;
        fa_args whole = {0};
        memcpy(k_all, k_prompt, sizeof k_prompt), memcpy(k_all + prompt, k_own + (size_t)a * rest, rest * sizeof *k_own);
        memcpy(v_all, v_prompt, sizeof v_prompt), memcpy(v_all + prompt, v_own + (size_t)a * rest, rest * sizeof *v_own);
        whole.batch = 1, whole.num_heads = HEADS, whole.num_heads_k = HEADS_K, whole.seqlen_q = 1;
        whole.seqlen_k = PROMPT + OWN, whole.q.data = q + a * HEADS * D, whole.k.data = k_all, whole.v.data = v_all;
        whole.o.data = o[0];
        status = fa_reference_forward(&attn64_info, &whole, exact, NULL, scratch);
        for (int x = 0; x < HEADS * D; x++) worst = fmax(worst, fabs((double)o[2][a * HEADS * D + x] - exact[x]));
    }
    printf("%s; largest error %.2g; keys read: %d instead of %d\n", fa_strerror(status), worst, PROMPT + ANSWERS * OWN,
           ANSWERS * (PROMPT + OWN));
    return status == FA_OK && worst < 1e-5 ? 0 : 1;
}
