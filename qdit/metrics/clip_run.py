"""The step that makes metrics.json from chunks of clips. mini-VBench or VBench scores the clips."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from qdit.core.digest import code_digest
from qdit.core.intervals import LEVEL, Resamples, write_resamples
from qdit.core.metrics_record import MetricsRecord, write_record
from qdit.metrics.bootstrap import intervals
from qdit.metrics.clips import clip_protocol
from qdit.metrics.job import EvaluateJob, SampledRun, open_run
from qdit.metrics.run import made_by


@dataclass(frozen=True)
class ClipScores:
    """What a scorer (mini-VBench or VBench) returns for the clips of a run.

    metrics     every metric of clips by name; None if this scorer does not compute it.
    resamples   resampled values for the intervals.
    judged_by   prompts and evaluator, for the protocol.
    beside      further fields of the record, by name.
    """

    metrics: Mapping[str, float | None]
    resamples: Resamples
    judged_by: Mapping[str, Any]
    beside: Mapping[str, Any] = field(default_factory=dict)


class ClipScorer(Protocol):
    """Interface of an object that scores clips: mini-VBench scores them here, VBench did so in an earlier step."""

    @property
    def module(self) -> str:
        """Name of the module whose code scores, so that its digest is recorded."""
        ...

    def score(self, job: EvaluateJob, sampled: SampledRun) -> ClipScores:
        """Scores of all clips of a run; DataError if the run holds other clips than expected."""
        ...


def evaluate_clips(job: EvaluateJob, scorer: ClipScorer) -> None:
    """Score the clips of a run; write metrics.json and `bootstrap.npz` beside it.

    If an earlier step of the run or of full precision failed and recorded this, the record of the failure is written
    instead.
    """
    if (sampled := open_run(job)) is None:
        return
    scores = scorer.score(job, sampled)
    described = {**clip_protocol(job, sampled), **scores.judged_by}
    code = {"sample": sampled.code, "evaluate": code_digest(scorer.module)}
    content = made_by(job, described, sampled, code=code)
    content |= {"metrics": scores.metrics, "intervals": intervals(scores.metrics, scores.resamples)}
    content |= {"bootstrap": {"level": LEVEL, "resampled": "clips", "pairing": scores.resamples.pairing}}
    write_resamples(job.out.parent, scores.resamples)
    write_record(job.out, MetricsRecord(**content, **scores.beside))
