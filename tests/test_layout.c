/* test_layout.c - strides, sequences, pages, and who sees whom, all against brute force. */
#include "fa_test.h"

#include "flashattn.h"

/* ---- visible keys ---------------------------------------------------------------------- */

/* The definition: query i stands at position p among the keys, sees what no mask hides. */
static int visible(const fa_args *a, int len_q, int len_k, int i, int j) {
    int64_t p = i + len_k - len_q;
    if (j < 0 || j >= len_k) return 0;
    if (a->causal && j > p) return 0;
    if (a->window_left && j <= p - a->window_left) return 0;
    if (a->window_right && j >= p + a->window_right) return 0;
    return 1;
}

static int inside(fa_range r, int j) { return r.lo <= j && j < r.hi; }

enum { MAX_LEN = 6, NUM_MASKS = 2 * 9 * 9 };

/* Mask number n of all combinations: causal, and each window 0 (unlimited) .. 7 or the longest. */
static fa_args mask_number(int n) {
    fa_args a = {0};
    a.causal = n % 2, a.window_left = n / 2 % 9, a.window_right = n / 18;
    if (a.window_left == 8) a.window_left = INT32_MAX;
    if (a.window_right == 8) a.window_right = INT32_MAX;
    return a;
}

typedef enum who { ANY, ALL } who;

/* Compares r with the definition: the keys that any (all) of the queries i0 <= i < i1 see. */
static void check_range(const fa_args *a, int len_q, int len_k, int i0, int i1, fa_range r,
                        who by) {
    int ok = 0 <= r.lo && r.lo <= r.hi && r.hi <= len_k;
    for (int j = -2; j < len_k + 2; j++) {
        int seen = 0;
        for (int i = i0; i < i1; i++) seen += visible(a, len_q, len_k, i, j);
        ok &= inside(r, j) == (by == ALL ? seen == i1 - i0 : seen > 0);
    }
    FA_EXPECT_MSG(ok, "len %d x %d, queries %d .. %d, causal %d, window %d, %d: keys %d .. %d (%s)",
                  len_q, len_k, i0, i1 - 1, a->causal, a->window_left, a->window_right, r.lo,
                  r.hi - 1, by == ALL ? "all" : "any");
}

static void check_lengths(const fa_args *a, int len_q, int len_k) {
    for (int i = 0; i < len_q; i++) {
        fa_range r = fa_row_range(a, len_q, len_k, i), next = r;
        check_range(a, len_q, len_k, i, i + 1, r, ALL);
        if (i + 1 < len_q) next = fa_row_range(a, len_q, len_k, i + 1);
        FA_EXPECT(r.lo <= next.lo && r.hi <= next.hi); /* both ends rise */
        for (int end = i + 1; end <= len_q; end++) {
            check_range(a, len_q, len_k, i, end, fa_any_range(a, len_q, len_k, i, end), ANY);
            check_range(a, len_q, len_k, i, end, fa_all_range(a, len_q, len_k, i, end), ALL);
        }
    }
}

FA_TEST(ranges_of_rows_and_tiles) {
    for (int n = 0; n < NUM_MASKS; n++) {
        fa_args a = mask_number(n);
        for (int len_q = 1; len_q <= MAX_LEN; len_q++)
            for (int len_k = 0; len_k <= MAX_LEN; len_k++) check_lengths(&a, len_q, len_k);
    }
}

/* Nothing overflows where lengths and windows are as large as they can be. */
FA_TEST(ranges_of_the_largest_sequences) {
    const int32_t m = INT32_MAX;
    fa_args a = {0};
    fa_range r = fa_row_range(&a, m, m, m - 1);
    FA_EXPECT(r.lo == 0 && r.hi == m);
    a.causal = 1;
    r = fa_row_range(&a, m, m, m - 1), FA_EXPECT(r.lo == 0 && r.hi == m);
    r = fa_row_range(&a, 1, m, 0), FA_EXPECT(r.lo == 0 && r.hi == m);
    r = fa_row_range(&a, m, 1, 0), FA_EXPECT(r.lo == 0 && r.hi == 0); /* p = 2 - 2^31 */
    r = fa_row_range(&a, m, 1, m - 1), FA_EXPECT(r.lo == 0 && r.hi == 1);
    a.causal = 0, a.window_left = a.window_right = m;
    r = fa_row_range(&a, m, m, m - 1), FA_EXPECT(r.lo == 0 && r.hi == m);
    r = fa_row_range(&a, m, m, 0), FA_EXPECT(r.lo == 0 && r.hi == m);
    r = fa_row_range(&a, m, 1, 0), FA_EXPECT(r.lo == 0 && r.hi == 1);
    a.window_left = a.window_right = 1; /* the own position alone */
    r = fa_row_range(&a, m, m, m - 1), FA_EXPECT(r.lo == m - 1 && r.hi == m);
    r = fa_row_range(&a, 1, m, 0), FA_EXPECT(r.lo == m - 1 && r.hi == m);
}

