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
import os
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ._hf_experts import Experts, PackedExperts, stacked_experts
from ._hf_load import experts_of_layer, layer_of, load_without_experts
from ._hf_patch import decorated, row_of
from ._openmp import torch_context
from .block import Block
from .context import Context
from .errors import UnsupportedError, WrongStateError

__all__ = ["NAME", "from_pretrained", "patch", "prepare", "register"]

NAME = "moeblock"
OLDEST = (5, 7)  # release of transformers: the first whose models take experts implementations of others
_log = logging.getLogger(__name__)
_warned: set[type] = set()


class _Packed:
    """The packed experts of one module; None when they cannot be served."""

    def __init__(self, find: Callable[[Any], Experts], experts: PackedExperts | None = None) -> None:
        self.find = find
        self.experts = experts
        self.served: list[tuple[torch.nn.Module, str, torch.Tensor, int]] = []  # parameters as they were packed

    def pack(self, module: torch.nn.Module) -> None:
        try:
            found = self.find(module)
            self.experts = PackedExperts.of(found)
            self.served = list(_parameters(module, found))
        except UnsupportedError as error:
            if type(module) not in _warned:
                _warned.add(type(module))
                name = type(module).__name__
                _log.warning("moeblock does not serve %s, which keeps its own forward: %s", name, error)

    def current(self, module: torch.nn.Module) -> PackedExperts | None:
        """Packed again when a parameter was written or replaced since."""
        for owner, name, tensor, version in self.served:
            if owner._parameters.get(name) is not tensor or _version(tensor) != version:
                self.pack(module)
                break
        return self.experts

    def release(self) -> None:
        """Frees the parameters' memory; what is served from files has none."""
        for owner, name, tensor, _ in self.served:
            empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
            owner._parameters[name] = empty.as_subclass(ReleasedParameter)
        self.served = []


def _parameters(module: torch.nn.Module, found: Experts) -> Iterator[tuple[torch.nn.Module, str, torch.Tensor, int]]:
    served = {id(tensor) for tensor in (found.parameters or found.tensors).values()}
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if id(parameter) in served:
                yield owner, name, parameter, _version(parameter)


def _version(tensor: torch.Tensor) -> int:
    """Counts the writes to a tensor; those made under inference_mode do not count them."""
    return 0 if tensor.is_inference() else tensor._version


_packed: weakref.WeakKeyDictionary[torch.nn.Module, _Packed] = weakref.WeakKeyDictionary()


def _of(module: torch.nn.Module, find: Callable[[Any], Experts] = stacked_experts) -> _Packed:
    packed = _packed.get(module)
    if packed is None:
        packed = _packed[module] = _Packed(find)
        packed.pack(module)
    return packed


def packed_block(module: torch.nn.Module) -> Block:
    """The block that runs a module's experts."""
    experts = _of(module).current(module)
    if experts is None:
        raise UnsupportedError(f"moeblock does not serve {type(module).__name__}")
    return experts.block


def register() -> None:
    """Puts "moeblock" into the experts interface of transformers, and into its FP8 twin."""
    import transformers

    release = transformers.__version__
    if tuple(int(part) for part in release.split(".")[:2]) < OLDEST:
        raise UnsupportedError(
            f"transformers {release} takes no experts implementations but its own; "
            "pip install 'transformers>=5.7' for moeblock.hf"
        )
    from transformers.integrations.finegrained_fp8 import ALL_FP8_EXPERTS_FUNCTIONS
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    ALL_EXPERTS_FUNCTIONS[NAME] = ALL_FP8_EXPERTS_FUNCTIONS[NAME] = experts_forward


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
        row = row_of(type(module))
        if row is None or "forward" in vars(module):
            continue
        packed = _of(module, row.experts)
        if packed.experts is None:
            continue
        module.forward = functools.partial(_patched_forward, weakref.ref(module), row.forward)
        count += 1
    return count


def from_pretrained(path: str | os.PathLike[str], *, context: Context | None = None, **options: Any) -> Any:
    """The model of a checkpoint folder, its experts read straight from the files in their stored number format and
    never expanded; everything else as transformers' own from_pretrained(path, **options) loads it, or decoded to the
    model's type where the folder is quantised."""
    register()
    chosen = context or torch_context(torch.get_num_threads())
    model = load_without_experts(path, options, chosen)
    for name, module in model.named_modules():
        row = row_of(type(module))
        served = row.holders if row else decorated(type(module))
        if served:
            find = row.experts if row else stacked_experts
            _packed[module] = _Packed(find, experts_of_layer(path, layer_of(name), chosen))
    patch(model)  # also packs what could not be left out of the load
    prepare(model, release=True)
    if any(decorated(type(module)) for module in model.modules()):
        model.set_experts_implementation(NAME)
    return model.eval()


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _patched_forward(reference: Any, forward: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    module = reference()
    return forward(module, _packed[module].current(module), *arguments, **options)


def prepare(model: torch.nn.Module, release: bool = False) -> int:
    """Packs the experts of every module that "moeblock" serves; returns how many. With `release` the parameters' own
    memory is freed: whoever reads one afterwards is told so."""
    count = 0
    for module in list(model.modules()):
        if not decorated(type(module)) and module not in _packed:
            continue
        packed = _of(module)
        if packed.current(module) is None:
            continue
        count += 1
        if release:
            packed.release()
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
