# SPDX-License-Identifier: Apache-2.0
"""What the system does to the command line: folders, pipes and devices in place of files, closed and full outputs,
interruptions. Exit codes hold, JSON is whole or absent, and a file that was there before survives."""
import os
import random
import signal
import stat
import subprocess
import time
import unittest

from cli_support import (CLI, CONFIGS, SMALL_DEEPSEEK, CliTest, content, default_signals, environment, main, read_npy,
                         run)

DEEPSEEK = os.path.join(CONFIGS, "deepseek_v3.json")
NOT_ROOT = os.geteuid() != 0
FULL = os.path.exists("/dev/full")
POINTS = 10  # at which a run is interrupted


class Case(CliTest):
    """A small checkpoint and an output that is already there."""

    def setUp(self):
        super().setUp()
        self.model = self.synth("model")
        self.x, self.y = os.path.join(self.model, "input.npy"), self.path("y.npy")
        with open(self.y, "wb") as file:
            file.write(b"what was here before")

    def run_arguments(self, **replaced):
        options = {"input": self.x, "output": self.y, **replaced}
        return ["run", self.model] + [word for name, value in options.items() for word in ("--" + name, value)]

    def assert_untouched(self):
        self.assertEqual(content(self.y), b"what was here before")
        self.assert_no_temporaries(self.folder)


class OddFiles(Case):
    def test_folder_in_place_of_a_file(self):
        os.mkdir(self.path("d"))
        self.fail_with(74, ["/d"], *self.run_arguments(input=self.path("d")))
        self.fail_with(74, ["/d", "folder"], *self.run_arguments(output=self.path("d")))
        self.fail_with(74, ["/d"], *self.run_arguments(compare=self.path("d")))
        os.mkdir(self.path("r_ids.npy"))
        self.fail_with(74, ["r_ids.npy"], *self.run_arguments(**{"router-out": self.path("r")}))
        self.assert_untouched()

    def test_pipe_in_place_of_a_file(self):
        os.mkfifo(self.path("p"))
        started = time.monotonic()
        self.fail_with(74, ["/p"], *self.run_arguments(input=self.path("p")))
        self.fail_with(74, ["/p"], "config", self.path("p"))
        for command in ("inspect", "validate"):
            self.fail_with(74, ["/p"], command, self.path("p"))
        os.mkdir(self.path("folder"))
        os.mkfifo(self.path("folder", "model.safetensors"))
        self.fail_with(74, ["model.safetensors"], "inspect", self.path("folder"))
        self.assertLess(time.monotonic() - started, 20)  # nobody waits for a writer
        self.assert_untouched()

    def test_output_to_nowhere(self):
        self.fail_with(74, ["none"], *self.run_arguments(output=self.path("none", "y.npy")))
        self.fail_with(74, ["longer"], *self.run_arguments(output="y" * 5000))
        result = run(*self.run_arguments(output=self.path("y" * 300)))
        self.assertIn(result.returncode, (66, 74))
        self.assert_untouched()

    def test_two_outputs_of_one_name(self):
        for end in ("_ids.npy", "_weights.npy"):
            self.fail_with(64, ["--output", "--router-out", "r" + end],
                           *self.run_arguments(output=self.path("r" + end), **{"router-out": self.path("r")}))
            self.assertFalse(os.path.exists(self.path("r" + end)))

    def test_link_stays_a_link(self):
        os.symlink(self.y, self.path("link.npy"))
        self.succeed(*self.run_arguments(output=self.path("link.npy")))
        self.assertTrue(os.path.islink(self.path("link.npy")))
        self.assertEqual(read_npy(self.y)[1], (8, 128))

    def test_device(self):
        self.succeed(*self.run_arguments(output="/dev/null"))
        self.assertTrue(stat.S_ISCHR(os.stat("/dev/null").st_mode))

    @unittest.skipUnless(NOT_ROOT, "root may read and write everything")
    def test_permissions(self):
        os.chmod(self.x, 0)
        self.fail_with(74, ["input.npy"], *self.run_arguments())
        os.chmod(self.x, 0o644)
        os.mkdir(self.path("locked"), 0o500)
        self.fail_with(74, ["locked"], *self.run_arguments(output=self.path("locked", "y.npy")))
        os.chmod(self.y, 0o400)
        self.fail_with(74, ["y.npy"], *self.run_arguments())
        os.chmod(os.path.join(self.model, "model.safetensors"), 0)
        self.fail_with(74, ["model.safetensors"], "inspect", self.model)

    def test_earlier_output_survives_every_failure(self):
        other = self.path("other.json")
        with open(other, "w", encoding="utf-8") as file:
            file.write(content(os.path.join(self.model, "moeblock.json")).decode().replace('"n_group": 8',
                                                                                           '"n_group": 7'))
        for code, arguments in (
                (66, self.run_arguments(input=self.path("none.npy"))),
                (66, self.run_arguments(weights=self.path("none"))),
                (66, self.run_arguments(compare=self.path("none.npy"))),
                (78, self.run_arguments(set="model.num_experts=0")),
                (66, self.run_arguments(set="model.num_experts=17", layer="3")),
                (64, self.run_arguments(level="none")),
                (78, ["run", other] + self.run_arguments()[2:]),
                (64, self.run_arguments(mode="both"))):
            result = run(*arguments)
            self.assertIn(result.returncode, (code, 65, 78) if code == 66 else (code,), result.stderr)
            self.assertTrue(result.stderr.startswith("moeblock: error: "), result.stderr)
            self.assert_untouched()


