/* scheduler.c - grids, clusters, CTAs and warps: who runs next, and the instructions that decide it (branches, exits,
 * CTA and cluster barriers).
 *
 * ptx_run() keeps some clusters of the grid resident and gives their warps turns. A turn (run_warp) executes
 * instructions for groups of lanes: the lanes of a warp that are at the same pc. The group with the lowest pc goes
 * first and groups that meet become one, which reconverges structured code without analysing it. A handler that returns
 * WAIT leaves its group where it is; when nobody can go on, the async engines get a chance, then the grid that
 * this one depends on, then more clusters; if that does not help it is a deadlock, which is reported with the state
 * of every warp.
 *
 * Schedules: IN_ORDER runs a warp until it waits and async work at once. LAZY starts with the last cluster and does async
 * work only when no warp can run: a missing wait shows. RANDOM shuffles clusters and warps, cuts turns short and does
 * async work at any moment: a missing barrier shows.
 */
#include "machine.h"
#include <stdarg.h>
#include <stdlib.h>
#include <time.h>

enum {
    LONG_TURN =
        1 << 14, /* instructions in a turn: long enough to be cheap, short enough for a warp that spins */
    ADMIT_AFTER =
        1 << 20, /* instructions without an end of any cluster: it may wait for one that is not resident */
    POLLS = 100000,    /* rounds in which warps do nothing but poll and yield: they wait for ever */
    FORCE_ASYNC = 256, /* rounds: with warps that poll, LAZY would put async work off for ever */
    SLOW_FOR = 1 << 16, /* instructions of the grid while the same warp of a CTA is slow */
    ALL_THREADS = -1   /* Barrier.expected: all threads of the CTA that have not exited */
};

