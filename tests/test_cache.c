/* test_cache.c - fa_append, fa_compact, fa_rotary and fa_quantize against a model that does one element after the other, on copies of
 * the whole memory: so a byte that should not be touched (0xff before) is compared as well. */
#include "fa_test.h"

#include "flashattn.h"

#include "cache_refusals.h"

/* ---- a cache and its model --------------------------------------------------------------- */

enum { MAX_B = 4, MAX_ROWS = 48, MAX_PAGES = 256, MAX_DIM = 96 };

enum { NONE, TENSOR, HEAD, ROW, BLOCK, NUM_MODES }; /* factors */
enum { PACKED, TOKENS, HEADS, NUM_LAYOUTS };        /* TOKENS: (seq, batch, head, dim), HEADS: (batch, head, seq, dim) */

typedef struct world {
    fa_cache c;
    size_t bytes[2], factor_bytes[2];
    unsigned char *mem[2], *model[2];
    float *factor[2], *model_factor[2];
    int32_t table[MAX_B * MAX_ROWS], length[MAX_B], free_page;
} world;

/* The factors of side v are (n, heads, blocks), with gaps. */
static fa_descale_out make_factors(world *w, int v, int mode, uint64_t *seed) {
    fa_descale_out d;
    memset(&d, 0, sizeof d);
    const int64_t heads = w->c.num_heads_k;
    d.paged = w->c.block_table && fat_below(seed, 2);
    d.block = mode == ROW ? 1 : mode == BLOCK ? 2 + fat_below(seed, 5) : 0;
    const int64_t rows = d.paged ? w->c.page_size : w->c.seqlen_k, n = d.paged ? w->c.num_pages : w->c.batch;
    const int64_t blocks = d.block ? (rows + d.block - 1) / d.block : 1;
    const int by_head = fat_below(seed, 2), gap = fat_below(seed, 2);
    int64_t count = 1 + n * (heads + gap) * (blocks + gap);
    if (mode != TENSOR) {
        d.stride_block = by_head ? 1 : heads + gap, d.stride_h = by_head ? blocks + gap : 1;
        d.stride_b = (heads + gap) * (blocks + gap);
    }
    w->factor_bytes[v] = (size_t)count * 4;
    w->factor[v] = (float *)malloc(w->factor_bytes[v]), w->model_factor[v] = (float *)malloc(w->factor_bytes[v]);
    memset(w->factor[v], 0xff, w->factor_bytes[v]);
    for (int64_t i = 0; i < count && !d.block; i++) /* some too small: codes saturate; one is 0 */
        w->factor[v][i] = i % 7 == 3 ? 0 : (float)(0.002 + 0.05 * fat_uniform(seed));
    memcpy(w->model_factor[v], w->factor[v], w->factor_bytes[v]);
    d.data = w->factor[v];
    return d;
}

static fa_tensor_out make_tensor(world *w, int v, int layout, uint64_t *seed) {
    const int paged = w->c.block_table != NULL;
    const int64_t n = paged ? w->c.num_pages : w->c.batch, rows = paged ? w->c.page_size : w->c.seqlen_k;
    const int64_t heads = w->c.num_heads_k, dim = v ? w->c.head_dim_v : w->c.head_dim, pad = dim + fat_below(seed, 5);
    const size_t element = fa_sizeof(w->c.dtype);
    fa_tensor_out t;
    memset(&t, 0, sizeof t);
    if (layout == TOKENS) t.stride_h = pad, t.stride_b = pad * heads, t.stride_s = pad * heads * n;
    if (layout == HEADS) t.stride_s = pad, t.stride_h = pad * rows + 3, t.stride_b = t.stride_h * heads;
    w->bytes[v] = (size_t)(n * heads * (pad * rows + 3) + 16) * element;
    w->mem[v] = (unsigned char *)malloc(w->bytes[v]), w->model[v] = (unsigned char *)malloc(w->bytes[v]);
    memset(w->mem[v], 0xff, w->bytes[v]), memset(w->model[v], 0xff, w->bytes[v]);
    t.data = w->mem[v] + element * (size_t)fat_below(seed, 8);
    return t;
}

static void make_world(world *w, fa_dtype dtype, int page, int layout, int mode, uint64_t *seed) {
    memset(w, 0, sizeof *w);
    memset(w->table, 0xff, sizeof w->table); /* -1 */
    w->c.dtype = dtype, w->c.batch = 1 + fat_below(seed, 3), w->c.num_heads_k = 1 + fat_below(seed, 3);
    w->c.seqlen_k = 30 + fat_below(seed, 10);
    w->c.head_dim = 1 + fat_below(seed, MAX_DIM), w->c.head_dim_v = 1 + fat_below(seed, MAX_DIM);
    if (fat_below(seed, 2)) w->c.head_dim = (w->c.head_dim + 3) / 4 * 4; /* the reference takes four elements at a time */
    if (page) {
        const int pages = (w->c.seqlen_k + page - 1) / page;
        w->c.block_table = w->table, w->c.page_size = page, w->c.num_pages = w->c.batch * pages + 2;
        w->c.block_table_stride = fat_below(seed, 2) ? 0 : pages + 1;
    }
    w->c.k = make_tensor(w, 0, layout, seed), w->c.v = make_tensor(w, 1, layout, seed);
    if (mode != NONE) w->c.k_descale = make_factors(w, 0, mode, seed), w->c.v_descale = make_factors(w, 1, mode, seed);
}
static void free_world(world *w) {
    for (int v = 0; v < 2; v++)
        free(w->mem[v]), free(w->model[v]), free(w->factor[v]), free(w->model_factor[v]);
}

static int64_t table_at(const world *w, int b, int j) {
    const int pages = (w->c.seqlen_k + w->c.page_size - 1) / w->c.page_size;
    return b * (w->c.block_table_stride ? w->c.block_table_stride : pages) + j / w->c.page_size;
}
/* A page for row j if it has none. */
static void want_page(world *w, int b, int j) {
    if (!w->c.block_table || w->table[table_at(w, b, j)] >= 0) return;
    w->table[table_at(w, b, j)] = w->c.num_pages - 1 - w->free_page++;
}

