"""Block reconstruction: learned rounding of weights (AdaRound) and learned activation scales (LSQ), unit by unit.

A unit is any submodule of the model: a block, or a layer outside the blocks (`qdit.quant.units`). Its inputs come from
the model with all earlier units quantized. Its targets come from the full-precision model with full-precision inputs.
This is the asymmetric form of BRECQ, as in Q-Diffusion, TFMQ-DM and PTQ4DiT. After its reconstruction the weights of a
unit have hard codes: floor or ceiling of W / scale. Its scales are those of ordinary static quantizers.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from qdit.core.devices import tensor_float_32
from qdit.core.errors import ConfigError
from qdit.core.seeds import Purpose, torch_generator
from qdit.models.generic.network import DiffusersNetwork
from qdit.models.network import Network
from qdit.models.roles import Site
from qdit.quant.batches import Keywords, timestep_of
from qdit.quant.block_pass import block_pass
from qdit.quant.learnable import Learner, fast_gradients
from qdit.quant.observe import Batch
from qdit.quant.passes import MOST_ROWS, rows_of_pass
from qdit.quant.store import Rows, RowStore, capture_rows, passes, pieces
from qdit.quant.unit_calls import KeywordUnits
from qdit.quant.unit_learning import Autograd, Curve, Reconstruction, Trainable, optimize
from qdit.quant.walk import keywords_only


@dataclass(frozen=True)
class Unit:
    """Sites that are reconstructed together, and the submodule `name` that contains them.

    If a unit is a whole block of the model, it holds the block's number.
    """

    name: str
    sites: Sequence[Site]
    block: int | None = None

    def follows(self, other: "Unit") -> bool:
        """Whether the input of this unit is the output of `other`, and all further arguments of both are the same."""
        return self.block is not None and other.block is not None and self.block == other.block + 1

    @property
    def is_convolution(self) -> bool:
        """Whether the unit is one convolution (the patch embedding)."""
        return any(site.kind == "conv" and site.name == self.name for site in self.sites)

    def arranged(self, output: Tensor) -> Tensor:
        """Return the output of the submodule in the shape that the loss takes.

        For a convolution this is (N, channels, positions). The loss is summed over the second dimension, in all
        programs the channels of a convolution.
        """
        return output.flatten(2) if self.is_convolution else output


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

    `reference` is the full-precision model whose weights are rounded, after any folding. Each call of `batches` gives
    the same forward arguments of the calibration data. They run through the model only up to the first unit. After that
    the outputs of a block are the inputs of the next. `learn` says whether roundings of weights, scales of activations,
    or both are learned.
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
            advance(originals[0], Outputs(reference, unit, originals, timestep), size)
        outputs = Outputs(model, unit, inputs, timestep)
        draw = torch_generator(seed, Purpose.RECONSTRUCTION, number)
        goes_on = number + 1 < len(units) and units[number + 1].follows(unit)
        kept = inputs[0] if goes_on else None
        curves.append(_learn(model, reference, unit, outputs, originals[0], config, learn, draw, size=size, kept=kept))
        before = unit
    return _log(config, curves)


@dataclass(frozen=True)
class Outputs:
    """Computes the outputs of a unit for some of its stored inputs, with the model's current weights and quantizers."""

    model: Network
    unit: Unit
    inputs: tuple[RowStore, ...]
    timestep: Tensor

    def __call__(self, rows: Rows) -> Tensor:
        self.model.step_context.timestep = self.timestep[rows.on_device]
        submodule = self.model.get_submodule(self.unit.name)
        return self.unit.arranged(submodule(*(argument[rows] for argument in self.inputs)))

    def in_training(self) -> Trainable:
        """Return an object that computes the unit's gradients: by `block_pass` if possible, else by autograd."""
        return block_pass(self.model.get_submodule(self.unit.name), self.inputs) or Autograd(self)


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
    """Replace all rows of a store by the unit's outputs for them, `size` rows in one pass."""
    for start, rows in passes(len(store), size, store.device):
        store.write(start, outputs(rows))


@torch.no_grad()
def hard_loss(
    outputs: Callable[[Rows], Tensor], targets: RowStore, power: float, *, size: int, kept: RowStore | None = None
) -> float:
    """Compute the loss on all data, without the regularizer, in passes of `size` rows.

    `kept` receives the outputs of each pass.
    """
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
        unit_in_training = outputs.in_training() if isinstance(outputs, Outputs) else Autograd(outputs)
        curve = optimize(learner, unit_in_training, targets, config, name=unit.name, generator=generator)
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
    """Learn the rounding of some sites together, in place. `outputs(network, rows)` computes what they should preserve.

    It returns (rows, features). This function is for sites that form no submodule (TFMQ-DM's temporal information
    block). The result is the learning curve as a plain log.
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
    """Make one unit per block, in the order of the blocks. Its submodule is the one that contains the block's sites."""
    sites_of_block: dict[int, list[Site]] = {}
    for site in sites:
        if site.block is not None:
            sites_of_block.setdefault(site.block, []).append(site)
    return [Unit(members[0].block_path, members, block) for block, members in sorted(sites_of_block.items())]
