"""Draw the errors of the methods by timestep and by layer, from the arrays of `qdit analyze errors`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qdit.core.metrics_record import Status
from qdit.core.number_text import significant
from qdit.report.data.published import printed_name
from qdit.report.figures.activations import even
from qdit.report.figures.plan import Comparison, Planned, comparisons
from qdit.report.figures.source import Arrays, Missing, Source, require, samples_of
from qdit.report.figures.style import Look, Sketch, legend, log_axis, looks, time_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

PARTS = {"q and k": "q and k", "attention": "attention", "fc1": "fc1", "MLP": "MLP"}


@dataclass(frozen=True)
class Panel:
    """One panel: the comparison of methods at one bit width, its arrays, and the methods with values."""

    comparison: Comparison
    arrays: Arrays
    methods: tuple[str, ...]

    @property
    def title(self) -> str:
        """Title: the bit width, for example `W4A8`."""
        return self.comparison.bits.upper()

    def of(self, name: str, label: str) -> np.ndarray:
        """Return the values of the method `label` in the array `name`."""
        errors: np.ndarray = self.arrays[name][list(map(str, self.arrays["labels"])).index(label)]
        return errors


def panels_of(source: Source, figure: Planned) -> tuple[list[Panel], list[str]]:
    """Return the panels, and one text for each missing panel or method. Raises `Missing` if there is no panel."""
    assert figure.subject is not None
    panels: list[Panel] = []
    absent: list[str] = []
    for comparison in comparisons(source.profile, figure.subject):
        try:
            arrays = source.arrays(comparison.errors)
            labels, status = require(
                arrays, "labels", "status", "timesteps", "parts", "noise_error", "drift", "layer_error", "record"
            )[:2]
        except Missing as problem:
            absent.append(str(problem))
            continue
        state = dict(zip(map(str, labels), map(str, status), strict=True))
        known = tuple(label for label in comparison.labels if state.get(label) == Status.OK)
        lost = [printed_name(label) for label in comparison.labels if label not in known]
        absent += [f"{comparison.bits.upper()} {', '.join(lost)}: no values"] if lost else []
        if known:
            panels.append(Panel(comparison, arrays, known))
    if not panels:
        raise Missing("; ".join(absent) or "no method was compared here")
    return panels, absent


def timesteps(source: Source, figure: Planned) -> Sketch:
    """Draw two errors of each method by timestep: of the predicted noise, and of the trajectory.

    The first is the relative error of the noise predicted at full precision's x_t. The second is the squared distance
    between the method's x_t and full precision's x_t, if both began with the same noise.
    """
    panels, absent = panels_of(source, figure)
    shared = looks_of(panels)
    assert figure.subject is not None

    def draw(drawing: "Drawing") -> None:
        grid = np.asarray(drawing.subplots(2, len(panels), squeeze=False, sharex="col"))
        for column, panel in enumerate(panels):
            times = [int(time) for time in panel.arrays["timesteps"]]
            for row, name in enumerate(("noise_error", "drift")):
                axes = grid[row][column]
                curves = {label: np.median(panel.of(name, label), axis=1) for label in panel.methods}
                curves = {label: curve[1:] if name == "drift" else curve for label, curve in curves.items()}
                lines(axes, curves, shared)
                time_axis(axes, times, label=row == 1)
            grid[0][column].set_title(panel.title)
        grid[0][0].set_ylabel("relative error of ε\n(at full precision’s xₜ)")
        grid[1][0].set_ylabel("squared distance\nof the trajectories")
        legend(drawing, {printed_name(label): look for label, look in shared.items()})

    caption = (
        f"Above: ‖ε_q(xₜ) − ε(xₜ)‖² ÷ ‖ε(xₜ)‖² with xₜ of full precision’s own trajectory, the median of"
        f" {samples_of(panels[0].arrays)} images. Below: mean squared distance between the trajectories that start from"
        f" the same noise, after each step. {ranking(panels)}"
    )
    return Sketch(
        "Error of the predicted noise by timestep",
        f"{source.describe(figure.subject)} · scope {panels[0].comparison.scope}",
        caption + noted(absent),
        "Lines of the error of each method over the timesteps, one panel per bit width.",
        (8.6, 4.9),
        draw,
    )


def layers(source: Source, figure: Planned) -> Sketch:
    """Draw the relative output error of each branch of a block; every branch gets full precision's input."""
    panels, absent = panels_of(source, figure)
    shared = looks_of(panels)
    assert figure.subject is not None
    branches = [str(branch) for branch in panels[0].arrays["parts"]]

    def draw(drawing: "Drawing") -> None:
        grid = np.asarray(drawing.subplots(len(panels), len(branches), squeeze=False, sharex=True, sharey="row"))
        for row, panel in enumerate(panels):
            everything = [float(v) for label in panel.methods for v in panel.of("layer_error", label).ravel()]
            for column, branch in enumerate(branches):
                axes = grid[row][column]
                lines(axes, {label: panel.of("layer_error", label)[:, column] for label in panel.methods}, shared)
                log_axis(axes, everything)
                axes.set_xticks(even(panel.arrays["layer_error"].shape[1], 7))
                if row == 0:
                    axes.set_title(PARTS.get(branch, branch))
                if row == len(panels) - 1:
                    axes.set_xlabel("block")
            grid[row][0].set_ylabel(f"{panel.title}\nrelative error of the output")
        legend(drawing, {printed_name(label): look for label, look in shared.items()})

    caption = (
        f"‖y_q − y‖² ÷ ‖y‖² over timesteps and {samples_of(panels[0].arrays)} images, each branch of a block given full"
        f" precision’s own input: q and k behind qkv, attention behind its projection, fc1 before GELU, the MLP behind"
        f" fc2. {worst(panels, branches)}"
    )
    return Sketch(
        "Error of each layer’s output",
        f"{source.describe(figure.subject)} · scope {panels[0].comparison.scope}",
        caption + noted(absent),
        "Lines of the relative output error of each method over the blocks, a panel for each part of a block.",
        (9.2, 1.1 + 1.9 * len(panels)),
        draw,
    )


