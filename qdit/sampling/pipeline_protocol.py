"""Two protocols of a diffusers pipeline: for calls recorded from it, and for images made by it. No torch is loaded."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from qdit.core.errors import ConfigError
from qdit.sampling.protocol import NO_DECODER, Sampled


@dataclass(frozen=True)
class PipelineProtocol(Sampled):
    """Protocol of calls that were recorded from a pipeline of diffusers.

    `timesteps` are those that the transformer gets, in its own scale, as float32; index 0 is the least noisy.
    `cfg_scale` above 1 means that the transformer also computes an unconditional branch. A pipeline with a distilled
    guidance argument (FLUX) has 1.
    """

    family: ClassVar[str] = "diffusers"
    precisions: ClassVar[tuple[str, ...]] = ("float32", "float16", "bfloat16")
    timesteps: Sequence[float]
    pipeline: str = ""
    cfg_scale: float = 1.0
    seed: int = 0
    dtype: str = "float32"
    decoder: str = NO_DECODER

    def __post_init__(self) -> None:
        values = tuple(float(value) for value in self.timesteps)
        if not all(map(math.isfinite, values)) or any(a >= b for a, b in pairwise(values)):
            raise ConfigError(
                f"timesteps {values!r:.80}: must be finite and increase from the least noisy to the noisiest"
            )
        object.__setattr__(self, "timesteps", values)
        self.check()

    @property
    def steps(self) -> int:  # type: ignore[override]
        """Number of sampling steps."""
        return len(self.timesteps)

    @property
    def schedule(self) -> np.ndarray:
        """Timesteps (steps,) in float32, as the transformer gets them; index 0 is the least noisy."""
        return np.asarray(self.timesteps, dtype=np.float32)

    @property
    def constants(self) -> tuple[float, ...]:
        """Empty: the keyword set itself holds the forward arguments that all samples share."""
        return ()


FRAMES = (1, 2, 4, 5, 8, 10, 20, 25)
"""Numbers of frames that are kept of a clip. They divide 5,000, the images of a split of the inception score."""


@dataclass(frozen=True)
class PipelineImages(Sampled):
    """Protocol of images (or of frames of clips) that a whole pipeline makes from prompts.

    `cfg_scale` is the argument `guidance_scale` of the pipeline's call; `arguments` are its other arguments. `decoder`
    is the digest of all files of the pipeline except its transformer. `frames` above 0 says how many evenly spaced
    frames of each clip are kept as images.
    """

    family: ClassVar[str] = "diffusers"
    precisions: ClassVar[tuple[str, ...]] = ("float32", "float16", "bfloat16")
    pipeline: str = ""
    steps: int = 20
    cfg_scale: float = 1.0
    seed: int = 0
    dtype: str = "float32"
    decoder: str = NO_DECODER
    arguments: Mapping[str, Any] = field(default_factory=dict)
    frames: int = 0

    def __post_init__(self) -> None:
        if type(self.frames) is not int or self.frames not in (0, *FRAMES):
            allowed = ", ".join(map(str, FRAMES))
            raise ConfigError(f"frames {self.frames!r}: allowed are 0 (images), or frames kept of a clip: {allowed}")
        self.check()

    @property
    def constants(self) -> tuple[float, ...]:
        """Empty: the pipeline itself sets the forward arguments that all samples share."""
        return ()
