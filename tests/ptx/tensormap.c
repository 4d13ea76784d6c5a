/* tensormap.c - driver functions that programs get by cudaGetDriverEntryPoint: cuTensorMapEncodeTiled and
 * cuTensorMapReplaceAddress.
 *
 * The driver answers a wrong tensor map with CUDA_ERROR_INVALID_VALUE and no word more. Here every rule of
 * its documentation (cuda.h, "Tensor Map Object Management") is checked one by one, and stderr says which one
 * was broken, by which value. What is valid but not modelled by async.c is CUDA_ERROR_NOT_SUPPORTED, and said
 * too. The 128 bytes hold a TensorMap of the machine's own: the layout of the real ones is not documented.
 */
#include <stdarg.h>
#include <cuda.h>
#include "machine.h"

static const struct {
    const char *name;
    u8 bytes; /* 0: packed types of Blackwell */
    bool is_float, modelled;
} types[] = {
    [CU_TENSOR_MAP_DATA_TYPE_UINT8] = {"UINT8", 1, false, true},
    [CU_TENSOR_MAP_DATA_TYPE_UINT16] = {"UINT16", 2, false, true},
    [CU_TENSOR_MAP_DATA_TYPE_UINT32] = {"UINT32", 4, false, true},
    [CU_TENSOR_MAP_DATA_TYPE_INT32] = {"INT32", 4, false, true},
    [CU_TENSOR_MAP_DATA_TYPE_UINT64] = {"UINT64", 8, false, true},
    [CU_TENSOR_MAP_DATA_TYPE_INT64] = {"INT64", 8, false, true},
    [CU_TENSOR_MAP_DATA_TYPE_FLOAT16] = {"FLOAT16", 2, true, true},
    [CU_TENSOR_MAP_DATA_TYPE_FLOAT32] = {"FLOAT32", 4, true, true},
    [CU_TENSOR_MAP_DATA_TYPE_FLOAT64] = {"FLOAT64", 8, true, true},
    [CU_TENSOR_MAP_DATA_TYPE_BFLOAT16] = {"BFLOAT16", 2, true, true},
    [CU_TENSOR_MAP_DATA_TYPE_FLOAT32_FTZ] = {"FLOAT32_FTZ", 4, true, false},
    [CU_TENSOR_MAP_DATA_TYPE_TFLOAT32] = {"TFLOAT32", 4, true, false},
    [CU_TENSOR_MAP_DATA_TYPE_TFLOAT32_FTZ] = {"TFLOAT32_FTZ", 4, true, false},
    [CU_TENSOR_MAP_DATA_TYPE_16U4_ALIGN8B] = {"16U4_ALIGN8B", 0, false, false},
    [CU_TENSOR_MAP_DATA_TYPE_16U4_ALIGN16B] = {"16U4_ALIGN16B", 0, false, false},
    [CU_TENSOR_MAP_DATA_TYPE_16U6_ALIGN16B] = {"16U6_ALIGN16B", 0, false, false},
};
enum { TYPES = sizeof types / sizeof *types };

#define RULE(holds, ...) \
    if (!(holds)) return say(CUDA_ERROR_INVALID_VALUE, function, __VA_ARGS__)
#define MODELLED(is, ...) \
    if (!(is)) return say(CUDA_ERROR_NOT_SUPPORTED, function, __VA_ARGS__)
#define LONG(x) (unsigned long long)(x)

static CUresult __attribute__((format(printf, 3, 4)))
say(CUresult result, const char *function, const char *format, ...) {
    va_list list;
    va_start(list, format);
    fprintf(stderr, "PTX machine: %s: ", function);
    vfprintf(stderr, format, list);
    fprintf(stderr, "%s\n", result == CUDA_ERROR_NOT_SUPPORTED ? " (valid, but not supported here)" : "");
    va_end(list);
    return result;
}

static CUresult check_address(const char *function, const void *map, const void *address) {
    RULE(map, "tensorMap is NULL");
    RULE((uintptr_t)map % 64 == 0, "tensorMap %p is not aligned to 64 bytes", map);
    RULE(address, "globalAddress is NULL");
    RULE((uintptr_t)address % 16 == 0, "globalAddress %p is not a multiple of 16", address);
    RULE(ptx_find_allocation((u64)(uintptr_t)address, 1), /* the driver cannot tell: the copies would fail */
         "globalAddress %p is not in device memory", address);
    return CUDA_SUCCESS;
}

