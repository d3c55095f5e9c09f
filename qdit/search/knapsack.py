"""Multiple-choice knapsack: choose one size for each layer, with the least sum of scores within a budget of costs.

With z = 1 for the chosen size of a layer, it is min Σ_l Σ_g z_{l,g} s_{l,g} with Σ_g z_{l,g} = 1 and Σ_l Σ_g z_{l,g}
c_{l,g} ≤ limit. There are two solvers.

The costs are integers (`SearchSpace.costs`), so dynamic programming is exact. A test compares it with
`scipy.optimize.milp`.
"""

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array, kron

from qdit.core.errors import ConfigError
from qdit.search.option_classes import Solver
from qdit.search.space import Genome, SearchSpace

LARGEST_TABLE = 200_000_000
"""Cells of the dynamic programme (layers · (limit + 1)); DiT-XL/2 with the paper's sizes has 0.34 million."""

SCORE_SCALE = 1e4
"""HiGHS stops within absolute tolerances of about 1e-6: the largest score becomes this."""


def allocate(space: SearchSpace, scores: np.ndarray, *, solver: Solver = "dp") -> Genome:
    """The genome with the least sum of `scores` (layers, sizes) among all genomes within the budget of the space."""
    shape = (len(space.layers), len(space.sizes))
    if scores.shape != shape or not np.isfinite(scores).all():
        raise ConfigError(
            f"scores of shape {scores.shape}: allowed are finite numbers, (layers, sizes) = {shape}; compute them again"
        )
    if solver not in ("dp", "milp"):
        raise ConfigError(f"solver {solver!r}: allowed are dp, milp")
    solve = solve_dp if solver == "dp" else solve_milp
    columns = solve(np.asarray(scores, np.float64), np.array(space.costs, np.int64), space.limit)
    return tuple(space.sizes[column] for column in columns)


def solve_dp(scores: np.ndarray, costs: np.ndarray, limit: int) -> list[int]:
    """Solve the knapsack by dynamic programming: choose a column for each row of `scores` (L, S) with the least sum.

    The chosen integer `costs` (L, S) ≥ 0 sum to at most `limit`. The table `least[u]` holds the least score of the
    layers so far with a cost of at most u. Of equal scores the first column wins. Raises ConfigError if no choice is
    within the limit, or if the table would be too large.
    """
    check_feasible(costs, limit)
    limit = min(limit, int(costs.max(axis=1).sum()))
    if len(scores) * (limit + 1) > LARGEST_TABLE:
        raise ConfigError(
            f"budget of {limit} units for {len(scores)} layers: the table of solver dp is too large; use solver milp"
        )
    least = np.zeros(limit + 1)
    best_column = np.zeros((len(scores), limit + 1), dtype=np.int16)
    for layer, (row, price) in enumerate(zip(scores, costs, strict=True)):
        options = np.full((len(row), limit + 1), np.inf)
        for column, (score, cost) in enumerate(zip(row, price, strict=True)):
            if cost <= limit:
                options[column, cost:] = least[: limit + 1 - cost] + score
        best_column[layer] = options.argmin(axis=0)
        least = options.min(axis=0)
    columns, left = [], limit
    for layer in reversed(range(len(scores))):
        column = int(best_column[layer, left])
        columns.append(column)
        left -= int(costs[layer, column])
    return columns[::-1]


def solve_milp(scores: np.ndarray, costs: np.ndarray, limit: int) -> list[int]:
    """Solve the knapsack of `solve_dp` by branch and bound, with the solver HiGHS.

    The result has a column for each row.
    """
    check_feasible(costs, limit)
    layers, sizes = scores.shape
    largest = float(np.abs(scores).max()) or 1.0
    one_each = LinearConstraint(kron(csr_array(np.eye(layers)), np.ones((1, sizes))), lb=1, ub=1)
    cheap = LinearConstraint(costs.reshape(1, -1).astype(np.float64), lb=-np.inf, ub=limit)
    solution = milp(
        scores.reshape(-1) * (SCORE_SCALE / largest),
        integrality=np.ones(scores.size),
        bounds=Bounds(0, 1),
        constraints=[one_each, cheap],
        options={"mip_rel_gap": 0.0},
    )
    if solution.x is None:
        raise ConfigError(f"scipy.optimize.milp found no allocation ({solution.message}); use solver dp")
    columns = [int(column) for column in solution.x.reshape(layers, sizes).argmax(axis=1)]
    used = int(costs[np.arange(layers), columns].sum())
    if used > limit:
        raise ConfigError(f"scipy.optimize.milp exceeds the budget ({used} > {limit}) by rounding; use solver dp")
    return columns


def check_feasible(costs: np.ndarray, limit: int) -> None:
    """Raise ConfigError if even the cheapest size of every layer costs more than `limit` in all."""
    cheapest = int(costs.min(axis=1).sum())
    if cheapest > limit:
        raise ConfigError(
            f"budget of {limit} units cannot be met: the cheapest choice of every layer takes {cheapest}; take a larger"
            " budget (a smaller reference size) or larger group sizes"
        )
