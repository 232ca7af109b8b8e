# SPDX-License-Identifier: Apache-2.0
"""Peak memory of loading a checkpoint with moeblock.hf.from_pretrained and with transformers' own from_pretrained.

    python -m moeblock.bench_hf_memory FOLDER            # a checkpoint that is there
    python -m moeblock.bench_hf_memory FOLDER --make 4   # first writes a random qwen3_moe of 4 GB into FOLDER

Each load is a process of its own; what it holds after its imports is not counted."""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

EXPERTS = (".experts.",)


def make(folder: Path, gigabytes: float) -> None:
    """Layers with the widths of Qwen3-30B-A3B, as many as it takes, a shard each; bf16, made a tensor at a time."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    from .bench_hf import SMALL, WIDTHS

    per_layer = 128 * 3 * 2048 * 768 * 2
    layers = max(1, round(gigabytes * 1e9 / per_layer + 0.49))
    config = AutoConfig.for_model("qwen3_moe", **{**SMALL, "num_hidden_layers": layers}, **WIDTHS["qwen3_moe"])
    config.architectures = ["Qwen3MoeForCausalLM"]
    config.dtype = torch.bfloat16
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    shards: dict[str, dict[str, Any]] = {}
    for name, tensor in model.state_dict().items():
        parts = name.split(".")
        shard = f"model-{int(parts[2]) + 1:05d}.safetensors" if parts[1] == "layers" else "model-00000.safetensors"
        names = {name: tuple(tensor.shape)}
        if ".experts." in name:
            prefix, (experts, rows, columns) = name.rsplit(".", 1)[0], tensor.shape
            halves = ("gate_proj", "up_proj") if name.endswith("gate_up_proj") else ("down_proj",)
            shape = (rows // len(halves), columns)
            names = {f"{prefix}.{e}.{half}.weight": shape for e in range(experts) for half in halves}
        shards.setdefault(shard, {}).update(names)
    row = torch.randn(1 << 16).to(torch.bfloat16) * 0.02
    for shard, tensors in shards.items():
        save_file({name: filled(row, shape) for name, shape in tensors.items()}, folder / shard, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: shard for shard, tensors in shards.items() for name in tensors}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def filled(row: Any, shape: tuple[int, ...]) -> Any:
    """A tensor of `shape` with the numbers of `row` over and over."""
    count = math.prod(shape)
    return row.repeat(1 + count // len(row))[:count].view(shape).clone()


def stored(folder: Path) -> tuple[int, int]:
    """Bytes of expert tensors and of all others, as stored."""
    experts = others = 0
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        for name, about in header.items():
            if name != "__metadata__":
                size = about["data_offsets"][1] - about["data_offsets"][0]
                is_expert = any(part in name for part in EXPERTS)
                experts, others = experts + size * is_expert, others + size * (not is_expert)
    return experts, others


def peak() -> int:
    """Largest resident memory of this process so far, in bytes (Linux; getrusage's figure would count the parent's)."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))


def load(folder: str, ours: bool) -> None:
    """The measured process: prints the growth of its peak from after the imports to after one forward."""
    import torch
    from transformers import AutoModelForCausalLM

    from . import hf

    before = peak()
    model = hf.from_pretrained(folder) if ours else AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    with torch.inference_mode():
        model(torch.tensor([[1, 2, 3]]))
    print(peak() - before)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m moeblock.bench_hf_memory", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--make", type=float, metavar="GB")
    parser.add_argument("--load", choices=("moeblock", "transformers"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load:
        load(str(arguments.folder), arguments.load == "moeblock")
        return
    if arguments.make:
        make(arguments.folder, arguments.make)
    experts, others = stored(arguments.folder)
    print(f"{arguments.folder}: {experts / 1e9:.2f} GB of experts, {others / 1e9:.2f} GB of other tensors as stored")
    for who in ("moeblock", "transformers"):
        command = [sys.executable, "-m", "moeblock.bench_hf_memory", str(arguments.folder), "--load", who]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no message"
            print(f"{who:12} ended with {done.returncode}: {reason}")
            continue
        grown = int(done.stdout.split()[-1])
        print(f"{who:12} peak {grown / 1e9:.2f} GB, {grown / (experts + others):.2f} of what is stored")


if __name__ == "__main__":
    main()
