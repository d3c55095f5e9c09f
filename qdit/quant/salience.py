"""Salience of PTQ4DiT: factors that balance it for each channel (CSB), and its weighted mean over timesteps (SSC)."""

import torch
from torch import Tensor


def activation_salience(inputs: Tensor) -> Tensor:
    """Return the largest |x| per sample and channel over tokens or cells: (samples, …, width) → (samples, width)."""
    return inputs.abs().flatten(1, -2).amax(dim=1)


def weight_salience(weight: Tensor) -> Tensor:
    """Return the largest |w| of each input channel: (out, in) → (in,)."""
    return weight.abs().amax(dim=0)


def average_ranks(values: Tensor) -> Tensor:
    """Return the ranks 1 … n of a vector's values, in float64; equal values share their mean rank."""
    below = (values[:, None] > values).sum(dim=1)
    equal = (values[:, None] == values).sum(dim=1)
    return below + (equal + 1).double() / 2


def rank_correlations(rows: Tensor, vector: Tensor) -> Tensor:
    """Compute Spearman's ρ of each row of (n, width) and a vector (width,): (n,). Equal values get their mean rank.

    If all values of a row are equal, ρ of this row is 0. The original program then gets NaN for every row.
    """
    ranks = torch.stack([average_ranks(row) for row in rows])
    ranks = ranks - ranks.mean(dim=1, keepdim=True)
    other = average_ranks(vector)
    other = other - other.mean()
    norms = ranks.norm(dim=1) * other.norm()
    return ((ranks @ other) / norms.masked_fill(norms == 0, 1)).to(rows.dtype)


def temporal_salience(salience: Tensor, of_weight: Tensor) -> Tensor:
    """SSC: compute Σ_t η_t s(X_t) with η = softmax(−ρ): (timesteps, width) and (width,) → (width,).

    ρ_t is the rank correlation of s(X_t) and the salience of the weight. So a timestep counts more if its salient
    channels differ from those of the weight.
    """
    eta = torch.softmax(-rank_correlations(salience, of_weight), dim=0)
    return (eta[:, None] * salience).sum(dim=0)


def balance_factors(of_activation: Tensor, of_weight: Tensor, *, epsilon: float = 1e-8) -> Tensor:
    """CSB: compute k = √(s(X) / (s(W) + ε)) per channel. Then x / k and W · diag(k) have the salience √(s(X) s(W)).

    A channel that is always zero gets k = 0. Nothing may be divided by it, so callers replace it by 1.
    """
    return (of_activation / (of_weight + epsilon)).sqrt()
