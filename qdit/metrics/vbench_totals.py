"""The three totals of VBench from its sixteen dimensions, for VBench itself and for mini-VBench."""

from collections.abc import Mapping

from qdit.core.errors import DataError
from qdit.core.metrics import DIMENSIONS, METRICS

QUALITY_SHARE, SEMANTIC_SHARE = 4, 1
"""Weights of quality and semantic score in the total."""


def totals(scaled: Mapping[str, float]) -> dict[str, float]:
    """Quality, semantic and total score from dimensions that are scaled to 0 … 1 (VBench 0.1.5, scripts/constant.py).

    Raises DataError unless all sixteen dimensions are given.
    """
    if absent := [dimension for dimension in DIMENSIONS if dimension not in scaled]:
        raise DataError(f"VBench's totals need all sixteen dimensions; missing are {', '.join(absent)}: score them too")

    def mean(total: str) -> float:
        members = sorted((m for m in METRICS.values() if m.total == total), key=lambda metric: metric.turn)
        return sum(metric.weight * scaled[metric.name] for metric in members) / sum(metric.weight for metric in members)

    quality, semantic = mean("quality"), mean("semantic")
    whole = (QUALITY_SHARE * quality + SEMANTIC_SHARE * semantic) / (QUALITY_SHARE + SEMANTIC_SHARE)
    return {"quality": quality, "semantic": semantic, "total": whole}


def scaled_between(
    scores: Mapping[str, float], *, worst: Mapping[str, float], best: Mapping[str, float]
) -> dict[str, float]:
    """Scale each dimension's score so that its value in `worst` becomes 0 and its value in `best` becomes 1.

    If the worst clips score as well as the best ones, the score of the dimension is not scaled.
    """
    return {
        d: (score - worst[d]) / (best[d] - worst[d]) if best[d] > worst[d] + 1e-6 else score
        for d, score in scores.items()
    }
