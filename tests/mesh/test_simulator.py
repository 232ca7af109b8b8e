# SPDX-License-Identifier: Apache-2.0
"""The same MPI code on meshes far larger than this machine: the original's 4x8, and 64 ranks."""
import sys
import tempfile
import unittest

import check


class Simulator(unittest.TestCase):
    def test_meshes(self):
        with tempfile.TemporaryDirectory(prefix="moeblock-test-") as folder:
            inputs = check.Inputs(folder)
            for mesh in ("4x8", "16x4"):
                with self.subTest(mesh=mesh):
                    out = check.simulate(mesh, inputs)
                    for words in ("256 tokens, x replicated", "256 tokens, x sharded", "3 tokens, x sharded"):
                        self.assertIn(words, out)

    def test_ways(self):
        with tempfile.TemporaryDirectory(prefix="moeblock-test-") as folder:
            inputs = check.Inputs(folder)
            for algorithm, mesh in (("twolevel", "64x1"), ("twolevel", "6x2"), ("allgather", "16x1"), ("auto", "36x1")):
                with self.subTest(algorithm=algorithm, mesh=mesh):
                    inputs.choose(algorithm=algorithm)
                    check.simulate(mesh, inputs)

    def test_partial_sums(self):
        with tempfile.TemporaryDirectory(prefix="moeblock-test-") as folder:
            inputs = check.Inputs(folder)
            inputs.choose(reproducible="batch", exchange="sums")
            for mesh in ("4x8", "16x4"):
                with self.subTest(mesh=mesh):
                    self.assertIn("columns exchange sums: near one process", check.simulate(mesh, inputs))

    def test_the_originals_flow(self):
        """256 experts, 8 a token, 8 groups on its own 32 devices, x sharded and replicated, block and adapter."""
        program = check.program("simulated", "mesh_equivalence")
        out = check.in_simulator("4x8", [program, "4x8"], 300, "flows are the original's")
        self.assertIn("4 x 8: 24 flows", out)


if __name__ == "__main__":
    if not check.program("simulated"):
        print("SimGrid was not found when this was built: apt-get install libsimgrid-dev")
        sys.exit(77)
    unittest.main()
