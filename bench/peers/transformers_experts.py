#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The routed experts of a model: transformers' CPU paths (eager, batched_mm, grouped_mm) and moeblock in one process,
in turn, on the same bf16 weights and inputs, with as many threads each. Router and shared expert are left out on both
sides; every call gets other tokens and k distinct experts a token, drawn uniformly.

    pip install -r bench/peers/requirements.txt
    python bench/peers/transformers_experts.py configs/mixtral_8x7b.json --tokens 1,8,32,512
    python bench/peers/transformers_experts.py configs/deepseek_v3.json --set model.num_experts=32

Prints per batch size the median time of each, the ratio of the fastest of transformers to moeblock (the median over
their turns side by side), and the largest difference of the outputs relative to their root mean square. --json FILE
writes the same."""
import argparse
import importlib
import json
import os
import statistics
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import library  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PATHS = ("eager", "batched_mm", "grouped_mm")
INPUTS = 16             # in turn, so that weights come from memory
BURST_SECONDS = 0.1     # one turn of one contestant
SETTLE_SECONDS = 0.003  # threads of the last contestant fall asleep
COPY_LIMIT = 4e9        # bytes of chosen weights that batched_mm copies; more is not run

# Model -> module and class of transformers' experts, names of our tensors of one expert (gate, up, down), other tensors
# that a block needs (dtype, shape by name of a size); the last is for stacked tensors as the checkpoint has them.
PER_EXPERT = "mlp.experts.{}.{}_proj.weight"
MODELS = {
    "mixtral_8x7b": ("mixtral.modeling_mixtral", "MixtralExperts",
                     ["block_sparse_moe.experts.{}.w1.weight", "block_sparse_moe.experts.{}.w3.weight",
                      "block_sparse_moe.experts.{}.w2.weight"], {"block_sparse_moe.gate.weight": "EH"}),
    "qwen3_30b_a3b": ("qwen3_moe.modeling_qwen3_moe", "Qwen3MoeExperts",
                      [PER_EXPERT.format("{}", part) for part in ("gate", "up", "down")], {"mlp.gate.weight": "EH"}),
    "deepseek_v3": ("deepseek_v3.modeling_deepseek_v3", "DeepseekV3Experts",
                    [PER_EXPERT.format("{}", part) for part in ("gate", "up", "down")],
                    {"mlp.gate.weight": "EH", "mlp.gate.e_score_correction_bias": "E"}),
    "gpt_oss_20b": ("gpt_oss.modeling_gpt_oss", "GptOssExperts", None,
                    {"mlp.router.weight": "EH", "mlp.router.bias": "E"}),
}


def make_experts(torch, model, shape):
    """transformers' module with random bf16 weights."""
    module, name = MODELS[model][:2]
    module = importlib.import_module("transformers.models." + module)
    hidden, inner, experts = shape.hidden_size, shape.intermediate_size, shape.num_experts

    class Config:  # what the experts read of the model's configuration
        num_local_experts = num_experts = n_routed_experts = experts
        hidden_size, intermediate_size, moe_intermediate_size = hidden, inner, inner
        num_experts_per_tok = shape.num_experts_per_tok
        hidden_act, swiglu_alpha, swiglu_limit = "silu", 1.702, 7.0
        _experts_implementation = "eager"

    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    experts_module = getattr(module, name)(Config())
    torch.set_default_dtype(before)
    with torch.no_grad():
        for parameter_name, parameter in experts_module.named_parameters():
            inputs = inner if "down" in parameter_name else hidden
            spread = 0.1 if "bias" in parameter_name else inputs**-0.5
            first = (torch.randn(parameter.shape[1:]) * spread).bfloat16()
            for e, part in enumerate(parameter):  # random numbers are slow to make: the others are rotations
                part.copy_(first.roll(97 * e, dims=-1))
    return experts_module.eval()


def tensors_of(torch, model, module, shape):
    """The same memory as moeblock's tensors, and what must live as long."""
    def entry(name, tensor):
        assert tensor.is_contiguous()
        dtype = {torch.bfloat16: "BF16", torch.float32: "F32"}[tensor.dtype]
        return name, dtype, list(tensor.shape), tensor.data_ptr(), tensor.numel() * tensor.element_size()

    names, others = MODELS[model][2:]
    sizes = {"E": shape.num_experts, "H": shape.hidden_size}
    kept = [torch.zeros([sizes[size] for size in dims], dtype=torch.float32) for dims in others.values()]
    tensors = [entry(name, tensor) for name, tensor in zip(others, kept)]
    if names is None:
        tensors += [entry("mlp.experts." + name, parameter.data) for name, parameter in module.named_parameters()]
        return tensors, kept
    gate, up, down = names
    inner = shape.intermediate_size
    for e in range(shape.num_experts):
        both = module.gate_up_proj.data[e]
        tensors += [entry(gate.format(e), both[:inner]), entry(up.format(e), both[inner:]),
                    entry(down.format(e), module.down_proj.data[e])]
    return tensors, kept


class Inputs:
    """INPUTS batches of `tokens` tokens with their experts."""

    def __init__(self, torch, shape, tokens):
        generator = torch.Generator().manual_seed(tokens)
        k = shape.num_experts_per_tok
        self.x = [torch.randn(tokens, shape.hidden_size, generator=generator).bfloat16() for _ in range(INPUTS)]
        self.ids = [torch.rand(tokens, shape.num_experts, generator=generator).topk(k).indices for _ in range(INPUTS)]
        self.ids32 = [ids.int().contiguous() for ids in self.ids]
        self.weights = [torch.rand(tokens, k, generator=generator).bfloat16() for _ in range(INPUTS)]
        self.weights32 = [weights.float().contiguous() for weights in self.weights]
        self.y = torch.empty(tokens, shape.hidden_size, dtype=torch.bfloat16)


