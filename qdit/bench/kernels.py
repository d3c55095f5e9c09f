"""`qdit bench kernels`: time the grouped linear at DiT-XL/2's shapes.

The times are compared with those of other libraries, with the goals, and with the processor's peak.
"""

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from tabulate import tabulate

from qdit.bench import forced, gpu_goals, parts, rivals, small
from qdit.bench.goals import Goal, Judged
from qdit.bench.layers import DIT_XL_LINEARS, GROUP_SIZES, Operands, operands, random_packed
from qdit.bench.record import ending, heading, judged_of, load, record, single_thread, verdicts
from qdit.bench.rivals import FULL, PEER_GROUPS
from qdit.bench.timing import Ratio, Timing, interleaved
from qdit.kernels import library
from qdit.kernels.backend import FORCE
from qdit.kernels.dispatch import grouped_linear

FASTEST = "avx512-vnni"
PEAK_BITS = {FASTEST: 512, "avx-vnni": 256}
"""Backend → width of its dot products of bytes. Its share of their peak rate has a goal."""
PEAK, PEAK_FLOAT = "peak of 8-bit dot products", "peak of float32"
PEAK_ROUNDS = 1_000_000
Limits = dict[int, tuple[float, ...]]
"""Group size or bits → required value, and an ambitious one if there is one."""

FP32: Limits = {32: (2.3, 2.8), 64: (2.9, 3.4), 128: (3.3, 3.8), 192: (3.5, 4.0), 288: (3.5, 4.0)}
FRACTION: Limits = {32: (0.65,), 64: (0.78,), 128: (0.86,), 288: (0.88,)}
OPENVINO: Limits = {32: (1.25,), 64: (1.25,), 128: (1.25,)}
AVX2: Limits = {4: (2.4,), 6: (2.1,)}


@dataclass(frozen=True)
class Size:
    """Amount of work: layers, group sizes, numbers of rows (the goals are about the first), and repeats."""

    linears: tuple[tuple[int, int], ...] = DIT_XL_LINEARS
    groups: tuple[int, ...] = GROUP_SIZES
    rows: tuple[int, ...] = (256, 2048)
    repeats: int = 15
    part_groups: tuple[int, ...] = (64, 128)
    forces_avx2: bool = True
    mini: bool = True


QUICK = Size(
    linears=((192, 96), (96, 192)),
    groups=(32, 96),
    rows=(16, 32),
    repeats=2,
    part_groups=(32,),
    forces_avx2=False,
    mini=False,
)

Key = tuple[int, tuple[int, int], str]
"""Rows, (inputs, outputs), candidate."""


def ours(bits: int, group_size: int) -> str:
    """Name of our linear for a bit width and a group size in the record."""
    return f"W{bits}A8 g{group_size}"


