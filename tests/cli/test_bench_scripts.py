# SPDX-License-Identifier: Apache-2.0
"""The scripts of bench/: the table of a bench document, and the comparison of a build with itself."""
import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys

from cli_support import CONFIGS, ROOT, SMALL_DEEPSEEK, CliTest, main

BENCH = os.path.join(ROOT, "bench")
BUILD = os.environ.get("MOEBLOCK_BUILD_DIR", os.path.join(ROOT, "build", "release"))


def script(name):
    """A script of bench/ as a module."""
    sys.path.insert(0, BENCH)
    loader = importlib.machinery.SourceFileLoader(name, os.path.join(BENCH, name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    sys.dont_write_bytecode = True
    loader.exec_module(module)
    return module


def sanitized():
    """Whether the library needs a sanitizer's runtime, which python does not bring."""
    with open(os.path.join(BUILD, "CMakeCache.txt"), encoding="utf-8") as file:
        return any(line.startswith("MOEBLOCK_SANITIZE") and line.strip().split("=", 1)[1] for line in file)


class Table(CliTest):
    def test_rows_targets_and_marks(self):
        document = self.json_of("bench", os.path.join(CONFIGS, "deepseek_v3.json"), *SMALL_DEEPSEEK, "--tokens", "1,2",
                                "--threads", "1", "--repeat", 1, "--format", "bf16", "--compute", "bf16")
        document["cases"][0]["roofline_share"] = 1.10
        document["published_experts"] = 256
        source, page = self.path("one.json"), self.path("page.md")
        with open(source, "w", encoding="utf-8") as file:
            json.dump(document, file)
        with open(page, "w", encoding="utf-8") as file:
            file.write("before\n<!-- bench -->\nstale rows\n<!-- end bench -->\nafter\n"
                       "<!-- bench other -->\nanother machine\n<!-- end bench other -->\n")
        command = [sys.executable, os.path.join(BENCH, "table")]
        subprocess.run([*command, "--into", page, source], check=True)
        with open(page, encoding="utf-8") as file:
            text = file.read()
        self.assertTrue(text.startswith("before\n<!-- bench -->\n"))
        self.assertTrue(text.endswith("<!-- end bench -->\nafter\n<!-- bench other -->\nanother machine\n"
                                      "<!-- end bench other -->\n"))
        self.assertNotIn("stale rows", text)
        self.assertIn("**deepseek_v3, bf16, bf16 compute (16 of 256 experts)**", text)
        self.assertIn("above the limit, which moved between", text)
        self.assertEqual(sum(line.startswith(("| 1 |", "| 2 |")) for line in text.split("\n")), 2)

    def test_peers(self):
        row = {"tokens": 8, "seconds": {"moeblock": 0.002, "eager": 0.005, "grouped_mm": 0.003}, "ratio": 1.5,
               "fastest_path": "grouped_mm", "difference": {"eager": 0.01, "grouped_mm": 0.02}}
        text = script("table").render_peers([{"model": "m", "experts": 4, "threads": 2, "torch": "t",
                                              "transformers": "f", "level": "l", "rows": [row]}])
        self.assertIn("| m, 4 experts | 2 | 8 | 2 | 5 |  | 3 | 1.50 (grouped_mm) | 0.02 |", text)

    def test_targets(self):
        target_of = script("table").target_of
        for config, form, tokens, kind, share in (
                ("qwen3_30b_a3b", "bf16", 512, "dot", 0.75), ("mixtral_8x7b", "bf16", 512, "dot", 0.88),
                ("gpt_oss_20b", "mxfp4", 32, "dot", 0.70), ("deepseek_v3", "fp8", 32, "dot", 0.80),
                ("deepseek_v3", "fp8", 32, "fma", 0.70), ("mixtral_8x7b", "bf16", 2048, "dot", None),
                ("qwen3_30b_a3b", "f32", 128, "fma", None)):
            self.assertEqual(target_of({"config": config, "format": form, "tokens": tokens}, kind), share)
        for kind, tokens, share in (("fma", 1, 0.80), ("fma", 512, None), ("dot", 1, None)):
            case = {"config": "gpt_oss_20b", "format": "mxfp4", "tokens": tokens, "compute": "int16"}
            self.assertEqual(target_of(case, kind), share)

    def test_int16_beside_the_multiply_add(self):
        table = script("table")
        limits = {"dot_instruction": "64-byte float32 multiply-add", "dot_gflops": 300.0}
        plain = {"cases": [{"compute": "bf16", "threads": 2, "tokens": 512, "limits": limits}]}
        integers = {"cases": [{"compute": "int16", "threads": 2, "tokens": tokens, "gflops": 420.0,
                               "limits": {"dot_instruction": "64-byte int16 dot product", "dot_gflops": 600.0}}
                              for tokens in (1, 512)]}
        rates = table.multiply_adds([plain, integers])
        self.assertEqual(rates, {2: 300.0})
        self.assertEqual(list(table.over_multiply_add(integers, rates)),
                         ["T = 512 on 2: 1.40 times the float32 multiply-add (target 1.35)."])


class Regress(CliTest):
    def test_bounds_of_a_median(self):
        interval = script("regress").interval
        self.assertEqual(interval([1.0, 3.0, 2.0]), (1.0, 3.0))
        # n = 9: the 2nd and the 8th value hold the median with 96 %; n = 75: the 29th and the 47th with 96 %.
        self.assertEqual(interval(list(range(1, 10))), (2, 8))
        self.assertEqual(interval(list(range(1, 76))), (29, 47))

    def test_a_build_beside_itself(self):
        if sanitized():
            self.skipTest("the library is built with a sanitizer")
        command = [sys.executable, os.path.join(BENCH, "regress"), BUILD, BUILD, "--cases", "deepseek_v3:bf16:2",
                   "--threads", "1", "--limit", "200", *SMALL_DEEPSEEK]
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("same bits", result.stdout)
        self.assertNotIn("SLOWER", result.stdout)

    def test_a_folder_without_a_build(self):
        result = subprocess.run([sys.executable, os.path.join(BENCH, "regress"), self.folder, self.folder],
                                capture_output=True, text=True, check=False)
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("has no libmoeblock.so", result.stderr)


if __name__ == "__main__":
    main()
