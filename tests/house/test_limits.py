# SPDX-License-Identifier: Apache-2.0
"""Sizes that keep the code readable: files of 500 lines, functions a screen long, lines of 120 columns. Tables (named
*_table, schema, families, spellings, options) and kernels may be longer."""
import os
import re

import tree

FILE_LINES, LINE_COLUMNS = 500, 120
FUNCTION_LINES, LONGEST_FUNCTION, LONGEST_KERNEL = 60, 100, 150
SHORT_SHARE = 0.95  # of the functions stay within FUNCTION_LINES
TABLE = re.compile(r"(_table|schema|families|spellings|options)\.(c|h|inl)$")


def functions(text):
    """(first line, length) of each function: clang-format puts its braces alone in column 0."""
    start = None
    for number, line in enumerate(text, 1):
        if line == "{":
            start = number
        elif line == "}" and start is not None:
            yield start, number - start + 1
            start = None


complaints, total, long_ones = [], 0, []
for path in tree.files("include", "src", "cli", "examples", "bench", "tests", endings=(".c", ".h", ".inl")):
    text = tree.lines(path)
    if len(text) - 1 > FILE_LINES and not TABLE.search(path) and not path.startswith("tests"):
        complaints.append(f"{path}: {len(text) - 1} lines, at most {FILE_LINES}")
    for number, line in enumerate(text, 1):
        if len(line) > LINE_COLUMNS and '"' not in line:
            complaints.append(f"{path}:{number}: {len(line)} columns, at most {LINE_COLUMNS}")
    limit = LONGEST_KERNEL if path.startswith(os.path.join("src", "kernels")) else LONGEST_FUNCTION
    for number, length in functions(text):
        total += 1
        if length > FUNCTION_LINES:
            long_ones.append(f"{path}:{number}: a function of {length} lines")
        if length > limit and not TABLE.search(path):
            complaints.append(f"{path}:{number}: a function of {length} lines, at most {limit}")
if len(long_ones) > (1 - SHORT_SHARE) * total:
    complaints += [f"{one} ({FUNCTION_LINES} for {SHORT_SHARE:.0%} of all {total})" for one in long_ones]
tree.finish("sizes", complaints)
