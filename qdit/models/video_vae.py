"""The VAE of Open-Sora 1.2: the 2-D VAE of SDXL on every frame, then a causal 3-D VAE on chunks of 17 frames.

Key names are those of hpcai-tech/OpenSora-VAE-v1.2 (`spatial_vae.module.…`, `temporal_vae.…`). The factor of the 2-D
latents is 0.18215, not SDXL's own 0.13025. The VAE is not quantized.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qdit.core.errors import CheckpointError, DataError
from qdit.core.files import load_tensors, save_tensors
from qdit.models.manifest import check_file
from qdit.models.state import load_strictly
from qdit.models.stdit3_state import WEIGHTS_FILE
from qdit.models.video_vae_temporal import TemporalConfig, TemporalVAE
from qdit.models.weights_files import read_weights

SPATIAL_FACTOR = 0.18215
"""Multiplies the 2-D latents; hard-coded in the original."""

CONFIG_KEY = "video_vae"
"""Metadata key of the configuration in our files; without it a file is Open-Sora's."""

SHIFT = (-0.10, 0.34, 0.27, 0.98)
SCALE = (3.85, 2.32, 2.33, 3.06)
"""Mean and deviation of each latent channel."""


@dataclass(frozen=True)
class VideoVAEConfig:
    """Shape of the VAE; the defaults are Open-Sora 1.2's.

    chunk_frames   number of frames that the 3-D VAE takes in one pass.
    micro_batch    number of frames that the 2-D VAE takes in one pass; it changes memory, not results.
    """

    spatial_widths: tuple[int, ...] = (128, 256, 512, 512)
    spatial_layers: int = 2
    spatial_groups: int = 32
    temporal: TemporalConfig = field(default_factory=TemporalConfig)
    chunk_frames: int = 17
    micro_batch: int = 4

    @property
    def side_factor(self) -> int:
        """Side of a frame in pixels divided by the side of its latent."""
        return int(2 ** (len(self.spatial_widths) - 1))

    def chunks(self, frames: int) -> list[tuple[int, int]]:
        """(frames, latent frames) of each chunk into which a clip is divided. The last chunk may be shorter."""
        sizes = [min(self.chunk_frames, frames - start) for start in range(0, frames, self.chunk_frames)]
        return [(size, self.temporal.latent_frames(size)) for size in sizes]

    def latent_size(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Size (T, H, W) of the latents of a clip. Pixels at the edge that fill no whole latent cell are cut off."""
        return sum(latent for _, latent in self.chunks(frames)), height // self.side_factor, width // self.side_factor

    def pixel_size(self, frames: int, latents: tuple[int, int, int]) -> tuple[int, int, int]:
        """Size (frames, height, width) in pixels of the clip of `frames` frames that latents (T, H, W) decode to.

        Raises DataError if a clip of `frames` frames does not have T latent frames.
        """
        expected = self.latent_size(frames, self.side_factor, self.side_factor)[0]
        if latents[0] != expected:
            raise DataError(
                f"latents have {latents[0]} frames, a clip of {frames} frames has {expected}; give the length that the"
                " latents were made for"
            )
        return frames, latents[1] * self.side_factor, latents[2] * self.side_factor


class SpatialVAE(nn.Module):
    """The 2-D VAE of diffusers, applied to single frames. The attribute `module` has the name in the official files."""

    def __init__(self, config: VideoVAEConfig) -> None:
        from diffusers import AutoencoderKL  # takes seconds to import, needed here only

        super().__init__()
        levels = len(config.spatial_widths)
        self.micro_batch = config.micro_batch
        self.module: Any = AutoencoderKL(
            in_channels=3,
            out_channels=3,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=config.spatial_widths,
            layers_per_block=config.spatial_layers,
            latent_channels=config.temporal.channels,
            norm_num_groups=config.spatial_groups,
            scaling_factor=SPATIAL_FACTOR,
        )

    def encode(self, pixels: Tensor, generator: torch.Generator | None) -> Tensor:
        """Encode clips (N, 3, T, H, W) in [−1, 1] frame by frame to latents (N, C, T, h, w).

        With a generator they are random samples of the posterior, otherwise its mode.
        """
        parts = []
        for frames in self.batches(pixels):
            posterior = self.module.encode(frames).latent_dist
            parts.append(posterior.mode() if generator is None else posterior.sample(generator))
        return self.clips(parts, len(pixels)) * SPATIAL_FACTOR

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents (N, C, T, h, w) frame by frame to clips (N, 3, T, H, W)."""
        parts = [self.module.decode(frames).sample for frames in self.batches(latents / SPATIAL_FACTOR)]
        return self.clips(parts, len(latents))

    def batches(self, clips: Tensor) -> Iterator[Tensor]:
        """Yield the frames of all clips, `micro_batch` frames at a time."""
        yield from clips.transpose(1, 2).flatten(0, 1).split(self.micro_batch)

    @staticmethod
    def clips(parts: list[Tensor], count: int) -> Tensor:
        """Join batches of frames to `count` clips again."""
        return torch.cat(parts).unflatten(0, (count, -1)).transpose(1, 2)


class VideoVAE(nn.Module):
    """The whole VAE: it encodes clips (N, 3, frames, height, width) in [−1, 1] as normalized latents (N, 4, T, H, W).

    It also decodes such latents to clips.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, config: VideoVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.spatial_vae = SpatialVAE(config)
        self.temporal_vae = TemporalVAE(config.temporal)
        for name, values in (("shift", SHIFT), ("scale", SCALE)):
            self.register_buffer(name, torch.tensor(values[: config.temporal.channels]).view(1, -1, 1, 1, 1))

    def encode(self, pixels: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Encode clips as latents: the means of both VAEs' posteriors, or with a generator random samples of both."""
        frames = self.spatial_vae.encode(pixels, generator)
        parts = []
        for chunk in frames.split(self.config.chunk_frames, dim=2):
            mean, log_variance = self.temporal_vae.encode(chunk)
            if generator is not None:
                noise = torch.randn(mean.shape, generator=generator, device=generator.device).to(mean)
                mean = mean + noise * torch.exp(log_variance / 2)
            parts.append(mean)
        return (torch.cat(parts, dim=2) - self.shift) / self.scale

    def decode(self, latents: Tensor, frames: int) -> Tensor:
        """Decode latents to clips of `frames` frames.

        DataError if clips of this length have another number of latent frames.
        """
        self.config.pixel_size(frames, (latents.shape[2], latents.shape[3], latents.shape[4]))
        sizes = self.config.chunks(frames)
        chunks = (latents * self.scale + self.shift).split([latent for _, latent in sizes], dim=2)
        pairs = zip(chunks, sizes, strict=True)
        return self.spatial_vae.decode(
            torch.cat([self.temporal_vae.decode(chunk, length) for chunk, (length, _) in pairs], dim=2)
        )


def save_video_vae(path: Path, vae: VideoVAE) -> None:
    """Write a VAE as one safetensors file that holds its configuration."""
    save_tensors(path, vae.state_dict(), {CONFIG_KEY: asdict(vae.config)})


def stored_config(path: Path, metadata: Any) -> VideoVAEConfig:
    """Configuration that one of our files stores in its metadata. For any other file it is Open-Sora's."""
    if not isinstance(metadata, Mapping) or CONFIG_KEY not in metadata:
        return VideoVAEConfig()
    try:
        values = dict(metadata[CONFIG_KEY])
        temporal = {name: frozen(value) for name, value in dict(values.pop("temporal")).items()}
        spatial = {name: frozen(value) for name, value in values.items()}
        return VideoVAEConfig(temporal=TemporalConfig(**temporal), **spatial)
    except (KeyError, TypeError, ValueError) as problem:
        raise CheckpointError(
            f"{path}: its configuration is not that of a video VAE ({problem}); save it again"
        ) from None


def frozen(value: Any) -> Any:
    """Convert JSON lists to tuples, also lists inside lists."""
    return tuple(value) if isinstance(value, list) else value


def load_video_vae(path: Path, config: VideoVAEConfig | None = None) -> VideoVAE:
    """Load a VAE in eval mode and float32, from the official folder or from one safetensors file.

    Without `config`, the configuration of the file is used, or Open-Sora's if the file holds none. Raises
    CheckpointError unless the file has exactly the tensors of the configuration, all finite. `shift` and `scale` may be
    missing, because the configuration fixes them.
    """
    if path.is_dir():
        state, metadata = read_weights(path, WEIGHTS_FILE), None
    else:
        check_file(path)
        state, metadata = load_tensors(path)
    config = stored_config(path, metadata) if config is None else config
    shape = config.temporal
    for name, values in (("shift", SHIFT), ("scale", SCALE)):
        state.setdefault(name, torch.tensor(values[: shape.channels]).view(1, -1, 1, 1, 1))
    defining = {"temporal_vae.encoder.conv_in.conv.weight": (shape.filters, shape.channels, 3, 3, 3)}
    return load_strictly(state, lambda: VideoVAE(config), defining, depth=len(shape.multipliers), where=str(path))
