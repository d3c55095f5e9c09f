"""`qdit bench block`: time one block of DiT-XL/2, quantized as in each row of a table, and in full precision.

Each method quantizes a small model, and `qdit.bench.block_forms` enlarges the sites of its block. Rows whose sites hold
the same are one *form* (of a quantized block), which is measured once. If the integer layers cannot compute a form,
they raise `Unsupported`, and the record keeps the reason. Each form is timed alternately with float32 and bfloat16.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from tabulate import tabulate
from torch import nn

from qdit.bench.block_forms import enlarged_block
from qdit.bench.modes import random_model
from qdit.bench.record import load, record
from qdit.bench.timing import interleaved
from qdit.core.errors import QditError, Unsupported
from qdit.core.provenance import commit
from qdit.methods.quantize import quantize_model
from qdit.methods.registry import find_method
from qdit.models.config import DiTConfig
from qdit.models.dit import DiT
from qdit.quant.checkpoint import quantized_sites
from qdit.quant.integer import USE_SIMULATED, prepare_integer
from qdit.quant.sites import prepare_inference
from qdit.sampling.calibration import CalibrationSet, collect
from qdit.sampling.precision import round_linears
from qdit.sampling.protocol import Protocol

FLOAT32, BFLOAT16, INTEGER = "float32", "bfloat16", "integer"
EFFORT = {"iterations": 4, "batch": 4}
"""Options of learned rounding, which changes values only: the time of a block does not depend on them."""


@dataclass(frozen=True)
class Row:
    """A row of a table: label, bits, and the method with its options for the small model.

    `why` says why a row has no block to measure.
    """

    label: str
    bits: tuple[int, int]
    method: str
    options: Mapping[str, Any]
    why: str | None = None

    @property
    def name(self) -> str:
        """Bits of the row, as in the path of a run: `w4a8`."""
        return f"w{self.bits[0]}a{self.bits[1]}"


@dataclass(frozen=True)
class Scale:
    """What is measured: small and large model, images per batch, numbers of threads, repeats, and the device."""

    small: DiTConfig = field(
        default_factory=lambda: DiTConfig(
            input_size=8, in_channels=1, hidden_size=144, depth=1, num_heads=6, num_classes=10
        )
    )
    large: DiTConfig = field(default_factory=lambda: DiTConfig(depth=1))
    batch: int = 2
    threads: tuple[int, ...] = (1, 2)
    repeats: int = 9
    device: str = "cpu"

    @property
    def times(self) -> int:
        """Width of the large model divided by the width of the small model."""
        return self.large.hidden_size // self.small.hidden_size


QUICK = Scale(large=DiTConfig(input_size=4, depth=1, hidden_size=288, num_heads=4), repeats=2, threads=(1,))
"""Tiny: shows that the benchmark works, measures nothing."""


@dataclass(frozen=True)
class Form:
    """Rows whose sites are quantized in the same way. `key` (JSON) describes the sites.

    `why` says why the integer layers cannot compute them, or is None. `measured` has the times: number of threads →
    values.
    """

    key: str
    why: str | None
    measured: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def measure(
    command: str,
    rows: Sequence[Row],
    *,
    table: str,
    scale: Scale,
    say: Callable[[str], None],
    keep: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Measure the block of every row and return the record. `say` gets a line of text for each form.

    `keep` gets the unfinished record after each form, so that nothing is lost if the measurement is stopped.
    """
    forms: dict[str, Form] = {}
    listed: list[dict[str, Any]] = []
    blocks = _Blocks(scale)
    describe = partial(_record, command, table, scale, {"load_before": load(), "commit": commit()})
    for row in rows:
        entry = {"label": row.label, "bits": row.name, "method": row.method, "form": None, "why": None}
        entry["options"] = json.loads(json.dumps(dict(row.options)))
        try:
            key, small = blocks.small(row)
        except QditError as problem:
            listed.append(entry | {"why": " ".join(str(problem).split())})
            continue
        new = key not in forms
        if new:
            forms[key] = blocks.timed(key, small)
        listed.append(entry | {"form": list(forms).index(key)})
        if new:
            say(f"{row.name} {row.label}: {forms[key].why or 'integers'}")
            keep(describe(forms, listed))
    return describe(forms, listed)


