"""Block reconstruction: learned rounding of weights (AdaRound) and learned activation scales (LSQ), unit by unit.

A unit is any submodule of the model, usually a block. Its inputs come from the model with all earlier units quantized.
Its targets come from the full-precision model with full-precision inputs. This is the asymmetric form of BRECQ, as in
Q-Diffusion, TFMQ-DM and PTQ4DiT. After its reconstruction the weights of a unit have hard codes: floor or ceiling of W
/ scale. Its scales are those of ordinary static quantizers.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from qdit.core.devices import tensor_float_32
from qdit.core.errors import ConfigError, DataError
from qdit.core.options import Matmul
from qdit.core.seeds import Purpose, torch_generator
from qdit.models.generic.network import DiffusersNetwork
from qdit.models.network import Network
from qdit.models.roles import Site
from qdit.quant.adam import Adam
from qdit.quant.batches import Keywords, timestep_of
from qdit.quant.learnable import Learner, written_out
from qdit.quant.observe import Batch, capture
from qdit.quant.rounding import RoundingSteps
from qdit.quant.unit_calls import KeywordUnits
from qdit.quant.walk import keywords_only

CURVE_POINTS = 20
"""Points of a learning curve that are kept."""

ROWS = 256
"""Samples that are computed at a time where no gradients are needed."""


@dataclass(frozen=True)
class Reconstruction:
    """Hyperparameters. The defaults are those of BRECQ, which all three methods use.

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
        """Exponent of the regularizer at an iteration. None during the warm-up."""
        start = self.warmup * self.iterations
        if iteration < start:
            return None
        first, last = self.betas
        return last + (first - last) * (1 - (iteration - start) / max(1.0, self.iterations - start))


@dataclass(frozen=True)
class Unit:
    """Sites that are reconstructed together, and the submodule `name` that contains them.

    If a unit is a whole block of the model, it holds the block's number.
    """

    name: str
    sites: Sequence[Site]
    block: int | None = None

    def follows(self, other: "Unit") -> bool:
        """Whether the input of this unit is the output of the other unit, and both have the same further arguments."""
        return self.block is not None and other.block is not None and self.block == other.block + 1


@dataclass
class Curve:
    """Losses of one unit without the regularizer: at the start, at some iterations, and at the end with hard codes."""

    name: str
    iterations: int
    points: list[tuple[int, float]] = field(default_factory=list)
    before: float = 0.0
    after: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """JSON of the curve, with six significant digits."""
        short = [[at, float(f"{loss:.6g}")] for at, loss in self.points]
        ends = {"before": float(f"{self.before:.6g}"), "after": float(f"{self.after:.6g}")}
        return {"name": self.name, "iterations": self.iterations, "points": short, **ends}


