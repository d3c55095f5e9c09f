"""The steps that take files from elsewhere into a run: official weights, and ADM's statistics of real images."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qdit.core.errors import CheckpointError, ConfigError, DataError
from qdit.core.files import sha256_file
from qdit.core.npz import stream_member
from qdit.metrics.extractors import load_extractor
from qdit.metrics.reference import import_adm_reference, save_reference
from qdit.models.loading import load_dit, load_model, save_model
from qdit.models.network import config_class, require_stdit3
from qdit.workflow.fetch import check_whole


def import_weights_file(
    source: Path, out: Path, *, shape: Mapping[str, Any], sha256: str | None, family: str = "dit"
) -> None:
    """Official weights (or a diffusers folder) → our format, with their name and digest in its metadata.

    `shape` says what differs from DiT-XL/2 at 256×256 or, of the family `stdit3`, from Open-Sora 1.2's. CheckpointError
    for a missing, damaged or other file, and for weights of another shape, ConfigError for those of another family.
    """
    kind = config_class(family)
    try:
        expected = kind(**shape)
    except TypeError as problem:
        raise ConfigError(f"--shape {dict(shape)}: {problem}; allowed are the fields of {kind.__name__}") from None
    if not source.is_dir() or sha256 is not None:
        check_whole(source, sha256)
    model = load_dit(source) if family == "dit" else require_stdit3(load_model(source), where=str(source))
    wrong = {
        name: (value, getattr(expected, name))
        for name, value in model.config.to_dict().items()
        if value != getattr(expected, name)
    }
    if wrong:
        said = ", ".join(f"{name} {found} instead of {value}" for name, (found, value) in wrong.items())
        raise CheckpointError(f"{source}: weights of another model, with {said}; fetch the ones that the profile names")
    digest = sha256_file(source) if source.is_file() else None
    save_model(out, model, metadata={"source": {"name": source.name, "sha256": digest}})


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
    """An ADM batch → our reference file; `resolution` is the side that its images must have, if that is known.

    Raises CheckpointError if the batch is missing or not the one that is meant, DataError for images of another size;
    both before any feature is computed.
    """
    check_whole(batch, sha256)
    for first in stream_member(batch, "arr_0", rows=1):
        height, width = first.shape[1:3]
        if resolution not in (None, height) or width != height:
            raise DataError(
                f"{batch}: holds images of {height}×{width} pixels, the models that it is the reference of make"
                f" {resolution}×{resolution}; give the batch of that resolution"
            )
        break
    save_reference(out, import_adm_reference(batch, load_extractor(extractor, weights, device=device)))
