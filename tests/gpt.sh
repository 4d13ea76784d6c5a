#!/bin/sh
# tests/gpt.sh program - examples/gpt as a program: killed and resumed training, damaged files, options, texts that must
# repeat, and the comparison of ways of decoding, which must also notice copies of the program that are wrong.

# shellcheck disable=SC2086,SC2015,SC2317  # lists of words; conditions; functions that verdict calls

cd "$(dirname "$0")/.." || exit 1
program=${1:-build/native/gpt} out=build/gpt-test
[ -x "$program" ] || exit 1
rm -rf "$out"
mkdir -p "$out"
number=0 passed=0 failed=0

verdict() { # name, then a command that must succeed
    name=$1
    shift
    number=$((number + 1))
    if "$@"; then
        passed=$((passed + 1))
        echo "ok $number - $name"
    else
        failed=$((failed + 1))
        echo "not ok $number - $name"
        [ ! -s "$out/err" ] || sed 's/^/#     /' "$out/err" | tail -n 5
    fi
}

flag() { echo 'int main(void) { return 0; }' | ${CC:-cc} "$1" -x c - -o "$out/probe" 2>/dev/null && echo "$1"; }
flags="-std=c11 -O2 $(flag -march=native) $(flag -fopenmp)"
cp "$program" "$out/gpt" # what runs stays what it was

# A small model, on two files of this repository.
text='README.md examples/gpt/model.h'
shape='--dim 32 --layers 1 --heads 2 --heads-k 1 --hidden 48 --context 320 --seqlen 64 --rate 0.01'
steps='--steps 230 --guess-steps 150'
gpt() { # command, directory, options
    command=$1 dir=$2
    shift 2
    "$out/gpt" "$command" --dir "$out/$dir" $shape "$@" >"$out/out" 2>"$out/err"
}
train() { gpt train "$1" $steps --save "${2:-0}" $text; }
compare() { dir=$1 && shift && gpt compare "$dir" $steps --save 0 --bytes 96 "$@" $text; }
header() { od -An -t u8 -j "$2" -N 8 "$1" 2>/dev/null | tr -d ' '; } # number at a byte of the header
payload() { tail -c +121 "$1"; }                                 # what is behind the header
same() { # all but the seconds and the checksum
    for file in "$1" "$2"; do { head -c 80 "$file" && tail -c +89 "$file" | head -c 24 && payload "$file"; } >"$file.rest"; done
    cmp "$1.rest" "$2.rest"
}

# ---- training ----

export OMP_NUM_THREADS=1 # where others run, too, a team is slow

verdict 'trains' train whole 1000
learned() { # less than 5 bits a byte of the text not seen, where bytes by themselves take more
    awk '/^bits a byte of text not seen/ { ok = $8 > 1 && $8 < 5 && $NF > 1 && $NF < 8 } END { exit !ok }' "$out/out"
}
verdict 'learns' learned
verdict 'leaves no other file' [ ! -e "$out/whole/model.gpt.tmp" ]
svg() {
    grep -q '<svg ' "$1" && ! grep -Eq 'nan|inf' "$1" && if command -v python3 >/dev/null; then
        python3 -c 'import sys, xml.dom.minidom as xml; xml.parse(sys.argv[1])' "$1" 2>"$out/err"
    else
        tail -n 1 "$1" | grep -q '</svg>'
    fi
}
[ ! -e "$out/whole/curve.svg" ] || verdict 'draws its loss' svg "$out/whole/curve.svg"
threads() {
    OMP_NUM_THREADS=1 gpt train one --steps 30 $text && OMP_NUM_THREADS=2 gpt train two --steps 30 $text &&
        same "$out/one/model.gpt" "$out/two/model.gpt"
}
verdict 'learns the same with one thread and with two' threads
other_seed() { gpt train seed --steps 30 --seed 2 $text && ! same "$out/one/model.gpt" "$out/seed/model.gpt" >/dev/null; }
verdict 'learns something else from another seed' other_seed
again() {
    cp "$out/one/model.gpt" "$out/before" && gpt train one --steps 30 $text && grep -q 'trained already' "$out/out" &&
        cmp "$out/before" "$out/one/model.gpt" && gpt train one --steps 30 --fresh $text &&
        ! grep -q 'trained already' "$out/out" && same "$out/before" "$out/one/model.gpt"
}
verdict 'does not train again what is trained, but --fresh does' again

