/* test_backward.cu - the CUDA backward pass against the fp64 reference, with the judge of fa_gradient.h. */
#include "cuda_test.h"

/* ---- instances --------------------------------------------------------------------------- */

#define FA_NAME bf16_64
#define FA_HEAD_DIM 64
#define FA_FEATURES FA_ALL_FEATURES
#define FA_PASSES FA_BACKWARD
#include "flashattn_cuda.cuh"

#define FA_NAME f16_128
#define FA_HEAD_DIM 128
#define FA_DTYPE FA_F16
#define FA_FEATURES FA_ALL_FEATURES
#define FA_PASSES FA_BACKWARD
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_192_256
#define FA_HEAD_DIM 192
#define FA_HEAD_DIM_V 256
#define FA_FEATURES FA_ALL_FEATURES
#define FA_PASSES FA_BACKWARD
#include "flashattn_cuda.cuh"

static const fa_cuda_info *const full[] = {&bf16_64_cuda_info, &f16_128_cuda_info, &bf16_192_256_cuda_info};

#define FA_NAME bf16_64_plain
#define FA_HEAD_DIM 64
#define FA_PASSES (FA_FORWARD | FA_BACKWARD)
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_128_plain
#define FA_HEAD_DIM 128
#define FA_PASSES FA_BACKWARD
#include "flashattn_cuda.cuh"

#define FA_NAME f16_16_32
#define FA_HEAD_DIM 16
#define FA_HEAD_DIM_V 32
#define FA_DTYPE FA_F16
#define FA_PASSES FA_BACKWARD
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_80_48
#define FA_HEAD_DIM 80
#define FA_HEAD_DIM_V 48
#define FA_PASSES FA_BACKWARD
#include "flashattn_cuda.cuh"

#define FA_NAME f16_112_16
#define FA_HEAD_DIM 112
#define FA_HEAD_DIM_V 16
#define FA_DTYPE FA_F16
#define FA_PASSES FA_BACKWARD
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_144_176
#define FA_HEAD_DIM 144
#define FA_HEAD_DIM_V 176
#define FA_PASSES FA_BACKWARD
#include "flashattn_cuda.cuh"

#define FA_NAME f16_192_128
#define FA_HEAD_DIM 192
#define FA_HEAD_DIM_V 128
#define FA_DTYPE FA_F16
#define FA_PASSES FA_BACKWARD
#include "flashattn_cuda.cuh"

#define FA_NAME f16_208_240
#define FA_HEAD_DIM 208
#define FA_HEAD_DIM_V 240
#define FA_DTYPE FA_F16
#define FA_PASSES FA_BACKWARD
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_256
#define FA_HEAD_DIM 256
#define FA_PASSES FA_BACKWARD
#include "flashattn_cuda.cuh"

static const fa_cuda_info *const dims[] = {
    &bf16_64_plain_cuda_info, &bf16_128_plain_cuda_info, &f16_16_32_cuda_info,
    &bf16_80_48_cuda_info,    &f16_112_16_cuda_info,     &bf16_144_176_cuda_info,
    &f16_192_128_cuda_info,   &f16_208_240_cuda_info,    &bf16_256_cuda_info};

/* Hooks whose derivatives are not 1, of a score that softcap and bias have changed before. */
#define CURVED_SCORE(s, b, h, i, j) \
    ((s) * ((h) % 2 ? 0.5f : 2.0f) + (s) * (s) * 0.0625f * ((i) > (j)) - ((b) == 1 ? 1.0f : 0.0f) * ((j) % 3 == 1))
#define CURVED_GRAD(s, b, h, i, j) (((h) % 2 ? 0.5f : 2.0f) + (s) * 0.125f * ((i) > (j)))

#define FA_NAME f16_64_hooks
#define FA_HEAD_DIM 64
#define FA_DTYPE FA_F16
#define FA_FEATURES FA_ALL_FEATURES
#define FA_PASSES FA_BACKWARD
#define FA_SCORE_MOD CURVED_SCORE
#define FA_SCORE_MOD_GRAD CURVED_GRAD
#define FA_MASK_MOD HOOK_MASK
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_16_no_grad
#define FA_HEAD_DIM 16
#define FA_PASSES FA_BACKWARD
#define FA_SCORE_MOD CURVED_SCORE
#include "flashattn_cuda.cuh"

