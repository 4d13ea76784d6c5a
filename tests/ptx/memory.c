/* memory.c - loads, stores, atomics, address conversions, fences, and the hints that go with them (PTX ISA
 * 9.7.9, 9.7.13).
 *
 * Every access takes the same way:
 *
 *     get_addresses    one 64-bit address a lane
 *     check_alignment  to the whole vector (fatal)
 *     reach_all        checks the bytes and turns addresses into host pointers: generic ones are sorted by
 *                      window and go the way of their space; one call of checks.c a lane, none where checks are
 *                      off and all is in bounds
 *     transfers[]      moves one element of the vector between these pointers and a register row
 *     synchronise      strong accesses (volatile, relaxed, acquire, release, atomics) tell happens-before
 *     count            counters of the cost model
 *
 * Fields of Ins as used here: space; vector, width = elements and bytes of one; n = bytes of the whole
 * vector; mode = 1 for loads that extend the sign, index of combines[] for atomics; k = Order; type2 = 1 for strong
 * accesses.
 */
#include "numeric.h"

enum { READS = 1, WRITES = 2, CONSTANT = 4 /* ld.nc */ };
#define NO_SUCH_CTA 0xff000000u /* a shared address that no access accepts: CTA rank 254 */

/* ---- addresses ---------------------------------------------------------------------------------------- */

static void get_addresses(Warp *w, const Operand *o, u64 *address) {
    if (o->kind == KIND_R64) {
        const u64 *r = ptx_r64(w, o);
        for (int l = 0; l < LANES; l++) address[l] = r[l] + (u64)o->value;
    } else {
        const u32 *r = ptx_r32(w, o);
        for (int l = 0; l < LANES; l++) address[l] = r[l] + (u32)o->value;
    }
}

/* Vectors are aligned to their whole size (PTX ISA 5.4.5, 6.4.1). bytes: a power of two. */
static void check_alignment(Warp *w, const Ins *in, u32 m, const u64 *address, u32 bytes) {
    u64 low = 0;
    if (m == ALL_LANES)
        for (int l = 0; l < LANES; l++) low |= address[l];
    else
        EACH_LANE(l, m) low |= address[l];
    if (!(low & (bytes - 1))) return;
    u32 bad = 0;
    EACH_LANE(l, m) bad |= (u32)((address[l] & (bytes - 1)) != 0) << l;
    ptx_fatal(w, in, bad, NULL, "misaligned address 0x%llx of lane %d: %s needs a multiple of %u",
              (unsigned long long)address[ptx_first_lane(bad)], ptx_first_lane(bad), in->opcode, bytes);
}

/* Space of a generic address; what remains of it in that space. */
static Space generic_space(u64 *address) {
    u32 window = (u32)(*address >> 32);
    if (window != SHARED_WINDOW >> 32 && window != LOCAL_WINDOW >> 32) return SPACE_GLOBAL;
    *address = (u32)*address;
    return window == SHARED_WINDOW >> 32 ? SPACE_CLUSTER : SPACE_LOCAL;
}

static u8 *reach_shared(Warp *w, const Ins *in, u64 address, u32 bytes, Space space, int ways,
                        const Access *a) {
    u32 offset = (u32)address;
    Cta *own = w->cta, *c = space == SPACE_CLUSTER ? ptx_shared_target(own, offset, &offset) : own;
    if (address >> 32)
        ptx_fatal(w, in, LANE_BIT(a->lane), NULL, "out of bounds: shared address 0x%llx",
                  (unsigned long long)address);
    if (!c)
        ptx_fatal(w, in, LANE_BIT(a->lane), NULL,
                  "out of bounds: shared address 0x%llx: the cluster has %d CTAs, none of rank %u",
                  (unsigned long long)address, own->cluster->nctas, ((u32)address >> SHARED_RANK_SHIFT) - 1);
    if (c != own && !c->alive)
        ptx_fatal(w, in, LANE_BIT(a->lane), NULL, "%s of shared memory of CTA rank %d, which has exited",
                  in->opcode, c->rank);
    if (ways & READS) ptx_shared_read(c, offset, bytes, a);
    if (ways & WRITES) ptx_shared_write(c, offset, bytes, a);
    return c->shared + offset;
}

/* local_init holds a bit for each byte; an access is at most 16 bytes, so its bits are within 8 bytes of
 * bitmap. */
static u8 *reach_local(Warp *w, const Ins *in, u64 address, u32 bytes, int ways, u32 l) {
    u32 size = w->cta->grid->kernel->local_bytes;
    if (address > size || bytes > size - address)
        ptx_fatal(w, in, LANE_BIT(l), NULL,
                  "%s out of bounds: bytes %lld to %lld of %u bytes of local memory", in->opcode,
                  (long long)(s32)address, (long long)(s32)address + bytes - 1, size);
    if (ptx_device.checks) {
        u64 bit = (u64)l * size + address, mask = (((u64)1 << bytes) - 1) << (bit & 7), init;
        u8 *at = (u8 *)w->local_init + bit / 8;
        memcpy(&init, at, sizeof init);
        if ((ways & READS) && mask & ~init)
            ptx_finding(w, in, LANE_BIT(l), NULL, "%s reads uninitialised local memory (byte %llu)",
                        in->opcode, (unsigned long long)address);
        init |= mask;
        if (ways & WRITES) memcpy(at, &init, sizeof init);
    }
    return w->local + (size_t)l * size + address;
}

static u8 *reach_param(Warp *w, const Ins *in, u64 address, u32 bytes, u32 l) {
    u32 size = w->cta->grid->kernel->param_bytes;
    if (address > size || bytes > size - address)
        ptx_fatal(w, in, LANE_BIT(l), NULL, "%s out of bounds: offset %lld of %u bytes of parameters",
                  in->opcode, (long long)address, size);
    return w->cta->grid->params + address;
}

