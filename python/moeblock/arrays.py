# SPDX-License-Identifier: Apache-2.0
"""Arrays of numpy and tensors of torch as the library sees them: address, element type, dimensions, strides.

torch is never imported here: a tensor can only come from a program that has imported it."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from ._library import ffi, lib
from .errors import InvalidArgumentError

# Names of element types that numpy (ml_dtypes for the last ones) and torch share, and the library's.
DTYPES: dict[str, int] = {
    "float32": lib.MOEBLOCK_F32,
    "float16": lib.MOEBLOCK_F16,
    "bfloat16": lib.MOEBLOCK_BF16,
    "float64": lib.MOEBLOCK_F64,
    "uint8": lib.MOEBLOCK_U8,
    "int8": lib.MOEBLOCK_I8,
    "uint16": lib.MOEBLOCK_U16,
    "int16": lib.MOEBLOCK_I16,
    "uint32": lib.MOEBLOCK_U32,
    "int32": lib.MOEBLOCK_I32,
    "uint64": lib.MOEBLOCK_U64,
    "int64": lib.MOEBLOCK_I64,
    "bool": lib.MOEBLOCK_BOOL,
    "float8_e4m3fn": lib.MOEBLOCK_F8_E4M3,
    "float8_e5m2": lib.MOEBLOCK_F8_E5M2,
    "float8_e8m0fnu": lib.MOEBLOCK_F8_E8M0,
}
_ARRAY, _VOID = ffi.typeof("moeblock_array *"), ffi.typeof("void *")
ACTIVATIONS = ("float32", "float16", "bfloat16")
_numbers: dict[Any, int] = {}  # dtype objects of either framework, as they are met


def is_torch(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def dtype_name(value: Any) -> str:
    return str(value.dtype).removeprefix("torch.")


def dtype_number(value: Any) -> int:
    """The library's number of an element type, MOEBLOCK_DTYPE_NONE when it has none. Writing the name of a dtype takes
    microseconds; looking one up does not."""
    found = _numbers.get(value.dtype)
    if found is None:
        found = DTYPES.get(dtype_name(value), lib.MOEBLOCK_DTYPE_NONE)
        if found != lib.MOEBLOCK_DTYPE_NONE:
            _numbers[value.dtype] = found
    return found


_ACTIVATIONS = frozenset(DTYPES[name] for name in ACTIVATIONS)


def _address(value: Any) -> int:
    return int(value.data_ptr()) if is_torch(value) else int(value.__array_interface__["data"][0])


def _strides(value: Any) -> tuple[int, ...]:
    """In elements; numpy counts bytes, and an array may stand at byte offsets that are no whole elements."""
    if is_torch(value):
        return tuple(int(stride) for stride in value.stride())
    return tuple(int(stride) // value.itemsize for stride in value.strides)


def _dense(value: Any) -> Any:
    return value.contiguous() if is_torch(value) else np.ascontiguousarray(value)


def _is_dense(value: Any) -> bool:
    if is_torch(value):
        return bool(value.is_contiguous())
    flags = value.flags
    return bool(flags.c_contiguous and flags.aligned and value.dtype.isnative)


def _usable(value: Any) -> bool:
    """Whether the library can read the rows where they are: whole elements, the last dimension without gaps."""
    if _is_dense(value):
        return True
    if value.ndim == 0 or 0 in value.shape:
        return False
    if not is_torch(value) and (not value.flags.aligned or any(s % value.itemsize for s in value.strides)):
        return False
    return all(stride >= 0 for stride in _strides(value)) and _strides(value)[-1] == 1


def _array(value: Any, what: str) -> np.ndarray[Any, Any]:
    """As a plain numpy array of native byte order: itself where it is one. An exporter of DLPack or of a buffer is read
    where it is; a list of numbers becomes float32."""
    if type(value) is np.ndarray:
        array = value
    elif isinstance(value, np.ma.MaskedArray):
        raise InvalidArgumentError(f"{what}: a masked array, and a mask means nothing here; call .filled() first")
    elif isinstance(value, np.ndarray):
        array = value.view(np.ndarray)
    else:
        try:
            if hasattr(value, "__dlpack__"):
                array = np.from_dlpack(value)
            else:
                array = np.asarray(value, np.float32 if isinstance(value, (list, tuple)) else None)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise InvalidArgumentError(
                f"{what}: {type(value).__name__} is no array that can be read: {error}"
            ) from None
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _tensor(value: Any, what: str) -> Any:
    """A torch tensor that has its numbers in memory of this process, as they are read."""
    if value.layout != sys.modules["torch"].strided or value.is_nested:
        kind = "a nested tensor" if value.is_nested else f"a tensor of layout {value.layout}"
        raise InvalidArgumentError(f"{what}: {kind}, expected torch.strided")
    if value.device.type != "cpu":
        raise InvalidArgumentError(f"{what}: a tensor on {value.device}, expected one on the CPU; call .cpu() first")
    if value.requires_grad:
        value = value.detach()
    if value.is_neg() or value.is_conj():  # signs that torch has noted and not yet written
        value = value.resolve_neg().resolve_conj()
    try:
        held = value.untyped_storage().nbytes()
    except (RuntimeError, NotImplementedError) as error:  # one of torch's wrappers, inside vmap or a trace
        raise InvalidArgumentError(f"{what}: a tensor without memory of its own ({error})") from None
    if (_reach(value) + value.storage_offset()) * value.element_size() > held:
        raise InvalidArgumentError(
            f"{what}: a tensor of shape {tuple(value.shape)} whose memory was freed: {held} bytes are left of it"
        )
    return value


def _reach(tensor: Any) -> int:
    """Elements from the first to the end of the last."""
    count = int(tensor.numel())
    if not count or tensor.is_contiguous():
        return count
    return 1 + int(sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True)))


def activation(value: Any, what: str) -> Any:
    """`value` as an array or tensor whose last dimension is without gaps: itself, or a copy where its layout demands
    one. Lists become float32 arrays."""
    if is_torch(value):
        if value.requires_grad and sys.modules["torch"].is_grad_enabled():
            raise InvalidArgumentError(
                f"{what}: a tensor that requires a gradient, which moeblock does not compute; "
                "call it under torch.no_grad() or pass x.detach()"
            )
        value = _tensor(value, what)
    else:
        value = _array(value, what)
    if dtype_number(value) not in _ACTIVATIONS:
        raise InvalidArgumentError(f"{what}: elements of {dtype_name(value)}, expected one of {', '.join(ACTIVATIONS)}")
    if not 1 <= value.ndim <= lib.MOEBLOCK_MAX_RANK:
        raise InvalidArgumentError(f"{what}: {value.ndim} dimensions, expected 1 to {lib.MOEBLOCK_MAX_RANK}")
    return value if _usable(value) else _dense(value)


def array_of(value: Any) -> Any:
    """moeblock_array over an activation. `value` must outlive it."""
    array = ffi.new(_ARRAY, [dtype_number(value), value.ndim, value.shape])
    if not _is_dense(value):  # strides of zero mean a dense array
        array.strides[0 : value.ndim] = _strides(value)
    array.data = ffi.cast(_VOID, _address(value))
    return array


def pointer(kind: str, array: np.ndarray[Any, Any]) -> Any:
    """A dense numpy array as a C pointer: pointer("int32_t[]", ids). The pointer keeps the array alive."""
    return ffi.from_buffer(kind, array)


def empty_like(value: Any) -> Any:
    """Dense, of the same shape, type and framework."""
    if is_torch(value):
        torch = sys.modules["torch"]
        return torch.empty_like(value, memory_format=torch.contiguous_format)
    return np.empty(value.shape, value.dtype)


def tokens_of(value: Any) -> int:
    """Rows of an activation: the product of all dimensions but the last."""
    return math.prod(value.shape[:-1])


def integers(value: Any, dtype: str, what: str) -> Any:
    """Ids or lengths as a dense numpy array of `dtype`."""
    array = np.asarray(value.detach().cpu().numpy() if is_torch(value) else value)
    if array.size and array.dtype.kind not in "iu":
        raise InvalidArgumentError(f"{what}: elements of {array.dtype}, expected integers")
    return np.ascontiguousarray(array.reshape(-1), dtype)


def float32(value: Any) -> Any:
    """Factors as a dense float32 numpy array of one dimension."""
    if is_torch(value):
        value = (value.detach() if value.requires_grad else value).float().numpy()
    return np.ascontiguousarray(value, np.float32).ravel()


def like(value: Any, result: np.ndarray[Any, Any] | None) -> Any:
    """`result` in the framework of `value`; None stays None."""
    if result is None:
        return None
    return sys.modules["torch"].from_numpy(result) if is_torch(value) else result


def tensors_of(weights: Any) -> tuple[Any, list[Any]]:
    """moeblock_tensor[] of a mapping name -> array, and what must be kept alive while it is used."""
    items: Sequence[tuple[str, Any]] = list(weights.items())
    tensors = ffi.new("moeblock_tensor[]", max(len(items), 1))
    keep: list[Any] = []
    for tensor, (name, value) in zip(tensors, items, strict=False):
        what = f"weights: '{name}'"
        value = _tensor(value, what) if is_torch(value) else _array(value, what)
        if dtype_number(value) == lib.MOEBLOCK_DTYPE_NONE:
            raise InvalidArgumentError(f"{what} has elements of {dtype_name(value)}, which no checkpoint holds")
        if value.ndim > lib.MOEBLOCK_MAX_RANK:
            raise InvalidArgumentError(f"{what} has {value.ndim} dimensions, at most {lib.MOEBLOCK_MAX_RANK}")
        dense = _dense(value).reshape(value.shape)
        label = ffi.new("char[]", name.encode())
        keep += [dense, label]
        tensor.name = label
        tensor.dtype = dtype_number(value)
        tensor.rank = value.ndim
        for i in range(value.ndim):
            tensor.dims[i] = value.shape[i]
        count = int(np.prod(value.shape, dtype=np.int64))
        tensor.bytes = count * (dense.element_size() if is_torch(dense) else dense.itemsize)
        tensor.data = ffi.cast("void *", _address(dense)) if count else ffi.NULL
    return tensors, keep
