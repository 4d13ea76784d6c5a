/* sass.c - counts the machine instructions of each kernel in a cubin, and fails if they are not as they
 * should be. Needs no tool of NVIDIA.
 *
 *     sass FILE... [--loops] [--kernel PART] [--require LIST] [--forbid LIST] ...
 *
 * FILE is a cubin, or a host object or program with uncompressed cubins in its fat binaries. LIST is
 * separated by commas: HGMMA (at least one), HGMMA=16, LDS>=8, MOV<=100. --kernel selects the kernels, by
 * a part of their mangled name, for what follows it; a selection that fits no kernel is a failure. Without
 * assertions: only the table.
 *
 *     sass k.cubin --forbid LDL,STL --kernel forward --require HGMMA=16,UTMALDG --forbid HMMA
 *
 * MUFU.HIDDEN>=32: so many lie between each wait that leaves a wgmma group in flight and the next wait for all, that is,
 * run beside products. ptxas may move a wait forward, and does, without a word.
 *
 * --loops also prints, for each innermost loop with a wgmma, how many instructions a warp issues in an iteration: along
 * the shortest path, on which waits succeed at once and rare branches are not taken, and if it took all there are.
 *
 * SASS of sm_80 to sm_90 has 16 bytes an instruction; bits 0 to 8 are the opcode. The table of opcodes was
 * made by compiling one PTX instruction at a time (ptxas 13.0); what it lacks is shown by number.
 */
#include <elf.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OPCODES = 512, EM_CUBIN = 190, MAX_KERNELS = 1024 };
#define FATBIN_MAGIC 0xba55ed50u

/* Several numbers may have one name: forms of one instruction. */
static const char *const names[OPCODES] = {
    [0x002] = "MOV",       [0x005] = "CS2R",     [0x006] = "VOTE",      [0x007] = "SEL",
    [0x008] = "FSEL",      [0x009] = "FMNMX",    [0x00b] = "FSETP",     [0x00c] = "ISETP",
    [0x010] = "IADD3",     [0x011] = "LEA",      [0x012] = "LOP3",      [0x013] = "IABS",
    [0x016] = "PRMT",      [0x017] = "IMNMX",    [0x019] = "SHF",       [0x01c] = "PLOP3",
    [0x020] = "FMUL",      [0x021] = "FADD",     [0x023] = "FFMA",      [0x024] = "IMAD",
    [0x025] = "IMAD",      [0x026] = "IDP",      [0x027] = "IMAD",      [0x028] = "DMUL",
    [0x029] = "DADD",      [0x02a] = "DSETP",    [0x02b] = "DFMA",      [0x02d] = "PREEXIT",
    [0x02e] = "ACQBULK",   [0x02f] = "ELECT",    [0x030] = "HADD2",     [0x031] = "HFMA2",
    [0x032] = "HMUL2",     [0x034] = "HSETP2",   [0x035] = "HFMA2",     [0x036] = "VIADD",
    [0x037] = "IMMA",      [0x03a] = "MOVM",     [0x03b] = "LDSM",      [0x03c] = "HMMA",
    [0x03d] = "BMMA",      [0x03e] = "F2FP",     [0x03f] = "DMMA",      [0x040] = "HMNMX2",
    [0x044] = "STSM",      [0x045] = "I2FP",     [0x048] = "VIMNMX",    [0x082] = "UMOV",
    [0x07a] = "QMMA",
    [0x086] = "VOTEU",     [0x087] = "USEL",     [0x08c] = "UISETP",    [0x090] = "UIADD3",
    [0x091] = "ULEA",      [0x092] = "ULOP3",    [0x096] = "UPRMT",     [0x099] = "USHF",
    [0x09c] = "UPLOP3",    [0x0a4] = "UIMAD",    [0x0a5] = "UIMAD",     [0x0b9] = "ULDC",
    [0x0bd] = "UFLO",      [0x0ca] = "R2UR",     [0x100] = "FLO",       [0x101] = "BREV",
    [0x104] = "F2F",       [0x105] = "F2I",      [0x106] = "I2F",       [0x107] = "FRND",
    [0x108] = "MUFU",      [0x109] = "POPC",     [0x110] = "F2F",       [0x111] = "F2I",
    [0x112] = "I2F",       [0x118] = "NOP",      [0x119] = "S2R",       [0x11a] = "DEPBAR",
    [0x11d] = "BAR",       [0x141] = "BSYNC",    [0x142] = "BREAK",     [0x143] = "CALL",
    [0x144] = "CALL",      [0x145] = "BSSY",     [0x147] = "BRA",       [0x148] = "WARPSYNC",
    [0x149] = "BRX",       [0x14d] = "EXIT",     [0x150] = "RET",       [0x15c] = "BPT",
    [0x15d] = "NANOSLEEP", [0x180] = "LD",       [0x181] = "LDG",       [0x182] = "LDC",
    [0x183] = "LDL",       [0x184] = "LDS",      [0x185] = "ST",        [0x186] = "STG",
    [0x187] = "STL",       [0x188] = "STS",      [0x189] = "SHFL",      [0x18a] = "ATOM",
    [0x18b] = "ATOM",      [0x18c] = "ATOMS",    [0x18d] = "ATOMS",     [0x18e] = "RED",
    [0x18f] = "CCTL",      [0x192] = "MEMBAR",   [0x1a1] = "MATCH",     [0x1a3] = "ATOMG",
    [0x1a6] = "RED",       [0x1a7] = "SYNCS",    [0x1a8] = "ATOMG",     [0x1a9] = "ATOMG",
    [0x1ab] = "ERRBAR",    [0x1ae] = "LDGSTS",   [0x1af] = "LDGDEPBAR", [0x1b2] = "SYNCS",
    [0x1b4] = "UTMALDG",   [0x1b5] = "UTMASTG",  [0x1b6] = "UTMAREDG",  [0x1b7] = "UTMACMDFLUSH",
    [0x1b8] = "UTMAPF",    [0x1b9] = "UTMACCTL", [0x1ba] = "UBLKCP",    [0x1bb] = "UBLKRED",
    [0x1bd] = "STAS",      [0x1c2] = "R2UR",     [0x1c3] = "S2UR",      [0x1c4] = "REDUX",
    [0x1c5] = "WARPGROUP", [0x1c6] = "FENCE",    [0x1c7] = "UCGABAR",   [0x1c8] = "USETMAXREG",
    [0x1f0] = "HGMMA",     [0x1f1] = "IGMMA",    [0x1f2] = "BGMMA",     [0x1f3] = "QGMMA"};

