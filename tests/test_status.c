/* Every status code is produced, with the right numbers in fa_error and nothing written; what is legal is
 * accepted. */
#include "fa_test.h"

#include "flashattn_spec.h"

#include "cache_refusals.h"
#include "spec_refusals.h"

#define FA_NAME st16
#define FA_HEAD_DIM 16
#define FA_FEATURES FA_ALL_FEATURES
#include "flashattn.h"

#define FA_NAME st8 /* fp8, and no features */
#define FA_HEAD_DIM 16
#define FA_DTYPE FA_E4M3
#define FA_FEATURES 0
#include "flashattn.h"

enum { B = 2, H = 4, HK = 2, SQ = 3, SK = 5, D = 16, RECORD = 2 * (H + HK) * D };
static const double MOST = INT32_MAX;
enum { LONGEST = FA_MAX_SEQLEN };
#define NO_RANGE 1, 0 /* min, max of a failure without legal range */

/* All that the problems of this file may touch, so that one memcmp finds a stray write. */
typedef struct memory {
    float q[1024], k[1024], v[1024], o[1024], lse[256], bias[1024], slopes[64], sink[64], factor[256];
    float d_o[1024], dq[1024], dk[1024], dv[1024], dbias[1024], dsink[64];
    float records[B * SK * (RECORD + H)];
    int32_t cu_q[4], cu_k[4], used_q[4], used_k[4], table[32];
    uint32_t tree[32];
    uint8_t blocks[256];
} memory;

static memory mem, before;
static double some_hook(double s, int b, int h, int i, int j) { return s + b + h + i + j; }
static unsigned char workspace[1 << 20];
static fa_error error;
static int seen[FA_NUM_STATUS];

/* A valid problem: zero but for pointers and sizes. */
static fa_args valid(void) {
    fa_args a;
    memset(&a, 0, sizeof a);
    a.batch = B, a.num_heads = H, a.num_heads_k = HK, a.seqlen_q = SQ, a.seqlen_k = SK;
    a.q.data = mem.q, a.k.data = mem.k, a.v.data = mem.v, a.o.data = mem.o, a.lse.data = mem.lse;
    a.num_threads = 1, a.error = &error;
    return a;
}
static fa_args valid_paged(void) {
    static const int32_t table[] = {3, 1, 0, 2, 5, 4}; /* pages of 2 keys, 3 a sequence */
    fa_args a = valid();
    memcpy(mem.table, table, sizeof table);
    a.block_table = mem.table, a.page_size = 2, a.num_pages = 6;
    return a;
}
static fa_args valid_varlen(void) {
    static const int32_t cu_q[] = {0, 3, 5}, cu_k[] = {1, 6, 9};
    fa_args a = valid();
    memcpy(mem.cu_q, cu_q, sizeof cu_q), memcpy(mem.cu_k, cu_k, sizeof cu_k);
    a.cu_seqlens_q = mem.cu_q, a.cu_seqlens_k = mem.cu_k;
    return a;
}
static fa_args valid_bias(void) {
    fa_args a = valid();
    a.bias.data = mem.bias;
    return a;
}
static fa_args valid_blocks(void) {
    fa_args a = valid();
    a.block_mask.data = mem.blocks, a.block_mask.block_q = 2, a.block_mask.block_k = 2;
    return a;
}
static fa_args valid_tree(void) {
    fa_args a = valid();
    a.tree_mask.data = mem.tree;
    return a;
}
static fa_args valid_fp8(void) {
    fa_args a = valid();
    a.q_descale.data = a.k_descale.data = a.v_descale.data = mem.factor;
    for (int i = 0; i < 256; i++) mem.factor[i] = 1;
    return a;
}
/* q, k, v, o are columns of one matrix with a row per token */
static fa_args valid_records(void) {
    fa_args a = valid();
    a.seqlen_q = SK;
    a.q.data = mem.records, a.k.data = mem.records + H * D;
    a.v.data = mem.records + (H + HK) * D, a.o.data = mem.records + (H + 2 * HK) * D;
    a.q.stride_h = a.k.stride_h = a.v.stride_h = a.o.stride_h = D;
    a.q.stride_s = a.k.stride_s = a.v.stride_s = a.o.stride_s = RECORD;
    a.q.stride_b = a.k.stride_b = a.v.stride_b = a.o.stride_b = SK * RECORD;
    return a;
}

static void expect_error(const char *what, fa_status want, const char *field, double got, double min, double max,
                         int64_t index) {
    char text[400];
    fa_error_message(&error, text, sizeof text);
    FA_EXPECT_MSG(error.status == want, "%s: %s", what, text);
    FA_EXPECT_MSG(!strcmp(error.field, field), "%s: field %s, want %s", what, error.field, field);
    FA_EXPECT_MSG(error.got == got || (error.got != error.got && got != got), "%s: got %.17g, want %.17g", what,
                  error.got, got);
    FA_EXPECT_MSG(error.min == min, "%s: min %.17g, want %.17g", what, error.min, min);
    FA_EXPECT_MSG(error.max == max, "%s: max %.17g, want %.17g", what, error.max, max);
    FA_EXPECT_MSG(error.index == index, "%s: index %lld, want %lld", what, (long long)error.index, (long long)index);
}

static void expect_bad(const fa_info *info, fa_args a, const char *what, fa_status want, const char *field, double got,
                       double min, double max, int64_t index) {
    memset(mem.o, 0xa5, sizeof mem.o), memset(mem.lse, 0xa5, sizeof mem.lse);
    memcpy(&before, &mem, sizeof mem);
    const fa_status status = fa_check(info, &a);
    FA_EXPECT_MSG(status == want, "%s: %s, want: %s", what, fa_strerror(status), fa_strerror(want));
    if (status == FA_OK) return;
    seen[status] = 1;
    expect_error(what, want, field, got, min, max, index);

    /* the calls say the same and write nothing */
    FA_EXPECT_MSG(info->forward_workspace(&a) == 0, "%s", what);
    memset(&error, 0, sizeof error);
    FA_EXPECT_MSG(info->forward(&a, workspace, sizeof workspace) == want, "%s", what);
    FA_EXPECT_MSG(error.status == want, "%s", what);
    a.error = NULL;
    FA_EXPECT_MSG(info->forward(&a, workspace, sizeof workspace) == want, "%s: without error", what);
    FA_EXPECT_MSG(!memcmp(&before, &mem, sizeof mem), "%s: memory was written", what);
}

static void expect_ok(const fa_info *info, fa_args a, const char *what) {
    const fa_status status = fa_check(info, &a);
    FA_EXPECT_MSG(status == FA_OK, "%s: %s", what, fa_strerror(status));
    if (status != FA_OK) return;
    expect_error(what, FA_OK, "", 0, 0, 0, -1);
    const size_t bytes = info->forward_workspace(&a);
    FA_EXPECT_MSG(bytes > 0 && bytes <= sizeof workspace, "%s: workspace of %zu bytes", what, bytes);
    if (bytes <= sizeof workspace) FA_EXPECT_MSG(info->forward(&a, workspace, bytes) == FA_OK, "%s", what);
}

