/* parser.c - PTX text to modules and kernels.
 *
 *     memory and names    an arena, and hash tables from (scope, name) to what the name means
 *     the parser's state  cursor, words, refusals
 *     registers           rows for registers, constants, special registers; what a name means in a scope
 *     expressions         literals and constant expressions (PTX ISA 4.5), addresses of variables
 *     operands, modifiers ptx_use32(), ptx_mod() and their families: what a decoder asks of one statement
 *     statements          one instruction: opcode, operands, the decoder tables
 *     declarations        .reg, .shared, .local, .param, .loc, labels
 *     kernels             the body of an entry, branch targets, the finished Kernel
 *     modules             the text once over: globals are made, entries are noted
 *
 * The text is copied first, with blanks for comments, so that line numbers stay.
 */
#include <ctype.h>
#include <stdarg.h>
#include <stdlib.h>

#include "machine.h"

/* ---- memory and names ---------------------------------------------------------------------------------- */

/* Modules live as long as the process. */
static void *take(size_t bytes) {
    static char *next;
    static size_t left;
    bytes = (bytes + 15) & ~(size_t)15;
    if (bytes > left) {
        left = bytes > 1 << 20 ? bytes : 1 << 20;
        next = calloc(1, left);
        if (!next) abort();
    }
    void *p = next;
    next += bytes;
    left -= bytes;
    return p;
}

static char *take_string(const char *s, size_t n) {
    char *copy = take(n + 1);
    memcpy(copy, s, n);
    return copy;
}

/* Appends one zeroed element to an array that is full at powers of two. */
#define APPEND(array, n) (array = grow(array, (size_t)(n), sizeof *(array)), &(array)[(n)++])

static void *grow(void *array, size_t n, size_t size) {
    if ((n & (n - 1)) == 0) array = realloc(array, (n ? 2 * n : 1) * size);
    if (!array) abort();
    memset((char *)array + n * size, 0, size);
    return array;
}

typedef enum {
    REGISTER,
    RANGE,    /* .reg .b32 %r<12>: names of its registers are entered when they are used */
    VARIABLE, /* has an address: value, in space */
    LABEL,    /* value: pc */
    FUNCTION,
    ENTRY,
    SHARED,  /* module-level .shared: placed in a kernel that uses it */
    DYNAMIC, /* .extern .shared */
    SPECIAL  /* value: Special */
} Meaning;

typedef struct Name {
    const char *text;
    u32 length, hash;
    int scope;
    u8 meaning, kind, bits, space;
    bool dynamic;    /* VARIABLE: value counts from Kernel.dynamic_offset */
    s32 row;         /* REGISTER: -1 until first used */
    u32 size, align; /* SHARED */
    u64 value;
} Name;

struct Names {
    Name **slot;
    u32 room, n;
};

static u32 hash_name(const char *s, size_t n, int scope) {
    u32 h = 2166136261u ^ (u32)scope * 0x9e3779b9u;
    for (size_t i = 0; i < n; i++) h = (h ^ (u8)s[i]) * 16777619u;
    return h ^ h >> 15;
}

static Name *find(const struct Names *t, int scope, const char *s, size_t n) {
    if (!t->n) return NULL;
    u32 h = hash_name(s, n, scope);
    for (u32 i = h;; i++) {
        Name *e = t->slot[i & (t->room - 1)];
        if (!e) return NULL;
        if (e->hash == h && e->length == n && e->scope == scope && !memcmp(e->text, s, n)) return e;
    }
}

static Name *enter(struct Names *t, int scope, const char *s, size_t n, Meaning meaning) {
    if (2 * (t->n + 1) > t->room) {
        struct Names bigger = {.room = t->room ? 2 * t->room : 256};
        bigger.slot = calloc(bigger.room, sizeof *bigger.slot);
        if (!bigger.slot) abort();
        for (u32 j = 0; j < t->room; j++)
            if (t->slot[j]) {
                u32 i = t->slot[j]->hash;
                while (bigger.slot[i & (bigger.room - 1)]) i++;
                bigger.slot[i & (bigger.room - 1)] = t->slot[j];
            }
        free(t->slot);
        bigger.n = t->n;
        *t = bigger;
    }
    Name *e = take(sizeof *e);
    *e = (Name){.text = take_string(s, n),
                .length = (u32)n,
                .hash = hash_name(s, n, scope),
                .scope = scope,
                .meaning = (u8)meaning,
                .row = -1};
    u32 i = e->hash;
    while (t->slot[i & (t->room - 1)]) i++;
    t->slot[i & (t->room - 1)] = e;
    t->n++;
    return e;
}

/* ---- the parser's state -------------------------------------------------------------------------------- */

typedef struct {
    const char *at;
    int line;
} Cursor;

/* An opcode as written, split once. */
typedef struct {
    const char *text;
    char *mod[24];
    int nmods;
    const Opcode *candidate[8];
    int ncandidates;
} Spelling;

typedef struct {
    int ins, scope, line;
    const char *label;
} Fixup;

typedef struct {
    Text text; /* first: decoders hand it back */
    Module *module;
    Kernel *kernel; /* NULL: outside kernels */
    Cursor c;
    struct Names names, constants, places;
    int *parent; /* [nscopes]: scope 0 is the module, 1 the kernel */
    int nscopes, scope;
    int place;
    Fixup *fixup;
    int nfixups;
    u32 spare_row; /* a row that alignment left over; 0: none (row 0 is never spare) */
    int *dynamic;  /* constants that are addresses of dynamic shared memory */
    int ndynamic;
    Operand *scratch;
} Parser;

_Noreturn static void refuse(Parser *p, const char *format, ...) __attribute__((format(printf, 2, 3)));
_Noreturn static void refuse(Parser *p, const char *format, ...) {
    char why[1024];
    va_list a;
    va_start(a, format);
    vsnprintf(why, sizeof why, format, a);
    va_end(a);
    ptx_refuse(p->kernel, p->kernel ? p->place : -1, "%s (line %d of the PTX)", why, p->c.line);
}

static bool is_name(char ch) { return isalnum((u8)ch) || ch == '_' || ch == '$' || ch == '%'; }

static void blanks(Cursor *c) {
    for (; isspace((u8)*c->at); c->at++) c->line += *c->at == '\n';
}

static bool eat(Cursor *c, char ch) {
    blanks(c);
    if (*c->at != ch) return false;
    c->at++;
    return true;
}

static void expect(Parser *p, char ch) {
    if (!eat(&p->c, ch)) refuse(p, "syntax: '%c' expected before \"%.20s\"", ch, p->c.at);
}

