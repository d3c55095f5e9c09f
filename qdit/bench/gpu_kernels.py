"""Sections of `qdit bench gpu` about kernels: the GPU's peak speeds, correctness, and speed compared with cuBLAS."""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qdit.bench.gpu_clock import Scale, attempt, milliseconds, wall
from qdit.bench.gpu_goals import CHANNEL
from qdit.bench.layers import DIT_XL_LINEARS, random_packed
from qdit.kernels import dispatch, reference
from qdit.kernels.inputs import GeluInput, LateInput, ModulatedInput
from qdit.kernels.packing import PackedWeight
from qdit.kernels.selftest import bound

GROUPS = (32, 64, 96, 128, 192, 288)
PROCESSES = 8
"""That check kernels at the same time: most of their time is compilation."""
LARGEST_PART = 288
"""Larger groups that are whole rows have a kernel of their own."""
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def reached(scale: Scale) -> dict[str, Any]:
    """Measure the GPU's peak speeds: operations per second of square matrix products, bytes per second of a copy."""
    size = 256 if scale.quick else 8192
    measured: dict[str, Any] = {"torch": torch.__version__}
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        left, right = (torch.randn(size, size, device=scale.device, dtype=dtype) for _ in range(2))
        name = str(dtype).removeprefix("torch.")
        measured[f"TFLOP/s {name}"] = 2e-9 * size**3 / milliseconds(scale, partial(torch.mm, left, right), 5)
    codes = torch.randint(-127, 128, (size, size), device=scale.device, dtype=torch.int8)
    measured["TOP/s int8"] = attempt(
        lambda: 2e-9 * size**3 / milliseconds(scale, partial(torch._int_mm, codes, codes.t()), 5)
    )
    numbers = torch.empty(1 << (20 if scale.quick else 29), device=scale.device)
    measured["copy TB/s"] = 2e-9 * numbers.nbytes / milliseconds(scale, numbers.clone, 5)
    return measured


def selftest(scale: Scale) -> dict[str, Any]:
    """Say whether the Triton backend accepts this GPU. If not, `refusal` is the reason."""
    if not scale.is_cuda:
        return {"refusal": "the device is a CPU"}
    from qdit.kernels.triton_backend import refusal

    return {"refusal": refusal(scale.device)}


def correct(scale: Scale) -> dict[str, Any]:
    """Compare the kernels with the reference: every group size, odd shapes, three float types, W4, W6 and W8.

    Return the number of cases, the wrong cases, and the largest error as a share of its bound.
    """
    sizes = (32, 96, 16, 36) if scale.quick else (*GROUPS, 16, 36, 576, 1152)
    if scale.quick:
        parts = [_checked(scale, sizes)]
    else:  # Triton compiles one kernel after the other in a process
        with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
            parts = list(pool.map(partial(_checked, scale), [sizes[n::PROCESSES] for n in range(PROCESSES)]))
    wrong = [case for part in parts for case in part["wrong"]]
    worst = max(part["worst"] for part in parts)
    return {"cases": sum(part["cases"] for part in parts), "wrong": wrong, "largest share of the bound": worst}


def _checked(scale: Scale, sizes: tuple[int, ...]) -> dict[str, Any]:
    """Results of the cases of some group sizes."""
    wrong, cases, worst = [], 0, 0.0
    draw = torch.Generator().manual_seed(0)
    for size in sizes:
        for name, share in [*_linears(scale, size, draw), *_quantizers(scale, size, draw), *_late(scale, size, draw)]:
            cases, worst = cases + 1, max(worst, share)
            if not share <= 1:
                wrong.append(name)
    return {"cases": cases, "wrong": wrong, "worst": worst}


def _linears(scale: Scale, size: int, draw: torch.Generator) -> Iterator[tuple[str, float]]:
    """Case → largest error of a grouped linear as a share of the bound."""
    width = size * (5 if size < 200 else 2)
    widths = (width, size) if size > LARGEST_PART else (width,)  # also one range for each token and channel
    outputs_at = {4: 177, 6: 64, 8: 130}
    shapes: list[tuple[int, int, int, tuple[torch.dtype, ...], int]]
    shapes = [(bits, outputs, 257, FLOATS, width) for width in widths for bits, outputs in outputs_at.items()]
    shapes += [(bits, 48, 1, (dtype,), width) for bits, dtype in zip((4, 6, 8), FLOATS, strict=True)]
    for bits, outputs, rows, dtypes, width in shapes:
        packed = random_packed(width, outputs, size, bits)
        kinds = [(dtype, False) for dtype in dtypes] + [(torch.float32, True)] * ((bits, rows) == (4, 257))
        for dtype, symmetric in kinds:
            x = (torch.randn(rows, width, generator=draw) * torch.randn(rows, 1, generator=draw).exp()).to(dtype)
            bias = torch.randn(outputs, generator=draw)
            there = x.to(scale.device), packed.to(scale.device), bias.to(scale.device)
            y = dispatch.grouped_linear(*there, symmetric=symmetric).cpu()
            expected = reference.grouped_linear(x.float(), packed, bias, symmetric=symmetric)
            allowed = bound(x.float(), packed, bias, symmetric=symmetric) + _rounding(expected, dtype)
            share = (y.float() - expected).abs() / allowed
            name = f"linear g{size} W{bits} {rows}x{width}x{outputs} {dtype} symmetric={symmetric}"
            yield name, float(share.max())


