// decode_sm90.cuh - flash decoding, bf16, for sm_90a: one query against a paged cache of keys and values.
//
// append_sm90 puts the new key and value into their page; decode_sm90, launched as dependent on it, attends
// to all. The pages of a sequence are dealt out to the splits, then to the two CTAs of a split's cluster,
// then to their four warps. A warp copies its pages (16 keys of one head: one bulk copy for K, one for V)
// into a ring of two stages of its own and keeps a running softmax; a lane holds D / 32 columns. The CTAs
// merge their warps in shared memory, the first CTA of a cluster takes its neighbour's result out of
// distributed shared memory and leaves the split's result in `partial`; the split that arrives last merges
// them all.
//
//     append: grid (heads, batch), D threads
//     decode: grid (2 * splits, heads, batch), 128 threads, clusters of 2, 512 * D bytes of dynamic shared
//     cache: [pages][heads][16][D]; table: [batch][pages_per_sequence]; q, k_new, v_new, o: [batch][heads][D]
//     partial: [batch][heads][splits][D + 2]; counter: [batch][heads], zero before and after
#pragma once
#include "atoms.cuh"

enum { PAGE = 16 };

struct Cache {
    bf16 *k, *v;
    const int *table, *length; // length: keys of each sequence, the new one included
    int heads, pages_per_sequence;

    // element 0 of the first key of a page
    template <int D> __device__ __forceinline__ size_t page(int sequence, int head, int i) const {
        return ((size_t)table[sequence * pages_per_sequence + i] * heads + head) * PAGE * D;
    }
};

template <int D>
static __global__ void append_sm90(Cache cache, const bf16 *__restrict__ k_new,
                                   const bf16 *__restrict__ v_new) {
    const int head = blockIdx.x, sequence = blockIdx.y, last = cache.length[sequence] - 1;
    const size_t from = ((size_t)sequence * cache.heads + head) * D + threadIdx.x;
    const size_t to = cache.page<D>(sequence, head, last / PAGE) + last % PAGE * D + threadIdx.x;
    grid_launch_dependents(); // they wait before they read
    cache.k[to] = k_new[from];
    cache.v[to] = v_new[from];
}

// N neighbouring elements that are loaded and stored as one vector
template <typename T, int N> struct alignas(sizeof(T) * N) Vector { T x[N]; };

// A running softmax: sum = sum of exp2(s - top), value = sum of exp2(s - top) v. Merging takes in another
// one.
ATOM void merge(float &top, float &sum, float &factor, float &other_factor, float other_top,
                float other_sum) {
    const float m = fmaxf(top, other_top);
    factor = top == -INFINITY ? 0 : exp2_approx(top - m);
    other_factor = other_top == -INFINITY ? 0 : exp2_approx(other_top - m);
    top = m, sum = sum * factor + other_sum * other_factor;
}

