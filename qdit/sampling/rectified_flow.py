"""Rectified flow with Open-Sora's timestep transform: Euler steps along a velocity, guided by text.

The model predicts v = data − noise at a timestep on the 0…1000 scale, 1000 being pure noise. Equal to diffusers'
FlowMatchEulerDiscreteScheduler with `shift` and explicit sigmas 1 − i/N (spec/models_metrics.md §3.4). Tables are
float64, clips float32. Like the other samplers this one is a generator over the trajectory, for calibration.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from qdit.core.errors import ConfigError
from qdit.core.failure import method_code
from qdit.models.config import STDiT3Config
from qdit.models.stdit3 import STDiT3
from qdit.sampling.noise import initial_noise
from qdit.sampling.precision import DTYPES, in_dtype
from qdit.sampling.protocol import NO_DECODER, USUAL, without_usual
from qdit.sampling.samplers import Correction

TRAINING_STEPS = 1000
BASE_SIDE = 512
"""Side in pixels of the image whose timesteps are not shifted."""
CHUNK_FRAMES, CHUNK_LATENTS, FRAMES_PER_LATENT = 17, 5, 4
"""Frames that the VAE takes at once, the latent frames that it makes of them, and frames of each in a shorter chunk."""

Velocity = Callable[[Tensor, Tensor], Tensor]
"""(x (N, C, T, H, W), timestep (N,)) → velocity (N, C, T, H, W)."""


def timestep_shift(frames: int, height: int, width: int) -> float:
    """r = √(h w / 512²) · √T, T the latent frames that whole chunks of the clip give (1 for an image).

    Raises ConfigError for clips shorter than one chunk, whose r would be 0.
    """
    latents = 1 if frames == 1 else frames // CHUNK_FRAMES * CHUNK_LATENTS
    if latents == 0:
        raise ConfigError(
            f"frames {frames}: the timestep shift is defined for 1 frame or at least {CHUNK_FRAMES}; give `shift`"
        )
    return float((height * width) ** 0.5 / BASE_SIDE * latents**0.5)


def flow_timesteps(steps: int, shift: float) -> np.ndarray:
    """(steps,) float64 timesteps 1000 r u / (1 + (r − 1) u) of u = 1/steps … 1: index 0 is the least noisy."""
    even = np.arange(1, steps + 1) / steps
    shifted: np.ndarray = TRAINING_STEPS * shift * even / (1 + (shift - 1) * even)
    return shifted


@dataclass(frozen=True)
class FlowProtocol:
    """What is sampled and how: clip, steps, guidance scale, root seed; the defaults are Open-Sora 1.2's.

    `height` and `width` are in pixels. Without `shift` the timesteps are shifted by `timestep_shift` of the clip.
    Guidance is applied only if `cfg_scale` > 1; 1.0 is the plain conditional model. `dtype` is the precision of the
    network's matrix products and of the VAE (`qdit.sampling.precision`), `decoder` the VAE, by its digest
    (`video_decoder_name`).
    """

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
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)}: must be at least 1")
        if not 1 <= self.steps <= TRAINING_STEPS:
            raise ConfigError(f"steps {self.steps}: allowed are 1 to {TRAINING_STEPS}")
        if not self.cfg_scale >= 0:
            raise ConfigError(f"cfg_scale {self.cfg_scale}: must be a number ≥ 0 (1.0 means no guidance)")
        if self.shift is not None and not self.shift > 0:
            raise ConfigError(f"shift {self.shift}: must be a number > 0 (1.0 leaves the timesteps evenly spaced)")
        if self.dtype not in DTYPES:
            raise ConfigError(f"dtype {self.dtype!r}: allowed are {', '.join(DTYPES)}")
        _ = self.timesteps

    @property
    def guided(self) -> bool:
        """Whether the branch without text is computed."""
        return self.cfg_scale > 1.0

    @property
    def timesteps(self) -> np.ndarray:
        """(steps,) float64, index 0 is the least noisy."""
        shift = timestep_shift(self.frames, self.height, self.width) if self.shift is None else self.shift
        return flow_timesteps(self.steps, shift)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary, for JSON; float32 and no decoder go without saying, as before there was a choice."""
        return without_usual(asdict(self))

    def unusual(self) -> dict[str, str]:
        """Precision and decoder, where they are not the usual ones."""
        return {name: value for name, value in self.to_dict().items() if name in USUAL}


