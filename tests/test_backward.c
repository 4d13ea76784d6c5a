/* test_backward.c - dQ, dK, dV, dbias, dsink. */
#include "fa_test.h"

#include <pthread.h>

#define INSTANCES_DIMS
#define INSTANCES_HOOKS
#include "instances.h"

#include "fa_gradient.h"

FA_TEST(one_tile) {
    FA_EXPECT(fag_check(&f32_64_info, "sq=1 sk=1"));
    FA_EXPECT(fag_check(&f32_64_info, "sq=5 sk=7"));
    FA_EXPECT(fag_check(&f32_64_info, "sq=128 sk=256"));
    FA_EXPECT(fag_check(&f32_64_info, "sq=128 sk=256 causal=1"));
    FA_EXPECT(fag_check(&f32_64_info, "b=2 hq=4 hk=2 sq=300 sk=700 causal=1"));
    FA_EXPECT(fag_check(&bf16_64_info, "b=2 hq=4 hk=2 sq=300 sk=700 causal=1"));
    FA_EXPECT(fag_check(&f16_64_info, "b=2 hq=4 hk=2 sq=300 sk=700 causal=1"));
}

FA_TEST_MAIN
