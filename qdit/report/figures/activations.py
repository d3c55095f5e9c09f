"""Draw Q-DiT's Figures 2 to 4 and its second observation, from the arrays of `qdit analyze activations`."""

from typing import TYPE_CHECKING, Any

import numpy as np

from qdit.core.number_text import significant
from qdit.report.figures.plan import Planned
from qdit.report.figures.source import Arrays, Source, require, samples_of
from qdit.report.figures.style import BLUE, GREY, MAP, ORANGE, SKY, VERMILLION, Sketch, plain, time_axis
from qdit.report.render.allocation_figures import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

INPUT_OF = {
    "qkv": "input of qkv",
    "attn_out": "input of the attention’s projection",
    "fc1": "input of fc1",
    "fc2": "input of fc2",
}
"""Role of a linear layer → name of its activations in words."""

NAMES = {"qkv": "qkv", "attn_out": "attention’s projection", "fc1": "fc1", "fc2": "fc2"}
MOST_BOXES = 25
"""Largest number of timesteps drawn; of more, an evenly spaced choice is drawn."""

SHARED = ("roles", "chosen", "timesteps", "record")
"""What most figures need."""


def roles_of(arrays: Arrays) -> list[str]:
    """Return the roles of linear layers (`qkv`, `fc1`, …), in the order of the arrays."""
    return [str(role) for role in arrays["roles"]]


def channels(source: Source, figure: Planned) -> Sketch:
    """Draw Q-DiT Fig. 2: |w| and |x| of four layers; for each role, the layer whose input channels differ most."""
    assert figure.subject is not None
    arrays = source.arrays(figure.subject.activations)
    _, block_of_role, timesteps, _ = require(arrays, *SHARED)
    roles = roles_of(arrays)
    maps = [require(arrays, f"weight_map_{role}", f"input_map_{role}") for role in roles]

    def draw(drawing: "Drawing") -> None:
        panels = np.atleast_2d(drawing.subplots(2, len(roles)))
        for column, role in enumerate(roles):
            width, outputs = len(arrays[f"weight_salience_{role}"]), len(arrays[f"weight_output_salience_{role}"])
            for row, (word, height) in enumerate((("|w|", outputs), ("|x|", len(maps[column][1])))):
                axes, values = panels[row][column], maps[column][row]
                title = f"{NAMES[role]}, block {block_of_role[column]}\n{word}" if row == 0 else word
                bar_above(drawing, axes, heat(axes, values, (width, height)), float(values.max()), title)
            panels[1][column].set_xlabel("input channel")
        panels[0][0].set_ylabel("output channel")
        panels[1][0].set_ylabel("token")

    return Sketch(
        "Weights and activations by channel (Q-DiT, Fig. 2)",
        f"{source.describe(figure.subject)} · timestep {timesteps[len(timesteps) // 2]}",
        "Weights (above) and the inputs of one image in the middle of its trajectory (below), of the block of each role"
        " whose input channels differ most; a cell that covers several values shows the largest."
        f" {unevenness(arrays, roles)}",
        "Heat maps of the absolute weights and activations of four linear layers; columns are input channels.",
        (9.2, 5.0),
        draw,
    )


def unevenness(arrays: Arrays, roles: list[str]) -> str:
    """Write how much the channels differ: the largest |x| of a channel divided by the median of all channels."""
    middle = len(arrays["timesteps"]) // 2
    of_inputs = [across(arrays[f"salience_{role}"][middle]) for role in roles]
    of_weights = [across(arrays[f"weight_salience_{role}"]) for role in roles]
    of_outputs = [across(arrays[f"weight_output_salience_{role}"]) for role in roles]
    highest = int(np.argmax(of_inputs))
    return (
        f"The largest |x| of a channel is up to {significant(of_inputs[highest])} times that of the median channel"
        f" ({NAMES[roles[highest]]}). For |w| it is {join(of_weights)} times across input channels and"
        f" {join(of_outputs)} across output channels ({', '.join(NAMES[role] for role in roles)})."
    )


def bar_above(drawing: "Drawing", axes: "Axes", image: Any, highest: float, title: str) -> None:
    """Draw the colour scale of a heat map (0 to `highest`) above the map, and the title above the scale."""
    bar = drawing.colorbar(image, ax=axes, location="top", shrink=0.9, aspect=14, pad=0.02)
    bar.set_ticks([0, highest], labels=["0", plain(float(f"{highest:.2g}"))])
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=7.5)
    bar.ax.set_title(title, fontsize=9)


def across(salience: np.ndarray) -> float:
    """Return the largest value of the channels divided by the median value."""
    return float(salience.max() / max(float(np.median(salience)), np.finfo(np.float32).tiny))


def join(values: list[float]) -> str:
    """Write the numbers with few digits, separated by commas, for a sentence."""
    return ", ".join(significant(value) for value in values)


