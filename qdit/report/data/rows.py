"""The data of a table: blocks of rows, the columns of the CSV file, and differences to full precision."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from qdit.core import metrics
from qdit.core.errors import ConfigError, did_you_mean
from qdit.core.metrics_record import Status
from qdit.core.run import FULL_PRECISION_BITS, FULL_PRECISION_METHOD, Run
from qdit.report.data.checkpoint_log import read_log
from qdit.report.data.faces import face_of_setting
from qdit.report.data.learning_curves import reconstruction_of
from qdit.report.data.metrics_json import Row
from qdit.report.data.published import PublishedRow, readable_name
from qdit.report.data.replicates import COUNT, read_row
from qdit.workflow.profile_facts import block_runs
from qdit.workflow.protocol_version import protocol_version

IDENTITY = ("setting", "form", "method", "weight_bits", "activation_bits", "scope")
GROUPS = ("label", "step", "group_size", "paper_group_size")
PROVENANCE = (
    *(
        "fitted",
        "status",
        COUNT,
        "protocol_version",
        "protocol_sha256",
        "model",
        "sampler",
        "steps",
        "cfg_scale",
        "images",
        "chunk",
        "seed",
    ),
    *("uint8", "decoder", "reference", "reference_sha256", "evaluator", "evaluator_sha256", "mode", "backend"),
    *("weights_sha256", "checkpoint_sha256", "calibration_sha256", "allocation_sha256", "reconstruction_iterations"),
    *("code_quantize", "code_sample", "code_evaluate", "packages", "profile", "face"),
)
"""Columns of the CSV that are no metrics: the identity of the run, its block, and its provenance."""

GROUPS_IN_THE_PAPER = {36: 288, 24: 192, 16: 128, 12: 96, 8: 64, 4: 32}
"""Mini group size → the group size of DiT-XL/2 that gives as many groups per row (width 144 against 1152)."""


def csv_columns() -> tuple[str, ...]:
    """Return the columns of every table's CSV file, in order.

    `change_*` is the difference to full precision. `difference_*` is ours − published.
    """
    measured = metrics.metric_names(lambda metric: metrics.of_images(metric) or metric.of == "checkpoint")
    front = [name for name in measured if metrics.METRICS[name].in_front]
    return (
        *IDENTITY,
        *front,
        "published_method",
        *(f"published_{name}" for name in metrics.compared()),
        *(f"published_change_{name}" for name in metrics.changed()),
        *GROUPS,
        *(name for name in measured if name not in front),
        *(f"change_{name}" for name in metrics.changed()),
        *(f"difference_{name}" for name in metrics.compared()),
        *(end for name in metrics.bounded_of_images() for end in metrics.METRICS[name].low_and_high),
        *PROVENANCE,
    )


@dataclass(frozen=True)
class Figure:
    """A drawing of a page, as SVG and as PNG; `about` says how to read it.

    `draw` draws it into an empty matplotlib figure of size `inches`, so that a caller can add its own frame. `encode`
    returns SVG and PNG. It is called only when a page shows the figure, because many readers of a table show none.
    """

    title: str
    about: str
    inches: tuple[float, float]
    draw: Callable[..., None] = field(compare=False, repr=False)
    encode: Callable[[], tuple[str, bytes]] = field(compare=False, repr=False)
    narrow_svg: str = ""
    """The drawing for a narrow screen, if the page shows another one there."""

    @cached_property
    def _encoded(self) -> tuple[str, bytes]:
        return self.encode()

    @property
    def svg(self) -> str:
        """The drawing as an SVG element for a page."""
        return self._encoded[0]

    @property
    def png(self) -> bytes:
        """The drawing as a PNG file."""
        return self._encoded[1]


@dataclass(frozen=True)
class Block:
    """Rows of one setting, form and scope. The full-precision row comes first.

    `one_print` is true if all printed numbers beside the rows come from one table of a paper, so that they can be
    ranked.
    """

    title: str
    about: str
    rows: tuple[Row, ...]
    one_print: bool = True


@dataclass(frozen=True)
class Table:
    """A table that is ready to be rendered.

    `paper_protocol` describes the paper's measurement; it is empty if no printed number stands beside ours. `metrics`
    are the columns of a page, and `front` are those that are shown before the reader asks for more. `extra` are columns
    that the CSV has besides `csv_columns`. If the columns are too many for one width, `parts` divides them into tables
    (title, metrics) below each other. `cover` is a figure above the headline. `summary` are the sentences at the top,
    `remarks` are further notes, and `problems` are further warnings.
    """

    name: str
    title: str
    profile: str
    face: str
    miniature: bool
    paper_protocol: str
    shows_bits: bool
    blocks: tuple[Block, ...]
    unmatched: tuple[str, ...] = ()
    metrics: tuple[str, ...] = field(default_factory=lambda: metrics.shown_on("paper"))
    extra: tuple[str, ...] = ()
    summary: tuple[str, ...] = ()
    answer: tuple[tuple[str, bool], ...] = ()
    """The first sentence of the summary in pieces (text, whether it is stressed); empty: all of it is stressed."""
    remarks: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    cover: Figure | None = None
    front: frozenset[str] = frozenset()
    problems: tuple[str, ...] = ()
    marks_best: bool = True
    shows_samples: bool = True
    samples_are: str = "image"
    parts: tuple[tuple[str, tuple[str, ...]], ...] = ()
    decides_at: str | None = None
    """Bits that the headline is about, for example W4A4; None: the papers' W4A8 where a block has it."""
    waiting: int = 0
    """Rows without a result that a partial page leaves out (`only_measured`)."""

    @property
    def portions(self) -> list[tuple[str, "Table"]]:
        """Pairs of a title and a table with the columns of one part. Without `parts`: the table itself."""
        if not self.parts:
            return [("", self)]
        return [(title, replace(self, metrics=names, parts=())) for title, names in self.parts]

    @property
    def rows(self) -> list[Row]:
        """The rows of all blocks, in order."""
        return [row for block in self.blocks for row in block.rows]

    @property
    def frame(self) -> pd.DataFrame:
        """Return a pandas data frame with one line per row; the columns are `csv_columns` and `extra`.

        An unknown cell is None.
        """
        names = (*csv_columns(), *self.extra)
        cells = [[row.get(name) for name in names] for row in self.rows]
        return pd.DataFrame(cells, columns=pd.Index(names), dtype=object)


