# SPDX-License-Identifier: Apache-2.0
"""The block: weights in, rows through."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from . import arrays
from ._library import call, ffi, lib, owned, path_bytes, struct, text
from .config import Config, Source
from .context import Context, default_context
from .errors import InvalidArgumentError
from .mesh import Mesh

Mode = Literal["prefill", "decode"]
MODES = {"prefill": lib.MOEBLOCK_PREFILL, "decode": lib.MOEBLOCK_DECODE}
COMPUTES: dict[str, int] = {
    name.removeprefix("MOEBLOCK_COMPUTE_").lower(): getattr(lib, name)
    for name in dir(lib)
    if name.startswith("MOEBLOCK_COMPUTE_")
}


@dataclass(frozen=True)
class Result:
    """What one forward can say beside y. ids and weights: [T, k], slots in descending weight, ties by lower id."""

    y: Any
    ids: Any = None
    weights: Any = None
    expert_load: Any = None
    router_state: Any = None


class Block:
    """One MoE block. Calls on one block may come from several threads at once; every call releases the interpreter
    lock while the library works. The same bits for any number of threads, any batch and both modes."""

    def __init__(
        self,
        config: Config | Source,
        *,
        layer: int | None = None,
        compute: str = "auto",
        threads: int | None = None,
        context: Context | None = None,
        mesh: Mesh | None = None,
    ) -> None:
        """A block without weights; `load_weights` or `load` gives it some."""
        if isinstance(config, Config):
            self.config = config
        else:
            self.config = Config(config, layer=layer, context=_context(context, threads))
        self.context = self.config.context
        self.mesh = mesh
        if compute not in COMPUTES:
            raise InvalidArgumentError(f"creating a block: compute '{compute}', expected one of {', '.join(COMPUTES)}")
        options = struct("moeblock_block_options", compute=COMPUTES[compute])
        out = ffi.new("moeblock_block **")
        mesh_handle = ffi.NULL if mesh is None else mesh.handle
        call(lib.moeblock_block_create, self.context.handle, self.config.handle, mesh_handle, options, out)
        self.handle: Any = owned(out, lib.moeblock_block_destroy, self.context.handle, mesh)
        self._workspaces = _Workspaces(self.handle)

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        *,
        layer: int | None = None,
        compute: str = "auto",
        threads: int | None = None,
        context: Context | None = None,
        mesh: Mesh | None = None,
        settings: Mapping[str, Any] | None = None,
        progress: Callable[[int, int], Any] | None = None,
    ) -> Block:
        """One MoE layer of a checkpoint folder as it was published; `layer` None is the first MoE layer."""
        config = Config(path, layer=layer, settings=settings, context=_context(context, threads))
        block = cls(config, compute=compute, mesh=mesh)
        block.load(path, progress=progress)
        return block

    @classmethod
    def from_config(
        cls,
        config: Config | Source,
        weights: Mapping[str, Any],
        *,
        layer: int | None = None,
        compute: str = "auto",
        threads: int | None = None,
        context: Context | None = None,
        mesh: Mesh | None = None,
    ) -> Block:
        """A block from tensors in memory, by their names in the checkpoint (full, from "mlp." on, or bare)."""
        block = cls(config, layer=layer, compute=compute, threads=threads, context=context, mesh=mesh)
        block.load_weights(weights)
        return block

    def load(self, path: str | os.PathLike[str], progress: Callable[[int, int], Any] | None = None) -> None:
        """Loads the layer's tensors from a checkpoint folder or file. `progress(bytes done, bytes in all)` is called
        now and then; an exception in it cancels the load and comes out here. A failed load leaves earlier weights."""
        raised: list[BaseException] = []
        options, keep = _load_options(progress, raised)
        try:
            call(lib.moeblock_block_load_files, self.handle, path_bytes(path), options)
        except Exception:
            if raised:
                raise raised[0] from None
            raise
        del keep

    def load_weights(self, weights: Mapping[str, Any]) -> None:
        """Loads from numpy arrays or torch tensors. They are copied into the library's own packing."""
        tensors, keep = arrays.tensors_of(weights)
        call(lib.moeblock_block_load_weights, self.handle, tensors, len(weights))
        del keep

    def __call__(self, x: Any, *, mode: Mode = "prefill", **inputs: Any) -> Any:
        """y = MoE(x): x is [..., H], a numpy array or a torch tensor of float32, float16 or bfloat16; y has its shape,
        type and framework. `inputs`: see run."""
        return self.run(x, mode=mode, **inputs).y

    def run(self, x: Any, *, mode: Mode = "prefill", route: bool = False, load: bool = False, **inputs: Any) -> Result:
        """Forward with everything that it can take and tell. `route`: ids and weights as well; `load`: rows per expert
        as well. Inputs that some families need: `aux`, a second tensor [..., H]; `token_ids` and `token_types`, one a
        token; `seq_lens`, which add up to the tokens; `router_state` [T, state_size] of the block before."""
        if mode not in MODES:
            raise InvalidArgumentError(f"forward: mode '{mode}', expected 'prefill' or 'decode'")
        given = _Input(x, MODES[mode], **inputs)
        y = arrays.empty_like(given.x)
        told = _Output(given, self.config, route=route, load=load)
        told.target.y = arrays.array_of(y)[0]
        with self._workspaces.lent(given.tokens) as workspace:
            call(lib.moeblock_block_forward, self.handle, workspace, given.source, told.target)
        return told.result(x, y)

    def _route(self, x: Any, inputs: dict[str, Any], *, route: bool = False, load: bool = False) -> Result:
        """The router alone."""
        given = _Input(x, MODES["prefill"], **inputs)
        told = _Output(given, self.config, route=route, load=load)
        with self._workspaces.lent(given.tokens) as workspace:
            call(lib.moeblock_block_route, self.handle, workspace, given.source, told.target)
        return told.result(x, None)

    def route(self, x: Any, **inputs: Any) -> tuple[Any, Any]:
        """ids int32 [T, k] and weights float32 [T, k] as they multiply the experts. Runs the router alone."""
        result = self._route(x, inputs, route=True)
        return result.ids, result.weights

    def expert_load(self, x: Any, **inputs: Any) -> Any:
        """Rows that each routed expert gets: int64 [num_experts]. Runs the router alone."""
        return self._route(x, inputs, load=True).expert_load

    def experts(self, x: Any, ids: Any, weights: Any) -> Any:
        """The routed experts alone on given ids and weights [T, k] (id -1: an empty slot): no router, no shared
        expert, no scale on the routed output."""
        given = arrays.activation(x, "x")
        tokens = arrays.tokens_of(given)
        chosen = arrays.integers(ids, "int32", "ids")
        factors = arrays.float32(weights)
        k = chosen.size // tokens if tokens else self.config.num_experts_per_tok
        if chosen.size != tokens * k or factors.size != chosen.size:
            raise InvalidArgumentError(
                f"experts: {chosen.size} ids and {factors.size} weights for {tokens} tokens, expected k of each a token"
            )
        y = arrays.empty_like(given)
        self.run_experts(given, chosen, factors, k, y)
        return y

    def run_experts(self, x: Any, ids: Any, weights: Any, k: int, y: Any) -> None:
        """`experts` without checks: x as `arrays.activation` gives it, ids int32 and weights float32 dense numpy arrays
        of k a token, y dense, like x."""
        tokens = arrays.tokens_of(x)
        # A workspace holds the slots of the configuration's k; with a larger one it would take several passes.
        room = -(-tokens * k // self.config.num_experts_per_tok)
        with self._workspaces.lent(max(room, tokens)) as workspace:
            call(
                lib.moeblock_block_forward_experts,
                self.handle,
                workspace,
                arrays.array_of(x),
                arrays.pointer("int32_t[]", ids),
                arrays.pointer("float[]", weights),
                k,
                arrays.array_of(y),
            )

    def workspace(self, tokens: int) -> _Lent:
        """`with block.workspace(tokens) as handle`: one of the block's workspaces, for calls of the C interface."""
        return self._workspaces.lent(tokens)

    @property
    def info(self) -> dict[str, Any]:
        """compute, format, packed_bytes, expert_packed_bytes, chunk_tokens; before a load what is known."""
        info = struct("moeblock_block_info")
        lib.moeblock_block_get_info(self.handle, info)
        names = {number: name for name, number in COMPUTES.items()}
        return {
            "compute": names.get(info.compute, "?"),
            "format": text(info.format),
            "packed_bytes": int(info.packed_bytes),
            "expert_packed_bytes": int(info.expert_packed_bytes),
            "chunk_tokens": int(info.chunk_tokens),
        }

    def __repr__(self) -> str:
        return f"Block({self.config!r}, {self.info})"


class _Input:
    """A forward's input as the library takes it, with everything that it points to."""

    def __init__(
        self,
        x: Any,
        mode: int,
        aux: Any = None,
        token_ids: Any = None,
        token_types: Any = None,
        seq_lens: Any = None,
        router_state: Any = None,
    ) -> None:
        self.x = arrays.activation(x, "x")
        self.tokens = arrays.tokens_of(self.x)
        self.source = struct("moeblock_forward_input", mode=mode, x=arrays.array_of(self.x)[0])
        self.kept: list[Any] = []
        if aux is not None:
            self.kept.append(arrays.activation(aux, "aux"))
            self.source.aux = arrays.array_of(self.kept[-1])[0]
        self._integers("token_ids", token_ids, "int64", self.tokens)
        self._integers("token_types", token_types, "int32", self.tokens)
        self.source.n_seq = self._integers("seq_lens", seq_lens, "int64", None)
        if router_state is not None:
            self.kept.append(arrays.float32(router_state))
            self.source.router_state = arrays.pointer("float[]", self.kept[-1])

    def _integers(self, name: str, value: Any, dtype: str, count: int | None) -> int:
        if value is None:
            return 0
        array = arrays.integers(value, dtype, name)
        if count is not None and array.size != count:
            raise InvalidArgumentError(f"forward: {array.size} {name} for {count} tokens, expected one a token")
        self.kept.append(array)
        setattr(self.source, name, arrays.pointer(f"{dtype}_t[]", array))
        return int(array.size)


class _Output:
    """What a forward is asked to tell."""

    def __init__(self, given: _Input, config: Config, *, route: bool, load: bool) -> None:
        self.target = struct("moeblock_forward_output")
        self.ids = self.weights = self.expert_load = self.router_state = None
        if route:
            shape = (given.tokens, config.num_experts_per_tok)
            self.ids, self.weights = np.empty(shape, np.int32), np.empty(shape, np.float32)
            self.target.ids = arrays.pointer("int32_t[]", self.ids)
            self.target.weights = arrays.pointer("float[]", self.weights)
        if load:
            self.expert_load = np.zeros(config.num_experts, np.int64)
            self.stats = struct("moeblock_forward_stats", expert_load=arrays.pointer("int64_t[]", self.expert_load))
            self.target.stats = self.stats
        if config.router_state_size:
            self.router_state = np.empty((given.tokens, config.router_state_size), np.float32)
            self.target.router_state = arrays.pointer("float[]", self.router_state)

    def result(self, x: Any, y: Any) -> Result:
        told = (self.ids, self.weights, self.expert_load, self.router_state)
        return Result(y, *(arrays.like(x, part) for part in told))


class _Workspaces:
    """Workspaces of one block that no forward uses right now, largest last. One that is lent belongs to one call."""

    KEPT = 4

    def __init__(self, block: Any) -> None:
        self._block = block
        self._lock = threading.Lock()
        self._idle: list[tuple[int, Any]] = []

    def lent(self, tokens: int) -> _Lent:
        return _Lent(self, tokens)

    def take(self, tokens: int) -> tuple[int, Any]:
        with self._lock:
            for i, (capacity, _) in enumerate(self._idle):
                if capacity >= tokens:
                    return self._idle.pop(i)
            # A longer input than any before: what is there is too small for it and for its like.
            self._idle.clear()
        capacity = max(16, 1 << max(tokens - 1, 0).bit_length())
        out = ffi.new("moeblock_workspace **")
        call(lib.moeblock_workspace_create, self._block, capacity, ffi.NULL, 0, out)
        return capacity, owned(out, lib.moeblock_workspace_destroy, self._block)

    def give_back(self, workspace: tuple[int, Any]) -> None:
        with self._lock:
            if len(self._idle) < self.KEPT:
                self._idle.append(workspace)
                if len(self._idle) > 1:
                    self._idle.sort(key=lambda pair: pair[0])

    def clear(self) -> None:
        with self._lock:
            self._idle.clear()


class _Lent:
    def __init__(self, workspaces: _Workspaces, tokens: int) -> None:
        self._workspaces = workspaces
        self._workspace = workspaces.take(tokens)

    def __enter__(self) -> Any:
        return self._workspace[1]

    def __exit__(self, *_: object) -> None:
        self._workspaces.give_back(self._workspace)


def _context(context: Context | None, threads: int | None) -> Context:
    if context is not None:
        return context
    return default_context() if threads is None else Context(threads)


def _load_options(progress: Callable[[int, int], Any] | None, raised: list[BaseException]) -> tuple[Any, Any]:
    if progress is None:
        return ffi.NULL, None

    @ffi.callback("int(void *, uint64_t, uint64_t)")  # type: ignore[untyped-decorator]
    def report(_: Any, done: int, total: int) -> int:
        try:
            progress(int(done), int(total))
        except BaseException as error:
            raised.append(error)
            return 1
        return 0

    return struct("moeblock_load_options", progress=report), report
