/* fuzz.h - what the fuzzers share: --seconds n (default 5), --seed n (default 1), and random numbers. */
#ifndef PTX_FUZZ_H
#define PTX_FUZZ_H

#include <stdlib.h>
#include <time.h>

#include "machine.h"

static struct {
    double seconds;
    u64 seed, state;
} fuzz = {.seconds = 5, .seed = 1};

static inline double fuzz_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Case n of the run: what it does depends on the seed and on n alone. */
static inline void fuzz_start(u64 n) {
    fuzz.state = fuzz.seed * 0x9e3779b97f4a7c15u + n * 0xd1342543de82ef95u;
}

static inline u32 below(u32 n) { /* splitmix64 */
    u64 z = (fuzz.state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (u32)((z ^ (z >> 31)) >> 32) % n;
}

/* Takes an option with a number from the command line: its value, or NULL. */
static inline const char *fuzz_option(int argc, char **argv, const char *name) {
    for (int i = 1; i + 1 < argc; i++)
        if (!strcmp(argv[i], name)) return argv[i + 1];
    return NULL;
}

static inline void fuzz_options(int argc, char **argv) {
    const char *seconds = fuzz_option(argc, argv, "--seconds"), *seed = fuzz_option(argc, argv, "--seed");
    if (seconds) fuzz.seconds = atof(seconds);
    if (seed) fuzz.seed = strtoull(seed, NULL, 0);
}

#endif
