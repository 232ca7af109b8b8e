# SPDX-License-Identifier: Apache-2.0
"""One exception class per status of the library; the message is the library's own sentence."""

from __future__ import annotations


class MoeblockError(Exception):
    """Base of all: what the library could not do. `status` is the number of the C status."""

    status = 0


class InvalidArgumentError(MoeblockError, ValueError):
    status = 1


class InvalidConfigError(MoeblockError, ValueError):
    status = 2


class InvalidFileError(MoeblockError, ValueError):
    status = 3


class UnsupportedError(MoeblockError, NotImplementedError):
    status = 4


class NotFoundError(MoeblockError, LookupError):
    status = 5


class OutOfMemoryError(MoeblockError, MemoryError):
    status = 6


class LimitError(MoeblockError, ValueError):
    status = 7


class InputOutputError(MoeblockError, OSError):
    status = 8


class WrongStateError(MoeblockError, RuntimeError):
    status = 9


class NonfiniteError(MoeblockError, ArithmeticError):
    status = 10


class MismatchError(MoeblockError, RuntimeError):
    status = 11


class PeerFailedError(MoeblockError, RuntimeError):
    status = 12


class DeadlineError(MoeblockError, TimeoutError):
    status = 13


class CancelledError(MoeblockError, RuntimeError):
    status = 14


class InternalError(MoeblockError, RuntimeError):
    status = 15


CLASSES: dict[int, type[MoeblockError]] = {
    cls.status: cls
    for cls in (
        InvalidArgumentError,
        InvalidConfigError,
        InvalidFileError,
        UnsupportedError,
        NotFoundError,
        OutOfMemoryError,
        LimitError,
        InputOutputError,
        WrongStateError,
        NonfiniteError,
        MismatchError,
        PeerFailedError,
        DeadlineError,
        CancelledError,
        InternalError,
    )
}


def error_of_status(status: int, message: str) -> MoeblockError:
    return CLASSES.get(status, MoeblockError)(message)


def status_of_error(error: BaseException) -> int:
    """The status that a callback written in Python reports for an exception of its own."""
    return error.status if isinstance(error, MoeblockError) and error.status else InternalError.status
