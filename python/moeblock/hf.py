# SPDX-License-Identifier: Apache-2.0
"""The experts of transformers models, run by moeblock.

    import moeblock.hf
    moeblock.hf.register()
    model.set_experts_implementation("moeblock")

Weights are packed when a module is first used, or by `prepare(model)`. Inference only."""

from __future__ import annotations

import logging
import weakref
from typing import Any

import torch

from ._hf_experts import PackedExperts, tensors_of, versions_of
from .errors import UnsupportedError, WrongStateError

__all__ = ["NAME", "prepare", "register"]

NAME = "moeblock"
_log = logging.getLogger(__name__)
_packed: weakref.WeakKeyDictionary[torch.nn.Module, PackedExperts | None] = weakref.WeakKeyDictionary()
_warned: set[type] = set()


def register() -> None:
    """Puts "moeblock" into the experts interface of transformers, and into its FP8 twin where there is one."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    ALL_EXPERTS_FUNCTIONS[NAME] = experts_forward
    try:
        from transformers.integrations.finegrained_fp8 import ALL_FP8_EXPERTS_FUNCTIONS
    except ImportError:  # older releases: FP8 modules are not swappable
        return
    ALL_FP8_EXPERTS_FUNCTIONS[NAME] = experts_forward


def prepare(model: torch.nn.Module, release: bool = False) -> int:
    """Packs every experts module of `model` that "moeblock" serves; returns how many. With `release` the parameters'
    own memory is freed: whoever reads one afterwards is told so."""
    count = 0
    for module in model.modules():
        if not _is_experts(module):
            continue
        packed = _packed_of(module)
        if packed is None:
            continue
        count += 1
        if release:
            _release(module, packed)
    return count


def _is_experts(module: torch.nn.Module) -> bool:
    forward: Any = type(module).forward
    return hasattr(module, "_apply_gate") and hasattr(forward, "__wrapped__") and "down_proj" in tensors_of(module)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def experts_forward(
    module: torch.nn.Module, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """The function that the experts interface calls in the place of a module's forward."""
    packed = _packed_of(module)
    if packed is None:
        own: Any = type(module).forward
        result: torch.Tensor = own.__wrapped__(module, hidden_states, top_k_index, top_k_weights)
        return result
    return packed.forward(hidden_states, top_k_index, top_k_weights)


def _packed_of(module: torch.nn.Module) -> PackedExperts | None:
    """The packed experts of a module, made on first use and again when a parameter has changed since; None when they
    cannot be served, which is said once per class."""
    if module in _packed:
        packed = _packed[module]
        if packed is None or packed.versions == versions_of(module):
            return packed
    try:
        packed = PackedExperts(module)
    except UnsupportedError as error:
        packed = None
        if type(module) not in _warned:
            _warned.add(type(module))
            _log.warning("moeblock does not serve %s, which keeps its own forward: %s", type(module).__name__, error)
    _packed[module] = packed
    return packed


class ReleasedParameter(torch.nn.Parameter):
    """A parameter whose memory moeblock has freed: it has a shape and a type, and no values."""

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        if getattr(function, "__name__", "") in _ABOUT:
            return super().__torch_function__(function, types, arguments, options or {})  # type: ignore[no-untyped-call]
        raise WrongStateError(
            "this parameter's values were packed by moeblock and released; load the model again, or prepare it with "
            "release=False, to read them"
        )


# What can be asked of a tensor without its values: properties by their getters' name, and what modules do with any.
_ABOUT = {
    "__get__",
    "size",
    "dim",
    "stride",
    "numel",
    "element_size",
    "is_floating_point",
    "__hash__",
    "requires_grad_",
}


def _release(module: torch.nn.Module, packed: PackedExperts) -> None:
    for name, tensor in tensors_of(module).items():
        if isinstance(tensor, torch.nn.Parameter):
            empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
            module._parameters[name] = empty.as_subclass(ReleasedParameter)
    packed.versions = versions_of(module)
