# SPDX-License-Identifier: Apache-2.0
"""Checkpoint folders in published number formats, made from a plain one, and beside each the plain folder of the values
that it stands for: formulas of docs/formats.md in torch, independent of the library."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file

Tensor = torch.Tensor
GROUP = 32
E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def spread(scale: Tensor, rows: int, columns: int, shape: tuple[int, int]) -> Tensor:
    """A scale for every weight of tiles [rows, columns]."""
    return scale.repeat_interleave(rows, 0).repeat_interleave(columns, 1)[: shape[0], : shape[1]]


def largest(weight: Tensor, rows: int, columns: int) -> Tensor:
    """The largest magnitude of every tile."""
    tiles = torch.zeros(-(-weight.shape[0] // rows), -(-weight.shape[1] // columns))
    for i in range(tiles.shape[0]):
        for j in range(tiles.shape[1]):
            tiles[i, j] = weight[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns].abs().max()
    return tiles


def words(codes: Tensor, bits: int = 4, order: tuple[int, ...] = tuple(range(8))) -> Tensor:
    """Codes of the last dimension, as many to a 32-bit word as fit, code i at place order[i]."""
    grouped = codes.to(torch.int64).reshape(*codes.shape[:-1], -1, 32 // bits)
    word = sum(grouped[..., i] << (bits * order[i]) for i in range(32 // bits))
    return torch.where(word >= 1 << 31, word - (1 << 32), word).to(torch.int32)


def nibbles(codes: Tensor) -> Tensor:
    return (codes[..., ::2] | codes[..., 1::2] << 4).to(torch.uint8)


def nearest_e2m1(values: Tensor) -> Tensor:
    return (values[..., None] - E2M1).abs().argmin(-1)


def fp8(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    scale = largest(weight, 128, 128) / 448
    codes = (weight / spread(scale, 128, 128, weight.shape)).to(torch.float8_e4m3fn)
    return {"weight": codes, "weight_scale_inv": scale}, codes.float() * spread(scale, 128, 128, weight.shape)


def ct_fp8(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    scale = weight.abs().amax(1, keepdim=True) / 448
    codes = (weight / scale).to(torch.float8_e4m3fn)
    return {"weight": codes, "weight_scale": scale}, codes.float() * scale


def ct_int(weight: Tensor, bits: int = 4) -> tuple[dict[str, Tensor], Tensor]:
    half = 1 << (bits - 1)
    scale = largest(weight, 1, GROUP) / (half - 1)
    codes = (weight / spread(scale, 1, GROUP, weight.shape)).round().clamp(-half, half - 1) + half
    stored = {"weight_packed": words(codes, bits), "weight_scale": scale, "weight_shape": torch.tensor(weight.shape)}
    return stored, (codes - half) * spread(scale, 1, GROUP, weight.shape)


def ct_int_asym(weight: Tensor, bits: int = 4) -> tuple[dict[str, Tensor], Tensor]:
    codes, scale, zero, values = _zero_points(weight, torch.arange(weight.shape[1]) // GROUP, bits)
    return {
        "weight_packed": words(codes.T.contiguous(), bits),
        "weight_scale": scale.T,
        "weight_zero_point": words(zero, bits).T,
        "weight_shape": torch.tensor(weight.shape),
    }, values


def _nvfp4(weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    total = weight.abs().max() / (6 * 448)
    scale = (largest(weight, 1, 16) / 6 / total).to(torch.float8_e4m3fn)
    whole = spread(scale.float(), 1, 16, weight.shape) * total
    codes = nearest_e2m1(weight / whole)
    return nibbles(codes), scale, total, E2M1[codes] * whole


def nvfp4(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    codes, scale, total, values = _nvfp4(weight)
    stored = {"weight": codes, "weight_scale": scale, "weight_scale_2": total, "input_scale": torch.tensor(0.1)}
    return stored, values


def ct_nvfp4(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    codes, scale, total, values = _nvfp4(weight)
    return {"weight_packed": codes, "weight_scale": scale, "weight_global_scale": 1 / total.reshape(1)}, values


def mxfp4_codes(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Nibbles, e8m0 exponents and values of groups of 32 along the last dimension."""
    groups = weight.reshape(*weight.shape[:-1], -1, 32)
    exponent = torch.log2(groups.abs().amax(-1) / 6).ceil().clamp(-120, 120)
    codes = nearest_e2m1(groups / torch.exp2(exponent)[..., None])
    values = (E2M1[codes] * torch.exp2(exponent)[..., None]).reshape(weight.shape)
    return nibbles(codes), (exponent + 127).to(torch.uint8), values


