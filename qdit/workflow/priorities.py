"""Order the jobs of a run: the table that the first page shows comes first. The order changes no number."""

from collections.abc import Iterator
from pathlib import Path

from qdit.core.run import SIMULATE, UNQUANTIZED, Run
from qdit.workflow.commands import Commands
from qdit.workflow.method_index import planned_kinds
from qdit.workflow.profile import Profile, default_tables, full_precision_run, runs_of, search_of
from qdit.workflow.progress_findings import PREFERRED, learned_labels
from qdit.workflow.searches import needs_calibration

LEADING_KIND = "table2"
"""Kind of the table that a run makes first."""
FULL_PRECISION, PREFERRED_BITS, OTHER_BITS, SAME_TABLE = 8, 6, 4, 1
"""Levels of rows. In the first block a row without learned rounding and without a search is one level higher."""
STAGES = {"quantize": 0.1, "sample": 0.2, "evaluate": 0.3}
"""What later steps of a row have more, so that a row is finished before one of its level begins."""
SHARED = 0.4
"""What jobs have more whose files rows wait for: searches take long."""


def leading_table(profile: Profile) -> str | None:
    """Return the table to make first: the first default table of kind `table2`, else the first default table.

    None without default tables.
    """
    tables = default_tables(profile)
    leading = [table for table in tables if profile["tables"][table]["kind"] == LEADING_KIND]
    return next(iter(leading + tables), None)


class Priorities:
    """Computes the priority of each job of a profile. Snakemake runs the job with the highest number first.

    Jobs of the leading table have numbers from 1, jobs of other tables have numbers below 1.
    """

    def __init__(self, profile: Profile, commands: Commands) -> None:
        self._profile, self._commands = profile, commands
        self._rows: dict[Run, int] = {}
        self._files: dict[Path, int] = {}
        table = leading_table(profile)
        for run, level in {} if table is None else levels(profile, table).items():
            for row in self._with_bases(run):
                self._rows[row] = max(level, self._rows.get(row, 0))
        for run, level in self._rows.items():
            for file in self._needs(run):
                self._files[file] = max(level, self._files.get(file, 0))

    def of_row(self, run: Run, stage: str) -> float:
        """Return the priority of a job of a row. `stage` is a key of STAGES: which step of the row the job is."""
        return self._rows.get(run, 0) + STAGES[stage]

    def of_file(self, path: Path) -> float:
        """Return the priority of a job that makes calibration data, an allocation, or statistics of real images."""
        return self._files.get(path, 0) + SHARED

    def _with_bases(self, run: Run) -> Iterator[Run]:
        """A row, full precision of the same noise, and the rows whose checkpoints it corrects."""
        yield full_precision_run(self._profile, run)
        row: Run | None = run
        while row is not None:
            yield row
            row = self._commands.base(row)

    def _needs(self, run: Run) -> Iterator[Path]:
        """Files that a row's jobs read and other jobs make."""
        entry = self._profile["methods"][run.label]
        kinds = planned_kinds(entry["method"], entry.get("options", {}))
        yield from self._commands.calibration_files(run, kinds).values()
        if "reference" in self._commands.model(run.setting):
            yield self._commands.reference_file(run.setting)
        if (search := search_of(self._profile, run)) is not None:
            yield self._commands.search_file(search)
            if needs_calibration(self._profile["searches"][search.search]):
                yield self._commands.calibration_file(search.setting, search.form, "trajectory")


def levels(profile: Profile, table: str) -> dict[Run, int]:
    """Return row of a table → its level; jobs of a row with a higher level run earlier.

    The highest levels have the rows with the setting, form and scope of the first row, at the bits of the first block.
    """
    runs = [run for run in runs_of(profile, table) if run.mode == SIMULATE]
    if not runs:
        return {}
    first, learned = runs[0], learned_labels(profile)
    bits = profile["tables"][table]["blocks"][0]["bits"]
    preferred = PREFERRED if PREFERRED in bits else next(iter(bits), None)
    level_of_run = {}
    for run in runs:
        here = (run.setting, run.form, run.scope) == (first.setting, first.form, first.scope)
        if not here or run.bits not in (*bits, UNQUANTIZED):
            level_of_run[run] = SAME_TABLE
        elif run.bits == UNQUANTIZED:
            level_of_run[run] = FULL_PRECISION
        else:
            is_quick = run.label not in learned and search_of(profile, run) is None
            level_of_run[run] = (PREFERRED_BITS if run.bits == preferred else OTHER_BITS) + is_quick
    return level_of_run
