"""The step that searches an allocation for weights. It writes a journal and the search time beside the result.

The noise of a search differs from the noise of every run: its seeds are derived for the search alone. The same holds
for the checks on fresh noise after the search.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qdit.core.digest import code_digest
from qdit.core.errors import ConfigError
from qdit.core.files import sha256_file, sha256_json
from qdit.core.processes import require_cores
from qdit.core.seeds import Purpose, derive_seed
from qdit.methods.quantize import calibration_of
from qdit.sampling.calibration_set import require_sampled_so
from qdit.sampling.origin import facts_of
from qdit.sampling.precision import device_of
from qdit.sampling.protocol import MOST_SEED
from qdit.search.call_fitness import CallFitness, CallSearchJob, require_calls
from qdit.search.clock import Clock, times_path
from qdit.search.evolution import GenomeSampler, Outcome, evolve, random_search, ranked
from qdit.search.feature_journal import FeatureJournal
from qdit.search.fitness import ImageFitness, Noises
from qdit.search.job import SearchJob
from qdit.search.journal import Journal, Listener, Spread, search_identity
from qdit.search.knapsack import allocate
from qdit.search.option_classes import RacingOptions
from qdit.search.options import SAMPLED, Kind, SearchOptions
from qdit.search.progress import Progress
from qdit.search.racing import PrefixFitness, Race
from qdit.search.respond import Responding
from qdit.search.result import allocation, finite, searched, write_allocation
from qdit.search.sensitivity import hessian_scores, output_scores, predicted_loss
from qdit.search.space import Genome
from qdit.search.workers import Prefixes, Workers

SCORING_BATCH = 32
"""Calibration samples per forward pass of the scores."""
FREE_FACTS = ("seed", "dtype", "decoder")
"""Facts of the protocol that may differ between calibration data and a search."""


@dataclass(frozen=True)
class Search:
    """A search: its kind, its inputs (`job`), its options, and the seed of its random draws.

    Searches that score layers need `calibration`, a file of kind `trajectory`. The noise of the images depends on the
    seed in the job's protocol and on the seed of the draws. After the search, the `fresh` best genomes and the
    reference are measured again on fresh noise.
    """

    kind: Kind
    job: SearchJob | CallSearchJob
    options: SearchOptions
    seed: int = 0
    calibration: Path | None = None
    fresh: int = 0

    @property
    def noise(self) -> int:
        """Seed of the noise of the search."""
        return noise_seed(self.job, Purpose.SEARCH, self.seed)

    @property
    def fresh_noise(self) -> int:
        """Seed of the noise for the check of the best genomes after the search."""
        return noise_seed(self.job, Purpose.HELD_OUT, self.seed)

    @property
    def race(self) -> RacingOptions:
        """Options that say how many images a generation gets, rung by rung.

        Algorithm 1 and random search have one rung. A rung is a number of images at which genomes are compared.
        """
        images, parents = self.job.images, self.options.evolution.parents
        if self.kind == "racing":
            return self.options.race.of(images=images, chunk=self.job.chunk, parents=parents)
        return RacingOptions((images,), parents=parents)

    @property
    def most_images(self) -> int:
        """Largest number of images that the search can sample."""
        if self.kind == "response":
            return self.options.response.most_images(images=self.job.images, chunk=self.job.chunk)
        if self.kind == "random":
            return self.options.random.evaluations * self.job.images
        options, race = self.options.evolution, self.race
        protected = 1 + self.surrogate  # they run to the end whatever their rank
        left = race.most_images(options.population, surrogate=self.surrogate)
        return options.iterations * left + (protected * self.job.images if len(race.rungs) > 1 else 0)

    @property
    def surrogate(self) -> bool:
        """Whether the search is a race in which scores of layers choose the genomes that get images."""
        return self.kind == "racing" and self.options.race.surrogate != "none"

    @property
    def scored(self) -> bool:
        """Whether the search needs scores of layers. They are computed from calibration data."""
        return self.kind in ("ilp", "hessian", "response") or self.surrogate

    @property
    def probes(self) -> int:
        """Number of random ±1 vectors that estimate the scores of layers; 0 for scores without such vectors (`ilp`)."""
        if self.kind == "response":
            return self.options.response.probes
        hessian = self.kind == "hessian" or (self.surrogate and self.options.race.surrogate == "hessian")
        return self.options.hessian.probes if hessian else 0

    def journal(self, path: Path, identity: dict[str, Any], *, listen: Listener) -> Journal:
        """Open the journal for this kind of search."""
        return (FeatureJournal if self.kind == "response" else Journal)(path, identity, listen=listen)


def noise_seed(job: SearchJob | CallSearchJob, purpose: Purpose, *indices: int) -> int:
    """Derive a seed for one purpose from the seed in the job's protocol."""
    return derive_seed(job.protocol.seed, purpose, *indices) % 2**63


