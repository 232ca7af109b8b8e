# SPDX-License-Identifier: Apache-2.0
"""The further run-time inputs: what is missing or wrong is named; a capacity counts by sequence and never by chunk; a
sequence alone gives the bytes that it has in a batch; router states and token types go with their rows."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "cli"))
import cli_support  # noqa: E402
from cli_support import CliTest, content, read_npy, write_npy  # noqa: E402

SWITCH, ZAYA, FIRST = "switch_transformers_capacity-bf16", "zaya-bf16", "zaya_first-bf16"
HASH, BANKS, GEMMA = "deepseek_v4_hash-bf16", "ernie4_5_vl_moe-bf16", "gemma4-bf16"


class Inputs(CliTest):
    def run_case(self, case, *more, files=None, rows=None):
        """Runs a golden case on some of its rows; the further inputs are cut with them. -> y, ids, weights as rows"""
        folder, described = self.golden(case)
        files = dict(files or {})
        first, last = rows or (0, described["tokens"])
        for name in ("input", "token_ids", "token_types", "aux", "router_state_in"):
            path = os.path.join(folder, name + ".npy")
            option = {"router_state_in": "router-state"}.get(name, name.replace("_", "-"))
            if option in files or not os.path.exists(path):
                continue
            descr, shape, values = read_npy(path)
            width = len(values) // shape[0]
            files[option] = self.path(name + ".npy")
            write_npy(files[option], descr, (last - first, *shape[1:]), values[first * width:last * width])
        options = [part for name, path in files.items() if path for part in ("--" + name, path)]
        self.succeed("run", folder, "--layer", described["layer"], *options, "--output", self.path("y.npy"),
                     "--router-out", self.path("r"), *more)
        return [rows_of(self.path(name)) for name in ("y.npy", "r_ids.npy", "r_weights.npy")]

    def lens(self, *lengths):
        path = self.path("lens.npy")
        write_npy(path, "<i8", (len(lengths),), lengths)
        return path

    def test_capacity_is_by_sequence(self):
        folder, described = self.golden(SWITCH)
        lengths = read_npy(os.path.join(folder, "seq_lens.npy"))[2]
        whole = self.run_case(SWITCH, files={"seq-lens": self.lens(*lengths)})
        self.assertIn((-1,), whole[1], "nothing was dropped")
        for size in (1, 2, 3, 5):  # chunks cut sequences, the counts go on
            cut = self.run_case(SWITCH, "--set", f"chunking.moe_chunk_size={size}",
                                files={"seq-lens": self.lens(*lengths)})
            self.assertEqual(whole, cut, f"chunks of {size}")
        start = 0
        for length in lengths:  # alone = in the batch
            alone = self.run_case(SWITCH, files={"seq-lens": None}, rows=(start, start + length))
            self.assertEqual([part[start:start + length] for part in whole], alone)
            start += length
        empty = self.run_case(SWITCH, files={"seq-lens": self.lens(0, *lengths, 0)})
        self.assertEqual(whole, empty, "empty sequences count nothing")
        one = self.run_case(SWITCH, files={"seq-lens": None})
        self.assertNotEqual(whole[1], one[1], "one sequence of all rows drops others")

    def test_queues_are_by_sequence(self):
        """Where second choices stand behind all first ones: no chunk size cuts a sequence, and alone = in the batch."""
        queues = ["--set", "router.type=capacity_by_choice", "--set", "model.num_experts_per_tok=2", "--set",
                  "router.config.capacity_fraction=0.3", "--set", "router.config.capacity_order=probability"]
        lengths = read_npy(os.path.join(self.golden(SWITCH)[0], "seq_lens.npy"))[2]
        whole = self.run_case(SWITCH, *queues, files={"seq-lens": self.lens(*lengths)})
        self.assertTrue(any(-1 in ids for ids in whole[1]), "nothing was dropped")
        for more in (["--set", "chunking.moe_chunk_size=2"], ["--mode", "decode"], ["--threads", "3"]):
            self.assertEqual(whole, self.run_case(SWITCH, *queues, *more, files={"seq-lens": self.lens(*lengths)}), more)
        start = 0
        for length in lengths:
            alone = self.run_case(SWITCH, *queues, files={"seq-lens": None}, rows=(start, start + length))
            self.assertEqual([part[start:start + length] for part in whole], alone)
            start += length
        empty = self.run_case(SWITCH, *queues, files={"seq-lens": self.lens(0, *lengths, 0)})
        self.assertEqual(whole, empty, "empty sequences count nothing")

    def test_rows_and_their_inputs_go_together(self):
        for case in (ZAYA, HASH, BANKS, GEMMA):
            whole = self.run_case(case)
            for row in range(len(whole[0])):
                alone = self.run_case(case, rows=(row, row + 1))
                self.assertEqual([part[row:row + 1] for part in whole], alone, f"{case}, row {row}")

    def test_router_state(self):
        folder, described = self.golden(ZAYA)
        self.run_case(ZAYA, "--router-state-out", self.path("s.npy"))
        _, shape, state = read_npy(self.path("s.npy"))
        expected = read_npy(os.path.join(folder, "expected_router_state.npy"))
        self.assertEqual(shape, expected[1])
        self.assertLess(cli_support.relative_rms(state, expected[2]), 1e-5)
        first = content(self.path("s.npy"))
        self.run_case(ZAYA, "--router-state-out", self.path("s.npy"), "--set", "chunking.moe_chunk_size=4")
        self.assertEqual(first, content(self.path("s.npy")))
        self.run_case(FIRST, "--router-state-out", self.path("s.npy"))  # the first block takes none and hands one on

    def refuse(self, case, words, *options):
        folder, described = self.golden(case)
        self.fail_with(65, words, "run", folder, "--layer", described["layer"], "--input",
                       os.path.join(folder, "input.npy"), "--output", self.path("y.npy"), *options)

    def test_missing_inputs_are_named(self):
        self.refuse(HASH, ["token_ids", "token_table"])
        self.refuse(BANKS, ["token_types", "token_type"])
        self.refuse(ZAYA, ["router_state", "block before"])
        self.refuse(GEMMA, ["aux"])

    def test_wrong_inputs_are_named(self):
        folder, described = self.golden(HASH)
        ids = list(read_npy(os.path.join(folder, "token_ids.npy"))[2])
        for bad in (64, -1):  # the table has 64 rows
            write_npy(self.path("ids.npy"), "<i8", (len(ids),), ids[:5] + [bad] + ids[6:])
            self.refuse(HASH, ["token 5", f"token id is {bad}", "0 to 63"], "--token-ids", self.path("ids.npy"))
        write_npy(self.path("ids.npy"), "<i8", (3,), ids[:3])
        self.refuse(HASH, ["ids.npy", "3 values", "11 tokens"], "--token-ids", self.path("ids.npy"))
        self.refuse(SWITCH, ["lens.npy", "sum to 9", "11"], "--seq-lens", self.lens(4, 5))
        write_npy(self.path("state.npy"), "<f4", (11, 31), [0.0] * 341)
        self.refuse(ZAYA, ["state.npy", "[11, 31]", "[11, 32]"], "--router-state", self.path("state.npy"))
        self.refuse(SWITCH, ["--router-state", "carries no state"], "--router-state", self.path("state.npy"))


def rows_of(path):
    _, shape, values = read_npy(path)
    width = len(values) // shape[0]
    return [values[r * width:(r + 1) * width] for r in range(shape[0])]


if __name__ == "__main__":
    cli_support.main()
