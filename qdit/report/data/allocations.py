"""Read allocations (one group size for each layer) from the files that searches wrote below `search/`."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qdit.core.run import Run
from qdit.report.data.metrics_json import Row
from qdit.workflow.searches import SearchRun, layer_place, search_run_of

COLUMNS = ("search", "searched_at", "images_sampled", "budget_used", "harmonic_mean_group_size")
"""Columns of the CSV that describe a row's allocation."""

ROLES = {"attn.qkv": "qkv", "attn.proj": "attn_out", "mlp.fc1": "fc1", "mlp.fc2": "fc2"}
"""Name of a layer within its block → its role."""


@dataclass(frozen=True)
class Remeasured:
    """A genome measured twice: fitness on the noise of its search, and on fresh noise.

    `reference` is true for the genome with the reference group size in all layers.
    """

    fitness: float
    fresh: float
    reference: bool

    @property
    def finite(self) -> bool:
        """Whether both fitness values are finite numbers."""
        return math.isfinite(self.fitness) and math.isfinite(self.fresh)


@dataclass(frozen=True)
class SearchedAllocation:
    """The result of a search: group size of each layer, images that the search sampled, used share of the budget.

    `remeasured` has the fitness on fresh noise.
    """

    kind: str
    groups: Mapping[str, int]
    images_sampled: int
    budget_used: float
    harmonic_mean_group_size: float
    remeasured: tuple[Remeasured, ...]


def read_searched_allocation(results: Path, search: SearchRun) -> SearchedAllocation | None:
    """Read the allocation that a search found; None if its file is missing or incomplete."""
    path = results / "search" / f"{search.path}.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if not data["groups"]:
            return None
        return SearchedAllocation(
            kind=str(data["identity"]["method"]),
            groups={str(name): int(size) for name, size in data["groups"].items()},
            images_sampled=int(data["images_sampled"]),
            budget_used=float(data["budget"]) / float(data["budget_limit"]),
            harmonic_mean_group_size=float(data["harmonic_mean_group_size"]),
            remeasured=tuple(_remeasured(entry, data["space"]["reference"]) for entry in data.get("fresh", ())),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError):
        return None


def _remeasured(entry: Mapping[str, Any], reference: int) -> Remeasured:
    fitness, fresh = (math.inf if entry[name] is None else float(entry[name]) for name in ("fitness", "fresh"))
    return Remeasured(fitness, fresh, reference=set(entry["genome"]) == {reference})


def _time(path: Path) -> dict[str, Any]:
    """Seconds and workers of a search; None if their file is damaged."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return {"seconds": float(data["seconds"]), "workers": int(data["workers"])}
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError):
        return {"seconds": None, "workers": None}


def allocation_cells(profile: Mapping[str, Any], results: Path, key: Run, row: Row) -> Row:
    """Return the cells of a row that describe its allocation: images sampled, share of the budget, mean group size.

    The cell `searched_allocation` is not shown; it has the result of the search, or None for one group size in all
    layers and for a missing search.
    """
    search = search_run_of(profile, setting=key.setting, form=key.form, label=key.label, bits=key.bits)
    if search is None:
        return {"search": None, "searched_allocation": None} | _uniform(profile, row)
    allocation = read_searched_allocation(results, search)
    cells: Row = {"search": search.search, "searched_at": search.path, "searched_allocation": allocation}
    if allocation is None:
        return cells
    return cells | {
        "images_sampled": allocation.images_sampled,
        "budget_used": allocation.budget_used,
        "harmonic_mean_group_size": allocation.harmonic_mean_group_size,
    }


def _uniform(profile: Mapping[str, Any], row: Row) -> Row:
    """Cells of a uniform group size: no sampled images; the budget is used up by the reference size."""
    size = row.get("group_size")
    if size is None or row["weight_bits"] == row["activation_bits"] == 16:
        return {}
    reference = profile.get("allocation", {}).get("reference")
    used = 1.0 if size == reference else None
    return {"images_sampled": 0, "budget_used": used, "harmonic_mean_group_size": float(size)}


def by_role(groups: Mapping[str, int]) -> dict[str, list[int | None]]:
    """Return role (`qkv`, `fc1`, …) → group size in each block. None where a block does not have the layer."""
    sizes = {layer_place(name): size for name, size in groups.items()}
    blocks = max(block for block, _ in sizes) + 1
    known = list(ROLES)
    inner = sorted({within for _, within in sizes}, key=lambda name: (known.index(name) if name in ROLES else 9, name))
    return {ROLES.get(within, within): [sizes.get((block, within)) for block in range(blocks)] for within in inner}


def timed_searches(results: Path) -> list[tuple[str, float, int]]:
    """Return (path below `search/`, seconds, number of workers) of each search whose time is known."""
    searches = []
    for path in sorted((results / "search").glob("*/*/*/*.times.json")):
        time = _time(path)
        if time["seconds"] is not None:
            name = path.relative_to(results / "search").as_posix().removesuffix(".times.json")
            searches.append((name, time["seconds"], time["workers"]))
    return searches
