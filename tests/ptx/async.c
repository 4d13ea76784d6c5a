/* async.c - what happens later: cp.async, mbarriers, bulk and tensor copies; and setmaxnreg, griddepcontrol.
 *
 *     happens-before    what asynchronous work knows and hands on
 *     mbarriers         their state, in a side table of each CTA; init, arrive, expect_tx, waits
 *     cp.async          per warp: instructions in order of issue, groups by lane
 *     bulk copies       one queue per cluster: 1-D, tensors, reductions, st.async, red.async
 *     the engines       who does queued work when: IN_ORDER as soon as it can be done, LAZY when somebody
 *                       waits for it, RANDOM in any order and, big copies, in pieces
 *     the end of threads and CTAs, deadlock report, decoders
 *
 * Sources are read when a copy is done, not when it is issued, so that reusing them too early shows. A copy
 * knows what its issuer knew; who waits for it learns its actor: that of the mbarrier (time: phases completed),
 * of the warp's cp.async queue (time: number of the instruction) or of the lane's bulk groups (time: number of
 * the group).
 */
#include <stdlib.h>
#include "numeric.h"

enum {
    COUNT_MAX =
        (1 << 20) - 1, /* of arrivals, and of |tx-count|: PTX ISA, "Contents of the mbarrier object" */
    STATE_SHIFT = 24,  /* state of an arrive: pending count, and above it the phase */
    KEPT_RECORDS = 256 /* cp.async instructions that are done, kept to know what a wait covers */
};
#define MBARRIER_PATTERN 0x6d62617272696572u /* "mbarrier": what its 8 bytes hold, xored with its offset */

static void grow(void **array, int n, int *room, size_t size) {
    if (n < *room) return;
    *room = *room ? 2 * *room : 8;
    *array = realloc(*array, (size_t)*room * size);
}

/* ---- happens-before ------------------------------------------------------------------------------------ */

static Party party(Warp *w, const Ins *in, u32 lane) {
    return (Party){in, w->cta->cluster->serial, (u32)ptx_warp_actor(w), (int)lane};
}

/* What lanes m know goes into `know`; what the warp does from now on does not. */
static void hand_to_copy(Warp *w, u32 m, Knowledge *know) {
    ptx_knowledge_clear(know);
    if (ptx_device.checks) ptx_release(w, m, know);
}

static void learn(Warp *w, u32 m, u32 actor, u32 time) {
    Knowledge k = {0};
    ptx_knowledge_learn(&k, actor, time);
    ptx_acquire(w, m, &k);
    ptx_knowledge_free(&k);
}

/* Ends the launch with a finding about one lane of w at in. */
#define FATAL(lane, other, ...) ptx_fatal(w, in, LANE_BIT(lane), other, __VA_ARGS__)

/* ---- addresses ----------------------------------------------------------------------------------------- */

static u64 address_of(Warp *w, const Operand *o, u32 lane) {
    return (o->kind == KIND_R64 ? ptx_r64(w, o)[lane] : ptx_r32(w, o)[lane]) + (u64)o->value;
}

/* The 32-bit shared address that operand o holds; generic ones lose their window. */
static u32 shared_address(Warp *w, const Ins *in, const Operand *o, u32 lane) {
    u64 a = address_of(w, o, lane);
    if (in->space == SPACE_GENERIC ? (a & WINDOW_MASK) != SHARED_WINDOW : o->kind == KIND_R64 && a >> 32)
        FATAL(lane, NULL, "0x%llx is no %s address of shared memory", (unsigned long long)a,
              in->space == SPACE_GENERIC ? "generic" : "32-bit");
    return (u32)a;
}

static Cta *shared_target(Warp *w, const Ins *in, u32 lane, u32 address, u32 *offset) {
    Cta *c = ptx_shared_target(w->cta, address, offset);
    if (!c)
        FATAL(lane, NULL, "shared address 0x%x: the cluster has no CTA of rank %u", address,
              (address >> SHARED_RANK_SHIFT) - 1);
    if (!c->alive)
        FATAL(lane, NULL, "shared address 0x%x: CTA rank %d of the cluster has ended", address, c->rank);
    return c;
}

static Cta *own_target(Warp *w, const Ins *in, u32 lane, u32 address, u32 *offset) {
    Cta *c = shared_target(w, in, lane, address, offset);
    if (c != w->cta)
        FATAL(lane, NULL, "%s of a remote CTA (rank %d): only shared memory of the own CTA is allowed",
              in->opcode, c->rank);
    return c;
}

static void require_aligned(Warp *w, const Ins *in, u32 lane, const char *what, u64 value, u32 to) {
    if (value % to)
        FATAL(lane, NULL, "%s 0x%llx is not a multiple of %u", what, (unsigned long long)value, to);
}

/* ---- mbarriers ----------------------------------------------------------------------------------------- */

typedef struct Mbarrier {
    u32 offset;
    bool live;
    u32 expected, pending;
    s32 tx;               /* bytes expected and not yet copied; below 0: copied and not yet expected */
    u32 phase, first;     /* phases completed since the CTA began, and when it was initialised */
    u32 observed, copied; /* phases that somebody waited for, that copies took part in */
    int actor;
    u32 init_time, init_fenced; /* of the thread that executed mbarrier.init; its fence of that, 0: none */
    Party init, arrival, expect, copy, waiter;
    u32 waiting;            /* warps that wait */
    Knowledge coming, done; /* released by the arrivals of this phase; by all of the completed ones */
} Mbarrier;

struct MbarrierTable {
    Mbarrier **barrier;
    int n, room;
};

static u64 pattern_of(u32 offset) { return MBARRIER_PATTERN ^ offset; }

static Mbarrier *find_mbarrier(const Cta *c, u32 offset) {
    const struct MbarrierTable *t = c->mbarriers;
    for (int i = 0; i < t->n; i++)
        if (t->barrier[i]->offset == offset) return t->barrier[i];
    return NULL;
}

/* The live mbarrier at that offset of CTA c, intact; all misuse ends the launch. */
static Mbarrier *live_mbarrier(Warp *w, const Ins *in, u32 lane, Cta *c, u32 offset) {
    require_aligned(w, in, lane, "mbarrier address", offset, 8);
    Mbarrier *b = find_mbarrier(c, offset);
    if (!b || !b->live)
        FATAL(lane, b ? &b->init : NULL, "there is no mbarrier at shared address 0x%x: %s", offset,
              b ? "it was invalidated" : "mbarrier.init is missing");
    u64 word;
    memcpy(&word, c->shared + offset, 8);
    if (word != pattern_of(offset))
        FATAL(lane, &b->init, "the mbarrier at shared address 0x%x was overwritten by other data", offset);
    return b;
}

/* Whoever uses an mbarrier must be ordered after its initialisation; the async proxy needs a fence
 * besides. */
static void require_visible(Warp *w, const Ins *in, u32 lane, const Mbarrier *b, const Knowledge *k,
                            bool async) {
    if (!ptx_device.checks) return;
    u32 by = LANE_BIT(b->init.lane);
    bool own = b->init.actor == (u32)ptx_warp_actor(w) && (u32)b->init.lane == lane;
    bool fenced = !async || ptx_is_ordered(&k->fenced[FENCED_SHARED], b->init.actor, by, b->init_time) ||
                  (b->init_fenced && ptx_is_ordered(&k->seen, b->init.actor, by, b->init_fenced));
    if (!own && !ptx_is_ordered(&k->seen, b->init.actor, by, b->init_time))
        ptx_finding(w, in, LANE_BIT(lane), &b->init,
                    "race: mbarrier 0x%x is used here without being ordered after its mbarrier.init: a "
                    "barrier is missing",
                    b->offset);
    else if (!fenced)
        ptx_finding(
            w, in, LANE_BIT(lane), &b->init,
            "missing fence.mbarrier_init or fence.proxy.async: the async proxy signals mbarrier 0x%x, whose "
            "mbarrier.init it cannot see without one",
            b->offset);
}

/* The mbarrier that operand o names, checked; *c: its CTA. */
static Mbarrier *mbarrier_operand(Warp *w, const Ins *in, const Operand *o, u32 lane, bool remote, Cta **c) {
    u32 offset, address = shared_address(w, in, o, lane);
    *c = remote ? shared_target(w, in, lane, address, &offset) : own_target(w, in, lane, address, &offset);
    Mbarrier *b = live_mbarrier(w, in, lane, *c, offset);
    require_visible(w, in, lane, b, ptx_knows(w, LANE_BIT(lane)), false);
    return b;
}

/* Ends the phase if all have arrived and all bytes are there (PTX ISA, "Phase completion"). */
static bool settle(Cta *c, Mbarrier *b) {
    if (b->pending || b->tx) return false;
    ptx_knowledge_join(&b->done, &b->coming);
    ptx_knowledge_clear(&b->coming);
    b->phase++;
    ptx_knowledge_learn(&b->done, (u32)b->actor, b->phase);
    b->pending = b->expected;
    ptx_wake_cluster(c->cluster);
    return true;
}

static void change_tx(Warp *w, const Ins *in, u32 lane, Mbarrier *b, s64 change) {
    s64 tx = b->tx + change;
    if (tx > COUNT_MAX || tx < -COUNT_MAX)
        FATAL(lane, &b->expect, "mbarrier 0x%x: tx-count %lld is outside -(2^20-1)..2^20-1", b->offset,
              (long long)tx);
    b->tx = (s32)tx;
}

static void arrive(Warp *w, const Ins *in, u32 lane, Cta *c, Mbarrier *b, u32 count) {
    if (count == 0 || count > COUNT_MAX)
        FATAL(lane, &b->init, "mbarrier 0x%x: arrival count %u is not in 1..2^20-1", b->offset, count);
    if (count > b->pending)
        FATAL(lane, &b->arrival,
              "mbarrier 0x%x: over-arrival: %u more where %u of %u arrivals are pending (phase %u, %d "
              "bytes outstanding)",
              b->offset, count, b->pending, b->expected, b->phase - b->first, b->tx);
    /* PTX ISA, "Phase of the mbarrier object": somebody sees each one complete before the next arrivals */
    if (b->observed < b->phase) {
        b->observed = b->phase;
        ptx_finding(w, in, LANE_BIT(lane), &b->arrival,
                    "mbarrier 0x%x: arrival in phase %u, but nobody has waited for phase %u: who waits late "
                    "takes another phase for it",
                    b->offset, b->phase - b->first, b->phase - b->first - 1);
    }
    b->pending -= count;
    b->arrival = party(w, in, lane);
    settle(c, b);
}

