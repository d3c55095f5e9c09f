"""The contract of design.md §4, run by itself on every registered method, on an image and on a video model.

What a method makes is made once per bits and scope and shared by the tests, which only look at it.
"""

import dataclasses
import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch

from baselines import ditas
from qdit.core.errors import ConfigError, QditError, Unsupported
from qdit.core.options import parse_options
from qdit.methods.quantize import quantize_model
from qdit.methods.registry import registry
from qdit.models.network import Network
from qdit.models.roles import CORE_ROLES, select
from qdit.quant.checkpoint import Quantized, quantized_sites, read_checkpoint, save_checkpoint
from qdit.sampling.calibration import AT_EVERY_STEP, KINDS, CalibrationSet
from tests.small_models import TINY, calibration_set, inputs, random_dit
from tests.small_video_models import FLOW, TINY_VIDEO, random_stdit3, video_calibration_set, video_inputs

METHODS = sorted(registry())
QUANTIZING = [name for name in METHODS if name != "fp"]
SCOPES = ["common", "own"]
SMALL = {
    "group_size": 8,
    "block_size": 8,
    "rank": 2,
    "turns": 3,
    "grid": 4,
    "iterations": 4,
    "batch": 8,
    "per_group": 4,
    "rounds": 1,
}
SHORT, SHORT_VIDEO = (dataclasses.replace(config, depth=1) for config in (TINY, TINY_VIDEO))
"""One block of images, one spatial and one temporal block of clips: every role of a site is there."""


@pytest.fixture(autouse=True, scope="module")
def few_exponents():
    """DiTAS tries three exponents in the place of 21."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ditas, "STEPS", 2)
        yield


@dataclass(frozen=True)
class Family:
    """A tiny random model, anew at each call, inputs of a forward, and calibration data of a kind."""

    model: Callable[[], Network]
    inputs: Callable[[], tuple[torch.Tensor, ...]]
    data: Callable[[str], CalibrationSet]


def at_the_schedule(x, timestep, *conditions):
    """Timesteps of the calibration data: eight steps are too few for ranges per timestep to serve those between."""
    steps = torch.arange(len(timestep)) % FLOW.steps
    return x, torch.from_numpy(FLOW.timesteps).float()[steps], *conditions


FAMILIES = {
    "image": Family(
        lambda: random_dit(SHORT),
        inputs,
        lambda kind: calibration_set(kind, samples=8 if kind in AT_EVERY_STEP else 16),
    ),
    "video": Family(
        lambda: random_stdit3(SHORT_VIDEO),
        lambda: at_the_schedule(*video_inputs(SHORT_VIDEO, count=6)),
        lambda kind: video_calibration_set(kind, samples=4 if kind in AT_EVERY_STEP else 16, config=SHORT_VIDEO),
    ),
}
on_every_family = pytest.mark.parametrize("family", FAMILIES)
SCOPE_OF = {"image": "own", "video": "common"}
on_every_family_and_scope = pytest.mark.parametrize(
    ("family", "scope"),
    [
        pytest.param(family, scope, marks=() if SCOPE_OF[family] == scope else pytest.mark.slow)
        for family in FAMILIES
        for scope in SCOPES
    ],
)
"""Each family in one scope, and each scope with one family; the other two combinations are slow tests."""


@cache
def calibration(family):
    """Small calibration sets of every kind."""
    return {kind: FAMILIES[family].data(kind) for kind in KINDS}


def options_for(name):
    """Groups that divide the tiny models, and little work, for methods that have such options."""
    fields = {field.name for field in dataclasses.fields(registry()[name].Options)}
    return {key: value for key, value in SMALL.items() if key in fields}


def make(family, model, name, weight_bits, activation_bits, scope):
    """Quantize anew."""
    return quantize_model(
        model,
        name,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        scope=scope,
        calibration=calibration(family),
        options=options_for(name),
    )


@cache
def attempt(family, name, weight_bits, activation_bits, scope):
    """What the method makes of the tiny model, or why it makes nothing."""
    try:
        return make(family, FAMILIES[family].model(), name, weight_bits, activation_bits, scope)
    except Unsupported as reason:
        return reason


def quantized(family, name, weight_bits, activation_bits, scope="common"):
    """Quantized tiny model and correction, or a skip with the method's reason."""
    found = attempt(family, name, weight_bits, activation_bits, scope)
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
def again(family, name):
    """The method on a model of its own, in scope `own`."""
    model, _ = FAMILIES[family].model(), calibration(family)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
        result = make(family, model, name, *low_bits(name), "own")
        same = torch.equal(torch.random.get_rng_state(), state)
        same = same and np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    return Again(result, model, same)


