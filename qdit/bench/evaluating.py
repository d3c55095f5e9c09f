"""Measure the CPU time of resampled Fréchet distances on synthetic features, by matrix roots and by an expansion."""

import time
from collections.abc import Callable, Iterator

import numpy as np

from qdit.core.errors import ConfigError
from qdit.metrics.bootstrap import multiplicities
from qdit.metrics.resampled_expansion import expanded_paired, expanded_to_reference
from qdit.metrics.resampled_frechet import direct_paired, direct_to_reference
from qdit.metrics.statistics import moments

DAMAGE = 0.2
"""Standard deviation of the second set's noise over that of the first set."""


def lines(images: int, features: int, resamples: int) -> Iterator[str]:
    """Two lines of text, for FID and FD-FP: seconds for all resamples in both ways, and the ratio of these times.

    They also give the ratio of the standard deviations that both ways find.
    """
    if images <= features:
        raise ConfigError(f"{images} images of {features} features: an expansion needs more images; give --images")
    draw = np.random.default_rng(0)
    mixing = draw.normal(size=(features, features)) * (1 + np.arange(features)[:, None]) ** -0.6
    noise = draw.normal(size=(images, features))
    full = np.maximum(noise @ mixing, 0)
    run = np.maximum((noise + DAMAGE * draw.normal(size=noise.shape)) @ mixing, 0)
    real = moments(np.maximum(draw.normal(size=noise.shape) @ mixing, 0))
    counts = multiplicities(images, resamples)
    yield _line("FID", lambda: direct_to_reference(run, counts, real), lambda: expanded_to_reference(run, counts, real))
    yield _line("FD-FP", lambda: direct_paired(run, full, counts), lambda: expanded_paired(run, full, counts))


def _line(name: str, by_roots: Callable[[], np.ndarray], by_expansion: Callable[[], np.ndarray]) -> str:
    (exact, slow), (expanded, fast) = _timed(by_roots), _timed(by_expansion)
    return (
        f"{name}: {len(exact)} resamples take {slow:.2f} s by roots and {fast:.2f} s by expansion,"
        f" {slow / fast:.1f} times less; deviations {exact.std():.4g} and {expanded.std():.4g}"
    )


def _timed(distances: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    start = time.process_time()
    return distances(), time.process_time() - start
