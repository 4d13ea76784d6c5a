/* checks.c - findings and what makes them: shadow memory, registers.
 *
 *     launches        the grid that runs, and the last few before it
 *     findings        what went wrong and where, in the words of the source
 *     shadow memory   who touched each byte last, and is that ordered (order.c) before the next access
 *     registers       reads of rows that hold nothing
 *
 * The method is that of FastTrack (Flanagan and Freund, PLDI 2009): a byte remembers its last write and the
 * reads since; an access that does not know one of them is a race, in whatever order a schedule ran the two.
 */
#include "checks.h"
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>

/* ---- launches ------------------------------------------------------------------------------------------ */

/* Clusters have numbers that are unique in the process (base + Cluster.serial), so that what a grid left
 * in the shadow of device memory is told from what the next one does. */
typedef struct {
    u64 serial, horizon; /* grids before `horizon` have ended for certain when this one starts */
    u32 base, clusters;
    const Kernel *kernel;
} Past;

typedef struct Launch {
    Past is;
    u64 findings;
    struct Told {
        const char *format;
        const Ins *in, *other;
    } * told; /* findings that have been printed */
    u32 ntold;
    struct Launch *outer; /* a primary grid may run inside its secondary */
} Launch;

enum { PASTS = 8 };
static Past past[PASTS];
static Launch *running;
static u32 clusters_so_far;
static u64 ended; /* the host has waited for this grid */
jmp_buf ptx_launch_exit;

void ptx_checks_start_launch(Grid *g) {
    Launch *l = calloc(1, sizeof *l);
    u32 n = 1;
    for (int i = 0; i < 3; i++) n *= g->dim[i] / g->cluster_dim[i];
    const Past *before = &past[(g->serial - 1) % PASTS];
    l->is = (Past){g->serial, g->serial, clusters_so_far, n, g->kernel};
    if (g->overlaps && ended < g->serial - 1)
        l->is.horizon = before->serial == g->serial - 1 ? before->horizon : g->serial - 1;
    clusters_so_far += n;
    past[g->serial % PASTS] = l->is;
    l->outer = running;
    running = l;
}

void ptx_checks_end_launch(Grid *g) {
    Launch *l = running;
    (void)g;
    running = l->outer;
    free(l->told), free(l);
    if (!running) ptx_order_end_launch();
}

void ptx_checks_host_waited(void) {
    for (int i = 0; i < PASTS; i++)
        if (past[i].serial > ended) ended = past[i].serial;
}

u32 ptx_cluster_number(const Warp *w) { return running->is.base + w->cta->cluster->serial; }

static const Past *launch_of(u32 cluster) {
    for (int i = 0; i < PASTS; i++)
        if (past[i].serial && cluster - past[i].base - 1 < past[i].clusters) return &past[i];
    return NULL;
}

static const Kernel *kernel_of(const Ins *in) {
    for (int i = 0; i < PASTS; i++) {
        const Kernel *k = past[i].kernel;
        if (k && in >= k->code && in < k->code + k->ncode) return k;
    }
    return NULL;
}

/* ---- findings ------------------------------------------------------------------------------------------ */

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
    if (!expect) return;
    findings.bytes = 0;
    if (findings.text) *findings.text = 0;
}

