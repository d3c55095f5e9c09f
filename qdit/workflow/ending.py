"""Write the last lines of a run: rows without numbers, the requested pages, and how to continue."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from qdit.core.errors import QditError
from qdit.core.metrics_record import FILE
from qdit.metrics.spoken import metrics_lines
from qdit.workflow.profile import Profile
from qdit.workflow.rows import failed_rows, summary


def target_pages(jobs: Iterable[Any]) -> list[str]:
    """Return the HTML pages that the user asked Snakemake to make.

    They are the outputs of each target job, or its inputs if its rule has no outputs.
    """
    files = [str(file) for job in jobs for file in (job.output or job.input)]
    pages = [file for file in files if file.endswith(".html")]
    return list(dict.fromkeys(pages))


def target_rows(jobs: Iterable[Any]) -> list[Path]:
    """Return the metrics.json of each single row that the user asked Snakemake to make (`qdit run --row`)."""
    files = [Path(str(file)) for job in jobs for file in job.output]
    return [file for file in files if file.name == FILE]


def counted_rows(jobs: Iterable[Any]) -> list[Path]:
    """Return the metrics.json of each row that the progress of a run counts apart from tables.

    They are the single rows of `target_rows`, and the inputs of target jobs without outputs (`qdit run claims_rows`).
    """
    files = [Path(str(file)) for job in jobs for file in (job.output or job.input)]
    return list(dict.fromkeys(file for file in files if file.name == FILE))


def row_lines(records: Iterable[Path]) -> list[str]:
    """Write the main numbers of single rows."""
    lines = []
    for record in records:
        try:
            lines += metrics_lines(record) if record.is_file() else [f"{record}: not made yet"]
        except QditError as problem:
            lines.append(f"{record}: {problem}")
    return lines


def ending(profile: Profile, results: Path, pages: Sequence[str], index: str, *, stopped: bool = False) -> list[str]:
    """Write the lines for the end of a run, whether it succeeded or not. The page to open comes last."""
    there = [page for page in pages if Path(page).exists()]
    missing = len(pages) - len(there)
    tables = [page for page in there if Path(page).parent.name == "tables"]
    others = [page for page in there if page not in tables and page != index]
    lines = ["", "Tables, each beside CSV, Markdown and LaTeX:", *shown(tables)] if tables else []
    lines += ["", "Pages:", *shown(others)] if others else []
    try:
        failed = summary(failed_rows(profile, results, profile["tables"]))
    except QditError as problem:
        failed = [f"qdit: error: {problem}"]
    lines += ["", *failed] if failed else []
    if missing or stopped:
        words = [*(["Stopped."] if stopped else []), *([f"Pages that are missing: {missing}."] if missing else [])]
        lines += ["", f"{' '.join(words)} The same command goes on from what is there."]
    if index in there:
        lines += ["", "The report, one page:", *shown([index])]
    return lines


def shown(pages: Iterable[str]) -> list[str]:
    """Return the complete paths of pages. A terminal can make links of them."""
    return [f"  {Path(page).resolve()}" for page in pages]
