# SPDX-License-Identifier: Apache-2.0
"""Families without a golden case: small random checkpoints under published names and keys, run through the command line
and held against the formula in float64 (families.py)."""
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "cli"))
import checkpoint as c  # noqa: E402
import cli_support  # noqa: E402
import families  # noqa: E402
import variants  # noqa: E402
from cli_support import CliTest, read_npy, relative_rms, write_npy  # noqa: E402

ERROR = 1e-5  # relative, of outputs and weights, in float32


class Families(CliTest):
    def compute(self, folder, result, *more):
        files = []
        for name, rows in result.inputs.items():
            write_npy(self.path(name + ".npy"), "<f4", (len(rows), len(rows[0])), c.flatten(rows))
            files += ["--" + name, self.path(name + ".npy")]
        self.succeed("run", folder, *files, "--layer", families.LAYER, "--output", self.path("y.npy"), "--router-out",
                     self.path("r"), *more)
        return read_npy(self.path("y.npy"))[2]

    def check(self, name, y, result):
        error = relative_rms(y, c.flatten(result.y))
        self.assertLess(error, ERROR, f"{name}: output")
        _, (_, k), ids = read_npy(self.path("r_ids.npy"))
        weights = read_npy(self.path("r_weights.npy"))[2]
        for t, (wanted_ids, wanted) in enumerate(result.routes):
            got = dict(zip(ids[t * k:(t + 1) * k], weights[t * k:(t + 1) * k]))
            self.assertEqual(set(got), set(wanted_ids), f"{name}: ids of token {t}")
            for e, w in zip(wanted_ids, wanted):
                self.assertLessEqual(abs(got[e] - w), ERROR * abs(w), f"{name}: weight of expert {e}, token {t}")

    def test_every_family(self):
        for seed, (model_type, prefix, build, _) in enumerate(families.FAMILIES):
            with self.subTest(model_type):
                store = c.Checkpoint(seed, prefix)
                config, result = build(store)
                folder = self.path(model_type)
                store.write(folder, config)
                y = self.compute(folder, result)
                self.check(model_type, y, result)
                # The description that is printed is the same block.
                with open(self.path("own.json"), "w", encoding="utf-8") as file:
                    file.write(self.succeed("config", folder, "--layer", families.LAYER).stdout)
                again = self.compute(self.path("own.json"), result, "--weights", folder)
                self.assertEqual(y, again, f"{model_type}: the printed description")

    def test_variants(self):
        for seed, (name, prefix, build) in enumerate(variants.VARIANTS):
            with self.subTest(name):
                store = c.Checkpoint(100 + seed, prefix)
                config, result = build(store)
                folder = self.path(f"variant{seed}")
                store.write(folder, config)
                self.check(name, self.compute(folder, result, "--compute", "f32"), result)
                checked = json.loads(self.succeed("validate", folder, "--layer", families.LAYER, "--json").stdout)
                self.assertEqual([], checked["not_called_for"], name)

    def test_other_names(self):
        """A checkpoint under another published prefix, layout and name of the bias is found."""
        store = c.Checkpoint(1, f"model.language_model.layers.{families.LAYER}.")
        config = {**families.keys("deepseek_v3"), **families.V3_KEYS}
        result = families.v3_line(store, bias_name="mlp.expert_bias", shared="mlp.shared_mlp.",
                                  names=("g{e}", "u{e}", "d{e}"))
        families.stack(store, "mlp.experts.gate_up_proj", "mlp.experts.down_proj", families.E)
        store.write(self.path("other"), config)
        self.check("other names", self.compute(self.path("other"), result), result)

    def test_banks_in_no_or_several_places(self):
        """The bank's router has to stand under one prefix: an error that names those there are."""
        for more, wanted in ((["model."], 'the prefixes are "model.language_model.", "model."'), ([], "no tensor is called")):
            store = c.Checkpoint(1, f"model.language_model.layers.{families.LAYER}.")
            config, result = families.intern_s2_mobius(store)
            name = "meta_mlp.1.gate.weight"
            for prefix in more:
                store.tensors[prefix + name] = store.tensors["model.language_model." + name]
            if not more:
                del store.tensors["model.language_model." + name]
            store.write(self.path("banks"), config)
            write_npy(self.path("x.npy"), "<f4", (1, families.H), result.inputs["input"][0])
            self.fail_with(65, [wanted], "run", self.path("banks"), "--layer", families.LAYER, "--input",
                           self.path("x.npy"), "--output", self.path("y.npy"))


if __name__ == "__main__":
    cli_support.main()
