# SPDX-License-Identifier: Apache-2.0
"""What is no array of ours ends in a typed exception, and what is one in a result, whatever it looks like."""

from __future__ import annotations

import array
import gc
import math
import os
import select
import threading
import warnings
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import moeblock
from moeblock import arrays
from moeblock._openmp import torch_context

ROWS = np.random.default_rng(4).standard_normal((3, 24)).astype(np.float32)
TENSOR = torch.from_numpy(ROWS.copy())


class Exporter:
    """Knows DLPack and nothing else."""

    def __dlpack__(self, **options: Any) -> Any:
        return ROWS.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


class Subclass(np.ndarray):
    pass


def read_only(values: np.ndarray) -> np.ndarray:
    values = values.copy()
    values.flags.writeable = False
    return values


GOOD: dict[str, Any] = {
    "list": ROWS.tolist(),
    "tuple of tuples": tuple(map(tuple, ROWS.tolist())),
    "read-only": read_only(ROWS),
    "Fortran order": np.asfortranarray(ROWS),
    "subclass": ROWS.view(Subclass),
    "big-endian": ROWS.astype(">f4"),
    "buffer": memoryview(ROWS),
    "DLPack": Exporter(),
    "memory map": np.frombuffer(ROWS.tobytes(), np.float32).reshape(3, 24),
    "broadcast": np.broadcast_to(ROWS[:1], (3, 24)),
    "reversed": ROWS[::-1],
    "every other": np.repeat(ROWS, 2, axis=1)[:, ::2],
    "middle of a larger one": np.pad(ROWS, ((1, 1), (2, 3)))[1:-1, 2:-3],
    "bfloat16": ROWS.astype(ml_dtypes.bfloat16),
    "float16": ROWS.astype(np.float16),
    "unaligned": np.frombuffer(b"\0" + ROWS.tobytes(), np.uint8)[1:].view(np.float32).reshape(3, 24),
    "tensor": TENSOR,
    "transposed tensor": TENSOR.T.contiguous().T,
    "expanded tensor": TENSOR[:1].expand(3, 24),
    "parameter": torch.nn.Parameter(TENSOR, requires_grad=False),
    "sliced tensor": torch.cat([TENSOR, TENSOR], dim=1)[:, :24],
    "bfloat16 tensor": TENSOR.to(torch.bfloat16),
    "conjugated twice": TENSOR.conj(),
    "eight dimensions": ROWS.reshape(1, 1, 1, 1, 1, 1, 3, 24),
    "no rows": ROWS[:0],
    "one row": ROWS[0],
    "float16 tensor": TENSOR.half(),
    "tensor of noted signs": torch._neg_view(TENSOR),
    "part of complex numbers": torch.complex(TENSOR, TENSOR).conj().imag,
    "every other column of a tensor": TENSOR.repeat_interleave(2, 1)[:, ::2],
}
# What is read where it is: x goes to the library without a copy.
IN_PLACE = (
    *("read-only", "subclass", "buffer", "DLPack", "memory map", "broadcast", "middle of a larger one", "bfloat16"),
    *("float16", "tensor", "expanded tensor", "parameter", "sliced tensor", "bfloat16 tensor", "eight dimensions"),
    *("no rows", "one row", "float16 tensor"),
)


def freed() -> torch.Tensor:
    """As what shards parameters over processes leaves behind: a shape without memory."""
    tensor = TENSOR.clone()
    tensor.untyped_storage().resize_(0)
    return tensor


def shrunk() -> torch.Tensor:
    tensor = TENSOR.clone()
    tensor.untyped_storage().resize_(100)
    return tensor


def nested() -> torch.Tensor:
    with warnings.catch_warnings():  # torch says that it may change them
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([TENSOR, TENSOR[:1]])


def released() -> memoryview:
    view = memoryview(ROWS.copy())
    view.release()
    return view


class OnAnotherDevice(Exporter):
    def __dlpack__(self, **options: Any) -> Any:
        raise BufferError("its numbers are on another device")


BAD: dict[str, Any] = {
    "float64": ROWS.astype(np.float64),
    "int32": ROWS.astype(np.int32),
    "bool": ROWS > 0,
    "complex": ROWS.astype(np.complex64),
    "object": ROWS.astype(object),
    "text": np.array([["a"] * 24]),
    "date": np.zeros((1, 24), "datetime64[s]"),
    "record": np.zeros((1, 24), [("a", np.float32)]),
    "no dimension": np.float32(3),
    "no dimension, array": np.array(3, np.float32),
    "nine dimensions": ROWS.reshape(1, 1, 1, 1, 1, 1, 1, 3, 24),
    "too narrow": ROWS[:, :23],
    "too wide": np.pad(ROWS, ((0, 0), (0, 1))),
    "width of nothing": ROWS[:, :0],
    "None": None,
    "a word": "x",
    "bytes": b"\0" * 96,
    "a number": 3.5,
    "a dictionary": {"x": 1},
    "ragged": [[1.0] * 24, [1.0] * 23],
    "integers in a buffer": memoryview(array.array("i", [0] * 24)),
    "double tensor": TENSOR.double(),
    "integer tensor": TENSOR.int(),
    "tensor without data": torch.empty(3, 24, device="meta"),
    "sparse tensor": TENSOR.to_sparse(),
    "gradient": TENSOR.clone().requires_grad_(),
    "number tensor": torch.tensor(3.0),
    "FP8 tensor": TENSOR.to(torch.float8_e4m3fn),
    "nested tensor": nested(),
    "freed tensor": freed(),
    "shrunk tensor": shrunk(),
    "released buffer": released(),
    "masked": np.ma.masked_array(ROWS, ROWS > 0),
    "DLPack of another device": OnAnotherDevice(),
    "an object": object(),
    "a class": np.ndarray,
    "a generator": (row for row in ROWS),
}


