# SPDX-License-Identifier: Apache-2.0
"""The experts of transformers models, run here: the same logits, the same tokens."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from hf_models import PATCHED, SWAPPABLE, tiny

import moeblock
import moeblock.hf

moeblock.hf.register()
FAMILIES = [*((name, own, False) for name, own in SWAPPABLE.items()), *((n, own, True) for n, own in PATCHED.items())]


def serve(model: Any, patched: bool) -> None:
    """From here on the model's experts run here; asserts that there are some."""
    if patched:
        assert moeblock.hf.patch(model) > 0
    else:
        model.set_experts_implementation("moeblock")
    assert moeblock.hf.prepare(model) > 0


def tokens(rows: int = 2, columns: int = 9) -> torch.Tensor:
    return torch.randint(2, 128, (rows, columns), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(("family", "own", "patched"), FAMILIES, ids=[row[0] for row in FAMILIES])
def test_same_logits_and_tokens(family: str, own: dict[str, Any], patched: bool) -> None:
    model = tiny(family, own)
    prompt = tokens()
    mask = torch.ones_like(prompt)
    mask[0, :4] = 0  # left padding
    options = {"max_new_tokens": 32, "do_sample": False, "attention_mask": mask, "pad_token_id": 0}
    with torch.no_grad():
        if not patched:
            model.set_experts_implementation("eager")
        theirs = model(prompt, attention_mask=mask).logits
        their_tokens = model.generate(prompt, **options)
        serve(model, patched)
        ours = model(prompt, attention_mask=mask).logits
        our_tokens = model.generate(prompt, **options)
    assert ((ours - theirs).norm() / theirs.norm()).item() < 1e-5
    assert not torch.equal(ours, torch.zeros_like(ours))
    assert torch.equal(our_tokens, their_tokens)


def test_released_parameters_say_so() -> None:
    model = tiny("qwen3_moe", {})
    with torch.no_grad():
        serve(model, patched=False)
        before = model(tokens()).logits
        moeblock.hf.prepare(model, release=True)
        assert torch.equal(model(tokens()).logits, before)
    parameter = next(p for name, p in model.named_parameters() if name.endswith("gate_up_proj"))
    assert tuple(parameter.shape) == (8, 96, 64)
    with pytest.raises(moeblock.WrongStateError, match="released"):
        parameter.sum()


def test_a_changed_parameter_is_packed_again() -> None:
    model = tiny("mixtral", {})
    with torch.no_grad():
        serve(model, patched=False)
        before = model(tokens()).logits
        next(p for name, p in model.named_parameters() if name.endswith("down_proj")).mul_(2)
        after = model(tokens()).logits
        model.set_experts_implementation("eager")
        assert not torch.equal(before, after)
        assert torch.allclose(after, model(tokens()).logits, rtol=1e-4, atol=1e-5)


def test_gradients_are_refused() -> None:
    model = tiny("mixtral", {})
    model.set_experts_implementation("moeblock")
    with pytest.raises(moeblock.InvalidArgumentError, match="no_grad"):
        model(tokens())


def test_what_cannot_be_served_keeps_its_own_forward(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny("olmoe", {})
    for module in model.modules():
        if hasattr(module, "_apply_gate"):
            module.act_fn = torch.nn.Mish()
    with torch.no_grad(), caplog.at_level(logging.WARNING, "moeblock.hf"):
        model.set_experts_implementation("eager")
        theirs = model(tokens()).logits
        model.set_experts_implementation("moeblock")
        ours = model(tokens()).logits
    assert torch.equal(ours, theirs)
    assert sum("activation" in record.message for record in caplog.records) == 1


def test_slots_of_other_ranks_add_nothing() -> None:
    model = tiny("qwen3_moe", {})
    module = next(m for m in model.modules() if hasattr(m, "_apply_gate"))
    rows = torch.randn(5, 64)
    ids = torch.tensor([[1, 8], [8, 8], [3, 2], [8, 0], [7, 6]])
    weights = torch.rand(5, 2) * (ids < 8)
    with torch.no_grad():
        result = moeblock.hf.experts_forward(module, rows, ids, weights)
        expected = type(module).forward.__wrapped__(module, rows, ids, weights)
    assert torch.allclose(result, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(result[1], torch.zeros(64))


def test_compile_leaves_a_graph_break() -> None:
    model = tiny("mixtral", {})
    serve(model, patched=False)
    with torch.no_grad():
        expected = model(tokens()).logits
        compiled = torch.compile(model, backend="eager")
        assert torch.allclose(compiled(tokens()).logits, expected, rtol=1e-4, atol=1e-5)
