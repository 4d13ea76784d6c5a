/*  flashattn_spec.h - v0.1.0 - speculative decoding, lossless - MIT licence, see end of flashattn.h

    WHAT      Draft tokens in, tokens of the target distribution out: verification of chains and trees, building of trees,
              sampling, Medusa heads, ensembles of drafts, planning. Plain C on the CPU; the same as CUDA kernels when
              nvcc compiles it.

    CONTENTS  search for:  >>weights  >>sampling  >>trees  >>chains  >>verify  >>builders  >>medusa  >>ensembles
                           >>planning  >>cuda

    REFERENCES (numbers are of arXiv)
        [LEV]   Leviathan et al. 2023, Fast inference from transformers via speculative decoding, 2211.17192
        [SI]    Miao et al. 2024, SpecInfer, 2305.09781
        [MD]    Cai et al. 2024, Medusa, 2401.10774
        [LA]    Fu et al. 2024, Lookahead decoding, 2402.02057
        [SQ]    Chen et al. 2024, Sequoia, 2402.12374
        [BV]    Sun et al. 2024, Block verification accelerates speculative decoding, 2403.10444
        [EA2]   Li et al. 2024, EAGLE-2, 2406.16858
        [PLD]   Saxena 2023, Prompt lookup decoding
        [SAMME] Zhu et al. 2009, Multi-class AdaBoost
        [OS]    see flashattn.h
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

/* Functions of the chapters >>trees .. >>planning that can fail take an optional fa_error last (or in
 * their argument struct), and write nothing else unless the status is FA_OK. Node numbers count inside a
 * tree. Scratch is on the stack where no workspace is asked for: up to 40 KiB. */

/* The first thing that is wrong with a call. */
typedef struct fai_verdict {
    fa_status status;
    fa_error *error;
} fai_verdict;

static inline void fai_refuse(fai_verdict *v, fa_status status, const char *field, int64_t index, double got,
                              double min, double max) {
    const fa_error e = {status, field, got, min, max, index};
    if (v->status != FA_OK) return;
    v->status = status;
    if (v->error) *v->error = e;
}
static inline void fai_want(fai_verdict *v, fa_status status, const char *field, double got, double min,
                            double max) {
    if (!(got >= min && got <= max)) fai_refuse(v, status, field, -1, got, min, max); /* NaN is outside */
}
/* An array: given, and aligned to its element size. */
static inline void fai_want_array(fai_verdict *v, fa_status status, const char *field, const void *data,
                                  size_t element) {
    if (!data || (uintptr_t)data % element)
        fai_refuse(v, status, field, -1, (double)((uintptr_t)data % element), 1, 0);
}

/* Where the nodes of tree b are in the arrays, and how many. */
FAI_HD static inline int64_t fa_tree_begin(const fa_trees *t, int32_t b) {
    return t->indptr ? t->indptr[b] : (int64_t)b * t->num_nodes;
}
FAI_HD static inline int32_t fa_tree_count(const fa_trees *t, int32_t b) {
    return t->indptr ? t->indptr[b + 1] - t->indptr[b] : t->num_nodes;
}

/* Are these trees? vocab > 0: tokens are looked at too, and must be 0 .. vocab-1. */
static inline fa_status fa_trees_check(const fa_trees *t, int32_t vocab, fa_error *error) {
    fai_verdict v = {FA_OK, error};
    if (!t) return FA_ERR_ARGS_NULL;
    fai_want(&v, FA_ERR_BATCH, "batch", t->batch, 1, INT32_MAX);
    fai_want(&v, FA_ERR_TREE_NODES, "num_nodes", t->num_nodes, 1, FA_TREE_MAX_NODES);
    if (t->indptr) fai_want_array(&v, FA_ERR_TREE_NODES, "indptr", t->indptr, 4);
    fai_want_array(&v, FA_ERR_TREE_PARENT, "parent", t->parent, 4);
    if (vocab > 0) fai_want_array(&v, FA_ERR_TREE_TOKEN, "token", t->token, 4);
    if (v.status == FA_OK && t->indptr && t->indptr[0] < 0)
        fai_refuse(&v, FA_ERR_TREE_NODES, "indptr", 0, t->indptr[0], 0, INT32_MAX);
    for (int32_t b = 0; b < t->batch && v.status == FA_OK; b++) {
        const double rise = t->indptr ? (double)t->indptr[b + 1] - t->indptr[b] : 1;
        if (!(rise >= 1 && rise <= t->num_nodes)) {
            fai_refuse(&v, FA_ERR_TREE_NODES, "indptr", b + 1, rise, 1, t->num_nodes);
            break;
        }
        const int64_t begin = fa_tree_begin(t, b), n = fa_tree_count(t, b);
        for (int64_t i = 0; i < n && v.status == FA_OK; i++) {
            const int32_t parent = t->parent[begin + i];
            if (i ? parent < 0 || parent >= i : parent != -1)
                fai_refuse(&v, FA_ERR_TREE_PARENT, "parent", begin + i, parent, i ? 0 : -1, (double)i - 1);
            else if (vocab > 0 && (t->token[begin + i] < 0 || t->token[begin + i] >= vocab))
                fai_refuse(&v, FA_ERR_TREE_TOKEN, "token", begin + i, t->token[begin + i], 0, vocab - 1);
        }
    }
    return v.status;
}

/* One tree of n nodes: its children as lists, -1 where there is none. */
FAI_HD static inline void fai_tree_links(const int32_t *parent, int32_t n, int32_t *first_child,
                                         int32_t *next_sibling) {
    for (int32_t i = 0; i < n; i++) first_child[i] = next_sibling[i] = -1;
    for (int32_t i = n - 1; i > 0; i--) next_sibling[i] = first_child[parent[i]], first_child[parent[i]] = i;
}

/* What follows from parent, for each node of all trees.
 *   fa_tree_links      first_child, next_sibling (total): siblings in the order of their indices, -1 for none
 *   fa_tree_positions  positions (total) = start[b] + depth, for fa_rope.positions per_row; start NULL: 0.
 *                      The root has depth 0, so start[b] is the rows in the cache before the tree
 *   fa_tree_mask_bits  the data of fa_args.tree_mask: bit t of row i says that node t is i or above it. Row i
 *                      of tree b is the words mask + b*stride_b + i*stride_q; both zero: packed, that is
 *                      ceil(num_nodes/32) words a row and num_nodes rows a tree. Rows that a tree of a ragged
 *                      batch does not use become 0. */
static inline fa_status fa_tree_links(const fa_trees *t, int32_t *first_child, int32_t *next_sibling,
                                      fa_error *error) {
    fai_verdict v = {fa_trees_check(t, 0, error), error};
    fai_want_array(&v, FA_ERR_TREE_OUTPUT, "first_child", first_child, 4);
    fai_want_array(&v, FA_ERR_TREE_OUTPUT, "next_sibling", next_sibling, 4);
    for (int32_t b = 0; v.status == FA_OK && b < t->batch; b++) {
        const int64_t at = fa_tree_begin(t, b);
        fai_tree_links(t->parent + at, fa_tree_count(t, b), first_child + at, next_sibling + at);
    }
    return v.status;
}

static inline fa_status fa_tree_positions(const fa_trees *t, const int32_t *start, int32_t *positions,
                                          fa_error *error) {
    fai_verdict v = {fa_trees_check(t, 0, error), error};
    if (start) fai_want_array(&v, FA_ERR_POSITIONS, "start", start, 4);
    fai_want_array(&v, FA_ERR_TREE_OUTPUT, "positions", positions, 4);
    for (int32_t b = 0; v.status == FA_OK && start && b < t->batch; b++)
        if (start[b] < 0 || start[b] > FA_MAX_SEQLEN)
            fai_refuse(&v, FA_ERR_POSITIONS, "start", b, start[b], 0, FA_MAX_SEQLEN);
    for (int32_t b = 0; v.status == FA_OK && b < t->batch; b++) {
        const int64_t at = fa_tree_begin(t, b);
        positions[at] = start ? start[b] : 0;
        for (int32_t i = 1; i < fa_tree_count(t, b); i++)
            positions[at + i] = positions[at + t->parent[at + i]] + 1;
    }
    return v.status;
}

static inline fa_status fa_tree_mask_bits(const fa_trees *t, uint32_t *mask, int64_t stride_b,
                                          int64_t stride_q, fa_error *error) {
    fai_verdict v = {fa_trees_check(t, 0, error), error};
    if (v.status != FA_OK) return v.status;
    const int64_t words = (t->num_nodes + 31) / 32;
    if (!stride_b && !stride_q) stride_q = words, stride_b = words * t->num_nodes;
    fai_want_array(&v, FA_ERR_TREE_OUTPUT, "mask", mask, 4);
    fai_want(&v, FA_ERR_TREE_MASK_STRIDE, "stride_q", (double)stride_q, (double)words, 0x1p40);
    if (t->batch > 1)
        fai_want(&v, FA_ERR_TREE_MASK_STRIDE, "stride_b", (double)stride_b, (double)words, 0x1p60 / t->batch);
    for (int32_t b = 0; v.status == FA_OK && b < t->batch; b++) {
        const int32_t *parent = t->parent + fa_tree_begin(t, b);
        for (int32_t i = 0; i < t->num_nodes; i++) {
            uint32_t *row = mask + b * stride_b + i * stride_q;
            if (i > 0 && i < fa_tree_count(t, b))
                memcpy(row, row - (i - parent[i]) * stride_q, (size_t)words * 4);
            else
                memset(row, 0, (size_t)words * 4);
            if (i < fa_tree_count(t, b)) row[i / 32] |= 1u << i % 32;
        }
    }
    return v.status;
}

/* The nodes from the root to each leaf of tree b, leaves in the order of their indices: paths (max_paths,
 * length), filled up with -1 [MD, retrieve_indices]. *num_paths and *longest (nodes of the longest path)
 * are written, if not NULL, even if paths is NULL or has no room for them. */
static inline fa_status fa_tree_paths(const fa_trees *t, int32_t b, int32_t *paths, int32_t max_paths,
                                      int32_t length, int32_t *num_paths, int32_t *longest, fa_error *error) {
    fai_verdict v = {fa_trees_check(t, 0, error), error};
    int32_t depth[FA_TREE_MAX_NODES], leaf[FA_TREE_MAX_NODES], count = 0, most = 0;
    if (v.status == FA_OK) fai_want(&v, FA_ERR_TREE_NODES, "b", b, 0, t->batch - 1);
    if (v.status != FA_OK) return v.status;
    const int32_t *parent = t->parent + fa_tree_begin(t, b), n = fa_tree_count(t, b);
    for (int32_t i = 0; i < n; i++) {
        depth[i] = i ? depth[parent[i]] + 1 : 0, leaf[i] = 1;
        if (i) leaf[parent[i]] = 0;
        most = depth[i] > most ? depth[i] : most;
    }
    for (int32_t i = 0; i < n; i++) count += leaf[i];
    if (num_paths) *num_paths = count;
    if (longest) *longest = most + 1;
    if (!paths) return FA_OK;
    fai_want(&v, FA_ERR_TREE_CAPACITY, "max_paths", max_paths, count, INT32_MAX);
    fai_want(&v, FA_ERR_TREE_CAPACITY, "length", length, most + 1, INT32_MAX);
    for (int32_t i = 0; v.status == FA_OK && i < n; i++) {
        if (!leaf[i]) continue;
        for (int32_t d = depth[i] + 1; d < length; d++) paths[d] = -1;
        for (int32_t at = i; at >= 0; at = parent[at]) paths[depth[at]] = at;
        paths += length;
    }
    return v.status;
}

/* ======================================================================================== */
/* >>chains   verification of gamma drafts in a row                                          */
/* ======================================================================================== */

/* ======================================================================================== */
/* >>verify   verification of trees                                                          */
/* ======================================================================================== */

/* ======================================================================================== */
/* >>builders trees from paths, expansions, merges, scores, n-grams; masks and positions     */
/* ======================================================================================== */

/* One tree that is built. Its nodes come out breadth first, so in topological order, but where it is said
 * otherwise. */
typedef struct fa_tree {
    int32_t capacity;  /* room in the arrays, root included: 1 .. FA_TREE_MAX_NODES */
    int32_t num_nodes; /* written */
    int32_t *parent;   /* (capacity) */
    int32_t *token;    /* (capacity); not touched by builders of shapes, which may leave it NULL */
    int32_t *rank;     /* (capacity): which of its parent's candidates a node is; 0: the first, and the root.
                          NULL: not wanted. A shape is a tree of ranks: fa_tree_fill turns them into tokens */
} fa_tree;

/* It, as a batch of one. */
static inline fa_trees fa_tree_view(const fa_tree *t) {
    const fa_trees view = {1, t->num_nodes, NULL, t->parent, t->token};
    return view;
}

static inline void fai_want_tree(fai_verdict *v, const fa_tree *t, int tokens) {
    if (!t) {
        if (v->status == FA_OK) v->status = FA_ERR_ARGS_NULL;
        return;
    }
    fai_want(v, FA_ERR_TREE_CAPACITY, "tree.capacity", t->capacity, 1, FA_TREE_MAX_NODES);
    fai_want_array(v, FA_ERR_TREE_OUTPUT, "tree.parent", t->parent, 4);
    if (tokens) fai_want_array(v, FA_ERR_TREE_OUTPUT, "tree.token", t->token, 4);
    if (t->rank) fai_want_array(v, FA_ERR_TREE_OUTPUT, "tree.rank", t->rank, 4);
}

static inline void fai_want_room(fai_verdict *v, const fa_tree *t, double nodes) {
    fai_want(v, FA_ERR_TREE_CAPACITY, "tree.capacity", t->capacity, nodes, FA_TREE_MAX_NODES);
}

/* A trie on the stack. Children of a node differ in key; they are in the order of insertion, or of their
 * keys. */
typedef struct fai_trie {
    int32_t count, sorted;
    int32_t parent[FA_TREE_MAX_NODES], key[FA_TREE_MAX_NODES], first[FA_TREE_MAX_NODES],
        next[FA_TREE_MAX_NODES];
} fai_trie;

