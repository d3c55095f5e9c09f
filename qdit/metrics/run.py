"""The step features and sample chunks → metrics.json: all that a table row says about a run, and what it was made of.

Nothing here loads torch, so that a process of this step is ready in a second.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from typing import Protocol as Interface

import numpy as np

from qdit.core.digest import code_digest
from qdit.core.errors import DataError
from qdit.core.failure import Failure, say
from qdit.core.files import read_json, sha256_file, sha256_json
from qdit.core.intervals import LEVEL, Replicates, write_replicates
from qdit.core.metrics import modules_of_images
from qdit.core.metrics_record import MetricsRecord, Status, without_numbers, write_record
from qdit.core.pixels import UINT8_RULE
from qdit.core.provenance import packages
from qdit.metrics.bootstrap import RESAMPLES, bootstrap, intervals
from qdit.metrics.evaluate import evaluate
from qdit.metrics.features import RunFeatures, read_features
from qdit.metrics.images import FullPrecision
from qdit.metrics.paired import stream_errors
from qdit.metrics.reference import load_reference
from qdit.metrics.samples import Shard, listed_shards, stream_samples
from qdit.models.config import DiTConfig, STDiT3Config
from qdit.models.roles import CORE_ROLES
from qdit.quant.folder import CONFIG_FILE, checkpoint_sha256, read_failure
from qdit.quant.size import shape_of, size_actual_mb, size_paper_mb
from qdit.sampling.protocol import NO_DECODER, Protocol


@dataclass(frozen=True)
class RunName:
    """How a profile names a run: its setting, the form of the weights, the label of the method."""

    setting: str
    model: str
    form: str
    label: str


@dataclass(frozen=True)
class Evaluator:
    """Extractor weights and reference statistics, with the names they have in the profile."""

    extractor: str
    extractor_weights: Path
    reference: str
    reference_file: Path


def evaluate_run(
    samples: Path,
    checkpoint: Path,
    out: Path,
    *,
    name: RunName,
    protocol: Protocol,
    images: int,
    evaluator: Evaluator,
    fp_samples: Path | None,
    resamples: int = RESAMPLES,
) -> None:
    """Evaluate the images of a run and write metrics.json; `fp_samples` are those of full precision, same noise.

    Beside it goes `bootstrap.npz`, `resamples` values of each metric behind its interval, with which two runs can be
    compared. A failure that an earlier step recorded, of the run or of full precision, is written instead.
    """
    if failure := read_failure(checkpoint) or sampling_failure(samples, images):
        write_error(out, failure)
        return
    if fp_samples is not None and (failure := sampling_failure(fp_samples, images)):
        write_error(out, failure, of="full precision")
        return
    weights_sha256 = sha256_file(evaluator.extractor_weights)

    def features_of(folder: Path) -> RunFeatures:
        return read_features(folder, images=images, extractor=evaluator.extractor, weights_sha256=weights_sha256)

    run = features_of(samples)
    fp: FullPrecision | None = None
    if fp_samples is not None:
        fp = FullPrecision(features_of(fp_samples), paired_errors(samples, fp_samples, images))
    reference = load_reference(evaluator.reference_file)
    metrics = evaluate(run, reference=reference, fp=fp)
    shards = listed_shards(samples, images=images)
    shard = shards[0]
    check_made_so(shards, protocol)
    described = {
        "model": name.model,
        **protocol.to_dict(),
        "images": images,
        "chunk": shard.chunk,
        "decoder": protocol.decoder,
        "uint8": UINT8_RULE,
        "reference": {"name": evaluator.reference, "sha256": sha256_file(evaluator.reference_file)},
        "evaluator": {"name": evaluator.extractor, "sha256": weights_sha256},
    }
    replicates = bootstrap(run, reference=reference, fp=fp, resamples=resamples)
    drawing = {"level": LEVEL, "resampled": "images", "pairing": replicates.pairing}
    code = {
        "sample": code_digest("qdit.sampling.integer" if shard.mode == "integer" else "qdit.sampling.run"),
        "features": run.made_by.code,
        "evaluate": code_digest("qdit.metrics.run", *modules_of_images()),
    }
    own = made_by(name, described, shard, checkpoint, code=code)
    own |= {"metrics": metrics, "intervals": intervals(metrics, replicates), "bootstrap": drawing}
    difference = latent_difference(shards)
    write_replicates(out.parent, replicates)
    write_record(out, MetricsRecord(**own, difference=difference))


def made_by(
    name: RunName, described: dict[str, Any], shard: Shard, checkpoint: Path, *, code: dict[str, str]
) -> dict[str, Any]:
    """What metrics.json says of a run besides its numbers; `described` is the protocol, `code` digests by step."""
    config = read_json(checkpoint / CONFIG_FILE)
    record = config["record"]
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
        "code": {"quantize": record["code"], **code},
        "packages": packages(),
        "size": sizes(checkpoint, config),
    }


class HowMade(Interface):
    """What the protocols of images and of clips both say."""

    @property
    def dtype(self) -> str: ...
    @property
    def decoder(self) -> str: ...


def check_made_so(shards: Sequence[Shard], protocol: HowMade) -> None:
    """Raise DataError unless the images were made in the precision and with the decoder that the protocol says."""
    for shard in shards:
        listing = read_json(shard.path)
        for name, usual, flag in (("dtype", "float32", "--dtype"), ("decoder", NO_DECODER, "--vae")):
            if (found := listing.get(name, usual)) != (asked := getattr(protocol, name)):
                raise DataError(
                    f"{shard.path}: images were made with {name} {found}, {asked} was asked for; give the {flag} they"
                    " were sampled with, or sample again"
                )


def paired_errors(samples: Path, fp_samples: Path, images: int) -> np.ndarray:
    """Mean squared difference of each image to full precision's, two chunks in memory at a time."""
    own, full = (stream_samples(folder, images=images) for folder in (samples, fp_samples))
    return stream_errors((chunk.images for chunk in own), (chunk.images for chunk in full))