/* The bytes of one lane, checked. space is not generic. */
static u8 *reach(Warp *w, const Ins *in, u64 address, u32 bytes, Space space, int ways, const Access *a) {
    u8 *at = NULL;
    switch (space) {
    case SPACE_SHARED:
    case SPACE_CLUSTER: return reach_shared(w, in, address, bytes, space, ways, a);
    case SPACE_LOCAL: return reach_local(w, in, address, bytes, ways, a->lane);
    case SPACE_PARAM: return reach_param(w, in, address, bytes, a->lane);
    default:
        if (ways & READS) at = (u8 *)(uintptr_t)ptx_global_read(address, bytes, a);
        if (ways & WRITES) at = ptx_global_write(address, bytes, a);
        return at;
    }
}

/* With checks off, requests that need no look at each lane. */
static bool reach_at_once(Warp *w, const Ins *in, u32 m, const u64 *address, u32 bytes, Space space, int ways,
                          u8 **at) {
    if (space == SPACE_SHARED || space == SPACE_CLUSTER) {
        u64 highest = 0;
        for (int l = 0; l < LANES; l++) {
            u64 x = m >> l & 1 ? address[l] : 0;
            highest = x > highest ? x : highest;
        }
        u64 size = w->cta->shared_bytes;
        if (bytes > size || highest > size - bytes) return false;
        FOR_LANES(m, at, w->cta->shared + address[l]);
        return true;
    }
    if (m != ALL_LANES || space == SPACE_LOCAL || space == SPACE_PARAM) return false;
    u64 gap = 0;
    for (u32 l = 0; l < LANES; l++) gap |= address[l] ^ (address[0] + l * bytes);
    if (gap) return false;
    Access a = ptx_access(w, in, m);
    a.lane = LANES;
    u8 *first = reach(w, in, address[0], LANES * bytes, space, ways, &a);
    for (u32 l = 0; l < LANES; l++) at[l] = first + l * bytes;
    return true;
}

static void count(const Ins *in, u32 m, const u64 *address, u32 bytes, Space space, int ways) {
    if (space == SPACE_GLOBAL) ptx_count_global(in, address, m, bytes, (ways & WRITES) != 0);
    if (space != SPACE_SHARED && space != SPACE_CLUSTER) return;
    u32 offset[LANES];
    for (int l = 0; l < LANES; l++) offset[l] = (u32)address[l];
    ptx_count_shared(in, offset, m, bytes);
}

static void reach_space(Warp *w, const Ins *in, u32 m, const u64 *address, Space space, int ways, u8 **at) {
    count(in, m, address, in->n, space, ways);
    if (!ptx_device.checks && reach_at_once(w, in, m, address, in->n, space, ways, at)) return;
    Access a = ptx_access(w, in, m);
    a.strong = in->type2, a.constant = ways & CONSTANT;
    EACH_LANE(l, m) {
        a.lane = (u8)l;
        if (w->part_lanes) a.know = ptx_knows(w, LANE_BIT(l));
        at[l] = reach(w, in, address[l], in->n, space, ways, &a);
    }
}

static void reach_all(Warp *w, const Ins *in, u32 m, const u64 *address, int ways, u8 **at) {
    if (in->space != SPACE_GENERIC) {
        reach_space(w, in, m, address, in->space, ways, at);
        return;
    }
    u64 inner[LANES];
    u32 lanes[SPACE_CONST + 1] = {0};
    for (int l = 0; l < LANES; l++) {
        inner[l] = address[l];
        lanes[generic_space(&inner[l])] |= LANE_BIT(l);
    }
    static const Space spaces[] = {SPACE_GLOBAL, SPACE_CLUSTER, SPACE_LOCAL};
    for (int i = 0; i < 3; i++)
        if (lanes[spaces[i]] & m) reach_space(w, in, lanes[spaces[i]] & m, inner, spaces[i], ways, at);
}

/* Tells happens-before about the strong accesses of lanes m: each is a synchronisation of its own. */
static void synchronise(Warp *w, const Ins *in, u32 m, const u64 *address, int ways) {
    Order order = in->k;
    EACH_LANE(l, m) {
        u64 x = address[l];
        Space space = in->space == SPACE_GENERIC ? generic_space(&x) : (Space)in->space;
        if (space == SPACE_LOCAL) continue;
        if (space == SPACE_SHARED ||
            space == SPACE_CLUSTER) { /* one name for one word: with the rank of its CTA */
            u64 rank = x >> SHARED_RANK_SHIFT ? 0 : (u64)w->cta->rank + 1;
            x |= SHARED_WINDOW | rank << SHARED_RANK_SHIFT;
        }
        if (ways & READS) ptx_sync_read(w, LANE_BIT(l), x, order & ACQUIRE);
        if (ways & WRITES) ptx_sync_write(w, LANE_BIT(l), x, order & RELEASE);
    }
}

/* ---- ld, st ------------------------------------------------------------------------------------------- */

typedef void (*Transfer)(void *row, u8 *const *at, u32 m, u32 offset);

/* Loads extend to the register (PTX ISA 9.4.1): memory type, then the type it takes in the register row. */
#define LOAD(name, register, value, memory) \
    static void name(void *row, u8 *const *at, u32 m, u32 offset) { \
        register *r = row; \
        FOR_LANES(m, r, (register)(value) * (const memory *)(at[l] + offset)); \
    }
