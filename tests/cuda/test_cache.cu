/* test_cache.cu - fa_append, fa_compact, fa_rotary and fa_quantize on the device against those of the CPU, bit for bit,
 * on copies of all memory: so a byte that should not be touched (0xff before) is compared as well. */
#define FA_CUDA_CACHE
#define FA_NAME bf16_64
#define FA_HEAD_DIM 64
#define FA_FEATURES FA_ALL_FEATURES
#include "flashattn_cuda.cuh"

#include "fa_test.h"

#define FA_NAME bf16_32 /* a second include, and nothing twice */
#define FA_HEAD_DIM 32
#define FA_FEATURES 0
#include "flashattn_cuda.cuh"

/* FA_TEST_SCALE=quick runs every sixth case: of other schedules, other devices. */
static int due(void) {
    static int n;
    const char *scale = getenv("FA_TEST_SCALE");
    return !scale || strcmp(scale, "quick") != 0 || n++ % 6 == 0;
}

/* ---- memory: on the host, and its copy on the device --------------------------------------- */

typedef struct block {
    unsigned char *host, *device;
    size_t bytes;
    fa_dtype dtype; /* of its elements: a NaN may be another NaN; 0: exact */
} block;
static block blocks[64];
static int num_blocks;

static void *take(size_t bytes, fa_dtype dtype) {
    block *b = &blocks[num_blocks++];
    b->host = (unsigned char *)malloc(bytes), b->bytes = bytes, b->dtype = dtype;
    memset(b->host, 0xff, bytes);
    FA_EXPECT(cudaMalloc((void **)&b->device, bytes) == cudaSuccess);
    return b->host;
}
static void drop_all(void) {
    while (num_blocks) free(blocks[--num_blocks].host), cudaFree(blocks[num_blocks].device);
}
static void *there(const void *x) { /* where the device has what the host has at x */
    for (int n = 0; x && n < num_blocks; n++) {
        const unsigned char *at = (const unsigned char *)x;
        if (at >= blocks[n].host && at < blocks[n].host + blocks[n].bytes) return blocks[n].device + (at - blocks[n].host);
    }
    return NULL;
}
static void upload(void) {
    for (int n = 0; n < num_blocks; n++)
        FA_EXPECT(cudaMemcpy(blocks[n].device, blocks[n].host, blocks[n].bytes, cudaMemcpyHostToDevice) == cudaSuccess);
}
/* Does the device have the bytes of the host? */
static int same(void) {
    for (int n = 0; n < num_blocks; n++) {
        const block *b = &blocks[n];
        const size_t size = b->dtype ? fa_sizeof(b->dtype) : 1;
        unsigned char *got = (unsigned char *)malloc(b->bytes);
        int ok = cudaMemcpy(got, b->device, b->bytes, cudaMemcpyDeviceToHost) == cudaSuccess;
        for (size_t i = 0; ok && i < b->bytes / size; i++) {
            if (!memcmp(got + i * size, b->host + i * size, size)) continue;
            const float x = b->dtype ? fa_load(got, (int64_t)i, b->dtype) : 0, y = b->dtype ? fa_load(b->host, (int64_t)i, b->dtype) : 0;
            if (x != x && y != y) continue;
            printf("# block %d (%s), element %lld: %.9g, want %.9g\n", n, fa_dtype_name(b->dtype), (long long)i, (double)x, (double)y);
            ok = 0;
        }
        free(got);
        if (!ok) return 0;
    }
    return 1;
}
#define MOVE(type, x) x = (type *)there(x);

static int launched(fa_status status, const fa_error *error) {
    char text[300];
    fa_error_message(error, text, sizeof text);
    const cudaError_t e = cudaDeviceSynchronize();
    return FA_EXPECT_MSG(status == FA_OK && e == cudaSuccess, "%s, %s", text, cudaGetErrorString(e));
}

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
    for (int64_t i = 0; i < total && !d.block; i++) d.data[i] = i % 7 == 3 ? 0 : (float)(0.002 + 0.05 * fat_uniform(&w->seed));
    return d;
}

