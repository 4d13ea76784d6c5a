#!/bin/sh
# tests/run.sh [suite ...] - runs the suites (default: all) and sums up. Logs: build/log/.
#
#   native base avx2 dot dispatch clang cxx asan tsan arm   tests/test_*.c, built in these ways (Makefile, VARIANTS)
#   ptx                  the PTX machine (tests/ptx): its own tests, kernels and mutants; CUDA code runs on it
#   cuda                 flashattn_cuda.cuh on that machine as an sm_80 and an sm_90, and what ptxas makes of it
#   compile fail nvcc    what must compile, what must not, what nvcc makes of it
#   examples bench       that they build and run
#
# A missing optional tool is a skip that says what to install. The last line is "N passed, N failed, N skipped";
# the exit status is 0 if nothing failed and something passed.

cd "$(dirname "$0")/.." || exit 1
unset MAKEFLAGS MFLAGS MAKELEVEL # `make -n test` and the like stop here
export CC="${CC:-cc}" CXX="${CXX:-c++}" CLANG="${CLANG:-clang}" NVCC="${NVCC:-nvcc}"
export ARM_CC="${ARM_CC:-aarch64-linux-gnu-gcc}" QEMU="${QEMU:-qemu-aarch64}"
suites=${*:-native base avx2 dot dispatch clang cxx asan tsan arm ptx cuda compile fail nvcc examples bench}
log=build/log
jobs=$(nproc 2>/dev/null || echo 2)
if [ "$1" != --step ]; then
    rm -rf "$log"
    mkdir -p "$log"
    : >"$log/counts"
fi

have() { for tool; do command -v "$tool" >/dev/null 2>&1 || return 1; done; }
now() { date +%s.%N; }
since() { echo "$1 $(now)" | awk '{ printf "%.1f s", $2 - $1 }'; }

# What suite $1 lacks here, and how to get it; nothing if it can run.
lacks() {
    case $1 in
    avx2) grep -qsw avx2 /proc/cpuinfo || echo 'a CPU with AVX2' ;;
    dot) grep -qsw avx512_bf16 /proc/cpuinfo || echo 'a CPU with AVX512_BF16' ;;
    clang) have "$CLANG" || echo 'apt-get install clang libomp-dev' ;;
    cxx) have "$CXX" || echo 'apt-get install g++' ;;
    asan) echo 'int main(void) { return 0; }' | "$CC" -fsanitize=address,undefined -xc - -o build/probe 2>"$log/asan" ||
        echo 'the sanitizer runtimes of the compiler: apt-get install libclang-rt-dev for clang' ;;
    tsan) echo 'int main(void) { return 0; }' | "$CC" -fsanitize=thread -xc - -o build/probe 2>"$log/tsan" && $fixed build/probe ||
        echo 'the thread sanitizer of the compiler, and memory where it wants it' ;;
    arm) have "$ARM_CC" "$QEMU" || echo 'apt-get install qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross' ;;
    nvcc | ptx | cuda) have "$NVCC" "$CXX" || echo 'install the CUDA toolkit, 12 or later, or set NVCC' ;;
    esac
}

