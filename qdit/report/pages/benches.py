"""Read benchmarks of the kernels from the JSON files of `qdit bench`, as tables for the report."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from qdit.bench import gpu_goals
from qdit.core.errors import DataError
from qdit.core.files import read_json
from qdit.core.number_text import significant
from qdit.core.repository import ROOT

STUDIES = ROOT / "results" / "studies"
TITLES = {
    "kernels": "Linear layers: speed by bits and group size",
    "sampling": "One model evaluation, by mode",
    "memory": "Memory of a model, by mode",
    "latency": "Linear layers: milliseconds by group size",
    "rounding": "One iteration of learned rounding on a block of the mini model: milliseconds",
    "ranges": "Quantizing activations: milliseconds by kind of range",
    "gpu": "Goals on a GPU",
    "block": "One block of DiT-XL/2 in integers, one thread",
    "gpu-code": "Instructions of the GPU kernels for each group, and the bounds that follow",
}
FLOAT = "torch fp32"
GOAL_HEADINGS = ("Goal", "Verdict", "Must", "Ambitious", "Measured")


@dataclass(frozen=True)
class Grid:
    """A plain table: headings and rows of formatted cells; the first `texts` columns hold words."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    texts: int


@dataclass(frozen=True)
class Bench:
    """One benchmark: its goals and its measured numbers as tables; `origin` is the command, machine and commit."""

    name: str
    title: str
    goals: Grid | None
    measured: Grid | None
    origin: str

    @property
    def met(self) -> int:
        """Number of goals that the measurement reached."""
        return sum(row[1].startswith("met") for row in self.goals.rows) if self.goals else 0


def studies_folder(results: Path) -> Path:
    """Return the folder of studies: beside the profile's results if it exists, else in the repository.

    A study is measured once, not for each run.
    """
    beside = results.parent / "studies"
    return beside if beside.is_dir() else STUDIES


def bench_files(results: Path) -> list[Path]:
    """Return the files of benchmarks: those of this profile's run, then those of the studies, then those of GPUs."""
    run_files = sorted((results / "bench").glob("*.json"))
    study_files = sorted(studies_folder(results).glob("bench-*.json"))
    names = {file.stem for file in run_files}
    studies = [file for file in study_files if file.stem.removeprefix("bench-") not in names]
    gpu_files = sorted((studies_folder(results).parent / "gpu").glob("*.json"))
    return [*run_files, *studies, *gpu_files]


def benches_of(results: Path) -> list[Bench]:
    """All benchmarks. If there is no record of a GPU, its goals have the verdict "not measured"."""
    benches = [read_bench(path) for path in bench_files(results)]
    if any(bench.name == "gpu" for bench in benches):
        return benches
    why = {"verdict": "not measured", "why": "needs a GPU; there run `qdit bench gpu`"}
    goals = tuple(_goal({"goal": asdict(goal), **why}) for goal in gpu_goals.GOALS)
    return [*benches, Bench("gpu", TITLES["gpu"], Grid(GOAL_HEADINGS, goals, 2), None, "no record in results/gpu")]


def read_bench(path: Path) -> Bench:
    """Read the file of a benchmark; DataError for a file of another format."""
    content = read_json(path)
    try:
        name, measured = str(content["bench"]), content.get("measured")
        grid = GRIDS[name](content) if name in GRIDS and measured else None
        goals = [_goal(entry) for entry in content.get("goals", ())]
        machine = content["machine"]
        origin = (
            f"{content['command']} on {machine['processor']} ({machine['cores']} cores), backend {content['backend']},"
            f" commit {content['commit']}"
        )
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as problem:
        raise DataError(
            f"{path}: not a record of `qdit bench` ({type(problem).__name__}: {problem}); measure again"
        ) from None
    title = f"{TITLES[name]}: {content.get('device')}" if name == "gpu" else TITLES.get(name, name)
    return Bench(name, title, Grid(GOAL_HEADINGS, tuple(goals), 2) if goals else None, grid, origin)


def _goal(entry: Mapping[str, Any]) -> tuple[str, ...]:
    goal, value = entry["goal"], entry.get("value")
    sign = "≤ " if goal["at_most"] else "≥ "
    limits = ("–" if goal[name] is None else f"{sign}{goal[name]:g}" for name in ("must", "ambitious"))
    verdict = f"{entry['verdict']} ({entry['why']})" if entry.get("why") else str(entry["verdict"])
    return (str(goal["name"]), verdict, *limits, "–" if value is None else significant(float(value)))


def _kernels(content: Mapping[str, Any]) -> Grid:
    """Speed of each candidate by number of rows: geometric mean over the layers, and its ratio to torch's float32."""
    speeds: dict[tuple[str, int], dict[tuple[int, int], float]] = {}
    for entry in content["measured"]:
        by_layer = speeds.setdefault((entry["candidate"], entry["rows"]), {})
        by_layer[entry["inputs"], entry["outputs"]] = float(entry["gops"])
    counts = sorted({rows for _, rows in speeds})
    body = []
    for name in dict.fromkeys(candidate for candidate, _ in speeds):
        cells = []
        for rows in counts:
            ours, rival = speeds.get((name, rows), {}), speeds.get((FLOAT, rows), {})
            shared = [layer for layer in ours if layer in rival]
            cells.append(significant(geometric_mean(ours.values())) if ours else "–")
            cells.append(significant(geometric_mean(ours[x] / rival[x] for x in shared)) if shared else "–")
        body.append((name, *cells))
    heads = [head for rows in counts for head in (f"{rows} rows: GOPS", f"÷ {FLOAT}")]
    return Grid(("Candidate", *heads), tuple(body), 1)


