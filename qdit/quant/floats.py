"""Small floating-point formats: FP4, FP6 and FP8 elements, and the power-of-two scales E8M0.

A format has one sign bit, E exponent bits and M mantissa bits. Its numbers are ±2^(e − bias) · (1 + m / 2^M), and below
the smallest exponent ±2^(1 − bias) · m / 2^M. Rounding is to nearest, ties to even, and saturates at the largest number
(OCP Microscaling Formats v1.0, §5.3; OCP 8-bit Floating Point v1.0, §5). Everything is computed in float32, without
rounding errors: each division is by a power of two.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from qdit.core.errors import CheckpointError, ConfigError, did_you_mean

SCALE_BIAS = 127
"""Bias of E8M0: code c is the scale 2^(c − 127); code 255 is NaN (OCP MX §5.4.1)."""
LARGEST_SCALE_CODE = 254
EXPONENT = 0xFF << 23
"""Bits of the exponent in a float32."""


@dataclass(frozen=True)
class FloatFormat:
    """A float format of at most 8 bits. `largest` is its largest finite number; codes above it are NaN or infinity."""

    name: str
    exponent_bits: int
    mantissa_bits: int
    bias: int
    largest: float

    @property
    def bits(self) -> int:
        """Number of bits of a code."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def largest_exponent(self) -> int:
        """Exponent of the format's largest number: `emax` in the MX rule for scales."""
        return int(torch.frexp(torch.tensor(self.largest)).exponent) - 1

    def encode(self, x: Tensor) -> Tensor:
        """Round finite numbers to the format and return codes (uint8); too large values get the largest number."""
        clamped = self._clamped(x)
        step = self._step(clamped)
        steps = (clamped.abs() / step).round().to(torch.int32)
        exponent = exponent_of(step) + self.mantissa_bits
        code = (exponent + self.bias - 1) * 2**self.mantissa_bits + steps
        code = code.masked_fill(steps == 0, 0)
        return (code + (torch.signbit(clamped).to(torch.int32) << (self.bits - 1))).to(torch.uint8)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the numbers (float32) that codes mean; NaN for codes that are not a finite number."""
        return self.values(codes.device)[codes.long()]

    def round(self, x: Tensor) -> Tensor:
        """Round to the nearest numbers of the format, float32: `decode(encode(x))` in fewer operations."""
        clamped = self._clamped(x)
        step = self._step(clamped)
        return (clamped / step).round_().mul_(step)

    def _clamped(self, x: Tensor) -> Tensor:
        return x.float().clamp(-self.largest, self.largest)

    def _step(self, x: Tensor) -> Tensor:
        """Distance of the numbers of the format around |x|: 2^(⌊log2 |x|⌋ − M), and not less than the smallest number.

        The exponent of |x| is cut out of the bits of the float32.
        """
        binade = (x.view(torch.int32) & EXPONENT).view(torch.float32)
        return binade.clamp_(min=2.0 ** (1 - self.bias)).mul_(2.0**-self.mantissa_bits)

    def values(self, device: torch.device | str = "cpu") -> Tensor:
        """Return the number that each code means, (2^bits,) float32."""
        return _values(self).to(device)

    def check(self, codes: Tensor) -> None:
        """Raise CheckpointError if a code is not a finite number of the format."""
        if not self.decode(codes).isfinite().all():
            count = int((~self.decode(codes).isfinite()).sum())
            raise CheckpointError(f"{count} codes of {self.name} are NaN or infinite; quantize again")


@cache
def _values(form: FloatFormat) -> Tensor:
    field = torch.arange(2 ** (form.bits - 1), dtype=torch.float64)
    exponent, mantissa = field // 2**form.mantissa_bits, field % 2**form.mantissa_bits / 2**form.mantissa_bits
    normal = 2.0 ** (exponent - form.bias) * (1 + mantissa)
    positive = torch.where(exponent == 0, 2.0 ** (1 - form.bias) * mantissa, normal)
    positive = positive.masked_fill(positive > form.largest, torch.nan)
    return torch.cat([positive, -positive]).float()


FORMATS = {
    form.name: form
    for form in (
        FloatFormat("e2m1", 2, 1, 1, 6.0),
        FloatFormat("e2m3", 2, 3, 1, 7.5),
        FloatFormat("e3m2", 3, 2, 3, 28.0),
        FloatFormat("e4m3", 4, 3, 7, 448.0),
        FloatFormat("e5m2", 5, 2, 15, 57344.0),
    )
}
"""Element formats by name: FP4 E2M1, FP6 E2M3 and E3M2, FP8 E4M3 and E5M2."""
E2M1, E4M3, E5M2 = FORMATS["e2m1"], FORMATS["e4m3"], FORMATS["e5m2"]


def float_format(name: str) -> FloatFormat:
    """Return the format with this name (e2m1, e4m3, …); ConfigError lists the allowed names."""
    if name not in FORMATS:
        raise ConfigError(f"element {name!r}: allowed are {', '.join(FORMATS)}{did_you_mean(str(name), FORMATS)}")
    return FORMATS[name]


def power_of_two(exponent: Tensor) -> Tensor:
    """Compute 2^exponent, float32 and exact, for integers from −127 to 127."""
    bits = (exponent.to(torch.int32) + SCALE_BIAS) << 23
    return bits.masked_fill(exponent == -SCALE_BIAS, 1 << 22).view(torch.float32)  # 2^−127 is a subnormal number


def exponent_of(x: Tensor) -> Tensor:
    """Compute ⌊log2 x⌋ (int32) of positive float32 numbers."""
    return torch.frexp(x).exponent - 1


def mx_scale(largest: Tensor, form: FloatFormat) -> Tensor:
    """Compute the E8M0 code (uint8) of the scale of each MX block, from the block's largest absolute value `largest`.

    The scale is 2^(⌊log2 largest⌋ − emax) with the exponent `emax` of the format's largest number (OCP MX §6.3). A
    block of zeros has the smallest scale, 2^−127.
    """
    exponent = exponent_of(largest.float()) - form.largest_exponent
    exponent = exponent.clamp(-SCALE_BIAS, LARGEST_SCALE_CODE - SCALE_BIAS).masked_fill(largest == 0, -SCALE_BIAS)
    return (exponent + SCALE_BIAS).to(torch.uint8)


def scale_of(codes: Tensor) -> Tensor:
    """Return the scales (float32) that E8M0 codes 0 … 254 mean."""
    return power_of_two(codes.to(torch.int32) - SCALE_BIAS)


def nvfp4_tensor_scale(largest: Tensor) -> Tensor:
    """Compute NVFP4's scale of the whole tensor, float32: largest / (6 · 448), so that each block's scale fits E4M3."""
    scale = largest.float() / (E2M1.largest * E4M3.largest)
    return torch.where(largest == 0, torch.ones_like(scale), scale.clamp(min=torch.finfo(torch.float32).tiny))


def nvfp4_scale(largest: Tensor, tensor_scale: Tensor) -> Tensor:
    """Compute the E4M3 code (uint8) of the scale of each NVFP4 block: largest / 6 / tensor_scale, at least 2^−9."""
    return E4M3.encode(largest.float() / E2M1.largest / tensor_scale).clamp(min=1)
