/* test_warp.cu - what the lanes of a warp do together in the PTX machine: shuffles, votes, matches,
 * reductions, elections, tiles of cooperative groups, matrix loads and stores; every form against a plain
 * model on the host, and the findings.
 *
 *     make build/ptx/test_warp && FA_PTX_SCHEDULE=1 build/ptx/test_warp
 */
#include "ptx_test.h"
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cooperative_groups/scan.h>
#include <cuda_runtime.h>
#include <string>
#include <vector>

namespace cg = cooperative_groups;
enum { LANES = 32 };
#define ALL 0xffffffffu

static std::vector<uint32_t> random_words(size_t n, uint64_t salt, uint32_t below = 0) {
    std::vector<uint32_t> v(n);
    uint64_t state = fat_seed * 1000 + salt;
    for (size_t i = 0; i < n; i++)
        v[i] = (uint32_t)(fat_next(&state) >> 13), v[i] = below ? v[i] % below : v[i];
    return v;
}

/* ---- shfl.sync ---------------------------------------------------------------------------------------- */

#define SHFL(mode) \
    asm volatile("{ .reg .pred p; shfl.sync." mode ".b32 %0|p, %2, %3, %4, %5; selp.b32 %1, 1, 0, p; }" \
                 : "=r"(d), "=r"(p) \
                 : "r"(a), "r"(b), "r"(c), "r"(mask)); \
    out[0] = d, out[LANES] = p, out += 2 * LANES; \
    asm volatile("shfl.sync." mode ".b32 %0, %1, %2, %3, %4;" \
                 : "=r"(d) \
                 : "r"(a), "r"(b), "r"(c), "r"(mask)); \
    out[0] = d, out += LANES;
/* Only the lanes of mask do it. */
__global__ void shuffles(const uint32_t *as, const uint32_t *bs, const uint32_t *cs, uint32_t mask,
                         uint32_t *out) {
    uint32_t lane = threadIdx.x, a = as[lane], b = bs[lane], c = cs[lane], d, p;
    out += lane;
    if (mask >> lane & 1) {
        SHFL("up") SHFL("down") SHFL("bfly") SHFL("idx")
    }
}
/* PTX ISA, shfl.sync. */
static int source_lane(int mode, int lane, uint32_t b, uint32_t c, bool *in_range) {
    int segment = c >> 8 & 31, clamp = c & 31, j, by = b & 31;
    int limit = (lane & segment) | (clamp & ~segment);
    if (mode == 0)
        j = lane - by, *in_range = j >= limit;
    else if (mode == 1)
        j = lane + by, *in_range = j <= limit;
    else if (mode == 2)
        j = lane ^ by, *in_range = j <= limit;
    else
        j = (lane & segment) | (by & ~segment & 31), *in_range = j <= limit;
    return *in_range ? j : lane;
}
FA_TEST(shuffles) {
    for (int round = 0; round < 60; round++) {
        int width =
            32 >>
            round % 6; /* widths of __shfl_sync: c = clamp | (32 - width) << 8, clamp 0 for up, else 31 */
        std::vector<uint32_t> a = random_words(LANES, round), b = random_words(LANES, round + 100, 40),
                              c(LANES);
        uint32_t same = b[0], mask = ALL;
        for (int l = 0; l < LANES; l++) {
            if (round % 3 == 0) b[l] = same;
            c[l] = (uint32_t)(32 - width) << 8 | (round / 6 % 2 ? 31 : 0);
            if (round >= 40) c[l] = random_words(LANES, round + 200)[l] & 0x1f1f;
        }
        if (round % 5 == 4) { /* half of the lanes, which stay among themselves */
            mask = 0xffff0000u >> (round % 2 * 16);
            for (int l = 0; l < LANES; l++) {
                bool p;
                c[l] = (c[l] & 0xf0f) | 0x1000 | (mask & 1 ? 0 : 0x10);
                for (int mode = 0; mode < 4; mode++)
                    if ((mask >> l & 1) && !(mask >> source_lane(mode, l, b[l], c[l], &p) & 1)) b[l] = 0;
            }
        }
        std::vector<uint32_t> poison(12 * LANES, 0xaaaaaaaa);
        Device<uint32_t> da(a), db(b), dc(c), out(poison);
        shuffles<<<1, LANES>>>(da.p, db.p, dc.p, mask, out.p);
        FA_REQUIRE(finished());
        std::vector<uint32_t> got = out.host();
        for (int mode = 0; mode < 4; mode++)
            for (int l = 0; l < LANES; l++) {
                bool p;
                int j = source_lane(mode, l, b[l], c[l], &p);
                bool on = mask >> l & 1;
                uint32_t want[] = {on ? a[j] : 0xaaaaaaaa, on ? p : 0xaaaaaaaa, on ? a[j] : 0xaaaaaaaa};
                for (int i = 0; i < 3; i++)
                    FA_EXPECT_MSG(got[(mode * 3 + i) * LANES + l] == want[i],
                                  "mode %d, value %d, lane %d, b %u, c %x, mask %x: got %x, want %x", mode, i,
                                  l, b[l], c[l], mask, got[(mode * 3 + i) * LANES + l], want[i]);
            }
    }
}

