"""Compute sizes of DiT-XL/2 from the shapes of its layers. They stand beside the printed sizes and need no run.

A row of a small model gets the size of the paper's model with the same bits and the same number of groups per row.
"""

from collections.abc import Mapping
from typing import Any

from qdit.core.run import FULL_PRECISION_BITS
from qdit.models.config import DiTConfig
from qdit.quant.size import size_paper_mb, size_predicted_mb
from qdit.report.data.metrics_json import Row
from qdit.workflow.method_index import method_sources

DIT_XL_2 = DiTConfig()
"""The shapes at both resolutions: only the position embeddings differ, and neither size counts them."""

REAL_SIZES = ("shape_size_mb", "shape_actual_mb")
"""Columns that a table can show."""


def real_sizes(row: Row, entry: Mapping[str, Any]) -> Row:
    """Return cells with the size in MB of DiT-XL/2, quantized as in this row; `entry` is the row's method.

    There are no such cells if a search chose the group sizes, or if the method stores more than codes, scales and zero
    points. `shape_size_mb` uses the papers' formula. `shape_actual_mb` is the size of our checkpoint of float32
    weights: packed codes, 4 bytes per group or channel, everything else in float32.
    """
    searched = "search" in entry or "allocation" in entry
    grouped = {"weight_bits": row["weight_bits"], "group_sizes": row.get("paper_group_size")}
    method = method_sources().get(entry["method"])
    more = method is not None and method.stores_more_than_codes and row["weight_bits"] != FULL_PRECISION_BITS
    if searched or more or row["weight_bits"] not in (*range(1, 9), FULL_PRECISION_BITS):
        return {}
    cells: Row = {"shape_size_mb": size_paper_mb(DIT_XL_2, **grouped)}
    if row["scope"] == "common" and method is not None and method.common_weights_are_core:
        cells["shape_actual_mb"] = size_predicted_mb(DIT_XL_2, **grouped, float_bits=32, positions=False)
    return cells
