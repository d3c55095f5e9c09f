"""The searches of a profile: what their options are called, and where the allocation of a run comes from.

Known without importing the searches themselves, which need torch.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qdit.core.errors import ConfigError, did_you_mean

EVOLUTION = ("population", "parents", "crossover", "mutation", "iterations", "mutation_probability", "reseed")
RACE = ("rungs", "keep", "margin", "surrogate", "surrogate_keep")
SEARCH_OPTIONS: dict[str, tuple[str, ...]] = {
    "evolution": EVOLUTION,
    "racing": (*EVOLUTION, *RACE),
    "response": ("genomes", "finalists", "pool", "apart", "probes"),
    "random": ("evaluations",),
    "ilp": ("solver",),
    "hessian": ("solver", "probes"),
    "uniform": (),
    "chance": (),
}
"""Kind of search → its options; the test of `qdit.search.options` compares them with the program's."""


@dataclass(frozen=True, order=True)
class SearchPlace:
    """A search at a setting, form and bits: one allocation."""

    setting: str
    form: str
    search: str
    bits: str

    @property
    def path(self) -> str:
        """Its file below `search/`, without the suffix."""
        return f"{self.setting}/{self.form}/{self.search}/{self.bits}"


def place_of(profile: Mapping[str, Any], *, setting: str, form: str, label: str, bits: str) -> SearchPlace | None:
    """The search whose allocation a run takes, or None: at the run's own place unless `searched_at` says where."""
    entry = profile["methods"][label]
    if "search" not in entry:
        return None
    at = {"setting": setting, "form": form, "bits": bits} | entry.get("searched_at", {})
    return SearchPlace(search=entry["search"], **at)


def needs_calibration(search: Mapping[str, Any]) -> bool:
    """Whether a search scores single layers on calibration data."""
    return (
        search["kind"] in ("ilp", "hessian", "response") or search.get("options", {}).get("surrogate", "none") != "none"
    )


def check_searches(profile: Mapping[str, Any]) -> None:
    """Raise ConfigError for options that a kind does not have, and for images that are not whole chunks."""
    searches = profile.get("searches", {})
    if searches and "allocation" not in profile:
        raise ConfigError("profile: missing allocation, which searches need; add it (config/mini.yaml shows one)")
    for name, search in searches.items():
        known = SEARCH_OPTIONS[search["kind"]]
        for option in search.get("options", {}):
            if option not in known:
                allowed = f"allowed are {', '.join(known)}{did_you_mean(option, known)}" if known else "it has none"
                raise ConfigError(f"searches.{name}.options: {search['kind']} has no option {option!r}; {allowed}")
    shared = profile.get("allocation")
    if shared and shared["images"] % shared["chunk"]:
        raise ConfigError(
            f"allocation.images: found {shared['images']}, expected a multiple of the chunk, {shared['chunk']}"
        )


def check_method_search(profile: Mapping[str, Any], label: str) -> None:
    """Raise ConfigError for a method entry whose search does not exist, or that has it beside what excludes it."""
    entry, where = profile["methods"][label], f"methods.{label}"
    searches = profile.get("searches", {})
    if "search" not in entry:
        if "searched_at" in entry:
            raise ConfigError(f"{where}.searched_at: only entries with a search have one; remove it or add search")
        return
    if entry["search"] not in searches:
        hint = did_you_mean(entry["search"], searches)
        raise ConfigError(
            f"{where}.search: {entry['search']!r} is not defined; allowed are {', '.join(searches) or 'none'}{hint}"
        )
    if "allocation" in entry:
        raise ConfigError(f"{where}: found both allocation and search; keep one of them")
    at = entry.get("searched_at", {})
    if "setting" in at and at["setting"] not in profile["settings"]:
        hint = did_you_mean(at["setting"], profile["settings"])
        raise ConfigError(
            f"{where}.searched_at.setting: {at['setting']!r} is not defined;"
            f" allowed are {', '.join(profile['settings'])}{hint}"
        )
    if "setting" in at and "form" in at:
        forms = profile["models"][profile["settings"][at["setting"]]["model"]]["forms"]
        if at["form"] not in forms:
            raise ConfigError(
                f"{where}.searched_at.form: {at['form']!r} is not a form of that model; allowed are {', '.join(forms)}"
            )


def layer_place(name: str) -> tuple[int, str]:
    """(block, name within it) of a layer: `blocks.3.mlp.fc1` → (3, `mlp.fc1`)."""
    found = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
    if found is None:
        raise ConfigError(f"layer {name!r}: expected blocks.NUMBER.NAME")
    return int(found[1]), found[2]
