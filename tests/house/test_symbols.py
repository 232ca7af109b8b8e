# SPDX-License-Identifier: Apache-2.0
"""Each shared library exports what its list of symbols says, which is what the public headers declare, and carries the
soname of its major version. libmoeblock has src/moeblock.symbols and all headers but mpi.h, which is that of the
libmoeblock-mpi."""
import os
import re
import subprocess

import tree

BUILD = os.environ["MOEBLOCK_BUILD_DIR"]
MPI_HEADER = os.path.join("include", "moeblock", "mpi.h")


def output_of(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def complaints_about(library, symbols, headers):
    path = os.path.join(BUILD, library)
    exported = {line.split()[-1] for line in output_of("nm", "-D", "--defined-only", path).splitlines()}
    listed_lines = [line for line in tree.lines(symbols) if line and not line.startswith("#")]
    listed = set(listed_lines)
    declared = set()
    for header in headers:
        text = "\n".join(line for line in tree.lines(header) if not line.startswith("#"))
        declared |= set(re.findall(r"MOEBLOCK_API\s[^;{(]*?(\w+)\s*\(", text))
    found = [f"{name} is exported by {library} but not listed in {symbols}" for name in sorted(exported - listed)]
    found += [f"{name} is listed in {symbols} but not exported by {library}" for name in sorted(listed - exported)]
    found += [f"{name} is declared in a public header but not listed in {symbols}" for name in sorted(declared - listed)]
    found += [f"{name} is listed in {symbols} but declared in no public header" for name in sorted(listed - declared)]
    if listed_lines != sorted(listed):
        found.append(f"{symbols} is not sorted, or has a name twice")
    version = "\n".join(tree.lines("include/moeblock/export.h"))
    expected = f"{library}.{re.search(r'MOEBLOCK_VERSION_MAJOR ([0-9]+)', version).group(1)}"
    soname = re.search(r"SONAME\s+(\S+)", output_of("objdump", "-p", path)).group(1)
    if soname != expected:
        found.append(f"the soname of {library} is {soname}, expected {expected}")
    return found


headers = tree.files("include", endings=(".h",))
complaints = complaints_about("libmoeblock.so", os.path.join("src", "moeblock.symbols"),
                              [header for header in headers if header != MPI_HEADER])
for mpi in ("openmpi", "mpich"):
    if os.path.exists(os.path.join(BUILD, f"libmoeblock-mpi-{mpi}.so")):
        complaints += complaints_about(f"libmoeblock-mpi-{mpi}.so",
                                       os.path.join("src", "mesh", "mpi", "moeblock-mpi.symbols"), [MPI_HEADER])
tree.finish("exported symbols", complaints)
