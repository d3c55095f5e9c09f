"""Folding into the layers around a linear of diffusers is exact, and changes all linears with the same input."""

from copy import deepcopy

import pytest
import torch

from qdit.core.errors import ConfigError, Unsupported
from qdit.methods.quantize import quantize_model
from qdit.models.generic.network import DiffusersNetwork
from qdit.models.roles import NormWeights, OwnInput, ValueRows
from qdit.quant.batches import Keywords, mapped, run
from qdit.quant.folding import divide_inputs, fold, joint_weight, leaders, sharing
from qdit.quant.observe import observe_inputs
from tests.small_transformers import keyword_set, keywords, randomized, tiny_network

FOLDED = {
    "dit": 6,
    "flux": 5,
    "sd3": 9,
    "qwen-image": 8,
    "hunyuan-video": 5,
    "pixart": 8,
    "wan": 10,
    "cogvideox": 6,
    "latte": 14,
    "ltx-video": 8,
    "sana": 8,
    "hunyuan-dit": 21,
    "lumina2": 8,
    "auraflow": 7,
    "chroma": 5,
    "flux2": 5,
}
"""Family → number of inputs into which a factor can be folded."""


TIGHT = {"rtol": 1e-9, "atol": 1e-9}


@pytest.mark.parametrize("name", FOLDED)
def test_folding_changes_the_inputs_and_not_the_function(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64: what casts to float32 casts to float64 here. So a wrong term of any size is seen."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    calls = keywords(name)
    batch = Keywords(*(mapped(values, in_double) for values in (calls.samples, calls.shared)))
    network = tiny_network(name).double()
    sites = leaders(network, [site for site in network.sites() if site.fold_source])
    assert len(sites) == FOLDED[name]
    seen: dict[str, list[torch.Tensor]] = {}
    observe_inputs(network, sites, [batch], lambda site, x: seen.setdefault(site.name, []).append(x))
    draw = torch.Generator().manual_seed(4)
    with torch.no_grad():
        expected = run(network, batch)
        for site in sites:
            folded = deepcopy(network)
            width = joint_weight(network, site).shape[1]
            factor, offset = (make(width, generator=draw).double() for make in (torch.rand, torch.randn))
            fold(folded, site, factor + 0.5, offset)
            inputs: list[torch.Tensor] = []
            observe_inputs(folded, [site], [batch], lambda _site, x, inputs=inputs: inputs.append(x))
            wanted = seen[site.name][0] / (factor + 0.5) - offset
            torch.testing.assert_close(inputs[0], wanted, **TIGHT)
            torch.testing.assert_close(run(folded, batch), expected, **TIGHT)


def in_double(value: object) -> object:
    """Numbers as float64, except timesteps (N,), which a class casts itself."""
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def test_linears_with_the_same_input_are_known() -> None:
    network = tiny_network("flux")
    by_name = {site.name: site for site in network.sites()}
    one = by_name["single_transformer_blocks.0.attn.to_q"]
    names = [site.name.removeprefix("single_transformer_blocks.0.") for site in sharing(network, one)]
    assert sorted(names) == ["attn.to_k", "attn.to_q", "attn.to_v", "proj_mlp"]
    assert isinstance(
        next(s for s in tiny_network("dit").sites() if s.name.endswith("0.attn1.to_out.0")).fold_source, ValueRows
    )
    with pytest.raises(Unsupported, match="nothing before a cross_q"):
        pixart = tiny_network("pixart")
        fold(pixart, next(s for s in pixart.sites() if s.role == "cross_q"), torch.ones(48))


def test_wan_has_a_source_for_each_norm_and_none_for_values_of_two() -> None:
    wan = tiny_network("wan")
    sources = {site.name.removeprefix("blocks.0."): site.fold_source for site in wan.sites() if site.block == 0}
    assert sources["attn2.to_q"] == NormWeights("blocks.0.norm2")
    assert sources["attn1.to_q"] == sources["attn1.to_v"] == OwnInput("blocks.0.attn1.to_q")
    assert sources["ffn.net.0.proj"] == OwnInput("blocks.0.ffn.net.0.proj")
    assert isinstance(sources["attn2.to_out.0"], ValueRows) and sources["attn2.to_k"] is None
    settings = {**wan.config.values, "image_dim": 8, "added_kv_proj_dim": 32}
    image = DiffusersNetwork(randomized(type(wan.transformer)(**settings)))
    of_image = {site.name: site.fold_source for site in image.sites()}
    assert of_image["blocks.0.attn2.to_out.0"] is None
    assert isinstance(of_image["blocks.0.attn1.to_out.0"], ValueRows)


@pytest.mark.parametrize("name", FOLDED)
def test_in_full_precision_the_folded_network_is_the_same(name: str) -> None:
    """At 16/16 bits PTQ4DiT folds all its factors and quantizes nothing."""
    network, calibration = tiny_network(name), {"per-step": keyword_set(name, "per-step")}
    result = quantize_model(
        network, "ptq4dit", weight_bits=16, activation_bits=16, calibration=calibration, options={"iterations": 0}
    )
    before, after = network.state_dict(), result.model.state_dict()
    assert after.keys() != before.keys() or any(not torch.equal(after[key], before[key]) for key in before)
    with torch.no_grad():
        full, output = (run(model, keywords(name, seed=7)) for model in (network, result.model))
    assert (output - full).norm() / full.norm() < 1e-5


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("wan", "sana", "lumina2")]


