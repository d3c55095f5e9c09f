"""The kinds of searches and their options, by the names that commands and profiles use."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, Literal, get_args

from annotated_types import Ge

from qdit.core.errors import ConfigError, did_you_mean
from qdit.core.options import CheckedOptions, Count, Fraction, parse_options, refuse_unknown
from qdit.search.option_classes import EvolutionOptions, RacingOptions, ResponseOptions, Solver

Kind = Literal["evolution", "racing", "response", "random", "ilp", "hessian", "uniform", "chance"]
"""Algorithm 1; by racing; linear response; random search; two knapsacks; the reference everywhere; a random genome."""

KINDS: tuple[Kind, ...] = get_args(Kind)
SAMPLED: tuple[Kind, ...] = ("evolution", "racing", "response", "random")
"""Kinds that sample images."""

Surrogate = Literal["none", "ilp", "hessian"]
"""Which rival's scores of layers a race looks at."""

RESEED = {"reseed": True}
"""Options of `evolution` and `racing` as released."""


@dataclass(frozen=True)
class RaceOptions(CheckedOptions):
    """Options of a search of kind `racing`, beside those of Algorithm 1 (see `RacingOptions`).

    Without `rungs` the first comparison uses one chunk of images, and each next one twice as many, up to all images.
    `surrogate` is the kind of layer scores that order genomes before any image is sampled: `ilp`, `hessian` or `none`.
    The allocation that is best by these scores is in the first generation and always gets all images.
    """

    rungs: tuple[Count, ...] = ()
    keep: Fraction = 0.25
    margin: Annotated[float, Ge(0)] = 0.1
    surrogate: Surrogate = "none"
    surrogate_keep: Fraction = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if list(self.rungs) != sorted(set(self.rungs)):
            raise ConfigError(
                f"rungs {list(self.rungs)}: expected ascending numbers of images, each at least 1; correct them"
            )

    def of(self, *, images: int, chunk: int, parents: int) -> RacingOptions:
        """The options of a race in which `images` is the full number of images and `chunk` is the size of a batch."""
        if chunk < 1:
            raise ConfigError(f"{images} images in chunks of {chunk}: a chunk must have at least 1 image")
        rungs = self.rungs or tuple(doubled(chunk, images))
        if rungs[-1] != images:
            raise ConfigError(f"rungs {list(rungs)}: the last one must be all {images} images")
        return RacingOptions(rungs, self.keep, self.margin, parents, self.surrogate_keep)


@dataclass(frozen=True)
class RandomOptions(CheckedOptions):
    """Options of random search. `evaluations`: number of measured genomes; the reference is one of them."""

    evaluations: Count = 500


@dataclass(frozen=True)
class KnapsackOptions(CheckedOptions):
    """Options of a search that solves a knapsack. `solver`: dynamic programming (dp) or branch and bound (milp)."""

    solver: Solver = "dp"


@dataclass(frozen=True)
class HessianOptions(KnapsackOptions):
    """Options of kind `hessian`. `probes`: draws of random signs for the diagonal of the Gauss–Newton matrix."""

    probes: Count = 8


@dataclass(frozen=True)
class SearchOptions:
    """Options of all kinds of search. Only the options of the used kind may differ from their defaults."""

    evolution: EvolutionOptions = field(default_factory=EvolutionOptions)
    race: RaceOptions = field(default_factory=RaceOptions)
    response: ResponseOptions = field(default_factory=ResponseOptions)
    random: RandomOptions = field(default_factory=RandomOptions)
    knapsack: KnapsackOptions = field(default_factory=KnapsackOptions)
    hessian: HessianOptions = field(default_factory=HessianOptions)

    def of(self, kind: Kind) -> dict[str, Any]:
        """Those options that decide a search of this kind, as a dictionary for JSON."""
        return {name: value for section in PARTS[kind] for name, value in asdict(getattr(self, section)).items()}


PARTS: dict[Kind, tuple[str, ...]] = {
    "evolution": ("evolution",),
    "racing": ("evolution", "race"),
    "response": ("response",),
    "random": ("random",),
    "ilp": ("knapsack",),
    "hessian": ("hessian",),
    "uniform": (),
    "chance": (),
}
"""Kind → parts of `SearchOptions` that it reads."""


def parse_kind(kind: str) -> Kind:
    """Check the name of a kind of search; ConfigError with a suggestion for an unknown name."""
    for known in KINDS:
        if kind == known:
            return known
    raise ConfigError(f"search kind {kind!r}: allowed are {', '.join(KINDS)}{did_you_mean(kind, KINDS)}")


def parse_search_options(kind: Kind, values: Mapping[str, Any], *, position: str = "") -> SearchOptions:
    """Make the options of a kind of search from plain JSON.

    `position` says, for messages, where they stand in a profile. ConfigError as in `parse_options`.
    """
    classes = {section: type(getattr(SearchOptions(), section)) for section in PARTS[kind]}
    names = {section: [option.name for option in fields(options)] for section, options in classes.items()}
    refuse_unknown(kind, values, [name for known in names.values() for name in known], position=position)
    values_of_section = {
        section: {name: values[name] for name in known if name in values} for section, known in names.items()
    }
    return SearchOptions(
        **{
            section: parse_options(kind, classes[section], values_of_section[section], position=position)
            for section in classes
        }
    )


def doubled(first: int, last: int) -> list[int]:
    """The numbers first, 2 · first, 4 · first, … as long as they are below `last`, and then `last`."""
    numbers = []
    while first < last:
        numbers.append(first)
        first *= 2
    return [*numbers, last]