LOAD(load_u8, u32, u8, u8)
LOAD(load_u16, u32, u16, u16)
LOAD(load_u32, u32, u32, u32)
LOAD(load_s8, u32, s32, s8)
LOAD(load_s16, u32, s32, s16)
LOAD(load_s8_to_16, u32, u16, s8) /* bits 16.. of the row of a 16-bit register stay zero */
LOAD(load_u8_to_64, u64, u8, u8)
LOAD(load_u16_to_64, u64, u16, u16)
LOAD(load_u32_to_64, u64, u32, u32)
LOAD(load_u64, u64, u64, u64)
LOAD(load_s8_to_64, u64, s64, s8)
LOAD(load_s16_to_64, u64, s64, s16)
LOAD(load_s32_to_64, u64, s64, s32)

#define STORE(name, register, memory) \
    static void name(void *row, u8 *const *at, u32 m, u32 offset) { \
        const register *r = row; \
        EACH_LANE(l, m) * (memory *)(at[l] + offset) = (memory)r[l]; \
    }
STORE(store_8, u32, u8)
STORE(store_16, u32, u16)
STORE(store_32, u32, u32)
STORE(store_8_of_64, u64, u8)
STORE(store_16_of_64, u64, u16)
STORE(store_32_of_64, u64, u32)
STORE(store_64, u64, u64)

static const struct {
    Transfer load, load_signed, store;
} transfers[][4] = {/* [register of 16, 32, 64 bits][log2 of the bytes in memory] */
                    {{load_u8, load_s8_to_16, store_8}, {load_u16, load_u16, store_16}},
                    {{load_u8, load_s8, store_8},
                     {load_u16, load_s16, store_16},
                     {load_u32, load_u32, store_32}},
                    {{load_u8_to_64, load_s8_to_64, store_8_of_64},
                     {load_u16_to_64, load_s16_to_64, store_16_of_64},
                     {load_u32_to_64, load_s32_to_64, store_32_of_64},
                     {load_u64, load_u64, store_64}}};

static void *row_of(Warp *w, const Operand *o) { return w->reg + (size_t)o->row * LANES; }
/* Row and column of transfers[] for a register and the element width of the instruction. */
static int register_class(const Operand *o) {
    return o->kind == KIND_R64 ? 2 : o->bits && o->bits <= 16 ? 0 : 1;
}

static Outcome run_ld(Warp *w, const Ins *in, u32 m) {
    u64 address[LANES];
    u8 *at[LANES];
    get_addresses(w, &in->op[in->vector], address);
    check_alignment(w, in, m, address, in->n);
    reach_all(w, in, m, address, in->aux[0] ? READS | CONSTANT : READS, at);
    for (u32 i = 0; i < in->vector; i++) {
        const Operand *d = &in->op[i];
        if (d->kind == KIND_SINK) continue;
        int class = register_class(d), size = __builtin_ctz(in->width);
        (in->mode ? transfers[class][size].load_signed : transfers[class][size].load)(row_of(w, d), at, m,
                                                                                      i * in->width);
    }
    if (in->type2) synchronise(w, in, m, address, READS);
    return RAN;
}

static Outcome run_st(Warp *w, const Ins *in, u32 m) {
    u64 address[LANES];
    u8 *at[LANES];
    get_addresses(w, &in->op[0], address);
    check_alignment(w, in, m, address, in->n);
    reach_all(w, in, m, address, WRITES, at);
    for (u32 i = 0; i < in->vector; i++) {
        const Operand *s = &in->op[1 + i];
        transfers[register_class(s)][__builtin_ctz(in->width)].store(row_of(w, s), at, m, i * in->width);
    }
    if (in->type2) synchronise(w, in, m, address, WRITES);
    return RAN;
}

/* ---- decoding of what all accesses have in common ----------------------------------------------------- */

static int take_space(Text *t) {
    static const struct {
        const char *name;
        Space space;
    } spaces[] = {
        {"global", SPACE_GLOBAL},           {"shared", SPACE_SHARED},     {"shared::cta", SPACE_SHARED},
        {"shared::cluster", SPACE_CLUSTER}, {"local", SPACE_LOCAL},       {"param", SPACE_PARAM},
        {"param::entry", SPACE_PARAM},      {"param::func", SPACE_LOCAL}, {"const", SPACE_CONST}};
    for (size_t i = 0; i < sizeof spaces / sizeof *spaces; i++)
        if (ptx_mod(t, spaces[i].name)) return spaces[i].space;
    return SPACE_GENERIC;
}

/* Scopes do not matter to the checks: happens-before takes every one as wide enough. */
static bool take_scope(Text *t) {
    static const char *const scopes[] = {"cta", "cluster", "gpu", "sys", NULL};
    return ptx_mod_of(t, scopes) >= 0;
}

/* .weak, .volatile, .relaxed.scope, .acquire.scope, ...: false if a scope is missing. Weak if nothing is
 * there. */
static bool take_order(Text *t, Ins *in) {
    static const char *const orders[] = {"relaxed", "acquire", "release", "acq_rel", NULL};
    if (ptx_mod(t, "weak")) return true;
    bool is_volatile = ptx_mod(t, "volatile"); /* relaxed, for the whole system (PTX ISA 8.4) */
    int order = ptx_mod_of(t, orders);
    in->type2 |= is_volatile || order >= 0;
    if (order > 0) in->k = (u16)order;
    return order < 0 || take_scope(t);
}

/* Cache operators, eviction priorities and prefetch sizes change nothing that a program can see. True if a
 * cache policy comes as the last operand. */
static bool take_hints(Text *t) {
    static const char *const operators[] = {"ca", "cg", "cs", "lu", "cv", "wb", "wt", NULL};
    bool policy = ptx_mod(t, "L2::cache_hint");
    ptx_mod_of(t, operators);
    while (ptx_mod_prefix(t, "L1::") || ptx_mod_prefix(t, "L2::")) continue;
    return policy;
}

