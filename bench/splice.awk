# bench/splice.awk - puts a file between two markers of another one, as a block of code:
#
#     awk -v mark=run -f bench/splice.awk build/run.txt README.md
#
# The markers are the lines <!-- run:begin --> and <!-- run:end -->.

FNR == NR { text = text "    " $0 "\n"; next }
$0 == "<!-- " mark ":end -->" { inside = 0; found = 1 }
!inside { print }
$0 == "<!-- " mark ":begin -->" { inside = 1; printf "%s", text }
END { if (!found) { print "no marker " mark > "/dev/stderr"; exit 1 } }
