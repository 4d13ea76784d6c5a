/* test_cache.cu - fa_append, fa_compact, fa_rotary and fa_quantize on the device against those of the CPU, bit for bit,
 * on copies of all memory: so a byte that should not be touched (0xff before) is compared as well. */
#define FA_CUDA_CACHE
#define FA_NAME bf16_64
#define FA_HEAD_DIM 64
#define FA_FEATURES FA_ALL_FEATURES
#include "flashattn_cuda.cuh"

#include "blocks.h"

#define FA_NAME bf16_32 /* a second include, and nothing twice */
#define FA_HEAD_DIM 32
#define FA_FEATURES 0
#include "flashattn_cuda.cuh"

static int due(void) { return due_every(6); }

/* ---- problems ------------------------------------------------------------------------------ */

enum { ROWS = 40, BATCH = 3, TABLE = 64 };
enum { NONE, TENSOR, HEAD, ROW, BLOCK, NUM_MODES }; /* factors */

typedef struct world {
    fa_cache c;
    int32_t *table, length[BATCH], used_pages;
    fa_dtype dtype; /* of new rows */
    float *cos_table, *sin_table;
    uint64_t seed;
} world;

static fa_descale_out make_factors(world *w, int mode) {
    fa_descale_out d;
    memset(&d, 0, sizeof d);
    const int64_t heads = w->c.num_heads_k;
    d.paged = w->c.block_table && fat_below(&w->seed, 2);
    d.block = mode == ROW ? 1 : mode == BLOCK ? 2 + fat_below(&w->seed, 18) : 0;
    const int64_t rows = d.paged ? w->c.page_size : w->c.seqlen_k, n = d.paged ? w->c.num_pages : w->c.batch;
    const int64_t count = d.block ? (rows + d.block - 1) / d.block : 1, gap = fat_below(&w->seed, 2);
    const int by_head = fat_below(&w->seed, 2);
    if (mode != TENSOR) {
        d.stride_block = by_head ? 1 : heads + gap, d.stride_h = by_head ? count + gap : 1;
        d.stride_b = (heads + gap) * (count + gap);
    }
    const int64_t total = 1 + n * (heads + gap) * (count + gap);
    d.data = (float *)take((size_t)total * 4, FA_F32);
    for (int64_t i = 0; i < total && !d.block; i++)
        d.data[i] = i % 7 == 3 ? 0 : (float)(0.002 + 0.05 * fat_uniform(&w->seed));
    return d;
}

static fa_tensor_out make_tensor(world *w, int dim, int wide) {
    const int64_t n = w->c.block_table ? w->c.num_pages : w->c.batch,
                  rows = w->c.block_table ? w->c.page_size : w->c.seqlen_k;
    const int64_t heads = w->c.num_heads_k, pad = dim + (wide ? 8 : 1) * fat_below(&w->seed, 3);
    const size_t size = fa_sizeof(w->c.dtype);
    const int layout = fat_below(&w->seed, 3);
    fa_tensor_out t;
    memset(&t, 0, sizeof t);
    if (layout == 1) t.stride_h = pad, t.stride_b = pad * heads, t.stride_s = pad * heads * n;
    if (layout == 2) t.stride_s = pad, t.stride_h = pad * rows + 8, t.stride_b = t.stride_h * heads;
    t.data = (char *)take((size_t)(n * heads * (pad * rows + 8) + 16) * size, w->c.dtype) +
             (wide ? 0 : size * (size_t)fat_below(&w->seed, 8));
    return t;
}

/* dim, dim_v 0: any; wide: all that the 16-byte accesses need */
static void make_world(world *w, fa_dtype dtype, fa_dtype fresh, int page, int mode, int wide,
                       uint64_t seed) {
    memset(w, 0, sizeof *w);
    w->seed = seed, w->dtype = fresh;
    w->c.dtype = dtype, w->c.batch = 1 + fat_below(&w->seed, BATCH),
    w->c.num_heads_k = 1 + fat_below(&w->seed, 5);
    w->c.seqlen_k = 24 + fat_below(&w->seed, 16);
    w->c.head_dim = 1 + fat_below(&w->seed, wide ? 16 : 128),
    w->c.head_dim_v = 1 + fat_below(&w->seed, wide ? 16 : 128);
    if (!fat_below(&w->seed, 8)) w->c.head_dim = wide ? 32 : 256;
    if (wide) w->c.head_dim *= 8, w->c.head_dim_v *= 8;
    if (page) {
        const int pages = (w->c.seqlen_k + page - 1) / page;
        w->table = (int32_t *)take((size_t)(w->c.batch * (pages + 1)) * 4, 0);
        w->c.block_table = w->table, w->c.page_size = page, w->c.num_pages = w->c.batch * pages + 2;
        w->c.block_table_stride = pages + 1;
    }
    w->c.k = make_tensor(w, w->c.head_dim, wide), w->c.v = make_tensor(w, w->c.head_dim_v, wide);
    if (mode != NONE) /* V has mostly the same kind */
        w->c.k_descale = make_factors(w, mode),
        w->c.v_descale = make_factors(w, fat_below(&w->seed, 4) ? mode : 1 + fat_below(&w->seed, 4));
}

static fa_cache cache_there(const fa_cache *c) {
    fa_cache d = *c;
    MOVE(void, d.k.data)
    MOVE(void, d.v.data)
    MOVE(const int32_t, d.block_table)
    MOVE(float, d.k_descale.data)
    MOVE(float, d.v_descale.data)
    return d;
}
static fa_rope rope_there(const fa_rope *r) {
    fa_rope d = *r;
    MOVE(const float, d.cos)
    MOVE(const float, d.sin)
    MOVE(const int32_t, d.positions)
    return d;
}