u32 ptx_random(Grid *g, u32 below) { /* splitmix64 */
    u64 z = (g->rng += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (u32)(((z ^ z >> 31) >> 32) * below >> 32);
}

void ptx_wake(Warp *w) {
    for (int i = 0; i < w->ngroups; i++) w->group[i].blocked = false;
}

void ptx_wake_cluster(Cluster *c) {
    for (int i = 0; i < c->nctas; i++)
        for (int j = 0; j < c->cta[i].nwarps; j++) ptx_wake(&c->cta[i].warp[j]);
}

/* ---- CTA barriers ------------------------------------------------------------------------------------------------ */

enum { SYNC, ARRIVE, RED_POPC, RED_AND, RED_OR }; /* Ins.mode */

static int live_threads(const Cta *c) {
    int n = 0;
    for (int i = 0; i < c->nwarps; i++) n += c->warp[i].live ? LANES : 0; /* a warp counts as 32 threads */
    return n;
}

static void complete_barrier(Cta *c, Barrier *b) {
    for (int i = 0; i < c->nwarps; i++) {
        Warp *w = &c->warp[i];
        if (!(b->waiting >> i & 1)) continue;
        const Ins *in = w->barrier_ins;
        if (in->mode == RED_POPC) FOR_LANES(w->live, ptx_r32(w, &in->op[0]), (u32)b->reduced);
        if (in->mode == RED_AND)
            ptx_set_pred(w, &in->op[0], w->live, b->reduced == b->arrived ? ALL_LANES : 0);
        if (in->mode == RED_OR) ptx_set_pred(w, &in->op[0], w->live, b->reduced ? ALL_LANES : 0);
        ptx_acquire(w, w->live, &b->know);
        w->at_barrier = 0;
    }
    ptx_knowledge_clear(&b->know);
    b->arrived = b->expected = b->reduced = 0, b->waiting = 0, b->first = NULL;
}

static void barrier_if_complete(Cta *c, Barrier *b) {
    if (b->first && b->arrived >= (b->expected == ALL_THREADS ? live_threads(c) : b->expected))
        complete_barrier(c, b);
}

/* bar.sync, bar.arrive, bar.red: op = [d] id [count] [predicate]; aux[0] index of id, aux[1] of count, aux[2] of the
 * predicate, 0 for none. After the last arrival all that any of the warps did before is visible to the waiting ones. */
static Outcome run_bar(Warp *w, const Ins *in, u32 m) {
    Cta *c = w->cta;
    int first = ptx_first_lane(m);
    u32 id = ptx_r32(w, &in->op[in->aux[0]])[first];
    int count = in->aux[1] ? (int)ptx_r32(w, &in->op[in->aux[1]])[first] : ALL_THREADS;
    if (id > 15) ptx_fatal(w, in, m, NULL, "barrier %u: there are barriers 0 to 15", id);
    EACH_LANE(l, m) {
        if (ptx_r32(w, &in->op[in->aux[0]])[l] != id)
            ptx_fatal(w, in, m, NULL, "lanes of a warp name different barriers (%u and %u)", id,
                      ptx_r32(w, &in->op[in->aux[0]])[l]);
    }
    if (count != ALL_THREADS && (count <= 0 || count % LANES))
        ptx_fatal(w, in, m, NULL, "barrier %u: the thread count %d is not a positive multiple of 32", id,
                  count);
    if (count > c->nwarps * LANES)
        ptx_fatal(w, in, m, NULL, "barrier %u waits for %d threads, the CTA has %d", id, count,
                  c->nwarps * LANES);
    Barrier *b = &c->barrier[id];
    Party other = {b->first, c->cluster->serial, 0, LANES};
    int op = in->mode >= RED_POPC ? in->mode : 0;
    if (!b->first)
        b->first = in, b->expected = count, b->op = op;
    else if (b->expected != count)
        ptx_fatal(w, in, m, &other, "barrier %u: %d threads expected here, %d by the other warp (-1: all)",
                  id, count, b->expected);
    else if (b->op != op)
        ptx_fatal(w, in, m, &other, "barrier %u: .red and plain arrivals are mixed", id);
    if (count != ALL_THREADS && b->arrived + LANES > count)
        ptx_fatal(w, in, m, &other, "barrier %u: more than the %d expected threads arrive", id, count);

    ptx_sync_warp(w, w->live);
    ptx_release(w, w->live, &b->know);
    b->arrived += LANES;
    if (in->aux[2]) b->reduced += __builtin_popcount(ptx_pred(w, &in->op[in->aux[2]]) & m);
    if (in->mode == RED_AND)
        b->reduced += LANES - __builtin_popcount(m); /* lanes that are not there do not say no */
    if (in->mode != ARRIVE) {
        b->waiting |= (u64)1 << w->id;
        w->at_barrier = (int)id + 1, w->barrier_ins = in;
    }
    barrier_if_complete(c, b);
    return RAN;
}

static bool decode_bar(Text *t, Ins *in) {
    static const char *const kinds[] = {"sync", "arrive", "red", NULL};
    ptx_mod(t, "cta");
    int kind = ptx_mod_of(t, kinds);
    if (kind < 0) return false;
    bool aligned = ptx_mod(t, "aligned");
    (void)
        aligned; /* without it the lanes may come one by one; here they come together or the deadlock is reported */
    in->run = run_bar, in->unit = UNIT_BARRIER, in->flags = INS_ALIGNED, in->mode = (u8)kind;
    int i = 0;
    if (kind == 2) {
        static const char *const ops[] = {"popc", "and", "or", NULL};
        int op = ptx_mod_of(t, ops);
        Type type = ptx_type(t);
        if (op < 0 || type != (op ? T_PRED : T_U32)) return false;
        in->mode = (u8)(RED_POPC + op), in->ndst = 1;
        if (op ? !ptx_use_pred(t, in, i++) : !ptx_use32(t, in, i++)) return false;
    }
    in->aux[0] = in->nops;
    if (!ptx_use32(t, in, i++)) return false;
    if (i < t->nops - (kind == 2)) {
        in->aux[1] = in->nops;
        if (!ptx_use32(t, in, i++)) return false;
    }
    if (kind == 2) {
        in->aux[2] = in->nops;
        if (!ptx_use_pred(t, in, i++)) return false;
    }
    return i == t->nops && (kind != 1 || in->aux[1]);
}

/* ---- cluster barrier ----------------------------------------------------------------------------------------------- */

static void cluster_barrier_if_complete(Cluster *c) {
    u32 threads = 0;
    for (int i = 0; i < c->nctas; i++)
        for (int j = 0; j < c->cta[i].nwarps; j++) threads += (u32)__builtin_popcount(c->cta[i].warp[j].live);
    if (!c->barrier_arrived || c->barrier_arrived < threads) return;
    c->barrier_arrived = 0;
    c->barrier_generation++;
    ptx_knowledge_copy(&c->barrier_done, &c->barrier_know);
    ptx_knowledge_clear(&c->barrier_know);
    ptx_wake_cluster(c);
}

/* A relaxed arrival hands on only what a fence before it released: it is a relaxed write to, and the wait an acquiring
 * read of, this address behind all shared memory of rank 0. */
#define CLUSTER_BARRIER (SHARED_WINDOW | (u64)1 << SHARED_RANK_SHIFT | 0xfffff8)

static Outcome run_cluster_arrive(Warp *w, const Ins *in, u32 m) {
    Cluster *c = w->cta->cluster;
    if (w->cluster_arrived & m)
        ptx_fatal(w, in, m & w->cluster_arrived, NULL,
                  "barrier.cluster.arrive twice without barrier.cluster.wait");
    if (m == w->live) ptx_sync_warp(w, m);
    if (in->mode) ptx_sync_write(w, m, CLUSTER_BARRIER, RELAXED);
    else ptx_release(w, m, &c->barrier_know);
    w->cluster_arrived |= m;
    w->cluster_generation = c->barrier_generation;
    c->barrier_arrived += (u32)__builtin_popcount(m);
    cluster_barrier_if_complete(c);
    return RAN;
}

static Outcome run_cluster_wait(Warp *w, const Ins *in, u32 m) {
    Cluster *c = w->cta->cluster;
    if (m & ~w->cluster_arrived)
        ptx_fatal(w, in, m & ~w->cluster_arrived, NULL,
                  "barrier.cluster.wait without barrier.cluster.arrive");
    if (c->barrier_generation == w->cluster_generation) return WAIT;
    w->cluster_arrived &= ~m;
    ptx_acquire(w, m, &c->barrier_done);
    ptx_sync_read(w, m, CLUSTER_BARRIER, ACQUIRE);
    if (m == w->live) ptx_sync_warp(w, m);
    return RAN;
}

static bool decode_barrier(Text *t, Ins *in) {
    if (!ptx_mod(t, "cluster")) return decode_bar(t, in);
    static const char *const kinds[] = {"arrive", "wait", NULL};
    int kind = ptx_mod_of(t, kinds);
    if (kind < 0 || t->nops) return false;
    if (kind == 0 && ptx_mod(t, "relaxed"))
        in->mode = 1;
    else
        ptx_mod(t, kind ? "acquire" : "release");
    if (ptx_mod(t, "aligned")) in->flags = INS_ALIGNED;
    in->run = kind ? run_cluster_wait : run_cluster_arrive, in->unit = UNIT_BARRIER;
    return true;
}

/* ---- branches, exits, calls ------------------------------------------------------------------------------------------ */

static Outcome run_bra(Warp *w, const Ins *in, u32 m) {
    Group *g = &w->group[w->current];
    if (g->lanes == m) {
        g->pc = in->target;
        return JUMPED;
    }
    g->lanes &= ~m, g->pc++;
    w->group[w->ngroups++] = (Group){in->target, m, false};
    return JUMPED;
}

static bool decode_bra(Text *t, Ins *in) {
    ptx_mod(t, "uni");
    in->run = run_bra, in->unit = UNIT_BRANCH, in->target = -2;
    return t->nops == 1 && t->op[0].kind == KIND_LABEL;
}

void ptx_exit_lanes(Warp *w, u32 m) {
    Cta *c = w->cta;
    w->live &= ~m;
    if (!w->live) {
        c->alive--;
        for (int i = 0; i < 16; i++) barrier_if_complete(c, &c->barrier[i]);
    }
    cluster_barrier_if_complete(c->cluster);
}

static Outcome run_exit(Warp *w, const Ins *in, u32 m) {
    ptx_async_at_exit(w, in, m);
    Group *g = &w->group[w->current];
    g->lanes &= ~m, g->pc++;
    if (!g->lanes) *g = w->group[--w->ngroups];
    ptx_exit_lanes(w, m);
    return JUMPED;
}

static bool decode_exit(Text *t, Ins *in) {
    ptx_mod(t, "uni");
    in->run = run_exit, in->unit = UNIT_BRANCH;
    return t->nops == 0;
}

static Outcome run_trap(Warp *w, const Ins *in, u32 m) {
    ptx_fatal(w, in, m, NULL, "%s executed", in->opcode);
}
static bool decode_trap(Text *t, Ins *in) {
    in->run = run_trap;
    return t->nops == 0;
}

/* The two functions that CUDA's printf() and assert() become; others are refused: device functions must be inlined.
 * aux[i]: offset in local memory of what `call` names, in its order (vprintf: result, format, arguments). */
static u64 call_argument(const Warp *w, const Ins *in, int i, u32 lane) {
    u32 room = w->cta->grid->kernel->local_bytes;
    u64 v = 0;
    if ((u64)in->aux[i] + sizeof v <= room) memcpy(&v, w->local + (size_t)lane * room + in->aux[i], sizeof v);
    return v;
}

/* The string at an address of device memory; NULL if there is none that ends. */
static const char *device_string(u64 address) {
    const Allocation *a = ptx_find_allocation(address, 1);
    const char *s = (const char *)(uintptr_t)address;
    return a && memchr(s, 0, a->bytes - (address - (u64)(uintptr_t)a->memory)) ? s : NULL;
}

/* The next of a lane's printf arguments, which lie naturally aligned in its local memory. */
static u64 printf_argument(const Warp *w, u32 lane, u64 *at, u32 size) {
    u32 room = w->cta->grid->kernel->local_bytes;
    u64 bits = 0;
    *at = (*at + size - 1) / size * size;
    if (*at + size <= room) memcpy(&bits, w->local + (size_t)lane * room + *at, size);
    *at += size;
    return bits;
}

/* Prints one lane's vprintf(format, arguments). */
static void print_lane(Warp *w, const Ins *in, u32 lane) {
    u64 format = call_argument(w, in, 1, lane), at = call_argument(w, in, 2, lane) & ~WINDOW_MASK;
    const char *f = device_string(format);
    if (!f) ptx_fatal(w, in, LANE_BIT(lane), NULL, "printf: its format is no string");
    for (; *f; f++) {
        char spec[64] = "%";
        size_t n = 1;
        if (*f != '%') {
            putchar(*f);
            continue;
        }
        for (f++; *f && strchr("-+ #0123456789.hlzjt*", *f) && n < sizeof spec - 16; f++)
            if (*f == '*') n += (size_t)sprintf(spec + n, "%d", (int)printf_argument(w, lane, &at, 4));
            else spec[n++] = *f;
        if (!*f) return; /* the format ends in the middle of a conversion */
        spec[n] = *f;
        bool wide = strpbrk(spec, "ljzt");
        double real;
        if (*f == '%') putchar('%');
        else if (strchr("aAeEfFgG", *f)) {
            u64 bits = printf_argument(w, lane, &at, 8);
            memcpy(&real, &bits, 8);
            printf(spec, real);
        } else if (*f == 's') {
            const char *text = device_string(printf_argument(w, lane, &at, 8));
            if (wide) ptx_fatal(w, in, LANE_BIT(lane), NULL, "printf: unsupported conversion %s", spec);
            printf(spec, text ? text : "(not a string)");
        } else if (wide || *f == 'p') printf(spec, printf_argument(w, lane, &at, 8));
        else if (strchr("diouxXc", *f)) printf(spec, (u32)printf_argument(w, lane, &at, 4));
        else fputs(spec, stdout);
    }
}

static Outcome run_printf(Warp *w, const Ins *in, u32 m) {
    EACH_LANE(l, m) {
        u32 zero = 0;
        print_lane(w, in, l);
        if ((u64)in->aux[0] + sizeof zero > w->cta->grid->kernel->local_bytes) continue;
        memcpy(w->local + (size_t)l * w->cta->grid->kernel->local_bytes + in->aux[0], &zero, sizeof zero);
        for (u32 b = 0; b < 4; b++) {
            size_t bit = (size_t)l * w->cta->grid->kernel->local_bytes + in->aux[0] + b;
            ((u8 *)w->local_init)[bit / 8] |= (u8)(1 << bit % 8);
        }
    }
    fflush(stdout);
    return RAN;
}

static Outcome run_assert(Warp *w, const Ins *in, u32 m) { /* message, file, line, function */
    const char *text[4] = {"?", "?", "?", "?"};
    for (int i = 0; i < 4; i++) {
        u64 at = call_argument(w, in, i, (u32)ptx_first_lane(m));
        if (i != 2 && device_string(at)) text[i] = device_string(at);
    }
    ptx_fatal(w, in, m, NULL, "assertion failed: %s, %s:%u in %s", text[0], text[1],
              (u32)call_argument(w, in, 2, (u32)ptx_first_lane(m)), text[3]);
}

static bool decode_call(Text *t, Ins *in) {
    const char *function = NULL;
    int n = 0;
    ptx_mod(t, "uni");
    for (int i = 0; i < t->nops; i++) {
        const Operand *o = &t->op[i];
        if (o->kind != KIND_LABEL) return false;
        if (o->variable == NO_VARIABLE)
            function = o->name;
        else if (o->space != SPACE_LOCAL)
            return false;
        else if (n < 4)
            in->aux[n++] = (u32)o->value;
    }
    in->run = !function                           ? NULL
              : !strcmp(function, "vprintf")      ? run_printf
              : !strcmp(function, "__assertfail") ? run_assert
                                                  : NULL;
    return in->run && n >= 3;
}

static Outcome run_nothing(Warp *w, const Ins *in, u32 m) {
    (void)w, (void)in, (void)m;
    return RAN;
}
static bool decode_nanosleep(Text *t, Ins *in) {
    in->run = run_nothing, in->flags = INS_YIELDS;
    return ptx_type(t) == T_U32 && t->nops == 1 && ptx_use32(t, in, 0);
}

const Opcode ptx_control_opcodes[] = {
    {"call", decode_call}, {"bra", decode_bra},    {"ret", decode_exit},
    {"exit", decode_exit}, {"bar", decode_bar},    {"barrier", decode_barrier},
    {"trap", decode_trap}, {"brkpt", decode_trap}, {"nanosleep", decode_nanosleep},
    {NULL, NULL},
};

/* ---- the warp: one turn -------------------------------------------------------------------------------------------------- */

/* The group to run: the lowest pc among those that do not wait; -1 none. Groups at the same pc become one. */
static int pick_group(Warp *w) {
    for (int i = 0; i < w->ngroups; i++)
        for (int j = i + 1; j < w->ngroups;)
            if (w->group[i].pc == w->group[j].pc) {
                w->group[i].lanes |= w->group[j].lanes;
                w->group[i].blocked = false;
                w->group[j] = w->group[--w->ngroups];
            } else
                j++;
    int best = -1;
    for (int i = 0; i < w->ngroups; i++)
        if (!w->group[i].blocked && (best < 0 || w->group[i].pc < w->group[best].pc)) best = i;
    return best;
}

/* Another group is at `pc` or behind it and can run: time to choose again. */
static bool meets_other_group(const Warp *w, int current, int pc) {
    for (int i = 0; i < w->ngroups; i++)
        if (i != current && (w->group[i].pc == pc || (w->group[i].pc < pc && !w->group[i].blocked)))
            return true;
    return false;
}

/* Lanes that must be here before a .sync or .aligned instruction may run. */
static u32 lanes_needed(Warp *w, const Ins *in, u32 m) {
    if (in->flags & INS_ALIGNED) return w->live;
    u32 need = 0;
    const u32 *member = ptx_r32(w, &in->op[(int)in->member]);
    EACH_LANE(l, m) need |= member[l];
    return need & w->live;
}

static bool inputs_hold_values(const Warp *w, const Ins *in, u32 m) {
    u32 missing = 0;
    for (int i = in->ndst; i < in->nops; i++) {
        const Operand *o = &in->op[i];
        if (o->kind == KIND_PRED)
            missing |= ~w->pred_init[o->row];
        else if (o->kind != KIND_SINK)
            missing |= ~w->reg_init[o->row];
    }
    return !(missing & m);
}

/* Marks destinations as holding values; a copy (mov) holds one where all its sources do. */
static void mark_outputs(Warp *w, const Ins *in, u32 m) {
    u32 from = ALL_LANES;
    if (in->flags & INS_COPIES)
        for (int i = in->ndst; i < in->nops; i++) {
            const Operand *o = &in->op[i];
            if (o->kind == KIND_PRED)
                from &= w->pred_init[o->row];
            else if (o->kind != KIND_SINK)
                from &= w->reg_init[o->row];
        }
    for (int i = 0; i < in->ndst; i++) {
        const Operand *o = &in->op[i];
        if (o->kind == KIND_SINK) continue;
        u32 *init = o->kind == KIND_PRED ? &w->pred_init[o->row] : &w->reg_init[o->row];
        *init = (*init & ~m) | (from & m);
    }
}

/* Registers that a wgmma in flight owns may not be touched; a mov of one waits behind it. True: it has been dealt with. */
static bool defer_if_in_flight(Warp *w, const Ins *in, u32 m) {
    for (int i = 0; i < in->nops; i++) {
        const Operand *o = &in->op[i];
        if ((o->kind != KIND_R32 && o->kind != KIND_R64) || !w->reg_flight[o->row]) continue;
        if ((in->flags & INS_COPIES) && ptx_wgmma_defer_move(w, in, m)) return true;
        Party owner = {ptx_wgmma_owner(w, (u32)o->row), w->cta->cluster->serial, (u32)ptx_warp_actor(w),
                       LANES};
        ptx_finding(w, in, m, &owner,
                    "%s a register of a wgmma in flight: wgmma.wait_group is missing before it",
                    i < in->ndst ? "writes" : "reads");
        return false;
    }
    return false;
}

/* Gives a warp a turn of at most `quantum` instructions. True if it got anywhere. */
static bool run_warp(Warp *w, int quantum) {
    Grid *grid = w->cta->grid;
    const Kernel *k = grid->kernel;
    bool progress = false;
    for (int i = 0; i < w->ngroups; i++) w->group[i].blocked = false;
    bool held = w->rotate && w->ngroups > 1;
    if (held) w->group[pick_group(w)].blocked = true; /* it spun through its last turn: the others go first */
    w->rotate = 0;
    while (w->live && !w->at_barrier) {
        int current = pick_group(w);
        if (current < 0 && held && !progress) { /* the others wait for it */
            ptx_wake(w);
            held = false;
            continue;
        }
        if (current < 0) return progress;
        int pc = w->group[current].pc;
        u32 lanes = w->group[current].lanes;
        for (;;) {
            if (w->ngroups > 1 && meets_other_group(w, current, pc)) {
                w->group[current].pc = pc;
                break;
            }
            if (quantum-- <= 0) {
                w->group[current].pc = pc, w->rotate = 1;
                return true;
            }
            Ins *in = &k->code[pc];
            u32 m = lanes;
            if (in->guard >= 0) {
                if (ptx_device.checks && (lanes & ~w->pred_init[in->guard])) ptx_check_inputs(w, in, lanes);
                m &= in->guard_negated ? ~w->pred[in->guard] : w->pred[in->guard];
            }
            if (!m) {
                in->executed++, grid->executed++, ptx_count.warp_instructions++, ptx_count.unit[in->unit]++;
                pc++;
                continue;
            }
            w->current = current;
            w->group[current].pc = pc;
            if (((in->flags & INS_ALIGNED) || in->member >= 0) && (lanes_needed(w, in, m) & ~lanes)) {
                w->group[current].blocked = true; /* until the others come */
                break;
            }
            if (ptx_device.checks && !(in->flags & (INS_COPIES | INS_ANY_INPUT)) &&
                !inputs_hold_values(w, in, m))
                ptx_check_inputs(w, in, m);
            Outcome outcome = RAN;
            if (!(w->in_flight && !(in->flags & INS_ANY_INPUT) && defer_if_in_flight(w, in, m))) {
                outcome = in->run(w, in, m);
                if (k->uses_wgmma && in->ndst && outcome == RAN) ptx_wgmma_note_write(w, in);
            }
            if (outcome == WAIT) {
                w->group[current].blocked = true;
                break;
            }
            progress = true;
            in->executed++, in->lanes += (u32)__builtin_popcount(m);
            grid->executed++, ptx_count.warp_instructions++, ptx_count.unit[in->unit]++;
            ptx_count.thread_instructions += (u32)__builtin_popcount(m);
            if (in->ndst && !(in->flags & INS_OWN_INIT)) mark_outputs(w, in, m);
            if (outcome == JUMPED) {
                if (w->ngroups != 1) break;
                current = 0, pc = w->group[0].pc, lanes = w->group[0].lanes;
                continue;
            }
            pc++;
            if (w->at_barrier || (in->flags & INS_YIELDS)) {
                w->group[current].pc = pc;
                if (w->at_barrier) return true;
                w->group[current].blocked = true; /* the other groups, then the other warps */
                progress = false;
                break;
            }
        }
    }
    return progress;
}

/* ---- clusters: start and end ---------------------------------------------------------------------------------------- */

static u32 special_value(const Warp *w, Special what, u32 lane) {
    const Cta *c = w->cta;
    const Grid *g = c->grid;
    u32 thread = (u32)w->id * LANES + lane, below = LANE_BIT(lane) - 1;
    const u32 *b = g->block, *d = g->dim, *s = g->cluster_dim;
    switch (what) {
    case SR_TID_X: return thread % b[0];
    case SR_TID_Y: return thread / b[0] % b[1];
    case SR_TID_Z: return thread / b[0] / b[1];
    case SR_NTID_X: return b[0];
    case SR_NTID_Y: return b[1];
    case SR_NTID_Z: return b[2];
    case SR_CTAID_X: return c->x;
    case SR_CTAID_Y: return c->y;
    case SR_CTAID_Z: return c->z;
    case SR_NCTAID_X: return d[0];
    case SR_NCTAID_Y: return d[1];
    case SR_NCTAID_Z: return d[2];
    case SR_LANEID: return lane;
    case SR_WARPID: return (u32)w->id;
    case SR_NWARPID: return (u32)(ptx_device.threads_per_sm / LANES);
    case SR_SMID: return (c->cluster->serial * (u32)c->cluster->nctas + (u32)c->rank) % (u32)ptx_device.sms;
    case SR_NSMID: return (u32)ptx_device.sms;
    case SR_LANEMASK_EQ: return LANE_BIT(lane);
    case SR_LANEMASK_LT: return below;
    case SR_LANEMASK_LE: return below | LANE_BIT(lane);
    case SR_LANEMASK_GT: return ~(below | LANE_BIT(lane));
    case SR_LANEMASK_GE: return ~below;
    case SR_CLUSTERID_X: return c->x / s[0];
    case SR_CLUSTERID_Y: return c->y / s[1];
    case SR_CLUSTERID_Z: return c->z / s[2];
    case SR_NCLUSTERID_X: return d[0] / s[0];
    case SR_NCLUSTERID_Y: return d[1] / s[1];
    case SR_NCLUSTERID_Z: return d[2] / s[2];
    case SR_CLUSTER_CTAID_X: return c->x % s[0];
    case SR_CLUSTER_CTAID_Y: return c->y % s[1];
    case SR_CLUSTER_CTAID_Z: return c->z % s[2];
    case SR_CLUSTER_NCTAID_X: return s[0];
    case SR_CLUSTER_NCTAID_Y: return s[1];
    case SR_CLUSTER_NCTAID_Z: return s[2];
    case SR_CLUSTER_CTARANK: return (u32)c->rank;
    case SR_CLUSTER_NCTARANK: return (u32)c->cluster->nctas;
    case SR_IS_EXPLICIT_CLUSTER: return c->cluster->nctas > 1 || g->kernel->cluster[0] != 0;
    case SR_DYNAMIC_SMEM_SIZE: return g->dynamic_shared;
    case SR_TOTAL_SMEM_SIZE: return c->shared_bytes;
    case SR_ENVREG1: return (u32)((u64)g->workspace >> 32);
    case SR_ENVREG2: return (u32)(u64)g->workspace;
    case SR_GRIDID: /* 64 bits: start_warp */
    case SR_COUNT: break;
    }
    return 0;
}

static void start_warp(Cta *c, int id, u32 threads) {
    const Kernel *k = c->grid->kernel;
    Warp *w = &c->warp[id];
    size_t row = LANES * sizeof(u32);
    w->cta = c, w->id = id;
    u32 left = threads - (u32)id * LANES;
    w->live = left >= LANES ? ALL_LANES : LANE_BIT(left) - 1;
    w->reg = aligned_alloc(256, (k->rows + 2) / 2 * 2 * row);
    memset(w->reg, 0xff, (k->rows + 2) / 2 * 2 * row); /* NaN, and the same in every run */
    w->reg_init = calloc(k->rows + 1, sizeof *w->reg_init);
    w->reg_flight = calloc(k->rows + 1, 1);
    w->pred = calloc(k->preds + 1, sizeof *w->pred);
    w->pred_init = calloc(k->preds + 1, sizeof *w->pred_init);
    size_t local = (size_t)LANES * k->local_bytes;
    w->local = malloc(local + 1);
    w->local_init = calloc(local / LANES + LANES + 1, sizeof *w->local_init);
    for (int i = 0; i < k->nconstants; i++) {
        Operand o = {.row = (s32)k->constant[i].row};
        u64 v = k->constant[i].value;
        if (k->constant[i].bits == 64)
            FOR_LANES(ALL_LANES, ptx_r64(w, &o), v);
        else
            FOR_LANES(ALL_LANES, ptx_r32(w, &o), (u32)v);
        w->reg_init[o.row] = ALL_LANES;
    }
    for (int i = 0; i < k->nspecials; i++) {
        Operand o = {.row = (s32)k->special[i].row};
        for (u32 l = 0; l < LANES; l++)
            if (k->special[i].what == SR_GRIDID)
                ptx_r64(w, &o)[l] = c->grid->serial;
            else
                ptx_r32(w, &o)[l] = special_value(w, k->special[i].what, l);
        w->reg_init[o.row] = ALL_LANES;
    }
    w->group[0] = (Group){0, w->live, false};
    w->ngroups = 1;
    w->registers = ptx_registers(k, (int)threads);
    ptx_knowledge_learn(&w->know, (u32)ptx_warp_actor(w), 0);
    w->grid_waited = !c->grid->overlaps;
    if (w->grid_waited) ptx_knowledge_learn(&w->know, 0, 1); /* all that earlier grids did */
}

static void start_cta(Cluster *cl, int rank, u32 x, u32 y, u32 z) {
    Grid *g = cl->grid;
    const Kernel *k = g->kernel;
    Cta *c = &cl->cta[rank];
    u32 threads = g->block[0] * g->block[1] * g->block[2];
    c->cluster = cl, c->grid = g, c->rank = rank, c->x = x, c->y = y, c->z = z;
    c->shared_bytes = k->uses_dynamic_shared ? k->dynamic_offset + g->dynamic_shared : k->shared_bytes;
    c->shared = aligned_alloc(1024, (c->shared_bytes + 1024) & ~1023u);
    memset(c->shared, 0xff, c->shared_bytes);
    c->nwarps = c->alive = (int)((threads + LANES - 1) / LANES);
    c->warp = calloc((size_t)c->nwarps, sizeof *c->warp);
    for (int i = 0; i < c->nwarps; i++) start_warp(c, i, threads);
    ptx_shadow_start_cta(c);
    ptx_async_start_cta(c);
    ptx_tensor_start_cta(c);
}

static Cluster *start_cluster(Grid *g, u64 index) {
    Cluster *cl = calloc(1, sizeof *cl);
    const u32 *s = g->cluster_dim;
    u32 nx = g->dim[0] / s[0], ny = g->dim[1] / s[1];
    u32 x = (u32)(index % nx) * s[0], y = (u32)(index / nx % ny) * s[1], z = (u32)(index / nx / ny) * s[2];
    cl->grid = g, cl->serial = (u32)index + 1;
    cl->nctas = cl->alive = (int)(s[0] * s[1] * s[2]);
    cl->cta = calloc((size_t)cl->nctas, sizeof *cl->cta);
    u32 threads = g->block[0] * g->block[1] * g->block[2];
    cl->actors = 1 + cl->nctas * (int)((threads + LANES - 1) / LANES);
    ptx_async_start_cluster(cl);
    for (u32 r = 0; r < (u32)cl->nctas; r++)
        start_cta(cl, (int)r, x + r % s[0], y + r / s[0] % s[1], z + r / s[0] / s[1]);
    return cl;
}

static void free_cluster(Cluster *cl) {
    for (int i = 0; i < cl->nctas; i++) {
        Cta *c = &cl->cta[i];
        ptx_async_free_cta(c);
        ptx_tensor_free_cta(c);
        ptx_shadow_free_cta(c);
        for (int j = 0; j < c->nwarps; j++) {
            Warp *w = &c->warp[j];
            free(w->reg), free(w->reg_init), free(w->reg_flight), free(w->pred), free(w->pred_init);
            free(w->local), free(w->local_init);
            ptx_knowledge_free(&w->know);
        }
        for (int j = 0; j < 16; j++) ptx_knowledge_free(&c->barrier[j].know);
        free(c->warp), free(c->shared);
    }
    ptx_async_free_cluster(cl);
    ptx_knowledge_free(&cl->barrier_know), ptx_knowledge_free(&cl->barrier_done);
    free(cl->actor_name), free(cl->cta), free(cl);
}

/* ---- the grid -------------------------------------------------------------------------------------------------------- */

/* Cluster number n to start: as numbered, backwards (LAZY), or in a seeded order (RANDOM: an affine map modulo the
 * number of clusters with a multiplier that is coprime to it). */
static u64 cluster_in_order(const Grid *g, u64 n) {
    if (ptx_device.schedule == IN_ORDER) return n;
    if (ptx_device.schedule == LAZY) return g->clusters - 1 - n;
    u64 step = ptx_device.seed * 2654435761u % g->clusters | 1;
    for (u64 a = step, b = g->clusters; b != 1;) { /* until gcd(step, clusters) = 1 */
        u64 r = a % b;
        if (r)
            a = b, b = r;
        else
            a = ++step, b = g->clusters;
    }
    return (n * (step % g->clusters) + ptx_device.seed) % g->clusters;
}

static bool admit(Grid *g) {
    if (g->admitted == g->clusters || g->nresident == g->capacity) return false;
    g->resident = realloc(g->resident, (size_t)(g->nresident + 1) * sizeof *g->resident);
    g->resident[g->nresident++] = start_cluster(g, cluster_in_order(g, g->admitted++));
    g->retired_at = g->executed;
    return true;
}

/* True when the cluster is over: all warps have ended and nothing is in flight. */
static bool retire_if_done(Grid *g, int i) {
    Cluster *cl = g->resident[i];
    for (int j = 0; j < cl->nctas; j++) {
        Cta *c = &cl->cta[j];
        if (c->alive) return false;
        if (c->done) continue;
        c->done = true;
        ptx_async_at_cta_end(c);
        ptx_tensor_at_cta_end(c);
    }
    if (ptx_async_pending(cl)) return false;
    free_cluster(cl);
    g->resident[i] = g->resident[--g->nresident];
    g->retired++;
    g->retired_at = g->executed;
    return true;
}

/* Random: one warp of the CTA, or none, is slow; another one after a while. It goes on when the others cannot, and seldom
 * else: that somebody is far behind is what shows that a phase of an mbarrier may end before all have waited for it. */
static u32 slow_warp(const Cta *c, u32 n) {
    u64 of = ptx_device.seed * 31 + c->cluster->serial + c->grid->executed / SLOW_FOR;
    return ptx_device.schedule == RANDOM ? (u32)(of * 0x9e3779b97f4a7c15u >> 32) % (n + 1) : n;
}

static bool run_cta(Cta *c) {
    Grid *g = c->grid;
    bool random = ptx_device.schedule == RANDOM, progress = false;
    u32 n = (u32)c->nwarps, start = random ? ptx_random(g, n) : 0, back = random ? ptx_random(g, 2) : 0;
    u32 slow = slow_warp(c, n);
    for (u32 i = 0; i <= n; i++) { /* the slow warp is the last */
        u32 id = i < n ? (start + (back ? n - i : i)) % n : slow;
        if (i < n ? id == slow : slow == n || (progress && ptx_random(g, 64))) continue;
        Warp *w = &c->warp[id];
        if (w->live) progress |= run_warp(w, random ? 8 + (int)ptx_random(g, 256) : LONG_TURN);
        if (ptx_device.schedule == IN_ORDER)
            while (ptx_async_pending(c->cluster) && ptx_async_step(c->cluster)) progress = true;
        if (random) {
            if (ptx_random(g, 2)) progress |= ptx_async_step(c->cluster);
            if (g->kernel->uses_wgmma && ptx_random(g, 2)) progress |= ptx_wgmma_step(c);
        }
    }
    return progress;
}

/* A primary grid that was held back runs now: every CTA of this one waits for it. */
static void run_primary(Grid *g) {
    Grid *primary = g->primary;
    Counters mine = ptx_count;
    g->primary = NULL;
    if (!ptx_run(primary)) g->failed = true;
    ptx_count = mine;
}

static void describe_deadlock(Grid *g, char *text, size_t bytes) {
    size_t n = 0;
    for (int i = 0; i < g->nresident; i++)
        for (int j = 0; j < g->resident[i]->nctas; j++) {
            Cta *c = &g->resident[i]->cta[j];
            for (int v = 0; v < c->nwarps; v++) {
                Warp *w = &c->warp[v];
                for (int q = 0; w->live && q < w->ngroups && n + 1 < bytes; q++) {
                    const Ins *in = w->at_barrier ? w->barrier_ins : &g->kernel->code[w->group[q].pc];
                    char place[400], why[300] = "";
                    ptx_place_text(g->kernel, in->place, place, sizeof place);
                    if (w->at_barrier) {
                        const Barrier *b = &c->barrier[w->at_barrier - 1];
                        snprintf(why, sizeof why, "barrier %d, %d of %d threads have arrived",
                                 w->at_barrier - 1, b->arrived,
                                 b->expected == ALL_THREADS ? live_threads(c) : b->expected);
                    } else if (in->run == run_cluster_wait)
                        snprintf(why, sizeof why, "cluster barrier, %u threads have arrived",
                                 c->cluster->barrier_arrived);
                    else if (((in->flags & INS_ALIGNED) || in->member >= 0) &&
                             (lanes_needed(w, in, w->group[q].lanes) & ~w->group[q].lanes))
                        snprintf(why, sizeof why, "its lanes %08x",
                                 lanes_needed(w, in, w->group[q].lanes) & ~w->group[q].lanes);
                    else
                        ptx_async_describe_wait(w, in, w->group[q].lanes, why, sizeof why);
                    n += (size_t)snprintf(
                        text + n, bytes - n, "\n    CTA (%u,%u,%u) warp %d lanes %08x at %s: %s waits for %s",
                        c->x, c->y, c->z, w->id, w->group[q].lanes, place, in->opcode, *why ? why : "?");
                }
            }
        }
    text[bytes - 1] = 0;
}

static _Noreturn void report_deadlock(Grid *g) {
    static char text[8192];
    text[0] = 0;
    describe_deadlock(g, text, sizeof text);
    Warp *w = NULL;
    for (int j = 0; !w; j++)
        if (g->resident[0]->cta[j].alive)
            for (w = g->resident[0]->cta[j].warp; !w->live;) w++;
    const Ins *in = w->at_barrier ? w->barrier_ins : &g->kernel->code[w->group[0].pc];
    ptx_fatal(w, in, w->live, NULL, "deadlock: no thread can go on%s", text);
}

static bool round_of(Grid *g, bool *idle) {
    bool random = ptx_device.schedule == RANDOM, progress = false;
    u32 n = (u32)g->nresident, start = random ? ptx_random(g, n) : 0;
    for (u32 i = 0; i < n; i++) {
        Cluster *cl = g->resident[(start + i) % n];
        for (int j = 0; j < cl->nctas; j++)
            if (cl->cta[j].alive) progress |= run_cta(&cl->cta[j]);
    }
    *idle = !progress;
    for (int i = g->nresident - 1; i >= 0; i--) progress |= retire_if_done(g, i);
    return progress;
}

static void run_clusters(Grid *g) {
    u64 rounds = 0, polls = 0;
    int window = ptx_device.schedule == RANDOM ? 1 + (int)ptx_random(g, 4)
                 : ptx_device.schedule == LAZY ? 2
                                               : 1;
    if (g->workspace) window = g->capacity; /* a barrier of the grid needs all of it */
    while (g->retired < g->clusters) {
        while (g->nresident < window && admit(g)) {
        }
        u64 before = g->executed;
        bool idle, progress = round_of(g, &idle);
        if (idle || ++rounds % FORCE_ASYNC == 0)
            for (int i = 0; i < g->nresident; i++) {
                progress |= ptx_async_step(g->resident[i]);
                for (int j = 0; idle && j < g->resident[i]->nctas; j++)
                    progress |= g->kernel->uses_wgmma && ptx_wgmma_step(&g->resident[i]->cta[j]);
            }
        for (int i = g->nresident - 1; idle && i >= 0; i--) progress |= retire_if_done(g, i);
        if (!progress && g->primary) run_primary(g), progress = true;
        if (!progress || g->executed - g->retired_at > ADMIT_AFTER) progress |= admit(g);
        polls = progress ? 0 : g->executed != before ? polls + 1 : POLLS;
        if (polls == POLLS && g->nresident) report_deadlock(g);
        if (g->executed > ptx_device.limit && g->nresident) {
            Warp *w = &g->resident[0]->cta[0].warp[0];
            for (int j = 0; j < g->resident[0]->nctas; j++)
                for (int v = 0; v < g->resident[0]->cta[j].nwarps; v++)
                    if (g->resident[0]->cta[j].warp[v].live) w = &g->resident[0]->cta[j].warp[v];
            ptx_fatal(w, &g->kernel->code[w->group[0].pc], w->live, NULL,
                      "no end after %llu warp instructions: a loop that never ends? (FA_PTX_LIMIT sets how "
                      "many may run)",
                      (unsigned long long)g->executed);
        }
    }
}

bool ptx_run(Grid *g) {
    Kernel *k = g->kernel;
    jmp_buf outer;
    struct timespec begin, end;
    memcpy(&outer, &ptx_launch_exit, sizeof outer); /* a grid may run inside another: run_primary */
    g->rng = ptx_device.seed * 0x9e3779b97f4a7c15u + g->serial;
    g->clusters = (u64)(g->dim[0] / g->cluster_dim[0]) * (g->dim[1] / g->cluster_dim[1]) *
                  (g->dim[2] / g->cluster_dim[2]);
    u32 ctas = g->cluster_dim[0] * g->cluster_dim[1] * g->cluster_dim[2];
    int per_sm = ptx_blocks_per_sm(k, (int)(g->block[0] * g->block[1] * g->block[2]), g->dynamic_shared);
    g->capacity = per_sm * ptx_device.sms / (int)ctas;
    if (g->capacity < 1) g->capacity = 1;
    for (int i = 0; i < k->ncode; i++) {
        Ins *in = &k->code[i];
        in->executed = in->lanes = in->wavefronts = in->wavefronts_ideal = in->bytes = in->sectors = 0;
    }
    memset(&ptx_count, 0, sizeof ptx_count);
    ptx_checks_start_launch(g);
    clock_gettime(CLOCK_MONOTONIC, &begin);
    if (!setjmp(ptx_launch_exit))
        run_clusters(g);
    else
        g->failed = true;
    clock_gettime(CLOCK_MONOTONIC, &end);
    while (g->nresident) free_cluster(g->resident[--g->nresident]);
    free(g->resident), g->resident = NULL;
    if (g->primary) run_primary(g); /* a grid that never waited for it */
    g->failed |= ptx_launch_findings() != 0;
    ptx_report_launch(g, (double)(end.tv_sec - begin.tv_sec) + 1e-9 * (double)(end.tv_nsec - begin.tv_nsec));
    ptx_checks_end_launch(g);
    memcpy(&ptx_launch_exit, &outer, sizeof outer);
    return !g->failed;
}
