/* machine.h - what the parts of the PTX machine share.
 *
 * The machine is a CUDA runtime that runs kernels on the CPU: it interprets the PTX that nvcc left in the program.
 *
 *     runtime.c    cudaLaunchKernel, ...                    -> ptx_launch(); with allocation.c, streams.c, device.c
 *     fatbin.c     the program's fat binaries               -> PTX text
 *     parser.c     PTX text                                 -> Kernel: an array of Ins, each with its handler
 *     scheduler.c  grids, clusters, CTAs, warps, barriers   who runs next; calls Ins.run for 32 lanes at a time
 *     scalar.c memory.c warp.c tensor.c async.c             the handlers and their decoders, by kind of instruction
 *     checks.c     findings, shadow memory, uninitialised registers
 *     order.c      happens-before: vector clocks, and how they travel
 *     report.c     counters, cost model
 *
 * A warp is 32 lanes; register r of a kernel is a row of 32 values in Warp.reg, so a handler is a loop over lanes.
 * Nothing here is thread-safe: one launch runs at a time, on the caller's thread (runtime.c holds a lock).
 */
#ifndef PTX_MACHINE_H
#define PTX_MACHINE_H

#include <stdbool.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int8_t s8;
typedef int16_t s16;
typedef int32_t s32;
typedef int64_t s64;

enum { LANES = 32 };
#define ALL_LANES 0xffffffffu
#define LANE_BIT(l) (1u << (l))

typedef struct Kernel Kernel;
typedef struct Module Module;
typedef struct Ins Ins;
typedef struct Warp Warp;
typedef struct Cta Cta;
typedef struct Cluster Cluster;
typedef struct Grid Grid;

/* ---- the device that the machine presents, and how it runs; read once from the environment (device.c) ---------- */

typedef enum { IN_ORDER, LAZY, RANDOM } Schedule;

typedef struct {
    int major, minor;        /* FA_PTX_DEVICE = sm_80 | sm_86 | sm_89 | sm_90a (default: sm_90a) */
    bool arch_specific;      /* the "a" of sm_90a */
    int sms;                 /* FA_PTX_SMS (default: the real card's) */
    int shared_per_block;    /* FA_PTX_SHARED: opt-in limit in bytes (default: the real card's) */
    int shared_per_sm, shared_reserved; /* reserved: 1 KiB a block */
    int registers_per_sm;    /* 65536 */
    int threads_per_sm, blocks_per_sm;
    Schedule schedule;       /* FA_PTX_SCHEDULE = order | lazy | SEED (a number > 0: random) (default: order) */
    u64 seed;
    bool checks;             /* FA_PTX_CHECKS = 0 turns shadow memory and races off (default 1) */
    u64 limit;               /* FA_PTX_LIMIT: warp instructions a launch may take (default 1e11) */
    int max_findings;        /* FA_PTX_FINDINGS: printed per launch before it is stopped (default 8) */
} Device;
extern Device ptx_device;

/* ---- decoded programs ------------------------------------------------------------------------------------------ */

/* A position in the source: `.loc`, with the call site that the code was inlined at. */
typedef struct {
    int file, line;  /* file: index into Module.file */
    int inlined_at;  /* index into Kernel.place, -1 if not inlined */
    int column;
} Place;

typedef enum { KIND_NONE, KIND_R32, KIND_R64, KIND_PRED, KIND_SINK /* _ */, KIND_IMM, KIND_LABEL } Kind;

typedef enum { NO_VARIABLE, VARIABLE_FIXED, VARIABLE_DYNAMIC } Variable;

/* An operand. Handlers see only KIND_R32, KIND_R64, KIND_PRED and KIND_SINK: immediates, symbols and special
 * registers are rows of the register file that are filled when a warp starts. 8-, 16- and 32-bit registers are
 * KIND_R32 (upper bits zero), 64-bit ones take two rows and are an array of 32 u64. */
typedef struct {
    u8 kind;
    u8 bits;         /* declared width of the register: 1, 8, 16, 32, 64; KIND_IMM: 32 and 64 for floating point, else 0 */
    bool negated;    /* !%p */
    bool address;    /* inside [ ] */
    u16 group;       /* index of the comma-separated operand it was written in: {a,b} is one, [x, {c0, c1}] is one */
    s32 row;         /* register row, predicate index */
    s64 value;       /* KIND_IMM: the bits; else the constant added in [reg + value] */
    const char *name; /* as written, if it is a name: register, variable, label, function */
    /* KIND_LABEL that names a variable (ptx_use... turns it into its address): the variable's Space, and whether the
     * address, which is in value, counts from 0 or from Kernel.dynamic_offset. The address of a kernel's parameter or
     * .local variable is its offset, of a .shared one the shared address, of .global and .const ones the host's.
     * The .param variables of a call lie in local memory: ld.param and st.param whose operand has SPACE_LOCAL are
     * ld.local and st.local, and what `call` names are offsets in local memory. */
    u8 space;
    u8 variable; /* Variable */
} Operand;

