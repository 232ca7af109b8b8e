# SPDX-License-Identifier: Apache-2.0
"""The original project's spelling: MoEBlock and DeepSeekMoEAdapter with their own argument order.

`mesh` is None, a `moeblock.Mesh`, or an mpi4py communicator (its processes in one column);
`ccl` is accepted and not needed: collectives belong to the mesh."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .block import Block, Mode
from .config import Config, Source
from .mesh import Mesh


def _mesh(mesh: Any) -> Mesh | None:
    """A communicator becomes a mesh of its processes in one column: experts are dispatched over all of them."""
    if mesh is None or isinstance(mesh, Mesh):
        return mesh
    return Mesh(mesh, mesh.Get_size(), 1)


class MoEBlock:
    """MoEBlock(config, mesh, ccl), load_weights(state_dict), forward(x, mode="prefill")."""

    def __init__(self, config: Config | Source, mesh: Any = None, ccl: Any = None, *, layer: int | None = None) -> None:
        self.block = Block(config, layer=layer, mesh=_mesh(mesh))
        self.ccl = ccl

    def load_weights(self, state_dict: Mapping[str, Any]) -> None:
        self.block.load_weights(state_dict)

    def forward(self, x: Any, mode: Mode = "prefill") -> Any:
        return self.block(x, mode=mode)

    __call__ = forward


def _folder(hf_config: Any) -> Path | None:
    """The checkpoint folder that a configuration is, stands in, or was read from by transformers."""
    named = getattr(hf_config, "_name_or_path", hf_config)
    if not isinstance(named, (str, os.PathLike)) or not os.path.exists(named):
        return None
    folder = Path(named) if os.path.isdir(named) else Path(named).parent
    return folder if any(folder.glob("*.safetensors")) else None


class DeepSeekMoEAdapter:
    """DeepSeekMoEAdapter(hf_config, mesh, ccl) with forward_mlp_prefill(x, cfg) and forward_mlp_decode(x, cfg).

    `hf_config` is a folder or its config.json, a configuration that transformers has read from one, or a dictionary.
    The weights are those of that folder, or come by `load_weights` or `load`. `cfg` is None or a mapping that may hold
    `aux`, `token_ids`, `token_types` and `seq_lens`."""

    def __init__(self, hf_config: Any, mesh: Any = None, ccl: Any = None, *, layer: int | None = None) -> None:
        source = hf_config.to_dict() if hasattr(hf_config, "to_dict") else hf_config
        self.block = Block(source, layer=layer, mesh=_mesh(mesh))
        self.ccl = ccl
        folder = _folder(hf_config)
        if folder is not None:
            self.load(folder)

    def load_weights(self, state_dict: Mapping[str, Any]) -> None:
        self.block.load_weights(state_dict)

    def load(self, path: str | os.PathLike[str]) -> None:
        self.block.load(path)

    def forward_mlp_prefill(self, x: Any, cfg: Mapping[str, Any] | None = None) -> Any:
        return self.block(x, mode="prefill", **(cfg or {}))

    def forward_mlp_decode(self, x: Any, cfg: Mapping[str, Any] | None = None) -> Any:
        return self.block(x, mode="decode", **(cfg or {}))