def contestants(torch, module, block, inputs, tokens):
    """Name -> call on the i-th input that returns y."""
    k = block.shape.num_experts_per_tok

    def ours(i):
        block.forward_experts("BF16", inputs.x[i].data_ptr(), tokens, inputs.ids32[i].data_ptr(),
                              inputs.weights32[i].data_ptr(), k, inputs.y.data_ptr())
        return inputs.y

    def theirs(path):
        def run(i):
            module.config._experts_implementation = path
            with torch.inference_mode():
                return module(inputs.x[i], inputs.ids[i], inputs.weights[i])
        return run

    copied = tokens * k * 3 * block.shape.hidden_size * block.shape.intermediate_size * 2
    paths = [path for path in PATHS if path != "batched_mm" or copied <= COPY_LIMIT]
    return {"moeblock": ours, **{path: theirs(path) for path in paths}}


def difference(torch, y, other):
    """Largest difference over the root mean square of `other`."""
    y, other = y.float(), other.float()
    return ((y - other).abs().max() / other.square().mean().sqrt()).item()


def burst(call, turn, once):
    """Seconds of the calls of one turn; the first of short ones wakes the threads and is not counted."""
    time.sleep(SETTLE_SECONDS)
    times, passed, i = [], 0.0, turn * 3
    if once < BURST_SECONDS / 4:
        call(i % INPUTS)
    while passed < BURST_SECONDS:
        i += 1
        started = time.perf_counter()
        call(i % INPUTS)
        times.append(time.perf_counter() - started)
        passed += times[-1]
    return times


def measure(torch, module, block, tokens, rounds):
    inputs = Inputs(torch, block.shape, tokens)
    calls = contestants(torch, module, block, inputs, tokens)
    reference, once, differences = None, {}, {}
    for name, call in calls.items():
        started = time.perf_counter()
        y = call(0).clone()
        once[name] = time.perf_counter() - started
        if reference is None:
            reference = y
        else:
            differences[name] = difference(torch, reference, y)
    turns = {name: [] for name in calls}  # of each turn the seconds of its calls
    # Short calls take more turns: beside the memory's drift their ratios are close to 1.
    for turn in range(rounds * (4 if once["moeblock"] < BURST_SECONDS / 2 else 1)):
        for name, call in calls.items():
            # A path ten times behind is known well enough after two turns.
            if turn < 2 or once[name] < 10 * once["moeblock"]:
                turns[name].append(burst(call, turn, once[name]))
    medians = {name: statistics.median(sum(of_name, [])) for name, of_name in turns.items()}
    best = min((name for name in medians if name != "moeblock"), key=medians.get)
    ratio = statistics.median(statistics.median(theirs) / statistics.median(ours)
                              for theirs, ours in zip(turns[best], turns["moeblock"]))
    return {"tokens": tokens, "seconds": medians, "fastest_path": best, "ratio": ratio, "difference": differences,
            "runs": {name: sum(map(len, of_name)) for name, of_name in turns.items()}}


def print_row(row):
    cells = [f"{1e3 * row['seconds'][name]:10.3f}" if name in row["seconds"] else f"{'-':>10}"
             for name in ("moeblock",) + PATHS]
    print(f"{row['tokens']:7} {' '.join(cells)} {row['ratio']:8.2f} ({row['fastest_path']}) "
          f"{max(row['difference'].values()):12.2g}", flush=True)


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help=f"one of configs/: {', '.join(MODELS)}")
    parser.add_argument("--tokens", default="1,8,32,512")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--build", default=os.path.join(ROOT, "build", "release"))
    parser.add_argument("--json", metavar="FILE")
    return parser.parse_args()


def main():
    arguments = parse()
    model = os.path.splitext(os.path.basename(arguments.config))[0]
    if model not in MODELS:
        sys.exit(f"transformers_experts: '{model}' is not one of {', '.join(MODELS)}")
    try:
        import torch
        import transformers
    except ImportError as missing:
        sys.exit(f"transformers_experts: {missing}; pip install -r bench/peers/requirements.txt")
    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    settings = ["experts.shared.enabled=false", "weights.format=bf16", *arguments.set]
    block = library.Block(library.find_library(arguments.build), arguments.config, arguments.threads, settings, "auto")
    module = make_experts(torch, model, block.shape)
    tensors, kept = tensors_of(torch, model, module, block.shape)
    block.load_tensors(tensors)
    batches = [int(tokens) for tokens in arguments.tokens.split(",")]
    block.make_workspace(max(batches))
    print(f"{model}, {block.shape.num_experts} experts in bf16, {arguments.threads} threads each (torch "
          f"{torch.get_num_threads()}): moeblock at level {block.level()}, torch {torch.__version__}, transformers "
          f"{transformers.__version__}\nmilliseconds; ratio: the fastest path of transformers over moeblock")
    print(f"{'tokens':>7} {' '.join(f'{name:>10}' for name in ('moeblock',) + PATHS)} {'ratio':>8} "
          f"{'largest difference':>32}", flush=True)
    rows = []
    for tokens in batches:
        rows.append(measure(torch, module, block, tokens, arguments.rounds))
        print_row(rows[-1])
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({"model": model, "experts": block.shape.num_experts, "threads": arguments.threads,
                       "level": block.level(), "torch": torch.__version__, "transformers": transformers.__version__,
                       "rows": rows}, file, indent=1)
    block.close()


if __name__ == "__main__":
    main()
