"""List the figures of a profile. The workflow reads the list, and `build` draws it. Each figure names its data.

Each model and form is analysed at one setting. It is the first setting in the tables of kind `table2`, because all
methods of Q-DiT's comparison run there.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from qdit.core.errors import ConfigError, did_you_mean
from qdit.core.run import Run, split_bits
from qdit.workflow.profile import Profile, default_tables, family_at, is_full

GROUPS = ("data", "methods", "samples", "search")
"""Groups of figures in the order of a report."""

COMPARED_KIND = "table2"
HARDEST = 2
"""The methods are analysed by timestep and by layer at this many bit widths: those with the fewest bit operations."""

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
SPEED_KIND, SPEED = "methods", "Accuracy against measured speed"
"""Kind of a table that has a figure of its own, and the title of the figure."""
OF_SEARCH = {"table6": ("Allocations found", "Fitness on fresh noise"), "transfer": ("Transfer of allocations",)}
"""Kind of a table → titles of its figures, in the order of the table."""


@dataclass(frozen=True)
class Subject:
    """The network that a figure analyses: a model in one form of its weights, at one setting."""

    model: str
    form: str
    setting: str

    @property
    def name(self) -> str:
        """Text for the file names of its figures: model and form."""
        return f"{self.model}-{self.form}"

    @property
    def activations(self) -> str:
        """Path of the file of `qdit analyze activations`, below the results."""
        return f"analysis/{self.setting}/{self.form}/activations.npz"


@dataclass(frozen=True)
class Comparison:
    """Methods that a figure compares, on one model and form (`subject`), at one bit width and scope.

    `labels` are the labels of the methods in the profile, without full precision."""

    subject: Subject
    bits: str
    scope: str
    labels: tuple[str, ...]

    @property
    def errors(self) -> str:
        """Path of the file of `qdit analyze errors`, below the results."""
        return f"analysis/{self.subject.setting}/{self.subject.form}/errors-{self.bits}-{self.scope}.npz"

    def run(self, label: str) -> Run:
        """Return the run of the method `label`."""
        return Run(self.subject.setting, self.subject.form, label, self.bits, self.scope)


@dataclass(frozen=True)
class Planned:
    """One figure of the list: name of its file, kind (which function draws it), group in a report, and data.

    `subject` is set for figures of one model and form. `table` and `block` are set for figures of a table. `opt_in`
    means that the table is made on request only; without its data the figure is left out.
    """

    name: str
    kind: str
    group: str
    title: str
    subject: Subject | None = None
    table: str | None = None
    block: int = 0
    opt_in: bool = False

    @property
    def labels(self) -> dict[str, str]:
        """Labels with which Snakemake's report lists the figure."""
        return {"figure": self.title, "of": self.subject.name if self.subject else (self.table or "profile")}


def blocks_of(profile: Profile, *kinds: str) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Yield (table, number of the block, block) for the default tables of some kinds. Blocks of clips are left out.

    The tables of one kind are sorted by name, because a profile saved as JSON does not keep their order.
    """
    for kind in kinds:
        for table in sorted(name for name in default_tables(profile) if profile["tables"][name]["kind"] == kind):
            for number, block in enumerate(profile["tables"][table]["blocks"]):
                if family_at(profile, block["setting"]).samples == "images":
                    yield table, number, block


def subject_of_block(profile: Profile, block: dict[str, Any]) -> Subject:
    """Return the model, form and setting of a table's block."""
    return Subject(str(profile["settings"][block["setting"]]["model"]), block["form"], block["setting"])


def subjects(profile: Profile) -> list[Subject]:
    """Return the models and forms that figures analyse, each at its first setting, in the order of the tables."""
    by_name: dict[str, Subject] = {}
    for _, _, block in blocks_of(profile, COMPARED_KIND):
        subject = subject_of_block(profile, block)
        by_name.setdefault(subject.name, subject)
    return list(by_name.values())


