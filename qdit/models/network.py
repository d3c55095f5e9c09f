"""Families of networks (DiT, STDiT3, diffusers' transformers): their common type, and the classes of each family."""

from collections.abc import Callable
from typing import Any

import torch

from qdit.core.errors import ConfigError, did_you_mean
from qdit.models.config import DiffusersConfig, DiTConfig, STDiT3Config
from qdit.models.dit import DiT
from qdit.models.generic.loading import build_network
from qdit.models.generic.network import DiffusersNetwork
from qdit.models.stdit3 import STDiT3

Network = DiT | STDiT3 | DiffusersNetwork
"""A model whose sites a method may quantize: `config`, `step_context`, `sites()`, and a forward.

The forward of a DiT and an STDiT3 is over (x, timestep, …), that of a DiffusersNetwork over keyword arguments.
"""

NetworkConfig = DiTConfig | STDiT3Config | DiffusersConfig

CONFIGS: dict[str, type[NetworkConfig]] = {
    config.family: config for config in (DiTConfig, STDiT3Config, DiffusersConfig)
}
"""Name of a family, as files say it, → its configuration."""

MODELS: dict[str, Callable[[Any], Network]] = {
    DiTConfig.family: DiT,
    STDiT3Config.family: STDiT3,
    DiffusersConfig.family: build_network,
}
"""Name of a family → the model of a configuration."""


def family_of(config: NetworkConfig) -> str:
    """Name of the family that a configuration belongs to."""
    return config.family


def config_class(family: object, *, error: type[Exception] = ConfigError) -> type[NetworkConfig]:
    """Configuration class of a family by its name. An unknown name raises `error`."""
    if not isinstance(family, str) or family not in CONFIGS:
        hint = did_you_mean(str(family), CONFIGS)
        raise error(f"model family {family!r:.60}: allowed are {', '.join(CONFIGS)}{hint}")
    return CONFIGS[family]


def empty_network(config: NetworkConfig) -> Network:
    """Build a model on the meta device: its tensors have no memory and no values. A state dict is assigned to it later.

    The buffers of a diffusers transformer do have values, because no file stores them.
    """
    if isinstance(config, DiffusersConfig):
        return build_network(config)
    with torch.device("meta"):
        return MODELS[config.family](config)


def require_ours(model: Network, *, where: str) -> None:
    """Raise ConfigError for a transformer of diffusers, because only its own pipeline can run it.

    `where` starts the message.
    """
    if isinstance(model, DiffusersNetwork):
        raise ConfigError(
            f"{where}: holds a {model.config.class_name}, which this step cannot run; load it in its own pipeline"
            " (docs/diffusers.md)"
        )


def require_dit(model: Network, *, where: str) -> DiT:
    """Return the model if it is a DiT. ConfigError for a video model or a transformer of diffusers."""
    require_ours(model, where=where)
    if not isinstance(model, DiT):
        raise ConfigError(f"{where}: holds a video model (STDiT3), this step is for images; give the weights of a DiT")
    return model


def require_stdit3(model: Network, *, where: str) -> STDiT3:
    """Return the model if it is an STDiT3. ConfigError for an image model or a transformer of diffusers."""
    require_ours(model, where=where)
    if not isinstance(model, STDiT3):
        raise ConfigError(f"{where}: holds an image model (DiT), this step is for videos; give weights of an STDiT3")
    return model
