"""The VAE that decodes DiT's latents into images: the decoder of diffusers' AutoencoderKL, from local files.

Latents are divided by 0.18215 before decoding, for every VAE, because DiT was trained on latents multiplied by this
factor. The VAE is not quantized.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qdit.core.errors import CheckpointError
from qdit.core.files import load_tensors, read_json
from qdit.models.manifest import check_file
from qdit.models.state import load_strictly
from qdit.models.vae_files import config_path

LATENT_FACTOR = 0.18215
"""Multiplies the latents; DiT's programs have it written in."""

KIND = "AutoencoderKL"
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Parts of an attention as published VAEs name them → as diffusers names them now."""


class ImageVAE(nn.Module):
    """Decoder of a VAE: DiT's latents (N, C, L, L) → images (N, 3, f·L, f·L), about in [−1, 1]. f is `factor`."""

    def __init__(self, autoencoder: Any) -> None:
        super().__init__()
        del autoencoder.encoder
        self.autoencoder = autoencoder

    @property
    def channels(self) -> int:
        """Number of channels of the latents."""
        return int(self.autoencoder.config.latent_channels)

    @property
    def factor(self) -> int:
        """Side of an image divided by the side of its latent, for example 8."""
        return int(2 ** (len(self.autoencoder.config.block_out_channels) - 1))

    def forward(self, latents: Tensor) -> Tensor:
        return self.autoencoder.decode(latents / LATENT_FACTOR).sample


def load_image_vae(weights: Path) -> ImageVAE:
    """Load a VAE in eval mode and float32, from a safetensors file with diffusers' config.json in the same folder.

    Raises CheckpointError if a file is missing or damaged, if weights and configuration do not fit each other, if the
    latent factor is not DiT's 0.18215, or if a value is not finite.
    """
    from diffusers import AutoencoderKL  # takes seconds to import, needed here only

    check_file(weights)
    config = vae_config(config_path(weights))
    state = {renamed(name): tensor for name, tensor in load_tensors(weights)[0].items()}
    try:
        with torch.device("meta"):
            AutoencoderKL.from_config(config)
    except Exception as problem:  # whatever diffusers' constructors raise for values that do not fit together
        raise CheckpointError(
            f"{config_path(weights)}: no configuration of an {KIND} ({' '.join(str(problem).split())[:200]}); fetch it"
            " again"
        ) from None
    levels = len(config["block_out_channels"])
    model = load_strictly(state, lambda: AutoencoderKL.from_config(config), {}, depth=levels, where=str(weights))
    return ImageVAE(model.requires_grad_(False)).eval()


def vae_config(path: Path) -> dict[str, Any]:
    """Read the configuration of a VAE for DiT. CheckpointError if it describes something else."""
    config = read_json(path, error=CheckpointError)
    if not isinstance(config, dict) or config.get("_class_name", KIND) != KIND or "block_out_channels" not in config:
        class_name = config.get("_class_name") if isinstance(config, dict) else type(config).__name__
        raise CheckpointError(f"{path}: found {class_name!r}, expected the configuration of an {KIND}; fetch it again")
    if (factor := config.get("scaling_factor", LATENT_FACTOR)) != LATENT_FACTOR:
        raise CheckpointError(
            f"{path}: scaling_factor is {factor}, DiT's latents take {LATENT_FACTOR}: this is another model's VAE; give"
            " sd-vae-ft-mse or sd-vae-ft-ema"
        )
    return config


def renamed(name: str) -> str:
    """Translate a tensor name of older diffusers versions to the name in the current version."""
    *path, module, leaf = name.split(".") if name.count(".") else ["", name, ""]
    if "attentions" in path and module in OLD_NAMES:
        return ".".join([*path, OLD_NAMES[module], leaf])
    return name
