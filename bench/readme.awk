# bench/readme.awk - puts the main lines of build/bench/cpu.csv between the bench markers of README.md:
#
#     awk -f bench/readme.awk build/bench/cpu.csv README.md
#
# Three tables: forward and backward at head dims 64, 128, 256 with 2048 queries and keys, in GFLOP/s, and one query
# against a cache, in GB/s.  Columns: every program that was timed for that table.

BEGIN {
    FS = ","
    tables = split("forward backward decode", name, " ")
}

FNR == NR && FNR == 1 {
    for (i = 1; i <= NF; i++) column[$i] = i
    next
}

# The table that a line of the CSV belongs to, or nothing; and its row: what stands in front of the figures.
function place(feature, dim, dtype, square) {
    feature = $column["feature"]
    dim = $column["d"]
    dtype = $column["dtype"]
    square = $column["seqlen_q"] == 2048 && $column["seqlen_k"] == 2048 && dim == $column["dv"]
    row = $column["threads"] " | " dtype " | "
    if (feature ~ /^decode/ && $column["seqlen_q"] == 1) {
        sub(/^decode-?/, "", feature)
        row = row $column["heads_q"] "/" $column["heads_k"] " | " $column["seqlen_k"] " | " \
              (feature == "" ? "head-major" : feature == "token" ? "token-major" : feature) " |"
        return "decode"
    }
    if (!square || (dim != 64 && dim != 128 && dim != 256)) return ""
    row = row dim " | " $column["mask"] (feature == "backward-one" ? ", one head" : "") " |"
    if (feature == "plain" && (dtype == "f32" || dtype == "bf16")) return "forward"
    return feature ~ /^backward/ ? "backward" : ""
}

FNR == NR {
    table = place()
    if (table == "") next
    cpu = $column["cpu"]
    compiler = $column["compiler"]
    flags = $column["flags"]
    gsub(/_-/, " -", flags) # no commas or blanks in the CSV
    program = $column["kernel"]
    value = $column["gflops"]
    note = $column["note"]
    if (value != "" && !((table, program) in seen)) {
        seen[table, program] = 1
        programs[table, ++num_programs[table]] = program
    }
    if (!((table, row) in known)) {
        known[table, row] = 1
        rows[table, ++num_rows[table]] = row
    }
    if (value != "") {
        share = $column["share_of_peak"]
        if (table == "decode") {
            value = note + 0
            share = note
            sub(/.*share of read /, "", share)
        }
        value = sprintf("%.0f", value)
        if (program == "flashattn") value = sprintf("**%s** (%.0f %%)", value, 100 * share)
        cell[table, row, program] = value
    }
    next
}

function print_table(table, first, columns, line, rule, p, r, fields) {
    line = first
    for (p = 1; p <= num_programs[table]; p++) line = line " " programs[table, p] " |"
    rule = line
    gsub(/[^|]+/, "---", rule)
    print line
    print rule
    for (r = 1; r <= num_rows[table]; r++) {
        line = "| " rows[table, r]
        for (p = 1; p <= num_programs[table]; p++) line = line " " cell[table, rows[table, r], programs[table, p]] " |"
        print line
    }
    print ""
}

/<!-- bench:begin -->/ {
    print
    skipping = 1
    printf "On %s (%s, `%s`); made by `make bench-cpu bench-readme`.\n\n", cpu, compiler, flags
    print "Forward, 2048 queries and keys, GFLOP/s; only visible scores count. In brackets: share of the FMA rate that was"
    print "measured at the same moment.\n"
    print_table("forward", "| threads | type | head dim | mask |")
    print "Backward, the same, from Q, K, V, O, LSE and dO; ten operations a score and dimension: five products, S being\ncomputed again.\n"
    print_table("backward", "| threads | type | head dim | mask |")
    print "Decode: one query against a cache, head dim 128, GB/s of keys and values (and factors of int8). In brackets: share of"
    print "a plain read of the same memory at the same moment.\n"
    print_table("decode", "| threads | type of K, V | heads | keys | layout |")
}

/<!-- bench:end -->/ { skipping = 0 }

!skipping
