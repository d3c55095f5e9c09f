"""The end of sampling a video model: what it makes → uint8 clips, through Open-Sora's VAE where it makes latents."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from qdit.core.errors import ConfigError, DataError
from qdit.core.pixels import to_uint8
from qdit.models.config import STDiT3Config
from qdit.models.vae_files import video_vae_sha256
from qdit.models.video_vae import VideoVAE, load_video_vae
from qdit.sampling.precision import CPU, DTYPES
from qdit.sampling.protocol import NO_DECODER
from qdit.sampling.rectified_flow import FlowProtocol, clip_size


@dataclass(frozen=True)
class ClipDecoder:
    """What a model makes, float32 (N, C, T, H, W) on any device → uint8 clips (N, 3, frames, height, width) on the CPU.

    With a VAE a clip is decoded at a time: `frames` frames, which its latents do not tell. DataError where a clip is
    not finite.
    """

    vae: VideoVAE | None = None
    frames: int = 0
    dtype: str = "float32"
    device: torch.device = CPU

    def __call__(self, made: Tensor) -> Tensor:
        return (
            to_uint8(made) if self.vae is None else torch.cat([self.decoded(self.vae, clip) for clip in made.split(1)])
        )

    def decoded(self, vae: VideoVAE, latents: Tensor) -> Tensor:
        """One clip through the VAE."""
        with torch.inference_mode():
            pixels = vae.decode(latents.to(self.device, DTYPES[self.dtype]), self.frames).float().cpu()
        if not torch.isfinite(pixels).all():
            raise DataError(
                f"decoded clips hold NaN or infinity, their latents (largest {float(latents.abs().max()):.3g}) do not;"
                " take --dtype bfloat16 or float32 if they are of full precision"
            )
        return to_uint8(pixels)

    def clip_bytes(self, size: tuple[int, int, int]) -> int:
        """Bytes of one clip whose latents, or pixels, are (T, H, W)."""
        frames, rows, columns = size if self.vae is None else self.vae.config.pixel_size(self.frames, size)
        return 3 * frames * rows * columns


CLIP_PIXELS = ClipDecoder()
"""For models that make pixels."""


def video_decoder_name(vae: Path | None) -> str:
    """What a protocol says about its decoder: `none`, or the kind of VAE and the digest of its files."""
    return NO_DECODER if vae is None else f"OpenSoraVAE sha256:{video_vae_sha256(vae)}"


def load_video_decoder(
    vae: Path | None, config: STDiT3Config, protocol: FlowProtocol, *, device: torch.device
) -> ClipDecoder:
    """The decoder of what a model makes under a protocol; `CLIP_PIXELS` without a VAE.

    Raises CheckpointError for files that are no video VAE, ConfigError for one of latents of another kind or size.
    """
    if vae is None:
        return CLIP_PIXELS
    loaded = load_video_vae(vae)
    own, made = loaded.config, clip_size(config, protocol)
    expected = own.latent_size(protocol.frames, protocol.height, protocol.width)
    if own.temporal.channels != config.in_channels or expected != made:
        raise ConfigError(
            f"--vae {vae}: a clip of {protocol.frames}×{protocol.height}×{protocol.width} has latents of"
            f" {own.temporal.channels} channels and {expected}, the model makes {config.in_channels} and {made}; give"
            " the VAE that the model was trained with"
        )
    return ClipDecoder(loaded.to(device, DTYPES[protocol.dtype]), protocol.frames, protocol.dtype, device)
