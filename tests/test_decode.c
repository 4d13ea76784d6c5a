/* test_decode.c - the decode pass: layouts, dtypes, features, splits; the same bits whoever does the work. */
#include "fa_test.h"

#define INSTANCES_DTYPES
#include "instances.h"

static int decode_case(const fa_info *info, const char *format, ...) {
    char line[512];
    va_list list;
    va_start(list, format), vsnprintf(line, sizeof line, format, list), va_end(list);
    return fap_check_decode(info, line);
}

/* ---- layouts ----------------------------------------------------------------------------- */

static const char *const layouts[] = {"", "layout=bhsd", "layout=padded", "page=1", "page=3", "page=16 layout=padded",
                                      "page=256 descale=4"};

FA_TEST(layouts_and_dtypes) {
    for (int t = 0; t < COUNT(dtypes); t++)
        for (int l = 0; l < COUNT(layouts); l++)
            for (int rows = 1; rows <= 4; rows += 3)
                if (due())
                    FA_EXPECT(decode_case(dtypes[t], "b=2 hq=4 hk=2 sq=%d sk=%d causal=1 descale=%d %s threads=%d seed=%d", rows,
                                          700 + 61 * l, (t + l) % 5, layouts[l], 1 + l % 3, t));
}

FA_TEST_MAIN
