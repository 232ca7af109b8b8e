# SPDX-License-Identifier: Apache-2.0
"""The experts of transformers models, run here: the same logits, the same tokens, for every family."""

from __future__ import annotations

import copy
import logging
import statistics
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hf_models import MENDED_SINCE, NEWER, PATCHED, config_of, families, release, tiny

import moeblock
import moeblock.hf
from moeblock._hf_experts import stacked_experts
from moeblock._hf_patch import decorated, row_of

moeblock.hf.register()
GREEDY = {"do_sample": False, "pad_token_id": 0}


def serve(model: Any) -> None:
    """From here on the model's experts run here; asserts that there are some."""
    patched = moeblock.hf.patch(model)
    if any(decorated(type(module)) for module in model.modules()):
        model.set_experts_implementation("moeblock")
    else:
        assert patched > 0
    assert moeblock.hf.prepare(model) > 0


def tokens(rows: int = 2, columns: int = 9) -> torch.Tensor:
    return torch.randint(2, 128, (rows, columns), generator=torch.Generator().manual_seed(3))


def logits(model: Any, prompt: torch.Tensor, **options: Any) -> torch.Tensor:
    if model.config.is_encoder_decoder:
        options["decoder_input_ids"] = prompt
    return model(prompt, **options).logits


def distance(found: torch.Tensor, right: torch.Tensor) -> float:
    return ((found.double() - right.double()).norm() / right.double().norm()).item()


class Theirs(NamedTuple):
    """What transformers itself makes of a tiny checkpoint: a batch with padding, and 32 tokens of it."""

    folder: Path
    model: Any
    prompt: torch.Tensor
    mask: torch.Tensor
    logits: torch.Tensor
    tokens: torch.Tensor

    def compare(self, model: Any) -> None:
        ours = logits(model, self.prompt, attention_mask=self.mask)
        assert distance(ours, self.logits) < 1e-5
        generated = model.generate(self.prompt, attention_mask=self.mask, max_new_tokens=32, **GREEDY)
        assert generated.shape[1] >= 32
        assert torch.equal(generated, self.tokens)


