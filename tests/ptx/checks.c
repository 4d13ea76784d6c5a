/* checks.c - findings, happens-before, shadow memory.
 *
 *     launches        the grid that runs, and the last few before it
 *     findings        what went wrong and where, in the words of the source
 *     clocks          what is ordered before what: vector clocks
 *     warps           how that travels: release, acquire, barriers, fences, strong accesses
 *     shadow memory   who touched each byte last, and whether that is ordered before the next access
 *     registers       reads of rows that hold nothing
 *
 * The method is that of FastTrack (Flanagan and Freund, PLDI 2009): a byte remembers its last write and the reads since;
 * an access that does not know one of them is a race, in whatever order a schedule ran the two.
 */
#include "machine.h"
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>

/* ---- launches ---------------------------------------------------------------------------------------------------- */

/* Clusters have numbers that are unique in the process (base + Cluster.serial), so that what a grid left in the shadow
 * of device memory is told from what the next one does. */
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
    bool fences;          /* some thread has executed a memory fence */
    struct Launch *outer; /* a primary grid may run inside its secondary */
} Launch;

enum { PASTS = 8 };
static Past past[PASTS];
static Launch *running;
static u32 clusters_so_far;
static u64 ended; /* the host has waited for this grid */
jmp_buf ptx_launch_exit;

static void forget_sync_table(void);

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
    if (!running) forget_sync_table();
}

void ptx_checks_host_waited(void) {
    for (int i = 0; i < PASTS; i++)
        if (past[i].serial > ended) ended = past[i].serial;
}

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
        const char *file = k->module->file[k->place[i].file], *slash = file ? strrchr(file, '/') : NULL;
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

/* ---- clocks ------------------------------------------------------------------------------------------------------ */

/* Sparse part of a clock, sorted: actors of other clusters, and moments of actors of the own cluster (cluster = 0) that
 * are known for some lanes only. All that these lanes did up to `time` is ordered before the owner. */
typedef struct Far {
    u32 cluster, actor, lanes, time;
} Far;

static int far_order(const Far *a, const Far *b) {
    if (a->cluster != b->cluster) return a->cluster < b->cluster ? -1 : 1;
    if (a->actor != b->actor) return a->actor < b->actor ? -1 : 1;
    return a->lanes < b->lanes ? -1 : a->lanes > b->lanes;
}

static void far_room(Clock *c, u32 n) {
    if (n <= c->farroom) return;
    c->farroom = n < 16 ? 16 : 2 * n;
    c->far = realloc(c->far, c->farroom * sizeof *c->far);
}

static void clock_room(Clock *c, u32 n) {
    if (n <= c->n) return;
    if (n > c->room) {
        c->room = n < 64 ? 64 : 2 * n;
        c->at = realloc(c->at, c->room * sizeof *c->at);
    }
    memset(c->at + c->n, 0, (n - c->n) * sizeof *c->at);
    c->n = n;
}

static void clock_learn(Clock *c, u32 actor, u32 time) {
    clock_room(c, actor + 1);
    if (c->at[actor] < time) c->at[actor] = time;
}

/* Sorted entries into the sparse part. */
static void clock_join_far(Clock *to, const Far *from, u32 n) {
    static Far *merged;
    static u32 room;
    if (!n) return;
    if (to->nfar + n > room) merged = realloc(merged, (room = 2 * (to->nfar + n)) * sizeof *merged);
    u32 i = 0, j = 0, count = 0;
    while (i < to->nfar || j < n) {
        int order = i == to->nfar ? 1 : j == n ? -1 : far_order(&to->far[i], &from[j]);
        Far f = order <= 0 ? to->far[i++] : from[j];
        if (order >= 0) {
            if (from[j].time > f.time) f.time = from[j].time;
            j++;
        }
        bool known = !f.cluster && f.actor < to->n && to->at[f.actor] >= f.time;
        if (!known) merged[count++] = f;
    }
    far_room(to, count);
    if (count) memcpy(to->far, merged, count * sizeof *merged);
    to->nfar = count;
}