/* Row j of sequence b, head h in the model (or in the cache itself: base = mem), and its factor */
static unsigned char *row_at(const world *w, unsigned char *const base[2], int v, int b, int j, int h) {
    const fa_tensor_out *t = v ? &w->c.v : &w->c.k;
    const int64_t dim = v ? w->c.head_dim_v : w->c.head_dim, heads = w->c.num_heads_k;
    int64_t n = b, s = j, sb = t->stride_b, ss = t->stride_s, sh = t->stride_h;
    if (w->c.block_table) n = w->table[table_at(w, b, j)], s = j % w->c.page_size;
    if (!sb && !ss && !sh) sh = dim, ss = heads * dim, sb = ss * (w->c.block_table ? w->c.page_size : w->c.seqlen_k);
    const size_t start = (size_t)((unsigned char *)t->data - w->mem[v]);
    return base[v] + start + (size_t)(n * sb + s * ss + h * sh) * fa_sizeof(w->c.dtype);
}
static float *factor_at(const world *w, float *const base[2], int v, int b, int j, int h) {
    const fa_descale_out *d = v ? &w->c.v_descale : &w->c.k_descale;
    int64_t n = b, s = j;
    if (!d->data) return NULL;
    if (d->paged) n = w->table[table_at(w, b, j)], s = j % w->c.page_size;
    return base[v] + n * d->stride_b + h * d->stride_h + (d->block ? s / d->block * d->stride_block : 0);
}

static double largest(fa_dtype dtype) { return dtype == FA_I8 ? 127 : dtype == FA_E4M3 ? 448 : 57344; }

static void model_store(const world *w, unsigned char *row, const float *x, const float *factor, int dim) {
    for (int d = 0; d < dim; d++)
        fa_store(row, d, w->c.dtype, !factor ? x[d] : *factor > 0 ? x[d] / *factor : 0);
}
static void model_put(world *w, int v, int b, int j, int h, const float *x) {
    const fa_descale_out *desc = v ? &w->c.v_descale : &w->c.k_descale;
    const int dim = v ? w->c.head_dim_v : w->c.head_dim;
    float *f = factor_at(w, w->model_factor, v, b, j, h), most = 0, old;
    if (f && desc->block) {
        for (int d = 0; d < dim; d++)
            if (fabsf(x[d]) > most) most = fabsf(x[d]);
        if (most > 3.4028235e38f) most = 3.4028235e38f;
        most /= (float)largest(w->c.dtype), old = *f;
        const int first = (desc->paged ? j % w->c.page_size : j) % desc->block == 0;
        if (first || most > old) *f = most;
        for (int i = j - 1; !first && most > old && i >= 0 && factor_at(w, w->model_factor, v, b, i, h) == f; i--) {
            float y[MAX_DIM];
            unsigned char *row = row_at(w, w->model, v, b, i, h);
            for (int d = 0; d < dim; d++) y[d] = fa_load(row, d, w->c.dtype) * old;
            model_store(w, row, y, f, dim);
        }
    }
    model_store(w, row_at(w, w->model, v, b, j, h), x, f, dim);
}

static int same_memory(const world *w) {
    int same = 1;
    for (int v = 0; v < 2; v++) {
        same &= !memcmp(w->mem[v], w->model[v], w->bytes[v]);
        if (w->factor[v]) same &= !memcmp(w->factor[v], w->model_factor[v], w->factor_bytes[v]);
    }
    return same;
}

/* ---- append ------------------------------------------------------------------------------- */

enum { TABLE = 96 };
static float cos_table[TABLE * MAX_DIM / 2], sin_table[TABLE * MAX_DIM / 2];

/* New rows, and where they are: element (b, i, h, d) of source v is data[v][b*sb + i*ss + h*sh + d]. */
typedef struct rows {
    float k[MAX_B * MAX_ROWS * 6 * MAX_DIM], v[MAX_B * MAX_ROWS * 6 * MAX_DIM]; /* room for any dtype */
    int32_t cu[MAX_B + 1], used[MAX_B], start[MAX_B], count[MAX_B], spin[MAX_B * MAX_ROWS];
    fa_append_args a;
} rows;

/* Up to `most` rows behind the present lengths of w; some sequences get none. */
static void make_rows(rows *r, world *w, int most, fa_dtype dtype, uint64_t *seed) {
    fa_append_args a;
    memset(&a, 0, sizeof a);
    const int varlen = fat_below(seed, 2), heads = w->c.num_heads_k, dims = w->c.head_dim + w->c.head_dim_v;
    a.cache = w->c, a.dtype = dtype, a.seqlen_new = most, a.k.data = r->k, a.v.data = r->v;
    r->cu[0] = varlen * 2;
    for (int b = 0; b < w->c.batch; b++) {
        int room = w->c.seqlen_k - w->length[b], n = fat_below(seed, 4) ? fat_below(seed, most + 1) : 0;
        r->count[b] = r->used[b] = n < room ? n : room, r->start[b] = w->length[b];
        r->cu[b + 1] = r->cu[b] + r->count[b] + (most - r->count[b]) / 2;
        for (int i = 0; i < r->count[b]; i++) want_page(w, b, r->start[b] + i);
    }
    if (varlen) a.cu_seqlens_new = r->cu;
    a.seqused_new = r->used, a.positions = r->start;
    if (fat_below(seed, 2)) { /* columns of one matrix */
        a.k.data = r->k, a.v.data = (char *)r->k + (size_t)(heads * w->c.head_dim) * fa_sizeof(dtype);
        a.k.stride_h = w->c.head_dim, a.v.stride_h = w->c.head_dim_v;
        a.k.stride_s = a.v.stride_s = heads * dims, a.k.stride_b = a.v.stride_b = a.k.stride_s * most;
        if (varlen) a.k.stride_b = a.v.stride_b = 0;
    }
    const int64_t elements = (int64_t)(w->c.batch * most + 2) * heads * dims;
    for (int64_t i = 0; i < elements; i++) {
        const double x = fat_below(seed, 40) ? fat_normal(seed) : 0;
        fa_store(r->k, i, dtype, (float)x), fa_store(r->v, i, dtype, (float)(x * 3));
    }
    if (w->c.head_dim >= 2 && fat_below(seed, 3)) {
        a.rotary.dim = 2 + 2 * fat_below(seed, w->c.head_dim / 2), a.rotary.interleaved = fat_below(seed, 2);
        a.rotary.cos = cos_table, a.rotary.sin = sin_table, a.rotary.count = TABLE;
        FA_EXPECT(fa_rotary_table(cos_table, sin_table, TABLE, a.rotary.dim, 10000, 0) == FA_OK);
        if (fat_below(seed, 2)) a.rotary.positions = r->spin, a.rotary.per_row = fat_below(seed, 2);
        for (int i = 0; i < MAX_B * MAX_ROWS; i++) r->spin[i] = fat_below(seed, TABLE - MAX_ROWS);
    }
    if (w->c.k_descale.block > 1) {} /* blocks go on only where rows are */
    else if (!fat_below(seed, 8)) a.k.data = NULL;
    else if (!fat_below(seed, 8)) a.v.data = NULL;
    r->a = a;
}

