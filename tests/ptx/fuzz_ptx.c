/* fuzz_ptx.c - damaged PTX and damaged fat binaries.
 *
 *     fuzz_ptx [--seconds n] [--seed n] [file.ptx ...]      "1 passed, 0 failed, 0 skipped"
 *     fuzz_ptx --seed n --case n [file.ptx ...]             one case alone: shows its text and what the machine says
 *
 * Valid modules, of this file and the ones that are named, are damaged in a few places: lines and tokens are
 * deleted, doubled, swapped or come from elsewhere, numbers become others. What is still understood is decoded and
 * launched. Nothing may crash, run on, or touch memory that is not its own (AddressSanitizer), and what is refused
 * must be refused with a message. Cases run in child processes, as modules live as long as their process.
 */
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fuzz.h"

enum {
    TEXT_BYTES = 1 << 20,
    MEMORY_BYTES = 1 << 16,
    BATCH = 100, /* cases a child */
    MOST_FAILURES = 5,
    CASE_SECONDS = 20 /* longer is a hang */
};

/* ---- what is damaged ----------------------------------------------------------------------------------- */

#define HEAD ".version 8.0\n.target sm_90a\n.address_size 64\n.file 1 \"fuzz.cu\"\n"

static const char declarations[] =
    HEAD ".extern .func (.param .b32 r) vprintf (.param .b64 a, .param .b64 b);\n"
         ".global .align 1 .b8 text[10] = {37, 100, 32, 37, 102, 32, 37, 115, 10, 0};\n"
         ".global .align 8 .u64 table[4] = {generic(text), counter+4, 0xff(text), -1};\n"
         ".visible .global .u32 counter = 3;\n"
         ".const .align 4 .f32 factors[2][2] = {{0f3F800000, 2.5}, {0f40400000}};\n"
         ".shared .align 4 .b32 common[64];\n"
         ".extern .shared .align 16 .b8 dynamic[];\n"
         ".visible .entry print(\n"
         "    .param .u64 .ptr .global .align 8 out,\n"
         "    .param .align 8 .b8 pair[16],\n"
         "    .param .u32 n\n"
         ")\n"
         ".maxntid 128, 1, 1\n"
         ".minnctapersm 2\n"
         "{\n"
         ".local .align 8 .b8 depot[32];\n"
         ".reg .pred %p<3>;\n"
         ".reg .b16 %h<4>;\n"
         ".reg .b32 %r<9>;\n"
         ".reg .f32 %f<4>;\n"
         ".reg .b64 %x<9>;\n"
         ".reg .f64 %d<3>;\n"
         ".loc 1 10 5\n"
         "mov.u32 %r1, %tid.x; /* a comment */ // and another\n"
         "ld.param.u32 %r2, [n];\n"
         "ld.param.v2.u32 {%r3, %r4}, [pair+8];\n"
         "mov.u64 %x1, depot;\n"
         "cvta.local.u64 %x2, %x1;\n"
         "ld.const.f32 %f1, [factors+4];\n"
         "cvt.f64.f32 %d1, %f1;\n"
         ".loc 1 20 3, function_name $L__info_string0, inlined_at 1 11 4\n"
         "st.local.v2.u32 [%x1], {%r1, %r2};\n"
         "st.local.f64 [%x1+8], %d1;\n"
         "ld.global.u64 %x3, [table];\n"
         "st.local.u64 [%x1+16], %x3;\n"
         "setp.ne.u32 %p1, %r1, 5;\n"
         "@%p1 bra $L__after;\n"
         "{\n"
         ".reg .b32 temp;\n"
         ".param .b64 param0;\n"
         "st.param.b64 [param0+0], %x3;\n"
         ".param .b64 param1;\n"
         "st.param.b64 [param1+0], %x2;\n"
         ".param .b32 retval0;\n"
         "call.uni (retval0), vprintf, (param0, param1);\n"
         "ld.param.b32 temp, [retval0+0];\n"
         "}\n"
         "$L__after:\n"
         "mov.u32 %r5, common;\n"
         "and.b32 %r6, %r1, 63;\n"
         "shl.b32 %r6, %r6, 2;\n"
         "add.s32 %r5, %r5, %r6;\n"
         "st.volatile.shared.u32 [%r5], %r1;\n"
         "mov.u32 %r7, dynamic;\n"
         "add.s32 %r7, %r7, %r1;\n"
         "st.shared.u8 [%r7+1], 3;\n"
         "bar.sync 0;\n"
         "atom.global.add.u32 %r8, [counter], 1;\n"
         "ld.param.u64 %x4, [out];\n"
         "mov.u32 %r3, %ctaid.x;\n"
         "mad.lo.u32 %r4, %r3, %ntid.x, %r1;\n"
         "mad.wide.u32 %x5, %r4, 8, %x4;\n"
         "st.global.v2.f32 [%x5], {%f1, 0f7F800000};\n"
         "ret;\n"
         "}\n";

