#!/bin/sh
# tests/ptx/mutants.sh [pattern] - does the machine find planted bugs?  Breaks the kernels of kernels/ in one
# line, many times over, and expects each to be caught by one of the schedules lazy, 1 and 2: by a finding,
# by a wrong result, by counts that are not what they should be. The kernels as they are have to pass.
# Prints a table: what each schedule says (F finding, R wrong result or counts, T no end, . nothing) and the
# first message. Then it breaks the machine itself where it judges proxies and the like, and expects
# test_findings to notice. Takes about two minutes.
#
# A mutant is a line of the list: kernel, name, sed command. A command that no longer changes anything is an
# error: the kernel was rewritten, and the mutant has to follow. All are compiled at once, each in a
# namespace of its own. Of the machine: a part in place of the kernel, and each is a program of its own.

cd "$(dirname "$0")/../.." || exit 1
dir=build/ptx/mutants
log=$dir/log
rm -rf "$dir"
mkdir -p "$dir"
killed=0 survived=0

list() {
    cat <<'END'
forward_sm80  wait-too-weak-k          s/copy_wait<1>(); *\/\/ K of/copy_wait<2>(); \/\/ K of/
forward_sm80  wait-too-weak-v          s/copy_wait<1>(); *\/\/ V of/copy_wait<2>(); \/\/ V of/
forward_sm80  no-wait-k                /copy_wait<1>(); *\/\/ K of/d
forward_sm80  no-wait-v                /copy_wait<1>(); *\/\/ V of/d
forward_sm80  no-commit                /tile + 1 < tiles) T::load(sk/{n;d}
forward_sm80  no-barrier-k             /nobody reads the other stage of K/d
forward_sm80  no-barrier-v             /nobody reads the other stage of V/d
forward_sm80  barrier-of-half-the-cta  s/__syncthreads(); *\/\/ the copies of all threads; nobody reads the other stage of K/if (warp < 4) &/
forward_sm80  no-syncwarp              /__syncwarp(); *\/\/ the rows of all lanes/d
forward_sm80  row-maximum-of-2-lanes   s/__shfl_xor_sync(~0u, m, 2)/__shfl_xor_sync(~0u, m, 1)/
forward_sm80  v-not-transposed         s/ldmatrix_x4_trans(/ldmatrix_x4(/
forward_sm80  fragments-of-a-swapped   s/fq\[c\]\[0\], fq\[c\]\[1\], fq\[c\]\[2\]/fq[c][0], fq[c][2], fq[c][1]/
forward_sm80  fragments-of-b-swapped   s/fq\[c\]\[3\], b\[0\], b\[1\]/fq[c][3], b[1], b[0]/
forward_sm80  one-stage                s/stage = (tile & 1) \* T::STAGE/stage = 0/
forward_sm80  stages-overlap           s/V = K + 2 \* STAGE/V = K + STAGE/
forward_sm80  not-swizzled             s/(chunk ^ (row & 7)) << 4/chunk << 4/
forward_sm80  rows-past-the-end-read   s/(row < valid ? row : 0)/row/; s/chunk \* 8, row < valid/chunk * 8, true/
forward_sm80  row-past-the-end-stored  s/if (row0 + r < n)/if (row0 + r <= n)/
forward_sm80  key-past-the-end         s/key >= n/key > n/
forward_sm90  no-wait-first-s          /wgmma_wait<0>(); *\/\/ first S/d
forward_sm90  no-wait-s                /wgmma_wait<1>(); *\/\/ S/d
forward_sm90  wait-too-weak-s          s/wgmma_wait<1>(); *\/\/ S/wgmma_wait<2>();/
forward_sm90  no-wait-o                /wgmma_wait<0>(); *\/\/ O/d
forward_sm90  no-wait-last-o           /wgmma_wait<0>(); *\/\/ last O/d
forward_sm90  no-wgmma-fence-first     /mbarrier_wait(T::k_full(bars, 0), 0);/{n;d}
forward_sm90  no-wgmma-fence           /mbarrier_wait(T::v_full(bars, before)/{n;d}
forward_sm90  no-wgmma-fence-last      /mbarrier_wait(T::v_full(bars, stage), (tiles/{n;d}
forward_sm90  p-packed-too-early       /^        T::pack(p, s);/d; s/^ *wgmma_wait<0>(); *\/\/ O:/T::pack(p, s); &/
forward_sm90  v-freed-too-early        /mbarrier_arrive(T::v_empty/d; s/^ *wgmma_wait<0>(); *\/\/ O:/if (thread == 0) mbarrier_arrive(T::v_empty(bars, before)); &/
forward_sm90  no-barrier-after-init    /__syncthreads(); *\/\/ all see the barriers/d
forward_sm90  no-fence-after-init      /fence_mbarrier_init();/d
forward_sm90  no-proxy-fence           /^    fence_proxy_async(); *\/\/ the writes above/d
forward_sm90  proxy-fence-of-1-thread  s/^    fence_proxy_async(); *\/\/ the writes above/    if (thread == 0) &/
forward_sm90  no-barrier-before-store  /barrier_sync(1 + half, 128);/d
forward_sm90  one-barrier-for-both     s/barrier_sync(1 + half, 128)/barrier_sync(1, 128)/
forward_sm90  barrier-count            s/barrier_sync(1 + half, 128)/barrier_sync(1 + half, 256)/
forward_sm90  no-wait-before-exit      /bulk_wait_read();/d
forward_sm90  no-commit-of-store       /bulk_commit();/d
forward_sm90  no-wait-q                /mbarrier_wait(q_full, 0);/d
forward_sm90  no-wait-first-k          /mbarrier_wait(T::k_full(bars, 0), 0);/d
forward_sm90  no-wait-k                /mbarrier_wait(T::k_full(bars, stage)/d
forward_sm90  no-wait-v                /mbarrier_wait(T::v_full(bars, before)/d
forward_sm90  no-wait-last-v           /mbarrier_wait(T::v_full(bars, stage), (tiles/d
forward_sm90  parity-always-0          s/mbarrier_wait(T::k_full(bars, stage), tile .*;/mbarrier_wait(T::k_full(bars, stage), 0);/
forward_sm90  parity-always-1          s/mbarrier_wait(T::k_full(bars, stage), tile .*;/mbarrier_wait(T::k_full(bars, stage), 1);/
forward_sm90  parity-of-empty          s/(tile \/ T::STAGES & 1) ^ 1/tile \/ T::STAGES \& 1/
forward_sm90  no-wait-for-empty        /mbarrier_wait(T::k_empty/d
forward_sm90  k-never-freed            /mbarrier_arrive(T::k_empty(bars, stage))/d
forward_sm90  v-never-freed            /mbarrier_arrive(T::v_empty/d
forward_sm90  freed-by-all-threads     s/if (thread == 0) mbarrier_arrive(T::k_empty(bars, stage))/mbarrier_arrive(T::k_empty(bars, stage))/
forward_sm90  empty-count-1            s/T::k_empty(bars, i), 2)/T::k_empty(bars, i), 1)/
forward_sm90  empty-count-3            s/T::k_empty(bars, i), 2)/T::k_empty(bars, i), 3)/
forward_sm90  full-count-2             s/T::k_full(bars, i), 1)/T::k_full(bars, i), 2)/
forward_sm90  no-expect                /mbarrier_arrive_expect(bar, TILE);/d
forward_sm90  arrive-without-expect    s/mbarrier_arrive_expect(bar, TILE)/mbarrier_arrive(bar)/
forward_sm90  expect-half              s/mbarrier_arrive_expect(bar, TILE)/mbarrier_arrive_expect(bar, TILE \/ 2)/
forward_sm90  expect-rows-that-exist   s/mbarrier_arrive_expect(bar, TILE)/mbarrier_arrive_expect(bar, row == 384 ? (450 - 384) * D * 2 : TILE)/
forward_sm90  coordinates-swapped      s/map, bar, p \* 64, row, blockIdx.y/map, bar, row, p * 64, blockIdx.y/
forward_sm90  one-stage                s/shared + T::K + stage \* T::TILE, /shared + T::K, /
forward_sm90  k-stride                 s/PANEL + c % 4 \* 32, 16, ATOM_BYTES)/PANEL + c % 4 * 32, 16, ATOM_BYTES \/ 2)/
forward_sm90  v-leading-dimension      s/descriptor(v + c \* 16 \* 128, PANEL,/descriptor(v + c * 16 * 128, PANEL \/ 2,/
forward_sm90  k-swizzle-64-bytes       s/descriptor(k + /(3ull << 62) ^ descriptor(k + /
forward_sm90  v-not-transposed         s/wgmma_registers<1>/wgmma_registers<0>/
forward_sm90  too-many-registers       s/registers_up<240>/registers_up<248>/
forward_sm90  registers-of-one-warp    s/registers_down<24>()/if (threadIdx.x < 32) registers_down<24>()/
forward_sm90  loads-of-all-lanes       s/threadIdx.x < 32 && elect_one()/threadIdx.x < 32/
forward_sm90  heads-share-lse          s/\[row + 8 \* h + blockIdx.y \* n\]/[row + 8 * h]/
forward_sm90  lse-past-the-end         s/row + 8 \* h < n)/row + 8 * h <= n)/
forward_sm90  key-past-the-end         s/key >= n/key > n/
decode        no-grid-wait             /grid_wait(); *\/\//d
decode        grid-wait-too-late       /grid_wait(); *\/\//d; s/^    float query\[/    grid_wait(); &/
decode        no-fence-after-init      /fence_mbarrier_init();/d
decode        no-syncwarp-after-init   /__syncwarp(); *\/\/ all see/d
decode        no-wait-page             /mbarrier_wait(/d
decode        parity                   s/visit \/ STAGES & 1)/visit \& 1)/
decode        expect-whole-pages       s/mbarrier_arrive_expect(bar, 2 \* bytes)/mbarrier_arrive_expect(bar, 4 * PAGE * D)/
decode        whole-pages              s/bytes = min(length - i \* PAGE, PAGE)/bytes = PAGE/
decode        key-past-the-end         s/j < keys; j++/j <= keys; j++/
decode        next-page-of-the-table   s/pages_per_sequence + i\]/pages_per_sequence + i + 1]/
decode        no-proxy-fence           /fence_proxy_async(); *\/\/ the reads/d
decode        no-syncwarp              /__syncwarp(); *\/\/ of all lanes/d
decode        row-sum-of-16-lanes      s/int d = 16; d > 0/int d = 8; d > 0/
decode        no-barrier-of-warps      /__syncthreads(); *\/\/ results of all warps/d
decode        no-cluster-barrier       /cluster_sync(); *\/\/ both results/d
decode        no-cluster-barrier-exit  /cluster_sync(); *\/\/ the neighbour/d
decode        own-result-twice         s/shared_address(of_cta.value), 1)/shared_address(of_cta.value), 0)/
decode        no-fence-before-count    /__threadfence(); *\/\/ this thread/d
decode        no-barrier-before-count  /__syncthreads(); *\/\/ of all threads/d
decode        no-barrier-after-count   /__syncthreads(); *\/\/ is_last/d
decode        no-fence-after-count     /__threadfence(); *\/\/ the count/d
decode        count-not-atomic         s/atomicAdd(&counter\[row\], 1)/counter[row]++/
decode        count-not-reset          /counter\[row\] = 0;/d
END
}

machine() {
    cat <<'END'
checks  cp-async-is-exempt        s/(r->flags & PROXY_BITS) != ASYNC_PROXY/(r->flags \& PROXY_BITS) == GENERIC_PROXY/
checks  no-fence-is-needed        s/return visible ? ORDERED : NOT_FENCED/return ORDERED/
checks  no-fence-behind-reads     s/!v->async || !generic/& || !(r->flags \& IS_WRITE)/
checks  fence-of-the-other-space  s/v->cta ? FENCED_SHARED : FENCED_GLOBAL/v->cta ? FENCED_GLOBAL : FENCED_SHARED/
checks  atomics-of-two-proxies    s/ && generic != v->async) return/) return/
checks  constant-although-ordered s/ || v->a->constant) return false/) return false/
checks  constant-if-nobody-writes s/if (v->a->constant) return NOT_CONSTANT;//
memory  nc-is-like-any-other      s/in->aux\[0\] ? READS | CONSTANT : READS/READS/
async   phases-need-no-wait       s/if (b->observed < b->phase) {/if (0) {/
async   phases-need-two-waits     s/if (b->observed < b->phase) {/if (b->phase > b->first) {/
order   waiting-is-fencing        s/{ clock_learn(&k->seen, actor, time)/{ clock_learn(\&k->fenced[0], actor, time), clock_learn(\&k->seen, actor, time)/
order   arrival-is-fencing        s/    clock_learn_lanes(&k->seen, actor, lanes, time)/    clock_learn_lanes(\&k->fenced[0], actor, lanes, time); &/
order   fence-of-all-spaces       s/if (spaces >> i & 1)/if (spaces)/
order   fence-of-own-writes-only  s/clock_join(&k->fenced\[i\], &k->seen), //
order   fence-of-others-only      s/, hand_on_own(w, m, &k->fenced\[i\])//
order   fences-are-not-published  /clock_join(&k->published_fenced/d
order   fences-are-not-found      s/clock_join(&k->fenced\[i\], &k->pending_fenced\[i\]), //
memory  global-covers-shared      s/(global ? 0 : 1 << FENCED_SHARED)/1 << FENCED_SHARED/
memory  shared-covers-global      s/(shared ? 0 : 1 << FENCED_GLOBAL)/1 << FENCED_GLOBAL/
memory  init-fence-covers-data    s/ptx_mbarrier_init_fence(w, m);/& ptx_proxy_fence(w, m, 3);/
async   init-fence-does-nothing   s/b->init_fenced = w->fence_at/b->init_fenced = 0/
async   init-fence-of-any-lane    s/ && m >> b->init.lane & 1//
async   init-fence-outlives-inval s/, b->init_fenced = 0;/;/
async   st-async-is-of-the-proxy  s/VALUE ? GENERIC_LATER/VALUE ? ASYNC_PROXY/
END
}

# one directory per mutant; mutants.inc includes them all and lists their kernels
n=0
includes= table=
while read -r kernel name command; do
    case $kernel/$name in *$1*) ;; *) continue ;; esac
    file=$kernel.cuh
    [ "$kernel" = decode ] && file=decode_sm90.cuh
    mkdir -p "$dir/m$n"
    sed "$command" "tests/ptx/kernels/$file" >"$dir/m$n/$file"
    if cmp -s "tests/ptx/kernels/$file" "$dir/m$n/$file"; then
        echo "$kernel $name: the command changes nothing" >&2
        exit 1
    fi
    echo "namespace m$n {" && echo "#include \"m$n/$file\"" && echo "}"
    echo "$n $kernel $name" >>"$dir/names"
    case $kernel in
    forward_sm80) table="$table {{0, (const void *)m$n::forward_sm80<128>}}," ;;
    forward_sm90) table="$table {{0, 0}, {0, (const void *)m$n::forward_sm90<128>}}," ;;
    decode)
        append="(const void *)m$n::append_sm90<128>" decode="(const void *)m$n::decode_sm90<128>"
        table="$table {{0, 0}, {0, 0}, {0, $append}, {0, $decode}},"
        ;;
    esac
    n=$((n + 1))
    echo "$table" >"$dir/table"
done <<END >"$dir/mutants.inc"
$(list)
END
while read -r part name command; do
    case machine/$name in *$1*) ;; *) continue ;; esac
    mkdir -p "$dir/machine/$name"
    sed "$command" "tests/ptx/$part.c" >"$dir/machine/$name/$part.c"
    if cmp -s "tests/ptx/$part.c" "$dir/machine/$name/$part.c"; then
        echo "machine $name: the command changes nothing" >&2
        exit 1
    fi
    echo "$part $name" >>"$dir/machine/names"
