/* warp.c - instructions that the lanes of a warp execute together: shuffles, votes, matches, reductions,
 * elections (PTX ISA 9.7.9.6, 9.7.13), and the matrix loads and stores (9.7.14.5.15 to .17).  The .sync ones
 * name their lanes in a member mask, and lanes of one group may name different masks (tiles of a warp do):
 * each set of lanes with one mask is an operation of its own, for which next_members() checks what PTX
 * demands. The scheduler has brought the lanes of all these masks together (Ins.member); aligned ones have
 * the whole warp. */
#include "machine.h"

/* Takes the lanes with the same member mask as the first one from *left. */
static u32 next_members(Warp *w, const Ins *in, u32 *left) {
    const u32 *member = ptx_r32(w, &in->op[in->member]);
    int first = ptx_first_lane(*left);
    u32 mask = member[first], part = 0, outside;
    for (int l = 0; l < LANES; l++) part |= (u32)(member[l] == mask) << l;
    part &= *left;
    outside = part & ~mask;
    if (outside)
        ptx_finding(w, in, outside, NULL, "%s executed by a lane outside its own member mask 0x%08x",
                    in->opcode, mask);
    else if (mask & w->live & ~part)
        ptx_finding(w, in, part, NULL,
                    "%s: lanes 0x%08x of member mask 0x%08x do not take part, or name another mask",
                    in->opcode, mask & w->live & ~part, mask);
    *left &= ~part;
    return part;
}

/* for (each set of lanes of m with the same member mask) */
#define EACH_PART(part, m) for (u32 rest_ = (m), part; rest_ && (part = next_members(w, in, &rest_), 1);)

/* Appends the member mask, the last operand. */
static bool use_members(Text *t, Ins *in, int i) {
    in->member = (s8)in->nops;
    return i == t->nops - 1 && ptx_use32(t, in, i);
}

/* d or d|p, a destination that may have a predicate beside it or be _: number of operands used, 0 if it does
 * not fit. */
static int use_pair(Text *t, Ins *in) {
    bool pair = t->nops > 1 && t->op[1].group == 0;
    in->ndst = pair ? 2 : 1;
    if (t->op[0].kind == KIND_PRED || !ptx_use_sink(t, in, 0) || (pair && !ptx_use_pred(t, in, 1))) return 0;
    return in->ndst;
}

/* ---- shfl.sync ---------------------------------------------------------------------------------------- */

enum { SHFL_UP, SHFL_DOWN, SHFL_BFLY, SHFL_IDX };

/* op = d [p] a b c mask; aux[0]: index of a. PTX ISA 9.7.9.6: the segment mask is in bits 8-12 of c, the
 * clamp in 0-4. */
static Outcome run_shfl(Warp *w, const Ins *in, u32 m) {
    u32 *d = ptx_r32(w, &in->op[0]), value[LANES], source[LANES], in_range = 0, absent = 0;
    const u32 *a = ptx_r32(w, &in->op[in->aux[0]]), *b = ptx_r32(w, &in->op[in->aux[0] + 1]);
    const u32 *c = ptx_r32(w, &in->op[in->aux[0] + 2]);
    u32 mode = in->mode;
    memcpy(value, a, sizeof value);
    for (u32 l = 0; l < LANES; l++) {
        u32 lane = b[l] & 31, segment = c[l] >> 8 & 31, clamp = c[l] & 31;
        u32 limit = (l & segment) | (clamp & ~segment);
        u32 j = mode == SHFL_UP     ? l - lane
                : mode == SHFL_DOWN ? l + lane
                : mode == SHFL_BFLY ? l ^ lane
                                    : (l & segment) | (lane & ~segment);
        bool ok = mode == SHFL_UP ? (s32)j >= (s32)limit : j <= limit;
        source[l] = ok ? j : l;
        in_range |= (u32)ok << l;
    }
    EACH_PART(part, m) EACH_LANE(l, part) absent |= (u32)(~part >> source[l] & 1) << l;
    if (absent)
        ptx_finding(w, in, absent, NULL, "shfl reads lane %u, which does not take part",
                    source[ptx_first_lane(absent)]);
    FOR_LANES(m, d, value[source[l]]);
    if (in->ndst == 2) ptx_set_pred(w, &in->op[1], m, in_range);
    return RAN;
}

