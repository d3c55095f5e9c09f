"""Find the best result of a table so far: its measured rows, ranked by the ranking metric."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from qdit.core.errors import QditError
from qdit.core.files import read_json
from qdit.core.ranking import EQUAL, ranking_metric, ranking_value
from qdit.core.run import UNQUANTIZED, Run
from qdit.workflow.method_index import method_index

PREFERRED = "w4a8"
"""Bits at which the papers compare."""


@dataclass(frozen=True)
class Ranked:
    """A measured row: its run, and its value in the ranking metric (infinite if it equals full precision)."""

    run: Run
    value: float


def ranked(run: Run, metrics: Path) -> Ranked | None:
    """Read a run's value. None for full precision, a failed row, a row without a value, and a damaged file."""
    if run.bits == UNQUANTIZED:
        return None
    try:
        value = ranking_value(read_json(metrics)["metrics"])
    except (QditError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return None if value is None else Ranked(run, value)


def finding(rows: Iterable[Ranked], names: Mapping[str, str]) -> str:
    """Write `best PSNR-FP at W4A8: Q-DiT 40.1 dB, then G4W+P4A 38.2 dB`. Empty if no row is measured.

    Only rows with the same setting, form, scope and bits are compared: those of the first block with W4A8, or else of
    the first block. A row with replicates has the mean over its measured replicates.
    """
    groups: dict[tuple[str, ...], list[Ranked]] = {}
    for row in rows:
        groups.setdefault((row.run.setting, row.run.form, row.run.scope, row.run.bits), []).append(row)
    if not groups:
        return ""
    preferred = [key for key in groups if key[3] == PREFERRED]
    key = (preferred or list(groups))[0]
    best = sorted(means(groups[key]), key=lambda row: ranking_metric().damage(row.value))[:2]
    values = ", then ".join(f"{names.get(row.run.label, row.run.label)} {short(row.value)}" for row in best)
    return f"best {ranking_metric().title} at {key[3].upper()}: {values}"


def means(rows: Iterable[Ranked]) -> list[Ranked]:
    """Return each row once, with the mean over its measured replicates."""
    values: dict[Run, list[Ranked]] = {}
    for row in rows:
        values.setdefault(replace(row.run, replicate=0), []).append(row)
    return [Ranked(run, fmean(row.value for row in of)) for run, of in values.items()]


def short(value: float) -> str:
    """Write a value with few digits."""
    return EQUAL if math.isinf(value) else ranking_metric().text(value)


def names_of(profile: Mapping[str, Any]) -> dict[str, str]:
    """Return label → printed name of the method, for labels that are names of methods."""
    methods = method_index().methods
    return {label: methods[label].printed for label in profile["methods"] if label in methods}


def learned_labels(profile: Mapping[str, Any]) -> list[str]:
    """Return the labels whose quantization learns rounding, which takes most of the time of a run."""
    methods = method_index().methods
    return [
        label
        for label, entry in profile["methods"].items()
        if entry["method"] in methods
        and methods[entry["method"]].learns_rounding
        and "base" not in entry
        and entry.get("options", {}).get("iterations") != 0
    ]
