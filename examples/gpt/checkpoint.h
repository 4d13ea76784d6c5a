/*  checkpoint.h - a model on disk, and how far its training is

    A header, then arrays of floats: the parameters, both moments of AdamW, the loss curve. A file is written beside its
    place and renamed when it is complete and on disk, so there is always a whole one, whenever the program is killed.
    What is read is checked before any of it is used: magic, version, byte order, length, checksum, shape. */

#ifndef GPT_CHECKPOINT_H
#define GPT_CHECKPOINT_H

#include "text.h"

#include <unistd.h>

enum { CURVE_ROOM = 4096 };

typedef struct checkpoint {
    char magic[8];     /* "fa-gpt", then the version */
    uint32_t order;    /* 0x01020304 */
    int32_t kind;      /* KIND_.. */
    gpt_config config; /* of the model; of guessers: of the drafts */
    int32_t heads;     /* KIND_GUESSERS: how many */
    int32_t curve;     /* points of the loss curve */
    uint64_t count;    /* parameters */
    uint64_t step, seed;
    uint64_t text;     /* hash of what it learns from: text, or the model */
    double elapsed;    /* seconds of training so far */
    double done;       /* 0 .. 1 */
    double smooth;     /* running mean of the training loss */
    double valid;      /* validation loss, bits a byte, once done is 1 */
    uint64_t checksum; /* of all that follows, then of this header with checksum 0 */
} checkpoint;

enum { KIND_MODEL = 1, KIND_GUESSERS = 2 };

/* count floats each; curve (CURVE_ROOM, 3): fraction done, bits a byte in training, and of validation or 0 */
typedef struct checkpoint_data {
    float *params, *m, *v, *curve;
} checkpoint_data;

static inline uint64_t checkpoint_sum(checkpoint h, const checkpoint_data *d) {
    const size_t bytes = h.count * sizeof(float);
    uint64_t hash = hash_bytes(0, d->params, bytes);
    hash = hash_bytes(hash_bytes(hash, d->m, bytes), d->v, bytes);
    hash = hash_bytes(hash, d->curve, (size_t)h.curve * 3 * sizeof(float));
    h.checksum = 0;
    return hash_bytes(hash, &h, sizeof h);
}

static inline void checkpoint_save(const char *path, checkpoint *h, const checkpoint_data *d) {
    char beside[4096];
    const size_t bytes = h->count * sizeof(float), curve = (size_t)h->curve * 3 * sizeof(float);
    memcpy(h->magic, "fa-gpt\0\1", 8), h->order = 0x01020304;
    h->checksum = checkpoint_sum(*h, d);
    snprintf(beside, sizeof beside, "%s.tmp", path);
    FILE *file = fopen(beside, "wb");
    if (!file) fail("%s: %s", beside, strerror(errno));
    int ok = fwrite(h, sizeof *h, 1, file) == 1 && fwrite(d->params, 1, bytes, file) == bytes;
    ok = ok && fwrite(d->m, 1, bytes, file) == bytes && fwrite(d->v, 1, bytes, file) == bytes;
    ok = ok && fwrite(d->curve, 1, curve, file) == curve && fflush(file) == 0 && fsync(fileno(file)) == 0;
    if (fclose(file) != 0 || !ok || rename(beside, path) != 0) {
        const char *why = strerror(errno);
        remove(beside);
        fail("%s cannot be written: %s; the one before it, if any, is as it was", path, why);
    }
}

/* Has what is behind the header the length that it says, and all of it its checksum? Leaves the file behind the header. */
static inline void checkpoint_check(const char *path, checkpoint h, FILE *file) {
    static uint8_t part[1 << 16];
    const uint64_t checksum = h.checksum;
    uint64_t hash = 0, left = (h.count + (uint64_t)h.curve) * 3 * sizeof(float);
    while (left) {
        const size_t want = left < sizeof part ? (size_t)left : sizeof part;
        if (fread(part, 1, want, file) != want)
            fail("%s is damaged: it ends too early; delete it and train again", path);
        hash = hash_bytes(hash, part, want), left -= want;
    }
    if (fgetc(file) != EOF) fail("%s is damaged: it is too long; delete it and train again", path);
    h.checksum = 0;
    if (hash_bytes(hash, &h, sizeof h) != checksum)
        fail("%s is damaged: its checksum is wrong; delete it and train again", path);
    if (fseek(file, (long)sizeof h, SEEK_SET) != 0) fail("%s: %s", path, strerror(errno));
}

/* Reads the header; 0: there is no such file. Ends the program if it is no whole checkpoint of that kind. */
static inline int checkpoint_open(const char *path, int32_t kind, checkpoint *h, FILE **file) {
    *file = fopen(path, "rb");
    if (!*file && errno == ENOENT) return 0;
    if (!*file) fail("%s: %s", path, strerror(errno));
    const size_t got = fread(h, 1, sizeof *h, *file);
    if (got < sizeof h->magic || memcmp(h->magic, "fa-gpt", 7) != 0)
        fail("%s is not a model of this program, or damaged; delete it and train again", path);
    if (h->magic[7] != 1)
        fail("%s is of version %d, this program reads version 1; delete it and train again", path,
             h->magic[7]);
    if (got < sizeof *h) fail("%s is damaged: it ends within its header; delete it and train again", path);
    if (h->order != 0x01020304)
        fail("%s is from a machine of other byte order; delete it and train again", path);
    const gpt_config *c = &h->config;
    const int sane = c->dim >= 1 && c->dim <= 1 << 14 && c->layers >= 0 && c->layers <= MAX_LAYERS &&
                     c->heads >= 1 && c->heads <= 1 << 10 && c->heads_k >= 1 && c->heads % c->heads_k == 0 &&
                     c->hidden >= 1 && c->hidden <= 1 << 16 && c->context >= 1 && c->context <= 1 << 20 &&
                     h->heads >= 0 && h->heads <= 64 && h->curve >= 0 && h->curve <= CURVE_ROOM &&
                     h->count < (uint64_t)1 << 32;
    if (!sane) fail("%s is damaged: its header makes no sense; delete it and train again", path);
    checkpoint_check(path, *h, *file);
    if (h->kind != kind)
        fail("%s holds %s; delete it and train again", path,
             kind == KIND_MODEL ? "no model, but heads and drafts" : "a model, not heads and drafts");
    return 1;
}

/* The rest of the file; the arrays have room for h->count. */
static inline void checkpoint_read(const char *path, const checkpoint *h, FILE *file,
                                   const checkpoint_data *d) {
    const size_t bytes = h->count * sizeof(float), curve = (size_t)h->curve * 3 * sizeof(float);
    int ok = fread(d->params, 1, bytes, file) == bytes && fread(d->m, 1, bytes, file) == bytes;
    ok = ok && fread(d->v, 1, bytes, file) == bytes && fread(d->curve, 1, curve, file) == curve;
    if (!ok) fail("%s: %s", path, strerror(errno));
    fclose(file);
}

#endif
