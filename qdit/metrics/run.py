"""The step that makes metrics.json from features and sample chunks: the numbers of a table row and their origin.

Nothing here loads torch, so that a process of this step is ready in a second.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from qdit.core.digest import code_digest
from qdit.core.errors import DataError
from qdit.core.files import sha256_file, sha256_json
from qdit.core.intervals import LEVEL, write_resamples
from qdit.core.metrics import modules_of_images
from qdit.core.metrics_record import MetricsRecord, write_record
from qdit.core.pixels import UINT8_RULE
from qdit.core.provenance import packages
from qdit.core.run import IMPORTED, PIPELINE
from qdit.metrics.bootstrap import bootstrap, intervals
from qdit.metrics.evaluate import evaluate
from qdit.metrics.features import RunFeatures, read_features
from qdit.metrics.images import FullPrecision
from qdit.metrics.job import EvaluateJob, SampledRun, open_run
from qdit.metrics.judged import FEATURES, Judged, JudgeOrigin, judged_file, read_judged, require_judge
from qdit.metrics.paired import PixelComparison, stream_comparison, stream_errors
from qdit.metrics.perceptual_file import LpipsOrigin, read_values
from qdit.metrics.reference import load_reference
from qdit.metrics.resampled_frechet import resampling_method
from qdit.metrics.samples import Shard, stream_samples
from qdit.metrics.statistics import Moments
from qdit.models.config import DiffusersConfig, DiTConfig, STDiT3Config
from qdit.quant.folder import checkpoint_sha256, read_config
from qdit.quant.size import size_actual_mb, size_counted_mb
from qdit.quant.size_generic import size_of_generic_mb

RUN_FACTS = ("method", "weight_bits", "activation_bits", "scope", "options", "allocation_sha256")
"""What metrics.json repeats of a checkpoint's record."""
PIPELINES = DiffusersConfig.family
"""Family of images that a whole pipeline of diffusers made."""


@dataclass(frozen=True)
class Evaluator:
    """Files with which images are scored: extractor weights and reference statistics, with their names in the profile.

    `lpips` is a file of `qdit perceptual`, if there is one. `judged` are files of `qdit judge` by judge;
    `judge_references` are files of `qdit reference` with the features of a judge.
    """

    extractor: str
    extractor_weights: Path
    reference: str
    reference_file: Path
    lpips: Path | None = None
    judged: Mapping[str, Path] = field(default_factory=dict)
    judge_references: Mapping[str, Path] = field(default_factory=dict)


def evaluate_run(job: EvaluateJob, evaluator: Evaluator) -> None:
    """Evaluate the images of a run and write metrics.json.

    The resampled values of each metric go to `bootstrap.npz` beside it; `qdit compare` uses them. If an earlier step of
    the run or of full precision failed and recorded this, the record of the failure is written instead.
    """
    if (sampled := open_run(job)) is None:
        return
    images = sampled.count
    weights_sha256 = sha256_file(evaluator.extractor_weights)

    def features_of(folder: Path) -> RunFeatures:
        return read_features(folder, images=images, extractor=evaluator.extractor, weights_sha256=weights_sha256)

    run = features_of(job.samples)
    fp: FullPrecision | None = None
    comparison: dict[str, Any] | None = None
    if job.fp_samples is not None and sampled.origin.may_be_paired:
        lpips = read_lpips(job, evaluator, images)
        pixels = compared_pixels(job.samples, job.fp_samples, images)
        fp = FullPrecision(features_of(job.fp_samples), pixels, None if lpips is None else lpips[0])
        comparison = pixels.record | ({} if lpips is None else {"lpips": lpips[1].weights})
    judged, judges = read_judges(job, evaluator, images, is_paired=fp is not None)
    reference = load_reference(evaluator.reference_file)
    metrics = evaluate(run, reference=reference, fp=fp, judged=judged)
    described = {
        "model": job.name.model,
        **image_protocol(sampled),
        "reference": {"name": evaluator.reference, "sha256": sha256_file(evaluator.reference_file)},
        "evaluator": {"name": evaluator.extractor, "sha256": weights_sha256},
        **({"judges": judges} if judges else {}),
    }
    frames = max(1, int(sampled.origin.protocol.get("frames", 0))) if sampled.origin.family == PIPELINES else 1
    resampled = bootstrap(run, reference=reference, fp=fp, judged=judged, resamples=job.resamples, frames=frames)
    methods = {layer: resampling_method(*getattr(run.features, layer).shape) for layer in ("pool", "spatial")}
    drawing = {"level": LEVEL, "resampled": "images", "pairing": resampled.pairing, "distances": methods}
    code = {
        "sample": sampled.code,
        "features": run.made_by.code,
        "evaluate": code_digest("qdit.metrics.run", *modules_of_images()),
    }
    content = made_by(job, described, sampled, code=code)
    content |= {"metrics": metrics, "intervals": intervals(metrics, resampled), "bootstrap": drawing}
    difference = latent_difference(sampled.shards)
    write_resamples(job.out.parent, resampled)
    write_record(job.out, MetricsRecord(**content, paired=comparison, difference=difference))


