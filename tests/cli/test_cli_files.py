# SPDX-License-Identifier: Apache-2.0
"""`moeblock inspect` and `validate` on sound and damaged checkpoints."""
import json
import os
import shutil
import struct

from cli_support import SMALL_GPT_OSS, CliTest, content, main, read_header, run


def write_safetensors(path, header, data):
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


class Inspect(CliTest):
    def test_lists_what_the_header_says(self):
        folder = self.synth("a")
        header, data = read_header(os.path.join(folder, "model.safetensors"))
        start = os.path.getsize(os.path.join(folder, "model.safetensors")) - len(data)
        for path in (folder, os.path.join(folder, "model.safetensors")):
            document = self.json_of("inspect", path)
            self.assertEqual(len(document["tensors"]), len(header))
            for found in document["tensors"]:
                entry = header[found["name"]]
                begin, end = entry["data_offsets"]
                self.assertEqual((found["dtype"], found["shape"], found["bytes"], found["offset"], found["file"]),
                                 (entry["dtype"], entry["shape"], end - begin, start + begin, "model.safetensors"))
            self.assertEqual(sum(one["bytes"] for one in document["dtypes"].values()), len(data))
            text = self.succeed("inspect", path).stdout
            for name in header:
                self.assertIn(name, text)

    def test_shards(self):
        folder = self.synth("a", "--shard-bytes", "100k")
        document = self.json_of("inspect", folder)
        self.assertGreater(len({tensor["file"] for tensor in document["tensors"]}), 3)

    def test_types_that_are_known_by_name_only(self):
        write_safetensors(self.path("c.safetensors"),
                          {"c": {"dtype": "C64", "shape": [1], "data_offsets": [0, 8]}}, b"\0" * 8)
        self.assertEqual(self.json_of("inspect", self.path("c.safetensors"))["tensors"][0]["dtype"], "C64")

    def test_names_are_escaped(self):
        write_safetensors(self.path("e.safetensors"),
                          {"a\x1b[31m": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, b"\0")
        result = run("inspect", self.path("e.safetensors"))
        self.assertNotIn("\x1b", result.stdout + result.stderr)

    def test_other_formats_are_refused_by_name(self):
        for name in ("model.gguf", "pytorch_model.bin", "model.pt"):
            with open(self.path(name), "wb") as file:
                file.write(b"GGUF" + b"\0" * 60)
            self.fail_with(65, [name], "inspect", self.path(name))

    def test_nothing_there(self):
        self.fail_with(66, ["none.safetensors"], "inspect", self.path("none.safetensors"))
        os.mkdir(self.path("empty"))
        self.fail_with(66, ["empty"], "inspect", self.path("empty"))


class Damage(CliTest):
    def setUp(self):
        super().setUp()
        self.sound = content(os.path.join(self.synth("sound"), "model.safetensors"))
        self.file = self.path("model.safetensors")

    def expect(self, data, words=()):
        with open(self.file, "wb") as file:
            file.write(data)
        self.fail_with(65, ["model.safetensors", *words], "inspect", self.file)
        self.fail_with(65, ["model.safetensors", *words], "validate", self.file)

    def test_lengths(self):
        size = len(self.sound)
        for cut in (0, 1, 7, 8, 9, 100, size // 2, size - 1):
            self.expect(self.sound[:cut])
        self.expect(self.sound + b"x")
        for length in (0, 1, size - 8 + 1, 1 << 31, 1 << 32, 1 << 63, (1 << 64) - 1):
            self.expect(struct.pack("<Q", length) + self.sound[8:])

    def test_headers(self):
        one = {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}
        for header, words in (
                ({"t": {**one, "data_offsets": [0, 3]}}, ["t"]), ({"t": {**one, "data_offsets": [1, 5]}}, ["t"]),
                ({"t": {**one, "shape": [5]}}, ["t"]), ({"t": {**one, "shape": [-4]}}, ["t"]),
                ({"t": {**one, "dtype": "U7"}}, ["t"]), ({"t": {**one, "extra": 1}}, ["t"]),
                ({"t": {"dtype": "U8", "shape": [4]}}, ["t"]), ({"t": []}, ["t"]), ([], []),
                ({"t": {**one, "shape": [1] * 8 + [4]}}, ["t"]), ({"t": one, "__metadata__": {"a": 1}}, [])):
            with self.subTest(header=header):
                write_safetensors(self.file, header, b"\0" * 4)
                self.fail_with(65, ["model.safetensors", *words], "inspect", self.file)
        self.expect(struct.pack("<Q", 4) + b"\xff\xfe{}")


class Validate(CliTest):
    def test_sound_checkpoints(self):
        folder = self.synth("a")
        document = self.json_of("validate", folder, "--values")
        self.assertEqual((document["layer"], document["nan"], document["infinite"]), (3, 0, 0))
        self.assertEqual(document["layer_tensors"], document["tensors"])
        self.assertIn("every rule of the format holds", self.succeed("validate", folder).stdout)
        self.assertNotIn("layer", self.json_of("validate", os.path.join(folder, "model.safetensors")))
        self.assertIn("layer", self.json_of("validate", os.path.join(folder, "model.safetensors"),
                                            os.path.join(folder, "moeblock.json")))

    def test_golden_folders(self):
        for case in ("deepseek_v3-bf16", "gpt_oss_mxfp4", "mixtral-f16", "deepseek_v3_fp8"):
            folder, facts = self.golden(case)
            self.assertEqual(self.json_of("validate", folder, "--layer", facts["layer"])["layer"], facts["layer"])

    def rewrite(self, folder, change):
        path = os.path.join(folder, "model.safetensors")
        header, data = read_header(path)
        data = bytearray(data)
        change(header, data)
        write_safetensors(path, header, bytes(data))

    def test_missing_tensor(self):
        def rename(header, _):
            header["other"] = header.pop("model.layers.3.mlp.experts.7.down_proj.weight")
        folder = self.synth("a", form="bf16")
        self.rewrite(folder, rename)
        self.fail_with(66, ["model.layers.3.mlp.experts.7.down_proj.weight"], "validate", folder)
        self.fail_with(66, ["model.layers.3.mlp.experts.7.down_proj.weight"], "run", folder, "--input",
                       os.path.join(folder, "input.npy"), "--output", self.path("y.npy"))

    def test_wrong_shape(self):
        def turn(header, _):
            header["model.layers.3.mlp.experts.7.down_proj.weight"]["shape"].reverse()
        folder = self.synth("a", form="bf16")
        self.rewrite(folder, turn)
        words = ["model.layers.3.mlp.experts.7.down_proj.weight", "[64, 128]", "[128, 64]"]
        self.fail_with(65, words, "validate", folder)
        self.fail_with(65, words[:1], "run", folder, "--input", os.path.join(folder, "input.npy"), "--output",
                       self.path("y.npy"))

    def test_values(self):
        def spoil(header, data):
            begin = header["model.layers.3.mlp.gate.weight"]["data_offsets"][0]
            data[begin:begin + 4] = struct.pack("<HH", 0x7fc0, 0x7f80)
        folder = self.synth("a", form="bf16")
        self.rewrite(folder, spoil)
        self.succeed("validate", folder)
        result = run("validate", folder, "--values", "--json")
        self.assertEqual(result.returncode, 65)
        self.assertIn("model.layers.3.mlp.gate.weight", result.stderr)
        document = json.loads(result.stdout)
        self.assertEqual((document["nan"], document["infinite"]), (1, 1))

    def test_scale_that_is_no_number(self):
        def spoil(header, data):
            begin = header["model.layers.3.mlp.experts.2.up_proj.weight_scale_inv"]["data_offsets"][0]
            data[begin:begin + 4] = struct.pack("<f", float("nan"))
        folder = self.synth("a")
        self.rewrite(folder, spoil)
        self.fail_with(65, ["experts.2.up_proj.weight_scale_inv"], "run", folder, "--input",
                       os.path.join(folder, "input.npy"), "--output", self.path("y.npy"))

    def test_shard_sets(self):
        sound = self.synth("sound", "--shard-bytes", "100k", config="gpt_oss_20b", settings=SMALL_GPT_OSS, form="bf16",
                           layer=0)
        shards = sorted(name for name in os.listdir(sound) if name.startswith("model-"))
        index_name = "model.safetensors.index.json"

        def damaged(name):
            folder = self.path(name)
            shutil.copytree(sound, folder)
            with open(os.path.join(folder, index_name), encoding="utf-8") as file:
                return folder, json.load(file)

        def save(folder, index):
            with open(os.path.join(folder, index_name), "w", encoding="utf-8") as file:
                json.dump(index, file)

        folder, index = damaged("gone")
        os.remove(os.path.join(folder, shards[1]))
        self.fail_with(65, [shards[1]], "validate", folder)
        for size in (0, 8, 1000):
            folder, index = damaged(f"short{size}")
            os.truncate(os.path.join(folder, shards[0]), size)
            self.fail_with(65, [shards[0]], "validate", folder)
        folder, index = damaged("swapped")
        os.replace(os.path.join(folder, shards[0]), os.path.join(folder, "x"))
        os.replace(os.path.join(folder, shards[1]), os.path.join(folder, shards[0]))
        os.replace(os.path.join(folder, "x"), os.path.join(folder, shards[1]))
        self.fail_with(65, [], "validate", folder)
        folder, index = damaged("total")
        index["metadata"]["total_size"] += 1
        save(folder, index)
        self.fail_with(65, ["total_size"], "validate", folder)
        for number, bad in enumerate(("../" + shards[0], "/etc/passwd", "")):
            folder, index = damaged(f"path{number}")
            index["weight_map"][next(iter(index["weight_map"]))] = bad
            save(folder, index)
            self.fail_with(65, [], "validate", folder)


if __name__ == "__main__":
    main()