/* The problem `from` with `change` must fail with FA_ERR_`code` and these field, got, min, max, index. */
#define BAD(from, change, code, ...) \
    { \
        fa_args a = valid##from(); \
        change; \
        expect_bad(&st16_info, a, #change, FA_ERR_##code, __VA_ARGS__); \
    }
#define BAD8(from, change, code, ...) \
    { \
        fa_args a = valid##from(); \
        change; \
        expect_bad(&st8_info, a, #change, FA_ERR_##code, __VA_ARGS__); \
    }
#define OK(from, change) \
    { \
        fa_args a = valid##from(); \
        change; \
        expect_ok(&st16_info, a, #change); \
    }
#define OK8(from, change) \
    { \
        fa_args a = valid##from(); \
        change; \
        expect_ok(&st8_info, a, #change); \
    }

static void bad_sizes(void) {
    BAD(, a.batch = 0, BATCH, "batch", 0, 1, MOST, -1)
    BAD(, a.batch = INT32_MIN, BATCH, "batch", INT32_MIN, 1, MOST, -1)
    BAD(, a.num_heads = 0, NUM_HEADS, "num_heads", 0, 1, MOST, -1)
    BAD(, a.num_heads = -4, NUM_HEADS, "num_heads", -4, 1, MOST, -1)
    BAD(, a.num_heads_k = -2, NUM_HEADS_K, "num_heads_k", -2, 0, H, -1)
    BAD(, a.num_heads_k = 3, NUM_HEADS_K, "num_heads_k", 3, 0, H, -1)
    BAD(, a.num_heads_k = 8, NUM_HEADS_K, "num_heads_k", 8, 0, H, -1)
    BAD(, a.seqlen_q = 0, SEQLEN_Q, "seqlen_q", 0, 1, LONGEST, -1)
    BAD(, a.seqlen_q = -1, SEQLEN_Q, "seqlen_q", -1, 1, LONGEST, -1)
    BAD(, a.seqlen_q = LONGEST + 1, SEQLEN_Q, "seqlen_q", LONGEST + 1, 1, LONGEST, -1)
    BAD(, a.seqlen_k = -3, SEQLEN_K, "seqlen_k", -3, 0, LONGEST, -1)
    BAD(, a.seqlen_k = INT32_MAX, SEQLEN_K, "seqlen_k", MOST, 0, LONGEST, -1)
    BAD(, a.num_threads = -1, NUM_THREADS, "num_threads", -1, 0, 65536, -1)
    BAD(, a.split_keys = 63, SPLIT_KEYS, "split_keys", 63, 64, MOST, -1)
    BAD(, a.split_keys = -1, SPLIT_KEYS, "split_keys", -1, 64, MOST, -1)
    BAD(, a.num_threads = 65537, NUM_THREADS, "num_threads", 65537, 0, 65536, -1)
}

static void bad_scalars(void) {
    const double big = 3.4028234663852886e38, below_one = 1 - 0x1p-24;
    BAD(, a.softmax_scale = NAN, SCALE, "softmax_scale", NAN, -big, big, -1)
    BAD(, a.softmax_scale = -INFINITY, SCALE, "softmax_scale", -INFINITY, -big, big, -1)
    BAD(, a.softcap = -1, SOFTCAP, "softcap", -1, 0, big, -1)
    BAD(, a.softcap = NAN, SOFTCAP, "softcap", NAN, 0, big, -1)
    BAD(, a.softcap = INFINITY, SOFTCAP, "softcap", INFINITY, 0, big, -1)
    BAD(, a.causal = 2, CAUSAL, "causal", 2, 0, 1, -1)
    BAD(, a.causal = -1, CAUSAL, "causal", -1, 0, 1, -1)
    BAD(, a.deterministic = 2, DETERMINISTIC, "deterministic", 2, 0, 1, -1)
    BAD(, a.window_left = -1, WINDOW_LEFT, "window_left", -1, 0, MOST, -1)
    BAD(, a.window_right = INT32_MIN, WINDOW_RIGHT, "window_right", INT32_MIN, 0, MOST, -1)
    BAD(, a.dropout_p = 1, DROPOUT_P, "dropout_p", 1, 0, below_one, -1)
    BAD(, a.dropout_p = -0.5f, DROPOUT_P, "dropout_p", -0.5, 0, below_one, -1)
    BAD(, a.dropout_p = NAN, DROPOUT_P, "dropout_p", NAN, 0, below_one, -1)
}

static void bad_pointers(void) {
    BAD(, a.q.data = NULL, Q_NULL, "q.data", 0, NO_RANGE, -1)
    BAD(, a.k.data = NULL, K_NULL, "k.data", 0, NO_RANGE, -1)
    BAD(, a.v.data = NULL, V_NULL, "v.data", 0, NO_RANGE, -1)
    BAD(, a.o.data = NULL, O_NULL, "o.data", 0, NO_RANGE, -1)
    BAD(, a.q.data = (char *)mem.q + 1, Q_ALIGN, "q.data", 1, 0, 0, -1)
    BAD(, a.k.data = (char *)mem.k + 2, K_ALIGN, "k.data", 2, 0, 0, -1)
    BAD(, a.v.data = (char *)mem.v + 3, V_ALIGN, "v.data", 3, 0, 0, -1)
    BAD(, a.o.data = (char *)mem.o + 1, O_ALIGN, "o.data", 1, 0, 0, -1)
    BAD(, a.lse.data = (char *)mem.lse + 2, LSE_ALIGN, "lse.data", 2, 0, 0, -1)
    BAD8(, a.o.data = (char *)mem.o + 1, O_ALIGN, "o.data", 1, 0, 0, -1)
    BAD(, a.alibi_slopes = (const float *)(void *)((char *)mem.slopes + 1), ALIBI, "alibi_slopes", 1, 0, 0, -1)
    BAD(, a.alibi_slopes = mem.slopes; a.alibi_stride_b = -1, ALIBI, "alibi_stride_b", -1, 0, (double)INT64_MAX, -1)
    BAD(, a.sink = (const float *)(void *)((char *)mem.sink + 2), SINK, "sink", 2, 0, 0, -1)
}

static void bad_strides(void) {
    const double most = (double)INT64_MAX;
    BAD(, a.q.stride_b = -2, Q_STRIDE, "q.stride_b", -2, -1, most, -1)
    BAD(, a.q.stride_h = INT64_MIN, Q_STRIDE, "q.stride_h", (double)INT64_MIN, -1, most, -1)
    BAD(, a.k.stride_s = -2, K_STRIDE, "k.stride_s", -2, -1, most, -1)
    BAD(, a.v.stride_h = -3, V_STRIDE, "v.stride_h", -3, -1, most, -1)
    BAD(, a.o.stride_s = FA_BROADCAST, O_STRIDE, "o.stride_s", -1, 0, most, -1)
    BAD(, a.lse.stride_h = FA_BROADCAST, LSE_STRIDE, "lse.stride_h", -1, 0, most, -1)

    /* the end of the tensor is beyond 63 bits; the legal maximum is on the safe side */
    BAD(, a.q.stride_s = INT64_MAX, Q_STRIDE, "q.stride_s", most, 0, (double)(PTRDIFF_MAX - 64) / (SQ * 4), -1)
    BAD(, a.k.stride_b = INT64_MAX / 4 + 1, K_STRIDE, "k.stride_b", 0x1p61, 0, (double)(PTRDIFF_MAX - 64) / (B * 4), -1)
    BAD(, a.v.stride_h = INT64_MAX / 2, V_STRIDE, "v.stride_h", 0x1p62, 0, (double)(PTRDIFF_MAX - 64) / (HK * 4), -1)
    BAD(, a.o.stride_b = INT64_MAX, O_STRIDE, "o.stride_b", most, 0, (double)(PTRDIFF_MAX - 64) / (B * 4), -1)
    BAD(, a.lse.stride_s = INT64_MAX, LSE_STRIDE, "lse.stride_s", most, 0, (double)(PTRDIFF_MAX - 4) / (SQ * 4), -1)
    BAD(, a.q.stride_b = (int64_t)1 << 62, Q_STRIDE, "q.stride_b", 0x1p62, 0, (double)(PTRDIFF_MAX - 64) / (B * 4), -1)
    /* or wraps around the address space */
    BAD(, a.q.data = (void *)(UINTPTR_MAX - 63), Q_STRIDE, "q.data", B * SQ * H * D * 4, 0, 63, -1)

    /* two elements of an output in one place */
    BAD(, a.o.stride_b = 192; a.o.stride_s = 15; a.o.stride_h = 48, O_STRIDE, "o.stride_s", 15, 16, most, -1)
    BAD(, a.o.stride_b = 191; a.o.stride_s = 64; a.o.stride_h = 16, O_STRIDE, "o.stride_b", 191, 192, most, -1)
    BAD(, a.o.stride_b = 192; a.o.stride_s = 16; a.o.stride_h = 47, O_STRIDE, "o.stride_h", 47, 48, most, -1)
    BAD(, a.o.stride_b = 192; a.o.stride_s = 64, O_STRIDE, "o.stride_h", 0, 16, most, -1)
    BAD(, a.lse.stride_b = 12; a.lse.stride_h = 3, LSE_STRIDE, "lse.stride_s", 0, 1, most, -1)
    BAD(, a.lse.stride_b = 11; a.lse.stride_h = 3; a.lse.stride_s = 1, LSE_STRIDE, "lse.stride_b", 11, 12, most, -1)
    BAD(, a.lse.stride_b = 12; a.lse.stride_h = 3; a.lse.stride_s = 3, LSE_STRIDE, "lse.stride_s", 3, 10, most, -1)
}

static void bad_sizes_beyond_64_bits(void) {
    BAD(, a.batch = a.num_heads = INT32_MAX; a.seqlen_q = LONGEST; a.num_heads_k = 1, SIZE_OVERFLOW,
        "batch * num_heads * seqlen_q", MOST * MOST * LONGEST, 1, 0x1p62, -1)
    BAD(, a.num_heads = INT32_MAX; a.seqlen_k = LONGEST; a.num_heads_k = 1, SIZE_OVERFLOW,
        "seqlen * num_heads * head_dim", MOST * LONGEST * 16, 1, 0x1p62, -1)
    BAD(_paged, a.num_heads = a.num_heads_k = a.page_size = INT32_MAX, SIZE_OVERFLOW, "seqlen * num_heads * head_dim",
        MOST * MOST * 16, 1, 0x1p62, -1)
    /* each size is fine alone */
    BAD(, a.batch = INT32_MAX; a.seqlen_k = LONGEST, K_STRIDE, "k.stride_b", (double)LONGEST * (HK * D), 0,
        ((double)PTRDIFF_MAX - (double)LONGEST * (HK * D) * 4) / MOST / 4, -1)
    BAD(_bias, a.batch = INT32_MAX; a.seqlen_k = LONGEST, BIAS_STRIDE, "bias.stride_b", (double)LONGEST * (SQ * H), 0,
        ((double)PTRDIFF_MAX - (double)LONGEST * (SQ * H) * 4) / MOST / 4, -1)
    BAD(_blocks, a.batch = INT32_MAX; a.seqlen_k = LONGEST; a.seqlen_q = 1 << 20; a.block_mask.block_q = 1;
        a.block_mask.block_k = 1, BLOCK_MASK_STRIDE, "block_mask.stride_b", LONGEST * 0x1p20 * (int)H, 0,
        ((double)PTRDIFF_MAX - LONGEST * 0x1p20 * (int)H) / MOST, -1)
    BAD(_tree, a.batch = INT32_MAX; a.seqlen_k = LONGEST; a.seqlen_q = 1 << 20, TREE_MASK_STRIDE, "tree_mask.stride_b", 0x1p35, 0,
        ((double)PTRDIFF_MAX - 0x1p37) / MOST / 4, -1)
}

static void bad_overlaps(void) {
    BAD(, a.o.data = mem.q, O_OVERLAP, "q.data", NAN, NO_RANGE, -1)
    BAD(, a.o.data = mem.k + B * SK * HK * D - 1, O_OVERLAP, "k.data", NAN, NO_RANGE, -1)
    BAD(, a.v.data = mem.o + B * SQ * H * D - 1, O_OVERLAP, "v.data", NAN, NO_RANGE, -1)
    BAD(_bias, a.o.data = mem.bias + 100, O_OVERLAP, "bias.data", NAN, NO_RANGE, -1)
    BAD(, a.sink = mem.o + 7, O_OVERLAP, "sink", NAN, NO_RANGE, -1)
    BAD(, a.alibi_slopes = mem.o; a.alibi_stride_b = H, O_OVERLAP, "alibi_slopes", NAN, NO_RANGE, -1)
    BAD(_varlen, a.o.data = mem.cu_q, O_OVERLAP, "cu_seqlens_q", NAN, NO_RANGE, -1)
    BAD(_varlen, a.o.data = mem.k + 9 * HK * D - 1, O_OVERLAP, "k.data", NAN, NO_RANGE, -1) /* row 0 counts */
    BAD(_paged, a.lse.data = mem.table + 5, LSE_OVERLAP, "block_table", NAN, NO_RANGE, -1)
    BAD(_blocks, a.block_mask.data = (uint8_t *)mem.o + 5, O_OVERLAP, "block_mask.data", NAN, NO_RANGE, -1)
    BAD(_tree, a.tree_mask.data = (uint32_t *)(void *)mem.lse, LSE_OVERLAP, "tree_mask.data", NAN, NO_RANGE, -1)
    BAD8(_fp8, a.lse.data = mem.factor, LSE_OVERLAP, "q_descale.data", NAN, NO_RANGE, -1)
    BAD(, a.lse.data = mem.v, LSE_OVERLAP, "v.data", NAN, NO_RANGE, -1)
    BAD(, a.lse.data = mem.o + B * SQ * H * D - 1, LSE_OVERLAP, "o.data", NAN, NO_RANGE, -1)
    BAD(, a.o.data = mem.lse + B * SQ * H - 1, LSE_OVERLAP, "o.data", NAN, NO_RANGE, -1)
    /* columns of the same records that overlap by one element, at either end */
    BAD(_records, a.o.data = mem.records + (H + 2 * HK) * D - 1, O_OVERLAP, "v.data", NAN, NO_RANGE, -1)
    BAD(_records, a.o.data = mem.records + (H + 2 * HK) * D + 1, O_OVERLAP, "q.data", NAN, NO_RANGE, -1)
    /* q in the first record, o in the last: the ranges meet, the columns too */
    BAD(_records, a.o.data = (float *)a.o.data - RECORD + H * D, O_OVERLAP, "q.data", NAN, NO_RANGE, -1)
    /* records of another size: some rows meet */
    BAD(_records, a.v.stride_s = RECORD - 16, O_OVERLAP, "v.data", NAN, NO_RANGE, -1)
}

static void bad_lengths(void) {
    BAD(_varlen, mem.cu_q[0] = -1, CU_SEQLENS_Q, "cu_seqlens_q", -1, 0, MOST, 0)
    BAD(_varlen, mem.cu_q[1] = 4, CU_SEQLENS_Q, "cu_seqlens_q", 4, 0, SQ, 1)
    BAD(_varlen, mem.cu_q[2] = 2, CU_SEQLENS_Q, "cu_seqlens_q", 2, 3, 3 + SQ, 2)
    BAD(_varlen, mem.cu_q[2] = INT32_MIN, CU_SEQLENS_Q, "cu_seqlens_q", INT32_MIN, 3, 3 + SQ, 2)
    BAD(_varlen, mem.cu_k[0] = INT32_MIN, CU_SEQLENS_K, "cu_seqlens_k", INT32_MIN, 0, MOST, 0)
    BAD(_varlen, mem.cu_k[2] = 12, CU_SEQLENS_K, "cu_seqlens_k", 12, 6, 6 + SK, 2)
    BAD(_varlen, a.cu_seqlens_q = (int32_t *)(void *)((char *)mem.cu_q + 1), CU_SEQLENS_Q, "cu_seqlens_q", 1, 0, 0, -1)
    BAD(_varlen, a.cu_seqlens_k = (int32_t *)(void *)((char *)mem.cu_k + 2), CU_SEQLENS_K, "cu_seqlens_k", 2, 0, 0, -1)
    BAD(_varlen, a.seqused_q = mem.used_q; mem.used_q[0] = 3; mem.used_q[1] = 3, SEQUSED_Q, "seqused_q", 3, 0, 2, 1)
    BAD(, a.seqused_q = mem.used_q; mem.used_q[0] = -1, SEQUSED_Q, "seqused_q", -1, 0, SQ, 0)
    BAD(, a.seqused_k = mem.used_k; mem.used_k[0] = 5; mem.used_k[1] = 6, SEQUSED_K, "seqused_k", 6, 0, SK, 1)
    BAD(, a.seqused_q = (int32_t *)(void *)((char *)mem.used_q + 3), SEQUSED_Q, "seqused_q", 3, 0, 0, -1)
    BAD(, a.seqused_k = (int32_t *)(void *)((char *)mem.used_k + 1), SEQUSED_K, "seqused_k", 1, 0, 0, -1)
}

static void bad_pages(void) {
    const double most = (double)INT64_MAX;
    BAD(, a.page_size = 16, PAGE_SIZE, "page_size", 16, 0, 0, -1)
    BAD(_paged, a.page_size = 0, PAGE_SIZE, "page_size", 0, 1, MOST, -1)
    BAD(_paged, a.page_size = -2, PAGE_SIZE, "page_size", -2, 1, MOST, -1)
    BAD(_paged, a.num_pages = 0, NUM_PAGES, "num_pages", 0, 1, MOST, -1)
    BAD(_paged, a.cu_seqlens_k = mem.cu_k; memset(mem.cu_k, 0, sizeof mem.cu_k), PAGED_CU_SEQLENS, "cu_seqlens_k", NAN,
        NO_RANGE, -1)
    BAD(_paged, mem.table[4] = 6, BLOCK_TABLE, "block_table", 6, 0, 5, 4)
    BAD(_paged, mem.table[0] = -1, BLOCK_TABLE, "block_table", -1, 0, 5, 0)
    BAD(_paged, a.block_table_stride = 4; mem.table[6] = 9, BLOCK_TABLE, "block_table", 9, 0, 5, 6)
    BAD(_paged, a.block_table = (int32_t *)(void *)((char *)mem.table + 2), BLOCK_TABLE, "block_table", 2, 0, 0, -1)
    BAD(_paged, a.block_table_stride = 2, BLOCK_TABLE_STRIDE, "block_table_stride", 2, 3, most, -1)
    BAD(_paged, a.block_table_stride = -1, BLOCK_TABLE_STRIDE, "block_table_stride", -1, 3, most, -1)
    BAD(_paged, a.block_table_stride = INT64_MAX, BLOCK_TABLE_STRIDE, "block_table_stride", most, 0,
        (double)(PTRDIFF_MAX - 12) / (B * 4), -1)
}

static void bad_terms(void) {
    const double most = (double)INT64_MAX;
    BAD(, a.alibi_slopes = mem.slopes; a.alibi_stride_b = INT64_MAX, ALIBI, "alibi_stride_b", most, 0,
        (double)(PTRDIFF_MAX - 16) / (B * 4), -1)
    BAD(_bias, a.bias.dtype = FA_E4M3, BIAS_DTYPE, "bias.dtype", FA_E4M3, 0, FA_BF16, -1)
    BAD(_bias, a.bias.dtype = -1, BIAS_DTYPE, "bias.dtype", -1, 0, FA_BF16, -1)
    BAD(_bias, a.bias.data = (char *)mem.bias + 2, BIAS_ALIGN, "bias.data", 2, 0, 0, -1)
    BAD(_bias, a.bias.data = (char *)mem.bias + 1; a.bias.dtype = FA_F16, BIAS_ALIGN, "bias.data", 1, 0, 0, -1)
    BAD(_bias, a.bias.stride_q = -2, BIAS_STRIDE, "bias.stride_q", -2, -1, most, -1)
    BAD(_blocks, a.block_mask.block_q = 0, BLOCK_MASK_SIZE, "block_mask.block_q", 0, 1, MOST, -1)
    BAD(_blocks, a.block_mask.block_k = -64, BLOCK_MASK_SIZE, "block_mask.block_k", -64, 1, MOST, -1)
    BAD(_blocks, a.block_mask.stride_h = -2, BLOCK_MASK_STRIDE, "block_mask.stride_h", -2, -1, most, -1)
    BAD(_tree, a.tree_mask.data = (uint32_t *)(void *)((char *)mem.tree + 1), TREE_MASK_ALIGN, "tree_mask.data", 1, 0, 0,
        -1)
    BAD(_tree, a.tree_mask.stride_b = -5, TREE_MASK_STRIDE, "tree_mask.stride_b", -5, -1, most, -1)
    BAD(_tree, a.seqlen_k = 2, TREE_MASK_LENGTH, "seqlen_k", 2, 3, 2, 0)
    BAD(_tree, a.seqused_k = mem.used_k; mem.used_k[0] = 3; mem.used_k[1] = 2, TREE_MASK_LENGTH, "seqused_k", 2, 3, 5, 1)
}

static void bad_descales(void) {
    const double most = (double)INT64_MAX, big = 3.4028234663852886e38;
    BAD(_fp8, a.k_descale.data = a.v_descale.data = NULL, DESCALE_Q, "q_descale.data", FA_F32, FA_E4M3, FA_I8, -1)
    BAD(_fp8, a.q_descale.data = NULL, DESCALE_K, "k_descale.data", FA_F32, FA_E4M3, FA_I8, -1)
    BAD(, a.v_descale.data = mem.factor, DESCALE_V, "v_descale.data", FA_F32, FA_E4M3, FA_I8, -1)
    BAD8(_fp8, a.q_descale.data = (float *)(void *)((char *)mem.factor + 2), DESCALE_Q, "q_descale.data", 2, 0, 0, -1)
    BAD8(_fp8, a.k_descale.block = -1, DESCALE_K, "k_descale.block", -1, 0, MOST, -1)
    BAD8(_fp8, a.v_descale.stride_h = -1, DESCALE_V, "v_descale.stride_h", -1, 0, most, -1)
    BAD8(_fp8, a.v_descale.stride_b = INT64_MAX, DESCALE_V, "v_descale.stride_b", most, 0,
         (double)(PTRDIFF_MAX - 4) / (B * 4), -1)
    BAD8(_fp8, a.k_descale.block = 4; a.k_descale.stride_block = INT64_MAX, DESCALE_K, "k_descale.stride_block", most, 0,
         (double)(PTRDIFF_MAX - 4) / (2 * 4), -1)
    BAD8(_fp8, a.q_descale.stride_b = 4; a.q_descale.stride_h = 1; mem.factor[7] = NAN, DESCALE_Q, "q_descale.data", NAN,
         0, big, 7)
    BAD8(_fp8, a.k_descale.stride_h = 3; a.k_descale.stride_block = 1; a.k_descale.block = 2; mem.factor[5] = -1,
         DESCALE_K, "k_descale.data", -1, 0, big, 5)
    BAD8(_fp8, a.v_transposed = 1, V_TRANSPOSED, "v_transposed", 1, 0, 0, -1) /* on the CPU */
    BAD8(_fp8, a.v_descale.stride_b = 2; mem.factor[2] = INFINITY, DESCALE_V, "v_descale.data", INFINITY, 0, big, 2)
}

/* st8 was compiled without any feature */
static void bad_features(void) {
    BAD8(, a.causal = 1, NEEDS_CAUSAL, "causal", NAN, 1, 0, -1)
    BAD8(, a.window_left = 1, NEEDS_WINDOW, "window_left or window_right", NAN, 1, 0, -1)
    BAD8(, a.window_right = 1, NEEDS_WINDOW, "window_left or window_right", NAN, 1, 0, -1)
    BAD8(_varlen, (void)0, NEEDS_VARLEN, "cu_seqlens_q, cu_seqlens_k, seqused_q or seqused_k", NAN, 1, 0, -1)
    BAD8(, a.seqused_k = mem.used_k, NEEDS_VARLEN, "cu_seqlens_q, cu_seqlens_k, seqused_q or seqused_k", NAN, 1, 0, -1)
    BAD8(_paged, (void)0, NEEDS_PAGED, "block_table", NAN, 1, 0, -1)
    BAD8(, a.softcap = 30, NEEDS_SOFTCAP, "softcap", NAN, 1, 0, -1)
    BAD8(, a.alibi_slopes = mem.slopes, NEEDS_ALIBI, "alibi_slopes", NAN, 1, 0, -1)
    BAD8(_bias, (void)0, NEEDS_BIAS, "bias.data", NAN, 1, 0, -1)
    BAD8(, a.dropout_p = 0.1f, NEEDS_DROPOUT, "dropout_p", NAN, 1, 0, -1)
    BAD8(, a.sink = mem.sink, NEEDS_SINK, "sink", NAN, 1, 0, -1)
    BAD8(_blocks, (void)0, NEEDS_BLOCK_MASK, "block_mask.data", NAN, 1, 0, -1)
    BAD8(_tree, (void)0, NEEDS_TREE_MASK, "tree_mask.data", NAN, 1, 0, -1)
    BAD8(_tree, a.causal = 1, NEEDS_CAUSAL, "causal", NAN, 1, 0, -1)
}

/* Codes that say nothing through args->error, and those of the launcher. */
static void bad_calls(void) {
    fa_args a = valid();
    const size_t bytes = st16_forward_workspace(&a);
    seen[fa_check(&st16_info, NULL)] = 1;
    FA_EXPECT(fa_check(&st16_info, NULL) == FA_ERR_ARGS_NULL && st16_forward_workspace(NULL) == 0);
    FA_EXPECT(st16_check(NULL) == FA_ERR_ARGS_NULL && st16_forward(NULL, workspace, bytes) == FA_ERR_ARGS_NULL);

    memset(mem.o, 0xa5, sizeof mem.o), memset(mem.lse, 0xa5, sizeof mem.lse);
    memcpy(&before, &mem, sizeof mem);
    a.error = (fa_error *)(void *)mem.o; /* with wrong canaries not even error may be trusted */
    for (int last = 0; last < 2; last++) {
        a.first_canary = !last, a.last_canary = last ? 0x80000000u : 0;
        seen[fa_check(&st16_info, &a)] = 1;
        FA_EXPECT(st16_check(&a) == FA_ERR_NOT_ZEROED && st16_forward_workspace(&a) == 0);
        FA_EXPECT(st16_forward(&a, workspace, bytes) == FA_ERR_NOT_ZEROED);
    }
    memset(&a, 0xcc, sizeof a);
    FA_EXPECT(st16_forward(&a, workspace, bytes) == FA_ERR_NOT_ZEROED);

    a = valid();
    FA_EXPECT(bytes > 1);
    seen[st16_forward(&a, NULL, bytes)] = 1;
    FA_EXPECT(error.status == FA_ERR_WORKSPACE_NULL && !strcmp(error.field, "workspace"));
    seen[st16_forward(&a, workspace, bytes - 1)] = 1;
    FA_EXPECT(error.status == FA_ERR_WORKSPACE_SIZE && !strcmp(error.field, "workspace"));
    FA_EXPECT(error.got == (double)(bytes - 1) && error.min == (double)bytes);
    a.num_threads = 2; /* twice the workspace */
    FA_EXPECT(st16_forward(&a, workspace, bytes) == FA_ERR_WORKSPACE_SIZE && error.min == 2 * (double)bytes);
    FA_EXPECT(!memcmp(&before, &mem, sizeof mem));

    FA_EXPECT(fa_check(NULL, &a) == FA_ERR_NO_INSTANCE && !strcmp(error.field, "info"));
}

/* A valid problem of the backward pass. */
static fa_args valid_backward(void) {
    fa_args a = valid();
    a.bias.data = mem.bias, a.sink = mem.sink, a.d_o.data = mem.d_o;
    a.dq.data = mem.dq, a.dk.data = mem.dk, a.dv.data = mem.dv, a.dbias.data = mem.dbias, a.dsink = mem.dsink;
    return a;
}
static void expect_bad_backward(const fa_info *info, fa_args a, const char *what, fa_status want, const char *field,
                                double got, double min, double max) {
    memcpy(&before, &mem, sizeof mem);
    const fa_status status = fa_check_pass(info, &a, FA_BACKWARD);
    FA_EXPECT_MSG(status == want, "%s: %s, want: %s", what, fa_strerror(status), fa_strerror(want));
    if (status == FA_OK) return;
    seen[status] = 1;
    expect_error(what, want, field, got, min, max, -1);
    if (!info->backward) return;
    FA_EXPECT_MSG(info->backward_workspace(&a) == 0, "%s", what);
    FA_EXPECT_MSG(info->backward(&a, workspace, sizeof workspace) == want, "%s", what);
    FA_EXPECT_MSG(!memcmp(&before, &mem, sizeof mem), "%s: memory was written", what);
}
#define BAD_BACKWARD(change, code, field, ...) \
    { \
        fa_args a = valid_backward(); \
        change; \
        expect_bad_backward(&st16_info, a, #change, FA_ERR_##code, field, __VA_ARGS__); \
    }

static void bad_gradients(void) {
    const double most = (double)INT64_MAX;
    fa_info hook = st16_info;
    fa_args ok = valid_backward();
    FA_EXPECT(fa_check_pass(&st16_info, &ok, FA_BACKWARD) == FA_OK);
    ok.dbias.stride_b = ok.dbias.stride_q = FA_BROADCAST, ok.dbias.stride_h = SK; /* sums over batch and queries */
    FA_EXPECT(fa_check_pass(&st16_info, &ok, FA_BACKWARD) == FA_OK);
    ok = valid_backward(), ok.o.data = mem.d_o; /* inputs may share */
    FA_EXPECT(fa_check_pass(&st16_info, &ok, FA_BACKWARD) == FA_OK);
    ok = valid_backward(), ok.dq.data = ok.dk.data = ok.dv.data = NULL, ok.dsink = NULL, ok.dbias.data = NULL;
    FA_EXPECT(fa_check_pass(&st16_info, &ok, FA_BACKWARD) == FA_OK);

    expect_bad_backward(&st8_info, valid_backward(), "no such pass", FA_ERR_NO_PASS, "passes", (double)NAN, NO_RANGE);
    hook.score_mod = some_hook, hook.backward = NULL;
    expect_bad_backward(&hook, valid_backward(), "no derivative", FA_ERR_NO_SCORE_MOD_GRAD, "score_mod_grad", (double)NAN, NO_RANGE);
    BAD_BACKWARD(a.lse.data = NULL, LSE_NULL, "lse.data", 0, NO_RANGE)
    BAD_BACKWARD(a.d_o.data = NULL, DO_NULL, "d_o.data", 0, NO_RANGE)
    BAD_BACKWARD(a.d_o.data = (char *)mem.d_o + 2, DO_ALIGN, "d_o.data", 2, 0, 0)
    BAD_BACKWARD(a.d_o.stride_s = -3, DO_STRIDE, "d_o.stride_s", -3, -1, most)
    BAD_BACKWARD(a.dq.data = (char *)mem.dq + 1, DQ_ALIGN, "dq.data", 1, 0, 0)
    BAD_BACKWARD(a.dk.data = (char *)mem.dk + 2, DK_ALIGN, "dk.data", 2, 0, 0)
    BAD_BACKWARD(a.dv.data = (char *)mem.dv + 3, DV_ALIGN, "dv.data", 3, 0, 0)
    BAD_BACKWARD(a.dq.stride_h = FA_BROADCAST, DQ_STRIDE, "dq.stride_h", -1, 0, most)
    BAD_BACKWARD(a.dk.stride_h = -7, DK_STRIDE, "dk.stride_h", -7, 0, most)
    BAD_BACKWARD(a.dv.stride_b = -2, DV_STRIDE, "dv.stride_b", -2, 0, most)
    BAD_BACKWARD(a.dq.data = mem.q, DQ_OVERLAP, "q.data", (double)NAN, NO_RANGE)
    BAD_BACKWARD(a.dq.data = mem.o, DQ_OVERLAP, "o.data", (double)NAN, NO_RANGE)
    BAD_BACKWARD(a.lse.data = mem.dq, DQ_OVERLAP, "lse.data", (double)NAN, NO_RANGE)
    BAD_BACKWARD(a.dk.data = mem.dq, DK_OVERLAP, "dq.data", (double)NAN, NO_RANGE)
    BAD_BACKWARD(a.dk.data = mem.k, DK_OVERLAP, "k.data", (double)NAN, NO_RANGE)
    BAD_BACKWARD(a.dv.data = mem.d_o, DV_OVERLAP, "d_o.data", (double)NAN, NO_RANGE)
    BAD_BACKWARD(a.dv.data = mem.dk + 5, DV_OVERLAP, "dk.data", (double)NAN, NO_RANGE)
    BAD_BACKWARD(a.bias.data = NULL, DBIAS_BIAS, "dbias.data", (double)NAN, NO_RANGE)
    BAD_BACKWARD(a.dbias.data = (float *)(void *)((char *)mem.dbias + 1), DBIAS_ALIGN, "dbias.data", 1, 0, 0)
    BAD_BACKWARD(a.dbias.stride_q = -2, DBIAS_STRIDE, "dbias.stride_q", -2, -1, most)
    BAD_BACKWARD(a.dbias.stride_q = 1, DBIAS_STRIDE, "dbias.stride_q", 1, SK, most)
    BAD_BACKWARD(a.dbias.data = mem.bias, DBIAS_OVERLAP, "bias.data", (double)NAN, NO_RANGE)
    BAD_BACKWARD(a.dbias.data = mem.dv, DBIAS_OVERLAP, "dv.data", (double)NAN, NO_RANGE)
    BAD_BACKWARD(a.sink = NULL, DSINK_SINK, "dsink", (double)NAN, NO_RANGE)
    BAD_BACKWARD(a.dsink = (float *)(void *)((char *)mem.dsink + 2), DSINK_ALIGN, "dsink", 2, 0, 0)
    BAD_BACKWARD(a.dsink = mem.sink, DSINK_OVERLAP, "sink", (double)NAN, NO_RANGE)
    BAD_BACKWARD(a.dsink = mem.dbias, DSINK_OVERLAP, "dbias.data", (double)NAN, NO_RANGE)
}

/* Two parts of 2 x 4 x 3 rows of 16 in f32, in mem.q and mem.k. */
static fa_part parts[2];
static fa_combine_args valid_combine(void) {
    fa_combine_args a;
    memset(&a, 0, sizeof a), memset(parts, 0, sizeof parts);
    a.batch = B, a.num_heads = H, a.seqlen_q = SQ, a.head_dim_v = D, a.num_parts = 2, a.parts = parts, a.error = &error;
    a.o.data = mem.o, a.lse.data = mem.lse;
    parts[0].o.data = mem.q, parts[1].o.data = mem.k, parts[0].lse.data = mem.sink - 64, parts[1].lse.data = mem.slopes;
    return a;
}
static void expect_combine(fa_combine_args a, const char *what, fa_status want, const char *field, int64_t index) {
    memcpy(&before, &mem, sizeof mem);
    const fa_status status = fa_combine_check(&a);
    FA_EXPECT_MSG(status == want, "%s: %s, want: %s", what, fa_strerror(status), fa_strerror(want));
    seen[status] = 1;
    FA_EXPECT_MSG(error.status == want && !strcmp(error.field, field) && error.index == index, "%s: %s[%d]", what, error.field,
                  (int)error.index);
    FA_EXPECT(fa_combine(&a) == want && (want == FA_OK || !memcmp(&before, &mem, sizeof mem)));
}
#define COMBINE(change, want, field, index) \
    { \
        fa_combine_args a = valid_combine(); \
        change; \
        expect_combine(a, #change, want, field, index); \
    }
static void bad_combines(void) {
    fa_combine_args wrong = valid_combine();
    wrong.last_canary = 1;
    FA_EXPECT(fa_combine(NULL) == FA_ERR_ARGS_NULL && fa_combine(&wrong) == FA_ERR_NOT_ZEROED);
    COMBINE((void)0, FA_OK, "", -1)
    COMBINE(a.batch = 0, FA_ERR_BATCH, "batch", -1)
    COMBINE(a.num_heads = -1, FA_ERR_NUM_HEADS, "num_heads", -1)
    COMBINE(a.seqlen_q = 0, FA_ERR_SEQLEN_Q, "seqlen_q", -1)
    COMBINE(a.head_dim_v = 0, FA_ERR_COMBINE_DIM, "head_dim_v", -1)
    COMBINE(a.head_dim_v = 65537, FA_ERR_COMBINE_DIM, "head_dim_v", -1)
    COMBINE(a.batch = a.num_heads = INT32_MAX; a.seqlen_q = LONGEST, FA_ERR_SIZE_OVERFLOW, "batch * num_heads * seqlen_q", -1)
    COMBINE(a.o_dtype = FA_E4M3, FA_ERR_COMBINE_DTYPE, "o_dtype", -1)
    COMBINE(a.o_dtype = -1, FA_ERR_COMBINE_DTYPE, "o_dtype", -1)
    COMBINE(a.num_parts = 0, FA_ERR_NUM_PARTS, "num_parts", -1)
    COMBINE(a.parts = NULL, FA_ERR_NUM_PARTS, "parts", -1)
    COMBINE(a.o.data = NULL, FA_ERR_O_NULL, "o.data", -1)
    COMBINE(a.o.data = (char *)mem.o + 1, FA_ERR_O_ALIGN, "o.data", -1)
    COMBINE(a.o.stride_h = 1, FA_ERR_O_STRIDE, "o.stride_h", -1)
    COMBINE(a.lse.data = (char *)mem.lse + 2, FA_ERR_LSE_ALIGN, "lse.data", -1)
    COMBINE(a.lse.stride_s = -1, FA_ERR_LSE_STRIDE, "lse.stride_s", -1)
    COMBINE(a.lse.data = mem.o, FA_ERR_LSE_OVERLAP, "o.data", -1)
    COMBINE(parts[1].o.data = NULL, FA_ERR_PART_NULL, "o.data", 1)
    COMBINE(parts[0].lse.data = NULL, FA_ERR_PART_NULL, "lse.data", 0)
    COMBINE(parts[1].dtype = FA_I8, FA_ERR_PART_DTYPE, "dtype", 1)
    COMBINE(parts[1].o.data = (char *)mem.k + 2, FA_ERR_PART_ALIGN, "o.data", 1)
    COMBINE(parts[0].lse.data = (char *)mem.sink + 1, FA_ERR_PART_ALIGN, "lse.data", 0)
    COMBINE(parts[1].o.stride_s = -2, FA_ERR_PART_STRIDE, "o.stride_s", 1)
    COMBINE(parts[1].lse.stride_h = INT64_MAX, FA_ERR_PART_STRIDE, "lse.stride_h", 1)
    COMBINE(parts[1].o.data = mem.o + 1, FA_ERR_O_OVERLAP, "o.data", 1)
    COMBINE(parts[1].o.data = mem.o; parts[1].dtype = FA_F16, FA_ERR_O_OVERLAP, "o.data", 1)
    COMBINE(parts[0].lse.data = mem.lse + 1, FA_ERR_LSE_OVERLAP, "lse.data", 0)
    COMBINE(parts[1].o.data = mem.lse, FA_ERR_LSE_OVERLAP, "o.data", 1)
    COMBINE(parts[1].o.data = mem.o; parts[1].lse.data = mem.lse, FA_OK, "", -1) /* in place */
}

/* fa_select over a list without 96, 64/128 f32, or anything with ALiBi. */
static void bad_selections(void) {
    fa_info d64, d64_paged, d64_bf16, d128_64;
    const fa_info *list[] = {&d64, &d64_paged, &d64_bf16, &d128_64}, *chosen = &d64;
    fa_args a = valid();
    memset(&d64, 0, sizeof d64);
    d64.head_dim = d64.head_dim_v = 64, d64.dtype = d64.kv_dtype = d64.o_dtype = FA_F32, d64.features = FA_CAUSAL, d64.passes = FA_FORWARD;
    d64_paged = d64_bf16 = d128_64 = d64;
    d64_paged.features = FA_DEFAULT_FEATURES, d64_bf16.dtype = FA_BF16, d128_64.head_dim = 128;

    FA_EXPECT(fa_select(list, 4, 64, 64, FA_F32, &a, &chosen) == FA_OK && chosen == &d64 && error.status == FA_OK);
    FA_EXPECT(fa_select(list, 4, 64, 64, FA_BF16, &a, &chosen) == FA_OK && chosen == &d64_bf16);
    FA_EXPECT(fa_select(list, 4, 128, 64, FA_F32, &a, &chosen) == FA_OK && chosen == &d128_64);
    a.block_table = mem.table, a.causal = 1;
    FA_EXPECT(fa_select(list, 4, 64, 64, FA_F32, &a, &chosen) == FA_OK && chosen == &d64_paged);

    seen[fa_select(list, 4, 96, 64, FA_F32, &a, &chosen)] = 1;
    expect_error("head_dim", FA_ERR_NO_INSTANCE, "head_dim", 96, NO_RANGE, -1);
    FA_EXPECT(chosen == NULL);
    FA_EXPECT(fa_select(list, 4, 64, 128, FA_F32, &a, &chosen) == FA_ERR_NO_INSTANCE && !chosen);
    expect_error("head_dim_v", FA_ERR_NO_INSTANCE, "head_dim_v", 128, NO_RANGE, -1);
    FA_EXPECT(fa_select(list, 4, 128, 64, FA_E5M2, &a, &chosen) == FA_ERR_NO_INSTANCE && !chosen);
    expect_error("dtype", FA_ERR_NO_INSTANCE, "dtype", FA_E5M2, NO_RANGE, -1);
    FA_EXPECT(fa_select(NULL, 0, 64, 64, FA_F32, &a, &chosen) == FA_ERR_NO_INSTANCE && !chosen);

    FA_EXPECT(fa_select(list, 4, 128, 64, FA_F32, &a, &chosen) == FA_ERR_NEEDS_PAGED && !chosen);
    expect_error("block_table", FA_ERR_NEEDS_PAGED, "block_table", NAN, 1, 0, -1);
    a.alibi_slopes = mem.slopes;
    FA_EXPECT(fa_select(list, 4, 64, 64, FA_F32, &a, &chosen) == FA_ERR_NEEDS_PAGED && !chosen); /* of the first */
    a.block_table = NULL;
    FA_EXPECT(fa_select(list, 4, 64, 64, FA_F32, &a, &chosen) == FA_ERR_NEEDS_ALIBI && !chosen);

    FA_EXPECT(fa_select(list, 4, 64, 64, FA_F32, NULL, &chosen) == FA_ERR_ARGS_NULL && !chosen);
    a.last_canary = 1;
    FA_EXPECT(fa_select(list, 4, 64, 64, FA_F32, &a, &chosen) == FA_ERR_NOT_ZEROED && !chosen);
}

FA_TEST(gradients) { bad_gradients(); }
FA_TEST(sizes) { bad_sizes(); }
FA_TEST(scalars) { bad_scalars(); }
FA_TEST(pointers) { bad_pointers(); }
FA_TEST(strides) { bad_strides(); }
FA_TEST(sizes_beyond_64_bits) { bad_sizes_beyond_64_bits(); }
FA_TEST(overlaps) { bad_overlaps(); }
FA_TEST(lengths) { bad_lengths(); }
FA_TEST(pages) { bad_pages(); }
FA_TEST(terms) { bad_terms(); }
FA_TEST(descales) { bad_descales(); }
FA_TEST(features) { bad_features(); }
FA_TEST(calls) { bad_calls(); }
FA_TEST(select) { bad_selections(); }
FA_TEST(combine) { bad_combines(); }

FA_TEST(every_code_is_produced) {
    memset(seen, 0, sizeof seen);
    bad_sizes(), bad_scalars(), bad_pointers(), bad_strides(), bad_sizes_beyond_64_bits(), bad_overlaps();
    bad_lengths(), bad_pages(), bad_terms(), bad_descales(), bad_features(), bad_calls(), bad_selections(), bad_combines();
    cache_refusals(seen), spec_refusals(seen), bad_gradients();
    seen[FA_ERR_CUDA] = seen[FA_ERR_CUDA_GRID] = seen[FA_ERR_CUDA_SHARED] = seen[FA_ERR_CUDA_POINTER] = 1; /* by tests/cuda */
    seen[FA_ERR_CUDA_ARCH] = 1; /* and by them */
    for (int i = FA_ERR_TREE_MERGE; i <= FA_ERR_PLAN; i++) seen[i] = 1; /* by tests/test_spec_trees, _medusa and _planning */
#define PRODUCED(name, sentence) FA_EXPECT_MSG(seen[FA_ERR_##name], "FA_ERR_" #name);
#define NEEDED(name, bit, field) FA_EXPECT_MSG(seen[FA_ERR_NEEDS_##name], "FA_ERR_NEEDS_" #name);
    FA_STATUS_LIST(PRODUCED)
    FA_FEATURE_LIST(NEEDED)
}

FA_TEST(sentences) {
    static const char *const names[] = {
        "args", "batch", "num_heads", "seqlen", "q.data", "k.data", "v.data", "o.data", "lse.data", "of q", "of k",
        "of v", "of o", "of lse", "o overlaps", "lse overlaps", "softmax_scale", "softcap", "causal", "window_left",
        "window_right", "cu_seqlens_q", "cu_seqlens_k", "seqused_q", "seqused_k", "page_size", "num_pages", "block_table",
        "alibi_slopes", "bias", "dropout_p", "sink", "block_mask", "tree_mask", "q_descale", "k_descale", "v_descale",
        "num_threads", "workspace", "head_dim", "FA_PASSES", "FA_SCORE_MOD_GRAD", "d_o", "dq", "dk", "dv ", "of dv", "dv.data",
        "dbias", "dsink", "split_keys", "num_parts", "of a part", "o_dtype", "cudaError_t", "cudaMalloc",
        "FA_BLOCK_N", "deterministic", "compute capability", "vocab", "rule", "rows", "target", "draft", "temperature", "coins", "typical_epsilon", "num_rows", "tokens",
        "chains", "trees", "token", "candidate", "output array", "tree.capacity", "width", "fa_dynamic", "min_match", "fa_pool",
        "acceptance", "projection", "weights", "fa_cost", "max_gamma"};
    for (int i = 1; i < FA_NUM_STATUS; i++) {
        const char *sentence = fa_strerror((fa_status)i);
        int named = 0;
        if (!strcmp(sentence, "not a status of flashattn")) continue;
        for (size_t n = 0; n < sizeof names / sizeof *names; n++) named |= strstr(sentence, names[n]) != NULL;
        FA_EXPECT_MSG(named && strlen(sentence) > 10, "%d: %s", i, sentence);
        for (int j = i + 1; j < FA_NUM_STATUS; j++)
            FA_EXPECT_MSG(strcmp(sentence, fa_strerror((fa_status)j)) != 0, "%d and %d: %s", i, j, sentence);
    }
#define SAYS_DEFINE(name, bit, field) \
    FA_EXPECT(strstr(fa_strerror(FA_ERR_NEEDS_##name), "add FA_" #name " to FA_FEATURES") != NULL); \
    FA_STATIC_ASSERT(FA_##name == bit, "FA_" #name " is not its bit in FA_FEATURE_LIST");
    FA_FEATURE_LIST(SAYS_DEFINE)
    FA_EXPECT(!strcmp(fa_strerror(FA_OK), "ok"));
    FA_EXPECT(!strcmp(fa_strerror((fa_status)FA_NUM_STATUS), "not a status of flashattn"));
    FA_STATIC_ASSERT(FA_ERR_NEEDS_CAUSAL == 1 && FA_ERR_ARGS_NULL == 64, "numbers are for ever");
}

FA_TEST(legal_layouts) {
    OK(, (void)0)
    OK(, a.lse.data = NULL; a.error = &error)
    OK(, a.num_heads_k = 0; a.k.data = mem.records; a.v.data = mem.records)
    OK(, a.k.data = a.v.data = mem.q) /* inputs may share */
    OK(, a.q.stride_b = FA_BROADCAST; a.q.stride_s = H * D; a.q.stride_h = D)
    OK(, a.k.stride_b = a.k.stride_s = a.k.stride_h = FA_BROADCAST)
    OK(, a.v.stride_s = D) /* one head for all, one sequence for all: zero is literal next to others */
    OK(_bias, a.bias.stride_b = a.bias.stride_h = FA_BROADCAST; a.bias.stride_q = SK)
    OK(_bias, a.bias.dtype = FA_BF16; a.bias.stride_q = FA_BROADCAST)
    /* (batch, head, seq, dim) */
    OK(, a.q.stride_b = a.o.stride_b = H * SQ * D; a.q.stride_h = a.o.stride_h = SQ * D; a.q.stride_s = a.o.stride_s = D)
    /* (seq, batch, head, dim), and lse (batch, seq, head) */
    OK(, a.o.stride_s = B * H * D; a.o.stride_b = H * D; a.o.stride_h = D; a.lse.stride_b = SQ * H;
       a.lse.stride_s = H; a.lse.stride_h = 1)
    /* strides of dimensions of size 1 mean nothing */
    OK(, a.batch = 1; a.o.stride_b = 1; a.o.stride_s = H * D; a.o.stride_h = D; a.q.stride_b = INT64_MAX)
    OK(_records, (void)0)
    OK(_records, a.batch = 1; a.q.stride_b = a.k.stride_b = a.v.stride_b = a.o.stride_b = 0)
    OK(_records, a.batch = B * SK; a.seqlen_q = a.seqlen_k = 1;
       a.q.stride_b = a.k.stride_b = a.v.stride_b = a.o.stride_b = RECORD)
    /* q, k, v, o, lse side by side: lse is H more columns */
    OK(_records, a.q.stride_s += H; a.k.stride_s += H; a.v.stride_s += H; a.o.stride_s += H;
       a.q.stride_b = a.k.stride_b = a.v.stride_b = a.o.stride_b = a.lse.stride_b = SK * (RECORD + H);
       a.lse.data = mem.records + RECORD; a.lse.stride_s = RECORD + H; a.lse.stride_h = 1)
    /* (batch, {q, k, v, o}, head, seq, dim) */
    OK(_records, a.q.stride_s = a.k.stride_s = a.v.stride_s = a.o.stride_s = D;
       a.q.stride_h = a.k.stride_h = a.v.stride_h = a.o.stride_h = SK * D; a.k.data = mem.records + SK * H * D;
       a.v.data = mem.records + SK * (H + HK) * D; a.o.data = mem.records + SK * (H + 2 * HK) * D)
    /* outputs right behind and right before an input */
    OK(, a.o.data = mem.q + B * SQ * H * D)
    OK(, a.q.data = mem.o + B * SQ * H * D)
}

FA_TEST(legal_lengths) {
    OK(, a.seqlen_k = 0; a.k.data = a.v.data = NULL)
    OK(, a.seqlen_k = 0)
    OK(_varlen, (void)0)
    OK(_varlen, memset(mem.cu_q, 0, sizeof mem.cu_q); memset(mem.cu_k, 0, sizeof mem.cu_k))
    OK(_varlen, mem.cu_q[0] = mem.cu_q[1] = 3) /* the first sequence is empty, and so are rows before it */
    OK(_varlen, a.seqused_q = mem.used_q; a.seqused_k = mem.used_k; mem.used_q[0] = 0; mem.used_q[1] = 2;
       mem.used_k[0] = 5; mem.used_k[1] = 0)
    OK(, a.seqused_k = mem.used_k; mem.used_k[0] = 0; mem.used_k[1] = 5)
    OK(_varlen, a.cu_seqlens_k = NULL; a.causal = 1; a.window_left = INT32_MAX; a.window_right = INT32_MAX)
    OK(_paged, (void)0)
    OK(_paged, a.block_table_stride = 4; memmove(mem.table + 4, mem.table + 3, 12); mem.table[3] = -1)
    OK(_paged, a.seqused_k = mem.used_k; mem.used_k[0] = 2; mem.used_k[1] = 0; memset(mem.table + 1, 0x80, 20))
    OK(_paged, a.seqlen_k = 0; a.k.data = a.v.data = NULL; memset(mem.table, 0xff, 24))
    OK(_paged, a.page_size = 64; a.num_pages = 1; a.num_heads_k = 1; a.k.stride_s = a.v.stride_s = D; mem.table[0] = 0;
       mem.table[1] = 0; a.k.stride_h = a.v.stride_h = 1) /* a page larger than the sequence */
    OK(_paged, a.cu_seqlens_q = mem.cu_q; mem.cu_q[0] = 0; mem.cu_q[1] = 3; mem.cu_q[2] = 4)
    OK(_tree, a.seqlen_k = SQ)
    OK(_tree, a.tree_mask.stride_b = FA_BROADCAST; a.tree_mask.stride_q = 1)
    OK(_blocks, a.block_mask.stride_b = FA_BROADCAST; a.block_mask.stride_h = FA_BROADCAST)
    OK(_blocks, a.block_mask.block_q = INT32_MAX; a.block_mask.block_k = INT32_MAX)
}

FA_TEST(legal_scalars) {
    OK(, a.softmax_scale = -0.5f)
    OK(, a.softmax_scale = 1e-45f)
    OK(, a.dropout_p = 0.99999994f) /* the largest below 1 */
    OK(, a.softcap = 1e-3f; a.sink = mem.sink; a.alibi_slopes = mem.slopes; a.alibi_stride_b = 0)
    OK(, a.alibi_slopes = mem.slopes; a.alibi_stride_b = H)
    OK8(, (void)0)
    OK8(_fp8, (void)0)
    OK8(_fp8, a.k_descale.stride_b = 6; a.k_descale.stride_h = 3; a.k_descale.stride_block = 1; a.k_descale.block = 2)
    OK8(_fp8, a.q_descale.stride_b = 1; mem.factor[1] = 0; mem.factor[2] = NAN) /* [2] is nobody's */
    OK8(_fp8, a.q.data = (char *)mem.q + 1; a.k.data = (char *)mem.k + 3) /* bytes have no alignment */
    OK(, a.num_threads = 0)
    OK(, a.bias.stride_b = -77; a.alibi_stride_b = -1; a.block_mask.block_q = -1) /* of what is not there */
}

FA_TEST(features_used) {
    fa_args a = valid();
    FA_EXPECT(fa_features_used(&a) == 0);
    a.causal = 1, a.softcap = 1, a.dropout_p = 0.5f;
    FA_EXPECT(fa_features_used(&a) == (FA_CAUSAL | FA_SOFTCAP | FA_DROPOUT));
    a = valid(), a.seqused_q = mem.used_q;
    FA_EXPECT(fa_features_used(&a) == FA_VARLEN);
    a = valid(), a.window_right = 2, a.sink = mem.sink, a.alibi_slopes = mem.slopes, a.block_table = mem.table;
    FA_EXPECT(fa_features_used(&a) == (FA_WINDOW | FA_SINK | FA_ALIBI | FA_PAGED));
    a = valid(), a.bias.data = mem.bias, a.block_mask.data = mem.blocks, a.tree_mask.data = mem.tree;
    FA_EXPECT(fa_features_used(&a) == (FA_BIAS | FA_BLOCK_MASK | FA_TREE_MASK));
}

FA_TEST(error_message) {
    fa_args a = valid();
    char text[400], full[200];
    const size_t length = (size_t)snprintf(full, sizeof full, "seqlen_k = -3, legal 0 .. %d: %s", FA_MAX_SEQLEN,
                                           fa_strerror(FA_ERR_SEQLEN_K));
    a.seqlen_k = -3;
    FA_EXPECT(length < sizeof full && st16_check(&a) == FA_ERR_SEQLEN_K);
    FA_EXPECT(fa_error_message(&error, text, sizeof text) == (int)length && !strcmp(text, full));
    for (size_t size = 0; size <= length + 2; size++) { /* never more than size bytes */
        memset(text, '#', sizeof text);
        FA_EXPECT(fa_error_message(&error, text, size) == (int)length);
        FA_EXPECT(text[size] == '#');
        if (size == 0) continue;
        FA_EXPECT(strlen(text) == (size <= length ? size - 1 : length) && !memcmp(text, full, strlen(text)));
    }
    FA_EXPECT(fa_error_message(&error, NULL, 0) == (int)length);
    FA_EXPECT(fa_error_message(&error, NULL, 100) == (int)length);
    FA_EXPECT(fa_error_message(NULL, text, sizeof text) == 2 && !strcmp(text, "ok"));

    a = valid_paged(), mem.table[4] = 6;
    FA_EXPECT(st16_check(&a) == FA_ERR_BLOCK_TABLE);
    fa_error_message(&error, text, sizeof text);
    FA_EXPECT_MSG(!strncmp(text, "block_table[4] = 6, legal 0 .. 5: block_table must", 50), "%s", text);
    a = valid(), a.o.data = mem.q;
    FA_EXPECT(st16_check(&a) == FA_ERR_O_OVERLAP);
    fa_error_message(&error, text, sizeof text);
    FA_EXPECT_MSG(!strncmp(text, "q.data: o overlaps an input", 27), "%s", text);
    a = valid();
    FA_EXPECT(st16_check(&a) == FA_OK);
    FA_EXPECT(fa_error_message(&error, text, sizeof text) == 2 && !strcmp(text, "ok"));
    memset(&error, 0, sizeof error), error.status = FA_ERR_BATCH; /* by hand, without a field */
    FA_EXPECT(fa_error_message(&error, text, sizeof text) > 0 && !strcmp(text, fa_strerror(FA_ERR_BATCH)));
}

FA_TEST_MAIN
