/* cache_refusals.h - what fa_append, fa_compact, fa_rotary and fa_quantize refuse: status, field, numbers and index of fa_error, and
 * that nothing is written.  test_cache.c runs it; test_status.c counts the codes.  Include flashattn.h and fa_test.h first. */
#ifndef FA_CACHE_REFUSALS_H
#define FA_CACHE_REFUSALS_H

enum { CR_B = 2, CR_H = 2, CR_S = 8, CR_D = 4, CR_NEW = 3 };

/* All that the calls may touch. */
typedef struct cr_memory {
    float k[256], v[256], new_k[128], new_v[128], factor[128], cos_table[64], sin_table[64], q[128], o[128];
    int32_t table[16], positions[4], cu[4], used[4], spin[16], accepted[16], num[4];
} cr_memory;
static cr_memory cr, cr_before;
static fa_error cr_error;

static inline fa_cache cr_cache(void) {
    fa_cache c;
    memset(&c, 0, sizeof c);
    c.batch = CR_B, c.num_heads_k = CR_H, c.seqlen_k = CR_S, c.head_dim = c.head_dim_v = CR_D, c.dtype = FA_F32;
    c.k.data = cr.k, c.v.data = cr.v;
    return c;
}
static inline fa_append_args cr_append(void) {
    static const int32_t positions[] = {1, 5}, accepted[] = {0, 2, 1, 2}, num[] = {2, 2};
    fa_append_args a;
    memset(&a, 0, sizeof a), memset(&cr, 0, sizeof cr);
    a.cache = cr_cache(), a.dtype = FA_F32, a.seqlen_new = CR_NEW, a.k.data = cr.new_k, a.v.data = cr.new_v;
    memcpy(cr.positions, positions, sizeof positions), memcpy(cr.accepted, accepted, sizeof accepted);
    memcpy(cr.num, num, sizeof num);
    a.positions = cr.positions, a.error = &cr_error;
    return a;
}
static inline fa_append_args cr_append_paged(void) { /* pages of 2 rows, 4 a sequence; rows 1 .. 3 and 5 .. 7 */
    static const int32_t table[] = {4, 2, -1, -1, -1, -1, 3, 0};
    fa_append_args a = cr_append();
    memcpy(cr.table, table, sizeof table);
    a.cache.block_table = cr.table, a.cache.page_size = 2, a.cache.num_pages = 5;
    return a;
}
static inline fa_append_args cr_append_int8(void) {
    fa_append_args a = cr_append();
    a.cache.dtype = FA_I8, a.cache.k_descale.data = cr.factor;
    return a;
}
static inline fa_append_args cr_append_blocks(void) { /* a factor for two rows; both sequences go on within a block */
    fa_append_args a = cr_append_int8();
    a.cache.k_descale.block = 2, a.cache.k_descale.stride_block = 1, a.cache.k_descale.stride_h = CR_S / 2;
    a.cache.k_descale.stride_b = CR_H * CR_S / 2;
    return a;
}
static inline fa_descale_out cr_factors(int32_t block, int32_t paged) {
    fa_descale_out d = {cr.factor, 6, 3, 1, block, paged};
    return d;
}
static inline fa_append_args cr_append_rotary(void) {
    fa_append_args a = cr_append();
    a.rotary.cos = cr.cos_table, a.rotary.sin = cr.sin_table, a.rotary.count = 8, a.rotary.dim = 4;
    return a;
}
static inline fa_compact_args cr_compact(void) {
    fa_compact_args a;
    memset(&a, 0, sizeof a);
    const fa_append_args from = cr_append();
    a.cache = from.cache, a.max_accepted = 2, a.accepted = cr.accepted, a.num_accepted = cr.num;
    a.positions = cr.positions, a.error = &cr_error;
    return a;
}
static inline fa_rotary_args cr_rotary(void) {
    fa_rotary_args a;
    memset(&a, 0, sizeof a);
    const fa_append_args from = cr_append_rotary();
    a.batch = CR_B, a.num_heads = CR_H, a.seqlen_q = CR_NEW, a.head_dim = CR_D, a.dtype = FA_F32;
    a.q.data = cr.q, a.o.data = cr.o, a.rotary = from.rotary, a.error = &cr_error;
    return a;
}

