"""Write the page of the outlier study from its JSON: the measured values, a figure, and two tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from qdit.core.commit_words import commit_words
from qdit.core.files import atomic_path, write_text

ROLES = ("qkv", "attn_out", "fc1", "fc2")
COLOURS = ("#6e7781", "#d1690e", "#1f6feb", "#1a7f37", "#8250df", "#bf3989")
PRINTED = {"rtn": "RTN", "q-dit": "Q-DiT", "ptq4dit": "PTQ4DiT"}


def write_page(study: Mapping[str, Any], page: Path, figure: Path) -> None:
    """Write the Markdown page and its figure (SVG) from the study's JSON. Equal studies give equal bytes."""
    draw(study, figure)
    write_text(page, page_text(study, Path("images") / figure.name))


def page_text(study: Mapping[str, Any], figure: Path) -> str:
    """The whole page as Markdown."""
    plan, snapshots = study["plan"], study["snapshots"]
    methods = listed([PRINTED[name] for name in plan["methods"]])
    lines = [
        f"# How a DiT becomes hard to quantize: {study['noun']}s",
        "",
        "> Words such as *salience*, *FD-FP* and *paired metric*: [glossary](glossary.md)",
        "",
        f"The study follows the training of `{study['model']}` ([the miniature](miniature.md)). It has {len(snapshots)}"
        " snapshots of the moving average of the weights. It asks two questions. When do weights and inputs get"
        f" outliers? How much do {methods} damage the images of each snapshot?",
        "",
        "Two values describe the weight and the input of each linear of a block:",
        "",
        "- *Kurtosis* is the fourth central moment divided by the squared variance. A Gaussian has 3; outliers give"
        " more.",
        "- *Spread* is the largest salience of an input channel divided by the median salience of the channels. 1 means"
        " that all channels have the same range.",
        "",
        f"The inputs are those of {plan['calibration']} noisy images from the model's own trajectories. The damage is"
        f" measured on {plan['images']} images (DDIM with {plan['steps']} steps, without guidance). They are compared"
        " with the full-precision images of the same snapshot and the same noise. The options of the methods are those"
        " of the mini profile.",
        "",
        f"![Spread of channels and damage along the training]({figure.as_posix()})",
        "",
        "## What it shows",
        "",
        *summary(study),
        "",
        "[The miniature](miniature.md#how-a-model-becomes-hard-to-quantize) says what follows from this.",
        "",
        "## Outliers",
        "",
        "Every block has its own value. The first number of a cell is the median over the blocks, the second is the"
        " largest.",
        "",
        *outlier_tables(snapshots),
        "## Damage",
        "",
        "The first number of a cell is PSNR-FP in dB; more is better. FD-FP stands in brackets; less is better.",
        "",
        "The images of the first snapshots are noise. For them FD-FP means nothing, because its classifier learned from"
        f" {study['noun']}s." + sentence_about_equal_images(snapshots),
        "",
        *damage_table(study),
        "",
        f"Command: `{study['command']}`; commit {commit_words(study['commit'])}.",
        "",
    ]
    return "\n".join(lines)


def listed(names: Sequence[str]) -> str:
    """Names as words of a sentence: "a", "a and b", "a, b and c"."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def summary(study: Mapping[str, Any]) -> list[str]:
    """Lines with the largest change of the outliers, and how the damage of each method changes with it."""
    snapshots = study["snapshots"]
    first, last = snapshots[0], snapshots[-1]
    span = f"From iteration {first['iteration']:,} to iteration {last['iteration']:,}"
    lines = [f"Outliers. {span}, the value of the worst block changed:", ""]
    for what, title in (("activations", "inputs"), ("weights", "weights")):
        for value in ("spread", "kurtosis"):
            ends = {role: (max(first[what][role][value]), max(last[what][role][value])) for role in ROLES}
            role, (before, after) = max(ends.items(), key=lambda entry: entry[1][1] / entry[1][0])
            name = f"{value.capitalize()} of the {title}"
            lines.append(f"- {name} changes most in {role}: from {before:.3g} to {after:.3g}.")
    lines += ["", "Damage. A lower PSNR-FP is a larger damage:", ""]
    for method, bits in rows_of_plan(study):
        psnr = [(rows_of(entry, [(method, bits)])[0]["psnr_fp"], entry["iteration"]) for entry in snapshots]
        (worst, when), (final, _) = min(psnr), psnr[-1]
        name = f"PSNR-FP of {PRINTED[method]} at {bits.upper()}"
        if when == snapshots[-1]["iteration"]:
            lines.append(f"- {name} is lowest at the end: {worst:.1f} dB.")
        else:
            lines.append(f"- {name} is lowest at iteration {when:,}: {worst:.1f} dB. At the end it is {final:.1f} dB.")
    return lines


def sentence_about_equal_images(snapshots: Sequence[Mapping[str, Any]]) -> str:
    """A sentence that names the snapshots that no method changed; empty if there is none."""
    equal = [f"{entry['iteration']:,}" for entry in snapshots if not any(row["mse_fp"] for row in entry["damage"])]
    if not equal:
        return ""
    return (
        f" At iteration {', '.join(equal)} quantization changes no pixel: PSNR-FP has the value of"
        " [equal images](protocol.md#metrics)."
    )


def rows_of_plan(study: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(method, bits) of every row of damage, in the order of the columns."""
    return [(method, bits) for bits in study["plan"]["bits"] for method in study["plan"]["methods"]]


