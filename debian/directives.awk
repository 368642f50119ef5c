# Prints the index of docs/directives.md as entries of a manual page.

# "4k\|8k" is no end of a cell.
{ gsub(/\\\|/, "\001") }

/^\| \[`wsgi_/ {
    split($0, cell, / *\| */)
    sub(/^\[`/, "", cell[2])
    sub(/`\].*/, "", cell[2])
    set = cell[3] == "—" ? "no default" : "default: " cell[3]
    text = ".TP\n.B " cell[2] "\n" cell[5] "\n(" cell[4] "; " set ")"
    gsub("\001", "|", text)
    gsub("`", "", text)
    # Not at the start of a line and not hyphens: what roff would read otherwise.
    gsub(/-/, "\\-", text)
    gsub(/\n'/, "\n\\(aq", text)
    print text
}
