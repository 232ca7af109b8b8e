# SPDX-License-Identifier: Apache-2.0
"""Blocks that take turns in one process: what bench/regress and bench/formats have in common."""
import array
import os
import statistics
import struct
import subprocess
import time

import library

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Models at a size that loads quickly.
SMALLER = {"qwen3_30b_a3b": ["model.num_experts=48"], "gpt_oss_20b": ["model.num_experts=8"],
           "mixtral_8x7b": ["model.num_experts=2"], "deepseek_v3": ["model.num_experts=16"]}
TURN_SECONDS = 0.04
WINDOWS = 48  # different inputs in turn


class Contestant:
    def __init__(self, build, config, threads, settings, folder, tokens, compute="auto"):
        self.block = library.Block(library.find_library(build), config, threads, settings, compute)
        self.block.load_files(folder)
        self.block.make_workspace(tokens)
        self.y = array.array("f", bytes(4 * tokens * self.block.shape.hidden_size))

    def run(self, x, tokens, window):
        row = window * min(tokens, 8) * 4 * self.block.shape.hidden_size
        self.block.forward(x.buffer_info()[0] + row, tokens, self.y.buffer_info()[0])

    def turn(self, x, tokens, first):
        """Median seconds of a call in one turn; the first wakes the threads and is not counted."""
        self.run(x, tokens, first % WINDOWS)
        times, passed, i = [], 0.0, first
        while passed < TURN_SECONDS or len(times) < 2:
            i += 1
            started = time.perf_counter()
            self.run(x, tokens, i % WINDOWS)
            times.append(time.perf_counter() - started)
            passed += times[-1]
        return statistics.median(times)


def read_input(path):
    """The floats of an npy file of version 1."""
    with open(path, "rb") as file:
        data = file.read()
    begin = 10 + struct.unpack("<H", data[8:10])[0]
    return array.array("f", data[begin:])


def synth(program, config, form, settings, tokens, folder):
    rows = tokens + WINDOWS * 8
    command = [program, "synth", config, "--format", form, "--output", folder, "--tokens", str(rows), "--quiet"]
    for setting in settings:
        command += ["--set", setting]
    subprocess.run(command, check=True)
