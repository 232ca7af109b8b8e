# SPDX-License-Identifier: Apache-2.0
"""Times one MoE layer and a small model of transformers with its own experts and with ours, taking turns in one run.

    python -m moeblock.bench_hf [--families qwen3_moe,gpt_oss] [--tokens 1,32,512] [--threads N] [--json FILE]

The layer is the experts module alone, on rows and routings that change from call to call; the model has two layers of
real widths. A ratio is the median, over the rounds, of the faster of transformers' own (by median) to ours.
Ends with 1 when the Python layer takes longer than it may; whether a target of speed is met stands in its row."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from . import arrays, hf
from ._library import ffi, lib
from .commands import info

# Real widths of published models; two layers, and a small vocabulary, so that the experts are what is timed.
WIDTHS: dict[str, dict[str, Any]] = {
    "qwen3_moe": {  # Qwen3-30B-A3B
        "hidden_size": 2048,
        "moe_intermediate_size": 768,
        "num_experts": 128,
        "num_local_experts": 128,
        "num_experts_per_tok": 8,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "norm_topk_prob": True,
    },
    "gpt_oss": {  # gpt-oss-20b
        "hidden_size": 2880,
        "intermediate_size": 2880,
        "num_local_experts": 32,
        "num_experts_per_tok": 4,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 64,
    },
}
SMALL = {"num_hidden_layers": 2, "vocab_size": 1000, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None}
THEIRS = ("eager", "grouped_mm")
CALL_LIMIT = 30e-6  # seconds that a call may spend outside of the library


def quick_normal(shape: tuple[int, ...]) -> torch.Tensor:
    """Random numbers; of a matrix 512 rows, over and over, of a larger tensor one: rows of a router must differ, or all
    tokens go to the same experts, whose own rows need not."""
    if len(shape) < 2:
        return torch.randn(shape)
    if len(shape) > 2:
        return torch.randn(shape[-1]).expand(shape)
    return torch.randn(min(shape[0], 512), shape[1]).repeat(-(-shape[0] // 512), 1)[: shape[0]]


def build(family: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **SMALL, **WIDTHS[family])
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)  # type: ignore[no-untyped-call]
    model = model.to_empty(device="cpu").eval()
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(quick_normal(tensor.shape) * 0.02)
    return model


class Case(NamedTuple):
    choose: Callable[[], Any]  # makes the implementation the model's; not timed
    run: Callable[[], Any]


def in_turns(cases: dict[str, Case], least_seconds: float, least_rounds: int) -> dict[str, list[float]]:
    """Times of each case, one round after the other, so that a drift of the machine meets all of them."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for case in cases.values():
        case.choose()
        case.run()
    spent, rounds = 0.0, 0
    while rounds < least_rounds or spent < least_seconds * len(cases):
        for name, case in cases.items():
            case.choose()
            start = time.perf_counter()
            case.run()
            times[name].append(time.perf_counter() - start)
            spent += times[name][-1]
        rounds += 1
    return times


def experts_module(model: Any) -> Any:
    return next(module for module in model.modules() if hasattr(module, "_apply_gate"))


def cases_of(model: Any, run: Callable[[], Any]) -> dict[str, Case]:
    return {name: Case(lambda name=name: model.set_experts_implementation(name), run) for name in (*THEIRS, hf.NAME)}  # type: ignore[misc]


def layer_cases(model: Any, tokens: int) -> dict[str, Case]:
    """One experts module; enough inputs for few tokens to meet other experts each time, whose weights are in memory."""
    module = experts_module(model)
    top_k, hidden = model.config.num_experts_per_tok, model.config.hidden_size
    routes = []
    for _ in range(16):
        weights, ids = torch.rand(tokens, module.num_experts).topk(top_k)
        routes.append((torch.randn(tokens, hidden).to(torch.bfloat16), ids, weights.to(torch.bfloat16)))
    turn = itertools.count()
    # Three cases take a turn each, and 16 is no multiple of 3: all of them see every route.
    return cases_of(model, lambda: module(*routes[next(turn) % len(routes)]))


def model_cases(model: Any, tokens: int) -> dict[str, Case]:
    prompt = torch.randint(2, 1000, (1, tokens))
    return cases_of(model, lambda: model(prompt, use_cache=False))


