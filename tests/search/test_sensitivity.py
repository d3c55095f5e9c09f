"""Scores of the rivals against direct computation on the tiny model."""

from copy import deepcopy

import numpy as np
import pytest
import torch

from qdit.core.errors import ConfigError
from qdit.models.roles import CORE_ROLES, linear_of, replace, select
from qdit.quant.apply import insert_dynamic, round_weights
from qdit.search.knapsack import allocate
from qdit.search.layers import LayerQuantizer
from qdit.search.sensitivity import hessian_scores, output_scores, predicted_loss
from qdit.search.space import SearchSpace
from tests.small_models import inputs, random_dit

MODEL = random_dit()
SPACE = SearchSpace.of(MODEL, (4, 12, 24), 12)
RTN = LayerQuantizer(4, 8)
SITES = select(MODEL.sites(), roles=CORE_ROLES)


def batches():
    x, timestep, label = inputs(count=6)
    return [(x[:4], timestep[:4], label[:4]), (x[4:], timestep[4:], label[4:])]


def fresh(name, size):
    """The tiny model with one layer quantized by the verbs that methods use."""
    model = deepcopy(MODEL)
    site = [site for site in SITES if site.name == name]
    insert_dynamic(model, site, bits=8, group_sizes={name: size})
    round_weights(model, site, bits=4, group_sizes={name: size})
    return model


def output_of(model, name, batch):
    kept = []
    handle = model.get_submodule(name).register_forward_hook(lambda _m, _i, output: kept.append(output))
    with torch.no_grad():
        model(*batch)
    handle.remove()
    return kept[0]


def test_output_scores_are_the_errors_of_one_quantized_layer():
    scores = output_scores(MODEL, SPACE, batches(), quantizer=RTN)
    assert scores.shape == (8, 3)
    for row in (0, 3, 5):
        name = SPACE.layers[row].name
        for column, size in enumerate(SPACE.sizes):
            model = fresh(name, size)
            direct = [
                (output_of(model, name, batch) - output_of(MODEL, name, batch)).square().sum(dtype=torch.float64)
                for batch in batches()
            ]
            assert scores[row, column] == pytest.approx(float(sum(direct)) / 6, rel=1e-5)


def test_larger_groups_lose_more_and_16_bits_nothing():
    scores = output_scores(MODEL, SPACE, batches(), quantizer=RTN)
    assert (scores[:, 0] < scores[:, 2]).all()
    assert not output_scores(MODEL, SPACE, batches(), quantizer=LayerQuantizer(16, 16)).any()


def gauss_newton_diagonal(name, batch):
    """Σ_k J_{k,i}² by one backward pass per output, (N, T, out)."""
    model, kept = deepcopy(MODEL), []

    def keep(_module, _inputs, output):
        kept.append(output)

    handle = model.get_submodule(name).register_forward_hook(keep)
    with torch.enable_grad():
        out = model(*batch).flatten()
    handle.remove()
    total = torch.zeros_like(kept[0])
    for one in out:
        total += torch.autograd.grad(one, kept[0], retain_graph=True)[0].square()
    return total


def test_hessian_scores_are_those_of_the_gauss_newton_diagonal():
    batch = tuple(part[:1] for part in inputs())
    scores = hessian_scores(MODEL, SPACE, [batch], quantizer=RTN, probes=128)
    for row in (0, 2, 7):
        name = SPACE.layers[row].name
        diagonal = gauss_newton_diagonal(name, batch)
        for column, size in enumerate(SPACE.sizes):
            lost = (output_of(fresh(name, size), name, batch) - output_of(MODEL, name, batch)).square()
            assert scores[row, column] == pytest.approx(float((diagonal * lost).sum()), rel=0.25)


def test_hessian_scores_are_deterministic_and_not_zero():
    def scores(seed):
        return hessian_scores(MODEL, SPACE, batches(), quantizer=RTN, probes=2, seed=seed)

    assert np.array_equal(scores(0), scores(0)) and not np.array_equal(scores(0), scores(1))
    assert (scores(0) > 0).all()


def test_model_is_left_as_it_was():
    before = {name: tensor.clone() for name, tensor in MODEL.state_dict().items()}
    hessian_scores(MODEL, SPACE, batches(), quantizer=RTN, probes=1)
    output_scores(MODEL, SPACE, batches(), quantizer=RTN)
    assert all(torch.equal(tensor, before[name]) for name, tensor in MODEL.state_dict().items())
    assert all(parameter.grad is None for parameter in MODEL.parameters())
    assert all(type(linear_of(MODEL, site)) is torch.nn.Linear for site in SITES)


def test_predicted_loss_is_what_the_knapsack_minimizes():
    scores = output_scores(MODEL, SPACE, batches(), quantizer=RTN)
    predict = predicted_loss(SPACE, scores)
    genome = allocate(SPACE, scores)
    assert SPACE.within(genome) and predict(genome) <= predict(SPACE.start)
    assert predict(SPACE.start) == pytest.approx(scores[:, SPACE.sizes.index(12)].sum())


def test_given_weights_are_used():
    quantizer = LayerQuantizer(4, 8, weights=lambda name, weight, size: RTN.round(weight * 2, size))
    name = SPACE.layers[0].name
    model = deepcopy(MODEL)
    replace(model, name, quantizer.layer(name, linear_of(MODEL, name), 12))
    expected = RTN.round(linear_of(MODEL, name).weight.detach() * 2, 12).dequantize()
    assert torch.equal(linear_of(model, name).weight, expected)


def test_refusals():
    with pytest.raises(ConfigError, match="0 calibration samples"):
        output_scores(MODEL, SPACE, [], quantizer=RTN)
    with pytest.raises(ConfigError, match="probes 0"):
        hessian_scores(MODEL, SPACE, batches(), quantizer=RTN, probes=0)
