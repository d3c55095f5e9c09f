"""Packed inference linears compute what F.linear computes, and preparing a model changes rounding only."""

import pytest
import torch
import torch.nn.functional as F

from qdit.kernels.dense import DenseLinear, backend
from qdit.methods.quantize import quantize_model
from qdit.quant.sites import prepare_inference
from tests.small_models import inputs, random_dit


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 16), (3, 5, 16), (2, 7, 3, 16)])
def test_equals_linear_in_float64(shape, with_bias, gelu):
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(shape, generator=generator), torch.randn(24, 16, generator=generator)
    bias = torch.randn(24, generator=generator) if with_bias else None
    expected = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    expected = F.gelu(expected, approximate="tanh") if gelu else expected
    with torch.inference_mode():
        result = DenseLinear(weight, bias, gelu=gelu)(x)
    assert result.shape == expected.shape
    assert (result - expected).norm() / expected.norm() < 2e-6


def test_without_onednn_torch_computes_the_same(monkeypatch):
    monkeypatch.setattr("qdit.kernels.dense.backend", lambda: "torch")
    x, weight = torch.randn(4, 16), torch.randn(8, 16)
    assert torch.equal(DenseLinear(weight, None)(x), F.linear(x, weight))
    assert torch.equal(DenseLinear(weight, None, gelu=True)(x), F.gelu(F.linear(x, weight), approximate="tanh"))


def test_backend_is_named():
    assert backend() in ("onednn", "torch")


def test_a_prepared_model_differs_in_rounding_only():
    model = random_dit()
    with torch.inference_mode():
        before = model(*inputs())
        after = prepare_inference(model)(*inputs())
    assert (after - before).norm() / before.norm() < 1e-5


def test_a_prepared_quantized_model_still_quantizes_its_inputs():
    full = random_dit()
    with torch.inference_mode():
        reference = full(*inputs())
    options = {"activation": "dynamic", "group_size": 16}
    empty = {"trajectory": None}
    damage = {}
    for bits in (3, 8):
        model = quantize_model(
            full, "rtn", weight_bits=16, activation_bits=bits, calibration=empty, options=options
        ).model
        with torch.inference_mode():
            plain, prepared = model(*inputs()), prepare_inference(model)(*inputs())
        damage[bits] = float((prepared - reference).norm() / reference.norm())
        assert abs(damage[bits] / float((plain - reference).norm() / reference.norm()) - 1) < 0.1
    assert damage[8] < 0.2 * damage[3]
