# SPDX-License-Identifier: Apache-2.0
"""`moeblock bench`: its table and document, the arithmetic between their numbers, routings, variants, the plot, and
what it refuses."""
import os
import xml.etree.ElementTree

from cli_support import CONFIGS, SMALL_DEEPSEEK, CliTest, main, write_npy

DEEPSEEK = os.path.join(CONFIGS, "deepseek_v3.json")
SMALL = [DEEPSEEK, *SMALL_DEEPSEEK, "--repeat", 1]
HIDDEN, INNER, EXPERTS, TOP_K = 128, 64, 16, 8
FFN_FLOPS = 2 * 3 * HIDDEN * INNER


class Bench(CliTest):
    def test_document_and_plot(self):
        plot = self.path("roof.svg")
        document = self.json_of("bench", *SMALL, "--format", "bf16", "--tokens", "1,5", "--threads", "1,2", "--plot",
                                plot)
        cases = document["cases"]
        self.assertEqual([(one["tokens"], one["threads"], one["runs"]) for one in cases],
                         [(1, 1, 1), (5, 1, 1), (1, 2, 1), (5, 2, 1)])
        for key in ("dram_gbps", "dot_gflops"):
            self.assertGreater(document["limits"][key], 0)
        self.assertTrue(document["machine"]["cpu"])
        self.assertTrue(document["outputs_equal"])
        for one in cases:
            self.check_case(one)
        self.check_one_token(cases[0])
        self.check_plot(plot)

    def check_case(self, one):
        self.assertEqual((one["config"], one["format"], one["scope"]), ("deepseek_v3", "bf16", "block"))
        self.assertGreaterEqual(one["p95_s"], one["median_s"])
        self.assertAlmostEqual(one["tokens_per_s"] * one["median_s"], one["tokens"])
        self.assertAlmostEqual(one["roofline_share"] * one["median_s"], one["roofline_s"])
        limits = one["limits"]
        by_memory = one["weight_gbps"] * one["median_s"] / limits["dram_gbps"]
        by_peak = one["gflops"] * one["median_s"] / limits["dot_gflops"]
        self.assertAlmostEqual(one["roofline_s"] / max(by_memory, by_peak), 1)
        self.assertEqual(one["bound"], "memory" if by_memory >= by_peak else "compute")
        for key in ("dram_gbps", "dot_gflops"):
            self.assertLessEqual(limits[key + "_lowest"], limits[key])
            self.assertGreaterEqual(limits[key + "_highest"], limits[key])

    def check_one_token(self, one):
        """Router and shared expert count."""
        self.assertEqual(one["flops"], (TOP_K + 1) * FFN_FLOPS + 2 * HIDDEN * EXPERTS)
        weights = (TOP_K + 1) * 3 * HIDDEN * INNER * 2 + EXPERTS * HIDDEN * 2 + EXPERTS * 4
        self.assertAlmostEqual(one["weight_bytes"] / weights, 1, delta=0.01)  # rounded up to whole lines
        self.assertEqual(one["active_experts"], TOP_K)

    def check_plot(self, path):
        root = xml.etree.ElementTree.parse(path).getroot()
        space = "{http://www.w3.org/2000/svg}"
        self.assertEqual(root.tag, space + "svg")
        self.assertEqual(len(root.findall(space + "circle")), 4)
        self.assertEqual(len(root.findall(space + "polyline")), 2)
        labels = [text.text for text in root.findall(space + "text")]
        self.assertEqual((labels.count("T=1"), labels.count("T=5")), (2, 2))
        width, height = float(root.get("width")), float(root.get("height"))
        for circle in root.findall(space + "circle"):
            self.assertTrue(0 < float(circle.get("cx")) < width and 0 < float(circle.get("cy")) < height)

    def test_a_plot_that_cannot_be_written(self):
        self.fail_with(74, ["none"], "bench", *SMALL, "--tokens", 1, "--plot", self.path("none/roof.svg"))

    def test_given_routings_run_the_experts_alone(self):
        ids = self.path("ids.npy")
        write_npy(ids, "<i4", (2, 2), [3, 5, 3, -1])
        one, = self.json_of("bench", *SMALL, "--format", "bf16", "--tokens", "4", "--threads", "1", "--routing",
                            ids)["cases"]
        self.assertEqual((one["scope"], one["active_experts"], one["flops"]), ("experts", 2, 6 * FFN_FLOPS))

    def test_skewed_routing_wakes_fewer_experts(self):
        active = {}
        for routing in ("uniform", "skewed"):
            one, = self.json_of("bench", DEEPSEEK, *SMALL_DEEPSEEK, "--set", "model.num_experts=128", "--format",
                                "bf16", "--tokens", "16", "--threads", "1", "--repeat", 8, "--routing",
                                routing)["cases"]
            active[routing] = one["active_experts"]
            self.assertEqual(one["flops"], 16 * TOP_K * FFN_FLOPS)
        self.assertAlmostEqual(active["uniform"], 128 * (1 - (1 - 8 / 128) ** 16), delta=6)
        self.assertLess(active["skewed"], 0.85 * active["uniform"])

    def test_bad_routings(self):
        ids = self.path("ids.npy")
        write_npy(ids, "<i4", (1, 2), [3, 16])
        self.fail_with(65, ["ids.npy", "16"], "bench", *SMALL, "--tokens", 1, "--routing", ids)
        write_npy(ids, "<f4", (1, 2), [3, 4])
        self.fail_with(65, ["ids.npy", "F32", "integers"], "bench", *SMALL, "--tokens", 1, "--routing", ids)
        self.fail_with(66, ["nothing"], "bench", *SMALL, "--tokens", 1, "--routing", "nothing")

    def test_variants_of_a_key(self):
        result = self.json_of("bench", *SMALL, "--tokens", "1,3", "--threads", "2", "--compare",
                              "experts.shared.parallel_with_moe=true,false")
        self.assertTrue(result["outputs_equal"])
        settings = ["experts.shared.parallel_with_moe=" + value for value in ("true", "false")]
        self.assertEqual([one["setting"] for one in result["cases"]], settings * 2)
        self.fail_with(64, ["--compare", "KEY.PATH=A,B"], "bench", *SMALL, "--compare", "router.type")
        self.fail_with(64, ["shape"], "bench", *SMALL, "--tokens", 1, "--compare", "model.num_experts=16,32")
        self.fail_with(78, ["router.type"], "bench", *SMALL, "--tokens", 1, "--compare", "router.type=moe_gate,none")

    def test_text(self):
        model = self.synth("model")
        text = self.succeed("bench", model, "--weights", model, "--tokens", 2, "--repeat", 1, "--compare",
                            "router.config.routed_scaling_factor=1,2").stdout
        for words in (model, "layer 3", "median ms", "share", "routed_scaling_factor=2", "differ in bits"):
            self.assertIn(words, text)

    def test_a_layer_too_large_for_the_memory(self):
        result = self.fail_with(71, ["memory", "--set model.num_experts="], "bench", DEEPSEEK, "--format", "f32", "--set",
                                "model.num_experts=4096")
        experts = int(result.stderr.split("model.num_experts=")[1].split()[0])
        self.assertTrue(8 <= experts < 4096)


if __name__ == "__main__":
    main()
