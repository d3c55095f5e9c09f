"""Judge the claims on several runs together: the mean over runs with different seeds takes the place of one run.

One run has one draw of noise, calibration data and searches. The interval of its images says nothing about another
draw of calibration data, so a verdict on a method can change with the seed. The runs with other seeds show how much.
Each number becomes the mean over the runs. Its interval has both sources: the images of all runs, and the spread
between runs, by the formula for replicates (`qdit.core.run_to_run`).

Replicates of a row have the same images; these runs have different images. So images cause a larger part of the spread
between them, and the formula has ½ c² in the place of ⅔ c². With it the intervals of three simulated runs contain the
true mean in 93 to 98 % of all cases, whatever causes the spread; with ⅔ c² it is 92 % in the worst case.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qdit.core.errors import ConfigError
from qdit.core.run_to_run import LEAST_REPLICATES, REMOVED, RunToRun
from qdit.report.claims.language import Key
from qdit.report.claims.sources import Measured
from qdit.report.data.values import Quantity, Unknown, Value

REMOVED_OF_RUNS = 1 / 2
"""Share of the images' part of the spread of runs that is taken off; for replicates it is `REMOVED`."""


class Pooled(Measured):
    """The tables of several runs of a profile with different seeds: each cell has the mean of the runs.

    The run in `results` says which rows there are. `others` are the seeds and folders of the other runs.
    """

    def __init__(
        self, profile: Mapping[str, Any], results: Path, *, others: tuple[tuple[int, Path], ...], **options: Any
    ) -> None:
        super().__init__(profile, results, **options)
        self.others = others
        self.other_runs = {seed: Measured({**profile, "seed": seed}, folder, **options) for seed, folder in others}

    @property
    def arguments(self) -> dict[str, Any]:
        """Name → value of the arguments that this object was made with."""
        return super().arguments | {"others": self.others}

    def cell(self, table: str, metric: str, keys: tuple[Key, ...]) -> Value:
        """Return the mean of a cell over the runs; Unknown if it is unknown in a run."""
        cells = {self.profile["seed"]: super().cell(table, metric, keys)}
        cells |= {seed: run.cell(table, metric, keys) for seed, run in self.other_runs.items()}
        return mean_over_runs(cells)


def pooled(run: Measured, folders: Mapping[int, Path]) -> Pooled:
    """Return the tables of `run` and of the runs with other seeds together. `folders` maps all seeds to their results.

    ConfigError for fewer than three runs, because their spread says too little.
    """
    others = tuple((seed, folder) for seed, folder in folders.items() if seed != run.profile["seed"])
    if len(others) < LEAST_REPLICATES - 1:
        raise ConfigError(
            f"--together: found {len(others)} other runs, at least {LEAST_REPLICATES - 1} are needed to measure the"
            " spread between runs; name results of further seeds with --other"
        )
    return Pooled(others=others, **run.arguments)


def mean_over_runs(cells: Mapping[int, Value]) -> Value:
    """Return the mean of one cell over runs with different images. `cells` maps the seed of a run to its value.

    The result is Unknown if a cell is. It has no interval if a cell has none.
    """
    for seed, cell in cells.items():
        if isinstance(cell, Unknown):
            return Unknown(f"seed {seed}: {cell.reason}")
    quantities = [cell for cell in cells.values() if isinstance(cell, Quantity)]
    values = np.array([quantity.value for quantity in quantities])
    mean, measured = float(values.mean()), any(quantity.measured for quantity in quantities)
    samples = [quantity.samples for quantity in quantities if quantity.samples is not None]
    if len(samples) < len(quantities) or len({len(drawn) for drawn in samples}) > 1:
        return Quantity(mean, measured=measured)
    stacked, pairing = np.stack(samples), " ".join(dict.fromkeys(quantity.pairing for quantity in quantities))
    images = min((quantity.images for quantity in quantities if quantity.images is not None), default=None)
    middle = stacked.mean(axis=1, keepdims=True)
    runs = RunToRun(values, middle + math.sqrt(REMOVED_OF_RUNS / REMOVED) * (stacked - middle))
    return Quantity(mean, stacked.mean(axis=0), pairing, measured, runs, images)
