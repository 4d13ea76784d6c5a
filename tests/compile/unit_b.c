#define FA_NAME attn
#define FA_HEAD_DIM 128
#include "flashattn.h"

int unit_b_head_dim(void);
int unit_b_head_dim(void) { return attn_info.head_dim; }
