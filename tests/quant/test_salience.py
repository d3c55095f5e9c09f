"""Salience balancing: CSB makes both sides equal, SSC weighs timesteps by Spearman's correlation."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from qdit.quant.salience import (
    activation_salience,
    average_ranks,
    balance_factors,
    rank_correlations,
    temporal_salience,
    weight_salience,
)


def example(samples=5, tokens=7, width=12, outputs=9):
    draw = torch.Generator().manual_seed(0)
    loud = torch.exp(torch.randn(width, generator=draw))
    return torch.randn(samples, tokens, width, generator=draw) * loud, torch.randn(outputs, width, generator=draw)


def test_saliences_are_the_largest_absolute_values_of_a_channel():
    x, weight = example()
    assert np.array_equal(activation_salience(x).numpy(), np.abs(x.numpy()).max(1))
    assert np.array_equal(weight_salience(weight).numpy(), np.abs(weight.numpy()).max(0))


def test_balanced_activations_and_weights_have_equal_salience():
    x, weight = example()
    of_x = activation_salience(x).amax(0)
    k = balance_factors(of_x, weight_salience(weight))
    balanced = activation_salience(x / k).amax(0), weight_salience(weight * k)
    torch.testing.assert_close(*balanced)
    torch.testing.assert_close(balanced[0], (of_x * weight_salience(weight)).sqrt())
    torch.testing.assert_close((x / k) @ (weight * k).t(), x @ weight.t(), rtol=1e-4, atol=1e-4)


def test_ranks_of_equal_values_are_their_mean():
    assert average_ranks(torch.tensor([3.0, 1.0, 3.0, 2.0, 3.0])).tolist() == [4, 1, 4, 2, 4]


@pytest.mark.parametrize("ties", [False, True])
def test_correlations_are_scipys(ties):
    draw = np.random.default_rng(0)
    rows, vector = draw.standard_normal((6, 15)), draw.standard_normal(15)
    if ties:
        rows, vector = np.round(rows), np.round(vector)
    result = rank_correlations(torch.from_numpy(rows), torch.from_numpy(vector))
    expected = [spearmanr(row, vector).statistic for row in rows]
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-12, atol=1e-12)


def test_timesteps_count_by_the_softmax_of_the_negative_correlation():
    x, weight = example()
    salience, of_weight = activation_salience(x), weight_salience(weight)
    rho = np.array([spearmanr(row, of_weight).statistic for row in salience])
    eta = np.exp(-rho) / np.exp(-rho).sum()
    result = temporal_salience(salience, of_weight)
    np.testing.assert_allclose(result.numpy(), (eta[:, None] * salience.numpy()).sum(0), rtol=1e-5)


def test_a_timestep_whose_salient_channels_are_those_of_the_weight_counts_least():
    of_weight = torch.arange(1.0, 9.0)
    same, opposite = of_weight.clone(), of_weight.flip(0)
    result = temporal_salience(torch.stack([same, opposite]), of_weight)
    share = (result - same) / (opposite - same)
    torch.testing.assert_close(share, torch.full((8,), 1 / (1 + np.exp(-2.0))).float())


def test_a_channel_that_is_always_zero_gets_the_factor_zero():
    assert balance_factors(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1.0])).tolist() == pytest.approx([0, 1])
