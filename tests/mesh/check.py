# SPDX-License-Identifier: Apache-2.0
"""Inputs whose output on one process is known, and check_mesh on them: under a real MPI or in SimGrid's simulator."""
import json
import os
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "cli"))
from cli_support import CLI, environment, read_npy, write_npy  # pylint: disable=wrong-import-position

BUILD = os.environ.get("MOEBLOCK_BUILD_DIR", os.path.join(ROOT, "build", "release"))
HIDDEN, LAYER, TOKENS = 64, "3", 256
# DeepSeek-V3's router and counts of experts, narrow.
SETTINGS = ["--set", "experts.distributed.intermediate_size=32", "--set", "experts.shared.intermediate_size=32"]
# Nobody may wait for an MPI to find out that ranks outnumber cores, or that this is a container's root.
MPI_ENVIRONMENT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
                   "OMPI_MCA_rmaps_base_oversubscribe": "1", "OMPI_MCA_hwloc_base_binding_policy": "none"}


def tool(*arguments):
    subprocess.run([CLI, *map(str, arguments), "--quiet"], check=True, env=environment(), timeout=60)


class Inputs:
    """A checkpoint and inputs: random rows, rows that all choose the same experts, fewer rows than ranks."""

    def __init__(self, folder, form="bf16", settings=(), hidden=HIDDEN):
        self.model = self.config = os.path.join(folder, "model")
        tool("synth", os.path.join(ROOT, "configs", "deepseek_v3.json"), *SETTINGS, *settings, "--set",
             f"model.hidden_size={hidden}", "--format", form, "--layer", LAYER,
             "--tokens", TOKENS, "--output", self.model)
        values = read_npy(os.path.join(self.model, "input.npy"))[2]
        rows = [values[t * hidden:(t + 1) * hidden] for t in range(TOKENS)]
        self.files = {}
        for name, chosen in (("random", rows), ("skewed", [rows[7]] * 64), ("few", rows[:3])):
            x, y, prefix = (os.path.join(folder, name + end) for end in (".npy", "_y.npy", ""))
            write_npy(x, "<f4", (len(chosen), hidden), [value for row in chosen for value in row])
            tool("run", self.model, "--layer", LAYER, "--input", x, "--output", y, "--router-out", prefix)
            self.files[name] = [x, y, prefix + "_ids.npy"]

    def place(self, mesh):
        """From now on experts lie apart, and every third on all rows of the mesh."""
        rows = int(mesh.split("x", maxsplit=1)[0])
        table, self.config = (os.path.join(os.path.dirname(self.model), mesh + end) for end in (".table", ".json"))
        with open(os.path.join(self.model, "moeblock.json"), encoding="utf-8") as file:
            config = json.load(file)
        lists = [list(range(rows)) if e % 3 == 0 else [e % rows] for e in range(config["model"]["num_experts"])]
        for path, value in ((table, {"schema": "moeblock.placement/1", "ranks": rows, "experts": lists}),
                            (self.config, {**config, "mesh": {"placement": table}})):
            with open(path, "w", encoding="utf-8") as file:
                json.dump(value, file)

    def choose(self, **keys):
        """From now on these keys of the mesh object."""
        self.config = os.path.join(os.path.dirname(self.model), "-".join(map(str, keys.values())) + ".json")
        with open(os.path.join(self.model, "moeblock.json"), encoding="utf-8") as file:
            config = json.load(file)
        with open(self.config, "w", encoding="utf-8") as file:
            json.dump({**config, "mesh": keys}, file)

    def arguments(self, mesh, names):
        return [self.config, self.model, LAYER, mesh, *(path for name in names for path in self.files[name])]


def processes(mesh):
    rows, columns = map(int, mesh.split("x"))
    return rows * columns


def program(mpi, name="check_mesh"):
    """The build of a program of this folder for an MPI, None where there is none."""
    path = os.path.join(BUILD, "tests", f"{name}-{mpi}")
    return path if os.path.exists(path) else None


def run(command, timeout, extra=None, ends="counters as predicted"):
    """Runs a job; the text it printed, or an error with all that it said where `ends` is not in it."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False,
                          env={**environment(), **(extra or {})})
    if done.returncode or ends not in done.stdout:
        raise AssertionError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def with_mpi(mpi, mesh, inputs, names=("random", "skewed", "few")):
    command = [f"mpiexec.{mpi}", "-n", str(processes(mesh)), program(mpi), *inputs.arguments(mesh, names)]
    return run(command, 120, MPI_ENVIRONMENT)


# A fat tree of two levels with 32 hosts a switch, 50 GB/s and 1 us a link.
PLATFORM = """<?xml version='1.0'?>
<!DOCTYPE platform SYSTEM "https://simgrid.org/simgrid.dtd">
<platform version="4.1">
  <cluster id="mesh" prefix="n" suffix="" radical="0-{last}" speed="1Gf" bw="50GBps" lat="1us" topology="FAT_TREE"
           topo_parameters="2;32,{switches};1,32;1,1"/>
</platform>
"""


def in_simulator(mesh, command, timeout, ends):
    """Real processes' data and code, simulated time: computing takes none of it."""
    switches = max(2, -(-processes(mesh) // 32))
    with tempfile.TemporaryDirectory(prefix="moeblock-test-") as folder:
        platform = os.path.join(folder, "platform.xml")
        with open(platform, "w", encoding="utf-8") as file:
            file.write(PLATFORM.format(last=32 * switches - 1, switches=switches))
        # The library has no mutable globals, so that ranks need no copies of it. Sends that SMPI detaches, which are the
        # short ones by default, stay in its lists and make it quadratic in their number.
        smpirun = ["smpirun", "-np", str(processes(mesh)), "-platform", platform, "--cfg=smpi/simulate-computation:no",
                   "--cfg=smpi/privatization:no", "--cfg=smpi/send-is-detached-thresh:0", "--log=root.thresh:critical"]
        return run([*smpirun, *command], timeout, ends=ends)


def simulate(mesh, inputs, names=("random", "skewed", "few"), timeout=600):
    return in_simulator(mesh, [program("simulated"), *inputs.arguments(mesh, names)], timeout,
                        "counters as predicted")
