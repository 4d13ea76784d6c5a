/* fa_problem.h - random attention problems for the tests, and the judge of what kernels make of them.
 *
 *     fap_problem p;
 *     FA_REQUIRE(fap_build(&p, "b=2 hq=8 hk=2 sq=113 sk=203 causal=1 seed=42", &attn64_info));
 *     status = attn64_forward(&p.args, workspace, bytes);   or another kernel, or a copy of p.args
 *     FA_EXPECT(fap_judge(&p, "attn64"));
 *     fap_free(&p);
 *
 * FA_EXPECT(fap_check_forward(&attn64_info, "b=2 hq=8 ...")) does all of that.  A failure prints the
 * line, so that it can be repeated.  Values are normal(0, 1), rounded to the dtype.  The same line
 * without `layout` and `page` gives the same values, wherever they are stored.  Every byte that nothing
 * may depend on is 0xff, which is NaN in all dtypes: padding, rows past the end, keys that no query
 * sees, biases of masked scores, free pages.  Outputs start as 0xff too, and what is no element of o
 * or lse must end so.
 *
 * C11, C++17 and CUDA.  Include flashattn.h and fa_test.h first. */
#ifndef FA_PROBLEM_H
#define FA_PROBLEM_H

/* -------------------------------------------------------------------------------------------- */
/* The description: X(kind, name, default).  A field that is not in the line has its default. */

#define FAP_FIELDS(X) \
    X(INT, b, 1)  /* batch */ \
    X(INT, hq, 1) /* num_heads */ \
    X(INT, hk, 0) /* num_heads_k, 0 = hq */ \
    X(INT, sq, 1) /* seqlen_q */ \
    X(INT, sk, 1) /* seqlen_k */ \
    X(INT, d, 64) /* head dims, dv 0 = d; with an instance: its own, as are the dtypes */ \
    X(INT, dv, 0) \
    X(DTYPE, dtype, 1) /* f32 f16 bf16 e4m3 e5m2, kv also i8; kv 0 = dtype, out 0 = as instances have it */ \
    X(DTYPE, kv, 0) \
    X(DTYPE, out, 0) \
    X(INT, causal, 0) \
    X(INT, wl, 0) /* window_left, window_right */ \
    X(INT, wr, 0) \
    X(INT, varlen, 0) /* 1 = cu_seqlens_q and _k with random lengths, some 0 (paged: _q and seqused_k) */ \
    X(INT, used, 0)   /* 1 = seqused_q and _k, random; 2 = seqused_k alone */ \
    X(INT, page, 0)   /* page_size */ \
    X(REAL, softcap, 0) \
    X(INT, alibi, 0) /* 1 = per head, 2 = per batch and head */ \
    X(INT, bias, 0)  /* 1 = f32, 2 = f16, 3 = bf16, 4 = f32 of one head for all, rows padded */ \
    X(REAL, drop, 0) \
    X(INT, sink, 0) \
    X(INT, bm, 0)        /* block mask of bm x bm, half of it empty */ \
    X(INT, tree, 0)      /* 1 = random tree, 2 = chain */ \
    X(LAYOUT, layout, 0) /* see below */ \
    X(INT, descale, \
      0) /* fp8, int8: 1 = a tensor (int8 always), 2 = (batch, head), 3 = blocks of 64 rows, too, 4 = \
                            rows, of k and v in pages if they are */ \
    X(REAL, scale, 0) \
    X(INT, nan, 0) /* 1 = the last key is NaN: rows that see it must be NaN, others must not */ \
    X(INT, lse, 1) /* 0 = not wanted */ \
    X(INT, threads, 1) \
    X(INT, split, 0) /* split_keys */ \
    X(INT, seed, 1)

/* bshd: packed.  bhsd: heads outside rows.  padded: odd strides, data off by one element.  qkv: columns
 * of one matrix (of k and v alone if q is of another dtype or k paged).  bcast: one k and v for the
 * batch (as padded with varlen or pages). */
enum { FAP_BSHD, FAP_BHSD, FAP_PADDED, FAP_QKV, FAP_BCAST, FAP_NUM_LAYOUTS };
static const char *const fap_layout_names[] = {"bshd", "bhsd", "padded", "qkv", "bcast"};

typedef struct fap_spec {
#define FAP_INT(name) int name;
#define FAP_DTYPE(name) int name;
#define FAP_LAYOUT(name) int name;
#define FAP_REAL(name) double name;
#define FAP_X(kind, name, value) FAP_##kind(name)
    FAP_FIELDS(FAP_X)
#undef FAP_INT
#undef FAP_DTYPE
#undef FAP_LAYOUT
#undef FAP_REAL
#undef FAP_X
} fap_spec;

/* Code of a dtype or layout name, -1 if there is none of that name. */
static inline int fap_dtype_of(const char *word) {
    for (int t = FA_F32; t <= FA_I8; t++)
        if (!strcmp(word, fa_dtype_name(t))) return t;
    return -1;
}
static inline int fap_layout_of(const char *word) {
    for (int l = 0; l < FAP_NUM_LAYOUTS; l++)
        if (!strcmp(word, fap_layout_names[l])) return l;
    return -1;
}

