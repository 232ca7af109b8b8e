# SPDX-License-Identifier: Apache-2.0
"""`moeblock run` on golden cases: numbers checked again here, inputs and outputs of every kind."""
import json
import os
import shutil

from cli_support import CliTest, content, environment, main, read_npy, relative_rms, run, write_npy

F32, BF16 = "mixtral-f32", "deepseek_v3-bf16"


class Golden(CliTest):
    def check(self, case, *more, limit=None):
        folder, facts = self.golden(case)
        y, prefix = self.path("y.npy"), self.path("r")
        document = self.json_of("run", folder, "--layer", facts["layer"], "--input", os.path.join(folder, "input.npy"),
                                "--output", y, "--router-out", prefix, "--compare",
                                os.path.join(folder, "expected.npy"), "--show", 2, *more)
        descr, shape, values = read_npy(y)
        self.assertEqual((descr, shape), ("<f4", (facts["tokens"], facts["hidden"])))
        expected = read_npy(os.path.join(folder, "expected.npy"))[2]
        error = relative_rms(values, expected)
        if limit is None:
            limit = 1e-5 if facts["weights"] in ("f32", "f16") else max(facts["original_bf16_rel_rms"] or 0, 4e-3)
        self.assertLessEqual(error, limit)
        self.assertAlmostEqual(document["compare"]["relative_rms"], error, delta=1e-6 * error + 1e-12)
        self.assertGreater(document["compare"]["correlation"], 0.9999)
        self.check_router(folder, facts, prefix)
        self.assertEqual(len(document["ids"]), 2)
        self.assertGreaterEqual(document["first_forward_seconds"], document["load_seconds"] + document["seconds"])
        self.assertEqual(sum(document["expert_load"]), facts["tokens"] * facts["k"])
        return document

    def check_router(self, folder, facts, prefix):
        descr, shape, ids = read_npy(prefix + "_ids.npy")
        self.assertEqual((descr, shape), ("<i4", (facts["tokens"], facts["k"])))
        descr, shape, weights = read_npy(prefix + "_weights.npy")
        self.assertEqual((descr, shape), ("<f4", (facts["tokens"], facts["k"])))
        expected_ids = read_npy(os.path.join(folder, "expected_ids.npy"))[2]
        expected_weights = read_npy(os.path.join(folder, "expected_weights.npy"))[2]
        for row in range(0, len(ids), facts["k"]):
            end = row + facts["k"]
            self.assertEqual(list(weights[row:end]), sorted(weights[row:end], reverse=True))
            wanted = dict(zip(expected_ids[row:end], expected_weights[row:end]))
            self.assertEqual(set(ids[row:end]), set(wanted))
            for expert, weight in zip(ids[row:end], weights[row:end]):
                self.assertAlmostEqual(weight, wanted[expert], delta=1e-5 * abs(wanted[expert]))

    def test_cases(self):
        for case in (F32, "mixtral-f16", BF16, "deepseek_v3_fp8", "gpt_oss_mxfp4", "qwen2_moe-f32", "llama4-bf16",
                     "granitemoe-bf16", "nemotron_h-f32"):
            with self.subTest(case):
                self.check(case)

    def test_weights_dequantised_beside_an_old_config(self):
        folder, facts = self.golden(BF16)
        self.check(BF16)
        before, copy = content(self.path("y.npy")), self.path("copy")
        shutil.copytree(folder, copy)
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
            config = json.load(file)
        config["quantization_config"] = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}
        with open(os.path.join(copy, "config.json"), "w", encoding="utf-8") as file:
            json.dump(config, file)
        arguments = ["run", copy, "--layer", facts["layer"], "--input", os.path.join(folder, "input.npy"), "--output",
                     self.path("z.npy")]
        self.fail_with(65, ["stored as bf16", "expects fp8 (from quantization_config)", "--set weights.format=auto"],
                       *arguments)
        self.succeed(*arguments, "--set", "weights.format=auto")
        self.assertEqual(content(self.path("z.npy")), before)

    def test_options_do_not_change_the_bytes(self):
        self.check(BF16)
        before = content(self.path("y.npy"))
        for more in (["--mode", "decode"], ["--threads", 1], ["--threads", 3], ["--level", "ref"],
                     ["--set", "chunking.prefill_chunk_size=3"]):
            self.check(BF16, *more)
            self.assertEqual(content(self.path("y.npy")), before, more)

    def test_compute_types(self):
        self.assertEqual(self.check(BF16, "--compute", "f32", limit=1e-5)["compute"], "f32")
        self.assertEqual(self.check(F32, "--compute", "bf16", limit=4e-3)["compute"], "bf16")
        self.assertEqual(self.check(F32)["compute"], "f32")

    def test_configurations(self):
        """config.json itself, our JSON with --weights, and our JSON beside the checkpoint."""
        folder, facts = self.golden(BF16)
        ours = self.succeed("config", folder, "--layer", facts["layer"]).stdout
        with open(self.path("ours.json"), "w", encoding="utf-8") as file:
            file.write(ours)
        outputs = []
        for start in ([os.path.join(folder, "config.json")], [self.path("ours.json"), "--weights", folder],
                      [self.path("ours.json"), "--set", f"weight_path={folder}"], [folder]):
            self.succeed("run", *start, "--layer", facts["layer"], "--input", os.path.join(folder, "input.npy"),
                         "--output", self.path("y.npy"), "--quiet")
            outputs.append(content(self.path("y.npy")))
        self.assertEqual(outputs, [outputs[0]] * 4)
        self.fail_with(66, ["--weights"], "run", self.path("ours.json"), "--input",
                       os.path.join(folder, "input.npy"), "--output", self.path("y.npy"))


