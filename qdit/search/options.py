"""The kinds of searches and their options, as a command or a profile names them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from qdit.core.errors import ConfigError, did_you_mean
from qdit.search.evolution import EvolutionOptions
from qdit.search.knapsack import Solver
from qdit.search.racing import RacingOptions
from qdit.search.respond import ResponseOptions

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
class RaceOptions:
    """What `racing` has beside Algorithm 1's options: those of `RacingOptions`, and whose scores order candidates.

    Without `rungs`: the chunk, doubled until it reaches all images. `surrogate`: scores of the rival `ilp` or
    `hessian`, or `none`; the allocation that is best by them is then in the first generation and runs to the end.
    """

    rungs: tuple[int, ...] = ()
    keep: float = 0.25
    margin: float = 0.1
    surrogate: Surrogate = "none"
    surrogate_keep: float = 0.5

    def __post_init__(self) -> None:
        if self.surrogate not in get_args(Surrogate):
            raise ConfigError(f"surrogate {self.surrogate!r}: allowed are {', '.join(get_args(Surrogate))}")

    def of(self, *, images: int, chunk: int, parents: int) -> RacingOptions:
        """Options of a race over that many images in such chunks."""
        if chunk < 1:
            raise ConfigError(f"{images} images in chunks of {chunk}: a chunk is at least 1 image")
        rungs = self.rungs or tuple(doubled(chunk, images))
        if rungs[-1] != images:
            raise ConfigError(f"rungs {list(rungs)}: the last one must be all {images} images")
        return RacingOptions(rungs, self.keep, self.margin, parents, self.surrogate_keep)


@dataclass(frozen=True)
class RandomOptions:
    """`evaluations`: genomes measured, the reference among them."""

    evaluations: int = 500

    def __post_init__(self) -> None:
        if self.evaluations < 1:
            raise ConfigError(f"evaluations {self.evaluations}: must be at least 1")


@dataclass(frozen=True)
class KnapsackOptions:
    """`solver`: dynamic programme (dp) or branch and bound (milp)."""

    solver: Solver = "dp"

    def __post_init__(self) -> None:
        if self.solver not in get_args(Solver):
            raise ConfigError(f"solver {self.solver!r}: allowed are {', '.join(get_args(Solver))}")


@dataclass(frozen=True)
class HessianOptions(KnapsackOptions):
    """`probes`: draws of random signs for the diagonal of the Gauss–Newton matrix."""

    probes: int = 8


@dataclass(frozen=True)
class SearchOptions:
    """Options of every kind; those of other kinds stay as they are by default."""

    evolution: EvolutionOptions = field(default_factory=EvolutionOptions)
    race: RaceOptions = field(default_factory=RaceOptions)
    response: ResponseOptions = field(default_factory=ResponseOptions)
    random: RandomOptions = field(default_factory=RandomOptions)
    knapsack: KnapsackOptions = field(default_factory=KnapsackOptions)
    hessian: HessianOptions = field(default_factory=HessianOptions)

    def of(self, kind: Kind) -> dict[str, Any]:
        """Plain dictionary of what decides a search of that kind."""
        return {name: value for part in PARTS[kind] for name, value in asdict(getattr(self, part)).items()}


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
    """A kind by name; ConfigError with a suggestion for others."""
    for known in KINDS:
        if kind == known:
            return known
    raise ConfigError(f"search kind {kind!r}: allowed are {', '.join(KINDS)}{did_you_mean(kind, KINDS)}")


def parse_search_options(kind: Kind, given: Mapping[str, Any]) -> SearchOptions:
    """Options of a kind from plain JSON; ConfigError for names that the kind does not have and wrong types."""
    defaults = SearchOptions()
    known = defaults.of(kind)
    for name, value in given.items():
        if name not in known:
            allowed = f"allowed are {', '.join(known)}{did_you_mean(name, known)}" if known else "it has none"
            raise ConfigError(f"{kind} has no option {name!r}; {allowed}")
        check_type(kind, name, value, known[name])
    parts = {}
    for part in PARTS[kind]:
        default = getattr(defaults, part)
        names = {one.name for one in fields(default)}
        chosen = {
            name: tuple(value) if isinstance(value, list) else value for name, value in given.items() if name in names
        }
        parts[part] = type(default)(**chosen)
    return SearchOptions(**parts)


def check_type(kind: str, name: str, value: Any, default: Any) -> None:
    """Raise ConfigError unless a value is of its default's type (a whole number may stand for a fraction)."""
    wanted = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    if isinstance(default, tuple):
        good, words = isinstance(value, list | tuple) and all(type(one) is int for one in value), "a list of numbers"
    elif isinstance(default, float):
        good, words = type(value) in (int, float), wanted[float]
    else:
        good, words = type(value) is type(default), wanted[type(default)]
    if not good:
        raise ConfigError(f"{kind}: option {name} is {value!r}, expected {words} (default {default!r})")


def doubled(first: int, last: int) -> list[int]:
    """first, 2 · first, … below `last`, and `last`."""
    numbers = []
    while first < last:
        numbers.append(first)
        first *= 2
    return [*numbers, last]