static fa_rope make_rope(world *w, int dim, int wide, int rows) {
    fa_rope r;
    memset(&r, 0, sizeof r);
    if (dim < 2 || !fat_below(&w->seed, 4)) return r;
    r.dim = 2 + 2 * fat_below(&w->seed, dim / 2), r.interleaved = fat_below(&w->seed, 2), r.count = TABLE;
    if (wide && dim >= 16 && fat_below(&w->seed, 4)) r.dim = 16 * (1 + fat_below(&w->seed, dim / 16));
    float *c = (float *)take((size_t)TABLE * 128 * 4, 0), *s = (float *)take((size_t)TABLE * 128 * 4, 0);
    FA_EXPECT(fa_rotary_table(c, s, TABLE, r.dim, 1000, 0) == FA_OK);
    r.cos = c, r.sin = s;
    if (fat_below(&w->seed, 2)) {
        int32_t *positions = (int32_t *)take((size_t)rows * 4, 0);
        for (int i = 0; i < rows; i++) positions[i] = fat_below(&w->seed, TABLE - ROWS);
        r.positions = positions, r.per_row = fat_below(&w->seed, 2);
    }
    return r;
}

static void fill(void *data, int64_t count, fa_dtype dtype, uint64_t *seed) {
    const double scale = 1 + fat_below(seed, 3);
    for (int64_t i = 0; i < count; i++) {
        const int kind = fat_below(seed, 400);
        const double x = fat_normal(seed) * scale * (kind < 40 ? 30 : 1);
        fa_store(data, i, dtype,
                 kind == 399   ? NAN
                 : kind == 398 ? -INFINITY
                 : kind > 380  ? -0.0f
                 : kind > 370  ? (float)x * 1e-40f
                               : (float)x);
    }
}

/* New rows behind the present lengths of w, `most` at most; some sequences get none. */
static fa_append_args make_rows(world *w, int most, int wide, int32_t **start, int32_t **count) {
    fa_append_args a;
    memset(&a, 0, sizeof a);
    uint64_t *seed = &w->seed;
    const int batch = w->c.batch, heads = w->c.num_heads_k, varlen = fat_below(seed, 2);
    int32_t *cu = (int32_t *)take((size_t)(batch + 1) * 4, 0);
    *start = (int32_t *)take((size_t)batch * 4, 0), *count = (int32_t *)take((size_t)batch * 4, 0);
    a.cache = w->c, a.dtype = w->dtype, a.seqlen_new = most;
    cu[0] = 2;
    for (int b = 0; b < batch; b++) {
        const int room = w->c.seqlen_k - w->length[b], n = fat_below(seed, 5) ? fat_below(seed, most + 1) : 0;
        (*start)[b] = w->length[b], (*count)[b] = n < room ? n : room;
        cu[b + 1] = cu[b] + (*count)[b] + (most - (*count)[b]) / 2;
        for (int i = 0; w->table && i < (*count)[b]; i++) {
            int32_t *page = &w->table[b * w->c.block_table_stride + (w->length[b] + i) / w->c.page_size];
            if (*page < 0) *page = w->c.num_pages - 1 - w->used_pages++;
        }
        w->length[b] += (*count)[b];
    }
    if (varlen) a.cu_seqlens_new = cu;
    a.seqused_new = *count, a.positions = *start;
    for (int v = 0; v < 2; v++) {
        const int dim = v ? w->c.head_dim_v : w->c.head_dim, pad = dim + (wide ? 8 : 1) * fat_below(seed, 2);
        const int64_t elements = (int64_t)(batch * most + 2) * heads * pad + 8;
        fa_tensor *t = v ? &a.v : &a.k;
        char *data = (char *)take((size_t)elements * fa_sizeof(a.dtype), a.dtype);
        fill(data, elements, a.dtype, seed);
        t->data = data + (wide ? 0 : fa_sizeof(a.dtype) * (size_t)fat_below(seed, 2));
        if (fat_below(seed, 2))
            t->stride_h = pad, t->stride_s = heads * pad, t->stride_b = most * heads * pad;
    }
    a.rotary = make_rope(w, w->c.head_dim, wide, batch * most + 2);
    return a;
}

static fa_append_args append_there(const fa_append_args *a) {
    fa_append_args d = *a;
    d.cache = cache_there(&a->cache), d.rotary = rope_there(&a->rotary);
    MOVE(const void, d.k.data)
    MOVE(const void, d.v.data)
    MOVE(const int32_t, d.cu_seqlens_new)
    MOVE(const int32_t, d.seqused_new)
    MOVE(const int32_t, d.positions)
    return d;
}

static int append_both(const fa_append_args *a) {
    fa_error error;
    fa_append_args d;
    upload();
    d = append_there(a), d.error = &error;
    if (!launched(fa_append_cuda(&d, 0), &error)) return 0;
    d = *a, d.error = &error;
    return launched(fa_append(&d), &error) && FA_EXPECT(same());
}

static const int pages[] = {0, 1, 3, 16, 256};

/* Each dtype of the cache, page size and kind of factors; new rows of each dtype; both widths of accesses. */
static void all_worlds(void (*f)(world *, int), uint64_t seed) {
    int n = 0;
    for (int dtype = FA_F32; dtype <= FA_I8; dtype++)
        for (int page = 0; page < 5; page++)
            for (int mode = 0; mode < (dtype >= FA_E4M3 ? NUM_MODES : 1); mode++)
                for (int wide = 0; wide < 2; wide++, n++) {
                    world w;
                    const int before = fat_failures;
                    if (!due()) continue;
                    make_world(&w, dtype, FA_F32 + n % 3, pages[page], mode, wide, seed + (uint64_t)n);
                    f(&w, wide);
                    drop_all();
                    if (fat_failures > before)
                        cudaDeviceReset(), /* a broken context is of no use to others */
                            printf("#     %s, new rows %s, page size %d, factors %d, wide %d, number %d\n",
                                   fa_dtype_name(dtype), fa_dtype_name(w.dtype), pages[page], mode, wide, n);
                }
}

/* ---- append -------------------------------------------------------------------------------- */

static void append_some(world *w, int wide) {
    for (int step = 0; step < 3; step++) {
        int32_t *start, *count;
        fa_append_args a = make_rows(w, step == 0 ? 14 : 1 + fat_below(&w->seed, 9), wide, &start, &count);
        if (w->c.k_descale.block > 1 || w->c.v_descale.block > 1) {
        } /* blocks go on only where rows are */
        else if (!fat_below(&w->seed, 8))
            a.k.data = NULL;
        else if (!fat_below(&w->seed, 8))
            a.v.data = NULL;
        if (!append_both(&a)) return;
    }
}
FA_TEST(append_is_that_of_the_cpu) {
    for (uint64_t n = 0; n < 2; n++) all_worlds(append_some, fat_seed + 1000 * n);
}