typedef enum {
    RAN,     /* done, go on */
    WAIT,    /* not done: try again later, let others run (nothing was changed) */
    JUMPED   /* done, and the handler has moved the lane groups itself (branch, exit, barrier) */
} Outcome;

/* Executes one instruction for the lanes of m (never 0). */
typedef Outcome (*Handler)(Warp *w, const Ins *in, u32 m);

/* Execution units of the cost model (report.c has the rates). */
typedef enum {
    UNIT_NONE, UNIT_ALU, UNIT_FP32, UNIT_FP64, UNIT_HALF, UNIT_MUFU, UNIT_CVT, UNIT_SHUFFLE, UNIT_GLOBAL, UNIT_SHARED,
    UNIT_LOCAL, UNIT_MMA, UNIT_WGMMA, UNIT_TMA, UNIT_BARRIER, UNIT_BRANCH, UNIT_COUNT
} Unit;

enum { /* Ins.flags */
    INS_ALIGNED = 1,    /* all live lanes of the warp must execute it together (the scheduler waits for them) */
    INS_COPIES = 2,     /* moves bits without looking at them: uninitialised registers spread, they are no finding */
    INS_ANY_INPUT = 4,  /* the handler itself checks which inputs must be initialised (wgmma's accumulator, ...) */
    INS_YIELDS = 8,     /* ends the warp's turn when done (nanosleep, ...) */
    INS_OWN_INIT = 16   /* the handler itself sets reg_init of its destinations (selp, ...) */
};
/* The dispatcher checks that all source rows are initialised for the lanes of m (not with INS_COPIES or
 * INS_ANY_INPUT), that no operand is owned by a wgmma in flight (not with INS_ANY_INPUT), and after RAN marks the
 * destinations initialised (INS_COPIES: as far as all sources are). */

struct Ins {
    Handler run;
    const char *opcode; /* as written, "add.f32" */
    Operand *op;        /* [nops]: destinations first, then sources */
    u16 nops, ndst;
    s32 guard;          /* @%p: predicate index, -1 none */
    bool guard_negated;
    u8 flags, unit;
    s8 member;          /* index of the operand that holds the member mask of a .sync instruction, -1 none */
    /* meaning belongs to the file that decodes the instruction */
    u8 type, type2, space, vector, width, mode;
    u16 n, k;
    s32 target;         /* branch target: a decoder sets -2, and the parser fills in the pc of the statement's first
                         * label when the kernel is complete; code[] ends with a `ret`, so that every target is in it */
    u32 aux[4];
    s32 place;          /* index into Kernel.place, -1 unknown */
    s32 line;           /* line of the PTX text */
    /* counters of the running launch; the dispatcher counts the first two, handlers the rest */
    u64 executed, lanes;                  /* warp instructions, thread instructions */
    u64 wavefronts, wavefronts_ideal;     /* shared memory: as addressed, and the conflict-free minimum */
    u64 bytes, sectors;                   /* device memory: bytes asked for, 32-byte sectors touched */
};

typedef struct {
    char *name;
    u32 offset, size, align;
} Symbol; /* parameter, .shared or .local variable: offset in its space */

typedef struct {
    u32 row;
    u8 bits; /* 32 or 64 */
    u64 value;
} Constant;

typedef enum {
    SR_TID_X, SR_TID_Y, SR_TID_Z, SR_NTID_X, SR_NTID_Y, SR_NTID_Z, SR_CTAID_X, SR_CTAID_Y, SR_CTAID_Z, SR_NCTAID_X,
    SR_NCTAID_Y, SR_NCTAID_Z, SR_LANEID, SR_WARPID, SR_NWARPID, SR_SMID, SR_NSMID, SR_GRIDID, SR_LANEMASK_EQ,
    SR_LANEMASK_LT, SR_LANEMASK_LE, SR_LANEMASK_GT, SR_LANEMASK_GE, SR_CLUSTERID_X, SR_CLUSTERID_Y, SR_CLUSTERID_Z,
    SR_NCLUSTERID_X, SR_NCLUSTERID_Y, SR_NCLUSTERID_Z, SR_CLUSTER_CTAID_X, SR_CLUSTER_CTAID_Y, SR_CLUSTER_CTAID_Z,
    SR_CLUSTER_NCTAID_X, SR_CLUSTER_NCTAID_Y, SR_CLUSTER_NCTAID_Z, SR_CLUSTER_CTARANK, SR_CLUSTER_NCTARANK,
    SR_IS_EXPLICIT_CLUSTER, SR_DYNAMIC_SMEM_SIZE, SR_TOTAL_SMEM_SIZE, SR_ENVREG1, SR_ENVREG2 /* Grid.workspace */, SR_COUNT
} Special; /* %clock, %clock64, %globaltimer change while a kernel runs: mov from them is an instruction of its own */

