"""Files of a checkpoint folder, for steps that load no model: file names, digests, and the record of a failure."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qdit.core.errors import CheckpointError
from qdit.core.failure import Failure
from qdit.core.files import one_line, read_json, save_tensors, sha256_file, sha256_json, write_json

FORMAT, FAILURE_FORMAT = 4, 1
DIGEST_KEY = "sha256"
"""Where a configuration says the digest of its own content."""
TENSORS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
DIFFUSERS_TENSORS_FILE = "diffusion_pytorch_model.safetensors"
"""Tensors of a folder that the class of a transformer loads by its `from_pretrained`."""
QUANTIZER = "qdit"
"""Name of our quantizer in diffusers."""


def checkpoint_sha256(folder: Path) -> str:
    """Return the sha256 that identifies a checkpoint: the digest of its configuration (with the tensors' digest)."""
    return sha256_file(folder / CONFIG_FILE)


def own_digest(config: Mapping[str, Any]) -> str:
    """Compute the digest of a configuration's content, without the entry that stores this digest."""
    return sha256_json({name: value for name, value in config.items() if name != DIGEST_KEY})


def with_digest(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration as JSON, with the digest of its own content added."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(config)))
    return plain | {DIGEST_KEY: own_digest(plain)}


def require_unedited(config: Mapping[str, Any], *, where: str, remedy: str) -> None:
    """Raise CheckpointError unless the digest that a configuration stores is that of its content."""
    try:
        stated, digest = config.get(DIGEST_KEY), own_digest(config)
    except ValueError:
        raise CheckpointError(f"{where}: holds a number that is not finite; {remedy}") from None
    if stated is None:
        raise CheckpointError(f"{where}: gives no {DIGEST_KEY} of its content, so an edit cannot be detected; {remedy}")
    if stated != digest:
        raise CheckpointError(
            f"{where}: its content has sha256 {digest[:12]}…, it says {str(stated)[:12]}…: it was edited by hand or"
            f" damaged; {remedy}"
        )


def read_config(folder: Path) -> dict[str, Any]:
    """Read the configuration of a checkpoint; CheckpointError if it is missing or was edited."""
    if failure := read_failure(folder):
        raise CheckpointError(f"{folder}: holds no checkpoint, {failure.text}; quantize again")
    config = read_json(folder / CONFIG_FILE, error=CheckpointError)
    if isinstance(config, dict) and (inner := checkpoint_in_diffusers(config)) is not None:
        config = inner
    elif isinstance(config, dict) and "_class_name" in config:
        raise CheckpointError(
            f"{folder}: is a folder for diffusers ({config['_class_name']}), no checkpoint; give the folder that `qdit"
            " quantize` wrote"
        )
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        stored = config.get("format") if isinstance(config, dict) else type(config).__name__
        raise CheckpointError(f"{folder}: checkpoint format {stored!r}, this version reads {FORMAT}; quantize again")
    require_unedited(config, where=str(folder / CONFIG_FILE), remedy="quantize again")
    return config


def checkpoint_in_diffusers(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the part of a diffusers folder's config.json that describes the quantized checkpoint.

    Returns None without such a part, or if the folder does not state the digest of its tensors (folders of `qdit
    export` and `save_pretrained`).
    """
    quantization = config.get("quantization_config")
    if not isinstance(quantization, dict) or quantization.get("quant_method") != QUANTIZER:
        return None
    inner = quantization.get("checkpoint")
    return inner if isinstance(inner, dict) and "files" in inner else None


def tensors_file(config: Mapping[str, Any]) -> str:
    """Return the name of the file that holds a checkpoint's tensors."""
    return DIFFUSERS_TENSORS_FILE if DIFFUSERS_TENSORS_FILE in config["files"] else TENSORS_FILE


def write_failure(folder: Path, failure: Failure) -> None:
    """Write the folder of a quantization that failed: it holds the reason and no tensors."""
    save_tensors(folder / TENSORS_FILE, {})
    write_json(folder / CONFIG_FILE, {"format": FAILURE_FORMAT, **failure.to_dict()})


def read_failure(folder: Path) -> Failure | None:
    """Read the reason why the quantization of this folder failed; None if the folder holds a checkpoint."""
    config = read_json(folder / CONFIG_FILE, error=CheckpointError)
    try:
        return Failure.within(config)
    except (TypeError, ValueError) as problem:
        raise CheckpointError(
            f"{folder}: holds a failure that cannot be read ({one_line(problem)}); quantize again"
        ) from None