/* The next word: a name, or a directive with its dot. */
static size_t word(Cursor *c, const char **s) {
    blanks(c);
    *s = c->at;
    if (*c->at == '.') c->at++;
    while (is_name(*c->at)) c->at++;
    return (size_t)(c->at - *s);
}

static bool is(const char *s, size_t n, const char *what) { return strlen(what) == n && !memcmp(s, what, n); }

static bool eat_word(Cursor *c, const char *what) {
    Cursor save = *c;
    const char *s;
    size_t n = word(c, &s);
    if (is(s, n, what)) return true;
    *c = save;
    return false;
}

static void skip_to(Parser *p, char end) {
    for (; *p->c.at != end; p->c.at++) {
        if (!*p->c.at) refuse(p, "syntax: '%c' expected before the end", end);
        p->c.line += *p->c.at == '\n';
    }
    p->c.at++;
}

static void skip_braces(Parser *p) {
    int depth = 0;
    do {
        if (!*p->c.at) refuse(p, "syntax: '}' expected before the end");
        p->c.line += *p->c.at == '\n';
        depth += (*p->c.at == '{') - (*p->c.at == '}');
        p->c.at++;
    } while (depth);
}

/* Per thread (CUDA programming guide, compute capabilities), of a kernel's parameters (PTX ISA 4.4), of anything. */
enum { MOST_LOCAL = 512 << 10, MOST_PARAM = 32764, MOST_BYTES = 1 << 30, MOST_ALIGN = 1 << 16 };

/* ---- registers ----------------------------------------------------------------------------------------- */

/* Rows of 64-bit registers are 256-byte aligned. */
static s32 new_row(Parser *p, bool wide) {
    Kernel *k = p->kernel;
    u32 row = k->rows;
    if (!wide && p->spare_row) {
        row = p->spare_row;
        p->spare_row = 0;
    } else if (wide && row & 1) {
        p->spare_row = row++;
        k->rows = row + 2;
    } else
        k->rows += wide ? 2 : 1;
    return (s32)row;
}

static s32 constant_row(Parser *p, bool wide, u64 value, bool dynamic) {
    Kernel *k = p->kernel;
    u64 key[2] = {value, wide * 2u + dynamic};
    Name *e = find(&p->constants, 0, (const char *)key, sizeof key);
    if (e) return e->row;
    e = enter(&p->constants, 0, (const char *)key, sizeof key, REGISTER);
    e->row = new_row(p, wide);
    if (dynamic) *APPEND(p->dynamic, p->ndynamic) = k->nconstants;
    *APPEND(k->constant, k->nconstants) = (Constant){(u32)e->row, wide ? 64 : 32, value};
    return e->row;
}

static Name *place_variable(Parser *p, int scope, const char *s, size_t n, Space space, u32 size, u32 align) {
    Kernel *k = p->kernel;
    Name *e = enter(&p->names, scope, s, n, VARIABLE);
    u32 *end = space == SPACE_SHARED  ? &k->shared_bytes
               : space == SPACE_LOCAL ? &k->local_bytes
                                      : &k->param_bytes;
    u64 most = space == SPACE_LOCAL ? MOST_LOCAL : space == SPACE_PARAM ? MOST_PARAM : MOST_BYTES;
    if ((u64)*end + align + size > most)
        refuse(p, "no room for %.*s: all together may have %llu bytes", (int)n, s, (unsigned long long)most);
    *end = (*end + align - 1) & ~(align - 1);
    e->value = *end;
    e->space = (u8)space;
    Symbol symbol = {(char *)(size_t)e->text, *end, size, align};
    if (space == SPACE_SHARED) *APPEND(k->shared, k->nshared) = symbol;
    if (space == SPACE_LOCAL) *APPEND(k->local, k->nlocal) = symbol;
    if (space == SPACE_PARAM) *APPEND(k->param, k->nparams) = symbol;
    *end += size;
    return e;
}

/* What a name means here; NULL: nothing yet (a label further down, or nothing at all). */
static Name *look_up(Parser *p, const char *s, size_t n) {
    size_t digits = 0;
    while (digits < n && isdigit((u8)s[n - 1 - digits])) digits++;
    bool numbered = digits && digits < 9 && (s[n - digits] != '0' || digits == 1);
    for (int scope = p->scope; scope > 0; scope = p->parent[scope]) {
        Name *e = find(&p->names, scope, s, n);
        if (e) return e;
        Name *range = numbered ? find(&p->names, scope, s, n - digits) : NULL;
        if (range && range->meaning == RANGE && strtoul(s + n - digits, NULL, 10) < range->value) {
            e = enter(&p->names, scope, s, n, REGISTER);
            e->kind = range->kind;
            e->bits = range->bits;
            return e;
        }
    }
    Name *e = find(p->module->names, 0, s, n);
    if (!e || !p->kernel) return e;
    if (e->meaning == SHARED) return place_variable(p, 1, s, n, SPACE_SHARED, e->size, e->align);
    if (e->meaning == DYNAMIC) {
        p->kernel->uses_dynamic_shared = true;
        Name *d = enter(&p->names, 1, s, n, VARIABLE);
        d->space = SPACE_SHARED;
        d->dynamic = true;
        return d;
    }
    if (e->meaning == SPECIAL) {
        bool wide = e->value == SR_GRIDID;
        Name *r = enter(&p->names, 1, s, n, REGISTER);
        r->kind = wide ? KIND_R64 : KIND_R32;
        r->bits = wide ? 64 : 32;
        r->row = new_row(p, wide);
        *APPEND(p->kernel->special, p->kernel->nspecials) = (SpecialRow){(u32)r->row, (Special)e->value};
        return r;
    }
    return e;
}

/* ---- expressions --------------------------------------------------------------------------------------- */

typedef struct {
    s64 value;
    u8 bits; /* 32: 0f..., 64: 0d... and decimal floating point, 0: integer */
} Value;

static Value expression(Parser *p, int level);