# Starts a command and kills it when the step in a file has passed a number; fails if it ended before.
killed() { # file, step, command ..
    file=$1 until=$2
    shift 2
    "$@" >"$out/out" 2>"$out/err" &
    process=$!
    while kill -0 $process 2>/dev/null; do
        at=$(header "$file" 56)
        [ "${at:-0}" -lt "$until" ] || break
        sleep 0.01
    done
    kill -9 $process 2>/dev/null
    wait $process 2>/dev/null
    [ $? = 137 ]
}
# Where the machine is busy a step may be missed, so not each of them must end in a kill.
killed_often() {
    kills=0
    for step in 1 2 37 90 91 150 200; do
        killed "$out/parts/model.gpt" $step "$out/gpt" train --dir "$out/parts" $shape $steps --save 0 $text && kills=$((kills + 1))
        [ $step != 37 ] || echo 'half a file' >"$out/parts/model.gpt.tmp" # as if killed while it wrote
        [ $step != 90 ] || rm -f "$out/parts/model.gpt.tmp"
    done
    [ $kills -ge 3 ] && train parts && same "$out/whole/model.gpt" "$out/parts/model.gpt" &&
        [ ! -e "$out/parts/model.gpt.tmp" ]
}
verdict 'seven times killed and resumed: the same model, moments and curve' killed_often

# ---- texts ----

generated() { gpt generate whole --bytes 100 "$@" && sed '$d' "$out/out"; }
texts() {
    generated --seed 1 >"$out/a" && generated --seed 1 >"$out/b" && generated --seed 2 >"$out/c" &&
        cmp "$out/a" "$out/b" && ! cmp -s "$out/a" "$out/c" && [ "$(wc -c <"$out/a")" -ge 125 ]
}
verdict 'a text for each seed' texts
greedy() {
    generated --temperature 0 --seed 1 >"$out/b" && generated --temperature 0 --seed 2 --top-k 9 >"$out/c" &&
        cmp "$out/b" "$out/c" && ! cmp -s "$out/a" "$out/b" && generated --top-k 1 --seed 3 >"$out/c" && cmp "$out/b" "$out/c"
}
verdict 'one text at temperature 0' greedy
threads() {
    OMP_NUM_THREADS=1 generated --seed 1 >"$out/b" && OMP_NUM_THREADS=2 generated --seed 1 >"$out/c" &&
        cmp "$out/a" "$out/b" && cmp "$out/a" "$out/c"
}
verdict 'the same text with one thread and with two' threads
prompt() { generated --prompt 'float *x' >"$out/b" && head -c 8 "$out/b" | grep -q 'float \*x'; }
verdict 'goes on with a prompt' prompt
long() { # up to the context
    gpt generate whole --bytes 100000 && [ "$(wc -c <"$out/out")" -ge 310 ] &&
        gpt generate whole --prompt "$(printf '%318s' x)" --bytes 9 && ! gpt generate whole --prompt "$(printf '%319s' x)" &&
        grep -q 'prompt has 319 bytes, the context 320' "$out/err"
}
verdict 'stops at the context' long

# ---- ways of decoding ----

compared() {
    compare whole --draws 1200 && [ "$(grep -c 'yes$' "$out/out")" = 6 ] && ! grep -Eq 'NO|nan|changed' "$out/out"
}
verdict 'every way writes the same text, or from the same law' compared
cp "$out/out" "$out/table"
resumed() {
    mkdir -p "$out/guess" && cp "$out/whole/model.gpt" "$out/guess" && kills=0
    for step in 1 60 61; do
        killed "$out/guess/guess.gpt" $step "$out/gpt" compare --dir "$out/guess" $shape $steps --save 0 $text && kills=$((kills + 1))
    done
    [ $kills -ge 1 ] && compare guess --draws 0 --bytes 8 && same "$out/whole/guess.gpt" "$out/guess/guess.gpt" && cmp "$out/whole/model.gpt" "$out/guess/model.gpt"
}
verdict 'killed and resumed: the same drafts and heads' resumed
other_model() { # the drafts of another one are not taken
    cp "$out/whole/guess.gpt" "$out/one" && gpt compare one --guess-steps 2 --draws 0 --bytes 8 $text &&
        ! grep -q 'trained already' "$out/out"
}
verdict 'trains drafts and heads for another model' other_model
small() { # options of another shape than that of the model, and the least context, to its end
    gpt train small --context 128 --steps 3 --dim 16 $text && ! compare small --bytes 320 || return
    most=$(sed -n 's/.*--bytes is at most \([0-9]*\): .*/\1/p' "$out/err")
    "$out/gpt" compare --dir "$out/small" --bytes "$most" --seqlen 64 --guess-steps 2 --draws 0 $text >"$out/out" 2>"$out/err" &&
        ! compare small --bytes $((most + 1))
}
verdict 'compares with the least context' small