def _late(scale: Scale, size: int, draw: torch.Generator) -> Iterator[tuple[str, float]]:
    """Case → 0 where a LayerNorm or a GELU in the pass that quantizes gives the bits of two passes, else infinity."""
    packed = random_packed(2 * size, 70, size, 4).to(scale.device)
    for dtype in FLOATS:
        x, modulation = torch.randn(3, 5, 2 * size, generator=draw), torch.randn(2, 3, 2 * size, generator=draw)
        there, (shift, factor) = x.to(scale.device, dtype), modulation.to(scale.device)
        for late in (ModulatedInput(there, shift, factor), GeluInput(there)):
            two = dispatch.grouped_linear(dispatch.computed(late), packed)
            same = torch.equal(dispatch.grouped_linear(late, packed), two)
            near = torch.allclose(dispatch.computed(late).float(), late.computed().float(), rtol=0.02, atol=0.02)
            yield f"{type(late).__name__} g{size} {dtype}", 0.0 if same and near else float("inf")
            for name, simulate in _simulations(scale, size).items():
                same = torch.equal(simulate(late), simulate(dispatch.computed(late)))
                yield f"{name} simulation of a {type(late).__name__} g{size} {dtype}", 0.0 if same else float("inf")


def _simulations(scale: Scale, size: int) -> dict[str, Callable[[Tensor | LateInput], Tensor]]:
    """The input quantizers of the simulated mode in half precision, for two groups of this size."""
    scales = torch.tensor([0.02, 0.03], device=scale.device)
    zero_points, half = torch.tensor([120, 3], device=scale.device), torch.float16
    return {
        "dynamic": lambda x: dispatch.narrow_groups(x, size, 8, half, symmetric=False),
        "static": lambda x: dispatch.narrow_static(x, scales, zero_points, 8, half),
    }


