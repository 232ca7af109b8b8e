# SPDX-License-Identifier: Apache-2.0
"""One block of experts in every published layout, L1 to L8: the same bytes out, and the formula's numbers."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "cli"))
import checkpoint as c  # noqa: E402
import cli_support  # noqa: E402
import formulas as f  # noqa: E402
from cli_support import CliTest, content, read_npy, relative_rms, write_npy  # noqa: E402

H, I, E, K, T = 24, 16, 5, 2, 7
PROJ = {"gate": "experts.{expert}.gate_proj.weight", "up": "experts.{expert}.up_proj.weight",
        "down": "experts.{expert}.down_proj.weight"}
NUMBER = {"gate": "experts.{expert}.w1.weight", "up": "experts.{expert}.w3.weight", "down": "experts.{expert}.w2.weight"}
JOINT = {"gate_up": "experts.gate_up", "down": "experts.down"}
ALONE = {"gate": "experts.gate", "up": "experts.up", "down": "experts.down"}
LAYOUTS = {  # weights settings and names of each
    "L1": ({"layout": "per_expert"}, PROJ),
    "L2": ({"layout": "per_expert"}, NUMBER),
    "L3": ({"layout": "stacked", "gate_up": "concatenated"}, JOINT),
    "L4": ({"layout": "stacked"}, ALONE),
    "L5": ({"layout": "stacked", "gate_up": "concatenated", "orientation": "input_major"}, JOINT),
    "L6": ({"layout": "stacked", "gate_up": "interleaved", "orientation": "input_major"}, JOINT),
    "L7": ({"layout": "stacked", "gate_up": "interleaved"}, JOINT),
    "L8": ({"layout": "flattened", "down_orientation": "input_major"}, ALONE),
}


def store_experts(store, experts, settings, names):
    if settings["layout"] == "per_expert":
        for e, expert in enumerate(experts):
            for part, shape, matrix in zip(("gate", "up", "down"), ((I, H), (I, H), (H, I)), expert):
                store.store(names[part].replace("{expert}", str(e)), shape, c.flatten(matrix))
        return
    input_major = settings.get("orientation") == "input_major"
    down_turned = input_major or settings.get("down_orientation") == "input_major"
    join = c.interleaved if settings.get("gate_up") == "interleaved" else lambda gate, up: gate + up
    parts = {"gate": [gate for gate, _, _ in experts], "up": [up for _, up, _ in experts],
             "gate_up": [join(gate, up) for gate, up, _ in experts], "down": [down for _, _, down in experts]}
    for part, name in names.items():
        turned = down_turned if part == "down" else input_major
        matrices = [c.transposed(m) if turned else m for m in parts[part]]
        shape = (E, len(matrices[0]), len(matrices[0][0]))
        if settings["layout"] == "flattened":
            shape = (E * shape[1], shape[2])
        store.store(name, shape, [value for m in matrices for value in c.flatten(m)])


class Layouts(CliTest):
    def test_the_same_bytes(self):
        base = c.Checkpoint(5, "layer.3.")
        x = [base.values(H) for _ in range(T)]
        gate = base.matrix("router", E, H)
        experts = [(base.matrix(None, I, H), base.matrix(None, I, H), base.matrix(None, H, I)) for _ in range(E)]
        routes = [f.softmax_gate(f.apply(gate, row), K) for row in x]
        y = [f.weighted(*route, lambda e, row=row: f.glu(*experts[e], row)) for row, route in zip(x, routes)]
        write_npy(self.path("x.npy"), "<f4", (T, H), c.flatten(x))
        first = None
        for name, (settings, names) in LAYOUTS.items():
            store = c.Checkpoint(0, "layer.3.")
            store.tensors.update(base.tensors)
            store_experts(store, experts, settings, names)
            config = {"model": {"hidden_size": H, "num_experts": E, "num_experts_per_tok": K},
                      "router": {"config": {"norm": "sum"}}, "experts": {"distributed": {"intermediate_size": I}},
                      "weights": {"module_prefix": "layer.{layer}", **settings,
                                  "names": {"router_weight": "router", **names}}}
            store.write(self.path(name), config)
            self.succeed("run", self.path(name, "config.json"), "--weights", self.path(name), "--layer", 3, "--input",
                         self.path("x.npy"), "--output", self.path("y.npy"))
            self.succeed("validate", self.path(name), self.path(name, "config.json"), "--layer", 3)
            self.assertLess(relative_rms(read_npy(self.path("y.npy"))[2], c.flatten(y)), 1e-5, name)
            first = first or content(self.path("y.npy"))
            self.assertEqual(first, content(self.path("y.npy")), name)

    def test_wrong_shapes_are_named(self):
        """A tensor with one row too few is named with what was found and what was expected."""
        for name, (settings, names) in LAYOUTS.items():
            store = c.Checkpoint(7, "layer.3.")
            store.matrix("router", E, H)
            experts = [(store.matrix(None, I, H), store.matrix(None, I, H), store.matrix(None, H, I)) for _ in range(E)]
            store_experts(store, experts, settings, names)
            down = "layer.3." + names["down"].replace("{expert}", "1")
            shape, flat = store.tensors[down]
            store.tensors[down] = ([shape[0] - 1] + shape[1:], flat[:len(flat) // shape[0] * (shape[0] - 1)])
            config = {"model": {"hidden_size": H, "num_experts": E, "num_experts_per_tok": K},
                      "experts": {"distributed": {"intermediate_size": I}},
                      "weights": {"module_prefix": "layer.{layer}", **settings,
                                  "names": {"router_weight": "router", **names}}}
            store.write(self.path("wrong" + name), config)
            write_npy(self.path("x.npy"), "<f4", (T, H), store.values(T * H))
            text = lambda dims: "[" + ", ".join(map(str, dims)) + "]"
            self.fail_with(65, [down, text(store.tensors[down][0]), text(shape)], "run",
                           self.path("wrong" + name, "config.json"), "--weights", self.path("wrong" + name), "--layer", 3,
                           "--input", self.path("x.npy"), "--output", self.path("y.npy"))


if __name__ == "__main__":
    cli_support.main()