static void take_vector(Text *t, Ins *in) {
    static const char *const vectors[] = {"v2", "v4", "v8", NULL};
    int i = ptx_mod_of(t, vectors);
    in->vector = i < 0 ? 1 : (u8)(2 << i);
}

/* Type, and the sizes that follow from it; 32-byte vectors are for later targets. */
static Type take_type(Text *t, Ins *in) {
    Type type = ptx_type(t);
    int bits = ptx_type_bits(type);
    if (bits < 8 || bits > 64 || in->vector * bits > 128) return T_NONE;
    in->type = type, in->width = (u8)(bits / 8), in->n = (u16)(in->vector * bits / 8);
    return type;
}

static bool is_load_type(Type type) {
    return (type >= T_U8 && type <= T_B64) || type == T_F32 || type == T_F64;
}

/* A register as it is declared; an immediate of the width of the instruction. */
static bool use_value(Text *t, Ins *in, int i) {
    const Operand *o = &t->op[i];
    if (i >= t->nops || o->address) return false;
    bool wide = o->kind == KIND_R64 || (o->kind != KIND_R32 && in->width == 8);
    if ((o->kind == KIND_R32 || o->kind == KIND_R64) && o->bits && o->bits < 8 * in->width) return false;
    return ptx_use_bits(t, in, i, wide ? 64 : 32);
}

static bool use_destination(Text *t, Ins *in, int i) {
    in->ndst++;
    return t->op[i].kind == KIND_SINK ? ptx_use_sink(t, in, i) : use_value(t, in, i);
}

/* Global addresses are 64 bits; shared and local ones may be in registers of either width. */
static bool use_address(Text *t, Ins *in, int i) {
    const Operand *o = &t->op[i];
    bool global = in->space == SPACE_GENERIC || in->space == SPACE_GLOBAL || in->space == SPACE_CONST;
    if (i >= t->nops || !o->address || (global && o->kind == KIND_R32)) return false;
    return ptx_use_address(t, in, i, global || o->kind == KIND_R64);
}

/* The .param variables of a call lie in local memory; those of the kernel are one block for the grid. */
static void place_parameter(const Text *t, Ins *in, int i) {
    if (in->space == SPACE_PARAM && i < t->nops && t->op[i].space == SPACE_LOCAL) in->space = SPACE_LOCAL;
}

static Unit unit_of(const Ins *in) {
    switch (in->space) {
    case SPACE_SHARED:
    case SPACE_CLUSTER: return UNIT_SHARED;
    case SPACE_LOCAL: return UNIT_LOCAL;
    case SPACE_PARAM:
    case SPACE_CONST: return UNIT_NONE; /* an operand from the constant bank */
    default: return UNIT_GLOBAL;
    }
}

static bool decode_ld(Text *t, Ins *in) {
    in->space = (u8)take_space(t);
    if (!take_order(t, in) || (in->k & RELEASE)) return false;
    in->aux[0] = ptx_mod(t, "nc");
    bool policy = take_hints(t);
    take_vector(t, in);
    if (!is_load_type(take_type(t, in))) return false;
    int i = in->vector;
    for (int d = 0; d < i; d++)
        if (d >= t->nops || !use_destination(t, in, d)) return false;
    place_parameter(t, in, i);
    if (!use_address(t, in, i++) || (policy && !ptx_use64(t, in, i++))) return false;
    in->mode = in->type == T_S8 || in->type == T_S16 || in->type == T_S32;
    in->run = run_ld, in->unit = unit_of(in);
    return i == t->nops;
}

static bool decode_st(Text *t, Ins *in) {
    for (int i = 0; i < t->nmods; i++)
        if (!strcmp(t->mod[i], "async")) return false; /* async.c */
    in->space = (u8)take_space(t);
    if (!take_order(t, in) || (in->k & ACQUIRE)) return false;
    bool policy = take_hints(t);
    take_vector(t, in);
    if (!is_load_type(take_type(t, in))) return false;
    place_parameter(t, in, 0);
    if (in->space == SPACE_CONST || in->space == SPACE_PARAM || !use_address(t, in, 0)) return false;
    int i = 1;
    while (i <= in->vector)
        if (!use_value(t, in, i++)) return false;
    if (policy && !ptx_use64(t, in, i++)) return false;
    in->run = run_st, in->unit = unit_of(in);
    return i == t->nops;
}

/* ---- atom, red ---------------------------------------------------------------------------------------- */

/* New value of a word: x is the old one, y and z are the operands. */
typedef u64 (*Combine)(u64 x, u64 y, u64 z);

#define COMBINE(name, value) \
    static u64 name(u64 x, u64 y, u64 z) { \
        (void)x, (void)y, (void)z; \
        return value; \
    }
COMBINE(add_32, (u32)(x + y))
COMBINE(add_64, x + y)
COMBINE(and_64, x &y)
COMBINE(or_64, x | y)
COMBINE(xor_64, x ^ y)
COMBINE(exchange, y)
COMBINE(compare_and_swap, x == y ? z : x)
COMBINE(increment, x >= y ? 0 : x + 1)
COMBINE(decrement, x == 0 || x > y ? y : x - 1)
COMBINE(min_u, x < y ? x : y)
COMBINE(max_u, x > y ? x : y)
COMBINE(min_s32, (s32)x < (s32)y ? x : y)
COMBINE(max_s32, (s32)x > (s32)y ? x : y)
COMBINE(min_s64, (s64)x < (s64)y ? x : y)
COMBINE(max_s64, (s64)x > (s64)y ? x : y)
COMBINE(add_f32, ptx_canonical(ptx_bits(ptx_float((u32)x) + ptx_float((u32)y))))
/* in device memory: subnormal inputs and results are flushed (PTX ISA, atom: "flushes subnormal inputs and
 * results to sign-preserving zero" on global memory, not on shared) */