/* ---- vote, match, redux, elect, activemask ------------------------------------------------------------ */

enum { VOTES = 8, MATCHES = 5, REDUCTIONS = 9, RESULTS = VOTES + MATCHES + REDUCTIONS };
#define VOTE(mode, negate) \
    asm volatile("{ .reg .pred p, q; setp.ne.u32 p, %1, 0; vote.sync." mode ".pred q, " negate \
                 "p, %2; selp.b32 %0, 1, 0, q; }" \
                 : "=r"(d) \
                 : "r"(yes), "r"(mask)); \
    *out = d, out += LANES;
#define BALLOT(negate) \
    asm volatile("{ .reg .pred p; setp.ne.u32 p, %1, 0; vote.sync.ballot.b32 %0, " negate "p, %2; }" \
                 : "=r"(d) \
                 : "r"(yes), "r"(mask)); \
    *out = d, out += LANES;
#define REDUX(op, value) \
    asm volatile("redux.sync." op " %0, %1, %2;" : "=r"(d) : "r"(value), "r"(mask)); \
    *out = d, out += LANES;
/* Each lane gives the mask of the lanes that it works with; lanes with mask 0 do nothing. */
__global__ void collectives(const uint32_t *masks, const uint32_t *votes, const uint32_t *words,
                            uint32_t *out) {
    uint32_t lane = threadIdx.x, mask = masks[lane], yes = votes[lane], word = words[lane], d, p;
    uint64_t wide = (uint64_t)(word % 3) << 32 | word % 2;
    out += lane;
    if (!mask) return;
    VOTE("all", "")
    VOTE("any", "") VOTE("uni", "") VOTE("all", "!") VOTE("any", "!") VOTE("uni", "!") BALLOT("")
        BALLOT("!") asm volatile("match.any.sync.b32 %0, %1, %2;"
                                 : "=r"(d)
                                 : "r"(word % 4), "r"(mask));
    *out = d, out += LANES;
    asm volatile("match.any.sync.b64 %0, %1, %2;" : "=r"(d) : "l"(wide), "r"(mask));
    *out = d, out += LANES;
    asm volatile("{ .reg .pred p; match.all.sync.b32 %0|p, %2, %3; selp.b32 %1, 1, 0, p; }"
                 : "=r"(d), "=r"(p)
                 : "r"(yes), "r"(mask));
    *out = d | p, out += LANES; /* p with a mask of lanes: 0, or bit 0 set or not */
    asm volatile("match.all.sync.b32 %0, %1, %2;" : "=r"(d) : "r"(yes), "r"(mask));
    *out = d, out += LANES;
    asm volatile("{ .reg .pred p; match.all.sync.b64 %0|p, %2, %3; selp.b32 %1, 1, 0, p; }"
                 : "=r"(d), "=r"(p)
                 : "l"((uint64_t)yes << 40), "r"(mask));
    *out = p, out += LANES;
    REDUX("add.u32", word)
    REDUX("add.s32", word) REDUX("min.u32", word) REDUX("max.u32", word) REDUX("min.s32", word)
        REDUX("max.s32", word) REDUX("and.b32", word | 0x10101) REDUX("or.b32", word & 0x707)
            REDUX("xor.b32", word)
}
static void check_collectives(const std::vector<uint32_t> &masks, const std::vector<uint32_t> &yes,
                              const std::vector<uint32_t> &word) {
    Device<uint32_t> dm(masks), dy(yes), dw(word), out(std::vector<uint32_t>(RESULTS * LANES, 7));
    collectives<<<1, LANES>>>(dm.p, dy.p, dw.p, out.p);
    if (!finished()) return;
    std::vector<uint32_t> got = out.host();
    for (int l = 0; l < LANES; l++) {
        uint32_t m = masks[l], set = 0, any4 = 0, any6 = 0, sum = 0, x = 0, o = 0, a = ALL, lo = ALL, hi = 0;
        int32_t slo = INT32_MAX, shi = INT32_MIN;
        for (int i = 0; i < LANES; i++) {
            if (!(m >> i & 1)) continue;
            uint32_t w = word[i];
            set |= (uint32_t)(yes[i] != 0) << i;
            any4 |= (uint32_t)(w % 4 == word[l] % 4) << i, any6 |= (uint32_t)(w % 6 == word[l] % 6) << i;
            sum += w, x ^= w, o |= w & 0x707, a &= w | 0x10101, lo = w < lo ? w : lo, hi = w > hi ? w : hi;
            slo = (int32_t)w < slo ? (int32_t)w : slo, shi = (int32_t)w > shi ? (int32_t)w : shi;
        }
        uint32_t all = set == m, none = !set, uni = all || none, same = uni ? m : 0;
        uint32_t want[RESULTS] = {all,  set != 0,      uni,           none, !all, uni, set, m & ~set,
                                  any4, any6,          same | uni,    same, uni,  sum, sum, lo,
                                  hi,   (uint32_t)slo, (uint32_t)shi, a,    o,    x};
        for (int i = 0; i < RESULTS; i++)
            FA_EXPECT_MSG(got[i * LANES + l] == (m ? want[i] : 7),
                          "result %d, lane %d, mask %x: got %x, want %x", i, l, m, got[i * LANES + l],
                          m ? want[i] : 7);
    }
}
FA_TEST(collectives) {
    for (int round = 0; round < 40; round++) {
        std::vector<uint32_t> masks(LANES, ALL), yes = random_words(LANES, round + 300, 2),
                                                 word = random_words(LANES, round + 400);
        uint32_t part = random_words(1, round + 500)[0];
        for (int l = 0; l < LANES; l++) {
            if (round % 4 == 1) masks[l] = part >> l & 1 ? part : 0; /* some lanes alone */
            if (round % 4 == 2)
                masks[l] = part >> l & 1 ? part : ~part;     /* two sets that have come together */
            if (round % 4 == 3) masks[l] = 0xfu << (l & ~3); /* tiles of 4 */
            if (round >= 20) yes[l] = round / 4 % 2;         /* all say the same */
            if (round >= 30) word[l] |= 0x80000000u * (l % 2);
        }
        check_collectives(masks, yes, word);
    }
}

