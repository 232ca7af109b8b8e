# SPDX-License-Identifier: Apache-2.0
"""A mesh of processes over an mpi4py communicator: R rows (expert parallel) x C columns (tensor parallel)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ._library import callback, ffi, lib, report_error, struct
from .errors import InvalidArgumentError

Bytes = np.ndarray[Any, Any]


def _bytes(pointer: Any, count: int) -> Bytes:
    """`count` bytes of the library's memory as an array over it."""
    return np.frombuffer(ffi.buffer(pointer, count), np.uint8) if count else np.empty(0, np.uint8)


def _layout(counts: list[int]) -> tuple[list[int], list[int]]:
    """Counts and displacements of pieces that follow one another."""
    return counts, [sum(counts[:i]) for i in range(len(counts))]


class Mesh:
    """`Mesh(communicator, rows, columns)`: this process's place in an R x C mesh, ranks row by row. The communicator
    is duplicated. Every process of it makes the mesh, and then the same calls in the same order."""

    def __init__(self, communicator: Any, rows: int, columns: int) -> None:
        size, rank = communicator.Get_size(), communicator.Get_rank()
        if rows < 1 or columns < 1 or rows * columns != size:
            raise InvalidArgumentError(
                f"creating a mesh: {rows} x {columns} for {size} processes, expected one a place"
            )
        self.rows, self.columns = rows, columns
        self.row, self.column = divmod(rank, columns)
        self._world = communicator.Dup()
        # Along axis 0 the row changes: its processes share a column.
        self._axes = [self._world.Split(self.column, self.row), self._world.Split(self.row, self.column)]
        calls: dict[str, Callable[..., None]] = {
            "all_gather": self._all_gather,
            "all_to_all": self._all_to_all,
            "reduce_scatter": self._reduce_scatter,
            "agree": self._agree,
        }
        self._calls = {name: callback("moeblock_mesh", name, _guarded(call)) for name, call in calls.items()}
        self.handle: Any = struct(
            "moeblock_mesh", rows=rows, columns=columns, row=self.row, column=self.column, **self._calls
        )

    def _all_gather(self, axis: int, mine: Any, sizes: Any, everything: Any) -> None:
        axis_ranks = self._axes[axis]
        counts = [int(sizes[i]) for i in range(axis_ranks.Get_size())]
        own = _bytes(mine, counts[axis_ranks.Get_rank()])
        axis_ranks.Allgatherv([own, _mpi().BYTE], [_bytes(everything, sum(counts)), *_layout(counts), _mpi().BYTE])

    def _all_to_all(self, axis: int, send: Any, send_sizes: Any, receive: Any, receive_sizes: Any) -> None:
        axis_ranks = self._axes[axis]
        out = [int(send_sizes[i]) for i in range(axis_ranks.Get_size())]
        into = [int(receive_sizes[i]) for i in range(axis_ranks.Get_size())]
        axis_ranks.Alltoallv(
            [_bytes(send, sum(out)), *_layout(out), _mpi().BYTE],
            [_bytes(receive, sum(into)), *_layout(into), _mpi().BYTE],
        )

    def _reduce_scatter(self, axis: int, mine: Any, size: int, scattered: Any) -> None:
        # Every output column has one owner: its finished values are the sum.
        ffi.memmove(scattered, mine, size)

    def _agree(self, mine: int, largest: Any) -> None:
        largest[0] = self._world.allreduce(int(mine), op=_mpi().MAX)


@functools.cache
def _mpi() -> Any:
    from mpi4py import MPI

    return MPI


def _guarded(function: Callable[..., None]) -> Callable[..., int]:
    """A collective as the library calls it: `user` first, the error object last, a status as the result."""

    def run(_user: Any, *arguments: Any) -> int:
        try:
            function(*arguments[:-1])
        except BaseException as error:
            return report_error(arguments[-1], error)
        return int(lib.MOEBLOCK_OK)

    return run
