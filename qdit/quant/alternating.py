"""A weight as codes plus a low-rank branch. Both are computed alternately: the branch approximates the rounding error.

DiTAS rounds first and computes the branch last. SVDQuant computes the branch first and rounds the rest last.
"""

from collections.abc import Callable

from torch import Tensor

from qdit.core.errors import ConfigError
from qdit.quant.low_rank import LowRank, low_rank
from qdit.quant.weight_kinds import StoredWeight

Rounding = Callable[[Tensor], StoredWeight]
"""Quantizes a weight (out, in)."""


def compensated(weight: Tensor, rank: int, rounding: Rounding, *, turns: int) -> tuple[StoredWeight, LowRank]:
    """Compute codes and a branch of rank `rank` for a weight (out, in) in `turns` alternations (DiTAS's program: ten).

    With L_0 = 0, turn k computes Ŵ_k = Q(W − L_{k−1}), and L_k as the branch with the least squared distance to W −
    Ŵ_k. Raises ConfigError for less than one turn.
    """
    if turns < 1:
        raise ConfigError(f"turns {turns}: at least 1 is needed, which computes the codes and then the branch")
    stored = rounding(weight)
    branch = low_rank(weight - stored.dequantize(), rank)
    for _ in range(turns - 1):
        stored = rounding(weight - branch.product())
        branch = low_rank(weight - stored.dequantize(), rank)
    return stored, branch


def refined(
    weight: Tensor, rank: int, rounding: Rounding, error: Callable[[Tensor, LowRank], float], *, turns: int
) -> LowRank:
    """Compute the branch of a weight (out, in) whose rounded residual has the least `error` (SVDQuant's program).

    With Ŵ_0 = 0, turn k computes L_k as the branch with the least squared distance to W − Ŵ_{k−1}, and then Ŵ_k = Q(W −
    L_k). After each turn `error(Ŵ_k, L_k)` is measured. The search ends after `turns` turns, or at the first turn whose
    error is larger than that of the turn before. With one turn the result is the branch of W. Raises ConfigError for
    less than one turn.
    """
    if turns < 1:
        raise ConfigError(f"turns {turns}: at least 1 is needed, which is the branch of the weight itself")
    best = branch = low_rank(weight, rank)
    if turns == 1:
        return best
    rounded = rounding(weight - branch.product()).dequantize()
    least = error(rounded, branch)
    for _ in range(turns - 1):
        branch = low_rank(weight - rounded, rank)
        rounded = rounding(weight - branch.product()).dequantize()
        current = error(rounded, branch)
        if current > least:
            break
        best, least = branch, current
    return best