static inline void fai_trie_begin(fai_trie *t, int32_t key, int sorted) {
    t->count = 1, t->sorted = sorted, t->parent[0] = t->first[0] = t->next[0] = -1, t->key[0] = key;
}

/* The child of node with that key, which is made if need be; -1 if there are limit nodes already. */
static inline int32_t fai_trie_child(fai_trie *t, int32_t node, int32_t key, int32_t limit) {
    int32_t *link = &t->first[node];
    while (*link >= 0 && t->key[*link] != key && !(t->sorted && t->key[*link] > key)) link = &t->next[*link];
    if (*link >= 0 && t->key[*link] == key) return *link;
    if (t->count == limit) return -1;
    const int32_t child = t->count++;
    t->parent[child] = node, t->key[child] = key, t->first[child] = -1, t->next[child] = *link;
    *link = child;
    return child;
}

/* Writes t breadth first; its keys are tokens, or else ranks. to (NULL: not wanted): where each node of t
 * went. */
static inline void fai_trie_emit(const fai_trie *t, fa_tree *tree, int tokens,
                                 int32_t to[FA_TREE_MAX_NODES]) {
    int32_t from[FA_TREE_MAX_NODES], count = 1;
    from[0] = 0, tree->parent[0] = -1;
    for (int32_t i = 0; i < count; i++) { /* from is the queue, too */
        int32_t rank = 0;
        if (to) to[from[i]] = i;
        if (tokens) tree->token[i] = t->key[from[i]];
        if (i == 0 && tree->rank) tree->rank[0] = 0;
        for (int32_t child = t->first[from[i]]; child >= 0; child = t->next[child], rank++) {
            tree->parent[count] = i;
            if (tree->rank) tree->rank[count] = tokens ? rank : t->key[child];
            from[count++] = child;
        }
    }
    tree->num_nodes = count;
}

/* ---- shapes ---- */

/* A shape from paths of ranks, (num_paths, length), filled up with -1: {0}, {0, 0}, {1} .. [MD,
 * medusa_choices]. Nodes above the end of a path are there whether a path of their own names them or not;
 * siblings are in the order of their ranks. */
static inline fa_status fa_tree_from_paths(const int32_t *paths, int32_t num_paths, int32_t length,
                                           fa_tree *tree, fa_error *error) {
    fai_verdict v = {FA_OK, error};
    fai_trie trie;
    fai_want_tree(&v, tree, 0);
    fai_want(&v, FA_ERR_TREE_SHAPE, "num_paths", num_paths, 0, INT32_MAX);
    fai_want(&v, FA_ERR_TREE_SHAPE, "length", length, 0, INT32_MAX);
    if (num_paths && length) fai_want_array(&v, FA_ERR_TREE_SHAPE, "paths", paths, 4);
    fai_trie_begin(&trie, 0, 1);
    for (int64_t i = 0; v.status == FA_OK && i < num_paths; i++) {
        int32_t node = 0;
        for (int64_t d = 0; v.status == FA_OK && d < length && paths[i * length + d] != -1; d++) {
            const int32_t rank = paths[i * length + d];
            if (rank < 0)
                fai_refuse(&v, FA_ERR_TREE_SHAPE, "paths", i * length + d, rank, -1, INT32_MAX);
            else
                node = fai_trie_child(&trie, node, rank, tree->capacity);
            if (node < 0) fai_want_room(&v, tree, tree->capacity + 1.0);
        }
    }
    if (v.status == FA_OK) fai_trie_emit(&trie, tree, 0, NULL);
    return v.status;
}

/* A shape in which every node of depth d has width[d] children: the expansion <k1, k2, ...> of [SI], depth
 * levels. */
static inline fa_status fa_tree_expand(const int32_t *width, int32_t depth, fa_tree *tree, fa_error *error) {
    fai_verdict v = {FA_OK, error};
    double total = 1, level = 1;
    int32_t begin = 0, end = 1;
    fai_want_tree(&v, tree, 0);
    fai_want(&v, FA_ERR_TREE_SHAPE, "depth", depth, 0, FA_TREE_MAX_NODES - 1);
    if (depth > 0) fai_want_array(&v, FA_ERR_TREE_SHAPE, "width", width, 4);
    for (int32_t d = 0; v.status == FA_OK && d < depth; d++) {
        if (width[d] < 1 || width[d] > FA_TREE_MAX_NODES)
            fai_refuse(&v, FA_ERR_TREE_SHAPE, "width", d, width[d], 1, FA_TREE_MAX_NODES);
        level *= width[d], total += level;
        fai_want_room(&v, tree, total);
    }
    if (v.status != FA_OK) return v.status;
    tree->parent[0] = -1;
    if (tree->rank) tree->rank[0] = 0;
    for (int32_t d = 0; d < depth; d++) {
        const int32_t next = end;
        for (int32_t i = begin; i < next; i++)
            for (int32_t k = 0; k < width[d]; k++, end++) {
                tree->parent[end] = i;
                if (tree->rank) tree->rank[end] = k;
            }
        begin = next;
    }
    tree->num_nodes = end;
    return FA_OK;
}

/* Tokens for a shape: the node of depth d and rank r gets candidate[(d - 1)*stride + r], as Medusa's heads
 * give them, one row of candidates a level; the root gets token. Shapes stay as they are, so one serves
 * all requests. tokens (num_nodes). */
static inline fa_status fa_tree_fill(const fa_tree *shape, int32_t token, const int32_t *candidate,
                                     int32_t levels, int32_t stride, int32_t *tokens, fa_error *error) {
    fai_verdict v = {FA_OK, error};
    int32_t depth[FA_TREE_MAX_NODES];
    fai_want_tree(&v, shape, 0);
    if (v.status != FA_OK) return v.status;
    const fa_trees view = fa_tree_view(shape);
    v.status = fa_trees_check(&view, 0, error);
    fai_want_array(&v, FA_ERR_TREE_RANK, "rank", shape->rank, 4);
    fai_want_array(&v, FA_ERR_TREE_OUTPUT, "tokens", tokens, 4);
    fai_want(&v, FA_ERR_TREE_RANK, "stride", stride, 1, INT32_MAX);
    if (shape->num_nodes > 1) fai_want_array(&v, FA_ERR_TREE_RANK, "candidate", candidate, 4);
    for (int32_t i = depth[0] = 0; v.status == FA_OK && i < shape->num_nodes; i++) {
        if (i) depth[i] = depth[shape->parent[i]] + 1;
        if (depth[i] > levels)
            fai_refuse(&v, FA_ERR_TREE_RANK, "levels", -1, levels, depth[i], INT32_MAX);
        else if (i && (shape->rank[i] < 0 || shape->rank[i] >= stride))
            fai_refuse(&v, FA_ERR_TREE_RANK, "rank", i, shape->rank[i], 0, stride - 1);
    }
    for (int32_t i = 0; v.status == FA_OK && i < shape->num_nodes; i++)
        tokens[i] = i ? candidate[(int64_t)(depth[i] - 1) * stride + shape->rank[i]] : token;
    return v.status;
}

typedef struct fai_branch { /* a node that could be added */
    double value;
    int32_t parent, depth, rank, order;
} fai_branch;

static inline int fai_branch_before(const fai_branch *x, const fai_branch *y) {
    return x->value != y->value ? x->value > y->value : x->order < y->order;
}

/* What rank r of a head adds to its accuracy; accuracy (ranks): that of its best 1, 2 .. guesses together. */
static inline double fai_increment(const double *accuracy, int32_t r) {
    const double more = accuracy[r] - (r ? accuracy[r - 1] : 0);
    return more > 0 ? more : 0;
}

/* The rank with the largest increment but for those up to r, and r itself, in that order; -1 for r: the
 * first of all. */
static inline int32_t fai_next_rank(const double *accuracy, int32_t ranks, int32_t r) {
    int32_t best = -1;
    for (int32_t i = 0; i < ranks; i++) {
        const double x = fai_increment(accuracy, i), last = r < 0 ? 2 : fai_increment(accuracy, r);
        if ((x < last || (x == last && i > r)) && (best < 0 || x > fai_increment(accuracy, best))) best = i;
    }
    return best;
}

/* The shape of tree->capacity nodes with the greatest expected length, when the head of depth d is right
 * with its first r+1 guesses in accuracy[(d-1)*ranks + r] of all cases, whatever the other heads do [MD,
 * 2.3.3]: nodes in descending order of value, the product of increments along their path, ties by which
 * could have been added first. Any first m of them are the best shape of m nodes. *value (optional):
 * tokens a step, the root's one included. Fewer nodes if heads and ranks have no more. */
static inline fa_status fa_tree_greedy(const double *accuracy, int32_t heads, int32_t ranks, fa_tree *tree,
                                       double *value, fa_error *error) {
    fai_verdict v = {FA_OK, error};
    fai_branch heap[FA_TREE_MAX_NODES +
                    1]; /* each node that is taken offers two: its first child and its next sibling */
    int32_t size = 0, order = 0;
    double product[FA_TREE_MAX_NODES], sum = 1;
    fai_want_tree(&v, tree, 0);
    fai_want(&v, FA_ERR_TREE_SHAPE, "heads", heads, 1, FA_TREE_MAX_NODES);
    fai_want(&v, FA_ERR_TREE_SHAPE, "ranks", ranks, 1, FA_TREE_MAX_NODES);
    fai_want_array(&v, FA_ERR_TREE_SHAPE, "accuracy", accuracy, sizeof *accuracy);
    for (int64_t i = 0; v.status == FA_OK && i < (int64_t)heads * ranks; i++)
        if (!(accuracy[i] >= 0 && accuracy[i] <= 1))
            fai_refuse(&v, FA_ERR_PROBABILITY, "accuracy", i, accuracy[i], 0, 1);
    if (v.status != FA_OK) return v.status;
    tree->parent[0] = -1, tree->num_nodes = 1, product[0] = 1;
    if (tree->rank) tree->rank[0] = 0;
    fai_branch offer[2] = {{0, 0, 0, -1, 0}, {0, -1, 0, -1, 0}};
    while (tree->num_nodes < tree->capacity) {
        for (int side = 0; side < 2; side++) { /* rank: the last one that is in the tree already */
            fai_branch x = offer[side];
            const double *row = accuracy + (int64_t)x.depth * ranks;
            if (x.parent < 0 || x.depth >= heads || (x.rank = fai_next_rank(row, ranks, x.rank)) < 0)
                continue;
            x.value = product[x.parent] * fai_increment(row, x.rank), x.order = order++;
            int32_t at = size++;
            for (; at > 0 && fai_branch_before(&x, &heap[(at - 1) / 2]); at = (at - 1) / 2)
                heap[at] = heap[(at - 1) / 2];
            heap[at] = x;
        }
        if (size == 0) break;
        const fai_branch best = heap[0], last = heap[--size];
        int32_t at = 0;
        for (int32_t child; (child = 2 * at + 1) < size; at = child) {
            if (child + 1 < size && fai_branch_before(&heap[child + 1], &heap[child])) child++;
            if (fai_branch_before(&last, &heap[child])) break;
            heap[at] = heap[child];
        }
        heap[at] = last;
        const int32_t node = tree->num_nodes++;
        const fai_branch child = {0, node, best.depth + 1, -1, 0};
        tree->parent[node] = best.parent, product[node] = best.value, sum += best.value;
        if (tree->rank) tree->rank[node] = best.rank;
        offer[0] = child, offer[1] = best;
    }
    if (value) *value = sum;
    return FA_OK;
}

/* ---- several drafts ---- */

/* The merged tree of several drafts' trees (or chains), one a batch entry, 1 .. 64 [SI, tree merge]: each
 * sequence that one of them has, once. Siblings are in the order in which the drafts name them. Roots must
 * have the same token. source (capacity), optional: bit d is set if draft d proposed the node. node
 * (total), optional: where each node of the drafts went. */
static inline fa_status fa_tree_merge(const fa_trees *drafts, fa_tree *tree, uint64_t *source, int32_t *node,
                                      fa_error *error) {
    fai_verdict v = {fa_trees_check(drafts, INT32_MAX, error), error};
    fai_trie trie;
    int32_t to[FA_TREE_MAX_NODES], in_trie[FA_TREE_MAX_NODES];
    uint64_t bits[FA_TREE_MAX_NODES];
    fai_want_tree(&v, tree, 1);
    if (v.status == FA_OK) fai_want(&v, FA_ERR_TREE_MERGE, "batch", drafts->batch, 1, 64);
    if (source) fai_want_array(&v, FA_ERR_TREE_OUTPUT, "source", source, 8);
    if (node) fai_want_array(&v, FA_ERR_TREE_OUTPUT, "node", node, 4);
    if (v.status != FA_OK) return v.status;
    fai_trie_begin(&trie, drafts->token[fa_tree_begin(drafts, 0)], 0);
    for (int pass = 0; pass < 2; pass++) { /* the first one finds out whether there is room */
        for (int32_t d = 0; d < drafts->batch; d++) {
            const int64_t at = fa_tree_begin(drafts, d);
            const int32_t *parent = drafts->parent + at, *token = drafts->token + at;
            if (token[0] != trie.key[0])
                fai_refuse(&v, FA_ERR_TREE_MERGE, "token", at, token[0], trie.key[0], trie.key[0]);
            in_trie[0] = 0;
            for (int32_t i = 0; v.status == FA_OK && i < fa_tree_count(drafts, d); i++) {
                const int32_t had = trie.count;
                if (i) in_trie[i] = fai_trie_child(&trie, in_trie[parent[i]], token[i], tree->capacity);
                if (in_trie[i] < 0) {
                    fai_want_room(&v, tree, tree->capacity + 1.0);
                    break;
                }
                if (trie.count > had || (!pass && !d && !i)) bits[in_trie[i]] = 0;
                bits[in_trie[i]] |= (uint64_t)1 << d;
                if (pass && node) node[at + i] = to[in_trie[i]];
            }
        }
        if (v.status != FA_OK) return v.status;
        if (!pass) fai_trie_emit(&trie, tree, 1, to);
    }
    for (int32_t i = 0; source && i < trie.count; i++) source[to[i]] = bits[i];
    return FA_OK;
}

