#!/bin/sh
# tests/ptx/schedules.sh PROGRAM [schedule ...] - runs a test program of the machine in each schedule (default: order
# lazy 1 2 3). A test passes if it passes in all of them. The last line is "N passed, N failed, N skipped". With
# FA_TEST_SCALE=quick each schedule has other cases: FA_TEST_PART, 0, 1 and so on.

program=$1
shift
worst='' status=0 part=0
case $program in *scalar) [ $# -gt 0 ] || set -- order 1 ;; esac # registers only: nothing to reorder
for schedule in ${*:-order lazy 1 2 3}; do
    output=$(FA_PTX_SCHEDULE=$schedule FA_TEST_PART=$part "$program" 2>&1)
    code=$? part=$((part + 1))
    [ $code = 0 ] || status=$code
    echo "$output" | sed '$d' | sed -n "s/^/FA_PTX_SCHEDULE=$schedule /; /not ok\|#\|ptx:\|  at \|PTX machine/p" | head -n 60
    line=$(echo "$output" | sed -n '$s/^[0-9]* passed, [0-9]* failed, [0-9]* skipped$/&/p')
    worst="$worst${line:-0 passed, 1 failed, 0 skipped}
"
done
printf '%s' "$worst" | awk -v status=$status '{ if (NR == 1 || $1 < p) p = $1; if ($3 > f) f = $3; if ($5 > s) s = $5 }
    END { if (status && !f) f = 1; print p + 0 " passed, " f + 0 " failed, " s + 0 " skipped" }'
exit $status
