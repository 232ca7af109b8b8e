# SPDX-License-Identifier: Apache-2.0
"""The checked description of one MoE block."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from ._library import PACKAGE, call, ffi, lib, owned, path_bytes, printed, struct
from .context import Context, default_context

Source = str | os.PathLike[str] | Mapping[str, Any]


class Config:
    """From a JSON file of ours, a Hugging Face folder or config.json, the name of a shipped configuration
    ("deepseek_v3"), the text of either JSON, or a dictionary of it. `settings` change keys:
    {"router.config.n_group": 4}."""

    def __init__(
        self,
        source: Source,
        *,
        layer: int | None = None,
        weights_path: str | os.PathLike[str] | None = None,
        settings: Mapping[str, Any] | None = None,
        context: Context | None = None,
    ) -> None:
        self.context = context or default_context()
        texts = [ffi.new("char[]", f"{key}={_value(value)}".encode()) for key, value in (settings or {}).items()]
        pointers = ffi.new("char *[]", texts) if texts else ffi.NULL
        checkpoint = ffi.NULL if weights_path is None else ffi.new("char[]", path_bytes(weights_path))
        options = struct(
            "moeblock_config_options",
            layer=-1 if layer is None else layer,
            weights_path=checkpoint,
            set=ffi.cast("char **", pointers),
            n_set=len(texts),
        )
        out = ffi.new("moeblock_config **")
        document = _document(source)
        if document is None:
            assert not isinstance(source, Mapping)
            call(lib.moeblock_config_open, self.context.handle, path_bytes(shipped(source)), options, out)
        else:
            call(
                lib.moeblock_config_parse, self.context.handle, document, len(document), b"configuration", options, out
            )
        self.handle: Any = owned(out, lib.moeblock_config_destroy, self.context.handle)
        shape = ffi.new("moeblock_config_shape *")
        lib.moeblock_config_get_shape(self.handle, shape)
        self.hidden_size = int(shape.hidden_size)
        self.num_experts = int(shape.num_experts)
        self.num_experts_per_tok = int(shape.num_experts_per_tok)
        self.intermediate_size = int(shape.intermediate_size)
        self.shared_intermediate_size = int(shape.shared_intermediate_size)
        self.layer = int(shape.layer)
        # Width of the state that a router takes from the block before and hands on; 0: none.
        self.router_state_size = int(printed(lib.moeblock_config_value, self.handle, b"router.config.state_size") or 0)

    def to_json(self) -> str:
        """The whole description as our JSON; parsing it gives the same description."""
        return printed(lib.moeblock_config_print, self.handle)

    def to_dict(self) -> dict[str, Any]:
        result: dict[str, Any] = json.loads(self.to_json())
        return result

    def __getitem__(self, key: str) -> str:
        """One key as text: config["router.config.n_group"]. KeyError when it is unknown or has no value."""
        value = printed(lib.moeblock_config_value, self.handle, key.encode())
        if not value:
            raise KeyError(key)
        return value

    def __repr__(self) -> str:
        return (
            f"Config(hidden_size={self.hidden_size}, num_experts={self.num_experts}, "
            f"num_experts_per_tok={self.num_experts_per_tok}, intermediate_size={self.intermediate_size})"
        )


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _document(source: Source) -> bytes | None:
    """The JSON text when `source` is one, None when it is a path."""
    if isinstance(source, Mapping):
        return json.dumps(source).encode()
    if isinstance(source, str) and source.lstrip().startswith("{"):
        return source.encode()
    return None


def shipped(source: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """A path as it is; a bare name that is no file here but one of configs/ is that one."""
    known = PACKAGE / "configs" / f"{os.fspath(source)}.json"
    return known if os.sep not in os.fspath(source) and not os.path.exists(source) and known.exists() else source
