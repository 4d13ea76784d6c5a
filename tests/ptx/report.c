/* report.c - counts what a launch does, and says what that would cost on a card.
 *
 *     counting      ptx_count_shared, ptx_count_matrix, ptx_count_global: called by the handlers
 *     summing up    what the instructions counted becomes one Counters; ptx_counter(name) for tests
 *     cost model    cards, rates with their source, clocks by resource
 *     output        FA_PTX_REPORT = table (stderr) | FILE.csv (rows are appended) | both, with a comma
 *
 * The clocks and milliseconds are predictions from counts and published rates. Nothing here has been
 * measured: they say which resource limits a kernel and by how much, not how long it takes.
 */
#include <inttypes.h>
#include <stdlib.h>
#include "machine.h"

Counters ptx_count;
static Counters last; /* of the last launch that ended */

/* ---- counting ------------------------------------------------------------------------------------------ */

/* One wavefront serves 32 banks of 4 bytes. A request is split into groups of lanes that ask for 128 bytes
 * together, which takes as many wavefronts as there are different words in its fullest bank: one at best. */

/* n lanes, each asking for `words` words from word[i] on */
static u32 group_wavefronts(const u32 *word, int n, int words) {
    u32 banks = 0, used = 0, distinct[LANES], most = 0;
    u8 fill[LANES] = {0};
    u32 one =
        LANE_BIT(words) - 1; /* the banks of one lane, shifted to the first: aligned, so they never wrap */
    for (int i = 0; i < n; i++) { /* no bank twice: the usual case */
        u32 mine = one << (word[i] & 31);
        if (banks & mine) goto conflict;
        banks |= mine;
    }
    return 1;
conflict:
    for (int i = 0; i < n; i++) {
        u32 seen = 0;
        while (seen < used && distinct[seen] != word[i]) seen++;
        if (seen < used) continue;
        distinct[used++] = word[i];
        for (int k = 0; k < words; k++) {
            u32 in_bank = ++fill[(word[i] + (u32)k) & 31];
            if (in_bank > most) most = in_bank;
        }
    }
    return most;
}

static void add_wavefronts(const Ins *in, u32 wavefronts, u32 ideal) {
    Ins *counted = (Ins *)(uintptr_t)in; /* counters are the part of an instruction that changes */
    counted->wavefronts += wavefronts, counted->wavefronts_ideal += ideal;
    ptx_count.shared_wavefronts += wavefronts, ptx_count.shared_wavefronts_ideal += ideal;
}

void ptx_count_shared(const Ins *in, const u32 *address, u32 m, u32 bytes) {
    int words = bytes > 4 ? (int)bytes / 4 : 1, lanes = LANES / words;
    u32 wavefronts = 0, ideal = 0;
    for (int first = 0; first < LANES; first += lanes) {
        u32 word[LANES];
        int n = 0;
        for (int l = first; l < first + lanes; l++)
            if (m >> l & 1) word[n++] = address[l] >> 2;
        if (n) wavefronts += group_wavefronts(word, n, words), ideal++;
    }
    add_wavefronts(in, wavefronts, ideal);
}

void ptx_count_matrix(const Ins *in, const u32 *address, int nrows) {
    u32 wavefronts = 0;
    for (int first = 0; first < nrows; first += 8) {
        u32 word[8];
        for (int r = 0; r < 8; r++) word[r] = address[first + r] >> 2;
        wavefronts += group_wavefronts(word, 8, 4);
    }
    add_wavefronts(in, wavefronts, (u32)nrows / 8);
}

static bool is_family(const char *opcode, const char *family) {
    size_t n = strlen(family);
    return !strncmp(opcode, family, n) && (opcode[n] == '.' || !opcode[n]);
}

