/* The library allocates nothing and needs little stack: every allocator of the C library is replaced by one that
 * counts, and forward runs on a stack whose used part is measured. */
#define _GNU_SOURCE /* mmap, pthread_attr_setstack */

#define FA_NAME attn128
#define FA_HEAD_DIM 128
#define FA_FEATURES FA_ALL_FEATURES
#include "flashattn.h"

#define FA_NAME attn256
#define FA_HEAD_DIM 256
#define FA_DTYPE FA_BF16
#define FA_KV_DTYPE FA_E4M3
#include "flashattn.h"

#include "fa_test.h"
#include <pthread.h>

enum {
    ARENA = 8 << 20,
    STACK = 1 << 20,
    STACK_LIMIT = 256 << 10, /* musl gives a thread 128 KB, macOS 512 KB, glibc 8 MB */
    SEQ = 200,               /* two query blocks, two key tiles, neither full */
    HEADS = 2,
    FILL = 0xa5
};

/* ---- allocators: a bump pointer, and a count of the calls -------------------------------- */

static _Alignas(64) unsigned char arena[ARENA];
static size_t arena_used;
static int allocations;

static void *take(size_t align, size_t bytes) {
    size_t at = (arena_used + sizeof(size_t) + align - 1) / align * align;
    allocations++;
    if (bytes > ARENA || at + bytes > ARENA) return NULL;
    memcpy(arena + at - sizeof(size_t), &bytes, sizeof bytes); /* for realloc */
    arena_used = at + bytes;
    return arena + at;
}

void *malloc(size_t bytes) { return take(64, bytes); }
void *calloc(size_t count, size_t bytes) { return take(64, count * bytes); } /* the arena starts as zeros */
void *aligned_alloc(size_t align, size_t bytes) { return take(align < 64 ? 64 : align, bytes); }
void *memalign(size_t align, size_t bytes);
void *memalign(size_t align, size_t bytes) { return aligned_alloc(align, bytes); }
int posix_memalign(void **out, size_t align, size_t bytes) { return (*out = aligned_alloc(align, bytes)) == NULL; }
void free(void *p) {
    (void)p;
    allocations++;
}
void *realloc(void *p, size_t bytes) {
    void *q = take(64, bytes);
    size_t old = 0;
    if (p) memcpy(&old, (unsigned char *)p - sizeof(size_t), sizeof old);
    if (q && p) memcpy(q, p, old < bytes ? old : bytes);
    return q;
}
void *mmap(void *address, size_t bytes, int protection, int flags, int file, long offset);
void *mmap(void *address, size_t bytes, int protection, int flags, int file, long offset) {
    (void)address, (void)bytes, (void)protection, (void)flags, (void)file, (void)offset;
    allocations++;
    return (void *)-1; /* MAP_FAILED */
}

/* ---- the problem -------------------------------------------------------------------------- */

static unsigned char q[SEQ * HEADS * 256 * 4], k[sizeof q], v[sizeof q], o[sizeof q]; /* large enough for f32 */
static unsigned char d_o[sizeof q], dq[sizeof q], dk[sizeof q], dv[sizeof q], cache[2][sizeof q];
static float lse[HEADS * SEQ], slopes[HEADS] = {0.5f, 0.25f}, sink[HEADS], dsink[HEADS], factors[2][HEADS * SEQ];
static float bias[HEADS * SEQ * SEQ], dbias[HEADS * SEQ * SEQ], cos_table[SEQ * 64], sin_table[SEQ * 64];
static _Alignas(64) unsigned char workspace[16 << 20];

static fa_args problem(void) {
    fa_args args = {0};
    args.batch = 1, args.num_heads = HEADS, args.num_threads = 1;
    args.seqlen_q = args.seqlen_k = SEQ;
    args.q.data = q, args.k.data = k, args.v.data = v, args.o.data = o, args.lse.data = lse;
    args.causal = 1;
    return args;
}

