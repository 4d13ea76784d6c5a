/* fuzz_args.c - arguments made of random bytes: fa_check must not crash, and what it accepts must be harmless.
 *
 *     fuzz_args [runs] [seed]     or  --seconds n [seed];  prints progress and "1 passed, 0 failed, 0 skipped"
 *     clang -fsanitize=fuzzer,address,undefined -I. tests/fuzz_args.c -lm      libFuzzer target, checks alone
 *
 * An accepted problem is checked by brute force if it lies in the arena: every row that a kernel reads or writes is
 * inside what the argument struct declares, no two elements of o and lse share a byte, and none is an input's.  Then
 * the instance runs, forward, decode and backward, with all bytes of the arena that it has no business with poisoned (AddressSanitizer), and must
 * write all elements of o and lse and nothing else.  Not so under libFuzzer: its instrumentation of the kernels takes
 * clang many minutes. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "flashattn.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FUZZ_ASAN
#endif
#if __has_feature(coverage_sanitizer) && !defined(FUZZ_MAIN)
#define FUZZ_LIBFUZZER /* it brings its own main */
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define FUZZ_ASAN
#endif
#if defined(FUZZ_ASAN)
#include <sanitizer/asan_interface.h>
#endif

#if defined(FUZZ_LIBFUZZER)
static const fa_info fz16_info = {.name = "fz16", .head_dim = 16, .head_dim_v = 32, .dtype = FA_F32,
                                  .kv_dtype = FA_F32, .o_dtype = FA_F32, .features = FA_ALL_FEATURES, .passes = FA_FORWARD};
static const fa_info fz8_info = {.name = "fz8", .head_dim = 32, .head_dim_v = 16, .dtype = FA_E4M3,
                                 .kv_dtype = FA_E4M3, .o_dtype = FA_BF16, .features = FA_ALL_FEATURES, .passes = FA_FORWARD};
#else
#define FA_NAME fz16
#define FA_HEAD_DIM 16
#define FA_HEAD_DIM_V 32
#define FA_FEATURES FA_ALL_FEATURES
#include "flashattn.h"

#define FA_NAME fz8
#define FA_HEAD_DIM 32
#define FA_HEAD_DIM_V 16
#define FA_DTYPE FA_E4M3
#define FA_FEATURES FA_ALL_FEATURES
#include "flashattn.h"
#endif

enum { ARENA = 1 << 16, SLOT = 12 << 10, MAX_BATCH = 8, TABLE = 64, FACTORS = 64 };
enum { FREE = 0, INPUT = 1, OUTPUT = 2 };

static _Alignas(64) unsigned char arena[ARENA];
static unsigned char mark[ARENA]; /* what the problem does with each byte: FREE, INPUT or OUTPUT */
static unsigned char saved[ARENA];
/* Arrays that fa_check reads are put at the end of their memory, so that reading past them is caught. */
static int32_t lengths[4][MAX_BATCH + 1], table[TABLE];
static float factors[3][FACTORS];
static unsigned char *workspace;
static size_t workspace_bytes;
static long runs, accepted, computed, differentiated;
static uint64_t run_seed = 1;

static void fail(const fa_args *a, const char *what) {
    fprintf(stderr,
            "fuzz_args: run %ld, seed %llu: %s\n  batch %d heads %d/%d seqlen %d/%d page_size %d num_pages %d"
            " cu %d%d used %d%d table %d\n",
            runs, (unsigned long long)run_seed, what, a->batch, a->num_heads, a->num_heads_k, a->seqlen_q, a->seqlen_k,
            a->page_size, a->num_pages, a->cu_seqlens_q != NULL, a->cu_seqlens_k != NULL, a->seqused_q != NULL,
            a->seqused_k != NULL, a->block_table != NULL);
    abort();
}

/* ---- bytes to arguments ---------------------------------------------------------------------- */

typedef struct bytes {
    const uint8_t *data;
    size_t size;
} bytes;

static unsigned take(bytes *in) { /* one byte, 0 at the end */
    if (!in->size) return 0;
    in->size--;
    return *in->data++;
}
static int one_in(bytes *in, unsigned n) { return take(in) % n == n - 1; }

