/* checks.c - findings, happens-before, shadow memory.
 *
 *     findings        where something went wrong, in the words of the source: launches, places, messages
 *     clocks          vector clocks: what is ordered before what
 *     warps           how they travel: release, acquire, barriers, fences, strong accesses
 *     shadow memory   who touched each byte last, and was that ordered
 *     registers       reads of rows that hold nothing
 */
#include "machine.h"
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>

/* ---- launches ---------------------------------------------------------------------------------------------------- */

typedef struct Launch {
    Grid *grid;
    Kernel *kernel;
    u64 serial;
    u64 findings;
    struct Launch *outer; /* a primary grid may run inside its secondary */
} Launch;

jmp_buf ptx_launch_exit;
static Launch *running;

void ptx_checks_start_launch(Grid *g) {
    Launch *l = calloc(1, sizeof *l);
    l->grid = g, l->kernel = g->kernel, l->serial = g->serial, l->outer = running;
    running = l;
}

void ptx_checks_end_launch(Grid *g) {
    (void)g;
    Launch *l = running;
    running = l->outer;
    free(l);
}

/* ---- findings ---------------------------------------------------------------------------------------------------- */

static struct {
    u64 total;
    bool expected;
    char *text; /* while expected */
    size_t bytes, room;
} findings;

u64 ptx_findings(void) { return findings.total; }
u64 ptx_launch_findings(void) { return running ? running->findings : 0; }
const char *ptx_last_findings(void) { return findings.text ? findings.text : ""; }
void ptx_expect_findings(bool expect) {
    findings.expected = expect;
    if (expect) {
        findings.bytes = 0;
        if (findings.text) *findings.text = 0;
    }
}

void ptx_place_text(const Kernel *k, int place, char *text, size_t bytes) {
    if (place < 0 || place >= k->nplaces) {
        snprintf(text, bytes, "unknown line");
        return;
    }
    size_t n = 0;
    const char *before = "";
    for (int i = place; i >= 0 && n < bytes; i = k->place[i].inlined_at) {
        const char *file = k->module->file[k->place[i].file], *slash = file ? strrchr(file, '/') : NULL;
        n += (size_t)snprintf(text + n, bytes - n, "%s%s:%d", before,
                              slash  ? slash + 1
                              : file ? file
                                     : "?",
                              k->place[i].line);
        before = ", inlined at ";
    }
}

static void say(const char *format, va_list list) {
    char line[16384];
    int n = vsnprintf(line, sizeof line, format, list);
    if (n >= (int)sizeof line) n = sizeof line - 1;
    if (!findings.expected) {
        fwrite(line, 1, (size_t)n, stderr);
        return;
    }
    if (findings.bytes + (size_t)n + 1 > findings.room)
        findings.text = realloc(findings.text, findings.room = 2 * findings.room + (size_t)n + 1);
    memcpy(findings.text + findings.bytes, line, (size_t)n + 1);
    findings.bytes += (size_t)n;
}
static void __attribute__((format(printf, 1, 2))) print(const char *format, ...) {
    va_list list;
    va_start(list, format);
    say(format, list);
    va_end(list);
}

static void report(Warp *w, const Ins *in, u32 lanes, const Party *other, const char *format, va_list list) {
    char place[512];
    (void)lanes, (void)other;
    if (running) running->findings++;
    if (!findings.expected) findings.total++;
    print("ptx: ");
    say(format, list);
    if (in && running) {
        ptx_place_text(running->kernel, in->place, place, sizeof place);
        print("\n  at %s: %s", place, in->opcode);
    }
    if (w) print(", CTA (%u,%u,%u), warp %d", w->cta->x, w->cta->y, w->cta->z, w->id);
    print("\n");
}

void ptx_finding(Warp *w, const Ins *in, u32 lanes, const Party *other, const char *format, ...) {
    va_list list;
    va_start(list, format);
    report(w, in, lanes, other, format, list);
    va_end(list);
    if (w && running && running->findings >= (u64)ptx_device.max_findings) longjmp(ptx_launch_exit, 1);
}
_Noreturn void ptx_fatal(Warp *w, const Ins *in, u32 lanes, const Party *other, const char *format, ...) {
    va_list list;
    va_start(list, format);
    report(w, in, lanes, other, format, list);
    va_end(list);
    longjmp(ptx_launch_exit, 1);
}
_Noreturn void ptx_refuse(const Kernel *k, int place, const char *format, ...) {
    char text[512] = "";
    va_list list;
    if (running) running->findings++;
    if (!findings.expected) findings.total++;
    print("ptx: ");
    va_start(list, format);
    say(format, list);
    va_end(list);
    if (k) ptx_place_text(k, place, text, sizeof text), print("\n  at %s, kernel %s", text, k->name);
    print("\n");
    longjmp(ptx_launch_exit, 1);
}

/* ---- clocks ------------------------------------------------------------------------------------------------------ */

