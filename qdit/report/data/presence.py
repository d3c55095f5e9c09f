"""Whether a folder of results holds anything, so that no command writes pages of missing rows by mistake."""

from pathlib import Path

from qdit.core.errors import DataError

RESULT_PATTERNS = ("runs/*/*/*/*/metrics.json", "search/**/*.json", "analysis/**/*.npz")
"""What steps of the workflow leave below results/<profile>; one file of these is a result."""


def require_results(results: Path) -> None:
    """Raise DataError unless one result is there; with some, rows without one say so in the pages."""
    if not results.is_dir():
        raise DataError(f"{results}: no such folder of results; {advice()}")
    if not any(next(results.glob(pattern), None) for pattern in RESULT_PATTERNS):
        raise DataError(f"{results}: found no result, looked for {', '.join(RESULT_PATTERNS)}; {advice()}")


def advice() -> str:
    """What to do next."""
    return "run snakemake --cores all first (with --configfile for another profile), or pass --results FOLDER"