typedef struct {
    u32 row;
    Special what;
} SpecialRow; /* 32 bits a lane; SR_GRIDID 64 */

struct Kernel {
    Module *module;
    char *name;          /* as in PTX */
    Ins *code;
    int ncode;
    Place *place;
    int nplaces;
    Symbol *param, *shared, *local;
    int nparams, nshared, nlocal;
    u32 param_bytes, shared_bytes /* static */, local_bytes /* per thread */;
    bool uses_dynamic_shared;
    bool uses_wgmma;     /* set by the decoder of wgmma */
    u32 dynamic_offset;  /* where the extern .shared array begins: shared_bytes rounded up to 1024 */
    u32 rows, preds;     /* size of the register files */
    Constant *constant;
    int nconstants;
    SpecialRow *special;
    int nspecials;
    int max_threads[3];  /* .maxntid, 0: none */
    bool exact_threads;  /* .reqntid: max_threads is the only block size that may be launched */
    int min_blocks;      /* .minnctapersm */
    int max_registers;   /* .maxnreg */
    int cluster[3];      /* .reqnctapercluster, 0: none */
    bool explicit_cluster;
    int max_cluster;     /* .maxclusterrank, 0: none */
    u64 launches;
};

struct Module {
    const char *text;    /* PTX */
    size_t bytes;
    char **file;         /* [nfiles], by number; NULL where unused */
    int nfiles;
    int target;          /* .target sm_XX: XX */
    bool target_specific; /* sm_90a */
    struct Global { char *name; u8 *memory; u64 bytes; u32 align; bool constant; } *global;
    int nglobals;
    struct Entry { char *name; const char *text; int line; Kernel *kernel; /* NULL until first launched */ } *entry;
    int nentries;
    struct Names *names; /* parser.c */
};

/* fatbin.c: indexes the PTX with the highest architecture that runs on ptx_device; NULL and a message in why
 * (remedy included) if there is none. `fatbin` is what __cudaRegisterFatBinary gets. */
Module *ptx_module_from_fatbin(const void *fatbin, char *why, size_t why_bytes);
/* parser.c: the same from text; globals are allocated and entries indexed, kernels are decoded when first asked
 * for. Ends in ptx_refuse() for what the machine does not know. */
Module *ptx_module_from_text(const char *text, size_t bytes); /* adds the globals to the allocations, too */
Kernel *ptx_kernel(Module *m, const char *name); /* NULL: no such entry */

/* ---- decoding ----------------------------------------------------------------------------------------------------
 * A decoder looks at the modifiers and operands of one statement and fills Ins.run and what run needs. It has to
 * take (ptx_mod...) every modifier: one that is left over is refused as an unsupported opcode. It returns false for a
 * form that it does not know, which is refused in the same way. Nothing is ever skipped. */

typedef struct Text {
    Kernel *kernel;
    const char *opcode;     /* "ld.global.v4.f32" */
    char *mod[24];          /* "ld", "global", "v4", "f32"; "::" stays inside: "shared::cta", "L2::128B" */
    bool used[24];
    int nmods;
    Operand op[320];        /* flattened: {a,b} is two, [x+4] is one; wgmma has up to 270 */
    int nops;
    int ngroups;            /* comma-separated operands */
    int line;
} Text;

typedef bool (*Decoder)(Text *t, Ins *in);

bool ptx_mod(Text *t, const char *name);             /* takes a modifier if it is there */
int ptx_mod_of(Text *t, const char *const *names);   /* NULL-terminated: index of the one that is there, taken; -1 none */
const char *ptx_mod_prefix(Text *t, const char *prefix); /* "L2::": takes the first that starts so; NULL none */

/* Types as written in PTX. */
typedef enum {
    T_NONE, T_U8, T_U16, T_U32, T_U64, T_S8, T_S16, T_S32, T_S64, T_B8, T_B16, T_B32, T_B64, T_B128, T_F16, T_F16X2, T_BF16,
    T_BF16X2, T_TF32, T_F32, T_F64, T_E4M3, T_E5M2, T_E4M3X2, T_E5M2X2, T_PRED, T_U16X2, T_S16X2, T_F32X2, T_TYPES
} Type;
Type ptx_type(Text *t);           /* takes the next unused modifier that is a type, from the left; T_NONE if there is none */
Type ptx_type_named(const char *s);
int ptx_type_bits(Type type);

/* Makes operand i a register row (immediates become constants of that width; a label that names a variable becomes
 * its address) and appends it to in->op; false if the operand's kind does not fit. bits: 32 (also 8 and 16) or 64. */
