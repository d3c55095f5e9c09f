"""Load and save models: our safetensors, official .pt files, and published folders. All other files are refused.

Every error about a file is a CheckpointError with one line. Some facts are not in a file, for example the heads of a
DiT. Then the caller states them. If the caller does not, they are assumed for the published models only, and the
assumption is logged. qdit/models/weights_files.py reads the files themselves.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from qdit.core.errors import CheckpointError, ConfigError
from qdit.core.files import load_tensors, save_tensors, sha256_file
from qdit.models.config import DiffusersConfig, DiTConfig, STDiT3Config
from qdit.models.diffusers_format import from_diffusers, read_folder, to_diffusers, use_original_frequencies
from qdit.models.dit import DiT
from qdit.models.generic.loading import is_transformer_folder, load_network
from qdit.models.manifest import check_file, verify_manifest, write_manifest
from qdit.models.network import Network, NetworkConfig, config_class, family_of, require_dit
from qdit.models.state import build, check_values, infer_config, listed, read_config, require_plain
from qdit.models.stdit3_state import (
    build_stdit3,
    infer_stdit3_config,
    is_official_folder,
    is_stdit3_state,
    read_official_folder,
    said_by_folder,
)
from qdit.models.weights_files import OFFICIAL_SUFFIXES, model_folder, read_official, weights_sha256, without_wrappers

__all__ = [
    "from_diffusers",
    "import_official",
    "load_dit",
    "load_model",
    "read_model",
    "save_model",
    "to_diffusers",
    "use_original_frequencies",
    "verify_manifest",
    "weights_sha256",
    "write_manifest",
]

CONFIG_KEY = "model"
"""Metadata key of the model's configuration in our files."""

FAMILY_KEY = "family"
"""Metadata key of the model's family; files without it hold a DiT."""


BUILDERS: Mapping[str, Callable[..., Network]] = {DiTConfig.family: build, STDiT3Config.family: build_stdit3}
"""Name of a family → the model of a state dict and a configuration."""


@dataclass(frozen=True)
class Loaded:
    """A model, and the settings that had to be assumed, because neither file nor caller gave them: setting → value."""

    model: Network
    assumed: Mapping[str, Any] = field(default_factory=dict)


def load_dit(path: Path, *, sha256: str | None = None, num_heads: int | None = None) -> DiT:
    """Load an image model as `load_model` does. ConfigError for a video model."""
    return require_dit(load_model(path, sha256=sha256, num_heads=num_heads), where=str(path))


def load_model(path: Path, *, sha256: str | None = None, num_heads: int | None = None) -> Network:
    """Load a DiT or STDiT3 in eval mode and float32 from a file or folder of weights. Assumed settings are logged.

    `num_heads` is the number of attention heads, which must be given if the file does not state it. All else is as in
    `read_model`.
    """
    loaded = read_model(path, sha256=sha256, settings={} if num_heads is None else {"num_heads": num_heads})
    if loaded.assumed:
        logging.getLogger("qdit").warning("qdit: note: %s: %s", path, assumption(loaded.assumed))
    return loaded.model


def assumption(assumed: Mapping[str, Any]) -> str:
    """One line for the log that says which settings were assumed, and how to state other values."""
    listed = ", ".join(f"{name} {value}" for name, value in assumed.items())
    return (
        f"the file does not say {', '.join(assumed)}; assumed as in the published model of this shape: {listed}; if"
        " that is wrong, state them in qdit import-weights --shape"
    )


def read_model(
    path: Path,
    *,
    sha256: str | None = None,
    settings: Mapping[str, Any] | None = None,
    usual: Mapping[str, Any] | None = None,
    family: str | None = None,
) -> Loaded:
    """Read a DiT or STDiT3, in eval mode and float32, from a file or folder of weights.

    The result also holds the settings that were assumed.

    path        our `.safetensors` (its metadata holds family and configuration); a state dict as `.pt` or
                `.safetensors`, also under the key `ema`, `model` or `state_dict` and with the prefixes of wrappers; a
                folder of diffusers' DiTTransformer2DModel or of its pipeline; a published STDiT3 folder; or a folder
                of another transformer of diffusers, or of its pipeline.
    sha256      hex digest of the file. Without it, a `manifest.json` in the same folder is used if it lists the file.
    settings    fields of the configuration that the caller knows. They must agree with the file.
    family      `dit` or `stdit3` if the caller needs one of them.
    usual       values to assume for an STDiT3 if neither file nor caller gives them. Without it, values are assumed
                only for the shape of Open-Sora's model.

    A diffusers folder gives the function of DiT's original program, not that of diffusers (see
    qdit/models/diffusers_format.py). Raises CheckpointError for a missing, damaged, unknown or malicious file. It is
    also raised for tensors that are missing, not expected, of another shape, not floating point or not finite, and for
    settings that nobody gives. Raises ConfigError if a setting of the caller contradicts the file.
    """
    stated = dict(settings or {})
    assumed: Mapping[str, Any] = {}
    config: NetworkConfig
    if path.is_dir():
        if sha256 is not None:
            raise ConfigError(f"{path}: sha256 is for single files; a folder is checked by its manifest.json")
        folder = model_folder(path)
        if is_transformer_folder(folder) and family in (None, DiffusersConfig.family):
            return Loaded(load_network(folder))
        state, config = read_official_folder(folder) if is_official_folder(folder) else read_folder(folder)
    else:
        check_file(path, sha256)
        state, metadata = read_file(path)
        config, assumed = described_config(state, metadata, path, stated, usual or {})
    if family not in (None, family_of(config)):
        what = {"dit": "an image model (DiT)", "stdit3": "a video model (STDiT3)"}[family_of(config)]
        raise ConfigError(f"{path}: holds {what}, this step needs the family {family}; give weights of that family")
    for name, value in stated.items():
        if (said := getattr(config, name, None)) != value:
            raise ConfigError(f"{path}: {name} {value} is stated, the file says {said}; leave it out")
    return Loaded(BUILDERS[config.family](state, config, where=str(path)), assumed)


