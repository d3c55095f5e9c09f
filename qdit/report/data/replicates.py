"""Read rows with replicates: means over the replicates, and intervals that include the variation between replicates.

A number of such a row is the mean over its replicates, because a claim is about a method and not about one draw of its
calibration data. The mean also has the narrower interval. Samples, checkpoint, size and provenance of the row are those
of replicate 0. If a replicate is missing or failed, the row is that of replicate 0 alone, and `replicates_missing` says
what is missing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from qdit.core.intervals import Resamples, centred, interval
from qdit.core.metrics import METRICS
from qdit.core.metrics_record import Status
from qdit.core.run import Run
from qdit.core.run_to_run import RunToRun, combined
from qdit.report.data.metrics_json import Row, read_run
from qdit.workflow.replicates import further_replicates, replicate_count

COUNT = "replicates_measured"
"""Column with the number of replicates behind a row; 1 for a row of one run."""


ALONE = "replicate_alone"
"""Key that `alone` adds to a profile in memory; a file of a profile cannot have it."""


def alone(profile: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Return a profile whose tables show the replicate `number` instead of the mean over all replicates of a row."""
    return {**profile, ALONE: number}


def read_row(results: Path, key: Run, profile: Mapping[str, Any]) -> Row:
    """Read the row of a run, as `read_run` does; the mean over its replicates if the profile asks for replicates."""
    if (number := profile.get(ALONE)) is not None:
        exists = number < replicate_count(profile, key)
        return read_run(results, replace(key, replicate=number) if exists else key, profile) | {COUNT: 1}
    row = read_run(results, key, profile)
    if row["state"] != Status.OK:
        return row
    further = [read_run(results, run, profile) for run in further_replicates(profile, key)]
    missing = [other for other in further if other["state"] != Status.OK]
    if missing:
        return row | {COUNT: 1, "replicates_missing": f"{len(missing)} of {len(further)}: {missing[0]['status']}"}
    return row | {COUNT: 1 + len(further)} | (averaged([row, *further]) if further else {})


def averaged(rows: Sequence[Row]) -> Row:
    """Return the cells that all replicates of a row give together: means, intervals, the value of each replicate.

    If a metric lacks resampled values in a replicate, it has a mean and no interval.
    """
    cells: Row = {"resamples": mean_samples(rows), "run_to_run": {}}
    names = [name for name, metric in METRICS.items() if metric.of in ("images", "clips", "both")]
    for name in names:
        values = [float(row[name]) for row in rows if row.get(name) is not None]
        if len(values) < len(rows):
            cells[name] = None
            continue
        cells[name] = float(np.mean(values))
        if (runs := runs_of(name, rows)) is not None:
            cells["run_to_run"][name] = runs
            mean = cells["resamples"].values[name]
            limits = combined(cells[name], interval(centred(name, cells[name], mean)), runs)
            cells |= dict(zip(METRICS[name].low_and_high, limits.ends, strict=True))
    return cells


def runs_of(metric: str, rows: Sequence[Row]) -> RunToRun | None:
    """Return a metric in each replicate, with resampled values; None if a replicate lacks them or has other images."""
    resampled = of_equal_images(rows)
    if not resampled or any(metric not in of.values for of in resampled):
        return None
    values = [float(row[metric]) for row in rows]
    samples = [centred(metric, value, of.values[metric]) for value, of in zip(values, resampled, strict=True)]
    return RunToRun(np.array(values), np.stack(samples))


def mean_samples(rows: Sequence[Row]) -> Resamples | None:
    """Return the resampled values of the mean over replicates; None if one lacks them or has other images."""
    resampled = of_equal_images(rows)
    if not resampled:
        return None
    shared = set.intersection(*(set(of.values) for of in resampled))
    means = {name: np.mean([of.values[name] for of in resampled], axis=0) for name in METRICS if name in shared}
    return Resamples(means, resampled[0].pairing)


def of_equal_images(rows: Sequence[Row]) -> list[Resamples]:
    """Return the resampled values of each replicate; empty if a replicate lacks them or has resampled other images."""
    resampled = [row["resamples"] for row in rows if row.get("resamples") is not None]
    return resampled if len(resampled) == len(rows) and len({of.pairing for of in resampled}) == 1 else []