/* The same rows in one call on the device and one by one: also where blocks share a factor. */
static void append_one_by_one(world *w, int wide) {
    int32_t *start, *count;
    fa_append_args a = make_rows(w, 12, wide, &start, &count);
    int32_t *one = (int32_t *)take(BATCH * 4, 0), *at = (int32_t *)take(BATCH * 4, 0),
            *first = (int32_t *)take((BATCH + 1) * 4, 0);
    fa_error error;
    if (!a.cu_seqlens_new || (a.rotary.positions && !a.rotary.per_row)) return;
    FA_REQUIRE(fa_append(&a) == FA_OK); /* on the host all at once, on the device one by one */
    for (int n = 0; n < 3; n++) upload();
    for (int v = 0; v < 2; v++) { /* the device's cache is as it was before */
        const fa_cache d = cache_there(&a.cache);
        for (int m = 0; m < num_blocks; m++)
            if (there(blocks[m].host) && (blocks[m].device <= (unsigned char *)(v ? d.v.data : d.k.data)) &&
                (unsigned char *)(v ? d.v.data : d.k.data) < blocks[m].device + blocks[m].bytes)
                FA_EXPECT(cudaMemset(blocks[m].device, 0xff, blocks[m].bytes) == cudaSuccess);
        float *factors = v ? d.v_descale.data : d.k_descale.data;
        if (factors && (v ? d.v_descale.block : d.k_descale.block))
            for (int m = 0; m < num_blocks; m++)
                if (blocks[m].device == (unsigned char *)factors)
                    FA_EXPECT(cudaMemset(blocks[m].device, 0xff, blocks[m].bytes) == cudaSuccess);
    }
    fa_append_args d = append_there(&a);
    d.error = &error, d.seqused_new = (const int32_t *)there(one), d.positions = (const int32_t *)there(at);
    d.cu_seqlens_new = (const int32_t *)there(first), d.seqlen_new = 12;
    for (int i = 0; i < 12; i++) {
        int any = 0;
        for (int b = 0; b < w->c.batch; b++) {
            one[b] = i < count[b], at[b] = start[b] + (one[b] ? i : 0), any |= one[b];
            first[b] = a.cu_seqlens_new[b] + (one[b] ? i : 0);
        }
        first[w->c.batch] = a.cu_seqlens_new[w->c.batch];
        FA_EXPECT(cudaMemcpy(there(one), one, BATCH * 4, cudaMemcpyHostToDevice) == cudaSuccess);
        FA_EXPECT(cudaMemcpy(there(at), at, BATCH * 4, cudaMemcpyHostToDevice) == cudaSuccess);
        FA_EXPECT(cudaMemcpy(there(first), first, (BATCH + 1) * 4, cudaMemcpyHostToDevice) == cudaSuccess);
        if (any && !launched(fa_append_cuda(&d, 0), &error)) return;
    }
    FA_EXPECT(same());
}
FA_TEST(rows_one_by_one_give_the_same_bits) { all_worlds(append_one_by_one, fat_seed + 3000); }

/* ---- compaction ---------------------------------------------------------------------------- */

static void compact_some(world *w, int wide) {
    enum { COLUMNS = 20 };
    int32_t *start, *count, *accepted = (int32_t *)take(BATCH * COLUMNS * 4, 0),
                            *num = (int32_t *)take(BATCH * 4, 0);
    fa_append_args add = make_rows(w, 8, wide, &start, &count);
    fa_compact_args a, d;
    fa_error error;
    FA_REQUIRE(fa_append(&add) == FA_OK);
    add = make_rows(w, COLUMNS, wide, &start, &count);
    FA_REQUIRE(fa_append(&add) == FA_OK);
    memset(&a, 0, sizeof a);
    const int all = !fat_below(&w->seed, 8), few = fat_below(&w->seed, 2);
    for (int b = 0; b < w->c.batch; b++) {
        num[b] = 0;
        for (int i = 0; i < count[b]; i++)
            if (all || (fat_below(&w->seed, 3) == 0) == few) accepted[b * COLUMNS + num[b]++] = i;
    }
    a.cache = w->c, a.max_accepted = COLUMNS, a.accepted = accepted, a.num_accepted = num,
    a.positions = start;
    if (!fat_below(&w->seed, 6))
        a.cache.k.data = NULL;
    else if (!fat_below(&w->seed, 6))
        a.cache.v.data = NULL;
    upload();
    d = a, d.error = &error, d.cache = cache_there(&a.cache);
    MOVE(const int32_t, d.accepted)
    MOVE(const int32_t, d.num_accepted)
    MOVE(const int32_t, d.positions)
    if (!launched(fa_compact_cuda(&d, 0), &error)) return;
    FA_EXPECT(fa_compact(&a) == FA_OK && same());
}
FA_TEST(compaction_is_that_of_the_cpu) {
    for (uint64_t n = 0; n < 2; n++) all_worlds(compact_some, fat_seed + 4000 + 1000 * n);
}

/* ---- rows of Q ----------------------------------------------------------------------------- */

