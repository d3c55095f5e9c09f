"""Chunks of a genome that are sampled in one forward pass: same bits and same counts as one chunk at a time."""

from pathlib import Path

import numpy as np
import pytest

from qdit.sampling.batch import chunks_together
from qdit.sampling.protocol import Protocol
from qdit.search import fitness
from qdit.search.job import SearchJob

WEIGHTS = Path("weights/dit-digits-natural.safetensors")
EXTRACTOR = Path("weights/digit-classifier.safetensors")
IMAGES, CHUNK = 24, 8


def shipped(**options: object) -> fitness.ImageFitness:
    """The fitness of the shipped DiT with the shipped classifier."""
    protocol = Protocol(steps=2, cfg_scale=1.5, sampler="ddpm")
    job = SearchJob(WEIGHTS, (36, 16, 4), 16, 4, 8, protocol, IMAGES, CHUNK, "digit-classifier", EXTRACTOR, **options)
    return job.fitness()


@pytest.mark.parametrize("together", [1, 8, 16, 64])
def test_the_number_of_chunks_in_a_pass_changes_no_bit(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qdit.sampling.batch.MOST_TOKENS", 16 * together)
    measured = shipped()
    genome = tuple(measured.space.sizes[place % 3] for place in range(len(measured.space.layers)))
    kept = measured._sampled(genome, range(3))
    single = [measured.features(genome, chunk) for chunk in range(3)]
    assert all(np.array_equal(*pair) for pair in zip(kept, single, strict=True))
    assert measured.images_sampled == 2 * IMAGES


def test_chunks_behind_one_that_is_not_finite_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = shipped()
    sampled = fitness.sample

    def broken(*arguments: object, **options: object) -> object:
        x = sampled(*arguments, **options)
        x[CHUNK + 1] = float("nan")
        return x

    exact = measured.features(measured.space.start, 0)
    monkeypatch.setattr(fitness, "sample", broken)
    before = measured.images_sampled
    assert chunks_together(measured.swappable.full_precision(), CHUNK) == 8
    first, second = measured._sampled(measured.space.start, range(3))
    assert first is not None and np.array_equal(first, exact) and second is None
    assert measured.images_sampled - before == 2 * CHUNK
    assert measured.on_prefix(measured.space.start, IMAGES) == float("inf")