def outlier_tables(snapshots: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of four tables, one for each measured value. A row is a snapshot, a column is a role."""
    lines = []
    for what, title in (("activations", "inputs"), ("weights", "weights")):
        for value in ("spread", "kurtosis"):
            lines += [f"**{value.capitalize()} of the {title}**", ""]
            lines += [f"| iteration | {' | '.join(ROLES)} |", f"|---:|{'---:|' * len(ROLES)}"]
            for entry in snapshots:
                cells = [f"{median(of):.3g} / {max(of):.3g}" for of in (entry[what][role][value] for role in ROLES)]
                lines.append(f"| {entry['iteration']:,} | {' | '.join(cells)} |")
            lines.append("")
    return lines


def damage_table(study: Mapping[str, Any]) -> list[str]:
    """Lines of the table of damage. A row is a snapshot, a column is a method at certain bits."""
    columns = rows_of_plan(study)
    names = [f"{PRINTED[method]} {bits.upper()}" for method, bits in columns]
    lines = [f"| iteration | {' | '.join(names)} |", f"|---:|{'---:|' * len(names)}"]
    for entry in study["snapshots"]:
        cells = [f"{row['psnr_fp']:.1f} ({row['fd_fp']:.3g})" for row in rows_of(entry, columns)]
        lines.append(f"| {entry['iteration']:,} | {' | '.join(cells)} |")
    return lines


def rows_of(entry: Mapping[str, Any], columns: Sequence[tuple[str, str]]) -> list[Mapping[str, Any]]:
    """Damage values of one snapshot, in the order of the columns (method, bits)."""
    rows = {(row["method"], row["bits"]): row for row in entry["damage"]}
    return [rows[column] for column in columns]


def draw(study: Mapping[str, Any], path: Path) -> None:
    """Draw two panels over the training iteration, as SVG.

    The left one shows the spread of the inputs by role, the right one the PSNR-FP of each method and bits.
    """
    import matplotlib

    matplotlib.use("svg")
    from matplotlib.figure import Figure

    snapshots = study["snapshots"]
    iterations = [entry["iteration"] for entry in snapshots]
    with matplotlib.rc_context({"svg.hashsalt": "qdit", "font.family": "DejaVu Sans"}):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        for role, colour in zip(ROLES, COLOURS, strict=False):
            for what, style in (("activations", "-"), ("weights", "--")):
                values = [max(entry[what][role]["spread"]) for entry in snapshots]
                label = f"{role}, {'input' if what == 'activations' else 'weight'}"
                left.plot(iterations, values, style, marker="o", markersize=3, color=colour, label=label)
        columns = rows_of_plan(study)
        for (method, bits), colour in zip(columns, COLOURS, strict=False):
            values = [rows_of(entry, [(method, bits)])[0]["psnr_fp"] for entry in snapshots]
            label = f"{PRINTED[method]} {bits.upper()}"
            right.plot(iterations, values, marker="o", markersize=3, color=colour, label=label)
        left.set(ylabel="spread of channels (largest of the blocks)", yscale="log")
        right.set(ylabel="PSNR-FP (dB)")
        for axes in (left, right):
            axes.set_xscale("log", base=2)
            axes.set_xlabel("training iteration")
            axes.grid(alpha=0.3)
            axes.legend(fontsize=7)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})
