"""Workers: the same numbers as one process, whoever computes; errors come through; nobody is left behind."""

import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from qdit.core.errors import ConfigError, QditError
from qdit.sampling.protocol import Protocol
from qdit.search.evolution import evolve
from qdit.search.job import SearchJob
from qdit.search.journal import Journal
from qdit.search.option_classes import EvolutionOptions, RacingOptions
from qdit.search.racing import Race
from qdit.search.workers import Workers


@pytest.fixture(scope="module")
def job(repository) -> SearchJob:
    weights = repository / "weights"
    return SearchJob(
        weights=weights / "dit-digits-natural.safetensors",
        sizes=(4, 8, 16, 24, 36, 12),
        reference=16,
        weight_bits=4,
        activation_bits=8,
        protocol=Protocol(steps=2),
        images=8,
        chunk=2,
        extractor="digit-classifier",
        extractor_weights=weights / "digit-classifier.safetensors",
    )


@pytest.mark.ci
def test_a_race_by_two_workers_is_that_of_one_process(job, tmp_path):
    def search(path, fitness, space, **spread):
        with Journal(path, {}) as journal:
            options = RacingOptions((2, 4, 8), keep=0.5, parents=2)
            race = Race(fitness.on_prefix, options, journal, frozenset({space.start}), forget=fitness.forget, **spread)
            return evolve(space, race, EvolutionOptions(5, 2, 2, 2, 2), seed=0)

    alone = job.fitness()
    expected = search(tmp_path / "alone", alone, alone.space)
    with Workers(job.worker, 2) as workers:
        assert search(tmp_path / "two", workers, alone.space, spread=workers.spread) == expected
        np.testing.assert_array_equal(workers.features(alone.space.start, 1), alone.features(alone.space.start, 1))
        with pytest.raises(ConfigError, match=r"3 images in chunks of 2"):
            workers.on_prefix(alone.space.start, 3)
    assert (tmp_path / "two").read_bytes() == (tmp_path / "alone").read_bytes()


def test_errors_come_through():
    with pytest.raises(ConfigError, match="workers 0"):
        Workers(dict, 0)
    with Workers(partial(int, "no number"), 1) as workers, pytest.raises(ValueError, match="no number"):
        workers.on_prefix((4,), 2)
    with Workers(partial(os._exit, 1), 1) as workers, pytest.raises(QditError, match="worker of the search has ended"):
        workers.on_prefix((4,), 2)


ABANDONING = """
import os, signal
from qdit.search.workers import Workers
from multiprocessing import active_children
if __name__ == "__main__":
    workers = Workers(dict, 1)
    print(active_children()[0].pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_end_with_a_killed_process(tmp_path):
    script = tmp_path / "abandon.py"
    script.write_text(ABANDONING)
    found = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    worker = Path("/proc") / found.stdout.strip()
    deadline = time.monotonic() + 30
    while worker.exists() and "Z" not in (worker / "stat").read_text().split()[2] and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not worker.exists() or "Z" in (worker / "stat").read_text().split()[2]
