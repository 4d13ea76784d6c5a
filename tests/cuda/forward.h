/* forward.h - cases of the forward pass that are the same for all dtypes, of test_forward.cu and test_dtypes.cu: they
 * run the instances of `full` and `dims`. descale is of fp8 alone. */
#ifndef TESTS_CUDA_FORWARD_H
#define TESTS_CUDA_FORWARD_H

#include "device.h"

static int due(const fa_cuda_info *instance); /* of the programs: which cases run */

/* Rows start at multiples of 16 bytes, no more. */
static void set_unit(const fa_cuda_info *instance) {
    const fa_info *info = &instance->info;
    fap_unit = 16 / (int)(fa_sizeof(info->dtype) < fa_sizeof(info->o_dtype) ? fa_sizeof(info->dtype)
                                                                          : fa_sizeof(info->o_dtype));
}

static int ran; /* the last case */
static int check_case(const fa_cuda_info *instance, const char *format, ...) {
    char line[512];
    va_list list;
    fap_problem p;
    if (!(ran = due(instance))) return 1;
    va_start(list, format), vsnprintf(line, sizeof line, format, list), va_end(list);
    set_unit(instance);
    return fap_build(&p, line, &instance->info) && device_judge(instance, &p, line, device_forward(instance, &p));
}

static void check_rows_without_keys(void) {
    for (int n = 0; n < COUNT(full); n++)
        for (int sk = 0; sk <= 70; sk += 35)
            FA_EXPECT(check_case(full[n], "b=2 hq=2 sq=131 sk=%d causal=1 descale=3", sk));
}

static void check_layouts(void) {
    for (int n = 0; n < COUNT(full); n++)
        for (int l = 0; l < FAP_NUM_LAYOUTS; l++)
            FA_EXPECT(
                check_case(full[n], "b=2 hq=4 hk=2 sq=35 sk=70 causal=1 layout=%s", fap_layout_names[l]));
}

static void check_varlen(void) {
    for (int n = 0; n < COUNT(full); n++)
        for (int seed = 0; seed < 4; seed++)
            FA_EXPECT(check_case(
                full[n], "b=4 hq=4 hk=2 sq=70 sk=90 causal=%d varlen=%d used=%d seed=%d layout=%s descale=%d",
                seed % 2, seed != 2, (seed + 1) % 3, seed, seed % 2 ? "padded" : "bshd", seed + 1));
}

static void check_trees(void) {
    for (int n = 0; n < COUNT(full); n++)
        for (int tree = 1; tree <= 2; tree++) {
            FA_EXPECT(check_case(full[n], "b=2 hq=4 hk=1 sq=13 sk=140 tree=%d", tree));
            FA_EXPECT(
                check_case(full[n], "b=3 hq=2 sq=40 sk=75 tree=%d varlen=1 page=16 layout=padded", tree));
        }
}

/* All features at once, each now and then. */
static void check_random_problems(int count) {
    uint64_t rng = fat_seed;
    for (int n = 0; n < count; n++) {
        char line[512];
        FA_EXPECT(check_case(full[n % COUNT(full)], "%s", fap_random(line, &rng, FA_ALL_FEATURES, 60, 140)));
    }
}

static void check_banks(void) {
    if (!ptx_counter) FA_SKIP("only the PTX machine counts wavefronts");
    for (int n = 0; n < COUNT(dims); n++) {
        FA_REQUIRE(check_case(dims[n], "sq=130 sk=130 descale=%d", n % 5));
        if (!ran) continue;
        FA_EXPECT(few_wavefronts(dims[n]->info.name, 1, 0));
    }
}

#endif