static bool decode_shfl(Text *t, Ins *in) {
    static const char *const modes[] = {"up", "down", "bfly", "idx", NULL};
    if (!ptx_mod(t, "sync")) return false; /* without .sync: not for sm_70 and later */
    int mode = ptx_mod_of(t, modes), i = use_pair(t, in);
    if (mode < 0 || ptx_type(t) != T_B32 || !i || in->op[0].kind != KIND_R32) return false;
    in->run = run_shfl, in->unit = UNIT_SHUFFLE, in->mode = (u8)mode, in->aux[0] = (u32)i;
    return ptx_use32(t, in, i) && ptx_use32(t, in, i + 1) && ptx_use32(t, in, i + 2) &&
           use_members(t, in, i + 3);
}

/* ---- vote.sync, activemask, match.sync, redux.sync, elect.sync, bar.warp.sync ------------------------- */

enum { VOTE_ALL, VOTE_ANY, VOTE_UNI, VOTE_BALLOT };

static Outcome run_vote(Warp *w, const Ins *in, u32 m) {
    u32 yes = ptx_pred(w, &in->op[1]);
    EACH_PART(part, m) {
        u32 set = yes & part;
        bool result = in->mode == VOTE_ALL   ? set == part
                      : in->mode == VOTE_ANY ? set != 0
                                             : set == part || !set;
        if (in->mode != VOTE_BALLOT)
            ptx_set_pred(w, &in->op[0], part, result ? ALL_LANES : 0);
        else
            FOR_LANES(part, ptx_r32(w, &in->op[0]), set);
    }
    return RAN;
}

static bool decode_vote(Text *t, Ins *in) {
    static const char *const modes[] = {"all", "any", "uni", "ballot", NULL};
    if (!ptx_mod(t, "sync")) return false;
    int mode = ptx_mod_of(t, modes);
    bool ballot = mode == VOTE_BALLOT;
    if (mode < 0 || ptx_type(t) != (ballot ? T_B32 : T_PRED)) return false;
    in->run = run_vote, in->unit = UNIT_ALU, in->mode = (u8)mode, in->ndst = 1;
    return (ballot ? ptx_use32(t, in, 0) : ptx_use_pred(t, in, 0)) && ptx_use_pred(t, in, 1) &&
           use_members(t, in, 2);
}

static Outcome run_activemask(Warp *w, const Ins *in, u32 m) {
    FOR_LANES(m, ptx_r32(w, &in->op[0]), m);
    return RAN;
}

static bool decode_activemask(Text *t, Ins *in) {
    in->run = run_activemask, in->unit = UNIT_ALU, in->ndst = 1;
    return ptx_type(t) == T_B32 && t->nops == 1 && ptx_use32(t, in, 0);
}

/* match.any: the lanes that have the same value; match.all: all if all have, else none. mode 1: all. */
static Outcome run_match(Warp *w, const Ins *in, u32 m) {
    const Operand *a = &in->op[in->ndst];
    u64 value[LANES];
    u32 result[LANES];
    for (int l = 0; l < LANES; l++) value[l] = a->kind == KIND_R64 ? ptx_r64(w, a)[l] : ptx_r32(w, a)[l];
    EACH_PART(part, m) {
        EACH_LANE(l, part) {
            u32 same = 0;
            for (int i = 0; i < LANES; i++) same |= (u32)(value[i] == value[l]) << i;
            result[l] = in->mode ? (part & ~same ? 0 : part) : part & same;
            if (in->ndst == 2) ptx_set_pred(w, &in->op[1], LANE_BIT(l), result[l] ? ALL_LANES : 0);
        }
    }
    if (in->op[0].kind == KIND_R32) FOR_LANES(m, ptx_r32(w, &in->op[0]), result[l]);
    return RAN;
}