def ct_mxfp4(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    codes, exponents, values = mxfp4_codes(weight)
    return {"weight_packed": codes.flatten(1), "weight_scale": exponents}, values


def _zero_points(weight: Tensor, group_of: Tensor, bits: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Codes [inputs, outputs], scales and zero points [groups, outputs], values."""
    turned = weight.T
    groups = int(group_of.max()) + 1
    members = [turned[group_of == g] for g in range(groups)]
    low = torch.stack([rows.amin(0).clamp(max=0) for rows in members])
    high = torch.stack([rows.amax(0).clamp(min=0) for rows in members])
    most = (1 << bits) - 1
    scale = ((high - low) / most).half()
    zero = (-low / scale.float()).round().clamp(1, most)
    codes = (turned / scale.float()[group_of] + zero[group_of]).round().clamp(0, most)
    return codes, scale, zero, ((codes - zero[group_of]) * scale.float()[group_of]).T.contiguous()


def awq(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    codes, scale, zero, values = _zero_points(weight, torch.arange(weight.shape[1]) // GROUP)
    places = (0, 4, 1, 5, 2, 6, 3, 7)
    return {"qweight": words(codes, order=places), "qzeros": words(zero, order=places), "scales": scale}, values


def gptq(
    weight: Tensor, act_order: bool = False, bits: int = 4, second: bool = False
) -> tuple[dict[str, Tensor], Tensor]:
    group_of = torch.arange(weight.shape[1]) // GROUP
    if act_order:
        group_of = group_of[torch.randperm(len(group_of), generator=torch.Generator().manual_seed(5))]
    codes, scale, zero, values = _zero_points(weight, group_of, bits)
    return {
        "qweight": words(codes.T.contiguous(), bits).T.contiguous(),
        "qzeros": words(zero if second else zero - 1, bits),
        "scales": scale,
        "g_idx": group_of.to(torch.int32),
    }, values


def compressed(format: str, **weights: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": {"symmetric": True, **weights}}
    ignore = ["lm_head", "re:.*mlp.gate$"]
    return {"quant_method": "compressed-tensors", "format": format, "config_groups": {"g": group}, "ignore": ignore}


class Format(NamedTuple):
    quantise: Callable[[Tensor], tuple[dict[str, Tensor], Tensor]]
    config: dict[str, Any]


def integers(bits: int, symmetric: bool = True) -> dict[str, Any]:
    return compressed(
        "pack-quantized", num_bits=bits, type="int", strategy="group", group_size=GROUP, symmetric=symmetric
    )


def gptq_of(bits: int = 4, act_order: bool = False, form: str = "gptq") -> Format:
    config = {"quant_method": "gptq", "bits": bits, "group_size": GROUP, "desc_act": act_order}
    return Format(
        lambda weight: gptq(weight, act_order, bits, form == "gptq_v2"), {**config, "checkpoint_format": form}
    )


FORMATS = {
    "fp8": Format(fp8, {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}),
    "ct_fp8": Format(ct_fp8, compressed("float-quantized", num_bits=8, type="float", strategy="channel")),
    "ct_int4": Format(ct_int, integers(4)),
    "ct_int4_asym": Format(ct_int_asym, integers(4, symmetric=False)),
    "ct_int8": Format(lambda weight: ct_int(weight, 8), integers(8)),
    "ct_int8_asym": Format(lambda weight: ct_int_asym(weight, 8), integers(8, symmetric=False)),
    "ct_nvfp4": Format(
        ct_nvfp4, compressed("nvfp4-pack-quantized", num_bits=4, type="float", strategy="tensor_group", group_size=16)
    ),
    "ct_mxfp4": Format(
        ct_mxfp4, compressed("mxfp4-pack-quantized", num_bits=4, type="float", strategy="group", group_size=32)
    ),
    "nvfp4": Format(nvfp4, {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"]}),
    "awq": Format(awq, {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"}),
    "gptq": gptq_of(),
    "gptq_act_order": gptq_of(act_order=True),
    "gptq_v2": gptq_of(form="gptq_v2"),
    "gptq_int8": gptq_of(bits=8),
}


def is_linear(name: str, tensor: Tensor) -> bool:
    return tensor.ndim == 2 and "_proj" in name and name.endswith(".weight")


def quantise_folder(plain: Path, to: Path, format: Format, chosen: Callable[[str], bool] = lambda name: True) -> Path:
    """Writes `to`/quantised with the chosen linear maps of `plain` in a format, and `to`/decoded with their values.
    Returns the first."""
    decoded = load_file(plain / "model.safetensors")
    stored = {}
    for name, tensor in list(decoded.items()):
        if not is_linear(name, tensor) or not chosen(name):
            stored[name] = tensor
            continue
        parts, values = format.quantise(tensor.float())
        decoded[name] = values
        stored.update({f"{name.removesuffix('weight')}{part}": value for part, value in parts.items()})
    return write_pair(plain, to, stored, decoded, format.config)


def write_pair(
    plain: Path, to: Path, stored: dict[str, Tensor], decoded: dict[str, Tensor], config: dict[str, Any]
) -> Path:
    for name, tensors in (("quantised", stored), ("decoded", decoded)):
        (to / name).mkdir(parents=True)
        save_file(
            {key: tensor.contiguous() for key, tensor in tensors.items()},
            to / name / "model.safetensors",
            {"format": "pt"},
        )
        for file in plain.glob("*.json"):
            shutil.copy(file, to / name)
    about = json.loads((plain / "config.json").read_text())
    (to / "quantised" / "config.json").write_text(json.dumps({**about, "quantization_config": config}))
    return to / "quantised"


def fbgemm(turned: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Codes [experts, inputs, outputs], a scale an output."""
    scale = turned.abs().amax(1, keepdim=True) / 448
    codes = (turned / scale).to(torch.float8_e4m3fn)
    return {"": codes, "_scale": scale}, codes.float() * scale


def modelopt_fp8(turned: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """One scale for all experts."""
    scale = turned.abs().max() / 448
    codes = (turned / scale).to(torch.float8_e4m3fn)
    return {"": codes, "_weight_scale": scale, "_input_scale": torch.tensor(0.1)}, codes.float() * scale


def modelopt_nvfp4(turned: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Two inputs a byte, 16 a scale: [experts, inputs / 2, outputs] and [experts, inputs / 16, outputs]."""
    experts, inputs, outputs = turned.shape
    codes, scale, total, values = _nvfp4(turned.transpose(1, 2).reshape(-1, inputs))
    codes, scale, values = (part.reshape(experts, outputs, -1).transpose(1, 2) for part in (codes, scale, values))
    return {"": codes, "_weight_scale": scale, "_weight_scale_2": total, "_input_scale": torch.tensor(0.1)}, values


LLAMA4 = {  # of stacked experts, and of the other linear maps
    "fbgemm_fp8": (
        fbgemm,
        Format(ct_fp8, {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0, "modules_to_not_convert": []}),
    ),
    "modelopt_fp8": (modelopt_fp8, Format(ct_fp8, {"quant_method": "modelopt", "quant_algo": "FP8"})),
    "modelopt_nvfp4": (modelopt_nvfp4, Format(nvfp4, {"quant_method": "modelopt", "quant_algo": "NVFP4"})),
}


def llama4_folder(plain: Path, to: Path, name: str) -> Path:
    """Experts as llama4 has them, all of a layer in one tensor that is stored by input."""
    experts, other = LLAMA4[name]
    decoded = load_file(plain / "model.safetensors")
    stored = {}
    for part, tensor in list(decoded.items()):
        if tensor.ndim == 3:
            parts, values = experts(tensor.float())
            if name == "fbgemm_fp8" and part.endswith("down_proj"):
                parts["_scale"] = parts["_scale"].transpose(1, 2)  # as it is published
            stored |= {f"{part}{suffix}": value for suffix, value in parts.items()}
        elif is_linear(part, tensor):
            parts, values = other.quantise(tensor.float())
            stored |= {f"{part.removesuffix('weight')}{suffix}": value for suffix, value in parts.items()}
        else:
            stored[part] = values = tensor
        decoded[part] = values
    return write_pair(plain, to, stored, decoded, other.config)


def mxfp4_folder(plain: Path, to: Path) -> Path:
    """gpt_oss as it is published: the experts alone, stored by output, in blocks of 32 inputs."""
    decoded = load_file(plain / "model.safetensors")
    stored = {}
    for name, tensor in list(decoded.items()):
        if not name.endswith(("gate_up_proj", "down_proj")):
            stored[name] = tensor
            continue
        codes, exponents, values = mxfp4_codes(tensor.float().transpose(1, 2).contiguous())
        stored |= {f"{name}_blocks": codes, f"{name}_scales": exponents}
        decoded[name] = values.transpose(1, 2)
    config = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}
    return write_pair(plain, to, stored, decoded, config)
