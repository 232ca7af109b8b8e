# SPDX-License-Identifier: Apache-2.0
"""Peak memory of loading a checkpoint with moeblock.hf.from_pretrained and with transformers' own from_pretrained.

    python -m moeblock.bench_hf_memory FOLDER                     # a checkpoint that is there
    python -m moeblock.bench_hf_memory FOLDER --make 4 --format fp8   # first writes a random one of 4 GB into FOLDER

The one that is made has real widths (Qwen3-30B-A3B in bf16 and FP8, gpt-oss-20b in MXFP4) and as many layers as it
takes. Each load is a process of its own; what it holds after its imports is not counted. Ends with 1 when ours takes
more than 1.15 times the experts as they are stored and the other tensors as the model holds them."""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FORMATS = {"bf16": "qwen3_moe", "fp8": "qwen3_moe", "mxfp4": "gpt_oss"}
LIMIT = 1.15
BLOCK = 128  # of FP8's scales
QUANTISATION: dict[str, dict[str, Any]] = {
    "fp8": {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "activation_scheme": "dynamic",
        "weight_block_size": [BLOCK, BLOCK],
        "modules_to_not_convert": ["lm_head", "model.embed_tokens", "mlp.gate"],
    },
    "mxfp4": {
        "quant_method": "mxfp4",
        "modules_to_not_convert": [
            *("model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"),
        ],
    },
}


def config_of(number_format: str, layers: int) -> Any:
    import torch
    from transformers import AutoConfig

    from .bench_hf import SMALL, WIDTHS

    family = FORMATS[number_format]
    sizes = {**SMALL, "num_hidden_layers": layers, **WIDTHS[family]}
    config = AutoConfig.for_model(family, **sizes)
    config.architectures = ["Qwen3MoeForCausalLM" if family == "qwen3_moe" else "GptOssForCausalLM"]
    config.dtype = torch.bfloat16
    return config


def parameters_of(config: Any) -> dict[str, tuple[int, ...]]:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def published(name: str, shape: tuple[int, ...], number_format: str) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """A parameter of the model as the tensors that a checkpoint of this format has: name, shape and type of each."""
    is_expert = ".experts." in name
    if number_format == "mxfp4":
        if is_expert and not name.endswith("_bias"):
            experts, columns, rows = shape  # input-major in the model, a row of outputs on disk
            yield f"{name}_blocks", (experts, rows, columns // 32, 16), "codes"
            yield f"{name}_scales", (experts, rows, columns // 32), "exponents"
        else:
            yield name, shape, "bf16"
        return
    parts = [(name, shape)]
    if is_expert:
        prefix, (experts, rows, columns) = name.rsplit(".", 1)[0], shape
        halves = ("gate_proj", "up_proj") if name.endswith("gate_up_proj") else ("down_proj",)
        one: tuple[int, ...] = (rows // len(halves), columns)
        parts = [(f"{prefix}.{e}.{half}.weight", one) for e in range(experts) for half in halves]
    for part, one in parts:
        quantised = number_format == "fp8" and (is_expert or ".self_attn." in part) and len(one) == 2
        yield part, one, "e4m3" if quantised else "bf16"
        if quantised:
            yield f"{part}_scale_inv", tuple(-(-size // BLOCK) for size in one), "f32"


def make(folder: Path, gigabytes: float, number_format: str) -> None:
    """A shard a layer, its numbers those of a row of random ones over and over."""
    import torch
    from safetensors.torch import save_file

    row = torch.randn(1 << 16)
    rows = {
        "bf16": (row * 0.02).to(torch.bfloat16),
        "e4m3": row.to(torch.float8_e4m3fn),
        "f32": row.abs() * 0.01 + 0.01,
        "codes": torch.randint(0, 256, row.shape, dtype=torch.uint8),
        "exponents": torch.randint(119, 123, row.shape, dtype=torch.uint8),
    }
    per_layer = sum(
        math.prod(shape) * rows[kind].element_size()
        for parameter, of_parameter in parameters_of(config_of(number_format, 1)).items()
        for _, shape, kind in published(parameter, of_parameter, number_format)
        if ".experts." in parameter
    )
    config = config_of(number_format, max(1, math.ceil(gigabytes * 1e9 / per_layer)))
    if number_format in QUANTISATION:
        config.quantization_config = QUANTISATION[number_format]
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    shards: dict[str, list[tuple[str, tuple[int, ...], str]]] = {}
    for name, shape in parameters_of(config_of(number_format, config.num_hidden_layers)).items():
        parts = name.split(".")
        shard = f"model-{int(parts[2]) + 1:05d}.safetensors" if parts[1] == "layers" else "model-00000.safetensors"
        shards.setdefault(shard, []).extend(published(name, shape, number_format))
    for shard, tensors in shards.items():
        save_file({name: filled(rows[kind], shape) for name, shape, kind in tensors}, folder / shard, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: shard for shard, tensors in shards.items() for name, _, _ in tensors}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def filled(row: Any, shape: tuple[int, ...]) -> Any:
    """A tensor of `shape` with the numbers of `row` over and over."""
    count = math.prod(shape)
    return row.repeat(1 + count // len(row))[:count].view(shape).clone()


def stored(folder: Path) -> tuple[int, int]:
    """Bytes of expert tensors as stored, and of all others as a bf16 model holds them."""
    experts = others = 0
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        for name, about in header.items():
            if name == "__metadata__":
                continue
            size = about["data_offsets"][1] - about["data_offsets"][0]
            if ".experts." in name:
                experts += size
            elif about["dtype"] == "F8_E4M3":
                others += 2 * size
            elif not name.endswith("_scale_inv"):
                others += size
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


def grown(folder: Path, who: str) -> int | str:
    """Bytes, or why there are none."""
    command = [sys.executable, "-m", "moeblock.bench_hf_memory", str(folder), "--load", who]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no message"
        return f"ended with {done.returncode}: {reason}"
    return int(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m moeblock.bench_hf_memory", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--make", type=float, metavar="GB")
    parser.add_argument("--format", choices=FORMATS, default="bf16", help="of what --make writes")
    parser.add_argument("--who", default="moeblock,transformers", help="who loads it, in this order")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--load", choices=("moeblock", "transformers"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load:
        load(str(arguments.folder), arguments.load == "moeblock")
        return
    if arguments.make:
        make(arguments.folder, arguments.make, arguments.format)
    who = [name for name in arguments.who.split(",") if name]
    experts, others = stored(arguments.folder)
    print(
        f"{experts / 1e9:.2f} GB of experts as stored, {others / 1e9:.2f} GB of other tensors as the model holds them"
    )
    document: dict[str, Any] = {"format": arguments.format, "experts": experts, "others": others, "peak": {}}
    for name in who:
        found = document["peak"][name] = grown(arguments.folder, name)
        if isinstance(found, str):
            print(f"{name:12} {found}")
            continue
        share = found / (experts + others)
        verdict = f", target {LIMIT}: {'met' if share <= LIMIT else 'MISSED'}" if name == "moeblock" else ""
        print(f"{name:12} peak {found / 1e9:.2f} GB, {share:.2f} of these{verdict}", flush=True)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({"memory": [document]}, indent=1))
    ours = document["peak"].get("moeblock", 0)
    sys.exit(isinstance(ours, str) or ours > LIMIT * (experts + others))


if __name__ == "__main__":
    main()
