# SPDX-License-Identifier: Apache-2.0
"""Options, help, man pages, completion: everything that comes out of the option table."""
import glob
import json
import os
import shutil
import subprocess
import unittest

from cli_support import CLI, COMMANDS, CONFIGS, CliTest, main


class Help(CliTest):
    def test_every_command_has_help_with_an_example(self):
        for command in COMMANDS:
            text = self.succeed(command, "--help").stdout
            self.assertIn(f"usage: moeblock {command}", text)
            self.assertIn(f"\nexample:\n  moeblock {command}", text)
            self.assertIn("exit status: 0 done, 64", text)
            self.assertFalse([line for line in text.split("\n") if line != line.rstrip()])

    def test_help_wins_over_errors(self):
        self.succeed("run", "--no-such-option", "--help")
        self.succeed("run", "-h")

    def test_program_help_lists_the_commands(self):
        text = self.succeed("--help").stdout
        for command in COMMANDS:
            self.assertIn(f"\n  {command} ", text)
        self.assertEqual(self.succeed("help", "run").stdout, self.succeed("run", "--help").stdout)

    def test_version(self):
        self.assertRegex(self.succeed("--version").stdout, r"^moeblock \d+\.\d+\.\d+\n$")

    def test_man_pages_name_every_option(self):
        for command in COMMANDS:
            page = self.succeed("--man", command).stdout
            self.assertTrue(page.startswith(".TH MOEBLOCK"))
            options = [line.split()[0][2:] for line in self.succeed(command, "--help").stdout.split("\n")
                       if line.startswith("  --")]
            for option in options:
                self.assertIn("\\-\\-" + option.replace("-", "\\-"), page)
        self.assertIn(".SH COMMANDS", self.succeed("--man").stdout)

    @unittest.skipUnless(shutil.which("bash"), "bash is not there")
    def test_completion_completes(self):
        script = self.succeed("--completion").stdout
        for words, expected in ((["moeblock", "in"], {"inspect", "info"}),
                                (["moeblock", "run", "--mo"], {"--mode"}),
                                (["moeblock", "run", "--mode", "de"], {"decode"})):
            command = script + f'\nCOMP_WORDS=({" ".join(words)}); COMP_CWORD={len(words) - 1}; _moeblock\n' \
                               'printf "%s\\n" "${COMPREPLY[@]}"'
            found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout
            self.assertEqual(set(found.split()), expected)


class Mistakes(CliTest):
    def test_no_command(self):
        self.fail_with(64, ["no command"])

    def test_unknown_command(self):
        self.fail_with(64, ["'rum'", "did you mean run?"], "rum")
        self.fail_with(64, ["'zzzzzzzz'"], "zzzzzzzz")

    def test_unknown_option(self):
        for command in COMMANDS:
            self.fail_with(64, [command, "'--frobnicate'"], command, "--frobnicate")
        self.fail_with(64, ["'--imput'", "did you mean --input?"], "run", "--imput", "x.npy")
        self.fail_with(64, ["'-x'", "two dashes"], "run", "-x")

    def test_missing_value(self):
        for option in ("input", "output", "layer", "mode", "set", "tolerance"):
            self.fail_with(64, [f"--{option} needs a value"], "run", "c.json", f"--{option}")
        self.fail_with(64, ["--input needs a value"], "run", "c.json", "--input", "--output", "y.npy")
        self.fail_with(64, ["--input", "''"], "run", "c.json", "--input", "")

    def test_value_for_a_flag(self):
        self.fail_with(64, ["--json takes no value"], "info", "--json=yes")

    def test_given_twice(self):
        for command, option, value in (("run", "input", "x.npy"), ("run", "layer", "1"), ("synth", "seed", "1"),
                                       ("bench", "tokens", "1"), ("validate", "layer", "0")):
            self.fail_with(64, [f"--{option} is given twice"], command, "c.json", f"--{option}", value,
                           f"--{option}={value}")
        self.fail_with(64, ["--json is given twice"], "info", "--json", "--json")

    def test_bad_values(self):
        for command, option, value in (
                ("run", "mode", "both"), ("run", "compute", "int4"), ("run", "layer", "-1"), ("run", "layer", "1.5"),
                ("run", "layer", "99999999999999999999"), ("run", "threads", "0"), ("run", "threads", "many"),
                ("run", "tolerance", "-1"), ("run", "tolerance", "nan"), ("run", "show", "-3"), ("run", "set", "x"),
                ("run", "set", "=x"), ("run", "mode", "prefill decode"), ("synth", "format", "int8"),
                ("synth", "seed", "-1"), ("synth", "shard-bytes", "5X"), ("synth", "shard-bytes", "0"),
                ("synth", "shard-bytes", "99999999999G"), ("synth", "tokens", "0"), ("bench", "tokens", "1,,2"),
                ("bench", "tokens", "1,"), ("bench", "tokens", ""), ("bench", "threads", "1,0"),
                ("bench", "repeat", "0"), ("bench", "tokens", ",".join(["1"] * 65))):
            self.fail_with(64, [f"--{option}", f"'{value}'"], command, "c.json", f"--{option}={value}")

    def test_bad_mesh_text(self):
        for value in ("2", "0x1", "2x", "axb", "1x1x1"):
            self.fail_with(64, ["--mesh", value], "run", "c.json", "--input", "x", "--output", "y", "--mesh", value)

    def test_contradictions(self):
        self.fail_with(64, ["--format", "--weights"], "bench", "c.json", "--format", "f32", "--weights", "w")
        self.fail_with(64, ["--tolerance", "--compare"], "run", "c.json", "--input", "x", "--tolerance", "1")

    def test_missing_arguments(self):
        self.fail_with(64, ["run needs CONFIG"], "run")
        self.fail_with(64, ["run needs --input"], "run", "c.json")
        self.fail_with(64, ["--output"], "run", "c.json", "--input", "x.npy")
        self.fail_with(64, ["synth needs --format"], "synth", "c.json")
        self.fail_with(64, ["inspect needs PATH"], "inspect")

    def test_too_many_arguments(self):
        self.fail_with(64, ["'b' is one argument too many"], "inspect", "a", "b")
        self.fail_with(64, ["info takes no arguments"], "info", "a")
        self.fail_with(64, ["one argument too many"], "inspect", *(["a"] * 10000))
        self.fail_with(64, ["--set"], "run", "c.json", *(["--set", "a=b"] * 5000))

    def test_terminal_sequences_are_escaped(self):
        result = self.fail_with(64, ["\\x1b"], "run", "c.json", "--\x1b[31m")
        self.assertNotIn("\x1b", result.stderr)

    def test_words_after_two_dashes_are_arguments(self):
        self.fail_with(66, ["--json"], "inspect", "--", "--json")


