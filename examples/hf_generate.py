#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Text generation with transformers, the experts run by moeblock.

    python examples/hf_generate.py FOLDER "The capital of France is"
    python examples/hf_generate.py --tiny                 # a random model made on the spot

FOLDER is a downloaded checkpoint; its experts are read in the number format they are stored in."""

import argparse
import tempfile
import time

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import moeblock.hf


def make_tiny(folder: str) -> None:
    """A Mixtral of a few thousand weights, saved as transformers saves any."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "mixtral",
        vocab_size=256,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=8,
        num_experts_per_tok=2,
        bos_token_id=1,
        eos_token_id=None,
        pad_token_id=0,
    )
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?")
    parser.add_argument("prompt", nargs="?", default="The capital of France is")
    parser.add_argument("--tiny", action="store_true", help="make a random model instead of reading FOLDER")
    parser.add_argument("--new-tokens", type=int, default=32)
    arguments = parser.parse_args()
    if bool(arguments.folder) == arguments.tiny:
        parser.error("give a FOLDER or --tiny")

    with tempfile.TemporaryDirectory() as made:
        folder = arguments.folder or made
        if arguments.tiny:
            make_tiny(folder)
        model = moeblock.hf.from_pretrained(folder)
        tokenizer = None if arguments.tiny else AutoTokenizer.from_pretrained(folder)
        prompt = tokenizer(arguments.prompt, return_tensors="pt").input_ids if tokenizer else torch.tensor([[5, 17, 3]])
        started = time.perf_counter()
        with torch.inference_mode():
            output = model.generate(prompt, max_new_tokens=arguments.new_tokens, do_sample=False)[0]
        seconds = time.perf_counter() - started
    print(tokenizer.decode(output, skip_special_tokens=True) if tokenizer else output.tolist())
    print(f"{arguments.new_tokens / seconds:.1f} tokens/s")


if __name__ == "__main__":
    main()