@pytest.fixture(scope="module")
def block(small) -> moeblock.Block:
    return moeblock.Block.from_config(*small)


@pytest.mark.parametrize("what", GOOD)
def test_is_taken(block: moeblock.Block, what: str) -> None:
    given = GOOD[what]
    y = block(given)
    if isinstance(given, torch.Tensor):
        assert isinstance(y, torch.Tensor) and y.dtype == given.dtype
        dense = given.detach().clone().contiguous()
        assert torch.equal(y, block(dense))
    else:
        like = given if isinstance(given, np.ndarray) else ROWS
        dense = np.ascontiguousarray(like.astype(like.dtype.newbyteorder("=")))
        assert y.shape == like.shape
        assert y.tobytes() == block(np.asarray(dense)).tobytes()


@pytest.mark.parametrize("what", IN_PLACE)
def test_is_read_where_it_is(what: str) -> None:
    given = GOOD[what]
    taken = arrays.activation(given, "x")
    if isinstance(given, torch.Tensor):
        address = given.data_ptr()
    else:
        address = (given if isinstance(given, np.ndarray) else ROWS).__array_interface__["data"][0]
    assert int(arrays.ffi.cast("uintptr_t", arrays.array_of(taken).data)) == address


def test_what_is_read_in_place_or_once() -> None:
    copied = set(GOOD) - set(IN_PLACE)
    for what in copied - {"list", "tuple of tuples"}:
        taken = arrays.activation(GOOD[what], "x")
        assert taken.shape == GOOD[what].shape
        assert arrays.activation(taken, "x") is taken or isinstance(taken, torch.Tensor)


@pytest.mark.parametrize("what", BAD)
def test_is_refused(block: moeblock.Block, what: str) -> None:
    with pytest.raises(moeblock.InvalidArgumentError) as refusal:
        block(BAD[what])
    assert len(str(refusal.value)) > 20
    assert np.isfinite(block(ROWS)).all()  # and the block goes on


def test_tensors_inside_a_transform(block: moeblock.Block) -> None:
    with pytest.raises(moeblock.InvalidArgumentError, match="memory of its own"):
        torch.func.vmap(block)(TENSOR)


def test_results_are_of_the_inputs_framework(block: moeblock.Block) -> None:
    for x, kind in ((ROWS, np.ndarray), (TENSOR, torch.Tensor)):
        ids, factors = block.route(x)
        result = block.run(x, route=True, load=True)
        told = (block(x), ids, factors, block.expert_load(x), result.y, result.ids, result.expert_load)
        assert all(isinstance(part, kind) for part in told)
        assert isinstance(block.experts(x, ids, factors), kind)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(0, 4), min_size=0, max_size=3),
    kind=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    order=st.randoms(use_true_random=False),
    step=st.sampled_from([1, 2, 3]),
    offset=st.integers(0, 3),
)
def test_any_layout_of_a_tensor(small, shape, kind, order, step, offset) -> None:
    """Dimensions in any order in memory, with gaps, from any element on."""
    block = _block(small)
    shape = (*shape, 24)
    axes = list(range(len(shape)))
    order.shuffle(axes)
    dense = torch.randn(shape, generator=torch.Generator().manual_seed(offset)).to(kind)
    room = torch.zeros(offset + step * max(dense.numel(), 1), dtype=kind)[offset:]
    turned = [shape[axis] for axis in axes]
    x = room[: step * dense.numel() : step].as_strided(
        turned, [step * math.prod(turned[i + 1 :]) for i in range(len(turned))], room.storage_offset()
    )
    x = x.permute([axes.index(axis) for axis in range(len(shape))])
    x.copy_(dense)
    y = block(x)
    assert y.shape == x.shape and y.dtype == kind and y.is_contiguous()
    assert torch.equal(x, dense) and torch.equal(y, block(dense))