/* ---- strides ---------------------------------------------------------------------------- */

static int same(fai_strides x, int64_t b, int64_t s, int64_t h) {
    return x.b == b && x.s == s && x.h == h;
}

FA_TEST(strides_and_their_defaults) {
    FA_EXPECT(same(fai_resolve(0, 0, 0, 10, 3, 64), 10 * 3 * 64, 3 * 64, 64)); /* packed */
    /* one stride given: the others are literal, zero included */
    FA_EXPECT(same(fai_resolve(7, 0, 0, 10, 3, 64), 7, 0, 0));
    FA_EXPECT(same(fai_resolve(0, 7, 0, 10, 3, 64), 0, 7, 0));
    FA_EXPECT(same(fai_resolve(0, 0, 7, 10, 3, 64), 0, 0, 7));
    FA_EXPECT(same(fai_resolve(5, 6, 7, 10, 3, 64), 5, 6, 7));
    /* broadcast is zero said aloud, and zero is not packed beside it */
    FA_EXPECT(same(fai_resolve(FA_BROADCAST, 0, 0, 10, 3, 64), 0, 0, 0));
    FA_EXPECT(same(fai_resolve(FA_BROADCAST, FA_BROADCAST, FA_BROADCAST, 10, 3, 64), 0, 0, 0));
    FA_EXPECT(same(fai_resolve(FA_BROADCAST, 6, 7, 10, 3, 64), 0, 6, 7));
    FA_EXPECT(same(fai_resolve(5, FA_BROADCAST, 7, 10, 3, 64), 5, 0, 7));
    /* the products are 64-bit */
    FA_EXPECT(same(fai_resolve(0, 0, 0, 1 << 30, 1 << 20, 256), (int64_t)1 << 58, 1 << 28, 256));
}

FA_TEST(strides_of_each_tensor) {
    fa_args a = {0};
    int32_t cu[3] = {2, 5, 12}, table[1] = {0};
    a.batch = 2, a.num_heads = 6, a.num_heads_k = 3, a.seqlen_q = 7, a.seqlen_k = 11;
    FA_EXPECT(same(fai_strides_q(&a, 64), 7 * 6 * 64, 6 * 64, 64));
    FA_EXPECT(same(fai_strides_o(&a, 32), 7 * 6 * 32, 6 * 32, 32));
    FA_EXPECT(same(fai_strides_kv(&a, &a.k, 64), 11 * 3 * 64, 3 * 64, 64));
    FA_EXPECT(same(fai_strides_kv(&a, &a.v, 32), 11 * 3 * 32, 3 * 32, 32));
    FA_EXPECT(same(fai_strides_lse(&a), 6 * 7, 1, 7)); /* (batch, head, seq) */
    FA_EXPECT(same(fai_strides_bias(&a), 0, 0, 0)); /* none: sizes without a bias may be beyond 64 bits */
    a.bias.data = cu;
    FA_EXPECT(same(fai_strides_bias(&a), 6 * 7 * 11, 11, 7 * 11)); /* (batch, head, q, k) */
    a.cu_seqlens_q = cu;
    FA_EXPECT(same(fai_strides_lse(&a), 6 * 12, 1, 12)); /* (head, total_q) */
    a.num_heads_k = 0;
    FA_EXPECT(fai_num_heads_k(&a) == 6);
    FA_EXPECT(same(fai_strides_kv(&a, &a.k, 64), 11 * 6 * 64, 6 * 64, 64));
    a.block_table = table, a.page_size = 4, a.num_heads_k = 3;
    FA_EXPECT(fai_num_heads_k(&a) == 3);
    FA_EXPECT(same(fai_strides_kv(&a, &a.k, 64), 4 * 3 * 64, 3 * 64, 64)); /* of a page */
    /* given ones are kept */
    a.q.stride_b = 1, a.q.stride_s = 2, a.q.stride_h = 3, a.k.stride_s = 4, a.o.stride_h = 5;
    a.lse.stride_b = 6, a.lse.stride_h = FA_BROADCAST;
    FA_EXPECT(same(fai_strides_q(&a, 64), 1, 2, 3) && same(fai_strides_kv(&a, &a.k, 64), 0, 4, 0));
    FA_EXPECT(same(fai_strides_o(&a, 32), 0, 0, 5));
    a.lse.stride_b = 6, a.lse.stride_s = 7, a.lse.stride_h = 8;
    FA_EXPECT(same(fai_strides_lse(&a), 6, 7, 8));
    a.bias.stride_b = FA_BROADCAST, a.bias.stride_q = 9, a.bias.stride_h = FA_BROADCAST;
    FA_EXPECT(same(fai_strides_bias(&a), 0, 9, 0));
    a.bias.stride_b = 9, a.bias.stride_q = FA_BROADCAST, a.bias.stride_h = 0;
    FA_EXPECT(same(fai_strides_bias(&a), 9, 0, 0));
}