class Streams(Case):
    def shell(self, script, *arguments):
        """Runs `script`, in which "$@" is the command line, and returns the exit code and stderr."""
        result = subprocess.run(["sh", "-c", script, "sh", CLI, *arguments], capture_output=True, text=True,
                                check=False, env=environment(), timeout=120)
        return result.returncode, result.stderr

    def each_command(self):
        yield ["info"]
        yield ["info", "--json"]
        yield ["config", self.model]
        yield ["inspect", self.model]
        yield ["inspect", self.model, "--json"]
        yield ["validate", self.model]
        yield ["run", "--help"]
        yield ["--completion"]
        yield ["--man", "run"]
        yield self.run_arguments(output=self.path("z.npy"))

    def test_closed_stdout(self):
        for arguments in self.each_command():
            code, errors = self.shell('"$@" >&-', *arguments)
            self.assertEqual(code, 74, arguments)
            self.assertIn("moeblock: error: writing to standard output", errors)

    @unittest.skipUnless(FULL, "/dev/full is not there")
    def test_full_stdout(self):
        for arguments in self.each_command():
            code, errors = self.shell('"$@" >/dev/full', *arguments)
            self.assertEqual(code, 74, arguments)
            self.assertIn("moeblock: error: writing to standard output", errors)

    def test_reader_that_went_away(self):
        for arguments in self.each_command():
            read, write = os.pipe()
            os.close(read)
            process = subprocess.Popen([CLI, *arguments], stdout=write, stderr=subprocess.PIPE, env=environment())
            os.close(write)
            errors = process.communicate(timeout=120)[1].decode()
            self.assertEqual(process.returncode, 74, arguments)
            self.assertIn("moeblock: error: writing to standard output", errors)

    def test_all_streams_closed(self):
        """No file may take the place of a closed stream: what is printed must not end up in the output."""
        self.shell('exec "$@" <&- >&- 2>&-', *self.run_arguments(**{"router-out": self.path("r")}))
        self.assertEqual(read_npy(self.y)[1], (8, 128))
        self.assertEqual(read_npy(self.path("r_ids.npy"))[1], (8, 8))
        code, _ = self.shell('exec "$@" 2>&-', *self.run_arguments())
        self.assertEqual(code, 0)

    @unittest.skipUnless(FULL, "/dev/full is not there")
    def test_full_device_as_output(self):
        result = run(*self.run_arguments(output="/dev/full"))
        self.assertEqual(result.returncode, 74)
        self.assertIn("/dev/full", result.stderr)
        self.assert_untouched()

    def test_json_of_a_failure_is_absent(self):
        for arguments in (["inspect", "none"], ["validate", "none"], ["config", "none"], ["bench", "none"],
                          ["run", "none", "--input", "x", "--output", "y"],
                          ["synth", "none", "--format", "f32", "--output", self.path("s")]):
            self.fail_with(66, [], *arguments, "--json")

    def test_no_progress_without_a_terminal(self):
        self.assertEqual(self.succeed(*self.run_arguments()).stderr, "")

    def test_file_size_limit(self):
        """A disk that fills up while the output is written."""
        code, errors = self.shell('trap "" XFSZ; ulimit -f 2; "$@"', *self.run_arguments())
        self.assertEqual(code, 74, errors)
        self.assert_untouched()
        before = {name: content(os.path.join(self.model, name)) for name in os.listdir(self.model)}
        code, errors = self.shell('trap "" XFSZ; ulimit -f 100; "$@"', "synth", DEEPSEEK, *SMALL_DEEPSEEK, "--format",
                                  "fp8", "--seed", "9", "--output", self.model)
        self.assertEqual(code, 74, errors)
        self.assertEqual({name: content(os.path.join(self.model, name)) for name in os.listdir(self.model)}, before)