/* x = row i of sequence b, head h as the cache gets it */
static void model_row(const rows *r, int v, int b, int i, int h, float *x) {
    const fa_append_args *a = &r->a;
    const fa_tensor *t = v ? &a->v : &a->k;
    const int dim = v ? a->cache.head_dim_v : a->cache.head_dim, heads = a->cache.num_heads_k;
    int64_t sb = t->stride_b, ss = t->stride_s, sh = t->stride_h, row = i;
    if (!sb && !ss && !sh) sh = dim, ss = heads * dim, sb = ss * a->seqlen_new;
    if (a->cu_seqlens_new) row += a->cu_seqlens_new[b], sb = 0;
    for (int d = 0; d < dim; d++) x[d] = fa_load(t->data, b * sb + row * ss + h * sh + d, a->dtype);
    if (v || !a->rotary.dim) return;
    const fa_rope *rope = &a->rotary;
    int at = r->start[b] + i, half = rope->dim / 2;
    if (rope->positions) at = rope->positions[b] + i;
    if (rope->positions && rope->per_row) at = rope->positions[a->cu_seqlens_new ? row : b * a->seqlen_new + i];
    for (int n = 0; n < half; n++) {
        float *first = rope->interleaved ? &x[2 * n] : &x[n],
              *second = rope->interleaved ? &x[2 * n + 1] : &x[n + half];
        const double c = (double)cos_table[at * half + n], s = (double)sin_table[at * half + n];
        const double re = (double)*first, im = (double)*second;
        volatile double up = re * c, down = im * s, across = re * s, along = im * c; /* no fused multiply-add */
        *first = (float)(up - down), *second = (float)(along + across);
    }
}

static void model_append(world *w, const rows *r) {
    float x[MAX_DIM];
    for (int b = 0; b < w->c.batch; b++) {
        for (int i = 0; i < r->count[b]; i++)
            for (int v = 0; v < 2; v++)
                for (int h = 0; h < w->c.num_heads_k && (v ? r->a.v.data : r->a.k.data); h++) {
                    model_row(r, v, b, i, h, x);
                    model_put(w, v, b, r->start[b] + i, h, x);
                }
        w->length[b] += r->count[b];
    }
}

static rows new_rows;

/* Calls f with every dtype, page size, layout and kind of factors. */
static void all_worlds(void (*f)(world *, const char *, uint64_t *), uint64_t seed) {
    static const int pages[] = {0, 1, 3, 16, 256};
    for (int dtype = FA_F32; dtype <= FA_I8; dtype++)
        for (int page = 0; page < 5; page++)
            for (int layout = 0; layout < NUM_LAYOUTS; layout++)
                for (int mode = 0; mode < (dtype >= FA_E4M3 ? NUM_MODES : 1); mode++) {
                    world w;
                    char name[80];
                    snprintf(name, sizeof name, "%s, page size %d, layout %d, factors %d",
                             fa_dtype_name(dtype), pages[page], layout, mode);
                    make_world(&w, dtype, pages[page], layout, mode, &seed);
                    f(&w, name, &seed);
                    free_world(&w);
                }
}

/* Several appends; all rows of a sequence at once, or in pieces. */
static void append_some(world *w, const char *name, uint64_t *seed) {
    for (int step = 0; step < 4; step++) {
        make_rows(&new_rows, w, step == 0 ? 12 : 1 + fat_below(seed, 6), FA_F32 + fat_below(seed, 3), seed);
        fa_error error;
        char text[300];
        new_rows.a.error = &error;
        const fa_status status = fa_append(&new_rows.a);
        fa_error_message(&error, text, sizeof text);
        if (!FA_EXPECT_MSG(status == FA_OK, "%s: %s", name, text)) return;
        model_append(w, &new_rows);
        if (!FA_EXPECT_MSG(same_memory(w), "%s, step %d", name, step)) return;
    }
}
FA_TEST(append_is_the_model) {
    for (uint64_t n = 0; n < 4; n++) all_worlds(append_some, fat_seed + n);
}

