"""Decide whether a row is lossless: within x % of full precision, with its 95 % intervals (an idea of MLPerf).

A quantized row is lossless if all three conditions hold, with x from the profile (`lossless_percent`):

- FID is at most x % above the FID of full precision, at the upper end of the paired interval of the difference.
- FD-FP is at most x % of full precision's FID, at the upper end of its interval. Both distances use the same features.
- SSIM-FP is at least 100 − x %, at the lower end of its interval.
"""

from collections.abc import Iterable

from qdit.report.data.compare_rows import difference
from qdit.report.data.metrics_json import Row
from qdit.report.data.rows import is_full_precision, is_measured

COLUMN = "lossless"
PASSED, FAILED = "yes", "no"
PERCENT = 1.0
"""Value for a profile without `lossless_percent`."""


def lossless(row: Row, full: Row, percent: float) -> str | None:
    """Return `yes`, or `no:` with the failed metrics, such as `no: FID, SSIM-FP`.

    None if no metric failed, but a number or interval is missing.
    """
    checks = dict(_checks(row, full, percent / 100))
    failed = [title for title, passed in checks.items() if passed is False]
    if failed:
        return f"{FAILED}: {', '.join(failed)}"
    return None if None in checks.values() else PASSED


def with_gate(rows: Iterable[Row], percent: float) -> None:
    """Write the cell `lossless` into each quantized row of a block, if the block has a full-precision row."""
    rows = list(rows)
    full = next((row for row in rows if is_full_precision(row) and is_measured(row)), None)
    for row in rows:
        if full is not None and is_measured(row) and not is_full_precision(row):
            row[COLUMN] = lossless(row, full, percent)


def _checks(row: Row, full: Row, share: float) -> Iterable[tuple[str, bool | None]]:
    gap, scale = difference(row, full, "fid"), full.get("fid")
    limits = None if gap is None else gap.interval
    yield "FID", None if limits is None or scale is None else limits[1] <= share * scale
    high, low = row.get("fd_fp_high"), row.get("ssim_fp_low")
    yield "FD-FP", None if high is None or scale is None else high <= share * scale
    yield "SSIM-FP", None if low is None else low >= 1 - share


def gate_note(percent: float) -> str:
    """Write the note that explains the column `lossless`, for the small print of a table."""
    return (
        f"Lossless: within {percent:g} % of full precision, 95 % intervals included. FID rises by at most {percent:g}"
        f" %, FD-FP is at most {percent:g} % of full precision’s FID, and SSIM-FP is at least {100 - percent:g} %; “no”"
        " names what fails."
    )