/* ---- dynamic trees ---- */

/* Candidates of a tree that grows with the draft's confidence [EA2]: level by level, children of the best
 * `beam` nodes of the last level; in the end the best of all of them are the tree.
 *     fa_dynamic_begin(&d, token)
 *     for each level: fa_dynamic_beam(&d, width, beam, &n)   first the root; the draft runs on these ..
 *                     fa_dynamic_grow(&d, beam, n, tokens, logprob, k)    .. and has these k tokens each
 *     fa_dynamic_finish(&d, nodes, &tree, candidate)
 * Scores are float sums of log-probabilities, at most that of the parent, in this order: the same on every
 * machine. */
typedef struct fa_dynamic {
    int32_t capacity; /* 1 + k + (levels - 1) * width * k, for k candidates a node and beams of width nodes */
    int32_t count;    /* candidates so far, the root included */
    int32_t level;    /* the first of the last level */
    int32_t *parent;  /* (capacity), as is each of these */
    int32_t *token;
    float *score; /* logarithm of the probability of the path, as the draft sees it; -inf: never a node */
} fa_dynamic;

static inline void fai_want_dynamic(fai_verdict *v, const fa_dynamic *d) {
    if (!d) {
        if (v->status == FA_OK) v->status = FA_ERR_ARGS_NULL;
        return;
    }
    fai_want(v, FA_ERR_DYNAMIC, "capacity", d->capacity, 1, FA_MAX_SEQLEN);
    fai_want_array(v, FA_ERR_DYNAMIC, "parent", d->parent, 4);
    fai_want_array(v, FA_ERR_DYNAMIC, "token", d->token, 4);
    fai_want_array(v, FA_ERR_DYNAMIC, "score", d->score, 4);
}
static inline void fai_want_dynamic_begun(fai_verdict *v, const fa_dynamic *d) {
    fai_want_dynamic(v, d);
    if (v->status == FA_OK) fai_want(v, FA_ERR_DYNAMIC, "count", d->count, 1, d->capacity);
    if (v->status == FA_OK) fai_want(v, FA_ERR_DYNAMIC, "level", d->level, 0, d->count - 1);
}

static inline fa_status fa_dynamic_begin(fa_dynamic *d, int32_t token, fa_error *error) {
    fai_verdict v = {FA_OK, error};
    fai_want_dynamic(&v, d);
    if (v.status != FA_OK) return v.status;
    d->count = 1, d->level = 0, d->parent[0] = -1, d->token[0] = token, d->score[0] = 0;
    return FA_OK;
}

/* A number that is larger for a better candidate: by score, then the one with the lower index. */
FAI_HD static inline uint64_t fai_score_key(float score, int32_t index) {
    const uint32_t bits = fai_bits_of(score + 0.0f); /* no -0 */
    return (uint64_t)(bits >> 31 ? ~bits : bits | 0x80000000u) << 32 | ~(uint32_t)index;
}

FAI_HD static inline float fai_key_score(uint64_t key) {
    const uint32_t order = (uint32_t)(key >> 32);
    return fai_float_of(order >> 31 ? order ^ 0x80000000u : ~order);
}

/* heap[at], and what is below it in a heap of n with the least on top */
FAI_HD static inline void fai_sift(uint64_t *heap, int32_t n, int32_t at) {
    const uint64_t x = heap[at];
    for (int32_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= x) break;
        heap[at] = heap[child];
    }
    heap[at] = x;
}
/* The k largest of the keys that are offered; n of them so far. */
FAI_HD static inline void fai_offer(uint64_t *heap, int32_t *n, int32_t k, uint64_t key) {
    if (*n < k) {
        heap[(*n)++] = key;
        if (*n == k)
            for (int32_t at = k / 2; at-- > 0;) fai_sift(heap, k, at);
    } else if (k > 0 && key > heap[0]) {
        heap[0] = key, fai_sift(heap, k, 0);
    }
}
/* In descending order. */
FAI_HD static inline void fai_sort(uint64_t *key, int32_t n) {
    for (int32_t at = n / 2; at-- > 0;) fai_sift(key, n, at);
    for (int32_t end = n - 1; end > 0; end--) {
        const uint64_t least = key[0];
        key[0] = key[end], key[end] = least;
        fai_sift(key, end, 0);
    }
}

/* The best `width` candidates of the last level, best first, ties by index: beam (width). *num: how many
 * there are. */
static inline fa_status fa_dynamic_beam(const fa_dynamic *d, int32_t width, int32_t *beam, int32_t *num,
                                        fa_error *error) {
    fai_verdict v = {FA_OK, error};
    uint64_t heap[FA_TREE_MAX_NODES];
    int32_t n = 0;
    fai_want_dynamic_begun(&v, d);
    fai_want(&v, FA_ERR_DYNAMIC, "width", width, 1, FA_TREE_MAX_NODES);
    fai_want_array(&v, FA_ERR_TREE_OUTPUT, "beam", beam, 4);
    fai_want_array(&v, FA_ERR_TREE_OUTPUT, "num", num, 4);
    if (v.status != FA_OK) return v.status;
    for (int32_t i = d->level; i < d->count; i++)
        if (d->score[i] > -INFINITY) fai_offer(heap, &n, width, fai_score_key(d->score[i], i));
    fai_sort(heap, n);
    for (int32_t i = 0; i < n; i++) beam[i] = (int32_t) ~(uint32_t)heap[i];
    *num = n;
    return FA_OK;
}

/* Children of these nodes of the last level, k each: tokens and logprob (num, k), natural logarithms of
 * the draft's probabilities; what is above 0 counts as 0, NaN as -inf. */
static inline fa_status fa_dynamic_grow(fa_dynamic *d, const int32_t *beam, int32_t num,
                                        const int32_t *tokens, const float *logprob, int32_t k,
                                        fa_error *error) {
    fai_verdict v = {FA_OK, error};
    fai_want_dynamic_begun(&v, d);
    fai_want(&v, FA_ERR_DYNAMIC, "num", num, 1, FA_TREE_MAX_NODES);
    fai_want(&v, FA_ERR_DYNAMIC, "k", k, 1, FA_MAX_SEQLEN);
    fai_want_array(&v, FA_ERR_DYNAMIC, "beam", beam, 4);
    fai_want_array(&v, FA_ERR_DYNAMIC, "tokens", tokens, 4);
    fai_want_array(&v, FA_ERR_DYNAMIC, "logprob", logprob, 4);
    if (v.status == FA_OK)
        fai_want(&v, FA_ERR_DYNAMIC, "capacity", d->capacity, d->count + (double)num * k, FA_MAX_SEQLEN);
    for (int32_t i = 0; v.status == FA_OK && i < num; i++)
        if (beam[i] < d->level || beam[i] >= d->count)
            fai_refuse(&v, FA_ERR_DYNAMIC, "beam", i, beam[i], d->level, d->count - 1);
    if (v.status != FA_OK) return v.status;
    d->level = d->count;
    for (int32_t i = 0; i < num; i++)
        for (int32_t r = 0; r < k; r++, d->count++) {
            const float x = logprob[(int64_t)i * k + r];
            d->parent[d->count] = beam[i], d->token[d->count] = tokens[(int64_t)i * k + r];
            d->score[d->count] = d->score[beam[i]] + (x <= 0 ? x : x > 0 ? 0 : -INFINITY);
        }
    return FA_OK;
}

/* The tree: the root and the best nodes-1 candidates of all levels, ties by index, in the order of their
 * indices. As no child scores higher than its parent, or comes before it, parents are there and come
 * first. candidate (nodes), optional: which candidate each node is, for the draft's rows and its cache.
 * rank (tree.rank): among its siblings in the tree. Fewer nodes if there are no more candidates above
 * -inf. */
static inline fa_status fa_dynamic_finish(const fa_dynamic *d, int32_t nodes, fa_tree *tree,
                                          int32_t *candidate, fa_error *error) {
    fai_verdict v = {FA_OK, error};
    uint64_t heap[FA_TREE_MAX_NODES];
    int32_t n = 0, chosen[FA_TREE_MAX_NODES], children[FA_TREE_MAX_NODES];
    fai_want_dynamic_begun(&v, d);
    fai_want_tree(&v, tree, 1);
    if (candidate) fai_want_array(&v, FA_ERR_TREE_OUTPUT, "candidate", candidate, 4);
    if (v.status == FA_OK) fai_want(&v, FA_ERR_TREE_CAPACITY, "nodes", nodes, 1, tree->capacity);
    if (v.status != FA_OK) return v.status;
    for (int32_t i = 1; i < d->count; i++)
        if (d->score[i] > -INFINITY) fai_offer(heap, &n, nodes - 1, fai_score_key(d->score[i], i));
    for (int32_t i = 0; i < n; i++) heap[i] &= 0xffffffffu; /* ~index: descending is ascending */
    fai_sort(heap, n);
    chosen[0] = children[0] = 0;
    for (int32_t i = 1; i <= n; i++) chosen[i] = (int32_t) ~(uint32_t)heap[i - 1], children[i] = 0;
    for (int32_t i = 0; i <= n; i++) {
        const int32_t above = d->parent[chosen[i]];
        int32_t lo = 0;
        for (int32_t hi = i; above >= 0 && lo < hi;) { /* the node that is candidate `above` */
            const int32_t mid = (lo + hi) / 2;
            if (chosen[mid] < above)
                lo = mid + 1;
            else
                hi = mid;
        }
        tree->parent[i] = above < 0 ? -1 : lo, tree->token[i] = d->token[chosen[i]];
        if (tree->rank) tree->rank[i] = above < 0 ? 0 : children[lo]++;
        if (candidate) candidate[i] = chosen[i];
    }
    tree->num_nodes = n + 1;
    return FA_OK;
}

/* ---- Sequoia ---- */

/* Best trees by dynamic programming [SQ]. acceptance[r] (ranks): chance that the child of rank r is
 * accepted, and none before it, at any node that is; so the value of a tree, tokens a step with the root's
 * one, is the sum over nodes of the product of acceptance along their path. A node's children have the
 * ranks 0, 1 .. without a gap.
 *     T[d][n] = max over b: G[d][b][n]
 *     G[d][b][n] = max over m: G[d][b-1][n-m] + acceptance[b-1] T[d-1][m] */
typedef struct fa_sequoia_args {
    uint32_t first_canary;
    const double *acceptance; /* (ranks): 0 .. 1 */
    int32_t ranks;
    int32_t max_nodes;  /* root included, 1 .. FA_TREE_MAX_NODES */
    int32_t max_depth;  /* edges from the root to a leaf = steps of the draft; 1 .. FA_TREE_MAX_NODES - 1 */
    int32_t max_branch; /* children of a node; 0 = ranks */
    fa_error *error;
    uint32_t last_canary;
} fa_sequoia_args;

/* The workspace: tables that fa_sequoia fills. */
typedef struct fai_sequoia {
    int64_t row;      /* max_nodes + 1 */
    int32_t branches; /* most children of a node */
    double *value;    /* (max_depth + 1, row): T, 0 where there is no such tree */
    double *partial;  /* (2, row): G of b - 1 and of b children */
    int16_t *branch;  /* (max_depth + 1, row): children of the root of that tree */
    int16_t *last;    /* (max_depth + 1, branches, row): nodes below its last child */
    size_t bytes;
} fai_sequoia;

static inline fai_sequoia fai_sequoia_layout(const fa_sequoia_args *a, void *workspace) {
    fai_sequoia s;
    s.row = a->max_nodes + 1;
    s.branches = a->max_branch && a->max_branch < a->ranks ? a->max_branch : a->ranks;
    if (s.branches > a->max_nodes) s.branches = a->max_nodes;
    const int64_t tables = (a->max_depth + 1) * s.row;
    s.value = s.partial = NULL, s.branch = s.last = NULL;
    if (workspace) {
        s.value = (double *)workspace, s.partial = s.value + tables;
        s.branch = (int16_t *)(void *)(s.partial + 2 * s.row), s.last = s.branch + tables;
    }
    s.bytes = (size_t)(tables + 2 * s.row) * 8 + (size_t)(tables * (1 + s.branches)) * 2;
    return s;
}

static inline fa_status fai_sequoia_check(const fa_sequoia_args *a) {
    fai_verdict v = {FA_OK, a ? a->error : NULL};
    if (!a) return FA_ERR_ARGS_NULL;
    if (a->first_canary || a->last_canary) return FA_ERR_NOT_ZEROED;
    fai_want(&v, FA_ERR_TREE_SHAPE, "max_nodes", a->max_nodes, 1, FA_TREE_MAX_NODES);
    fai_want(&v, FA_ERR_TREE_SHAPE, "max_depth", a->max_depth, 1, FA_TREE_MAX_NODES - 1);
    fai_want(&v, FA_ERR_TREE_SHAPE, "max_branch", a->max_branch, 0, INT32_MAX);
    fai_want(&v, FA_ERR_TREE_SHAPE, "ranks", a->ranks, 1, INT32_MAX);
    fai_want_array(&v, FA_ERR_TREE_SHAPE, "acceptance", a->acceptance, sizeof *a->acceptance);
    for (int32_t r = 0; v.status == FA_OK && r < a->ranks; r++)
        if (!(a->acceptance[r] >= 0 && a->acceptance[r] <= 1))
            fai_refuse(&v, FA_ERR_PROBABILITY, "acceptance", r, a->acceptance[r], 0, 1);
    return v.status;
}

/* Bytes that fa_sequoia needs, aligned to 8; 0 if args is not valid. */
static inline size_t fa_sequoia_workspace(const fa_sequoia_args *args) {
    return fai_sequoia_check(args) == FA_OK ? fai_sequoia_layout(args, NULL).bytes : 0;
}

static inline fa_status fai_sequoia_memory(const fa_sequoia_args *a, const void *workspace, size_t bytes) {
    fai_verdict v = {fai_sequoia_check(a), a ? a->error : NULL};
    if (v.status != FA_OK) return v.status;
    fai_want_array(&v, FA_ERR_WORKSPACE_NULL, "workspace", workspace, 8);
    fai_want(&v, FA_ERR_WORKSPACE_SIZE, "bytes", (double)bytes, (double)fai_sequoia_layout(a, NULL).bytes,
             0x1p62);
    return v.status;
}

