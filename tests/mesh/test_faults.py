# SPDX-License-Identifier: Apache-2.0
"""Under each MPI, `moeblock run --mesh 2x2` with a rank that is killed, leaves, stops, hangs, is slow, miscounts, fails
or differs: the others end in time with a named error, nothing is published, no process is left."""
import json
import os
import shutil
import sys
import unittest
from concurrent.futures import ThreadPoolExecutor

import check
from job import MPIS, Job, JobTest, fault_library

MESH, RANKS = "2x2", 4
DEADLINE, GRACE, LAUNCHER = 4, 5, 5  # seconds: of a wait; until an error is out; until a launcher ends the job
AT_ONCE = 3                          # jobs; most of them sleep most of the time
PEER_FAILED, TIMED_OUT = 69, 75


class Faults(JobTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.sent = {}
        for mpi in MPIS:  # without a fault; how many messages each rank sends
            job = cls.start(mpi, "clean")
            assert job.code == 0 and not job.errors and cls.published(job) and len(job.left) == RANKS, str(job)
            cls.sent[mpi] = {rank: messages for rank, (_, _, messages) in job.left.items()}

    @classmethod
    def output(cls, folder):
        return folder + ".npy"

    @classmethod
    def published(cls, job):
        """Whether an output is there; then it is the right one."""
        if not os.path.exists(cls.output(job.folder)):
            return False
        with open(cls.output(job.folder), "rb") as found, open(cls.y, "rb") as expected:
            assert found.read() == expected.read(), f"other bytes than one process: {job}"
        return True

    @classmethod
    def arguments(cls, folder, *more, model=None):
        return ["run", model or cls.inputs.model, "--layer", check.LAYER, "--input", cls.x, "--output", cls.output(folder),
                "--mesh", MESH, "--threads", "1", "--quiet", "--deadline", str(DEADLINE), *more]

    @classmethod
    def start(cls, mpi, name, odd=(), odd_model=None, **fault):
        """A job; `odd` are further arguments, and `odd_model` the checkpoint, of rank 1 alone."""
        folder = os.path.join(cls.folder, f"{mpi}-{name}")
        usual, other = cls.arguments(folder), cls.arguments(folder, *odd, model=odd_model)
        parts = [(RANKS, usual)] if usual == other else [(1, usual), (1, other), (RANKS - 2, usual)]
        return Job(mpi, folder, parts, **fault)

    def each(self, tries, judge):
        """Starts jobs, some at a time: tries are (mpi, name, keywords of start); then judges each."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            jobs = list(pool.map(lambda a: self.start(a[0], a[1], **a[2]), tries))
        for (mpi, name, how), job in zip(tries, jobs):
            with self.subTest(mpi=mpi, name=name):
                judge(job, how)
                self.assertTrue(job.gone(), f"processes are left: {job}")

    def moments(self, mpi, rank, *parts):
        """(name, message) at parts of a rank's messages: 0 is the agreement on the block, 1/2 the flow of forward."""
        return [(f"{part:.2f}", 1 + int(part * self.sent[mpi][rank])) for part in parts]

    def judge_survivors(self, job, struck_rank):
        """All others told the same error in time; those that left by themselves did so with 69 or 75."""
        survivors = set(range(RANKS)) - {struck_rank}
        self.assertIsNotNone(job.struck, job)
        self.assertNotEqual(job.code, 0, job)
        job.errors.pop(struck_rank, None)  # launchers wake a stopped process when they end it
        job.left.pop(struck_rank, None)
        self.assertTrue(job.left, job)
        for _, left, _ in job.left.values():
            self.assertLessEqual(left - job.struck, DEADLINE + GRACE + job.late, job)
        first = min(left for _, left, _ in job.left.values())  # then the launcher ends what is left
        self.assertLessEqual(job.ended - first, LAUNCHER + job.late, job)
        self.assertTrue(job.errors, job)
        if job.late < 0.5:  # else a launcher may have ended one that had no time to speak
            self.assertEqual(set(job.errors), survivors, job)
        self.assertEqual(len(set(job.errors.values())), 1, job)
        self.assertIn(f"for rank {struck_rank} ", next(iter(job.errors.values())), job)
        for code, _, _ in job.left.values():
            self.assertIn(code, (PEER_FAILED, TIMED_OUT), job)
        self.assertFalse(self.published(job), job)

    def test_stopped_or_hanging(self):
        tries = []
        for mpi in MPIS:
            for kind, rank, parts in (("stop", 1, (0.5,)), ("hang", 1, (0, 0.25, 0.7)), ("stop", 0, (0.5,))):
                tries += [(mpi, f"{kind}-{rank}-{name}", {"fault": kind, "rank": rank, "at": at})
                          for name, at in self.moments(mpi, rank, *parts)]
        self.each(tries, lambda job, how: self.judge_survivors(job, how["rank"]))

    def test_killed_or_gone(self):
        """No survivor sees it in the time that the launcher takes to end them all."""
        def judge(job, how):
            self.assertIsNotNone(job.struck, job)
            self.assertLessEqual(job.ended - job.struck, LAUNCHER + job.late, job)
            if (job.mpi, how["fault"]) != ("mpich", "exit0"):  # whose mpiexec then reports 0 at times
                self.assertNotEqual(job.code, 0, job)
            self.assertFalse(self.published(job), job)

        tries = []
        for mpi in MPIS:
            for kind, rank, parts in (("kill", 1, (0, 0.5, 0.7)), ("exit", 1, (0.5,)), ("exit0", 1, (0, 0.5)),
                                      ("kill", 0, (0.5,))):
                tries += [(mpi, f"{kind}-{rank}-{name}", {"fault": kind, "rank": rank, "at": at})
                          for name, at in self.moments(mpi, rank, *parts)]
        self.each(tries, judge)

    @unittest.skipUnless("openmpi" in MPIS, "no Open MPI")
    def test_survivors_of_a_killed_rank(self):
        """Where the launcher lets them live, they find out and say so themselves."""
        def judge(job, how):
            self.assertEqual(set(job.left), set(range(RANKS)) - {how["rank"]}, job)
            for code, left, _ in job.left.values():
                self.assertIn(code, (PEER_FAILED, TIMED_OUT), job)
                self.assertLessEqual(left - job.struck, DEADLINE + GRACE + job.late, job)
            self.assertFalse(self.published(job), job)

        self.each([("openmpi", f"recovery-{name}",
                    {"fault": "kill", "rank": 1, "at": at, "launcher": ("--enable-recovery",)})
                   for name, at in self.moments("openmpi", 1, 0.25, 0.6)], judge)

    def test_slow(self):
        """Within the deadline nothing is wrong."""
        def judge(job, _):
            self.assertEqual((job.code, job.errors), (0, {}), job)
            self.assertTrue(self.published(job), job)

        self.each([(mpi, "slow", {"fault": "slow", "at": 1 + self.sent[mpi][1] // 2}) for mpi in MPIS], judge)

    def test_wrong_counts(self):
        """Headers of dispatched rows that count wrongly."""
        def judge(job, how):
            self.assertNotEqual(job.code, 0, job)
            self.assertEqual(set(job.errors), set(range(RANKS)), job)
            self.assertEqual(len(set(job.errors.values())), 1, job)
            text = next(iter(job.errors.values()))
            self.assertIn("dispatch", text)
            self.assertIn("rank 1 announces" if how["fault"] == "bytes" else "do not fit", text)
            self.assertFalse(self.published(job), job)

        self.each([(mpi, kind, {"fault": kind}) for mpi in MPIS for kind in ("rows", "bytes")], judge)

    def differs(self, name, words, codes, odd=(), odd_model=None):
        """Rank 1 has something else: all others tell the same error with these words; codes are of `codes`."""
        def judge(job, _):
            self.assertEqual(set(job.errors), set(range(RANKS)), job)
            job.errors.pop(1)
            self.assertEqual(len(set(job.errors.values())), 1, job)
            for text in job.errors.values():
                for word in words:
                    self.assertIn(word, text, job)
            self.assertNotEqual(job.code, 0, job)
            for code, _, _ in job.left.values():
                self.assertIn(code, codes, job)
            self.assertFalse(self.published(job), job)
            self.assertLess(job.seconds, DEADLINE + GRACE + LAUNCHER + job.late, job)

        self.each([(mpi, name, {"odd": odd, "odd_model": odd_model}) for mpi in MPIS], judge)

    def model(self, name):
        """A copy of the checkpoint, and its file of tensors."""
        folder = os.path.join(self.folder, name)
        shutil.copytree(self.inputs.model, folder)
        return folder, os.path.join(folder, "model.safetensors")

    def test_another_configuration(self):
        self.differs("configuration", ["routed_scaling_factor", "2.25", "rank 1 has"], (PEER_FAILED, 65, 78),
                     odd=["--set", "router.config.routed_scaling_factor=2.25"])

    def test_another_compute_type(self):
        self.differs("compute", ["compute", "f32", "rank 1 has"], (PEER_FAILED, 65, 78), odd=["--compute", "f32"])

    def test_other_weights(self):
        """One bit of a router's value, in a file of the same name, size and header."""
        folder, path = self.model("other")
        with open(path, "r+b") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
            at = next(entry["data_offsets"][0] for name, entry in header.items() if name.endswith("gate.weight"))
            file.seek(8 + length + at + 1000)
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 1]))
        self.differs("weights", ["rank 1 has", "tensor"], (PEER_FAILED, 65), odd_model=folder)

    def test_a_truncated_file(self):
        folder, path = self.model("short")
        os.truncate(path, os.path.getsize(path) - 100)
        self.differs("truncated", ["rank 1"], (PEER_FAILED, 65), odd_model=folder)

    def test_no_file(self):
        folder, path = self.model("none")
        os.unlink(path)
        self.differs("missing", ["rank 1"], (PEER_FAILED, 66), odd_model=folder)

    def test_levels_may_differ(self):
        for mpi in MPIS:
            with self.subTest(mpi=mpi):
                job = self.start(mpi, "levels", odd=["--level", "ref"])
                self.assertEqual(job.code, 0, job)
                self.assertTrue(self.published(job), job)


if __name__ == "__main__":
    MPIS = [mpi for mpi in MPIS if fault_library(mpi)]
    if not MPIS:
        print("no MPI was found when this was built, or sanitizers are on: apt-get install libopenmpi-dev libmpich-dev")
        sys.exit(77)
    unittest.main()