bool ptx_use32(Text *t, Ins *in, int i);
bool ptx_use64(Text *t, Ins *in, int i);
bool ptx_use_bits(Text *t, Ins *in, int i, int bits); /* 8, 16: immediates are cut to that, upper bits zero */
bool ptx_use_pred(Text *t, Ins *in, int i);  /* a predicate register (immediates: ptx_immediate) */
bool ptx_use_sink(Text *t, Ins *in, int i);  /* register of 32 or 64 bits, predicate, or _ */
bool ptx_use_address(Text *t, Ins *in, int i, bool is64); /* [reg + c], [symbol + c], [immediate] */
/* The value of an immediate operand (not appended); false if it is none. */
bool ptx_immediate(Text *t, int i, s64 *value);

/* Each file lists its opcodes (first word) in a table; parser.c tries the tables in turn. */
typedef struct {
    const char *name;
    Decoder decode;
} Opcode;
extern const Opcode ptx_scalar_opcodes[], ptx_memory_opcodes[], ptx_warp_opcodes[], ptx_tensor_opcodes[],
    ptx_async_opcodes[], ptx_control_opcodes[]; /* control: bra, ret, exit, bar, barrier, call, trap, ... (scheduler.c) */

/* ---- running state ----------------------------------------------------------------------------------------------- */

/* Vector clock: at[i] is the last moment of actor i (of one cluster) that is ordered before the owner; `far` holds
 * what is known of actors of other clusters. Belongs to order.c. */
typedef struct Clock {
    u32 *at;
    u32 n, room;
    struct Far *far;
    u32 nfar, farroom;
} Clock;

/* What a proxy fence may be restricted to: it orders accesses of these state spaces only. */
enum { FENCED_SHARED, FENCED_GLOBAL, FENCED_SPACES };

/* Clocks that travel together: what happened before, and which of the generic accesses among it a proxy fence has made
 * visible to the async proxy, by state space; the same of what a memory fence came after (relaxed writes hand it on),
 * and of what relaxed reads have found (known from the next memory fence on). */
enum { CLOCKS = 3 * (1 + FENCED_SPACES) };
typedef union Knowledge {
    struct {
        Clock seen, fenced[FENCED_SPACES], published, published_fenced[FENCED_SPACES], pending,
            pending_fenced[FENCED_SPACES];
    };
    Clock clock[CLOCKS];
} Knowledge;

typedef struct {
    int pc;
    u32 lanes;
    bool blocked; /* waits; the warp's other groups go on */
} Group;

struct Warp {
    Cta *cta;
    int id;              /* in the CTA */
    u32 live;            /* lanes that have not exited (a short last warp starts with fewer) */
    u32 *reg;            /* [rows][32] */
    u32 *reg_init;       /* [rows]: lanes that hold a value */
    u8 *reg_flight;      /* [rows]: 1 if a wgmma in flight owns the row (tensor.c) */
    int in_flight;       /* number of rows so marked */
    u32 *pred, *pred_init;
    u32 carry;           /* CC.CF of its lanes: add.cc, ... (scalar.c) */
    u8 *local;           /* [32][local_bytes] */
    u32 *local_init;     /* one bit a byte */
    Group group[LANES];
    int ngroups;
    int current;         /* index of the running group; handlers of branches may change group[] */
    int at_barrier;      /* waits at CTA barrier (id + 1), -1: at the cluster barrier, 0: not */
    /* order.c */
    Knowledge know;
    struct Part *part;   /* what only some lanes know, until the warp synchronises: a list, lanes disjoint */
    u32 part_lanes;      /* all lanes of the list */
    u32 now, synced;     /* the warp's own time: it moves on after each release; time of the last warp-wide sync */
    u32 fence_at, fence_lanes; /* time of the last memory fence, lanes that have fenced since `synced` */
    u32 changes, read_list;    /* counts changes of know.published; what the last relaxed read has found */
    u32 touched_lanes;   /* lanes with generic accesses since `synced` */
    bool grid_waited;    /* passed griddepcontrol.wait */
    /* async.c */
    struct CopyQueue *copies;  /* cp.async, in order of issue */
    struct BulkQueue *bulk;    /* bulk groups of its lanes */
    /* tensor.c */
    struct WgmmaQueue *wgmma;
    int registers;       /* per thread, as set by setmaxnreg */
    /* scheduler.c */
    const Ins *barrier_ins;    /* the bar.sync or bar.red it waits in */
    u32 cluster_arrived;       /* lanes between barrier.cluster.arrive and .wait */
    u64 cluster_generation;    /* of the cluster barrier when they arrived */
    int rotate;                /* which group goes first, when one of them spins */
    u64 executed;
};

typedef struct {
    int arrived, expected;  /* threads; expected 0: idle, -1: all that live */
    u64 waiting;            /* warps */
    int op;                 /* 0 sync/arrive, else the .red operation */
    int reduced;            /* .red so far: number of threads with a true predicate */
    const Ins *first;       /* of this generation */
    Knowledge know;
} Barrier;

