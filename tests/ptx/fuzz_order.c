/* fuzz_order.c - happens-before: what a few warps do at random, judged by the machine and by a model.
 *
 *     fuzz_order [--seconds n] [--seed n]      prints what it did and "1 passed, 0 failed, 0 skipped"
 *
 * The model has a whole vector clock for each thread, and for each byte its last write and the last read of
 * every thread since. The machine's clocks are sparse and common to the lanes of a warp, its lists of accesses
 * are shared by cells and shortened: both must find the same races, access by access. A run ends with its first
 * race, as a pair of instructions is reported once.
 */
#include <limits.h>

#include "fuzz.h"

enum {
    WARPS = 3,
    THREADS = WARPS * LANES,
    BYTES = 24,
    OPERATIONS = 1000,
    HANDED = 4,
    WORDS = 4,
    WORDS_AT = 40,
    OPERATION_KINDS = 8
};

/* ---- the model ----------------------------------------------------------------------------------------- */

typedef u32 Times[THREADS];

/* What a thread knows, or what is handed on. published: what a memory fence came after; pending: what relaxed reads
 * have found, known from the next memory fence on. A thread's own entry in `seen` is its time. */
typedef struct {
    Times seen, published, pending;
} Known;

static struct {
    Known thread[THREADS], handed[HANDED];
    Times word[WORDS]; /* what strong writes have left there */
    u32 fenced[WARPS]; /* lanes with a memory fence since the warp was synchronised */
    struct {
        int writer;
        u32 written;
        Times read;
    } byte[BYTES];
} model;

/* Where the time goes. */
#if defined(__clang__)
#define FAST __attribute__((no_sanitize("address", "undefined")))
#else
#define FAST __attribute__((no_sanitize("address", "undefined"), optimize("O3")))
#endif
FAST static void join(u32 *restrict to, const u32 *restrict from) {
    for (int u = 0; u < THREADS; u++) to[u] = to[u] < from[u] ? from[u] : to[u];
}
static void learn(int thread, const Times from) { /* all but its own time */
    u32 own = model.thread[thread].seen[thread];
    join(model.thread[thread].seen, from);
    model.thread[thread].seen[thread] = own;
}
static void tick(int warp) {
    for (int t = warp * LANES; t < (warp + 1) * LANES; t++) model.thread[t].seen[t]++;
}
static void hand_on(int warp, u32 m, Known *to) {
    EACH_LANE(l, m) {
        const Known *k = &model.thread[warp * LANES + (int)l];
        join(to->seen, k->seen), join(to->published, k->published), join(to->pending, k->pending);
    }
}
static void take_up(int warp, u32 m, const Known *from) {
    EACH_LANE(l, m) {
        int t = warp * LANES + (int)l;
        learn(t, from->seen);
        join(model.thread[t].published, from->published), join(model.thread[t].pending, from->pending);
    }
}

/* How many threads an access of a thread to these bytes races with. */
FAST static u32 races(int thread, u32 at, u32 bytes, bool write) {
    const u32 *seen = model.thread[thread].seen;
    bool with[THREADS] = {false};
    u32 n = 0;
    for (u32 b = at; b < at + bytes; b++) {
        with[model.byte[b].writer] |= model.byte[b].written > seen[model.byte[b].writer];
        for (int u = 0; write && u < THREADS; u++) with[u] |= model.byte[b].read[u] > seen[u];
    }
    with[thread] = false;
    for (int u = 0; u < THREADS; u++) n += with[u];
    return n;
}
static void record(int thread, u32 at, u32 bytes, bool write) {
    u32 now = model.thread[thread].seen[thread];
    for (u32 b = at; b < at + bytes; b++) {
        if (!write) {
            model.byte[b].read[thread] = now;
            continue;
        }
        model.byte[b].writer = thread, model.byte[b].written = now;
        memset(model.byte[b].read, 0, sizeof model.byte[b].read);
    }
}

/* ---- the machine and what it does ---------------------------------------------------------------------- */

/* Two clusters of a CTA each; all warps are in the first, or the last one is alone in the second. */
static struct {
    Grid grid;
    Cluster cluster[2];
    Cta cta[2];
    Warp warp[WARPS];
    Knowledge handed[HANDED]; /* the last one is of the second cluster */
    bool apart, shared;       /* where the bytes are: shared memory, or device memory */
    u32 reader;               /* the lane that reads device memory */
    /* Accesses that race are left out, or the first ones would end each run, except those of one kind behind some
     * instruction: */
    int from;
    u32 most;   /* it races with so many threads */
    bool write; /* it is a write, or a read */
    u32 weight[OPERATION_KINDS], weights;
} now;
static u8 memory[64];
static Operand operand = {.kind = KIND_R32};
static Ins code[OPERATIONS];
static Module module;
static Kernel kernel = {.name = "fuzz_order", .code = code, .ncode = OPERATIONS, .module = &module};
static u64 runs, accesses, found;