# Copies with a fault, which GPT_FAULT selects.
mkdir -p "$out/copy/gpt"
cp examples/plot.h "$out/copy"
cp examples/gpt/*.[ch] "$out/copy/gpt"
edit() { # sed expression, which must change something
    sed "$1" "$out/copy/gpt/speculate.h" >"$out/copy/edited" && ! cmp -s "$out/copy/edited" "$out/copy/gpt/speculate.h" &&
        mv "$out/copy/edited" "$out/copy/gpt/speculate.h" || { echo "# nothing to change: $1" && exit 1; }
}
edit 's/^#include "train.h"/&\
static inline int fault(int n) { const char *f = getenv("GPT_FAULT"); return f \&\& atoi(f) == n; }/'
edit 's/a\.rule = rule_of(p->way, greedy)/a.rule = fault(1) \&\& !greedy ? FA_VERIFY_TYPICAL : rule_of(p->way, greedy)/'
edit 's/decoder_keep(m, accepted, count)/decoder_keep(m, fault(4) ? NULL : accepted, count)/'
edit 's/^\( *\)\(decoder_step(d, .*\), positions, mask);/\1if (fault(3)) positions[count - 1]++;\
\1\2, positions, fault(2) ? NULL : mask);/'
fault() { # number, what must be in the table, texts for the chi-square test
    cp "$out/whole/"*.gpt "$out/faulty" && ! GPT_FAULT=$1 "$out/gpt-faulty" compare --dir "$out/faulty" $shape --bytes 96 \
        --draws "$3" $text >"$out/out" 2>"$out/err" && grep -q 'ways changed the text or its law' "$out/out" &&
        grep -q "$2" "$out/out"
}
mkdir -p "$out/faulty"
build() { ${CC:-cc} $flags -I. "$out/copy/gpt/gpt.c" "$program.attention.o" -o "$out/gpt-faulty" -lm 2>"$out/err"; }
verdict 'a copy to break' build
verdict 'notices a rule that changes the law' fault 1 '0\.000$' 600
verdict 'notices a tree without its mask' fault 2 'NO$' 0
verdict 'notices a wrong position' fault 3 'NO$' 0
verdict 'notices rows that were not kept' fault 4 'NO$' 0

# ---- damage ----

mkdir -p "$out/bad"
# The file is refused with a message that names it and says what to do, and stays as it is.
refused() { # kind of file, command ..
    file=$out/bad/$1.gpt
    shift
    cp "$file" "$out/as-it-was"
    "$@"
    [ $? = 1 ] && grep "^gpt: $file" "$out/err" | grep -q 'delete it and train again' && cmp "$file" "$out/as-it-was" &&
        [ ! -e "$file.tmp" ]
}
flip() { # file, byte: some bits of it
    byte=$(od -An -t u1 -j "$2" -N 1 "$1" | tr -d ' ')
    # shellcheck disable=SC2059  # an octal escape
    printf "\\$(printf %o $((byte ^ 69)))" | dd of="$1" bs=1 seek="$2" conv=notrunc 2>/dev/null
}
fresh() { cp "$out/whole/model.gpt" "$out/whole/guess.gpt" "$out/bad"; }
size=$(wc -c <"$out/whole/model.gpt")
flipped() {
    for at in $(seq 0 3 119) 12 20 32 36 48 $(seq 120 $((size / 9)) "$size") $((size - 1)); do
        fresh && flip "$out/bad/model.gpt" "$at" && refused model gpt generate bad --bytes 1 || { echo "# byte $at" && return 1; }
    done
}
verdict 'a flipped byte anywhere' flipped
flipped_train() {
    for at in 9 17 37 48 56 66 73 90 130 $((size / 2)); do
        fresh && flip "$out/bad/model.gpt" "$at" && refused model train bad && refused model compare bad ||
            { echo "# byte $at" && return 1; }
    done
}
verdict 'a flipped byte, before training goes on' flipped_train
flipped_guess() {
    for at in 9 17 20 37 48 56 73 90 130 9999; do
        fresh && flip "$out/bad/guess.gpt" "$at" && refused guess compare bad || { echo "# byte $at" && return 1; }
    done
}
verdict 'a flipped byte of drafts and heads' flipped_guess
cut() {
    for length in 0 1 6 7 8 60 119 120 121 5000 $((size / 2)) $((size - 1)); do
        fresh && head -c "$length" "$out/whole/model.gpt" >"$out/bad/model.gpt" && refused model gpt generate bad &&
            refused model train bad || { echo "# $length bytes" && return 1; }
    done
}
verdict 'cut short anywhere' cut
longer() { fresh && echo >>"$out/bad/model.gpt" && refused model gpt generate bad && refused model train bad; }
verdict 'a byte too long' longer
kinds() {
    fresh && cp "$out/whole/guess.gpt" "$out/bad/model.gpt" && refused model gpt generate bad && refused model train bad &&
        fresh && cp "$out/whole/model.gpt" "$out/bad/guess.gpt" && refused guess compare bad &&
        fresh && cp README.md "$out/bad/model.gpt" && refused model gpt generate bad && refused model train bad
}
verdict 'a file of another kind' kinds
mended() { fresh && cp README.md "$out/bad/model.gpt" && gpt train bad --fresh --steps 2 $text && gpt generate bad --bytes 1; }
verdict '--fresh does not need the old file' mended

# ---- what cannot be ----

says() { # status, words, command ..
    status=$1 words=$2
    shift 2
    "$@"
    [ $? = "$status" ] && grep -q "^gpt: .*$words" "$out/err"
}
verdict 'no model' says 1 'none/model.gpt is not there' gpt generate none
missing() { says 1 "$out/nothing: No such file" gpt train new $text "$out/nothing" && [ ! -e "$out/new/model.gpt" ]; }
verdict 'no such text' missing
verdict 'a directory as text' says 1 'examples: Is a directory' gpt train new examples
verdict 'a text that is too short' says 1 'text is too short' gpt train new .clang-format
verdict 'a text that is too short to compare' says 1 'text is too short' gpt compare whole .clang-format
below() { "$out/gpt" train --dir README.md/x $text 2>"$out/err"; }
verdict 'a directory below a file' says 1 'README.md' below
occupied() {
    mkdir -p "$out/full/model.gpt.tmp" && says 1 'full/model.gpt.tmp: Is a directory' gpt train full --steps 2 $text &&
        [ ! -e "$out/full/model.gpt" ]
}
verdict 'a file that cannot be made' occupied
no_space() {
    rmdir "$out/full/model.gpt.tmp" && cp "$out/one/model.gpt" "$out/full" && ln -s /dev/full "$out/full/model.gpt.tmp" &&
        says 1 'full/model.gpt cannot be written: No space left' gpt train full --fresh --steps 2 $text &&
        cmp "$out/one/model.gpt" "$out/full/model.gpt"
}
[ ! -c /dev/full ] || verdict 'a disk that is full' no_space
verdict 'a rate that is too high' says 1 'lower --rate' gpt train diverge --steps 90 --rate 1 --decay 10 $text
options() {
    while read -r option value range; do
        "$out/gpt" generate --dir "$out/whole" "$option" "$value" >"$out/out" 2>"$out/err"
        [ $? = 2 ] && grep -q "^gpt: $option must be .*$range, not $value" "$out/err" ||
            { echo "# $option $value" && return 1; }
    done <<END
--dim 15 16 .. 4096
--dim 20.5 16 .. 4096
--dim x 16 .. 4096
--layers 17 1 .. 16
--layers -1 1 .. 16
--heads 0 1 .. 64
--heads-k 65 1 .. 64
--hidden 1e9 1 .. 65536
--context 127 128 .. 1048576
--batch 0 1 .. 1024
--seqlen 1 2 .. 1048576
--bytes 0 1 .. 1048576
--top-k 257 0 .. 256
--draws -1 0 .. 1000000
--seconds 0 0.1 .. 1000000000
--guess-seconds nan 0.1 .. 1000000000
--steps 0 1 .. 1e+12
--guess-steps 1.5 1 .. 1e+12
--save -1 0 .. 1000000000
--rate 0 1e-09 .. 1
--decay 11 0 .. 10
--temperature -1 0 .. 100
--temperature 1x 0 .. 100
--top-p 1.01 0 .. 1
--seed -1 0 .. 1e+15
END
}
verdict 'numbers out of range' options
usage() {
    for words in '' 'dance' 'generate --nonsense' 'generate --dir' 'generate --dim' 'generate --prompt' 'train' 'compare' \
        'run' 'generate --heads 3 --heads-k'; do
        "$out/gpt" $words >"$out/out" 2>"$out/err"
        [ $? = 2 ] && grep -q "^gpt: .*${words##* }" "$out/err" || { echo "# gpt $words" && return 1; }
    done
    "$out/gpt" generate --temperature 1e-9 2>"$out/err"
    [ $? = 2 ] && grep -q '^gpt: --temperature must be 0 or at least 1e-6' "$out/err" || return
    "$out/gpt" generate --heads 3 --heads-k 2 2>"$out/err"
    [ $? = 2 ] && grep -q '^gpt: --heads must be a multiple of --heads-k' "$out/err"
}
verdict 'bad usage' usage
run() { # all of it, in a new place, from the first byte to the table
    gpt run all --steps 40 --guess-steps 10 --draws 0 --bytes 16 $text
    [ $? -le 1 ] && [ -e "$out/all/model.gpt" ] && [ -e "$out/all/guess.gpt" ] && grep -q '^greedy' "$out/out"
}
verdict 'all of it' run

echo "$passed passed, $failed failed, 0 skipped"
[ $failed = 0 ]
