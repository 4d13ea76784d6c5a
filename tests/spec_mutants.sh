#!/bin/sh
# tests/spec_mutants.sh [pattern] - can the tests of flashattn_spec.h fail?  Breaks the header in one line, many times over,
# and expects test_spec_sampling or test_spec_verify to notice each time; see mutants.sh.  Takes some minutes.  The exit
# status is 0 if every mutant was killed.
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
verify   residual-update-dropped      s/r->p\[id\] = fai_residual(fai_scaled(scale_p, r->p\[id\]), r->q\[id\]);/r->p[id] = fai_scaled(scale_p, r->p[id]);/
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
verify   request-s-parameters-of-0    s/\&r->a->sampling, r->b);/\&r->a->sampling, 0);/
verify   coins-of-request-0           s/return fai_coin_of(coins, r->b, purpose, node);/return fai_coin_of(coins, 0, purpose, node);/
verify   fallback-is-the-last-id      s/return p->only >= 0 ? p->only : fai_argmax(p);/return p->vocab - 1;/
verify   parent-after-child-allowed   s/parent, n ? 0 : -1, n - 1);/parent, n ? 0 : -1, nodes - 1);/
sampling draw-one-unit-late           s/if (unit < weight) return id;/if (unit <= weight) return id;/
sampling without-keeps-the-sums       s/token >= 0 \&\& !dead) fai_sums_drop(&m, &s, token), m.num_skip++;/token >= 0 \&\& !dead) m.num_skip++;/
sampling without-keeps-the-token      s/fai_sums_drop(&m, &s, token), m.num_skip++;/fai_sums_drop(\&m, \&s, token);/
sampling top-k-one-more               s/count + counts\[digit\] >= k/count + counts[digit] > k/
sampling ties-all-kept                s/if (k ? count >= k : !fai_sum_less(units, wanted)) break;//
sampling top-k-dropped               s/if (top_k > 0 \&\& top_k < row->vocab) fai_row_cut/if (0) fai_row_cut/
sampling min-p-dropped                s/ \&\& unit >= row->least;/;/
sampling temperature-dropped          s/if (row->kind == FA_LOGITS) fai_row_temperature(row, temperature);/if (row->kind == FA_LOGITS) fai_row_temperature(row, 1);/
sampling exp2-third-coefficient       s/t = 0x3d7f7bcbu/t = 0x3d7f7fcbu/
sampling nan-is-a-number              s/if ((bits \& 0x7fffffffu) > 0x7f800000u) return 0;//
sampling vector-takes-one             s/return all >> 52 ? -1 : /return all >> 53 ? -1 : /
sampling vector-second-half           s/sum0 += sum1, bad0 |= bad1;/sum0 += sum1;/
sampling fixed-rounds-down            s/return (mantissa + .*>> -shift;/return mantissa >> -shift;/
sampling portable-carry               s/return ah \* bh + (mid >> 32) + (mid2 >> 32);/return ah * bh + (mid >> 32);/
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
for suite in sampling verify; do
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