static bool decode_match(Text *t, Ins *in) {
    static const char *const modes[] = {"any", "all", NULL};
    int mode = ptx_mod_of(t, modes), bits = ptx_type_bits(ptx_type(t)), i = use_pair(t, in);
    in->run = run_match, in->unit = UNIT_SHUFFLE, in->mode = (u8)mode;
    return ptx_mod(t, "sync") && mode >= 0 && (bits == 32 || bits == 64) && i && in->op[0].kind != KIND_R64 &&
           (i == 1 || mode == 1) && ptx_use_bits(t, in, i, bits) && use_members(t, in, i + 1);
}

enum { REDUX_ADD, REDUX_MIN, REDUX_MAX, REDUX_AND, REDUX_OR, REDUX_XOR };

static Outcome run_redux(Warp *w, const Ins *in, u32 m) {
    u32 value[LANES], flip = in->type == T_S32 ? 0x80000000u : 0; /* orders signed numbers as unsigned ones */
    memcpy(value, ptx_r32(w, &in->op[1]), sizeof value);
    EACH_PART(part, m) {
        u32 r = value[ptx_first_lane(part)];
        EACH_LANE(l, part & (part - 1)) {
            u32 x = value[l];
            switch (in->mode) {
            case REDUX_ADD: r += x; break;
            case REDUX_MIN: r = (x ^ flip) < (r ^ flip) ? x : r; break;
            case REDUX_MAX: r = (x ^ flip) > (r ^ flip) ? x : r; break;
            case REDUX_AND: r &= x; break;
            case REDUX_OR: r |= x; break;
            case REDUX_XOR: r ^= x; break;
            }
        }
        FOR_LANES(part, ptx_r32(w, &in->op[0]), r);
    }
    return RAN;
}

static bool decode_redux(Text *t, Ins *in) {
    static const char *const modes[] = {"add", "min", "max", "and", "or", "xor", NULL};
    int mode = ptx_mod_of(t, modes);
    Type type = ptx_type(t);
    in->run = run_redux, in->unit = UNIT_SHUFFLE, in->mode = (u8)mode, in->type = type, in->ndst = 1;
    return ptx_mod(t, "sync") && mode >= 0 &&
           (mode >= REDUX_AND ? type == T_B32 : type == T_U32 || type == T_S32) && ptx_use32(t, in, 0) &&
           ptx_use32(t, in, 1) && use_members(t, in, 2);
}

/* PTX does not say which lane is elected, only that it is the same one for the same mask: the first, or in a
 * random schedule one that depends on the seed, the launch and the warp. */
static u32 elected(const Warp *w, u32 part) {
    const Cta *c = w->cta;
    if (ptx_device.schedule != RANDOM) return (u32)ptx_first_lane(part);
    u64 x = ptx_device.seed ^ c->grid->serial << 40 ^ (u64)c->cluster->serial << 16 ^ (u64)c->rank << 8 ^
            (u64)w->id;
    x = (x ^ (u64)part << 32) *
        0x9e3779b97f4a7c15u; /* multiplicative hashing: the upper bits are well mixed */
    x = (x ^ x >> 32) * 0x9e3779b97f4a7c15u;
    for (u32 skip = (u32)(x >> 32) % (u32)__builtin_popcount(part); skip; skip--) part &= part - 1;
    return (u32)ptx_first_lane(part);
}

static Outcome run_elect(Warp *w, const Ins *in, u32 m) {
    EACH_PART(part, m) {
        u32 leader = elected(w, part);
        if (in->op[0].kind == KIND_R32) FOR_LANES(part, ptx_r32(w, &in->op[0]), leader);
        ptx_set_pred(w, &in->op[1], part, LANE_BIT(leader));
    }
    return RAN;
}

