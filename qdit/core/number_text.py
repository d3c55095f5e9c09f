"""Write numbers as text, as tables and sentences show them."""

from collections.abc import Callable


def fixed(decimals: int) -> Callable[[float], str]:
    """A function that writes a number as text with this many decimals."""
    return lambda value: f"{value:.{decimals}f}"


four_decimals = fixed(4)


def significant(value: float) -> str:
    """Text with three significant digits, without an exponent if it is readable: 0.0352, 12.3, 1870."""
    if value == 0 or 1e-4 <= abs(value) < 100:
        return f"{value:#.3g}"
    return f"{value:.0f}" if abs(value) >= 100 else scientific(value)


def scientific(value: float) -> str:
    """Text with three significant digits and an exponent: 9.80e-4. Exactly zero gives 0."""
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def size(value: float) -> str:
    """Text of a size in megabytes: a whole number, or two decimals below 100."""
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}"


def printed_size(value: float) -> str:
    """Text of a size in megabytes as the paper prints it: cut off, not rounded (`qdit.quant.size.printed_mb`)."""
    return f"{int(value)}" if value >= 100 else size(value)


def percent(value: float) -> str:
    """Text of a fraction as a percentage with one decimal."""
    return f"{value:.1%}"
