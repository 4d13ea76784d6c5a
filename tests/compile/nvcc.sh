#!/bin/sh
# tests/compile/nvcc.sh - both headers under nvcc: without a warning of nvcc or of the host compiler, for every arch,
# in C++17 and 20, with separate compilation and without; no external symbol, no macro outside FA_ and FAI_. Nothing
# is launched: the programs run without a GPU.

cd "$(dirname "$0")/../.." || exit 1
nvcc=${NVCC:-nvcc} here=tests/compile out=build/compile/nvcc
host='-Xcompiler -Wall,-Wextra,-Wshadow,-Wconversion,-Werror'
warn="-Werror all-warnings $host"
rm -rf "$out"
mkdir -p "$out"
number=0 passed=0 failed=0

check() { # name, command ...
    name=$1 number=$((number + 1))
    shift
    if "$@" >"$out/log" 2>&1; then
        passed=$((passed + 1))
        echo "ok $number - $name"
    else
        failed=$((failed + 1))
        echo "not ok $number - $name"
        printf '#     %s\n' "$*"
        sed 's/^/#     /' "$out/log" | head -n 12
    fi
}

object() { # source, options ...
    source=$1
    shift
    $nvcc $warn -I. -c "$here/$source.cu" -o "$out/$source.o" "$@"
}
links() { $nvcc "$@" -o "$out/program" && "$out/program"; }
# External symbols other than those of the test itself and inline functions of C++ and CUDA.
no_symbols() { ! nm -g --defined-only "$out/$1.o" | grep -vE ' (main|.*alone_ok.*|.*unit_b_head_dim.*|DW\.ref\..*|_ZSt.*|_ZN4dim3.*)$'; }
# Macros that $1 leaves defined by the headers, in the host pass, from the line markers of -dD.
macros() {
    $nvcc -std=c++17 -arch=sm_80 -DCUDA_ONLY -I. -E -Xcompiler -dD "$here/$1.cu" | awk '
        /^# [0-9]+ "/ { ours = $3 ~ /flashattn(\.h|_cuda\.cuh)"$/ }
        ours && $1 == "#define" { sub(/\(.*/, "", $2); defined[$2] = 1 }
        $1 == "#undef" { delete defined[$2] }
        END { for (name in defined) print name }' | sort
}
no_leak() { macros cuda_three >"$out/three" && grep -q '^FA_' "$out/three" && ! grep -vE '^FAI?_' "$out/three"; }
same_macros() { macros cuda_a >"$out/one" && diff "$out/one" "$out/three"; }

for std in c++17 c++20; do
    check "alone, $std" object cuda_alone -std=$std -arch=sm_80
    check "alone, $std, no external symbol" no_symbols cuda_alone
    check "three instances, $std" object cuda_three -std=$std -arch=sm_80
    check "three instances, $std, no external symbol" no_symbols cuda_three
    check "three instances, $std, are what was asked for" links -arch=sm_80 "$out/cuda_three.o"
done
check 'three instances, -O0 -G' object cuda_three -std=c++17 -arch=sm_80 -O0 -G
check 'one instance, -O3' object cuda_a -std=c++17 -arch=sm_80 -O3
check 'no macro outside FA_ and FAI_' no_leak
check 'three instances leave the same macros as one' same_macros

# units $1 .. with the options after them
units() { object cuda_a "$@" && object cuda_b "$@" && links "$@" "$out/cuda_a.o" "$out/cuda_b.o"; }
check 'two units with instances of one name' units -arch=sm_80
check 'two units, -rdc=true' units -arch=sm_80 -rdc=true
check 'two units, a default stream per thread' units -arch=sm_80 --default-stream per-thread

for arch in 80 86 89 90 90a 100 120; do
    check "sm_$arch" object cuda_a -gencode arch=compute_$arch,code=sm_$arch
done
for arch in 80 90a 100 120; do
    check "sm_$arch, all passes and the cache calls" object cuda_passes -gencode arch=compute_$arch,code=sm_$arch
done
check 'all passes, no external symbol' no_symbols cuda_passes
check 'all passes are there' links "$out/cuda_passes.o"
for arch in 80 90a; do
    check "sm_$arch, the CPU's helpers in a kernel" object kernel -gencode arch=compute_$arch,code=sm_$arch
done
check 'PTX alone' object cuda_a -gencode arch=compute_80,code=compute_80
fat='-gencode arch=compute_80,code=sm_80 -gencode arch=compute_90,code=[sm_90,compute_90]'
# shellcheck disable=SC2086  # words
check 'one binary for sm_80, sm_90 and later' units $fat
# shellcheck disable=SC2086
check 'one binary for sm_80, sm_90 and later, -rdc=true' units $fat -rdc=true

# three times what is wanted: of what else runs here, nothing is known
check 'time to compile' sh bench/compile_time.sh --quick --factor 3
sed 's/^/# /' "$out/log"

echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" = 0 ]