/* A copy (or an asynchronous store) delivers bytes. */
static void complete_tx(Warp *w, const Ins *in, u32 lane, Cta *c, Mbarrier *b, u32 bytes) {
    change_tx(w, in, lane, b, -(s64)bytes);
    b->copied = b->phase + 1, b->copy = party(w, in, lane);
    settle(c, b);
}

static Outcome run_init(Warp *w, const Ins *in, u32 m) {
    EACH_LANE(l, m) {
        u32 offset, address = shared_address(w, in, &in->op[0], l), count = ptx_r32(w, &in->op[1])[l];
        Cta *c = own_target(w, in, l, address, &offset);
        require_aligned(w, in, l, "mbarrier address", offset, 8);
        Access a = ptx_access(w, in, LANE_BIT(l));
        a.lane = (u8)l;
        ptx_shared_write(c, offset, 8, &a);
        Mbarrier *b = find_mbarrier(c, offset);
        if (b && b->live)
            FATAL(l, &b->init, "mbarrier 0x%x is initialised again without mbarrier.inval", offset);
        if (count == 0 || count > COUNT_MAX)
            FATAL(l, NULL, "mbarrier 0x%x: count %u is not in 1..2^20-1", offset, count);
        if (!b) {
            struct MbarrierTable *t = c->mbarriers;
            grow((void **)&t->barrier, t->n, &t->room, sizeof *t->barrier);
            b = t->barrier[t->n++] = calloc(1, sizeof *b);
            b->offset = offset;
            b->actor = ptx_new_actor(c->cluster, "mbarrier 0x%x of CTA rank %d", offset, c->rank);
        }
        u64 word = pattern_of(offset);
        memcpy(c->shared + offset, &word, 8);
        b->live = true, b->expected = b->pending = count, b->tx = 0;
        b->first = b->observed = b->copied = b->phase;
        b->init = party(w, in, l), b->init_time = a.time, b->init_fenced = 0;
        b->arrival = b->expect = b->copy = b->waiter = (Party){0}, b->waiting = 0;
        ptx_knowledge_clear(&b->coming);
    }
    return RAN;
}

/* Covers what these very lanes have initialised, and no other access (PTX ISA, fence: .op_restrict). A memory
 * fence comes before it. */
void ptx_mbarrier_init_fence(Warp *w, u32 m) {
    const struct MbarrierTable *t = w->cta->mbarriers;
    for (int i = 0; i < t->n; i++) {
        Mbarrier *b = t->barrier[i];
        bool own = b->live && b->init.actor == (u32)ptx_warp_actor(w) && m >> b->init.lane & 1;
        if (own && !b->init_fenced) b->init_fenced = w->fence_at;
    }
}

static Outcome run_inval(Warp *w, const Ins *in, u32 m) {
    EACH_LANE(l, m) {
        Cta *c;
        Mbarrier *b = mbarrier_operand(w, in, &in->op[0], l, false, &c);
        if (b->waiting)
            FATAL(l, &b->waiter, "mbarrier 0x%x is invalidated while a warp waits for it", b->offset);
        if (b->tx)
            FATAL(l, &b->expect, "mbarrier 0x%x is invalidated with %d bytes outstanding", b->offset, b->tx);
        Access a = ptx_access(w, in, LANE_BIT(l));
        a.lane = (u8)l;
        ptx_shared_write(c, b->offset, 8, &a);
        b->live = false;
    }
    return RAN;
}

/* Ins.mode of arrive and its relatives */
enum { ARRIVES = 1, DROPS = 2, EXPECTS = 4, COMPLETES = 8, NO_COMPLETE = 16, RELEASES = 32 };

/* arrive and arrive_drop with their .expect_tx and .noComplete forms, expect_tx, complete_tx.
 * op: (state), address, (count or bytes). Scopes are not modelled: what is released at .cta scope is known in the
 * whole cluster. */
static Outcome run_arrive(Warp *w, const Ins *in, u32 m) {
    const Operand *at = &in->op[in->mode & ARRIVES ? 1 : 0];
    const Operand *number = in->aux[0] ? at + 1 : NULL;
    u64 *state = in->mode & ARRIVES && in->op[0].kind == KIND_R64 ? ptx_r64(w, &in->op[0]) : NULL;
    Mbarrier *released = NULL;
    u32 phase = 0;
    EACH_LANE(l, m) {
        Cta *c;
        Mbarrier *b = mbarrier_operand(w, in, at, l, in->space != SPACE_SHARED, &c);
        u32 value = number ? ptx_r32(w, number)[l] : 1;
        if (c != w->cta && state)
            FATAL(l, NULL, "an arrival at a remote mbarrier (CTA rank %d) returns no state: write _",
                  c->rank);
        if (in->mode & RELEASES && (b != released || b->phase != phase)) {
            ptx_release(w, m, &b->coming);
            released = b, phase = b->phase;
        }
        if (in->mode & EXPECTS) {
            if (value > COUNT_MAX)
                FATAL(l, &b->expect, "mbarrier 0x%x: %u bytes expected: more than 2^20-1", b->offset, value);
            b->expect = party(w, in, l);
            change_tx(w, in, l, b, value);
        }
        if (in->mode & COMPLETES) change_tx(w, in, l, b, -(s64)value);
        if (!(in->mode & ARRIVES)) {
            settle(c, b);
            continue;
        }
        u32 count = in->mode & EXPECTS ? 1 : value;
        if (in->mode & NO_COMPLETE && count >= b->pending)
            FATAL(l, &b->arrival, "mbarrier 0x%x: .noComplete arrival completes the phase (%u pending)",
                  b->offset, b->pending);
        u64 before = (u64)b->phase << STATE_SHIFT | b->pending;
        if (in->mode & DROPS) b->expected -= count <= b->pending ? count : 0;
        arrive(w, in, l, c, b, count);
        if (state) state[l] = before;
    }
    return RAN;
}

static Outcome run_pending_count(Warp *w, const Ins *in, u32 m) {
    u32 *d = ptx_r32(w, &in->op[0]);
    const u64 *state = ptx_r64(w, &in->op[1]);
    FOR_LANES(m, d, (u32)(state[l] & ((1u << STATE_SHIFT) - 1)));
    return RAN;
}

enum { WAITS_PARITY = 1, WAITS_BLOCKING = 2, WAITS_RELAXED = 4 }; /* Ins.mode */

/* Is the phase that lane l asks for complete? A thread that has seen k phases end and asks for the next
 * one, when that and the one after it have ended already, asks for a parity that has come round again. */
static bool phase_is_complete(Warp *w, const Ins *in, u32 l, const Mbarrier *b) {
    u32 current = b->phase - b->first;
    if (!(in->mode & WAITS_PARITY)) {
        u64 state = ptx_r64(w, &in->op[2])[l];
        u32 phase = (u32)(state >> STATE_SHIFT);
        if (phase > b->phase || phase < b->first || phase + 1 < b->phase)
            FATAL(l, &b->arrival,
                  "mbarrier 0x%x: state 0x%llx is not of the current phase %u or the one before it",
                  b->offset, (unsigned long long)state, current);
        return phase < b->phase;
    }
    u32 parity = ptx_r32(w, &in->op[2])[l];
    if (parity > 1) FATAL(l, &b->init, "mbarrier 0x%x: parity %u is neither 0 nor 1", b->offset, parity);
    if ((current & 1) != parity) return true;
    if (ptx_device.checks) {
        const Clock *seen = &ptx_knows(w, LANE_BIT(l))->seen;
        u32 known = (u32)b->actor < seen->n ? seen->at[b->actor] : 0;
        known = known > b->first ? known - b->first : 0;
        if ((known & 1) == parity && current >= known + 2)
            ptx_finding(w, in, LANE_BIT(l), &b->arrival,
                        "mbarrier 0x%x: waits for phase %u (parity %u), but phase %u is already complete "
                        "too: the parity has "
                        "come round again",
                        b->offset, known, parity, current - 1);
    }
    return false;
}

static Outcome run_wait(Warp *w, const Ins *in, u32 m) {
    Mbarrier *barrier[LANES] = {0};
    u32 ready = 0, last = 0;
    EACH_LANE(l, m) {
        Cta *c;
        bool same =
            l && m & LANE_BIT(l - 1) && address_of(w, &in->op[1], l) == address_of(w, &in->op[1], last);
        barrier[l] = same ? barrier[last] : mbarrier_operand(w, in, &in->op[1], l, false, &c);
        if (phase_is_complete(w, in, l, barrier[l])) ready |= LANE_BIT(l);
        last = l;
    }
    bool blocking = in->mode & WAITS_BLOCKING;
    Grid *g = w->cta->grid;
    if (blocking && ptx_device.schedule == RANDOM && ptx_random(g, 8) == 0)
        ready = 0; /* as it may */
    else if (blocking && !ready) {
        EACH_LANE(l, m) barrier[l]->waiting |= LANE_BIT(w->id % LANES), barrier[l]->waiter = party(w, in, l);
        return WAIT;
    }
    u32 left = ready;
    EACH_LANE(l, m) barrier[l]->waiting &= ~LANE_BIT(w->id % LANES);
    while (left) {
        Mbarrier *b = barrier[ptx_first_lane(left)];
        u32 together = 0;
        EACH_LANE(l, left) if (barrier[l] == b) together |= LANE_BIT(l);
        if (b->phase > b->observed) b->observed = b->phase;
        if (!(in->mode & WAITS_RELAXED)) ptx_acquire(w, together, &b->done);
        left &= ~together;
    }
    ptx_set_pred(w, &in->op[0], m, ready);
    if (blocking || !ready) return RAN;
    /* a test_wait that fails ends the turn (INS_YIELDS), one that succeeds does not */
    w->group[w->current].pc++;
    return JUMPED;
}

