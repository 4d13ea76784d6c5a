#!/bin/sh
# bench/compile_time.sh [--runs N] [--arch SM] [--quick] [--factor F] - what flashattn_cuda.cuh costs at compile time: seconds of
# CPU (user), the least of N (2) runs: an instance by passes, and the header alone over an empty file.
#
# Wanted: 5 s for one pass of an instance, 0.3 s for the header. Exit status 1 if one is F (1) times over that.

cd "$(dirname "$0")/.." || exit 2
runs=2 arch=90 factor=1 dims='64 128 256'
while [ $# -gt 0 ]; do
    case $1 in
    --runs) runs=$2 && shift ;;
    --arch) arch=$2 && shift ;;
    --factor) factor=$2 && shift ;;
    --quick) dims=64 runs=1 ;;
    *) sed -n '2s/^# //p' "$0" >&2 && exit 2 ;;
    esac
    shift
done
dir=$(mktemp -d) || exit 2
trap 'rm -rf "$dir"' EXIT

# Least user seconds of compiling $dir/$1.cu, or nothing if that fails.
seconds() {
    n=0
    while [ $n -lt "$runs" ]; do
        # times: the second line is of the children, m and s; minutes are rare, and counted
        (${NVCC:-nvcc} -O3 -gencode "arch=compute_$arch,code=sm_$arch" -I. -c -o "$dir/k.o" "$dir/$1.cu" >"$dir/log" 2>&1 && times) |
            sed -n '2s/^\([0-9]*\)m\([0-9.]*\)s.*/\1 \2/p' | awk '{ print 60 * $1 + $2 }'
        n=$((n + 1))
    done | sort -n | head -n 1
}

source_of() { # name, lines
    name=$1
    shift
    printf '%s\n' "$@" >"$dir/$name.cu"
}
over=0
judge() { # seconds, limit: sets mark
    mark=$(echo "$1 $2 $factor" | awk '{ print ($1 > $2 * $3 ? "!" : $1 > $2 ? "+" : " ") }')
    [ "$mark" != '!' ] || over=$((over + 1))
}

${NVCC:-nvcc} --version | sed -n 's/^Cuda compilation tools, /nvcc: /p'
source_of empty 'int main() { return 0; }'
source_of alone '#include "flashattn_cuda.cuh"' 'int main() { return fa_strerror(FA_OK) == 0; }'
seconds empty >/dev/null # reads the compiler from disk
empty=$(seconds empty) alone=$(seconds alone)
[ -n "$empty" ] && [ -n "$alone" ] || { cat "$dir/log" >&2 && exit 2; }
header=$(echo "$alone $empty" | awk '{ printf "%.2f", $1 - $2 }')
judge "$header" 0.3
printf 'an empty file %.2f s, with the header %.2f s: %.2f s%s\n\n' "$empty" "$alone" "$header" "$mark"
printf 'one instance for sm_%s, bf16, CPU seconds less those of the empty file:\n' "$arch"
printf '%-26s %8s %8s %8s\n' '' forward backward decode
for dim in $dims; do
    for features in '' FA_ALL_FEATURES; do
        printf '%-26s' "head dim $dim${features:+, all features}"
        for pass in FORWARD BACKWARD DECODE; do
            source_of one '#define FA_NAME a' "#define FA_HEAD_DIM $dim" "#define FA_PASSES FA_$pass" \
                "${features:+#define FA_FEATURES $features}" '#include "flashattn_cuda.cuh"' \
                'int main() { return a_cuda_info.info.head_dim; }'
            s=$(seconds one)
            if [ -z "$s" ]; then
                grep -q '#error.*FA_PASSES' "$dir/log" || { head -n 5 "$dir/log" >&2 && exit 2; }
                printf ' %8s' - # not there
                continue
            fi
            s=$(echo "$s $empty" | awk '{ printf "%.2f", $1 - $2 }')
            judge "$s" 5
            printf ' %7s%s' "$s" "$mark"
        done
        echo
    done
done
[ "$over" = 0 ] || echo "$over too slow, by a factor of $factor or more"
[ "$over" = 0 ]
