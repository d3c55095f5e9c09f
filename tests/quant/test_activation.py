"""Activation quantizers against written-out loops and known limits."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qdit.core.affine import group_extremes
from qdit.core.errors import CheckpointError, ConfigError
from qdit.models.roles import StepContext
from qdit.quant.activation import DynamicActivation, FactoredActivation, StaticActivation, in_float32, input_of_product
from qdit.quant.activation_kinds import build_activation
from qdit.quant.nonlinear import LogSqrt2Activation, TwinGeluActivation
from tests.pretended_gpu import pretended_gpu


def loop_minmax(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Asymmetric min-max quantization of one group, range with zero, in float64 but for the parameters."""
    low, high = min(values.min().item(), 0.0), max(values.max().item(), 0.0)
    scale = (torch.tensor(high) - torch.tensor(low)).clamp(min=1e-5) / (2**bits - 1)
    zero_point = (-torch.tensor(low) / scale).round().clamp(0, 2**bits - 1)
    return ((values / scale).round() + zero_point).clamp(0, 2**bits - 1).sub(zero_point) * scale


@pytest.mark.parametrize("size", [1, 4, 6, 12, 24])
def test_dynamic_token_groups_equal_a_loop(size):
    x = torch.randn(3, 5, 24, generator=torch.Generator().manual_seed(size)) * 3 + 1
    result = DynamicActivation(bits=4, group_size=size)(x)
    for sample in range(3):
        for token in range(5):
            for start in range(0, 24, size):
                part = x[sample, token, start : start + size]
                assert torch.equal(result[sample, token, start : start + size], loop_minmax(part, 4))


@pytest.mark.parametrize(("sharing", "dims"), [("sample", (1,)), ("tensor", (0, 1))])
def test_wider_sharing_uses_one_range_for_all_its_tokens(sharing, dims):
    x = torch.randn(3, 5, 24, generator=torch.Generator().manual_seed(7))
    result = DynamicActivation(bits=4, group_size=12, sharing=sharing)(x)
    for start in (0, 12):
        part = x[..., start : start + 12]
        pieces = [part[i] for i in range(3)] if dims == (1,) else [part]
        expected = torch.stack([loop_minmax(piece, 4) for piece in pieces]).reshape(part.shape)
        assert torch.equal(result[..., start : start + 12], expected)


def test_per_token_is_one_group_of_the_whole_row():
    x = torch.randn(4, 24, generator=torch.Generator().manual_seed(0))
    assert torch.equal(DynamicActivation(bits=8, group_size=None)(x), DynamicActivation(bits=8, group_size=24)(x))


def test_dynamic_quantization_of_a_row_ignores_the_other_rows():
    quantizer = DynamicActivation(bits=4, group_size=8)
    x = torch.randn(6, 24, generator=torch.Generator().manual_seed(0))
    loud = torch.cat([x, 1000 * x])
    assert torch.equal(quantizer(loud)[:6], quantizer(x))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31))
def test_group_extremes_are_min_and_max(rows, size, seed):
    groups = torch.randn(rows, 2, size, generator=torch.Generator().manual_seed(seed))
    low, high = group_extremes(groups)
    assert torch.equal(low, groups.amin(-1)) and torch.equal(high, groups.amax(-1))


def test_released_range_rule_collapses_positive_groups_and_the_correction_does_not():
    x = torch.linspace(5, 6, 16)[None]
    assert DynamicActivation(bits=4, group_size=None, include_zero=False)(x).max() < 2
    assert (DynamicActivation(bits=4, group_size=None)(x) - x).abs().max() < 0.21


@pytest.mark.parametrize("value", [0.0, 1e-8, 3.7, -2.0, 1e30])
def test_constant_inputs_stay_finite_and_close(value):
    x = torch.full((2, 16), value)
    result = DynamicActivation(bits=8, group_size=4)(x)
    assert torch.isfinite(result).all()
    assert torch.allclose(result, x, rtol=1e-2, atol=1e-5)