static const char scalars[] = HEAD
    ".visible .entry scalars(.param .u64 out, .param .u32 n) .reqntid 64, 1, 1\n"
    "{\n"
    ".reg .pred %p<6>;\n"
    ".reg .b16 %h<8>;\n"
    ".reg .b32 %r<40>;\n"
    ".reg .f32 %f<10>;\n"
    ".reg .b64 %x<10>;\n"
    ".reg .f64 %d<4>;\n"
    ".shared .align 16 .b8 tile[1024];\n"
    "mov.u32 %r1, %tid.x;\n"
    "mov.u32 %r2, %ctaid.x;\n"
    "mad.lo.s32 %r3, %r2, 64, %r1;\n"
    "mov.u32 %r4, 0;\n"
    "mov.f32 %f1, 0f00000000;\n"
    "AGAIN:\n"
    "add.s32 %r4, %r4, 1;\n"
    "cvt.rn.f32.s32 %f2, %r4;\n"
    "fma.rn.f32 %f1, %f2, 0f3F000000, %f1;\n"
    "setp.lt.s32 %p1, %r4, 5;\n"
    "@%p1 bra AGAIN;\n"
    "ex2.approx.ftz.f32 %f3, %f1;\n"
    "div.rn.f32 %f4, %f3, %f1;\n"
    "sqrt.rn.f32 %f5, %f4;\n"
    "min.NaN.f32 %f6, %f5, %f4;\n"
    "cvt.rn.f16x2.f32 %r5, %f4, %f5;\n"
    "cvt.rn.satfinite.e4m3x2.f32 %h1, %f4, %f5;\n"
    "fma.rn.f16x2 %r6, %r5, %r5, %r5;\n"
    "mov.b32 {%h2, %h3}, %r6;\n"
    "mov.b64 %x1, {%r5, %r6};\n"
    "prmt.b32 %r7, %r5, %r6, 0x5410;\n"
    "lop3.b32 %r8, %r5, %r6, %r7, 0x96;\n"
    "bfe.u32 %r9, %r8, 4, 8;\n"
    "bfi.b32 %r10, %r9, %r8, 16, 8;\n"
    "shf.l.wrap.b32 %r11, %r8, %r9, 7;\n"
    "popc.b32 %r12, %r11;\n"
    "mul.hi.u32 %r13, %r11, %r8;\n"
    "div.u32 %r14, %r13, %r12;\n"
    "add.cc.u32 %r15, %r13, %r14;\n"
    "addc.u32 %r16, %r13, 0;\n"
    "selp.b32 %r17, %r15, %r16, %p1;\n"
    "slct.s32.s32 %r18, %r15, %r16, %r17;\n"
    "setp.eq.and.s32 %p2|%p3, %r17, %r18, !%p1;\n"
    "vote.sync.ballot.b32 %r19, %p2, -1;\n"
    "shfl.sync.bfly.b32 %r20|%p4, %r15, 1, 31, -1;\n"
    "redux.sync.add.s32 %r21, %r20, 0xffffffff;\n"
    "match.any.sync.b32 %r22, %r1, -1;\n"
    "activemask.b32 %r23;\n"
    "shl.b32 %r24, %r1, 4;\n"
    "mov.u32 %r25, tile;\n"
    "add.s32 %r26, %r25, %r24;\n"
    "st.shared.v4.b32 [%r26], {%r5, %r6, %r7, %r8};\n"
    "bar.red.popc.u32 %r27, 0, %p2;\n"
    "ld.shared.v2.b64 {%x2, %x3}, [%r26];\n"
    "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r28, %r29, %r30, %r31}, [%r26];\n"
    "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f6, %f7, %f8, %f9}, {%r28, %r29, %r30, %r31}, "
    "{%r5, %r6}, {%f1, %f1, %f1, %f1};\n"
    "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%r32, %r33, %r34, %r35}, {%r28, %r29, %r30, %r31}, "
    "{%r5, %r6}, {%r5, %r5, %r5, %r5};\n"
    "ld.param.u64 %x4, [out];\n"
    "cvta.to.global.u64 %x5, %x4;\n"
    "mul.wide.s32 %x6, %r3, 16;\n"
    "add.s64 %x7, %x5, %x6;\n"
    "st.global.v4.f32 [%x7], {%f6, %f7, %f8, %f9};\n"
    "bar.sync 1, 64;\n"
    "cp.async.cg.shared.global [%r26], [%x7], 16;\n"
    "cp.async.commit_group;\n"
    "cp.async.wait_group 0;\n"
    "fence.acq_rel.gpu;\n"
    "red.global.add.f32 [%x5+8192], %f6;\n"
    "atom.global.cas.b32 %r36, [%x5+8196], %r1, %r2;\n"
    "ld.global.nc.L2::128B.v4.u32 {%r5, %r6, %r7, %r8}, [%x7+4096];\n"
    "ld.acquire.gpu.global.u32 %r37, [%x5+8200];\n"
    "elect.sync %r38|%p5, -1;\n"
    "@!%p5 exit;\n"
    "fma.rn.f64 %d1, 0d3FF0000000000000, 2.0, 0.5;\n"
    "st.global.f64 [%x7+12288], %d1;\n"
    "ret;\n"
    "}\n";

