# SPDX-License-Identifier: Apache-2.0
"""The experts of transformers models, run here: the same logits, the same tokens."""

from __future__ import annotations

import copy
import logging
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_models import PATCHED, SWAPPABLE, config_of, tiny

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


QUICK = [
    row for row in FAMILIES if row[0] in ("qwen3_moe", "gpt_oss", "deepseek_v3", "llama4_text", "nemotron_h", "jetmoe")
]


@pytest.mark.parametrize(("family", "own", "patched"), QUICK, ids=[row[0] for row in QUICK])
def test_from_pretrained(family: str, own: dict[str, Any], patched: bool, tmp_path: Path) -> None:
    """Experts straight from the files: the same tokens, and no memory of torch for them."""
    model = tiny(family, own)
    model.save_pretrained(tmp_path)
    ours = moeblock.hf.from_pretrained(tmp_path)
    options = {"max_new_tokens": 32, "do_sample": False, "pad_token_id": 0}
    with torch.no_grad():
        assert torch.equal(model.generate(tokens(), **options), ours.generate(tokens(), **options))
    held = {name: p for name, p in ours.named_parameters() if p.device.type != "meta"}
    assert not any(".experts.gate_up_proj" in name or ".experts.down_proj" in name for name in held)


@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral", "deepseek_v3", "gpt_oss", "glm4_moe"])
def test_bf16_is_no_worse_than_theirs(family: str) -> None:
    """Median over 8 seeds of our error over theirs, both against float64, on the experts' output."""
    ratios = []
    for seed in range(8):
        model = tiny(family, SWAPPABLE[family], seed=seed).to(torch.bfloat16)
        module = next(m for m in model.modules() if hasattr(m, "_apply_gate"))
        exact = copy.deepcopy(module).double()
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(64, 64, generator=generator).to(torch.bfloat16)
        ids = torch.stack([torch.randperm(8, generator=generator)[:2] for _ in range(64)])
        weights = torch.rand(64, 2, generator=generator).to(torch.bfloat16)
        with torch.no_grad():
            truth = type(module).forward.__wrapped__(exact, rows.double(), ids, weights.double())
            theirs = type(module).forward.__wrapped__(module, rows, ids, weights)
            ours = moeblock.hf.experts_forward(module, rows, ids, weights)
        ratios.append(((ours.double() - truth).norm() / (theirs.double() - truth).norm()).item())
    assert statistics.median(ratios) <= 1.05


def test_fp8_module() -> None:
    """The FP8 experts of transformers, on the module itself: 128 x 128 scales, never expanded."""
    from transformers.integrations.finegrained_fp8 import FP8Experts

    config = config_of("deepseek_v3", {**SWAPPABLE["deepseek_v3"], "hidden_size": 256, "moe_intermediate_size": 128})
    module = FP8Experts(config, block_size=(128, 128))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("scale_inv"):
                parameter.copy_(torch.rand(parameter.shape, generator=generator) * 0.02 + 0.01)
            else:
                parameter.copy_(torch.randn(parameter.shape, generator=generator).to(torch.float8_e4m3fn))

    def decoded(name: str, expert: int) -> torch.Tensor:
        scale = getattr(module, f"{name}_scale_inv")[expert].double()
        return getattr(module, name)[expert].double() * scale.repeat_interleave(128, 0).repeat_interleave(128, 1)

    rows = torch.randn(6, 256, generator=generator).to(torch.bfloat16)
    ids = torch.tensor([[0, 1], [1, 2], [3, 7], [4, 5], [6, 0], [2, 3]])
    weights = torch.rand(6, 2, generator=generator)
    truth = torch.zeros(6, 256, dtype=torch.float64)
    for t, (row, chosen) in enumerate(zip(rows.double(), ids.tolist(), strict=True)):
        for slot, expert in enumerate(chosen):
            gate, up = (decoded("gate_up_proj", expert) @ row).chunk(2)
            out = decoded("down_proj", expert) @ (torch.nn.functional.silu(gate) * up)
            truth[t] += weights[t, slot].double() * out
    with torch.no_grad():
        ours = moeblock.hf.experts_forward(module, rows, ids, weights)
    assert ((ours.double() - truth).norm() / truth.norm()).item() < 6e-3