static void clock_join(Clock *to, const Clock *from) {
    clock_room(to, from->n);
    for (u32 i = 0; i < from->n; i++) to->at[i] = to->at[i] > from->at[i] ? to->at[i] : from->at[i];
    clock_join_far(to, from->far, from->nfar);
}

/* Only lanes' own moments up to time. */
static void clock_learn_lanes(Clock *c, u32 actor, u32 lanes, u32 time) {
    Far f = {0, actor, lanes, time};
    clock_join_far(c, &f, 1);
}

static bool clock_same(const Clock *a, const Clock *b) {
    u32 n = a->n < b->n ? a->n : b->n;
    for (u32 i = n; i < a->n; i++)
        if (a->at[i]) return false;
    for (u32 i = n; i < b->n; i++)
        if (b->at[i]) return false;
    return !(n && memcmp(a->at, b->at, n * sizeof *a->at)) && a->nfar == b->nfar &&
           !(a->nfar && memcmp(a->far, b->far, a->nfar * sizeof *a->far));
}

/* Is all that these lanes of the actor did up to time ordered before the owner? cluster: 0 for the own one. */
static bool clock_knows(const Clock *c, u32 cluster, u32 actor, u32 lanes, u32 time) {
    if (!cluster && actor < c->n && c->at[actor] >= time) return true;
    u32 low = 0, high = c->nfar;
    while (low < high) {
        u32 middle = (low + high) / 2;
        const Far f = {cluster, actor, 0, 0};
        if (far_order(&c->far[middle], &f) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    for (; low < c->nfar && c->far[low].cluster == cluster && c->far[low].actor == actor; low++)
        if (c->far[low].time >= time) lanes &= ~c->far[low].lanes;
    return !lanes;
}

bool ptx_is_ordered(const Clock *c, u32 actor, u32 lanes, u32 time) {
    return clock_knows(c, 0, actor, lanes, time);
}

static bool clock_is_empty(const Clock *c) { return !c->n && !c->nfar; }
static void clock_clear(Clock *c) { c->n = c->nfar = 0; }

void ptx_knowledge_clear(Knowledge *k) {
    for (int i = 0; i < CLOCKS; i++) clock_clear(&k->clock[i]);
}
void ptx_knowledge_join(Knowledge *to, const Knowledge *from) {
    for (int i = 0; i < CLOCKS; i++) clock_join(&to->clock[i], &from->clock[i]);
}
void ptx_knowledge_copy(Knowledge *to, const Knowledge *from) {
    ptx_knowledge_clear(to);
    ptx_knowledge_join(to, from);
}
void ptx_knowledge_free(Knowledge *k) {
    for (int i = 0; i < CLOCKS; i++) free(k->clock[i].at), free(k->clock[i].far);
    *k = (Knowledge){0};
}
static bool knowledge_same(const Knowledge *a, const Knowledge *b) {
    for (int i = 0; i < CLOCKS; i++)
        if (!clock_same(&a->clock[i], &b->clock[i])) return false;
    return true;
}
void ptx_knowledge_learn(Knowledge *k, u32 actor, u32 time) {
    clock_learn(&k->seen, actor, time);
    clock_learn(&k->fenced, actor, time);
}
void ptx_knowledge_learn_lanes(Knowledge *k, u32 actor, u32 lanes, u32 time) {
    clock_learn_lanes(&k->seen, actor, lanes, time);
    clock_learn_lanes(&k->fenced, actor, lanes, time);
}

/* ---- warps ------------------------------------------------------------------------------------------------------- */

/* Lanes of a warp are ordered among themselves by program order of the single lane, and by ptx_sync_warp. The warp's own
 * entry in its knowledge is therefore the time before the last sync (synced - 1); what it hands on is more: up to now, for
 * the lanes that hand it on. Time moves on after that, so that what follows is not covered. */

typedef struct Part {
    u32 lanes;
    Knowledge know;
    struct Part *next;
} Part;
static Part *free_parts;

static u32 now(Warp *w) {
    if (!w->now) w->now = w->synced = 1;
    return w->now;
}

static Part *new_part(Warp *w, u32 lanes, const Knowledge *know) {
    Part *p = free_parts;
    if (p)
        free_parts = p->next;
    else
        p = calloc(1, sizeof *p);
    p->lanes = lanes;
    ptx_knowledge_copy(&p->know, know);
    p->next = w->part, w->part = p, w->part_lanes |= lanes;
    return p;
}

/* Takes *at out of the warp's list. */
static void drop_part(Warp *w, Part **at) {
    Part *p = *at;
    *at = p->next, w->part_lanes &= ~p->lanes;
    p->next = free_parts, free_parts = p;
}

/* Makes parts that cover exactly the lanes m. */
static void separate(Warp *w, u32 m) {
    w->changes++;
    for (Part *p = w->part; p; p = p->next)
        if (p->lanes & m && p->lanes & ~m) {
            u32 inside = p->lanes & m;
            p->lanes &= ~m;
            new_part(w, inside, &p->know); /* at the head: not seen again here */
        }
    if (m & ~w->part_lanes) new_part(w, m & ~w->part_lanes, &w->know);
}

/* Parts that know the same become one; one that has all lanes is the warp. */
static void unite(Warp *w) {
    w->changes++;
    for (Part *p = w->part; p; p = p->next)
        for (Part **q = &p->next; *q;) {
            if (knowledge_same(&p->know, &(*q)->know)) {
                u32 lanes = (*q)->lanes;
                drop_part(w, q);
                p->lanes |= lanes, w->part_lanes |= lanes;
            } else
                q = &(*q)->next;
        }
    if (w->part && !w->part->next && !(w->live & ~w->part_lanes)) {
        ptx_knowledge_copy(&w->know, &w->part->know);
        drop_part(w, &w->part);
    }
}

Knowledge *ptx_knows(Warp *w, u32 m) {
    for (Part *p = w->part; p; p = p->next)
        if (!(m & ~p->lanes)) return &p->know;
    return &w->know;
}

/* What the lanes m themselves did up to now. */
static void hand_on_own(Warp *w, u32 m, Clock *to) {
    u32 self = (u32)ptx_warp_actor(w);
    if (w->touched_lanes & ~m)
        clock_learn_lanes(to, self, m, now(w));
    else
        clock_learn(to, self, now(w));
}

/* The same as far as a memory fence came after it. */
static void publish_own(const Warp *w, u32 m, Clock *to) {
    u32 self = (u32)ptx_warp_actor(w), lanes = m & w->fence_lanes;
    if (!lanes) return;
    if (w->touched_lanes & ~lanes)
        clock_learn_lanes(to, self, lanes, w->fence_at);
    else
        clock_learn(to, self, w->fence_at);
}

static void hand_on(Warp *w, u32 m, Knowledge *to) {
    if (m & ~w->part_lanes) ptx_knowledge_join(to, &w->know);
    for (const Part *p = w->part; p; p = p->next)
        if (p->lanes & m) ptx_knowledge_join(to, &p->know);
    hand_on_own(w, m, &to->seen);
    publish_own(w, m, &to->published);
}

void ptx_release(Warp *w, u32 m, Knowledge *to) {
    if (!ptx_device.checks) return;
    hand_on(w, m, to);
    w->now++;
}

void ptx_acquire(Warp *w, u32 m, const Knowledge *from) {
    if (!ptx_device.checks) return;
    if (!clock_is_empty(&from->published)) w->changes++;
    if (!(w->live & ~m)) {
        ptx_knowledge_join(&w->know, from);
        for (Part *p = w->part; p; p = p->next) ptx_knowledge_join(&p->know, from);
        return;
    }
    separate(w, m);
    for (Part *p = w->part; p; p = p->next)
        if (p->lanes & m) ptx_knowledge_join(&p->know, from);
    unite(w);
}

void ptx_sync_warp(Warp *w, u32 m) {
    static Knowledge common;
    if (!ptx_device.checks) return;
    if (w->live & ~m) { /* __syncwarp(m) of some lanes: a release and an acquire of each */
        ptx_knowledge_clear(&common);
        ptx_release(w, m, &common);
        ptx_acquire(w, m, &common);
        return;
    }
    while (w->part) {
        ptx_knowledge_join(&w->know, &w->part->know);
        drop_part(w, &w->part);
    }
    clock_learn(&w->know.seen, (u32)ptx_warp_actor(w), now(w));
    publish_own(w, ALL_LANES, &w->know.published);
    w->synced = ++w->now;
    w->touched_lanes = w->fence_lanes = 0;
    w->changes++;
}

/* A proxy fence anywhere on the way from the generic access to the async one will do (PTX ISA 8.9.1, causality order): so
 * it covers all that its lanes know, not only what they did. */
void ptx_proxy_fence(Warp *w, u32 m) {
    if (!ptx_device.checks) return;
    bool all = !(w->live & ~m);
    if (!all) separate(w, m);
    for (Part *p = w->part; p; p = p->next)
        if (p->lanes & m) clock_join(&p->know.fenced, &p->know.seen), hand_on_own(w, m, &p->know.fenced);
    if (all) clock_join(&w->know.fenced, &w->know.seen), hand_on_own(w, m, &w->know.fenced);
    now(w), w->now++;
}

/* Strong accesses hand knowledge on by address: a table of what has been released there. What is released is a snapshot
 * of what a warp knew, and many addresses may refer to it, each by a list; lists do not change, so that addresses share
 * them too. The clocks of snapshots have no dense part, as clusters come and go. */
typedef struct {
    u64 address; /* 0: free. Shared memory: window, number of the cluster, rank, offset */
    u32 list;
} SyncWord;
typedef struct {
    Knowledge know;
    u64 owner; /* a later snapshot of the same owner says more; 0: of some lanes of a warp */
} Snapshot;
typedef struct {
    u32 snapshot, next;
    Knowledge *sum; /* of the list, made when it is first read */
} Link;
enum { LINKS_MADE = 4096 };
static struct {
    SyncWord *slot;
    u32 room, used;
    Snapshot *snapshot; /* [0] is not used, nor is that of link */
    Link *link;
    u32 snapshots, snapshot_room, links, link_room;
    struct {
        u32 list, snapshot, to; /* what list became with the snapshot */
    } made[LINKS_MADE];
} table;

static SyncWord *find_slot(u64 address) {
    u32 at = (u32)(address * 0x9e3779b97f4a7c15u >> 32) & (table.room - 1);
    while (table.slot[at].address && table.slot[at].address != address) at = (at + 1) & (table.room - 1);
    return &table.slot[at];
}

static u32 *sync_list(u64 address) {
    if (table.used * 2 >= table.room) {
        SyncWord *old = table.slot;
        u32 n = table.room;
        table.room = n ? 2 * n : 256;
        table.slot = calloc(table.room, sizeof *table.slot);
        for (u32 i = 0; i < n; i++)
            if (old[i].address) *find_slot(old[i].address) = old[i];
        free(old);
    }
    SyncWord *s = find_slot(address);
    if (!s->address) s->address = address, table.used++;
    return &s->list;
}

static void forget_sync_table(void) {
    for (u32 i = 1; i <= table.snapshots; i++) ptx_knowledge_free(&table.snapshot[i].know);
    for (u32 i = 1; i <= table.links; i++)
        if (table.link[i].sum) ptx_knowledge_free(table.link[i].sum), free(table.link[i].sum);
    free(table.slot), free(table.snapshot), free(table.link);
    memset(&table, 0, sizeof table);
}

static u32 cluster_number(const Warp *w) { return running->is.base + w->cta->cluster->serial; }

static u64 sync_address(const Warp *w, u64 address) {
    return (address & WINDOW_MASK) == SHARED_WINDOW ? address | (u64)cluster_number(w) << 32 : address;
}

/* Only the sparse part: entries of the own cluster get its number. */
static void clock_to_table(Clock *to, const Clock *from, u32 cluster) {
    u32 n = 0, own = 0;
    Far *f = malloc((from->n + from->nfar + 1) * sizeof *f);
    while (own < from->nfar && !from->far[own].cluster) own++;
    for (u32 i = 1, j = 0; i < from->n || j < own;) { /* merges those of some lanes and those of all */
        if (j < own && (i >= from->n || from->far[j].actor <= i)) {
            f[n] = from->far[j++], f[n++].cluster = cluster;
        } else {
            if (from->at[i]) f[n++] = (Far){cluster, i, ALL_LANES, from->at[i]};
            i++;
        }
    }
    clock_join_far(to, from->far + own, from->nfar - own);
    clock_join_far(to, f, n);
    free(f);
}

/* And back. */
static void clock_from_table(Clock *to, const Clock *from, u32 cluster) {
    Far *f = malloc((from->nfar + 1) * sizeof *f);
    u32 n = 0;
    for (int other = 0; other < 2; other++) /* entries of the own cluster have number 0 and come first */
        for (u32 i = 0; i < from->nfar; i++) {
            const Far *e = &from->far[i];
            if ((e->cluster != cluster) != other) continue;
            if (!other && e->lanes == ALL_LANES)
                clock_learn(to, e->actor, e->time);
            else
                f[n++] = (Far){other ? e->cluster : 0, e->actor, e->lanes, e->time};
        }
    clock_join_far(to, f, n);
    free(f);
}

static u32 new_snapshot(const Warp *w, const Clock *seen, const Clock *fenced, u64 owner) {
    if (table.snapshots + 2 > table.snapshot_room) {
        table.snapshot_room = 2 * table.snapshot_room + 64;
        table.snapshot = realloc(table.snapshot, table.snapshot_room * sizeof *table.snapshot);
    }
    Snapshot *s = &table.snapshot[++table.snapshots];
    *s = (Snapshot){.owner = owner};
    clock_to_table(&s->know.seen, seen, cluster_number(w));
    clock_to_table(&s->know.fenced, fenced, cluster_number(w));
    return table.snapshots;
}

static u32 new_link(u32 snapshot, u32 next) {
    if (table.links + 2 > table.link_room) {
        table.link_room = 2 * table.link_room + 64;
        table.link = realloc(table.link, table.link_room * sizeof *table.link);
    }
    table.link[++table.links] = (Link){snapshot, next, NULL};
    return table.links;
}

/* The list without what this owner has released before. */
static u32 without_owner(u32 list, u64 owner) {
    u32 kept[256], n = 0, i = list;
    for (; i && n < 256 && table.snapshot[table.link[i].snapshot].owner != owner; i = table.link[i].next)
        kept[n++] = i;
    if (!i || n == 256) return list;
    i = table.link[i].next;
    while (n-- > 0) i = new_link(table.link[kept[n]].snapshot, i);
    return i;
}

static u32 with_snapshot(u32 list, u32 snapshot) {
    u32 at = (list * 0x9e3779b1u ^ snapshot * 0x85ebca6bu) >> 8 & (LINKS_MADE - 1);
    if (table.made[at].list == list && table.made[at].snapshot == snapshot) return table.made[at].to;
    u32 to = list;
    while (to && table.link[to].snapshot != snapshot) to = table.link[to].next;
    u64 owner = table.snapshot[snapshot].owner;
    to = to ? list : new_link(snapshot, owner ? without_owner(list, owner) : list);
    table.made[at].list = list, table.made[at].snapshot = snapshot, table.made[at].to = to;
    return to;
}

/* All that a list says. The sum of the list behind it, if there is one, is taken over: that one is hardly read again. */
static const Knowledge *sum_of(u32 list) {
    Link *first = &table.link[list];
    if (first->sum) return first->sum;
    u32 end = first->next;
    while (end && !table.link[end].sum) end = table.link[end].next;
    first->sum = end ? table.link[end].sum : calloc(1, sizeof *first->sum);
    if (end) table.link[end].sum = NULL;
    for (u32 i = list; i != end; i = table.link[i].next)
        ptx_knowledge_join(first->sum, &table.snapshot[table.link[i].snapshot].know);
    return first->sum;
}

/* Relaxed accesses order nothing by themselves, but with fences they do (PTX ISA 8.8, release and acquire patterns): a
 * write hands on what a fence came after, and what a read has found becomes known at a fence behind it. Both travel with
 * barriers: "all threads fence, __syncthreads(), thread 0 counts" is as good as a fence of thread 0, and so is the
 * reverse; the stores have been performed, and the caches are cleared. */
void ptx_sync_read(Warp *w, u32 m, u64 address, Order order) {
    static Knowledge read;
    if (!ptx_device.checks || !table.used) return;
    u32 list = find_slot(sync_address(w, address))->list, cluster = cluster_number(w);
    if (!list) return;
    if (order & ACQUIRE) {
        const Knowledge *sum = sum_of(list);
        ptx_knowledge_clear(&read);
        clock_from_table(&read.seen, &sum->seen, cluster);
        clock_from_table(&read.fenced, &sum->fenced, cluster);
        ptx_acquire(w, m, &read);
    } else if (w->read_list != list) {
        const Knowledge *sum = sum_of(list);
        for (Part *p = w->part;; p = p->next) {
            Knowledge *k = p ? &p->know : &w->know;
            clock_from_table(&k->pending, &sum->seen, cluster);
            clock_from_table(&k->pending_fenced, &sum->fenced, cluster);
            if (!p) break;
        }
        w->read_list = list;
    }
}

static u32 published_snapshot(Warp *w, u32 m) {
    static Clock seen;
    static struct {
        u32 cluster, actor, lanes, changes, snapshot;
        const Knowledge *know;
    } made[1024], *s;
    const Knowledge *k = ptx_knows(w, m);
    u32 lanes = m & w->fence_lanes, cluster = cluster_number(w), actor = (u32)ptx_warp_actor(w);
    if (!lanes && clock_is_empty(&k->published)) return 0;
    s = &made[(actor * LANES + (lanes ? (u32)ptx_first_lane(lanes) : 0)) % 1024];
    if (s->cluster == cluster && s->actor == actor && s->lanes == lanes && s->changes == w->changes &&
        s->know == k)
        return s->snapshot;
    clock_clear(&seen);
    clock_join(&seen, &k->published);
    publish_own(w, m, &seen);
    u64 owner = lanes || w->part ? 0 : (u64)cluster << 32 | actor;
    u32 snapshot = new_snapshot(w, &seen, &k->published_fenced, owner);
    s->cluster = cluster, s->actor = actor, s->lanes = lanes, s->changes = w->changes, s->know = k;
    return s->snapshot = snapshot;
}

void ptx_sync_write(Warp *w, u32 m, u64 address, Order order) {
    static Knowledge own;
    if (!ptx_device.checks || !(order & RELEASE || running->fences)) return;
    u32 *list = sync_list(sync_address(w, address)),
        snapshot = running->fences ? published_snapshot(w, m) : 0;
    if (snapshot) *list = with_snapshot(*list, snapshot);
    if (order & RELEASE) {
        ptx_knowledge_clear(&own);
        ptx_release(w, m, &own);
        u64 owner =
            w->part || (w->live & ~m) ? 0 : (u64)cluster_number(w) << 32 | 1u << 31 | (u32)ptx_warp_actor(w);
        *list = with_snapshot(*list, new_snapshot(w, &own.seen, &own.fenced, owner));
    }
}

static void fence_knowledge(Knowledge *k) {
    clock_join(&k->seen, &k->pending), clock_clear(&k->pending);
    clock_join(&k->fenced, &k->pending_fenced), clock_clear(&k->pending_fenced);
    clock_join(&k->published, &k->seen);
    clock_join(&k->published_fenced, &k->fenced);
}

void ptx_memory_fence(Warp *w, u32 m) {
    if (!ptx_device.checks) return;
    running->fences = true;
    bool all = !(w->live & ~m);
    if (!all) separate(w, m);
    for (Part *p = w->part; p; p = p->next)
        if (p->lanes & m) fence_knowledge(&p->know);
    if (all) fence_knowledge(&w->know);
    w->fence_at = now(w), w->fence_lanes |= m;
    w->now++, w->changes++;
}

/* ---- shadow memory ----------------------------------------------------------------------------------------------- */

/* A cell stands for 4 bytes. It refers to two lists: the last writes of its bytes, and the reads since (by threads that are
 * not ordered among themselves). Lists do not change and are shared: an access of kilobytes moves cells that had one list
 * in common to another that they have in common, and looks at each list once. Lists that no cell refers to are collected
 * when there are many. */
enum { PROXY_BITS = 3, STRONG = 4, IS_WRITE = 8 }; /* Rec.flags; the proxy is in the lowest bits */
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
enum {
    CELLS = 256,
    CELL_BYTES = 4,
    ALL_BYTES = 15,
    PAGE_BYTES = CELLS * CELL_BYTES,
    LONGEST = 256,
    GLOBAL_READS = 4
};
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
    bool async, generic_own; /* of the async proxy; by lanes of the warp itself */
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
    nodes.collect_at =
        count + (count > COLLECT_AT ? count : COLLECT_AT) + cells / 4; /* as long as it takes */
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
    for (int i = 0; i < c->nwarps; i++)
        while (c->warp[i].part) drop_part(&c->warp[i], &c->warp[i].part);
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
                    .time = now(w),
                    .lane = (u8)ptx_first_lane(m)};
}