static int64_t hostile(bytes *in) {
    static const int64_t values[] = {
        -1, -2, 0, 1, 3, 255, 65536, INT32_MAX, INT32_MAX - 1, INT32_MIN, INT32_MIN + 1, 1 << 30, (int64_t)1 << 31,
        (int64_t)1 << 32, (int64_t)1 << 59, (int64_t)1 << 60, (int64_t)1 << 61, (int64_t)1 << 62, INT64_MAX,
        INT64_MAX - 1, INT64_MAX / 2, INT64_MAX / 4, INT64_MIN, INT64_MIN + 1};
    return values[take(in) % (sizeof values / sizeof *values)];
}
/* lo .. hi, now and then anything */
static int32_t value(bytes *in, int lo, int hi) {
    const unsigned c = take(in);
    return c >= 253 ? (int32_t)(uint64_t)hostile(in) : lo + (int)(c % (unsigned)(hi - lo + 1));
}
static int64_t stride(bytes *in, int64_t usual) {
    const unsigned c = take(in);
    return c < 216 ? usual : c < 224 ? 0 : c < 232 ? FA_BROADCAST : c < 248 ? usual + take(in) % 64 - 8 : hostile(in);
}
/* usually `slot` bytes into the arena, sometimes elsewhere in it, misaligned, or NULL */
static void *place(bytes *in, int slot) {
    const unsigned c = take(in);
    if (c >= 254) return NULL;
    if (c >= 250) return arena + slot + 1 + c % 3;
    if (c < 216) return arena + slot;
    return arena + (take(in) * 256 + take(in)) % ARENA / 4 * 4;
}
static float real(bytes *in) {
    static const float values[] = {0.5f, 1, 0.01f, 30, -1, INFINITY, -INFINITY, NAN, 1e30f, 1e-45f, -0.0f, 0.99999994f};
    const unsigned c = take(in);
    return c < 200 ? (float)c / 256 : values[c % (sizeof values / sizeof *values)];
}

/* Strides of (batch, seq, head) in one of four layouts; at: where columns of a record begin, in elements. */
static void strides(bytes *in, int layout, int64_t rows, int64_t heads, int64_t dim, int64_t record, int64_t out[3]) {
    int64_t b = rows * heads * dim, s = heads * dim, h = dim;
    if (layout == 0 && !one_in(in, 16)) b = s = h = 0;
    if (layout == 1) h = rows * dim, s = dim;
    if (layout == 2) s = record, b = rows * record;
    out[0] = layout == 0 && !b ? 0 : stride(in, b);
    out[1] = layout == 0 && !b ? 0 : stride(in, s);
    out[2] = layout == 0 && !b ? 0 : stride(in, h);
}

static void make_tensors(bytes *in, const fa_info *info, fa_args *a) {
    const int64_t d = info->head_dim, dv = info->head_dim_v, es = (int64_t)fa_sizeof(info->dtype);
    /* records: o is last, in elements of its own size */
    const int64_t hq = a->num_heads & 7, hk = (a->num_heads_k ? a->num_heads_k : a->num_heads) & 7;
    const int64_t eo = (int64_t)fa_sizeof(info->o_dtype), record = hq * d + hk * d + hk * dv + hq * dv * (eo / es);
    const int64_t sq = a->seqlen_q & 255, sk = a->block_table ? a->page_size & 255 : a->seqlen_k & 255;
    const int layout = (int)(take(in) % 4), columns = layout == 2;
    int64_t st[3];
    strides(in, layout, sq, hq, d, record, st);
    a->q.data = place(in, 0), a->q.stride_b = st[0], a->q.stride_s = st[1], a->q.stride_h = st[2];
    strides(in, layout, sk, hk, d, record, st);
    a->k.data = place(in, columns ? (int)(hq * d * es) : SLOT);
    a->k.stride_b = st[0], a->k.stride_s = st[1], a->k.stride_h = st[2];
    strides(in, layout, sk, hk, dv, record, st);
    a->v.data = place(in, columns ? (int)((hq + hk) * d * es) : 2 * SLOT);
    a->v.stride_b = st[0], a->v.stride_s = st[1], a->v.stride_h = st[2];
    strides(in, layout, sq, hq, dv, record * es / eo, st);
    a->o.data = place(in, columns ? (int)(((hq + hk) * d + hk * dv) * es) : 3 * SLOT);
    a->o.stride_b = st[0], a->o.stride_s = st[1], a->o.stride_h = st[2];
    if (!one_in(in, 4)) {
        a->lse.data = place(in, 4 * SLOT);
        if (one_in(in, 4)) a->lse.stride_b = stride(in, sq * hq), a->lse.stride_s = stride(in, hq), a->lse.stride_h = stride(in, 1);
    }
}

