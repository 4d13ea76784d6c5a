/* small_tiles.h - included instead of flashattn.h: an instance with tiles of 64 x 64, so that small problems have
 * several.  FA_FEATURES: all, unless given. */
#define FA_BLOCK_M 64
#define FA_BLOCK_N 64
#ifndef FA_FEATURES
#define FA_FEATURES FA_ALL_FEATURES
#endif
#include "flashattn.h"