def read_lpips(job: EvaluateJob, evaluator: Evaluator, images: int) -> tuple[np.ndarray, LpipsOrigin] | None:
    """Read the LPIPS (N,) of the images and its origin. None without full precision or without a file."""
    if job.fp_samples is None or evaluator.lpips is None:
        return None
    return read_values(evaluator.lpips, samples=job.samples, fp_samples=job.fp_samples, images=images)


def read_judges(
    job: EvaluateJob, evaluator: Evaluator, images: int, *, is_paired: bool
) -> tuple[Judged, dict[str, Any]]:
    """Read the judges' scores or features of the images; also return their files, for metrics.json.

    Judges without values are left out. DataError for values of other images, and for full-precision features by other
    weights.
    """
    scores: dict[str, np.ndarray] = {}
    features: dict[str, np.ndarray] = {}
    fp_features: dict[str, np.ndarray] = {}
    references: dict[str, Moments] = {}
    record: dict[str, Any] = {}
    for judge, path in evaluator.judged.items():
        judged = read_judged(path, samples=job.samples, images=images, judge=require_judge(judge))
        if judged is None:
            continue
        values, origin = judged
        record[judge] = {"files": dict(origin.files), "code": origin.code}
        (features if judge in FEATURES else scores)[judge] = values
        if judge not in FEATURES:
            continue
        if is_paired and job.fp_samples is not None:
            fp_path = judged_file(job.fp_samples, judge)
            full = read_judged(fp_path, samples=job.fp_samples, images=images, judge=judge)
            if full is None or full[1].files != origin.files:
                raise DataError(f"{fp_path}: is of other weights than {path}; run `qdit judge` again on both")
            fp_features[judge] = full[0]
        if judge in evaluator.judge_references:
            references[judge] = reference_moments(evaluator.judge_references[judge], origin)
            record[judge]["reference_sha256"] = sha256_file(evaluator.judge_references[judge])
    return Judged(scores, features, fp_features, references), record


def reference_moments(path: Path, origin: JudgeOrigin) -> Moments:
    """Read the moments of real images' features by a judge; DataError for a reference made with other weights."""
    reference = load_reference(path)
    if reference.extractor_digest != origin.files.get("weights"):
        raise DataError(
            f"{path}: was made with weights {reference.extractor_digest[:12]}…, {origin.judge} judged with"
            f" {origin.files.get('weights', '')[:12]}…; make the reference again"
        )
    return reference.pool


def image_protocol(sampled: SampledRun) -> dict[str, Any]:
    """Protocol of a run's images for metrics.json; for imported images also the source file."""
    size: dict[str, Any] = {"images": sampled.count, "chunk": sampled.shards[0].chunk}
    if sampled.origin.family == PIPELINES:
        size |= {"prompts": dict(sampled.origin.prompts or {})}
    if sampled.origin.is_imported:
        stated = {"stated": dict(sampled.origin.protocol)} if sampled.origin.protocol else {}
        return {"sampler": IMPORTED, "source": sampled.origin.model["source"], **stated, **size}
    protocol = sampled.protocol
    facts = {"sampler": PIPELINE} if sampled.origin.family == PIPELINES else {}
    return {**facts, **protocol.to_dict(), **size, "decoder": protocol.decoder, "uint8": UINT8_RULE}