/* ---- sequences and pages ---------------------------------------------------------------- */

FA_TEST(sequences) {
    static const int32_t cu_q[4] = {3, 5, 5, 9}, cu_k[4] = {0, 8, 10, 10};
    static const int32_t used_q[3] = {1, 0, 4}, used_k[3] = {7, 2, 0};
    for (int given = 0; given < 16; given++) { /* every combination of the four arrays */
        fa_args a = {0};
        a.batch = 3, a.seqlen_q = 4, a.seqlen_k = 8;
        if (given & 1) a.cu_seqlens_q = cu_q;
        if (given & 2) a.cu_seqlens_k = cu_k;
        if (given & 4) a.seqused_q = used_q;
        if (given & 8) a.seqused_k = used_k;
        for (int b = 0; b < 3; b++) {
            fa_sequence s = fa_get_sequence(&a, b);
            int len_q = given & 1 ? cu_q[b + 1] - cu_q[b] : 4;
            int len_k = given & 2 ? cu_k[b + 1] - cu_k[b] : 8;
            FA_EXPECT(s.b == b);
            FA_EXPECT(s.len_q == (given & 4 ? used_q[b] : len_q));
            FA_EXPECT(s.len_k == (given & 8 ? used_k[b] : len_k));
            FA_EXPECT(s.row_q == (given & 1 ? cu_q[b] : 0) && s.row_k == (given & 2 ? cu_k[b] : 0));
            FA_EXPECT(s.b_q == (given & 1 ? 0 : b) && s.b_k == (given & 2 ? 0 : b));
        }
    }
}

/* Packed tensors are walked from the first element to the last, in order (b, s, h). */
FA_TEST(offsets_of_packed_rows) {
    static const int32_t cu_q[3] = {0, 2, 5}, cu_k[3] = {0, 4, 9};
    for (int varlen = 0; varlen < 2; varlen++) {
        fa_args a = {0};
        int64_t next_q = 0, next_k = 0;
        a.batch = 2, a.num_heads = 4, a.num_heads_k = 2, a.seqlen_q = 3, a.seqlen_k = 5;
        if (varlen) a.cu_seqlens_q = cu_q, a.cu_seqlens_k = cu_k;
        for (int b = 0; b < 2; b++) {
            fa_sequence s = fa_get_sequence(&a, b);
            for (int i = 0; i < s.len_q; i++)
                for (int h = 0; h < 4; h++, next_q += 16)
                    FA_EXPECT(fai_offset_q(&s, fai_strides_q(&a, 16), i, h) == next_q);
            for (int j = 0; j < s.len_k; j++)
                for (int h = 0; h < 2; h++, next_k += 32)
                    FA_EXPECT(fai_offset_k(&a, &s, fai_strides_kv(&a, &a.k, 32), j, h) == next_k);
        }
    }
}

/* lse is (batch, head, seq), or (head, total_q) where sequences follow each other. */
FA_TEST(offsets_of_lse) {
    static const int32_t cu_q[3] = {0, 2, 5};
    fa_args a = {0};
    a.batch = 2, a.num_heads = 4, a.seqlen_q = 3;
    for (int b = 0; b < 2; b++)
        for (int h = 0; h < 4; h++)
            for (int i = 0; i < 3; i++) {
                fa_sequence s = fa_get_sequence(&a, b);
                FA_EXPECT(fai_offset_q(&s, fai_strides_lse(&a), i, h) == (b * 4 + h) * 3 + i);
            }
    a.cu_seqlens_q = cu_q;
    for (int h = 0, next = 0; h < 4; h++)
        for (int b = 0; b < 2; b++) {
            fa_sequence s = fa_get_sequence(&a, b);
            for (int i = 0; i < s.len_q; i++, next++)
                FA_EXPECT(fai_offset_q(&s, fai_strides_lse(&a), i, h) == next);
        }
}

