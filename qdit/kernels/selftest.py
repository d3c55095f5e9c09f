"""Self-test of a backend: it computes a small case with every weight layout and compares with the reference."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from qdit.kernels import compiled, learning, reference
from qdit.kernels.backend import Backend
from qdit.kernels.packing import PackedWeight, pack_weight, unpack_weight
from qdit.kernels.parts import Parts, branch_bound, channel_step, hadamard_step, make_branch, transformed

TOLERANCE = 1e-6
"""Largest rounding error of a result, as a share of |x̂|·|ŵ|ᵀ + |b|."""

CASES = ((4, 32, 32, False), (4, 12, 96, False), (6, 24, 24, True), (8, 96, 96, False))
"""Weight bits, group size of the weight and of the activations, symmetric activations."""

STATIC = 0.02, 120.0
"""Given scale and zero point."""


@dataclass(frozen=True)
class Operations:
    """The functions of a backend that the self-test calls; they have the arguments of `qdit.kernels.compiled`."""

    grouped_linear: Callable[..., Tensor | None]
    quantize_groups: Callable[..., tuple[Tensor, Tensor, Tensor] | None]
    fake_quantize_groups: Callable[..., Tensor | None]
    fake_quantize_static: Callable[..., Tensor | None]


def disagreement(backend: Backend) -> str | None:
    """Run the self-test on a variant of the compiled library. Return text about the first wrong result, or None."""
    operations = Operations(
        grouped_linear=partial(compiled.grouped_linear, backend, threads=1),
        quantize_groups=partial(compiled.quantize_groups, backend),
        fake_quantize_groups=partial(compiled.fake_quantize_groups, backend, threads=1),
        fake_quantize_static=partial(compiled.fake_quantize_static, backend, threads=1),
    )
    return disagreement_of(operations, "cpu") or _learning(backend)


def _learning(backend: Backend) -> str | None:
    """Text about the first function for reconstruction that a variant computes wrongly; None if all are right."""
    generator = torch.Generator().manual_seed(6)
    x, gradient, base, span = torch.randn(4, 5, 67, generator=generator)
    value, slope = learning.gelu(backend, x)
    bent = (0.7978845608 * (x + 0.044715 * x**3)).tanh()
    of_gelu = (1 + bent + x * (1 - bent**2) * 0.7978845608 * (1 + 3 * 0.044715 * x**2)) / 2
    if not _close(value, x * (1 + bent) / 2) or not _close(slope, of_gelu):
        return "another GELU"
    codes = (x / 0.2).round() + 7
    passed, of_scale = learning.through_grid(backend, x, gradient, 0.2, 7.0, 15)
    on_grid, inside = (codes.clamp(0, 15) - 7) * 0.2, (codes >= 0) & (codes <= 15)
    expected = (gradient * (on_grid - inside * x)).sum() / 0.2
    if not _close(learning.on_grid(backend, x, 0.2, 7.0, 15), on_grid) or not _close(passed, gradient * inside):
        return "another value on the grid of a scale"
    if not _close(torch.tensor(of_scale), expected):
        return "another gradient of a scale"
    weight, state = torch.empty_like(base), learning.RoundingState.of(x.clone(), base, span)
    state.step(backend, gradient, weight, steps=1, rate=0.1, power=3.0, pull=0.08)
    sigmoid = x.sigmoid()
    distance = 2 * (sigmoid * 1.2 - 0.1).clamp(0, 1) - 1
    of_alpha = (gradient * span - 0.08 * distance**3) * 1.2 * sigmoid * (1 - sigmoid) * (distance.abs() < 1)
    alpha = x - 0.1 * of_alpha.sign()  # the first step of Adam, but for its epsilon
    soft, moved = base + (alpha.sigmoid() * 1.2 - 0.1).clamp(0, 1) * span, of_alpha.abs() > 1e-3
    return None if _close(weight[moved], soft[moved]) else "another step of a rounding"


def _close(result: Tensor, expected: Tensor) -> bool:
    return torch.allclose(result, expected, rtol=1e-4, atol=1e-4)


def disagreement_of(operations: Operations, device: str) -> str | None:
    """Run the self-test on operations of a device. Return text about the first wrong result, or None."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(7, 96, generator=generator) * torch.randn(7, 1, generator=generator).exp()
    bias = torch.randn(64, generator=generator)
    there, there_bias = x.to(device), bias.to(device)
    for bits, size, shared, symmetric in CASES:
        if not _same_codes(operations, there, x, size, symmetric=symmetric):
            return f"other activation codes in groups of {size}"
        simulated = operations.fake_quantize_groups(there, size, 8, symmetric=symmetric)
        if not _equal(simulated, reference.fake_quantize_groups(x, size, 8, symmetric=symmetric)):
            return f"another simulation in groups of {size}"
        weight = _weight(bits, size, generator)
        moved = _moved(weight, device)
        y = operations.grouped_linear(
            there, moved, there_bias, activation_bits=8, symmetric=symmetric, input_group=shared
        )
        expected = reference.grouped_linear(x, weight, bias, symmetric=symmetric, input_group=shared)
        most = bound(x, weight, bias, symmetric=symmetric, shared=shared)
        if y is None or not ((y.cpu() - expected).abs() <= most).all():
            return f"{bits}-bit weights in groups of {size}"
    static = torch.tensor(STATIC[:1]), torch.tensor(STATIC[1:])
    moved_static = static[0].to(device), static[1].to(device)
    if not _equal(
        operations.fake_quantize_static(there, *moved_static, 8), reference.fake_quantize_static(x, *static, 8)
    ):
        return "another static simulation"
    y = operations.grouped_linear(
        there, moved, there_bias, activation_bits=8, symmetric=False, input_group=96, static=moved_static
    )
    expected = reference.grouped_linear(x, weight, bias, input_group=96, static=static)
    if y is None or not torch.allclose(y.cpu(), expected, rtol=1e-5, atol=1e-3):
        return "given ranges"
    return _parts(operations, device, x, there, generator)