#define FA_NAME bf16_64 /* the CPU kernel of the same name: their functions do not meet */
#define FA_HEAD_DIM 64
#define FA_DTYPE FA_BF16
#define FA_PASSES (FA_FORWARD | FA_BACKWARD)
#define FA_FEATURES FA_ALL_FEATURES
#include "flashattn.h"

#include "device.h"
#include "fa_gradient.h"

/* ---- running ----------------------------------------------------------------------------- */

static int due(void) { return due_every(6); }

enum { ALL = 31 };

/* The problem on the device, with everything that the backward pass reads or writes. */
static int upload(const fag_problem *g, device_copy *c) {
    if (!device_upload(&g->p, c)) return 0;
#define MOVE(type, field) c->args.field = (type *)device_address(&g->p, c, g->p.args.field);
    MOVE(const void, d_o.data) MOVE(void, dq.data) MOVE(void, dk.data) MOVE(void, dv.data)
    MOVE(float, dbias.data) MOVE(float, dsink)
#undef MOVE
    return 1;
}
static int download(fag_problem *g, const device_copy *c) {
    int ok = 1;
    for (int n = 0; ok && n < FAG_COUNT; n++)
        ok = device_ok(cudaMemcpy(g->out[n].bytes, device_address(&g->p, c, g->out[n].bytes), g->out[n].size,
                                  cudaMemcpyDeviceToHost), fag_names[n]);
    return ok;
}

/* The gradients of g, whose forward pass has been done, into g. What is no output is 0xff before. */
static int device_backward(const fa_cuda_info *instance, fag_problem *g) {
    enum { ODD = 20 }; /* the workspace is at an odd address */
    device_copy c;
    unsigned char behind[64];
    void *workspace = NULL;
    size_t bytes = 0;
    for (int n = 0; n < FAG_COUNT; n++) memset(g->out[n].bytes, 0xff, g->out[n].size);
    int ok = upload(g, &c);
    if (ok) bytes = instance->backward_workspace(&c.args);
    ok = ok && device_ok(cudaMalloc(&workspace, bytes + ODD + sizeof behind), "cudaMalloc") &&
         device_ok(cudaMemset(workspace, 0xff, bytes + ODD + sizeof behind), "cudaMemset") &&
         device_done(instance, &c, instance->backward(&c.args, (char *)workspace + ODD, bytes, 0)) && download(g, &c) &&
         device_ok(cudaMemcpy(behind, (char *)workspace + ODD + bytes, sizeof behind, cudaMemcpyDeviceToHost),
                   "workspace");
    for (int n = 0; ok && n < (int)sizeof behind; n++)
        if (behind[n] != 0xff) printf("# %s: wrote behind the workspace\n", instance->info.name), ok = 0;
    cudaFree(workspace), device_free(&c);
    return ok;
}

/* O and LSE as the reference has them. */
static void reference_forward(fap_problem *p) {
    fap_expect(p);
    const int64_t rows = p->rows * p->spec.hq, elements = rows * p->spec.dv;
    float *o = (float *)(void *)fap_alloc(p, (elements + rows) * 4), *lse = o + elements;
    for (int64_t n = 0; n < elements; n++) o[n] = (float)p->o_ref[n];
    for (int64_t n = 0; n < rows; n++) lse[n] = (float)p->lse_ref[n];
    fap_write(p, o, lse);
}

static int build(const fa_cuda_info *instance, fag_problem *g, const char *line, int wanted) {
    static fa_info info; /* problems are of a forward pass */
    info = instance->info, info.passes |= FA_FORWARD;
    fap_unit = 8;
    return fag_build(g, line, &info, wanted);
}

static int deterministic; /* what all cases ask for */
static int check_wanted(const fa_cuda_info *instance, int wanted, const char *line) {
    fag_problem g;
    if (!due()) return 1;
    if (!build(instance, &g, line, wanted)) return 0;
    reference_forward(&g.p);
    g.p.args.deterministic = deterministic;
    int ok = device_backward(instance, &g) && fag_judge(&g);
    if (!ok)
        printf("#     %s: %s\n", instance->info.name, line),
            cudaDeviceReset(); /* a broken context is of no use to others */
    fag_free(&g);
    return ok;
}
static int check_case(const fa_cuda_info *instance, const char *format, ...) {
    char line[512];
    va_list list;
    va_start(list, format), vsnprintf(line, sizeof line, format, list), va_end(list);
    return check_wanted(instance, ALL, line);
}

