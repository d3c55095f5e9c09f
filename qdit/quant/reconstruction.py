"""Block reconstruction: learned rounding of weights (AdaRound) and learned activation scales (LSQ), unit by unit.

A unit is any submodule of the model: a block, or a layer outside the blocks (`qdit.quant.units`). Its inputs come from
the model with all earlier units quantized. Its targets come from the full-precision model with full-precision inputs.
This is the asymmetric form of BRECQ, as in Q-Diffusion, TFMQ-DM and PTQ4DiT. After its reconstruction the weights of a
unit have hard codes: floor or ceiling of W / scale. Its scales are those of ordinary static quantizers.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from qdit.core.devices import tensor_float_32
from qdit.core.errors import ConfigError, DataError
from qdit.core.options import Matmul
from qdit.core.seeds import Purpose, torch_generator
from qdit.models.generic.network import DiffusersNetwork
from qdit.models.network import Network
from qdit.models.roles import Site
from qdit.quant.batches import Keywords, timestep_of
from qdit.quant.learnable import Learner, fast_gradients
from qdit.quant.learned_scales import Scales
from qdit.quant.observe import Batch
from qdit.quant.passes import MOST_ROWS, rows_of_pass
from qdit.quant.rounding import RoundingSteps
from qdit.quant.store import Rows, RowStore, capture_rows, passes, pieces
from qdit.quant.unit_calls import KeywordUnits
from qdit.quant.walk import keywords_only

CURVE_POINTS = 20
"""Points of a learning curve that are kept."""


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
        """Whether this unit takes the output of the other unit as its input, with the same further arguments."""
        return self.block is not None and other.block is not None and self.block == other.block + 1

    @property
    def is_convolution(self) -> bool:
        """Whether the unit is one convolution (the patch embedding)."""
        return any(site.kind == "conv" and site.name == self.name for site in self.sites)

    def arranged(self, output: Tensor) -> Tensor:
        """Output of the submodule as the loss takes it. Of a convolution: (N, channels, positions).

        The loss is summed over the second dimension. In all programs these are the channels of a convolution.
        """
        return output.flatten(2) if self.is_convolution else output


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
    outputs: Callable[[Rows], Tensor],
    targets: RowStore,
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
    draws = torch.randint(len(targets), (config.iterations, min(config.batch, len(targets))), generator=generator)
    for iteration, rows in enumerate(Rows.of(draws, targets.device).each()):
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
    """Error Σ |computed − target|^power, shape (), and its gradient.

    It is summed over tokens and averaged over the other dimensions. Outputs without tokens, (rows, features), are
    summed over the features. Outputs of a convolution, (rows, channels, positions), are summed over the channels.
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
    size, rows = rows_of_pass(model, next(iter(batches()))), len(timestep)
    curves: list[Curve] = []
    before: Unit | None = None
    inputs: tuple[RowStore, ...] = ()
    originals: tuple[RowStore, ...] = ()
    for number, unit in enumerate(tqdm(units, desc="reconstruction", unit="unit", mininterval=5)):
        if before is None or not unit.follows(before):
            inputs = originals = ()  # their memory is free before it is reserved again
            inputs = capture_rows(model, unit.name, pieces(batches(), size), rows, output=False)
            originals = capture_rows(reference, unit.name, pieces(batches(), size), rows, output=True)
            if unit.is_convolution:
                originals = (RowStore.of(unit.arranged(originals[0].whole())), *originals[1:])
        else:
            advance(originals[0], partial(_outputs, reference, unit, originals, timestep), size)
        outputs = partial(_outputs, model, unit, inputs, timestep)
        draw = torch_generator(seed, Purpose.RECONSTRUCTION, number)
        goes_on = number + 1 < len(units) and units[number + 1].follows(unit)
        kept = inputs[0] if goes_on else None
        curves.append(_learn(model, reference, unit, outputs, originals[0], config, learn, draw, size=size, kept=kept))
        before = unit
    return _log(config, curves)


def _outputs(model: Network, unit: Unit, inputs: tuple[RowStore, ...], timestep: Tensor, rows: Rows) -> Tensor:
    """Outputs of a unit for some rows of its inputs."""
    model.step_context.timestep = timestep[rows.on_device]
    return unit.arranged(model.get_submodule(unit.name)(*(argument[rows] for argument in inputs)))


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
        stored, of_rows = RowStore.of(targets), partial(_at, outputs)
        curves.append(_learn(model, reference, unit, of_rows, stored, config, learn, draw, size=MOST_ROWS))
    return _log(config, curves)


def _at(outputs: Callable[[Tensor], Tensor], rows: Rows) -> Tensor:
    """The function `outputs`, called with the indices of its device."""
    return outputs(rows.on_device)


@torch.no_grad()
def advance(store: RowStore, outputs: Callable[[Rows], Tensor], size: int) -> None:
    """Replace all rows of a store by the outputs for them, `size` rows at once."""
    for start, rows in passes(len(store), size, store.device):
        store.write(start, outputs(rows))


@torch.no_grad()
def hard_loss(
    outputs: Callable[[Rows], Tensor], targets: RowStore, power: float, *, size: int, kept: RowStore | None = None
) -> float:
    """Loss on all data without the regularizer, in passes of `size` rows. `kept` receives the outputs of each pass."""
    losses = []
    for start, rows in passes(len(targets), size, targets.device):
        computed = outputs(rows)
        losses.append((computed - targets[rows]).abs_().pow_(power).flatten(1).sum(dim=1))
        if kept is not None:
            kept.write(start, computed)
    return float(torch.cat(losses).mean() / targets.features)


def _learn(
    model: Network,
    reference: Network,
    unit: Unit,
    outputs: Callable[[Rows], Tensor],
    targets: RowStore,
    config: Reconstruction,
    learn: str,
    generator: torch.Generator,
    *,
    size: int,
    kept: RowStore | None = None,
) -> Curve:
    """Optimize and harden; the loss with hard codes before and after is measured on all data.

    `kept` receives the outputs of the unit with hard codes. It may be the memory of the inputs.
    """
    before = hard_loss(outputs, targets, config.power, size=size)
    originals = {site.name: model.get_submodule(site.name) for site in unit.sites}
    learner = Learner(model, reference, unit.sites, rounding=learn != "scales", scales=learn != "rounding")
    if config.matmul == "tf32" and targets.device.type == "cpu":
        raise ConfigError("matmul tf32: CPUs have no TensorFloat-32; give --device cuda or leave the option out")
    with fast_gradients(model, unit.name), tensor_float_32(enabled=config.matmul == "tf32"):
        curve = optimize(learner, outputs, targets, config, name=unit.name, generator=generator)
    learner.harden(originals)
    curve.before, curve.after = before, hard_loss(outputs, targets, config.power, size=size, kept=kept)
    return curve


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
        targets = RowStore.of(outputs(reference, torch.arange(samples)))

    def model_outputs(rows: Rows) -> Tensor:
        return outputs(model, rows.on_device)

    draw, unit = torch_generator(seed, Purpose.RECONSTRUCTION), Unit(name, sites)
    curve = _learn(model, reference, unit, model_outputs, targets, config, "rounding", draw, size=MOST_ROWS)
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
