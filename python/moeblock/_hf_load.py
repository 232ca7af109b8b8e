# SPDX-License-Identifier: Apache-2.0
"""A transformers model whose experts stay in the checkpoint's number format: they are never made by torch, but read
straight from the files by the library; everything else is loaded by transformers as usual."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
from collections.abc import Iterator
from typing import Any

import torch

from ._hf_experts import PackedExperts, with_router
from ._hf_patch import PATCHES
from .block import Block
from .config import Config
from .context import Context
from .errors import UnsupportedError

# Quantisation methods that transformers' loader understands on a CPU for what is not an expert.
_THEIRS = ("fp8", "mxfp4")


def model_class(config: Any) -> Any:
    """The class that the checkpoint's own `architectures` names."""
    import transformers

    for name in getattr(config, "architectures", None) or []:
        if hasattr(transformers, name):
            return getattr(transformers, name)
    raise UnsupportedError(
        f"loading a {config.model_type} model: its config.json names no architecture that transformers {_version()} "
        "has; load the model yourself and call moeblock.hf.prepare"
    )


def _version() -> str:
    import transformers

    return str(transformers.__version__)


def decorated(kind: Any) -> bool:
    """Whether a module's class carries the decorator of the experts interface."""
    return hasattr(kind, "_apply_gate") and hasattr(kind.forward, "__wrapped__")


def holders(model_type: Any) -> list[Any]:
    """Classes of a model's module that own expert parameters and nothing else."""
    module = importlib.import_module(model_type.__module__)
    named = {name for row in PATCHES.values() for name in row.holders}
    classes: list[Any] = [value for value in vars(module).values() if isinstance(value, type)]
    return [c for c in classes if c.__name__ in named or decorated(c)]


@contextlib.contextmanager
def without_experts(model_type: Any) -> Iterator[None]:
    """While it lasts, experts modules are made without memory and without entries in the state dict, so that a
    loader neither reads nor initialises them."""
    classes = holders(model_type)
    before = {c: c.__init__ for c in classes}
    ignored = model_type._keys_to_ignore_on_load_unexpected

    def make(own: Any) -> Any:
        def init(self: Any, *arguments: Any, **options: Any) -> None:
            with torch.device("meta"):
                own(self, *arguments, **options)
            for name in list(self._parameters):
                parameter = self._parameters.pop(name)
                self.__dict__[name] = None if parameter is None else parameter.data

        return init

    try:
        for c in classes:
            c.__init__ = make(before[c])
        model_type._keys_to_ignore_on_load_unexpected = [*(ignored or []), r"\.(experts|ffn\.experts)\."]
        yield
    finally:
        for c in classes:
            c.__init__ = before[c]
        model_type._keys_to_ignore_on_load_unexpected = ignored


def layer_of(name: str) -> int:
    """Number of the layer that a module's name stands in."""
    numbers = re.findall(r"\.(\d+)(?=\.|$)", name)
    if not numbers:
        raise UnsupportedError(f"module '{name}' stands in no numbered layer")
    return int(numbers[0])


def experts_of_layer(path: str | os.PathLike[str], layer: int, context: Context) -> PackedExperts:
    """The routed experts of one layer of a checkpoint, without its router, shared expert and latent projections."""
    whole = Config(path, layer=layer, context=context)
    settings: dict[str, Any] = {"router.type": "given", "experts.shared": False, "experts.out_norm": False}
    described = whole.to_dict()
    latent = described["experts"].get("latent", {}).get("size", 0)
    if latent:
        settings |= {"model.hidden_size": latent, "experts.latent.size": 0}
    if described["router"].get("config", {}).get("apply_weight") == "input":
        settings["router.config.apply_weight"] = "input"
    config = Config(path, layer=layer, settings=settings, context=with_router(context))
    block = Block(config)
    block.load(path)
    return PackedExperts(block, config.num_experts)


def quantisation_of(config: Any) -> str | None:
    found = getattr(config, "quantization_config", None)
    if found is None:
        return None
    method = found.get("quant_method") if isinstance(found, dict) else found.quant_method
    return str(getattr(method, "value", method))


def load_without_experts(path: str | os.PathLike[str], options: dict[str, Any]) -> Any:
    """What transformers makes of everything but the experts."""
    from transformers import AutoConfig

    config = options.pop("config", None) or AutoConfig.from_pretrained(path)
    method = quantisation_of(config)
    if method is not None and method not in _THEIRS:
        # Their loaders would expand or refuse the folder; such checkpoints quantise the experts and leave the rest.
        del config.quantization_config
    kind = model_class(config)
    with without_experts(kind):
        return kind.from_pretrained(path, config=config, **{"dtype": "auto", **options})
