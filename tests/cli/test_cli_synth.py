# SPDX-License-Identifier: Apache-2.0
"""`moeblock synth`: the same bytes from the same seed, shards, formats, and checkpoints that run as they are."""
import json
import math
import os
import struct

from cli_support import CONFIGS, SMALL_DEEPSEEK, SMALL_GPT_OSS, SMALL_LLAMA4, CliTest, content, main, read_header, read_npy

DEEPSEEK = os.path.join(CONFIGS, "deepseek_v3.json")
GPT_OSS = os.path.join(CONFIGS, "gpt_oss_20b.json")


def bf16_values(data):
    return [struct.unpack("<f", b"\0\0" + data[i:i + 2])[0] for i in range(0, len(data), 2)]


def tensor(folder, name):
    header, data = read_header(os.path.join(folder, "model.safetensors"))
    begin, end = header[name]["data_offsets"]
    return header[name], data[begin:end]


class Bytes(CliTest):
    def test_seed_and_threads(self):
        names = ("model.safetensors", "moeblock.json", "input.npy")
        first = self.synth("a", "--seed", 1, "--threads", 1)
        same = self.synth("b", "--seed", 1, "--threads", 3)
        other = self.synth("c", "--seed", 2)
        for name in names:
            self.assertEqual(content(os.path.join(first, name)), content(os.path.join(same, name)))
        self.assertNotEqual(content(os.path.join(first, names[0])), content(os.path.join(other, names[0])))
        self.assertNotEqual(content(os.path.join(first, names[2])), content(os.path.join(other, names[2])))

    def test_shards_hold_the_same_tensors(self):
        whole, parts = self.synth("whole"), self.synth("parts", "--shard-bytes", "100k")
        expected, data = read_header(os.path.join(whole, "model.safetensors"))
        with open(os.path.join(parts, "model.safetensors.index.json"), encoding="utf-8") as file:
            index = json.load(file)
        self.assertEqual(index["metadata"]["total_size"], len(data))
        self.assertEqual(set(index["weight_map"]), set(expected))
        shards = sorted(set(index["weight_map"].values()))
        self.assertGreater(len(shards), 3)
        self.assertEqual(shards[0], f"model-00001-of-{len(shards):05d}.safetensors")
        found = {}
        for shard in shards:
            header, piece = read_header(os.path.join(parts, shard))
            self.assertLessEqual(len(piece), 100 * 1024)
            for name, entry in header.items():
                self.assertEqual(index["weight_map"][name], shard)
                begin, end = entry["data_offsets"]
                found[name] = (entry["dtype"], entry["shape"], piece[begin:end])
        for name, entry in expected.items():
            begin, end = entry["data_offsets"]
            self.assertEqual(found[name], (entry["dtype"], entry["shape"], data[begin:end]), name)

    def test_input_is_exact_in_bfloat16(self):
        folder = self.synth("a")
        descr, shape, values = read_npy(os.path.join(folder, "input.npy"))
        self.assertEqual((descr, shape), ("<f4", (8, 128)))
        self.assertTrue(all(struct.pack("<f", value)[:2] == b"\0\0" for value in values))
        self.assertAlmostEqual(math.sqrt(sum(v * v for v in values) / len(values)), 1, delta=0.1)


