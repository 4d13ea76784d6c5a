#!/bin/sh
# tests/cuda/bench.sh - does bench/gpu.py work? Its library on the PTX machine: small cells of each pass, type and head dim,
# right next to attention in double and to PyTorch on the CPU. PYTHON: one that can import torch.

cd "$(dirname "$0")/../.." || exit 1
out=build/cuda90/bench python=${PYTHON:-python3} dims='64 128 256'
"$python" -c 'import torch' 2>/dev/null || python='' dims=64
rm -rf "$out"
mkdir -p "$out"
for dim in $dims; do
    ${NVCC:-nvcc} -O3 -lineinfo -no-compress -gencode arch=compute_90a,code=compute_90a -cudart none -I. -shared \
        -Xcompiler -fPIC,-Wall,-Wextra,-Werror -Xlinker -Bsymbolic -DBENCH_DIM=$dim \
        -o "$out/libbench$dim.so" bench/gpu_kernels.cu build/libfa_ptx.a -lm -lpthread || exit 1
done
echo 'ok 1 - library'
if [ -z "$python" ]; then
    echo "ok 2 - cells # SKIP no PyTorch for ${PYTHON:-python3}"
    echo '1 passed, 0 failed, 1 skipped'
elif "$python" bench/gpu.py --stand-in --libraries "$out" --csv "$out/gpu.csv"; then
    "$python" bench/plot_gpu.py "$out/gpu.csv" >"$out/gpu.svg" || exit 1
    echo 'ok 2 - cells'
    echo '2 passed, 0 failed, 0 skipped'
else
    echo 'not ok 2 - cells'
    exit 1
fi
