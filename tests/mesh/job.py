# SPDX-License-Identifier: Apache-2.0
"""A job of `moeblock` under a real MPI, with a fault in one of its processes, and what came of it."""
import glob
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
import unittest

import check

MPIS = [mpi for mpi in ("openmpi", "mpich") if check.program(mpi)]
# Each line of stderr begins with the rank that wrote it.
TAGS = {"openmpi": ["--tag-output"], "mpich": ["-prepend-rank"]}
TAGGED = {"openmpi": r"^\[\d+,(\d+)\]<stderr>: ?(.*)$", "mpich": r"^\[(\d+)\] ?(.*)$"}


def fault_library(mpi):
    path = os.path.join(check.BUILD, "tests", f"mesh_fault-{mpi}.so")
    return path if os.path.exists(path) else None


class Lateness(threading.Thread):
    """How long this machine kept a process that only sleeps from running: what no program here can be blamed for."""

    def __init__(self):
        super().__init__(daemon=True)
        self.seconds, self.done = 0.0, False

    def run(self):
        while not self.done:
            before = time.monotonic()
            time.sleep(0.05)
            self.seconds += max(0, time.monotonic() - before - 0.1)


class Job:  # pylint: disable=too-many-instance-attributes
    """Runs `parts`, [(processes, arguments of moeblock)], as one job, and waits for its end.

    code, seconds; errors: {rank: its first error line}; left: {rank: (exit code, time of leaving, messages)} of the
    ranks that left by themselves (needs the fault library); struck: when the fault came (None: it did not); late: seconds the machine was away.
    """

    def __init__(self, mpi, folder, parts, fault="none", rank=1, at=1, launcher=(), program=check.CLI, timeout=60):
        os.makedirs(folder)
        self.mpi, self.folder = mpi, folder
        preload = fault_library(mpi)
        settings = ["env", *([f"LD_PRELOAD={preload}"] if preload else []), f"FAULT_KIND={fault}",
                    f"FAULT_RANK={rank}", f"FAULT_AT={at}", f"FAULT_FOLDER={folder}"]
        command = [f"mpiexec.{mpi}", *TAGS[mpi], *launcher]
        for i, (processes, arguments) in enumerate(parts):
            command += [*([":"] if i else []), "-n", str(processes), *settings, program, *map(str, arguments)]
        lateness = Lateness()
        lateness.start()
        started = time.monotonic()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              env={**check.environment(), **check.MPI_ENVIRONMENT}) as process:
            try:
                self.stdout, self.stderr = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                for pid in self.processes():
                    os.kill(pid, 9)
                self.stdout, self.stderr = process.communicate()
                self.stderr += f"\nthe job did not end in {timeout} s"
        self.ended = time.monotonic()
        lateness.done = True
        self.code, self.seconds, self.late = process.returncode, self.ended - started, lateness.seconds
        self.errors = {}
        for line in self.stderr.splitlines():
            found = re.match(TAGGED[mpi], line)
            if found and found[2].startswith("moeblock: error: "):
                self.errors.setdefault(int(found[1]), found[2])
        self.left = {int(os.path.basename(name)): self.read(name)
                     for name in glob.glob(os.path.join(folder, "[0-9]*")) if os.path.getsize(name)}
        struck = os.path.join(folder, "struck")
        self.struck = self.read(struck)[1] if os.path.exists(struck) else None

    @staticmethod
    def read(path):
        with open(path, encoding="utf-8") as file:
            code, seconds, messages = file.read().split()
        return int(code), float(seconds), int(messages)

    def processes(self):
        """Those of this job that still run."""
        found = []
        for name in glob.glob("/proc/[0-9]*/environ"):
            try:
                with open(name, "rb") as file:
                    if f"FAULT_FOLDER={self.folder}\0".encode() in file.read():
                        found.append(int(name.split("/")[2]))
            except OSError:
                continue
        return found

    def gone(self, seconds=5):
        """Whether no process of the job is left, after a moment for the launcher's last ones."""
        for _ in range(int(seconds * 20)):
            if not self.processes():
                return True
            time.sleep(0.05)
        return False

    def __str__(self):
        return (f"{self.mpi}, {os.path.basename(self.folder)}: exit {self.code} after {self.seconds:.1f} s, "
                f"{self.late:.1f} s away, left {self.left}\n{self.stdout}{self.stderr}")


class JobTest(unittest.TestCase):
    """Tests of jobs on a small checkpoint: `inputs` in `folder`, of them `x` and one process's `y`."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="moeblock-test-")
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        cls.inputs = check.Inputs(cls.folder)
        cls.x, cls.y, _ = cls.inputs.files["random"]
