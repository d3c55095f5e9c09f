"""Show the study that compares searches (`studies/search.json`) as a table of the report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from qdit.core.errors import DataError
from qdit.core.files import read_json
from qdit.report.pages.benches import studies_folder
from qdit.report.render.fragments import grid_html

FILE = "search.json"
NAMES = {
    "evolution": "Algorithm 1",
    "response": "Linear response",
    "racing": "Racing",
    "random": "Random search",
}
HEADINGS = (*("Search", "Images sampled", "Held-out metric", "÷ uniform", "Against Algorithm 1", "95 % interval"),)


def study_grid(results: Path) -> tuple[list[str], Markup] | None:
    """Return sentences about the study, and its table as HTML. None if there is no study."""
    path = studies_folder(results) / FILE
    if not path.is_file():
        return None
    study = read_json(path)
    try:
        plan, uniform = study["plan"], float(study["uniform"]["held_out"])
        rows = [_row(kind, comparison, uniform) for kind, comparison in study["comparison"].items()]
        about = [
            f"{plan['seeds']} seeds at {plan['bits'].upper()}, group size {plan['reference']} as the budget; every"
            f" winner measured on {plan['held_out_images']} images with noise of another seed.",
            f"{study['command']}, commit {study['commit']}, {study['machine']['processor']}"
            f" ({study['machine']['cores']} cores), {study['seconds'] / 60:.0f} minutes.",
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise DataError(
            f"{path}: not a study of the searches ({type(problem).__name__}: {problem}); make it again"
        ) from None
    return about, grid_html("Study of the searches", HEADINGS, rows)


def _row(kind: str, comparison: Mapping[str, Any], uniform: float) -> tuple[str, ...]:
    against, mean = comparison.get("against_evolution"), float(comparison["held_out_mean"])
    gap, limits = "–", "–"
    if against is not None:
        low, high = against["interval_95"]
        gap, limits = f"{against['mean']:+.1%}", f"{low:+.1%} … {high:+.1%}"
    images = f"{comparison['images_sampled_mean']:.0f}"
    return (NAMES.get(kind, kind), images, f"{mean:.5f}", f"{mean / uniform:.3f}", gap, limits)
