# SPDX-License-Identifier: Apache-2.0
"""Routers and experts written in Python."""

from __future__ import annotations

import numpy as np
import pytest

import moeblock
from moeblock.kinds import Need

CONFIG = {
    "model": {"hidden_size": 8, "num_experts": 4, "num_experts_per_tok": 2},
    "router": {"type": "by_token", "config": {"turn": 1}},
    "experts": {"type": "scaled", "config": {"by": 2.0}, "distributed": {"intermediate_size": 8}},
    "weights": {"module_prefix": "layer"},
}


class ByToken:
    """Experts by the token's id."""

    def __init__(self, config, *, hidden, experts, top_k):
        self.turn, self.experts, self.top_k = config["turn"], experts, top_k

    def select(self, x, aux, token_ids, token_types):
        if token_ids is None:
            raise ValueError("no token ids")
        ids = (token_ids[:, None] + self.turn + np.arange(self.top_k)) % self.experts
        return ids, np.full(ids.shape, 0.5)


class Scaled:
    """Expert e multiplies by a stored factor."""

    def __init__(self, config, *, experts, hidden, intermediate, shared):
        self.by, self.experts = config["by"], experts

    def needs(self, layer):
        return [Need("layer.factors", [self.experts])]

    def load(self, tensors):
        self.factors = tensors["layer.factors"]

    def inner(self, expert, rows):
        return rows * self.by

    def outer(self, expert, rows):
        return rows * self.factors[expert]


def test_kinds_of_a_context() -> None:
    context = moeblock.Context(threads=2)
    moeblock.register_router("by_token", ByToken, context=context)
    moeblock.register_expert("scaled", Scaled, context=context)
    factors = np.array([1, 10, 100, 1000], np.float32)
    block = moeblock.Block.from_config(
        moeblock.Config(CONFIG, context=context), {"layer.factors": factors}, compute="f32"
    )
    x = np.arange(24, dtype=np.float32).reshape(3, 8)
    y = block(x, token_ids=[0, 1, 2])
    expected = x * 2 * 0.5 * np.array([[110], [1100], [1001]])
    np.testing.assert_allclose(y, expected)
    with pytest.raises(moeblock.InternalError, match="no token ids"):
        block(x)


def test_a_missing_tensor_is_named() -> None:
    context = moeblock.Context(threads=1)
    moeblock.register_router("by_token", ByToken, context=context)
    moeblock.register_expert("scaled", Scaled, context=context)
    with pytest.raises(moeblock.NotFoundError, match=r"layer\.factors"):
        moeblock.Block.from_config(moeblock.Config(CONFIG, context=context), {"other": np.zeros(1, np.float32)})


def test_a_taken_name_is_refused() -> None:
    context = moeblock.Context(threads=1)
    moeblock.register_router("by_token", ByToken, context=context)
    with pytest.raises(moeblock.InvalidArgumentError, match="by_token"):
        moeblock.register_router("by_token", ByToken, context=context)