def _parts(operations: Operations, device: str, x: Tensor, there: Tensor, generator: torch.Generator) -> str | None:
    """Text about a wrong transform before the quantizer or a wrong branch beside the product, or None."""
    width = x.shape[1]
    factor = torch.rand(width, generator=generator) + 0.5
    signs = torch.randint(2, (width,), generator=generator) * 2 - 1
    steps = (channel_step("divide", factor), channel_step("multiply", signs), hadamard_step(32))
    up, down = (torch.randn(shape, generator=generator) for shape in ((64, 5), (5, width)))
    parts = Parts(steps, make_branch(up, down))
    weight = _weight(4, 24, generator)
    options = {"activation_bits": 8, "symmetric": False, "input_group": 24}
    y = operations.grouped_linear(there, _moved(weight, device), None, parts=parts.to(device), **options)
    expected = reference.grouped_linear(x, weight, parts=parts)
    entered = transformed(x, steps)
    assert parts.branch is not None
    most = bound(entered, weight, None) + branch_bound(entered, parts.branch)
    return None if y is not None and ((y.cpu() - expected).abs() <= most).all() else "a transform or a branch"


def bound(
    x: Tensor, weight: PackedWeight, bias: Tensor | None, *, symmetric: bool = False, shared: int | None = None
) -> Tensor:
    """Compute the largest allowed error of each output: 1e-6 · (|x̂|·|ŵ|ᵀ + |b|), in float64."""
    codes, zero_point, scale = unpack_weight(weight)
    values = (codes.unflatten(1, (-1, weight.group_size)) - zero_point[..., None]).double() * scale.double()[..., None]
    inputs = reference.fake_quantize_groups(x.double(), shared or weight.group_size, 8, symmetric=symmetric)
    size = inputs.abs() @ values.flatten(1).abs().T
    return TOLERANCE * (size if bias is None else size + bias.double().abs())


def _weight(bits: int, size: int, generator: torch.Generator) -> PackedWeight:
    shape = (64, 96 // size)
    codes = torch.randint(2**bits, (64, 96), generator=generator, dtype=torch.int16)
    zero_point = torch.randint(2**bits, shape, generator=generator, dtype=torch.int16)
    return pack_weight(codes, torch.rand(shape, generator=generator) + 0.1, zero_point, bits=bits)


def _moved(weight: PackedWeight, device: str) -> PackedWeight:
    """The weight on a device. If it is there already, the same object is returned."""
    if device == "cpu":
        return weight
    tensors = {name: value.to(device) for name, value in vars(weight).items() if isinstance(value, Tensor)}
    return PackedWeight(**{**vars(weight), **tensors})


def _same_codes(operations: Operations, there: Tensor, x: Tensor, size: int, *, symmetric: bool) -> bool:
    result = operations.quantize_groups(there, size, 8, symmetric=symmetric)
    if result is None:
        return False
    codes, scale, zero_point = reference.quantize_groups(x, size, 8, symmetric=symmetric)
    expected = (codes.flatten(-2).to(torch.uint8), scale, zero_point)
    return all(_equal(*pair) for pair in zip(result, expected, strict=True))


def _equal(result: Tensor | None, expected: Tensor) -> bool:
    return result is not None and torch.equal(result.cpu(), expected)
