# SPDX-License-Identifier: Apache-2.0
"""Times one MoE layer and a small model of transformers with its own experts and with ours, taking turns in one run.

python -m moeblock.bench_hf [--families qwen3_moe,gpt_oss] [--tokens 1,8,32,512] [--threads N] [--json FILE]"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from . import hf
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
                tensor.copy_(torch.randn(tensor.shape[-1:]) * 0.02)  # a row repeated: quick, and finite
    return model


def in_turns(cases: dict[str, Callable[[], Any]], least_seconds: float, least_rounds: int) -> dict[str, list[float]]:
    """Times of each case, one round after the other, so that a drift of the machine meets all of them."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for case in cases.values():
        case()
    spent, rounds = 0.0, 0
    while rounds < least_rounds or spent < least_seconds * len(cases):
        for name, case in cases.items():
            start = time.perf_counter()
            case()
            times[name].append(time.perf_counter() - start)
            spent += times[name][-1]
        rounds += 1
    return times


def layer_cases(model: Any, tokens: int) -> dict[str, Callable[[], Any]]:
    """One experts module, on inputs that change from call to call so that at T = 1 weights come from memory."""
    module = next(m for m in model.modules() if hasattr(m, "_apply_gate"))
    top_k, hidden = model.config.num_experts_per_tok, model.config.hidden_size
    routes = []
    for _ in range(16):
        scores = torch.rand(tokens, module.num_experts)
        weights, ids = scores.topk(top_k)
        routes.append((torch.randn(tokens, hidden).to(torch.bfloat16), ids, weights.to(torch.bfloat16)))
    counters = dict.fromkeys((*THEIRS, hf.NAME), 0)

    def case(name: str) -> Callable[[], Any]:
        def run() -> Any:
            model.set_experts_implementation(name)
            counters[name] += 1
            return module(*routes[counters[name] % len(routes)])

        return run

    return {name: case(name) for name in counters}


def model_cases(model: Any, tokens: int) -> dict[str, Callable[[], Any]]:
    prompt = torch.randint(2, 1000, (1, tokens))

    def case(name: str) -> Callable[[], Any]:
        def run() -> Any:
            model.set_experts_implementation(name)
            return model(prompt, use_cache=False)

        return run

    return {name: case(name) for name in (*THEIRS, hf.NAME)}


def overhead() -> float:
    """Seconds of a call on experts so small that Python is what takes the time."""
    from transformers import AutoConfig, AutoModelForCausalLM

    tiny = {"hidden_size": 64, "moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}
    config = AutoConfig.for_model(
        "qwen3_moe", **SMALL, **tiny, num_attention_heads=2, num_key_value_heads=2, head_dim=32
    )
    model = AutoModelForCausalLM.from_config(config).eval()  # type: ignore[no-untyped-call]
    module = next(m for m in model.modules() if hasattr(m, "_apply_gate"))
    rows, ids, weights = torch.randn(1, 64), torch.tensor([[1, 3]]), torch.tensor([[0.5, 0.5]])
    times = in_turns({hf.NAME: lambda: hf.experts_forward(module, rows, ids, weights)}, 0.2, 1000)
    return statistics.median(times[hf.NAME])


def measure(family: str, tokens: list[int], least_seconds: float) -> list[dict[str, Any]]:
    model = build(family)
    hf.prepare(model)
    rows = []
    for what, cases_of in (("layer", layer_cases), ("model", model_cases)):
        for count in tokens:
            times = in_turns(cases_of(model, count), least_seconds, 5)
            medians = {name: statistics.median(found) for name, found in times.items()}
            best = min(THEIRS, key=lambda name: medians[name])
            rows.append(
                {
                    "family": family,
                    "what": what,
                    "tokens": count,
                    "median_s": medians,
                    "best_of_theirs": best,
                    "ratio": medians[best] / medians[hf.NAME],
                    "tokens_per_s": count / medians[hf.NAME],
                }
            )
            print(
                f"{family:10} {what:6} {count:5}  "
                + "  ".join(f"{name} {1e3 * seconds:9.3f} ms" for name, seconds in medians.items())
                + f"  {rows[-1]['ratio']:5.2f}x {best}, {rows[-1]['tokens_per_s']:8.1f} tokens/s",
                flush=True,
            )
    return rows


def main() -> None:
    import transformers

    parser = argparse.ArgumentParser(prog="python -m moeblock.bench_hf", description=__doc__.splitlines()[0])
    parser.add_argument("--families", default=",".join(WIDTHS))
    parser.add_argument("--tokens", default="1,8,32,512")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=0.5, help="least time of each case")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    hf.register()
    machine = info()
    print(
        f"{machine.get('cpu', machine.get('machine', ''))}, {arguments.threads} threads, bf16, "
        f"torch {torch.__version__}, transformers {transformers.__version__}"
    )
    with torch.no_grad():
        call = overhead()
        print(f"a call on tiny experts: {1e6 * call:.1f} us")
        rows = [
            row
            for family in arguments.families.split(",")
            for row in measure(family, [int(count) for count in arguments.tokens.split(",")], arguments.seconds)
        ]
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"machine": machine, "threads": arguments.threads, "call_s": call, "cases": rows}, file, indent=1)


if __name__ == "__main__":
    main()