static fa_tensor_out make_tensor(world *w, int dim, int wide) {
    const int64_t n = w->c.block_table ? w->c.num_pages : w->c.batch, rows = w->c.block_table ? w->c.page_size : w->c.seqlen_k;
    const int64_t heads = w->c.num_heads_k, pad = dim + (wide ? 8 : 1) * fat_below(&w->seed, 3);
    const size_t size = fa_sizeof(w->c.dtype);
    const int layout = fat_below(&w->seed, 3);
    fa_tensor_out t;
    memset(&t, 0, sizeof t);
    if (layout == 1) t.stride_h = pad, t.stride_b = pad * heads, t.stride_s = pad * heads * n;
    if (layout == 2) t.stride_s = pad, t.stride_h = pad * rows + 8, t.stride_b = t.stride_h * heads;
    t.data = (char *)take((size_t)(n * heads * (pad * rows + 8) + 16) * size, w->c.dtype) + (wide ? 0 : size * (size_t)fat_below(&w->seed, 8));
    return t;
}

/* dim, dim_v 0: any; wide: all that the 16-byte accesses need */
static void make_world(world *w, fa_dtype dtype, fa_dtype fresh, int page, int mode, int wide, uint64_t seed) {
    memset(w, 0, sizeof *w);
    w->seed = seed, w->dtype = fresh;
    w->c.dtype = dtype, w->c.batch = 1 + fat_below(&w->seed, BATCH), w->c.num_heads_k = 1 + fat_below(&w->seed, 5);
    w->c.seqlen_k = 24 + fat_below(&w->seed, 16);
    w->c.head_dim = 1 + fat_below(&w->seed, wide ? 16 : 128), w->c.head_dim_v = 1 + fat_below(&w->seed, wide ? 16 : 128);
    if (!fat_below(&w->seed, 8)) w->c.head_dim = wide ? 32 : 256;
    if (wide) w->c.head_dim *= 8, w->c.head_dim_v *= 8;
    if (page) {
        const int pages = (w->c.seqlen_k + page - 1) / page;
        w->table = (int32_t *)take((size_t)(w->c.batch * (pages + 1)) * 4, 0);
        w->c.block_table = w->table, w->c.page_size = page, w->c.num_pages = w->c.batch * pages + 2;
        w->c.block_table_stride = pages + 1;
    }
    w->c.k = make_tensor(w, w->c.head_dim, wide), w->c.v = make_tensor(w, w->c.head_dim_v, wide);
    if (mode != NONE) w->c.k_descale = make_factors(w, mode), w->c.v_descale = make_factors(w, mode == HEAD ? TENSOR : mode);
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
        fa_store(data, i, dtype, kind == 399 ? NAN : kind == 398 ? -INFINITY : kind > 380 ? -0.0f : kind > 370 ? (float)x * 1e-40f : (float)x);
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
        if (fat_below(seed, 2)) t->stride_h = pad, t->stride_s = heads * pad, t->stride_b = most * heads * pad;
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
                        printf("#     %s, new rows %s, page size %d, factors %d, wide %d, number %d\n", fa_dtype_name(dtype),
                               fa_dtype_name(w.dtype), pages[page], mode, wide, n);
                }
}

/* ---- append -------------------------------------------------------------------------------- */

