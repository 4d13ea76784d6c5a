#!/bin/sh
# bench/run_gpu.sh [--seconds N] [--arch SM] [--build-only] (make gpu) - all there is to do on a GPU, in ten minutes (N):
#
#     build for its arch; the CUDA tests; compute-sanitizer (memcheck, racecheck) on each kernel; examples/gpt, which
#     learns for 20 s, writes, and compares ways of speculative decoding; the benchmark next to PyTorch's attention
#     backends (bench/gpu.py), which prints a table and writes build/bench/gpu.csv
#
# Needs nvcc, or what --build-only --arch 90a has left in build/gpu on another machine. Nothing is downloaded; what is
# missing (compute-sanitizer, PyTorch) is skipped, and said so. PYTHON: one that can import torch.
# Exit status: 0; 1 if something failed; 77 without a GPU.
#
#     --stand-in: no GPU but the PTX machine as libcudart, small sizes: does this script itself work?

cd "$(dirname "$0")/.." || exit 2
unset MAKEFLAGS MFLAGS MAKELEVEL
total=600 arch='' build_only='' stand_in='' out=build/gpu log=build/gpu/log
while [ $# -gt 0 ]; do
    case $1 in
    --seconds) total=$2 && shift ;;
    --arch) arch=$2 && shift ;;
    --build-only) build_only=1 ;;
    --stand-in) stand_in=1 arch=90a ;;
    *) sed -n '2s/^# //p' "$0" >&2 && exit 2 ;;
    esac
    shift
done
began=$(date +%s)
left() { echo $((total - $(date +%s) + began)); }
say() { printf '[%3d s left] %s\n' "$(left)" "$*"; }
have() { command -v "$1" >/dev/null 2>&1; }
failed=0

PATH=$PATH:/usr/local/cuda/bin
nvcc=${NVCC:-nvcc}
card=$(nvidia-smi -i 0 --query-gpu=name,driver_version,compute_cap,memory.total --format=csv,noheader 2>/dev/null)
case $card in
*,*) ;;
*) card='' ;;
esac
if [ -z "$card$build_only$stand_in" ]; then
    echo 'no NVIDIA GPU here (nvidia-smi finds none): skipped'
    exit 77
fi
# "NVIDIA H200, 580.159.03, 9.0, 143771 MiB" -> 90a, for the kernels by TMA and wgmma
[ -n "$arch" ] || arch=$(echo "$card" | cut -d, -f3 | tr -d ' .')
[ "$arch" != 90 ] || arch=90a
[ -n "$arch" ] || { echo '--build-only needs --arch on a machine without a GPU' >&2 && exit 2; }
mkdir -p "$out" "$log"
say "card: ${card:-none}; sm_$arch"

# ---- build ----
cpus=$(nproc 2>/dev/null || echo 2)
flags="-O3 -lineinfo -gencode arch=compute_$arch,code=sm_$arch -I. -Itests"
runtime='' bench=''
if [ -n "$stand_in" ]; then # the machine reads PTX; it is a shared libcudart, but in bench: PyTorch has one of its own
    flags="-O3 -lineinfo -no-compress -gencode arch=compute_$arch,code=compute_$arch -I. -Itests"
    runtime='-cudart shared' bench='-cudart none build/libfa_ptx.a -lm -lpthread'
    make -s build/libfa_ptx.so build/libfa_ptx.a || exit 2
    export FA_TEST_SCALE=quick LD_LIBRARY_PATH="$PWD/build/ptx/lib"
