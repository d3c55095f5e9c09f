"""The protocol of clip sampling: clip size, timesteps and guidance of a rectified flow. It loads no torch."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from qdit.core.errors import ConfigError
from qdit.models.config import STDiT3Config
from qdit.sampling.protocol import NO_DECODER, Sampled

TRAINING_STEPS = 1000
BASE_SIDE = 512
"""Side in pixels of the image whose timesteps are not shifted."""
CHUNK_FRAMES, CHUNK_LATENTS, FRAMES_PER_LATENT = 17, 5, 4
"""Frames that the VAE takes at once, the latent frames that it makes of them, and frames of each in a shorter chunk."""


def timestep_shift(frames: int, height: int, width: int) -> float:
    """Shift of the timesteps for this clip size: r = √(h w / 512²) · √T, as in Open-Sora 1.2.

    T is the number of latent frames in whole chunks of the clip (1 for an image). Raises ConfigError for a clip shorter
    than one chunk, because its r would be 0.
    """
    latents = 1 if frames == 1 else frames // CHUNK_FRAMES * CHUNK_LATENTS
    if latents == 0:
        raise ConfigError(
            f"frames {frames}: the timestep shift is defined for 1 frame or at least {CHUNK_FRAMES}; give `shift`"
        )
    return float((height * width) ** 0.5 / BASE_SIDE * latents**0.5)


def flow_timesteps(steps: int, shift: float) -> np.ndarray:
    """Timesteps (steps,) 1000 r u / (1 + (r − 1) u) in float64, for u = 1/steps … 1 and r = shift.

    Index 0 is the least noisy.
    """
    even = np.arange(1, steps + 1) / steps
    shifted: np.ndarray = TRAINING_STEPS * shift * even / (1 + (shift - 1) * even)
    return shifted


@dataclass(frozen=True)
class FlowProtocol(Sampled):
    """Protocol of clips: clip size, steps, guidance scale and root seed. The defaults are Open-Sora 1.2's.

    `height` and `width` are in pixels. Without `shift` the timesteps are shifted by `timestep_shift` of the clip.
    Guidance is applied only if `cfg_scale` > 1. The value 1.0 is the plain conditional model; smaller values are
    refused. `dtype` is the precision of the network's matrix products and of the VAE (`qdit.sampling.precision`).
    `decoder` names the VAE by its digest (`video_decoder_name`).
    """

    family: ClassVar[str] = "stdit3"
    precisions: ClassVar[tuple[str, ...]] = ("float32", "float16", "bfloat16")
    frames: int = 51
    height: int = 240
    width: int = 426
    fps: int = 24
    steps: int = 30
    cfg_scale: float = 7.0
    shift: float | None = None
    seed: int = 0
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    decoder: str = NO_DECODER

    def __post_init__(self) -> None:
        for name in ("frames", "height", "width", "fps"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ConfigError(f"{name} {value!r}: must be at least 1, a whole number")
        self.check()
        if self.shift is not None:
            if type(self.shift) not in (int, float) or not (math.isfinite(self.shift) and self.shift > 0):
                raise ConfigError(
                    f"shift {self.shift!r}: must be a number > 0 (1.0 leaves the timesteps evenly spaced)"
                )
            object.__setattr__(self, "shift", float(self.shift))
        _ = self.timesteps

    @property
    def timesteps(self) -> np.ndarray:
        """Timesteps (steps,) in float64, as the sampler uses them; index 0 is the least noisy."""
        shift = timestep_shift(self.frames, self.height, self.width) if self.shift is None else self.shift
        return flow_timesteps(self.steps, shift)

    @property
    def schedule(self) -> np.ndarray:
        """Timesteps (steps,) in float32, as the model sees them, on 0…1000; index 0 is the least noisy."""
        return self.timesteps.astype(np.float32)

    @property
    def constants(self) -> tuple[float, ...]:
        """Forward arguments that all samples share: frames per second, height and width of a clip."""
        return float(self.fps), float(self.height), float(self.width)


def clip_size(config: STDiT3Config, protocol: FlowProtocol) -> tuple[int, int, int]:
    """Size (T, H, W) of a model's output.

    For a model of pixels it is the size of the clip, else that of the latents of Open-Sora's VAE.
    """
    rows, columns = protocol.height // config.pixels_per_cell, protocol.width // config.pixels_per_cell
    if config.pixels_per_cell == 1:
        return protocol.frames, rows, columns
    chunks, rest = divmod(protocol.frames, CHUNK_FRAMES)
    return chunks * CHUNK_LATENTS + -(-rest // FRAMES_PER_LATENT), rows, columns
