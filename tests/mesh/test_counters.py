# SPDX-License-Identifier: Apache-2.0
"""Under each MPI: bytes of one process, and every byte on the wire as src/traffic.c predicts it, which `plan` prints."""
import sys
import tempfile
import unittest

import check

MPIS = [mpi for mpi in ("openmpi", "mpich") if check.program(mpi)]


class Counters(unittest.TestCase):
    def test_meshes(self):
        for form in ("bf16", "f32"):
            with tempfile.TemporaryDirectory(prefix="moeblock-test-") as folder:
                inputs = check.Inputs(folder, form)
                for mpi in MPIS:
                    for mesh in ("2x2", "3x1", "1x3") if form == "bf16" else ("2x2",):
                        with self.subTest(mpi=mpi, mesh=mesh, form=form):
                            check.with_mpi(mpi, mesh, inputs)
                if form == "bf16":
                    inputs.place("3x1")
                    for mpi in MPIS:
                        with self.subTest(mpi=mpi, copies="of every third expert"):
                            check.with_mpi(mpi, "3x1", inputs)

    def test_partial_sums(self):
        """Each column reads its part of every row of down; near one process, the same bytes in other passes."""
        for form in ("bf16", "f32"):
            with tempfile.TemporaryDirectory(prefix="moeblock-test-") as folder:
                inputs = check.Inputs(folder, form)
                inputs.choose(reproducible="batch", exchange="sums")
                for mpi in MPIS:
                    for mesh in ("2x2", "1x2", "2x3"):
                        with self.subTest(mpi=mpi, mesh=mesh, form=form):
                            self.assertIn("columns exchange sums: near one process", check.with_mpi(mpi, mesh, inputs))

    def test_the_dispatch_is_at_its_lower_bound(self):
        """Rows of 1,024, 64 experts in 8 groups."""
        with tempfile.TemporaryDirectory(prefix="moeblock-test-") as folder:
            inputs = check.Inputs(folder, settings=["--set", "model.num_experts=64"], hidden=1024)
            for mpi in MPIS:
                for mesh in ("2x2", "4x1"):
                    with self.subTest(mpi=mpi, mesh=mesh):
                        self.assertIn("the least is", check.with_mpi(mpi, mesh, inputs))


if __name__ == "__main__":
    if not MPIS:
        print("no MPI was found when this was built: apt-get install libopenmpi-dev libmpich-dev")
        sys.exit(77)
    unittest.main()
