# SPDX-License-Identifier: Apache-2.0
"""A transformers experts module as a block of ours: its parameters packed, its activation found, its routing taken."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch

from ._hf_gate import activation_of
from .block import Block
from .config import Config
from .context import Context, default_context
from .errors import InvalidArgumentError, InvalidConfigError, UnsupportedError, WrongStateError
from .kinds import register_router


class _Given:
    """A router for blocks that only ever get ids and weights from outside."""

    def __init__(self, config: Any, *, hidden: int, experts: int, top_k: int) -> None:
        pass

    def select(self, x: Any, aux: Any, token_ids: Any, token_types: Any) -> Any:
        raise WrongStateError("a block of experts has no router: it takes ids and weights")


@functools.lru_cache(maxsize=1)
def _with_router(context: Context) -> Context:
    register_router("given", _Given, context=context)
    return context


_BIASES = ("gate_up_proj_bias", "up_proj_bias", "down_proj_bias")
_SCALES = {torch.float8_e4m3fn: "_scale_inv"}


def tensors_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The parameters that experts have, by name."""
    names = ("gate_up_proj", "up_proj", "down_proj", *_BIASES)
    found = {name: getattr(module, name, None) for name in names}
    found |= {f"{name}_scale_inv": getattr(module, f"{name}_scale_inv", None) for name in names[:3]}
    return {name: tensor for name, tensor in found.items() if isinstance(tensor, torch.Tensor)}


def describe(module: torch.nn.Module) -> dict[str, Any]:
    """Our description of a module's experts. UnsupportedError with the reason when there is none."""
    flags: Any = module
    tensors = tensors_of(module)
    gated = bool(getattr(flags, "has_gate", True))
    inward = tensors.get("gate_up_proj" if gated else "up_proj")
    if inward is None or "down_proj" not in tensors or inward.ndim != 3:
        raise UnsupportedError("its parameters are not the stacked ones that moeblock packs")
    if getattr(flags, "has_post_expert_norm", False):
        raise UnsupportedError("a norm follows each expert")
    if getattr(flags, "activation_scheme", "dynamic") == "static":
        raise UnsupportedError("its activations are quantised with stored scales")
    activation = activation_of(module)
    if activation is None:
        raise UnsupportedError("its activation is none that moeblock computes")
    transposed = bool(getattr(flags, "is_transposed", False))
    experts, rows, columns = inward.shape
    if transposed:
        rows, columns = columns, rows
    order = "concatenated" if getattr(flags, "is_concatenated", True) else "interleaved"
    return {
        "model": {"hidden_size": columns, "num_experts": experts, "num_experts_per_tok": 1},
        "router": {"type": "given"},
        "experts": {
            "distributed": {
                "intermediate_size": rows // 2 if gated else rows,
                "gated": gated,
                "bias": "down_proj_bias" in tensors,
                **activation,
            },
            "shared": False,
        },
        "weights": {
            "module_prefix": "experts",
            "layout": "stacked",
            "orientation": "input_major" if transposed else "output_major",
            "gate_up": order if gated else "separate",
            "names": {
                "gate_up": "gate_up_proj",
                "up": "up_proj",
                "down": "down_proj",
                "gate_up_bias": "gate_up_proj_bias",
                "up_bias": "up_proj_bias",
                "down_bias": "down_proj_bias",
            },
        },
    }


class PackedExperts:
    """The experts of one module, packed. `forward` has the contract of the experts interface."""

    def __init__(self, module: torch.nn.Module, context: Context | None = None) -> None:
        description = describe(module)
        tensors = tensors_of(module)
        if any(tensor.device.type != "cpu" for tensor in tensors.values()):
            raise UnsupportedError(f"its parameters are on {next(iter(tensors.values())).device}, not on the CPU")
        self.num_experts = int(description["model"]["num_experts"])
        self.versions = versions_of(module)
        chosen = _with_router(context or default_context())
        try:
            config = Config(description, context=chosen)
        except InvalidConfigError as error:
            raise UnsupportedError(str(error)) from error
        named = {f"experts.{name}": tensor.detach() for name, tensor in tensors.items()}
        self.block = Block.from_config(config, named)

    def forward(self, hidden_states: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """[S, H], ids [S, k] (num_experts and above: a slot of another rank), weights [S, k] -> [S, H]."""
        if torch.is_grad_enabled() and (hidden_states.requires_grad or weights.requires_grad):
            raise InvalidArgumentError(
                "experts of moeblock: the input requires a gradient, which moeblock does not compute; run the model "
                "under torch.no_grad() or torch.inference_mode()"
            )
        chosen = ids.detach().numpy()
        chosen = np.where((chosen >= 0) & (chosen < self.num_experts), chosen, -1)
        result: torch.Tensor = self.block.experts(hidden_states.detach(), chosen, weights.detach())
        return result


def versions_of(module: torch.nn.Module) -> tuple[Any, ...]:
    """What changes when a parameter is written or replaced."""
    return tuple((name, id(tensor), tensor._version) for name, tensor in tensors_of(module).items())
