"""Draw the figures of a profile, and list them in figures.json (`qdit figures`)."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from qdit.core.errors import DataError
from qdit.core.files import read_json, write_bytes, write_json, write_text
from qdit.report.figures import activations, errors, group_sizes, quality, salience, samples, search
from qdit.report.figures.plan import Planned, find, planned
from qdit.report.figures.source import Missing, Source
from qdit.report.figures.style import Sketch, compose, encode, missing_sketch
from qdit.workflow.profile import Profile

FOLDER, LIST = "figures", "figures.json"

KINDS: dict[str, Callable[[Source, Planned], Sketch]] = {
    "channels": activations.channels,
    "timesteps": activations.timesteps,
    "blocks": activations.blocks,
    "spread": activations.spread,
    "salience": salience.salience,
    "salience-timesteps": salience.salience_timesteps,
    "sizes": quality.sizes,
    "group-sizes": group_sizes.group_sizes,
    "errors-timesteps": errors.timesteps,
    "errors-layers": errors.layers,
    "samples": samples.samples,
    "search": search.search,
    "speed": search.speed,
}
"""Kind of a figure → function that draws it."""


def sketch(source: Source, figure: Planned) -> Sketch:
    """Return the sketch (texts and drawing function) of a figure. If data are missing, the sketch names them."""
    try:
        return KINDS[figure.kind](source, figure)
    except Missing as problem:
        return without_data(source, figure, problem)


def without_data(source: Source, figure: Planned, problem: Missing) -> Sketch:
    """Return the sketch of a figure that lacks data; it names them."""
    where = source.describe(figure.subject) if figure.subject else f"table {figure.table}"
    return missing_sketch(figure.title, where, str(problem))


def picture(source: Source, figure: Planned) -> tuple[Sketch, str, bytes]:
    """Return the sketch of a figure, and its drawing as SVG and as PNG. Data may also be found missing at drawing."""
    face, drawn = str(source.profile["face"]), sketch(source, figure)
    try:
        return drawn, *encode(compose(drawn, face))
    except Missing as problem:
        drawn = without_data(source, figure, problem)
        return drawn, *encode(compose(drawn, face))


def build_figures(profile: Profile, results: Path, *, only: Sequence[str] | None = None) -> list[Path]:
    """Write `figures/<name>.svg` and `.png` below `results`, and figures.json; equal data give equal bytes.

    `only` names the figures to draw; the entries of other figures in an existing figures.json stay. A figure with
    `opt_in` is left out while its table has no data. Raises ConfigError for a name that is not a figure of the profile.
    """
    source, folder = Source(profile, results), results / FOLDER
    wanted = planned(profile) if only is None else [find(profile, name) for name in only]
    entries: dict[str, dict[str, Any]] = {}
    paths = []
    for figure in wanted:
        drawn, svg, png = picture(source, figure)
        if drawn.missing and figure.opt_in:
            continue
        files = {suffix: folder / f"{figure.name}.{suffix}" for suffix in ("svg", "png")}
        write_text(files["svg"], svg)
        write_bytes(files["png"], png)
        paths += list(files.values())
        entries[figure.name] = entry(figure, drawn)
    if only is not None:
        entries = listed(folder / LIST) | entries
    order = [figure.name for figure in planned(profile) if figure.name in entries]
    write_json(folder / LIST, [entries[name] for name in order])
    return [*paths, folder / LIST]


def entry(figure: Planned, drawn: Sketch) -> dict[str, Any]:
    """Return the entry of a figure in figures.json. `missing` is the reason for an empty picture, else None."""
    return {
        "name": figure.name,
        "title": drawn.title,
        "caption": drawn.caption,
        "subtitle": drawn.subtitle,
        "group": figure.group,
        "file_svg": f"{figure.name}.svg",
        "file_png": f"{figure.name}.png",
        "alt": drawn.alt,
        "missing": drawn.missing,
    }


def listed(path: Path) -> dict[str, dict[str, Any]]:
    """Return figure name → entry of an existing figures.json; empty if the file is missing or damaged."""
    try:
        return {str(entry["name"]): entry for entry in read_json(path)}
    except (DataError, TypeError, KeyError):
        return {}
