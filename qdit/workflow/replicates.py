"""List the replicates of a profile: rows that are quantized several times with other random draws.

    replicates:
      count: 3                  # replicate 0 is the row itself
      rows:
        - {table: table2, setting: digits-cfg1.0-s20, form: natural, bits: [w4a8]}

An entry of `rows` selects rows of a table. Each further key leaves rows out; without a key all are selected. A
replicate has its own calibration data, search, random signs and batches. Its images have the noise and labels of
replicate 0.

Full precision has no replicates, because it draws nothing. Tools and imported images have none, because their random
draws are not ours. Rows in integer mode have none, because they use the checkpoint of the simulated row.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from qdit.core.errors import ConfigError
from qdit.core.run import SIMULATE, Run
from qdit.workflow.profile_facts import block_runs, is_full
from qdit.workflow.profile_fields import Keyed
from qdit.workflow.profile_models import ProfileModel
from qdit.workflow.searches import require


def replicate_count(profile: Keyed, run: Run) -> int:
    """Return the number of replicates of a row, with replicate 0; it is 1 for a row that is not repeated."""
    entry = profile.get("replicates")
    if entry is None or run.mode != SIMULATE or is_full(profile, run.label):
        return 1
    row = replace(run, replicate=0)
    return int(entry["count"]) if any(row in selected(profile, rows) for rows in entry["rows"]) else 1


def further_replicates(profile: Keyed, run: Run) -> list[Run]:
    """Return the runs of replicates 1, 2, … of a row (replicate 0 is the row itself)."""
    return [replace(run, replicate=number) for number in range(1, replicate_count(profile, run))]


def with_replicates(profile: Keyed, runs: Iterable[Run]) -> list[Run]:
    """Return every run, followed by its replicates 1, 2, …"""
    return list(dict.fromkeys(row for run in runs for row in (run, *further_replicates(profile, run))))


def selected(profile: Keyed, rows: Keyed) -> Iterator[Run]:
    """Yield the quantized rows that an entry of `replicates.rows` selects."""
    for block in profile["tables"][rows["table"]]["blocks"]:
        for run in block_runs(profile, block):
            names = {"setting": run.setting, "form": run.form}
            fits = all(rows.get(name, value) == value for name, value in names.items())
            listed = run.bits in rows.get("bits", (run.bits,)) and run.label in rows.get("methods", (run.label,))
            if fits and listed and run.mode == SIMULATE and not is_full(profile, run.label):
                yield run


def check_replicates(profile: ProfileModel) -> None:
    """Raise ConfigError for an entry of `replicates` with a name that is not defined, or that selects no row."""
    if profile.replicates is None:
        return
    for index, rows in enumerate(profile.replicates.rows):
        where = f"replicates.rows[{index}]"
        require(rows.table, profile.tables, f"{where}.table")
        blocks = profile.tables[rows.table].blocks
        known = {
            "setting": [block.setting for block in blocks],
            "form": [block.form for block in blocks],
            "bits": [bits for block in blocks for bits in block.bits],
            "methods": [label for block in blocks for label in block.methods],
        }
        for key in known:
            for word in [rows[key]] if key in ("setting", "form") and key in rows else rows.get(key, ()):
                require(word, list(dict.fromkeys(known[key])), f"{where}.{key}")
        if not any(True for _ in selected(profile, rows)):
            raise ConfigError(
                f"{where}: selects no quantized row of {rows.table} in simulated arithmetic; take a key away, or name"
                " the setting, form, bits and methods of one block"
            )