static void clock_room(Clock *c, u32 n) {
    if (n > c->room) {
        u32 room = n < 64 ? 64 : 2 * n;
        c->at = realloc(c->at, room * sizeof *c->at);
        c->room = room;
    }
    if (n > c->n) memset(c->at + c->n, 0, (n - c->n) * sizeof *c->at), c->n = n;
}
static void clock_join(Clock *to, const Clock *from) {
    clock_room(to, from->n);
    for (u32 i = 0; i < from->n; i++) to->at[i] = to->at[i] > from->at[i] ? to->at[i] : from->at[i];
}
static void clock_learn(Clock *c, u32 actor, u32 time) {
    clock_room(c, actor + 1);
    if (c->at[actor] < time) c->at[actor] = time;
}
void ptx_knowledge_clear(Knowledge *k) { k->seen.n = k->seen.nfar = k->fenced.n = k->fenced.nfar = 0; }
void ptx_knowledge_join(Knowledge *to, const Knowledge *from) {
    clock_join(&to->seen, &from->seen), clock_join(&to->fenced, &from->fenced);
}
void ptx_knowledge_copy(Knowledge *to, const Knowledge *from) {
    ptx_knowledge_clear(to);
    ptx_knowledge_join(to, from);
}
void ptx_knowledge_free(Knowledge *k) {
    free(k->seen.at), free(k->seen.far), free(k->fenced.at), free(k->fenced.far);
    memset(k, 0, sizeof *k);
}
void ptx_knowledge_learn(Knowledge *k, u32 actor, u32 time) {
    clock_learn(&k->seen, actor, time), clock_learn(&k->fenced, actor, time);
}
int ptx_new_actor(Cluster *c, const char *format, ...) {
    (void)format;
    return c->actors++;
}

Knowledge *ptx_knows(Warp *w, u32 m) { return (void)m, &w->know; }
void ptx_release(Warp *w, u32 m, Knowledge *to) { (void)m, ptx_knowledge_join(to, &w->know); }
void ptx_acquire(Warp *w, u32 m, const Knowledge *from) { (void)m, ptx_knowledge_join(&w->know, from); }
void ptx_sync_warp(Warp *w, u32 m) { (void)w, (void)m; }
void ptx_proxy_fence(Warp *w, u32 m) { (void)w, (void)m; }
void ptx_sync_read(Warp *w, u32 m, u64 address, Order order) { (void)w, (void)m, (void)address, (void)order; }
void ptx_sync_write(Warp *w, u32 m, u64 address, Order order) {
    (void)w, (void)m, (void)address, (void)order;
}
void ptx_memory_fence(Warp *w, u32 m) { (void)w, (void)m; }

/* ---- shadow memory ----------------------------------------------------------------------------------------------- */

Access ptx_access(Warp *w, const Ins *in, u32 m) {
    return (Access){.warp = w,
                    .in = in,
                    .know = ptx_knows(w, m),
                    .actor = (u32)ptx_warp_actor(w),
                    .time = 1,
                    .lane = (u8)ptx_first_lane(m)};
}

static void shared_bounds(const Cta *c, u32 offset, u32 bytes, const Access *a) {
    if ((u64)offset + bytes > c->shared_bytes)
        ptx_fatal(a->warp, a->in, a->lane < LANES ? LANE_BIT(a->lane) : ALL_LANES, NULL,
                  "out of bounds: shared memory offset %u, %u bytes, the CTA has %u", offset, bytes,
                  c->shared_bytes);
}
void ptx_shared_read(Cta *c, u32 offset, u32 bytes, const Access *a) { shared_bounds(c, offset, bytes, a); }
void ptx_shared_write(Cta *c, u32 offset, u32 bytes, const Access *a) { shared_bounds(c, offset, bytes, a); }
void ptx_shared_in_flight(Cta *c, u32 offset, u32 bytes, const Access *a) {
    shared_bounds(c, offset, bytes, a);
}

static Allocation *global_bounds(u64 address, u32 bytes, const Access *a) {
    Allocation *allocation = ptx_find_allocation(address, bytes);
    if (!allocation)
        ptx_fatal(a->warp, a->in, a->lane < LANES ? LANE_BIT(a->lane) : ALL_LANES, NULL,
                  "out of bounds: device memory address 0x%" PRIx64 ", %u bytes", address, bytes);
    return allocation;
}
const u8 *ptx_global_read(u64 address, u32 bytes, const Access *a) {
    global_bounds(address, bytes, a)->read += bytes;
    return (const u8 *)(uintptr_t)address;
}
u8 *ptx_global_write(u64 address, u32 bytes, const Access *a) {
    Allocation *allocation = global_bounds(address, bytes, a);
    if (allocation->read_only)
        ptx_fatal(a->warp, a->in, LANE_BIT(a->lane & 31), NULL, "write to read-only memory: %s",
                  allocation->name);
    allocation->written += bytes;
    return (u8 *)(uintptr_t)address;
}
void ptx_drop_shadow(Allocation *a) { (void)a; }
void ptx_shadow_start_cta(Cta *c) { (void)c; }
void ptx_shadow_free_cta(Cta *c) { (void)c; }
void ptx_check_inputs(Warp *w, const Ins *in, u32 m) { (void)w, (void)in, (void)m; }
void ptx_checks_host_waited(void) {}
