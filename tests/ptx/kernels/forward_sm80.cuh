// forward_sm80.cuh - flash attention, forward, bf16, for sm_80: cp.async, ldmatrix, mma.sync.
//
// A CTA of 8 warps computes 128 query rows of one head, 16 a warp. K and V come in tiles of 64 keys, two
// stages each; the copy of the next tile runs while this one is multiplied. A row of a tile is D elements,
// in chunks of 16 bytes that are permuted by an xor with the row, so that 8 rows of one chunk column lie in
// different banks.
//
//     grid (ceil(n / 128), heads), 256 threads, Sm80<D>::SHARED bytes of dynamic shared memory
//     q, k, v, o: [heads][n][D]; lse: [heads][n], natural logarithm; scale_log2 = softmax scale * log2(e)
#pragma once
#include "atoms.cuh"

template <int D> struct Sm80 {
    enum { ROWS = 128, KEYS = 64, THREADS = 256, ROW = D * 2, CHUNKS = D / 8 };
    enum { Q = 0, K = ROWS * ROW, STAGE = KEYS * ROW, V = K + 2 * STAGE, SHARED = V + 2 * STAGE };

    ATOM uint32_t at(int row, int chunk) { return row * ROW + ((chunk ^ (row & 7)) << 4); }

    // `rows` rows of D elements from device memory; zeros past the first `valid`
    ATOM void load(uint32_t to, const bf16 *from, int rows, int valid) {
        for (int i = threadIdx.x; i < rows * CHUNKS; i += THREADS) {
            int row = i / CHUNKS, chunk = i % CHUNKS;
            copy_async(to + at(row, chunk), from + (row < valid ? row : 0) * D + chunk * 8, row < valid);
        }
    }
};