static void start(void) {
    static u32 registers[LANES]; /* lanes put different values */
    memset(&model, 0, sizeof model), memset(&now, 0, sizeof now);
    now.apart = below(2), now.shared = below(2), now.reader = LANE_BIT(below(LANES));
    now.from = (int)below(OPERATIONS), now.most = (u32[]){1, 4, 31, THREADS}[below(4)], now.write = below(2);
    for (int i = 0; i < OPERATION_KINDS; i++)
        now.weights += now.weight[i] = (i ? 1u : 8u) << below(5); /* 0: plain accesses */
    now.grid =
        (Grid){.kernel = &kernel, .dim = {2, 1, 1}, .block = {THREADS, 1, 1}, .cluster_dim = {1, 1, 1}};
    now.grid.serial = runs + 1;
    for (u32 i = 0; i < LANES; i++) registers[i] = i;
    for (int i = 0; i < 2; i++) {
        now.cluster[i] = (Cluster){
            .grid = &now.grid, .serial = (u32)i + 1, .cta = &now.cta[i], .nctas = 1, .actors = 1 + WARPS};
        now.cta[i] = (Cta){.cluster = &now.cluster[i], .grid = &now.grid, .shared_bytes = BYTES};
        now.cta[i].warp = &now.warp[i ? WARPS - 1 : 0];
    }
    now.cta[0].nwarps = WARPS - now.apart, now.cta[1].nwarps = now.apart;
    for (int i = 0; i < WARPS; i++) {
        int cta = now.apart && i == WARPS - 1;
        now.warp[i] = (Warp){.cta = &now.cta[cta], .id = cta ? 0 : i, .live = ALL_LANES, .reg = registers};
    }
    ptx_expect_findings(true);
    ptx_checks_start_launch(&now.grid);
    for (int i = 0; i < 2; i++) ptx_shadow_start_cta(&now.cta[i]);
    for (int t = 0; t < THREADS; t++) model.thread[t].seen[t] = 1;
}

static void end(void) {
    for (int i = 0; i < 2; i++) ptx_shadow_free_cta(&now.cta[i]);
    ptx_checks_end_launch(&now.grid);
    ptx_expect_findings(false);
    for (int i = 0; i < WARPS; i++) ptx_knowledge_free(&now.warp[i].know);
    for (int i = 0; i < HANDED; i++) ptx_knowledge_free(&now.handed[i]);
}

static u32 some_lanes(void) {
    switch (below(6)) {
    case 0: return LANE_BIT(below(LANES));
    case 1: return 0x0000ffff;
    case 2: return 0xffff0000;
    case 3: return 1;
    case 4: return below(UINT_MAX) + 1;
    default: return ALL_LANES;
    }
}

static u32 one_of(u32 m) { /* often the last one */
    for (u32 skip = below(2 * (u32)__builtin_popcount(m)); skip && m & (m - 1); skip--) m &= m - 1;
    return m & -m;
}

static bool machine_reports(u32 at, u32 bytes, bool write, const Access *a) {
    u64 before = ptx_launch_findings();
    if (now.shared)
        (write ? ptx_shared_write : ptx_shared_read)(&now.cta[0], at, bytes, a);
    else if (write)
        ptx_global_write((u64)(size_t)memory + at, bytes, a);
    else
        ptx_global_read((u64)(size_t)memory + at, bytes, a);
    return ptx_launch_findings() > before;
}

/* Plain accesses of the lanes m. True at a race. */
static bool access_bytes(int warp, u32 m, const Ins *in) {
    Warp *w = &now.warp[warp];
    bool write = below(3) == 0;
    u32 bytes = 1u << below(4), step = below(3);
    if (!write &&
        !now.shared) { /* of device memory only the last four reads of a cell are kept: there are three */
        m = now.reader;
        if (bytes < 4) bytes = 4;
    } else if (write || below(2))
        m = one_of(m);
    u32 places = BYTES / bytes, base = below(places);
    Access a = ptx_access(w, in, m);
    EACH_LANE(l, m) {
        int t = warp * LANES + (int)l;
        u32 at = (base + l * step) % places * bytes;
        u32 with = races(t, at, bytes, write);
        bool want = with != 0;
        if (want && (in - code < now.from || with > now.most || write != now.write)) continue;
        a.lane = (u8)l;
        if (w->part_lanes) a.know = ptx_knows(w, LANE_BIT(l));
        bool got = machine_reports(at, bytes, write, &a);
        record(t, at, bytes, write);
        accesses++, found += want;
        if (got != want) {
            printf("# --seed %llu, run %llu, instruction %d: %s of %u bytes at %u by thread %d: %s\n%s"
                   "0 passed, 1 failed, 0 skipped\n",
                   (unsigned long long)fuzz.seed, (unsigned long long)runs, (int)(in - code),
                   write ? "write" : "read", bytes, at, t,
                   got ? "no race, but reported" : "a race, not reported", ptx_last_findings());
            exit(1);
        }
        if (got) return true;
    }
    return false;
}