static Value term(Parser *p) {
    Cursor *c = &p->c;
    blanks(c);
    char ch = *c->at;
    if (ch == '-' || ch == '~' || ch == '!' || ch == '+') {
        c->at++;
        Value v = term(p);
        if (v.bits) { /* a sign before a floating-point literal */
            if (ch == '-') v.value ^= v.bits == 32 ? (s64)0x80000000 : INT64_MIN;
            return v;
        }
        v.value = ch == '-' ? (s64) - (u64)v.value : ch == '~' ? ~v.value : ch == '!' ? !v.value : v.value;
        return v;
    }
    if (eat(c, '(')) {
        Value v = expression(p, 0);
        expect(p, ')');
        return v;
    }
    if (isdigit((u8)ch)) {
        char *end;
        char kind = ch == '0' ? (char)tolower((u8)c->at[1]) : 0;
        Value v = {0, 0};
        if (kind == 'f' || kind == 'd') {
            v.value = (s64)strtoull(c->at + 2, &end, 16);
            v.bits = kind == 'f' ? 32 : 64;
        } else if (kind == 'b') {
            v.value = (s64)strtoull(c->at + 2, &end, 2);
        } else {
            v.value = (s64)strtoull(c->at, &end, 0);
            if (*end == '.' || ((*end == 'e' || *end == 'E') && kind != 'x')) {
                double d = strtod(c->at, &end);
                memcpy(&v.value, &d, 8);
                v.bits = 64;
            }
        }
        if (*end == 'U') end++;
        if (is_name(*end)) refuse(p, "syntax: number \"%.*s\"", (int)(end - c->at) + 1, c->at);
        c->at = end;
        if (!v.bits && v.value && *end == '(') { /* 0xff00(symbol): one byte of an address */
            c->at++;
            Value of = expression(p, 0);
            expect(p, ')');
            of.value = (s64)(((u64)of.value & (u64)v.value) >> __builtin_ctzll((u64)v.value));
            return of;
        }
        return v;
    }
    const char *s;
    size_t n = word(c, &s);
    if (is(s, n, "WARP_SZ")) return (Value){LANES, 0};
    if (is(s, n, "generic")) {
        expect(p, '(');
        Value v = expression(p, 0);
        expect(p, ')');
        return v;
    }
    Name *e = n ? find(p->module->names, 0, s, n) : NULL;
    if (!e || (e->meaning != VARIABLE && e->meaning != FUNCTION && e->meaning != ENTRY))
        refuse(p, "unknown name in an expression: \"%.*s\"", n ? (int)n : 12, s);
    return (Value){(s64)e->value, 0};
}

/* Binary operators from the loosest; two-character ones are shifts. `|` only stands in parentheses: between operands
 * it makes pairs. */
static Value expression(Parser *p, int level) {
    static const char *const operators[] = {"|", "^", "&", "<>", "+-", "*/%"};
    if (level == 6) return term(p);
    Value a = expression(p, level + 1);
    for (;;) {
        blanks(&p->c);
        char ch = *p->c.at;
        if (!ch || !strchr(operators[level], ch)) return a;
        if (level == 3 && p->c.at[1] != ch) return a;
        p->c.at += level == 3 ? 2 : 1;
        Value b = expression(p, level + 1);
        if (a.bits || b.bits) refuse(p, "floating point in a constant expression");
        if ((ch == '/' || ch == '%') && (b.value == 0 || b.value == -1))
            refuse(p, "division in a constant expression");
        u64 x = (u64)a.value, y = (u64)b.value;
        switch (ch) {
        case '|': x |= y; break;
        case '^': x ^= y; break;
        case '&': x &= y; break;
        case '<': x <<= y & 63; break;
        case '>': x = (u64)(a.value >> (y & 63)); break;
        case '+': x += y; break;
        case '-': x -= y; break;
        case '*': x *= y; break;
        case '/': x = (u64)(a.value / b.value); break;
        default: x = (u64)(a.value % b.value);
        }
        a.value = (s64)x;
    }
}

static s64 integer(Parser *p) {
    Value v = expression(p, 0);
    if (v.bits) refuse(p, "an integer is expected");
    return v.value;
}

/* ---- operands ------------------------------------------------------------------------------------------ */

static Operand *new_operand(Parser *p) {
    Text *t = &p->text;
    if (t->nops == (int)(sizeof t->op / sizeof *t->op)) refuse(p, "too many operands");
    Operand *o = &t->op[t->nops++];
    *o = (Operand){.row = -1};
    return o;
}

static void operand(Parser *p) {
    Cursor *c = &p->c;
    Operand *o = new_operand(p);
    if (*c->at == '!') {
        o->negated = true;
        c->at++;
        blanks(c);
    }
    const char *s = c->at;
    if (!is_name(*s) || isdigit((u8)*s) || !strncmp(s, "WARP_SZ", 7)) {
        Value v = expression(p, 1);
        o->kind = KIND_IMM;
        o->value = v.value;
        o->bits = v.bits;
        return;
    }
    while (is_name(*c->at) || (*c->at == '.' && *s == '%')) c->at++;
    size_t n = (size_t)(c->at - s);
    blanks(c);
    if (eat(c, '+')) o->value = integer(p); /* also +-4 */
    if (n == 1 && *s == '_') {
        o->kind = KIND_SINK;
        return;
    }
    Name *e = look_up(p, s, n);
    if (e && e->meaning == REGISTER) {
        if (e->kind == KIND_NONE) refuse(p, "%d-bit register %s is not supported", e->bits, e->text);
        if (e->row < 0)
            e->row = e->kind == KIND_PRED ? (s32)p->kernel->preds++ : new_row(p, e->kind == KIND_R64);
        o->name = e->text;
        o->kind = e->kind;
        o->bits = e->bits;
        o->row = e->row;
        return;
    }
    o->kind = KIND_LABEL;
    o->name = e ? e->text : take_string(s, n);
    if (e && e->meaning == VARIABLE) {
        o->space = e->space;
        o->variable = e->dynamic ? VARIABLE_DYNAMIC : VARIABLE_FIXED;
        o->value = (s64)((u64)o->value + e->value);
    }
}

/* Everything up to the semicolon. Parentheses group operands only in a call. */
static void operands(Parser *p, bool call) {
    Cursor *c = &p->c;
    Text *t = &p->text;
    int depth = 0, group = 0;
    bool address = false;
    t->nops = 0;
    for (;;) {
        blanks(c);
        char ch = *c->at;
        if (ch == ';') break;
        if (ch == '{' || ch == '[' || (ch == '(' && call)) {
            depth++;
            address |= ch == '[';
        } else if (ch == '}' || ch == ']' || (ch == ')' && call)) {
            depth--;
            address &= ch != ']';
        } else if (ch == ',') {
            group += depth == 0;
        } else if (ch != '|') {
            operand(p);
            t->op[t->nops - 1].group = (u16)group;
            t->op[t->nops - 1].address = address;
            blanks(c);
            if (!*c->at || !strchr(",;|}])", *c->at))
                refuse(p, "syntax: ',' expected before \"%.20s\"", c->at);
            continue;
        }
        c->at++;
    }
    c->at++;
    if (depth) refuse(p, "syntax: unbalanced brackets");
    t->ngroups = t->nops ? group + 1 : 0;
}

