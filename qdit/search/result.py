"""The result of a search as a JSON file: group sizes and the measured genomes. `read_allocation` reads it."""

import math
from pathlib import Path
from typing import Any

from qdit.core.errors import ConfigError
from qdit.core.files import sha256_json, write_json
from qdit.search.evolution import Outcome
from qdit.search.space import Genome, SearchSpace


def allocation(
    space: SearchSpace,
    genome: Genome,
    *,
    fitness: float | None,
    images_sampled: int,
    seed: int | None,
    identity: dict[str, Any],
    history: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """The content of an allocation file. The result of a knapsack has no images, seed or history.

    `budget` is B(g) in bit operations per token, `budget_limit` is B(all = reference). With the constraint `latency`
    both are seconds. Raises ConfigError for a genome above the budget.
    """
    if not space.within(genome):
        raise ConfigError(
            f"allocation costs {space.budget(genome):g}, which exceeds the budget of uniform {space.reference}"
            f" ({space.budget_limit:g}); search again under that budget"
        )
    return {
        "groups": space.groups(genome),
        "budget": space.budget(genome),
        "budget_limit": space.budget_limit,
        "harmonic_mean_group_size": space.harmonic_mean(genome),
        "constraint": space.constraint,
        "fitness": finite(fitness),
        "images_sampled": images_sampled,
        "seed": seed,
        "space": space.identity(),
        "identity": identity,
        "identity_sha256": sha256_json(identity),
        "history": history or [],
    }


def searched(
    space: SearchSpace, outcome: Outcome, *, images_sampled: int, seed: int, identity: dict[str, Any]
) -> dict[str, Any]:
    """The content of an allocation file for the best genome of a search. `history` lists all measured genomes.

    A genome in the history is a list of sizes in the order of `space.layers`. A fitness that was not finite is null.
    """
    history = [
        {
            "genome": list(evaluation.genome),
            "fitness": finite(evaluation.fitness),
            "images": evaluation.images,
            "budget": space.budget(evaluation.genome),
            "iteration": evaluation.iteration,
            "origin": evaluation.origin,
        }
        for evaluation in outcome.evaluations
    ]
    best = outcome.best
    return allocation(
        space,
        best.genome,
        fitness=best.fitness,
        images_sampled=images_sampled,
        seed=seed,
        identity=identity,
        history=history,
    )


def write_allocation(path: Path, content: dict[str, Any]) -> None:
    """Write an allocation file completely or not at all."""
    write_json(path, content)


def finite(value: float | None) -> float | None:
    """The value, or None if it is not finite."""
    return None if value is None or not math.isfinite(value) else value
