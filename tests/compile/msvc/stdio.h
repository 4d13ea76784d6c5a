/* Stand-in for Microsoft's header, just enough to parse flashattn.h (compile.sh). */
#pragma once
#include <stddef.h>
int snprintf(char *, size_t, const char *, ...);
