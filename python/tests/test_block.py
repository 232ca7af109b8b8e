# SPDX-License-Identifier: Apache-2.0
"""The block from Python: golden numbers, arrays of every kind, threads, processes, errors."""

from __future__ import annotations

import gc
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from conftest import described, golden_cases
from hypothesis import given, settings
from hypothesis import strategies as st

import moeblock

INPUTS = {"aux": "aux", "token_ids": "token_ids", "token_types": "token_types", "seq_lens": "seq_lens"}


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)))


@pytest.mark.parametrize("case", golden_cases(), ids=lambda case: case.name)
def test_golden(case: Path) -> None:
    """The models' own numbers, from the folder as it was published."""
    about = described(case)
    try:
        block = moeblock.Block.from_pretrained(case, layer=about["layer"])
    except moeblock.UnsupportedError as refusal:  # by name; tests/test_golden.c lists which cases may be
        pytest.xfail(str(refusal))
    inputs = {key: np.load(case / f"{name}.npy") for key, name in INPUTS.items() if (case / f"{name}.npy").exists()}
    if (case / "router_state_in.npy").exists():
        inputs["router_state"] = np.load(case / "router_state_in.npy")
    result = block.run(np.load(case / "input.npy"), route=True, **inputs)
    exact = block.info["compute"] == "f32"  # MXFP4 may be computed in int16, which is no worse than bf16
    allowed = 1e-5 if exact else max(4e-3, about["original_bf16_rel_rms"])
    assert relative(result.y, np.load(case / "expected.npy")) <= allowed
    if (case / "expected_router_state.npy").exists():
        assert relative(result.router_state, np.load(case / "expected_router_state.npy")) <= 1e-5
    expected_weights = np.load(case / "expected_weights.npy")
    counted = expected_weights != 0
    if "banks" in about:  # the case numbers the experts of each bank from 0
        result.ids[...] %= about["banks"]["experts"]
    for ids, expected, real in zip(result.ids, np.load(case / "expected_ids.npy"), counted, strict=True):
        assert set(expected[real]) <= set(ids)
    np.testing.assert_allclose(np.sort(result.weights), np.sort(expected_weights), rtol=1e-5, atol=1e-7)


def test_from_config_equals_the_formula(small) -> None:
    config, weights = small
    block = moeblock.Block.from_config(config, weights)
    x = np.random.default_rng(1).standard_normal((5, 24)).astype(np.float32)
    y, (ids, factors) = block(x), block.route(x)
    expected = np.zeros_like(x, np.float64)

    def expert(prefix: str, row: np.ndarray) -> np.ndarray:
        gate, up = (weights[f"{prefix}.{part}_proj.weight"].astype(np.float64) @ row for part in ("gate", "up"))
        return weights[f"{prefix}.down_proj.weight"].astype(np.float64) @ (gate / (1 + np.exp(-gate)) * up)

    for t, row in enumerate(x.astype(np.float64)):
        for e, factor in zip(ids[t], factors[t], strict=True):
            expected[t] += factor * expert(f"experts.{e}", row)
        expected[t] += expert("shared_experts", row)
    assert relative(y, expected) < 1e-6
    assert block.expert_load(x).sum() == ids.size
    routed = block.experts(x, ids, factors)
    assert not np.array_equal(routed, y)


def test_same_bits_for_modes_threads_and_batches(small) -> None:
    config, weights = small
    x = np.random.default_rng(2).standard_normal((9, 24)).astype(np.float32)
    y = moeblock.Block.from_config(config, weights)(x)
    other = moeblock.Block.from_config(config, weights, threads=3)
    assert np.array_equal(y, other(x, mode="decode"))
    assert all(np.array_equal(y[t], other(x[t])) for t in range(len(x)))


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(0, 4), min_size=0, max_size=3),
    kind=st.sampled_from(["float32", "float16", "bfloat16"]),
    step=st.sampled_from([1, 2, -1, -3]),
    offset=st.integers(0, 3),
    turned=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_any_layout(small, shape, kind, step, offset, turned, seed) -> None:
    """Strided, reversed, turned, unaligned and empty arrays give what their dense copy gives, and stay as they are."""
    config, weights = small
    block = _block(config, weights)
    dtype = ml_dtypes.bfloat16 if kind == "bfloat16" else np.dtype(kind)
    dense = np.random.default_rng(seed).standard_normal((*shape, 24)).astype(dtype)
    if turned:
        x = np.moveaxis(np.ascontiguousarray(np.moveaxis(dense, -1, 0)), 0, -1)
    else:
        wide = np.zeros((*shape, 24 * abs(step)), dtype)
        x = wide[..., ::step][..., :24]
        x[...] = dense
    if offset:  # the same elements at an address that is no whole element
        raw = np.zeros(x.nbytes + offset, np.uint8)
        moved = np.frombuffer(raw.data, dtype, x.size, offset).reshape(x.shape)
        moved[...] = x
        x = moved
    before = x.copy()
    y = block(x)
    assert y.shape == x.shape and y.dtype == x.dtype
    assert np.array_equal(np.asarray(x, np.float32), np.asarray(before, np.float32))
    assert y.tobytes() == block(dense).tobytes()


