"""The base class of a tool. A tool is another library that quantizes a diffusers transformer in memory.

A tool is one file with one class. The suite reads the attributes of the class in its own environment, where the package
of the tool is not installed. `quantize` runs in a separate process in the environment of the tools. So the file imports
the tool's package only inside functions, and this module imports only the standard library.
"""

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class Request:
    """What a tool shall do: bits, the names of the linears to quantize, and a function that runs calibration data.

    The layers are those of scope `common`, by their names in the transformer. `calibrate` calls the transformer with
    the noisy samples of the calibration set. Only a tool with `calibrated` bits needs it.
    """

    weight_bits: int
    activation_bits: int
    layers: Sequence[str]
    calibrate: Callable[[], None]

    @property
    def bits(self) -> str:
        """The bits as one text, as a profile writes them: for example w4a8."""
        return f"w{self.weight_bits}a{self.activation_bits}"


class Tool(abc.ABC):
    """One tool (quantization library). `name` is what a profile writes after `tool:`; all attributes are literals."""

    name: ClassVar[str]
    printed: ClassVar[str]
    """Name for readers."""
    package: ClassVar[str]
    """Distribution on PyPI, whose version is recorded."""
    licence: ClassVar[str]
    address: ClassVar[str]
    """Web address of its sources."""
    bits: ClassVar[Mapping[str, str]]
    """Bits that it can do → what it does then, in a few words: granularity, kind of ranges."""
    cannot: ClassVar[Mapping[str, str]] = {}
    """Bits that it cannot do → the reason."""
    calibrated: ClassVar[tuple[str, ...]] = ()
    """Bits at which it measures the ranges of activations on calibration data."""

    @abc.abstractmethod
    def quantize(self, transformer: Any, request: Request) -> Any:
        """Quantize a diffusers transformer, in place or as a new object, and return it.

        Only bits in `bits` are asked for.
        """

    def prepare(self) -> None:  # noqa: B027 - most tools have nothing to prepare
        """Do what the tool needs once after its installation, such as building kernels.

        `qdit tools install` calls it.
        """

    def refusal(self, bits: str) -> str | None:
        """Why the tool cannot do these bits; None if it can."""
        if bits in self.bits:
            return None
        known = ", ".join(name.upper() for name in self.bits)
        return f"{self.printed}: {self.cannot.get(bits, 'has no such bits')} (it does {known})"


def chosen(wanted: Sequence[str]) -> Callable[[Any, str], bool]:
    """Filter function (module, name) → whether the name is in `wanted`.

    Tools call their filters with these arguments.
    """
    names = frozenset(wanted)
    return lambda module, name: name in names