@pytest.fixture(scope="module", params=families())
def theirs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Theirs:
    made = tiny(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    made.save_pretrained(folder)
    model = type(made).from_pretrained(folder).eval()
    if any(decorated(type(module)) for module in model.modules()):
        model.set_experts_implementation("eager")
    prompt = tokens()
    mask = torch.ones_like(prompt)
    mask[0, :4] = 0  # left padding
    with torch.no_grad():
        right = logits(model, prompt, attention_mask=mask)
        generated = model.generate(prompt, attention_mask=mask, max_new_tokens=32, **GREEDY)
    return Theirs(folder, model, prompt, mask, right, generated)


@torch.no_grad()
def test_from_pretrained(theirs: Theirs) -> None:
    """Experts straight from the files: the same logits and tokens, and no memory of torch for them."""
    ours = moeblock.hf.from_pretrained(theirs.folder)
    theirs.compare(ours)
    held = sum(p.numel() for p in ours.parameters() if p.device.type != "meta")
    experts = sum(p.numel() for m in theirs.model.modules() if serves(m) for p in experts_of(m))
    assert experts > 0
    assert held == sum(p.numel() for p in theirs.model.parameters()) - experts


def serves(module: Any) -> bool:
    return decorated(type(module)) or row_of(type(module)) is not None


def experts_of(module: Any) -> list[torch.Tensor]:
    """The parameters that hold a served module's experts."""
    row = row_of(type(module))
    found = row.experts(module) if row else stacked_experts(module)
    return list((found.parameters or found.tensors).values())


@torch.no_grad()
def test_in_place(theirs: Theirs) -> None:
    """One line for a model that is loaded already; without a cache and a row alone, too."""
    model = copy.deepcopy(theirs.model)
    serve(model)
    theirs.compare(model)
    alone = logits(model, theirs.prompt[1:], **({} if model.config.is_encoder_decoder else {"use_cache": False}))
    assert distance(alone, theirs.logits[1:]) < 1e-5


def test_older_releases_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.__version__", "5.6.2")
    with pytest.raises(moeblock.UnsupportedError, match=r"transformers>=5.7"):
        moeblock.hf.register()


def test_there_are_enough_families() -> None:
    found = families()
    assert len(found) >= 25
    assert set(found) >= PATCHED - (NEWER | MENDED_SINCE if release() == (5, 7) else set())


def test_released_parameters_say_so() -> None:
    model = tiny("qwen3_moe")
    with torch.no_grad():
        serve(model)
        before = model(tokens()).logits
        moeblock.hf.prepare(model, release=True)
        assert torch.equal(model(tokens()).logits, before)
    parameter = next(p for name, p in model.named_parameters() if name.endswith("gate_up_proj"))
    assert tuple(parameter.shape) == (8, 96, 64)
    with pytest.raises(moeblock.WrongStateError, match="released"):
        parameter.sum()


def test_a_changed_parameter_is_packed_again() -> None:
    model = tiny("mixtral")
    with torch.no_grad():
        serve(model)
        before = model(tokens()).logits
        next(p for name, p in model.named_parameters() if name.endswith("down_proj")).mul_(2)
        after = model(tokens()).logits
        model.set_experts_implementation("eager")
        assert not torch.equal(before, after)
        assert torch.allclose(after, model(tokens()).logits, rtol=1e-4, atol=1e-5)


def test_gradients_are_refused() -> None:
    model = tiny("mixtral")
    model.set_experts_implementation("moeblock")
    with pytest.raises(moeblock.InvalidArgumentError, match="no_grad"):
        model(tokens())


def test_what_cannot_be_served_keeps_its_own_forward(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny("olmoe")
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
    model = tiny("qwen3_moe")
    module = next(m for m in model.modules() if hasattr(m, "_apply_gate"))
    rows = torch.randn(5, 64)
    ids = torch.tensor([[1, 8], [8, 8], [3, 2], [8, 0], [7, 6]])
    weights = torch.rand(5, 2) * (ids < 8)
    with torch.no_grad():
        result = moeblock.hf.experts_forward(module, rows, ids, weights)
        inside = ids.clamp(max=7)  # their own forward did not know such slots in 5.7
        expected = type(module).forward.__wrapped__(module, rows, inside, weights)
    assert torch.allclose(result, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(result[1], torch.zeros(64))


def test_compile_leaves_a_graph_break() -> None:
    model = tiny("mixtral")
    serve(model)
    with torch.no_grad():
        expected = model(tokens()).logits
        compiled = torch.compile(model, backend="eager")
        assert torch.allclose(compiled(tokens()).logits, expected, rtol=1e-4, atol=1e-5)


def experts_class(transposed: bool, concatenated: bool, bias: bool, gate: bool, width: int) -> Any:
    """Stacked experts with the flags of the interface, of another width than the model."""
    from transformers.integrations.moe import use_experts_implementation

    class Experts(torch.nn.Module):
        def __init__(self, config: Any) -> None:
            super().__init__()
            self.num_experts, inner = config.num_local_experts, config.moe_intermediate_size
            self.act_fn = torch.nn.SiLU() if gate else torch.nn.ReLU()
            rows = 2 * inner if gate else inner
            for name, out, columns in (
                ("gate_up_proj" if gate else "up_proj", rows, width),
                ("down_proj", width, inner),
            ):
                shape = (columns, out) if transposed else (out, columns)
                setattr(self, name, torch.nn.Parameter(0.3 * torch.randn(self.num_experts, *shape)))
                if bias:
                    setattr(self, f"{name}_bias", torch.nn.Parameter(torch.randn(self.num_experts, out)))

        def forward(self, hidden_states: Any, top_k_index: Any, top_k_weights: Any) -> Any:
            raise AssertionError("its own forward ran")

    if gate and not concatenated:
        Experts._apply_gate = lambda self, x: self.act_fn(x[..., ::2]) * x[..., 1::2]
    return use_experts_implementation(
        is_transposed=transposed, is_concatenated=concatenated, has_bias=bias, has_gate=gate
    )(Experts)


@pytest.mark.parametrize("width", [64, 40])
@pytest.mark.parametrize("gate", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("concatenated", [True, False])
@pytest.mark.parametrize("transposed", [True, False])
@torch.no_grad()
def test_flags(transposed: bool, concatenated: bool, bias: bool, gate: bool, width: int) -> None:
    """Against transformers' own function for the same interface, ids of other ranks included."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    torch.manual_seed(1)
    module = experts_class(transposed, concatenated, bias, gate, width)(config_of("mixtral"))
    rows, ids = torch.randn(7, width), torch.stack([torch.randperm(9)[:3] for _ in range(7)])
    weights = torch.rand(7, 3) * (ids < 8)
    right = ALL_EXPERTS_FUNCTIONS["batched_mm"](module, rows, ids.clamp(max=7), weights)
    module.config._experts_implementation = "moeblock"
    assert distance(module(rows, ids, weights), right) < 1e-5


@pytest.mark.parametrize("family", ["gpt_oss", "minimax_m2"])
@torch.no_grad()
def test_gates_of_their_own(family: str) -> None:
    """A class with an _apply_gate that ours has, and the same with a limit that inputs reach."""
    model = tiny(family)
    module = next(m for m in model.modules() if decorated(type(m)))
    for limit in (None, 0.25):
        if limit and hasattr(module, "limit"):
            module.limit = limit
        rows, ids, weights = 3 * torch.randn(5, 64), torch.tensor([[1, 2]] * 5), torch.rand(5, 2)
        moeblock.hf._packed.pop(module, None)
        ours = moeblock.hf.experts_forward(module, rows, ids, weights)
        assert distance(ours, type(module).forward.__wrapped__(module, rows, ids, weights)) < 1e-5


def call_of(model: Any, module: Any, prompt: torch.Tensor) -> tuple[Any, ...]:
    """What a module is called with in a forward of the model."""
    calls: list[Any] = []
    hook = module.register_forward_pre_hook(lambda _, *call: calls.append(call), with_kwargs=True)
    logits(model, prompt)
    hook.remove()
    return calls[0]


def rows_of(module: Any, call: tuple[Any, ...], dtype: torch.dtype) -> torch.Tensor:
    """A module's output as rows of float64; floating inputs are given in `dtype`."""

    def given(value: Any) -> Any:
        return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    out = module(*(given(value) for value in call[0]), **{name: given(value) for name, value in call[1].items()})
    out = out[0] if isinstance(out, tuple) else out
    return out.reshape(-1, out.shape[-1]).double()


def served_and_block(model: Any) -> list[Any]:
    """The first module that is served, and the MoE block around it, unless it is that itself."""
    name, module = next((name, m) for name, m in model.named_modules() if serves(m))
    whole = hasattr(module, "router")
    return [module] if whole else [module, model.get_submodule(name.rpartition(".")[0])]


@pytest.mark.parametrize("family", families())
@torch.no_grad()
def test_bf16_is_no_worse_than_theirs(family: str) -> None:
    """Median over 8 seeds of our error over theirs, both against float64: of the experts on the routing that they got,
    and of the MoE block. Rows that float64 routes to other experts are no measure of the experts and left out."""
    ratios: dict[int, list[float]] = {}
    for seed in range(8):
        model = tiny(family, torch.bfloat16, seed)
        if any(decorated(type(module)) for module in model.modules()):
            model.set_experts_implementation("eager")
        modules = served_and_block(model)
        calls = [call_of(model, module, tokens(8, 16)) for module in modules]
        exact = [rows_of(copy.deepcopy(m).double(), c, torch.float64) for m, c in zip(modules, calls, strict=True)]
        them = [rows_of(m, c, torch.bfloat16) for m, c in zip(modules, calls, strict=True)]
        serve(model)
        for i, (module, call) in enumerate(zip(modules, calls, strict=True)):
            same = (them[i] - exact[i]).norm(dim=1) <= 0.1 * exact[i].norm(dim=1)
            assert same.double().mean() > 0.8
            ours = rows_of(module, call, torch.bfloat16)
            ratios.setdefault(i, []).append(
                distance(ours[same], exact[i][same]) / distance(them[i][same], exact[i][same])
            )
    assert all(statistics.median(found) <= 1.05 for found in ratios.values()), ratios


def test_fp8_module() -> None:
    """The FP8 experts of transformers, on the module itself: 128 x 128 scales, never expanded."""
    from transformers.integrations.finegrained_fp8 import FP8Experts

    config = config_of("deepseek_v3", hidden_size=256, moe_intermediate_size=128)
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