/* Arrays of lengths hold batch (+ 1) values only for a small batch, as a caller's would. */
static void make_lengths(bytes *in, fa_args *a) {
    const int known = a->batch >= 1 && a->batch <= MAX_BATCH, n = known ? a->batch : 0;
    const unsigned want = take(in);
    int32_t *array[4];
    for (int x = 0; x < 4; x++) {
        const int is_cu = x < 2, most = (x % 2 ? a->seqlen_k : a->seqlen_q) & 255;
        int32_t sum = is_cu ? value(in, 0, 2) : 0;
        array[x] = NULL;
        if (!(want >> x & 1) || !(want & 16) || (!known && a->batch > 0)) continue;
        array[x] = lengths[x] + MAX_BATCH - n + !is_cu;
        for (int b = 0; b < n + is_cu; b++) {
            array[x][b] = is_cu ? sum : value(in, 0, most);
            if (is_cu) sum = (int32_t)((uint32_t)sum + (uint32_t)value(in, 0, most));
        }
        if (one_in(in, 128)) array[x] = (int32_t *)(void *)((char *)array[x] + 1);
    }
    a->cu_seqlens_q = array[0], a->cu_seqlens_k = array[1], a->seqused_q = array[2], a->seqused_k = array[3];
}

static void make_pages(bytes *in, fa_args *a) {
    double entries, pages;
    if (one_in(in, 64)) a->page_size = value(in, 0, 4); /* without a table */
    if (!one_in(in, 3)) return;
    a->page_size = value(in, 1, 4), a->num_pages = value(in, 1, 8);
    a->block_table_stride = one_in(in, 4) ? stride(in, take(in) % 8) : 0;
    pages = a->page_size > 0 && a->seqlen_k >= 0 ? ceil((double)a->seqlen_k / a->page_size) : 0;
    entries = (a->batch - 1.0) * (a->block_table_stride ? (double)a->block_table_stride : pages) + pages;
    if (entries > TABLE && entries < 0x1p61) { /* legal perhaps, but not ours */
        a->page_size = 0;
        return;
    }
    a->block_table = table + TABLE - (entries > 0 && entries <= TABLE ? (int)entries : 0);
    for (int n = 0; n < TABLE; n++) table[n] = value(in, 0, (int)(((uint32_t)a->num_pages - 1) & 7));
}

static void make_descale(bytes *in, fa_descale *d, float *memory, double batch, double heads, double seqlen) {
    double count;
    if (!one_in(in, 3)) return;
    d->block = one_in(in, 2) ? value(in, 0, 4) : 0;
    d->stride_b = stride(in, take(in) % 4), d->stride_h = stride(in, take(in) % 4), d->stride_block = stride(in, take(in) % 4);
    count = (batch - 1) * (double)d->stride_b + (heads - 1) * (double)d->stride_h + 1;
    if (d->block > 0) count += (ceil(seqlen / d->block) - 1) * (double)d->stride_block;
    if (count > FACTORS && count < 0x1p61) d->stride_b = d->stride_h = d->stride_block = 0, count = 1;
    d->data = memory + FACTORS - (count > 0 && count <= FACTORS ? (int)count : 1);
    for (int n = 0; n < FACTORS; n++) memory[n] = one_in(in, 128) ? real(in) : 0.5f;
}