/* Trees of one depth more than those of `below`, T[d-1]. */
static inline void fai_sequoia_level(const fa_sequoia_args *a, const fai_sequoia *s, int32_t d) {
    double *best = s->value + d * s->row, *g = s->partial, *more = s->partial + s->row;
    const double *below = best - s->row;
    int16_t *branch = s->branch + d * s->row;
    for (int32_t n = 0; n < s->row; n++) best[n] = g[n] = n == 1, branch[n] = 0;
    for (int32_t b = 1; b <= s->branches; b++) {
        int16_t *last = s->last + (d * s->branches + b - 1) * s->row;
        const double p = a->acceptance[b - 1];
        for (int32_t n = 0; n < s->row; n++) {
            more[n] = 0, last[n] = 0;
            for (int32_t m = 1; m < n; m++) {
                const double x = g[n - m] + p * below[m];
                if (g[n - m] > 0 && below[m] > 0 && x > more[n]) more[n] = x, last[n] = (int16_t)m;
            }
            if (more[n] > best[n]) best[n] = more[n], branch[n] = (int16_t)b;
        }
        double *swap = g;
        g = more, more = swap;
    }
}

/* Fills workspace: O(max_depth * branches * max_nodes^2) steps. */
static inline fa_status fa_sequoia(const fa_sequoia_args *args, void *workspace, size_t bytes) {
    const fa_status status = fai_sequoia_memory(args, workspace, bytes);
    if (status != FA_OK) return status;
    const fai_sequoia s = fai_sequoia_layout(args, workspace);
    for (int32_t n = 0; n < s.row; n++) s.value[n] = n == 1, s.branch[n] = 0;
    for (int32_t d = 1; d <= args->max_depth; d++) fai_sequoia_level(args, &s, d);
    return FA_OK;
}

/* Tokens a step of the best tree of exactly `nodes` nodes and at most that depth; 0 if there is none, or
 * fa_sequoia has not filled workspace for these args. */
static inline double fa_sequoia_value(const fa_sequoia_args *args, const void *workspace, int32_t nodes,
                                      int32_t depth) {
    if (!args || !workspace || nodes < 1 || nodes > args->max_nodes || depth < 0 || depth > args->max_depth)
        return 0;
    return ((const double *)workspace)[(int64_t)depth * (args->max_nodes + 1) + nodes];
}

/* That tree, a shape, from the workspace that fa_sequoia filled for the same args. Fewer nodes where depth
 * and branches do not allow as many. */
static inline fa_status fa_sequoia_tree(const fa_sequoia_args *args, const void *workspace, size_t bytes,
                                        int32_t nodes, int32_t depth, fa_tree *tree) {
    fai_verdict v = {fai_sequoia_memory(args, workspace, bytes), args ? args->error : NULL};
    int32_t size[FA_TREE_MAX_NODES], left[FA_TREE_MAX_NODES], end = 1; /* nodes and depth from here down */
    fai_want_tree(&v, tree, 0);
    if (v.status != FA_OK) return v.status;
    fai_want(&v, FA_ERR_TREE_SHAPE, "nodes", nodes, 1, args->max_nodes);
    fai_want(&v, FA_ERR_TREE_SHAPE, "depth", depth, 0, args->max_depth);
    fai_want_room(&v, tree, nodes);
    if (v.status != FA_OK) return v.status;
    const fai_sequoia s = fai_sequoia_layout(args, (void *)(uintptr_t)workspace);
    while (s.value[depth * s.row + nodes] <= 0) nodes--;
    size[0] = nodes, left[0] = depth, tree->parent[0] = -1;
    if (tree->rank) tree->rank[0] = 0;
    for (int32_t i = 0; i < end; i++) {
        const int32_t begin = end, branches = s.branch[left[i] * s.row + size[i]];
        int32_t rest = size[i];
        for (int32_t b = branches; b > 0; b--) { /* the last child first */
            const int32_t child = begin + b - 1, m = s.last[(left[i] * s.branches + b - 1) * s.row + rest];
            tree->parent[child] = i, size[child] = m, left[child] = left[i] - 1, rest -= m;
            if (tree->rank) tree->rank[child] = b - 1;
        }
        end = begin + branches;
    }
    tree->num_nodes = end;
    return FA_OK;
}

/* ---- n-grams ---- */

/* Drafts copied from the text: what followed earlier places that end like the text does (prompt lookup
 * [PLD]). Longer matches first, then later ones. A draft that reaches the end of the text goes on as if it
 * had been appended, so what repeats is repeated. */
typedef struct fa_ngram_args {
    uint32_t first_canary;
    const int32_t *tokens; /* (num_tokens): the text; its last token becomes the root */
    int32_t num_tokens;
    int32_t min_match; /* tokens that an earlier place must share with the end of the text, at least; 0 = 1 */
    int32_t max_match; /* tokens that are compared, at most; 0 = 8 */
    int32_t max_depth; /* tokens of a draft; >= 1 */
    int32_t max_matches; /* drafts, 1 .. 64; 0 = 1: a chain.  Where they differ the tree branches */
    fa_error *error;
    uint32_t last_canary;
} fa_ngram_args;

/* tree gets at most its capacity of nodes: the rest of the drafts is dropped. *longest (optional): tokens
 * of the longest match, 0 if there is none; then the tree is its root. O(num_tokens * max_match) steps at
 * worst. */
static inline fa_status fa_ngram(const fa_ngram_args *args, fa_tree *tree, int32_t *longest) {
    fai_verdict v = {FA_OK, args ? args->error : NULL};
    fai_trie trie;
    uint64_t match[64]; /* length << 32 | place of its last token */
    int32_t count = 0;
    if (!args) return FA_ERR_ARGS_NULL;
    if (args->first_canary || args->last_canary) return FA_ERR_NOT_ZEROED;
    const int32_t least = args->min_match ? args->min_match : 1, most = args->max_match ? args->max_match : 8;
    const int32_t *tokens = args->tokens, last = args->num_tokens - 1;
    fai_want_tree(&v, tree, 1);
    fai_want_array(&v, FA_ERR_NGRAM, "tokens", tokens, 4);
    fai_want(&v, FA_ERR_NGRAM, "num_tokens", args->num_tokens, 1, FA_MAX_SEQLEN);
    fai_want(&v, FA_ERR_NGRAM, "max_match", most, 1, FA_MAX_SEQLEN);
    fai_want(&v, FA_ERR_NGRAM, "min_match", least, 1, most);
    fai_want(&v, FA_ERR_NGRAM, "max_depth", args->max_depth, 1, FA_TREE_MAX_NODES);
    fai_want(&v, FA_ERR_NGRAM, "max_matches", args->max_matches, 0, 64);
    if (v.status != FA_OK) return v.status;
    for (int32_t end = 0; end < last; end++) {
        int32_t length = 0;
        while (length < most && length <= end && tokens[end - length] == tokens[last - length]) length++;
        if (length >= least)
            fai_offer(match, &count, args->max_matches ? args->max_matches : 1,
                      (uint64_t)length << 32 | (uint32_t)end);
    }
    fai_sort(match, count);
    fai_trie_begin(&trie, tokens[last], 0);
    for (int32_t i = 0; i < count; i++) {
        const int32_t begin = (int32_t)(match[i] & 0xffffffffu) + 1, period = last + 1 - begin;
        int32_t node = 0;
        for (int32_t d = 0; d < args->max_depth && node >= 0; d++)
            node = fai_trie_child(&trie, node, tokens[begin + d % period], tree->capacity);
    }
    fai_trie_emit(&trie, tree, 1, NULL);
    if (longest) *longest = count ? (int32_t)(match[0] >> 32) : 0;
    return FA_OK;
}

/* A pool of n-grams [LA]: for each first token (key), the last few different continuations that came by,
 * the most recent first. Memory is the caller's and fixed: a key that finds no room in its bucket of 8
 * takes the place of the one there that was not inserted into for the longest time. */
typedef struct fa_pool {
    int32_t keys;    /* first tokens that there is room for: a multiple of 8, 8 .. 2^24 */
    int32_t guesses; /* continuations of each, 1 .. FA_TREE_MAX_NODES - 1 */
    int32_t length;  /* tokens of a continuation: n - 1, 1 .. FA_TREE_MAX_NODES - 1 */
    uint32_t clock;  /* insertions */
    int32_t *memory; /* fa_pool_bytes(); all zero: empty. Of each key: token, time, count, continuations */
} fa_pool;

FAI_HD static inline int64_t fai_pool_slot(const fa_pool *p) { return 3 + (int64_t)p->guesses * p->length; }

static inline void fai_want_pool(fai_verdict *v, const fa_pool *p) {
    if (!p) {
        if (v->status == FA_OK) v->status = FA_ERR_ARGS_NULL;
        return;
    }
    fai_want(v, FA_ERR_POOL, "keys", p->keys, 8, 1 << 24);
    if (p->keys % 8) fai_refuse(v, FA_ERR_POOL, "keys", -1, p->keys, 8, 1 << 24);
    fai_want(v, FA_ERR_POOL, "guesses", p->guesses, 1, FA_TREE_MAX_NODES - 1);
    fai_want(v, FA_ERR_POOL, "length", p->length, 1, FA_TREE_MAX_NODES - 1);
}

/* Bytes of its memory, aligned to 4; 0 if its sizes are not valid. */
static inline size_t fa_pool_bytes(const fa_pool *pool) {
    fai_verdict v = {FA_OK, NULL};
    fai_want_pool(&v, pool);
    return v.status == FA_OK ? (size_t)(pool->keys * fai_pool_slot(pool)) * 4 : 0;
}

/* The slot of a key; NULL if it has none. make: the slot it gets then. */
static inline int32_t *fai_pool_find(const fa_pool *p, int32_t key, int make) {
    const uint32_t bucket =
        (uint32_t)key * 0x9e3779b1u % (uint32_t)(p->keys / 8); /* 2^32 / golden ratio: spreads runs of ids */
    int32_t *slot = p->memory + (int64_t)bucket * 8 * fai_pool_slot(p), *oldest = NULL;
    for (int way = 0; way < 8; way++, slot += fai_pool_slot(p)) {
        if (slot[2] > 0 && slot[0] == key) return slot;
        if (!oldest || (oldest[2] > 0 &&
                        (slot[2] <= 0 || p->clock - (uint32_t)slot[1] > p->clock - (uint32_t)oldest[1])))
            oldest = slot;
    }
    if (!make) return NULL;
    oldest[0] = key, oldest[2] = 0;
    return oldest;
}

/* Every n-gram of tokens (num_tokens), in order; none if there are fewer than n = length + 1. */
static inline fa_status fa_pool_insert(fa_pool *pool, const int32_t *tokens, int32_t num_tokens,
                                       fa_error *error) {
    fai_verdict v = {FA_OK, error};
    fai_want_pool(&v, pool);
    if (v.status == FA_OK) fai_want_array(&v, FA_ERR_POOL, "memory", pool->memory, 4);
    fai_want(&v, FA_ERR_POOL, "num_tokens", num_tokens, 0, INT32_MAX);
    if (num_tokens > 0) fai_want_array(&v, FA_ERR_POOL, "tokens", tokens, 4);
    for (int64_t i = 0; v.status == FA_OK && i + pool->length < num_tokens; i++) {
        const size_t one = (size_t)pool->length * sizeof(int32_t);
        int32_t *slot = fai_pool_find(pool, tokens[i], 1), *list = slot + 3, n = 0;
        if (slot[2] > pool->guesses) slot[2] = pool->guesses; /* whatever the memory held */
        while (n < slot[2] && memcmp(list + (int64_t)n * pool->length, tokens + i + 1, one)) n++;
        if (n == slot[2] && n < pool->guesses) slot[2]++;
        if (n == pool->guesses) n--; /* the last one goes */
        memmove(list + pool->length, list, (size_t)n * one);
        memcpy(list, tokens + i + 1, one);
        slot[1] = (int32_t)pool->clock++;
    }
    return v.status;
}

/* A tree of the continuations of token, the most recent first; the root alone if there is none. At most
 * tree->capacity nodes: the rest is dropped. */
static inline fa_status fa_pool_tree(const fa_pool *pool, int32_t token, fa_tree *tree, fa_error *error) {
    fai_verdict v = {FA_OK, error};
    fai_trie trie;
    fai_want_pool(&v, pool);
    if (v.status == FA_OK) fai_want_array(&v, FA_ERR_POOL, "memory", pool->memory, 4);
    fai_want_tree(&v, tree, 1);
    if (v.status != FA_OK) return v.status;
    const int32_t *slot = fai_pool_find(pool, token, 0);
    fai_trie_begin(&trie, token, 0);
    for (int32_t n = 0; slot && n < slot[2] && n < pool->guesses; n++)
        for (int32_t d = 0, node = 0; d < pool->length && node >= 0; d++)
            node = fai_trie_child(&trie, node, slot[3 + (int64_t)n * pool->length + d], tree->capacity);
    fai_trie_emit(&trie, tree, 1, NULL);
    return FA_OK;
}

/* ======================================================================================== */
/* >>medusa   heads: forward, backward, loss; candidates                                     */
/* ======================================================================================== */

/* Medusa's heads [MD, 2.1, 2.2.1]: head k = 0, 1 .. of the last hidden state x of position t guesses token
 * t + 2 + k,
 *     h = x + SiLU(W_k x + b_k)   logits = P_k h   loss = sum_k lambda_k mean_t CE(logits, token[t + 2 + k])
 * All f32; sums over the vocabulary in double. With W_k = 0 and b_k = 0 a head starts as P_k itself. What
 * is done for the vocabulary is done for FAI_ROWS rows and FAI_VOCAB of its tokens at a time, twice for
 * gradients: there are no logits of all of it, but where the caller asks for them. */