/* ---- shapes ------------------------------------------------------------------------------ */

FA_TEST(edges_of_tiles) {
    static const int edges[] = {1, 15, 17, 33, 63, 64, 65, 127, 128, 129};
    for (int q = 0; q < COUNT(edges); q++)
        for (int k = q % 2; k < COUNT(edges); k += 2)
            FA_EXPECT(check_case(dims[(q + k) / 2 % 2], "sq=%d sk=%d seed=%d causal=%d", edges[q], edges[k], q,
                                 k / 2 % 2));
}

FA_TEST(every_head_dim) {
    for (int n = 0; n < COUNT(dims); n++) {
        FA_EXPECT(check_case(dims[n], "sq=77 sk=140"));
        FA_EXPECT(check_case(dims[n], "b=2 hq=4 hk=2 sq=70 sk=67 causal=1 varlen=1"));
    }
}

FA_TEST(grouped_heads) {
    static const int heads[][2] = {{4, 2}, {4, 1}, {6, 3}, {5, 1}};
    static const int lengths[] = {1, 13, 70};
    for (int n = 0; n < COUNT(heads); n++)
        for (int t = 0; t < COUNT(lengths); t++)
            FA_EXPECT(check_case(dims[(n + t) % 4], "b=2 hq=%d hk=%d sq=%d sk=%d causal=%d seed=%d", heads[n][0],
                                 heads[n][1], lengths[t], 20 + lengths[t], t % 2, n));
}

/* More queries than keys under a causal mask: the first rows see nothing; windows leave out keys and queries. */
FA_TEST(rows_and_keys_that_meet_nobody) {
    static const char *const lines[] = {
        "b=2 hq=2 sq=171 sk=35 causal=1", "sq=40 sk=0",           "sq=171 sk=0 causal=1",
        "sq=300 sk=300 causal=1 wl=20",   "sq=140 sk=330 wl=5 wr=9", "sq=40 sk=300 wl=100 wr=1",
        "sq=300 sk=40 wl=7 wr=9",         "sq=200 sk=100 wr=9"};
    for (int n = 0; n < COUNT(lines); n++) FA_EXPECT(check_case(dims[n % 2], "%s", lines[n]));
}

FA_TEST(layouts) {
    for (int l = 0; l < FAP_NUM_LAYOUTS; l++)
        for (int n = 0; n < 2; n++)
            FA_EXPECT(check_case(dims[n + 2 * (l % 2)], "b=2 hq=4 hk=2 sq=35 sk=70 causal=1 layout=%s varlen=%d",
                                 fap_layout_names[l], n));
}

/* ---- features ---------------------------------------------------------------------------- */

FA_TEST(each_feature) {
    static const char *const features[] = {
        "wl=30", "wr=9",      "wl=40 wr=12", "used=1",    "used=2 page=16",   "page=3 used=2", "scale=-0.2", "nan=1 causal=1",
        "softcap=4", "alibi=1",   "alibi=2 softcap=6", "bias=1",  "bias=2", "bias=3 softcap=5", "bias=4", "drop=0.3",
        "drop=0.9 nan=1 wr=30", "sink=1",  "bm=16", "bm=33 causal=1", "sink=1 softcap=20 alibi=1 bias=4 drop=0.1 bm=8 page=9"};
    for (int f = 0; f < COUNT(features); f++) {
        FA_EXPECT(check_case(full[f % 2], "hq=2 sq=67 sk=133 seed=%d %s", f, features[f]));
        FA_EXPECT(check_case(full[(f + 1) % COUNT(full)], "b=2 hq=4 hk=2 sq=40 sk=75 varlen=1 used=2 seed=%d %s", f,
                             features[f]));
    }
    for (int tree = 1; tree <= 2; tree++)
        for (int n = 0; n < COUNT(full); n++)
            FA_EXPECT(check_case(full[n], "b=2 hq=4 hk=2 sq=40 sk=75 tree=%d varlen=1 page=16 layout=padded", tree));
}