__global__ void divergent(const uint32_t *side, uint32_t *out) {
    uint32_t lane = threadIdx.x, d, mask;
    if (side[lane] == 0) {
        asm volatile("activemask.b32 %0;" : "=r"(d));
        out[lane] = d;
        out[LANES + lane] = __ballot_sync(d, lane & 1);
    } else if (side[lane] == 1) {
        asm volatile("activemask.b32 %0;" : "=r"(d));
        out[lane] = d;
        out[LANES + lane] = __reduce_add_sync(d, lane);
    } else {
        return; /* exited lanes take no part, even if a mask names them */
    }
    mask = __match_any_sync(__activemask(), side[lane]);
    out[2 * LANES + lane] = mask;
    __syncwarp();
    out[3 * LANES + lane] = __shfl_sync(ALL, lane, __ffs(mask) - 1);
}
FA_TEST(divergence) {
    for (int round = 0; round < 10; round++) {
        std::vector<uint32_t> side = random_words(LANES, round + 600, 3);
        Device<uint32_t> ds(side), out(std::vector<uint32_t>(4 * LANES, 0));
        divergent<<<1, LANES>>>(ds.p, out.p);
        FA_REQUIRE(finished());
        std::vector<uint32_t> got = out.host();
        for (int l = 0; l < LANES; l++) {
            uint32_t mine = 0, odd = 0, sum = 0, first = LANES;
            for (uint32_t i = 0; i < LANES; i++)
                if (side[i] == side[l])
                    mine |= 1u << i, odd |= (i & 1) << i, sum += i, first = i < first ? i : first;
            if (side[l] == 2) continue;
            FA_EXPECT_MSG(got[l] == mine, "lane %d: activemask %x, want %x", l, got[l], mine);
            FA_EXPECT(got[LANES + l] == (side[l] ? sum : odd));
            FA_EXPECT((got[2 * LANES + l] & ~mine) == 0 && (got[2 * LANES + l] >> l & 1));
            FA_EXPECT(got[3 * LANES + l] < LANES && side[got[3 * LANES + l]] == side[l]);
        }
    }
}