COMBINE(add_f32_flushed, ptx_ftz((u32)add_f32(ptx_ftz((u32)x), ptx_ftz((u32)y), 0)))
COMBINE(add_f64, ptx_bits64(ptx_double(x) + ptx_double(y)))
/* A float holds more than twice the mantissa of the half formats, so rounding the rounded sum again is
 * exact. */
COMBINE(add_f16, ptx_f32_to_f16(ptx_f16_to_f32((u16)x) + ptx_f16_to_f32((u16)y)))
COMBINE(add_bf16, ptx_f32_to_bf16(ptx_bf16_to_f32((u16)x) + ptx_bf16_to_f32((u16)y)))

/* The lesser of two halves as bits; the number if one is NaN; -0 is less than +0. */
static bool less(float a, float b) { return isnan(b) || a < b || (a == b && signbit(a) && !signbit(b)); }
static u32 half_min(u64 x, u64 y, float a, float b) {
    return isnan(a) && isnan(b) ? (u32)HALF_NAN : (u32)(less(a, b) ? x : y);
}
static u32 half_max(u64 x, u64 y, float a, float b) {
    return isnan(a) && isnan(b) ? (u32)HALF_NAN : (u32)(!isnan(a) && (isnan(b) || less(b, a)) ? x : y);
}
COMBINE(min_f16, half_min(x, y, ptx_f16_to_f32((u16)x), ptx_f16_to_f32((u16)y)))
COMBINE(max_f16, half_max(x, y, ptx_f16_to_f32((u16)x), ptx_f16_to_f32((u16)y)))
COMBINE(min_bf16, half_min(x, y, ptx_bf16_to_f32((u16)x), ptx_bf16_to_f32((u16)y)))
COMBINE(max_bf16, half_max(x, y, ptx_bf16_to_f32((u16)x), ptx_bf16_to_f32((u16)y)))
#define PAIR(name, half) \
    COMBINE(name, half((u16)x, (u16)y, 0) | half((u16)(x >> 16), (u16)(y >> 16), 0) << 16)
PAIR(add_f16x2, add_f16)
PAIR(add_bf16x2, add_bf16)
PAIR(min_f16x2, min_f16)
PAIR(max_f16x2, max_f16)
PAIR(min_bf16x2, min_bf16)
PAIR(max_bf16x2, max_bf16)

static const struct {
    const char *name;
    Type type;
    Combine combine;
} combines[] = {{"add", T_U32, add_32},
                {"add", T_S32, add_32},
                {"add", T_U64, add_64},
                {"add", T_F32, add_f32},
                {"add", T_F64, add_f64},
                {"add", T_F16, add_f16},
                {"add", T_BF16, add_bf16},
                {"add", T_F16X2, add_f16x2},
                {"add", T_BF16X2, add_bf16x2},
                {"and", T_B32, and_64},
                {"and", T_B64, and_64},
                {"or", T_B32, or_64},
                {"or", T_B64, or_64},
                {"xor", T_B32, xor_64},
                {"xor", T_B64, xor_64},
                {"exch", T_B32, exchange},
                {"exch", T_B64, exchange},
                {"cas", T_B16, compare_and_swap},
                {"cas", T_B32, compare_and_swap},
                {"cas", T_B64, compare_and_swap},
                {"inc", T_U32, increment},
                {"dec", T_U32, decrement},
                {"min", T_U32, min_u},
                {"min", T_U64, min_u},
                {"min", T_S32, min_s32},
                {"min", T_S64, min_s64},
                {"min", T_F16, min_f16},
                {"min", T_BF16, min_bf16},
                {"min", T_F16X2, min_f16x2},
                {"min", T_BF16X2, min_bf16x2},
                {"max", T_U32, max_u},
                {"max", T_U64, max_u},
                {"max", T_S32, max_s32},
                {"max", T_S64, max_s64},
                {"max", T_F16, max_f16},
                {"max", T_BF16, max_bf16},
                {"max", T_F16X2, max_f16x2},
                {"max", T_BF16X2, max_bf16x2}};

static u64 get_lane(Warp *w, const Operand *o, u32 l) {
    return o->kind == KIND_R64 ? ptx_r64(w, o)[l] : ptx_r32(w, o)[l];
}
static void set_lane(Warp *w, const Operand *o, u32 l, u64 value) {
    if (o->kind == KIND_R64)
        ptx_r64(w, o)[l] = value;
    else if (o->kind == KIND_R32)
        ptx_r32(w, o)[l] = (u32)value;
}

/* The lanes of m, in order or, in a random schedule, shuffled; returns how many. */
static u32 lane_order(Warp *w, u32 m, u8 *order) {
    u32 n = 0;
    EACH_LANE(l, m) order[n++] = (u8)l;
    if (ptx_device.schedule == RANDOM)
        for (u32 i = n; i > 1; i--) {
            u32 j = ptx_random(w->cta->grid, i);
            u8 swap = order[i - 1];
            order[i - 1] = order[j], order[j] = swap;
        }
    return n;
}

/* op = [d...] address y... [z] [policy]; aux[0]: index of the address. One lane after the other, each
 * atomically. */
