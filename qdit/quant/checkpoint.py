"""Quantized checkpoints: folders with `config.json` and `model.safetensors`. Loading needs no calibration data.

The safetensors file holds packed integer codes, scales and zero points. It holds the other tensors of the model in
floating point, in half precision if this changes no value. The JSON describes the quantized modules and their origin,
and has the sha256 of the file of tensors.

The checkpoint of a transformer of diffusers has the layout of diffusers. Its class loads the folder after `import
qdit.diffusers`. The file of tensors is `diffusion_pytorch_model.safetensors`, and `quantization_config` in
`config.json` holds the same JSON.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qdit.core.errors import CheckpointError, QditError
from qdit.core.files import load_tensors, require_finite, save_tensors, sha256_file, write_json
from qdit.models.config import DiTConfig
from qdit.models.dit import DiT, sincos_positions
from qdit.models.generic.loading import require_storable
from qdit.models.generic.network import DiffusersNetwork
from qdit.models.manifest import write_manifest
from qdit.models.network import (
    Network,
    NetworkConfig,
    config_class,
    empty_network,
    family_of,
    require_dit,
    require_stdit3,
)
from qdit.models.roles import replace
from qdit.models.stdit3 import STDiT3
from qdit.quant.compact import compact
from qdit.quant.correction import NoiseCorrection
from qdit.quant.folder import (
    CONFIG_FILE,
    DIFFUSERS_TENSORS_FILE,
    FORMAT,
    QUANTIZER,
    TENSORS_FILE,
    read_config,
    tensors_file,
    with_digest,
)
from qdit.quant.kinds import require_kinds
from qdit.quant.site_building import REGISTRIES, build_site
from qdit.quant.sites import QuantizedSite

POSITIONS = "pos_embed"


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint: the model in eval mode, its noise correction (PTQD) or None, and its configuration."""

    model: DiT
    correction: NoiseCorrection | None
    config: dict[str, Any]


@dataclass(frozen=True)
class VideoCheckpoint:
    """A loaded checkpoint of a video model; the fields are those of `Checkpoint`."""

    model: STDiT3
    correction: NoiseCorrection | None
    config: dict[str, Any]


@dataclass(frozen=True)
class Quantized:
    """Result of a method: the model with quantized sites and, for some methods, a correction of the predicted noise.

    `log` is plain JSON about the method's work, for example learning curves.
    """

    model: Network
    correction: NoiseCorrection | None = None
    log: Mapping[str, Any] = field(default_factory=dict)


def quantized_sites(model: nn.Module) -> dict[str, QuantizedSite]:
    """Return every quantized module of a model by its path."""
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantizedSite)}


def save_checkpoint(folder: Path, quantized: Quantized, record: Mapping[str, Any]) -> None:
    """Write a model (quantized or not) as a checkpoint folder; `record` is JSON about its origin.

    The folder of a transformer of diffusers can be loaded by its class (see the module's text).
    """
    model, correction = quantized.model, quantized.correction
    in_diffusers = isinstance(model, DiffusersNetwork)
    if isinstance(model, DiffusersNetwork):
        require_storable(model.config)
    tensors = stored_tensors(model.state_dict(), model.config)
    tensors |= {} if correction is None else correction.tensors()
    file = DIFFUSERS_TENSORS_FILE if in_diffusers else TENSORS_FILE
    save_tensors(folder / file, tensors)
    config = {
        "format": FORMAT,
        "model": {"family": family_of(model.config), "config": model.config.to_dict()},
        "sites": {name: module.spec() for name, module in quantized_sites(model).items()},
        "correction": None if correction is None else correction.spec(),
        "record": dict(record),
        "log": dict(quantized.log),
        "files": {file: sha256_file(folder / file)},
    }
    described = with_digest(config)
    write_json(folder / CONFIG_FILE, diffusers_config(described) if in_diffusers else described)
    if in_diffusers:
        write_manifest(folder)