/* q and o of a call: of the same shape, perhaps the same. */
typedef struct rows {
    fa_tensor q;
    fa_tensor_out o;
    int32_t size[4], *cu, *used; /* size: batch, num_heads, seqlen_q, head_dim */
} rows;
static rows make_q(uint64_t *seed, fa_dtype dtype, fa_dtype o_dtype, int dim, int wide) {
    rows r;
    memset(&r, 0, sizeof r);
    const int batch = 1 + fat_below(seed, BATCH), heads = 1 + fat_below(seed, 9),
              seqlen = 1 + fat_below(seed, 30);
    const int pad = dim + (wide ? 8 : 1) * fat_below(seed, 2),
              in_place = dtype == o_dtype && fat_below(seed, 2);
    const int64_t elements = (int64_t)(batch * seqlen + 2) * heads * pad + 8;
    r.size[0] = batch, r.size[1] = heads, r.size[2] = seqlen, r.size[3] = dim;
    r.q.data = take((size_t)elements * fa_sizeof(dtype), dtype),
    fill((void *)r.q.data, elements, dtype, seed);
    if (!wide) r.q.data = (const char *)r.q.data + fa_sizeof(dtype);
    r.o.data = in_place ? (void *)r.q.data : take((size_t)elements * fa_sizeof(o_dtype), o_dtype);
    if (pad != dim)
        r.q.stride_h = r.o.stride_h = pad, r.q.stride_s = r.o.stride_s = heads * pad,
        r.q.stride_b = r.o.stride_b = seqlen * heads * pad;
    if (fat_below(seed, 2)) {
        r.cu = (int32_t *)take((size_t)(batch + 1) * 4, 0), r.cu[0] = 1;
        for (int b = 0; b < batch; b++) r.cu[b + 1] = r.cu[b] + fat_below(seed, seqlen + 1);
    }
    if (fat_below(seed, 2)) {
        r.used = (int32_t *)take((size_t)batch * 4, 0);
        for (int b = 0; b < batch; b++)
            r.used[b] = fat_below(seed, 1 + (r.cu ? r.cu[b + 1] - r.cu[b] : seqlen));
    }
    return r;
}

FA_TEST(rotary_is_that_of_the_cpu) {
    uint64_t seed = fat_seed + 6000;
    for (int n = 0; n < 240; n++) {
        const int wide = n % 2, dim = wide ? 8 * (1 + fat_below(&seed, 32)) : 2 + fat_below(&seed, 255);
        const fa_dtype dtype = FA_F32 + n / 2 % 3;
        world w;
        fa_rotary_args a, d;
        fa_error error;
        if (!due()) continue;
        memset(&w, 0, sizeof w), memset(&a, 0, sizeof a), w.seed = fat_next(&seed);
        const rows r = make_q(&seed, dtype, dtype, dim, wide);
        a.batch = r.size[0], a.num_heads = r.size[1], a.seqlen_q = r.size[2], a.head_dim = dim,
        a.dtype = dtype;
        a.q = r.q, a.o = r.o, a.cu_seqlens_q = r.cu, a.seqused_q = r.used;
        while (!a.rotary.dim) a.rotary = make_rope(&w, dim, wide, a.batch * a.seqlen_q + 2);
        upload();
        d = a, d.error = &error, d.rotary = rope_there(&a.rotary);
        MOVE(const void, d.q.data)
        MOVE(void, d.o.data)
        MOVE(const int32_t, d.cu_seqlens_q)
        MOVE(const int32_t, d.seqused_q)
        if (launched(fa_rotary_cuda(&d, 0), &error))
            FA_EXPECT_MSG(fa_rotary(&a) == FA_OK && same(), "%d: %s, dim %d of %d", n, fa_dtype_name(dtype),
                          a.rotary.dim, dim);
        drop_all();
    }
}

/* Every kind of sharing: by axis, and by rows. */
FA_TEST(quantize_is_that_of_the_cpu) {
    uint64_t seed = fat_seed + 7000;
    for (int n = 0; n < 300; n++) {
        const int wide = n % 2, hadamard = n / 2 % 2;
        const int dim = hadamard ? 2 << fat_below(&seed, 8)
                        : wide   ? 8 * (1 + fat_below(&seed, 32))
                                 : 1 + fat_below(&seed, 256);
        const fa_dtype dtype = FA_F32 + fat_below(&seed, 3),
                       o_dtype = fat_below(&seed, 4) ? FA_E4M3 + n % 3 : FA_F32 + n % 3;
        fa_quantize_args a, d;
        fa_error error;
        if (!due()) continue;
        memset(&a, 0, sizeof a);
        const rows r = make_q(&seed, dtype, o_dtype, dim, wide);
        a.batch = r.size[0], a.num_heads = r.size[1], a.seqlen_q = r.size[2], a.head_dim = dim;
        a.dtype = dtype, a.o_dtype = o_dtype, a.hadamard = hadamard, a.seed = fat_next(&seed);
        a.q = r.q, a.o = r.o, a.cu_seqlens_q = r.cu, a.seqused_q = r.used;
        const int kind = fat_below(&seed, 8), block = kind < 2 ? 1 : kind < 4 ? 0 : 1 + fat_below(&seed, 16);
        if (o_dtype >= FA_E4M3 && fat_below(&seed, 8)) {
            const int64_t count = block ? (a.seqlen_q + block - 1) / block : 1, gap = fat_below(&seed, 2);
            a.descale.data = (float *)take((size_t)(a.batch * a.num_heads * (count + gap)) * 4, FA_F32);
            a.descale.block = block;
            const int axes = fat_below(&seed, 3) ? 7 : fat_below(&seed, 8);
            if (axes & 1) a.descale.stride_block = 1;
            if (axes & 2) a.descale.stride_h = count + gap;
            if (axes & 4) a.descale.stride_b = a.num_heads * (count + gap);
        }
        upload();
        d = a, d.error = &error;
        MOVE(const void, d.q.data)
        MOVE(void, d.o.data)
        MOVE(float, d.descale.data)
        MOVE(const int32_t, d.cu_seqlens_q)
        MOVE(const int32_t, d.seqused_q)
        if (launched(fa_quantize_cuda(&d, 0), &error))
            FA_EXPECT_MSG(fa_quantize(&a) == FA_OK && same(), "%d: %s to %s, dim %d, hadamard %d, block %d",
                          n, fa_dtype_name(dtype), fa_dtype_name(o_dtype), dim, hadamard,
                          a.descale.data ? block : -1);
        drop_all();
    }
}

