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
    lines = [
        "# Do the intervals contain the true difference?",
        "",
        "> Words such as *replicate* and *bootstrap*: [glossary](glossary.md)",
        "",
        f"The coverage study simulates {plan['tables']:,} tables under each of {len(study['conditions'])} conditions."
        f" A table has {plan['methods']} methods with {plan['replicates']} replicates on the same {plan['images']}"
        " images. The study knows the true difference of two methods, because it simulates them. It counts how many"
        " 95 % intervals contain the true difference. This share is the *coverage*. A *mean* is a metric such as"
        " PSNR-FP. A *distance* is a metric such as FD-FP (`qdit/bench/coverage_study.py` says how both are simulated)."
        " The intervals are computed as in tables, ranks and claims with replicates (`qdit/core/run_to_run.py`).",
        "",
        "A column `runs v` has a simulated variance between runs. It is v times the variance that the choice of images"
        " gives to the difference. A replicate can also change each image in its own way; *mixed* is the variance of"
        " this change, in the same unit. The first number of a cell is the coverage of intervals from images and"
        " replicates. The second, smaller number is the coverage of intervals from images alone, on the same tables.",
        "",
        *table(study),
        "",
        verdict(study),
        "",
        "Run it again: `qdit bench coverage`. It took"
        f" {study['seconds'] / 60:.0f} minutes of one core. The numbers are in `results/studies/coverage.json`.",
        "",
    ]
    return "\n".join(lines)


def table(study: Mapping[str, Any]) -> list[str]:
    """Lines of the table. A row is a metric with a value of `mixed`; a column is a ratio of variances between runs."""
    ratios = sorted({entry["ratio"] for entry in study["conditions"]})
    lines = [f"| metric | mixed | {' | '.join(f'runs {ratio:g}' for ratio in ratios)} |"]
    lines.append(f"|---|---:|{'---:|' * len(ratios)}")
    cells: dict[tuple[str, float], dict[float, str]] = {}
    for entry in study["conditions"]:
        text = f"{entry['coverage']:.1%} <small>{entry['by_images_alone']:.0%}</small>"
        cells.setdefault((entry["metric"], entry["mixed"]), {})[entry["ratio"]] = text
    for (metric, mixed), by_ratio in cells.items():
        lines.append(f"| {metric} | {mixed:g} | {' | '.join(by_ratio.get(ratio, '') for ratio in ratios)} |")
    return lines


def verdict(study: Mapping[str, Any]) -> str:
    """Sentence about the smallest and the largest coverage, and the coverage of intervals that resample images only."""
    low, high = study["plan"]["wanted"]
    alone = min(entry["by_images_alone"] for entry in study["conditions"])
    where = "lies" if study["as_wanted"] else "does **not** lie"
    return (
        f"The coverage is between {study['least']:.1%} and {study['most']:.1%}. It {where} between {low:.0%} and"
        f" {high:.0%}, as it should. The smallest coverage of intervals from images alone is {alone:.0%}."
    )
