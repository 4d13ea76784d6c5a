#!/bin/sh
# tests/fail/fail.sh - each CASE of fail.c must fail to compile with one error that says the remedy.

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

# Compiles case $3 with $2, named $1, and wants the one error to match $4.
try() {
    if $2 -fsyntax-only -I. -DCASE="$3" tests/fail/fail.c >"$out/log" 2>&1; then
        verdict "$1, case $3" 'it compiles'
    else
        errors=$(grep -c 'error:' "$out/log")
        [ "$errors" = 1 ] || { verdict "$1, case $3" "$errors errors instead of one" && return; }
        grep 'error:' "$out/log" | grep -Eq "flashattn\.h: .*$4" && why='' || why="the error does not say \"$4\""
        verdict "$1, case $3" "$why"
    fi
}

for compiler in "${CC:-cc} -std=c11" "${CLANG:-clang} -std=c11" "${CXX:-c++} -std=c++17 -x c++"; do
    tool=${compiler%% *}
    command -v "$tool" >/dev/null 2>&1 || continue
    $compiler -fsyntax-only -I. -DCASE=0 tests/fail/fail.c >"$out/log" 2>&1 && why='' || why='it does not compile'
    verdict "$tool, no fault" "$why"
    while read -r case words; do
        try "$tool" "$compiler" "$case" "$words"
    done <<END
$(sed -n 's|^#elif CASE == \([0-9]*\) /\* \(.*\) \*/$|\1 \2|p' tests/fail/fail.c)
END
done
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