struct Cta {
    Cluster *cluster;
    Grid *grid;
    int rank;               /* in the cluster */
    u32 x, y, z;            /* blockIdx */
    u8 *shared;             /* 1024-byte aligned */
    u32 shared_bytes;       /* static + dynamic */
    struct Shadow *shadow;  /* checks.c */
    Warp *warp;
    int nwarps, alive;      /* warps; those with live lanes */
    Barrier barrier[16];
    struct MbarrierTable *mbarriers; /* async.c */
    int register_pool;      /* free registers, setmaxnreg */
    bool done;
};

struct Cluster {
    Grid *grid;
    u32 serial;             /* 1, 2, ... in the order of blockIdx; names its actors */
    Cta *cta;
    int nctas, alive;
    int actors;             /* in use */
    struct ActorName *actor_name; /* [actors], checks.c */
    struct AsyncQueue *async; /* bulk and tensor copies in flight, async.c */
    u32 barrier_arrived;    /* threads at barrier.cluster */
    u64 barrier_generation;
    Knowledge barrier_know, barrier_done; /* of this generation so far; of the last one that completed */
};

struct Grid {
    Kernel *kernel;
    u32 dim[3], block[3], cluster_dim[3];
    u32 dynamic_shared;
    u8 *params;             /* [kernel->param_bytes], 128-byte aligned; registered as a read-only allocation */
    u8 *workspace;          /* cooperative launch: where cg::grid_group synchronises, else NULL */
    u64 serial;             /* 1, 2, ...: launches of the process */
    bool overlaps;          /* launched with programmatic stream serialisation: may start before grid serial - 1 ends */
    Grid *primary;          /* that grid, if it has not run yet */
    u64 executed;           /* warp instructions */
    u64 rng;
    Cluster **resident;
    int nresident, capacity;  /* clusters */
    u64 clusters, admitted, retired;
    u64 retired_at;           /* `executed` when a cluster was last admitted or retired */
    bool failed;
};

/* Runs a grid to its end. Returns false if a finding stopped it (or was made at all). */
bool ptx_run(Grid *g);
/* Next number of the grid's generator: every random choice of a schedule comes from here. */
u32 ptx_random(Grid *g, u32 below);
/* Wakes groups of the warp that wait (after an mbarrier phase, a copy, ... completed); cheap to call. */
void ptx_wake(Warp *w);
void ptx_wake_cluster(Cluster *c);
/* Ends the lanes m of the warp. */
void ptx_exit_lanes(Warp *w, u32 m);

/* The async engines: does one piece of work of the cluster if there is any. lazy: only work that a waiting warp needs.
 * Called by the scheduler between turns; true if something was done. (async.c, tensor.c) */
bool ptx_async_step(Cluster *c);
bool ptx_async_pending(const Cluster *c);
bool ptx_wgmma_step(Cta *c);
/* At the exit of lanes m: reports async work that would outlive what it needs (a bulk store still reading the CTA's
 * shared memory, ...). At the end of a CTA: cp.async and wgmma never waited for, mbarriers with pending transactions. */
void ptx_async_at_exit(Warp *w, const Ins *in, u32 m);
void ptx_async_at_cta_end(Cta *c);
void ptx_async_start_cta(Cta *c);   /* allocates and resets; also per warp state */
void ptx_async_free_cta(Cta *c);
void ptx_async_start_cluster(Cluster *c);
void ptx_async_free_cluster(Cluster *c);
void ptx_tensor_start_cta(Cta *c);
void ptx_tensor_at_cta_end(Cta *c);
void ptx_tensor_free_cta(Cta *c);
/* A line for the deadlock report: what an instruction of async.c waits for ("mbarrier 0x1400: phase 2, 1 of 3
 * arrivals pending, 16384 bytes outstanding"). */
void ptx_async_describe_wait(const Warp *w, const Ins *in, u32 m, char *text, size_t bytes);

/* tensor.c: `in` (a plain register-to-register mov) touches rows of a wgmma in flight: the copy is put into the queue
 * behind it, as ptxas would rename; false if it cannot. Everything else that touches such rows is a finding. */
bool ptx_wgmma_defer_move(Warp *w, const Ins *in, u32 m);
const Ins *ptx_wgmma_owner(const Warp *w, u32 row);
/* After each instruction with destinations in a kernel that uses wgmma: remembers who wrote a register last, for the
 * rule that a wgmma.fence must come between that and a wgmma that uses it. */
void ptx_wgmma_note_write(Warp *w, const Ins *in);

/* ---- lanes and registers ------------------------------------------------------------------------------------------ */

static inline u32 *ptx_r32(Warp *w, const Operand *o) { return w->reg + (size_t)o->row * LANES; }
static inline u64 *ptx_r64(Warp *w, const Operand *o) { return (u64 *)(void *)(w->reg + (size_t)o->row * LANES); }
static inline float *ptx_rf(Warp *w, const Operand *o) { return (float *)(void *)(w->reg + (size_t)o->row * LANES); }
static inline u32 ptx_pred(const Warp *w, const Operand *o) { return o->negated ? ~w->pred[o->row] : w->pred[o->row]; }
static inline void ptx_set_pred(Warp *w, const Operand *o, u32 m, u32 value) {
    if (o->kind == KIND_PRED) w->pred[o->row] = (w->pred[o->row] & ~m) | (value & m);
}
static inline int ptx_first_lane(u32 m) { return __builtin_ctz(m); }

