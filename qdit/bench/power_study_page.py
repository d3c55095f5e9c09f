"""Write the page of the power study from its JSON: the rule, a figure and a table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qdit.bench.power_study import mean_share
from qdit.core.files import atomic_path, write_text
from qdit.core.metrics import METRICS
from qdit.core.ranking import ranking_metric

COLOURS = ("#6e7781", "#d1690e", "#1f6feb", "#1a7f37", "#8250df", "#bf3989")


def write_page(study: Mapping[str, Any], page: Path, figure: Path) -> None:
    """Write the Markdown page and its figure (SVG) from the study's JSON. Equal studies give equal bytes."""
    draw(study, figure)
    write_text(page, page_text(study, Path("images") / figure.name))


def page_text(study: Mapping[str, Any], figure: Path) -> str:
    """The whole page as Markdown."""
    groups = study["plan"]["groups"]
    lines = [
        "# How many images a metric needs",
        "",
        "> Words such as *paired metric* and *bootstrap*: [glossary](glossary.md)",
        "",
        "The power study compares metrics. For each metric and each number of images n it asks: for how many pairs of"
        " methods is the difference more than chance?",
        "",
        f"The study has {sum(group['rows'] for group in groups)} rows of the tables. It compares rows with equal"
        f" setting, form, scope and bits; there are {len(groups)} such groups. The metrics of each row are computed"
        " from its first n images. A metric *separates* a pair of rows if the 95 % interval of their paired difference"
        " excludes 0. There is no correction for the number of pairs.",
        "",
        f"![Share of separated pairs against the number of images]({figure.as_posix()})",
        "",
        "The table has the share of separated pairs for each number of images." + fewer_pairs(study),
        "",
        *table(study),
        "",
        f"*Mean* is the mean of the shares up to {study['plan']['counted_up_to']} images. *Same order* counts the"
        " separated pairs of all columns together. It is the share of pairs in which the better row is also better with"
        " all images of the rows. Bootstrap intervals from few images are often too narrow. So a share at 8 or 16"
        " images can be too large; some of these pairs may be separated by chance.",
        "",
        "## Which metric should rank the rows",
        "",
        "The program has a rule (`qdit/bench/power_study.py`). The rule considers the paired metrics whose *same"
        " order* is at least 95 %. It takes the one with the largest *mean*. If several are within two percentage"
        " points of the largest, it takes the one whose column comes first in the tables.",
        "",
        choice(study),
        "",
    ]
    return "\n".join(lines)


def choice(study: Mapping[str, Any]) -> str:
    """Say which metric the page's rule chooses, and by which metric the tables rank now."""
    chosen, present = study["chosen"], ranking_metric()
    if chosen is None:
        return f"No metric qualifies by this rule. Tables are ranked by {present.title}."
    if chosen == present.name:
        return (
            f"The rule takes {present.title}. All tables and the leaderboard rank by it. Claims about the order of"
            " methods on a miniature use it too ([claims](claims.md#what-a-miniature-measures)). FD-FP stays a column"
            " of every table. It compares features, so its order can differ."
        )
    return (
        f"The rule takes {METRICS[chosen].title}. Claims about the order of methods on a miniature use this metric"
        f" ([claims](claims.md#what-a-miniature-measures)). The tables still rank by {present.title}. So their order"
        f" can differ from the order by {METRICS[chosen].title}."
    )


def fewer_pairs(study: Mapping[str, Any]) -> str:
    """Warn of the columns (numbers of images) with fewer pairs than the largest column. Empty if there are none."""
    pairs = {entry["images"]: entry["pairs"] for measured in study["metrics"].values() for entry in measured}
    most = max(pairs.values(), default=0)
    fewer = [str(size) for size in sorted(pairs) if pairs[size] < most]
    if not fewer:
        return ""
    return (
        f" Fewer rows have {' or '.join(fewer)} images. So do not compare"
        f" {'this column' if len(fewer) == 1 else 'these columns'} with the others."
    )


def table(study: Mapping[str, Any]) -> list[str]:
    """Lines of the table. A row is a metric, a column is a number of images."""
    sizes = sorted({entry["images"] for measured in study["metrics"].values() for entry in measured})
    lines = [f"| metric | {' | '.join(map(str, sizes))} | mean | same order |", f"|---|{'---:|' * (len(sizes) + 2)}"]
    for name, measured in in_order(study):
        shares = {entry["images"]: f"{entry['share']:.0%}" for entry in measured}
        separated = sum(entry["share"] * entry["pairs"] for entry in measured)
        same = sum(entry["share"] * entry["pairs"] * (entry["consistent"] or 0) for entry in measured)
        cells = [shares.get(size, "") for size in sizes]
        order = f"{same / separated:.1%}" if separated else "–"
        lines.append(f"| {METRICS[name].title} | {' | '.join(cells)} | {mean_share(measured):.1%} | {order} |")
    return lines


def in_order(study: Mapping[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """(metric, measured shares) of each metric, in the order of the columns of tables."""
    return [(name, study["metrics"][name]) for name in METRICS if name in study["metrics"]]


def draw(study: Mapping[str, Any], path: Path) -> None:
    """Draw the share of separated pairs against the number of images, as SVG. Each metric is a curve."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "qdit", "font.family": "DejaVu Sans"}):
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.add_subplot()
        for (name, measured), colour in zip(in_order(study), COLOURS * 2, strict=False):
            images, shares = zip(*((entry["images"], 100 * entry["share"]) for entry in measured), strict=True)
            axes.plot(images, shares, marker="o", color=colour, label=METRICS[name].title)
        axes.set_xscale("log", base=2)
        axes.set_xlabel("images of a row")
        axes.set_ylabel("separated pairs of methods (%)")
        axes.set_ylim(0, 102)
        axes.grid(alpha=0.3)
        axes.legend()
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})