def heat(axes: "Axes", values: np.ndarray, size: tuple[int, int] | None = None) -> Any:
    """Draw a matrix as an image, with colours from 0 to its maximum.

    `values` may have fewer rows and columns than the matrix; `size` is the matrix's (columns, rows), for the axes.
    """
    columns, rows = size or (values.shape[1], values.shape[0])
    extent = (-0.5, columns - 0.5, rows - 0.5, -0.5)
    image = axes.imshow(values, cmap=MAP, vmin=0, vmax=float(values.max()), aspect="auto", extent=extent)
    axes.tick_params(length=2, labelsize=7.5)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.locator_params(nbins=4)
    return image


def timesteps(source: Source, figure: Planned) -> Sketch:
    """Draw Q-DiT Fig. 3: box plots of layer inputs at each timestep, for one layer of each role."""
    assert figure.subject is not None
    arrays = source.arrays(figure.subject.activations)
    _, block_of_role, times, _ = require(arrays, *SHARED)
    values, fractions = require(arrays, "quantiles", "fractions")
    roles = roles_of(arrays)
    shown = even(len(times))

    def draw(drawing: "Drawing") -> None:
        for number, role in enumerate(roles):
            axes = drawing.add_subplot(2, 2, number + 1)
            boxes(axes, values[number, block_of_role[number]][shown], fractions)
            axes.set_title(f"{INPUT_OF[role]}, block {block_of_role[number]}")
            time_axis(axes, [int(times[step]) for step in shown], label=number >= 2)
            if number % 2 == 0:
                axes.set_ylabel("value of x")

    caption = (
        f"Inputs of four layers over the trajectory, all values of {samples_of(arrays)} images: the box holds the"
        " middle half, the whiskers 98 %, crosses are the extremes. From the timestep with the narrowest range to that"
        f" with the widest, max |x| grows by a factor of {join(growth(values, block_of_role))}"
        f" ({', '.join(NAMES[role] for role in roles)})."
    )
    return Sketch(
        "Activations over the timesteps (Q-DiT, Fig. 3)",
        source.describe(figure.subject),
        caption,
        "Box plots of the inputs of four layers at each timestep.",
        (8.6, 5.0),
        draw,
    )


def growth(values: np.ndarray, block_of_role: np.ndarray) -> list[float]:
    """Return for each role how much max |x| changes over the timesteps: its largest value divided by its smallest.

    `values` are quantiles of x (role, block, timestep, quantile). `block_of_role` has the block of each role's layer.
    """
    largest = [np.abs(values[number, block][:, [0, -1]]).max(axis=1) for number, block in enumerate(block_of_role)]
    return [float(maxima.max() / max(float(maxima.min()), np.finfo(np.float32).tiny)) for maxima in largest]


def even(count: int, most: int = MOST_BOXES) -> list[int]:
    """Return the indices of at most `most` evenly spaced steps out of `count`, with the first and the last step."""
    if count <= most:
        return list(range(count))
    return [round(number * (count - 1) / (most - 1)) for number in range(most)]


def boxes(axes: "Axes", quantiles: np.ndarray, fractions: np.ndarray) -> None:
    """Draw a box plot for each of S steps from `quantiles` (S, F), the quantiles at `fractions` (F,) of 0 to 1."""
    order = [int(np.argmin(np.abs(fractions - wanted))) for wanted in (0, 0.01, 0.25, 0.5, 0.75, 0.99, 1)]
    low, whisker_low, first, median, third, whisker_high, high = quantiles[:, order].T
    stats = [
        {"whislo": whisker_low[n], "q1": first[n], "med": median[n], "q3": third[n], "whishi": whisker_high[n]}
        | {"fliers": [low[n], high[n]]}
        for n in range(len(quantiles))
    ]
    axes.bxp(
        stats,
        positions=range(len(stats)),
        widths=0.62,
        patch_artist=True,
        manage_ticks=False,
        boxprops={"facecolor": "#bcdcf2", "edgecolor": BLUE, "linewidth": 0.8},
        medianprops={"color": VERMILLION, "linewidth": 1.3},
        whiskerprops={"color": BLUE, "linewidth": 0.8},
        capprops={"color": BLUE, "linewidth": 0.8},
        flierprops={"marker": "x", "markersize": 3, "markeredgecolor": GREY},
    )
    axes.grid(axis="y")


