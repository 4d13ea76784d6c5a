// The header under nvcc: an instance in the host pass, and the FAI_HD helpers called from a kernel.
#define FA_NAME attn64
#define FA_HEAD_DIM 64
#include "flashattn.h"

#define FA_NAME attn64 // the CUDA kernel beside the CPU kernel of the same name
#define FA_HEAD_DIM 64
#include "flashattn_cuda.cuh"

__global__ void visible_keys(fa_args args, int32_t *count, float *first) {
    int32_t b = (int32_t)blockIdx.x, i = (int32_t)threadIdx.x;
    fa_sequence s = fa_get_sequence(&args, b);
    if (i >= s.len_q) return;
    fa_range r = fa_row_range(&args, s.len_q, s.len_k, i);
    fa_range any = fa_any_range(&args, s.len_q, s.len_k, 0, s.len_q);
    fa_range all = fa_all_range(&args, s.len_q, s.len_k, 0, s.len_q);
    fai_strides q = fai_strides_q(&args, 64), k = fai_strides_kv(&args, &args.k, 64);
    int32_t n = any.hi - all.lo;
    for (int32_t j = r.lo; j < r.hi; j++)
        n += fa_block_visible(&args, &s, 0, i, j) && fa_tree_visible(&args, &s, i, j);
    count[b * args.seqlen_q + i] = n;
    first[b * args.seqlen_q + i] = static_cast<const float *>(args.q.data)[fai_offset_q(&s, q, i, 0)] *
                                   static_cast<const float *>(args.k.data)[fai_offset_k(&args, &s, k, r.lo, 0)] *
                                   fai_descale(&args, &args.q_descale, b, 0, i);
}

int main() {
    fa_args args = {};
    return attn64_check(&args) == FA_OK || attn64_forward_cuda(&args, nullptr, 0, 0) == FA_OK || attn64_info.head_dim != 64;
}