def optimize(
    learner: Learner,
    outputs: Callable[[Tensor], Tensor],
    targets: Tensor,
    config: Reconstruction,
    *,
    name: str,
    generator: torch.Generator,
) -> Curve:
    """Learn roundings and scales so that `outputs(rows)` come close to `targets[rows]`.

    The loss is the squared error (or another power), summed over the tokens and averaged over batch and channels, plus
    λ times the rounding regularizer. If there are no scales to learn, it ends when all roundings have decided, because
    then there are no gradients any more. The curve counts the iterations that were computed.
    """
    roundings, scales = RoundingSteps(learner.roundings()), Scales(learner.scales())
    if not (roundings.roundings or scales.parameters):
        raise ConfigError(f"{name}: nothing to learn; give weights or activations fewer than 16 bits")
    curve = Curve(name, config.iterations)
    every = max(1, config.iterations // CURVE_POINTS)
    recent: list[Tensor] = []
    # All draws at once: a GPU would wait for indices that come from the CPU in each iteration.
    draws = torch.randint(len(targets), (config.iterations, min(config.batch, len(targets))), generator=generator).to(
        targets.device
    )
    for iteration, rows in enumerate(draws):
        computed = outputs(rows)
        error, gradient = error_and_gradient(computed.detach(), targets[rows], config.power)
        computed.backward(gradient)
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
    """Error Σ |computed − target|^power, shape (), and its gradient. It is summed over tokens, averaged over all else.

    Outputs without tokens, (rows, features), are summed over the features.
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


class Scales:
    """Adam for the activation scales of a unit. They lie in one tensor and stay positive."""

    def __init__(self, scales: Sequence[nn.Parameter]) -> None:
        self.parameters = list(scales)
        if not self.parameters:
            return
        self.values = nn.Parameter(torch.cat([scale.detach().flatten() for scale in self.parameters]))
        shares = self.values.detach().split([scale.numel() for scale in self.parameters])
        for scale, share in zip(self.parameters, shares, strict=True):
            scale.data = share.view_as(scale)
        self.adam = Adam([self.values])

    def step(self, rate: float) -> None:
        """Take one step with the stored gradients, then drop them.

        If a step would make a scale zero or negative, the scale is halved instead. This happens for inputs close to
        zero.
        """
        if not self.parameters:
            return
        gradients = [torch.zeros_like(scale) if scale.grad is None else scale.grad for scale in self.parameters]
        self.values.grad = torch.cat([gradient.flatten() for gradient in gradients])
        before = self.values.detach().clone()
        self.adam.step(rate)
        with torch.no_grad():
            self.values.copy_(torch.where(self.values <= 0, before / 2, self.values))  # a NaN stays, and is refused
        for scale in self.parameters:
            scale.grad = None

    def are_positive(self) -> bool:
        """Whether all scales are positive and finite."""
        return not self.parameters or bool((self.values.isfinite() & (self.values > 0)).all())


def reconstruct(
    model: Network,
    reference: Network,
    units: Sequence[Unit],
    batches: Callable[[], Iterable[Batch]],
    config: Reconstruction,
    *,
    learn: Literal["rounding", "scales", "both"],
    seed: int = 0,
) -> dict[str, Any]:
    """Reconstruct units in order, in place. Return the learning curves as a plain log.

    `reference` is the full-precision model whose weights are rounded, after any folding. `batches` gives the forward
    arguments of the calibration data; every call gives the same ones. They run through the model only up to the first
    unit. After that the outputs of a block are the inputs of the next.
    """
    model.requires_grad_(False)
    if isinstance(model, DiffusersNetwork) and isinstance(reference, DiffusersNetwork):
        return reconstruct_keywords(model, reference, units, keywords_only(batches()), config, learn=learn, seed=seed)
    timestep = torch.cat([timestep_of(batch) for batch in batches()])
    curves: list[Curve] = []
    before: Unit | None = None
    results = torch.empty(0)
    for number, unit in enumerate(tqdm(units, desc="reconstruction", unit="unit", mininterval=5)):
        if before is None or not unit.follows(before):
            inputs, _ = capture(model, unit.name, batches())
            originals, targets = capture(reference, unit.name, batches())
        else:
            inputs, originals = (results, *inputs[1:]), (targets, *originals[1:])
            targets = every(partial(_outputs, reference, unit.name, originals, timestep), len(timestep))
        outputs = partial(_outputs, model, unit.name, inputs, timestep)
        draw = torch_generator(seed, Purpose.RECONSTRUCTION, number)
        curve, results = _learn(model, reference, unit, outputs, targets, config, learn, draw)
        curves.append(curve)
        before = unit
    return _log(config, curves)


def reconstruct_keywords(
    model: DiffusersNetwork,
    reference: DiffusersNetwork,
    units: Sequence[Unit],
    batches: Sequence[Keywords],
    config: Reconstruction,
    *,
    learn: Literal["rounding", "scales", "both"],
    seed: int = 0,
) -> dict[str, Any]:
    """`reconstruct` for a transformer of diffusers, whose blocks take keyword arguments and several streams."""
    data, curves = KeywordUnits(model, reference, batches), []
    for number, unit in enumerate(tqdm(units, desc="reconstruction", unit="unit", mininterval=5)):
        if unit.block is None:
            raise ConfigError(f"{unit.name}: a unit of a transformer of diffusers must be a whole block")
        outputs, targets = data.enter(unit.block, unit.name)
        draw = torch_generator(seed, Purpose.RECONSTRUCTION, number)
        curves.append(_learn(model, reference, unit, outputs, targets, config, learn, draw)[0])
    return _log(config, curves)


def _outputs(model: Network, name: str, inputs: tuple[Tensor, ...], timestep: Tensor, rows: Tensor) -> Tensor:
    """What a submodule makes of some rows of its inputs."""
    model.step_context.timestep = timestep[rows]
    result: Tensor = model.get_submodule(name)(*(argument[rows] for argument in inputs))
    return result


def every(outputs: Callable[[Tensor], Tensor], rows: int) -> Tensor:
    """Outputs for all rows, without gradients."""
    with torch.no_grad():
        return torch.cat([outputs(indices) for indices in torch.arange(rows).split(ROWS)])


def _learn(
    model: Network,
    reference: Network,
    unit: Unit,
    outputs: Callable[[Tensor], Tensor],
    targets: Tensor,
    config: Reconstruction,
    learn: str,
    generator: torch.Generator,
) -> tuple[Curve, Tensor]:
    """Optimize and harden; the loss with hard codes before and after is measured on all data.

    Returns the learning curve and what the unit with hard codes makes of its inputs.
    """

    def hard_loss(results: Tensor) -> float:
        parts = zip(results.split(ROWS), targets.split(ROWS), strict=True)
        losses = [(computed - target).abs_().pow_(config.power).flatten(1).sum(dim=1) for computed, target in parts]
        return float(torch.cat(losses).mean() / (targets.shape[-1] if targets.dim() > 2 else 1))

    before = hard_loss(every(outputs, len(targets)))
    originals = {site.name: model.get_submodule(site.name) for site in unit.sites}
    learner = Learner(model, reference, unit.sites, rounding=learn != "scales", scales=learn != "rounding")
    if config.matmul == "tf32" and targets.device.type == "cpu":
        raise ConfigError("matmul tf32: CPUs have no TensorFloat-32; give --device cuda or leave the option out")
    with written_out(model, unit.name), tensor_float_32(enabled=config.matmul == "tf32"):
        curve = optimize(learner, outputs, targets, config, name=unit.name, generator=generator)
    learner.harden(originals)
    results = every(outputs, len(targets))
    curve.before, curve.after = before, hard_loss(results)
    return curve, results


def reconstruct_outputs(
    model: Network,
    reference: Network,
    name: str,
    sites: Sequence[Site],
    outputs: Callable[[Network, Tensor], Tensor],
    samples: int,
    config: Reconstruction,
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """Learn the rounding of some sites together, in place. `outputs(network, rows)` is (rows, features).

    It serves sites that form no submodule (TFMQ-DM's temporal information block). Return the learning curve as a plain
    log.
    """
    model.requires_grad_(False)
    with torch.no_grad():
        targets = outputs(reference, torch.arange(samples))
    generator = torch_generator(seed, Purpose.RECONSTRUCTION)
    model_outputs = partial(outputs, model)
    curve, _ = _learn(model, reference, Unit(name, sites), model_outputs, targets, config, "rounding", generator)
    return _log(config, [curve])


def _log(config: Reconstruction, curves: Iterable[Curve]) -> dict[str, Any]:
    arithmetic = {} if config.matmul == "float32" else {"matmul": config.matmul}
    units = [curve.to_json() for curve in curves]
    return {"iterations": config.iterations, "batch": config.batch, **arithmetic, "units": units}


def block_units(sites: Iterable[Site]) -> list[Unit]:
    """One unit per block, in the order of the blocks. Its submodule is the one that contains the block's sites."""
    sites_of_block: dict[int, list[Site]] = {}
    for site in sites:
        if site.block is not None:
            sites_of_block.setdefault(site.block, []).append(site)
    return [Unit(members[0].block_path, members, block) for block, members in sorted(sites_of_block.items())]
