"""Smoothing: channel factors that move large values from the inputs of a linear into its weight.

The factor of channel j is λ_j = max|X_j|^α / max|W_j|^β. X_j are the inputs of the channel, and W_j is its column of
the weight W. The linear gets the input x / λ and the weight W · diag(λ). SmoothQuant (Xiao et al., ICML 2023) has
β = 1 − α. SVDQuant and DiTAS choose the exponents for each layer on a grid.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from qdit.core.errors import CheckpointError, ConfigError
from qdit.core.seeds import Purpose, torch_generator

Exponents = tuple[float, float]
"""α and β."""


def complementary(steps: int, *, ends: bool = False) -> list[Exponents]:
    """List pairs (α, β) with β = 1 − α: α = 1 / steps, 2 / steps, … below 1. With `ends`, also α = 0 and α = 1."""
    first, last = (0, steps) if ends else (1, steps - 1)
    return [(step / steps, 1 - step / steps) for step in range(first, last + 1)]


def inputs_only(steps: int) -> list[Exponents]:
    """List the same α as `complementary` with β = 0, so that the factor does not depend on the weight."""
    return [(alpha, 0.0) for alpha, _ in complementary(steps)]


def smoothing_factor(of_inputs: Tensor, of_weight: Tensor, alpha: float, beta: float | None = None) -> Tensor:
    """Compute λ = s(X)^α / s(W)^β for saliences (in,), divided by its geometric mean; 1 for channels of zeros.

    β is 1 − α by default. The division does not change the products; it keeps the numbers near 1.
    """
    factor = of_inputs.double() ** alpha / of_weight.double() ** (1 - alpha if beta is None else beta)
    usable = (of_inputs > 0) & (of_weight > 0) & factor.isfinite()
    logarithm = torch.where(usable, factor, 1).log()
    mean = logarithm.sum() / usable.sum().clamp(min=1)
    return torch.where(usable, (logarithm - mean).exp(), 1).to(of_weight.dtype)


def best_factor(
    inputs: Tensor,
    weight: Tensor,
    output: Callable[[Tensor, Tensor], Tensor],
    *,
    grid: Sequence[Exponents | None],
    of_inputs: Tensor | None = None,
) -> tuple[Tensor, Exponents | None]:
    """Return the factor whose quantized output has the smallest squared distance to X Wᵀ, and its exponents (α, β).

    None in the grid means no smoothing. `inputs` is (…, in), `weight` (out, in). `output(x, w)` gets the smoothed
    inputs and weight, quantizes both, and returns the output (…, out). `of_inputs` (in,) is the salience. It is needed
    if the inputs are only some rows of all inputs. If errors are equal, the first candidate is taken.
    """
    if of_inputs is None:
        of_inputs = largest(inputs)
    of_weight, target = weight.abs().amax(dim=0), inputs @ weight.t()
    best: tuple[Tensor, Exponents | None] | None = None
    least, problem = float("inf"), None
    for exponents in grid:
        factor = torch.ones_like(of_weight)
        if exponents is not None:
            factor = smoothing_factor(of_inputs, of_weight, *exponents)
        try:
            error = float((output(inputs / factor, weight * factor) - target).square().sum())
        except CheckpointError as refusal:
            problem = refusal
            continue
        if best is None or error < least:
            best, least = (factor, exponents), error
    if best is None:
        raise problem or ConfigError("smoothing: the grid has no candidates; give at least one")
    return best


def largest(inputs: Tensor) -> Tensor:
    """Return the largest |x| of each channel over all rows: (…, in) → (in,)."""
    return inputs.reshape(-1, inputs.shape[-1]).abs().amax(dim=0)


def some_rows(inputs: Tensor, limit: int) -> Tensor:
    """Return at most `limit` rows of inputs (rows, in), drawn at random.

    Evenly spaced rows could all come from the same few token positions.
    """
    if len(inputs) <= limit:
        return inputs
    order = torch.randperm(len(inputs), generator=torch_generator(0, Purpose.VARIANT, limit))
    return inputs[order[:limit].sort().values.to(inputs.device)]