#if HAS_90
__global__ void elections(const uint32_t *masks, uint32_t *out) {
    uint32_t lane = threadIdx.x % LANES, mask = masks[lane], d, p;
    out += threadIdx.x / LANES * 3 * LANES + lane;
    for (int i = 0; i < 3; i++, out += 0) {
        asm volatile("{ .reg .pred p; elect.sync %0|p, %2; selp.b32 %1, 1, 0, p; }"
                     : "=r"(d), "=r"(p)
                     : "r"(mask));
        if (i == 0)
            out[0] = d, out[LANES] = p;
        else if (d != out[0] || p != out[LANES])
            out[0] = 99; /* another time another lane */
    }
    asm volatile("{ .reg .pred p; elect.sync _|p, %1; selp.b32 %0, 1, 0, p; }" : "=r"(p) : "r"(mask));
    out[2 * LANES] = p;
}
FA_TEST(elections) {
    for (int round = 0; round < 10; round++) {
        uint32_t part = random_words(1, round + 700)[0] | 1u << round;
        std::vector<uint32_t> masks(LANES, ALL);
        for (int l = 0; l < LANES && round; l++) masks[l] = part >> l & 1 ? part : ~part;
        Device<uint32_t> dm(masks), out(std::vector<uint32_t>(4 * 3 * LANES, 77));
        elections<<<1, 4 * LANES>>>(dm.p, out.p);
        FA_REQUIRE(finished());
        std::vector<uint32_t> got = out.host();
        const char *schedule = getenv("FA_PTX_SCHEDULE");
        bool random = schedule && atoi(schedule) > 0;
        for (int w = 0; w < 4; w++)
            for (int l = 0; l < LANES; l++) {
                const uint32_t *g = &got[w * 3 * LANES];
                uint32_t leader = g[l], same = 1;
                for (int i = 0; i < LANES; i++) same &= masks[i] != masks[l] || g[i] == leader;
                FA_EXPECT_MSG(leader < LANES && (masks[l] >> leader & 1) && same,
                              "warp %d, lane %d: elected %u", w, l, leader);
                FA_EXPECT(g[LANES + l] == ((uint32_t)l == leader) &&
                          g[2 * LANES + l] == ((uint32_t)l == leader));
                FA_EXPECT(random || leader == (uint32_t)__builtin_ctz(masks[l]));
            }
    }
}
#endif

/* ---- cooperative groups: tiles of every size ---------------------------------------------------------- */

