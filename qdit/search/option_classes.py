"""Options of the searches, one frozen dataclass for each kind of search. Profiles read them; nothing here computes."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import MinLen

from qdit.core.errors import ConfigError
from qdit.core.options import CheckedOptions, Count, CountOrNone, Probability

Solver = Literal["dp", "milp"]
"""Dynamic programme, or branch and bound."""
Rounds = Annotated[tuple[Count, ...], MinLen(1)]
"""How many in each round; there is at least one round."""


@dataclass(frozen=True)
class EvolutionOptions(CheckedOptions):
    """Options of Algorithm 1 of Q-DiT. The defaults are those of the released script, because the paper gives none.

    `reseed` restarts the random stream after every accepted genome, as the released program does by accident.
    """

    population: Count = 50
    parents: Count = 10
    crossover: CountOrNone = 25
    mutation: CountOrNone = 25
    iterations: Count = 10
    mutation_probability: Probability = 0.1
    reseed: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crossover + self.mutation > self.population:
            raise ConfigError(
                f"crossover {self.crossover} + mutation {self.mutation}: the sum is larger than population"
                f" {self.population}; take fewer children or a larger population"
            )

    @property
    def evaluations(self) -> int:
        """Number of genomes that a whole search measures."""
        return self.population * self.iterations


@dataclass(frozen=True)
class RacingOptions:
    """Options of racing, in which a genome is first measured on few images and only promising genomes on more.

    rungs           numbers of images at which genomes are compared, ascending; the last one is the full number
    keep            fraction of a generation that goes from one rung to the next (rounded up)
    margin          how much worse than the K-th best genome, relatively, a genome may be and still go on
    parents         K, the number of genomes from which the next generation is made
    surrogate_keep  fraction of a generation that is sampled at all, if scores of the layers order it first
    """

    rungs: tuple[int, ...]
    keep: float = 0.25
    margin: float = 0.1
    parents: int = 10
    surrogate_keep: float = 0.5

    def __post_init__(self) -> None:
        if not self.rungs or list(self.rungs) != sorted(set(self.rungs)) or self.rungs[0] < 1:
            raise ConfigError(
                f"rungs {list(self.rungs)}: expected ascending numbers of images, each at least 1; correct them"
            )
        if not (0 < self.keep <= 1 and 0 < self.surrogate_keep <= 1):
            raise ConfigError(
                f"keep {self.keep}, surrogate_keep {self.surrogate_keep}: each must be above 0 and at most 1"
            )
        if not self.margin >= 0 or self.parents < 1:
            raise ConfigError(
                f"margin {self.margin}, parents {self.parents}: margin must be at least 0, parents at least 1"
            )

    def most_images(self, population: int, *, surrogate: bool = False) -> int:
        """Largest number of images that one generation can need, without the genomes that always get all images."""
        left = math.ceil(self.surrogate_keep * population) if surrogate else population
        total, before = 0, 0
        for rung in self.rungs:
            total += left * (rung - before)
            left, before = math.ceil(self.keep * left), rung
        return total


@dataclass(frozen=True)
class ResponseOptions(CheckedOptions):
    """Options of a search by linear response. `genomes`: how many genomes of each round see one chunk of images.

    finalists  how many genomes of each last round see all images
    pool       number of chunks; each genome takes the next chunk. Full precision is sampled for all of them once
    apart      smallest number of layers in which two genomes of a round differ
    probes     draws of random signs for the sensitivities of the layers, from which the model starts
    """

    genomes: Rounds = (32, 8, 8, 8)
    finalists: Rounds = (4, 2)
    pool: Count = 16
    apart: Count = 4
    probes: Count = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.genomes[0] < 3:
            raise ConfigError(
                f"genomes {list(self.genomes)}: the first number is {self.genomes[0]}, it must be at least 3"
            )

    def most_images(self, *, images: int, chunk: int) -> int:
        """Largest number of images that the search can sample."""
        return sum(self.genomes) * chunk + sum(self.finalists) * images
