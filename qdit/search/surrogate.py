"""What a race expects of a genome before it samples: scores of layers, corrected by what it has measured so far.

log fitness ≈ c + Σ_l t[l, g_l]. The table t starts as a rival's scores, relative to the reference genome's; every
measurement on the first rung bends it, by ridge regression towards these scores. Since it is a sum over layers, the
knapsack finds its best genome in the whole space.
"""

import math
from collections.abc import Mapping

import numpy as np

from qdit.search.knapsack import allocate
from qdit.search.space import Genome, SearchSpace

PENALTIES = 10.0 ** np.arange(-2, 4)
"""Strengths of the ridge, of which the one that predicts left-out measurements best is taken."""

FEWEST = 4
"""Measurements before anything is learned."""


class Surrogate:
    """Genome → a guess of log fitness up to a constant; `learn` bends it, `best` is the genome it likes best."""

    def __init__(self, space: SearchSpace, scores: np.ndarray) -> None:
        self.space = space
        start = float(scores[np.arange(len(space.layers)), space.columns(space.start)].sum())
        self.prior = np.asarray(scores, np.float64) / (start if start > 0 else 1.0)
        self.table = self.prior
        self.measured: dict[Genome, float] = {}

    def __call__(self, genome: Genome) -> float:
        return self._sum(self.table, genome)

    def best(self) -> Genome:
        """The legal genome with the least guess."""
        return allocate(self.space, self.table)

    def learn(self, losses: Mapping[Genome, float]) -> None:
        """Take in fitnesses measured on the same images; those that are not finite or positive teach nothing."""
        self.measured |= {genome: math.log(loss) for genome, loss in losses.items() if 0 < loss < math.inf}
        if len(self.measured) < FEWEST:
            return
        prior = np.array([self._sum(self.prior, genome) for genome in self.measured])
        chosen = np.array([self._one_hot(genome) for genome in self.measured])
        # Unknown are a constant, a factor of the prior minus 1, and a correction per layer and size.
        design = np.column_stack([np.ones(len(prior)), prior, chosen])
        found = fit(design, np.array(list(self.measured.values())) - prior)
        self.table = (1 + found[1]) * self.prior + found[2:].reshape(self.prior.shape)

    def _sum(self, table: np.ndarray, genome: Genome) -> float:
        return float(table[np.arange(len(genome)), self.space.columns(genome)].sum())

    def _one_hot(self, genome: Genome) -> np.ndarray:
        row = np.zeros(self.prior.shape)
        row[np.arange(len(genome)), self.space.columns(genome)] = 1
        return row.ravel()


def fit(design: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Ridge regression whose first column is not penalized; its strength is chosen by leaving one out.

    design (n, k), values (n,) → coefficients (k,). The left-out residuals are those of the closed form e / (1 − h).
    """
    best, coefficients = math.inf, np.zeros(design.shape[1])
    for penalty in PENALTIES:
        ridge = np.diag([1e-9, *[penalty] * (design.shape[1] - 1)])
        solved = np.linalg.solve(design.T @ design + ridge, design.T)
        residual = (values - design @ (solved @ values)) / (1 - np.einsum("ij,ji->i", design, solved))
        if (error := float(residual @ residual)) < best:
            best, coefficients = error, solved @ values
    return coefficients
