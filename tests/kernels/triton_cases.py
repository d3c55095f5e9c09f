"""The Triton kernels in Triton's interpreter; test_triton.py runs this file in a process of its own.

Triton decides when it is imported whether it compiles or interprets: TRITON_INTERPRET=1 must be set before.
"""

import pytest
import torch

from qdit.core.errors import Unsupported
from qdit.kernels import (
    compiled,
    dispatch,
    flags,
    library,
    reference,
    triton_backend,
    triton_linear,
    triton_quantize,
    triton_transform,
)
from qdit.kernels.packing import pack_weight
from qdit.kernels.parts import Parts, branch_bound, channel_step, hadamard_step, make_branch, transformed
from qdit.kernels.selftest import disagreement_of
from tests.kernels.cases import KINDS, exact, inputs, same_bits, weight_of

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy, of NaN and infinity


@pytest.fixture
def on_triton(monkeypatch):
    """The dispatcher takes the tensors at hand for CUDA tensors."""
    monkeypatch.setattr(dispatch, "_on_triton", lambda x, *others: True)


LINEARS = [
    # weight bits, group size, width, outputs, rows, symmetric
    (4, 32, 96, 50, 7, False),
    (4, 12, 48, 5, 3, True),
    (6, 36, 144, 70, 5, False),
    (8, 96, 192, 130, 40, False),
    (4, 32, 544, 20, 9, False),  # more groups than a part
    (8, 288, 576, 20, 9, False),
    (6, 1152, 1152, 20, 9, True),  # a group in several parts
    (8, 4, 16, 3, 1, False),
]


EVERY_KIND = ("random", "constant", "positive", "huge", "tiny", "outliers")
"""For one linear with ragged rows and outputs; the others have what their own path can go wrong with."""


def kinds_of(problem):
    """Kinds of inputs for a linear: all, a few of the small ones, one of those with several parts."""
    rows = problem[4]
    return EVERY_KIND if rows == 5 else ("random", "huge") if rows < 5 else ("random",)


@pytest.mark.parametrize(
    ("problem", "kind"),
    [(problem, kind) for problem in LINEARS for kind in kinds_of(problem)],
    ids=str,
)
def test_linear_is_within_1e_6_of_quantize_dequantize_in_float64(problem, kind):
    bits, size, width, outputs, rows, symmetric = problem
    weight = weight_of(bits, outputs, width, size, 0)
    x, bias = inputs(kind, (rows, width), 1), torch.randn(outputs) if bits != 6 else None
    packed = pack_weight(*weight, bits=bits)
    y = triton_linear.grouped_linear(x, packed, bias, activation_bits=8, symmetric=symmetric)
    expected, sizes = exact(x, weight, bias, 8, symmetric=symmetric)
    assert y is not None and ((y - expected).abs() <= 1e-6 * sizes).all()
    backend = library.backend()
    if backend.library is not None and width <= 512:  # the same parts: the same bits as on CPUs
        on_cpu = compiled.grouped_linear(
            backend, x, packed, bias, activation_bits=8, symmetric=symmetric, threads=1, input_group=None
        )
        assert on_cpu is not None and same_bits(y, on_cpu)


@pytest.mark.parametrize("static", [False, True])
def test_linear_with_ranges_that_are_shared_or_given(on_triton, static):
    weight = weight_of(8, 20, 96, 12, 0)
    packed, x = pack_weight(*weight, bits=8), inputs("random", (2, 5, 96), 1)
    ranges = (torch.tensor([0.02, 0.03]), torch.tensor([120.0, 3.0])) if static else None
    y = dispatch.grouped_linear(x, packed, input_group=48, static=ranges)
    expected = reference.grouped_linear(x, packed, input_group=48, static=ranges)
    assert y.shape == (2, 5, 20) and torch.allclose(y, expected, rtol=1e-5, atol=1e-4)


def test_zero_points_outside_the_codes():
    codes, scale, zero_point = weight_of(4, 50, 64, 32, 0)
    for shift in (-100, 300):
        weight = (codes, scale, zero_point + shift)
        x = inputs("random", (5, 64), 0)
        expected, sizes = exact(x, weight, None, 8, symmetric=False)
        y = triton_linear.grouped_linear(x, pack_weight(*weight, bits=4), None, activation_bits=8, symmetric=False)
        assert y is not None and ((y - expected).abs() <= 1e-6 * sizes).all()


@pytest.mark.parametrize("size", [4, 32, 36, 288])
@pytest.mark.parametrize("symmetric", [False, True])
def test_codes_are_those_of_the_reference(size, symmetric):
    for kind in KINDS:
        x = inputs(kind, (3, 3 * size), size)
        codes, scale, zero = reference.quantize_groups(x, size, 8, symmetric=symmetric)
        result = triton_quantize.quantize_groups(x, size, 8, symmetric=symmetric)
        assert torch.equal(result[0].float(), codes.flatten(-2)), kind
        assert same_bits(result[1], scale) and torch.equal(result[2], zero)