/* ---- cp.async ------------------------------------------------------------------------------------------ */

typedef struct { /* one warp instruction */
    const Ins *in;
    u32 seq;
    u32 mask, left;        /* lanes that issued it, whose copy is to be done */
    u32 waited, tracked;   /* lanes that have waited for it, that have left it to an mbarrier */
    bool arrives;          /* cp.async.mbarrier.arrive: dst is the mbarrier */
    u8 bytes, take[LANES]; /* copied, and of these read from the source: the rest is zero */
    u32 dst[LANES], group[LANES];
    u64 src[LANES];
    Knowledge know;
} CpAsync;

struct CopyQueue {
    CpAsync **item; /* [n] in order of issue */
    int n, room;
    CpAsync **spare;
    int nspare, spare_room;
    int arrivals;          /* items that arrive at an mbarrier and are not done */
    u32 seq, group[LANES]; /* instructions issued; the open group of each lane */
    int actor;
};

/* The n oldest instructions: their memory is for the next ones. */
static void forget_records(struct CopyQueue *q, int n) {
    for (int i = 0; i < n; i++) {
        grow((void **)&q->spare, q->nspare, &q->spare_room, sizeof *q->spare);
        q->spare[q->nspare++] = q->item[i];
    }
    q->n -= n;
    if (n) memmove(q->item, q->item + n, (size_t)q->n * sizeof *q->item);
}

static CpAsync *new_cp_async(Warp *w, const Ins *in, u32 m) {
    struct CopyQueue *q = w->copies;
    grow((void **)&q->item, q->n, &q->room, sizeof *q->item);
    /* never waited for, or by mbarrier: forget the oldest */
    if (q->n >= KEPT_RECORDS && !q->item[0]->left) forget_records(q, 1);
    CpAsync *p = q->nspare ? q->spare[--q->nspare] : calloc(1, sizeof *p);
    q->item[q->n++] = p;
    p->in = in, p->seq = ++q->seq, p->mask = p->left = m, p->waited = p->tracked = 0, p->arrives = false;
    if (!q->actor)
        q->actor = ptx_new_actor(w->cta->cluster, "cp.async of CTA rank %d warp %d", w->cta->rank, w->id);
    memcpy(p->group, q->group, sizeof p->group);
    return p;
}

/* Does the copies of lanes m of one instruction. */
static void do_cp_async(Warp *w, CpAsync *p, u32 m) {
    Access a = {.warp = w,
                .in = p->in,
                .know = &p->know,
                .actor = (u32)w->copies->actor,
                .time = p->seq,
                .proxy = GENERIC_LATER};
    EACH_LANE(l, m & p->left) {
        u8 data[16] = {0};
        a.lane = (u8)l;
        if (p->take[l]) memcpy(data, ptx_global_read(p->src[l], p->take[l], &a), p->take[l]);
        ptx_shared_write(w->cta, p->dst[l], p->bytes, &a);
        memcpy(w->cta->shared + p->dst[l], data, p->bytes);
    }
    p->left &= ~m;
}

/* What comes before item i, then its arrivals: the waiters learn that these copies are done, and nothing
 * else. */
static void do_cp_async_arrive(Warp *w, int i) {
    struct CopyQueue *q = w->copies;
    CpAsync *p = q->item[i];
    for (int j = 0; j < i; j++) {
        if (q->item[j]->arrives && q->item[j]->left) do_cp_async_arrive(w, j);
        if (q->item[j]->left) do_cp_async(w, q->item[j], q->item[j]->left);
    }
    EACH_LANE(l, p->mask) {
        Mbarrier *b = live_mbarrier(w, p->in, l, w->cta, p->dst[l]);
        ptx_knowledge_learn_lanes(&b->coming, (u32)q->actor, LANE_BIT(l), p->seq);
        arrive(w, p->in, l, w->cta, b, 1);
    }
    p->left = 0, p->waited = p->mask;
    q->arrivals--;
}

enum { SOURCE_SIZE = 1, IGNORE_SOURCE = 2 }; /* Ins.mode of cp.async */

/* op: dst, src, (SOURCE_SIZE: bytes of the source | IGNORE_SOURCE: predicate), (cache policy) */
static Outcome run_cp_async(Warp *w, const Ins *in, u32 m) {
    u64 source[LANES] = {0};
    u32 shared[LANES] = {0}, reads = m;
    CpAsync *p = new_cp_async(w, in, m);
    p->bytes = in->width;
    hand_to_copy(w, m, &p->know);
    EACH_LANE(l, m) {
        u32 take = in->width, offset, address = shared_address(w, in, &in->op[0], l);
        own_target(w, in, l, address, &offset);
        if (in->mode == SOURCE_SIZE) take = ptx_r32(w, &in->op[2])[l];
        if (in->mode == IGNORE_SOURCE) take = ptx_pred(w, &in->op[2]) & LANE_BIT(l) ? 0 : in->width;
        if (take > in->width) FATAL(l, NULL, "src-size %u is greater than cp-size %u", take, in->width);
        u64 src = address_of(w, &in->op[1], l);
        require_aligned(w, in, l, "shared address", offset, in->width);
        require_aligned(w, in, l, "global address", src, in->width);
        p->dst[l] = shared[l] = offset, p->src[l] = source[l] = src, p->take[l] = (u8)take;
        if (!take) reads &= ~LANE_BIT(l);
        Access a = {.warp = w,
                    .in = in,
                    .know = &p->know,
                    .actor = (u32)w->copies->actor,
                    .time = p->seq,
                    .lane = (u8)l,
                    .proxy = GENERIC_LATER};
        ptx_shared_in_flight(w->cta, offset, in->width, &a);
    }
    while (reads) { /* lanes that read as many bytes are one request */
        u32 take = p->take[ptx_first_lane(reads)], alike = 0;
        EACH_LANE(l, reads) alike |= p->take[l] == take ? LANE_BIT(l) : 0;
        ptx_count_global(in, source, alike, take, false);
        reads &= ~alike;
    }
    ptx_count_shared(in, shared, m, in->width);
    if (ptx_device.schedule == IN_ORDER) do_cp_async(w, p, m);
    return RAN;
}

/* Without .noinc (mode 0) the pending count goes up first, which makes up for the arrival. */
static Outcome run_cp_async_arrive(Warp *w, const Ins *in, u32 m) {
    CpAsync *p = new_cp_async(w, in, m);
    EACH_LANE(l, m) {
        Cta *c;
        Mbarrier *b = mbarrier_operand(w, in, &in->op[0], l, false, &c);
        if (!in->mode && ++b->pending > COUNT_MAX)
            FATAL(l, &b->init, "mbarrier 0x%x: more than 2^20-1 arrivals pending", b->offset);
        p->dst[l] = b->offset;
    }
    p->arrives = true;
    for (int i = 0; i < w->copies->n - 1; i++) w->copies->item[i]->tracked |= m;
    w->copies->arrivals++;
    if (ptx_device.schedule == IN_ORDER) do_cp_async_arrive(w, w->copies->n - 1);
    return RAN;
}

static Outcome run_commit(Warp *w, const Ins *in, u32 m) {
    (void)in;
    FOR_LANES(m, w->copies->group, w->copies->group[l] + 1);
    return RAN;
}

/* wait_group n (aux[0]) and wait_all (mode). What it covers is done if it is not yet. The lanes learn the
 * moment up to which all copies are waited for; beyond it only what they have issued themselves. */
static Outcome run_wait_group(Warp *w, const Ins *in, u32 m) {
    struct CopyQueue *q = w->copies;
    u32 covered = 0, beyond = 0, own[LANES];
    bool prefix = true;
    for (int i = 0; i < q->n; i++) {
        CpAsync *p = q->item[i];
        if (p->arrives) continue;
        u32 need = 0;
        EACH_LANE(l, m & p->mask) if (in->mode || p->group[l] + in->aux[0] < q->group[l]) need |= LANE_BIT(l);
        if (need & p->left) do_cp_async(w, p, need);
        p->waited |= need;
        prefix &= p->waited == p->mask;
        if (prefix) covered = p->seq;
        if (prefix || !need) continue;
        EACH_LANE(l, need) own[l] = p->seq;
        beyond |= need;
    }
    Knowledge k = {0};
    if (covered) ptx_knowledge_learn(&k, (u32)q->actor, covered);
    EACH_LANE(l, beyond) ptx_knowledge_learn_lanes(&k, (u32)q->actor, LANE_BIT(l), own[l]);
    if (covered || beyond) ptx_acquire(w, m, &k);
    ptx_knowledge_free(&k);
    int done = 0;
    while (done < q->n && !q->item[done]->left &&
           (q->item[done]->waited | q->item[done]->tracked) == q->item[done]->mask)
        done++;
    forget_records(q, done);
    return RAN;
}

/* ---- bulk copies: reductions --------------------------------------------------------------------------- */

typedef enum {
    NO_REDUCTION,
    RED_ADD,
    RED_MIN,
    RED_MAX,
    RED_INC,
    RED_DEC,
    RED_AND,
    RED_OR,
    RED_XOR
} Reduction; /* Ins.n */
static const char *const reductions[] = {"add", "min", "max", "inc", "dec", "and", "or", "xor", NULL};

/* One reduction of old by v, of an integer type. */
#define REDUCE_INTEGER(T) \
    static T reduce_##T(T old, T v, Reduction op) { \
        switch (op) { \
        case RED_ADD: return (T)((u64)old + (u64)v); \
        case RED_MIN: return old < v ? old : v; \
        case RED_MAX: return old > v ? old : v; \
        case RED_INC: return old >= v ? 0 : old + 1; \
        case RED_DEC: return old == 0 || old > v ? v : old - 1; \
        case RED_AND: return old & v; \
        case RED_OR: return old | v; \
        case RED_XOR: return old ^ v; \
        default: return v; \
        } \
    }
