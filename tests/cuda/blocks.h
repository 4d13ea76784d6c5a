/* blocks.h - blocks of host memory, each with a copy on the device, for functions that exist on both: called on either
 * side they must leave the same bytes everywhere, those that nobody may touch (0xff before) among them. */
#ifndef TESTS_CUDA_BLOCKS_H
#define TESTS_CUDA_BLOCKS_H

#include "cuda_test.h"

typedef struct block {
    unsigned char *host, *device;
    size_t bytes;
    fa_dtype dtype; /* of its elements: a NaN may be another NaN; 0: words, exactly */
} block;
static block blocks[64];
static int num_blocks;

static void *take(size_t bytes, fa_dtype dtype) {
    block *b = &blocks[num_blocks++];
    if (!bytes) bytes = 4;
    b->host = (unsigned char *)malloc(bytes), b->bytes = bytes, b->dtype = dtype;
    memset(b->host, 0xff, bytes);
    FA_EXPECT(cudaMalloc((void **)&b->device, bytes) == cudaSuccess);
    return b->host;
}
static void drop_all(void) {
    while (num_blocks) free(blocks[--num_blocks].host), cudaFree(blocks[num_blocks].device);
}
static void *there(const void *x) { /* where the device has what the host has at x */
    for (int n = 0; x && n < num_blocks; n++) {
        const unsigned char *at = (const unsigned char *)x;
        if (at >= blocks[n].host && at < blocks[n].host + blocks[n].bytes)
            return blocks[n].device + (at - blocks[n].host);
    }
    return NULL;
}
#define MOVE(type, x) x = (type *)there(x);
static void upload(void) {
    for (int n = 0; n < num_blocks; n++)
        FA_EXPECT(cudaMemcpy(blocks[n].device, blocks[n].host, blocks[n].bytes, cudaMemcpyHostToDevice) ==
                  cudaSuccess);
}

static double element(const block *b, const void *data, size_t i) {
    return b->dtype ? (double)fa_load(data, (int64_t)i, b->dtype) : (double)((const int32_t *)data)[i];
}

/* Does the device have the bytes of the host? */
static int same(void) {
    for (int n = 0; n < num_blocks; n++) {
        const block *b = &blocks[n];
        const size_t size = b->dtype ? fa_sizeof(b->dtype) : 4;
        unsigned char *got = (unsigned char *)malloc(b->bytes);
        int ok = cudaMemcpy(got, b->device, b->bytes, cudaMemcpyDeviceToHost) == cudaSuccess;
        for (size_t i = 0; ok && i < b->bytes / size; i++) {
            if (!memcmp(got + i * size, b->host + i * size, size)) continue;
            const double x = element(b, got, i), y = element(b, b->host, i);
            if (x != x && y != y) continue;
            printf("# block %d, element %zu: %.9g, want %.9g\n", n, i, x, y), ok = 0;
        }
        free(got);
        if (!ok) return 0;
    }
    return 1;
}

/* A call has been made: its status, and its kernels. */
static int launched(fa_status status, const fa_error *error) {
    char text[300] = "";
    if (status) fa_error_message(error, text, sizeof text);
    const cudaError_t e = cudaDeviceSynchronize();
    return FA_EXPECT_MSG(status == FA_OK && e == cudaSuccess, "%s, %s", text, cudaGetErrorString(e));
}

#endif
