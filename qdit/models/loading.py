"""Loading and saving of weights: our safetensors, the official .pt, published folders; anything else is refused.

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

from qdit.core.errors import CheckpointError, ConfigError
from qdit.core.files import load_tensors, one_line, save_tensors, sha256_file
from qdit.models.config import DiTConfig
from qdit.models.diffusers_format import from_diffusers, read_folder, to_diffusers, use_original_frequencies
from qdit.models.dit import DiT
from qdit.models.manifest import check_file, verify_manifest, write_manifest
from qdit.models.network import Network, NetworkConfig, config_class, family_of, require_dit
from qdit.models.state import build, check_values, infer_config, read_config, require_plain
from qdit.models.stdit3_state import (
    build_stdit3,
    infer_stdit3_config,
    is_official_folder,
    is_stdit3_state,
    read_official_folder,
)

__all__ = [
    "from_diffusers",
    "import_official",
    "load_dit",
    "load_model",
    "save_model",
    "to_diffusers",
    "use_original_frequencies",
    "verify_manifest",
    "write_manifest",
]

CONFIG_KEY = "model"
"""Metadata key of the model's configuration in our files."""

FAMILY_KEY = "family"
"""Metadata key of the model's family; files without it hold a DiT."""

OFFICIAL_SUFFIXES = (".pt", ".pth")


def load_dit(path: Path, *, sha256: str | None = None, num_heads: int | None = None) -> DiT:
    """`load_model` for steps that are for images; ConfigError for a video model."""
    return require_dit(load_model(path, sha256=sha256, num_heads=num_heads), where=str(path))


def load_model(path: Path, *, sha256: str | None = None, num_heads: int | None = None) -> Network:
    """DiT or STDiT3 in eval mode and float32 from a file or folder of weights.

    path        our `.safetensors` (its metadata holds family and configuration), an official state dict as `.pt` or
                `.safetensors` (a train.py checkpoint too, whose `ema` is taken), a diffusers DiTTransformer2DModel
                folder, or an STDiT3 folder as published.
    sha256      hex digest that the file must have; without it, a `manifest.json` beside the file that lists it
                is used.
    num_heads   attention heads, for files that do not store the configuration and are none of DiT-S, B, L, XL.

    A diffusers folder gives the original's function, not diffusers' (see qdit/models/diffusers_format.py).
    Raises CheckpointError for a missing, damaged, foreign or malicious file, and for tensors that are missing, not
    expected, of another shape, not floating point or not finite.
    """
    where = str(path)
    config: NetworkConfig
    if path.is_dir():
        if sha256 is not None:
            raise ConfigError(f"{path}: sha256 is for single files; a folder is checked by its manifest.json")
        state, config = read_official_folder(path) if is_official_folder(path) else read_folder(path)
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
    if isinstance(config, DiTConfig):
        return build(state, config, where=where)
    return build_stdit3(state, config, where=where)


def stored_config(state: Mapping[str, Any], metadata: Any, *, where: str, num_heads: int | None) -> NetworkConfig:
    """Configuration from a file's metadata, or from the shapes if it has none."""
    if isinstance(metadata, Mapping) and CONFIG_KEY in metadata:
        kind = config_class(metadata.get(FAMILY_KEY, "dit"), error=CheckpointError)
        return read_config(metadata[CONFIG_KEY], kind, where=where)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items() if isinstance(tensor, Tensor)}
    if is_stdit3_state(shapes):
        return infer_stdit3_config(shapes, where=where)
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
            " with one under 'ema'; give an official checkpoint"
        )
    return dict(state)


def save_model(path: Path, model: Network, *, metadata: Mapping[str, Any] | None = None) -> None:
    """Write an unquantized model in our format: safetensors with its configuration, and `metadata`, as JSON metadata.

    Raises ConfigError if `metadata` has a key `model` or `family`, Unsupported for a quantized model, CheckpointError
    for weights that are not finite.
    """
    own = model_metadata(model.config)
    for key in (CONFIG_KEY, FAMILY_KEY):
        if metadata is not None and key in metadata:
            raise ConfigError(f"metadata key {key!r} is the model's configuration; choose another name")
    require_plain(model)
    state = model.state_dict()
    check_values(state, where=str(path))
    save_tensors(path, state, {**(metadata or {}), **own})


def model_metadata(config: NetworkConfig) -> dict[str, Any]:
    """What our files say about the model they hold; a DiT is not named, as files older than STDiT3 are."""
    family = family_of(config)
    return ({} if family == "dit" else {FAMILY_KEY: family}) | {CONFIG_KEY: config.to_dict()}


def import_official(source: Path, path: Path, *, sha256: str | None = None, num_heads: int | None = None) -> None:
    """Convert official weights (or a diffusers folder) once to our format at `path`; the source is noted there."""
    model = load_model(source, sha256=sha256, num_heads=num_heads)
    digest = sha256_file(source) if source.is_file() else None
    save_model(path, model, metadata={"source": {"name": source.name, "sha256": digest}})
