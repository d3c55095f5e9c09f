"""The fused quantize-dequantize equals the definition in torch bit for bit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qdit.core.affine import fake_quantize, group, minmax_asymmetric, minmax_symmetric, ungroup
from qdit.core.errors import ConfigError
from qdit.kernels import compiled, dispatch, library, reference
from tests.kernels.cases import KINDS, inputs, same_bits, variant

VARIANTS = ("scalar", "avx2", "avx-vnni", "avx512-vnni", "amx-int8")
SIZES = (4, 8, 12, 16, 24, 36, 32, 64, 96, 128, 192, 288)


def dynamic(x, size, bits, *, symmetric=False):
    """Min-max per (token, group), written out."""
    groups = group(x, size)
    ranges = minmax_symmetric if symmetric else minmax_asymmetric
    scale, zero_point = ranges(groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True), bits)
    return ungroup(fake_quantize(groups, scale, zero_point, bits, symmetric=symmetric))


def static(x, scale, zero_point, bits):
    """Given parameters per group of columns, written out."""
    columns = x.shape[-1] // scale.numel()
    scale, zero_point = (part.repeat_interleave(columns) for part in (scale, zero_point.to(x.dtype)))
    return fake_quantize(x, scale, zero_point, bits)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("size", SIZES)
def test_dynamic_equals_the_quantizer_bit_for_bit(name, size):
    backend = variant(name)
    for bits in (2, 3, 4, 6, 8):
        for symmetric in (False, True):
            for kind in KINDS:
                for groups in (1, 3, 8):
                    x = inputs(kind, (2, 3, groups * size), bits + groups)
                    result = compiled.fake_quantize_groups(backend, x, size, bits, symmetric=symmetric, threads=1)
                    assert result is not None
                    assert same_bits(result, dynamic(x, size, bits, symmetric=symmetric)), (
                        bits,
                        symmetric,
                        kind,
                        groups,
                    )


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("size", SIZES)
def test_ties_and_their_neighbours_round_as_the_division_does(name, size):
    generator = torch.Generator().manual_seed(size)
    step = torch.rand(64, 1, 1, generator=generator) * 3 + 1e-3
    ties = (torch.randint(255, (64, 1, size), generator=generator) + 0.5) * step
    near = [ties]
    for _ in range(3):
        near = [near[0].nextafter(torch.tensor(-1e9)), *near, near[-1].nextafter(torch.tensor(1e9))]
    x = torch.cat(near, dim=1)
    x[..., 0], x[..., 1] = 0, 255 * step[..., 0]
    for sign in (1, -1):
        result = compiled.fake_quantize_groups(variant(name), sign * x, size, 8, symmetric=False, threads=1)
        assert result is not None and same_bits(result, dynamic(sign * x, size, 8))
        scale, zero = torch.tensor([float(step[0])]), torch.tensor([100.0])
        ranged = compiled.fake_quantize_static(variant(name), sign * x, scale, zero, 8, threads=1)
        assert ranged is not None
        assert same_bits(ranged, static(sign * x, scale, zero, 8))


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    groups=st.sampled_from([1, 2, 3, 12, 36]),
    size=st.sampled_from([1, 3, 4, 7, 16, 36, 100]),
    bits=st.integers(2, 8),
    exponent=st.floats(-45, 38),
    zero_point=st.integers(-300, 600),
    seed=st.integers(0, 10**6),
)
def test_static_equals_the_quantizer_bit_for_bit(kind, groups, size, bits, exponent, zero_point, seed):
    x = inputs(kind, (5, groups * size), seed)
    scale = torch.rand(groups).add(0.5) * max(10.0**exponent, 1.5e-45)
    scale = scale.clamp(min=1e-44)
    zero = torch.full((groups,), zero_point) + torch.arange(groups)
    expected = static(x, scale, zero, bits)
    for name in library.available():
        if name != "torch":
            result = compiled.fake_quantize_static(library.select(name), x, scale, zero.float(), bits, threads=1)
            assert result is not None and same_bits(result, expected), name
    assert same_bits(dispatch.fake_quantize_static(x, scale, zero, bits), expected)
    assert same_bits(reference.fake_quantize_static(x, scale, zero, bits), expected)


@pytest.mark.parametrize("name", VARIANTS)
def test_threads_change_no_bit(name):
    backend, x = variant(name), inputs("rows", (37, 144), 1)
    scale, zero = torch.tensor([0.02]), torch.tensor([99.0])
    for size in (12, 36):
        one = compiled.fake_quantize_groups(backend, x, size, 8, symmetric=False, threads=1)
        for threads in (2, 4, 64):
            result = compiled.fake_quantize_groups(backend, x, size, 8, symmetric=False, threads=threads)
            assert one is not None and result is not None and same_bits(one, result)
    one = compiled.fake_quantize_static(backend, x, scale, zero, 8, threads=1)
    result = compiled.fake_quantize_static(backend, x, scale, zero, 8, threads=4)
    assert one is not None and result is not None and same_bits(one, result)


@pytest.mark.parametrize("damage", [float("inf"), float("nan"), 3e38])
@pytest.mark.parametrize("size", [4, 36, 72])
def test_what_is_not_finite_comes_out_as_from_the_quantizer(damage, size):
    x = inputs("random", (4, 72), 0)
    x[1, 2], x[1, 3] = damage, -damage
    expected = dynamic(x, size, 8)
    assert torch.equal(dispatch.fake_quantize_groups(x, size, 8).nan_to_num(7), expected.nan_to_num(7))
    scale, zero = torch.tensor([0.1]), torch.tensor([3])
    expected = static(x, scale, zero, 8)
    assert torch.equal(dispatch.fake_quantize_static(x, scale, zero, 8).nan_to_num(7), expected.nan_to_num(7))


def test_what_compiled_code_cannot_do_is_done_by_the_reference():
    for x, size in (
        (torch.randn(4, 72).half(), 36),
        (torch.randn(72, 4).T, 36),
        (torch.randn(4, 72), 6),
        (torch.randn(4, 72), None),
        (torch.randn(4, 71), None),
        (torch.empty(0, 72), 36),
    ):
        expected = dynamic(x, size, 8)
        result = dispatch.fake_quantize_groups(x, size, 8)
        assert result.dtype == x.dtype and torch.equal(result, expected)
    scale, zero = torch.tensor(0.1), torch.tensor(3)
    x = torch.randn(4, 72)
    assert torch.equal(dispatch.fake_quantize_static(x, scale, zero, 8), static(x, scale[None], zero[None], 8))


def test_gradients_are_those_of_the_reference():
    x = torch.randn(4, 72, requires_grad=True)
    y = dispatch.fake_quantize_groups(x, 36, 8)
    assert y.requires_grad
    with torch.no_grad():
        assert torch.equal(dispatch.fake_quantize_groups(x, 36, 8), y)


def test_arguments_that_do_not_fit_are_refused():
    x = torch.randn(4, 72)
    with pytest.raises(ConfigError, match="legal"):
        dispatch.fake_quantize_groups(x, 40, 8)
    with pytest.raises(ConfigError, match="static scale"):
        dispatch.fake_quantize_static(x, torch.ones(5), torch.ones(5), 8)
    with pytest.raises(ConfigError, match="activation_bits 9"):
        dispatch.fake_quantize_static(x, torch.ones(1), torch.ones(1), 9)
