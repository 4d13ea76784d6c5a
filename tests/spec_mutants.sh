#!/bin/sh
# tests/spec_mutants.sh [pattern] - can the tests of flashattn_spec.h fail?  Breaks the header in one line, many times over,
# and expects the suite that is named to notice each time; see mutants.sh.  Takes some minutes.  The exit status is 0 if
# every mutant was killed.
#
# Not in the list, since nothing changes: a draw that begins one block early, as it goes on into the next; top-p that
# counts again what top-k has cut, which it never reaches.

cd "$(dirname "$0")/.." || exit 1
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' INT TERM
log=build/spec_mutants.log
mkdir -p build
: >"$log"
export FA_TEST_SCALE=quick
killed=0 survived=0 broken=0

list() {
    cat <<'END'
verify   residual-update-dropped      s/fai_subtract(r->p + from, r->q + from, count);//
verify   residual-next-not-scaled     s/fai_scale_all(scale_p, r->p + id, n);//
verify   q-next-not-scaled            s/if (without) fai_scale_all(scale_q, r->q + id, n);//
verify   residual-of-original-p       s/fai_scaled(scale_p, r->p\[token\])/fai_weight(\&p, token)/
verify   residual-not-scaled          s/scale_p = fai_scale_to_one(total\[0\]);/scale_p = fai_scale_to_one((fai_sum){0, FAI_ONE});/
verify   q-keeps-the-rejected-token   s/^            r->q\[token\] = 0;//
verify   q-not-scaled-again           s/if (without) scale_q = fai_scale_to_one(total\[1\]);/if (without) scale_q = fai_scale_to_one((fai_sum){0, FAI_ONE});/
verify   with-as-without              s/node, a->rule == FA_VERIFY_WITHOUT_REPLACEMENT)/node, 1)/
verify   without-as-with              s/node, a->rule == FA_VERIFY_WITHOUT_REPLACEMENT)/node, 0)/
verify   coin-of-sibling-reused       s/fai_request_coin(r, FA_COIN_ACCEPT, child);/fai_request_coin(r, FA_COIN_ACCEPT, node + 1);/
verify   coin-of-test-for-last-draw   s/(purpose == FA_COIN_ACCEPT ? node : 0)/(purpose == FA_COIN_ACCEPT || r->nodes > 1 ? node + (purpose != FA_COIN_ACCEPT) : 0)/
verify   purposes-share-a-counter     s/{(uint32_t)offset, (uint32_t)(offset >> 32), node, purpose};/{(uint32_t)offset, (uint32_t)(offset >> 32), node, 0};/
verify   offset-not-counted           s/{(uint32_t)offset, (uint32_t)(offset >> 32), node, purpose};/{0, (uint32_t)(offset >> 32), node, purpose};/
verify   accepts-equality             s/return q && fai_mulhi(coin, q) < p;/return q \&\& fai_mulhi(coin, q) <= p;/
verify   accepts-what-q-cannot-draw   s/return q && fai_mulhi(coin, q) < p;/return fai_mulhi(coin, q) < p;/
verify   target-only-equality         s/total) < weight) break;/total) <= weight) break;/
verify   target-only-total-stays      s/total = fai_residual(total, weight);//
verify   target-only-token-stays      s/if (!fai_skips(&m, token)) rejected\[m.num_skip++\] = token;//
verify   target-only-twice-the-same   s/fai_skips(&m, token) ? 0 : fai_weight(&p, token);/fai_weight(\&p, token);/
verify   residual-is-p                s/fai_mass m = {&p, &q, 0, NULL, NULL, 0, r->vocab};/fai_mass m = {\&p, NULL, 0, NULL, NULL, 0, r->vocab};/
verify   residual-is-q-minus-p        s/return p > q ? p - q : 0; }/return q > p ? q - p : 0; }/
verify   block-token-ratio            s/const uint64_t one = (uint64_t)1 << 63, hi = fai_mulhi(a, p);/const uint64_t one = (uint64_t)1 << 63, hi = fai_mulhi(a = one, p);/
verify   block-residual-without-ratio s/a\[end\] < one ? a\[end\] : 0, NULL/0, NULL/
verify   block-h-without-1-minus-a    s/s.total + FAI_ONE - (a\[end\] >> 11);/s.total + FAI_ONE;/
verify   block-one-coin-for-all       s/fai_request_coin(r, FA_COIN_ACCEPT, end), whole)/fai_request_coin(r, FA_COIN_ACCEPT, 1), whole)/
verify   block-last-by-its-ratio-only s/if (end \&\& whole \&\& /if (0 \&\& /
verify   greedy-second-largest        s/if (fai_token_of(r, child) == best) return child;/if (fai_token_of(r, child) != best) return child;/
verify   typical-without-entropy      s/fai_exp2_neg(entropy >> 16) << 6/fai_exp2_neg(0) << 6/
verify   typical-first-path           s/ || (depth\[node\] == depth\[best\] && score\[node\] > score\[best\])//
verify   draft-row-of-node            s/if (r->parent \&\& a->draft_row) index = /if (0) index = /
verify   request-s-parameters-of-0    s/\&r->a->sampling, r->b, r->room);/\&r->a->sampling, 0, r->room);/
verify   coins-of-request-0           s/return fai_coin_of(coins, r->b, purpose, node);/return fai_coin_of(coins, 0, purpose, node);/
verify   fallback-is-the-last-id      s/return p->only >= 0 ? p->only : fai_argmax(p, &bad);/return p->vocab - 1;/
verify   parent-after-child-allowed   s/parent, n ? 0 : -1, n - 1);/parent, n ? 0 : -1, nodes - 1);/
sampling draw-one-unit-late           s/if (unit < w\[i\]) return from + i;/if (unit <= w[i]) return from + i;/
sampling draw-chunk-late              s/if (unit >= sum) {/if (unit > sum) {/
sampling draw-keeps-skipped           s/w\[m->skip\[i\] - from\] = 0;/continue;/
verify   block-row-of-another-place   s/if (n < OPEN) rows\[n\]\[0\] = p,/if (n < OPEN) rows[0][0] = p, rows[n][0] = p,/
verify   block-units-of-another-row   s/, rows\[n\]\[0\].units = rows\[n\]\[1\].units = NULL;/;/
verify   rows-share-a-room            s/r->room + FAI_SMALL);/r->room);/
sampling chunk-mulhi-carry            s/fai_spec_mul(ah, bh) + (mid >> 32) + (mid2 >> 32);/fai_spec_mul(ah, bh) + (mid >> 32);/
sampling chunk-rounds-up              s/_MM_FROUND_TO_ZERO | _MM/_MM_FROUND_TO_POS_INF | _MM/;s/_mm256_floor_pd/_mm256_ceil_pd/;s/vrndmq_f64/vrndpq_f64/
sampling chunk-top-minus-zero         s/(most == -1 ? 0 : most)/most/
sampling chunk-bad-unseen             s/if (most < 0x7f800000 \&\& /if (/
sampling chunk-bad-unseen-below       s/ \&\& ~other >= least)/)/
sampling chunk-last-vector            s/(n + L <= count ? n : count - L))/(n + L <= count ? n : 0))/
sampling chunk-first-of-equals        s/if (key > top) top = key, best = from;/if (key >= top) top = key, best = from;/
sampling find-minus-zero              s/ \& ~nan \& ~minus_zero)/ \& ~nan)/
sampling find-nan                     s/ | (nan \& (-0x7fffffff - 1));/;/
sampling find-low                     s/(key >= least) \& (key <= most)/(key > least) \& (key <= most)/
sampling find-high                    s/(key >= least) \& (key <= most)/(key >= least)/
sampling cut-keeps-equals-behind      s/if (row->cut_key \&\& from + count - 1 > row->cut_id)/if (0)/
sampling small-rows-keep-what-is-cut  s/    row->units = room;/    if (room) fai_units(row, 0, row->vocab < 64 ? row->vocab : 64, room);\n    row->units = room;/
sampling subtract-wraps               s/(more \& (more > 0));/more;/
sampling without-keeps-the-sums       s/token >= 0 \&\& !dead) fai_sums_drop(&m, &s, token), m.num_skip++;/token >= 0 \&\& !dead) m.num_skip++;/
sampling without-keeps-the-token      s/fai_sums_drop(&m, &s, token), m.num_skip++;/fai_sums_drop(\&m, \&s, token);/
sampling top-k-one-more               s/count + counts\[digit\] >= k/count + counts[digit] > k/
sampling ties-all-kept                s/if (k ? count >= k : !fai_sum_less(units, wanted)) return;//
sampling top-k-dropped               s/if (top_k > 0 \&\& top_k < row->vocab) fai_row_cut/if (0) fai_row_cut/
sampling min-p-dropped                s/ || unit\[n\] < row->least) unit/) unit/
sampling temperature-dropped          s/if (row->kind == FA_LOGITS) fai_row_temperature(row, temperature);/if (row->kind == FA_LOGITS) fai_row_temperature(row, 1);/
sampling exp2-third-coefficient       s/t = 0x3d7f7bcbu/t = 0x3d7f7fcbu/
sampling nan-is-a-number              s/if ((bits \& 0x7fffffffu) > 0x7f800000u) return 0;//
sampling vector-takes-one             s/return all >> 52 ? -1 : /return all >> 53 ? -1 : /
sampling vector-second-half           s/sum0 += sum1, bad0 |= bad1;/sum0 += sum1;/
sampling fixed-rounds-down            s/return (mantissa + .*>> -shift;/return mantissa >> -shift;/
sampling portable-carry               s/return ah \* bh + (mid >> 32) + (mid2 >> 32);/return ah * bh + (mid >> 32);/
trees    sibling-order                s/for (int32_t i = n - 1; i > 0; i--) next_sibling/for (int32_t i = 1; i < n; i++) next_sibling/
trees    mask-self                    s/row\[i \/ 32\] |= 1u << i % 32;/row[i \/ 32] |= i ? 1u << i % 32 : 0;/
trees    mask-words                   s/const int64_t words = (t->num_nodes + 31) \/ 32;/const int64_t words = (t->num_nodes + 30) \/ 32;/
trees    depth                        s/positions\[at + t->parent\[at + i\]\] + 1/positions[at + i - 1] + 1/
trees    parent-equal                 s/parent, n ? 0 : -1, n - 1);/parent, n ? 0 : -1, n ? n : -1);/
trees    root-any                     s/parent, n ? 0 : -1, n - 1);/parent, n ? 0 : -1, n ? n - 1 : 0);/
trees    trie-sorted                  s/!(t->sorted \&\& t->key\[\*link\] > key)/1/
trees    trie-room                    s/if (t->count == limit) return -1;/if (t->count > limit) return -1;/
trees    greedy-tie                   s/x->order < y->order;/x->order > y->order;/
trees    greedy-sibling               s/offer\[0\] = child, offer\[1\] = best;/offer[0] = child, offer[1] = child;/
trees    greedy-increment             s/return more > 0 ? more : 0;/return accuracy[r];/
trees    merge-source                 s/bits\[in_trie\[i\]\] |= (uint64_t)1 << d;/bits[in_trie[i]] = (uint64_t)1 << d;/
trees    merge-shift                  s/bits\[in_trie\[i\]\] |= (uint64_t)1 << d;/bits[in_trie[i]] |= (uint64_t)(1 << d);/
trees    score-tie                    s/ << 32 | ~(uint32_t)index;/ << 32 | (~(uint32_t)index ^ 0x80u);/
trees    score-neg                    s/(bits >> 31 ? ~bits : bits | 0x80000000u)/(bits | 0x80000000u)/
trees    score-positive               s/(x <= 0 ? x : x > 0 ? 0 : -INFINITY)/(x <= 9 ? x : -INFINITY)/
trees    dyn-inf                      s/for (int32_t i = 1; i < d->count; i++)$/for (int32_t i = 0; i < d->count; i++)/
trees    dyn-rank                     s/tree->rank\[i\] = above < 0 ? 0 : children\[lo\]++;/tree->rank[i] = 0;/
trees    sift                         s/if (heap\[child\] >= x) break;/if (heap[child] > x + 5) break;/
trees    sequoia-cut                  s/if (g\[n - m\] > 0 \&\& below\[m\] > 0 \&\& x > more\[n\])/if (x > more[n])/
trees    sequoia-branch               s/if (more\[n\] > best\[n\]) best\[n\] = more\[n\], branch\[n\] = (int16_t)b;/if (more[n] > best[n]) best[n] = more[n], branch[n] = (int16_t)s->branches;/
trees    sequoia-p                    s/const double p = a->acceptance\[b - 1\];/const double p = a->acceptance[0];/
trees    sequoia-left                 s/left\[child\] = left\[i\] - 1, rest -= m;/left[child] = left[i], rest -= m;/
trees    ngram-later                  s/(uint64_t)length << 32 | (uint32_t)end/(uint64_t)length << 32 | (uint32_t)(last - end)/
trees    ngram-period                 s/tokens\[begin + d % period\]/tokens[begin + (d < period ? d : period - 1)]/
trees    ngram-least                  s/if (length >= least)/if (length > least)/
trees    pool-lru                     s/if (n == pool->guesses) n--;/if (n == pool->guesses) n = 0;/
trees    pool-stamp                   s/slot\[1\] = (int32_t)pool->clock++;/slot[1] = 0;/
trees    fill-depth                   s/candidate\[(int64_t)(depth\[i\] - 1) \* stride + shape->rank\[i\]\]/candidate[(int64_t)(depth[i] > 1) * stride]/
medusa   gemm-rim                     s/for (; i < m; i++) fai_gemm_tile(1,/for (; i < m - 1; i++) fai_gemm_tile(1,/
medusa   gemm-cols                    s/for (int64_t j = whole; j < n; j++) c/for (int64_t j = whole; j < n - 1; j++) c/
medusa   silu-grad                    s/s \* (1 + x \* (1 - s))/s/
medusa   exp-digit                    s/4.1666667e-2f, 0.16666667f, 0.5f/4.1766667e-2f, 0.16666667f, 0.5f/
medusa   sum-rescale                  s/if (line->max < top) line->sum \*= .*;$//
medusa   onehot                       s/x\[line->label - t->v\] -= line->scale;/x[line->label - t->v] -= 0;/
medusa   lambda                       s/weight\[k - 1\] \* 0.8 : 0.8/0.8 : 0.8/
medusa   shift                        s/(a->shift ? a->shift : 2) + k/(a->shift ? a->shift : 1) + k/
medusa   label-end                    s/return at < end ? a->target/return at <= end \&\& at < a->rows ? a->target/
medusa   dx-residual                  s/d_x\[i\] += d_h\[i\];/d_x[i] += 0;/
medusa   topk-tie                     s/!(x\[i\] > fai_key_score(best\[0\]))) continue;/!(x[i] >= fai_key_score(best[0]) * 1.01f)) continue;/
medusa   bias-grad                    s/j == 0 \&\& r < t->rows; r++)/j == 0 \&\& r < 1; r++)/
planning tokens                       s/const double more = 1 + alpha \* sum;/const double more = 1 + alpha * sum * 0.999;/
planning block-min                    s/next < 1 ? next : 1, /next, /
planning tried                        s/accepted + (accepted < drafted);/accepted + 1;/
planning keep                         s/e->accepted = e->keep \* e->accepted + accepted;/e->accepted = e->accepted + accepted;/
planning rank-tried                   s/e->tried\[rank\] += 1, /e->tried[rank] += rank < 3, /
planning slope                        s/if (tokens > c->tokens\[i\] \&\& slope < 0) slope = 0;//
planning steps                        s/\/ (uint32_t)batch) >= steps) continue;/\/ (uint32_t)batch) > steps) continue;/
planning rate-batch                   s/const double x = batch \* sum \/ fa_cost_step(cost, (double)batch \* (i + 1), 0);/const double x = batch * sum \/ fa_cost_step(cost, (double)(i + 1), 0);/
planning samme                        s/(double)(classes - 1); \/\* exp(vote) \*\//1.0;/
planning vote-tie                     s/if (sum > most) most = sum, best/if (sum >= most) most = sum, best/
planning covered                      s/all \&= wrong\[d \* samples + i\] != 0;/all |= wrong[d * samples + i] != 0;/
planning treevalue                    s/value\[up\] \* acceptance\[(depth\[i\] - 1) \* stride + rank\]/value[up] * acceptance[rank]/
medusa   seq-end                      s/cu_seqlens\[mid\] > row/cu_seqlens[mid] >= row/
medusa   gemm-strip                   s/b + (p + q) \* ldb + j/b + q * ldb + j/
medusa   dot-rest                     s/for (int64_t p = whole; p < depth; p++)/for (int64_t p = whole; p < depth - 1; p++)/
medusa   dot-rim                      s/r < m - i; r++)/r < m - i - 1; r++)/
medusa   dot-depth                    s/\*at = a + i \* lda + p, \*bt/*at = a + i * lda, *bt/
medusa   dot-block                    s/end = n - first < 4096 \/ depth ? n/end = n - first < 4096 \/ depth ? n - (first > 0)/
medusa   fold                         s/if (l < FAI_GL >> step)/if (l < FAI_GL >> step \&\& step < 4)/
medusa   sigmoid-sign                 s/(fai_gvec)(((fai_gint)e & minus) | ((fai_gint)one & ~minus))/one/
medusa   piece-end                    s/first + each, vocab)/first + each - 1, vocab)/
medusa   piece-sum                    s/fai_medusa_add(line, more->max, more->sum);//
medusa   piece-max                    s/max < top ? sum \* exp((double)(max - top)) : sum/sum/
medusa   piece-best                   s/i < more->held; i++)/i < more->held - 1; i++)/
medusa   shared-head                  s/const int64_t k = group + l \/ t->rows, r = /const int64_t k = group, r = /
medusa   shared-best                  s/const int64_t k = group + l \/ t->rows, at = /const int64_t k = group, at = /
medusa   recompute                    s/if (vocab > t->width)/if (vocab > 2 * t->width)/
medusa   tile-count                   s/(t.rows + FAI_LINES - 1) \/ FAI_LINES/(t.rows + FAI_LINES - 2) \/ FAI_LINES/
medusa   panel-row                    s/t->a->x + t->row \* t->stride + j/t->a->x + j/
END
}

# Is suite $1 still right with $dir/flashattn_spec.h?  2: it does not compile.
passes() {
    ${CC:-cc} -std=c11 -O2 -march=native -w -I"$dir" -I. -Itests -o "$dir/$1" "$dir/$1.c" -lm >>"$log" 2>&1 || return 2
    timeout 120 "$dir/$1" >>"$log" 2>&1
}

cp flashattn.h tests/fa_test.h tests/spec_*.h tests/test_spec_*.c "$dir/" # quoted includes look beside the file first
cp flashattn_spec.h "$dir/original.h"
cp flashattn_spec.h "$dir/"
for suite in sampling verify trees medusa planning; do
    passes test_spec_$suite || { echo "spec_mutants.sh: test_spec_$suite fails without any mutant; see $log" >&2 && exit 1; }
done

list | awk -v only="$1" '$2 ~ only' >"$dir/list"
while read -r suite name command; do
    sed "$command" "$dir/original.h" >"$dir/flashattn_spec.h"
    printf '%-30s ' "$name"
    echo "=== $name" >>"$log"
    if cmp -s "$dir/original.h" "$dir/flashattn_spec.h"; then
        echo 'DOES NOT APPLY' && broken=$((broken + 1)) && continue
    fi
    passes "test_spec_$suite"
    case $? in
    0) echo 'SURVIVED' && survived=$((survived + 1)) ;;
    2) echo 'DOES NOT COMPILE' && broken=$((broken + 1)) ;;
    *) echo "killed by test_spec_$suite" && killed=$((killed + 1)) ;;
    esac
done <"$dir/list"

echo "$killed killed, $survived survived, $broken no longer apply"
[ "$survived" = 0 ] && [ "$broken" = 0 ] && [ "$killed" -gt 0 ]
