"""Inputs, weights and the float64 result that the kernels' tests share."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from torch import Tensor

from qdit.core.affine import minmax_asymmetric, minmax_symmetric
from qdit.core.errors import ConfigError
from qdit.kernels import building, library
from qdit.kernels.backend import Backend
from qdit.kernels.library import declare_linear

SOURCES = ("amx", "avx2", "avx512", "avxvnni", "driver", "floats", "linear", "neon", "scalar")
"""What the linear consists of; a library of these alone is built in seconds."""

KINDS = ("random", "constant", "positive", "negative", "huge", "tiny", "outliers", "zero", "rows")


def variant(name: str) -> Backend:
    """A compiled backend, or skip."""
    try:
        return library.select(name)
    except ConfigError as reason:
        pytest.skip(str(reason))


def inputs(kind: str, shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    match kind:
        case "constant":
            return torch.full(shape, float(x.flatten()[0]))
        case "positive":
            return x.abs() + 0.5
        case "negative":
            return -x.abs() - 0.5
        case "huge":
            return x * 1e30
        case "tiny":
            return x * 1e-30
        case "outliers":
            return torch.where(torch.rand(shape, generator=generator) < 0.02, 100 * x, 1e-3 * x)
        case "zero":
            return torch.zeros(shape)
        case "rows":
            return x * torch.randn((*shape[:-1], 1), generator=generator).mul(5).exp()
        case _:
            return x


def weight_of(
    bits: int, outputs: int, width: int, size: int, seed: int, kind: str = "random"
) -> tuple[Tensor, Tensor, Tensor]:
    """(codes, scale, zero_point) as a quantized weight stores them."""
    generator = torch.Generator().manual_seed(seed)
    shape = (outputs, width // size)
    codes = torch.randint(2**bits, (outputs, width), generator=generator, dtype=torch.int16)
    scale = (torch.randn(shape, generator=generator) * 2 - 5).exp().half()
    zero_point = torch.randint(2**bits, shape, generator=generator, dtype=torch.int16)
    if kind == "constant":
        codes, zero_point = torch.full_like(codes, 2**bits - 1), torch.zeros_like(zero_point)
        scale = torch.full_like(scale, 0.0123)
    elif kind == "symmetric":
        zero_point = torch.full_like(zero_point, 2 ** (bits - 1))
    return codes, scale, zero_point


def exact(
    x: Tensor, weight: tuple[Tensor, Tensor, Tensor], bias: Tensor | None, bits: int, *, symmetric: bool
) -> tuple[Tensor, Tensor]:
    """(x̂·ŵᵀ + b, |x̂|·|ŵ|ᵀ + |b|) in float64, from float32 codes: quantize-dequantize as the simulated mode does it."""
    codes, scale, zero_point = weight
    size = codes.shape[1] // scale.shape[1]
    groups = x.unflatten(-1, (-1, size))
    rule = minmax_symmetric if symmetric else minmax_asymmetric
    step, zero = (t.unsqueeze(-1) for t in rule(groups.amin(-1), groups.amax(-1), bits))
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if symmetric else (0, 2**bits - 1)
    quantized = ((groups / step).round() + zero).clamp(low, high)
    values = ((quantized - zero).double() * step.double()).flatten(-2)
    weights = (codes.unflatten(1, (-1, size)) - zero_point.unsqueeze(-1)).double() * scale.double().unsqueeze(-1)
    weights = weights.flatten(1)
    offset = torch.zeros(len(codes)) if bias is None else bias
    return values @ weights.T + offset.double(), values.abs() @ weights.abs().T + offset.double().abs()


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal to the last bit, signs of zeros included."""
    return torch.equal(a.view(torch.int32), b.view(torch.int32))


def x86_compiler() -> str:
    """A compiler for this x86-64 machine, or skip."""
    found = shutil.which("g++") or shutil.which("c++")
    if found is None:
        pytest.skip("no C++ compiler")
    version = subprocess.run([found, "-dumpmachine"], capture_output=True, text=True, check=True, timeout=60).stdout
    if not version.startswith("x86_64"):
        pytest.skip("the instructions are those of x86-64")
    return found


def emulated_library(folder: Path) -> ctypes.CDLL:
    """The linear with AMX emulated and AVX-VNNI in the encoding of AVX-512, compiled once in this folder."""
    path, compiler = folder / "emulated.so", x86_compiler()
    with FileLock(folder / ".emulated.lock"):
        if not path.exists():
            sources = [building.SOURCES / f"{name}.cpp" for name in SOURCES]
            flags = [*building.FLAGS, *building.EXACT, "-O1", "-DQDIT_AMX_EMULATED", "-DQDIT_VNNI_AS_EVEX"]
            subprocess.run([compiler, *flags, "-o", f"{path}.new", *sources], check=True, timeout=300)
            Path(f"{path}.new").rename(path)
    compiled_library = ctypes.CDLL(str(path))
    declare_linear(compiled_library)
    return compiled_library


def disassembled(source: str, folder: Path) -> list[str]:
    """Lines of the machine code of one source file, or skip."""
    if shutil.which("objdump") is None:
        pytest.skip("no objdump")
    path = folder / f"{source}.o"
    command = [x86_compiler(), *building.FLAGS, *building.EXACT, "-c", "-o", path, building.SOURCES / source]
    subprocess.run(command, check=True, timeout=300)
    dump = subprocess.run(["objdump", "-d", path], capture_output=True, text=True, check=True, timeout=60)
    return dump.stdout.splitlines()