/* for (each lane l of m) */
#define EACH_LANE(l, m) for (u32 left_ = (m), l; left_ && (l = (u32)__builtin_ctz(left_), 1); left_ &= left_ - 1)

#if defined(__clang__)
#define PTX_IVDEP
#else
#define PTX_IVDEP _Pragma("GCC ivdep") /* the lanes of a row do not depend on one another */
#endif
/* dst[l] = value (an expression of l) for the lanes of m; all 32 at once where it can, so that it vectorises.
 * The expression must be harmless for lanes outside m. */
#define FOR_LANES(m, dst, value) \
    do { \
        if ((m) == ALL_LANES) { \
            PTX_IVDEP for (int l = 0; l < LANES; l++)(dst)[l] = (value); \
        } else { \
            for (int l = 0; l < LANES; l++) \
                if ((m) >> l & 1) (dst)[l] = (value); \
        } \
    } while (0)

/* ---- address spaces ------------------------------------------------------------------------------------------------
 * Generic addresses: host pointers are below 2^47. Shared memory of CTA rank r of the own cluster: SHARED_WINDOW | r + 1
 * in bits 24.. | offset, and 0 in bits 24.. is the own CTA. A 32-bit shared address is the same without the window, so
 * it is valid as shared::cta and as shared::cluster. Local memory: LOCAL_WINDOW | offset, per lane. */

#define SHARED_WINDOW 0x4000000000000000u
#define LOCAL_WINDOW 0x2000000000000000u
#define WINDOW_MASK 0x6000000000000000u
enum { SHARED_RANK_SHIFT = 24 };

typedef enum { SPACE_GENERIC, SPACE_GLOBAL, SPACE_SHARED /* also shared::cta */, SPACE_CLUSTER, SPACE_LOCAL, SPACE_PARAM, SPACE_CONST } Space;

/* The CTA and offset that a 32-bit shared address means to a thread of `own`; NULL if there is no such CTA. */
static inline Cta *ptx_shared_target(Cta *own, u32 address, u32 *offset) {
    u32 rank = address >> SHARED_RANK_SHIFT;
    *offset = address & (LANE_BIT(SHARED_RANK_SHIFT) - 1);
    if (rank == 0) return own;
    return rank <= (u32)own->cluster->nctas ? &own->cluster->cta[rank - 1] : NULL;
}

/* Device memory (allocation.c): a table of what cudaMalloc and friends, module globals and parameters occupy. */
typedef struct Allocation {
    u8 *memory;
    u64 bytes;
    char name[64];      /* "cudaMalloc #3", "global lut", "parameters" */
    bool read_only;
    struct GlobalShadow *shadow; /* checks.c, made when first needed */
    u64 read, written;  /* bytes of the running launch, all kinds of accesses */
    u64 read_sectors, written_sectors;
} Allocation;
Allocation *ptx_find_allocation(u64 address, u64 bytes); /* wholly inside, or NULL */
Allocation *ptx_nearest_allocation(u64 address);         /* for messages; NULL if there is none */
Allocation *ptx_add_allocation(void *memory, u64 bytes, const char *name);
void ptx_remove_allocation(void *memory);
Allocation *ptx_each_allocation(int i);                  /* i = 0, 1, ...; NULL at the end */

/* ---- findings (checks.c) -------------------------------------------------------------------------------------------- */

/* Prints one finding: kernel, CTA, warp, lanes, file.cu:line with the inlining chain, the text, and the other party if
 * there is one. The same pair of places is printed once a launch. w may be NULL (end of grid). */
