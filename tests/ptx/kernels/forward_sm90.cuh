// forward_sm90.cuh - flash attention, forward, bf16, for sm_90a: TMA, mbarriers, wgmma.
//
// A CTA of three warpgroups computes 128 query rows of one head. Warpgroup 0 loads: one thread issues TMA
// copies of Q and, tile by tile, of 128 keys of K and V into rings of two stages. Warpgroups 1 and 2 compute
// 64 rows each; the product P V of a tile runs while the softmax of the next one is computed. Tiles are
// stored as D / 64 panels of 64 columns: rows of 128 bytes, 128-byte swizzle.
//
//     grid (ceil(n / 128), heads), 384 threads, Sm90<D>::SHARED bytes of dynamic shared memory
//     maps: [heads][n][D], boxes of 64 columns and 64 rows (q, o) or 128 rows (k, v), 128-byte swizzle
//     lse: [heads][n], natural logarithm; scale_log2 = softmax scale * log2(e)
#pragma once
#include "atoms.cuh"

template <int D> struct Sm90 {
    enum { ROWS = 128, KEYS = 128, THREADS = 384, STAGES = 2, PANELS = D / 64, ATOM_BYTES = 8 * 128 };
    enum { Q_PANEL = 64 * 128, Q_HALF = PANELS * Q_PANEL, Q_BYTES = 2 * Q_HALF };
    enum { PANEL = KEYS * 128, TILE = PANELS * PANEL };
    // barriers: Q full, then per stage K full, K empty, V full, V empty
    enum { Q = 0, K = Q_BYTES, V = K + STAGES * TILE, BARS = V + STAGES * TILE };
    enum { SHARED = BARS + 8 + STAGES * 32 };
    ATOM uint32_t k_full(uint32_t bars, int stage) { return bars + 8 + stage * 32; }
    ATOM uint32_t k_empty(uint32_t bars, int stage) { return bars + 16 + stage * 32; }
    ATOM uint32_t v_full(uint32_t bars, int stage) { return bars + 24 + stage * 32; }
    ATOM uint32_t v_empty(uint32_t bars, int stage) { return bars + 32 + stage * 32; }

    ATOM void load(uint32_t to, const CUtensorMap *map, uint32_t bar, int row) {
        mbarrier_arrive_expect(bar, TILE);
        for (int p = 0; p < PANELS; p++) tma_load(to + p * PANEL, map, bar, p * 64, row, blockIdx.y);
    }

    // S = Q K^T, 64 rows, 128 keys
    ATOM void multiply_qk(float (&s)[64], uint32_t q, uint32_t k) {
#pragma unroll
        for (int c = 0; c < D / 16; c++)
            wgmma_shared(s, descriptor(q + c / 4 * Q_PANEL + c % 4 * 32, 16, ATOM_BYTES),
                         descriptor(k + c / 4 * PANEL + c % 4 * 32, 16, ATOM_BYTES), c != 0);
        wgmma_commit();
    }
    // O += P V
    ATOM void multiply_pv(float (&o)[D / 2], const uint32_t (&p)[32], uint32_t v) {
#pragma unroll
        for (int c = 0; c < KEYS / 16; c++)
            wgmma_registers<1>(o, p + 4 * c, descriptor(v + c * 16 * 128, PANEL, ATOM_BYTES));
        wgmma_commit();
    }

    // Cuts the keys of a tile that rows `row` and row + 8 must not see: those from n on, and those
    // behind the row. Element i of a thread is row i / 2 % 2 * 8, key i / 4 * 8 + i % 2 from its first
    // ones.
    ATOM void mask(float (&s)[64], int first_key, int row, int n, int causal) {
#pragma unroll
        for (int i = 0; i < 64; i++) {
            const int key = first_key + i / 4 * 8 + i % 2;
            if (key >= n || (causal && key > row + i / 2 % 2 * 8)) s[i] = -INFINITY;
        }
    }
    // Online softmax: s becomes P; the running maximum and sum move on; factor is for O.
    ATOM void softmax(float (&s)[64], float (&top)[2], float (&sum)[2], float (&factor)[2],
                      float scale_log2) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float m = top[h];
#pragma unroll
            for (int i = 2 * h; i < 64; i += 4) m = fmaxf(m, fmaxf(s[i], s[i + 1]));
            m = fmaxf(m, __shfl_xor_sync(~0u, m, 1));
            m = fmaxf(m, __shfl_xor_sync(~0u, m, 2));
            factor[h] = exp2_approx((top[h] - m) * scale_log2);
            top[h] = m, sum[h] *= factor[h];
#pragma unroll
            for (int i = 2 * h; i < 64; i += 4) {
                s[i] = exp2_approx(fmaf(s[i], scale_log2, -m * scale_log2));
                s[i + 1] = exp2_approx(fmaf(s[i + 1], scale_log2, -m * scale_log2));
                sum[h] += s[i] + s[i + 1];
            }
        }
    }
    ATOM void pack(uint32_t (&p)[32], const float (&s)[64]) {
#pragma unroll
        for (int i = 0; i < 32; i++) p[i] = pack_bf16(s[2 * i], s[2 * i + 1]);
    }
};

