/*  A KV cache as inference engines keep it: pages of 16 rows, in any order, int8 with one factor for each row and head.
        cc -O2 -march=native -I.. 05_kv_cache.c -lm && ./a.out

    fa_append rotates the new keys, quantises them and puts them where the block table says; attention reads the cache in
    place, and multiplies the factors in.  A prompt of 199 rows goes through forward, the next token through decode. */

#define FA_NAME attn128
#define FA_HEAD_DIM 128
#define FA_KV_DTYPE FA_I8
#define FA_O_DTYPE FA_F32
#define FA_FEATURES FA_DEFAULT_FEATURES
#include "flashattn.h"

#include <stdlib.h>

enum { SEQ = 200, HEADS = 8, HEADS_K = 2, D = 128, ROOM = 256, PAGE = 16, PAGES = ROOM / PAGE };

static float q[SEQ * HEADS * D], k[SEQ * HEADS_K * D], v[SEQ * HEADS_K * D], o[SEQ * HEADS * D]; /* (seq, head, dim) */
static int8_t k_cache[PAGES][PAGE][HEADS_K][D], v_cache[PAGES][PAGE][HEADS_K][D];
static float k_factor[PAGES][PAGE][HEADS_K], v_factor[PAGES][PAGE][HEADS_K];
static float cos_table[ROOM][D / 2], sin_table[ROOM][D / 2], k_rotated[SEQ * HEADS_K * D];
static double exact[SEQ * HEADS * D], scratch[ROOM + 2 * D];

/* From (seq, heads, D) to out; position 0 is the first row. */
static fa_status rotate(const void *x, void *out, int heads, const fa_rope *rotary) {
    fa_rotary_args args = {0};
    args.batch = 1, args.num_heads = heads, args.seqlen_q = SEQ, args.head_dim = D, args.dtype = FA_F32;
    args.q.data = x, args.o.data = out, args.rotary = *rotary;
    return fa_rotary(&args);
}

int main(void) {
    uint32_t seed = 1;
    float *const inputs[] = {q, k, v};
    const size_t sizes[] = {sizeof q / 4, sizeof k / 4, sizeof v / 4};
    for (int t = 0; t < 3; t++)
        for (size_t x = 0; x < sizes[t]; x++) {
            seed = seed * 1664525u + 1013904223u; /* a number in -2 .. 2 */
            inputs[t][x] = (float)(seed >> 8) / 4194304 - 2;
        }
    fa_rope rotary = {cos_table[0], sin_table[0], ROOM, D, 0, 0, NULL}; /* halves, as Llama has them */
    fa_status status = fa_rotary_table(cos_table[0], sin_table[0], ROOM, D, 10000, 0);

    int32_t block_table[PAGES];
    for (int p = 0; p < PAGES; p++) block_table[p] = (p * 5 + 3) % PAGES;
    fa_append_args add = {0};
    add.cache.batch = 1, add.cache.num_heads_k = HEADS_K, add.cache.seqlen_k = ROOM;
    add.cache.head_dim = add.cache.head_dim_v = D, add.cache.dtype = FA_I8;
    add.cache.k.data = k_cache, add.cache.v.data = v_cache;
    add.cache.block_table = block_table, add.cache.page_size = PAGE, add.cache.num_pages = PAGES;
    const fa_descale_out factors = {k_factor[0][0], PAGE * HEADS_K, 1, HEADS_K, 1, 1}; /* block 1: a row has its own */
    add.cache.k_descale = add.cache.v_descale = factors, add.cache.v_descale.data = v_factor[0][0];
    add.dtype = FA_F32, add.rotary = rotary;
    if (status == FA_OK) status = rotate(q, q, HEADS, &rotary); /* fa_append does it for K */

    const int32_t steps[] = {0, SEQ - 1, SEQ};
    fa_args args = {0};
    fa_use_cache(&args, &add.cache);
    args.num_heads = HEADS, args.causal = 1;
    for (int n = 0; n < 2 && status == FA_OK; n++) { /* rows steps[n] .. steps[n + 1] */
        add.positions = &steps[n], add.seqlen_new = steps[n + 1] - steps[n];
        add.k.data = k + steps[n] * HEADS_K * D, add.v.data = v + steps[n] * HEADS_K * D;
        status = fa_append(&add);
        args.seqlen_q = add.seqlen_new, args.seqused_k = &steps[n + 1];
        args.q.data = q + steps[n] * HEADS * D, args.o.data = o + steps[n] * HEADS * D;
        const size_t bytes = n ? attn128_decode_workspace(&args) : attn128_forward_workspace(&args);
        void *workspace = malloc(bytes);
        if (status == FA_OK) status = (n ? attn128_decode : attn128_forward)(&args, workspace, bytes);
        free(workspace);
    }

    fa_info plain = attn128_info; /* the same in fp64, on what was not quantised */
    fa_cache unquantised = {0};
    unquantised.batch = 1, unquantised.num_heads_k = HEADS_K, unquantised.seqlen_k = SEQ;
    unquantised.k.data = k_rotated, unquantised.v.data = v, plain.kv_dtype = FA_F32;
    fa_use_cache(&args, &unquantised);
    args.seqlen_q = SEQ, args.seqused_k = NULL, args.q.data = q, args.o.data = o;
    if (status == FA_OK) status = rotate(k, k_rotated, HEADS_K, &rotary);
    if (status == FA_OK) status = fa_reference_forward(&plain, &args, exact, NULL, scratch);
    double worst = 0;
    for (int x = 0; x < SEQ * HEADS * D; x++) worst = fmax(worst, fabs((double)o[x] - exact[x]));
    printf("%s; largest error of int8 keys and values: %.4f\n", fa_strerror(status), worst);
    return status == FA_OK && worst < 0.03 ? 0 : 1;
}
