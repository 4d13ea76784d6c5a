#!/bin/sh
# tests/compile/nvcc.sh - flashattn.h under nvcc: its host pass, and the shared helpers in a kernel; and
# flashattn_cuda.cuh.

cd "$(dirname "$0")/../.." || exit 1
mkdir -p build/compile
passed=0 failed=0
for arch in sm_80 sm_90a; do
    if "${NVCC:-nvcc}" -std=c++17 -arch=$arch -Werror all-warnings -Xcompiler -Wall,-Wextra,-Wshadow,-Werror \
        -I. -c tests/compile/kernel.cu -o build/compile/kernel.o >build/compile/log 2>&1; then
        passed=$((passed + 1))
        echo "ok $((passed + failed)) - nvcc $arch"
    else
        failed=$((failed + 1))
        echo "not ok $((passed + failed)) - nvcc $arch"
        head -n 12 build/compile/log | sed 's/^/#     /'
    fi
done
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" = 0 ]
