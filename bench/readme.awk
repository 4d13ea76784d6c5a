# bench/readme.awk - puts the main lines of build/bench/cpu.csv between the bench markers of README.md:
#
#     awk -f bench/readme.awk build/bench/cpu.csv README.md
#
# Rows: f32 and bf16, head dims 64, 128, 256, 2048 queries and keys.  Columns: every program that was timed.

BEGIN { FS = "," }

FNR == NR && FNR == 1 {
    for (i = 1; i <= NF; i++) column[$i] = i
    next
}

FNR == NR {
    threads = $column["threads"] + 0
    dtype = $column["dtype"]
    dim = $column["d"]
    if ($column["feature"] != "plain" || $column["seqlen_q"] != 2048 || $column["seqlen_k"] != 2048) next
    if (dim != $column["dv"] || (dim != 64 && dim != 128 && dim != 256) || (dtype != "f32" && dtype != "bf16")) next
    cpu = $column["cpu"]
    compiler = $column["compiler"]
    flags = $column["flags"]
    gsub(/_-/, " -", flags) # no commas or blanks in the CSV
    program = $column["kernel"]
    if (!(program in seen)) {
        seen[program] = 1
        programs[++num_programs] = program
    }
    row = threads SUBSEP dtype SUBSEP dim SUBSEP $column["mask"]
    if (!(row in known)) {
        known[row] = 1
        rows[++num_rows] = row
    }
    value = $column["gflops"]
    if (value != "") {
        value = sprintf("%.0f", value)
        if (program == "flashattn") value = sprintf("**%s** (%.0f %%)", value, 100 * $column["share_of_peak"])
    }
    cell[row, program] = value
    next
}

/<!-- bench:begin -->/ {
    print
    skipping = 1
    printf "GFLOP/s on %s (%s, `%s`), 2048 queries and keys; only visible scores count. In brackets: share of the\n" \
           "FMA rate that was measured at the same moment. `make bench-cpu bench-readme` made this table.\n\n", cpu, \
           compiler, flags
    line = "| threads | type | head dim | mask |"
    rule = "|---|---|---|---|"
    for (p = 1; p <= num_programs; p++) {
        line = line " " programs[p] " |"
        rule = rule "---|"
    }
    print line
    print rule
    for (r = 1; r <= num_rows; r++) {
        split(rows[r], part, SUBSEP)
        line = "| " part[1] " | " part[2] " | " part[3] " | " part[4] " |"
        for (p = 1; p <= num_programs; p++) line = line " " cell[rows[r], programs[p]] " |"
        print line
    }
}

/<!-- bench:end -->/ { skipping = 0 }

!skipping