/* Whatever the bytes say; arrays that fa_check may read are as long as the fields promise. */
static fa_args make(bytes *in, const fa_info *info, fa_error *error) {
    fa_args a;
    const unsigned want = take(in), more = take(in);
    memset(&a, 0, sizeof a);
    if (one_in(in, 256)) a.first_canary = take(in);
    if (one_in(in, 256)) a.last_canary = take(in);
    a.batch = value(in, 1, 3), a.num_heads_k = value(in, 0, 2);
    a.num_heads = one_in(in, 16) ? value(in, 1, 4) : (a.num_heads_k ? a.num_heads_k & 3 : 1) * (1 + (int)(take(in) % 2));
    a.seqlen_q = one_in(in, 8) ? value(in, 1, 90) : value(in, 1, 6);
    a.seqlen_k = one_in(in, 8) ? value(in, 0, 90) : value(in, 0, 8);
    a.error = error;
    make_lengths(in, &a);
    make_pages(in, &a);
    make_tensors(in, info, &a);
    if (one_in(in, 4)) a.softmax_scale = real(in);
    if (want & 1) a.causal = value(in, 0, 1);
    if (want & 2) a.window_left = value(in, 0, 4), a.window_right = value(in, 0, 4);
    if ((want & 12) == 12) a.softcap = real(in);
    if ((want & 48) == 48) a.dropout_p = real(in), a.dropout_seed = take(in);
    if ((want & 192) == 192) {
        a.bias.data = place(in, 4 * SLOT + 2048), a.bias.dtype = value(in, 0, 3);
        if (one_in(in, 2)) {
            a.bias.stride_q = stride(in, a.seqlen_k), a.bias.stride_h = stride(in, FA_BROADCAST);
            a.bias.stride_b = stride(in, FA_BROADCAST);
        }
    }
    if ((more & 3) == 3) a.alibi_slopes = (const float *)place(in, ARENA - 256), a.alibi_stride_b = stride(in, 4);
    if ((more & 12) == 12) a.sink = (const float *)place(in, ARENA - 128);
    if ((more & 48) == 48) {
        a.block_mask.data = (const uint8_t *)place(in, ARENA - 1024);
        a.block_mask.block_q = value(in, 1, 5), a.block_mask.block_k = value(in, 1, 5);
        if (one_in(in, 4)) a.block_mask.stride_b = stride(in, 8), a.block_mask.stride_h = stride(in, FA_BROADCAST);
    }
    if ((more & 192) == 192) {
        a.tree_mask.data = (const uint32_t *)place(in, ARENA - 512);
        if (one_in(in, 4)) a.tree_mask.stride_b = stride(in, 0), a.tree_mask.stride_q = stride(in, 1);
    }
    if (info->dtype >= FA_E4M3 || one_in(in, 64)) {
        const int hk = a.num_heads_k ? a.num_heads_k : a.num_heads;
        make_descale(in, &a.q_descale, factors[0], a.batch, a.num_heads, a.seqlen_q);
        make_descale(in, &a.k_descale, factors[1], a.batch, hk, a.seqlen_k);
        make_descale(in, &a.v_descale, factors[2], a.batch, hk, a.seqlen_k);
    }
    if (one_in(in, 16)) a.num_threads = value(in, 0, 4);
    return a;
}

/* ---- what an accepted problem does ------------------------------------------------------------- */

/* Is the tensor that the arguments declare inside the arena?  Doubles: nothing overflows, small sums are exact. */
static int inside(const void *data, double element, double row, double n0, fai_strides st, double n1, double n2) {
    const double begin = (double)(uintptr_t)data - (double)(uintptr_t)arena;
    if (!data || n0 == 0 || n1 == 0 || n2 == 0 || row == 0) return 1;
    row += (n0 - 1) * (double)st.b + (n1 - 1) * (double)st.s + (n2 - 1) * (double)st.h;
    return begin >= 0 && begin + row * element <= ARENA;
}

static void touch(const fa_args *a, const void *data, int64_t offset, int64_t count, size_t element, unsigned char what) {
    const uintptr_t begin = (uintptr_t)data + (uintptr_t)(offset * (int64_t)element) - (uintptr_t)arena;
    const uintptr_t size = (uintptr_t)count * element;
    if (size == 0) return;
    if (begin >= ARENA || size > ARENA - begin) fail(a, "an accepted problem reaches outside of what it declares");
    for (uintptr_t n = begin; n < begin + size; n++) {
        if (what == OUTPUT && mark[n]) fail(a, "two output elements share a byte");
        if (what == INPUT && mark[n] == OUTPUT) fail(a, "an output overlaps an input");
        mark[n] = what;
    }
}

/* The tensors in the arena, by the library's own arithmetic (UBSan watches it), for any accepted problem.  1 if all
 * of them are inside and small. */