template <int D>
static __global__ void __launch_bounds__(128)
    decode_sm90(Cache cache, const bf16 *__restrict__ q, bf16 *__restrict__ o, float *partial,
                unsigned *counter, float scale_log2) {
    enum { WARPS = 4, COLUMNS = D / 32, STAGES = 2 };
    struct Result {
        alignas(16) float value[D];
        float top, sum;
    };
    typedef Vector<bf16, COLUMNS> Elements;
    typedef Vector<float, COLUMNS> Values;
    typedef bf16 Page[PAGE][D];
    extern __shared__ __align__(128) uint8_t shared_decode[];
    Page(*ring)[STAGES][2] = (Page(*)[STAGES][2])shared_decode; // [WARPS][STAGES], K and V
    __shared__ uint64_t full[WARPS][STAGES];
    __shared__ Result of_warp[WARPS], of_cta;
    __shared__ bool is_last;

    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, column = lane * COLUMNS;
    const int splits = gridDim.x / 2, split = blockIdx.x / 2, rank = cluster_rank();
    const int head = blockIdx.y, sequence = blockIdx.z, row = sequence * cache.heads + head;
    const int first = (split * 2 + rank) * WARPS + warp, step = splits * 2 * WARPS;
    if (lane == 0) {
        for (int i = 0; i < STAGES; i++) mbarrier_init(shared_address(&full[warp][i]), 1);
        fence_mbarrier_init();
    }
    __syncwarp(); // all see the barriers
    grid_wait();  // for the key and value that append_sm90 writes

    const int length = cache.length[sequence], pages = (length + PAGE - 1) / PAGE;
    // one lane copies page i into its stage: the keys that there are, and no others
    auto load = [&](int i, int stage) {
        const uint32_t bar = shared_address(&full[warp][stage]), bytes = min(length - i * PAGE, PAGE) * D * 2;
        const size_t page = cache.page<D>(sequence, head, i);
        mbarrier_arrive_expect(bar, 2 * bytes);
        bulk_load(shared_address(ring[warp][stage][0]), cache.k + page, bytes, bar);
        bulk_load(shared_address(ring[warp][stage][1]), cache.v + page, bytes, bar);
    };
    if (lane == 0) {
        for (int i = 0; i < STAGES; i++)
            if (first + i * step < pages) load(first + i * step, i);
    }
    float query[COLUMNS], top = -INFINITY, sum = 0;
    Values value = {};
    const Elements of_q = *(const Elements *)&q[(size_t)row * D + column];
    for (int c = 0; c < COLUMNS; c++) query[c] = __bfloat162float(of_q.x[c]) * scale_log2;

    for (int i = first, visit = 0; i < pages; i += step, visit++) {
        const int stage = visit % STAGES, keys = min(length - i * PAGE, PAGE);
        mbarrier_wait(shared_address(&full[warp][stage]), visit / STAGES & 1);
        for (int j = 0; j < keys; j++) {
            const Elements k = *(const Elements *)&ring[warp][stage][0][j][column];
            const Elements v = *(const Elements *)&ring[warp][stage][1][j][column];
            float s = 0;
            for (int c = 0; c < COLUMNS; c++) s += query[c] * __bfloat162float(k.x[c]);
            for (int d = 16; d > 0; d /= 2) s += __shfl_xor_sync(~0u, s, d);
            float factor, weight;
            merge(top, sum, factor, weight, s, 1);
            for (int c = 0; c < COLUMNS; c++)
                value.x[c] = value.x[c] * factor + weight * __bfloat162float(v.x[c]);
        }
        fence_proxy_async(); // the reads above, before the next copy
        __syncwarp();        // of all lanes
        if (lane == 0 && i + STAGES * step < pages) load(i + STAGES * step, stage);
    }

    // warps -> CTA
    if (lane == 0) of_warp[warp].top = top, of_warp[warp].sum = sum;
    *(Values *)&of_warp[warp].value[column] = value;
    __syncthreads();           // results of all warps
    const int d = threadIdx.x; // column
    float t = -INFINITY, l = 0, x = 0, factor, weight;
    if (d < D) {
        for (int w = 0; w < WARPS; w++) {
            merge(t, l, factor, weight, of_warp[w].top, of_warp[w].sum);
            x = x * factor + of_warp[w].value[d] * weight;
        }
        of_cta.value[d] = x;
        if (d == 0) of_cta.top = t, of_cta.sum = l;
    }

    // CTAs -> cluster
    cluster_sync(); // both results are there
    if (rank == 0 && d < D) {
        const uint32_t other_top = remote_address(shared_address(&of_cta.top), 1);
        const uint32_t other_sum = remote_address(shared_address(&of_cta.sum), 1);
        const uint32_t other_value = remote_address(shared_address(of_cta.value), 1);
        merge(t, l, factor, weight, load_remote(other_top), load_remote(other_sum));
        x = x * factor + load_remote(other_value + 4 * d) * weight;
    }
    cluster_sync(); // the neighbour's shared memory has been read
    if (rank != 0) return;

    // splits -> result, by the CTA that is the last to arrive here
    float *all = partial + (size_t)row * splits * (D + 2), *mine = all + split * (D + 2);
    if (d < D) mine[d] = x;
    if (d == 0) mine[D] = t, mine[D + 1] = l;
    __threadfence(); // this thread's part of the result, before the count
    __syncthreads(); // of all threads
    if (threadIdx.x == 0) is_last = atomicAdd(&counter[row], 1) == (unsigned)splits - 1;
    __syncthreads(); // is_last
    if (!is_last) return;
    __threadfence(); // the count, before the results of the others
    if (d >= D) return;
    t = -INFINITY, l = 0, x = 0;
    for (int i = 0; i < splits; i++) {
        const float *at = all + i * (D + 2);
        merge(t, l, factor, weight, at[D], at[D + 1]);
        x = x * factor + at[d] * weight;
    }
    o[(size_t)row * D + d] = __float2bfloat16(x / l);
    if (d == 0) counter[row] = 0; // for the next launch
}
