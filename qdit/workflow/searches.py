"""Check the searches of a profile, and find the search whose allocation a run uses."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qdit.core.errors import ConfigError, did_you_mean
from qdit.core.run import ending
from qdit.search.options import SearchOptions, parse_search_options
from qdit.workflow.families import family_at
from qdit.workflow.profile_fields import Keyed
from qdit.workflow.profile_models import AllocationBudget, ProfileModel, SearchedAt


@dataclass(frozen=True, order=True)
class SearchRun:
    """One search at a setting, form and bits; it gives one allocation. Replicates 1, 2, … have other random draws."""

    setting: str
    form: str
    search: str
    bits: str
    replicate: int = 0

    @property
    def path(self) -> str:
        """Path of the search's file below `search/`, without suffix."""
        return f"{self.setting}/{self.form}/{self.search}/{self.bits}{ending(self.replicate)}"


def search_run_of(
    profile: Keyed, *, setting: str, form: str, label: str, bits: str, replicate: int = 0
) -> SearchRun | None:
    """Return the search whose allocation a run uses, or None. `searched_at` may name another setting, form or bits.

    Clips have no search. Their runs have the group size from the options of the method's entry.
    """
    entry = profile["methods"][label]
    if "search" not in entry or not family_at(profile, setting).is_searched:
        return None
    at, model = entry.get("searched_at", {}), profile["settings"][setting]["model"]
    return SearchRun(
        setting=at.get("setting") or at.get("setting_of", {}).get(model, setting),
        form=at.get("form", form),
        search=entry["search"],
        bits=at.get("bits") or at.get("bits_of", {}).get(bits, bits),
        replicate=replicate,
    )


def needs_calibration(search: Mapping[str, Any]) -> bool:
    """Return whether a search uses scores of single layers, which need calibration data."""
    return (
        search["kind"] in ("ilp", "hessian", "response") or search.get("options", {}).get("surrogate", "none") != "none"
    )


def require(word: str, allowed: Sequence[str] | Mapping[str, Any], where: str) -> None:
    """Raise ConfigError unless `word` is one of the allowed names; `where` is its position in the profile."""
    if word not in allowed:
        names = ", ".join(allowed) or "none"
        raise ConfigError(f"{where}: {word!r} is not defined; allowed are {names}{did_you_mean(word, allowed)}")


def check_searches(profile: ProfileModel) -> None:
    """Raise ConfigError for an unknown option of a search, or for a number of images that is not whole chunks."""
    budget = profile.allocation
    if budget is not None and budget.images % budget.chunk:
        raise ConfigError(f"allocation.images: found {budget.images}, expected a multiple of the chunk, {budget.chunk}")
    if budget is not None and budget.reference > max(budget.sizes):
        raise ConfigError(
            f"allocation.reference: found {budget.reference}, expected at most {max(budget.sizes)}, the largest of"
            " allocation.sizes; no group sizes of a search cost so little"
        )
    for name, search in profile.searches.items():
        if budget is None:
            raise ConfigError("profile: missing allocation, which searches need; add it (config/mini.yaml shows one)")
        where = f"searches.{name}.options"
        options = parse_search_options(search.kind, search.options, position=where)
        if search.kind == "racing":
            check_rungs(options, budget, where)


def check_rungs(options: SearchOptions, budget: AllocationBudget, where: str) -> None:
    """Raise ConfigError unless the rounds of a racing search (its rungs) fit the numbers of images and genomes.

    Each round measures genomes on more images; the last round must have all images.
    """
    try:
        options.race.of(images=budget.images, chunk=budget.chunk, parents=options.evolution.parents)
    except ConfigError as problem:
        raise ConfigError(f"{where}: {problem} (allocation.images)") from None


def check_method_search(profile: ProfileModel, label: str) -> None:
    """Raise ConfigError for a method's entry whose search is not defined, or that also has a file with an allocation.

    The settings, forms and bits in `searched_at` are checked too.
    """
    entry, where = profile.methods[label], f"methods.{label}"
    at = entry.searched_at
    if entry.search is None:
        if at is not None:
            raise ConfigError(f"{where}.searched_at: only entries with a search have one; remove it or add search")
        return
    require(entry.search, profile.searches, f"{where}.search")
    if entry.allocation is not None:
        raise ConfigError(f"{where}: found both allocation and search; keep one of them")
    if at is None:
        return
    if not at.model_fields_set:
        raise ConfigError(f"{where}.searched_at: found {{}}, expected setting, form or bits; add one, or remove it")
    for one, several in (("setting", "setting_of"), ("bits", "bits_of")):
        if {one, several} <= at.model_fields_set:
            raise ConfigError(f"{where}.searched_at: found both {one} and {several}; keep one of them")
    for setting in settings_of(profile, at, f"{where}.searched_at"):
        forms = profile.models[profile.settings[setting].model].forms
        if at.form is not None and at.form not in forms:
            raise ConfigError(
                f"{where}.searched_at.form: {at.form!r} is not a form of that model; allowed are {', '.join(forms)}"
            )


def settings_of(profile: ProfileModel, at: SearchedAt, where: str) -> list[str]:
    """Return the settings that `searched_at` names. ConfigError for an unknown setting or model."""
    for model, setting in at.setting_of.items():
        require(model, profile.models, f"{where}.setting_of")
        require(setting, profile.settings, f"{where}.setting_of.{model}")
        if (other := profile.settings[setting].model) != model:
            raise ConfigError(
                f"{where}.setting_of.{model}: {setting} is a setting of {other}; give one of {model}, whose layers the"
                " sizes are for"
            )
    if at.setting is not None:
        require(at.setting, profile.settings, f"{where}.setting")
    return [*at.setting_of.values(), *([] if at.setting is None else [at.setting])]


def layer_place(name: str) -> tuple[int, str]:
    """Split the name of a layer into (block, name in the block): `blocks.3.mlp.fc1` → (3, `mlp.fc1`)."""
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
    if match is None:
        raise ConfigError(f"layer {name!r}: expected blocks.NUMBER.NAME; correct the name")
    return int(match[1]), match[2]