/* Appends, compacts, rotates; merges two results. */
static fa_status call_cache(void) {
    const int32_t accepted[] = {1, 3, 4};
    const fa_descale_out own = {factors[0], 0, 1, HEADS, 1, 0};
    const fa_rope rotary = {cos_table, sin_table, SEQ, 128, 0, 0, NULL};
    fa_append_args append = {0};
    fa_compact_args compact = {0};
    fa_rotary_args rotate = {0};
    fa_combine_args combine = {0};
    fa_part parts[2] = {{{q, 0, 0, 0}, {sink, 0, 0, 0}, FA_F32}, {{k, 0, 0, 0}, {slopes, 0, 0, 0}, FA_F32}};
    fa_status status = fa_rotary_table(cos_table, sin_table, SEQ, 128, 10000, 0);
    append.cache.batch = 1, append.cache.num_heads_k = HEADS, append.cache.seqlen_k = SEQ, append.cache.dtype = FA_I8;
    append.cache.head_dim = append.cache.head_dim_v = 128, append.cache.k.data = cache[0],
    append.cache.v.data = cache[1];
    append.cache.k_descale = append.cache.v_descale = own, append.cache.v_descale.data = factors[1];
    append.seqlen_new = SEQ, append.dtype = FA_F32, append.k.data = k, append.v.data = v, append.rotary = rotary;
    compact.cache = append.cache, compact.max_accepted = 3, compact.accepted = accepted;
    rotate.batch = 1, rotate.num_heads = HEADS, rotate.seqlen_q = SEQ, rotate.head_dim = 128, rotate.dtype = FA_F32;
    rotate.q.data = q, rotate.o.data = o, rotate.rotary = rotary;
    combine.batch = combine.seqlen_q = 1, combine.num_heads = HEADS, combine.head_dim_v = 128, combine.num_parts = 2;
    combine.parts = parts, combine.o.data = o;
    if (status == FA_OK) status = fa_append(&append);
    if (status == FA_OK) status = fa_compact(&compact);
    if (status == FA_OK) status = fa_rotary(&rotate);
    return status == FA_OK ? fa_combine(&combine) : status;
}

/* Every generated function of both instances; returns how many calls went wrong. */
static int call_everything(void) {
    fa_args a = problem(), b = problem();
    fa_error error;
    int wrong = 0;
    size_t need_a, need_b;
    a.error = b.error = &error;
    a.alibi_slopes = slopes, a.dropout_p = 0.1f, a.softcap = 30;

    wrong += attn128_check(&a) != FA_OK;
    wrong += attn256_check(&b) != FA_OK;
    need_a = attn128_forward_workspace(&a), need_b = attn256_forward_workspace(&b);
    if (need_a > sizeof workspace || need_b > sizeof workspace) return 100;
    wrong += attn128_forward(&a, workspace, need_a) != FA_OK;
    wrong += attn256_forward(&b, workspace, need_b) != FA_OK;
    for (int64_t t = attn128_forward_num_tasks(&a); t-- > 0;) attn128_forward_run_task(&a, t, workspace);
    for (int64_t t = attn256_forward_num_tasks(&b); t-- > 0;) attn256_forward_run_task(&b, t, workspace);
    a.bias.data = bias, a.dbias.data = dbias, a.sink = sink, a.dsink = dsink;
    a.d_o.data = d_o, a.dq.data = dq, a.dk.data = dk, a.dv.data = dv;
    const size_t need = attn128_backward_workspace(&a), need_decode = attn128_decode_workspace(&a);
    if (need > sizeof workspace || need_decode > sizeof workspace) return 100;
    wrong += attn128_backward(&a, workspace, need) != FA_OK;
    wrong += attn128_decode(&a, workspace, need_decode) != FA_OK;
    b.seqlen_q = 5, b.split_keys = 64;
    wrong += attn256_decode(&b, workspace, attn256_decode_workspace(&b)) != FA_OK;
    wrong += call_cache() != FA_OK;
    a.num_heads_k = 7; /* and the way out of an error */
    wrong += attn128_forward(&a, workspace, need_a) != FA_ERR_NUM_HEADS_K;
    return wrong;
}

FA_TEST(nothing_is_allocated) {
    void *volatile probe = malloc(1);
    int before, wrong;
    FA_REQUIRE(allocations > 0); /* the replacement is in place */
    free(probe);
    before = allocations;
    wrong = call_everything();
    FA_EXPECT_MSG(wrong == 0, "%d calls went wrong", wrong);
    FA_EXPECT_MSG(allocations == before, "%d calls of an allocator", allocations - before);
}

static _Alignas(4096) unsigned char stack[STACK];

static void *on_stack(void *wrong) {
    *(int *)wrong = call_everything();
    return NULL;
}

FA_TEST(stack_is_small) {
    pthread_attr_t attributes;
    pthread_t thread;
    int wrong = -1;
    size_t untouched = 0;
    memset(stack, FILL, sizeof stack);
    FA_REQUIRE(pthread_attr_init(&attributes) == 0);
    FA_REQUIRE(pthread_attr_setstack(&attributes, stack, sizeof stack) == 0);
    FA_REQUIRE(pthread_create(&thread, &attributes, on_stack, &wrong) == 0);
    FA_REQUIRE(pthread_join(thread, NULL) == 0);
    while (untouched < sizeof stack && stack[untouched] == FILL) untouched++; /* it grows downwards */
    printf("# stack: %zu bytes\n", sizeof stack - untouched);
    FA_EXPECT_MSG(wrong == 0, "%d calls went wrong", wrong);
    FA_EXPECT(sizeof stack - untouched <= STACK_LIMIT);
}

FA_TEST_MAIN
