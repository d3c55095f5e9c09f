"""Search by linear response: few images of many genomes are enough to fit a linear model of each layer's effect.

Features of a genome's images are compared with full-precision features of the same noise (`qdit.search.tangent`). Their
difference is a *shift*. The shifts that single layers cause add up. So a few dozen genomes give the shifts of all
others (`qdit.search.response`). Algorithm 1 then finds the genome with the smallest expected distance by this model,
without images. This genome is sampled, the model is fitted again, and so on. Each genome gets one chunk of images, and
the next genome the next chunk. The last few genomes (*finalists*) get all images.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from qdit.core.errors import DataError
from qdit.core.seeds import Purpose, derive_seed
from qdit.metrics.frechet import Target, distance_to
from qdit.metrics.statistics import Moments
from qdit.search.evolution import Evaluation, GenomeSampler, Outcome, Reading, evolve
from qdit.search.feature_journal import EXACT, FeatureJournal, Features
from qdit.search.journal import Spread
from qdit.search.knapsack import allocate
from qdit.search.option_classes import EvolutionOptions, ResponseOptions
from qdit.search.response import Response
from qdit.search.space import Genome, SearchSpace
from qdit.search.tangent import Shift, Tangent

IMAGINED = EvolutionOptions(
    population=100, parents=20, crossover=40, mutation=50, iterations=15, mutation_probability=0.08
)
"""Algorithm 1 on the model, which costs no image."""

REMEMBERED = 10
"""Measured genomes, the best by the model, with which it begins."""


@dataclass
class Responding:
    """A search by linear response, ready to run.

    `scores` (L, S) is the sensitivity of each layer at each size. `features` samples one chunk for a genome, or for
    full precision (EXACT). `reference` holds the moments for the fitness of the last genomes; without it they are those
    of full precision. The linear model always predicts the distance to full precision.
    """

    space: SearchSpace
    options: ResponseOptions
    scores: np.ndarray
    features: Features
    journal: FeatureJournal
    images: int
    chunk: int
    seed: int
    reference: Moments | None = None
    spread: Spread = map
    forget: Callable[[], None] = field(default=lambda: None)

    def __post_init__(self) -> None:
        self._shifts: dict[tuple[Genome, int], Shift] = {}
        self._turn = 0

    def run(self) -> Outcome:
        """Run the search. Equal arguments give an equal result, however often the search was interrupted."""
        self._exact = self._full_precision()
        self._tangent = Tangent(np.concatenate(self._exact[: self.options.pool]))
        done: list[Evaluation] = []
        for iteration, count in enumerate(self.options.genomes):
            new_genomes = self._best(count, iteration) if iteration else self._first(count)
            origin = "model" if iteration else "first"
            self._measure([(genome, [self._next_chunk()]) for genome in new_genomes])
            done += [Evaluation(genome, np.inf, self.chunk, iteration, origin) for genome in new_genomes]
        finalists: list[Genome] = []
        for number, count in enumerate(self.options.finalists, start=len(self.options.genomes)):
            new_genomes = self._best(count, number, without=finalists)
            self._measure([(genome, range(self._whole)) for genome in new_genomes])
            finalists += new_genomes
            done += [
                Evaluation(genome, self._fitness(genome), self.images, number, "finalist") for genome in new_genomes
            ]
        whole = [evaluation for evaluation in done if evaluation.images == self.images]
        sound = [evaluation for evaluation in whole if np.isfinite(evaluation.fitness)] or whole
        choice = sound[int(np.argmin(self._expected()([evaluation.genome for evaluation in sound])))]
        self.forget()
        return Outcome(tuple(done), choice)

    @property
    def _whole(self) -> int:
        return self.images // self.chunk

    def _full_precision(self) -> list[np.ndarray]:
        """Features of all chunks that the search uses, at full precision."""
        chunks = [(EXACT, chunk) for chunk in range(max(self.options.pool, self._whole))]
        sampled = self.journal.sample(chunks, self.features, images=self.chunk, spread=self.spread)
        finite = [chunk_features for chunk_features in sampled if chunk_features is not None]
        if len(finite) < len(sampled):
            raise DataError(
                "full-precision images hold NaN or infinity, so no genome can be compared with them; check the weights"
            )
        return finite

    def _next_chunk(self) -> int:
        self._turn += 1
        return (self._turn - 1) % self.options.pool

    def _first(self, count: int) -> list[Genome]:
        """The reference, the best by the sensitivities, and random ones."""
        sampler = GenomeSampler(self.space, self.seed)
        known = list(dict.fromkeys([self.space.start, allocate(self.space, self.scores)]))
        sampler.known |= set(known)
        return known + sampler.random(count - len(known))

    def _measure(self, wanted: Sequence[tuple[Genome, Sequence[int]]]) -> None:
        pairs = [(genome, chunk) for genome, chunks in wanted for chunk in chunks]
        sampled = self.journal.sample(pairs, self.features, images=self.chunk, spread=self.spread)
        for (genome, chunk), features in zip(pairs, sampled, strict=True):
            if features is not None and (genome, chunk) not in self._shifts:
                self._shifts[genome, chunk] = self._tangent(self._exact[chunk], features)

    def _expected(self) -> Callable[[Sequence[Genome]], np.ndarray]:
        """Genomes → expected distance, from all measurements so far."""
        if len(self._shifts) < 2:
            raise DataError(
                f"{len(self._shifts)} measurements have finite images, so there is nothing to learn from (at least 2"
                " are needed); take more bits"
            )
        shifts, prior = list(self._shifts.values()), np.sqrt(self.scores.mean(axis=1))
        columns = self._columns([genome for genome, _ in self._shifts])
        means, crosses = (
            [(shift.mean, shift.mean_noise) for shift in shifts],
            [(shift.cross, shift.cross_noise) for shift in shifts],
        )
        parts = [
            Response.fit(
                columns, np.array([vector for vector, _ in pairs]), np.array([noise for _, noise in pairs]), prior
            )
            for pairs in (means, crosses)
        ]

        def expected(genomes: Sequence[Genome]) -> np.ndarray:
            rows = self._columns(genomes)
            return parts[0].squared_length(rows) + parts[1].squared_length(rows)

        return expected

    def _columns(self, genomes: Sequence[Genome]) -> np.ndarray:
        return np.array([self.space.columns(genome) for genome in genomes]).reshape(-1, len(self.space.layers))

    def _best(self, count: int, number: int, without: Sequence[Genome] = ()) -> list[Genome]:
        """The best genomes by the model, each `apart` from the others."""
        expected = self._expected()
        known = list(dict.fromkeys(genome for genome, _ in self._shifts))
        first = [known[index] for index in np.argsort(expected(known), kind="stable")[:REMEMBERED]]
        seed = derive_seed(self.seed, Purpose.SEARCH, number) % 2**63

        def imagine(genomes: Sequence[Genome], _: Sequence[Evaluation]) -> list[Reading]:
            return [Reading(float(value), 1) for value in expected(genomes)]

        imagined = evolve(self.space, imagine, IMAGINED, seed=seed, first=first).evaluations
        new_genomes: list[Genome] = []
        for evaluation in sorted(imagined, key=lambda evaluation: evaluation.fitness):
            away = [sum(a != b for a, b in zip(evaluation.genome, other, strict=True)) for other in new_genomes]
            if evaluation.genome not in without and min(away, default=self.options.apart) >= self.options.apart:
                new_genomes.append(evaluation.genome)
            if len(new_genomes) == count:
                break
        return new_genomes

    @cached_property
    def _target(self) -> Target:
        """Target of the distance of finalists: the reference, or the full-precision images."""
        if self.reference is not None:
            return Target(self.reference)
        return Target.of(np.concatenate(self._exact[: self._whole]))

    def _fitness(self, genome: Genome) -> float:
        """The metric of the search, on all images."""
        parts = [self.journal.features[genome, chunk] for chunk in range(self._whole)]
        finite = [chunk_features for chunk_features in parts if chunk_features is not None]
        value = np.inf
        if len(finite) == len(parts):
            value = distance_to(self._target, np.concatenate(finite))
        self.journal.fit(genome, self.images, value)
        return value
