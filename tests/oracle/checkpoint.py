# SPDX-License-Identifier: Apache-2.0
"""Small random checkpoints under published names: tensors in float32 with values that are exact in it, and raw codes."""
import json
import os
import random
import struct


class Checkpoint:
    """Collects tensors; what it hands out are plain lists, which the oracle computes with."""

    def __init__(self, seed, prefix):
        self.random = random.Random(seed)
        self.prefix = prefix
        self.tensors = {}
        self.codes = {}

    def raw(self, name, dtype, shape, data):
        """A tensor of one-byte codes."""
        self.codes[self.prefix + name] = (dtype, list(shape), data)

    def floats(self, name, shape, values):
        """Stores values, rounded to float32. -> the values as stored"""
        rounded = list(struct.unpack(f"<{len(values)}f", struct.pack(f"<{len(values)}f", *values)))
        self.store(name, shape, rounded)
        return rounded

    def values(self, count, scale=1.0):
        return [round(self.random.gauss(0.0, scale) * 1024) / 1024 for _ in range(count)]

    def store(self, name, shape, flat):
        self.tensors[self.prefix + name] = (list(shape), flat)

    def matrix(self, name, rows, columns, scale=None):
        """A matrix [rows][columns]; None as name: made, not stored."""
        scale = scale or columns ** -0.5
        made = [self.values(columns, scale) for _ in range(rows)]
        if name:
            self.store(name, (rows, columns), flatten(made))
        return made

    def vector(self, name, count, scale=0.3):
        made = self.values(count, scale)
        self.store(name, (count,), made)
        return made

    def experts(self, count, width, hidden, names, gated=True):
        """One tensor per expert and projection; names: patterns of gate, up, down with {e}. -> [(gate, up, down)]"""
        gate, up, down = names
        return [(self.matrix(gate.format(e=e), width, hidden) if gated else None,
                 self.matrix(up.format(e=e), width, hidden), self.matrix(down.format(e=e), hidden, width))
                for e in range(count)]

    def write(self, folder, config):
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
            json.dump(config, file)
        header, at = {}, 0
        for name, (shape, flat) in self.tensors.items():
            header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + 4 * len(flat)]}
            at += 4 * len(flat)
        for name, (dtype, shape, data) in self.codes.items():
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
            at += len(data)
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(os.path.join(folder, "model.safetensors"), "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for _, flat in self.tensors.values():
                file.write(struct.pack(f"<{len(flat)}f", *flat))
            for _, _, data in self.codes.values():
                file.write(data)


def flatten(matrix):
    return [value for row in matrix for value in row]


def transposed(matrix):
    return [list(column) for column in zip(*matrix)]


def interleaved(gate, up):
    return [row for pair in zip(gate, up) for row in pair]


PROJ = ("gate_proj", "up_proj", "down_proj")


def by_proj(module):
    """Patterns of gate, up, down as published by most families."""
    return tuple(module + "experts.{e}." + name + ".weight" for name in PROJ)


def by_number(module):
    return tuple(module + "experts.{e}." + name + ".weight" for name in ("w1", "w3", "w2"))
