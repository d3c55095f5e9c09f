"""Convert files from elsewhere for a run: official weights, and ADM's statistics of real images."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from qdit.core.errors import CheckpointError, ConfigError, DataError
from qdit.core.files import write_bytes
from qdit.core.npz import member_names
from qdit.metrics.extractors import load_extractor
from qdit.metrics.reference import (
    DIGEST,
    Reference,
    check_adm_images,
    import_adm_reference,
    load_reference,
    make_reference,
    save_reference,
)
from qdit.models.config import STDiT3Config
from qdit.models.loading import read_model, save_import
from qdit.models.network import config_class
from qdit.models.stdit3_state import HIDDEN
from qdit.workflow.fetch import check_whole

OPEN_SORA = {field.name: field.default for field in fields(STDiT3Config)}
"""What is assumed of an STDiT3 where neither the file nor `--shape` says it."""


def import_weights_file(
    source: Path, out: Path, *, shape: Mapping[str, Any], sha256: str | None, family: str = "dit"
) -> Mapping[str, Any]:
    """Convert official weights (or a diffusers folder) to our format. The metadata keep their name and digest.

    `shape` holds the settings that differ from DiT-XL/2 at 256×256 (family `stdit3`: from Open-Sora 1.2). Settings
    that the file does not give are taken from `shape`. Returns the settings that are in neither and were assumed.
    Raises CheckpointError for a missing or damaged file and for weights of another shape. Raises ConfigError for
    weights of another family.
    """
    kind = config_class(family)
    usual = {field.name: field.default for field in fields(kind)}
    if unknown := [name for name in shape if name not in usual]:
        raise ConfigError(
            f"--shape {dict(shape)}: unknown {', '.join(unknown)}; allowed are the fields of {kind.__name__}:"
            f" {', '.join(usual)}"
        )
    if not source.is_dir() or sha256 is not None:
        check_whole(source, sha256)
    unseen = ("num_heads",) if family == "dit" else HIDDEN
    stated = {name: shape[name] for name in unseen if name in shape}
    loaded = read_model(source, settings=stated, usual=OPEN_SORA, family=family)
    expected = usual | dict(shape)
    wrong = {
        name: (value, expected[name])
        for name, value in loaded.model.config.to_dict().items()
        if value != expected[name] and name not in loaded.assumed
    }
    if wrong:
        shapes = ", ".join(f"{name} {actual} instead of {value}" for name, (actual, value) in wrong.items())
        raise CheckpointError(
            f"{source}: weights of another model, with {shapes}; fetch the ones that the profile names"
        )
    save_import(source, out, loaded)
    return loaded.assumed


def import_reference_file(
    batch: Path,
    out: Path,
    *,
    extractor: str,
    weights: Path,
    sha256: str | None,
    resolution: int | None = None,
    device: str = "cpu",
) -> None:
    """Convert an ADM batch (npz of real images or their statistics) to our reference file.

    `resolution` is the required side of its images, if it is known. A file that `qdit reference` wrote already has our
    format; it is checked and copied. Raises CheckpointError if the batch is missing or has another digest, and
    DataError for images of another size, or for a reference of another extractor. All are raised before any feature is
    computed.
    """
    check_whole(batch, sha256)
    if DIGEST in member_names(batch):
        require_extractor(batch, extractor, load_extractor(extractor, weights).digest)
        write_bytes(out, batch.read_bytes())
        return
    height, width = check_adm_images(batch)
    if resolution not in (None, height) or width != height:
        raise DataError(
            f"{batch}: holds images of {height}×{width} pixels, the models that it is the reference of make"
            f" {resolution or height}×{resolution or height}; give the batch of that resolution"
        )
    save_reference(out, import_adm_reference(batch, load_extractor(extractor, weights, device=device)))


def require_extractor(path: Path, extractor: str, digest: str) -> None:
    """Raise DataError unless a reference file was made with the extractor of this name and these weights."""
    origin = load_reference(path).origin
    if origin is None or (origin.extractor, origin.extractor_digest) != (extractor, digest):
        made_with = "an unknown one" if origin is None else f"{origin.extractor} {origin.extractor_digest[:12]}…"
        raise DataError(
            f"{path}: the statistics are of another extractor: found {made_with}, the profile says {extractor}"
            f" {digest[:12]}…; make the file again with qdit reference"
        )


def make_reference_file(
    data: Path, out: Path, *, extractor: str, weights: Path, device: str = "cpu", images_only: bool = False
) -> Reference:
    """Convert the user's images (a folder of PNGs, an npz) or an npz of statistics to our reference file.

    With `images_only` the statistics are computed from the images of an npz, even if the npz has ready statistics.
    """
    if not data.exists():
        raise DataError(
            f"{data}: no such file or folder; give a folder of PNGs, an npz of images, or one of statistics"
        )
    reference = make_reference(data, load_extractor(extractor, weights, device=device), images_only=images_only)
    save_reference(out, reference)
    return reference
