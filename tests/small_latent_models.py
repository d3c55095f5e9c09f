"""A tiny DiT of latents and a tiny VAE with random weights, as files: the paper profile in miniature."""

import json
from pathlib import Path
from typing import Any

import torch

from qdit.core.files import save_tensors
from qdit.models.config import DiTConfig
from qdit.models.image_vae import KIND

LATENT = DiTConfig(input_size=8, in_channels=4, hidden_size=48, depth=2, num_heads=2, num_classes=10)
"""Latents (4, 8, 8), which the VAE below makes images (3, 16, 16) of."""


def autoencoder(*, widths: tuple[int, ...] = (4, 8), channels: int = 4) -> Any:
    """diffusers' AutoencoderKL with random weights: with attention in the middle, f = 2^(levels − 1)."""
    from diffusers import AutoencoderKL

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * len(widths),
            up_block_types=("UpDecoderBlock2D",) * len(widths),
            block_out_channels=widths,
            layers_per_block=1,
            latent_channels=channels,
            norm_num_groups=4,
        ).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def write_vae(folder: Path, model: Any | None = None, **changes: Any) -> Path:
    """Weights and configuration of a VAE, as diffusers saves them; `changes` go into the configuration."""
    model = model or autoencoder()
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "diffusion_pytorch_model.safetensors"
    save_tensors(weights, model.state_dict())
    config = {name: value for name, value in model.config.items() if not name.startswith("_")}
    (folder / "config.json").write_text(json.dumps({"_class_name": KIND, **config, **changes}), encoding="utf-8")
    return weights