static const char async[] = HEAD
    ".visible .entry async(.param .u64 out, .param .align 64 .b8 map[128], .param .u32 n)\n"
    ".maxntid 128, 1, 1 .minnctapersm 1 .explicitcluster .reqnctapercluster 2, 1, 1\n"
    "{\n"
    ".reg .pred %p<5>;\n"
    ".reg .b32 %r<30>;\n"
    ".reg .f32 %f<5>;\n"
    ".reg .b64 %x<20>;\n"
    ".shared .align 1024 .b8 tile[4096];\n"
    ".shared .align 8 .b64 bars[2];\n"
    "mov.u32 %r1, %tid.x;\n"
    "mov.u32 %r2, tile;\n"
    "mov.u32 %r3, bars;\n"
    "setp.ne.u32 %p1, %r1, 0;\n"
    "@%p1 bra READY;\n"
    "mbarrier.init.shared::cta.b64 [%r3], 1;\n"
    "mbarrier.init.shared::cta.b64 [%r3+8], 1;\n"
    "fence.mbarrier_init.release.cluster;\n"
    "READY:\n"
    "barrier.cluster.arrive.release.aligned;\n"
    "barrier.cluster.wait.acquire.aligned;\n"
    "@%p1 bra LOADED;\n"
    "mov.b64 %x1, map;\n"
    "cvta.param.u64 %x2, %x1;\n"
    "prefetch.tensormap [%x2];\n"
    "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r3], 2048;\n"
    "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%r2], [%x2, {0, 0}], "
    "[%r3];\n"
    "LOADED:\n"
    "mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r3], 0;\n"
    "@!%p2 bra LOADED;\n"
    "ld.param.u64 %x3, [out];\n"
    "mov.u32 %r4, %cluster_ctarank;\n"
    "mul.wide.u32 %x4, %r4, 16384;\n"
    "add.s64 %x3, %x3, %x4;\n"
    "@%p1 bra COPIED;\n"
    "mbarrier.arrive.expect_tx.shared::cta.b64 %x5, [%r3+8], 2048;\n"
    "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r2+2048], [%x3], 2048, [%r3+8];\n"
    "COPIED:\n"
    "mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r3+8], 0;\n"
    "@!%p3 bra COPIED;\n"
    "shr.u32 %r5, %r2, 4;\n"
    "cvt.u64.u32 %x6, %r5;\n"
    "or.b64 %x7, %x6, 0x1000080000;\n"
    "add.s64 %x8, %x7, 128;\n"
    "wgmma.fence.sync.aligned;\n"
    "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f1, %f2, %f3, %f4}, %x7, %x8, 0, 1, 1, 0, 0;\n"
    "wgmma.commit_group.sync.aligned;\n"
    "wgmma.wait_group.sync.aligned 0;\n"
    "mul.wide.u32 %x9, %r1, 16;\n"
    "add.s64 %x10, %x3, %x9;\n"
    "st.global.v4.f32 [%x10+8192], {%f1, %f2, %f3, %f4};\n"
    "shl.b32 %r6, %r1, 4;\n"
    "add.s32 %r7, %r2, %r6;\n"
    "bar.sync 0;\n"
    "st.shared.v4.f32 [%r7], {%f1, %f2, %f3, %f4};\n"
    "fence.proxy.async.shared::cta;\n"
    "bar.sync 0;\n"
    "mad.lo.u32 %r14, %r4, 16, 16;\n"
    "@%p1 bra STORED;\n"
    "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%x2, {%r14, 0}], [%r2];\n"
    "cp.async.bulk.commit_group;\n"
    "cp.async.bulk.wait_group 0;\n"
    "STORED:\n"
    "xor.b32 %r8, %r4, 1;\n"
    "mapa.shared::cluster.u32 %r9, %r7, %r8;\n"
    "barrier.cluster.arrive.release.aligned;\n"
    "barrier.cluster.wait.acquire.aligned;\n"
    "ld.shared::cluster.v4.b32 {%r10, %r11, %r12, %r13}, [%r9];\n"
    "setmaxnreg.dec.sync.aligned.u32 40;\n"
    "griddepcontrol.wait;\n"
    "griddepcontrol.launch_dependents;\n"
    "barrier.cluster.arrive.aligned;\n"
    "barrier.cluster.wait.aligned;\n"
    "ret;\n"
    "}\n";