FA_TEST(hooks) {
    FA_EXPECT(check_case(&f16_64_hooks_cuda_info, "b=2 hq=2 sq=70 sk=140"));
    FA_EXPECT(check_case(&f16_64_hooks_cuda_info, "b=2 hq=4 hk=2 sq=50 sk=70 causal=1 bias=1 softcap=5"));
    FA_EXPECT(check_case(&f16_64_hooks_cuda_info, "b=2 hq=4 hk=2 sq=50 sk=70 bias=4 drop=0.2 alibi=1 page=64"));
}

/* All features at once, each now and then. */
FA_TEST(random_problems) {
    uint64_t rng = fat_seed;
    char line[512];
    for (int n = 0; n < 48; n++)
        FA_EXPECT(check_case(full[n % COUNT(full)], "%s", fap_random(line, &rng, FA_ALL_FEATURES, 60, 140)));
}

/* What is not wanted is not written, and does not change the rest. */
FA_TEST(any_subset_of_gradients) {
    for (int wanted = 0; wanted < 32; wanted += 3)
        FA_EXPECT(check_wanted(full[wanted % 2], wanted, "b=2 hq=2 hk=1 sq=40 sk=150 sink=1 bias=1"));
}

/* What is not finite in a query, a dO, a value, a key that not all see: all that it meets is NaN, nothing else. */
FA_TEST(not_a_number) {
    static const char *const lines[] = {"hq=2 sq=90 sk=150 wl=30 wr=9", "hq=2 sq=90 sk=150 causal=1",
                                        "hq=2 sq=90 sk=150 wl=30 drop=0.5", "sq=90 sk=150 bm=16"};
    for (int n = 0; n < 2 * COUNT(lines); n++) {
        fag_problem g;
        if (!due()) continue;
        FA_REQUIRE(build(full[n % 2], &g, lines[n / 2], ALL));
        fap_problem *p = &g.p;
        fa_store(p->q.data, fap_at_q(p, &p->q, 0, 10, 0) + 3, p->spec.dtype, NAN);
        for (int c = 0; c < p->spec.dv; c++)
            fa_store(g.d_o.data, fap_at_q(p, &g.d_o, 0, 50, 0) + c, p->spec.dtype, NAN);
        if (p->spec.wl) fa_store(p->k.data, fap_at_k(p, &p->k, 0, 30, 0) + 5, p->spec.dtype, NAN);
        fa_store(p->v.data, fap_at_k(p, &p->v, 0, 145, 0) + 5, p->spec.dtype, NAN);
        reference_forward(p);
        FA_EXPECT_MSG(device_backward(full[n % 2], &g) && fag_judge(&g), "%s", lines[n / 2]);
        fag_free(&g);
    }
}

/* ---- both passes, the CPU, bits ---------------------------------------------------------- */

FA_TEST(both_passes) {
    static const char *const lines[] = {"sq=128 sk=128", "hq=2 sq=100 sk=203 causal=1", "b=2 sq=1 sk=1"};
    for (int n = 0; n < COUNT(lines); n++) {
        fag_problem g;
        if (!due()) continue;
        FA_REQUIRE(build(&bf16_64_plain_cuda_info, &g, lines[n], ALL));
        FA_EXPECT_MSG(device_forward(&bf16_64_plain_cuda_info, &g.p) &&
                          device_backward(&bf16_64_plain_cuda_info, &g) && fag_judge(&g),
                      "%s", lines[n]);
        fag_free(&g);
    }
}

