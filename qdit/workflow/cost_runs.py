"""Facts about a run for the cost estimates: its calibration data, and whether its rounding is learned."""

from qdit.core.run import Run
from qdit.workflow.calibration_counts import chosen_kind
from qdit.workflow.method_index import method_sources, planned_kinds
from qdit.workflow.profile import Profile


def calibration_kinds(profile: Profile, run: Run) -> list[str]:
    """Kinds of calibration data that a run takes."""
    entry = profile["methods"][run.label]
    kinds = planned_kinds(entry["method"], entry.get("options", {}))
    return [chosen_kind(profile, run.setting, run.label, kind) for kind in kinds]


def learns(profile: Profile, label: str) -> bool:
    """Whether the quantization of a label learns rounding. If the label has a base, its rounding is already learned."""
    entry = profile["methods"][label]
    method = method_sources().get(entry["method"])
    return method is not None and method.learns_rounding and "base" not in entry
