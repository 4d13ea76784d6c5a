/*  Your own attention in two lines of C: an expression for the scores and one for the mask.
        cc -O2 -march=native -fopenmp -I.. 04_score_mod.c -lm && ./a.out

    Here several documents follow each other in one sequence.  A token sees only its own document: all
    of its title, and of the rest what came before (a prefix LM).  Each head loses interest in distant
    keys at its own rate, by the logarithm of the distance. */

enum { SEQ = 390, HEADS = 4, D = 64, DOCUMENTS = 4, TITLE = 32, SIZE = SEQ * HEADS * D };

/* What the expressions look up: variables of this file. */
static const float fade[HEADS] = {0, 0.25f, 0.5f, 1};
static float log_of[SEQ];                       /* log(1 + distance) */
static unsigned char document[SEQ], title[SEQ]; /* of each token: which document, is it in the title? */

#define FA_NAME documents
#define FA_HEAD_DIM 64
#define FA_FEATURES 0 /* no built-in mask */
#define FA_SCORE_MOD(s, b, h, i, j) ((s)-fade[h] * log_of[(i) > (j) ? (i) - (j) : (j) - (i)])
#define FA_MASK_MOD(b, h, i, j) (document[i] == document[j] && (title[j] || (j) <= (i)))
#include "flashattn.h"

#include <stdlib.h>

static float q[SIZE], k[SIZE], v[SIZE], o[SIZE]; /* (seq, head, dim) */
static double exact[SIZE], scratch[SEQ + 2 * D];

int main(void) {
    const int start[DOCUMENTS + 1] = {0, 90, 160, 310, SEQ};
    for (int n = 0; n < DOCUMENTS; n++)
        for (int i = start[n]; i < start[n + 1]; i++)
            document[i] = (unsigned char)n, title[i] = i < start[n] + TITLE;
    for (int i = 0; i < SEQ; i++) log_of[i] = logf(1 + (float)i);
    for (int x = 0; x < SIZE; x++)
        q[x] = sinf((float)x), k[x] = cosf(3 * (float)x), v[x] = sinf(7 * (float)x);

    printf("who sees whom (each character is 10 tokens):\n");
    for (int i = 5; i < SEQ; i += 10) {
        char line[SEQ / 10 + 1] = "";
        for (int j = 5; j < SEQ; j += 10) line[j / 10] = documents_info.mask_mod(0, 0, i, j) ? '#' : '.';
        printf("  %s\n", line);
    }

    fa_args args = {0};
    args.batch = 1, args.num_heads = HEADS, args.seqlen_q = args.seqlen_k = SEQ;
    args.q.data = q, args.k.data = k, args.v.data = v, args.o.data = o;
    const size_t bytes = documents_forward_workspace(&args);
    void *workspace = malloc(bytes);
    fa_status status = documents_forward(&args, workspace, bytes);
    free(workspace);

    /* documents_info carries the two expressions, so the fp64 reference computes the same thing. */
    if (status == FA_OK) status = fa_reference_forward(&documents_info, &args, exact, NULL, scratch);
    int wrong = 0;
    for (int x = 0; x < SIZE; x++) wrong += !(fabs((double)o[x] - exact[x]) <= 1e-5);
    printf("%s; %d of %d numbers wrong\n", fa_strerror(status), wrong, SIZE);
    return status == FA_OK && wrong == 0 ? 0 : 1;
}
