"""Estimate the GPU-hours of each table on some cards: from data sheets, and from the measured speed of a card."""

from collections.abc import Mapping
from pathlib import Path

from qdit.core.run import Run
from qdit.workflow.cost import Speed, card_speed, measured_speed, run_jobs
from qdit.workflow.cost_speeds import PRINTED_CARDS
from qdit.workflow.profile import Profile, default_tables, runs_of

ONCE = "all, each job once"


def runs_alone(profile: Profile, table: str) -> list[Run]:
    """Return the runs of a table; for the quality control, which reads all other tables, only its two controls."""
    runs = runs_of(profile, table)
    if profile["tables"][table]["kind"] != "qc":
        return runs
    others = {run for other in profile["tables"] if other != table for run in runs_of(profile, other)}
    return [run for run in runs if run not in others]


def table_hours(profile: Profile, speed: Speed, tables: Mapping[str, list[Run]] | None = None) -> dict[str, float]:
    """Return table → GPU-hours of everything that it needs. The last entry is the sum, with each shared job once.

    The sum has the default tables only.
    """
    tables = {table: runs_alone(profile, table) for table in profile["tables"]} if tables is None else tables
    defaults, once, hours = default_tables(profile), dict[str, float](), dict[str, float]()
    for table, runs in tables.items():
        jobs = {job.name: job.seconds for run in runs for job in run_jobs(profile, run, speed)}
        hours[table] = sum(jobs.values()) / 3600
        if table in defaults:
            once |= jobs
    return hours | {ONCE: sum(once.values()) / 3600}


def speeds_of_cards(profile: Profile, results: Path) -> dict[str, Speed]:
    """Return name → speed of the cards A100 and H100, and `measured` if jobs are finished."""
    speeds = {name: card_speed(name) for name in PRINTED_CARDS}
    if (measured := measured_speed(profile, results)) is not None:
        speeds["measured"] = measured
    return speeds


def tables_text(profile: Profile, results: Path) -> str:
    """Write the GPU-hours of each table as text, for `qdit doctor`."""
    speeds = speeds_of_cards(profile, results)
    hours = {name: table_hours(profile, speed) for name, speed in speeds.items()}
    lines = ["GPU-hours of each table with its searches  " + "".join(f"{name:>10}" for name in hours)]
    for table in next(iter(hours.values())):
        opt_in = table in profile["tables"] and table not in default_tables(profile)
        label = f"{table} (only when named)" if opt_in else table
        lines.append(f"  {label:<40} " + "".join(f"{column[table]:>10.1f}" for column in hours.values()))
    lines += [f"  {name}: {speed.text} ({speed.source})" for name, speed in speeds.items()]
    if "measured" not in speeds:
        lines.append(f"  measured: no finished sample job in {results} yet; one row gives the speed of your card")
    return "\n".join(lines)
