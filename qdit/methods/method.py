"""The base class of quantization methods: the attributes and functions that every method has.

Class attributes are literals. Planning, pages and figures read them from the source, without importing it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar, Literal

from qdit.core.errors import Unsupported
from qdit.core.run import FULL_PRECISION_BITS
from qdit.methods.sources import needed_kinds
from qdit.models.network import Network
from qdit.quant.checkpoint import Quantized
from qdit.sampling.calibration import CalibrationSet

__all__ = ["FULL_PRECISION_BITS", "SCOPES", "Method", "Quantized", "Scope"]

Scope = Literal["common", "own"]
SCOPES: tuple[Scope, ...] = ("common", "own")


class Method(ABC):
    """A quantization method. To add a method, write a subclass in a new file in `baselines/`.

    `quantize` works on a copy, replaces only layers that the model lists as sites, and never seeds a global generator.
    A width of 16 bits means that nothing is quantized. It raises `Unsupported` for bits, models or options that the
    method does not support.
    """

    name: ClassVar[str]
    """Name in configurations and commands."""
    printed: ClassVar[str | None] = None
    """Name in tables and figures, as its paper prints it; None: `name`."""
    citation: ClassVar[str]
    """BibTeX of the paper, shown in the report."""
    calibration: ClassVar[tuple[str, ...]] = ()
    """Kinds of calibration data the method needs (`qdit.sampling.calibration.KINDS`)."""
    calibration_unused: ClassVar[tuple[tuple[str, str, Any], ...]] = ()
    """(kind, option, value): with this value of this option the method does not look at this kind."""
    Options: ClassVar[type]
    """Frozen dataclass of the method's options, of `CheckedOptions`: its annotations say which values are allowed."""
    base: ClassVar[str | None] = None
    """Method whose result this one only corrects: its checkpoint may be given instead of being made again.

    The base's options and kinds of calibration data are among this method's, with the same values in both.
    """
    learns_rounding: ClassVar[bool] = False
    """Whether it learns how to round over `iterations` of `batch` samples (options): what makes it costly."""
    common_weights_are_core: ClassVar[bool] = False
    """Whether scope `common` quantizes weights of a block's four linears only, so that sizes follow from shapes."""
    stores_more_than_codes: ClassVar[bool] = False
    """Whether its sites hold more than uniform weights: transforms, branches, other kinds. Then its size cannot be
    computed from shapes."""
    color: ClassVar[str | None] = None
    """Colour in plots, `#rrggbb`; None: one of those that are free."""
    marker: ClassVar[str | None] = None
    """Marker in plots, as matplotlib names it; None: one of those that are free."""
    line: ClassVar[str] = "-"
    """Line in plots, as matplotlib names it."""
    emphasized: ClassVar[bool] = False
    """Whether plots draw it with a heavy line."""
    learned_rows: ClassVar[tuple[int, int]] = (5120, 5120)
    """Samples on which rounding is learned at most: of images up to 256 pixels, and of larger ones or clips."""
    large_batch: ClassVar[int | None] = None
    """Largest batch of learned rounding for images of more than 256 pixels; None: that of the options."""
    sensitive_rows: ClassVar[int] = 0
    """Samples for which the method keeps inputs and gradients of all sites of a block."""
    learns_modulation: ClassVar[bool] = False
    """Whether rounding of the modulation layers of all blocks is learned together."""
    learns_scales: ClassVar[bool] = True
    """Whether a method that learns rounding also learns scales of activations, and so learns at 16-bit weights too."""
    memory_mb: ClassVar[int] = 64_000
    """Memory that a cluster gives one quantization of DiT-XL/2, and again as much at each further attempt."""
    minutes: ClassVar[int] = 240
    """Time that a cluster gives one quantization of DiT-XL/2, and again as much at each further attempt."""

    @classmethod
    def calibration_for(cls, options: Any) -> tuple[str, ...]:
        """Kinds of calibration data that the method needs under these options (an instance of `Options`)."""
        values = {field.name: getattr(options, field.name) for field in fields(options)}
        return needed_kinds(cls.calibration, cls.calibration_unused, values)

    @abstractmethod
    def quantize(
        self,
        model: Network,
        *,
        weight_bits: int,
        activation_bits: int,
        scope: Scope,
        calibration: Mapping[str, CalibrationSet],
        options: Any,
    ) -> Quantized:
        """Make a quantized copy of `model`."""

    def correct(
        self, model: Network, quantized: Quantized, calibration: Mapping[str, CalibrationSet], options: Any
    ) -> Quantized:
        """Add this method's correction to `quantized`, and return the result.

        `quantized` is the result of the method that `base` names, `model` is the full-precision model. For example,
        PTQD corrects the result of Q-Diffusion.
        """
        raise Unsupported(f"{self.name}: does not build on the checkpoint of another method")