static Outcome run_atomic(Warp *w, const Ins *in, u32 m) {
    u64 address[LANES], inner[LANES];
    u32 device = 0, shared = 0, n = in->vector, first = in->aux[0] + 1;
    u8 order[LANES];
    get_addresses(w, &in->op[in->aux[0]], address);
    check_alignment(w, in, m, address, in->n);
    u32 lanes = lane_order(w, m, order);
    for (u32 i = 0; i < lanes; i++) {
        u32 l = order[i];
        inner[l] = address[l];
        Space space = in->space == SPACE_GENERIC ? generic_space(&inner[l]) : (Space)in->space;
        *(space == SPACE_GLOBAL ? &device : &shared) |= LANE_BIT(l) * (space != SPACE_LOCAL);
        Combine combine = combines[in->mode].combine;
        if (space == SPACE_GLOBAL && combine == add_f32) combine = add_f32_flushed;
        Access a = ptx_access(w, in, LANE_BIT(l));
        a.lane = (u8)l, a.strong = true;
        u8 *at = reach(w, in, inner[l], in->n, space, READS | WRITES, &a);
        for (u32 e = 0; e < n; e++, at += in->width) {
            u64 old = 0;
            memcpy(&old, at, in->width);
            u64 y = get_lane(w, &in->op[first + e], l);
            u64 z = in->aux[1] ? get_lane(w, &in->op[first + 1], l) : 0;
            u64 new = combine(old, y, z);
            memcpy(at, &new, in->width);
            if (in->ndst) set_lane(w, &in->op[e], l, old);
        }
        synchronise(w, in, LANE_BIT(l), address, in->ndst ? READS | WRITES : WRITES); /* red shows nothing */
    }
    if (device) count(in, device, inner, in->n, SPACE_GLOBAL, READS | WRITES);
    if (shared) count(in, shared, inner, in->n, SPACE_SHARED, READS | WRITES);
    return RAN;
}

static bool decode_atomic(Text *t, Ins *in, bool returns) {
    for (int i = 0; i < t->nmods; i++)
        if (!strcmp(t->mod[i], "async")) return false; /* async.c */
    in->type2 = true;
    if (!take_order(t, in)) return false;
    take_scope(t); /* a scope without an order: relaxed */
    in->space = (u8)take_space(t);
    if (in->space > SPACE_CLUSTER) return false;
    bool policy = take_hints(t), noftz = ptx_mod(t, "noftz");
    static const char *const names[] = {"add", "and", "or",  "xor", "exch", "cas",
                                        "inc", "dec", "min", "max", NULL};
    int name = ptx_mod_of(t, names);
    take_vector(t, in);
    Type type = take_type(t, in);
    if (name < 0 || type == T_NONE) return false;
    bool is_half = type == T_F16 || type == T_BF16 || type == T_F16X2 || type == T_BF16X2;
    bool is_cas = !strcmp(names[name], "cas");
    if (noftz != is_half || (in->vector > 1 && !is_half && type != T_F32)) return false;
    size_t i = 0, end = sizeof combines / sizeof *combines;
    while (i < end && (combines[i].type != type || strcmp(combines[i].name, names[name]))) i++;
    if (i == end || (!returns && (is_cas || !strcmp(names[name], "exch")))) return false;
    in->mode = (u8)i, in->aux[1] = is_cas;
    int o = 0;
    while (returns && o < in->vector)
        if (o >= t->nops || !use_destination(t, in, o++)) return false;
    in->aux[0] = (u32)o;
    if (!use_address(t, in, o++)) return false;
    for (int e = 0; e < in->vector + is_cas; e++)
        if (!use_value(t, in, o++)) return false;
    if (policy && !ptx_use64(t, in, o++)) return false;
    in->run = run_atomic, in->unit = unit_of(in);
    return o == t->nops;
}
static bool decode_atom(Text *t, Ins *in) { return decode_atomic(t, in, true); }
static bool decode_red(Text *t, Ins *in) { return decode_atomic(t, in, false); }

/* ---- address conversions ------------------------------------------------------------------------------ */

static u64 window_base(const Warp *w, Space space) {
    switch (space) {
    case SPACE_SHARED:
    case SPACE_CLUSTER: return SHARED_WINDOW;
    case SPACE_LOCAL: return LOCAL_WINDOW;
    case SPACE_PARAM: return (u64)(uintptr_t)w->cta->grid->params;
    default: return 0;
    }
}

static Outcome run_cvta(Warp *w, const Ins *in, u32 m) {
    u64 *d = ptx_r64(w, &in->op[0]), base = window_base(w, in->space);
    const u64 *a = ptx_r64(w, &in->op[1]);
    FOR_LANES(m, d, a[l] + base);
    return RAN;
}

/* An address of another window has no meaning as a shared or local one. It becomes one that no access
 * accepts, also when the program cuts it down to 32 bits: CTA rank 254. A little below the window is left as
 * it is, since programs add an index afterwards. */
static Outcome run_cvta_to(Warp *w, const Ins *in, u32 m) {
    u64 *d = ptx_r64(w, &in->op[0]), base = window_base(w, in->space);
    const u64 *a = ptx_r64(w, &in->op[1]);
    bool window = in->space == SPACE_SHARED || in->space == SPACE_CLUSTER || in->space == SPACE_LOCAL;
    FOR_LANES(m, d, window && a[l] - base + (1u << 24) >= (u64)1 << 32 ? NO_SUCH_CTA : a[l] - base);
    return RAN;
}

static bool decode_cvta(Text *t, Ins *in) {
    bool to = ptx_mod(t, "to");
    in->space = (u8)take_space(t), in->ndst = 1;
    in->run = to ? run_cvta_to : run_cvta, in->unit = to ? UNIT_NONE : UNIT_ALU;
    return in->space != SPACE_GENERIC && ptx_type(t) == T_U64 && t->nops == 2 && ptx_use64(t, in, 0) &&
           ptx_use64(t, in, 1);
}

