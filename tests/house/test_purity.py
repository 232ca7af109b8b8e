# SPDX-License-Identifier: Apache-2.0
"""What the library's objects may refer to: memory only through base/memory.c, no aborting, exiting or printing, no
signal handlers, no mutable global state."""
import os
import re
import subprocess
import sys

import tree

BUILD = os.environ["MOEBLOCK_BUILD_DIR"]
MEMORY = {"malloc", "calloc", "realloc", "reallocarray", "free", "posix_memalign", "aligned_alloc", "strdup", "strndup",
          "asprintf", "vasprintf", "getline"}
FORBIDDEN = {"abort", "exit", "_exit", "quick_exit", "printf", "vprintf", "puts", "putchar", "perror", "stdout",
             "stderr", "signal", "sigaction", "system", "setlocale", "setenv", "putenv", "alloca"}
MEMORY_OBJECTS = {"memory.c.o"}

with open(os.path.join(BUILD, "CMakeCache.txt"), encoding="utf-8") as cache:
    if re.search(r"^MOEBLOCK_SANITIZE:STRING=.+$", cache.read(), re.M):
        print("skipped: sanitizers add calls and variables of their own")
        sys.exit(77)


def output_of(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


complaints, member = [], ""
for line in output_of("nm", "-u", os.path.join(BUILD, "libmoeblock.a")).splitlines():
    if line.endswith(":"):
        member = line[:-1]
    words = line.split()
    name = words[-1] if len(words) == 2 and words[0] == "U" else ""
    if name in FORBIDDEN or (name in MEMORY and member not in MEMORY_OBJECTS):
        complaints.append(f"{member} calls {name}")

for line in output_of("objdump", "-t", os.path.join(BUILD, "libmoeblock.a")).splitlines():
    if re.match(r"^\S+:\s+file format", line):
        member = line.split(":")[0]
    symbol = re.match(r"^[0-9a-f]+ .{6}O (\.data|\.bss|\.tdata|\.tbss|\*COM\*)(\S*)\s+[0-9a-f]+ (?:\.hidden )?(\S+)", line)
    if symbol and not symbol.group(2).startswith(".rel.ro"):
        complaints.append(f"{member} has mutable global state: {symbol.group(3)}")
tree.finish("purity", complaints)