REDUCE_INTEGER(u32)
REDUCE_INTEGER(s32)
REDUCE_INTEGER(u64)
REDUCE_INTEGER(s64)
static float reduce_float(float old, float v, Reduction op) {
    return op == RED_ADD ? old + v : op == RED_MIN ? fminf(old, v) : fmaxf(old, v);
}
static double reduce_double(double old, double v, Reduction op) { return op == RED_ADD ? old + v : v; }
/* 16 bits: the sum of two is exact in a float or rounds as it would at once */
static u16 reduce_f16(u16 old, u16 v, Reduction op) {
    return ptx_f32_to_f16(reduce_float(ptx_f16_to_f32(old), ptx_f16_to_f32(v), op));
}
static u16 reduce_bf16(u16 old, u16 v, Reduction op) {
    return ptx_f32_to_bf16(reduce_float(ptx_bf16_to_f32(old), ptx_bf16_to_f32(v), op));
}

static void reduce(u8 *to, const u8 *from, u32 bytes, Type type, Reduction op) {
#define ELEMENTS(T, function) \
    for (u32 i = 0; i < bytes; i += (u32)sizeof(T)) { \
        T old, v; \
        memcpy(&old, to + i, sizeof old), memcpy(&v, from + i, sizeof v); \
        old = function(old, v, op); \
        memcpy(to + i, &old, sizeof old); \
    } \
    return
    switch (op == NO_REDUCTION ? T_NONE : type) {
    case T_U32:
    case T_B32: ELEMENTS(u32, reduce_u32);
    case T_S32: ELEMENTS(s32, reduce_s32);
    case T_U64:
    case T_B64: ELEMENTS(u64, reduce_u64);
    case T_S64: ELEMENTS(s64, reduce_s64);
    case T_F32: ELEMENTS(float, reduce_float);
    case T_F64: ELEMENTS(double, reduce_double);
    case T_F16: ELEMENTS(u16, reduce_f16);
    case T_BF16: ELEMENTS(u16, reduce_bf16);
    default: memcpy(to, from, bytes);
    }
#undef ELEMENTS
}

/* Which types a reduction takes: as ptxas does. Tensor copies take those of the map's type. */
#define TYPE(t) (1u << (t))
static u32 types_of(Reduction op, bool to_global, bool tensor) {
    u32 bits32 = TYPE(T_U32) | TYPE(T_S32), bits64 = TYPE(T_U64) | TYPE(T_S64),
        half = TYPE(T_F16) | TYPE(T_BF16);
    switch (op) {
    case RED_ADD:
        return bits32 | TYPE(T_U64) | (to_global ? half | TYPE(T_F32) | (tensor ? 0 : TYPE(T_F64)) : 0);
    case RED_MIN:
    case RED_MAX: return bits32 | (to_global ? bits64 | half : 0);
    case RED_INC:
    case RED_DEC: return TYPE(T_U32);
    default: return tensor ? bits32 | bits64 : TYPE(T_B32) | (to_global ? TYPE(T_B64) : 0);
    }
}

static const struct {
    u8 type, bytes;
    u16 nan; /* fill of NAN_REQUEST_ZERO_FMA: its upper 16 bits, of the element */
} map_type[] = {
    /* by CUtensorMapDataType, as far as tensormap.c takes them */
    {T_U8, 1, 0},  {T_U16, 2, 0},        {T_U32, 4, 0},        {T_S32, 4, 0},        {T_U64, 8, 0},
    {T_S64, 8, 0}, {T_F16, 2, HALF_NAN}, {T_F32, 4, HALF_NAN}, {T_F64, 8, HALF_NAN}, {T_BF16, 2, HALF_NAN},
};

/* ---- bulk copies: the queue ---------------------------------------------------------------------------- */

/* Ins.mode of bulk copies. SHARED_COPY: from shared::cta to shared::cluster; VALUE: st.async, red.async */
typedef enum { LOAD, STORE, SHARED_COPY, VALUE, PREFETCH } Direction;
enum { MULTICAST = 1, TENSOR = 2, READS_ONLY = 4 }; /* Ins.aux[0]: what they have */

typedef struct {
    Warp *warp;
    const Ins *in;
    u32 lane;
    Knowledge know;
    Type type;            /* of a reduction */
    u32 group;            /* STORE: bulk group of the lane */
    u32 row, rows;        /* done so far, of: rows of the box, or pieces of ROW_BYTES of a 1-D copy */
    u32 row_bytes, bytes; /* of a row, of all */
    u64 global;           /* 1-D */
    TensorMap map;
    s32 at[5]; /* coordinates */
    Cta *from; /* STORE, SHARED_COPY: shared source */
    u32 from_offset;
    u32 ctas;    /* LOAD, SHARED_COPY, VALUE: destinations, by rank; the same offsets in each */
    int signals; /* rank whose mbarrier stands for the reads of the source */
    u32 to_offset, mbarrier;
    u8 value[16];
} Copy;

struct AsyncQueue {
    Copy **copy; /* [n], oldest first */
    int n, room;
};

/* Of one warp, by lane: bulk groups, numbered from 1. And, of the warp: setmaxnreg. */
struct BulkQueue {
    u32 open[LANES];                          /* the group that is not committed yet */
    u32 stored[LANES], read[LANES];           /* last group with a copy; waited for, at least its reads */
    const Ins *store[LANES];                  /* last copy */
    int read_actor[LANES], done_actor[LANES]; /* who waited for reads alone does not know the second */
    int setmaxnregs;                          /* how many, and the last of them */
    const Ins *setmaxnreg;
};

enum { ROW_BYTES = 256 * 8, ROW_CHUNKS = 8 };

/* A row of a box: where it lies in device memory and which of its bytes exist. */
typedef struct {
    u64 address; /* of byte 0, which may not exist */
    u32 lo, hi;  /* bytes inside the tensor; lo == hi: none */
} Row;

static u32 bytes_of_row(const Copy *p, u32 r) {
    u32 left = p->bytes - r * p->row_bytes;
    return left < p->row_bytes ? left : p->row_bytes;
}

static Row row_of(const Copy *p, u32 r) {
    const TensorMap *t = &p->map;
    bool inside = true;
    if (!t->rank) return (Row){p->global + r * p->row_bytes, 0, bytes_of_row(p, r)};
    u64 address = t->base + (u64)((s64)p->at[0] * t->element_size);
    for (int d = 1; d < t->rank; d++) {
        s64 at = (s64)p->at[d] + r % t->box[d];
        r /= t->box[d];
        inside &= at >= 0 && (u64)at < t->dim[d];
        address += (u64)at * t->stride[d];
    }
    s64 box = t->box[0], first = -(s64)p->at[0], last = (s64)t->dim[0] - p->at[0];
    first = first < 0 ? 0 : first > box ? box : first;
    last = last < first ? first : last > box ? box : last;
    u32 size = t->element_size;
    return (Row){address, inside ? (u32)first * size : 0, inside ? (u32)last * size : 0};
}

/* The pieces of bytes lo..hi of row r as they lie in shared memory; swizzling moves 16-byte chunks. */
typedef struct {
    u32 byte, offset, bytes; /* in the row, in shared memory */
} Chunk;

static int row_chunks(const Copy *p, u32 base, u32 r, u32 lo, u32 hi, Chunk *chunk) {
    int n = 0;
    u32 start = base + r * p->row_bytes;
    if (p->map.swizzle == 0) {
        chunk[n++] = (Chunk){lo, start + lo, hi - lo};
        return n;
    }
    for (u32 b = lo, end; b < hi; b = end) {
        end = (b | 15) + 1 < hi ? (b | 15) + 1 : hi;
        chunk[n++] = (Chunk){b, ptx_swizzle(start + b, p->map.swizzle), end - b};
    }
    return n;
}

typedef void CheckShared(Cta *c, u32 offset, u32 bytes, const Access *a);

/* Checks and records one access to bytes lo..hi of row r: a whole row is one piece, swizzled or not. */
static int check_row(const Copy *p, Cta *c, u32 base, u32 r, u32 lo, u32 hi, CheckShared *check,
                     const Access *a, Chunk *chunk) {
    int n = lo < hi ? row_chunks(p, base, r, lo, hi, chunk) : 0;
    if (n && lo == 0 && hi == bytes_of_row(p, r))
        check(c, base + r * p->row_bytes, hi, a);
    else
        for (int i = 0; i < n; i++) check(c, chunk[i].offset, chunk[i].bytes, a);
    return n;
}

static void fill_outside(const TensorMap *t, u8 *row, Row x, u32 bytes) {
    u32 size = t->element_size;
    u16 nan = t->fill_nan ? map_type[t->type].nan : 0;
    for (u32 b = 0; b < bytes; b += size) {
        if (b >= x.lo && b < x.hi) continue;
        memset(row + b, size > 2 && nan ? 0xff : 0, size);
        memcpy(row + b + size - 2 * (size > 1), &nan, size > 1 ? 2 : 0);
    }
}

/* How the mbarrier in CTA c records what a copy does: who sees the end of its current phase is ordered
 * after it. */
static Access signalled(const Copy *p, Cta *c, Mbarrier **b, u8 proxy) {
    *b = live_mbarrier(p->warp, p->in, p->lane, c, p->mbarrier);
    return (Access){.warp = p->warp,
                    .in = p->in,
                    .know = &p->know,
                    .actor = (u32)(*b)->actor,
                    .time = (*b)->phase + 1,
                    .lane = LANES,
                    .proxy = proxy,
                    .strong = p->in->n != NO_REDUCTION};
}

static Access grouped(const Copy *p, bool reads) {
    const struct BulkQueue *q = p->warp->bulk;
    return (Access){.warp = p->warp,
                    .in = p->in,
                    .know = &p->know,
                    .time = p->group,
                    .lane = LANES,
                    .proxy = ASYNC_PROXY,
                    .actor = (u32)(reads ? q->read_actor : q->done_actor)[p->lane],
                    .strong = !reads && p->in->n != NO_REDUCTION};
}