class Arrays(CliTest):
    def setUp(self):
        super().setUp()
        self.case, self.facts = self.golden(F32)
        self.values = read_npy(os.path.join(self.case, "input.npy"))[2]
        self.tokens, self.hidden = self.facts["tokens"], self.facts["hidden"]

    def arguments(self, x="x.npy", y="y.npy"):
        return ["run", self.case, "--layer", self.facts["layer"], "--input", self.path(x), "--output", self.path(y)]

    def test_types_and_shapes(self):
        write_npy(self.path("x.npy"), "<f4", (self.tokens, self.hidden), self.values)
        self.succeed(*self.arguments())
        expected = read_npy(self.path("y.npy"))[2]
        for descr, shape in (("<f8", (self.tokens, self.hidden)), ("<f4", (1, self.tokens, 1, self.hidden)),
                             ("<f4", (1, 1, self.tokens, self.hidden))):
            write_npy(self.path("x.npy"), descr, shape, self.values)
            self.succeed(*self.arguments())
            self.assertEqual(read_npy(self.path("y.npy")), ("<f4", shape, expected))
        write_npy(self.path("x.npy"), "<f4", (self.hidden,), self.values[:self.hidden])
        self.succeed(*self.arguments())
        self.assertEqual(read_npy(self.path("y.npy")), ("<f4", (self.hidden,), expected[:self.hidden]))

    def test_no_tokens(self):
        write_npy(self.path("x.npy"), "<f4", (0, self.hidden), [])
        self.succeed(*self.arguments(), "--show", 3)
        self.assertEqual(read_npy(self.path("y.npy")), ("<f4", (0, self.hidden), ()))
        json.loads(self.succeed(*self.arguments(), "--json").stdout)

    def test_output_over_the_input(self):
        write_npy(self.path("x.npy"), "<f4", (self.tokens, self.hidden), self.values)
        self.succeed(*self.arguments())
        self.succeed(*self.arguments(y="x.npy"))
        self.assertEqual(content(self.path("x.npy")), content(self.path("y.npy")))

    def test_bad_inputs(self):
        for descr, shape, values, words in (
                ("<f4", (2, self.hidden - 1), [0.0] * 2 * (self.hidden - 1), ["[2, ", "hidden size"]),
                ("<i8", (1, self.hidden), [0] * self.hidden, ["I64", "float32"]),
                ("<f4", (), [0.0], ["[]"])):
            write_npy(self.path("x.npy"), descr, shape, values)
            self.fail_with(65, ["x.npy", *words], *self.arguments())
        self.fail_with(66, ["none.npy"], *self.arguments(x="none.npy"))
        for damage in (b"", b"\x93NUMPY", b"not an array at all", b"\x93NUMPY\x09\x00"):
            with open(self.path("x.npy"), "wb") as file:
                file.write(damage)
            self.fail_with(65, ["x.npy"], *self.arguments())

    def test_further_inputs_are_checked(self):
        write_npy(self.path("x.npy"), "<f4", (self.tokens, self.hidden), self.values)
        write_npy(self.path("ids.npy"), "<i8", (self.tokens,), range(self.tokens))
        write_npy(self.path("few.npy"), "<i8", (self.tokens - 1,), range(self.tokens - 1))
        write_npy(self.path("lens.npy"), "<i8", (2,), [self.tokens - 3, 3])
        write_npy(self.path("wide.npy"), "<i8", (self.tokens,), [1 << 40] * self.tokens)
        write_npy(self.path("negative.npy"), "<i8", (2,), [self.tokens + 1, -1])
        self.succeed(*self.arguments(), "--token-ids", self.path("ids.npy"), "--token-types", self.path("ids.npy"),
                     "--seq-lens", self.path("lens.npy"), "--aux", self.path("x.npy"))
        self.fail_with(65, ["few.npy", self.tokens], *self.arguments(), "--token-ids", self.path("few.npy"))
        self.fail_with(65, ["few.npy", self.tokens], *self.arguments(), "--token-types", self.path("few.npy"))
        self.fail_with(65, ["wide.npy", "32 bits"], *self.arguments(), "--token-types", self.path("wide.npy"))
        self.fail_with(65, ["ids.npy", self.tokens], *self.arguments(), "--seq-lens", self.path("ids.npy"))
        self.fail_with(65, ["negative.npy"], *self.arguments(), "--seq-lens", self.path("negative.npy"))
        self.fail_with(65, ["x.npy", "integers"], *self.arguments(), "--token-ids", self.path("x.npy"))