/* The same rows one by one: the same bits, also where blocks share a factor. */
static void append_one_by_one(world *w, const char *name, uint64_t *seed) {
    make_rows(&new_rows, w, 20, FA_F32 + fat_below(seed, 3), seed);
    const rows all = new_rows;
    const int32_t batch = w->c.batch;
    int32_t one[MAX_B], at[MAX_B], spin[MAX_B * MAX_ROWS];
    fa_append_args a = all.a;
    a.cu_seqlens_new = NULL, a.seqused_new = one, a.positions = at;
    for (int i = 0; i < 20; i++)
        for (int b = 0; b < batch; b++) { /* row i of sequence b alone, as row 0 of its own call */
            fa_tensor *const t[2] = {&a.k, &a.v};
            const fa_tensor *const from[2] = {&all.a.k, &all.a.v};
            if (i >= all.count[b]) continue;
            for (int v = 0; v < 2; v++) {
                const int64_t dim = v ? w->c.head_dim_v : w->c.head_dim;
                int64_t sb = from[v]->stride_b, ss = from[v]->stride_s, sh = from[v]->stride_h;
                if (!from[v]->data) continue;
                if (!sb && !ss && !sh) sh = dim, ss = dim * w->c.num_heads_k, sb = ss * all.a.seqlen_new;
                const int64_t offset = all.a.cu_seqlens_new ? (all.cu[b] + i) * ss : b * sb + i * ss;
                t[v]->data = (const char *)from[v]->data + (size_t)offset * fa_sizeof(all.a.dtype);
                t[v]->stride_b = FA_BROADCAST, t[v]->stride_s = ss, t[v]->stride_h = sh;
            }
            a.seqlen_new = 1;
            for (int n = 0; n < batch; n++) one[n] = n == b, at[n] = n == b ? all.start[b] + i : 0;
            if (all.a.rotary.positions) {
                const int row = all.a.cu_seqlens_new ? all.cu[b] + i : b * all.a.seqlen_new + i;
                for (int n = 0; n < batch; n++) spin[n] = 0;
                spin[b] = all.a.rotary.per_row ? all.spin[row] : all.spin[b] + i;
                a.rotary.positions = spin;
            }
            FA_REQUIRE(fa_append(&a) == FA_OK);
        }
    model_append(w, &all);
    FA_EXPECT_MSG(same_memory(w), "%s", name);
}
FA_TEST(rows_one_by_one_give_the_same_bits) { all_worlds(append_one_by_one, fat_seed + 10); }

/* ---- compaction --------------------------------------------------------------------------- */

static void compact_some(world *w, const char *name, uint64_t *seed) {
    int32_t accepted[MAX_B * MAX_ROWS], num[MAX_B], start[MAX_B];
    enum { COLUMNS = 10 };
    fa_compact_args a;
    memset(&a, 0, sizeof a);
    make_rows(&new_rows, w, 8, FA_F32, seed), new_rows.a.k.data = new_rows.k, new_rows.a.v.data = new_rows.v;
    FA_REQUIRE(fa_append(&new_rows.a) == FA_OK);
    model_append(w, &new_rows);
    make_rows(&new_rows, w, 20, FA_F32, seed), new_rows.a.k.data = new_rows.k, new_rows.a.v.data = new_rows.v;
    FA_REQUIRE(fa_append(&new_rows.a) == FA_OK);
    model_append(w, &new_rows);
    const int all = !fat_below(seed, 4);
    for (int b = 0; b < w->c.batch; b++) {
        num[b] = 0, start[b] = new_rows.start[b];
        for (int i = 0; i < new_rows.count[b] && num[b] < COLUMNS; i++)
            if (all || !fat_below(seed, 3)) accepted[b * COLUMNS + num[b]++] = i;
        for (int i = num[b]; i < COLUMNS; i++) accepted[b * COLUMNS + i] = -1;
    }
    a.cache = w->c, a.max_accepted = COLUMNS, a.accepted = accepted, a.num_accepted = num, a.positions = start;

    for (int v = 0; v < 2; v++) /* the model: all rows as they are, then put them where they go */
        for (int b = 0; b < w->c.batch; b++)
            for (int h = 0; h < w->c.num_heads_k; h++) {
                static unsigned char code[COLUMNS][MAX_DIM * 4];
                static float factor[COLUMNS], x[MAX_DIM];
                const int dim = v ? w->c.head_dim_v : w->c.head_dim,
                          block = (v ? &w->c.v_descale : &w->c.k_descale)->block;
                const size_t bytes = (size_t)dim * fa_sizeof(w->c.dtype);
                float *f;
                for (int n = 0; n < num[b]; n++) {
                    const int from = start[b] + accepted[b * COLUMNS + n];
                    memcpy(code[n], row_at(w, w->model, v, b, from, h), bytes);
                    if ((f = factor_at(w, w->model_factor, v, b, from, h)) != NULL) factor[n] = *f;
                }
                for (int n = 0; n < num[b]; n++) {
                    const int from = start[b] + accepted[b * COLUMNS + n], to = start[b] + n;
                    f = factor_at(w, w->model_factor, v, b, to, h);
                    if (!f || block == 1 || f == factor_at(w, w->model_factor, v, b, from, h)) {
                        memcpy(row_at(w, w->model, v, b, to, h), code[n], bytes);
                        if (block == 1) *f = factor[n];
                    } else {
                        for (int d = 0; d < dim; d++) x[d] = fa_load(code[n], d, w->c.dtype) * factor[n];
                        model_put(w, v, b, to, h, x);
                    }
                }
            }
    FA_EXPECT(fa_compact(&a) == FA_OK);
    FA_EXPECT_MSG(same_memory(w), "%s", name);
}
FA_TEST(compaction_is_the_model) {
    for (uint64_t n = 0; n < 4; n++) all_worlds(compact_some, fat_seed + 20 + n);
}

/* Nothing accepted, all accepted: no byte changes. */
static void compact_nothing(world *w, const char *name, uint64_t *seed) {
    int32_t accepted[MAX_B * MAX_ROWS], zero[MAX_B] = {0};
    fa_compact_args a;
    memset(&a, 0, sizeof a);
    make_rows(&new_rows, w, 9, FA_F32, seed);
    FA_REQUIRE(fa_append(&new_rows.a) == FA_OK);
    model_append(w, &new_rows);
    for (int i = 0; i < MAX_B * 9; i++) accepted[i] = i % 9;
    a.cache = w->c, a.max_accepted = 9, a.accepted = accepted, a.num_accepted = zero, a.positions = new_rows.start;
    FA_EXPECT(fa_compact(&a) == FA_OK);
    FA_EXPECT_MSG(same_memory(w), "%s: nothing", name);
    a.num_accepted = new_rows.count;
    if (!new_rows.a.k.data) a.cache.k.data = NULL; /* never written: its factors are NaN */
    if (!new_rows.a.v.data) a.cache.v.data = NULL;
    FA_EXPECT(fa_compact(&a) == FA_OK);
    FA_EXPECT_MSG(same_memory(w), "%s: all", name);
}
FA_TEST(compaction_of_nothing_and_of_all) { all_worlds(compact_nothing, fat_seed + 30); }

/* ---- quality ------------------------------------------------------------------------------ */