typedef struct fa_medusa_args {
    uint32_t first_canary;
    int32_t rows, dim, vocab, heads;
    const float *x;          /* (rows, dim) */
    int64_t stride_x;        /* floats from row to row; 0 = dim */
    const float *weight;     /* W (heads, dim, dim): row i makes element i */
    const float *bias;       /* b (heads, dim); NULL = 0 */
    const float *projection; /* P (heads, vocab, dim) */
    int32_t shared;          /* 1: one P (vocab, dim) for all heads, say the model's own */

    /* fa_medusa_forward: outputs that are not NULL */
    float *logits;      /* (rows, heads, vocab) */
    int32_t *top_token; /* (rows, heads, top_k): best first, ties by id; each row goes to fa_tree_fill */
    float *top_logprob; /* (rows, heads, top_k): natural logarithms of their probabilities */
    int32_t top_k;      /* 1 .. 64 with top_token or top_logprob */

    /* fa_medusa_loss: outputs that are not NULL; gradients are those of the loss */
    const int32_t *target;     /* (rows): the token at each position; < 0: as a label, it does not count */
    const int32_t *cu_seqlens; /* (batch + 1): sequence b is rows cu[b] .. cu[b+1]-1; NULL: one sequence */
    int32_t batch;             /* sequences, if cu_seqlens is given */
    int32_t shift; /* head k guesses token t + shift + k; 0 = 2, as the model's own head guesses t + 1 */
    const float *lambda;      /* (heads); NULL: 0.8^(k+1) */
    double *loss;             /* (1) */
    double *head_loss;        /* (heads): mean CE; 0 where nothing counts */
    float *d_x;               /* (rows, dim) */
    float *d_weight, *d_bias; /* as weight and bias */
    float *d_projection;      /* as projection */
    int32_t accumulate;       /* 1: add to the gradients that are there; 0: write */
    fa_error *error;
    uint32_t last_canary;
} fa_medusa_args;

/* ---- f32 matrix products ---- */

/* A tile of C: FAI_GM rows x 2 vectors of FAI_GL floats, in registers; the shapes of >>vector, for the
 * same reasons. */
#if defined(__GNUC__) && !defined(__CUDACC__)
#if defined(__AVX512F__)
#define FAI_GL 16
#define FAI_GM 8
#elif defined(__AVX2__) && defined(__FMA__)
#define FAI_GL 8
#define FAI_GM 6
#else
#define FAI_GL 4
#define FAI_GM 4
#endif
typedef float fai_gvec __attribute__((vector_size(4 * FAI_GL), aligned(4), may_alias));
typedef int32_t fai_gint __attribute__((vector_size(4 * FAI_GL), aligned(4), may_alias));
#else /* one float is a vector, too */
#define FAI_GL 1
#define FAI_GM 4
typedef float fai_gvec;
#endif
#if !defined(FAI_EACH)
#define FAI_EACH(i, from, to) for (int i = (from); i < (to); i++)
#endif

FAI_INLINE fai_gvec fai_gsplat(float x) {
#if FAI_GL == 1
    return x;
#else
    const fai_gvec zero = {0};
    return x - zero; /* a broadcast: x - 0 is x */
#endif
}