# Programs of suite $1, named VARIANT/program as in build/; a suite that is a script names itself.
programs() {
    case $1 in
    compile | fail | nvcc | bench) echo "$1" && return ;;
    ptx)
        for file in tests/ptx/test_*.cu; do echo "ptx/$(basename "$file" .cu)"; done
        printf 'ptx/sm_80/test_%s\n' kernels findings
        [ -n "$(lacks asan)" ] || for file in tests/ptx/fuzz_*.c; do echo "ptx/asan/$(basename "$file" .c)"; done
        printf 'ptx-%s\n' user fatbin gates mutants && return ;;
    cuda) # the longest first
        for file in tests/cuda/gates*.cu; do echo "cuda-$(basename "$file" .cu)"; done
        for file in tests/cuda/test_*.cu; do
            name=$(basename "$file" .cu) low=80
            [ "$name" != test_dtypes ] || low=89 # the first with e4m3
            case $name in test_hopper*) ;; *) echo "cuda$low/$name" ;; esac
            echo "cuda90/$name"
        done
        for file in examples/*.cu; do echo "cuda90/$(basename "$file" .cu)"; done
        printf '%s\n' cuda90/gpt cuda-bench
        for file in tests/cuda/test_*.c; do echo "cuda/$(basename "$file" .c)"; done
        printf '%s\n' cuda80/each_kernel cuda90/each_kernel && return ;;
    examples) set -- native examples/*.c examples/gpt/gpt.c ;;
    native) set -- native tests/test_*.c tests/no_alloc.c ;;
    dispatch) set -- dispatch tests/test_forward.c tests/test_backward.c tests/test_decode.c tests/no_alloc.c ;; # slow: four bodies
    asan) set -- asan tests/test_*.c tests/fuzz_*.c ;;
    tsan) set -- tsan tests/test_forward.c tests/test_backward.c tests/test_decode.c ;; # where tasks run side by side
    arm) set -- arm tests/test_convert.c tests/test_f*.c tests/test_numerics.c tests/test_backward.c tests/test_decode.c tests/test_gpt.c ;; # slow under qemu: what has NEON in it
    cxx | dot) # but the GPT, which is C, and without bf16
        variant=$1
        for file in tests/test_*.c; do [ "$file" = tests/test_gpt.c ] || echo "$variant/$(basename "$file" .c)"; done
        return ;;
    *) set -- "$1" tests/test_*.c ;;
    esac
    variant=$1
    shift
    for file; do [ -f "$file" ] && echo "$variant/$(basename "$file" .c)"; done
}

# Runs program $1 and prints its output.
run() {
    case $1 in
    compile | nvcc) $limit sh "tests/compile/$1.sh" ;;
    fail) $limit sh tests/fail/fail.sh ;;
    ptx/asan/*) $limit "build/$1" ;;
    ptx/sm_80/*) FA_PTX_DEVICE=sm_80 $limit sh tests/ptx/schedules.sh "build/$1" order lazy 1 ;;
    ptx/*) $limit sh tests/ptx/schedules.sh "build/$1" ;;
    cuda*/*_cuda) $limit "build/$1" && echo '1 passed, 0 failed, 0 skipped' ;; # an example
    cuda90/gpt) "${MAKE:-make}" -s build/native/gpt && $limit sh tests/cuda/gpt.sh build/native/gpt "build/$1" ;;
    cuda*/each_kernel)
        [ "$1" = cuda90/each_kernel ] || export FA_PTX_DEVICE=sm_80
        for options in '--seqlen 200' '--seqlen 200 --causal' '--seqlen 65 --keys 130 --causal'; do
            $limit "build/$1" $options || return # bench/run_gpu.sh runs it under compute-sanitizer
        done
        echo '1 passed, 0 failed, 0 skipped' ;;
    cuda8[0-9]/*)
        device=sm_${1%/*}
        export FA_PTX_DEVICE="sm_${device#sm_cuda}"
        $limit "build/$1" && FA_TEST_SCALE=quick $limit sh tests/ptx/schedules.sh "build/$1" lazy 1 2 3 ;;
    cuda90/*) FA_TEST_SCALE=quick $limit sh tests/ptx/schedules.sh "build/$1" order lazy 1 ;;
    cuda-bench) "${MAKE:-make}" -s build/libfa_ptx.a && $limit sh tests/cuda/bench.sh ;;
    cuda-gates*) $limit sh tests/cuda/gates_test.sh "tests/cuda/${1#cuda-}.cu" ;;
    ptx-mutants) $limit sh tests/ptx/mutants.sh | sed '$s/ killed, \(.*\) survived$/ passed, \1 failed, 0 skipped/' ;;
    ptx-*) $limit sh "tests/ptx/${1#ptx-}_test.sh" ;;
    arm/test_backward) FA_TEST_SCALE=quick $limit "$QEMU" "build/$1" --filter edges ;; # all of it takes ten minutes
    arm/test_gpt) FA_TEST_SCALE=quick $limit "$QEMU" "build/$1" --filter gemm ;;
    arm/*) FA_TEST_SCALE=least FA_TEST_PART=8 $limit "$QEMU" "build/$1" ;;
    tsan/*) $fixed $limit "build/$1" --filter tasks_from_threads ;;
    base/* | dot/* | dispatch/* | clang/* | cxx/* | asan/*) # the kernel of native/, again: another tenth of the cases in each
        for part in base dot dispatch clang cxx asan arm; do
            [ "$part" != "${1%%/*}" ] || break
            FA_TEST_PART=$((${FA_TEST_PART:-0} + 1))
        done
        FA_TEST_SCALE=quick FA_TEST_PART=${FA_TEST_PART:-0} $limit "build/$1" ;;
    native/gpt) $limit sh tests/gpt.sh "build/$1" ;;
    native/why_flash) $limit sh tests/why_flash.sh "build/$1" ;;
    native/[0-9]*) $limit "build/$1" && echo '1 passed, 0 failed, 0 skipped' ;;
    bench) $limit sh bench/run_cpu.sh --quick --threads 1 --filter 'd64 2048x2048 causal plain' &&
        awk -F, '$6 == "flashattn" { n += $20 > 0 } END { exit n != 4 }' build/bench/cpu.csv && # right, and timed
        echo '1 passed, 0 failed, 0 skipped' ;;
    *) $limit "build/$1" ;;
    esac
}

fixed=$(setarch -R true 2>/dev/null && echo setarch -R) # no random addresses: the thread sanitizer has places of its own
limit=$(have timeout && echo "timeout ${TEST_TIMEOUT:-900}")
# Step $3, the $1-th of $2: builds and runs it, prints a line, and appends "passed failed skipped" to $log/counts.
step() {
    start=$(now) step=$3 file=$log/$(echo "$3" | tr / -) title=$(printf '[%3d/%d] %-26s' "$1" "$2" "$3")
    : >"$file"
    case $step in */*) "${MAKE:-make}" -s "build/$step" >"$file" 2>&1 ;; esac && run "$step" >>"$file" 2>&1
    status=$?
    # shellcheck disable=SC2046  # three numbers
    set -- $(sed -n '$s/^\([0-9]*\) passed, \([0-9]*\) failed, \([0-9]*\) skipped$/\1 \2 \3/p' "$file")
    [ $# = 3 ] || set -- 0 1 0
    [ $status = 0 ] || [ "$2" != 0 ] || set -- "$1" 1 "$3"
    echo "$1 $2 $3" >>"$log/counts"
    if [ "$2" = 0 ]; then
        echo "$title ok ($(since "$start"))  $1 passed$([ "$3" = 0 ] || echo ", $3 skipped")"
    else
        echo "$title FAILED ($(since "$start"))  $2 of $(($1 + $2)), exit status $status, $file:
$(grep -E '^(#|not ok)|[Ee]rror' "$file" | head -n 20 | sed 's/^/    /')"
    fi
    sed -n "s|^ok [0-9]* - \(.*\) # SKIP \(.*\)|  skipped: $step \1 (\2)|p" "$file" >>"$log/skipped"
}