template <int N> __device__ static uint32_t *tile_results(uint32_t word, uint32_t *out) {
    auto tile = cg::tiled_partition<N>(cg::this_thread_block());
    *out = cg::reduce(tile, word, cg::plus<uint32_t>()), out += blockDim.x;
    *out = cg::reduce(tile, word, cg::greater<uint32_t>()), out += blockDim.x;
    *out = __float_as_uint(cg::reduce(tile, (float)(word & 255), cg::plus<float>())), out += blockDim.x;
    *out = tile.shfl_xor(word, N / 2), out += blockDim.x;
    *out = tile.shfl_down(word, 1), out += blockDim.x;
    *out = tile.shfl(word, N - 1), out += blockDim.x;
    *out = tile.ballot(word & 1), out += blockDim.x;
    *out = cg::inclusive_scan(tile, word), out += blockDim.x;
    *out = tile.match_any(word & 1), out += blockDim.x;
    tile.sync();
    return out;
}
__global__ void tiles(const uint32_t *words, uint32_t *out) {
    uint32_t word = words[threadIdx.x];
    out += threadIdx.x;
    out = tile_results<2>(word, out), out = tile_results<4>(word, out), out = tile_results<8>(word, out);
    out = tile_results<16>(word, out), out = tile_results<32>(word, out);
    if (word % 3 == 0) {
        cg::coalesced_group some = cg::coalesced_threads();
        *out = some.shfl(word, 0) + some.size() + cg::reduce(some, word, cg::plus<uint32_t>());
    }
}
FA_TEST(cooperative_tiles) {
    enum { THREADS = 96, PER_TILE = 9 };
    std::vector<uint32_t> word = random_words(THREADS, 800);
    Device<uint32_t> dw(word), out(std::vector<uint32_t>((5 * PER_TILE + 1) * THREADS, 0));
    tiles<<<1, THREADS>>>(dw.p, out.p);
    FA_REQUIRE(finished());
    std::vector<uint32_t> got = out.host();
    for (uint32_t k = 0; k < 5; k++)
        for (uint32_t t = 0; t < THREADS; t++) {
            uint32_t n = 2u << k, first = t / n * n, sum = 0, max = 0, ballot = 0, scan = 0, same = 0;
            float fsum = 0;
            for (uint32_t i = 0; i < n; i++) {
                uint32_t w = word[first + i];
                sum += w, max = w > max ? w : max, ballot |= (w & 1) << i, fsum += (float)(w & 255);
                scan += first + i <= t ? w : 0, same |= (uint32_t)((w & 1) == (word[t] & 1)) << i;
            }
            uint32_t fbits;
            memcpy(&fbits, &fsum, 4);
            uint32_t want[PER_TILE] = {
                sum,    max,  fbits, word[t ^ n / 2], word[t % n == n - 1 ? t : t + 1], word[first + n - 1],
                ballot, scan, same};
            for (int i = 0; i < PER_TILE; i++)
                FA_EXPECT_MSG(got[(k * PER_TILE + i) * THREADS + t] == want[i],
                              "tile of %u, result %d, thread %u: got %x, want %x", n, i, t,
                              got[(k * PER_TILE + i) * THREADS + t], want[i]);
        }
    for (uint32_t t = 0; t < THREADS; t++) {
        uint32_t first = ALL, sum = 0, n = 0;
        for (uint32_t i = t / 32 * 32; i < t / 32 * 32 + 32; i++)
            if (word[i] % 3 == 0) first = first == ALL ? word[i] : first, sum += word[i], n++;
        FA_EXPECT(got[5 * PER_TILE * THREADS + t] == (word[t] % 3 ? 0 : first + n + sum));
    }
}

/* ---- ldmatrix, stmatrix, movmatrix -------------------------------------------------------------------- */

enum { TILE_BYTES = 64 * 16 }; /* 64 rows of 8 elements, any of which can be a row of a matrix */
#define LDM1(modifiers, c, a) \
    asm volatile("ldmatrix.sync.aligned.m8n8.x1" modifiers ".b16 {%0}, [%1+16];" \
                 : "=r"(d[0]) \
                 : c(a) \
                 : "memory"); \
    KEEP(1)
#define LDM2(modifiers, c, a) \
    asm volatile("ldmatrix.sync.aligned.m8n8.x2" modifiers ".b16 {%0, %1}, [%2+16];" \
                 : "=r"(d[0]), "=r"(d[1]) \
                 : c(a) \
                 : "memory"); \
    KEEP(2)
#define LDM4(modifiers, c, a) \
    asm volatile("ldmatrix.sync.aligned.m8n8.x4" modifiers ".b16 {%0, %1, %2, %3}, [%4+16];" \
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]) \
                 : c(a) \
                 : "memory"); \
    KEEP(4)
#define KEEP(n) \
    for (int i = 0; i < n; i++) *out = d[i], out += LANES;
