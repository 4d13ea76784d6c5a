/* All passes of an instance, a cache in int8, and the cache calls; used and not used. */
#define FA_CUDA_CACHE
#define FA_NAME attn
#define FA_HEAD_DIM 64
#define FA_PASSES (FA_FORWARD | FA_BACKWARD | FA_DECODE)
#include "flashattn_cuda.cuh"

#define FA_NAME cached
#define FA_HEAD_DIM 64
#define FA_KV_DTYPE FA_I8
#define FA_PASSES FA_DECODE
#include "flashattn_cuda.cuh"

int main() {
    const fa_cuda_info *const i = &attn_cuda_info, *const c = &cached_cuda_info;
    return !(i->forward && i->backward && i->decode && !c->forward && !c->backward && c->decode) ||
           attn_backward_cuda(NULL, NULL, 0, 0) != FA_ERR_ARGS_NULL || c->decode(NULL, NULL, 0, 0) != FA_ERR_ARGS_NULL;
}
