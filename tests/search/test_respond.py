"""The search by linear response, on features without a network."""

from pathlib import Path

import numpy as np
import pytest

from qdit.core.errors import ConfigError, DataError
from qdit.search.evolution import GenomeSampler, Outcome
from qdit.search.feature_journal import EXACT, FeatureJournal, Sampled
from qdit.search.option_classes import EvolutionOptions, ResponseOptions
from qdit.search.respond import Responding
from qdit.search.space import Genome
from tests.search.toys import SPACE

OPTIONS = ResponseOptions(genomes=(12, 4, 4), finalists=(2, 1), pool=6, apart=2)
IMAGES, CHUNK, WIDTH = 32, 8, 6


@pytest.fixture(autouse=True)
def short_imagination(monkeypatch: pytest.MonkeyPatch) -> None:
    """Algorithm 1 on the model takes seconds; a small space needs less."""
    few = EvolutionOptions(population=40, parents=8, crossover=16, mutation=20, iterations=6)
    monkeypatch.setattr("qdit.search.respond.IMAGINED", few)


class Features:
    """Every layer moves all images by a vector of its own, the more the larger the groups; and each image a little."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.directions = rng.normal(size=(len(SPACE.layers), WIDTH)) * np.linspace(2, 0.1, len(SPACE.layers))[:, None]
        self.asked: list[Sampled] = []
        self.broken: set[Genome] = set()
        self.broken_pairs: set[Sampled] = set()

    def full(self, chunk: int) -> np.ndarray:
        return np.random.default_rng(chunk).normal(size=(CHUNK, WIDTH)).astype(np.float32)

    def shift(self, genome: Genome) -> np.ndarray:
        return (np.array(genome) / 24) @ self.directions * 0.1

    def __call__(self, pair: Sampled) -> np.ndarray | None:
        genome, chunk = pair
        if genome == EXACT:
            return self.full(chunk)
        self.asked.append(pair)
        if genome in self.broken or pair in self.broken_pairs:
            return None
        noise = np.random.default_rng([chunk, *genome]).normal(size=(CHUNK, WIDTH)) * 0.05
        return (self.full(chunk) + self.shift(genome) + noise).astype(np.float32)


def respond(
    features: Features, path: Path | None = None, *, options: ResponseOptions = OPTIONS, seed: int = 0
) -> Outcome:
    scores = np.outer((features.directions**2).sum(axis=1), np.array(SPACE.sizes) ** 2.0)
    with FeatureJournal(path, {"toy": seed}) as journal:
        return Responding(SPACE, options, scores, features, journal, images=IMAGES, chunk=CHUNK, seed=seed).run()


def loss(features: Features, genome: Genome) -> float:
    return float((features.shift(genome) ** 2).sum())


@pytest.mark.parametrize("seed", range(3))
def test_the_winner_beats_random_genomes(seed: int) -> None:
    features = Features()
    found = respond(features, seed=seed).best
    others = [loss(features, genome) for genome in GenomeSampler(SPACE, 99).random(300)]
    assert loss(features, found.genome) < np.quantile(others, 0.02)


def test_all_genomes_keep_the_budget_and_the_number_of_images() -> None:
    features = Features()
    outcome = respond(features)
    assert all(SPACE.within(one.genome) for one in outcome.evaluations)
    assert len(features.asked) == len(set(features.asked))
    assert len(features.asked) * CHUNK <= OPTIONS.most_images(images=IMAGES, chunk=CHUNK)
    assert outcome.best.images == IMAGES and np.isfinite(outcome.best.fitness)
    assert outcome.evaluations[0].genome == SPACE.start


def test_a_round_holds_different_genomes() -> None:
    outcome = respond(Features())
    for iteration in (1, 2):
        own = [one.genome for one in outcome.evaluations if one.iteration == iteration]
        assert len(own) == 4
        for place, genome in enumerate(own):
            for other in own[:place]:
                assert sum(a != b for a, b in zip(genome, other, strict=True)) >= OPTIONS.apart


def test_candidates_take_the_chunks_in_turn() -> None:
    features = Features()
    respond(features)
    assert [chunk for _, chunk in features.asked[:12]] == [*range(6), *range(6)]


@pytest.mark.parametrize("lines", (1, 5, 14, 22))
def test_a_killed_search_goes_on_and_ends_the_same(tmp_path: Path, lines: int) -> None:
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    first = respond(Features(), whole)
    written = whole.read_bytes().splitlines(keepends=True)
    cut.write_bytes(b"".join(written[:lines]) + written[lines][:20])
    again = Features()
    assert respond(again, cut) == first
    assert len(again.asked) == sum(b'"genome": []' not in line for line in written[lines:])
    assert cut.read_bytes() == whole.read_bytes()


def test_a_finished_search_samples_nothing(tmp_path: Path) -> None:
    first = respond(Features(), tmp_path / "a.jsonl")
    again = Features()
    assert respond(again, tmp_path / "a.jsonl") == first and not again.asked


def test_a_genome_that_diverges_is_no_winner() -> None:
    features = Features()
    winner = respond(features).best.genome
    again = Features()
    again.broken = {winner}
    outcome = respond(again)
    assert outcome.best.genome != winner and np.isfinite(outcome.best.fitness)


def test_a_finalist_that_diverges_only_on_other_images_is_no_winner() -> None:
    """What the model knows of it, from one chunk, is the best of all."""
    features = Features()
    winner = respond(features).best.genome
    measured = [chunk for genome, chunk in features.asked if genome == winner]
    again = Features()
    again.broken_pairs = {(winner, measured[-1])}
    outcome = respond(again)
    assert outcome.best.genome != winner and np.isfinite(outcome.best.fitness)


def test_nothing_to_learn_from() -> None:
    features = Features()
    features.broken = {SPACE.start, *GenomeSampler(SPACE, 0).random(500)}
    with pytest.raises(DataError, match="nothing to learn from"):
        respond(features, options=ResponseOptions(genomes=(3,), finalists=(1,), pool=2))


def test_full_precision_must_be_finite() -> None:
    features = Features()
    features.full = lambda chunk: None  # type: ignore[method-assign, assignment, return-value]
    with pytest.raises(DataError, match="full-precision"):
        respond(features)


@pytest.mark.parametrize(
    "wrong", ({"genomes": ()}, {"finalists": (0,)}, {"genomes": (2,)}, {"pool": 0}, {"apart": 0}, {"probes": 0})
)
def test_options_out_of_range(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="at least [13]"):
        ResponseOptions(**wrong)  # type: ignore[arg-type]


def test_a_damaged_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    respond(Features(), path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + lines[1].replace('"features": "', '"features": "!') + "".join(lines[2:]))
    with pytest.raises(DataError, match="line 2 is not an entry"):
        respond(Features(), path)
