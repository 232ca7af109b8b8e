# SPDX-License-Identifier: Apache-2.0
"""What is no array of ours ends in a typed exception, and what is one in a result, whatever it looks like."""

from __future__ import annotations

import array
import gc
import threading
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

import moeblock

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
}
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


@pytest.mark.parametrize("what", BAD)
def test_is_refused(block: moeblock.Block, what: str) -> None:
    with pytest.raises((moeblock.InvalidArgumentError, TypeError, ValueError)):
        block(BAD[what])
    assert np.isfinite(block(ROWS)).all()  # and the block goes on


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