class Layouts(CliTest):
    def test_published_names_and_shapes(self):
        fp8 = self.synth("fp8")
        entry, data = tensor(fp8, "model.layers.3.mlp.experts.15.gate_proj.weight")
        self.assertEqual((entry["dtype"], entry["shape"]), ("F8_E4M3", [64, 128]))
        self.assertNotIn(0x7f, {byte & 0x7f for byte in data})
        entry, _ = tensor(fp8, "model.layers.3.mlp.experts.15.gate_proj.weight_scale_inv")
        self.assertEqual((entry["dtype"], entry["shape"]), ("F32", [1, 1]))
        mxfp4 = self.synth("mxfp4", config="gpt_oss_20b", settings=SMALL_GPT_OSS, form="mxfp4", layer=2)
        for name, dtype, shape in (("gate_up_proj_blocks", "U8", [32, 192, 2, 16]),
                                   ("gate_up_proj_scales", "U8", [32, 192, 2]),
                                   ("gate_up_proj_bias", "BF16", [32, 192]),
                                   ("down_proj_blocks", "U8", [32, 64, 3, 16])):
            entry, _ = tensor(mxfp4, "model.layers.2.mlp.experts." + name)
            self.assertEqual((entry["dtype"], entry["shape"]), (dtype, shape))

    def test_weights_have_a_sensible_size(self):
        folder = self.synth("bf16", form="bf16")
        values = bf16_values(tensor(folder, "model.layers.3.mlp.experts.0.up_proj.weight")[1])
        deviation = math.sqrt(sum(v * v for v in values) / len(values))
        self.assertAlmostEqual(deviation * math.sqrt(128), 1, delta=0.05)

    def test_every_format_runs_from_its_folder(self):
        for form in ("f32", "f16", "bf16", "fp8"):
            for config, settings, layer in (("deepseek_v3", SMALL_DEEPSEEK, 3), ("gpt_oss_20b", SMALL_GPT_OSS, 0)):
                self.run_one(config, settings, layer, form)
        self.run_one("gpt_oss_20b", SMALL_GPT_OSS, 0, "mxfp4")
        # A shape in which tiles of 128 x 128 are not the whole tensor.
        wide = SMALL_DEEPSEEK + ["--set", "model.hidden_size=160"]
        for form in ("v4_fp8", "fbgemm_fp8", "ct_fp8", "ct_fp8_tensor", "ct_fp8_block", "mxfp8", "ct_mxfp8", "ct_mxfp4", "v4_fp4",
                     "nvfp4", "modelopt_fp8", "modelopt_nvfp4", "ct_nvfp4", "ct_int4", "ct_int4_asym", "ct_int8", "ct_int8_asym", "awq", "gptq",
                     "gptq_v2", "gptq_int8", "gptq_v2_int8"):
            self.run_one("deepseek_v3", wide, 3, form)

        for form in ("fbgemm_fp8", "modelopt_fp8", "modelopt_nvfp4"):
            self.run_one("llama4_scout", SMALL_LLAMA4, 1, form)

    def test_quantised_llama4_by_its_own_configuration(self):
        """The folder with the model's config.json in place of ours: the same bytes, and validate names the format."""
        with open(os.path.join(os.path.dirname(CONFIGS), "tests/hf/llama4_scout.json"), encoding="utf-8") as file:
            model = json.load(file)
        model["text_config"].update(hidden_size=160, intermediate_size=96)
        for form, told in (("fbgemm_fp8", {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0,
                                           "modules_to_not_convert": ["lm_head", "feed_forward.router"]}),
                           ("modelopt_fp8", {"quant_method": "modelopt", "quant_algo": "FP8"}),
                           ("modelopt_nvfp4", {"quant_method": "modelopt", "quant_algo": "NVFP4"})):
            folder = self.synth("own-" + form, config="llama4_scout", form=form, layer=1, settings=SMALL_LLAMA4[:4] +
                                ["--set", "experts.shared.intermediate_size=96"])
            run = ["--layer", 1, "--input", os.path.join(folder, "input.npy"), "--output", self.path("y.npy")]
            self.succeed("run", folder, *run)
            before = content(self.path("y.npy"))
            os.remove(os.path.join(folder, "moeblock.json"))
            for bad in (False, True):
                with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
                    json.dump({**model, "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}
                               if bad else told}, file)
                if bad:
                    self.fail_with(65, ["down_proj", form, "expects fp8"], "run", folder, *run)
                    continue
                self.assertEqual(self.json_of("run", folder, *run)["format"], form)
                self.assertEqual(content(self.path("y.npy")), before)
                self.assertIn(f"experts: {form}", self.succeed("validate", folder, "--layer", 1).stdout)

    def test_input_major_fp8_is_the_same_matrix(self):
        """FBGEMM's experts turned over and named as compressed-tensors has them give the same bytes."""
        folder = self.synth("turned", config="llama4_scout", settings=SMALL_LLAMA4, form="fbgemm_fp8", layer=1)
        header, data = read_header(os.path.join(folder, "model.safetensors"))
        sizes = {"gate_up_proj": (160, 192), "down_proj": (96, 160)}  # inputs, outputs
        other, place = bytearray(data), {}
        for part, (inputs, outputs) in sizes.items():
            name = "language_model.model.layers.1.feed_forward.experts." + part
            self.assertEqual((header[name]["dtype"], header[name]["shape"]), ("F8_E4M3", [16, inputs, outputs]))
            self.assertEqual(header[name + "_scale"]["shape"],
                             [16, outputs, 1] if part == "down_proj" else [16, 1, outputs])
            begin, end = header[name]["data_offsets"]
            for start in range(begin, end, inputs * outputs):
                matrix = data[start:start + inputs * outputs]
                other[start:start + inputs * outputs] = b"".join(matrix[n::outputs] for n in range(outputs))
            place[name] = [16, outputs, inputs]
        for name, shape in place.items():
            header[name]["shape"] = shape
            header[name + "_scale"]["shape"] = [16, shape[1], 1]
        os.makedirs(self.path("upright"))
        text = json.dumps(header).encode()
        with open(self.path("upright/model.safetensors"), "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text + other)
        with open(os.path.join(folder, "moeblock.json"), encoding="utf-8") as file:
            config = json.load(file)
        config["weights"].update(orientation="output_major", down_orientation="output_major", format="ct_fp8")
        with open(self.path("upright/moeblock.json"), "w", encoding="utf-8") as file:
            json.dump(config, file)
        results = []
        for path, form in ((folder, "fbgemm_fp8"), (self.path("upright"), "ct_fp8")):
            document = self.json_of("run", path, "--input", os.path.join(folder, "input.npy"), "--output",
                                    self.path("y.npy"))
            self.assertEqual(document["format"], form)
            results.append(content(self.path("y.npy")))
        self.assertEqual(*results)

    def run_one(self, config, settings, layer, form):
        with self.subTest(f"{config} {form}"):
            folder = self.synth(f"{config}-{form}", config=config, settings=settings, form=form, layer=layer)
            document = self.json_of("run", folder, "--input", os.path.join(folder, "input.npy"), "--output",
                                    self.path("y.npy"))
            self.assertEqual((document["format"], document["layer"], document["tokens"]), (form, layer, 8))
            y = read_npy(self.path("y.npy"))[2]
            size = math.sqrt(sum(v * v for v in y) / len(y))
            self.assertTrue(0.01 < size < 10, size)
            self.succeed("validate", folder, "--values")

    def test_a_model_that_exists_nowhere(self):
        folder = self.synth("own", config="custom_example", settings=[], form="bf16", layer=1)
        self.succeed("run", folder, "--input", os.path.join(folder, "input.npy"), "--output", self.path("y.npy"))

    def test_the_first_moe_layer_when_none_is_named(self):
        config = self.path("own.json")
        with open(config, "w", encoding="utf-8") as file:
            json.dump({"model": {"hidden_size": 16, "num_experts": 2, "num_experts_per_tok": 1, "moe_layers": "3-5"},
                       "router": {"type": "topk"}, "experts": {"distributed": {"intermediate_size": 8}}}, file)
        self.succeed("synth", config, "--format", "bf16", "--output", self.path("out"), "--tokens", 2)
        self.assertEqual(self.json_of("validate", self.path("out"))["layer"], 3)
        self.succeed("run", self.path("out"), "--input", self.path("out/input.npy"), "--show", 1)
        self.succeed("bench", config, "--tokens", 1, "--repeat", 1, "--threads", 1)

    def test_a_shard_is_opened_only_when_it_is_needed(self):
        folder = self.synth("parts", "--shard-bytes", "100k")
        with open(os.path.join(folder, "model.safetensors.index.json"), encoding="utf-8") as file:
            index = json.load(file)
        index["weight_map"]["model.layers.9.other"] = "model-09999.safetensors"
        with open(os.path.join(folder, "model.safetensors.index.json"), "w", encoding="utf-8") as file:
            json.dump(index, file)
        self.succeed("run", folder, "--input", os.path.join(folder, "input.npy"), "--output", self.path("y.npy"))


class Refusals(CliTest):
    def test_no_published_form(self):
        self.fail_with(78, ["mxfp4", "intermediate_size", "72", "32"], "synth", GPT_OSS, *SMALL_GPT_OSS[:2], "--set",
                       "experts.distributed.intermediate_size=72", "--format", "mxfp4", "--output", self.path("out"))
        self.assertFalse(os.path.exists(self.path("out")))

    def test_kinds_that_only_a_program_knows(self):
        for setting, key in (("router.type=mine", "router.type"), ("experts.type=theirs", "experts.type")):
            self.fail_with(78, [key, "registered"], "synth", DEEPSEEK, *SMALL_DEEPSEEK, "--set", setting, "--format",
                           "bf16", "--output", self.path("out"))
            self.assertFalse(os.path.exists(self.path("out")))

    def test_places(self):
        start = ["synth", DEEPSEEK, *SMALL_DEEPSEEK, "--format", "bf16"]
        self.fail_with(74, ["no/such"], *start, "--output", self.path("no/such/folder"))
        with open(self.path("file"), "w", encoding="utf-8"):
            pass
        self.fail_with(74, ["file"], *start, "--output", self.path("file"))
        self.fail_with(66, ["none.json"], "synth", "none.json", "--format", "bf16", "--output", self.path("out"))
        self.fail_with(64, ["--shard-bytes", "512"], *start, "--shard-bytes", 1, "--set", "model.num_experts=256",
                       "--output", self.path("out"))
        self.fail_with(64, ["--tokens"], *start, "--tokens", 1 << 20, "--output", self.path("out"))
        self.assertFalse(os.path.exists(self.path("out")))

    def test_one_file_beside_an_index(self):
        folder = self.synth("out", "--shard-bytes", "100k")
        self.fail_with(64, ["--shard-bytes"], "synth", DEEPSEEK, *SMALL_DEEPSEEK, "--format", "bf16", "--output",
                       folder)


if __name__ == "__main__":
    main()