/* Transposed: packed or with rows of any length and start, sequences of all kinds; what is no row of 16 keys stays. */
FA_TEST(transposed_is_that_of_the_cpu) {
    uint64_t seed = fat_seed + 7500;
    for (int n = 0; n < 60; n++) {
        const int dim = n % 3 ? 1 + fat_below(&seed, 256) : 64 << fat_below(&seed, 3);
        const fa_dtype dtype = FA_F32 + fat_below(&seed, 3);
        fa_quantize_args a, d;
        fa_error error;
        if (!due()) continue;
        memset(&a, 0, sizeof a);
        const rows r = make_q(&seed, dtype, FA_E4M3, dim, dim % 8 == 0);
        a.batch = r.size[0], a.num_heads = r.size[1], a.seqlen_q = 1 + fat_below(&seed, 3) * r.size[2],
        a.head_dim = dim;
        if (a.seqlen_q > r.size[2]) a.batch = 1, a.seqlen_q = r.size[0] * r.size[2];
        a.dtype = dtype, a.o_dtype = FA_E4M3, a.q = r.q, a.transposed = 1;
        if (a.seqlen_q == r.size[2] || r.cu)
            a.batch = r.size[0], a.seqlen_q = r.size[2], a.cu_seqlens_q = r.cu, a.seqused_q = r.used;
        const int64_t columns = r.cu ? fa_transposed_columns(r.cu[a.batch], a.batch)
                                     : fa_transposed_columns(a.seqlen_q, 1),
                      width = columns + (r.cu || n % 2 ? 16 * fat_below(&seed, 2) + fat_below(&seed, 2) : 0);
        a.o.data = (char *)take((size_t)(a.batch * a.num_heads * dim * width) + 1, FA_E4M3) + (n % 4 == 3);
        if (width != columns || r.cu)
            a.o.stride_s = width, a.o.stride_h = width * dim, a.o.stride_b = width * dim * a.num_heads;
        if (n % 4) {
            a.descale.data = (float *)take((size_t)(a.batch * a.num_heads * a.seqlen_q) * 4, FA_F32);
            a.descale.block = n % 4 == 1 ? 0 : n % 4 == 2 ? 16 : 1, a.descale.stride_block = 1;
            a.descale.stride_h = a.seqlen_q, a.descale.stride_b = a.num_heads * a.seqlen_q;
        }
        upload();
        d = a, d.error = &error;
        MOVE(const void, d.q.data)
        MOVE(void, d.o.data)
        MOVE(float, d.descale.data)
        MOVE(const int32_t, d.cu_seqlens_q)
        MOVE(const int32_t, d.seqused_q)
        if (launched(fa_quantize_cuda(&d, 0), &error))
            FA_EXPECT_MSG(fa_quantize(&a) == FA_OK && same(), "%d: %s, dim %d", n, fa_dtype_name(dtype), dim);
        drop_all();
    }
}

/* More heads than there are thread blocks: a block goes on to the next one. */
FA_TEST(transposed_in_steps_of_the_grid) {
    enum { HEADS = 2400, N = 3, D = 8 };
    uint64_t seed = fat_seed + 7600;
    fa_quantize_args a, d;
    fa_error error;
    memset(&a, 0, sizeof a);
    a.batch = 1, a.num_heads = HEADS, a.seqlen_q = N, a.head_dim = D, a.dtype = FA_F32, a.o_dtype = FA_E4M3,
    a.transposed = 1;
    float *const q = (float *)take(HEADS * N * D * 4, FA_F32);
    for (int i = 0; i < HEADS * N * D; i++) q[i] = (float)fat_normal(&seed);
    a.q.data = q, a.o.data = take(HEADS * D * 16, FA_E4M3);
    upload();
    d = a, d.error = &error;
    MOVE(const void, d.q.data)
    MOVE(void, d.o.data)
    if (launched(fa_quantize_cuda(&d, 0), &error)) FA_EXPECT(fa_quantize(&a) == FA_OK && same());
    drop_all();
}

/* ---- values where rounding is decided ------------------------------------------------------ */

/* Quotients half way between two codes, and next to it; factors at the ends of what f32 has. */
FA_TEST(ties) {
    static const float factors[] = {1, 0.125f, 3, 1e-38f, 1e-42f, 3e37f, 2e38f, 1e-30f, 1e-31f, 1.2e30f, 1.3e30f, 0};
    enum { N = 64, D = 64, B = sizeof factors / sizeof *factors };
    for (int dtype = FA_E4M3; dtype <= FA_I8; dtype++) {
        fa_append_args a, d;
        fa_error error;
        memset(&a, 0, sizeof a);
        float *x = (float *)take(B * N * D * 4, FA_F32), *f = (float *)take(B * 4, 0);
        for (int b = 0; b < B; b++) {
            f[b] = factors[b];
            for (int i = 0; i < N * D;
                 i++) { /* every e4m3 number and the middle to the next one, and a few of all sizes */
                const float magnitude = i % 4 == 3 ? ldexpf(1 + (float)(i % 61) / 61, i % 37 - 20)
                                                   : fa_e4m3_to_f32((uint8_t)(i / 8 % 127));
                const float next = i % 4 == 0 ? 0 : magnitude * (i % 4 == 1 ? 0.0625f : 0.03125f);
                const float value = (magnitude + next) * f[b],
                            nudged = fai_float_of(fai_bits_of(value) + (uint32_t)(i / 1024 % 3) - 1);
                x[b * N * D + i] = value == 0 ? (i % 2 ? -0.0f : 0) : i % 5 ? nudged : -nudged;
            }
        }
        a.cache.batch = B, a.cache.num_heads_k = 1, a.cache.seqlen_k = N, a.cache.head_dim = D,
        a.cache.dtype = dtype;
        a.cache.k.data = take(B * N * D, dtype), a.cache.k_descale.data = f, a.cache.k_descale.stride_b = 1;
        a.dtype = FA_F32, a.seqlen_new = N, a.k.data = x;
        upload();
        d = append_there(&a), d.error = &error;
        if (launched(fa_append_cuda(&d, 0), &error)) FA_EXPECT(fa_append(&a) == FA_OK && same());
        a.cache.k_descale.block = 1, a.cache.k_descale.stride_b = N, a.cache.k_descale.stride_block = 1;
        a.cache.k_descale.data = (float *)take(B * N * 4, 0);
        upload();
        d = append_there(&a), d.error = &error;
        if (launched(fa_append_cuda(&d, 0), &error)) FA_EXPECT(fa_append(&a) == FA_OK && same());
        drop_all();
    }
}