enum { MOST_SEEDS = 64 };
static const char *seeds[MOST_SEEDS] = {declarations, scalars, async};
static u32 nseeds = 3;

/* ---- damage -------------------------------------------------------------------------------------------- */

typedef struct {
    size_t at, bytes;
} Span;

static char text[TEXT_BYTES], other[TEXT_BYTES]; /* NUL-terminated */

static bool is_word(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '%' || c == '$';
}
static size_t somewhere(const char *in) { return strlen(in) ? below((u32)strlen(in)) : 0; }

static Span some_line(const char *in) {
    size_t at = somewhere(in);
    while (at && in[at - 1] != '\n') at--;
    size_t n = strcspn(in + at, "\n");
    return (Span){at, n + (in[at + n] == '\n')};
}
static Span some_token(const char *in) { /* a name, a number, or one other character */
    size_t at = somewhere(in), n = in[at] != 0;
    if (!is_word(in[at])) return (Span){at, n};
    while (at && is_word(in[at - 1])) at--;
    for (n = 0; is_word(in[at + n]);) n++;
    return (Span){at, n};
}
static Span some_number(const char *in) {
    Span s = some_token(in);
    for (int tries = 0; tries < 200 && !(in[s.at] >= '0' && in[s.at] <= '9'); tries++) s = some_token(in);
    return s;
}