def output(family, model):
    with torch.inference_mode():
        return model(*FAMILIES[family].inputs())


def damage(family, name, weight_bits, activation_bits, scope="common"):
    full = output(family, FAMILIES[family].model())
    own = output(family, quantized(family, name, weight_bits, activation_bits, scope).model)
    return float((own - full).norm() / full.norm())


def correction_tensors(found):
    return {} if found is None else found.tensors()


def same_tensors(found, expected):
    return set(found) == set(expected) and all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("name", METHODS)
def test_has_a_name_a_citation_and_frozen_options(name):
    method = registry()[name]
    assert method.citation.lstrip().startswith("@") and "title" in method.citation
    assert set(method.calibration) <= set(KINDS)
    assert method.Options.__dataclass_params__.frozen


@on_every_family
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", METHODS)
def test_quantize_save_load_gives_the_same_bits(family, name, scope, tmp_path):
    found = quantized(family, name, *low_bits(name), scope)
    save_checkpoint(tmp_path, found, {"method": name})
    model, correction, _ = read_checkpoint(tmp_path)
    assert torch.equal(output(family, model), output(family, found.model))
    assert type(correction) is type(found.correction)
    assert same_tensors(correction_tensors(correction), correction_tensors(found.correction))


@on_every_family
@pytest.mark.parametrize("name", METHODS)
def test_a_checkpoint_that_is_loaded_and_saved_again_is_the_same_file(family, name, tmp_path):
    found = quantized(family, name, *low_bits(name), "own")
    save_checkpoint(tmp_path / "first", found, {})
    model, correction, _ = read_checkpoint(tmp_path / "first")
    save_checkpoint(tmp_path / "second", Quantized(model, correction, found.log), {})
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


@on_every_family
@pytest.mark.parametrize("name", METHODS)
def test_a_copy_of_the_quantized_model_stands_alone(family, name):
    model = deepcopy(quantized(family, name, *low_bits(name), "own").model)
    expected = output(family, quantized(family, name, *low_bits(name), "own").model)
    assert torch.equal(output(family, model), expected)
    x, timestep, *conditions = FAMILIES[family].inputs()
    with torch.inference_mode():
        quantized(family, name, *low_bits(name), "own").model(x, torch.zeros_like(timestep), *conditions)
    assert torch.equal(output(family, model), expected)


@on_every_family
@pytest.mark.parametrize("name", METHODS)
def test_the_input_model_is_untouched(family, name):
    model = again(family, name).model
    assert same_tensors(model.state_dict(), FAMILIES[family].model().state_dict())
    assert [type(module) for module in model.modules()] == [
        type(module) for module in FAMILIES[family].model().modules()
    ]
    plain = FAMILIES[family].model().parameters()
    for parameter, same in zip(model.parameters(), plain, strict=True):
        assert parameter.requires_grad == same.requires_grad and parameter.grad is None
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("name", METHODS)
def test_options_round_trip_through_json(name):
    method = registry()[name]
    options = parse_options(name, method.Options, options_for(name))
    assert parse_options(name, method.Options, json.loads(json.dumps(dataclasses.asdict(options)))) == options


@on_every_family_and_scope
@pytest.mark.parametrize("name", METHODS)
def test_16_16_bits_is_the_input_model(family, name, scope):
    assert damage(family, name, 16, 16, scope) < 1e-4
    assert quantized(family, name, 16, 16, scope).correction is None


@on_every_family_and_scope
@pytest.mark.parametrize("name", QUANTIZING)
def test_w16a8_quantizes_activations_only(family, name, scope):
    model = quantized(family, name, 16, 8, scope).model
    core = [model.get_submodule(site.name) for site in select(model.sites(), roles=CORE_ROLES)]
    assert all(module.activation.bits == 8 for module in core)
    assert all(module.weight_bits == 16 for module in quantized_sites(model).values())
    assert 0 < damage(family, name, 16, 8, scope) < 0.1


@on_every_family
@pytest.mark.parametrize("name", QUANTIZING)
def test_w4a16_quantizes_weights_only(family, name):
    model = quantized(family, name, 4, 16).model
    core = [model.get_submodule(site.name) for site in select(model.sites(), roles=CORE_ROLES)]
    assert all(module.weight_bits == 4 for module in core)
    assert all(module.activation is None for module in quantized_sites(model).values())
    assert 0 < damage(family, name, 4, 16) < 0.5