class Info(CliTest):
    def test_text_and_json(self):
        document = self.json_of("info")
        folder = os.path.dirname(os.path.realpath(CLI))
        built = [mpi for mpi in ("openmpi", "mpich") if glob.glob(os.path.join(folder, f"libmoeblock-mpi-{mpi}.so.*"))]
        self.assertEqual(document["mpi"], built)
        self.assertIn(f"\nmpi         {' '.join(built) or 'none: '}", self.succeed("info").stdout)
        self.assertIn(document["level"], [level["name"] for level in document["levels"] if level["usable"]])
        self.assertGreaterEqual(document["threads"], 1)
        self.assertEqual(self.json_of("info", "--threads", 3)["threads"], 3)

    def test_info_measures_each_level(self):
        document = self.json_of("info", "--measure", "--threads", 1)
        measured = document["measured"]
        usable = {level["name"] for level in document["levels"] if level["usable"]}
        self.assertEqual(set(measured["levels"]), usable)
        for rates in measured["levels"].values():
            self.assertGreater(min(rates["bf16_gflops"], rates["f32_gflops"]), 0)
        self.assertIn(measured["fastest_level"], usable)
        self.assertGreater(measured["dram_gbps"], 0)

    def test_levels(self):
        self.assertEqual(self.json_of("info", "--level", "ref")["level"], "ref")
        self.fail_with(64, ["warp"], "info", "--level", "warp")

    def test_quiet(self):
        self.assertEqual(self.succeed("info", "--quiet").stdout, "")


class Config(CliTest):
    def test_prints_what_it_reads_again(self):
        for name in sorted(os.listdir(CONFIGS)):
            text = self.succeed("config", os.path.join(CONFIGS, name)).stdout
            json.loads(text)
            with open(self.path("again.json"), "w", encoding="utf-8") as file:
                file.write(text)
            self.assertEqual(self.succeed("config", self.path("again.json"), "--json").stdout, text, name)

    def test_set_and_layer(self):
        path = os.path.join(CONFIGS, "mixtral_8x7b.json")
        printed = json.loads(self.succeed("config", path, "--set", "model.num_experts=4", "--layer", 5).stdout)
        self.assertEqual(printed["model"]["num_experts"], 4)

    def test_docs(self):
        self.assertIn("routed_scaling_factor", self.succeed("config", "--docs").stdout)
        self.fail_with(64, ["--docs"], "config", "--docs", "c.json")
        self.fail_with(64, ["--docs", "--json"], "config", "--docs", "--json")

    def test_failures(self):
        self.fail_with(66, ["nowhere.json"], "config", "nowhere.json")
        self.fail_with(64, ["CONFIG"], "config")
        path = os.path.join(CONFIGS, "mixtral_8x7b.json")
        self.fail_with(78, ["model.num_expert"], "config", path, "--set", "model.num_expert=4")
        self.fail_with(78, ["model.num_experts"], "config", path, "--set", "model.num_experts=0")
        with open(self.path("bad.json"), "w", encoding="utf-8") as file:
            file.write('{"model": ')
        self.fail_with(78, ["bad.json"], "config", self.path("bad.json"))
        with open(self.path("unknown.json"), "w", encoding="utf-8") as file:
            file.write('{"model_type": "no_such_model"}')
        self.fail_with(78, ["no_such_model"], "config", self.path("unknown.json"))


if __name__ == "__main__":
    main()