static Operand *append(Text *t, Ins *in, int i) {
    if (i < 0 || i >= t->nops) return NULL;
    in->op[in->nops] = t->op[i];
    return &in->op[in->nops];
}

/* Puts a constant in the place of an immediate or a variable's address. */
static void materialise(Text *t, Operand *o, int bits) {
    u64 value = (u64)o->value;
    if (bits < 64) value &= (1ull << bits) - 1;
    o->row = constant_row((Parser *)(void *)t, bits == 64, value, o->variable == VARIABLE_DYNAMIC);
    o->kind = bits == 64 ? KIND_R64 : KIND_R32;
    o->bits = (u8)bits;
    o->value = 0;
}

/* Addresses of device memory are 64 bits, others also 32. */
static bool has_address(const Operand *o, int bits) {
    bool device = o->space == SPACE_GLOBAL || o->space == SPACE_CONST;
    return o->kind == KIND_LABEL && o->variable && (bits == 64 || (bits == 32 && !device));
}

bool ptx_use_bits(Text *t, Ins *in, int i, int bits) {
    Operand *o = append(t, in, i);
    if (!o || o->negated || bits < 8 || bits > 64) return false;
    if (o->kind == KIND_IMM) {
        if (o->bits == 64 && bits == 32) { /* 1.5 and 0d...: rounded to the type of the instruction */
            double d;
            memcpy(&d, &o->value, 8);
            float f = (float)d;
            u32 u;
            memcpy(&u, &f, 4);
            o->value = u;
        } else if (o->bits && o->bits != bits)
            return false;
        materialise(t, o, bits);
    } else if (has_address(o, bits)) {
        materialise(t, o, bits);
    } else if (o->kind != (bits == 64 ? KIND_R64 : KIND_R32) || o->value) {
        return false;
    }
    in->nops++;
    return true;
}

bool ptx_use32(Text *t, Ins *in, int i) { return ptx_use_bits(t, in, i, 32); }
bool ptx_use64(Text *t, Ins *in, int i) { return ptx_use_bits(t, in, i, 64); }

bool ptx_use_pred(Text *t, Ins *in, int i) {
    Operand *o = append(t, in, i);
    if (!o || o->kind != KIND_PRED) return false;
    in->nops++;
    return true;
}

bool ptx_use_sink(Text *t, Ins *in, int i) {
    Operand *o = append(t, in, i);
    if (!o || o->negated ||
        (o->kind != KIND_SINK && o->kind != KIND_R32 && o->kind != KIND_R64 && o->kind != KIND_PRED))
        return false;
    in->nops++;
    return true;
}

bool ptx_use_address(Text *t, Ins *in, int i, bool is64) {
    Operand *o = append(t, in, i);
    if (!o || o->negated) return false;
    if ((o->kind == KIND_IMM && !o->bits) || has_address(o, is64 ? 64 : 32))
        materialise(t, o, is64 ? 64 : 32);
    else if (o->kind != (is64 ? KIND_R64 : KIND_R32) || o->bits < 32)
        return false;
    in->nops++;
    return true;
}

bool ptx_immediate(Text *t, int i, s64 *value) {
    if (i < 0 || i >= t->nops || t->op[i].kind != KIND_IMM) return false;
    *value = t->op[i].value;
    return true;
}

/* ---- modifiers ----------------------------------------------------------------------------------------- */

bool ptx_mod(Text *t, const char *name) {
    for (int i = 0; i < t->nmods; i++)
        if (!t->used[i] && !strcmp(t->mod[i], name)) return t->used[i] = true;
    return false;
}

int ptx_mod_of(Text *t, const char *const *names) {
    for (int i = 0; i < t->nmods; i++)
        for (int j = 0; !t->used[i] && names[j]; j++)
            if (!strcmp(t->mod[i], names[j])) {
                t->used[i] = true;
                return j;
            }
    return -1;
}

const char *ptx_mod_prefix(Text *t, const char *prefix) {
    for (int i = 0; i < t->nmods; i++)
        if (!t->used[i] && !strncmp(t->mod[i], prefix, strlen(prefix))) {
            t->used[i] = true;
            return t->mod[i];
        }
    return NULL;
}

static const struct {
    const char *name;
    int bits;
} types[T_TYPES] = {[T_U8] = {"u8", 8},       [T_U16] = {"u16", 16},       [T_U32] = {"u32", 32},
                    [T_U64] = {"u64", 64},    [T_S8] = {"s8", 8},          [T_S16] = {"s16", 16},
                    [T_S32] = {"s32", 32},    [T_S64] = {"s64", 64},       [T_B8] = {"b8", 8},
                    [T_B16] = {"b16", 16},    [T_B32] = {"b32", 32},       [T_B64] = {"b64", 64},
                    [T_B128] = {"b128", 128}, [T_F16] = {"f16", 16},       [T_F16X2] = {"f16x2", 32},
                    [T_BF16] = {"bf16", 16},  [T_BF16X2] = {"bf16x2", 32}, [T_TF32] = {"tf32", 32},
                    [T_F32] = {"f32", 32},    [T_F64] = {"f64", 64},       [T_E4M3] = {"e4m3", 8},
                    [T_E5M2] = {"e5m2", 8},   [T_E4M3X2] = {"e4m3x2", 16}, [T_E5M2X2] = {"e5m2x2", 16},
                    [T_PRED] = {"pred", 1},   [T_U16X2] = {"u16x2", 32},   [T_S16X2] = {"s16x2", 32},
                    [T_F32X2] = {"f32x2", 64}};

static Type type_of(const char *s, size_t n) {
    for (int i = 1; i < T_TYPES; i++)
        if (is(s, n, types[i].name)) return (Type)i;
    return T_NONE;
}

Type ptx_type_named(const char *s) { return type_of(s, strlen(s)); }
int ptx_type_bits(Type type) { return types[type].bits; }

Type ptx_type(Text *t) {
    for (int i = 0; i < t->nmods; i++) {
        Type type = t->used[i] ? T_NONE : ptx_type_named(t->mod[i]);
        if (type != T_NONE) {
            t->used[i] = true;
            return type;
        }
    }
    return T_NONE;
}

/* ---- statements ---------------------------------------------------------------------------------------- */

static const Opcode *const tables[] = {ptx_scalar_opcodes, ptx_memory_opcodes, ptx_warp_opcodes,
                                       ptx_tensor_opcodes, ptx_async_opcodes,  ptx_control_opcodes};