/* ---- bytes --------------------------------------------------------------------------------- */

/* Rows are read once and written once, with their factors. */
FA_TEST(bytes_are_those_of_the_rows) {
    enum { B = 2, N = 64, H = 8, D = 128, ROOM = 128, ROWS_OF_HEADS = 2 * B * N * H };
    if (!ptx_counter) FA_SKIP("only the PTX machine counts bytes");
    for (int dtype = FA_BF16; dtype <= FA_I8; dtype++) {
        fa_append_args a, d;
        fa_error error;
        memset(&a, 0, sizeof a);
        a.cache.batch = B, a.cache.num_heads_k = H, a.cache.seqlen_k = ROOM,
        a.cache.head_dim = a.cache.head_dim_v = D;
        a.cache.dtype = dtype, a.dtype = FA_BF16, a.seqlen_new = N;
        a.cache.k.data = take(B * ROOM * H * D * 2, dtype),
        a.cache.v.data = take(B * ROOM * H * D * 2, dtype);
        a.k.data = take(B * N * H * D * 2, FA_BF16), a.v.data = take(B * N * H * D * 2, FA_BF16);
        if (dtype >= FA_E4M3) {
            const fa_descale_out factors = {NULL, ROOM * H, 1, H, 1, 0};
            a.cache.k_descale = a.cache.v_descale = factors;
            a.cache.k_descale.data = (float *)take(B * ROOM * H * 4, FA_F32),
            a.cache.v_descale.data = (float *)take(B * ROOM * H * 4, FA_F32);
        }
        upload();
        d = append_there(&a), d.error = &error;
        if (launched(fa_append_cuda(&d, 0), &error)) {
            const double out = ROWS_OF_HEADS * (D * (double)fa_sizeof(dtype) + (dtype >= FA_E4M3 ? 4 : 0));
            const double in = ROWS_OF_HEADS * D * 2.0, read = (double)ptx_counter("load_bytes"),
                         written = (double)ptx_counter("store_bytes");
            FA_EXPECT_MSG(written == out && read == in, "%s: %.0f bytes read of %.0f, %.0f written of %.0f",
                          fa_dtype_name(dtype), read, in, written, out);
        }
        drop_all();
    }
}

/* ---- calls --------------------------------------------------------------------------------- */