def diffusers_config(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config.json that diffusers reads, for a checkpoint of one of its transformers."""
    model = checkpoint["model"]["config"]
    quantization = {"quant_method": QUANTIZER, "checkpoint": dict(checkpoint)}
    return {"_class_name": model["class_name"], **model["values"], "quantization_config": quantization}


def stored_tensors(state: Mapping[str, Tensor], config: NetworkConfig) -> dict[str, Tensor]:
    """Return a model's tensors as its file stores them: in half precision if no value changes.

    The sin-cos position table of a DiT is computed again at loading, so it is left out. Positions that differ from the
    table in any bit (rounded or trained ones) are stored, so that the loaded model computes the same function.
    """
    table = position_table(config)
    computed = table is not None and torch.equal(state[POSITIONS].float().cpu(), table)
    return {name: compact(tensor) for name, tensor in state.items() if not (computed and name == POSITIONS)}


def position_table(config: NetworkConfig) -> Tensor | None:
    """Compute the sin-cos table of a DiT's positions (1, tokens, hidden_size); None for an STDiT3 (nothing stored)."""
    if not isinstance(config, DiTConfig):
        return None
    return sincos_positions(config.hidden_size, config.input_size // config.patch_size)


def load_checkpoint(folder: Path) -> Checkpoint:
    """Load the checkpoint of an image model.

    Raises CheckpointError for files that are damaged, incomplete or do not match. Raises ConfigError for a video model.
    """
    model, correction, config = read_checkpoint(folder)
    return Checkpoint(require_dit(model, where=str(folder)), correction, config)


def load_video_checkpoint(folder: Path) -> VideoCheckpoint:
    """Load the checkpoint of a video model; errors as in `load_checkpoint`."""
    model, correction, config = read_checkpoint(folder)
    return VideoCheckpoint(require_stdit3(model, where=str(folder)), correction, config)


def read_checkpoint(folder: Path) -> tuple[Network, NoiseCorrection | None, dict[str, Any]]:
    """Read a checkpoint folder of any family: the model in eval mode, its correction and its configuration."""
    config = read_config(folder)
    if "tool" in config:
        raise CheckpointError(
            f"{folder}: was quantized by {config['tool'].get('name')}, which computes in a process of its own; sample"
            " it with `qdit tools sample`"
        )
    try:
        file = tensors_file(config)
        tensors, _ = load_tensors(folder / file, sha256=config["files"][file])
        correction = NoiseCorrection.take(config["correction"], tensors)
        model = build_model(config, tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as problem:
        raise CheckpointError(
            f"{folder}: configuration and tensors disagree ({' '.join(str(problem).split())}); quantize again"
        ) from None
    return model.eval(), correction, config


def build_model(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Network:
    """Build the model of a configuration, with quantized modules at its sites. Each tensor must be used."""
    shape = config_class(config["model"]["family"], error=CheckpointError)(**config["model"]["config"])
    model = empty_network(shape)
    fill(model, config["sites"], tensors, method=config["record"].get("method"))
    return model


def unchanged(_name: str, value: Any) -> Any:
    """Return the value itself. This is the default of `fill`'s conversions."""
    return value


def fill(
    model: Network,
    sites: Mapping[str, Mapping[str, Any]],
    tensors: Mapping[str, Tensor],
    *,
    method: str | None,
    module_of: Callable[[str, QuantizedSite], nn.Module] = unchanged,
    stored_as: Callable[[str, Tensor], Tensor] = unchanged,
) -> None:
    """Put quantized modules at the sites of an empty model, and the tensors into it. Every tensor must be used.

    `method` is the registered method that may define kinds of its own. `module_of` makes the module that replaces each
    quantized module, before the next module is built. `stored_as` converts each tensor, after tensors in half precision
    were converted to float32.
    """
    rest = dict(tensors)
    for name, tensor in rest.items():
        require_finite(name, tensor, error=CheckpointError)
    require_kinds(REGISTRIES, sites, method)
    halves: set[str] = set()
    for name, spec in sites.items():
        prefix = f"{name}."
        site_tensors = {key.removeprefix(prefix): rest.pop(key) for key in list(rest) if key.startswith(prefix)}
        try:
            site = build_site(spec, site_tensors, model.step_context)
        except QditError as problem:
            raise CheckpointError(f"{name}: {problem}") from None
        halves |= {prefix + key for key, tensor in site.state_dict().items() if tensor.dtype == torch.float16}
        replace(model, name, module_of(name, site))
        for key, tensor in site_tensors.items():
            rest[prefix + key] = tensor
    rest = {name: t.float() if t.dtype == torch.float16 and name not in halves else t for name, t in rest.items()}
    table = position_table(model.config)
    if table is not None and POSITIONS not in rest:
        rest[POSITIONS] = table
    rest = {name: stored_as(name, tensor) for name, tensor in rest.items()}
    wrong = model.load_state_dict(rest, strict=False, assign=True)
    if wrong.missing_keys or wrong.unexpected_keys:
        raise CheckpointError(
            f"missing tensors {wrong.missing_keys[:3]}, unexpected tensors {wrong.unexpected_keys[:3]}; quantize again"
        )