def comparisons(profile: Profile, subject: Subject) -> list[Comparison]:
    """Return the comparisons of methods at the cheapest bit widths (at most two); the cheapest comes last.

    The cost of a bit width is the product of weight bits and activation bits.
    """
    labels_of: dict[tuple[str, str], dict[str, None]] = {}
    for _, _, block in blocks_of(profile, COMPARED_KIND):
        if subject_of_block(profile, block) == subject:
            labels = {label: None for label in block["methods"] if not is_full(profile, label)}
            for bits in block["bits"]:
                labels_of.setdefault((bits, block["scope"]), {}).update(labels)
    by_cost = sorted((key for key, labels in labels_of.items() if labels), key=lambda key: -operations(key[0]))
    return [Comparison(subject, bits, scope, tuple(labels_of[bits, scope])) for bits, scope in by_cost[-HARDEST:]]


def operations(bits: str) -> int:
    """Return the bit operations of one multiplication: weight bits times activation bits."""
    weight_bits, activation_bits = split_bits(bits)
    return weight_bits * activation_bits


def planned(profile: Profile) -> list[Planned]:
    """Return all figures of a profile, in the order of a report."""
    analysed = subjects(profile)
    figures = [
        Planned(f"{kind}-{subject.name}", kind, "data", title, subject)
        for subject in analysed
        for kind, title in OF_ACTIVATIONS.items()
    ]
    figures += _of_methods(profile, analysed)
    figures += [
        Planned(
            f"samples-{_slug(block)}", "samples", "samples", SAMPLES, subject_of_block(profile, block), table, number
        )
        for table, number, block in blocks_of(profile, COMPARED_KIND)
    ]
    figures += _of_search(profile)
    names = [figure.name for figure in figures]
    return [figure for number, figure in enumerate(figures) if figure.name not in names[:number]]


def _of_methods(profile: Profile, analysed: list[Subject]) -> Iterator[Planned]:
    """Quality against size and group size, then the errors of each subject."""
    seen: set[tuple[str, str]] = set()
    for table, number, block in blocks_of(profile, COMPARED_KIND, "ptq4dit_table1", "tq_dit"):
        subject = subject_of_block(profile, block)
        if (subject.name, block["scope"]) not in seen:
            seen.add((subject.name, block["scope"]))
            yield Planned(f"sizes-{subject.name}-{block['scope']}", "sizes", "methods", SIZES, subject, table, number)
    for table, number, _ in blocks_of(profile, "table1"):
        if number == 0:
            yield Planned(f"group-sizes-{table}", "group-sizes", "methods", GROUP_SIZES, None, table)
    for subject in analysed:
        if comparisons(profile, subject):
            for kind, title in OF_ERRORS.items():
                yield Planned(f"{kind}-{subject.name}", kind, "methods", title, subject)
    for table, definition in sorted(profile["tables"].items()):
        if definition["kind"] == SPEED_KIND:
            opt_in = bool(definition.get("opt_in", False))
            yield Planned(f"speed-{table}", "speed", "methods", SPEED, None, table, opt_in=opt_in)


def _of_search(profile: Profile) -> Iterator[Planned]:
    """The figures that tables about allocations have."""
    for table, definition in sorted(profile["tables"].items()):
        opt_in = bool(definition.get("opt_in", False))
        for number, title in enumerate(OF_SEARCH.get(definition["kind"], ())):
            name = title.lower().replace(" ", "-")
            yield Planned(f"{name}-{table}", "search", "search", title, None, table, number, opt_in)


def _slug(block: dict[str, Any]) -> str:
    """Setting, form and bits of a block (the bits with the fewest bit operations), as a file name."""
    return f"{block['setting']}-{block['form']}-{hardest(block)}"


def hardest(block: dict[str, Any]) -> str:
    """Return the bits of a block with the smallest product of weight bits and activation bits."""
    return str(min(block["bits"], key=operations))


def find(profile: Profile, name: str) -> Planned:
    """Return the figure with this name. For an unknown name, ConfigError lists all names."""
    for figure in planned(profile):
        if figure.name == name:
            return figure
    names = [figure.name for figure in planned(profile)]
    raise ConfigError(
        f"figure {name!r} is not in profile {profile['profile']!r} (it has: {', '.join(names) or 'none'})"
        f"{did_you_mean(name, names)}"
    )