/* The spellings of opcodes are few: each is split, and its decoders are found, once. */
static Spelling *spelling(Parser *p, const char *s, size_t n) {
    static struct Names known;
    Name *e = find(&known, 0, s, n);
    if (e) return (Spelling *)(size_t)e->value;
    Spelling *w = take(sizeof *w);
    char *copy = take_string(s, n), *rest = copy;
    while (rest) {
        if (w->nmods == 24) refuse(p, "unsupported opcode %.*s", (int)n, s);
        w->mod[w->nmods++] = strsep(&rest, ".");
    }
    e = enter(&known, 0, s, n, ENTRY);
    w->text = e->text;
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
        for (const Opcode *o = tables[i]; o->name; o++)
            if (!strcmp(o->name, copy) && w->ncandidates < 8) w->candidate[w->ncandidates++] = o;
    e->value = (u64)(size_t)w;
    return w;
}

/* Refuses the statement that ends before the cursor. */
_Noreturn static void refuse_statement(Parser *p, const char *from, int line, const char *why) {
    char text[400];
    size_t n = 0;
    for (const char *s = from; s < p->c.at && n < sizeof text - 1; s++)
        if (!isspace((u8)*s))
            text[n++] = *s;
        else if (n && text[n - 1] != ' ')
            text[n++] = ' ';
    text[n] = 0;
    p->c.line = line;
    char unknown[120] = "";
    const Text *t = &p->text;
    bool call = !strcmp(t->mod[0], "call");
    if (call) snprintf(unknown, sizeof unknown, "only inlined functions are run (__forceinline__): ");
    for (int i = 0; i < t->nops && !call; i++)
        if (t->op[i].kind == KIND_LABEL && !t->op[i].variable)
            snprintf(unknown, sizeof unknown, "\"%.60s\" is not known, in ", t->op[i].name);
    refuse(p, "unsupported opcode %s: %s\"%s\"", t->opcode, *why ? why : unknown, text);
}

static void statement(Parser *p) {
    Kernel *k = p->kernel;
    Text *t = &p->text;
    Cursor start = p->c;
    s32 guard = -1;
    bool guard_negated = false;
    if (eat(&p->c, '@')) {
        blanks(&p->c);
        t->nops = 0;
        operand(p);
        if (t->op[0].kind != KIND_PRED) refuse(p, "syntax: no predicate: \"%.30s\"", start.at);
        guard = t->op[0].row;
        guard_negated = t->op[0].negated;
        blanks(&p->c);
    }
    const char *s = p->c.at;
    while (is_name(*p->c.at) || *p->c.at == '.' || *p->c.at == ':') p->c.at++;
    if (p->c.at == s) refuse(p, "syntax: \"%.30s\"", s);
    const Spelling *w = spelling(p, s, (size_t)(p->c.at - s));
    t->kernel = k;
    t->opcode = w->text;
    t->line = start.line;
    t->nmods = w->nmods;
    memcpy(t->mod, w->mod, (size_t)w->nmods * sizeof *w->mod);
    operands(p, !strcmp(w->mod[0], "call"));

    char why[80] = "";
    for (int i = 0; i < w->ncandidates; i++) {
        Ins in = {
            .op = p->scratch, .guard = guard, .guard_negated = guard_negated, .member = -1, .target = -1};
        memset(t->used, 0, sizeof t->used);
        t->used[0] = true;
        if (!w->candidate[i]->decode(t, &in)) continue;
        int left = 0;
        while (left < t->nmods && t->used[left]) left++;
        if (left < t->nmods) {
            snprintf(why, sizeof why, "modifier .%s in ", t->mod[left]);
            continue;
        }
        in.opcode = t->opcode;
        in.place = p->place;
        in.line = start.line;
        if (!in.run || in.ndst > in.nops || in.member >= (int)in.nops)
            refuse_statement(p, start.at, start.line, "decoded inconsistently: ");
        if (in.target == -2) {
            int l = 0;
            while (l < t->nops && (t->op[l].kind != KIND_LABEL || t->op[l].variable)) l++;
            if (l == t->nops) refuse_statement(p, start.at, start.line, "no label in ");
            *APPEND(p->fixup, p->nfixups) = (Fixup){k->ncode, p->scope, start.line, t->op[l].name};
        }
        in.op = take(in.nops * sizeof *in.op);
        memcpy(in.op, p->scratch, in.nops * sizeof *in.op);
        *APPEND(k->code, k->ncode) = in;
        return;
    }
    refuse_statement(p, start.at, start.line, why);
}

/* ---- declarations -------------------------------------------------------------------------------------- */

typedef struct {
    const char *name;
    size_t length;
    Type type;
    u32 align;
    u64 count; /* of elements; 0: [] */
    bool array;
} Declaration;

/* .align 8 .b8 name[4][6], after the state space; after a comma only the name: v keeps the rest. */
static void declaration(Parser *p, Declaration *v) {
    Cursor *c = &p->c;
    v->count = 1;
    v->array = false;
    u32 pointee = 0; /* .ptr .global .align 16: of what it points to */
    for (bool pointer = false;;) {
        const char *s;
        size_t n = word(c, &s);
        if (n && *s != '.') {
            v->name = s;
            v->length = n;
            break;
        }
        if (is(s, n, ".align"))
            *(pointer ? &pointee : &v->align) = (u32)integer(p);
        else if (is(s, n, ".ptr"))
            pointer = true;
        else if (is(s, n, ".attribute")) {
            expect(p, '(');
            skip_to(p, ')');
        } else if (n > 1 && type_of(s + 1, n - 1) != T_NONE)
            v->type = type_of(s + 1, n - 1);
        else if (!pointer || !n)
            refuse(p, "unsupported declaration: \"%.30s\"", s);
    }
    if (v->type == T_NONE || v->type == T_PRED)
        refuse(p, "unsupported declaration of %.*s", (int)v->length, v->name);
    while (eat(c, '[')) {
        v->array = true;
        blanks(c);
        u64 n = *c->at == ']' ? 0 : (u64)integer(p);
        expect(p, ']');
        if (n > MOST_BYTES || (v->count *= n) > MOST_BYTES)
            refuse(p, "%.*s is too large", (int)v->length, v->name);
    }
    if (!v->align) v->align = (u32)ptx_type_bits(v->type) / 8;
    if (v->align & (v->align - 1) || v->align > MOST_ALIGN)
        refuse(p, "alignment of %.*s", (int)v->length, v->name);
}

static u64 bytes_of(const Declaration *v) { return v->count * (u64)ptx_type_bits(v->type) / 8; }

