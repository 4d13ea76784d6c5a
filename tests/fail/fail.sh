#!/bin/sh
# tests/fail/fail.sh - each CASE of fail.c, and of fail_cuda.cu where there is nvcc, must fail to compile with one
# error that says the remedy.

cd "$(dirname "$0")/../.." || exit 1
out=build/fail
mkdir -p "$out"
number=0 passed=0 failed=0

verdict() { # name, reason for failure (empty = passed)
    number=$((number + 1))
    if [ -z "$2" ]; then
        passed=$((passed + 1))
        echo "ok $number - $1"
    else
        failed=$((failed + 1))
        printf 'not ok %d - %s: %s\n' "$number" "$1" "$2"
        sed 's/^/#     /' "$out/log" | head -n 8
    fi
}

# Compiles case $3 of $5 with $2, named $1, and wants the one error to match $4.
try() {
    if $2 -I. -DCASE="$3" "$5" >"$out/log" 2>&1; then
        verdict "$1, case $3" 'it compiles'
    else
        errors=$(grep -c 'error:' "$out/log")
        [ "$errors" = 1 ] || { verdict "$1, case $3" "$errors errors instead of one" && return; }
        grep 'error:' "$out/log" | grep -Eq "$4" && why='' || why="the error does not say \"$4\""
        verdict "$1, case $3" "$why"
    fi
}

# The cases of $3, with $2, named $1; what errors begin with: $4
all() {
    $2 -I. -DCASE=0 "$3" >"$out/log" 2>&1 && why='' || why='it does not compile'
    verdict "$1, no fault" "$why"
    while read -r case words; do
        try "$1" "$2" "$case" "$4$words" "$3"
    done <<END
$(sed -n 's,^#elif CASE == \([0-9]*\) /\* \([^:]*:* .*\) \*/.*,\1 \2,p' "$3" | grep -v ' \(flags\|tool\): ')
END
}

for compiler in "${CC:-cc} -std=c11" "${CLANG:-clang} -std=c11" "${CXX:-c++} -std=c++17 -x c++"; do
    tool=${compiler%% *}
    command -v "$tool" >/dev/null 2>&1 || continue
    all "$tool" "$compiler -fsyntax-only" tests/fail/fail.c 'flashattn\.h: .*'
done

# The headers beside each other, of different releases.
other() {
    mkdir -p "$out/other"
    cp flashattn_cuda.cuh "$out/other"
    sed 's/\(define FA_VERSION_NUMBER\) .*/\1 1/' flashattn.h >"$out/other/flashattn.h"
}
if command -v "${NVCC:-nvcc}" >/dev/null 2>&1; then
    nvcc="${NVCC:-nvcc} -ptx -o /dev/null"
    file=tests/fail/fail_cuda.cu
    other
    all nvcc "$nvcc -arch=sm_80" $file ''
    while read -r case what; do
        words=${what#*; } what=${what%%; *}
        case $what in
        flags:*) try nvcc "$nvcc -arch=sm_80 ${what#flags: }" "$case" "$words" $file ;;
        'tool: cc') try "${CC:-cc}" "${CC:-cc} -std=c11 -x c -fsyntax-only" "$case" "$words" $file ;;
        'tool: c++') try "${CXX:-c++}" "${CXX:-c++} -std=c++17 -x c++ -fsyntax-only" "$case" "$words" $file ;;
        esac
    done <<END
$(sed -n 's,^#elif CASE == \([0-9]*\) /\* \(flags: .*\|tool: .*\) \*/,\1 \2,p' $file)
END
fi
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
