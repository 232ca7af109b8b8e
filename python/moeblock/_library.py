# SPDX-License-Identifier: Apache-2.0
"""The C library: loading it, and the small things that every call needs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cffi

from ._declarations import DECLARATIONS
from .errors import error_of_status, status_of_error

PACKAGE = Path(__file__).resolve().parent

ffi = cffi.FFI()
ffi.cdef(DECLARATIONS)


def _load() -> Any:
    """The library in the package, or the one that MOEBLOCK_LIBRARY names (for work on the library itself)."""
    named = os.environ.get("MOEBLOCK_LIBRARY")
    for path in [Path(named)] if named else sorted((PACKAGE / "lib").glob("libmoeblock.so.*")):
        return ffi.dlopen(str(path))
    raise ImportError(f"moeblock: no libmoeblock.so in {PACKAGE / 'lib'}; install the package again (pip install .)")


lib: Any = _load()


def struct(kind: str, /, **fields: Any) -> Any:
    """A zeroed `kind` with struct_size and `fields` set; whatever the fields point to must be kept alive beside it."""
    value = ffi.new(f"{kind} *")
    value.struct_size = ffi.sizeof(kind)
    for key, field in fields.items():
        setattr(value, key, field)
    return value


def call(function: Any, *arguments: Any) -> None:
    """Calls a fallible function of the library, which takes its error object last; a failure becomes an exception.

    cffi releases the interpreter lock for the duration of the call."""
    error = ffi.new("moeblock_error *")
    status = function(*arguments, error)
    if status != lib.MOEBLOCK_OK:
        raise error_of_status(status, text(error.message) or text(lib.moeblock_status_name(status)))


def owned(out: Any, destroy: Any, *parents: Any) -> Any:
    """The object at *out, destroyed with its last reference and never before that keeps `parents` alive, whatever
    the order in which the interpreter lets go of things."""

    def release(handle: Any, _parents: tuple[Any, ...] = parents) -> None:
        pointer = ffi.new(ffi.typeof(out))
        pointer[0] = handle
        destroy(pointer)

    return ffi.gc(out[0], release)


def callback(structure: str, field: str, function: Callable[..., Any]) -> Any:
    """A Python function as the function pointer `field` of a C structure. The caller keeps it alive."""
    fields = dict(ffi.typeof(structure).fields)
    return ffi.callback(fields[field].type, function)


def report_error(error: Any, raised: BaseException) -> int:
    """What a callback returns for an exception: its status, with the sentence in the error object."""
    status = status_of_error(raised)
    if error != ffi.NULL:
        sentence = f"{type(raised).__name__}: {raised}".encode()[: ffi.sizeof(error.message) - 1]
        error.code = status
        ffi.memmove(error.message, sentence + b"\0", len(sentence) + 1)
    return status


def text(characters: Any) -> str:
    """A C string as str; NULL is the empty string."""
    if characters == ffi.NULL:
        return ""
    string = ffi.string(characters)
    return string.decode("utf-8", "replace") if isinstance(string, bytes) else str(string)


def printed(function: Any, *arguments: Any) -> str:
    """The text of a function that writes to (buffer, capacity) and returns the length it needs."""
    length = function(*arguments, ffi.NULL, 0)
    buffer = ffi.new("char[]", length + 1)
    function(*arguments, buffer, length + 1)
    return text(buffer)


def path_bytes(path: str | os.PathLike[str]) -> bytes:
    return os.fsencode(path)
