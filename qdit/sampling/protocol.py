"""What is sampled and how: the part of a setting that decides every image."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from qdit.errors import ConfigError
from qdit.sampling.schedule import TRAINING_STEPS

SAMPLERS = ("ddim", "ddpm")


@dataclass(frozen=True)
class Protocol:
    """Sampler (`ddim` is η = 0, `ddpm` ancestral with learned variance), steps, guidance scale, root seed.

    Guidance is applied only if `cfg_scale` > 1; 1.0 is the plain conditional model.
    """

    sampler: Literal["ddim", "ddpm"] = "ddim"
    steps: int = 50
    cfg_scale: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise ConfigError(f"sampler {self.sampler!r}: allowed are {', '.join(SAMPLERS)}")
        if not 1 <= self.steps <= TRAINING_STEPS:
            raise ConfigError(f"steps {self.steps}: allowed are 1 to {TRAINING_STEPS}")
        if not self.cfg_scale >= 0:
            raise ConfigError(f"cfg_scale {self.cfg_scale}: must be a number ≥ 0 (1.0 means no guidance)")

    @property
    def guided(self) -> bool:
        """Whether the unconditional branch is computed."""
        return self.cfg_scale > 1.0

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary, for JSON."""
        return asdict(self)
