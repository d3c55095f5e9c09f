"""Draw PTQ4DiT's figures about salience (the largest absolute value of a channel).

The data are the arrays of `qdit analyze activations`.
"""

from typing import TYPE_CHECKING

import numpy as np

from qdit.core.number_text import significant
from qdit.report.figures.activations import NAMES, boxes, even, roles_of
from qdit.report.figures.plan import Planned
from qdit.report.figures.source import Source, require, samples_of
from qdit.report.figures.style import BLUE, GREY, VERMILLION, Sketch, time_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

ROLE = "fc1"
"""Role of the linear layer that is shown: PTQ4DiT balances its input channels."""

FRACTIONS = np.array([0, 0.01, 0.25, 0.5, 0.75, 0.99, 1])


def salience(source: Source, figure: Planned) -> Sketch:
    """Draw PTQ4DiT Fig. 3: largest |x| and |w| of each channel, and the rounding error of each channel."""
    assert figure.subject is not None
    arrays = source.arrays(figure.subject.activations)
    block_of_role, times, _ = require(arrays, "chosen", "timesteps", "record")
    block, step = int(block_of_role[roles_of(arrays).index(ROLE)]), len(times) // 2
    names = ("salience", "weight_salience", "activation_error", "weight_error", "correlation")
    of_time, of_weight, errors_x, errors_w, rho = require(arrays, *(f"{name}_{ROLE}" for name in names))
    pairs = (
        ("Activations", "x", of_time[step], errors_x, "rounded to 8 bits, one range"),
        ("Weights", "w", of_weight, errors_w, "rounded to 4 bits, a range per output"),
    )

    def draw(drawing: "Drawing") -> None:
        panels = drawing.subplots(2, 2, sharex=True)
        for column, (title, name, magnitude, error, how) in enumerate(pairs):
            bars(panels[0][column], magnitude, BLUE)
            bars(panels[1][column], error, VERMILLION)
            panels[0][column].set_title(title)
            panels[0][column].set_ylabel(f"max |{name}| of the channel")
            panels[1][column].set_ylabel("mean squared error")
            panels[1][column].set_title(how)
            panels[1][column].set_xlabel("input channel")

    caption = (
        f"{NAMES[ROLE]} of block {block} at timestep {times[step]}, {samples_of(arrays)} images. PTQ4DiT’s"
        " paper says that channels of larger magnitude have larger errors: here Spearman’s ρ between the two is"
        f" {correlation(of_time[step], errors_x):.2f} for activations and {correlation(of_weight, errors_w):.2f} for"
        f" weights, with the ranges of its released code. Between the saliences of activations and weights it is"
        f" {float(rho[step]):.2f}; where it is low, salient channels of the one are not those of the other, on"
        " which PTQ4DiT’s balancing relies."
    )
    return Sketch(
        "Salience and rounding error by channel (PTQ4DiT, Fig. 3)",
        f"{source.describe(figure.subject)} · {NAMES[ROLE]}, block {block}, timestep {times[step]}",
        caption,
        "Bars of the largest magnitude of each channel of activations and weights, below them their rounding errors.",
        (8.6, 4.4),
        draw,
    )


def bars(axes: "Axes", values: np.ndarray, colour: str) -> None:
    """Draw one bar for each channel; `values` (channels,) are the heights."""
    axes.fill_between(np.arange(len(values)), values, step="mid", color=colour, linewidth=0)
    axes.set_xlim(-0.5, len(values) - 0.5)
    axes.set_ylim(0, None)
    axes.locator_params(axis="y", nbins=4)
    axes.ticklabel_format(axis="y", scilimits=(-3, 4))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return Spearman's ρ of two vectors. Equal values get their mean rank."""
    first, second = ranks(a), ranks(b)
    return float(np.corrcoef(first, second)[0, 1]) if np.ptp(first) and np.ptp(second) else 0.0


def ranks(values: np.ndarray) -> np.ndarray:
    """Return the rank of each value, from 0. Equal values get their mean rank."""
    _, positions, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((ends - counts + ends - 1) / 2)[positions]


def salience_timesteps(source: Source, figure: Planned) -> Sketch:
    """Draw Figure 4 of PTQ4DiT: the largest |x| of each channel over the timesteps.

    A second panel shows how these correlate with the largest |w| of each channel (Spearman's ρ).
    """
    assert figure.subject is not None
    arrays = source.arrays(figure.subject.activations)
    block_of_role, times, _ = require(arrays, "chosen", "timesteps", "record")
    of_time, rho = require(arrays, f"salience_{ROLE}", f"correlation_{ROLE}")
    block = int(block_of_role[roles_of(arrays).index(ROLE)])
    shown = even(len(times))
    quantiles = np.quantile(of_time.astype(np.float64), FRACTIONS, axis=1).T

    def draw(drawing: "Drawing") -> None:
        above, below = drawing.subplots(2, 1, gridspec_kw={"height_ratios": [2.2, 1]})
        boxes(above, quantiles[shown], FRACTIONS)
        above.set_ylabel("max |x| of a channel")
        below.plot(rho[shown], color=VERMILLION, marker="o", markersize=3.5)
        below.axhline(0, color=GREY, linewidth=0.8)
        below.set_ylabel("Spearman’s ρ\nwith the weights")
        low, high = float(min(rho.min(), 0)), float(max(rho.max(), 0))
        below.set_ylim(low - 0.15 * (high - low) - 0.02, high + 0.15 * (high - low) + 0.02)
        below.locator_params(axis="y", nbins=4)
        below.grid(axis="y")
        for axes in (above, below):
            time_axis(axes, [int(times[step]) for step in shown], label=axes is below)

    largest = of_time.max(axis=1)
    swing = float(largest.max() / max(float(largest.min()), np.finfo(np.float32).tiny))
    steady = correlation(of_time[0], of_time[-1])
    caption = (
        f"Above: the largest |x| of each input channel of {NAMES[ROLE]}, block {block}, at each timestep"
        f" ({samples_of(arrays)} images); the box holds the middle half of the channels, the whiskers 98 %, crosses are"
        f" the extremes. The largest of them changes by a factor of {significant(swing)} over the trajectory; the order"
        f" of channels at its ends correlates with ρ = {steady:.2f}. Below: the correlation with the weights’ salience,"
        " with which PTQ4DiT weighs the timesteps."
    )
    return Sketch(
        "Salience of activation channels over the timesteps (PTQ4DiT, Fig. 4)",
        f"{source.describe(figure.subject)} · {NAMES[ROLE]}, block {block}",
        caption,
        "Box plots of the channels' largest activations at each timestep, and a line of rank correlations.",
        (8.6, 4.2),
        draw,
    )
