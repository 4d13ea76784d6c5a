#!/bin/sh
# tests/cuda/gpt.sh CPU CUDA - examples/gpt as a whole, the program with attention.c next to the one with attention.cu:
# from one checkpoint both write the same text, greedily, and a few steps of training end at the same loss.

cpu=$1 cuda=$2 passed=0 failed=0
home=$(mktemp -d) || exit 1
trap 'rm -rf "$home"' EXIT
report() { # status, name
    if [ "$1" = 0 ]; then passed=$((passed + 1)) word=ok; else failed=$((failed + 1)) word='not ok'; fi
    echo "$word $((passed + failed)) - $2"
}
# a text that a model learns in no time, so its first choice is far ahead of its second one
awk 'BEGIN { for (n = 0; n < 60; n++) print "the quick brown fox jumps over the lazy dog and runs away " n % 3 }' >"$home/text"
shape='--dim 64 --layers 2 --heads 2 --heads-k 1 --hidden 64 --context 128 --batch 2 --seqlen 32'

# shellcheck disable=SC2086  # options
"$cpu" train --dir "$home/model" $shape --steps 120 "$home/text" >"$home/log" 2>&1 || sed 's/^/# /' "$home/log"
write() { "$1" generate --dir "$home/model" --temperature 0 --prompt 'the quick' --bytes 24 | sed '$d'; }
write "$cpu" >"$home/want"
for schedule in order lazy 1; do
    FA_PTX_SCHEDULE=$schedule
    export FA_PTX_SCHEDULE
    write "$cuda" >"$home/got" 2>&1
    [ -s "$home/want" ] && cmp -s "$home/want" "$home/got"
    same=$?
    [ $same = 0 ] || sed 's/^/# /' "$home/want" "$home/got"
    report $same "text, schedule $schedule"
done

# bits a byte of text that was not seen: bf16 makes a difference of less than 1 %
for program in cpu cuda; do
    eval "run=\$$program"
    # shellcheck disable=SC2154,SC2086
    "$run" train --dir "$home/$program" $shape --steps 5 "$home/text" >"$home/log" 2>&1 || sed 's/^/# /' "$home/log"
    sed -n 's/^bits a byte of text not seen: \([0-9.]*\);.*/\1/p' "$home/log"
done >"$home/losses"
awk '{ x[NR] = $1 } END { exit !(NR == 2 && x[1] > 1 && x[2] > 0.99 * x[1] && x[2] < 1.01 * x[1]) }' "$home/losses" &&
    grep -q 'on the CUDA$' "$home/log"
same=$?
[ $same = 0 ] || sed 's/^/# /' "$home/losses"
report $same training

echo "$passed passed, $failed failed, 0 skipped"
[ $failed = 0 ]