# Not bfloat16: the interpreter cuts off where a GPU rounds. test_triton.py looks into the compiled code instead.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("size", [4, 12, 32, 288])
def test_simulation_is_that_of_the_reference(on_triton, dtype, size):
    for kind in KINDS:
        for bits, symmetric in ((8, False), (4, True)):
            x = inputs(kind, (1, 3, 2 * size), size).to(dtype)
            result = dispatch.fake_quantize_groups(x, size, bits, symmetric=symmetric)
            expected = reference.fake_quantize_groups(x, size, bits, symmetric=symmetric)
            assert result.dtype == dtype and torch.equal(result.nan_to_num(7), expected.nan_to_num(7)), kind


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize(("dtype", "scale_dtype"), [(0, 0), (1, 0), (1, 1)])
def test_static_simulation_is_that_of_the_reference(on_triton, groups, dtype, scale_dtype):
    types = (torch.float32, torch.float16)
    scale, zero = (torch.rand(groups) + 0.1).to(types[scale_dtype]), torch.arange(groups) * 40 - 20
    for kind in ("random", "outliers", "rows", "zero"):
        x = inputs(kind, (7, 36), groups).to(types[dtype])
        result = dispatch.fake_quantize_static(x, scale, zero, 8)
        expected = reference.fake_quantize_static(x, scale, zero, 8)
        assert result.dtype == expected.dtype and torch.equal(result, expected), kind


@pytest.mark.parametrize("source", [torch.float32, torch.float16])
def test_narrow_results_have_the_bits_of_three_passes(on_triton, source, narrow=torch.float16):
    """To float32, quantizer, to half precision: what a linear's input goes through under autocast.

    Triton's interpreter cuts bfloat16 off instead of rounding, so `test_triton.py` looks at the instruction.
    """
    scale, zero = torch.rand(3) + 0.1, torch.arange(3) * 40 - 20
    for kind in KINDS:
        for bits, symmetric in ((8, False), (4, True)):
            x = inputs(kind, (1, 3, 72), 36).to(source)
            result = dispatch.narrow_groups(x, 36, bits, narrow, symmetric=symmetric)
            expected = reference.fake_quantize_groups(x.float(), 36, bits, symmetric=symmetric).to(narrow)
            assert result.dtype == narrow and torch.equal(result.nan_to_num(7), expected.nan_to_num(7)), kind
        x = inputs(kind, (7, 36), 3).to(source)
        result = dispatch.narrow_static(x, scale, zero, 8, narrow)
        expected = reference.fake_quantize_static(x.float(), scale, zero, 8).to(narrow)
        assert result.dtype == narrow and torch.equal(result.nan_to_num(7), expected.nan_to_num(7)), kind


def test_ties_round_as_the_division_does():
    step = torch.rand(64, 1) * 3 + 1e-3
    x = (torch.randint(255, (64, 32)) + 0.5) * step
    x[:, 0], x[:, 1] = 0, 255 * step[:, 0]
    result = triton_quantize.fake_quantize_groups(x, 32, 8, symmetric=False)
    assert same_bits(result, reference.fake_quantize_groups(x, 32, 8))


@pytest.mark.parametrize("damage", [float("inf"), float("-inf"), float("nan")])
def test_what_is_not_finite_is_an_error_or_comes_out_as_from_the_reference(on_triton, damage):
    x = inputs("random", (4, 72), 0)
    x[1, 2] = damage
    with pytest.raises(Unsupported, match="not finite"):
        dispatch.grouped_linear(x, pack_weight(*weight_of(4, 5, 72, 36, 0), bits=4))
    result, expected = (f.fake_quantize_groups(x, 36, 8) for f in (dispatch, reference))
    assert torch.equal(result.nan_to_num(7), expected.nan_to_num(7))
    static = torch.tensor([0.1]), torch.tensor([3])
    result, expected = (f.fake_quantize_static(x, *static, 8) for f in (dispatch, reference))
    assert torch.equal(result.nan_to_num(7), expected.nan_to_num(7))


def test_a_result_that_is_not_finite_is_an_error(on_triton):
    codes, scale, zero_point = weight_of(4, 50, 64, 32, 0, "constant")
    packed = pack_weight(codes, torch.full_like(scale, 60000), zero_point, bits=4)
    with pytest.raises(Unsupported, match="not finite"):
        dispatch.grouped_linear(torch.full((5, 64), 1e38), packed)


def test_unpacked_weights_follow_the_packed_ones():
    packed = pack_weight(*weight_of(4, 5, 32, 32, 0), bits=4)
    first = triton_linear.wide_weight(packed)
    assert triton_linear.wide_weight(packed) is first
    packed.codes.copy_(pack_weight(*weight_of(4, 5, 32, 32, 1), bits=4).codes)
    assert not torch.equal(triton_linear.wide_weight(packed).codes, first.codes)