/* Puts n bytes in the place of a span of the text. */
static void put(Span s, const char *what, size_t n) {
    size_t length = strlen(text);
    if (length - s.bytes + n >= TEXT_BYTES) return;
    memmove(text + s.at + n, text + s.at + s.bytes, length - s.at - s.bytes + 1);
    memcpy(text + s.at, what, n);
}

static void swap(Span a, Span b) {
    if (a.at > b.at) swap(b, a);
    if (a.at + a.bytes > b.at) return;
    memcpy(other, text, strlen(text) + 1);
    put(b, other + a.at, a.bytes);
    put(a, other + b.at, b.bytes);
}

static void change_number(void) {
    static const char *const numbers[] = {"0",
                                          "1",
                                          "-1",
                                          "2",
                                          "3",
                                          "7",
                                          "8",
                                          "15",
                                          "16",
                                          "17",
                                          "31",
                                          "32",
                                          "33",
                                          "64",
                                          "127",
                                          "128",
                                          "256",
                                          "1023",
                                          "1024",
                                          "4096",
                                          "65535",
                                          "65536",
                                          "16777216",
                                          "0x7fffffff",
                                          "0x80000000",
                                          "0xffffffff",
                                          "4294967296",
                                          "1073741824",
                                          "0x7fffffffffffffff",
                                          "0x8000000000000000",
                                          "0xffffffffffffffff",
                                          "99999999999999999999",
                                          "0f7FC00000",
                                          "0f7F800000",
                                          "0d7FF0000000000000",
                                          "1.5",
                                          "1e400",
                                          "0b101",
                                          "07",
                                          "0xff(text)",
                                          "(1+2*3)",
                                          "5/0",
                                          "WARP_SZ"};
    const char *n = numbers[below(sizeof numbers / sizeof *numbers)];
    put(some_number(text), n, strlen(n));
}

static void damage(void) {
    const char *from = seeds[below(nseeds)];
    bool lines = below(2);
    Span s = lines ? some_line(text) : some_token(text), t = lines ? some_line(text) : some_token(text);
    char byte;
    switch (below(12)) {
    case 0: put(s, "", 0); break;
    case 1: /* doubled */
        memcpy(other, text + s.at, s.bytes);
        put((Span){s.at, 0}, other, s.bytes);
        break;
    case 2: swap(s, t); break;
    case 3:
    case 4: /* from elsewhere, in the place of it or in front of it */
        t = lines ? some_line(from) : some_token(from);
        put((Span){s.at, below(2) ? s.bytes : 0}, from + t.at, t.bytes);
        break;
    case 5:
        if (below(8) == 0) text[somewhere(text)] = 0;
        break;
    case 6:
        byte = (char)(1 + below(255));
        if (*text) text[somewhere(text)] = byte;
        break;
    case 7: /* a register for another one */
        s = some_token(text), t = some_token(text);
        for (int i = 0; i < 100 && text[s.at] != '%'; i++) s = some_token(text);
        for (int i = 0; i < 100 && text[t.at] != '%'; i++) t = some_token(text);
        memcpy(other, text + t.at, t.bytes);
        put(s, other, t.bytes);
        break;
    default: change_number();
    }
}

static void make_text(void) {
    snprintf(text, sizeof text, "%s", seeds[below(nseeds)]);
    for (u32 n = 1 + below(1u << below(4)); n; n--) damage();
}

/* ---- one module ---------------------------------------------------------------------------------------- */

static char *said; /* what the machine has said in this case: its stderr */
static size_t said_bytes;
static struct {
    u64 at; /* number of the case that runs */
    u64 modules, kernels, launches, complete, fatbins;
} * shared; /* with the children */

static void forget_said(void) { fflush(stderr), rewind(stderr), fflush(stderr); }
static bool was_said(void) { return fflush(stderr), said_bytes > 0; }

