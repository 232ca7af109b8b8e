# SPDX-License-Identifier: Apache-2.0
"""`moeblock run` on a mesh under each MPI: every way of rows, and what it reports."""
import json
import os
import subprocess
import sys
import tempfile
import unittest

import check
from cli_support import CLI, environment

MPIS = [mpi for mpi in ("openmpi", "mpich") if check.program(mpi)]
WIDE = ["--set", "model.hidden_size=1024", "--set", "experts.distributed.intermediate_size=32",
        "--set", "experts.shared.intermediate_size=32"]
DEADLINE = 120


def launch(mpi, processes, *arguments):
    return subprocess.run([f"mpiexec.{mpi}", "-n", str(processes), CLI, "run", *map(str, arguments)], timeout=DEADLINE,
                          capture_output=True, text=True, check=False, env={**environment(), **check.MPI_ENVIRONMENT})


class Run(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="moeblock-test-")
        cls.model = os.path.join(cls.folder.name, "model")
        cls.x = os.path.join(cls.model, "input.npy")
        cls.y = os.path.join(cls.folder.name, "y.npy")
        check.tool("synth", os.path.join(check.ROOT, "configs", "deepseek_v3.json"), *WIDE, "--format", "bf16",
                   "--layer", check.LAYER, "--tokens", 64, "--output", cls.model)
        check.tool("run", cls.model, "--layer", check.LAYER, "--input", cls.x, "--output", cls.y)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def arguments(self, output):
        return [self.model, "--layer", check.LAYER, "--input", self.x, "--output", output]

    def run_mesh(self, mpi, mesh, *more):
        """The report of a run whose output is that of one process, unless it may differ."""
        output = os.path.join(self.folder.name, "mesh.npy")
        done = launch(mpi, check.processes(mesh), *self.arguments(output), "--mesh", mesh, "--json", "--compare", self.y,
                      *more)
        self.assertEqual(done.returncode, 0, done.stderr)
        with open(output, "rb") as mine, open(self.y, "rb") as single:
            same = mine.read() == single.read()
        report = json.loads(done.stdout)
        self.assertEqual(same, "batch" not in more, more)
        self.assertLess(report["compare"]["relative_rms"], 4e-3)
        return report

    def test_ways(self):
        for mpi in MPIS:
            for more in ((), ("--algorithm", "allgather"), ("--algorithm", "twolevel"), ("--algorithm", "auto"),
                         ("--reproducible", "batch")):
                with self.subTest(mpi=mpi, more=more):
                    self.check_report(self.run_mesh(mpi, "4x1", *more)["mesh"], 4, 1, bool(more))
            for more in ((), ("--reproducible", "batch", "--set", "mesh.exchange=sums")):
                with self.subTest(mpi=mpi, mesh="2x2", more=more):
                    report = self.run_mesh(mpi, "2x2", *more)["mesh"]
                    self.check_report(report, 2, 2, bool(more))
                    self.assertIn("partial sums (as asked" if more else "activations (the bits", report["exchange"])

    def check_report(self, mesh, rows, columns, other):
        """What left is what arrived, for each axis and step; alltoall sends at most 5 % more than it must."""
        self.assertEqual((mesh["rows"], mesh["columns"], len(mesh["ranks"])), (rows, columns, rows * columns))
        self.assertIn("predicted", mesh["explain"])
        size = os.path.getsize(os.path.join(self.model, "model.safetensors"))
        sent = bound = 0
        for axis in (0, 1):
            for step in ("input", "dispatch", "activations", "combine", "whole_rows", "output", "sums"):
                steps = [rank["axes"][axis]["steps"][step] for rank in mesh["ranks"]]
                for out, back in (("bytes_sent", "bytes_received"), ("rows_sent", "rows_received")):
                    self.assertEqual(sum(s[out] for s in steps), sum(s[back] for s in steps), (axis, step))
                if step == "dispatch":
                    sent += sum(s["bytes_sent"] for s in steps)
                    bound += sum(s["bound_sent"] for s in steps)
        for rank in mesh["ranks"]:
            self.assertGreater(rank["wait_seconds"], 0)
            self.assertLess(rank["weight_bytes_read"], size / (rows * columns) * 1.5)
            for axis in rank["axes"]:
                self.assertEqual(sum(peer["bytes_sent"] for peer in axis["peers"]), axis["total"]["bytes_sent"])
        self.assertGreater(bound, 0)
        if not other:
            self.assertLessEqual(sent, 1.05 * bound)

    def test_shape_of_the_configuration(self):
        output = os.path.join(self.folder.name, "shape.npy")
        done = launch(MPIS[0], 2, *self.arguments(output), "--set", "mesh.rows=1", "--set", "mesh.columns=2", "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json.loads(done.stdout)["mesh"]["columns"], 2)


if __name__ == "__main__":
    if not MPIS:
        print("no MPI was found when this was built: apt-get install libopenmpi-dev libmpich-dev")
        sys.exit(77)
    unittest.main()