static void append_some(world *w, int wide) {
    for (int step = 0; step < 3; step++) {
        int32_t *start, *count;
        fa_append_args a = make_rows(w, step == 0 ? 14 : 1 + fat_below(&w->seed, 9), wide, &start, &count);
        if (w->c.k_descale.block > 1) {} /* blocks go on only where rows are */
        else if (!fat_below(&w->seed, 8)) a.k.data = NULL;
        else if (!fat_below(&w->seed, 8)) a.v.data = NULL;
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
    int32_t *one = (int32_t *)take(BATCH * 4, 0), *at = (int32_t *)take(BATCH * 4, 0), *first = (int32_t *)take((BATCH + 1) * 4, 0);
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
    int32_t *start, *count, *accepted = (int32_t *)take(BATCH * COLUMNS * 4, 0), *num = (int32_t *)take(BATCH * 4, 0);
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
    a.cache = w->c, a.max_accepted = COLUMNS, a.accepted = accepted, a.num_accepted = num, a.positions = start;
    if (!fat_below(&w->seed, 6)) a.cache.k.data = NULL;
    else if (!fat_below(&w->seed, 6)) a.cache.v.data = NULL;
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
    const int batch = 1 + fat_below(seed, BATCH), heads = 1 + fat_below(seed, 9), seqlen = 1 + fat_below(seed, 30);
    const int pad = dim + (wide ? 8 : 1) * fat_below(seed, 2), in_place = dtype == o_dtype && fat_below(seed, 2);
    const int64_t elements = (int64_t)(batch * seqlen + 2) * heads * pad + 8;
    r.size[0] = batch, r.size[1] = heads, r.size[2] = seqlen, r.size[3] = dim;
    r.q.data = take((size_t)elements * fa_sizeof(dtype), dtype), fill((void *)r.q.data, elements, dtype, seed);
    if (!wide) r.q.data = (const char *)r.q.data + fa_sizeof(dtype);
    r.o.data = in_place ? (void *)r.q.data : take((size_t)elements * fa_sizeof(o_dtype), o_dtype);
    if (pad != dim) r.q.stride_h = r.o.stride_h = pad, r.q.stride_s = r.o.stride_s = heads * pad, r.q.stride_b = r.o.stride_b = seqlen * heads * pad;
    if (fat_below(seed, 2)) {
        r.cu = (int32_t *)take((size_t)(batch + 1) * 4, 0), r.cu[0] = 1;
        for (int b = 0; b < batch; b++) r.cu[b + 1] = r.cu[b] + fat_below(seed, seqlen + 1);
    }
    if (fat_below(seed, 2)) {
        r.used = (int32_t *)take((size_t)batch * 4, 0);
        for (int b = 0; b < batch; b++) r.used[b] = fat_below(seed, 1 + (r.cu ? r.cu[b + 1] - r.cu[b] : seqlen));
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
        a.batch = r.size[0], a.num_heads = r.size[1], a.seqlen_q = r.size[2], a.head_dim = dim, a.dtype = dtype;
        a.q = r.q, a.o = r.o, a.cu_seqlens_q = r.cu, a.seqused_q = r.used;
        while (!a.rotary.dim) a.rotary = make_rope(&w, dim, wide, a.batch * a.seqlen_q + 2);
        upload();
        d = a, d.error = &error, d.rotary = rope_there(&a.rotary);
        MOVE(const void, d.q.data)
        MOVE(void, d.o.data)
        MOVE(const int32_t, d.cu_seqlens_q)
        MOVE(const int32_t, d.seqused_q)
        if (launched(fa_rotary_cuda(&d, 0), &error))
            FA_EXPECT_MSG(fa_rotary(&a) == FA_OK && same(), "%d: %s, dim %d of %d", n, fa_dtype_name(dtype), a.rotary.dim, dim);
        drop_all();
    }
}

/* Every kind of sharing: by axis, and by rows. */
FA_TEST(quantize_is_that_of_the_cpu) {
    uint64_t seed = fat_seed + 7000;
    for (int n = 0; n < 300; n++) {
        const int wide = n % 2, hadamard = n / 2 % 2;
        const int dim = hadamard ? 2 << fat_below(&seed, 8) : wide ? 8 * (1 + fat_below(&seed, 32)) : 1 + fat_below(&seed, 256);
        const fa_dtype dtype = FA_F32 + fat_below(&seed, 3), o_dtype = fat_below(&seed, 4) ? FA_E4M3 + n % 3 : FA_F32 + n % 3;
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
            FA_EXPECT_MSG(fa_quantize(&a) == FA_OK && same(), "%d: %s to %s, dim %d, hadamard %d, block %d", n, fa_dtype_name(dtype),
                          fa_dtype_name(o_dtype), dim, hadamard, a.descale.data ? block : -1);
        drop_all();
    }
}

FA_TEST_MAIN