/* Does row r: reads, fills what does not exist, writes or reduces. */
static void do_row(Copy *p, u32 r) {
    const Ins *in = p->in;
    Cluster *cl = p->warp->cta->cluster;
    u8 row[ROW_BYTES];
    Chunk chunk[ROW_CHUNKS];
    Mbarrier *b;
    u32 bytes = bytes_of_row(p, r);
    Row x = row_of(p, r);
    if (in->mode == VALUE) {
        memcpy(row, p->value, bytes);
    } else if (in->mode == LOAD) {
        Access a = signalled(p, &cl->cta[p->signals], &b, ASYNC_PROXY);
        if (x.lo < x.hi) memcpy(row + x.lo, ptx_global_read(x.address + x.lo, x.hi - x.lo, &a), x.hi - x.lo);
        if (x.hi - x.lo < bytes) fill_outside(&p->map, row, x, bytes);
        ptx_count.tma_load_bytes += x.hi - x.lo;
    } else {
        Access a = in->mode == STORE ? grouped(p, true) : signalled(p, &cl->cta[p->signals], &b, ASYNC_PROXY);
        int n = check_row(p, p->from, p->from_offset, r, x.lo, x.hi, ptx_shared_read, &a, chunk);
        for (int i = 0; i < n; i++)
            memcpy(row + chunk[i].byte, p->from->shared + chunk[i].offset, chunk[i].bytes);
        ptx_count.tma_shared_bytes += x.hi - x.lo;
    }
    if (in->mode == STORE) {
        Access a = grouped(p, false);
        if (x.lo < x.hi)
            reduce(ptx_global_write(x.address + x.lo, x.hi - x.lo, &a), row + x.lo, x.hi - x.lo, p->type,
                   (Reduction)in->n);
        ptx_count.tma_store_bytes += x.hi - x.lo;
        return;
    }
    for (int c = 0; c < cl->nctas; c++) {
        if (!(p->ctas >> c & 1)) continue;
        Cta *to = &cl->cta[c];
        Access a = signalled(p, to, &b, in->mode == VALUE ? GENERIC_LATER : ASYNC_PROXY);
        if (in->n != NO_REDUCTION) check_row(p, to, p->to_offset, r, 0, bytes, ptx_shared_read, &a, chunk);
        int n = check_row(p, to, p->to_offset, r, 0, bytes, ptx_shared_write, &a, chunk);
        for (int i = 0; i < n; i++)
            reduce(to->shared + chunk[i].offset, row + chunk[i].byte, chunk[i].bytes, p->type,
                   (Reduction)in->n);
        ptx_count.tma_shared_bytes += bytes;
    }
}

/* Does the next rows of copy i of the queue; takes it out when it is complete. */
static void do_copy(Cluster *cl, int i, u32 rows) {
    struct AsyncQueue *q = cl->async;
    Copy *p = q->copy[i];
    u32 bytes = 0;
    for (; rows && p->row < p->rows; rows--, p->row++) {
        do_row(p, p->row);
        bytes += bytes_of_row(p, p->row);
    }
    for (int c = 0; c < cl->nctas && p->in->mode != STORE; c++)
        if (p->ctas >> c & 1) {
            Mbarrier *b = live_mbarrier(p->warp, p->in, p->lane, &cl->cta[c], p->mbarrier);
            complete_tx(p->warp, p->in, p->lane, &cl->cta[c], b, bytes);
        }
    if (p->row < p->rows) return;
    memmove(q->copy + i, q->copy + i + 1, (size_t)(--q->n - i) * sizeof *q->copy);
    ptx_knowledge_free(&p->know);
    free(p);
    ptx_wake_cluster(cl);
}

/* ---- bulk copies: issue -------------------------------------------------------------------------------- */

static Copy *new_copy(Warp *w, const Ins *in, u32 lane) {
    Copy *p = calloc(1, sizeof *p);
    p->warp = w, p->in = in, p->lane = lane, p->type = (Type)in->type;
    hand_to_copy(w, LANE_BIT(lane), &p->know);
    return p;
}

/* Queues it. Destinations in shared memory hold nothing until it is done. */
static void issue(Copy *p) {
    Warp *w = p->warp;
    struct AsyncQueue *q = w->cta->cluster->async;
    for (int c = 0; c < w->cta->cluster->nctas && p->in->mode != STORE; c++) {
        if (!(p->ctas >> c & 1)) continue;
        Cta *to = &w->cta->cluster->cta[c];
        Mbarrier *b;
        Access a = signalled(p, to, &b, p->in->mode == VALUE ? GENERIC_LATER : ASYNC_PROXY);
        require_visible(w, p->in, p->lane, b, &p->know, p->in->mode != VALUE);
        if (p->in->n == NO_REDUCTION) ptx_shared_in_flight(to, p->to_offset, p->bytes, &a);
    }
    if (p->in->mode == STORE) {
        struct BulkQueue *bulk = w->bulk;
        u32 l = p->lane;
        p->group = bulk->stored[l] = bulk->open[l], bulk->store[l] = p->in;
        if (!bulk->read_actor[l]) {
            Cluster *cl = w->cta->cluster;
            const char *format = "bulk group (%s) of CTA rank %d warp %d lane %u";
            bulk->read_actor[l] = ptx_new_actor(cl, format, "reads", w->cta->rank, w->id, l);
            bulk->done_actor[l] = ptx_new_actor(cl, format, "writes", w->cta->rank, w->id, l);
        }
    }
    grow((void **)&q->copy, q->n, &q->room, sizeof *q->copy);
    q->copy[q->n++] = p;
}

/* The tensor map that operand o points to: made by cuTensorMapEncodeTiled, rank as the instruction says. */
static void read_map(Copy *p, const Operand *o) {
    Warp *w = p->warp;
    u32 lane = LANE_BIT(p->lane);
    u64 address = address_of(w, o, p->lane);
    require_aligned(w, p->in, p->lane, "address of the tensor map", address, 64);
    if (!ptx_find_allocation(address, 128))
        ptx_fatal(w, p->in, lane, NULL, "tensor map at 0x%llx: not in device memory, constants or parameters",
                  (unsigned long long)address);
    TensorMap *t = &p->map;
    memcpy(t, (const void *)(uintptr_t)address, sizeof *t);
    if (t->magic != PTX_TENSOR_MAP_MAGIC)
        ptx_fatal(w, p->in, lane, NULL,
                  "no tensor map at 0x%llx: pass what cuTensorMapEncodeTiled wrote as a "
                  "const __grid_constant__ CUtensorMap parameter",
                  (unsigned long long)address);
    if (t->rank != p->in->k)
        ptx_fatal(w, p->in, lane, NULL, "the tensor map has %u dimensions, the instruction %u", t->rank,
                  p->in->k);
    for (u32 d = 0; d < t->rank; d++) p->at[d] = (s32)ptx_r32(w, o + 1 + d)[p->lane];
    p->row_bytes = t->box[0] * t->element_size, p->rows = 1;
    for (int d = 1; d < t->rank; d++) p->rows *= t->box[d];
    p->bytes = p->rows * p->row_bytes;
    if (p->in->n != NO_REDUCTION) {
        Type type = (Type)map_type[t->type].type;
        if (!(types_of((Reduction)p->in->n, true, true) & TYPE(type)))
            ptx_fatal(w, p->in, lane, NULL, "reduction %s of a tensor map with this data type (%u)",
                      reductions[p->in->n - 1], t->type);
        p->type = type;
    }
}

/* Where a box may lie in shared memory: 128-byte aligned; swizzled ones where the pattern begins. */
static void require_box_place(Copy *p, u32 offset) {
    static const u32 atom[] = {128, 256, 512, 1024};
    u32 s = p->map.swizzle;
    require_aligned(p->warp, p->in, p->lane,
                    s ? "shared address of a swizzled box" : "shared address of a box", offset, atom[s]);
    if (s && p->row_bytes != 16u << s)
        ptx_fatal(p->warp, p->in, LANE_BIT(p->lane), NULL,
                  "a box row of %u bytes with %u-byte swizzling: only rows as long as the swizzle span are "
                  "supported",
                  p->row_bytes, 16u << s);
}

/* 1-D copies: multiples of 16 bytes at multiples of 16. */
static void read_size(Copy *p, u32 bytes) {
    require_aligned(p->warp, p->in, p->lane, "size of a bulk copy", bytes, 16);
    if (!bytes) ptx_fatal(p->warp, p->in, LANE_BIT(p->lane), NULL, "bulk copy of 0 bytes");
    p->bytes = bytes, p->row_bytes = ROW_BYTES, p->rows = (bytes + ROW_BYTES - 1) / ROW_BYTES;
}

/* Operands as written, as far as the form has them: destination, source, size, mbarrier, mask of CTAs,
 * cache policy; the one in device memory of a tensor copy is the map and the coordinates. */