static void must(bool held, const char *what) {
    if (held) return;
    fflush(stderr);
    dprintf(STDERR_FILENO, "fuzz_ptx: %s\n%.*s", what, (int)said_bytes, said);
    abort();
}

static u8 *device_memory(void) {
    static u8 *memory;
    if (!memory) {
        memory = aligned_alloc(256, MEMORY_BYTES);
        ptx_add_allocation(memory, MEMORY_BYTES, "memory");
    }
    for (u32 i = 0; i < MEMORY_BYTES / 4; i++) {
        float f = (float)(i % 61) - 30;
        memcpy(memory + 4 * i, &f, 4);
    }
    return memory;
}

/* A value for a parameter of so many bytes: a pointer, a tensor map, or small numbers. */
static void *argument(size_t bytes) {
    u8 *memory = device_memory(), *value = calloc(1, bytes + 1);
    TensorMap map = {.magic = PTX_TENSOR_MAP_MAGIC,
                     .base = (u64)(size_t)memory + MEMORY_BYTES / 2,
                     .dim = {64, 64},
                     .stride = {2, 128}};
    map.box[0] = 16, map.box[1] = 64, map.rank = 2, map.element_size = 2, map.type = 6; /* f16 */
    u64 pointer = (u64)(size_t)memory;
    if (bytes == 8)
        memcpy(value, &pointer, 8);
    else if (bytes == 128)
        memcpy(value, &map, sizeof map);
    else
        for (size_t i = 0; i < bytes; i += 4) value[i] = (u8)below(8);
    return value;
}

static void launch(Kernel *k) {
    LaunchShape shape = {.grid = {2, 1, 1}, .block = {k->exact_threads ? (u32)k->max_threads[0] : 128, 1, 1}};
    shape.dynamic_shared = k->uses_dynamic_shared ? 256 : 0;
    void **args = calloc((size_t)k->nparams + 1, sizeof *args);
    for (int i = 0; i < k->nparams; i++) args[i] = argument(k->param[i].size);
    int failed = ptx_launch(k, &shape, args);
    failed = failed ? failed : ptx_flush(); /* schedules other than `order` hold it back */
    must(!failed || was_said(), "a launch failed without a message");
    shared->launches++, shared->complete += !failed;
    for (int i = 0; i < k->nparams; i++) free(args[i]);
    free(args);
}

static void use_kernel(Module *m, const char *name) {
    forget_said();
    if (setjmp(ptx_launch_exit)) {
        must(was_said(), "a kernel was refused without a message");
        return;
    }
    Kernel *k = ptx_kernel(m, name);
    if (!k) return; /* another meaning of the name came first */
    shared->kernels++;
    launch(k);
}

static void use(Module *m) {
    shared->modules++;
    for (int i = 0; i < m->nentries; i++) use_kernel(m, m->entry[i].name);
}

static void try_text(void) {
    Module *volatile m = NULL;
    if (setjmp(ptx_launch_exit)) {
        must(was_said(), "a module was refused without a message");
        return;
    }
    m = ptx_module_from_text(text, strlen(text));
    use(m);
}

/* ---- fat binaries (their layout: fatbin.c) ------------------------------------------------------------- */

enum {
    FATBIN_HEADER = 16,
    ENTRY_HEADER = 64,
    MOST_FATBIN = 1 << 20,
    PTX = 1,
    ELF = 2,
    LZ4 = 0x2000,
    BLANKS = 120
};

static u8 *set(u8 *at, u64 value, size_t bytes) { return (u8 *)memcpy(at, &value, bytes) + bytes; }
static u64 get(const u8 *at, size_t bytes) {
    u64 value = 0;
    memcpy(&value, at, bytes);
    return value;
}

