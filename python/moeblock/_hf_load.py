# SPDX-License-Identifier: Apache-2.0
"""A transformers model whose experts stay in the checkpoint's number format: they are never made by torch, but read
straight from the files by the library. Everything else is loaded by transformers; of a quantised checkpoint, from
tensors that the library has decoded."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ._hf_decode import Checkpoint, plain_state
from ._hf_experts import PackedExperts, with_router
from ._hf_patch import PATCHES, decorated
from .block import Block
from .config import Config
from .context import Context
from .errors import UnsupportedError


def model_class(config: Any) -> Any:
    """The class that the checkpoint's own `architectures` names."""
    import transformers

    for name in getattr(config, "architectures", None) or []:
        if hasattr(transformers, name):
            return getattr(transformers, name)
    raise UnsupportedError(
        f"loading a {config.model_type} model: its config.json names no architecture that transformers "
        f"{transformers.__version__} has; load the model yourself and call moeblock.hf.prepare"
    )


def holders(model_type: Any) -> list[Any]:
    """Classes of a model's module that own expert parameters and nothing else."""
    module = importlib.import_module(model_type.__module__)
    named = {name for row in PATCHES.values() for name in row.holders}
    classes: list[Any] = [value for value in vars(module).values() if isinstance(value, type)]
    return [c for c in classes if c.__name__ in named or decorated(c)]


@contextlib.contextmanager
def without_experts(model_type: Any, names: str) -> Iterator[None]:
    """While it lasts, experts modules are made without memory and without entries in the state dict, so that a
    loader neither reads nor initialises them. `names` matches the names of their tensors in the checkpoint."""
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
        if classes:
            model_type._keys_to_ignore_on_load_unexpected = [*(ignored or []), names]
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


_EXPERT_TENSORS = ("gate", "up", "gate_up", "down", "gate_bias", "up_bias", "gate_up_bias", "down_bias")


def names_of_experts(path: str | os.PathLike[str], context: Context) -> str:
    """A pattern that matches the names of the routed experts' tensors in a checkpoint, whatever their format."""
    weights = Config(path, context=context).to_dict()["weights"]
    prefix = weights.get("module_prefix", "")
    patterns = []
    for key, name in weights["names"].items():
        if key not in _EXPERT_TENSORS:
            continue
        whole = name[1:] if name.startswith("/") else f"{prefix}.{name}" if prefix else name
        literal = re.escape(whole.removesuffix(".weight"))
        patterns.append(re.sub(r"\\\{(layer|expert|bank)\\\}", r"\\d+", literal) + r"([._][^.]*)?$")
    return "|".join(patterns)


def experts_of_layer(path: str | os.PathLike[str], layer: int, context: Context) -> PackedExperts:
    """The routed experts of one layer of a checkpoint, without its router, shared expert and latent projections."""
    whole = Config(path, layer=layer, context=context)
    settings: dict[str, Any] = {
        "router.type": "given",
        "experts.shared": False,
        "experts.out_norm": False,
        "experts.output_scale": False,
    }
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


def quantisation_of(config: Any, path: str | os.PathLike[str]) -> Any:
    """What the checkpoint says of its number format; None when it is not quantised."""
    for owner in (config, config.get_text_config()):
        if getattr(owner, "quantization_config", None) is not None:
            return owner.quantization_config
    beside = Path(path) / "hf_quant_config.json"  # ModelOpt
    return json.loads(beside.read_text())["quantization"] if beside.exists() else None


def _dtype(config: Any, asked: Any) -> torch.dtype:
    """The type of what is no expert: as asked for, else the model's own."""
    if isinstance(asked, torch.dtype):
        return asked
    if isinstance(asked, str) and asked != "auto":
        named: torch.dtype = getattr(torch, asked)
        return named
    found = getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None)
    return found if isinstance(found, torch.dtype) else torch.bfloat16


def load_without_experts(path: str | os.PathLike[str], options: dict[str, Any], context: Context) -> Any:
    """What transformers makes of everything but the experts."""
    from transformers import AutoConfig, GenerationConfig

    config = options.pop("config", None) or AutoConfig.from_pretrained(path)
    kind = model_class(config)
    names = names_of_experts(path, context)
    quantisation = quantisation_of(config, path)
    with without_experts(kind, names):
        if quantisation is None:
            return kind.from_pretrained(path, config=config, **{"dtype": "auto", **options})
        # Loaders of quantised folders expand them, or refuse them on a CPU.
        for owner in (config, config.get_text_config()):
            owner.__dict__.pop("quantization_config", None)
        options["dtype"] = _dtype(config, options.get("dtype", options.pop("torch_dtype", None)))
        if (Path(path) / "generation_config.json").exists():
            options.setdefault("generation_config", GenerationConfig.from_pretrained(path))
        expert = re.compile(names) if holders(kind) else None
        state = plain_state(
            Checkpoint(path, context), quantisation, options["dtype"], lambda name: bool(expert and expert.match(name))
        )
        return kind.from_pretrained(None, config=config, state_dict=state, **options)
