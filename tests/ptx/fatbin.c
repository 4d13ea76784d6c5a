/* fatbin.c - finds the PTX that runs on the presented device in what nvcc embeds in a program.
 *
 * The layout is not documented; this is what nvcc 13.0 writes (all little endian, every size in bytes):
 *
 *     wrapper   u32 magic, u32 version, pointer to the fat binary, pointer
 *     header    u32 magic, u16 version, u16 header size, u64 size of the entries that follow
 *     entry     u16 kind (1 PTX, 2 ELF), u16 version, u32 header size, u64 payload size (padded), u32 compressed size,
 *               u32, u32, u32 architecture (90: sm_90) at byte 28, u64, u64 flags at byte 40, u64,
 *               u64 uncompressed size at byte 56, ...
 *
 * Compressed payloads are LZ4 blocks (--compress-mode=speed), which are unpacked here, or Zstandard, which is refused.
 */
#include <stdlib.h>

#include "machine.h"

enum { WRAPPER_MAGIC = 0x466243b1, WRAPPER_WHOLE = 1 /* 2: of nvlink */, ENTRY_PTX = 1 };
#define HEADER_MAGIC 0xba55ed50u
enum {
    COMPRESSED_LZ4 = 0x2000,
    COMPRESSED_ZSTD = 0x8000,
    ARCH_SPECIFIC = 0x100000,
    FAMILY_SPECIFIC = 0x200000
};

typedef struct {
    u32 magic, version;
    const u8 *data;
    const void *more;
} Wrapper;

typedef struct {
    u32 magic;
    u16 version, header;
    u64 bytes;
} Header;

typedef struct {
    u16 kind, version;
    u32 header;
    u64 bytes;
    u32 compressed, unused0, unused1, arch;
    u64 unused2, flags, unused3, uncompressed;
} FatEntry;
_Static_assert(sizeof(FatEntry) == 64 && offsetof(FatEntry, arch) == 28 && offsetof(FatEntry, flags) == 40,
               "layout");

/* An LZ4 block: tokens of a literal run and a match. False if it is damaged. */
static bool unpack_lz4(const u8 *from, size_t from_bytes, u8 *to, size_t to_bytes) {
    const u8 *end = from + from_bytes;
    u8 *start = to, *to_end = to + to_bytes;
    while (from < end) {
        u8 token = *from++, more;
        size_t length = token >> 4;
        if (length == 15) do {
                if (from == end) return false;
                length += more = *from++;
            } while (more == 255);
        if (length > (size_t)(end - from) || length > (size_t)(to_end - to)) return false;
        memcpy(to, from, length);
        to += length;
        from += length;
        if (from == end) break; /* the last run has no match */
        if (end - from < 2) return false;
        size_t back = from[0] | (size_t)from[1] << 8;
        from += 2;
        length = (token & 15) + 4;
        if ((token & 15) == 15) do {
                if (from == end) return false;
                length += more = *from++;
            } while (more == 255);
        if (back == 0 || back > (size_t)(to - start) || length > (size_t)(to_end - to)) return false;
        for (; length; length--, to++) *to = to[-(ptrdiff_t)back];
    }
    return to == to_end;
}

/* PTX runs on the architecture it was made for and later ones; arch-specific PTX (sm_90a) on that one alone. */
static bool runs(const FatEntry *e) {
    u32 device = (u32)(ptx_device.major * 10 + ptx_device.minor);
    if (e->flags & FAMILY_SPECIFIC) return false;
    return e->flags & ARCH_SPECIFIC ? e->arch == device && ptx_device.arch_specific : e->arch <= device;
}

/* Picks the entry, which lies inside the fat binary; NULL and a message if there is none. */
static const FatEntry *best_entry(const Header *h, char *why, size_t why_bytes) {
    const u8 *at = (const u8 *)h + h->header, *end = at + h->bytes;
    const FatEntry *best = NULL;
    char found[256] = "";
    for (size_t left = h->bytes; left >= sizeof(FatEntry); left = (size_t)(end - at)) {
        const FatEntry *e = (const FatEntry *)(const void *)at;
        if ((uintptr_t)at % _Alignof(FatEntry) || e->header < sizeof *e || e->header > left ||
            e->bytes > left - e->header || (e->flags & COMPRESSED_LZ4 && e->compressed > e->bytes)) {
            snprintf(why, why_bytes, "the fat binary is damaged: its sizes contradict each other");
            return NULL;
        }
        at += e->header + e->bytes;
        bool specific = e->flags & ARCH_SPECIFIC;
        size_t n = strlen(found);
        snprintf(found + n, sizeof found - n, "%s%s_%u%s", n ? ", " : "",
                 e->kind == ENTRY_PTX ? "compute" : "sm", e->arch,
                 specific                     ? "a"
                 : e->flags & FAMILY_SPECIFIC ? "f"
                                              : "");
        if (e->kind != ENTRY_PTX || !runs(e)) continue;
        if (!best || e->arch > best->arch || (e->arch == best->arch && specific)) best = e;
    }
    int arch = ptx_device.major * 10 + ptx_device.minor;
    const char *a = ptx_device.arch_specific ? "a" : "";
    if (!best)
        snprintf(why, why_bytes,
                 "no PTX for the device sm_%d%s; the program has %s. Compile with -gencode "
                 "arch=compute_%d%s,code=compute_%d%s, or present another device with FA_PTX_DEVICE",
                 arch, a, *found ? found : "nothing", arch, a, arch, a);
    return best;
}

Module *ptx_module_from_fatbin(const void *fatbin, char *why, size_t why_bytes) {
    const Wrapper *w = fatbin;
    const Header *h = (const Header *)(const void *)w->data; /* 8-byte aligned */
    if (w->magic != WRAPPER_MAGIC || (w->version == WRAPPER_WHOLE && h->magic != HEADER_MAGIC)) {
        snprintf(why, why_bytes, "no fat binary as nvcc makes them");
        return NULL;
    }
    if (w->version != WRAPPER_WHOLE) {
        snprintf(why, why_bytes,
                 "relocatable device code (-rdc=true) is not supported: its PTX is not linked; compile "
                 "without -rdc");
        return NULL;
    }
    const FatEntry *e = best_entry(h, why, why_bytes);
    if (!e) return NULL;
    const char *payload = (const char *)e + e->header;
    if (!(e->flags & (COMPRESSED_LZ4 | COMPRESSED_ZSTD)))
        return ptx_module_from_text(payload, strnlen(payload, e->bytes));
    /* LZ4 makes at most 255 bytes of one. */
    bool possible = e->uncompressed / 255 <= e->compressed;
    char *text = possible ? calloc(1, e->uncompressed + 1) : NULL;
    Module *m = NULL;
    if (e->flags & COMPRESSED_ZSTD)
        snprintf(
            why, why_bytes,
            "the PTX is compressed with Zstandard; compile with -no-compress (or --compress-mode=speed)");
    else if (!text || !unpack_lz4((const u8 *)payload, e->compressed, (u8 *)text, e->uncompressed))
        snprintf(why, why_bytes, "the compressed PTX is damaged; compile with -no-compress");
    else
        m = ptx_module_from_text(text, strlen(text));
    free(text);
    return m;
}
