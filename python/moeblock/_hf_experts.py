# SPDX-License-Identifier: Apache-2.0
"""The experts of a transformers module as a block of ours: parameters packed, routing taken from the model."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from . import arrays
from ._hf_gate import activation_of
from ._openmp import torch_context
from .block import Block
from .config import Config
from .context import Context
from .errors import InvalidArgumentError, InvalidConfigError, UnsupportedError, WrongStateError
from .kinds import register_router

Tensor = torch.Tensor


class _Given:
    """A router for blocks that only ever get ids and weights from outside."""

    def __init__(self, config: Any, *, hidden: int, experts: int, top_k: int) -> None:
        pass

    def select(self, x: Any, aux: Any, token_ids: Any, token_types: Any) -> Any:
        raise WrongStateError("a block of experts has no router: it takes ids and weights")


@functools.cache
def with_router(context: Context) -> Context:
    register_router("given", _Given, context=context)
    return context


@dataclass
class Experts:
    """What a module's experts are, in our words: tensors by their place, and the keys that describe them."""

    experts: int
    hidden: int
    intermediate: int
    tensors: dict[str, Tensor]  # by the names in `weights`
    distributed: dict[str, Any]  # activation and the like
    weights: dict[str, Any]  # layout, orientation, gate_up
    weight_on_input: bool = False
    top_k: int = 1  # slots that a token usually has: what one pass makes room for
    parameters: dict[str, Tensor] = field(default_factory=dict)  # of the module, to notice a change; `tensors` if none

    def description(self) -> dict[str, Any]:
        return {
            "model": {"hidden_size": self.hidden, "num_experts": self.experts, "num_experts_per_tok": self.top_k},
            "router": {"type": "given", "config": {"apply_weight": "input"} if self.weight_on_input else {}},
            "experts": {"distributed": {"intermediate_size": self.intermediate, **self.distributed}, "shared": False},
            "weights": {"module_prefix": "", **self.weights},
        }


_STACKED = {
    "gate_up": "gate_up_proj",
    "up": "up_proj",
    "down": "down_proj",
    "gate_up_bias": "gate_up_proj_bias",
    "up_bias": "up_proj_bias",
    "down_bias": "down_proj_bias",
}


def stacked_experts(module: Any) -> Experts:
    """A module that carries the decorator of the experts interface. UnsupportedError says what it has that we lack."""
    names = [*_STACKED.values(), "gate_up_proj_scale_inv", "up_proj_scale_inv", "down_proj_scale_inv"]
    found = {name: getattr(module, name, None) for name in names}
    tensors = {name: tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}
    gated = bool(getattr(module, "has_gate", True))
    inward = tensors.get("gate_up_proj" if gated else "up_proj")
    if inward is None or inward.ndim != 3 or "down_proj" not in tensors:
        raise UnsupportedError("its parameters are not the stacked ones that moeblock packs")
    if getattr(module, "has_post_expert_norm", False):
        raise UnsupportedError("a norm follows each expert")
    if getattr(module, "activation_scheme", "dynamic") == "static":
        raise UnsupportedError("its activations are quantised with stored scales")
    transposed = bool(getattr(module, "is_transposed", False))
    rows, hidden = inward.shape[:0:-1] if transposed else inward.shape[1:]
    order = "concatenated" if getattr(module, "is_concatenated", True) else "interleaved"
    return Experts(
        experts=inward.shape[0],
        hidden=hidden,
        intermediate=rows // 2 if gated else rows,
        top_k=usual_top_k(module, inward.shape[0]),
        tensors=tensors,
        distributed={"gated": gated, "bias": "down_proj_bias" in tensors, **known_activation(module)},
        weights={
            "layout": "stacked",
            "orientation": "input_major" if transposed else "output_major",
            "gate_up": order if gated else "separate",
            "names": _STACKED,
        },
    )


def usual_top_k(module: Any, experts: int) -> int:
    """k as the module's configuration spells it; 8 when it says nothing."""
    config = getattr(module, "config", None)
    names = ("num_experts_per_tok", "moe_top_k", "moe_topk", "moe_k", "top_k_experts", "num_experts_per_token")
    found = [value for name in names if isinstance(value := getattr(config, name, None), int) and value > 0]
    return min(found[0] if found else 8, experts)


def known_activation(module: Any) -> dict[str, Any]:
    keys = activation_of(module)
    if keys is None:
        raise UnsupportedError("its activation is none that moeblock computes")
    return keys


_UNSIGNED = {4: np.uint32, 8: np.uint64}


class PackedExperts:
    """Experts packed in a block. `forward` has the contract of the experts interface."""

    def __init__(self, block: Block, num_experts: int) -> None:
        self.block = block
        self.num_experts = num_experts

    @classmethod
    def of(cls, experts: Experts, context: Context | None = None) -> PackedExperts:
        """Packs tensors. UnsupportedError says what is in the way."""
        device = next(iter(experts.tensors.values())).device
        if device.type != "cpu":
            raise UnsupportedError(f"its parameters are on {device}, not on the CPU")
        try:
            config = Config(
                experts.description(), context=with_router(context or torch_context(torch.get_num_threads()))
            )
        except InvalidConfigError as error:
            raise UnsupportedError(str(error)) from error
        tensors = {name: tensor.detach() for name, tensor in experts.tensors.items()}
        return cls(Block.from_config(config, tensors), experts.experts)

    def forward(self, hidden_states: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        """[S, H], ids [S, k] (num_experts and above: a slot of another rank), weights [S, k] -> [S, H]."""
        if torch.is_grad_enabled() and (hidden_states.requires_grad or weights.requires_grad):
            raise InvalidArgumentError(
                "experts of moeblock: the input requires a gradient, which moeblock does not compute; run the model "
                "under torch.no_grad() or torch.inference_mode()"
            )
        rows = arrays.activation(hidden_states, "hidden_states")
        given = ids.numpy()
        chosen = given.astype(np.int32)
        np.putmask(chosen, given.view(_UNSIGNED[given.itemsize]) >= self.num_experts, -1)  # and ids below zero
        y: Tensor = arrays.empty_like(rows)
        self.block.run_experts(rows, chosen, arrays.float32(weights), ids.shape[-1], y)
        return y
