"""The step chunks of clips → metrics.json of a video run: mini-VBench's sixteen scores, mFVD, FD-FP and MSE-FP."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qdit.core.digest import code_digest
from qdit.core.errors import DataError
from qdit.core.files import sha256_json
from qdit.core.intervals import LEVEL, write_replicates
from qdit.core.metrics_record import MetricsRecord, write_record
from qdit.metrics.bootstrap import intervals
from qdit.metrics.clip_bootstrap import Paired, clip_bootstrap
from qdit.metrics.clips import clip_protocol, stream_clips
from qdit.metrics.frechet import frechet_distance
from qdit.metrics.job import EvaluateJob, SampledRun, open_run, require_prompts
from qdit.metrics.run import made_by
from qdit.metrics.statistics import moments
from qdit.mini.vbench.evaluate import ClipSet, clip_features, reference_clips, report
from qdit.mini.vbench.observation import CachingObserver, Observer, load_observer
from qdit.mini.vbench.suites import Prompt


def asked_by(prompts: Sequence[Prompt], samples: int) -> list[tuple[str, int]]:
    """(prompt, number) of every clip of a run, in order."""
    return [(prompt.text, number) for prompt in prompts for number in range(samples)]


def read_clips(folder: Path, *, clips: int) -> ClipSet:
    """All clips of a run; DataError unless exactly `clips` whole, unchanged ones are there."""
    chunks = list(stream_clips(folder, clips=clips))
    frames = torch.from_numpy(np.concatenate([chunk.frames for chunk in chunks]))
    prompts, numbers = zip(*(name for chunk in chunks for name in chunk.names), strict=True)
    return ClipSet(frames, prompts, numbers)


def paired_errors(clips: ClipSet, full: ClipSet) -> np.ndarray:
    """Mean squared difference (N,) of pixels in [0, 1] of each clip to the full-precision clip of the same noise."""
    if (clips.prompts, clips.numbers) != (full.prompts, full.numbers):
        raise DataError("clips and full-precision clips show different prompts; sample both with the same suite")
    gap = (clips.frames.double() - full.frames.double()).div_(255)
    return gap.square().flatten(1).mean(dim=1).numpy()


def evaluate_video_run(job: EvaluateJob, prompts: Sequence[Prompt], clips_per_prompt: int, instruments: Path) -> None:
    """Score the clips of a run and write metrics.json.

    Beside it goes `bootstrap.npz`, the values behind the intervals, as for a run of images. A failure that an earlier
    step recorded, of the run or of full precision, is written instead. DataError unless the clips are of these prompts.
    """
    if (sampled := open_run(job)) is None:
        return
    require_prompts(job, sampled, asked_by(prompts, clips_per_prompt))
    count, shard = sampled.count, sampled.shards[0]
    clips = read_clips(job.samples, clips=count)
    observer = CachingObserver(load_observer(instruments))
    found = report(observer, clips, prompts, samples=clips_per_prompt)
    real = moments(clip_features(observer, reference_clips(prompts, samples=clips_per_prompt).frames))
    features = clip_features(observer, clips.frames)
    metrics: dict[str, float | None] = {**found["scores"], **(found["totals"] or {})}
    metrics |= {"mfvd": frechet_distance(moments(features), real), "fd_fp": None, "mse_fp": None}
    paired = None
    if job.fp_samples is not None:
        paired = paired_with(observer, clips, read_clips(job.fp_samples, clips=count))
        same = not paired.errors.any()
        distance = 0.0 if same else frechet_distance(moments(features), moments(paired.features))
        metrics |= {"fd_fp": distance, "mse_fp": float(paired.errors.mean())}
    scores = {name: [clip["video_results"] for clip in of] for name, (_, of) in found["results"].items()}
    scale = (found["pixel_noise"], found["real_clips"]) if found["totals"] else None
    replicates = clip_bootstrap(scores, features, real, paired, scale=scale, resamples=job.resamples)
    described = described_protocol(job, sampled, observer, prompts)
    code = {"sample": sampled.code, "evaluate": code_digest("qdit.mini.vbench.run")}
    own = made_by(job.name, described, shard, job.checkpoint, code=code) | {"metrics": metrics}
    own |= {"intervals": intervals(metrics, replicates)}
    own |= {"bootstrap": {"level": LEVEL, "resampled": "clips", "pairing": replicates.pairing}}
    write_replicates(job.out.parent, replicates)
    write_record(job.out, MetricsRecord(**own, real_clips=found["real_clips"], pixel_noise=found["pixel_noise"]))


def paired_with(observer: Observer, clips: ClipSet, full: ClipSet) -> Paired:
    """What of full precision's clips the paired metrics need."""
    return Paired(clip_features(observer, full.frames), paired_errors(clips, full))


def described_protocol(
    job: EvaluateJob, sampled: SampledRun, observer: Observer, prompts: Sequence[Prompt]
) -> dict[str, Any]:
    """What decides every clip and every score, and what a clip costs."""
    suite = [[prompt.text, list(prompt.dimensions)] for prompt in prompts]
    return clip_protocol(job, sampled) | {
        "prompts": {"count": len(prompts), "sha256": sha256_json(suite)},
        "evaluator": {"name": "mini-VBench (moving digits)", "sha256": observer.digest},
    }