@on_every_family_and_scope
@pytest.mark.parametrize("name", [name for name in QUANTIZING if registry()[name].base is None])
def test_more_bits_are_better(family, name, scope):
    assert damage(family, name, 8, 8, scope) < damage(family, name, 4, 8, scope) < damage(family, name, 2, 8, scope)
    assert damage(family, name, 8, 8, scope) < damage(family, name, 8, 4, scope)


@on_every_family
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", [name for name in QUANTIZING if registry()[name].base])
def test_a_method_with_a_base_makes_the_model_of_its_base(family, name, scope):
    base = quantized(family, registry()[name].base, *low_bits(name), scope)
    assert same_tensors(quantized(family, name, *low_bits(name), scope).model.state_dict(), base.model.state_dict())


@on_every_family
@pytest.mark.parametrize("name", METHODS)
def test_only_sites_are_replaced_and_the_model_is_in_eval_mode(family, name):
    model, plain = quantized(family, name, *low_bits(name), "own").model, FAMILIES[family].model()
    sites = {site.name for site in plain.sites()}
    assert set(quantized_sites(model)) <= sites
    for path, module in plain.named_modules():
        if not any(path == site or path.startswith(f"{site}.") for site in sites):
            assert type(model.get_submodule(path)) is type(module), path
    assert not any(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@on_every_family
@pytest.mark.parametrize("name", QUANTIZING)
def test_the_class_says_if_sites_store_more_than_codes(family, name):
    """Sizes that are computed from shapes would leave out transforms, branches and block scales."""
    sites = quantized_sites(quantized(family, name, 4, 8).model)
    more = any("extra_bytes" in site.spec() for site in sites.values())
    assert registry()[name].stores_more_than_codes or not more, "add stores_more_than_codes = True to the class"


@on_every_family
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", QUANTIZING)
def test_scales_are_positive_and_all_tensors_are_ordinary_ones(family, name, scope):
    state = quantized(family, name, 4, 8, scope).model.state_dict()
    assert all((t > 0).all() for key, t in state.items() if key.endswith(("scale", "split")))
    assert not any(t.is_inference() for t in state.values()), "an inference tensor cannot be trained or changed"


@on_every_family
@pytest.mark.parametrize("name", METHODS)
def test_global_random_state_is_left_alone(family, name):
    assert again(family, name).random_state_is_the_same


@on_every_family
@pytest.mark.parametrize("name", METHODS)
def test_quantizing_twice_gives_the_same_bits(family, name):
    first, second = quantized(family, name, *low_bits(name), "own"), again(family, name).result
    assert same_tensors(second.model.state_dict(), first.model.state_dict())
    assert same_tensors(correction_tensors(second.correction), correction_tensors(first.correction))
    assert second.log == first.log


@pytest.mark.parametrize("name", METHODS)
def test_unknown_options_and_missing_calibration_are_refused(name):
    with pytest.raises(ConfigError, match="option 'group_sise'"):
        quantize_model(
            random_dit(),
            name,
            weight_bits=8,
            activation_bits=8,
            calibration=calibration("image"),
            options={"group_sise": 8},
        )
    if registry()[name].calibration:
        with pytest.raises(ConfigError, match="needs calibration data"):
            quantize_model(random_dit(), name, weight_bits=8, activation_bits=8)


@pytest.mark.parametrize("name", [name for name in METHODS if "group_size" in options_for(name)])
def test_group_sizes_that_do_not_divide_name_the_legal_ones(name):
    with pytest.raises(ConfigError, match=r"legal: \[1, 2, 3, 4, 6, 8, 12, 16, 24, 48\]"):
        quantize_model(
            random_dit(),
            name,
            weight_bits=4,
            activation_bits=8,
            calibration=calibration("image"),
            options={"group_size": 7},
        )


@pytest.mark.parametrize("bits", [(0, 8), (1, 8), (9, 8), (4, 0), (4, 12), (32, 32)])
def test_impossible_bits_are_refused(bits):
    with pytest.raises(ConfigError, match="allowed are 2 to 8, or 16"):
        quantize_model(
            random_dit(), "rtn", weight_bits=bits[0], activation_bits=bits[1], calibration=calibration("image")
        )


def test_unknown_methods_are_refused_with_a_suggestion():
    with pytest.raises(QditError, match=r"did you mean 'q-dit'\?"):
        quantize_model(random_dit(), "q-dti", weight_bits=4, activation_bits=8)


def test_width_of_the_tiny_model_is_what_these_tests_assume():
    assert TINY.hidden_size == 48