/* 12 forms: .shared, .shared::cta with a 64-bit register, generic; each x1, x2, x4, plain and .trans */
__global__ void matrix_loads(const uint8_t *in, const uint32_t *row, uint32_t *out) {
    __shared__ alignas(16) uint8_t s[TILE_BYTES];
    uint32_t lane = threadIdx.x, d[4], offset = row[lane] * 16 - 16;
    for (int i = lane; i < TILE_BYTES; i += LANES) s[i] = in[i];
    __syncwarp();
    uint32_t a = (uint32_t)__cvta_generic_to_shared(s) + offset;
    uint64_t wide = __cvta_generic_to_shared(s) + (int)offset;
    const uint8_t *generic = s + (int)offset;
    out += lane;
    LDM1(".shared", "r", a)
    LDM2(".shared", "r", a) LDM4(".shared", "r", a) LDM1(".trans.shared", "r", a)
        LDM2(".trans.shared", "r", a) LDM4(".trans.shared", "r", a) LDM1(".shared::cta", "l", wide)
            LDM2(".trans.shared::cta", "l", wide) LDM4(".shared::cta", "l", wide) LDM1(".trans", "l", generic)
                LDM2("", "l", generic) LDM4(".trans", "l", generic)
}
static uint16_t element(const std::vector<uint8_t> &in, uint32_t row, int column) {
    return (uint16_t)(in[row * 16 + column * 2] | in[row * 16 + column * 2 + 1] << 8);
}
FA_TEST(matrix_loads) {
    static const struct {
        int n;
        bool trans;
    } forms[] = {{1, 0}, {2, 0}, {4, 0}, {1, 1}, {2, 1}, {4, 1},
                 {1, 0}, {2, 1}, {4, 0}, {1, 1}, {2, 0}, {4, 1}};
    for (int round = 0; round < 5; round++) {
        std::vector<uint8_t> in(TILE_BYTES);
        std::vector<uint32_t> row = random_words(LANES, round + 900, 64),
                              noise = random_words(TILE_BYTES, round + 950);
        for (int i = 0; i < TILE_BYTES; i++) in[i] = (uint8_t)noise[i];
        for (int l = 0; l < LANES && round == 0; l++) row[l] = l + 1;
        Device<uint8_t> din(in);
        Device<uint32_t> drow(row), out(std::vector<uint32_t>(28 * LANES, 0));
        matrix_loads<<<1, LANES>>>(din.p, drow.p, out.p);
        FA_REQUIRE(finished());
        std::vector<uint32_t> got = out.host();
        int at = 0;
        for (auto f : forms)
            for (int q = 0; q < f.n; q++, at++)
                for (int l = 0; l < LANES; l++) {
                    int r = l / 4, c = l % 4 * 2;
                    uint32_t want = f.trans ? element(in, row[q * 8 + c], r) |
                                                  (uint32_t)element(in, row[q * 8 + c + 1], r) << 16
                                            : element(in, row[q * 8 + r], c) |
                                                  (uint32_t)element(in, row[q * 8 + r], c + 1) << 16;
                    FA_EXPECT_MSG(got[at * LANES + l] == want, "x%d%s, matrix %d, lane %d: got %x, want %x",
                                  f.n, f.trans ? ".trans" : "", q, l, got[at * LANES + l], want);
                }
        if (round == 0) FA_EXPECT(ptx_counter("shared_wavefronts") >= ptx_counter("shared_wavefronts_ideal"));
    }
}

#if HAS_90
#define STM1(modifiers, c, a) \
    asm volatile("stmatrix.sync.aligned.m8n8.x1" modifiers ".b16 [%0+16], {%1};" ::c(a), "r"(d[0]) \
                 : "memory"); \
    DONE
#define STM2(modifiers, c, a) \
    asm volatile("stmatrix.sync.aligned.m8n8.x2" modifiers ".b16 [%0+16], {%1, %2};" ::c(a), "r"(d[0]), \
                 "r"(d[1]) \
                 : "memory"); \
    DONE
#define STM4(modifiers, c, a) \
    asm volatile("stmatrix.sync.aligned.m8n8.x4" modifiers ".b16 [%0+16], {%1, %2, %3, %4};" ::c(a), \
                 "r"(d[0]), "r"(d[1]), "r"(d[2]), "r"(d[3]) \
                 : "memory"); \
    DONE
#define DONE \
    __syncwarp(); \
    for (int i = lane; i < TILE_BYTES; i += LANES) out[i] = s[i], s[i] = 0xaa; \
    __syncwarp(); \
    out += TILE_BYTES;
__global__ void matrix_stores(const uint32_t *words, const uint32_t *row, uint8_t *out) {
    __shared__ alignas(16) uint8_t s[TILE_BYTES];
    uint32_t lane = threadIdx.x, d[4], offset = row[lane] * 16 - 16;
    for (int i = 0; i < 4; i++) d[i] = words[i * LANES + lane];
    for (int i = lane; i < TILE_BYTES; i += LANES) s[i] = 0xaa;
    __syncwarp();
    uint32_t a = (uint32_t)__cvta_generic_to_shared(s) + offset;
    uint8_t *generic = s + (int)offset;
    STM1(".shared", "r", a)
    STM2(".shared::cta", "r", a) STM4(".shared", "r", a) STM1(".trans.shared", "r", a)
        STM2(".trans", "l", generic) STM4(".trans.shared", "r", a)
}
/* What a lane has stored it can read without a barrier: stmatrix writes for each lane the elements that it
 * holds. */
