/* Two units with an instance of the same name but different parameters: each has its own (unit_b.c). */
#define FA_NAME attn
#define FA_HEAD_DIM 64
#include "flashattn.h"

#include <stdio.h>

int unit_b_head_dim(void);

int main(void) {
    int a = attn_info.head_dim, b = unit_b_head_dim();
    if (a != 64 || b != 128) printf("head dims are %d and %d instead of 64 and 128\n", a, b);
    return a != 64 || b != 128;
}