static bool decode_elect(Text *t, Ins *in) {
    in->run = run_elect, in->unit = UNIT_ALU;
    return ptx_mod(t, "sync") && use_pair(t, in) == 2 && in->op[0].kind != KIND_R64 && use_members(t, in, 2);
}

static Outcome run_sync_warp(Warp *w, const Ins *in, u32 m) {
    EACH_PART(part, m) ptx_sync_warp(w, part);
    return RAN;
}

static bool decode_bar_warp(Text *t, Ins *in) {
    in->run = run_sync_warp, in->unit = UNIT_BARRIER;
    return ptx_mod(t, "warp") && ptx_mod(t, "sync") && use_members(t, in, 0); /* bar.sync, ...: scheduler.c */
}

/* ---- ldmatrix, stmatrix, movmatrix --------------------------------------------------------------------
 * 8x8 matrices of 16-bit elements; lane 8 q + r has the address of row r of matrix q. In registers lane l
 * holds columns 2 (l % 4) and that + 1 of row l / 4, so that row r, 16 bytes, is what lanes 4 r to 4 r + 3 hold
 * in turn. .trans: the matrix in registers is the transposed one. */

enum { ROWS = 8, ROW_BYTES = 16 };

static void transpose(u16 *to, const u16 *from) {
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < ROWS; c++) to[c * ROWS + r] = from[r * ROWS + c];
}

/* Offsets in shared memory of all rows of the vector of matrices; everything about them but the bounds is
 * checked. */
static void row_addresses(Warp *w, const Ins *in, u32 m, const Operand *o, u32 *offset) {
    if (m != ALL_LANES)
        ptx_fatal(w, in, m, NULL, "%s needs all 32 lanes of the warp, only 0x%08x execute it", in->opcode, m);
    int rows = in->vector * ROWS;
    u64 base = in->space == SPACE_GENERIC ? SHARED_WINDOW : 0;
    for (int i = 0; i < rows; i++) {
        u64 a =
            o->kind == KIND_R64 ? ptx_r64(w, o)[i] + (u64)o->value - base : ptx_r32(w, o)[i] + (u32)o->value;
        if (a % ROW_BYTES)
            ptx_fatal(w, in, LANE_BIT(i), NULL,
                      "misaligned address 0x%llx of lane %d: %s needs a multiple of 16",
                      (unsigned long long)a, i, in->opcode);
        if (a >> SHARED_RANK_SHIFT)
            ptx_fatal(w, in, LANE_BIT(i), NULL, "%s: address 0x%llx is not in the shared memory of the CTA",
                      in->opcode, (unsigned long long)(a + base));
        offset[i] = (u32)a;
    }
    ptx_count_matrix(in, offset, rows);
}

/* op = d... address; mode 1: .trans */
static Outcome run_ldmatrix(Warp *w, const Ins *in, u32 m) {
    u32 offset[LANES], matrix[LANES];
    row_addresses(w, in, m, &in->op[in->vector], offset);
    Access a = ptx_access(w, in, m);
    a.lane = LANES;
    for (int i = 0; i < in->vector * ROWS; i++) ptx_shared_read(w->cta, offset[i], ROW_BYTES, &a);
    for (int q = 0; q < in->vector; q++) {
        u32 *d = ptx_r32(w, &in->op[q]);
        for (int r = 0; r < ROWS; r++)
            memcpy(matrix + r * 4, w->cta->shared + offset[q * ROWS + r], ROW_BYTES);
        if (in->mode)
            transpose((u16 *)d, (const u16 *)matrix);
        else
            memcpy(d, matrix, sizeof matrix);
    }
    return RAN;
}

/* op = address s...; every lane writes the part of a row that it holds: a word, or two halves of different
 * rows. */
