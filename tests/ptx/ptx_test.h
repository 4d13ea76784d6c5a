/* ptx_test.h - what the CUDA test programs of the machine share. */
#ifndef PTX_TEST_H
#define PTX_TEST_H

#include "fa_test.h"
#include <cuda_runtime.h>
#include <string>
#include <vector>

#if __CUDA_ARCH_LIST__ >= 900
#define HAS_90 1
#else
#define HAS_90 0
#endif

/* of the machine (machine.h) */
extern "C" void ptx_expect_findings(bool expect);
extern "C" const char *ptx_last_findings(void);
extern "C" uint64_t ptx_counter(const char *name);

__host__ __device__ static inline uint64_t mix(uint64_t x) { /* the finaliser of splitmix64 */
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* Device memory with the contents of a vector. */
template <class T> struct Device {
    T *p;
    size_t n;
    explicit Device(const std::vector<T> &v) : n(v.size()) {
        cudaMalloc((void **)&p, n * sizeof(T));
        cudaMemcpy(p, v.data(), n * sizeof(T), cudaMemcpyHostToDevice);
    }
    explicit Device(size_t count) : Device(std::vector<T>(count)) {}
    Device(const Device &) = delete;
    ~Device() {
        if (cudaFree(p) != cudaSuccess) cudaGetLastError(); /* after a failure it is gone: finished() */
    }
    std::vector<T> host() const {
        std::vector<T> v(n);
        cudaMemcpy(v.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost);
        return v;
    }
};

static inline std::vector<uint8_t> random_bytes(size_t n, uint64_t salt = 0) {
    std::vector<uint8_t> v(n);
    for (size_t i = 0; i < n; i++) v[i] = (uint8_t)mix(i + fat_seed * 977 + salt * 0x10000019);
    return v;
}

/* Waits for the device; false, and a failed test, if a launch has failed. */
static inline bool finished(void) {
    cudaError_t e = cudaDeviceSynchronize();
    if (e == cudaSuccess) e = cudaGetLastError();
    if (e != cudaSuccess) cudaDeviceReset(); /* or all further calls would fail, too */
    return FA_EXPECT_MSG(e == cudaSuccess, "%s", cudaGetErrorString(e));
}

/* The launch fails, and its finding says `what` and names the line of the file. */
template <class Launch>
static inline void expect_finding_at(const char *name, const char *file, int line, const char *what, Launch launch) {
    const char *slash = strrchr(file, '/');
    const std::string where = std::string(slash ? slash + 1 : file) + ":" + std::to_string(line);
    ptx_expect_findings(true);
    launch();
    bool failed = cudaGetLastError() != cudaSuccess; /* some schedules run the kernel when somebody waits for it */
    failed |= cudaDeviceSynchronize() != cudaSuccess;
    cudaGetLastError();
    const std::string text = ptx_last_findings();
    ptx_expect_findings(false);
    FA_EXPECT_MSG(failed, "%s: the launch succeeds", name);
    FA_EXPECT_MSG(strstr(text.c_str(), what) && strstr(text.c_str(), where.c_str()),
                  "%s: no \"%s\" at %s in \"%s\"", name, what, where.c_str(), text.c_str());
}

#endif
