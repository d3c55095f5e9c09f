"""Features of images: the output of an extractor, and the files `features-<n>.npz` with the features of each shard.

This module loads no torch. Extraction of features and reading of features are two steps.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from qdit.core.errors import DataError
from qdit.core.files import load_arrays, parse_json, save_arrays
from qdit.metrics.samples import Shard, listed_shards

if TYPE_CHECKING:
    from torch import Tensor

SPATIAL_CHANNELS = 7
"""Channels of the spatial layer that sFID uses (guided-diffusion's evaluator slices mixed_6 to its first 7)."""

Images: TypeAlias = "np.ndarray | Tensor"


@dataclass(frozen=True)
class Features:
    """Float32 features of N images.

    pool (N, d) is for FID, precision and recall; spatial (N, s) for sFID; logits without bias (N, c) for the inception
    score.
    """

    pool: np.ndarray
    spatial: np.ndarray
    logits: np.ndarray

    def __len__(self) -> int:
        return len(self.pool)


class Extractor(Protocol):
    """Interface of an extractor: a function from uint8 images (N, C, H, W) to their features.

    `digest` is the sha256 of the weights file. `classes_are_labels` says whether the class with the largest logit can
    be compared with the label of an image.
    """

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> str: ...

    @property
    def classes_are_labels(self) -> bool: ...

    def __call__(self, images: Images) -> Features: ...


@dataclass(frozen=True)
class Extraction:
    """Origin of features: the extractor, the sha256 of its weights, and the digest of the code."""

    extractor: str
    weights_sha256: str
    classes_are_labels: bool
    code: str


@dataclass(frozen=True)
class RunFeatures:
    """Features of a run's images in order, the images' labels (N,), and the origin of the features."""

    features: Features
    labels: np.ndarray
    made_by: Extraction


def features_path(folder: Path, shard: int) -> Path:
    """Path of the file with the features of one shard. It lies beside the shard's list of chunks."""
    return folder / f"features-{shard:03d}.npz"


def origin(shard: Shard, made_by: Extraction) -> str:
    """Text that names all things that a shard's features depend on: origin of the samples, chunks, extractor, code."""
    return json.dumps(samples_of(shard) | asdict(made_by), sort_keys=True)


def samples_of(shard: Shard) -> dict[str, Any]:
    """Identity of the samples from which features are computed: origin and key of the run, sha256 of each chunk."""
    return {"samples": shard.origin, "key": shard.key, "chunks": [list(chunk) for chunk in shard.chunks]}


def save_features(path: Path, run: RunFeatures, shard: Shard, *, first: int) -> None:
    """Write the features of one shard. `first` is the index of its first image."""
    layers = {name: getattr(run.features, name) for name in ("pool", "spatial", "logits")}
    origin_of = {"labels": run.labels, "first": np.int64(first), "origin": np.array(origin(shard, run.made_by))}
    save_arrays(path, layers | origin_of)


def read_features(folder: Path, *, images: int, extractor: str, weights_sha256: str) -> RunFeatures:
    """Read the features of images 0 … images − 1 of a run, which this extractor must have made.

    Raises DataError unless the features of every shard exist, belong to the listed chunks, and come from one extractor
    with these weights and one version of the code. The counts must agree too.
    """
    parts = [_read_shard(folder, shard) for shard in listed_shards(folder, images=images)]
    parts.sort(key=lambda shard_run: shard_run[0])
    count, code = 0, parts[0][1].made_by.code
    for first, shard_run in parts:
        made_by = shard_run.made_by
        if (made_by.extractor, made_by.weights_sha256) != (extractor, weights_sha256):
            raise DataError(
                f"{folder}: features are those of {made_by.extractor} with weights {made_by.weights_sha256[:12]}…,"
                f" evaluated is with {extractor} and {weights_sha256[:12]}…; run {_command(folder)} with these weights"
            )
        if made_by.code != code:
            raise DataError(f"{folder}: its shards' features were made by two versions of the code; {_again(folder)}")
        if first != count:
            raise DataError(f"{folder}: features of image {count} are missing, the next are of {first}; sample again")
        count += len(shard_run.labels)
    if count != images:
        raise DataError(f"{folder}: has features of {count} images, {images} are expected; {_again(folder)}")
    whole = [shard_run for _, shard_run in parts]
    pool, spatial, logits = (
        np.concatenate([getattr(shard_run.features, layer) for shard_run in whole])
        for layer in ("pool", "spatial", "logits")
    )
    labels = np.concatenate([shard_run.labels for shard_run in whole])
    return RunFeatures(Features(pool, spatial, logits), labels, whole[0].made_by)


def _read_shard(folder: Path, shard: Shard) -> tuple[int, RunFeatures]:
    """Number of the first image of a shard and its features, checked against its list of chunks."""
    if shard.failure is not None:
        raise DataError(f"{shard.path}: holds no images, {shard.failure.text}")
    path = features_path(folder, shard.number)
    if not path.is_file():
        raise DataError(f"{path}: no such file; run {_command(folder)} --shard {shard.number}")
    arrays = load_arrays(path)
    try:
        made_of = parse_json(str(arrays["origin"]))
        samples = {name: made_of.pop(name) for name in samples_of(shard)}
        run = RunFeatures(
            Features(arrays["pool"], arrays["spatial"], arrays["logits"]), arrays["labels"], Extraction(**made_of)
        )
        first = int(arrays["first"])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DataError(f"{path}: not the features of a shard; {_again(folder)}") from None
    if samples["key"] != shard.key:
        raise DataError(
            f"{path}: features of samples with the key {str(samples['key'])[:12]}…, {shard.path.name} has"
            f" {shard.key[:12]}…; {_again(folder)}"
        )
    if samples != samples_of(shard):
        raise DataError(f"{path}: not the features of the chunks that {shard.path.name} lists; {_again(folder)}")
    counts = {layer: len(arrays[layer]) for layer in ("labels", "pool", "spatial", "logits")}
    if len(set(counts.values())) > 1:
        raise DataError(f"{path}: holds {counts}, allowed is one number of images; {_again(folder)}")
    return first, run


def is_current(path: Path, shard: Shard, made_by: Extraction) -> bool:
    """Whether a features file is complete, and this extractor and code made it from these chunks."""
    if not path.exists():
        return False
    try:
        arrays: dict[str, Any] = load_arrays(path)
        return bool(str(arrays["origin"]) == origin(shard, made_by) and "logits" in arrays and "first" in arrays)
    except (DataError, KeyError):
        return False


def _command(folder: Path) -> str:
    return f"`qdit features {folder}`"


def _again(folder: Path) -> str:
    return f"run {_command(folder)} again"
