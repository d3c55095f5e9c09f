"""Write the page of the search study from its JSON: a figure, sentences and a table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qdit.core.commit_words import commit_words
from qdit.core.files import atomic_path, write_text
from qdit.core.metrics import METRICS

NAMES = {"evolution": "Algorithm 1", "response": "linear response", "racing": "racing", "random": "random search"}
COLOURS = {"evolution": "#d1690e", "response": "#1a7f37", "racing": "#1f6feb", "random": "#6e7781"}
CHEAP = ("response", "racing")
"""Kinds that sample fewer images."""
LIMIT = 0.02
"""Largest upper bound of their difference to Algorithm 1 that was allowed before the study."""
WAYS = {
    "evolution": "the evolutionary search of Q-DiT's paper: measures many candidates and makes new ones from the best",
    "response": "predicts the error of a candidate from the errors of its layers, and measures few candidates",
    "racing": "Algorithm 1 with two filters. It drops candidates by scores of their layers. It compares the rest on few"
    " images and drops the worst",
    "random": "measures random candidates, as many as Algorithm 1",
}
POINTS = 200
"""Places on the axis of images at which the curves of the seeds are averaged."""


def write_page(study: Mapping[str, Any], page: Path, figure: Path) -> None:
    """Write the Markdown page and its figure (SVG) from the study's JSON. Equal studies give equal bytes."""
    draw(study, figure)
    write_text(page, page_text(study, Path("images") / figure.name))


def verdict(study: Mapping[str, Any]) -> str:
    """Sentence that says whether random search is as good as Q-DiT's Algorithm 1."""
    against = study["comparison"]["random"]["against_evolution"]
    low, high = against["interval_95"]
    words = f"{percent(against['mean'])} (95 % interval {percent(low)} to {percent(high)}, {seeds_of(study)} seeds)"
    if high <= 0:
        return f"Random search is better than Algorithm 1 at equal images: its held-out metric is {words}."
    if low <= 0:
        return (
            "Random search is as good as Algorithm 1, as far as this study can tell: at equal images its held-out"
            f" metric differs by {words}."
        )
    return f"Random search is not as good as Algorithm 1: at equal images its held-out metric is higher by {words}."


def cheap_verdict(study: Mapping[str, Any], kind: str) -> str:
    """Sentences that say whether a search of this kind, which samples fewer images, is as good as Algorithm 1."""
    cheap, plain = study["comparison"][kind], study["comparison"]["evolution"]
    against, share = cheap["against_evolution"], cheap["images_share"]
    scores = study["plan"]["score_images"][kind]
    whole = (cheap["images_sampled_mean"] + scores) / plain["images_sampled_mean"]
    counted = f" If the forward passes that score its layers count too, this is {whole:.1%}." if scores else ""
    name = NAMES[kind]
    return (
        f"{name[0].upper()}{name[1:]} {'meets' if against['upper_95'] < LIMIT else 'misses'} the limit. It sampled"
        f" {share:.1%} of the images of Algorithm 1.{counted} The mean difference of its held-out metric to that of"
        f" Algorithm 1 is {percent(against['mean'])}. The upper bound is {percent(against['upper_95'])}."
    )


