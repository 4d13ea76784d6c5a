/* allocation.c - device memory and copies: the table of allocations that the whole machine looks addresses
 * up in, cudaMalloc and its relatives, cudaMemcpy, cudaMemset and theirs.
 *
 * Device memory is host memory in one reserved range, so that any address can be told to be device memory
 * or not. Allocations are aligned to 256 bytes and no better, as far as CUDA promises; unmapped pages lie
 * between them, and freed ones are never given out again. New memory is all ones: NaN in every
 * floating-point format.
 */
#define _GNU_SOURCE
#include "runtime.h"
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- table of allocations ------------------------------------------------------------------------------ */

typedef enum { DEVICE, MANAGED, PINNED, REGISTERED, OTHER /* module globals, parameters */ } Owner;

typedef struct {
    Allocation a; /* first: what the rest of the machine sees */
    Owner owner;
    unsigned flags;
    bool closed; /* to the host: ptx_open_memory */
} Memory;

enum { FREED = 256 };  /* freed allocations that messages still know */
static Memory **table; /* by address */
static int nmemory;
static Allocation freed[FREED];
static unsigned nfreed;

/* Index of the first allocation that begins above the address. */
static int above(u64 address) {
    int low = 0, high = nmemory;
    while (low < high) {
        int middle = (low + high) / 2;
        if ((u64)table[middle]->a.memory <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool holds(const Allocation *a, u64 address, u64 bytes) {
    u64 offset = address - (u64)a->memory;
    return address >= (u64)a->memory && offset <= a->bytes && bytes <= a->bytes - offset;
}

static Allocation *last_hit; /* kernels touch the same allocation many times in a row */

Allocation *ptx_find_allocation(u64 address, u64 bytes) {
    if (last_hit && holds(last_hit, address, bytes)) return last_hit;
    int i = above(address);
    if (!i || !holds(&table[i - 1]->a, address, bytes)) return NULL;
    return last_hit = &table[i - 1]->a;
}

static Allocation *find_freed(u64 address) {
    for (unsigned i = nfreed; i-- > 0 && i + FREED >= nfreed;)
        if (holds(&freed[i % FREED], address, 1)) return &freed[i % FREED];
    return NULL;
}

Allocation *ptx_nearest_allocation(u64 address) {
    Allocation *gone = find_freed(address);
    if (gone || !nmemory) return gone;
    int i = above(address);
    Allocation *below = i ? &table[i - 1]->a : NULL, *next = i < nmemory ? &table[i]->a : NULL;
    if (!below || !next) return below ? below : next;
    return address - (u64)below->memory - below->bytes <= (u64)next->memory - address ||
                   holds(below, address, 0)
               ? below
               : next;
}

Allocation *ptx_each_allocation(int i) { return i < nmemory ? &table[i]->a : NULL; }

static Memory *add_memory(void *memory, u64 bytes, const char *name, Owner owner) {
    Memory *m = calloc(1, sizeof *m);
    m->a.memory = memory, m->a.bytes = bytes, m->owner = owner;
    snprintf(m->a.name, sizeof m->a.name, "%s", name);
    int i = above((u64)memory);
    table = realloc(table, (size_t)(nmemory + 1) * sizeof *table);
    memmove(table + i + 1, table + i, (size_t)(nmemory - i) * sizeof *table);
    table[i] = m, nmemory++;
    return m;
}

Allocation *ptx_add_allocation(void *memory, u64 bytes, const char *name) {
    return &add_memory(memory, bytes, name, OTHER)->a;
}

static Memory *find_memory(const void *p) {
    int i = above((u64)p);
    return i && holds(&table[i - 1]->a, (u64)p, 1) ? table[i - 1] : NULL;
}

void ptx_remove_allocation(void *memory) {
    int i = above((u64)memory) - 1;
    if (i < 0 || table[i]->a.memory != memory) return;
    Memory *m = table[i];
    ptx_drop_shadow(&m->a);
    memmove(table + i, table + i + 1, (size_t)(--nmemory - i) * sizeof *table);
    if (last_hit == &m->a) last_hit = NULL;
    if (m->owner == OTHER || m->owner == REGISTERED) return free(m);
    Allocation *gone = &freed[nfreed++ % FREED];
    *gone = (Allocation){.memory = m->a.memory, .bytes = m->a.bytes};
    snprintf(gone->name, sizeof gone->name, "%.*s, freed", (int)sizeof gone->name - 8, m->a.name);
    free(m);
}

/* ---- device memory ------------------------------------------------------------------------------------- */

#define ARENA ((u64)8 << 40)
enum { PAGE = 4096, GUARD = 1 << 20, MISALIGNED = 256, POISON_BYTES = 16 << 20, CLOSINGS = 200 };
static u8 *arena;
static u64 arena_used, allocated;
static unsigned serial;

static bool in_arena(const void *p) { return arena && (u64)p - (u64)arena < ARENA; }

static u64 pages(u64 bytes) { return (bytes + PAGE - 1) / PAGE * PAGE; }

/* Maps all-ones memory. Large blocks are copy-on-write views of one file, so that only what is written
 * takes space. */
static bool map_poison(u8 *at, u64 bytes) {
    static int file = -1;
    if (bytes < POISON_BYTES) {
        if (mprotect(at, bytes, PROT_READ | PROT_WRITE)) return false;
        memset(at, 0xff, bytes);
        return true;
    }
    if (file < 0) {
        file = memfd_create("poison", MFD_CLOEXEC);
        if (file < 0 || ftruncate(file, POISON_BYTES)) return false;
        void *all = mmap(NULL, POISON_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (all == MAP_FAILED) return false;
        memset(all, 0xff, POISON_BYTES);
        munmap(all, POISON_BYTES);
    }
    for (u64 done = 0; done < bytes; done += POISON_BYTES) {
        u64 n = bytes - done < POISON_BYTES ? bytes - done : POISON_BYTES;
        if (mmap(at + done, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, file, 0) ==
            MAP_FAILED)
            return false;
    }
    return true;
}

/* Host code that touches cudaMalloc'ed memory faults, as it does beside a GPU: the pages are closed except
 * while kernels and copies run. That costs more than a small launch, so a process does it for its first
 * operations only. p: in one allocation; NULL: all of them. */
void ptx_open_memory(const void *p, bool open) {
    static int closed;
    if (!open && closed++ >= CLOSINGS) return;
    for (int i = p ? above((u64)p) - 1 : 0; i >= 0 && i < nmemory; i++) {
        Memory *m = table[i];
        if (m->owner == DEVICE && m->closed == open) {
            m->closed = !open;
            mprotect(m->a.memory - MISALIGNED, pages(m->a.bytes + MISALIGNED),
                     open ? PROT_READ | PROT_WRITE : PROT_NONE);
        }
        if (p) break;
    }
}

static void explain_fault(int number, siginfo_t *info, void *context) {
    (void)context;
    const Allocation *a = in_arena(info->si_addr) ? ptx_nearest_allocation((u64)info->si_addr) : NULL;
    if (a)
        fprintf(stderr,
                "PTX machine: host code touches device memory, %p (%s of %llu bytes at %p is nearest)\n",
                info->si_addr, a->name, (unsigned long long)a->bytes, (void *)a->memory);
    signal(number, SIG_DFL); /* and once more, for good */
}

static u64 device_bytes(void) {
    struct cudaDeviceProp p;
    return cudaGetDeviceProperties(&p, 0) ? 0 : p.totalGlobalMem;
}

static cudaError_t allocate(void *result, size_t bytes, Owner owner, const char *call) {
    void **p = result;
    if (!p) return cudaErrorInvalidValue;
    cudaError_t e = ptx_no_capture(call);
    if (e) return e;
    *p = NULL;
    if (!bytes) return cudaSuccess;
    if (!arena) {
        void *all = mmap((void *)((u64)1 << 44), ARENA, PROT_NONE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (all == MAP_FAILED) return ptx_fail(cudaErrorMemoryAllocation, "%s: no address space", call);
        arena = all, arena_used = GUARD;
        struct sigaction now, explain = {.sa_sigaction = explain_fault, .sa_flags = SA_SIGINFO};
        if (!sigaction(SIGSEGV, NULL, &now) && now.sa_handler == SIG_DFL) sigaction(SIGSEGV, &explain, NULL);
    }
    u64 total = device_bytes(), mapped = pages(bytes + MISALIGNED);
    if (bytes > total || allocated + bytes > total)
        return ptx_fail(cudaErrorMemoryAllocation, "%s: %zu bytes, of %llu are %llu in use", call, bytes,
                        (unsigned long long)total, (unsigned long long)allocated);
    if (arena_used + mapped + GUARD > ARENA || !map_poison(arena + arena_used, mapped))
        return ptx_fail(cudaErrorMemoryAllocation, "%s: %zu bytes: the host has no room for them", call,
                        bytes);
    char name[64];
    snprintf(name, sizeof name, "%s #%u", call, ++serial);
    *p = arena + arena_used + MISALIGNED;
    add_memory(*p, bytes, name, owner);
    ptx_open_memory(*p, false);
    arena_used += mapped + GUARD, allocated += bytes;
    return cudaSuccess;
}

static void release(Memory *m) {
    u8 *memory = m->a.memory;
    u64 bytes = m->a.bytes;
    Owner owner = m->owner;
    ptx_remove_allocation(memory);
    if (owner > PINNED) return;
    allocated -= bytes;
    mmap(memory - MISALIGNED, pages(bytes + MISALIGNED), PROT_NONE,
         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

static cudaError_t deallocate(void *p, bool host, const char *call) {
    cudaError_t e = ptx_no_capture(call);
    if (e || !p) return e;
    Memory *m = find_memory(p);
    Allocation *gone = m ? NULL : find_freed((u64)p);
    if (gone) return ptx_fail(cudaErrorInvalidValue, "%s: %p is %s already", call, p, gone->name);
    if (!m || m->a.memory != p || (host ? m->owner != PINNED : m->owner > MANAGED))
        return ptx_fail(cudaErrorInvalidValue, "%s: %p is not the beginning of %s allocation%s%s", call, p,
                        host ? "a host" : "a device", m ? ", it is in " : "", m ? m->a.name : "");
    release(m);
    return cudaSuccess;
}

static cudaError_t allocate_pitch(void **p, size_t *pitch, size_t width, size_t height) {
    if (!pitch) return cudaErrorInvalidValue;
    *pitch = (width + 511) / 512 * 512;
    return allocate(p, *pitch * height, DEVICE, "cudaMallocPitch");
}

static cudaError_t register_host(void *p, size_t bytes, unsigned flags) {
    if (!p || !bytes) return cudaErrorInvalidValue;
    int i = above((u64)p + bytes - 1);
    if (i && (u64)table[i - 1]->a.memory + table[i - 1]->a.bytes > (u64)p)
        return cudaErrorHostMemoryAlreadyRegistered;
    char name[64];
    snprintf(name, sizeof name, "cudaHostRegister #%u", ++serial);
    add_memory(p, bytes, name, REGISTERED)->flags = flags;
    return cudaSuccess;
}

static cudaError_t unregister_host(void *p) {
    Memory *m = find_memory(p);
    if (!m || m->a.memory != p || m->owner != REGISTERED) return cudaErrorHostMemoryNotRegistered;
    release(m);
    return cudaSuccess;
}

static cudaError_t host_flags(unsigned *flags, void *p) {
    Memory *m = find_memory(p);
    if (!flags || !m || (m->owner != PINNED && m->owner != REGISTERED)) return cudaErrorInvalidValue;
    *flags = m->flags | cudaHostAllocMapped;
    return cudaSuccess;
}

static cudaError_t device_pointer(void **device, void *host) {
    Memory *m = find_memory(host);
    if (!device || !m || (m->owner != PINNED && m->owner != REGISTERED)) return cudaErrorInvalidValue;
    *device = host;
    return cudaSuccess;
}

static cudaError_t allocate_host(void **p, size_t bytes, unsigned flags, const char *call) {
    cudaError_t e = allocate(p, bytes, PINNED, call);
    if (!e && *p) find_memory(*p)->flags = flags;
    return e;
}

static cudaError_t pointer_attributes(struct cudaPointerAttributes *a, const void *p) {
    if (!a) return cudaErrorInvalidValue;
    Memory *m = find_memory(p);
    *a = (struct cudaPointerAttributes){
        .type = cudaMemoryTypeUnregistered, .device = -2, .hostPointer = (void *)p};
    if (!m) return cudaSuccess;
    static const enum cudaMemoryType types[] = {cudaMemoryTypeDevice, cudaMemoryTypeManaged,
                                                cudaMemoryTypeHost, cudaMemoryTypeHost, cudaMemoryTypeDevice};
    a->type = types[m->owner], a->device = 0, a->devicePointer = (void *)p;
    if (a->type == cudaMemoryTypeDevice) a->hostPointer = NULL;
    return cudaSuccess;
}

static bool is_managed(const void *p, size_t bytes) {
    Memory *m = find_memory(p);
    return m && m->owner == MANAGED && holds(&m->a, (u64)p, bytes);
}

static cudaError_t memory_info(size_t *available, size_t *total) {
    size_t all = device_bytes();
    if (total) *total = all;
    if (available) *available = all - allocated;
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **p, size_t bytes) { return API(allocate(p, bytes, DEVICE, "cudaMalloc")); }
cudaError_t cudaMallocAsync(void **p, size_t bytes, cudaStream_t stream) {
    (void)stream;
    return API(allocate(p, bytes, DEVICE, "cudaMallocAsync"));
}
cudaError_t cudaMallocManaged(void **p, size_t bytes, unsigned flags) {
    return API(flags != cudaMemAttachGlobal && flags != cudaMemAttachHost ? cudaErrorInvalidValue
               : !bytes                                                   ? cudaErrorInvalidValue
                        : allocate(p, bytes, MANAGED, "cudaMallocManaged"));
}
cudaError_t cudaMallocHost(void **p, size_t bytes) {
    return API(allocate_host(p, bytes, 0, "cudaMallocHost"));
}
cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned flags) {
    return API(flags > 7 ? cudaErrorInvalidValue : allocate_host(p, bytes, flags, "cudaHostAlloc"));
}
cudaError_t cudaMallocPitch(void **p, size_t *pitch, size_t width, size_t height) {
    return API(allocate_pitch(p, pitch, width, height));
}
cudaError_t cudaFree(void *p) { return API(deallocate(p, false, "cudaFree")); }
cudaError_t cudaFreeAsync(void *p, cudaStream_t stream) {
    (void)stream;
    return API(deallocate(p, false, "cudaFreeAsync"));
}
cudaError_t cudaFreeHost(void *p) { return API(deallocate(p, true, "cudaFreeHost")); }
cudaError_t cudaHostRegister(void *p, size_t bytes, unsigned flags) {
    return API(register_host(p, bytes, flags));
}
cudaError_t cudaHostUnregister(void *p) { return API(unregister_host(p)); }
cudaError_t cudaHostGetDevicePointer(void **device, void *host, unsigned flags) {
    return LOOK(flags ? cudaErrorInvalidValue : device_pointer(device, host));
}
cudaError_t cudaHostGetFlags(unsigned *flags, void *p) { return LOOK(host_flags(flags, p)); }
cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *a, const void *p) {
    return LOOK(pointer_attributes(a, p));
}
/* Hints about managed memory change no result. */
cudaError_t cudaMemPrefetchAsync(const void *p, size_t bytes, struct cudaMemLocation where, unsigned flags,
                                 cudaStream_t stream) {
    (void)where, (void)stream;
    return LOOK(!flags && is_managed(p, bytes) ? cudaSuccess : cudaErrorInvalidValue);
}
cudaError_t cudaMemAdvise(const void *p, size_t bytes, enum cudaMemoryAdvise advice,
                          struct cudaMemLocation where) {
    (void)advice, (void)where;
    return LOOK(is_managed(p, bytes) ? cudaSuccess : cudaErrorInvalidValue);
}
cudaError_t cudaMemGetInfo(size_t *available, size_t *total) { return LOOK(memory_info(available, total)); }
PER_THREAD(cudaMallocAsync, ptsz);
PER_THREAD(cudaFreeAsync, ptsz);
PER_THREAD(cudaMemPrefetchAsync, ptsz);

/* ---- copies -------------------------------------------------------------------------------------------- */

typedef enum { ON_HOST, ON_DEVICE, ANYWHERE } Side;

/* Rows of a copy or memset that touch device memory have to lie inside one allocation. */
static cudaError_t check_side(const char *what, const u8 *p, size_t pitch, const Op *op, Side side) {
    u64 bytes = (op->height - 1) * pitch + op->width;
    Memory *m = find_memory(p);
    if (!p) return ptx_fail(cudaErrorInvalidValue, "%s is NULL", what);
    if (!m && in_arena(p)) {
        Allocation *near = ptx_nearest_allocation((u64)p);
        return ptx_fail(cudaErrorInvalidValue,
                        "%s %p is in no allocation (%s of %llu bytes at %p is nearest)", what,
                        (const void *)p, near ? near->name : "none",
                        near ? (unsigned long long)near->bytes : 0, near ? (void *)near->memory : NULL);
    }
    if (side == ON_DEVICE && !m)
        return ptx_fail(cudaErrorInvalidValue, "%s %p is not device memory", what, (const void *)p);
    if (side == ON_HOST && m && (m->owner == DEVICE || m->owner == OTHER))
        return ptx_fail(cudaErrorInvalidValue, "%s %p is device memory (%s), host memory is expected", what,
                        (const void *)p, m->a.name);
    if (m && m->owner != REGISTERED && !holds(&m->a, (u64)p, bytes))
        return ptx_fail(cudaErrorInvalidValue, "%s: %llu bytes at offset %llu of %s, which has %llu", what,
                        (unsigned long long)bytes, (unsigned long long)(p - m->a.memory), m->a.name,
                        (unsigned long long)m->a.bytes);
    return cudaSuccess;
}

static cudaError_t copy_2d(void *dst, size_t dst_pitch, const void *src, size_t src_pitch, size_t width,
                           size_t height, enum cudaMemcpyKind kind, cudaStream_t stream) {
    Op op = {.what = OP_COPY,
             .dst = dst,
             .src = src,
             .dst_pitch = dst_pitch,
             .src_pitch = src_pitch,
             .width = width,
             .height = height};
    if ((unsigned)kind > cudaMemcpyDefault) return cudaErrorInvalidMemcpyDirection;
    if (height > 1 && (dst_pitch < width || src_pitch < width)) return cudaErrorInvalidPitchValue;
    if (!width || !height) return cudaSuccess;
    bool any = kind == cudaMemcpyDefault;
    Side to = any                                                                  ? ANYWHERE
              : kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice ? ON_DEVICE
                                                                                   : ON_HOST;
    Side from = any                                                                  ? ANYWHERE
                : kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice ? ON_DEVICE
                                                                                     : ON_HOST;
    return check_side("destination of a copy", dst, dst_pitch, &op, to)
               ?: check_side("source of a copy", src, src_pitch, &op, from) ?: ptx_submit(op, stream);
}

static cudaError_t copy(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind,
                        cudaStream_t stream) {
    return copy_2d(dst, bytes, src, bytes, bytes, 1, kind, stream);
}

static cudaError_t fill_2d(void *p, size_t pitch, int value, size_t width, size_t height,
                           cudaStream_t stream) {
    Op op = {.what = OP_FILL, .dst = p, .dst_pitch = pitch, .width = width, .height = height, .value = value};
    if (height > 1 && pitch < width) return cudaErrorInvalidPitchValue;
    if (!width || !height) return cudaSuccess;
    return check_side("destination of a memset", p, pitch, &op, ON_DEVICE) ?: ptx_submit(op, stream);
}

static cudaError_t copy_symbol(const void *host, size_t offset, void *dst, const void *src, size_t bytes,
                               enum cudaMemcpyKind kind, cudaStream_t stream) {
    u8 *memory;
    if (kind == (src ? cudaMemcpyDeviceToHost : cudaMemcpyHostToDevice) || kind == cudaMemcpyHostToHost)
        return cudaErrorInvalidMemcpyDirection;
    cudaError_t e = ptx_symbol(host, offset, bytes, &memory, NULL);
    return e ?: copy(src ? memory : dst, src ? src : memory, bytes, kind, stream);
}

static cudaError_t symbol_address(void **p, const void *host) {
    return p ? ptx_symbol(host, 0, 0, (u8 **)p, NULL) : cudaErrorInvalidValue;
}

static cudaError_t only_device_0(int a, int b) { return a || b ? cudaErrorInvalidDevice : cudaSuccess; }

cudaError_t cudaMemcpy(void *dst, const void *src, size_t n, enum cudaMemcpyKind kind) {
    return API(ptx_no_capture("cudaMemcpy") ?: copy(dst, src, n, kind, NULL));
}
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t n, enum cudaMemcpyKind kind,
                            cudaStream_t stream) {
    return API(copy(dst, src, n, kind, stream));
}
cudaError_t cudaMemcpy2D(void *dst, size_t dst_pitch, const void *src, size_t src_pitch, size_t width,
                         size_t height, enum cudaMemcpyKind kind) {
    return API(ptx_no_capture("cudaMemcpy2D")
                   ?: copy_2d(dst, dst_pitch, src, src_pitch, width, height, kind, NULL));
}
cudaError_t cudaMemcpy2DAsync(void *dst, size_t dst_pitch, const void *src, size_t src_pitch, size_t width,
                              size_t height, enum cudaMemcpyKind kind, cudaStream_t stream) {
    return API(copy_2d(dst, dst_pitch, src, src_pitch, width, height, kind, stream));
}
cudaError_t cudaMemcpyPeer(void *dst, int to, const void *src, int from, size_t n) {
    return API(only_device_0(to, from) ?: ptx_no_capture("cudaMemcpyPeer")
                                              ?: copy(dst, src, n, cudaMemcpyDeviceToDevice, NULL));
}
cudaError_t cudaMemcpyPeerAsync(void *dst, int to, const void *src, int from, size_t n, cudaStream_t stream) {
    return API(only_device_0(to, from) ?: copy(dst, src, n, cudaMemcpyDeviceToDevice, stream));
}
cudaError_t cudaMemcpyToSymbol(const void *host, const void *src, size_t n, size_t offset,
                               enum cudaMemcpyKind kind) {
    return API(ptx_no_capture("cudaMemcpyToSymbol") ?: copy_symbol(host, offset, NULL, src, n, kind, NULL));
}
cudaError_t cudaMemcpyFromSymbol(void *dst, const void *host, size_t n, size_t offset,
                                 enum cudaMemcpyKind kind) {
    return API(ptx_no_capture("cudaMemcpyFromSymbol") ?: copy_symbol(host, offset, dst, NULL, n, kind, NULL));
}
cudaError_t cudaMemcpyToSymbolAsync(const void *host, const void *src, size_t n, size_t offset,
                                    enum cudaMemcpyKind kind, cudaStream_t stream) {
    return API(copy_symbol(host, offset, NULL, src, n, kind, stream));
}
cudaError_t cudaMemcpyFromSymbolAsync(void *dst, const void *host, size_t n, size_t offset,
                                      enum cudaMemcpyKind kind, cudaStream_t stream) {
    return API(copy_symbol(host, offset, dst, NULL, n, kind, stream));
}
cudaError_t cudaMemset(void *p, int value, size_t n) {
    return API(ptx_no_capture("cudaMemset") ?: fill_2d(p, n, value, n, 1, NULL));
}
cudaError_t cudaMemsetAsync(void *p, int value, size_t n, cudaStream_t stream) {
    return API(fill_2d(p, n, value, n, 1, stream));
}
cudaError_t cudaMemset2D(void *p, size_t pitch, int value, size_t width, size_t height) {
    return API(ptx_no_capture("cudaMemset2D") ?: fill_2d(p, pitch, value, width, height, NULL));
}
cudaError_t cudaMemset2DAsync(void *p, size_t pitch, int value, size_t width, size_t height,
                              cudaStream_t stream) {
    return API(fill_2d(p, pitch, value, width, height, stream));
}
cudaError_t cudaGetSymbolAddress(void **p, const void *host) { return LOOK(symbol_address(p, host)); }
cudaError_t cudaGetSymbolSize(size_t *size, const void *host) {
    return LOOK(ptx_symbol(host, 0, 0, NULL, size));
}
PER_THREAD(cudaMemcpy, ptds);
PER_THREAD(cudaMemcpy2D, ptds);
PER_THREAD(cudaMemcpyToSymbol, ptds);
PER_THREAD(cudaMemcpyFromSymbol, ptds);
PER_THREAD(cudaMemset, ptds);
PER_THREAD(cudaMemset2D, ptds);
PER_THREAD(cudaMemcpyAsync, ptsz);
PER_THREAD(cudaMemcpy2DAsync, ptsz);
PER_THREAD(cudaMemcpyPeerAsync, ptsz);
PER_THREAD(cudaMemcpyToSymbolAsync, ptsz);
PER_THREAD(cudaMemcpyFromSymbolAsync, ptsz);
PER_THREAD(cudaMemsetAsync, ptsz);
PER_THREAD(cudaMemset2DAsync, ptsz);

/* ---- names --------------------------------------------------------------------------------------------- */

/* Gives allocations the name of the parameter that first points to them. */
void ptx_name_allocations(const Kernel *k, const u8 *params) {
    for (int i = 0; i < k->nparams; i++) {
        for (u32 at = 0; at + 8 <= k->param[i].size; at += 8) {
            u64 value;
            memcpy(&value, params + k->param[i].offset + at, 8);
            Memory *m = find_memory((void *)value);
            if (!m || m->owner == OTHER || strchr(m->a.name, ',')) continue;
            size_t n = strlen(m->a.name);
            if (at || k->param[i].size > 8)
                snprintf(m->a.name + n, sizeof m->a.name - n, ", parameter %d byte %u", i, at);
            else
                snprintf(m->a.name + n, sizeof m->a.name - n, ", parameter %d", i);
        }
    }
}

/* cudaDeviceReset */
void ptx_free_all(void) {
    for (int i = nmemory; i-- > 0;) release(table[i]);
}