def test_the_self_test_passes_and_sees_a_wrong_kernel(monkeypatch):
    assert disagreement_of(triton_backend.operations(), "cpu") is None
    wide = triton_linear.wide_weight
    monkeypatch.setattr(triton_linear, "padded_size", lambda size: -(-size // 32) * 32 + 32 * (size == 24))
    triton_linear._WIDE.clear()
    assert wide is triton_linear.wide_weight
    assert disagreement_of(triton_backend.operations(), "cpu") is not None


TRANSFORMED = [
    # weight bits, group size, width, outputs, rows, Hadamard block (0: none), rank (0: no branch), shared inputs
    (4, 32, 128, 50, 7, 64, 5, 32),  # several ranges in a block
    (4, 36, 144, 20, 3, 16, 0, 36),  # blocks and groups that cross each other
    (6, 96, 192, 60, 5, 4, 20, 192),  # several blocks in a range
    (8, 12, 48, 5, 2, 0, 33, 12),
]


def parts_of(width, outputs, block, rank):
    draw = torch.randn(3, width, generator=torch.Generator().manual_seed(width))
    steps = [channel_step("divide", draw[0].exp()), channel_step("subtract", draw[1])]
    steps += [channel_step("multiply", draw[2].sign()), hadamard_step(block)] if block else []
    factors = (torch.randn(outputs, rank).half(), torch.randn(rank, width).half()) if rank else None
    return Parts(tuple(steps), None if factors is None else make_branch(*factors))


@pytest.mark.parametrize("problem", TRANSFORMED, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_transform_and_branch(on_triton, problem, dtype):
    bits, size, width, outputs, rows, block, rank, shared = problem
    parts, x = parts_of(width, outputs, block, rank), inputs("random", (rows, width), 1).to(dtype)
    packed = pack_weight(*weight_of(bits, outputs, width, size, 0), bits=bits)
    bias = torch.randn(outputs)
    y = dispatch.grouped_linear(x, packed, bias, parts=parts, input_group=shared)
    expected = reference.grouped_linear(x.float(), packed, bias, parts=parts, input_group=shared)
    entered = transformed(x, parts.steps)
    most = 1e-5 * expected.abs().double() + 1e-5
    if parts.branch is not None:
        most += 4 * branch_bound(entered, parts.branch)  # sums of 128 and more inputs
    most += 1e-3 * expected.abs() if dtype == torch.float16 else 0
    assert y.dtype == dtype and ((y - expected).abs() <= most).all()
    plain = triton_quantize.quantize_groups(x, size, 8, symmetric=False)[0]
    codes = (
        triton_quantize.quantize_rows(
            x, 8, shared=size, size=size, symmetric=False, static=None, totals=False, steps=parts.steps
        )
        .codes.view(rows, -1, triton_quantize.padded_size(size))[..., :size]
        .int()
        + 128
    )
    wanted = reference.quantize_groups(entered, size, 8)[0]
    assert torch.equal(codes.float(), wanted) and not torch.equal(codes.flatten(1).to(torch.uint8), plain)


@pytest.mark.parametrize("size", [2, 32, 128])
def test_a_narrow_row_is_the_product_of_the_transformed_row(size):
    parts, x = parts_of(128, 50, size, 7), inputs("rows", (5, 128), 2)
    narrow = triton_transform.narrow_rows(x, parts.branch, parts.steps)
    entered = transformed(x, parts.steps).double()
    expected, sizes = entered @ parts.branch.down.double(), entered.abs() @ parts.branch.down.double().abs()
    assert ((narrow.T - expected).abs() <= 140 * 2.0**-24 * sizes).all()


def test_too_many_steps_are_computed_before_the_kernel(on_triton):
    steps = parts_of(48, 5, 0, 0).steps * 3
    assert not triton_transform.fit(steps, 48)
    packed, x = pack_weight(*weight_of(4, 5, 48, 12, 0), bits=4), inputs("random", (3, 48), 1)
    y, expected = (f.grouped_linear(x, packed, parts=Parts(steps)) for f in (dispatch, reference))
    assert torch.allclose(y, expected, rtol=1e-5, atol=1e-4)


def test_a_flag_is_read_once_for_a_forward_and_after_every_other_call(on_triton, monkeypatch):
    packed, x = pack_weight(*weight_of(4, 5, 48, 12, 0), bits=4), inputs("random", (3, 48), 1)
    endless, looks = x.clone().fill_(float("inf")), []
    look = flags._lowered
    monkeypatch.setattr(flags, "_lowered", lambda flag: looks.append(1) or look(flag))

    class Twice(torch.nn.Module):
        def forward(self, first, second):
            return [dispatch.grouped_linear(value, packed) for value in (first, second)]

    model = Twice()
    model(x, x)
    assert len(looks) == 2
    flags.watch(model)
    looks.clear()
    model(x, x)
    assert len(looks) == 1
    with pytest.raises(Unsupported, match="not finite"):
        model(endless, x)
    model(x, x)  # the flag is down again
    with pytest.raises(Unsupported, match="not finite"), flags.watched():
        model(endless, x)
        dispatch.grouped_linear(x, packed)
    with pytest.raises(ZeroDivisionError), flags.watched():
        model(endless, x)
        raise ZeroDivisionError
    model(x, x)
