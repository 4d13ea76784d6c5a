#!/bin/sh
# tests/cuda/mutants.sh [--check] [pattern] - do the tests notice a broken kernel? Breaks flashattn_cuda.cuh in one place at a
# time and expects test_forward, test_hopper* or test_cache, at quick scale on the PTX machine, to fail in one of the
# schedules order, lazy and 1: by a finding, by a wrong result, by counts that are not what they should be. Prints what
# killed each mutant.
# Takes more than half an hour on two cores. JOBS=1: one at a time. pattern: of awk, in names.
#
# Not in the list, as no test can see it: the warp that copies parting (copy_tile), setmaxnreg.inc (the PTX machine does
# not run out of registers), and the turn left over at the end of a block.
#
# A mutant is a line of the list: name, sed command. A command that no longer changes anything is an error: the kernel
# was rewritten, and the mutant has to follow. --check: only that.

cd "$(dirname "$0")/../.." || exit 1
dir=build/cuda/mutants

list() {
    cat <<'END'
swizzle-none             s/(chunk) ^ FAI_SWIZZLE(dim, row)/(chunk) ^ 0 * FAI_SWIZZLE(dim, row)/
swizzle-of-8-always      s/((dim) \/ 8 % 8 == 0 ? 8 : (dim) \/ 8 % 4 == 0 ? 4 : 2)/8/
column-of-fragment       s/((lane) % 4 \* 2 + (v) % 2)/((lane) % 4 + (v) % 2)/
k-fragments-swapped      s/#define FAI_LDMATRIX_B_ROW(lane) .*/#define FAI_LDMATRIX_B_ROW(lane) ((lane) % 16)/
v-not-transposed         s/fai_ldmatrix_x4_trans(rv/fai_ldmatrix_x4(rv/
k-halves-swapped         s/rq\[a \* (WIDTH \/ 16) + c\], rk), FAI_MMA(to\[1\], rq\[a \* (WIDTH \/ 16) + c\], rk + 2)/rq[a * (WIDTH \/ 16) + c], rk + 2), FAI_MMA(to[1], rq[a * (WIDTH \/ 16) + c], rk)/
p-halves-swapped         s/FAI_PACK(p\[e \/ 2\]\[e % 2 \* 2 + 1\], p\[e \/ 2\]\[e % 2 \* 2\])/FAI_PACK(p[e \/ 2][e % 2 * 2], p[e \/ 2][e % 2 * 2 + 1])/
no-wait-k                /const int mask = masked || first/{n;d}
no-wait-v-1-stage        /if (STAGES == 1) {/{n;d}
no-barrier-k             /K is there (V too, in 2 stages)/d
no-barrier-v             /V is there, for all; nobody reads K/d
no-barrier-tile          /\*t is written/d
no-barrier-before-o      s/infinite = __syncthreads_or(infinite);/infinite = __any_sync(~0u, infinite);/
no-barrier-infinite      /__syncthreads(); \/\* O is written/d
no-syncwarp              /__syncwarp();.*rows of the warp may be read/d
one-stage-of-two         /if (STAGES == 2) stage = STAGE - stage;/d
stage-of-v               s/FAI_(gemm_pv)(o\[0\], s\[0\], sv + stage,/FAI_(gemm_pv)(o[0], s[0], sv + (STAGES == 2 ? STAGE - stage : 0),/
load-to-own-stage        s/shared + SK + (STAGE - stage), D/shared + SK + stage, D/
v-of-next-tile           s/if (STAGES == 1) FAI_(load_kv)(&args, t, &args.v, gv, first,/if (STAGES == 1) FAI_(load_kv)(\&args, t, \&args.v, gv, next >= end ? next : first,/
shared-too-small         s/launch->shared = FAI_TILE_SHARED(launch->arch);/launch->shared = FAI_TILE_SHARED(launch->arch) - 4;/
key-past-the-end         s/: j >= lo && j < hi))$/: j >= lo \&\& j <= hi))/
key-past-the-end-asked   s/if (j >= lo && j < hi && FAI_(visible)/if (j >= lo \&\& j <= hi \&\& FAI_(visible)/
first-key-not-asked      s/if (j >= lo && j < hi && FAI_(visible)/if (j > lo \&\& j < hi \&\& FAI_(visible)/
first-key-lost           s/: j >= lo && j < hi))$/: j > lo \&\& j < hi))/
last-tile-not-masked     s/first < t->all.lo || first + BN > t->all.hi;/first < t->all.lo;/
tile-masked-too-late     s/first + BN > t->all.hi;/first + BN > t->all.hi + 1;/
window-not-masked        s/const int mask = masked || first < t->all.lo || /const int mask = masked || /
first-tile-lost          s/const int32_t end = t->any.lo \/ BN \* BN;/const int32_t end = (t->any.lo + BN - 1) \/ BN * BN;/
a-tile-too-many          s/(t->any.hi - 1) \/ BN \* BN + BN, end)/t->any.hi \/ BN * BN + BN, end)/
past-the-end-read        s/fai_cp_async_cg_16(to, from, exists ? 16 : 0)/fai_cp_async_cg_16(to, from, 16)/
row-past-the-end-stored  s/if (own >= t->rows) continue;/if (own > t->rows) continue;/
lse-of-wrong-row         s/const int r = row + n \* 8;/const int r = row + n * 4;/
lse-in-log2              s/(m\[n\] + fai_lg2_approx_f32(l\[n\])) \* FAI_LN2/(m[n] + fai_lg2_approx_f32(l[n]))/
lse-past-the-end         s/lane % 4 == 0 && r < t->rows/lane % 4 == 0 \&\& r <= t->rows/
row-maximum-of-2-lanes   /x = fmaxf(x, fai_shfl_sync_bfly_f32(x, 2));/d
row-sum-of-2-lanes       /l\[n\] += fai_shfl_sync_bfly_f32(l\[n\], 2);/d
rescale-of-last-row-only s/moves |= top\[n\] > m\[n\] + 8;/moves = top[n] > m[n] + 8;/
o-not-rescaled           s/, o\[c\]\[n % 2 \* 2 + 1\] \*= factor;/;/
l-not-rescaled           /l\[n\] \*= factor;/d
maximum-without-rescale  s/m\[n\] = top\[n\] > m\[n\] + 8 ? base : m\[n\];/m[n] = fmaxf(m[n], base);/
threshold-too-high       s/> m\[n\] + 8/> m[n] + 80/g
row-not-seen-yet         s/m\[n\] == -INFINITY ? 0 : m\[n\];/m[n];/
empty-row                s/l\[n\] == 0 ? 0 : kept \/ l\[n\]/kept \/ l[n]/
sink-dropped             s/FAI_HAS(FA_SINK) && a->sink ? a->sink/FAI_HAS(FA_SINK) \&\& a->sink \&\& row < 0 ? a->sink/
sink-four-times          s/l\[n\] = m\[n\] != -INFINITY && threadIdx.x % 4 == 0 ?/l[n] = m[n] != -INFINITY ?/
sink-of-first-row        s/a->sink\[FAI_(find)(t, row + n \* 8).h\]/a->sink[FAI_(find)(t, row).h]/
head-of-group            s/(shift + own) % group << 10/own % group << 10/
query-of-group           s/(uint32_t)((shift + own) \/ group |/(uint32_t)(own \/ group |/
rows-of-longest-sequence s/(int64_t)seq.len_q \* group - row0/(int64_t)a->seqlen_q * group - row0/
keys-of-first-query      s/bottom = FAI_(keys)(a, t, first + (shift + rows - 1) \/ group);/bottom = FAI_(keys)(a, t, first);/
varlen-keys-of-first     s/seq.b_k \* st.b + seq.row_k \* st.s/seq.b_k * st.b/
page-row                 s/^ *j % size \* s.row;/j * s.row;/
page-table-of-first      s/a->block_table\[t->b \* stride + j \/ size\]/a->block_table[j \/ size]/
dropout-wrong-word       s/FAI_(pick)(got, quad ^ x)/FAI_(pick)(got, x)/
dropout-not-exchanged    s/fai_shfl_sync_bfly_b32(FAI_(pick)(made, quad ^ x), x)/FAI_(pick)(made, quad ^ x)/
dropout-not-scaled       s/FAI_HAS(FA_DROPOUT) ? fa_dropout_scale(a->dropout_p) : 1/1/
dropout-of-next-keys     s/first \/ 8 + c + (int32_t)quad, made/first \/ 8 + c + 1 + (int32_t)quad, made/
alibi-from-the-left      s/fabsf((float)(at.i + seq->len_k - seq->len_q - j))/fabsf((float)(at.i - j))/
alibi-of-first-head      s/a->alibi_slopes\[b \* a->alibi_stride_b + h\]/a->alibi_slopes[b * a->alibi_stride_b + 0 * h]/
bias-of-first-head       s/t->b \* sb.b + at.h \* sb.h + at.i \* sb.s/t->b * sb.b + at.i * sb.s/
bias-past-the-end        s/a->bias.data && exists)/a->bias.data)/
bias-f16-as-bf16         s/if (a->bias.dtype == FA_BF16) return/if (a->bias.dtype >= FA_F16) return/
softcap-halved           s/fai_ex2_approx_ftz_f32(2 \* FAI_LOG2E \* y/fai_ex2_approx_ftz_f32(FAI_LOG2E * y/
score-in-log2-units      s/\*x \* scale, NULL, NULL) \* FAI_LOG2E;/*x * scale, NULL, NULL);/
negative-scale           s/if (first == last && args.softmax_scale < 0) FAI_(negate_q)(shared + SQ);//
block-mask-ignored       s/!fa_block_visible(a, seq, at.h, at.i, j)) return 0;/j < 0) return 0;/
block-skipped            s/if (__syncthreads_or(visible)) break;/if (__syncthreads_and(visible)) break;/
block-asked-by-warp      s/if (__syncthreads_or(visible)) break;/if (__any_sync(~0u, visible)) break;/
tree-ignored             s/!fa_tree_visible(a, seq, at.i, j)) return 0;/j < 0) return 0;/
nan-of-v-spreads         s/infinite |= FAI_(make_finite)(shared + SV.*;/;/
infinite-forgotten       s/^    if (infinite) {/    if (0) {/
infinite-when-dropped    s/FAI_(add_infinite)(&args, t, masked || drops,/FAI_(add_infinite)(\&args, t, masked,/
infinite-twice           s/first >= t->all.lo && first + bn <= t->all.hi)/first >= t->all.hi)/
unaligned-k-accepted     /FAI_CHECK_ROWS(k, K, kv_dtype)/d
host-pointer-accepted    /FAI_CHECK_POINTER(k.data)/d
grid-overflows           s/tiles > INT32_MAX \/ heads/tiles > INT32_MAX/
hopper-decode-swizzle    s/(chunk) % 8 ^ (row) % 8) \* 16/(chunk) % 8) * 16/
hopper-decode-no-wait-k  /slot.parity); \/\* K is there/d
hopper-decode-no-wait-v  /slot.parity); \/\* V is there/d
hopper-decode-not-empty  /fai_mbarrier_try_wait_parity(shared + EMPTY/d
hopper-decode-parity     s/EMPTY + slot.bar, slot.parity ^ 1)/EMPTY + slot.bar, slot.parity)/
hopper-decode-turn       s/again = {0, 0, x.parity ^ 1};/again = {0, 0, x.parity};/
hopper-decode-slot-more  s/return next.at < SLOTS \* SLOT ? next : again;/return next.at <= SLOTS * SLOT ? next : again;/
hopper-decode-k-kept     /EMPTY + slot.bar); \/\* K is read/d
hopper-decode-v-kept     /EMPTY + slot.bar); \/\* V is read/d
hopper-decode-k-too-soon /fai_wgmma_wait_group_0(); \/\* S is there, K no longer needed/d
hopper-decode-v-too-soon /fai_wgmma_wait_group_0(); \/\* O is there, V no longer needed/d
hopper-decode-bytes      s/expect_tx(full, panels \* PANEL);/expect_tx(full, panels * PANEL \/ 2);/
hopper-decode-no-fence-q /fai_fence_proxy_async(); .*Q is what wgmma/d
hopper-decode-no-meet-q  /fai_bar_sync(1, FAI_DECODE_THREADS); .*Q is there/d
hopper-decode-no-fence-v /fai_fence_proxy_async(); .*V is what wgmma/d
hopper-decode-no-meet-v  /fai_bar_sync(1, FAI_DECODE_THREADS); .*V is mended/d
hopper-decode-fence-s    /fai_wgmma_fence();.*S are free/d
hopper-decode-fence-p    /fai_wgmma_fence();.*P and O are written/d
hopper-decode-init-fence /fai_fence_mbarrier_init();$/d
hopper-decode-not-mended s/infinite |= FAI_(hopper_decode_mend)(t, first, shared + slot.at);//
hopper-decode-lost       s/infinite |= FAI_(hopper_decode_mend)/(void)FAI_(hopper_decode_mend)/
hopper-decode-mask-right s/first + BN > t->all.hi;/first > t->all.hi;/
hopper-decode-mask-left  s/masked || first < t->all.lo || first + BN/masked || first + BN/
hopper-decode-page       s/fai_table_stride(a) + number\], from.z/fai_table_stride(a)], from.z/
hopper-decode-page-row   s/from.x = (j - number \* a->page_size) \/ rows \* rows;/from.x = 0;/
hopper-decode-page-end   s/j = j < t->any.hi ? j : t->any.hi - 1;//
hopper-decode-box-more   s/active = lane < BN \/ rows;/active = lane <= BN \/ rows;/
hopper-decode-ragged     s/spot.x + first, spot.y, spot.z/first, spot.y, spot.z/
hopper-decode-busy       s/__shfl_sync(~0u, row < t->rows, 0)/__shfl_sync(~0u, row < t->rows, 31)/
hopper-decode-scale      s/|| a->softmax_scale < 0; .*wants a scale/; \/\*/
hopper-decode-shared     s/launch->shared = SPLIT + sizeof(FAI_(split));/launch->shared = SPLIT + sizeof(FAI_(split)) - 4;/
hopper-decode-plan-rows  s/if (hopper) rows = 64;//
hopper-decode-16-rows    s/rows > 16 && FAI_(hopper_decode_launch)/FAI_(hopper_decode_launch)/
hopper-decode-page-of-7  s/if (m->page_rows % 8 || a->seqlen_k == 0) return 0;/if (a->seqlen_k == 0) return 0;/
hopper-decode-no-part    /__syncthreads(); \/\* the part is written/d
hopper-decode-no-ticket  /__syncthreads(); \/\* the ticket is written/d
hopper-decode-no-release /^    __threadfence();$/{N;/the part is written/D}
hopper-decode-no-merge   /__syncthreads(); \/\* O is written/d
hopper-decode-no-begin   /__syncthreads(); \/\* \*x is written/d
hopper-decode-ring-early s/infinite = __syncthreads_or(infinite);\( .*the ring any more\)/infinite = __any_sync(~0u, infinite);\1/
hopper-decode-s-loose    /FAI_(hopper_decode_qk)(float/,/^}/s/fai_wgmma_commit_group();//
hopper-decode-o-loose    /FAI_(hopper_decode_pv)(float/,/^}/s/fai_wgmma_commit_group();//
hopper-decode-no-acquire /x->count - 1) return;/{n;/__threadfence/d}
hopper-swizzle           s/(chunk) % 8 ^ (row) % 8) \* 16/(chunk) % 8) * 16/
hopper-no-wait-q         s/fai_mbarrier_try_wait_parity(g->shared + FAI_Q_FULL, q);/;/
hopper-no-wait-first-k   s/^    FAI_(wait)(FAI_K_FULL, stage);//
hopper-no-wait-k         /FAI_(wait)(FAI_K_FULL, now);/d
hopper-no-wait-v         /FAI_(wait)(FAI_V_FULL, \*before);/d
hopper-no-wait-last-v    /FAI_(wait)(FAI_V_FULL, stage);/d
hopper-k-not-empty       /FAI_K_EMPTY + 8 \* stage, ring \/ 2 % 2 ^ 1);$/d
hopper-v-not-empty       /fai_mbarrier_try_wait_parity(shared + FAI_V_EMPTY + 8 \* other/d
hopper-parity-of-v       s/(ring - 1) \/ 2 % 2 ^ 1);/ring \/ 2 % 2 ^ 1);/
hopper-parity-each-step  s/s.parity + (1u << 30)/s.parity + (1u << 31)/
hopper-no-wait-s         /fai_wgmma_wait_group_1();.*S is there/d
hopper-no-wait-first-s   /fai_wgmma_wait_group_0();.*S is there/d
hopper-no-wait-o         /fai_wgmma_wait_group_0();.*O is there, P and V/d
hopper-no-wait-last-o    /fai_wgmma_wait_group_0();.*O is there, V no/d
hopper-no-wgmma-fence-s  /fai_wgmma_fence();.*S are free/d
hopper-no-wgmma-fence-p  /fai_wgmma_fence();.*P and O are written/d
hopper-k-never-freed     s/if (wgs > 1 \&\& speaks) fai_mbarrier_arrive(s.bars + FAI_K_EMPTY);//
hopper-k-freed-by-one    s/FAI_HAS(FA_BLOCK_MASK) ? wgs \* 4 : wgs)/1)/
hopper-no-init-fence     /fai_fence_mbarrier_init();$/d
hopper-turn-not-passed   s/^    FAI_(pass_turn)(g, wgs);//
hopper-no-fence-of-o     /fai_fence_proxy_async();.*what TMA will read/d
hopper-no-barrier-of-o   /fai_bar_sync(FAI_BAR_WG + wg, 128);.*all have written/d
hopper-no-wait-of-o      s/fai_cp_async_bulk_wait_group_read_0();.*outlives/; \/* /
hopper-no-fence-of-v     /fai_fence_proxy_async();.*here is what wgmma will read/d
hopper-no-wait-raw-v     /FAI_V_RAW + 8 \* stage, raw >> stage & 1);/d
hopper-parity-of-raw     /raw ^= 1u << stage;/d
hopper-not-mended        s/found |= FAI_(make_chunk_finite)(sv + d \* 16);/found |= 0;/
hopper-infinite-lost     s/if (found) t->infinite = 1;//
hopper-o-not-scaled      s/if (moves) FAI_(rescale)(o, factor);//
hopper-growth-not-seen   s/__any_sync(~0u, below >= 0)/__any_sync(~0u, 0)/
hopper-growth-of-a-lane  s/const int moves = __any_sync(~0u, below >= 0);/const int moves = below >= 0;/
hopper-sums-not-scaled   s/m\[h\] += x, l\[h\] \*= factor\[h\];/m[h] += x;/
hopper-unseen-row        s/FAI_(any_unseen)(g, m)))/0))/
hopper-boundary-late     s/first + bn > g->hi) ||/first + bn > g->hi + bn) ||/
hopper-left-boundary     s/end > g->lo ? end : g->lo, 0);/end, 0);/
hopper-rows-of-group     s/n \* (64 \/ m->group), q.y/n * 64, q.y/
hopper-ragged-length     s/r.x = FAI_RAGGED - rows,/r.x = FAI_RAGGED - rows - 1,/
hopper-ragged-end        s/r.y = (int32_t)row + rows,/r.y = (int32_t)row + rows + 1,/
hopper-used-rows-stored  s/(a->cu_seqlens_q || !a->seqused_q || t->rows == wgs \* 64)/(1)/
hopper-q-not-empty       s/^            fai_mbarrier_try_wait_parity(shared + FAI_Q_EMPTY, n % 2 ^ 1);$//
hopper-q-over-o          /fai_cp_async_bulk_wait_group_read_0();.*Q may be written/d
hopper-o-over-o          /if (g->leads) fai_cp_async_bulk_wait_group_read_0();/d
hopper-q-over-read-o     /fai_fence_proxy_async();.*TMA will write Q/d
hopper-tile-not-empty    /fai_mbarrier_try_wait_parity(shared + FAI_TILE_EMPTY/d
hopper-tile-not-written  /__syncwarp();.*t is written, but/d
hopper-counter-left      s/m->counter, m->total - 1)/m->counter, m->total)/
hopper-turns-overlap     s/(round % 2 ? blocks - 1 - own : own)/(round % 2 ? blocks - own : own)/
hopper-next-block-early  /__syncwarp();.*all lanes have \*/d
hopper-block-not-skipped s/if (!FAI_(skips)(a)) return first;/return first;/
hopper-block-of-a-lane   s/if (__any_sync(~0u, visible)) break;/if (__all_sync(~0u, visible)) break;/
hopper-negative-maximum  s/FAI_BYTES == 2 \&\& g->scale\[0\] < 0/FAI_BYTES == 2 \&\& g->scale[0] < -1e30f/
hopper-no-keys-early     /fai_bar_sync(FAI_BAR_WG + row0/d
hopper-section-ragged    s/return (heads - 1) \/ sections + 1;/return heads < most ? heads : most;/
hopper-section-of-first  s/^                          section \* m->section + rest % wide/                          rest % wide/
hopper-cp-no-wait-k      /fai_cp_async_wait_all(); .*fetched of K/d
hopper-cp-no-wait-v      /fai_cp_async_wait_all(); .*fetched of V/d
hopper-cp-no-fence-k     /fai_fence_proxy_async(); .*and what wgmma will read/d
hopper-cp-no-fence-v     /fai_fence_proxy_async(); .*if nobody mends it/d
hopper-cp-no-syncwarp    /__syncwarp(); .*all lanes have fenced/d
hopper-cp-no-meet-v      s/found = fai_bar_red_or(FAI_BAR_MEND, 64, found);.*/;/
hopper-cp-k-not-empty    /FAI_K_EMPTY + 8 \* stage, ring \/ 2 % 2 ^ 1); \/\* nobody reads it/d
hopper-cp-v-not-empty    /FAI_V_EMPTY + 8 \* stage, ring \/ 2 % 2 ^ 1);/d
hopper-cp-parity-of-v    s/FAI_V_EMPTY + 8 \* stage, ring \/ 2 % 2 ^ 1);/FAI_V_EMPTY + 8 * stage, ring \/ 2 % 2);/
hopper-cp-q-not-empty    s/^            fai_mbarrier_try_wait_parity(shared + FAI_Q_EMPTY, n % 2 ^ 1); \/\* Q of .*//
hopper-cp-k-not-told     s/if (leads) fai_mbarrier_arrive(shared + FAI_K_FULL + 8 \* stage);//
hopper-cp-swizzle        s/chunk = thread % 8 ^ (r + thread \/ 8) % 8;/chunk = thread % 8;/
hopper-cp-other-lane     s/o->at\[r \/ step \/ 8\], r \/ step % 8/o->at[r \/ step \/ 8], r \/ step % 4/
hopper-cp-first-rows     s/o->at\[r \/ step \/ 8\]/o->at[0]/
hopper-cp-own-row        s/= (int32_t)(thread % 8 \* (threads \/ 8) + thread \/ 8);/= (int32_t)thread;/
hopper-cp-panel          s/fai_cp_async_cg_16_ignore(to + c \* (bn \* 16)/fai_cp_async_cg_16_ignore(to + c * (bn * 8)/
hopper-cp-page-absent    s/row >= bn || j < t->any.lo || j >= t->any.hi/row >= bn || j >= t->any.hi/
hopper-cp-page-behind    s/row >= bn || j < t->any.lo || j >= t->any.hi/row >= bn || j < t->any.lo/
hopper-cp-rows-behind    s/row >= bn || j < t->any.lo/j < t->any.lo/
hopper-cp-unseen-read    s/at == FAI_UNSEEN_KEY || (c/(c/
hopper-cp-page-of-first  s/(uint32_t)a->block_table\[t->b \* stride + number\]/(uint32_t)a->block_table[number]/
hopper-cp-row-of-page    s/ + ((uint32_t)j - number \* size) \* of_row;/;/
hopper-cp-next-k         /if (next >= end) rows = FAI_(look_up)(a, t, &a->k/d
hopper-cp-next-v         /if (next >= end) rows = FAI_(look_up)(a, t, &a->v/d
hopper-cp-skip-of-v      /next = FAI_(seen)(a, t, next, end, bn);/d
hopper-cp-skip-of-k      s/^        if (leads \&\& FAI_(skips)(a)) t->next_k\[stage\] = next;//
hopper-cp-other-shape    s/FAI_(set_shape)(launch, 0), launch->maps/launch->maps/
hopper-cp-by-tma         /launch->kernel = (const void \*)FAI_(hopper_rows_kernel);/d
hopper-bytes-of-keys     s/expect_tx(bar, panels \* panel);/expect_tx(bar, panels * panel - 128);/
hopper-bytes-of-q        s/FAI_HOPPER_PANELS \* Q_PANEL);/FAI_HOPPER_PANELS * Q_PANEL - 128);/
hopper-empty-q-not-empty s/^        fai_mbarrier_try_wait_parity(shared + FAI_Q_EMPTY, n % 2 ^ 1);//
hopper-empty-not-told    /if (leads) fai_mbarrier_arrive(shared + FAI_Q_FULL);/d
hopper-tile-not-told     /fai_mbarrier_arrive(shared + FAI_TILE_FULL/d
hopper-tile-of-loader    /FAI_(produce)(const/,/^}/{/FAI_TILE_FULL.*may be read/d}
hopper-tile-of-mender    /FAI_(mend)(const/,/^}/{/FAI_TILE_FULL.*may be read/d}
hopper-tile-of-consumer  /FAI_(consume)(const/,/^}/{/FAI_TILE_FULL.*may be read/d}
hopper-loader-early      /FAI_(produce)(const/,/^}/{/__syncwarp(); .*the warp no longer reads/d}
hopper-mender-early      /FAI_(mend)(const/,/^}/{/__syncwarp(); .*the warp no longer reads/d}
hopper-consumer-early    /FAI_(consume)(const/,/^}/{/__syncwarp(); .*the warp no longer reads/d}
hopper-loader-silent     /FAI_(produce)(const/,/^}/{/fai_mbarrier_arrive(shared + FAI_TILE_EMPTY/d}
hopper-mender-silent     /FAI_(mend)(const/,/^}/{/fai_mbarrier_arrive(shared + FAI_TILE_EMPTY/d}
hopper-consumer-silent   /FAI_(consume)(const/,/^}/{/fai_mbarrier_arrive(shared + FAI_TILE_EMPTY/d}
hopper-mended-by-half    s/fai_bar_red_or(FAI_BAR_MEND, 64, found)/__any_sync(~0u, found)/
hopper-mended-not-told   /fai_mbarrier_arrive(shared + FAI_V_FULL + 8 \* stage);/d
hopper-s-not-committed   /FAI_(issue_qk)(float/,/^}/s/fai_wgmma_commit_group();//
hopper-o-not-committed   /FAI_(issue_pv)(float/,/^}/s/fai_wgmma_commit_group();//
hopper-alone-by-warp     s/fai_bar_red_or(FAI_BAR_WG, 128, found)/found/
hopper-alone-found-late  /fai_bar_sync(FAI_BAR_WG, 128);.*and know what was found/d
hopper-o-over-o-of-wg    /fai_bar_sync(FAI_BAR_WG + wg, 128);.*has been read/d
hopper-store-no-commit   s/fai_cp_async_bulk_commit_group();//
hopper-q-kept-by-store   /if (wgs > 1) fai_mbarrier_arrive(g->shared + FAI_Q_EMPTY);/d
hopper-no-syncwarp       /__syncwarp();.*rows of the warp may be read/d
hopper-q-over-o-of-wg    /fai_bar_sync(FAI_BAR_WG + wg, 128);.*all have read/d
hopper-q-kept-by-rows    s/^    if (g->leads) fai_mbarrier_arrive(g->shared + FAI_Q_EMPTY);//
hopper-unseen-by-warp    s/fai_bar_red_or(g->turn - FAI_BAR_TURN + FAI_BAR_WG, 128, unseen)/unseen/
hopper-q-kept            s/fai_mbarrier_arrive(g->shared + FAI_Q_EMPTY);\(.*no product with Q\)/;\1/
hopper-last-v-kept       /fai_mbarrier_arrive(stage.bars + FAI_V_EMPTY);/d
hopper-no-keys-q-kept    /^        if (g->leads) fai_mbarrier_arrive(g->shared + FAI_Q_EMPTY);/d
hopper-infinite-early    /fai_bar_sync(FAI_BAR_ALL/d
hopper-first-turn        /the first turn is warpgroup 0/d
hopper-turn-not-taken    /FAI_(take_turn)(g, wgs);/d
hopper-q-freed-by-one    s/FAI_Q_EMPTY, wgs)/FAI_Q_EMPTY, 1)/
hopper-v-freed-by-one    s/FAI_V_EMPTY + 8 \* stage, wgs)/FAI_V_EMPTY + 8 * stage, 1)/
hopper-tile-freed-by-few s/FAI_TILE_EMPTY + 8 \* stage, wgs \* 4 + 3)/FAI_TILE_EMPTY + 8 * stage, wgs * 4 + 2)/
hopper-no-meet-init      /__syncthreads(); \/\* all see the mbarriers \*\//d
hopper-alone-no-meet     /__syncthreads(); \/\* all see the mbarriers, and/d
hopper-alone-no-keys     /__syncthreads(); \/\* all of \*t/d
hopper-registers-kept    /FAI_SETMAXNREG_DEC(FAI/d
fp8-no-wait-v            /FAI_(wait)(FAI_V_FULL, \*before);/d
fp8-no-wait-s            /fai_wgmma_wait_group_1();.*S is there/d
fp8-no-wait-o            /fai_wgmma_wait_group_0();.*O is there, P and V/d
fp8-no-wait-last-o       /fai_wgmma_wait_group_0();.*O is there, V no longer needed \*/d
fp8-no-wgmma-fence-p     /fai_wgmma_fence();.*P and O are written/d
fp8-no-fence-of-v        /fai_fence_proxy_async();.*here is what wgmma will read/d
fp8-no-fence-of-o        /fai_fence_proxy_async();.*what TMA will read/d
fp8-v-never-freed        /if (wgs > 1 && FAI_(speaks)(g)) fai_mbarrier_arrive(s.bars + FAI_V_EMPTY);/d
fp8-bytes-of-v           s/expect_tx(bar, FAI_HOPPER_V_BYTES(bn));/expect_tx(bar, FAI_HOPPER_V_BYTES(bn) - 128);/
fp8-column-of-sequence   s/t->column + first, 0, t->head_k/first, 0, t->head_k/
fp8-keys-in-order        s/const int key = FAI_PAIRED_KEY(place + e);/const int key = place + e;/
fp8-not-mended           s/found |= FAI_(mend_keys)(t, sv + .*;/found |= 0;/
fp8-chunk-not-swizzled   s/(c % 8 ^ c \/ 8 % 8) \* 16/(c % 8) * 16/
fp8-bytes-of-p           s/e4m3x4_f32(x\[0\], x\[1\], x\[4\], x\[5\])/e4m3x4_f32(x[0], x[1], x[2], x[3])/
fp8-growth-not-seen      s/__any_sync(~0u, top\[0\] > .*;/__any_sync(~0u, 0);/
fp8-growth-of-a-lane     s/__any_sync(~0u, top\[0\] > -FAI_HEAD || top\[1\] > -FAI_HEAD)/(top[0] > -FAI_HEAD || top[1] > -FAI_HEAD)/
fp8-maximum-of-a-lane    s/FAI_(quad_maximum)(top\[h\])/top[h]/
fp8-factor-of-first-tile s/= (uint32_t)first \/ (uint32_t)d->block;/= 0 * (uint32_t)first;/
fp8-unit-not-grown       s/moves |= FAI_(grow)(a, t, g, first, factor);//
fp8-sums-in-units        s/if (FAI_BYTES == 1) l\[0\] \*= back, l\[1\] \*= back;//
fp8-o-in-units           s/factor\[0\] \*= unit, factor\[1\] \*= unit;//
fp8-factor-of-q          s/g->scale\[h\] \*= FAI_(factor)(a, t, &a->q_descale, at.h, at.i);//
fp8-part-not-added       s/o\[i\] += part\[i\];/;/
fp8-part-added-twice     s/(FA_PROMOTE) == 0 || \*since, bn);/1, bn);/
fp8-part-not-scaled      s/if (moves && (FA_PROMOTE) > 1) FAI_(rescale)(part, factor);//
transposed-not-written   /__syncthreads(); \/\* words are written/d
transposed-overwritten   /__syncthreads(); \/\* everybody has read words/d
transposed-in-order      s/word % 4 \* 2) + e % 2 + e \/ 2 \* 8;/word % 4 * 4) + e;/
END
}

# Mutant $1, "name sed command": one line of the table. hopper-*, fp8-*: of a kernel for sm_90a and its own test.
one() {
    name=${1%% *} command=$(printf '%s' "${1#* }" | sed 's/^ *//')
    case $name in
    hopper-decode-*) arch=90a test=test_hopper_decode ;;
    hopper-*) arch=90a test=test_hopper ;;
    fp8-*) arch=90a test=test_hopper_fp8 ;;
    transposed-*) arch=80 test=test_cache ;;
    *) arch=80 test=test_forward ;;
    esac
    work=$dir/$name
    mkdir -p "$work"
    sed "$command" flashattn_cuda.cuh >"$work/flashattn_cuda.cuh"
    printf '%-26s' "$name" >"$work/line"
    if [ "$name" != none ] && cmp -s flashattn_cuda.cuh "$work/flashattn_cuda.cuh"; then
        echo 'DOES NOT APPLY' >>"$work/line"
    elif ! ${NVCC:-nvcc} -O1 -lineinfo -no-compress -cudart none -gencode arch=compute_$arch,code=compute_$arch -DFA_TEST_CORE \
        -I"$work" -I. -Itests -o "$work/test" tests/cuda/$test.cu build/libfa_ptx.a -lm -lpthread >"$work/log" 2>&1; then
        echo 'DOES NOT COMPILE' >>"$work/line"
    else
        verdict=SURVIVED
        for schedule in order lazy 1; do
            FA_TEST_SCALE=quick FA_PTX_DEVICE=sm_$arch FA_PTX_SCHEDULE=$schedule FA_PTX_LIMIT=30000000 \
                timeout 200 "$work/test" >"$work/log" 2>&1 && continue
            message=$(grep '^ptx: ' "$work/log" | head -n 1)
            [ -n "$message" ] || message=$(grep '^not ok' "$work/log" | head -n 1)
            verdict="killed by $schedule: ${message:-no end}"
            break
        done
        printf '%.130s\n' "$verdict" >>"$work/line"
    fi
    rm -f "$work/test"
    cat "$work/line"
}
if [ "$1" = --check ]; then
    list | while read -r name command; do
        sed "$command" flashattn_cuda.cuh | cmp -s - flashattn_cuda.cuh && echo "$name DOES NOT APPLY"
    done | grep . && exit 1
    exit 0
fi
if [ "$1" = --one ]; then
    one "$2"
    exit
fi

rm -rf "$dir"
mkdir -p "$dir"
make -s build/libfa_ptx.a || exit 1
one 'none s/^/&/' >"$dir/none.line"
grep -q SURVIVED "$dir/none.line" || { echo 'the kernel as it is fails:' >&2 && cat "$dir/none/log" >&2 && exit 1; }
list | awk -v only="$1" '$1 ~ only' | tr '\n' '\0' | xargs -0 -P "${JOBS:-$(nproc)}" -n 1 sh "$0" --one | tee "$dir/table"
awk '/killed by/ { k++ } /SURVIVED/ { s++ } /DOES NOT/ { b++ }
    END { print k + 0 " killed, " s + 0 " survived, " b + 0 " no longer apply"; exit s || b || !k }' "$dir/table"