static int contained(const fa_info *info, const fa_args *a) {
    const int d = info->head_dim, dv = info->head_dim_v;
    const double eq = (double)fa_sizeof(info->dtype), ek = (double)fa_sizeof(info->kv_dtype), b = a->batch, h = a->num_heads;
    const double hk = fai_num_heads_k(a), sq = a->cu_seqlens_q ? a->cu_seqlens_q[a->batch] : a->seqlen_q;
    const double bq = a->cu_seqlens_q ? 1 : b, bk = a->block_table ? a->num_pages : a->cu_seqlens_k ? 1 : b;
    const double sk = a->block_table ? a->page_size : a->cu_seqlens_k ? a->cu_seqlens_k[a->batch] : a->seqlen_k;
    const fa_bias *m = &a->bias;
    const fai_strides alibi = {a->alibi_stride_b, 0, 0};
    int ok = inside(a->q.data, eq, d, bq, fai_strides_q(a, d), sq, h);
    ok &= inside(a->k.data, ek, d, bk, fai_strides_kv(a, &a->k, d), sk, hk);
    ok &= inside(a->v.data, ek, dv, bk, fai_strides_kv(a, &a->v, dv), sk, hk);
    ok &= inside(a->o.data, (double)fa_sizeof(info->o_dtype), dv, bq, fai_strides_o(a, dv), sq, h);
    ok &= inside(a->lse.data, 4, 1, bq, fai_strides_lse(a), sq, h);
    ok &= inside(m->data, m->dtype ? (double)fa_sizeof(m->dtype) : 4, a->seqlen_k, b, fai_strides_bias(a), a->seqlen_q, h);
    ok &= inside(a->alibi_slopes, 4, h, b, alibi, 1, 1);
    ok &= inside(a->sink, 4, h, 1, alibi, 1, 1);
    return ok && a->seqlen_q * h * b < 1024 && a->seqlen_k * h * b < 1024;
}

/* Marks all that sequence s reads or writes. */
static void touch_sequence(const fa_info *info, const fa_args *a, const fa_sequence *s, unsigned char what) {
    const size_t eq = fa_sizeof(info->dtype), ek = fa_sizeof(info->kv_dtype), eo = fa_sizeof(info->o_dtype);
    const size_t eb = fa_sizeof(a->bias.dtype ? a->bias.dtype : FA_F32);
    const int d = info->head_dim, dv = info->head_dim_v;
    const fai_strides q = fai_strides_q(a, d), k = fai_strides_kv(a, &a->k, d), v = fai_strides_kv(a, &a->v, dv);
    const fai_strides o = fai_strides_o(a, dv), lse = fai_strides_lse(a), bias = fai_strides_bias(a);
    for (int h = 0; h < a->num_heads; h++)
        for (int i = 0; i < s->len_q; i++) {
            if (what == OUTPUT) {
                touch(a, a->o.data, fai_offset_q(s, o, i, h), dv, eo, OUTPUT);
                if (a->lse.data) touch(a, a->lse.data, fai_offset_q(s, lse, i, h), 1, 4, OUTPUT);
                continue;
            }
            touch(a, a->q.data, fai_offset_q(s, q, i, h), d, eq, INPUT);
            if (a->bias.data && s->len_k) touch(a, a->bias.data, s->b * bias.b + h * bias.h + i * bias.s, s->len_k, eb, INPUT);
        }
    for (int h = 0; h < fai_num_heads_k(a) && what == INPUT; h++)
        for (int j = 0; j < s->len_k; j++) {
            touch(a, a->k.data, fai_offset_k(a, s, k, j, h), d, ek, INPUT);
            touch(a, a->v.data, fai_offset_k(a, s, v, j, h), dv, ek, INPUT);
        }
    if (what == OUTPUT) return;
    if (a->sink) touch(a, a->sink, 0, a->num_heads, 4, INPUT);
    if (a->alibi_slopes) touch(a, a->alibi_slopes, s->b * a->alibi_stride_b, a->num_heads, 4, INPUT);
}