static void say_list(const char *format, va_list list) {
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

static void __attribute__((format(printf, 1, 2))) say(const char *format, ...) {
    va_list list;
    va_start(list, format);
    say_list(format, list);
    va_end(list);
}

void ptx_place_text(const Kernel *k, int place, char *text, size_t bytes) {
    snprintf(text, bytes, "unknown line");
    size_t n = 0;
    for (int i = place; i >= 0 && i < k->nplaces && n < bytes; i = k->place[i].inlined_at) {
        int of = k->place[i].file;
        const char *file = of >= 0 && of < k->module->nfiles ? k->module->file[of] : NULL,
                   *slash = file ? strrchr(file, '/') : NULL;
        n += (size_t)snprintf(text + n, bytes - n, "%s%s:%d", n ? ", inlined at " : "",
                              slash  ? slash + 1
                              : file ? file
                                     : "?",
                              k->place[i].line);
    }
}

/* "kernel.cu:98, st.shared.f32" */
static void say_place(const Ins *in) {
    const Kernel *k = kernel_of(in);
    char text[1024] = "unknown line";
    if (k) ptx_place_text(k, in->place, text, sizeof text);
    say("%s, %s", text, in->opcode);
}

static void say_lanes(int warp, u32 lanes, bool all) {
    if (all)
        say("warp %d", warp);
    else if (lanes & (lanes - 1))
        say("warp %d, lanes %08x", warp, lanes);
    else
        say("warp %d, thread %d", warp, warp * LANES + ptx_first_lane(lanes));
}

/* Of the C++ runtime, if the program has it. */
extern char *__cxa_demangle(const char *name, char *buffer, size_t *bytes, int *status) __attribute__((weak));

void ptx_demangle(const char *symbol, char *text, size_t bytes) {
    int status = 1;
    char *name = __cxa_demangle ? __cxa_demangle(symbol, NULL, NULL, &status) : NULL;
    snprintf(text, bytes, "%s", status ? symbol : name);
    free(name);
}

/* A variable of a function, without the function: _ZZ6kernelPiE3buf_$_0 is "buf". */
static void variable_name(const char *symbol, char *text, size_t bytes) {
    char own[512], full[1024];
    const char *suffix = strstr(symbol, "_$_"), *name = full, *colons;
    snprintf(own, sizeof own, "%.*s", suffix ? (int)(suffix - symbol) : (int)sizeof own, symbol);
    ptx_demangle(own, full, sizeof full);
    while ((colons = strstr(name, "::"))) name = colons + 2;
    snprintf(text, bytes, "%.100s", name);
}

/* Actors have a name that ptx_new_actor gave them, or are warps. */
struct ActorName {
    char text[48];
};

int ptx_new_actor(Cluster *c, const char *format, ...) {
    va_list list;
    int actor = c->actors++;
    if ((actor & (actor - 1)) == 0 || !c->actor_name) {
        size_t room = 64;
        while (room <= 2 * (size_t)actor) room *= 2;
        c->actor_name = realloc(c->actor_name, room * sizeof *c->actor_name);
    }
    va_start(list, format);
    vsnprintf(c->actor_name[actor].text, sizeof c->actor_name->text, format, list);
    va_end(list);
    if (actor > UINT16_MAX) ptx_refuse(c->grid->kernel, -1, "more than 65535 warps and queues in a cluster");
    return actor;
}

/* "CTA (1,0,0), warp 2, thread 70" of an actor of a cluster of the running launch. */
static void say_party(const Grid *g, const Cluster *own, const Party *p) {
    u32 ctas = g->cluster_dim[0] * g->cluster_dim[1] * g->cluster_dim[2];
    u32 warps = (g->block[0] * g->block[1] * g->block[2] + LANES - 1) / LANES;
    if (!p->actor || p->actor > ctas * warps) {
        if (own && own->serial == p->cluster && p->actor && (int)p->actor < own->actors)
            say(", %s", own->actor_name[p->actor].text);
        return;
    }
    u32 rank = (p->actor - 1) / warps, warp = (p->actor - 1) % warps, index = p->cluster - 1;
    u32 at[3], in_cluster[3] = {rank % g->cluster_dim[0], rank / g->cluster_dim[0] % g->cluster_dim[1],
                                rank / g->cluster_dim[0] / g->cluster_dim[1]};
    for (int i = 0; i < 3; i++) {
        u32 n = g->dim[i] / g->cluster_dim[i];
        at[i] = index % n * g->cluster_dim[i] + in_cluster[i], index /= n;
    }
    say(", CTA (%u,%u,%u), ", at[0], at[1], at[2]);
    say_lanes((int)warp, LANE_BIT(p->lane & 31), p->lane >= LANES);
}

/* The same line, inlined at the same lines: copies of an instruction in an unrolled loop are one place. */
static bool same_place(const Ins *a, const Ins *b) {
    const Kernel *k = a && b ? kernel_of(a) : NULL;
    if (a == b || !k || kernel_of(b) != k) return a == b;
    int i = a->place, j = b->place;
    for (; i >= 0 && j >= 0 && i != j; i = k->place[i].inlined_at, j = k->place[j].inlined_at)
        if (k->place[i].line != k->place[j].line || k->place[i].file != k->place[j].file) return false;
    return i == j && a->place >= 0;
}

/* A pair of places is printed once a launch. */
static bool is_told(const char *format, const Ins *in, const Ins *other) {
    const struct Told *t = running ? running->told : NULL;
    for (u32 i = 0; running && i < running->ntold; i++, t++)
        if (t->format == format && ((same_place(t->in, in) && same_place(t->other, other)) ||
                                    (same_place(t->in, other) && same_place(t->other, in))))
            return true;
    return false;
}

static void report(Warp *w, const Ins *in, u32 lanes, const Party *other, const char *format, va_list list) {
    char name[1024];
    if (running) {
        running->findings++;
        running->told = realloc(running->told, (running->ntold + 1) * sizeof *running->told);
        running->told[running->ntold++] = (struct Told){format, in, other ? other->in : NULL};
    }
    if (!findings.expected) findings.total++;
    say("ptx: ");
    say_list(format, list);
    if (in) {
        say("\n  at:  ");
        say_place(in);
        if (w) {
            say(", CTA (%u,%u,%u), ", w->cta->x, w->cta->y, w->cta->z);
            say_lanes(w->id, lanes, lanes == ALL_LANES);
        }
    }
    if (other && other->in) {
        say("\n  and: ");
        say_place(other->in);
        if (w && kernel_of(other->in) == w->cta->grid->kernel)
            say_party(w->cta->grid, w->cta->cluster, other);
        else if (kernel_of(other->in))
            ptx_demangle(kernel_of(other->in)->name, name, sizeof name), say(", of %s", name);
    }
    if (running) ptx_demangle(running->is.kernel->name, name, sizeof name), say("\n  in:  %s", name);
    say("\n");
}

void ptx_finding(Warp *w, const Ins *in, u32 lanes, const Party *other, const char *format, ...) {
    va_list list;
    if (in && is_told(format, in, other ? other->in : NULL)) return;
    va_start(list, format);
    report(w, in, lanes, other, format, list);
    va_end(list);
    if (!w || !running || running->findings < (u64)ptx_device.max_findings) return;
    say("ptx: the launch ends here, with %" PRIu64 " findings (FA_PTX_FINDINGS sets how many)\n",
        running->findings);
    longjmp(ptx_launch_exit, 1);
}

_Noreturn void ptx_fatal(Warp *w, const Ins *in, u32 lanes, const Party *other, const char *format, ...) {
    va_list list;
    va_start(list, format);
    report(w, in, lanes, other, format, list);
    va_end(list);
    longjmp(ptx_launch_exit, 1);
}

_Noreturn void ptx_refuse(const Kernel *k, int place, const char *format, ...) {
    char text[1024];
    va_list list;
    if (running) running->findings++;
    if (!findings.expected) findings.total++;
    say("ptx: ");
    va_start(list, format);
    say_list(format, list);
    va_end(list);
    if (k) {
        ptx_place_text(k, place, text, sizeof text);
        say("\n  at:  %s", text);
        ptx_demangle(k->name, text, sizeof text);
        say("\n  in:  %s", text);
    }
    say("\n");
    longjmp(ptx_launch_exit, 1);
}

/* ---- shadow memory ------------------------------------------------------------------------------------- */

/* A cell stands for 4 bytes. It refers to two lists: the last writes of its bytes, and the reads since (by
 * threads that are not ordered among themselves). Lists do not change and are shared: an access of
 * kilobytes moves cells that had one list in common to another that they have in common, and looks at each
 * list once. Lists that no cell refers to are collected when there are many. */
enum {
    PROXY_BITS = 3,
    STRONG = 4,
    IS_WRITE = 8,
    TOGETHER = 16
}; /* Rec.flags; the proxy is in the lowest bits */
typedef struct {
    u32 time, cluster, lanes;
    u32 ins; /* index into the code of the launch that the cluster belongs to */
    u16 actor;
    u8 mask; /* bytes of the cell */
    u8 flags;
} Rec;
typedef struct {
    Rec rec;
    u32 next;
} Node;
typedef struct {
    u32 writes, reads; /* lists, 0: empty */
    u32 copy;          /* instruction of the asynchronous copy that will write `flying` */
    u8 valid;          /* bytes that hold a value (shared memory) */
    u8 flying;
} Cell;
enum { CELL_BYTES = 4, ALL_BYTES = 15, CELLS = 256, PAGE_BYTES = CELLS * CELL_BYTES };
/* Longest list; device memory that many CTAs read remembers only some of them, or lists would be as long
 * as the grid. */
enum { LONGEST = 256, GLOBAL_READS = 4 };
typedef struct Page {
    Cell cell[CELLS];
    u64 serial; /* device memory: launch that touched it last; 0: shared memory */
    bool used;
    struct Page *next;
} Page;

struct Shadow {
    u32 pages;
    Page *page[];
};
struct GlobalShadow {
    u64 pages;
    Page *page[];
};

static struct {
    Page **all, *free;
    u32 count, room;
} pages;
enum { COLLECT_AT = 1 << 17 }; /* few enough to stay in the cache */
static struct {
    Node *at, *spare; /* [0] is not used */
    u32 *moved;       /* while they are collected: where a node is in `spare` */
    u32 count, room, spare_room, collect_at;
} nodes = {.collect_at = COLLECT_AT};

/* An access while it goes through its cells, and what it has found out on the way. */
typedef struct {
    Rec rec; /* mask left open */
    const Knowledge *know;
    const u32 *at; /* know->seen */
    u32 n;
    bool async;       /* of the async proxy */
    bool generic_own; /* by lanes of the warp itself, not by a queue */
    const Access *a;
    Cta *cta; /* shared memory */
    const Allocation *allocation;
    u32 writes_seen, reads_seen; /* lists that have been looked at, for these bytes */
    u8 writes_mask, reads_mask;
    u32 reads_from, reads_to; /* the list without and with this read of these bytes */
    u8 read_mask, own_mask;
    u32 own; /* the list of this write alone */
} Visit;
static Visit last; /* kept: the next access is often one of the same kind */

static u32 push(u32 next, const Rec *rec) {
    if (nodes.count + 2 > nodes.room)
        nodes.at = realloc(nodes.at, (nodes.room = nodes.room ? 2 * nodes.room : 1 << 16) * sizeof *nodes.at);
    nodes.at[++nodes.count] = (Node){*rec, next};
    return nodes.count;
}

/* Copies a list to `spare`, as far as that has not been done. */
static u32 move_list(u32 list, u32 *count) {
    u32 first = 0, *link = &first;
    for (; list && !nodes.moved[list]; list = nodes.at[list].next) {
        u32 n = ++*count;
        nodes.spare[n] = nodes.at[list];
        *link = nodes.moved[list] = n;
        link = &nodes.spare[n].next;
    }
    *link = list ? nodes.moved[list] : 0;
    return first;
}

static void collect(void) {
    u32 count = 0, cells = 0, room = nodes.spare_room;
    if (room < nodes.room) {
        nodes.spare = realloc(nodes.spare, nodes.room * sizeof *nodes.spare);
        nodes.moved = realloc(nodes.moved, nodes.room * sizeof *nodes.moved);
        room = nodes.room;
    }
    memset(nodes.moved, 0, (nodes.count + 1) * sizeof *nodes.moved);
    for (u32 i = 0; i < pages.count; i++) {
        Page *p = pages.all[i];
        if (!p->used) continue;
        if (p->serial && p->serial < running->is.horizon) {
            memset(p->cell, 0, sizeof p->cell);
            continue;
        }
        for (Cell *c = p->cell; c < p->cell + CELLS; c++) {
            if (c->writes) c->writes = move_list(c->writes, &count);
            if (c->reads) c->reads = move_list(c->reads, &count);
        }
        cells += CELLS;
    }
    Node *old = nodes.at;
    nodes.at = nodes.spare, nodes.spare = old;
    nodes.spare_room = nodes.room, nodes.room = room, nodes.count = count;
    nodes.collect_at = count + (count > COLLECT_AT ? count : COLLECT_AT) + cells / 4;
    last = (Visit){0};
}

static Page *new_page(void) {
    Page *p = pages.free;
    if (p)
        pages.free = p->next;
    else {
        if (pages.count == pages.room)
            pages.all = realloc(pages.all, (pages.room = pages.room ? 2 * pages.room : 64) * sizeof(Page *));
        p = pages.all[pages.count++] = malloc(sizeof *p);
    }
    memset(p, 0, sizeof *p);
    p->used = true;
    return p;
}
static void free_page(Page *p) {
    if (!p) return;
    p->used = false;
    p->next = pages.free, pages.free = p;
}

void ptx_shadow_start_cta(Cta *c) {
    if (!ptx_device.checks) return;
    u32 n = (c->shared_bytes + PAGE_BYTES - 1) / PAGE_BYTES;
    c->shadow = calloc(1, sizeof *c->shadow + n * sizeof c->shadow->page[0]);
    c->shadow->pages = n;
}
void ptx_shadow_free_cta(Cta *c) {
    ptx_order_free_cta(c);
    for (u32 i = 0; c->shadow && i < c->shadow->pages; i++) free_page(c->shadow->page[i]);
    free(c->shadow);
    c->shadow = NULL;
}
void ptx_drop_shadow(Allocation *a) {
    for (u64 i = 0; a->shadow && i < a->shadow->pages; i++) free_page(a->shadow->page[i]);
    free(a->shadow);
    a->shadow = NULL;
}

Access ptx_access(Warp *w, const Ins *in, u32 m) {
    w->touched_lanes |= m;
    return (Access){.warp = w,
                    .in = in,
                    .know = ptx_knows(w, m),
                    .actor = (u32)ptx_warp_actor(w),
                    .time = ptx_now(w),
                    .lane = (u8)ptx_first_lane(m)};
}

static inline Visit *visit(const Access *a, bool write, Cta *cta, const Allocation *allocation) {
    const Warp *w = a->warp;
    Rec rec = {.time = a->time,
               .cluster = ptx_cluster_number(w),
               .lanes = a->lane < LANES ? LANE_BIT(a->lane) : ALL_LANES,
               .ins = (u32)(a->in - running->is.kernel->code),
               .actor = (u16)a->actor,
               .flags = (u8)(a->proxy | (a->strong ? STRONG : 0) | (a->lane < LANES ? 0 : TOGETHER) |
                             (write ? IS_WRITE : 0))};
    if (nodes.count > nodes.collect_at) collect();
    if (memcmp(&rec, &last.rec, sizeof rec) || last.know != a->know)
        last = (Visit){.rec = rec,
                       .know = a->know,
                       .async = a->proxy == ASYNC_PROXY,
                       .generic_own = a->actor == (u32)ptx_warp_actor(w)};
    last.at = a->know->seen.at, last.n = a->know->seen.n;
    last.a = a, last.cta = cta, last.allocation = allocation;
    return &last;
}

static u32 lanes_of(const Access *a) { return a->lane < LANES ? LANE_BIT(a->lane) : ALL_LANES; }

typedef enum { ORDERED, RACE, LANES_RACE, NOT_FENCED, BEFORE_GRID_WAIT, NOT_CONSTANT } Verdict;

/* Two lanes of one store instruction put the same value to the same address: that is what the registers
 * say. */
static bool same_values(const Warp *w, const Ins *in, u32 lanes, u32 l) {
    EACH_LANE(k, lanes)
    for (int i = in->ndst; i < in->nops; i++) {
        const Operand *o = &in->op[i];
        if (o->address || o->kind > KIND_R64) continue;
        const u32 *r = w->reg + (size_t)o->row * LANES;
        if (o->kind == KIND_R32 && r[k] != r[l]) return false;
        if (o->kind == KIND_R64 && memcmp(r + 2 * k, r + 2 * l, 8)) return false;
    }
    return true;
}

/* Two accesses of the same bytes, of which one writes. */
static __attribute__((noinline)) Verdict judge(const Visit *v, const Rec *r) {
    const Rec *x = &v->rec;
    bool generic = (r->flags & PROXY_BITS) != ASYNC_PROXY;
    /* atomics of two proxies are not atomic to one another (PTX ISA chapter 8, morally strong) */
    if (r->flags & x->flags & STRONG && generic != v->async) return ORDERED;
    u32 cluster = r->cluster == x->cluster ? 0 : r->cluster, lanes = r->lanes;
    if (r->cluster - running->is.base - 1 >= running->is.clusters) { /* another launch */
        const Past *l = launch_of(r->cluster);
        if (!l || (l->serial < running->is.horizon)) return ORDERED;
        /* a later one that runs already has not waited for this one */
        bool waited = l->serial < running->is.serial && v->n && v->at[0];
        return waited ? ORDERED : BEFORE_GRID_WAIT;
    }
    if (v->a->constant) return NOT_CONSTANT;
    bool own = !cluster && r->actor == x->actor && v->generic_own;
    if (own) {
        bool together = x->lanes == ALL_LANES && v->a->lane >= LANES, read_together = r->flags & TOGETHER;
        /* collective instructions have all lanes at one place: what any lane has read before is read */
        if ((together || read_together) && !(r->flags & IS_WRITE)) return ORDERED;
        if (together && read_together) return ORDERED;
        if (!together) lanes &= ~x->lanes;
        if (!lanes) return ORDERED;
    }
    if (!ptx_clock_knows(&v->know->seen, cluster, r->actor, lanes, r->time)) {
        if (!own) return RACE;
        bool one = r->ins == x->ins && x->flags & r->flags & IS_WRITE && v->a->lane < LANES;
        return one && same_values(v->a->warp, v->a->in, lanes, v->a->lane) ? ORDERED : LANES_RACE;
    }
    const Clock *fenced = &v->know->fenced[v->cta ? FENCED_SHARED : FENCED_GLOBAL];
    bool visible = !v->async || !generic || ptx_clock_knows(fenced, cluster, r->actor, lanes, r->time);
    return visible ? ORDERED : NOT_FENCED;
}

/* The common cases of judge() == ORDERED. */
static inline bool ordered(const Visit *v, const Rec *r) {
    if (r->cluster != v->rec.cluster || v->async || v->a->constant) return false;
    return (r->actor < v->n && v->at[r->actor] >= r->time) ||
           (r->actor == v->rec.actor && v->generic_own && r->lanes == v->rec.lanes);
}

/* "shared memory tile+64 (offset 1088)", "byte 4096 of cudaMalloc #2" */
static void name_address(const Visit *v, u64 at, char *text, size_t bytes) {
    if (!v->cta) {
        snprintf(text, bytes, "byte %" PRIu64 " of %s", at, v->allocation->name);
        return;
    }
    const Kernel *k = v->cta->grid->kernel;
    char of[48] = "", name[128] = "";
    u64 begin = 0;
    if (v->cta != v->a->warp->cta)
        snprintf(of, sizeof of, " of CTA (%u,%u,%u)", v->cta->x, v->cta->y, v->cta->z);
    if (k->uses_dynamic_shared && at >= k->dynamic_offset)
        snprintf(name, sizeof name, "dynamic"), begin = k->dynamic_offset;
    for (int i = 0; i < k->nshared; i++) {
        const Symbol *s = &k->shared[i];
        if (at >= s->offset && at < (u64)s->offset + s->size)
            variable_name(s->name, name, sizeof name), begin = s->offset;
    }
    snprintf(text, bytes, "shared memory%s %s+%" PRIu64 " (offset %" PRIu64 ")", of, name, at - begin, at);
}

/* What to do about two accesses that nothing orders. */
static const char *remedy(const Visit *v, const Rec *r) {
    bool same_cluster = r->cluster == v->rec.cluster;
    if (same_cluster && (r->flags & PROXY_BITS) != GENERIC_PROXY)
        return "the asynchronous operation is not known to be complete here: wait for it, "
               "and let a barrier follow for the threads that do not wait themselves";
    if (same_cluster && ptx_clock_knows_any_lane(&v->know->seen, r->actor, r->time))
        return "another lane of that warp has arrived or released, which does not cover this one: "
               "add __syncwarp() before a lane does so for its warp";
    if (r->flags & v->rec.flags & STRONG)
        return "atomics of the generic and of the async proxy are not atomic to one another";
    if ((r->flags ^ v->rec.flags) & STRONG)
        return "one of the two is a plain access, and no barrier or acquire orders them: "
               "make it atomic, volatile, or an acquire/release";
    if (same_cluster) return "no barrier orders the two";
    return "nothing orders these CTAs: it takes st; __threadfence(); atomic in the one "
           "and atomic; __threadfence(); ld in the other, or release and acquire";
}

static __attribute__((noinline)) void conflict(const Visit *v, const Rec *r, u64 at, Verdict verdict) {
    static const char *const formats[] = {[RACE] = "race (%s): %s: %s",
                                          [LANES_RACE] = "race of lanes (%s): %s: %s",
                                          [NOT_FENCED] = "missing fence.proxy.async (%s): %s: %s",
                                          [BEFORE_GRID_WAIT] = "race of grids (%s): %s: %s",
                                          [NOT_CONSTANT] = "not constant (%s): %s: %s"};
    const Past *l = launch_of(r->cluster);
    const Ins *in = v->a->in, *other = &l->kernel->code[r->ins];
    if (is_told(formats[verdict], in, other)) return;
    bool writes = v->rec.flags & IS_WRITE, wrote = r->flags & IS_WRITE;
    const char *advice = remedy(v, r);
    if (verdict == LANES_RACE)
        advice = in == other && writes && wrote ? "lanes put different values there, or one after the other: "
                                                  "let one lane write, or add __syncwarp()"
                                                : "nothing orders these lanes of the warp: add __syncwarp()";
    bool later = (r->flags & PROXY_BITS) == GENERIC_LATER;
    if (verdict == NOT_FENCED)
        advice = !v->cta
                     ? "this is device memory: fence.proxy.async or fence.proxy.async.global is needed after "
                       "the access and before the barrier, one of shared memory does not cover it"
                 : wrote && later
                     ? "the threads that wait for this need a fence.proxy.async after the wait and before "
                       "the barrier, or the async proxy may not see it"
                 : wrote ? "the threads that wrote this need a fence.proxy.async before the barrier, "
                           "or the async proxy may not see it"
                         : "the threads that read this need a fence.proxy.async before the barrier, "
                           "or the async proxy may overwrite it first";
    if (verdict == BEFORE_GRID_WAIT)
        advice = "the grids overlap, and the dependent one does this before griddepcontrol.wait "
                 "(cudaGridDependencySynchronize())";
    if (verdict == NOT_CONSTANT)
        advice = "ld.global.nc is for what no thread of the grid writes, and may find it in a cache as it "
                 "was before: a pointer to it must not be const __restrict__, nor be read by __ldg()";
    char where[256];
    name_address(v, at, where, sizeof where);
    Party party = {other, r->cluster - l->base, r->actor,
                   r->lanes & (r->lanes - 1) ? LANES : ptx_first_lane(r->lanes)};
    ptx_finding(v->a->warp, in, lanes_of(v->a), &party, formats[verdict],
                !writes ? "read after write"
                : wrote ? "write after write"
                        : "write after read",
                where, advice);
}

static void check_list(const Visit *v, u32 list, u8 mask, u64 at) {
    for (; list; list = nodes.at[list].next) {
        const Rec *r = &nodes.at[list].rec;
        if (!(r->mask & mask) || ordered(v, r)) continue;
        Verdict verdict = judge(v, r);
        if (verdict != ORDERED) conflict(v, r, at + (u32)__builtin_ctz(r->mask & mask), verdict);
    }
}

static inline bool same_epoch(const Rec *a, const Rec *b) {
    return a->time == b->time && a->cluster == b->cluster && a->actor == b->actor && a->flags == b->flags;
}

/* Nobody needs the old read any more if whoever is ordered after the new one is ordered after it too. */
static bool replaces(const Visit *v, const Rec *old, u8 mask) {
    bool own = old->cluster == v->rec.cluster;
    if (old->mask & ~mask || old->flags != v->rec.flags) return false;
    return (own && old->actor == v->rec.actor && !(old->lanes & ~v->rec.lanes)) ||
           ptx_clock_knows(&v->know->seen, own ? 0 : old->cluster, old->actor, old->lanes, old->time);
}

static u32 only(const Visit *v, u8 mask) {
    Rec r = v->rec;
    r.mask = mask;
    return push(0, &r);
}

static u32 make_list(const Rec *rec, u32 n) {
    u32 list = 0;
    while (n-- > 0) list = push(list, &rec[n]);
    return list;
}

/* The list with this read in it. */
static __attribute__((noinline)) u32 with_read(const Visit *v, u32 list, u8 mask) {
    Rec keep[LONGEST], *mine = keep;
    u32 n = 1, dropped = 0, most = v->cta ? LONGEST : GLOBAL_READS;
    *mine = v->rec, mine->mask = mask;
    for (u32 i = list; i && n < most; i = nodes.at[i].next) {
        const Rec *r = &nodes.at[i].rec;
        if (same_epoch(r, &v->rec) && !(mine->mask & ~r->mask) && !(mine->lanes & ~r->lanes)) return list;
        if (same_epoch(r, &v->rec) && r->lanes == mine->lanes)
            mine->mask |= r->mask, dropped++;
        else if (same_epoch(r, &v->rec) && r->mask == mine->mask)
            mine->lanes |= r->lanes, dropped++;
        else if (replaces(v, r, mask))
            dropped++;
        else
            keep[n++] = *r;
    }
    return dropped || n == most ? make_list(keep, n) : push(list, mine);
}

/* The list without these bytes, and with a write of them by rec if it is not NULL. */
static __attribute__((noinline)) u32 without(u32 list, u8 mask, const Rec *rec) {
    Rec keep[LONGEST];
    u32 n = 0;
    if (rec) keep[n++] = *rec, keep[0].mask = mask;
    for (; list && n < LONGEST; list = nodes.at[list].next) {
        const Rec *r = &nodes.at[list].rec;
        if (rec && same_epoch(r, rec) && r->ins == rec->ins) {
            if (r->mask == mask)
                keep[0].lanes |= r->lanes; /* lanes of a store that put the same value there */
            if (r->lanes == rec->lanes) {
                keep[0].mask |= r->mask;
                continue;
            }
        }
        if (!(r->mask & ~mask)) continue;
        keep[n] = *r;
        keep[n++].mask &= (u8)~mask;
    }
    return make_list(keep, n);
}

static __attribute__((noinline)) void in_flight(const Visit *v, const Cell *c, u8 mask, u64 at) {
    Party party = {&running->is.kernel->code[c->copy], 0, 0, LANES};
    char where[256];
    name_address(v, at + (u32)__builtin_ctz(mask & c->flying), where, sizeof where);
    ptx_finding(v->a->warp, v->a->in, lanes_of(v->a), &party,
                "%s too early: %s: an asynchronous copy is still writing it: wait for it first",
                v->rec.flags & IS_WRITE ? "written" : "read", where);
}

static __attribute__((noinline)) void not_valid(const Visit *v, Cell *c, u8 mask, u64 at) {
    u8 missing = mask & (u8)~c->valid;
    char where[256];
    c->valid |= missing;
    if (missing & c->flying) {
        in_flight(v, c, missing, at);
        return;
    }
    name_address(v, at + (u32)__builtin_ctz(missing), where, sizeof where);
    ptx_finding(v->a->warp, v->a->in, lanes_of(v->a), NULL,
                "uninitialised: %s: nothing has been written there", where);
}

static inline void read_cell(Visit *v, Cell *c, u8 mask, u64 at, bool shared) {
    if (shared && (c->valid & mask) != mask) not_valid(v, c, mask, at);
    if (c->writes != v->writes_seen || mask & ~v->writes_mask) {
        check_list(v, c->writes, mask, at);
        v->writes_seen = c->writes, v->writes_mask = mask;
    }
    if (c->reads == v->reads_to && c->reads && mask == v->read_mask) return;
    if (c->reads != v->reads_from || mask != v->read_mask || !v->reads_to) {
        v->reads_from = c->reads, v->read_mask = mask;
        v->reads_to = c->reads ? with_read(v, c->reads, mask) : only(v, mask);
    }
    c->reads = v->reads_to;
}

static inline void write_cell(Visit *v, Cell *c, u8 mask, u64 at, bool shared) {
    if (shared) {
        if (c->flying & mask) {
            if (v->rec.flags & PROXY_BITS)
                c->flying &= (u8)~mask; /* the copy itself */
            else
                in_flight(v, c, mask, at);
        }
        c->valid |= mask;
    }
    if (c->writes != v->writes_seen || mask & ~v->writes_mask) {
        check_list(v, c->writes, mask, at);
        v->writes_seen = c->writes, v->writes_mask = mask;
    }
    if (c->reads && (c->reads != v->reads_seen || mask & ~v->reads_mask)) {
        check_list(v, c->reads, mask, at);
        v->reads_seen = c->reads, v->reads_mask = mask;
    }
    bool alone =
        mask == ALL_BYTES && (v->a->lane >= LANES || !c->writes || nodes.at[c->writes].rec.ins != v->rec.ins);
    if (alone && v->own_mask != mask) v->own = only(v, mask), v->own_mask = mask;
    c->writes = alone ? v->own : without(c->writes, mask, &v->rec);
    c->reads = mask == ALL_BYTES || !c->reads ? 0 : without(c->reads, mask, NULL);
}

/* Goes through the cells of bytes [at, at + bytes). */
static inline __attribute__((always_inline)) void visit_cells(Visit *v, Page **page, u64 at, u64 bytes,
                                                              bool write, bool shared) {
    for (u64 end = at + bytes; at < end;) {
        Page *p = page[at / PAGE_BYTES];
        u64 stop = (at | (PAGE_BYTES - 1)) + 1;
        if (stop > end) stop = end;
        if (!p) p = page[at / PAGE_BYTES] = new_page();
        if (!shared && p->serial != running->is.serial) {
            if (p->serial < running->is.horizon) memset(p->cell, 0, sizeof p->cell);
            p->serial = running->is.serial;
        }
        while (at < stop) {
            u64 base = at & ~(u64)(CELL_BYTES - 1);
            u32 from = (u32)(at - base), to = stop - base < CELL_BYTES ? (u32)(stop - base) : CELL_BYTES;
            u8 mask = (u8)((1u << to) - (1u << from));
            Cell *c = &p->cell[base / CELL_BYTES % CELLS];
            if (write)
                write_cell(v, c, mask, base, shared);
            else
                read_cell(v, c, mask, base, shared);
            at = base + to;
        }
    }
}

static _Noreturn void outside_shared(const Cta *c, u32 offset, u32 bytes, const Access *a) {
    const Kernel *k = c->grid->kernel;
    char near[200] = "";
    u32 begin = 0;
    for (int i = 0; i < k->nshared; i++) {
        const Symbol *s = &k->shared[i];
        char name[128];
        if (s->offset > offset || s->offset < begin) continue;
        variable_name(s->name, name, sizeof name), begin = s->offset;
        snprintf(near, sizeof near, "; %s of %u bytes is at %u", name, s->size, begin);
    }
    if (k->uses_dynamic_shared && offset >= k->dynamic_offset)
        snprintf(near, sizeof near, "; the dynamic part is at %u", k->dynamic_offset);
    ptx_fatal(
        a->warp, a->in, lanes_of(a), NULL,
        "out of bounds: %u bytes at offset %u of shared memory, the CTA has %u (static %u, dynamic %u)%s",
        bytes, offset, c->shared_bytes, k->shared_bytes, c->grid->dynamic_shared, near);
}

static inline void shared_bounds(const Cta *c, u32 offset, u32 bytes, const Access *a) {
    if ((u64)offset + bytes > c->shared_bytes) outside_shared(c, offset, bytes, a);
}

void ptx_shared_read(Cta *c, u32 offset, u32 bytes, const Access *a) {
    shared_bounds(c, offset, bytes, a);
    if (!ptx_device.checks) return;
    visit_cells(visit(a, false, c, NULL), c->shadow->page, offset, bytes, false, true);
}

void ptx_shared_write(Cta *c, u32 offset, u32 bytes, const Access *a) {
    shared_bounds(c, offset, bytes, a);
    if (!ptx_device.checks) return;
    visit_cells(visit(a, true, c, NULL), c->shadow->page, offset, bytes, true, true);
}

void ptx_shared_in_flight(Cta *c, u32 offset, u32 bytes, const Access *a) {
    shared_bounds(c, offset, bytes, a);
    if (!ptx_device.checks) return;
    u32 ins = (u32)(a->in - running->is.kernel->code);
    for (u32 at = offset; at < offset + bytes;) {
        Page **p = &c->shadow->page[at / PAGE_BYTES];
        if (!*p) *p = new_page();
        u32 base = at & ~(CELL_BYTES - 1u),
            end = offset + bytes - base < CELL_BYTES ? offset + bytes - base : CELL_BYTES;
        u8 mask = (u8)((1u << end) - (1u << (at - base)));
        Cell *cell = &(*p)->cell[base / CELL_BYTES % CELLS];
        cell->valid &= (u8)~mask, cell->flying |= mask, cell->copy = ins;
        at = base + end;
    }
}

static _Noreturn void outside(u64 address, u32 bytes, const Access *a) {
    const Allocation *near = ptx_nearest_allocation(address);
    u64 begin = near ? (u64)(uintptr_t)near->memory : 0, end = near ? begin + near->bytes : 0;
    char text[200];
    if (address < 4096 || !near)
        snprintf(text, sizeof text, address < 4096 ? "a null pointer" : "there is no device memory");
    else
        snprintf(text, sizeof text, "%s%" PRIu64 "%s %s (%" PRIu64 " bytes)",
                 address < begin || address >= end ? "" : "byte ",
                 address < begin ? begin - address
                 : address < end ? address - begin
                                 : address - end,
                 address < begin ? " bytes before"
                 : address < end ? " of"
                                 : " bytes behind the end of",
                 near->name, near->bytes);
    ptx_fatal(a->warp, a->in, lanes_of(a), NULL,
              "out of bounds: %u bytes of device memory at 0x%" PRIx64 ": %s", bytes, address, text);
}

static inline void visit_global(Allocation *m, u64 address, u32 bytes, const Access *a, bool write) {
    u64 offset = address - (u64)(uintptr_t)m->memory;
    if (!m->shadow) {
        u64 n = (m->bytes + PAGE_BYTES - 1) / PAGE_BYTES;
        m->shadow = calloc(1, sizeof *m->shadow + n * sizeof m->shadow->page[0]);
        m->shadow->pages = n;
    }
    Visit *v = visit(a, write, NULL, m);
    if (write)
        visit_cells(v, m->shadow->page, offset, bytes, true, false);
    else
        visit_cells(v, m->shadow->page, offset, bytes, false, false);
}

const u8 *ptx_global_read(u64 address, u32 bytes, const Access *a) {
    Allocation *m = ptx_find_allocation(address, bytes);
    if (!m) outside(address, bytes, a);
    m->read += bytes;
    if (ptx_device.checks && !m->read_only) visit_global(m, address, bytes, a, false);
    return (const u8 *)(uintptr_t)address;
}

u8 *ptx_global_write(u64 address, u32 bytes, const Access *a) {
    Allocation *m = ptx_find_allocation(address, bytes);
    if (!m) outside(address, bytes, a);
    if (m->read_only)
        ptx_fatal(a->warp, a->in, lanes_of(a), NULL, "write to read-only memory: byte %" PRIu64 " of %s",
                  address - (u64)(uintptr_t)m->memory, m->name);
    m->written += bytes;
    if (ptx_device.checks) visit_global(m, address, bytes, a, true);
    return (u8 *)(uintptr_t)address;
}

/* ---- registers ----------------------------------------------------------------------------------------- */

/* After a finding the row counts as initialised, or everything computed from it would be one more. */
static void check_row(Warp *w, const Ins *in, u32 m, u32 *init, int operand, const char *name) {
    u32 missing = m & ~*init;
    if (!missing) return;
    *init |= missing;
    char text[80] = "the guard predicate";
    if (operand >= 0)
        snprintf(text, sizeof text, "operand %d%s%s", operand + 1, name ? ", " : "", name ? name : "");
    ptx_finding(w, in, missing, NULL,
                "uninitialised: %s of %s: nothing has been assigned to this register in %s", text, in->opcode,
                missing == m ? "these lanes" : "some of the lanes");
}

void ptx_check_inputs(Warp *w, const Ins *in, u32 m) {
    if (!ptx_device.checks) return;
    if (in->guard >= 0 && m & ~w->pred_init[in->guard]) {
        check_row(w, in, m, &w->pred_init[in->guard], -1, NULL);
        return; /* the inputs are looked at for the lanes that the guard lets through, once that is known */
    }
    for (int i = in->ndst; i < in->nops; i++) {
        const Operand *o = &in->op[i];
        if (o->kind == KIND_PRED)
            check_row(w, in, m, &w->pred_init[o->row], i, o->name);
        else if (o->kind == KIND_R32 || o->kind == KIND_R64)
            check_row(w, in, m, &w->reg_init[o->row], i, o->name);
    }
}
