"""What is sampled and how: the part of a setting that decides every image."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from qdit.core.errors import ConfigError
from qdit.models.vae_files import vae_sha256
from qdit.sampling.schedule import TRAINING_STEPS

SAMPLERS = ("ddim", "ddpm")
PRECISIONS = ("float32", "float16")
NO_DECODER = "none"
USUAL = {"dtype": "float32", "decoder": NO_DECODER}
"""What a protocol says only where it is otherwise."""


def decoder_name(vae: Path | None) -> str:
    """What a protocol says about its decoder: `none`, or the kind of VAE and the digest of its files."""
    return NO_DECODER if vae is None else f"AutoencoderKL sha256:{vae_sha256(vae)}"


@dataclass(frozen=True)
class Protocol:
    """Sampler (`ddim` is η = 0, `ddpm` ancestral with learned variance), steps, guidance scale, root seed.

    Guidance is applied only if `cfg_scale` > 1; 1.0 is the plain conditional model. `dtype` is the precision of the
    network's matrix products and of the VAE (`qdit.sampling.precision`), `decoder` the VAE, by its digest
    (`decoder_name`). Where it computes is no part of a protocol.
    """

    sampler: Literal["ddim", "ddpm"] = "ddim"
    steps: int = 50
    cfg_scale: float = 1.0
    seed: int = 0
    dtype: Literal["float32", "float16"] = "float32"
    decoder: str = NO_DECODER

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise ConfigError(f"sampler {self.sampler!r}: allowed are {', '.join(SAMPLERS)}")
        if not 1 <= self.steps <= TRAINING_STEPS:
            raise ConfigError(f"steps {self.steps}: allowed are 1 to {TRAINING_STEPS}")
        if not self.cfg_scale >= 0:
            raise ConfigError(f"cfg_scale {self.cfg_scale}: must be a number ≥ 0 (1.0 means no guidance)")
        if self.dtype not in PRECISIONS:
            raise ConfigError(f"dtype {self.dtype!r}: allowed are {', '.join(PRECISIONS)}")

    @property
    def guided(self) -> bool:
        """Whether the unconditional branch is computed."""
        return self.cfg_scale > 1.0

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary, for JSON; float32 and no decoder go without saying, as before there was a choice."""
        return without_usual(asdict(self))

    def unusual(self) -> dict[str, str]:
        """Precision and decoder, where they are not the usual ones."""
        return {name: value for name, value in self.to_dict().items() if name in USUAL}


def without_usual(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a protocol without those that go without saying."""
    return {name: value for name, value in values.items() if USUAL.get(name) != value}
