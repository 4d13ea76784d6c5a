/* test_forward.cu - the CUDA forward pass against the fp64 reference, with the judge of fa_problem.h. */
#include "cuda_test.h"

#include "instances.h"

#if !defined(FA_TEST_CORE)
#define FA_NAME bf16_64 /* the CPU kernel of the same name: their functions do not meet */
#define FA_HEAD_DIM 64
#define FA_DTYPE FA_BF16
#define FA_PASSES FA_FORWARD
#define FA_FEATURES FA_ALL_FEATURES
#include "flashattn.h"
#endif

#include "forward.h"

static int due(const fa_cuda_info *instance) { return (void)instance, due_every(5); }

/* ---- shapes ------------------------------------------------------------------------------ */

static const int edges[] = {1, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129};

FA_TEST(edges_of_tiles) {
    for (int q = 0; q < COUNT(edges); q++)
        for (int k = q % 2; k < COUNT(edges); k += 2) {
            FA_EXPECT(check_case(&bf16_64_cuda_info, "sq=%d sk=%d seed=%d causal=%d", edges[q], edges[k], q,
                                 k / 2 % 2));
            FA_EXPECT(check_case(&f16_48_cuda_info, "sq=%d sk=%d seed=%d causal=%d", edges[k], edges[q], k,
                                 k / 2 % 2));
        }
}

FA_TEST(every_head_dim) {
    for (int n = 0; n < COUNT(dims); n++) {
        FA_EXPECT(check_case(dims[n], "sq=113 sk=203"));
        if (dims[n]->info.features & FA_CAUSAL) FA_EXPECT(check_case(dims[n], "hq=2 sq=140 sk=130 causal=1"));
    }
}

/* The default features, which are masked by ranges alone: instances with all features also ask each key. */
FA_TEST(default_features) {
    case_number = 0;
    FA_EXPECT(check_case(&bf16_128_cuda_info, "hq=2 sq=140 sk=150 wl=20 wr=9"));
    for (int n = 0; n < 12; n++)
        FA_EXPECT(check_case(
            n % 2 ? &bf16_128_cuda_info : &bf16_256_cuda_info,
            "b=2 hq=4 hk=2 sq=%d sk=%d wl=%d wr=%d causal=%d varlen=%d used=%d page=%d seed=%d", 130 - 9 * n,
            120 + 7 * n, 8 + 5 * n, n % 3 * 11, n / 6, n % 3 == 1, n % 4, n % 5 == 2 ? 16 : 0, n));
}

FA_TEST(grouped_heads) {
    static const int heads[][2] = {{1, 1}, {2, 2}, {4, 2}, {8, 1}, {10, 2}, {33, 1}, {71, 1}};
    static const int lengths[] = {1, 2, 7, 13, 33};
    for (int n = 0; n < COUNT(heads); n++)
        for (int s = 0; s < COUNT(lengths); s++)
            FA_EXPECT(check_case(full[(n + s) % COUNT(full)], "b=2 hq=%d hk=%d sq=%d sk=%d causal=%d seed=%d",
                                 heads[n][0], heads[n][1], lengths[s], 20 + 9 * s, (n + s) % 2, n));
}

FA_TEST(rows_without_keys) { check_rows_without_keys(); }

FA_TEST(layouts) { check_layouts(); }

FA_TEST(varlen) { check_varlen(); }

/* ---- features ---------------------------------------------------------------------------- */

/* Alone, under a causal mask, and with groups of 3 heads, so that all rows of a thread are of different heads, of
 * sequences of different lengths. */
FA_TEST(each_feature) {
    static const char *const features[] = {
        "wl=9",           "wr=20",   "wl=33 wr=5",
        "page=16",        "page=7",  "softcap=5",
        "alibi=1",        "alibi=2", "bias=1",
        "bias=2",         "bias=3",  "bias=4",
        "drop=0.3",       "sink=1",  "bm=16",
        "bm=33",          "nan=1",   "scale=-0.2",
        "drop=0.9 nan=1", "lse=0",   "sink=1 softcap=20 alibi=1 bias=4 drop=0.1 bm=8 page=9"};
    for (int n = 0; n < COUNT(full); n++)
        for (int f = 0; f < COUNT(features); f++) {
            FA_EXPECT(check_case(full[n], "hq=2 sq=67 sk=133 seed=%d %s", f, features[f]));
            FA_EXPECT(check_case(full[n], "hq=2 sq=67 sk=133 causal=1 seed=%d %s", f, features[f]));
            FA_EXPECT(check_case(full[n], "b=3 hq=6 hk=2 sq=27 sk=75 varlen=1 used=2 causal=%d seed=%d %s",
                                 f % 2, f, features[f]));
        }
}

