/* flashattn_spec.h alone, twice. */
#include "flashattn_spec.h"

#include "flashattn_spec.h"

fa_status alone_ok(void);
fa_status alone_ok(void) { return fa_strerror(FA_OK) ? FA_OK : FA_ERR_ARGS_NULL; }
