// test_report.cu - what the machine counts: wavefronts of shared memory, sectors and bytes of device memory,
// multiply-adds, instructions; and the file that FA_PTX_REPORT asks for.
#include <cuda_runtime.h>
#include <stdint.h>
#include <unistd.h>
#include "ptx_test.h"


#define OK(call) FA_EXPECT_MSG((call) == cudaSuccess, "%s", cudaGetErrorString(cudaGetLastError()))

// ---- shared memory -----------------------------------------------------------------------------------

enum { WORDS = 4096 };

// One request of a warp: lane l reads T number index[l].
template <typename T> static __global__ void read_shared(const int *index, float *out) {
    __shared__ __align__(16) uint32_t words[WORDS];
    uint32_t at = (uint32_t)__cvta_generic_to_shared(words);
    for (int i = threadIdx.x; i < WORDS; i += 32) words[i] = 0; // without conflicts
    __syncwarp();
    uint32_t address = at + index[threadIdx.x] * (int)sizeof(T), x = 0, y;
    if (index[threadIdx.x] >= 0) {
        if (sizeof(T) == 1) asm volatile("ld.shared.u8 %0, [%1];" : "=r"(x) : "r"(address));
        if (sizeof(T) == 2)
            asm volatile("{ .reg .u16 h; ld.shared.u16 h, [%1]; cvt.u32.u16 %0, h; }"
                         : "=r"(x)
                         : "r"(address));
        if (sizeof(T) == 4) asm volatile("ld.shared.u32 %0, [%1];" : "=r"(x) : "r"(address));
        if (sizeof(T) == 8)
            asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(x), "=r"(y) : "r"(address));
        if (sizeof(T) == 16)
            asm volatile("ld.shared.v4.u32 {%0, %1, %1, %1}, [%2];" : "=r"(x), "=r"(y) : "r"(address));
    }
    out[threadIdx.x] = (float)x;
}

// The definition, without any short cut: groups of lanes that ask for 128 bytes, different words of the
// fullest bank.
static void wavefronts(const int *index, int size, uint64_t *taken, uint64_t *ideal) {
    int lanes = size <= 4 ? 32 : 128 / size;
    for (int first = 0; first < 32; first += lanes) {
        static int seen[WORDS];
        int in_bank[32] = {0}, most = 0;
        memset(seen, 0, sizeof seen);
        for (int l = first; l < first + lanes; l++)
            for (int byte = index[l] * size; index[l] >= 0 && byte < (index[l] + 1) * size; byte++)
                if (!seen[byte / 4]++ && ++in_bank[byte / 4 % 32] > most) most = in_bank[byte / 4 % 32];
        *taken += most, *ideal += most > 0;
    }
}

template <typename T> static void test_shared(int (*pattern)(int lane, int step), int step) {
    int index[32], *on_device;
    float *out;
    uint64_t taken = WORDS / 32, ideal = WORDS / 32; // the zeros
    for (int l = 0; l < 32; l++) index[l] = pattern(l, step);
    wavefronts(index, sizeof(T), &taken, &ideal);
    OK(cudaMalloc(&on_device, sizeof index));
    OK(cudaMalloc(&out, 32 * sizeof *out));
    OK(cudaMemcpy(on_device, index, sizeof index, cudaMemcpyHostToDevice));
    read_shared<T><<<1, 32>>>(on_device, out);
    OK(cudaDeviceSynchronize());
    FA_EXPECT_MSG(ptx_counter("shared_wavefronts") == taken &&
                      ptx_counter("shared_wavefronts_ideal") == ideal,
                  "%d bytes, step %d: %d wavefronts, %d at best; want %d, %d", (int)sizeof(T), step,
                  (int)ptx_counter("shared_wavefronts"), (int)ptx_counter("shared_wavefronts_ideal"),
                  (int)taken, (int)ideal);
    cudaFree(on_device), cudaFree(out);
}

static uint64_t random_state;
static int stride(int lane, int step) { return lane * step; }
static int broadcast(int lane, int step) { return lane / step; }
static int half_idle(int lane, int step) { return lane % 2 ? -1 : lane * step; }
static int swizzle(int lane, int step) { return lane * 8 + (lane + step) % 8; }
static int anywhere(int, int step) { return fat_below(&random_state, step) - 1; }

template <typename T> static void test_patterns() {
    for (int step = 1; step <= 33; step++) {
        if (32 * step * sizeof(T) > WORDS * 4) break;
        test_shared<T>(stride, step), test_shared<T>(half_idle, step), test_shared<T>(broadcast, step);
    }
    for (int step = 0; step < 8; step++) test_shared<T>(swizzle, step);
    random_state = fat_seed;
    for (int i = 0; i < 40; i++) test_shared<T>(anywhere, i < 20 ? 40 : WORDS * 4 / (int)sizeof(T));
}
FA_TEST(shared_1_byte) { test_patterns<uint8_t>(); }
FA_TEST(shared_2_bytes) { test_patterns<uint16_t>(); }
FA_TEST(shared_4_bytes) { test_patterns<uint32_t>(); }
FA_TEST(shared_8_bytes) { test_patterns<uint2>(); }
FA_TEST(shared_16_bytes) { test_patterns<uint4>(); }