def only_measured(table: Table) -> Table:
    """Return the table without rows that have no result yet; `waiting` counts them. Failed rows stay."""
    blocks = []
    for block in table.blocks:
        rows = tuple(row for row in block.rows if row["state"] not in (Status.MISSING, Status.NOT_RUN))
        blocks += [replace(block, rows=rows)] if any(map(is_measured, rows)) else []
    wanted = sum(row["state"] != Status.NOT_RUN for row in table.rows)
    return replace(table, blocks=tuple(blocks), waiting=wanted - sum(len(block.rows) for block in blocks))


def run_keys(profile: Mapping[str, Any], block: Mapping[str, Any]) -> list[Run]:
    """Return the runs of a block in the order of its rows: full precision once, then each method at each width."""
    known = profile["methods"]
    for label in block["methods"]:
        if label not in known:
            raise ConfigError(
                f"method {label!r} of a table is not among the profile's methods ({', '.join(known)})"
                f"{did_you_mean(label, known)}"
            )
    return block_runs(profile, block)


def make_row(
    profile: Mapping[str, Any], results: Path, key: Run, *, fitted: bool, published: PublishedRow | None
) -> Row:
    """Return the row of a run; `published` is the printed row whose numbers stand beside it.

    Method and options come from the run, or from the profile if the run is missing.
    """
    entry = profile["methods"][key.label]
    row: Row = {"method": entry["method"], "options": entry.get("options") or {}} | read_row(results, key, profile)
    option = row["options"].get("group_size")
    group_size = option if isinstance(option, int) else None
    log = read_log(key.folder(results))
    reconstruction = reconstruction_of(log.values)
    row |= {
        "group_size": group_size,
        "paper_group_size": paper_group_size(profile, group_size),
        "fitted": "fitted" if fitted else None,
        "name": readable_name(key.label, entry),
        "short": readable_name(key.label, entry),
        "key": key,
        "reconstruction": reconstruction,
        "rounded_to_nearest": log.silent_layers,
        "log_problem": log.problem,
        "reconstruction_iterations": reconstruction.iterations if reconstruction else None,
        "protocol_version": protocol_version(profile),
        "profile": profile["profile"],
        "face": face_of_setting(profile, key.setting),
    }
    return row | published_cells(published)


