"""A block with its gradients written out: values and gradients are those of torch."""

from copy import deepcopy

import pytest
import torch

from qdit.kernels.backend import forcing
from qdit.kernels.library import backend
from qdit.models.roles import CORE_ROLES, select
from qdit.quant.activation import FactoredActivation
from qdit.quant.apply import calibrate_static, round_weights
from qdit.quant.block_pass import BlockPass, block_pass
from qdit.quant.layers import layers, operands, site_bits
from qdit.quant.learnable import Learner, fast_gradients
from qdit.quant.ranges import minmax
from qdit.quant.reconstruction import Outputs, block_units, reconstruct
from qdit.quant.sites import FoldedLayerNorm, quantize_site
from qdit.quant.store import Rows, capture_rows
from qdit.quant.unit_learning import Autograd, Reconstruction
from tests.small_models import inputs, random_dit

pytestmark = pytest.mark.skipif(backend().library is None, reason="needs the compiled library")
KINDS = ["rounding-common", "both-common", "both-own", "scales-own", "rounding-own", "both-some"]


def in_training(kind: str):
    """(learner, written-out pass, pass of torch) of the second block, ready to learn."""
    learn, scope = kind.split("-")
    reference, batch = random_dit(), inputs(count=24, seed=3)
    model = deepcopy(reference).requires_grad_(False)
    weighted = layers(model, "own" if scope == "own" else "common")
    sites = [*weighted, *operands(model)] if scope == "own" else weighted
    if scope == "some":
        sites = [*weighted, *select(model.sites(), roles=("q", "p"))]
    round_weights(model, weighted, bits=4, rule=minmax)
    if learn != "rounding":
        calibrate_static(model, sites, [batch], bits=site_bits(sites, 4), rule=minmax)
    if scope == "own" and learn != "rounding":
        give_a_factor(model)
    unit = block_units(sites if learn != "rounding" else weighted)[1]
    stores = capture_rows(model, unit.name, [batch], 24, output=False)
    learner = Learner(model, reference, unit.sites, rounding=learn != "scales", scales=learn != "rounding")
    return model, unit, learner, Outputs(model, unit, stores, batch[1])


def give_a_factor(model) -> None:
    (site,) = [site for site in select(model.sites(), roles=("v",)) if site.block == 1]
    plain = model.get_submodule(site.name).activation
    width = model.config.hidden_size // model.config.num_heads
    factor = torch.linspace(0.5, 2, model.config.num_heads * width).view(-1, 1, width)
    factored = FactoredActivation(bits=plain.bits, scale=2 * plain.scale, zero_point=plain.zero_point, factor=factor)
    quantize_site(model, site, activation=factored)


def gradients_of(learner: Learner) -> list[torch.Tensor]:
    values = [rounding.weight for rounding in learner.roundings()] + learner.scales()
    taken = [value.grad for value in values]
    for value in values:
        value.grad = None
    assert all(gradient is not None for gradient in taken)
    return taken


@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_are_those_of_torch(kind: str) -> None:
    model, unit, learner, outputs = in_training(kind)
    rows = Rows.of(torch.tensor([3, 0, 17, 3]), torch.device("cpu"))
    with fast_gradients(model, unit.name):
        written, by_torch = outputs.in_training(), Autograd(outputs)
        assert isinstance(written, BlockPass)
        results = []
        for trainable in (written, by_torch):
            y = trainable.forward(rows)
            direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(5))
            trainable.backward(direction)
            results.append([y, *gradients_of(learner)])
    assert len(results[0]) > 4
    for result, expected in zip(*results, strict=True):
        size = expected.abs().max()
        assert size > 0
        # A value beside the middle of two codes may get the other code: the difference is small in the mean.
        assert (result - expected).abs().mean() < 3e-3 * size and (result - expected).norm() < 2e-2 * expected.norm()


@pytest.mark.parametrize("learn", ["rounding", "both"])
def test_it_learns_what_torch_learns(learn: str) -> None:
    losses = []
    for name in ("", "torch"):
        model, batch = random_dit(), inputs(count=32, seed=3)
        sites = select(model.sites(), roles=CORE_ROLES)
        round_weights(model, sites, bits=3, rule=minmax)
        calibrate_static(model, sites, [batch], bits=6, rule=minmax)
        config = Reconstruction(iterations=60, batch=8, rounding_rate=5e-2, scale_rate=1e-3)
        with forcing(name):
            log = reconstruct(model, random_dit(), block_units(sites), lambda: [batch], config, learn=learn)  # noqa: B023
        losses.append([(unit["before"], unit["after"]) for unit in log["units"]])
    for (before, after), (before_of_torch, after_of_torch) in zip(*losses, strict=True):
        assert after < before and before == pytest.approx(before_of_torch, rel=1e-2)
        assert after == pytest.approx(after_of_torch, rel=0.05)


def test_what_is_of_another_kind_is_left_to_torch() -> None:
    model, unit, _, outputs = in_training("both-common")
    block = model.get_submodule(unit.name)
    assert block_pass(block, outputs.inputs) is not None
    with forcing("torch"):
        assert block_pass(block, outputs.inputs) is None
    assert block_pass(block.mlp, outputs.inputs) is None and block_pass(block, outputs.inputs[:1]) is None
    block.norm1 = FoldedLayerNorm(inverse=torch.ones(model.config.hidden_size), offset=torch.zeros(1))
    assert block_pass(block, outputs.inputs) is None
    model, unit, _, outputs = in_training("both-common")
    model.get_submodule(unit.name).mlp.fc1 = torch.nn.Linear(4, 4)
    assert block_pass(model.get_submodule(unit.name), outputs.inputs) is None
