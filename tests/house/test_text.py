# SPDX-License-Identifier: Apache-2.0
"""Every source file names its licence, text files hold no tabs, trailing blanks or invisible characters, and documents
hold no placeholders."""
import os
import re

import tree

LICENCE = "SPDX-License-Identifier: Apache-2.0"
SOURCE = (".c", ".h", ".inl", ".py", ".sh", ".cmake", ".cmake.in", "CMakeLists.txt")
TEXT = SOURCE + (".md", ".json", ".symbols", ".in", ".txt")
SCRIPTS = ("scripts", ".ci")
MUST_SHOW_BAD_TEXT = ("tests", "configs")  # files there may be wrong on purpose
PLACEHOLDER = re.compile("@[A-Z][A-Z0-9_]*@")
INLINE_CODE = re.compile("`[^`]*`")
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


def placeholders_in(path):
    """What a document still has to be filled with: @WORD@ outside `code`. Fenced blocks are looked at too: they are what
    programs print."""
    for number, line in enumerate(tree.lines(path), 1):
        found = PLACEHOLDER.search(INLINE_CODE.sub("", line))
        if found:
            yield f"{path}:{number}: the placeholder {found.group()}"


documents = ["README.md", *tree.files("docs", endings=(".md",))]
paths = set(tree.files(endings=TEXT)) | set(tree.files(*SCRIPTS))
complaints = [complaint for path in sorted(paths) for complaint in complaints_about(path)]
tree.finish("text", complaints + [complaint for path in documents for complaint in placeholders_in(path)])
