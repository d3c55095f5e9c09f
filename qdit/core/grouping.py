"""Rules for group sizes and for the bytes of packed rows. They need only plain numbers, so no torch is loaded."""

from qdit.core.errors import ConfigError


def check_group_size(group_size: int, width: int, what: str) -> None:
    """Raise ConfigError unless `group_size` divides the layer's input width; the message lists the sizes that do."""
    if group_size < 1 or width % group_size:
        legal = [g for g in range(1, width + 1) if width % g == 0]
        raise ConfigError(f"{what}: group_size {group_size} does not divide {width}; legal: {legal}")


def packed_width(width: int, bits: int) -> int:
    """Number of bytes that a row of `width` codes needs when its codes of `bits` bits are packed."""
    return -(-width * bits // 8)
