# SPDX-License-Identifier: Apache-2.0
"""Routers and experts written in Python, registered by name like those in C (docs/extending.md).

A kind is a class. The block makes one object of it per block, hands it its tensors as float32 arrays, and calls it
from its worker threads, one call at a time (the interpreter lock). What a method raises becomes the error of the
forward or load that called it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from ._library import call, callback, ffi, lib, report_error, struct, text
from .context import Context, default_context
from .errors import InvalidFileError

Array = np.ndarray[Any, Any]


class Need(NamedTuple):
    """A tensor that a kind reads: its full name in the checkpoint, and its shape."""

    name: str
    shape: Sequence[int]


class Router(Protocol):
    """`Router(config, hidden=, experts=, top_k=)`; config is the object at router.config. One with tensors has
    `needs(layer)`, which lists a Need for each, and `load(tensors)`, which gets them by name."""

    def select(
        self, x: Array, aux: Array | None, token_ids: Array | None, token_types: Array | None
    ) -> tuple[Array, Array]:
        """x float32 [T, hidden] -> ids [T, top_k], distinct in each row (-1: an empty slot), and weights [T, top_k]."""
        ...


class Expert(Protocol):
    """`Expert(config, experts=, hidden=, intermediate=, shared=)`; config is the object at experts.config. Tensors as
    a router's. `inner(expert, rows)` makes activations [m, intermediate] of rows [m, hidden]; it is not called with
    experts.distributed.intermediate_size 0, where `outer` gets the rows themselves."""

    def outer(self, expert: int, rows: Array) -> Array:
        """Activations [m, intermediate] -> outputs [m, hidden]."""
        ...


def _float32(pointer: Any, rows: int, width: int, stride: int) -> Array:
    """Rows of the library's memory, without a copy where they are dense."""
    if not rows or not width:
        return np.zeros((rows, width), np.float32)
    flat = np.frombuffer(ffi.buffer(pointer, 4 * ((rows - 1) * stride + width)), np.float32)
    return np.lib.stride_tricks.as_strided(flat, (rows, width), (4 * stride, 4), writeable=False)


