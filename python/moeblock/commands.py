# SPDX-License-Identifier: Apache-2.0
"""The command line in the package: `moeblock` itself, and its commands as functions that return their JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from ._library import PACKAGE
from .config import shipped as _path
from .errors import CLASSES, MoeblockError

PROGRAM = PACKAGE / "bin" / "moeblock"

# The status behind an exit code of the command line; several share one, the commonest stands here.
_STATUS_OF_EXIT = {64: 1, 65: 3, 66: 5, 69: 12, 70: 15, 71: 6, 74: 8, 75: 13, 78: 2}


def main() -> None:
    """The console script: becomes the program, with its arguments, streams and exit code."""
    os.execv(PROGRAM, [str(PROGRAM), *sys.argv[1:]])


def run(*arguments: str | os.PathLike[str]) -> subprocess.CompletedProcess[str]:
    """Runs one command; a failure is the exception of its exit code with the program's message."""
    done = subprocess.run(
        [str(PROGRAM), *(os.fspath(argument) for argument in arguments)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        message = done.stderr.strip().removeprefix("moeblock: ") or f"moeblock ended with {done.returncode}"
        raise CLASSES.get(_STATUS_OF_EXIT.get(done.returncode, 0), MoeblockError)(message)
    return done


def _json(*arguments: str | os.PathLike[str]) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(run(*arguments, "--json").stdout)
    return result


def _options(values: Mapping[str, Any]) -> list[str]:
    """threads=2 as ["--threads", "2"], set={"a": 1} as ["--set", "a=1"], True as a flag, None and False as nothing."""
    options: list[str] = []
    for name, value in values.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, Mapping):
            for key, item in value.items():
                options += [flag, f"{key}={item if isinstance(item, str) else json.dumps(item)}"]
        elif isinstance(value, (list, tuple)):
            options += [flag, ",".join(map(str, value))]
        elif value is True:
            options.append(flag)
        elif value is not None and value is not False:
            options += [flag, os.fspath(value) if isinstance(value, os.PathLike) else str(value)]
    return options


def info(**options: Any) -> dict[str, Any]:
    """The machine, its kernel levels, the one chosen and why."""
    return _json("info", *_options(options))


def validate(path: str | os.PathLike[str], **options: Any) -> dict[str, Any]:
    """Checks a checkpoint; what is wrong is an exception that names it."""
    return _json("validate", path, *_options(options))


def synth(config: str | os.PathLike[str], output: str | os.PathLike[str], **options: Any) -> dict[str, Any]:
    """Writes a synthetic checkpoint: synth("deepseek_v3.json", "out", format="fp8", layer=3)."""
    return _json("synth", _path(config), "--output", output, *_options(options))


def bench(config: str | os.PathLike[str], **options: Any) -> dict[str, Any]:
    """Times a block beside the machine's limits: bench("config.json", format="bf16", tokens=[1, 512])."""
    return _json("bench", _path(config), *_options(options))
