"""Score the clips of a video run with mini-VBench: its sixteen scores, mFVD, FD-FP and MSE-FP."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qdit.core.errors import DataError
from qdit.core.files import sha256_json
from qdit.metrics.bootstrap import ClipFeatures, clip_bootstrap
from qdit.metrics.clip_run import ClipScores
from qdit.metrics.clips import stream_clips
from qdit.metrics.frechet import frechet_distance
from qdit.metrics.job import EvaluateJob, SampledRun, require_prompts
from qdit.metrics.paired import NO_VALUES, PixelComparison, compare_clips
from qdit.metrics.sliced import sliced_distance
from qdit.metrics.statistics import moments
from qdit.metrics.vbench_totals import scaled_between
from qdit.mini.vbench.evaluate import ClipSet, clip_features, reference_clips, report
from qdit.mini.vbench.observation import CachingObserver, Observer, load_observer
from qdit.mini.vbench.suites import Prompt


def clips_of_prompts(prompts: Sequence[Prompt], samples: int) -> list[tuple[str, int]]:
    """Name (prompt, number) of every clip of a run with `samples` clips per prompt, in order."""
    return [(prompt.text, number) for prompt in prompts for number in range(samples)]


def read_clips(folder: Path, *, clips: int) -> ClipSet:
    """Read all clips of a run. DataError unless there are exactly `clips` clips, complete and unchanged."""
    chunks = list(stream_clips(folder, clips=clips))
    frames = torch.from_numpy(np.concatenate([chunk.frames for chunk in chunks]))
    prompts, numbers = zip(*(name for chunk in chunks for name in chunk.names), strict=True)
    return ClipSet(frames, prompts, numbers)


def paired_errors(clips: ClipSet, full: ClipSet) -> np.ndarray:
    """MSE (N,), over pixels in [0, 1], of each clip to the full-precision clip of the same noise."""
    if (clips.prompts, clips.numbers) != (full.prompts, full.numbers):
        raise DataError("clips and full-precision clips show different prompts; sample both with the same suite")
    gap = (clips.frames.double() - full.frames.double()).div_(255)
    return gap.square().flatten(1).mean(dim=1).numpy()


def compared(clips: ClipSet, full: ClipSet) -> PixelComparison:
    """Compare each clip, frame by frame, with the full-precision clip of the same noise: MSE, PSNR, SSIM."""
    errors = paired_errors(clips, full)
    return replace(compare_clips(clips.frames.numpy(), full.frames.numpy()), errors=errors)


@dataclass(frozen=True)
class MiniVBench:
    """Scorer that uses mini-VBench: sixteen scores, mFVD, FD-FP and MSE-FP.

    `instruments` is the file of its networks.
    """

    prompts: Sequence[Prompt]
    clips_per_prompt: int
    instruments: Path
    module: str = "qdit.mini.vbench.run"

    def score(self, job: EvaluateJob, sampled: SampledRun) -> ClipScores:
        """Score the clips of a run. DataError unless they are clips of exactly these prompts."""
        require_prompts(job, sampled, clips_of_prompts(self.prompts, self.clips_per_prompt))
        clips = read_clips(job.samples, clips=sampled.count)
        observer = CachingObserver(load_observer(self.instruments))
        scored = report(observer, clips, self.prompts, samples=self.clips_per_prompt)
        real = reference_clips(self.prompts, samples=self.clips_per_prompt)
        features = ClipFeatures(clip_features(observer, clips.frames), moments(clip_features(observer, real.frames)))
        metrics: dict[str, float | None] = {**scored["scores"], **(scored["totals"] or {})}
        metrics |= {"mfvd": frechet_distance(moments(features.features), features.real)}
        metrics |= {"fd_fp": None, "mind_fp": None} | NO_VALUES
        pixels = None
        if job.fp_samples is not None and sampled.origin.may_be_paired:
            full = read_clips(job.fp_samples, clips=sampled.count)
            pixels = compared(clips, full)
            features = replace(features, full=clip_features(observer, full.frames))
            metrics |= paired_distances(features, pixels) | pixels.means
        resampled = clip_bootstrap(
            {name: [clip["video_results"] for clip in of_clips] for name, (_, of_clips) in scored["results"].items()},
            sampled.count,
            scaled=partial(scaled_between, worst=scored["pixel_noise"], best=scored["real_clips"]),
            features=features,
            pixels=pixels,
            resamples=job.resamples,
        )
        beside = {name: scored[name] for name in ("real_clips", "pixel_noise")}
        beside |= {} if pixels is None else {"paired": pixels.record}
        return ClipScores(metrics, resampled, judged_by(self.prompts, observer), beside)


def paired_distances(features: ClipFeatures, pixels: PixelComparison) -> dict[str, float | None]:
    """FD-FP and MIND-FP of a run: Fréchet and sliced Wasserstein distance of its clips to the full-precision clips.

    Both are exactly 0 if the clips are those of full precision.
    """
    if features.full is None or not pixels.errors.any():
        return {"fd_fp": 0.0, "mind_fp": 0.0}
    distance = frechet_distance(moments(features.features), moments(features.full))
    return {"fd_fp": distance, "mind_fp": sliced_distance(features.features, features.full, paired=True).value}


def judged_by(prompts: Sequence[Prompt], observer: Observer) -> dict[str, Any]:
    """Record of what the scores depend on: number and digest of the prompts, name and digest of the networks."""
    suite = [[prompt.text, list(prompt.dimensions)] for prompt in prompts]
    return {
        "prompts": {"count": len(prompts), "sha256": sha256_json(suite)},
        "evaluator": {"name": "mini-VBench (moving digits)", "sha256": observer.digest},
    }
