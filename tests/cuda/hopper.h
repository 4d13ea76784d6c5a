/* hopper.h - what test_hopper.cu and test_hopper_fp8.cu have in common: instances and their launches, cases of the
 * kernel for sm_90a, keys whose scores drift. */
#ifndef TESTS_CUDA_HOPPER_H
#define TESTS_CUDA_HOPPER_H

#include "device.h"

typedef struct instance {
    const fa_cuda_info *cuda;
    fa_status (*launch)(const fa_args *args, fa_cuda_launch *launch);
} instance;
#define INSTANCE(name) \
    { &name##_cuda_info, name##_forward_cuda_launch }

/* Few SMs, so that a block computes several tiles: of the PTX machine; a GPU has what it has. 101: the machine,
 * which is linked behind this, reads it at 101, too. */
__attribute__((constructor(101))) static void few_sms(void) { setenv("FA_PTX_SMS", "2", 0); }

static int due(void) { return due_every(6); }

/* 1 if a kernel for sm_90a runs these arguments: the others have no maps. */
static int is_hopper(const fa_cuda_launch *launch) { return launch->maps.total != 0; }

/* Of the programs: the problem of a line; runs the instance on it, by the kernel for sm_90a and no other. */
static int build_case(fap_problem *p, const instance *i, const char *line);
static int forward(const instance *i, fap_problem *p, fa_cuda_launch *launch);

static void spare(fap_problem *p) { (void)p; }
static int check(const instance *i, void change(fap_problem *), const char *format, ...) {
    char line[512];
    va_list list;
    fap_problem p;
    fa_cuda_launch launch;
    if (!due()) return 1;
    va_start(list, format), vsnprintf(line, sizeof line, format, list), va_end(list);
    if (!build_case(&p, i, line)) return 0;
    change(&p);
    return device_judge(i->cuda, &p, line, forward(i, &p, &launch));
}

/* Scores that rise or fall along the keys, so that the reference moves in steps without a maximum, too. */
static void scale_keys(fap_problem *p, double left, double right) {
    for (int j = 0; j < p->spec.sk; j++)
        for (int c = 0; c < p->spec.d; c++) {
            const int64_t at = fap_at_k(p, &p->k, 0, j, 0) + c;
            const double x = left + (right - left) * j / p->spec.sk;
            fa_store(p->k.data, at, p->spec.kv, (float)(x * (double)fa_load(p->k.data, at, p->spec.kv)));
        }
}
static void rising(fap_problem *p) { scale_keys(p, 0, 12); }
static void falling(fap_problem *p) { scale_keys(p, 12, 0); }

#endif