_blocks: dict[int, moeblock.Block] = {}


def _block(config, weights) -> moeblock.Block:
    return _blocks.setdefault(id(weights), moeblock.Block.from_config(config, weights))


def test_threads_on_one_block(small) -> None:
    config, weights = small
    block = moeblock.Block.from_config(config, weights)
    inputs = [np.random.default_rng(i).standard_normal((i % 7 + 1, 24)).astype(np.float32) for i in range(40)]
    alone = [block(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(block, inputs))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_the_interpreter_lock_is_released(small) -> None:
    """With a switch interval of minutes, another thread gets on only where the call itself lets go of the lock."""
    config, weights = small
    block = moeblock.Block.from_config(config, weights, context=moeblock.Context(1, "ref"))
    x = np.ones((40000, 24), np.float32)
    woken: list[float] = []
    started = threading.Event()

    def other() -> None:
        started.set()
        time.sleep(0.02)
        woken.append(time.perf_counter())

    thread = threading.Thread(target=other)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(600)
    try:
        thread.start()
        started.wait()
        begun = time.perf_counter()
        block(x)
        ended = time.perf_counter()
        released = bool(woken) and woken[0] < ended
    finally:
        sys.setswitchinterval(interval)
        thread.join()
    assert ended - begun > 0.05, "too short a call to tell"
    assert released


def test_threads_can_be_set(small) -> None:
    config, weights = small
    before = moeblock.default_context()
    assert moeblock.Context(threads=3).threads == 3
    assert moeblock.Block.from_config(config, weights, threads=2).context.threads == 2
    try:
        moeblock.set_threads(1)
        assert moeblock.Block.from_config(config, weights).context.threads == 1
    finally:
        moeblock.set_threads(before.threads)
    with pytest.raises(moeblock.InvalidArgumentError):
        moeblock.Context(threads=-1)
    with pytest.raises(moeblock.MoeblockError, match="no_such_level"):
        moeblock.Context(level="no_such_level")


def _child(block: moeblock.Block, x: np.ndarray, queue) -> None:
    queue.put(block(x))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_after_fork(small) -> None:
    config, weights = small
    block = moeblock.Block.from_config(config, weights, threads=2)
    x = np.ones((3, 24), np.float32)
    y = block(x)
    fork = multiprocessing.get_context("fork")
    queue = fork.Queue()
    child = fork.Process(target=_child, args=(block, x, queue))
    child.start()
    assert np.array_equal(queue.get(timeout=30), y)
    child.join(30)
    assert child.exitcode == 0


def test_exit_with_live_blocks(tmp_path) -> None:
    """Objects that are alive when the interpreter ends, in a cycle at that, do no harm."""
    program = """
import moeblock, numpy as np
config = {"model": {"hidden_size": 8, "num_experts": 2, "num_experts_per_tok": 1},
          "router": {"type": "topk", "config": {}}, "experts": {"distributed": {"intermediate_size": 8}}}
block = moeblock.Block(config)
cycle = [block]; cycle.append(cycle)
print("alive")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "alive\n", "")


def test_exit_in_the_middle_of_a_forward(tmp_path) -> None:
    """A daemon thread inside the library when the interpreter ends."""
    program = """
import threading, time, moeblock, numpy as np
config = {"model": {"hidden_size": 64, "num_experts": 2, "num_experts_per_tok": 1}, "weights": {"module_prefix": ""},
          "router": {"type": "topk", "config": {}}, "experts": {"distributed": {"intermediate_size": 64}}}
weights = {"gate.weight": np.ones((2, 64), np.float32)}
weights |= {f"experts.{e}.{p}_proj.weight": np.ones((64, 64), np.float32) for e in (0, 1)
            for p in ("gate", "up", "down")}
block = moeblock.Block.from_config(config, weights, threads=2)
def work():
    while True:
        block(np.ones((4096, 64), np.float32))
for _ in range(2):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.3)
print("leaving")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "leaving\n", "")


