#!/bin/sh
# tests/mutants.sh [pattern] - can the tests fail?  Breaks flashattn.h in one line, many times over, and expects a
# suite to notice each time.  Prints a table; the exit status is 0 if every mutant was killed.  Takes about half an hour.
#
# A mutant is a line of the list: the suite that should kill it (the others are tried after it), a name, a sed command.
# A command that no longer changes anything is an error: the kernel was rewritten, and the mutant has to follow.
#
# Not in the list, since nothing changes but speed or order: the order of tasks in _run_task; prefetches; runs that end
# early in visit; PLAIN where MASKED or CHANGED is right as well; zero rows behind the last key, which are masked;
# the 64 bytes for a worker's alignment, which the scores of few rows could spare.

cd "$(dirname "$0")/.." || exit 1
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' INT TERM
log=build/mutants.log
mkdir -p build
: >"$log"
export FA_TEST_SCALE=quick
killed=0 survived=0 broken=0

list() {
    cat <<'END'
test_layout   causal-one-key-more         s/if (a->causal && p + 1 < hi) hi = p + 1;/if (a->causal \&\& p + 2 < hi) hi = p + 2;/
test_layout   window-one-key-more         s/if (a->window_left && p - a->window_left + 1 > lo) lo = p - a->window_left + 1;/if (a->window_left \&\& p - a->window_left > lo) lo = p - a->window_left;/
test_layout   page-of-next-key            s|+ j % a->page_size \* st.s|+ (j + 1) % a->page_size * st.s|
test_convert  philox-of-reference-9       s/for (int round = 0; round < 10; round++) {/for (int round = 0; round < 9; round++) {/
test_forward  rows-past-seqused           s/if (a->seqused_q) s.len_q = a->seqused_q\[b\];//
test_features first-key-lost              s/(lanes->lo <= j) &/(lanes->lo < j) \&/
test_features masked-first-key-lost       s/(p->lanes\[v\].lo <= j0 + i)/(p->lanes[v].lo < j0 + i)/
test_forward  masked-key-past-the-end     s/(p->lanes\[v\].hi > j0 + i)/(p->lanes[v].hi >= j0 + i)/
test_forward  plain-where-not-all-see     s/j + MR <= p->all.hi/j <= p->all.hi/
test_forward  vector-0-leaves-early       s/if (lane < FAI_VL && keys.hi > p->hi0) p->hi0 = keys.hi;/if (lane < 1 \&\& keys.hi > p->hi0) p->hi0 = keys.hi;/
test_numerics m-never-moves               s/over |= sum\[v\] > p->limit\[v\];/over |= (sum[v] >= fai_splat(0)) \& (p->limit[v] < fai_splat(0));/
test_numerics l-not-rescaled              s/p->m\[v\] = m, p->l\[v\] \*= factor;/p->m[v] = m;/
test_numerics o-not-rescaled              s/for (int c = 0; c < DV; c++) ot\[c \* NV + v\] \*= factor;//
test_numerics p-not-rescaled              s/^\( *\)\*pt \*= factor;/\1(void)pt;/
test_numerics digits-lost-far-from-m      s/if (MODE != FAI_CHANGED && fai_any(/if (0 \&\& fai_any(/
test_numerics few-m-never-moves           s/if (FAI_UNLIKELY(fai_any(sum > fai_splat(f->limit\[r\])))) {/if (f->limit[r] < 0) {/
test_numerics infinite-rows-stay          s/if (bad\[r\] && inverse\[r\] == inverse\[r\])/if (bad[r] \&\& inverse[r] != inverse[r])/
test_numerics exp2-third-digit            s/2.4016445e-1f/2.4116445e-1f/; s/2.40222421e-1f/2.41222421e-1f/
test_forward  tail-of-k-not-staged        s|t->tile + (end - t->tile) / FAI_MR \* FAI_MR, end|end, end|
test_forward  last-key-of-v-not-staged    s/for (int32_t j = t->tile; j < end; j++) {/for (int32_t j = t->tile; j < end - 1; j++) {/
test_forward  last-key-of-tile-dropped    s/stop = j < tile_end ? j : tile_end, row/stop = j < tile_end ? j : tile_end - 1, row/
test_forward  paged-read-as-rows          s/FA_KV_DTYPE == FA_F32 && !a->block_table && t->sk.s/FA_KV_DTYPE == FA_F32 \&\& t->sk.s/
test_features q-descale-of-row-0          s/fai_descale(a, &a->q_descale, t->seq.b, h, i)/fai_descale(a, \&a->q_descale, t->seq.b, h, 0)/
test_features k-descale-of-head-0         s/fai_descale(a, &a->k_descale, t->seq.b, t->head_k, j)/fai_descale(a, \&a->k_descale, t->seq.b, 0, j)/
test_features philox-of-kernel-9          s/for (int round = 0; round < 10; round++, k0/for (int round = 0; round < 9; round++, k0/
test_features dropout-scale-missing       s/pt\[r \* FAI_NV + v\] \* t->drop_scale/pt[r * FAI_NV + v]/
test_features few-dropout-wrong-word      s/c\[(j\[l\] & 7) >> 1\]\[l\]/c[(j[l] \& 3) >> 1][l]/
test_features block-mask-stale-column     s/if (column != p->column) {/if (column > p->column + 1 || p->column < 0) {/
test_features sink-not-in-lse             s/l = l > 0 ? l \* factor + exp2(sink - top) : l + 1, m = top;/l = l > 0 ? l * factor : l + 1, m = top;/
test_features softcap-missing             s/const fai_vec x = fai_tanh(s \/ cap);/const fai_vec x = s \/ cap;/
test_features alibi-not-bottom-right      s/lanes->pos\[lane\] = i + t->seq.len_k - t->seq.len_q;/lanes->pos[lane] = i;/
test_features bias-of-first-lane-s-head   s/lanes->h\[l\] \* t->sb.h/lanes->h[0] * t->sb.h/
test_features score-mod-in-log2-units     s/FA_(score_mod_f)(s\[l\] \* FAI_LN2,/FA_(score_mod_f)(s[l],/
test_forward  group-index                 s/h = t->head_k \* t->group + (int32_t)(r % t->group);/h = t->head_k + (int32_t)(r % t->group);/
test_forward  few-edges-not-masked        s/ || at + FAI_VL > f->keys\[r\].hi) {/) {/
test_forward  few-last-dims-lost          s/    if (VECTORS % N) FAI_/    if (VECTORS % N > N) FAI_/
test_forward  workspace-not-aligned       s/(uintptr_t)workspace + 63) & ~(uintptr_t)63/(uintptr_t)workspace + 3) \& ~(uintptr_t)3/
test_features key-past-the-end            s/(lanes->hi > j);/(lanes->hi >= j);/
test_numerics few-o-not-rescaled          s/\*(fai_vec_u \*)(f->o + r \* DV + d) \*= factor;/(void)d;/
test_decode   split-loses-a-key           s/hi = lo + each < r.hi ? lo + each : r.hi;/hi = lo + each < r.hi ? lo + each - 1 : r.hi;/
test_decode   merge-without-weights       s/factor = exp2f(part\[DV\] - m);/factor = exp2f((part[DV] - m) * 0);/
test_decode   empty-split-counts          s/if (part\[DV + 1\] == 0) continue;//
test_decode   factors-of-first-head       s/fai_descale_at(t->args, d, t->seq.b, head_k, j);/fai_descale_at(t->args, d, t->seq.b, t->head_k, j);/
test_forward  wrong-softmax-scale         s/: 1 \/ sqrtf((float)FA_HEAD_DIM));/: 1 \/ sqrtf((float)FA_HEAD_DIM + 1));/
test_features block-mask-not-whole        s|whole = (j + MR - 1) / t->args->block_mask.block_k == p->column|whole = 1|
test_backward grad-dq-not-scaled          s/fai_store(FA_DTYPE, a->dq.data, to + c \* FAI_VL, x\[c\] \* scale)/fai_store(FA_DTYPE, a->dq.data, to + c * FAI_VL, x[c])/
test_backward grad-d-not-subtracted       s/(acc\[i\]\[v\] - g->sum\[r + i\])/(acc[i][v])/
test_backward grad-first-key-lost         s/(j >= g->lo\[r + i\])/(j > g->lo[r + i])/
test_backward grad-key-past-the-end       s/(j < g->hi\[r + i\])/(j <= g->hi[r + i])/
test_backward grad-gap-not-cleared        s/for (; end < row; end++) memset/for (; end < 0; end++) memset/
test_backward grad-rows-not-touched       s/touched\[0\] = begin < 0 ? 0 : begin, /touched[0] = 0, /
test_backward grad-adds-to-nothing        s/FAI_(grad_meet)(g, row, rows, row >= end)/FAI_(grad_meet)(g, row, rows, 0)/
test_backward grad-softcap-slope          s/slope\[0\] = 1.0f - x \* x/slope[0] = fai_splat(1)/
test_backward grad-dropout-not-in-dp      s/^            if (dropped) acc\[i\]\[v\] \*= z\[i \* NV + v\];//
test_backward grad-nan-of-q-spreads       s/dst, c, fai_select(finite, x, fai_splat(0)));/dst, c, x), (void)finite;/
test_backward grad-nan-of-k-spreads       s/x\[n\] = fai_select(x\[n\] - x\[n\] == fai_splat(0), x\[n\], fai_splat(0));//
test_backward grad-sink-sign              s/if (d != 0) sum -= exp2/if (d != 0) sum += exp2/
test_backward grad-narrow-too-wide        s/} else if (hi <= j0 + FAI_VL) {/} else if (hi <= j0 + FAI_VL + 1) {/
test_backward grad-bias-of-first-keys     s/g->sdb.s + j0;/g->sdb.s;/
test_backward grad-group-of-one           s/h = h0 + (int32_t)((row0 + first) % g->t.group);/h = h0;/
test_backward grad-last-split-lost        s/for (int32_t n = 0; n < plan->splits; n++) {/for (int32_t n = 0; n < plan->splits - (plan->splits > 1); n++) {/
test_backward grad-half-hidden-is-seen    s/return any ? any + 2 \* all : 0;/return any ? 3 : 0;/
test_cache    rope-sine-sign              s/re\[i\] = (float)(a \* c - b \* s)/re[i] = (float)(a * c + b * s)/
test_cache    factor-stays-behind         s/target.factor\[h \* s->factor_step\] = source.factor\[h \* s->factor_step\];/(void)0;/
END
}

# Is suite $1 still right with $dir/flashattn.h?  A mutant that does not compile, hangs or crashes is noticed as well.
passes() {
    ${CC:-cc} -std=c11 -O2 -march=native -w -DFA_TEST_CORE -I"$dir" -Itests -o "$dir/$1" "tests/$1.c" -lm -pthread \
        >>"$log" 2>&1 || return 2
    timeout 120 "$dir/$1" >>"$log" 2>&1
}

# The first of the suites that notices, or nothing.
killer() {
    for suite; do
        passes "$suite"
        case $? in
        0) ;;
        2) echo 'does not compile' && return ;;
        *) echo "$suite" && return ;;
        esac
    done
}

cp flashattn.h "$dir/original.h"
cp flashattn.h "$dir/flashattn.h"
by=$(killer test_features test_numerics test_forward test_backward test_decode test_cache test_layout test_convert)
[ -z "$by" ] || { echo "mutants.sh: $by fails without any mutant; see $log" >&2 && exit 1; }

list | awk -v only="$1" '$2 ~ only' >"$dir/list"
while read -r suite name command; do
    sed "$command" "$dir/original.h" >"$dir/flashattn.h"
    printf '%-28s ' "$name"
    echo "=== $name" >>"$log"
    if cmp -s "$dir/original.h" "$dir/flashattn.h"; then
        echo 'DOES NOT APPLY' && broken=$((broken + 1)) && continue
    fi
    by=$(killer "$suite" $(echo test_features test_numerics test_forward | sed "s/$suite//"))
    [ -n "$by" ] || by=$(FA_TEST_SCALE=full killer test_features "$suite") # all their cases, not a choice of them
    case $by in
    '') echo 'SURVIVED' && survived=$((survived + 1)) ;;
    'does not compile') echo 'DOES NOT COMPILE' && broken=$((broken + 1)) ;;
    *) echo "killed by $by" && killed=$((killed + 1)) ;;
    esac
done <"$dir/list"

echo "$killed killed, $survived survived, $broken no longer apply"
[ "$survived" = 0 ] && [ "$broken" = 0 ] && [ "$killed" -gt 0 ]
