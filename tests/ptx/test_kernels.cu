// test_kernels.cu - the machine runs whole attention kernels (kernels/): results against a plain model in
// double precision, bytes of device memory against their formula, no bank conflicts, no findings.
//
// Built for compute_80 it has the sm_80 kernel alone. mutants.sh builds it with -DMUTANTS='"file"', which
// defines `mutants`: copies of the kernels that are broken in one line each; the environment variable MUTANT
// picks one.
#include <cuda.h>
#include <cuda_runtime.h>
#include <vector>
#include "ptx_test.h"
#include "kernels/forward_sm80.cuh"
#define HOPPER (__CUDA_ARCH_LIST__ >= 900)
#if HOPPER
#include "kernels/decode_sm90.cuh"
#include "kernels/forward_sm90.cuh"
#endif

extern "C" uint64_t ptx_findings(void);

struct Kernels { // [0]: D = 64, [1]: D = 128
    const void *forward_sm80[2], *forward_sm90[2], *append[2], *decode[2];
};
#define BOTH(kernel) \
    { (const void *)kernel<64>, (const void *)kernel<128> }
static const Kernels whole = {BOTH(forward_sm80),
#if HOPPER
                              BOTH(forward_sm90), BOTH(append_sm90), BOTH(decode_sm90)
#endif
};
#ifdef MUTANTS
#include MUTANTS
static const Kernels &kernels = getenv("MUTANT") ? mutants[atoi(getenv("MUTANT"))] : whole;
#else
static const Kernels &kernels = whole;
#endif

static bool quick() {
    const char *scale = getenv("FA_TEST_SCALE");
    return scale && !strcmp(scale, "quick");
}

// ---- device memory -----------------------------------------------------------------------------------

#define OK(call) FA_EXPECT_MSG((call) == cudaSuccess, "%s", cudaGetErrorString(cudaGetLastError()))

template <typename T> struct Buffer { // an array on the host and one on the device
    std::vector<T> host;
    T *device = nullptr;
    explicit Buffer(size_t n) : host(n) { OK(cudaMalloc((void **)&device, n * sizeof(T))); }
    Buffer(const Buffer &) = delete;
    ~Buffer() { cudaFree(device); }
    size_t bytes() const { return host.size() * sizeof(T); }
    void upload() { OK(cudaMemcpy(device, host.data(), bytes(), cudaMemcpyHostToDevice)); }
    void download() { OK(cudaMemcpy(host.data(), device, bytes(), cudaMemcpyDeviceToHost)); }
};

static void fill_normal(Buffer<bf16> &b, uint64_t *state, double scale) {
    for (bf16 &x : b.host) x = __float2bfloat16((float)(fat_normal(state) * scale));
    b.upload();
}

// ---- model -------------------------------------------------------------------------------------------

static double dot(const bf16 *a, const bf16 *b, int d) {
    double sum = 0;
    for (int i = 0; i < d; i++) sum += (double)__bfloat162float(a[i]) * (double)__bfloat162float(b[i]);
    return sum;
}

// One query against `keys` keys; key(j) and value(j) point to D elements. Expects o and, if there is one,
// lse. The tolerance is that of rounding P and the result to bf16: 2^-8 of sum p |v| and of the result.
template <typename Rows>
static void expect_attention(const bf16 *q, Rows key, Rows value, int keys, int d, double scale,
                             const bf16 *o, const float *lse) {
    std::vector<double> p(keys), sum(d), size(d);
    double top = -INFINITY, total = 0;
    for (int j = 0; j < keys; j++) p[j] = dot(q, key(j), d) * scale, top = fmax(top, p[j]);
    for (int j = 0; j < keys; j++) {
        total += p[j] = exp(p[j] - top);
        for (int c = 0; c < d; c++) {
            double x = p[j] * (double)__bfloat162float(value(j)[c]);
            sum[c] += x, size[c] += fabs(x);
        }
    }
    for (int c = 0; c < d; c++)
        FA_EXPECT_NEAR(__bfloat162float(o[c]), sum[c] / total,
                       (size[c] + fabs(sum[c])) / total * 0x1.1p-8 + 1e-6);
    if (lse) FA_EXPECT_NEAR(*lse, top + log(total), 2e-5);
}

// ---- forward -----------------------------------------------------------------------------------------

#if HOPPER
typedef CUresult (*Encode)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *,
                           const cuuint64_t *, const cuuint32_t *, const cuuint32_t *, CUtensorMapInterleave,
                           CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

// [heads][n][d], boxes of 64 columns and `rows` rows
static CUtensorMap tensor_map(bf16 *at, int d, int n, int heads, int rows) {
    static Encode encode;
    cudaDriverEntryPointQueryResult found;
    if (!encode)
        OK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", (void **)&encode, 12000,
                                            cudaEnableDefault, &found));
    CUtensorMap map;
    cuuint64_t size[3] = {(cuuint64_t)d, (cuuint64_t)n, (cuuint64_t)heads};
    cuuint64_t stride[2] = {(cuuint64_t)d * 2, (cuuint64_t)n * d * 2};
    cuuint32_t box[3] = {64, (cuuint32_t)rows, 1}, step[3] = {1, 1, 1};
    FA_EXPECT(encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, at, size, stride, box, step,
                     CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                     CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS);
    return map;
}
#endif