/* "name=value name=value ..." -> *s.  0 (and a message) for a word that is none. */
static inline int fap_parse(fap_spec *s, const char *line) {
#define FAP_X(kind, name, value) s->name = value;
    FAP_FIELDS(FAP_X)
#undef FAP_X
    for (;;) {
        char key[16], word[32];
        int used = 0, ok = 0;
        while (*line == ' ') line++;
        if (!*line) return 1;
        if (sscanf(line, "%15[a-z]=%31[^ ]%n", key, word, &used) == 2) {
#define FAP_INT(name) s->name = atoi(word), ok = 1;
#define FAP_REAL(name) s->name = atof(word), ok = 1;
#define FAP_DTYPE(name) s->name = fap_dtype_of(word), ok = s->name > 0;
#define FAP_LAYOUT(name) s->name = fap_layout_of(word), ok = s->name >= 0;
#define FAP_X(kind, name, value) \
    if (!strcmp(key, #name)) { \
        FAP_##kind(name) \
    }
            FAP_FIELDS(FAP_X)
#undef FAP_INT
#undef FAP_REAL
#undef FAP_DTYPE
#undef FAP_LAYOUT
#undef FAP_X
        }
        if (!ok) return printf("# not a field of a problem: %s\n", line), 0;
        line += used;
    }
}

/* The line of *s: fields that differ from their defaults.  text: room for 512 characters. */
static inline char *fap_print(const fap_spec *s, char *text) {
    char *end = text;
    *end = 0;
#define FAP_INT(name) sprintf(end, " %s=%d", #name, s->name)
#define FAP_REAL(name) sprintf(end, " %s=%.9g", #name, s->name)
#define FAP_DTYPE(name) sprintf(end, " %s=%s", #name, fa_dtype_name(s->name))
#define FAP_LAYOUT(name) sprintf(end, " %s=%s", #name, fap_layout_names[s->name])
#define FAP_X(kind, name, value) \
    if (s->name != value) end += FAP_##kind(name);
    FAP_FIELDS(FAP_X)
#undef FAP_INT
#undef FAP_REAL
#undef FAP_DTYPE
#undef FAP_LAYOUT
#undef FAP_X
    return *text ? text + 1 : text;
}

/* The line of a random problem of at most most_q x most_k that uses only these features, each of them
 * now and then.  line: room for 512 characters. */
static inline char *fap_random(char *line, uint64_t *rng, uint32_t features, int most_q, int most_k) {
#define FAP_MAYBE(bit) ((features & (bit)) && fat_below(rng, 3) == 0)
    static const char *const alone[] = {"1", "3", "64", "65", "113", "128", "203", "239"};
    fap_spec s;
    fap_parse(&s, "");
    s.b = 1 + fat_below(rng, 4), s.hk = 1 + fat_below(rng, 3), s.hq = s.hk * (1 + fat_below(rng, 4));
    s.sq = fat_below(rng, 2) ? 1 + fat_below(rng, most_q) : atoi(alone[fat_below(rng, 8)]);
    s.sk = fat_below(rng, 2) ? 1 + fat_below(rng, most_k) : atoi(alone[fat_below(rng, 8)]);
    if (s.sq > most_q) s.sq = most_q;
    if (s.sk > most_k) s.sk = most_k;
    s.causal = FAP_MAYBE(FA_CAUSAL);
    if (FAP_MAYBE(FA_WINDOW))
        s.wl = fat_below(rng, s.sk + 1), s.wr = fat_below(rng, 2) ? 0 : fat_below(rng, s.sk + 1);
    if (FAP_MAYBE(FA_VARLEN)) s.varlen = fat_below(rng, 2), s.used = fat_below(rng, 3);
    if (FAP_MAYBE(FA_PAGED)) s.page = fat_below(rng, 2) ? 1 << fat_below(rng, 8) : 1 + fat_below(rng, 100);
    if (FAP_MAYBE(FA_SOFTCAP)) s.softcap = 1 + fat_below(rng, 50);
    if (FAP_MAYBE(FA_ALIBI)) s.alibi = 1 + fat_below(rng, 2);
    if (FAP_MAYBE(FA_BIAS)) s.bias = 1 + fat_below(rng, 4);
    if (FAP_MAYBE(FA_DROPOUT)) s.drop = fat_below(rng, 9) / 10.0;
    if (FAP_MAYBE(FA_BLOCK_MASK)) s.bm = 1 << fat_below(rng, 8);
    if (FAP_MAYBE(FA_TREE_MASK) && s.sq <= s.sk) s.tree = 1 + fat_below(rng, 2);
    s.sink = FAP_MAYBE(FA_SINK), s.descale = fat_below(rng, 4), s.lse = fat_below(rng, 4) != 0;
    s.layout = fat_below(rng, FAP_NUM_LAYOUTS), s.seed = fat_below(rng, 1000000);
#undef FAP_MAYBE
    return fap_print(&s, line);
}

/* -------------------------------------------------------------------------------------------- */
/* The problem */

/* Where a tensor lies, by the builder's own arithmetic, not the library's: element (b, s, h, d) is
 * data[b*sb + s*ss + h*sh + d]. */
typedef struct fap_place {
    char *data;
    fa_dtype dtype;
    int64_t sb, ss, sh;
} fap_place;

/* What a kernel wrote, and where it may write. */
typedef struct fap_output {
    unsigned char *bytes;   /* all of the buffer, guards included */
    unsigned char *element; /* 1 = this byte belongs to an element that has to be written */
    size_t size;
    fap_place place;
} fap_output;

typedef struct fap_verdict {
    int ok;
    const char *rule;            /* which one failed: "max", "rms", "row", "lse", "nan", "guard" */
    double error, bound;         /* of that rule */
    int b, h, i, d;              /* its worst element; -1 where it does not apply */
    double max_error, max_bound; /* rule "max", always */
    double lse_error, lse_bound; /* rule "lse" at its worst row */
} fap_verdict;

enum { FAP_MAX_BLOCKS = 128 };

typedef struct fap_problem {
    fap_spec spec;
    fa_info info;
    fa_args args;
    int32_t *len_q, *len_k; /* (batch): rows in use */
    int32_t *row_q, *row_k; /* (batch): first row where concatenated, else 0 */
    int32_t *pages;         /* (batch, pages of sk): where they are; NULL: not paged */
    fap_place q, k, v;
    fap_output o, lse;
    int64_t rows;               /* packed rows of o_ref: batch * sq, or those concatenated */
    double *o_ref, *lse_ref;    /* of fa_reference_forward; NULL until fap_expect */
    float *o_naive, *lse_naive; /* of same-precision attention */
    float *noise, *noise_lse;   /* (rows, heads), see fap_naive_row */
    void *blocks[FAP_MAX_BLOCKS];
    int64_t sizes[FAP_MAX_BLOCKS]; /* bytes of each */
    int num_blocks;
} fap_problem;

/* bytes of 0xff, with 256 more on either side; freed by fap_free. */
static inline char *fap_alloc(fap_problem *p, int64_t bytes) {
    unsigned char *block = (unsigned char *)malloc((size_t)bytes + 512);
    if (!block || p->num_blocks == FAP_MAX_BLOCKS) abort();
    p->sizes[p->num_blocks] = bytes + 512, p->blocks[p->num_blocks++] = block;
    return (char *)memset(block, 0xff, (size_t)bytes + 512) + 256;
}
static inline void fap_free(fap_problem *p) {
    while (p->num_blocks) free(p->blocks[--p->num_blocks]);
}

/* Packed rows of o_ref: row of query i of sequence b; index in lse_ref. */
static inline int64_t fap_row(const fap_problem *p, int b, int i) {
    return p->args.cu_seqlens_q ? p->row_q[b] + i : (int64_t)b * p->spec.sq + i;
}
static inline int64_t fap_lse_index(const fap_problem *p, int b, int h, int i) {
    int64_t n = p->args.cu_seqlens_q ? p->rows : p->spec.sq,
            bh = p->args.cu_seqlens_q ? h : (int64_t)b * p->spec.hq + h;
    return bh * n + (p->args.cu_seqlens_q ? p->row_q[b] + i : i);
}
/* Element index of row i or j, head h of sequence b. */
static inline int64_t fap_at_q(const fap_problem *p, const fap_place *t, int b, int i, int h) {
    return (p->args.cu_seqlens_q ? 0 : b * t->sb) + (p->row_q[b] + (int64_t)i) * t->ss + h * t->sh;
}
static inline int64_t fap_at_k(const fap_problem *p, const fap_place *t, int b, int j, int h) {
    int page = p->spec.page;
    if (page) {
        int n = (p->spec.sk + page - 1) / page;
        return p->pages[b * n + j / page] * t->sb + j % page * t->ss + h * t->sh;
    }
    return (p->args.cu_seqlens_k ? 0 : b * t->sb) + (p->row_k[b] + (int64_t)j) * t->ss + h * t->sh;
}

/* Elements that odd strides and offsets are multiples of: 8 for kernels that want rows of 16-bit elements at multiples of
 * 16 bytes. */
static int fap_unit = 1;

/* Memory for (n, rows, heads, dim) elements in a layout; *bytes: its size. */
static inline fap_place fap_place_new(fap_problem *p, int layout, fa_dtype dtype, int64_t n, int64_t rows,
                                      int64_t heads, int64_t dim, int64_t *bytes) {
    fap_place t = {NULL, dtype, rows * heads * dim, heads * dim, dim};
    int64_t offset = layout != FAP_BSHD ? fap_unit : 0, elements;
    if (layout == FAP_BHSD) t.sh = rows * dim, t.ss = dim;
    if (layout == FAP_PADDED || layout == FAP_BCAST)
        t.sh = dim + 3 * fap_unit, t.ss = heads * t.sh + 5 * fap_unit, t.sb = rows * t.ss + 7 * fap_unit;
    if (layout == FAP_BCAST) t.sb = 0;
    elements = offset + n * t.sb + rows * t.ss + heads * t.sh + dim; /* more than enough */
    *bytes = elements * (int64_t)fa_sizeof(dtype);
    t.data = fap_alloc(p, *bytes) + offset * (int64_t)fa_sizeof(dtype);
    return t;
}

/* The strides for fa_args: zeros for packed. */
static inline fa_tensor fap_tensor(const fap_place *t, int layout) {
    fa_tensor r = {t->data, 0, 0, 0};
    if (layout != FAP_BSHD) r.stride_b = t->sb ? t->sb : FA_BROADCAST, r.stride_s = t->ss, r.stride_h = t->sh;
    return r;
}

/* Random lengths, and the arrays that say so.  Sequence 0 is as long as seqlen. */
static inline void fap_lengths(fap_problem *p, uint64_t *rng) {
    fap_spec *s = &p->spec;
    int n = s->b, cu_k = s->varlen && !s->page;
    int32_t *cu[2], *used[2];
    for (int t = 0; t < 2; t++) {
        cu[t] = (int32_t *)(void *)fap_alloc(p, (n + 1) * 4);
        used[t] = (int32_t *)(void *)fap_alloc(p, n * 4);
    }
    p->len_q = (int32_t *)(void *)fap_alloc(p, n * 4), p->len_k = (int32_t *)(void *)fap_alloc(p, n * 4);
    p->row_q = (int32_t *)(void *)fap_alloc(p, n * 4), p->row_k = (int32_t *)(void *)fap_alloc(p, n * 4);
    cu[0][0] = cu[1][0] = s->layout != FAP_BSHD ? 2 : 0;
    for (int b = 0; b < n; b++) {
        int room_q = s->sq, room_k = s->sk, lq, lk;
        if (s->varlen && b) {
            room_q = fat_below(rng, 6) ? fat_below(rng, s->sq + 1) : 0;
            room_k = fat_below(rng, 6) ? fat_below(rng, s->sk + 1) : 0;
            if (s->tree && room_k < room_q) room_k = room_q;
        }
        lq = s->used == 1 ? fat_below(rng, room_q + 1) : room_q;
        lk = s->used ? fat_below(rng, room_k + 1) : room_k;
        if (s->tree && lk < lq) lk = lq;
        cu[0][b + 1] = cu[0][b] + room_q, cu[1][b + 1] = cu[1][b] + room_k;
        p->len_q[b] = used[0][b] = lq, p->len_k[b] = used[1][b] = lk;
        p->row_q[b] = s->varlen ? cu[0][b] : 0, p->row_k[b] = cu_k ? cu[1][b] : 0;
    }
    if (s->varlen) p->args.cu_seqlens_q = cu[0];
    if (cu_k) p->args.cu_seqlens_k = cu[1];
    if (s->used == 1) p->args.seqused_q = used[0];
    if (s->used || (s->varlen && s->page)) p->args.seqused_k = used[1];
    p->rows = s->varlen ? cu[0][n] : (int64_t)n * s->sq;
}

/* Pages in random order, 3 of them free; the table is wider than needed, and garbage where not in use. */
static inline void fap_paging(fap_problem *p, uint64_t *rng) {
    fap_spec *s = &p->spec;
    int n = (s->sk + s->page - 1) / s->page, width = n + (s->layout != FAP_BSHD ? 3 : 0),
        count = s->b * n + 3;
    int32_t *order = (int32_t *)(void *)fap_alloc(p, count * 4);
    int32_t *table = (int32_t *)(void *)fap_alloc(p, (int64_t)s->b * width * 4);
    p->pages = (int32_t *)(void *)fap_alloc(p, (int64_t)s->b * n * 4);
    for (int i = 0; i < count; i++) {
        int at = fat_below(rng, i + 1);
        order[i] = order[at], order[at] = i;
    }
    for (int b = 0; b < s->b; b++)
        for (int i = 0; i < n; i++) {
            p->pages[b * n + i] = order[b * n + i];
            if (i * s->page < p->len_k[b]) table[b * width + i] = order[b * n + i];
        }
    p->args.block_table = table, p->args.block_table_stride = width == n ? 0 : width;
    p->args.page_size = s->page, p->args.num_pages = count;
}

/* Memory for q, k, v, o and lse. */
static inline void fap_place_all(fap_problem *p) {
    fap_spec *s = &p->spec;
    fa_args *a = &p->args;
    int64_t bytes, total_k = a->cu_seqlens_k ? a->cu_seqlens_k[s->b] : s->sk,
                   total_q = s->varlen ? p->rows : s->sq;
    int64_t nq = s->varlen ? 1 : s->b, nk = s->page ? a->num_pages : a->cu_seqlens_k ? 1 : s->b;
    int64_t rows_k = s->page ? s->page : total_k;
    int layout_o = s->layout > FAP_PADDED ? FAP_PADDED : s->layout, layout_k = s->layout;
    if (s->layout == FAP_BCAST && (s->page || a->cu_seqlens_k)) layout_k = FAP_PADDED;
    if (s->layout == FAP_QKV) { /* one matrix whose rows are [q | k | v] or [k | v] */
        int with_q = s->dtype == s->kv && !s->page;
        int64_t dq = with_q ? (int64_t)s->hq * s->d : 0, width = dq + (int64_t)s->hk * (s->d + s->dv);
        int64_t rows = with_q && total_q > rows_k ? total_q : rows_k, e = (int64_t)fa_sizeof(s->kv);
        fap_place m = fap_place_new(p, FAP_QKV, s->kv, nk, rows, 1, width, &bytes);
        m.sh = s->d;
        p->q = p->k = p->v = m;
        p->k.data += dq * e, p->v.data += (dq + (int64_t)s->hk * s->d) * e, p->v.sh = s->dv;
        if (!with_q) p->q = fap_place_new(p, FAP_PADDED, s->dtype, nq, total_q, s->hq, s->d, &bytes);
    } else {
        p->q = fap_place_new(p, layout_o, s->dtype, nq, total_q, s->hq, s->d, &bytes);
        p->k = fap_place_new(p, layout_k, s->kv, nk, rows_k, s->hk, s->d, &bytes);
        p->v = fap_place_new(p, layout_k, s->kv, nk, rows_k, s->hk, s->dv, &bytes);
    }
    a->q = fap_tensor(&p->q, s->layout), a->k = fap_tensor(&p->k, layout_k),
    a->v = fap_tensor(&p->v, layout_k);

    p->o.place = fap_place_new(p, layout_o, s->out, nq, total_q, s->hq, s->dv, &bytes);
    a->o.data = p->o.place.data, p->o.size = (size_t)bytes + 512;
    if (layout_o != FAP_BSHD)
        a->o.stride_b = p->o.place.sb, a->o.stride_s = p->o.place.ss, a->o.stride_h = p->o.place.sh;
    p->o.bytes = (unsigned char *)p->blocks[p->num_blocks - 1];
    p->lse.place =
        fap_place_new(p, layout_o == FAP_BSHD ? FAP_BHSD : FAP_PADDED, FA_F32, nq, total_q, s->hq, 1, &bytes);
    p->lse.size = (size_t)bytes + 512;
    p->lse.bytes = (unsigned char *)p->blocks[p->num_blocks - 1];
    if (s->lse) a->lse.data = p->lse.place.data;
    if (s->lse && layout_o != FAP_BSHD)
        a->lse.stride_b = p->lse.place.sb, a->lse.stride_s = p->lse.place.ss,
        a->lse.stride_h = p->lse.place.sh;
    p->o.element = (unsigned char *)memset(fap_alloc(p, (int64_t)p->o.size), 0, p->o.size);
    p->lse.element = (unsigned char *)memset(fap_alloc(p, (int64_t)p->lse.size), 0, p->lse.size);
    for (int b = 0; b < s->b; b++)
        for (int h = 0; h < s->hq; h++)
            for (int i = 0; i < p->len_q[b]; i++) {
                int64_t e = (int64_t)fa_sizeof(s->out), o = fap_at_q(p, &p->o.place, b, i, h) * e;
                int64_t l = fap_at_q(p, &p->lse.place, b, i, h) * 4;
                memset(p->o.element + ((unsigned char *)p->o.place.data - p->o.bytes) + o, 1,
                       (size_t)(s->dv * e));
                if (s->lse)
                    memset(p->lse.element + ((unsigned char *)p->lse.place.data - p->lse.bytes) + l, 1, 4);
            }
}

/* Factors around 1 for an fp8 tensor of `heads` heads and seqlen rows, around 1/32 for int8.  len: rows in use. */
static inline fa_descale fap_descales(fap_problem *p, uint64_t *rng, fa_dtype dtype, int heads, int seqlen,
                                      int paged) {
    fa_descale r = {NULL, 0, 0, 0, 0, 0};
    int kind = dtype < FA_E4M3                      ? 0
               : dtype == FA_I8 && !p->spec.descale ? 1
                                                    : p->spec.descale,
        page = p->spec.page;
    int n = kind == 3 ? (seqlen + 63) / 64 + 1 : kind == 4 ? seqlen : 1, count = p->spec.b * heads * n;
    int64_t room = kind == 4 && paged ? (int64_t)p->args.num_pages * heads * page : count;
    float *x = (float *)(void *)fap_alloc(p, room * 4);
    for (int i = 0; i < count; i++) {
        float factor = (float)((0.5 + 1.5 * fat_uniform(rng)) / (dtype == FA_I8 ? 32 : 1));
        int b = i / n / heads, h = i / n % heads, j = i % n,
            pages = paged ? (p->spec.sk + page - 1) / page : 0;
        int64_t at =
            kind == 4 && paged ? ((int64_t)p->pages[b * pages + j / page] * heads + h) * page + j % page : i;
        if (kind != 4 || !paged || j < p->len_k[b]) x[at] = factor; /* else it stays NaN */
    }
    if (kind) r.data = x;
    if (kind >= 2) r.stride_b = (int64_t)heads * n, r.stride_h = n;
    if (kind == 3) r.stride_block = 1, r.block = 64;
    if (kind == 4) r.stride_block = 1, r.block = 1;
    if (kind == 4 && paged) r.paged = 1, r.stride_b = (int64_t)heads * page, r.stride_h = page;
    return r;
}

/* Block mask, tree mask, slopes, sink: all but the bias, which needs them. */
static inline void fap_terms(fap_problem *p, uint64_t *rng) {
    fap_spec *s = &p->spec;
    fa_args *a = &p->args;
    int loose = s->layout != FAP_BSHD, heads = s->b * s->hq;
    if (s->alibi) {
        float *x = (float *)(void *)fap_alloc(p, (int64_t)s->b * (s->hq + 1) * 4);
        for (int b = 0; b < s->b; b++)
            for (int h = 0; h < s->hq; h++) x[b * (s->hq + 1) + h] = (float)exp2(-8.0 * (h + 1) / s->hq - b);
        a->alibi_slopes = x, a->alibi_stride_b = s->alibi == 2 ? s->hq + 1 : 0;
    }
    if (s->sink) {
        float *x = (float *)(void *)fap_alloc(p, s->hq * 4);
        for (int h = 0; h < s->hq; h++) x[h] = (float)(2 * fat_normal(rng));
        a->sink = x;
    }
    if (s->bm) {
        int64_t rows = (s->sq + s->bm - 1) / s->bm, cols = (s->sk + s->bm - 1) / s->bm, n = rows * cols;
        unsigned char *x = (unsigned char *)fap_alloc(p, heads * n);
        for (int64_t i = 0; i < heads * n; i++) x[i] = (unsigned char)(fat_next(rng) >> 60 & 8); /* 0 or 8 */
        a->block_mask.data = x, a->block_mask.block_q = a->block_mask.block_k = s->bm;
        if (loose) a->block_mask.stride_b = FA_BROADCAST, a->block_mask.stride_h = n;
    }
    if (s->tree) {
        int words = (s->sq + 31) / 32, stride = words + loose;
        uint32_t *x = (uint32_t *)(void *)fap_alloc(p, (int64_t)s->b * s->sq * stride * 4);
        for (int b = 0; b < s->b; b++)
            for (int i = 0; i < s->sq; i++) { /* a node sees what its parent sees, and itself */
                uint32_t *row = x + ((int64_t)b * s->sq + i) * stride;
                int parent = s->tree == 2 ? i - 1 : i ? fat_below(rng, i + 1) - 1 : -1;
                memset(row, 0, (size_t)words * 4);
                if (parent >= 0) memcpy(row, row + (int64_t)(parent - i) * stride, (size_t)words * 4);
                row[i / 32] |= 1u << i % 32;
            }
        a->tree_mask.data = x;
        if (loose) a->tree_mask.stride_q = stride, a->tree_mask.stride_b = (int64_t)s->sq * stride;
    }
    a->q_descale = fap_descales(p, rng, s->dtype, s->hq, s->sq, 0);
    a->k_descale = fap_descales(p, rng, s->kv, s->hk, s->sk, s->page > 0);
    a->v_descale = fap_descales(p, rng, s->kv, s->hk, s->sk, s->page > 0);
}

/* 1 if query i of sequence b sees key j, j in fa_row_range or not. */
static inline int fap_visible(const fap_problem *p, int b, int h, int i, int j) {
    fa_sequence seq = fa_get_sequence(&p->args, b);
    fa_range r = fa_row_range(&p->args, seq.len_q, seq.len_k, i);
    return j >= r.lo && j < r.hi && fa_reference_visible(&p->info, &p->args, &seq, h, i, j);
}

/* Biases of the scores that some query sees; the rest stays NaN. */
static inline void fap_bias(fap_problem *p, uint64_t *rng) {
    static const fa_dtype dtypes[] = {0, FA_F32, FA_F16, FA_BF16, FA_F32};
    fap_spec *s = &p->spec;
    fa_bias *bias = &p->args.bias;
    fa_dtype dtype = dtypes[s->bias];
    int one = s->bias == 4; /* (sq, sk + 5), for every batch and head */
    int64_t st_q = s->sk + (one ? 5 : 0), st_h = one ? 0 : s->sq * st_q, st_b = st_h * s->hq;
    char *data = fap_alloc(p, (one ? s->sq * st_q : st_b * s->b) * (int64_t)fa_sizeof(dtype));
    for (int b = 0; b < s->b; b++)
        for (int h = 0; h < s->hq; h++)
            for (int i = 0; i < p->len_q[b]; i++)
                for (int j = 0; j < p->len_k[b]; j++)
                    if (fap_visible(p, b, h, i, j))
                        fa_store(data, b * st_b + h * st_h + i * st_q + j, dtype, (float)fat_normal(rng));
    bias->data = data, bias->dtype = s->bias == 1 ? 0 : dtype;
    if (one) bias->stride_b = bias->stride_h = FA_BROADCAST, bias->stride_q = st_q;
}

/* Normal numbers times factor in the row at t->data[at]; no numbers if it stays NaN. */
static inline void fap_fill_row(const fap_place *t, int64_t at, int n, double factor, uint64_t *rng,
                                int keep_nan) {
    if (t->dtype == FA_I8) factor *= 32; /* the descale factors are around 1/32 */
    for (int d = 0; d < n; d++) {
        double x = factor * fat_normal(rng);
        if (!keep_nan) fa_store(t->data, at + d, t->dtype, (float)x);
    }
}

/* q, k, v: in logical order, so that the layout does not matter.  Keys that nobody sees stay NaN. */
static inline void fap_fill(fap_problem *p, uint64_t *rng) {
    fap_spec *s = &p->spec;
    int group = s->hq / s->hk, shared = s->layout == FAP_BCAST && !s->page && !p->args.cu_seqlens_k;
    unsigned char *seen = (unsigned char *)fap_alloc(p, s->sk + 1);
    double softcap_factor = s->softcap > 0 ? s->softcap / 4 : 1; /* so that the cap matters */
    for (int b = 0; b < s->b; b++) {
        uint64_t again = (uint64_t)s->seed * 77u,
                 *stream = shared ? &again : rng; /* broadcast: the same for all b */
        for (int h = 0; h < s->hq; h++)
            for (int i = 0; i < p->len_q[b]; i++)
                fap_fill_row(&p->q, fap_at_q(p, &p->q, b, i, h), s->d, softcap_factor, rng, 0);
        for (int hk = 0; hk < s->hk; hk++) {
            memset(seen, shared, (size_t)s->sk + 1);
            for (int h = hk * group; h < (hk + 1) * group && !shared; h++)
                for (int i = 0; i < p->len_q[b]; i++) {
                    fa_sequence seq = fa_get_sequence(&p->args, b);
                    fa_range r = fa_row_range(&p->args, seq.len_q, seq.len_k, i);
                    for (int j = r.lo; j < r.hi; j++)
                        if (!seen[j] && fa_reference_visible(&p->info, &p->args, &seq, h, i, j)) seen[j] = 1;
                }
            for (int j = 0; j < (shared ? s->sk : p->len_k[b]); j++) {
                int keep_nan = !seen[j] || (s->nan && j == p->len_k[b] - 1);
                fap_fill_row(&p->k, fap_at_k(p, &p->k, b, j, hk), s->d, 1, stream, keep_nan);
                fap_fill_row(&p->v, fap_at_k(p, &p->v, b, j, hk), s->dv, 1, stream, keep_nan);
            }
        }
    }
}

/* The info that goes with a spec: everything but kernels. */
static inline fa_info fap_info(const fap_spec *s) {
    fa_info info;
    memset(&info, 0, sizeof info);
    info.name = "reference";
    info.head_dim = s->d, info.head_dim_v = s->dv;
    info.dtype = s->dtype, info.kv_dtype = s->kv, info.o_dtype = s->out;
    info.block_m = 128, info.block_n = 64, info.features = FA_ALL_FEATURES,
    info.passes = FA_FORWARD | FA_DECODE;
    return info;
}

/* info: the instance, or NULL for the reference alone.  0 (and a message) if the line is no valid problem. */
static inline int fap_build(fap_problem *p, const char *line, const fa_info *info) {
    fap_spec *s = &p->spec;
    uint64_t rng, rng_terms;
    fa_status status;
    memset(p, 0, sizeof *p);
    if (!fap_parse(s, line)) return 0;
    if (info) {
        s->d = info->head_dim, s->dv = info->head_dim_v;
        s->dtype = info->dtype, s->kv = info->kv_dtype, s->out = info->o_dtype;
    }
    if (!s->hk) s->hk = s->hq;
    if (!s->dv) s->dv = s->d;
    if (!s->kv) s->kv = s->dtype;
    if (!s->out) s->out = s->dtype >= FA_E4M3 ? FA_BF16 : s->dtype;
    p->info = info ? *info : fap_info(s);
    rng = (uint64_t)s->seed, rng_terms = (uint64_t)s->seed + 1000000;
    p->args.batch = s->b, p->args.num_heads = s->hq, p->args.num_heads_k = s->hk == s->hq ? 0 : s->hk;
    p->args.seqlen_q = s->sq, p->args.seqlen_k = s->sk, p->args.causal = s->causal;
    p->args.window_left = s->wl, p->args.window_right = s->wr;
    p->args.softcap = (float)s->softcap, p->args.softmax_scale = (float)s->scale;
    p->args.dropout_p = (float)s->drop, p->args.dropout_offset = 5;
    p->args.dropout_seed = (uint64_t)s->seed * 0x123456789abcdefu, p->args.num_threads = s->threads;
    p->args.split_keys = s->split;
    fap_lengths(p, &rng_terms);
    if (s->page) {
        uint64_t rng_page = rng + 2000000;
        fap_paging(p, &rng_page);
    }
    fap_place_all(p);
    fap_terms(p, &rng_terms);
    if (s->bias) fap_bias(p, &rng_terms);
    fap_fill(p, &rng);
    status = fa_check(&p->info, &p->args);
    if (status) printf("# no valid problem: %s: %s\n", line, fa_strerror(status)), fap_free(p);
    return status == FA_OK;
}

/* Outputs as before the kernel: all 0xff. */
static inline void fap_reset(fap_problem *p) {
    memset(p->o.bytes, 0xff, p->o.size), memset(p->lse.bytes, 0xff, p->lse.size);
}

/* -------------------------------------------------------------------------------------------- */
/* Attention done plainly in the precision of the problem: what rounding alone costs */

static inline float fap_round(float x, fa_dtype dtype) {
    float code[1];
    fa_store(code, 0, dtype, x);
    return fa_load(code, 0, dtype);
}
/* largest relative error of rounding to dtype */
static inline double fap_epsilon(fa_dtype dtype) {
    return dtype == FA_F32    ? 0x1p-24
           : dtype == FA_F16  ? 0x1p-11
           : dtype == FA_BF16 ? 0x1p-8
           : dtype == FA_E4M3 ? 0x1p-4
                              : 0x1p-3;
}
/* largest error of rounding to dtype, of numbers too small to be normal */
static inline double fap_tiny(fa_dtype dtype) {
    return dtype == FA_F16 ? 0x1p-25 : dtype == FA_E4M3 ? 0x1p-10 : dtype == FA_E5M2 ? 0x1p-17 : 0;
}

static inline float fap_dot(const float *x, const float *y, int n) {
    float sum[4] = {0, 0, 0, 0};
    for (int d = 0; d < n; d += 4)
        for (int c = 0; c < 4; c++) sum[c] += x[d + c] * y[d + c];
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/* Softcap to score_mod in f32. */
static inline float fap_score(const fap_problem *p, const fa_sequence *seq, int h, int i, int j, float s) {
    const fa_args *a = &p->args;
    if (a->softcap > 0) s = a->softcap * tanhf(s / a->softcap);
    if (a->alibi_slopes)
        s -= a->alibi_slopes[seq->b * a->alibi_stride_b + h] * (float)abs(i + seq->len_k - seq->len_q - j);
    if (a->bias.data) {
        fai_strides st = fai_strides_bias(a);
        s += fa_load(a->bias.data, seq->b * st.b + h * st.h + i * st.s + j,
                     a->bias.dtype ? a->bias.dtype : FA_F32);
    }
    return p->info.score_mod ? (float)p->info.score_mod((double)s, seq->b, h, i, j) : s;
}

/* Row i of O into o[0 .. dv), returns lse.  S in f32 (f32 inputs: K is scaled, not Q), P rounded to the
 * dtype of Q, for fp8 P * 2^8, times the factor of V (without its exponent) if each key has its own.  k, v: rows
 * in f32, v dequantised; v_rms: root mean square of each, k_norm: length of each; s: room for a row.
 * noise[0]: what rounding does to one element of o, at most or nearly so; noise[1]: to lse
 *     n1 = eps_f32 (4 + sum_j p_j (|s_j| + |q| |k_j|))
 *     n0 = eps_o max|o| + tiny_o + sqrt(sum_j (eps_p p_j v_j)^2 + (tiny_p v_j)^2) + n1 sqrt(sum_j p_j v_j^2)
 * eps: relative error of normal numbers, tiny: absolute error of subnormal ones. */
static inline float fap_naive_row(const fap_problem *p, const fa_sequence *seq, int h, int i, const float *q,
                                  const float *k, const float *v, const float *v_rms, const float *k_norm,
                                  float *s, float *o, float noise[2]) {
    const fa_args *a = &p->args;
    int d = p->spec.d, dv = p->spec.dv, hk = h / (p->spec.hq / p->spec.hk), fp8 = p->spec.dtype >= FA_E4M3;
    float scale = (a->softmax_scale != 0 ? a->softmax_scale : 1 / sqrtf((float)d)) *
                  fai_descale(a, &a->q_descale, seq->b, h, i);
    float max = a->sink ? a->sink[h] : -INFINITY, sum, biggest = 0;
    fa_dtype type_p = fp8 ? FA_E4M3 : p->spec.dtype;
    double eps = fap_epsilon(type_p), tiny = fap_tiny(type_p) / (fp8 ? 256 : 1), spread = 0, mean_v2 = 0,
           mean_s = 4;
    float q_norm = sqrtf(fap_dot(q, q, d)) * (p->spec.dtype == FA_F32 ? 1 : fabsf(scale));
    fa_range r = fa_row_range(a, seq->len_q, seq->len_k, i);
    memset(o, 0, (size_t)dv * sizeof *o);
    for (int j = r.lo; j < r.hi; j++) {
        s[j] = -INFINITY;
        if (!fa_reference_visible(&p->info, a, seq, h, i, j)) continue;
        s[j] = fap_dot(q, k + (int64_t)j * d, d) * fai_descale(a, &a->k_descale, seq->b, hk, j);
        if (p->spec.dtype != FA_F32) s[j] *= scale;
        s[j] = fap_score(p, seq, h, i, j, s[j]);
        if (!(s[j] <= max)) max = s[j];
    }
    noise[0] = noise[1] = 0;
    if (max == -INFINITY) return max;
    sum = a->sink ? expf(a->sink[h] - max) : 0;
    for (int j = r.lo; j < r.hi; j++) sum += expf(s[j] - max);
    for (int j = r.lo; j < r.hi; j++) {
        float e = expf(s[j] - max), z = 1, w, f = 1;
        int exponent;
        if (e == 0) continue;
        if (a->dropout_p > 0) z = fa_dropout_keep(a, seq->b, h, i, j) ? fa_dropout_scale(a->dropout_p) : 0;
        mean_s += (double)(e / sum * (fabsf(s[j]) + q_norm * k_norm[j]));
        if (a->v_descale.data && a->v_descale.block == 1)
            f = frexpf(fai_descale(a, &a->v_descale, seq->b, hk, j), &exponent);
        if (f == 0) f = 1;
        w = fp8 ? fap_round(e * 256 * f, FA_E4M3) * z / (256 * f * sum) : fap_round(e / sum * z, type_p);
        if (z == 0) continue;
        spread +=
            (double)(v_rms[j] * v_rms[j]) * (eps * eps * (double)(w * w) + tiny * tiny * (double)(z * z));
        mean_v2 += (double)(w * v_rms[j] * v_rms[j]);
        for (int c = 0; c < dv; c++) o[c] += w * v[(int64_t)j * dv + c];
    }
    for (int c = 0; c < dv; c++) {
        o[c] = fap_round(o[c], p->spec.out);
        if (isfinite(o[c])) biggest = fmaxf(biggest, fabsf(o[c]));
    }
    noise[1] = (float)(0x1p-24 * mean_s);
    noise[0] = (float)(fap_epsilon(p->spec.out) * (double)biggest + fap_tiny(p->spec.out) + sqrt(spread) +
                       0x1p-24 * mean_s * sqrt(mean_v2));
    return max + logf(sum);
}

/* All rows: o (rows, hq, dv), lse as lse_ref; noise and noise_lse into p if it wants them. */
static inline void fap_naive(const fap_problem *p, float *o, float *lse) {
    const fap_spec *s = &p->spec;
    const fa_args *a = &p->args;
    float *q = (float *)malloc(((size_t)s->d + (size_t)s->sk * (size_t)(s->d + s->dv + 3) + 1) * sizeof *q);
    float *k = q + s->d, *v = k + (int64_t)s->sk * s->d, *v_rms = v + (int64_t)s->sk * s->dv;
    float *k_norm = v_rms + s->sk, *row = k_norm + s->sk;
    for (int b = 0; b < s->b; b++)
        for (int h = 0; h < s->hq; h++) {
            fa_sequence seq = fa_get_sequence(a, b);
            int hk = h / (s->hq / s->hk);
            for (int j = 0; j < seq.len_k; j++) {
                int64_t at_k = fap_at_k(p, &p->k, b, j, hk), at_v = fap_at_k(p, &p->v, b, j, hk);
                float scale = a->softmax_scale != 0 ? a->softmax_scale : 1 / sqrtf((float)s->d), square = 0;
                for (int d = 0; d < s->d; d++) {
                    float x = fa_load(p->k.data, at_k + d, s->kv);
                    k[(int64_t)j * s->d + d] = s->dtype == FA_F32 ? x * scale : x;
                }
                for (int d = 0; d < s->dv; d++) {
                    float x = fa_load(p->v.data, at_v + d, s->kv) * fai_descale(a, &a->v_descale, b, hk, j);
                    v[(int64_t)j * s->dv + d] = x;
                    if (isfinite(x)) square += x * x;
                }
                v_rms[j] = sqrtf(square / (float)s->dv);
                k_norm[j] = sqrtf(fap_dot(k + (int64_t)j * s->d, k + (int64_t)j * s->d, s->d)) *
                            fai_descale(a, &a->k_descale, b, hk, j);
            }
            for (int i = 0; i < seq.len_q; i++) {
                int64_t at = fap_at_q(p, &p->q, b, i, h), r = fap_row(p, b, i) * s->hq + h;
                for (int d = 0; d < s->d; d++) q[d] = fa_load(p->q.data, at + d, s->dtype);
                float noise[2];
                lse[fap_lse_index(p, b, h, i)] =
                    fap_naive_row(p, &seq, h, i, q, k, v, v_rms, k_norm, row, o + r * s->dv, noise);
                if (p->noise) p->noise[r] = noise[0], p->noise_lse[r] = noise[1];
            }
        }
    free(q);
}

/* Computes what the judge compares with, once per problem. */
static inline void fap_expect(fap_problem *p) {
    int64_t rows = p->rows * p->spec.hq;
    double *scratch;
    if (p->o_ref) return;
    p->o_ref = (double *)(void *)fap_alloc(p, rows * p->spec.dv * 8);
    p->lse_ref = (double *)(void *)fap_alloc(p, rows * 8);
    p->o_naive = (float *)(void *)fap_alloc(p, rows * p->spec.dv * 4);
    p->lse_naive = (float *)(void *)fap_alloc(p, rows * 4);
    p->noise = (float *)(void *)fap_alloc(p, rows * 4);
    scratch = (double *)(void *)fap_alloc(p, (p->spec.sk + 2 * 256) * 8);
    if (fa_reference_forward(&p->info, &p->args, p->o_ref, p->lse_ref, scratch) != FA_OK) abort();
    p->noise_lse = (float *)(void *)fap_alloc(p, rows * 4);
    fap_naive(p, p->o_naive, p->lse_naive);
}

/* Writes packed results into p's outputs, as a kernel would. */
static inline void fap_write(fap_problem *p, const float *o, const float *lse) {
    for (int b = 0; b < p->spec.b; b++)
        for (int h = 0; h < p->spec.hq; h++)
            for (int i = 0; i < p->len_q[b]; i++) {
                int64_t at = fap_at_q(p, &p->o.place, b, i, h), r = fap_row(p, b, i) * p->spec.hq + h;
                for (int d = 0; d < p->spec.dv; d++)
                    fa_store(p->o.place.data, at + d, p->spec.out, o[r * p->spec.dv + d]);
                if (p->spec.lse)
                    fa_store(p->lse.place.data, fap_at_q(p, &p->lse.place, b, i, h), FA_F32,
                             lse[fap_lse_index(p, b, h, i)]);
            }
}

/* -------------------------------------------------------------------------------------------- */
/* The judge.  With r = 2 (3 with softcap), e = |out - ref|, n = |naive - ref|, noise of fap_naive_row:
 *     max   max e <= r max n + rounding noise of the reference: the field's rule (FlashAttention's)
 *     rms   rms e <= r rms n + rms(noise) / 2 for each head: finds small errors of many elements
 *     row   max e <= (r + 1) max n + 4 noise for each row: finds an error of one row, however large
 *           the values of other rows are
 *     lse   e <= r max n + 4 noise + 2^-22 |lse| for each row, max n over the head
 * The rounding noise of the reference is 2 max|(ref + 0.3 - 0.3) - ref| in the output's dtype; for f32
 * twice the largest row noise besides, since naive attention on few keys can be exact by luck.  NaN is
 * right where the reference has NaN, and infinite where it is infinite. */

static inline int fap_bad(double got, double want) { /* not comparable by difference, and not the same */
    if (isnan(want)) return !isnan(got);
    return isnan(got) || (isinf(want) ? got != want : isinf(got));
}
static inline double fap_difference(double got, double want) {
    return isnan(want) || isinf(want) ? 0 : fabs(got - want);
}

/* A failure replaces the verdict if it is the first of its rule order or worse by ratio. */
static inline void fap_blame(fap_verdict *v, const char *rule, double error, double bound, int b, int h,
                             int i, int d) {
    if (error <= bound || (!v->ok && v->rule == rule && !(error / bound > v->error / v->bound))) return;
    if (!v->ok && v->rule != rule) return;
    v->ok = 0, v->rule = rule, v->error = error, v->bound = bound, v->b = b, v->h = h, v->i = i, v->d = d;
}

/* Bytes outside the elements of an output must be as they were. */
static inline void fap_compare_guards(const fap_output *o, fap_verdict *v) {
    for (size_t n = 0; n < o->size; n++)
        if (!o->element[n] && o->bytes[n] != 0xff) fap_blame(v, "guard", 1, 0, -1, -1, -1, -1);
}

static inline void fap_compare_lse(const fap_problem *p, int b, int h, double r, fap_verdict *v) {
    double naive = 0;
    for (int i = 0; i < p->len_q[b]; i++) {
        int64_t at = fap_lse_index(p, b, h, i);
        naive = fmax(naive, fap_difference((double)p->lse_naive[at], p->lse_ref[at]));
    }
    for (int i = 0; i < p->len_q[b]; i++) {
        double want = p->lse_ref[fap_lse_index(p, b, h, i)];
        double got = (double)fa_load(p->lse.place.data, fap_at_q(p, &p->lse.place, b, i, h), FA_F32);
        double error = fap_difference(got, want), bound = r * naive + 0x1p-22 * fabs(want);
        bound += 4 * (double)p->noise_lse[fap_row(p, b, i) * p->spec.hq + h];
        if (fap_bad(got, want))
            fap_blame(v, "nan", 1, 0, b, h, i, -1);
        else if (isfinite(want))
            fap_blame(v, "lse", error, bound, b, h, i, -1);
        if (isfinite(want) && error * v->lse_bound >= v->lse_error * bound)
            v->lse_error = error, v->lse_bound = bound;
    }
}

static inline fap_verdict fap_compare(fap_problem *p) {
    fap_verdict v = {1, "none", 0, 0, -1, -1, -1, -1, 0, 0, 0, 1};
    const fap_spec *s = &p->spec;
    double r = s->softcap > 0 ? 3 : 2, max_naive = 0, max_round = 0, max_noise = 0;
    int worst[4] = {-1, -1, -1, -1};
    fap_expect(p);
    fap_compare_guards(&p->o, &v), fap_compare_guards(&p->lse, &v);
    for (int b = 0; b < s->b; b++)
        for (int h = 0; h < s->hq; h++) {
            double sum_e = 0, sum_n = 0, sum_noise = 0, count = (double)p->len_q[b] * s->dv;
            for (int i = 0; i < p->len_q[b]; i++) {
                int64_t at = fap_at_q(p, &p->o.place, b, i, h), row = fap_row(p, b, i) * s->hq + h;
                double row_e = 0, row_n = 0, noise = isfinite(p->noise[row]) ? (double)p->noise[row] : 0;
                int row_d = 0;
                for (int d = 0; d < s->dv; d++) {
                    double got = (double)fa_load(p->o.place.data, at + d, s->out),
                           want = p->o_ref[row * s->dv + d];
                    double e = fap_difference(got, want),
                           n = fap_difference((double)p->o_naive[row * s->dv + d], want);
                    float x = fap_round((float)want, s->out),
                          y = fap_round(fap_round(x + 0.3f, s->out) - 0.3f, s->out);
                    if (fap_bad(got, want)) fap_blame(&v, "nan", 1, 0, b, h, i, d), e = 0;
                    if (isfinite(want)) max_round = fmax(max_round, fabs((double)y - (double)x));
                    if (isnan(n)) n = 0;
                    sum_e += e * e, sum_n += n * n;
                    if (e > row_e) row_e = e, row_d = d;
                    row_n = fmax(row_n, n);
                }
                sum_noise += noise * noise * s->dv;
                fap_blame(&v, "row", row_e, (r + 1) * row_n + 4 * noise, b, h, i, row_d);
                max_naive = fmax(max_naive, row_n), max_noise = fmax(max_noise, noise);
                if (row_e > v.max_error) {
                    v.max_error = row_e;
                    worst[0] = b, worst[1] = h, worst[2] = i, worst[3] = row_d;
                }
            }
            if (count > 0)
                fap_blame(&v, "rms", sqrt(sum_e / count),
                          r * sqrt(sum_n / count) + sqrt(sum_noise / count) / 2, b, h, -1, -1);
            if (s->lse) fap_compare_lse(p, b, h, r, &v);
        }
    v.max_bound = r * max_naive + 2 * max_round + (s->out == FA_F32 ? 2 * max_noise : 0);
    fap_blame(&v, "max", v.max_error, v.max_bound, worst[0], worst[1], worst[2], worst[3]);
    return v;
}

/* 1 if the outputs are right; otherwise says what is wrong, and prints the problem. */
static inline int fap_judge(fap_problem *p, const char *what) {
    char line[512];
    fap_verdict v = fap_compare(p);
    if (v.ok) return 1;
    printf("# %s: rule %s: error %.3g > %.3g at b=%d h=%d i=%d d=%d\n#     %s\n", what, v.rule, v.error,
           v.bound, v.b, v.h, v.i, v.d, fap_print(&p->spec, line));
    return 0;
}

/* Builds the problem, runs a pass of the instance, judges. */
static inline int fap_check_pass(const fa_info *info, const char *line, uint32_t pass) {
    fap_problem p;
    fa_status status;
    size_t bytes;
    int ok = 0;
    if (!fap_build(&p, line, info)) return 0;
    bytes = pass == FA_DECODE ? info->decode_workspace(&p.args) : info->forward_workspace(&p.args);
    status = (pass == FA_DECODE ? info->decode : info->forward)(
        &p.args, bytes ? fap_alloc(&p, (int64_t)bytes) : NULL, bytes);
    if (status)
        printf("# %s: %s\n#     %s\n", info->name, fa_strerror(status), line);
    else
        ok = fap_judge(&p, info->name);
    fap_free(&p);
    return ok;
}

static inline int fap_check_forward(const fa_info *info, const char *line) {
    return fap_check_pass(info, line, FA_FORWARD);
}
static inline int fap_check_decode(const fa_info *info, const char *line) {
    return fap_check_pass(info, line, FA_DECODE);
}

#endif