def python_seconds() -> float:
    """Seconds of a call through the interface of transformers outside of the library: on experts so small that this is
    most of it, less what the library takes for the same arguments; both in the round that was disturbed least."""
    from transformers import AutoConfig, AutoModelForCausalLM

    tiny = {"hidden_size": 64, "moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}
    config = AutoConfig.for_model(
        "qwen3_moe", **SMALL, **tiny, num_attention_heads=2, num_key_value_heads=2, head_dim=32
    )
    module = experts_module(AutoModelForCausalLM.from_config(config).eval())  # type: ignore[no-untyped-call]
    rows, ids, weights = torch.randn(1, 64), torch.tensor([[1, 3]]), torch.tensor([[0.5, 0.5]])
    hf.experts_forward(module, rows, ids, weights)  # packs
    block = hf.packed_block(module)
    y, chosen, factors = torch.empty_like(rows), arrays.integers(ids, "int32", "ids"), arrays.float32(weights)
    arguments = (
        *(arrays.array_of(rows), arrays.pointer("int32_t[]", chosen), arrays.pointer("float[]", factors), 2),
        *(arrays.array_of(y), ffi.NULL),
    )
    with block.workspace(1) as workspace:

        def alone() -> None:
            for _ in range(50):
                lib.moeblock_block_forward_experts(block.handle, workspace, *arguments)

        def through() -> None:
            for _ in range(50):
                hf.experts_forward(module, rows, ids, weights)

        none = Case(lambda: None, alone), Case(lambda: None, through)
        times = in_turns(dict(zip(("alone", "through"), none, strict=True)), 0.5, 50)
    return (min(times["through"]) - min(times["alone"])) / 50


def memory_rate(threads: int) -> float:
    """Bytes a second of reading memory, now."""
    return 1e9 * float(info(measure=True, threads=threads)["measured"]["dram_gbps"])


def expert_bytes(model: Any, tokens: int) -> float:
    """Bytes of weights that one call reads at least; of one token, whose experts are distinct."""
    module = experts_module(model)
    stored = sum(p.numel() * p.element_size() for p in module.parameters())
    return float(tokens * model.config.num_experts_per_tok * stored / module.num_experts)


def target_of(what: str, tokens: int, their_share: float | None) -> float | None:
    """What transformers' time for a layer is to be of ours, on Intel's kind of machine; None where nothing is asked."""
    if what != "layer":
        return None
    if tokens >= 512:
        return 1.8
    if their_share is None:
        return None
    return 1.3 if their_share < 0.7 else 1.05


def measure(family: str, tokens: list[int], least_seconds: float, threads: int) -> list[dict[str, Any]]:
    model = build(family)
    hf.prepare(model)
    rates = [memory_rate(threads)]
    rows = []
    for what, make in (("layer", layer_cases), ("model", model_cases)):
        for count in tokens:
            times = in_turns(make(model, count), least_seconds, 5)
            medians = {name: statistics.median(found) for name, found in times.items()}
            best = min(THEIRS, key=lambda name: medians[name])
            ratio = statistics.median(a / b for a, b in zip(times[best], times[hf.NAME], strict=True))
            row: dict[str, Any] = {
                "family": family,
                "what": what,
                "tokens": count,
                "median_s": medians,
                "best_of_theirs": best,
            }
            rows.append(row | {"ratio": ratio, "tokens_per_s": {name: count / medians[name] for name in medians}})
    rates.append(memory_rate(threads))
    for row in rows:
        share = None
        if row["what"] == "layer" and row["tokens"] == 1:
            share = expert_bytes(model, 1) / row["median_s"][row["best_of_theirs"]] / statistics.mean(rates)
        target = target_of(row["what"], row["tokens"], share)
        row |= {"their_share": share, "target": target, "memory_gbps": [rate / 1e9 for rate in rates]}
        print_row(row)
    return rows


def print_row(row: dict[str, Any]) -> None:
    target = row["target"]
    verdict = "" if target is None else f", target {target}: {'met' if row['ratio'] >= target else 'MISSED'}"
    share = "" if row["their_share"] is None else f" at {row['their_share']:.2f} of the memory's rate"
    rate = f"{row['tokens_per_s'][hf.NAME]:8.1f} tokens/s"
    print(
        f"{row['family']:10} {row['what']:6} {row['tokens']:5}  "
        + "  ".join(f"{name} {1e3 * seconds:9.3f} ms" for name, seconds in row["median_s"].items())
        + f"  {row['ratio']:5.2f}x {row['best_of_theirs']}{share}, {rate}{verdict}",
        flush=True,
    )


def main() -> None:
    import transformers

    parser = argparse.ArgumentParser(prog="python -m moeblock.bench_hf", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--families", default=",".join(WIDTHS))
    parser.add_argument("--tokens", default="1,32,512,2048")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=0.5, help="least time of each case")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    hf.register()
    machine = info()
    limited = os.environ.get("ONEDNN_MAX_CPU_ISA")
    print(
        f"{machine['cpu']}, {arguments.threads} threads, bf16, moeblock at level {machine['level']}, "
        f"torch {torch.__version__}{f' held to {limited}' if limited else ''}, transformers {transformers.__version__}"
    )
    with torch.no_grad():
        python = python_seconds()
        fast_enough = python < CALL_LIMIT
        print(
            f"Python's part of a call: {1e6 * python:.1f} us, target {1e6 * CALL_LIMIT:.0f}: "
            f"{'met' if fast_enough else 'MISSED'}"
        )
        rows = [
            row
            for family in arguments.families.split(",")
            for row in measure(
                family, [int(count) for count in arguments.tokens.split(",")], arguments.seconds, arguments.threads
            )
        ]
    if arguments.json:
        document = {
            "hf": rows,
            "machine": machine,
            "threads": arguments.threads,
            "torch": torch.__version__,
            "torch_held_to": limited,
            "transformers": transformers.__version__,
            "python_s": python,
        }
        with open(arguments.json, "w") as file:
            json.dump(document, file, indent=1)
    sys.exit(not fast_enough)


if __name__ == "__main__":
    main()
