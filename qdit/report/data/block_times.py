"""Read the times of one block of DiT-XL/2 from the records of `qdit bench block`, for the rows of a table.

A page measures nothing. The record of the CPU is `bench/block.json` of the profile's run, or else
`studies/bench-block.json`. Records of GPUs are the files in `results/gpu/` that hold block times.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from qdit.core.errors import DataError, QditError
from qdit.core.files import read_json
from qdit.core.repository import ROOT
from qdit.report.data.metrics_json import Row
from qdit.report.data.rows import is_full_precision

BENCH, CPU_FILE = "block", "bench-block.json"
ONE, TWO = "1", "2"
COLUMNS = ("block_ms", "block_float32", "block_bfloat16", "block_float32_two", "block_bfloat16_two")
GPU_COLUMNS = ("block_gpu_ms", "block_gpu_float32", "block_gpu_bfloat16")
SIMULATED_ONLY, NOT_MEASURED = "simulated only", "not measured"


@dataclass(frozen=True)
class Speed:
    """Shortest measured time of one call of a block in seconds: with integers, in float32, and in bfloat16.

    The three were measured alternately.
    """

    seconds: float
    float32: float
    bfloat16: float

    @property
    def over_float32(self) -> float:
        """Time in float32 divided by the time with integers: above 1, integers are faster."""
        return self.float32 / self.seconds

    @property
    def over_bfloat16(self) -> float:
        """Time in bfloat16 divided by the time with integers: above 1, integers are faster."""
        return self.bfloat16 / self.seconds


@dataclass(frozen=True)
class BlockTimes:
    """One record of `qdit bench block`, for one device."""

    content: Mapping[str, Any]

    @property
    def device(self) -> str:
        """`cpu`, or the name of a GPU."""
        return str(self.content["device"])

    @property
    def threads(self) -> tuple[str, ...]:
        """Thread counts of the measurement, as texts: `1`, `2`."""
        return tuple(str(count) for count in self.content["threads"])

    @property
    def origin(self) -> str:
        """Sentence about the measurement: machine, commit, shape of the block, load of the machine, command."""
        machine, load = self.content["machine"], self.content["load"]
        device = "" if self.device == "cpu" else f"{self.device}; "
        model = self.content["model"]
        return (
            f"{device}{machine['processor']}, {machine['cores']} cores, backend {self.content['backend']}, commit"
            f" {self.content['commit']}; {model['batch']} × {model['tokens']} tokens of width {model['width']};"
            f" load average {load['before']:.1f} before and {load['after']:.1f} after; {self.content['command']}"
        )

    @property
    def is_crowded(self) -> bool:
        """Whether the load of the machine was above its number of cores, before or after the measurement."""
        return any(float(value) > self.content["machine"]["cores"] for value in self.content["load"].values())

    @cached_property
    def _rows(self) -> dict[tuple[str, str], Mapping[str, Any]]:
        return {(row["label"], row["bits"]): row for row in self.content["rows"]}

    def of(self, row: Row, threads: str = ONE) -> Speed | str:
        """Return the times of a row, or a text with the reason why it has none.

        The text begins with `simulated only` or `not measured`. The record is searched for the row's label and bits;
        the options of the method must also be the same.
        """
        key = row["key"]
        entry = self._rows.get((key.label, key.bits))
        if entry is None:
            return f"{NOT_MEASURED}: the record has no row {key.label} at {key.bits}"
        if (entry["method"], dict(entry["options"])) != (row["method"], dict(row.get("options") or {})):
            return f"{NOT_MEASURED}: the record has other options"
        if entry["form"] is None:
            return f"{NOT_MEASURED}: {entry['why']}"
        form = self.content["measured"][entry["form"]]
        if form["why"] is not None:
            return f"{SIMULATED_ONLY}: {form['why']}"
        return self._speed(form, threads)

    def _speed(self, form: Mapping[str, Any], threads: str) -> Speed | str:
        seconds = form["seconds"].get(threads)
        if seconds is None:
            return f"{NOT_MEASURED}: not with {threads} threads"
        return Speed(*(float(seconds[name]["minimum"]) for name in ("integer", "float32", "bfloat16")))

    def bfloat16_over_float32(self, threads: str = ONE) -> float:
        """Return how many times faster bfloat16 is than float32: the geometric mean over all measured formats."""
        pairs = [form["seconds"][threads] for form in self.content["measured"] if threads in form["seconds"]]
        return geometric_mean(pair["float32"]["minimum"] / pair["bfloat16"]["minimum"] for pair in pairs)

    def full_ms(self, threads: str = ONE) -> float:
        """Return the shortest float32 time in milliseconds, over the measurements beside all formats."""
        pairs = [form["seconds"][threads] for form in self.content["measured"] if threads in form["seconds"]]
        return 1e3 * min(float(pair["float32"]["minimum"]) for pair in pairs)


@dataclass(frozen=True)
class Measured:
    """The records of block times for the CPU and for a GPU; None where nothing was measured.

    `problems` has one line for each damaged record.
    """

    cpu: BlockTimes | None
    gpu: BlockTimes | None
    problems: tuple[str, ...] = ()


def measured_blocks(results: Path) -> Measured:
    """Read the block times of a CPU and of a GPU: records beside a profile's results, or else those of the repository.

    `problems` of the result names the damaged records.
    """
    problems: list[str] = []
    cpu = next(_readable(_cpu_files(results), problems), None)
    gpu = next(_readable(_gpu_files(results), problems), None)
    return Measured(cpu, gpu, tuple(problems))


def _cpu_files(results: Path) -> Iterator[Path]:
    beside = results.parent / "studies"
    studies = beside if beside.is_dir() else ROOT / "results" / "studies"
    yield from (file for file in (results / "bench" / "block.json", studies / CPU_FILE) if file.is_file())


def _gpu_files(results: Path) -> Iterator[Path]:
    """Records of GPUs with block times. Other records of `qdit bench gpu` lie in the same folder."""
    beside = results.parent / "gpu"
    for file in sorted((beside if beside.is_dir() else ROOT / "results" / "gpu").glob("*.json")):
        try:
            content = read_json(file)
        except QditError:
            content = None  # `_readable` says what is wrong with it
        if content is None or (isinstance(content, dict) and content.get("bench") == BENCH):
            yield file


def _readable(files: Iterator[Path], problems: list[str]) -> Iterator[BlockTimes]:
    for file in files:
        try:
            yield read_block_times(file)
        except QditError as problem:
            problems.append(" ".join(str(problem).split()))


def read_block_times(path: Path) -> BlockTimes:
    """Read a record of `qdit bench block`. DataError if the file has another format or a wrong entry."""
    content = read_json(path)
    if not isinstance(content, dict) or content.get("bench") != BENCH:
        raise DataError(f"{path}: not a record of `qdit bench block`; measure again")
    times = BlockTimes(content)
    try:
        _check(times)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as problem:
        reason = f"{type(problem).__name__}: {problem}"
        raise DataError(f"{path}: a damaged record of `qdit bench block` ({reason}); measure again") from None
    return times


def _check(times: BlockTimes) -> None:
    """Read every value that a page shows, so that a missing one is an error now."""
    content, forms = times.content, times.content["measured"]
    if not times.origin or not content["rows"]:
        raise ValueError("no rows")
    for row in content["rows"]:
        _ = row["label"], row["bits"], row["method"], dict(row["options"]), row["why"]
        if row["form"] is not None and not 0 <= row["form"] < len(forms):
            raise IndexError(f"row {row['label']} names form {row['form']} of {len(forms)}")
    for form in forms:
        for threads in times.threads if form["why"] is None else ():
            if any(not timing["minimum"] > 0 for timing in form["seconds"][threads].values()):
                raise ValueError("a time is not positive")
            _ = [form["seconds"][threads][name] for name in ("integer", "float32", "bfloat16")]
    for threads in times.threads:
        times.bfloat16_over_float32(threads)
    _ = times.is_crowded


def block_cells(measured: Measured, row: Row) -> Row:
    """Return the cells of a row about block times: milliseconds, and speed relative to float32 and bfloat16.

    The full-precision row has the ratio 1. Without a time the first cell has the words `simulated only` or `not
    measured`, and the cell `block_why` has the reason.
    """
    cells: Row = {}
    cpu, gpu = measured.cpu, measured.gpu
    if is_full_precision(row):
        cells |= {} if cpu is None else {"block_ms": cpu.full_ms(), "block_float32": 1.0, "block_float32_two": 1.0}
        return cells | ({} if gpu is None else {"block_gpu_ms": gpu.full_ms(), "block_gpu_float32": 1.0})
    for names, threads in ((COLUMNS[:3], ONE), ((None, *COLUMNS[3:]), TWO)):
        cells |= _cells(cpu, row, threads, names)
    return cells | (_cells(gpu, row, ONE, GPU_COLUMNS) if gpu is not None else {})


def _cells(times: BlockTimes | None, row: Row, threads: str, names: tuple[str | None, ...]) -> Row:
    speed: Speed | str = NOT_MEASURED if times is None else times.of(row, threads)
    if isinstance(speed, str):
        word, _, why = speed.partition(": ")
        return {} if names[0] is None else {names[0]: word, **({"block_why": why} if why else {})}
    values = (1e3 * speed.seconds, speed.over_float32, speed.over_bfloat16)
    return {name: value for name, value in zip(names, values, strict=True) if name is not None}
