/* fa_test.h - the test harness: C11, C++17 and CUDA, no dependencies, one test program per file.
 *
 *     #include "fa_test.h"
 *     FA_TEST(sum_of_two) { FA_EXPECT(1 + 1 == 2); }
 *     FA_TEST_MAIN
 *
 *     ./test_sums                     TAP lines, then "N passed, N failed, N skipped"; exit status 1 on failure
 *     ./test_sums --list              names only
 *     ./test_sums --filter two        tests whose name contains "two"
 *     ./test_sums --seed 7            the seed of random tests (default 1); printed with every failure
 *
 * FA_EXPECT goes on after a failure (the first FAT_MAX_MESSAGES of a test are printed); FA_REQUIRE leaves the
 * test; FA_SKIP leaves it with a reason. All comparisons fail on NaN.
 */
#ifndef FA_TEST_H
#define FA_TEST_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FAT_MAX_TESTS 256
#define FAT_MAX_MESSAGES 5

typedef struct fat_test {
    const char *name;
    void (*run)(void);
} fat_test;

static fat_test fat_tests[FAT_MAX_TESTS];
static int fat_count, fat_failures, fat_messages;
static const char *fat_skip;
static uint64_t fat_seed = 1;

static inline void fat_register(const char *name, void (*run)(void)) {
    if (fat_count == FAT_MAX_TESTS) abort();
    fat_tests[fat_count].name = name, fat_tests[fat_count++].run = run;
}

#define FA_TEST(name) \
    static void test_##name(void); \
    __attribute__((constructor)) static void fat_register_##name(void) { fat_register(#name, test_##name); } \
    static void test_##name(void)

/* Counts a failure; returns 1 if its message should still be printed. */
static inline int fat_fail(const char *file, int line, const char *what) {
    fat_failures++;
    if (fat_messages++ >= FAT_MAX_MESSAGES) return 0;
    printf("# %s:%d: %s  (--seed %llu)\n", file, line, what, (unsigned long long)fat_seed);
    return 1;
}

#define FA_EXPECT(cond) ((cond) ? 1 : (fat_fail(__FILE__, __LINE__, #cond), 0))
/* the same with a printf message */
#define FA_EXPECT_MSG(cond, ...) \
    ((cond) ? 1 : (fat_fail(__FILE__, __LINE__, #cond) ? (printf("#     "), printf(__VA_ARGS__), puts("")) : 0, 0))
#define FA_REQUIRE(cond) \
    if (!FA_EXPECT(cond)) return
#define FA_SKIP(reason) \
    { \
        fat_skip = (reason); \
        return; \
    }

/* |got - want| <= tolerance, false for any NaN; equal infinities are close. */
static inline int fat_close(double got, double want, double tolerance) {
    return got == want || fabs(got - want) <= tolerance;
}
#define FA_EXPECT_NEAR(got, want, tolerance) \
    FA_EXPECT_MSG(fat_close((got), (want), (tolerance)), "got %.9g, want %.9g, tolerance %.3g", (double)(got), \
                  (double)(want), (double)(tolerance))

/* splitmix64, the generator of all test data */
static inline uint64_t fat_next(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
static inline int fat_below(uint64_t *state, int n) { return (int)(fat_next(state) % (uint64_t)n); }
static inline double fat_uniform(uint64_t *state) { return (double)(fat_next(state) >> 11) * 0x1p-53; }
static inline double fat_normal(uint64_t *state) { /* Box-Muller */
    double u = fat_uniform(state) + 0x1p-54, v = fat_uniform(state);
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}

static inline int fat_main(int argc, char **argv) {
    const char *filter = "";
    int passed = 0, failed = 0, skipped = 0, list = 0;
    for (int i = 1; i < argc; i++) {
        int more = i + 1 < argc;
        if (!strcmp(argv[i], "--list")) list = 1;
        else if (!strcmp(argv[i], "--filter") && more) filter = argv[++i];
        else if (!strcmp(argv[i], "--seed") && more) fat_seed = strtoull(argv[++i], NULL, 0);
        else return fprintf(stderr, "usage: %s [--list] [--filter part-of-name] [--seed n]\n", argv[0]), 2;
    }
    for (int i = 0; i < fat_count; i++) {
        const fat_test *t = &fat_tests[i];
        if (!strstr(t->name, filter)) continue;
        if (list) {
            puts(t->name);
            continue;
        }
        fat_failures = fat_messages = 0, fat_skip = NULL;
        t->run();
        if (fat_failures) printf("not ok %d - %s (%d failures)\n", i + 1, t->name, fat_failures), failed++;
        else if (fat_skip) printf("ok %d - %s # SKIP %s\n", i + 1, t->name, fat_skip), skipped++;
        else printf("ok %d - %s\n", i + 1, t->name), passed++;
        fflush(stdout);
    }
    if (!list) printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
    return failed || (!list && passed + skipped == 0);
}

#define FA_TEST_MAIN \
    int main(int argc, char **argv) { return fat_main(argc, argv); }

#endif