def page_text(study: Mapping[str, Any], figure: Path) -> str:
    """The whole page as Markdown."""
    plan, uniform = study["plan"], study["uniform"]["held_out"]
    metric = METRICS[plan["metric"]].title
    protocol = plan["protocol"]
    lines = [
        "# The study of the searches",
        "",
        "> Words such as *paired* and *FD-FP*: [glossary](glossary.md)",
        "",
        "A *search* looks for the group size of each layer. Each assignment of sizes that it tries is a *candidate*."
        " The study compares these searches ([how they work](search.md)):",
        "",
        "| search | what it does |",
        "|---|---|",
        *(f"| {NAMES[kind]} | {WAYS[kind]} |" for kind in NAMES if kind in study["comparison"]),
        "",
        f"Each search ran with {plan['seeds']} seeds. Then every winner was measured on *held-out* images: images with"
        f" noise that no search saw. The held-out metric is {metric}; lower is better.",
        "",
        f"**Limit.** {cheap_names(study)} should need fewer images than Algorithm 1 and not be much worse. Before the"
        f" study we set a limit: with 95 % confidence, the mean difference of the held-out metric to Algorithm 1 must"
        f" be below {percent(LIMIT)}.",
        "",
        "**Results.**",
        "",
        f"- {verdict(study)}",
        *(f"- {cheap_verdict(study, kind)}" for kind in CHEAP if kind in study["comparison"]),
        "",
        f"![Held-out metric against images sampled]({figure.as_posix()})",
        "",
        "The horizontal axis is the number of images that a search has sampled. The vertical axis is the held-out"
        f" metric of its best candidate so far, on {plan['curve_images']} held-out images. A line is the mean"
        " over the seeds. A band reaches from the best to the worst seed. The dashed line is group size"
        f" {plan['reference']} in all layers, without a search.",
        "",
        "In the table, the columns *against* give the relative difference of the held-out metric. The standard"
        " deviation is over the seeds. The upper bound belongs to the difference to Algorithm 1. It is one-sided: with"
        " 95 % confidence the mean difference is below it. It is the 95th percentile of the mean over resampled seeds."
        " With few seeds this bound is too low.",
        "",
        f"| search | images sampled | {metric}, {plan['held_out_images']} held-out images | standard deviation |"
        f" against size {plan['reference']} | against Algorithm 1 | upper bound |",
        "|---|---:|---:|---:|---:|---:|---:|",
        f"| size {plan['reference']} in all layers | 0 | {uniform:.5f} | | | | |",
    ]
    comparison = {kind: study["comparison"][kind] for kind in NAMES if kind in study["comparison"]}
    for kind, summary in comparison.items():
        spread = "" if summary["held_out_sd"] is None else f"{summary['held_out_sd']:.5f}"
        against = summary.get("against_evolution")
        last = ["", ""] if against is None else [percent(against["mean"]), percent(against["upper_95"])]
        cells = [NAMES[kind], f"{summary['images_sampled_mean']:,.0f}", f"{summary['held_out_mean']:.5f}", spread]
        cells += [percent(summary["held_out_mean"] / uniform - 1), *last]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        f"**Conditions.** The model is {plan['weights']['file']} at {plan['bits'].upper()}. Sampling has"
        f" {protocol['steps']} {protocol['sampler'].upper()} steps and guidance scale {protocol['cfg_scale']:g}. The"
        f" group sizes are {', '.join(map(str, plan['sizes']))}. A candidate is measured on at most {plan['images']}"
        " images. Each seed has its own noise and its own random draws. All winners are measured on noise of one"
        " further seed. The options of each search are in `plan.options` of the study's JSON file.",
        "",
        f"`{study['command']}` made the study at commit {commit_words(study['commit'])}. It took"
        f" {study['seconds'] / 60:.0f} minutes"
        f" with {study['workers']} workers on {study['machine']['processor']} ({study['machine']['cores']} cores).",
        "",
    ]
    return "\n".join(lines)


def cheap_names(study: Mapping[str, Any]) -> str:
    """Names of the searches with fewer images, as the start of a sentence."""
    names = " and ".join(NAMES[kind] for kind in CHEAP if kind in study["comparison"])
    return f"{names[0].upper()}{names[1:]}"


def seeds_of(study: Mapping[str, Any]) -> int:
    """Number of seeds of the study."""
    return int(study["plan"]["seeds"])


def percent(value: float) -> str:
    """Format a relative difference as text: `+1.3 %`."""
    return f"{100 * value:+.1f} %".replace("-", "−")


def curve(steps: Sequence[Mapping[str, Any]], places: np.ndarray) -> np.ndarray:
    """Held-out metric of the best genome so far, after each number of sampled images in `places`.

    NaN where no genome is measured yet.
    """
    known = np.array([step["images_sampled"] for step in steps])
    values = np.array([np.nan, *(step["held_out"] for step in steps)], np.float64)
    return values[np.searchsorted(known, places, side="right")]


def draw(study: Mapping[str, Any], path: Path) -> None:
    """Draw the held-out metric against the number of sampled images, as SVG. Equal data give equal bytes."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    plan = study["plan"]
    with pyplot.rc_context({"svg.hashsalt": "qdit", "font.size": 10}):
        drawing, axes = pyplot.subplots(figsize=(6.4, 3.8), layout="constrained")
        for kind in study["comparison"]:
            of_kind = [search for search in study["searches"] if search["kind"] == kind]
            last = max(search["images_sampled"] for search in of_kind)
            places = np.geomspace(plan["images"], last, POINTS)
            curves = np.array([curve(search["incumbents"], places) for search in of_kind])
            known = np.isfinite(curves).all(axis=0)
            axes.plot(places[known], curves[:, known].mean(axis=0), color=COLOURS[kind], label=NAMES[kind])
            low, high = curves[:, known].min(axis=0), curves[:, known].max(axis=0)
            axes.fill_between(places[known], low, high, color=COLOURS[kind], alpha=0.15, linewidth=0)
            axes.scatter([places[-1]], [curves[:, -1].mean()], color=COLOURS[kind], s=18)
        axes.axhline(study["uniform"]["held_out_curve"], color="#1b1f24", linestyle="--", linewidth=1)
        metric = METRICS[plan["metric"]].title
        axes.set(xscale="log", xlabel="images sampled", ylabel=f"{metric} on {plan['curve_images']} held-out images")
        axes.legend(frameon=False)
        axes.grid(alpha=0.3)
        with atomic_path(path) as temporary:
            drawing.savefig(temporary, format="svg", metadata={"Date": None})
        pyplot.close(drawing)
