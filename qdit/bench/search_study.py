"""Compare the kinds of search: each runs with several seeds. Winners are measured on noise that no search has used.

Every search and every later measurement has a journal in the folder of the study. So a stopped study continues.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from qdit.core.errors import ConfigError
from qdit.core.files import sha256_json, write_json
from qdit.core.provenance import commit, machine, packages
from qdit.core.seeds import Purpose, generator
from qdit.models.loading import weights_sha256
from qdit.sampling.calibration import load_calibration
from qdit.search.clock import Clock
from qdit.search.job import SearchJob
from qdit.search.journal import Journal
from qdit.search.options import Kind, parse_search_options
from qdit.search.result import finite
from qdit.search.run import Measuring, Search, check, identity_of, measured_by, measuring, noise_seed
from qdit.search.space import Genome

KINDS: tuple[Kind, ...] = ("evolution", "response", "racing", "random")
RESAMPLES = 10_000
"""Bootstrap samples of the seeds."""


@dataclass(frozen=True)
class Study:
    """Plan of the study: a search job, options of each kind of search, and the number of seeds.

    The job gives model, budget, protocol and images per genome. Winners are measured on `held_out` images, whose noise
    no search used. Genomes that were the best for some time are measured on the first `curve` of these images.
    """

    job: SearchJob
    options: Mapping[Kind, Mapping[str, Any]]
    seeds: int = 5
    held_out: int = 2048
    curve: int = 512
    calibration: Path | None = None
    kinds: tuple[Kind, ...] = field(default=KINDS)

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ConfigError(f"seeds {self.seeds}: must be at least 1")
        if not self.job.images <= self.curve <= self.held_out:
            raise ConfigError(
                f"images {self.job.images}, curve {self.curve}, held out {self.held_out}: must not descend"
            )

    def search(self, kind: Kind, seed: int) -> Search:
        """The search of this kind with this seed."""
        options = parse_search_options(kind, self.options.get(kind, {}))
        return Search(kind, self.job, options, seed=seed, calibration=self.calibration)

    @property
    def wide(self) -> SearchJob:
        """The search job with `held_out` images per genome, the most that the study measures."""
        return replace(self.job, images=self.held_out)

    def to_dict(self) -> dict[str, Any]:
        """The plan as a plain dictionary, for JSON."""
        return {
            "weights": {"file": self.job.weights.name, "sha256": weights_sha256(self.job.weights)},
            "sizes": list(self.job.sizes),
            "reference": self.job.reference,
            "bits": f"w{self.job.weight_bits}a{self.job.activation_bits}",
            "protocol": self.job.protocol.to_dict(),
            "metric": "fd_fp" if self.job.reference_file is None else "fid",
            "images": self.job.images,
            "chunk": self.job.chunk,
            "held_out_images": self.held_out,
            "curve_images": self.curve,
            "seeds": self.seeds,
            "options": {kind: self.search(kind, 0).options.of(kind) for kind in self.kinds},
        }


def run_study(
    study: Study, folder: Path, out: Path, *, workers: int, command: str, show: bool = True
) -> dict[str, Any]:
    """Run the study and write its JSON to `out`. `folder` keeps the journals, so that a stopped study continues."""
    for kind in study.kinds:
        check(study.search(kind, 0), workers)
    plan = study.to_dict()
    clock = Clock(folder / "times.json", sha256_json(plan), workers=workers)
    with measuring(study.wide, workers) as at:
        plan["score_images"] = {kind: score_images(study, kind, at) for kind in study.kinds}
        searches = [
            searched_once(study.search(kind, seed), at, folder, clock, show)
            for seed in range(study.seeds)
            for kind in study.kinds
        ]
        reference = on_held_out(study, at, searches, folder, clock, show)
    clock.stop()
    content = {
        "command": command,
        "commit": commit(),
        "machine": machine(),
        "packages": packages(),
        "workers": workers,
        "seconds": round(clock.seconds),
        "plan": plan,
        "uniform": reference,
        "searches": searches,
        "comparison": comparison(searches, study.kinds),
    }
    write_json(out, content)
    return content


def score_images(study: Study, kind: Kind, at: Measuring) -> float:
    """Work that a search does for the scores of layers before it starts, counted in sampled images.

    It is the number of forward passes divided by those of one image. One forward pass serves all draws of signs.
    Weights get no gradients, so the backward pass of a draw counts as one forward pass. The work to sample the
    calibration data is not counted.
    """
    search = study.search(kind, 0)
    if not search.scored or study.calibration is None:
        return 0.0
    samples = len(load_calibration(study.calibration, at.local.swappable.source.config))
    passes = samples * (1 + search.probes)
    return passes / (study.job.protocol.steps * (1 if study.job.protocol.cfg_scale == 1 else 2))


def searched_once(search: Search, at: Measuring, folder: Path, clock: Clock, show: bool) -> dict[str, Any]:
    """Run one search.

    Return its winner and the genomes that were the best before, each with the images sampled until then.
    """
    identity = identity_of(search, at)
    path = folder / f"{search.kind}-{search.seed}.{sha256_json(identity)[:12]}.jsonl"
    bar = tqdm(total=search.most_images, desc=path.name.split(".")[0], unit="image", disable=not show)
    seen: dict[Genome, int] = {}

    def listen(genome: Genome, images: int, fitness: float) -> None:
        bar.update(max(images - seen.get(genome, 0), 0))
        seen[genome] = max(images, seen.get(genome, 0))
        clock()

    with bar, search.journal(path, identity, listen=listen) as journal:
        outcome = measured_by(search, at, journal)
        best, passing = outcome.best, incumbents(journal.entries, search.job.images)
        if outcome.choice is not None:  # not by the fitness alone, so only the end is known
            passing = [{"images_sampled": journal.images_sampled, "genome": list(best.genome), "fitness": best.fitness}]
        return {
            "kind": search.kind,
            "seed": search.seed,
            "images_sampled": journal.images_sampled,
            "genome": list(best.genome),
            "fitness": finite(best.fitness),
            "harmonic_mean_group_size": at.local.space.harmonic_mean(best.genome),
            "incumbents": passing,
        }


def incumbents(entries: Mapping[tuple[Genome, int], float], full: int) -> list[dict[str, Any]]:
    """Genomes that were the best for some time (incumbents), in order, each with its fitness.

    `images_sampled` counts the images until this fitness was known. Only a fitness on `full` images can be the best.
    `entries` are in the order of their measurement.
    """
    longest: dict[Genome, int] = {}
    steps: list[dict[str, Any]] = []
    sampled, best = 0, np.inf
    for (genome, images), fitness in entries.items():
        before = longest.get(genome, 0)
        sampled += max(images - before, 0)
        longest[genome] = max(images, before)
        if images == full and fitness < best:
            best = fitness
            steps.append({"images_sampled": sampled, "genome": list(genome), "fitness": fitness})
    return steps


def on_held_out(
    study: Study, at: Measuring, searches: Sequence[dict[str, Any]], folder: Path, clock: Clock, show: bool
) -> dict[str, Any]:
    """Measure all winners and incumbents on held-out noise, and add the fitness to `searches` in place.

    Return the fitness of the reference, which has the same group size in all layers.
    """
    seed = noise_seed(study.job, Purpose.HELD_OUT)
    start = at.local.space.start
    winners = list(dict.fromkeys([start, *(tuple(search["genome"]) for search in searches)]))
    passing = [tuple(step["genome"]) for search in searches for step in search["incumbents"]]
    short = list(dict.fromkeys([*winners, *passing]))
    identity = {"method": "held out", "space": at.local.space.identity(), "fitness": at.identity(seed, study.held_out)}
    path = folder / f"held-out.{sha256_json(identity)[:12]}.jsonl"
    total = study.curve * len(short) + (study.held_out - study.curve) * len(winners)
    bar = tqdm(total=total, desc="held out", unit="image", disable=not show)

    def listen(genome: Genome, images: int, fitness: float) -> None:
        bar.update(study.curve if images == study.curve else study.held_out - study.curve)
        clock()

    with bar, Journal(path, identity, listen=listen) as journal:
        values: dict[tuple[Genome, int], float] = {}
        for genomes in (winners, [genome for genome in short if genome not in winners]):
            for images in (study.curve, study.held_out) if genomes is winners else (study.curve,):
                losses = at.losses(genomes, images, seed=seed, journal=journal)
                values |= {(genome, images): loss for genome, loss in zip(genomes, losses, strict=True)}
            at.noises.forget()
    for search in searches:
        search["held_out"] = finite(values[tuple(search["genome"]), study.held_out])
        for step in search["incumbents"]:
            step["held_out"] = finite(values[tuple(step["genome"]), study.curve])
    return {"held_out": values[start, study.held_out], "held_out_curve": values[start, study.curve]}


def comparison(searches: Sequence[Mapping[str, Any]], kinds: Sequence[Kind]) -> dict[str, Any]:
    """Compare each kind of search with Algorithm 1 of Q-DiT, seed by seed: relative difference of the held-out metric.

    The numbers of sampled images are compared, too.
    """
    by_kind = {kind: [search for search in searches if search["kind"] == kind] for kind in kinds}
    plain = by_kind["evolution"]
    result: dict[str, Any] = {}
    for kind in kinds:
        of_kind = by_kind[kind]
        held_out = [search["held_out"] for search in of_kind]
        result[kind] = {
            "held_out_mean": float(np.mean(held_out)),
            "held_out_sd": float(np.std(held_out, ddof=1)) if len(of_kind) > 1 else None,
            "images_sampled_mean": float(np.mean([search["images_sampled"] for search in of_kind])),
        }
        if kind != "evolution":
            differences = [a["held_out"] / b["held_out"] - 1 for a, b in zip(of_kind, plain, strict=True)]
            shares = [a["images_sampled"] / b["images_sampled"] for a, b in zip(of_kind, plain, strict=True)]
            result[kind] |= {"against_evolution": bootstrap(differences), "images_share": float(np.mean(shares))}
    return result


def bootstrap(differences: Sequence[float]) -> dict[str, Any]:
    """Mean of the seeds' paired differences, and percentiles 2.5, 95 and 97.5 of the mean over resampled seeds.

    `upper_95` is a one-sided bound: the mean is below it with 95 % confidence.
    """
    values = np.asarray(differences, np.float64)
    picks = generator(0, Purpose.SPLIT).integers(len(values), size=(RESAMPLES, len(values)))
    means = values[picks].mean(axis=1)
    low, upper, high = (float(value) for value in np.percentile(means, (2.5, 95, 97.5)))
    return {
        "differences": [float(value) for value in values],
        "mean": float(values.mean()),
        "upper_95": upper,
        "interval_95": [low, high],
    }