void ptx_count_global(const Ins *in, const u64 *address, u32 m, u32 bytes, bool store) {
    Ins *counted = (Ins *)(uintptr_t)in;
    u64 sector[2 * LANES], highest = 0;
    u32 n = 0, asked = (u32)__builtin_popcount(m) * bytes;
    EACH_LANE(l, m) {
        for (u64 s = address[l] >> 5; s <= (address[l] + bytes - 1) >> 5; s++) {
            u32 i = s > highest ? 0 : n; /* ascending addresses need no search */
            while (i && sector[i - 1] != s) i--;
            if (i == 0) sector[n++] = s;
            if (s > highest) highest = s;
        }
    }
    counted->bytes += asked, counted->sectors += n;
    *(store ? &ptx_count.store_sectors : &ptx_count.load_sectors) += n;
    if (is_family(in->opcode, "cp"))
        ptx_count.copy_bytes += asked;
    else if (is_family(in->opcode, "atom") || is_family(in->opcode, "red"))
        ptx_count.atomic_bytes += asked;
    else
        *(store ? &ptx_count.store_bytes : &ptx_count.load_bytes) += asked;
    /* a request that spans allocations is counted for that of its first lane */
    Allocation *a = ptx_find_allocation(address[ptx_first_lane(m)], 1);
    if (a) *(store ? &a->written_sectors : &a->read_sectors) += n;
}

/* ---- summing up ---------------------------------------------------------------------------------------- */

static const char *const unit_name[UNIT_COUNT] = {
    [UNIT_NONE] = "none",     [UNIT_ALU] = "integer",     [UNIT_FP32] = "fp32",
    [UNIT_FP64] = "fp64",     [UNIT_HALF] = "half",       [UNIT_MUFU] = "special",
    [UNIT_CVT] = "convert",   [UNIT_SHUFFLE] = "shuffle", [UNIT_GLOBAL] = "global",
    [UNIT_SHARED] = "shared", [UNIT_LOCAL] = "local",     [UNIT_MMA] = "mma",
    [UNIT_WGMMA] = "wgmma",   [UNIT_TMA] = "TMA",         [UNIT_BARRIER] = "barrier",
    [UNIT_BRANCH] = "branch",
};

/* moves between registers: ptxas renames nearly all of them away, so they are counted but cost nothing */
static bool is_move(const Ins *in) { return is_family(in->opcode, "mov") || is_family(in->opcode, "cvta"); }

typedef struct {
    u64 lanes[UNIT_COUNT]; /* thread instructions by unit, without moves */
    u64 moves;             /* warp instructions */
    u64 read, written;     /* device memory that has to travel at least once */
} Sums;

static void sum_up(const Kernel *k, Sums *s) {
    Counters *c = &ptx_count;
    memset(c->unit, 0, sizeof c->unit);
    c->warp_instructions = c->thread_instructions = 0;
    for (int i = 0; i < k->ncode; i++) {
        const Ins *in = &k->code[i];
        c->warp_instructions += in->executed, c->thread_instructions += in->lanes;
        c->unit[in->unit] += in->executed;
        if (is_move(in))
            s->moves += in->executed;
        else
            s->lanes[in->unit] += in->lanes;
    }
    c->fp32_lanes = s->lanes[UNIT_FP32], c->mufu_lanes = s->lanes[UNIT_MUFU];
    const Allocation *a;
    for (int i = 0; (a = ptx_each_allocation(i)); i++) {
        s->read += a->read < a->bytes ? a->read : a->bytes;
        s->written += a->written < a->bytes ? a->written : a->bytes;
    }
}