static inline Visit *visit(const Access *a, bool write, Cta *cta, const Allocation *allocation) {
    const Warp *w = a->warp;
    Rec rec = {.time = a->time,
               .cluster = cluster_number(w),
               .lanes = a->lane < LANES ? LANE_BIT(a->lane) : ALL_LANES,
               .ins = (u32)(a->in - running->is.kernel->code),
               .actor = (u16)a->actor,
               .flags = (u8)(a->proxy | (a->strong ? STRONG : 0) | (write ? IS_WRITE : 0))};
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

typedef enum { ORDERED, RACE, LANES_RACE, NOT_FENCED, BEFORE_GRID_WAIT } Verdict;

/* Two lanes of one store instruction put the same value to the same address: that is what the registers say. */
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

static __attribute__((noinline)) Verdict judge(const Visit *v, const Rec *r) {
    const Rec *x = &v->rec;
    if (r->flags & x->flags & STRONG) return ORDERED;
    u32 cluster = r->cluster == x->cluster ? 0 : r->cluster, lanes = r->lanes;
    if (r->cluster - running->is.base - 1 >= running->is.clusters) { /* another launch */
        const Past *l = launch_of(r->cluster);
        if (!l || (l->serial < running->is.horizon)) return ORDERED;
        /* a later one that runs already has not waited for this one */
        bool waited = l->serial < running->is.serial && v->n && v->at[0];
        return waited ? ORDERED : BEFORE_GRID_WAIT;
    }
    bool own = !cluster && r->actor == x->actor && v->generic_own;
    if (own) {
        bool together = x->lanes == ALL_LANES && v->a->lane >= LANES, read_together = r->lanes == ALL_LANES;
        /* collective instructions have all lanes at one place: what any lane has read before is read */
        if ((together || read_together) && !(r->flags & IS_WRITE)) return ORDERED;
        if (together && read_together) return ORDERED;
        if (!together) lanes &= ~x->lanes;
        if (!lanes) return ORDERED;
    }
    if (!clock_knows(&v->know->seen, cluster, r->actor, lanes, r->time)) {
        if (!own) return RACE;
        bool one = r->ins == x->ins && x->flags & r->flags & IS_WRITE && v->a->lane < LANES;
        return one && same_values(v->a->warp, v->a->in, lanes, v->a->lane) ? ORDERED : LANES_RACE;
    }
    bool proxies = v->async && (r->flags & PROXY_BITS) == GENERIC_PROXY;
    return proxies && !clock_knows(&v->know->fenced, cluster, r->actor, lanes, r->time) ? NOT_FENCED
                                                                                        : ORDERED;
}

/* The common cases of judge() == ORDERED. */
static inline bool ordered(const Visit *v, const Rec *r) {
    if (r->cluster != v->rec.cluster || v->async) return false;
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
    const Clock *seen = &v->know->seen;
    bool same_cluster = r->cluster == v->rec.cluster;
    if (same_cluster && (r->flags & PROXY_BITS) != GENERIC_PROXY)
        return "the asynchronous operation is not known to be complete here: wait for it, and let a barrier "
               "follow "
               "for the threads that do not wait themselves";
    for (u32 i = 0; same_cluster && i < seen->nfar && !seen->far[i].cluster; i++)
        if (seen->far[i].actor == r->actor && seen->far[i].time >= r->time)
            return "another lane of that warp has arrived or released, which does not cover this one: add "
                   "__syncwarp() before a lane does so for its warp";
    if ((r->flags ^ v->rec.flags) & STRONG)
        return "one of the two is a plain access, and no barrier or acquire orders them: make it atomic, "
               "volatile, or "
               "an acquire/release";
    if (same_cluster) return "no barrier orders the two";
    return "nothing orders these CTAs: it takes st; __threadfence(); atomic in the one and atomic; "
           "__threadfence(); ld "
           "in the other, or release and acquire";
}

static __attribute__((noinline)) void conflict(const Visit *v, const Rec *r, u64 at, Verdict verdict) {
    static const char *const formats[] = {[RACE] = "race (%s): %s: %s",
                                          [LANES_RACE] = "race of lanes (%s): %s: %s",
                                          [NOT_FENCED] = "missing fence.proxy.async (%s): %s: %s",
                                          [BEFORE_GRID_WAIT] = "race of grids (%s): %s: %s"};
    const Past *l = launch_of(r->cluster);
    const Ins *in = v->a->in, *other = &l->kernel->code[r->ins];
    if (is_told(formats[verdict], in, other)) return;
    bool writes = v->rec.flags & IS_WRITE, wrote = r->flags & IS_WRITE;
    const char *advice = remedy(v, r);
    if (verdict == LANES_RACE)
        advice = in == other && writes && wrote
                     ? "lanes put different values there, or one after the other: let one lane write, or add "
                       "__syncwarp()"
                     : "nothing orders these lanes of the warp: add __syncwarp()";
    if (verdict == NOT_FENCED)
        advice = wrote ? "the threads that wrote this need a fence.proxy.async before the barrier, or the "
                         "async proxy "
                         "may not see it"
                       : "the threads that read this need a fence.proxy.async before the barrier, or the "
                         "async proxy "
                         "may overwrite it first";
    if (verdict == BEFORE_GRID_WAIT)
        advice = "the grids overlap, and the dependent one does this before griddepcontrol.wait "
                 "(cudaGridDependencySynchronize())";
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
           clock_knows(&v->know->seen, own ? 0 : old->cluster, old->actor, old->lanes, old->time);
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
    u32 n = 1, dropped = 0,
        most = v->cta ? LONGEST : GLOBAL_READS; /* of many CTAs that read it, some are enough */
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

/* The list after a write of these bytes by rec; without it if rec is NULL. */
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

/* ---- registers --------------------------------------------------------------------------------------------------- */

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
    if (in->guard >= 0 &&
        m & ~w->pred_init[in->guard]) { /* the lanes that it lets through are looked at later */
        check_row(w, in, m, &w->pred_init[in->guard], -1, NULL);
        return;
    }
    for (int i = in->ndst; i < in->nops; i++) {
        const Operand *o = &in->op[i];
        if (o->kind == KIND_PRED)
            check_row(w, in, m, &w->pred_init[o->row], i, o->name);
        else if (o->kind == KIND_R32 || o->kind == KIND_R64)
            check_row(w, in, m, &w->reg_init[o->row], i, o->name);
    }
}