/* A cache of scattered pages; each row of a page holds a number of its own. */
FA_TEST(offsets_in_pages) {
    enum { PAGES = 32, HEADS = 2, DIM = 16, SEQLEN = 37, BATCH = 2 };
    uint64_t state = fat_seed;
    for (int page_size = 1; page_size <= 48; page_size = page_size * 2 + fat_below(&state, 2)) {
        int32_t table[BATCH * 40];
        int needed = (SEQLEN + page_size - 1) / page_size;
        fa_args a = {0};
        a.batch = BATCH, a.seqlen_q = 1, a.seqlen_k = SEQLEN;
        a.num_heads = 4, a.num_heads_k = HEADS;
        a.page_size = page_size, a.num_pages = PAGES, a.block_table = table;
        for (int wide = 0; wide < 2; wide++) {
            int64_t stride = wide ? 40 : needed;
            a.block_table_stride = wide ? 40 : 0;
            for (int n = 0; n < BATCH * 40; n++) table[n] = fat_below(&state, PAGES);
            for (int b = 0; b < BATCH; b++) {
                fa_sequence s = fa_get_sequence(&a, b);
                fai_strides packed = fai_strides_kv(&a, &a.k, DIM), given = {1000000, 100, 7000};
                for (int j = 0; j < SEQLEN; j++)
                    for (int h = 0; h < HEADS; h++) {
                        int64_t page = table[b * stride + j / page_size], row = j % page_size;
                        int64_t want = ((page * page_size + row) * HEADS + h) * DIM;
                        FA_EXPECT(fai_offset_k(&a, &s, packed, j, h) == want);
                        want = page * 1000000 + row * 100 + h * 7000;
                        FA_EXPECT(fai_offset_k(&a, &s, given, j, h) == want);
                    }
            }
        }
    }
}

FA_TEST(offsets_beyond_32_bits) {
    const int64_t last = INT32_MAX - 1, row = 1 << 20, head = 1 << 10, batch = INT32_MAX;
    const int64_t in_page = last - (1 << 30);
    int32_t table[4] = {0, 0, 0, INT32_MAX - 1};
    fai_strides st = {batch, row, head};
    fa_args a = {0};
    fa_sequence s;
    a.seqlen_q = a.seqlen_k = INT32_MAX;
    s = fa_get_sequence(&a, INT32_MAX - 1);
    FA_EXPECT(fai_offset_q(&s, st, last, 5) == last * batch + last * row + 5 * head);
    FA_EXPECT(fai_offset_k(&a, &s, st, last, 5) == last * batch + last * row + 5 * head);
    a.block_table = table, a.page_size = 1 << 30; /* seqlen_k + page_size is above 2^31 */
    s = fa_get_sequence(&a, 1);
    FA_EXPECT(fai_offset_k(&a, &s, st, last, 5) == last * batch + in_page * row + 5 * head);
}

/* ---- masks in memory, descale factors ---------------------------------------------------- */

FA_TEST(block_mask) {
    enum { BATCH = 2, HEADS = 3, LEN_Q = 7, LEN_K = 11 };
    static uint8_t data[BATCH * HEADS * LEN_Q * LEN_K + 1000];
    uint64_t state = fat_seed;
    for (size_t n = 0; n < sizeof data; n++) /* half of them 0, the others anything */
        data[n] = (uint8_t)(fat_below(&state, 2) * (1 + fat_below(&state, 255)));
    for (int block_q = 1; block_q <= LEN_Q + 1; block_q++)
        for (int block_k = 1; block_k <= LEN_K + 1; block_k++)
            for (int strides = 0; strides < 4; strides++) {
                int rows = (LEN_Q + block_q - 1) / block_q, cols = (LEN_K + block_k - 1) / block_k;
                int sb = HEADS * rows * cols, sh = rows * cols; /* bytes, packed */
                fa_block_mask m = {data, 0, 0, block_q, block_k};
                fa_args a = {0};
                if (strides == 1) m.stride_b = sb = 500, m.stride_h = sh = 150;
                if (strides == 2) m.stride_b = sb, m.stride_h = FA_BROADCAST, sh = 0;
                if (strides == 3) m.stride_b = m.stride_h = FA_BROADCAST, sb = sh = 0;
                a.batch = BATCH, a.num_heads = HEADS, a.seqlen_q = LEN_Q, a.seqlen_k = LEN_K;
                a.block_mask = m;
                for (int n = 0; n < BATCH * HEADS * LEN_Q * LEN_K; n++) { /* (b, h, i, j) */
                    int j = n % LEN_K, i = n / LEN_K % LEN_Q, h = n / (LEN_K * LEN_Q) % HEADS;
                    fa_sequence s = fa_get_sequence(&a, n / (LEN_K * LEN_Q * HEADS));
                    int want = data[s.b * sb + h * sh + i / block_q * cols + j / block_k] != 0;
                    FA_EXPECT(fa_block_visible(&a, &s, h, i, j) == want);
                }
            }
}