def clip_size(config: STDiT3Config, protocol: FlowProtocol) -> tuple[int, int, int]:
    """(T, H, W) of what the model makes: the clip itself where a cell is a pixel, else latents of Open-Sora's VAE."""
    rows, columns = protocol.height // config.pixels_per_cell, protocol.width // config.pixels_per_cell
    if config.pixels_per_cell == 1:
        return protocol.frames, rows, columns
    chunks, rest = divmod(protocol.frames, CHUNK_FRAMES)
    return chunks * CHUNK_LATENTS + -(-rest // FRAMES_PER_LATENT), rows, columns


def guided_velocity(model: STDiT3, text: Tensor, mask: Tensor, protocol: FlowProtocol) -> Velocity:
    """Velocity for clips of the given texts (N, L, text_width) with masks (N, L), guided if the protocol says so.

    v = v_null + cfg_scale (v_text − v_null), where the branch without text has the prompt's own mask, as in the
    original. The branches run one after the other: half as many rows stay in a CPU's cache. Output float32. A model
    that was made half precision as a whole takes its inputs so; under a protocol's own precision they stay float32.
    """
    channels, network = model.config.in_channels, in_dtype(model, protocol.dtype)
    dtype = model.x_embedder.proj.weight.dtype if protocol.dtype == "float32" else torch.float32
    null = model.null_text(*text.shape[:2])
    sizes = (float(protocol.fps), float(protocol.height), float(protocol.width))

    def branch(x: Tensor, timestep: Tensor, tokens: Tensor) -> Tensor:
        output: Tensor = network(x.to(dtype), timestep, tokens, mask, *sizes)
        return output[:, :channels].float()

    def guided(x: Tensor, timestep: Tensor) -> Tensor:
        toward, away = branch(x, timestep, text), branch(x, timestep, null)
        return away + protocol.cfg_scale * (toward - away)

    return guided if protocol.guided else lambda x, timestep: branch(x, timestep, text)


def flow_step(x: Tensor, velocity: Tensor, now: float, after: float) -> Tensor:
    """x + v (t − t') / 1000."""
    return x + velocity * ((now - after) / TRAINING_STEPS)


def flow_trajectory(
    velocity: Velocity, x: Tensor, timesteps: np.ndarray, *, correction: Correction | None = None
) -> Iterator[tuple[int, Tensor]]:
    """Yield (step, x_t) from the noisy end down to step 0, then (−1, data); x is (N, C, T, H, W).

    A correction is applied to the velocity; its variance has no use, since no noise is added.
    """
    for step in reversed(range(len(timesteps))):
        yield step, x
        now, after = float(timesteps[step]), float(timesteps[step - 1]) if step else 0.0
        predicted = velocity(x, torch.full((len(x),), now, device=x.device))
        if correction is not None:
            with method_code():
                predicted = correction.apply(predicted, step)
        x = flow_step(x, predicted, now, after)
    yield -1, x


def sample_flow(
    velocity: Velocity, x: Tensor, timesteps: np.ndarray, *, correction: Correction | None = None
) -> Tensor:
    """The end of the trajectory: (N, C, T, H, W)."""
    _, data = deque(flow_trajectory(velocity, x, timesteps, correction=correction), maxlen=1)[0]
    return data


def sample_clips(
    model: STDiT3,
    protocol: FlowProtocol,
    text: Tensor,
    mask: Tensor,
    clips: Sequence[int],
    *,
    latent_size: tuple[int, int, int],
    correction: Correction | None = None,
) -> Tensor:
    """Latents (or pixels) (N, C, *latent_size) float32 of the clips with these indices, one per text, as one batch.

    The start noise of a clip depends only on (seed, clip index), so every method sees the same.
    """
    device = model.x_embedder.proj.weight.device
    noise = initial_noise((model.config.in_channels, *latent_size), protocol.seed, clips).to(device)
    with torch.inference_mode():
        velocity = guided_velocity(model, text.to(device), mask.to(device), protocol)
        return sample_flow(velocity, noise, protocol.timesteps, correction=correction).cpu()
