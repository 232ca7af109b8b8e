# SPDX-License-Identifier: Apache-2.0
"""The usage examples of the original project's README, with the import line and the mesh changed and nothing else;
alone, and as processes of an MPI job whose mpi4py communicator is the mesh."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from conftest import GOLDEN

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


def unified_block(mesh_device, x, state_dict):
    config = str(CASE / "config.json")
    # "Using the Unified MoEBlock", word for word but for the first line and the configuration's path
    from moeblock import MoEBlock

    ccl = None

    # Initialize with DeepSeek-V3 configuration
    moe = MoEBlock(config, mesh_device, ccl)

    # Load weights
    moe.load_weights(state_dict)

    # Forward pass (handles all TP operations internally)
    output = moe.forward(x, mode="prefill")
    return output


def deepseek_adapter(mesh_device, x, state_dict):
    hf_config = json.loads((CASE / "config.json").read_text())
    cfg = None
    # "Using the DeepSeek Adapter"
    from moeblock import DeepSeekMoEAdapter

    ccl = None

    # Create adapter
    adapter = DeepSeekMoEAdapter(hf_config, mesh_device, ccl)
    adapter.load_weights(state_dict)

    # Use exactly like original implementation
    output = adapter.forward_mlp_prefill(x, cfg)
    return output


def both(mesh_device) -> None:
    x, state_dict = np.load(CASE / "input.npy"), state_dict_of(CASE)
    expected = np.load(CASE / "expected.npy")
    block, adapter = unified_block(mesh_device, x, state_dict), deepseek_adapter(mesh_device, x, state_dict)
    assert np.array_equal(block, adapter)
    assert np.sqrt(np.mean((block - expected) ** 2) / np.mean(expected**2)) < 8e-3
    if mesh_device is not None:
        assert np.array_equal(block, unified_block(None, x, state_dict))


def test_alone() -> None:
    both(None)


@pytest.mark.parametrize("processes", [2, 3])
def test_under_mpi(processes: int) -> None:
    """With an mpi4py communicator as the mesh device. mpi4py is optional for users, and there for this test."""
    pytest.importorskip("mpi4py")
    launcher = shutil.which("mpiexec.openmpi") or shutil.which("mpiexec")
    assert launcher, "no mpiexec: install openmpi-bin"
    options = ["--allow-run-as-root", "--oversubscribe"] if "openmpi" in launcher else []
    command = [launcher, *options, "-n", str(processes), sys.executable, __file__]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("equal") == processes


if __name__ == "__main__":
    from mpi4py import MPI

    both(MPI.COMM_WORLD)
    print("equal")