static void strong_write(int warp, u32 m) {
    int t = warp * LANES + ptx_first_lane(m);
    u32 n = below(WORDS);
    bool release = below(2);
    ptx_sync_write(&now.warp[warp], m, (u64)(size_t)memory + WORDS_AT + 4 * n, release ? RELEASE : RELAXED);
    join(model.word[n], model.thread[t].published);
    if (!release) return;
    join(model.word[n], model.thread[t].seen);
    tick(warp);
}

static void strong_read(int warp, u32 m) {
    u32 n = below(WORDS);
    bool acquire = below(2);
    ptx_sync_read(&now.warp[warp], m, (u64)(size_t)memory + WORDS_AT + 4 * n, acquire ? ACQUIRE : RELAXED);
    if (acquire)
        learn(warp * LANES + ptx_first_lane(m), model.word[n]);
    else /* the machine keeps it for the whole warp */
        for (int l = 0; l < LANES; l++) join(model.thread[warp * LANES + l].pending, model.word[n]);
}

static void memory_fence(int warp, u32 m) {
    ptx_memory_fence(&now.warp[warp], m);
    model.fenced[warp] |= m;
    EACH_LANE(l, m) {
        int t = warp * LANES + (int)l;
        Known *k = &model.thread[t];
        learn(t, k->pending);
        memset(k->pending, 0, sizeof k->pending);
        join(k->published, k->seen);
    }
    EACH_LANE(l, model.fenced[warp]) { /* the machine has one time of the last fence for all of them */
        int t = warp * LANES + (int)l;
        model.thread[t].published[t] = model.thread[t].seen[t];
    }
    tick(warp);
}

static void sync_lanes(int warp, u32 m) {
    Known all = {0};
    ptx_sync_warp(&now.warp[warp], m);
    hand_on(warp, m, &all);
    take_up(warp, m, &all);
    if (m == ALL_LANES) model.fenced[warp] = 0;
    tick(warp);
}

static bool operation(const Ins *in) { /* true at a race */
    int warp = (int)below(WARPS);
    u32 m = some_lanes(), n = now.apart && warp == WARPS - 1 ? HANDED - 1 : below(HANDED - 1);
    u32 of = below(now.weights), what = 0;
    while (of >= now.weight[what]) of -= now.weight[what++];
    switch (what) {
    case 0: return access_bytes(warp, m, in);
    case 1:
        ptx_release(&now.warp[warp], m, &now.handed[n]);
        hand_on(warp, m, &model.handed[n]);
        tick(warp);
        break;
    case 2:
        ptx_acquire(&now.warp[warp], m, &now.handed[n]);
        take_up(warp, m, &model.handed[n]);
        break;
    case 3: sync_lanes(warp, m); break;
    case 4: memory_fence(warp, m); break;
    case 5: strong_write(warp, m & -m); break;
    case 6: strong_read(warp, m & -m); break;
    default: /* as at the end of a barrier */
        ptx_knowledge_clear(&now.handed[n]);
        memset(&model.handed[n], 0, sizeof model.handed[n]);
    }
    return false;
}

int main(int argc, char **argv) {
    fuzz_options(argc, argv);
    ptx_device.checks = true, ptx_device.max_findings = INT_MAX;
    ptx_add_allocation(memory, sizeof memory, "memory");
    for (int i = 0; i < OPERATIONS; i++)
        code[i] = (Ins){.opcode = "op", .place = -1, .nops = 1, .op = &operand};
    for (double until = fuzz_now() + fuzz.seconds; fuzz_now() < until; runs++) {
        fuzz_start(runs);
        start();
        Access first =
            ptx_access(&now.warp[0], &code[0], 1); /* by thread 0, so that all bytes have been written */
        machine_reports(0, BYTES, true, &first);
        record(0, 0, BYTES, true);
        for (int i = 1; i < OPERATIONS && !operation(&code[i]); i++) {
        }
        end();
    }
    printf("# %llu runs, %llu accesses, %llu races: all agree\n1 passed, 0 failed, 0 skipped\n",
           (unsigned long long)runs, (unsigned long long)accesses, (unsigned long long)found);
    return 0;
}