static bool is_in_space(const Warp *w, u64 address, Space space) {
    Space actual = generic_space(&address);
    const Grid *g = w->cta->grid;
    switch (space) {
    case SPACE_SHARED: return actual == SPACE_CLUSTER && !(address >> SHARED_RANK_SHIFT);
    case SPACE_PARAM: return address - (u64)(uintptr_t)g->params < g->kernel->param_bytes;
    case SPACE_CONST:
        for (int i = 0; i < g->kernel->module->nglobals; i++) {
            const struct Global *v = &g->kernel->module->global[i];
            if (v->constant && address - (u64)(uintptr_t)v->memory < v->bytes) return true;
        }
        return false;
    default: return actual == space; /* the windows of parameters and constants are within the global one */
    }
}

static Outcome run_isspacep(Warp *w, const Ins *in, u32 m) {
    const u64 *a = ptx_r64(w, &in->op[1]);
    u32 inside = 0;
    EACH_LANE(l, m) inside |= (u32)is_in_space(w, a[l], in->space) << l;
    ptx_set_pred(w, &in->op[0], m, inside);
    return RAN;
}

static bool decode_isspacep(Text *t, Ins *in) {
    in->space = (u8)take_space(t), in->ndst = 1;
    in->run = run_isspacep, in->unit = UNIT_ALU;
    return in->space != SPACE_GENERIC && t->nops == 2 && ptx_use_pred(t, in, 0) && ptx_use64(t, in, 1);
}

/* The same offset in the CTA of another rank. A rank that the cluster has not is found when the address is
 * used. */
static u64 map_to_rank(u64 address, u32 rank) {
    u64 field = (u64)(rank < 254 ? rank + 1 : 255) << SHARED_RANK_SHIFT;
    return (address & ~((u64)0xff << SHARED_RANK_SHIFT)) | field;
}

static Outcome run_mapa(Warp *w, const Ins *in, u32 m) {
    const u32 *rank = ptx_r32(w, &in->op[2]);
    EACH_LANE(l, m) {
        u64 a = get_lane(w, &in->op[1], l), offset = a;
        if (in->space == SPACE_GENERIC && generic_space(&offset) != SPACE_CLUSTER)
            ptx_fatal(w, in, LANE_BIT(l), NULL, "mapa of address 0x%llx, which is not in shared memory",
                      (unsigned long long)a);
        set_lane(w, &in->op[0], l, map_to_rank(a, rank[l]));
    }
    return RAN;
}

static bool decode_mapa(Text *t, Ins *in) {
    in->space = (u8)take_space(t);
    if (in->space != SPACE_GENERIC && in->space != SPACE_CLUSTER) return false;
    int bits = ptx_type_bits(ptx_type(t));
    in->run = run_mapa, in->unit = UNIT_ALU, in->ndst = 1;
    return (bits == 64 || (bits == 32 && in->space == SPACE_CLUSTER)) && t->nops == 3 &&
           ptx_use_bits(t, in, 0, bits) && ptx_use_bits(t, in, 1, bits) && ptx_use32(t, in, 2);
}

static Outcome run_getctarank(Warp *w, const Ins *in, u32 m) {
    EACH_LANE(l, m) {
        u32 field = (u32)get_lane(w, &in->op[1], l) >> SHARED_RANK_SHIFT;
        ptx_r32(w, &in->op[0])[l] = field ? field - 1 : (u32)w->cta->rank;
    }
    return RAN;
}

static bool decode_getctarank(Text *t, Ins *in) {
    in->space = (u8)take_space(t);
    if (in->space != SPACE_GENERIC && in->space != SPACE_CLUSTER) return false;
    int bits = ptx_type_bits(ptx_type(t));
    in->run = run_getctarank, in->unit = UNIT_ALU, in->ndst = 1;
    return (bits == 64 || (bits == 32 && in->space == SPACE_CLUSTER)) && t->nops == 2 &&
           ptx_use32(t, in, 0) && ptx_use_bits(t, in, 1, bits);
}

/* ---- fences ------------------------------------------------------------------------------------------- */

static Outcome run_fence(Warp *w, const Ins *in, u32 m) {
    (void)in;
    ptx_memory_fence(w, m);
    return RAN;
}
static Outcome run_proxy_fence(Warp *w, const Ins *in, u32 m) {
    ptx_proxy_fence(w, m, in->aux[0]);
    return RAN;
}

/* A release as well, though only of mbarrier.init, which is not told apart: barrier.cluster.arrive.relaxed
 * follows. */
static Outcome run_mbarrier_init_fence(Warp *w, const Ins *in, u32 m) {
    (void)in;
    ptx_memory_fence(w, m);
    ptx_mbarrier_init_fence(w, m);
    return RAN;
}

static bool decode_fence(Text *t, Ins *in) {
    static const char *const orders[] = {"sc", "acq_rel", "acquire", "release", NULL};
    in->unit = UNIT_BARRIER;
    if (t->nops) return false;
    if (ptx_mod(t, "mbarrier_init")) {
        in->run = run_mbarrier_init_fence;
        return ptx_mod(t, "release") && ptx_mod(t, "cluster");
    }
    if (ptx_mod(t, "proxy")) { /* .alias and .tensormap fences are left over, and so refused */
        bool bidirectional = ptx_mod(t, "async");
        int space = take_space(t);
        bool global = space == SPACE_GLOBAL, shared = space == SPACE_SHARED || space == SPACE_CLUSTER;
        in->run = run_proxy_fence;
        in->aux[0] = (global ? 0 : 1 << FENCED_SHARED) | (shared ? 0 : 1 << FENCED_GLOBAL);
        return bidirectional && (global || shared || space == SPACE_GENERIC);
    }
    in->run = run_fence;
    return ptx_mod_of(t, orders) >= 0 && take_scope(t);
}

