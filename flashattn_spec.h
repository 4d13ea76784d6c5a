/*  flashattn_spec.h - v0.1.0 - speculative decoding, lossless - MIT licence, see end of flashattn.h

    WHAT      Draft tokens in, tokens of the target distribution out: verification of chains and trees, building of trees,
              sampling, Medusa heads, ensembles of drafts, planning. Plain C on the CPU; the same as CUDA kernels when
              nvcc compiles it.

    CONTENTS  search for:  >>weights  >>sampling  >>trees  >>chains  >>verify  >>builders  >>medusa  >>ensembles
                           >>planning  >>cuda
*/

#ifndef FA_FLASHATTN_SPEC_H
#define FA_FLASHATTN_SPEC_H

#include "flashattn.h"

/* ======================================================================================== */
/* >>weights  probabilities as integers: sums that do not depend on their order              */
/* ======================================================================================== */

/* ======================================================================================== */
/* >>sampling coins, temperature, top-k, top-p, min-p                                        */
/* ======================================================================================== */

/* ======================================================================================== */
/* >>trees    the data model                                                                 */
/* ======================================================================================== */

#define FA_TREE_MAX_NODES 1024 /* root included */

/* A batch of token trees. Node 0 of each is its root: the last token that is certain, not yet in the KV cache. Nodes are in
 * topological order; siblings are in the order of their indices. */
typedef struct fa_trees {
    int32_t batch;
    int32_t num_nodes;     /* of each tree, 1 .. FA_TREE_MAX_NODES; with indptr: the most that one has */
    const int32_t *indptr; /* (batch + 1): tree b is nodes indptr[b] .. indptr[b+1]-1 of the arrays; NULL: num_nodes each */
    const int32_t *parent; /* (total): node of the same tree, less than the node's own; -1 for a root */
    const int32_t *token;  /* (total) */
} fa_trees;

/* ======================================================================================== */
/* >>chains   verification of gamma drafts in a row                                          */
/* ======================================================================================== */

/* ======================================================================================== */
/* >>verify   verification of trees                                                          */
/* ======================================================================================== */

/* ======================================================================================== */
/* >>builders trees from paths, expansions, merges, scores, n-grams; masks and positions     */
/* ======================================================================================== */

/* ======================================================================================== */
/* >>medusa   heads: forward, backward, loss; candidates                                     */
/* ======================================================================================== */

/* ======================================================================================== */
/* >>ensembles boosting of several drafts                                                    */
/* ======================================================================================== */

/* ======================================================================================== */
/* >>planning acceptance, expected tokens, speedup; adaptive draft lengths and trees         */
/* ======================================================================================== */

/* ======================================================================================== */
/* >>cuda     the same on the GPU                                                            */
/* ======================================================================================== */

#endif