def _sampling(content: Mapping[str, Any]) -> Grid:
    body = []
    for model, modes in content["measured"].items():
        full = modes.get("full precision", {}).get("median")
        for mode, seconds in modes.items():
            ratio = significant(seconds["median"] / full) if full else "–"
            body.append((str(model), str(mode), milliseconds(seconds), ratio))
    return Grid(("Model", "Mode", "Median (ms)", "÷ full precision"), tuple(body), 2)


def _memory(content: Mapping[str, Any]) -> Grid:
    body = tuple(
        (str(mode), f"{sizes['weight_bytes'] / 1e6:.1f}", f"{sizes['peak_bytes'] / 1e6:.1f}")
        for mode, sizes in content["measured"].items()
    )
    return Grid(("Mode", "Weights (MB)", "Peak of the process (MB)"), body, 1)


def _latency(content: Mapping[str, Any]) -> Grid:
    return _pivot(
        content["measured"],
        "Layer",
        lambda entry: f"{entry['inputs']} → {entry['outputs']}",
        lambda entry: f"g {entry['group_size']}",
    )


def _ranges(content: Mapping[str, Any]) -> Grid:
    return _pivot(
        content["measured"],
        "Input",
        lambda entry: f"{entry['batch']} × {entry['tokens']} tokens, {entry['inputs']} → {entry['outputs']}",
        lambda entry: str(entry["ranges"]),
    )


def _block(content: Mapping[str, Any]) -> Grid:
    """Times of one block in integers, one thread, by row of the table; all precisions were timed alternately."""
    body = []
    for row in content["rows"]:
        measured = content["measured"][row["form"]] if row.get("form") is not None else {"seconds": {}}
        times = measured["seconds"].get("1")
        cells = ["–", "–", "–"]
        if times:
            ours = times["integer"]
            ratios = [significant(times[rival]["minimum"] / ours["minimum"]) for rival in ("float32", "bfloat16")]
            cells = [milliseconds(ours), *ratios]
        body.append((str(row["label"]), str(row["bits"]).upper(), *cells))
    return Grid(("Row", "Bits", "Median (ms)", "times as fast as float32", "as bfloat16"), tuple(body), 2)


def _rounding(content: Mapping[str, Any]) -> Grid:
    return _pivot(
        content["measured"],
        "Iteration",
        lambda entry: str(entry["candidate"]),
        lambda entry: f"learns {'rounding and scales' if entry['learn'] == 'both' else entry['learn']}",
    )


def _gpu_code(content: Mapping[str, Any]) -> Grid:
    numbers = ("instructions", "share", "times bf16")
    body = (
        (str(row["size"]), str(row["form"]), *(significant(float(row[name])) for name in numbers))
        for row in content["measured"]
    )
    heads = ("Group size", "Form", "Instructions", "Bound, share of the int8 peak", "Bound ÷ bfloat16 peak")
    return Grid(heads, tuple(body), 2)


def _gpu(content: Mapping[str, Any]) -> Grid:
    """What each section measured, one row for each entry."""
    body = []
    for section, values in content["measured"].items():
        for name, value in values.items():
            entries = value.items() if isinstance(value, Mapping) else [("", value)]
            shown = [f"{key} {significant(x) if isinstance(x, float) else x}".strip() for key, x in entries]
            body.append((section, name, "; ".join(shown)))
    return Grid(("Section", "What", "Measured"), tuple(body), 3)


def _pivot(
    measured: Iterable[Mapping[str, Any]],
    heading: str,
    row: Callable[[Mapping[str, Any]], str],
    column: Callable[[Mapping[str, Any]], str],
) -> Grid:
    """Median milliseconds as a table: `row` and `column` name the cell of each entry."""
    by_row: dict[str, dict[str, str]] = {}
    for entry in measured:
        by_row.setdefault(row(entry), {})[column(entry)] = milliseconds(entry["seconds"])
    columns = list(dict.fromkeys(name for cells in by_row.values() for name in cells))
    body = tuple(
        (name, *(cells.get(name_of_column, "–") for name_of_column in columns)) for name, cells in by_row.items()
    )
    return Grid((heading, *columns), body, 1)


def milliseconds(seconds: Mapping[str, Any]) -> str:
    """Write the median time in milliseconds."""
    return significant(1000 * float(seconds["median"]))


GRIDS: dict[str, Callable[[Mapping[str, Any]], Grid]] = {
    "kernels": _kernels,
    "sampling": _sampling,
    "memory": _memory,
    "latency": _latency,
    "ranges": _ranges,
    "block": _block,
    "rounding": _rounding,
    "gpu": _gpu,
    "gpu-code": _gpu_code,
}