@settings(max_examples=40, deadline=None)
@given(tokens=st.integers(0, 5), k=st.integers(1, 6), kind=st.sampled_from(["int32", "int64", "uint8"]), data=st.data())
def test_any_routing(small, tokens, k, kind, data) -> None:
    """Ids of any integer type and any k that the experts allow; -1 is an empty slot."""
    block = _block(small)
    least = 0 if kind == "uint8" else -1
    row = st.lists(st.integers(least, 5), min_size=k, max_size=k, unique=True)
    ids = np.array(data.draw(st.lists(row, min_size=tokens, max_size=tokens)), kind).reshape(tokens, k)
    factors = np.linspace(0.1, 1, ids.size, dtype=np.float32).reshape(ids.shape)
    x = np.resize(ROWS, (tokens, 24))
    y = block.experts(x, ids, factors)
    alone = [block.experts(x[t], np.asfortranarray(ids)[t], factors[t].astype(np.float64)) for t in range(tokens)]
    assert y.shape == x.shape and all(np.array_equal(a, b) for a, b in zip(y, alone, strict=True))


@settings(max_examples=40, deadline=None)
@given(kind=st.sampled_from(["float32", "float16", "bfloat16"]), axes=st.permutations([0, 1]), swap=st.booleans())
def test_weights_of_any_type(small, kind, axes, swap) -> None:
    config, weights = small
    dtype = np.dtype(ml_dtypes.bfloat16 if kind == "bfloat16" else kind)
    dense = {name: value.astype(dtype) for name, value in weights.items()}
    turned = {name: np.ascontiguousarray(value.transpose(axes)).transpose(axes) for name, value in dense.items()}
    if swap and kind != "bfloat16":
        turned = {name: value.astype(dtype.newbyteorder()) for name, value in turned.items()}
    expected = moeblock.Block.from_config(config, dense)(ROWS)
    assert np.array_equal(moeblock.Block.from_config(config, turned)(ROWS), expected)


_blocks: dict[int, moeblock.Block] = {}


def _block(small) -> moeblock.Block:
    """One block for all examples of a property."""
    return _blocks.setdefault(id(small), moeblock.Block.from_config(*small))


def test_after_fork_on_torchs_threads(small) -> None:
    """The OpenMP runtime does not survive a fork; the child does the work itself, with the same bits."""
    context = torch_context(2)
    block = moeblock.Block.from_config(moeblock.Config(small[0], context=context), small[1])
    expected = block(TENSOR)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os._exit(0 if os.write(writer, block(ROWS).tobytes()) else 1)
    os.close(writer)
    ready, _, _ = select.select([reader], [], [], 60)
    assert ready, "the child hangs"
    assert os.read(reader, 1 << 16) == expected.numpy().tobytes()
    os.close(reader)
    assert os.waitpid(child, 0)[1] == 0
    assert torch.equal(block(TENSOR), expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("token_ids", [1.5, 2, 3]),
        ("token_ids", [1, 2]),
        ("token_types", [[1, 2], [3, 4]]),
        ("aux", ROWS.astype(np.float64)),
        ("mode", "training"),
    ],
)
def test_other_inputs_are_checked(block: moeblock.Block, name: str, value: Any) -> None:
    with pytest.raises(moeblock.InvalidArgumentError):
        block(ROWS, **{name: value})


def test_unknown_inputs_and_computes(block: moeblock.Block, small) -> None:
    with pytest.raises(TypeError):
        block(ROWS, no_such_input=1)
    with pytest.raises(moeblock.InvalidArgumentError, match="compute"):
        moeblock.Block(small[0], compute="float8")
    with pytest.raises(moeblock.InvalidArgumentError):
        block.experts(ROWS, [[0, 1]], [[0.5, 0.5]])
    with pytest.raises(moeblock.InvalidArgumentError):
        block.experts(ROWS, [[0, 99]] * 3, [[0.5, 0.5]] * 3)


@pytest.mark.parametrize("value", [None, "x", 3, ROWS.astype(complex), ROWS.astype(object), np.zeros((1,) * 9)])
def test_weights_of_no_checkpoint(small, value: Any) -> None:
    config, weights = small
    with pytest.raises((moeblock.MoeblockError, TypeError, ValueError)):
        moeblock.Block.from_config(config, {**weights, "gate.weight": value})


def test_weights_of_any_layout(small) -> None:
    config, weights = small
    expected = moeblock.Block.from_config(config, weights)(ROWS)
    turned = {name: np.asfortranarray(value) for name, value in weights.items()}
    tensors = {name: torch.from_numpy(value.T.copy()).T for name, value in weights.items()}
    assert np.array_equal(moeblock.Block.from_config(config, turned)(ROWS), expected)
    assert np.array_equal(moeblock.Block.from_config(config, tensors)(ROWS), expected)


def test_weights_may_go_after_the_load(small) -> None:
    config, weights = small
    copies = {name: value.copy() for name, value in weights.items()}
    block = moeblock.Block.from_config(config, copies)
    expected = block(ROWS)
    for value in copies.values():
        value.fill(np.nan)
    copies.clear()
    gc.collect()
    assert np.array_equal(block(ROWS), expected)


def test_blocks_made_and_dropped_in_threads(small) -> None:
    """No thread needs to be the one that made a block, and none is left waiting."""
    config, weights = small
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(5):
                moeblock.Block.from_config(config, weights, threads=2)(ROWS)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures and not any(thread.is_alive() for thread in threads)