def read_file(path: Path) -> tuple[dict[str, Any], Any]:
    """Read a single file of weights: its tensors by the names in the file, and our metadata if the file has it."""
    if path.suffix == ".safetensors":
        state, metadata = load_tensors(path)
    elif path.suffix in OFFICIAL_SUFFIXES:
        state, metadata = read_official(path), None
    else:
        raise CheckpointError(
            f"{path}: unknown kind of weights {path.suffix!r}; allowed are .safetensors, .pt and diffusers folders"
        )
    state = without_wrappers(state)
    if any(name.startswith("transformer_blocks.") for name in state):
        raise CheckpointError(
            f"{path}: holds tensors with diffusers' names, whose shape is in the config.json beside them; give the"
            f" folder, here {path.parent}"
        )
    return state, metadata


def described_config(
    state: Mapping[str, Any], metadata: Any, path: Path, stated: Mapping[str, Any], usual: Mapping[str, Any]
) -> tuple[NetworkConfig, Mapping[str, Any]]:
    """Configuration of a file, from its metadata, or else from its tensor shapes and the stated settings.

    Also returns the assumed settings.
    """
    where = str(path)
    if isinstance(metadata, Mapping) and CONFIG_KEY in metadata:
        kind = config_class(metadata.get(FAMILY_KEY, "dit"), error=CheckpointError)
        return read_config(metadata[CONFIG_KEY], kind, where=where), {}
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items() if isinstance(tensor, Tensor)}
    if not shapes:
        raise CheckpointError(
            f"{where}: holds no tensors by its own names, found the keys {listed(state) or 'none'}; save the state dict"
            " alone, or under 'ema', 'model' or 'state_dict'"
        )
    if not is_stdit3_state(shapes):
        return infer_config(shapes, where=where, num_heads=stated.get("num_heads"))
    folder_settings = said_by_folder(path.parent) if is_official_folder(path.parent) else {}
    return infer_stdit3_config(shapes, where=where, stated=folder_settings | dict(stated), usual=usual)


def save_model(path: Path, model: Network, *, metadata: Mapping[str, Any] | None = None) -> None:
    """Write an unquantized model as safetensors, with its configuration and `metadata` as JSON metadata.

    Raises ConfigError if `metadata` has a key `model` or `family`, Unsupported for a quantized model, and
    CheckpointError for weights that are not finite.
    """
    described = model_metadata(model.config)
    for key in (CONFIG_KEY, FAMILY_KEY):
        if metadata is not None and key in metadata:
            raise ConfigError(f"metadata key {key!r} is the model's configuration; choose another name")
    require_plain(model)
    state = model.state_dict()
    check_values(state, where=str(path))
    save_tensors(path, state, {**(metadata or {}), **described})


def model_metadata(config: NetworkConfig) -> dict[str, Any]:
    """Metadata of our files: the model's configuration and family. A DiT has no family entry, as in our first files."""
    family = family_of(config)
    return ({} if family == "dit" else {FAMILY_KEY: family}) | {CONFIG_KEY: config.to_dict()}


def import_official(source: Path, path: Path, *, sha256: str | None = None, num_heads: int | None = None) -> None:
    """Convert official weights, or a diffusers folder, to our format at `path`. The file records its source."""
    settings = {} if num_heads is None else {"num_heads": num_heads}
    save_import(source, path, read_model(source, sha256=sha256, settings=settings))


def save_import(source: Path, path: Path, loaded: Loaded) -> None:
    """Write a model in our format, with the name and digest of its source and the assumed settings as metadata."""
    digest = sha256_file(source) if source.is_file() else None
    note = {"assumed": dict(loaded.assumed)} if loaded.assumed else {}
    save_model(path, loaded.model, metadata={"source": {"name": source.name, "sha256": digest}, **note})
