"""The grouped linear: exact integer sums, within 1e-6 of quantize-dequantize in float64, the same bits everywhere."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qdit.core.affine import Granularity
from qdit.core.errors import ConfigError, QditError, Unsupported
from qdit.kernels import compiled, dispatch, reference
from qdit.kernels.backend import Backend
from qdit.kernels.library import backend
from qdit.kernels.packing import pack_weight, unpack_weight
from qdit.quant.activation import DynamicActivation
from qdit.quant.ranges import minmax
from qdit.quant.weight import quantize_weight
from tests.kernels.cases import KINDS, exact, inputs, same_bits, variant, weight_of

VARIANTS = ("scalar", "avx2", "avx-vnni", "avx512-vnni", "amx-int8")


def run(name, x, packed, bias, *, bits=8, symmetric=False, threads=1):
    if name == "torch":
        return reference.grouped_linear(x, packed, bias, activation_bits=bits, symmetric=symmetric)
    y = compiled.grouped_linear(
        variant(name), x, packed, bias, activation_bits=bits, symmetric=symmetric, threads=threads
    )
    assert y is not None
    return y


@st.composite
def problems(draw):
    size = draw(st.sampled_from([4, 8, 12, 16, 20, 24, 28, 32, 36, 64, 96, 100, 128, 192, 288]))
    return {
        "size": size,
        "width": size * draw(st.integers(1, max(1, 1200 // size) if draw(st.booleans()) else 3)),
        "rows": draw(st.integers(1, 11)),
        "outputs": draw(st.sampled_from([1, 7, 47, 48, 49, 63, 96, 100])),
        "weight_bits": draw(st.integers(2, 8)),
        "bits": draw(st.sampled_from([2, 4, 6, 8, 8, 8])),
        "symmetric": draw(st.booleans()),
        "kind": draw(st.sampled_from(KINDS)),
        "weight_kind": draw(st.sampled_from(["random", "random", "constant", "symmetric"])),
        "with_bias": draw(st.booleans()),
        "seed": draw(st.integers(0, 10**6)),
    }


@settings(max_examples=150, deadline=None)
@given(problem=problems())
def test_near_to_quantize_dequantize_and_the_same_bits_in_every_variant(problem):
    p = problem
    weight = weight_of(p["weight_bits"], p["outputs"], p["width"], p["size"], p["seed"], p["weight_kind"])
    packed = pack_weight(*weight, bits=p["weight_bits"])
    x = inputs(p["kind"], (p["rows"], p["width"]), p["seed"])
    bias = torch.randn(p["outputs"]) if p["with_bias"] else None
    expected, size = exact(x, weight, bias, p["bits"], symmetric=p["symmetric"])
    found = {
        name: run(name, x, packed, bias, bits=p["bits"], symmetric=p["symmetric"])
        for name in ("torch", *(v for v in VARIANTS if is_there(v)))
    }
    for name, y in found.items():
        assert ((y - expected).abs() <= 1e-6 * size).all(), name
    first, *others = [y for name, y in found.items() if name != "torch"] or [found["torch"]]
    assert all(same_bits(first, other) for other in others)


def is_there(name):
    try:
        variant(name)
    except pytest.skip.Exception:
        return False
    return True


@pytest.mark.parametrize("name", ["torch", *VARIANTS])
@pytest.mark.parametrize("weight_bits", [4, 6, 8])
@pytest.mark.parametrize(("width", "size"), [(1152, 32), (4608, 288), (4608, 32), (4608, 4), (576, 4), (4608, 4608)])
def test_constant_long_rows_stay_exact(name, weight_bits, width, size):
    weight = weight_of(weight_bits, 5, width, size, 0, "constant")
    packed = pack_weight(*weight, bits=weight_bits)
    for value in (1.0, 0.7373, -3.1):
        x = torch.full((2, width), value)
        expected, magnitude = exact(x, weight, None, 8, symmetric=False)
        assert ((run(name, x, packed, None) - expected).abs() <= 1e-6 * magnitude).all()


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("size", [12, 96])
def test_random_inputs_are_within_1e_6_in_norm(name, size):
    weight = weight_of(4, 144, 1152, size, 3)
    x = inputs("random", (33, 1152), 3)
    expected, _ = exact(x, weight, None, 8, symmetric=False)
    found = run(name, x, pack_weight(*weight, bits=4), None)
    assert (found - expected).norm() / expected.norm() < 1e-6


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("rows", [1, 3, 5, 257, 530])
def test_threads_and_row_blocks_change_no_bit(name, rows):
    weight = pack_weight(*weight_of(6, 50, 96, 24, 1), bits=6)
    x, bias = inputs("rows", (rows, 96), 2), torch.randn(50)
    one = run(name, x, weight, bias)
    assert same_bits(one, torch.cat([run(name, row, weight, bias) for row in x.split(7)]))
    for threads in (2, 4):
        assert same_bits(one, run(name, x, weight, bias, threads=threads))


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("size", [4, 8, 12, 16, 24, 36, 32, 64, 96, 128, 192, 288])
def test_activation_codes_are_those_of_the_reference(name, size, symmetric):
    for bits in (4, 8):
        for kind in KINDS:
            x = inputs(kind, (5, 3 * size), size)
            codes, scale, zero = reference.quantize_groups(x, size, bits, symmetric=symmetric)
            found = compiled.quantize_groups(variant(name), x, size, bits, symmetric=symmetric)
            assert found is not None
            assert torch.equal(found[0].float(), codes.flatten(-2))
            assert same_bits(found[1], scale) and torch.equal(found[2], zero)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize(("width", "size"), [(144, 4), (108, 36), (1152, 32), (1400, 100), (36, 12)])
def test_packing_loses_nothing(bits, width, size):
    codes, scale, zero_point = weight_of(bits, 50, width, size, bits)
    unpacked = unpack_weight(pack_weight(codes, scale, zero_point, bits=bits))
    for found, expected in zip(unpacked, (codes, zero_point, scale), strict=True):
        assert torch.equal(found.float(), expected.float())


def test_packed_weights_are_small():
    for bits in (4, 6, 8):
        packed = pack_weight(*weight_of(bits, 96, 1152, 128, 0), bits=bits)
        assert packed.codes.numel() == 96 * 1152 * bits // 8


@pytest.mark.parametrize("kind", ["tensor", "channel", "group(96)", "group(32)"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_weights_of_the_suite_in_finer_groups_for_activations(kind, symmetric):
    full = torch.randn(70, 96)
    stored = quantize_weight(
        full,
        bits=4,
        granularity=Granularity.parse(kind),
        ranges=partial(minmax, symmetric=symmetric),
        symmetric=symmetric,
    )
    packed = pack_weight(stored.codes, stored.scale, stored.zero_point, bits=4, group_size=32)
    x, bias = torch.randn(2, 5, 96), torch.randn(70)
    simulated = DynamicActivation(bits=8, group_size=32)(x).double() @ stored.dequantize().double().T + bias
    found = dispatch.grouped_linear(x, packed, bias)
    assert found.shape == (2, 5, 70)
    assert (found - simulated).norm() / simulated.norm() < 1e-6


@pytest.mark.parametrize("name", ["torch", *VARIANTS])
@pytest.mark.parametrize("damage", ["inf", "nan", "range", "result", "partial"])
def test_what_is_not_finite_is_an_error(name, damage, monkeypatch):
    chosen = library_of(name)
    monkeypatch.setattr(dispatch, "backend", lambda: chosen)
    codes, scale, zero_point = weight_of(4, 50, 64, 32, 0, "constant")
    x = torch.ones(5, 64)
    match damage:
        case "inf" | "nan":
            x[3, 40] = float(damage)
        case "range":
            x[3, 40], x[3, 41] = 3e38, -3e38
        case "result":
            x *= 1e38
            scale = torch.full_like(scale, 60000)
        case "partial":  # the exact result is 0, but sums overflow on the way; the reference keeps float64 sums
            if name == "torch":
                return
            x[:, :32], x[:, 32:] = 3e38, -3e38
            scale = torch.full_like(scale, 60000)
    with pytest.raises(Unsupported, match="not finite"):
        dispatch.grouped_linear(x, pack_weight(codes, scale, zero_point, bits=4), None)


def library_of(name):
    return Backend("torch") if name == "torch" else variant(name)


def test_zero_points_outside_the_codes():
    codes, scale, zero_point = weight_of(4, 50, 64, 32, 0)
    for shift, storage in ((-40, 6), (-100, 8), (100, 8), (300, 8)):
        weight = (codes, scale, zero_point + shift)
        packed = pack_weight(*weight, bits=4)
        assert packed.storage == storage
        x = inputs("random", (5, 64), 0)
        expected, size = exact(x, weight, None, 8, symmetric=False)
        for name in ("torch", *(v for v in VARIANTS if is_there(v))):
            assert ((run(name, x, packed, None) - expected).abs() <= 1e-6 * size).all()
    with pytest.raises(Unsupported, match="zero_point from"):
        pack_weight(codes, scale, zero_point + 1000, bits=4)


@pytest.mark.parametrize("size", [6, 2])
def test_group_sizes_that_are_no_multiple_of_4_are_unsupported(size):
    with pytest.raises(Unsupported, match="multiples of 4"):
        pack_weight(*weight_of(4, 5, 24, size, 0), bits=4)


def test_operands_that_do_not_fit_are_refused():
    packed = pack_weight(*weight_of(4, 5, 24, 4, 0), bits=4)
    for x, bias, bits in (
        (torch.ones(2, 20), None, 8),
        (torch.ones(2, 24), torch.ones(4), 8),
        (torch.ones(24), None, 9),
    ):
        with pytest.raises(ConfigError):
            dispatch.grouped_linear(x, packed, bias, activation_bits=bits)
    with pytest.raises(QditError):
        pack_weight(*weight_of(8, 5, 24, 4, 0), bits=4)


def test_odd_inputs_go_through_the_reference():
    packed = pack_weight(*weight_of(4, 5, 24, 4, 0), bits=4)
    x = torch.randn(24, 3)
    plain = dispatch.grouped_linear(x.T.contiguous(), packed)
    assert torch.allclose(dispatch.grouped_linear(x.T, packed), plain, rtol=1e-5, atol=1e-5)
    assert dispatch.grouped_linear(x.T.double(), packed).dtype == torch.float64
    assert dispatch.grouped_linear(torch.empty(0, 24), packed).shape == (0, 5)


def test_parameters_do_not_lead_to_the_slow_path(monkeypatch):
    packed = pack_weight(*weight_of(4, 5, 24, 4, 0), bits=4)
    if backend().library is None:
        pytest.skip("no compiled library")
    monkeypatch.setattr(reference, "grouped_linear", None)
    y = dispatch.grouped_linear(torch.randn(3, 24, requires_grad=True), packed, torch.nn.Parameter(torch.ones(5)))
    assert not y.requires_grad
