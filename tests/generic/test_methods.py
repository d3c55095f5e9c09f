"""Every method on tiny transformers of diffusers: it works, or it says why not; what it makes is stored and loaded."""

from functools import cache

import pytest
import torch

from qdit.core.errors import Unsupported
from qdit.methods.quantize import quantize_model
from qdit.methods.registry import registry
from qdit.models.generic.family import GenericFamily
from qdit.models.generic.network import DiffusersNetwork
from qdit.quant.allocation import fitted_group_size
from qdit.quant.apply import FITTED
from qdit.quant.batches import run
from qdit.quant.checkpoint import quantized_sites, read_checkpoint, save_checkpoint
from qdit.sampling.calibration import KINDS
from tests.pretended_gpu import pretended_gpu
from tests.small_transformers import ZOO, keyword_set, keywords, tiny_network, tiny_transformer

SMALL = {"iterations": 2, "batch": 2}
QUICK = {"rtn": {"group_size": 12}, "q-dit": {"group_size": 8}}
LEARNED = {"ptq4dit": {**SMALL, "csb": False}}
THOROUGH = ("flux", "latte")
"""Families on which learned rounding is tried in every test run."""


@cache
def calibration(family):
    return {kind: keyword_set(family, kind) for kind in KINDS}


def quantized(network, family, method, options, *, scope="common", bits=(4, 8)):
    return quantize_model(
        network,
        method,
        weight_bits=bits[0],
        activation_bits=bits[1],
        scope=scope,
        calibration=calibration(family),
        options=options,
    )


def check(family, method, options, folder, **more):
    """Quantize, save, load: the same output bits, and the input model is untouched."""
    network, batch = tiny_network(family), keywords(family, seed=5)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    result = quantized(network, family, method, options, **more)
    with torch.no_grad():
        output, full = run(result.model, batch), run(network, batch)
        save_checkpoint(folder, result, {"method": method})
        loaded, correction, _ = read_checkpoint(folder)
        assert correction is None and not loaded.training
        assert torch.equal(run(loaded, batch), output)
    assert output.isfinite().all() and not torch.equal(output, full)
    assert quantized_sites(loaded).keys() == quantized_sites(result.model).keys()
    assert not quantized_sites(network)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    return result


@pytest.mark.parametrize("family", ZOO)
@pytest.mark.parametrize("method", QUICK)
def test_rounding_and_gptq_on_every_family(family, method, tmp_path):
    check(family, method, QUICK[method], tmp_path)


@pytest.mark.parametrize("family", THOROUGH)
def test_learned_rounding(family, tmp_path):
    result = check(family, "ptq4dit", LEARNED["ptq4dit"], tmp_path)
    curves = result.log["reconstruction"]["units"]
    assert [curve["name"] for curve in curves] == tiny_network(family).block_paths
    assert all(curve["before"] > 0 for curve in curves)


@pytest.mark.slow
@pytest.mark.parametrize("family", [name for name in ZOO if name not in THOROUGH])
def test_learned_rounding_on_every_family(family, tmp_path):
    check(family, "ptq4dit", LEARNED["ptq4dit"], tmp_path)


OPTIONS = {
    "rtn": {"group_size": 8},
    "q-dit": {"group_size": 8},
    "g4w+p4a": {"group_size": 8},
    "repq-vit": {"reparametrize": False},
    "q-diffusion": SMALL,
    "ptq4dit": LEARNED["ptq4dit"],
    "tfmq-dm": {**SMALL, "tiar": False},
    "svdquant": {"grid": 4, "turns": 3},
    "ditas": {"turns": 2},
}
REASONS = {
    "tq-dit": "no site for the softmax output",
    "ptqd": "sampler of this suite",
}


@pytest.mark.parametrize("method", [name for name in sorted(registry()) if name != "fp"])
@pytest.mark.parametrize("scope", ["common", pytest.param("own", marks=pytest.mark.slow)])
def test_every_method_works_or_says_why_not(method, scope, tmp_path):
    if method in REASONS:
        with pytest.raises(Unsupported, match=REASONS[method]):
            check("sd3", method, {}, tmp_path, scope=scope)
        return
    check("sd3", method, OPTIONS.get(method, {}), tmp_path, scope=scope, bits=(4, 8) if method == "nvfp4" else (6, 8))


@pytest.mark.parametrize(
    ("method", "hint"),
    [("repq-vit", "reparametrize=false"), ("ptq4dit", "csb=false"), ("tfmq-dm", "tiar=false")],
)
def test_what_a_network_lacks_is_said_with_the_option_that_helps(method, hint):
    network = DiffusersNetwork(tiny_transformer("chroma"), GenericFamily())
    with pytest.raises(Unsupported, match=hint):
        quantized(network, "chroma", method, {})


@pytest.mark.parametrize(("method", "options"), [("svdquant", {"rank": 2, "group_size": 8}), ("rotation", {})])
def test_pointwise_convolutions_have_branches_and_transforms(method, options, tmp_path):
    """The MLP of Sana: what is stored is loaded again, and its layers have the parts that linears have."""
    result = check("sana", method, options, tmp_path, bits=(4, 8))
    attribute = "low_rank" if method == "svdquant" else "transform"
    convolutions = [
        site for site in tiny_network("sana").sites() if site.kind == "pointwise" and site.block is not None
    ]
    assert len(convolutions) == 4
    for site in convolutions:
        assert getattr(result.model.get_submodule(site.name), attribute) is not None


@pytest.mark.parametrize(
    ("width", "size", "fitted"),
    [(32, 12, 8), (48, 12, 12), (1120, 128, 112), (24, 128, 24), (37, 16, None), (10, 3, None), (6, 3, 3)],
)
def test_a_group_size_that_does_not_divide_a_width_becomes_its_largest_divisor(width, size, fitted):
    assert fitted_group_size(width, size) == fitted


def test_fitted_group_sizes_are_in_the_log():
    result = quantized(tiny_network("wan"), "wan", "rtn", {"group_size": 12})
    assert result.log[FITTED]["blocks.0.attn1.to_q"] == 8
    assert "blocks.0.ffn.net.2" not in result.log[FITTED]  # 12 divides 48


ON_GPU = {
    "q-dit": {"group_size": 8},
    "repq-vit": {},
    "svdquant": {"group_size": 8, "rank": 2},
    "rotation": {},
    "ptq4dit": {**SMALL, "csb": False},
}


@pytest.mark.slow
@pytest.mark.parametrize("method", list(ON_GPU))
@pytest.mark.parametrize("family", ["flux", "latte"])
def test_nothing_leaves_the_device_of_the_network(family, method):
    """On a device that refuses tensors of the CPU: calibration data are there, and so is what is quantized."""
    with pretended_gpu() as gpu:
        data = {kind: part.to(gpu) for kind, part in calibration(family).items()}
        result = quantize_model(
            tiny_network(family).to(gpu),
            method,
            weight_bits=4,
            activation_bits=8,
            scope="common",
            calibration=data,
            options=ON_GPU[method],
        )
        assert {tensor.device for tensor in result.model.state_dict().values()} == {gpu}
        with torch.no_grad():
            output = run(result.model, keywords(family, seed=5).to(gpu)).cpu()
    assert output.isfinite().all()
