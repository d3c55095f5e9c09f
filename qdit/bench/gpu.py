"""`qdit bench gpu`: measure a GPU in eleven sections. If a section fails, the others still run."""

import re
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from tabulate import tabulate

from qdit.bench import gpu_goals, gpu_kernels, gpu_methods, gpu_models
from qdit.bench.goals import Goal, Judged
from qdit.bench.gpu_clock import Scale
from qdit.bench.modes import INTEGER
from qdit.bench.record import ending, heading, judged_of, load, record, verdicts
from qdit.core.devices import torch_device
from qdit.core.errors import ConfigError

FOLDER = Path("results/gpu")
SECTIONS: dict[str, Callable[[Scale], dict[str, Any]]] = {
    "reached": gpu_kernels.reached,
    "selftest": gpu_kernels.selftest,
    "correct": gpu_kernels.correct,
    "models": gpu_models.models,
    "sampling": gpu_models.sampling,
    "methods": gpu_methods.methods,
    "pipeline": gpu_methods.pipeline,
    "rounding": gpu_models.rounding,
    "decoding": gpu_models.decoding,
    "inputs": gpu_kernels.inputs,
    "speed": gpu_kernels.speed,
}
"""Name → section, in the order in which they run."""

APART = 0.05
"""Largest allowed relative distance of a method's images on device and CPU: codes at a border may differ."""
JUDGED_CARDS = ("H100", "H200")


def measure(
    command: str,
    *,
    device: str = "cuda",
    quick: bool = False,
    sections: Sequence[str] = (),
    say: Callable[[str], object] = lambda _: None,
) -> dict[str, Any]:
    """Measure the named sections, or all, and compare with the goals. Return the record.

    ConfigError for an unknown section or an absent device. `quick` takes tiny sizes, which only check that it works.
    """
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError("qdit bench gpu: no CUDA device is there; --device cpu --quick only checks that it works")
    if unknown := [name for name in sections if name not in SECTIONS]:
        raise ConfigError(f"section {unknown[0]!r}: allowed are {', '.join(SECTIONS)}")
    scale, before = Scale("cuda:0" if device == "cuda" else device, quick), load()
    torch_device(scale.device)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # results of the CPU, to compare with, do not depend on cores
    measured: dict[str, Any] = {}
    try:
        for name in sections or SECTIONS:
            measured[name] = run_section(name, scale)
            say(f"{name}: {measured[name].get('failed', 'done')[-200:]}, {measured[name]['seconds']} s")
    finally:
        torch.set_num_threads(threads)
    goals = [judged.to_dict() for judged in judge(measured, scale)]
    return record("gpu", command, load_before=before, device=scale.card, quick=quick, measured=measured, goals=goals)


def run_section(name: str, scale: Scale) -> dict[str, Any]:
    """Measure one section: its values and its seconds. If it fails, `failed` holds the end of the traceback instead."""
    start = time.perf_counter()
    try:
        measured = SECTIONS[name](scale)
    except Exception:
        measured = {"failed": traceback.format_exc()[-1500:]}
    scale.free()
    return {**measured, "seconds": round(time.perf_counter() - start, 1)}


def record_path(content: dict[str, Any]) -> Path:
    """Path of a record, made from the name of the GPU: for example `results/gpu/NVIDIA-H100-80GB-HBM3.json`."""
    return FOLDER / f"{re.sub('[^A-Za-z0-9.]+', '-', content['device']).strip('-')}.json"


def judge(measured: dict[str, Any], scale: Scale) -> Iterator[Judged]:
    """Every goal with its value and verdict. Goals of speed apply only to an H100 or H200 at full size."""
    applies = not scale.quick and any(card in scale.card for card in JUDGED_CARDS)
    for goal, value in correctness(measured):
        yield _judged(goal, value, applies=True)
    for goal, value in speeds(measured):
        yield _judged(goal, value, applies=applies)


def _judged(goal: Goal, value: float | None, *, applies: bool) -> Judged:
    if value is None:
        return Judged.without(goal, "not measured", "its section did not run or failed")
    if not applies:
        return Judged.without(goal, "not applicable", f"{value:.2f} on this device or at tiny sizes")
    return Judged.measured(goal, value)


def correctness(measured: dict[str, Any]) -> Iterator[tuple[Goal, float | None]]:
    """Goals that hold on every device, with their values: number of wrong kernel cases, and difference to the CPU."""
    kernels, methods, pipeline = (measured.get(name, {}) for name in ("correct", "methods", "pipeline"))
    wrong = None if "wrong" not in kernels else float(len(kernels["wrong"]))
    yield gpu_goals.WRONG_KERNELS, wrong
    distances = [entry[0] for entry in methods.values() if isinstance(entry, list)]
    bad = [entry for entry in distances if not isinstance(entry, float) or entry > APART]
    yield gpu_goals.WRONG_METHODS, float(len(bad)) if distances else None
    yield gpu_goals.PIXEL, pipeline.get("mean")


def speeds(measured: dict[str, Any]) -> Iterator[tuple[Goal, float | None]]:
    """Goals of speed, with their values and verdicts."""
    shapes = [times for name, times in measured.get("speed", {}).items() if isinstance(times, dict)]
    for name, goal in gpu_goals.LINEARS.items():
        pairs = [(times.get("bfloat16"), times.get(name)) for times in shapes]
        ratios = [rival / ours for rival, ours in pairs if isinstance(rival, float) and isinstance(ours, float)]
        yield goal, geometric_mean(ratios) if ratios and len(ratios) == len(pairs) else None
    forward = measured.get("models", {})
    for mode, goal in gpu_goals.FORWARDS.items():
        yield goal, _number(forward, mode, "times full precision")
    integer = _number(forward, INTEGER, "times full precision")
    yield gpu_goals.INTEGER_FORWARD, 1 / integer if integer else None
    for mode, goal in gpu_goals.HOURS.items():
        yield goal, _number(measured.get("sampling", {}), mode, "hours")


def _number(section: dict[str, Any], name: str, key: str) -> float | None:
    """A number of an entry that may be missing, or the text of a failure."""
    entry = section.get(name)
    return entry.get(key) if isinstance(entry, dict) else None


def text(content: dict[str, Any], *, style: str = "simple") -> str:
    """Format a record as text: the values of each section, then each goal with its verdict, then the missed goals."""
    rows = [
        [section, name, shown] for section, values in content["measured"].items() for name, shown in lines_of(values)
    ]
    body = tabulate(rows, ["section", "what", "value"], tablefmt=style, disable_numparse=True)
    judged = judged_of(content)
    size = "tiny sizes, which only check that everything works" if content["quick"] else "full size"
    lines = [*heading(content), f"{content['device']}, {size}", "", body, ""]
    return "\n".join([*lines, verdicts(judged, style=style), *ending(judged), ""])


def lines_of(values: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """Format the entries of a section as (name, value), each value as text in one line."""
    for name, value in values.items():
        entries = value.items() if isinstance(value, dict) else [("", value)]
        yield name, "; ".join(f"{key} {_short(number)}".strip() for key, number in entries).replace("|", "/")


def _short(value: Any) -> str:
    text_of_value = f"{value:.4g}" if isinstance(value, float) else str(value)
    return " ".join(text_of_value.split())[-300:]