/* A status, nothing launched, nothing written. */
FA_TEST(bad_arguments) {
    static float on_host[4096];
    world w;
    int32_t *start, *count;
    fa_error error;
    make_world(&w, FA_E4M3, FA_BF16, 16, ROW, 1, 12);
    w.c.seqlen_k = 30;
    fa_append_args a = make_rows(&w, 8, 1, &start, &count), good;
    uint64_t seed = 5;
    const rows r = make_q(&seed, FA_BF16, FA_E4M3, 64, 1);
    while (a.rotary.dim < 2) a.rotary = make_rope(&w, w.c.head_dim, 1, 64);
    upload();
    good = append_there(&a);
#define REFUSED(type, from, call, expected, name, change) \
    { \
        type x = from; \
        x.error = &error; \
        change; \
        const fa_status status = call(&x, 0); \
        FA_EXPECT_MSG(status == expected && error.status == expected && !strcmp(error.field, name), \
                      "%s: %s, %s", #change, fa_strerror(status), error.field); \
    }
#define APPEND(expected, name, change) REFUSED(fa_append_args, good, fa_append_cuda, expected, name, change)
    FA_EXPECT(fa_append_cuda(NULL, 0) == FA_ERR_ARGS_NULL && fa_compact_cuda(NULL, 0) == FA_ERR_ARGS_NULL);
    FA_EXPECT(fa_rotary_cuda(NULL, 0) == FA_ERR_ARGS_NULL && fa_quantize_cuda(NULL, 0) == FA_ERR_ARGS_NULL);
    APPEND(FA_ERR_CACHE_SIZE, "cache.batch", x.cache.batch = 0)
    APPEND(FA_ERR_CACHE_DTYPE, "cache.dtype", x.cache.dtype = 9)
    APPEND(FA_ERR_CACHE_NULL, "k.data", x.k.data = x.v.data = NULL)
    APPEND(FA_ERR_CACHE_STRIDE, "cache.k.stride_b", x.cache.k.stride_b = -1)
    APPEND(FA_ERR_CACHE_OVERLAP, "cache.v.data", x.cache.k.data = x.cache.v.data)
    APPEND(FA_ERR_CACHE_DESCALE, "cache.k_descale.block", x.cache.k_descale.block = -1)
    APPEND(FA_ERR_NEW_DTYPE, "dtype", x.dtype = FA_E4M3)
    APPEND(FA_ERR_SEQLEN_NEW, "seqlen_new", x.seqlen_new = 0)
    APPEND(FA_ERR_K_ALIGN, "k.data", x.k.data = (const char *)x.k.data + 1)
    APPEND(FA_ERR_POSITIONS, "positions", x.positions = NULL; x.seqused_new = x.cu_seqlens_new = NULL;
           x.seqlen_new = 31)
    APPEND(FA_ERR_PAGE_SIZE, "page_size", x.cache.page_size = 0)
    APPEND(FA_ERR_BLOCK_TABLE_STRIDE, "block_table_stride", x.cache.block_table_stride = 1)
    APPEND(FA_ERR_ROTARY, "rotary.dim", x.rotary.dim = 3)
    APPEND(FA_ERR_ROTARY_TABLE, "rotary.cos", x.rotary.cos = NULL)
    APPEND(FA_ERR_CUDA_POINTER, "cache.k.data", x.cache.k.data = on_host)
    APPEND(FA_ERR_CUDA_POINTER, "cache.v_descale.data", x.cache.v_descale.data = on_host)
    APPEND(FA_ERR_CUDA_POINTER, "cache.block_table", x.cache.block_table = (const int32_t *)(void *)on_host)
    APPEND(FA_ERR_CUDA_POINTER, "positions", x.positions = (const int32_t *)(void *)on_host)
    APPEND(FA_ERR_CUDA_POINTER, "seqused_new", x.seqused_new = (const int32_t *)(void *)on_host)
    APPEND(FA_ERR_CUDA_POINTER, "v.data", x.v.data = on_host)
    APPEND(FA_ERR_CUDA_POINTER, "rotary.sin", x.rotary.sin = on_host)
    fa_compact_args c;
    memset(&c, 0, sizeof c);
    c.cache = good.cache, c.max_accepted = 2, c.accepted = good.seqused_new;
#define COMPACT(expected, name, change) REFUSED(fa_compact_args, c, fa_compact_cuda, expected, name, change)
    COMPACT(FA_ERR_MAX_ACCEPTED, "max_accepted", x.max_accepted = 0)
    COMPACT(FA_ERR_ACCEPTED, "accepted", x.accepted = NULL)
    COMPACT(FA_ERR_CUDA_POINTER, "accepted", x.accepted = (const int32_t *)(void *)on_host)
    COMPACT(FA_ERR_CUDA_POINTER, "num_accepted", x.num_accepted = (const int32_t *)(void *)on_host)
    fa_rotary_args t;
    memset(&t, 0, sizeof t);
    t.batch = r.size[0], t.num_heads = r.size[1], t.seqlen_q = r.size[2], t.head_dim = 64, t.dtype = FA_BF16;
    t.q = r.q, t.q.data = there(r.q.data), t.o = r.o, t.o.data = there(r.q.data), t.rotary = good.rotary,
    t.rotary.dim = 64;
    t.rotary.positions = NULL, t.rotary.per_row = 0;
#define ROTARY(expected, name, change) REFUSED(fa_rotary_args, t, fa_rotary_cuda, expected, name, change)
    ROTARY(FA_ERR_ROTARY, "head_dim", x.head_dim = 1)
    ROTARY(FA_ERR_ROTARY_POSITIONS, "rotary.count", x.rotary.count = x.seqlen_q - 1)
    ROTARY(FA_ERR_O_NULL, "o.data", x.o.data = NULL)
    ROTARY(FA_ERR_CUDA_POINTER, "q.data", x.q.data = on_host)
    ROTARY(FA_ERR_CUDA_POINTER, "rotary.cos", x.rotary.cos = on_host)
    fa_quantize_args z;
    memset(&z, 0, sizeof z);
    z.batch = r.size[0], z.num_heads = r.size[1], z.seqlen_q = r.size[2], z.head_dim = 64, z.dtype = FA_BF16,
    z.o_dtype = FA_E4M3;
    z.q = r.q, z.q.data = there(r.q.data), z.o = r.o, z.o.data = there(r.o.data);
#define QUANTIZE(expected, name, change) \
    REFUSED(fa_quantize_args, z, fa_quantize_cuda, expected, name, change)
    QUANTIZE(FA_ERR_QUANTIZE_DIM, "head_dim", x.head_dim = 48; x.hadamard = 1)
    QUANTIZE(FA_ERR_QUANTIZE_DTYPE, "o_dtype", x.o_dtype = 0)
    QUANTIZE(FA_ERR_QUANTIZE_DESCALE, "descale.block", x.descale.data = (float *)good.positions;
             x.descale.block = -1)
    QUANTIZE(FA_ERR_CUDA_POINTER, "descale.data", x.descale.data = on_host)
    QUANTIZE(FA_ERR_CUDA_POINTER, "cu_seqlens_q", x.cu_seqlens_q = (const int32_t *)(void *)on_host)
    char *const p = (char *)there(r.q.data), *const q = (char *)there(
                                                 r.o.data); /* o reaches far: q is the one before it */
    QUANTIZE(FA_ERR_CUDA_GRID, "rows * heads", x.batch = 1 << 16; x.seqlen_q = 1 << 15;
             x.q.data = p < q ? p : q; x.o.data = p < q ? q : p;
             x.q.stride_b = x.q.stride_s = x.q.stride_h = FA_BROADCAST;
             x.o.stride_b = x.o.stride_s = x.o.stride_h = 0)
    FA_EXPECT(cudaDeviceSynchronize() == cudaSuccess && same());
    drop_all();
}

/* Lists on the device that the CPU would refuse: rows and pages that there are not are left out, nothing else is written. */
FA_TEST(bad_lists) {
    for (int mode = 0; mode < NUM_MODES; mode++)
        for (int bad = 0; bad < 6; bad++) {
            world w;
            int32_t *start, *count, *accepted;
            fa_error error;
            make_world(&w, FA_I8, FA_F32, 16, mode, 1, 30 + (uint64_t)mode);
            fa_append_args a = make_rows(&w, 8, 1, &start, &count);
            accepted = (int32_t *)take(BATCH * 4 * 4, 0);
            for (int n = 0; n < BATCH * 4; n++) accepted[n] = n % 4 + 1;
            const int32_t table[2] = {w.table[0], w.table[1]};
            if (bad == 0) w.table[0] = w.table[1] = -1;
            if (bad == 1) w.table[0] = w.table[1] = w.c.num_pages;
            if (bad == 2) start[0] = -1000000;
            if (bad == 3) start[0] = w.c.seqlen_k - 2;
            if (bad == 4) accepted[0] = -5, accepted[3] = INT32_MAX;
            if (bad == 5 && a.rotary.positions) ((int32_t *)(void *)a.rotary.positions)[0] = 1 << 30;
            (void)table;
            upload();
            fa_append_args d = append_there(&a);
            d.error = &error;
            launched(fa_append_cuda(&d, 0), &error);
            fa_compact_args c;
            memset(&c, 0, sizeof c);
            c.cache = d.cache, c.max_accepted = 4, c.accepted = (const int32_t *)there(accepted),
            c.positions = d.positions;
            c.error = &error;
            launched(fa_compact_cuda(&c, 0), &error);
            drop_all();
        }
}

/* Captured once, replayed on new rows: the calls do nothing but launch. */
FA_TEST(graph) {
    world w;
    int32_t *start, *count;
    fa_error error;
    device_graph g;
    make_world(&w, FA_E4M3, FA_BF16, 16, ROW, 1, 40);
    fa_append_args a = make_rows(&w, 8, 1, &start, &count);
    fa_quantize_args z, dz;
    memset(&z, 0, sizeof z);
    z.batch = 1, z.num_heads = 2, z.seqlen_q = 9, z.head_dim = 64, z.dtype = FA_BF16, z.o_dtype = FA_I8,
    z.hadamard = 1;
    z.q.data = take(9 * 128 * 2, FA_BF16), z.o.data = take(9 * 128, FA_I8),
    z.descale.data = (float *)take(4, 0);
    upload();
    fa_append_args d = append_there(&a);
    d.error = &error, dz = z, dz.error = &error;
    MOVE(const void, dz.q.data)
    MOVE(void, dz.o.data)
    MOVE(float, dz.descale.data)
    FA_REQUIRE(graph_begin(&g));
    FA_EXPECT(fa_append_cuda(&d, g.stream) == FA_OK && fa_quantize_cuda(&dz, g.stream) == FA_OK);
    FA_REQUIRE(graph_end(&g));
    for (int n = 0; n < 2; n++) {
        fill((void *)a.k.data, 8 * w.c.head_dim, FA_BF16, &w.seed),
            fill((void *)z.q.data, 9 * 128, FA_BF16, &w.seed);
        upload();
        FA_EXPECT(graph_replay(&g));
        FA_EXPECT(fa_append(&a) == FA_OK && fa_quantize(&z) == FA_OK && same());
    }
    graph_free(&g);
    drop_all();
}

/* A prompt and then token after token: rows appended on the device are what the forward kernel sees. */
FA_TEST(attention_sees_what_was_appended) {
    enum { B = 2, HK = 2, H = 4, D = 64, ROOM = 64, PAGE = 16, STEPS = 4 };
    static double want[B * 8 * H * D], scratch[ROOM + 512];
    for (int paged = 0; paged < 2; paged++) {
        uint64_t seed = fat_seed + 50;
        fa_append_args a, da;
        fa_rotary_args r, dr;
        fa_args f, df;
        fa_error error;
        memset(&a, 0, sizeof a), memset(&r, 0, sizeof r), memset(&f, 0, sizeof f);
        int32_t *at = (int32_t *)take(B * 4, 0), *used = (int32_t *)take(B * 4, 0),
                *table = (int32_t *)take(B * ROOM / PAGE * 4, 0);
        float *c = (float *)take(ROOM * D / 2 * 4, 0), *s = (float *)take(ROOM * D / 2 * 4, 0);
        a.cache.batch = B, a.cache.num_heads_k = HK, a.cache.seqlen_k = ROOM,
        a.cache.head_dim = a.cache.head_dim_v = D;
        a.cache.dtype = a.dtype = FA_BF16;
        a.cache.k.data = take(B * ROOM * HK * D * 2, FA_BF16),
        a.cache.v.data = take(B * ROOM * HK * D * 2, FA_BF16);
        if (paged) a.cache.block_table = table, a.cache.page_size = PAGE, a.cache.num_pages = B * ROOM / PAGE;
        for (int n = 0; n < B * ROOM / PAGE; n++) table[n] = B * ROOM / PAGE - 1 - n;
        FA_REQUIRE(fa_rotary_table(c, s, ROOM, D, 10000, 0) == FA_OK);
        a.k.data = take(B * 8 * HK * D * 2, FA_BF16), a.v.data = take(B * 8 * HK * D * 2, FA_BF16),
        a.positions = at;
        a.rotary.cos = c, a.rotary.sin = s, a.rotary.count = ROOM, a.rotary.dim = D;
        r.batch = B, r.num_heads = H, r.head_dim = D, r.dtype = FA_BF16, r.rotary = a.rotary,
        r.rotary.positions = at;
        r.q.data = r.o.data = take(B * 8 * H * D * 2, FA_BF16);
        f.num_heads = H, f.causal = 1, f.q.data = r.q.data, f.o.data = take(B * 8 * H * D * 2, FA_BF16),
        f.seqused_k = used;
        for (int step = 0; step < STEPS; step++) {
            const int rows = step == 0 ? 8 : 1;
            for (int b = 0; b < B; b++) at[b] = step == 0 ? 0 : used[b], used[b] = at[b] + rows;
            for (int v = 0; v < 3; v++) {
                void *data = v == 0 ? (void *)a.k.data : v == 1 ? (void *)a.v.data : (void *)r.q.data;
                for (int i = 0; i < B * 8 * (v == 2 ? H : HK) * D; i++)
                    fa_store(data, i, FA_BF16, (float)fat_normal(&seed));
            }
            a.seqlen_new = r.seqlen_q = f.seqlen_q = rows;
            fa_use_cache(&f, &a.cache);
            upload();
            da = append_there(&a), da.error = &error, dr = r, dr.rotary = rope_there(&r.rotary),
            dr.error = &error, df = f;
            fa_use_cache(&df, &da.cache);
            MOVE(const void, dr.q.data)
            MOVE(void, dr.o.data)
            MOVE(const void, df.q.data)
            MOVE(void, df.o.data)
            MOVE(const int32_t, df.seqused_k)
            df.error = &error;
            FA_EXPECT(fa_append_cuda(&da, 0) == FA_OK && fa_rotary_cuda(&dr, 0) == FA_OK);
            if (!launched(bf16_64_forward_cuda(&df, NULL, 0, 0), &error)) return;
            FA_EXPECT(cudaMemcpy(f.o.data, df.o.data, B * 8 * H * D * 2, cudaMemcpyDeviceToHost) ==
                      cudaSuccess);
            FA_EXPECT(fa_append(&a) == FA_OK && fa_rotary(&r) == FA_OK && same());
            FA_EXPECT(fa_reference_forward(&bf16_64_cuda_info.info, &f, want, NULL, scratch) == FA_OK);
            for (int i = 0; i < B * rows * H * D; i++)
                FA_EXPECT_NEAR(fa_load(f.o.data, i, FA_BF16), want[i], 0.02 + fabs(want[i]) / 128);
        }
        drop_all();
    }
}

FA_TEST_MAIN
