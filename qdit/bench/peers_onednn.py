"""oneDNN's product of 8-bit codes and 4-bit weights, with scales and zero points in groups, through its C interface.

This is the quantization scheme of this project. But the caller quantizes the input, so the measured time does not
include that. The weights stay in plain order: release 3.13 cannot bring 4-bit weights into a faster order. The package
`onednn` of PyPI is built for SYCL. It needs an OpenCL driver for the processor (package `intel-opencl-rt`), and the
variables LD_LIBRARY_PATH and OCL_ICD_FILENAMES must name its files.
"""

import ctypes
import os
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qdit.bench.conformance import EXACT, Missing, Peer, linear, nibbles, random_codes, tensor
from qdit.bench.layers import Operands

VARIABLE = "QDIT_ONEDNN"
"""Environment variable that names the library's file."""

F32, U8, U4 = 3, 6, 12
SOURCE, WEIGHTS, BIAS, RESULT, SCALES, ZERO_POINTS = 1, 33, 41, 17, 4096, 8192
CPU, IMPLEMENTATION = 1, 8
STATUS = {1: "out of memory", 2: "invalid arguments", 3: "not implemented"}
"""Numbers of dnnl_types.h: data types, arguments of a product, queries and states."""

Pointer = ctypes.c_void_p


class Argument(ctypes.Structure):
    """The C structure `dnnl_exec_arg_t`."""

    _fields_ = (("number", ctypes.c_int), ("memory", ctypes.c_void_p))


class Dnnl:
    """The oneDNN library, with an engine and a stream for the processor."""

    def __init__(self, path: str) -> None:
        try:
            self.library = ctypes.CDLL(path)
        except OSError as problem:
            raise Missing(f"oneDNN cannot be opened ({problem})") from None
        self.engine, self.stream = Pointer(), Pointer()
        self("engine_create", ctypes.byref(self.engine), CPU, ctypes.c_size_t(0))
        self("stream_create", ctypes.byref(self.stream), self.engine, 1)

    def __call__(self, name: str, *arguments: Any) -> None:
        """Call `dnnl_<name>`; Missing if it refuses."""
        status = getattr(self.library, f"dnnl_{name}")(*arguments)
        if status:
            raise Missing(f"oneDNN refuses {name} ({STATUS.get(status, f'status {status}')})")

    def create(self, name: str, *arguments: Any) -> Pointer:
        """Call the C function `dnnl_<name>`, and return the object that it writes to its first argument."""
        handle = Pointer()
        self(name, ctypes.byref(handle), *arguments)
        return handle

    def layout(self, shape: Sequence[int], kind: int) -> Pointer:
        """Memory layout of a matrix (rows, columns) in row-major order."""
        return self.create("memory_desc_create_with_strides", 2, sizes(shape), kind, sizes((shape[1], 1)))

    def memory(self, layout: Pointer, values: Tensor) -> Pointer:
        """Memory object of the library that holds the bytes of a tensor."""
        return self.create("memory_create", layout, self.engine, Pointer(values.data_ptr()))

    def run(self, primitive: Pointer, arguments: "ctypes.Array[Argument]") -> None:
        """Execute a primitive (one operation of the library) and wait for its end."""
        self("primitive_execute", primitive, self.stream, len(arguments), arguments)
        self("stream_wait", self.stream)


def sizes(values: Sequence[int]) -> "ctypes.Array[ctypes.c_int64]":
    """Whole numbers in an array of 12, as the C interface takes sizes."""
    return (ctypes.c_int64 * 12)(*values)


@cache
def library() -> Dnnl:
    """Load a oneDNN that supports grouped scales: the file that QDIT_ONEDNN names, or the one of this environment."""
    path = os.environ.get(VARIABLE) or str(Path(sys.prefix, "lib", "libdnnl.so.3"))
    if not Path(path).is_file():
        raise Missing(f"onednn is not installed (no {path}; {VARIABLE} can name the library)")
    return Dnnl(path)


