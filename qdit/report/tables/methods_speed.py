"""Make the figure of a table of methods, and its sentences: damage of each row against the speed of one block."""

import math
from collections.abc import Iterable, Sequence

from qdit.core.ranking import ranking_metric, ranking_value, value_text
from qdit.report.data.block_times import COLUMNS, GPU_COLUMNS, SIMULATED_ONLY, TWO, BlockTimes, Measured
from qdit.report.data.metrics_json import Row
from qdit.report.data.rows import Figure, is_full_precision, is_measured
from qdit.report.data.standings import Contest, short_name
from qdit.report.render.speedup_figure import FULL_PRECISION, Panel, Point, speedup_figure
from qdit.workflow.method_index import method_sources

UNKNOWN_COLOUR = "#5d6670"
MEASURE = "`qdit bench block` measures them"


def panels(contest: Contest, measured: Measured) -> list[Panel]:
    """Return a panel for each device with measured block times; its points are the rows that have a time."""
    drawn = []
    for times, column in ((measured.cpu, COLUMNS[1]), (measured.gpu, GPU_COLUMNS[1])):
        if times is not None:
            points = tuple(_point(row, float(row[column])) for row in contest.rows if _is_number(row.get(column)))
            drawn.append(Panel(_title(times, contest.bits), points, times.bfloat16_over_float32()))
    return drawn


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _title(times: BlockTimes, bits: str) -> str:
    return (
        f"{bits}, one block on a CPU, one thread" if times.device == "cpu" else f"{bits}, one block on {times.device}"
    )


def _point(row: Row, speed: float) -> Point:
    metric, value = ranking_metric().name, ranking_value(row)
    assert value is not None
    facts = method_sources().get(str(row["method"]))
    return Point(
        name=short_name(row),
        speed=speed,
        value=float(value),
        low=row.get(f"{metric}_low"),
        high=row.get(f"{metric}_high"),
        colour=(facts.color if facts is not None else None) or UNKNOWN_COLOUR,
        grouped="groups" in str(row.get("granularity") or "") or row.get("group_size") is not None,
    )


def figure(contest: Contest | None, measured: Measured) -> Figure | None:
    """Return the figure for the rows of one block and bits; None if no row was timed in integer mode."""
    if contest is None:
        return None
    about = (
        "Filled: ranges of groups; hollow: ranges of tokens, channels or tensors. Vertical lines: 95 % intervals."
        f" Dashed: the Pareto front, from full precision (the star{_star()}). Dotted: the speed of bfloat16."
    )
    return speedup_figure(panels(contest, measured), about)


def _star() -> str:
    """Words about the star: where it stands."""
    metric = ranking_metric()
    return (
        f"; its {metric.title} is infinite, so it stands at the edge" if math.isinf(metric.perfect) else ", at 1 and 0"
    )


def speed_facts(contest: Contest | None, measured: Measured) -> Iterable[str]:
    """Write sentences about the Pareto front, about rows without a point, and about what was not measured."""
    if measured.cpu is None:
        yield f"Times of a block: not measured; {MEASURE}."
    elif contest is not None:
        yield from _of_contest(contest, measured)
    yield "On a GPU: not measured." if measured.gpu is None else f"On a GPU: {measured.gpu.device}."


def _of_contest(contest: Contest, measured: Measured) -> Iterable[str]:
    panel = panels(contest, measured)[0]
    if panel.points:
        values = {short_name(row): value_text(row) for row in contest.rows}
        names = [
            point.name if point.name == FULL_PRECISION else f"{point.name} ({point.speed:.2f} ×, {values[point.name]})"
            for point in panel.front
        ]
        yield f"On the Pareto front of {ranking_metric().title} and speed: {', '.join(names)}."
        if panel.half > 1:
            slower = sum(point.speed < panel.half for point in panel.points)
            yield (
                f"bfloat16 is {panel.half:.2f} times as fast as float32 here; {slower} of the {len(panel.points)} timed"
                " rows are slower than bfloat16."
            )
    without = [row for row in contest.rows if not _is_number(row.get(COLUMNS[1]))]
    for word in dict.fromkeys(str(row.get(COLUMNS[0])) for row in without):
        rows = [row for row in without if str(row.get(COLUMNS[0])) == word]
        yield f"{word[0].upper()}{word[1:]}, so not in the figure: {_reasons(rows)}."


def _reasons(rows: Sequence[Row]) -> str:
    """Rows with their reasons; rows of one reason stand together."""
    by_reason: dict[str, list[str]] = {}
    for row in rows:
        by_reason.setdefault(str(row.get("block_why") or ""), []).append(short_name(row))
    return "; ".join(", ".join(names) + (f" ({why})" if why else "") for why, names in by_reason.items())


def remarks(measured: Measured, rows: Sequence[Row]) -> Iterable[str]:
    """Write notes about the columns of times: how to read them, and where they were measured."""
    if measured.cpu is None and measured.gpu is None:
        return
    yield (
        "Block: one block of DiT-XL/2 with everything that a row’s sites hold, by our integer kernels. × float32 and"
        " × bfloat16: speed relative to full precision, timed alternately (smallest times). One thread: CPU time."
        f" Two threads: wall time. “{SIMULATED_ONLY}”: the kernels do not compute this form. Rows with equal sites have"
        " one time. Groups of 16 stand for 128, rank 4 for 32."
    )
    for times in (measured.cpu, measured.gpu):
        if times is not None:
            yield f"Block times: {times.origin}."
    cpu = measured.cpu
    if cpu is not None and TWO in cpu.threads:
        yield f"bfloat16 is {cpu.bfloat16_over_float32(TWO):.2f} times as fast as float32 with two threads."
        if cpu.is_crowded:
            yield (
                "Other programs shared the machine while it measured (see the load average). So the times with two"
                " threads are those of a busy machine; the times with one thread are CPU times."
            )
    if any(is_measured(row) and not is_full_precision(row) and row.get("bits_per_weight") is None for row in rows):
        yield "Bits per weight are unknown (–) where the checkpoint of a run is not beside its results."
