# SPDX-License-Identifier: Apache-2.0
"""`moeblock route`: the choices of `run` without its experts, load files, placements that are better and change no bits."""
import json
import os
import xml.etree.ElementTree

from cli_support import CliTest, content, main, read_npy

CASE = "deepseek_v3-bf16"


class Route(CliTest):
    def arguments(self, case=CASE):
        folder, facts = self.golden(case)
        return [folder, "--layer", facts["layer"], "--input", os.path.join(folder, "input.npy")], facts

    def test_choices_are_those_of_run(self):
        for case in (CASE, "gpt_oss_mxfp4", "longcat_flash-bf16", "nemotron_h_latent-bf16"):
            with self.subTest(case):
                arguments, facts = self.arguments(case)
                document = self.json_of("route", *arguments, "--router-out", self.path("route"))
                self.succeed("run", *arguments, "--router-out", self.path("run"))
                for name in ("ids", "weights"):
                    self.assertEqual(content(self.path(f"route_{name}.npy")), content(self.path(f"run_{name}.npy")))
                ids = read_npy(self.path("run_ids.npy"))[2]
                counts = [ids.count(expert) for expert in range(document["num_experts"])]
                self.assertEqual(document["expert_load"], counts)
                self.assertEqual(document["tokens"], facts["tokens"])
                self.assertAlmostEqual(document["imbalance"], max(counts) * len(counts) / sum(counts), places=6)

    def test_only_the_router_is_read(self):
        folder = self.synth("model")
        document = self.json_of("route", folder, "--layer", 3, "--input", os.path.join(folder, "input.npy"))
        router = 16 * 128 * 4 + 16 * 4  # at most: float32 weights and a bias
        self.assertLess(document["bytes_read"], router + 40000)  # and the header
        self.assertLess(document["bytes_read"], os.path.getsize(os.path.join(folder, "model.safetensors")) / 4)

    def test_placement_is_better_and_can_be_used(self):
        arguments, facts = self.arguments()
        load, table, plot = self.path("load.json"), self.path("table.json"), self.path("plot.svg")
        document = self.json_of("route", *arguments, "--mesh", "4x2", "--copies", 1, "--output", load,
                                "--placement", table, "--plot", plot)
        mesh = document["mesh"]
        self.assertLess(mesh["balanced"]["imbalance"], mesh["now"]["imbalance"])
        for placed in (mesh["now"], mesh["balanced"]):
            self.assertAlmostEqual(sum(placed["rows"]), facts["tokens"] * facts["k"], places=6)
        self.assertLessEqual(max(mesh["balanced"]["experts"]), 16 // 4 + 1)
        with open(load, encoding="utf-8") as file:
            self.assertEqual(json.load(file)["counts"], document["expert_load"])
        again = self.json_of("route", *arguments, "--mesh", "4x2", "--set", f"mesh.placement={table}")
        self.assertEqual(again["mesh"]["now"]["rows"], mesh["balanced"]["rows"])
        self.fail_with(78, [table, "4 ranks", "on 3"], "route", *arguments, "--mesh", "3x1", "--set",
                       f"mesh.placement={table}")
        self.assertEqual(xml.etree.ElementTree.parse(plot).getroot().tag, "{http://www.w3.org/2000/svg}svg")
        self.assert_no_temporaries(self.folder)

    def test_copies_fit_the_memory(self):
        arguments, _ = self.arguments()
        one = self.json_of("route", *arguments, "--mesh", "4x2")["mesh"]["expert_bytes"]
        for copies in (0, 1, 2):
            mesh = self.json_of("route", *arguments, "--mesh", "4x2", "--copy-memory", one * copies + one // 2)["mesh"]
            self.assertEqual(mesh["copies_allowed"], copies)
            self.assertLessEqual(max(mesh["balanced"]["experts"]), 4 + copies)

    def test_text(self):
        arguments, facts = self.arguments()
        out = self.succeed("route", *arguments, "--mesh", "2x1").stdout
        self.assertIn(f"{facts['tokens']} tokens to {facts['k']} of 16 experts", out)
        self.assertIn("experts by load, in multiples of the mean", out)
        self.assertIn("max / mean", out)
        self.assertEqual(self.succeed("route", *arguments, "--quiet").stdout, "")

    def test_what_is_wrong_is_named(self):
        arguments, _ = self.arguments()
        for mesh in ("4", "0x1", "4x", "x4", "4x2x1", "4x2,1x1", "99999x1", "4 x2", "-1x2"):
            self.fail_with(64, ["--mesh", mesh], "route", *arguments, f"--mesh={mesh}")
        self.fail_with(64, ["--placement", "--mesh"], "route", *arguments, "--placement", self.path("p.json"))
        self.fail_with(64, ["--copy-memory"], "route", *arguments, "--mesh", "2x1", "--copies", 1, "--copy-memory", "1M")
        self.fail_with(78, ["routed"], "route", *arguments, "--set", "experts.distributed.enabled=false")
        self.fail_with(66, ["nothing.npy"], "route", *arguments[:3], "--input", "nothing.npy")


if __name__ == "__main__":
    main()