typedef struct {
    const char *name;
    int arch, instructions, count[OPCODES];
    const uint64_t *code; /* two words an instruction */
} Kernel;

static Kernel kernels[MAX_KERNELS];
static int nkernels, failures;

static void read_cubin(const char *file, const uint8_t *data, size_t bytes) {
    const Elf64_Ehdr *e = (const void *)data;
    const Elf64_Shdr *section = (const void *)(data + e->e_shoff);
    if (e->e_shoff + (size_t)e->e_shnum * sizeof *section > bytes) {
        fprintf(stderr, "%s: cut short\n", file);
        exit(2);
    }
    const char *strings = (const char *)data + section[e->e_shstrndx].sh_offset;
    for (int i = 0; i < e->e_shnum; i++) {
        const char *name = strings + section[i].sh_name;
        if (strncmp(name, ".text.", 6) || nkernels == MAX_KERNELS) continue;
        Kernel *k = &kernels[nkernels++];
        k->name = name + 6;
        k->arch = e->e_ident[EI_OSABI] == 0x41 ? e->e_flags >> 8 & 0xff : e->e_flags & 0xff;
        const uint64_t *word = k->code = (const void *)(data + section[i].sh_offset);
        k->instructions = (int)(section[i].sh_size / 16);
        for (int j = 0; j < k->instructions; j++) k->count[word[2 * j] % OPCODES]++;
    }
}

/* Fat binaries one after the other: header, entries; entries of kind 2 are cubins (fatbin.c has the
 * layout). */
static void read_fatbins(const char *file, const uint8_t *data, size_t bytes) {
    for (size_t at = 0; at + 16 <= bytes;) {
        uint32_t magic;
        uint16_t header;
        uint64_t size;
        memcpy(&magic, data + at, 4), memcpy(&header, data + at + 6, 2), memcpy(&size, data + at + 8, 8);
        if (magic != FATBIN_MAGIC) {
            at += 8;
            continue;
        }
        for (size_t entry = at + header, end = entry + size; entry + 64 <= end && end <= bytes;) {
            uint16_t kind;
            uint32_t entry_header;
            uint64_t payload;
            memcpy(&kind, data + entry, 2), memcpy(&entry_header, data + entry + 4, 4);
            memcpy(&payload, data + entry + 8, 8);
            const uint8_t *cubin = data + entry + entry_header;
            if (kind == 2 && memcmp(cubin, ELFMAG, SELFMAG)) {
                fprintf(stderr, "%s: holds a compressed cubin: compile with -no-compress\n", file);
                exit(2);
            }
            if (kind == 2) read_cubin(file, cubin, payload);
            entry += entry_header + payload;
        }
        at += header + size;
    }
}

