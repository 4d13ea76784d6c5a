/* test_forward.cu - the CUDA forward pass against the fp64 reference, with the judge of fa_problem.h. */
#include <stdarg.h>

#include "fa_test.h"

#include "instances.h"

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
    if (!ok) printf("#     %s: %s\n", instance->info.name, line), cudaDeviceReset(); /* a broken context is of no use to others */
    fap_free(&p);
    return ok;
}

/* ---- shapes ------------------------------------------------------------------------------ */

static const int edges[] = {1, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129};

FA_TEST(edges_of_tiles) {
    for (int q = 0; q < COUNT(edges); q++)
        for (int k = q % 2; k < COUNT(edges); k += 2) {
            FA_EXPECT(check_case(&bf16_64_cuda_info, "sq=%d sk=%d seed=%d causal=%d", edges[q], edges[k], q, k / 2 % 2));
            FA_EXPECT(check_case(&f16_48_cuda_info, "sq=%d sk=%d seed=%d causal=%d", edges[k], edges[q], k, k / 2 % 2));
        }
}

FA_TEST(every_head_dim) {
    for (int n = 0; n < COUNT(dims); n++) {
        FA_EXPECT(check_case(dims[n], "sq=113 sk=203"));
        if (dims[n]->info.features & FA_CAUSAL) FA_EXPECT(check_case(dims[n], "hq=2 sq=140 sk=130 causal=1"));
    }
}

FA_TEST(grouped_heads) {
    static const int heads[][2] = {{1, 1}, {2, 2}, {4, 2}, {8, 1}, {10, 2}, {33, 1}, {71, 1}};
    static const int lengths[] = {1, 2, 7, 13, 33};
    for (int n = 0; n < COUNT(heads); n++)
        for (int s = 0; s < COUNT(lengths); s++)
            FA_EXPECT(check_case(full[(n + s) % COUNT(full)], "b=2 hq=%d hk=%d sq=%d sk=%d causal=%d seed=%d", heads[n][0],
                                 heads[n][1], lengths[s], 20 + 9 * s, (n + s) % 2, n));
}

FA_TEST(rows_without_keys) {
    for (int n = 0; n < COUNT(full); n++)
        for (int sk = 0; sk <= 70; sk += 35) FA_EXPECT(check_case(full[n], "b=2 hq=2 sq=131 sk=%d causal=1", sk));
}

FA_TEST(layouts) {
    for (int n = 0; n < COUNT(full); n++)
        for (int l = 0; l < FAP_NUM_LAYOUTS; l++)
            FA_EXPECT(check_case(full[n], "b=2 hq=4 hk=2 sq=35 sk=70 causal=1 layout=%s", fap_layout_names[l]));
}

FA_TEST(varlen) {
    for (int n = 0; n < COUNT(full); n++)
        for (int seed = 0; seed < 4; seed++)
            FA_EXPECT(check_case(full[n], "b=4 hq=4 hk=2 sq=70 sk=90 causal=%d varlen=%d used=%d seed=%d layout=%s", seed % 2,
                                 seed != 2, (seed + 1) % 3, seed, seed % 2 ? "padded" : "bshd"));
}

/* ---- features ---------------------------------------------------------------------------- */

/* Alone, under a causal mask, and with grouped heads of sequences of different lengths. */
FA_TEST(each_feature) {
    static const char *const features[] = {
        "wl=9",       "wr=20",   "wl=33 wr=5", "page=16", "page=7", "softcap=5", "alibi=1",   "alibi=2", "bias=1",
        "bias=2",     "bias=3",  "bias=4",     "drop=0.3", "sink=1", "bm=16",     "bm=33",     "nan=1",   "scale=-0.2",
        "drop=0.9 nan=1", "lse=0", "sink=1 softcap=20 alibi=1 bias=4 drop=0.1 bm=8 page=9"};
    for (int n = 0; n < COUNT(full); n++)
        for (int f = 0; f < COUNT(features); f++) {
            FA_EXPECT(check_case(full[n], "hq=2 sq=67 sk=133 seed=%d %s", f, features[f]));
            FA_EXPECT(check_case(full[n], "hq=2 sq=67 sk=133 causal=1 seed=%d %s", f, features[f]));
            FA_EXPECT(check_case(full[n], "b=3 hq=4 hk=2 sq=40 sk=75 varlen=1 used=2 causal=%d seed=%d %s", f % 2, f, features[f]));
        }
}

FA_TEST(trees) {
    for (int n = 0; n < COUNT(full); n++)
        for (int tree = 1; tree <= 2; tree++) {
            FA_EXPECT(check_case(full[n], "b=2 hq=4 hk=1 sq=13 sk=140 tree=%d", tree));
            FA_EXPECT(check_case(full[n], "b=3 hq=2 sq=40 sk=75 tree=%d varlen=1 page=16 layout=padded", tree));
        }
}

FA_TEST(hooks) {
    FA_EXPECT(check_case(&bf16_64_both_cuda_info, "b=2 hq=2 sq=70 sk=140"));
    FA_EXPECT(check_case(&bf16_64_both_cuda_info, "b=2 hq=4 hk=2 sq=70 sk=140 causal=1 page=64"));
}

/* All features at once, each now and then. */
FA_TEST(random_problems) {
    uint64_t rng = fat_seed;
    for (int n = 0; n < 120; n++) {
        char line[512];
        FA_EXPECT(check_case(full[n % COUNT(full)], "%s", fap_random(line, &rng, FA_ALL_FEATURES, 60, 140)));
    }
}

FA_TEST_MAIN
