#!/bin/sh
# run_cpu.sh - builds the CPU benchmark and the peers that are installed, and runs it for 1 and for all threads.
#
#     bench/run_cpu.sh [--quick] [--filter TEXT] [--threads "1 2"]      (make bench-cpu)
#
# --filter: part of a line such as " f32 d128 2048x2048 causal plain" (as shown while it runs).
# CC, BENCH_CFLAGS, PYTHON (one that can import torch) and OPENBLAS_CORETYPE may be set.  All figures go to
# build/bench/cpu.csv.
set -eu
cd "$(dirname "$0")/.."

out=build/bench
CC=${CC:-cc}
BENCH_CFLAGS=${BENCH_CFLAGS:--O2 -march=native -fopenmp}
PYTHON=${PYTHON:-python3}
all=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
threads=1
[ "$all" -eq 1 ] || threads="1 $all"
options=
filter=
while [ $# -gt 0 ]; do
    case $1 in
    --quick) options=--quick ;;
    --filter) filter=$2 && shift ;;
    --threads) threads=$2 && shift ;;
    *) echo "usage: bench/run_cpu.sh [--quick] [--filter TEXT] [--threads \"1 2\"]" >&2 && exit 2 ;;
    esac
    shift
done
mkdir -p "$out"

# Is $1 missing, older than one of the files after it, or built otherwise than by $command?
stale() {
    target=$1
    shift
    [ ! -f "$target" ] || [ "$(cat "$target.cmd" 2>/dev/null)" != "$command" ] ||
        [ -n "$(find "$@" -newer "$target")" ]
}

build() { # target, command, sources
    target=$1
    command=$2
    shift 2
    if stale "$target" "$@"; then
        echo "$command" >&2
        rm -f "$target"
        $command && echo "$command" >"$target.cmd"
    fi
}

# ---- ours: one object per dtype, two compilers at a time ----
warn="-std=c11 -Wall -Wextra"
object() { # name, dtype
    build "$out/kernels_$1.o" "$CC $warn $BENCH_CFLAGS -DBENCH_DTYPE=$2 -DBENCH_LIST=bench_kernels_$1 \
-c bench/bench_kernels.c -o $out/kernels_$1.o" bench/bench_kernels.c flashattn.h
}
object f32 FA_F32 & first=$!
object bf16 FA_BF16
wait $first
object f16 FA_F16 & first=$!
object e4m3 FA_E4M3
wait $first
flags=$(echo "$BENCH_CFLAGS" | tr ', ' ';_')
build "$out/bench_cpu" "$CC $warn $BENCH_CFLAGS -DBENCH_FLAGS=\"$flags\" bench/bench_cpu.c $out/kernels_f32.o \
$out/kernels_bf16.o $out/kernels_f16.o $out/kernels_e4m3.o -o $out/bench_cpu -lm" \
    bench/bench_cpu.c bench/bench.h flashattn.h $out/kernels_f32.o $out/kernels_bf16.o $out/kernels_f16.o \
    $out/kernels_e4m3.o

# ---- peers: each only if it builds or imports ----
set --
gemm_flags="-std=c11 -O3 -march=native -ffast-math -fopenmp"
if build "$out/peer_openblas" "$CC $gemm_flags bench/peer_gemm.c -o $out/peer_openblas -lopenblas -lm" \
    bench/peer_gemm.c bench/bench.h 2>"$out/peer_openblas.log"; then
    # As it comes, OpenBLAS 0.3.21 takes SSE3 kernels on recent Xeons and AVX2 ones on Zen 4 and 5.
    if [ -z "${OPENBLAS_CORETYPE:-}" ] && grep -q avx512bw /proc/cpuinfo 2>/dev/null; then
        core="OPENBLAS_CORETYPE=SKYLAKEX "
        set -- "$@" --peer "openblas-default=exec $out/peer_openblas naive"
    else
        core=
    fi
    set -- "$@" --peer "openblas-naive=${core}exec $out/peer_openblas naive" \
        --peer "openblas-block=${core}exec $out/peer_openblas block"
else
    set -- "$@" --missing "openblas=apt-get install libopenblas-openmp-dev"
fi
if build "$out/peer_onednn" "$CC $gemm_flags -DBENCH_ONEDNN bench/peer_gemm.c -o $out/peer_onednn -ldnnl -lm" \
    bench/peer_gemm.c bench/bench.h 2>"$out/peer_onednn.log"; then
    set -- "$@" --peer "onednn-block=exec $out/peer_onednn block"
else
    set -- "$@" --missing "onednn=apt-get install libdnnl-dev"
fi
torch=
if "$PYTHON" -c "import torch" 2>/dev/null; then
    torch=yes
else
    set -- "$@" --missing "torch=pip install torch, and PYTHON=<that python>"
fi

# ---- run ----
export GOMP_SPINCOUNT=20000 KMP_BLOCKTIME=1 # an idle thread must not spin through the next program's turn
rm -f "$out/cpu.csv"
status=0
for n in $threads; do
    if [ "$torch" ]; then
        "$out/bench_cpu" $options --filter "$filter" --threads "$n" --csv "$out/cpu.csv" "$@" \
            --peer "torch=exec $PYTHON bench/peer_torch.py $n" || status=1
    else
        "$out/bench_cpu" $options --filter "$filter" --threads "$n" --csv "$out/cpu.csv" "$@" || status=1
    fi
done
build "$out/bench_spec" "$CC $warn $BENCH_CFLAGS -I. bench/bench_spec.c -o $out/bench_spec -lm" bench/bench_spec.c \
    bench/bench.h flashattn_spec.h flashattn.h && "$out/bench_spec" --csv "$out/spec.csv" || status=1

# One head, N = 2048: the speed of several threads against that of one.
awk -F, '$6 == "flashattn" && $8 == 128 && $12 == 2048 && $20 > 0 && ($15 == "one-head" || $16 == 1 && $15 == "plain") {
    key = $7 " d 128 N 2048 " $14
    if ($16 == 1) one[key] = $20
    else if (key in one) printf "%s: %d threads are %.2f times as fast as 1\n", key, $16, $20 / one[key]
}' "$out/cpu.csv"
exit $status