def published_cells(published: PublishedRow | None) -> Row:
    """Return the `published_*` cells from a printed row. A number that is not printed is None."""
    if published is None:
        return {}
    cells: Row = {f"published_{name}": published.get(name) for name in metrics.compared()}
    return cells | {"published_method": published.get("method", published.get("step"))}


def paper_group_size(profile: Mapping[str, Any], group_size: int | None) -> int | None:
    """Return the group size of the paper's model that corresponds to a group size of this profile."""
    if group_size is None:
        return None
    return GROUPS_IN_THE_PAPER.get(group_size) if is_miniature(profile) else group_size


def is_miniature(profile: Mapping[str, Any]) -> bool:
    """Return whether the profile is a miniature. Then the published numbers belong to other models and data."""
    return bool(profile.get("miniature"))


def with_differences(rows: list[Row]) -> tuple[Row, ...]:
    """Add cells: ours − published, and the differences of ours and of published to full precision (16/16 bits)."""
    full = next((row for row in rows if row["weight_bits"] == row["activation_bits"] == FULL_PRECISION_BITS), {})
    for row in rows:
        for name in metrics.compared():
            row[f"difference_{name}"] = _minus(row.get(name), row.get(f"published_{name}"))
        if row is not full:
            for name in metrics.changed():
                row[f"change_{name}"] = _minus(row.get(name), full.get(name))
                printed = f"published_{name}"
                row[f"published_change_{name}"] = _minus(row.get(printed), full.get(printed))
    return tuple(rows)


def _minus(a: float | None, b: float | None) -> float | None:
    """a − b without the digits that binary subtraction adds (5.34 − 5.31 is 0.03)."""
    return None if a is None or b is None else round(a - b, 10)


def fitted_labels(definition: Mapping[str, Any], block: Mapping[str, Any]) -> set[str]:
    """Return the labels of fitted rows, whose results were used to choose the salient form; the profile names them."""
    of_table = definition.get("fitted", ()) if block["form"] != "natural" else ()
    return {*of_table, *block.get("fitted", ())}


def group_text(row: Row) -> str:
    """Write the group size of a row with the corresponding size of the paper: `group size 16 (paper’s 128)`.

    A row whose sizes come from a search has no single size.
    """
    ours, paper = row["group_size"], row["paper_group_size"]
    if row.get("allocation_sha256") is not None:
        return "searched group sizes"
    return f"group size {ours}" if paper in (None, ours) else f"group size {ours} (paper’s {paper})"


def describe_setting(profile: Mapping[str, Any], block: Mapping[str, Any]) -> str:
    """Write a setting: `20 DDIM steps, guidance (cfg) 1.5`. The model is added if the profile has several."""
    setting = profile["settings"][block["setting"]]
    words = describe_protocol(setting["steps"], str(setting["sampler"]), setting["cfg_scale"])
    return words if len(profile["models"]) == 1 else f"{setting['model']}: {words}"


def describe_protocol(steps: int, sampler: str, cfg_scale: float) -> str:
    """Write steps, sampler and guidance for readers: `20 DDIM steps, guidance (cfg) 1.5`."""
    guidance = "no guidance" if cfg_scale == 1 else f"guidance (cfg) {cfg_scale:g}"
    name = sampler.upper() if sampler in ("ddim", "ddpm") else sampler.replace("-", " ")
    return f"{steps} {name} steps, {guidance}"


def is_measured(row: Row) -> bool:
    """Return whether the row has numbers."""
    return bool(row["state"] == Status.OK)


def is_missing(row: Row) -> bool:
    """Return whether the row should have numbers but has none: its run is missing, failed or unsupported."""
    return row["state"] not in (Status.OK, Status.NOT_RUN)


def samples_word(rows: Iterable[Row]) -> str:
    """Return what measured rows are made of: `image` or `clip`; `sample` if some are of images and some of clips."""
    of_clips = {row.get("prompts") is not None for row in rows if row.get("images") is not None}
    return "sample" if len(of_clips) == 2 else "clip" if True in of_clips else "image"


def is_full_precision(row: Row) -> bool:
    """Return whether the row is full precision: its method quantizes nothing."""
    return bool(row.get("method") == FULL_PRECISION_METHOD)