@pytest.mark.parametrize("name", ["pixart", "cogvideox", *SLOW])
def test_rounding_is_learned_behind_a_division(name: str) -> None:
    network, calibration = tiny_network(name), {"per-step": keyword_set(name, "per-step", count=8)}
    options = {"iterations": 60, "batch": 8, "rate": 0.02}
    result = quantize_model(
        network, "ptq4dit", weight_bits=3, activation_bits=8, calibration=calibration, options=options
    )
    curves = result.log["reconstruction"]["units"]
    assert [curve["name"] for curve in curves] == network.block_paths
    assert sum(curve["after"] for curve in curves) < sum(curve["before"] for curve in curves)


@pytest.mark.parametrize("name", FOLDED)
@pytest.mark.parametrize(("method", "options"), [("repq-vit", {}), ("ptq4dit", {"iterations": 0})])
def test_methods_fold_where_they_can(name: str, method: str, options: dict[str, int]) -> None:
    network, kind = tiny_network(name), {"repq-vit": "uniform", "ptq4dit": "per-step"}[method]
    result = quantize_model(
        network,
        method,
        weight_bits=8,
        activation_bits=8,
        calibration={kind: keyword_set(name, kind)},
        options=options,
    )
    with torch.no_grad():
        full, output = (run(model, keywords(name, seed=7)) for model in (network, result.model))
    assert 0 < (output - full).norm() / full.norm() < 0.25


def test_an_input_is_divided_once() -> None:
    """Queries, keys and values have one input: a factor for each of them would divide it three times."""
    network = tiny_network("flux")
    shared = sharing(network, next(site for site in network.sites() if site.name.endswith("0.attn.to_q")))
    factors = {site: torch.ones(network.get_submodule(site.name).in_features) for site in shared}
    with pytest.raises(ConfigError, match="another layer with the same input has a factor too"):
        divide_inputs(network, factors)
    joint = joint_weight(network, shared[0])
    assert joint.shape == (sum(network.get_submodule(site.name).out_features for site in shared), joint.shape[1])


@pytest.mark.parametrize("method", ["smoothquant", "vidit-q", "svdquant", "ditas"])
def test_methods_that_smooth_do_so_once_for_each_input(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a branch of full rank, or 8 bits, little is lost; and each input has one factor."""
    network, seen = tiny_network("flux"), []
    monkeypatch.setattr(
        f"baselines.{method.replace('-', '_')}.divide_inputs",
        lambda model, factors: (seen.extend(factors), divide_inputs(model, factors)),
    )
    calibration = {kind: keyword_set("flux", kind) for kind in ("uniform", "trajectory", "per-step")}
    result = quantize_model(network, method, weight_bits=8, activation_bits=8, calibration=calibration)
    assert seen and len(seen) == len(leaders(network, seen))
    with torch.no_grad():
        full, output = (run(model, keywords("flux", seed=7)) for model in (network, result.model))
    assert 0 < (output - full).norm() / full.norm() < 0.05