def blocks(source: Source, figure: Planned) -> Sketch:
    """Draw Q-DiT Fig. 4: heat maps of the standard deviation of layer inputs, by block and timestep."""
    assert figure.subject is not None
    arrays = source.arrays(figure.subject.activations)
    times, deviation, _ = require(arrays, "timesteps", "deviation", "record")
    roles = roles_of(arrays)
    parts = {"qkv": "Attention: ", "attn_out": "Attention: ", "fc1": "MLP: ", "fc2": "MLP: "}

    def draw(drawing: "Drawing") -> None:
        from matplotlib.ticker import MaxNLocator

        for number, role in enumerate(roles):
            axes = drawing.add_subplot(2, 2, number + 1)
            image = heat(axes, deviation[number])
            axes.set_title(f"{parts[role]}{INPUT_OF[role]}")
            time_axis(axes, [int(time) for time in times], label=number >= 2)
            axes.set_xlim(-0.5, len(times) - 0.5)
            axes.set_yticks(even(len(deviation[number]), 7))
            if number % 2 == 0:
                axes.set_ylabel("block")
            bar = drawing.colorbar(image, ax=axes, pad=0.01, aspect=16)
            bar.outline.set_visible(False)
            bar.ax.tick_params(length=0)
            bar.locator = MaxNLocator(4)
            bar.update_ticks()
            if number % 2 == 1:
                bar.set_label("standard deviation of x")

    swing = deviation.max(axis=2) / np.maximum(deviation.min(axis=2), np.finfo(np.float32).tiny)
    role, block = np.unravel_index(int(swing.argmax()), swing.shape)
    caption = (
        f"Standard deviation of each layer’s input at each timestep, over {samples_of(arrays)} images. It changes most"
        f" in the {INPUT_OF[roles[role]]} of block {block}: by a factor of {significant(float(swing.max()))} over"
        f" the trajectory; in the median layer by {significant(float(np.median(swing)))}."
    )
    return Sketch(
        "Standard deviation of activations by block and timestep (Q-DiT, Fig. 4)",
        source.describe(figure.subject),
        caption,
        "Heat maps of the standard deviation of four kinds of activations, rows blocks, columns timesteps.",
        (8.6, 4.6),
        draw,
    )


def spread(source: Source, figure: Planned) -> Sketch:
    """Draw Q-DiT's second observation: how activations change over time differs between images."""
    assert figure.subject is not None
    arrays = source.arrays(figure.subject.activations)
    times, deviation, _ = require(arrays, "timesteps", "sample_deviation", "record")
    roles = roles_of(arrays)
    relative = deviation / deviation.mean(axis=3, keepdims=True)
    wide = relative.max(axis=3) / np.maximum(relative.min(axis=3), np.finfo(np.float32).tiny)
    role, block, step = (int(index) for index in np.unravel_index(int(wide.argmax()), wide.shape))

    def draw(drawing: "Drawing") -> None:
        left, right = drawing.subplots(1, 2)
        over_time(left, deviation[role, block], step, [int(time) for time in times])
        left.set_title(f"{INPUT_OF[roles[role]]}, block {block}: a line per image")
        at_one_time(right, relative[:, :, step], roles)
        right.set_title(f"standard deviation in all layers at timestep {times[step]}")

    caption = (
        f"Each of {samples_of(arrays)} images has its own scale: at timestep {times[step]} the standard deviation of"
        f" the {INPUT_OF[roles[role]]} of block {block} differs by a factor of {significant(float(wide.max()))} between"
        f" images; in the median layer and timestep by {significant(float(np.median(wide)))}. A range that was"
        " calibrated for a timestep fits some images better than others; Q-DiT takes ranges at run time."
    )
    return Sketch(
        "Activations of different images at one timestep (Q-DiT, second observation)",
        source.describe(figure.subject),
        caption,
        "Lines of the standard deviation of each image over time, and marks for each image in every layer.",
        (9.2, 3.3),
        draw,
    )


def over_time(axes: "Axes", deviation: np.ndarray, step: int, times: list[int]) -> None:
    """Draw the standard deviation of a layer's input over the steps, as one line for each image, and the mean line.

    `deviation` is (steps, images). A vertical line marks one step.
    """
    axes.plot(deviation, color=BLUE, linewidth=0.7, alpha=0.65)
    axes.plot(deviation.mean(axis=1), color=INK, linewidth=2, label="mean of the images")
    axes.axvline(step, ymax=0.84, color=ORANGE, linestyle="--", linewidth=1.2, label=f"timestep {times[step]}")
    axes.set_ylabel("standard deviation of x")
    axes.set_ylim(0, float(deviation.max()) * 1.22)
    time_axis(axes, times)
    axes.legend(loc="upper right", ncols=2)


def at_one_time(axes: "Axes", relative: np.ndarray, roles: list[str]) -> None:
    """Draw a mark for each image in each layer: its standard deviation divided by the mean over the images.

    `relative` is (roles, blocks, images). The roles of a block stand side by side.
    """
    _, depth, samples = relative.shape
    styles = zip(roles, (GREY, SKY, ORANGE, VERMILLION), "x^so", strict=False)
    for number, (role, colour, marker) in enumerate(styles):
        at = np.repeat(np.arange(depth), samples) + (number - 1.5) * 0.2
        values = relative[number].ravel()
        axes.scatter(at, values, s=9, color=colour, marker=marker, linewidths=0.8, label=NAMES[role])
    axes.axhline(1, color=GREY, linewidth=0.8, zorder=0)
    axes.set(xlabel="block", ylabel="relative to the images’ mean")
    axes.set_xticks(even(depth, 8))
    low, high = float(relative.min()), float(relative.max())
    axes.set_ylim(None, high + 0.28 * (high - low))
    axes.legend(loc="upper right", ncols=2, handletextpad=0.2, columnspacing=1)