static __global__ void read_matrix(int pitch) { // ldmatrix.x4: 8 rows of 16 bytes a wavefront
    extern __shared__ uint4 rows[];
    for (int i = threadIdx.x; i < 32 * pitch / 16; i += 32) rows[i] = make_uint4(0, 0, 0, 0);
    __syncwarp();
    uint32_t at = (uint32_t)__cvta_generic_to_shared(rows) + threadIdx.x * pitch;
    asm volatile(
        "{ .reg .b32 r<4>; ldmatrix.sync.aligned.m8n8.x4.shared.b16 {r0, r1, r2, r3}, [%0]; }" ::"r"(at)
        : "memory");
}
FA_TEST(matrices) {
    static const struct {
        int pitch, wavefronts;
    } of[] = {{16, 4}, {32, 8}, {64, 16}, {128, 32}, {144, 4}, {160, 8}};
    for (const auto &p : of) {
        int zeros = 32 * p.pitch / 128; // wavefronts of the stores
        read_matrix<<<1, 32, 32 * p.pitch>>>(p.pitch);
        OK(cudaDeviceSynchronize());
        FA_EXPECT_MSG(ptx_counter("shared_wavefronts") == (uint64_t)(p.wavefronts + zeros), "pitch %d: %d",
                      p.pitch, (int)ptx_counter("shared_wavefronts") - zeros);
        FA_EXPECT(ptx_counter("shared_wavefronts_ideal") == (uint64_t)(4 + zeros));
    }
}

// ---- device memory -----------------------------------------------------------------------------------

template <typename T> static __global__ void copy(const T *from, T *to, int step, int lanes) {
    if (threadIdx.x < lanes) to[threadIdx.x] = from[threadIdx.x * step];
}
template <typename T> static void test_copy(int step, int lanes) {
    T *from, *to;
    OK(cudaMalloc(&from, 32 * 40 * sizeof(T)));
    OK(cudaMalloc(&to, 32 * sizeof(T)));
    OK(cudaMemset(from, 0, 32 * 40 * sizeof(T)));
    copy<T><<<1, 32>>>(from, to, step, lanes);
    OK(cudaDeviceSynchronize());
    uint64_t sectors = 0, last = ~(uint64_t)0;
    for (int l = 0; l < lanes; l++) {
        uint64_t sector = (uint64_t)l * step * sizeof(T) / 32; // allocations begin at a sector
        sectors += sector != last, last = sector;
    }
    FA_EXPECT(ptx_counter("load_bytes") == lanes * sizeof(T) &&
              ptx_counter("store_bytes") == lanes * sizeof(T));
    FA_EXPECT_MSG(ptx_counter("load_sectors") == sectors,
                  "%d sectors read, want %d (%d bytes, step %d, %d lanes)", (int)ptx_counter("load_sectors"),
                  (int)sectors, (int)sizeof(T), step, lanes);
    FA_EXPECT(ptx_counter("store_sectors") == (lanes * sizeof(T) + 31) / 32);
    cudaFree(from), cudaFree(to);
}
FA_TEST(sectors) {
    for (int step = 0; step < 40; step++)
        for (int lanes = 1; lanes <= 32; lanes += 31 - (lanes == 1) * 20) {
            test_copy<uint8_t>(step, lanes), test_copy<uint16_t>(step, lanes), test_copy<float>(step, lanes);
            test_copy<double>(step, lanes), test_copy<float4>(step, lanes);
        }
}

static __global__ void backwards(const float *from, float *to) {
    to[31 - threadIdx.x] = from[threadIdx.x ^ 21];
}
static __global__ void count(unsigned *counter) { atomicAdd(counter, 1u); }
FA_TEST(sectors_in_any_order) {
    float *x, *y;
    OK(cudaMalloc(&x, 128));
    OK(cudaMalloc(&y, 128));
    OK(cudaMemset(x, 0, 128));
    backwards<<<1, 32>>>(x, y);
    OK(cudaDeviceSynchronize());
    FA_EXPECT(ptx_counter("load_sectors") == 4 && ptx_counter("store_sectors") == 4);
    count<<<3, 64>>>((unsigned *)x);
    OK(cudaDeviceSynchronize());
    FA_EXPECT(ptx_counter("atomic_bytes") == 3 * 64 * 4 && ptx_counter("store_bytes") == 0);
    FA_EXPECT(ptx_counter("thread_instructions") % (3 * 64) == 0);
    FA_EXPECT(ptx_counter("thread_instructions") == 32 * ptx_counter("warp_instructions"));
    cudaFree(x), cudaFree(y);
}

// ---- the file ----------------------------------------------------------------------------------------

// This program, again, with a report: the rows of one launch are there, and every line has five columns.
FA_TEST(csv) {
    char command[600], path[] = "/tmp/fa_ptx_report_XXXXXX", line[1000];
    FA_REQUIRE(mkdtemp(path) != NULL);
    snprintf(command, sizeof command, "FA_PTX_REPORT=%s/r.csv /proc/%d/exe --filter any_order >%s/out 2>&1",
             path, (int)getpid(), path);
    FA_EXPECT(system(command) == 0);
    FA_EXPECT(system(command) == 0); // appends, with no second header
    snprintf(command, sizeof command, "%s/r.csv", path);
    FILE *f = fopen(command, "r");
    FA_REQUIRE(f != NULL);
    int headers = 0, loads = 0, predictions = 0;
    while (fgets(line, sizeof line, f)) {
        int columns = 1, quoted = 0;
        for (char *c = line; *c; c++) quoted ^= *c == '"', columns += *c == ',' && !quoted;
        FA_EXPECT_MSG(columns == 5, "%s", line);
        headers += !strcmp(line, "launch,kernel,metric,place,value\n");
        loads += !!strstr(line, "backwards") && !!strstr(line, ",load_bytes,\"\",128\n");
        predictions += !!strstr(line, "predicted_floor_ms,\"H200\"");
    }
    fclose(f);
    FA_EXPECT(headers == 1);
    FA_EXPECT(loads == 2);
    FA_EXPECT(predictions == 4);
    snprintf(command, sizeof command, "rm -r %s", path);
    FA_EXPECT(system(command) == 0);
}

FA_TEST_MAIN