class Interruptions(Case):
    def interrupt(self, arguments, delay, number):
        process = subprocess.Popen([CLI, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                   env=environment(), preexec_fn=default_signals)
        time.sleep(delay)
        process.send_signal(number)
        return process.wait(timeout=60)

    def time_of(self, arguments):
        started = time.monotonic()
        self.succeed(*arguments)
        return time.monotonic() - started

    def test_synth(self):
        sizes = ["--set", "model.hidden_size=1024", "--set", "model.num_experts=32", "--set",
                 "experts.distributed.intermediate_size=512", "--set", "experts.shared.intermediate_size=512"]
        start = ["synth", DEEPSEEK, *sizes, "--format", "fp8", "--shard-bytes", "8M", "--output", self.path("s")]
        whole = self.time_of(start + ["--seed", "1"])
        old = {name: content(self.path("s", name)) for name in os.listdir(self.path("s"))}
        self.succeed(*start[:-1], self.path("t"), "--seed", "2")
        new = {name: content(self.path("t", name)) for name in os.listdir(self.path("t"))}
        chance = random.Random(3)
        for point in range(POINTS):
            number = signal.SIGINT if point % 2 else signal.SIGTERM
            code = self.interrupt(start + ["--seed", "2"], chance.random() * whole, number)
            self.assertIn(code, (0, -number))
            found = {name: content(self.path("s", name)) for name in os.listdir(self.path("s"))}
            self.assertEqual(found, new if found != old else old)
            if found == new:
                self.succeed(*start, "--seed", "1")
        code = self.interrupt(start[:-1] + [self.path("fresh"), "--seed", "2"], 0.3 * whole, signal.SIGTERM)
        if code and os.path.isdir(self.path("fresh")):
            self.assertIn(sorted(os.listdir(self.path("fresh"))), ([], sorted(new)))

    def test_run(self):
        whole = self.time_of(self.run_arguments(output=self.path("z.npy")))
        complete = content(self.path("z.npy"))
        chance = random.Random(4)
        for point in range(POINTS):
            number = signal.SIGINT if point % 2 else signal.SIGTERM
            code = self.interrupt(self.run_arguments(), chance.random() * whole, number)
            self.assertIn(code, (0, -number))
            self.assertIn(content(self.y), (b"what was here before", complete))
            self.assert_no_temporaries(self.folder)

    def test_ignored_signals_stay_ignored(self):
        """As under nohup."""
        def ignore():
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        process = subprocess.Popen([CLI, *self.run_arguments()], stdout=subprocess.PIPE, env=environment(),
                                   preexec_fn=ignore)
        process.send_signal(signal.SIGHUP)
        process.communicate(timeout=60)
        self.assertEqual(process.returncode, 0)
        self.assertEqual(read_npy(self.y)[1], (8, 128))


if __name__ == "__main__":
    main()
