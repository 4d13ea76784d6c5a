/* test_forward.cu - the CUDA forward pass against the fp64 reference, with the judge of fa_problem.h. */
#include <stdarg.h>

#include "fa_test.h"

#define FA_NAME bf16_64
#define FA_HEAD_DIM 64
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_128
#define FA_HEAD_DIM 128
#include "flashattn_cuda.cuh"

#include "fa_problem.h"

#include "device.h"

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

static int check_case(const fa_cuda_info *instance, const char *format, ...) {
    char line[512];
    va_list list;
    fap_problem p;
    int ok;
    va_start(list, format), vsnprintf(line, sizeof line, format, list), va_end(list);
    fap_unit = 8;
    if (!fap_build(&p, line, &instance->info)) return 0;
    ok = device_forward(instance, &p) && fap_judge(&p, instance->info.name);
    if (!ok) printf("#     case: %s\n", line);
    fap_free(&p);
    return ok;
}

FA_TEST(plain) {
    static const char *const cases[] = {"sq=128 sk=64", "sq=128 sk=256", "hq=2 sq=200 sk=203", "b=2 sq=1 sk=1", "sq=129 sk=65"};
    for (int n = 0; n < COUNT(cases); n++) {
        FA_EXPECT(check_case(&bf16_64_cuda_info, "%s", cases[n]));
        FA_EXPECT(check_case(&bf16_128_cuda_info, "%s", cases[n]));
    }
}

FA_TEST_MAIN
