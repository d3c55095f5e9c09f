"""The step chunks of clips → metrics.json of a video run: mini-VBench's sixteen scores, mFVD and MSE-FP."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qdit.artifacts import load_arrays, read_json, sha256_file, sha256_json, write_json
from qdit.data.pixels import UINT8_RULE
from qdit.digest import code_digest
from qdit.errors import DataError
from qdit.metrics.run import RunName, sampling_failure, write_error
from qdit.metrics.samples import Shard, listed_shards
from qdit.metrics.video.evaluate import ClipSet, mfvd, reference_clips, report
from qdit.metrics.video.observation import Observer, load_observer
from qdit.metrics.video.suites import Prompt
from qdit.provenance import packages
from qdit.quant.folder import CONFIG_FILE, checkpoint_sha256, read_failure
from qdit.quant.size import size_actual_mb
from qdit.sampling.rectified_flow import FlowProtocol


def asked_by(prompts: Sequence[Prompt], samples: int) -> list[tuple[str, int]]:
    """(prompt, number) of every clip of a run, in order."""
    return [(prompt.text, number) for prompt in prompts for number in range(samples)]


def read_clips(folder: Path, *, clips: int) -> tuple[ClipSet, Shard]:
    """All clips of a run and its first shard; DataError unless exactly `clips` whole, unchanged ones are there."""
    shards = listed_shards(folder, images=clips)
    parts: dict[str, dict[str, np.ndarray]] = {}
    for entry in (entry for shard in shards for entry in shard.chunks):
        path = folder / entry.file
        if not path.exists() or sha256_file(path) != entry.sha256:
            raise DataError(f"{path}: missing, or not the file that its shard lists; sample again")
        parts[entry.file] = load_arrays(path)
    chosen = [parts[name] for name in sorted(parts)]
    found = sum(len(part["frames"]) for part in chosen)
    if found != clips:
        raise DataError(f"{folder}: holds {found} clips, {clips} were asked for; sample the other shards too")
    columns = {name: np.concatenate([part[name] for part in chosen]) for name in ("frames", "prompts", "numbers")}
    prompts, numbers = tuple(map(str, columns["prompts"])), tuple(int(number) for number in columns["numbers"])
    return ClipSet(torch.from_numpy(columns["frames"]), prompts, numbers), shards[0]


def mse_fp(clips: ClipSet, full: ClipSet) -> float:
    """Mean squared difference of pixels in [0, 1] of each clip to the full-precision clip of the same noise."""
    if (clips.prompts, clips.numbers) != (full.prompts, full.numbers):
        raise DataError("clips and full-precision clips show different prompts; sample both with the same suite")
    return float((clips.frames.double() - full.frames.double()).div_(255).square().mean())


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
) -> None:
    """Score the clips of a run and write metrics.json; `fp_samples` are those of full precision, same noise.

    A failure that an earlier step recorded, of the run or of full precision, is written instead.
    """
    count = len(prompts) * clips_per_prompt
    if failure := read_failure(checkpoint) or sampling_failure(samples, count):
        write_error(out, failure.text)
        return
    if fp_samples is not None and (failure := sampling_failure(fp_samples, count)):
        write_error(out, f"full precision: {failure.text}")
        return
    clips, shard = read_clips(samples, clips=count)
    observer = load_observer(instruments)
    found = report(observer, clips, prompts, samples=clips_per_prompt)
    real = reference_clips(prompts, samples=clips_per_prompt)
    metrics = {**found["scores"], "mfvd": mfvd(observer, clips.frames, real.frames), "mse_fp": None}
    if fp_samples is not None:
        metrics["mse_fp"] = mse_fp(clips, read_clips(fp_samples, clips=count)[0])
    described = described_protocol(name, protocol, observer, prompts, clips_per_prompt, shard)
    own = video_result(name, described, checkpoint, shard)
    scale = {key: found[key] for key in ("totals", "real_clips", "pixel_noise")}
    write_json(out, own | {"metrics": metrics} | scale)


def described_protocol(
    name: RunName,
    protocol: FlowProtocol,
    observer: Observer,
    prompts: Sequence[Prompt],
    clips_per_prompt: int,
    shard: Shard,
) -> dict[str, Any]:
    """What decides every clip and every score."""
    suite = [[prompt.text, list(prompt.dimensions)] for prompt in prompts]
    return {
        "model": name.model,
        "sampler": "rectified flow",
        **protocol.to_dict(),
        "images": len(prompts) * clips_per_prompt,
        "prompts": {"count": len(prompts), "sha256": sha256_json(suite)},
        "chunk": shard.chunk,
        "decoder": "none",
        "uint8": UINT8_RULE,
        "evaluator": {"name": "mini-VBench (moving digits)", "sha256": observer.digest},
    }


def video_result(name: RunName, described: dict[str, Any], checkpoint: Path, shard: Shard) -> dict[str, Any]:
    """What metrics.json says besides the scores."""
    record = read_json(checkpoint / CONFIG_FILE)["record"]
    return {
        "run": {
            "setting": name.setting,
            "form": name.form,
            "label": name.label,
            **{key: record[key] for key in ("method", "weight_bits", "activation_bits", "scope", "options")},
            "allocation_sha256": record["allocation_sha256"],
        },
        "protocol": described,
        "protocol_sha256": sha256_json(described),
        "mode": shard.mode,
        "backend": shard.backend,
        "inputs": {
            "checkpoint_sha256": checkpoint_sha256(checkpoint),
            **{key: record[key] for key in ("weights_sha256", "calibration_sha256")},
        },
        "code": {
            "quantize": record["code"],
            "sample": code_digest("qdit.sampling.video_run"),
            "evaluate": code_digest("qdit.metrics.video.run"),
        },
        "packages": packages(),
        "size": {"actual_mb": size_actual_mb(checkpoint)},
    }