fi
tests=$(for file in tests/cuda/test_*.cu; do basename "$file" .cu; done)
host='-Xcompiler -march=native,-fopenmp' # for products of matrices, which are the CPU's; elsewhere it may be another
[ -z "$build_only" ] || host='-Xcompiler -fopenmp'
commands() {
    for name in $tests; do
        echo "$nvcc $flags $runtime -o $out/$name tests/cuda/$name.cu$([ "$name" != test_gpt ] || echo ' tests/cuda/gpt_cpu.c')"
    done
    echo "$nvcc $flags $runtime -o $out/each_kernel bench/each_kernel.cu"
    echo "$nvcc $flags $runtime $host -o $out/gpt examples/gpt/gpt.c examples/gpt/attention.cu"
    for dim in 64 128 256; do
        echo "$nvcc $flags -shared -Xcompiler -fPIC -Xlinker -Bsymbolic -DBENCH_DIM=$dim -o $out/libbench$dim.so bench/gpu_kernels.cu $bench"
    done
}
if have "$nvcc"; then
    rm -f "$out"/test_* "$out"/lib* "$out/each_kernel" "$out/gpt" "$log"/*
    commands >"$log/commands"
    # no command of this list may take longer than a third of the time
    # shellcheck disable=SC2016
    xargs -P "$cpus" -I{} sh -c 'timeout '$((total / 3))' {} >"'"$log"'/build.$$" 2>&1 || echo "{}" >>"'"$log"'/not-built"' <"$log/commands"
    if [ -s "$log/not-built" ]; then
        failed=1
        say 'NOT BUILT:'
        cat "$log/not-built" "$log"/build.* | head -n 30
    fi
    say "built, $(wc -l <"$log/commands") programs"
elif [ -x "$out/each_kernel" ]; then
    say 'no nvcc: what is in build/gpu is used'
else
    echo "no nvcc (NVCC=$nvcc), and nothing in $out: build there with bench/run_gpu.sh --build-only --arch $arch" >&2
    exit 2
fi
[ -z "$build_only" ] || exit $failed

# ---- tests: as many at a time as there are CPUs, as their time goes into the reference ----
limit=$(($(left) / 3))
for name in $tests; do
    [ -x "$out/$name" ] && echo "$name"
done | xargs -P "$cpus" -I{} sh -c "timeout $limit $out/{} >$log/{} 2>&1; echo \$? >$log/{}.status"
for name in $tests; do
    [ -x "$out/$name" ] || continue
    last=$(tail -n 1 "$log/$name")
    if [ "$(cat "$log/$name.status")" = 0 ]; then
        say "$name: $last"
    else
        failed=1
        say "$name FAILED, status $(cat "$log/$name.status"): $last"
        grep -E '^(#|not ok)' "$log/$name" | head -n 12
    fi
done
"$out/each_kernel" >"$log/each_kernel" 2>&1 || { failed=1 && say 'each_kernel FAILED' && cat "$log/each_kernel"; }

# ---- compute-sanitizer ----
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer /usr/local/cuda*/compute-sanitizer/compute-sanitizer 2>/dev/null | head -n 1)
if [ -n "$sanitizer" ] && [ -z "$stand_in" ]; then
    for tool in memcheck racecheck; do
        limit=$(($(left) / 6))
        timeout "$limit" "$sanitizer" --tool $tool --error-exitcode 9 "$out/each_kernel" --causal >"$log/$tool" 2>&1
        status=$?
        case $status:$(grep -c 'Device not supported\|Unable to find injection' "$log/$tool") in
        0:*) say "$tool: $(grep 'SUMMARY' "$log/$tool" | tail -n 1)" ;;
        124:*) say "$tool: not finished in $limit s: skipped" ;;
        *:[1-9]*) say "$tool: it does not work here: skipped" ;;
        *) failed=1 && say "$tool FAILED, status $status:" && grep '=====' "$log/$tool" | head -n 20 ;;
        esac
    done
else
    say 'no compute-sanitizer: skipped'
fi

# ---- examples/gpt: exit status 1 also if a way of decoding changed the text ----
gpt="run --seconds 20 --guess-seconds 10 --bytes 96 --draws 500 --dir $out/model --fresh flashattn.h README.md"
[ -z "$stand_in" ] || gpt="train --steps 2 --layers 1 --batch 1 --seqlen 32 --dir $out/model --fresh examples/01_hello.c"
# shellcheck disable=SC2086  # options
if [ ! -x "$out/gpt" ]; then
    say 'no gpt: skipped'
elif timeout $(($(left) / 3)) "$out/gpt" $gpt >"$log/gpt" 2>&1; then
    say 'gpt:' && cat "$log/gpt"
else
    failed=1
    say "gpt FAILED, status $?:" && tail -n 40 "$log/gpt"
fi

# ---- benchmark ----
commit=$(git describe --always --dirty 2>/dev/null || cat .commit 2>/dev/null)
python=${PYTHON:-python3}
if ! $python -c 'import torch' 2>/dev/null; then
    say "no PyTorch for $python: no benchmark"
elif [ -n "$stand_in" ]; then
    LD_LIBRARY_PATH='' $python bench/gpu.py --stand-in --libraries "$out" --csv "$out/stand-in.csv" || failed=1
else
    $python bench/gpu.py --libraries "$out" --seconds $(($(left) - 20)) --csv build/bench/gpu.csv --commit "$commit"
    case $? in
    0) $python bench/plot_gpu.py build/bench/gpu.csv >build/bench/gpu.svg && echo 'build/bench/gpu.csv, build/bench/gpu.svg' ;;
    *) failed=1 ;;
    esac
fi
[ "$failed" = 0 ] || echo 'FAILED; see above'
exit $failed
