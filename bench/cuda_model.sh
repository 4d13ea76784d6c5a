#!/bin/sh
# bench/cuda_model.sh [--seqlen N] (make cuda-model) - what the PTX machine predicts for each kernel, without a GPU: the
# instructions, shared-memory wavefronts and bytes that it counts, over published rates (tests/ptx/report.c). Predicted,
# not measured: no latencies, no clock changes, no scheduling.
#
# One head of N (1024) queries and keys, every key visible; decode: one query of 8 and of 32 heads, 4 N keys. Fewer thread
# blocks than SMs, so the times are those of one block by itself, which has 64 to 192 queries: times of kernels with other
# tiles do not compare. "overlap": everything hides behind the busiest unit; "serial": the tensor cores wait for the
# softmax. Several blocks an SM lead from serial to overlap. "tensor": the share of the time in which tensor cores work.

cd "$(dirname "$0")/.." || exit 2
seqlen=1024
[ "$1" != --seqlen ] || seqlen=$2
export FA_PTX_CHECKS=0
${MAKE:-make} -s build/cuda80/each_kernel build/cuda90/each_kernel || exit 2
rm -f build/model80.csv build/model90.csv
FA_PTX_DEVICE=sm_80 FA_PTX_REPORT=build/model80.csv build/cuda80/each_kernel --seqlen "$seqlen" >build/model.log &&
    FA_PTX_REPORT=build/model90.csv build/cuda90/each_kernel --seqlen "$seqlen" >>build/model.log ||
    { cat build/model.log >&2 && exit 1; }
printf 'predicted, not measured; %s x %s, one head; microseconds\n' "$seqlen" "$seqlen"
awk -F, -v q='"' '
    BEGIN { ghz["A100"] = 1.41; ghz["H100"] = ghz["H200"] = 1.83 } # as in report.c
    function bare(s) { gsub(q, "", s); return s }
    FNR == 1 { file++; next }
    { sub(/\([^)]*\)/, "") } # parameters, with their commas
    { key = file " " $1; name[key] = bare($2); sub(/^fai_bench/, "d", name[key])
      sub(/_kernel/, "", name[key]); sub(/_cuda/, "", name[key]) }
    $3 ~ /^predicted_clocks_/ {
        card = substr($3, 18)
        if ($5 > top[key, card]) { top[key, card] = $5; limit[key, card] = bare($4) }
        if (bare($4) == "tensor") tensor[key, card] = $5
    }
    $3 == "predicted_floor_ms" {
        card = bare($4)
        if (!((file == 1) == (card == "A100"))) next # each card its own code
        if (name[key] !~ /^d[0-9]/) next # makes the codes that fp8 starts from
        floor[key, card] = $5 * 1000
        order[++n] = key; of[n] = card
    }
    $3 == "predicted_serial_ms" { serial[key, bare($4)] = $5 * 1000 }
    END {
        printf "%-28s %-6s %9s %9s %8s  %s\n", "kernel", "card", "overlap", "serial", "tensor", "limited by"
        for (i = 1; i <= n; i++) {
            k = order[i]; c = of[i]; f = floor[k, c]; s = serial[k, c]; t = tensor[k, c] / ghz[c] / 1000
            memory = f > top[k, c] / ghz[c] / 1000 * 1.01
            share = t ? sprintf("%.0f-%.0f %%", 100 * t / s, 100 * t / f) : "-"
            printf "%-28s %-6s %9.1f %9.1f %8s  %s\n", name[k], c, f, s, share, memory ? "memory" : limit[k, c]
        }
    }' build/model80.csv build/model90.csv