def latent_difference(shards: Sequence[Shard]) -> dict[str, float] | None:
    """Of integer latents to simulated ones: `images` compared, `largest` and `mean` absolute difference."""
    found = [shard.difference for shard in shards if shard.difference is not None]
    if not found:
        return None
    images = sum(part["images"] for part in found)
    mean = sum(part["mean"] * part["images"] for part in found) / images
    return {"images": images, "largest": max(part["largest"] for part in found), "mean": mean}


def sampling_failure(samples: Path, images: int) -> Failure | None:
    """The first failure that a shard's list holds."""
    return next((shard.failure for shard in listed_shards(samples, images=images) if shard.failure), None)


def write_error(out: Path, failure: Failure, *, of: str = "") -> None:
    """A metrics.json without numbers: tables show the reason. `of`: whose failure it is, if not the run's own."""
    text = f"{of}: {failure.text}" if of else failure.text
    status = Status.MISSING if of else Status(failure.kind)
    write_replicates(out.parent, Replicates({}, "none"))
    write_record(out, without_numbers(status, text))
    say(text)


def sizes(checkpoint: Path, config: dict[str, Any]) -> dict[str, float]:
    """Size in MB by the papers' accounting and as stored."""
    model = {"dit": DiTConfig, "stdit3": STDiT3Config}[config["model"]["family"]](**config["model"]["config"])
    core = {layer.name for layer in shape_of(model).with_roles(CORE_ROLES)}
    group_sizes = {
        name: site["shape"][1] // site["groups"][1] if site["groups"][1] > 1 else None
        for name, site in config["sites"].items()
        if site["groups"] and name in core
    }
    grouped = group_sizes if any(group_sizes.values()) else None
    paper = size_paper_mb(model, weight_bits=config["record"]["weight_bits"], group_sizes=grouped)
    return {"paper_mb": paper, "actual_mb": size_actual_mb(checkpoint)}
