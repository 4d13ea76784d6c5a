#!/bin/sh
# tests/ptx/gates_test.sh - do the gates fail where they have to, and say why? Each input in gates/ has one fault. The
# last line is "N passed, N failed, N skipped".
cd "$(dirname "$0")" || exit 2
passed=0 failed=0

# expect STATUS 'part of the output' ARGUMENTS of gates.sh
expect() {
    want=$1 text=$2
    shift 2
    output=$(sh gates.sh "$@" 2>&1)
    got=$?
    if [ $got = "$want" ] && printf '%s\n' "$output" | grep -qF -- "$text"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        printf 'not ok: gates.sh %s: status %d (wanted %d), no "%s" in\n%s\n' "$*" $got "$want" "$text" "$output"
    fi
}

expect 0 'HGMMA 4' -r 64 gates/wgmma.cu -DCASE=0 -- --kernel chain --require HGMMA=4 --forbid HMMA
expect 0 'HMMA 1' -a 80 gates/mma.cu -- --require HMMA=1
expect 1 '16 bytes' gates/wgmma.cu -DCASE=7510
for message in 7510 7511 7514 7517 7519; do
    expect 1 "FAILED (C$message)" gates/wgmma.cu -DCASE=$message
done
for arch in 80 90a; do
    expect 1 'spills, ' -a $arch gates/spills.cu
    expect 1 'STL, wanted 0' -a $arch gates/spills.cu
    expect 1 'stack frame of 128 bytes' -a $arch gates/stack.cu
done
expect 1 '30 registers, the budget is 29' -r 29 gates/wgmma.cu -DCASE=0
expect 1 '30 registers, the budget is 29' -r 100 -r chain=29 gates/wgmma.cu -DCASE=0
expect 1 'no kernel for the budget forward=99' -r forward=99 gates/wgmma.cu -DCASE=0
expect 1 '0 HGMMA, wanted at least 1' gates/mma.cu -- --require HGMMA
expect 1 '1 HMMA, wanted 0' gates/mma.cu -- --forbid HMMA
expect 1 '4 HGMMA, wanted 16' gates/wgmma.cu -DCASE=0 -- --kernel chain --require HGMMA=16
expect 1 '4 HGMMA, wanted at most 3' gates/wgmma.cu -DCASE=0 -- --kernel chain --require 'HGMMA<=3'
expect 1 '4 HGMMA, wanted at least 5' gates/wgmma.cu -DCASE=0 -- --kernel chain --require 'HGMMA>=5'
expect 0 'MUFU 4' gates/hidden.cu -DCASE=0 -- --require 'MUFU.HIDDEN>=4'
expect 1 '4 MUFU.HIDDEN, wanted at least 5' gates/hidden.cu -DCASE=0 -- --require 'MUFU.HIDDEN>=5'
expect 1 'MUFU.HIDDEN, wanted at least 4' gates/hidden.cu -DCASE=1 -- --require 'MUFU.HIDDEN>=4'
expect 1 '0 MUFU.HIDDEN, wanted at least 1' gates/wgmma.cu -DCASE=0 -- --require MUFU.HIDDEN
expect 1 "no kernel has 'forward'" gates/wgmma.cu -DCASE=0 -- --kernel forward --require HGMMA
expect 1 'no opcode of that name' gates/wgmma.cu -DCASE=0 -- --forbid HMMMA
expect 1 'does not compile' -a 80 gates/wgmma.cu -DCASE=0

# and do real kernels pass?
expect 0 forward_sm90 -r 200 -r forward_sm90=168 test_kernels.cu -I../.. -I.. -I. -- --kernel forward_sm90 \
    --require HGMMA,UTMALDG,UTMASTG,SYNCS,USETMAXREG,STSM --forbid HMMA --kernel forward_sm80 \
    --require HMMA,LDSM,LDGSTS --forbid HGMMA
echo "$passed passed, $failed failed, 0 skipped"
[ $failed = 0 ]
