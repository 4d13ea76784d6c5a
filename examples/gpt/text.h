/*  text.h - bytes to learn from: files, a split into two parts, and what counting alone makes of them */

#ifndef GPT_TEXT_H
#define GPT_TEXT_H

#include "model.h"

#include <errno.h>
#include <inttypes.h>

typedef struct corpus {
    uint8_t *train,
        *valid; /* the first nine tenths of each file, one file after the other, and the last tenths */
    size_t num_train, num_valid;
    int files;
} corpus;

static inline corpus corpus_load(char *const *paths, int count) {
    corpus t = {NULL, NULL, 0, 0, count};
    for (int i = 0; i < count; i++) {
        FILE *file = fopen(paths[i], "rb");
        if (!file) fail("%s: %s", paths[i], strerror(errno));
        uint8_t *bytes = NULL;
        size_t size = 0, room = 0;
        for (;;) {
            if (room - size < 65536) bytes = (uint8_t *)realloc(bytes, room = 2 * room + 65536);
            if (!bytes) fail("no memory for %s", paths[i]);
            const size_t got = fread(bytes + size, 1, room - size, file);
            if (!got) break;
            size += got;
        }
        if (ferror(file)) fail("%s: %s", paths[i], strerror(errno));
        fclose(file);
        const size_t head = size / 10 * 9, tail = size - head;
        t.train = (uint8_t *)realloc(t.train, t.num_train + head + 1);
        t.valid = (uint8_t *)realloc(t.valid, t.num_valid + tail + 1);
        if (!t.train || !t.valid) fail("no memory for %s", paths[i]);
        memcpy(t.train + t.num_train, bytes, head), memcpy(t.valid + t.num_valid, bytes + head, tail);
        t.num_train += head, t.num_valid += tail;
        free(bytes);
    }
    return t;
}

static inline void corpus_free(corpus *t) { free(t->train), free(t->valid); }

/* Cross entropy of the second part, in bits a byte, under a trigram model of the first: the probability of a byte after
 * two others, backed off to one, to none, to 1 / 256, by Witten and Bell's rule: a context that was seen n times, with k
 * different bytes behind it, gives (count + k p) / (n + k), where p is the shorter context's word. */
static inline double corpus_trigram(const corpus *t) {
    enum { N = 256 };
    uint32_t *count[3], *seen[3], *kinds[3]; /* of contexts of 0, 1 and 2 bytes: (context, byte), (context) */
    for (int order = 0; order < 3; order++) {
        const size_t contexts = (size_t)1 << 8 * order;
        count[order] = (uint32_t *)allocate(contexts * N, sizeof(uint32_t));
        seen[order] = (uint32_t *)allocate(contexts, sizeof(uint32_t));
        kinds[order] = (uint32_t *)allocate(contexts, sizeof(uint32_t));
        for (size_t i = (size_t)order; i < t->num_train; i++) {
            size_t context = 0;
            for (int k = order; k > 0; k--) context = context * N + t->train[i - (size_t)k];
            kinds[order][context] += !count[order][context * N + t->train[i]]++, seen[order][context]++;
        }
    }
    double bits = 0;
    for (size_t i = 2; i < t->num_valid; i++) {
        double p = 1.0 / N;
        for (int order = 0; order < 3; order++) {
            size_t context = 0;
            for (int k = order; k > 0; k--) context = context * N + t->valid[i - (size_t)k];
            const double n = seen[order][context], k = kinds[order][context];
            if (n > 0) p = (count[order][context * N + t->valid[i]] + k * p) / (n + k);
        }
        bits -= log2(p);
    }
    for (int order = 0; order < 3; order++) free(count[order]), free(seen[order]), free(kinds[order]);
    return t->num_valid > 2 ? bits / (double)(t->num_valid - 2) : 0;
}

/* FNV-1a, which tells one text, or one file, from another. */
static inline uint64_t hash_bytes(uint64_t hash, const void *data, size_t bytes) {
    const uint8_t *p = (const uint8_t *)data;
    if (!hash) hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < bytes; i++) hash = (hash ^ p[i]) * 0x100000001b3u;
    return hash;
}

#endif