static void read_file(const char *file) {
    FILE *f = fopen(file, "rb");
    if (!f || fseek(f, 0, SEEK_END)) {
        perror(file);
        exit(2);
    }
    size_t bytes = (size_t)ftell(f);
    uint8_t *data = malloc(bytes + 1); /* kept: names point into it */
    rewind(f);
    const Elf64_Ehdr *e = (const void *)data;
    if (!data || fread(data, 1, bytes, f) != bytes || bytes < sizeof *e || memcmp(data, ELFMAG, SELFMAG)) {
        fprintf(stderr, "%s: neither a cubin nor an object\n", file);
        exit(2);
    }
    fclose(f);
    int before = nkernels;
    if (e->e_machine == EM_CUBIN)
        read_cubin(file, data, bytes);
    else {
        const Elf64_Shdr *section = (const void *)(data + e->e_shoff);
        const char *strings = (const char *)data + section[e->e_shstrndx].sh_offset;
        for (int i = 0; i < e->e_shnum; i++)
            if (!strcmp(strings + section[i].sh_name, ".nv_fatbin"))
                read_fatbins(file, data + section[i].sh_offset, section[i].sh_size);
    }
    if (nkernels == before) {
        fprintf(stderr, "%s: no kernels in it\n", file);
        exit(2);
    }
}

/* Opcodes of one kernel, the frequent ones first. */
static void print(const Kernel *k) {
    int count[OPCODES];
    memcpy(count, k->count, sizeof count);
    for (int i = 0; i < OPCODES; i++)
        for (int j = 0; j < i && names[i]; j++)
            if (names[j] && !strcmp(names[i], names[j])) count[j] += count[i], count[i] = 0;
    printf("%s (sm_%d): %d instructions", k->name, k->arch, k->instructions);
    for (const char *before = ": ";; before = ", ") {
        int most = 0;
        for (int i = 1; i < OPCODES; i++)
            if (count[i] > count[most]) most = i;
        if (!count[most]) break;
        if (names[most])
            printf("%s%s %d", before, names[most], count[most]);
        else
            printf("%s0x%03x %d", before, (unsigned)most, count[most]);
        count[most] = 0;
    }
    putchar('\n');
}

/* ---- loops ---- */

enum { BRA = 0x147, EXIT = 0x14d, HGMMA = 0x1f0, QGMMA = 0x1f3, FAR = 1 << 30, ALWAYS = 7 /* predicate */ };
static int opcode(const Kernel *k, int i) { return (int)(k->code[2 * i] % OPCODES); }
static int predicate(const Kernel *k, int i) { return (int)(k->code[2 * i] >> 12 & 15); }

/* Where a branch with an offset goes; -1 if instruction i is none. */
static int target(const Kernel *k, int i) {
    const uint64_t low = k->code[2 * i], high = k->code[2 * i + 1];
    if ((low & 0xfff) != 0x947) return -1;
    /* 48 bits from bit 34 on, then 8 more, in units of 4 bytes */
    const int64_t offset = ((int64_t)((low >> 34 | high << 30) << 16) >> 16) * 256 + (int64_t)(low >> 16 & 255);
    const int64_t to = i + 1 + offset / 4;
    return offset % 4 == 0 && to >= 0 && to < k->instructions ? (int)to : -1;
}

/* Instructions of the shortest path from first to last, both counted; FAR: there is none. */
static int shortest(const Kernel *k, int first, int last) {
    int *const dist = malloc(((size_t)k->instructions + 1) * sizeof *dist);
    bool again = true;
    if (!dist) exit(2);
    for (int i = 0; i <= k->instructions; i++) dist[i] = FAR;
    for (dist[first] = 1; again;) {
        again = false;
        for (int i = 0; i < k->instructions; i++) {
            if (dist[i] == FAR || i == last) continue;
            const int to = target(k, i), op = opcode(k, i);
            if (to >= 0 && dist[to] > dist[i] + 1) dist[to] = dist[i] + 1, again = true;
            if (predicate(k, i) == ALWAYS && (op == BRA || op == EXIT)) continue;
            if (dist[i + 1] > dist[i] + 1) dist[i + 1] = dist[i] + 1, again = true;
        }
    }
    const int length = dist[last];
    free(dist);
    return length;
}

static void print_loops(const Kernel *k) {
    for (int last = 0; last < k->instructions; last++) {
        const int first = target(k, last);
        bool innermost = true;
        int products = 0;
        if (first < 0 || first > last || predicate(k, last) == ALWAYS) continue;
        for (int i = first; i < last; i++) {
            const int to = target(k, i); /* waits are short loops of their own */
            products += opcode(k, i) == HGMMA || opcode(k, i) == QGMMA;
            innermost &= !(to >= first && to < i && i - to > 8);
        }
        const int length = products && innermost ? shortest(k, first, last) : FAR;
        if (length <= last - first + 1)
            printf("  loop at %d: %d issued of %d, %d wgmma\n", first, length, last - first + 1, products);
    }
}