if [ "$1" = --step ]; then
    step "$2" "$3" "$4"
    exit 0
fi
skipped=0 number=0 began=$(now) runnable=''

for suite in $suites; do
    hint=$(lacks "$suite")
    if [ -z "$hint" ]; then
        runnable="$runnable $suite"
    else
        echo "  skipped: $suite ($hint)" >>"$log/skipped"
        skipped=$((skipped + 1))
    fi
done
steps=$(for suite in $runnable; do programs "$suite"; done)
count=$(echo "$steps" | wc -l)

# Each step builds its program and runs it, on all CPUs; what several of them need is built before.
case " $runnable " in
*' ptx '* | *' cuda '*)
    targets='build/libfa_ptx.a build/libfa_ptx.so build/ptx/sass build/cuda/gpt_cpu.o build/native/gpt'
    [ -n "$(lacks asan)" ] || targets="$targets build/ptx/asan/libfa_ptx.a"
    printf '          building %-17s ' 'the PTX machine'
    # shellcheck disable=SC2086  # one word a target
    "${MAKE:-make}" -k -j"$jobs" $targets >"$log/build" 2>&1 && printf ok || printf FAILED
    echo " ($(since "$began"))"
    ;;
esac
for step in $steps; do
    number=$((number + 1))
    echo "$number $count $step"
done | xargs -P "$jobs" -L 1 sh tests/run.sh --step

echo
[ ! -f "$log/skipped" ] || cat "$log/skipped"
echo "$(since "$began"), logs in $log"
# shellcheck disable=SC2046  # three numbers
set -- $(awk -v skipped="$skipped" '{ p += $1; f += $2; skipped += $3 } END { print p + 0, f + 0, skipped }' "$log/counts")
echo "$1 passed, $2 failed, $3 skipped"
[ "$2" = 0 ] && [ "$1" -gt 0 ]
