# SPDX-License-Identifier: Apache-2.0
"""The source files of the tree, for the checks beside this file. Each check collects complaints and ends with them."""
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
NOT_OURS = {".git", "build", "__pycache__", "golden"}


def files(*folders, endings=()):
    """Paths relative to the root of all files under `folders` (default: everything) with one of the endings."""
    found = []
    for folder in folders or (".",):
        for place, names, here in os.walk(os.path.join(ROOT, folder)):
            names[:] = [name for name in names if name not in NOT_OURS]
            for name in here:
                path = os.path.relpath(os.path.join(place, name), ROOT)
                if path.endswith(tuple(endings)) and not os.path.islink(os.path.join(ROOT, path)):
                    found.append(path)
    return sorted(found)


def lines(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return file.read().split("\n")


def finish(what, complaints):
    """Prints the outcome and ends the program: status 1 when there are complaints."""
    for complaint in complaints:
        print(complaint)
    print(f"{what}: {len(complaints)} complaint(s)")
    sys.exit(1 if complaints else 0)
