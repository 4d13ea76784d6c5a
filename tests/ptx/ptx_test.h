/* ptx_test.h - what the CUDA test programs of the machine share. */
#ifndef PTX_TEST_H
#define PTX_TEST_H

#include "fa_test.h"
#include <cuda_runtime.h>
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

#endif
