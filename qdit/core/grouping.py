"""Group sizes and bytes of packed rows, computed with plain numbers, for steps that load no torch."""

from qdit.core.errors import ConfigError


def check_group_size(group_size: int, width: int, what: str) -> None:
    """Raise unless `group_size` divides the input width; the message lists the legal sizes."""
    if group_size < 1 or width % group_size:
        legal = [g for g in range(1, width + 1) if width % g == 0]
        raise ConfigError(f"{what}: group_size {group_size} does not divide {width}; legal: {legal}")


def packed_width(width: int, bits: int) -> int:
    """Number of bytes of a packed row with `width` codes."""
    return -(-width * bits // 8)