static CUresult encode_tiled(CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *address,
                             const cuuint64_t *dim, const cuuint64_t *stride, const cuuint32_t *box,
                             const cuuint32_t *step, CUtensorMapInterleave interleave,
                             CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion,
                             CUtensorMapFloatOOBfill fill) {
    static const char function[] = "cuTensorMapEncodeTiled";
    CUresult result = check_address(function, map, address);
    if (result != CUDA_SUCCESS) return result;
    RULE(ptx_device.major >= 9, "tensor maps need compute capability 9.0, this is %d.%d", ptx_device.major,
         ptx_device.minor);
    RULE((u32)type < TYPES, "tensorDataType %d is none", (int)type);
    RULE((u32)interleave <= CU_TENSOR_MAP_INTERLEAVE_32B, "interleave %d is none", (int)interleave);
    RULE((u32)swizzle <= CU_TENSOR_MAP_SWIZZLE_128B_ATOM_64B, "swizzle %d is none", (int)swizzle);
    RULE((u32)promotion <= CU_TENSOR_MAP_L2_PROMOTION_L2_256B, "l2Promotion %d is none", (int)promotion);
    RULE((u32)fill <= CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA, "oobFill %d is none", (int)fill);
    RULE(rank >= 1 && rank <= 5, "tensorRank %u is not in 1..5", rank);
    RULE(rank >= 3 || interleave == CU_TENSOR_MAP_INTERLEAVE_NONE,
         "tensorRank %u: interleave needs 3 or more", rank);
    RULE(dim && box && step && (stride || rank == 1), "%s is NULL",
         !dim    ? "globalDim"
         : !box  ? "boxDim"
         : !step ? "elementStrides"
                 : "globalStrides");
    MODELLED(interleave == CU_TENSOR_MAP_INTERLEAVE_NONE, "interleave %d", (int)interleave);
    MODELLED(types[type].modelled, "tensorDataType CU_TENSOR_MAP_DATA_TYPE_%s", types[type].name);
    MODELLED(swizzle <= CU_TENSOR_MAP_SWIZZLE_128B, "swizzle %d", (int)swizzle);
    RULE(fill == CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE || types[type].is_float,
         "oobFill NAN_REQUEST_ZERO_FMA with tensorDataType %s, which is no floating-point type",
         types[type].name);
    u64 size = types[type].bytes;
    for (u32 d = 0; d < rank; d++) {
        RULE(dim[d] >= 1 && dim[d] <= 1ull << 32, "globalDim[%u] = %llu is not in 1..2^32", d, LONG(dim[d]));
        RULE(box[d] >= 1 && box[d] <= 256, "boxDim[%u] = %u is not in 1..256", d, box[d]);
        RULE(step[d] >= 1 && step[d] <= 8, "elementStrides[%u] = %u is not in 1..8", d, step[d]);
        MODELLED(step[d] == 1 || d == 0, "elementStrides[%u] = %u", d,
                 step[d]); /* [0] is ignored without interleave */
        if (d + 1 == rank) break;
        RULE(stride[d] % 16 == 0, "globalStrides[%u] = %llu is not a multiple of 16", d, LONG(stride[d]));
        RULE(stride[d] < 1ull << 40, "globalStrides[%u] = %llu is not below 2^40", d, LONG(stride[d]));
    }
    u64 inner = box[0] * size, span = swizzle ? 16ull << swizzle : inner;
    RULE(inner % 16 == 0, "boxDim[0] = %u elements of %llu bytes: %llu bytes are not a multiple of 16",
         box[0], LONG(size), LONG(inner));
    RULE(inner <= span, "boxDim[0] = %u elements are %llu bytes, more than the swizzle span of %llu", box[0],
         LONG(inner), LONG(span));
    TensorMap t = {.magic = PTX_TENSOR_MAP_MAGIC,
                   .base = (u64)(uintptr_t)address,
                   .rank = (u8)rank,
                   .element_size = (u8)size,
                   .swizzle = (u8)swizzle,
                   .fill_nan = fill == CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA,
                   .type = (u8)type};
    for (u32 d = 0; d < rank; d++)
        t.dim[d] = dim[d], t.box[d] = box[d], t.stride[d] = d ? stride[d - 1] : size;
    memset(map, 0, sizeof *map);
    memcpy(map, &t, sizeof t);
    return CUDA_SUCCESS;
}

static CUresult replace_address(CUtensorMap *map, void *address) {
    static const char function[] = "cuTensorMapReplaceAddress";
    CUresult result = check_address(function, map, address);
    if (result != CUDA_SUCCESS) return result;
    TensorMap t;
    memcpy(&t, map, sizeof t);
    RULE(t.magic == PTX_TENSOR_MAP_MAGIC, "tensorMap %p was not made by cuTensorMapEncodeTiled", (void *)map);
    t.base = (u64)(uintptr_t)address;
    memcpy(map, &t, sizeof t);
    return CUDA_SUCCESS;
}

void *ptx_driver_entry_point(const char *name) {
    static const struct {
        const char *name;
        void *function;
    } entries[] = {
        {"cuTensorMapEncodeTiled", (void *)encode_tiled},
        {"cuTensorMapReplaceAddress", (void *)replace_address},
    };
    for (size_t i = 0; i < sizeof entries / sizeof *entries; i++)
        if (!strcmp(name, entries[i].name)) return entries[i].function;
    return NULL;
}