class Compare(CliTest):
    def setUp(self):
        super().setUp()
        self.case, self.facts = self.golden(F32)
        self.start = ["run", self.case, "--layer", self.facts["layer"], "--input",
                      os.path.join(self.case, "input.npy")]

    def test_tolerance(self):
        expected = os.path.join(self.case, "expected.npy")
        self.succeed(*self.start, "--compare", expected, "--tolerance", "1e-5")
        self.succeed(*self.start, "--compare", os.path.join(self.case, "input.npy"))
        strict = self.fail_beyond(expected, "--tolerance", "0")
        self.assertIn("relative rms", strict)
        json.loads(self.fail_beyond(os.path.join(self.case, "input.npy"), "--tolerance", "0.5", "--json"))

    def fail_beyond(self, reference, *more):
        result = run(*self.start, "--compare", reference, *more, "--output", self.path("y.npy"))
        self.assertEqual(result.returncode, 65)
        self.assertIn("moeblock: error: the output differs", result.stderr)
        self.assertTrue(os.path.exists(self.path("y.npy")))  # to look at
        return result.stdout

    def test_nan_in_the_reference(self):
        shape = (self.facts["tokens"], self.facts["hidden"])
        write_npy(self.path("nan.npy"), "<f8", shape, [float("nan")] * (shape[0] * shape[1]))
        document = json.loads(self.fail_beyond(self.path("nan.npy"), "--tolerance", "1", "--json"))
        self.assertIsNone(document["compare"]["relative_rms"])

    def test_other_shape(self):
        write_npy(self.path("one.npy"), "<f4", (1,), [0.0])
        self.fail_with(65, ["one.npy", "[1]"], *self.start, "--compare", self.path("one.npy"))


class Refusals(CliTest):
    def test_layers(self):
        folder, facts = self.golden(BF16)
        rest = ["--input", os.path.join(folder, "input.npy"), "--output", self.path("y.npy")]
        self.fail_with(78, ["layer"], "run", folder, "--layer", 0, *rest)
        self.fail_with(78, ["layer"], "run", folder, "--layer", 4000, *rest)
        self.assertFalse(os.path.exists(self.path("y.npy")))

    def test_mesh(self):
        folder, facts = self.golden(F32)
        rest = ["run", folder, "--layer", facts["layer"], "--input", os.path.join(folder, "input.npy"), "--output",
                self.path("y.npy")]
        self.succeed(*rest, "--mesh", "1x1")
        self.fail_with(64, ["2x2 needs 4 processes", "mpiexec -n 4"], *rest, "--mesh", "2x2")
        for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):
            self.fail_with(64, [name, "--mesh"], *rest, env={**environment(), name: "4"})
            self.succeed(*rest, env={**environment(), name: "1"})

    def test_missing_weights(self):
        folder, facts = self.golden(F32)
        rest = ["--layer", facts["layer"], "--input", os.path.join(folder, "input.npy"), "--output",
                self.path("y.npy")]
        self.fail_with(66, ["nowhere"], "run", folder, "--weights", self.path("nowhere"), *rest)
        self.fail_with(66, ["nowhere"], "run", self.path("nowhere"), *rest)

    def test_level(self):
        self.fail_with(64, ["warp"], "run", "c.json", "--input", "x", "--output", self.path("y"), "--level", "warp")


class Summary(CliTest):
    def test_text(self):
        folder, facts = self.golden(F32)
        arguments = ["run", folder, "--layer", facts["layer"], "--input", os.path.join(folder, "input.npy"),
                     "--output", self.path("y.npy")]
        text = self.succeed(*arguments, "--show", 2).stdout
        for words in ("token 0:", "token 1:", "expert load", "tokens/s", "peak memory"):
            self.assertIn(words, text)
        self.assertNotIn("token 2:", text)
        self.assertIn("tokens/s", self.succeed(*arguments).stdout)
        self.assertEqual(self.succeed(*arguments, "--quiet").stdout, "")


if __name__ == "__main__":
    main()
