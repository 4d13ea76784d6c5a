/* gates_spec.cu - the kernels of FA_CUDA_SPEC: no spill, no stack. require: STG archs: 80 86 89 90 120 */
#define FA_CUDA_SPEC
#include "flashattn_spec.h"

const void *kernels[] = {(const void *)fa_verify_chain_cuda, (const void *)fa_verify_tree_cuda,
                         (const void *)fa_sample_cuda};
