# SPDX-License-Identifier: Apache-2.0
"""What the tests of the command line share: running it, npy files without numpy, small checkpoints."""
import json
import math
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CLI = os.environ.get("MOEBLOCK_CLI", os.path.join(ROOT, "build", "release", "moeblock"))
GOLDEN = os.path.join(ROOT, "tests", "golden")
CONFIGS = os.path.join(ROOT, "configs")
COMMANDS = ("run", "bench", "synth", "config", "inspect", "validate", "route", "plan", "info")

# A small configuration of each kind that synth can write: (file in configs/, settings).
SMALL_DEEPSEEK = ["--set", "model.hidden_size=128", "--set", "model.num_experts=16",
                  "--set", "experts.distributed.intermediate_size=64", "--set", "experts.shared.intermediate_size=64"]
SMALL_GPT_OSS = ["--set", "model.hidden_size=64", "--set", "experts.distributed.intermediate_size=96"]
SMALL_LLAMA4 = ["--set", "model.hidden_size=160", "--set", "experts.distributed.intermediate_size=96",
                "--set", "experts.shared.intermediate_size=64"]


def environment():
    kept = {name: value for name, value in os.environ.items()
            if name not in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MOEBLOCK_CPU")}
    return kept


def run(*arguments, **options):
    """Runs the command line; the result has returncode, stdout and stderr as text."""
    options.setdefault("timeout", 120)
    options.setdefault("env", environment())
    return subprocess.run([CLI, *map(str, arguments)], capture_output=True, text=True, check=False, **options)


def default_signals():
    """For preexec_fn: a job started in the background ignores SIGINT, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


NPY_TYPES = {"<f4": "f", "<f8": "d", "<f2": "e", "<i4": "i", "<i8": "q", "|u1": "B"}


def read_npy(path):
    """(descr, shape, flat values) of a version 1 array in C order."""
    with open(path, "rb") as file:
        data = file.read()
    assert data[:8] == b"\x93NUMPY\x01\x00", path
    length = struct.unpack("<H", data[8:10])[0]
    header = eval(data[10:10 + length], {"__builtins__": {}}, {"False": False, "True": True})  # a dict literal
    assert not header["fortran_order"]
    values = struct.unpack("<" + str(math.prod(header["shape"])) + NPY_TYPES[header["descr"]], data[10 + length:])
    return header["descr"], header["shape"], values


def write_npy(path, descr, shape, values):
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {tuple(shape)}, }}"
    header += " " * (-(len(header) + 11) % 64) + "\n"
    with open(path, "wb") as file:
        file.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode())
        file.write(struct.pack("<" + str(len(values)) + NPY_TYPES[descr], *values))


def relative_rms(values, expected):
    error = sum((a - b) ** 2 for a, b in zip(values, expected))
    return math.sqrt(error / sum(b * b for b in expected))


def read_header(path):
    """Header (name -> entry) and data of a safetensors file."""
    with open(path, "rb") as file:
        data = file.read()
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:8 + length]), data[8 + length:]


def content(path):
    with open(path, "rb") as file:
        return file.read()


class CliTest(unittest.TestCase):
    """A test with a folder of its own."""

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="moeblock-test-")
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def path(self, *names):
        return os.path.join(self.folder, *names)

    def succeed(self, *arguments, **options):
        result = run(*arguments, **options)
        self.assertEqual(result.returncode, 0, f"{arguments}: {result.stderr}")
        return result

    def fail_with(self, code, words, *arguments, **options):
        """Expects exit code `code`, nothing on stdout, and one error line that holds every one of `words`."""
        result = run(*arguments, **options)
        self.assertEqual(result.returncode, code, f"{arguments}: {result.stdout}{result.stderr}")
        first = result.stderr.split("\n")[0]
        self.assertTrue(first.startswith("moeblock: error: "), result.stderr)
        for word in words:
            self.assertIn(str(word), first)
        self.assertEqual(result.stdout, "")
        return result

    def json_of(self, *arguments, **options):
        result = self.succeed(*arguments, "--json", **options)
        document = json.loads(result.stdout)
        self.assertRegex(document["schema"], rf"^moeblock\.{arguments[0]}/\d+$")
        self.assertEqual(result.stderr, "")
        return document

    def golden(self, case):
        """Folder, layer and further inputs of a golden case."""
        folder = os.path.join(GOLDEN, case)
        if not os.path.isdir(folder):
            self.skipTest(f"{folder} is not there")
        with open(os.path.join(folder, "case.json"), encoding="utf-8") as file:
            return folder, json.load(file)

    def synth(self, name, *more, config="deepseek_v3", settings=None, form="fp8", layer=3):
        """Writes a small checkpoint with 8 tokens of input and returns its folder."""
        settings = SMALL_DEEPSEEK if settings is None else settings
        self.succeed("synth", os.path.join(CONFIGS, config + ".json"), *settings, "--format", form, "--layer", layer,
                     "--output", self.path(name), "--tokens", 8, *more)
        return self.path(name)

    def assert_no_temporaries(self, folder):
        left = [name for name in os.listdir(folder) if name.startswith(".moeblock")]
        self.assertEqual(left, [])


def main():
    if not os.path.exists(CLI):
        print(f"{CLI} is not built")
        sys.exit(77)
    unittest.main()
