"""The protocol of image sampling: sampler, steps, guidance, seed, precision, labels and decoder."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from qdit.core.errors import ConfigError
from qdit.models.vae_files import vae_sha256
from qdit.sampling.schedule import TRAINING_STEPS, respaced

SAMPLERS = ("ddim", "ddpm")
PRECISIONS = ("float32", "float16")
LABEL_RULES = ("random", "balanced")
LabelRule = Literal["random", "balanced"]
MOST_GUIDANCE, MOST_SEED = 100.0, 2**63 - 1
"""Beyond such a guidance scale images are noise and float16 overflows; papers take at most 15."""
NO_DECODER = "none"
USUAL = {"dtype": "float32", "decoder": NO_DECODER, "labels": "random"}
"""What a protocol says only where it is otherwise."""


def decoder_name(vae: Path | None) -> str:
    """Name of a decoder in a protocol: `none`, or the kind of VAE and the digest of its files."""
    return NO_DECODER if vae is None else f"AutoencoderKL sha256:{vae_sha256(vae)}"


class Sampled:
    """Base class of all protocols, with the common fields: steps, guidance, seed, precision, decoder.

    The guidance scale is that of DiT: 1 is the plain conditional model. A scale between 0 and 1 would give the result
    of 1. It is refused, so that every record states the scale that was computed.
    """

    family: ClassVar[str]
    """Name of the family of networks that it is for."""
    precisions: ClassVar[tuple[str, ...]]
    steps: int
    cfg_scale: float
    seed: int
    dtype: Any
    decoder: str

    @property
    def schedule(self) -> np.ndarray:
        """Timesteps (steps,) as the model sees them; index 0 is the least noisy."""
        raise NotImplementedError

    @property
    def constants(self) -> tuple[float, ...]:
        """Forward arguments that all samples share."""
        raise NotImplementedError

    @property
    def ancestral(self) -> bool:
        """Whether the sampler adds new noise at each step, as DDPM does."""
        return False

    def check(self) -> None:
        """Raise ConfigError for steps, seed, guidance scale or precision that no sampler can use."""
        for name, least, most in (("steps", 1, TRAINING_STEPS), ("seed", 0, MOST_SEED)):
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                raise ConfigError(f"{name} {value!r}: allowed are whole numbers from {least} to {most}")
        scale = self.cfg_scale
        if type(scale) not in (int, float) or not (math.isfinite(scale) and 1 <= scale <= MOST_GUIDANCE):
            raise ConfigError(
                f"cfg_scale {scale!r}: allowed are numbers from 1 (no guidance) to {MOST_GUIDANCE:g}; a scale below 1"
                " would be computed as 1"
            )
        object.__setattr__(self, "cfg_scale", float(scale))
        if self.dtype not in self.precisions:
            raise ConfigError(f"dtype {self.dtype!r}: allowed are {', '.join(self.precisions)}")

    @property
    def guided(self) -> bool:
        """Whether guidance is used, so that the unconditional branch is computed too."""
        return self.cfg_scale > 1.0

    @property
    def evaluations(self) -> int:
        """Number of evaluations of the network to sample one image or clip, over all steps and branches."""
        return self.steps * (2 if self.guided else 1)

    def all_facts(self) -> dict[str, Any]:
        """Every field with its value, also where the value is the usual one."""
        return asdict(self)  # type: ignore[call-overload]

    def to_dict(self) -> dict[str, Any]:
        """The protocol as a dictionary for JSON. It leaves out usual values, as old files do."""
        return without_usual(self.all_facts())

    def unusual(self) -> dict[str, str]:
        """Those of precision, decoder and labels that do not have their usual values."""
        return {name: value for name, value in self.to_dict().items() if name in USUAL}


@dataclass(frozen=True)
class Protocol(Sampled):
    """Protocol of images: sampler, steps, guidance scale and root seed.

    `ddim` has η = 0. `ddpm` is ancestral sampling with learned variance. Guidance is applied only if `cfg_scale` > 1.
    The value 1.0 is the plain conditional model; smaller values are refused. `labels` says how the class of an image is
    chosen (`qdit.sampling.noise.labels`). `dtype` is the precision of the network's
    matrix products and of the VAE (`qdit.sampling.precision`). `decoder` names the VAE by its digest (`decoder_name`).
    The device does not belong to a protocol.
    """

    family: ClassVar[str] = "dit"
    precisions: ClassVar[tuple[str, ...]] = PRECISIONS
    sampler: Literal["ddim", "ddpm"] = "ddim"
    steps: int = 50
    cfg_scale: float = 1.0
    seed: int = 0
    dtype: Literal["float32", "float16"] = "float32"
    decoder: str = NO_DECODER
    labels: LabelRule = "random"

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise ConfigError(f"sampler {self.sampler!r}: allowed are {', '.join(SAMPLERS)}")
        if self.labels not in LABEL_RULES:
            raise ConfigError(f"labels {self.labels!r}: allowed are {', '.join(LABEL_RULES)}")
        self.check()

    def all_facts(self) -> dict[str, Any]:
        """Every field with its value. Random labels are left out, so that older samples keep their origin."""
        facts = super().all_facts()
        return facts if self.labels != "random" else {name: facts[name] for name in facts if name != "labels"}

    @property
    def ancestral(self) -> bool:
        """Whether the sampler adds new noise at each step, as DDPM does."""
        return self.sampler == "ddpm"

    @property
    def schedule(self) -> np.ndarray:
        """Timesteps (steps,) in int64, as the model sees them, on 0…999; index 0 is the least noisy."""
        return respaced(self.steps).timesteps

    @property
    def constants(self) -> tuple[float, ...]:
        """Forward arguments that all samples share. Images have none."""
        return ()


def without_usual(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a protocol, without those of precision, decoder and labels that have their usual values."""
    return {name: value for name, value in values.items() if USUAL.get(name) != value}