struct Forward {
    const void *kernel;
    bool tma;
    int d, n, heads, causal, keys_per_tile; // 128 query rows a CTA
    size_t shared;
    unsigned threads;
};

static void test_forward(Forward f) {
    cudaDeviceReset(); // whatever a test before has done
    const size_t elements = (size_t)f.heads * f.n * f.d;
    const double scale = 1 / sqrt((double)f.d);
    float scale_log2 = (float)(scale * 1.4426950408889634);
    uint64_t state = fat_seed + (uint64_t)f.n;
    Buffer<bf16> q(elements), k(elements), v(elements), o(elements);
    Buffer<float> lse((size_t)f.heads * f.n);
    fill_normal(q, &state, 2), fill_normal(k, &state, 1), fill_normal(v, &state, 1);

    const dim3 grid((unsigned)(f.n + 127) / 128, (unsigned)f.heads);
    OK(cudaFuncSetAttribute(f.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)f.shared));
#if HOPPER
    if (f.tma) {
        CUtensorMap mq = tensor_map(q.device, f.d, f.n, f.heads, 64),
                    mk = tensor_map(k.device, f.d, f.n, f.heads, 128);
        CUtensorMap mv = tensor_map(v.device, f.d, f.n, f.heads, 128),
                    mo = tensor_map(o.device, f.d, f.n, f.heads, 64);
        void *args[] = {&mq, &mk, &mv, &mo, &lse.device, &f.n, &scale_log2, &f.causal};
        OK(cudaLaunchKernel(f.kernel, grid, dim3(f.threads), args, f.shared, 0));
    }
#endif
    if (!f.tma) {
        void *args[] = {&q.device,   &k.device, &v.device,   &o.device,
                        &lse.device, &f.n,      &scale_log2, &f.causal};
        OK(cudaLaunchKernel(f.kernel, grid, dim3(f.threads), args, f.shared, 0));
    }
    if (!OK(cudaDeviceSynchronize())) return;
    o.download(), lse.download();
    for (int h = 0; h < f.heads; h++)
        for (int i = 0; i < f.n; i++) {
            const size_t row = (size_t)h * f.n + i;
            auto rows_of = [&](const Buffer<bf16> &b) {
                const bf16 *first = &b.host[(size_t)h * f.n * f.d];
                return [=](int j) { return first + (size_t)j * f.d; };
            };
            expect_attention(&q.host[row * f.d], rows_of(k), rows_of(v), f.causal ? i + 1 : f.n, f.d, scale,
                             &o.host[row * f.d], &lse.host[row]);
        }

    // each query tile reads the tiles of keys that it sees, up to the last key
    uint64_t loads = elements * 2, macs = 0;
    for (int row = 0; row < f.n; row += 128) {
        int keys = f.causal && row + 128 < f.n ? row + 128 : f.n;
        keys = (keys + f.keys_per_tile - 1) / f.keys_per_tile * f.keys_per_tile;
        loads += (uint64_t)f.heads * (keys < f.n ? keys : f.n) * f.d * 2 * 2;
        macs += (uint64_t)f.heads * 128 * keys * f.d * 2;
    }
    FA_EXPECT(ptx_counter(f.tma ? "mac_wgmma" : "mac_mma") == macs);
    FA_EXPECT(ptx_counter(f.tma ? "tma_load_bytes" : "copy_bytes") == loads);
    FA_EXPECT(ptx_counter("load_bytes") == 0);
    FA_EXPECT(ptx_counter("tma_store_bytes") + ptx_counter("store_bytes") == elements * 2 + lse.bytes());
    FA_EXPECT(ptx_counter("shared_wavefronts") == ptx_counter("shared_wavefronts_ideal"));
    FA_EXPECT(ptx_counter("shared_wavefronts") > 0);
    FA_EXPECT(ptx_findings() == 0);
}

static void test_forward_sizes(Forward f) {
    static const int all[] = {1, 63, 64, 65, 127, 128, 129, 200, 257, 512, 0}, few[] = {129, 450, 0};
    for (const int *n = quick() ? few : all; *n; n++) {
        for (f.causal = 0; f.causal < 2; f.causal++) {
            f.n = *n, f.heads = *n < 257 ? 2 : 1;
            test_forward(f);
            FA_EXPECT_MSG(!fat_failures, "n %d, d %d, causal %d", f.n, f.d, f.causal);
            if (fat_failures) return;
        }
    }
}

template <int D> static Forward sm80() {
    return {
        kernels.forward_sm80[D / 128], false, D, 0, 0, 0, Sm80<D>::KEYS, Sm80<D>::SHARED, Sm80<D>::THREADS};
}
FA_TEST(forward_sm80_d128) { test_forward_sizes(sm80<128>()); }
FA_TEST(forward_sm80_d64) { test_forward_sizes(sm80<64>()); }