/* The least number of instructions of that name between a wait for all wgmma groups but some and the next one for all;
 * 0 if there is none. */
static long hidden(const Kernel *k, const char *name) {
    long least = -1, count = -1; /* -1: not in between */
    for (int i = 0; i < k->instructions; i++) {
        const char *const other = names[opcode(k, i)];
        if (count >= 0 && other && !strcmp(other, name)) count++;
        if ((k->code[2 * i] & 0xffffffffffff0fff) != 0x00008000000009c5) continue; /* WARPGROUP.DEPBAR.LE gsb0 */
        const int in_flight = (int)(k->code[2 * i + 1] >> 8 & 0xff);
        if (!in_flight && count >= 0 && (least < 0 || count < least)) least = count;
        count = in_flight ? 0 : -1;
    }
    return least < 0 ? 0 : least;
}

/* It only returns, as a kernel that is for another architecture: LDC, EXIT, the BRA behind it. Nothing is required
 * of it. */
static bool is_empty(const Kernel *k) { return k->instructions - k->count[0x118 /* NOP */] <= 3; }

/* One item of a list, "HGMMA>=16", for the selected kernels. */
static void check(char *item, bool forbid, const char *part) {
    char *relation = item + strcspn(item, "<>=");
    bool at_least = true, at_most = forbid; /* by itself: one or more, or none */
    long want = forbid ? 0 : 1;
    if (*relation) {
        char *end, sign = *relation, *number = relation + 1 + (relation[1] == '=' && sign != '=');
        want = strtol(number, &end, 10), at_least = sign != '<', at_most = sign != '>';
        if (forbid || *end || end == number || (sign != '=' && relation[1] != '=')) {
            fprintf(stderr, "cannot read %s: NAME, NAME=n, NAME>=n or NAME<=n\n", item);
            exit(2);
        }
        *relation = 0;
    }
    bool known = false, in_between = false;
    char *const dot = strchr(item, '.');
    if (dot && !strcmp(dot, ".HIDDEN")) *dot = 0, in_between = true;
    for (int i = 0; i < OPCODES; i++) known |= names[i] && !strcmp(names[i], item);
    if (!known) {
        fprintf(stderr, "%s: no opcode of that name is known\n", item);
        exit(2);
    }
    int selected = 0;
    for (const Kernel *k = kernels; k < kernels + nkernels; k++) {
        long count = 0;
        if (!strstr(k->name, part) || (!forbid && is_empty(k))) continue;
        selected++;
        for (int i = 0; i < OPCODES && !in_between; i++)
            if (names[i] && !strcmp(names[i], item)) count += k->count[i];
        if (in_between) count = hidden(k, item);
        if ((!at_least || count >= want) && (!at_most || count <= want)) continue;
        failures++;
        printf("FAILED %s (sm_%d): %ld %s%s, wanted %s%ld\n", k->name, k->arch, count, item, in_between ? ".HIDDEN" : "",
               at_least && at_most ? ""
               : at_least          ? "at least "
                                   : "at most ",
               want);
    }
    if (!selected) failures++, printf("FAILED: no kernel has '%s' in its name\n", part);
}

int main(int argc, char **argv) {
    const char *part = "";
    int first = 1;
    for (; first < argc && argv[first][0] != '-'; first++) read_file(argv[first]);
    if (first == 1)
        return fprintf(stderr, "usage: sass FILE... [--loops] [--kernel PART] [--require LIST] [--forbid LIST]\n"), 2;
    bool loops = first < argc && !strcmp(argv[first], "--loops");
    first += loops;
    for (int i = 0; i < nkernels; i++) {
        print(&kernels[i]);
        if (loops) print_loops(&kernels[i]);
    }
    for (int i = first; i < argc; i += 2) {
        bool require = !strcmp(argv[i], "--require"), forbid = !strcmp(argv[i], "--forbid");
        if (i + 1 == argc || (!require && !forbid && strcmp(argv[i], "--kernel"))) {
            fprintf(stderr, "%s: --kernel PART, --require LIST or --forbid LIST\n", argv[i]);
            return 2;
        }
        if (!require && !forbid)
            part = argv[i + 1];
        else
            for (char *item = strtok(argv[i + 1], ","); item; item = strtok(NULL, ","))
                check(item, forbid, part);
    }
    return failures != 0;
}