typedef struct Party {
    const Ins *in;   /* NULL: nobody */
    u32 cluster;     /* serial */
    u32 actor;       /* in the cluster */
    int lane;        /* 32: all */
} Party;
void ptx_finding(Warp *w, const Ins *in, u32 lanes, const Party *other, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
/* The same, and the launch ends here (out of bounds, misaligned, deadlock, ...). */
_Noreturn void ptx_fatal(Warp *w, const Ins *in, u32 lanes, const Party *other, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
/* What the machine does not know: "unsupported opcode ... at file.cu:line"; ends the launch as ptx_fatal. */
/* k is NULL outside kernels, place -1 where it is unknown. */
_Noreturn void ptx_refuse(const Kernel *k, int place, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* C++ name of a symbol, where the program has a C++ runtime. */
void ptx_demangle(const char *symbol, char *text, size_t bytes);
void ptx_place_text(const Kernel *k, int place, char *text, size_t bytes); /* "k.cu:12, inlined at k.cu:80" */
extern jmp_buf ptx_launch_exit; /* where ptx_fatal and ptx_refuse leave to: set by ptx_run, and by ptx_launch while it decodes */
u64 ptx_findings(void);        /* of the process; the runtime ends a process that has some with exit status 86 */
/* For tests of the machine itself: findings are kept, not printed and not counted until expect(false). */
void ptx_expect_findings(bool expect);
const char *ptx_last_findings(void); /* text of all since expect(true) */
u64 ptx_launch_findings(void); /* of the running launch */
void ptx_checks_start_launch(Grid *g);
void ptx_checks_end_launch(Grid *g);
void ptx_checks_host_waited(void); /* the host has waited: a later grid with `overlaps` has nothing left to overlap with */

/* ---- happens-before (order.c) and shadow memory (checks.c) -----------------------------------------------------------------------
 * An actor is what can be ordered: the world before the grid (actor 0), each warp (actor 1 + rank * nwarps + id), and
 * each async queue: an mbarrier (time = its phase number: whoever has seen phase n complete has seen every copy that
 * completed in it), the cp.async queue of a warp (time = number of the instruction), the bulk groups of a lane, the wgmma
 * queue of a warpgroup (time = number of the commit group). */

int ptx_new_actor(Cluster *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
static inline int ptx_warp_actor(const Warp *w) { return 1 + w->cta->rank * w->cta->nwarps + w->id; }

void ptx_knowledge_copy(Knowledge *to, const Knowledge *from);
void ptx_knowledge_join(Knowledge *to, const Knowledge *from);
void ptx_knowledge_clear(Knowledge *k);
void ptx_knowledge_free(Knowledge *k);
/* Seen. Not fenced: what cp.async and st.async wrote is of the generic proxy, also when it has been waited for. */
void ptx_knowledge_learn(Knowledge *k, u32 actor, u32 time);
void ptx_knowledge_learn_lanes(Knowledge *k, u32 actor, u32 lanes, u32 time); /* only what these lanes' accesses recorded */

/* Is what these lanes of an actor (of the same cluster) did up to `time` in the clock? */
bool ptx_is_ordered(const Clock *c, u32 actor, u32 lanes, u32 time);
/* What the lanes m of a warp know (its common knowledge, or that and what was learnt by these lanes alone). */
Knowledge *ptx_knows(Warp *w, u32 m);
/* Lanes m hand on what they know (arrive, release, barrier): joined into `to`; the warp's clock moves on. */
void ptx_release(Warp *w, u32 m, Knowledge *to);
/* Lanes m learn (successful wait, acquire). Fewer than all live lanes: the others know only after ptx_sync_warp. */
void ptx_acquire(Warp *w, u32 m, const Knowledge *from);
void ptx_sync_warp(Warp *w, u32 m);                 /* bar.warp.sync, and part of every CTA barrier */
void ptx_proxy_fence(Warp *w, u32 m, u32 spaces);   /* fence.proxy.async: bits 1 << FENCED_... */
void ptx_mbarrier_init_fence(Warp *w, u32 m);       /* fence.mbarrier_init (async.c) */
/* Atomics and strong accesses to one address: order is ".acquire", ".release", ".acq_rel" or relaxed; fences. */
typedef enum { RELAXED = 0, ACQUIRE = 1, RELEASE = 2, ACQ_REL = 3 } Order;
void ptx_sync_read(Warp *w, u32 m, u64 address, Order order);   /* address: generic, shared with window and rank */
void ptx_sync_write(Warp *w, u32 m, u64 address, Order order);
void ptx_memory_fence(Warp *w, u32 m);              /* fence.acq_rel/sc, membar */

/* GENERIC_LATER: of the generic proxy, but not by the thread itself: cp.async, st.async, red.async. */
typedef enum { GENERIC_PROXY, GENERIC_LATER, ASYNC_PROXY } Proxy;

/* One access (or many of the same kind), described once and used for all its bytes. */
typedef struct Access {
    Warp *warp;            /* who issued it */
    const Ins *in;
    const Knowledge *know; /* what is ordered before it; of async work: what ptx_release gave when it was issued */
    u32 actor, time;       /* recorded: whoever has seen this moment is ordered after the access */
    u8 lane;               /* 0..31; LANES: all together (ldmatrix, async copies) */
    u8 proxy;
    bool strong;           /* atomic, volatile, relaxed, ...: strong accesses do not race with one another */
    bool constant;         /* ld.global.nc: the data may come from a cache that nothing keeps up to date */
} Access;
/* A generic access by lanes of w, now. Set .lane per lane (and .know = ptx_knows(w, bit) where part_lanes != 0). */
Access ptx_access(Warp *w, const Ins *in, u32 m);

/* All four check bounds (fatal), and if ptx_device.checks: initialisation, races, proxy fences; then record.
 * The CTA may be another one of the cluster. Alignment is the caller's. */
void ptx_shared_read(Cta *c, u32 offset, u32 bytes, const Access *a);
void ptx_shared_write(Cta *c, u32 offset, u32 bytes, const Access *a);
/* Device memory; also counts bytes by allocation. Returns the host pointer. */
const u8 *ptx_global_read(u64 address, u32 bytes, const Access *a);
u8 *ptx_global_write(u64 address, u32 bytes, const Access *a);
/* cp.async or a bulk copy was issued to these bytes: until it is done they hold nothing that may be read. */
void ptx_shared_in_flight(Cta *c, u32 offset, u32 bytes, const Access *a);
/* Mbarrier words: initialised by mbarrier.init and no longer plain data. */
void ptx_shadow_start_cta(Cta *c);
void ptx_shadow_free_cta(Cta *c);
void ptx_drop_shadow(Allocation *a); /* by ptx_remove_allocation */
/* Registers: reports reads of rows that hold nothing (called by the dispatcher, and by INS_ANY_INPUT handlers). */
void ptx_check_inputs(Warp *w, const Ins *in, u32 m);

/* ---- counters and report (report.c) --------------------------------------------------------------------------------------- */

typedef struct {
    u64 warp_instructions, thread_instructions;
    u64 unit[UNIT_COUNT];          /* warp instructions by unit */
    u64 fp32_lanes, mufu_lanes;
    u64 mac_mma, mac_wgmma;        /* multiply-adds of types of 16 bits and more, 16-bit equivalents not applied */
    u64 mac_wgmma_8bit, mac_mma_8bit; /* of 8-bit types: not contained in the above */
    u64 load_bytes, store_bytes, copy_bytes, tma_load_bytes, tma_store_bytes, atomic_bytes; /* device memory, asked for */
    u64 load_sectors, store_sectors;
    u64 shared_wavefronts, shared_wavefronts_ideal;
    u64 wgmma_shared_bytes, tma_shared_bytes;
} Counters;
extern Counters ptx_count; /* of the running launch */

/* Shared-memory wavefronts of one request: addresses of the lanes of m, `bytes` each (1..16); added to in and ptx_count. */
void ptx_count_shared(const Ins *in, const u32 *address, u32 m, u32 bytes);
/* ldmatrix, stmatrix: nrows row addresses of 16 bytes, 8 rows a wavefront. */
void ptx_count_matrix(const Ins *in, const u32 *address, int nrows);
/* Device memory request of a warp: bytes and 32-byte sectors, loads or stores. */
void ptx_count_global(const Ins *in, const u64 *address, u32 m, u32 bytes, bool store);
void ptx_report_launch(Grid *g, double seconds); /* at the end of each launch, as FA_PTX_REPORT asks */
void ptx_report_exit(void);
/* For tests of kernels: a field of Counters of the last launch, by its name ("load_bytes"). C++ declares it itself:
 * extern "C" uint64_t ptx_counter(const char *name); */
u64 ptx_counter(const char *name);

/* ---- launch (runtime.c calls, scheduler.c runs) --------------------------------------------------------------------------- */

typedef struct {
    u32 grid[3], block[3], cluster[3]; /* cluster 0,0,0: as the kernel says, or none */
    u32 dynamic_shared;
    bool overlaps;                     /* programmatic stream serialisation */
    bool cooperative;
} LaunchShape;
/* args: pointers to the parameters, in order. Returns a cudaError_t: 0, 719 (launch failure: findings), 1, 9, ... */
int ptx_launch(Kernel *k, const LaunchShape *shape, void **args);
int ptx_flush(void); /* runs a grid that was held back for programmatic dependent launch; its error */
/* Blocks of a kernel that fit on one SM at once, by threads, shared memory and registers (of the launch bounds). */
int ptx_blocks_per_sm(const Kernel *k, int threads, u32 dynamic_shared);
int ptx_registers(const Kernel *k, int threads); /* per thread: what the launch bounds leave (ptxas is not at hand) */

/* tensormap.c: what cudaGetDriverEntryPoint finds; NULL if the machine does not have it. */
void *ptx_driver_entry_point(const char *name);

static inline u32 ptx_swizzle(u32 address, int mode) { /* mode 0 none, 1 32B, 2 64B, 3 128B: on the absolute address */
    return mode ? address ^ ((address >> 7 & ((1u << mode) - 1)) << 4) : address;
}

/* Tensor map as the machine stores it in the 128 bytes of a CUtensorMap (tensormap.c writes, async.c reads). */
#define PTX_TENSOR_MAP_MAGIC 0x70616d726f736e74u
typedef struct {
    u64 magic;
    u64 base;
    u64 dim[5], stride[5];   /* stride[d]: bytes between neighbours in dimension d; stride[0] = element size */
    u32 box[5];
    u8 rank, element_size, swizzle /* 0 none, 1 32B, 2 64B, 3 128B */, fill_nan, type /* CUtensorMapDataType */;
} TensorMap;
_Static_assert(sizeof(TensorMap) <= 128, "must fit a CUtensorMap");

#endif