FA_TEST(infinite_values) {
    static const char *const lines[] = {"hq=2 sq=60 sk=90 causal=1",
                                        "hq=4 hk=2 sq=60 sk=90 causal=1 page=16",
                                        "hq=2 sq=60 sk=150 wl=30 wr=9",
                                        "sq=60 sk=90 bm=16",
                                        "sq=60 sk=90",
                                        "hq=2 sq=60 sk=150 causal=1 drop=0.5",
                                        "hq=2 sq=20 sk=90 tree=1"};
    for (int n = 0; n < COUNT(full) * COUNT(lines); n++) {
        const fa_cuda_info *const instance = full[n % COUNT(full)];
        fap_problem p;
        fap_unit = 8;
        FA_REQUIRE(fap_build(&p, lines[n / COUNT(full)], &instance->info));
        put_infinite_values(&p, -INFINITY);
        FA_EXPECT(device_judge(instance, &p, lines[n / COUNT(full)], device_forward(instance, &p)));
    }
}

FA_TEST(trees) { check_trees(); }

FA_TEST(hooks) {
    FA_EXPECT(check_case(&bf16_64_both_cuda_info, "b=2 hq=2 sq=70 sk=140"));
    FA_EXPECT(check_case(&bf16_64_both_cuda_info, "b=2 hq=4 hk=2 sq=70 sk=140 causal=1 page=64"));
}

FA_TEST(random_problems) { check_random_problems(120); }

/* ---- bytes, banks ------------------------------------------------------------------------ */

/* Device memory as fa_io_model says: Q, O and LSE once, K and V once for each tile of queries that sees them. */
typedef fa_status launch_function(const fa_args *args, fa_cuda_launch *launch);

FA_TEST(bytes_are_those_of_the_model) {
    static const int shapes[][4] = {{128, 128, 0}, {256, 512, 0}, {256, 512, 1},
                                    {200, 203, 0}, {384, 384, 1}, {128, 512, 1}};
    const fa_cuda_info *const instances[] = {&f16_64_cuda_info, &bf16_64_cuda_info, &bf16_128_cuda_info};
    launch_function *const launches[] = {f16_64_forward_cuda_launch, bf16_64_forward_cuda_launch,
                                         bf16_128_forward_cuda_launch};
    if (!ptx_counter) FA_SKIP("only the PTX machine counts bytes");
    case_number = 0;
    for (int n = 0; n < 2 * COUNT(shapes); n++) {
        const fa_info *const info = &instances[n % COUNT(instances)]->info;
        const int *const s = shapes[n / 2];
        char line[128];
        fap_problem p;
        device_copy c;
        fa_cuda_launch launch; /* knows the tile */
        if (!due(instances[n % COUNT(instances)])) continue;
        snprintf(line, sizeof line, "b=2 hq=2 sq=%d sk=%d causal=%d", s[0], s[1], s[2]), fap_unit = 8;
        FA_REQUIRE(fap_build(&p, line, info) && device_upload(&p, &c));
        FA_REQUIRE(launches[n % COUNT(instances)](&c.args, &launch) == FA_OK);
        device_free(&c);
        FA_EXPECT(device_forward(instances[n % COUNT(instances)], &p) && fap_judge(&p, info->name));
        fap_free(&p);
        const double bytes = counted_bytes();
        const fa_io io = fa_io_model(2, 2, s[0], s[1], info->head_dim, info->head_dim_v, 2, s[2],
                                     launch.block_m, launch.block_n, 1, 0);
        FA_EXPECT_MSG(bytes == io.bytes_flash, "%s %d x %d: %.0f bytes, the model says %.0f", info->name,
                      s[0], s[1], bytes, io.bytes_flash);
        const double macs = (double)(ptx_counter("mac_mma") + ptx_counter("mac_wgmma")),
                     wanted = 4 * visible_macs(info, &launch, s[0], s[1], s[2]);
        FA_EXPECT_MSG(macs == wanted, "%s %d x %d: %.0f products, wanted %.0f", info->name, s[0], s[1], macs, wanted);
    }
}

FA_TEST(no_bank_conflicts) { check_banks(); }

/* ---- calls ------------------------------------------------------------------------------- */