def _rounding(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor | float:
    """Largest error of rounding float32 values to a type: half a unit in the last place."""
    if dtype is torch.float32:
        return 0.0
    limits = torch.finfo(dtype)
    return values.abs().clamp(min=limits.tiny) * (limits.eps / 2)


def _quantizers(scale: Scale, size: int, draw: torch.Generator) -> Iterator[tuple[str, float]]:
    """Case → 0 where a fake quantizer has the reference's bits, else infinity."""
    values, ranges = torch.randn(33, 2 * size, generator=draw), (torch.tensor([0.02, 0.03]), torch.tensor([120, 3]))
    scales, zero_points = ranges[0], ranges[1].int()
    for dtype in FLOATS:
        x = values.to(dtype)
        there = x.to(scale.device)
        dynamic = dispatch.fake_quantize_groups(there, size, 8).cpu()
        static = dispatch.fake_quantize_static(there, scales.to(scale.device), zero_points.to(scale.device), 8).cpu()
        narrow = dispatch.narrow_groups(there, size, 8, torch.float16, symmetric=False).cpu()
        for name, result, expected in (
            ("narrow", narrow, reference.fake_quantize_groups(x.float(), size, 8).half()),
            ("dynamic", dynamic, reference.fake_quantize_groups(x, size, 8)),
            ("static", static, reference.fake_quantize_static(x, scales, zero_points, 8)),
        ):
            yield f"{name} ranges g{size} {dtype}", 0.0 if torch.equal(result, expected) else float("inf")


def speed(scale: Scale) -> dict[str, Any]:
    """Milliseconds of the grouped linear, cuBLAS, an int8 product without scales, and the input quantizer alone."""
    measured: dict[str, Any] = {}
    linears = ((96, 144),) if scale.quick else DIT_XL_LINEARS
    for rows, shapes in ((64, linears),) if scale.quick else ((25600, linears), (8192, linears)):
        for inputs, outputs in shapes:
            with torch.inference_mode():
                times = _times(scale, rows, inputs, outputs)
            measured[f"{rows}x{inputs}->{outputs}"] = {
                name: round(value, 4) if isinstance(value, float) else value for name, value in times.items()
            }
    return measured


def _times(scale: Scale, rows: int, inputs: int, outputs: int) -> dict[str, Any]:
    """Milliseconds by name of one shape."""
    x, w, bias = (torch.randn(*shape, device=scale.device) for shape in ((rows, inputs), (outputs, inputs), (outputs,)))
    times: dict[str, Any] = {}
    for dtype in (torch.bfloat16, torch.float16):
        half = [tensor.to(dtype) for tensor in (x, w, bias)]
        times[str(dtype).removeprefix("torch.")] = milliseconds(scale, partial(F.linear, *half))
    codes = [torch.randint(-127, 128, t.shape, device=scale.device, dtype=torch.int8) for t in (x, w)]
    times["_int_mm"] = attempt(lambda: milliseconds(scale, partial(torch._int_mm, codes[0], codes[1].t())))
    sizes = {f"g{size}": size for size in ((32, 96) if scale.quick else GROUPS)} | {CHANNEL: inputs}
    narrow = x.to(torch.bfloat16)
    for name, size in sizes.items():
        packed = random_packed(inputs, outputs, size, 4).to(scale.device)
        call = partial(dispatch.grouped_linear, narrow, packed, bias)
        times[name] = attempt(partial(milliseconds, scale, call))
        times[f"{name} wall"] = attempt(partial(wall, scale, call))
        times[f"{name} float32"] = attempt(partial(milliseconds, scale, partial(dispatch.grouped_linear, x, packed)))
        ranges = torch.full((inputs // size,), 0.03, device=scale.device)
        static = partial(dispatch.grouped_linear, narrow, packed, bias, static=(ranges, torch.full_like(ranges, 117)))
        times[f"{name} static"] = attempt(partial(milliseconds, scale, static))
        if scale.is_cuda:
            apart = attempt(partial(_apart, scale, narrow, packed, name))
            times |= apart if isinstance(apart, dict) else {f"{name} quantize": apart}
    return times


def inputs(scale: Scale) -> dict[str, Any]:
    """Milliseconds of the operations before a linear: modulated LayerNorm or GELU, followed by the input quantizer.

    They run in three ways. `torch` uses torch's operations and our quantizer, `two passes` uses a kernel of ours for
    each, and `fused` is one kernel. Each way writes codes for the integer linear, or half-precision values for the
    simulated one.
    """
    samples, tokens, width, size = (2, 4, 48, 16) if scale.quick else (100, 256, 1152, 128)
    x = torch.randn(samples, tokens, width, device=scale.device)
    shift, factor = torch.randn(2, samples, width, device=scale.device)
    hidden = torch.randn(samples, tokens, 4 * width, device=scale.device, dtype=torch.float16)
    measured: dict[str, Any] = {}
    for late in (ModulatedInput(x, shift, factor), GeluInput(hidden)):
        ways: dict[str, Callable[[], Tensor | LateInput]] = {
            "torch": late.computed,
            "two passes": partial(dispatch.computed, late),
            "fused": lambda late=late: late,  # type: ignore[misc]
        }
        measured[type(late).__name__] = {
            f"{way}, {kind}": attempt(partial(milliseconds, scale, partial(_after, kind, first, size)))
            for kind in ("codes", "half", "half, static")
            for way, first in ways.items()
        }
    return measured


def _after(kind: str, first: Callable[[], Tensor | LateInput], size: int) -> object:
    """The codes, or the values in half precision, of what `first` gives."""
    x = first()
    if kind == "half":
        return dispatch.narrow_groups(x, size, 8, torch.float16, symmetric=False)
    if kind == "codes":
        return dispatch.quantized_rows(x, size, 8)
    device = (x if isinstance(x, Tensor) else x.x).device
    ranges = torch.full((1,), 0.03, device=device), torch.full((1,), 117, device=device)
    return dispatch.narrow_static(x, *ranges, 8, torch.float16)


def _apart(scale: Scale, x: Tensor, packed: PackedWeight, name: str) -> dict[str, float]:
    """Milliseconds of the quantizer of the input alone, and of the product of codes alone."""
    from qdit.kernels.triton_linear import multiply
    from qdit.kernels.triton_quantize import quantize_rows
    from qdit.kernels.triton_weight import wide_weight

    size = x.shape[-1] if name == CHANNEL else packed.group_size
    wide = wide_weight(packed, whole=size == x.shape[-1])
    options = {"shared": size, "size": wide.size, "padded": wide.padded, "symmetric": False, "static": None}
    quantize = partial(quantize_rows, x, 8, totals=wide.zeros is not None, **options)  # type: ignore[arg-type]
    y = torch.empty(len(x), packed.outputs, device=x.device, dtype=x.dtype)
    product = partial(multiply, quantize(), wide, None, (None, None), y, size // wide.size)
    return {f"{name} quantize": milliseconds(scale, quantize), f"{name} product": milliseconds(scale, product)}