__global__ void own_elements(uint32_t *out) {
    __shared__ alignas(16) uint16_t s[2][64];
    uint32_t lane = threadIdx.x, d = lane * 2 | (lane * 2 + 1) << 16;
    uint32_t a = (uint32_t)__cvta_generic_to_shared(s[0] + lane % 8 * 8),
             b = (uint32_t)__cvta_generic_to_shared(s[1] + lane % 8 * 8);
    asm volatile("stmatrix.sync.aligned.m8n8.x1.shared.b16 [%0], {%1};" ::"r"(a), "r"(d) : "memory");
    asm volatile("stmatrix.sync.aligned.m8n8.x1.trans.shared.b16 [%0], {%1};" ::"r"(b), "r"(d) : "memory");
    uint32_t row = lane / 4, column = lane % 4 * 2;
    out[lane] = s[0][row * 8 + column] | s[0][row * 8 + column + 1] << 16;
    out[LANES + lane] = s[1][column * 8 + row] | s[1][(column + 1) * 8 + row] << 16;
}
FA_TEST(matrix_stores_own_elements) {
    Device<uint32_t> out(std::vector<uint32_t>(2 * LANES, 0));
    own_elements<<<1, LANES>>>(out.p);
    FA_REQUIRE(finished());
    std::vector<uint32_t> got = out.host();
    for (uint32_t i = 0; i < 2 * LANES; i++) FA_EXPECT(got[i] == (i % LANES * 2 | (i % LANES * 2 + 1) << 16));
}
FA_TEST(matrix_stores) {
    std::vector<uint32_t> words = random_words(4 * LANES, 1000), row(LANES);
    for (int l = 0; l < LANES; l++) row[l] = (l * 11 + 5) % 64; /* all different */
    Device<uint32_t> dw(words), drow(row);
    Device<uint8_t> out(std::vector<uint8_t>(6 * TILE_BYTES, 0));
    matrix_stores<<<1, LANES>>>(dw.p, drow.p, out.p);
    FA_REQUIRE(finished());
    std::vector<uint8_t> got = out.host();
    for (int f = 0; f < 6; f++) {
        std::vector<uint8_t> want(TILE_BYTES, 0xaa);
        for (int q = 0; q < 1 << f % 3; q++)
            for (int l = 0; l < LANES; l++)
                for (int h = 0; h < 2; h++) {
                    int r = f < 3 ? l / 4 : l % 4 * 2 + h, c = f < 3 ? l % 4 * 2 + h : l / 4;
                    uint16_t x = (uint16_t)(words[q * LANES + l] >> 16 * h);
                    memcpy(&want[row[q * 8 + r] * 16 + c * 2], &x, 2);
                }
        for (int i = 0; i < TILE_BYTES; i++)
            FA_EXPECT_MSG(got[f * TILE_BYTES + i] == want[i], "form %d, byte %d: got %x, want %x", f, i,
                          got[f * TILE_BYTES + i], want[i]);
    }
}
#endif

__global__ void matrix_moves(const uint32_t *words, uint32_t *out) {
    uint32_t d, a = words[threadIdx.x];
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(d) : "r"(a));
    out[threadIdx.x] = d;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %0;" : "+r"(d));
    out[LANES + threadIdx.x] = d;
}
FA_TEST(matrix_moves) {
    std::vector<uint32_t> words = random_words(LANES, 1100);
    Device<uint32_t> dw(words), out(std::vector<uint32_t>(2 * LANES, 0));
    matrix_moves<<<1, LANES>>>(dw.p, out.p);
    FA_REQUIRE(finished());
    std::vector<uint32_t> got = out.host();
    for (int l = 0; l < LANES; l++)
        for (int h = 0; h < 2; h++) {
            int r = l % 4 * 2 + h, c = l / 4; /* the element of the source */
            uint16_t want = (uint16_t)(words[r * 4 + c / 2] >> 16 * (c % 2));
            FA_EXPECT((uint16_t)(got[l] >> 16 * h) == want);
            FA_EXPECT(got[LANES + l] == words[l]);
        }
}

/* ---- findings ----------------------------------------------------------------------------------------- */