static Outcome run_bulk(Warp *w, const Ins *in, u32 m) {
    bool tensor = in->aux[0] & TENSOR;
    EACH_LANE(l, m) {
        Copy *p = new_copy(w, in, l);
        const Operand *o = in->op, *to = NULL, *from = NULL;
        if (in->mode == LOAD || in->mode == SHARED_COPY) to = o++;
        if (tensor)
            read_map(p, o), o += 1 + in->k;
        else if (in->mode != SHARED_COPY) {
            p->global = address_of(w, o++, l);
            require_aligned(w, in, l, "global address of a bulk copy", p->global, 16);
        }
        if (in->mode == STORE || in->mode == SHARED_COPY) from = o++;
        if (!tensor) read_size(p, ptx_r32(w, o++)[l]);
        if (in->mode == PREFETCH) {
            if (!tensor && !ptx_find_allocation(p->global, p->bytes))
                FATAL(l, NULL, "prefetch of %u bytes at 0x%llx: not in one allocation", p->bytes,
                      (unsigned long long)p->global);
            ptx_knowledge_free(&p->know);
            free(p);
            continue;
        }
        if (from) {
            p->from = own_target(w, in, l, shared_address(w, in, from, l), &p->from_offset);
            if (tensor)
                require_box_place(p, p->from_offset);
            else
                require_aligned(w, in, l, "shared source of a bulk copy", p->from_offset, 16);
        }
        if (to) {
            u32 mbarrier_address = shared_address(w, in, o++, l);
            Cta *c = shared_target(w, in, l, shared_address(w, in, to, l), &p->to_offset);
            Cta *signal = shared_target(w, in, l, mbarrier_address, &p->mbarrier);
            p->ctas = in->aux[0] & MULTICAST ? ptx_r32(w, o)[l] & 0xffff : LANE_BIT(c->rank);
            if (in->space == SPACE_SHARED && c != w->cta)
                FATAL(l, NULL, ".shared::cta destination is in CTA rank %d", c->rank);
            if (signal != c)
                FATAL(l, NULL, "the destination is in CTA rank %d, its mbarrier in CTA rank %d", c->rank,
                      signal->rank);
            if (!p->ctas || p->ctas >> w->cta->cluster->nctas)
                FATAL(l, NULL, "multicast mask 0x%x in a cluster of %d CTAs", p->ctas,
                      w->cta->cluster->nctas);
            for (int i = 0; i < w->cta->cluster->nctas; i++)
                if (p->ctas >> i & 1 && !w->cta->cluster->cta[i].alive)
                    FATAL(l, NULL, "multicast to CTA rank %d, which has ended", i);
            p->signals = p->ctas >> w->cta->rank & 1 ? w->cta->rank : ptx_first_lane(p->ctas);
            if (tensor)
                require_box_place(p, p->to_offset);
            else
                require_aligned(w, in, l, "shared destination of a bulk copy", p->to_offset, 16);
        }
        issue(p);
    }
    return RAN;
}

/* st.async, red.async: op: [address], values, [mbarrier]. They are not of the async proxy. */
static Outcome run_store_async(Warp *w, const Ins *in, u32 m) {
    u32 size = (u32)ptx_type_bits((Type)in->type) / 8;
    EACH_LANE(l, m) {
        Copy *p = new_copy(w, in, l);
        Cta *to = shared_target(w, in, l, shared_address(w, in, &in->op[0], l), &p->to_offset);
        Cta *signal =
            shared_target(w, in, l, shared_address(w, in, &in->op[1 + in->vector], l), &p->mbarrier);
        if (to != signal)
            FATAL(l, NULL, "the destination is in CTA rank %d, its mbarrier in CTA rank %d", to->rank,
                  signal->rank);
        p->bytes = p->row_bytes = size * in->vector, p->rows = 1;
        p->ctas = LANE_BIT(to->rank), p->signals = to->rank;
        require_aligned(w, in, l, "shared address", p->to_offset, p->bytes);
        for (u32 i = 0; i < in->vector; i++) {
            const Operand *o = &in->op[1 + i];
            if (size == 8)
                memcpy(p->value + 8 * i, &ptx_r64(w, o)[l], 8);
            else
                memcpy(p->value + 4 * i, &ptx_r32(w, o)[l], 4);
        }
        issue(p);
    }
    return RAN;
}

static Outcome run_bulk_commit(Warp *w, const Ins *in, u32 m) {
    (void)in;
    FOR_LANES(m, w->bulk->open, w->bulk->open[l] + 1);
    return RAN;
}

/* wait_group n (aux[1]): all but the newest n committed groups; READS_ONLY: until their sources have been
 * read. */
static Outcome run_bulk_wait(Warp *w, const Ins *in, u32 m) {
    struct BulkQueue *q = w->bulk;
    const struct AsyncQueue *queue = w->cta->cluster->async;
    for (int i = 0; i < queue->n; i++) {
        const Copy *p = queue->copy[i];
        if (p->warp == w && p->in->mode == STORE && m >> p->lane & 1 &&
            p->group + in->aux[1] < q->open[p->lane])
            return WAIT;
    }
    Knowledge k = {0};
    u32 learnt = 0;
    EACH_LANE(l, m) {
        u32 upto = q->open[l] > in->aux[1] ? q->open[l] - 1 - in->aux[1] : 0;
        if (!q->read_actor[l] || !upto) continue;
        learnt |= LANE_BIT(l);
        if (upto > q->read[l]) q->read[l] = upto;
        ptx_knowledge_learn(&k, (u32)q->read_actor[l], upto);
        if (in->aux[0] & READS_ONLY) continue;
        ptx_knowledge_learn(&k, (u32)q->done_actor[l], upto);
    }
    if (learnt) ptx_acquire(w, learnt, &k);
    ptx_knowledge_free(&k);
    return RAN;
}

/* ---- setmaxnreg, griddepcontrol ------------------------------------------------------------------------ */

enum { REGISTERS_INC = 1 };

/* Registers move between a CTA's warps through a pool that is empty at the start. */
static Outcome run_setmaxnreg(Warp *w, const Ins *in, u32 m) {
    const Kernel *k = w->cta->grid->kernel;
    Cta *c = w->cta;
    int want = (int)in->aux[0], change = want - w->registers;
    if (!k->min_blocks && !k->max_registers)
        ptx_finding(w, in, m, NULL,
                    "setmaxnreg without __launch_bounds__(threads, blocks): where ptxas cannot tell the "
                    "registers at entry, it ignores it (C7508)");
    if (in->mode & REGISTERS_INC ? change < 0 : change > 0)
        ptx_fatal(w, in, m, NULL, "%s %d, but the warp has %d registers per thread", in->opcode, want,
                  w->registers);
    if (change * LANES > c->register_pool) return WAIT;
    for (int i = w->id & ~3; i < c->nwarps && i < (w->id | 3) + 1; i++) {
        struct BulkQueue *other = c->warp[i].bulk, *own = w->bulk;
        Party p = party(&c->warp[i], other->setmaxnreg, LANES);
        if (other->setmaxnregs < own->setmaxnregs)
            ptx_finding(w, in, m, &p,
                        "setmaxnreg again before warp %d of the warpgroup has executed the one before it: a "
                        "barrier is missing",
                        i);
        else if (other->setmaxnregs == own->setmaxnregs + 1 && other->setmaxnreg->aux[0] != in->aux[0])
            ptx_finding(
                w, in, m, &p,
                "the warps of a warpgroup execute different setmaxnreg instructions: %d and %u registers",
                want, other->setmaxnreg->aux[0]);
    }
    c->register_pool -= change * LANES;
    w->registers = want;
    w->bulk->setmaxnregs++, w->bulk->setmaxnreg = in;
    ptx_wake_cluster(c->cluster);
    return RAN;
}

static Outcome run_grid_wait(Warp *w, const Ins *in, u32 m) {
    (void)in;
    if (w->cta->grid->primary) return WAIT;
    w->grid_waited = true;
    learn(w, m, 0, 1);
    return RAN;
}

static Outcome run_nothing(Warp *w, const Ins *in, u32 m) {
    (void)w, (void)in, (void)m;
    return RAN;
}

/* ---- the engines --------------------------------------------------------------------------------------- */

/* Work of a warp's cp.async queue that somebody may wait for (arrivals), or any (RANDOM). */
static bool step_cp_async(Warp *w, bool any) {
    struct CopyQueue *q = w->copies;
    int pick = -1, n = 0;
    for (int i = 0; i < q->n && !(pick >= 0 && !any); i++)
        if (q->item[i]->left && (any || q->item[i]->arrives) &&
            (!any || ptx_random(w->cta->grid, (u32)++n) == 0))
            pick = i;
    if (pick < 0) return false;
    if (q->item[pick]->arrives)
        do_cp_async_arrive(w, pick);
    else
        do_cp_async(w, q->item[pick], q->item[pick]->left);
    return true;
}

static bool step_some_warp(Cluster *c, bool any) {
    u32 warps = (u32)(c->nctas * c->cta[0].nwarps), start = any ? ptx_random(c->grid, warps) : 0;
    for (u32 i = 0; i < warps; i++) {
        u32 n = (start + i) % warps;
        if (step_cp_async(&c->cta[n / (u32)c->cta[0].nwarps].warp[n % (u32)c->cta[0].nwarps], any))
            return true;
    }
    return false;
}

bool ptx_async_step(Cluster *c) {
    struct AsyncQueue *q = c->async;
    bool random = ptx_device.schedule == RANDOM;
    if (!q->n || (random && ptx_random(c->grid, 4) == 0))
        if (step_some_warp(c, random)) return true;
    if (!q->n) return false;
    int i = random ? (int)ptx_random(c->grid, (u32)q->n) : 0;
    u32 rows = q->copy[i]->rows - q->copy[i]->row;
    if (random && rows > 1 && ptx_random(c->grid, 4) == 0) rows = 1 + ptx_random(c->grid, rows);
    do_copy(c, i, rows);
    return true;
}

bool ptx_async_pending(const Cluster *c) {
    bool pending = c->async->n;
    for (int i = 0; i < c->nctas && !pending; i++)
        for (int j = 0; j < c->cta[i].nwarps; j++) pending |= c->cta[i].warp[j].copies->arrivals != 0;
    return pending;
}

void ptx_async_start_cluster(Cluster *c) { c->async = calloc(1, sizeof *c->async); }

void ptx_async_free_cluster(Cluster *c) {
    for (int i = 0; i < c->async->n; i++) {
        ptx_knowledge_free(&c->async->copy[i]->know);
        free(c->async->copy[i]);
    }
    free(c->async->copy), free(c->async);
    c->async = NULL;
}

void ptx_async_start_cta(Cta *c) {
    c->mbarriers = calloc(1, sizeof *c->mbarriers);
    c->register_pool = 0;
    for (int i = 0; i < c->nwarps; i++) {
        Warp *w = &c->warp[i];
        w->copies = calloc(1, sizeof *w->copies);
        w->bulk = calloc(1, sizeof *w->bulk);
        for (int l = 0; l < LANES; l++) w->copies->group[l] = w->bulk->open[l] = 1;
    }
}

static void free_records(CpAsync **record, int n) {
    for (int i = 0; i < n; i++) {
        ptx_knowledge_free(&record[i]->know);
        free(record[i]);
    }
    free(record);
}