#if HOPPER
template <int D> static Forward sm90() {
    return {
        kernels.forward_sm90[D / 128], true, D, 0, 0, 0, Sm90<D>::KEYS, Sm90<D>::SHARED, Sm90<D>::THREADS};
}
FA_TEST(forward_sm90_d128) { test_forward_sizes(sm90<128>()); }
FA_TEST(forward_sm90_d64) { test_forward_sizes(sm90<64>()); }

// ---- decode ------------------------------------------------------------------------------------------

static void test_decode(int d, std::vector<int> lengths, int heads, int splits) {
    cudaDeviceReset(); // whatever a test before has done
    const int batch = (int)lengths.size();
    int per_sequence = 0, pages = 0, keys = 0;
    for (int n : lengths) {
        int of_this = (n + PAGE - 1) / PAGE;
        pages += of_this, keys += n, per_sequence = of_this > per_sequence ? of_this : per_sequence;
    }
    const size_t row = (size_t)heads * d;
    uint64_t state = fat_seed + (uint64_t)keys;
    Buffer<bf16> q(batch * row), k_new(batch * row), v_new(batch * row), o(batch * row);
    Buffer<bf16> k(pages * row * PAGE), v(pages * row * PAGE);
    Buffer<int> table((size_t)batch * per_sequence), length(batch);
    Buffer<float> partial((size_t)batch * heads * splits * (d + 2));
    Buffer<unsigned> counter((size_t)batch * heads);
    fill_normal(q, &state, 2), fill_normal(k_new, &state, 1), fill_normal(v_new, &state, 1);
    fill_normal(k, &state, 1), fill_normal(v, &state, 1);
    OK(cudaMemset(counter.device, 0, counter.bytes()));

    std::vector<int> order(pages); // pages in no order, each used once
    for (int i = 0; i < pages; i++) {
        int j = fat_below(&state, i + 1);
        order[i] = order[j], order[j] = i;
    }
    for (int b = 0, next = 0; b < batch; b++) {
        length.host[b] = lengths[b];
        for (int i = 0; i < per_sequence; i++)
            table.host[b * per_sequence + i] = i * PAGE < lengths[b] ? order[next++] : 1 << 30;
    }
    table.upload(), length.upload();

    const double scale = 1 / sqrt((double)d);
    float scale_log2 = (float)(scale * 1.4426950408889634);
    Cache cache = {k.device, v.device, table.device, length.device, heads, per_sequence};
    void *append_args[] = {&cache, &k_new.device, &v_new.device};
    void *decode_args[] = {&cache, &q.device, &o.device, &partial.device, &counter.device, &scale_log2};
    cudaLaunchAttribute attribute[2] = {};
    attribute[0].id = cudaLaunchAttributeClusterDimension;
    attribute[0].val.clusterDim.x = 2, attribute[0].val.clusterDim.y = attribute[0].val.clusterDim.z = 1;
    attribute[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute[1].val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(2 * (unsigned)splits, (unsigned)heads, (unsigned)batch),
    config.blockDim = dim3(128);
    config.dynamicSmemBytes = 512 * (size_t)d, config.attrs = attribute, config.numAttrs = 2;
    const void *decode = kernels.decode[d / 128];
    OK(cudaFuncSetAttribute(decode, cudaFuncAttributeMaxDynamicSharedMemorySize,
                            (int)config.dynamicSmemBytes));
    OK(cudaLaunchKernel(kernels.append[d / 128], dim3((unsigned)heads, (unsigned)batch), dim3((unsigned)d),
                        append_args, 0, 0));
    OK(cudaLaunchKernelExC(&config, decode, decode_args));
    if (!OK(cudaDeviceSynchronize())) return;
    FA_EXPECT(ptx_counter("tma_load_bytes") == (uint64_t)keys * row * 2 * 2);
    FA_EXPECT(ptx_counter("shared_wavefronts") == ptx_counter("shared_wavefronts_ideal"));

    o.download(), k.download(), v.download(), counter.download();
    for (unsigned c : counter.host) FA_EXPECT(c == 0);
    for (int b = 0; b < batch; b++)
        for (int h = 0; h < heads; h++) {
            const size_t at = b * row + (size_t)h * d;
            auto rows_of = [&](const Buffer<bf16> &cached, const Buffer<bf16> &fresh) {
                const bf16 *first = cached.host.data(), *last = &fresh.host[at];
                const int *page = &table.host[b * per_sequence], n = lengths[b];
                return [=](int j) {
                    return j == n - 1 ? last
                                      : first + (((size_t)page[j / PAGE] * heads + h) * PAGE + j % PAGE) * d;
                };
            };
            expect_attention(&q.host[at], rows_of(k, k_new), rows_of(v, v_new), lengths[b], d, scale,
                             &o.host[at], nullptr);
        }
    FA_EXPECT(ptx_findings() == 0);
}

FA_TEST(decode_d128) {
    test_decode(128, {1, 17, 700}, 2, 3);
    test_decode(128, {500}, 1, 1); // each warp goes around its ring
}
FA_TEST(decode_d64) {
    test_decode(64, {16, 333}, 3, 2);
    test_decode(64, {700}, 1, 1);
}
#endif

FA_TEST_MAIN
