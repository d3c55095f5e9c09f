"""Transforms before the quantizer and branches beside the product, in every backend of CPUs."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qdit.core.errors import ConfigError, Unsupported
from qdit.kernels import compiled, dispatch, reference
from qdit.kernels.backend import VARIANTS, Backend
from qdit.kernels.packing import pack_weight
from qdit.kernels.parts import (
    Parts,
    branch_bound,
    butterflies,
    channel_step,
    check_parts,
    factors,
    hadamard_step,
    make_branch,
    transformed,
)
from qdit.quant.transforms import hadamard
from tests.kernels.cases import KINDS, exact, inputs, same_bits, variant, weight_of


def runnable():
    names = []
    for name in VARIANTS:
        try:
            names.append(variant(name).name)
        except pytest.skip.Exception:
            continue
    return names


def steps_of(kinds, width, seed):
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(width, generator=generator)
    made = {
        "divide": lambda: channel_step("divide", draw.exp()),
        "subtract": lambda: channel_step("subtract", draw),
        "multiply": lambda: channel_step("multiply", draw.sign()),
    }
    return tuple(hadamard_step(int(kind)) if kind.isdigit() else made[kind]() for kind in kinds)


@st.composite
def problems(draw):
    size = draw(st.sampled_from([4, 8, 12, 16, 24, 32, 36, 64, 128]))
    width = size * draw(st.integers(1, 9))
    largest = (width & -width).bit_length() - 1
    blocks = st.integers(1, largest).map(lambda power: str(2**power))
    kinds = st.one_of(st.sampled_from(["divide", "subtract", "multiply"]), blocks)
    return {
        "size": size,
        "width": width,
        "kinds": draw(st.lists(kinds, max_size=3)),
        "rank": draw(st.sampled_from([0, 1, 5, 16, 17, 32, 70])),
        "rows": draw(st.sampled_from([1, 2, 3, 4, 5, 9])),
        "outputs": draw(st.sampled_from([1, 47, 48, 49, 100])),
        "weight_bits": draw(st.sampled_from([2, 4, 6, 8])),
        "bits": draw(st.sampled_from([4, 8])),
        "symmetric": draw(st.booleans()),
        "kind": draw(st.sampled_from([kind for kind in KINDS if kind not in ("huge", "tiny")])),
        "seed": draw(st.integers(0, 10**6)),
    }


@settings(max_examples=80, deadline=None)
@given(problem=problems())
def test_near_to_float64_and_the_same_bits_in_every_variant(problem):
    p = problem
    weight = weight_of(p["weight_bits"], p["outputs"], p["width"], p["size"], p["seed"])
    packed, x = pack_weight(*weight, bits=p["weight_bits"]), inputs(p["kind"], (p["rows"], p["width"]), p["seed"])
    up, down = torch.randn(p["outputs"], p["rank"]).half(), torch.randn(p["rank"], p["width"]).half()
    branch = make_branch(up, down) if p["rank"] else None
    parts = Parts(steps_of(p["kinds"], p["width"], p["seed"]), branch)
    entered, bias = transformed(x, parts.steps), torch.randn(p["outputs"])
    expected, size = exact(entered, weight, bias, p["bits"], symmetric=p["symmetric"])
    most = 1e-6 * size
    if branch is not None:
        expected = expected + entered.double() @ down.double().T @ up.double().T
        most = most + branch_bound(entered, branch)
    options = {"activation_bits": p["bits"], "symmetric": p["symmetric"], "parts": parts}
    results = {"torch": reference.grouped_linear(x, packed, bias, **options)}
    for name in runnable():
        results[name] = compiled.grouped_linear(variant(name), x, packed, bias, threads=1, **options)
    for name, y in results.items():
        assert ((y - expected).abs() <= most).all(), name
    first, *others = [y for name, y in results.items() if name != "torch"] or [results["torch"]]
    assert all(same_bits(first, other) for other in others)


@pytest.mark.parametrize("width", [4, 12, 24, 40, 48, 144, 576, 1152])
def test_a_transformed_row_has_the_bits_of_torch(width):
    sizes = [str(2**power) for power in range(1, (width & -width).bit_length())]
    for kinds in (["divide"], ["subtract"], *([size] for size in sizes), ["divide", sizes[-1], "subtract"]):
        steps = steps_of(kinds, width, width)
        for kind in KINDS:
            x = inputs(kind, (5, width), width)
            for name in runnable():
                assert same_bits(compiled.transformed(variant(name), x, steps), transformed(x, steps)), (name, kinds)


@pytest.mark.parametrize("size", [2, 8, 16, 128, 512])
def test_butterflies_are_the_product_with_the_matrix(size):
    x = torch.randn(3, 2 * size, dtype=torch.float64, generator=torch.Generator().manual_seed(size))
    torch.testing.assert_close(butterflies(x, size), hadamard(x, size), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rank", [1, 16, 33])
def test_a_branch_keeps_its_factors(rank):
    up, down = torch.randn(50, rank).half(), torch.randn(rank, 24).half()
    for kept, factor in zip(factors(make_branch(up, down)), (up, down), strict=True):
        assert torch.equal(kept, factor.float())


def test_long_rows_of_one_sign_stay_within_the_bound_of_a_branch():
    x, down, up = torch.full((4, 4608), 0.7373), torch.full((32, 4608), 0.3), torch.full((48, 32), 0.7)
    codes, scale, zero_point = weight_of(4, 48, 4608, 128, 0)
    packed, branch = pack_weight(codes, scale * 0, zero_point, bits=4), make_branch(up, down)
    expected = x.double() @ down.double().T @ up.double().T
    for name in runnable():
        options = {"activation_bits": 8, "symmetric": False, "parts": Parts(branch=branch)}
        y = compiled.grouped_linear(variant(name), x, packed, None, threads=1, **options)
        assert ((y - expected).abs() <= branch_bound(x, branch)).all()
        assert ((y - expected) / expected).abs().max() < 2e-5


def problem_of(rows=5, width=48):
    packed = pack_weight(*weight_of(6, 50, width, 24, 1), bits=6)
    parts = Parts(steps_of(["divide", "16"], width, 2), make_branch(torch.randn(50, 3), torch.randn(3, width)))
    return inputs("rows", (rows, width), 2), packed, torch.randn(50), parts


@pytest.mark.parametrize("name", [*VARIANTS])
@pytest.mark.parametrize("rows", [3, 257, 530])
def test_threads_and_row_blocks_change_no_bit(name, rows):
    x, packed, bias, parts = problem_of(rows)
    options = {"activation_bits": 8, "symmetric": False, "parts": parts}
    at_once = compiled.grouped_linear(variant(name), x, packed, bias, threads=1, **options)
    pieces = [compiled.grouped_linear(variant(name), row, packed, bias, threads=1, **options) for row in x.split(7)]
    assert same_bits(at_once, torch.cat(pieces))
    for threads in (2, 4):
        assert same_bits(at_once, compiled.grouped_linear(variant(name), x, packed, bias, threads=threads, **options))


def test_steps_before_given_and_shared_ranges():
    x, packed, bias, parts = problem_of()
    static = torch.tensor([0.02, 0.03]), torch.tensor([120.0, 100.0])
    for options in ({"static": static}, {"input_group": 48}, {"input_group": 48, "symmetric": True}):
        y = dispatch.grouped_linear(x, packed, bias, parts=parts, **options)
        expected = reference.grouped_linear(x, packed, bias, parts=parts, **options)
        assert torch.allclose(y, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("name", ["torch", *VARIANTS])
@pytest.mark.parametrize("damage", ["inf", "nan", "branch"])
def test_what_is_not_finite_is_an_error(name, damage, monkeypatch):
    chosen = Backend("torch") if name == "torch" else variant(name)
    monkeypatch.setattr(dispatch, "backend", lambda: chosen)
    x, packed, bias, parts = problem_of()
    if damage == "branch":
        x, parts = x * 1e30, replace(parts, branch=make_branch(torch.full((50, 3), 6e4), torch.full((3, 48), 6e4)))
    else:
        x[3, 20] = float(damage)
    with pytest.raises(Unsupported, match="not finite"):
        dispatch.grouped_linear(x, packed, bias, parts=parts)


def test_parts_that_do_not_fit_are_refused():
    x, packed, bias, parts = problem_of()
    branch = make_branch(torch.randn(50, 3), torch.randn(3, 24))
    for wrong in (
        Parts((hadamard_step(32),)),
        Parts((channel_step("divide", torch.ones(24)),)),
        Parts(branch=branch),
        Parts(branch=make_branch(torch.randn(40, 3), torch.randn(3, 48))),
    ):
        with pytest.raises(ConfigError):
            dispatch.grouped_linear(x, packed, bias, parts=wrong)
    check_parts(parts, 48, 50)
    for size in (0, 1, 12):
        with pytest.raises(ConfigError):
            hadamard_step(size)
    with pytest.raises(ConfigError):
        make_branch(torch.ones(5, 3), torch.ones(4, 8))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_output_has_the_type_of_the_input(dtype):
    _, packed, bias, parts = problem_of()
    x = inputs("random", (5, 48), 2).to(dtype)
    y = dispatch.grouped_linear(x, packed, bias, parts=parts)
    expected = dispatch.grouped_linear(x.float(), packed, bias, parts=parts)
    assert y.dtype == dtype and torch.allclose(y.float(), expected.to(dtype).float(), rtol=1e-2)
    if dtype == torch.float16:  # finite in float32, not in half precision
        wide = replace(packed, scale=packed.scale * 1e6)
        with pytest.raises(Unsupported, match="not finite"):
            dispatch.grouped_linear(x, wide, bias)