/* The same elements are dropped as by the CPU kernel, and the gradients are about the same. */
FA_TEST(drops_what_the_cpu_drops) {
    static const char *const line = "b=2 hq=4 hk=2 sq=70 sk=150 drop=0.4 causal=1 bias=1 seed=3";
    fag_problem g, cpu;
    fap_unit = 8;
    FA_REQUIRE(fag_build(&cpu, line, &bf16_64_info, ALL) && build(&bf16_64_cuda_info, &g, line, ALL));
    FA_REQUIRE(fag_forward(&cpu, &bf16_64_info) && fag_backward(&cpu, &bf16_64_info));
    memcpy(g.p.o.bytes, cpu.p.o.bytes, g.p.o.size), memcpy(g.p.lse.bytes, cpu.p.lse.bytes, g.p.lse.size);
    FA_EXPECT(device_backward(&bf16_64_cuda_info, &g) && fag_judge(&g));
    for (int n = 0; n < FAG_DSINK; n++) {
        const fap_output *x = &g.out[n], *y = &cpu.out[n];
        const int64_t size = (int64_t)fa_sizeof(x->place.dtype), count = ((int64_t)x->size - 512) / size;
        double worst = 0, most = 0;
        for (int64_t e = 0; e < count; e++) {
            const double want = (double)fa_load(y->place.data, e, y->place.dtype);
            most = fmax(most, fabs(want));
            worst = fmax(worst, fabs((double)fa_load(x->place.data, e, x->place.dtype) - want));
        }
        FA_EXPECT_MSG(worst < 0.02 * most, "%s differs by %g of %g", fag_names[n], worst, most);
    }
    fag_free(&g), fag_free(&cpu);
}

static uint64_t hash_of(const fag_problem *g) {
    uint64_t hash = 14695981039346656037u;
    for (int n = 0; n < FAG_COUNT; n++)
        for (size_t e = 0; e < g->out[n].size; e++) hash = (hash ^ g->out[n].bytes[e]) * 1099511628211u;
    return hash;
}

/* deterministic: the same bits each time; FA_TEST_BITS names a file that keeps them from run to run. */
FA_TEST(the_same_bits) {
    static const char *const lines[] = {"b=2 hq=4 hk=2 sq=200 sk=700 causal=1", "hq=2 sq=150 sk=500 wl=100 wr=50",
                                        "b=3 hq=2 hk=1 sq=90 sk=300 varlen=1 used=2", "sq=130 sk=390 bias=1 bm=64"};
    uint64_t all = 0;
    for (int n = 0; n < COUNT(lines); n++) {
        const fa_cuda_info *const instance = full[n % 2];
        fag_problem g;
        uint64_t first = 0;
        FA_REQUIRE(build(instance, &g, lines[n], ALL));
        reference_forward(&g.p);
        g.p.args.deterministic = 1;
        for (int t = 0; t < 2; t++) {
            FA_EXPECT(device_backward(instance, &g) && fag_judge(&g));
            if (t) FA_EXPECT(hash_of(&g) == first);
            first = hash_of(&g), all = all * 31 + first;
        }
        fag_free(&g);
    }
    if (getenv("FA_TEST_BITS")) {
        unsigned long long before = 0;
        FILE *file = fopen(getenv("FA_TEST_BITS"), "r");
        if (file) {
            FA_EXPECT_MSG(fscanf(file, "%llx", &before) == 1 && before == all, "other bits than in the run before");
        } else {
            file = fopen(getenv("FA_TEST_BITS"), "w");
            FA_REQUIRE(file);
            fprintf(file, "%llx\n", (unsigned long long)all);
        }
        fclose(file);
    }
}

FA_TEST(deterministic_features) {
    uint64_t rng = fat_seed + 1;
    char line[512];
    deterministic = 1;
    for (int n = 0; n < 12; n++)
        FA_EXPECT(check_case(full[n % 2], "%s", fap_random(line, &rng, FA_ALL_FEATURES & ~FA_BIAS, 60, 300)));
    deterministic = 0;
}

/* ---- bytes, banks ------------------------------------------------------------------------ */

