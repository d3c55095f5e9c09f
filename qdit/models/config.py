"""Shape of a DiT as plain numbers, for steps that load no torch."""

from dataclasses import asdict, dataclass
from typing import Any

from qdit.errors import ConfigError


@dataclass(frozen=True)
class DiTConfig:
    """Shape of a DiT. `input_size` is the side of the latent (or image) in pixels."""

    input_size: int = 32
    patch_size: int = 2
    in_channels: int = 4
    hidden_size: int = 1152
    depth: int = 28
    num_heads: int = 16
    mlp_ratio: int = 4
    num_classes: int = 1000
    frequency_size: int = 256

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads:
            raise ConfigError(
                f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}: choose a divisor"
            )
        if self.hidden_size % 4 or self.input_size % self.patch_size:
            raise ConfigError(
                f"hidden_size must be a multiple of 4 (found {self.hidden_size}) and input_size of patch_size"
                f" (found {self.input_size} and {self.patch_size})"
            )

    @property
    def tokens(self) -> int:
        """Number of tokens per image."""
        return (self.input_size // self.patch_size) ** 2

    @property
    def out_channels(self) -> int:
        """Noise and variance channels (learned sigma)."""
        return 2 * self.in_channels

    @property
    def null_class(self) -> int:
        """Label of the unconditional branch."""
        return self.num_classes

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary, for JSON."""
        return asdict(self)