/* 0 if a mask is not inside the arena, which the check cannot know. */
static int touch_masks(const fa_args *a) {
    const fa_block_mask *m = &a->block_mask;
    const fa_tree_mask *t = &a->tree_mask;
    if (m->data && a->seqlen_k) {
        const int64_t tiles = (((int64_t)a->seqlen_q - 1) / m->block_q + 1) * (((int64_t)a->seqlen_k + m->block_k - 1) / m->block_k);
        fai_strides st = {m->stride_b, 0, m->stride_h};
        if (!st.b && !st.h) st.h = tiles, st.b = tiles * a->num_heads;
        if (st.b < 0) st.b = 0;
        if (st.h < 0) st.h = 0;
        if (!inside(m->data, 1, (double)tiles, a->batch, st, 1, a->num_heads)) return 0;
        for (int b = 0; b < a->batch; b++)
            for (int h = 0; h < a->num_heads; h++) touch(a, m->data, b * st.b + h * st.h, tiles, 1, INPUT);
    }
    if (t->data) {
        const int64_t words = ((int64_t)a->seqlen_q + 31) / 32;
        fai_strides st = {t->stride_b, t->stride_q, 0};
        if (!st.b && !st.s) st.s = words, st.b = words * a->seqlen_q;
        if (st.b < 0) st.b = 0;
        if (st.s < 0) st.s = 0;
        if (!inside(t->data, 4, (double)words, a->batch, st, a->seqlen_q, 1)) return 0;
        for (int b = 0; b < a->batch; b++)
            for (int i = 0; i < a->seqlen_q; i++) touch(a, t->data, b * st.b + i * st.s, words, 4, INPUT);
    }
    return 1;
}

/* Makes AddressSanitizer refuse every granule of 8 bytes that the problem does not use. */
static void poison(int on) {
#if defined(FUZZ_ASAN)
    __asan_unpoison_memory_region(arena, ARENA);
    for (int n = 0, end; on && n < ARENA; n = end + 8) {
        static const unsigned char none[8] = {0};
        for (end = n; end < ARENA && !memcmp(mark + end, none, 8);) end += 8;
        if (end > n) __asan_poison_memory_region(arena + n, (size_t)(end - n));
    }
#else
    (void)on;
#endif
}

/* Runs a pass that writes o and lse; only output bytes may change, and all of them must. */
static void compute(const fa_info *info, fa_args *a, size_t (*workspace_of)(const fa_args *),
                    fa_status (*run)(const fa_args *, void *, size_t)) {
    size_t need;
    fa_status status;
    a->num_threads = 1;
    need = workspace_of(a);
    if (need == 0) fail(a, "no workspace for an accepted problem");
    if (need > workspace_bytes) {
        free(workspace);
        workspace = (unsigned char *)malloc(workspace_bytes = need);
        if (!workspace) abort();
    }
    for (int n = 0; n < ARENA; n++)
        if (mark[n] == OUTPUT) arena[n] = 0xa5;
    memcpy(saved, arena, ARENA);
    poison(1);
    status = run(a, workspace + (workspace_bytes - need), need);
    poison(0);
    if (status != FA_OK) fail(a, "the call refuses what the check accepts");
    for (int n = 0; n < ARENA; n++)
        if (mark[n] != OUTPUT && arena[n] != saved[n]) fail(a, "a byte that is no output was written");
    for (int n = 0; n + 1 < ARENA; n += 2) /* half an f32 or all of a bf16; no result has both halves so by chance */
        if (mark[n] == OUTPUT && mark[n + 1] == OUTPUT && arena[n] == 0xa5 && arena[n + 1] == 0xa5 &&
            (info->o_dtype != FA_F32 || (n % 4 == 0 && arena[n + 2] == 0xa5 && arena[n + 3] == 0xa5)))
            fail(a, "an output element was not written");
    computed++;
}

