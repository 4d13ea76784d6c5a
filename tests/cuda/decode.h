/* decode.h - cases of the decode pass: what test_decode.cu and test_hopper_decode.cu have in common. */
#ifndef TESTS_CUDA_DECODE_H
#define TESTS_CUDA_DECODE_H

#include "device.h"

static device_workspace workspace; /* of all cases */

/* The problem of a line; fap_build checks it for the forward pass. */
static int build_decode(fap_problem *p, const fa_cuda_info *instance, const char *line) {
    fa_info info = instance->info;
    info.passes |= FA_FORWARD;
    fap_unit = 16;
    return fap_build(p, line, &info);
}

/* Runs and judges a problem, and frees it. */
static int judge_decode(const fa_cuda_info *instance, fap_problem *p, const char *line) {
    const int ok = device_judge(instance, p, line, device_decode(instance, p, &workspace));
    if (!ok) workspace.data = NULL, workspace.bytes = 0; /* went with its context */
    return ok;
}

/* A call in a graph, replayed. */
static int graph_of_decode(const fa_cuda_info *instance, const char *line) {
    fap_problem p;
    device_copy c;
    device_graph g;
    if (!build_decode(&p, instance, line)) return 0;
    int ok = device_upload(&p, &c);
    const size_t bytes = instance->decode_workspace(&c.args);
    ok = ok && device_reserve(&workspace, bytes) && graph_begin(&g);
    ok = ok && instance->decode(&c.args, workspace.data, bytes, g.stream) == FA_OK;
    ok = ok && graph_end(&g) && device_replay(&p, &c, &g);
    graph_free(&g), device_free(&c), fap_free(&p);
    return ok;
}

#endif
