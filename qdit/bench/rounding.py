"""`qdit bench rounding`: CPU time of one iteration of learned rounding, compared with its matrix products alone."""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any, Literal

import torch
from tabulate import tabulate
from torch import Tensor

from qdit.bench.record import heading, load, record, single_thread
from qdit.bench.timing import interleaved
from qdit.kernels.backend import forcing
from qdit.models.config import DiTConfig
from qdit.models.dit import DiT
from qdit.models.roles import CORE_ROLES, linear_of, select
from qdit.quant.apply import calibrate_static, round_weights
from qdit.quant.block_pass import block_pass
from qdit.quant.learnable import Learner, fast_gradients
from qdit.quant.ranges import minmax
from qdit.quant.reconstruction import block_units
from qdit.quant.store import capture_rows
from qdit.quant.unit_learning import Autograd, Reconstruction, optimize

MINI = DiTConfig(input_size=8, in_channels=1, hidden_size=144, depth=1, num_heads=6, num_classes=10)
ROWS, BATCH, ITERATIONS = 64, 16, 200
PRODUCTS, COMPILED = "matrix products alone", "as it runs here"
AUTOGRAD, TORCH = "gradients by torch, compiled steps", "torch's operations"
Learn = Literal["rounding", "both", "scales"]
KINDS: tuple[Learn, ...] = ("rounding", "both", "scales")


def measure(
    command: str, *, config: DiTConfig = MINI, iterations: int = ITERATIONS, repeats: int = 9
) -> dict[str, Any]:
    """Time learned rounding of a W4A8 block over `iterations`, once for each kind of learned values.

    The kinds are rounding, activation scales, or both.
    """
    single_thread()
    before, measured = load(), []
    torch.manual_seed(0)
    model = DiT(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    for learn in KINDS:
        learning = partial(_learn, model, _batch(config), learn, iterations)
        calls: dict[str, Callable[[], object]] = {
            PRODUCTS: partial(_products, model, BATCH, iterations),
            COMPILED: learning,
            AUTOGRAD: partial(learning, by_torch=True),
            TORCH: partial(_with_torch, learning),
        }
        for candidate, timing in interleaved(calls, repeats).items():
            seconds = {
                key: value / iterations for key, value in timing.to_dict().items() if key in ("minimum", "median")
            }
            measured.append({"learn": learn, "candidate": candidate, "seconds": seconds})
    return record("rounding", command, load_before=before, iterations=iterations, measured=measured, goals=[])


def _batch(config: DiTConfig) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(ROWS, config.in_channels, config.input_size, config.input_size, generator=generator)
    return x, torch.randint(1000, (ROWS,), generator=generator), torch.randint(10, (ROWS,), generator=generator)


def _learn(reference: DiT, batch: tuple[Tensor, ...], learn: Learn, iterations: int, *, by_torch: bool = False) -> None:
    """Learn one block; quantizing and capturing take part of the time, that of about five iterations."""
    model = deepcopy(reference).requires_grad_(False)
    sites = select(model.sites(), roles=CORE_ROLES)
    round_weights(model, sites, bits=4, rule=minmax)
    if learn != "rounding":
        calibrate_static(model, sites, [batch], bits=8, rule=minmax)
    (unit,) = block_units(sites)
    inputs = capture_rows(model, unit.name, [batch], len(batch[0]), output=False)
    targets, *_ = capture_rows(reference, unit.name, [batch], len(batch[0]), output=True)
    learner = Learner(model, reference, unit.sites, rounding=learn != "scales", scales=learn != "rounding")
    block = model.get_submodule(unit.name)
    schedule = Reconstruction(iterations, BATCH, rounding_rate=5 / iterations, scale_rate=1e-4)
    automatic = Autograd(lambda rows: block(*(argument[rows] for argument in inputs)))
    with fast_gradients(model, unit.name):
        optimize(
            learner,
            automatic if by_torch else block_pass(block, inputs) or automatic,
            targets,
            schedule,
            name=unit.name,
            generator=torch.Generator().manual_seed(0),
        )


def _with_torch(call: Callable[[], None]) -> None:
    with forcing("torch"):
        call()


def _products(model: DiT, batch: int, iterations: int) -> None:
    """The products of the four linears: forward, weight gradients, and input gradients where they are needed."""
    rows = batch * (model.config.input_size // model.config.patch_size) ** 2
    with torch.no_grad():
        for site in select(model.sites(), roles=CORE_ROLES):
            linear = linear_of(model, site)
            x, gradient = torch.ones(rows, linear.in_features), torch.ones(rows, linear.out_features)
            for _ in range(iterations):
                torch.nn.functional.linear(x, linear.weight, linear.bias)
                gradient.t() @ x
                if site.role != "qkv":
                    gradient @ linear.weight


def text(content: dict[str, Any], *, style: str = "simple") -> str:
    """Format a record as text: milliseconds of one iteration.

    They are divided by the time of its matrix products alone, and by the time with torch's operations.
    """
    table = []
    measured = content["measured"]
    for entry in measured:
        of_kind = {e["candidate"]: e["seconds"] for e in measured if e["learn"] == entry["learn"]}
        seconds = entry["seconds"]
        ratios = [f"{seconds['minimum'] / of_kind[rival]['minimum']:.2f}" for rival in (PRODUCTS, TORCH)]
        first = entry["learn"] if entry["candidate"] == PRODUCTS else ""
        table.append(
            [first, entry["candidate"], f"{1e3 * seconds['minimum']:.2f}", f"{1e3 * seconds['median']:.2f}", *ratios]
        )
    header = ["learned", "computed by", "ms", "(median)", "÷ products", "÷ torch"]
    align = ("left", "left", *["right"] * 4)
    body = tabulate(table, header, tablefmt=style, colalign=align, disable_numparse=True)
    about = f"CPU time of an iteration, mean of a schedule of {content['iterations']}, on one W4A8 block:"
    return "\n".join([*heading(content), "", about, "", body, ""])
