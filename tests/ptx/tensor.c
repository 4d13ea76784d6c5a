/* tensor.c - tensor cores: mma.sync, and wgmma with its queue.
 *
 * Both come down to one kernel, multiply(): a warp's 16 rows of A times n columns of B, added to accumulators
 * that lie in the register file as PTX ISA lays them out (lane 4g + t holds columns 2t and 2t + 1 of rows g
 * and g + 8, of each block of 8 columns), so that a register row is a vector and nothing has to be
 * transposed. Operands are widened to float first, which is exact for every type; so are the products. Sums
 * are made in float, starting from the accumulator and going up in k; f16 accumulators are rounded once an
 * instruction. Integer sums (at most 32 products below 2^16) are exact in float; they are added to the 32-bit
 * accumulator as integers. A card may align and truncate addends differently: PTX leaves that open, and
 * results agree within rounding only.
 *
 * In this order: multiply, widening, mma.sync, shared-memory matrices of wgmma, its queue, decoders.
 *
 * wgmma is an operation of a warpgroup. Each of the four warps issues its part: registers are checked and
 * marked as in flight, and the warp's share of the reads of shared memory is checked and recorded. The
 * operations of a warpgroup form one queue, and one is carried out for all four warps at once, in order, when
 * all of them have committed it and the schedule says so: at once (IN_ORDER), when a wait_group needs it
 * (LAZY), at some moment in between (RANDOM).
 *
 * PTX ISA 9.1: 9.7.14.5 (mma), 9.7.15.5 to 9.7.15.7 (wgmma).
 */
#include <stdlib.h>
#if defined __AVX512F__ || defined __FMA__
#include <immintrin.h>
#endif
#include "machine.h"
#include "numeric.h"

/* ---- multiply ------------------------------------------------------------------------------------------ */

