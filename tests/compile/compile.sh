#!/bin/sh
# tests/compile/compile.sh - that flashattn.h compiles wherever it is put, and flashattn_spec.h beside it, without a
# warning, and leaves nothing behind: no external symbol, no macro outside FA_ and FAI_, no parameter.

cd "$(dirname "$0")/../.." || exit 1
CC=${CC:-cc} CXX=${CXX:-c++} CLANG=${CLANG:-clang}
here=tests/compile out=build/compile
warn='-Wall -Wextra -Wundef -Wshadow -Wconversion -Wpedantic -Werror'
rm -rf "$out"
mkdir -p "$out"
number=0 passed=0 failed=0 skipped=0

have() { command -v "$1" >/dev/null 2>&1; }

check() { # name, command ...
    name=$1 number=$((number + 1))
    shift
    if "$@" >"$out/log" 2>&1; then
        passed=$((passed + 1))
        echo "ok $number - $name"
    else
        failed=$((failed + 1))
        echo "not ok $number - $name"
        printf '#     %s\n' "$*"
        sed 's/^/#     /' "$out/log" | head -n 12
    fi
}

skip() { # name, reason
    number=$((number + 1)) skipped=$((skipped + 1))
    echo "ok $number - $1 # SKIP $2"
}

# Compiles $2 to the program $3 with compiler and flags $1, and runs it.
runs() { $1 -I. -o "$3" $2 -lm && "$3"; }

# External symbols of object $1 other than those of the test itself and inline functions of C++'s <cmath>.
no_symbols() { ! nm -g --defined-only "$1" | grep -vE ' (main|.*alone_ok.*|_ZSt.*|DW\.ref\..*)$'; }

# Macros that $1 leaves defined by flashattn.h, from the line markers of -dD.
macros() {
    $CC -std=c11 -I. -E -dD $2 "$1" | awk '
        /^# [0-9]+ "/ { ours = $3 ~ /flashattn(_spec)?\.h"$/ }
        ours && $1 == "#define" { sub(/\(.*/, "", $2); defined[$2] = 1 }
        $1 == "#undef" { delete defined[$2] }
        END { for (name in defined) print name }' | sort
}
no_leak() { ! macros "$here/${2:-three}.c" "$1" | grep -vE '^FAI?_'; }
# FAI_HAVE_x stays where the helpers for instruction set x have been defined.
instance_macros() { macros "$1" "$2" | grep -v '^FAI_HAVE_'; }
same_macros() { instance_macros "$here/unit_a.c" "$1" >"$out/one" && instance_macros "$here/three.c" "$1" | diff "$out/one" -; }

# A program in a directory that holds nothing but itself and the header, there called $1; flags $2.
vendored() (
    rm -rf "$out/copy" && mkdir -p "$out/copy/$(dirname "$1")" && cp flashattn.h "$out/copy/$1" &&
        cp "$here/vendored.c" "$out/copy/" && cd "$out/copy" &&
        $CC -std=c11 $warn -DHEADER="\"$1\"" $2 vendored.c -o vendored -lm && ./vendored
)

languages="$CC -std=c11"
have "$CLANG" && languages="$languages,$CLANG -std=c11" || skip clang 'apt-get install clang'
have "$CXX" && languages="$languages,$CXX -x c++ -std=c++17" || skip c++ 'apt-get install g++'
have "$CLANG" && have "$CXX" && languages="$languages,$CLANG -x c++ -std=c++17"

IFS=,
for compiler in $languages; do
    IFS=' '
    case $compiler in *c++*) high=-O0 ;; *) high=-O2 ;; esac # slow, and tests/run.sh builds C++ with -O2
    for flags in '-O0' '-O0 -march=native' "$high -DFA_DISPATCH"; do
        for unit in alone three spec; do
            check "$compiler $flags: $unit" $compiler $warn $flags -I. -c "$here/$unit.c" -o "$out/$unit.o"
            check "$compiler $flags: $unit has no external symbol" no_symbols "$out/$unit.o"
        done
    done
    check "$compiler: instances are what was asked for" runs "$compiler" "$here/three.c" "$out/three"
    check "$compiler: two units" runs "$compiler $warn" "$here/unit_a.c $here/unit_b.c" "$out/units"
    check "$compiler: program with a copy of the header" runs "$compiler $warn" "$here/vendored.c" "$out/vendored"
    IFS=,
done
IFS=' '

check 'other people'\''s macros' runs "$CC -std=c11 $warn" "$here/hostile.c" "$out/hostile"
check 'alone in a directory' vendored flashattn.h
check 'in another directory' vendored sub/flashattn.h -DFA_DISPATCH
check 'under another name' vendored sub/attention.h
check 'under another name, FA_DISPATCH' vendored sub/attention.h '-DFA_DISPATCH -DFA_SELF="attention.h"'
for flags in '' -DFA_DISPATCH; do
    check "no macro outside FA_ and FAI_ $flags" no_leak "$flags"
    check "three instances leave the same macros as one $flags" same_macros "$flags"
done

check 'no macro outside FA_ and FAI_ in flashattn_spec.h' no_leak '' spec

# The types as Microsoft's compiler would read them: its target, its sizes, none of the GNU extensions.
if have "$CLANG"; then
    check 'types for MSVC' "$CLANG" --target=x86_64-pc-windows-msvc -std=c11 -fsyntax-only -nostdlibinc $warn \
        -isystem "$here/msvc" -I. "$here/alone.c" "$here/spec.c"
else
    skip 'types for MSVC' 'apt-get install clang'
fi

# The program under DO THIS at the head of the header, and every complete program in README.md, as they stand.
sed -n '/DO THIS/,/DOES NOT/p' flashattn.h | sed '1d;$d' >"$out/head.c"
awk '/^```c$/ { n++; inside = 1; next } /^```/ { inside = 0 } inside { print > (out "/readme" n ".c") }' \
    out="$out" README.md
check 'the header has a program between DO THIS and DOES NOT' grep -q 'int main' "$out/head.c"
check 'README.md has a program' grep -q 'int main' "$out"/readme*.c
for program in "$out"/head.c "$out"/readme*.c; do
    grep -q 'int main' "$program" || continue
    check "$(basename "$program" .c) as printed" runs "$CC -std=c11 $warn" "$program" "$out/printed"
done

echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