def test_any_order_of_destruction(small) -> None:
    config, weights = small
    context = moeblock.Context(threads=2)
    block = moeblock.Block.from_config(moeblock.Config(config, context=context), weights)
    del context
    gc.collect()
    assert block(np.zeros((1, 24), np.float32)).shape == (1, 24)


def test_one_class_per_status() -> None:
    from moeblock import errors
    from moeblock._library import ffi, lib

    statuses = {number: name for number, name in ffi.typeof("moeblock_status").elements.items() if number}
    assert set(errors.CLASSES) == set(statuses) == set(range(1, len(statuses) + 1))
    for status, kind in errors.CLASSES.items():
        raised = errors.error_of_status(status, "one sentence")
        assert type(raised) is kind and isinstance(raised, moeblock.MoeblockError) and str(raised) == "one sentence"
        assert getattr(moeblock, kind.__name__) is kind and errors.status_of_error(raised) == status
        assert lib.moeblock_status_name(status) != ffi.NULL


def test_errors_are_the_librarys_sentences(small, tmp_path) -> None:
    config, weights = small
    with pytest.raises(moeblock.InvalidConfigError, match="hidden_sise"):
        moeblock.Config({"model": {"hidden_sise": 3}})
    with pytest.raises(moeblock.NotFoundError, match="nowhere"):
        moeblock.Block.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(moeblock.WrongStateError):
        moeblock.Block(config)(np.zeros((1, 24), np.float32))
    fewer = {name: value for name, value in weights.items() if "experts.3.up" not in name}
    with pytest.raises(moeblock.NotFoundError, match=r"experts\.3\.up_proj"):
        moeblock.Block.from_config(config, fewer)
    block = moeblock.Block.from_config(config, weights)
    with pytest.raises(moeblock.InvalidArgumentError, match="23"):
        block(np.zeros((1, 23), np.float32))
    with pytest.raises(moeblock.InvalidArgumentError, match="float64"):
        block(np.zeros((1, 24)))
    with pytest.raises(moeblock.InvalidArgumentError, match="token_ids"):
        block(np.zeros((2, 24), np.float32), token_ids=[1])
    with pytest.raises(KeyError):
        block.config["router.config.no_such_key"]


def test_progress_can_cancel(tmp_path) -> None:
    moeblock.synth(_written(tmp_path), tmp_path / "weights", format="bf16", layer=0)
    seen: list[tuple[int, int]] = []
    moeblock.Block.from_pretrained(tmp_path / "weights", progress=lambda done, total: seen.append((done, total)))
    assert seen and seen[-1][0] == seen[-1][1]

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        moeblock.Block.from_pretrained(tmp_path / "weights", progress=stop)


def _written(folder: Path) -> Path:
    path = folder / "model.json"
    path.write_text(
        '{"model": {"hidden_size": 64, "num_experts": 4, "num_experts_per_tok": 2},'
        ' "router": {"type": "topk", "config": {}}, "experts": {"distributed": {"intermediate_size": 64}}}'
    )
    return path


def test_commands(tmp_path) -> None:
    assert moeblock.info()["level"] == moeblock.default_context().level
    path = _written(tmp_path)
    assert '"hidden_size": 64' in moeblock.config(path)
    moeblock.synth(path, tmp_path / "weights", format="bf16", layer=0)
    moeblock.validate(tmp_path / "weights")
    with pytest.raises(moeblock.NotFoundError):
        moeblock.validate(tmp_path / "nowhere")
    cases = moeblock.bench(path, format="bf16", tokens=[1, 2], threads=1)["cases"]
    assert [case["tokens"] for case in cases] == [1, 2]