def made_by(
    job: EvaluateJob, described: dict[str, Any], sampled: SampledRun, *, code: dict[str, str]
) -> dict[str, Any]:
    """The part of metrics.json that tells where the numbers come from.

    `described` is the protocol, `code` the digest of each step's code.
    """
    facts = imported_facts(sampled, job.claimed) if job.checkpoint is None else checkpoint_facts(job.checkpoint)
    name, shard = job.name, sampled.shards[0]
    return {
        "run": {"setting": name.setting, "form": name.form, "label": name.label, **facts["run"], **name.replicates},
        "protocol": described,
        "protocol_sha256": sha256_json(described),
        "mode": shard.mode,
        "backend": shard.backend,
        "inputs": facts["inputs"],
        "code": {**facts["code"], **code},
        "packages": packages(),
        "size": facts["size"],
    }


def checkpoint_facts(checkpoint: Path) -> dict[str, dict[str, Any]]:
    """Facts about a checkpoint for metrics.json: its run, its inputs, digests of its code, its size."""
    config = read_config(checkpoint)
    record = config["record"]
    return {
        "run": {key: record[key] for key in RUN_FACTS},
        "inputs": {
            "checkpoint_sha256": checkpoint_sha256(checkpoint),
            **{key: record[key] for key in ("weights_sha256", "calibration_sha256")},
        },
        "code": {"quantize": record["code"]},
        "size": sizes(checkpoint, config),
    }


def imported_facts(sampled: SampledRun, claimed: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Facts about imported samples for metrics.json. Checkpoint and size are unknown; the importer claims the bits."""
    return {
        "run": dict.fromkeys(RUN_FACTS) | {"method": IMPORTED, "options": {}} | dict(claimed),
        "inputs": {
            "checkpoint_sha256": None,
            "weights_sha256": None,
            "calibration_sha256": {},
            "samples_sha256": sampled.origin.model["source"]["sha256"],
        },
        "code": {},
        "size": {"paper_mb": None, "actual_mb": None},
    }


def paired_errors(samples: Path, fp_samples: Path, images: int) -> np.ndarray:
    """Mean squared difference (N,) of each image to the full-precision image. Two chunks are in memory at a time."""
    return stream_errors(images_of(samples, images), images_of(fp_samples, images))


def compared_pixels(samples: Path, fp_samples: Path, images: int) -> PixelComparison:
    """Compare each image with the full-precision image of the same index. Two chunks are in memory at a time."""
    return stream_comparison(images_of(samples, images), images_of(fp_samples, images))


def images_of(folder: Path, images: int) -> Iterator[np.ndarray]:
    """Yield the images of a run, chunk by chunk."""
    return (chunk.images for chunk in stream_samples(folder, images=images))


def latent_difference(shards: Sequence[Shard]) -> dict[str, float] | None:
    """Difference between integer and simulated latents: number of images, largest and mean absolute value.

    None if the lists of chunks hold no difference.
    """
    differences = [shard.difference for shard in shards if shard.difference is not None]
    if not differences:
        return None
    images = sum(difference["images"] for difference in differences)
    mean = sum(difference["mean"] * difference["images"] for difference in differences) / images
    return {"images": images, "largest": max(difference["largest"] for difference in differences), "mean": mean}


def sizes(checkpoint: Path, config: dict[str, Any]) -> dict[str, float]:
    """Size of a checkpoint in MB, as the papers count it and as the file is stored."""
    if config["model"]["family"] == PIPELINES:
        return {"paper_mb": size_of_generic_mb(checkpoint, config["sites"]), "actual_mb": size_actual_mb(checkpoint)}
    model = {"dit": DiTConfig, "stdit3": STDiT3Config}[config["model"]["family"]](**config["model"]["config"])
    paper = size_counted_mb(model, weight_bits=config["record"]["weight_bits"], sites=config["sites"])
    return {"paper_mb": paper, "actual_mb": size_actual_mb(checkpoint)}
