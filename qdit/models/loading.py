"""Loading and saving of DiT weights: our safetensors, the official .pt, diffusers folders; anything else is refused.

Whatever is wrong with a file is a CheckpointError of one line. Nothing in a file is ever executed: safetensors hold
no code, and official .pt files are read with torch's weights-only unpickler, here and nowhere else in the repository.
"""

import argparse
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qdit.artifacts import load_tensors, save_tensors, sha256_file
from qdit.errors import CheckpointError, ConfigError
from qdit.models.diffusers_format import from_diffusers, read_folder, to_diffusers, use_original_frequencies
from qdit.models.dit import DiT, DiTConfig
from qdit.models.manifest import check_file, verify_manifest, write_manifest
from qdit.models.state import build, check_values, infer_config, one_line, read_config, require_plain

__all__ = [
    "from_diffusers",
    "import_official",
    "load_model",
    "save_model",
    "to_diffusers",
    "use_original_frequencies",
    "verify_manifest",
    "write_manifest",
]

CONFIG_KEY = "model"
"""Metadata key of the DiTConfig in our files."""

OFFICIAL_SUFFIXES = (".pt", ".pth")


def load_model(path: Path, *, sha256: str | None = None, num_heads: int | None = None) -> DiT:
    """DiT in eval mode and float32 from a file or folder of weights.

    path        our `.safetensors` (its metadata holds the configuration), an official or train.py `.pt` (plain
                state dict, or a dictionary with `ema`), or a diffusers DiTTransformer2DModel folder.
    sha256      hex digest that the file must have; without it, a `manifest.json` beside the file that lists it
                is used.
    num_heads   attention heads, for files that do not store the configuration and are none of DiT-S, B, L, XL.

    A diffusers folder gives the original's function, not diffusers' (see qdit/models/diffusers_format.py).
    Raises CheckpointError for a missing, damaged, foreign or malicious file, and for tensors that are missing, not
    expected, of another shape, not floating point or not finite.
    """
    where = str(path)
    if path.is_dir():
        if sha256 is not None:
            raise ConfigError(f"{path}: sha256 is for single files; a folder is checked by its manifest.json")
        state, config = read_folder(path)
    else:
        check_file(path, sha256)
        if path.suffix == ".safetensors":
            state, metadata = load_tensors(path)
        elif path.suffix in OFFICIAL_SUFFIXES:
            state, metadata = read_official(path), None
        else:
            raise CheckpointError(
                f"{path}: unknown kind of weights {path.suffix!r}; allowed are .safetensors, .pt and diffusers folders"
            )
        config = stored_config(state, metadata, where=where, num_heads=num_heads)
    if num_heads not in (None, config.num_heads):
        raise ConfigError(
            f"{path}: num_heads {num_heads} was asked for, the file says {config.num_heads}; leave it out"
        )
    return build(state, config, where=where)


def stored_config(state: Mapping[str, Any], metadata: Any, *, where: str, num_heads: int | None) -> DiTConfig:
    """Configuration from a file's metadata, or from the shapes if it has none."""
    if isinstance(metadata, Mapping) and CONFIG_KEY in metadata:
        return read_config(metadata[CONFIG_KEY], where=where)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items() if isinstance(tensor, Tensor)}
    return infer_config(shapes, where=where, num_heads=num_heads)


def read_official(path: Path) -> dict[str, Any]:
    """State dict of an official `.pt` file, or the moving average (`ema`) of a train.py checkpoint."""
    try:
        # train.py stores its argparse.Namespace beside the weights: a plain holder of attributes, safe to rebuild.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about the same file that is refused in one line below
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as problem:  # a damaged or hostile pickle can raise anything
        raise CheckpointError(
            f"{path}: cannot be read as plain weights ({one_line(problem)}); only tensors are accepted and nothing in"
            " the file was run; get the file again from its publisher"
        ) from None
    state = content.get("ema", content) if isinstance(content, Mapping) else content
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise CheckpointError(
            f"{path}: holds a {type(state).__name__}, expected a state dict (tensor name → tensor) or a dictionary"
            " with one under 'ema'; give an official DiT checkpoint"
        )
    return dict(state)


def save_model(path: Path, model: DiT, *, metadata: Mapping[str, Any] | None = None) -> None:
    """Write an unquantized DiT in our format: safetensors with its configuration, and `metadata`, as JSON metadata.

    Raises ConfigError if `metadata` has a key `model`, Unsupported for a quantized model, CheckpointError for
    weights that are not finite.
    """
    if metadata is not None and CONFIG_KEY in metadata:
        raise ConfigError(f"metadata key {CONFIG_KEY!r} is the model's configuration; choose another name")
    require_plain(model)
    state = model.state_dict()
    check_values(state, where=str(path))
    save_tensors(path, state, {**(metadata or {}), CONFIG_KEY: model.config.to_dict()})


def import_official(source: Path, path: Path, *, sha256: str | None = None, num_heads: int | None = None) -> None:
    """Convert official weights (or a diffusers folder) once to our format at `path`; the source is noted there."""
    model = load_model(source, sha256=sha256, num_heads=num_heads)
    digest = sha256_file(source) if source.is_file() else None
    save_model(path, model, metadata={"source": {"name": source.name, "sha256": digest}})
