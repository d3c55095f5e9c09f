"""Write the page of the coverage study from its JSON."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qdit.core.files import write_text


def write_page(study: Mapping[str, Any], page: Path) -> None:
    """Write the Markdown page from the study's JSON. Equal studies give equal bytes."""
    write_text(page, page_text(study))


def page_text(study: Mapping[str, Any]) -> str:
    """The whole page as Markdown."""
    plan = study["plan"]
    low, high = plan["wanted"]
    lines = [
        "# Do the intervals contain the true difference?",
        "",
        "> Words such as *replicate* and *bootstrap*: [glossary](glossary.md)",
        "",
        "The tables have a 95 % interval for the difference of two rows. Such an interval should contain the true"
        " difference in 95 % of all cases. This study checks it with simulated tables, because in a simulation the true"
        " difference is known. The *coverage* is the share of the intervals that contain it. The goal is a coverage"
        f" between {low:.0%} and {high:.0%}.",
        "",
        f"The study simulates {plan['tables']:,} tables under each of {len(study['conditions'])} conditions. A table"
        f" has {plan['methods']} methods. Each method has {plan['replicates']} replicates on the same {plan['images']}"
        " images. A condition has three properties:",
        "",
        "- **Metric.** A *mean* is a metric that is a mean over images, such as PSNR-FP. A *distance* is a Fréchet"
        " distance, such as FD-FP.",
        "- **Spread between runs.** Replicates differ, because each one has other random draws. This changes the"
        " difference of two methods. The study varies the variance of this change.",
        "- **Spread per image.** A replicate can also change each image in its own way. This is a further variance.",
        "",
        "The difference of two methods also changes with the choice of the images. The variance of this change is the"
        " unit of the tables. *runs 10* means that the variance from the spread between runs is 10 of these units."
        " *Spread per image* 3 means that the variance from the spread per image is 3 of these units."
        " `qdit/bench/coverage_study.py` has the formulas.",
        "",
        "## Intervals from images and replicates",
        "",
        "If rows have replicates, this suite computes these intervals (`qdit/core/run_to_run.py`).",
        "",
        *table(study, "coverage", digits=1),
        "",
        verdict(study),
        "",
        "## Intervals from images alone",
        "",
        "These intervals ignore the spread between runs. They were computed for the same simulated tables.",
        "",
        *table(study, "by_images_alone", digits=0),
        "",
        verdict_alone(study),
        "",
        "## Run it again",
        "",
        "The command is `qdit bench coverage`. It took"
        f" {study['seconds'] / 60:.0f} minutes of one core. The numbers are in `results/studies/coverage.json`.",
        "",
    ]
    return "\n".join(lines)


def table(study: Mapping[str, Any], key: str, *, digits: int) -> list[str]:
    """Lines of a table of one coverage: a row for each metric and spread per image, a column for each spread."""
    ratios = sorted({entry["ratio"] for entry in study["conditions"]})
    columns = (f"runs {ratio:g}" for ratio in ratios)
    lines = [f"| metric | spread per image | {' | '.join(columns)} |"]
    lines.append(f"|---|---:|{'---:|' * len(ratios)}")
    cells: dict[tuple[str, float], dict[float, str]] = {}
    for entry in study["conditions"]:
        cells.setdefault((entry["metric"], entry["mixed"]), {})[entry["ratio"]] = f"{entry[key]:.{digits}%}"
    for (metric, mixed), by_ratio in cells.items():
        lines.append(f"| {metric} | {mixed:g} | {' | '.join(by_ratio.get(ratio, '') for ratio in ratios)} |")
    return lines


def verdict(study: Mapping[str, Any]) -> str:
    """Sentence about the range of the coverage of intervals from images and replicates."""
    reached = "is reached" if study["as_wanted"] else "is **not** reached"
    return (
        f"The coverage is between {study['least']:.1%} and {study['most']:.1%} under all conditions. So the goal"
        f" {reached}."
    )


def verdict_alone(study: Mapping[str, Any]) -> str:
    """Sentence about the smallest coverage of intervals from images alone."""
    least = min(entry["by_images_alone"] for entry in study["conditions"])
    return f"The smallest coverage is {least:.0%}. So intervals need replicates if runs differ much."
