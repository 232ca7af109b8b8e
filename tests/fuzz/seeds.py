# SPDX-License-Identifier: Apache-2.0
"""Seeds of the fuzz targets from files of the tree: seeds.py FOLDER writes FOLDER/TARGET/*."""
import pathlib
import struct
import sys

tree = pathlib.Path(__file__).resolve().parents[2]
out = pathlib.Path(sys.argv[1])
MOST = 16384  # larger seeds slow every run down


def save(target, source, data):
    folder = out / target
    folder.mkdir(parents=True, exist_ok=True)
    name = "_".join(source.relative_to(tree).parts[-2:])
    (folder / name).write_bytes(data)


def safetensors_seed(path):
    """The file's size, then its length field and header: see fuzz_safetensors.c."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return struct.pack("<Q", len(data)) + data[: 8 + length]


golden = tree / "tests" / "golden"
configs = [*tree.glob("configs/*.json"), *tree.glob("tests/config/*.json"), *tree.glob("tests/original/*.json")]
for path in sorted([*configs, *tree.glob("tests/hf/*.json"), *golden.glob("*/config.json")]):
    save("fuzz_config", path, path.read_bytes())
for path in sorted(golden.glob("*/*.safetensors")):
    seed = safetensors_seed(path)
    if len(seed) <= MOST:
        save("fuzz_safetensors", path, seed)
for path in sorted(golden.glob("*/*.index.json")):
    save("fuzz_index", path, path.read_bytes())
for path in sorted(golden.glob("*/*.npy")):
    if path.stat().st_size <= MOST:
        save("fuzz_npy", path, path.read_bytes())
