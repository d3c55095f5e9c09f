"""Eq. 1 and packing: error bounds, closed forms, and bytes that come back as the codes they were."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qdit.core.affine import (
    Granularity,
    dequantize,
    fake_quantize,
    group,
    minmax_asymmetric,
    minmax_symmetric,
    pack_codes,
    quantize,
    ungroup,
    unpack_codes,
)
from qdit.core.errors import CheckpointError, ConfigError
from qdit.core.grouping import check_group_size, packed_width

BITS = st.integers(2, 8)
SEEDS = st.integers(0, 2**32 - 1)


def random_codes(seed: int, rows: int, width: int, bits: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 2**bits, (rows, width)))


@given(SEEDS, st.integers(1, 5), st.integers(1, 40), st.integers(1, 8))
@settings(deadline=None)
def test_packing_is_exactly_invertible_and_as_small_as_it_can_be(seed: int, rows: int, width: int, bits: int) -> None:
    codes = random_codes(seed, rows, width, bits)
    packed = pack_codes(codes, bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (rows, -(-width * bits // 8)) == (rows, packed_width(width, bits))
    assert torch.equal(unpack_codes(packed, bits, (rows, width)).long(), codes)


def test_packed_layout() -> None:
    assert pack_codes(torch.tensor([[1, 2, 15]]), 4).tolist() == [[0x21, 0x0F]]
    assert pack_codes(torch.tensor([[7, 255]]), 8).tolist() == [[7, 255]]
    codes = [1, 2, 3, 63]
    word = sum(code << (6 * i) for i, code in enumerate(codes))
    assert pack_codes(torch.tensor([codes]), 6).tolist() == [list(word.to_bytes(3, "little"))]


@pytest.mark.parametrize("bits", [1, 4, 6])
def test_codes_that_do_not_fit_are_refused(bits: int) -> None:
    for code in (-1, 2**bits, 256 + 3):
        with pytest.raises(CheckpointError, match=f"allowed are 0 to {2**bits - 1}"):
            pack_codes(torch.tensor([[0, code]]), bits)


def test_wrong_bytes_and_bits_are_refused() -> None:
    packed = pack_codes(torch.zeros(2, 5, dtype=torch.int16), 4)
    for bytes_, shape in ((packed, (2, 7)), (packed, (3, 5)), (packed.short(), (2, 5))):
        with pytest.raises(CheckpointError, match="packed codes are"):
            unpack_codes(bytes_, 4, shape)
    for bits in (0, 9):
        with pytest.raises(ConfigError, match="1 to 8 bits"):
            pack_codes(torch.zeros(1, 1, dtype=torch.int16), bits)


def test_granularity_parses_what_it_prints() -> None:
    for text in ("tensor", "channel", "token", "group(32)"):
        assert str(Granularity.parse(text)) == text
    for text in ("group", "group()", "row", "group(-1)"):
        with pytest.raises(ConfigError, match="allowed are"):
            Granularity.parse(text)
    with pytest.raises(ConfigError, match="only 'group' has one"):
        Granularity("tensor", 8)


def test_group_sizes_that_do_not_divide_name_the_legal_ones() -> None:
    with pytest.raises(ConfigError, match=r"group_size 5 does not divide 12; legal: \[1, 2, 3, 4, 6, 12\]"):
        check_group_size(5, 12, "layer")
    with pytest.raises(ConfigError):
        check_group_size(0, 12, "layer")


def test_groups_are_consecutive_along_the_last_dimension() -> None:
    x = torch.arange(24).reshape(2, 12)
    grouped = group(x, 4)
    assert grouped.shape == (2, 3, 4)
    assert grouped[1, 2].tolist() == [20, 21, 22, 23]
    assert torch.equal(ungroup(grouped), x)
    assert torch.equal(group(x, None)[:, 0], x)


@given(SEEDS, BITS, st.floats(-3, 3), st.floats(1e-3, 1e3), st.booleans())
@settings(deadline=None)
def test_error_is_at_most_half_a_step_and_quantizing_again_changes_nothing(
    seed: int, bits: int, offset: float, spread: float, symmetric: bool
) -> None:
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(((rng.standard_normal((4, 33)) + offset) * spread).astype(np.float32))
    low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
    scale, zero_point = (minmax_symmetric if symmetric else minmax_asymmetric)(low, high, bits)
    once = fake_quantize(x, scale, zero_point, bits, symmetric=symmetric)
    assert ((once - x).abs() <= scale * (0.5 + 1e-4)).all()
    assert torch.equal(fake_quantize(once, scale, zero_point, bits, symmetric=symmetric), once)
    codes = quantize(x, scale, zero_point, bits, symmetric=symmetric)
    assert torch.equal(dequantize(codes, scale, zero_point), once)
    assert torch.equal(codes, codes.round())


def test_equation_one_in_float64() -> None:
    x = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)
    low, high = np.minimum(x.min(1), 0).astype(np.float64), np.maximum(x.max(1), 0).astype(np.float64)
    scale = (high - low) / 15
    zero_point = np.rint(-low / scale)
    expected = (np.clip(np.rint(x / scale[:, None]) + zero_point[:, None], 0, 15) - zero_point[:, None]) * scale[
        :, None
    ]
    t = torch.from_numpy(x)
    mine = fake_quantize(t, *minmax_asymmetric(t.amin(1, keepdim=True), t.amax(1, keepdim=True), 4), 4)
    np.testing.assert_allclose(mine.numpy(), expected, rtol=1e-5, atol=1e-7)


def test_rounding_is_half_to_even() -> None:
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5])
    one, zero = torch.ones(1), torch.zeros(1)
    assert quantize(x, one, zero + 8, 4).tolist() == [8, 10, 10, 8, 6]


def test_strictly_positive_values_collapse_only_in_the_released_form() -> None:
    x = torch.linspace(5, 6, 32)[None]
    low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
    released = fake_quantize(x, *minmax_asymmetric(low, high, 4, include_zero=False), 4)
    assert torch.allclose(released, torch.ones_like(x))
    corrected = fake_quantize(x, *minmax_asymmetric(low, high, 4), 4)
    assert (corrected - x).abs().max() <= 6 / 15 / 2 + 1e-6


@pytest.mark.parametrize("value", [0.0, 5.0, -5.0, 1e-30, 1e30, -1e30])
def test_constant_rows_of_any_size_stay_finite(value: float) -> None:
    x = torch.full((2, 8), value)
    for ranges in (minmax_asymmetric, minmax_symmetric):
        for bits in (2, 4, 8):
            scale, zero_point = ranges(x.amin(1, keepdim=True), x.amax(1, keepdim=True), bits)
            result = fake_quantize(x, scale, zero_point, bits, symmetric=ranges is minmax_symmetric)
            assert result.isfinite().all()
            assert ((result - x).abs() <= scale * (0.5 + 1e-4)).all()
