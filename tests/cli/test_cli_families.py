# SPDX-License-Identifier: Apache-2.0
"""`moeblock config --origins` and `moeblock validate` over every family of the golden cases."""
import json
import os
import shutil

import cli_support
from cli_support import GOLDEN, CliTest, run


class Families(CliTest):
    def cases(self):
        for name in sorted(os.listdir(GOLDEN)):
            path = os.path.join(GOLDEN, name, "case.json")
            if not os.path.exists(path):
                continue
            with open(path, encoding="utf-8") as file:
                case = json.load(file)
            yield name, os.path.join(GOLDEN, name), case

    def test_origins_parse_back(self):
        seen = set()
        for name, folder, case in self.cases():
            if case["family"] in seen or run("config", folder, "--layer", case["layer"]).returncode:
                continue
            seen.add(case["family"])
            plain = self.succeed("config", folder, "--layer", case["layer"]).stdout
            noted = self.succeed("config", folder, "--layer", case["layer"], "--origins").stdout
            for line in noted.split("\n"):
                if line.strip() and line.strip().strip(",")[-1] not in "{}":
                    self.assertIn("  // ", line, name)
            with open(self.path("own.json"), "w", encoding="utf-8") as file:
                file.write(noted)
            self.assertEqual(self.succeed("config", self.path("own.json")).stdout, plain, name)
        self.assertGreater(len(seen), 50)

    def test_origins_tell_where_from(self):
        folder, case = self.golden("muse_spark-bf16")
        noted = self.succeed("config", folder, "--origins", "--set", "router.config.softcap=3").stdout
        for value in ('"logit_scale": 0.1767766952966369,  // config.json: text_config.output_multiplier',
                      '"size": 24,  // config.json: text_config.moe_hidden_size', '"softcap": 3,  // given',
                      '"post_norm": true,  // model type muse_spark', '"precision": "fp32",  // default'):
            self.assertIn(value, noted)

    def test_validate_tells_family_and_formats(self):
        for name, folder, case in self.cases():
            result = run("validate", folder, "--json")
            if result.returncode and "unsupported" not in result.stderr and "quantization_config" in result.stderr:
                continue  # a number format that is not read yet
            self.assertEqual(result.returncode, 0, f"{name}: {result.stderr}")
            document = json.loads(result.stdout)
            self.assertEqual(document["problems"], [], name)
            self.assertIn(case["layer"], document["layers"], name)
            if case["weights"] in ("f32", "f16", "bf16"):
                self.assertEqual(document["format"], case["weights"], name)
                self.assertEqual(document["compute"], "bf16" if case["weights"] == "bf16" else "f32", name)

    def test_validate_tells_every_inconsistency(self):
        folder, _ = self.golden("deepseek_v3-bf16")
        copy = self.path("copy")
        shutil.copytree(folder, copy)
        with open(os.path.join(copy, "config.json"), encoding="utf-8") as file:
            config = json.load(file)
        config["n_routed_experts"] += 4  # router and bias are smaller, 12 tensors are missing
        with open(os.path.join(copy, "config.json"), "w", encoding="utf-8") as file:
            json.dump(config, file)
        result = run("validate", copy, "--json")
        self.assertIn(result.returncode, (65, 66))
        problems = json.loads(result.stdout)["problems"]
        self.assertEqual(len(problems), 14, problems)
        self.assertEqual(sum("experts.19." in problem for problem in problems), 3)
        self.assertEqual(sum("mlp.gate.weight' has shape [16, 40]" in problem for problem in problems), 1)
        result = run("validate", copy)
        self.assertEqual(len(result.stderr.strip().split("\n")), 14)

        config["n_routed_experts"] -= 5  # one expert too many in the file
        config["n_group"] = config["topk_group"] = 1
        with open(os.path.join(copy, "config.json"), "w", encoding="utf-8") as file:
            json.dump(config, file)
        document = json.loads(run("validate", copy, "--json").stdout)
        self.assertEqual([name for name in document["not_called_for"] if "experts.15." in name],
                         document["not_called_for"])
        self.assertEqual(len(document["not_called_for"]), 3)


if __name__ == "__main__":
    cli_support.main()
