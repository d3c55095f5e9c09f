"""Images of another program are a row of their own: no checkpoint, no bits, and all metrics of images."""

from pathlib import Path
from typing import Any

import pytest

from qdit.core.errors import ConfigError, DataError
from qdit.core.files import read_json
from qdit.core.metrics_record import read_record
from qdit.core.run import IMPORTED
from qdit.metrics.export import export_images
from qdit.metrics.extraction import extract_file
from qdit.metrics.imported import import_images
from qdit.metrics.job import EvaluateJob, RunName
from qdit.metrics.run import Evaluator, evaluate_run
from qdit.mini.reference import make_mini_reference
from qdit.quant.checkpoint import Quantized, save_checkpoint
from qdit.report.data.metrics_json import read_folder
from qdit.sampling.protocol import Protocol
from qdit.sampling.run import SampleJob, sample_checkpoint
from tests.small_models import random_dit

EXTRACTOR, WEIGHTS = "digit-classifier", Path("weights/digit-classifier.safetensors")
RECORD = {
    "method": "fp",
    "weight_bits": 16,
    "activation_bits": 16,
    "scope": "common",
    "options": {},
    "allocation_sha256": None,
    "code": "0",
    "weights_sha256": "1",
    "calibration_sha256": {},
}
COUNT = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples of full precision and the same images imported, with labels and without, all with their features."""
    root = tmp_path_factory.mktemp("imported")
    for name, bits in (("fp", 16), ("w4", 4)):
        save_checkpoint(root / name, Quantized(random_dit()), RECORD | {"weight_bits": bits})
        job = SampleJob(root / name, root / f"{name}-samples", Protocol(steps=2, cfg_scale=1.0), samples=COUNT, chunk=8)
        sample_checkpoint(job)
    for name in ("images.npz", "pngs"):
        export_images(root / "fp-samples", root / name)
    import_images(root / "images.npz", root / "labelled", chunk=5)
    import_images(root / "pngs", root / "unlabelled", chunk=5)
    for name in ("fp-samples", "w4-samples", "labelled", "unlabelled"):
        extract_file(root / name, None, EXTRACTOR, WEIGHTS)
    make_mini_reference("digits", EXTRACTOR, WEIGHTS, root / "reference.npz")
    return root


def evaluated(folder: Path, samples: str, out: Path, *, checkpoint: str | None = None, **changes: Any) -> Any:
    name = RunName(setting="a", model="b", form="natural", label="other program")
    path = None if checkpoint is None else folder / checkpoint
    job = EvaluateJob(folder / samples, path, out, name, resamples=20, **changes)
    evaluate_run(job, Evaluator(EXTRACTOR, WEIGHTS, "digits", folder / "reference.npz"))
    return read_json(out)


def test_imported_images_have_the_metrics_of_the_same_images_sampled(folder: Path, tmp_path: Path) -> None:
    full = {"fp_samples": folder / "fp-samples"}
    sampled = evaluated(folder, "fp-samples", tmp_path / "a.json", checkpoint="fp", **full)
    imported = evaluated(folder, "labelled", tmp_path / "b.json", **full)
    assert imported["metrics"] == sampled["metrics"] and imported["metrics"]["mse_fp"] == 0
    assert imported["intervals"] == sampled["intervals"]
    without = evaluated(folder, "unlabelled", tmp_path / "c.json", **full)["metrics"]
    assert without == sampled["metrics"] | {"class_accuracy": None}


def test_the_record_says_imported_and_claims_nothing_else(folder: Path, tmp_path: Path) -> None:
    content = evaluated(folder, "labelled", tmp_path / "metrics.json")
    assert content["metrics"]["fd_fp"] is None and content["metrics"]["fid"] > 0
    assert content["run"]["method"] == content["mode"] == content["protocol"]["sampler"] == IMPORTED
    assert (
        content["run"]["weight_bits"] is content["size"]["paper_mb"] is content["inputs"]["checkpoint_sha256"] is None
    )
    assert content["protocol"]["source"]["name"] == "images.npz" and "steps" not in content["protocol"]
    record = read_record(tmp_path / "metrics.json")
    assert record.is_imported and record.of.mode == record.of.bits == IMPORTED and record.of.label == "other program"
    assert record.metrics["fid"] == content["metrics"]["fid"]
    row = read_folder(tmp_path)
    assert (row["method"], row["fid"], row["size_mb"]) == (IMPORTED, content["metrics"]["fid"], None)


def test_what_imported_images_cannot_have_is_refused(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "metrics.json"
    with pytest.raises(ConfigError, match="imported samples, which have no checkpoint; leave --checkpoint out"):
        evaluated(folder, "labelled", out, checkpoint="fp")
    with pytest.raises(ConfigError, match="steps 2, --steps says 3; leave the flag out"):
        evaluated(folder, "labelled", out, stated={"steps": 3})
    with pytest.raises(ConfigError, match="were sampled from a checkpoint; give it with --checkpoint"):
        evaluated(folder, "fp-samples", out)
    with pytest.raises(DataError, match="fp w4a16, full precision is"):
        evaluated(folder, "labelled", out, fp_samples=folder / "w4-samples")
    assert not out.exists()


def test_full_precision_has_as_many_images(folder: Path, tmp_path: Path) -> None:
    job = SampleJob(folder / "fp", tmp_path / "more", Protocol(steps=2, cfg_scale=1.0), samples=COUNT + 4, chunk=8)
    sample_checkpoint(job)
    with pytest.raises(DataError, match=f"is a run of {COUNT + 4} images, {COUNT} are expected"):
        evaluated(folder, "labelled", tmp_path / "metrics.json", fp_samples=tmp_path / "more")
