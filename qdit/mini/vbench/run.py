"""The step chunks of clips → metrics.json of a video run: mini-VBench's sixteen scores, mFVD, FD-FP and MSE-FP."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qdit.core.digest import code_digest
from qdit.core.errors import DataError
from qdit.core.files import read_json, sha256_json, write_json
from qdit.core.intervals import LEVEL, write_replicates
from qdit.core.pixels import UINT8_RULE
from qdit.metrics.bootstrap import RESAMPLES, intervals
from qdit.metrics.clip_bootstrap import Paired, clip_bootstrap
from qdit.metrics.clips import stream_clips
from qdit.metrics.frechet import frechet_distance
from qdit.metrics.run import RunName, made_by, sampling_failure, write_error
from qdit.metrics.samples import Shard, listed_shards
from qdit.metrics.statistics import moments
from qdit.mini.vbench.evaluate import ClipSet, clip_features, reference_clips, report
from qdit.mini.vbench.observation import Observer, Remembering, load_observer
from qdit.mini.vbench.suites import Prompt
from qdit.models.config import STDiT3Config
from qdit.quant.folder import CONFIG_FILE, read_failure
from qdit.sampling.flops import clip_flops
from qdit.sampling.flow_protocol import FlowProtocol
from qdit.sampling.words import WORDS_MODULE


def asked_by(prompts: Sequence[Prompt], samples: int) -> list[tuple[str, int]]:
    """(prompt, number) of every clip of a run, in order."""
    return [(prompt.text, number) for prompt in prompts for number in range(samples)]


def read_clips(folder: Path, *, clips: int) -> tuple[ClipSet, Shard]:
    """All clips of a run and its first shard; DataError unless exactly `clips` whole, unchanged ones are there."""
    parts = list(stream_clips(folder, clips=clips))
    frames = torch.from_numpy(np.concatenate([part.frames for part in parts]))
    prompts, numbers = zip(*(name for part in parts for name in part.names), strict=True)
    return ClipSet(frames, prompts, numbers), listed_shards(folder, images=clips)[0]


def paired_errors(clips: ClipSet, full: ClipSet) -> np.ndarray:
    """Mean squared difference (N,) of pixels in [0, 1] of each clip to the full-precision clip of the same noise."""
    if (clips.prompts, clips.numbers) != (full.prompts, full.numbers):
        raise DataError("clips and full-precision clips show different prompts; sample both with the same suite")
    gap = (clips.frames.double() - full.frames.double()).div_(255)
    return gap.square().flatten(1).mean(dim=1).numpy()


def evaluate_video_run(
    samples: Path,
    checkpoint: Path,
    out: Path,
    *,
    name: RunName,
    protocol: FlowProtocol,
    prompts: Sequence[Prompt],
    clips_per_prompt: int,
    instruments: Path,
    fp_samples: Path | None,
    resamples: int = RESAMPLES,
) -> None:
    """Score the clips of a run and write metrics.json; `fp_samples` are those of full precision, same noise.

    Beside it goes `bootstrap.npz`, the `resamples` values behind the intervals, as for a run of images. A failure
    that an earlier step recorded, of the run or of full precision, is written instead.
    """
    count = len(prompts) * clips_per_prompt
    if failure := read_failure(checkpoint) or sampling_failure(samples, count):
        write_error(out, failure.text)
        return
    if fp_samples is not None and (failure := sampling_failure(fp_samples, count)):
        write_error(out, f"full precision: {failure.text}")
        return
    clips, shard = read_clips(samples, clips=count)
    observer = Remembering(load_observer(instruments))
    found = report(observer, clips, prompts, samples=clips_per_prompt)
    real = moments(clip_features(observer, reference_clips(prompts, samples=clips_per_prompt).frames))
    features = clip_features(observer, clips.frames)
    metrics: dict[str, float | None] = {**found["scores"], **(found["totals"] or {})}
    metrics |= {"mfvd": frechet_distance(moments(features), real), "fd_fp": None, "mse_fp": None}
    paired = None
    if fp_samples is not None:
        paired = paired_with(observer, clips, read_clips(fp_samples, clips=count)[0])
        same = not paired.errors.any()
        distance = 0.0 if same else frechet_distance(moments(features), moments(paired.features))
        metrics |= {"fd_fp": distance, "mse_fp": float(paired.errors.mean())}
    scores = {name: [clip["video_results"] for clip in of] for name, (_, of) in found["results"].items()}
    scale = (found["pixel_noise"], found["real_clips"]) if found["totals"] else None
    replicates = clip_bootstrap(scores, features, real, paired, scale=scale, resamples=resamples)
    config = STDiT3Config(**read_json(checkpoint / CONFIG_FILE)["model"]["config"])
    described = described_protocol(name, protocol, config, observer, prompts, clips_per_prompt, shard)
    code = {
        "sample": code_digest("qdit.sampling.run", WORDS_MODULE),
        "evaluate": code_digest("qdit.mini.vbench.run"),
    }
    own = made_by(name, described, shard, checkpoint, code=code) | {"metrics": metrics}
    own |= {"intervals": intervals(metrics, replicates)}
    own |= {"bootstrap": {"level": LEVEL, "resampled": "clips", "pairing": replicates.pairing}}
    write_replicates(out.parent, replicates)
    write_json(out, own | {key: found[key] for key in ("real_clips", "pixel_noise")})


def paired_with(observer: Observer, clips: ClipSet, full: ClipSet) -> Paired:
    """What of full precision's clips the paired metrics need."""
    return Paired(clip_features(observer, full.frames), paired_errors(clips, full))


def described_protocol(
    name: RunName,
    protocol: FlowProtocol,
    config: STDiT3Config,
    observer: Observer,
    prompts: Sequence[Prompt],
    clips_per_prompt: int,
    shard: Shard,
) -> dict[str, Any]:
    """What decides every clip and every score, and what a clip costs."""
    suite = [[prompt.text, list(prompt.dimensions)] for prompt in prompts]
    return {
        "model": name.model,
        "sampler": "rectified flow",
        **protocol.to_dict(),
        "images": len(prompts) * clips_per_prompt,
        "prompts": {"count": len(prompts), "sha256": sha256_json(suite)},
        "clip_flops": clip_flops(config, protocol),
        "chunk": shard.chunk,
        "decoder": "none",
        "uint8": UINT8_RULE,
        "evaluator": {"name": "mini-VBench (moving digits)", "sha256": observer.digest},
    }
