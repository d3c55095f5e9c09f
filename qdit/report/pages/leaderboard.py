"""Make the leaderboard: all runs of a profile, ranked by the ranking metric, with intervals."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from qdit.core.files import write_text
from qdit.core.metrics import METRICS, shown_on
from qdit.core.ranking import damage_of, ranking_metric
from qdit.core.run import INTEGER, Run
from qdit.report.data.compare_rows import difference
from qdit.report.data.metrics_json import Row
from qdit.report.data.multiplicity import Separation
from qdit.report.data.published import printed_name, published_folder
from qdit.report.data.rows import (
    Block,
    Table,
    describe_setting,
    is_full_precision,
    is_measured,
    is_miniature,
    make_row,
    with_differences,
)
from qdit.report.data.standings import contests, is_ranked, short_name
from qdit.report.pages.table_page import html_text
from qdit.report.render.headline import NATURAL, PREFERRED, Headline, headline
from qdit.report.render.text import csv_text, markdown_text
from qdit.report.tables.kinds import load_table
from qdit.workflow.profile import PRINTED_KINDS, default_tables, runs_of

EXTRA = ("rank", "rank_low", "rank_high", "change_fid_low", "change_fid_high", "tables")
NAME = "leaderboard"


def shown_columns() -> tuple[str, ...]:
    """Return the columns in order: rank, ranking metric, other paired metrics, other metrics, size.

    An interval stands beside its metric.
    """
    shown = shown_on("leaderboard")
    order = sorted(shown, key=lambda name: (not METRICS[name].ranks, not METRICS[name].paired))
    beside = [(name, f"{name}_interval") if METRICS[name].board_interval else (name,) for name in order]
    return ("rank", *(column for columns in beside for column in columns))


def leaderboard(profile: Mapping[str, Any], results: Path) -> Table:
    """Return a table with each run of the default tables, and each measured run of the other tables.

    Rows of the same setting, form and scope make a block. They are ordered by bits and the ranking metric.
    """
    tables = _tables_of(profile)
    printed = _printed(profile, results)
    rows = []
    for key, names in tables.items():
        row = make_row(profile, results, key, fitted=False, published=None)
        if not is_measured(row) and not set(names) & set(default_tables(profile)):
            continue
        rows.append(row | printed.get(key, {}) | {"tables": " ".join(names), "detail": _detail(row, key)})
    rows.sort(key=lambda row: _place(profile, row))
    blocks = [_block(profile, list(of)) for _, of in groupby(rows, key=lambda row: _place(profile, row)[:3])]
    return Table(
        name=NAME,
        title="Leaderboard: every run of the profile",
        profile=profile["profile"],
        face=profile["face"],
        miniature=is_miniature(profile),
        paper_protocol="the paper’s protocol of the table that a run belongs to",
        shows_bits=True,
        blocks=tuple(blocks),
        metrics=shown_columns(),
        extra=EXTRA,
        remarks=(
            f"Rank: by {ranking_metric().title} among the rows of equal bits in a block. 2–4 means that one row is"
            " certainly better and that two more may be equal: 95 % intervals of all paired differences of these rows,"
            " with Holm’s correction for their number.",
            "95 %: interval over the images of the run. Its resampled values are shifted to the measured value, except"
            " for means over images such as PSNR-FP. Two intervals may overlap although the difference is certain,"
            " because all rows share their noise.",
        ),
        shows_samples=False,
    )


def build_leaderboard(profile: Mapping[str, Any], results: Path) -> list[Path]:
    """Write leaderboard.csv, .md and .html into `results`; equal results give equal bytes."""
    table = leaderboard(profile, results)
    finding = board_headline(table)
    texts = {"csv": csv_text(table), "md": markdown_text(table, finding), "html": html_text(table, results, finding)}
    paths = {suffix: results / f"{NAME}.{suffix}" for suffix in texts}
    for suffix, path in paths.items():
        write_text(path, texts[suffix])
    return list(paths.values())


def board_headline(table: Table) -> Headline:
    """Write a sentence: which method does the least damage most often, and how often that is more than chance.

    The picture is that of the natural rows at W4A8 with the most methods.
    """
    compared = [contest for block in table.blocks for contest in contests(block) if len(contest.rows) > 1]
    if not compared:
        return headline(table)
    largest = max(compared, key=lambda of: (of.first["form"] == NATURAL, of.bits == PREFERRED, len(of.rows)))
    usual = headline(replace(table, blocks=(largest.block,)))
    firsts = Counter(short_name(contest.first) for contest in compared)
    most = max(firsts.values())
    names = [name for name, count in firsts.items() if count == most]
    certain = sum(not contest.tied for contest in compared if short_name(contest.first) in names)
    answer = (
        (f"{' and '.join(names)} {'does' if len(names) == 1 else 'do'} the least damage", True),
        (f" in {most} of {len(compared)} comparisons at equal setting and bits", False),
        (f"{' each' if len(names) > 1 else ''}, {certain} of them by more than chance.", False),
    )
    about = f"The picture: {usual.because[0]}" if usual.contest is not None else ""
    return Headline(answer, tuple(filter(None, (about, *usual.because[1:]))), usual.contest)


def _tables_of(profile: Mapping[str, Any]) -> dict[Run, list[str]]:
    """Run → its tables; a table of controls has all runs, so it counts only for runs of no other table."""
    tables_by_run: dict[Run, list[str]] = {}
    controls: dict[Run, list[str]] = {}
    for name, definition in profile["tables"].items():
        for run in runs_of(profile, name):
            tables_by_run.setdefault(run, [])
            (controls if definition["kind"] == "qc" else tables_by_run).setdefault(run, []).append(name)
    return {key: names or controls[key] for key, names in tables_by_run.items()}


def _printed(profile: Mapping[str, Any], results: Path) -> dict[Run, Row]:
    """Run → printed cells and the mark of fitted cells, from the tables that have printed numbers."""
    cells_by_run: dict[Run, Row] = {}
    if not published_folder(results).is_dir():
        return cells_by_run
    for name, definition in profile["tables"].items():
        if definition["kind"] not in PRINTED_KINDS:
            continue
        for row in load_table(profile, name, results).rows:
            cells = {cell: row[cell] for cell in row if cell.startswith("published_") and row[cell] is not None}
            if row.get("fitted") is not None:
                cells["fitted"] = row["fitted"]
            if "key" in row:
                cells_by_run[row["key"]] = cells | cells_by_run.get(row["key"], {})
    return cells_by_run


def _place(profile: Mapping[str, Any], row: Row) -> tuple[Any, ...]:
    """Sort key of a row: setting in the profile's order, form, scope, bits from many to few, damage, label."""
    settings = list(profile["settings"])
    full = not is_full_precision(row)
    bits = (-row["weight_bits"], -row["activation_bits"])
    return (settings.index(row["setting"]), row["form"], row["scope"], full, *bits, damage_of(row), row["label"])