/* An LZ4 block for some blanks, by a match, and the text, as it is. */
static u8 *pack_lz4(u8 *to, const char *from, size_t n) {
    static const u8 blanks[] = {0x1f, ' ', 1, 0, BLANKS - 1 - 4 - 15};
    to = (u8 *)memcpy(to, blanks, sizeof blanks) + sizeof blanks;
    *to++ = (u8)((n < 15 ? n : 15) << 4);
    if (n >= 15) {
        size_t left = n - 15;
        for (; left >= 255; left -= 255) *to++ = 255;
        *to++ = (u8)left;
    }
    return (u8 *)memcpy(to, from, n) + n;
}

static u8 *add_entry(u8 *at, u64 kind, const char *payload, size_t n, bool packed) {
    u8 *begin = at + ENTRY_HEADER,
       *end = packed ? pack_lz4(begin, payload, n) : (u8 *)memcpy(begin, payload, n) + n;
    size_t bytes = (size_t)(end - begin), padded = (bytes + 8) / 8 * 8;
    memset(end, 0, padded - bytes);
    memset(at, 0, ENTRY_HEADER);
    set(at, kind, 2), set(at + 4, ENTRY_HEADER, 4), set(at + 8, padded, 8), set(at + 28, 90, 4);
    set(at + 40, packed ? LZ4 : 0, 8);
    if (packed) set(at + 16, bytes, 4), set(at + 56, n + BLANKS, 8);
    return begin + padded;
}

static void try_fatbin(void) {
    static const struct {
        u8 at, bytes;
    } field[] = {{6, 2}, {8, 8}, {16, 2}, {20, 4}, {24, 8}, {32, 4}, {44, 4}, {56, 8}, {72, 8}};
    static const u64 values[] = {0,          1,          3,          8,         15,
                                 16,         63,         64,         65,        72,
                                 255,        4096,       65535,      1 << 20,   INT32_MAX,
                                 UINT32_MAX, 1ull << 32, 1ull << 40, INT64_MAX, UINT64_MAX - 63,
                                 UINT64_MAX};
    struct {
        u32 magic, version;
        const u8 *data;
        const void *more;
    } wrapper = {0x466243b1, below(16) ? 1 : below(4), NULL, NULL};
    u8 *made = calloc(1, 2 * TEXT_BYTES), *at = made + FATBIN_HEADER;
    if (below(2)) snprintf(text, sizeof text, "%s", seeds[0]);
    if (below(2)) at = add_entry(at, ELF, "ELF", 3, false);
    u8 *ptx = at;
    at = add_entry(at, PTX, text, strlen(text), below(2));
    if (below(2)) at = add_entry(at, PTX, text, strlen(text), below(2));
    size_t bytes = (size_t)(at - made);
    set(made, 0xba55ed50, 4), set(made + 4, 1, 2), set(made + 6, FATBIN_HEADER, 2),
        set(made + 8, bytes - FATBIN_HEADER, 8);
    for (u32 n = below(4); n; n--) {
        u32 i = below(sizeof field / sizeof *field);
        u8 *of = (below(2) && field[i].at >= FATBIN_HEADER ? ptx - FATBIN_HEADER : made) + field[i].at;
        u64 value = below(2) ? values[below(sizeof values / sizeof *values)]
                             : get(of, field[i].bytes) + below(33) - 16;
        if (below(3))
            set(of, value, field[i].bytes);
        else
            made[below(below(2) ? 192 : (u32)bytes)] ^= (u8)(1 << below(8));
    }
    /* How much there is, only the header says: so much there is, and not a byte more. */
    u64 has = get(made + 6, 2) + get(made + 8, 8);
    if (get(made + 8, 8) > MOST_FATBIN)
        has = bytes, set(made + 8, bytes - FATBIN_HEADER, 8), set(made + 6, FATBIN_HEADER, 2);
    if (has < FATBIN_HEADER) has = FATBIN_HEADER;
    u8 *exact = malloc(has); /* 16-byte aligned */
    memset(exact, 0, has);
    memcpy(exact, made, has < bytes ? has : bytes);
    wrapper.data = exact;
    char why[512] = "";
    Module *volatile m = NULL;
    shared->fatbins++;
    if (setjmp(ptx_launch_exit))
        must(was_said(), "a fat binary was refused without a message");
    else {
        m = ptx_module_from_fatbin(&wrapper, why, sizeof why);
        must(m || (*why && memchr(why, 0, sizeof why)), "no module, and no reason why");
        if (m) use(m);
    }
    free(exact), free(made);
}

