"""A weight as codes and a low-rank branch. Both are computed alternately: the branch approximates the rounding error.

DiTAS rounds first and stops with a branch. SVDQuant begins and ends with a branch, whose residual is rounded after it.
"""

from collections.abc import Callable

from torch import Tensor

from qdit.core.errors import ConfigError
from qdit.quant.low_rank import LowRank, low_rank
from qdit.quant.weight_kinds import StoredWeight

Rounding = Callable[[Tensor], StoredWeight]
"""Quantizes a weight (out, in)."""


def compensated(weight: Tensor, rank: int, rounding: Rounding, *, turns: int) -> tuple[StoredWeight, LowRank]:
    """Codes and branch (of rank `rank`) of a weight (out, in), computed `turns` times (DiTAS; its program: ten times).

    Ŵ_k = Q(W − L_{k−1}) and L_k is the best branch for W − Ŵ_k; L_0 = 0. ConfigError for less than one turn.
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
    """The branch of a weight (out, in) whose rounded residual has the least error (SVDQuant's program).

    L_k is the best branch for W − Ŵ_{k−1}, and Ŵ_k = Q(W − L_k); Ŵ_0 = 0. `error(Ŵ, L)` is compared after each turn.
    The search ends at the first turn whose error is larger than that before. One turn is the branch of W alone.
    ConfigError for less than one turn.
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
