/* No parameters: types, checks and reference only, and nothing else before them. */
#include "flashattn.h"

#ifdef FA_NAME
#error "FA_NAME is defined after an include without parameters"
#endif

#include "flashattn.h"

fa_status alone_ok(void);
fa_status alone_ok(void) { return fa_strerror(FA_OK) ? FA_OK : FA_ERR_ARGS_NULL; }
