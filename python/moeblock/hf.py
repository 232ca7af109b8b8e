# SPDX-License-Identifier: Apache-2.0
"""The experts of transformers models, run by moeblock.

    import moeblock.hf
    moeblock.hf.register()
    model.set_experts_implementation("moeblock")

Families that the experts interface of transformers does not reach are served by `moeblock.hf.patch(model)`. Weights are
packed when a module is first used, or by `prepare(model)`. Inference only."""

from __future__ import annotations

import functools
import logging
import weakref
from collections.abc import Callable
from typing import Any

import torch

from ._hf_experts import Experts, PackedExperts, stacked_experts
from ._hf_patch import PATCHES
from .errors import UnsupportedError, WrongStateError

__all__ = ["NAME", "patch", "prepare", "register"]

NAME = "moeblock"
_log = logging.getLogger(__name__)
_warned: set[type] = set()


class _Packed:
    """The packed experts of one module; None when they cannot be served."""

    def __init__(self, module: torch.nn.Module, find: Callable[[Any], Experts]) -> None:
        self.find = find
        self.experts: PackedExperts | None = None
        self.versions: tuple[Any, ...] = ()
        self.released = False
        self.pack(module)

    def pack(self, module: torch.nn.Module) -> None:
        try:
            found = self.find(module)
            self.versions = _versions(found)
            self.experts = PackedExperts(found)
        except UnsupportedError as error:
            if type(module) not in _warned:
                _warned.add(type(module))
                name = type(module).__name__
                _log.warning("moeblock does not serve %s, which keeps its own forward: %s", name, error)

    def current(self, module: torch.nn.Module) -> PackedExperts | None:
        """Packed again when a parameter was written or replaced since."""
        if self.experts is not None and not self.released and self.versions != _versions(self.find(module)):
            self.pack(module)
        return self.experts


_packed: weakref.WeakKeyDictionary[torch.nn.Module, _Packed] = weakref.WeakKeyDictionary()


def _versions(found: Experts) -> tuple[Any, ...]:
    return tuple((id(tensor), tensor._version) for tensor in (found.parameters or found.tensors).values())


def _of(module: torch.nn.Module, find: Callable[[Any], Experts] = stacked_experts) -> _Packed:
    if module not in _packed:
        _packed[module] = _Packed(module, find)
    return _packed[module]


def register() -> None:
    """Puts "moeblock" into the experts interface of transformers, and into its FP8 twin where there is one."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    ALL_EXPERTS_FUNCTIONS[NAME] = experts_forward
    try:
        from transformers.integrations.finegrained_fp8 import ALL_FP8_EXPERTS_FUNCTIONS
    except ImportError:  # older releases: FP8 modules are not swappable
        return
    ALL_FP8_EXPERTS_FUNCTIONS[NAME] = experts_forward


@torch.compiler.disable  # type: ignore[untyped-decorator]
def experts_forward(
    module: torch.nn.Module, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """The function that the experts interface calls in the place of a module's forward."""
    experts = _of(module).current(module)
    if experts is not None:
        return experts.forward(hidden_states, top_k_index, top_k_weights)
    own: Any = type(module).forward
    result: torch.Tensor = own.__wrapped__(module, hidden_states, top_k_index, top_k_weights)
    return result


def patch(model: torch.nn.Module) -> int:
    """Gives the modules of `model` that the experts interface does not reach a forward with our experts; returns how
    many. A module that cannot be served keeps its own, with one warning."""
    count = 0
    for module in model.modules():
        row = PATCHES.get(type(module).__name__)
        if row is None or "forward" in vars(module):
            continue
        packed = _of(module, row.experts)
        if packed.experts is None:
            continue
        module.forward = functools.partial(_patched_forward, weakref.ref(module), row.forward)
        count += 1
    return count


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _patched_forward(reference: Any, forward: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    module = reference()
    return forward(module, _packed[module].current(module), *arguments, **options)


def prepare(model: torch.nn.Module, release: bool = False) -> int:
    """Packs the experts of every module that "moeblock" serves; returns how many. With `release` the parameters' own
    memory is freed: whoever reads one afterwards is told so."""
    count = 0
    for module in list(model.modules()):
        decorated = hasattr(module, "_apply_gate") and hasattr(type(module).forward, "__wrapped__")
        if not decorated and module not in _packed:
            continue
        packed = _of(module)
        if packed.current(module) is None:
            continue
        count += 1
        if release and not packed.released:
            _release(module, packed)
    return count


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


# What can be asked of a tensor without its values: properties, whose getters share a name, and sizes.
_ABOUT = {"__get__", "size", "dim", "stride", "numel", "element_size", "is_floating_point", "__hash__"}


def _release(module: torch.nn.Module, packed: _Packed) -> None:
    found = packed.find(module)
    served = {id(tensor) for tensor in (found.parameters or found.tensors).values()}
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if id(parameter) in served:
                empty = torch.empty(parameter.shape, dtype=parameter.dtype, device="meta")
                owner._parameters[name] = empty.as_subclass(ReleasedParameter)
    packed.released = True