static void declare_variable(Parser *p, Space space, bool external) {
    Declaration v = {0};
    do {
        declaration(p, &v);
        if (find(&p->names, p->scope, v.name, v.length))
            refuse(p, "%.*s is declared twice", (int)v.length, v.name);
        if (external && space == SPACE_SHARED && v.array && !v.count) {
            p->kernel->uses_dynamic_shared = true;
            Name *e = enter(&p->names, p->scope, v.name, v.length, VARIABLE);
            e->space = SPACE_SHARED;
            e->dynamic = true;
        } else if (external || bytes_of(&v) > MOST_BYTES)
            refuse(p, "unsupported declaration of %.*s", (int)v.length, v.name);
        else
            place_variable(p, p->scope, v.name, v.length, space, (u32)bytes_of(&v), v.align);
    } while (eat(&p->c, ','));
    expect(p, ';');
}

static void declare_registers(Parser *p) {
    const char *s;
    size_t n = word(&p->c, &s);
    Type type = n ? type_of(s + 1, n - 1) : T_NONE;
    int bits = ptx_type_bits(type);
    if (!bits) refuse(p, "unsupported register type %.*s", (int)n, s);
    do {
        n = word(&p->c, &s);
        if (!n || find(&p->names, p->scope, s, n)) refuse(p, "register %.*s is declared twice", (int)n, s);
        Name *e = enter(&p->names, p->scope, s, n, REGISTER);
        e->kind = bits == 1 ? KIND_PRED : bits <= 32 ? KIND_R32 : bits == 64 ? KIND_R64 : KIND_NONE;
        e->bits = (u8)bits;
        if (eat(&p->c, '<')) {
            e->meaning = RANGE;
            e->value = (u64)integer(p);
            expect(p, '>');
        }
    } while (eat(&p->c, ','));
    expect(p, ';');
}

/* The index of a place; equal ones are one. Its key is the place, and without inlining, under scope 1, the last such. */
static int place_of(Parser *p, Place place) {
    Kernel *k = p->kernel;
    const int call[] = {place.file, place.line, place.column};
    Name *e = find(&p->places, 0, (const char *)&place, sizeof place);
    Name *last = find(&p->places, 1, (const char *)call, sizeof call);
    if (!e) {
        e = enter(&p->places, 0, (const char *)&place, sizeof place, LABEL);
        e->row = k->nplaces;
        *APPEND(k->place, k->nplaces) = place;
    }
    if (!last) last = enter(&p->places, 1, (const char *)call, sizeof call, LABEL);
    return last->row = e->row;
}

/* .loc file line column[, function_name name, inlined_at file line column]: no semicolon, ends with its line. The call
 * site's own inlining is that of its .loc seen last. */
static void location(Parser *p) {
    const char *end = p->c.at + strcspn(p->c.at, "\n"), *inlined;
    char *s = (char *)(size_t)p->c.at;
    int at[3], call[3], chain = -1;
    for (int i = 0; i < 3; i++) at[i] = (int)strtol(s, &s, 10);
    for (inlined = s; inlined < end && strncmp(inlined, "inlined_at", 10);) inlined++;
    if (inlined < end) {
        s = (char *)(size_t)inlined + 10;
        for (int i = 0; i < 3; i++) call[i] = (int)strtol(s, &s, 10);
        Name *e = find(&p->places, 1, (const char *)call, sizeof call);
        chain = e ? e->row : place_of(p, (Place){call[0], call[1], -1, call[2]});
    }
    p->c.at = end;
    p->place = place_of(p, (Place){at[0], at[1], chain, at[2]});
}

static void open_scope(Parser *p) {
    *APPEND(p->parent, p->nscopes) = p->scope;
    p->scope = p->nscopes - 1;
}

/* name: or name: .callprototype ...; */
static bool label(Parser *p) {
    Cursor save = p->c;
    const char *s;
    size_t n = word(&p->c, &s);
    if (!n || *s == '.' || !eat(&p->c, ':') || *p->c.at == ':') {
        p->c = save;
        return false;
    }
    if (find(&p->names, p->scope, s, n)) refuse(p, "label %.*s is defined twice", (int)n, s);
    enter(&p->names, p->scope, s, n, LABEL)->value = (u64)p->kernel->ncode;
    if (eat_word(&p->c, ".callprototype") || eat_word(&p->c, ".branchtargets") ||
        eat_word(&p->c, ".calltargets"))
        skip_to(p, ';');
    return true;
}

/* ---- kernels ------------------------------------------------------------------------------------------- */

static void directive(Parser *p) {
    const char *s;
    size_t n = word(&p->c, &s);
    bool external = is(s, n, ".extern");
    if (external) n = word(&p->c, &s);
    if (is(s, n, ".loc"))
        location(p);
    else if (is(s, n, ".reg"))
        declare_registers(p);
    else if (is(s, n, ".shared"))
        declare_variable(p, SPACE_SHARED, external);
    else if (is(s, n, ".local") || is(s, n, ".param")) /* .param: of a call, kept in local memory */
        declare_variable(p, SPACE_LOCAL, external);
    else if (is(s, n, ".pragma"))
        skip_to(p, ';');
    else
        refuse(p, "unsupported directive %.*s", (int)n, s);
}

static void body(Parser *p) {
    expect(p, '{');
    for (int depth = 1; depth;) {
        blanks(&p->c);
        switch (*p->c.at) {
        case 0: refuse(p, "syntax: '}' expected before the end");
        case '{':
            p->c.at++;
            open_scope(p);
            depth++;
            break;
        case '}':
            p->c.at++;
            p->scope = p->parent[p->scope];
            depth--;
            break;
        case ';': p->c.at++; break;
        case '.': directive(p); break;
        default:
            if (!label(p)) statement(p);
        }
    }
}

static int number(Parser *p, const char *of, int least, int most) {
    s64 n = integer(p);
    if (n < least || n > most) refuse(p, "%s %lld, allowed: %d to %d", of, (long long)n, least, most);
    return (int)n;
}

/* Up to three numbers; missing ones are 1. */
static void extents(Parser *p, const char *of, int *to, int most) {
    to[0] = number(p, of, 1, most);
    to[1] = eat(&p->c, ',') ? number(p, of, 1, most) : 1;
    to[2] = eat(&p->c, ',') ? number(p, of, 1, most) : 1;
    if (to[0] * to[1] * to[2] > most)
        refuse(p, "%s %d, %d, %d, together at most %d", of, to[0], to[1], to[2], most);
}

