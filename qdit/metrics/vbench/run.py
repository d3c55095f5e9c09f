"""Scores of a run's clips by VBench, for Table 3 of the paper profile.

VBench scored the clips in its own environment. Here the sixteen results are checked against the prompts and the clips
of this run, and they become metrics. Clips are read one chunk at a time.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qdit.core.errors import DataError
from qdit.core.files import read_json, sha256_file, sha256_json
from qdit.core.metrics import DIMENSIONS
from qdit.metrics.bootstrap import Scores, clip_bootstrap
from qdit.metrics.clip_run import ClipScores
from qdit.metrics.clips import compared_clips, samples_sha256
from qdit.metrics.job import EvaluateJob, SampledRun
from qdit.metrics.paired import NO_VALUES
from qdit.metrics.vbench.driver import SKIPPING, BadInput, clip_names, read_suite
from qdit.metrics.vbench.results import OF_A_HUNDRED, PROTOCOL, normalised
from qdit.metrics.vbench_totals import totals

SAME_MEAN = 1e-5
"""How far a score may be from the mean of its clips' scores to be that mean: VBench adds up in float32."""


@dataclass(frozen=True)
class VBenchScores:
    """Scorer that reads the scores which VBench gave to a run's clips. `suite` is the file of prompts.

    `results` is the file of `qdit vbench gather`. `listing` is the list of the clips that VBench scored.
    """

    suite: Path
    clips_per_prompt: int
    results: Path
    listing: Path
    module: str = "qdit.metrics.vbench.run"

    def score(self, job: EvaluateJob, sampled: SampledRun) -> ClipScores:
        """Read VBench's scores of a run's clips, and compute the metrics.

        DataError unless all sixteen dimensions exist and each scored every clip of the suite, from this run.
        """
        gathered, rows = read_results(self.results), rows_of(self.suite)
        digest = samples_sha256(job.samples, clips=sampled.count)
        require_same_clips(gathered, self.results, read_json(self.listing), self.listing, digest)
        require_prompts(gathered, self.results, self.suite, rows, self.clips_per_prompt)
        scores = {dimension: float(gathered["scores"][dimension]) for dimension in DIMENSIONS}
        pixels = None
        if job.fp_samples is not None:
            pixels = compared_clips(job.samples, job.fp_samples, clips=sampled.count)
        no_features: dict[str, float | None] = dict.fromkeys(("mfvd", "fd_fp", "mind_fp"))
        metrics = {**scores, **totals(normalised(scores)), **no_features}
        metrics |= NO_VALUES if pixels is None else pixels.means
        resampled = clip_bootstrap(
            clip_scores(gathered, rows, self.clips_per_prompt),
            sampled.count,
            drawing="vbench",
            scaled=normalised,
            pixels=pixels,
            resamples=job.resamples,
        )
        judged = {key: gathered[key] for key in ("weights_sha256", "packages", "skipped")}
        files = {"vbench.json": sha256_file(self.results), "vbench/clips.json": sha256_file(self.listing)}
        beside = {"vbench": judged | {"made_of": files}} | ({} if pixels is None else {"paired": pixels.record})
        return ClipScores(metrics, resampled, judged_by(rows, gathered), beside)


def read_results(path: Path) -> dict[str, Any]:
    """Read the results of all sixteen dimensions; DataError if one is missing or is not a number."""
    gathered = read_json(path)
    if not isinstance(gathered, dict) or gathered.get("protocol") != PROTOCOL or "results" not in gathered:
        raise DataError(f"{path}: not the gathered results of {PROTOCOL}; make it with qdit vbench gather")
    if missing := [dimension for dimension in DIMENSIONS if dimension not in gathered["scores"]]:
        raise DataError(
            f"{path}: has no score of {', '.join(missing)}; a row needs all sixteen dimensions: score them with qdit"
            " vbench run and gather them again"
        )
    for dimension in DIMENSIONS:
        values = [gathered["scores"][dimension], *gathered["results"][dimension][1].values()]
        if bad := [value for value in values if not isinstance(value, int | float) or not math.isfinite(value)]:
            raise DataError(f"{path}: {dimension} has the score {bad[0]!r}, which is not a number; score it again")
    return gathered


def rows_of(suite: Path) -> list[dict[str, Any]]:
    """Read the prompts of a suite, with their dimensions; DataError if the file is not a suite."""
    try:
        return read_suite(suite)
    except BadInput as problem:
        raise DataError(str(problem)) from None


def require_same_clips(
    gathered: Mapping[str, Any], results: Path, listed: Any, listing: Path, samples_digest: str
) -> None:
    """Raise DataError unless VBench scored the listed clips, and the list belongs to this run's samples."""
    if not isinstance(listed, dict) or "clips" not in listed or listed.get("samples_sha256") != samples_digest:
        raise DataError(f"{listing}: lists clips of another run, or of samples that were made anew; write them again")
    scored = gathered["clips_sha256"]
    if other := [name for name, digest in scored.items() if listed["clips"].get(name) != digest]:
        raise DataError(
            f"{results}: {len(other)} of {len(scored)} clips are not those of this run, first {other[0]!r}; score this"
            " run's clips with VBench"
        )


def require_prompts(
    gathered: Mapping[str, Any], results: Path, suite: Path, rows: Sequence[Mapping[str, Any]], clips_per_prompt: int
) -> None:
    """Raise DataError unless each dimension was scored on exactly the clips of these prompts."""
    if gathered["samples"] != clips_per_prompt or gathered["suite_sha256"] != sha256_file(suite):
        raise DataError(
            f"{results}: is of {gathered['samples']} clips of each prompt of another suite or of an older {suite.name};"
            f" expected are {clips_per_prompt}: score them again"
        )
    for dimension in DIMENSIONS:
        wanted = set(clip_names(rows, dimension, clips_per_prompt))
        scored, skipped = set(gathered["results"][dimension][1]), set(gathered["skipped"][dimension])
        if (skipped and dimension != SKIPPING) or scored | skipped != wanted or scored & skipped:
            raise DataError(
                f"{results}: {dimension} was scored on {len(scored & wanted)} of its {len(wanted)} clips; nothing is"
                " shown on fewer: score it again"
            )


def clip_scores(gathered: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], clips_per_prompt: int) -> Scores:
    """Each dimension → the scores of its clips, in the order of the prompts; None for a clip that VBench left out.

    Only dimensions whose score is the mean of the clips' scores are included, because only these can be resampled.
    """
    means: dict[str, list[float | None]] = {}
    for dimension in DIMENSIONS:
        by_clip, unit = gathered["results"][dimension][1], 100.0 if dimension == OF_A_HUNDRED else 1.0
        values = [float(value) / unit for value in by_clip.values()]
        if values and abs(float(np.mean(values)) - gathered["scores"][dimension]) <= SAME_MEAN:
            names = clip_names(rows, dimension, clips_per_prompt)
            means[dimension] = [float(by_clip[name]) / unit if name in by_clip else None for name in names]
    return means


def judged_by(rows: Sequence[Mapping[str, Any]], gathered: Mapping[str, Any]) -> dict[str, Any]:
    """Which prompts were used, and which program and weights scored their clips, for the record."""
    judged = {key: gathered[key] for key in ("weights_sha256", "packages", "suite_sha256")}
    entries = [[row["prompt_en"], row["dimension"]] for row in rows]
    return {
        "prompts": {"count": len({text for text, _ in entries}), "sha256": sha256_json(entries)},
        "evaluator": {"name": PROTOCOL, "sha256": sha256_json(judged)},
    }
