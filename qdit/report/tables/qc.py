"""Make the table of quality control: whether each row lies between a positive and a negative control of its setting.

The positive control is full precision. Its distance to itself is 0. The negative control is a method with too few bits
for a sensible result. If a row lies outside, the error is more probably in the measurement than in the method.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qdit.core.metrics import METRICS, controlled, shown_on
from qdit.core.run import FULL_PRECISION_METHOD, Run
from qdit.report.data.metrics_json import Row
from qdit.report.data.rows import Block, Table, describe_setting, is_measured, is_miniature, is_missing, make_row
from qdit.workflow.profile import default_tables, runs_of

EXTRA = ("check", "control", "tables")
"""Columns of the CSV beyond those of every table."""

PASS, FAIL, UNCHECKED, POSITIVE, NEGATIVE = "✓", "✗", "no controls", "positive", "negative"

CONTROLS = (
    "The controls of a setting: full precision, and a method at so few bits that its samples are destroyed. The damage"
    " of a row must lie between theirs; else its measurement is probably wrong."
)
"""The second sentence of the page: what a reader must know about the first."""


@dataclass(frozen=True)
class Counts:
    """Numbers of rows by the result of their check; controls do not count."""

    passed: int
    failed: int
    missing: int
    unchecked: int

    @classmethod
    def of(cls, rows: list[Row]) -> "Counts":
        """Count rows by the result of their check."""
        checked = [str(row["check"]) for row in rows if row["control"] is None]
        passed, failed = (sum(check.startswith(mark) for check in checked) for mark in (PASS, FAIL))
        unchecked = checked.count(UNCHECKED)
        return cls(passed, failed, len(checked) - passed - failed - unchecked, unchecked)

    @property
    def text(self) -> str:
        """Text such as `61 of 62 rows lie between the controls; 1 missing`."""
        total = self.passed + self.failed + self.missing + self.unchecked
        text = f"{self.passed} of {total} rows lie between the controls"
        others = {"outside of them": self.failed, "missing": self.missing, "without controls": self.unchecked}
        return "; ".join([text, *(f"{count} {what}" for what, count in others.items() if count)])


def qc(profile: Mapping[str, Any], name: str, results: Path, published: Path) -> Table:
    """Make the table `name`: every run of the default tables of a profile, by setting and form, then bits."""
    definition = profile["tables"][name]
    controls = {(block["setting"], block["form"]): block for block in definition["blocks"]}
    rows = _rows(profile, name, results)
    pairs = sorted({(row["setting"], row["form"]) for row in rows})
    blocks = tuple(_block(profile, setting, form, rows, controls.get((setting, form))) for setting, form in pairs)
    counts = Counts.of([row for block in blocks for row in block.rows])
    bad = [row for row in rows if row["control"] is not None and is_missing(row)]
    summary = [f"{counts.text}.", CONTROLS]
    summary += [f"{len(bad)} of the controls {'are' if len(bad) > 1 else 'is'} missing too."] if bad else []
    return Table(
        name=name,
        title=definition.get("title", "Quality control: every row between its controls"),
        profile=profile["profile"],
        face=profile["face"],
        miniature=is_miniature(profile),
        paper_protocol="",
        shows_bits=True,
        blocks=blocks,
        metrics=(*shown_on("qc"), "check"),
        extra=EXTRA,
        summary=tuple(summary),
        remarks=(
            "Positive control: full precision, whose FD-FP and MSE-FP are 0 by definition. Negative control: a method"
            " at so few bits that its images are destroyed. ✓: both distances lie between the two controls of the same"
            " setting and form, 0 ≤ ours ≤ negative. ✗: the distances named do not.",
        ),
        marks_best=False,
        shows_samples=False,
    )


def _rows(profile: Mapping[str, Any], name: str, results: Path) -> list[Row]:
    """Rows of all runs, with their tables and the control that they are, if any."""
    tables = [table for table in default_tables(profile) if profile["tables"][table]["kind"] != "qc"]
    shown: dict[Run, list[str]] = {run: [] for run in runs_of(profile, name)}
    for table in tables:
        for run in runs_of(profile, table):
            if run in shown:
                shown[run].append(table)
    negative = {
        (block["setting"], block["form"], label, bits, block["scope"])
        for block in profile["tables"][name]["blocks"]
        for bits in block["bits"]
        for label in block["methods"]
    }
    rows = []
    for run, where in shown.items():
        row = make_row(profile, results, run, fitted=False, published=None)
        positive = profile["methods"][run.label]["method"] == FULL_PRECISION_METHOD
        is_control = (run.setting, run.form, run.label, run.bits, run.scope) in negative
        row["control"] = POSITIVE if positive else NEGATIVE if is_control else None
        row |= {"tables": " ".join(where), "short": f"{run.bits.upper()} {row['short']}"}
        if positive and is_measured(row):
            row |= dict.fromkeys(controlled(), 0.0)
        rows.append(row)
    return rows


def _block(
    profile: Mapping[str, Any], setting: str, form: str, rows: list[Row], control: Mapping[str, Any] | None
) -> Block:
    """Rows of one setting and form: positive control, methods from many bits to few, negative control."""
    labels = list(profile["methods"])
    ranks = {POSITIVE: 0, None: 1, NEGATIVE: 2}

    def order(row: Row) -> tuple[object, ...]:
        bits = (-row["weight_bits"], -row["activation_bits"])
        return (ranks[row["control"]], *bits, row["scope"], labels.index(row["label"]))

    ordered = sorted((row for row in rows if row["setting"] == setting and row["form"] == form), key=order)
    negative = next((row for row in ordered if row["control"] == NEGATIVE), None)
    mixed = len({row["scope"] for row in ordered}) > 1
    for row in ordered:
        row |= {"check": _check(row, negative), "detail": _detail(row)}
        row["short"] += " (own)" if mixed and row["scope"] == "own" else ""
    about = f"{setting}; no controls" if control is None else f"{setting}; {Counts.of(ordered).text}"
    title = f"{describe_setting(profile, {'setting': setting})} · {form} form"
    return Block(title=title, about=about, rows=tuple(ordered))


def _check(row: Row, negative: Row | None) -> str:
    """The check of a row: passed, or the distances that are not between the controls, or why it is unknown."""
    if row["control"] is not None:
        return "control"
    if is_missing(row):
        return str(row["status"]).split(":")[0]
    if negative is None or is_missing(negative):
        return UNCHECKED
    limits = {name: negative.get(name) for name in controlled()}
    known = all(row.get(name) is not None and limit is not None for name, limit in limits.items())
    if not known:
        return UNCHECKED
    outside = [METRICS[name].title for name, limit in limits.items() if not 0 <= row[name] <= limit]
    return f"{FAIL} {', '.join(outside)}" if outside else PASS


def _detail(row: Row) -> str:
    """The control that a row is, or the tables that show it."""
    if row["control"] is None:
        return str(row["tables"]).replace(" ", ", ")
    return "positive control" if row["control"] == POSITIVE else "negative control"
