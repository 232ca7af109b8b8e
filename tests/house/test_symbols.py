# SPDX-License-Identifier: Apache-2.0
"""The shared library exports what src/moeblock.symbols lists, which is what the public headers declare, and carries the
soname of its major version."""
import os
import re
import subprocess

import tree

library = os.path.join(os.environ["MOEBLOCK_BUILD_DIR"], "libmoeblock.so")


def output_of(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


exported = {line.split()[-1] for line in output_of("nm", "-D", "--defined-only", library).splitlines()}
listed_lines = [line for line in tree.lines("src/moeblock.symbols") if line and not line.startswith("#")]
listed = set(listed_lines)
declared = set()
for path in tree.files("include", endings=(".h",)):
    text = "\n".join(line for line in tree.lines(path) if not line.startswith("#"))
    declared |= set(re.findall(r"MOEBLOCK_API\s[^;{(]*?(\w+)\s*\(", text))

complaints = [f"{name} is exported but not listed in src/moeblock.symbols" for name in sorted(exported - listed)]
complaints += [f"{name} is listed in src/moeblock.symbols but not exported" for name in sorted(listed - exported)]
complaints += [f"{name} is declared in a public header but not listed" for name in sorted(declared - listed)]
complaints += [f"{name} is listed but declared in no public header" for name in sorted(listed - declared)]
if listed_lines != sorted(listed):
    complaints.append("src/moeblock.symbols is not sorted, or has a name twice")

version = "\n".join(tree.lines("include/moeblock/export.h"))
major = re.search(r"MOEBLOCK_VERSION_MAJOR (\d+)", version).group(1)
soname = re.search(r"SONAME\s+(\S+)", output_of("objdump", "-p", library)).group(1)
if soname != f"libmoeblock.so.{major}":
    complaints.append(f"the soname is {soname}, expected libmoeblock.so.{major}")
tree.finish("exported symbols", complaints)
