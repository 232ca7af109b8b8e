# SPDX-License-Identifier: Apache-2.0
"""Every source file names its licence, and text files hold no tabs, trailing blanks or invisible characters."""
import os
import re

import tree

LICENCE = "SPDX-License-Identifier: Apache-2.0"
SOURCE = (".c", ".h", ".inl", ".py", ".sh", ".cmake", ".cmake.in", "CMakeLists.txt")
TEXT = SOURCE + (".md", ".json", ".symbols", ".in", ".txt")
SCRIPTS = ("scripts", ".ci")
MUST_SHOW_BAD_TEXT = ("tests", "configs")  # files there may be wrong on purpose
INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")


def complaints_about(path):
    text = tree.lines(path)
    is_script = path.split(os.sep)[0] in SCRIPTS
    if (path.endswith(SOURCE) or is_script) and not any(LICENCE in line for line in text[:3]):
        yield f"{path}: the first three lines lack `{LICENCE}`"
    if path.startswith(MUST_SHOW_BAD_TEXT) and not path.endswith(SOURCE):
        return
    for number, line in enumerate(text, 1):
        if "\t" in line:
            yield f"{path}:{number}: a tab"
        if line != line.rstrip():
            yield f"{path}:{number}: trailing blanks"
        if INVISIBLE.search(line):
            yield f"{path}:{number}: an invisible character"
    if text[-1] != "":
        yield f"{path}: no newline at the end"


paths = set(tree.files(endings=TEXT)) | set(tree.files(*SCRIPTS))
tree.finish("text", [complaint for path in sorted(paths) for complaint in complaints_about(path)])
