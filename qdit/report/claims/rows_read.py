"""List the rows that the claims read: `qdit run claims_rows` makes these rows and no others.

All claims are judged on a source whose cells are all unknown, and which records the row of each cell. So the list
follows claims.yaml and the tables of the profile, opt-in tables too. A row that no table has is not in the list.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from qdit.core.run import Run
from qdit.report.claims.claims import FILE, OPEN, Claims, Verdict, judge_all, judge_all_at_damage, load_claims
from qdit.report.claims.language import Key
from qdit.report.claims.sources import Measured
from qdit.report.data.metrics_json import Row
from qdit.report.data.published import REPOSITORY_COPY
from qdit.report.data.rows import is_miniature
from qdit.report.data.values import Unknown, Value
from qdit.workflow.profile import full_precision_run, runs_of
from qdit.workflow.profile_files import DEFAULT, profile_file, read_mapping
from qdit.workflow.targets import CLAIMS_ROWS

OVERLAY = "mini-damage"
"""Overlay of config/mini.yaml, by name, with the rows that only claims read."""
NO_RESULTS = Path("results", "of-no-run")
"""A folder of results that no run has, so that no file is read."""


class Planned(Measured):
    """The tables of a profile before any run. Every cell is unknown; `read` collects the rows of the cells.

    `known` are the rows of all tables. At W4A4 the other rows of the rewritten tables are not planned.
    """

    def __init__(
        self, profile: Mapping[str, Any], results: Path = NO_RESULTS, *, known: frozenset[Run], **options: Any
    ):
        super().__init__(profile, results, **options)
        self.known = known

    @property
    def arguments(self) -> dict[str, Any]:
        """Name → value of the arguments that this object was made with."""
        return super().arguments | {"known": self.known}

    def has(self, row: Row) -> bool:
        """Return whether a table of the profile has the row."""
        return row.get("key") in self.known

    def cell(self, table: str, metric: str, keys: tuple[Key, ...]) -> Value:
        """Record the row of a cell, and return an unknown value."""
        row = self.rows(table).get(keys[:1] if table == "table3" else keys)
        if row is not None and self.has(row):
            self.read[row["key"]] = None
        return Unknown("not made yet")


def rows_of_claims(profile: Mapping[str, Any], claims: Claims) -> list[dict[str, tuple[Run, ...]]]:
    """Return claim id → the rows that it reads, at the papers' bits, and for a miniature also at W4A4."""
    known = frozenset(run for table in profile["tables"] for run in runs_of(profile, table))
    papers = Planned(profile, known=known)
    judged = [judge_all(claims, papers)]
    if papers.miniature:
        judged.append(judge_all_at_damage(claims, papers))
    return [{claim: verdict.runs for claim, verdict in verdicts.items()} for verdicts in judged]


def rows_read(profile: Mapping[str, Any]) -> list[Run]:
    """Return the rows that the claims read, each once, after the full-precision row with the same noise."""
    listed = rows_of_claims(profile, load_claims(REPOSITORY_COPY / FILE))
    runs = dict.fromkeys(run for rows in listed for of_claim in rows.values() for run in of_claim)
    return list(dict.fromkeys(row for run in runs for row in (full_precision_run(profile, run), run)))


def with_overlay(profile: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a miniature with the tables of `OVERLAY`; those whose settings or methods it lacks are left out."""
    if not is_miniature(profile):
        return profile
    added = read_mapping(profile_file(OVERLAY))["tables"]
    fitting = {
        name: table
        for name, table in added.items()
        if name not in profile["tables"] and all(_fits(profile, block) for block in table["blocks"])
    }
    return {**profile, "tables": {**profile["tables"], **fitting}}  # a claim reads the first row that has its keys


def _fits(profile: Mapping[str, Any], block: Mapping[str, Any]) -> bool:
    return block["setting"] in profile["settings"] and set(block["methods"]) <= set(profile["methods"])


def command(profile: Mapping[str, Any]) -> str:
    """Write the command that makes all rows that the claims read.

    The text is empty for a profile that has no file in config/: nothing says where its overlay is.
    """
    name = str(profile["profile"])
    if profile_file(name) == Path(name):
        return ""
    layers = [OVERLAY] if is_miniature(profile) else []
    layers += [] if name == DEFAULT else [name]
    return " ".join([f"qdit run {CLAIMS_ROWS}", *(f"--profile {layer}" for layer in layers)])


def with_missing_rows(
    verdicts: Mapping[str, Mapping[str, Verdict]], profile: Mapping[str, Any], results: Path, claims: Claims
) -> dict[str, Mapping[str, Verdict]]:
    """Return the verdicts; each that cannot be told names its missing rows and the command that makes them.

    Without a known command only the number of rows is named. `verdicts` are those at the papers' bits, and for a
    miniature those at W4A4.
    """
    planned = rows_of_claims(with_overlay(profile), claims)
    advice = command(profile)
    return {
        source: {claim: _with_missing(verdict, rows[claim], results, advice) for claim, verdict in of.items()}
        for (source, of), rows in zip(verdicts.items(), planned, strict=True)
    }


def _with_missing(verdict: Verdict, rows: tuple[Run, ...], results: Path, advice: str) -> Verdict:
    missing = tuple(run for run in rows if not (run.folder(results) / "metrics.json").is_file())
    if verdict.word != OPEN or not missing:
        return verdict
    rows_missing = f"{len(missing)} missing {'row' if len(missing) == 1 else 'rows'}"
    lacking = f"“{advice}” makes {rows_missing}" if advice else f"it reads {rows_missing}"
    return replace(verdict, tells="; ".join(filter(None, (verdict.tells, lacking))), missing=missing)
