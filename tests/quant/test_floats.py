"""Small float formats against torch's own dtypes and against all their codes; MX and NVFP4 scales against the rules."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qdit.core.errors import CheckpointError, ConfigError
from qdit.quant.floats import (
    E2M1,
    E4M3,
    E5M2,
    FORMATS,
    float_format,
    mx_scale,
    nvfp4_scale,
    nvfp4_tensor_scale,
    power_of_two,
    scale_of,
)

TORCH = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}
PRINTED = {  # OCP MX v1.0, tables 5 and 6, and the largest numbers of all formats
    "e2m1": [0, 0.5, 1, 1.5, 2, 3, 4, 6],
    "e2m3": [x / 8 for x in (*range(16), *range(16, 32, 2), *range(32, 64, 4))],
}


@pytest.mark.parametrize("name", TORCH)
def test_every_code_of_fp8_means_what_it_means_in_torch(name: str) -> None:
    codes = torch.arange(256).to(torch.uint8)
    theirs = codes.view(TORCH[name]).float()
    ours = FORMATS[name].decode(codes)
    assert torch.equal(ours.isfinite(), theirs.isfinite())
    assert torch.equal(ours[ours.isfinite()], theirs[theirs.isfinite()])


@pytest.mark.parametrize("name", PRINTED)
def test_numbers_are_those_of_the_specification(name: str) -> None:
    values = FORMATS[name].values()
    assert values[: len(values) // 2].tolist() == PRINTED[name]
    assert torch.equal(values[len(values) // 2 :], -values[: len(values) // 2])


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_every_number_is_the_code_that_means_it(form) -> None:
    codes = torch.arange(2**form.bits)
    values = form.decode(codes)
    finite = values.isfinite()
    assert torch.equal(form.encode(values[finite]).long(), codes[finite])
    assert float(values[finite].max()) == form.largest and math.frexp(form.largest)[1] - 1 == form.largest_exponent


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_rounding_is_to_nearest_with_ties_to_even_codes(form) -> None:
    values = form.values()[: 2 ** (form.bits - 1)]
    values = values[values.isfinite()].double()
    middle = (values[1:] + values[:-1]) / 2
    even = torch.where(torch.arange(len(middle)) % 2 == 0, values[:-1], values[1:])
    assert torch.equal(form.round(middle.float()).double(), even)
    for step, expected in ((-1, values[:-1]), (1, values[1:])):
        beside = middle.float().nextafter(torch.tensor(step * torch.inf))
        assert torch.equal(form.round(beside).double(), expected)
        assert torch.equal(form.round(-beside).double(), -expected)


@pytest.mark.parametrize("name", TORCH)
@given(values=st.lists(st.floats(-(2.0**40), 2.0**40, width=32), min_size=1, max_size=40))
def test_rounding_agrees_with_the_casts_of_torch(name: str, values: list[float]) -> None:
    form, x = FORMATS[name], torch.tensor(values)
    theirs = x.clamp(-form.largest, form.largest).to(TORCH[name])
    assert torch.equal(form.encode(x), theirs.view(torch.uint8))
    assert torch.equal(form.round(x), theirs.float()) and torch.equal(form.decode(form.encode(x)), theirs.float())


def test_a_name_that_no_format_has_is_refused() -> None:
    with pytest.raises(ConfigError, match="'e2m2': allowed are e2m1, e2m3, e3m2, e4m3, e5m2"):
        float_format("e2m2")
    with pytest.raises(CheckpointError, match="1 codes of e4m3 are NaN"):
        E4M3.check(torch.tensor([0, 0x7F, 0x7E], dtype=torch.uint8))


def test_every_scale_code_means_what_it_means_in_torch() -> None:
    codes = torch.arange(255).to(torch.uint8)
    assert torch.equal(scale_of(codes), codes.view(torch.float8_e8m0fnu).float())
    assert [float(power_of_two(torch.tensor(e))) for e in (-127, -126, 0, 127)] == [
        2.0**e for e in (-127, -126, 0, 127)
    ]


@given(largest=st.floats(2.0**-126, 2.0**127, width=32), name=st.sampled_from(sorted(FORMATS)))
def test_mx_scales_follow_the_equation_of_the_specification(largest: float, name: str) -> None:
    form = FORMATS[name]
    exponent = math.floor(math.log2(largest)) - math.floor(math.log2(form.largest))
    if 2.0 ** math.floor(math.log2(largest)) > largest:  # log2 rounds up just below a power of two
        exponent -= 1
    scale = float(scale_of(mx_scale(torch.tensor(largest), form)))
    assert scale == 2.0 ** max(exponent, -127)
    assert largest / scale < 2 ** (form.largest_exponent + 1)


def test_a_block_of_zeros_has_the_smallest_scale() -> None:
    assert mx_scale(torch.tensor([0.0, 2.0**-127, 1.0]), E2M1).tolist() == [0, 0, 125]
    assert float(nvfp4_tensor_scale(torch.tensor(0.0))) == 1


def test_nvfp4_scales_map_the_largest_value_to_the_largest_numbers() -> None:
    largest = torch.tensor([100.0, 50.0, 1.0, 1e-9, 0.0])
    above = nvfp4_tensor_scale(largest.amax())
    assert float(above) == pytest.approx(100 / (6 * 448))
    scales = E4M3.decode(nvfp4_scale(largest, above))
    assert scales[0] == 448 and scales[1] == 224 and scales[3] == scales[4] == 2.0**-9
    assert float(scales[2]) == float((torch.tensor(1 / 6) / above).to(torch.float8_e4m3fn))


def test_the_largest_number_of_e5m2_saturates_and_is_not_infinite() -> None:
    assert E5M2.round(torch.tensor([1e9, -1e9, 6e4])).tolist() == [57344, -57344, 57344]
