"""Racing: Algorithm 1 of Q-DiT, but genomes are first compared on few images. Only promising genomes get more images.

A generation is reduced by successive halving (Jamieson & Talwalkar 2016): each step, a *rung*, adds images to the
images before. The *surrogate* is a sum of layer scores that guesses a genome's fitness without images. The reference
genome and the best genome by the surrogate get all images in any case. A genome is also dropped if it is worse than the
K-th best genome so far on the same images. All genomes see the same noise.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from qdit.search.evolution import Evaluation, Reading, ranked
from qdit.search.journal import Journal, Spread
from qdit.search.option_classes import RacingOptions
from qdit.search.space import Genome

PrefixFitness = Callable[[Genome, int], float]
"""(genome, images) → fitness on the first images; smaller prefixes of a genome come first."""

Surrogate = Callable[[Genome], float]
"""A guess of the fitness that needs no images; only its order counts."""


@dataclass(frozen=True)
class Race:
    """Function that measures a generation of Algorithm 1: most genomes on few images, the promising ones on all.

    `protected` genomes (the reference, and the best by the layer scores) always get all images. `forget` is called
    after each generation, to delete stored features.
    """

    fitness: PrefixFitness
    options: RacingOptions
    journal: Journal
    protected: frozenset[Genome]
    surrogate: Surrogate | None = None
    spread: Spread = map
    forget: Callable[[], None] = field(default=lambda: None)

    def __call__(self, genomes: Sequence[Genome], before: Sequence[Evaluation]) -> list[Reading]:
        """One reading per genome, on the images it reached; (∞, 0) for genomes that the surrogate left out."""
        readings = dict.fromkeys(genomes, Reading(math.inf, 0))
        champions = self._champions(before)
        alive = self._promising(genomes)
        for rung in self.options.rungs:
            losses = dict(zip(alive, self._measured(alive, rung), strict=True))
            readings |= {genome: Reading(loss, rung) for genome, loss in losses.items()}
            if rung < self.options.rungs[-1]:
                alive = self._survivors(losses, self._bar(champions, rung))
        self.forget()
        return [readings[genome] for genome in genomes]

    def _measured(self, genomes: Sequence[Genome], rung: int) -> list[float]:
        return self.journal.losses(genomes, rung, partial(_swapped, self.fitness, rung), spread=self.spread)

    def _champions(self, before: Sequence[Evaluation]) -> list[Genome]:
        """The K best so far that were measured on all images; none until there are K."""
        full = [evaluation for evaluation in before if evaluation.images == self.options.rungs[-1]]
        best = [evaluation.genome for evaluation in ranked(full)[: self.options.parents]]
        return best if len(best) == self.options.parents else []

    def _bar(self, champions: Sequence[Genome], rung: int) -> float:
        """The largest fitness with which a candidate goes on to the next rung."""
        if not champions:
            return math.inf
        return (1 + self.options.margin) * max(self._measured(champions, rung))

    def _promising(self, genomes: Sequence[Genome]) -> list[Genome]:
        """The genomes that are sampled: those with the best surrogate scores, in the order of the generation."""
        if self.surrogate is None:
            return list(genomes)
        best = set(sorted(genomes, key=self.surrogate)[: math.ceil(self.options.surrogate_keep * len(genomes))])
        return [genome for genome in genomes if genome in best or genome in self.protected]

    def _survivors(self, losses: dict[Genome, float], bar: float) -> list[Genome]:
        """Genomes that go on to the next rung, in the order of the generation."""
        best = sorted(losses, key=losses.__getitem__)[: math.ceil(self.options.keep * len(losses))]
        survivors = {genome for genome in best if losses[genome] <= bar} | self.protected
        return [genome for genome in losses if genome in survivors]


def _swapped(fitness: PrefixFitness, images: int, genome: Genome) -> float:
    """The fitness with its two arguments exchanged. As a plain function it can be sent to another process."""
    return fitness(genome, images)