void ptx_async_free_cta(Cta *c) {
    for (int i = 0; i < c->mbarriers->n; i++) {
        Mbarrier *b = c->mbarriers->barrier[i];
        ptx_knowledge_free(&b->coming), ptx_knowledge_free(&b->done);
        free(b);
    }
    free(c->mbarriers->barrier), free(c->mbarriers);
    c->mbarriers = NULL;
    for (int i = 0; i < c->nwarps; i++) {
        Warp *w = &c->warp[i];
        free_records(w->copies->item, w->copies->n), free_records(w->copies->spare, w->copies->nspare);
        free(w->copies), free(w->bulk);
        w->copies = NULL, w->bulk = NULL;
    }
}

/* ---- ends ---------------------------------------------------------------------------------------------- */

void ptx_async_at_exit(Warp *w, const Ins *in, u32 m) {
    Party here = party(w, in, LANES);
    const struct BulkQueue *b = w->bulk;
    EACH_LANE(l, m) {
        if (b->stored[l] > b->read[l])
            ptx_finding(w, b->store[l], LANE_BIT(l), &here,
                        "its thread exits without cp.async.bulk.wait_group%s: shared memory may be gone "
                        "before this copy has "
                        "read it",
                        b->stored[l] >= b->open[l] ? " (nor commit_group)" : "");
    }
    for (int i = 0; i < w->copies->n; i++) {
        CpAsync *p = w->copies->item[i];
        u32 never = p->mask & ~(p->waited | p->tracked) & m;
        if (!p->arrives && never)
            ptx_finding(w, p->in, never, &here,
                        "its thread exits without waiting for this cp.async (cp.async.wait_group or "
                        "wait_all is missing)");
        p->waited |= never, p->left &= ~(p->arrives ? 0 : never);
    }
}

/* Copies from and to this CTA are done now: its memory ends with it. Those that nobody waited for are
 * findings. */
void ptx_async_at_cta_end(Cta *c) {
    struct AsyncQueue *q = c->cluster->async;
    for (int i = 0; i < c->nwarps; i++)
        while (c->warp[i].copies->arrivals && step_cp_async(&c->warp[i], false)) continue;
    for (int i = q->n - 1; i >= 0; i--) {
        Copy *p = q->copy[i];
        bool to_here = p->in->mode != STORE && p->ctas >> c->rank & 1;
        if (p->from == c && p->in->mode == SHARED_COPY)
            ptx_finding(p->warp, p->in, LANE_BIT(p->lane), NULL,
                        "this copy may still read shared memory of its CTA when that ends");
        if (p->from == c || to_here) do_copy(c->cluster, i, p->rows);
    }
    for (int i = 0; i < c->mbarriers->n; i++) {
        const Mbarrier *b = c->mbarriers->barrier[i];
        Warp *w = &c->warp[0];
        if (!b->live) continue;
        const Ins *copy = b->copy.in ? b->copy.in : b->init.in,
                  *expect = b->expect.in ? b->expect.in : b->init.in;
        if (b->tx > 0)
            ptx_finding(w, expect, ALL_LANES, &b->copy,
                        "mbarrier 0x%x: %d bytes expected have not been copied when the CTA ends", b->offset,
                        b->tx);
        else if (b->tx < 0)
            ptx_finding(
                w, copy, ALL_LANES, &b->expect,
                "mbarrier 0x%x: when the CTA ends, %d bytes more have been copied than expect_tx announced",
                b->offset, -b->tx);
        else if (b->copied > b->observed)
            ptx_finding(w, copy, ALL_LANES, &b->init,
                        "mbarrier 0x%x: nobody waited for phase %u, which this copy took part in, before the "
                        "CTA ended",
                        b->offset, b->copied - b->first - 1);
    }
    for (int i = 0; i < c->nwarps; i++) {
        Warp *w = &c->warp[i], *lead = &c->warp[i & ~3];
        if (w->bulk->setmaxnregs == lead->bulk->setmaxnregs) continue;
        const Ins *in = w->bulk->setmaxnreg ? w->bulk->setmaxnreg : lead->bulk->setmaxnreg;
        ptx_finding(w, in, ALL_LANES, NULL,
                    "warps %d and %d of one warpgroup executed %d and %d setmaxnreg instructions: all "
                    "warps of a warpgroup must execute the same",
                    lead->id, w->id, lead->bulk->setmaxnregs, w->bulk->setmaxnregs);
    }
}

void ptx_async_describe_wait(const Warp *w, const Ins *in, u32 m, char *text, size_t bytes) {
    Warp *warp = (Warp *)(uintptr_t)w;
    u32 lane = (u32)ptx_first_lane(m);
    *text = 0;
    if (in->run == run_wait) {
        u32 offset;
        Cta *c = ptx_shared_target(warp->cta, (u32)address_of(warp, &in->op[1], lane), &offset);
        const Mbarrier *b = c ? find_mbarrier(c, offset) : NULL;
        if (!b) return;
        char place[300];
        ptx_place_text(w->cta->grid->kernel, b->init.in->place, place, sizeof place);
        snprintf(
            text, bytes,
            "mbarrier 0x%x: phase %u, %u of %u arrivals pending, %d bytes outstanding (initialised at %s)",
            offset, b->phase - b->first, b->pending, b->expected, b->tx, place);
    } else if (in->run == run_bulk_wait)
        snprintf(text, bytes, "bulk copies: %d in flight in the cluster", w->cta->cluster->async->n);
    else if (in->run == run_setmaxnreg)
        snprintf(text, bytes,
                 "registers: has %d per thread, wants %u, and the CTA's pool holds %d for %d threads",
                 w->registers, in->aux[0], w->cta->register_pool / LANES, LANES);
    else if (in->run == run_grid_wait)
        snprintf(text, bytes, "the end of the primary grid");
}

/* ---- decoders ------------------------------------------------------------------------------------------ */

/* Shared addresses are 32-bit or, generic ones always, 64-bit registers. */
static bool use_shared(Text *t, Ins *in, int i) {
    bool is64 = i < t->nops &&
                (t->op[i].kind == KIND_R64 || (in->space == SPACE_GENERIC && t->op[i].kind != KIND_R32));
    return i < t->nops && t->op[i].address && ptx_use_address(t, in, i, is64);
}
static bool use_global(Text *t, Ins *in, int i) {
    return i < t->nops && t->op[i].address && ptx_use_address(t, in, i, true);
}

static u8 shared_space(Text *t) {
    static const char *const names[] = {"shared", "shared::cta", "shared::cluster", NULL};
    int i = ptx_mod_of(t, names);
    return (u8)(i < 0 ? SPACE_GENERIC : i < 2 ? SPACE_SHARED : SPACE_CLUSTER);
}

/* L2::cache_hint adds an operand at the end: a policy, which changes nothing here but must be there. */
static bool use_policy(Text *t, Ins *in, int i) {
    return !ptx_mod(t, "L2::cache_hint") ? i == t->nops : i + 1 == t->nops && ptx_use64(t, in, i);
}

static bool decode_mbarrier(Text *t, Ins *in) {
    static const char *const names[] = {"init",      "inval",    "arrive",        "arrive_drop",
                                        "test_wait", "try_wait", "pending_count", NULL};
    enum { INIT, INVAL, ARRIVE, DROP, TEST, TRY, PENDING };
    int what = ptx_mod_of(t, names);
    bool expects = ptx_mod(t, "expect_tx"), completes = ptx_mod(t, "complete_tx"),
         parity = ptx_mod(t, "parity");
    bool relaxed = ptx_mod(t, "relaxed"), releases = ptx_mod(t, "release"), acquires = ptx_mod(t, "acquire");
    bool scope = ptx_mod(t, "cta") || ptx_mod(t, "cluster");
    in->space = shared_space(t);
    in->unit = UNIT_BARRIER;
    if (!ptx_mod(t, "b64")) return false;
    if ((relaxed || releases || acquires) != scope) return false;
    if (completes && (expects || what >= 0)) return false;
    if (parity && what != TEST && what != TRY) return false;
    if (acquires && what != TEST && what != TRY) return false;
    if (releases && what != ARRIVE && what != DROP) return false;
    switch (what) {
    case INIT: in->run = run_init; return t->nops == 2 && use_shared(t, in, 0) && ptx_use32(t, in, 1);
    case INVAL: in->run = run_inval; return t->nops == 1 && use_shared(t, in, 0);
    case PENDING:
        in->run = run_pending_count, in->ndst = 1;
        return t->nops == 2 && ptx_use32(t, in, 0) && ptx_use64(t, in, 1);
    case ARRIVE:
    case DROP:
        in->run = run_arrive, in->ndst = 1;
        in->mode = (u8)(ARRIVES | (what == DROP ? DROPS : 0) | (expects ? EXPECTS : 0) |
                        (relaxed ? 0 : RELEASES) | (ptx_mod(t, "noComplete") ? NO_COMPLETE : 0));
        in->aux[0] = t->nops == 3;
        if (t->nops < 2 || t->nops > 3 || (t->nops == 2 && in->mode & (EXPECTS | NO_COMPLETE))) return false;
        return ptx_use_sink(t, in, 0) && use_shared(t, in, 1) && (t->nops == 2 || ptx_use32(t, in, 2));
    case TEST:
    case TRY:
        in->run = run_wait, in->ndst = 1, in->flags |= what == TEST ? INS_YIELDS : 0;
        in->mode = (u8)((parity ? WAITS_PARITY : 0) | (what == TRY ? WAITS_BLOCKING : 0) |
                        (relaxed ? WAITS_RELAXED : 0));
        return t->nops >= 3 && t->nops <= (what == TRY ? 4 : 3) && ptx_use_pred(t, in, 0) &&
               use_shared(t, in, 1) && (parity ? ptx_use32(t, in, 2) : ptx_use64(t, in, 2)) &&
               (t->nops == 3 || ptx_use32(t, in, 3));
    default: /* expect_tx and complete_tx alone: relaxed */
        in->run = run_arrive, in->mode = expects ? EXPECTS : COMPLETES, in->aux[0] = 1;
        return expects != completes && t->nops == 2 && use_shared(t, in, 0) && ptx_use32(t, in, 1);
    }
}

