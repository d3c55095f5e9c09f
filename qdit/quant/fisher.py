"""Search for scales that minimize a layer's output error, weighted by an approximate Hessian (TQ-DiT, PTQ4ViT).

The score of a candidate is −Σ (g ⊙ (o − ô))². o is the exact output of the layer, ô the quantized output, and g a
gradient at o. The values g² are the diagonal of an approximate Hessian.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from qdit.core.errors import Unsupported
from qdit.core.seeds import Purpose, torch_generator
from qdit.models.network import Network
from qdit.models.roles import Site
from qdit.quant.batches import Keywords, positional, rows_in, run
from qdit.quant.observe import Batch, tapped
from qdit.quant.passes import rows_with_gradients
from qdit.quant.store import RowStore, pieces

Fisher = Literal["gauss-newton", "kl"]

FRACTIONS = tuple(0.01 + i * (1.2 - 0.01) / 100 for i in range(100))
"""Candidates as fractions of the start value (PTQ4ViT's grid)."""

SPLITS = tuple(2.0**-i for i in range(20))
"""Candidates for the split of the twin softmax quantizer."""


@dataclass(frozen=True)
class Sensitivity:
    """Inputs `x` of a site for all samples, and the gradients at its output.

    Linears have inputs (N, T, in) and gradients (N, T, out). The gradient of an operand of attention is taken at the
    operand itself, (N, heads, T, d).
    """

    x: Tensor
    gradient: Tensor


def sensitivities(
    model: Network, sites: Sequence[Site], batches: Iterable[Batch], *, fisher: Fisher, seed: int = 0
) -> dict[str, Sensitivity]:
    """Record the inputs of each site, and the gradients at its output, in the full-precision model; by site name.

    `gauss-newton`: g = Jᵀv, where v are random signs on the model's output. So E[g²] is the diagonal of the
    Gauss–Newton matrix. `kl`, the released form: g is the gradient of KL(softmax(prediction) ‖ softmax(prediction))
    over the last dimension. It is zero except for rounding errors.
    """
    data = positional(batches)
    count, kept = sum(len(batch[0]) for batch in data), dict[str, Kept]()
    for number, batch in enumerate(data):
        probe = Probe(fisher, len(batch[0]), torch_generator(seed, Purpose.PROBE, number))
        for piece in pieces([batch], rows_with_gradients(model.config, batch[0])):
            at_sites: dict[str, tuple[Tensor, Tensor]] = {}
            with _forward(model, sites, piece, at_sites) as output:
                probe.backward(output)
            for name, (x, at) in at_sites.items():
                gradient = torch.zeros_like(at) if at.grad is None else at.grad
                if name not in kept:
                    rows, of_gradient = (len(t) * count // len(piece[0]) for t in (x, gradient))
                    kept[name] = Kept(RowStore(rows, x.detach()), RowStore(of_gradient, gradient))
                kept[name].add(x.detach(), gradient)
    return {site.name: kept[site.name].result() for site in sites if site.name in kept}


def mean_squares(
    model: Network, sites: Sequence[Site], batch: Batch, *, seeds: Sequence[int]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Compute two mappings of site names on the full-precision model: to inputs, and to the mean of g² over the seeds.

    g are the Gauss–Newton gradients of `sensitivities`, with the same bits; each seed draws random signs. One forward
    pass serves all seeds. A batch of keyword arguments is computed in one pass. A pointwise convolution has its
    channels in the last dimension, also in its gradients.
    """
    count = rows_in(batch)
    probes = [Probe("gauss-newton", count, torch_generator(seed, Purpose.PROBE, 0)) for seed in seeds]
    inputs: dict[str, list[Tensor]] = {site.name: [] for site in sites}
    squares: dict[str, list[Tensor]] = {site.name: [] for site in sites}
    size = count if isinstance(batch, Keywords) else rows_with_gradients(model.config, batch[0])
    for piece in pieces([batch], size):
        at_sites: dict[str, tuple[Tensor, Tensor]] = {}
        with _forward(model, sites, piece, at_sites) as output:
            for number, probe in enumerate(probes):
                probe.backward(output, last=number + 1 == len(probes))
                for name, (x, at) in at_sites.items():
                    gradient = torch.zeros_like(at) if at.grad is None else at.grad
                    square, at.grad = gradient.square().div_(len(seeds)), None
                    if number:
                        squares[name][-1] += square
                    else:
                        inputs[name].append(x.detach())
                        squares[name].append(square)
    pointwise = {site.name for site in sites if site.kind == "pointwise"}

    def joined(name: str, parts: list[Tensor]) -> Tensor:
        whole = torch.cat(parts)
        return whole.movedim(1, -1) if name in pointwise else whole

    return (
        {name: joined(name, parts) for name, parts in inputs.items() if parts},
        {name: joined(name, parts) for name, parts in squares.items() if parts},
    )


@dataclass
class Kept:
    """Buffers for the inputs and gradients of a site, and the number of rows that are filled."""

    inputs: RowStore
    gradients: RowStore
    filled: int = 0

    def add(self, x: Tensor, gradient: Tensor) -> None:
        """Add the inputs and gradients of some samples."""
        self.inputs.write(self.filled, x)
        self.gradients.write(self.filled, gradient)
        self.filled += len(x)

    def result(self) -> Sensitivity:
        """Return the inputs and gradients of all samples."""
        return Sensitivity(self.inputs.whole(), self.gradients.whole())


class Probe:
    """A scalar function of the model's output, whose gradients are computed. A batch may come in several pieces."""

    def __init__(self, fisher: Fisher, samples: int, generator: torch.Generator) -> None:
        self.fisher, self.samples, self.generator = fisher, samples, generator
        self.signs: Tensor | None = None
        self.done = 0

    def backward(self, output: Tensor, *, last: bool = True) -> None:
        """Compute the gradients for the next piece of the batch. All pieces together give those of the whole batch.

        The autograd graph of `output` is kept if `last` is False, for another backward pass.
        """
        if self.fisher == "kl":
            log = F.log_softmax(output, dim=-1)
            divergence = F.kl_div(log, log.detach(), reduction="batchmean", log_target=True)
            (divergence * (len(output) / self.samples)).backward(retain_graph=not last)
            return
        if self.signs is None:
            shape = (self.samples, *output.shape[1:])
            self.signs = torch.randint(2, shape, generator=self.generator).to(output) * 2 - 1
        (output * self.signs[self.done : self.done + len(output)]).sum().backward(retain_graph=not last)
        self.done += len(output)


@contextmanager
def _forward(
    model: Network, sites: Sequence[Site], batch: Batch, kept: dict[str, tuple[Tensor, Tensor]]
) -> Iterator[Tensor]:
    """Context manager: the model's output for one batch, with gradients.

    `kept` receives each site's input and the tensor whose gradient is wanted. Weights get no gradients: nobody reads
    them, and they would cost a third of the time. Unsupported if the network calls a site twice in a pass.
    """

    def keep_input(name: str) -> Callable[..., None]:
        def hook(_module: object, arguments: tuple[Tensor, ...]) -> None:
            arguments[0].retain_grad()
            kept[name] = (arguments[0], arguments[0])

        return hook

    def keep_output(name: str) -> Callable[..., None]:
        def hook(_module: object, arguments: tuple[Tensor, ...], output: Tensor) -> None:
            if name in kept:
                raise Unsupported(f"{name}: is called twice in a forward pass; its gradients are not those of one call")
            if not output.requires_grad:  # nothing before it depends on x or on trainable weights (an STDiT3's text)
                output.requires_grad_()
            output.retain_grad()
            kept[name] = (arguments[0], output)

        return hook

    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.enable_grad(), tapped(model, sites):
        handles = [
            model.get_submodule(site.name).register_forward_pre_hook(keep_input(site.name))
            if site.kind == "operand"
            else model.get_submodule(site.name).register_forward_hook(keep_output(site.name))
            for site in sites
        ]
        try:
            for parameter in trainable:
                parameter.requires_grad_(False)
            if isinstance(batch, Keywords):
                yield run(model, batch)
            else:
                yield model(batch[0].clone().requires_grad_(), *batch[1:])
        finally:
            for parameter in trainable:
                parameter.requires_grad_()
            for handle in handles:
                handle.remove()


def search_scale(
    start: Tensor, product: Callable[[Tensor], Tensor], exact: Tensor, gradient: Tensor, *, candidates: Sequence[float]
) -> Tensor:
    """Find the best scale (P,): for each of P parts of a layer, the multiple of `start` (P,) with the best score.

    `product(scales)` is the quantized output. It, `exact` and `gradient` have shape (A, P, B). Part p of the output
    depends on scale p only. If several multiples have the same score, the largest is taken. So a gradient of zeros
    gives the largest candidate.
    """
    lowest = torch.full_like(start, torch.inf, dtype=torch.float64)
    best_scale = start.clone()
    for fraction in sorted(candidates):
        scale = start * fraction
        score = ((exact - product(scale)) * gradient).square().sum(dim=(0, 2), dtype=torch.float64)
        better = score <= lowest
        lowest, best_scale = torch.where(better, score, lowest), torch.where(better, scale, best_scale)
    return best_scale