/* ---- cases --------------------------------------------------------------------------------------------- */

static void run_case(u64 n) {
    shared->at = n;
    fuzz_start(n);
    alarm(CASE_SECONDS);
    ptx_device.schedule = (Schedule)below(3), ptx_device.seed = 1 + below(1000), ptx_device.limit = 3000;
    ptx_device.checks = below(8) != 0;
    forget_said();
    if (n < nseeds)
        snprintf(text, sizeof text, "%s", seeds[n]); /* undamaged */
    else
        make_text();
    if (n >= nseeds && below(8) == 0)
        try_fatbin();
    else
        try_text();
    must(n >= 3 || shared->complete == shared->kernels, "an undamaged kernel fails");
}

static int run_batch(u64 first, double until) { /* in a child: its exit status */
    pid_t child = fork();
    int status = 0;
    if (child) return waitpid(child, &status, 0) == child ? status : -1;
    stderr = open_memstream(&said, &said_bytes); /* the sanitizers write to the descriptor itself */
    stdout = fopen("/dev/null", "w");            /* printf() of kernels */
    for (u64 n = first; n < first + BATCH && fuzz_now() < until; n++) run_case(n);
    _exit(0);
}

static void show_case(u64 n) {
    FILE *terminal = stderr;
    stderr = open_memstream(&said, &said_bytes);
    run_case(n);
    fflush(stderr);
    fprintf(terminal, "%s\n---- %.*s\n", text, (int)said_bytes, said);
}

static void read_seed(const char *name) {
    FILE *f = fopen(name, "r");
    char *whole = calloc(1, TEXT_BYTES);
    if (!f || nseeds == MOST_SEEDS || fread(whole, 1, TEXT_BYTES / 2, f) == 0) {
        fprintf(stderr, "fuzz_ptx: cannot use %s\n", name);
        exit(2);
    }
    fclose(f);
    seeds[nseeds++] = whole;
}

/* Modules are never freed. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) { return "detect_leaks=0:allocator_may_return_null=1"; }

int main(int argc, char **argv) {
    const char *only = fuzz_option(argc, argv, "--case");
    u64 n = 0;
    int failures = 0;
    fuzz_options(argc, argv);
    for (int i = 1; i < argc; i++)
        if (argv[i][0] == '-')
            i++;
        else
            read_seed(argv[i]);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ptx_device.max_findings = 100;
    if (only) {
        show_case(strtoull(only, NULL, 0));
        _exit(0);
    }
    for (double until = fuzz_now() + fuzz.seconds; fuzz_now() < until && failures < MOST_FAILURES;
         n = shared->at + 1) {
        int status = run_batch(n, until);
        if (!status) continue;
        failures++;
        printf("# --seed %llu --case %llu: %s\n", (unsigned long long)fuzz.seed,
               (unsigned long long)shared->at,
               WIFSIGNALED(status) ? strsignal(WTERMSIG(status)) : "see above");
    }
    printf("# %llu cases: %llu modules, %llu kernels decoded, %llu launched, %llu without findings; %llu fat "
           "binaries\n",
           (unsigned long long)n, (unsigned long long)shared->modules, (unsigned long long)shared->kernels,
           (unsigned long long)shared->launches, (unsigned long long)shared->complete,
           (unsigned long long)shared->fatbins);
    printf("%d passed, %d failed, 0 skipped\n", !failures, !!failures);
    fflush(stdout);
    _exit(failures != 0); /* findings were the point: no exit status for them */
}
