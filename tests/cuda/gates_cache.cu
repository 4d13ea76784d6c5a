/* gates_cache.cu - the kernels of FA_CUDA_CACHE: no spill, no stack. require: STG archs: 80 86 89 90 120 */
#define FA_CUDA_CACHE
#include "flashattn_cuda.cuh"

const void *kernels[] = {(const void *)fa_append_cuda, (const void *)fa_compact_cuda, (const void *)fa_rotary_cuda,
                         (const void *)fa_quantize_cuda};
