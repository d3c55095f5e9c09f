"""Algorithm 1 of Q-DiT, an evolutionary search for the group sizes, and random search to compare it with.

Each iteration measures a set of genomes, its *generation*. It keeps the K best genomes measured so far and makes the
next generation from them in three ways. Crossover takes each size from one of two parents. Mutation draws some sizes
again. Random genomes fill the rest if these two give too few. A genome is accepted if it is within the budget and was
never accepted before. docs/search.md has the details, and says where the released program differs.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from qdit.core.errors import ConfigError
from qdit.search.option_classes import EvolutionOptions
from qdit.search.space import Genome, SearchSpace

ATTEMPTS = 10
"""Draws per wanted child before random genomes take its place (released code)."""
RANDOM_ATTEMPTS = 1000
"""Draws per wanted random genome; what then is missing does not exist in a space that small."""


class Reading(NamedTuple):
    """The measured fitness of a genome (lower is better) and the number of images that it was measured on."""

    fitness: float
    images: int


@dataclass(frozen=True)
class Evaluation:
    """A measured genome with its fitness, number of images, iteration and origin.

    The origin says how the genome was made: start (the reference), surrogate (the best by scores of the layers),
    random, crossover or mutation. In a search by linear response it says when it was measured: first, model or
    finalist.
    """

    genome: Genome
    fitness: float
    images: int
    iteration: int
    origin: str


Measure = Callable[[Sequence[Genome], Sequence[Evaluation]], Sequence[Reading]]
"""(a generation, everything measured before it) → one reading per genome. Genomes are independent of each other."""


@dataclass(frozen=True)
class Outcome:
    """The result of a search: all measured genomes in order, and the genome it chose, if not that of lowest fitness."""

    evaluations: tuple[Evaluation, ...]
    choice: Evaluation | None = None

    @property
    def best(self) -> Evaluation:
        """The genome that is the answer of the search.

        It is the choice if there is one. Otherwise it has the lowest fitness of all genomes that were measured on the
        largest number of images; if several are equal, it is the first of them.
        """
        return self.choice or ranked(self.evaluations)[0]


def ranked(evaluations: Iterable[Evaluation]) -> list[Evaluation]:
    """Sort measured genomes, best first.

    Genomes on more images stand before genomes on fewer images, because their fitness cannot be compared.
    """
    return sorted(evaluations, key=lambda evaluation: (-evaluation.images, evaluation.fitness))


class GenomeSampler:
    """Draws genomes that are within the budget and were not drawn before. It has a random generator of its own."""

    def __init__(self, space: SearchSpace, seed: int, *, reseed: bool = False) -> None:
        self.space, self.seed, self.reseed = space, seed, reseed
        self.rng = random.Random(seed)
        self.known: set[Genome] = {space.start}

    def accept(self, draw: Callable[[], Genome], count: int, attempts: int) -> list[Genome]:
        """Return at most `count` new genomes within the budget, out of at most `attempts` · `count` calls of `draw`."""
        accepted: list[Genome] = []
        for _ in range(attempts * count):
            genome = draw()
            if genome in self.known or not self.space.within(genome):
                continue
            self.known.add(genome)
            accepted.append(genome)
            if self.reseed:
                self.rng.seed(self.seed)
            if len(accepted) == count:
                break
        return accepted

    def random(self, count: int) -> list[Genome]:
        """Draw at most `count` new random genomes."""
        return self.accept(lambda: self.space.random(self.rng), count, RANDOM_ATTEMPTS)

    def crossover(self, parents: Sequence[Genome], count: int) -> list[Genome]:
        """Draw at most `count` new genomes, each size from one of two random parents, which can be the same."""

        def draw() -> Genome:
            pair = zip(self.rng.choice(parents), self.rng.choice(parents), strict=True)
            return tuple(self.rng.choice(genes) for genes in pair)

        return self.accept(draw, count, ATTEMPTS)

    def mutation(self, parents: Sequence[Genome], count: int, probability: float) -> list[Genome]:
        """Draw at most `count` new genomes: a parent in which each size is drawn again with this probability."""

        def draw() -> Genome:
            parent, sizes = self.rng.choice(parents), self.space.sizes
            return tuple(self.rng.choice(sizes) if self.rng.random() < probability else gene for gene in parent)

        return self.accept(draw, count, ATTEMPTS)


def evolve(
    space: SearchSpace, measure: Measure, options: EvolutionOptions, *, seed: int, first: Sequence[Genome] = ()
) -> Outcome:
    """Search by Algorithm 1 of Q-DiT. Equal arguments give an equal result, however often the search was interrupted.

    `measure` gives the fitness of each genome of a generation. `first` are genomes within the budget that are known to
    be good. In the first generation they replace random genomes.
    """
    sampler = GenomeSampler(space, seed, reseed=options.reseed)
    known_good = [genome for genome in dict.fromkeys(first) if genome != space.start]
    sampler.known |= set(known_good)
    generation = {"start": [space.start], "surrogate": known_good}
    generation["random"] = sampler.random(max(0, options.population - 1 - len(known_good)))
    done: list[Evaluation] = []
    for iteration in range(options.iterations):
        done += measured(measure, generation, done, iteration)
        if iteration == options.iterations - 1:
            break
        parents = [evaluation.genome for evaluation in ranked(done)[: options.parents]]
        generation = {
            "crossover": sampler.crossover(parents, options.crossover),
            "mutation": sampler.mutation(parents, options.mutation, options.mutation_probability),
        }
        missing = options.population - sum(map(len, generation.values()))
        generation["random"] = sampler.random(missing)
    return Outcome(tuple(done))


def random_search(space: SearchSpace, measure: Measure, *, evaluations: int, seed: int) -> Outcome:
    """Measure the reference genome and random genomes, `evaluations` genomes in all."""
    if evaluations < 1:
        raise ConfigError(f"evaluations {evaluations}: must be at least 1 (the reference); take a larger number")
    generation = {"start": [space.start], "random": GenomeSampler(space, seed).random(evaluations - 1)}
    return Outcome(tuple(measured(measure, generation, [], 0)))


def measured(
    measure: Measure, generation: dict[str, list[Genome]], before: Sequence[Evaluation], iteration: int
) -> list[Evaluation]:
    """Measure the genomes of one generation, given by origin, and return one `Evaluation` for each."""
    members = [(genome, origin) for origin, genomes in generation.items() for genome in genomes]
    readings = measure([genome for genome, _ in members], before)
    return [
        Evaluation(genome, reading.fitness, reading.images, iteration, origin)
        for (genome, origin), reading in zip(members, readings, strict=True)
    ]