def _record(
    command: str,
    table: str,
    scale: Scale,
    at_start: Mapping[str, Any],
    forms: Mapping[str, Form],
    rows: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """The record of what was measured so far."""
    return record(
        "block",
        command,
        **at_start,
        table=table,
        device=scale.device if scale.device == "cpu" else torch.cuda.get_device_name(scale.device),
        model={"width": scale.large.hidden_size, "tokens": scale.large.tokens, "batch": scale.batch},
        threads=list(scale.threads) if scale.device == "cpu" else [1],
        measured=[{"sites": json.loads(f.key), "why": f.why, "seconds": f.measured} for f in forms.values()],
        rows=list(rows),
        goals=[],
    )


class _Blocks:
    """Small blocks by method, and the large block in full precision."""

    def __init__(self, scale: Scale) -> None:
        self.scale = scale
        self.source: DiT = random_model(scale.small)
        self.full = random_model(scale.large).blocks[0].requires_grad_(False)
        self.calibration: dict[str, CalibrationSet] = {}

    def small(self, row: Row) -> tuple[str, nn.Module]:
        """(what its sites hold, as JSON; the block) of a row. Raises the errors of its method."""
        if row.why is not None:
            raise Unsupported(row.why)
        method = find_method(row.method)
        known = {option.name for option in dataclasses.fields(method.Options)}
        options = dict(row.options) | {name: value for name, value in EFFORT.items() if name in known}
        for kind in method.calibration:
            if kind not in self.calibration:
                self.calibration[kind] = collect(self.source, kind, Protocol("ddim", 4, 1.0, 0), samples=16)
        quantized = quantize_model(
            self.source,
            row.method,
            weight_bits=row.bits[0],
            activation_bits=row.bits[1],
            calibration={kind: self.calibration[kind] for kind in method.calibration},
            options=options,
        )
        block = quantized.model.get_submodule("blocks.0")
        specs = {name: site.spec() for name, site in sorted(quantized_sites(block).items())}
        return json.dumps(specs, sort_keys=True), block

    def timed(self, key: str, small: nn.Module) -> Form:
        """The form of a small block, with its times if the integer layers take it and it can be enlarged."""
        try:
            prepare_integer(deepcopy(small))
        except Unsupported as problem:
            why = str(problem).partition(": ")[2].removesuffix(f"; {USE_SIMULATED}")  # without the first layer's name
            return Form(key, why)
        try:
            block = enlarged_block(self.full, small, self.scale.times)
        except Unsupported as problem:
            return Form(key, str(problem))
        return Form(key, None, _times(block, self.full, self.scale))


def _times(block: nn.Module, full: nn.Module, scale: Scale) -> dict[str, dict[str, Any]]:
    """Number of threads → candidate → its timing. Quantized block and full precision run alternately."""
    measured = {}
    for threads in scale.threads if scale.device == "cpu" else (1,):
        torch.set_num_threads(threads)
        with torch.inference_mode():
            calls = dict(_candidates(block, full, scale))
            timings = interleaved(calls, scale.repeats, clock=_clock(threads, scale))
        measured[str(threads)] = {name: timing.to_dict() for name, timing in timings.items()}
    torch.set_num_threads(1)
    return measured


def _clock(threads: int, scale: Scale) -> Callable[[], float]:
    """CPU time of one thread; wall time of several threads and of a GPU, which is waited for."""
    if scale.device != "cpu":
        return partial(_wait_and_look, scale.device)
    return time.process_time if threads == 1 else time.perf_counter


def _wait_and_look(device: str) -> float:
    torch.cuda.synchronize(device)
    return time.perf_counter()


def _candidates(block: nn.Module, full: nn.Module, scale: Scale) -> Iterable[tuple[str, Callable[[], object]]]:
    """(name, call) of full precision in float32 and in bfloat16, and of a quantized block in integers."""
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randn(scale.batch, scale.large.tokens, scale.large.hidden_size, generator=draw).to(scale.device)
    inputs = tokens, torch.randn(scale.batch, scale.large.hidden_size, generator=draw).to(scale.device)
    halves = tuple(tensor.bfloat16() for tensor in inputs)
    yield FLOAT32, partial(prepare_inference(deepcopy(full).to(scale.device)), *inputs)
    yield BFLOAT16, partial(deepcopy(full).to(scale.device, torch.bfloat16), *halves)
    if scale.device == "cpu":
        yield INTEGER, partial(prepare_integer(deepcopy(block)), *inputs)
    else:  # what is not quantized computes in half precision there
        integer = prepare_integer(round_linears(deepcopy(block).to(scale.device), BFLOAT16))
        yield INTEGER, partial(_in_half, integer, *inputs)


def _in_half(block: nn.Module, *inputs: torch.Tensor) -> object:
    with torch.autocast(inputs[0].device.type, dtype=torch.bfloat16):
        return block(*inputs)


def text(content: dict[str, Any], *, style: str = "simple") -> str:
    """Format a record as text: the speed of each row divided by that of float32 and bfloat16, by the smallest times."""
    counts, where = [str(n) for n in content["threads"]], content["machine"]
    table = []
    for row in content["rows"]:
        form = None if row["form"] is None else content["measured"][row["form"]]
        why = row["why"] if form is None else form["why"]
        cells = [cell for n in counts for cell in _cells(form, n)]
        table.append([row["bits"], row["label"], *cells, why or ""])
    heads = [f"{name}, {n} thread{'s' * (n != '1')}" for n in counts for name in ("ms", "÷ float32", "÷ bfloat16")]
    model, around = content["model"], content["load"]
    return "\n".join(
        [
            f"{content['command']} · commit {content['commit']}",
            f"{where['processor']}, {where['cores']} cores, device {content['device']}, backend {content['backend']};"
            f" load average {around['before']:.1f} before, {around['after']:.1f} after",
            "",
            f"One block of DiT-XL/2 (width {model['width']}), {model['batch']} × {model['tokens']} tokens. The ratios"
            " are speeds relative to full precision, timed alternately (smallest times). One thread: CPU time. Several"
            " threads: wall time, so other programs on the machine count.",
            "",
            tabulate(
                table,
                ["bits", "row", *heads, "no integers"],
                tablefmt=style,
                disable_numparse=True,
                colalign=("left", "left", *["right"] * len(heads), "left"),
            ),
            "",
        ]
    )


def _cells(form: Mapping[str, Any] | None, threads: str) -> list[str]:
    seconds = {} if form is None else form["seconds"].get(threads, {})
    if INTEGER not in seconds:
        return ["–"] * 3
    integer = seconds[INTEGER]["minimum"]
    return [f"{1e3 * integer:.1f}", *(f"{seconds[rival]['minimum'] / integer:.2f}" for rival in (FLOAT32, BFLOAT16))]
