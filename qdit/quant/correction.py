"""PTQD's correction of the predicted noise: one linear fit for each sampling step, and the variance of its residual."""

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor

from qdit.core.errors import CheckpointError, ConfigError

TENSORS = ("slope", "bias", "residual")
PREFIX = "correction."
"""Names of the tensors in a checkpoint."""


class NoiseCorrection:
    """PTQD's correction of the predicted noise ε_q of a quantized model: ε̂ = (ε_q − bias) / (1 + slope) at each step.

    `residual` (steps,) is the variance of the quantization noise that is left in ε̂. `slope` is (steps,), `bias`
    (steps, C). Index 0 is the least noisy sampling step (PTQD, §3.2). A correction belongs to one number of sampling
    steps.
    """

    def __init__(self, *, slope: Tensor, bias: Tensor, residual: Tensor) -> None:
        self.slope, self.bias, self.residual = slope.float(), bias.float(), residual.float()

    @property
    def steps(self) -> int:
        """Number of sampling steps for which the correction was fitted."""
        return len(self.slope)

    def apply(self, eps: Tensor, step: int) -> Tensor:
        """Correct the prediction of one step: noise (N, C, L, L), or velocity (N, C, T, H, W)."""
        return (eps - per_channel(self.bias[step].to(eps), eps)) / (1 + self.slope[step].to(eps))

    def variance(self, step: int) -> float:
        """Return the variance of the quantization noise that is left in the corrected prediction of one step."""
        return float(self.residual[step])

    def check(self, steps: int) -> None:
        """Raise ConfigError unless the correction was fitted for this number of sampling steps."""
        if steps != self.steps:
            raise ConfigError(
                f"the checkpoint's correction was made for {self.steps} steps, sampling has {steps}; sample with"
                f" {self.steps} steps or quantize again with calibration data of {steps}"
            )

    def spec(self) -> dict[str, Any]:
        """Return the JSON that describes the correction in a checkpoint's configuration."""
        return {"kind": "noise", "steps": self.steps}

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that a checkpoint stores for the correction, by name."""
        return {PREFIX + name: getattr(self, name) for name in TENSORS}

    @classmethod
    def take(cls, spec: Mapping[str, Any] | None, tensors: dict[str, Tensor]) -> Self | None:
        """Read the correction of a checkpoint and remove its tensors from `tensors`. None if there is no correction."""
        if spec is None:
            return None
        if spec.get("kind") != "noise":
            raise CheckpointError(f"correction kind {spec.get('kind')!r}: allowed is noise")
        correction = cls(**{name: tensors.pop(PREFIX + name) for name in TENSORS})
        if not len(correction.slope) == len(correction.bias) == len(correction.residual) == spec["steps"]:
            raise CheckpointError(f"correction tensors do not have the {spec['steps']} steps of the configuration")
        return correction


def per_channel(values: Tensor, like: Tensor) -> Tensor:
    """Reshape values (C,) so that they broadcast against `like` (N, C, …)."""
    return values.view(-1, *[1] * (like.dim() - 2))


def fit_correction(full: Tensor, quantized: Tensor, *, intercept: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Fit slope (), bias (C,) and residual variance () for one step, from predictions of noise or velocity (N, C, …).

    Linear regression explains the error Δ = ε_q − ε_fp by ε_fp. A negative slope becomes 0. The bias is the mean of Δ −
    slope · ε_fp for each channel. For the residual variance, slope and bias are removed from Δ, the standard deviation
    of each sample is computed, and their mean is divided by 1 + slope and squared.

    Without `intercept` the form is that of PTQD's program. There the bias is the mean of Δ itself, and the standard
    deviation is computed before the bias is removed.
    """
    x, error = full.double(), (quantized - full).double()
    centred = x - x.mean()
    spread = centred.square().mean()
    slope = ((centred * error).mean() / spread.clamp(min=1e-12)).clamp(min=0)
    rest = error - slope * x
    bias = (rest if intercept else error).mean(dim=(0, *range(2, rest.dim())))
    noise = rest - per_channel(bias, rest) if intercept else rest
    deviation = noise.flatten(1).std(dim=1).mean() / (1 + slope)
    return slope.float(), bias.float(), torch.square(deviation).float()