/* The backward pass after it, into gradients that are packed and end where their memory ends. */
static void compute_backward(const fa_info *info, fa_args *a) {
    const size_t rows_q = (size_t)(a->cu_seqlens_q ? a->cu_seqlens_q[a->batch] : a->batch * a->seqlen_q) * (size_t)a->num_heads;
    const size_t rows_k = (size_t)(a->cu_seqlens_k ? a->cu_seqlens_k[a->batch] : a->batch * a->seqlen_k) * (size_t)fai_num_heads_k(a);
    const size_t d = (size_t)info->head_dim, dv = (size_t)info->head_dim_v;
    const size_t sizes[6] = {rows_q * dv, rows_q * d, rows_k * d, rows_k * dv, (size_t)a->num_heads,
                             (size_t)a->batch * (size_t)a->num_heads * (size_t)a->seqlen_q * (size_t)a->seqlen_k};
    float *memory[6];
    size_t need;
    if (!a->lse.data || sizes[5] > 1 << 20) return;
    for (int n = 0; n < 6; n++) {
        memory[n] = (float *)malloc(sizes[n] * 4 + 1);
        for (size_t i = 0; i < sizes[n]; i++) memory[n][i] = (float)(i % 13) - 6;
    }
    a->d_o.data = memory[0], a->dq.data = memory[1], a->dk.data = memory[2], a->dv.data = memory[3];
    if (a->sink) a->dsink = memory[4];
    if (a->bias.data) a->dbias.data = memory[5];
    need = info->backward_workspace(a);
    if (need == 0) fail(a, "no workspace for an accepted problem, backward");
    unsigned char *work = (unsigned char *)malloc(need);
    memcpy(saved, arena, ARENA);
    poison(1);
    if (info->backward(a, work, need) != FA_OK) fail(a, "the backward pass refuses what the check accepts");
    poison(0);
    if (memcmp(saved, arena, ARENA)) fail(a, "the backward pass changed its inputs");
    for (int n = 0; n < 6; n++) free(memory[n]);
    free(work);
    differentiated++;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    bytes in = {data, size};
    const fa_info *info = take(&in) % 2 ? &fz8_info : &fz16_info;
    fa_error error;
    fa_args a, copy;
    fa_status status;
    char text[64];
    memset(&error, 0xee, sizeof error);
    a = make(&in, info, &error);
    copy = a;
    status = fa_check(info, &a);
    if (memcmp(&a, &copy, sizeof a)) fail(&a, "fa_check changed the arguments");
    if (status == FA_ERR_NOT_ZEROED) {
        if (error.field == NULL || memcmp(&error.got, "\xee\xee\xee\xee", 4)) fail(&a, "error was written");
        return 0;
    }
    if (error.status != status) fail(&a, "fa_error has another status");
    if (fa_error_message(&error, text, sizeof text) <= 0 || strlen(text) >= sizeof text) fail(&a, "no message");
    if (status != FA_OK) return 0;
    accepted++;
    if (!contained(info, &a)) return 0;
    memset(mark, FREE, sizeof mark);
    for (int what = OUTPUT; what >= INPUT; what--)
        for (int b = 0; b < a.batch; b++) {
            const fa_sequence s = fa_get_sequence(&a, b);
            touch_sequence(info, &a, &s, (unsigned char)what);
        }
    if (!touch_masks(&a)) return 0;
    if (info->forward) compute(info, &a, info->forward_workspace, info->forward);
    if (info->decode) {
        a.split_keys = data[0] % 3 ? 0 : 64;
        compute(info, &a, info->decode_workspace, info->decode);
    }
    if (info->backward) compute_backward(info, &a);
    return 0;
}

#if !defined(FUZZ_LIBFUZZER)
static uint64_t next(uint64_t *state) { /* splitmix64 */
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
static double now(void) {
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(int argc, char **argv) {
    const int timed = argc > 2 && !strcmp(argv[1], "--seconds"), seed_at = 2 + timed;
    const double seconds = timed ? atof(argv[2]) : 0, began = now();
    const long most = timed ? 0 : argc > 1 ? atol(argv[1]) : 50000;
    uint64_t state = argc > seed_at ? strtoull(argv[seed_at], NULL, 0) : 1, input[96];
    double shown = began;
    run_seed = state;
    for (int n = 0; n < ARENA / 4; n++) { /* values in [-1, 1), and NaN here and there */
        const float x = next(&state) % 64 ? (float)((double)(next(&state) >> 11) * 0x1p-52 - 1) : NAN;
        memcpy(arena + 4 * n, &x, 4);
    }
    for (runs = 0; timed || runs < most; runs++) {
        if (runs % 1024 == 0) {
            const double t = now();
            if (timed && t - began > seconds) break;
            if (t - shown > 5) {
                printf("# %ld runs, %ld accepted, %ld computed, %.0f runs/s\n", runs, accepted, computed, (double)runs / (t - began));
                fflush(stdout), shown = t;
            }
        }
        for (size_t n = 0; n < sizeof input / sizeof *input; n++) input[n] = next(&state);
        LLVMFuzzerTestOneInput((const uint8_t *)input, sizeof input);
    }
    printf("# %ld runs, %ld accepted, %ld computed, %ld gradients, %.0f runs/s\n", runs, accepted, computed, differentiated,
           (double)runs / (now() - began + 1e-9));
    free(workspace);
    puts("1 passed, 0 failed, 0 skipped");
    return 0;
}
#endif
