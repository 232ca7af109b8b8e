# SPDX-License-Identifier: Apache-2.0
"""libmoeblock through ctypes, as much of it as the scripts of bench/ need: a loaded block and its forward calls on
memory of the caller's. Two builds can be open at once."""
import ctypes
import os

MAX_RANK = 8
DTYPES = {"F32": 1, "F16": 2, "BF16": 3}
COMPUTES = {"auto": 0, "f32": 1, "bf16": 2, "int16": 3, "bf16x2": 4}
DECODE = 2


class Error(ctypes.Structure):
    _fields_ = [("code", ctypes.c_int), ("message", ctypes.c_char * 1024)]


class ContextOptions(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_uint32), ("threads", ctypes.c_int), ("cpu_level", ctypes.c_char_p),
                ("allocator", ctypes.c_void_p), ("parallel", ctypes.c_void_p), ("log", ctypes.c_void_p),
                ("log_user", ctypes.c_void_p)]


class ConfigOptions(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_uint32), ("layer", ctypes.c_int64), ("weights_path", ctypes.c_char_p),
                ("set", ctypes.POINTER(ctypes.c_char_p)), ("n_set", ctypes.c_size_t)]


class BlockOptions(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_uint32), ("compute", ctypes.c_int)]


class Tensor(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("dtype", ctypes.c_int), ("rank", ctypes.c_int),
                ("dims", ctypes.c_int64 * MAX_RANK), ("data", ctypes.c_void_p), ("bytes", ctypes.c_size_t)]


class BlockInfo(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_uint32), ("compute", ctypes.c_int), ("format", ctypes.c_char_p),
                ("packed_bytes", ctypes.c_size_t), ("expert_packed_bytes", ctypes.c_size_t),
                ("chunk_tokens", ctypes.c_int64)]


class Array(ctypes.Structure):
    _fields_ = [("dtype", ctypes.c_int), ("rank", ctypes.c_int), ("dims", ctypes.c_int64 * MAX_RANK),
                ("strides", ctypes.c_int64 * MAX_RANK), ("data", ctypes.c_void_p)]


class Shape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("hidden_size", "num_experts", "num_experts_per_tok",
                                                    "intermediate_size", "shared_intermediate_size", "layer")]


def find_library(build):
    """libmoeblock.so of a build folder, of the folder that a program lies in, or the file itself."""
    folder = build if os.path.isdir(build) else os.path.dirname(os.path.abspath(build))
    path = build if ".so" in os.path.basename(build) else os.path.join(folder, "libmoeblock.so")
    if not os.path.exists(path):
        raise FileNotFoundError(f"'{build}' has no libmoeblock.so: give a build folder, its program or its library")
    return os.path.abspath(path)


def find_program(build):
    """The command line beside that library."""
    return os.path.join(os.path.dirname(find_library(build)), "moeblock")


class Block:
    """A block of one configuration on `threads` threads, without weights at first."""

    def __init__(self, library, config, threads, settings=(), compute="auto", level=None):
        self.c = ctypes.CDLL(library)
        self.context, self.config = ctypes.c_void_p(), ctypes.c_void_p()
        self.block, self.workspace = ctypes.c_void_p(), ctypes.c_void_p()
        for name in ("context", "config", "block", "workspace"):
            getattr(self.c, f"moeblock_{name}_destroy").restype = None
        self.c.moeblock_context_level.restype = ctypes.c_char_p
        options = ContextOptions(ctypes.sizeof(ContextOptions), threads, level and level.encode())
        self.call("context_create", ctypes.byref(options), ctypes.byref(self.context))
        texts = (ctypes.c_char_p * max(1, len(settings)))(*[text.encode() for text in settings])
        options = ConfigOptions(ctypes.sizeof(ConfigOptions), -1, None, texts, len(settings))
        self.call("config_open", self.context, config.encode(), ctypes.byref(options), ctypes.byref(self.config))
        options = BlockOptions(ctypes.sizeof(BlockOptions), COMPUTES[compute])
        self.call("block_create", self.context, self.config, None, ctypes.byref(options), ctypes.byref(self.block))
        self.shape = Shape()
        self.c.moeblock_config_get_shape(self.config, ctypes.byref(self.shape))

    def call(self, name, *arguments):
        error = Error()
        if getattr(self.c, "moeblock_" + name)(*arguments, ctypes.byref(error)):
            raise RuntimeError(f"moeblock_{name}: {error.message.decode()}")

    def level(self):
        return self.c.moeblock_context_level(self.context).decode()

    def expert_bytes(self):
        """Bytes of one routed expert in memory."""
        info = BlockInfo(ctypes.sizeof(BlockInfo))
        self.c.moeblock_block_get_info(self.block, ctypes.byref(info))
        return info.expert_packed_bytes

    def load_files(self, path):
        self.call("block_load_files", self.block, path.encode(), None)

    def load_tensors(self, tensors):
        """`tensors`: (name, dtype name, dims, address, bytes); the data is copied."""
        array = (Tensor * len(tensors))()
        for to, (name, dtype, dims, address, size) in zip(array, tensors):
            to.name, to.dtype, to.rank, to.data, to.bytes = name.encode(), DTYPES[dtype], len(dims), address, size
            to.dims[:len(dims)] = dims
        self.call("block_load_weights", self.block, array, ctypes.c_size_t(len(tensors)))

    def make_workspace(self, tokens):
        self.call("workspace_create", self.block, ctypes.c_int64(tokens), None, ctypes.c_size_t(0),
                  ctypes.byref(self.workspace))

    def array(self, dtype, tokens, address):
        array = Array(DTYPES[dtype], 2)
        array.dims[:2] = tokens, self.shape.hidden_size
        array.data = address
        return array

    def forward(self, x, tokens, y):
        """Addresses of float32 rows."""
        self.call("forward", self.block, self.workspace, ctypes.c_void_p(x), ctypes.c_int64(tokens), DECODE,
                  ctypes.c_void_p(y))

    def forward_experts(self, dtype, x, tokens, ids, weights, k, y):
        """Addresses: rows of `dtype`, int32 ids and float32 weights [tokens, k]."""
        x, y = self.array(dtype, tokens, x), self.array(dtype, tokens, y)
        self.call("block_forward_experts", self.block, self.workspace, ctypes.byref(x), ctypes.c_void_p(ids),
                  ctypes.c_void_p(weights), ctypes.c_int64(k), ctypes.byref(y))

    def close(self):
        for name in ("workspace", "block", "config", "context"):
            getattr(self.c, f"moeblock_{name}_destroy")(ctypes.byref(getattr(self, name)))