/* the plain counters by their name */
#define COUNTER(field) \
    { #field, offsetof(Counters, field) }
static const struct {
    const char *name;
    size_t offset;
} counter[] = {
    COUNTER(warp_instructions),
    COUNTER(thread_instructions),
    COUNTER(mac_mma),
    COUNTER(mac_wgmma),
    COUNTER(mac_mma_8bit),
    COUNTER(mac_wgmma_8bit),
    COUNTER(load_bytes),
    COUNTER(store_bytes),
    COUNTER(copy_bytes),
    COUNTER(tma_load_bytes),
    COUNTER(tma_store_bytes),
    COUNTER(atomic_bytes),
    COUNTER(load_sectors),
    COUNTER(store_sectors),
    COUNTER(shared_wavefronts),
    COUNTER(shared_wavefronts_ideal),
    COUNTER(wgmma_shared_bytes),
    COUNTER(tma_shared_bytes),
};
enum { COUNTERS = sizeof counter / sizeof counter[0] };
static u64 value_of(const Counters *c, int i) {
    return *(const u64 *)(const void *)((const char *)c + counter[i].offset);
}

u64 ptx_counter(const char *name) {
    for (int i = 0; i < COUNTERS; i++)
        if (!strcmp(counter[i].name, name)) return value_of(&last, i);
    fprintf(stderr, "ptx_counter: no counter is called %s (machine.h, Counters)\n", name);
    exit(2);
}

/* ---- cost model ---------------------------------------------------------------------------------------- */

/* clang-format off */
enum { A100, H100, H200, CARDS };

/* Data sheets (80 GB cards, SXM). H100, H200: 1.98 GHz at most, power-limited to 1.83 or less under load.
 * L2: 5120 B/clk in the A100 white paper, 160 slices x 32 B in FlashGPU-Sim's configuration of the H100. */
static const struct {
    const char *name;
    int sms;
    double ghz, hbm, l2; /* hbm: bytes/s; l2: bytes per clock, whole card, not measured */
} card[CARDS] = {
    [A100] = {"A100", 108, 1.41, 2.04e12, 5120},
    [H100] = {"H100", 132, 1.83, 3.35e12, 5120},
    [H200] = {"H200", 132, 1.83, 4.80e12, 5120},
};

/* resources of an SM; before PIPES those that the arithmetic of a warp passes through one after the other */
enum { TENSOR, SPECIAL, FP32, FP64, HALF, INTEGER, CONVERT, SHUFFLE, PIPES, SHARED = PIPES, ISSUE, L2_PORT,
       TMA_ISSUE, RESOURCES };
static const char *const resource_name[RESOURCES] = {
    "tensor", "special", "fp32", "fp64", "half", "integer", "convert", "shuffle", "shared", "issue",
    "L2 port", "TMA issue" };

/* What each resource does per SM and clock; 0: the card has no such thing. "guide": the table of arithmetic
 * throughput in the CUDA C++ Programming Guide 12.6, compute capabilities 8.0 and 9.0. */
enum { MMA16, MMA8, WGMMA16, WGMMA8, EX2, FFMA, DFMA, HFMA2, INT, F2F, SHFL, SMEM, SLOT, BYTES,
       TMA_OP, RATES };
static const struct {
    int resource;
    double per_clock[CARDS];
    const char *assumed; /* printed: a rate that has no published source, or none for this card */
} rate[RATES] = {
    /* MAC: 312 TFLOPS / (108 x 1.41 GHz); sm_90: interval 6 in FlashGPU-Sim's configuration, 2/3 of wgmma */
    [MMA16]   = {TENSOR, {1024, 1365, 1365}, "mma.sync on sm_90"},
    /* 624 TOPS of int8; sm_90: ptxas unpacks e4m3 to f16, so the rate of 16 bits */
    [MMA8]    = {TENSOR, {2048, 1365, 1365}, NULL},
    [WGMMA16] = {TENSOR, {0, 2048, 2048}, NULL},       /* 989 TFLOPS / (132 x 1.83 GHz) */
    [WGMMA8]  = {TENSOR, {0, 4096, 4096}, NULL},       /* 1979 TFLOPS / (132 x 1.83 GHz) */
    [EX2]     = {SPECIAL, {16, 16, 16}, NULL},         /* guide; FlashAttention-3: 3.9 TFLOPS of exp */
    [FFMA]    = {FP32, {64, 128, 128}, NULL},          /* guide: add, mul, fma of f32 */
    [DFMA]    = {FP64, {32, 64, 64}, NULL},            /* guide */
    [HFMA2]   = {HALF, {128, 128, 128}, NULL},         /* guide: 256 results, two an instruction */
    [INT]     = {INTEGER, {64, 64, 64}, NULL},         /* guide: add, logic, shift, compare, min, max */
    [F2F]     = {CONVERT, {64, 64, 64}, "conversions"}, /* guide: 16; f32 -> bf16x2 is believed to do 64 */
    [SHFL]    = {SHUFFLE, {32, 32, 32}, NULL},         /* guide */
    [SMEM]    = {SHARED, {128, 128, 128}, NULL},       /* bytes: 32 banks x 4 B */
    [SLOT]    = {ISSUE, {4, 4, 4}, NULL},              /* warp instructions: four schedulers */
    [BYTES]   = {L2_PORT, {64, 64, 64}, "bytes from L2"},
    [TMA_OP]  = {TMA_ISSUE, {1. / 33, 1. / 33, 1. / 33}, NULL}, /* 33 clk each in FlashGPU-Sim */
};
/* clang-format on */

typedef struct {
    double clocks[RESOURCES]; /* of the SM that has the most CTAs */
    double floor, serial;     /* clocks: everything overlaps; nothing of a CTA's arithmetic does */
    int limit;                /* resource of the floor */
    double hbm_ms, l2_ms, floor_ms, serial_ms;
} Cost;

static int first_card(const Kernel *k) { return k->module->target <= 80 ? A100 : H100; }

static u64 device_bytes(const Counters *c) {
    return c->load_bytes + c->store_bytes + c->copy_bytes + c->tma_load_bytes + c->tma_store_bytes +
           c->atomic_bytes;
}

/* What passes between L2 and the SMs: whole sectors of what threads ask for, and the bytes of TMA. */
static u64 l2_bytes(const Counters *c) {
    return 32 * (c->load_sectors + c->store_sectors) + c->tma_load_bytes + c->tma_store_bytes;
}

/* Floor: the fullest resource, as if all others hid behind it. Serial: the tensor cores and then the softmax,
 * whose steps (maximum, exponential, conversion) feed one another and so take turns too: the sum of the
 * pipes, or the issue slots if they take longer. Several CTAs an SM and specialised warps lead from serial
 * to floor. */
static Cost predict(int at, const Counters *c, const Sums *s, u64 ctas) {
    Cost cost = {0};
    u64 waves = (ctas + (u64)card[at].sms - 1) / (u64)card[at].sms;
    double share = (double)waves / (double)ctas, path = 0;
    double *t = cost.clocks;
    const double amount[RATES] = {
        [MMA16] = (double)c->mac_mma,
        [MMA8] = (double)c->mac_mma_8bit,
        [WGMMA16] = (double)c->mac_wgmma,
        [WGMMA8] = (double)c->mac_wgmma_8bit,
        [EX2] = (double)s->lanes[UNIT_MUFU],
        [FFMA] = (double)s->lanes[UNIT_FP32],
        [DFMA] = (double)s->lanes[UNIT_FP64],
        [HFMA2] = (double)s->lanes[UNIT_HALF],
        [INT] = (double)s->lanes[UNIT_ALU],
        [F2F] = (double)s->lanes[UNIT_CVT],
        [SHFL] = (double)s->lanes[UNIT_SHUFFLE],
        [SMEM] = (double)(128 * c->shared_wavefronts + c->wgmma_shared_bytes + c->tma_shared_bytes),
        [SLOT] = (double)(c->warp_instructions - s->moves),
        [BYTES] = (double)l2_bytes(c),
        [TMA_OP] = (double)c->unit[UNIT_TMA],
    };
    for (int i = 0; i < RATES; i++)
        if (rate[i].per_clock[at]) t[rate[i].resource] += amount[i] * share / rate[i].per_clock[at];
    for (int r = 0; r < RESOURCES; r++)
        if (t[r] > cost.floor) cost.floor = t[r], cost.limit = r;
    for (int r = TENSOR + 1; r < PIPES; r++) path += t[r];
    cost.serial = t[TENSOR] + (path > t[ISSUE] ? path : t[ISSUE]);
    if (cost.serial < cost.floor) cost.serial = cost.floor;
    cost.hbm_ms = (double)(s->read + s->written) / card[at].hbm * 1e3;
    cost.l2_ms = (double)l2_bytes(c) / (card[at].l2 * card[at].ghz * 1e6);
    double memory = cost.hbm_ms > cost.l2_ms ? cost.hbm_ms : cost.l2_ms;
    cost.floor_ms = cost.floor / (card[at].ghz * 1e6);
    cost.serial_ms = cost.serial / (card[at].ghz * 1e6);
    if (cost.floor_ms < memory) cost.floor_ms = memory;
    if (cost.serial_ms < memory) cost.serial_ms = memory;
    return cost;
}

/* ---- lists that are sorted by their value -------------------------------------------------------------- */

typedef struct {
    const char *name; /* opcode family; NULL: a source line */
    int family_length, file, line;
    u64 value, ideal;
} Entry;

static int by_value(const void *a, const void *b) {
    const Entry *x = a, *y = b;
    return (x->value < y->value) - (x->value > y->value);
}

/* Conflicts by source line: value = wavefronts above the minimum. Returns the number of entries, sorted. */
static int conflicts(const Kernel *k, Entry *e, int room) {
    int n = 0;
    for (int i = 0; i < k->ncode; i++) {
        const Ins *in = &k->code[i];
        if (in->wavefronts == in->wavefronts_ideal || in->place < 0) continue;
        const Place *p = &k->place[in->place];
        int at = 0;
        while (at < n && (e[at].file != p->file || e[at].line != p->line)) at++;
        if (at == room) continue;
        if (at == n) e[n++] = (Entry){.file = p->file, .line = p->line};
        e[at].value += in->wavefronts - in->wavefronts_ideal, e[at].ideal += in->wavefronts_ideal;
    }
    qsort(e, (size_t)n, sizeof *e, by_value);
    return n;
}

static int families(const Kernel *k, Entry *e, int room) {
    int n = 0;
    for (int i = 0; i < k->ncode; i++) {
        const Ins *in = &k->code[i];
        int length = (int)strcspn(in->opcode, "."), at = 0;
        while (at < n && (e[at].family_length != length || strncmp(e[at].name, in->opcode, (size_t)length)))
            at++;
        if (!in->executed || at == room) continue;
        if (at == n) e[n++] = (Entry){.name = in->opcode, .family_length = length};
        e[at].value += in->executed;
    }
    qsort(e, (size_t)n, sizeof *e, by_value);
    return n;
}

static const char *file_of(const Kernel *k, int file) {
    const char *name = file >= 0 && file < k->module->nfiles ? k->module->file[file] : NULL;
    const char *slash = name ? strrchr(name, '/') : NULL;
    return slash ? slash + 1 : name ? name : "?";
}

/* ---- output -------------------------------------------------------------------------------------------- */

enum { WORST = 5, ROOM = 256 };

static void print_table(FILE *f, const Grid *g, const Sums *s, double seconds) {
    const Kernel *k = g->kernel;
    const Counters *c = &ptx_count;
    Entry entry[ROOM];
    u64 ctas = (u64)g->dim[0] * g->dim[1] * g->dim[2];
    int threads = (int)(g->block[0] * g->block[1] * g->block[2]);
    char name[1024];
    ptx_demangle(k->name, name, sizeof name);
    fprintf(f, "\n%s: launch %" PRIu64 ", grid %u x %u x %u, block %u x %u x %u", name, g->serial, g->dim[0],
            g->dim[1], g->dim[2], g->block[0], g->block[1], g->block[2]);
    if (g->cluster_dim[0] * g->cluster_dim[1] * g->cluster_dim[2] > 1)
        fprintf(f, ", cluster %u x %u x %u", g->cluster_dim[0], g->cluster_dim[1], g->cluster_dim[2]);
    fprintf(f, "\n  %d registers at most, %u + %u bytes shared, sm_%d%s, interpreted in %.3g s\n",
            ptx_registers(k, threads), k->shared_bytes, g->dynamic_shared, k->module->target,
            k->module->target_specific ? "a" : "", seconds);
    fprintf(f, "  instructions      %12" PRIu64 " warp %14" PRIu64 " thread\n", c->warp_instructions,
            c->thread_instructions);

    fprintf(f,
            "  device memory     %12" PRIu64 " bytes: ld %" PRIu64 ", st %" PRIu64 ", cp.async %" PRIu64
            ", TMA load %" PRIu64 ", TMA store "
            "%" PRIu64 ", atomics %" PRIu64 "\n",
            device_bytes(c), c->load_bytes, c->store_bytes, c->copy_bytes, c->tma_load_bytes,
            c->tma_store_bytes, c->atomic_bytes);
    fprintf(f,
            "                    %12" PRIu64 " sectors read, %" PRIu64
            " written, by ld, st, cp.async and atomics\n",
            c->load_sectors, c->store_sectors);
    const Allocation *a;
    for (int i = 0; (a = ptx_each_allocation(i)); i++)
        if (a->read || a->written)
            fprintf(f,
                    "    %-34s %11" PRIu64 " bytes, read %" PRIu64 " (%" PRIu64 " sectors), written %" PRIu64
                    " (%" PRIu64 " sectors)\n",
                    a->name, a->bytes, a->read, a->read_sectors, a->written, a->written_sectors);

    fprintf(f,
            "  shared memory     %12" PRIu64 " wavefronts, %" PRIu64
            " without conflicts; wgmma reads %" PRIu64 " bytes, TMA "
            "moves %" PRIu64 "\n",
            c->shared_wavefronts, c->shared_wavefronts_ideal, c->wgmma_shared_bytes, c->tma_shared_bytes);
    int n = conflicts(k, entry, ROOM);
    for (int i = 0; i < n && i < WORST; i++)
        fprintf(f, "    %s:%d: %" PRIu64 " wavefronts above the minimum of %" PRIu64 "\n",
                file_of(k, entry[i].file), entry[i].line, entry[i].value, entry[i].ideal);

    fprintf(f, "  warp instructions by unit:");
    for (int u = 0; u < UNIT_COUNT; u++)
        if (c->unit[u]) fprintf(f, " %s %" PRIu64, unit_name[u], c->unit[u]);
    fprintf(f, "\n  by opcode:");
    n = families(k, entry, ROOM);
    for (int i = 0; i < n; i++)
        fprintf(f, " %.*s %" PRIu64, entry[i].family_length, entry[i].name, entry[i].value);

    int first = first_card(k);
    Cost cost[CARDS];
    fprintf(f, "\n  predicted, not measured: clocks of the fullest SM");
    for (int at = first; at < CARDS; at++)
        cost[at] = predict(at, c, s, ctas), fprintf(f, " %12s", card[at].name);
    for (int r = 0; r < RESOURCES; r++) {
        if (!cost[H200].clocks[r] && !cost[first].clocks[r]) continue;
        fprintf(f, "\n    %-47s", resource_name[r]);
        for (int at = first; at < CARDS; at++) fprintf(f, " %12.0f", cost[at].clocks[r]);
    }
#define ROW(title, format, value) \
    fprintf(f, "\n    %-47s", title); \
    for (int at = first; at < CARDS; at++) fprintf(f, " " format, value)
    ROW("floor, clocks: everything overlaps", "%12.0f", cost[at].floor);
    ROW("floor is", "%12s", resource_name[cost[at].limit]);
    ROW("serial, clocks: tensor, then softmax", "%12.0f", cost[at].serial);
    ROW("HBM, each byte once, ms", "%12.4f", cost[at].hbm_ms);
    ROW("L2, ms", "%12.4f", cost[at].l2_ms);
    ROW("ms if everything overlaps", "%12.4f", cost[at].floor_ms);
    ROW("ms if the arithmetic does not", "%12.4f", cost[at].serial_ms);
#undef ROW
    fprintf(f, "\n    rates assumed without a source:");
    for (int r = 0; r < RATES; r++)
        if (rate[r].assumed) fprintf(f, " %s %g;", rate[r].assumed, rate[r].per_clock[H200]);
    fprintf(f, " moves between registers are free, all types of 16 bits and more cost the same in mma\n");
}

static void print_csv(FILE *f, const Grid *g, const Sums *s, double seconds) {
    const Kernel *k = g->kernel;
    const Counters *c = &ptx_count;
    Entry entry[ROOM];
    char name[1024];
    ptx_demangle(k->name, name, sizeof name);
#define ROW(metric, place, format, value) \
    fprintf(f, "%" PRIu64 ",\"%s\",%s,\"%s\"," format "\n", g->serial, name, metric, place, value)
    for (int i = 0; i < COUNTERS; i++) ROW(counter[i].name, "", "%" PRIu64, value_of(c, i));
    ROW("seconds", "", "%.6f", seconds);
    for (int u = 0; u < UNIT_COUNT; u++)
        if (c->unit[u]) ROW("unit", unit_name[u], "%" PRIu64, c->unit[u]);
    const Allocation *a;
    for (int i = 0; (a = ptx_each_allocation(i)); i++)
        if (a->read || a->written) {
            ROW("bytes_read", a->name, "%" PRIu64, a->read);
            ROW("bytes_written", a->name, "%" PRIu64, a->written);
        }
    int n = conflicts(k, entry, ROOM);
    for (int i = 0; i < n; i++) {
        char place[512];
        snprintf(place, sizeof place, "%s:%d", file_of(k, entry[i].file), entry[i].line);
        ROW("conflicts", place, "%" PRIu64, entry[i].value);
    }
    n = families(k, entry, ROOM);
    for (int i = 0; i < n; i++) {
        char family[64];
        snprintf(family, sizeof family, "%.*s", entry[i].family_length, entry[i].name);
        ROW("opcode", family, "%" PRIu64, entry[i].value);
    }
    for (int at = first_card(k); at < CARDS; at++) {
        Cost cost = predict(at, c, s, (u64)g->dim[0] * g->dim[1] * g->dim[2]);
        for (int r = 0; r < RESOURCES; r++) {
            char metric[64];
            snprintf(metric, sizeof metric, "predicted_clocks_%s", card[at].name);
            if (cost.clocks[r]) ROW(metric, resource_name[r], "%.0f", cost.clocks[r]);
        }
        ROW("predicted_floor_ms", card[at].name, "%.6f", cost.floor_ms);
        ROW("predicted_serial_ms", card[at].name, "%.6f", cost.serial_ms);
    }
#undef ROW
}

static FILE *csv;
static bool table;

static void open_report(void) {
    static bool opened;
    const char *want = getenv("FA_PTX_REPORT");
    if (opened || !want) return;
    opened = true;
    char list[1024];
    snprintf(list, sizeof list, "%s", want);
    for (char *save, *word = strtok_r(list, ",", &save); word; word = strtok_r(NULL, ",", &save)) {
        size_t n = strlen(word);
        if (!strcmp(word, "table"))
            table = true;
        else if (n > 4 && !strcmp(word + n - 4, ".csv")) {
            csv = fopen(word, "a");
            if (!csv) perror(word), exit(2);
            if (ftell(csv) == 0) fprintf(csv, "launch,kernel,metric,place,value\n");
        } else {
            fprintf(stderr, "FA_PTX_REPORT=%s: expected \"table\", a name that ends in .csv, or both\n",
                    want);
            exit(2);
        }
    }
}

void ptx_report_launch(Grid *g, double seconds) {
    Sums s = {0};
    open_report();
    sum_up(g->kernel, &s);
    if (table) print_table(stderr, g, &s, seconds);
    if (csv) print_csv(csv, g, &s, seconds);
    last = ptx_count;
    Allocation *a;
    for (int i = 0; (a = ptx_each_allocation(i)); i++)
        a->read = a->written = a->read_sectors = a->written_sectors = 0;
}

void ptx_report_exit(void) {
    if (csv) fclose(csv), csv = NULL;
}
