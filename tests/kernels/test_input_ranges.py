"""The grouped linear with ranges of the input that are given, or shared by several groups of the weight."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qdit.core.errors import ConfigError, Unsupported
from qdit.kernels import compiled, dispatch, reference
from qdit.kernels.packing import pack_weight
from qdit.quant.activation import DynamicActivation, StaticActivation
from tests.kernels.cases import inputs, same_bits, variant, weight_of

VARIANTS = ("scalar", "avx2", "avx-vnni", "avx512-vnni", "amx-int8")


def values(weight):
    codes, scale, zero_point = weight
    groups = (codes.unflatten(1, (scale.shape[1], -1)) - zero_point.unsqueeze(-1)).double()
    return (groups * scale.double().unsqueeze(-1)).flatten(1)


def static_ranges(count, seed, bits):
    generator = torch.Generator().manual_seed(seed)
    scale = torch.rand(count, generator=generator) * 0.05 + 0.01
    return scale, torch.randint(2**bits, (count,), generator=generator).float()


@st.composite
def problems(draw):
    size = draw(st.sampled_from([4, 12, 16, 32, 36, 96]))
    shared = draw(st.integers(1, 5))
    return {
        "size": size,
        "shared": shared,
        "width": size * shared * draw(st.integers(1, 4)),
        "rows": draw(st.integers(1, 9)),
        "outputs": draw(st.sampled_from([1, 47, 49, 96])),
        "weight_bits": draw(st.sampled_from([2, 4, 6, 8])),
        "bits": draw(st.sampled_from([4, 8])),
        "static": draw(st.sampled_from(["no", "one", "groups"])),
        "kind": draw(st.sampled_from(["random", "rows", "outliers", "zero", "positive"])),
        "symmetric": draw(st.booleans()),
        "seed": draw(st.integers(0, 10**6)),
    }


@settings(max_examples=80, deadline=None)
@given(problem=problems())
def test_near_to_quantize_dequantize_and_the_same_bits_in_every_variant(problem):
    p = problem
    weight = weight_of(p["weight_bits"], p["outputs"], p["width"], p["size"], p["seed"])
    packed = pack_weight(*weight, bits=p["weight_bits"])
    x, bias = inputs(p["kind"], (p["rows"], p["width"]), p["seed"]), torch.randn(p["outputs"])
    group = p["width"] if p["static"] == "one" else p["size"] * p["shared"]
    if p["static"] == "no":
        ranges, symmetric = None, p["symmetric"]
        quantized = DynamicActivation(bits=p["bits"], group_size=group, symmetric=symmetric)(x)
    else:
        ranges, symmetric = static_ranges(p["width"] // group, p["seed"], p["bits"]), False
        quantized = StaticActivation(bits=p["bits"], scale=ranges[0], zero_point=ranges[1])(x)
    expected = quantized.double() @ values(weight).T + bias.double()
    size = quantized.double().abs() @ values(weight).abs().T + bias.double().abs()
    options = {"activation_bits": p["bits"], "symmetric": symmetric, "input_group": group, "static": ranges}
    result = {"torch": reference.grouped_linear(x, packed, bias, **options)}
    for name in VARIANTS:
        try:
            backend = variant(name)
        except pytest.skip.Exception:
            continue
        result[name] = compiled.grouped_linear(backend, x, packed, bias, threads=1, **options)
    for name, y in result.items():
        assert ((y - expected).abs() <= 2e-6 * size + 1e-30).all(), name
    compiled_results = [y for name, y in result.items() if name != "torch"]
    assert all(same_bits(compiled_results[0], other) for other in compiled_results[1:])


@pytest.mark.parametrize("ranges", ["one", "groups"])
@pytest.mark.parametrize("name", ["torch", *VARIANTS])
def test_threads_and_row_blocks_change_no_bit(name, ranges, monkeypatch):
    backend = variant(name)
    monkeypatch.setattr(dispatch, "backend", lambda: backend)
    packed = pack_weight(*weight_of(6, 50, 96, 24, 1), bits=6)
    static = static_ranges(1 if ranges == "one" else 2, 0, 8)
    x, bias = inputs("rows", (530, 96), 2), torch.randn(50)
    one = dispatch.grouped_linear(x, packed, bias, static=static)
    for threads in (2, 4):
        assert same_bits(one, dispatch.grouped_linear(x, packed, bias, static=static, threads=threads))
    parts = [dispatch.grouped_linear(row, packed, bias, static=static) for row in x.split(7)]
    assert same_bits(one, torch.cat(parts))


def test_static_ranges_clip_what_is_beyond_them():
    packed = pack_weight(*weight_of(4, 48, 32, 32, 1), bits=4)
    static = (torch.tensor([0.01]), torch.tensor([100]))
    far = dispatch.grouped_linear(torch.full((1, 32), 1e6), packed, static=static)
    edge = dispatch.grouped_linear(torch.full((1, 32), 1.55), packed, static=static)
    assert torch.equal(far, edge) and far.abs().max() > 0


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"input_group": 8}, ConfigError, "input_group 8"),
        ({"input_group": 40}, ConfigError, "input_group 40"),
        ({"input_group": 0}, ConfigError, "input_group 0"),
        ({"static": (torch.ones(8), torch.ones(8))}, ConfigError, "input_group 12"),
        ({"static": (torch.ones(2), torch.ones(1))}, ConfigError, "static scale"),
        ({"static": (torch.ones(1), torch.tensor([-3.0]))}, Unsupported, "zero_point from -3"),
        ({"static": (torch.ones(1), torch.tensor([300.0]))}, Unsupported, "to 300"),
        ({"static": (torch.ones(2), torch.ones(2)), "input_group": 96}, ConfigError, "input_group"),
    ],
)
def test_ranges_that_do_not_fit_are_refused(options, error, words):
    packed = pack_weight(*weight_of(4, 48, 96, 24, 1), bits=4)
    with pytest.raises(error, match=words):
        dispatch.grouped_linear(torch.randn(2, 96), packed, **options)
