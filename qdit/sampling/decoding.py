"""The end of sampling: x_0 of the model → uint8 images, through a VAE where the model makes latents."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from qdit.core.errors import ConfigError, DataError
from qdit.core.pixels import to_uint8
from qdit.models.config import DiTConfig
from qdit.models.image_vae import ImageVAE, load_image_vae
from qdit.sampling.precision import CPU, DTYPES

BATCH = 4
"""Latents decoded at a time: a 512×512 image takes the VAE about a gigabyte of activations in half precision."""


@dataclass(frozen=True)
class Decoder:
    """x_0 float32 (N, C, L, L) on any device → uint8 images on the CPU; without a VAE x_0 are pixels already.

    With one, images come out f times as large in RGB, decoded `BATCH` at a time and rounded as the original does.
    Raises DataError where a decoded image is not finite.
    """

    vae: ImageVAE | None = None
    dtype: str = "float32"
    device: torch.device = CPU

    def __call__(self, x0: Tensor) -> Tensor:
        return torch.cat([to_uint8(part) for part in self.pixels(x0)])

    def image_bytes(self, config: DiTConfig) -> int:
        """Size of one image of a model."""
        channels, factor = (config.in_channels, 1) if self.vae is None else (3, self.vae.factor)
        return channels * (factor * config.input_size) ** 2

    def pixels(self, x0: Tensor) -> Iterator[Tensor]:
        """Images float32 on the CPU, a few at a time."""
        if self.vae is None:
            yield x0.float().cpu()
            return
        for latents in x0.split(BATCH):
            with torch.inference_mode():
                images = self.vae(latents.to(self.device, DTYPES[self.dtype])).float().cpu()
            if not torch.isfinite(images).all():
                raise DataError(
                    f"decoded images hold NaN or infinity, their latents (largest {float(latents.abs().max()):.3g}) do"
                    " not; take --dtype float32 if they are of full precision"
                )
            yield images


PIXELS = Decoder()
"""For models that make pixels."""


def load_decoder(vae: Path | None, config: DiTConfig, *, dtype: str, device: torch.device) -> Decoder:
    """The decoder of a model's x_0; `PIXELS` without a VAE.

    Raises CheckpointError for files that are no VAE of DiT, ConfigError for one of latents of another kind.
    """
    if vae is None:
        return PIXELS
    loaded = load_image_vae(vae)
    if loaded.channels != config.in_channels:
        raise ConfigError(
            f"--vae {vae}: decodes latents of {loaded.channels} channels, the model makes {config.in_channels}; give"
            " the VAE that the model was trained with, or none for a model of pixels"
        )
    return Decoder(loaded.to(device, DTYPES[dtype]), dtype, device)