/* cp.async and what belongs to it */
static bool decode_cp_async(Text *t, Ins *in) {
    s64 size, n;
    in->space = SPACE_SHARED;
    if (ptx_mod(t, "commit_group")) return in->run = run_commit, t->nops == 0;
    if (ptx_mod(t, "wait_all")) return in->run = run_wait_group, in->mode = 1, t->nops == 0;
    if (ptx_mod(t, "wait_group")) {
        if (t->nops != 1 || !ptx_immediate(t, 0, &n) || n < 0) return false;
        return in->run = run_wait_group, in->aux[0] = (u32)n, true;
    }
    if (ptx_mod(t, "mbarrier")) {
        in->run = run_cp_async_arrive, in->unit = UNIT_BARRIER;
        if (!ptx_mod(t, "arrive") || !ptx_mod(t, "b64")) return false;
        in->mode = ptx_mod(t, "noinc"), in->space = shared_space(t);
        return in->space != SPACE_CLUSTER && t->nops == 1 && use_shared(t, in, 0);
    }
    bool all_levels = ptx_mod(t, "ca"), l2_only = !all_levels && ptx_mod(t, "cg");
    if ((!all_levels && !l2_only) || shared_space(t) != SPACE_SHARED || !ptx_mod(t, "global")) return false;
    if (t->nops < 3 || !ptx_immediate(t, 2, &size)) return false;
    if (size != 16 && (l2_only || (size != 4 && size != 8))) return false;
    in->run = run_cp_async, in->width = (u8)size, in->unit = UNIT_GLOBAL;
    if (!ptx_mod(t, "L2::64B") && !ptx_mod(t, "L2::128B")) ptx_mod(t, "L2::256B"); /* prefetch sizes */
    if (!use_shared(t, in, 0) || !use_global(t, in, 1)) return false;
    int i = 3;
    if (i < t->nops && t->op[i].kind == KIND_PRED) {
        in->mode = IGNORE_SOURCE;
        if (!ptx_use_pred(t, in, i++)) return false;
    } else if (i < t->nops && t->op[i].kind != KIND_R64) {
        in->mode = SOURCE_SIZE;
        if (!ptx_use32(t, in, i++)) return false;
    }
    return use_policy(t, in, i);
}

/* A reduction's operation and type, if this is one. */
static bool decode_reduction(Text *t, Ins *in, bool to_global, bool tensor) {
    in->n = (u16)(ptx_mod_of(t, reductions) + 1);
    if (in->n == NO_REDUCTION) return false;
    if (tensor) return true; /* the type is the map's */
    in->type = (u8)ptx_type(t);
    bool half = in->type == T_F16 || in->type == T_BF16;
    if (ptx_mod(t, "noftz") != (half && in->n == RED_ADD)) return false;
    return types_of((Reduction)in->n, to_global, false) & TYPE(in->type);
}

/* cp.async.bulk, cp.reduce.async.bulk, and their .tensor forms. */
static bool decode_bulk(Text *t, Ins *in, bool reduces) {
    static const char *const dims[] = {"1d", "2d", "3d", "4d", "5d", NULL};
    s64 n;
    in->unit = UNIT_TMA, in->space = SPACE_SHARED;
    if (ptx_mod(t, "commit_group")) return in->run = run_bulk_commit, !reduces && t->nops == 0;
    if (ptx_mod(t, "wait_group")) {
        if (reduces || t->nops != 1 || !ptx_immediate(t, 0, &n) || n < 0) return false;
        in->run = run_bulk_wait, in->aux[1] = (u32)n, in->aux[0] = ptx_mod(t, "read") ? READS_ONLY : 0;
        return true;
    }
    in->run = run_bulk;
    bool prefetch = ptx_mod(t, "prefetch"), tensor = ptx_mod(t, "tensor");
    if (tensor) {
        int dim = ptx_mod_of(t, dims);
        if (dim < 0) return false;
        in->k = (u16)(dim + 1), in->aux[0] = TENSOR;
        ptx_mod(t, "tile");
    }
    int i = 0, map_at;
    if (prefetch) {
        in->mode = PREFETCH;
        if (reduces || !ptx_mod(t, "L2") || !ptx_mod(t, "global")) return false;
        if (!use_global(t, in, i++)) return false;
        for (int d = 0; d < in->k; d++)
            if (!ptx_use32(t, in, i++)) return false;
        return (tensor || ptx_use32(t, in, i++)) && use_policy(t, in, i);
    }
    /* destination and source spaces, in that order */
    const char *space[2] = {NULL, NULL};
    for (int j = 0, found = 0; j < t->nmods && found < 2; j++)
        if (!t->used[j] && (!strcmp(t->mod[j], "global") || !strncmp(t->mod[j], "shared::", 8)))
            space[found++] = t->mod[j], t->used[j] = true;
    if (!space[1]) return false;
    bool to_global = !strcmp(space[0], "global"), to_cluster = !strcmp(space[0], "shared::cluster");
    bool from_global = !strcmp(space[1], "global"), from_shared = !strcmp(space[1], "shared::cta");
    if (to_global ? !from_shared : !from_global && !(to_cluster && from_shared)) return false;
    in->mode = to_global ? STORE : from_global ? LOAD : SHARED_COPY;
    in->space = to_cluster ? SPACE_CLUSTER : SPACE_SHARED;
    if (!ptx_mod(t, to_global ? "bulk_group" : "mbarrier::complete_tx::bytes")) return false;
    if (reduces && (in->mode == LOAD || !decode_reduction(t, in, to_global, tensor))) return false;
    if (tensor && in->mode == SHARED_COPY) return false;
    if (in->mode == LOAD && to_cluster && ptx_mod(t, "multicast::cluster")) in->aux[0] |= MULTICAST;
    map_at = to_global ? 0 : 1;
    for (i = 0; i < 2; i++) {
        if (i > t->nops - 1) return false;
        int at = i < map_at || !tensor ? i : i == map_at ? map_at : map_at + 1 + in->k;
        bool global = i == map_at && (to_global || from_global);
        if (!(global ? use_global(t, in, at) : use_shared(t, in, at))) return false;
        for (int d = 0; i == map_at && d < in->k; d++)
            if (!ptx_use32(t, in, at + 1 + d)) return false;
    }
    i += in->k;
    if (!tensor && !ptx_use32(t, in, i++)) return false;
    if (!to_global && !use_shared(t, in, i++)) return false;
    if (in->aux[0] & MULTICAST && !ptx_use_bits(t, in, i++, 16)) return false;
    return use_policy(t, in, i);
}

static bool decode_cp(Text *t, Ins *in) {
    bool reduces = ptx_mod(t, "reduce");
    if (!ptx_mod(t, "async")) return false;
    if (ptx_mod(t, "bulk")) return decode_bulk(t, in, reduces);
    return !reduces && decode_cp_async(t, in);
}

/* st.async{.weak} and red.async.relaxed.cluster to shared::cluster */
static bool decode_store_async(Text *t, Ins *in) {
    static const char *const vectors[] = {"v2", "v4", NULL};
    bool reduces = !strcmp(t->mod[0], "red");
    if (!ptx_mod(t, "async") || !ptx_mod(t, "mbarrier::complete_tx::bytes")) return false;
    if (reduces ? !ptx_mod(t, "relaxed") || !ptx_mod(t, "cluster") : (ptx_mod(t, "weak"), false))
        return false;
    in->space = shared_space(t);
    if (in->space == SPACE_SHARED) return false;
    in->run = run_store_async, in->mode = VALUE, in->unit = UNIT_SHARED;
    if (reduces) {
        in->n = (u16)(ptx_mod_of(t, reductions) + 1);
        in->type = (u8)ptx_type(t), in->vector = 1;
        u32 types = in->n == NO_REDUCTION ? 0
                    : in->n == RED_ADD    ? TYPE(T_U32) | TYPE(T_S32) | TYPE(T_U64) | TYPE(T_S64)
                                          : types_of((Reduction)in->n, false, false);
        if (!(types & TYPE(in->type))) return false;
    } else {
        int vector = ptx_mod_of(t, vectors);
        in->vector = (u8)(vector < 0 ? 1 : 2 << vector);
        in->type = (u8)ptx_type(t);
        u32 types = TYPE(T_B32) | TYPE(T_U32) | TYPE(T_S32) | TYPE(T_F32) | TYPE(T_B64) | TYPE(T_U64) |
                    TYPE(T_S64) | TYPE(T_F64);
        if (!(types & TYPE(in->type)) || in->vector * ptx_type_bits((Type)in->type) > 128) return false;
    }
    if (t->nops != in->vector + 2 || !use_shared(t, in, 0)) return false;
    for (int i = 1; i <= in->vector; i++)
        if (!ptx_use_bits(t, in, i, ptx_type_bits((Type)in->type))) return false;
    return use_shared(t, in, in->vector + 1);
}

static bool decode_setmaxnreg(Text *t, Ins *in) {
    s64 n;
    bool inc = ptx_mod(t, "inc");
    if (!inc && !ptx_mod(t, "dec")) return false;
    if (!ptx_mod(t, "sync") || !ptx_mod(t, "aligned") || !ptx_mod(t, "u32")) return false;
    if (t->nops != 1 || !ptx_immediate(t, 0, &n) || n < 24 || n > 256 || n % 8) return false;
    in->run = run_setmaxnreg, in->mode = inc ? REGISTERS_INC : 0, in->aux[0] = (u32)n,
    in->flags |= INS_ALIGNED;
    return true;
}

static bool decode_griddepcontrol(Text *t, Ins *in) {
    in->run = ptx_mod(t, "wait") ? run_grid_wait : ptx_mod(t, "launch_dependents") ? run_nothing : NULL;
    return in->run && t->nops == 0;
}

const Opcode ptx_async_opcodes[] = {
    {"cp", decode_cp},
    {"mbarrier", decode_mbarrier},
    {"st", decode_store_async},
    {"red", decode_store_async},
    {"setmaxnreg", decode_setmaxnreg},
    {"griddepcontrol", decode_griddepcontrol},
    {NULL, NULL},
};
