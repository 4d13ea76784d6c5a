/* order.c - happens-before.
 *
 *     clocks             what is ordered before what: vector clocks
 *     warps              how that travels: release, acquire, barriers, fences
 *     strong accesses    and by which addresses
 */
#include "checks.h"
#include <stdlib.h>

/* ---- clocks -------------------------------------------------------------------------------------------- */

/* Sparse part of a clock, sorted: actors of other clusters, and moments of actors of the own cluster
 * (cluster = 0) that are known for some lanes only. All that these lanes did up to `time` is ordered
 * before the owner. */
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

/* Is all that these lanes of the actor did up to time ordered before the owner? cluster: 0 for the own
 * one. */
bool ptx_clock_knows(const Clock *c, u32 cluster, u32 actor, u32 lanes, u32 time) {
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

bool ptx_clock_knows_any_lane(const Clock *c, u32 actor, u32 time) {
    for (u32 i = 0; i < c->nfar && !c->far[i].cluster; i++)
        if (c->far[i].actor == actor && c->far[i].time >= time) return true;
    return false;
}

bool ptx_is_ordered(const Clock *c, u32 actor, u32 lanes, u32 time) {
    return ptx_clock_knows(c, 0, actor, lanes, time);
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
void ptx_knowledge_learn(Knowledge *k, u32 actor, u32 time) { clock_learn(&k->seen, actor, time); }
void ptx_knowledge_learn_lanes(Knowledge *k, u32 actor, u32 lanes, u32 time) {
    clock_learn_lanes(&k->seen, actor, lanes, time);
}

/* ---- warps --------------------------------------------------------------------------------------------- */

/* Lanes of a warp are ordered among themselves by program order of the single lane, and by ptx_sync_warp.
 * The warp's own entry in its knowledge is therefore the time before the last sync (synced - 1); what it
 * hands on is more: up to now, for the lanes that hand it on. Time moves on after that, so that what
 * follows is not covered. */

typedef struct Part {
    u32 lanes;
    Knowledge know;
    struct Part *next;
} Part;
static Part *free_parts;

u32 ptx_now(Warp *w) {
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

void ptx_order_free_cta(Cta *c) {
    for (int i = 0; i < c->nwarps; i++)
        while (c->warp[i].part) drop_part(&c->warp[i], &c->warp[i].part);
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
        clock_learn_lanes(to, self, m, ptx_now(w));
    else
        clock_learn(to, self, ptx_now(w));
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
    clock_learn(&w->know.seen, (u32)ptx_warp_actor(w), ptx_now(w));
    publish_own(w, ALL_LANES, &w->know.published);
    w->synced = ++w->now;
    w->touched_lanes = w->fence_lanes = 0;
    w->changes++;
}

static void fence_spaces(Warp *w, u32 m, u32 spaces, Knowledge *k) {
    for (int i = 0; i < FENCED_SPACES; i++)
        if (spaces >> i & 1) clock_join(&k->fenced[i], &k->seen), hand_on_own(w, m, &k->fenced[i]);
}

/* A proxy fence anywhere on the way from the generic access to the async one will do (PTX ISA chapter 8,
 * causality order): so it covers all that its lanes know, not only what they did. */
void ptx_proxy_fence(Warp *w, u32 m, u32 spaces) {
    if (!ptx_device.checks) return;
    bool all = !(w->live & ~m);
    if (!all) separate(w, m);
    for (Part *p = w->part; p; p = p->next)
        if (p->lanes & m) fence_spaces(w, m, spaces, &p->know);
    if (all) fence_spaces(w, m, spaces, &w->know);
    ptx_now(w), w->now++;
}

/* ---- strong accesses ----------------------------------------------------------------------------------- */

/* Strong accesses hand knowledge on by address: a table of what has been released there. What is released
 * is a snapshot of what a warp knew, and many addresses may refer to it, each by a list; lists do not
 * change, so that addresses share them too. The clocks of snapshots have no dense part, as clusters come
 * and go. */
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
static bool
    fences; /* some thread of the launch has executed a memory fence: else relaxed writes hand on nothing */

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

void ptx_order_end_launch(void) {
    for (u32 i = 1; i <= table.snapshots; i++) ptx_knowledge_free(&table.snapshot[i].know);
    for (u32 i = 1; i <= table.links; i++)
        if (table.link[i].sum) ptx_knowledge_free(table.link[i].sum), free(table.link[i].sum);
    free(table.slot), free(table.snapshot), free(table.link);
    memset(&table, 0, sizeof table);
    fences = false;
}

static u64 sync_address(const Warp *w, u64 address) {
    return (address & WINDOW_MASK) == SHARED_WINDOW ? address | (u64)ptx_cluster_number(w) << 32 : address;
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

static u32 new_snapshot(const Warp *w, const Clock *seen, const Clock fenced[FENCED_SPACES], u64 owner) {
    if (table.snapshots + 2 > table.snapshot_room) {
        table.snapshot_room = 2 * table.snapshot_room + 64;
        table.snapshot = realloc(table.snapshot, table.snapshot_room * sizeof *table.snapshot);
    }
    Snapshot *s = &table.snapshot[++table.snapshots];
    *s = (Snapshot){.owner = owner};
    clock_to_table(&s->know.seen, seen, ptx_cluster_number(w));
    for (int i = 0; i < FENCED_SPACES; i++)
        clock_to_table(&s->know.fenced[i], &fenced[i], ptx_cluster_number(w));
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

/* All that a list says. The sum of the list behind it, if there is one, is taken over: that one is hardly
 * read again. */
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

/* Relaxed accesses order nothing by themselves, but with fences they do (PTX ISA chapter 8, release and
 * acquire patterns): a write hands on what a fence came after, and what a read has found becomes known at
 * a fence behind it. Both travel with barriers: "all threads fence, __syncthreads(), thread 0 counts" is
 * as good as a fence of thread 0, and so is the reverse; the stores have been performed, and the caches
 * are cleared. */
void ptx_sync_read(Warp *w, u32 m, u64 address, Order order) {
    static Knowledge read;
    if (!ptx_device.checks || !table.used) return;
    u32 list = find_slot(sync_address(w, address))->list, cluster = ptx_cluster_number(w);
    if (!list) return;
    if (order & ACQUIRE) {
        const Knowledge *sum = sum_of(list);
        ptx_knowledge_clear(&read);
        clock_from_table(&read.seen, &sum->seen, cluster);
        for (int i = 0; i < FENCED_SPACES; i++) clock_from_table(&read.fenced[i], &sum->fenced[i], cluster);
        ptx_acquire(w, m, &read);
    } else if (w->read_list != list) {
        const Knowledge *sum = sum_of(list);
        for (Part *p = w->part;; p = p->next) {
            Knowledge *k = p ? &p->know : &w->know;
            clock_from_table(&k->pending, &sum->seen, cluster);
            for (int i = 0; i < FENCED_SPACES; i++)
                clock_from_table(&k->pending_fenced[i], &sum->fenced[i], cluster);
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
    u32 lanes = m & w->fence_lanes, cluster = ptx_cluster_number(w), actor = (u32)ptx_warp_actor(w);
    if (!lanes && clock_is_empty(&k->published)) return 0;
    s = &made[(actor * LANES + (lanes ? (u32)ptx_first_lane(lanes) : 0)) % 1024];
    if (s->cluster == cluster && s->actor == actor && s->lanes == lanes && s->changes == w->changes &&
        s->know == k)
        return s->snapshot;
    clock_clear(&seen);
    clock_join(&seen, &k->published);
    publish_own(w, m, &seen);
    u64 owner = lanes || w->part ? 0 : (u64)cluster << 32 | actor;
    u32 snapshot = new_snapshot(w, &seen, k->published_fenced, owner);
    s->cluster = cluster, s->actor = actor, s->lanes = lanes, s->changes = w->changes, s->know = k;
    return s->snapshot = snapshot;
}

void ptx_sync_write(Warp *w, u32 m, u64 address, Order order) {
    static Knowledge own;
    if (!ptx_device.checks || !(order & RELEASE || fences)) return;
    u32 *list = sync_list(sync_address(w, address)), snapshot = fences ? published_snapshot(w, m) : 0;
    if (snapshot) *list = with_snapshot(*list, snapshot);
    if (order & RELEASE) {
        ptx_knowledge_clear(&own);
        ptx_release(w, m, &own);
        u64 owner = w->part || (w->live & ~m)
                        ? 0
                        : (u64)ptx_cluster_number(w) << 32 | 1u << 31 | (u32)ptx_warp_actor(w);
        *list = with_snapshot(*list, new_snapshot(w, &own.seen, own.fenced, owner));
    }
}

static void fence_knowledge(Knowledge *k) {
    clock_join(&k->seen, &k->pending), clock_clear(&k->pending);
    clock_join(&k->published, &k->seen);
    for (int i = 0; i < FENCED_SPACES; i++) {
        clock_join(&k->fenced[i], &k->pending_fenced[i]), clock_clear(&k->pending_fenced[i]);
        clock_join(&k->published_fenced[i], &k->fenced[i]);
    }
}

void ptx_memory_fence(Warp *w, u32 m) {
    if (!ptx_device.checks) return;
    fences = true;
    bool all = !(w->live & ~m);
    if (!all) separate(w, m);
    for (Part *p = w->part; p; p = p->next)
        if (p->lanes & m) fence_knowledge(&p->know);
    if (all) fence_knowledge(&w->know);
    w->fence_at = ptx_now(w), w->fence_lanes |= m;
    w->now++, w->changes++;
}
