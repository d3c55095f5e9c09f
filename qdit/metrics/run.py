"""The step sample chunks → metrics.json: everything a table row says about a run, and what it was made of."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qdit.artifacts import read_json, sha256_file, sha256_json, write_json
from qdit.data.digits import UINT8_RULE, load, to_uint8
from qdit.digest import code_digest
from qdit.errors import DataError
from qdit.metrics.evaluate import FullPrecision, evaluate, full_precision
from qdit.metrics.features import load_extractor
from qdit.metrics.reference import build_reference, load_reference, save_reference
from qdit.metrics.samples import read_samples
from qdit.models.dit import DiTConfig
from qdit.models.roles import CORE_ROLES
from qdit.provenance import packages
from qdit.quant.checkpoint import CONFIG_FILE, checkpoint_sha256
from qdit.quant.size import dit_shape, size_actual_mb, size_paper_mb
from qdit.sampling.protocol import Protocol


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


def make_digits_reference(extractor: str, weights: Path, out: Path) -> None:
    """Reference statistics of all 1,797 digits."""
    save_reference(out, build_reference(to_uint8(load("all").images), load_extractor(extractor, weights)))


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
) -> None:
    """Evaluate the images of a run and write metrics.json; `fp_samples` are those of full precision, same noise."""
    extractor = load_extractor(evaluator.extractor, evaluator.extractor_weights)
    pictures, labels = read_samples(samples, images=images)
    fp: FullPrecision | None = None
    if fp_samples is not None:
        fp = full_precision(*read_samples(fp_samples, images=images), extractor=extractor)
    reference = load_reference(evaluator.reference_file)
    metrics = evaluate(pictures, labels, extractor=extractor, reference=reference, fp=fp)
    config = read_json(checkpoint / CONFIG_FILE)
    listing = first_listing(samples)
    described = {
        "model": name.model,
        **protocol.to_dict(),
        "images": images,
        "chunk": listing["chunk"],
        "decoder": "none",
        "uint8": UINT8_RULE,
        "reference": {"name": evaluator.reference, "sha256": sha256_file(evaluator.reference_file)},
        "evaluator": {"name": evaluator.extractor, "sha256": sha256_file(evaluator.extractor_weights)},
    }
    record = config["record"]
    result = {
        "run": {
            "setting": name.setting,
            "form": name.form,
            "label": name.label,
            **{key: record[key] for key in ("method", "weight_bits", "activation_bits", "scope", "options")},
            "allocation_sha256": record["allocation_sha256"],
        },
        "protocol": described,
        "protocol_sha256": sha256_json(described),
        "mode": "simulate",
        "backend": listing["backend"],
        "inputs": {
            "checkpoint_sha256": checkpoint_sha256(checkpoint),
            **{key: record[key] for key in ("weights_sha256", "calibration_sha256")},
        },
        "code": {
            "quantize": record["code"],
            "sample": code_digest("qdit.sampling.run"),
            "evaluate": code_digest("qdit.metrics.run"),
        },
        "packages": packages(),
        "metrics": metrics,
        "size": sizes(checkpoint, config),
    }
    write_json(out, result)


def first_listing(samples: Path) -> dict[str, Any]:
    """What the sample jobs wrote about a run: its chunk size and backend."""
    listings = sorted(samples.glob("shard-*.json"))
    if not listings:
        raise DataError(f"{samples}: no shard-*.json; run the sample step first")
    listing = read_json(listings[0])
    if not isinstance(listing, dict) or not {"chunk", "backend"} <= listing.keys():
        raise DataError(f"{listings[0]}: not the list of a sample job; run the sample step again")
    return listing


def sizes(checkpoint: Path, config: dict[str, Any]) -> dict[str, float]:
    """Size in MB by the papers' accounting and as stored."""
    model = DiTConfig(**config["model"]["config"])
    core = {layer.name for layer in dit_shape(model).with_roles(CORE_ROLES)}
    group_sizes = {
        name: site["shape"][1] // site["groups"][1] if site["groups"][1] > 1 else None
        for name, site in config["sites"].items()
        if site["groups"] and name in core
    }
    grouped = group_sizes if any(group_sizes.values()) else None
    paper = size_paper_mb(model, weight_bits=config["record"]["weight_bits"], group_sizes=grouped)
    return {"paper_mb": paper, "actual_mb": size_actual_mb(checkpoint)}