static fa_status launches(const fa_cuda_info *instance, const fa_args *args, fa_cuda_launch launch[4]) {
#define OF(name) \
    if (instance == &name##_cuda_info) return name##_backward_cuda_launch(args, launch);
    OF(bf16_64_plain)
    OF(bf16_128_plain)
    OF(f16_16_32)
    OF(bf16_80_48)
    OF(f16_112_16)
    OF(bf16_144_176)
    OF(f16_192_128)
    OF(f16_208_240)
    OF(bf16_256)
#undef OF
    return FA_ERR_NO_INSTANCE;
}

/* The launches that users may do themselves. Device memory as fa_io_model says, and LSE and D, which are written once
 * besides; what red adds is counted once, not as read and written. Shared memory without bank conflicts. */
FA_TEST(bytes_and_banks) {
    static const int shapes[][3] = {{256, 384, 0}, {384, 384, 1}, {208, 203, 0}};
    if (!ptx_counter) FA_SKIP("only the PTX machine counts bytes");
    for (int n = 0; n < COUNT(dims) + 2 * COUNT(shapes); n++) {
        const int *const s = shapes[n / 2 % COUNT(shapes)], model = n < 2 * COUNT(shapes);
        const fa_cuda_info *const instance = model ? dims[n % 2] : dims[n - 2 * COUNT(shapes)];
        const fa_info *const info = &instance->info;
        char line[64];
        fag_problem g;
        device_copy c;
        fa_cuda_launch launch[4];
        float *workspace;
        double bytes = 0;
        if (!due()) continue;
        snprintf(line, sizeof line, model ? "b=2 hq=2 sq=%d sk=%d causal=%d" : "sq=130 sk=130", s[0], s[1], s[2]);
        FA_REQUIRE(build(instance, &g, line, ALL));
        reference_forward(&g.p);
        FA_REQUIRE(upload(&g, &c));
        FA_REQUIRE(device_ok(cudaMalloc((void **)&workspace, instance->backward_workspace(&c.args)), "cudaMalloc"));
        FA_REQUIRE(launches(instance, &c.args, launch) == FA_OK);
        for (int t = 0; t < 4; t++) {
            void *parameters[2] = {&c.args, &workspace};
            if (!launch[t].grid) continue;
            FA_EXPECT(device_ok(cudaLaunchKernel(launch[t].kernel, dim3(launch[t].grid), dim3(launch[t].block),
                                                 parameters, launch[t].shared, 0), "launch") &&
                      device_ok(cudaDeviceSynchronize(), "kernel"));
            bytes += (double)(ptx_counter("copy_bytes") + ptx_counter("load_bytes") + ptx_counter("store_bytes") +
                              2 * ptx_counter("atomic_bytes"));
            FA_EXPECT_MSG(ptx_counter("shared_wavefronts") == ptx_counter("shared_wavefronts_ideal"),
                          "%s: bank conflicts in launch %d", info->name, t);
        }
        for (int t = 0; t < FAG_COUNT; t++) memset(g.out[t].bytes, 0, g.out[t].size);
        FA_EXPECT(download(&g, &c) && fag_judge(&g));
        const fa_io io = fa_io_model(2, 2, s[0], s[1], info->head_dim, info->head_dim_v, 2, s[2],
                                     info->head_dim == 64 ? 128 : 64, 128, 1, 1);
        if (model)
            FA_EXPECT_MSG(fabs(bytes / io.bytes_flash - 1) < 0.01, "%s %s: %.0f bytes, the model says %.0f", info->name,
                          line, bytes, io.bytes_flash);
        cudaFree(workspace), device_free(&c), fag_free(&g);
    }
}

/* ---- calls ------------------------------------------------------------------------------- */

FA_TEST(bad_arguments) {
    static float on_host[1 << 14];
    fag_problem g;
    device_copy c;
    fa_error error;
    fa_args a;
    void *workspace;
    FA_REQUIRE(build(&bf16_64_cuda_info, &g, "b=2 hq=4 hk=2 sq=20 sk=30 layout=padded sink=1 bias=1", ALL));
    reference_forward(&g.p);
    FA_REQUIRE(upload(&g, &c));
    const size_t bytes = bf16_64_backward_cuda_workspace(&c.args);
    FA_REQUIRE(bytes && device_ok(cudaMalloc(&workspace, bytes), "cudaMalloc"));
#define REFUSED(expected, change) \
    a = c.args, a.error = &error; \
    change; \
    FA_EXPECT_MSG(bf16_64_backward_cuda(&a, workspace, bytes, 0) == expected && error.status == expected, "%s", \
                  fa_strerror(bf16_64_backward_cuda(&a, workspace, bytes, 0)));
    FA_EXPECT(bf16_64_backward_cuda(NULL, workspace, bytes, 0) == FA_ERR_ARGS_NULL);
    FA_EXPECT(bf16_64_backward_cuda(&c.args, NULL, bytes, 0) == FA_ERR_WORKSPACE_NULL);
    FA_EXPECT(bf16_64_backward_cuda(&c.args, workspace, bytes - 1, 0) == FA_ERR_WORKSPACE_SIZE);
    FA_EXPECT(bf16_64_backward_cuda(&c.args, on_host, bytes, 0) == FA_ERR_CUDA_POINTER);
    REFUSED(FA_ERR_BATCH, a.batch = 0)
    FA_EXPECT(bf16_64_backward_cuda_workspace(&a) == 0);
    REFUSED(FA_ERR_LSE_NULL, a.lse.data = NULL)
    REFUSED(FA_ERR_DO_NULL, a.d_o.data = NULL)
    REFUSED(FA_ERR_DO_ALIGN, a.d_o.data = (const char *)a.d_o.data + 2)
    REFUSED(FA_ERR_DQ_ALIGN, a.dq.data = (char *)a.dq.data + 8)
    REFUSED(FA_ERR_DK_ALIGN, a.dk.stride_s += 4)
    REFUSED(FA_ERR_DV_ALIGN, a.dv.stride_h += 1)
    REFUSED(FA_ERR_DQ_OVERLAP, a.dq.data = (void *)a.q.data)
    REFUSED(FA_ERR_DBIAS_BIAS, a.bias.data = NULL)
    REFUSED(FA_ERR_DSINK_SINK, a.sink = NULL)
    REFUSED(FA_ERR_DETERMINISTIC, a.deterministic = 2)
    REFUSED(FA_ERR_DETERMINISTIC, a.deterministic = 1; a.dbias.stride_b = FA_BROADCAST;
            a.dbias.stride_h = 20 * 30; a.dbias.stride_q = 30)
    REFUSED(FA_ERR_CUDA_POINTER, a.dk.data = on_host)
    FA_EXPECT(!strcmp(error.field, "dk.data"));
    REFUSED(FA_ERR_CUDA_POINTER, a.dsink = on_host)
#undef REFUSED
    FA_EXPECT(bf16_16_no_grad_cuda_info.backward(&c.args, workspace, bytes, 0) == FA_ERR_NO_SCORE_MOD_GRAD);
    fa_cuda_launch launch[4];
    a = c.args, a.batch = 1 << 20, a.seqlen_q = 1 << 20;
    FA_EXPECT(bf16_64_backward_cuda_launch(&a, launch) == FA_ERR_CUDA_GRID);
    FA_EXPECT(download(&g, &c)); /* nothing has been written */
    for (int n = 0; n < FAG_COUNT; n++)
        for (size_t e = 0; e < g.out[n].size; e++) FA_REQUIRE(g.out[n].bytes[e] == 0xff);
    cudaFree(workspace), device_free(&c), fag_free(&g);
}

/* Captured once, replayed twice: the call does nothing but launch, also what deterministic needs. */
FA_TEST(graph) {
    fag_problem g;
    device_copy c;
    device_graph graph;
    void *workspace;
    FA_REQUIRE(build(&bf16_64_cuda_info, &g, "b=2 hq=4 hk=2 sq=70 sk=200 causal=1 sink=1", ALL));
    reference_forward(&g.p);
    g.p.args.deterministic = 1;
    FA_REQUIRE(upload(&g, &c));
    const size_t bytes = bf16_64_backward_cuda_workspace(&c.args);
    FA_REQUIRE(device_ok(cudaMalloc(&workspace, bytes), "cudaMalloc") && graph_begin(&graph));
    FA_EXPECT(bf16_64_backward_cuda(&c.args, workspace, bytes, graph.stream) == FA_OK);
    FA_REQUIRE(graph_end(&graph));
    for (int n = 0; n < 2; n++) {
        for (int t = 0; t < FAG_COUNT; t++)
            FA_EXPECT(device_ok(cudaMemset(device_address(&g.p, &c, g.out[t].bytes), 0xff, g.out[t].size), "memset"));
        FA_EXPECT(graph_replay(&graph) && download(&g, &c) && fag_judge(&g));
    }
    graph_free(&graph), cudaFree(workspace), device_free(&c), fag_free(&g);
}

FA_TEST_MAIN
