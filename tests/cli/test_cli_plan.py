# SPDX-License-Identifier: Apache-2.0
"""`moeblock plan`: its bytes and memory counted again here, its time from its own rates, and what it recommends."""
import math
import os

from cli_support import CONFIGS, CliTest, main, read_npy, write_npy

HEADER, COUNT, PAIR = 32, 4, 8
HIDDEN, INNER, EXPERTS, TOP = 128, 64, 16, 4
SETTINGS = ["--set", f"model.hidden_size={HIDDEN}", "--set", f"model.num_experts={EXPERTS}",
            "--set", f"model.num_experts_per_tok={TOP}", "--set", f"experts.distributed.intermediate_size={INNER}",
            "--set", f"experts.shared.intermediate_size={INNER}"]
CONFIG = os.path.join(CONFIGS, "deepseek_v3.json")


def split(total, parts):
    """Lengths and begins of runs that differ by at most one, the longer ones first."""
    lengths = [total // parts + (i < total % parts) for i in range(parts)]
    return lengths, [sum(lengths[:i]) for i in range(parts)]


class Plan(CliTest):
    def plan(self, *arguments, config=CONFIG):
        return self.json_of("plan", config, *SETTINGS, "--layer", 3, *arguments)

    def test_bytes_of_given_ids(self):
        ids = [[(7 * t + 5 * j * j + j) % EXPERTS for j in range(TOP)] for t in range(21)]
        ids = [sorted(set(row) | set(range(EXPERTS)), key=lambda e, r=row: (e not in r, e))[:TOP] for row in ids]
        write_npy(self.path("ids.npy"), "<i4", (21, TOP), [e for row in ids for e in row])
        for rows, columns in ((1, 1), (3, 1), (2, 2), (1, 3), (5, 4)):
            with self.subTest(mesh=f"{rows}x{columns}"):
                document = self.plan("--mesh", f"{rows}x{columns}", "--tokens", 21, "--routing", self.path("ids.npy"),
                                     "--dtype", "f32", "--mode", "decode")
                mesh, expected = document["meshes"][0], self.count(ids, rows, columns)
                self.assertEqual(mesh["sharded"], columns > 1 and HIDDEN % columns == 0)
                for step, ranks in expected.items():
                    found = mesh["steps"][step]
                    self.assertAlmostEqual(found["sent_mean"], sum(ranks) / len(ranks), places=3, msg=step)
                    self.assertEqual(found["sent_worst"], max(ranks), step)

    def count(self, ids, rows, columns):
        """Bytes that each rank sends in each step, straight from the definition."""
        owned, first = split(EXPERTS, rows)
        owner = [r for r in range(rows) for _ in range(owned[r])]
        tokens, begin = split(len(ids), rows)
        width, inner = split(HIDDEN, columns)[0], split(INNER, columns)[0]
        slots = [[0] * rows for _ in range(rows)]
        lines = [[0] * rows for _ in range(rows)]
        for home in range(rows):
            for token in ids[begin[home]:begin[home] + tokens[home]]:
                for rank in range(rows):
                    here = sum(owner[e] == rank for e in token)
                    slots[home][rank] += here
                    lines[home][rank] += here > 0
        sharded = columns > 1 and HIDDEN % columns == 0
        steps = {name: [] for name in ("input", "dispatch", "activations", "combine", "output")}
        for home in range(rows):
            others = [r for r in range(rows) if r != home]
            far = sum(slots[r][home] for r in others)
            for c in range(columns):
                peers = columns - 1
                gathers = 3 if rows > 1 else 2
                values = (slots[home][home] + far + tokens[home]) * inner[c] * 2  # own, received, shared expert
                x = peers * (HEADER + tokens[home] * width[c] * 4)
                steps["input"].append(x if sharded else 0)
                steps["output"].append(0 if sharded else x)
                steps["activations"].append(peers * (gathers * HEADER + values))
                steps["dispatch"].append(sum(HEADER + lines[home][r] * (HIDDEN * 2 + COUNT) + slots[home][r] * PAIR
                                             for r in others))
                steps["combine"].append(sum(HEADER + slots[r][home] * width[c] * 2 for r in others))
        return steps

    def test_memory_is_that_of_a_run(self):
        folder = self.synth("model")
        run = self.json_of("run", folder, "--layer", 3, "--input", os.path.join(folder, "input.npy"), "--output",
                           self.path("y.npy"))
        planned = self.json_of("plan", folder, "--layer", 3, "--mesh", "1x1,4x2", "--tokens", 8, "--format", "fp8")
        one, many = planned["meshes"]
        self.assertEqual(one["weight_bytes"], run["packed_bytes"])
        self.assertLess(many["weight_bytes"], one["weight_bytes"])
        self.assertEqual((one["experts_most"], many["experts_most"]), (16, 4))

    def test_time_follows_from_the_rates(self):
        mesh = "--mesh", "4x2", "--tokens", 64
        base = self.plan(*mesh, "--alpha", 0, "--beta", 1)["meshes"][0]
        twice = self.plan(*mesh, "--alpha", 0, "--beta", 2)["meshes"][0]
        for step in ("input", "dispatch", "activations", "combine"):
            self.assertAlmostEqual(base["seconds"][step], 2 * twice["seconds"][step])
            most = max(base["steps"][step]["sent_worst"], base["steps"][step]["received_worst"])
            self.assertAlmostEqual(base["seconds"][step], most / 1e9)
        self.assertEqual(base["seconds"]["own"], twice["seconds"]["own"])
        slow = self.plan(*mesh, "--gflops", 0.001)["meshes"][0]
        self.assertIn(slow["dominant"], ("own", "far"))
        late = self.plan(*mesh, "--alpha", 1000000)["meshes"][0]
        self.assertIn(late["dominant"], ("dispatch", "activations", "combine"))
        self.assertAlmostEqual(late["seconds"]["dispatch"], 3, delta=0.01)
        parts = base["seconds"]
        total = sum(value for name, value in parts.items() if name != "total") - min(parts["dispatch"], parts["own"])
        self.assertAlmostEqual(parts["total"], total)

    def test_routing(self):
        folder, facts = self.golden("deepseek_v3-bf16")
        x, load = os.path.join(folder, "input.npy"), self.path("load.json")
        self.succeed("route", folder, "--layer", facts["layer"], "--input", x, "--output", load, "--router-out",
                     self.path("r"))
        common = ("plan", folder, "--layer", facts["layer"], "--mesh", "4x1", "--tokens")
        ids = read_npy(self.path("r_ids.npy"))
        measured = self.json_of(*common, ids[1][0], "--routing", self.path("r_ids.npy"))["meshes"][0]
        routed = self.json_of("route", folder, "--layer", facts["layer"], "--input", x, "--mesh", "4x1")["mesh"]["now"]
        self.assertAlmostEqual(measured["imbalance"], routed["imbalance"])
        drawn = self.json_of(*common, 4096, "--routing", load)["meshes"][0]
        self.assertAlmostEqual(drawn["imbalance"], routed["imbalance"], delta=0.3)
        uniform = self.json_of(*common, 4096)["meshes"][0]
        self.assertLess(uniform["imbalance"], 1.1)
        # Groups that the router drops are dropped in made-up choices, too: fewer ranks a token.
        wide = self.plan("--mesh", "8x1", "--tokens", 2048)["meshes"][0]
        free = self.plan("--mesh", "8x1", "--tokens", 2048, "--set", "router.config.topk_group=8")["meshes"][0]
        self.assertLess(wide["steps"]["dispatch"]["sent_mean"], free["steps"]["dispatch"]["sent_mean"])
        expected = 7 / 8 * 8 * (1 - math.comb(EXPERTS - 2, TOP) / math.comb(EXPERTS, TOP))  # distinct other ranks
        rows = (free["steps"]["dispatch"]["sent_mean"] - 7 * HEADER - 256 * PAIR * TOP * 7 / 8) / 256 / (2 * HIDDEN + COUNT)
        self.assertAlmostEqual(rows, expected, delta=0.1)

    def test_copies_are_used(self):
        folder, facts = self.golden("deepseek_v3-bf16")
        x, table = os.path.join(folder, "input.npy"), self.path("table.json")
        self.succeed("route", folder, "--layer", facts["layer"], "--input", x, "--mesh", "4x1", "--copies", 2,
                     "--placement", table, "--router-out", self.path("r"))
        common = ("plan", folder, "--layer", facts["layer"], "--mesh", "4x1", "--tokens", facts["tokens"], "--routing",
                  self.path("r_ids.npy"))
        before = self.json_of(*common)["meshes"][0]
        after = self.json_of(*common, "--set", f"mesh.placement={table}")["meshes"][0]
        self.assertLess(after["imbalance"], before["imbalance"])
        self.assertGreaterEqual(after["weight_bytes"], before["weight_bytes"])

    def test_recommendation(self):
        document = self.plan("--mesh", "1x1,2x1,4x1", "--tokens", 4096, "--gflops", 1)
        times = [mesh["seconds"]["total"] for mesh in document["meshes"]]
        self.assertEqual(document["recommended"], times.index(min(times)))
        self.assertEqual(times, sorted(times, reverse=True))
        text = self.succeed("plan", CONFIG, "--mesh", "32x8,256x1", "--tokens", 4096, "--format", "fp8").stdout
        for words in ("32x8", "recommended: ", "in all 58 layers", "assumed of each rank", "rows of others"):
            self.assertIn(words, text)
        small = self.json_of("plan", CONFIG, "--mesh", "1x1,32x8", "--tokens", 8, "--format", "fp8", "--memory", "16G")
        self.assertEqual([mesh["fits"] for mesh in small["meshes"]], [False, True])
        self.assertEqual(small["recommended"], 1)
        none = self.json_of("plan", CONFIG, "--mesh", "1x1", "--tokens", 8, "--format", "fp8", "--memory", "16G")
        self.assertIsNone(none["recommended"])

    def test_any_mesh(self):
        document = self.plan("--mesh", "1x1,1x7,7x1,40x3,300x1,1x128", "--tokens", 10)
        self.assertEqual([mesh["experts_least"] for mesh in document["meshes"]], [16, 16, 2, 0, 0, 16])
        swapped = self.plan("--mesh", "2x4", "--tokens", 10, "--set", "tensor_parallel.cluster_axis=0", "--set",
                            "experts.distributed.dispatch_cluster_axis=1")["meshes"][0]
        self.assertEqual((swapped["expert_parallel"], swapped["tensor_parallel"]), (4, 2))
        alone = self.plan("--mesh", "2x4", "--tokens", 10, "--set", "expert_parallel.enabled=false")["meshes"][0]
        self.assertEqual((alone["expert_parallel"], alone["experts_most"]), (1, 16))
        same = self.plan("--mesh", "2x4", "--tokens", 10, "--set", "replicated_batch_mode=true")["meshes"][0]
        self.assertEqual((same["tokens"], same["steps"]["dispatch"]["sent_worst"]), (10, HEADER))

    def test_what_is_wrong_is_named(self):
        self.fail_with(64, ["--mesh"], "plan", CONFIG, "--tokens", 8)
        self.fail_with(64, ["--tokens"], "plan", CONFIG, "--mesh", "1x1")
        self.fail_with(64, ["1x1,", "16 shapes"], "plan", CONFIG, "--mesh", "1x1,", "--tokens", 8)
        self.fail_with(64, ["9000"], "plan", CONFIG, "--mesh", "9000x1", "--tokens", 8)
        self.fail_with(64, ["--format", "fp7"], "plan", CONFIG, "--mesh", "1x1", "--tokens", 8, "--format", "fp7")
        self.fail_with(66, ["none.json"], "plan", CONFIG, "--mesh", "1x1", "--tokens", 8, "--routing", "none.json")
        self.fail_with(78, ["same axis"], "plan", CONFIG, "--mesh", "2x1", "--tokens", 8, "--set",
                       "tensor_parallel.cluster_axis=0")
        write_npy(self.path("ids.npy"), "<i4", (2, 8), [256] * 16)
        self.fail_with(65, ["256", "token 0"], "plan", CONFIG, "--mesh", "1x1", "--tokens", 8, "--routing",
                       self.path("ids.npy"))
        with open(self.path("load.json"), "w", encoding="utf-8") as file:
            file.write('{"schema": "moeblock.load/1", "counts": [1, 2]}')
        self.fail_with(65, ["2 experts", "256"], "plan", CONFIG, "--mesh", "1x1", "--tokens", 8, "--routing",
                       self.path("load.json"))


if __name__ == "__main__":
    main()