def measure(size: Size, command: str) -> dict[str, Any]:
    """Time our linears and the other libraries', compare with the goals, and return the record."""
    single_thread()
    rivals.load_first()
    before = load()
    timings: dict[Key, Timing] = {}
    missing: dict[str, str] = {}
    with torch.inference_mode():
        for rows in size.rows:
            for linear in size.linears:
                candidates = _candidates(size, operands(rows, *linear), main=rows == size.rows[0], missing=missing)
                repeats = size.repeats if rows == size.rows[0] else max(2, size.repeats // 3)
                timings |= {(rows, linear, name): t for name, t in interleaved(candidates, repeats).items()}
        with_parts = parts.measure(size.linears, size.part_groups, size.rows[0], max(2, size.repeats // 3))
        of_mini = small.ratios(2 * size.repeats) if size.mini else {}
    slower = _forced_avx2(size) if size.forces_avx2 else {"missing": "not wanted"}
    goals = [*_judge(size, timings, missing), *small.judge(of_mini, library.backend_name())]
    goals += [*_judge_avx2(slower), *_judge_gpu()]
    return record(
        "kernels",
        command,
        load_before=before,
        measured=[_entry(key, timing) for key, timing in timings.items()],
        missing=missing,
        parts=with_parts,
        mini=of_mini,
        avx2=slower,
        goals=[judged.to_dict() for judged in goals],
    )


def _candidates(size: Size, o: Operands, *, main: bool, missing: dict[str, str]) -> dict[str, Callable[[], object]]:
    """Candidates measured at one layer: peaks, other libraries, ours; only the main ones at other numbers of rows."""
    calls: dict[str, Callable[[], object]] = {}
    peak = peak_loop()
    if peak is not None:
        calls |= {PEAK: partial(peak, 0, PEAK_ROUNDS), PEAK_FLOAT: partial(peak, 1, PEAK_ROUNDS)}
    makers = rivals.rivals(size.groups)
    if not main:
        calls = {name: call for name, call in calls.items() if name == PEAK}
        makers = {"torch fp32": makers["torch fp32"]}
    calls |= rivals.calls(makers, o, missing)
    inputs, outputs = o.weight.shape[1], len(o.weight)
    for bits in (4, 6, 8) if main else (4,):
        for group_size in size.groups:
            packed = random_packed(inputs, outputs, group_size, bits)
            calls[ours(bits, group_size)] = partial(grouped_linear, o.x, packed, o.bias)
    return calls


def peak_loop() -> Callable[[int, int], float] | None:
    """A loop of our library that only computes, and returns the number of its operations.

    Kind 0 is the dot product of bytes of the backend in use. Kind 1 is the fused multiply-add of float32 in registers
    of the same width. None for a backend without dot products of bytes.
    """
    backend_in_use = library.backend()
    bits = PEAK_BITS.get(backend_in_use.name)
    if backend_in_use.library is None or bits is None or not hasattr(backend_in_use.library, "qdit_peak"):
        return None
    function = backend_in_use.library.qdit_peak
    function.restype, function.argtypes = ctypes.c_double, [ctypes.c_int, ctypes.c_int, ctypes.c_int64]
    return partial(function, bits) if function(bits, 0, 1) else None


def _entry(key: Key, timing: Timing) -> dict[str, Any]:
    rows, (inputs, outputs), name = key
    loop = peak_loop() if name in (PEAK, PEAK_FLOAT) else None
    kind = 0 if name == PEAK else 1
    operations = 2 * rows * inputs * outputs if loop is None else loop(kind, 1) * PEAK_ROUNDS
    return {
        "rows": rows,
        "inputs": inputs,
        "outputs": outputs,
        "candidate": name,
        "seconds": timing.to_dict(),
        "gops": operations / timing.minimum / 1e9,
    }


def ratio(timings: Mapping[Key, Timing], rows: int, rival: str, candidate: str) -> Ratio | None:
    """Speed of `candidate` divided by that of `rival`, as geometric mean over the layers.

    None if one was not measured.
    """
    layers = dict.fromkeys(linear for r, linear, _ in timings if r == rows)
    try:
        return Ratio.of([(timings[rows, linear, rival], timings[rows, linear, candidate]) for linear in layers])
    except KeyError:
        return None


def fraction_of_peak(timings: Mapping[Key, Timing], rows: int, candidate: str) -> Ratio | None:
    """Operations per second of our linear divided by those of `peak_loop`, which only computes dot products.

    It is the geometric mean over the layers.
    """
    loop = peak_loop()
    layers = dict.fromkeys(linear for r, linear, _ in timings if r == rows)
    if loop is None:
        return None
    pairs = []
    for linear in layers:
        scale = 2 * rows * linear[0] * linear[1] / (loop(0, 1) * PEAK_ROUNDS)
        peak, timing = timings[rows, linear, PEAK], timings[rows, linear, candidate]
        pairs.append((Timing(peak.minimum * scale, peak.median * scale, peak.spread, peak.repeats), timing))
    return Ratio.of(pairs)


def _judge(size: Size, timings: Mapping[Key, Timing], missing: Mapping[str, str]) -> Iterable[Judged]:
    """The goals of this processor."""
    rows = size.rows[0]
    applies = library.backend_name() == FASTEST
    elsewhere = f"a goal of processors with AVX512-VNNI, here runs {library.backend_name()}"

    def judged(goal: Goal, measured: Ratio | None, why: str, *, holds: bool = applies) -> Judged:
        if not holds:
            return Judged.without(goal, "not applicable", elsewhere)
        if measured is None:
            return Judged.without(goal, "not measured", why)
        return Judged.measured(goal, measured.minima, measured.medians)

    for g in size.groups:
        base = ratio(timings, rows, "torch fp32", ours(4, g))
        if g in FP32:
            yield judged(_goal(f"W4A8 g{g} vs torch fp32, {rows} rows", FP32[g]), base, "")
        for many in size.rows[1:]:
            other = ratio(timings, many, "torch fp32", ours(4, g))
            kept = None if base is None or other is None else _quotient(other, base)
            yield judged(Goal(f"W4A8 g{g}, ratio at {many} rows ÷ at {rows}", 0.85, 0.95), kept, "")
    against: list[tuple[str, int, str, tuple[float, ...]]] = []
    against += [(f"openvino u4 g{g}", g, "OpenVINO", OPENVINO[g]) for g in OPENVINO]
    against += [(f"onnxruntime u4 g{g}", g, "ONNX Runtime MatMulNBits", (3.0, 3.5)) for g in PEER_GROUPS]
    against += [(f"{FULL} g{g} (codes)", g, "oneDNN with zero points on both sides", (15.0,)) for g in PEER_GROUPS]
    for rival, g, title, limits in against:
        if g in size.groups:
            goal = _goal(f"W4A8 g{g} vs {title}", limits)
            yield judged(goal, ratio(timings, rows, rival, ours(4, g)), missing.get(rival, ""))
    for g in (g for g in size.groups if g in FRACTION):
        goal = _goal(f"W4A8 g{g}, fraction of VNNI peak", FRACTION[g])
        measured, has_vnni = fraction_of_peak(timings, rows, ours(4, g)), library.backend_name() in PEAK_BITS
        yield judged(goal, measured, "the library has no peak loop", holds=has_vnni)
    for g in size.groups:
        measured = ratio(timings, rows, ours(4, g), ours(6, g))
        yield judged(Goal(f"W6A8 against W4A8, g{g}", 0.92, 0.97), measured, "")


def _goal(name: str, limits: tuple[float, ...]) -> Goal:
    """A goal with its required value and, if there are two, the ambitious one."""
    return Goal(name, limits[0], limits[1] if len(limits) > 1 else None)


def _quotient(above: Ratio, below: Ratio) -> Ratio:
    return Ratio(
        above.minima / below.minima,
        above.medians / below.medians,
        max(above.spread, below.spread),
    )


def _forced_avx2(size: Size) -> dict[str, Any]:
    """Ratios with everything held to AVX2, measured by a process of its own; or `missing`, and why."""
    if "avx2" not in library.available():
        return {"missing": f"no AVX2 here (runs {', '.join(library.available())})"}
    environment = os.environ | {
        FORCE: "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
    }
    question = {"linears": size.linears, "rows": size.rows[0], "group_size": 128, "repeats": size.repeats}
    command = [sys.executable, "-m", forced.__name__, json.dumps(question)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        return {"missing": f"the process held to AVX2 failed: {last[0]}"}
    return json.loads(done.stdout)


def _judge_avx2(forced: Mapping[str, Any]) -> Iterable[Judged]:
    yield from small.judge(forced.get("mini", {}), "held to AVX2")
    for bits, limits in AVX2.items():
        goal = _goal(f"W{bits}A8 g128 vs fp32, both held to AVX2", limits)
        if "missing" in forced:
            yield Judged.without(goal, "not measured", forced["missing"])
        else:
            measured_ratio = forced["ratios"][str(bits)]
            yield Judged.measured(goal, measured_ratio["minima"], measured_ratio["medians"])


def _judge_gpu() -> Iterable[Judged]:
    for size, must in gpu_goals.LINEAR_GOALS.items():
        goal = Goal(f"W4A8 linear g{size} on a GPU, times as fast as cuBLAS bf16", must)
        yield Judged.without(goal, "not measured", "needs a GPU; there run `qdit bench gpu`")


def text(content: dict[str, Any], *, style: str = "simple") -> str:
    """Format a record as text: speeds, then goals with verdicts, then missed goals."""
    measured = content["measured"]
    lines = [*heading(content), ""]
    for rows in dict.fromkeys(entry["rows"] for entry in measured):
        lines += [
            f"GOP/s at {rows} rows (least CPU time; spread: quartiles ÷ median):",
            "",
            _speeds(measured, rows, style),
        ]
        lines.append("")
    if content.get("parts"):
        about = f"Time ÷ time of the plain product at {content['parts'][0]['rows']} rows, smallest (and medians):"
        lines += [about, "", parts.text(content["parts"], style=style), ""]
    if content.get("mini"):
        lines += [f"Linears of the mini model at {small.ROWS} rows:", "", small.text(content["mini"], style=style), ""]
    if content["missing"]:
        lines += ["Not timed:", "", *(f"- {name}: {reason}" for name, reason in content["missing"].items()), ""]
    judged = judged_of(content)
    return "\n".join([*lines, verdicts(judged, style=style), *ending(judged), ""])


def _speeds(measured: list[dict[str, Any]], rows: int, style: str) -> str:
    at_rows = [entry for entry in measured if entry["rows"] == rows]
    shapes = list(dict.fromkeys((entry["inputs"], entry["outputs"]) for entry in at_rows))
    table = []
    for name in dict.fromkeys(entry["candidate"] for entry in at_rows):
        entries = [entry for entry in at_rows if entry["candidate"] == name]
        spread = max(entry["seconds"]["spread"] for entry in entries)
        table.append([name, *(round(entry["gops"]) for entry in entries), f"{spread:.0%}"])
    return tabulate(table, ["", *(f"{i}→{o}" for i, o in shapes), "spread"], tablefmt=style)
