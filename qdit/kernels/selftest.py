"""A small case with every layout of a weight, computed by a backend and by the reference."""

import torch
from torch import Tensor

from qdit.kernels import compiled, reference
from qdit.kernels.library import Backend
from qdit.kernels.packing import PackedWeight, pack_weight, unpack_weight

TOLERANCE = 1e-6
"""Of |x̂|·|ŵ|ᵀ + |b|: what rounding may change (issue 5)."""

CASES = ((4, 32, False), (4, 12, False), (6, 24, True), (8, 96, False))
"""Weight bits, group size, symmetric activations."""


def disagreement(backend: Backend) -> str | None:
    """What a backend computes wrongly, or None."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(7, 96, generator=generator) * torch.randn(7, 1, generator=generator).exp()
    bias = torch.randn(64, generator=generator)
    for bits, size, symmetric in CASES:
        shape = (64, 96 // size)
        codes = torch.randint(2**bits, (64, 96), generator=generator, dtype=torch.int16)
        zero_point = torch.randint(2**bits, shape, generator=generator, dtype=torch.int16)
        weight = pack_weight(codes, torch.rand(shape, generator=generator) + 0.1, zero_point, bits=bits)
        name = f"{bits}-bit weights in groups of {size}"
        if not _same_codes(backend, x, size, symmetric=symmetric):
            return f"other activation codes in groups of {size}"
        simulated = compiled.fake_quantize_groups(backend, x, size, 8, symmetric=symmetric, threads=1)
        if simulated is None or not torch.equal(
            simulated, reference.fake_quantize_groups(x, size, 8, symmetric=symmetric)
        ):
            return f"another simulation in groups of {size}"
        y = compiled.grouped_linear(backend, x, weight, bias, activation_bits=8, symmetric=symmetric, threads=1)
        expected = reference.grouped_linear(x, weight, bias, symmetric=symmetric)
        if y is None or not ((y - expected).abs() <= bound(x, weight, bias, symmetric=symmetric)).all():
            return name
    scale, zero_point = torch.tensor([0.02]), torch.tensor([120.0])
    static = compiled.fake_quantize_static(backend, x, scale, zero_point, 8, threads=1)
    if static is None or not torch.equal(static, reference.fake_quantize_static(x, scale, zero_point, 8)):
        return "another static simulation"
    return None


def bound(x: Tensor, weight: PackedWeight, bias: Tensor | None, *, symmetric: bool = False) -> Tensor:
    """How far each output may be from the exact one: 1e-6 · (|x̂|·|ŵ|ᵀ + |b|), in float64."""
    codes, zero_point, scale = unpack_weight(weight)
    values = (codes.unflatten(1, (-1, weight.group_size)) - zero_point[..., None]).double() * scale.double()[..., None]
    inputs = reference.fake_quantize_groups(x.double(), weight.group_size, 8, symmetric=symmetric)
    size = inputs.abs() @ values.flatten(1).abs().T
    return TOLERANCE * (size if bias is None else size + bias.double().abs())


def _same_codes(backend: Backend, x: Tensor, size: int, *, symmetric: bool) -> bool:
    found = compiled.quantize_groups(backend, x, size, 8, symmetric=symmetric)
    if found is None:
        return False
    codes, scale, zero_point = reference.quantize_groups(x, size, 8, symmetric=symmetric)
    expected = (codes.flatten(-2).to(torch.uint8), scale, zero_point)
    return all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