done <<END
$(machine)
END
make -s build/libfa_ptx.a || exit 1
nvcc="${NVCC:-nvcc} -O3 -lineinfo -cudart none -no-compress -gencode arch=compute_90a,code=compute_90a
    -I. -Itests -Itests/ptx"
export FA_TEST_SCALE=quick

if [ -s "$dir/machine/names" ]; then
    printf '%-8s %-25s %-6s%-5s%-3s %s\n' part mutant order lazy 1 'first test that notices'
    $nvcc -c -o "$dir/machine/test.o" tests/ptx/test_findings.cu || exit 1
    mkdir -p "$dir/machine/parts" && (cd "$dir/machine/parts" && ar x ../../../../libfa_ptx.a) || exit 1
    while read -r part name; do
        here=$dir/machine/$name
        mkdir "$here/parts" && cp "$dir"/machine/parts/*.o "$here/parts" || exit 1
        ${CC:-cc} -std=gnu11 -O1 -Itests/ptx -isystem /usr/local/cuda/include -c -o "$here/parts/$part.o" \
            "$here/$part.c" || exit 1
        ${CXX:-c++} -o "$here/test" "$dir/machine/test.o" "$here"/parts/*.o -lm -lpthread || exit 1
        row= message=
        for schedule in order lazy 1; do
            FA_PTX_SCHEDULE=$schedule timeout 100 "$here/test" >"$log" 2>&1 && row="$row ." && continue
            row="$row F"
            [ -n "$message" ] || message=$(sed -n 's/^not ok [0-9]* - //p' "$log" | head -1)
        done
        case $row in *F*) killed=$((killed + 1)) ;; *) survived=$((survived + 1)) ;; esac
        # shellcheck disable=SC2086
        printf '%-8s %-25s %-6s%-5s%-3s %.120s\n' "$part" "$name" $row "$message"
    done <"$dir/machine/names"
fi

end() {
    echo "$killed killed, $survived survived"
    [ "$killed$survived" != 00 ] || echo "no mutant is called $1" >&2
    [ "$survived" = 0 ] && [ "$killed" != 0 ]
    exit
}
[ -s "$dir/names" ] || end "$1"
echo "static const Kernels mutants[] = {$(cat "$dir/table")};" >>"$dir/mutants.inc"

$nvcc -Itests/ptx/kernels -I"$dir" -DMUTANTS='"mutants.inc"' \
    -o "$dir/test" tests/ptx/test_kernels.cu build/libfa_ptx.a -lm -lpthread || exit 1

for schedule in order lazy 1 2; do
    if ! FA_PTX_SCHEDULE=$schedule timeout 300 "$dir/test" --filter d128 >"$log" 2>&1; then
        echo "the kernels as they are fail with FA_PTX_SCHEDULE=$schedule:" >&2
        grep -v '^ok' "$log" >&2
        exit 1
    fi
done

printf '%-13s %-25s %-5s%-3s%-3s %s\n' kernel mutant lazy 1 2 'first message'
while read -r i kernel name; do
    for schedule in lazy 1 2; do
        {
            MUTANT=$i FA_PTX_SCHEDULE=$schedule FA_PTX_LIMIT=20000000 timeout 100 "$dir/test" \
                --filter "${kernel}_d128" >"$log.$schedule" 2>&1
            echo $? >"$log.$schedule.status"
        } &
    done
    wait
    row= message=
    for schedule in lazy 1 2; do
        finding=$(grep '^ptx: ' "$log.$schedule" | head -1)
        case $(cat "$log.$schedule.status"):$finding in
        0:*) row="$row ." ;;
        124:*) row="$row T" ;;
        *:) row="$row R" finding=$(grep '^# ' "$log.$schedule" | head -1) ;;
        *) row="$row F" ;;
        esac
        [ -n "$message" ] || message=$finding
    done
    case $row in *F* | *R*) killed=$((killed + 1)) ;; *) survived=$((survived + 1)) ;; esac
    # shellcheck disable=SC2086
    printf '%-13s %-25s %-5s%-3s%-3s %.120s\n' "$kernel" "$name" $row "$message"
done <"$dir/names"
end "$1"
