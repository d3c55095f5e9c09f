"""Learning of the roundings and scales of one unit of reconstruction: loss, Adam steps, and the learning curve."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from qdit.core.errors import ConfigError, DataError
from qdit.core.options import Matmul
from qdit.quant.learnable import Learner
from qdit.quant.learned_scales import Scales
from qdit.quant.rounding import RoundingSteps
from qdit.quant.store import Rows, RowStore

CURVE_POINTS = 20
"""Points of a learning curve that are kept."""


@dataclass(frozen=True)
class Reconstruction:
    """Hyperparameters of reconstruction. The defaults are those of BRECQ, which Q-Diffusion, TFMQ-DM and PTQ4DiT use.

    The regularizer is off for the fraction `warmup` of the iterations. Then its exponent falls linearly from 20 to 2.
    `scale_rate` falls to zero along a cosine. `power` is the exponent of the loss. `matmul` is the arithmetic of
    products while learning: float32, or on GPUs TensorFloat-32, whose inputs have ten bits. Targets, and losses with
    hard codes, are always float32.
    """

    iterations: int = 20_000
    batch: int = 32
    rounding_rate: float = 1e-3
    scale_rate: float = 4e-5
    regularization: float = 0.01
    warmup: float = 0.2
    betas: tuple[float, float] = (20.0, 2.0)
    power: float = 2.0
    matmul: Matmul = "float32"

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.batch < 1:
            raise ConfigError(
                f"reconstruction iterations {self.iterations}, batch {self.batch}: both must be at least 1"
            )

    def beta(self, iteration: int) -> float | None:
        """Return the exponent of the regularizer at an iteration; None during the warm-up."""
        start = self.warmup * self.iterations
        if iteration < start:
            return None
        first, last = self.betas
        return last + (first - last) * (1 - (iteration - start) / max(1.0, self.iterations - start))


@dataclass
class Curve:
    """Learning curve of one unit: losses without the regularizer, at the start, at some iterations, and at the end.

    The last loss is computed with hard codes.
    """

    name: str
    iterations: int
    points: list[tuple[int, float]] = field(default_factory=list)
    before: float = 0.0
    after: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the curve as JSON, with six significant digits."""
        short = [[at, float(f"{loss:.6g}")] for at, loss in self.points]
        ends = {"before": float(f"{self.before:.6g}"), "after": float(f"{self.after:.6g}")}
        return {"name": self.name, "iterations": self.iterations, "points": short, **ends}


class Trainable(Protocol):
    """Interface of a unit of reconstruction in training."""

    def gradients(self, rows: Rows, targets: RowStore, power: float) -> Tensor:
        """Return the error (), as `error_and_gradient` defines it, for the samples `rows`.

        The gradients of the soft weights and scales are stored in their `grad`.
        """
        ...


class Autograd:
    """A unit whose gradients torch computes. `outputs(rows)` returns its outputs for some of its stored inputs."""

    def __init__(self, outputs: Callable[[Rows], Tensor]) -> None:
        self.outputs = outputs

    def gradients(self, rows: Rows, targets: RowStore, power: float) -> Tensor:
        """Return the error () for the samples `rows`, and store the gradients."""
        computed = self.outputs(rows)
        error, gradient = error_and_gradient(computed.detach(), targets[rows], power)
        computed.backward(gradient)
        return error


def optimize(
    learner: Learner,
    unit: Trainable,
    targets: RowStore,
    config: Reconstruction,
    *,
    name: str,
    generator: torch.Generator,
) -> Curve:
    """Learn roundings and scales so that the outputs of the unit come close to `targets`.

    The loss is the squared error (or another power), summed over the tokens and averaged over batch and channels, plus
    λ times the rounding regularizer. If there are no scales to learn, learning ends when all roundings have decided (h
    is 0 or 1), because then all gradients are 0. The curve counts the iterations that were computed.
    """
    roundings, scales = RoundingSteps(learner.roundings()), Scales(learner.scales())
    if not (roundings.roundings or scales.parameters):
        raise ConfigError(f"{name}: nothing to learn; give weights or activations fewer than 16 bits")
    curve = Curve(name, config.iterations)
    every = max(1, config.iterations // CURVE_POINTS)
    recent: list[Tensor] = []
    # All draws at once: a GPU would wait for indices that come from the CPU in each iteration.
    draws = torch.randint(len(targets), (config.iterations, min(config.batch, len(targets))), generator=generator)
    for iteration, rows in enumerate(Rows.of(draws, targets.device).each()):
        error = unit.gradients(rows, targets, config.power)
        roundings.step(config.rounding_rate, config.beta(iteration), config.regularization)
        scales.step(config.scale_rate * 0.5 * (1 + math.cos(math.pi * iteration / config.iterations)))
        recent.append(error)
        if (iteration + 1) % every == 0 or iteration + 1 == config.iterations:
            curve.points.append((iteration + 1, float(torch.stack(recent).double().mean())))
            recent.clear()
            if not scales.parameters and roundings.open() == 0:
                curve.iterations = iteration + 1
                break
    roundings.settle()
    if not all(r.alpha.isfinite().all() for r in roundings.roundings) or not scales.are_positive():
        raise DataError(f"{name}: reconstruction diverged (a rounding is NaN or a scale not positive); lower its rates")
    return curve


def error_and_gradient(computed: Tensor, target: Tensor, power: float) -> tuple[Tensor, Tensor]:
    """Compute the error Σ |computed − target|^power, shape (), and its gradient with respect to `computed`.

    The error is summed over tokens and averaged over rows and channels. Outputs without tokens, (rows, features), are
    summed over the features. Outputs of a convolution, (rows, channels, positions), are summed over the channels and
    averaged over the positions.
    """
    difference = computed - target
    count = difference.shape[0] * (difference.shape[-1] if difference.dim() > 2 else 1)
    if power == 2:
        flat = difference.flatten()
        return torch.dot(flat, flat) / count, difference.mul_(2 / count)
    size = difference.abs()
    slope = size.pow(power - 1)
    error = torch.dot(slope.flatten(), size.flatten()) / count
    return error, slope.mul_(power / count).copysign_(difference)