def test_static_per_group_uses_its_own_parameters_for_each_group():
    scale, zero_point = torch.tensor([0.1, 2.0]), torch.tensor([3, 8])
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(0)) * 4
    result = StaticActivation(bits=4, scale=scale, zero_point=zero_point)(x)
    for index in range(2):
        part = x[:, 4 * index : 4 * index + 4]
        codes = ((part / scale[index]).round() + zero_point[index]).clamp(0, 15)
        assert torch.equal(result[:, 4 * index : 4 * index + 4], (codes - zero_point[index]) * scale[index])


@pytest.mark.parametrize(
    "quantizer",
    [
        DynamicActivation(bits=6, group_size=4, sharing="sample", include_zero=False),
        DynamicActivation(bits=5, group_size=None, symmetric=True),
        StaticActivation(bits=4, scale=torch.tensor([0.1, 0.2]), zero_point=torch.tensor([1, 2])),
        StaticActivation(bits=4, scale=torch.tensor([0.1, 0.2]), zero_point=torch.tensor([1, 2]), per="head"),
        LogSqrt2Activation(bits=4, scale=torch.tensor(0.7)),
        TwinGeluActivation(bits=4, positive_scale=torch.tensor(0.3)),
    ],
)
def test_spec_and_tensors_build_the_same_quantizer(quantizer):
    again = build_activation(quantizer.spec(), quantizer.state_dict(), StepContext())
    x = torch.rand(3, 2, 4, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again(x), quantizer(x))
    assert again.spec() == quantizer.spec()


def test_unknown_kinds_and_sharing_are_refused():
    with pytest.raises(CheckpointError, match="allowed are dynamic, static"):
        build_activation({"kind": "magic", "bits": 8}, {}, StepContext())
    with pytest.raises(ConfigError, match="allowed are token, sample, tensor"):
        DynamicActivation(bits=8, group_size=None, sharing="batch")


def test_group_size_that_does_not_divide_names_the_legal_ones():
    with pytest.raises(ConfigError, match=r"group_size 5 does not divide 24; legal: \[1, 2, 3, 4, 6, 8, 12, 24\]"):
        DynamicActivation(bits=8, group_size=5)(torch.randn(2, 24))


class Doubled(StaticActivation):
    """A kind of a method's own file: its forward is not that of its base."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


RANGE = {"bits": 8, "scale": torch.tensor([0.1, 0.03]), "zero_point": torch.tensor([3, 90])}
NARROWED = {
    "dynamic": DynamicActivation(bits=8, group_size=8),
    "dynamic 4 bits": DynamicActivation(bits=4, group_size=None, symmetric=True),
    "a sample": DynamicActivation(bits=8, group_size=8, sharing="sample"),
    "static": StaticActivation(**RANGE),
    "heads": StaticActivation(**RANGE, per="head"),
    "factored": FactoredActivation(
        bits=8, scale=torch.tensor([0.1]), zero_point=torch.tensor([9]), factor=torch.rand(2, 1, 16) + 0.5
    ),
    "own forward": Doubled(**RANGE),
    "gelu": TwinGeluActivation(bits=8, positive_scale=torch.tensor(0.05)),
}


@pytest.mark.parametrize("name", list(NARROWED))
@pytest.mark.parametrize("source", [torch.float32, torch.float16])
@pytest.mark.parametrize("place", ["cpu", "gpu"])
def test_a_product_under_autocast_gets_the_bits_of_the_conversions(name, source, place, monkeypatch):
    """To float32, quantizer, to half precision; without autocast the result stays float32."""
    x = (torch.randn(3, 2, 5, 16, generator=torch.Generator().manual_seed(0)) * 3).to(source)
    expected = in_float32(NARROWED[name], x)
    assert input_of_product(NARROWED[name], x).dtype == torch.float32
    if place == "cpu":
        assert torch.equal(NARROWED[name].narrowed(x, torch.float16), expected.half())
        return
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _: True)
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda _: torch.bfloat16)
    with pretended_gpu() as gpu:
        found = input_of_product(copy.deepcopy(NARROWED[name]).to(gpu), x.to(gpu)).cpu()
    assert found.dtype == torch.bfloat16 and torch.equal(found, expected.bfloat16())