static bool decode_membar(Text *t, Ins *in) {
    static const char *const levels[] = {"cta", "gl", "sys", NULL};
    in->run = run_fence, in->unit = UNIT_BARRIER;
    return ptx_mod_of(t, levels) >= 0 && t->nops == 0;
}

/* ---- cache control ------------------------------------------------------------------------------------ */

static Outcome run_nothing(Warp *w, const Ins *in, u32 m) {
    (void)w, (void)in, (void)m;
    return RAN;
}

enum { TENSOR_MAP_BYTES = 128, TENSOR_MAP_ALIGN = 64, LINE = 128 };

/* prefetch.tensormap: the address must be that of an encoded CUtensorMap. */
static Outcome run_prefetch_tensormap(Warp *w, const Ins *in, u32 m) {
    u64 address[LANES];
    get_addresses(w, &in->op[0], address);
    check_alignment(w, in, m, address, TENSOR_MAP_ALIGN);
    Access a = ptx_access(w, in, m);
    EACH_LANE(l, m) {
        u64 magic;
        Space space = in->space == SPACE_PARAM ? SPACE_PARAM : SPACE_GLOBAL;
        a.lane = (u8)l;
        memcpy(&magic, reach(w, in, address[l], TENSOR_MAP_BYTES, space, READS, &a), sizeof magic);
        if (magic != PTX_TENSOR_MAP_MAGIC)
            ptx_fatal(w, in, LANE_BIT(l), NULL,
                      "%s: there is no tensor map at 0x%llx that cuTensorMapEncodeTiled has made", in->opcode,
                      (unsigned long long)address[l]);
    }
    return RAN;
}

/* A prefetch of any address is harmless: those that are not mapped are ignored. */
static bool decode_prefetch(Text *t, Ins *in) {
    static const char *const levels[] = {"L1", "L2", "L2::evict_last", "L2::evict_normal", NULL};
    in->space = (u8)take_space(t), in->unit = UNIT_GLOBAL;
    bool tensormap = ptx_mod(t, "tensormap");
    in->run = tensormap ? run_prefetch_tensormap : run_nothing;
    return (tensormap || ptx_mod_of(t, levels) >= 0) && t->nops == 1 && use_address(t, in, 0);
}

/* createpolicy: what is in a policy does not matter (a program may also load a constant that it knows). */
static Outcome run_createpolicy(Warp *w, const Ins *in, u32 m) {
    u64 *d = ptx_r64(w, &in->op[0]);
    FOR_LANES(m, d, 0x12f0000000000000u);
    return RAN;
}

static bool decode_createpolicy(Text *t, Ins *in) {
    static const char *const kinds[] = {"fractional", "range", "cvt", NULL};
    static const char *const priorities[] = {
        "L2::evict_last", "L2::evict_normal", "L2::evict_first", "L2::evict_unchanged", "L2", NULL};
    int kind = ptx_mod_of(t, kinds), i = 1;
    in->space = (u8)take_space(t), in->run = run_createpolicy, in->unit = UNIT_ALU, in->ndst = 1;
    while (ptx_mod_of(t, priorities) >= 0) {
    }
    if (kind < 0 || ptx_type(t) != T_B64 || t->nops < 1 || !ptx_use64(t, in, 0)) return false;
    if (kind == 0 && t->nops == 2 && !ptx_use32(t, in, i++)) return false;
    if (kind == 1 && (t->nops != 4 || !use_address(t, in, i++))) return false;
    if (kind == 1 && (!ptx_use32(t, in, i++) || !ptx_use32(t, in, i++))) return false;
    if (kind == 2 && (t->nops != 2 || !ptx_use64(t, in, i++))) return false;
    return i == t->nops;
}

static bool decode_applypriority(Text *t, Ins *in) {
    s64 size;
    in->space = (u8)take_space(t), in->run = run_nothing, in->unit = UNIT_GLOBAL;
    return ptx_mod(t, "L2::evict_normal") && t->nops == 2 && use_address(t, in, 0) &&
           ptx_immediate(t, 1, &size) && size == LINE;
}

/* discard.L2: the line then holds nothing in particular (PTX ISA 9.7.9.17). */
static Outcome run_discard(Warp *w, const Ins *in, u32 m) {
    u64 address[LANES];
    u8 *at[LANES];
    get_addresses(w, &in->op[0], address);
    check_alignment(w, in, m, address, LINE);
    reach_all(w, in, m, address, WRITES, at);
    EACH_LANE(l, m) memset(at[l], 0xdd, LINE);
    return RAN;
}

static bool decode_discard(Text *t, Ins *in) {
    s64 size;
    ptx_mod(t, "global");
    in->space = SPACE_GLOBAL, in->n = LINE, in->run = run_discard, in->unit = UNIT_GLOBAL;
    return ptx_mod(t, "L2") && t->nops == 2 && use_address(t, in, 0) && ptx_immediate(t, 1, &size) &&
           size == LINE;
}

const Opcode ptx_memory_opcodes[] = {{"ld", decode_ld},
                                     {"ldu", decode_ld},
                                     {"st", decode_st},
                                     {"atom", decode_atom},
                                     {"red", decode_red},
                                     {"cvta", decode_cvta},
                                     {"isspacep", decode_isspacep},
                                     {"mapa", decode_mapa},
                                     {"getctarank", decode_getctarank},
                                     {"fence", decode_fence},
                                     {"membar", decode_membar},
                                     {"prefetch", decode_prefetch},
                                     {"prefetchu", decode_prefetch},
                                     {"createpolicy", decode_createpolicy},
                                     {"applypriority", decode_applypriority},
                                     {"discard", decode_discard},
                                     {NULL, NULL}};
