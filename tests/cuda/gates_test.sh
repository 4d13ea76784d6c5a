#!/bin/sh
# tests/cuda/gates_test.sh - what ptxas makes of flashattn_cuda.cuh: no spill, no stack, tensor cores.

cd "$(dirname "$0")/../.." || exit 1
passed=0 failed=0
for arch in ${*:-80 86 89 90 120}; do
    if output=$(sh tests/ptx/gates.sh -a "$arch" tests/cuda/gates.cu -I. -- --require HMMA,LDSM,LDGSTS 2>&1); then
        passed=$((passed + 1))
        echo "ok $((passed + failed)) - sm_$arch"
    else
        failed=$((failed + 1))
        echo "not ok $((passed + failed)) - sm_$arch"
    fi
    echo "$output" | grep -v instructions: | sed 's/^/#     /'
done
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" = 0 ]