enum { TREE_BATCH = 2, TREE_MAX = 70 };

/* Random trees of n tokens, as words with strides sb (0: one tree for the batch) and sq, and as
 * sees[b][i][t]: a token sees itself and its ancestors. */
static void make_trees(uint64_t *state, int n, int sb, int sq, uint32_t *words,
                       unsigned char (*sees)[TREE_MAX][TREE_MAX]) {
    for (int b = 0; b < TREE_BATCH; b++)
        for (int i = 0; i < n; i++) {
            int parent = fat_below(state, i + 1) - 1; /* -1: a root */
            memset(sees[b][i], 0, TREE_MAX);
            if (parent >= 0) memcpy(sees[b][i], sees[b][parent], TREE_MAX);
            sees[b][i][i] = 1;
            if (b > 0 && sb == 0) memcpy(sees[b][i], sees[0][i], TREE_MAX);
            for (int t = 0; t < n; t++)
                if (sees[b][i][t]) words[b * sb + i * sq + t / 32] |= 1u << (t % 32);
        }
}

FA_TEST(tree_mask) {
    static const int sizes[] = {1, 2, 31, 32, 33, 64, 65, TREE_MAX};
    static uint32_t words[TREE_BATCH * TREE_MAX * 4];
    static unsigned char sees[TREE_BATCH][TREE_MAX][TREE_MAX];
    uint64_t state = fat_seed;
    for (int n = 0; n < 8 * 3; n++) {
        int len = sizes[n / 3], sq = (len + 31) / 32, sb = sq * len; /* strides in words, packed */
        int32_t used_q[TREE_BATCH] = {len, len - (len > 2)}, used_k[TREE_BATCH];
        fa_args a = {0};
        a.batch = TREE_BATCH, a.seqlen_q = len, a.seqlen_k = 100, a.tree_mask.data = words;
        if (n % 3 == 1) a.tree_mask.stride_q = sq = 4, a.tree_mask.stride_b = sb = 4 * TREE_MAX;
        if (n % 3 == 2) a.tree_mask.stride_q = sq, a.tree_mask.stride_b = FA_BROADCAST, sb = 0;
        memset(words, 0, sizeof words);
        make_trees(&state, len, sb, sq, words, sees);
        for (int b = 0; b < TREE_BATCH; b++) used_k[b] = used_q[b] + fat_below(&state, 20);
        a.seqused_q = used_q, a.seqused_k = used_k;
        for (int b = 0; b < TREE_BATCH; b++) {
            fa_sequence s = fa_get_sequence(&a, b);
            int context = s.len_k - s.len_q; /* keys before the tree: all see them */
            for (int i = 0; i < s.len_q; i++)
                for (int j = 0; j < s.len_k; j++) {
                    int want = j < context || sees[b][i][j - context];
                    FA_EXPECT(fa_tree_visible(&a, &s, i, j) == want);
                }
        }
    }
}

/* One row of mask for all queries: stride_q may be FA_BROADCAST too. */
FA_TEST(tree_mask_of_one_row) {
    static const uint32_t row[1] = {0x5};
    fa_args a = {0};
    fa_sequence s;
    a.batch = 1, a.seqlen_q = 3, a.seqlen_k = 5;
    a.tree_mask.data = row, a.tree_mask.stride_q = a.tree_mask.stride_b = FA_BROADCAST;
    s = fa_get_sequence(&a, 0);
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 5; j++) FA_EXPECT(fa_tree_visible(&a, &s, i, j) == (j != 3));
}

FA_TEST(descale_factors) {
    float data[100];
    fa_descale d = {0, 0, 0, 0, 0, 0};
    for (int n = 0; n < 100; n++) data[n] = (float)n;
    FA_EXPECT(fai_descale(NULL, &d, 3, 2, 1) == 1); /* none */
    d.data = data + 7;
    FA_EXPECT(fai_descale(NULL, &d, 3, 2, 1) == 7); /* one for the tensor */
    d.data = data, d.stride_b = 10, d.stride_h = 3;
    FA_EXPECT(fai_descale(NULL, &d, 3, 2, 1000) == 36); /* one for each batch and head */
    d.stride_block = 20, d.block = 4;
    for (int s = 0; s < 12; s++) FA_EXPECT(fai_descale(NULL, &d, 1, 2, s) == (float)(16 + s / 4 * 20));
}

FA_TEST_MAIN
