"""Which figures a profile has: what the workflow declares, what is drawn, and what data each of them shows.

Analyses are made for one setting of each model and form, the first one in the tables of kind `table2`: that is where
all methods of Q-DiT's comparison run.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from qdit.core.errors import ConfigError, did_you_mean
from qdit.core.run import Run, split_bits
from qdit.workflow.profile import Profile, default_tables, family_at, is_full

GROUPS = ("data", "methods", "samples", "search")
"""In the order of a report."""

COMPARED_KIND = "table2"
HARDEST = 2
"""So many bit widths of a place are looked at step by step and layer by layer, those with the fewest bit operations."""

OF_ACTIVATIONS = {
    "channels": "Weights and activations by channel",
    "timesteps": "Activations over the timesteps",
    "blocks": "Standard deviation by block and timestep",
    "spread": "Activations of different images",
    "salience": "Salience and rounding error by channel",
    "salience-timesteps": "Salience over the timesteps",
}
"""Kind → title of the figures that an analysis of activations gives."""

OF_ERRORS = {
    "errors-timesteps": "Error of the methods by timestep",
    "errors-layers": "Error of the methods by layer",
}
SIZES = "Quality against size"
GROUP_SIZES = "Quality against group size"
SAMPLES = "Samples of the same noise"
OF_SEARCH = {"table6": ("Allocations found", "Fitness on fresh noise"), "transfer": ("Transfer of allocations",)}
"""Kind of a table → titles of the figures that it has, in its own order."""


@dataclass(frozen=True)
class Place:
    """A model in one form, and the setting it is looked at."""

    model: str
    form: str
    setting: str

    @property
    def name(self) -> str:
        """As figures are named."""
        return f"{self.model}-{self.form}"

    @property
    def activations(self) -> str:
        """File of the analysis below the results."""
        return f"analysis/{self.setting}/{self.form}/activations.npz"


@dataclass(frozen=True)
class Comparison:
    """Methods (labels of the profile, without full precision) at a place, in one bit width and scope."""

    place: Place
    bits: str
    scope: str
    labels: tuple[str, ...]

    @property
    def errors(self) -> str:
        """File of the analysis below the results."""
        return f"analysis/{self.place.setting}/{self.place.form}/errors-{self.bits}-{self.scope}.npz"

    def run(self, label: str) -> Run:
        """The run of one of the methods."""
        return Run(self.place.setting, self.place.form, label, self.bits, self.scope)


@dataclass(frozen=True)
class Planned:
    """One figure: its file's name, what draws it, its place in a report; `table` and `block` say what of which table.

    `opt_in` belongs to a table that is made when asked for: without its data there is no such figure.
    """

    name: str
    kind: str
    group: str
    title: str
    place: Place | None = None
    table: str | None = None
    block: int = 0
    opt_in: bool = False

    @property
    def labels(self) -> dict[str, str]:
        """What Snakemake's report shows beside it."""
        return {"figure": self.title, "of": self.place.name if self.place else (self.table or "profile")}


def blocks_of(profile: Profile, *kinds: str) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """(table, number of the block, block) of the default tables, kind by kind; blocks about clips are left out.

    Tables of a kind come by name: a profile that was written as JSON has lost the order it was given in.
    """
    for kind in kinds:
        for table in sorted(name for name in default_tables(profile) if profile["tables"][name]["kind"] == kind):
            for number, block in enumerate(profile["tables"][table]["blocks"]):
                if family_at(profile, block["setting"]).samples == "images":
                    yield table, number, block


def place_of_block(profile: Profile, block: dict[str, Any]) -> Place:
    """Model, form and setting of a table's block."""
    return Place(str(profile["settings"][block["setting"]]["model"]), block["form"], block["setting"])


def places(profile: Profile) -> list[Place]:
    """The first setting of each model and form, in the order of the tables."""
    found: dict[str, Place] = {}
    for _, _, block in blocks_of(profile, COMPARED_KIND):
        place = place_of_block(profile, block)
        found.setdefault(place.name, place)
    return list(found.values())


def comparisons(profile: Profile, place: Place) -> list[Comparison]:
    """What is compared step by step at a place: the hardest bit widths, hardest last."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for _, _, block in blocks_of(profile, COMPARED_KIND):
        if place_of_block(profile, block) == place:
            labels = {label: None for label in block["methods"] if not is_full(profile, label)}
            for bits in block["bits"]:
                found.setdefault((bits, block["scope"]), {}).update(labels)
    by_cost = sorted((key for key, labels in found.items() if labels), key=lambda key: -operations(key[0]))
    return [Comparison(place, bits, scope, tuple(found[bits, scope])) for bits, scope in by_cost[-HARDEST:]]


def operations(bits: str) -> int:
    """Bit operations of one multiplication."""
    weight_bits, activation_bits = split_bits(bits)
    return weight_bits * activation_bits


def planned(profile: Profile) -> list[Planned]:
    """Figures of a profile in the order of a report."""
    found = places(profile)
    figures = [
        Planned(f"{kind}-{place.name}", kind, "data", title, place)
        for place in found
        for kind, title in OF_ACTIVATIONS.items()
    ]
    figures += _of_methods(profile, found)
    figures += [
        Planned(f"samples-{_slug(block)}", "samples", "samples", SAMPLES, place_of_block(profile, block), table, number)
        for table, number, block in blocks_of(profile, COMPARED_KIND)
    ]
    figures += _of_search(profile)
    names = [figure.name for figure in figures]
    return [figure for number, figure in enumerate(figures) if figure.name not in names[:number]]


def _of_methods(profile: Profile, found: list[Place]) -> Iterator[Planned]:
    """Quality against size and group size, then the errors of each place."""
    seen: set[tuple[str, str]] = set()
    for table, number, block in blocks_of(profile, COMPARED_KIND, "ptq4dit_table1", "tq_dit"):
        place = place_of_block(profile, block)
        if (place.name, block["scope"]) not in seen:
            seen.add((place.name, block["scope"]))
            yield Planned(f"sizes-{place.name}-{block['scope']}", "sizes", "methods", SIZES, place, table, number)
    for table, number, _ in blocks_of(profile, "table1"):
        if number == 0:
            yield Planned(f"group-sizes-{table}", "group-sizes", "methods", GROUP_SIZES, None, table)
    for place in found:
        if comparisons(profile, place):
            for kind, title in OF_ERRORS.items():
                yield Planned(f"{kind}-{place.name}", kind, "methods", title, place)


def _of_search(profile: Profile) -> Iterator[Planned]:
    """The figures that tables about allocations have."""
    for table, definition in sorted(profile["tables"].items()):
        opt_in = bool(definition.get("opt_in", False))
        for number, title in enumerate(OF_SEARCH.get(definition["kind"], ())):
            name = title.lower().replace(" ", "-")
            yield Planned(f"{name}-{table}", "search", "search", title, None, table, number, opt_in)


def _slug(block: dict[str, Any]) -> str:
    """Setting, form and hardest bits of a block, as a file name."""
    return f"{block['setting']}-{block['form']}-{hardest(block)}"


def hardest(block: dict[str, Any]) -> str:
    """The bits of a block with the fewest bit operations."""
    return str(min(block["bits"], key=operations))


def find(profile: Profile, name: str) -> Planned:
    """The figure of this name; ConfigError says which there are."""
    for figure in planned(profile):
        if figure.name == name:
            return figure
    names = [figure.name for figure in planned(profile)]
    raise ConfigError(
        f"figure {name!r} is not in profile {profile['profile']!r} (it has: {', '.join(names) or 'none'})"
        f"{did_you_mean(name, names)}"
    )