/* Largest |value in the cache - x| in units of half a step: the unit of int8 is the factor, that of fp8 depends on x. */
static void row_factors(fa_dtype dtype, int paged) {
    enum { N = 24, D = 64 };
    static float x[N][D], factor[N];
    static uint8_t code[N][D];
    static const int32_t table[] = {2, 0, 1};
    uint64_t seed = fat_seed;
    fa_append_args a;
    memset(&a, 0, sizeof a);
    for (int i = 0; i < N; i++)
        for (int d = 0; d < D; d++) x[i][d] = i == 5 ? 0 : (float)(fat_normal(&seed) * pow(10, i % 9 - 4));
    a.cache.batch = 1, a.cache.num_heads_k = 1, a.cache.seqlen_k = N, a.cache.head_dim_v = D, a.cache.dtype = dtype;
    a.cache.v.data = code, a.cache.v_descale.data = factor, a.cache.v_descale.block = 1;
    a.cache.v_descale.stride_block = 1;
    if (paged) a.cache.block_table = table, a.cache.page_size = 8, a.cache.num_pages = 3;
    if (paged) a.cache.v_descale.paged = 1, a.cache.v_descale.stride_b = 8;
    a.v.data = x, a.dtype = FA_F32, a.seqlen_new = N;
    FA_REQUIRE(fa_append(&a) == FA_OK);
    for (int i = 0; i < N; i++) {
        const int row = paged ? table[i / 8] * 8 + i % 8 : i;
        const double f = (double)factor[row], tiny = dtype == FA_E4M3 ? 0x1p-9 : 0x1p-16,
                     digits = dtype == FA_E4M3 ? 0x1p-4 : 0x1p-3;
        double most = 0;
        for (int d = 0; d < D; d++) {
            const double want = (double)x[i][d], got = f * (double)fa_load(code[row], d, dtype);
            const double half = dtype == FA_I8 ? f / 2 : fmax(fabs(want) * digits, f * tiny / 2);
            most = fmax(most, fabs(want));
            FA_EXPECT_NEAR(got, want, half * (1 + 1e-6));
        }
        FA_EXPECT_NEAR(f, most / largest(dtype), f * 1e-7);
    }
}
FA_TEST(error_of_quantised_rows) {
    for (int dtype = FA_E4M3; dtype <= FA_I8; dtype++)
        for (int paged = 0; paged < 2; paged++) row_factors(dtype, paged);
}

/* Rows of rising size: every one makes the factor of the block grow.  n growths cost n half steps, at most. */
FA_TEST(blocks_grow) {
    enum { N = 12, D = 32, BLOCK_ROWS = 6 };
    static float x[N][D], factor[N / BLOCK_ROWS];
    static int8_t code[N][D];
    uint64_t seed = fat_seed;
    fa_append_args a;
    memset(&a, 0, sizeof a);
    for (int i = 0; i < N; i++)
        for (int d = 0; d < D; d++) x[i][d] = (float)((2 * fat_uniform(&seed) - 1) * (1 + i));
    a.cache.batch = 1, a.cache.num_heads_k = 1, a.cache.seqlen_k = N, a.cache.head_dim = D, a.cache.dtype = FA_I8;
    a.cache.k.data = code, a.cache.k_descale.data = factor, a.cache.k_descale.block = BLOCK_ROWS;
    a.cache.k_descale.stride_block = 1;
    a.k.data = x, a.dtype = FA_F32, a.seqlen_new = N;
    factor[0] = 1000; /* of an earlier life of the block */
    FA_REQUIRE(fa_append(&a) == FA_OK);
    for (int i = 0; i < N; i++)
        for (int d = 0; d < D; d++) {
            const double f = (double)factor[i / BLOCK_ROWS];
            FA_EXPECT_NEAR(f * code[i][d], (double)x[i][d], f / 2 * (BLOCK_ROWS - i % BLOCK_ROWS) * (1 + 1e-6));
        }
    FA_EXPECT(factor[0] < 1);
}

FA_TEST(numbers_that_are_none) {
    static float x[2][4] = {{1, -INFINITY, 2, 0}, {1, NAN, 2, -3}}, factor[2];
    static uint8_t code[2][4];
    const uint32_t nan = 0x7f800001u; /* the smallest one */
    memcpy(&x[1][1], &nan, sizeof nan);
    for (int dtype = FA_E4M3; dtype <= FA_I8; dtype++) {
        fa_append_args a;
        memset(&a, 0, sizeof a);
        a.cache.batch = 1, a.cache.num_heads_k = 1, a.cache.seqlen_k = 2, a.cache.head_dim = 4;
        a.cache.dtype = dtype, a.cache.k.data = code, a.cache.k_descale.data = factor;
        a.cache.k_descale.block = 1, a.cache.k_descale.stride_block = 1;
        a.k.data = x, a.dtype = FA_F32, a.seqlen_new = 2;
        FA_REQUIRE(fa_append(&a) == FA_OK);
        FA_EXPECT_NEAR(factor[0], 3.4028234663852886e38 / largest(dtype), 1e32);
        FA_EXPECT_NEAR(fa_load(code[0], 1, dtype), -largest(dtype), 0);
        FA_EXPECT_NEAR(factor[1], 3 / largest(dtype), 1e-8);
        FA_EXPECT(dtype == FA_I8 ? code[1][1] == 0 : isnan(fa_load(code[1], 1, dtype)));
        FA_EXPECT_NEAR(fa_load(code[1], 3, dtype), -largest(dtype), 0);
    }
}

/* ---- rotary ------------------------------------------------------------------------------- */

FA_TEST(rotary_table) {
    enum { COUNT = 50, DIM = 32 };
    static float c[COUNT][DIM / 2], s[COUNT][DIM / 2];
    for (int scaled = 0; scaled < 2; scaled++) {
        FA_REQUIRE(fa_rotary_table(c[0], s[0], COUNT, DIM, 10000, scaled ? 4 : 0) == FA_OK);
        for (int p = 0; p < COUNT; p++)
            for (int i = 0; i < DIM / 2; i++) {
                const double angle = (scaled ? p / 4.0 : p) * exp(-log(10000) * 2 * i / DIM);
                FA_EXPECT_NEAR(c[p][i], cos(angle), 1e-7);
                FA_EXPECT_NEAR(s[p][i], sin(angle), 1e-7);
            }
    }
}

