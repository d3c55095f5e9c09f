"""The contract of design.md §4, run by itself on every registered method.

What a method makes is made once per bits and scope and shared by the tests, which only look at it.
"""

import dataclasses
import json
from copy import deepcopy
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch

from qdit.calibration import KINDS
from qdit.errors import ConfigError, QditError, Unsupported
from qdit.method import parse_options, quantize_model, registry
from qdit.models.roles import CORE_ROLES, select
from qdit.quant.checkpoint import Quantized, load_checkpoint, quantized_sites, save_checkpoint
from tests.small_models import TINY, calibration_set, inputs, random_dit

METHODS = sorted(registry())
QUANTIZING = [name for name in METHODS if name != "fp"]
SCOPES = ["common", "own"]
SMALL = {"group_size": 16, "iterations": 12, "batch": 8, "per_group": 4, "rounds": 1}


@cache
def calibration():
    """Small calibration sets of every kind."""
    return {kind: calibration_set(kind) for kind in KINDS}


def options_for(name):
    """Groups that divide the tiny model, and little work, for methods that have such options."""
    fields = {field.name for field in dataclasses.fields(registry()[name].Options)}
    return {key: value for key, value in SMALL.items() if key in fields}


def make(model, name, weight_bits, activation_bits, scope):
    """Quantize anew."""
    return quantize_model(
        model,
        name,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        scope=scope,
        calibration=calibration(),
        options=options_for(name),
    )


@cache
def attempt(name, weight_bits, activation_bits, scope):
    """What the method makes of the tiny model, or why it makes nothing."""
    try:
        return make(random_dit(), name, weight_bits, activation_bits, scope)
    except Unsupported as reason:
        return reason


def quantized(name, weight_bits, activation_bits, scope="common"):
    """Quantized tiny model and correction, or a skip with the method's reason."""
    found = attempt(name, weight_bits, activation_bits, scope)
    if isinstance(found, Unsupported):
        pytest.skip(f"unsupported: {found}")
    return found


def low_bits(name):
    """Bits that are far from full precision, where the method quantizes at all."""
    return (16, 16) if name == "fp" else (4, 8)


@dataclass
class Again:
    """A second quantization under another global random state, and what it changed besides."""

    result: Quantized
    model: torch.nn.Module
    random_state_is_the_same: bool


@cache
def again(name):
    """The method on a model of its own, in scope `own`."""
    model, _ = random_dit(), calibration()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
        result = make(model, name, *low_bits(name), "own")
        same = torch.equal(torch.random.get_rng_state(), state)
        same = same and np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    return Again(result, model, same)


def output(model):
    with torch.inference_mode():
        return model(*inputs())


def damage(name, weight_bits, activation_bits, scope="common"):
    full = output(random_dit())
    return float((output(quantized(name, weight_bits, activation_bits, scope).model) - full).norm() / full.norm())


def correction_tensors(found):
    return {} if found.correction is None else found.correction.tensors()


def same_tensors(found, expected):
    return set(found) == set(expected) and all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("name", METHODS)
def test_has_a_name_a_citation_and_frozen_options(name):
    method = registry()[name]
    assert method.citation.lstrip().startswith("@") and "title" in method.citation
    assert set(method.calibration) <= set(KINDS)
    assert method.Options.__dataclass_params__.frozen


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", METHODS)
def test_quantize_save_load_gives_the_same_bits(name, scope, tmp_path):
    found = quantized(name, *low_bits(name), scope)
    save_checkpoint(tmp_path, found, {"method": name})
    loaded = load_checkpoint(tmp_path)
    assert torch.equal(output(loaded.model), output(found.model))
    assert type(loaded.correction) is type(found.correction)
    assert same_tensors(correction_tensors(loaded), correction_tensors(found))


@pytest.mark.parametrize("name", METHODS)
def test_a_checkpoint_that_is_loaded_and_saved_again_is_the_same_file(name, tmp_path):
    found = quantized(name, *low_bits(name), "own")
    save_checkpoint(tmp_path / "first", found, {})
    loaded = load_checkpoint(tmp_path / "first")
    save_checkpoint(tmp_path / "second", Quantized(loaded.model, loaded.correction, found.log), {})
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