def _block(profile: Mapping[str, Any], rows: list[Row]) -> Block:
    first = rows[0]
    for row in rows:
        row["name"] = row["short"] = _name(profile, row)
        row["short"] = f"{row['key'].bits.upper()} {row['short']}"
        for metric in (name for name in shown_on("leaderboard") if METRICS[name].board_interval):
            row[f"{metric}_interval"] = interval_text(row, metric)
    full = next((row for row in rows if is_full_precision(row) and is_measured(row)), None)
    separations = _separations(rows)
    for row in rows:
        gap = difference(row, full, "fid") if full is not None and row is not full else None
        low, high = gap.interval if gap is not None and gap.interval is not None else (None, None)
        row |= {"change_fid_low": low, "change_fid_high": high} | ranks(row, rows, separations.get(row["key"].bits))
    return Block(
        title=f"{describe_setting(profile, first)} · {first['form']} form · scope {first['scope']}",
        about=first["setting"],
        rows=with_differences(rows),
        one_print=False,
    )


def _separations(rows: list[Row]) -> dict[str, Separation]:
    """Bits → which pairs of quantized rows of these bits are apart in the ranking metric."""
    of_bits: dict[str, list[Row]] = {}
    for row in rows:
        if not is_full_precision(row) and is_ranked(row):
            of_bits.setdefault(row["key"].bits, []).append(row)
    return {bits: Separation(rivals, ranking_metric().name) for bits, rivals in of_bits.items()}


def _name(profile: Mapping[str, Any], row: Row) -> str:
    """`PTQ4DiT: without salience balancing`: words that say what varies follow the method, unless they name it."""
    entry = profile["methods"][row["label"]]
    method = printed_name(str(entry["method"]))
    about = entry.get("about")
    is_short = about and row["name"] == about and not str(about).startswith(method)
    return f"{method}: {about}" if is_short else str(row["name"])


def interval_text(row: Row, metric: str) -> str | None:
    """Write an interval, `0.31 … 0.35`, in the number format of the metric."""
    low, high = row.get(f"{metric}_low"), row.get(f"{metric}_high")
    return None if low is None or high is None else f"{METRICS[metric].write(low)} … {METRICS[metric].write(high)}"


def ranks(row: Row, rows: list[Row], separation: Separation | None = None) -> Row:
    """Return the cells `rank`, `rank_low`, `rank_high`: the ranks that chance allows among rows of equal bits.

    They are empty for full precision. `separation` says which pairs of rows differ; it is computed if it is None.
    """
    bits = (row["weight_bits"], row["activation_bits"])
    if is_full_precision(row) or not is_ranked(row):
        return {}
    rivals = [other for other in rows if other is not row and not is_full_precision(other)]
    of_bits = [other for other in rivals if (other["weight_bits"], other["activation_bits"]) == bits]
    of_bits = list(filter(is_ranked, of_bits))
    separation = separation or Separation([row, *of_bits], ranking_metric().name)
    certain = [other for other in of_bits if separation.apart(row, other)]
    better = sum(damage_of(other) < damage_of(row) for other in certain)
    low, high = 1 + better, 1 + len(of_bits) - (len(certain) - better)
    return {"rank": f"{low}" if low == high else f"{low}–{high}", "rank_low": low, "rank_high": high}


def _detail(row: Row, key: Run) -> str:
    return f"integer, {row['backend']}" if key.mode == INTEGER and is_measured(row) else ""
