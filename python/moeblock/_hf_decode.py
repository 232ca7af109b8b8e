# SPDX-License-Identifier: Apache-2.0
"""The tensors of a quantised checkpoint that are no experts, as a state dict of the model's own type: linear maps in
any published number format are decoded by the library, everything else is read as it is."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch

from ._library import call, ffi, lib, owned, path_bytes, text
from .config import Config
from .context import Context
from .errors import UnsupportedError

Tensor = torch.Tensor

ROWS_BYTES = 1 << 24  # of float32 that a thread decodes at a time

# Scales of activations and of a key-value cache, which stand beside modules that may not be quantised themselves.
_STRAY = re.compile(r"\.(input|output|q|k|v)_(scale|global_scale|zero_point)$")


class Stored(NamedTuple):
    dtype: str
    shape: tuple[int, ...]


class Checkpoint:
    """The tensors of a checkpoint folder by name."""

    def __init__(self, path: str | os.PathLike[str], context: Context) -> None:
        self.context = context
        out = ffi.new("moeblock_weights **")
        call(lib.moeblock_weights_open, context.handle, path_bytes(path), out)
        self.handle: Any = owned(out, lib.moeblock_weights_destroy, context.handle)
        self.tensors: dict[str, Stored] = {}
        count, found = ffi.new("size_t *"), ffi.new("moeblock_tensor_info *")
        call(lib.moeblock_weights_count, self.handle, count)
        for i in range(count[0]):
            call(lib.moeblock_weights_at, self.handle, i, found)
            self.tensors[text(found.name)] = Stored(text(found.dtype_name), tuple(found.dims[0 : found.rank]))

    def read(self, name: str) -> Tensor:
        """A tensor as it is stored."""
        stored, found = self.tensors[name], ffi.new("moeblock_tensor_info *")
        if stored.dtype not in _TORCH:
            raise UnsupportedError(f"tensor '{name}' is {stored.dtype}, which torch has no type for")
        tensor = torch.empty(stored.shape, dtype=_TORCH[stored.dtype])
        call(lib.moeblock_weights_find, self.handle, name.encode(), found)
        call(lib.moeblock_weights_read, self.handle, found, 0, found.bytes, ffi.cast("void *", tensor.data_ptr()))
        return tensor

    def decode(self, linear: Linear, dtype: torch.dtype) -> Tensor:
        """The weight [outputs, inputs] of a quantised linear map."""
        config = Config(linear.description(), context=self.context)
        result = torch.empty((linear.outputs, linear.inputs), dtype=dtype)
        step = max(1, ROWS_BYTES // (4 * linear.inputs))
        rows = torch.empty((min(step, linear.outputs), linear.inputs))
        for first in range(0, linear.outputs, step):
            count = min(step, linear.outputs - first)
            to = ffi.cast("float *", rows.data_ptr())
            call(lib.moeblock_config_decode, config.handle, self.handle, b"shared_up", 0, 0, first, count, to)
            result[first : first + count] = rows[:count]
        return result


_TORCH = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F64": torch.float64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
}


class Linear(NamedTuple):
    """A quantised linear map of the checkpoint."""

    module: str
    outputs: int
    inputs: int
    format: str  # what the tensors cannot tell, else "auto"
    group_size: int

    def description(self) -> dict[str, Any]:
        """A configuration whose shared expert begins with this map."""
        return {
            "model": {"hidden_size": self.inputs, "num_experts": 1, "num_experts_per_tok": 1},
            "experts": {
                "distributed": {"intermediate_size": self.outputs},
                "shared": {"intermediate_size": self.outputs, "gated": False, "activation": "identity"},
            },
            "weights": {
                "module_prefix": "",
                "format": self.format,
                "group_size": self.group_size,
                "names": {"shared_up": f"/{self.module}.weight"},
            },
        }


class Announced:
    """What a quantization_config says that tensors cannot."""

    def __init__(self, quantization: Any) -> None:
        told = quantization if isinstance(quantization, dict) else quantization.to_dict()
        method = told.get("quant_method")
        self.method = str(getattr(method, "value", method))
        second = told.get("checkpoint_format", told.get("format")) == "gptq_v2"
        self.gptq = "gptq_v2" if second else "gptq"
        size = told.get("group_size")
        self.group_size = size if isinstance(size, int) and size > 0 else 0

    def linear(self, checkpoint: Checkpoint, module: str) -> Linear | None:
        """The quantised linear map of a module, or None when it has a plain weight or none."""
        tensors = checkpoint.tensors
        words, packed = tensors.get(f"{module}.qweight"), tensors.get(f"{module}.weight_packed")
        plain = tensors.get(f"{module}.weight")
        if words is not None:
            return self._words(tensors, module, words)
        if packed is not None:
            outputs, inputs = packed.shape[0], 8 * packed.shape[1] if packed.dtype == "I32" else 2 * packed.shape[1]
            if f"{module}.weight_shape" in tensors:
                outputs, inputs = (int(size) for size in checkpoint.read(f"{module}.weight_shape"))
            return Linear(module, outputs, inputs, "auto", self.group_size)
        if plain is None or len(plain.shape) != 2 or plain.dtype not in ("F8_E4M3", "U8", "I8"):
            return None
        codes = 1 if plain.dtype == "F8_E4M3" else 2  # a byte
        return Linear(module, plain.shape[0], codes * plain.shape[1], "auto", 0)

    def _words(self, tensors: dict[str, Stored], module: str, words: Stored) -> Linear:
        zeros = tensors[f"{module}.qzeros"].shape[1]
        if self.method == "awq":
            return Linear(module, 8 * words.shape[1], words.shape[0], "awq", self.group_size)
        outputs = words.shape[1]
        codes = 8 if 8 * zeros >= outputs and 4 * zeros < outputs else 4  # a word
        name = self.gptq if codes == 8 else f"{self.gptq}_int8"
        return Linear(module, outputs, codes * words.shape[0], name, self.group_size)


def plain_state(
    checkpoint: Checkpoint, quantization: Any, dtype: torch.dtype, left_out: Callable[[str], bool]
) -> dict[str, Tensor]:
    """Every tensor that is not left out, decoded to `dtype` where it is quantised; scales and the like are used up."""
    announced = Announced(quantization)
    modules = {name.rpartition(".")[0] for name in checkpoint.tensors if not left_out(name)}
    linears = [found for module in sorted(modules) if (found := announced.linear(checkpoint, module)) is not None]
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        decoded = pool.map(lambda linear: checkpoint.decode(linear, dtype), linears)
        state = {f"{linear.module}.weight": weight for linear, weight in zip(linears, decoded, strict=True)}
    for name in _others(checkpoint, {linear.module for linear in linears}):
        if not left_out(name):
            state[name] = checkpoint.read(name)
    return state


def _others(checkpoint: Checkpoint, quantised: set[str]) -> Iterator[str]:
    for name in checkpoint.tensors:
        module, _, leaf = name.rpartition(".")
        used = module in quantised and leaf != "bias"
        if not used and not _STRAY.search(name):
            yield name