@pytest.mark.parametrize("name", METHODS)
def test_a_copy_of_the_quantized_model_stands_alone(name):
    model = deepcopy(quantized(name, *low_bits(name), "own").model)
    expected = output(quantized(name, *low_bits(name), "own").model)
    assert torch.equal(output(model), expected)
    x, _, label = inputs()
    with torch.inference_mode():
        quantized(name, *low_bits(name), "own").model(x, torch.zeros(len(x), dtype=torch.int64), label)
    assert torch.equal(output(model), expected)


@pytest.mark.parametrize("name", METHODS)
def test_the_input_model_is_untouched(name):
    model = again(name).model
    assert same_tensors(model.state_dict(), random_dit().state_dict())
    assert [type(module) for module in model.modules()] == [type(module) for module in random_dit().modules()]
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("name", METHODS)
def test_options_round_trip_through_json(name):
    method = registry()[name]
    options = parse_options(method, options_for(name))
    assert parse_options(method, json.loads(json.dumps(dataclasses.asdict(options)))) == options


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", METHODS)
def test_16_16_bits_is_the_input_model(name, scope):
    assert damage(name, 16, 16, scope) < 1e-4
    assert quantized(name, 16, 16, scope).correction is None


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", QUANTIZING)
def test_w16a8_quantizes_activations_only(name, scope):
    model = quantized(name, 16, 8, scope).model
    core = [model.get_submodule(site.name) for site in select(model.sites(), roles=CORE_ROLES)]
    assert all(module.activation.bits == 8 for module in core)
    assert all(module.weight_bits == 16 for module in quantized_sites(model).values())
    assert 0 < damage(name, 16, 8, scope) < 0.1


@pytest.mark.parametrize("name", QUANTIZING)
def test_w4a16_quantizes_weights_only(name):
    model = quantized(name, 4, 16).model
    core = [model.get_submodule(site.name) for site in select(model.sites(), roles=CORE_ROLES)]
    assert all(module.weight_bits == 4 for module in core)
    assert all(module.activation is None for module in quantized_sites(model).values())
    assert 0 < damage(name, 4, 16) < 0.5


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", QUANTIZING)
def test_more_bits_are_better(name, scope):
    assert damage(name, 8, 8, scope) < damage(name, 4, 8, scope) < damage(name, 2, 8, scope)
    assert damage(name, 8, 8, scope) < damage(name, 8, 4, scope)


@pytest.mark.parametrize("name", METHODS)
def test_only_sites_are_replaced_and_the_model_is_in_eval_mode(name):
    model, plain = quantized(name, *low_bits(name), "own").model, random_dit()
    sites = {site.name for site in plain.sites()}
    assert set(quantized_sites(model)) <= sites
    for path, module in plain.named_modules():
        if not any(path == site or path.startswith(f"{site}.") for site in sites):
            assert type(model.get_submodule(path)) is type(module), path
    assert not any(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", QUANTIZING)
def test_scales_are_positive_and_all_tensors_are_ordinary_ones(name, scope):
    state = quantized(name, 4, 8, scope).model.state_dict()
    assert all((t > 0).all() for key, t in state.items() if key.endswith(("scale", "split")))
    assert not any(t.is_inference() for t in state.values()), "an inference tensor cannot be trained or changed"


@pytest.mark.parametrize("name", METHODS)
def test_global_random_state_is_left_alone(name):
    assert again(name).random_state_is_the_same


@pytest.mark.parametrize("name", METHODS)
def test_quantizing_twice_gives_the_same_bits(name):
    first, second = quantized(name, *low_bits(name), "own"), again(name).result
    assert same_tensors(second.model.state_dict(), first.model.state_dict())
    assert same_tensors(correction_tensors(second), correction_tensors(first))
    assert second.log == first.log


@pytest.mark.parametrize("name", METHODS)
def test_unknown_options_and_missing_calibration_are_refused(name):
    with pytest.raises(ConfigError, match="option 'group_sise'"):
        quantize_model(
            random_dit(), name, weight_bits=8, activation_bits=8, calibration=calibration(), options={"group_sise": 8}
        )
    if registry()[name].calibration:
        with pytest.raises(ConfigError, match="needs calibration data"):
            quantize_model(random_dit(), name, weight_bits=8, activation_bits=8)


@pytest.mark.parametrize("name", [name for name in METHODS if "group_size" in options_for(name)])
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