/* A kernel on one line of this file, whose number the message must have. */
#define BAD_KERNEL(name, ...) \
    enum { LINE_##name = __LINE__ }; \
    __global__ void name(uint32_t *out) { \
        uint32_t lane = threadIdx.x, d = lane; \
        __VA_ARGS__ out[lane] = d; \
    }
#define SHARED_TILE \
    __shared__ alignas(16) uint32_t s[64]; \
    s[lane] = s[lane + 32] = lane; \
    __syncthreads();
#define LDMATRIX(offset) \
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" \
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) \
                 : "r"((uint32_t)__cvta_generic_to_shared(s) + offset) \
                 : "memory")
BAD_KERNEL(reads_absent_lane, if (lane < 20) asm volatile("shfl.sync.idx.b32 %0, %0, 25, 31, 0xfffff;"
                                                          : "+r"(d));)
BAD_KERNEL(reads_absent_neighbour, if (lane < 16) asm volatile("shfl.sync.down.b32 %0, %0, 1, 31, 0xffff;"
                                                               : "+r"(d));)
BAD_KERNEL(outside_own_mask, asm volatile("shfl.sync.bfly.b32 %0, %0, 1, 31, 0x3fffffff;" : "+r"(d));)
BAD_KERNEL(masks_disagree, asm volatile("redux.sync.add.u32 %0, %0, %1;"
                                        : "+r"(d)
                                        : "r"(lane < 16 ? 0xffffffffu : 0xffff0000u));)
BAD_KERNEL(absent_forever, if (lane < 16) asm volatile("bar.warp.sync 0xffffffff;" ::
                                                           : "memory");
           else asm volatile("bar.sync 0;" ::
                                 : "memory");)
BAD_KERNEL(matrix_misaligned, SHARED_TILE uint32_t r[4]; LDMATRIX(lane / 4 * 16 + (lane == 9 ? 8 : 0));
           d = r[0] + r[1] + r[2] + r[3];)
BAD_KERNEL(matrix_behind, SHARED_TILE uint32_t r[4]; LDMATRIX((lane == 31 ? 256 : lane / 2 * 16));
           d = r[0] + r[1] + r[2] + r[3];)
BAD_KERNEL(matrix_before, SHARED_TILE uint32_t r[4]; LDMATRIX((lane == 0 ? 0u - 16 : lane / 2 * 16));
           d = r[0] + r[1] + r[2] + r[3];)
BAD_KERNEL(matrix_uninitialised, __shared__ alignas(16) uint32_t s[64]; s[lane] = 1; __syncthreads();
           uint32_t r[4]; LDMATRIX(lane / 2 * 16); d = r[0] + r[1] + r[2] + r[3];)
BAD_KERNEL(matrix_part, SHARED_TILE uint32_t r[4]; LDMATRIX(lane / 2 * 16); d = r[0] + r[1] + r[2] + r[3];)
#if HAS_90
BAD_KERNEL(matrix_race, SHARED_TILE asm volatile("stmatrix.sync.aligned.m8n8.x1.shared.b16 [%0], {%1};" ::"r"(
                                                     (uint32_t)__cvta_generic_to_shared(s + lane % 8 * 4)),
                                                 "r"(d)
                                                 : "memory");
           d = s[lane ^ 1];)
#endif

static void expect_finding(const char *name, int line, const char *what, void (*kernel)(uint32_t *),
                           int threads = LANES) {
    Device<uint32_t> memory(std::vector<uint32_t>(512, 0));
    expect_finding_at(name, __FILE__, line, what, [&] { kernel<<<1, threads>>>(memory.p); });
}
#define EXPECT_FINDING(name, what) expect_finding(#name, LINE_##name, what, name)
FA_TEST(findings) {
    const char *checks = getenv("FA_PTX_CHECKS");
    EXPECT_FINDING(reads_absent_lane, "shfl reads lane 25, which does not take part");
    EXPECT_FINDING(reads_absent_neighbour, "shfl reads lane 16, which does not take part");
    EXPECT_FINDING(outside_own_mask, "outside its own member mask 0x3fffffff");
    EXPECT_FINDING(masks_disagree, "name another mask");
    EXPECT_FINDING(absent_forever, "deadlock");
    EXPECT_FINDING(matrix_misaligned, "multiple of 16");
    EXPECT_FINDING(matrix_behind, "out of bounds");
    EXPECT_FINDING(matrix_before, "not in the shared memory");
    if (!checks || strcmp(checks, "0")) EXPECT_FINDING(matrix_uninitialised, "ninitialised");
#if HAS_90
    if (!checks || strcmp(checks, "0")) EXPECT_FINDING(matrix_race, "race");
#endif
    expect_finding("matrix_part", LINE_matrix_part, "needs all 32 lanes", matrix_part, 24);
}

FA_TEST_MAIN
