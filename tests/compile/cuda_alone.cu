/* No parameters, and nothing else before it: types, statuses, no kernel. */
#include "flashattn_cuda.cuh"

#ifdef FA_NAME
#error "FA_NAME is defined after an include without parameters"
#endif

#include "flashattn_cuda.cuh"
#include "flashattn.h"

int alone_ok(void);
int alone_ok(void) { return fa_strerror(FA_ERR_CUDA) ? 0 : 1; }