/* q of all kinds, out of place and in place; elements that are none stay. */
FA_TEST(rotary_of_queries) {
    enum { BATCH = 3, SEQ = 5, H = 3, MAX = BATCH * SEQ * H * (MAX_DIM + 4) };
    static float q[MAX], o[MAX], model[MAX];
    uint64_t seed = fat_seed;
    for (int n = 0; n < 300; n++) {
        const fa_dtype dtype = FA_F32 + n % 3;
        const int dim = 2 + fat_below(&seed, MAX_DIM - 1), pad = fat_below(&seed, 3), varlen = n / 3 % 2,
                  per_row = n / 6 % 2;
        const int32_t cu[BATCH + 1] = {1, 4, 4, 9}, used[BATCH] = {2, 0, 5};
        int32_t positions[BATCH * SEQ];
        fa_rotary_args a;
        memset(&a, 0, sizeof a);
        a.batch = BATCH, a.num_heads = H, a.seqlen_q = SEQ, a.head_dim = dim, a.dtype = dtype;
        a.q.data = q, a.o.data = o;
        if (pad) a.q.stride_h = a.o.stride_h = dim + pad, a.q.stride_s = a.o.stride_s = H * (dim + pad),
                 a.q.stride_b = a.o.stride_b = SEQ * H * (dim + pad);
        if (varlen) a.cu_seqlens_q = cu, a.seqused_q = used;
        a.rotary.dim = 2 + 2 * fat_below(&seed, dim / 2), a.rotary.interleaved = n / 12 % 2, a.rotary.per_row = per_row;
        a.rotary.cos = cos_table, a.rotary.sin = sin_table, a.rotary.count = TABLE;
        if (per_row || n % 5) a.rotary.positions = positions;
        for (int i = 0; i < BATCH * SEQ; i++) positions[i] = fat_below(&seed, TABLE - SEQ);
        FA_REQUIRE(fa_rotary_table(cos_table, sin_table, TABLE, a.rotary.dim, 500, 0) == FA_OK);
        memset(q, 0xff, sizeof q), memset(o, 0xff, sizeof o), memset(model, 0xff, sizeof model);
        for (int64_t i = 0; i < MAX; i++) fa_store(q, i, dtype, (float)fat_normal(&seed));
        for (int b = 0; b < BATCH; b++)
            for (int i = 0; i < (varlen ? used[b] : SEQ); i++)
                for (int h = 0; h < H; h++) {
                    const int row = varlen ? cu[b] + i : b * SEQ + i, half = a.rotary.dim / 2;
                    const int64_t base = (int64_t)(row * H + h) * (dim + pad);
                    const int at = !a.rotary.positions ? i : per_row ? positions[row] : positions[b] + i;
                    for (int d = 0; d < dim; d++) {
                        float x = fa_load(q, base + d, dtype);
                        const int i2 = a.rotary.interleaved ? d / 2 : d % half,
                                  second = a.rotary.interleaved ? d % 2 : d >= half;
                        const int step = a.rotary.interleaved ? 1 : half;
                        if (d < a.rotary.dim) {
                            const double c = (double)cos_table[at * half + i2], s = (double)sin_table[at * half + i2];
                            const double y = (double)fa_load(q, base + (second ? d - step : d + step), dtype);
                            volatile double own = (double)x * c, other = y * s;
                            x = (float)(second ? own + other : own - other);
                        }
                        fa_store(model, base + d, dtype, x);
                    }
                }
        FA_EXPECT(fa_rotary(&a) == FA_OK);
        FA_EXPECT_MSG(!memcmp(o, model, sizeof o), "%d", n);
        memcpy(o, q, sizeof q); /* in place: what is no element keeps its bits */
        a.q.data = o;
        FA_EXPECT(fa_rotary(&a) == FA_OK);
        for (int64_t i = 0; i < MAX; i++)
            if (dtype == FA_F32 && fai_bits_of(model[i]) == 0xffffffffu) model[i] = q[i];
            else if (dtype != FA_F32 && ((uint16_t *)(void *)model)[i] == 0xffff && i < MAX)
                ((uint16_t *)(void *)model)[i] = ((uint16_t *)(void *)q)[i];
        FA_EXPECT_MSG(!memcmp(o, model, (size_t)MAX * fa_sizeof(dtype)), "%d, in place", n);
    }
}

/* ---- quantisation ------------------------------------------------------------------------- */