/* Products are exact: fused and separate multiply-adds agree, unless a product leaves the range of float. */
#if defined __AVX512F__
enum { VEC = 16, BLOCKS = 4 /* of 8 columns at a time: as many as there are vector registers for */ };
typedef __m512 Vec;
static inline Vec load(const float *p) { return _mm512_loadu_ps(p); }
static inline void store(float *p, Vec v) { _mm512_storeu_ps(p, v); }
static inline Vec repeat4(const float *p) { return _mm512_broadcast_f32x4(_mm_loadu_ps(p)); }
static inline Vec multiply_add(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
#define SAME4(v, t) _mm512_permute_ps(v, (t)*0x55) /* element t of each four, four times */
#elif defined __FMA__
enum { VEC = 8, BLOCKS = 1 };
typedef __m256 Vec;
static inline Vec load(const float *p) { return _mm256_loadu_ps(p); }
static inline void store(float *p, Vec v) { _mm256_storeu_ps(p, v); }
static inline Vec repeat4(const float *p) { return _mm256_broadcast_ps((const __m128 *)(const void *)p); }
static inline Vec multiply_add(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
#define SAME4(v, t) _mm256_permute_ps(v, (t)*0x55)
#else
enum { VEC = 4, BLOCKS = 1 };
typedef float Vec __attribute__((vector_size(16)));
static inline Vec load(const float *p) {
    Vec v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline void store(float *p, Vec v) { memcpy(p, &v, sizeof v); }
static inline Vec repeat4(const float *p) { return load(p); }
static inline Vec multiply_add(Vec a, Vec b, Vec c) { return a * b + c; }
#define SAME4(v, t) __builtin_shufflevector(v, v, t, t, t, t)
#endif

/* 16 rows of A: element (h * 8 + g, k) in all four lanes of row g. */
typedef float RowsA[32][2][LANES]; /* [k][h][lane] */
enum { MAX_K = 32, MAX_N = 256, MAX_SUMS = MAX_N / 2 };

/* B is [k][n], each 8 columns in the order 0 2 4 6 1 3 5 7: the columns that one register holds are
 * neighbours. */
static inline int column(int n) { return (n & ~7) | (n & 1) << 2 | (n >> 1 & 3); }

static inline __attribute__((always_inline)) void multiply_blocks(float *const *d, const RowsA a,
                                                                  const float *b, int n, int depth,
                                                                  const int blocks) {
    for (int h = 0; h < 2; h++) {
        Vec sum[2 * BLOCKS][LANES / VEC];
        for (int i = 0; i < 2 * blocks; i++)
            for (int v = 0; v < LANES / VEC; v++) sum[i][v] = load(d[i / 2 * 4 + 2 * h + i % 2] + v * VEC);
        for (int k = 0; k < depth; k++)
            for (int i = 0; i < 2 * blocks; i++) {
                Vec columns = repeat4(b + k * n + 4 * i);
                for (int v = 0; v < LANES / VEC; v++)
                    sum[i][v] = multiply_add(load(a[k][h] + v * VEC), columns, sum[i][v]);
            }
        for (int i = 0; i < 2 * blocks; i++)
            for (int v = 0; v < LANES / VEC; v++) store(d[i / 2 * 4 + 2 * h + i % 2] + v * VEC, sum[i][v]);
    }
}

/* d[r] += A B for n columns: d[4j + 2h + p] is the row of lanes of columns 8j + 2t + p, rows g + 8h. */
static void multiply(float *const *d, const RowsA a, const float *b, int n, int depth) {
    int j = 0;
    for (; j + BLOCKS <= n / 8; j += BLOCKS) multiply_blocks(d + 4 * j, a, b + 8 * j, n, depth, BLOCKS);
    for (; j < n / 8; j++) multiply_blocks(d + 4 * j, a, b + 8 * j, n, depth, 1);
}

/* ---- types --------------------------------------------------------------------------------------------- */

static inline void widen(float *to, const void *from, int n /* multiple of 8, or 4 */, Type type,
                         bool negate) {
    const u8 *b = from;
    const u16 *h = from;
    const u32 *w = from;
    const u32 sign = negate ? 0x80000000u : 0;
#define WIDEN(value) \
    for (int i = 0; i < n; i++) to[i] = ptx_float(ptx_bits(value) ^ sign); \
    break
    switch (type) {
    case T_F16: WIDEN(ptx_f16_to_f32(h[i]));
    case T_BF16: WIDEN(ptx_bf16_to_f32(h[i]));
    case T_TF32: WIDEN(ptx_float(w[i] & ~0x1fffu)); /* the low 13 bits are ignored */
    case T_E4M3: WIDEN(ptx_e4m3_to_f32(b[i]));
    case T_E5M2: WIDEN(ptx_e5m2_to_f32(b[i]));
    case T_S8: WIDEN((float)(s8)b[i]);
    default: WIDEN((float)b[i]);
    }
#undef WIDEN
}

static int size_of(Type type) {
    return type == T_F16 || type == T_BF16 ? 2 : type == T_TF32 ? 4 : type == T_F64 ? 8 : 1;
}

/* The types that an instruction takes for A and B in any combination go by the name of one of them. */
static Type family(Type type) { return type == T_U8 ? T_S8 : type == T_E5M2 ? T_E4M3 : type; }

static bool accumulates_in(Type a, Type d) {
    switch (family(a)) {
    case T_F16:
    case T_E4M3: return d == T_F32 || d == T_F16;
    case T_BF16:
    case T_TF32: return d == T_F32;
    case T_S8: return d == T_S32;
    default: return a == T_F64 && d == T_F64;
    }
}

/* Ins.mode */
enum {
    A_ACROSS = 1, /* A is MN-major: k is the slow index */
    B_ACROSS = 2,
    NEGATE = 4, /* of the product: exactly one of imm-scale-a and imm-scale-b is -1 */
    SATURATE = 8,
    A_REGISTERS = 16,
    KEEP_ALWAYS = 32, /* scale-d is the constant 1 */
    KEEP_IF = 64      /* scale-d is the last operand, a predicate */
};

/* d = c + A B, c NULL: zero. in: .type of A and B, .width of C and D. */
static void accumulate(Warp *w, const Ins *in, const Operand *c, const RowsA a, const float *b, int n) {
    static float sums[MAX_SUMS][LANES];
    float *row[MAX_SUMS];
    const Operand *d = in->op;
    const size_t bytes = sizeof sums[0];
    bool in_place = in->width == T_F32 && (!c || c == d);
    int given = in->width == T_F16 ? n / 2 : in->ndst; /* m8n8k16: rows 8 to 15 go nowhere */
    for (int i = 0; i < n / 2; i++) {
        row[i] = in_place ? ptx_rf(w, &d[i]) : sums[i];
        if (!c || in->width == T_S32) {
            memset(row[i], 0, bytes);
        } else if (in->width == T_F16) {
            const u32 *pair = ptx_r32(w, &c[i / 2]);
            FOR_LANES(ALL_LANES, row[i], ptx_f16_to_f32((u16)(pair[l] >> 16 * (i & 1))));
        } else if (!in_place) {
            memcpy(row[i], ptx_rf(w, &c[i]), bytes);
        }
    }
    multiply(row, a, b, n, in->k);
    if (in->width == T_S32) {
        static u32 old[MAX_SUMS][LANES]; /* read before the first is written: d may share registers with c */
        for (int i = 0; c && i < given; i++) memcpy(old[i], ptx_r32(w, &c[i]), bytes);
        for (int i = 0; i < given; i++)
            for (int l = 0; l < LANES; l++) {
                s64 sum = (c ? (s64)(s32)old[i][l] : 0) + (s64)row[i][l];
                if (in->mode & SATURATE)
                    sum = sum < INT32_MIN ? INT32_MIN : sum > INT32_MAX ? INT32_MAX : sum;
                ptx_r32(w, &d[i])[l] = (u32)sum;
            }
    } else if (in->width == T_F16) {
        for (int i = 0; i < given; i += 2) {
            const float *low = row[i], *high = row[i + 1];
            FOR_LANES(ALL_LANES, ptx_r32(w, &d[i / 2]),
                      ptx_f32_to_f16(low[l]) | (u32)ptx_f32_to_f16(high[l]) << 16);
        }
    } else if (!in_place) {
        for (int i = 0; i < given; i++) memcpy(ptx_rf(w, &d[i]), row[i], bytes);
    }
}

/* ---- fragments and mma.sync -------------------------------------------------------------------------------
 * A register holds `per` elements, neighbours in k. Register r of A: rows g + 8 (r % halves), k from
 * 4 per (r / halves) + per t; register r of B: column g, k from 4 per r + per t. */

static inline void splat4(float *to, float value) { to[0] = to[1] = to[2] = to[3] = value; }

/* Element e of a register, for all lanes. */
static void widen_register(float *to, const u32 *r, int e, Type type, bool negate) {
    int bits = 8 * size_of(type);
    u16 half[LANES];
    u8 byte[LANES];
    if (bits == 32) {
        widen(to, r, LANES, type, negate);
    } else if (bits == 16) {
        for (int l = 0; l < LANES; l++) half[l] = (u16)(r[l] >> 16 * e);
        widen(to, half, LANES, type, negate);
    } else {
        for (int l = 0; l < LANES; l++) byte[l] = (u8)(r[l] >> 8 * e);
        widen(to, byte, LANES, type, negate);
    }
}

static void load_a(Warp *w, const Operand *r, int count, int halves, Type type, bool negate, RowsA a) {
    float f[LANES];
    int per = 4 / size_of(type);
    for (int i = 0; i < count; i++)
        for (int e = 0; e < per; e++) {
            int k = i / halves * 4 * per + e;
            widen_register(f, ptx_r32(w, &r[i]), e, type, negate);
            for (int v = 0; v < LANES; v += VEC) {
                Vec x = load(f + v);
                store(&a[k][i % halves][v], SAME4(x, 0));
                store(&a[k + per][i % halves][v], SAME4(x, 1));
                store(&a[k + 2 * per][i % halves][v], SAME4(x, 2));
                store(&a[k + 3 * per][i % halves][v], SAME4(x, 3));
            }
        }
}

static void load_b(Warp *w, const Operand *r, int count, Type type, float *b) {
    float f[LANES];
    int per = 4 / size_of(type);
    for (int i = 0; i < count; i++)
        for (int e = 0; e < per; e++) {
            widen_register(f, ptx_r32(w, &r[i]), e, type, false);
            for (int t = 0; t < 4; t++)
                for (int g = 0; g < 8; g++) b[((i * 4 + t) * per + e) * 8 + column(g)] = f[4 * g + t];
        }
}

static void need_all_lanes(Warp *w, const Ins *in, u32 m) {
    if (m != ALL_LANES) ptx_fatal(w, in, m, NULL, "%s needs all 32 lanes of the warp", in->opcode);
}

/* Operands: D, A, B, C. */
static Outcome run_mma(Warp *w, const Ins *in, u32 m) {
    static RowsA a;
    float b[MAX_K * 8];
    int halves = in->n / 8, per = 4 / size_of(in->type), registers_b = in->k / (4 * per);
    const Operand *ops_a = in->op + in->ndst, *ops_b = ops_a + registers_b * halves,
                  *ops_c = ops_b + registers_b;
    need_all_lanes(w, in, m);
    load_b(w, ops_b, registers_b, in->type2, b);
    load_a(w, ops_a, registers_b * halves, halves, in->type, false, a);
    accumulate(w, in, ops_c, a, b, 8);
    u64 macs = (u64)in->n * 8 * in->k;
    *(size_of(in->type) == 1 ? &ptx_count.mac_mma_8bit : &ptx_count.mac_mma) += macs;
    return RAN;
}

/* The same layout with one element a register; sums by fma, going up in k. */
static Outcome run_mma_f64(Warp *w, const Ins *in, u32 m) {
    int halves = in->n / 8;
    const Operand *a = in->op + in->ndst, *b = a + in->k / 4 * halves, *c = b + in->k / 4;
    double sum[4][LANES];
    need_all_lanes(w, in, m);
    for (int i = 0; i < in->ndst; i++)
        for (int l = 0; l < LANES; l++) {
            double s = ptx_double(ptx_r64(w, &c[i])[l]);
            for (int k = 0; k < in->k; k++) {
                int lane_a = (l & ~3) + k % 4, lane_b = (2 * (l % 4) + i % 2) * 4 + k % 4;
                s = fma(ptx_double(ptx_r64(w, &a[k / 4 * halves + i / 2])[lane_a]),
                        ptx_double(ptx_r64(w, &b[k / 4])[lane_b]), s);
            }
            sum[i][l] = s;
        }
    for (int i = 0; i < in->ndst; i++) FOR_LANES(ALL_LANES, ptx_r64(w, &in->op[i]), ptx_bits64(sum[i][l]));
    ptx_count.mac_mma += (u64)in->n * 8 * in->k;
    return RAN;
}

/* ---- matrices in shared memory ----------------------------------------------------------------------------
 * A matrix of 8-row groups: 32 bytes of k (16 elements of 16 bits, ...) are two halves, and (group, half) is
 * a core matrix of eight lines of 16 bytes. K-major: a line is one row (m or n), 16 bytes of k. MN-major: a
 * line is one k, eight rows. Both layouts differ in where core matrices and lines lie, and in what a line
 * means. */

typedef struct {
    u32 start, lead, stride; /* bytes */
    u8 mode;                 /* swizzle as ptx_swizzle() has it: 0 none, 1 32 bytes, 2 64, 3 128 */
    bool across;             /* MN-major */
    int groups;              /* of 8 rows */
} Matrix;

static Matrix matrix_of(u64 descriptor, bool across, int rows) {
    u8 mode = descriptor >> 62 & 3;
    return (Matrix){.start = (descriptor & 0x3fff) << 4,
                    .lead = (descriptor >> 16 & 0x3fff) << 4,
                    .stride = (descriptor >> 32 & 0x3fff) << 4,
                    .mode = mode ? 4 - mode : 0, /* the descriptor has 1: 128 bytes, 2: 64, 3: 32 */
                    .across = across,
                    .groups = rows / 8};
}

/* Shared address of a line (PTX ISA 9.7.15.5.1.2; leading and stride offsets swap roles in swizzled MN-
 * major). */
static inline u32 line_at(const Matrix *x, int group, int half, int line) {
    u32 g = (u32)group, h = (u32)half, i = (u32)line, span = 16u << x->mode; /* bytes of a swizzled row */
    u32 offset = !x->mode    ? g * x->stride + h * x->lead + i * 16
                 : x->across ? (g >> x->mode) * x->lead + h * x->stride + i * span + g % (span / 16) * 16
                             : g * x->stride + i * span + h * 16;
    return ptx_swizzle(x->start + offset, x->mode);
}

/* All groups of A, for four warps. */
static void load_a_shared(const u8 *shared, const Matrix *x, Type type, bool negate, RowsA a[4]) {
    float f[16];
    int per = 16 / size_of(type);
    for (int group = 0; group < 8; group++)
        for (int half = 0; half < 2; half++)
            for (int line = 0; line < 8; line++) {
                widen(f, shared + line_at(x, group, half, line), per, type, negate);
                for (int e = 0; e < per; e++) {
                    int k = x->across ? 8 * half + line : half * per + e, row = x->across ? e : line;
                    splat4(&a[group / 2][k][group % 2][4 * row], f[e]);
                }
            }
}

static void load_b_shared(const u8 *shared, const Matrix *x, Type type, float *b) {
    float f[16];
    int per = 16 / size_of(type), n = x->groups * 8;
    for (int group = 0; group < x->groups; group++)
        for (int half = 0; half < 2; half++)
            for (int line = 0; line < 8; line++) {
                widen(f, shared + line_at(x, group, half, line), per, type, false);
                float *to =
                    b + 8 * group + (x->across ? (8 * half + line) * n : half * per * n + column(line));
                if (x->across)
                    for (int e = 0; e < 8; e++) to[column(e)] = f[e];
                else
                    for (int e = 0; e < per; e++) to[e * n] = f[e];
            }
}

/* What can be wrong with a descriptor before any address is made of it. */
static void check_matrix(Warp *w, const Ins *in, char name, u64 descriptor, const Matrix *x) {
    u32 span = 16u << x->mode, needs = 32;
    if (descriptor & 0x3ff1c000c000c000u)
        ptx_fatal(w, in, ALL_LANES, NULL, "descriptor of %c: 0x%016llx has reserved bits set", name,
                  (unsigned long long)descriptor);
    if (descriptor >> 49 & 7)
        ptx_fatal(
            w, in, ALL_LANES, NULL,
            "descriptor of %c: base offset %d; only 0 is supported (start the pattern at a multiple of %u)",
            name, (int)(descriptor >> 49 & 7), 8 * span);
    if (!x->mode) return;
    if (x->start % (8 * span) >= span)
        ptx_fatal(w, in, ALL_LANES, NULL,
                  "descriptor of %c: start address 0x%x is %u bytes into its swizzle pattern of %u bytes, "
                  "which needs another base offset than 0",
                  name, x->start, x->start % (8 * span), 8 * span);
    if (x->across) needs = (u32)x->groups * 16 < span ? (u32)x->groups * 16 : span;
    if (x->start % span + needs > span)
        ptx_fatal(w, in, ALL_LANES, NULL,
                  "descriptor of %c: start address 0x%x: %u bytes cross the swizzled row of %u", name,
                  x->start, needs, span);
}

/* Bounds, and the record of the reads, of some groups of a matrix. */
static void read_matrix(Warp *w, const Ins *in, char name, const Matrix *x, int from, int to,
                        const Access *access) {
    static u64 touched[4096]; /* a bit for each 16 bytes of shared memory; zero between calls */
    u32 least = UINT32_MAX, most = 0;
    for (int group = from; group < to; group++)
        for (int half = 0; half < 2; half++)
            for (int line = 0; line < 8; line++) {
                u32 at = line_at(x, group, half, line), row = (u32)group * 8 + (x->across ? 0 : (u32)line);
                if (at + 16 > w->cta->shared_bytes)
                    ptx_fatal(w, in, ALL_LANES, NULL,
                              "descriptor of %c: %s %u, k %d lies at shared address 0x%x, beyond the %u "
                              "bytes of the CTA",
                              name, name == 'A' ? "row" : "column", row,
                              x->across ? 8 * half + line
                                        : half * (16 / size_of(name == 'A' ? in->type : in->type2)),
                              at, w->cta->shared_bytes);
                u32 word = at / 1024;
                touched[word] |= 1ull << at / 16 % 64;
                least = word < least ? word : least, most = word > most ? word : most;
            }
    for (u32 word = least; word <= most && from < to; word++) {
        u64 left = touched[word];
        touched[word] = 0;
        while (left) { /* runs of neighbours */
            u32 first = (u32)__builtin_ctzll(left);
            u64 after = ~(left >> first);
            u32 count = after ? (u32)__builtin_ctzll(after) : 64, end = first + count;
            if (ptx_device.checks) ptx_shared_read(w->cta, word * 1024 + first * 16, count * 16, access);
            left = end < 64 ? left >> end << end : 0;
        }
    }
}

/* ---- the queue of a warpgroup -------------------------------------------------------------------------- */

typedef struct { /* one wgmma of the warpgroup */
    const Ins *in;
    u64 a, b;     /* descriptors */
    u32 group;    /* commit group, from 0 */
    u8 issued_by; /* warps */
    bool keep;    /* scale-d */
} Operation;

typedef struct { /* mov of a register in flight */
    const Ins *in;
    u32 lanes, after; /* when that many operations are done */
    s32 owner;        /* as of the destination */
    bool input, done, captured;
    u64 value[LANES]; /* captured: of a source that was not in flight */
} Move;

typedef struct {  /* of a register of a warp, in a kernel that uses wgmma */
    u32 fences;   /* how many wgmma.fence the warp had executed when it was last accessed, plus 1 */
    s32 accessed; /* index of that instruction */
    s32 owner;    /* in flight: index of the wgmma */
    bool written; /* by that access, or only read */
    bool input;   /* in flight as A, not as accumulator */
} Register;

typedef struct {
    Warp *warp;
    u32 issued, committed, retired, fences; /* operations, groups, operations waited for, wgmma.fence + 1 */
    Register *reg;
    Move *move;
    int nmoves, room;
} Member;

typedef struct WgmmaQueue {
    Member member[4];
    int members;
    Operation *op; /* [issued by any warp - first] */
    u32 first, count, room, done;
    int actor; /* 0: not yet */
} Queue;

static Member *member_of(const Warp *w) { return &w->wgmma->member[w->id % 4]; }
static Operation *operation(Queue *q, u32 i) { return &q->op[i - q->first]; }

void ptx_tensor_start_cta(Cta *c) {
    if (!c->grid->kernel->uses_wgmma) return;
    for (int first = 0; first < c->nwarps; first += 4) {
        Queue *q = calloc(1, sizeof *q);
        for (int i = 0; i < 4 && first + i < c->nwarps; i++, q->members++) {
            Warp *w = &c->warp[first + i];
            q->member[i] =
                (Member){.warp = w, .fences = 1, .reg = calloc(c->grid->kernel->rows + 1, sizeof(Register))};
            w->wgmma = q;
        }
    }
}

void ptx_tensor_free_cta(Cta *c) {
    for (int first = 0; first < c->nwarps; first += 4) {
        Queue *q = c->warp[first].wgmma;
        if (!q) continue;
        for (int i = 0; i < q->members; i++) {
            free(q->member[i].reg), free(q->member[i].move);
            q->member[i].warp->wgmma = NULL;
        }
        free(q->op), free(q);
    }
}

static const Ins *instruction(const Warp *w, s32 index) { return &w->cta->grid->kernel->code[index]; }
static s32 index_of(const Warp *w, const Ins *in) { return (s32)(in - w->cta->grid->kernel->code); }

static void set_flight(Member *me, const Operand *o, const Ins *owner, bool input) {
    Warp *w = me->warp;
    w->in_flight += !w->reg_flight[o->row];
    w->reg_flight[o->row] = 1;
    me->reg[o->row].owner = index_of(w, owner), me->reg[o->row].input = input;
}
static void clear_flight(Member *me, const Operand *o) {
    me->warp->in_flight -= me->warp->reg_flight[o->row];
    me->warp->reg_flight[o->row] = 0;
}
static void set_flight_operation(Member *me, const Ins *in) {
    for (int i = 0; i < in->ndst; i++) set_flight(me, &in->op[i], in, false);
    if (in->mode & A_REGISTERS)
        for (int i = 0; i < 4; i++) set_flight(me, &in->op[in->ndst + i], in, true);
}

static void run_moves(Queue *q) {
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < q->member[i].nmoves; j++) {
            Move *v = &q->member[i].move[j];
            Warp *w = q->member[i].warp;
            if (v->done || v->after > q->done) continue;
            const Operand *d = &v->in->op[0], *s = &v->in->op[1];
            v->done = true;
            if (d->kind == KIND_R64)
                FOR_LANES(v->lanes, ptx_r64(w, d), v->captured ? v->value[l] : ptx_r64(w, s)[l]);
            else
                FOR_LANES(v->lanes, ptx_r32(w, d), v->captured ? (u32)v->value[l] : ptx_r32(w, s)[l]);
        }
}

/* The oldest operation that is not done, for all four warps. */
static void carry_out(Queue *q) {
    static RowsA a[4];
    static float b[MAX_K * MAX_N];
    const Operation *o = operation(q, q->done++);
    const Ins *in = o->in;
    const u8 *shared = q->member[0].warp->cta->shared;
    bool negate = in->mode & NEGATE;
    if (!(in->mode & A_REGISTERS)) {
        Matrix x = matrix_of(o->a, in->mode & A_ACROSS, 64);
        load_a_shared(shared, &x, in->type, negate, a);
    }
    Matrix x = matrix_of(o->b, in->mode & B_ACROSS, in->n);
    load_b_shared(shared, &x, in->type2, b);
    for (int i = 0; i < 4; i++) {
        Warp *w = q->member[i].warp;
        if (in->mode & A_REGISTERS) load_a(w, in->op + in->ndst, 4, 2, in->type, negate, a[i]);
        accumulate(w, in, o->keep ? in->op : NULL, a[i], b, in->n);
    }
    run_moves(q);
    *(size_of(in->type) == 1 ? &ptx_count.mac_wgmma_8bit : &ptx_count.mac_wgmma) += (u64)64 * in->n * in->k;
    ptx_count.wgmma_shared_bytes += (u64)32 * (in->n + (in->mode & A_REGISTERS ? 0 : 64));
}

/* How many groups all four warps have committed. */
static u32 committed_by_all(const Queue *q) {
    u32 least = UINT32_MAX;
    for (int i = 0; i < 4; i++) least = q->member[i].committed < least ? q->member[i].committed : least;
    return least;
}
static bool carry_out_one(Queue *q, u32 groups) {
    if (q->done == q->first + q->count || operation(q, q->done)->group >= groups) return false;
    carry_out(q);
    return true;
}

bool ptx_wgmma_step(Cta *c) {
    if (ptx_device.schedule != RANDOM) return false;
    u32 queues = (u32)c->nwarps / 4, start = queues ? ptx_random(c->grid, queues) : 0;
    for (u32 i = 0; i < queues; i++) {
        Queue *q = c->warp[(start + i) % queues * 4].wgmma;
        if (q && carry_out_one(q, committed_by_all(q))) return true;
    }
    return false;
}

/* ---- issue --------------------------------------------------------------------------------------------- */

static Party party(const Warp *w, const Ins *in) {
    return (Party){in, w->cta->cluster->serial, (u32)ptx_warp_actor(w), LANES};
}

const Ins *ptx_wgmma_owner(const Warp *w, u32 row) {
    return w->wgmma && w->reg_flight[row] ? instruction(w, member_of(w)->reg[row].owner) : NULL;
}

/* A copy is no access of its own, compilers make one wherever they need another name: the destination
 * takes over the write of its source. Registers in flight are left alone: a finding, or a move that runs
 * behind the wgmma. */
void ptx_wgmma_note_write(Warp *w, const Ins *in) {
    Member *me = member_of(w);
    Register now = {.fences = me->fences, .accessed = index_of(w, in)}, copied = {0};
    bool copies = in->flags & INS_COPIES;
    for (int i = in->nops - 1; i >= 0; i--) { /* sources first */
        const Operand *o = &in->op[i];
        if ((o->kind != KIND_R32 && o->kind != KIND_R64) || w->reg_flight[o->row]) continue;
        Register *r = &me->reg[o->row];
        if (i < in->ndst) {
            *r = copies ? copied : now;
            r->written |= !copies;
        } else if (copies) {
            copied = r->written && r->fences > copied.fences ? *r : copied;
        } else if (!r->written || r->fences < me->fences) {
            *r = now;
        }
    }
}

bool ptx_wgmma_defer_move(Warp *w, const Ins *in, u32 m) {
    const Operand *d = &in->op[0], *s = &in->op[1];
    if (strncmp(in->opcode, "mov", 3) || in->ndst != 1 || in->nops != 2 || d->kind != s->kind) return false;
    Member *me = member_of(w);
    Register *to = &me->reg[d->row], *from = &me->reg[s->row];
    bool unknown = w->reg_flight[s->row] && !from->input; /* a register of A keeps its value */
    if (!unknown && !w->reg_flight[d->row]) {
        in->run(w, in, m);
        ptx_wgmma_note_write(w, in);
        return true;
    }
    if (me->nmoves == me->room)
        me->move = realloc(me->move, sizeof *me->move * (size_t)(me->room = 2 * me->room + 64));
    Move *v = &me->move[me->nmoves++];
    *v = (Move){.in = in, .lanes = m, .after = me->issued, .captured = !unknown};
    if (unknown) {
        *to = *from; /* no access: it stays an accumulator of that wgmma */
        set_flight(me, d, instruction(w, from->owner), false);
    } else {
        for (int l = 0; l < LANES; l++)
            v->value[l] = s->kind == KIND_R64 ? ptx_r64(w, s)[l] : ptx_r32(w, s)[l];
        to->fences = me->fences, to->accessed = index_of(w, in), to->written = true;
    }
    v->owner = to->owner, v->input = to->input;
    run_moves(w->wgmma);
    return true;
}

static bool same_shape(const Ins *a, const Ins *b) {
    return a->n == b->n && a->k == b->k && a->width == b->width;
}

/* PTX ISA 9.7.15.7.1: a wgmma.fence comes before the first wgmma of a warp, and between any other access to a
 * register and a wgmma that uses it, but not between wgmmas of one shape that add to the same accumulators.
 * Reports the first register that is wrong. */
static void check_registers(Member *me, const Ins *in, bool keep) {
    Warp *w = me->warp;
    if (me->fences == 1) {
        ptx_finding(w, in, ALL_LANES, NULL, "missing wgmma.fence: none before this, the warp's first, wgmma");
        return;
    }
    for (int i = 0; i < in->ndst + (in->mode & A_REGISTERS ? 4 : 0); i++) {
        s32 row = in->op[i].row;
        const Register *r = &me->reg[row];
        bool input = i >= in->ndst, unfenced = r->fences == me->fences;
        const char *name = input ? "A" : "accumulator";
        int number = input ? i - in->ndst : i;
        Party owner = party(w, instruction(w, r->owner)), other = party(w, instruction(w, r->accessed));
        if ((input || keep) && w->reg_init[row] != ALL_LANES)
            ptx_finding(w, in, ~w->reg_init[row], NULL, "%s register %d holds no value%s", name, number,
                        input ? "" : " (scale-d is true)");
        else if (w->reg_flight[row] && input != r->input)
            ptx_finding(w, in, ALL_LANES, &owner, "%s register %d is in flight as %s of an earlier wgmma",
                        name, number, r->input ? "A" : "an accumulator");
        else if (unfenced && other.in->unit != UNIT_WGMMA)
            ptx_finding(
                w, in, ALL_LANES, &other,
                "missing wgmma.fence: %s register %d was %s after the last one (if not in the source, "
                "the compiler moved it: pin the value by asm volatile(\"\" : \"+f\"(x)) before the fence)",
                name, number, r->written ? "written" : "read");
        else if (unfenced && !input && !same_shape(in, other.in))
            ptx_finding(w, in, ALL_LANES, &other,
                        "missing wgmma.fence: accumulator register %d was used by a wgmma of another shape",
                        number);
        else
            continue;
        return;
    }
}

_Noreturn static void disagree(const Member *me, const Ins *in, const Ins *other, const char *what) {
    Party p = party(me->warp, other);
    p.actor = (u32)ptx_warp_actor(&me->warp->cta->warp[me->warp->id & ~3]);
    ptx_fatal(me->warp, in, ALL_LANES, &p, "warps of a warpgroup disagree: %s", what);
}

/* The warp's part of its next operation: the warp that comes first makes it, the others must agree. */
static void enqueue(Member *me, Operation o) {
    Queue *q = me->warp->wgmma;
    u8 bit = (u8)(1 << me->warp->id % 4);
    if (me->issued == q->first + q->count) {
        for (int i = 0; i < 4; i++)
            if (q->member[i].committed > o.group)
                disagree(me, o.in, NULL, "another warp has committed this group with fewer wgmmas");
        if (q->count == q->room) q->op = realloc(q->op, sizeof *q->op * (q->room = 2 * q->room + 32));
        q->op[q->count++] = o;
    }
    Operation *other = operation(q, me->issued);
    if (other->in != o.in)
        disagree(me, o.in, other->in, "another warp issued a different wgmma in this place");
    if (other->group != o.group) disagree(me, o.in, other->in, "this wgmma is in different commit groups");
    if (other->a != o.a || other->b != o.b) disagree(me, o.in, other->in, "descriptors of this wgmma differ");
    if (other->keep != o.keep) disagree(me, o.in, other->in, "scale-d of this wgmma differs");
    other->issued_by |= bit;
    me->issued++;
}

static u64 uniform(Warp *w, const Ins *in, const Operand *o, char name) {
    const u64 *v = ptx_r64(w, o);
    for (u32 l = 1; l < LANES; l++)
        if (v[l] != v[0])
            ptx_fatal(w, in, LANE_BIT(l), NULL, "descriptor of %c differs from lane to lane", name);
    return v[0];
}

/* The checks that all four instructions share. */
static Member *warpgroup(Warp *w, const Ins *in, u32 m) {
    need_all_lanes(w, in, m);
    if (w->wgmma->members < 4)
        ptx_fatal(
            w, in, m, NULL,
            "%s by warp %d: a warpgroup is 4 warps, the first divisible by 4, and this CTA has %d warps",
            in->opcode, w->id, w->cta->nwarps);
    return member_of(w);
}

/* Operands: D, A (four registers or a descriptor), B, scale-d if it is a predicate. */
static Outcome run_wgmma(Warp *w, const Ins *in, u32 m) {
    Member *me = warpgroup(w, in, m);
    Queue *q = w->wgmma;
    bool a_registers = in->mode & A_REGISTERS;
    const Operand *a = in->op + in->ndst, *b = a + (a_registers ? 4 : 1);
    for (const Operand *i = a_registers ? b : a; i < in->op + in->nops; i++) {
        u32 held = i->kind == KIND_PRED ? w->pred_init[i->row] : w->reg_init[i->row];
        if (held != ALL_LANES)
            ptx_fatal(w, in, ~held, NULL, "%s holds no value", i == b + 1 ? "scale-d" : "a descriptor");
    }
    Operation o = {
        .in = in, .group = me->committed, .b = uniform(w, in, b, 'B'), .keep = in->mode & KEEP_ALWAYS};
    if (!a_registers) o.a = uniform(w, in, a, 'A');
    if (in->mode & KEEP_IF) {
        u32 keep = ptx_pred(w, b + 1);
        if (keep != 0 && keep != ALL_LANES) ptx_fatal(w, in, keep, NULL, "scale-d differs from lane to lane");
        o.keep = keep;
    }
    if (ptx_device.checks) check_registers(me, in, o.keep);
    if (!q->actor)
        q->actor = ptx_new_actor(w->cta->cluster, "wgmma queue of warps %d-%d", w->id & ~3, w->id | 3);
    static Knowledge issued; /* all lanes issue it: what any of them did before comes before its reads */
    ptx_knowledge_clear(&issued);
    ptx_release(w, m, &issued);
    Access access = {.warp = w,
                     .in = in,
                     .know = &issued,
                     .actor = (u32)q->actor,
                     .time = o.group + 1,
                     .lane = LANES,
                     .proxy = ASYNC_PROXY};
    if (!a_registers) { /* its own 16 rows */
        Matrix x = matrix_of(o.a, in->mode & A_ACROSS, 64);
        int own = w->id % 4 * 2;
        check_matrix(w, in, 'A', o.a, &x);
        read_matrix(w, in, 'A', &x, own, own + 2, &access);
    }
    /* a quarter of B, another one each time: all four warps read all of it */
    Matrix x = matrix_of(o.b, in->mode & B_ACROSS, in->n);
    int quarter = (int)((u32)w->id + me->issued + 1) % 4;
    check_matrix(w, in, 'B', o.b, &x);
    read_matrix(w, in, 'B', &x, x.groups * quarter / 4, x.groups * (quarter + 1) / 4, &access);
    enqueue(me, o);
    set_flight_operation(me, in);
    for (int i = 0; i < in->ndst; i++) {
        Register *r = &me->reg[in->op[i].row];
        r->fences = me->fences, r->accessed = index_of(w, in), r->written = false;
    }
    return RAN;
}

static Outcome run_fence(Warp *w, const Ins *in, u32 m) {
    warpgroup(w, in, m)->fences++;
    return RAN;
}

static Outcome run_commit(Warp *w, const Ins *in, u32 m) {
    Member *me = warpgroup(w, in, m);
    Queue *q = w->wgmma;
    if (me->issued < q->first + q->count && operation(q, me->issued)->group == me->committed)
        disagree(me, in, operation(q, me->issued)->in,
                 "another warp issued one more wgmma in the group that this commits");
    me->committed++;
    if (ptx_device.schedule == IN_ORDER)
        while (carry_out_one(q, committed_by_all(q))) {
        }
    return RAN;
}

/* Forgets operations that all warps have waited for. */
static void drop_retired(Queue *q) {
    u32 least = q->done;
    for (int i = 0; i < 4; i++) least = q->member[i].retired < least ? q->member[i].retired : least;
    u32 n = least - q->first;
    if (n) memmove(q->op, q->op + n, sizeof *q->op * (q->count -= n));
    q->first = least;
}

/* The operations up to a group are over for this warp: registers of no other one are free. */
static void retire(Member *me, u32 groups) {
    Queue *q = me->warp->wgmma;
    u32 before = me->retired;
    int kept = 0;
    while (me->retired < me->issued && operation(q, me->retired)->group < groups) me->retired++;
    for (u32 i = before; i < me->retired; i++) {
        const Ins *in = operation(q, i)->in;
        for (int j = 0; j < in->ndst + (in->mode & A_REGISTERS ? 4 : 0); j++) clear_flight(me, &in->op[j]);
    }
    for (int i = 0; i < me->nmoves; i++) {
        Move *v = &me->move[i];
        if (v->after > me->retired)
            me->move[kept++] = *v;
        else
            clear_flight(me, &v->in->op[0]);
    }
    me->nmoves = kept;
    for (u32 i = me->retired; i < me->issued; i++) set_flight_operation(me, operation(q, i)->in);
    for (int i = 0; i < kept; i++)
        set_flight(me, &me->move[i].in->op[0], instruction(me->warp, me->move[i].owner), me->move[i].input);
    drop_retired(q);
}

/* A group is complete when the operation of the whole warpgroup is: the wait needs the other warps to
 * commit it too. */
static Outcome run_wait(Warp *w, const Ins *in, u32 m) {
    Member *me = warpgroup(w, in, m);
    Queue *q = w->wgmma;
    if (me->committed <= in->n) return RAN;
    u32 groups = me->committed - in->n;
    if (committed_by_all(q) < groups) return WAIT;
    while (carry_out_one(q, groups)) {
    }
    retire(me, groups);
    if (q->actor) {
        static Knowledge done;
        ptx_knowledge_clear(&done);
        ptx_knowledge_learn(&done, (u32)q->actor, groups);
        ptx_acquire(w, m, &done);
    }
    return RAN;
}

void ptx_tensor_at_cta_end(Cta *c) {
    for (int i = 0; i < c->nwarps; i++) {
        Queue *q = c->warp[i].wgmma;
        if (!q) continue;
        const Member *me = member_of(&c->warp[i]);
        if (me->retired == me->issued) continue;
        const Operation *o = operation(q, me->retired);
        ptx_finding(&c->warp[i], o->in, ALL_LANES, NULL,
                    o->issued_by != 15 ? "warps of a warpgroup disagree: not all four issued this wgmma"
                    : o->group < me->committed
                        ? "the warp ended with this wgmma in flight: it was never waited for"
                        : "the warp ended with this wgmma in flight: it was never committed");
    }
}

/* ---- decoders ------------------------------------------------------------------------------------------ */

/* Takes the modifier "m16n8k16"; false if there is none. */
static bool take_shape(Text *t, int *m, int *n, int *k) {
    for (int i = 0, end = 0; i < t->nmods; i++)
        if (!t->used[i] && sscanf(t->mod[i], "m%dn%dk%d%n", m, n, k, &end) == 3 && !t->mod[i][end])
            return t->used[i] = true;
    return false;
}

static bool use_registers(Text *t, Ins *in, int *next, int count, int bits) {
    for (int i = 0; i < count; i++)
        if (*next >= t->nops || !ptx_use_bits(t, in, (*next)++, bits)) return false;
    return true;
}

static bool take_types(Text *t, Ins *in) {
    in->width = (u8)ptx_type(t), in->type = (u8)ptx_type(t), in->type2 = (u8)ptx_type(t);
    if (in->width == T_S32 && ptx_mod(t, "satfinite")) in->mode |= SATURATE;
    return family(in->type) == family(in->type2) && accumulates_in(in->type, in->width);
}

static bool decode_mma(Text *t, Ins *in) {
    static const struct {
        Type type; /* family */
        u8 m, k;
    } shapes[] = {{T_F16, 16, 8},   {T_F16, 16, 16}, {T_BF16, 16, 8}, {T_BF16, 16, 16}, {T_TF32, 16, 4},
                  {T_TF32, 16, 8},  {T_S8, 8, 16},   {T_S8, 16, 16},  {T_S8, 16, 32},   {T_E4M3, 16, 16},
                  {T_E4M3, 16, 32}, {T_F64, 8, 4},   {T_F64, 16, 4},  {T_F64, 16, 8},   {T_F64, 16, 16}};
    int m, n, k, next = 0;
    bool known = false;
    if (!ptx_mod(t, "sync") || !ptx_mod(t, "aligned") || !take_shape(t, &m, &n, &k) || n != 8 ||
        !strstr(t->opcode, ".row.col.") || !ptx_mod(t, "row") || !ptx_mod(t, "col") || !take_types(t, in) ||
        ptx_type(t) != in->width)
        return false;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        known |= shapes[i].type == family(in->type) && shapes[i].m == m && shapes[i].k == k;
    if (!known) return false;
    int bits = in->type == T_F64 ? 64 : 32, per = bits / 8 / size_of(in->type);
    int sums = m / 8 * (in->width == T_F16 ? 1 : 2), count = k / (4 * per);
    if (family(in->type) == T_E4M3 && t->kernel->module->target < 89)
        ptx_refuse(t->kernel, in->place, "%s needs .target sm_89 or later", t->opcode);
    if (in->type == T_F64 && m == 16 && t->kernel->module->target < 90)
        ptx_refuse(t->kernel, in->place, "%s needs .target sm_90 or later", t->opcode);
    if (t->nops != 2 * sums + (m / 8 + 1) * count || !use_registers(t, in, &next, t->nops, bits))
        return false;
    in->ndst = (u16)sums, in->n = (u16)m, in->k = (u16)k;
    in->flags = INS_ALIGNED, in->unit = UNIT_MMA;
    in->run = in->type == T_F64 ? run_mma_f64 : run_mma;
    return true;
}

/* +1 or -1 */
static bool take_scale(Text *t, Ins *in, int i) {
    s64 v;
    if (!ptx_immediate(t, i, &v) || (v != 1 && v != -1)) return false;
    if (v == -1) in->mode ^= NEGATE;
    return true;
}
static bool take_transpose(Text *t, Ins *in, int i, int mode) {
    s64 v;
    if (!ptx_immediate(t, i, &v) || (v != 0 && v != 1)) return false;
    if (v) in->mode |= (u8)mode;
    return true;
}

static bool decode_mma_async(Text *t, Ins *in) {
    int m, n, k, next = 0;
    s64 keep;
    if (!take_shape(t, &m, &n, &k) || !take_types(t, in) || in->type == T_F64) return false;
    bool integer = in->width == T_S32, half = size_of(in->type) == 2;
    if (m != 64 || n < 8 || n > 256 || n % 8 || (integer && n > 24 && n % 16) || k != 32 / size_of(in->type))
        return false;
    int sums = n / (in->width == T_F16 ? 4 : 2);
    if (!use_registers(t, in, &next, sums, 32) || next + 2 > t->nops) return false;
    in->ndst = (u16)sums;
    bool a_registers = t->op[next + 1].group == t->op[next].group;
    if (!use_registers(t, in, &next, a_registers ? 4 : 1, a_registers ? 32 : 64)) return false;
    if (!use_registers(t, in, &next, 1, 64) || next >= t->nops) return false;
    if (a_registers) in->mode |= A_REGISTERS;
    if (ptx_immediate(t, next, &keep)) {
        if (keep != 0 && keep != 1) return false;
        in->mode |= keep ? KEEP_ALWAYS : 0;
    } else {
        if (!ptx_use_pred(t, in, next)) return false;
        in->mode |= KEEP_IF;
    }
    next++;
    if (t->nops != next + (integer ? 0 : 2) + (half ? (a_registers ? 1 : 2) : 0)) return false;
    if (!integer && (!take_scale(t, in, next) || !take_scale(t, in, next + 1))) return false;
    if (half && !a_registers && !take_transpose(t, in, next + 2, A_ACROSS)) return false;
    if (half && !take_transpose(t, in, t->nops - 1, B_ACROSS)) return false;
    in->n = (u16)n, in->k = (u16)k, in->unit = UNIT_WGMMA, in->run = run_wgmma;
    in->flags = INS_ALIGNED | INS_ANY_INPUT;
    return true;
}

static bool decode_wgmma(Text *t, Ins *in) {
    s64 groups = 0;
    bool fence = ptx_mod(t, "fence"), commit = !fence && ptx_mod(t, "commit_group"),
         wait = !fence && !commit && ptx_mod(t, "wait_group");
    if (!t->kernel->module->target_specific || t->kernel->module->target != 90)
        ptx_refuse(t->kernel, in->place, "%s needs .target sm_90a", t->opcode);
    t->kernel->uses_wgmma = true;
    if (!fence && !commit && !wait && !ptx_mod(t, "mma_async")) return false;
    if (!ptx_mod(t, "sync") || !ptx_mod(t, "aligned")) return false;
    if (!fence && !commit && !wait) return decode_mma_async(t, in);
    if (t->nops != wait || (wait && (!ptx_immediate(t, 0, &groups) || groups < 0 || groups > UINT16_MAX)))
        return false;
    in->n = (u16)groups, in->flags = INS_ALIGNED;
    in->run = fence ? run_fence : commit ? run_commit : run_wait;
    return true;
}

const Opcode ptx_tensor_opcodes[] = {{"mma", decode_mma}, {"wgmma", decode_wgmma}, {NULL, NULL}};
