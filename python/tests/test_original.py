# SPDX-License-Identifier: Apache-2.0
"""The usage examples of the original project's README, with the import line and the mesh changed and nothing else;
alone, and as processes of an MPI job whose mpi4py communicator is the mesh."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from conftest import GOLDEN

import moeblock

CASE = GOLDEN / "deepseek_v3-bf16"
TYPES = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype(ml_dtypes.bfloat16), "I64": np.dtype("<i8")}


def state_dict_of(folder: Path) -> dict[str, np.ndarray]:
    """The state dict of the case's one layer: names from "mlp." on."""
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        for name, about in json.loads(data[8 : 8 + length]).items():
            if name == "__metadata__" or about["dtype"] not in TYPES:
                continue
            first, end = about["data_offsets"]
            raw = data[8 + length + first : 8 + length + end]
            tensors[name.removeprefix("model.layers.2.")] = np.frombuffer(raw, TYPES[about["dtype"]]).reshape(
                about["shape"]
            )
    return tensors


def published(folder: Path) -> Path:
    """The case as a folder whose first MoE layer is the one that it holds."""
    folder.mkdir(parents=True, exist_ok=True)
    described = json.loads((CASE / "config.json").read_text()) | {"first_k_dense_replace": 2}
    (folder / "config.json").write_text(json.dumps(described))
    for path in CASE.glob("*.safetensors*"):
        shutil.copy(path, folder)
    return folder


# The README's two examples as they stand there; their import line and the name of the mesh are changed below.
UNIFIED = """
from tt_moe import MoEBlock

# Initialize with DeepSeek-V3 configuration
moe = MoEBlock("configs/deepseek_v3.json", mesh_device, ccl)

# Load weights
moe.load_weights(state_dict)

# Forward pass (handles all TP operations internally)
output = moe.forward(x, mode="prefill")
"""
ADAPTER = """
from tt_moe import DeepSeekMoEAdapter

# Create adapter
adapter = DeepSeekMoEAdapter(hf_config, mesh_device, ccl)

# Use exactly like original implementation
output = adapter.forward_mlp_prefill(x, cfg)
"""


def output_of(example: str, **names: Any) -> np.ndarray:
    exec(example.replace("from tt_moe import", "from moeblock import"), names)
    return names["output"]


def both(mesh_device: Any, folder: Path) -> None:
    """In a folder whose configs/deepseek_v3.json describes the case."""
    (folder / "configs").mkdir(parents=True, exist_ok=True)
    checkpoint = published(folder / "checkpoint")
    (folder / "configs" / "deepseek_v3.json").write_text(moeblock.config(checkpoint))
    os.chdir(folder)
    x, state_dict = np.load(CASE / "input.npy"), state_dict_of(CASE)
    hf_config, cfg, ccl = checkpoint, None, None
    block = output_of(UNIFIED, mesh_device=mesh_device, ccl=ccl, state_dict=state_dict, x=x)
    adapter = output_of(ADAPTER, mesh_device=mesh_device, ccl=ccl, hf_config=hf_config, x=x, cfg=cfg)
    expected = np.load(CASE / "expected.npy")
    assert np.array_equal(block, adapter)
    assert np.sqrt(np.mean((block - expected) ** 2) / np.mean(expected**2)) < 8e-3
    if mesh_device is not None:
        alone = output_of(UNIFIED, mesh_device=None, ccl=ccl, state_dict=state_dict, x=x)
        assert np.array_equal(block, alone)


def test_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # undone after the test, whatever the test changes to
    both(None, tmp_path)


def test_configurations_of_the_adapter(tmp_path: Path) -> None:
    """A dictionary, whose weights come in a state dict; a config.json; and what transformers makes of a folder."""
    from transformers import AutoConfig

    checkpoint = published(tmp_path)
    x = np.load(CASE / "input.npy")
    expected = moeblock.DeepSeekMoEAdapter(checkpoint).forward_mlp_decode(x, {"token_ids": range(len(x))})
    described = moeblock.DeepSeekMoEAdapter(json.loads((checkpoint / "config.json").read_text()))
    with pytest.raises(moeblock.WrongStateError):
        described.forward_mlp_prefill(x, None)
    described.load_weights(state_dict_of(CASE))
    for adapter in (
        described,
        moeblock.DeepSeekMoEAdapter(str(checkpoint / "config.json")),
        moeblock.DeepSeekMoEAdapter(AutoConfig.from_pretrained(checkpoint)),
    ):
        assert np.array_equal(adapter.forward_mlp_prefill(x, None), expected)


@pytest.mark.parametrize("processes", [2, 3])
def test_under_mpi(processes: int, tmp_path: Path) -> None:
    """With an mpi4py communicator as the mesh device."""
    launcher = shutil.which("mpiexec.openmpi") or shutil.which("mpiexec")
    assert launcher, "no mpiexec: install openmpi-bin"
    options = ["--allow-run-as-root", "--oversubscribe"] if "openmpi" in launcher else []
    command = [launcher, *options, "-n", str(processes), sys.executable, __file__, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("equal") == processes


if __name__ == "__main__":
    from mpi4py import MPI

    both(MPI.COMM_WORLD, Path(sys.argv[1]) / str(MPI.COMM_WORLD.Get_rank()))
    print("equal")