@dataclass(frozen=True)
class Measuring:
    """Object that measures genomes, in this process or in worker processes.

    `local` is a fitness in this process. It has the model, the search space and the identity of the fitness.
    """

    local: ImageFitness | CallFitness
    noises: Prefixes
    spread: Spread

    def on(self, seed: int) -> PrefixFitness:
        """Function (genome, number of images) → fitness, with the noise of this seed."""
        return lambda genome, images: self.noises.on_prefix((seed, genome), images)

    def losses(self, genomes: Sequence[Genome], images: int, *, seed: int, journal: Journal) -> list[float]:
        """Fitness of genomes after a search, on the first `images` images with the noise of `seed`.

        Features are stored until `forget`.
        """
        fitness = self.on(seed)
        return journal.losses(genomes, images, lambda genome: fitness(genome, images), spread=self.spread)

    def identity(self, seed: int, images: int) -> dict[str, Any]:
        """Identity of the fitness with the noise of this seed: all that it depends on, except the genome."""
        protocol = replace(self.local.protocol, seed=seed)
        return self.local.identity() | {"protocol": protocol.to_dict(), "images": images}


@contextmanager
def measuring(job: SearchJob | CallSearchJob, workers: int) -> Iterator[Measuring]:
    """Context manager that gives an object that measures genomes.

    With one worker it computes in this process, otherwise in other processes.
    """
    torch.set_num_threads(1)  # as every worker does
    local = job.fitness()
    if workers == 1:
        yield Measuring(local, Noises(local), map)
        return
    with Workers(job.noises, workers) as pool:
        yield Measuring(local, pool, pool.spread)


def run_search(search: Search, out: Path, *, workers: int = 1, show: bool = True) -> dict[str, Any]:
    """Run a search, write the allocation file `out` and return its content.

    It also writes `<stem>.times.json`. A kind that samples images writes the journal `<stem>.<identity>.jsonl`; a
    stopped search continues from it. Neither file changes the content, nor does the number of workers.
    """
    check(search, workers)
    content = sampled(search, out, workers, show) if search.kind in SAMPLED else scored(search, out)
    write_allocation(out, content)
    return content


def check(search: Search, workers: int) -> None:
    """Raise ConfigError for wrong inputs that can be found before any file is loaded."""
    require_cores("workers", workers)
    if search.fresh < 0:
        raise ConfigError(f"fresh {search.fresh}: must be at least 0 (genomes to measure again)")
    if not 0 <= search.seed <= MOST_SEED:  # Python's generator draws the same for -1 as for 1
        raise ConfigError(f"search seed {search.seed}: allowed are whole numbers from 0 to {MOST_SEED}")
    if isinstance(search.job, CallSearchJob):
        require_calls(search.kind, search.fresh)
    if search.scored and search.calibration is None:
        raise ConfigError(
            f"{search.kind}: needs calibration data of kind trajectory for the scores of layers; run `qdit calibrate`"
            " first and give --calibration trajectory=FILE"
        )
    if search.scored and search.calibration is not None and not isinstance(search.job, CallSearchJob):
        facts = facts_of(search.job.protocol)
        require_sampled_so(search.calibration, {name: facts[name] for name in facts if name not in FREE_FACTS})
    if search.kind in SAMPLED:
        _ = search.race


def sampled(search: Search, out: Path, workers: int, show: bool) -> dict[str, Any]:
    """Run a search that samples images, and return the content of its allocation file."""
    with measuring(search.job, workers) as at:
        identity = identity_of(search, at)
        key = sha256_json(identity)
        clock = Clock(times_path(out), key, workers=workers)
        with Progress(search.most_images, images=search.job.images, show=show) as progress:

            def listen(genome: Genome, images: int, fitness: float) -> None:
                progress(genome, images, fitness)
                clock()

            with search.journal(out.with_suffix(f".{key[:12]}.jsonl"), identity, listen=listen) as journal:
                progress.begin()
                outcome = measured_by(search, at, journal)
                images_sampled = journal.images_sampled
        clock.stop()
        content = searched(at.local.space, outcome, images_sampled=images_sampled, seed=search.seed, identity=identity)
        return content | {"fresh": on_fresh_noise(search, at, outcome, out)}


def identity_of(search: Search, at: Measuring) -> dict[str, Any]:
    """Identity of a search that samples images: everything that its result depends on."""
    fitness = at.identity(search.noise, search.job.images)
    identity = search_identity(
        search.kind, at.local.space, search.options.of(search.kind), seed=search.seed, fitness=fitness
    )
    if search.scored and search.calibration is not None:
        identity["calibration_sha256"] = sha256_file(search.calibration)
    return identity