#if !defined(FA_TEST_CORE)
/* The same elements are dropped as by the CPU kernel: with V = 1 a row of O is the share of P that is kept. */
FA_TEST(drops_what_the_cpu_drops) {
    fap_problem p, q;
    double worst = 0;
    fap_unit = 8;
    FA_REQUIRE(fap_build(&p, "b=2 hq=4 hk=2 sq=70 sk=150 drop=0.4 causal=1 seed=3", &bf16_64_cuda_info.info));
    FA_REQUIRE(fap_build(&q, "b=2 hq=4 hk=2 sq=70 sk=150 drop=0.4 causal=1 seed=3", &bf16_64_info));
    const size_t bytes = bf16_64_forward_workspace(&q.args);
    FA_EXPECT(bf16_64_forward(&q.args, fap_alloc(&q, (int64_t)bytes), bytes) == FA_OK);
    FA_EXPECT(device_forward(&bf16_64_cuda_info, &p));
    for (size_t n = 0; n < (p.o.size - 512) / 2; n++)
        worst = fmax(worst, fabs((double)fa_load(p.o.place.data, (int64_t)n, FA_BF16) -
                                 (double)fa_load(q.o.place.data, (int64_t)n, FA_BF16)));
    FA_EXPECT_MSG(worst < 0.05, "differs by %g",
                  worst); /* an element more or less is 1/20 of a row and more */
    fap_free(&p), fap_free(&q);
}
#endif

static fa_status forward(fa_args *args) { return bf16_64_forward_cuda(args, NULL, 0, 0); }

FA_TEST(bad_arguments) {
    static float on_host[1 << 14];
    fap_problem p;
    device_copy c;
    fa_error error;
    fa_args a;
    fap_unit = 8;
    FA_REQUIRE(fap_build(&p, "b=2 hq=4 hk=2 sq=20 sk=30 layout=padded", &bf16_64_cuda_info.info));
    FA_REQUIRE(device_upload(&p, &c));
#define REFUSED(expected, change) \
    a = c.args, a.error = &error; \
    change; \
    FA_EXPECT_MSG(forward(&a) == expected && error.status == expected, "%s", fa_strerror(forward(&a)));
    FA_EXPECT(forward(&c.args) == FA_OK);
    FA_EXPECT(forward(NULL) == FA_ERR_ARGS_NULL);
    REFUSED(FA_ERR_BATCH, a.batch = 0)
    REFUSED(FA_ERR_NUM_HEADS_K, a.num_heads_k = 3)
    REFUSED(FA_ERR_Q_NULL, a.q.data = NULL)
    REFUSED(FA_ERR_Q_ALIGN, a.q.data = (const char *)a.q.data + 2)
    REFUSED(FA_ERR_K_ALIGN, a.k.data = (const char *)a.k.data + 8)
    REFUSED(FA_ERR_K_ALIGN, a.k.stride_s += 4)
    FA_EXPECT(!strcmp(error.field, "k.stride_s") && error.got == (double)a.k.stride_s);
    REFUSED(FA_ERR_V_ALIGN, a.v.stride_h += 1)
    REFUSED(FA_ERR_O_ALIGN, a.o.stride_b += 2)
    REFUSED(FA_ERR_O_OVERLAP, a.o.data = (void *)a.q.data)
    REFUSED(FA_ERR_SCALE, a.softmax_scale = NAN)
    REFUSED(FA_ERR_PAGE_SIZE, a.block_table = (const int32_t *)a.lse.data)
    REFUSED(FA_ERR_CUDA_POINTER, a.k.data = on_host)
    FA_EXPECT(!strcmp(error.field, "k.data"));
    REFUSED(FA_ERR_CUDA_POINTER, a.sink = on_host)
#undef REFUSED
    a = c.args, a.causal = 1;
    FA_EXPECT(f16_256_cuda_info.forward(&a, NULL, 0, 0) == FA_ERR_NEEDS_CAUSAL);
    fa_cuda_launch launch;
    a = c.args, a.batch = 1 << 20, a.seqlen_q = 1 << 20;
    FA_EXPECT(bf16_64_forward_cuda_launch(&a, &launch) == FA_ERR_CUDA_GRID);
    device_free(&c), fap_free(&p);
}

/* Captured once, replayed twice on new data: the call does nothing but launch. */
FA_TEST(graph) {
    fap_problem p;
    device_copy c;
    device_graph g;
    fap_unit = 8;
    FA_REQUIRE(fap_build(&p, "b=2 hq=4 hk=2 sq=70 sk=90 causal=1", &bf16_64_cuda_info.info));
    FA_REQUIRE(device_upload(&p, &c) && graph_begin(&g));
    FA_EXPECT(bf16_64_forward_cuda(&c.args, NULL, 0, g.stream) == FA_OK);
    FA_REQUIRE(graph_end(&g));
    FA_EXPECT(device_replay(&p, &c, &g));
    graph_free(&g);
    device_free(&c), fap_free(&p);
}

FA_TEST_MAIN
