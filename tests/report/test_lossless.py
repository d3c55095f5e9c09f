"""The lossless gate: each of its three conditions alone decides, with the end of the interval that is against it."""

from typing import Any

import numpy as np
import pytest

from qdit.core.intervals import Resamples
from qdit.report.data.lossless import gate_note, lossless


def row_of(fid: float, *, spread: float = 0.001, **cells: float | None) -> dict[str, Any]:
    resamples = Resamples({"fid": fid + spread * np.linspace(-2, 2, 201)}, "p")
    return {"fid": fid, "resamples": resamples, "fd_fp_high": 0.04, "ssim_fp_low": 0.995, **cells}


FULL = row_of(5.0, spread=0.0)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (row_of(5.0), "yes"),
        (row_of(4.0), "yes"),
        (row_of(5.0495), "no: FID"),
        (row_of(5.04, spread=0.02), "no: FID"),
        (row_of(5.0, fd_fp_high=0.051), "no: FD-FP"),
        (row_of(5.0, ssim_fp_low=0.989), "no: SSIM-FP"),
        (row_of(6.0, fd_fp_high=1.0, ssim_fp_low=0.2), "no: FID, FD-FP, SSIM-FP"),
        (row_of(5.0, ssim_fp_low=None), None),
        (row_of(6.0, ssim_fp_low=None), "no: FID"),
        ({"fid": 5.0, "fd_fp_high": 0.01, "ssim_fp_low": 1.0}, None),
    ],
)
def test_each_condition_decides_with_its_interval(row: dict[str, Any], said: str | None) -> None:
    assert lossless(row, FULL, 1.0) == said


def test_more_per_cent_let_more_rows_pass() -> None:
    assert lossless(row_of(5.2, fd_fp_high=0.2, ssim_fp_low=0.96), FULL, 1.0) == "no: FID, FD-FP, SSIM-FP"
    assert lossless(row_of(5.2, fd_fp_high=0.2, ssim_fp_low=0.96), FULL, 5.0) == "yes"
    assert "within 5 %" in gate_note(5.0) and "at least 95 %" in gate_note(5.0)