def measured_by(search: Search, at: Measuring, journal: Journal) -> Outcome:
    """Run a search that samples images, with the journal that `Search.journal` gave."""
    space, kind = at.local.space, search.kind
    if isinstance(journal, FeatureJournal):
        return responding(search, at, journal).run()
    surrogate, first = None, []
    if search.surrogate:
        scores = scores_of(search, at.local)
        surrogate, first = predicted_loss(space, scores), [allocate(space, scores)]
    race = Race(
        at.on(search.noise),
        search.race,
        journal,
        frozenset({space.start, *first}),
        surrogate=surrogate,
        spread=at.spread,
        forget=at.noises.forget,
    )
    if kind == "random":
        return random_search(space, race, evaluations=search.options.random.evaluations, seed=search.seed)
    return evolve(space, race, search.options.evolution, seed=search.seed, first=first)


def responding(search: Search, at: Measuring, journal: FeatureJournal) -> Responding:
    """Make a search by linear response that is ready to run."""
    return Responding(
        at.local.space,
        search.options.response,
        scores_of(search, at.local),
        features=lambda pair: at.noises.features((search.noise, pair[0] or None), pair[1]),
        journal=journal,
        images=search.job.images,
        chunk=search.job.chunk,
        seed=search.seed,
        reference=at.local.reference,
        spread=at.spread,
        forget=at.noises.forget,
    )


def on_fresh_noise(search: Search, at: Measuring, outcome: Outcome, out: Path) -> list[dict[str, Any]]:
    """Measure the best genomes and the reference again, on equally many images, with the noise of another seed.

    The values are also written to a journal.
    """
    if search.fresh == 0:
        return []
    images, seed = search.job.images, search.fresh_noise
    others = [
        evaluation
        for evaluation in ranked(outcome.evaluations)
        if evaluation.images == images and evaluation != outcome.best
    ]
    full = [outcome.best, *others]
    remeasured = full[: search.fresh] + [
        evaluation for evaluation in full[search.fresh :] if evaluation.genome == at.local.space.start
    ]
    identity = {"method": "fresh", "space": at.local.space.identity(), "fitness": at.identity(seed, images)}
    with Journal(out.with_suffix(f".fresh-{sha256_json(identity)[:12]}.jsonl"), identity) as journal:
        again = at.losses([evaluation.genome for evaluation in remeasured], images, seed=seed, journal=journal)
    at.noises.forget()
    return [
        {"genome": list(evaluation.genome), "fitness": finite(evaluation.fitness), "fresh": finite(value)}
        for evaluation, value in zip(remeasured, again, strict=True)
    ]


def scored(search: Search, out: Path) -> dict[str, Any]:
    """Run a search that samples no images (a knapsack, the uniform size, or a random genome).

    It returns the content of the allocation file.
    """
    torch.set_num_threads(1)
    local = search.job.fitness()
    space, kind = local.space, search.kind
    identity = {
        "method": kind,
        "space": space.identity(),
        "options": search.options.of(kind),
        "weights_sha256": local.weights_sha256,
        "quantizer": search.job.quantizer().identity(),
        "calibration_sha256": None if search.calibration is None else sha256_file(search.calibration),
        "code": code_digest("qdit.search.run", *search.job.modules()),
    }
    seed = search.seed if kind in ("hessian", "chance") else None
    clock = Clock(times_path(out), sha256_json(identity | {"seed": seed}), workers=1)
    if kind == "uniform":
        genome = space.start
    elif kind == "chance":
        genome = next(iter(GenomeSampler(space, search.seed).random(1)), space.start)
    else:
        solver = search.options.knapsack.solver if kind == "ilp" else search.options.hessian.solver
        genome = allocate(space, scores_of(search, local), solver=solver)
    clock.stop()
    return allocation(space, genome, fitness=None, images_sampled=0, seed=seed, identity=identity)


def scores_of(search: Search, local: ImageFitness | CallFitness) -> np.ndarray:
    """Scores (layers, sizes): the loss that each layer causes at each group size.

    They come from the diagonal of the Gauss–Newton matrix, or from the error of the layer's output.
    """
    assert search.calibration is not None  # see check
    model = local.swappable.source
    calibration = calibration_of(search.calibration, model, search.job.weights)
    size = search.job.chunk if isinstance(search.job, CallSearchJob) else SCORING_BATCH
    batches = list(calibration.to(device_of(model)).batches(size))
    quantizer = search.job.quantizer()
    if search.probes:
        return hessian_scores(model, local.space, batches, quantizer=quantizer, probes=search.probes, seed=search.seed)
    return output_scores(model, local.space, batches, quantizer=quantizer)