/* Factors of every kind: for a row, some rows, all; of a head or of all; of a sequence or of all. */
FA_TEST(quantize_is_the_model) {
    enum { BATCH = 3, SEQ = 7, H = 3, D = 64, MAX = BATCH * SEQ * H * D };
    static float q[MAX], x[MAX], need[MAX], factor[MAX];
    static unsigned char o[MAX * 4], model[MAX * 4];
    static const int32_t cu[] = {0, 2, 2, 9}, used[] = {2, 0, 5};
    uint64_t seed = fat_seed;
    for (int n = 0; n < 400; n++) {
        fa_quantize_args a;
        memset(&a, 0, sizeof a), memset(factor, 0xff, sizeof factor), memset(need, 0, sizeof need);
        const int dim = 2 << fat_below(&seed, 6), block = fat_below(&seed, 4) * fat_below(&seed, 3),
                  blocks = block ? (SEQ + block - 1) / block : 1;
        const fa_dtype to = FA_F32 + n % 6;
        a.batch = BATCH, a.num_heads = H, a.seqlen_q = SEQ, a.head_dim = dim, a.dtype = FA_F32 + n / 6 % 3,
        a.o_dtype = to;
        a.q.data = q, a.o.data = o, a.hadamard = fat_below(&seed, 2), a.seed = (uint64_t)n % 2;
        if (fat_below(&seed, 2)) a.cu_seqlens_q = cu, a.seqused_q = used;
        const int64_t axes = fat_below(&seed, 8), sb = axes & 1 ? H * blocks : 0, sh = axes & 2 ? blocks : 0,
                      ss = axes & 4 ? 1 : 0;
        if (to >= FA_E4M3 && n % 5) {
            const fa_descale_out d = {factor, sb, sh, ss, block, 0};
            a.descale = d;
        }
        for (int i = 0; i < MAX; i++)
            fa_store(q, i, a.dtype, (float)(fat_normal(&seed) * (fat_below(&seed, 50) ? 1 : 100)));
        memset(o, 0xff, sizeof o), memset(model, 0xff, sizeof model);
        for (int code = 0; code < 2; code++)
            for (int b = 0; b < BATCH; b++)
                for (int i = 0; i < (a.seqused_q ? used[b] : SEQ); i++)
                    for (int h = 0; h < H; h++) {
                        const int64_t row = ((int64_t)((a.cu_seqlens_q ? cu[b] : b * SEQ) + i) * H + h) * dim;
                        float *f = &need[b * sb + h * sh + (block ? i / block : 0) * ss], most = 0;
                        for (int d = 0; d < dim && !code; d++) x[row + d] = fa_load(q, row + d, a.dtype);
                        if (a.hadamard && !code) { /* by the definition, in double; it is then exact enough to say who is largest */
                            double sum[D];
                            uint32_t bits[4];
                            for (int d = 0; d < dim; d++) {
                                sum[d] = 0;
                                for (int e = 0; e < dim; e++) {
                                    fai_hadamard_bits(a.seed, e, bits);
                                    const int minus = (int)(bits[e / 32] >> e % 32 & 1) ^
                                                      (__builtin_popcount((unsigned)(d & e)) & 1);
                                    sum[d] += minus ? -(double)x[row + e] : (double)x[row + e];
                                }
                            }
                            float y[256] = {0};
                            for (int d = 0; d < dim; d++) y[d] = x[row + d];
                            fai_hadamard_row(y, dim, a.seed);
                            for (int d = 0; d < dim; d++) {
                                FA_EXPECT_NEAR(y[d], sum[d] / sqrt(dim), 1e-4);
                                x[row + d] = y[d];
                            }
                        }
                        for (int d = 0; d < dim; d++) most = fmaxf(most, fabsf(x[row + d]));
                        if (to >= FA_E4M3 && !code) *f = fmaxf(*f, most / (float)largest(to));
                        for (int d = 0; d < dim && code; d++)
                            fa_store(model, row + d, to, a.descale.data ? *f > 0 ? x[row + d] / *f : 0 : x[row + d]);
                    }
        FA_EXPECT(fa_quantize(&a) == FA_OK);
        FA_EXPECT_MSG(!memcmp(o, model, sizeof o), "%d", n);
        for (int64_t b = 0; a.descale.data && b < (sb ? BATCH : 1); b++)
            for (int64_t h = 0; h < (sh ? H : 1); h++)
                for (int64_t s = 0; s < (ss ? blocks : 1); s++) {
                    const int64_t at = b * sb + h * sh + s * ss;
                    FA_EXPECT_MSG(factor[at] == need[at], "%d: factor %d", n, (int)at);
                }
    }
}

/* A transposed tensor has the codes of the other one, by the table of the contract, zeros to the end of 16, and nothing else. */
FA_TEST(transposed_is_a_permutation) {
    static const int place[16] = {0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15};
    enum { BATCH = 3, SEQ = 40, H = 2, D = 24, COLUMNS = 160, MAX = BATCH * SEQ * H * D };
    static float q[MAX], factor[BATCH * H * SEQ];
    static uint8_t plain[MAX], o[BATCH * H * D * COLUMNS], model[BATCH * H * D * COLUMNS];
    static const int32_t cu[] = {1, 18, 18, 51}, used[] = {16, 0, 30};
    uint64_t seed = fat_seed;
    FA_EXPECT(fa_transposed_columns(40, 1) == 48 && fa_transposed_columns(51, 3) == 96);
    for (int n = 0; n < 32; n++) {
        const int ragged = n % 2, packed = n / 2 % 2 && !ragged, shortened = n / 4 % 2;
        fa_quantize_args a;
        memset(&a, 0, sizeof a);
        a.batch = BATCH, a.num_heads = H, a.seqlen_q = SEQ, a.head_dim = D - n % 3, a.dtype = FA_F32 + n % 3,
        a.o_dtype = FA_E4M3;
        a.q.data = q, a.cu_seqlens_q = ragged ? cu : NULL, a.seqused_q = shortened ? used : NULL;
        if (n / 8 % 2) {
            const fa_descale_out d = {factor, H * SEQ, SEQ, 1, n / 16 ? 5 : 0, 0};
            a.descale = d;
        }
        for (int i = 0; i < MAX; i++) fa_store(q, i, a.dtype, (float)fat_normal(&seed));
        const int64_t columns = packed ? 48 : COLUMNS, dim = a.head_dim;
        memset(plain, 0xff, sizeof plain), memset(o, 0xff, sizeof o), memset(model, 0xff, sizeof model);
        a.o.data = plain;
        FA_EXPECT(fa_quantize(&a) == FA_OK);
        a.o.data = o, a.transposed = 1;
        if (!packed) a.o.stride_s = columns, a.o.stride_h = columns * dim, a.o.stride_b = columns * dim * H;
        FA_EXPECT(fa_quantize(&a) == FA_OK);
        for (int b = 0; b < BATCH; b++) {
            const int len = shortened ? used[b]
                            : ragged  ? cu[b + 1] - cu[b]
                                      : SEQ,
                      start = ragged ? (cu[b] + 15 * b) / 16 * 16 : 0;
            for (int h = 0; h < H; h++)
                for (int j = 0; j < (len + 15) / 16 * 16; j++)
                    for (int d = 0; d < dim; d++)
                        model[(((ragged ? 0 : b) * H + h) * dim + d) * columns + start + j / 16 * 16 + place[j % 16]] =
                            j < len ? plain[(((ragged ? cu[b] : b * SEQ) + j) * H + h) * dim + d] : 0;
        }
        FA_EXPECT_MSG(!memcmp(o, model, sizeof o), "%d", n);
    }
}

