#!/bin/sh
# bench/hopper_cost.sh [head dim ...] - what a warp of the sm_90a forward kernels issues for 64 queries and 128 keys, and
# what each feature adds, counted in the machine code. Needs nvcc, no GPU; nothing here is a measurement of time.
#
# plain: the loop over tiles that no mask cuts, the one for most tiles. masked: the one for the others, and for all tiles
# when a feature below is asked for: along its shortest path, on which a feature that is compiled in is not asked for, and
# all its instructions. A feature costs at most what "all" grows by; masks that ask for each key loop in there.
# e4m3: in fp8, the other rows in bf16. A wgmma takes 32 codes of k in the time of 16 numbers.
# Clocks of one SM for 64 x 128, by published rates: tensor cores, special functions (exp2), issue slots, shared memory.

cd "$(dirname "$0")/.." || exit 2
dir=$(mktemp -d) || exit 2
trap 'rm -rf "$dir"' EXIT
make -s build/ptx/sass || exit 2

row() { # name, head dim, features, other defines
    printf '#define FA_NAME x\n#define FA_HEAD_DIM %s\n#define FA_FEATURES (%s)\n%s\n#include "flashattn_cuda.cuh"\n' \
        "$2" "$3" "$4" >"$dir/k.cu"
    ${NVCC:-nvcc} -O3 -gencode arch=compute_90a,code=sm_90a -I. -cubin -o "$dir/k.cubin" "$dir/k.cu" >"$dir/log" 2>&1 ||
        { cat "$dir/log" >&2 && exit 1; }
    rows=128 # of the usual tile
    [ "$2" -gt 64 ] || case $1 in e4m3 | default | none | *SINK) rows=192 ;; esac
    bytes=2
    [ "$1" != e4m3 ] || bytes=1
    build/ptx/sass "$dir/k.cubin" --loops | awk -v name="$1" -v d="$2" -v usual="$rows" -v bytes="$bytes" '
        function flush() {
            if (!kernel || !n) return
            k = 32 / bytes # a wgmma of Q K for k dims, one of P V for k keys
            keys = k * (wgmma[n] - int(d / k))
            unit = 128 / keys
            rows = kernel == "few" ? 64 : usual
            shared = (rows / 64 * (64 + 2 * keys) + 2 * keys) * d * bytes / 128 * unit * 64 / rows
            # the last loop is the plain one; the masked one is not innermost where keys are asked for one by one, and
            # where the warpgroup mends V itself
            plain = issued[n] * unit
            masked = n == 2 ? sprintf("%.0f", issued[1] * unit) : "-"
            most = n == 2 ? sprintf("%.0f", all[1] * unit) : "-"
            printf "%-18s %4d %-6s %3d x %-4d %6.0f %7s %6s   %6d %6d %6.0f %6.0f\n", name, d, kernel, rows, keys, plain,
                masked, most, 4 * bytes * d, 512, plain, shared
        }
        /^[^ ]/ { flush(); kernel = ""; n = 0; if (match($0, /hopper[a-z_]*kernel/)) {
            kernel = substr($0, RSTART + 6, RLENGTH - 12); gsub(/_/, "", kernel); if (kernel == "") kernel = "usual" } }
        /^  loop/ { n++; split($0, w, " "); issued[n] = w[4]; all[n] = w[7] + 0; wgmma[n] = w[8] }
        END { flush() }'
}

printf '%-18s %4s %-6s %10s %6s %7s %6s   %6s %6s %6s %6s\n' features dim shape tile plain masked all tensor exp2 issue shared
for d in ${*:-64 128 192 256}; do
    row default "$d" FA_DEFAULT_FEATURES
    row none "$d" 0
    row e4m3 "$d" FA_DEFAULT_FEATURES '#define FA_DTYPE FA_E4M3'
    [ "$d" -gt 192 ] && continue
    for f in SINK SOFTCAP ALIBI BIAS DROPOUT BLOCK_MASK TREE_MASK; do row "+ $f" "$d" "FA_$f"; done
    row '+ FA_SCORE_MOD s' "$d" 0 '#define FA_SCORE_MOD(s, b, h, i, j) (s)'
done
