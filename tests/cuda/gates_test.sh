#!/bin/sh
# tests/cuda/gates_test.sh [file ...] - what ptxas makes of flashattn_cuda.cuh: no spill, no stack, and the instructions
# that the file's first comment requires (of kernels with PART in their names, or all), for the archs that it lists:
#
#     /* gates.cu - ... require: [PART:]HMMA,LDSM archs: 80 86 89 90 120 */

cd "$(dirname "$0")/../.." || exit 1
passed=0 failed=0
for file in ${*:-tests/cuda/gates*.cu}; do
    words=$(sed -n '1,/\*\//s/.*require: *\([a-z_:A-Z0-9,.=>]*\)[ ,;]* archs: *\([0-9a ]*[0-9a]\).*/\1 \2/p' "$file" | head -n 1)
    [ -n "$words" ] || words='HMMA' # no archs: fails below
    list=${words%% *} part=
    case $list in *:*) part=${list%%:*} list=${list#*:} ;; esac
    for arch in ${words#* }; do
        if output=$(sh tests/ptx/gates.sh -a "$arch" "$file" -I. -- --kernel "$part" --require "$list" 2>&1); then
            passed=$((passed + 1))
            echo "ok $((passed + failed)) - $(basename "$file") sm_$arch"
        else
            failed=$((failed + 1))
            echo "not ok $((passed + failed)) - $(basename "$file") sm_$arch"
        fi
        echo "$output" | grep -v instructions: | sed 's/^/#     /'
    done
done
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" = 0 ]
