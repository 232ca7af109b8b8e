#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Run by the Python of an environment that holds the wheel, numpy and cffi and nothing else: what was installed is whole,
needs no library of the system's, and runs the page's first example. The argument is docs/python.md."""

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import moeblock


def main() -> None:
    needs = sorted(need for need in importlib.metadata.requires("moeblock") if "extra" not in need)
    assert [re.match(r"\w+", need).group() for need in needs] == ["cffi", "numpy"], needs
    package = Path(moeblock.__file__).parent
    assert package.is_relative_to(sys.prefix), package
    for name in ("py.typed", "bin/moeblock", "configs/deepseek_v3.json"):
        assert (package / name).exists(), name
    licenses = [str(path) for path in importlib.metadata.files("moeblock") if "licenses" in str(path)]
    assert any("jansson" in path for path in licenses) and any("LICENSE" in path for path in licenses), licenses
    jansson = set(re.findall(r"/\S*jansson\S*", Path("/proc/self/maps").read_text()))
    assert jansson and all(path.startswith(str(package)) for path in jansson), jansson
    for library in [*(package / "lib").glob("*.so*"), package / "bin" / "moeblock"]:
        found = subprocess.run(["ldd", library], capture_output=True, text=True, check=True).stdout
        assert "not found" not in found, (library, found)

    program = Path(sys.prefix) / "bin" / "moeblock"
    info = subprocess.run([program, "info", "--json"], capture_output=True, text=True, check=True).stdout
    assert moeblock.default_context().level in info
    example = re.search(r"^```python test\n(.*?)^```", Path(sys.argv[1]).read_text(), re.S | re.M)
    exec(compile(example.group(1), sys.argv[1], "exec"), {})


if __name__ == "__main__":
    main()
