# SPDX-License-Identifier: Apache-2.0
"""Under each MPI, what `moeblock run --mesh` makes of a configuration and of the way in which it was started."""
import os
import shutil
import sys
import unittest

import check
from job import MPIS, Job, JobTest

USAGE, PEER_FAILED, BAD_CONFIG = 64, 69, 78


class Launch(JobTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.started = 0

    def start(self, mpi, processes, *more, program=check.CLI):
        """(job, path of its output)"""
        Launch.started += 1
        folder = os.path.join(self.folder, f"job{Launch.started}")
        out = folder + ".npy"
        arguments = ["run", self.inputs.model, "--layer", check.LAYER, "--input", self.x, "--output", out, "--threads",
                     "1", "--quiet", *more]
        return Job(mpi, folder, [(processes, arguments)], program=program), out

    def same(self, mesh, *more):
        """The bytes of one process, which knows none of `more`."""
        for mpi in MPIS:
            with self.subTest(mpi=mpi):
                job, out = self.start(mpi, check.processes(mesh), "--mesh", mesh, *more)
                self.assertEqual((job.code, job.errors), (0, {}), job)
                with open(out, "rb") as found, open(self.y, "rb") as expected:
                    self.assertEqual(found.read(), expected.read())

    def refused(self, code, words, processes, *more, program=check.CLI):
        """Every process tells the same error; no output. One that has left may have its launcher end slower ones."""
        for mpi in MPIS:
            with self.subTest(mpi=mpi):
                job, out = self.start(mpi, processes, *more, program=program)
                self.assertNotEqual(job.code, 0, job)
                self.assertTrue(job.errors and set(job.left) <= set(job.errors), job)
                if job.late < 0.1 and mpi != "openmpi":
                    self.assertEqual(set(job.errors), set(range(processes)), job)
                self.assertEqual(len(set(job.errors.values())), 1, job)
                for word in words:
                    self.assertIn(word.replace("MPI", mpi), next(iter(job.errors.values())))
                for left, _, _ in job.left.values():
                    self.assertIn(left, (code, PEER_FAILED), job)
                self.assertFalse(os.path.exists(out))
                self.assertTrue(job.gone(), job)

    def test_sharded_and_replicated(self):
        """64 columns of H: two mesh columns divide them, and x is fed sharded; three do not, and it is replicated."""
        self.same("2x2")
        self.same("1x3")

    def test_no_tensor_parallelism(self):
        self.same("2x2", "--set", "tensor_parallel.enabled=false")

    def test_no_expert_parallelism(self):
        self.same("2x2", "--set", "expert_parallel.enabled=false")

    def test_replicated_batch(self):
        self.same("2x2", "--set", "replicated_batch_mode=true")

    def test_other_axes(self):
        self.same("3x2", "--set", "tensor_parallel.cluster_axis=0", "--set", "experts.distributed.dispatch_cluster_axis=1")

    def test_equal_axes(self):
        self.refused(BAD_CONFIG, ["tensor_parallel.cluster_axis and experts.distributed.dispatch_cluster_axis are both 0"], 2, "--mesh", "2x1", "--set",
                     "tensor_parallel.cluster_axis=0")

    def test_another_number_of_processes(self):
        self.refused(USAGE, ["2x3", "6 processes", "3 were started", "mpiexec -n 6"], 3, "--mesh", "2x3")

    def test_another_shape_than_the_configuration(self):
        self.refused(BAD_CONFIG, ["mesh.rows and mesh.columns are 1 and 0"], 2, "--set", "mesh.rows=1", "--mesh", "2x1")

    def test_no_mesh(self):
        self.refused(USAGE, ["one of 2 processes", "--mesh RxC"], 2)

    def test_no_library(self):
        """A command line that was installed without the library for this MPI."""
        alone = os.path.join(self.folder, "alone")
        os.mkdir(alone)
        program = shutil.copy(check.CLI, os.path.join(alone, "moeblock"))
        self.refused(USAGE, ["moeblock-mpi for MPI", "apt-get install libMPI-dev", "--mpi"], 2, "--mesh", "2x1",
                     program=program)


if __name__ == "__main__":
    if not MPIS:
        print("no MPI was found when this was built: apt-get install libopenmpi-dev libmpich-dev")
        sys.exit(77)
    unittest.main()
