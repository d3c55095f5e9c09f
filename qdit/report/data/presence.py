"""Check that a results folder holds results, so that no command writes a page without any result."""

from pathlib import Path

from qdit.core.errors import DataError

RESULT_PATTERNS = ("runs/*/*/*/*/metrics.json", "search/**/*.json", "analysis/**/*.npz")
"""Patterns of result files below results/<profile>: one matching file is enough."""


def require_results(results: Path) -> None:
    """Raise DataError if the folder holds no result at all.

    If only some results are missing, nothing is raised: the rows of the pages name them.
    """
    if not results.is_dir():
        raise DataError(f"{results}: no such folder of results; {advice()}")
    if not any(next(results.glob(pattern), None) for pattern in RESULT_PATTERNS):
        raise DataError(f"{results}: found no result, looked for {', '.join(RESULT_PATTERNS)}; {advice()}")


def advice() -> str:
    """Return the end of an error message: the command that makes results."""
    return "run snakemake --cores all first (with --configfile for another profile), or pass --results FOLDER"
