# SPDX-License-Identifier: Apache-2.0
"""A mesh of processes over an mpi4py communicator: R rows (expert parallel) x C columns (tensor parallel)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ._library import call, callback, ffi, lib, owned, report_error, struct
from .errors import InvalidArgumentError, MismatchError, PeerFailedError


class Mesh:
    """`Mesh(communicator, rows, columns)`: this process's place in an R x C mesh, ranks row by row. The communicator
    is duplicated. Every process of it makes the mesh, and then the same calls in the same order. `deadline`: seconds
    that any wait for another process may last."""

    def __init__(self, communicator: Any, rows: int, columns: int, *, deadline: float = 60.0) -> None:
        size = communicator.Get_size()
        if rows < 1 or columns < 1 or rows * columns != size:
            raise InvalidArgumentError(f"creating a mesh: {rows} x {columns} for {size} processes, expected R * C")
        self.rows, self.columns = rows, columns
        self.row, self.column = divmod(communicator.Get_rank(), columns)
        transport = _Transport(communicator)
        options = struct("moeblock_mesh_options", rows=rows, columns=columns, deadline=deadline)
        out = ffi.new("moeblock_mesh **")
        call(lib.moeblock_mesh_create, transport.handle, options, out)
        self.handle: Any = owned(out, lib.moeblock_mesh_destroy, transport)

    @property
    def info(self) -> dict[str, Any]:
        """dead, failed_rank, and the seconds waited, travelled and hidden behind computing."""
        info = struct("moeblock_mesh_info")
        lib.moeblock_mesh_get_info(self.handle, info)
        return {
            "dead": bool(info.dead),
            "failed_rank": int(info.failed_rank),
            "wait_seconds": float(info.wait_seconds),
            "travel_seconds": float(info.travel_seconds),
            "hidden_seconds": float(info.hidden_seconds),
        }


class _Transport:
    """moeblock_transport over a duplicate of the communicator; a transfer is named by a number of ours."""

    def __init__(self, communicator: Any) -> None:
        self.ranks = communicator.Dup()
        self.ranks.Set_errhandler(_mpi().ERRORS_RETURN)
        self.requests: dict[int, Any] = {}
        self.next = 1
        self.name = ffi.new("char[]", _mpi().Get_library_version().split("\n")[0].split(",")[0].encode()[:100])
        calls: dict[str, Callable[..., None]] = {
            "send": self._send,
            "receive": self._receive,
            "poll": self._poll,
            "look": self._look,
        }
        self.calls = {name: callback("moeblock_transport", name, _guarded(run)) for name, run in calls.items()}
        self.calls["abandon"] = callback("moeblock_transport", "abandon", self._abandon)
        self.handle = struct(
            "moeblock_transport",
            name=self.name,
            size=self.ranks.Get_size(),
            rank=self.ranks.Get_rank(),
            **self.calls,
        )

    def _start(self, request: Any, transfer: Any) -> None:
        self.requests[self.next] = request
        transfer[0] = self.next
        self.next += 1

    def _send(self, peer: int, tag: int, data: Any, size: int, transfer: Any) -> None:
        self._start(self.ranks.Isend([_bytes(data, size), _mpi().BYTE], peer, tag), transfer)

    def _receive(self, peer: int, tag: int, data: Any, capacity: int, transfer: Any) -> None:
        self._start(self.ranks.Irecv([_bytes(data, capacity), _mpi().BYTE], peer, tag), transfer)

    def _poll(self, transfers: Any, count: int, which: Any, size: Any) -> None:
        which[0] = -1
        status = _mpi().Status()
        for i in range(count):
            request = self.requests.get(int(transfers[i]))
            if request is None:
                continue
            try:
                done = request.Test(status)
            except Exception:
                which[0] = i
                raise
            if done:
                del self.requests[int(transfers[i])]
                which[0], size[0] = i, max(status.Get_count(_mpi().BYTE), 0)
                return

    def _look(self, tag: int, data: Any, capacity: int, size: Any) -> None:
        size[0] = 0
        status = _mpi().Status()
        if not self.ranks.Iprobe(_mpi().ANY_SOURCE, tag, status):
            return
        count = status.Get_count(_mpi().BYTE)
        if count > capacity:
            raise MismatchError(f"a message of {count} bytes came, expected at most {capacity}")
        self.ranks.Recv([_bytes(data, count), _mpi().BYTE], status.Get_source(), tag)
        size[0] = count

    def _abandon(self, _user: Any, transfers: Any, count: int) -> None:
        """Receives are withdrawn; a send that nobody takes is forgotten."""
        for i in range(count):
            request = self.requests.pop(int(transfers[i]), None)
            if request is not None and not _mpi().Is_finalized():
                request.Cancel()
                request.Free()


def _bytes(pointer: Any, count: int) -> np.ndarray[Any, Any]:
    """`count` bytes of the library's memory as an array over it."""
    return np.frombuffer(ffi.buffer(pointer, count), np.uint8) if count else np.empty(0, np.uint8)


@functools.cache
def _mpi() -> Any:
    from mpi4py import MPI

    return MPI


def _guarded(function: Callable[..., None]) -> Callable[..., int]:
    """A call of the transport as the library makes it: `user` first, the error object last, a status as the result."""

    def run(_user: Any, *arguments: Any) -> int:
        try:
            function(*arguments[:-1])
        except _mpi().Exception as error:
            truncated = error.Get_error_class() == _mpi().ERR_TRUNCATE
            return report_error(arguments[-1], (MismatchError if truncated else PeerFailedError)(str(error)))
        except BaseException as error:
            return report_error(arguments[-1], error)
        return int(lib.MOEBLOCK_OK)

    return run