static Outcome run_stmatrix(Warp *w, const Ins *in, u32 m) {
    u32 offset[LANES], matrix[LANES], bytes = in->mode ? 2 : 4;
    row_addresses(w, in, m, &in->op[0], offset);
    Access a = ptx_access(w, in, m);
    for (int q = 0; q < in->vector; q++) {
        const u32 *s = ptx_r32(w, &in->op[1 + q]);
        if (in->mode)
            transpose((u16 *)matrix, (const u16 *)s);
        else
            memcpy(matrix, s, sizeof matrix);
        for (u32 r = 0; r < ROWS; r++) {
            u32 row = offset[q * ROWS + (int)r];
            for (u32 c = 0; c < ROW_BYTES / bytes; c++) {
                a.lane = (u8)(in->mode ? c * 4 + r / 2 : r * 4 + c);
                if (w->part_lanes) a.know = ptx_knows(w, LANE_BIT(a.lane));
                ptx_shared_write(w->cta, row + c * bytes, bytes, &a);
            }
            memcpy(w->cta->shared + row, matrix + r * 4, ROW_BYTES);
        }
    }
    return RAN;
}

static bool decode_matrix(Text *t, Ins *in, bool load) {
    static const char *const counts[] = {"x1", "x2", "x4", NULL};
    if (!ptx_mod(t, "sync") || !ptx_mod(t, "aligned") || !ptx_mod(t, "m8n8")) return false;
    int count = ptx_mod_of(t, counts), i = 0;
    in->mode = ptx_mod(t, "trans");
    in->space = ptx_mod(t, "shared") || ptx_mod(t, "shared::cta") ? SPACE_SHARED : SPACE_GENERIC;
    if (count < 0 || ptx_type(t) != T_B16 || t->nops != 1 + (1 << count)) return false;
    in->vector = (u8)(1 << count), in->ndst = load ? in->vector : 0;
    in->run = load ? run_ldmatrix : run_stmatrix, in->unit = UNIT_SHARED, in->flags = INS_ALIGNED;
    int address = load ? in->vector : 0;
    bool wide = in->space == SPACE_GENERIC || t->op[address].kind == KIND_R64;
    for (; i < t->nops; i++)
        if (i == address ? !t->op[i].address || !ptx_use_address(t, in, i, wide) : !ptx_use32(t, in, i))
            return false;
    return true;
}
static bool decode_ldmatrix(Text *t, Ins *in) { return decode_matrix(t, in, true); }
static bool decode_stmatrix(Text *t, Ins *in) { return decode_matrix(t, in, false); }

static Outcome run_movmatrix(Warp *w, const Ins *in, u32 m) {
    u32 matrix[LANES];
    if (m != ALL_LANES)
        ptx_fatal(w, in, m, NULL, "%s needs all 32 lanes of the warp, only 0x%08x execute it", in->opcode, m);
    memcpy(matrix, ptx_r32(w, &in->op[1]), sizeof matrix);
    transpose((u16 *)ptx_r32(w, &in->op[0]), (const u16 *)matrix);
    return RAN;
}

static bool decode_movmatrix(Text *t, Ins *in) {
    in->run = run_movmatrix, in->unit = UNIT_SHUFFLE, in->flags = INS_ALIGNED, in->ndst = 1;
    return ptx_mod(t, "sync") && ptx_mod(t, "aligned") && ptx_mod(t, "m8n8") && ptx_mod(t, "trans") &&
           ptx_type(t) == T_B16 && t->nops == 2 && ptx_use32(t, in, 0) && ptx_use32(t, in, 1);
}

const Opcode ptx_warp_opcodes[] = {{"shfl", decode_shfl},
                                   {"vote", decode_vote},
                                   {"activemask", decode_activemask},
                                   {"match", decode_match},
                                   {"redux", decode_redux},
                                   {"elect", decode_elect},
                                   {"bar", decode_bar_warp},
                                   {"ldmatrix", decode_ldmatrix},
                                   {"stmatrix", decode_stmatrix},
                                   {"movmatrix", decode_movmatrix},
                                   {NULL, NULL}};
