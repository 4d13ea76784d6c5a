#!/bin/sh
# tests/ptx/gates.sh - compiles a .cu file to machine code and fails if ptxas made of it what costs speed: spills,
# stack frames, too many registers, serialised or repaired wgmma (the (C75xx) messages, which ptxas calls information),
# or instructions that should not be there. Needs nvcc, no GPU.
#
#     sh tests/ptx/gates.sh [-a ARCH] [-r [PART=]REGISTERS]... FILE.cu [nvcc options] [-- assertions of sass.c]
#     sh tests/ptx/gates.sh -a 90a -r 168 k.cu -I. -- --kernel forward --require HGMMA=16,UTMALDG --forbid HMMA
#
# ARCH: 90a (default), 80, ... The budget of registers is for the kernels with PART in their mangled name, or all.
# Prints a table, then one line a failure; exit status 1 if there are any. Local loads and stores (LDL, STL) always
# fail.
set -u
usage() { sed -n 's/^# \{0,1\}//; 6,7p' "$0" >&2; exit 2; }
arch=90a budgets=
while getopts a:r: option; do
    case $option in
    a) arch=$OPTARG ;;
    r) budgets="$budgets $OPTARG" ;;
    *) usage ;;
    esac
done
shift $((OPTIND - 1))
[ $# -ge 1 ] || usage
source=$1
shift

here=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
sass=$here/build/ptx/sass
[ -n "$(find "$sass" -newer "$here/tests/ptx/sass.c" 2>/dev/null)" ] || make -s -C "$here" build/ptx/sass >"$work/make" 2>&1 ||
    { cat "$work/make" >&2; exit 2; }

# nvcc options up to --, then the assertions
: >"$work/options"
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    printf '%s\n' "$1" >>"$work/options"
    shift
done
[ $# -eq 0 ] || shift
"${NVCC:-nvcc}" -O3 -gencode "arch=compute_$arch,code=sm_$arch" -cubin -Xptxas -v -o "$work/k.cubin" \
    -optf "$work/options" "$source" >"$work/log" 2>&1 ||
    { cat "$work/log" >&2; echo "FAILED: $source does not compile"; exit 1; }

awk -v budgets="$budgets" '
    function fail(text) { failed[++failures] = "FAILED " text }
    function number(pattern) { return match($0, "[0-9]+ " pattern) ? substr($0, RSTART) + 0 : 0 }
    /\(C75/ { sub(/^ptxas info *: */, ""); fail($0) }
    /Compiling entry function/ { split($0, quoted, "\047"); kernel = quoted[2]; order[++kernels] = kernel }
    /Function properties for/ { name = $NF }
    /bytes stack frame/ {
        stack[name] = number("bytes stack frame")
        stores[name] = number("bytes spill stores"); loads[name] = number("bytes spill loads")
        if (stack[name]) fail(name ": stack frame of " stack[name] " bytes")
        if (stores[name] + loads[name]) fail(name ": spills, " stores[name] " bytes stored, " loads[name] " loaded")
    }
    / Used [0-9]+ registers/ {
        registers[kernel] = number("registers"); shared[kernel] = number("bytes smem")
        n = split(budgets, budget, " ")
        for (i = 1; i <= n; i++) {
            part = budget[i]
            if (!sub(/=[^=]*$/, "", part)) part = ""
            limit = budget[i]
            sub(/.*=/, "", limit)
            if (!index(kernel, part)) continue
            used[i] = 1
            if (registers[kernel] > limit + 0) fail(kernel ": " registers[kernel] " registers, the budget is " limit)
        }
    }
    END {
        printf "%-60s %9s %8s %6s %7s\n", "kernel", "registers", "shared", "stack", "spills"
        for (i = 1; i <= kernels; i++) {
            k = order[i]
            printf "%-60s %9d %8d %6d %7d\n", k, registers[k], shared[k], stack[k], stores[k] + loads[k]
        }
        if (!kernels) fail("no kernel was compiled")
        n = split(budgets, budget, " ")
        for (i = 1; i <= n; i++) if (!used[i]) fail("no kernel for the budget " budget[i])
        for (i = 1; i <= failures; i++) print failed[i]
        exit failures > 0
    }' "$work/log"
status=$?
"$sass" "$work/k.cubin" --forbid LDL,STL "$@" || status=1
exit $status
