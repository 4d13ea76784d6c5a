#!/bin/sh
# tests/why_flash.sh program - examples/why_flash.c on short sequences: its tables, its plot, and how it refuses

program=$1 dir=build/log/why_flash passed=0 failed=0
rm -rf "$dir"
mkdir -p "$dir" || exit 1

check() { # what was tested, exit status 0 = right
    if [ "$2" = 0 ]; then passed=$((passed + 1)); else failed=$((failed + 1)) && echo "not ok - $1"; fi
}

"$program" --quick "$dir/plot.svg" >"$dir/out" 2>"$dir/err"
check 'exit status' $?
[ ! -s "$dir/err" ]
check 'silence where there is no terminal' $?
awk '/^largest difference/ { n++; ok = $NF + 0 > 0 && $NF + 0 <= 1e-4 } END { exit !(n == 1 && ok) }' "$dir/out"
check 'standard and flash agree to 1e-4' $?

# Rows: N, then standard, flash and their ratio, for time, memory and traffic; numbers with a unit, perhaps with a *.
cat >"$dir/rows.awk" <<'ROWS'
function bytes(number, unit) {
    sub(/\*/, "", unit)
    return number * (unit == "KiB" ? 1024 : unit == "MiB" ? 1024 ^ 2 : unit == "GiB" ? 1024 ^ 3 : 0)
}
function near(x, y, part) { return x > y * (1 - part) && x < y * (1 + part) }
function wrong(what) { print "# " table ", N = " $1 ": " what; bad = 1 }
/^d = / { table = $0; d = $3 + 0; back = /backward/; tables++; n = 0 }
/^ *[0-9]+ .*B/ {
    rows++
    memory = bytes($9, $10); standard = bytes($7, $8); flow = bytes($14, $15); standard_flow = bytes($12, $13)
    matrix = 4 * $1 ^ 2 * (back ? 2 : 1); tensors = 4 * $1 * d * (back ? 8 : 4)
    if (!(standard > matrix + tensors && standard < 1.01 * (matrix + 1.3 * tensors))) wrong("memory of standard")
    if (!(memory > tensors)) wrong("memory of flash")
    if (!(standard_flow > flow && flow > tensors * 0.99)) wrong("traffic")
    if (($3 ~ /\*/) != ($1 == 2048) || ($8 ~ /\*/) != ($1 == 2048) || $5 $10 ~ /\*/) wrong("what is marked as not measured")
    if (n) {
        if ($1 != 2 * n) wrong("N")
        if (!(standard_flow > 3 * last_standard_flow && standard_flow <= 4.1 * last_standard_flow)) wrong("traffic of standard")
        if (!(flow > 1.9 * last_flow && flow <= 4.1 * last_flow)) wrong("traffic of flash is not monotone")
        if (!(memory > last_memory && memory < 2.05 * last_memory)) wrong("memory of flash is not linear")
    }
    n = $1; last_flow = flow; last_standard_flow = standard_flow; last_memory = memory
}
END { if (tables != 4 || rows != 16) { print "# " tables " tables, " rows " rows"; bad = 1 } exit bad }
ROWS
awk -f "$dir/rows.awk" "$dir/out"
check 'the tables' $?
grep -q '^GFLOP  *66\.6  *824\.6  *75\.2  *962\.1$' "$dir/out" && grep -q '^GB to and from HBM  *40\.3  *25\.2  *4\.4  *5\.0$' "$dir/out"
check "GPT-2's row" $?

# Well-formed: python3 knows, and where it is missing, tags that close each other are something.
if command -v python3 >/dev/null 2>&1; then
    python3 -c 'import sys, xml.dom.minidom as xml; xml.parse(sys.argv[1])' "$dir/plot.svg"
else
    awk 'BEGIN { RS = "<" } NR > 1 { if (/^\//) depth--; else if (!/\/>/) depth++; if (depth < 0) exit } END { exit depth != 0 }' "$dir/plot.svg"
fi
check 'the plot is well-formed' $?
[ "$(grep -c "'dash'" "$dir/plot.svg")" = 22 ] && ! grep -Eq 'nan|inf' "$dir/plot.svg" && [ ! -e "$dir/plot.svg.tmp" ]
check 'the plot shows what was modelled' $?

refuses() { # words of the message, arguments
    words=$1
    shift
    "$program" "$@" >"$dir/out2" 2>"$dir/err"
    [ $? = 2 ] && grep -q "$words" "$dir/err" && [ ! -s "$dir/out2" ]
    check "refuses $*" $?
}
refuses 'usage' --quick --fast
refuses 'seconds' --quick --seconds 0
refuses 'No such file or directory' --quick "$dir/none/plot.svg"

# Too little memory: a status, a sentence, no file. Where ulimit cannot say so, nothing is tested.
# shellcheck disable=SC3045  # dash, bash, ksh and busybox have -v
if (ulimit -v 60000 && OMP_NUM_THREADS=1 "$program" --usage 2>&1 | grep -q usage) 2>/dev/null; then
    (ulimit -v 60000 && OMP_NUM_THREADS=1 "$program" "$dir/big.svg") >"$dir/out2" 2>"$dir/err"
    [ $? = 2 ] && grep -q 'no memory' "$dir/err" && [ ! -e "$dir/big.svg" ] && [ ! -e "$dir/big.svg.tmp" ]
    check 'refuses for want of memory' $?
fi
echo "$passed passed, $failed failed, 0 skipped"
[ $failed = 0 ]
