# SPDX-License-Identifier: Apache-2.0
"""The Python of docs/python.md does what the page says: blocks marked `test` are run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "python.md"
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "hf_generate.py"
BLOCKS = re.findall(r"^```python test(?:-hf)?\n(.*?)^```", PAGE.read_text(), re.S | re.M)


@pytest.mark.parametrize("block", BLOCKS)
def test_block(block: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_page_has_examples() -> None:
    assert len(BLOCKS) == 3


def test_generate(tmp_path: Path) -> None:
    command = [sys.executable, EXAMPLE, "--tiny", "--new-tokens", "5"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert "tokens/s" in done.stdout