static inline fa_quantize_args cr_quantize(void) { /* a factor for each sequence, head and two rows */
    fa_quantize_args a;
    memset(&a, 0, sizeof a), memset(&cr, 0, sizeof cr);
    a.batch = CR_B, a.num_heads = CR_H, a.seqlen_q = CR_NEW, a.head_dim = CR_D, a.dtype = FA_F32, a.o_dtype = FA_I8;
    a.q.data = cr.q, a.o.data = cr.o, a.error = &cr_error;
    a.descale.data = cr.factor, a.descale.block = 2, a.descale.stride_block = 1, a.descale.stride_h = 2;
    a.descale.stride_b = 2 * CR_H;
    return a;
}

/* status: of the first call; the second, without error, must say the same, and neither may write */
static inline void cr_expect(const char *what, fa_status first, fa_status second, fa_status want, int *seen, const char *field,
                             double got, double min, double max, int64_t index) {
    char text[400];
    FA_EXPECT_MSG(first == want && second == want, "%s: %s, want: %s", what, fa_strerror(first), fa_strerror(want));
    FA_EXPECT_MSG(!memcmp(&cr, &cr_before, sizeof cr) || want == FA_OK, "%s: memory was written", what);
    if (seen) seen[first] = 1;
    if (first != want) return;
    fa_error_message(&cr_error, text, sizeof text);
    FA_EXPECT_MSG(cr_error.status == want && !strcmp(cr_error.field, field) && cr_error.index == index &&
                      (cr_error.got == got || (got != got && cr_error.got != cr_error.got)) &&
                      cr_error.min == min && cr_error.max == max,
                  "%s: index %lld, %.17g, %.17g .. %.17g, %s", what, (long long)cr_error.index, cr_error.got, cr_error.min,
                  cr_error.max, text);
}
#define CR_CALL(type, from, call, change, want, ...) \
    { \
        type a = from(); \
        change; \
        memcpy(&cr_before, &cr, sizeof cr); \
        memset(&cr_error, 0, sizeof cr_error); \
        const fa_status first = call(&a); \
        a.error = NULL; \
        cr_expect(#call ": " #change, first, call(&a), want, seen, __VA_ARGS__); \
    }
#define CR_APPEND(from, change, want, ...) \
    CR_CALL(fa_append_args, cr_append##from, fa_append, change, FA_ERR_##want, __VA_ARGS__)
#define CR_COMPACT(change, want, ...) CR_CALL(fa_compact_args, cr_compact, fa_compact, change, FA_ERR_##want, __VA_ARGS__)
#define CR_ROTARY(change, want, ...) CR_CALL(fa_rotary_args, cr_rotary, fa_rotary, change, FA_ERR_##want, __VA_ARGS__)
#define CR_QUANTIZE(change, want, ...) \
    CR_CALL(fa_quantize_args, cr_quantize, fa_quantize, change, FA_ERR_##want, __VA_ARGS__)
#define CR_APPEND_OK(from, change) \
    CR_CALL(fa_append_args, cr_append##from, fa_append, change, FA_OK, "", 0, 0, 0, -1)

static inline void cr_refused_caches(int *seen) {
    const double most = INT32_MAX, far = (double)INT64_MAX, rows = FA_MAX_SEQLEN;
    CR_APPEND(, a.cache.batch = 0, CACHE_SIZE, "cache.batch", 0, 1, most, -1)
    CR_APPEND(, a.cache.num_heads_k = -1, CACHE_SIZE, "cache.num_heads_k", -1, 1, most, -1)
    CR_APPEND(, a.cache.seqlen_k = 0, CACHE_SIZE, "cache.seqlen_k", 0, 1, rows, -1)
    CR_APPEND(, a.cache.head_dim = 257, CACHE_SIZE, "cache.head_dim", 257, 1, 256, -1)
    CR_APPEND(, a.cache.head_dim_v = 0, CACHE_SIZE, "cache.head_dim_v", 0, 1, 256, -1)
    CR_APPEND(, a.cache.dtype = 0, CACHE_DTYPE, "cache.dtype", 0, FA_F32, FA_I8, -1)
    CR_APPEND(, a.cache.num_heads_k = INT32_MAX; a.cache.seqlen_k = FA_MAX_SEQLEN, SIZE_OVERFLOW,
              "seqlen * num_heads * head_dim", most * rows * 256, 1, 0x1p62, -1)
    CR_APPEND(, a.cache.k.data = NULL, CACHE_NULL, "cache.k.data", 0, 1, 0, -1)
    CR_APPEND(, a.cache.v.data = NULL, CACHE_NULL, "cache.v.data", 0, 1, 0, -1)
    CR_APPEND(, a.k.data = a.v.data = NULL, CACHE_NULL, "k.data", 0, 1, 0, -1)
    CR_APPEND(, a.cache.k.data = (char *)cr.k + 2, CACHE_ALIGN, "cache.k.data", 2, 0, 0, -1)
    CR_APPEND(, a.cache.v.stride_b = FA_BROADCAST, CACHE_STRIDE, "cache.v.stride_b", -1, 0, far, -1)
    CR_APPEND(, a.cache.k.stride_b = 64; a.cache.k.stride_s = 8; a.cache.k.stride_h = 3, CACHE_STRIDE, "cache.k.stride_h", 3,
              4, far, -1)
    CR_APPEND(, a.cache.k.data = cr.v + 60, CACHE_OVERLAP, "cache.v.data", NAN, 1, 0, -1)
    CR_APPEND(, a.k.data = cr.k + 100, CACHE_OVERLAP, "k.data", NAN, 1, 0, -1)
    CR_APPEND(, a.positions = (int32_t *)(void *)(cr.v + 1), CACHE_OVERLAP, "positions", NAN, 1, 0, -1)
    CR_APPEND(_rotary, a.rotary.cos = cr.v + 10, CACHE_OVERLAP, "rotary.cos", NAN, 1, 0, -1)
    CR_APPEND(_blocks, a.cache.k_descale.data = cr.new_v, CACHE_OVERLAP, "v.data", NAN, 1, 0, -1)
    CR_APPEND(, a.cache.page_size = 2, PAGE_SIZE, "page_size", 2, 0, 0, -1)
    CR_APPEND(_paged, a.cache.num_pages = 0, NUM_PAGES, "num_pages", 0, 1, most, -1)
    CR_APPEND(_paged, cr.table[1] = -1, BLOCK_TABLE, "block_table", -1, 0, 4, 1)
    CR_APPEND(_paged, cr.table[7] = 5, BLOCK_TABLE, "block_table", 5, 0, 4, 7)
    CR_APPEND(_paged, a.cache.block_table_stride = 3, BLOCK_TABLE_STRIDE, "block_table_stride", 3, 4, far, -1)
    CR_APPEND(_paged, cr.table[6] = 2, CACHE_PAGE, "block_table", 2, 1, 0, 6)
    CR_APPEND(_paged, cr.table[1] = 4, CACHE_PAGE, "block_table", 4, 1, 0, 1)
    CR_APPEND(_paged, a.cache.num_pages = 1 << 20; cr.table[0] = cr.table[7] = 999999, CACHE_PAGE, "block_table", 999999, 1, 0, 7)
    CR_APPEND(_paged, a.cache.num_pages = 1 << 20; cr.table[0] = cr.table[6] = 32767, CACHE_PAGE, "block_table", 32767, 1, 0, 6)
    CR_APPEND_OK(_paged, (void)0)
    CR_APPEND_OK(_paged, cr.table[2] = 2) /* of rows that are not in use */
}

static inline void cr_refused_factors(int *seen) {
    const double most = INT32_MAX, far = (double)INT64_MAX, big = 3.4028234663852886e38;
    CR_APPEND(_int8, a.cache.dtype = FA_BF16, DESCALE_K, "cache.k_descale.data", FA_BF16, FA_E4M3, FA_I8, -1)
    CR_APPEND(_int8, a.cache.k_descale.block = -1, CACHE_DESCALE, "cache.k_descale.block", -1, 0, most, -1)
    CR_APPEND(_int8, a.cache.k_descale.paged = 1, DESCALE_K, "paged", 1, 0, 0, -1)
    CR_APPEND(_int8, a.cache.k_descale.stride_h = -1, DESCALE_K, "cache.k_descale.stride_h", -1, 0, far, -1)
    CR_APPEND(_int8, a.cache.k_descale.stride_b = 4; cr.factor[4] = NAN, DESCALE_K, "cache.k_descale.data", NAN, 0, big, 4)
    CR_APPEND(_int8, a.cache.v_descale.data = cr.factor + 1; cr.factor[1] = -1, DESCALE_V, "cache.v_descale.data", -1, 0, big,
              0)
    CR_APPEND(_blocks, cr.factor[10] = INFINITY, DESCALE_K, "cache.k_descale.data", INFINITY, 0, big, 10)
    CR_APPEND(_blocks, a.cache.k_descale.stride_block = 0, CACHE_DESCALE, "cache.k_descale.stride_block", 0, 1, far, -1)
    CR_APPEND(_blocks, a.cache.k_descale.stride_h = 3, CACHE_DESCALE, "cache.k_descale.stride_h", 3, 4, far, -1)
    /* rows 3 and 4 are in the block of row 5: their codes may change, and row 3 lies in a page of its own */
    CR_APPEND(_paged, a.cache.dtype = FA_I8; a.cache.k_descale = cr_factors(3, 0), BLOCK_TABLE, "block_table", -1, 0, 4, 5)
    /* a factor for each page; rows 1 and 2 of sequence 0 are in pages 4 and 2 */
    CR_APPEND(_paged, a.cache.dtype = FA_E5M2; a.cache.k_descale = cr_factors(0, 1); a.seqused_new = cr.used; cr.used[0] = 2;
              cr.factor[2 * 6] = NAN, DESCALE_K, "cache.k_descale.data", NAN, 0, big, 2 * 6)
    CR_APPEND_OK(_int8, (void)0)
    CR_APPEND_OK(_blocks, cr.factor[3] = NAN)
}

static inline void cr_refused_rows(int *seen) {
    const double rows = FA_MAX_SEQLEN;
    CR_APPEND(, a.dtype = FA_E4M3, NEW_DTYPE, "dtype", FA_E4M3, FA_F32, FA_BF16, -1)
    CR_APPEND(, a.seqlen_new = 0, SEQLEN_NEW, "seqlen_new", 0, 1, rows, -1)
    CR_APPEND(, a.k.data = (char *)cr.new_k + 1, K_ALIGN, "k.data", 1, 0, 0, -1)
    CR_APPEND(, a.v.stride_s = -2, V_STRIDE, "v.stride_s", -2, -1, (double)INT64_MAX, -1)
    CR_APPEND(, a.cu_seqlens_new = cr.cu; cr.cu[1] = 4, CU_SEQLENS_NEW, "cu_seqlens_new", 4, 0, 3, 1)
    CR_APPEND(, a.seqused_new = cr.used; cr.used[1] = 4, SEQUSED_NEW, "seqused_new", 4, 0, 3, 1)
    CR_APPEND(, cr.positions[1] = 6, POSITIONS, "positions", 6, 0, 5, 1)
    CR_APPEND(, cr.positions[0] = -1, POSITIONS, "positions", -1, 0, 5, 0)
    CR_APPEND(, cr.positions[0] = INT32_MAX, POSITIONS, "positions", INT32_MAX, 0, 5, 0)
    CR_APPEND(, a.positions = NULL; a.seqlen_new = 9, POSITIONS, "positions", 0, 0, -1, 0)
    CR_APPEND(, a.positions = (int32_t *)(void *)((char *)cr.positions + 2), POSITIONS, "positions", 2, 0, 0, -1)
    CR_APPEND(_rotary, a.rotary.dim = 3, ROTARY, "rotary.dim", 3, 2, 4, -1)
    CR_APPEND(_rotary, a.rotary.dim = 6, ROTARY, "rotary.dim", 6, 2, 4, -1)
    CR_APPEND(_rotary, a.rotary.dim = 0, ROTARY, "rotary.dim", 0, 2, 4, -1)
    CR_APPEND(_rotary, a.rotary.interleaved = 2, ROTARY, "rotary.interleaved", 2, 0, 1, -1)
    CR_APPEND(_rotary, a.rotary.per_row = 1, ROTARY, "rotary.per_row", 1, 0, 0, -1)
    CR_APPEND(_rotary, a.rotary.count = 0, ROTARY_TABLE, "rotary.count", 0, 1, rows, -1)
    CR_APPEND(_rotary, a.rotary.cos = NULL, ROTARY_TABLE, "rotary.cos", 0, 1, 0, -1)
    CR_APPEND(_rotary, a.rotary.sin = (float *)(void *)((char *)cr.sin_table + 2), ROTARY_TABLE, "rotary.sin", 2, 0, 0, -1)
    CR_APPEND(_rotary, a.rotary.count = 7, ROTARY_POSITIONS, "rotary.count", 7, 8, rows, -1)
    CR_APPEND(_rotary, a.rotary.positions = cr.spin; cr.spin[1] = 6, ROTARY_POSITIONS, "rotary.positions", 6, 0, 5, 1)
    CR_APPEND(_rotary, a.rotary.positions = cr.spin; a.rotary.per_row = 1; cr.spin[4] = -1, ROTARY_POSITIONS,
              "rotary.positions", -1, 0, 7, 4)
    CR_APPEND_OK(_rotary, a.cache.k.data = NULL; a.k.data = NULL; a.rotary.count = 0) /* V alone is not rotated */
    CR_APPEND_OK(, a.seqused_new = cr.used; cr.used[0] = 3; cr.positions[1] = 8)
}

static inline void cr_refused_compactions(int *seen) {
    const double rows = FA_MAX_SEQLEN;
    CR_COMPACT(a.cache.k.data = a.cache.v.data = NULL, CACHE_NULL, "cache.k.data", 0, 1, 0, -1)
    CR_COMPACT(a.max_accepted = 0, MAX_ACCEPTED, "max_accepted", 0, 1, rows, -1)
    CR_COMPACT(cr.num[1] = 3, MAX_ACCEPTED, "num_accepted", 3, 0, 2, 1)
    CR_COMPACT(cr.num[0] = -1, MAX_ACCEPTED, "num_accepted", -1, 0, 2, 0)
    CR_COMPACT(a.accepted = NULL, ACCEPTED, "accepted", 0, 1, 0, -1)
    CR_COMPACT(cr.accepted[1] = 0, ACCEPTED, "accepted", 0, 1, 6, 1)
    CR_COMPACT(cr.accepted[2] = -1, ACCEPTED, "accepted", -1, 0, 2, 2)
    CR_COMPACT(cr.accepted[3] = 3, ACCEPTED, "accepted", 3, 2, 2, 3)
    CR_COMPACT(cr.accepted[3] = INT32_MAX, ACCEPTED, "accepted", INT32_MAX, 2, 2, 3)
    CR_COMPACT(cr.positions[1] = 9, POSITIONS, "positions", 9, 0, 8, 1)
    CR_COMPACT(a.cache.k.data = cr.v + 8, CACHE_OVERLAP, "cache.v.data", NAN, 1, 0, -1)
    CR_COMPACT(a.cache.block_table = cr.table; a.cache.page_size = 2; a.cache.num_pages = 5; cr.table[0] = 4; cr.table[1] = 1;
               cr.table[6] = 4, CACHE_PAGE, "block_table", 4, 1, 0, 6)
    CR_CALL(fa_compact_args, cr_compact, fa_compact, cr.num[1] = 1; cr.accepted[3] = -1, FA_OK, "", 0, 0, 0, -1)
}

static inline void cr_refused_rotations(int *seen) {
    const double most = INT32_MAX;
    CR_ROTARY(a.head_dim = 1, ROTARY, "head_dim", 1, 2, 256, -1)
    CR_ROTARY(memset(&a.rotary, 0, sizeof a.rotary), ROTARY, "rotary.dim", 0, 2, 4, -1)
    CR_ROTARY(a.dtype = FA_I8, NEW_DTYPE, "dtype", FA_I8, FA_F32, FA_BF16, -1)
    CR_ROTARY(a.batch = 0, BATCH, "batch", 0, 1, most, -1)
    CR_ROTARY(a.q.data = NULL, Q_NULL, "q.data", 0, 1, 0, -1)
    CR_ROTARY(a.o.data = NULL, O_NULL, "o.data", 0, 1, 0, -1)
    CR_ROTARY(a.o.data = cr.q + 1, O_OVERLAP, "q.data", NAN, 1, 0, -1)
    CR_ROTARY(a.o.data = cr.q; a.q.stride_s = 8; a.q.stride_b = 24; a.q.stride_h = 4, O_OVERLAP, "q.data", NAN, 1, 0, -1)
    CR_ROTARY(a.cu_seqlens_q = cr.cu; cr.cu[2] = 4, CU_SEQLENS_Q, "cu_seqlens_q", 4, 0, 3, 2)
    CR_ROTARY(a.rotary.count = 2, ROTARY_POSITIONS, "rotary.count", 2, 3, FA_MAX_SEQLEN, -1)
    CR_CALL(fa_rotary_args, cr_rotary, fa_rotary, a.o.data = cr.q, FA_OK, "", 0, 0, 0, -1)
}

static inline void cr_refused_quantisations(int *seen) {
    const double most = INT32_MAX, far = (double)INT64_MAX;
    CR_QUANTIZE(a.head_dim = 257, QUANTIZE_DIM, "head_dim", 257, 1, 256, -1)
    CR_QUANTIZE(a.hadamard = 2, QUANTIZE_DIM, "hadamard", 2, 0, 1, -1)
    CR_QUANTIZE(a.hadamard = 1; a.head_dim = 3, QUANTIZE_DIM, "head_dim", 3, 2, 256, -1)
    CR_QUANTIZE(a.o_dtype = 7, QUANTIZE_DTYPE, "o_dtype", 7, FA_F32, FA_I8, -1)
    CR_QUANTIZE(a.transposed = 1, QUANTIZE_TRANSPOSED, "transposed", 1, 0, 0, -1)
    CR_QUANTIZE(a.o_dtype = FA_E4M3; a.transposed = 2, QUANTIZE_TRANSPOSED, "transposed", 2, 0, 1, -1)
    CR_QUANTIZE(a.o_dtype = FA_E4M3; a.transposed = a.hadamard = 1, QUANTIZE_TRANSPOSED, "transposed", 1, 0, 0, -1)
    CR_QUANTIZE(a.o_dtype = FA_E4M3; a.transposed = 1; a.cu_seqlens_q = cr.cu, QUANTIZE_TRANSPOSED, "o.stride_s", 0, 16, far, -1)
    CR_QUANTIZE(a.dtype = FA_I8, NEW_DTYPE, "dtype", FA_I8, FA_F32, FA_BF16, -1)
    CR_QUANTIZE(a.batch = 0, BATCH, "batch", 0, 1, most, -1)
    CR_QUANTIZE(a.q.data = NULL, Q_NULL, "q.data", 0, 1, 0, -1)
    CR_QUANTIZE(a.o.data = NULL, O_NULL, "o.data", 0, 1, 0, -1)
    CR_QUANTIZE(a.o.data = cr.q, O_OVERLAP, "q.data", NAN, 1, 0, -1) /* in place only in the same dtype */
    CR_QUANTIZE(a.descale.data = cr.q + 1, O_OVERLAP, "q.data", NAN, 1, 0, -1)
    CR_QUANTIZE(a.cu_seqlens_q = cr.cu; cr.cu[2] = 4, CU_SEQLENS_Q, "cu_seqlens_q", 4, 0, 3, 2)
    CR_QUANTIZE(a.o_dtype = FA_BF16, QUANTIZE_DESCALE, "descale.data", FA_BF16, FA_E4M3, FA_I8, -1)
    CR_QUANTIZE(a.descale.block = -1, QUANTIZE_DESCALE, "descale.block", -1, 0, most, -1)
    CR_QUANTIZE(a.descale.paged = 1, QUANTIZE_DESCALE, "paged", 1, 0, 0, -1)
    CR_QUANTIZE(a.descale.stride_b = 3, QUANTIZE_DESCALE, "descale.stride_b", 3, 4, far, -1)
    CR_QUANTIZE(a.descale.stride_b = -1, QUANTIZE_DESCALE, "descale.stride_b", -1, 0, far, -1)
    CR_CALL(fa_quantize_args, cr_quantize, fa_quantize, a.descale.stride_h = a.descale.stride_b = 0, FA_OK, "", 0, 0, 0, -1)
    CR_CALL(fa_quantize_args, cr_quantize, fa_quantize, a.descale.data = NULL; a.o_dtype = FA_F32; a.o.data = cr.q, FA_OK, "", 0, 0, 0, -1)
}

/* Codes that were returned are set in seen, unless NULL. */
static inline void cache_refusals(int *seen) {
    cr_refused_caches(seen), cr_refused_factors(seen), cr_refused_rows(seen);
    cr_refused_compactions(seen), cr_refused_rotations(seen), cr_refused_quantisations(seen);

    fa_append_args a = cr_append();
    fa_compact_args c = cr_compact();
    fa_rotary_args r = cr_rotary();
    fa_quantize_args z = cr_quantize();
    FA_EXPECT(fa_append(NULL) == FA_ERR_ARGS_NULL && fa_compact(NULL) == FA_ERR_ARGS_NULL);
    FA_EXPECT(fa_rotary(NULL) == FA_ERR_ARGS_NULL && fa_quantize(NULL) == FA_ERR_ARGS_NULL);
    a.last_canary = c.first_canary = r.last_canary = z.first_canary = 1;
    a.error = c.error = r.error = z.error = (fa_error *)(void *)cr.k;
    memcpy(&cr_before, &cr, sizeof cr);
    FA_EXPECT(fa_append(&a) == FA_ERR_NOT_ZEROED && fa_compact(&c) == FA_ERR_NOT_ZEROED);
    FA_EXPECT(fa_quantize(&z) == FA_ERR_NOT_ZEROED && fa_rotary(&r) == FA_ERR_NOT_ZEROED && !memcmp(&cr, &cr_before, sizeof cr));
    FA_EXPECT(fa_rotary_table(cr.cos_table, cr.sin_table, 4, 3, 10000, 0) == FA_ERR_ROTARY);
    FA_EXPECT(fa_rotary_table(NULL, cr.sin_table, 4, 4, 10000, 0) == FA_ERR_ROTARY_TABLE);
    FA_EXPECT(fa_rotary_table(cr.cos_table, cr.sin_table, 4, 4, NAN, 0) == FA_ERR_ROTARY_TABLE);
    FA_EXPECT(fa_rotary_table(cr.cos_table, cr.sin_table, 4, 4, 10, -1) == FA_ERR_ROTARY_TABLE);
}

#endif