template <int D>
static __global__ void __launch_bounds__(256, 1)
    forward_sm80(const bf16 *__restrict__ q, const bf16 *__restrict__ k, const bf16 *__restrict__ v,
                 bf16 *__restrict__ o, float *__restrict__ lse, int n, float scale_log2, int causal) {
    typedef Sm80<D> T;
    extern __shared__ __align__(128) uint8_t shared_sm80[];
    const uint32_t shared = shared_address(shared_sm80), sq = shared + T::Q, sk = shared + T::K,
                   sv = shared + T::V;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int row0 = blockIdx.x * T::ROWS, row = row0 + warp * 16 + lane / 4; // and row + 8
    const int tiles = ((causal ? min(n, row0 + T::ROWS) : n) + T::KEYS - 1) / T::KEYS;
    q += (size_t)blockIdx.y * n * D, k += (size_t)blockIdx.y * n * D, v += (size_t)blockIdx.y * n * D;
    o += (size_t)blockIdx.y * n * D, lse += (size_t)blockIdx.y * n;

    T::load(sq, q + (size_t)row0 * D, T::ROWS, n - row0);
    T::load(sk, k, T::KEYS, n);
    copy_commit();
    T::load(sv, v, T::KEYS, n);
    copy_commit();

    uint32_t fq[D / 16][4];
    float acc[D / 8][4] = {}, top[2] = {-INFINITY, -INFINITY}, sum[2] = {};
    for (int tile = 0; tile < tiles; tile++) {
        const int stage = (tile & 1) * T::STAGE, other = T::STAGE - stage, left = n - (tile + 1) * T::KEYS;
        copy_wait<1>();  // K of this tile (and Q); V may be on its way
        __syncthreads(); // the copies of all threads; nobody reads the other stage of K any more
        if (tile + 1 < tiles) T::load(sk + other, k + (size_t)(tile + 1) * T::KEYS * D, T::KEYS, left);
        copy_commit();
        if (tile == 0) {
#pragma unroll
            for (int c = 0; c < D / 16; c++)
                ldmatrix_x4(fq[c], sq + T::at(warp * 16 + lane % 16, c * 2 + lane / 16));
        }

        // S = Q K^T
        float s[T::KEYS / 8][4] = {};
#pragma unroll
        for (int c = 0; c < D / 16; c++) {
#pragma unroll
            for (int j = 0; j < T::KEYS / 16; j++) {
                uint32_t b[4];
                ldmatrix_x4(b, sk + stage + T::at(j * 16 + lane % 8 + lane / 16 * 8, c * 2 + lane / 8 % 2));
                mma_m16n8k16(s[2 * j], fq[c][0], fq[c][1], fq[c][2], fq[c][3], b[0], b[1]);
                mma_m16n8k16(s[2 * j + 1], fq[c][0], fq[c][1], fq[c][2], fq[c][3], b[2], b[3]);
            }
        }

        // mask
        if ((causal && (tile + 1) * T::KEYS > row0) || left < 0) {
#pragma unroll
            for (int i = 0; i < T::KEYS / 2; i++) {
                int key = tile * T::KEYS + i / 4 * 8 + lane % 4 * 2 + i % 2;
                if (key >= n || (causal && key > row + i % 4 / 2 * 8)) s[i / 4][i % 4] = -INFINITY;
            }
        }

        // online softmax: rows `row` (h = 0) and `row + 8` (h = 1)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float m = top[h];
#pragma unroll
            for (int i = 0; i < T::KEYS / 8; i++) m = fmaxf(m, fmaxf(s[i][2 * h], s[i][2 * h + 1]));
            m = fmaxf(m, __shfl_xor_sync(~0u, m, 1));
            m = fmaxf(m, __shfl_xor_sync(~0u, m, 2));
            const float factor = exp2_approx((top[h] - m) * scale_log2);
            top[h] = m, sum[h] *= factor;
#pragma unroll
            for (int i = 0; i < T::KEYS / 8; i++) {
#pragma unroll
                for (int e = 2 * h; e < 2 * h + 2; e++)
                    s[i][e] = exp2_approx(fmaf(s[i][e], scale_log2, -m * scale_log2)), sum[h] += s[i][e];
            }
#pragma unroll
            for (int i = 0; i < D / 8; i++) acc[i][2 * h] *= factor, acc[i][2 * h + 1] *= factor;
        }

        copy_wait<1>();  // V of this tile; K of the next may be on its way
        __syncthreads(); // the copies of all threads; nobody reads the other stage of V any more
        if (tile + 1 < tiles) T::load(sv + other, v + (size_t)(tile + 1) * T::KEYS * D, T::KEYS, left);
        copy_commit();

        // O += P V
#pragma unroll
        for (int c = 0; c < T::KEYS / 16; c++) {
            const uint32_t p0 = pack_bf16(s[2 * c][0], s[2 * c][1]), p1 = pack_bf16(s[2 * c][2], s[2 * c][3]);
            const uint32_t p2 = pack_bf16(s[2 * c + 1][0], s[2 * c + 1][1]);
            const uint32_t p3 = pack_bf16(s[2 * c + 1][2], s[2 * c + 1][3]);
#pragma unroll
            for (int j = 0; j < D / 16; j++) {
                uint32_t b[4];
                ldmatrix_x4_trans(b, sv + stage + T::at(c * 16 + lane % 16, j * 2 + lane / 16));
                mma_m16n8k16(acc[2 * j], p0, p1, p2, p3, b[0], b[1]);
                mma_m16n8k16(acc[2 * j + 1], p0, p1, p2, p3, b[2], b[3]);
            }
        }
    }

    // O through the shared memory of Q (each warp its own rows), so that device memory is written by
    // whole rows
#pragma unroll
    for (int h = 0; h < 2; h++) {
        sum[h] += __shfl_xor_sync(~0u, sum[h], 1);
        sum[h] += __shfl_xor_sync(~0u, sum[h], 2);
        if (lane % 4 == 0 && row + 8 * h < n)
            lse[row + 8 * h] = (top[h] * scale_log2 + __log2f(sum[h])) * 0.693147181f;
#pragma unroll
        for (int i = 0; i < D / 8; i++)
            *(uint32_t *)(shared_sm80 + T::Q + T::at(warp * 16 + lane / 4 + 8 * h, i) + lane % 4 * 4) =
                pack_bf16(acc[i][2 * h] / sum[h], acc[i][2 * h + 1] / sum[h]);
    }
    __syncwarp(); // the rows of all lanes
    for (int i = lane; i < 16 * T::CHUNKS; i += 32) {
        const int r = warp * 16 + i / T::CHUNKS, chunk = i % T::CHUNKS;
        if (row0 + r < n)
            *(uint4 *)(o + (size_t)(row0 + r) * D + chunk * 8) =
                *(const uint4 *)(shared_sm80 + T::Q + T::at(r, chunk));
    }
}
