# SPDX-License-Identifier: Apache-2.0
"""Writes moeblock/_declarations.py: what cffi is told about the library, taken from the public C headers.

usage: declarations.py HEADER-DIRECTORY OUTPUT
"""

import re
import sys
from pathlib import Path

HEAD = '''# SPDX-License-Identifier: Apache-2.0
"""Declarations of libmoeblock, generated from include/moeblock/*.h."""

DECLARATIONS = """
'''


def in_order(directory: Path) -> list[Path]:
    """The headers of the umbrella header, each after those that it includes."""
    done: list[Path] = []

    def visit(header: Path) -> None:
        if header in done:
            return
        for name in re.findall(r'#include "moeblock/(\w+\.h)"', header.read_text()):
            visit(directory / name)
        done.append(header)

    visit(directory / "moeblock.h")
    return done


def declarations_of(text: str) -> str:
    """A header without comments, preprocessor lines, the C++ brace and the export attribute."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.S)
    text = re.sub(r'#ifdef __cplusplus\nextern "C" \{\n#endif\n|#ifdef __cplusplus\n\}\n#endif\n', "", text)
    text = re.sub(r"#[^\n]*(?:\\\n[^\n]*)*", "", text)
    text = re.sub(r"\bMOEBLOCK_API\s+", "", text)
    return re.sub(r"\n\s*\n+", "\n", text).strip()


def main() -> None:
    directory, output = Path(sys.argv[1]), Path(sys.argv[2])
    parts = [declarations_of(header.read_text()) for header in in_order(directory)]
    output.write_text(HEAD + "\n".join(part for part in parts if part) + '\n"""\n')


if __name__ == "__main__":
    main()
