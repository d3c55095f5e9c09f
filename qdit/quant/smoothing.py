"""Smoothing: channel factors that move large values from the inputs of a linear into its weight.

The factor of channel j is λ_j = max|X_j|^α / max|W_j|^β. The linear sees x / λ and has W · diag(λ). SmoothQuant
(Xiao et al., ICML 2023) has β = 1 − α. SVDQuant and DiTAS choose α for each layer on a grid.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from qdit.core.seeds import Purpose, torch_generator

GRID = tuple(step / 10 for step in range(1, 10))
"""Values of α that are tried, beside no smoothing."""


def smoothing_factor(of_inputs: Tensor, of_weight: Tensor, alpha: float) -> Tensor:
    """λ = s(X)^α / s(W)^(1 − α) for saliences (in,), with geometric mean 1; a channel that is always zero gets 1.

    The mean does not change the products. It keeps the numbers near 1.
    """
    factor = of_inputs.double() ** alpha / of_weight.double() ** (1 - alpha)
    usable = (of_inputs > 0) & (of_weight > 0) & factor.isfinite()
    logarithm = torch.where(usable, factor, 1).log()
    mean = logarithm.sum() / usable.sum().clamp(min=1)
    return torch.where(usable, (logarithm - mean).exp(), 1).to(of_weight.dtype)


def best_factor(
    inputs: Tensor,
    weight: Tensor,
    output: Callable[[Tensor, Tensor], Tensor],
    *,
    grid: Sequence[float] = GRID,
    rows: int | None = None,
) -> tuple[Tensor, float | None]:
    """The factor whose quantized output is nearest to X Wᵀ in squared error, and its α (None: no smoothing).

    `inputs` is (…, in), `weight` (out, in). `output(x, w)` gets the smoothed inputs and weight, quantizes both, and
    returns the output (rows, out). Saliences come from all inputs, errors from at most `rows` of them. If errors are
    equal, the first candidate is taken. "No smoothing" is the first candidate.
    """
    every = inputs.reshape(-1, inputs.shape[-1])
    of_inputs, of_weight = every.abs().amax(dim=0), weight.abs().amax(dim=0)
    inputs = every if rows is None else some_rows(every, rows)
    target = inputs @ weight.t()
    best, best_alpha = torch.ones_like(of_weight), None
    least = float((output(inputs, weight) - target).square().sum())
    for alpha in grid:
        factor = smoothing_factor(of_inputs, of_weight, alpha)
        error = float((output(inputs / factor, weight * factor) - target).square().sum())
        if error < least:
            best, best_alpha, least = factor, alpha, error
    return best, best_alpha


def some_rows(inputs: Tensor, limit: int) -> Tensor:
    """At most `limit` rows of inputs (rows, in), drawn at random. With even spacing all rows could be of few tokens."""
    if len(inputs) <= limit:
        return inputs
    order = torch.randperm(len(inputs), generator=torch_generator(0, Purpose.VARIANT, limit))
    return inputs[order[:limit].sort().values.to(inputs.device)]
