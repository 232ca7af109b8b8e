# SPDX-License-Identifier: Apache-2.0
"""Threads and kernel level, shared by everything that is made from one context."""

from __future__ import annotations

import threading
from typing import Any

from ._library import call, ffi, lib, owned, struct, text


class Context:
    """The thread team and the kernel level. `threads` 0: the CPUs that this process may use; `level` None: the one
    that suits the machine, or what the environment's MOEBLOCK_CPU names.

    Works after a fork: the child starts a team of its own. Freed when nothing made from it is left."""

    def __init__(self, threads: int = 0, level: str | None = None, *, parallel: Any = None) -> None:
        """`parallel`: (user, workers, run) of a parallel-for of the host's own, C pointers all of them."""
        name = ffi.NULL if level is None else ffi.new("char[]", level.encode())
        options = struct("moeblock_context_options", threads=threads, cpu_level=name)
        host = ffi.new("moeblock_parallel *")
        if parallel is not None:
            host.user, host.workers, host.run = parallel
            options.parallel = host
        out = ffi.new("moeblock_context **")
        call(lib.moeblock_context_create, options, out)
        self.handle: Any = owned(out, lib.moeblock_context_destroy, parallel)
        self.callbacks: list[Any] = []  # of routers and experts written in Python: alive as long as the context

    @property
    def threads(self) -> int:
        return int(lib.moeblock_context_threads(self.handle))

    @property
    def level(self) -> str:
        return text(lib.moeblock_context_level(self.handle))

    def __repr__(self) -> str:
        return f"Context(threads={self.threads}, level={self.level!r})"


_lock = threading.Lock()
_default: Context | None = None


def default_context() -> Context:
    """The context of everything that is given none. Made on first use."""
    global _default
    with _lock:
        if _default is None:
            _default = Context()
        return _default


def set_threads(threads: int) -> None:
    """Threads of blocks made from now on without a context of their own."""
    global _default
    with _lock:
        _default = Context(threads)