FAI_INLINE fai_gvec fai_gfma(fai_gvec a, fai_gvec b, fai_gvec c) {
#if FAI_GL == 16
    return (fai_gvec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif FAI_GL == 8
    return (fai_gvec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif FAI_GL == 4 && defined(__aarch64__)
    return (fai_gvec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

/* exp(x) for x <= 0: relative error 2e-7; 0 below -87.3; NaN for NaN */
FAI_INLINE fai_gvec fai_gexp(fai_gvec x) {
#if FAI_GL == 1
    return expf(x);
#else
    static const float c[6] = {1.3888889e-3f, 8.3333333e-3f, 4.1666667e-2f, 0.16666667f, 0.5f, 1.0f};
    const fai_gvec zero = {0}, magic = zero + 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    const fai_gvec t = fai_gfma(x, zero + 1.44269504f, magic), n = t - magic;
    const fai_gvec r =
        fai_gfma(n, zero - 1.42860677e-6f, fai_gfma(n, zero - 0.693145752f, x)); /* ln 2 in two parts */
    fai_gvec p = zero + 1.9841270e-4f;
    FAI_EACH (i, 0, 6) p = fai_gfma(p, r, zero + c[i]);
    p = fai_gfma(p, r, zero + 1.0f);
    const fai_gint scale = ((fai_gint)t - 0x4b400000 + 127) << 23, tiny = x < zero - 87.3f;
    return (fai_gvec)((fai_gint)(p * (fai_gvec)scale) & ~tiny);
#endif
}

/* rows: a constant, 1 .. FAI_GM */
FAI_INLINE void fai_gemm_tile(const int rows, int64_t depth, const float *a, int64_t ra, int64_t ca,
                              const float *b, int64_t ldb, float *c, int64_t ldc) {
    fai_gvec acc[FAI_GM][2];
    FAI_EACH (i, 0, rows)
        FAI_EACH (n, 0, 2) acc[i][n] = *(const fai_gvec *)(c + i * ldc + n * FAI_GL);
    for (int64_t p = 0; p < depth; p++) {
        const fai_gvec b0 = *(const fai_gvec *)(b + p * ldb), b1 = *(const fai_gvec *)(b + p * ldb + FAI_GL);
        FAI_EACH (i, 0, rows) {
            const fai_gvec x = fai_gsplat(a[i * ra + p * ca]);
            acc[i][0] = fai_gfma(x, b0, acc[i][0]), acc[i][1] = fai_gfma(x, b1, acc[i][1]);
        }
    }
    FAI_EACH (i, 0, rows)
        FAI_EACH (n, 0, 2) *(fai_gvec *)(c + i * ldc + n * FAI_GL) = acc[i][n];
}

/* C (m, n; ldc) += A (m, k) B (k, n; ldb): element (i, p) of A is a[i*ra + p*ca], rows of B and C are
 * contiguous. */
FAI_NOINLINE void fai_gemm(int64_t m, int64_t n, int64_t k, const float *a, int64_t ra, int64_t ca,
                           const float *b, int64_t ldb, float *c, int64_t ldc) {
    const int64_t width = 2 * FAI_GL,
                  most = 256; /* 256 rows of 32 columns are 32 KiB: in cache for all of m */
    const int64_t whole = n - n % width;
    for (int64_t p = 0; p < k; p += most) {
        const int64_t depth = k - p < most ? k - p : most;
        for (int64_t j = 0; j < whole; j += width) {
            const float *at = a + p * ca, *bt = b + p * ldb + j;
            int64_t i = 0;
            for (; i + FAI_GM <= m; i += FAI_GM)
                fai_gemm_tile(FAI_GM, depth, at + i * ra, ra, ca, bt, ldb, c + i * ldc + j, ldc);
            for (; i < m; i++) fai_gemm_tile(1, depth, at + i * ra, ra, ca, bt, ldb, c + i * ldc + j, ldc);
        }
        for (int64_t i = 0; whole < n && i < m; i++) /* the columns that are left */
            for (int64_t q = p; q < p + depth; q++)
                for (int64_t j = whole; j < n; j++) c[i * ldc + j] += a[i * ra + q * ca] * b[q * ldb + j];
    }
}

/* ---- the heads ---- */

#define FAI_ROWS 64 /* rows of x that share what is read of W and P: 16 products for each float of them */
#define FAI_VOCAB (8 * FAI_GM) /* tokens of the vocabulary at a time: 16 KiB of logits or less */

/* A tile: FAI_ROWS rows, which are the columns of what is kept of them. */
typedef struct fai_medusa {
    const fa_medusa_args *a;
    int64_t row, rows;            /* the first of them, and how many count */
    const float *weight, *p;      /* of the head */
    float *x, *u, *h, *d_h, *d_x; /* (dim, FAI_ROWS): transposed x, W x + b, hidden state, gradients */
    float *h_rows;                /* (FAI_ROWS, dim) */
    float *logits;                /* (FAI_VOCAB, FAI_ROWS) */
    float max[FAI_ROWS], lse[FAI_ROWS], at_label[FAI_ROWS];
    double sum[FAI_ROWS];    /* of exp(logit - max) */
    int32_t label[FAI_ROWS]; /* < 0: does not count */
} fai_medusa;

static inline fa_status fai_medusa_check(const fa_medusa_args *a, int loss) {
    fai_verdict v = {FA_OK, a ? a->error : NULL};
    const float *const floats[] = {a ? a->bias : NULL, a ? a->lambda : NULL};
    if (!a) return FA_ERR_ARGS_NULL;
    if (a->first_canary || a->last_canary) return FA_ERR_NOT_ZEROED;
    fai_want(&v, FA_ERR_MEDUSA_SIZE, "rows", a->rows, 1, INT32_MAX);
    fai_want(&v, FA_ERR_MEDUSA_SIZE, "dim", a->dim, 1, 1 << 20);
    fai_want(&v, FA_ERR_MEDUSA_SIZE, "vocab", a->vocab, 1, INT32_MAX);
    fai_want(&v, FA_ERR_MEDUSA_SIZE, "heads", a->heads, 1, 64);
    fai_want(&v, FA_ERR_MEDUSA_SIZE, "shared", a->shared, 0, 1);
    if (a->stride_x)
        fai_want(&v, FA_ERR_MEDUSA_SIZE, "stride_x", (double)a->stride_x, a->dim, 0x1p62 / INT32_MAX);
    fai_want_array(&v, FA_ERR_MEDUSA_NULL, "x", a->x, 4);
    fai_want_array(&v, FA_ERR_MEDUSA_NULL, "weight", a->weight, 4);
    fai_want_array(&v, FA_ERR_MEDUSA_NULL, "projection", a->projection, 4);
    for (int i = 0; i < 2; i++)
        if (floats[i]) fai_want_array(&v, FA_ERR_MEDUSA_NULL, i ? "lambda" : "bias", floats[i], 4);
    if (v.status != FA_OK) return v.status;
    if (!loss) {
        if (a->logits) fai_want_array(&v, FA_ERR_MEDUSA_NULL, "logits", a->logits, 4);
        if (a->top_token) fai_want_array(&v, FA_ERR_MEDUSA_NULL, "top_token", a->top_token, 4);
        if (a->top_logprob) fai_want_array(&v, FA_ERR_MEDUSA_NULL, "top_logprob", a->top_logprob, 4);
        if (a->top_token || a->top_logprob)
            fai_want(&v, FA_ERR_MEDUSA_SIZE, "top_k", a->top_k, 1, a->vocab < 64 ? a->vocab : 64);
        return v.status;
    }
    fai_want_array(&v, FA_ERR_MEDUSA_NULL, "target", a->target, 4);
    fai_want(&v, FA_ERR_MEDUSA_SIZE, "shift", a->shift, 0, INT32_MAX - 64);
    fai_want(&v, FA_ERR_MEDUSA_SIZE, "accumulate", a->accumulate, 0, 1);
    if (a->cu_seqlens) {
        fai_want_array(&v, FA_ERR_MEDUSA_TARGET, "cu_seqlens", a->cu_seqlens, 4);
        fai_want(&v, FA_ERR_MEDUSA_TARGET, "batch", a->batch, 1, INT32_MAX);
        for (int64_t b = 0; v.status == FA_OK && b <= a->batch; b++) {
            const int32_t least = b ? a->cu_seqlens[b - 1] : 0, most = b ? a->rows : 0;
            if (a->cu_seqlens[b] < least || a->cu_seqlens[b] > most)
                fai_refuse(&v, FA_ERR_MEDUSA_TARGET, "cu_seqlens", b, a->cu_seqlens[b], least, most);
        }
    }
    for (int64_t t = 0; v.status == FA_OK && t < a->rows; t++)
        if (a->target[t] >= a->vocab)
            fai_refuse(&v, FA_ERR_MEDUSA_TARGET, "target", t, a->target[t], 0, a->vocab - 1);
    for (int32_t k = 0; v.status == FA_OK && a->lambda && k < a->heads; k++)
        if (!(fabsf(a->lambda[k]) <= 3e38f))
            fai_refuse(&v, FA_ERR_MEDUSA_TARGET, "lambda", k, (double)a->lambda[k], -3e38, 3e38);
    return v.status;
}

/* Bytes that either call needs, aligned to 4; 0 if args is not valid: (6 dim + FAI_VOCAB) * FAI_ROWS
 * floats. */
static inline size_t fa_medusa_workspace(const fa_medusa_args *args) {
    if (fai_medusa_check(args, 0) != FA_OK) return 0;
    return (6 * (size_t)args->dim + FAI_VOCAB) * FAI_ROWS * sizeof(float);
}

static inline fa_status fai_medusa_begin(fai_medusa *t, const fa_medusa_args *a, void *workspace,
                                         size_t bytes, int loss) {
    fai_verdict v = {fai_medusa_check(a, loss), a ? a->error : NULL};
    if (v.status != FA_OK) return v.status;
    fai_want_array(&v, FA_ERR_WORKSPACE_NULL, "workspace", workspace, 4);
    fai_want(&v, FA_ERR_WORKSPACE_SIZE, "bytes", (double)bytes, (double)fa_medusa_workspace(a), 0x1p62);
    const int64_t one = (int64_t)a->dim * FAI_ROWS;
    t->a = a, t->x = (float *)workspace, t->u = t->x + one, t->h = t->u + one, t->d_h = t->h + one;
    t->d_x = t->d_h + one, t->h_rows = t->d_x + one, t->logits = t->h_rows + one;
    return v.status;
}

/* The next tile begins at that row: x transposed, what is behind the last row 0. */
static inline void fai_medusa_rows(fai_medusa *t, int64_t row) {
    const int64_t dim = t->a->dim, stride = t->a->stride_x ? t->a->stride_x : dim;
    t->row = row, t->rows = t->a->rows - row < FAI_ROWS ? t->a->rows - row : FAI_ROWS;
    for (int64_t i = 0; i < dim; i++)
        for (int64_t r = 0; r < FAI_ROWS; r++)
            t->x[i * FAI_ROWS + r] = r < t->rows ? t->a->x[(row + r) * stride + i] : 0;
    memset(t->d_x, 0, (size_t)dim * FAI_ROWS * sizeof(float));
}

static inline float fai_sigmoid(float u) { return 1 / (1 + expf(-u)); }

/* u = W x + b and h = x + SiLU(u) of head k. */
static inline void fai_medusa_hidden(fai_medusa *t, int32_t k) {
    const fa_medusa_args *a = t->a;
    const int64_t dim = a->dim;
    t->weight = a->weight + k * dim * dim, t->p = a->projection + (a->shared ? 0 : k * dim * a->vocab);
    for (int64_t i = 0; i < dim; i++)
        for (int64_t r = 0; r < FAI_ROWS; r++) t->u[i * FAI_ROWS + r] = a->bias ? a->bias[k * dim + i] : 0;
    fai_gemm(dim, FAI_ROWS, dim, t->weight, dim, 1, t->x, FAI_ROWS, t->u, FAI_ROWS);
    for (int64_t i = 0; i < dim * FAI_ROWS; i++) t->h[i] = t->x[i] + t->u[i] * fai_sigmoid(t->u[i]);
}

/* Logits of `count` tokens from v on. */
static inline void fai_medusa_logits(fai_medusa *t, int64_t v, int64_t count) {
    memset(t->logits, 0, (size_t)count * FAI_ROWS * sizeof(float));
    fai_gemm(count, FAI_ROWS, t->a->dim, t->p + v * t->a->dim, t->a->dim, 1, t->h, FAI_ROWS, t->logits,
             FAI_ROWS);
}

/* x[0 .. FAI_ROWS-1] = max(x, y), NaN of y left out. */
static inline void fai_medusa_max(float *x, const float *y) {
    for (int r = 0; r < FAI_ROWS; r += FAI_GL) {
        const fai_gvec p = *(const fai_gvec *)(x + r), q = *(const fai_gvec *)(y + r);
#if FAI_GL == 1
        x[r] = q > p ? q : p;
#else
        const fai_gint more = q > p;
        *(fai_gvec *)(x + r) = (fai_gvec)(((fai_gint)q & more) | ((fai_gint)p & ~more));
#endif
    }
}

/* Maxima and sums, with `count` more tokens [OS]. A sum starts again at each maximum that is new: one that
 * is not finite ends as NaN. */
static inline void fai_medusa_sum(fai_medusa *t, int64_t count) {
    float max[FAI_ROWS], sum[FAI_ROWS];
    memcpy(max, t->max, sizeof max), memset(sum, 0, sizeof sum);
    for (int64_t i = 0; i < count; i++) fai_medusa_max(max, t->logits + i * FAI_ROWS);
    for (int64_t i = 0; i < count; i++)
        for (int r = 0; r < FAI_ROWS; r += FAI_GL)
            *(fai_gvec *)(sum + r) +=
                fai_gexp(*(const fai_gvec *)(t->logits + i * FAI_ROWS + r) - *(fai_gvec *)(max + r));
    for (int r = 0; r < FAI_ROWS; r++) {
        const float old = t->max[r] - max[r]; /* -inf at first, NaN after -inf alone */
        t->sum[r] = t->sum[r] * (t->sum[r] > 0 ? exp((double)old) : 0) + (double)sum[r], t->max[r] = max[r];
    }
}

/* max, sum and lse of all tokens; at_label: the logit of the label. heaps: the best top of them, if
 * top > 0. logits (of row 0 and this head): NULL: not wanted. */
static inline void fai_medusa_statistics(fai_medusa *t, uint64_t (*heaps)[64], int32_t top, float *logits) {
    const fa_medusa_args *a = t->a;
    int32_t held[FAI_ROWS] = {0};
    float least[FAI_ROWS]; /* of the best top so far */
    for (int r = 0; r < FAI_ROWS; r++) t->max[r] = -INFINITY, t->sum[r] = 0, t->at_label[r] = least[r] = 0;
    for (int64_t v = 0; v < a->vocab; v += FAI_VOCAB) {
        const int64_t count = a->vocab - v < FAI_VOCAB ? a->vocab - v : FAI_VOCAB;
        fai_medusa_logits(t, v, count);
        fai_medusa_sum(t, count);
        for (int64_t r = 0; r < t->rows; r++) {
            if (t->label[r] >= v && t->label[r] < v + count)
                t->at_label[r] = t->logits[(t->label[r] - v) * FAI_ROWS + r];
            for (int64_t i = 0; logits && i < count; i++)
                logits[(t->row + r) * a->heads * a->vocab + v + i] = t->logits[i * FAI_ROWS + r];
            for (int64_t i = 0; top && i < count; i++) {
                const float x = t->logits[i * FAI_ROWS + r];
                if (held[r] == top && !(x > least[r])) continue;
                fai_offer(heaps[r], &held[r], top,
                          fai_score_key(x >= -INFINITY ? x : -INFINITY, (int32_t)(v + i)));
                least[r] = fai_key_score(heaps[r][0]);
            }
        }
    }
    for (int r = 0; r < FAI_ROWS; r++) t->lse[r] = (float)((double)t->max[r] + log(t->sum[r]));
}

/* Logits, or the best top_k tokens, of every row and head. A NaN counts as the least for these; the
 * log-probabilities of its row are NaN. */
static inline fa_status fa_medusa_forward(const fa_medusa_args *args, void *workspace, size_t bytes) {
    fai_medusa t;
    uint64_t heaps[FAI_ROWS][64];
    const fa_status status = fai_medusa_begin(&t, args, workspace, bytes, 0);
    if (status != FA_OK) return status;
    const int32_t top = args->top_token || args->top_logprob ? args->top_k : 0;
    for (int r = 0; r < FAI_ROWS; r++) t.label[r] = -1;
    for (int64_t row = 0; row < args->rows; row += FAI_ROWS) {
        fai_medusa_rows(&t, row);
        for (int32_t k = 0; k < args->heads; k++) {
            fai_medusa_hidden(&t, k);
            fai_medusa_statistics(&t, heaps, top,
                                  args->logits ? args->logits + (int64_t)k * args->vocab : NULL);
            for (int64_t r = 0; r < t.rows && top; r++) {
                const int64_t at = ((row + r) * args->heads + k) * top;
                fai_sort(heaps[r], top);
                for (int32_t n = 0; n < top; n++) {
                    if (args->top_token) args->top_token[at + n] = (int32_t) ~(uint32_t)heaps[r][n];
                    if (args->top_logprob) args->top_logprob[at + n] = fai_key_score(heaps[r][n]) - t.lse[r];
                }
            }
        }
    }
    return FA_OK;
}

/* What head k should guess at a row; < 0: nothing that counts. */
static inline int32_t fai_medusa_label(const fa_medusa_args *a, int64_t row, int32_t k) {
    const int64_t at = row + (a->shift ? a->shift : 2) + k;
    int64_t end = a->rows;
    if (a->cu_seqlens) { /* the first end behind row */
        int32_t lo = 1, hi = a->batch;
        while (lo < hi) {
            const int32_t mid = lo + (hi - lo) / 2;
            if (a->cu_seqlens[mid] > row)
                hi = mid;
            else
                lo = mid + 1;
        }
        end = a->cu_seqlens[lo];
    }
    return at < end ? a->target[at] : -1;
}

/* The gradient of the logits, scale[r] (softmax - one-hot), goes into d_h and d_projection (NULL: not
 * wanted). */
static inline void fai_medusa_backward_vocab(fai_medusa *t, const float *scale, float *d_projection) {
    const int64_t dim = t->a->dim, vocab = t->a->vocab;
    memset(t->d_h, 0, (size_t)dim * FAI_ROWS * sizeof(float));
    for (int64_t i = 0; i < dim; i++)
        for (int64_t r = 0; r < FAI_ROWS; r++) t->h_rows[r * dim + i] = t->h[i * FAI_ROWS + r];
    for (int64_t v = 0; v < vocab; v += FAI_VOCAB) {
        const int64_t count = vocab - v < FAI_VOCAB ? vocab - v : FAI_VOCAB;
        fai_medusa_logits(t, v, count);
        for (int64_t i = 0; i < count; i++)
            for (int r = 0; r < FAI_ROWS; r += FAI_GL) {
                fai_gvec *x = (fai_gvec *)(t->logits + i * FAI_ROWS + r);
                *x = fai_gexp(*x - *(const fai_gvec *)(t->lse + r)) * *(const fai_gvec *)(scale + r);
            }
        for (int64_t r = 0; r < FAI_ROWS; r++)
            if (t->label[r] >= v && t->label[r] < v + count)
                t->logits[(t->label[r] - v) * FAI_ROWS + r] -= scale[r];
        fai_gemm(dim, FAI_ROWS, count, t->p + v * dim, 1, dim, t->logits, FAI_ROWS, t->d_h, FAI_ROWS);
        if (d_projection)
            fai_gemm(count, dim, t->rows, t->logits, FAI_ROWS, 1, t->h_rows, dim, d_projection + v * dim,
                     dim);
    }
}

/* From d_h through the residual block: d_u replaces u; d_x is added to. */
static inline void fai_medusa_backward_block(fai_medusa *t, float *d_weight, float *d_bias) {
    const int64_t dim = t->a->dim, stride = t->a->stride_x ? t->a->stride_x : dim;
    for (int64_t i = 0; i < dim * FAI_ROWS; i++) {
        const float u = t->u[i], s = fai_sigmoid(u);
        t->u[i] = t->d_h[i] * s * (1 + u * (1 - s)), t->d_x[i] += t->d_h[i];
    }
    for (int64_t i = 0; d_bias && i < dim; i++)
        for (int64_t r = 0; r < FAI_ROWS; r++) d_bias[i] += t->u[i * FAI_ROWS + r];
    if (d_weight)
        fai_gemm(dim, dim, t->rows, t->u, FAI_ROWS, 1, t->a->x + t->row * stride, stride, d_weight, dim);
    fai_gemm(dim, FAI_ROWS, dim, t->weight, 1, dim, t->u, FAI_ROWS, t->d_x, FAI_ROWS);
}

/* The loss and its gradients. A head without a label that counts has neither. */
static inline fa_status fa_medusa_loss(const fa_medusa_args *args, void *workspace, size_t bytes) {
    fai_medusa t;
    double sum[64] = {0}, total = 0, weight[64];
    int64_t count[64] = {0};
    const fa_medusa_args *a = args;
    const fa_status status = fai_medusa_begin(&t, a, workspace, bytes, 1);
    if (status != FA_OK) return status;
    const int64_t dim = a->dim, heads = a->heads, vocab = a->vocab;
    const int backward = a->d_x || a->d_weight || a->d_bias || a->d_projection;
    if (!a->accumulate) {
        if (a->d_x) memset(a->d_x, 0, (size_t)(a->rows * dim) * sizeof(float));
        if (a->d_weight) memset(a->d_weight, 0, (size_t)(heads * dim * dim) * sizeof(float));
        if (a->d_bias) memset(a->d_bias, 0, (size_t)(heads * dim) * sizeof(float));
        if (a->d_projection)
            memset(a->d_projection, 0, (size_t)((a->shared ? 1 : heads) * vocab * dim) * sizeof(float));
    }
    for (int32_t k = 0; k < heads; k++) {
        for (int64_t row = 0; row < a->rows; row++) count[k] += fai_medusa_label(a, row, k) >= 0;
        weight[k] = a->lambda ? (double)a->lambda[k] : k ? weight[k - 1] * 0.8 : 0.8;
    }
    for (int64_t row = 0; row < a->rows; row += FAI_ROWS) {
        fai_medusa_rows(&t, row);
        for (int32_t k = 0; k < heads; k++) {
            float scale[FAI_ROWS];
            for (int64_t r = 0; r < FAI_ROWS; r++) {
                t.label[r] = r < t.rows ? fai_medusa_label(a, row + r, k) : -1;
                scale[r] = t.label[r] >= 0 ? (float)(weight[k] / (double)count[k]) : 0;
            }
            fai_medusa_hidden(&t, k);
            fai_medusa_statistics(&t, NULL, 0, NULL);
            for (int64_t r = 0; r < FAI_ROWS; r++)
                if (t.label[r] >= 0) sum[k] += (double)t.lse[r] - (double)t.at_label[r];
            if (!backward) continue;
            fai_medusa_backward_vocab(
                &t, scale, a->d_projection ? a->d_projection + (a->shared ? 0 : k * vocab * dim) : NULL);
            fai_medusa_backward_block(&t, a->d_weight ? a->d_weight + k * dim * dim : NULL,
                                      a->d_bias ? a->d_bias + k * dim : NULL);
        }
        for (int64_t r = 0; a->d_x && r < t.rows; r++)
            for (int64_t i = 0; i < dim; i++) a->d_x[(row + r) * dim + i] += t.d_x[i * FAI_ROWS + r];
    }
    for (int32_t k = 0; k < heads; k++) {
        const double mean = count[k] ? sum[k] / (double)count[k] : 0;
        if (a->head_loss) a->head_loss[k] = mean;
        total += weight[k] * mean;
    }
    if (a->loss) *a->loss = total;
    return FA_OK;
}

/* How often the label is among the first 1, 2 .. top_k tokens of a head: accuracy (heads, top_k), what
 * fa_tree_greedy takes. top_token is that which fa_medusa_forward wrote for args. Heads without a label
 * that counts: 0. */
static inline fa_status fa_medusa_accuracy(const fa_medusa_args *args, double *accuracy) {
    fai_verdict v = {fai_medusa_check(args, 1), args ? args->error : NULL};
    if (v.status == FA_OK) v.status = fai_medusa_check(args, 0);
    if (v.status != FA_OK) return v.status;
    const int32_t top = args->top_k;
    fai_want_array(&v, FA_ERR_MEDUSA_NULL, "top_token", args->top_token, 4);
    fai_want_array(&v, FA_ERR_MEDUSA_NULL, "accuracy", accuracy, sizeof *accuracy);
    for (int32_t k = 0; v.status == FA_OK && k < args->heads; k++) {
        int64_t count = 0, hits[64] = {0}, sum = 0;
        for (int64_t row = 0; row < args->rows; row++) {
            const int32_t label = fai_medusa_label(args, row, k),
                          *token = args->top_token + (row * args->heads + k) * top;
            count += label >= 0;
            for (int32_t n = 0; label >= 0 && n < top; n++) hits[n] += token[n] == label;
        }
        for (int32_t n = 0; n < top; n++)
            sum += hits[n], accuracy[k * top + n] = count ? (double)sum / (double)count : 0;
    }
    return v.status;
}

/* ======================================================================================== */
/* >>ensembles boosting of several drafts                                                    */
/* ======================================================================================== */

/* Several small drafts, trained one after the other, each on what those before it get wrong [SI,
 * boost-tuning]. In rounds: the caller trains draft d on the samples with their weights, runs it on all of
 * them, and marks what it gets wrong (fa_boost_wrong). Then either
 *   fa_boost_covered  weights for drafts whose trees are merged: a sample is right if any draft gets it
 *                     right, so those that all of them miss share the weight. This is SpecInfer's filter;
 *   fa_boost_round    multi-class AdaBoost [SAMME]: weights grow where the draft is wrong, and it gets a
 *                     vote, for fa_boost_vote. Two classes: AdaBoost itself. */

/* A sample is `length` tokens in a row, (samples, length): wrong unless all of them are as the target
 * model's. */
static inline fa_status fa_boost_wrong(const int32_t *draft, const int32_t *target, int64_t samples,
                                       int64_t length, uint8_t *wrong, fa_error *error) {
    fai_verdict v = {FA_OK, error};
    fai_want(&v, FA_ERR_BOOST, "samples", (double)samples, 1, INT32_MAX);
    fai_want(&v, FA_ERR_BOOST, "length", (double)length, 1, INT32_MAX);
    fai_want_array(&v, FA_ERR_BOOST, "draft", draft, 4);
    fai_want_array(&v, FA_ERR_BOOST, "target", target, 4);
    fai_want_array(&v, FA_ERR_BOOST, "wrong", wrong, 1);
    for (int64_t i = 0; v.status == FA_OK && i < samples; i++)
        wrong[i] = memcmp(draft + i * length, target + i * length, (size_t)length * sizeof *draft) != 0;
    return v.status;
}

/* wrong (drafts, samples): weight (samples) becomes 1/m for each of the m samples that every draft gets
 * wrong, else 0. *covered, optional: the share of the others. All 0 when nothing is left. */
static inline fa_status fa_boost_covered(const uint8_t *wrong, int64_t drafts, int64_t samples,
                                         double *weight, double *covered, fa_error *error) {
    fai_verdict v = {FA_OK, error};
    int64_t missed = 0;
    fai_want(&v, FA_ERR_BOOST, "drafts", (double)drafts, 1, INT32_MAX);
    fai_want(&v, FA_ERR_BOOST, "samples", (double)samples, 1, INT32_MAX);
    fai_want_array(&v, FA_ERR_BOOST, "wrong", wrong, 1);
    fai_want_array(&v, FA_ERR_BOOST, "weight", weight, sizeof *weight);
    if (v.status != FA_OK) return v.status;
    for (int64_t i = 0; i < samples; i++) {
        int all = 1;
        for (int64_t d = 0; d < drafts; d++) all &= wrong[d * samples + i] != 0;
        weight[i] = all, missed += all;
    }
    for (int64_t i = 0; i < samples && missed; i++) weight[i] /= (double)missed;
    if (covered) *covered = 1 - (double)missed / (double)samples;
    return FA_OK;
}

/* One round of boosting: from weight (samples), all equal at first, to those for the next draft; their sum
 * is 1.
 *     e = weight of the wrong samples
 *     vote = log((1 - e) / e) + log(classes - 1)
 *     weight *= exp(vote) where wrong
 * classes: of the answers, 2 .. the vocabulary. A draft that is no better than a guess, e >= 1 -
 * 1/classes, gets vote 0 and changes no weight; e below 1e-9 counts as 1e-9. */
static inline fa_status fa_boost_round(double *weight, const uint8_t *wrong, int64_t samples, int64_t classes,
                                       double *vote, fa_error *error) {
    fai_verdict v = {FA_OK, error};
    double sum = 0, e = 0, total = 0;
    fai_want(&v, FA_ERR_BOOST, "samples", (double)samples, 1, INT32_MAX);
    fai_want(&v, FA_ERR_BOOST, "classes", (double)classes, 2, INT32_MAX);
    fai_want_array(&v, FA_ERR_BOOST, "weight", weight, sizeof *weight);
    fai_want_array(&v, FA_ERR_BOOST, "wrong", wrong, 1);
    fai_want_array(&v, FA_ERR_BOOST, "vote", vote, sizeof *vote);
    for (int64_t i = 0; v.status == FA_OK && i < samples; i++) {
        if (!(weight[i] >= 0 && weight[i] <= 1e300))
            fai_refuse(&v, FA_ERR_BOOST, "weight", i, weight[i], 0, 1e300);
        sum += weight[i], e += wrong[i] ? weight[i] : 0;
    }
    fai_want(&v, FA_ERR_BOOST, "weight", sum, 1e-300, 1e300);
    if (v.status != FA_OK) return v.status;
    e /= sum;
    e = e < 1e-9 ? 1e-9 : e;
    const double odds = (1 - e) / e * (double)(classes - 1); /* exp(vote) */
    *vote = odds > 1 ? log(odds) : 0;
    for (int64_t i = 0; i < samples; i++)
        weight[i] = weight[i] / sum * (wrong[i] && odds > 1 ? odds : 1), total += weight[i];
    for (int64_t i = 0; i < samples; i++) weight[i] /= total;
    return FA_OK;
}

/* What the drafts say together: answer (samples), for each sample the one of answers (drafts, samples)
 * with the most votes, ties for the draft that comes first. drafts: 1 .. 64. */
static inline fa_status fa_boost_vote(const int32_t *answers, const double *vote, int64_t drafts,
                                      int64_t samples, int32_t *answer, fa_error *error) {
    fai_verdict v = {FA_OK, error};
    fai_want(&v, FA_ERR_BOOST, "drafts", (double)drafts, 1, 64);
    fai_want(&v, FA_ERR_BOOST, "samples", (double)samples, 1, INT32_MAX);
    fai_want_array(&v, FA_ERR_BOOST, "answers", answers, 4);
    fai_want_array(&v, FA_ERR_BOOST, "vote", vote, sizeof *vote);
    fai_want_array(&v, FA_ERR_BOOST, "answer", answer, 4);
    for (int64_t i = 0; v.status == FA_OK && i < samples; i++) {
        double most = -INFINITY;
        int32_t best = answers[i];
        for (int64_t d = 0; d < drafts; d++) {
            double sum = 0;
            for (int64_t other = 0; other < drafts; other++)
                if (answers[other * samples + i] == answers[d * samples + i]) sum += vote[other];
            if (sum > most) most = sum, best = answers[d * samples + i];
        }
        answer[i] = best;
    }
    return v.status;
}

/* ======================================================================================== */
/* >>planning acceptance, expected tokens, speedup; adaptive draft lengths and trees         */
/* ======================================================================================== */

/* Formulas. Arguments outside their range give NaN. alpha: acceptance of a draft token, 0 .. 1; gamma:
 * draft tokens; c: time of a step of the draft over that of the target model. */

/* The chance that a token drawn from q is accepted: sum of min(p, q) [LEV, corollary 3.6]. What is
 * negative or NaN counts as 0. */
static inline double fa_acceptance(const float *p, const float *q, int64_t vocab) {
    double sum = 0;
    for (int64_t v = 0; v < vocab; v++) {
        const double least = (double)(p[v] < q[v] ? p[v] : q[v]);
        sum += p[v] > 0 && q[v] > 0 ? least : 0;
    }
    return sum;
}

/* Tokens a step, the target model's own one included: 1 + alpha + .. + alpha^gamma [LEV, (1)]. */
static inline double fa_expected_tokens(double alpha, int32_t gamma) {
    double sum = 1;
    if (!(alpha >= 0 && alpha <= 1) || gamma < 0) return (double)NAN;
    for (int32_t i = 0; i < gamma && sum < 1e300; i++) {
        const double more = 1 + alpha * sum;
        if (more == sum) break; /* and so it stays */
        sum = more;
    }
    return sum;
}

/* Wall-clock time of plain decoding over that of speculative decoding [LEV, theorem 3.8]. */
static inline double fa_speedup(double alpha, int32_t gamma, double c) {
    return c >= 0 ? fa_expected_tokens(alpha, gamma) / (gamma * c + 1) : (double)NAN;
}

/* Operations of speculative decoding over those of plain decoding [LEV, theorem 3.11]; c_hat: operations
 * of a step of the draft over those of the target model for one token. */
static inline double fa_operations(double alpha, int32_t gamma, double c_hat) {
    return c_hat >= 0 ? (gamma * c_hat + gamma + 1) / fa_expected_tokens(alpha, gamma) : (double)NAN;
}

/* The gamma 0 .. max_gamma with the greatest speedup; ties: the lower one. -1 for arguments out of range. */
static inline int32_t fa_optimal_gamma(double alpha, double c, int32_t max_gamma, double *speedup) {
    int32_t best = -1;
    double most = 0;
    for (int32_t gamma = 0; gamma <= max_gamma; gamma++) {
        const double x = fa_speedup(alpha, gamma, c);
        if (x > most) most = x, best = gamma;
    }
    if (speedup) *speedup = best < 0 ? (double)NAN : most;
    return best;
}

/* Tokens a step of a shape: the sum over its nodes of the product of acceptance[(depth-1)*stride + rank]
 * along their path [SQ]; stride 0: the same vector (ranks) for all levels, else levels of them. What is
 * beyond counts 0. NaN for what is no tree of ranks. */
static inline double fa_tree_value(const fa_tree *shape, const double *acceptance, int32_t ranks,
                                   int32_t levels, int64_t stride) {
    double value[FA_TREE_MAX_NODES], sum = 0;
    int32_t depth[FA_TREE_MAX_NODES];
    fai_verdict v = {FA_OK, NULL};
    fai_want_tree(&v, shape, 0);
    if (v.status != FA_OK || !shape->rank || !acceptance) return (double)NAN;
    const fa_trees view = fa_tree_view(shape);
    if (fa_trees_check(&view, 0, NULL) != FA_OK) return (double)NAN;
    for (int32_t i = 0; i < shape->num_nodes; i++) {
        const int32_t up = shape->parent[i], rank = shape->rank[i];
        depth[i] = i ? depth[up] + 1 : 0, value[i] = 1;
        if (i)
            value[i] = rank >= 0 && rank < ranks && (!stride || depth[i] <= levels)
                           ? value[up] * acceptance[(depth[i] - 1) * stride + rank]
                           : 0;
        sum += value[i];
    }
    return sum;
}

/* What no tree whose nodes have at most k children can exceed: 1 / (1 - P), P = acceptance[0] + .. +
 * acceptance[k-1]; a chain is k = 1 [SQ]. INFINITY if P is 1 or more. */
static inline double fa_tree_limit(const double *acceptance, int32_t k) {
    double rest = 1;
    for (int32_t r = 0; r < k; r++) rest -= acceptance[r];
    return rest > 0 ? 1 / rest : (double)INFINITY;
}

/* Draft tokens accepted, on average, of gamma that were drawn from q: by enumeration, for small
 * vocabularies. Rows of p and q (., vocab) are numbered by what comes before: 0 for nothing, and row n
 * followed by token x is row n*vocab + 1 + x; those of fewer than gamma tokens are there. block 0: one
 * token after the other [LEV]; 1: block verification [BV]. NaN beyond 2^24 sequences. */
typedef struct fai_law {
    const double *p, *q;
    int64_t vocab;
    int32_t gamma, block;
} fai_law;

/* From row n, which depth tokens lead to, on: expected number of the last one accepted among them, if any
 * is; *none: the chance that none is. kept: p_i of [BV], the share of the target's probability that may
 * still be accepted. */
static inline double fai_law_block(const fai_law *l, int64_t n, int32_t depth, double kept, double *none) {
    double h = kept, sum = 0;
    *none = 1;
    if (depth < l->gamma) {
        const double *p = l->p + n * l->vocab, *q = l->q + n * l->vocab;
        double residual = 0;
        *none = 0;
        for (int64_t x = 0; x < l->vocab; x++) {
            const double more = kept * p[x] - q[x], next = q[x] > 0 ? kept * p[x] / q[x] : 0;
            double rest = 0;
            residual += more > 0 ? more : 0;
            if (!(q[x] > 0)) continue;
            sum += q[x] * fai_law_block(l, n * l->vocab + 1 + x, depth + 1, next < 1 ? next : 1, &rest);
            *none += q[x] * rest;
        }
        h = residual + 1 - kept > 0 ? residual / (residual + 1 - kept) : 1;
    }
    sum += *none * h * depth;
    *none *= 1 - h;
    return sum;
}
static inline double fai_law_tokens(const fai_law *l, int64_t n, int32_t depth) {
    const double *p = l->p + n * l->vocab, *q = l->q + n * l->vocab;
    double sum = 0;
    if (depth == l->gamma) return 0;
    for (int64_t x = 0; x < l->vocab; x++) {
        const double both = p[x] < q[x] ? p[x] : q[x];
        if (both > 0) sum += both * (1 + fai_law_tokens(l, n * l->vocab + 1 + x, depth + 1));
    }
    return sum;
}
static inline double fa_chain_expected(const double *p, const double *q, int32_t vocab, int32_t gamma,
                                       int block) {
    const fai_law l = {p, q, vocab, gamma, block};
    double none, sequences = 1;
    if (!p || !q || vocab < 1 || gamma < 0 || gamma > 24) return (double)NAN;
    for (int32_t i = 0; i < gamma; i++) sequences *= vocab;
    if (sequences > 0x1p24) return (double)NAN;
    return block ? fai_law_block(&l, 0, 0, 1, &none) : fai_law_tokens(&l, 0, 0);
}

/* ---- acceptance, as it is observed ---- */

/* Of one request: an average in which older steps count less, and which begins as a prior. */
typedef struct fa_estimator {
    double prior, count;    /* acceptance before anything is known, and how many tokens that is worth; > 0 */
    double keep;            /* what the past is worth after a step, 0 .. 1; 1: nothing is forgotten */
    double accepted, tried; /* 0 at first */
} fa_estimator;

/* After a step of `drafted` tokens in a row, the first `accepted` of which were: these, and one that was
 * rejected, were tried; what comes behind it tells nothing. */
static inline fa_status fa_estimator_update(fa_estimator *e, int32_t drafted, int32_t accepted,
                                            fa_error *error) {
    fai_verdict v = {FA_OK, error};
    if (!e) return FA_ERR_ARGS_NULL;
    fai_want(&v, FA_ERR_PROBABILITY, "keep", e->keep, 0, 1);
    fai_want(&v, FA_ERR_PLAN, "drafted", drafted, 0, INT32_MAX);
    fai_want(&v, FA_ERR_PLAN, "accepted", accepted, 0, drafted);
    if (v.status != FA_OK) return v.status;
    e->accepted = e->keep * e->accepted + accepted;
    e->tried = e->keep * e->tried + accepted + (accepted < drafted);
    return FA_OK;
}
static inline double fa_estimator_alpha(const fa_estimator *e) {
    return (e->prior * e->count + e->accepted) / (e->count + e->tried);
}

/* The same for trees: how often the child of each rank is the one that is accepted, which is the
 * `acceptance` of fa_sequoia. */
typedef struct fa_rank_estimator {
    int32_t ranks;
    const double *prior; /* (ranks) */
    double count, keep;  /* as above, in nodes */
    double *hits;        /* (ranks): 0 at first, as is tried */
    double *tried;       /* (ranks): nodes that had a child of this rank */
} fa_rank_estimator;

/* After a step that accepted these nodes of the tree, in a row from a child of the root on (the root not
 * among them). Ranks are by the order of siblings. */
static inline fa_status fa_rank_update(fa_rank_estimator *e, const fa_tree *tree, const int32_t *accepted,
                                       int32_t num, fa_error *error) {
    fai_verdict v = {FA_OK, error};
    if (!e) return FA_ERR_ARGS_NULL;
    fai_want_tree(&v, tree, 0);
    if (v.status != FA_OK) return v.status;
    const fa_trees view = fa_tree_view(tree);
    v.status = fa_trees_check(&view, 0, error);
    fai_want(&v, FA_ERR_PROBABILITY, "keep", e->keep, 0, 1);
    fai_want(&v, FA_ERR_PLAN, "ranks", e->ranks, 1, INT32_MAX);
    fai_want_array(&v, FA_ERR_PLAN, "hits", e->hits, sizeof *e->hits);
    fai_want_array(&v, FA_ERR_PLAN, "tried", e->tried, sizeof *e->tried);
    fai_want(&v, FA_ERR_PLAN, "num", num, 0, FA_TREE_MAX_NODES - 1);
    if (num > 0) fai_want_array(&v, FA_ERR_PLAN, "accepted", accepted, 4);
    for (int32_t i = 0; v.status == FA_OK && i < num; i++)
        if (accepted[i] < 1 || accepted[i] >= tree->num_nodes ||
            tree->parent[accepted[i]] != (i ? accepted[i - 1] : 0))
            fai_refuse(&v, FA_ERR_PLAN, "accepted", i, accepted[i], 1, tree->num_nodes - 1);
    if (v.status != FA_OK) return v.status;
    for (int32_t r = 0; r < e->ranks; r++) e->hits[r] *= e->keep, e->tried[r] *= e->keep;
    for (int32_t i = 0; i <= num; i++) {
        const int32_t node = i ? accepted[i - 1] : 0;
        int32_t rank = 0;
        for (int32_t child = node + 1; child < tree->num_nodes && rank < e->ranks; child++) {
            if (tree->parent[child] != node) continue;
            e->tried[rank] += 1, e->hits[rank] += i < num && child == accepted[i], rank++;
        }
    }
    return FA_OK;
}
static inline void fa_rank_acceptance(const fa_rank_estimator *e, double *acceptance) {
    for (int32_t r = 0; r < e->ranks; r++)
        acceptance[r] = (e->prior[r] * e->count + e->hits[r]) / (e->count + e->tried[r]);
}

/* ---- choices by measured costs ---- */

/* Times of one machine, in any unit. */
typedef struct fa_cost {
    int32_t count;
    const int32_t *tokens; /* (count): tokens in one run of the target model, of all requests; rising, >= 1 */
    const double *seconds; /* (count): of that run. Straight lines between them; before the first: the first;
                              behind the last: on with the last slope, if that is not below 0 */
    double draft;          /* one step of the draft, for all requests together */
    double base;           /* whatever else a step takes */
} fa_cost;

static inline fa_status fa_cost_check(const fa_cost *c, fa_error *error) {
    fai_verdict v = {FA_OK, error};
    if (!c) return FA_ERR_ARGS_NULL;
    fai_want(&v, FA_ERR_COST, "count", c->count, 1, INT32_MAX);
    fai_want_array(&v, FA_ERR_COST, "tokens", c->tokens, 4);
    fai_want_array(&v, FA_ERR_COST, "seconds", c->seconds, sizeof *c->seconds);
    fai_want(&v, FA_ERR_COST, "draft", c->draft, 0, 1e300);
    fai_want(&v, FA_ERR_COST, "base", c->base, 0, 1e300);
    for (int32_t i = 0; v.status == FA_OK && i < c->count; i++) {
        if (c->tokens[i] < 1 || (i && c->tokens[i] <= c->tokens[i - 1]))
            fai_refuse(&v, FA_ERR_COST, "tokens", i, c->tokens[i], i ? c->tokens[i - 1] + 1.0 : 1, INT32_MAX);
        else if (!(c->seconds[i] > 0 && c->seconds[i] <= 1e300))
            fai_refuse(&v, FA_ERR_COST, "seconds", i, c->seconds[i], 0, 1e300);
    }
    return v.status;
}

/* A run of the target model. */
static inline double fa_cost_target(const fa_cost *c, double tokens) {
    int32_t i = 1;
    if (c->count == 1 || tokens <= c->tokens[0]) return c->seconds[0];
    while (i < c->count - 1 && tokens > c->tokens[i]) i++;
    double slope = (c->seconds[i] - c->seconds[i - 1]) / ((double)c->tokens[i] - c->tokens[i - 1]);
    if (tokens > c->tokens[i] && slope < 0) slope = 0;
    return c->seconds[i] + slope * (tokens - c->tokens[i]);
}

/* A step that verifies so many tokens after so many steps of the draft. */
static inline double fa_cost_step(const fa_cost *c, double tokens, int32_t steps) {
    return fa_cost_target(c, tokens) + steps * c->draft + c->base;
}

/* The same gamma, 0 .. max_gamma, for all requests of a batch: the most tokens per time; ties: the lower
 * one. *rate, optional: that many. */
static inline fa_status fa_choose_gamma(double alpha, const fa_cost *cost, int32_t batch, int32_t max_gamma,
                                        int32_t *gamma, double *rate, fa_error *error) {
    fai_verdict v = {fa_cost_check(cost, error), error};
    double most = 0;
    fai_want(&v, FA_ERR_PROBABILITY, "alpha", alpha, 0, 1);
    fai_want(&v, FA_ERR_PLAN, "batch", batch, 1, INT32_MAX);
    fai_want(&v, FA_ERR_PLAN, "max_gamma", max_gamma, 0, FA_TREE_MAX_NODES - 1);
    fai_want_array(&v, FA_ERR_PLAN, "gamma", gamma, 4);
    for (int32_t n = 0; v.status == FA_OK && n <= max_gamma; n++) {
        const double x =
            batch * fa_expected_tokens(alpha, n) / fa_cost_step(cost, (double)batch * (n + 1), n);
        if (x > most) most = x, *gamma = n;
    }
    if (rate && v.status == FA_OK) *rate = most;
    return v.status;
}

/* Bytes for fa_choose_gammas, aligned to 8. */
static inline size_t fa_choose_gammas_workspace(int32_t batch, int32_t max_gamma) {
    return batch > 0 && max_gamma > 0 ? (size_t)batch * (size_t)max_gamma * sizeof(uint64_t) : 0;
}

/* A gamma for each request by its own alpha (batch), the most tokens per time of all together: those
 * tokens are drafted that are the likeliest to be accepted, and as many of them as pay. The draft takes as
 * many steps as the largest gamma. Ties are broken for fewer tokens, then for requests that come first;
 * likelihoods are compared as floats. */
static inline fa_status fa_choose_gammas(const double *alpha, int32_t batch, const fa_cost *cost,
                                         int32_t max_gamma, int32_t *gamma, double *rate, void *workspace,
                                         size_t bytes, fa_error *error) {
    fai_verdict v = {fa_cost_check(cost, error), error};
    uint64_t *key = (uint64_t *)workspace;
    int32_t n = 0, best_steps = 0, best_count = 0;
    fai_want(&v, FA_ERR_PLAN, "batch", batch, 1, INT32_MAX);
    fai_want(&v, FA_ERR_PLAN, "max_gamma", max_gamma, 0, FA_TREE_MAX_NODES - 1);
    fai_want(&v, FA_ERR_PLAN, "batch * max_gamma", (double)batch * max_gamma, 0, INT32_MAX);
    fai_want_array(&v, FA_ERR_PLAN, "alpha", alpha, sizeof *alpha);
    fai_want_array(&v, FA_ERR_PLAN, "gamma", gamma, 4);
    for (int32_t b = 0; v.status == FA_OK && b < batch; b++)
        if (!(alpha[b] >= 0 && alpha[b] <= 1)) fai_refuse(&v, FA_ERR_PROBABILITY, "alpha", b, alpha[b], 0, 1);
    if (v.status == FA_OK && max_gamma) {
        fai_want_array(&v, FA_ERR_WORKSPACE_NULL, "workspace", workspace, 8);
        fai_want(&v, FA_ERR_WORKSPACE_SIZE, "bytes", (double)bytes,
                 (double)fa_choose_gammas_workspace(batch, max_gamma), 0x1p62);
    }
    if (v.status != FA_OK) return v.status;
    for (int32_t b = 0; b < batch; b++) {
        double likely = 1;
        for (int32_t i = 0; i < max_gamma; i++)
            likely *= alpha[b], key[n++] = fai_score_key((float)likely, i * batch + b);
    }
    fai_sort(key, n);
    double most = batch / fa_cost_step(cost, batch, 0);
    for (int32_t steps = 1; steps <= max_gamma; steps++) { /* tokens up to that place of their request */
        double expected = batch;
        for (int32_t i = 0, count = 0; i < n; i++) {
            if ((int32_t)(~(uint32_t)key[i] / (uint32_t)batch) >= steps) continue;
            expected += (double)fai_key_score(key[i]), count++;
            const double x = expected / fa_cost_step(cost, (double)batch + count, steps);
            if (x > most) most = x, best_steps = steps, best_count = count;
        }
    }
    for (int32_t b = 0; b < batch; b++) gamma[b] = 0;
    for (int32_t i = 0; best_count > 0; i++) {
        const uint32_t index = ~(uint32_t)key[i];
        if ((int32_t)(index / (uint32_t)batch) < best_steps) gamma[index % (uint32_t)batch]++, best_count--;
    }
    if (rate) *rate = most;
    return FA_OK;
}

/* Nodes and depth of the tree of fa_sequoia (its args and workspace) with the most tokens per time, when
 * each of batch requests gets such a tree; ties: the shallower, then the smaller one. One node: do not
 * draft. */
static inline fa_status fa_choose_tree(const fa_sequoia_args *args, const void *workspace, size_t bytes,
                                       const fa_cost *cost, int32_t batch, int32_t *nodes, int32_t *depth,
                                       double *rate) {
    fai_verdict v = {fai_sequoia_memory(args, workspace, bytes), args ? args->error : NULL};
    double most = 0;
    if (v.status == FA_OK) v.status = fa_cost_check(cost, v.error);
    fai_want(&v, FA_ERR_PLAN, "batch", batch, 1, INT32_MAX);
    fai_want_array(&v, FA_ERR_PLAN, "nodes", nodes, 4);
    fai_want_array(&v, FA_ERR_PLAN, "depth", depth, 4);
    if (v.status != FA_OK) return v.status;
    for (int32_t d = 0; d <= args->max_depth; d++)
        for (int32_t n = 1; n <= args->max_nodes; n++) {
            const double x =
                batch * fa_sequoia_value(args, workspace, n, d) / fa_cost_step(cost, (double)batch * n, d);
            if (x > most) most = x, *nodes = n, *depth = d;
        }
    if (rate) *rate = most;
    return FA_OK;
}

/* How many of the first nodes of a tree to verify that is there already, for each of batch requests:
 * likely (count), the chance of each node to be accepted, 1 for the root: exp(score) of fa_dynamic,
 * products of fa_tree_greedy. Any first nodes must be a tree. The draft's time is spent and does not
 * count. */
static inline fa_status fa_choose_nodes(const double *likely, int32_t count, const fa_cost *cost,
                                        int32_t batch, int32_t *nodes, double *rate, fa_error *error) {
    fai_verdict v = {fa_cost_check(cost, error), error};
    double sum = 0, most = 0;
    fai_want(&v, FA_ERR_PLAN, "count", count, 1, FA_TREE_MAX_NODES);
    fai_want(&v, FA_ERR_PLAN, "batch", batch, 1, INT32_MAX);
    fai_want_array(&v, FA_ERR_PLAN, "likely", likely, sizeof *likely);
    fai_want_array(&v, FA_ERR_PLAN, "nodes", nodes, 4);
    for (int32_t i = 0; v.status == FA_OK && i < count; i++)
        if (!(likely[i] >= 0 && likely[i] <= 1))
            fai_refuse(&v, FA_ERR_PROBABILITY, "likely", i, likely[i], 0, 1);
    for (int32_t i = 0; v.status == FA_OK && i < count; i++) {
        sum += likely[i];
        const double x = batch * sum / fa_cost_step(cost, (double)batch * (i + 1), 0);
        if (x > most) most = x, *nodes = i + 1;
    }
    if (rate && v.status == FA_OK) *rate = most;
    return v.status;
}

/* ======================================================================================== */
/* >>cuda     the same on the GPU                                                            */
/* ======================================================================================== */

#endif