template <int D>
static __global__ void __launch_bounds__(384, 1)
    forward_sm90(const __grid_constant__ CUtensorMap map_q, const __grid_constant__ CUtensorMap map_k,
                 const __grid_constant__ CUtensorMap map_v, const __grid_constant__ CUtensorMap map_o,
                 float *__restrict__ lse, int n, float scale_log2, int causal) {
    typedef Sm90<D> T;
    extern __shared__ __align__(1024) uint8_t shared_sm90[];
    const uint32_t shared = shared_address(shared_sm90), bars = shared + T::BARS, q_full = bars;
    const int warpgroup = threadIdx.x / 128, row0 = blockIdx.x * T::ROWS;
    const int tiles = ((causal ? min(n, row0 + T::ROWS) : n) + T::KEYS - 1) / T::KEYS;
    if (threadIdx.x == 0) {
        prefetch_map(&map_q), prefetch_map(&map_k), prefetch_map(&map_v);
        mbarrier_init(q_full, 1);
        for (int i = 0; i < T::STAGES; i++) {
            mbarrier_init(T::k_full(bars, i), 1), mbarrier_init(T::v_full(bars, i), 1);
            mbarrier_init(T::k_empty(bars, i), 2), mbarrier_init(T::v_empty(bars, i), 2);
        }
        fence_mbarrier_init();
    }
    __syncthreads(); // all see the barriers

    if (warpgroup == 0) {
        registers_down<24>();
        if (threadIdx.x < 32 && elect_one()) {
            mbarrier_arrive_expect(q_full, T::Q_BYTES);
            for (int p = 0; p < 2 * T::PANELS; p++)
                tma_load(shared + T::Q + p * T::Q_PANEL, &map_q, q_full, p % T::PANELS * 64,
                         row0 + p / T::PANELS * 64, blockIdx.y);
            for (int tile = 0; tile < tiles; tile++) {
                const int stage = tile % T::STAGES, empty = (tile / T::STAGES & 1) ^ 1;
                mbarrier_wait(T::k_empty(bars, stage), empty);
                T::load(shared + T::K + stage * T::TILE, &map_k, T::k_full(bars, stage), tile * T::KEYS);
                mbarrier_wait(T::v_empty(bars, stage), empty);
                T::load(shared + T::V + stage * T::TILE, &map_v, T::v_full(bars, stage), tile * T::KEYS);
            }
        }
        return;
    }

    registers_up<240>();
    const int half = warpgroup - 1, thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
    const int first_row = row0 + half * 64, row = first_row + warp * 16 + lane / 4; // and row + 8
    const uint32_t sq = shared + T::Q + half * T::Q_HALF, sk = shared + T::K, sv = shared + T::V;
    float o[D / 2] = {}, s[64], top[2] = {-INFINITY, -INFINITY}, sum[2] = {}, factor[2];
    uint32_t p[32];

    mbarrier_wait(q_full, 0);
    mbarrier_wait(T::k_full(bars, 0), 0);
    wgmma_fence();
    T::multiply_qk(s, sq, sk);
    wgmma_wait<0>(); // first S
    if (thread == 0) mbarrier_arrive(T::k_empty(bars, 0));
    if ((causal && T::KEYS > first_row) || T::KEYS > n) T::mask(s, lane % 4 * 2, row, n, causal);
    T::softmax(s, top, sum, factor, scale_log2);
    T::pack(p, s);

    // S of this tile and O of the one before are computed together
    for (int tile = 1; tile < tiles; tile++) {
        const int stage = tile % T::STAGES, before = (tile - 1) % T::STAGES;
        mbarrier_wait(T::k_full(bars, stage), tile / T::STAGES & 1);
        mbarrier_wait(T::v_full(bars, before), (tile - 1) / T::STAGES & 1);
        wgmma_fence();
        T::multiply_qk(s, sq, sk + stage * T::TILE);
        T::multiply_pv(o, p, sv + before * T::TILE);
        wgmma_wait<1>(); // S
        if (thread == 0) mbarrier_arrive(T::k_empty(bars, stage));
        if ((causal && (tile + 1) * T::KEYS > first_row) || (tile + 1) * T::KEYS > n)
            T::mask(s, tile * T::KEYS + lane % 4 * 2, row, n, causal);
        T::softmax(s, top, sum, factor, scale_log2);
        wgmma_wait<0>(); // O: it may be scaled now, and P overwritten
        if (thread == 0) mbarrier_arrive(T::v_empty(bars, before));
        T::pack(p, s);
#pragma unroll
        for (int i = 0; i < D / 2; i++) o[i] *= factor[i / 2 % 2];
    }
    const int stage = (tiles - 1) % T::STAGES;
    mbarrier_wait(T::v_full(bars, stage), (tiles - 1) / T::STAGES & 1);
    wgmma_fence();
    T::multiply_pv(o, p, sv + stage * T::TILE);
    wgmma_wait<0>(); // last O

#pragma unroll
    for (int h = 0; h < 2; h++) {
        sum[h] += __shfl_xor_sync(~0u, sum[h], 1);
        sum[h] += __shfl_xor_sync(~0u, sum[h], 2);
        if (lane % 4 == 0 && row + 8 * h < n)
            lse[row + 8 * h + blockIdx.y * n] = (top[h] * scale_log2 + __log2f(sum[h])) * 0.693147181f;
        factor[h] = 1 / sum[h];
    }
    // O through the shared memory of this warpgroup's Q: 16 columns at a time, two of its chunks of 16 bytes
#pragma unroll
    for (int c = 0; c < D / 16; c++) {
        const int r = warp * 16 + lane % 16, chunk = c * 2 + lane / 16;
        stmatrix_x4(sq + chunk / 8 * T::Q_PANEL + r * 128 + ((chunk % 8 ^ (r & 7)) << 4),
                    pack_bf16(o[8 * c] * factor[0], o[8 * c + 1] * factor[0]),
                    pack_bf16(o[8 * c + 2] * factor[1], o[8 * c + 3] * factor[1]),
                    pack_bf16(o[8 * c + 4] * factor[0], o[8 * c + 5] * factor[0]),
                    pack_bf16(o[8 * c + 6] * factor[1], o[8 * c + 7] * factor[1]));
    }
    fence_proxy_async(); // the writes above, before TMA reads them
    barrier_sync(1 + half, 128);
    if (thread == 0) {
        for (int c = 0; c < T::PANELS; c++)
            tma_store(&map_o, sq + c * T::Q_PANEL, c * 64, row0 + half * 64, blockIdx.y);
        bulk_commit();
        bulk_wait_read(); // shared memory has to outlive the copy
    }
}