static void header(Parser *p) {
    Kernel *k = p->kernel;
    Cursor *c = &p->c;
    const char *s;
    word(c, &s);
    if (eat(c, '(') && !eat(c, ')')) {
        do {
            if (!eat_word(c, ".param")) refuse(p, "syntax: parameter expected");
            Declaration v = {0};
            declaration(p, &v);
            place_variable(p, 1, v.name, v.length, SPACE_PARAM, (u32)bytes_of(&v), v.align);
        } while (eat(c, ','));
        expect(p, ')');
    }
    for (blanks(c); *c->at == '.'; blanks(c)) {
        size_t n = word(c, &s);
        if (is(s, n, ".maxntid"))
            extents(p, ".maxntid", k->max_threads, 1024);
        else if (is(s, n, ".reqntid")) {
            extents(p, ".reqntid", k->max_threads, 1024);
            k->exact_threads = true;
        } else if (is(s, n, ".minnctapersm"))
            k->min_blocks = number(p, ".minnctapersm", 1, 1024);
        else if (is(s, n, ".maxnreg"))
            k->max_registers = number(p, ".maxnreg", 1, 255);
        else if (is(s, n, ".reqnctapercluster"))
            extents(p, ".reqnctapercluster", k->cluster, 16);
        else if (is(s, n, ".explicitcluster"))
            k->explicit_cluster = true;
        else if (is(s, n, ".maxclusterrank"))
            k->max_cluster = number(p, ".maxclusterrank", 1, 16);
        else if (is(s, n, ".pragma"))
            skip_to(p, ';');
        else
            refuse(p, "unsupported directive %.*s", (int)n, s);
    }
}

/* Branch targets, and what is known only now: where dynamic shared memory begins. */
static void finish(Parser *p) {
    Kernel *k = p->kernel;
    for (int i = 0; i < p->nfixups; i++) {
        const Fixup *f = &p->fixup[i];
        Name *e = NULL;
        for (int scope = f->scope; scope > 0 && !e; scope = p->parent[scope])
            e = find(&p->names, scope, f->label, strlen(f->label));
        p->place = k->code[f->ins].place;
        p->c.line = f->line;
        if (!e || e->meaning != LABEL) refuse(p, "no label %s", f->label);
        k->code[f->ins].target = (s32)e->value;
    }
    k->dynamic_offset = (k->shared_bytes + 1023) & ~1023u;
    k->local_bytes = (k->local_bytes + 15) & ~15u;
    for (int i = 0; i < p->ndynamic; i++) k->constant[p->dynamic[i]].value += k->dynamic_offset;
}

static Kernel *decode(Module *m, struct Entry *e) {
    Parser *p = calloc(1, sizeof *p);
    Operand *scratch = calloc(sizeof p->text.op / sizeof *p->text.op + 64, sizeof *scratch);
    Kernel *k = take(sizeof *k);
    if (!p || !scratch) abort();
    *k = (Kernel){.module = m, .name = e->name};
    p->module = m;
    p->kernel = k;
    p->scratch = scratch;
    p->c = (Cursor){e->text, e->line};
    p->place = -1;
    open_scope(p); /* 0: the module; */
    open_scope(p);
    header(p);
    body(p);
    p->scope = 1;
    p->c = (Cursor){"ret;", p->c.line}; /* the end of a body is one */
    statement(p);
    finish(p);
    free(p->names.slot);
    free(p->constants.slot);
    free(p->places.slot);
    free(p->parent);
    free(p->fixup);
    free(p->dynamic);
    free(p->scratch);
    free(p);
    return k;
}

Kernel *ptx_kernel(Module *m, const char *name) {
    Name *e = find(m->names, 0, name, strlen(name));
    if (!e || e->meaning != ENTRY || e->row < 0) return NULL;
    struct Entry *entry = &m->entry[e->row];
    if (!entry->kernel) entry->kernel = decode(m, entry);
    return entry->kernel;
}

/* ---- modules ------------------------------------------------------------------------------------------- */

// clang-format off
/* In the order of Special. */
static const char *const special_names[] = {
    "%tid.x", "%tid.y", "%tid.z", "%ntid.x", "%ntid.y", "%ntid.z", "%ctaid.x", "%ctaid.y", "%ctaid.z",
    "%nctaid.x", "%nctaid.y", "%nctaid.z", "%laneid", "%warpid", "%nwarpid", "%smid", "%nsmid", "%gridid",
    "%lanemask_eq", "%lanemask_lt", "%lanemask_le", "%lanemask_gt", "%lanemask_ge", "%clusterid.x",
    "%clusterid.y", "%clusterid.z", "%nclusterid.x", "%nclusterid.y", "%nclusterid.z", "%cluster_ctaid.x",
    "%cluster_ctaid.y", "%cluster_ctaid.z", "%cluster_nctaid.x", "%cluster_nctaid.y", "%cluster_nctaid.z",
    "%cluster_ctarank", "%cluster_nctarank", "%is_explicit_cluster", "%dynamic_smem_size",
    "%total_smem_size", "%envreg1", "%envreg2"
};
// clang-format on
_Static_assert(sizeof special_names / sizeof *special_names == SR_COUNT, "one name each");

/* A copy with comments as blanks. */
static char *without_comments(const char *text, size_t bytes) {
    char *copy = take_string(text, strnlen(text, bytes));
    bool quoted = false;
    for (char *s = copy; *s; s++) {
        if (*s == '"') quoted = !quoted;
        if (quoted || *s != '/') continue;
        const char *end = s[1] == '/' ? strchr(s, '\n') : s[1] == '*' ? strstr(s + 2, "*/") : s;
        if (!end) end = s + strlen(s);
        for (; s < end; s++)
            if (*s != '\n') *s = ' ';
        if (*s == '*') s[0] = s[1] = ' ';
        if (!*s) break;
    }
    return copy;
}

typedef struct {
    int global;
    Type type;
    u64 count;
    Cursor at;
} Initialiser;

static u64 initialise(Parser *p, const Initialiser *in, u64 i) {
    int size = ptx_type_bits(in->type) / 8;
    if (eat(&p->c, '{')) {
        do {
            blanks(&p->c);
            if (*p->c.at != '}') i = initialise(p, in, i);
        } while (eat(&p->c, ','));
        expect(p, '}');
        return i;
    }
    Value v = expression(p, 0);
    struct Global *g = &p->module->global[in->global];
    if (i >= in->count || (v.bits && v.bits != 8 * size && !(v.bits == 64 && in->type == T_F32)))
        refuse(p, "initialiser of %s", g->name);
    if (v.bits == 64 && in->type == T_F32) {
        double d;
        memcpy(&d, &v.value, 8);
        float f = (float)d;
        memcpy(&v.value, &f, 4);
    }
    memcpy(g->memory + i * (u64)size, &v.value, (size_t)size);
    return i + 1;
}