def grouped(o: Operands, group_size: int, *, input_zeros: bool = True) -> Peer:
    """oneDNN's product of 8-bit and 4-bit codes, with scales in groups and zero points of weights and inputs."""
    dnnl = library()
    (outputs, inputs), rows = o.weight.shape, len(o.x)
    codes, zero_point, scale = random_codes(o, group_size)
    generator = torch.Generator().manual_seed(1)
    shape = (rows, inputs // group_size)
    x = torch.randint(256, (rows, inputs), generator=generator, dtype=torch.uint8)
    x_scale = torch.rand(shape, generator=generator) + 0.5
    x_zero = torch.randint(256 if input_zeros else 1, shape, generator=generator, dtype=torch.uint8)
    values = (x.unflatten(1, (-1, group_size)).double() - x_zero[..., None].double()) * x_scale[..., None].double()
    tensors = {
        SOURCE: x,
        WEIGHTS: nibbles(codes.flatten(1).T.contiguous()),
        BIAS: o.bias.contiguous(),
        RESULT: torch.empty(rows, outputs),
        SCALES | SOURCE: x_scale,
        SCALES | WEIGHTS: scale[..., 0].T.contiguous(),
        ZERO_POINTS | WEIGHTS: nibbles(zero_point[..., 0].T.contiguous()),
    }
    kinds = {
        SOURCE: U8,
        WEIGHTS: U4,
        SCALES | SOURCE: F32,
        SCALES | WEIGHTS: F32,
        ZERO_POINTS | WEIGHTS: U4,
        BIAS: F32,
        RESULT: F32,
    }
    shapes = {number: tuple(t.shape) for number, t in tensors.items()}
    shapes |= {BIAS: (1, outputs), WEIGHTS: (inputs, outputs), ZERO_POINTS | WEIGHTS: (shape[1], outputs)}
    if input_zeros:
        tensors[ZERO_POINTS | SOURCE], kinds[ZERO_POINTS | SOURCE], shapes[ZERO_POINTS | SOURCE] = x_zero, U8, shape
    attributes = grouped_attributes(dnnl, kinds, group_size)
    layouts = {number: dnnl.layout(shapes[number], kind) for number, kind in kinds.items()}
    description = dnnl.create(
        "matmul_primitive_desc_create",
        dnnl.engine,
        layouts[SOURCE],
        layouts[WEIGHTS],
        layouts[BIAS],
        layouts[RESULT],
        attributes,
    )
    refuse_reference(dnnl, description)
    primitive = dnnl.create("primitive_create", description)
    memories = {number: dnnl.memory(layouts[number], t) for number, t in tensors.items()}
    arguments = (Argument * len(memories))(*(Argument(number, memory) for number, memory in memories.items()))

    def call() -> Tensor:
        dnnl.run(primitive, arguments)
        return tensors[RESULT]  # keeps all tensors, whose addresses the library has

    return Peer(call, tensor, linear(values.flatten(1), codes, zero_point, scale, o.bias), EXACT)


def grouped_attributes(dnnl: Dnnl, kinds: dict[int, int], group_size: int) -> Pointer:
    """Attributes that declare the scales and zero points of a product. `kinds` maps argument number → data type."""
    attributes = dnnl.create("primitive_attr_create")
    for number, kind in kinds.items():
        if number > BIAS:
            sides = (1, group_size) if number & 63 == SOURCE else (group_size, 1)
            name = "scales" if number & SCALES else "zero_points"
            dnnl(f"primitive_attr_set_{name}", attributes, number & 63, 3, 2, sizes(sides), kind)
    return attributes


def refuse_reference(dnnl: Dnnl, description: Pointer) -> None:
    """Raise Missing if the library would use its reference code, which is a thousand times slower than the rest."""
    name = ctypes.c_char_p()
    dnnl("primitive_desc_query", description, IMPLEMENTATION, 0, ctypes.byref(name))
    text = (name.value or b"").decode()
    if text.startswith("ref"):
        raise Missing(f"this oneDNN has only its reference code for this product ({text})")
