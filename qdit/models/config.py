"""Configurations of a DiT, an STDiT3 and a diffusers transformer as plain numbers, for steps that do not load torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from qdit.core.errors import ConfigError


@dataclass(frozen=True)
class DiTConfig:
    """Configuration of a DiT. `input_size` is the side of the latent (or of the image) in pixels."""

    family: ClassVar[str] = "dit"
    """Name of the family of models, as files say it."""

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
        """Number of output channels: noise and, as in all DiTs (learned sigma), as many channels for the variance."""
        return 2 * self.in_channels

    @property
    def null_class(self) -> int:
        """Label of the unconditional branch."""
        return self.num_classes

    def to_dict(self) -> dict[str, Any]:
        """The fields as a plain dictionary, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class STDiT3Config:
    """Configuration of an STDiT3; the defaults are Open-Sora 1.2's. The same model takes clips of any length and size.

    text_width, text_tokens   size of the text encoder's vectors, and the largest number of tokens in a prompt.
    base_size                 side in pixels at which the positions of neighbouring cells differ by one.
    pixels_per_cell, fps      defaults of `forward`: pixels per latent cell along a side, and frames per second.
    frame_positions           add a sin-cos embedding of the frame's number to its tokens. The official model has none;
                              without it, small models do not learn the direction of time.
    """

    family: ClassVar[str] = "stdit3"
    """Name of the family of models, as files say it."""

    in_channels: int = 4
    patch_size: int = 2
    frame_patch: int = 1
    hidden_size: int = 1152
    depth: int = 28
    num_heads: int = 16
    mlp_ratio: int = 4
    text_width: int = 4096
    text_tokens: int = 300
    frequency_size: int = 256
    base_size: int = 512
    pixels_per_cell: int = 8
    fps: int = 24
    frame_positions: bool = False

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads or self.head_size % 2:
            raise ConfigError(
                f"hidden_size {self.hidden_size} over num_heads {self.num_heads}: the width of a head must be a whole,"
                " even number; choose other heads"
            )
        if self.hidden_size % 4 or self.frequency_size % 2:
            raise ConfigError(
                f"hidden_size must be a multiple of 4 (found {self.hidden_size}) and frequency_size of 2"
                f" (found {self.frequency_size})"
            )

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def out_channels(self) -> int:
        """Number of output channels: the velocity, and as many variance channels that are never used."""
        return 2 * self.in_channels

    def to_dict(self) -> dict[str, Any]:
        """The fields as a plain dictionary, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class DiffusersConfig:
    """Configuration of a diffusers transformer: the name of its class, and the class's arguments as plain JSON."""

    family: ClassVar[str] = "diffusers"
    """Name of the family of models, as files say it."""

    class_name: str
    values: Mapping[str, Any]

    @property
    def in_channels(self) -> int:
        """Number of input channels."""
        return self._number("in_channels")

    @property
    def hidden_size(self) -> int:
        """Width of a token."""
        if "hidden_size" in self.values:
            return self._number("hidden_size")
        return self._number("num_attention_heads") * self._number("attention_head_dim")

    def _number(self, name: str) -> int:
        value = self.values.get(name)
        if not isinstance(value, int):
            raise ConfigError(f"{self.class_name}: its configuration has no whole number {name!r} (found {value!r})")
        return value

    def to_dict(self) -> dict[str, Any]:
        """The fields as a plain dictionary, for JSON."""
        return {"class_name": self.class_name, "values": dict(self.values)}