static void declare_global(Parser *p, const char *space, size_t n, bool external, Initialiser **init,
                           int *ninit) {
    Module *m = p->module;
    bool constant = is(space, n, ".const"), shared = is(space, n, ".shared");
    Declaration v = {0};
    do {
        declaration(p, &v);
        u64 bytes = bytes_of(&v);
        int before = m->nglobals;
        if (bytes > MOST_BYTES) refuse(p, "%.*s is too large", (int)v.length, v.name);
        if (find(m->names, 0, v.name, v.length)) {
            if (!external) refuse(p, "%.*s is declared twice", (int)v.length, v.name);
        } else if (shared) {
            Name *e = enter(m->names, 0, v.name, v.length, external ? DYNAMIC : SHARED);
            e->size = (u32)bytes;
            e->align = v.align;
        } else if (!external) { /* external ones are refused where they are used */
            Name *e = enter(m->names, 0, v.name, v.length, VARIABLE);
            struct Global *g = APPEND(m->global, m->nglobals);
            *g = (struct Global){(char *)(size_t)e->text, NULL, bytes, v.align, constant};
            u64 align = v.align > 256 ? v.align : 256;
            g->memory = calloc(1, bytes + align); /* which takes no pages for zeros */
            if (!g->memory) refuse(p, "no memory for %s", g->name);
            g->memory += -(u64)(size_t)g->memory & (align - 1);
            e->space = constant ? SPACE_CONST : SPACE_GLOBAL;
            e->value = (u64)(size_t)g->memory;
            char title[64];
            snprintf(title, sizeof title, "%s %s", constant ? "constant" : "global", g->name);
            Allocation *a = ptx_add_allocation(g->memory, bytes, title);
            a->read_only = constant;
        }
        if (eat(&p->c, '=')) {
            if (m->nglobals == before) refuse(p, "an initialiser of %.*s", (int)v.length, v.name);
            *APPEND(*init, *ninit) = (Initialiser){m->nglobals - 1, v.type, v.count, p->c};
            int depth = 0;
            for (; depth || (*p->c.at != ';' && *p->c.at != ','); p->c.at++) {
                if (!*p->c.at) refuse(p, "syntax: ';' expected before the end");
                depth += (*p->c.at == '{' || *p->c.at == '(') - (*p->c.at == '}' || *p->c.at == ')');
                p->c.line += *p->c.at == '\n';
            }
        }
    } while (eat(&p->c, ','));
    expect(p, ';');
}

/* .entry or .func: noted, not decoded. A function may have been declared before. */
static void declare_function(Parser *p, bool entry) {
    Module *m = p->module;
    Cursor *c = &p->c;
    const char *s;
    size_t n;
    if (eat(c, '(')) skip_to(p, ')'); /* what it returns */
    Cursor start = *c;
    n = word(c, &s);
    Name *e = find(m->names, 0, s, n);
    if (!e) {
        e = enter(m->names, 0, s, n, entry ? ENTRY : FUNCTION);
        /* Functions are no memory: an address that nothing else has, where every access is out of bounds. */
        e->value = 0x1000000000000000u | (u64)m->names->n << 4;
    }
    for (;; c->at++) {
        blanks(c);
        if (!*c->at) refuse(p, "syntax: '{' expected before the end");
        if (!strncmp(c->at, ".pragma", 7)) skip_to(p, ';');
        if (*c->at == ';' || *c->at == '{') break;
    }
    if (*c->at == ';') {
        c->at++;
        return;
    }
    skip_braces(p);
    if (!entry) return;
    e->row = m->nentries;
    *APPEND(m->entry, m->nentries) = (struct Entry){(char *)(size_t)e->text, start.at, start.line, NULL};
}

static void declare_file(Parser *p) {
    Module *m = p->module;
    int number = (int)integer(p);
    expect(p, '"');
    const char *s = p->c.at;
    skip_to(p, '"');
    if (number < 0 || number > 1 << 20) refuse(p, ".file %d", number);
    while (m->nfiles <= number) (void)APPEND(m->file, m->nfiles);
    m->file[number] = take_string(s, (size_t)(p->c.at - 1 - s));
    while (eat(&p->c, ',')) integer(p);
}

Module *ptx_module_from_text(const char *text, size_t bytes) {
    Module *m = take(sizeof *m);
    Parser *p = calloc(1, sizeof *p);
    Initialiser *init = NULL;
    int ninit = 0;
    if (!p) abort();
    p->module = m;
    m->names = take(sizeof *m->names);
    m->text = without_comments(text, bytes);
    m->bytes = strlen(m->text);
    for (int i = 0; i < SR_COUNT; i++)
        enter(m->names, 0, special_names[i], strlen(special_names[i]), SPECIAL)->value = (u64)i;
    p->c = (Cursor){m->text, 1};
    bool external = false;
    for (;;) {
        blanks(&p->c);
        if (!*p->c.at) break;
        const char *s;
        size_t n = word(&p->c, &s);
        if (is(s, n, ".extern")) {
            external = true;
            continue;
        }
        if (is(s, n, ".visible") || is(s, n, ".weak") || is(s, n, ".common")) continue;
        if (is(s, n, ".global") || is(s, n, ".const") || is(s, n, ".shared"))
            declare_global(p, s, n, external, &init, &ninit);
        else if (is(s, n, ".entry") || is(s, n, ".func"))
            declare_function(p, s[1] == 'e');
        else if (is(s, n, ".file"))
            declare_file(p);
        else if (is(s, n, ".section")) {
            while (*p->c.at && *p->c.at != '{') p->c.at++;
            skip_braces(p);
        } else if (is(s, n, ".target")) {
            const char *sm = p->c.at + strspn(p->c.at, " \t");
            char *end = (char *)(size_t)sm;
            if (!strncmp(sm, "sm_", 3)) m->target = (int)strtol(sm + 3, &end, 10);
            if (!m->target) refuse(p, "unsupported .target %.12s", sm);
            m->target_specific = *end == 'a';
            while (*p->c.at && *p->c.at != '\n') p->c.at++;
        } else if (is(s, n, ".version") || is(s, n, ".address_size")) {
            Value v = expression(p, 0);
            if (is(s, n, ".address_size") && v.value != 64) refuse(p, "only 64-bit addresses are supported");
        } else if (is(s, n, ".pragma"))
            skip_to(p, ';');
        else
            refuse(p, "unsupported directive \"%.30s\"", s);
        external = false;
    }
    for (int i = 0; i < ninit; i++) { /* only now: they may name what comes later */
        p->c = init[i].at;
        initialise(p, &init[i], 0);
    }
    free(init);
    free(p);
    return m;
}
