# SPDX-License-Identifier: Apache-2.0
"""Folders in published number formats: experts run as they are stored, all else is decoded, generate works."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_models import tiny
from hf_quantise import FORMATS, LLAMA4, is_linear, llama4_folder, mxfp4_folder, quantise_folder
from transformers import AutoModelForCausalLM, GenerationConfig

import moeblock
import moeblock.hf
from moeblock._hf_patch import decorated

WIDTHS = {"hidden_size": 192, "moe_intermediate_size": 96, "intermediate_size": 160, "num_hidden_layers": 2}


def saved(family: str, folder: Path, dtype: torch.dtype = torch.float32, seed: int = 0, **more: Any) -> Path:
    model = tiny(family, dtype, seed, **{**WIDTHS, **more})
    model.generation_config = GenerationConfig(pad_token_id=0, max_new_tokens=24, do_sample=False)
    model.save_pretrained(folder / "plain")
    return folder / "plain"


@torch.no_grad()
def same_model(ours: Any, decoded: Any) -> None:
    """`decoded` has the values that ours stands for: logits differ by the experts' bf16 arithmetic alone, and every
    token that ours generates is its first choice too, as far as that difference goes."""
    prompt = torch.randint(2, 128, (2, 7), generator=torch.Generator().manual_seed(3))
    found = ours.generate(prompt, attention_mask=torch.ones_like(prompt))
    assert found.shape == (2, 7 + 24)  # as generation_config.json says
    mine, right = ours(found).logits, decoded(found).logits
    assert ((mine - right).norm() / right.norm()).item() < 2e-2
    least = 2 * (mine - right).abs().max() + 1e-3
    steps = right[:, 6:-1]
    assert (steps.amax(-1) - steps.gather(-1, found[:, 7:, None])[..., 0] <= least).all()


@pytest.mark.parametrize(
    ("name", "dense"),
    [*((name, True) for name in FORMATS), ("fp8", False), ("ct_int4", False), ("gptq_act_order", False)],
)
def test_formats(name: str, dense: bool, tmp_path: Path) -> None:
    """Every linear map quantised - attention, a dense layer, the experts - or the experts alone."""
    plain = saved("qwen3_moe", tmp_path, mlp_only_layers=[1])
    quantised = quantise_folder(plain, tmp_path, FORMATS[name], lambda part: dense or ".experts." in part)
    ours = moeblock.hf.from_pretrained(quantised)
    decoded = AutoModelForCausalLM.from_pretrained(tmp_path / "decoded").eval()
    assert ours.dtype == torch.float32
    held = dict(ours.named_parameters())
    checked = 0
    for part, right in decoded.named_parameters():
        if is_linear(part, right):
            assert torch.allclose(held[part], right, rtol=1e-6, atol=0), part
            checked += 1
    assert checked == 4 * 2 + 3
    same_model(ours, decoded)


@pytest.mark.parametrize("family", ["deepseek_v3", "qwen3_moe"])
def test_fp8(family: str, tmp_path: Path) -> None:
    quantised = quantise_folder(saved(family, tmp_path), tmp_path, FORMATS["fp8"])
    same_model(
        moeblock.hf.from_pretrained(quantised), AutoModelForCausalLM.from_pretrained(tmp_path / "decoded").eval()
    )


def test_mxfp4(tmp_path: Path) -> None:
    quantised = mxfp4_folder(saved("gpt_oss", tmp_path), tmp_path)
    same_model(
        moeblock.hf.from_pretrained(quantised), AutoModelForCausalLM.from_pretrained(tmp_path / "decoded").eval()
    )


@pytest.mark.parametrize("name", LLAMA4)
def test_stacked_by_input(name: str, tmp_path: Path) -> None:
    """One layer: of two experts whose scores are near, rounding in a layer before would choose another."""
    quantised = llama4_folder(saved("llama4_text", tmp_path, num_hidden_layers=1), tmp_path, name)
    same_model(
        moeblock.hf.from_pretrained(quantised), AutoModelForCausalLM.from_pretrained(tmp_path / "decoded").eval()
    )


def first_experts(model: Any) -> Any:
    return next(module for module in model.modules() if decorated(type(module)))


@pytest.mark.parametrize("family", ["deepseek_v3", "qwen3_moe", "gpt_oss"])
@torch.no_grad()
def test_no_worse_than_expanded(family: str, tmp_path: Path) -> None:
    """Median over 8 seeds of our error over that of transformers, which expands such a folder to bf16 on a CPU, both
    against float64."""
    ratios = []
    for seed in range(8):
        folder = tmp_path / str(seed)
        plain = saved(family, folder, torch.bfloat16, seed, num_hidden_layers=2)
        quantised = (
            mxfp4_folder(plain, folder) if family == "gpt_oss" else quantise_folder(plain, folder, FORMATS["fp8"])
        )
        exact = AutoModelForCausalLM.from_pretrained(folder / "decoded", dtype=torch.float64)
        theirs = AutoModelForCausalLM.from_pretrained(folder / "decoded", dtype=torch.bfloat16)
        ours = moeblock.hf.from_pretrained(quantised)
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(64, 192, generator=generator).bfloat16()
        weights, ids = torch.rand(64, 8, generator=generator).topk(2)
        weights = weights.bfloat16()
        for model in (exact, theirs):
            model.set_experts_implementation("eager")
        truth = first_experts(exact)(rows.double(), ids, weights.double())
        errors = [(first_experts(model)(rows, ids, weights).double() - truth).norm().item() for model in (ours, theirs)]
        ratios.append(errors[0] / errors[1])
    assert statistics.median(ratios) <= 1.05, ratios
