"""Choose the calibration data for the run of a tool."""

from typing import Any

from qdit.core.run import Run
from qdit.sampling.tools.registry import find_tool
from qdit.workflow.profile_fields import Keyed

KIND = "trajectory"
"""Kind of calibration data that tools get: noisy samples on the way of full precision's trajectories."""


def tool_kinds(profile: Keyed, run: Run) -> tuple[str, ...]:
    """Return the kinds of calibration data of a tool's run: one, or none if the tool needs no data at these bits."""
    entry: Any = profile["methods"][run.label]
    return (KIND,) if run.bits in find_tool(entry["tool"]).tool.calibrated else ()