def _from_bf16(bits: Array) -> Array:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _to_bf16(values: Array) -> Array:
    """Nearest even; a NaN stays one."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(values), np.uint32(0x7FC0), rounded).astype(np.uint16)


def _read(weights: Any, need: Need) -> Array:
    """A tensor of floats as float32."""
    found = ffi.new("moeblock_tensor_info *")
    call(lib.moeblock_weights_find, weights, need.name.encode(), found)
    shape = tuple(int(found.dims[i]) for i in range(found.rank))
    if shape != tuple(need.shape):
        raise InvalidFileError(f"tensor '{need.name}' is {list(shape)}, expected {list(need.shape)}")
    stored = {lib.MOEBLOCK_F32: np.float32, lib.MOEBLOCK_F16: np.float16, lib.MOEBLOCK_BF16: np.uint16}
    if found.dtype not in stored:
        raise InvalidFileError(f"tensor '{need.name}' is {text(found.dtype_name)}, expected F32, F16 or BF16")
    data = np.empty(shape, stored[found.dtype])
    call(lib.moeblock_weights_read, weights, found, 0, data.nbytes, ffi.cast("void *", data.ctypes.data))
    return _from_bf16(data) if found.dtype == lib.MOEBLOCK_BF16 else data.astype(np.float32)


@dataclass(frozen=True)
class _Made:
    """One object of a kind, and what it was made for."""

    kind: Any  # the Router or Expert
    hidden: int
    intermediate: int = 0
    top_k: int = 0
    bf16: bool = False  # rows and activations are bfloat16 bits


class _Kind:
    """What both kinds of callbacks share: objects by handle, exceptions as statuses, tensors that are needed."""

    def __init__(self, structure: str, make: Callable[[dict[str, Any], Any], _Made]) -> None:
        self.structure = structure
        self.make = make
        self.objects: dict[int, _Made] = {}
        self.fields: dict[str, Any] = {}
        self.add("create", self._create)
        self.add("destroy", self._destroy)

    def add(self, field: str, function: Callable[..., Any]) -> None:
        self.fields[field] = callback(self.structure, field, function)

    def add_fallible(self, field: str, function: Callable[..., None]) -> None:
        """A call whose first argument is the object and whose last is the error object."""

        def run(handle: Any, *arguments: Any) -> int:
            try:
                function(self._of(handle), *arguments[:-1])
            except BaseException as error:
                return report_error(arguments[-1], error)
            return int(lib.MOEBLOCK_OK)

        self.add(field, run)

    def _of(self, handle: Any) -> _Made:
        return self.objects[int(ffi.cast("uintptr_t", handle))]

    def _create(self, _user: Any, build: Any, out: Any, error: Any) -> int:
        try:
            made = self.make(json.loads(text(build.config_json)), build)
        except BaseException as raised:
            return report_error(error, raised)
        self.objects[id(made)] = made
        out[0] = ffi.cast("void *", id(made))
        return int(lib.MOEBLOCK_OK)

    def _destroy(self, handle: Any) -> None:
        self.objects.pop(int(ffi.cast("uintptr_t", handle)), None)

    def need(self, handle: Any, layer: int, index: int, out: Any) -> int:
        needs = _needs(self._of(handle), int(layer))
        if index >= len(needs):
            return 0
        name = needs[index].name.encode()[: ffi.sizeof(out.name) - 1]
        ffi.memmove(out.name, name + b"\0", len(name) + 1)
        out.dtype = lib.MOEBLOCK_DTYPE_NONE
        out.rank = len(needs[index].shape)
        for i, size in enumerate(needs[index].shape):
            out.dims[i] = size
        return 1

    def register(self, function: Any, context: Context, name: str) -> None:
        kind = struct(self.structure, **self.fields)
        call(function, context.handle, name.encode(), kind, ffi.NULL)
        context.callbacks.append((self, kind))


def _needs(made: _Made, layer: int) -> list[Need]:
    return list(made.kind.needs(layer)) if hasattr(made.kind, "needs") else []


def _load(made: _Made, weights: Any, layer: int) -> None:
    needs = _needs(made, int(layer))
    if needs:
        made.kind.load({need.name: _read(weights, need) for need in needs})


def register_router(name: str, router: Callable[..., Router], *, context: Context | None = None) -> None:
    """Makes {"router": {"type": name}} choose `router` in blocks of `context` (the default one unless given)."""

    def make(config: dict[str, Any], build: Any) -> _Made:
        hidden, top_k = int(build.hidden), int(build.top_k)
        made = router(config, hidden=hidden, experts=int(build.experts), top_k=top_k)
        return _Made(made, hidden=hidden, top_k=top_k)

    def select(made: _Made, given: Any, _logits: Any, _stride: int, ids: Any, weights: Any) -> None:
        tokens = int(given.tokens)
        aux = None if given.aux == ffi.NULL else _float32(given.aux, tokens, made.hidden, int(given.aux_stride))
        chosen, factors = made.kind.select(
            _float32(given.x, tokens, made.hidden, int(given.x_stride)),
            aux,
            _integers(given.token_ids, tokens, "int64"),
            _integers(given.token_types, tokens, "int32"),
        )
        for what, value, dtype, to in (("ids", chosen, "int32", ids), ("weights", factors, "float32", weights)):
            dense = np.ascontiguousarray(value, dtype)
            if dense.shape != (tokens, made.top_k):
                raise ValueError(f"router '{name}': {what} of shape {dense.shape}, expected {(tokens, made.top_k)}")
            ffi.memmove(to, ffi.from_buffer(dense), dense.nbytes)

    kind = _Kind("moeblock_router_class", make)
    kind.add("need", kind.need)
    kind.add_fallible("load", _load)
    kind.add_fallible("select", select)
    kind.register(lib.moeblock_register_router, context or default_context(), name)


def register_expert(name: str, expert: Callable[..., Expert], *, context: Context | None = None) -> None:
    """Makes {"experts": {"type": name}} choose `expert` for the routed experts in blocks of `context`."""

    def make(config: dict[str, Any], build: Any) -> _Made:
        hidden, intermediate = int(build.hidden), int(build.intermediate)
        made = expert(
            config, experts=int(build.experts), hidden=hidden, intermediate=intermediate, shared=bool(build.shared)
        )
        bf16 = build.compute == lib.MOEBLOCK_COMPUTE_BF16
        return _Made(made, hidden=hidden, intermediate=intermediate, bf16=bf16)

    def open_(made: _Made, weights: Any, layer: int, items: Any) -> None:
        _load(made, weights, layer)
        items[0] = 0

    def inner(made: _Made, given: Any) -> None:
        result = made.kind.inner(int(given.expert), _rows(made, given, made.hidden))
        _write(given, _to_bf16(result) if made.bf16 else np.asarray(result, np.float32))

    def outer(made: _Made, given: Any) -> None:
        result = made.kind.outer(int(given.expert), _rows(made, given, made.intermediate or made.hidden))
        _write(given, _from_bf16(_to_bf16(result)) if made.bf16 else np.asarray(result, np.float32))

    kind = _Kind("moeblock_expert_class", make)
    kind.add("need", lambda handle, layer, _format, index, out: kind.need(handle, layer, index, out))
    kind.add_fallible("open", open_)
    kind.add_fallible("inner", inner)
    kind.add_fallible("outer", outer)
    kind.register(lib.moeblock_register_expert, context or default_context(), name)


def _integers(pointer: Any, count: int, dtype: str) -> Array | None:
    if pointer == ffi.NULL:
        return None
    return np.frombuffer(ffi.buffer(pointer, count * np.dtype(dtype).itemsize), dtype)


def _rows(made: _Made, given: Any, width: int) -> Array:
    """The rows of one call, float32 [m, width]."""
    dtype = np.dtype(np.uint16 if made.bf16 else np.float32)
    rows = np.empty((given.m, width), dtype)
    for i in range(given.m):
        rows[i] = np.frombuffer(ffi.buffer(given.rows[i], dtype.itemsize * width), dtype)
    return _from_bf16(rows) if made.bf16 else rows


def _write(given: Any, result: Array) -> None:
    """Columns [c0, c1) of `result` to where the call wants them."""
    to = ffi.cast("char *", given.out)
    for i in range(given.m):
        row = np.ascontiguousarray(result[i, int(given.c0) : int(given.c1)])
        ffi.memmove(to + i * int(given.out_stride) * result.itemsize, ffi.from_buffer(row), row.nbytes)
