# SPDX-License-Identifier: Apache-2.0
"""moeblock: the Mixture-of-Experts block of language models on CPUs, from the published checkpoint.

>>> block = moeblock.Block.from_pretrained("path/to/checkpoint", layer=3)   # doctest: +SKIP
>>> y = block(x)                                                            # doctest: +SKIP
"""

from ._library import lib as _lib
from ._library import text as _text
from .block import Block, Result
from .commands import bench, info, synth, validate
from .config import Config
from .context import Context, default_context, set_threads
from .errors import (
    CancelledError,
    DeadlineError,
    InputOutputError,
    InternalError,
    InvalidArgumentError,
    InvalidConfigError,
    InvalidFileError,
    LimitError,
    MismatchError,
    MoeblockError,
    NonfiniteError,
    NotFoundError,
    OutOfMemoryError,
    PeerFailedError,
    UnsupportedError,
    WrongStateError,
)
from .kinds import register_expert, register_router
from .mesh import Mesh
from .original import DeepSeekMoEAdapter, MoEBlock

__version__: str = _text(_lib.moeblock_version())


def config(source: object, **options: object) -> str:
    """The checked description of a configuration file, folder, text or dictionary, as our JSON."""
    return Config(source, **options).to_json()  # type: ignore[arg-type]


__all__ = [
    "Block",
    "CancelledError",
    "Config",
    "Context",
    "DeadlineError",
    "DeepSeekMoEAdapter",
    "InputOutputError",
    "InternalError",
    "InvalidArgumentError",
    "InvalidConfigError",
    "InvalidFileError",
    "LimitError",
    "Mesh",
    "MismatchError",
    "MoEBlock",
    "MoeblockError",
    "NonfiniteError",
    "NotFoundError",
    "OutOfMemoryError",
    "PeerFailedError",
    "Result",
    "UnsupportedError",
    "WrongStateError",
    "bench",
    "config",
    "default_context",
    "info",
    "register_expert",
    "register_router",
    "set_threads",
    "synth",
    "validate",
]