/* Rotated with the same seed, Q and K have the same products.  Where one element of a thousand is 10 times as large as
 * the rest, int8 products have less than half of the error; e4m3, whose steps follow the elements, keeps its. */
FA_TEST(rotation_keeps_products_and_makes_them_better) {
    enum { N = 96, D = 128 };
    static float x[2][N][D], y[2][N][D], factor[2];
    static uint8_t code[2][N][D];
    uint64_t seed = fat_seed;
    for (int i = 0; i < 2 * N * D; i++)
        x[i / N / D][i / D % N][i % D] =
            (float)(fat_normal(&seed) + (fat_below(&seed, 1000) ? 0 : 10 * fat_normal(&seed)));
    for (int dtype = FA_E4M3; dtype <= FA_I8; dtype += FA_I8 - FA_E4M3) {
        double rms[2] = {0, 0};
        for (int rotated = 0; rotated < 2; rotated++) {
            for (int t = 0; t < 2; t++) {
                fa_quantize_args a;
                memset(&a, 0, sizeof a);
                a.batch = 1, a.num_heads = 1, a.seqlen_q = N, a.head_dim = D, a.dtype = FA_F32, a.o_dtype = FA_F32;
                a.hadamard = rotated, a.seed = 77, a.q.data = x[t], a.o.data = y[t];
                FA_REQUIRE(fa_quantize(&a) == FA_OK);
                a.o_dtype = dtype, a.o.data = code[t], a.descale.data = &factor[t];
                FA_REQUIRE(fa_quantize(&a) == FA_OK);
            }
            for (int i = 0; i < N; i++)
                for (int j = 0; j < N; j++) {
                    double want = 0, kept = 0, got = 0;
                    for (int d = 0; d < D; d++) {
                        want += (double)x[0][i][d] * (double)x[1][j][d],
                            kept += (double)y[0][i][d] * (double)y[1][j][d];
                        got += (double)fa_load(code[0][i], d, dtype) * (double)fa_load(code[1][j], d, dtype);
                    }
                    const double error = got * (double)factor[0] * (double)factor[1] - want;
                    FA_EXPECT_NEAR(kept, want, 1e-3);
                    rms[rotated] += error * error / N / N;
                }
        }
        FA_EXPECT_MSG(sqrt(rms[1]) < (dtype == FA_I8 ? 0.5 : 1.1) * sqrt(rms[0]), "%s: %g, rotated %g",
                      fa_dtype_name(dtype), sqrt(rms[0]), sqrt(rms[1]));
    }
}

/* ---- next to attention -------------------------------------------------------------------- */

/* What was appended is what attention sees: the cache gives the same o as its values, dequantised. */
static void attend(world *w, const char *name, uint64_t *seed) {
    enum { SQ = 3, H = 6 };
    static float q[MAX_B * SQ * H * MAX_DIM], k[MAX_B * MAX_ROWS * 3 * MAX_DIM], v[MAX_B * MAX_ROWS * 3 * MAX_DIM];
    static double o[2][MAX_B * SQ * H * MAX_DIM], scratch[MAX_ROWS + 512];
    static float out[MAX_B * SQ * H * MAX_DIM];
    fa_info info;
    fa_args a;
    memset(&info, 0, sizeof info), memset(&a, 0, sizeof a);
    for (int n = 0; n < 2; n++) {
        make_rows(&new_rows, w, 12, FA_BF16, seed), new_rows.a.k.data = new_rows.k, new_rows.a.v.data = new_rows.v;
        FA_REQUIRE(fa_append(&new_rows.a) == FA_OK);
        for (int b = 0; b < w->c.batch; b++) w->length[b] += new_rows.count[b];
    }
    for (size_t i = 0; i < sizeof q / sizeof *q; i++) q[i] = (float)fat_normal(seed);
    if (w->c.head_dim % 4) return; /* fai_dot */
    info.head_dim = w->c.head_dim, info.head_dim_v = w->c.head_dim_v;
    info.dtype = info.o_dtype = FA_F32, info.kv_dtype = w->c.dtype;
    info.features = FA_ALL_FEATURES, info.passes = FA_FORWARD;
    fa_use_cache(&a, &w->c);
    a.num_heads = H / w->c.num_heads_k * w->c.num_heads_k, a.seqlen_q = SQ, a.causal = 1;
    a.q.data = q, a.o.data = out, a.seqused_k = w->length;
    FA_EXPECT_MSG(fa_reference_forward(&info, &a, o[0], NULL, scratch) == FA_OK, "%s", name);

    for (int b = 0; b < w->c.batch; b++)
        for (int j = 0; j < w->length[b]; j++)
            for (int h = 0; h < w->c.num_heads_k; h++)
                for (int side = 0; side < 2; side++) {
                    const int dim = side ? w->c.head_dim_v : w->c.head_dim;
                    float *to = (side ? v : k) + (((int64_t)b * w->c.seqlen_k + j) * w->c.num_heads_k + h) * dim;
                    const float *f = factor_at(w, w->factor, side, b, j, h);
                    for (int d = 0; d < dim; d++)
                        to[d] = fa_load(row_at(w, w->mem, side, b, j, h), d, w->c.dtype) * (f ? *f : 1);
                }
    fa_args plain = a;
    const fa_tensor none = {NULL, 0, 0, 0};
    plain.k = plain.v = none, plain.k.data = k, plain.v.data = v, plain.block_table = NULL, plain.page_size = 0;
    memset(&plain.k_descale, 0, sizeof plain.k_descale), memset(&plain.v_descale, 0, sizeof plain.v_descale);
    info.kv_dtype = FA_F32;
    FA_EXPECT_MSG(fa_reference_forward(&info, &plain, o[1], NULL, scratch) == FA_OK, "%s", name);
    double worst = 0;
    for (int i = 0; i < w->c.batch * SQ * a.num_heads * w->c.head_dim_v; i++)
        worst = fmax(worst, fabs(o[0][i] - o[1][i]));
    FA_EXPECT_MSG(worst < 1e-5, "%s: %g", name, worst);
}
FA_TEST(attention_sees_what_was_appended) { all_worlds(attend, fat_seed + 40); }

FA_TEST(refusals) { cache_refusals(NULL); }

FA_TEST_MAIN
