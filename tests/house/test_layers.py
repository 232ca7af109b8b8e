# SPDX-License-Identifier: Apache-2.0
"""The dependency rule of the folders: an #include goes to the same folder or to one further left in

    base <- kernels <- weights <- config <- routers, experts <- mesh <- block (src/*.c, src/backend) <- cli

Public headers may be included from everywhere and include only each other; examples see nothing else. jansson.h is
included by base/json.h alone."""
import os
import re

import tree

RANK = {"base": 0, "kernels": 1, "weights": 2, "config": 3, "routers": 4, "experts": 4, "mesh": 5, "block": 6, "cli": 7}
PUBLIC, FREE = "public", "free"


def folder_of(path):
    """The layer that a file belongs to: a key of RANK, PUBLIC, or FREE for tests and benchmarks."""
    parts = path.split(os.sep)
    if parts[0] == "include":
        return PUBLIC
    if parts[0] == "src":
        return "block" if len(parts) == 2 or parts[1] == "backend" else parts[1]
    return {"cli": "cli", "examples": PUBLIC}.get(parts[0], FREE)


def resolve(includer, name):
    """The file of the tree that `#include "name"` means, or None."""
    for start in (os.path.dirname(includer), "include", "src", "tests", "."):
        path = os.path.normpath(os.path.join(start, name))
        if os.path.isfile(os.path.join(tree.ROOT, path)):
            return path
    return None


def complaint_about(path, name):
    here, target = folder_of(path), resolve(path, name)
    if here == FREE:
        return None
    if target is None:
        return "is not in the tree"
    there = folder_of(target)
    if there in (PUBLIC, here):
        return None
    if here == PUBLIC:
        return "is not a public header"
    if there not in RANK or here not in RANK:
        return f"is in a folder without a layer ({here} -> {there}): add it to RANK"
    if RANK[there] >= RANK[here]:
        return f"goes against the dependency rule: {here} may not include {there}"
    return None


complaints = []
for path in tree.files("include", "src", "cli", "examples", "bench", "tests", endings=(".c", ".h", ".inl")):
    for number, line in enumerate(tree.lines(path), 1):
        include = re.match(r'\s*#\s*include\s+(["<])([^">]+)[">]', line)
        if not include:
            continue
        quoted, name = include.group(1) == '"', include.group(2)
        problem = complaint_about(path, name) if quoted else None
        if name == "jansson.h" and path != os.path.join("src", "base", "json.h") and folder_of(path) != FREE:
            problem = "is for base/json.h alone: include that"
        if problem:
            complaints.append(f"{path}:{number}: {name} {problem}")
tree.finish("folder dependencies", complaints)
