"""The contract of design.md §4, run by itself on every registered method."""

import dataclasses
import json
from functools import cache

import numpy as np
import pytest
import torch

from qdit.calibration import KINDS, collect
from qdit.errors import ConfigError, QditError, Unsupported
from qdit.method import parse_options, quantize_model, registry
from qdit.models.roles import CORE_ROLES, select
from qdit.quant.checkpoint import load_checkpoint, save_checkpoint
from qdit.quant.sites import QuantizedLinear
from qdit.sampling.protocol import Protocol
from tests.small_models import TINY, inputs, random_dit

METHODS = sorted(registry())
GROUPED = {"group_size": 16}


@cache
def calibration():
    """Small calibration sets of every kind."""
    return {kind: collect(random_dit(), kind, Protocol(steps=8), samples=24) for kind in KINDS}


def options_for(name):
    """Groups that divide the tiny model, for methods that have them."""
    fields = {field.name for field in dataclasses.fields(registry()[name].Options)}
    return {key: value for key, value in GROUPED.items() if key in fields}


def quantized(name, weight_bits, activation_bits, *, model=None, scope="common", **options):
    """Quantized tiny model, or a skip with the method's reason."""
    try:
        return quantize_model(
            model or random_dit(),
            name,
            weight_bits=weight_bits,
            activation_bits=activation_bits,
            scope=scope,
            calibration=calibration(),
            options={**options_for(name), **options},
        ).model
    except Unsupported as reason:
        pytest.skip(f"unsupported: {reason}")


def output(model):
    with torch.inference_mode():
        return model(*inputs())


def damage(name, weight_bits, activation_bits):
    full = output(random_dit())
    return float((output(quantized(name, weight_bits, activation_bits)) - full).norm() / full.norm())


@pytest.mark.parametrize("name", METHODS)
def test_has_a_name_a_citation_and_frozen_options(name):
    method = registry()[name]
    assert method.citation.lstrip().startswith("@") and "title" in method.citation
    assert set(method.calibration) <= set(KINDS)
    assert method.Options.__dataclass_params__.frozen


@pytest.mark.parametrize("scope", ["common", "own"])
@pytest.mark.parametrize("name", METHODS)
def test_quantize_save_load_gives_the_same_bits(name, scope, tmp_path):
    bits = (16, 16) if name == "fp" else (4, 8)
    model = quantized(name, *bits, scope=scope)
    save_checkpoint(tmp_path, model, {"method": name})
    assert torch.equal(output(load_checkpoint(tmp_path).model), output(model))


@pytest.mark.parametrize("name", METHODS)
def test_the_input_model_is_untouched(name):
    model = random_dit()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    quantized(name, *((16, 16) if name == "fp" else (4, 8)), model=model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(isinstance(module, QuantizedLinear) for module in model.modules())


@pytest.mark.parametrize("name", METHODS)
def test_options_round_trip_through_json(name):
    method = registry()[name]
    options = parse_options(method, options_for(name))
    assert parse_options(method, json.loads(json.dumps(dataclasses.asdict(options)))) == options


@pytest.mark.parametrize("name", METHODS)
def test_16_16_bits_is_the_input_model(name):
    full = output(random_dit())
    assert (output(quantized(name, 16, 16)) - full).norm() / full.norm() < 1e-4


@pytest.mark.parametrize("name", [name for name in METHODS if name != "fp"])
def test_w16a8_quantizes_activations_only(name):
    model = quantized(name, 16, 8)
    core = [model.get_submodule(site.name) for site in select(model.sites(), roles=CORE_ROLES)]
    assert all(module.weight_bits == 16 and module.activation.bits == 8 for module in core)
    assert 0 < damage(name, 16, 8) < 0.1


@pytest.mark.parametrize("name", [name for name in METHODS if name != "fp"])
def test_more_bits_are_better(name):
    assert damage(name, 8, 8) < damage(name, 4, 8) < damage(name, 2, 8)
    assert damage(name, 8, 8) < damage(name, 8, 4)


@pytest.mark.parametrize("name", METHODS)
def test_only_sites_are_replaced_and_the_model_is_in_eval_mode(name):
    model = quantized(name, *((16, 16) if name == "fp" else (4, 8)), scope="own")
    allowed = {site.name for site in random_dit().sites()}
    replaced = {path for path, module in model.named_modules() if isinstance(module, QuantizedLinear)}
    assert replaced <= allowed
    assert not model.training


@pytest.mark.parametrize("name", METHODS)
def test_global_random_state_is_left_alone(name):
    model, _ = random_dit(), calibration()
    torch.manual_seed(5)
    before, numpy_before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    quantized(name, *((16, 16) if name == "fp" else (4, 8)), model=model)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002


@pytest.mark.parametrize("name", METHODS)
def test_quantizing_twice_gives_the_same_bits(name):
    bits = (16, 16) if name == "fp" else (4, 8)
    assert torch.equal(output(quantized(name, *bits)), output(quantized(name, *bits)))


@pytest.mark.parametrize("name", METHODS)
def test_unknown_options_and_missing_calibration_are_refused(name):
    with pytest.raises(ConfigError, match="option 'group_sise'"):
        quantize_model(
            random_dit(), name, weight_bits=8, activation_bits=8, calibration=calibration(), options={"group_sise": 8}
        )
    if registry()[name].calibration:
        with pytest.raises(ConfigError, match="needs calibration data"):
            quantize_model(random_dit(), name, weight_bits=8, activation_bits=8)


@pytest.mark.parametrize("name", [name for name in METHODS if options_for(name)])
def test_group_sizes_that_do_not_divide_name_the_legal_ones(name):
    with pytest.raises(ConfigError, match=r"legal: \[1, 2, 3, 4, 6, 8, 12, 16, 24, 48\]"):
        quantize_model(
            random_dit(), name, weight_bits=4, activation_bits=8, calibration=calibration(), options={"group_size": 7}
        )


@pytest.mark.parametrize("bits", [(0, 8), (1, 8), (9, 8), (4, 0), (4, 12), (32, 32)])
def test_impossible_bits_are_refused(bits):
    with pytest.raises(ConfigError, match="allowed are 2 to 8, or 16"):
        quantize_model(random_dit(), "rtn", weight_bits=bits[0], activation_bits=bits[1], calibration=calibration())


def test_unknown_methods_are_refused_with_a_suggestion():
    with pytest.raises(QditError, match=r"did you mean 'q-dit'\?"):
        quantize_model(random_dit(), "q-dti", weight_bits=4, activation_bits=8)


def test_width_of_the_tiny_model_is_what_these_tests_assume():
    assert TINY.hidden_size == 48
