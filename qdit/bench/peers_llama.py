"""Product of 4-bit weights (Q4_0 and Q4_1) by ik_llama.cpp, called through its C interface.

Both formats have groups of 32. Q4_1 has a scale and a lowest value for each group, so it can hold zero points; Q4_0 has
a scale only. The library quantizes its input symmetrically in groups of 32. The product has no bias.
"""

import ctypes
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from qdit.bench.conformance import Missing, Peer, linear, nibbles, random_codes
from qdit.bench.layers import Operands

GROUP_SIZE = 32
FLOAT = 0
FORMATS = {"Q4_0": 2, "Q4_1": 3}
"""Name → number of the format in ggml.h."""

SPARE = 1 << 22
"""Bytes of a context beside its tensors."""


class Parameters(ctypes.Structure):
    """The C structure `ggml_init_params`."""

    _fields_ = (("size", ctypes.c_size_t), ("buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


class Plan(ctypes.Structure):
    """The C structure `ggml_cplan`."""

    _fields_ = (
        ("work_size", ctypes.c_size_t),
        ("work", ctypes.c_void_p),
        ("threads", ctypes.c_int),
        ("abort", ctypes.c_void_p),
        ("abort_data", ctypes.c_void_p),
    )


@cache
def library() -> ctypes.CDLL:
    """Load the library of the package ik-llama-cpp-python. Raises Missing if it is not installed."""
    package = find_spec("ik_llama_cpp")
    folders: Sequence[str] = [] if package is None else package.submodule_search_locations or []
    paths = [path for folder in folders for path in Path(folder, "lib").glob("libggml.*")]
    if not paths:
        raise Missing("ik_llama.cpp is not installed (pip install ik-llama-cpp-python)")
    try:
        loaded = ctypes.CDLL(str(paths[0]))
    except OSError as problem:
        raise Missing(f"ik_llama.cpp cannot be opened ({problem})") from None
    for name in ("ggml_init", "ggml_new_tensor_2d", "ggml_mul_mat", "ggml_new_graph", "ggml_get_data"):
        getattr(loaded, name).restype = ctypes.c_void_p
    loaded.ggml_graph_plan.restype = Plan
    loaded.ggml_init.argtypes = [Parameters]
    loaded.ggml_new_tensor_2d.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    loaded.ggml_mul_mat.argtypes = [ctypes.c_void_p] * 3
    loaded.ggml_graph_plan.argtypes = [ctypes.c_void_p, ctypes.c_int]
    loaded.ggml_graph_compute.argtypes = [ctypes.c_void_p, ctypes.POINTER(Plan)]
    for name in ("ggml_new_graph", "ggml_get_data", "ggml_free"):
        getattr(loaded, name).argtypes = [ctypes.c_void_p]
    loaded.ggml_build_forward_expand.argtypes = [ctypes.c_void_p] * 2
    return loaded


def blocks(name: str, codes: Tensor, low: Tensor, scale: Tensor) -> Tensor:
    """Bytes of a weight in the library's format, block by block (32 inputs of one output channel).

    A block is the scale (float16), for Q4_1 the lowest value (float16), and 16 bytes: byte i holds codes i and i + 16.
    """
    halves = [scale.half().view(torch.uint8)]
    if name == "Q4_1":
        halves.append(low.half().view(torch.uint8))
    first, second = codes.chunk(2, dim=-1)
    return torch.cat([*halves, nibbles(torch.stack([first, second], dim=-1).flatten(-2))], dim=-1).contiguous()


class Product:
    """A computation graph of the library with one product, and the memory that it needs."""

    def __init__(self, ggml: ctypes.CDLL, x: Tensor, weight: Tensor, outputs: int, name: str) -> None:
        rows, inputs = x.shape
        self.ggml, self.shape = ggml, (rows, outputs)
        size = SPARE + x.nbytes + weight.nbytes + 4 * rows * outputs
        self.context = ggml.ggml_init(Parameters(size, None, False))
        a = ggml.ggml_new_tensor_2d(self.context, FORMATS[name], inputs, outputs)
        b = ggml.ggml_new_tensor_2d(self.context, FLOAT, inputs, rows)
        ctypes.memmove(ggml.ggml_get_data(a), weight.data_ptr(), weight.nbytes)
        ctypes.memmove(ggml.ggml_get_data(b), x.contiguous().data_ptr(), x.nbytes)
        self.product = ggml.ggml_mul_mat(self.context, a, b)
        self.graph = ggml.ggml_new_graph(self.context)
        ggml.ggml_build_forward_expand(self.graph, self.product)
        self.plan = ggml.ggml_graph_plan(self.graph, 1)
        self.work = torch.empty(self.plan.work_size + 64, dtype=torch.uint8)
        self.plan.work = self.work.data_ptr()

    def __call__(self) -> None:
        """Compute the product."""
        self.ggml.ggml_graph_compute(self.graph, ctypes.byref(self.plan))

    def read(self, _: object) -> Tensor:
        """The computed product (rows, outputs) as a tensor."""
        result = torch.empty(self.shape)
        ctypes.memmove(result.data_ptr(), self.ggml.ggml_get_data(self.product), result.nbytes)
        return result

    def __del__(self) -> None:
        self.ggml.ggml_free(self.context)


def ik_llama(o: Operands, name: str) -> Peer:
    """Product of ik_llama.cpp with weights in the format `name`: `Q4_0` or `Q4_1`."""
    ggml = library()
    codes, zero_point, scale = random_codes(o, GROUP_SIZE)
    if name == "Q4_0":
        zero_point = torch.full_like(zero_point, 8)
    low = (-zero_point.float() * scale).half().float()
    held = -low.double() / scale.double()  # the zero point that the rounded lowest value stands for
    product = Product(ggml, o.x, blocks(name, codes, low, scale), len(o.weight), name)
    return Peer(product, product.read, linear(o.x, codes, held, scale, None))
