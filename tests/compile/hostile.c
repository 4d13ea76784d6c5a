/* Macros that real programs have lying about: <complex.h>, <windows.h>, and a habit or two. */
#include <complex.h> /* I */
#define min(a, b) ((a) < (b) ? (a) : (b))
#define max(a, b) ((a) > (b) ? (a) : (b))
#define near
#define far
#define small char
#define interface struct
#define ERROR 0
#define TRUE 1
#define FALSE 0
#define PI 3.14159265358979

#define FA_NAME attn
#define FA_HEAD_DIM 64
#include "flashattn.h"

int main(void) { return attn_check(NULL) != FA_ERR_ARGS_NULL; }