def lines(axes: "Axes", curves: Mapping[str, np.ndarray], shared: Mapping[str, Look]) -> None:
    """Draw a line for each method, with markers at some of its points."""
    for label, curve in curves.items():
        look = shared[label]
        axes.plot(curve, **look.style, markevery=max(len(curve) // 10, 1), linewidth=2 if look.emphasized else 1.3)
    log_axis(axes, [float(value) for curve in curves.values() for value in curve])


def looks_of(panels: list[Panel]) -> dict[str, Look]:
    """Return method → colour, marker and line style, for all methods in the panels."""
    return looks(list(dict.fromkeys(label for panel in panels for label in panel.methods)))


def ranking(panels: list[Panel]) -> str:
    """Write which methods have the smallest and the largest mean error of the noise, at each bit width."""
    words = []
    for panel in panels:
        mean = {label: float(panel.of("noise_error", label).mean()) for label in panel.methods}
        best, worst = min(mean, key=mean.__getitem__), max(mean, key=mean.__getitem__)
        words.append(
            f"{panel.title}: smallest mean over the steps {printed_name(best)} ({significant(mean[best])}), largest"
            f" {printed_name(worst)} ({significant(mean[worst])})."
        )
    return " ".join(words)


def worst(panels: list[Panel], branches: list[str]) -> str:
    """Write in which branch and block the median over the methods has its largest error, at each bit width."""
    words = []
    for panel in panels:
        median = np.median([panel.of("layer_error", label) for label in panel.methods], axis=0)
        block, branch = (int(index) for index in np.unravel_index(int(median.argmax()), median.shape))
        words.append(
            f"{panel.title}: the median method errs most in {branches[branch]} of block {block}"
            f" ({significant(float(median.max()))})."
        )
    return " ".join(words)


def noted(absent: list[str]) -> str:
    """Write the last part of a caption: what is missing."""
    return f" Missing: {'; '.join(absent)}." if absent else ""
